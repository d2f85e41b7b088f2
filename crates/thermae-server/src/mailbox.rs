//! How other threads reach a loop: clients that were accepted for it, clients to be ended, and a bell.

use crate::socket::Accepted;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

/// How other threads reach a loop.
#[derive(Debug)]
pub struct Mailbox {
    bell: OwnedFd,
    accepted: Mutex<Vec<Accepted>>,
    /// Tokens; each client is ended once, so that there are never more than clients.
    closing: Mutex<Vec<u64>>,
}

impl Mailbox {
    /// An empty one.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { bell, accepted: Mutex::default(), closing: Mutex::default() })
    }

    /// What the loop waits on.
    pub fn bell(&self) -> &OwnedFd {
        &self.bell
    }

    /// Wakes the loop.
    pub fn ring(&self) {
        // Where it is full, it rings already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// Hands a client over.
    pub fn give(&self, accepted: Accepted) {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).push(accepted);
        self.ring();
    }

    /// Has the client with this token ended.
    pub fn close(&self, token: u64) {
        self.closing.lock().unwrap_or_else(PoisonError::into_inner).push(token);
        self.ring();
    }

    /// Takes the tokens of clients to be ended. After [`Mailbox::take`], which silences the bell.
    pub fn take_closing(&self) -> Vec<u64> {
        std::mem::take(&mut *self.closing.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Silences the bell and takes what was handed over.
    pub fn take(&self) -> Vec<Accepted> {
        let mut count = [0_u8; 8];
        let _ = rustix::io::read(&self.bell, &mut count);
        std::mem::take(&mut *self.accepted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
