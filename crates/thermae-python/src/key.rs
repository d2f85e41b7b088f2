//! Keys: `str` (its UTF-8) or `bytes`, borrowed from the Python object without a copy.
//!
//! A `str` and its UTF-8 bytes are the same key. A key comes back as `str` where it is valid UTF-8, else as
//! `bytes`: what a key was written as is not stored, because over other faces a key has bytes only.

use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::errors::{invalid_key, wrong_type};

/// The key's bytes, which live as long as the Python object.
#[inline]
pub(crate) fn key_bytes<'a>(key: &'a Bound<'_, PyAny>) -> PyResult<&'a [u8]> {
    if let Ok(text) = key.cast::<PyString>() {
        return text.to_str().map(str::as_bytes).map_err(|_| not_utf8(key));
    }
    if let Ok(bytes) = key.cast::<PyBytes>() {
        return Ok(bytes.as_bytes());
    }
    Err(wrong_kind(key))
}

#[cold]
fn not_utf8(key: &Bound<'_, PyAny>) -> PyErr {
    let shown = key.repr().map_or_else(|_| "?".to_string(), |repr| repr.to_string_lossy().into_owned());
    invalid_key(
        key.py(),
        format!("the key {shown} has lone surrogates and so no UTF-8: encode it to bytes yourself"),
    )
}

#[cold]
fn wrong_kind(key: &Bound<'_, PyAny>) -> PyErr {
    let kind = key.get_type().name().map_or_else(|_| "?".to_string(), |name| name.to_string());
    wrong_type(
        key.py(),
        format!("a key must be str or bytes, not {kind}: convert it, for instance with str(key)"),
    )
}

/// A stored key as Python sees it.
pub(crate) fn key_object<'py>(py: Python<'py>, key: &[u8]) -> Bound<'py, PyAny> {
    match std::str::from_utf8(key) {
        Ok(text) => PyString::new(py, text).into_any(),
        Err(_) => PyBytes::new(py, key).into_any(),
    }
}

/// A key's bytes: those of a `bytes`, or the UTF-8 of a `str`.
#[pyfunction]
#[pyo3(name = "key_bytes")]
pub(crate) fn key_bytes_object<'py>(key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    Ok(PyBytes::new(key.py(), key_bytes(key)?))
}

/// What a mapping raises for a key that it does not have.
#[cold]
pub(crate) fn missing(key: &Bound<'_, PyAny>) -> PyErr {
    PyKeyError::new_err(key.clone().unbind())
}
