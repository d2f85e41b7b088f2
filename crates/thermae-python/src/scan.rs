//! Iteration over keys or items, a bounded batch of keys at a time.
//!
//! A key that is present throughout is given once; one that comes or goes meanwhile, at most once. Values are
//! read when they are asked for: reading a batch of them ahead was rejected, as a batch of large values is no
//! bounded memory.

use std::collections::VecDeque;
use std::sync::Mutex;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::errors::to_python;
use crate::gil::{self, Kept};
use crate::handle::Handle;
use crate::key::key_object;
use crate::value::Naming;

/// What `Store.keys`, `Store.items` and iteration over a store run on.
#[pyclass(module = "thermae._thermae")]
pub(crate) struct Scan {
    handle: Handle,
    /// None once everything was given.
    scan: Option<Kept<Mutex<thermae_core::Scan>>>,
    batch: VecDeque<Vec<u8>>,
    with_values: bool,
}

impl Scan {
    pub(crate) fn new(handle: Handle, scan: thermae_core::Scan, with_values: bool) -> Scan {
        Scan { handle, scan: Some(Kept::new(Mutex::new(scan))), batch: VecDeque::new(), with_values }
    }

    fn next_key(&mut self, py: Python<'_>) -> PyResult<Option<Vec<u8>>> {
        while self.batch.is_empty() {
            let Some(scan) = &mut self.scan else { return Ok(None) };
            let scan = scan
                .get_mut()
                .map_err(|_| PyRuntimeError::new_err("this iterator failed before: start a new one"))?;
            match gil::detached(py, || scan.next_batch()) {
                Ok(Some(batch)) => self.batch.extend(batch.into_iter().map(|(key, _)| key)),
                Ok(None) => self.scan = None,
                Err(error) => {
                    // Over for good: nothing of a closed store is held on to.
                    self.scan = None;
                    return Err(to_python(py, &error));
                }
            }
        }
        Ok(self.batch.pop_front())
    }
}

#[pymethods]
impl Scan {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        while let Some(key) = self.next_key(py)? {
            if !self.with_values {
                return Ok(Some(key_object(py, &key)));
            }
            if let Some((_, value)) = self.handle.read(py, &key, Naming::default())? {
                return Ok(Some((key_object(py, &key), value).into_pyobject(py)?.into_any()));
            }
        }
        Ok(None)
    }
}
