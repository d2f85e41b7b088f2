//! A server: its listeners, its threads, its end.
//!
//! It ends as a whole: where one of its threads fails, the others are told to end, for clients would go on being dealt out to a loop that is gone,
//! and what it served would hang. Why it ended is kept for whoever started it. Rejected: starting a loop anew, which would hide the bug that
//! ended it, and whose clients are gone all the same.

use crate::config::Config;
use crate::event_loop::EventLoop;
use crate::journal::Event;
use crate::mailbox::Mailbox;
use crate::observer::Told;
use crate::redis::telling::tell_foreign;
use crate::redis::{acl_file, rewriting};
use crate::reload::{self, ReloadError};
use crate::shared::{Reach, Shared};
use crate::socket::{Listener, Protocol};
use crate::tls::{Acceptor, TlsError};
use crate::users::{Accounts, DEFAULT, User};
use std::any::Any;
use std::io;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
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
    /// Another configuration that can't be used.
    #[error(transparent)]
    Reload(#[from] ReloadError),
    /// A file of users that makes no sense.
    #[error("the file of users cannot be loaded: {0}")]
    Users(String),
    /// A store that is closed.
    #[error(transparent)]
    Store(#[from] thermae_core::Error),
    /// The system has no thread, or no descriptor, left.
    #[error("cannot start the server's threads: {0}")]
    Threads(io::Error),
}

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    addresses: Vec<(Protocol, String)>,
    /// Where it listens for clients that speak TLS.
    acceptor: Option<Arc<Acceptor>>,
    loops: Mutex<Vec<JoinHandle<()>>>,
    /// Those that wait aside: for durability, for snapshots, and for what others do.
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
        let acceptor = listeners.iter().find_map(|listener| listener.tls.clone());
        let threads = config.threads.max(1) as usize;
        let mailboxes: Arc<[Mailbox]> =
            (0..threads).map(|_| Mailbox::new()).collect::<io::Result<_>>().map_err(StartError::Threads)?;
        let shared = Arc::new(Shared::new(store, config)?);
        load_users(&shared)?;
        take_parameters(&shared)?;
        let of_redis = addresses.iter().filter(|(protocol, _)| *protocol == Protocol::Redis);
        let of_memcached = listeners.iter().filter(|listener| listener.protocol == Protocol::Memcached);
        let reach = Reach {
            mailboxes: Arc::clone(&mailboxes),
            addresses: of_redis.map(|(_, address)| address.clone()).collect(),
            memcached: of_memcached
                .map(|listener| (listener.fd.as_raw_fd(), listener.address.clone()))
                .collect(),
        };
        // It is new, so that nobody has set this.
        drop(shared.reach.set(reach));
        let server = Self {
            shared: Arc::clone(&shared),
            addresses,
            acceptor,
            loops: Mutex::new(Vec::new()),
            aside: Mutex::new(Vec::new()),
        };
        let mut listeners = Some(listeners);
        for number in 0..threads {
            let listeners = listeners.take().unwrap_or_default();
            let event_loop = EventLoop::new(number, listeners, Arc::clone(&mailboxes), Arc::clone(&shared));
            let event_loop = event_loop.map_err(StartError::Threads)?;
            let thread = supervised(&shared, format!("thermae-loop-{number}"), move || event_loop.run());
            let thread = thread.map_err(StartError::Threads)?;
            server.loops.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        let flushing = Arc::clone(&shared);
        server.set_aside("thermae-flusher", move || {
            flushing.flusher.run(&flushing.store, &flushing.spikes, &mailboxes);
        })?;
        let saving = Arc::clone(&shared);
        server.set_aside("thermae-saver", move || saving.saves.run(&saving.store, &saving.journal))?;
        let counting = Arc::clone(&shared);
        server.set_aside("thermae-census", move || counting.census.run(&counting.store))?;
        let observing = Arc::clone(&shared);
        server.set_aside("thermae-observer", move || {
            observing.observing.run(&observing.attention, |told| match told {
                Told::Events(events) => tell_foreign(&observing, events),
                Told::Overrun => observing.invalidate_all(),
            });
        })?;
        Ok(server)
    }

    /// Starts a thread that waits aside.
    fn set_aside(&self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
        let thread = supervised(&self.shared, name.to_owned(), move || {
            work();
            Ok(())
        });
        let thread = thread.map_err(StartError::Threads)?;
        self.aside.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// Where it listens, ports being those that it has.
    pub fn addresses(&self) -> &[(Protocol, String)] {
        &self.addresses
    }

    /// What its clients share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Has it go on with another configuration; the names of what differs and can't change while it runs.
    ///
    /// # Errors
    /// See [`reload::reload`].
    pub fn reload(&self, config: Config) -> Result<Vec<&'static str>, StartError> {
        Ok(reload::reload(&self.shared, self.acceptor.as_deref(), config)?)
    }

    /// Takes what happened since the last time.
    pub fn take_events(&self) -> Vec<Event> {
        self.shared.journal.take(self.shared.store.now_ms())
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

    /// Why it ended by itself; `None`: it did not.
    pub fn failure(&self) -> Option<&str> {
        self.shared.failure.get().map(String::as_str)
    }

    /// Ends it, if that has not happened, and closes the store.
    ///
    /// # Errors
    /// Those of closing the store.
    pub fn close(&self) -> thermae_core::Result<()> {
        self.stop();
        let loops = std::mem::take(&mut *self.loops.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in loops {
            // Its failure is known already.
            drop(thread.join());
        }
        self.shared.observing.end();
        self.shared.flusher.end();
        self.shared.census.end();
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
    let config = shared.config.read().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(path) = &config.acl_file {
        let users = users_of(path, shared.users.default_user(), &config)?;
        shared.change_users(|accounts| *accounts = users);
    }
    Ok(())
}

/// Sets the parameters that the configuration names as CONFIG SET does.
fn take_parameters(shared: &Shared) -> Result<(), StartError> {
    let _only_one = shared.config_changes.lock().unwrap_or_else(PoisonError::into_inner);
    let given = shared.config.read().unwrap_or_else(PoisonError::into_inner).redis_parameters.clone();
    rewriting::take(shared, &given).map_err(StartError::Config)
}

/// A thread whose failure ends the server.
fn supervised(
    shared: &Arc<Shared>,
    name: String,
    work: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    Builder::new().name(name.clone()).spawn(move || {
        // What the work leaves half done, others meet behind locks, whose poison they disregard, and in the store, which is made for that.
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => shared.fail(format!("{name} failed: {error}")),
            Err(panic) => shared.fail(format!("{name} panicked: {}", text_of(panic.as_ref()))),
        }
    })
}

/// What a panic said.
fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it did not say why")
}

/// Refuses a configuration that makes no sense whatever the store: a mistake makes none.
///
/// # Errors
/// What is wrong.
pub fn check(config: &Config) -> Result<(), StartError> {
    rewriting::pairs(&config.redis_parameters).map_err(StartError::Config)?;
    match &config.acl_file {
        Some(path) => users_of(path, Arc::new(User::new(DEFAULT)), config).map(drop),
        None => Ok(()),
    }
}

/// The users of the file of users, and `default` as it is where the file does not name it.
fn users_of(path: &Path, default: Arc<User>, config: &Config) -> Result<Accounts, StartError> {
    let users = acl_file::load(path, default).map_err(StartError::Users)?;
    let default = users.get(DEFAULT);
    if !config.password.is_empty() && default.is_some_and(|default| default.is_open()) {
        // Whoever set the password would think that one is needed. Where `default` has another one, that holds: it may be newer.
        return Err(StartError::Users(format!(
            "{} lets the user default in without a password, and one was given for that user (--password, THERMAE_PASSWORD or the file \
             of --config): leave one of them away",
            path.display()
        )));
    }
    Ok(users)
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
            let read = Acceptor::read(certificate, key, config.tls_authority.as_deref())?;
            Some(Arc::new(Acceptor::new(read)))
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
            let more = Listener::tcp(address, protocol, tls.as_ref(), &listeners).map_err(failed(address))?;
            listeners.extend(more);
        }
    }
    for (path, protocol) in [(&config.unix, Protocol::Redis), (&config.memcached_unix, Protocol::Memcached)] {
        if let Some(path) = path {
            let listener = Listener::unix(path, protocol);
            listeners.push(listener.map_err(failed(&path.display().to_string()))?);
        }
    }
    if listeners.is_empty() {
        return Err(StartError::Config(
            "the server would listen nowhere: name an address with --redis, --memcached, --tls, --unix or --memcached-unix"
                .to_owned(),
        ));
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;
    use std::sync::atomic::{AtomicU64, Ordering};
    use thermae_core::{Location, Options};

    const PATIENCE: Duration = Duration::from_secs(20);

    fn started() -> Server {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let location = Location::SharedMemory(format!("test-server-{}-{number}", std::process::id()));
        let options = Options { hot_bytes: Some(16 << 20), background: false, ..Options::default() };
        let store = Store::open(&location, &options).unwrap();
        std::fs::remove_dir_all(&store.engine().paths.volatile).unwrap();
        let config = Config { threads: 2, redis: vec!["127.0.0.1:0".to_owned()], ..Config::default() };
        let listeners = listen(&config).unwrap();
        Server::start(store, config, listeners).unwrap()
    }

    /// Clients of both loops are owed replies, which they take only after one thread has failed.
    fn check(work: impl FnOnce() -> io::Result<()> + Send + 'static, failure: &str) {
        let server = started();
        let value = vec![b'v'; 1 << 20];
        let mut clients: Vec<TcpStream> =
            (0..2).map(|_| TcpStream::connect(&server.addresses()[0].1).unwrap()).collect();
        for client in &mut clients {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            write!(client, "*3\r\n$3\r\nSET\r\n$1\r\na\r\n${}\r\n", value.len()).unwrap();
            client.write_all(&value).unwrap();
            client.write_all(&[&b"\r\n"[..], &b"GET a\r\n".repeat(16)].concat()).unwrap();
            let mut begin = [0; 5];
            client.read_exact(&mut begin).unwrap();
            assert_eq!(&begin, b"+OK\r\n");
        }
        assert_eq!(server.failure(), None);
        let thread = supervised(server.shared(), "thermae-loop-7".to_owned(), work).unwrap();
        thread.join().unwrap();
        for mut client in clients {
            let mut reply = Vec::new();
            client.read_to_end(&mut reply).unwrap();
            let one = [b"$1048576\r\n", &value[..], b"\r\n"].concat();
            assert!(reply.len() % one.len() == 0 && reply.starts_with(&one), "{}", reply.len());
        }
        assert!(server.wait(PATIENCE));
        assert_eq!(server.failure(), Some(failure));
        server.close().unwrap();
    }

    #[test]
    fn a_loop_that_panics_ends_the_server_which_finishes_its_replies() {
        check(|| panic!("all {} is lost", 1), "thermae-loop-7 panicked: all 1 is lost");
    }

    #[test]
    fn a_loop_that_fails_ends_the_server() {
        check(
            || Err(io::Error::from_raw_os_error(9)),
            "thermae-loop-7 failed: Bad file descriptor (os error 9)",
        );
    }
}
