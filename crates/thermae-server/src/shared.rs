//! What all loops and all clients of a server share.

use crate::attention::Attention;
use crate::clients::{Client, Clients, Place};
use crate::config::Config;
use crate::counts::Counts;
use crate::flusher::Flusher;
use crate::journal::Journal;
use crate::mailbox::{Mailbox, Message};
use crate::marks::Marks;
use crate::pause::Pause;
use crate::slow_log::SlowLog;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
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
    /// Errors by their code, as clients got them.
    pub errors_by_code: Mutex<BTreeMap<String, u64>>,
}

/// Different codes of errors that are counted; what comes later is counted as a whole only.
const ERROR_CODES_MAX: usize = 128;

impl Statistics {
    /// A client got an error.
    #[cold]
    pub fn note_error(&self, line: &str) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let code = line.split(' ').next().unwrap_or_default();
        let mut counts = self.errors_by_code.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(code) {
            *count += 1;
        } else if counts.len() < ERROR_CODES_MAX {
            counts.insert(code.to_owned(), 1);
        }
    }

    /// Begins anew, but for the clients that are there.
    pub fn reset(&self) {
        for count in [
            &self.connections,
            &self.connections_refused,
            &self.commands,
            &self.errors,
            &self.received_bytes,
            &self.sent_bytes,
        ] {
            count.store(0, Ordering::Relaxed);
        }
        self.errors_by_code.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// What is known once the server listens.
#[derive(Debug)]
pub struct Reach {
    /// Those of its loops.
    pub mailboxes: Arc<[Mailbox]>,
    /// Where it listens for Redis clients, ports being those that it has.
    pub addresses: Vec<String>,
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
    /// What whoever runs the server should know.
    pub journal: Journal,
    /// Counts.
    pub statistics: Statistics,
    /// The next client's number.
    pub next_client_id: AtomicU64,
    /// Set when the server is to end.
    pub is_stopping: AtomicBool,
    /// Why it ends by itself.
    pub failure: OnceLock<String>,
    /// When it began.
    pub started_at: Instant,
    /// Held by who changes the configuration.
    pub config_changes: Mutex<()>,
    /// Who is connected.
    pub clients: Clients,
    /// Commands that took long.
    pub slow_log: SlowLog,
    /// Clients made to wait.
    pub pause: Pause,
    /// What of all commands somebody wants to know.
    pub attention: Attention,
    /// Set where there is a server, not in tests of commands.
    pub reach: OnceLock<Reach>,
    /// Drawn at the start, 40 hexadecimal digits.
    pub run_id: String,
    /// What the last SAVE or BGSAVE made durable, and when it was called, in seconds since 1970.
    pub last_save: Mutex<(u64, u64)>,
    /// Most memory in use that INFO has seen.
    pub used_bytes_peak: AtomicU64,
    /// What INFO compares with, and what it found.
    pub rates: Mutex<Rates>,
    /// What INFO last counted by walking over the keys.
    pub census: Mutex<Option<Census>>,
}

/// Work per second.
#[derive(Debug)]
pub struct Rates {
    /// When this was measured.
    pub at: Instant,
    /// Commands, bytes received and bytes sent, by then.
    pub counts: [u64; 3],
    /// The same for each second before.
    pub per_second: [f64; 3],
}

/// What is known of the numbered databases.
#[derive(Debug)]
pub struct Census {
    /// When this was counted.
    pub at: Instant,
    /// How long that took.
    pub took: std::time::Duration,
    /// For each database: keys, those of them that expire, and the mean of the milliseconds until they do.
    pub databases: Vec<[u64; 3]>,
}

impl Shared {
    /// Of a server that serves this store.
    pub fn new(store: Store, config: Config) -> Self {
        let now_seconds = store.now_ms() / 1000;
        Self {
            store,
            argument_bytes_max: AtomicU64::new(config.argument_bytes_max),
            memcached_value_bytes_max: AtomicU64::new(config.memcached_value_bytes_max),
            memcached_flush_at_ms: AtomicU64::new(0),
            marks: Marks::default(),
            counts: Counts::default(),
            flusher: Flusher::default(),
            journal: Journal::default(),
            config: RwLock::new(config),
            statistics: Statistics::default(),
            next_client_id: AtomicU64::new(1),
            is_stopping: AtomicBool::new(false),
            failure: OnceLock::new(),
            started_at: Instant::now(),
            config_changes: Mutex::new(()),
            clients: Clients::default(),
            slow_log: SlowLog::default(),
            pause: Pause::default(),
            attention: Attention::default(),
            reach: OnceLock::new(),
            run_id: draw_run_id(),
            last_save: Mutex::new((0, now_seconds)),
            used_bytes_peak: AtomicU64::new(0),
            rates: Mutex::new(Rates { at: Instant::now(), counts: [0; 3], per_second: [0.0; 3] }),
            census: Mutex::new(None),
        }
    }

    /// Tells all loops to end.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        self.wake_all();
    }

    /// Tells all loops to end because one can't go on. The first reason stays.
    pub fn fail(&self, reason: String) {
        let _ = self.failure.set(reason);
        self.stop();
    }

    /// Has all loops look around.
    pub fn wake_all(&self) {
        if let Some(reach) = self.reach.get() {
            reach.mailboxes.iter().for_each(Mailbox::ring);
        }
    }

    /// Sends a client bytes that it did not ask for, behind the replies that it has got by then.
    pub fn deliver(&self, place: Place, bytes: Arc<[u8]>) {
        if let Some(reach) = self.reach.get() {
            reach.mailboxes[place.event_loop].deliver(Message { token: place.token, bytes });
        }
    }

    /// Ends a client; whether it was still there.
    pub fn kill(&self, client: &Client) -> bool {
        let was_there = self.clients.mark_killed(client.id);
        if let (true, Some(reach)) = (was_there, self.reach.get()) {
            reach.mailboxes[client.place.event_loop].close(client.place.token);
        }
        was_there
    }
}

fn draw_run_id() -> String {
    let mut bytes = [0_u8; 20];
    // Where the system has no randomness yet, the id is not unique, which only matters to replicas, of which there are none.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
