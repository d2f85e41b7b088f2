//! COMMAND DOCS: what the table of commands says, in words and argument by argument, for clients that help those who type.

use crate::failure::{Failure, Result};
use crate::redis::call::Call;
use crate::redis::history::{self, Change};
use crate::redis::reply::Reply;
use crate::redis::syntax::{self, Argument};
use crate::redis::table::{self, Entry};

/// How many commands one call may ask about: more than there are, and too few for a reply that takes the memory of others.
const NAMES_MAX: usize = 1024;

/// Refuses a COMMAND DOCS or INFO that asks about too many commands.
pub fn check_names(call: &Call<'_, '_>) -> Result<()> {
    if call.arguments.len() - 2 > NAMES_MAX {
        let text = format!("ERR too many commands are asked about at once: {NAMES_MAX} are allowed");
        return Err(Failure::text(text));
    }
    Ok(())
}

/// COMMAND DOCS: of the commands that are named and there, or of all.
pub fn docs(call: &mut Call<'_, '_>) -> Result<()> {
    check_names(call)?;
    let commands: Vec<&Entry> = match call.arguments.len() {
        2 => table::all().collect(),
        _ => call.arguments.from(2).filter_map(table::find_full).collect(),
    };
    call.reply.map(commands.len());
    commands.iter().for_each(|command| document(&mut call.reply, command));
    Ok(())
}

/// A command's name, and what is said of it.
fn document(reply: &mut Reply<'_>, command: &Entry) {
    let name = command.full_name.as_str();
    let changes = history::changes(name);
    let deprecation = history::deprecation(name);
    let mut labels = Vec::new();
    labels.extend(deprecation.map(|_| "deprecated"));
    labels.extend(history::is_internal(name).then_some("syscmd"));
    // A text that makes no sense would be a bug, for which a test looks; nobody's connection has to end by it.
    let arguments = syntax::parse(command.syntax).unwrap_or_default();
    reply.bulk(name.as_bytes());
    let optional = [!labels.is_empty(), !changes.is_empty(), !arguments.is_empty()];
    let optional = optional.into_iter().filter(|is_there| *is_there).count();
    let has_subcommands = !command.subcommands.is_empty();
    reply.map(4 + optional + 2 * usize::from(deprecation.is_some()) + usize::from(has_subcommands));
    text(reply, "summary", command.summary);
    text(reply, "since", command.since);
    text(reply, "group", command.group);
    text(reply, "complexity", command.complexity);
    if !labels.is_empty() {
        reply.bulk(b"doc_flags");
        reply.words(labels.into_iter());
    }
    if let Some(deprecation) = deprecation {
        text(reply, "deprecated_since", deprecation.since);
        text(reply, "replaced_by", deprecation.replaced_by);
    }
    if !changes.is_empty() {
        reply.bulk(b"history");
        reply.set(changes.len());
        changes.iter().for_each(|change| document_change(reply, change));
    }
    if !arguments.is_empty() {
        document_arguments(reply, &arguments);
    }
    if has_subcommands {
        reply.bulk(b"subcommands");
        reply.map(command.subcommands.len());
        command.subcommands().iter().for_each(|subcommand| document(reply, subcommand));
    }
}

fn text(reply: &mut Reply<'_>, name: &str, text: &str) {
    reply.bulk(name.as_bytes());
    reply.bulk(text.as_bytes());
}

fn document_change(reply: &mut Reply<'_>, change: &Change) {
    reply.array(2);
    reply.bulk(change.version.as_bytes());
    reply.bulk(change.text.as_bytes());
}

/// The field of that name, of a command or of an argument.
fn document_arguments(reply: &mut Reply<'_>, arguments: &[Argument<'_>]) {
    reply.bulk(b"arguments");
    reply.array(arguments.len());
    arguments.iter().for_each(|argument| document_argument(reply, argument));
}

fn document_argument(reply: &mut Reply<'_>, argument: &Argument<'_>) {
    let flags = [
        ("optional", argument.is_optional),
        ("multiple", argument.is_multiple),
        ("multiple_token", argument.is_token_multiple),
    ];
    let flags: Vec<&str> = flags.into_iter().filter(|(_, is_so)| *is_so).map(|(name, _)| name).collect();
    let texts = [
        ("token", argument.token),
        ("since", argument.since),
        ("deprecated_since", argument.deprecated_since),
    ];
    let texts: Vec<_> = texts.into_iter().filter_map(|(name, text)| Some((name, text?))).collect();
    let others = [argument.key_spec_index.is_some(), !flags.is_empty(), !argument.arguments.is_empty()];
    reply.map(2 + texts.len() + others.into_iter().filter(|is_there| *is_there).count());
    text(reply, "name", &argument.name);
    text(reply, "type", argument.kind.name());
    if let Some(index) = argument.key_spec_index {
        reply.bulk(b"key_spec_index");
        reply.integer(i64::from(index));
    }
    for (name, value) in texts {
        text(reply, name, value);
    }
    if !flags.is_empty() {
        reply.bulk(b"flags");
        reply.words(flags.into_iter());
    }
    if !argument.arguments.is_empty() {
        document_arguments(reply, &argument.arguments);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::test_support::TestServer;

    #[test]
    fn replies_are_those_of_redis() {
        let mut server = TestServer::new();
        for (command, part) in [
            ("COMMAND DOCS foo", "*0\r\n"),
            (
                "COMMAND DOCS mget",
                "$9\r\narguments\r\n*1\r\n*8\r\n$4\r\nname\r\n$3\r\nkey\r\n$4\r\ntype\r\n$3\r\nkey\r\n$14\r\nkey_spec_index\r\n:0\r\n\
                 $5\r\nflags\r\n*1\r\n+multiple\r\n",
            ),
            (
                "COMMAND DOCS substr",
                "$9\r\ndoc_flags\r\n*1\r\n+deprecated\r\n$16\r\ndeprecated_since\r\n$5\r\n2.0.0\r\n$11\r\nreplaced_by\r\n",
            ),
            ("COMMAND DOCS debug", "$9\r\ndoc_flags\r\n*1\r\n+syscmd\r\n"),
            ("COMMAND DOCS exists", "$7\r\nhistory\r\n*1\r\n*2\r\n$5\r\n3.0.3\r\n"),
            ("COMMAND DOCS config", "$10\r\nconfig|get\r\n*12\r\n$7\r\nsummary\r\n"),
        ] {
            let reply = server.line(command);
            assert!(reply.contains(part), "{command}: {reply}");
        }
    }

    #[test]
    fn a_call_asks_about_so_many_commands_at_most() {
        let mut server = TestServer::new();
        for subcommand in ["DOCS", "INFO"] {
            let asked = |count| format!("COMMAND {subcommand}{}", " nonsense".repeat(count));
            assert!(server.line(&asked(NAMES_MAX)).starts_with('*'));
            let refused = "-ERR too many commands are asked about at once: 1024 are allowed\r\n";
            assert_eq!(server.line(&asked(NAMES_MAX + 1)), refused);
        }
    }
}
