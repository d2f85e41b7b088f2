//! What all loops and all clients of a server share.

use crate::config::Config;
use crate::counts::Counts;
use crate::flusher::Flusher;
use crate::marks::Marks;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;
use thermae_core::Store;

/// Counts since the start. Each is a line of its own only where loops write it often; these they write rarely or in batches.
#[derive(Debug, Default)]
pub struct Statistics {
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections refused, there being too many.
    pub connections_refused: AtomicU64,
    /// Connections open now.
    pub clients: AtomicU64,
    /// Commands executed.
    pub commands: AtomicU64,
    /// Commands that were answered with an error.
    pub errors: AtomicU64,
    /// Bytes received.
    pub received_bytes: AtomicU64,
    /// Bytes sent.
    pub sent_bytes: AtomicU64,
}

/// What all clients of a server share.
#[derive(Debug)]
pub struct Shared {
    /// The store that is served.
    pub store: Store,
    /// Can be changed while running.
    pub config: RwLock<Config>,
    /// Longest argument that clients may send: part of the configuration, looked at for each read.
    pub argument_bytes_max: AtomicU64,
    /// Longest value that memcached clients may store, in the same way.
    pub memcached_value_bytes_max: AtomicU64,
    /// When a memcached client wants all of database 0 to be deleted, store clock; 0 = never.
    pub memcached_flush_at_ms: AtomicU64,
    /// What memcached clients are told of items that no record keeps.
    pub marks: Marks,
    /// What memcached clients have done.
    pub counts: Counts,
    /// Waits for durability.
    pub flusher: Flusher,
    /// Counts.
    pub statistics: Statistics,
    /// The next client's number.
    pub next_client_id: AtomicU64,
    /// Set when the server is to end.
    pub is_stopping: AtomicBool,
    /// When it began.
    pub started_at: Instant,
}

impl Shared {
    /// Of a server that serves this store.
    pub fn new(store: Store, config: Config) -> Self {
        Self {
            store,
            argument_bytes_max: AtomicU64::new(config.argument_bytes_max),
            memcached_value_bytes_max: AtomicU64::new(config.memcached_value_bytes_max),
            memcached_flush_at_ms: AtomicU64::new(0),
            marks: Marks::default(),
            counts: Counts::default(),
            flusher: Flusher::default(),
            config: RwLock::new(config),
            statistics: Statistics::default(),
            next_client_id: AtomicU64::new(1),
            is_stopping: AtomicBool::new(false),
            started_at: Instant::now(),
        }
    }
}
