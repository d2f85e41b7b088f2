//! Many keys in one call: the engine looks ahead in memory, and the cost of a call is paid once.
//!
//! The caller's collection is copied into a tuple first, so that whatever another thread does to it
//! meanwhile, the keys' memory stays. Writes are cut into pieces of bounded size, so that a generator of any
//! length may be written.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyIterator, PyList, PyString, PyTuple};
use thermae_core::SetOptions;

use crate::destination::{Arrived, Destinations};
use crate::errors::{IntoPython, invalid_option, wrong_type};
use crate::handle::{Handle, expires_at_ms};
use crate::key::key_bytes;
use crate::value::{Naming, decode};

/// So many items, or so many bytes of values, go to the engine at once.
const PIECE_ITEMS_MAX: usize = 1024;
const PIECE_BYTES_MAX: usize = 8 << 20;
/// From so many keys on, a batch of deletes is worth releasing the GIL for.
const DELETE_KEYS_RELEASE: usize = 64;

/// The keys as a tuple that owns them.
fn owned_keys<'py>(keys: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTuple>> {
    if keys.is_instance_of::<PyString>() || keys.is_instance_of::<PyBytes>() {
        return Err(wrong_type(
            keys.py(),
            "keys must be an iterable of keys, not one key: write [key], or use the verb for one key"
                .to_string(),
        ));
    }
    if let Ok(list) = keys.cast::<PyList>() {
        return Ok(list.to_tuple());
    }
    // SAFETY: `keys` is a valid object, and the result is checked.
    unsafe { Bound::from_owned_ptr_or_err(keys.py(), ffi::PySequence_Tuple(keys.as_ptr())) }
        .map(|tuple| tuple.cast_into::<PyTuple>().expect("PySequence_Tuple makes tuples"))
        .map_err(|error| {
            let kind = keys.get_type().name().map_or_else(|_| "?".to_string(), |kind| kind.to_string());
            if keys.try_iter().is_ok() {
                return error;
            }
            wrong_type(keys.py(), format!("keys must be an iterable of keys, not {kind}"))
        })
}

/// The values of `keys` in order, with `default` for what is missing.
pub(crate) fn get_many<'py>(
    handle: &Handle,
    keys: &Bound<'py, PyAny>,
    default: &Bound<'py, PyAny>,
    naming: Naming<'_, 'py>,
) -> PyResult<Bound<'py, PyList>> {
    let py = keys.py();
    let owned = owned_keys(keys)?;
    let owned: Vec<_> = owned.iter_borrowed().collect();
    let keys = owned.iter().map(|key| key_bytes(key)).collect::<PyResult<Vec<&[u8]>>>()?;
    let mut metas = vec![None; keys.len()];
    let core = handle.opened.enter(py)?;
    let mut destinations = Destinations::new(py, keys.len());
    let outcome = core.call(|core| {
        core.get_many_into(&keys, &mut |position, meta| destinations.prepare(position, meta), &mut metas)
    });
    destinations.finish()?;
    outcome.into_python(py)?;
    let mut values = Vec::with_capacity(metas.len());
    for (position, meta) in metas.iter().enumerate() {
        values.push(match meta {
            Some(meta) => {
                let arrived = Arrived::Object(destinations.take(position));
                decode(py, meta.encoding, arrived, &handle.codecs, naming)?
            }
            None => default.clone(),
        });
    }
    PyList::new(py, values)
}

/// Deletes every key; answers how many there were.
pub(crate) fn delete_many(handle: &Handle, keys: &Bound<'_, PyAny>) -> PyResult<u64> {
    let py = keys.py();
    let owned = owned_keys(keys)?;
    let owned: Vec<_> = owned.iter_borrowed().collect();
    let keys = owned.iter().map(|key| key_bytes(key)).collect::<PyResult<Vec<&[u8]>>>()?;
    let core = handle.opened.enter(py)?;
    let work = |core: &thermae_core::Store| core.delete_many(&keys);
    if keys.len() >= DELETE_KEYS_RELEASE { core.detached(work) } else { core.call(work) }.into_python(py)
}

/// Writes every item of a mapping, or of an iterable of pairs.
pub(crate) fn set_many<'py>(
    handle: &Handle,
    items: &Bound<'py, PyAny>,
    ttl: Option<&Bound<'py, PyAny>>,
    codec: Option<&Bound<'py, PyAny>>,
) -> PyResult<()> {
    let expires_at_ms = {
        let core = handle.opened.enter(items.py())?;
        expires_at_ms(&core, ttl)?
    };
    let mut pairs = pairs_of(items)?;
    loop {
        let mut piece = Vec::new();
        let mut piece_bytes = 0;
        while piece.len() < PIECE_ITEMS_MAX && piece_bytes < PIECE_BYTES_MAX {
            let Some(pair) = pairs.next() else { break };
            let (key, value) = pair?;
            piece_bytes += apparent_bytes(&value);
            piece.push((key, value));
        }
        if piece.is_empty() {
            return Ok(());
        }
        set_piece(handle, &piece, expires_at_ms, codec)?;
    }
}

type Pair<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>);

fn pairs_of<'py>(items: &Bound<'py, PyAny>) -> PyResult<Box<dyn Iterator<Item = PyResult<Pair<'py>>> + 'py>> {
    if let Ok(dict) = items.cast_exact::<PyDict>() {
        // A list of its own: encoding a value may run Python code, which may change the dict.
        let pairs = dict.items();
        return Ok(Box::new((0..pairs.len()).map(move |position| pair(&pairs.get_item(position)?))));
    }
    let iterator: Bound<'py, PyIterator> = if items.hasattr("items")? {
        items.call_method0("items")?.try_iter()?
    } else {
        items.try_iter().map_err(|_| {
            let kind = items.get_type().name().map_or_else(|_| "?".to_string(), |kind| kind.to_string());
            wrong_type(items.py(), format!("items must be a mapping or an iterable of pairs, not {kind}"))
        })?
    };
    Ok(Box::new(iterator.map(|item| pair(&item?))))
}

/// As `dict.update` takes pairs and refuses others; but text is none, whose letters are no key and value.
fn pair<'py>(item: &Bound<'py, PyAny>) -> PyResult<Pair<'py>> {
    let tuple = match item.cast::<PyList>() {
        Ok(list) => list.to_tuple(),
        Err(_) => item.cast::<PyTuple>().cloned().map_err(|_| {
            let kind = item.get_type().name().map_or_else(|_| "?".to_string(), |kind| kind.to_string());
            wrong_type(item.py(), format!("each item must be a pair of key and value, not {kind}"))
        })?,
    };
    if tuple.len() != 2 {
        return Err(invalid_option(
            item.py(),
            format!("each item must be a pair of key and value, and one has {} members", tuple.len()),
        ));
    }
    Ok((tuple.get_item(0)?, tuple.get_item(1)?))
}

/// What a value holds on to while its piece is gathered: exact for what is large, as far as Python says.
fn apparent_bytes(value: &Bound<'_, PyAny>) -> usize {
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return bytes.as_bytes().len();
    }
    if let Ok(text) = value.cast::<PyString>() {
        return text.len().unwrap_or(0);
    }
    value.getattr("nbytes").and_then(|bytes| bytes.extract()).unwrap_or(0)
}

fn set_piece<'py>(
    handle: &Handle,
    piece: &[Pair<'py>],
    expires_at_ms: u64,
    codec: Option<&Bound<'py, PyAny>>,
) -> PyResult<()> {
    let Some((first, _)) = piece.first() else { return Ok(()) };
    let py = first.py();
    let mut encoded = Vec::with_capacity(piece.len());
    let mut value_bytes = 0_u64;
    for (key, value) in piece {
        let (encoding, value) = handle.encode(value, codec)?;
        value_bytes += value.as_bytes().len() as u64;
        encoded.push((key_bytes(key)?, value, encoding));
    }
    let items: Vec<(&[u8], &[u8], u8)> =
        encoded.iter().map(|(key, value, encoding)| (*key, value.as_bytes(), *encoding)).collect();
    let options = SetOptions { expires_at_ms, ..SetOptions::default() };
    let core = handle.opened.enter(py)?;
    core.call_with_bytes(value_bytes, |core| core.set_many(&items, &options)).into_python(py)
}
