//! Commands that concern no item: flush_all, version, verbosity, and those that tune what this server does not have.

use crate::counts::Count;
use crate::memcache::flushing::Flush;
use crate::memcache::request::BAD_FORMAT;
use crate::memcache::turn::Turn;
use crate::memcache::words::{Words, signed, unsigned};
use std::sync::atomic::Ordering;

/// The version of memcached whose behaviour this is: clients decide by it what they may send.
pub const VERSION: &str = "1.6.18";
/// What is answered where items are not deleted all because the server ends.
const STOPPED: &str = "SERVER_ERROR the server ends: some of the items are deleted, and some are not";

/// flush_all, at once or later. A time of its own replaces the one before, as it does in memcached. Returns what it has still to do in its client's next
/// turn, when it is to be called with that; nothing is answered before its end.
pub fn flush_all(turn: &mut Turn<'_>, words: Words<'_>, begun: Option<Box<Flush>>) -> Option<Box<Flush>> {
    if words.are_more_than(2) {
        turn.line("ERROR");
        return None;
    }
    let is_silent = words.end_with_noreply();
    let mut delay = words;
    let delay = delay.next().filter(|word| !(is_silent && *word == b"noreply" && !words.are_more_than(1)));
    let Some(delay) = delay.map_or(Some(0), signed) else {
        turn.line_unless(is_silent, "CLIENT_ERROR invalid exptime argument");
        return None;
    };
    let shared = turn.shared;
    let mut flush = if let Some(begun) = begun {
        turn.began = begun.emptying.began;
        begun
    } else {
        turn.tally.add(Count::Flushes);
        if delay > 0 {
            shared.memcached_flush_at_ms.store(turn.expires_at_ms(delay), Ordering::SeqCst);
            turn.line_unless(is_silent, "OK");
            return None;
        }
        shared.memcached_flush_at_ms.store(0, Ordering::SeqCst);
        Box::new(Flush::new(shared))
    };
    match flush.go_on(shared) {
        Ok(true) => turn.line_unless(is_silent, "OK"),
        Ok(false) if shared.is_stopping.load(Ordering::Relaxed) => {
            flush.stop(shared);
            turn.line_unless(is_silent, STOPPED);
        }
        Ok(false) => {
            flush.emptying.began = turn.began;
            return Some(flush);
        }
        Err(error) => {
            let text = turn.failure(&error);
            turn.line_unless(is_silent, &text);
        }
    }
    None
}

/// Commands that tune the inside of memcached, of which this server has nothing: the answers of a memcached that was told not to allow them.
pub fn refuse(turn: &mut Turn<'_>, name: &[u8], words: Words<'_>) {
    let text = match (name, words.word(0)) {
        (b"lru_crawler", Some(b"metadump" | b"mgdump")) => "ERROR metadump not allowed",
        _ => "ERROR this server has no slabs and no LRU lists to tune",
    };
    turn.line_unless(words.end_with_noreply(), text);
}

/// verbosity: this server has no log of its commands, so that all levels are the same.
pub fn verbosity(turn: &mut Turn<'_>, words: Words<'_>) {
    if !words.are_more_than(0) || words.are_more_than(2) {
        return turn.line("ERROR");
    }
    let is_silent = words.end_with_noreply();
    let is_number = words.word(0).and_then(unsigned).is_some();
    turn.line_unless(is_silent, if is_number { "OK" } else { BAD_FORMAT });
}
