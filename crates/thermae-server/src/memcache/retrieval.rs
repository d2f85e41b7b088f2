//! get, gets, gat, gats: values copied once, from where they are stored to where the answer is.
//!
//! A list of keys may be long and its values large, so it is answered in parts: once there is enough output, the rest of the list waits, like all
//! else that the client sent, until the client has taken some of it; and after so many keys, until others have had their turn.

use crate::counts::Count;
use crate::memcache::noting::note_found;
use crate::memcache::request::{BAD_FORMAT, KEY_BYTES_MAX, Retrieval};
use crate::memcache::turn::{Turn, key_of};
use crate::memcache::words::{Words, push_number, signed};
use thermae_core::{Error, RecordMeta};

/// Keys looked at together, so that their cache misses overlap.
const BATCH_KEYS: usize = 32;

/// What is done with the keys of a list.
#[derive(Debug, Clone, Copy)]
pub struct Listed {
    /// Whether CAS values are answered.
    pub has_cas: bool,
    /// The expiry that items get.
    pub expiry: Option<i64>,
}

/// Begins with a list. What is left of it, if there is enough output before its end.
pub fn retrieve<'a>(turn: &mut Turn<'_>, retrieval: Retrieval<'a>) -> Option<(Listed, Words<'a>)> {
    let Retrieval { mut words, has_cas, touches } = retrieval;
    if !words.are_more_than(0) {
        turn.line("ERROR");
        return None;
    }
    let expiry = if touches {
        // An empty list of keys is no error there.
        let expiry = words.next().and_then(signed);
        if expiry.is_none() {
            turn.line("CLIENT_ERROR invalid exptime argument");
            return None;
        }
        expiry
    } else {
        None
    };
    if words.rest().len() > KEY_BYTES_MAX && { words }.any(|key| key.len() > KEY_BYTES_MAX) {
        turn.line(BAD_FORMAT);
        return None;
    }
    let listed = Listed { has_cas, expiry };
    go_on(turn, listed, words).map(|rest| (listed, rest))
}

/// Goes on with a list. What is left of it then.
pub fn go_on<'a>(turn: &mut Turn<'_>, listed: Listed, mut words: Words<'a>) -> Option<Words<'a>> {
    let mut fetched = 0_usize;
    while let Some(key) = words.next() {
        if fetched == 0 && !words.rest().is_empty() {
            turn.store().prefetch(std::iter::once(key).chain(words.take(BATCH_KEYS - 1)));
            fetched = BATCH_KEYS;
        }
        fetched = fetched.saturating_sub(1);
        if let Err(error) = retrieve_one(turn, listed, key) {
            let text = turn.failure(&error);
            turn.line(&text);
            return None;
        }
        turn.step();
        if turn.has_enough() {
            return Some(words);
        }
    }
    turn.line("END");
    None
}

#[inline]
fn retrieve_one(turn: &mut Turn<'_>, listed: Listed, key: &[u8]) -> Result<(), Error> {
    let stored = key_of(key);
    turn.tally.add(Count::Gets);
    let found = match listed.expiry {
        None => value(turn, listed.has_cas, key, &stored)?,
        Some(expiry) => touched_value(turn, listed.has_cas, expiry, key, &stored)?,
    };
    turn.tally.choose(found.is_some(), Count::GetHits, Count::GetMisses);
    note_found(turn, &stored, found.as_ref());
    if let Some(meta) = found {
        turn.read(&stored, meta.version);
    }
    Ok(())
}

/// An item that expires at once is answered first, any other after it was touched, with the CAS value that it has then.
fn touched_value(
    turn: &mut Turn<'_>,
    has_cas: bool,
    expiry: i64,
    key: &[u8],
    stored: &[u8],
) -> Result<Option<RecordMeta>, Error> {
    turn.tally.add(Count::Touches);
    let is_last_time = turn.expires_at_ms(expiry) != 0 && turn.expires_at_ms(expiry) <= turn.now_ms;
    let found = if is_last_time {
        let found = value(turn, has_cas, key, stored)?;
        turn.touch(stored, expiry)?;
        found
    } else {
        turn.touch(stored, expiry)?;
        value(turn, has_cas, key, stored)?
    };
    turn.tally.choose(found.is_some(), Count::TouchHits, Count::TouchMisses);
    Ok(found)
}

/// Answers with a key's value, if it has one.
#[inline]
fn value(turn: &mut Turn<'_>, has_cas: bool, key: &[u8], stored: &[u8]) -> Result<Option<RecordMeta>, Error> {
    let begin = |output: &mut Vec<u8>, meta: &RecordMeta| {
        output.extend_from_slice(b"VALUE ");
        output.extend_from_slice(key);
        output.push(b' ');
        push_number(output, u64::from(meta.flags));
        output.push(b' ');
        push_number(output, meta.value_len);
        if has_cas {
            output.push(b' ');
            push_number(output, meta.version);
        }
        output.extend_from_slice(b"\r\n");
    };
    copy_value(turn, stored, begin)
}

/// Answers with what `begin` writes, and a key's value behind it.
#[inline]
pub fn copy_value(
    turn: &mut Turn<'_>,
    stored: &[u8],
    begin: impl Fn(&mut Vec<u8>, &RecordMeta),
) -> Result<Option<RecordMeta>, Error> {
    let start = turn.output.len();
    let store = turn.store();
    let output = &mut *turn.output;
    let found = store.get_into(stored, |meta| {
        // May be asked again, when the value moved under the reader.
        output.truncate(start);
        begin(output, meta);
        output.reserve(meta.value_len as usize + 2);
        output.spare_capacity_mut().as_mut_ptr().cast()
    });
    match found {
        Ok(Some(meta)) => {
            let end = turn.output.len() + meta.value_len as usize;
            // SAFETY: reserved above, and the store wrote as many bytes as it asked for last.
            unsafe { turn.output.set_len(end) };
            turn.output.extend_from_slice(b"\r\n");
            Ok(Some(meta))
        }
        Ok(None) => {
            turn.output.truncate(start);
            Ok(None)
        }
        Err(error) => {
            turn.output.truncate(start);
            Err(error)
        }
    }
}
