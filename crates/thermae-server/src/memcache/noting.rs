//! What commands do to items, noted for those who watch: what memcached notes of it.
//!
//! Each time that a command looks a key up is noted, and those that store, count or delete do so first; and what became of values that were to be
//! stored, but not of counters. While nobody watches, all of it costs one look at a bit that was loaded for the turn.

use crate::attention::{FETCHES, STORES};
use crate::memcache::request::Mode;
use crate::memcache::turn::Turn;
use crate::watch_log::Storing;
use thermae_core::RecordMeta;

/// A command looked a key up, as the store has it, and this is what was known of it.
#[inline]
pub fn note_found(turn: &mut Turn<'_>, key: &[u8], found: Option<&RecordMeta>) {
    if turn.events.wants(FETCHES) {
        log_found(turn, key, found);
    }
}

/// A command is about to change a key, as the store has it. What it finds is looked up for those who watch alone: another client may be faster.
#[inline]
pub fn note_look_up(turn: &mut Turn<'_>, key: &[u8]) {
    if turn.events.wants(FETCHES) {
        log_look_up(turn, key);
    }
}

/// What became of a value of so many bytes that a command wanted a key, as the store has it, to have; `None`: they were too many to be looked at.
#[inline]
pub fn note_stored(
    turn: &mut Turn<'_>,
    key: &[u8],
    mode: Mode,
    status: &'static str,
    bytes: Option<usize>,
    expires_at_ms: u64,
) {
    if turn.events.wants(STORES) {
        log_stored(turn, key, mode, status, bytes, expires_at_ms);
    }
}

#[cold]
fn log_look_up(turn: &mut Turn<'_>, key: &[u8]) {
    // The command meets the same error, and its client is told of it.
    if let Ok(found) = turn.store().meta(key) {
        log_found(turn, key, found.as_ref());
    }
}

#[cold]
fn log_found(turn: &mut Turn<'_>, key: &[u8], found: Option<&RecordMeta>) {
    let fd = turn.client.place.fd;
    turn.log.fetched(FETCHES, fd, key, found.map(|meta| meta.value_len));
    turn.show_if_enough();
}

#[cold]
fn log_stored(
    turn: &mut Turn<'_>,
    key: &[u8],
    mode: Mode,
    status: &'static str,
    bytes: Option<usize>,
    expires_at_ms: u64,
) {
    let (mut bytes, mut expires_at_ms) = (bytes.map(|bytes| bytes as u64), expires_at_ms);
    if status == "stored"
        && matches!(mode, Mode::Append | Mode::Prepend)
        && let Ok(Some(meta)) = turn.store().meta(key)
    {
        // It is longer than what was sent, and keeps its expiry.
        (bytes, expires_at_ms) = (Some(meta.value_len), meta.expires_at_ms);
    }
    let seconds_left = match expires_at_ms {
        0 => 0,
        at if at <= turn.now_ms => -1,
        at => i64::try_from((at - turn.now_ms).div_ceil(1000)).unwrap_or(i64::MAX),
    };
    let command = match mode {
        Mode::Set => "set",
        Mode::Add => "add",
        Mode::Replace => "replace",
        Mode::Append => "append",
        Mode::Prepend => "prepend",
        Mode::Cas(_) => "cas",
    };
    let fd = turn.client.place.fd;
    turn.log.stored(STORES, fd, key, Storing { status, command, seconds_left, bytes });
    turn.show_if_enough();
}
