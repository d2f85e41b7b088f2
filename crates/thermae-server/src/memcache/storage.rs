//! set and its kin, touch, delete, and counters.

use crate::attention::STORES;
use crate::counts::Count;
use crate::memcache::noting::{note_found, note_look_up, note_stored};
use crate::memcache::request::{BAD_CHUNK, BAD_FORMAT, Data, KEY_BYTES_MAX, Mode, Storage, TOO_LARGE};
use crate::memcache::turn::{Turn, key_of};
use crate::memcache::words::{Words, counter, signed, unsigned};
use std::sync::atomic::Ordering;
use thermae_core::{Condition, Current, ENCODING_INTEGER, Error, RecordMeta, SetOptions, SetOutcome, Update};

/// The error for a value that is no counter.
pub const NOT_A_COUNTER: &str = "CLIENT_ERROR cannot increment or decrement non-numeric value";

/// What became of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Stored, as this version.
    Stored(u64),
    /// The condition did not hold.
    NotStored,
    /// It has another version.
    Exists,
    /// There is nothing to compare with.
    NotFound,
}

/// How those who watch are told what became of a value; `None`: memcached has no word for it.
fn status_of(outcome: &Result<Outcome, Error>) -> Option<&'static str> {
    match outcome {
        Ok(Outcome::Stored(_)) => Some("stored"),
        Ok(Outcome::NotStored) => Some("not_stored"),
        Ok(Outcome::Exists) => Some("exists"),
        Ok(Outcome::NotFound) => Some("not_found"),
        Err(Error::ValueTooLarge(_)) => Some("too_large"),
        Err(Error::Full(_)) => Some("no_memory"),
        Err(_) => None,
    }
}

/// What becomes of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Changed.
    To {
        /// The number that it has now.
        number: u64,
        /// What was known of it before.
        before: RecordMeta,
        /// What is known of it now, but for the length of its value.
        after: RecordMeta,
    },
    /// There is none.
    NotFound,
    /// Its value is no number.
    NotANumber,
    /// It has another version.
    Exists,
}

/// How a counter is changed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counting {
    /// By how much.
    pub delta: u64,
    /// Downwards, to 0 at most.
    pub is_down: bool,
    /// Only where the counter has this version.
    pub version: Option<u64>,
    /// The expiry that it gets, if it gets another (store clock).
    pub expires_at_ms: Option<u64>,
}

/// set, add, replace, append, prepend, cas.
#[inline]
pub fn store(turn: &mut Turn<'_>, storage: Storage<'_>) {
    let text = match storage.data {
        Data::Whole(data) => {
            let key = key_of(storage.key);
            let options = SetOptions {
                expires_at_ms: turn.expires_at_ms(storage.expiry),
                flags: storage.flags,
                ..SetOptions::default()
            };
            note_look_up(turn, &key);
            let outcome = store_as(turn, storage.mode, &key, data, options);
            note_outcome(turn, &key, storage.mode, &outcome, data, options);
            match outcome {
                Ok(Outcome::Stored(_)) => "STORED",
                Ok(Outcome::NotStored) => "NOT_STORED",
                Ok(Outcome::Exists) => "EXISTS",
                Ok(Outcome::NotFound) => "NOT_FOUND",
                Err(error) => {
                    if storage.mode == Mode::Set {
                        lose(turn, &key);
                    }
                    let text = turn.failure(&error);
                    return turn.line_unless(storage.is_silent, &text);
                }
            }
        }
        Data::WrongEnd => BAD_CHUNK,
        Data::TooLarge => {
            turn.tally.add(Count::StoreTooLarge);
            let key = key_of(storage.key);
            note_stored(turn, &key, storage.mode, "too_large", None, turn.expires_at_ms(storage.expiry));
            if storage.mode == Mode::Set {
                lose(turn, &key);
            }
            TOO_LARGE
        }
    };
    turn.line_unless(storage.is_silent, text);
}

/// Deletes a key, as the store has it, whose old value must not stay, since the new one can't be stored: who set it would read what it has replaced.
pub fn lose(turn: &mut Turn<'_>, key: &[u8]) {
    note_look_up(turn, key);
    // Whoever could not store is told so; that the old value can't be deleted either changes nothing about that.
    let _ = turn.delete(key);
}

/// Notes what became of a value, for those who watch.
#[inline]
pub fn note_outcome(
    turn: &mut Turn<'_>,
    key: &[u8],
    mode: Mode,
    outcome: &Result<Outcome, Error>,
    data: &[u8],
    options: SetOptions,
) {
    if turn.events.wants(STORES)
        && let Some(status) = status_of(outcome)
    {
        let bytes = if outcome.is_ok() { Some(data.len()) } else { None };
        note_stored(turn, key, mode, status, bytes, options.expires_at_ms);
    }
}

/// Stores a value in one of the ways there are.
///
/// # Errors
/// Those of the store.
pub fn store_as(
    turn: &mut Turn<'_>,
    mode: Mode,
    key: &[u8],
    data: &[u8],
    options: SetOptions,
) -> Result<Outcome, Error> {
    turn.tally.add(Count::Sets);
    let condition = match mode {
        Mode::Set => Condition::Always,
        Mode::Add => Condition::IfAbsent,
        Mode::Replace => Condition::IfPresent,
        Mode::Cas(version) => return store_if_version(turn, version, key, data, options),
        Mode::Append => return join(turn, key, data, false, None),
        Mode::Prepend => return join(turn, key, data, true, None),
    };
    match turn.store().set(key, data, &SetOptions { condition, ..options })? {
        SetOutcome::Stored(version) => {
            turn.stored(key, version, options.expires_at_ms);
            Ok(Outcome::Stored(version))
        }
        SetOutcome::NotStored => Ok(Outcome::NotStored),
    }
}

/// Stores a value where the key has this version.
///
/// # Errors
/// Those of the store.
pub fn store_if_version(
    turn: &mut Turn<'_>,
    version: u64,
    key: &[u8],
    data: &[u8],
    options: SetOptions,
) -> Result<Outcome, Error> {
    // To the store, version 0 is that of an absent key.
    if version != 0 {
        let condition = Condition::IfVersion(version);
        if let SetOutcome::Stored(version) =
            turn.store().set(key, data, &SetOptions { condition, ..options })?
        {
            turn.tally.add(Count::CasHits);
            turn.stored(key, version, options.expires_at_ms);
            return Ok(Outcome::Stored(version));
        }
    }
    let is_present = turn.store().meta(key)?.is_some();
    turn.tally.choose(is_present, Count::CasBadValue, Count::CasMisses);
    Ok(if is_present { Outcome::Exists } else { Outcome::NotFound })
}

/// Adds data to a value, if it has this version, where one is given.
///
/// # Errors
/// Those of the store.
pub fn join(
    turn: &mut Turn<'_>,
    key: &[u8],
    data: &[u8],
    in_front: bool,
    version: Option<u64>,
) -> Result<Outcome, Error> {
    let value_bytes_max = turn.shared.memcached_value_bytes_max.load(Ordering::Relaxed);
    let mut outcome = Outcome::NotStored;
    let stored = turn.store().update(key, &mut |current| {
        outcome = Outcome::NotStored;
        let Some(Current { meta, value }) = current else { return Ok(Update::Keep) };
        if version.is_some_and(|version| version != meta.version) {
            outcome = Outcome::Exists;
            return Ok(Update::Keep);
        }
        if (value.len() + data.len()) as u64 > value_bytes_max {
            return Ok(Update::Keep);
        }
        let value = if in_front { [data, value].concat() } else { [value, data].concat() };
        Ok(Update::Set { value, encoding: 0, expires_at_ms: meta.expires_at_ms, flags: meta.flags })
    })?;
    if let Some(version) = stored {
        // It keeps its expiry, which is nothing to be told.
        turn.stored(key, version, 0);
        outcome = Outcome::Stored(version);
    }
    Ok(outcome)
}

/// incr and decr.
pub fn count(turn: &mut Turn<'_>, words: Words<'_>, is_down: bool) {
    let Some([key, delta]) = words.take_exactly::<2>(1) else { return turn.line("ERROR") };
    let is_silent = words.end_with_noreply();
    if key.len() > KEY_BYTES_MAX {
        return turn.line_unless(is_silent, BAD_FORMAT);
    }
    let Some(delta) = unsigned(delta) else {
        return turn.line_unless(is_silent, "CLIENT_ERROR invalid numeric delta argument");
    };
    let counting = Counting { delta, is_down, ..Counting::default() };
    let key = key_of(key);
    note_look_up(turn, &key);
    match count_as(turn, &key, counting) {
        Ok(Counted::To { .. }) if is_silent => {}
        Ok(Counted::To { number, .. }) => {
            turn.number(number);
            turn.line("");
        }
        Ok(Counted::NotFound | Counted::Exists) => turn.line_unless(is_silent, "NOT_FOUND"),
        Ok(Counted::NotANumber) => turn.line_unless(is_silent, NOT_A_COUNTER),
        Err(error) => {
            let text = turn.failure(&error);
            turn.line_unless(is_silent, &text);
        }
    }
}

/// Changes a counter. Its value is written as the digits of the number and no more, where memcached may leave blanks behind them, so that Redis
/// clients can count on with it; and as an integer, where Python can take it as one.
///
/// # Errors
/// Those of the store.
pub fn count_as(turn: &mut Turn<'_>, key: &[u8], counting: Counting) -> Result<Counted, Error> {
    let Counting { delta, is_down, version, expires_at_ms } = counting;
    let mut counted = Counted::NotFound;
    let stored = turn.store().update(key, &mut |current| {
        counted = Counted::NotFound;
        let Some(Current { meta, value }) = current else { return Ok(Update::Keep) };
        if version.is_some_and(|version| version != meta.version) {
            counted = Counted::Exists;
            return Ok(Update::Keep);
        }
        let Some(number) = counter(value) else {
            counted = Counted::NotANumber;
            return Ok(Update::Keep);
        };
        let number = if is_down { number.saturating_sub(delta) } else { number.wrapping_add(delta) };
        let encoding = counter_encoding(number);
        let expires_at_ms = expires_at_ms.unwrap_or(meta.expires_at_ms);
        counted = Counted::To { number, before: meta, after: RecordMeta { expires_at_ms, ..meta } };
        Ok(Update::Set { value: number.to_string().into_bytes(), encoding, expires_at_ms, flags: meta.flags })
    })?;
    if let (Some(version), Counted::To { before, after, .. }) = (stored, &mut counted) {
        after.version = version;
        turn.changed(key);
        turn.note("set", key);
        if expires_at_ms.is_some_and(|expires_at_ms| expires_at_ms != 0) {
            turn.note("expire", key);
        }
        // Counting makes nothing fresh that is stale.
        turn.marks().carry(key, before.version, version);
    }
    let hit = matches!(counted, Counted::To { .. });
    if is_down {
        turn.tally.choose(hit, Count::DecrHits, Count::DecrMisses);
    } else {
        turn.tally.choose(hit, Count::IncrHits, Count::IncrMisses);
    }
    Ok(counted)
}

/// How the digits of a number are marked: as an integer, if it is one of 64 bits with a sign.
pub fn counter_encoding(number: u64) -> u8 {
    if i64::try_from(number).is_ok() { ENCODING_INTEGER } else { 0 }
}

/// touch.
pub fn touch(turn: &mut Turn<'_>, words: Words<'_>) {
    let Some([key, expiry]) = words.take_exactly::<2>(1) else { return turn.line("ERROR") };
    let is_silent = words.end_with_noreply();
    if key.len() > KEY_BYTES_MAX {
        return turn.line_unless(is_silent, BAD_FORMAT);
    }
    let Some(expiry) = signed(expiry) else {
        return turn.line_unless(is_silent, "CLIENT_ERROR invalid exptime argument");
    };
    let key = key_of(key);
    turn.tally.add(Count::Touches);
    match turn.touch(&key, expiry) {
        Ok(touched) => {
            turn.tally.choose(touched.is_some(), Count::TouchHits, Count::TouchMisses);
            note_found(turn, &key, touched.as_ref());
            if let Some(meta) = touched {
                turn.read(&key, meta.version);
            }
            turn.line_unless(is_silent, if touched.is_some() { "TOUCHED" } else { "NOT_FOUND" });
        }
        Err(error) => {
            let text = turn.failure(&error);
            turn.line_unless(is_silent, &text);
        }
    }
}

/// delete. A time to wait may be given, as it could be once, but only 0.
pub fn delete(turn: &mut Turn<'_>, words: Words<'_>) {
    let Some([key]) = words.take_exactly::<1>(2) else { return turn.line("ERROR") };
    let mut more = words;
    more.next();
    let is_silent = more.end_with_noreply();
    let more: Vec<&[u8]> = more.collect();
    if !matches!(more[..], [] | [b"0" | b"noreply"] | [b"0", b"noreply"]) {
        let usage = "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]";
        return turn.line_unless(is_silent, usage);
    }
    if key.len() > KEY_BYTES_MAX {
        return turn.line_unless(is_silent, BAD_FORMAT);
    }
    let key = key_of(key);
    note_look_up(turn, &key);
    let text = match turn.delete(&key) {
        Ok(was_present) => {
            turn.tally.choose(was_present, Count::DeleteHits, Count::DeleteMisses);
            if was_present { "DELETED" } else { "NOT_FOUND" }
        }
        Err(error) => &turn.failure(&error),
    };
    turn.line_unless(is_silent, text);
}
