//! The way of a command: found in the table, checked, queued or run, answered.

use crate::attention::{self, COMMANDS};
use crate::failure::Failure;
use crate::glob::Budget;
use crate::latency::Moment;
use crate::redis::call::Call;
use crate::redis::client;
use crate::redis::diagnostics::note_slow;
use crate::redis::pubsub::is_about_subscriptions;
use crate::redis::reply::Reply;
use crate::redis::request::{Arguments, OwnedArguments};
use crate::redis::rights::{self, Denied};
use crate::redis::session::{ReplyMode, Session};
use crate::redis::table::{self, Command, Entry, flags};
use crate::redis::{monitor, telling, tracking};
use crate::refusals::{Reason, Refusal};
use crate::shared::Shared;
use crate::space::Space;
use crate::spikes;
use crate::users::User;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

/// Most bytes of commands that wait for EXEC, with what it takes to keep them.
const QUEUED_BYTES_MAX: usize = 64 << 20;
/// What it takes to keep a command: its place in a list that may be half empty.
const QUEUED_COMMAND_BYTES: usize = 2 * size_of::<OwnedArguments>();
/// And an argument of it.
const QUEUED_ARGUMENT_BYTES: usize = 16;
/// A command that is found to have taken so long was its client's turn.
const TURN_NANOSECONDS: u64 = 1_000_000;
/// Most bytes of what a client sent that an error shows.
const SHOWN_BYTES_MAX: usize = 128;

/// Executes one command, appending its reply to `output`.
#[inline]
pub fn execute(
    arguments: Arguments<'_>,
    session: &mut Session,
    space: &mut Space<'_>,
    shared: &Shared,
    output: &mut Vec<u8>,
) {
    let start = output.len();
    let mode = session.reply_mode;
    let wanted = shared.attention.wanted();
    space.events.want(wanted);
    let ran = match find(arguments) {
        Ok(command) => {
            let is_plain = session.is_plain && wanted & attention::USERS == 0;
            execute_found(command, arguments, is_plain, session, space, shared, output).then_some(command)
        }
        Err(failure) => {
            refuse(arguments, session, &failure, shared, output);
            None
        }
    };
    if mode != ReplyMode::On || session.reply_mode != ReplyMode::On {
        keep_silent(session, mode, ran, start, output);
    }
    let wanted_now = shared.attention.wanted_now();
    if wanted | wanted_now != 0
        && (wanted != wanted_now || wanted & COMMANDS != 0 || !space.events.is_empty())
    {
        if let Some(command) = ran {
            note_command(command, arguments, session, space);
        }
        tell(arguments, session, space, shared, output);
    }
}

/// Notes that a command ran, where somebody wants to know.
#[inline]
pub fn note_command(command: &Command, arguments: Arguments<'_>, session: &Session, space: &mut Space<'_>) {
    if space.events.wants(COMMANDS) {
        let now_ms = space.now_ms();
        monitor::note(command, arguments, session, now_ms, &mut space.events);
    }
}

/// Tells those who want to know what the command did.
#[cold]
fn tell(
    arguments: Arguments<'_>,
    session: &Session,
    space: &mut Space<'_>,
    shared: &Shared,
    output: &mut Vec<u8>,
) {
    tracking::tell(arguments, session, space, shared, output);
    telling::tell(shared, &space.events);
    space.events.clear();
}

/// Drops a reply that the client does not want. The command that asked for silence is silent itself; what one is subscribed to is no reply.
#[cold]
fn keep_silent(
    session: &mut Session,
    before: ReplyMode,
    ran: Option<&Entry>,
    start: usize,
    output: &mut Vec<u8>,
) {
    if session.emptying.is_some() {
        // Its reply is still to come.
        return;
    }
    if session.reply_mode != ReplyMode::On && !ran.is_some_and(|command| is_about_subscriptions(command)) {
        output.truncate(start);
    }
    session.reply_mode = match (before, session.reply_mode) {
        (ReplyMode::SkipNext, ReplyMode::SkipNext) => ReplyMode::On,
        (_, mode) => mode,
    };
}

/// The row of a command that may be called with these arguments.
///
/// # Errors
/// There is none, or not with so many arguments.
#[inline]
pub fn find(arguments: Arguments<'_>) -> Result<&'static Entry, Failure> {
    let Some(command) = table::find(arguments.at(0)) else { return Err(unknown_command(arguments)) };
    if command.subcommands.is_empty() || arguments.len() < 2 {
        return if command.takes(arguments.len()) { Ok(command) } else { Err(wrong_number(command.name)) };
    }
    match command.subcommand(arguments.at(1)) {
        Some(subcommand) if subcommand.takes(arguments.len()) => Ok(subcommand),
        Some(subcommand) => Err(wrong_number(&subcommand.full_name)),
        None => Err(Failure::text(format!(
            "ERR unknown subcommand '{}'. Try {} HELP.",
            shown(arguments.at(1)),
            command.name.to_ascii_uppercase()
        ))),
    }
}

fn wrong_number(name: &str) -> Failure {
    Failure::text(format!("ERR wrong number of arguments for '{name}' command"))
}

#[cold]
fn unknown_command(arguments: Arguments<'_>) -> Failure {
    let mut beginning = String::new();
    for argument in arguments.from(1) {
        if beginning.len() >= SHOWN_BYTES_MAX {
            break;
        }
        let left = SHOWN_BYTES_MAX - beginning.len();
        beginning.push_str(&format!("'{}' ", shown(&argument[..argument.len().min(left)])));
    }
    Failure::text(format!(
        "ERR unknown command '{}', with args beginning with: {beginning}",
        shown(arguments.at(0))
    ))
}

/// What a client sent, as an error may show it: up to a zero byte, at which Redis takes it to end.
fn shown(bytes: &[u8]) -> String {
    // No more than that is looked at, however much a stranger sends.
    let bytes = &bytes[..bytes.len().min(SHOWN_BYTES_MAX)];
    String::from_utf8_lossy(bytes.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned()
}

/// The row that a command is counted in which may not be called.
fn meant(arguments: Arguments<'_>) -> Option<&'static Entry> {
    let command = table::find(arguments.at(0))?;
    if command.subcommands.is_empty() || arguments.len() < 2 {
        return Some(command);
    }
    command.subcommand(arguments.at(1))
}

#[cold]
fn refuse(
    arguments: Arguments<'_>,
    session: &mut Session,
    failure: &Failure,
    shared: &Shared,
    output: &mut Vec<u8>,
) {
    let mut line = failure.line();
    if arguments.at(0).eq_ignore_ascii_case(b"exec") {
        // An EXEC that can't be is the end of its transaction all the same.
        session.queue = None;
        session.watched = HashMap::new();
        let reason = line.strip_prefix("ERR ").unwrap_or(&line);
        line = Cow::Owned(format!("EXECABORT Transaction discarded because of: {reason}"));
    } else if let Some(queue) = &mut session.queue {
        queue.is_refused = true;
    }
    tracking::refused(arguments, session);
    let counts = session.counts(shared);
    counts.note_error(&line);
    if let Some(command) = meant(arguments) {
        counts.commands.of(command.number).rejected.add(1);
    }
    // The next command does not begin where the last one ended.
    session.began = None;
    Reply::new(output, session.is_resp3).error(&line);
}

/// Whether the command ran, and to its end: it may be refused, or be queued.
#[inline]
fn execute_found(
    command: &'static Entry,
    arguments: Arguments<'_>,
    is_plain: bool,
    session: &mut Session,
    space: &mut Space<'_>,
    shared: &Shared,
    output: &mut Vec<u8>,
) -> bool {
    if !is_plain && let Err(failure) = admit(command, arguments, session, shared) {
        refuse(arguments, session, &failure, shared, output);
        return false;
    }
    session.last_command = Some(command);
    if session.queue.is_some() && !is_of_transactions(command) {
        if command.has(flags::NO_MULTI) {
            let failure = Failure::from("ERR Command not allowed inside a transaction");
            refuse(arguments, session, &failure, shared, output);
            return false;
        }
        // As in Redis, what can't be executed any more is not kept either.
        if let Some(queue) = session.queue.as_deref_mut().filter(|queue| !queue.is_refused) {
            queue.bytes += queued_bytes(arguments);
            if queue.bytes > QUEUED_BYTES_MAX {
                (queue.commands, queue.bytes) = (Vec::new(), 0);
                let failure = Failure::from("ERR the transaction's commands take more than 64 MiB: split it");
                refuse(arguments, session, &failure, shared, output);
                return false;
            }
            queue.commands.push(arguments.into());
        }
        session.began = None;
        Reply::new(output, session.is_resp3).status("QUEUED");
        return false;
    }
    run(command, arguments, session, space, shared, output)
}

/// What a command takes that waits for EXEC.
fn queued_bytes(arguments: Arguments<'_>) -> usize {
    let bytes: usize = arguments.from(0).map(|argument| argument.len() + QUEUED_ARGUMENT_BYTES).sum();
    bytes + QUEUED_COMMAND_BYTES
}

/// Whether a client that is not [`Session::is_plain`] may run this command now; what has to be known of it is noted.
///
/// # Errors
/// Why it may not.
#[cold]
fn admit(
    command: &'static Entry,
    arguments: Arguments<'_>,
    session: &mut Session,
    shared: &Shared,
) -> Result<(), Failure> {
    if session.emptying.is_some() {
        // It was admitted when it began, and is not half done because of what changed since.
        return Ok(());
    }
    session.refresh(shared);
    if !session.is_authenticated && !command.has(flags::NO_AUTH) && !is_open(session, shared) {
        return Err(Failure::from("NOAUTH Authentication required."));
    }
    if !session.is_unlimited {
        let checked = rights::check(&session.user, command, arguments);
        checked.map_err(|denied| {
            let is_in_transaction = session.queue.is_some();
            session.last_command = Some(command);
            note_denied(denied, is_in_transaction, command, arguments, session, shared);
            not_permitted(denied, command)
        })?;
    }
    if session.only_listens()
        && !is_about_subscriptions(command)
        && !(command.group == "connection" && matches!(command.name, "ping" | "quit" | "reset"))
    {
        return Err(Failure::text(format!(
            "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
            command.full_name
        )));
    }
    if session.monitors && (command.has(flags::READONLY | flags::WRITE) || is_publishing(command)) {
        return Err(Failure::from("ERR Replica can't interact with the keyspace"));
    }
    tracking::before(command, arguments, session, shared);
    Ok(())
}

/// The error for what a user may not do.
fn not_permitted(denied: Denied, command: &Entry) -> Failure {
    match denied {
        Denied::Command => Failure::text(format!(
            "NOPERM this user has no permissions to run the '{}' command",
            command.full_name
        )),
        Denied::Key(_) => {
            Failure::from("NOPERM this user has no permissions to access one of the keys used as arguments")
        }
        Denied::Channel(_) => Failure::from(
            "NOPERM this user has no permissions to access one of the channels used as arguments",
        ),
    }
}

/// Whether a command that was queued may still be run: what its client may do can have changed since, and the transaction itself can have done it.
/// Where neither has, the check that it passed when it was queued holds. All commands of a transaction have one budget for patterns.
///
/// # Errors
/// What is at fault.
pub fn admit_queued(
    command: &Entry,
    arguments: Arguments<'_>,
    queued_by: &Arc<User>,
    session: &mut Session,
    shared: &Shared,
    budget: &mut Budget,
) -> Result<(), Denied> {
    if session.is_plain && shared.attention.wanted() & attention::USERS == 0 {
        return Ok(());
    }
    session.refresh(shared);
    // Its user may be no more: then it is nobody, and has no rights of others.
    if !session.is_authenticated {
        return Err(Denied::Command);
    }
    // A user who is changed is a new one in the old one's place.
    if session.is_unlimited || Arc::ptr_eq(&session.user, queued_by) {
        return Ok(());
    }
    rights::check_within(budget, &session.user, command, arguments)
}

/// Puts a refusal into the log of them.
pub fn note_denied(
    denied: Denied,
    is_in_transaction: bool,
    command: &Entry,
    arguments: Arguments<'_>,
    session: &mut Session,
    shared: &Shared,
) {
    let (reason, object) = match denied {
        Denied::Command => (Reason::Command, command.full_name.as_bytes()),
        Denied::Key(index) => (Reason::Key, arguments.at(index)),
        Denied::Channel(index) => (Reason::Channel, arguments.at(index)),
    };
    let now_ms = shared.store.now_ms();
    let mut refusal = Refusal::new(reason, is_in_transaction, object, &session.user.name, now_ms);
    refusal.client = client::line_of(session, shared, now_ms);
    shared.refusals.note(refusal);
}

/// Whether it is a command that Redis would replicate although it changes no key.
fn is_publishing(command: &Command) -> bool {
    command.group == "pubsub" && matches!(command.name, "publish" | "spublish")
}

/// Whether a client that has not said who it is need not any more, the password having been taken away meanwhile.
fn is_open(session: &mut Session, shared: &Shared) -> bool {
    if !session.closes && shared.users.default_user().is_open() {
        session.become_nobody(shared);
    }
    session.is_authenticated
}

fn is_of_transactions(command: &Command) -> bool {
    matches!(
        (command.group, command.name),
        ("transactions", "exec" | "discard" | "multi" | "watch") | ("connection", "quit" | "reset")
    )
}

/// Runs a command that nothing speaks against. Whether it has ended.
#[inline]
pub fn run(
    command: &'static Entry,
    arguments: Arguments<'_>,
    session: &mut Session,
    space: &mut Space<'_>,
    shared: &Shared,
    output: &mut Vec<u8>,
) -> bool {
    let start = output.len();
    let is_resp3 = session.is_resp3;
    let began = session.began.take().or_else(|| shared.latency.is_timed().then(Moment::now));
    let usage = session.counts(shared).commands.of(command.number);
    let mut call = Call { command, arguments, reply: Reply::new(output, is_resp3), session, space, shared };
    if let Err(failure) = (command.run)(&mut call) {
        if matches!(failure, Failure::Unfinished) {
            suspend(call.session, began);
            return false;
        }
        let line = failure.line();
        call.reply.take_back(start);
        call.reply.error(&line);
        call.session.counts(shared).note_error(&line);
        usage.failed.add(1);
    }
    usage.calls.add(1);
    if let Some(began) = began {
        let ended = Moment::now();
        let took_nanoseconds = ended.since(began);
        call.session.began = Some(ended);
        if shared.latency.is_tracked() {
            usage.note_time(took_nanoseconds);
        }
        if shared.latency.is_noted(took_nanoseconds) {
            note_long(&mut call, took_nanoseconds);
        }
    }
    true
}

/// The command goes on in its client's next turn, from what the session keeps of it; it took as long as that takes, too.
#[cold]
fn suspend(session: &mut Session, began: Option<Moment>) {
    session.ends_turn = true;
    if let Some(emptying) = &mut session.emptying {
        emptying.began = began;
    }
}

/// A command took so long that the slow log, or who watches for spikes, wants to know of it.
#[cold]
fn note_long(call: &mut Call<'_, '_>, nanoseconds: u64) {
    call.session.ends_turn |= nanoseconds >= TURN_NANOSECONDS;
    if let Some(microseconds) = call.shared.slow_log.noteworthy(nanoseconds) {
        note_slow(call, microseconds);
    }
    let event = if call.command.has(flags::FAST) { spikes::FAST_COMMAND } else { spikes::COMMAND };
    call.shared.spikes.note(event, nanoseconds / 1_000_000, call.space.now_ms() / 1000);
    // The time that this took is not the next command's.
    call.session.began = None;
}
