//! How other threads reach a loop: clients that were accepted for it, and a bell.

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
}

impl Mailbox {
    /// An empty one.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { bell, accepted: Mutex::new(Vec::new()) })
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

    /// Silences the bell and takes what was handed over.
    pub fn take(&self) -> Vec<Accepted> {
        let mut count = [0_u8; 8];
        let _ = rustix::io::read(&self.bell, &mut count);
        std::mem::take(&mut *self.accepted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
