//! An open store of the engine, given back at `close` although other threads may be in the middle of a call.
//!
//! The engine leaves the store, as a participant, when its value is dropped. Waiting for that until Python
//! forgets its object would surprise: after `close`, the store must be free to be destroyed. So every call
//! enters and leaves here, and whoever leaves last after `close` drops the engine's value. All of this
//! happens with the GIL held, which makes plain cells enough; a lock or a reference count taken atomically
//! would cost a tenth of a small get.

use std::cell::{Cell, UnsafeCell};
use std::sync::Arc;

use pyo3::prelude::*;
use thermae_core::Error;

use crate::errors::{IntoPython, to_python};
use crate::gil::{self, COPY_BYTES_RELEASE};

/// A store that may be closed at any time.
pub(crate) struct Opened {
    /// None once it was given back.
    core: UnsafeCell<Option<Arc<thermae_core::Store>>>,
    /// How many calls are inside.
    inside: Cell<usize>,
    is_closing: Cell<bool>,
    location: String,
}

// SAFETY: the cells are only touched by methods that are given a Python token or are part of `Entered`, which
// holds one: so the GIL is held, and no two threads are there at once. The engine's store itself is Send and
// Sync.
unsafe impl Send for Opened {}
// SAFETY: as above.
unsafe impl Sync for Opened {}

impl Opened {
    pub(crate) fn new(core: thermae_core::Store, location: String) -> Opened {
        Opened {
            core: UnsafeCell::new(Some(Arc::new(core))),
            inside: Cell::new(0),
            is_closing: Cell::new(false),
            location,
        }
    }

    /// Begins a call.
    #[inline]
    pub(crate) fn enter<'a, 'py>(&'a self, py: Python<'py>) -> PyResult<Entered<'a, 'py>> {
        // SAFETY: with the GIL held nobody else looks at the cell, and it is only emptied while nobody is
        // inside.
        match unsafe { &*self.core.get() } {
            Some(core) if !self.is_closing.get() => {
                self.inside.set(self.inside.get() + 1);
                Ok(Entered { opened: self, core, py })
            }
            _ => Err(self.closed_error(py)),
        }
    }

    #[cold]
    fn closed_error(&self, py: Python<'_>) -> PyErr {
        to_python(py, &Error::Closed(format!("{} was closed; open it again to use it", self.location)))
    }

    pub(crate) fn is_closed(&self, py: Python<'_>) -> bool {
        self.enter(py).map_or(true, |entered| entered.call(thermae_core::Store::is_closed))
    }

    /// Closes the store; calls that are inside end as the engine lets them.
    pub(crate) fn close(&self, py: Python<'_>) -> PyResult<()> {
        let Ok(entered) = self.enter(py) else { return Ok(()) };
        self.is_closing.set(true);
        entered.detached(thermae_core::Store::close).into_python(py)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(core) = self.core.get_mut().take() {
            // Closing flushes and waits for the background threads; others may run meanwhile, unless Python
            // is at its end. There is nobody to tell about a failure: who wants to know calls close().
            let closed = Python::try_attach(|py| gil::detached_unheard(py, move || core.close()));
            drop(closed);
        }
    }
}

/// A call that is inside; holds the GIL, but for what the engine is called with.
pub(crate) struct Entered<'a, 'py> {
    opened: &'a Opened,
    core: &'a Arc<thermae_core::Store>,
    py: Python<'py>,
}

impl Entered<'_, '_> {
    /// Calls the engine with the GIL, which it lets go where it waits.
    #[inline]
    pub(crate) fn call<T>(&self, work: impl FnOnce(&thermae_core::Store) -> T) -> T {
        let _taking = gil::Taking;
        work(self.core)
    }

    /// Calls the engine without the GIL.
    pub(crate) fn detached<T: Send>(&self, work: impl FnOnce(&thermae_core::Store) -> T + Send) -> T {
        let core: &thermae_core::Store = self.core;
        gil::detached(self.py, || work(core))
    }

    /// Calls the engine with a value of so many bytes: without the GIL where copying them is worth it.
    #[inline]
    pub(crate) fn call_with_bytes<T: Send>(
        &self,
        value_bytes: u64,
        work: impl FnOnce(&thermae_core::Store) -> T + Send,
    ) -> T {
        if value_bytes >= COPY_BYTES_RELEASE { self.detached(work) } else { self.call(work) }
    }

    /// For work that goes on if its caller leaves.
    pub(crate) fn share(&self) -> Arc<thermae_core::Store> {
        Arc::clone(self.core)
    }
}

impl Drop for Entered<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        let inside = self.opened.inside.get() - 1;
        self.opened.inside.set(inside);
        if inside == 0 && self.opened.is_closing.get() {
            // SAFETY: the GIL is held, and nobody is inside, so nobody refers to what is dropped.
            drop(unsafe { (*self.opened.core.get()).take() }.map(gil::Kept::new));
        }
    }
}
