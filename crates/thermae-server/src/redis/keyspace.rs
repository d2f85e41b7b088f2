//! Commands on whole databases.
//!
//! Database 0 is what Python sees as the store, so a database is no thing of its own that could be swapped or dropped: it is the keys that it
//! has. Emptying one deletes key by key, while others are served, who may see it half empty; in a transaction it happens at once with the rest, as far as one transaction
//! has room for so many keys. Swapping two moves all their keys at once, or nothing. Rejected: a table from a database's number to the
//! prefix of its keys; after a swap with another one, Python and database 0 would no longer have the same keys.

use crate::databases::{database_of, is_of, prefix_of, stored_key};
use crate::emptying::Emptying;
use crate::failure::{Failure, Result};
use crate::numbers::parse_integer;
use crate::redis::call::{Call, SYNTAX};
use crate::redis::keys::{NO_SUCH_DATABASE, database_number, unchanged};
use crate::redis::table::{Command, NO_KEYS, flags};
use crate::space::Space;
use std::sync::atomic::Ordering;

use flags::{FAST, READONLY, WRITE};

/// The rows.
pub static COMMANDS: &[Command] = &[
    Command {
        name: "dbsize",
        arity: 1,
        flags: READONLY | FAST,
        keys: NO_KEYS,
        categories: "fast keyspace read",
        group: "server",
        since: "1.0.0",
        complexity: "O(1) where only database 0 is used, else O(N), N being the number of keys in the store",
        summary: "Answers how many keys the database has.",
        syntax: "",
        run: count_keys,
        subcommands: &[],
    },
    Command {
        name: "flushdb",
        arity: -1,
        flags: WRITE,
        keys: NO_KEYS,
        categories: "dangerous keyspace slow write",
        group: "server",
        since: "1.0.0",
        complexity: "O(N), N being the number of keys in the store",
        summary: "Deletes all keys of the database.",
        syntax: "[async(ASYNC@4.0.0 | SYNC@6.2.0)]",
        run: flush_database,
        subcommands: &[],
    },
    Command {
        name: "flushall",
        arity: -1,
        flags: WRITE,
        keys: NO_KEYS,
        categories: "dangerous keyspace slow write",
        group: "server",
        since: "1.0.0",
        complexity: "O(N), N being the number of keys in the store",
        summary: "Deletes all keys of all databases.",
        syntax: "[async(ASYNC@4.0.0 | SYNC@6.2.0)]",
        run: flush_all,
        subcommands: &[],
    },
    Command {
        name: "swapdb",
        arity: 3,
        flags: WRITE | FAST,
        keys: NO_KEYS,
        categories: "dangerous fast keyspace write",
        group: "server",
        since: "4.0.0",
        complexity: "O(N), N being the number of keys in the store",
        summary: "Has two databases change places, as far as one transaction has room for all their keys.",
        syntax: "index1:integer index2:integer",
        run: swap,
        subcommands: &[],
    },
];

/// The error for keys that are not deleted all because the server ends.
const STOPPED: &str = "ERR the server ends: some of the keys are deleted, and some are not";
/// Bytes of a record beside key and value, at least.
const RECORD_BYTES_MIN: u64 = 32;

fn count_keys(call: &mut Call<'_, '_>) -> Result<()> {
    let count = key_count(call.space, call.session.database)?;
    call.reply.count(count);
    Ok(())
}

/// How many keys a database has: at once where it is the first and only one.
pub fn key_count(space: &Space<'_>, database: u8) -> Result<u64> {
    let store = space.store();
    if database == 0 && space.is_plain() && !store.has_marked_keys()? {
        return Ok(store.len()?);
    }
    let database = Some(database);
    let is_counted = |stored: &[u8]| is_of(database, stored) && !space.is_deleted(stored);
    let mut walk = store.scan(&prefix_of(database));
    let mut count = space.new_keys()?.iter().filter(|stored| is_counted(stored)).count();
    while let Some(batch) = walk.next_batch()? {
        count += batch.iter().filter(|(stored, _)| is_counted(stored)).count();
    }
    Ok(count as u64)
}

fn flush_database(call: &mut Call<'_, '_>) -> Result<()> {
    let database = call.session.database;
    flush(call, Some(database))
}

fn flush_all(call: &mut Call<'_, '_>) -> Result<()> {
    flush(call, None)
}

/// Deletes the keys of a database, or all. SYNC and ASYNC are the same: memory is freed in the background anyway.
fn flush(call: &mut Call<'_, '_>, database: Option<u8>) -> Result<()> {
    match call.arguments.len() {
        1 => {}
        2 if call.is(1, "SYNC") || call.is(1, "ASYNC") => {}
        _ => return Err(Failure::from(SYNTAX)),
    }
    if call.space.is_plain() {
        let begun = call.session.emptying.take();
        let mut emptying = begun.unwrap_or_else(|| Box::new(Emptying::new(database)));
        let is_done = emptying.go_on(call.space.store());
        if matches!(is_done, Ok(false)) && !call.shared.is_stopping.load(Ordering::Relaxed) {
            call.session.emptying = Some(emptying);
            return Err(Failure::Unfinished);
        }
        // Of what was deleted before an error, others have to know as well.
        call.space.events.note_flush();
        if !is_done? {
            return Err(Failure::from(STOPPED));
        }
    } else {
        for stored in stored_keys(call.space, database)? {
            call.space.delete(&stored)?;
        }
        call.space.events.note_flush();
    }
    call.reply.ok();
    Ok(())
}

/// The stored keys of a database, or all, as the changes made so far leave them. A failure where there are more than one transaction can change.
fn stored_keys(space: &Space<'_>, database: Option<u8>) -> Result<Vec<Vec<u8>>> {
    let mut keys = space.new_keys()?;
    keys.retain(|stored| is_of(database, stored));
    let bytes_max = u64::from(space.store().config().frame_bytes) / 2;
    let mut bytes = 0;
    let mut walk = space.store().scan(&prefix_of(database));
    while let Some(batch) = walk.next_batch()? {
        for (stored, _) in batch {
            if is_of(database, &stored) && !space.is_deleted(&stored) {
                bytes += RECORD_BYTES_MIN + stored.len() as u64;
                keys.push(stored);
            }
        }
        if bytes > bytes_max {
            return Err(Failure::text(format!(
                "ERR the databases have more keys than can be changed at once ({bytes_max} bytes of records): change them in parts, or create the store with a hot tier of 512 MiB or more, whose frames are larger"
            )));
        }
    }
    Ok(keys)
}

fn swap(call: &mut Call<'_, '_>) -> Result<()> {
    let first = index_argument(call, 1, "ERR invalid first DB index")?;
    let second = index_argument(call, 2, "ERR invalid second DB index")?;
    let (first, second) = (database_number(first), database_number(second));
    let (Some(first), Some(second)) = (first, second) else { return Err(Failure::from(NO_SUCH_DATABASE)) };
    if first != second {
        call.space.atomically(|space| {
            let (mut moved, (events, _)) = (Vec::new(), space.events.mark());
            for (from, to) in [(first, second), (second, first)] {
                for stored in stored_keys(space, Some(from))? {
                    if let Some((meta, value)) = space.get(&stored)? {
                        let target = stored_key(to, database_of(&stored).1).into_owned();
                        moved.push((stored, target, meta, value));
                    }
                }
            }
            for (stored, ..) in &moved {
                space.delete(stored)?;
            }
            for (_, target, meta, value) in &moved {
                space.set(target, value, &unchanged(meta))?;
            }
            // No key of a database that has another number is told as new.
            space.events.take_back((events, usize::MAX));
            Ok(())
        })?;
    }
    call.reply.ok();
    Ok(())
}

fn index_argument(call: &Call<'_, '_>, index: usize, error: &'static str) -> Result<i32> {
    parse_integer(call.argument(index))
        .and_then(|number| i32::try_from(number).ok())
        .ok_or(Failure::from(error))
}

#[cfg(test)]
mod tests {
    use crate::redis::test_support::TestServer;
    use thermae_core::SetOptions;

    #[test]
    fn databases_are_emptied() {
        TestServer::new().check(&[
            ("set a 1", "+OK\r\n"),
            ("flushdb foo", "-ERR syntax error\r\n"),
            ("flushdb sync sync", "-ERR syntax error\r\n"),
            ("flushall foo", "-ERR syntax error\r\n"),
            ("exists a", ":1\r\n"),
            ("select 1", "+OK\r\n"),
            ("set b 1", "+OK\r\n"),
            ("flushdb SYNC", "+OK\r\n"),
            ("dbsize", ":0\r\n"),
            ("select 0", "+OK\r\n"),
            ("exists a", ":1\r\n"),
            ("select 1", "+OK\r\n"),
            ("set b 1", "+OK\r\n"),
            ("select 0", "+OK\r\n"),
            ("flushdb", "+OK\r\n"),
            ("dbsize", ":0\r\n"),
            ("select 1", "+OK\r\n"),
            ("dbsize", ":1\r\n"),
            ("flushall async", "+OK\r\n"),
            ("dbsize", ":0\r\n"),
            ("multi", "+OK\r\n"),
            ("set x 1", "+QUEUED\r\n"),
            ("flushall", "+QUEUED\r\n"),
            ("dbsize", "+QUEUED\r\n"),
            ("exec", "*3\r\n+OK\r\n+OK\r\n:0\r\n"),
        ]);
    }

    #[test]
    fn databases_change_places() {
        TestServer::new().check(&[
            ("set a 1", "+OK\r\n"),
            ("expire a 1000", ":1\r\n"),
            ("set b 2", "+OK\r\n"),
            ("swapdb x 1", "-ERR invalid first DB index\r\n"),
            ("swapdb 0 y", "-ERR invalid second DB index\r\n"),
            ("swapdb 0 16", "-ERR DB index is out of range\r\n"),
            ("swapdb 16 0", "-ERR DB index is out of range\r\n"),
            ("swapdb -1 0", "-ERR DB index is out of range\r\n"),
            ("swapdb 99999999999 0", "-ERR invalid first DB index\r\n"),
            ("swapdb 1 1", "+OK\r\n"),
            ("swapdb 0 1", "+OK\r\n"),
            ("dbsize", ":0\r\n"),
            ("select 1", "+OK\r\n"),
            ("get a", "$1\r\n1\r\n"),
            ("ttl a", ":1000\r\n"),
            ("get b", "$1\r\n2\r\n"),
            ("set c 3", "+OK\r\n"),
            ("swapdb 1 0", "+OK\r\n"),
            ("dbsize", ":0\r\n"),
            ("select 0", "+OK\r\n"),
            ("dbsize", ":3\r\n"),
        ]);
    }

    #[test]
    fn too_many_keys_to_change_at_once_stay_as_they_are() {
        const TOO_MANY: &str = "-ERR the databases have more keys than can be changed at once (524288 bytes of records): \
             change them in parts, or create the store with a hot tier of 512 MiB or more, whose frames are larger\r\n";
        let mut server = TestServer::new();
        for number in 0..14_000_u32 {
            server.store().set(format!("key:{number}").as_bytes(), b"", &SetOptions::default()).unwrap();
        }
        server.check(&[
            ("dbsize", ":14000\r\n"),
            ("swapdb 0 1", TOO_MANY),
            ("multi", "+OK\r\n"),
            ("set another 1", "+QUEUED\r\n"),
            ("flushall", "+QUEUED\r\n"),
        ]);
        assert_eq!(server.line("exec"), format!("*2\r\n+OK\r\n{TOO_MANY}"));
        server.check(&[("dbsize", ":14001\r\n"), ("flushall", "+OK\r\n"), ("dbsize", ":0\r\n")]);
    }

    #[test]
    fn keys_that_look_like_those_of_other_databases_are_this_one_s() {
        let mut server = TestServer::new();
        for key in [&b"\xff\x01a"[..], b"\xff\x00", b"\xff", b"a"] {
            server.call(&[b"set", key, b"1"]);
        }
        server.check(&[
            ("dbsize", ":4\r\n"),
            ("select 1", "+OK\r\n"),
            ("dbsize", ":0\r\n"),
            ("set a 1", "+OK\r\n"),
            ("dbsize", ":1\r\n"),
            ("flushdb", "+OK\r\n"),
            ("select 0", "+OK\r\n"),
            ("dbsize", ":4\r\n"),
            ("flushdb", "+OK\r\n"),
            ("dbsize", ":0\r\n"),
        ]);
        assert_eq!(server.store().len().unwrap(), 0);
    }
}
