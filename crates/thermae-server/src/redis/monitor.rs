//! MONITOR: every command that runs, shown to those who ask for it.
//!
//! Commands for whoever runs the server are not shown, as in Redis, and neither are passwords. What is shown of a command is bounded: a command may be
//! as long as memory allows, and is kept once more for each who is shown it.

use crate::events::{Event, Events};
use crate::failure::{Failure, Result};
use crate::redis::call::Call;
use crate::redis::request::Arguments;
use crate::redis::session::Session;
use crate::redis::table::{Command, NO_KEYS, flags};
use std::io::Write;

use flags::{ADMIN, LOADING, NOSCRIPT, SKIP_MONITOR, STALE};

/// The rows.
pub static COMMANDS: &[Command] = &[Command {
    name: "monitor",
    arity: 1,
    flags: ADMIN | NOSCRIPT | LOADING | STALE,
    keys: NO_KEYS,
    categories: "admin dangerous slow",
    group: "server",
    since: "1.0.0",
    complexity: "O(1), and some time for each command that any client sends from then on",
    summary: "Shows this client every command that the server runs, until RESET.",
    syntax: "",
    run: monitor,
    subcommands: &[],
}];

/// Bytes of one argument that are shown.
const ARGUMENT_BYTES_MAX: usize = 16 << 10;
/// Bytes of a line, beyond which further arguments are counted only.
const LINE_BYTES_ENOUGH: usize = 64 << 10;

fn monitor(call: &mut Call<'_, '_>) -> Result<()> {
    if !call.space.is_plain() {
        return Err(Failure::from("ERR MONITOR isn't allowed for DENY BLOCKING client"));
    }
    // Who asks again is not answered again.
    if !call.session.monitors {
        call.session.monitors = true;
        call.session.settle();
        call.session.publish();
        call.shared.monitors.add(&call.session.client, &call.shared.attention);
        call.reply.ok();
    }
    Ok(())
}

/// Notes that a command ran, if it is one that is shown.
#[cold]
pub fn note(
    command: &Command,
    arguments: Arguments<'_>,
    session: &Session,
    now_ms: u64,
    events: &mut Events,
) {
    if !command.has(ADMIN | SKIP_MONITOR) {
        events.events.push(Event::Command(line(command, arguments, session, now_ms)));
    }
}

fn line(command: &Command, arguments: Arguments<'_>, session: &Session, now_ms: u64) -> Vec<u8> {
    let mut line = format!(
        "+{}.{:03}000 [{} {}]",
        now_ms / 1000,
        now_ms % 1000,
        session.database,
        session.client.address
    )
    .into_bytes();
    for (index, argument) in arguments.from(0).enumerate() {
        if line.len() >= LINE_BYTES_ENOUGH {
            let more = arguments.len() - index;
            line.extend_from_slice(format!(" ... ({more} more arguments)").as_bytes());
            break;
        }
        line.push(b' ');
        if is_secret(command, arguments, index) {
            line.extend_from_slice(b"\"(redacted)\"");
        } else {
            quote(argument, &mut line);
        }
    }
    line.extend_from_slice(b"\r\n");
    line
}

/// Whether an argument is a name or a password that a client says.
fn is_secret(command: &Command, arguments: Arguments<'_>, index: usize) -> bool {
    let follows_auth = |back| index >= 2 + back && arguments.at(index - back).eq_ignore_ascii_case(b"auth");
    match command.name {
        "auth" => index > 0,
        "hello" => follows_auth(1) || follows_auth(2),
        _ => false,
    }
}

/// Appends an argument in quotes, its beginning where it is long.
fn quote(argument: &[u8], line: &mut Vec<u8>) {
    let shown = &argument[..argument.len().min(ARGUMENT_BYTES_MAX)];
    line.push(b'"');
    for byte in shown {
        match byte {
            b'\\' | b'"' => line.extend_from_slice(&[b'\\', *byte]),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            b'\t' => line.extend_from_slice(b"\\t"),
            7 => line.extend_from_slice(b"\\a"),
            8 => line.extend_from_slice(b"\\b"),
            b' '..=b'~' => line.push(*byte),
            // Writing to a vector does not fail.
            _ => drop(write!(line, "\\x{byte:02x}")),
        }
    }
    line.push(b'"');
    if shown.len() < argument.len() {
        let more = argument.len() - shown.len();
        line.extend_from_slice(format!("... ({more} more bytes)").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use crate::redis::test_support::TestServer;

    /// What the client is shown, without when and by whom.
    fn shown(server: &TestServer) -> String {
        let lines = server.messages(&server.session).into_iter();
        let lines: Vec<String> =
            lines.map(|line| line.split_once("] ").unwrap().1.trim_end().to_owned()).collect();
        lines.join("|")
    }

    #[test]
    fn commands_are_shown_as_redis_shows_them() {
        let mut server = TestServer::reachable();
        server.check(&[
            ("PING", "+PONG\r\n"),
            ("MONITOR", "+OK\r\n"),
            ("MONITOR", ""),
            ("PING", "+PONG\r\n"),
        ]);
        let line = server.messages(&server.session).remove(0);
        let (at, rest) = line.split_once(' ').unwrap();
        let (seconds, fraction) = at.strip_prefix('+').unwrap().split_once('.').unwrap();
        assert!(seconds.parse::<u64>().unwrap() > 1_500_000_000 && fraction.len() == 6, "{line}");
        assert_eq!(rest, "[0 test] \"PING\"\r\n");
        let many = [&[b"echo".as_slice()][..], &[[b'x'; 9000].as_slice(); 100]].concat();
        for (words, line) in [
            (
                &[&b"echo"[..], b"a\x00\xff\"\\\r\n\t\x07\x08 ~\x7f"][..],
                r#""echo" "a\x00\xff\"\\\r\n\t\a\b ~\x7f""#,
            ),
            (&[b"echo", b""], r#""echo" """#),
            (&[b"AUTH", b"default", b"secret"], r#""AUTH" "(redacted)" "(redacted)""#),
            (&[b"hello", b"2", b"AUTH", b"a", b"b"], r#""hello" "2" "AUTH" "(redacted)" "(redacted)""#),
            (&[b"config", b"get", b"port"], ""),
            (&[b"nonsense"], ""),
            (&[b"echo"], ""),
            (&[b"get", b"a"], ""),
            (&many, ""),
        ] {
            server.call(words);
            assert_eq!(shown(&server), line);
        }
        assert_eq!(server.line("GET a"), "-ERR Replica can't interact with the keyspace\r\n");
        server.call(&[b"echo", &vec![b'x'; 16385]]);
        assert!(shown(&server).ends_with("xx\"... (1 more bytes)"));
        server.call(&[&[b"watch".as_slice()][..], &[[b'x'; 9000].as_slice(); 100]].concat());
        assert!(shown(&server).ends_with("xx\" ... (92 more arguments)"));
        server.check(&[("RESET", "+RESET\r\n"), ("PING", "+PONG\r\n"), ("GET a", "$-1\r\n")]);
        assert!(server.messages(&server.session).is_empty());
        assert_eq!(server.shared().attention.wanted(), 0);
    }

    #[test]
    fn commands_of_a_transaction_are_shown_when_they_run() {
        let mut server = TestServer::reachable();
        server.check(&[("MONITOR", "+OK\r\n"), ("MULTI", "+OK\r\n"), ("PING", "+QUEUED\r\n")]);
        server.check(&[("MONITOR", "+QUEUED\r\n"), ("SELECT 3", "+QUEUED\r\n")]);
        assert_eq!(shown(&server), r#""MULTI""#);
        let reply = "*3\r\n+PONG\r\n-ERR MONITOR isn't allowed for DENY BLOCKING client\r\n+OK\r\n";
        server.check(&[("EXEC", reply)]);
        let lines = server.messages(&server.session);
        let parts: Vec<&str> = lines.iter().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(
            parts,
            ["[0 test] \"PING\"\r\n", "[3 test] \"SELECT\" \"3\"\r\n", "[3 test] \"EXEC\"\r\n"]
        );
    }
}
