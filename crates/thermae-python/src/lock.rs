//! A named lock of the store, waited for in slices so that Ctrl-C works.

use std::time::{Duration, Instant};

use pyo3::prelude::*;
use thermae_core::Error;

use crate::errors::{IntoPython, to_python};
use crate::wait::SIGNALS_EVERY;

/// Proof that a lock is held; `thermae.locks.Lock` keeps it.
#[pyclass(frozen, module = "thermae._thermae")]
pub(crate) struct LockToken {
    pub(crate) token: thermae_core::LockToken,
}

/// Waits for the lock called `name`, for ever where `timeout` is none.
pub(crate) fn acquire(
    py: Python<'_>,
    store: &thermae_core::Store,
    name: &[u8],
    timeout: Option<Duration>,
) -> PyResult<LockToken> {
    // A duration of centuries is no deadline at all.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut slice = Duration::ZERO;
    loop {
        let waited = slice;
        match py.detach(|| store.lock_acquire(name, Some(millis(waited)))) {
            Ok(token) => return Ok(LockToken { token }),
            Err(Error::Timeout(_)) => {}
            Err(error) => return Err(to_python(py, &error)),
        }
        py.check_signals()?;
        slice = match (timeout, deadline) {
            (Some(timeout), Some(deadline)) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(to_python(py, &timed_out(name, timeout)));
                }
                left.min(SIGNALS_EVERY)
            }
            _ => SIGNALS_EVERY,
        };
    }
}

/// Rounded up, so that a rest of a millisecond is waited for and not spun through.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

fn timed_out(name: &[u8], timeout: Duration) -> Error {
    Error::Timeout(format!(
        "the lock {:?} was not free within {} s: wait longer, or see which process holds it",
        String::from_utf8_lossy(name),
        timeout.as_secs_f64()
    ))
}

/// Gives the lock back.
pub(crate) fn release(py: Python<'_>, store: &thermae_core::Store, token: &LockToken) -> PyResult<()> {
    py.detach(|| store.lock_release(&token.token)).into_python(py)
}
