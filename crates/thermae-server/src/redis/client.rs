//! CLIENT: who is connected, and what is to become of them.

use crate::clients::{BYTES_AT_REST, Client, marks};
use crate::failure::{Failure, Result};
use crate::numbers::parse_integer;
use crate::redis::call::{Call, SYNTAX};
use crate::redis::connection::rename;
use crate::redis::introspection::{help, wrong_subcommand};
use crate::redis::session::{ReplyMode, Session};
use crate::redis::table::{self, Command, NO_KEYS, flags};
use crate::redis::tracking::{self, NOT_TRACKING};
use crate::refusals::LOGGED_NAME_BYTES_MAX;
use crate::shared::Shared;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use flags::{ADMIN, LOADING, NOSCRIPT, STALE};

/// The rows.
pub static COMMANDS: &[Command] = &[Command {
    name: "client",
    arity: -2,
    flags: 0,
    keys: NO_KEYS,
    categories: "slow",
    group: "connection",
    since: "2.4.0",
    complexity: "That of the subcommand",
    summary: "Groups the commands about client connections.",
    syntax: "",
    run: help,
    subcommands: SUBCOMMANDS,
}];

static SUBCOMMANDS: &[Command] = &[
    Command {
        name: "id",
        arity: 2,
        flags: NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "connection slow",
        group: "connection",
        since: "5.0.0",
        complexity: "O(1)",
        summary: "Answers the number of this connection.",
        syntax: "",
        run: id,
        subcommands: &[],
    },
    Command {
        name: "getname",
        arity: 2,
        flags: NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "connection slow",
        group: "connection",
        since: "2.6.9",
        complexity: "O(1)",
        summary: "Answers what this connection calls itself.",
        syntax: "",
        run: get_name,
        subcommands: &[],
    },
    Command {
        name: "setname",
        arity: 3,
        flags: NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "connection slow",
        group: "connection",
        since: "2.6.9",
        complexity: "O(1)",
        summary: "Names this connection.",
        syntax: "connection-name",
        run: set_name,
        subcommands: &[],
    },
    Command {
        name: "list",
        arity: -2,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin connection dangerous slow",
        group: "connection",
        since: "2.4.0",
        complexity: "O(N), N being the number of connections",
        summary: "Lists the connections: all, those of a type, or some by number.",
        syntax: "[TYPE normal_master_replica_pubsub(NORMAL | MASTER | REPLICA | PUBSUB)@5.0.0] \
                 [ID id(client-id:integer...)@6.2.0]",
        run: list,
        subcommands: &[],
    },
    Command {
        name: "info",
        arity: 2,
        flags: NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "connection slow",
        group: "connection",
        since: "6.2.0",
        complexity: "O(1)",
        summary: "Describes this connection as CLIENT LIST does.",
        syntax: "",
        run: info,
        subcommands: &[],
    },
    Command {
        name: "kill",
        arity: -3,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin connection dangerous slow",
        group: "connection",
        since: "2.4.0",
        complexity: "O(N), N being the number of connections",
        summary: "Closes connections: that from an address, or all to which some conditions apply.",
        syntax: "filter(ip:port:string~2.8.12 | new-format([ID client-id:integer@2.8.12] | \
                 [TYPE normal_master_slave_pubsub(NORMAL | MASTER@3.2.0 | SLAVE | REPLICA@5.0.0 | PUBSUB)@2.8.12] | \
                 [USER username] | [ADDR ip:port:string] | [LADDR ip:port:string@6.2.0] | [SKIPME yes/no])...)",
        run: kill,
        subcommands: &[],
    },
    Command {
        name: "reply",
        arity: 3,
        flags: NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "connection slow",
        group: "connection",
        since: "3.2.0",
        complexity: "O(1)",
        summary: "Turns the replies to this connection off or on, or skips that of the next command.",
        syntax: "on_off_skip(ON | OFF | SKIP)",
        run: reply,
        subcommands: &[],
    },
    Command {
        name: "no-evict",
        arity: 3,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin connection dangerous slow",
        group: "connection",
        since: "7.0.0",
        complexity: "O(1)",
        summary: "Keeps this connection when connections have to go to save memory.",
        syntax: "enabled(ON | OFF)",
        run: no_evict,
        subcommands: &[],
    },
    Command {
        name: "unblock",
        arity: -3,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin connection dangerous slow",
        group: "connection",
        since: "5.0.0",
        complexity: "O(1)",
        summary: "Ends the waiting of a connection that waits in a blocking command.",
        syntax: "client-id:integer [timeout_error(TIMEOUT | ERROR)]",
        run: unblock,
        subcommands: &[],
    },
    Command {
        name: "pause",
        arity: -3,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin connection dangerous slow",
        group: "connection",
        since: "2.9.50",
        complexity: "O(1)",
        summary: "Has the commands of all clients wait, or those of them that write.",
        syntax: "timeout:integer [mode(WRITE | ALL)@6.2.0]",
        run: pause,
        subcommands: &[],
    },
    Command {
        name: "unpause",
        arity: 2,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin connection dangerous slow",
        group: "connection",
        since: "6.2.0",
        complexity: "O(N), N being the number of clients that wait",
        summary: "Ends a pause.",
        syntax: "",
        run: unpause,
        subcommands: &[],
    },
    tracking::TRACKING,
    tracking::CACHING,
    tracking::GETREDIR,
    tracking::TRACKINGINFO,
    Command {
        name: "help",
        arity: 2,
        flags: LOADING | STALE,
        keys: NO_KEYS,
        categories: "connection slow",
        group: "connection",
        since: "5.0.0",
        complexity: "O(1)",
        summary: "Lists the subcommands.",
        syntax: "",
        run: help,
        subcommands: &[],
    },
];

fn id(call: &mut Call<'_, '_>) -> Result<()> {
    call.reply.count(call.session.id);
    Ok(())
}

fn get_name(call: &mut Call<'_, '_>) -> Result<()> {
    let name = call.session.client.name();
    if name.is_empty() {
        call.reply.null();
    } else {
        call.reply.bulk(&name);
    }
    Ok(())
}

fn set_name(call: &mut Call<'_, '_>) -> Result<()> {
    rename(call, call.argument(2))?;
    call.reply.ok();
    Ok(())
}

fn list(call: &mut Call<'_, '_>) -> Result<()> {
    let clients = call.shared.clients.all();
    let listed: Vec<Arc<Client>> = match call.arguments.len() {
        2 => clients,
        4 if call.is(2, "TYPE") => {
            let of_type = Type::parse(call.argument(3))?;
            clients.into_iter().filter(|client| of_type.is_of(client)).collect()
        }
        4.. if call.is(2, "ID") => {
            let mut listed = Vec::new();
            for text in call.arguments.from(3) {
                let id = parse_integer(text).ok_or("ERR Invalid client ID")?;
                listed.extend(clients.iter().find(|client| i64::try_from(client.id) == Ok(id)).cloned());
            }
            listed
        }
        _ => return Err(Failure::from(SYNTAX)),
    };
    let now_ms = call.space.now_ms();
    call.session.publish();
    let mut lines = String::new();
    for client in listed {
        describe(&client, call.shared, now_ms, usize::MAX, &mut lines);
    }
    call.reply.verbatim("txt", &lines);
    Ok(())
}

fn info(call: &mut Call<'_, '_>) -> Result<()> {
    let now_ms = call.space.now_ms();
    call.session.publish();
    let mut line = String::new();
    describe(&call.session.client, call.shared, now_ms, usize::MAX, &mut line);
    call.reply.verbatim("txt", &line);
    Ok(())
}

/// The line of CLIENT LIST about a client, as it is now, for a log: with no more of its names than logs keep.
pub fn line_of(session: &Session, shared: &Shared, now_ms: u64) -> String {
    session.publish();
    line_about(&session.client, shared, now_ms)
}

/// The same about a client of any protocol, as others see it.
pub fn line_about(client: &Client, shared: &Shared, now_ms: u64) -> String {
    let mut line = String::new();
    describe(client, shared, now_ms, LOGGED_NAME_BYTES_MAX, &mut line);
    line.truncate(line.trim_end().len());
    line
}

/// What a client is, to CLIENT LIST and CLIENT KILL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Normal,
    /// Subscribed to something.
    Subscriber,
    /// Another server, of which there is none.
    Server,
}

impl Type {
    fn parse(name: &[u8]) -> Result<Self> {
        match name.to_ascii_lowercase().as_slice() {
            b"normal" => Ok(Self::Normal),
            b"pubsub" => Ok(Self::Subscriber),
            b"master" | b"replica" | b"slave" => Ok(Self::Server),
            _ => Err(Failure::text(format!("ERR Unknown client type '{}'", String::from_utf8_lossy(name)))),
        }
    }

    fn is_of(self, client: &Client) -> bool {
        self == if client.is_subscribed() { Self::Subscriber } else { Self::Normal }
    }
}

/// One line of CLIENT LIST. What Redis has no counterpart for here is 0: a connection at rest has no buffers.
fn describe(client: &Client, shared: &Shared, now_ms: u64, name_bytes_max: usize, lines: &mut String) {
    let command = table::entries().get(client.command.load(Ordering::Relaxed));
    let flags = client.flags.load(Ordering::Relaxed);
    let has = |mark| flags & mark != 0;
    let tracks = shared.tracking.seen(client.id);
    let mut letters = String::new();
    for (is_so, letter) in [
        (has(marks::MONITORS), 'O'),
        (client.is_subscribed(), 'P'),
        (has(marks::IN_TRANSACTION), 'x'),
        (tracks.is_some(), 't'),
        (tracks.is_some_and(|tracks| tracks.is_broken), 'R'),
        (tracks.is_some_and(|tracks| tracks.is_broadcast), 'B'),
        (has(marks::CLOSES), 'c'),
        (client.address.starts_with("unix:"), 'U'),
        (has(marks::NO_EVICT), 'e'),
    ] {
        if is_so {
            letters.push(letter);
        }
    }
    if letters.is_empty() {
        letters.push('N');
    }
    let input_bytes = client.input_bytes.load(Ordering::Relaxed);
    let output_bytes = client.output_bytes.load(Ordering::Relaxed);
    // Writing to a string does not fail.
    let _ = writeln!(
        lines,
        "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={letters} db={} sub={} psub={} ssub={} multi={} qbuf={input_bytes} \
         qbuf-free=0 argv-mem=0 multi-mem={} rbs=0 rbp=0 obl={output_bytes} oll=0 omem=0 tot-mem={} events={} cmd={} user={} redir={} resp={}",
        client.id,
        client.address.strip_prefix("unix:").unwrap_or(&client.address),
        client.local_address.strip_prefix("unix:").unwrap_or(&client.local_address),
        client.place.fd,
        String::from_utf8_lossy(&client.name_up_to(name_bytes_max)),
        now_ms.saturating_sub(client.connected_at_ms) / 1000,
        now_ms.saturating_sub(client.active_at_ms.load(Ordering::Relaxed)) / 1000,
        client.database.load(Ordering::Relaxed),
        client.subscribed_to(0),
        client.subscribed_to(1),
        client.subscribed_to(2),
        client.queued.load(Ordering::Relaxed),
        client.transaction_bytes.load(Ordering::Relaxed),
        BYTES_AT_REST + client.held_bytes(),
        if output_bytes == 0 { "r" } else { "rw" },
        command.map_or("NULL", |command| &command.full_name),
        String::from_utf8_lossy(&client.user_up_to(name_bytes_max)),
        tracks.map_or(NOT_TRACKING, |tracks| tracks.redirect.cast_signed()),
        if has(marks::RESP3) { 3 } else { 2 },
    );
}

/// Which clients are to be ended.
#[derive(Debug, Default)]
struct Conditions<'a> {
    id: Option<u64>,
    address: Option<&'a [u8]>,
    local_address: Option<&'a [u8]>,
    user: Option<&'a [u8]>,
    of_type: Option<Type>,
    spares_caller: bool,
}

impl Conditions<'_> {
    fn apply_to(&self, client: &Client, caller: u64) -> bool {
        let is = |wanted: Option<&[u8]>, address: &str| {
            wanted.is_none_or(|wanted| wanted == address.strip_prefix("unix:").unwrap_or(address).as_bytes())
        };
        self.id.is_none_or(|id| id == client.id)
            && is(self.address, &client.address)
            && is(self.local_address, &client.local_address)
            && self.user.is_none_or(|user| user == client.user())
            && self.of_type.is_none_or(|of_type| of_type.is_of(client))
            && !(self.spares_caller && client.id == caller)
    }
}

fn kill(call: &mut Call<'_, '_>) -> Result<()> {
    if call.arguments.len() == 3 {
        let conditions = Conditions { address: Some(call.argument(2)), ..Conditions::default() };
        if end_all(call, &conditions) == 0 {
            return Err(Failure::from("ERR No such client"));
        }
        call.reply.ok();
        return Ok(());
    }
    let conditions = conditions(call)?;
    let count = end_all(call, &conditions);
    call.reply.count(count);
    Ok(())
}

fn conditions<'a>(call: &Call<'a, '_>) -> Result<Conditions<'a>> {
    let mut conditions = Conditions { spares_caller: true, ..Conditions::default() };
    for index in (2..call.arguments.len()).step_by(2) {
        if index + 1 == call.arguments.len() {
            return Err(Failure::from(SYNTAX));
        }
        let value = call.argument(index + 1);
        if call.is(index, "ID") {
            let id = parse_integer(value).and_then(|id| u64::try_from(id).ok()).filter(|id| *id > 0);
            conditions.id = Some(id.ok_or("ERR client-id should be greater than 0")?);
        } else if call.is(index, "ADDR") {
            conditions.address = Some(value);
        } else if call.is(index, "LADDR") {
            conditions.local_address = Some(value);
        } else if call.is(index, "TYPE") {
            conditions.of_type = Some(Type::parse(value)?);
        } else if call.is(index, "USER") {
            if call.shared.users.get(value).is_none() {
                let user = String::from_utf8_lossy(value);
                return Err(Failure::text(format!("ERR No such user '{user}'")));
            }
            conditions.user = Some(value);
        } else if call.is(index, "SKIPME") {
            conditions.spares_caller = match value.to_ascii_lowercase().as_slice() {
                b"yes" => true,
                b"no" => false,
                _ => return Err(Failure::from(SYNTAX)),
            };
        } else {
            return Err(Failure::from(SYNTAX));
        }
    }
    Ok(conditions)
}

/// Ends the clients to which all conditions apply; the caller gets its reply first. Returns how many.
fn end_all(call: &mut Call<'_, '_>, conditions: &Conditions<'_>) -> u64 {
    let mut count = 0;
    for client in call.shared.clients.all() {
        if !conditions.apply_to(&client, call.session.id) {
            continue;
        }
        if client.id == call.session.id {
            call.session.closes = true;
            count += 1;
        } else {
            count += u64::from(call.shared.kill(&client));
        }
    }
    count
}

fn reply(call: &mut Call<'_, '_>) -> Result<()> {
    if call.is(2, "ON") {
        call.session.reply_mode = ReplyMode::On;
        call.reply.ok();
    } else if call.is(2, "OFF") {
        call.session.reply_mode = ReplyMode::Off;
    } else if call.is(2, "SKIP") {
        if call.session.reply_mode != ReplyMode::Off {
            call.session.reply_mode = ReplyMode::SkipNext;
        }
    } else {
        return Err(Failure::from(SYNTAX));
    }
    Ok(())
}

fn no_evict(call: &mut Call<'_, '_>) -> Result<()> {
    call.session.no_evict = match call.argument(2).to_ascii_lowercase().as_slice() {
        b"on" => true,
        b"off" => false,
        _ => return Err(Failure::from(SYNTAX)),
    };
    call.reply.ok();
    Ok(())
}

/// No command waits, so that there is nobody to wake.
fn unblock(call: &mut Call<'_, '_>) -> Result<()> {
    match call.arguments.len() {
        3 => {}
        4 if call.is(3, "TIMEOUT") || call.is(3, "ERROR") => {}
        4 => return Err(Failure::from("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")),
        _ => return Err(wrong_subcommand(call)),
    }
    call.integer(2)?;
    call.reply.flag(false);
    Ok(())
}

fn pause(call: &mut Call<'_, '_>) -> Result<()> {
    let of_all = match call.arguments.len() {
        3 => true,
        4 if call.is(3, "ALL") => true,
        4 if call.is(3, "WRITE") => false,
        4 => return Err(Failure::from("ERR CLIENT PAUSE mode must be WRITE or ALL")),
        _ => return Err(wrong_subcommand(call)),
    };
    let milliseconds = call.integer(2).map_err(|_| "ERR timeout is not an integer or out of range")?;
    let milliseconds = u64::try_from(milliseconds).map_err(|_| "ERR timeout is negative")?;
    let now_ms = call.space.now_ms();
    call.shared.pause.begin(now_ms, now_ms.saturating_add(milliseconds), of_all);
    call.reply.ok();
    Ok(())
}

fn unpause(call: &mut Call<'_, '_>) -> Result<()> {
    call.shared.pause.end();
    call.shared.wake_all();
    call.reply.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::{NAME_BYTES_MAX, Place};
    use crate::redis::test_support::TestServer;

    /// What is noted of a client stays when it is gone: names of any length filled memory with it.
    #[test]
    fn logs_keep_the_beginning_of_a_name() {
        let mut server = TestServer::new();
        let name = vec![b'n'; NAME_BYTES_MAX];
        assert_eq!(server.call(&[b"CLIENT", b"SETNAME", &name]), b"+OK\r\n");
        assert!(server.line("AUTH nobody x").starts_with("-WRONGPASS"));
        assert_eq!(server.line("CONFIG SET slowlog-log-slower-than 0"), "+OK\r\n");
        server.line("PING");
        let kept = &name[..LOGGED_NAME_BYTES_MAX];
        let line = server.shared().refusals.latest(1)[0].client.clone();
        assert!(line.contains(&format!(" name={} age=", String::from_utf8_lossy(kept))), "{}", line.len());
        assert_eq!(server.shared().slow_log.latest(1)[0].name, kept);
        assert!(server.line("CLIENT INFO").len() > name.len());
    }

    #[test]
    fn replies_are_those_of_redis() {
        let mut server = TestServer::new();
        server.check(&[
            ("CLIENT", "-ERR wrong number of arguments for 'client' command\r\n"),
            ("CLIENT foo", "-ERR unknown subcommand 'foo'. Try CLIENT HELP.\r\n"),
            ("CLIENT ID", ":1\r\n"),
            ("CLIENT GETNAME", "$-1\r\n"),
            ("CLIENT SETNAME me", "+OK\r\n"),
            ("CLIENT GETNAME", "$2\r\nme\r\n"),
            ("CLIENT GETNAME x", "-ERR wrong number of arguments for 'client|getname' command\r\n"),
            ("CLIENT LIST TYPE foo", "-ERR Unknown client type 'foo'\r\n"),
            ("CLIENT LIST TYPE master", "$0\r\n\r\n"),
            ("CLIENT LIST ID", "-ERR syntax error\r\n"),
            ("CLIENT LIST ID x", "-ERR Invalid client ID\r\n"),
            ("CLIENT LIST ID 99", "$0\r\n\r\n"),
            ("CLIENT LIST foo", "-ERR syntax error\r\n"),
            ("CLIENT KILL 1.2.3.4:5", "-ERR No such client\r\n"),
            ("CLIENT KILL ID 0", "-ERR client-id should be greater than 0\r\n"),
            ("CLIENT KILL ID x", "-ERR client-id should be greater than 0\r\n"),
            ("CLIENT KILL ID 99", ":0\r\n"),
            ("CLIENT KILL ID 99 TYPE", "-ERR syntax error\r\n"),
            ("CLIENT KILL foo bar", "-ERR syntax error\r\n"),
            ("CLIENT KILL TYPE foo", "-ERR Unknown client type 'foo'\r\n"),
            ("CLIENT KILL USER nobody", "-ERR No such user 'nobody'\r\n"),
            ("CLIENT KILL TYPE normal SKIPME maybe", "-ERR syntax error\r\n"),
            ("CLIENT KILL USER default SKIPME yes", ":0\r\n"),
            ("CLIENT REPLY foo", "-ERR syntax error\r\n"),
            ("CLIENT NO-EVICT foo", "-ERR syntax error\r\n"),
            ("CLIENT NO-EVICT on", "+OK\r\n"),
            ("CLIENT UNBLOCK x", "-ERR value is not an integer or out of range\r\n"),
            ("CLIENT UNBLOCK 9 foo", "-ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR\r\n"),
            ("CLIENT UNBLOCK 9 timeout", ":0\r\n"),
            (
                "CLIENT UNBLOCK 9 timeout x",
                "-ERR unknown subcommand or wrong number of arguments for 'UNBLOCK'. Try CLIENT HELP.\r\n",
            ),
            ("CLIENT PAUSE x", "-ERR timeout is not an integer or out of range\r\n"),
            ("CLIENT PAUSE -1", "-ERR timeout is negative\r\n"),
            ("CLIENT PAUSE 1 foo", "-ERR CLIENT PAUSE mode must be WRITE or ALL\r\n"),
            ("CLIENT PAUSE 60000 WRITE", "+OK\r\n"),
            ("CLIENT UNPAUSE", "+OK\r\n"),
        ]);
    }

    #[test]
    fn a_line_has_the_fields_that_redis_gives() {
        let mut server = TestServer::new();
        server.shared().clients.add(&server.session.client);
        server.line("SELECT 3");
        server.line("CLIENT NO-EVICT on");
        let line = server.line("CLIENT LIST");
        let fields: Vec<(&str, &str)> =
            line.lines().nth(1).unwrap().split(' ').map(|field| field.split_once('=').unwrap()).collect();
        let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names.join(" "),
            "id addr laddr fd name age idle flags db sub psub ssub multi qbuf qbuf-free argv-mem multi-mem rbs rbp obl oll omem tot-mem \
             events cmd user redir resp"
        );
        for expected in
            [("id", "1"), ("db", "3"), ("flags", "e"), ("multi", "-1"), ("cmd", "client|list"), ("resp", "2")]
        {
            assert!(fields.contains(&expected), "{expected:?} in {line}");
        }
        assert_eq!(server.line("CLIENT INFO").lines().count(), 3);
    }

    /// Who looked for what takes memory was told that nothing does.
    #[test]
    fn a_line_says_what_a_transaction_takes() {
        let mut server = TestServer::new();
        server.shared().clients.add(&server.session.client);
        let seen = |server: &mut TestServer| {
            server.session.publish();
            let client = &server.session.client;
            server.shared().clients.note_held(client, client.state_bytes());
            let line = line_of(&server.session, server.shared(), 0);
            let value = |name: &str| {
                let field = line.split(' ').find_map(|field| field.strip_prefix(name)).unwrap();
                field.parse::<usize>().unwrap()
            };
            (value("multi-mem="), value("tot-mem=") - BYTES_AT_REST)
        };
        assert_eq!(seen(&mut server), (0, 0));
        assert_eq!(server.line("CLIENT SETNAME worker"), "+OK\r\n");
        assert_eq!(seen(&mut server), (0, 6));
        let key = "k".repeat(1000);
        assert_eq!(server.line(&format!("WATCH {key}")), "+OK\r\n");
        let (watched, held) = seen(&mut server);
        assert!((1000..2000).contains(&watched) && held == watched + 6, "{watched}, {held}");
        server.line("MULTI");
        server.line(&format!("SET k {}", "v".repeat(100_000)));
        server.line("PING");
        let (queued, held) = seen(&mut server);
        assert!((101_000..103_000).contains(&queued) && held == queued + 6, "{queued}, {held}");
        server.line("DISCARD");
        assert_eq!(seen(&mut server), (0, 6));
    }

    #[test]
    fn clients_are_ended_by_what_is_known_of_them() {
        let mut server = TestServer::new();
        server.shared().clients.add(&server.session.client);
        for id in 2..5 {
            let address = format!("127.0.0.1:{id}");
            let client = Client::new(id, address, "127.0.0.1:6379".to_owned(), Place::default(), 0);
            server.shared().clients.add(&Arc::new(client));
        }
        assert_eq!(server.line("CLIENT KILL 127.0.0.1:2"), "+OK\r\n");
        assert_eq!(server.line("CLIENT KILL 127.0.0.1:2"), "-ERR No such client\r\n");
        assert_eq!(server.line("CLIENT KILL ID 3 ADDR 127.0.0.1:4"), ":0\r\n");
        assert_eq!(server.line("CLIENT KILL LADDR 127.0.0.1:6379"), ":2\r\n");
        assert!(!server.session.closes);
        assert_eq!(server.line("CLIENT KILL ID 1 SKIPME no"), ":1\r\n");
        assert!(server.session.closes);
    }

    #[test]
    fn replies_can_be_turned_off_and_skipped() {
        let mut server = TestServer::new();
        for (command, reply) in [
            ("CLIENT REPLY SKIP", ""),
            ("PING", ""),
            ("PING", "+PONG\r\n"),
            ("CLIENT REPLY OFF", ""),
            ("PING", ""),
            ("CLIENT REPLY SKIP", ""),
            ("PING", ""),
            ("CLIENT REPLY ON", "+OK\r\n"),
            ("PING", "+PONG\r\n"),
        ] {
            assert_eq!(server.line(command), reply, "{command}");
        }
    }
}
