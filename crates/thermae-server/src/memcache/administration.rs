//! Commands that concern no item: flush_all, version, verbosity, and those that tune what this server does not have.

use crate::attention::CHANGES;
use crate::counts::Count;
use crate::databases::database_of;
use crate::memcache::request::BAD_FORMAT;
use crate::memcache::turn::Turn;
use crate::memcache::words::{Words, signed, unsigned};
use crate::shared::Shared;
use std::sync::atomic::Ordering;
use thermae_core::Error;

/// The version of memcached whose behaviour this is: clients decide by it what they may send.
pub const VERSION: &str = "1.6.18";

/// flush_all, at once or later. A time of its own replaces the one before, as it does in memcached.
pub fn flush_all(turn: &mut Turn<'_>, words: Words<'_>) {
    if words.are_more_than(2) {
        return turn.line("ERROR");
    }
    let is_silent = words.end_with_noreply();
    let mut delay = words;
    let delay = delay.next().filter(|word| !(is_silent && *word == b"noreply" && !words.are_more_than(1)));
    let Some(delay) = delay.map_or(Some(0), signed) else {
        return turn.line_unless(is_silent, "CLIENT_ERROR invalid exptime argument");
    };
    turn.tally.add(Count::Flushes);
    let flush_at_ms = &turn.shared.memcached_flush_at_ms;
    if delay > 0 {
        flush_at_ms.store(turn.expires_at_ms(delay), Ordering::SeqCst);
        return turn.line_unless(is_silent, "OK");
    }
    flush_at_ms.store(0, Ordering::SeqCst);
    match flush(turn.shared) {
        Ok(()) => turn.line_unless(is_silent, "OK"),
        Err(error) => {
            let text = turn.failure(&error);
            turn.line_unless(is_silent, &text);
        }
    }
}

/// Deletes all keys of database 0, which memcached's clients share with Redis's and Python, but no key of another database.
fn flush(shared: &Shared) -> Result<(), Error> {
    let newest_mark = shared.marks.newest_version();
    let deleted = delete_all(shared);
    // Of what was deleted before an error, others have to know as well.
    if shared.attention.wanted_now() & CHANGES != 0 {
        shared.invalidate_all();
    }
    deleted?;
    shared.marks.forget_all_through(newest_mark);
    Ok(())
}

fn delete_all(shared: &Shared) -> Result<(), Error> {
    let mut scan = shared.store.scan(b"");
    while let Some(batch) = scan.next_batch()? {
        let keys: Vec<&[u8]> =
            batch.iter().map(|(key, _)| key.as_slice()).filter(|key| database_of(key).0 == 0).collect();
        shared.store.delete_many(&keys)?;
    }
    Ok(())
}

/// Does what `flush_all` with a delay asked for, once its time has come. Called by a loop again and again, for clients of other protocols
/// wait for it, too. A pause holds it back like all that writes.
#[inline]
pub fn flush_if_due(shared: &Shared) {
    let at = shared.memcached_flush_at_ms.load(Ordering::Relaxed);
    if at != 0 && at <= shared.store.now_ms() {
        flush_now(shared, at);
    }
}

#[cold]
fn flush_now(shared: &Shared, at: u64) {
    if shared.pause.left_ms(shared.store.now_ms()) != 0 {
        return;
    }
    let flush_at_ms = &shared.memcached_flush_at_ms;
    if flush_at_ms.compare_exchange(at, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
        // Whoever asked for it was answered long ago. What the store can't do, its next caller is told.
        let _ = flush(shared);
    }
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
