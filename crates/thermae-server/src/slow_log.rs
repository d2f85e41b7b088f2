//! The slow log: commands that took longer than somebody wants to know about, the latest of them.
//!
//! Each command is timed where the log is on, as it is by default. Two readings of the precise clock would cost a tenth of what a small
//! command does, so where the threshold is so long that the clock of the scheduler's ticks can tell (four milliseconds and less), that one
//! is read, which is a load from memory. A duration measured with it is right to a tick.

use rustix::time::{ClockId, clock_gettime};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// From this threshold on, ticks are precise enough.
const COARSE_FROM_MICROSECONDS: i64 = 10_000;
/// Arguments kept of one command, the last one then telling how many more there were.
const ARGUMENTS_MAX: usize = 32;
/// Bytes kept of one argument.
const ARGUMENT_BYTES_MAX: usize = 128;

/// When a command began, and by which clock.
#[derive(Debug, Clone, Copy)]
pub struct Started {
    clock: ClockId,
    at_microseconds: i64,
}

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

/// The slow log. On lines of its own: its threshold is read for each command, and what lies beside it may be written as often.
#[derive(Debug)]
#[repr(align(128))]
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

    /// A command begins; `None` where nobody wants to know.
    #[inline]
    pub fn start(&self) -> Option<Started> {
        let threshold = self.slower_than_microseconds.load(Ordering::Relaxed);
        if threshold < 0 {
            return None;
        }
        let is_coarse = threshold >= COARSE_FROM_MICROSECONDS;
        let clock = if is_coarse { ClockId::MonotonicCoarse } else { ClockId::Monotonic };
        Some(Started { clock, at_microseconds: microseconds(clock) })
    }

    /// How long the command took, if that is to be noted.
    #[inline]
    pub fn slow(&self, started: Started) -> Option<i64> {
        let took = microseconds(started.clock) - started.at_microseconds;
        let threshold = self.slower_than_microseconds.load(Ordering::Relaxed);
        (threshold >= 0 && took >= threshold).then_some(took)
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

fn microseconds(clock: ClockId) -> i64 {
    let now = clock_gettime(clock);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
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
        assert!(log.start().is_none());
        log.set(2_000, 10);
        let started = log.start().unwrap();
        assert_eq!(log.slow(started), None);
        std::thread::sleep(std::time::Duration::from_millis(3));
        assert!(log.slow(started).unwrap() >= 3_000);
        log.set(0, 10);
        let started = log.start().unwrap();
        assert!(log.slow(started).is_some());
    }
}
