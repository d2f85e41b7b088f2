//! The class that Python derives its `Store` from: one method per verb, each a conversion and a call.
//!
//! Frozen: any number of threads may be in any number of methods. What a verb means is documented on
//! `thermae.Store` in `docs/python.md`; the stub `_thermae.pyi` has the types.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyMemoryView};
use thermae_core::{BatchOp, Condition, Location, Options, RecordMeta};

use crate::arguments::{Count, Flag, Version};
use crate::batch;
use crate::errors::{IntoPython, invalid_option};
use crate::gil::{self, Kept};
use crate::handle::{Handle, Writing, expires_at_ms};
use crate::key::{key_bytes, missing};
use crate::lock::{self, LockToken};
use crate::opened::Opened;
use crate::options::{engine_options, word};
use crate::report::json;
use crate::scan::Scan;
use crate::value::{Encoded, Naming};
use crate::view::View;
use crate::wait::interruptibly;

/// An argument that may be left away, where None is a value like any other.
enum Given<'py> {
    Missing,
    Value(Bound<'py, PyAny>),
}

impl<'py> FromPyObject<'_, 'py> for Given<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Given<'py>> {
        Ok(Given::Value(object.to_owned()))
    }
}

fn default_or_none<'py>(py: Python<'py>, default: Option<Bound<'py, PyAny>>) -> Bound<'py, PyAny> {
    default.unwrap_or_else(|| py.None().into_bound(py))
}

/// The engine's half of `thermae.Store`.
#[pyclass(frozen, subclass, mapping, module = "thermae._thermae")]
pub(crate) struct Store {
    handle: Handle,
    /// What stays as it was when the store was opened; durability and `when_full` are asked for anew.
    config: thermae_core::Config,
}

impl Store {
    #[inline]
    fn meta(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<Option<RecordMeta>> {
        let key = key_bytes(key)?;
        self.handle.opened.enter(py)?.call(|core| core.meta(key)).into_python(py)
    }
}

/// Opening, closing, and what the store was opened as.
#[pymethods]
impl Store {
    #[new]
    #[pyo3(signature = (location, options, codecs))]
    fn new(
        py: Python<'_>,
        location: &str,
        options: &Bound<'_, PyDict>,
        codecs: Py<PyAny>,
    ) -> PyResult<Store> {
        let location = Location::parse(location).into_python(py)?;
        let options = engine_options(options)?;
        // Opening may recover, which takes as long as there is data to read.
        let core = interruptibly(py, "open", move || thermae_core::Store::open(&location, &options))?;
        let core = core.into_python(py)?;
        let config = core.config();
        let opened = Arc::new(Opened::new(core, config.location.clone()));
        Ok(Store { handle: Handle { opened, codecs }, config })
    }

    /// Closes this handle; closing twice is fine. What durability promises is flushed; views stay valid.
    ///
    /// >>> store.close()
    /// >>> store.closed
    /// True
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.handle.opened.close(py)
    }

    /// Whether this handle was closed.
    #[getter]
    fn closed(&self, py: Python<'_>) -> bool {
        self.handle.opened.is_closed(py)
    }

    /// Where it is: the absolute path of its directory, or "shm://name".
    #[getter]
    fn location(&self) -> &str {
        &self.config.location
    }

    /// Whether this handle may only read.
    #[getter]
    fn read_only(&self) -> bool {
        self.config.read_only
    }

    /// Size of the hot tier.
    #[getter]
    fn hot_bytes(&self) -> u64 {
        self.config.hot_bytes
    }

    /// Size of the warm tier; 0 where there is none.
    #[getter]
    fn warm_bytes(&self) -> u64 {
        self.config.warm_bytes
    }

    /// Size of the cold tier; 0 where there is none.
    #[getter]
    fn cold_bytes(&self) -> u64 {
        self.config.cold_bytes
    }

    /// Size of a frame.
    #[getter]
    fn frame_bytes(&self) -> u64 {
        u64::from(self.config.frame_bytes)
    }

    /// What a write that returned survives: "none", "everysec" or "always". Set it to change it, for all
    /// processes.
    #[getter]
    fn durability(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(self.handle.opened.enter(py)?.call(|core| core.durability().as_str()))
    }

    #[setter]
    fn set_durability(&self, py: Python<'_>, durability: &Bound<'_, PyAny>) -> PyResult<()> {
        let durability = word("durability", durability)?.parse().into_python(py)?;
        self.handle.opened.enter(py)?.detached(|core| core.set_durability(durability)).into_python(py)
    }

    /// What a full store does: "evict" or "error". Set it to change it, for all processes.
    #[getter]
    fn when_full(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.handle.opened.enter(py)?.call(|core| core.config().when_full))
    }

    #[setter]
    fn set_when_full(&self, py: Python<'_>, when_full: &Bound<'_, PyAny>) -> PyResult<()> {
        let when_full = word("when_full", when_full)?.parse().into_python(py)?;
        self.handle.opened.enter(py)?.detached(|core| core.set_when_full(when_full)).into_python(py)
    }

    // The mapping protocol.

    fn __getitem__<'py>(&self, py: Python<'py>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        match self.handle.read(py, key_bytes(key)?, Naming::default())? {
            Some((_, value)) => Ok(value),
            None => Err(missing(key)),
        }
    }

    fn __setitem__(&self, py: Python<'_>, key: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.handle.write(py, key_bytes(key)?, value, Writing::default()).map(drop)
    }

    fn __delitem__(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.delete(py, key)? { Ok(()) } else { Err(missing(key)) }
    }

    fn __contains__(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        Ok(self.meta(py, key)?.is_some())
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.handle.opened.enter(py)?.detached(thermae_core::Store::len).into_python(py)? as usize)
    }

    // Verbs for one key.

    /// The key's value, or `default`; as `as_type` where one is given, checked.
    ///
    /// Raises `WrongTypeError` where the value is not of that type, or needs a codec that nobody named.
    ///
    /// >>> store["pair"] = (1, "a")
    /// >>> store.get("pair"), store.get("nothing", 0)
    /// ([1, 'a'], 0)
    /// >>> store.get("pair", as_type=tuple[int, str])
    /// (1, 'a')
    #[pyo3(signature = (key, default=None, *, codec=None, as_type=None))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
        codec: Option<&Bound<'py, PyAny>>,
        as_type: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match self.handle.read(py, key_bytes(key)?, Naming { codec, kind: as_type })? {
            Some((_, value)) => Ok(value),
            None => Ok(default_or_none(py, default)),
        }
    }

    /// The key's value and its version; `default` and 0 where it is missing.
    ///
    /// >>> store.get_with_version("key")
    /// (None, 0)
    /// >>> store["key"] = "value"
    /// >>> value, version = store.get_with_version("key")
    /// >>> value, version == store.version("key")
    /// ('value', True)
    #[pyo3(signature = (key, default=None, *, codec=None, as_type=None))]
    fn get_with_version<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
        codec: Option<&Bound<'py, PyAny>>,
        as_type: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, u64)> {
        match self.handle.read(py, key_bytes(key)?, Naming { codec, kind: as_type })? {
            Some((meta, value)) => Ok((value, meta.version)),
            None => Ok((default_or_none(py, default), 0)),
        }
    }

    /// The key's version, which grows with every change; 0 where it is missing.
    ///
    /// >>> store.version("key")
    /// 0
    fn version(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<u64> {
        Ok(self.meta(py, key)?.map_or(0, |meta| meta.version))
    }

    /// The size of the key's value as stored, without reading it; None where it is missing.
    ///
    /// >>> store["key"] = "value"
    /// >>> store.value_bytes("key")
    /// 5
    fn value_bytes(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<Option<u64>> {
        Ok(self.meta(py, key)?.map(|meta| meta.value_len))
    }

    /// Seconds until the key expires; None for never. Raises `KeyError` where it is missing.
    ///
    /// >>> store.set("key", 1, ttl=60)
    /// True
    /// >>> 59 < store.ttl("key") <= 60
    /// True
    fn ttl(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<Option<f64>> {
        match self.meta(py, key)? {
            None => Err(missing(key)),
            Some(meta) if meta.expires_at_ms == 0 => Ok(None),
            Some(meta) => {
                let now_ms = self.handle.opened.enter(py)?.call(thermae_core::Store::now_ms);
                let left_ms = meta.expires_at_ms.saturating_sub(now_ms);
                Ok(Some(left_ms as f64 / 1000.0))
            }
        }
    }

    /// Sets the key's value, to expire after `ttl` seconds; whether it did.
    ///
    /// `if_absent`, `if_present` and `if_version` (0 is absent) say when to; `keep_ttl` keeps the lifetime
    /// that the key has; `codec` encodes what has no encoding of its own.
    ///
    /// >>> store.set("key", [1, 2], ttl=60)
    /// True
    /// >>> store.set("key", 3, if_absent=True)
    /// False
    #[pyo3(
        signature = (key, value, ttl=None, *, if_absent=Flag(false), if_present=Flag(false), if_version=None, keep_ttl=Flag(false), codec=None),
        text_signature = "($self, key, value, ttl=None, *, if_absent=False, if_present=False, if_version=None, keep_ttl=False, codec=None)"
    )]
    #[allow(clippy::too_many_arguments, reason = "the verb's keywords")]
    fn set(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        ttl: Option<&Bound<'_, PyAny>>,
        if_absent: Flag,
        if_present: Flag,
        if_version: Option<Version>,
        keep_ttl: Flag,
        codec: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let condition = match (if_absent.0, if_present.0, if_version) {
            (false, false, None) => Condition::Always,
            (true, false, None) => Condition::IfAbsent,
            (false, true, None) => Condition::IfPresent,
            (false, false, Some(Version(version))) => Condition::IfVersion(version),
            _ => {
                return Err(invalid_option(
                    py,
                    "if_absent, if_present and if_version exclude each other: give one of them".to_string(),
                ));
            }
        };
        let keep_ttl = keep_ttl.0;
        if keep_ttl && ttl.is_some() {
            return Err(invalid_option(
                py,
                "ttl and keep_ttl exclude each other: give one of them".to_string(),
            ));
        }
        self.handle.write(py, key_bytes(key)?, value, Writing { ttl, keep_ttl, condition, codec })
    }

    /// Sets a key that is missing; whether it did.
    ///
    /// >>> store.add("key", 1), store.add("key", 2)
    /// (True, False)
    #[pyo3(signature = (key, value, ttl=None, *, codec=None))]
    fn add(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        ttl: Option<&Bound<'_, PyAny>>,
        codec: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let writing = Writing { ttl, keep_ttl: false, condition: Condition::IfAbsent, codec };
        self.handle.write(py, key_bytes(key)?, value, writing)
    }

    /// Sets a key that still has this version, 0 being absent; whether it did.
    ///
    /// >>> store.compare_and_set("key", "first", 0)
    /// True
    /// >>> store.compare_and_set("key", "second", store.version("key"))
    /// True
    /// >>> store.compare_and_set("key", "late", 1)
    /// False
    #[pyo3(signature = (key, value, version, ttl=None, *, codec=None))]
    fn compare_and_set(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        version: Version,
        ttl: Option<&Bound<'_, PyAny>>,
        codec: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let writing = Writing { ttl, keep_ttl: false, condition: Condition::IfVersion(version.0), codec };
        self.handle.write(py, key_bytes(key)?, value, writing)
    }

    /// Deletes a key; whether it was there.
    ///
    /// >>> store["key"] = 1
    /// >>> store.delete("key"), store.delete("key")
    /// (True, False)
    fn delete(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let key = key_bytes(key)?;
        let core = self.handle.opened.enter(py)?;
        core.call(|core| core.delete(key)).into_python(py)
    }

    /// Removes a key and returns its value; `default`, or `KeyError` without one, where it is missing.
    ///
    /// >>> store["key"] = 1
    /// >>> store.pop("key"), store.pop("key", None)
    /// (1, None)
    #[pyo3(signature = (key, default=Given::Missing, *, codec=None, as_type=None), text_signature = "($self, key, default=..., *, codec=None, as_type=None)")]
    fn pop<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        default: Given<'py>,
        codec: Option<&Bound<'py, PyAny>>,
        as_type: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match (self.handle.take(py, key_bytes(key)?, Naming { codec, kind: as_type })?, default) {
            (Some(value), _) => Ok(value),
            (None, Given::Value(default)) => Ok(default),
            (None, Given::Missing) => Err(missing(key)),
        }
    }

    /// Gives a key another lifetime in seconds, for ever without one; whether it was there.
    ///
    /// >>> store["key"] = 1
    /// >>> store.touch("key", 60), store.touch("nothing", 60)
    /// (True, False)
    #[pyo3(signature = (key, ttl=None))]
    fn touch(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        ttl: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let key = key_bytes(key)?;
        let core = self.handle.opened.enter(py)?;
        let expires_at_ms = expires_at_ms(&core, ttl)?;
        core.call(|core| core.touch(key, expires_at_ms)).into_python(py)
    }

    /// Adds `by` to an integer and returns the sum; a missing key counts as `default` and gets the lifetime
    /// `ttl`.
    ///
    /// Raises `KeyError` where it is missing and `default` is None, `WrongTypeError` where the value is no
    /// integer, and `CounterOverflowError` where the sum has more than 64 bits.
    ///
    /// >>> store.incr("hits"), store.incr("hits", 10)
    /// (1, 11)
    #[pyo3(signature = (key, by=Count(1), default=Some(Count(0)), ttl=None), text_signature = "($self, key, by=1, default=0, ttl=None)")]
    fn incr(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        by: Count,
        default: Option<Count>,
        ttl: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<i64> {
        let bytes = key_bytes(key)?;
        let core = self.handle.opened.enter(py)?;
        let expires_at_ms = expires_at_ms(&core, ttl)?;
        let default = default.map(|default| default.0);
        let counted = core.call(|core| core.incr(bytes, by.0, default, expires_at_ms));
        counted.into_python(py)?.ok_or_else(|| missing(key))
    }

    /// Subtracts `by` from an integer and returns the difference; else as `incr`.
    ///
    /// >>> store.decr("left", default=10)
    /// 9
    #[pyo3(signature = (key, by=Count(1), default=Some(Count(0)), ttl=None), text_signature = "($self, key, by=1, default=0, ttl=None)")]
    fn decr(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        by: Count,
        default: Option<Count>,
        ttl: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<i64> {
        let negative = by.0.checked_neg().ok_or_else(|| {
            invalid_option(py, format!("by = {} cannot be subtracted in 64 bits: use a smaller step", by.0))
        })?;
        self.incr(py, key, Count(negative), default, ttl)
    }

    /// A read-only memoryview of the value's bytes and their encoding, or None.
    fn _view<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
    ) -> PyResult<Option<(u8, Bound<'py, PyMemoryView>)>> {
        let key = key_bytes(key)?;
        let found = self.handle.opened.enter(py)?.call(|core| core.view(key));
        let Some(view) = found.into_python(py)? else { return Ok(None) };
        let encoding = view.meta().encoding;
        let owner = Bound::new(py, View { view: Kept::new(view) })?;
        Ok(Some((encoding, PyMemoryView::from(owner.as_any())?)))
    }

    // Verbs for many keys.

    /// The values of the keys, in their order, with `default` for those that are missing.
    ///
    /// >>> store.set_many({"a": 1, "b": 2})
    /// >>> store.get_many(["b", "nothing", "a"])
    /// [2, None, 1]
    #[pyo3(signature = (keys, default=None, *, codec=None, as_type=None))]
    fn get_many<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
        codec: Option<&Bound<'py, PyAny>>,
        as_type: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        batch::get_many(&self.handle, keys, &default_or_none(py, default), Naming { codec, kind: as_type })
    }

    /// Sets every item of a mapping or of an iterable of pairs, one by one, to expire after `ttl` seconds.
    ///
    /// >>> store.set_many({"a": 1, "b": 2}, ttl=60)
    /// >>> store.set_many((f"square:{n}", n * n) for n in range(100))
    /// >>> len(store)
    /// 102
    #[pyo3(signature = (items, ttl=None, *, codec=None))]
    fn set_many<'py>(
        &self,
        items: &Bound<'py, PyAny>,
        ttl: Option<&Bound<'py, PyAny>>,
        codec: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        batch::set_many(&self.handle, items, ttl, codec)
    }

    /// Deletes the keys; how many were there.
    ///
    /// >>> store.set_many({"a": 1, "b": 2})
    /// >>> store.delete_many(["a", "b", "nothing"])
    /// 2
    fn delete_many(&self, keys: &Bound<'_, PyAny>) -> PyResult<u64> {
        batch::delete_many(&self.handle, keys)
    }

    /// Deletes every key.
    ///
    /// >>> store["key"] = 1
    /// >>> store.clear()
    /// >>> len(store)
    /// 0
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        self.handle.opened.enter(py)?.detached(thermae_core::Store::clear).into_python(py).map(drop)
    }

    /// Iterates over the keys with a prefix, or over their items.
    fn _scan(&self, py: Python<'_>, prefix: &Bound<'_, PyAny>, with_values: bool) -> PyResult<Scan> {
        let prefix = key_bytes(prefix)?;
        let scan = self.handle.opened.enter(py)?.call(|core| core.scan(prefix));
        Ok(Scan::new(self.handle.clone_ref(py), scan, with_values))
    }

    // Transactions and locks, of which `thermae.transactions` and `thermae.locks` make classes.

    /// A value's encoding and bytes, as a write would store them.
    #[pyo3(signature = (value, codec=None))]
    fn _encode<'py>(
        &self,
        value: &Bound<'py, PyAny>,
        codec: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<(u8, Bound<'py, PyBytes>)> {
        let (encoding, encoded) = self.handle.encode(value, codec)?;
        let bytes = match encoded {
            Encoded::Object(bytes) => bytes,
            other => PyBytes::new(value.py(), other.as_bytes()),
        };
        Ok((encoding, bytes))
    }

    /// The value of an encoding and bytes, as a read would return it.
    #[pyo3(signature = (encoding, data, codec=None, as_type=None))]
    fn _decode<'py>(
        &self,
        py: Python<'py>,
        encoding: u8,
        data: &Bound<'py, PyBytes>,
        codec: Option<&Bound<'py, PyAny>>,
        as_type: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.handle.decode(py, encoding, data.as_bytes(), Naming { codec, kind: as_type })
    }

    /// Stores a value that is encoded already.
    #[pyo3(signature = (key, encoding, data, ttl=None))]
    fn _set_encoded(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        encoding: u8,
        data: &Bound<'_, PyBytes>,
        ttl: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let writing = Writing { ttl, ..Writing::default() };
        self.handle.write_bytes(py, key_bytes(key)?, encoding, data.as_bytes(), writing).map(drop)
    }

    /// Applies all operations, or none: `(key, None)` deletes, `(key, (encoding, bytes, ttl))` sets.
    fn _commit(
        &self,
        py: Python<'_>,
        operations: &Bound<'_, PyList>,
        expected: &Bound<'_, PyList>,
    ) -> PyResult<()> {
        let operations =
            operations.iter().map(|pair| pair.extract()).collect::<PyResult<Vec<Operation<'_>>>>()?;
        let expected =
            expected.iter().map(|pair| pair.extract()).collect::<PyResult<Vec<(Bound<'_, PyAny>, u64)>>>()?;
        let core = self.handle.opened.enter(py)?;
        let operations = operations
            .iter()
            .map(|(key, write)| {
                let key = key_bytes(key)?;
                Ok(match write {
                    None => BatchOp::Delete { key },
                    Some((encoding, value, ttl)) => BatchOp::Set {
                        key,
                        value: value.as_bytes(),
                        encoding: *encoding,
                        expires_at_ms: expires_at_ms(&core, ttl.as_ref())?,
                        flags: 0,
                    },
                })
            })
            .collect::<PyResult<Vec<_>>>()?;
        let expected = expected
            .iter()
            .map(|(key, version)| Ok((key_bytes(key)?, (*version != 0).then_some(*version))))
            .collect::<PyResult<Vec<_>>>()?;
        core.detached(|core| core.transaction(&operations, &expected)).into_python(py)
    }

    fn _lock_acquire(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyAny>,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<LockToken> {
        lock::acquire(&self.handle.opened.enter(py)?, key_bytes(name)?, timeout, py)
    }

    fn _lock_release(&self, py: Python<'_>, token: &LockToken) -> PyResult<bool> {
        self.handle.opened.enter(py)?.detached(|core| core.lock_release(&token.token)).into_python(py)
    }

    // The whole store.

    /// Returns when everything acknowledged so far is durable. Without a cold tier there is nothing to do.
    ///
    /// >>> store.flush()
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        let core = self.handle.opened.enter(py)?.share();
        interruptibly(py, "flush", move || core.flush())?.into_python(py)
    }

    fn _stats(&self, py: Python<'_>) -> PyResult<String> {
        json(&self.handle.opened.enter(py)?.detached(thermae_core::Store::stats).into_python(py)?)
    }

    fn _check(&self, py: Python<'_>, repair: bool) -> PyResult<String> {
        let core = self.handle.opened.enter(py)?.share();
        json(&interruptibly(py, "check", move || core.check(repair))?.into_python(py)?)
    }

    fn _snapshot(&self, py: Python<'_>, directory: PathBuf) -> PyResult<String> {
        let core = self.handle.opened.enter(py)?.share();
        json(&interruptibly(py, "snapshot", move || core.snapshot(&directory))?.into_python(py)?)
    }
}

/// A key, and what to write: nothing deletes.
type Operation<'py> = (Bound<'py, PyAny>, Option<(u8, Bound<'py, PyBytes>, Option<Bound<'py, PyAny>>)>);

/// Makes a store at `location` from a snapshot; answers a report as JSON.
#[pyfunction]
pub(crate) fn restore(
    py: Python<'_>,
    snapshot: PathBuf,
    location: &str,
    options: &Bound<'_, PyDict>,
) -> PyResult<String> {
    let location = Location::parse(location).into_python(py)?;
    let options = engine_options(options)?;
    let work = move || thermae_core::restore(&snapshot, &location, &options);
    json(&interruptibly(py, "restore", work)?.into_python(py)?)
}

/// Removes a store's files and its shared memory.
#[pyfunction]
pub(crate) fn destroy(py: Python<'_>, location: &str) -> PyResult<()> {
    let location = Location::parse(location).into_python(py)?;
    let env = Options::default().env;
    gil::detached(py, || thermae_core::destroy(&*env, &location)).into_python(py)
}

/// Removes the volatile half of a store, as a reboot of the machine would.
#[pyfunction]
pub(crate) fn forget_shared_memory(py: Python<'_>, location: &str) -> PyResult<()> {
    let location = Location::parse(location).into_python(py)?;
    let env = Options::default().env;
    gil::detached(py, || thermae_core::forget_shared_memory(&*env, &location)).into_python(py)
}

/// The shared memory of this user's stores, as JSON.
#[pyfunction]
pub(crate) fn shared_memory(py: Python<'_>) -> PyResult<String> {
    let env = Options::default().env;
    json(&gil::detached(py, || thermae_core::shared_memory(&*env)).into_python(py)?)
}

/// Removes the shared memory of stores that are gone, all of it or that of these names; answers what was removed, as JSON.
#[pyfunction]
pub(crate) fn remove_orphaned_memory(py: Python<'_>, names: Option<Vec<String>>) -> PyResult<String> {
    let env = Options::default().env;
    json(
        &gil::detached(py, || thermae_core::remove_orphaned_memory(&*env, names.as_deref()))
            .into_python(py)?,
    )
}
