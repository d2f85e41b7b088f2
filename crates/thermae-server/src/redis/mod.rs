//! The Redis protocol.

pub mod absent;
pub mod call;
pub mod client;
pub mod connection;
pub mod diagnostics;
pub mod execute;
pub mod information;
pub mod introspection;
pub mod key_specs;
pub mod keys;
pub mod pipeline;
pub mod reply;
pub mod request;
pub mod server;
pub mod session;
pub mod settings;
pub mod strings;
pub mod table;
#[cfg(test)]
pub mod testing;
pub mod transactions;
