//! The slow log: commands that took longer than somebody wants to know about, the latest of them.
//!
//! Whoever runs commands times them and knows from when on they are to be noted (see `latency`); only those ask here, and only slow ones take the
//! log's lock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Arguments kept of one command, the last one then telling how many more there were.
const ARGUMENTS_MAX: usize = 32;
/// Bytes kept of one argument.
const ARGUMENT_BYTES_MAX: usize = 128;

/// A command that was slow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number, from 0.
    pub id: u64,
    /// When it ended, in seconds since 1970.
    pub at_seconds: u64,
    /// How long it took.
    pub microseconds: i64,
    /// Its arguments, shortened.
    pub arguments: Vec<Vec<u8>>,
    /// Where its client called from.
    pub address: String,
    /// What its client called itself.
    pub name: Vec<u8>,
}

#[derive(Debug, Default)]
struct Log {
    next_id: u64,
    /// The latest one first.
    entries: VecDeque<Entry>,
}

/// The slow log.
#[derive(Debug)]
pub struct SlowLog {
    slower_than_microseconds: AtomicI64,
    entries_max: AtomicU64,
    log: Mutex<Log>,
}

impl Default for SlowLog {
    fn default() -> Self {
        Self {
            slower_than_microseconds: AtomicI64::new(10_000),
            entries_max: AtomicU64::new(128),
            log: Mutex::default(),
        }
    }
}

impl SlowLog {
    /// The time from which a command is slow; negative: none is.
    pub fn slower_than_microseconds(&self) -> i64 {
        self.slower_than_microseconds.load(Ordering::Relaxed)
    }

    /// Most entries kept.
    pub fn entries_max(&self) -> u64 {
        self.entries_max.load(Ordering::Relaxed)
    }

    /// Changes both.
    pub fn set(&self, slower_than_microseconds: i64, entries_max: u64) {
        self.slower_than_microseconds.store(slower_than_microseconds, Ordering::Relaxed);
        self.entries_max.store(entries_max, Ordering::Relaxed);
        let entries = &mut self.log.lock().unwrap_or_else(PoisonError::into_inner).entries;
        entries.truncate(usize::try_from(entries_max).unwrap_or(usize::MAX));
    }

    /// The time from which a command is slow, in nanoseconds; `u64::MAX`: none is.
    pub fn slow_from_nanoseconds(&self) -> u64 {
        u64::try_from(self.slower_than_microseconds()).map_or(u64::MAX, |least| least.saturating_mul(1000))
    }

    /// The microseconds that a command took, where that is to be noted.
    pub fn noteworthy(&self, nanoseconds: u64) -> Option<i64> {
        let microseconds = (nanoseconds / 1000).cast_signed();
        let threshold = self.slower_than_microseconds();
        (threshold >= 0 && microseconds >= threshold).then_some(microseconds)
    }

    /// Notes a slow command.
    #[cold]
    pub fn note<'a>(
        &self,
        arguments: impl ExactSizeIterator<Item = &'a [u8]>,
        microseconds: i64,
        at_seconds: u64,
        address: &str,
        name: Vec<u8>,
    ) {
        let entries_max = usize::try_from(self.entries_max()).unwrap_or(usize::MAX);
        let arguments = shortened(arguments);
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let id = log.next_id;
        log.next_id += 1;
        log.entries.push_front(Entry {
            id,
            at_seconds,
            microseconds,
            arguments,
            address: address.to_owned(),
            name,
        });
        log.entries.truncate(entries_max);
    }

    /// The latest entries, at most so many.
    pub fn latest(&self, count_max: usize) -> Vec<Entry> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.entries.iter().take(count_max).cloned().collect()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all entries. Numbers go on.
    pub fn clear(&self) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).entries.clear();
    }
}

fn shortened<'a>(arguments: impl ExactSizeIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let count = arguments.len();
    let shown = if count > ARGUMENTS_MAX { ARGUMENTS_MAX - 1 } else { count };
    let mut kept: Vec<Vec<u8>> = arguments
        .take(shown)
        .map(|argument| match argument.len().checked_sub(ARGUMENT_BYTES_MAX) {
            None | Some(0) => argument.to_vec(),
            Some(more) => {
                [&argument[..ARGUMENT_BYTES_MAX], format!("... ({more} more bytes)").as_bytes()].concat()
            }
        })
        .collect();
    if shown < count {
        kept.push(format!("... ({} more arguments)", count - shown).into_bytes());
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(log: &SlowLog, arguments: &[&[u8]]) {
        log.note(arguments.iter().copied(), 5, 1, "127.0.0.1:1", Vec::new());
    }

    #[test]
    fn the_latest_entries_are_kept_and_numbered_on() {
        let log = SlowLog::default();
        log.set(0, 2);
        for word in [b"a", b"b", b"c"] {
            note(&log, &[word]);
        }
        let ids = |log: &SlowLog| log.latest(10).iter().map(|entry| entry.id).collect::<Vec<_>>();
        assert_eq!((ids(&log), log.len()), (vec![2, 1], 2));
        assert_eq!(log.latest(1)[0].arguments, [b"c".to_vec()]);
        log.clear();
        note(&log, &[b"d"]);
        assert_eq!(ids(&log), [3]);
        log.set(0, 0);
        note(&log, &[b"e"]);
        assert!(log.is_empty());
    }

    #[test]
    fn long_commands_are_shortened() {
        let log = SlowLog::default();
        let long = [b'x'; 200];
        note(&log, &[b"set", &[b'y'; 128], &long]);
        let expected = [&[b'x'; 128][..], b"... (72 more bytes)"].concat();
        assert_eq!(log.latest(1)[0].arguments, [b"set".to_vec(), vec![b'y'; 128], expected]);
        note(&log, &[&b"k"[..]; 32]);
        assert_eq!(log.latest(1)[0].arguments.len(), 32);
        note(&log, &[&b"k"[..]; 33]);
        assert_eq!(log.latest(1)[0].arguments[30..], [b"k".to_vec(), b"... (2 more arguments)".to_vec()]);
    }

    #[test]
    fn only_what_is_slow_is_told() {
        let log = SlowLog::default();
        log.set(-1, 10);
        assert_eq!((log.slow_from_nanoseconds(), log.noteworthy(u64::MAX)), (u64::MAX, None));
        log.set(2_000, 10);
        assert_eq!((log.slow_from_nanoseconds(), log.noteworthy(1_999_999)), (2_000_000, None));
        assert_eq!(log.noteworthy(2_000_999), Some(2_000));
        log.set(0, 10);
        assert_eq!((log.slow_from_nanoseconds(), log.noteworthy(0)), (0, Some(0)));
        log.set(i64::MAX, 10);
        assert_eq!((log.slow_from_nanoseconds(), log.noteworthy(u64::MAX)), (u64::MAX, None));
    }
}
