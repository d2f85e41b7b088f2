//! The compiled half of the Python package `thermae`: the module `thermae._thermae`.
//!
//! It converts keys and values, releases the GIL where the engine waits or copies much, and calls the engine.
//! It decides nothing: what a key, a version or an expiry means is the engine's business, and what a list or
//! an array looks like as bytes is decided in `thermae.codecs`. `thermae.Store` derives from
//! [`store::Store`], so `store[key]` goes from the interpreter's slot straight into Rust, without a Python
//! frame between.
//!
//! Layers, top to bottom; each stands only on those below it:
//!
//! - `store`: the class that Python derives its `Store` from: one method per verb
//! - `server`: the store served to Redis and memcached clients
//! - `measure`: the engine's own speed, for `thermae bench`
//! - `paced`: load at a set pace, for `thermae bench`
//! - `batch`: many keys in one call
//! - `scan`: iteration over keys or items
//! - `handle`: an open store with its codecs: one value read or written
//! - `view`: a stored value as a read-only buffer, without a copy
//! - `options`: what `open` was asked for, as the engine takes it
//! - `lock`: a named lock, waited for so that Ctrl-C works
//! - `wait`: long work on another thread, so that Ctrl-C stops it
//! - `value`: Python value to bytes and encoding, and back
//! - `destination`: fresh Python memory that the engine copies a value into
//! - `report`: what the engine or a server reports, as JSON
//! - `opened`: the engine's store, until it is closed and the last call has left
//! - `encoding`: the encodings' numbers
//! - `arguments`: numbers and flags that verbs take
//! - `key`: Python key to bytes, and back
//! - `errors`: the engine's errors as Python exceptions
//! - `gil`: the GIL, let go of where the engine waits, and signals looked for

mod arguments;
mod batch;
mod destination;
mod encoding;
mod errors;
mod gil;
mod handle;
mod key;
mod lock;
mod measure;
mod opened;
mod options;
mod paced;
mod report;
mod scan;
mod server;
mod store;
mod value;
mod view;
mod wait;

/// The engine of `thermae`, compiled; use the package, which adds the rest.
// The GIL guards cells of `opened`.
#[pyo3::pymodule(gil_used = true)]
mod _thermae {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::handle::lifetime_ms;
    #[pymodule_export]
    use super::key::key_bytes_object;
    #[pymodule_export]
    use super::lock::LockToken;
    #[pymodule_export]
    use super::measure::sets_per_second;
    #[pymodule_export]
    use super::options::parse_size;
    #[pymodule_export]
    use super::paced::paced_latencies_seconds;
    #[pymodule_export]
    use super::scan::Scan;
    #[pymodule_export]
    use super::server::Server;
    #[pymodule_export]
    use super::store::{
        Store, destroy, forget_shared_memory, remove_orphaned_memory, restore, shared_memory,
    };
    #[pymodule_export]
    use super::view::View;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::gil::install_hooks();
        module.add("KEY_BYTES_MAX", thermae_core::KEY_BYTES_MAX)?;
        module.add("VALUE_BYTES_MAX", thermae_core::VALUE_BYTES_MAX)?;
        module.add("ERROR_CLASSES", super::errors::class_names(module.py())?)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
