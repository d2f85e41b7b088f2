//! A stored value as a read-only buffer, without a copy.
//!
//! The engine's view pins the value's segment, so its bytes stay while Python holds the buffer: through
//! overwrite, delete, eviction, compaction and the close of the store. The pin goes when the last memoryview
//! or array on it does.

use std::ffi::c_int;

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::gil::Kept;

/// The owner of the memory behind what `Store.view` returns.
#[pyclass(frozen, module = "thermae._thermae")]
pub(crate) struct View {
    pub(crate) view: Kept<thermae_core::View>,
}

#[pymethods]
impl View {
    fn __len__(&self) -> usize {
        self.view.len()
    }

    /// # Safety
    ///
    /// Called by the interpreter, with a buffer to be filled.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("there is no buffer to fill"));
        }
        let bytes: &[u8] = &slf.get().view;
        // SAFETY: `bytes` stay at their address while the object lives, and the buffer takes a reference to
        // the object; the last flag but one makes it read-only, so that a request for a writable buffer is
        // refused.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                bytes.as_ptr().cast_mut().cast(),
                bytes.len() as ffi::Py_ssize_t,
                1,
                flags,
            )
        };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}
