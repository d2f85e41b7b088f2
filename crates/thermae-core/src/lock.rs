//! Locks that live in shared memory and survive their owner's death.
//!
//! A lock is one 32-bit word: 0 when free, else its owner's participant slot plus one. Taking it is one
//! compare-and-swap, so that the holder is known from the first instant. Whoever waits longer than
//! [`SUSPECT_AFTER`] asks whether the owner still lives; a dead owner's lock is taken over by one compare-and-swap from the
//! dead owner's word to one's own, and the taker is told, so that it repairs what the lock guards.
//!
//! Safe across threads and processes. Threads of one participant share its slot number: the word says which participant to
//! suspect, not which thread may unlock. After a fork the child has a slot of its own and holds none of its parent's locks.
//!
//! Rejected: robust process-shared mutexes. They unblock the survivor but say nothing of other PID namespaces,
//! are 40 bytes, and still leave half-changed data to be repaired.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a waiter waits before it asks whether the owner is alive.
pub const SUSPECT_AFTER: Duration = Duration::from_millis(10);

/// A participant slot that nobody ever has: stands for a dead owner whose slot is used again.
pub const NOBODY: u32 = u32::MAX - 1;

/// A lock word in shared memory.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct SharedLock(AtomicU32);

/// How a lock was obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acquired {
    /// It was free.
    Clean,
    /// Its owner, this participant slot, died holding it: what the lock guards must be repaired before use.
    Inherited(u32),
}

impl SharedLock {
    /// Takes the lock if it is free.
    #[inline]
    pub fn try_lock(&self, me: u32) -> bool {
        self.0.compare_exchange(0, me + 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Takes the lock, waiting for a living owner and inheriting from a dead one.
    #[inline]
    pub fn lock(&self, me: u32, is_alive: impl Fn(u32) -> bool) -> Acquired {
        if self.try_lock(me) {
            return Acquired::Clean;
        }
        self.lock_contended(me, is_alive)
    }

    #[cold]
    fn lock_contended(&self, me: u32, is_alive: impl Fn(u32) -> bool) -> Acquired {
        let mut rounds = 0_u32;
        let mut suspect_at: Option<Instant> = None;
        loop {
            let owner = self.0.load(Ordering::Relaxed);
            if owner == 0 {
                if self.try_lock(me) {
                    return Acquired::Clean;
                }
                continue;
            }
            rounds += 1;
            if rounds < 64 {
                std::hint::spin_loop();
                continue;
            }
            if rounds < 192 {
                std::thread::yield_now();
                continue;
            }
            let now = Instant::now();
            match suspect_at {
                None => suspect_at = Some(now + SUSPECT_AFTER),
                Some(at) if now >= at => {
                    suspect_at = Some(now + SUSPECT_AFTER);
                    if !is_alive(owner - 1)
                        && self.0.compare_exchange(owner, me + 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
                    {
                        return Acquired::Inherited(owner - 1);
                    }
                }
                Some(_) => {}
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Takes the lock only if it is free or its owner is dead.
    pub fn try_lock_or_inherit(&self, me: u32, is_alive: impl Fn(u32) -> bool) -> Option<Acquired> {
        if self.try_lock(me) {
            return Some(Acquired::Clean);
        }
        let owner = self.0.load(Ordering::Relaxed);
        if owner == 0 || is_alive(owner - 1) {
            return None;
        }
        self.0
            .compare_exchange(owner, me + 1, Ordering::Acquire, Ordering::Relaxed)
            .ok()
            .map(|_| Acquired::Inherited(owner - 1))
    }

    /// Releases the lock. The caller holds it.
    #[inline]
    pub fn unlock(&self) {
        debug_assert_ne!(self.0.load(Ordering::Relaxed), 0, "unlock of a free lock");
        self.0.store(0, Ordering::Release);
    }

    /// Leaves a dead owner's lock to [`NOBODY`], from whom it can be inherited like from any other of the dead. The caller keeps the
    /// owner's slot from being used meanwhile.
    pub fn leave_to_nobody(&self, dead: u32) {
        // Where it fails, somebody has inherited the lock already.
        let _ = self.0.compare_exchange(dead + 1, NOBODY + 1, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// The owner's participant slot, if the lock is held.
    #[inline]
    pub fn owner(&self) -> Option<u32> {
        self.0.load(Ordering::Relaxed).checked_sub(1)
    }
}

/// Sleeps until `word` is no longer `seen`, someone wakes its waiters, or `timeout` is over.
pub(crate) fn futex_wait(word: &AtomicU32, seen: u32, timeout: Duration) {
    let time = libc::timespec {
        tv_sec: timeout.as_secs().cast_signed(),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    // SAFETY: the word lives in a mapping that the caller borrows; every outcome, errors included, only means "look again".
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, seen, &raw const time, 0, 0) };
}

/// Wakes all who sleep on `word`.
pub(crate) fn futex_wake_all(word: &AtomicU32) {
    // SAFETY: as in futex_wait.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX, 0, 0, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_dead_owners_lock_is_inherited_and_a_living_ones_is_not() {
        let lock = SharedLock::default();
        assert_eq!(lock.lock(3, |_| true), Acquired::Clean);
        assert_eq!(lock.owner(), Some(3));
        assert_eq!(lock.try_lock_or_inherit(4, |_| true), None);
        assert_eq!(lock.lock(4, |slot| slot != 3), Acquired::Inherited(3));
        assert_eq!(lock.owner(), Some(4));
        lock.unlock();
        assert_eq!(lock.owner(), None);
    }

    #[test]
    fn what_is_left_to_nobody_is_inherited_once() {
        let lock = SharedLock::default();
        assert!(lock.try_lock(3));
        lock.leave_to_nobody(2);
        assert_eq!(lock.owner(), Some(3));
        lock.leave_to_nobody(3);
        assert_eq!(lock.owner(), Some(NOBODY));
        assert_eq!(lock.try_lock_or_inherit(3, |slot| slot == 3), Some(Acquired::Inherited(NOBODY)));
        assert_eq!(lock.try_lock_or_inherit(4, |slot| slot == 3), None);
    }

    #[test]
    fn threads_exclude_each_other() {
        let lock = Arc::new(SharedLock::default());
        let counter = Arc::new(AtomicU32::new(0));
        let threads: Vec<_> = (0..4)
            .map(|me| {
                let (lock, counter) = (lock.clone(), counter.clone());
                std::thread::spawn(move || {
                    for _ in 0..10_000 {
                        lock.lock(me, |_| true);
                        // A read and a write apart: a lost update shows that two threads were inside.
                        let value = counter.load(Ordering::Relaxed);
                        counter.store(value + 1, Ordering::Relaxed);
                        lock.unlock();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(counter.load(Ordering::Relaxed), 40_000);
    }
}
