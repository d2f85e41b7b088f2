//! Locks that live in shared memory and survive their owner's death.
//!
//! A lock is one 32-bit word: 0 when free, else its owner's participant slot plus one, and how often that slot was used. Taking it is
//! one compare-and-swap, so that the holder is known from the first instant. Whoever waits longer than
//! [`SUSPECT_AFTER`] asks whether the owner still lives; a dead owner's lock is taken over by one compare-and-swap from the
//! dead owner's word to one's own, and the taker is told, so that it repairs what the lock guards. The count of uses makes that swap
//! fail where the dead one's slot, and the lock, were taken by somebody alive between the question and the swap.
//!
//! Safe across threads and processes. Threads of one participant share its slot number: the word says which participant to
//! suspect, not which thread may unlock. After a fork the child has a slot of its own and holds none of its parent's locks.
//!
//! Rejected: robust process-shared mutexes. They unblock the survivor but say nothing of other PID namespaces,
//! are 40 bytes, and still leave half-changed data to be repaired.

use crate::sync::{AtomicU32, Instant, Ordering, before_wait, spin_loop, thread};
use std::time::Duration;

/// How long a waiter waits before it asks whether the owner is alive.
pub const SUSPECT_AFTER: Duration = Duration::from_millis(10);

/// A participant slot that nobody ever has: stands for a dead owner whose slot is used again.
pub const NOBODY: u32 = SLOT_MASK - 1;
/// Bits of a lock word that say whose slot it is.
const SLOT_BITS: u32 = 13;
const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;

/// What a participant in `slot` puts into locks that it takes: the slot is in its `uses`-th use.
pub const fn lock_word(slot: u32, uses: u64) -> u32 {
    (slot + 1) | (uses as u32) << SLOT_BITS
}

/// The slot of a lock word that is not 0.
const fn slot_of(word: u32) -> u32 {
    (word & SLOT_MASK).saturating_sub(1)
}

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
    /// Takes the lock if it is free. `me` is this participant's [`lock_word`], here and below.
    #[inline]
    pub fn try_lock(&self, me: u32) -> bool {
        self.0.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed).is_ok()
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
                spin_loop();
                continue;
            }
            if rounds < 192 {
                before_wait();
                thread::yield_now();
                continue;
            }
            let now = Instant::now();
            match suspect_at {
                None => suspect_at = Some(now + SUSPECT_AFTER),
                Some(at) if now >= at => {
                    suspect_at = Some(now + SUSPECT_AFTER);
                    if !is_alive(slot_of(owner))
                        && self.0.compare_exchange(owner, me, Ordering::Acquire, Ordering::Relaxed).is_ok()
                    {
                        return Acquired::Inherited(slot_of(owner));
                    }
                }
                Some(_) => {}
            }
            thread::sleep(Duration::from_micros(50));
        }
    }

    /// Takes the lock only if it is free or its owner is dead.
    pub fn try_lock_or_inherit(&self, me: u32, is_alive: impl Fn(u32) -> bool) -> Option<Acquired> {
        if self.try_lock(me) {
            return Some(Acquired::Clean);
        }
        let owner = self.0.load(Ordering::Relaxed);
        if owner == 0 || is_alive(slot_of(owner)) {
            return None;
        }
        self.0
            .compare_exchange(owner, me, Ordering::Acquire, Ordering::Relaxed)
            .ok()
            .map(|_| Acquired::Inherited(slot_of(owner)))
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
        let word = self.0.load(Ordering::Relaxed);
        if word != 0 && slot_of(word) == dead {
            // Where it fails, somebody has inherited the lock already.
            let _ = self.0.compare_exchange(word, lock_word(NOBODY, 0), Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// The owner's participant slot, if the lock is held.
    #[inline]
    pub fn owner(&self) -> Option<u32> {
        let word = self.0.load(Ordering::Relaxed);
        (word != 0).then(|| slot_of(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{ROUNDS, explore};
    use std::sync::Arc;

    #[test]
    fn a_dead_owners_lock_is_inherited_and_a_living_ones_is_not() {
        explore(|| {
            let lock = SharedLock::default();
            assert_eq!(lock.lock(lock_word(3, 0), |_| true), Acquired::Clean);
            assert_eq!(lock.owner(), Some(3));
            assert_eq!(lock.try_lock_or_inherit(lock_word(4, 7), |_| true), None);
            assert_eq!(lock.lock(lock_word(4, 7), |slot| slot != 3), Acquired::Inherited(3));
            assert_eq!(lock.owner(), Some(4));
            lock.unlock();
            assert_eq!(lock.owner(), None);
        });
    }

    #[test]
    fn what_is_left_to_nobody_is_inherited_once() {
        explore(|| {
            let lock = SharedLock::default();
            assert!(lock.try_lock(lock_word(3, 1)));
            lock.leave_to_nobody(2);
            assert_eq!(lock.owner(), Some(3));
            lock.leave_to_nobody(3);
            assert_eq!(lock.owner(), Some(NOBODY));
            assert_eq!(
                lock.try_lock_or_inherit(lock_word(3, 2), |slot| slot == 3),
                Some(Acquired::Inherited(NOBODY))
            );
            assert_eq!(lock.try_lock_or_inherit(lock_word(4, 0), |slot| slot == 3), None);
        });
    }

    /// The question whether the owner lives takes a system call. A waiter once took the lock from somebody alive, who had got the dead
    /// one's slot, and then the lock, since the question was asked.
    #[test]
    fn a_living_owner_in_a_dead_ones_slot_keeps_the_lock() {
        explore(|| {
            let lock = SharedLock::default();
            assert!(lock.try_lock(lock_word(3, 1)));
            let inherited = lock.try_lock_or_inherit(lock_word(4, 1), |_| {
                lock.leave_to_nobody(3);
                assert_eq!(
                    lock.try_lock_or_inherit(lock_word(3, 2), |_| false),
                    Some(Acquired::Inherited(NOBODY))
                );
                false
            });
            assert_eq!((inherited, lock.owner()), (None, Some(3)));
        });
    }

    /// What the lock guards: two words that are equal whenever nobody is at them, and whoever inherits the lock makes them so.
    fn use_guarded(
        lock: &SharedLock,
        me: u32,
        words: &[AtomicU32; 2],
        is_alive: impl Fn(u32) -> bool,
    ) -> bool {
        let acquired = lock.lock(me, is_alive);
        if acquired != Acquired::Clean {
            words[1].store(words[0].load(Ordering::Relaxed), Ordering::Relaxed);
        }
        // A read and a write apart: a lost update shows that two were inside.
        let value = words[0].load(Ordering::Relaxed);
        assert_eq!(value, words[1].load(Ordering::Relaxed), "what the lock guards is half changed");
        words[0].store(value + 1, Ordering::Relaxed);
        words[1].store(value + 1, Ordering::Relaxed);
        lock.unlock();
        acquired != Acquired::Clean
    }

    #[test]
    fn threads_exclude_each_other() {
        explore(|| {
            let shared = Arc::new((SharedLock::default(), <[AtomicU32; 2]>::default()));
            let threads: Vec<_> = (0..3)
                .map(|me| {
                    let shared = shared.clone();
                    thread::spawn(move || {
                        for _ in 0..ROUNDS {
                            assert!(
                                !use_guarded(&shared.0, lock_word(me, 5), &shared.1, |_| true),
                                "inherited from the living"
                            );
                        }
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(shared.1[0].load(Ordering::Relaxed), 3 * ROUNDS);
        });
    }

    #[test]
    fn of_all_who_wait_for_a_dead_owners_lock_one_inherits_it() {
        explore(|| {
            let shared = Arc::new((SharedLock::default(), [AtomicU32::new(1), AtomicU32::new(0)]));
            assert!(shared.0.try_lock(lock_word(7, 1)));
            let threads: Vec<_> = (0..3)
                .map(|me| {
                    let shared = shared.clone();
                    thread::spawn(move || {
                        use_guarded(&shared.0, lock_word(me, 0), &shared.1, |slot| slot != 7)
                    })
                })
                .collect();
            let inherited = threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .filter(|&inherited| inherited)
                .count();
            assert_eq!((inherited, shared.1[0].load(Ordering::Relaxed), shared.0.owner()), (1, 4, None));
        });
    }
}
