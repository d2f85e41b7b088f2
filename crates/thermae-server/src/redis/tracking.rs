//! Client-side caching: CLIENT TRACKING and its kin, which reads are noted, and who is told after a command. The table itself is in [`crate::tracking`].
//!
//! A client that tracks is not plain, so that [`before`] sees each of its commands before it is run: it is then that the keys of commands that only
//! read are noted.

use crate::attention::CHANGES;
use crate::databases::database_of;
use crate::failure::{Failure, Result};
use crate::numbers::parse_integer;
use crate::redis::call::{Call, NOT_AN_INTEGER, SYNTAX};
use crate::redis::execute;
use crate::redis::key_specs::find_keys;
use crate::redis::request::Arguments;
use crate::redis::session::Session;
use crate::redis::table::{Command, Entry, NO_KEYS, find, flags};
use crate::shared::Shared;
use crate::space::Space;
use crate::tracking::{Letters, Noted, Options, PREFIX_BYTES_MAX, PREFIXES_MAX};
use std::collections::BTreeSet;
use std::sync::Arc;

use flags::{LOADING, NOSCRIPT, STALE};

const OTHER_MODE: &str =
    "before disabling tracking for this client, and then re-enabling it with a different mode.";

/// What is said instead of the client that is told, where there is no tracking.
pub const NOT_TRACKING: i64 = -1;

/// CLIENT CACHING.
pub const CACHING: Command = Command {
    name: "caching",
    arity: 3,
    flags: NOSCRIPT | LOADING | STALE,
    keys: NO_KEYS,
    categories: "connection slow",
    group: "connection",
    since: "6.0.0",
    complexity: "O(1)",
    summary: "Has the keys of the next command noted, or not, for a connection that chooses.",
    syntax: "mode(YES | NO)",
    run: caching,
    subcommands: &[],
};

/// CLIENT GETREDIR.
pub const GETREDIR: Command = Command {
    name: "getredir",
    arity: 2,
    flags: NOSCRIPT | LOADING | STALE,
    keys: NO_KEYS,
    categories: "connection slow",
    group: "connection",
    since: "6.0.0",
    complexity: "O(1)",
    summary: "Answers which connection is told of changes instead of this one.",
    syntax: "",
    run: get_redirect,
    subcommands: &[],
};

/// CLIENT TRACKING.
pub const TRACKING: Command = Command {
    name: "tracking",
    arity: -3,
    flags: NOSCRIPT | LOADING | STALE,
    keys: NO_KEYS,
    categories: "connection slow",
    group: "connection",
    since: "6.0.0",
    complexity: "O(1), and O(N) for N prefixes",
    summary: "Has this connection told when keys change that it has read, or that have some prefixes.",
    syntax: "status(ON | OFF) [REDIRECT client-id:integer] [PREFIX prefix]... [BCAST] [OPTIN] [OPTOUT] [NOLOOP]",
    run: tracking,
    subcommands: &[],
};

/// CLIENT TRACKINGINFO.
pub const TRACKINGINFO: Command = Command {
    name: "trackinginfo",
    arity: 2,
    flags: NOSCRIPT | LOADING | STALE,
    keys: NO_KEYS,
    categories: "connection slow",
    group: "connection",
    since: "6.2.0",
    complexity: "O(1)",
    summary: "Answers how this connection is told of changes.",
    syntax: "",
    run: describe,
    subcommands: &[],
};

/// What a session knows of its tracking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caching {
    /// Which of its reads are noted.
    pub noted: Noted,
    /// CLIENT CACHING was said for the next command, or the transaction that it begins.
    pub is_given: bool,
}

/// What CLIENT TRACKING was given.
#[derive(Default)]
struct Given<'a> {
    redirect: u64,
    is_broadcast: bool,
    opts_in: bool,
    opts_out: bool,
    no_loop: bool,
    prefixes: Vec<&'a [u8]>,
}

fn tracking(call: &mut Call<'_, '_>) -> Result<()> {
    let given = parse(call)?;
    if call.is(2, "ON") {
        let options = options(call, given)?;
        let noted = options.noted;
        let shared = call.shared;
        shared.tracking.turn_on(&shared.attention, &call.session.client, options).map_err(|error| {
            Failure::text(format!(
                "ERR client-side caching needs the system call membarrier, which fails here: {error}"
            ))
        })?;
        // What others do counts from before the client is answered.
        shared.observing.begin(&shared.store);
        call.session.tracking = Some(Caching { noted, is_given: false });
        // What this transaction changes from here on counts as well.
        call.space.events.want(shared.attention.wanted());
    } else if call.is(2, "OFF") {
        turn_off(call.session, call.shared);
    } else {
        return Err(Failure::from(SYNTAX));
    }
    call.session.settle();
    call.reply.ok();
    Ok(())
}

fn parse<'a>(call: &Call<'a, '_>) -> Result<Given<'a>> {
    let mut given = Given::default();
    let mut index = 3;
    while index < call.arguments.len() {
        let has_more = index + 1 < call.arguments.len();
        if call.is(index, "REDIRECT") && has_more {
            index += 1;
            if given.redirect != 0 {
                return Err(Failure::from("ERR A client can only redirect to a single other client"));
            }
            let id = parse_integer(call.argument(index)).ok_or(NOT_AN_INTEGER)?;
            let target = u64::try_from(id).ok().and_then(|id| call.shared.clients.find(id));
            given.redirect = target.ok_or("ERR The client ID you want redirect to does not exist")?.id;
        } else if call.is(index, "BCAST") {
            given.is_broadcast = true;
        } else if call.is(index, "OPTIN") {
            given.opts_in = true;
        } else if call.is(index, "OPTOUT") {
            given.opts_out = true;
        } else if call.is(index, "NOLOOP") {
            given.no_loop = true;
        } else if call.is(index, "PREFIX") && has_more {
            index += 1;
            given.prefixes.push(call.argument(index));
        } else {
            return Err(Failure::from(SYNTAX));
        }
        index += 1;
    }
    Ok(given)
}

/// How the client is to track, if what it wants goes together, and with how it tracks now.
fn options(call: &Call<'_, '_>, given: Given<'_>) -> Result<Options> {
    let Given { redirect, is_broadcast, opts_in, opts_out, no_loop, prefixes } = given;
    let now = call.session.tracking.map(|tracking| tracking.noted);
    if !is_broadcast && !prefixes.is_empty() {
        return Err(Failure::from("ERR PREFIX option requires BCAST mode to be enabled"));
    }
    if now.is_some_and(|now| (now == Noted::None) != is_broadcast) {
        return Err(Failure::text(format!("ERR You can't switch BCAST mode on/off {OTHER_MODE}")));
    }
    if is_broadcast && (opts_in || opts_out) {
        return Err(Failure::from("ERR OPTIN and OPTOUT are not compatible with BCAST"));
    }
    if opts_in && opts_out {
        return Err(Failure::from("ERR You can't specify both OPTIN mode and OPTOUT mode"));
    }
    if (opts_in && now == Some(Noted::OptOut)) || (opts_out && now == Some(Noted::OptIn)) {
        return Err(Failure::text(format!("ERR You can't switch OPTIN/OPTOUT mode {OTHER_MODE}")));
    }
    let mut kept = BTreeSet::new();
    if is_broadcast {
        kept = call.shared.tracking.options(call.session.id).map_or(kept, |options| options.prefixes);
        add_prefixes(&mut kept, &prefixes)?;
    }
    let noted = match (is_broadcast, opts_in, opts_out) {
        (true, ..) => Noted::None,
        (_, true, _) => Noted::OptIn,
        (.., true) => Noted::OptOut,
        _ => Noted::All,
    };
    Ok(Options { noted, redirect, no_loop, prefixes: kept })
}

fn add_prefixes(kept: &mut BTreeSet<Vec<u8>>, prefixes: &[&[u8]]) -> Result<()> {
    let bytes = |prefixes: &BTreeSet<Vec<u8>>| prefixes.iter().map(Vec::len).sum::<usize>();
    let given_bytes: usize = prefixes.iter().map(|prefix| prefix.len()).sum();
    if kept.len() + prefixes.len() > PREFIXES_MAX || bytes(kept) + given_bytes > PREFIX_BYTES_MAX {
        return Err(Failure::text(format!(
            "ERR a client may have {PREFIXES_MAX} prefixes of {PREFIX_BYTES_MAX} bytes in all: name shorter ones"
        )));
    }
    let overlap = |one: &[u8], other: &[u8]| one.starts_with(other) || other.starts_with(one);
    let refused = |prefix: &[u8], which: &str, other: &[u8]| {
        let (prefix, other) = (String::from_utf8_lossy(prefix), String::from_utf8_lossy(other));
        Failure::text(format!(
            "ERR Prefix '{prefix}' overlaps with {which} prefix '{other}'. Prefixes for a single client must not overlap."
        ))
    };
    for (index, prefix) in prefixes.iter().enumerate() {
        if let Some(other) = kept.iter().find(|other| overlap(prefix, other)) {
            return Err(refused(prefix, "an existing", other));
        }
        if let Some(other) = prefixes[index + 1..].iter().find(|other| overlap(prefix, other)) {
            return Err(refused(prefix, "another provided", other));
        }
    }
    kept.extend(prefixes.iter().map(|prefix| prefix.to_vec()));
    if prefixes.is_empty() {
        kept.insert(Vec::new());
    }
    Ok(())
}

/// The client tracks no more, if it did. To be followed by [`Session::settle`].
pub fn turn_off(session: &mut Session, shared: &Shared) {
    if session.tracking.take().is_some() {
        shared.tracking.turn_off(&shared.attention, session.id);
    }
}

fn caching(call: &mut Call<'_, '_>) -> Result<()> {
    let Some(tracking) = &mut call.session.tracking else {
        return Err(Failure::from(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
        ));
    };
    let (is_right, refusal) = match call.arguments.at(2).to_ascii_lowercase().as_slice() {
        b"yes" => (
            tracking.noted == Noted::OptIn,
            "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.",
        ),
        b"no" => (
            tracking.noted == Noted::OptOut,
            "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.",
        ),
        _ => return Err(Failure::from(SYNTAX)),
    };
    if !is_right {
        return Err(Failure::from(refusal));
    }
    tracking.is_given = true;
    call.reply.ok();
    Ok(())
}

fn get_redirect(call: &mut Call<'_, '_>) -> Result<()> {
    let seen = call.shared.tracking.seen(call.session.id);
    call.reply.integer(seen.map_or(NOT_TRACKING, |seen| seen.redirect.cast_signed()));
    Ok(())
}

fn describe(call: &mut Call<'_, '_>) -> Result<()> {
    let id = call.session.id;
    let options = call.shared.tracking.options(id);
    let mut words = vec![if options.is_some() { "on" } else { "off" }];
    let is_given = call.session.tracking.is_some_and(|tracking| tracking.is_given);
    match options.as_ref().map(|options| options.noted) {
        Some(Noted::None) => words.push("bcast"),
        Some(Noted::OptIn) if is_given => words.extend(["optin", "caching-yes"]),
        Some(Noted::OptIn) => words.push("optin"),
        Some(Noted::OptOut) if is_given => words.extend(["optout", "caching-no"]),
        Some(Noted::OptOut) => words.push("optout"),
        Some(Noted::All) | None => {}
    }
    if options.as_ref().is_some_and(|options| options.no_loop) {
        words.push("noloop");
    }
    if call.shared.tracking.seen(id).is_some_and(|seen| seen.is_broken) {
        words.push("broken_redirect");
    }
    let reply = &mut call.reply;
    reply.map(3);
    reply.bulk(b"flags");
    reply.set(words.len());
    words.iter().for_each(|word| reply.bulk(word.as_bytes()));
    reply.bulk(b"redirect");
    reply.integer(options.as_ref().map_or(NOT_TRACKING, |options| options.redirect.cast_signed()));
    reply.bulk(b"prefixes");
    let prefixes = options.map(|options| options.prefixes).unwrap_or_default();
    reply.array(prefixes.len());
    prefixes.iter().for_each(|prefix| reply.bulk(prefix));
    Ok(())
}

/// A command of a client that tracks is about to be run, or to be queued.
pub fn before(command: &Entry, arguments: Arguments<'_>, session: &mut Session, shared: &Shared) {
    if session.queue.is_none() {
        note_reads(command, arguments, session, shared);
        // What a transaction begins with holds for all of it.
        if !is_of_clients(command) && command.name != "multi" {
            forget_caching(session);
        }
    }
}

/// A command was refused that might have been the one that CLIENT CACHING was for.
pub fn refused(arguments: Arguments<'_>, session: &mut Session) {
    let is_of_clients = || {
        let container = find(arguments.at(0)).filter(|command| command.name == "client");
        arguments.len() > 1 && container.is_some_and(|client| client.subcommand(arguments.at(1)).is_some())
    };
    if session.tracking.is_some() && session.queue.is_none() && !is_of_clients() {
        forget_caching(session);
    }
}

/// What CLIENT CACHING was for is over.
pub fn forget_caching(session: &mut Session) {
    if let Some(tracking) = &mut session.tracking {
        tracking.is_given = false;
    }
}

fn is_of_clients(command: &Entry) -> bool {
    command.container.is_some_and(|container| container.name == "client")
}

/// A command is about to be run: what a client that tracks will read of it is noted.
pub fn note_reads(command: &Entry, arguments: Arguments<'_>, session: &Session, shared: &Shared) {
    let Some(Caching { noted, is_given }) = session.tracking else { return };
    let is_wanted = match noted {
        Noted::All => true,
        Noted::OptIn => is_given,
        Noted::OptOut => !is_given,
        Noted::None => false,
    };
    if !is_wanted || !command.has(flags::READONLY) {
        return;
    }
    let note = |index| {
        let letters = shared.tracking.note(&shared.clients, arguments.at(index), session.id);
        shared.post(letters);
    };
    if command.has(flags::MOVABLEKEYS) {
        let keys = find_keys(&command.full_name, arguments).unwrap_or_default();
        keys.into_iter().for_each(|(index, _)| note(index));
    } else if let Ok(first @ 1..) = usize::try_from(command.keys.first) {
        let last = match usize::try_from(command.keys.last) {
            Ok(last) => last,
            Err(_) => arguments.len() - command.keys.last.unsigned_abs() as usize,
        };
        (first..=last).step_by(command.keys.step.unsigned_abs() as usize).for_each(note);
    }
}

/// Tells those who have to know what a command has changed; the client that called it learns of that behind its reply.
pub fn tell(
    arguments: Arguments<'_>,
    session: &Session,
    space: &Space<'_>,
    shared: &Shared,
    output: &mut Vec<u8>,
) {
    let events = &space.events;
    let letters = if events.is_flushed || changed_unseen(arguments, space, shared) {
        shared.tracking.flushed(&shared.clients)
    } else if events.changed.is_empty() {
        return;
    } else {
        let keys = events.changed.iter().map(|stored| database_of(stored).1);
        shared.tracking.changed(&shared.clients, keys, Some(session.id))
    };
    let (own, others): (Letters, Letters) =
        letters.into_iter().partition(|(client, _)| Arc::ptr_eq(client, &session.client));
    own.iter().for_each(|(_, bytes)| output.extend_from_slice(bytes));
    shared.post(others);
}

/// Whether the command may have changed keys of which nothing was collected, since nobody tracked when it began.
fn changed_unseen(arguments: Arguments<'_>, space: &Space<'_>, shared: &Shared) -> bool {
    let is_late = shared.attention.wanted_now() & CHANGES != 0 && !space.events.wants(CHANGES);
    is_late
        && execute::find(arguments)
            .is_ok_and(|command| !command.has(flags::READONLY) && command.group != "connection")
}

/// How a client tracks, for a transaction that may have to be run again.
#[derive(Debug, PartialEq, Eq)]
pub struct Before {
    caching: Option<Caching>,
    options: Option<Options>,
}

impl Before {
    /// As it is now.
    pub fn new(session: &Session, shared: &Shared) -> Self {
        let options = session.tracking.and_then(|_| shared.tracking.options(session.id));
        Self { caching: session.tracking, options }
    }

    /// Takes back what commands have changed about it.
    pub fn restore(&self, session: &mut Session, shared: &Shared) {
        if *self != Self::new(session, shared) {
            turn_off(session, shared);
            session.tracking = self.caching;
            if let Some(options) = &self.options {
                // It worked the first time.
                let _ = shared.tracking.turn_on(&shared.attention, &session.client, options.clone());
                shared.observing.begin(&shared.store);
                // What was noted may have been forgotten meanwhile.
                shared.invalidate_all();
            }
            session.settle();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::channels::Kind;
    use crate::redis::test_support::TestServer;
    use std::sync::Arc;

    const BROADCAST: &str = "-ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a different mode.\r\n";
    const CHOICE: &str = "-ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a different mode.\r\n";

    fn invalidate(key: &str) -> String {
        format!(">2\r\n$10\r\ninvalidate\r\n*1\r\n${}\r\n{key}\r\n", key.len())
    }

    /// A client of RESP3.
    fn server() -> TestServer {
        let mut server = TestServer::new();
        server.shared().clients.add(&server.session.client);
        server.line("HELLO 3");
        server
    }

    /// It was looked whether the client that is told listens, and written to it later: between the two it could have ended its subscriptions.
    #[test]
    fn who_listens_no_more_is_not_told_in_the_old_protocol() {
        let server = TestServer::reachable();
        let shared = server.shared();
        let (listens, talks) = (server.client(2), server.client(3));
        let names = [&b"__redis__:invalidate"[..]];
        shared
            .channels
            .subscribe(&listens.client, Kind::Channel, names.into_iter(), &shared.attention)
            .unwrap();
        let message = b"*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*0\r\n";
        let push = b">2\r\n$10\r\ninvalidate\r\n*0\r\n";
        for bytes in [&message[..], push] {
            let letters = [&listens, &talks].map(|session| (Arc::clone(&session.client), bytes.to_vec()));
            shared.post(letters.into());
        }
        assert_eq!(server.messages(&listens).len(), 2);
        assert_eq!(server.messages(&talks), [String::from_utf8_lossy(push)]);
    }

    #[test]
    fn replies_are_those_of_redis() {
        let no_client = "-ERR The client ID you want redirect to does not exist\r\n";
        let not_tracking = "-ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled\r\n";
        let only_yes = "-ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.\r\n";
        let only_no = "-ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.\r\n";
        server().check(&[
            ("CLIENT TRACKING", "-ERR wrong number of arguments for 'client|tracking' command\r\n"),
            ("CLIENT TRACKING foo", "-ERR syntax error\r\n"),
            ("CLIENT TRACKING ON foo", "-ERR syntax error\r\n"),
            ("CLIENT TRACKING ON REDIRECT", "-ERR syntax error\r\n"),
            ("CLIENT TRACKING ON PREFIX", "-ERR syntax error\r\n"),
            ("CLIENT TRACKING ON REDIRECT x", "-ERR value is not an integer or out of range\r\n"),
            ("CLIENT TRACKING ON REDIRECT 0", no_client),
            ("CLIENT TRACKING ON REDIRECT -1", no_client),
            ("CLIENT TRACKING OFF REDIRECT 99", no_client),
            (
                "CLIENT TRACKING ON REDIRECT 1 REDIRECT 1",
                "-ERR A client can only redirect to a single other client\r\n",
            ),
            ("CLIENT TRACKING ON PREFIX a", "-ERR PREFIX option requires BCAST mode to be enabled\r\n"),
            ("CLIENT TRACKING ON BCAST OPTIN", "-ERR OPTIN and OPTOUT are not compatible with BCAST\r\n"),
            ("CLIENT TRACKING ON OPTIN OPTOUT", "-ERR You can't specify both OPTIN mode and OPTOUT mode\r\n"),
            ("CLIENT GETREDIR", ":-1\r\n"),
            ("CLIENT CACHING YES", not_tracking),
            ("CLIENT CACHING foo", not_tracking),
            ("CLIENT TRACKING OFF BCAST OPTIN", "+OK\r\n"),
            ("CLIENT TRACKING ON OPTIN", "+OK\r\n"),
            ("CLIENT GETREDIR", ":0\r\n"),
            ("CLIENT CACHING foo", "-ERR syntax error\r\n"),
            ("CLIENT CACHING NO", only_no),
            ("CLIENT TRACKING ON OPTOUT", CHOICE),
            ("CLIENT TRACKING ON BCAST", BROADCAST),
            ("CLIENT TRACKING ON NOLOOP", "+OK\r\n"),
            ("CLIENT CACHING YES", only_yes),
            ("CLIENT TRACKING ON OPTOUT REDIRECT 1", "+OK\r\n"),
            ("CLIENT GETREDIR", ":1\r\n"),
            ("CLIENT TRACKING ON OPTIN", CHOICE),
            ("CLIENT CACHING NO", "+OK\r\n"),
            ("CLIENT TRACKING off", "+OK\r\n"),
            ("CLIENT GETREDIR", ":-1\r\n"),
        ]);
    }

    #[test]
    fn prefixes_of_one_client_do_not_overlap() {
        let overlap = |prefix: &str, which: &str, other: &str| {
            format!(
                "-ERR Prefix '{prefix}' overlaps with {which} prefix '{other}'. Prefixes for a single client must not overlap.\r\n"
            )
        };
        let mut server = server();
        server.check(&[
            ("CLIENT TRACKING ON BCAST PREFIX a PREFIX ab", &overlap("a", "another provided", "ab")),
            ("CLIENT TRACKING ON BCAST PREFIX ab PREFIX ab", &overlap("ab", "another provided", "ab")),
            ("CLIENT TRACKING ON BCAST PREFIX b PREFIX a", "+OK\r\n"),
            ("CLIENT TRACKING ON BCAST PREFIX c PREFIX ax", &overlap("ax", "an existing", "a")),
            ("CLIENT TRACKING ON BCAST PREFIX a", &overlap("a", "an existing", "a")),
            ("CLIENT TRACKING ON", BROADCAST),
            ("CLIENT TRACKING ON BCAST PREFIX c NOLOOP", "+OK\r\n"),
            (
                "CLIENT TRACKINGINFO",
                "%3\r\n$5\r\nflags\r\n~3\r\n$2\r\non\r\n$5\r\nbcast\r\n$6\r\nnoloop\r\n$8\r\nredirect\r\n:0\r\n$8\r\nprefixes\r\n*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n",
            ),
            ("CLIENT TRACKING ON BCAST", "+OK\r\n"),
            ("SET z 1", &format!("+OK\r\n{}", invalidate("z"))),
        ]);
        assert!(server.line("INFO stats").contains("tracking_total_prefixes:4\r\n"));
        server.check(&[("CLIENT TRACKING OFF", "+OK\r\n"), ("SET z 1", "+OK\r\n")]);
        let mut words = vec![&b"CLIENT"[..], b"TRACKING", b"ON", b"BCAST"];
        let prefixes: Vec<String> = (10_000..11_025).map(|number| number.to_string()).collect();
        prefixes.iter().for_each(|prefix| words.extend([b"PREFIX", prefix.as_bytes()]));
        let refusal = "-ERR a client may have 1024 prefixes of 65536 bytes in all: name shorter ones\r\n";
        assert_eq!(server.call(&words), refusal.as_bytes());
        let long = vec![b'x'; (64 << 10) + 1];
        assert_eq!(
            server.call(&[b"CLIENT", b"TRACKING", b"ON", b"BCAST", b"PREFIX", &long]),
            refusal.as_bytes()
        );
        words.truncate(words.len() - 2);
        assert_eq!(server.call(&words), b"+OK\r\n");
    }

    #[test]
    fn what_was_read_is_told_once_behind_the_reply() {
        let ok = |keys: &[&str]| {
            let told: String = keys.iter().map(|key| invalidate(key)).collect();
            format!("+OK\r\n{told}")
        };
        server().check(&[
            ("CLIENT TRACKING ON", "+OK\r\n"),
            ("SET a 1", "+OK\r\n"),
            ("GET a", "$1\r\n1\r\n"),
            ("SET a 2", &ok(&["a"])),
            ("SET a 3", "+OK\r\n"),
            ("MGET a b c", "*3\r\n$1\r\n3\r\n_\r\n_\r\n"),
            ("SET a 4 XX", &ok(&["a"])),
            ("SET b 4 XX", "_\r\n"),
            ("MSET b 1 a 2 c 3", &ok(&["b", "c"])),
            ("EXISTS b c", ":2\r\n"),
            ("RENAME b c", &ok(&["b", "c"])),
            // Keys count without their database.
            ("GET a", "$1\r\n2\r\n"),
            ("SELECT 1", "+OK\r\n"),
            ("SET a 1", &ok(&["a"])),
            ("SORT_RO a", "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"),
            ("DEL a", &format!(":1\r\n{}", invalidate("a"))),
            ("GET a", "_\r\n"),
            ("CLIENT REPLY OFF", ""),
            ("SET a 1", &invalidate("a")),
            ("CLIENT REPLY ON", "+OK\r\n"),
            ("CLIENT TRACKING ON NOLOOP", "+OK\r\n"),
            ("GET a", "$1\r\n1\r\n"),
            ("SET a 1", "+OK\r\n"),
            ("GET a", "$1\r\n1\r\n"),
            ("FLUSHDB", "+OK\r\n>2\r\n$10\r\ninvalidate\r\n_\r\n"),
            ("FLUSHALL", "+OK\r\n>2\r\n$10\r\ninvalidate\r\n_\r\n"),
        ]);
    }

    #[test]
    fn a_client_chooses_what_is_noted() {
        let told = format!("+OK\r\n{}", invalidate("a"));
        server().check(&[
            ("CLIENT TRACKING ON OPTIN", "+OK\r\n"),
            ("GET a", "_\r\n"),
            ("SET a 1", "+OK\r\n"),
            ("CLIENT CACHING YES", "+OK\r\n"),
            ("CLIENT GETNAME", "_\r\n"),
            (
                "CLIENT TRACKINGINFO",
                "%3\r\n$5\r\nflags\r\n~3\r\n$2\r\non\r\n$5\r\noptin\r\n$11\r\ncaching-yes\r\n$8\r\nredirect\r\n:0\r\n$8\r\nprefixes\r\n*0\r\n",
            ),
            ("GET a", "$1\r\n1\r\n"),
            ("GET b", "_\r\n"),
            ("MSET b 1 a 1", &told),
            // Whatever comes next uses it up, errors as well.
            ("CLIENT CACHING YES", "+OK\r\n"),
            ("GET", "-ERR wrong number of arguments for 'get' command\r\n"),
            ("GET a", "$1\r\n1\r\n"),
            ("SET a 1", "+OK\r\n"),
            ("CLIENT CACHING YES", "+OK\r\n"),
            ("CLIENT CACHING", "-ERR wrong number of arguments for 'client|caching' command\r\n"),
            ("GET a", "$1\r\n1\r\n"),
            ("SET a 1", &told),
            ("CLIENT TRACKING OFF", "+OK\r\n"),
            ("CLIENT TRACKING ON OPTOUT", "+OK\r\n"),
            ("CLIENT CACHING NO", "+OK\r\n"),
            ("GET a", "$1\r\n1\r\n"),
            ("SET a 1", "+OK\r\n"),
            ("GET a", "$1\r\n1\r\n"),
            ("SET a 1", &told),
        ]);
    }

    #[test]
    fn a_choice_before_a_transaction_is_for_all_of_it() {
        let told = format!("+OK\r\n{}", invalidate("b"));
        server().check(&[
            ("CLIENT TRACKING ON OPTIN", "+OK\r\n"),
            ("CLIENT CACHING YES", "+OK\r\n"),
            ("MULTI", "+OK\r\n"),
            ("GET a", "+QUEUED\r\n"),
            ("GET b", "+QUEUED\r\n"),
            ("SET a 1", "+QUEUED\r\n"),
            ("EXEC", &format!("*3\r\n_\r\n_\r\n+OK\r\n{}", invalidate("a"))),
            ("SET b 1", &told),
            ("CLIENT CACHING YES", "+OK\r\n"),
            ("MULTI", "+OK\r\n"),
            ("GET b", "+QUEUED\r\n"),
            ("DISCARD", "+OK\r\n"),
            ("GET b", "$1\r\n1\r\n"),
            ("SET b 1", "+OK\r\n"),
            // Within it, it holds to its end.
            ("MULTI", "+OK\r\n"),
            ("GET a", "+QUEUED\r\n"),
            ("CLIENT CACHING YES", "+QUEUED\r\n"),
            ("GET b", "+QUEUED\r\n"),
            ("EXEC", "*3\r\n$1\r\n1\r\n+OK\r\n$1\r\n1\r\n"),
            ("SET a 1", "+OK\r\n"),
            ("SET b 1", &told),
            ("GET b", "$1\r\n1\r\n"),
            ("SET b 1", "+OK\r\n"),
            ("CLIENT TRACKING OFF", "+OK\r\n"),
            // What it changes after it was turned on is told, although nobody tracked when it began.
            ("MULTI", "+OK\r\n"),
            ("CLIENT TRACKING ON", "+QUEUED\r\n"),
            ("GET b", "+QUEUED\r\n"),
            ("SET b 2", "+QUEUED\r\n"),
            ("EXEC", &format!("*3\r\n+OK\r\n$1\r\n1\r\n+OK\r\n{}", invalidate("b"))),
            ("GET a", "$1\r\n1\r\n"),
            ("MULTI", "+OK\r\n"),
            ("FLUSHALL", "+QUEUED\r\n"),
            ("SET a 1", "+QUEUED\r\n"),
            ("EXEC", "*2\r\n+OK\r\n+OK\r\n>2\r\n$10\r\ninvalidate\r\n_\r\n"),
        ]);
    }

    #[test]
    fn what_a_client_tracks_ends_with_reset_and_with_it() {
        let mut server = server();
        server.line("CLIENT TRACKING ON BCAST PREFIX a REDIRECT 1");
        let line = server.line("CLIENT LIST");
        assert!(line.contains(" flags=tB ") && line.contains(" redir=1 "), "{line}");
        assert!(server.line("INFO clients").contains("tracking_clients:1\r\n"));
        assert_eq!(server.line("RESET"), "+RESET\r\n");
        let line = server.line("CLIENT LIST");
        assert!(line.contains(" flags=N ") && line.contains(" redir=-1 "), "{line}");
        assert!(server.session.is_plain);
        server.line("CLIENT TRACKING ON");
        server.line("GET a");
        assert!(server.line("INFO stats").contains("tracking_total_keys:1\r\ntracking_total_items:1\r\n"));
        assert!(!server.session.is_plain);
        let shared = server.shared();
        let mut session = crate::redis::session::Session::of(server.session.client.clone(), true);
        session.tracking = server.session.tracking;
        session.leave(shared);
        assert_eq!(shared.tracking.totals().clients, 0);
        assert_eq!(shared.attention.wanted_now(), 0);
    }

    #[test]
    fn the_tables_limit_is_configured() {
        let mut server = server();
        let refused = |reason: &str| {
            format!(
                "-ERR CONFIG SET failed (possibly related to argument 'tracking-table-max-keys') - {reason}\r\n"
            )
        };
        server.check(&[
            ("CONFIG GET tracking*", "%1\r\n$23\r\ntracking-table-max-keys\r\n$7\r\n1000000\r\n"),
            (
                "CONFIG SET tracking-table-max-keys -1",
                &refused("argument must be between 0 and 9223372036854775807 inclusive"),
            ),
            ("CONFIG SET tracking-table-max-keys x", &refused("argument couldn't be parsed into an integer")),
            ("CLIENT TRACKING ON", "+OK\r\n"),
            ("MGET a b c d", "*4\r\n_\r\n_\r\n_\r\n_\r\n"),
            ("CONFIG SET tracking-table-max-keys 2", "+OK\r\n"),
        ]);
        assert!(server.line("INFO stats").contains("tracking_total_keys:2\r\n"));
    }

    #[test]
    fn a_transaction_that_is_run_again_tracks_as_it_did_before() {
        let mut server = server();
        server.line("CLIENT TRACKING ON OPTIN");
        let before = super::Before::new(&server.session, server.shared());
        server.line("CLIENT TRACKING OFF");
        server.line("CLIENT TRACKING ON BCAST PREFIX a");
        let mut session = crate::redis::session::Session::of(server.session.client.clone(), true);
        session.tracking = server.session.tracking;
        before.restore(&mut session, server.shared());
        assert_eq!(super::Before::new(&session, server.shared()), before);
        assert_eq!(server.shared().tracking.totals().prefixes, 0);
        assert!(!session.is_plain);
    }
}
