//! A named lock of the store, waited for without the GIL and so that Ctrl-C works.

use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyBool;
use thermae_core::Error;

use crate::errors::{IntoPython, invalid_option, wrong_type};
use crate::opened::Entered;

/// Whoever waits longer may as well wait for ever, and no clock of any machine overflows.
const TIMEOUT_SECONDS_MAX: f64 = 1e9;

/// Proof that a lock is held; `thermae.locks.Lock` keeps it.
#[pyclass(frozen, module = "thermae._thermae")]
pub(crate) struct LockToken {
    pub(crate) token: thermae_core::LockToken,
}

/// Waits for the lock called `name`: `timeout` seconds, or for ever where there is none.
pub(crate) fn acquire(
    core: &Entered<'_, '_>,
    name: &[u8],
    timeout: Option<&Bound<'_, PyAny>>,
    py: Python<'_>,
) -> PyResult<LockToken> {
    let timeout = timeout.map(seconds).transpose()?;
    let timeout = match timeout {
        Some(seconds) if seconds <= TIMEOUT_SECONDS_MAX => Some(duration(py, seconds)?),
        Some(seconds) if seconds.is_nan() => Some(duration(py, seconds)?),
        _ => None,
    };
    let mut raised = None;
    // The engine asks now and then while it waits; only Python's main thread has signals to look for.
    let mut interrupted = || {
        Python::attach(|py| {
            py.check_signals().map_err(|error| {
                raised = Some(error);
                Error::Timeout("a signal handler raised".to_string())
            })
        })
    };
    let outcome = core.detached(|core| core.lock_acquire(name, timeout, &mut interrupted));
    match raised {
        Some(error) => Err(error),
        None => Ok(LockToken { token: outcome.into_python(py)? }),
    }
}

fn seconds(timeout: &Bound<'_, PyAny>) -> PyResult<f64> {
    let seconds = if timeout.is_instance_of::<PyBool>() { None } else { timeout.extract().ok() };
    seconds.ok_or_else(|| {
        let kind = timeout.get_type().name().map_or_else(|_| "?".to_string(), |kind| kind.to_string());
        wrong_type(timeout.py(), format!("timeout must be a number of seconds or None, not {kind}"))
    })
}

fn duration(py: Python<'_>, seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        invalid_option(
            py,
            format!("timeout = {seconds} is no time to wait: give seconds, 0 not to wait, or None for ever"),
        )
    })
}
