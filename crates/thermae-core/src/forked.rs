//! Values that a forked child does not take over from its parent.
//!
//! A mutex that some thread held at the moment of a fork is locked in the child for ever, and what it guards is half changed: the thread that would
//! go on with it exists in the parent only. The child can neither wait for it nor repair it. So each process has a value of its own, stamped with the
//! count of the forks that led to it; a process that finds another's makes a new one and puts it in its place.
//!
//! The one before is never dropped: it may hold handles of threads that are not there, and the thread that forked may still refer to it.
//! Rejected: taking all such mutexes before a fork, as is done for pins: a fork would wait for whatever is done under them.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A value for each process that a fork may lead to.
#[derive(Debug)]
pub struct PerProcess<T> {
    current: AtomicPtr<Stamped<T>>,
}

#[derive(Debug)]
struct Stamped<T> {
    forks: u32,
    value: T,
}

impl<T> Default for PerProcess<T> {
    fn default() -> Self {
        Self { current: AtomicPtr::new(null_mut()) }
    }
}

impl<T: Default> PerProcess<T> {
    /// The value of the process that so many forks led to, if it has one yet.
    #[inline]
    pub(crate) fn existing(&self, forks: u32) -> Option<&T> {
        // SAFETY: made from a box and freed by `free` alone, which has the only reference.
        let current = unsafe { self.current.load(Ordering::SeqCst).as_ref() }?;
        (current.forks == forks).then_some(&current.value)
    }

    /// The same; makes it where there is none.
    pub(crate) fn get(&self, forks: u32) -> &T {
        loop {
            let seen = self.current.load(Ordering::SeqCst);
            if let Some(value) = self.existing(forks) {
                return value;
            }
            let new = Box::into_raw(Box::new(Stamped { forks, value: T::default() }));
            if self.current.compare_exchange(seen, new, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                // SAFETY: another thread was faster, and nobody has seen this one.
                drop(unsafe { Box::from_raw(new) });
            }
        }
    }

    /// Drops the value of this process; another process's is left alone.
    pub(crate) fn free(&mut self, forks: u32) {
        if self.existing(forks).is_some() {
            // SAFETY: as in `existing`; with the only reference to all this nobody refers to the value.
            drop(unsafe { Box::from_raw(std::mem::replace(self.current.get_mut(), null_mut())) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn what_a_parents_thread_held_is_not_waited_for() {
        let own = PerProcess::<Mutex<u32>>::default();
        assert!(own.existing(0).is_none());
        let held = own.get(0).lock().unwrap();
        assert!(own.existing(0).unwrap().try_lock().is_err());
        assert!(own.existing(1).is_none());
        *own.get(1).try_lock().unwrap() = 5;
        assert_eq!(*own.get(1).lock().unwrap(), 5);
        assert!(own.existing(0).is_none() && *held == 0);
    }

    #[test]
    fn threads_get_the_same_value_and_it_alone_is_dropped() {
        let mut own = PerProcess::<Mutex<Option<Arc<()>>>>::default();
        let counted = [Arc::new(()), Arc::new(())];
        for (forks, counted) in counted.iter().enumerate() {
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8)
                    .map(|_| scope.spawn(|| std::ptr::from_ref(own.get(forks as u32)).addr()))
                    .collect();
                let seen: Vec<usize> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
                assert!(seen.iter().all(|address| *address == seen[0]));
            });
            *own.get(forks as u32).lock().unwrap() = Some(counted.clone());
        }
        own.free(0);
        own.free(2);
        assert_eq!(Arc::strong_count(&counted[1]), 2);
        own.free(1);
        own.free(1);
        assert_eq!(counted.map(|counted| Arc::strong_count(&counted)), [2, 1], "the parent's stays as it is");
    }
}
