//! OBJECT: how a value is kept.
//!
//! Clients ask in order to see what their values cost in Redis, so the answers are Redis's: for the same value the same word. How Thermae keeps
//! it is another matter. Nothing is recorded of when a key was used last that would be as fine as a second, so no key is ever idle.

use crate::failure::{Failure, Result};
use crate::numbers::parse_integer;
use crate::redis::call::Call;
use crate::redis::introspection;
use crate::redis::table::{Command, Keys, NO_KEYS, flags};

use flags::{LOADING, READONLY, STALE};

/// The key behind the subcommand.
const SECOND_KEY: Keys = Keys { first: 2, last: 2, step: 1 };

/// The rows.
pub static COMMANDS: &[Command] = &[Command {
    name: "object",
    arity: -2,
    flags: 0,
    keys: NO_KEYS,
    categories: "slow",
    group: "generic",
    since: "2.2.3",
    complexity: "That of the subcommand",
    summary: "A container of commands about how values are kept.",
    syntax: "",
    run: introspection::help,
    subcommands: &[
        Command {
            name: "encoding",
            arity: 3,
            flags: READONLY,
            keys: SECOND_KEY,
            categories: "keyspace read slow",
            group: "generic",
            since: "2.2.3",
            complexity: "O(N), N being the bytes of the value",
            summary: "Answers how Redis would keep a key's value.",
            syntax: "key#0",
            run: encoding,
            subcommands: &[],
        },
        Command {
            name: "freq",
            arity: 3,
            flags: READONLY,
            keys: SECOND_KEY,
            categories: "keyspace read slow",
            group: "generic",
            since: "4.0.0",
            complexity: "O(1)",
            summary: "Would answer how often a key is used; that is not counted.",
            syntax: "key#0",
            run: frequency,
            subcommands: &[],
        },
        Command {
            name: "help",
            arity: 2,
            flags: LOADING | STALE,
            keys: NO_KEYS,
            categories: "keyspace slow",
            group: "generic",
            since: "6.2.0",
            complexity: "O(1)",
            summary: "Answers what the subcommands do.",
            syntax: "",
            run: introspection::help,
            subcommands: &[],
        },
        Command {
            name: "idletime",
            arity: 3,
            flags: READONLY,
            keys: SECOND_KEY,
            categories: "keyspace read slow",
            group: "generic",
            since: "2.2.3",
            complexity: "O(1)",
            summary: "Answers for how many seconds a key was not used: 0.",
            syntax: "key#0",
            run: idle_time,
            subcommands: &[],
        },
        Command {
            name: "refcount",
            arity: 3,
            flags: READONLY,
            keys: SECOND_KEY,
            categories: "keyspace read slow",
            group: "generic",
            since: "2.2.3",
            complexity: "O(N), N being the bytes of the value",
            summary: "Answers how many references to a key's value Redis would have.",
            syntax: "key#0",
            run: reference_count,
            subcommands: &[],
        },
    ],
}];

/// Longest value that Redis keeps together with its header.
const EMBEDDED_BYTES_MAX: usize = 44;
/// Integers below are one object each, which all keys share.
const SHARED_INTEGERS: i64 = 10_000;
/// What Redis says of an object that is shared.
const SHARED_REFERENCES: i64 = 2_147_483_647;

/// How Redis would keep a value.
pub fn encoding_of(value: &[u8]) -> &'static str {
    if parse_integer(value).is_some() {
        "int"
    } else if value.len() <= EMBEDDED_BYTES_MAX {
        "embstr"
    } else {
        "raw"
    }
}

/// How many references to a value Redis would have.
pub fn references_of(value: &[u8]) -> i64 {
    let is_shared = parse_integer(value).is_some_and(|number| (0..SHARED_INTEGERS).contains(&number));
    if is_shared { SHARED_REFERENCES } else { 1 }
}

fn encoding(call: &mut Call<'_, '_>) -> Result<()> {
    let key = call.key(2);
    match call.space.get(&key)? {
        None => call.reply.null(),
        Some((_, value)) => call.reply.bulk(encoding_of(&value).as_bytes()),
    }
    Ok(())
}

fn reference_count(call: &mut Call<'_, '_>) -> Result<()> {
    let key = call.key(2);
    match call.space.get(&key)? {
        None => call.reply.null(),
        Some((_, value)) => call.reply.integer(references_of(&value)),
    }
    Ok(())
}

fn idle_time(call: &mut Call<'_, '_>) -> Result<()> {
    let key = call.key(2);
    match call.space.meta(&key)? {
        None => call.reply.null(),
        Some(_) => call.reply.integer(0),
    }
    Ok(())
}

fn frequency(call: &mut Call<'_, '_>) -> Result<()> {
    let key = call.key(2);
    match call.space.meta(&key)? {
        None => call.reply.null(),
        Some(_) => {
            return Err(Failure::from(
                "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::redis::test_support::TestServer;

    #[test]
    fn an_object_is_kept_as_in_redis() {
        TestServer::new().check(&[
            ("object", "-ERR wrong number of arguments for 'object' command\r\n"),
            ("object encoding", "-ERR wrong number of arguments for 'object|encoding' command\r\n"),
            ("object foo", "-ERR unknown subcommand 'foo'. Try OBJECT HELP.\r\n"),
            ("object help x", "-ERR wrong number of arguments for 'object|help' command\r\n"),
            ("object encoding zz", "$-1\r\n"),
            ("object freq zz", "$-1\r\n"),
            ("object idletime zz", "$-1\r\n"),
            ("object refcount zz", "$-1\r\n"),
            ("set n 12345", "+OK\r\n"),
            ("object encoding n", "$3\r\nint\r\n"),
            ("object refcount n", ":1\r\n"),
            ("object freq n", "-ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.\r\n"),
            ("object idletime n", ":0\r\n"),
            ("set n 9999", "+OK\r\n"),
            ("object refcount n", ":2147483647\r\n"),
            ("set n -1", "+OK\r\n"),
            ("object refcount n", ":1\r\n"),
            ("set n 9223372036854775807", "+OK\r\n"),
            ("object encoding n", "$3\r\nint\r\n"),
            ("set n 9223372036854775808", "+OK\r\n"),
            ("object encoding n", "$6\r\nembstr\r\n"),
            ("set n -9223372036854775808", "+OK\r\n"),
            ("object encoding n", "$3\r\nint\r\n"),
            ("set n 007", "+OK\r\n"),
            ("object encoding n", "$6\r\nembstr\r\n"),
            ("set n xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "+OK\r\n"),
            ("object encoding n", "$6\r\nembstr\r\n"),
            ("set n xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "+OK\r\n"),
            ("OBJECT ENCODING n", "$3\r\nraw\r\n"),
        ]);
    }
}
