//! The GIL, let go of only by calls that turn out to wait or to copy much, and taken back before they return.
//!
//! Handing the GIL over and back costs as much as a small get, and where several threads want it, each time may
//! give the interpreter away for a whole switch interval. So a call keeps it until the engine says that it is
//! about to wait: for a cold read, a lock, room in a full tier, a flush. The engine's hook [`release`] then lets
//! the GIL go in the middle of the call, and it stays gone until the call is over ([`Taking`]), or until the
//! engine asks for memory to copy a value into. What a hot call pays is one look at a counter.
//!
//! Taking it back right after each wait was rejected: the engine may hold a lock then, which every process would
//! wait for as long as some other Python thread keeps the GIL.
//!
//! Each thread knows how it stands with the GIL, as the hook may be called on any thread: those of Python in a
//! call that keeps the GIL, those in [`detached`] work, which has let go of it already, and those that are none
//! of Python's. All calls into the engine go through `opened`, and all releases through here; a lint refuses
//! `Python::detach` elsewhere in this crate.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pyo3::ffi;
use pyo3::prelude::*;
use thermae_core::WaitHooks;

/// From this many bytes on, a copy takes longer than handing the GIL over and back.
pub(crate) const COPY_BYTES_RELEASE: u64 = 64 << 10;
/// How long Ctrl-C may go unnoticed.
pub(crate) const SIGNALS_EVERY: Duration = Duration::from_millis(20);

/// How a thread that is inside of the engine stands with the GIL.
#[derive(Clone, Copy, PartialEq)]
enum Standing {
    /// It has it, or is no thread of Python's.
    Untouched,
    /// It let it go in the middle of a call; this takes it back.
    Released(*mut ffi::PyThreadState),
    /// It does detached work.
    Detached,
    /// It does work in which nothing of this is to happen: nobody would learn of what a signal handler raised.
    Unheard,
}

thread_local! {
    static STANDING: Cell<Standing> = const { Cell::new(Standing::Untouched) };
    /// When this thread last looked for signals.
    static LOOKED: Cell<Option<Instant>> = const { Cell::new(None) };
    /// What a signal handler raised in the middle of a call.
    static RAISED: Cell<Option<PyErr>> = const { Cell::new(None) };
}

/// Threads that let go of the GIL in the middle of a call. A thread that is one of them sees its own count.
static RELEASED: AtomicUsize = AtomicUsize::new(0);

/// Tells the engine what to call when it waits.
pub(crate) fn install_hooks() {
    // A second interpreter in the process finds the same functions set.
    thermae_core::set_wait_hooks(WaitHooks { before_wait: release, is_cancelled: has_signal_raised });
}

/// Lets other Python threads run, if this thread holds them up. Until `take_back`, nothing on this thread may
/// touch a Python object.
pub(crate) fn release() {
    // SAFETY: may be called without the GIL. A thread without a state is none of Python's and holds no GIL.
    let is_pythons = || unsafe { !ffi::PyGILState_GetThisThreadState().is_null() };
    if STANDING.get() == Standing::Untouched && is_pythons() {
        // SAFETY: a thread of Python's is inside of the engine either with the GIL, or in `detached`.
        let state = unsafe { ffi::PyEval_SaveThread() };
        STANDING.set(Standing::Released(state));
        RELEASED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Takes the GIL back, if this thread let it go in the middle of a call.
#[inline]
pub(crate) fn take_back() {
    if RELEASED.load(Ordering::Relaxed) != 0 {
        take_back_own();
    }
}

#[cold]
fn take_back_own() {
    if let Standing::Released(state) = STANDING.get() {
        STANDING.set(Standing::Untouched);
        RELEASED.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: the state came from PyEval_SaveThread on this thread and is used once.
        unsafe { ffi::PyEval_RestoreThread(state) };
    }
}

/// Ends a call into the engine that kept the GIL: it is held again, however the call ends.
pub(crate) struct Taking;

impl Drop for Taking {
    #[inline]
    fn drop(&mut self) {
        take_back();
    }
}

/// Does work without the GIL from the start.
#[allow(clippy::disallowed_methods, reason = "the one place that notes it")]
pub(crate) fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    py.detach(|| as_standing(Standing::Detached, work))
}

/// The same, for work that goes on whatever signals arrive.
#[allow(clippy::disallowed_methods, reason = "as above")]
pub(crate) fn detached_unheard<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    py.detach(|| as_standing(Standing::Unheard, work))
}

/// Something of the engine's that is dropped wherever Python drops its owner: with the GIL, which stays.
///
/// The last of a store's iterators and views leaves the store, for which it may have to wait a moment; there is no
/// call around it at whose end the GIL would be taken back.
pub(crate) struct Kept<T>(ManuallyDrop<T>);

impl<T> Kept<T> {
    pub(crate) fn new(value: T) -> Kept<T> {
        Kept(ManuallyDrop::new(value))
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Kept<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        // SAFETY: dropped here alone, and not used afterwards.
        as_standing(Standing::Unheard, || unsafe { ManuallyDrop::drop(&mut self.0) });
    }
}

fn as_standing<T>(standing: Standing, work: impl FnOnce() -> T) -> T {
    struct Restore(Standing);
    impl Drop for Restore {
        fn drop(&mut self) {
            STANDING.set(self.0);
        }
    }
    let _restore = Restore(STANDING.replace(standing));
    work()
}

/// Whether a signal handler raised: the engine then gives the call up. Only Python's main thread has signals to
/// look for; on others this finds none.
fn has_signal_raised() -> bool {
    // SAFETY: as in `release`.
    if unsafe { ffi::PyGILState_GetThisThreadState().is_null() } {
        return false;
    }
    if LOOKED.get().is_some_and(|looked| looked.elapsed() < SIGNALS_EVERY) {
        return false;
    }
    LOOKED.set(Some(Instant::now()));
    let standing = STANDING.get();
    // A handler may itself use a store.
    match standing {
        Standing::Untouched => look_for_signals(),
        Standing::Detached => as_standing(Standing::Untouched, look_for_signals),
        Standing::Released(_) => {
            take_back();
            let has_raised = look_for_signals();
            release();
            has_raised
        }
        Standing::Unheard => false,
    }
}

/// Runs the handlers of signals that have arrived; whether one raised. With the GIL, in which exceptions are kept and dropped.
fn look_for_signals() -> bool {
    Python::attach(|py| match py.check_signals() {
        Ok(()) => false,
        Err(raised) => {
            RAISED.set(Some(raised));
            true
        }
    })
}

/// What a signal handler raised in the call that was given up, once.
pub(crate) fn take_raised() -> Option<PyErr> {
    RAISED.take()
}
