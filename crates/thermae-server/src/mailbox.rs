//! How other threads reach a loop: clients that were accepted for it, messages for its clients, clients to be ended, and a bell.

use crate::socket::Accepted;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// What a client is sent that it did not ask for.
#[derive(Debug)]
pub struct Message {
    /// By which the loop knows the client.
    pub token: u64,
    /// In its version of the protocol.
    pub bytes: Arc<[u8]>,
}

/// How other threads reach a loop.
#[derive(Debug)]
pub struct Mailbox {
    bell: OwnedFd,
    accepted: Mutex<Vec<Accepted>>,
    /// Tokens; each client is ended once, so that there are never more than clients.
    closing: Mutex<Vec<u64>>,
    /// Bounded by what clients may leave unread, as the loop takes them each time that it wakes.
    messages: Mutex<Vec<Message>>,
}

impl Mailbox {
    /// An empty one.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { bell, accepted: Mutex::default(), closing: Mutex::default(), messages: Mutex::default() })
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

    /// Sends a message, behind all that were sent before.
    pub fn deliver(&self, message: Message) {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages.push(message);
        // Who left the first one has rung.
        if messages.len() == 1 {
            self.ring();
        }
    }

    /// Takes the messages. After [`Mailbox::take`], which silences the bell.
    pub fn take_messages(&self) -> Vec<Message> {
        std::mem::take(&mut *self.messages.lock().unwrap_or_else(PoisonError::into_inner))
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
