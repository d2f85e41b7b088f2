//! Thermae's server: the store, spoken to in the protocols of Redis and memcached.
//!
//! So far the pure half: what commands compute from bytes, without a store, a socket or a clock. What a user of Redis 7.0
//! sees is the model, byte for byte.
//!
//! The layers, top to bottom; each uses only those below it (a test holds this):
//!
//! - hyperloglog: sketches that count distinct elements
//! - murmur: the hash that sketches are filled with
//! - bitfield: integers of any width inside a string
//! - bits: a string as an array of bits
//! - glob: patterns of keys and channels
//! - numbers: integers, floats and sizes as clients write and read them
//! - extended: floats of 80 bits
//! - float_text: what a float's text says, and the nearest binary number to it
//! - natural: whole numbers of any length
//! - error: what can go wrong
#![warn(missing_docs)]

pub mod bitfield;
pub mod bits;
mod error;
pub mod extended;
mod float_text;
pub mod glob;
pub mod hyperloglog;
mod murmur;
mod natural;
pub mod numbers;

pub use error::{Error, Result};
