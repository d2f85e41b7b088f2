//! The memcached protocol, as memcached 1.6 speaks it: text and meta commands, over the same keys as Redis's database 0 and Python.
//!
//! `transcripts/` has what a real server answers, byte by byte; the tests hold this one to it, and each difference stands there with its reason. The layers,
//! top to bottom:
//!
//! - session: one client, from bytes to bytes
//! - meta: commands of two letters
//! - retrieval: get and its kin
//! - storage: set and its kin; counters
//! - administration: all that concerns no item
//! - statistics: what `stats` reports
//! - turn: what a command may use while it is executed
//! - request: bytes to requests
//! - flags: the flags of meta commands
//! - base64: keys that are no text
//! - words: lines, words and numbers

pub mod administration;
pub mod base64;
pub mod flags;
pub mod meta;
pub mod request;
pub mod retrieval;
pub mod session;
pub mod statistics;
pub mod storage;
#[cfg(test)]
mod transcripts;
pub mod turn;
pub mod words;
