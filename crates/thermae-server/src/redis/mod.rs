//! The Redis protocol.

pub mod call;
pub mod connection;
pub mod execute;
pub mod keys;
pub mod pipeline;
pub mod reply;
pub mod request;
pub mod server;
pub mod session;
pub mod strings;
pub mod table;
pub mod transactions;
