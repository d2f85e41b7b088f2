//! The Redis protocol.

pub mod bitmaps;
pub mod call;
pub mod connection;
pub mod counters;
pub mod execute;
pub mod expiry_options;
pub mod hyperloglog;
pub mod keys;
pub mod lcs;
pub mod pipeline;
pub mod ranges;
pub mod reply;
pub mod request;
pub mod server;
pub mod session;
pub mod strings;
pub mod table;
pub mod transactions;
pub mod values;
