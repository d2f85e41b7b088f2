//! Makes changes durable for clients that wait for it, so that no loop waits for a disk.
//!
//! Where the store's durability is `always`, a loop executes, holds the replies back, and goes on with other clients; this thread flushes what all loops
//! want by then at once, and rings their mailboxes.

use crate::mailbox::Mailbox;
use crate::spikes::{self, Spikes};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;
use thermae_core::{Error, Store};

/// Pause after a flush that may succeed later.
const RETRY_AFTER: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
struct State {
    wanted: u64,
    is_over: bool,
}

/// What is to become durable.
#[derive(Debug, Default)]
pub struct Flusher {
    has_failed: AtomicBool,
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

    /// Whether nothing becomes durable any more: who waits for that can't be told that it is, and can't be told that it is not, as the bytes may have
    /// reached the disk. Its connection is closed, which is how a client learns that an outcome is unknown.
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::SeqCst)
    }

    /// Ends the thread.
    pub fn end(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_over = true;
        self.changed.notify_one();
    }

    /// The thread's work.
    pub fn run(&self, store: &Store, spikes: &Spikes, mailboxes: &[Mailbox]) {
        let mut done = 0;
        loop {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            while state.wanted <= done && !state.is_over {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.is_over {
                return;
            }
            done = state.wanted;
            drop(state);
            let flushed = spikes.time(spikes::FLUSH, || store.now_ms() / 1000, || store.wait_durable(done));
            match flushed {
                Ok(()) => {}
                Err(Error::WritesStopped(_) | Error::ReadOnly(_) | Error::Closed(_)) => {
                    self.has_failed.store(true, Ordering::SeqCst);
                }
                Err(_) => {
                    // Such as a full tier, in which room is being made.
                    std::thread::sleep(RETRY_AFTER);
                    done = done.saturating_sub(1);
                }
            }
            mailboxes.iter().for_each(Mailbox::ring);
        }
    }
}
