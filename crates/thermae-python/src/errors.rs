//! The engine's errors as Python exceptions: the class of the same meaning from `thermae.errors`.
//!
//! The classes are written in Python, where their bases and docstrings are read; they are looked up when an
//! error happens, which is never the hot path. A table of classes created here was rejected: it would hide
//! them from type checkers.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use thermae_core::Error;

use crate::gil::take_raised;

/// The Python class for each variant of the engine's enum, by name.
fn class_name(variant: &str) -> &'static str {
    match variant {
        "Io" => "StoreIOError",
        "Full" => "StoreFullError",
        "InvalidKey" => "InvalidKeyError",
        "ValueTooLarge" => "ValueTooLargeError",
        "InvalidOption" => "InvalidOptionError",
        "NotAStore" => "NotAStoreError",
        "WrongLayout" => "WrongLayoutError",
        "InUse" => "StoreInUseError",
        "Permission" => "StorePermissionError",
        "ReadOnly" => "ReadOnlyStoreError",
        "Closed" => "StoreClosedError",
        "Corrupt" => "CorruptStoreError",
        "Conflict" => "TransactionConflictError",
        "WrongType" => "WrongTypeError",
        "Overflow" => "CounterOverflowError",
        "Timeout" => "LockTimeoutError",
        "WritesStopped" => "WritesStoppedError",
        "TooManyParticipants" => "TooManyParticipantsError",
        "TransactionTooLarge" => "TransactionTooLargeError",
        "Cancelled" => "CallCancelledError",
        // A variant added to the engine alone; a test compares the two sets, so no release gets here.
        _ => "ThermaeError",
    }
}

/// Variant to class, for the test that both sides name the same set.
pub(crate) fn class_names(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let names = PyDict::new(py);
    for variant in Error::NAMES {
        names.set_item(variant, class_name(variant))?;
    }
    Ok(names)
}

/// The exception for an error of the engine.
#[cold]
pub(crate) fn to_python(py: Python<'_>, error: &Error) -> PyErr {
    if matches!(error, Error::Cancelled(_))
        && let Some(raised) = take_raised()
    {
        return raised;
    }
    let class = match py.import("thermae.errors").and_then(|module| module.getattr(class_name(error.name())))
    {
        Ok(class) => class,
        Err(failure) => return failure,
    };
    let message = error.to_string();
    let instance = match error.os_error() {
        Some(number) => class.call1((number, message)),
        None => class.call1((message,)),
    };
    match instance {
        Ok(instance) => PyErr::from_value(instance),
        Err(failure) => failure,
    }
}

/// Makes `?` work on the engine's results where a Python token is at hand.
pub(crate) trait IntoPython<T> {
    fn into_python(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> IntoPython<T> for thermae_core::Result<T> {
    #[inline]
    fn into_python(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| to_python(py, &error))
    }
}

#[cold]
pub(crate) fn wrong_type(py: Python<'_>, message: String) -> PyErr {
    to_python(py, &Error::WrongType(message))
}

#[cold]
pub(crate) fn invalid_key(py: Python<'_>, message: String) -> PyErr {
    to_python(py, &Error::InvalidKey(message))
}

#[cold]
pub(crate) fn invalid_option(py: Python<'_>, message: String) -> PyErr {
    to_python(py, &Error::InvalidOption(message))
}

#[cold]
pub(crate) fn overflow(py: Python<'_>, message: String) -> PyErr {
    to_python(py, &Error::Overflow(message))
}
