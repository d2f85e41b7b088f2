//! Numbers and flags that verbs take: what is none of them is refused as thermae refuses, and told what to give.

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyInt};

use crate::errors::{invalid_option, overflow, wrong_type};

/// What a counter is changed by, or begins with.
#[derive(Clone, Copy)]
pub(crate) struct Count(pub(crate) i64);

/// The version of a key: 0 is absent.
#[derive(Clone, Copy)]
pub(crate) struct Version(pub(crate) u64);

/// Yes or no. Truth of other values is not guessed: "no" would be true.
#[derive(Clone, Copy)]
pub(crate) struct Flag(pub(crate) bool);

#[cold]
fn kind_of(object: &Bound<'_, PyAny>) -> String {
    object.get_type().name().map_or_else(|_| "?".to_string(), |kind| kind.to_string())
}

/// An integer as Python sees one, but no bool, which is most likely another argument gone astray. NumPy's are taken too.
fn is_integer(object: &Bound<'_, PyAny>) -> bool {
    !object.is_instance_of::<PyBool>()
        && (object.is_instance_of::<PyInt>() || object.hasattr("__index__").unwrap_or(false))
}

impl FromPyObject<'_, '_> for Count {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Count> {
        let py = object.py();
        if let Ok(number) = object.cast_exact::<PyInt>()
            && let Ok(number) = number.extract()
        {
            return Ok(Count(number));
        }
        if !is_integer(&object) {
            let kind = kind_of(&object);
            return Err(wrong_type(py, format!("a counter counts in integers, not {kind}: give an int")));
        }
        object.extract().map(Count).map_err(|_| {
            overflow(py, format!("{} is outside of the 64-bit integers, in which counters count", *object))
        })
    }
}

impl FromPyObject<'_, '_> for Version {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Version> {
        let py = object.py();
        if !is_integer(&object) {
            let kind = kind_of(&object);
            return Err(wrong_type(
                py,
                format!(
                    "a version must be an int, not {kind}: give what version(key) returns, or 0 for absent"
                ),
            ));
        }
        object.extract().map(Version).map_err(|_| {
            invalid_option(
                py,
                format!("{} is no version: give what version(key) returns, or 0 for absent", *object),
            )
        })
    }
}

impl FromPyObject<'_, '_> for Flag {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Flag> {
        object.extract().map(Flag).map_err(|_: PyErr| {
            let kind = kind_of(&object);
            wrong_type(
                object.py(),
                format!("if_absent, if_present and keep_ttl are True or False, not {kind}"),
            )
        })
    }
}
