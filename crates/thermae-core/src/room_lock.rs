//! The lock of those who make room: whoever empties segments holds it, and lends it between two steps, so that a writer waits for one.

use crate::engine::{Engine, LockGuard};
use crate::error::Result;
use crate::lock::Acquired;
use crate::waiting::{before_wait, check_cancelled};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long the lock of those who make room is left to others between steps: twice as long as they sleep before they look again.
const ROOM_LOCK_LENT: Duration = Duration::from_micros(100);
/// How long the background waits for the lock of those who make room: for some steps of theirs.
const ROOM_LOCK_AWAITED_MAX: Duration = Duration::from_millis(10);

impl Engine {
    /// Takes the lock of those who make room. Every step of a move is whole by itself; what a death leaves half done is a look for expired
    /// records, which is made good.
    pub(crate) fn lock_room(&self) -> LockGuard<'_> {
        self.lock(&self.globals().room_lock, |_| self.repair_expiries())
    }

    /// The same, if nobody alive holds it.
    pub(crate) fn try_lock_room(&self) -> Option<LockGuard<'_>> {
        let lock = &self.globals().room_lock;
        let acquired =
            lock.try_lock_or_inherit(self.member.lock_word(), |slot| self.member.is_alive(slot))?;
        if matches!(acquired, Acquired::Inherited(_)) {
            self.repair_expiries();
        }
        Some(LockGuard(lock))
    }

    /// The same, for the background, which waits its turn and no longer: others of its duties are due, or the store is to be closed.
    pub(crate) fn lock_room_soon(&self) -> Option<LockGuard<'_>> {
        let until = Instant::now() + ROOM_LOCK_AWAITED_MAX;
        loop {
            let lock = self.try_lock_room();
            if lock.is_some() || self.closed.load(Ordering::Relaxed) || Instant::now() > until {
                return lock;
            }
            std::thread::sleep(ROOM_LOCK_LENT / 2);
        }
    }

    /// Lets go of the lock of those who make room, between two of many steps: a writer in need goes first. It sleeps for the lock, and would not find it
    /// free if it were taken again at once.
    pub(crate) fn lend_room_lock(room: LockGuard<'_>) {
        drop(room);
        before_wait();
        std::thread::sleep(ROOM_LOCK_LENT);
    }

    /// The same, and takes it again, where nobody was told to give up meanwhile.
    ///
    /// # Errors
    /// Cancelled, Closed.
    pub(crate) fn pass_room_lock<'e>(&'e self, room: LockGuard<'e>) -> Result<LockGuard<'e>> {
        Self::lend_room_lock(room);
        check_cancelled()?;
        self.check_usable()?;
        Ok(self.lock_room())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::{SharedLock, lock_word};
    use std::sync::atomic::{AtomicBool, AtomicU32};

    /// How many steps are made under a lock, which is lent in between, before somebody gets it who waits for it.
    fn steps_waited_for() -> u32 {
        const STEPS_MAX: u32 = 2000;
        let (lock, steps) = (SharedLock::default(), AtomicU32::new(0));
        let [is_waiting, is_served] = <[AtomicBool; 2]>::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while steps.load(Ordering::Relaxed) < STEPS_MAX && !is_served.load(Ordering::Relaxed) {
                    lock.lock(lock_word(1, 0), |_| true);
                    let guard = LockGuard(&lock);
                    while !is_waiting.load(Ordering::Relaxed) {
                        std::thread::yield_now();
                    }
                    let began = Instant::now();
                    while began.elapsed() < 2 * ROOM_LOCK_LENT {
                        std::hint::spin_loop();
                    }
                    steps.fetch_add(1, Ordering::Relaxed);
                    Engine::lend_room_lock(guard);
                }
            });
            while lock.owner().is_none() {
                std::thread::yield_now();
            }
            is_waiting.store(true, Ordering::Relaxed);
            lock.lock(lock_word(2, 0), |_| true);
            let waited_for = steps.load(Ordering::Relaxed);
            is_served.store(true, Ordering::Relaxed);
            lock.unlock();
            waited_for
        })
    }

    #[test]
    fn who_waits_for_room_gets_it_between_the_steps_of_who_makes_much() {
        // A machine that stands still may have one wait for long.
        let best = (0..5).map(|_| steps_waited_for()).min().unwrap();
        assert!(best < 20, "it waited for {best} steps");
    }
}
