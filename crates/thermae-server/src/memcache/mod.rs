//! The memcached protocol, as memcached 1.6 speaks it: text and meta commands, over the same keys as Redis's database 0 and Python.
//!
//! `transcripts/` has what a real server answers, byte by byte, and the tests hold this one to it. What differs is marked there, and these are the reasons:
//!
//! - A CAS value is the version of the store's record: a new expiry changes it, as all changes do, and Redis's and Python's changes do, too.
//! - A counter is left as its digits, never with blanks behind them (memcached does either): so Redis and Python can count on with it.
//! - Numbers that do not fit are refused, where memcached takes what is left of them in 32 bits: client flags, lengths; times do fit.
//! - What is stale or being recached, and what was read before, one server knows, as long as it runs (see `marks`).
//! - A key is answered as it was asked for; memcached answers in base64 whenever the item was made so.
//! - A line that is too long is answered before the connection is closed, however it came.
//! - There are no slabs, no LRU lists, no dumps of keys, no binary protocol and no UDP.
//! - All expiry is to the millisecond.
//!
//! The layers, top to bottom:
//!
//! - session: one client, from bytes to bytes
//! - meta: commands of two letters
//! - retrieval: get and its kin
//! - storage: set and its kin; counters
//! - watch: who is shown what clients do
//! - administration: all that concerns no item
//! - flushing: all items deleted, at once or later
//! - statistics: what `stats` reports
//! - noting: what is shown to those who watch
//! - turn: what a command may use while it is executed
//! - verbs: what requests are counted as
//! - request: bytes to requests
//! - flags: the flags of meta commands
//! - base64: keys that are no text
//! - words: lines, words and numbers

pub mod administration;
pub mod base64;
pub mod flags;
pub mod flushing;
#[cfg(test)]
mod harness;
pub mod meta;
pub mod noting;
pub mod request;
pub mod retrieval;
pub mod session;
#[cfg(test)]
mod session_tests;
pub mod statistics;
pub mod storage;
#[cfg(test)]
mod transcripts;
pub mod turn;
pub mod verbs;
pub mod watch;
#[cfg(test)]
mod watch_tests;
pub mod words;
