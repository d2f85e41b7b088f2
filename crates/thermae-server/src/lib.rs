//! The Redis and memcached faces of Thermae.
//!
//! A server is a number of event loops, each a thread that reads, executes and answers in place; they share the store and little else. The
//! layers, top to bottom; each uses only those below it (a test holds this):
//!
//! - server: listeners, threads, the end
//! - event_loop: one thread's connections
//! - connection: a client's bytes
//! - memcache: the memcached protocol
//! - redis: the Redis protocol
//! - shared: what all clients of a server share
//! - counts: what memcached clients are told of what was done
//! - marks: what memcached clients are told of items that no record keeps
//! - flusher: durability waited for aside
//! - mailbox: how other threads reach a loop
//! - space: keys and values as commands see them
//! - databases: numbered databases in one store
//! - failure: what a command answers instead of its reply
//! - socket: sockets that clients come to
//! - numbers: numbers as protocols write them
//! - config: what a server is told
#![warn(missing_docs)]
#![allow(clippy::cast_possible_truncation, reason = "buffers stay below 4 GiB; see connection")]

pub mod config;
pub mod connection;
pub mod counts;
pub mod databases;
pub mod event_loop;
pub mod failure;
pub mod flusher;
pub mod mailbox;
pub mod marks;
pub mod memcache;
pub mod numbers;
pub mod redis;
pub mod server;
pub mod shared;
pub mod socket;
pub mod space;
