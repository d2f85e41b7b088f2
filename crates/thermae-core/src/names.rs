//! Named locks: a table in shared memory, no records, no leases.
//!
//! A lock is held by a participant's incarnation, so it ends with its process by itself: no wall-clock lease that could run out
//! under a paused holder. Names are known by their 128-bit hash. Waiters sleep on one futex and look again at least every 100 ms, which is also how
//! they notice that a holder died.
//!
//! Rejected: lock records in the store. They would be flushed, evicted and counted like data.

use crate::engine::{Engine, LockGuard};
use crate::error::{Error, Result};
use crate::layout::{NAMED_LOCKS, NamedLock};
use crate::read::show_key;
use crate::sync::{futex_wait, futex_wake_all};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Longest sleep between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Proof of holding a named lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockToken {
    index: usize,
    token: u64,
}

impl Engine {
    fn named_locks(&self) -> &[NamedLock] {
        self.control.slice(self.geometry.named_locks_offset(), NAMED_LOCKS)
    }

    fn lock_names(&self) -> LockGuard<'_> {
        // Each entry is changed by single stores, the incarnation last: nothing to repair.
        self.lock(&self.globals().names_lock, |_| {})
    }

    /// Takes a named lock, waiting at most `timeout` (`None` = for ever). `interrupted` is asked at least every 100 ms.
    pub(crate) fn acquire_name(
        &self,
        name: &[u8],
        timeout: Option<Duration>,
        interrupted: &mut dyn FnMut() -> Result<()>,
    ) -> Result<LockToken> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let hash = xxhash_rust::xxh3::xxh3_128_with_seed(name, self.hash_seed);
        let hash = [hash as u64, (hash >> 64) as u64];
        let wakes = &self.globals().names_wakes;
        loop {
            self.check_writable()?;
            let seen = wakes.load(Ordering::Acquire);
            if let Some(token) = self.try_name(hash)? {
                return Ok(token);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(Error::Timeout(format!(
                    "the lock {} of {} was held by another process or thread for the whole {:?}: wait longer, or find out who holds it",
                    show_key(name),
                    self.paths.location,
                    timeout.unwrap_or_default()
                )));
            }
            futex_wait(wakes, seen, left.unwrap_or(LOOK_EVERY).min(LOOK_EVERY));
            interrupted()?;
        }
    }

    fn try_name(&self, name: [u64; 2]) -> Result<Option<LockToken>> {
        let _names = self.lock_names();
        let mut free = None;
        for (index, lock) in self.named_locks().iter().enumerate() {
            let incarnation = lock.incarnation.load(Ordering::Acquire);
            let is_ours = incarnation != 0
                && lock.name[0].load(Ordering::Relaxed) == name[0]
                && lock.name[1].load(Ordering::Relaxed) == name[1];
            if is_ours {
                if self.is_incarnation_alive(incarnation) {
                    return Ok(None);
                }
                free = Some((index, lock));
                break;
            }
            if free.is_none() && incarnation == 0 {
                free = Some((index, lock));
            }
        }
        let free = free.or_else(|| {
            self.named_locks()
                .iter()
                .enumerate()
                .find(|(_, lock)| !self.is_incarnation_alive(lock.incarnation.load(Ordering::Relaxed)))
        });
        let Some((index, lock)) = free else {
            return Err(Error::full(format!(
                "{NAMED_LOCKS} locks of {} are held at once, and no more are kept: release some, or let several things share a lock",
                self.paths.location
            )));
        };
        let token = lock.token.load(Ordering::Relaxed).wrapping_add(1);
        lock.incarnation.store(0, Ordering::Release);
        lock.name[0].store(name[0], Ordering::Relaxed);
        lock.name[1].store(name[1], Ordering::Relaxed);
        lock.token.store(token, Ordering::Relaxed);
        lock.incarnation.store(self.member.incarnation(), Ordering::Release);
        Ok(Some(LockToken { index, token }))
    }

    /// Releases a named lock. False where it is no longer held under this token.
    pub(crate) fn release_name(&self, token: &LockToken) -> bool {
        let _names = self.lock_names();
        let Some(lock) = self.named_locks().get(token.index) else { return false };
        let is_held = lock.token.load(Ordering::Relaxed) == token.token
            && lock.incarnation.load(Ordering::Relaxed) == self.member.incarnation();
        if is_held {
            lock.incarnation.store(0, Ordering::Release);
            self.globals().names_wakes.fetch_add(1, Ordering::Release);
            futex_wake_all(&self.globals().names_wakes);
        }
        is_held
    }
}
