//! Commands that make several happen at once.

use crate::failure::{Failure, Result};
use crate::glob::Budget;
use crate::redis::call::Call;
use crate::redis::execute::{admit_queued, find, note_command, note_denied, run};
use crate::redis::pubsub::{is_about_subscriptions, reply_messages};
use crate::redis::reply::Reply;
use crate::redis::rights::Denied;
use crate::redis::session::{Queue, Session};
use crate::redis::table::{ALL_KEYS, Command, NO_KEYS, flags};
use crate::redis::tracking::{self, forget_caching};
use crate::space::Watched;
use std::collections::HashMap;
use std::sync::Arc;

use flags::{ALLOW_BUSY, FAST, LOADING, NOSCRIPT, SKIP_SLOWLOG, STALE};

/// Most keys that a client may watch, and most bytes of them.
const WATCHED_KEYS_MAX: usize = 64 << 10;
const WATCHED_BYTES_MAX: usize = 16 << 20;

/// The rows.
pub static COMMANDS: &[Command] = &[
    Command {
        name: "multi",
        arity: 1,
        flags: NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY,
        keys: NO_KEYS,
        categories: "fast transaction",
        group: "transactions",
        since: "1.2.0",
        complexity: "O(1)",
        summary: "Begins a transaction: the commands that follow are queued until EXEC.",
        syntax: "",
        run: multi,
        subcommands: &[],
    },
    Command {
        name: "exec",
        arity: 1,
        flags: NOSCRIPT | LOADING | STALE | SKIP_SLOWLOG,
        keys: NO_KEYS,
        categories: "slow transaction",
        group: "transactions",
        since: "1.2.0",
        complexity: "That of the commands",
        summary: "Executes the queued commands at once, if no watched key has changed.",
        syntax: "",
        run: exec,
        subcommands: &[],
    },
    Command {
        name: "discard",
        arity: 1,
        flags: NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY,
        keys: NO_KEYS,
        categories: "fast transaction",
        group: "transactions",
        since: "2.0.0",
        complexity: "O(N), N being the number of queued commands",
        summary: "Forgets the queued commands.",
        syntax: "",
        run: discard,
        subcommands: &[],
    },
    Command {
        name: "watch",
        arity: -2,
        flags: NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY,
        keys: ALL_KEYS,
        categories: "fast transaction",
        group: "transactions",
        since: "2.2.0",
        complexity: "O(1) for each key",
        summary: "Makes the next EXEC depend on keys not changing until then.",
        syntax: "key#0...",
        run: watch,
        subcommands: &[],
    },
    Command {
        name: "unwatch",
        arity: 1,
        flags: NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY,
        keys: NO_KEYS,
        categories: "fast transaction",
        group: "transactions",
        since: "2.2.0",
        complexity: "O(1)",
        summary: "Forgets the watched keys.",
        syntax: "",
        run: unwatch,
        subcommands: &[],
    },
];

fn multi(call: &mut Call<'_, '_>) -> Result<()> {
    if call.session.queue.is_some() {
        return Err(Failure::from("ERR MULTI calls can not be nested"));
    }
    call.session.queue = Some(Box::new(Queue::new(Arc::clone(&call.session.user))));
    call.reply.ok();
    Ok(())
}

fn discard(call: &mut Call<'_, '_>) -> Result<()> {
    call.session.queue.take().ok_or("ERR DISCARD without MULTI")?;
    call.session.watched = HashMap::new();
    forget_caching(call.session);
    call.reply.ok();
    Ok(())
}

fn watch(call: &mut Call<'_, '_>) -> Result<()> {
    if call.session.queue.is_some() {
        return Err(Failure::from("ERR WATCH inside MULTI is not allowed"));
    }
    if call.session.watched.is_empty() {
        call.session.watched_bytes = 0;
    }
    for index in 1..call.arguments.len() {
        let key = call.key(index).into_owned();
        if !call.session.watched.contains_key(&key) {
            let bytes = call.session.watched_bytes + key.len();
            if call.session.watched.len() >= WATCHED_KEYS_MAX || bytes > WATCHED_BYTES_MAX {
                return Err(Failure::from(
                    "ERR a client may watch 65536 keys of 16 MiB in all: EXEC, DISCARD or UNWATCH first",
                ));
            }
            call.session.watched_bytes = bytes;
            let watched = Watched::new(call.space.store(), &key)?;
            call.session.watched.insert(key, watched);
        }
    }
    call.reply.ok();
    Ok(())
}

fn unwatch(call: &mut Call<'_, '_>) -> Result<()> {
    call.session.watched = HashMap::new();
    call.reply.ok();
    Ok(())
}

fn exec(call: &mut Call<'_, '_>) -> Result<()> {
    let queue = call.session.queue.take().ok_or("ERR EXEC without MULTI")?;
    let watched = std::mem::take(&mut call.session.watched);
    if queue.is_refused {
        forget_caching(call.session);
        return Err(Failure::from("EXECABORT Transaction discarded because of previous errors."));
    }
    // What the commands do to the session they do once more each time that the whole has to be run again, and not at all where it
    // does not happen.
    let (database, is_resp3, reply_mode) =
        (call.session.database, call.session.is_resp3, call.session.reply_mode);
    let tracking = tracking::Before::new(call.session, call.shared);
    let (shared, session) = (call.shared, &mut *call.session);
    let has = |is_so: fn(&Command) -> bool| {
        queue.commands.iter().any(|queued| find(queued.arguments()).is_ok_and(|command| is_so(command)))
    };
    let identity = has(|command| command.group == "connection").then(|| session.identity());
    let subscribes = has(is_about_subscriptions);
    let subscriptions = subscribes.then(|| shared.channels.of(&session.client));
    let mut denied = Vec::new();
    let undo = |session: &mut Session| {
        (session.database, session.is_resp3, session.reply_mode) = (database, is_resp3, reply_mode);
        if let Some(identity) = &identity {
            session.become_again(identity);
        }
        tracking.restore(session, shared);
        if let Some(subscriptions) = &subscriptions {
            shared.channels.restore(&session.client, subscriptions, &shared.attention);
        }
        session.settle();
    };
    let replies = call.space.atomically_if(&watched, |space| {
        undo(session);
        let (mut replies, mut budget) = (Vec::new(), Budget::default());
        denied.clear();
        for queued in &queue.commands {
            let arguments = queued.arguments();
            let command = find(arguments)?;
            if let Err(reason) = admit_queued(command, arguments, &queue.user, session, shared, &mut budget) {
                denied.push((reason, command, arguments));
                refuse(reason, session.is_resp3, &mut replies);
                continue;
            }
            tracking::note_reads(command, arguments, session, shared);
            run(command, arguments, session, space, shared, &mut replies);
            note_command(command, arguments, session, space);
        }
        Ok(replies)
    });
    if !matches!(replies, Ok(Some(_))) {
        undo(session);
    }
    forget_caching(session);
    for (reason, command, arguments) in denied {
        note_denied(reason, true, command, arguments, session, shared);
    }
    match replies? {
        Some(replies) => {
            if subscribes {
                reply_messages(call);
            }
            call.reply.array(queue.commands.len());
            call.reply.raw(&replies);
            call.reply.speak(call.session.is_resp3);
        }
        None => call.reply.null_array(),
    }
    Ok(())
}

/// What a queued command is answered that its client may not run any more.
fn refuse(reason: Denied, is_resp3: bool, replies: &mut Vec<u8>) {
    let reason = match reason {
        Denied::Command => "no permission to execute the command or subcommand",
        Denied::Key(_) => "no permission to touch the specified keys",
        Denied::Channel(_) => "no permission to access one of the channels used as arguments to the command",
    };
    Reply::new(replies, is_resp3).error(&format!(
        "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. This command is no longer allowed \
         for the following reason: {reason}"
    ));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::test_support::TestServer;

    const REFUSED: &str =
        "-ERR a client may watch 65536 keys of 16 MiB in all: EXEC, DISCARD or UNWATCH first\r\n";

    fn watch(server: &mut TestServer, keys: &[String]) -> String {
        let words: Vec<&[u8]> =
            std::iter::once(&b"WATCH"[..]).chain(keys.iter().map(String::as_bytes)).collect();
        String::from_utf8(server.call(&words)).unwrap()
    }

    /// What was dropped counted as held until EXEC, and commands that could not be executed any more were kept.
    #[test]
    fn a_transaction_that_is_refused_keeps_nothing_more() {
        let mut server = TestServer::new();
        let bytes = |server: &TestServer| server.session.queue.as_ref().unwrap().bytes;
        server.line("MULTI");
        let value = vec![b'v'; 40 << 20];
        assert_eq!(server.call(&[b"SET", b"k", &value]), b"+QUEUED\r\n");
        assert!(bytes(&server) > value.len());
        let refusal = b"-ERR the transaction's commands take more than 64 MiB: split it\r\n";
        assert_eq!(server.call(&[b"SET", b"k", &value]), refusal);
        assert_eq!(server.call(&[b"SET", b"k", &value]), b"+QUEUED\r\n");
        assert_eq!(bytes(&server), 0);
        let refusal = "-EXECABORT Transaction discarded because of previous errors.\r\n";
        server.check(&[("EXEC", refusal), ("GET k", "$-1\r\n")]);
    }

    #[test]
    fn what_a_client_watches_is_bounded() {
        let mut server = TestServer::new();
        let keys: Vec<String> = (0..WATCHED_KEYS_MAX).map(|number| number.to_string()).collect();
        let long: Vec<String> =
            (0..WATCHED_BYTES_MAX / 32768).map(|number| format!("{number:032768}")).collect();
        for (keys, end) in [(&keys, "UNWATCH"), (&long, "DISCARD"), (&keys, "EXEC"), (&long, "RESET")] {
            assert_eq!(watch(&mut server, keys), "+OK\r\n");
            // Those that are watched already count once.
            assert_eq!(watch(&mut server, &keys[..2]), "+OK\r\n");
            assert_eq!(server.line("WATCH x"), REFUSED);
            if ["DISCARD", "EXEC"].contains(&end) {
                server.line("MULTI");
            }
            server.line(end);
            assert_eq!(server.line("WATCH x"), "+OK\r\n", "{end}");
            server.line("UNWATCH");
        }
    }
}
