//! What users were refused, and who was not let in: the latest of it, as ACL LOG shows it.
//!
//! The same thing refused again within a minute is counted and not noted once more, so that who tries a thousand times takes one place. Only the
//! latest few are looked through for that: a refusal costs the same however long the log is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The same thing within this time is counted.
const SAME_WITHIN_MS: u64 = 60_000;
/// Entries that are looked through.
const LOOKED_THROUGH: usize = 10;

/// Bytes of a name that logs keep: clients choose their names, and what is noted of them stays when they are gone.
pub const LOGGED_NAME_BYTES_MAX: usize = 1024;

/// Why something was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The user may not call the command.
    Command,
    /// Nor touch the key.
    Key,
    /// Nor use the channel.
    Channel,
    /// There is no such user, or the password is another one.
    Auth,
}

/// Something that was refused.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// How often.
    pub count: u64,
    /// Why.
    pub reason: Reason,
    /// Whether it was part of a transaction.
    pub is_in_transaction: bool,
    /// The command, the key or the channel.
    pub object: Vec<u8>,
    /// To whom.
    pub user: Vec<u8>,
    /// When it was refused last, store clock.
    pub at_ms: u64,
    /// The client, as CLIENT LIST describes it.
    pub client: String,
}

impl Refusal {
    /// One that has just happened.
    pub fn new(reason: Reason, is_in_transaction: bool, object: &[u8], user: &[u8], at_ms: u64) -> Self {
        let kept = |name: &[u8]| name[..name.len().min(LOGGED_NAME_BYTES_MAX)].to_vec();
        let (object, user) = (kept(object), kept(user));
        Self { count: 1, reason, is_in_transaction, object, user, at_ms, client: String::new() }
    }

    fn is_like(&self, other: &Self) -> bool {
        self.reason == other.reason
            && self.is_in_transaction == other.is_in_transaction
            && self.at_ms.abs_diff(other.at_ms) <= SAME_WITHIN_MS
            && self.object == other.object
            && self.user == other.user
    }
}

/// The log.
#[derive(Debug)]
pub struct Refusals {
    entries_max: AtomicU64,
    /// The latest one first.
    entries: Mutex<VecDeque<Refusal>>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { entries_max: AtomicU64::new(128), entries: Mutex::default() }
    }
}

impl Refusals {
    /// Most entries kept.
    pub fn entries_max(&self) -> u64 {
        self.entries_max.load(Ordering::Relaxed)
    }

    /// Keeps so many from now on. What is too many goes with the next refusal, as in Redis.
    pub fn set_entries_max(&self, entries_max: u64) {
        self.entries_max.store(entries_max, Ordering::Relaxed);
    }

    /// Notes one.
    pub fn note(&self, refusal: Refusal) {
        let entries_max = usize::try_from(self.entries_max()).unwrap_or(usize::MAX);
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let same = entries.iter().take(LOOKED_THROUGH).position(|entry| entry.is_like(&refusal));
        let count = same.and_then(|at| entries.remove(at)).map_or(0, |entry| entry.count);
        entries.push_front(Refusal { count: refusal.count + count, ..refusal });
        if same.is_none() {
            entries.truncate(entries_max);
        }
    }

    /// The latest entries, at most so many.
    pub fn latest(&self, count_max: usize) -> Vec<Refusal> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().take(count_max).cloned().collect()
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(log: &Refusals) -> Vec<(u64, Vec<u8>)> {
        log.latest(100).into_iter().map(|entry| (entry.count, entry.object)).collect()
    }

    fn note(log: &Refusals, object: &[u8], at_ms: u64) {
        log.note(Refusal::new(Reason::Key, false, object, b"user", at_ms));
    }

    #[test]
    fn the_same_again_is_counted_and_comes_first() {
        let log = Refusals::default();
        note(&log, b"a", 0);
        note(&log, b"b", 0);
        note(&log, b"a", 60_000);
        assert_eq!(counts(&log), [(2, b"a".to_vec()), (1, b"b".to_vec())]);
        // A minute after the last time it is another thing.
        note(&log, b"a", 120_001);
        assert_eq!(counts(&log), [(1, b"a".to_vec()), (2, b"a".to_vec()), (1, b"b".to_vec())]);
        log.note(Refusal::new(Reason::Key, true, b"a", b"user", 120_001));
        log.note(Refusal::new(Reason::Channel, false, b"a", b"user", 120_001));
        log.note(Refusal::new(Reason::Key, false, b"a", b"other", 120_001));
        assert_eq!(log.latest(100).len(), 6);
        log.clear();
        assert!(log.latest(100).is_empty());
    }

    #[test]
    fn the_log_is_bounded() {
        let log = Refusals::default();
        for number in 0..200_u32 {
            note(&log, &number.to_le_bytes(), 0);
        }
        assert_eq!(log.latest(1000).len(), 128);
        // Beyond the latest ten nothing is looked for.
        note(&log, &180_u32.to_le_bytes(), 0);
        assert_eq!(log.latest(1)[0].count, 1);
        log.set_entries_max(2);
        note(&log, b"x", 0);
        assert_eq!(log.latest(1000).len(), 2);
        note(&log, &[b'k'; 5000], 0);
        assert_eq!(log.latest(1)[0].object.len(), LOGGED_NAME_BYTES_MAX);
    }
}
