//! Commands on keys, whatever they hold.
//!
//! What takes more than one key happens at once, see [`Space::atomically`]. A value that moves or is copied keeps all that is known of it: its
//! encoding, which is Python's, and when it expires.

use crate::databases::{DATABASES, stored_key};
use crate::events::classes::GENERIC;
use crate::failure::{Failure, Result};
use crate::redis::call::{Call, SYNTAX};
use crate::redis::table::{ALL_KEYS, Command, Keys, NO_KEYS, ONE_KEY, flags};
use crate::space::Space;
use thermae_core::{Condition, RecordMeta, SetOptions};

use flags::{DENYOOM, FAST, NOSCRIPT, READONLY, WRITE};

/// From one key to another.
const TWO_KEYS: Keys = Keys { first: 1, last: 2, step: 1 };

/// The rows.
pub static COMMANDS: &[Command] = &[
    Command {
        name: "del",
        arity: -2,
        flags: WRITE,
        keys: ALL_KEYS,
        categories: "keyspace slow write",
        group: "generic",
        since: "1.0.0",
        complexity: "O(N), N being the number of keys",
        summary: "Deletes keys; answers how many there were.",
        syntax: "key#0...",
        run: delete,
        subcommands: &[],
    },
    Command {
        name: "unlink",
        arity: -2,
        flags: WRITE | FAST,
        keys: ALL_KEYS,
        categories: "fast keyspace write",
        group: "generic",
        since: "4.0.0",
        complexity: "O(N), N being the number of keys",
        summary: "Deletes keys as DEL does, which frees memory in the background anyway.",
        syntax: "key#0...",
        run: delete,
        subcommands: &[],
    },
    Command {
        name: "exists",
        arity: -2,
        flags: READONLY | FAST,
        keys: ALL_KEYS,
        categories: "fast keyspace read",
        group: "generic",
        since: "1.0.0",
        complexity: "O(N), N being the number of keys",
        summary: "Answers how many of the keys exist, one named twice counting twice.",
        syntax: "key#0...",
        run: count_existing,
        subcommands: &[],
    },
    Command {
        name: "touch",
        arity: -2,
        flags: READONLY | FAST,
        keys: ALL_KEYS,
        categories: "fast keyspace read",
        group: "generic",
        since: "3.2.1",
        complexity: "O(N), N being the number of keys",
        summary: "Has keys count as used just now; answers how many exist.",
        syntax: "key#0...",
        run: count_existing,
        subcommands: &[],
    },
    Command {
        name: "type",
        arity: 2,
        flags: READONLY | FAST,
        keys: ONE_KEY,
        categories: "fast keyspace read",
        group: "generic",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "Answers what type of value a key holds.",
        syntax: "key#0",
        run: type_of,
        subcommands: &[],
    },
    Command {
        name: "rename",
        arity: 3,
        flags: WRITE,
        keys: TWO_KEYS,
        categories: "keyspace slow write",
        group: "generic",
        since: "1.0.0",
        complexity: "O(N), N being the bytes of the value",
        summary: "Gives a key another name, whatever had that name before.",
        syntax: "key#0 newkey#1",
        run: rename,
        subcommands: &[],
    },
    Command {
        name: "renamenx",
        arity: 3,
        flags: WRITE | FAST,
        keys: TWO_KEYS,
        categories: "fast keyspace write",
        group: "generic",
        since: "1.0.0",
        complexity: "O(N), N being the bytes of the value",
        summary: "Gives a key another name, if nothing has that name.",
        syntax: "key#0 newkey#1",
        run: rename_if_free,
        subcommands: &[],
    },
    Command {
        name: "copy",
        arity: -3,
        flags: WRITE | DENYOOM,
        keys: TWO_KEYS,
        categories: "keyspace slow write",
        group: "generic",
        since: "6.2.0",
        complexity: "O(N), N being the bytes of the value",
        summary: "Copies a key's value to another key, in this database or another one.",
        syntax: "source#0 destination#1 [DB destination-db:integer] [REPLACE]",
        run: copy,
        subcommands: &[],
    },
    Command {
        name: "move",
        arity: 3,
        flags: WRITE | FAST,
        keys: ONE_KEY,
        categories: "fast keyspace write",
        group: "generic",
        since: "1.0.0",
        complexity: "O(N), N being the bytes of the value",
        summary: "Moves a key to another database, if that has none of this name.",
        syntax: "key#0 db:integer",
        run: move_to_database,
        subcommands: &[],
    },
    Command {
        name: "wait",
        arity: 3,
        flags: NOSCRIPT,
        keys: NO_KEYS,
        categories: "connection slow",
        group: "generic",
        since: "3.0.0",
        complexity: "O(1)",
        summary: "Answers how many replicas have this connection's changes: none, for there are no replicas to wait for.",
        syntax: "numreplicas:integer timeout:integer",
        run: wait,
        subcommands: &[],
    },
];

/// The error for a source that is not there.
const NO_SUCH_KEY: &str = "ERR no such key";
/// The error for a source that is its own target.
const SAME_OBJECT: &str = "ERR source and destination objects are the same";
/// The error for a database that is not there.
pub const NO_SUCH_DATABASE: &str = "ERR DB index is out of range";

/// The options under which a value is stored as it was.
pub fn unchanged(meta: &RecordMeta) -> SetOptions {
    // All fields by name: none that a record may have some day is to be left out.
    let RecordMeta { version: _, encoding, value_len: _, expires_at_ms, flags } = *meta;
    SetOptions { encoding, expires_at_ms, flags, keep_ttl: false, condition: Condition::Always }
}

/// What became of a value that was to be somewhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transfer {
    Done,
    NothingThere,
    TargetTaken,
}

/// What is noted of a key that is copied: nothing of itself, and this of where it comes to. Others have gone from where they were.
const COPIED: [&str; 2] = ["", "copy_to"];
const RENAMED: [&str; 2] = ["rename_from", "rename_to"];
const MOVED: [&str; 2] = ["move_from", "move_to"];

/// Copies a value from one stored key to another one, or moves it.
fn transfer(
    space: &mut Space<'_>,
    from: &[u8],
    to: &[u8],
    replaces: bool,
    noted: [&'static str; 2],
) -> Result<Transfer> {
    space.atomically(|space| {
        let Some((meta, value)) = space.get(from)? else {
            if noted == COPIED {
                space.events.note_miss(from);
            }
            return Ok(Transfer::NothingThere);
        };
        let is_taken = space.meta(to)?.is_some();
        if is_taken && !replaces {
            return Ok(Transfer::TargetTaken);
        }
        // Changes are told in the order in which Redis tells of them.
        if noted != COPIED {
            space.delete(from)?;
        }
        if is_taken {
            // So that the one which comes in its place is new.
            space.delete(to)?;
        }
        space.set(to, &value, &unchanged(&meta))?;
        if noted != COPIED {
            space.events.note(GENERIC, noted[0], from);
        }
        space.events.note(GENERIC, noted[1], to);
        Ok(Transfer::Done)
    })
}

fn delete_one(space: &mut Space<'_>, key: &[u8]) -> Result<bool> {
    let was_present = space.delete(key)?;
    if was_present {
        space.events.note(GENERIC, "del", key);
    }
    Ok(was_present)
}

fn is_present(space: &mut Space<'_>, key: &[u8]) -> Result<bool> {
    let is_present = space.meta(key)?.is_some();
    if !is_present {
        space.events.note_miss(key);
    }
    Ok(is_present)
}

fn delete(call: &mut Call<'_, '_>) -> Result<()> {
    if call.arguments.len() == 2 {
        let key = call.key(1);
        let is_deleted = delete_one(call.space, &key)?;
        call.reply.flag(is_deleted);
        return Ok(());
    }
    let (arguments, database) = (call.arguments, call.session.database);
    let count = call.space.atomically(|space| {
        let mut count = 0;
        for key in arguments.from(1) {
            count += u64::from(delete_one(space, &stored_key(database, key))?);
        }
        Ok(count)
    })?;
    call.reply.count(count);
    Ok(())
}

fn count_existing(call: &mut Call<'_, '_>) -> Result<()> {
    if call.arguments.len() == 2 {
        let key = call.key(1);
        let is_present = is_present(call.space, &key)?;
        call.reply.flag(is_present);
        return Ok(());
    }
    let (arguments, database) = (call.arguments, call.session.database);
    let count = call.space.atomically(|space| {
        let mut count = 0;
        for key in arguments.from(1) {
            count += u64::from(is_present(space, &stored_key(database, key))?);
        }
        Ok(count)
    })?;
    call.reply.count(count);
    Ok(())
}

fn type_of(call: &mut Call<'_, '_>) -> Result<()> {
    let key = call.key(1);
    let is_present = is_present(call.space, &key)?;
    call.reply.status(if is_present { "string" } else { "none" });
    Ok(())
}

fn rename(call: &mut Call<'_, '_>) -> Result<()> {
    rename_to(call, true)?;
    call.reply.ok();
    Ok(())
}

fn rename_if_free(call: &mut Call<'_, '_>) -> Result<()> {
    let is_renamed = rename_to(call, false)?;
    call.reply.flag(is_renamed);
    Ok(())
}

/// Whether the key has the other name now, and had not before.
fn rename_to(call: &mut Call<'_, '_>, replaces: bool) -> Result<bool> {
    let (from, to) = (call.key(1), call.key(2));
    if from == to {
        return call.space.meta(&from)?.map(|_| false).ok_or(Failure::from(NO_SUCH_KEY));
    }
    match transfer(call.space, &from, &to, replaces, RENAMED)? {
        Transfer::Done => Ok(true),
        Transfer::TargetTaken => Ok(false),
        Transfer::NothingThere => Err(Failure::from(NO_SUCH_KEY)),
    }
}

/// An argument that has to be the number of a database.
fn database_argument(call: &Call<'_, '_>, index: usize) -> Result<u8> {
    let number = i32::try_from(call.integer(index)?).map_err(|_| {
        Failure::from("ERR value is out of range, value must between -2147483648 and 2147483647")
    })?;
    database_number(number).ok_or(Failure::from(NO_SUCH_DATABASE))
}

/// The database of this number, if there is one.
pub fn database_number(number: i32) -> Option<u8> {
    u8::try_from(number).ok().filter(|database| *database < DATABASES)
}

fn copy(call: &mut Call<'_, '_>) -> Result<()> {
    let mut database = call.session.database;
    let mut replaces = false;
    let mut index = 3;
    while index < call.arguments.len() {
        if call.is(index, "REPLACE") {
            replaces = true;
        } else if call.is(index, "DB") && index + 1 < call.arguments.len() {
            index += 1;
            database = database_argument(call, index)?;
        } else {
            return Err(Failure::from(SYNTAX));
        }
        index += 1;
    }
    let (from, to) = (call.key(1), stored_key(database, call.argument(2)));
    if from == to {
        return Err(Failure::from(SAME_OBJECT));
    }
    let outcome = transfer(call.space, &from, &to, replaces, COPIED)?;
    call.reply.flag(outcome == Transfer::Done);
    Ok(())
}

fn move_to_database(call: &mut Call<'_, '_>) -> Result<()> {
    let database = database_argument(call, 2)?;
    if database == call.session.database {
        return Err(Failure::from(SAME_OBJECT));
    }
    let (from, to) = (call.key(1), stored_key(database, call.argument(1)));
    let outcome = transfer(call.space, &from, &to, false, MOVED)?;
    call.reply.flag(outcome == Transfer::Done);
    Ok(())
}

/// Where Redis would wait for replicas that may come, this answers at once: none will.
fn wait(call: &mut Call<'_, '_>) -> Result<()> {
    call.integer(1)?;
    let timeout_ms =
        call.integer(2).map_err(|_| Failure::from("ERR timeout is not an integer or out of range"))?;
    if timeout_ms < 0 {
        return Err(Failure::from("ERR timeout is negative"));
    }
    call.reply.integer(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::redis::test_support::TestServer;
    use thermae_core::SetOptions;

    #[test]
    fn keys_are_deleted_and_counted() {
        TestServer::new().check(&[
            ("set a 1", "+OK\r\n"),
            ("set b two", "+OK\r\n"),
            ("exists a b a zz", ":3\r\n"),
            ("exists zz", ":0\r\n"),
            ("touch a a zz", ":2\r\n"),
            ("type a", "+string\r\n"),
            ("type zz", "+none\r\n"),
            ("del zz", ":0\r\n"),
            ("del a", ":1\r\n"),
            ("unlink b b zz", ":1\r\n"),
            ("exists a b", ":0\r\n"),
            ("del", "-ERR wrong number of arguments for 'del' command\r\n"),
        ]);
    }

    #[test]
    fn a_renamed_key_keeps_its_expiry() {
        TestServer::new().check(&[
            ("rename x y", "-ERR no such key\r\n"),
            ("renamenx x x", "-ERR no such key\r\n"),
            ("set a 1", "+OK\r\n"),
            ("set b 2", "+OK\r\n"),
            ("expire b 1000", ":1\r\n"),
            ("rename a a", "+OK\r\n"),
            ("renamenx a a", ":0\r\n"),
            ("renamenx a b", ":0\r\n"),
            ("rename b a", "+OK\r\n"),
            ("get a", "$1\r\n2\r\n"),
            ("ttl a", ":1000\r\n"),
            ("exists b", ":0\r\n"),
            ("renamenx a c", ":1\r\n"),
            ("get c", "$1\r\n2\r\n"),
            ("ttl c", ":1000\r\n"),
        ]);
    }

    #[test]
    fn a_copy_keeps_the_expiry() {
        TestServer::new().check(&[
            ("set a 1", "+OK\r\n"),
            ("expire a 1000", ":1\r\n"),
            ("copy a a", "-ERR source and destination objects are the same\r\n"),
            ("copy nope nope", "-ERR source and destination objects are the same\r\n"),
            ("copy a z db x", "-ERR value is not an integer or out of range\r\n"),
            ("copy a z db 16", "-ERR DB index is out of range\r\n"),
            ("copy a z db -1", "-ERR DB index is out of range\r\n"),
            (
                "copy a z db 2147483648",
                "-ERR value is out of range, value must between -2147483648 and 2147483647\r\n",
            ),
            ("copy a z db", "-ERR syntax error\r\n"),
            ("copy a z foo", "-ERR syntax error\r\n"),
            ("copy nope z", ":0\r\n"),
            ("copy a z", ":1\r\n"),
            ("ttl z", ":1000\r\n"),
            ("copy a z", ":0\r\n"),
            ("set a 2", "+OK\r\n"),
            ("copy a z REPLACE", ":1\r\n"),
            ("get z", "$1\r\n2\r\n"),
            ("ttl z", ":-1\r\n"),
            ("copy a a db 1", ":1\r\n"),
            ("copy a a db 1", ":0\r\n"),
            ("copy a a db 1 replace db 2", ":1\r\n"),
            ("select 2", "+OK\r\n"),
            ("get a", "$1\r\n2\r\n"),
        ]);
    }

    #[test]
    fn a_key_moves_to_another_database() {
        TestServer::new().check(&[
            ("set a 1", "+OK\r\n"),
            ("pexpire a 1000000", ":1\r\n"),
            ("move a 0", "-ERR source and destination objects are the same\r\n"),
            ("move a x", "-ERR value is not an integer or out of range\r\n"),
            ("move a 16", "-ERR DB index is out of range\r\n"),
            ("move a -1", "-ERR DB index is out of range\r\n"),
            (
                "move a 2147483648",
                "-ERR value is out of range, value must between -2147483648 and 2147483647\r\n",
            ),
            ("move nope 2", ":0\r\n"),
            ("move a 1", ":1\r\n"),
            ("exists a", ":0\r\n"),
            ("select 1", "+OK\r\n"),
            ("ttl a", ":1000\r\n"),
            ("select 0", "+OK\r\n"),
            ("set a 2", "+OK\r\n"),
            ("move a 1", ":0\r\n"),
            ("get a", "$1\r\n2\r\n"),
        ]);
    }

    #[test]
    fn no_replica_is_waited_for() {
        TestServer::new().check(&[
            ("wait x 0", "-ERR value is not an integer or out of range\r\n"),
            ("wait 0 x", "-ERR timeout is not an integer or out of range\r\n"),
            ("wait 0 -1", "-ERR timeout is negative\r\n"),
            ("wait 0 0", ":0\r\n"),
            ("wait -1 0", ":0\r\n"),
        ]);
    }

    #[test]
    fn what_python_stored_stays_what_it_was() {
        const ENCODING: u8 = 2;
        let mut server = TestServer::new();
        let expires_at_ms = server.store().now_ms() + 1_000_000;
        let options = SetOptions { encoding: ENCODING, expires_at_ms, flags: 7, ..SetOptions::default() };
        server.store().set(b"a", b"42", &options).unwrap();
        server.check(&[
            ("rename a b", "+OK\r\n"),
            ("copy b c", ":1\r\n"),
            ("move c 3", ":1\r\n"),
            ("swapdb 3 4", "+OK\r\n"),
        ]);
        for key in [&b"b"[..], b"\xff\x04c"] {
            let (meta, value) = server.store().get(key).unwrap().unwrap();
            let known = (meta.encoding, meta.expires_at_ms, meta.flags);
            assert_eq!((known, value), ((ENCODING, expires_at_ms, 7), b"42".to_vec()));
        }
        server.check(&[("pexpire b 500000", ":1\r\n"), ("persist b", ":1\r\n")]);
        let meta = server.store().meta(b"b").unwrap().unwrap();
        assert_eq!((meta.encoding, meta.expires_at_ms, meta.flags), (ENCODING, 0, 7));
    }
}
