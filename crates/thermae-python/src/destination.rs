//! Fresh Python memory that the engine copies a value into, so that a value is copied exactly once.
//!
//! The engine calls `prepare` when it knows a record's size, and again when it has to retry; then it copies.
//! Short texts and numbers go to a buffer on the stack, because they become objects of another shape;
//! everything else becomes the very `bytes` object that is returned (an array: the `bytearray` that it stays
//! backed by, so that it is writable).

use std::mem::MaybeUninit;
use std::ptr;

use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use thermae_core::RecordMeta;

use crate::encoding::{ENCODING_ARRAY, ENCODING_BYTES, ENCODING_SCALAR_LAST};
use crate::gil::{self, COPY_BYTES_RELEASE};

/// Holds most texts, and every number but the largest integers.
const SCRATCH_BYTES: usize = 256;

/// An owned `bytes` or `bytearray` that is being written, or nothing.
struct Slot(*mut pyo3::ffi::PyObject);

impl Slot {
    /// Replaces what the slot holds by new memory, and returns its address: null where there is no memory.
    /// The GIL must be held.
    fn allocate(&mut self, meta: &RecordMeta) -> *mut u8 {
        self.clear();
        let Ok(len) = pyo3::ffi::Py_ssize_t::try_from(meta.value_len) else { return ptr::null_mut() };
        let is_array = meta.encoding == ENCODING_ARRAY;
        // SAFETY: the GIL is held; a null source asks for memory without contents, which is ours alone until
        // it is handed out, after the engine has written it. A failure sets Python's error, which `finish`
        // raises anew.
        unsafe {
            self.0 = if is_array {
                pyo3::ffi::PyByteArray_FromStringAndSize(ptr::null(), len)
            } else {
                pyo3::ffi::PyBytes_FromStringAndSize(ptr::null(), len)
            };
            if self.0.is_null() {
                pyo3::ffi::PyErr_Clear();
                ptr::null_mut()
            } else if is_array {
                pyo3::ffi::PyByteArray_AsString(self.0).cast()
            } else {
                pyo3::ffi::PyBytes_AsString(self.0).cast()
            }
        }
    }

    /// Lets go of what the slot holds. The GIL must be held.
    fn clear(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the slot owns one reference, and the GIL is held.
            unsafe { pyo3::ffi::Py_DECREF(self.0) };
            self.0 = ptr::null_mut();
        }
    }

    /// Hands the object over.
    fn take<'py>(&mut self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        let object = std::mem::replace(&mut self.0, ptr::null_mut());
        // SAFETY: the pointer is null or owns one reference.
        unsafe { Bound::from_owned_ptr_or_opt(py, object) }
    }
}

#[cold]
fn out_of_memory() -> PyErr {
    PyMemoryError::new_err(
        "this process has no memory for a copy of the value: read it with view(key), which makes none",
    )
}

/// Where one value goes.
pub(crate) struct Destination<'py> {
    py: Python<'py>,
    slot: Slot,
    failed: bool,
    scratch: [MaybeUninit<u8>; SCRATCH_BYTES],
}

/// A value that has arrived.
pub(crate) enum Arrived<'a, 'py> {
    Object(Bound<'py, PyAny>),
    Scratch(&'a [u8]),
}

impl<'py> Destination<'py> {
    pub(crate) fn new(py: Python<'py>) -> Destination<'py> {
        Destination {
            py,
            slot: Slot(ptr::null_mut()),
            failed: false,
            scratch: [MaybeUninit::uninit(); SCRATCH_BYTES],
        }
    }

    fn fits_scratch(meta: &RecordMeta) -> bool {
        meta.encoding != ENCODING_BYTES
            && meta.encoding <= ENCODING_SCALAR_LAST
            && meta.value_len <= SCRATCH_BYTES as u64
    }

    /// Memory for the value; null where there is none, on which the engine gives up.
    #[inline]
    pub(crate) fn prepare(&mut self, meta: &RecordMeta) -> *mut u8 {
        gil::take_back();
        if Self::fits_scratch(meta) {
            self.failed = false;
            return self.scratch.as_mut_ptr().cast();
        }
        let address = self.slot.allocate(meta);
        self.failed = address.is_null();
        if !self.failed && meta.value_len >= COPY_BYTES_RELEASE {
            gil::release();
        }
        address
    }

    /// Ends the call into the engine: the GIL is held again, and a failed allocation is an error.
    #[inline]
    pub(crate) fn finish(&mut self) -> PyResult<()> {
        gil::take_back();
        if self.failed { Err(out_of_memory()) } else { Ok(()) }
    }

    /// The value of the record that the engine says it copied.
    #[inline]
    pub(crate) fn arrived(&mut self, meta: &RecordMeta) -> Arrived<'_, 'py> {
        if Self::fits_scratch(meta) {
            let len = meta.value_len as usize;
            // SAFETY: the engine has written `value_len` bytes at the address that `prepare` gave for this
            // record, and `fits_scratch` bounds them.
            return Arrived::Scratch(unsafe {
                std::slice::from_raw_parts(self.scratch.as_ptr().cast(), len)
            });
        }
        let object = self.slot.take(self.py).expect("the engine asks for memory before it copies");
        Arrived::Object(object)
    }
}

impl Drop for Destination<'_> {
    fn drop(&mut self) {
        gil::take_back();
        self.slot.clear();
    }
}

/// Where the values of a batch go; all of them become objects first.
pub(crate) struct Destinations<'py> {
    py: Python<'py>,
    slots: Vec<Slot>,
    failed: bool,
}

impl<'py> Destinations<'py> {
    pub(crate) fn new(py: Python<'py>, count: usize) -> Destinations<'py> {
        let slots = (0..count).map(|_| Slot(ptr::null_mut())).collect();
        Destinations { py, slots, failed: false }
    }

    /// As [`Destination::prepare`], for the value at `position`.
    #[inline]
    pub(crate) fn prepare(&mut self, position: usize, meta: &RecordMeta) -> *mut u8 {
        gil::take_back();
        let address = self.slots[position].allocate(meta);
        self.failed |= address.is_null();
        if !address.is_null() && meta.value_len >= COPY_BYTES_RELEASE {
            gil::release();
        }
        address
    }

    pub(crate) fn finish(&mut self) -> PyResult<()> {
        gil::take_back();
        if self.failed { Err(out_of_memory()) } else { Ok(()) }
    }

    #[inline]
    pub(crate) fn take(&mut self, position: usize) -> Bound<'py, PyAny> {
        self.slots[position].take(self.py).expect("the engine asks for memory before it copies")
    }
}

impl Drop for Destinations<'_> {
    fn drop(&mut self) {
        gil::take_back();
        self.slots.iter_mut().for_each(Slot::clear);
    }
}
