//! What all loops and all clients of a server share.

use crate::attention::{Attention, USERS};
use crate::census::Census;
use crate::channels::Channels;
use crate::clients::{Client, Clients, Place};
use crate::config::Config;
use crate::databases::database_of;
use crate::flusher::Flusher;
use crate::journal::Journal;
use crate::latency::Latency;
use crate::mailbox::{Mailbox, Message};
use crate::marks::Marks;
use crate::monitors::Monitors;
use crate::observer::Observing;
use crate::pause::Pause;
use crate::refusals::Refusals;
use crate::saves::Saves;
use crate::slow_log::SlowLog;
use crate::spikes::Spikes;
use crate::statistics::{Statistics, StoreTotals};
use crate::tracking::{Letters, Tracking};
use crate::users::{Accounts, DEFAULT, User, Users};
use crate::watch_log::WatchLog;
use crate::watchers::Watchers;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Instant;
use thermae_core::Store;

/// What all clients together may hold by default, beside one value of the greatest size.
const CLIENTS_BYTES_BESIDE: u64 = 64 << 20;

/// What is known once the server listens.
#[derive(Debug)]
pub struct Reach {
    /// Those of its loops.
    pub mailboxes: Arc<[Mailbox]>,
    /// Where it listens for Redis clients, ports being those that it has.
    pub addresses: Vec<String>,
    /// The same for memcached clients, each with the number of its socket.
    pub memcached: Vec<(i32, String)>,
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
    /// Waits for durability.
    pub flusher: Flusher,
    /// Who wants to know of all changes calls [`Observing::begin`] for it.
    pub observing: Observing,
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
    /// The password of the configuration that was read last: clients may have set another one since.
    pub loaded_password: Mutex<String>,
    /// Held by who changes the configuration.
    pub config_changes: Mutex<()>,
    /// Parameters that clients have changed and no configuration has replaced since.
    pub changed_parameters: Mutex<BTreeSet<&'static str>>,
    /// Who is connected.
    pub clients: Clients,
    /// How long commands take.
    pub latency: Latency,
    /// Commands that took long.
    pub slow_log: SlowLog,
    /// What took longer than somebody wants it to.
    pub spikes: Spikes,
    /// Clients made to wait.
    pub pause: Pause,
    /// Who may do what.
    pub users: Users,
    /// What users were refused.
    pub refusals: Refusals,
    /// What of all commands somebody wants to know.
    pub attention: Attention,
    /// Who is told that copies of values are outdated.
    pub tracking: Tracking,
    /// Who is subscribed to what.
    pub channels: Channels,
    /// Who is shown every command.
    pub monitors: Monitors,
    /// Who is shown what memcached clients do.
    pub watchers: Watchers,
    /// Which events of keys are published, and how: bits of [`crate::events::classes`].
    pub notified: AtomicU32,
    /// Set where there is a server, not in tests of commands.
    pub reach: OnceLock<Reach>,
    /// Drawn at the start, 40 hexadecimal digits.
    pub run_id: String,
    /// What clients asked to be saved.
    pub saves: Saves,
    /// Most memory in use that INFO has seen.
    pub used_bytes_peak: AtomicU64,
    /// What INFO compares with, and what it found.
    pub rates: Mutex<Rates>,
    /// How many keys the databases have.
    pub census: Census,
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

impl Shared {
    /// Of a server that serves this store.
    ///
    /// # Errors
    /// The store is closed.
    pub fn new(store: Store, config: Config) -> thermae_core::Result<Self> {
        let saves = Saves::new(config.snapshots.clone(), &store)?;
        let counted = StoreTotals::of(&store.stats()?);
        let clients_bytes_max = config.clients_bytes_max;
        let shared = Self {
            store,
            saves,
            argument_bytes_max: AtomicU64::new(config.argument_bytes_max),
            memcached_value_bytes_max: AtomicU64::new(config.memcached_value_bytes_max),
            memcached_flush_at_ms: AtomicU64::new(0),
            marks: Marks::default(),
            flusher: Flusher::default(),
            observing: Observing::default(),
            statistics: Statistics::new(config.threads.max(1) as usize, counted),
            users: Users::new(config.password.as_bytes()),
            journal: Journal::default(),
            loaded_password: Mutex::new(config.password.clone()),
            config: RwLock::new(config),
            next_client_id: AtomicU64::new(1),
            is_stopping: AtomicBool::new(false),
            failure: OnceLock::new(),
            started_at: Instant::now(),
            config_changes: Mutex::new(()),
            changed_parameters: Mutex::default(),
            clients: Clients::default(),
            latency: Latency::default(),
            slow_log: SlowLog::default(),
            spikes: Spikes::default(),
            pause: Pause::default(),
            refusals: Refusals::default(),
            attention: Attention::default(),
            tracking: Tracking::default(),
            channels: Channels::default(),
            monitors: Monitors::default(),
            watchers: Watchers::default(),
            notified: AtomicU32::new(0),
            reach: OnceLock::new(),
            run_id: draw_run_id(),
            used_bytes_peak: AtomicU64::new(0),
            rates: Mutex::new(Rates { at: Instant::now(), counts: [0; 3], per_second: [0.0; 3] }),
            census: Census::default(),
        };
        shared.clients.limit_held_bytes(shared.clients_bytes_max(clients_bytes_max));
        shared.heed_thresholds();
        Ok(shared)
    }

    /// Tells all loops to end, and gives up a snapshot under way, for which one of them may wait.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        self.saves.end();
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

    /// Shows lines to memcached clients that watch what they tell of.
    pub fn show(&self, log: &mut WatchLog) {
        let unread = |client: &Client| {
            let mailbox = self.reach.get().map(|reach| &reach.mailboxes[client.place.event_loop]);
            let waiting_bytes = mailbox.map_or(0, |mailbox| mailbox.waiting_bytes(client.place.token));
            client.output_bytes.load(Ordering::Relaxed) + waiting_bytes
        };
        self.watchers.show(log, unread, |client, bytes| self.deliver(client.place, bytes));
    }

    /// Sends messages to their clients.
    pub fn post(&self, letters: Letters) {
        // In RESP2 they are messages of a channel, and who is subscribed to nothing any more would take one for a reply.
        let (messages, pushes): (Letters, Letters) =
            letters.into_iter().partition(|(_, bytes)| bytes.first() == Some(&b'*'));
        for (client, bytes) in pushes {
            self.deliver(client.place, bytes.into());
        }
        if messages.is_empty() {
            return;
        }
        self.channels.while_steady(|| {
            for (client, bytes) in messages.into_iter().filter(|(client, _)| client.is_subscribed()) {
                self.deliver(client.place, bytes.into());
            }
        });
    }

    /// Keys have changed, as the store has them: who may have copies of their values is told. For changes that no command of a Redis client made, or
    /// made by the one with this number.
    pub fn invalidate<'k>(&self, stored_keys: impl IntoIterator<Item = &'k [u8]>, by: Option<u64>) {
        let keys = stored_keys.into_iter().map(|stored| database_of(stored).1);
        self.post(self.tracking.changed(&self.clients, keys, by));
    }

    /// Any key may have changed.
    pub fn invalidate_all(&self) {
        self.post(self.tracking.flushed(&self.clients));
    }

    /// Takes what was sent to a client with [`Shared::deliver`] and has not reached it yet, in order.
    pub fn take_messages(&self, place: Place) -> Vec<Arc<[u8]>> {
        let mailbox = self.reach.get().map(|reach| &reach.mailboxes[place.event_loop]);
        let messages = mailbox.map(|mailbox| mailbox.take_messages_for(place.token)).unwrap_or_default();
        messages.into_iter().map(|message| message.bytes).collect()
    }

    /// The password that is configured is from now on that of the user `default`. Under the same lock.
    pub fn set_default_password(&self, password: &str) {
        let mut default = User::clone(&self.users.default_user());
        default.set_password(password.as_bytes());
        self.change_users(|accounts| accounts.insert(DEFAULT.to_vec(), Arc::new(default)));
    }

    /// Changes users, and lets those know who have to: see [`crate::users`]. Under the lock of [`Shared::config_changes`], for the bit, and the
    /// password of the configuration, say what is true of `default`: the password is kept as long as it is one of its passwords.
    ///
    /// Watchers send nothing with which they could say again who they are: those whose user may not do everything any more are ended.
    pub fn change_users<R>(&self, change: impl FnOnce(&mut Accounts) -> R) -> R {
        let result = self.users.change(change);
        for client in self.watchers.all() {
            if !self.users.get(&client.user()).is_some_and(|user| user.may_do_everything()) {
                self.kill(&client);
            }
        }
        let default = self.users.default_user();
        self.attention.set(USERS, !default.may_do_everything());
        let mut config = self.config.write().unwrap_or_else(PoisonError::into_inner);
        if !default.knows(config.password.as_bytes()) {
            config.password.clear();
        }
        result
    }

    /// Has commands noted that take longer than the slow log or who watches for spikes wants them to. After a change of either.
    pub fn heed_thresholds(&self) {
        let least = self.slow_log.slow_from_nanoseconds().min(self.spikes.watched_from_nanoseconds());
        self.latency.note_from(least);
    }

    /// Ends clients, those that hold most first, until what all hold together is no more than it may be.
    #[cold]
    pub fn end_largest(&self) {
        while let Some((client, bytes)) = self.clients.kill_largest() {
            let most = self.clients.held_bytes_max();
            let reason = format!("it held {bytes} bytes, and all clients together more than {most}");
            let fields = vec![("address", client.address.clone()), ("reason", reason)];
            self.journal.note("connection-closed", self.store.now_ms(), fields);
            self.statistics.clients_evicted.fetch_add(1, Ordering::Relaxed);
            self.close(&client);
        }
    }

    /// What all clients together may hold, as the configuration has it.
    pub fn clients_bytes_max(&self, configured: Option<u64>) -> u64 {
        configured.unwrap_or_else(|| CLIENTS_BYTES_BESIDE + self.store.config().hot_bytes / 2)
    }

    /// Ends a client; whether it was still there.
    pub fn kill(&self, client: &Client) -> bool {
        let was_there = self.clients.mark_killed(client.id);
        if was_there {
            self.close(client);
        }
        was_there
    }

    /// Tells its loop to close the connection of a client that was marked as ended.
    fn close(&self, client: &Client) {
        if let Some(reach) = self.reach.get() {
            reach.mailboxes[client.place.event_loop].close(client.place.token);
        }
    }
}

fn draw_run_id() -> String {
    let mut bytes = [0_u8; 20];
    // Where the system has no randomness yet, the id is not unique, which only matters to replicas, of which there are none.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
