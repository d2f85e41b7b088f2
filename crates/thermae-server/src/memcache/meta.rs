//! The meta commands: mg, ms, md, ma, me, mn.

use crate::counts::Count;
use crate::marks::{Reads, Standing};
use crate::memcache::base64::decode;
use crate::memcache::flags::{Flags, TOO_MANY};
use crate::memcache::noting::{note_found, note_look_up, note_stored};
use crate::memcache::request::{BAD_CHUNK, BAD_FORMAT, Data, KEY_BYTES_MAX, Mode, TOO_LARGE};
use crate::memcache::retrieval::copy_value;
use crate::memcache::storage::{
    Counted, Counting, NOT_A_COUNTER, Outcome, count_as, counter_encoding, join, lose, note_outcome,
    store_as, store_if_version,
};
use crate::memcache::turn::{Turn, key_of};
use crate::memcache::words::{Words, push_number};
use std::borrow::Cow;
use thermae_core::{Condition, Current, Error, RecordMeta, SetOptions, SetOutcome, Update};

/// Times that what others were faster with is tried again.
const ATTEMPTS_MAX: usize = 1000;
/// The error of md and ma for all that is wrong with flags.
const INVALID_FLAG: &str = "CLIENT_ERROR invalid or duplicate flag";
/// The error for a key that is no base64.
const BAD_BASE64: &str = "CLIENT_ERROR error decoding key";

/// A command's key and flags.
#[derive(Debug)]
struct Asked<'a> {
    /// As it was sent, and is answered.
    sent: &'a [u8],
    /// As the store has it.
    key: Cow<'a, [u8]>,
    flags: Flags<'a>,
}

/// Seconds that an item has left, `None` being without end, as the flags are heeded one after the other.
#[derive(Debug, Clone, Copy, Default)]
struct SecondsLeft {
    before: Option<u64>,
    after_touch: Option<u64>,
    after_making: Option<u64>,
}

impl SecondsLeft {
    /// Of an item that was like this before a command and is like that after it, or was made by it.
    fn new(turn: &Turn<'_>, flags: &Flags<'_>, before: RecordMeta, after: RecordMeta, is_new: bool) -> Self {
        let of = |meta: RecordMeta| seconds_left(meta.expires_at_ms, turn.now_ms);
        if !is_new {
            return Self { before: of(before), after_touch: of(after), after_making: None };
        }
        let given = |expiry: Option<i64>| seconds_left(turn.expires_at_ms(expiry?), turn.now_ms);
        Self { before: None, after_touch: given(flags.expiry), after_making: given(flags.vivify) }
    }

    /// Of an item whose expiry no flag changes.
    fn always(left: Option<u64>) -> Self {
        Self { before: left, after_touch: left, after_making: left }
    }
}

/// What a command answers by its flags.
#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    meta: RecordMeta,
    reads: Reads,
    /// It was made by this command.
    is_new: bool,
    /// Seconds left before its flags T and N, and after each of them.
    seconds_left: SecondsLeft,
}

impl<'a> Asked<'a> {
    /// The key and flags of mg, md and ma.
    fn parse(words: Words<'a>, too_many: &'static str) -> Result<Self, &'static str> {
        let mut rest = words;
        let sent = rest.next().ok_or("ERROR")?;
        if sent.len() > KEY_BYTES_MAX {
            return Err(BAD_FORMAT);
        }
        if Flags::are_too_many(words, 1) {
            return Err(too_many);
        }
        Self::new(sent, Flags::parse(rest)?)
    }

    fn new(sent: &'a [u8], flags: Flags<'a>) -> Result<Self, &'static str> {
        let key = if flags.has(b'b') {
            Cow::Owned(key_of(&decode(sent).ok_or(BAD_BASE64)?).into_owned())
        } else {
            key_of(sent)
        };
        Ok(Self { sent, key, flags })
    }

    /// Appends what is answered by those flags that are among `letters`.
    fn push_flags(&self, output: &mut Vec<u8>, letters: &[u8], facts: &Facts) {
        let mut seconds_left = facts.seconds_left.before;
        for word in self.flags.words() {
            let letter = word[0];
            match letter {
                b'T' => seconds_left = facts.seconds_left.after_touch,
                b'N' if facts.is_new => seconds_left = facts.seconds_left.after_making,
                _ => {}
            }
            if !letters.contains(&letter) {
                continue;
            }
            output.push(b' ');
            let number = match letter {
                b'O' => {
                    output.extend_from_slice(word);
                    continue;
                }
                b'k' => {
                    output.push(b'k');
                    output.extend_from_slice(self.sent);
                    output.extend_from_slice(if self.flags.has(b'b') { b" b" } else { b"" });
                    continue;
                }
                b't' if seconds_left.is_none() => {
                    output.extend_from_slice(b"t-1");
                    continue;
                }
                b't' => seconds_left.unwrap_or_default(),
                b'c' => facts.meta.version,
                b'f' => u64::from(facts.meta.flags),
                b's' => facts.meta.value_len,
                b'h' => u64::from(facts.reads.was_read),
                _ => facts.reads.idle_seconds,
            };
            output.push(letter);
            push_number(output, number);
        }
    }

    /// Appends the line that mg answers for an item.
    fn push_item(&self, output: &mut Vec<u8>, facts: &Facts, standing: Standing) {
        if self.flags.has(b'v') {
            output.extend_from_slice(b"VA ");
            push_number(output, facts.meta.value_len);
        } else {
            output.extend_from_slice(b"HD");
        }
        self.push_flags(output, b"kOtcfshl", facts);
        for (holds, mark) in [(standing.was_won, b" Z"), (standing.is_stale, b" X"), (standing.wins, b" W")] {
            output.extend_from_slice(if holds { mark } else { b"" });
        }
        output.extend_from_slice(b"\r\n");
    }

    /// Answers with a code and what the flags ask for.
    fn answer(&self, turn: &mut Turn<'_>, code: &str, letters: &[u8], facts: &Facts) {
        turn.output.extend_from_slice(code.as_bytes());
        self.push_flags(turn.output, letters, facts);
        turn.line("");
    }
}

/// mg.
pub fn get(turn: &mut Turn<'_>, words: Words<'_>) {
    turn.tally.add(Count::Metas);
    let asked = match Asked::parse(words, "CLIENT_ERROR options flags are too long") {
        Ok(asked) => asked,
        Err(text) => return turn.line(text),
    };
    turn.marks().note_reads();
    turn.tally.add(Count::Gets);
    let flags = &asked.flags;
    let is_plain = flags.vivify.is_none() && flags.recache.is_none() && flags.expiry.is_none();
    let found = if is_plain && !turn.marks().may_have(&asked.key) {
        get_plainly(turn, &asked)
    } else {
        get_changing(turn, &asked)
    };
    match found {
        Ok(Some(version)) => {
            turn.tally.add(Count::GetHits);
            if !flags.has(b'u') {
                turn.read(&asked.key, version);
            }
        }
        Ok(None) => {
            turn.tally.add(Count::GetMisses);
            if !flags.has(b'q') {
                asked.answer(turn, "EN", b"kO", &Facts::default());
            }
        }
        Err(error) => {
            let text = turn.failure(&error);
            turn.line(&text);
        }
    }
}

/// Whether mg, behind whose name these words stand, changes what is stored: it gives another expiry, or makes what is missing.
pub fn get_writes(words: Words<'_>) -> bool {
    words.skip(1).any(|flag| matches!(flag.first(), Some(b'T' | b'N')))
}

/// Answers with an item that nothing is known of but what its record says. Returns its version.
fn get_plainly(turn: &mut Turn<'_>, asked: &Asked<'_>) -> Result<Option<u64>, Error> {
    let (marks, now_ms, now_seconds) = (turn.marks(), turn.now_ms, turn.now_seconds());
    let wants_reads = asked.flags.has(b'h') || asked.flags.has(b'l');
    let push = |output: &mut Vec<u8>, meta: &RecordMeta| {
        let reads =
            if wants_reads { marks.reads(&asked.key, meta.version, now_seconds) } else { Reads::default() };
        let seconds_left = SecondsLeft::always(seconds_left(meta.expires_at_ms, now_ms));
        let facts = Facts { meta: *meta, reads, seconds_left, ..Facts::default() };
        asked.push_item(output, &facts, Standing::default());
    };
    let found = if asked.flags.has(b'v') {
        copy_value(turn, &asked.key, push)?
    } else {
        let found = turn.store().meta(&asked.key)?;
        if let Some(meta) = &found {
            push(turn.output, meta);
        }
        found
    };
    note_found(turn, &asked.key, found.as_ref());
    Ok(found.map(|meta| meta.version))
}

/// Seconds that are left, begun ones included; `None` = without end.
fn seconds_left(expires_at_ms: u64, now_ms: u64) -> Option<u64> {
    (expires_at_ms != 0).then(|| expires_at_ms.saturating_sub(now_ms).div_ceil(1000))
}

/// Answers with an item after what the flags want was done with it, or that others did is known of it. Returns its version.
fn get_changing(turn: &mut Turn<'_>, asked: &Asked<'_>) -> Result<Option<u64>, Error> {
    let (key, flags) = (&asked.key, &asked.flags);
    note_look_up(turn, key);
    for _ in 0..ATTEMPTS_MAX {
        let found = if flags.has(b'v') {
            turn.store().get(key)?
        } else {
            turn.store().meta(key)?.map(|meta| (meta, Vec::new()))
        };
        let (before, value, is_new) = match found {
            Some((meta, value)) => (meta, value, false),
            None => match flags.expiry_when_made() {
                None => return Ok(None),
                Some(expiry) => match make(turn, key, b"", expiry, 0)? {
                    Some(meta) => (meta, Vec::new(), true),
                    None => continue,
                },
            },
        };
        let after = match flags.expiry {
            None => before,
            Some(_) if is_new => {
                turn.tally.add(Count::TouchHits);
                before
            }
            Some(expiry) => {
                let expires_at_ms = turn.expires_at_ms(expiry);
                let touched =
                    turn.touch_if(key, Some(expires_at_ms), |meta| meta.version == before.version)?;
                turn.tally.choose(touched.is_some(), Count::TouchHits, Count::TouchMisses);
                let Some(Some(after)) = touched else { continue };
                after
            }
        };
        let left = SecondsLeft::new(turn, flags, before, after, is_new);
        let left_at_last = seconds_left(after.expires_at_ms, turn.now_ms);
        let is_ending =
            matches!((left_at_last, flags.recache), (Some(left), Some(recache)) if (left as i64) < recache);
        let (standing, displaced) = turn.marks().standing(key, after.version, is_new || is_ending);
        turn.displace(displaced)?;
        let reads = turn.marks().reads(key, before.version, turn.now_seconds());
        asked.push_item(turn.output, &Facts { meta: after, reads, is_new, seconds_left: left }, standing);
        if flags.has(b'v') {
            turn.output.extend_from_slice(&value);
            turn.line("");
        }
        return Ok(Some(after.version));
    }
    Ok(None)
}

/// Makes an item where there is none; `None` where there is one.
fn make(
    turn: &mut Turn<'_>,
    key: &[u8],
    value: &[u8],
    expiry: i64,
    encoding: u8,
) -> Result<Option<RecordMeta>, Error> {
    let expires_at_ms = turn.expires_at_ms(expiry);
    let options =
        SetOptions { encoding, expires_at_ms, condition: Condition::IfAbsent, ..SetOptions::default() };
    match turn.store().set(key, value, &options)? {
        SetOutcome::NotStored => Ok(None),
        SetOutcome::Stored(version) => {
            turn.stored(key, version, expires_at_ms);
            let value_len = value.len() as u64;
            Ok(Some(RecordMeta { version, encoding, expires_at_ms, value_len, ..RecordMeta::default() }))
        }
    }
}

/// ms.
pub fn set(turn: &mut Turn<'_>, sent: &[u8], words: Words<'_>, data: Data<'_>) {
    turn.tally.add(Count::Metas);
    let asked = match Flags::parse(words).and_then(|flags| Asked::new(sent, flags)) {
        Ok(asked) => asked,
        Err(text) => return turn.line(text),
    };
    let mode = match asked.flags.mode {
        None | Some(b'S') => Mode::Set,
        Some(b'E') => Mode::Add,
        Some(b'A') => Mode::Append,
        Some(b'P') => Mode::Prepend,
        Some(b'R') => Mode::Replace,
        Some(_) => return turn.line("CLIENT_ERROR invalid mode for ms M token"),
    };
    let data = match data {
        Data::Whole(data) => data,
        Data::WrongEnd => return turn.line(BAD_CHUNK),
        Data::TooLarge => {
            turn.tally.add(Count::StoreTooLarge);
            let expires_at_ms = turn.expires_at_ms(asked.flags.expiry.unwrap_or(0));
            note_stored(turn, &asked.key, mode, "too_large", None, expires_at_ms);
            lose(turn, &asked.key);
            return turn.line(TOO_LARGE);
        }
    };
    match set_as(turn, &asked, mode, data) {
        Ok(Outcome::Stored(_)) if asked.flags.has(b'q') => {}
        Ok(outcome) => {
            let (code, version) = match outcome {
                Outcome::Stored(version) => ("HD", version),
                Outcome::NotStored => ("NS", 0),
                Outcome::Exists => ("EX", 0),
                Outcome::NotFound => ("NF", 0),
            };
            let meta = RecordMeta { version, ..RecordMeta::default() };
            asked.answer(turn, code, b"kOc", &Facts { meta, ..Facts::default() });
        }
        Err(error) => {
            if mode == Mode::Set {
                lose(turn, &asked.key);
            }
            let text = turn.failure(&error);
            turn.line(&text);
        }
    }
}

fn set_as(turn: &mut Turn<'_>, asked: &Asked<'_>, mode: Mode, data: &[u8]) -> Result<Outcome, Error> {
    let (key, flags) = (&*asked.key, &asked.flags);
    let options = SetOptions {
        expires_at_ms: turn.expires_at_ms(flags.expiry.unwrap_or(0)),
        flags: flags.client_flags,
        ..SetOptions::default()
    };
    note_look_up(turn, key);
    // That the mode is one which a CAS value decides is what memcached notes of it.
    let mode = match (mode, flags.cas) {
        (Mode::Set | Mode::Replace, Some(cas)) => Mode::Cas(cas),
        (mode, _) => mode,
    };
    let outcome = match (mode, flags.cas) {
        (Mode::Append | Mode::Prepend, Some(cas)) => {
            turn.tally.add(Count::Sets);
            join(turn, key, data, mode == Mode::Prepend, Some(cas))
        }
        (Mode::Cas(cas), _) => {
            turn.tally.add(Count::Sets);
            match store_if_version(turn, cas, key, data, options) {
                Ok(Outcome::Exists) if flags.has(b'I') => set_stale(turn, cas, key, data, options),
                outcome => outcome,
            }
        }
        _ => store_as(turn, mode, key, data, options),
    };
    note_outcome(turn, key, mode, &outcome, data, options);
    outcome
}

/// Stores a value that was made from an older version than there is, marked as stale.
fn set_stale(
    turn: &mut Turn<'_>,
    cas: u64,
    key: &[u8],
    data: &[u8],
    options: SetOptions,
) -> Result<Outcome, Error> {
    for _ in 0..ATTEMPTS_MAX {
        let Some(present) = turn.store().meta(key)? else { return Ok(Outcome::NotFound) };
        if cas >= present.version {
            return Ok(Outcome::Exists);
        }
        let condition = Condition::IfVersion(present.version);
        let mut outcome = SetOutcome::NotStored;
        let displaced = turn.marks().make_stale(key, || {
            outcome = turn.store().set(key, data, &SetOptions { condition, ..options })?;
            Ok::<_, Error>(match outcome {
                SetOutcome::Stored(version) => Some((version, Some(present.version))),
                SetOutcome::NotStored => None,
            })
        })?;
        if let SetOutcome::Stored(version) = outcome {
            turn.stored(key, version, options.expires_at_ms);
            turn.displace(displaced)?;
            return Ok(Outcome::Stored(version));
        }
    }
    Ok(Outcome::Exists)
}

/// md.
pub fn delete(turn: &mut Turn<'_>, words: Words<'_>) {
    turn.tally.add(Count::Metas);
    let Some(asked) = parse_or_refuse(turn, words) else { return };
    note_look_up(turn, &asked.key);
    let outcome = if asked.flags.has(b'I') { invalidate(turn, &asked) } else { remove(turn, &asked) };
    match outcome {
        Ok(Outcome::Stored(_)) if asked.flags.has(b'q') => {}
        Ok(outcome) => {
            let code = match outcome {
                Outcome::Stored(_) => "HD",
                Outcome::Exists => "EX",
                Outcome::NotFound | Outcome::NotStored => "NF",
            };
            asked.answer(turn, code, b"kO", &Facts::default());
        }
        Err(error) => {
            let text = turn.failure(&error);
            turn.line(&text);
        }
    }
}

/// What md and ma ask for; they call all that is wrong with flags the same.
fn parse_or_refuse<'a>(turn: &mut Turn<'_>, words: Words<'a>) -> Option<Asked<'a>> {
    match Asked::parse(words, TOO_MANY) {
        Ok(asked) => Some(asked),
        Err(text) => {
            turn.line(if ["ERROR", BAD_FORMAT, TOO_MANY].contains(&text) { text } else { INVALID_FLAG });
            None
        }
    }
}

/// Marks an item as stale.
fn invalidate(turn: &mut Turn<'_>, asked: &Asked<'_>) -> Result<Outcome, Error> {
    let cas = asked.flags.cas;
    let expires_at_ms = asked.flags.expiry.map(|expiry| turn.expires_at_ms(expiry));
    let agrees = |meta: &RecordMeta| cas.is_none_or(|cas| cas == meta.version);
    let mut outcome = Outcome::NotFound;
    let displaced = turn.marks().make_stale(&asked.key, || {
        let renewed = turn.renew_if(&asked.key, expires_at_ms, agrees)?;
        outcome = match renewed {
            None => Outcome::NotFound,
            Some(None) => Outcome::Exists,
            Some(Some((_, after))) => Outcome::Stored(after.version),
        };
        Ok::<_, Error>(renewed.flatten().map(|(_, after)| (after.version, None)))
    })?;
    turn.displace(displaced)?;
    Ok(outcome)
}

/// Deletes an item.
fn remove(turn: &mut Turn<'_>, asked: &Asked<'_>) -> Result<Outcome, Error> {
    let mut outcome = Outcome::NotFound;
    match asked.flags.cas {
        None if turn.delete(&asked.key)? => outcome = Outcome::Stored(0),
        None => {}
        Some(cas) => {
            turn.store().update(&asked.key, &mut |current: Option<Current<'_>>| {
                let (found, update) = match current {
                    None => (Outcome::NotFound, Update::Keep),
                    Some(current) if current.meta.version == cas => (Outcome::Stored(0), Update::Delete),
                    Some(_) => (Outcome::Exists, Update::Keep),
                };
                outcome = found;
                Ok(update)
            })?;
            if matches!(outcome, Outcome::Stored(_)) {
                turn.marks().forget_through(&asked.key, cas);
                turn.changed(&asked.key);
                turn.note("del", &asked.key);
            }
        }
    }
    let is_deleted = matches!(outcome, Outcome::Stored(_));
    turn.tally.choose(is_deleted, Count::DeleteHits, Count::DeleteMisses);
    Ok(outcome)
}

/// ma.
pub fn count(turn: &mut Turn<'_>, words: Words<'_>) {
    turn.tally.add(Count::Metas);
    let Some(asked) = parse_or_refuse(turn, words) else { return };
    let is_down = match asked.flags.mode {
        None | Some(b'I' | b'+') => false,
        Some(b'D' | b'-') => true,
        Some(_) => return turn.line("CLIENT_ERROR invalid mode for ma M token"),
    };
    if let Err(error) = count_or_make(turn, &asked, is_down) {
        let text = turn.failure(&error);
        turn.line(&text);
    }
}

fn count_or_make(turn: &mut Turn<'_>, asked: &Asked<'_>, is_down: bool) -> Result<(), Error> {
    let flags = &asked.flags;
    let counting = Counting {
        delta: flags.delta,
        is_down,
        // To memcached, 0 is no CAS value here.
        version: flags.cas.filter(|&cas| cas != 0),
        expires_at_ms: flags.expiry.map(|expiry| turn.expires_at_ms(expiry)),
    };
    note_look_up(turn, &asked.key);
    for _ in 0..ATTEMPTS_MAX {
        match (count_as(turn, &asked.key, counting)?, flags.expiry_when_made()) {
            (Counted::To { .. }, _) if flags.has(b'q') => {}
            (Counted::To { number, before, after }, _) => {
                answer_number(turn, asked, number, [before, after], false);
            }
            (Counted::Exists, _) => asked.answer(turn, "EX", b"kO", &Facts::default()),
            (Counted::NotANumber, _) => turn.line(NOT_A_COUNTER),
            (Counted::NotFound, None) => asked.answer(turn, "NF", b"kO", &Facts::default()),
            (Counted::NotFound, Some(expiry)) => {
                let number = flags.initial;
                let digits = number.to_string();
                let made = make(turn, &asked.key, digits.as_bytes(), expiry, counter_encoding(number))?;
                let Some(meta) = made else { continue };
                // memcached looks once more whether it is there.
                note_found(turn, &asked.key, None);
                let bytes = Some(digits.len());
                note_stored(turn, &asked.key, Mode::Add, "stored", bytes, meta.expires_at_ms);
                answer_number(turn, asked, number, [meta; 2], true);
            }
        }
        return Ok(());
    }
    asked.answer(turn, "NS", b"kO", &Facts::default());
    Ok(())
}

fn answer_number(
    turn: &mut Turn<'_>,
    asked: &Asked<'_>,
    number: u64,
    [before, after]: [RecordMeta; 2],
    is_new: bool,
) {
    let seconds_left = SecondsLeft::new(turn, &asked.flags, before, after, is_new);
    let facts = Facts { meta: after, is_new, seconds_left, ..Facts::default() };
    if !asked.flags.has(b'v') {
        return asked.answer(turn, "HD", b"kOct", &facts);
    }
    let digits = number.to_string();
    asked.answer(turn, &format!("VA {}", digits.len()), b"kOct", &facts);
    turn.line(&digits);
}

/// me: what is known of an item, for people to read.
pub fn debug(turn: &mut Turn<'_>, words: Words<'_>) {
    turn.tally.add(Count::Metas);
    let mut rest = words;
    let Some(sent) = rest.next().filter(|sent| sent.len() <= KEY_BYTES_MAX) else {
        return turn.line(BAD_FORMAT);
    };
    let key = if rest.next() == Some(b"b") {
        match decode(sent) {
            Some(key) => Cow::Owned(key_of(&key).into_owned()),
            None => return turn.line(BAD_BASE64),
        }
    } else {
        key_of(sent)
    };
    turn.marks().note_reads();
    let found = turn.store().meta(&key);
    if let Ok(found) = &found {
        note_found(turn, &key, found.as_ref());
    }
    match found {
        Ok(None) => turn.line("EN"),
        Ok(Some(meta)) => {
            let reads = turn.marks().reads(&key, meta.version, turn.now_seconds());
            // A time that is left is negative, as memcached has it.
            let left = seconds_left(meta.expires_at_ms, turn.now_ms).unwrap_or(1);
            let size = key.len() as u64 + meta.value_len;
            turn.output.extend_from_slice(b"ME ");
            turn.output.extend_from_slice(sent);
            turn.line(&format!(
                " exp=-{left} la={} cas={} fetch={} cls=1 size={size}",
                reads.idle_seconds,
                meta.version,
                if reads.was_read { "yes" } else { "no" },
            ));
        }
        Err(error) => {
            let text = turn.failure(&error);
            turn.line(&text);
        }
    }
}
