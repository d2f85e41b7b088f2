//! What the engine or a server reports, as JSON: Python has types for it (`thermae.reports`), and reads what it needs.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// The text of a report.
pub(crate) fn json(report: &impl serde::Serialize) -> PyResult<String> {
    serde_json::to_string(report).map_err(|error| PyRuntimeError::new_err(error.to_string()))
}
