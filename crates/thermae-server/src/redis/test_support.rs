//! A server without sockets, for tests of commands: lines in, raw replies out.

use crate::clients::{Client, Place};
use crate::config::{Config, DebugCommand};
use crate::latency::Moment;
use crate::mailbox::Mailbox;
use crate::redis::execute::execute;
use crate::redis::request::{Batch, Limits, parse, split_words};
use crate::redis::session::Session;
use crate::shared::{Reach, Shared};
use crate::space::Space;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use thermae_core::env::SystemEnv;
use thermae_core::{Location, Options, Store, destroy};

const HOT_BYTES: u64 = 16 << 20;

/// A store of its own, served to one client.
#[derive(Debug)]
pub struct TestServer {
    /// `None` only while it is dropped.
    shared: Option<Shared>,
    location: Location,
    /// The client.
    pub session: Session,
}

impl TestServer {
    /// With an empty store.
    #[allow(clippy::new_without_default, reason = "a store that nobody asked for is no default")]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let location = Location::parse(&format!("shm://test-redis-{}-{number}", std::process::id())).unwrap();
        let options = Options { hot_bytes: Some(HOT_BYTES), background: false, ..Options::default() };
        let store = Store::open(&location, &options).unwrap();
        let session = Session::new(1, "test".to_owned(), "test".to_owned(), true, store.now_ms());
        let config = Config { enable_debug_command: DebugCommand::Yes, ..Config::default() };
        Self { shared: Some(Shared::new(store, config).unwrap()), location, session }
    }

    /// The same, whose clients can be sent what they did not ask for.
    pub fn reachable() -> Self {
        let server = Self::new();
        let mailboxes = Arc::new([Mailbox::new().unwrap()]);
        server.shared().reach.set(Reach { mailboxes, addresses: Vec::new(), memcached: Vec::new() }).unwrap();
        server
    }

    /// Another client, to be put in the place of the one before. Its number is its token.
    pub fn client(&self, id: u64) -> Session {
        let place = Place { token: id, ..Place::default() };
        let client = Client::new(id, "test".to_owned(), "test".to_owned(), place, self.store().now_ms());
        Session::of(Arc::new(client), true)
    }

    /// What a client was sent that it did not ask for, as text.
    pub fn messages(&self, client: &Session) -> Vec<String> {
        let messages = self.shared().take_messages(client.client.place);
        messages.iter().map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).collect()
    }

    /// What clients share.
    pub fn shared(&self) -> &Shared {
        self.shared.as_ref().unwrap()
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.shared().store
    }

    /// The raw reply to a command.
    pub fn call(&mut self, words: &[&[u8]]) -> Vec<u8> {
        // Commands do not follow at once.
        self.call_since(None, words)
    }

    /// The same, with the moment at which the command before it ended.
    pub fn call_since(&mut self, began: Option<Moment>, words: &[&[u8]]) -> Vec<u8> {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        let limits = Limits { is_authenticated: true, argument_bytes_max: 512 << 20 };
        let mut batch = Batch::default();
        let (_, result) = parse(&request, 1, limits, &mut None, &mut batch);
        result.unwrap();
        let (arguments, _) = batch.command(0, &request);
        let mut output = Vec::new();
        self.session.began = began;
        let shared = self.shared.as_ref().unwrap();
        loop {
            execute(arguments, &mut self.session, &mut Space::new(&shared.store), shared, &mut output);
            if self.session.emptying.is_none() {
                return output;
            }
        }
    }

    /// The raw reply to a command written as redis-cli takes it, as text.
    pub fn line(&mut self, line: &str) -> String {
        let words = split_words(line.as_bytes()).unwrap();
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        String::from_utf8_lossy(&self.call(&words)).into_owned()
    }

    /// Runs commands in order and compares each raw reply.
    pub fn check(&mut self, cases: &[(&str, &str)]) {
        for (line, reply) in cases {
            assert_eq!(&self.line(line), reply, "{line}");
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        drop(self.shared.take());
        let destroyed = destroy(&SystemEnv, &self.location);
        if !std::thread::panicking() {
            destroyed.unwrap();
        }
    }
}
