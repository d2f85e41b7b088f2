//! A server that serves a store to Redis and memcached clients, on threads of its own.

use std::time::Duration;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use thermae_core::Location;
use thermae_server::config::Config;
use thermae_server::server::{StartError, check, listen};
use thermae_server::socket::Protocol;

use crate::errors::{IntoPython, invalid_option, to_python};
use crate::gil;
use crate::options::engine_options;
use crate::report::json;

/// An event of the journal: its kind, when it happened, how many of its kind were left out, and what is known of it by name.
type EventParts = (&'static str, u64, u64, Vec<(&'static str, String)>);

/// A running server. Its threads never touch Python.
#[pyclass(module = "thermae._thermae", frozen)]
pub(crate) struct Server(gil::Kept<thermae_server::server::Server>);

#[pymethods]
impl Server {
    /// Opens the store and serves it; `config` is JSON.
    #[new]
    fn new(py: Python<'_>, location: &str, options: &Bound<'_, PyDict>, config: &str) -> PyResult<Self> {
        let config = parsed(py, config)?;
        let location = Location::parse(location).into_python(py)?;
        let options = engine_options(options)?;
        // What may pass by itself is an OSError, which another start may not meet.
        let refused = |error: StartError| match error {
            StartError::Store(error) => to_python(py, &error),
            StartError::Listen { .. } | StartError::Threads(_) => PyOSError::new_err(error.to_string()),
            _ => invalid_option(py, error.to_string()),
        };
        let listeners =
            gil::detached(py, || check(&config).and_then(|()| listen(&config))).map_err(refused)?;
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

    /// What monitoring wants to know, as JSON.
    fn metrics(&self, py: Python<'_>) -> PyResult<String> {
        let metrics = gil::detached(py, || thermae_server::metrics::metrics(self.0.shared()));
        json(&metrics.into_python(py)?)
    }

    /// How its store is configured now, as JSON.
    fn store_config(&self) -> PyResult<String> {
        json(&self.0.shared().store.config())
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

    /// What happened since the last call: its kind, when (ms since 1970), more of its kind that were left out, and what is known of it.
    fn take_events(&self) -> Vec<EventParts> {
        let events = self.0.take_events().into_iter();
        events.map(|event| (event.kind, event.at_ms, event.left_out, event.fields)).collect()
    }

    /// Has it go on with another configuration, JSON; the names of what differs and can't change while it runs.
    fn reload(&self, py: Python<'_>, config: &str) -> PyResult<Vec<&'static str>> {
        let config = parsed(py, config)?;
        gil::detached(py, || self.0.reload(config)).map_err(|error| invalid_option(py, error.to_string()))
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

fn parsed(py: Python<'_>, config: &str) -> PyResult<Config> {
    serde_json::from_str(config)
        .map_err(|error| invalid_option(py, format!("the server's configuration makes no sense: {error}")))
}
