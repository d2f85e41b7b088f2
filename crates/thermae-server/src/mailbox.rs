//! How other threads reach a loop: clients that were accepted for it, messages for its clients, clients to be ended, and a bell.

use crate::socket::Accepted;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::HashMap;
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
    messages: Mutex<Messages>,
}

/// What may wait for one client until its loop takes it: a loop can be busy for long, and those who publish do not wait.
const WAITING_BYTES_MAX: usize = 32 << 20;
/// What a message takes beside its bytes, about.
const MESSAGE_BYTES: usize = 64;

/// Messages that wait for the loop.
#[derive(Debug, Default)]
struct Messages {
    waiting: Vec<Message>,
    /// Bytes that wait for each client; `None`: it is to be ended, for there were too many.
    bytes: HashMap<u64, Option<usize>>,
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

    /// Sends a message, behind all that were sent before. A client for which too much waits is ended instead.
    pub fn deliver(&self, message: Message) {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = messages.bytes.entry(message.token).or_insert(Some(0));
        let Some(before) = *bytes else { return };
        let after = before + message.bytes.len() + MESSAGE_BYTES;
        // One message alone is the connection's to judge.
        if before != 0 && after > WAITING_BYTES_MAX {
            *bytes = None;
            drop(messages);
            return self.close(message.token);
        }
        *bytes = Some(after);
        messages.waiting.push(message);
        // Who left the first one has rung.
        if messages.waiting.len() == 1 {
            self.ring();
        }
    }

    /// Bytes that wait for one client.
    pub fn waiting_bytes(&self, token: u64) -> usize {
        let messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages.bytes.get(&token).copied().flatten().unwrap_or(0)
    }

    /// Takes the messages. After [`Mailbox::take`], which silences the bell.
    pub fn take_messages(&self) -> Vec<Message> {
        std::mem::take(&mut *self.messages.lock().unwrap_or_else(PoisonError::into_inner)).waiting
    }

    /// Takes the messages for one client.
    pub fn take_messages_for(&self, token: u64) -> Vec<Message> {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(messages.bytes.get(&token), Some(Some(_))) {
            return Vec::new();
        }
        messages.bytes.remove(&token);
        messages.waiting.extract_if(.., |message| message.token == token).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn message(token: u64, length: usize) -> Message {
        Message { token, bytes: vec![b'x'; length].into() }
    }

    #[test]
    fn messages_for_one_client_can_be_taken_alone() {
        let mailbox = Mailbox::new().unwrap();
        [(1, 10), (2, 20), (1, 30)]
            .into_iter()
            .for_each(|(token, length)| mailbox.deliver(message(token, length)));
        let lengths = |messages: Vec<Message>| -> Vec<usize> {
            messages.iter().map(|message| message.bytes.len()).collect()
        };
        assert_eq!(lengths(mailbox.take_messages_for(1)), [10, 30]);
        assert!(mailbox.take_messages_for(1).is_empty());
        mailbox.deliver(message(1, 40));
        assert_eq!([1, 3].map(|token| mailbox.waiting_bytes(token)), [40 + MESSAGE_BYTES, 0]);
        assert_eq!(lengths(mailbox.take_messages()), [20, 40]);
        assert!(mailbox.take_messages().is_empty());
    }

    #[test]
    fn a_client_for_which_too_much_waits_is_ended_once() {
        let mailbox = Mailbox::new().unwrap();
        for _ in 0..100 {
            mailbox.deliver(message(1, 1 << 20));
            mailbox.deliver(message(2, 10));
        }
        assert_eq!(mailbox.take_closing(), [1]);
        assert!(mailbox.take_messages_for(1).is_empty());
        let messages = mailbox.take_messages();
        assert_eq!(messages.iter().filter(|message| message.token == 2).count(), 100);
        assert!(messages.iter().map(|message| message.bytes.len()).sum::<usize>() < WAITING_BYTES_MAX + 1000);
        // One that has been taken by its loop begins anew, however large the first one is.
        mailbox.deliver(message(1, WAITING_BYTES_MAX));
        assert_eq!(mailbox.take_messages().len(), 1);
    }
}
