//! A client and a store for the tests of this face.

use crate::clients::{self, Place};
use crate::config::Config;
use crate::memcache::flushing::DelayedFlush;
use crate::memcache::session::Session;
use crate::redis::pipeline::OUTPUT_BYTES_ENOUGH;
use crate::shared::Shared;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use thermae_core::{Location, Options, Store, WhenFull};

/// A client, with what is left of what it sent.
pub struct Client {
    pub session: Session,
    /// It, as others see it.
    pub seen: Arc<clients::Client>,
    pub input: Vec<u8>,
}

impl Client {
    pub fn new(is_authenticated: bool) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let id = COUNT.fetch_add(1, Ordering::Relaxed);
        let place = Place { token: id, ..Place::default() };
        let seen = clients::Client::new(id, "test".to_owned(), "test".to_owned(), place, 0);
        Self { session: Session::new(is_authenticated, 0), seen: Arc::new(seen), input: Vec::new() }
    }

    /// Sends bytes as they are, and reads what is answered.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>, shared: &Shared) -> String {
        let answer = self.send_in_pieces(bytes.as_ref(), usize::MAX, shared);
        String::from_utf8(answer).unwrap()
    }

    /// The same in pieces of this size. The answer ends with `{closed}` where the connection was closed.
    pub fn send_in_pieces(&mut self, bytes: &[u8], piece_bytes: usize, shared: &Shared) -> Vec<u8> {
        let mut answer = Vec::new();
        for piece in bytes.chunks(piece_bytes) {
            if self.session.closes {
                break;
            }
            self.input.extend_from_slice(piece);
            loop {
                let output = self.turn(shared);
                answer.extend_from_slice(&output);
                let has_enough = output.len() >= OUTPUT_BYTES_ENOUGH || self.session.ends_turn;
                if !has_enough || self.session.closes {
                    break;
                }
            }
        }
        if self.session.closes {
            answer.extend_from_slice(b"{closed}");
        }
        answer
    }

    /// One turn: what is answered in it.
    pub fn turn(&mut self, shared: &Shared) -> Vec<u8> {
        flush_if_due(shared);
        let mut output = Vec::new();
        let done = self.session.process(&self.input, &self.seen, shared, &mut output);
        self.input.drain(..done);
        output
    }
}

/// What a loop does in its turns, as many as that takes.
pub fn flush_if_due(shared: &Shared) {
    let mut flush = DelayedFlush::default();
    while flush.go_on(shared) {}
}

/// A server's store, in shared memory, whose files go at once. Its password is `secret`.
pub fn shared(hot_bytes: u64) -> Shared {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let location = Location::SharedMemory(format!("test-memcache-{}-{number}", std::process::id()));
    let options = Options {
        hot_bytes: Some(hot_bytes),
        when_full: Some(WhenFull::Error),
        background: false,
        ..Options::default()
    };
    let store = Store::open(&location, &options).unwrap();
    std::fs::remove_dir_all(&store.engine().paths.volatile).unwrap();
    Shared::new(store, Config { password: "secret".to_owned(), ..Config::default() }).unwrap()
}
