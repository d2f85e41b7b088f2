//! The GIL, released late and taken back early.
//!
//! A get asks the engine for a value whose size is known only in the middle of the call, when the engine asks
//! for memory to copy it into. [`LateRelease`] lets the GIL go exactly then, if the copy is worth it, and
//! takes it back before anything touches Python again. Releasing around every call was rejected: it costs as
//! much as a small get, and with several threads each release may hand the interpreter to another thread for
//! a whole switch interval.

use std::ptr;

use pyo3::prelude::*;

/// From this many bytes on, a copy takes longer than handing the GIL over and back.
pub(crate) const COPY_BYTES_RELEASE: u64 = 64 << 10;

/// Holds the GIL, or the state needed to take it back. Stays on the thread that made it.
pub(crate) struct LateRelease {
    /// Null while the GIL is held.
    state: *mut pyo3::ffi::PyThreadState,
}

impl LateRelease {
    /// The token proves that the GIL is held.
    pub(crate) fn new(_py: Python<'_>) -> LateRelease {
        LateRelease { state: ptr::null_mut() }
    }

    /// Lets other Python threads run. Until `take_back`, nothing on this thread may touch a Python object.
    pub(crate) fn release(&mut self) {
        if self.state.is_null() {
            // SAFETY: the GIL is held, as `state` is null; the constructor was given proof that it was, and
            // raw pointers keep this type on its thread.
            self.state = unsafe { pyo3::ffi::PyEval_SaveThread() };
        }
    }

    #[inline]
    pub(crate) fn take_back(&mut self) {
        if !self.state.is_null() {
            // SAFETY: `state` came from PyEval_SaveThread on this thread and is used once.
            unsafe { pyo3::ffi::PyEval_RestoreThread(self.state) };
            self.state = ptr::null_mut();
        }
    }
}

impl Drop for LateRelease {
    fn drop(&mut self) {
        self.take_back();
    }
}
