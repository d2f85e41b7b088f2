//! Thermae's server: the store, spoken to in the protocols of Redis and memcached.
//!
//! So far the pure half: what commands compute from bytes, without a store, a socket or a clock. What a user of Redis 7.0
//! sees is the model, byte for byte.
//!
//! The layers, top to bottom; each uses only those below it (a test holds this):
//!
//! - glob: patterns of keys and channels
#![warn(missing_docs)]

pub mod glob;
