//! The way of a command: found in the table, checked, queued or run, answered.

use crate::failure::Failure;
use crate::redis::call::Call;
use crate::redis::diagnostics::note_slow;
use crate::redis::reply::Reply;
use crate::redis::request::Arguments;
use crate::redis::session::{ReplyMode, Session};
use crate::redis::table::{self, Command, Entry, flags};
use crate::shared::Shared;
use crate::space::Space;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::PoisonError;

/// Most bytes of commands that wait for EXEC, an argument counting for some more than it is long.
const QUEUED_BYTES_MAX: usize = 64 << 20;
const ARGUMENT_BYTES: usize = 16;
/// A command that is found to have taken so long was its client's turn.
const TURN_MICROSECONDS: i64 = 1_000;
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
    match find(arguments) {
        Ok(command) => execute_found(command, arguments, session, space, shared, output),
        Err(failure) => refuse(arguments, session, &failure, shared, output),
    }
    if wanted != 0 && !space.events.is_empty() {
        tell(session, space, shared);
    }
    if mode != ReplyMode::On || session.reply_mode != ReplyMode::On {
        keep_silent(session, mode, start, output);
    }
}

/// Tells those who want to know what the command did.
#[cold]
fn tell(_session: &Session, space: &mut Space<'_>, _shared: &Shared) {
    space.events.clear();
}

/// Drops a reply that the client does not want. The command that asked for silence is silent itself.
#[cold]
fn keep_silent(session: &mut Session, before: ReplyMode, start: usize, output: &mut Vec<u8>) {
    if session.reply_mode != ReplyMode::On {
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
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(&text[..text.len().min(SHOWN_BYTES_MAX)]).into_owned()
}

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
    shared.statistics.note_error(&line);
    Reply::new(output, session.is_resp3).error(&line);
}

#[inline]
fn execute_found(
    command: &'static Entry,
    arguments: Arguments<'_>,
    session: &mut Session,
    space: &mut Space<'_>,
    shared: &Shared,
    output: &mut Vec<u8>,
) {
    if !session.is_plain
        && let Err(failure) = admit(command, session, shared)
    {
        return refuse(arguments, session, &failure, shared, output);
    }
    session.last_command = Some(command);
    if session.queue.is_some() && !is_of_transactions(command) {
        if command.has(flags::NO_MULTI) {
            let failure = Failure::from("ERR Command not allowed inside a transaction");
            return refuse(arguments, session, &failure, shared, output);
        }
        let bytes: usize = arguments.from(0).map(|argument| argument.len() + ARGUMENT_BYTES).sum();
        if let Some(queue) = &mut session.queue {
            queue.bytes += bytes;
            if queue.bytes > QUEUED_BYTES_MAX {
                queue.commands = Vec::new();
                let failure = Failure::from("ERR the transaction's commands take more than 64 MiB: split it");
                return refuse(arguments, session, &failure, shared, output);
            }
            queue.commands.push(arguments.into());
        }
        return Reply::new(output, session.is_resp3).status("QUEUED");
    }
    run(command, arguments, session, space, shared, output);
}

/// Whether a client that is not [`Session::is_plain`] may run this command now; what has to be known of it is noted.
///
/// # Errors
/// Why it may not.
#[cold]
fn admit(command: &Entry, session: &mut Session, shared: &Shared) -> Result<(), Failure> {
    if !session.is_authenticated && !command.has(flags::NO_AUTH) && !is_open(session, shared) {
        return Err(Failure::from("NOAUTH Authentication required."));
    }
    Ok(())
}

/// Whether a client that has not said who it is need not any more, the password having been taken away meanwhile.
fn is_open(session: &mut Session, shared: &Shared) -> bool {
    session.is_authenticated =
        shared.config.read().unwrap_or_else(PoisonError::into_inner).password.is_empty();
    session.settle();
    session.is_authenticated
}

fn is_of_transactions(command: &Command) -> bool {
    matches!(
        (command.group, command.name),
        ("transactions", "exec" | "discard" | "multi" | "watch") | ("connection", "quit" | "reset")
    )
}

/// Runs a command that nothing speaks against.
#[inline]
pub fn run(
    command: &'static Entry,
    arguments: Arguments<'_>,
    session: &mut Session,
    space: &mut Space<'_>,
    shared: &Shared,
    output: &mut Vec<u8>,
) {
    let start = output.len();
    let is_resp3 = session.is_resp3;
    let started = session.began.take().or_else(|| shared.slow_log.start());
    let mut call = Call { command, arguments, reply: Reply::new(output, is_resp3), session, space, shared };
    if let Err(failure) = (command.run)(&mut call) {
        let line = failure.line();
        call.reply.take_back(start);
        call.reply.error(&line);
        shared.statistics.note_error(&line);
    }
    if let Some(started) = started {
        let (slow, next) = shared.slow_log.finish(started);
        call.session.began = next;
        if let Some(microseconds) = slow {
            call.session.ends_turn |= microseconds >= TURN_MICROSECONDS;
            note_slow(&call, microseconds);
        }
    }
}
