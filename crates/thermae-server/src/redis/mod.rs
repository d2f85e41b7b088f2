//! The Redis protocol.

pub mod absent;
pub mod acl;
pub mod acl_file;
pub mod acl_rules;
pub mod bitmaps;
pub mod call;
pub mod client;
pub mod connection;
pub mod counters;
pub mod diagnostics;
pub mod dump;
pub mod execute;
pub mod expiry;
pub mod expiry_options;
pub mod hyperloglog;
#[allow(clippy::disallowed_methods, reason = "what the kernel says of the process is no file of a store")]
pub mod information;
pub mod introspection;
pub mod key_specs;
pub mod keys;
pub mod keyspace;
pub mod lcs;
pub mod lzf;
pub mod object;
pub mod payload;
pub mod pipeline;
pub mod ranges;
pub mod reply;
pub mod request;
pub mod rights;
pub mod scan;
pub mod server;
pub mod session;
pub mod settings;
pub mod sort;
pub mod strings;
pub mod table;
#[cfg(test)]
pub mod test_support;
pub mod transactions;
pub mod values;
