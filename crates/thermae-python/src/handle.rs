//! An open store with its codecs: one value read or written, which every verb is made of.
//!
//! Small values are copied with the GIL held, because that takes less time than letting it go and back. It is
//! released for a large value, and where the engine waits (see `gil`).

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyByteArray, PyBytes};
use thermae_core::{Condition, RecordMeta, SetOptions, SetOutcome, Update};

use crate::destination::{Arrived, Destination};
use crate::encoding::ENCODING_ARRAY;
use crate::errors::{IntoPython, invalid_option, wrong_type};
use crate::gil;
use crate::opened::{Entered, Opened};
use crate::value::{Encoded, Naming, decode, encode};

/// Longer lifetimes than 30,000 years are taken for mistakes.
const TTL_SECONDS_MAX: f64 = 1e12;

/// A store, shared by the Python object and its iterators.
pub(crate) struct Handle {
    pub(crate) opened: Arc<Opened>,
    /// The `thermae.codecs.Codecs` of the store.
    pub(crate) codecs: Py<PyAny>,
}

impl Handle {
    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Handle {
        Handle { opened: Arc::clone(&self.opened), codecs: self.codecs.clone_ref(py) }
    }

    /// One value, copied once, with what its record says.
    #[inline]
    pub(crate) fn read<'py>(
        &self,
        py: Python<'py>,
        key: &[u8],
        naming: Naming<'_, 'py>,
    ) -> PyResult<Option<(RecordMeta, Bound<'py, PyAny>)>> {
        let core = self.opened.enter(py)?;
        let mut destination = Destination::new(py);
        let found = core.call(|core| core.get_into(key, |meta| destination.prepare(meta)));
        destination.finish()?;
        let Some(meta) = found.into_python(py)? else { return Ok(None) };
        let value = decode(py, meta.encoding, destination.arrived(&meta), &self.codecs, naming)?;
        Ok(Some((meta, value)))
    }

    /// One value, which is then gone; one that does not decode stays.
    pub(crate) fn take<'py>(
        &self,
        py: Python<'py>,
        key: &[u8],
        naming: Naming<'_, 'py>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let core = self.opened.enter(py)?;
        let mut taken = None;
        let outcome = core.call(|core| {
            core.update(key, &mut |current| {
                // The engine holds no lock here. Decoding takes the GIL, and may run Python code.
                gil::take_back();
                taken = None;
                let Some(current) = current else { return Ok(Update::Keep) };
                let decoded = self.decode(py, current.meta.encoding, current.value, naming);
                let update = if decoded.is_ok() { Update::Delete } else { Update::Keep };
                taken = Some(decoded);
                Ok(update)
            })
        });
        outcome.into_python(py)?;
        taken.transpose()
    }

    /// A value that is in memory of ours.
    pub(crate) fn decode<'py>(
        &self,
        py: Python<'py>,
        encoding: u8,
        value: &[u8],
        naming: Naming<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let arrived = Arrived::Object(if encoding == ENCODING_ARRAY {
            PyByteArray::new(py, value).into_any()
        } else {
            PyBytes::new(py, value).into_any()
        });
        decode(py, encoding, arrived, &self.codecs, naming)
    }

    pub(crate) fn encode<'a, 'py>(
        &self,
        value: &'a Bound<'py, PyAny>,
        codec: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<(u8, Encoded<'a, 'py>)> {
        encode(value, &self.codecs, codec)
    }

    /// Writes one value; false where the condition did not hold.
    #[inline]
    pub(crate) fn write<'py>(
        &self,
        py: Python<'py>,
        key: &[u8],
        value: &Bound<'py, PyAny>,
        writing: Writing<'_, 'py>,
    ) -> PyResult<bool> {
        // Before the call into the engine begins: encoding may run Python code.
        let (encoding, encoded) = encode(value, &self.codecs, writing.codec)?;
        self.write_bytes(py, key, encoding, encoded.as_bytes(), writing)
    }

    /// Writes the bytes of a value; false where the condition did not hold.
    #[inline]
    pub(crate) fn write_bytes<'py>(
        &self,
        py: Python<'py>,
        key: &[u8],
        encoding: u8,
        bytes: &[u8],
        writing: Writing<'_, 'py>,
    ) -> PyResult<bool> {
        let core = self.opened.enter(py)?;
        let options = SetOptions {
            encoding,
            expires_at_ms: expires_at_ms(&core, writing.ttl)?,
            // What Python stores needs none: the encoding says all. Flags that another client gave the key were of the value replaced.
            flags: 0,
            keep_ttl: writing.keep_ttl,
            condition: writing.condition,
        };
        let outcome = core.call_with_bytes(bytes.len() as u64, |core| core.set(key, bytes, &options));
        Ok(matches!(outcome.into_python(py)?, SetOutcome::Stored(_)))
    }
}

/// When a value written now with this lifetime expires; 0 is never.
#[inline]
pub(crate) fn expires_at_ms(core: &Entered<'_, '_>, ttl: Option<&Bound<'_, PyAny>>) -> PyResult<u64> {
    match ttl {
        None => Ok(0),
        Some(ttl) => Ok(core.call(thermae_core::Store::now_ms).saturating_add(lifetime_ms(ttl)?)),
    }
}

/// How a value is to be written.
#[derive(Clone, Copy, Default)]
pub(crate) struct Writing<'a, 'py> {
    /// Seconds from now, as the caller gave them.
    pub(crate) ttl: Option<&'a Bound<'py, PyAny>>,
    pub(crate) keep_ttl: bool,
    pub(crate) condition: Condition,
    pub(crate) codec: Option<&'a Bound<'py, PyAny>>,
}

/// A lifetime in whole milliseconds, rounded up: at least one, so that a value is never born expired.
///
/// Raises `InvalidOptionError` for what is no lifetime.
#[pyfunction]
pub(crate) fn lifetime_ms(ttl: &Bound<'_, PyAny>) -> PyResult<u64> {
    let py = ttl.py();
    // True and False are numbers to Python, but no lifetimes: some other argument went astray.
    let seconds = if ttl.is_instance_of::<PyBool>() { None } else { ttl.extract::<f64>().ok() };
    let Some(seconds) = seconds else {
        let kind = ttl.get_type().name()?;
        return Err(wrong_type(py, format!("ttl must be a number of seconds or None, not {kind}")));
    };
    // Written so that NaN is refused as well.
    if !(seconds > 0.0 && seconds <= TTL_SECONDS_MAX) {
        return Err(invalid_option(
            py,
            format!(
                "ttl = {seconds:?} is no lifetime: give seconds above 0 and up to {TTL_SECONDS_MAX:e}, or None for ever; delete(key) removes a key"
            ),
        ));
    }
    Ok((seconds * 1000.0).ceil() as u64)
}
