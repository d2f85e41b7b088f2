//! Commands that help to find out what is slow or large: MEMORY, SLOWLOG, DEBUG.

use crate::config::DebugCommand;
use crate::failure::{Failure, Result};
use crate::redis::call::{Call, SYNTAX};
use crate::redis::information::used_bytes;
use crate::redis::introspection::{help, wrong_subcommand};
use crate::redis::object::{encoding_of, references_of};
use crate::redis::payload::serialized_length;
use crate::redis::table::{Command, Keys, NO_KEYS, flags};
use crate::refusals::LOGGED_NAME_BYTES_MAX;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flags::{ADMIN, LOADING, NOSCRIPT, READONLY, SKIP_SLOWLOG, STALE};

const SECOND_KEY: Keys = Keys { first: 2, last: 2, step: 1 };
/// What a record and its place in the index take beside key and value, about.
const RECORD_BYTES: u64 = 36;
/// What a clock of seconds is cut to where Redis keeps when a key was used.
const CLOCK_SECONDS: u64 = 1 << 24;
/// Longest DEBUG SLEEP: the other clients of the same loop sleep, too.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// Entries that SLOWLOG GET answers where it is not told how many.
const SLOW_ENTRIES: i64 = 10;
/// Parameters of CONFIG SET whose values the slow log does not show.
const SECRETS: [&str; 4] = ["requirepass", "masterauth", "masteruser", "tls-key-file-pass"];

/// The rows.
pub static COMMANDS: &[Command] = &[
    Command {
        name: "memory",
        arity: -2,
        flags: 0,
        keys: NO_KEYS,
        categories: "slow",
        group: "server",
        since: "4.0.0",
        complexity: "That of the subcommand",
        summary: "Groups the commands about memory.",
        syntax: "",
        run: help,
        subcommands: MEMORY,
    },
    Command {
        name: "slowlog",
        arity: -2,
        flags: 0,
        keys: NO_KEYS,
        categories: "slow",
        group: "server",
        since: "2.2.12",
        complexity: "That of the subcommand",
        summary: "Groups the commands about the slow log.",
        syntax: "",
        run: help,
        subcommands: SLOWLOG,
    },
    Command {
        name: "debug",
        arity: -2,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "1.0.0",
        complexity: "That of what is asked for",
        summary: "Helps to test clients and what runs the server: sleeps, describes a value, ends.",
        syntax: "operation(HELP | OBJECT key:string | PANIC | SLEEP seconds:double)",
        run: debug,
        subcommands: &[],
    },
];

static MEMORY: &[Command] = &[
    Command {
        name: "usage",
        arity: -3,
        flags: READONLY,
        keys: SECOND_KEY,
        categories: "read slow",
        group: "server",
        since: "4.0.0",
        complexity: "O(1)",
        summary: "Estimates the bytes that a key takes with its value.",
        syntax: "key#0 [SAMPLES count:integer]",
        run: memory_usage,
        subcommands: &[],
    },
    Command {
        name: "stats",
        arity: 2,
        flags: 0,
        keys: NO_KEYS,
        categories: "slow",
        group: "server",
        since: "4.0.0",
        complexity: "O(1)",
        summary: "Answers what the memory is used for.",
        syntax: "",
        run: memory_stats,
        subcommands: &[],
    },
    Command {
        name: "doctor",
        arity: 2,
        flags: 0,
        keys: NO_KEYS,
        categories: "slow",
        group: "server",
        since: "4.0.0",
        complexity: "O(1)",
        summary: "Says whether anything is wrong with the use of memory.",
        syntax: "",
        run: memory_doctor,
        subcommands: &[],
    },
    Command {
        name: "purge",
        arity: 2,
        flags: 0,
        keys: NO_KEYS,
        categories: "slow",
        group: "server",
        since: "4.0.0",
        complexity: "O(1)",
        summary: "Would give memory back that is free; none is kept.",
        syntax: "",
        run: memory_purge,
        subcommands: &[],
    },
    Command {
        name: "malloc-stats",
        arity: 2,
        flags: 0,
        keys: NO_KEYS,
        categories: "slow",
        group: "server",
        since: "4.0.0",
        complexity: "O(1)",
        summary: "Answers what the allocator says of itself.",
        syntax: "",
        run: memory_malloc_stats,
        subcommands: &[],
    },
    Command {
        name: "help",
        arity: 2,
        flags: LOADING | STALE,
        keys: NO_KEYS,
        categories: "slow",
        group: "server",
        since: "4.0.0",
        complexity: "O(1)",
        summary: "Lists the subcommands.",
        syntax: "",
        run: help,
        subcommands: &[],
    },
];

static SLOWLOG: &[Command] = &[
    Command {
        name: "get",
        arity: -2,
        flags: ADMIN | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "2.2.12",
        complexity: "O(N), N being the number of entries",
        summary: "Answers the latest commands that took long, ten or as many as are asked for.",
        syntax: "[count:integer]",
        run: slow_log_get,
        subcommands: &[],
    },
    Command {
        name: "len",
        arity: 2,
        flags: ADMIN | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "2.2.12",
        complexity: "O(1)",
        summary: "Answers how many entries the slow log has.",
        syntax: "",
        run: slow_log_length,
        subcommands: &[],
    },
    Command {
        name: "reset",
        arity: 2,
        flags: ADMIN | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "2.2.12",
        complexity: "O(N), N being the number of entries",
        summary: "Forgets the entries of the slow log.",
        syntax: "",
        run: slow_log_reset,
        subcommands: &[],
    },
    Command {
        name: "help",
        arity: 2,
        flags: LOADING | STALE,
        keys: NO_KEYS,
        categories: "slow",
        group: "server",
        since: "6.2.0",
        complexity: "O(1)",
        summary: "Lists the subcommands.",
        syntax: "",
        run: help,
        subcommands: &[],
    },
];

fn memory_usage(call: &mut Call<'_, '_>) -> Result<()> {
    match call.arguments.len() {
        3 => {}
        5 if call.is(3, "SAMPLES") => {
            if call.integer(4)? < 0 {
                return Err(Failure::from(SYNTAX));
            }
        }
        _ => return Err(Failure::from(SYNTAX)),
    }
    let key = call.key(2);
    match call.space.meta(&key)? {
        Some(meta) => call.reply.count(key.len() as u64 + meta.value_len + RECORD_BYTES),
        None => call.reply.null(),
    }
    Ok(())
}

/// What Redis has and the store has not is left out.
fn memory_stats(call: &mut Call<'_, '_>) -> Result<()> {
    let stats = call.space.store().stats()?;
    let overhead_bytes = stats.index_bytes + stats.control_bytes;
    let part = |bytes: u64, of: u64| if of == 0 { 0.0 } else { bytes as f64 * 100.0 / of as f64 };
    let used_bytes = used_bytes(&stats);
    let peak_bytes = call.shared.used_bytes_peak.fetch_max(used_bytes, Ordering::Relaxed).max(used_bytes);
    let numbers = [
        ("peak.allocated", peak_bytes),
        ("total.allocated", used_bytes),
        ("startup.allocated", stats.control_bytes),
        ("replication.backlog", 0),
        ("clients.slaves", 0),
        ("clients.normal", call.shared.clients.bytes() as u64),
        ("cluster.links", 0),
        ("aof.buffer", 0),
        ("lua.caches", 0),
        ("functions.caches", 0),
        ("overhead.total", overhead_bytes),
        ("keys.count", stats.keys),
        ("keys.bytes-per-key", stats.item_bytes_mean.unwrap_or(0)),
        ("dataset.bytes", stats.live_bytes),
    ];
    call.reply.map(numbers.len() + 2);
    for (name, number) in numbers {
        call.reply.bulk(name.as_bytes());
        call.reply.count(number);
    }
    call.reply.bulk(b"dataset.percentage");
    call.reply.double(part(stats.live_bytes, stats.live_bytes + overhead_bytes));
    call.reply.bulk(b"peak.percentage");
    call.reply.double(part(used_bytes, peak_bytes));
    Ok(())
}

fn memory_doctor(call: &mut Call<'_, '_>) -> Result<()> {
    let stats = call.space.store().stats()?;
    let text = if stats.writes_stopped {
        "A flush failed, and writes are refused: see what the disk says, then open the store again."
    } else if stats.evicted > 0 && stats.cold_bytes == 0 && stats.warm_bytes == 0 {
        "Records were evicted to make room: a larger hot tier, or a warm or cold one below it, would have kept them."
    } else {
        "Nothing is wrong with the use of memory."
    };
    call.reply.verbatim("txt", &format!("{text}\n"));
    Ok(())
}

fn memory_purge(call: &mut Call<'_, '_>) -> Result<()> {
    call.reply.ok();
    Ok(())
}

fn memory_malloc_stats(call: &mut Call<'_, '_>) -> Result<()> {
    call.reply.bulk(b"Stats not supported for the current allocator");
    Ok(())
}

fn slow_log_get(call: &mut Call<'_, '_>) -> Result<()> {
    let count = match call.arguments.len() {
        2 => SLOW_ENTRIES,
        3 => call
            .integer(2)
            .ok()
            .filter(|count| *count >= -1)
            .ok_or("ERR count should be greater than or equal to -1")?,
        _ => return Err(wrong_subcommand(call)),
    };
    let entries = call.shared.slow_log.latest(usize::try_from(count).unwrap_or(usize::MAX));
    call.reply.array(entries.len());
    for entry in entries {
        call.reply.array(6);
        call.reply.count(entry.id);
        call.reply.count(entry.at_seconds);
        call.reply.integer(entry.microseconds);
        call.reply.array(entry.arguments.len());
        entry.arguments.iter().for_each(|argument| call.reply.bulk(argument));
        call.reply.bulk(entry.address.as_bytes());
        call.reply.bulk(&entry.name);
    }
    Ok(())
}

fn slow_log_length(call: &mut Call<'_, '_>) -> Result<()> {
    call.reply.count(call.shared.slow_log.len() as u64);
    Ok(())
}

fn slow_log_reset(call: &mut Call<'_, '_>) -> Result<()> {
    call.shared.slow_log.clear();
    call.reply.ok();
    Ok(())
}

/// Puts a command into the slow log, without the secrets among its arguments.
#[cold]
pub fn note_slow(call: &Call<'_, '_>, microseconds: i64) {
    if call.command.has(SKIP_SLOWLOG) {
        return;
    }
    let mut arguments: Vec<&[u8]> = call.arguments.from(0).collect();
    for index in secrets(call) {
        if let Some(argument) = arguments.get_mut(index) {
            *argument = b"(redacted)";
        }
    }
    let client = &call.session.client;
    let at_seconds = call.space.now_ms() / 1000;
    let address = client.address.strip_prefix("unix:").unwrap_or(&client.address);
    let name = client.name_up_to(LOGGED_NAME_BYTES_MAX);
    call.shared.slow_log.note(arguments.into_iter(), microseconds, at_seconds, address, name);
}

/// Where the secrets are among a command's arguments.
fn secrets(call: &Call<'_, '_>) -> Vec<usize> {
    let length = call.arguments.len();
    if call.is(0, "AUTH") {
        return (1..length).collect();
    }
    if call.is(0, "HELLO") {
        let at = (2..length).find(|index| call.is(*index, "AUTH"));
        return at.map_or_else(Vec::new, |at| vec![at + 1, at + 2]);
    }
    if call.is(0, "ACL") && call.is(1, "SETUSER") {
        return (2..length).collect();
    }
    if call.is(0, "CONFIG") && call.is(1, "SET") {
        let is_secret = |index: &usize| SECRETS.iter().any(|name| call.is(*index, name));
        return (2..length).step_by(2).filter(is_secret).map(|index| index + 1).collect();
    }
    Vec::new()
}

/// Whether this client may call DEBUG.
fn may_debug(call: &Call<'_, '_>) -> bool {
    let config = call.shared.config.read().unwrap_or_else(PoisonError::into_inner);
    match config.enable_debug_command {
        DebugCommand::No => false,
        DebugCommand::Local => call.session.client.is_local(),
        DebugCommand::Yes => true,
    }
}

/// The address that Redis shows is that of memory, and says nothing; here it is the record's version.
fn debug_object(call: &mut Call<'_, '_>) -> Result<()> {
    let key = call.key(2);
    let Some((meta, value)) = call.space.get(&key)? else { return Err(Failure::from("ERR no such key")) };
    call.reply.status(&format!(
        "Value at:{:#x} refcount:{} encoding:{} serializedlength:{} lru:{} lru_seconds_idle:0",
        meta.version,
        references_of(&value),
        encoding_of(&value),
        serialized_length(&value),
        call.space.now_ms() / 1000 % CLOCK_SECONDS,
    ));
    Ok(())
}

fn debug(call: &mut Call<'_, '_>) -> Result<()> {
    if !may_debug(call) {
        return Err(Failure::from(
            "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run it from a local connection, otherwise you need to set this option in the configuration file, and then restart the server.",
        ));
    }
    if call.is(1, "OBJECT") && call.arguments.len() == 3 {
        return debug_object(call);
    }
    if call.is(1, "PANIC") && call.arguments.len() == 2 {
        panic!("the client {} called DEBUG PANIC", call.session.client.address);
    }
    if call.is(1, "SLEEP") && call.arguments.len() == 3 {
        let seconds = std::str::from_utf8(call.argument(2)).ok().and_then(|text| text.parse::<f64>().ok());
        // What is no number is 0, as C reads it.
        let duration = Duration::try_from_secs_f64(seconds.unwrap_or(0.0)).unwrap_or(Duration::ZERO);
        if duration > SLEEP_MAX {
            return Err(Failure::from("ERR others wait meanwhile: DEBUG SLEEP takes at most 1 second"));
        }
        std::thread::sleep(duration);
        call.session.ends_turn = true;
        call.reply.ok();
        return Ok(());
    }
    if call.is(1, "HELP") && call.arguments.len() == 2 {
        let lines = [
            "DEBUG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
            "OBJECT <key>",
            "    Describes the value of a key as Redis would keep it.",
            "PANIC",
            "    Ends the server as a bug of its own would.",
            "SLEEP <seconds>",
            "    Keeps the loop that serves this connection busy, for at most a second.",
            "HELP",
            "    Lists the subcommands.",
        ];
        call.reply.array(lines.len());
        lines.iter().for_each(|line| call.reply.status(line));
        return Ok(());
    }
    Err(wrong_subcommand(call))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::BYTES_AT_REST;
    use crate::redis::session::Session;
    use crate::redis::test_support::TestServer;

    #[test]
    fn replies_are_those_of_redis() {
        let mut server = TestServer::new();
        server.check(&[
            // However busy the machine is.
            ("CONFIG SET slowlog-log-slower-than -1", "+OK\r\n"),
            ("MEMORY USAGE nokey", "$-1\r\n"),
            ("MEMORY USAGE", "-ERR wrong number of arguments for 'memory|usage' command\r\n"),
            ("MEMORY USAGE a SAMPLES", "-ERR syntax error\r\n"),
            ("MEMORY USAGE a SAMPLES x", "-ERR value is not an integer or out of range\r\n"),
            ("MEMORY USAGE a SAMPLES -1", "-ERR syntax error\r\n"),
            ("MEMORY PURGE", "+OK\r\n"),
            ("MEMORY foo", "-ERR unknown subcommand 'foo'. Try MEMORY HELP.\r\n"),
            ("SET a abc", "+OK\r\n"),
            ("MEMORY USAGE a", &format!(":{}\r\n", 1 + 3 + RECORD_BYTES)),
            ("SLOWLOG GET", "*0\r\n"),
            ("SLOWLOG GET x", "-ERR count should be greater than or equal to -1\r\n"),
            ("SLOWLOG GET -2", "-ERR count should be greater than or equal to -1\r\n"),
            (
                "SLOWLOG GET 1 2",
                "-ERR unknown subcommand or wrong number of arguments for 'GET'. Try SLOWLOG HELP.\r\n",
            ),
            ("SLOWLOG LEN", ":0\r\n"),
            ("SLOWLOG RESET", "+OK\r\n"),
            ("DEBUG", "-ERR wrong number of arguments for 'debug' command\r\n"),
            ("DEBUG SLEEP 0", "+OK\r\n"),
            (
                "DEBUG foo",
                "-ERR unknown subcommand or wrong number of arguments for 'foo'. Try DEBUG HELP.\r\n",
            ),
        ]);
        assert!(server.line("DEBUG SLEEP 60").starts_with("-ERR others wait meanwhile"));
        assert!(server.line("MEMORY STATS").starts_with("*32\r\n$14\r\npeak.allocated\r\n:"));
        server.shared().clients.add(&server.session.client);
        server.shared().clients.note_held(&server.session.client, 5000);
        let held = format!("\r\nclients.normal\r\n:{}\r\n", BYTES_AT_REST + 5000);
        assert!(server.line("MEMORY STATS").contains(&held));
        assert!(
            server
                .line("INFO memory")
                .contains(&format!("\r\nmem_clients_normal:{}\r\n", BYTES_AT_REST + 5000))
        );
    }

    #[test]
    fn debug_is_for_those_who_may() {
        let mut server = TestServer::new();
        let refused = "-ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run it from a local connection, otherwise you need to set this option in the configuration file, and then restart the server.\r\n";
        for (allowed, address, is_allowed) in [
            (DebugCommand::No, "127.0.0.1:80", false),
            (DebugCommand::Local, "192.0.2.1:80", false),
            (DebugCommand::Local, "127.0.0.1:80", true),
            (DebugCommand::Local, "[::1]:80", true),
            (DebugCommand::Local, "unix:/run/a:0", true),
            (DebugCommand::Yes, "192.0.2.1:80", true),
        ] {
            server.shared().config.write().unwrap().enable_debug_command = allowed;
            server.session =
                Session::new(1, address.to_owned(), address.to_owned(), true, server.store().now_ms());
            let reply = server.line("DEBUG SLEEP 0");
            assert_eq!(reply, if is_allowed { "+OK\r\n" } else { refused }, "{allowed:?} {address}");
            let told = format!("$5\r\n{}\r\n", DebugCommand::Local.as_str());
            assert_eq!(
                server.line("CONFIG GET enable-debug-command").ends_with(&told),
                allowed == DebugCommand::Local
            );
        }
        let text = server.line("CONFIG SET enable-debug-command no");
        assert!(text.contains("can't set immutable config"), "{text}");
    }

    #[test]
    fn an_object_is_described_as_in_redis() {
        let mut server = TestServer::new();
        server.check(&[
            ("DEBUG OBJECT nokey", "-ERR no such key\r\n"),
            (
                "DEBUG OBJECT",
                "-ERR unknown subcommand or wrong number of arguments for 'OBJECT'. Try DEBUG HELP.\r\n",
            ),
        ]);
        for (value, description) in [
            ("abc", "refcount:1 encoding:embstr serializedlength:4 lru:"),
            ("12", "refcount:2147483647 encoding:int serializedlength:2 lru:"),
            ("1000000", "refcount:1 encoding:int serializedlength:5 lru:"),
            ("10000000000", "refcount:1 encoding:int serializedlength:12 lru:"),
            (
                "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
                "refcount:1 encoding:raw serializedlength:63 lru:",
            ),
        ] {
            server.line(&format!("SET a {value}"));
            let reply = server.line("DEBUG OBJECT a");
            assert!(reply.starts_with("+Value at:0x") && reply.contains(description), "{reply}");
            assert!(reply.ends_with(" lru_seconds_idle:0\r\n"), "{reply}");
        }
    }

    #[test]
    fn slow_commands_are_noted_without_secrets() {
        let mut server = TestServer::new();
        for command in [
            "CONFIG SET slowlog-log-slower-than 0",
            "SET k v",
            "AUTH default secret",
            "HELLO 2 AUTH default secret SETNAME me",
            "CONFIG SET requirepass secret timeout 0",
            "MULTI",
            "PING",
            "EXEC",
        ] {
            server.line(command);
        }
        let expected = [
            "PING",
            "MULTI",
            "CONFIG SET requirepass (redacted) timeout 0",
            "HELLO 2 AUTH (redacted) (redacted) SETNAME me",
            "AUTH (redacted) (redacted)",
            "SET k v",
            "CONFIG SET slowlog-log-slower-than 0",
        ];
        let entries = server.shared().slow_log.latest(100);
        let noted: Vec<String> =
            entries.iter().map(|entry| String::from_utf8(entry.arguments.join(&b' ')).unwrap()).collect();
        assert_eq!(noted, expected);
        assert_eq!((entries[0].name.as_slice(), entries[0].address.as_str()), (&b"me"[..], "test"));
        assert!(server.line("SLOWLOG GET 1").starts_with("*1\r\n*6\r\n:6\r\n:"));
    }
}
