//! The Redis and memcached faces of Thermae.
//!
//! A server is a number of event loops, each a thread that reads, executes and answers in place; they share the store and little else. The
//! layers, top to bottom; each uses only those below it (a test holds this):
//!
//! - server: listeners, threads, the end
//! - metrics: all that monitoring wants to know
//! - reload: another configuration for a server that runs
//! - event_loop: one thread's connections
//! - connection: a client's bytes
//! - memcache: the memcached protocol
//! - redis: the Redis protocol
//! - shared: what all clients of a server share
//! - tracking: who is told that copies of values are outdated
//! - channels: who is subscribed to which channels and patterns
//! - monitors: who is shown every command
//! - watchers: who is shown what memcached clients do
//! - watch_log: that, as lines
//! - clients: who is connected, as others see it
//! - slow_log: commands that took long
//! - refusals: what users were refused
//! - users: who may do what
//! - emptying: databases emptied in slices
//! - latency: how long commands take
//! - pause: clients made to wait
//! - statistics: what is counted, loop by loop
//! - usage: how often each command was called, and how long that took
//! - histogram: how often what took how long
//! - counts: what memcached clients are told of what was done
//! - counter: a count that one thread writes and all may read
//! - marks: what memcached clients are told of items that no record keeps
//! - flusher: durability waited for aside
//! - spikes: what took longer than somebody wants it to, event by event
//! - saves: snapshots that clients ask for
//! - census: how many keys the numbered databases have, counted aside
//! - journal: what whoever runs the server should know
//! - errand: work for a thread of its own, done when wanted
//! - observer: what others do to keys
//! - mailbox: how other threads reach a loop
//! - space: keys and values as commands see them
//! - events: what a command did to keys
//! - attention: what of all commands somebody wants to know
//! - databases: numbered databases in one store
//! - failure: what a command answers instead of its reply
//! - hyperloglog: sketches that count distinct elements
//! - murmur: the hash that sketches are filled with
//! - bitfield: integers of any width inside a string
//! - bits: a string as an array of bits
//! - glob: patterns of keys and channels
//! - numbers: integers, floats and sizes as clients write and read them
//! - extended: floats of 80 bits
//! - float_text: what a float's text says, and the nearest binary number to it
//! - natural: whole numbers of any length
//! - error: what stored bytes can be wrong about
//! - transport: bytes to a client and back, plain or in TLS
//! - socket: sockets that clients come to
//! - tls: certificates and keys
//! - config: what a server is told
#![warn(missing_docs)]
#![allow(clippy::cast_possible_truncation, reason = "buffers stay below 4 GiB; see connection")]

pub mod attention;
pub mod bitfield;
pub mod bits;
pub mod census;
pub mod channels;
pub mod clients;
pub mod config;
pub mod connection;
pub mod counter;
pub mod counts;
pub mod databases;
pub mod emptying;
mod errand;
mod error;
pub mod event_loop;
pub mod events;
pub mod extended;
pub mod failure;
mod float_text;
pub mod flusher;
pub mod glob;
pub mod histogram;
pub mod hyperloglog;
pub mod journal;
pub mod latency;
pub mod mailbox;
pub mod marks;
pub mod memcache;
pub mod metrics;
pub mod monitors;
mod murmur;
mod natural;
pub mod numbers;
pub mod observer;
pub mod pause;
pub mod redis;
pub mod refusals;
pub mod reload;
pub mod saves;
pub mod server;
pub mod shared;
pub mod slow_log;
#[allow(clippy::disallowed_methods, reason = "the path of a socket is no file of a store")]
pub mod socket;
pub mod space;
pub mod spikes;
pub mod statistics;
pub mod tls;
pub mod tracking;
pub mod transport;
pub mod usage;
pub mod users;
pub mod watch_log;
pub mod watchers;

pub use error::{Error, Result};
