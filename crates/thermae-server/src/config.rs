//! What a server is told.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Who may call DEBUG.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DebugCommand {
    /// Nobody.
    No,
    /// Clients of this machine.
    Local,
    /// All clients.
    Yes,
}

impl DebugCommand {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Local => "local",
            Self::Yes => "yes",
        }
    }
}

/// How a server listens and what it allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Event loops, each a thread.
    pub threads: u32,
    /// Addresses for Redis clients, such as `127.0.0.1:6379`; port 0 = any that is free.
    pub redis: Vec<String>,
    /// Addresses for memcached clients.
    pub memcached: Vec<String>,
    /// Addresses for Redis clients that speak TLS.
    pub tls: Vec<String>,
    /// Its certificate chain, PEM.
    pub tls_certificate: Option<PathBuf>,
    /// Its key, PEM.
    pub tls_key: Option<PathBuf>,
    /// Clients have to show a certificate of this authority's, PEM.
    pub tls_authority: Option<PathBuf>,
    /// Path of a socket for Redis clients of this machine.
    pub unix: Option<PathBuf>,
    /// Where SAVE and BGSAVE put snapshots of the store; without it they make durable what was written.
    pub snapshots: Option<PathBuf>,
    /// Path of a socket for memcached clients of this machine.
    pub memcached_unix: Option<PathBuf>,
    /// What clients have to say with AUTH; empty = nothing.
    pub password: String,
    /// File of users.
    pub acl_file: Option<PathBuf>,
    /// Most clients at once.
    pub clients_max: u32,
    /// What all clients together may have sent in part, have waiting for EXEC, and not have taken of their replies, in bytes; 0 = no limit; none =
    /// 64 MiB more than the largest value may have.
    pub clients_bytes_max: Option<u64>,
    /// Longest argument.
    pub argument_bytes_max: u64,
    /// Longest value that memcached clients may store.
    pub memcached_value_bytes_max: u64,
    /// Seconds after which an idle client is disconnected; 0 = never.
    pub timeout_seconds: u64,
    /// Refuses clients from elsewhere where there is no password.
    pub protected_mode: bool,
    /// Who may call DEBUG, with which a client can keep others waiting and end the server.
    pub enable_debug_command: DebugCommand,
    /// Parameters of CONFIG SET that have no field here, each `NAME=VALUE`.
    pub redis_parameters: Vec<String>,
    /// The file that this was read from, if there is one; it is read again by whoever runs the server.
    pub config_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            threads: 1,
            redis: vec!["127.0.0.1:6379".to_owned()],
            memcached: Vec::new(),
            tls: Vec::new(),
            tls_certificate: None,
            tls_key: None,
            tls_authority: None,
            unix: None,
            snapshots: None,
            memcached_unix: None,
            password: String::new(),
            acl_file: None,
            clients_max: 10_000,
            clients_bytes_max: None,
            argument_bytes_max: 512 << 20,
            memcached_value_bytes_max: 1 << 20,
            timeout_seconds: 0,
            protected_mode: true,
            enable_debug_command: DebugCommand::No,
            redis_parameters: Vec::new(),
            config_file: None,
        }
    }
}
