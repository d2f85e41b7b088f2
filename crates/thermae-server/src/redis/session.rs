//! What the server knows of one client.

use crate::clients::{self, Client, Place, marks};
use crate::redis::request::OwnedArguments;
use crate::redis::table::Entry;
use crate::shared::Shared;
use crate::slow_log::Started;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Whether replies are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplyMode {
    /// All.
    #[default]
    On,
    /// None.
    Off,
    /// Not that of the next command.
    SkipNext,
    /// Not that of this command, the one after `SkipNext`.
    Skip,
}

/// Commands that wait for EXEC, each as its arguments.
#[derive(Debug, Default)]
pub struct Queue {
    /// In order.
    pub commands: Vec<OwnedArguments>,
    /// Bytes of their arguments.
    pub bytes: usize,
    /// One of them could not be queued, so that none may be executed.
    pub is_refused: bool,
}

/// A client of the Redis protocol.
#[derive(Debug)]
pub struct Session {
    /// Its number, never given twice by a server.
    pub id: u64,
    /// What others see of it.
    pub client: Arc<Client>,
    /// The database that it selected.
    pub database: u8,
    /// Whether it speaks RESP3.
    pub is_resp3: bool,
    /// Whether it said who it is, or need not.
    pub is_authenticated: bool,
    /// Whether all of its commands may just be run; see [`Session::settle`].
    pub is_plain: bool,
    /// Whether replies are sent.
    pub reply_mode: ReplyMode,
    /// Set by a command after whose reply the connection is closed.
    pub closes: bool,
    /// Its next command waits for the end of a pause.
    pub is_paused: bool,
    /// Its last command took long: others are served before its next one.
    pub ends_turn: bool,
    /// Is to be kept when clients have to go.
    pub no_evict: bool,
    /// The last command that could have been executed.
    pub last_command: Option<&'static Entry>,
    /// When the command began that comes next, where it is known.
    pub began: Option<Started>,
    /// After MULTI.
    pub queue: Option<Box<Queue>>,
    /// Stored keys under WATCH, with their versions then.
    pub watched: HashMap<Vec<u8>, Option<u64>>,
    /// Bytes of these keys; means nothing where there are none.
    pub watched_bytes: usize,
}

impl Session {
    /// A client that has just come, and that no loop serves.
    pub fn new(
        id: u64,
        address: String,
        local_address: String,
        is_authenticated: bool,
        connected_at_ms: u64,
    ) -> Self {
        let client = Client::new(id, address, local_address, Place::default(), connected_at_ms);
        Self::of(Arc::new(client), is_authenticated)
    }

    /// The session of a client.
    pub fn of(client: Arc<Client>, is_authenticated: bool) -> Self {
        Self {
            id: client.id,
            client,
            database: 0,
            is_resp3: false,
            is_authenticated,
            is_plain: is_authenticated,
            reply_mode: ReplyMode::On,
            closes: false,
            is_paused: false,
            ends_turn: false,
            no_evict: false,
            last_command: None,
            began: None,
            queue: None,
            watched: HashMap::new(),
            watched_bytes: 0,
        }
    }

    /// Decides whether its commands have to be looked at before they are run. After each change of what that rests on.
    pub fn settle(&mut self) {
        self.is_plain = self.is_authenticated;
    }

    /// The client is gone: nobody is to reach it any more.
    pub fn leave(&mut self, _shared: &Shared) {}

    /// Lets others see what the client is at.
    pub fn publish(&self) {
        let flag = |is_so, mark| if is_so { mark } else { 0 };
        let flags = flag(self.is_resp3, marks::RESP3)
            | flag(self.no_evict, marks::NO_EVICT)
            | flag(self.queue.is_some(), marks::IN_TRANSACTION)
            | flag(self.closes, marks::CLOSES);
        let queued = self.queue.as_ref().map_or(-1, |queue| queue.commands.len() as i64);
        let command = self.last_command.map_or(clients::NO_COMMAND, |command| command.number);
        let client = &self.client;
        client.database.store(u32::from(self.database), Ordering::Relaxed);
        client.flags.store(flags, Ordering::Relaxed);
        client.queued.store(queued, Ordering::Relaxed);
        client.command.store(command, Ordering::Relaxed);
    }
}
