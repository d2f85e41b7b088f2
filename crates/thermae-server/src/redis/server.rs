//! Commands about the server.
//!
//! SAVE means what it means to whoever calls it: when it returns, what was written is on the disk, as a snapshot where the server was told
//! where to put them. Else a store that has a durable tier is flushed, and one in memory alone can't be saved.

use crate::failure::{Failure, Result};
use crate::numbers::parse_integer;
use crate::redis::call::{Call, SYNTAX};
use crate::redis::connection::REDIS_VERSION;
use crate::redis::information;
use crate::redis::settings::is_durable;
use crate::redis::table::{Command, NO_KEYS, flags};
use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::Ordering;

use flags::{ADMIN, ALLOW_BUSY, FAST, LOADING, NO_ASYNC_LOADING, NO_MULTI, NOSCRIPT, READONLY, STALE};

const NOWHERE_TO_SAVE: &str = "ERR the store is in memory alone and there is no directory for snapshots: start the server with --snapshots";
const IN_PROGRESS: &str = "ERR Background save already in progress";

/// The rows.
pub static COMMANDS: &[Command] = &[
    Command {
        name: "time",
        arity: 1,
        flags: LOADING | STALE | FAST,
        keys: NO_KEYS,
        categories: "fast",
        group: "server",
        since: "2.6.0",
        complexity: "O(1)",
        summary: "Answers the store's time: seconds since 1970, and microseconds.",
        syntax: "",
        run: time,
        subcommands: &[],
    },
    Command {
        name: "info",
        arity: -1,
        flags: LOADING | STALE,
        keys: NO_KEYS,
        categories: "dangerous slow",
        group: "server",
        since: "1.0.0",
        complexity: "O(1); the section keyspace now and then walks over the keys",
        summary: "Answers what is known about the server, in sections.",
        syntax: "[section...]",
        run: information::info,
        subcommands: &[],
    },
    Command {
        name: "lastsave",
        arity: 1,
        flags: LOADING | STALE | FAST,
        keys: NO_KEYS,
        categories: "admin dangerous fast",
        group: "server",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "Answers when the last SAVE or BGSAVE began that did not fail.",
        syntax: "",
        run: lastsave,
        subcommands: &[],
    },
    Command {
        name: "save",
        arity: 1,
        flags: ADMIN | NOSCRIPT | NO_ASYNC_LOADING | NO_MULTI,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "1.0.0",
        complexity: "O(N), N being the bytes of the store",
        summary: "Writes a snapshot of the store, or makes it durable, and waits for that.",
        syntax: "",
        run: save,
        subcommands: &[],
    },
    Command {
        name: "bgsave",
        arity: -1,
        flags: ADMIN | NOSCRIPT | NO_ASYNC_LOADING,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "Begins to write a snapshot of the store, or to make it durable.",
        syntax: "[SCHEDULE@3.2.2]",
        run: bgsave,
        subcommands: &[],
    },
    Command {
        name: "shutdown",
        arity: -1,
        flags: ADMIN | NOSCRIPT | LOADING | STALE | NO_MULTI | ALLOW_BUSY,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "1.0.0",
        complexity: "O(N), N being what was written since the last flush; with SAVE, the bytes of the store",
        summary: "Ends the server.",
        syntax: "[nosave_save(NOSAVE | SAVE)] [NOW@7.0.0] [FORCE@7.0.0] [ABORT@7.0.0]",
        run: shutdown,
        subcommands: &[],
    },
    Command {
        name: "role",
        arity: 1,
        flags: NOSCRIPT | LOADING | STALE | FAST,
        keys: NO_KEYS,
        categories: "admin dangerous fast",
        group: "server",
        since: "2.8.12",
        complexity: "O(1)",
        summary: "Answers which part the server has in replication: that of a master without replicas.",
        syntax: "",
        run: role,
        subcommands: &[],
    },
    Command {
        name: "replicaof",
        arity: 3,
        flags: ADMIN | NOSCRIPT | STALE | NO_ASYNC_LOADING,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "5.0.0",
        complexity: "O(1)",
        summary: "Would make the server a replica; NO ONE leaves it what it is.",
        syntax: "args(host-port(host port:integer) | no-one(NO ONE))",
        run: replicaof,
        subcommands: &[],
    },
    Command {
        name: "slaveof",
        arity: 3,
        flags: ADMIN | NOSCRIPT | STALE | NO_ASYNC_LOADING,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "The older name of REPLICAOF.",
        syntax: "args(host-port(host port:integer) | no-one(NO ONE))",
        run: replicaof,
        subcommands: &[],
    },
    Command {
        name: "lolwut",
        arity: -1,
        flags: READONLY | FAST,
        keys: NO_KEYS,
        categories: "fast read",
        group: "server",
        since: "5.0.0",
        complexity: "O(1)",
        summary: "Answers the version of Redis whose commands these are.",
        syntax: "[VERSION version:integer]",
        run: lolwut,
        subcommands: &[],
    },
];

fn time(call: &mut Call<'_, '_>) -> Result<()> {
    let (now_ms, microseconds) = precise_time(call);
    call.reply.array(2);
    call.reply.bulk((now_ms / 1000).to_string().as_bytes());
    call.reply.bulk((now_ms % 1000 * 1000 + microseconds).to_string().as_bytes());
    Ok(())
}

/// The store's time, and the microseconds beyond it: the store counts the milliseconds of the same clock from another beginning.
fn precise_time(call: &Call<'_, '_>) -> (u64, u64) {
    loop {
        let now_ms = call.space.now_ms();
        let nanoseconds = clock_gettime(ClockId::Boottime).tv_nsec.unsigned_abs();
        if call.space.now_ms() == now_ms {
            return (now_ms, nanoseconds / 1000 % 1000);
        }
    }
}

fn lastsave(call: &mut Call<'_, '_>) -> Result<()> {
    let (at_seconds, _) = call.shared.saves.state().succeeded;
    call.reply.count(at_seconds);
    Ok(())
}

fn demand_somewhere_to_save(call: &Call<'_, '_>) -> Result<()> {
    if call.shared.saves.makes_snapshots() || is_durable(&call.space.store().config()) {
        Ok(())
    } else {
        Err(Failure::from(NOWHERE_TO_SAVE))
    }
}

fn save(call: &mut Call<'_, '_>) -> Result<()> {
    demand_somewhere_to_save(call)?;
    call.shared.saves.save(call.space.store(), &call.shared.journal).map_err(|_| IN_PROGRESS)??;
    call.reply.ok();
    Ok(())
}

fn bgsave(call: &mut Call<'_, '_>) -> Result<()> {
    if call.arguments.len() > 2 || (call.arguments.len() == 2 && !call.is(1, "SCHEDULE")) {
        return Err(Failure::from(SYNTAX));
    }
    demand_somewhere_to_save(call)?;
    call.shared.saves.begin().map_err(|_| IN_PROGRESS)?;
    call.reply.status("Background saving started");
    Ok(())
}

/// The connection is closed without a reply: that is how a client learns that the server ends.
fn shutdown(call: &mut Call<'_, '_>) -> Result<()> {
    let (mut saves, mut saves_not, mut is_forced, mut aborts) = (false, false, false, false);
    for index in 1..call.arguments.len() {
        let flag = [
            ("SAVE", &mut saves),
            ("NOSAVE", &mut saves_not),
            ("FORCE", &mut is_forced),
            ("ABORT", &mut aborts),
        ];
        match flag.into_iter().find(|(word, _)| call.is(index, word)) {
            Some((_, flag)) => *flag = true,
            None if call.is(index, "NOW") => {}
            None => return Err(Failure::from(SYNTAX)),
        }
    }
    if (saves && saves_not) || (aborts && call.arguments.len() > 2) {
        return Err(Failure::from(SYNTAX));
    }
    if aborts {
        return Err(Failure::from("ERR No shutdown in progress."));
    }
    if saves {
        let saved = save_before_the_end(call);
        // Another client may have ended the server meanwhile.
        if !is_forced && !call.shared.is_stopping.load(Ordering::SeqCst) {
            saved?;
        }
    }
    call.session.closes = true;
    call.shared.stop();
    Ok(())
}

fn save_before_the_end(call: &Call<'_, '_>) -> Result<()> {
    demand_somewhere_to_save(call)?;
    let saved = call.shared.saves.save_before_the_end(call.space.store(), &call.shared.journal);
    // Why it failed is in the journal.
    saved.map_err(|_| Failure::from("ERR Errors trying to SHUTDOWN. Check logs."))
}

fn role(call: &mut Call<'_, '_>) -> Result<()> {
    call.reply.array(3);
    call.reply.bulk(b"master");
    call.reply.integer(0);
    call.reply.array(0);
    Ok(())
}

fn replicaof(call: &mut Call<'_, '_>) -> Result<()> {
    if call.is(1, "NO") && call.is(2, "ONE") {
        call.reply.ok();
        return Ok(());
    }
    let port = parse_integer(call.argument(2)).filter(|port| (0..=65535).contains(port));
    Err(Failure::from(match port {
        Some(_) => "ERR a Thermae server is never a replica: open the same store in another process instead",
        None => "ERR Invalid master port",
    }))
}

fn lolwut(call: &mut Call<'_, '_>) -> Result<()> {
    if call.arguments.len() > 2 && call.is(1, "VERSION") {
        call.integer(2)?;
    }
    call.reply.verbatim("txt", &format!("Redis ver. {REDIS_VERSION}\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::test_support::TestServer;

    #[test]
    fn replies_are_those_of_redis() {
        let mut server = TestServer::new();
        server.check(&[
            ("DBSIZE", ":0\r\n"),
            ("ROLE", "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"),
            ("REPLICAOF NO ONE", "+OK\r\n"),
            ("SLAVEOF no one", "+OK\r\n"),
            ("REPLICAOF host x", "-ERR Invalid master port\r\n"),
            ("REPLICAOF host 70000", "-ERR Invalid master port\r\n"),
            ("LOLWUT", "$18\r\nRedis ver. 7.0.15\n\r\n"),
            ("LOLWUT VERSION x", "-ERR value is not an integer or out of range\r\n"),
            ("BGSAVE foo", "-ERR syntax error\r\n"),
            ("SAVE", &format!("-{NOWHERE_TO_SAVE}\r\n")),
            ("SHUTDOWN foo", "-ERR syntax error\r\n"),
            ("SHUTDOWN SAVE NOSAVE", "-ERR syntax error\r\n"),
            ("SHUTDOWN ABORT NOW", "-ERR syntax error\r\n"),
            ("SHUTDOWN ABORT", "-ERR No shutdown in progress.\r\n"),
        ]);
        assert!(server.line("REPLICAOF host 6379").starts_with("-ERR a Thermae server is never a replica"));
        assert!(server.line("TIME").starts_with("*2\r\n$10\r\n"));
        assert!(server.line("LASTSAVE").starts_with(':'));
    }

    #[test]
    fn the_server_ends_when_it_is_told_to() {
        let mut server = TestServer::new();
        assert_eq!(server.line("SHUTDOWN NOSAVE NOW"), "");
        assert!(server.session.closes && server.shared().is_stopping.load(Ordering::SeqCst));
    }

    /// It was flushed, which a store in memory alone takes for done, and ended without a snapshot.
    #[test]
    fn a_server_that_cannot_save_ends_only_where_it_is_forced_to() {
        let mut server = TestServer::new();
        assert_eq!(server.line("SHUTDOWN SAVE"), format!("-{NOWHERE_TO_SAVE}\r\n"));
        assert!(!server.session.closes && !server.shared().is_stopping.load(Ordering::SeqCst));
        assert_eq!(server.line("SHUTDOWN SAVE FORCE"), "");
        assert!(server.session.closes && server.shared().is_stopping.load(Ordering::SeqCst));
    }

    #[test]
    fn what_may_not_be_in_a_transaction_spoils_it() {
        let mut server = TestServer::new();
        server.check(&[
            ("MULTI", "+OK\r\n"),
            ("SHUTDOWN", "-ERR Command not allowed inside a transaction\r\n"),
            ("SLOWLOG RESET", "+QUEUED\r\n"),
            ("EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n"),
        ]);
    }
}
