//! What a caller may want to know of a call that takes long: that it is about to wait, and a way to make it stop.
//!
//! Both are ambient, not parameters: a wait can happen at the bottom of any call (a lock, a cold read, a full tier, a flush), and handing a
//! context down to every one of them would cost the calls that never wait. Where nothing waits, nothing here is looked at.
//!
//! - [`WaitHooks`] are a face's, once for the process. Python's lets go of its interpreter lock before a wait, so that a hot get does not
//!   pay for that, and looks whether a signal handler raised.
//! - [`Cancellation`] is one piece of work's, on the thread that does it.
//!
//! Whoever asks [`check_cancelled`] leaves as after any other error, and holds no lock that others wait for: a hook may take its time.

use crate::error::{Error, Result};
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Copies of so many bytes are announced as waits are.
pub(crate) const LONG_COPY_BYTES: u64 = 64 << 10;

/// What a face wants to be told. Called on any thread that uses the engine, its background threads included.
#[derive(Debug, Clone, Copy)]
pub struct WaitHooks {
    /// The calling thread may sleep, read from a disk or work long before it returns. May be called several times in one call, also with locks
    /// held: it must not wait itself.
    pub before_wait: fn(),
    /// Whether the call should be given up. Called without locks.
    pub is_cancelled: fn() -> bool,
}

static HOOKS: OnceLock<WaitHooks> = OnceLock::new();

thread_local! {
    static CURRENT: RefCell<Option<Cancellation>> = const { RefCell::new(None) };
    static IS_UNINTERRUPTED: Cell<bool> = const { Cell::new(false) };
}

/// Sets the process's hooks; false where it has some already.
pub fn set_wait_hooks(hooks: WaitHooks) -> bool {
    HOOKS.set(hooks).is_ok()
}

/// Makes long work stop: between two segments, or two partitions, with nothing half done left behind.
#[derive(Debug, Clone, Default)]
pub struct Cancellation(Arc<AtomicBool>);

impl Cancellation {
    /// From now on the work ends with [`Error::Cancelled`] where it next can.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the work is to end.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// That of the work which this thread is at, for threads that help with it; one of its own where there is none.
    pub(crate) fn current() -> Self {
        CURRENT.with_borrow(Clone::clone).unwrap_or_default()
    }

    /// Does work, on this thread, that can be cancelled from others.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        struct Restore(Option<Cancellation>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        let _restore = Restore(CURRENT.replace(Some(self.clone())));
        work()
    }
}

/// To be called before anything that may sleep, wait for a disk, or copy a lot.
#[cold]
pub(crate) fn before_wait() {
    if let Some(hooks) = HOOKS.get() {
        (hooks.before_wait)();
    }
}

/// Does work that nobody is asked about meanwhile, for a lock is held that others wait for: a signal's handler that is run in the middle of it
/// and uses the store would wait for that lock itself, for ever.
pub(crate) fn uninterrupted<T>(work: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            IS_UNINTERRUPTED.set(self.0);
        }
    }
    let _restore = Restore(IS_UNINTERRUPTED.replace(true));
    work()
}

/// To be asked where work that may last over a second can be given up.
///
/// # Errors
/// Cancelled.
pub(crate) fn check_cancelled() -> Result<()> {
    if IS_UNINTERRUPTED.get() {
        return Ok(());
    }
    let is_cancelled = CURRENT
        .with_borrow(|current| current.as_ref().is_some_and(Cancellation::is_cancelled))
        || HOOKS.get().is_some_and(|hooks| (hooks.is_cancelled)());
    if is_cancelled { Err(cancelled()) } else { Ok(()) }
}

#[cold]
fn cancelled() -> Error {
    Error::Cancelled(
        "the call was given up before its end because its caller asked for that: call again to have it done"
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_work_that_is_cancelled_stops() {
        let (outer, inner) = (Cancellation::default(), Cancellation::default());
        outer.run(|| {
            inner.cancel();
            assert!(check_cancelled().is_ok());
            assert_eq!(inner.run(check_cancelled).unwrap_err().name(), "Cancelled");
            assert!(check_cancelled().is_ok());
            outer.cancel();
            assert!(check_cancelled().is_err());
            assert!(std::thread::spawn(check_cancelled).join().unwrap().is_ok());
            let helper = Cancellation::current();
            assert!(std::thread::spawn(move || helper.run(check_cancelled)).join().unwrap().is_err());
        });
        assert!(check_cancelled().is_ok());
    }

    #[test]
    fn work_under_a_lock_goes_on_and_what_follows_it_does_not() {
        let cancellation = Cancellation::default();
        cancellation.cancel();
        cancellation.run(|| {
            uninterrupted(|| {
                uninterrupted(|| ());
                assert!(check_cancelled().is_ok());
            });
            assert!(check_cancelled().is_err());
        });
    }
}
