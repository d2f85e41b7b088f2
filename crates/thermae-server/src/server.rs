//! A server: its listeners, its threads, its end.

use crate::config::Config;
use crate::event_loop::EventLoop;
use crate::mailbox::Mailbox;
use crate::observer::Told;
use crate::redis::acl_file;
use crate::redis::telling::tell_foreign;
use crate::shared::{Reach, Shared};
use crate::socket::{Listener, Protocol};
use crate::tls::{TlsError, server_config};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use thermae_core::Store;

/// How often who waits for the end looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address that can't be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// As it was given.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing to listen on, or no threads.
    #[error("{0}")]
    Config(String),
    /// A certificate or a key that can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A file of users that makes no sense.
    #[error("the file of users cannot be loaded: {0}")]
    Users(String),
    /// The system has no thread, or no descriptor, left.
    #[error("cannot start the server's threads: {0}")]
    Threads(io::Error),
}

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    addresses: Vec<(Protocol, String)>,
    loops: Mutex<Vec<JoinHandle<io::Result<()>>>>,
    /// Those that wait aside: for durability, and for snapshots.
    aside: Mutex<Vec<JoinHandle<()>>>,
}

impl Server {
    /// Serves, on threads of its own, those who come to what [`listen`] gave for the same configuration.
    ///
    /// # Errors
    /// Where the system has no threads or descriptors left.
    pub fn start(store: Store, config: Config, listeners: Vec<Listener>) -> Result<Self, StartError> {
        let addresses: Vec<_> =
            listeners.iter().map(|listener| (listener.protocol, listener.address.clone())).collect();
        let threads = config.threads.max(1) as usize;
        let mailboxes: Arc<[Mailbox]> =
            (0..threads).map(|_| Mailbox::new()).collect::<io::Result<_>>().map_err(StartError::Threads)?;
        let shared = Arc::new(Shared::new(store, config));
        load_users(&shared)?;
        let of_redis = addresses.iter().filter(|(protocol, _)| *protocol == Protocol::Redis);
        let reach = Reach {
            mailboxes: Arc::clone(&mailboxes),
            addresses: of_redis.map(|(_, address)| address.clone()).collect(),
        };
        // It is new, so that nobody has set this.
        drop(shared.reach.set(reach));
        let server = Self {
            shared: Arc::clone(&shared),
            addresses,
            loops: Mutex::new(Vec::new()),
            aside: Mutex::new(Vec::new()),
        };
        let mut listeners = Some(listeners);
        for number in 0..threads {
            let listeners = listeners.take().unwrap_or_default();
            let event_loop = EventLoop::new(number, listeners, Arc::clone(&mailboxes), Arc::clone(&shared));
            let event_loop = event_loop.map_err(StartError::Threads)?;
            let thread = Builder::new()
                .name(format!("thermae-loop-{number}"))
                .spawn(move || event_loop.run())
                .map_err(StartError::Threads)?;
            server.loops.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        let observed = Arc::clone(&shared);
        let observer = Builder::new()
            .name("thermae-observer".to_owned())
            .spawn(move || {
                observed.observing.run(&observed.attention, |told| match told {
                    Told::Events(events) => tell_foreign(&observed, events),
                    Told::Overrun => observed.invalidate_all(),
                });
            })
            .map_err(StartError::Threads)?;
        server.aside.lock().unwrap_or_else(PoisonError::into_inner).push(observer);
        let saver = Arc::clone(&shared);
        let flusher = Builder::new()
            .name("thermae-flusher".to_owned())
            .spawn(move || shared.flusher.run(&shared.store, &mailboxes))
            .map_err(StartError::Threads)?;
        let mut aside = server.aside.lock().unwrap_or_else(PoisonError::into_inner);
        aside.push(flusher);
        let saver = Builder::new()
            .name("thermae-saver".to_owned())
            .spawn(move || saver.saves.run(&saver.store))
            .map_err(StartError::Threads)?;
        aside.push(saver);
        drop(aside);
        Ok(server)
    }

    /// Where it listens, ports being those that it has.
    pub fn addresses(&self) -> &[(Protocol, String)] {
        &self.addresses
    }

    /// What its clients share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Tells it to end: it takes no more clients, sends the replies that are under way, and closes the store.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// Waits for the end; whether it has come.
    pub fn wait(&self, timeout: Duration) -> bool {
        let until = std::time::Instant::now() + timeout;
        loop {
            let is_over =
                self.loops.lock().unwrap_or_else(PoisonError::into_inner).iter().all(JoinHandle::is_finished);
            if is_over || std::time::Instant::now() >= until {
                return is_over;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Ends it, if that has not happened, and closes the store.
    ///
    /// # Errors
    /// Those of closing the store.
    pub fn close(&self) -> thermae_core::Result<()> {
        self.stop();
        let loops = std::mem::take(&mut *self.loops.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in loops {
            // One that failed has nothing left to do.
            drop(thread.join());
        }
        self.shared.observing.end();
        self.shared.flusher.end();
        self.shared.saves.end();
        for thread in std::mem::take(&mut *self.aside.lock().unwrap_or_else(PoisonError::into_inner)) {
            drop(thread.join());
        }
        self.shared.store.close()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Who wants to know calls close().
        drop(self.close());
    }
}

/// Puts the users of the file of users, where there is one, in the place of those that the server has.
fn load_users(shared: &Shared) -> Result<(), StartError> {
    let _only_one = shared.config_changes.lock().unwrap_or_else(PoisonError::into_inner);
    let path = shared.config.read().unwrap_or_else(PoisonError::into_inner).acl_file.clone();
    if let Some(path) = path {
        let users = acl_file::load(&path, shared.users.default_user()).map_err(StartError::Users)?;
        shared.change_users(|accounts| *accounts = users);
    }
    Ok(())
}

/// Begins to listen; clients wait until the server starts. Before a store is opened, so that a server that can't listen makes none.
///
/// # Errors
/// See [`StartError`].
pub fn listen(config: &Config) -> Result<Vec<Listener>, StartError> {
    let failed = |address: &str| {
        let address = address.to_owned();
        move |source| StartError::Listen { address, source }
    };
    let mut listeners = Vec::new();
    let tls = match (&config.tls_certificate, &config.tls_key) {
        (Some(certificate), Some(key)) => {
            Some(server_config(certificate, key, config.tls_authority.as_deref())?)
        }
        _ if config.tls.is_empty() => None,
        _ => {
            return Err(StartError::Config(
                "TLS needs a certificate and its key: name both with --tls-certificate and --tls-key"
                    .to_owned(),
            ));
        }
    };
    let kinds = [
        (&config.redis, Protocol::Redis, &None),
        (&config.memcached, Protocol::Memcached, &None),
        (&config.tls, Protocol::Redis, &tls),
    ];
    for (addresses, protocol, tls) in kinds {
        for address in addresses {
            listeners.push(Listener::tcp(address, protocol, tls.clone()).map_err(failed(address))?);
        }
    }
    if let Some(path) = &config.unix {
        let listener = Listener::unix(path, Protocol::Redis);
        listeners.push(listener.map_err(failed(&path.display().to_string()))?);
    }
    if listeners.is_empty() {
        return Err(StartError::Config(
            "the server would listen nowhere: name an address with --redis, --memcached, --tls or --unix"
                .to_owned(),
        ));
    }
    Ok(listeners)
}
