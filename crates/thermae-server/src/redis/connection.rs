//! Commands about the connection itself.
//!
//! Who a client is decides what it may do here, see [`crate::users`]; in Python and in other processes of the same store nobody asks.

use crate::clients::NAME_BYTES_MAX;
use crate::databases::DATABASES;
use crate::failure::{Failure, Result};
use crate::redis::call::{Call, SYNTAX};
use crate::redis::client::line_of;
use crate::redis::pubsub::reply_messages;
use crate::redis::session::ReplyMode;
use crate::redis::table::{Command, NO_KEYS, flags};
use crate::refusals::{Reason, Refusal};
use crate::users::DEFAULT;
use std::collections::HashMap;

use flags::{ALLOW_BUSY, FAST, LOADING, NO_AUTH, NOSCRIPT, STALE};

/// The version of Redis whose commands these are.
pub const REDIS_VERSION: &str = "7.0.15";
const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const WRONG_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";
const LONG_NAME: &str = "ERR Client names cannot be longer than 4096 bytes.";

/// The rows.
pub static COMMANDS: &[Command] = &[
    Command {
        name: "ping",
        arity: -1,
        flags: FAST,
        keys: NO_KEYS,
        categories: "connection fast",
        group: "connection",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "Answers PONG, or its argument.",
        syntax: "[message]",
        run: ping,
        subcommands: &[],
    },
    Command {
        name: "echo",
        arity: 2,
        flags: LOADING | STALE | FAST,
        keys: NO_KEYS,
        categories: "connection fast",
        group: "connection",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "Answers its argument.",
        syntax: "message",
        run: echo,
        subcommands: &[],
    },
    Command {
        name: "select",
        arity: 2,
        flags: LOADING | STALE | FAST,
        keys: NO_KEYS,
        categories: "connection fast",
        group: "connection",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "Selects the numbered database that this connection uses.",
        syntax: "index:integer",
        run: select,
        subcommands: &[],
    },
    Command {
        name: "quit",
        arity: -1,
        flags: NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY,
        keys: NO_KEYS,
        categories: "connection fast",
        group: "connection",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "Closes the connection once all replies are sent.",
        syntax: "",
        run: quit,
        subcommands: &[],
    },
    Command {
        name: "reset",
        arity: 1,
        flags: NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY,
        keys: NO_KEYS,
        categories: "connection fast",
        group: "connection",
        since: "6.2.0",
        complexity: "O(1)",
        summary: "Puts the connection into the state in which it began.",
        syntax: "",
        run: reset,
        subcommands: &[],
    },
    Command {
        name: "auth",
        arity: -2,
        flags: NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY,
        keys: NO_KEYS,
        categories: "connection fast",
        group: "connection",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "Says who the client is.",
        syntax: "[username@6.0.0] password",
        run: auth,
        subcommands: &[],
    },
    Command {
        name: "hello",
        arity: -1,
        flags: NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY,
        keys: NO_KEYS,
        categories: "connection fast",
        group: "connection",
        since: "6.0.0",
        complexity: "O(1)",
        summary: "Chooses the version of the protocol; says who the client is, and what it calls itself.",
        syntax: "[arguments(protover:integer [AUTH username_password(username password)] [SETNAME clientname])]",
        run: hello,
        subcommands: &[],
    },
];

fn ping(call: &mut Call<'_, '_>) -> Result<()> {
    match call.arguments.len() {
        1 | 2 if call.session.only_listens() => {
            let given = if call.arguments.len() == 2 { call.argument(1) } else { b"" };
            call.reply.array(2);
            call.reply.bulk(b"pong");
            call.reply.bulk(given);
        }
        1 => call.reply.status("PONG"),
        2 => call.reply.bulk(call.arguments.at(1)),
        _ => return Err(Failure::from("ERR wrong number of arguments for 'ping' command")),
    }
    Ok(())
}

fn echo(call: &mut Call<'_, '_>) -> Result<()> {
    call.reply.bulk(call.arguments.at(1));
    Ok(())
}

fn select(call: &mut Call<'_, '_>) -> Result<()> {
    let number = call.integer(1)?;
    if i32::try_from(number).is_err() {
        return Err(Failure::from(
            "ERR value is out of range, value must between -2147483648 and 2147483647",
        ));
    }
    let database = u8::try_from(number).ok().filter(|database| *database < DATABASES);
    call.session.database = database.ok_or("ERR DB index is out of range")?;
    call.reply.ok();
    Ok(())
}

fn quit(call: &mut Call<'_, '_>) -> Result<()> {
    call.session.closes = true;
    call.reply.ok();
    Ok(())
}

fn reset(call: &mut Call<'_, '_>) -> Result<()> {
    call.session.leave(call.shared);
    reply_messages(call);
    let session = &mut *call.session;
    session.queue = None;
    session.watched = HashMap::new();
    session.reply_mode = ReplyMode::On;
    session.database = 0;
    session.is_resp3 = false;
    session.become_nobody(call.shared);
    session.publish();
    session.client.rename(b"");
    call.reply.speak(false);
    call.reply.status("RESET");
    Ok(())
}

fn auth(call: &mut Call<'_, '_>) -> Result<()> {
    match call.arguments.len() {
        2 if call.shared.users.default_user().needs_no_password => {
            return Err(Failure::from(
                "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
            ));
        }
        2 => authenticate(call, DEFAULT, call.argument(1))?,
        3 => authenticate(call, call.argument(1), call.argument(2))?,
        _ => return Err(Failure::from(SYNTAX)),
    }
    call.reply.ok();
    Ok(())
}

/// Lets a client in who says a user's name and password; notes it where it does not.
fn authenticate(call: &mut Call<'_, '_>, name: &[u8], password: &[u8]) -> Result<()> {
    let version = call.shared.users.version();
    let Some(user) = call.shared.users.authenticate(name, password) else {
        let now_ms = call.shared.store.now_ms();
        let is_in_transaction = call.session.queue.is_some();
        let mut refusal = Refusal::new(Reason::Auth, is_in_transaction, call.argument(0), name, now_ms);
        refusal.client = line_of(call.session, call.shared, now_ms);
        call.shared.refusals.note(refusal);
        return Err(Failure::from(WRONG_PASSWORD));
    };
    call.session.is_authenticated = true;
    call.session.become_user(user, version);
    Ok(())
}

fn hello(call: &mut Call<'_, '_>) -> Result<()> {
    let version = match call.arguments.len() {
        1 => None,
        _ => Some(call.integer(1).map_err(|_| "ERR Protocol version is not an integer or out of range")?),
    };
    if version.is_some_and(|version| !matches!(version, 2 | 3)) {
        return Err(Failure::from("NOPROTO unsupported protocol version"));
    }
    let mut index = 2;
    while index < call.arguments.len() {
        let more = call.arguments.len() - index - 1;
        if call.is(index, "AUTH") && more >= 2 {
            authenticate(call, call.argument(index + 1), call.argument(index + 2))?;
            index += 3;
        } else if call.is(index, "SETNAME") && more >= 1 {
            rename(call, call.argument(index + 1))?;
            index += 2;
        } else {
            let option = String::from_utf8_lossy(call.argument(index));
            return Err(Failure::text(format!("ERR Syntax error in HELLO option '{option}'")));
        }
    }
    if !call.session.is_authenticated {
        return Err(Failure::from(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> option can be \
             used to authenticate the client and select the RESP protocol version at the same time",
        ));
    }
    if let Some(version) = version {
        speak(call, version == 3);
    }
    greet(call);
    Ok(())
}

/// Goes on in this version of the protocol; what was published before is told in the one before.
fn speak(call: &mut Call<'_, '_>, is_resp3: bool) {
    call.session.is_resp3 = is_resp3;
    // Who has something to tell the client from now on tells it in this version.
    call.shared.channels.while_silent(|| call.session.publish());
    if call.session.client.is_subscribed() && call.space.is_plain() {
        reply_messages(call);
    }
    call.session.settle();
    call.reply.speak(is_resp3);
}

/// Says who the server is.
fn greet(call: &mut Call<'_, '_>) {
    let (id, is_resp3) = (call.session.id, call.session.is_resp3);
    let reply = &mut call.reply;
    reply.map(7);
    for (name, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"proto");
    reply.integer(if is_resp3 { 3 } else { 2 });
    reply.bulk(b"id");
    reply.count(id);
    for (name, value) in [("mode", "standalone"), ("role", "master")] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"modules");
    reply.array(0);
}

/// Gives the client a name, or takes it away where it is empty.
///
/// # Errors
/// A name that would make the lines of CLIENT LIST ambiguous, or one that is too long.
pub fn rename(call: &mut Call<'_, '_>, name: &[u8]) -> Result<()> {
    if !name.iter().all(|byte| matches!(byte, b'!'..=b'~')) {
        return Err(Failure::from(WRONG_NAME));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(Failure::from(LONG_NAME));
    }
    call.session.client.rename(name);
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
            ("PING", "+PONG\r\n"),
            ("ping a", "$1\r\na\r\n"),
            ("PING a b", "-ERR wrong number of arguments for 'ping' command\r\n"),
            ("ECHO a", "$1\r\na\r\n"),
            ("ECHO", "-ERR wrong number of arguments for 'echo' command\r\n"),
            ("SELECT 15", "+OK\r\n"),
            ("SELECT 16", "-ERR DB index is out of range\r\n"),
            ("SELECT -1", "-ERR DB index is out of range\r\n"),
            (
                "SELECT 99999999999",
                "-ERR value is out of range, value must between -2147483648 and 2147483647\r\n",
            ),
            ("SELECT x", "-ERR value is not an integer or out of range\r\n"),
            ("HELLO 4", "-NOPROTO unsupported protocol version\r\n"),
            ("HELLO x", "-ERR Protocol version is not an integer or out of range\r\n"),
            ("HELLO 2 foo", "-ERR Syntax error in HELLO option 'foo'\r\n"),
            ("HELLO 2 setname", "-ERR Syntax error in HELLO option 'setname'\r\n"),
            ("HELLO 2 auth a", "-ERR Syntax error in HELLO option 'auth'\r\n"),
            ("HELLO 2 auth a b", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
            ("AUTH default anything", "+OK\r\n"),
            ("AUTH nobody anything", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
            ("AUTH a b c", "-ERR syntax error\r\n"),
        ]);
        assert!(
            server.line("AUTH a").starts_with("-ERR AUTH <password> called without any password configured")
        );
    }

    #[test]
    fn hello_chooses_the_version_and_names_the_client() {
        let mut server = TestServer::new();
        let greeting = "$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n";
        assert!(server.line("HELLO").starts_with(&format!("*14\r\n{greeting}:2\r\n$2\r\nid\r\n:1\r\n")));
        assert!(server.line("HELLO 3 SETNAME me").starts_with(&format!("%7\r\n{greeting}:3\r\n")));
        assert_eq!(server.session.client.name(), b"me");
        assert_eq!(server.line("RESET"), "+RESET\r\n");
        assert_eq!(server.session.client.name(), b"");
        assert!(!server.session.is_resp3);
        assert_eq!(server.line("HELLO 3 SETNAME \"a b\""), format!("-{WRONG_NAME}\r\n"));
        assert!(!server.session.is_resp3);
    }

    /// A name took as much memory as an argument may, and every CLIENT LIST showed it.
    #[test]
    fn a_name_is_bounded() {
        let mut server = TestServer::new();
        let (longest, too_long) = ("n".repeat(NAME_BYTES_MAX), "n".repeat(NAME_BYTES_MAX + 1));
        assert_eq!(server.line(&format!("CLIENT SETNAME {longest}")), "+OK\r\n");
        for command in ["CLIENT SETNAME", "HELLO 2 SETNAME"] {
            assert_eq!(server.line(&format!("{command} {too_long}")), format!("-{LONG_NAME}\r\n"));
        }
        assert_eq!(server.session.client.name(), longest.as_bytes());
    }

    #[test]
    fn a_stranger_has_to_say_the_password() {
        let mut server = TestServer::new();
        assert_eq!(server.line("CONFIG SET requirepass secret"), "+OK\r\n");
        server.line("RESET");
        let wrong = format!("-{WRONG_PASSWORD}\r\n");
        server.check(&[
            ("PING", "-NOAUTH Authentication required.\r\n"),
            ("AUTH secre", &wrong),
            ("AUTH secrets", &wrong),
            ("AUTH nobody secret", &wrong),
            ("GET a", "-NOAUTH Authentication required.\r\n"),
        ]);
        assert!(server.line("HELLO 3").starts_with("-NOAUTH HELLO must be called"));
        assert_eq!(server.line("AUTH secret"), "+OK\r\n");
        assert_eq!(server.line("PING"), "+PONG\r\n");
        assert_eq!(server.line("RESET"), "+RESET\r\n");
        assert_eq!(server.line("PING"), "-NOAUTH Authentication required.\r\n");
        assert!(server.line("HELLO 3 AUTH default secret").starts_with("%7"));
        // Once there is no password any more, nobody is a stranger.
        server.line("RESET");
        let open = std::sync::Arc::new(crate::users::User::default_with(b""));
        server.shared().change_users(|accounts| accounts.insert(DEFAULT.to_vec(), open));
        assert_eq!(server.line("PING"), "+PONG\r\n");
    }
}
