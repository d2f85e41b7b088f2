//! Commands executed as a connection would, on a store that goes with the test.

use crate::config::Config;
use crate::redis::execute::execute;
use crate::redis::request::{Batch, Limits, parse};
use crate::redis::session::Session;
use crate::shared::Shared;
use crate::space::Space;
use std::sync::Arc;
use thermae_core::{Location, Options, Store};

/// Enough for what tests of commands store.
const HOT_BYTES: u64 = 64 << 20;

/// One client of a server that has no threads.
pub struct Tester {
    /// What all clients share.
    pub shared: Arc<Shared>,
    /// The client.
    pub session: Session,
    /// Behind what has the store open, which is dropped first.
    _destroyed: Destroyed,
}

/// A store that is destroyed when it is dropped.
struct Destroyed(Location, Options);

impl Tester {
    /// On an empty store; each name is used once.
    pub fn new(name: &str) -> Self {
        let text = format!("shm://server-{name}-{}", std::process::id());
        let location = Location::parse(&text).unwrap();
        let options = Options { hot_bytes: Some(HOT_BYTES), background: false, ..Options::default() };
        let store = Store::open(&location, &options).unwrap();
        let now_ms = store.now_ms();
        let shared = Arc::new(Shared::new(store, Config::default()));
        let session =
            Session::new(1, "127.0.0.1:50000".to_owned(), "127.0.0.1:6379".to_owned(), true, now_ms);
        Self { shared, session, _destroyed: Destroyed(location, options) }
    }

    /// The reply to a command of words without blanks.
    pub fn send(&mut self, line: &str) -> String {
        self.send_words(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>())
    }

    /// The reply to a command.
    pub fn send_words(&mut self, words: &[&[u8]]) -> String {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        let (mut batch, mut partial, mut output) = (Batch::default(), None, Vec::new());
        let limits = Limits { is_authenticated: true, argument_bytes_max: 512 << 20 };
        parse(&bytes, 1, limits, &mut partial, &mut batch).1.unwrap();
        let mut space = Space::new(&self.shared.store);
        let (arguments, _) = batch.command(0, &bytes);
        execute(arguments, &mut self.session, &mut space, &self.shared, &mut output);
        String::from_utf8(output).unwrap()
    }
}

impl Drop for Destroyed {
    fn drop(&mut self) {
        thermae_core::destroy(&*self.1.env, &self.0).unwrap();
    }
}

/// Each command has this reply.
pub fn expect_all(tester: &mut Tester, cases: &[(&str, &str)]) {
    for (command, reply) in cases {
        assert_eq!(tester.send(command), *reply, "{command}");
    }
}
