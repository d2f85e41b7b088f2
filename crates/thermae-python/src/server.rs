//! A server that serves a store to Redis and memcached clients, on threads of its own.

use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use thermae_core::Location;
use thermae_server::config::Config;
use thermae_server::server::{StartError, listen};
use thermae_server::socket::Protocol;

use crate::errors::{IntoPython, invalid_option};
use crate::gil;
use crate::options::engine_options;

/// A running server. Its threads never touch Python.
#[pyclass(module = "thermae._thermae", frozen)]
pub(crate) struct Server(gil::Kept<thermae_server::server::Server>);

#[pymethods]
impl Server {
    /// Opens the store and serves it; `config` is JSON.
    #[new]
    fn new(py: Python<'_>, location: &str, options: &Bound<'_, PyDict>, config: &str) -> PyResult<Self> {
        let config: Config = serde_json::from_str(config).map_err(|error| {
            invalid_option(py, format!("the server's configuration makes no sense: {error}"))
        })?;
        let location = Location::parse(location).into_python(py)?;
        let options = engine_options(options)?;
        let refused = |error: StartError| invalid_option(py, error.to_string());
        let listeners = gil::detached(py, || listen(&config)).map_err(refused)?;
        let store = gil::detached(py, || thermae_core::Store::open(&location, &options)).into_python(py)?;
        let server = gil::detached(py, || thermae_server::server::Server::start(store, config, listeners));
        Ok(Self(gil::Kept::new(server.map_err(refused)?)))
    }

    /// Pairs of protocol and address.
    fn addresses(&self) -> Vec<(&'static str, String)> {
        let name = |protocol| match protocol {
            Protocol::Redis => "redis",
            Protocol::Memcached => "memcached",
        };
        self.0.addresses().iter().map(|(protocol, address)| (name(*protocol), address.clone())).collect()
    }

    /// Waits for the end, at most so many seconds; whether it has come.
    fn wait(&self, py: Python<'_>, seconds: f64) -> bool {
        let timeout = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO);
        gil::detached(py, || self.0.wait(timeout))
    }

    /// Why it ended by itself, if it did.
    fn failure(&self) -> Option<&str> {
        self.0.failure()
    }

    /// Tells it to end.
    fn stop(&self) {
        self.0.stop();
    }

    /// Ends it, waits for that, and closes the store.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        gil::detached(py, || self.0.close()).into_python(py)
    }
}
