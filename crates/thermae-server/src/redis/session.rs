//! What the server knows of one client.

use crate::redis::request::OwnedArguments;
use std::collections::HashMap;

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
    /// One of them could not be queued, so that none may be executed.
    pub is_refused: bool,
}

/// A client of the Redis protocol.
#[derive(Debug)]
pub struct Session {
    /// Its number, never given twice by a server.
    pub id: u64,
    /// Where it calls from.
    pub address: String,
    /// Where it was accepted.
    pub local_address: String,
    /// What it calls itself.
    pub name: Vec<u8>,
    /// The database that it selected.
    pub database: u8,
    /// Whether it speaks RESP3.
    pub is_resp3: bool,
    /// Whether it said who it is, or need not.
    pub is_authenticated: bool,
    /// Whether replies are sent.
    pub reply_mode: ReplyMode,
    /// Set by a command after whose reply the connection is closed.
    pub closes: bool,
    /// When it came, store clock.
    pub connected_at_ms: u64,
    /// The last command's name.
    pub last_command: &'static str,
    /// After MULTI.
    pub queue: Option<Box<Queue>>,
    /// Stored keys under WATCH, with their versions then.
    pub watched: HashMap<Vec<u8>, Option<u64>>,
}

impl Session {
    /// A client that has just come.
    pub fn new(
        id: u64,
        address: String,
        local_address: String,
        is_authenticated: bool,
        connected_at_ms: u64,
    ) -> Self {
        Self {
            id,
            address,
            local_address,
            name: Vec::new(),
            database: 0,
            is_resp3: false,
            is_authenticated,
            reply_mode: ReplyMode::On,
            closes: false,
            connected_at_ms,
            last_command: "",
            queue: None,
            watched: HashMap::new(),
        }
    }
}
