//! Values: scalars are encoded and decoded here, everything else by the `thermae.codecs.Codecs` object of the
//! store.
//!
//! The encoding is a number in the record's header; the bytes carry no mark of their own, so that a `str`
//! written here reads as those same bytes over any other face. An integer is decimal text and a float the
//! shortest text that reads back as the same number. Only exact types take the short way: a subclass may mean
//! more than its base.

use std::fmt::Write;

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyString};

use crate::destination::Arrived;
use crate::encoding::{
    ENCODING_BOOL, ENCODING_BYTES, ENCODING_FLOAT, ENCODING_INT, ENCODING_NONE, ENCODING_SCALAR_LAST,
    ENCODING_STR,
};
use crate::errors::wrong_type;

/// The longest text is that of a float: "-2.2250738585072014e-308".
const NUMBER_BYTES_MAX: usize = 32;

/// A value as bytes, borrowed from its object where the object has them.
pub(crate) enum Encoded<'a, 'py> {
    Borrowed(&'a [u8]),
    Number(NumberText),
    Object(Bound<'py, PyBytes>),
}

impl Encoded<'_, '_> {
    #[inline]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Encoded::Borrowed(bytes) => bytes,
            Encoded::Number(text) => &text.bytes[..text.len],
            Encoded::Object(object) => object.as_bytes(),
        }
    }
}

/// The text of a number, without an allocation.
pub(crate) struct NumberText {
    bytes: [u8; NUMBER_BYTES_MAX],
    len: usize,
}

impl NumberText {
    fn of(number: std::fmt::Arguments<'_>) -> NumberText {
        let mut text = NumberText { bytes: [0; NUMBER_BYTES_MAX], len: 0 };
        text.write_fmt(number).expect("no number of 64 bits has a longer text");
        text
    }
}

impl Write for NumberText {
    fn write_str(&mut self, part: &str) -> std::fmt::Result {
        let end = self.len + part.len();
        self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?.copy_from_slice(part.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Encodes a value. `codecs` is asked for everything that is no plain scalar, with the codec named by the
/// caller, if any.
pub(crate) fn encode<'a, 'py>(
    value: &'a Bound<'py, PyAny>,
    codecs: &Py<PyAny>,
    codec: Option<&Bound<'py, PyAny>>,
) -> PyResult<(u8, Encoded<'a, 'py>)> {
    if let Ok(bytes) = value.cast_exact::<PyBytes>() {
        return Ok((ENCODING_BYTES, Encoded::Borrowed(bytes.as_bytes())));
    }
    if let Ok(text) = value.cast_exact::<PyString>() {
        let bytes = text.to_str().map_err(|_| surrogates(value.py()))?.as_bytes();
        return Ok((ENCODING_STR, Encoded::Borrowed(bytes)));
    }
    if let Ok(number) = value.cast_exact::<PyInt>() {
        return Ok((ENCODING_INT, encode_int(number)?));
    }
    if let Ok(number) = value.cast_exact::<PyFloat>() {
        return Ok((ENCODING_FLOAT, Encoded::Number(NumberText::of(format_args!("{:?}", number.value())))));
    }
    if let Ok(flag) = value.cast_exact::<PyBool>() {
        return Ok((ENCODING_BOOL, Encoded::Borrowed(if flag.is_true() { b"1" } else { b"0" })));
    }
    if value.is_none() {
        return Ok((ENCODING_NONE, Encoded::Borrowed(b"")));
    }
    let (encoding, object): (u8, Bound<'py, PyAny>) =
        codecs.bind(value.py()).call_method1("encode", (value, codec))?.extract()?;
    Ok((encoding, Encoded::Object(object.cast_into::<PyBytes>()?)))
}

fn encode_int<'a, 'py>(number: &'a Bound<'py, PyInt>) -> PyResult<Encoded<'a, 'py>> {
    if let Ok(small) = number.extract::<i64>() {
        return Ok(Encoded::Number(NumberText::of(format_args!("{small}"))));
    }
    let py = number.py();
    // Python limits the digits of a conversion, because it is quadratic.
    let text = number.str().map_err(|_| {
        wrong_type(py, "an integer of this many digits has no text in Python: store it as bytes".to_string())
    })?;
    Ok(Encoded::Object(PyBytes::new(py, text.to_str()?.as_bytes())))
}

#[cold]
fn surrogates(py: Python<'_>) -> PyErr {
    wrong_type(
        py,
        "a str with lone surrogates has no UTF-8: store value.encode(\"utf-8\", \"surrogatepass\") instead"
            .to_string(),
    )
}

/// What a caller named for one call, beyond what the store was opened with: a codec, and the type to convert
/// to.
#[derive(Clone, Copy, Default)]
pub(crate) struct Naming<'a, 'py> {
    pub(crate) codec: Option<&'a Bound<'py, PyAny>>,
    pub(crate) kind: Option<&'a Bound<'py, PyAny>>,
}

/// Decodes a value that has arrived.
#[inline]
pub(crate) fn decode<'py>(
    py: Python<'py>,
    encoding: u8,
    arrived: Arrived<'_, 'py>,
    codecs: &Py<PyAny>,
    naming: Naming<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let value = match arrived {
        Arrived::Object(object) if encoding == ENCODING_BYTES => object,
        Arrived::Object(object) if encoding > ENCODING_SCALAR_LAST => {
            return codecs.bind(py).call_method1("decode", (encoding, object, naming.codec, naming.kind));
        }
        Arrived::Object(object) => decode_scalar(py, encoding, object.cast::<PyBytes>()?.as_bytes())?,
        Arrived::Scratch(bytes) => decode_scalar(py, encoding, bytes)?,
    };
    match naming.kind {
        Some(kind) => codecs.bind(py).call_method1("convert", (value, kind)),
        None => Ok(value),
    }
}

fn decode_scalar<'py>(py: Python<'py>, encoding: u8, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let value = match (encoding, bytes) {
        (ENCODING_STR, _) => PyString::from_bytes(py, bytes).ok().map(Bound::into_any),
        (ENCODING_INT, _) => decode_int(py, bytes),
        (ENCODING_FLOAT, _) => std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| text.parse::<f64>().ok())
            .map(|number| PyFloat::new(py, number).into_any()),
        (ENCODING_BOOL, b"0" | b"1") => Some(PyBool::new(py, bytes == b"1").to_owned().into_any()),
        (ENCODING_NONE, b"") => Some(py.None().into_bound(py)),
        _ => None,
    };
    value.ok_or_else(|| undecodable(py, encoding, bytes.len()))
}

fn decode_int<'py>(py: Python<'py>, bytes: &[u8]) -> Option<Bound<'py, PyAny>> {
    let text = std::str::from_utf8(bytes).ok()?;
    if let Ok(small) = text.parse::<i64>() {
        return Some(PyInt::new(py, small).into_any());
    }
    // Python would also take spaces and underscores, which nobody here writes.
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    py.get_type::<PyInt>().call1((text,)).ok()
}

#[cold]
fn undecodable(py: Python<'_>, encoding: u8, len: usize) -> PyErr {
    let name = ["bytes", "str", "int", "float", "bool", "None"][usize::from(encoding)];
    wrong_type(
        py,
        format!(
            "a value of {len} bytes is marked as {name} and is none: read its bytes with view(key), and ask who wrote it"
        ),
    )
}
