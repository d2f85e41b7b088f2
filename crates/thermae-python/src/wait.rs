//! Long work on another thread, so that Ctrl-C works while the caller waits, and stops the work.
//!
//! Python runs signal handlers on its main thread only, between two bytecodes; a call that works inside the
//! engine for a minute would answer Ctrl-C after that minute. So the work runs elsewhere, and the caller looks
//! for signals in between. When a handler raises, the work is cancelled: it ends at the next segment, and removes
//! what it wrote. The caller waits for that, so that nothing goes on behind its back; but not for ever, as a disk
//! may hang, and not after another Ctrl-C. Looking for signals on the working thread itself was rejected: one
//! sync of a file may take seconds.

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use thermae_core::Cancellation;

use crate::gil::{self, SIGNALS_EVERY};

/// How long the caller waits for cancelled work to end.
const CLEAN_UP_MAX: Duration = Duration::from_secs(5);

/// Runs `work` without the GIL, and raises what a signal handler raises while it runs.
pub(crate) fn interruptibly<T: Send + 'static>(
    py: Python<'_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> PyResult<T> {
    let (sender, receiver) = sync_channel(1);
    let cancellation = Cancellation::default();
    let workers = cancellation.clone();
    let worker = thread::Builder::new()
        .name(format!("thermae-{name}"))
        // Nobody may be listening any more; the result is then dropped.
        .spawn(move || drop(sender.send(workers.run(work))))?;
    // A receiver may be used by one thread at a time, which is more than `detach` is able to see.
    let receiver = Mutex::new(receiver);
    loop {
        match gil::detached(py, || receive(&receiver)) {
            Ok(result) => {
                // The worker only has its end left to do.
                drop(gil::detached(py, || worker.join()));
                return Ok(result);
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Err(raised) = py.check_signals() {
                    cancellation.cancel();
                    wait_for_end(py, &receiver, worker);
                    return Err(raised);
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(PyRuntimeError::new_err(format!(
                    "the engine failed while it was to {name}: its message is above; this is a defect of thermae"
                )));
            }
        }
    }
}

/// Waits until cancelled work has ended, for a bounded time, or until a signal handler raises again.
fn wait_for_end<T: Send>(py: Python<'_>, receiver: &Mutex<Receiver<T>>, worker: JoinHandle<()>) {
    let until = Instant::now() + CLEAN_UP_MAX;
    // What the work came to all the same is dropped there and then: it may be a store, which has to be closed.
    let is_at_work = || matches!(receive(receiver), Err(RecvTimeoutError::Timeout));
    while gil::detached_unheard(py, is_at_work) {
        // The first one is what the caller raises.
        if py.check_signals().is_err() || Instant::now() > until {
            return;
        }
    }
    drop(gil::detached_unheard(py, || worker.join()));
}

fn receive<T>(receiver: &Mutex<Receiver<T>>) -> Result<T, RecvTimeoutError> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(SIGNALS_EVERY)
}
