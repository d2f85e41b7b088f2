//! Long work on another thread, so that Ctrl-C works while the caller waits.
//!
//! Python runs signal handlers on its main thread only, between two bytecodes; a call that waits inside the
//! engine for a minute would answer Ctrl-C after that minute. So the work runs elsewhere, and the caller
//! looks for signals in between. When a signal handler raises, the caller leaves at once and the work ends on
//! its own: nothing in the engine can be torn out of the middle of a flush.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::gil::{self, SIGNALS_EVERY};

/// Runs `work` without the GIL, and raises what a signal handler raises while it runs.
pub(crate) fn interruptibly<T: Send + 'static>(
    py: Python<'_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> PyResult<T> {
    let (sender, receiver) = sync_channel(1);
    let worker = thread::Builder::new()
        .name(format!("thermae-{name}"))
        // Nobody listens any more after an interrupt; the result is then dropped.
        .spawn(move || drop(sender.send(work())))?;
    // A receiver may be used by one thread at a time, which is more than `detach` is able to see.
    let receiver = std::sync::Mutex::new(receiver);
    loop {
        let received = gil::detached(py, || {
            receiver.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv_timeout(SIGNALS_EVERY)
        });
        match received {
            Ok(result) => {
                // The worker only has its end left to do.
                drop(gil::detached(py, || worker.join()));
                return Ok(result);
            }
            Err(RecvTimeoutError::Timeout) => py.check_signals()?,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(PyRuntimeError::new_err(format!(
                    "the engine failed while it was to {name}: its message is above; this is a defect of thermae"
                )));
            }
        }
    }
}
