//! Makes changes durable for clients that wait for it, so that no loop waits for a disk.
//!
//! Where the store's durability is `always`, a loop executes, holds the replies back, and goes on with other clients; this thread flushes what all loops
//! want by then at once, and rings their mailboxes.

use crate::mailbox::Mailbox;
use std::sync::{Condvar, Mutex, PoisonError};
use thermae_core::Store;

#[derive(Debug, Default)]
struct State {
    wanted: u64,
    is_over: bool,
}

/// What is to become durable.
#[derive(Debug, Default)]
pub struct Flusher {
    state: Mutex<State>,
    changed: Condvar,
}

impl Flusher {
    /// Somebody waits until everything up to this sequence number is durable.
    pub fn want(&self, sequence: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if sequence > state.wanted {
            state.wanted = sequence;
            self.changed.notify_one();
        }
    }

    /// Ends the thread.
    pub fn end(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_over = true;
        self.changed.notify_one();
    }

    /// The thread's work.
    pub fn run(&self, store: &Store, mailboxes: &[Mailbox]) {
        let mut done = 0;
        loop {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            while state.wanted <= done && !state.is_over {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.is_over && state.wanted <= done {
                return;
            }
            done = state.wanted;
            drop(state);
            // Where it fails, writing has stopped for good, and whoever asks whether its change is durable is told so.
            drop(store.wait_durable(done));
            mailboxes.iter().for_each(Mailbox::ring);
        }
    }
}
