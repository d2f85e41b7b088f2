//! A client without a connection: command lines in, replies out, over a store of its own.
#![allow(dead_code, reason = "each test uses a part of this")]

pub mod served;

use std::sync::atomic::{AtomicU64, Ordering};
use thermae_core::env::SystemEnv;
use thermae_core::{Location, Options, Store, destroy};
use thermae_server::config::Config;
use thermae_server::redis::execute::execute;
use thermae_server::redis::request::{Batch, Limits, parse};
use thermae_server::redis::session::Session;
use thermae_server::shared::Shared;
use thermae_server::space::Space;

const HOT_BYTES: u64 = 32 << 20;

/// A client that is alone with its store.
pub struct Client {
    shared: Shared,
    pub session: Session,
    /// Last, as a store has to be closed by everyone to be removed.
    _place: Place,
}

struct Place(Location);

impl Client {
    /// Of a new store in shared memory.
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let location = Location::SharedMemory(format!("test-server-{}-{number}", std::process::id()));
        let options = Options { hot_bytes: Some(HOT_BYTES), background: false, ..Options::default() };
        let store = Store::open(&location, &options).unwrap();
        let session = Session::new(1, String::new(), String::new(), true, store.now_ms());
        Self { shared: Shared::new(store, Config::default()).unwrap(), session, _place: Place(location) }
    }

    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// The reply to a command, written as redis-cli takes it: as bytes, line breaks and all.
    pub fn send(&mut self, line: &str) -> Vec<u8> {
        self.request(format!("{line}\n").as_bytes())
    }

    /// The same of words that take no quotes, however many they are.
    pub fn send_words<'w>(&mut self, words: impl IntoIterator<Item = &'w str>) -> Vec<u8> {
        let words: Vec<_> = words.into_iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        self.request(format!("*{}\r\n{}", words.len(), words.concat()).as_bytes())
    }

    fn request(&mut self, buffer: &[u8]) -> Vec<u8> {
        let mut batch = Batch::default();
        let limits = Limits { is_authenticated: true, argument_bytes_max: 512 << 20 };
        parse(buffer, 1, limits, &mut None, &mut batch).1.unwrap();
        assert_eq!(batch.len(), 1, "{}", buffer.escape_ascii());
        let (arguments, _) = batch.command(0, buffer);
        let mut output = Vec::new();
        let mut space = Space::new(&self.shared.store);
        execute(arguments, &mut self.session, &mut space, &self.shared, &mut output);
        output
    }

    /// The same as text, with everything but printable ASCII escaped.
    pub fn ask(&mut self, line: &str) -> String {
        self.send(line).escape_ascii().to_string()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = destroy(&SystemEnv, &self.0) {
            assert!(std::thread::panicking(), "destroy {}: {error}", self.0);
        }
    }
}
