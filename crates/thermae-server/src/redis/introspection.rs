//! COMMAND: what the table of commands says, to clients.

use crate::failure::{Failure, Result};
use crate::glob::{Budget, NAMES_TAKE_TOO_LONG, PATTERN_BYTES_MAX, PATTERN_TOO_LONG};
use crate::redis::call::{Call, SYNTAX};
use crate::redis::documentation;
use crate::redis::key_specs::{self, Begin, Find, Spec};
use crate::redis::reply::Reply;
use crate::redis::request::Arguments;
use crate::redis::table::{self, Command, Entry, NO_KEYS, flags};

use flags::{LOADING, NO_MANDATORY_KEYS, STALE};

/// Categories in the order in which Redis lists them.
pub const CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// The rows.
pub static COMMANDS: &[Command] = &[Command {
    name: "command",
    arity: -1,
    flags: LOADING | STALE,
    keys: NO_KEYS,
    categories: "connection slow",
    group: "server",
    since: "2.8.13",
    complexity: "O(N), N being the number of commands",
    summary: "Describes all commands of the server.",
    syntax: "",
    run: all,
    subcommands: SUBCOMMANDS,
}];

static SUBCOMMANDS: &[Command] = &[
    Command {
        name: "count",
        arity: 2,
        flags: LOADING | STALE,
        keys: NO_KEYS,
        categories: "connection slow",
        group: "server",
        since: "2.8.13",
        complexity: "O(1)",
        summary: "Answers how many commands there are.",
        syntax: "",
        run: count,
        subcommands: &[],
    },
    Command {
        name: "info",
        arity: -2,
        flags: LOADING | STALE,
        keys: NO_KEYS,
        categories: "connection slow",
        group: "server",
        since: "2.8.13",
        complexity: "O(N), N being the number of commands asked about",
        summary: "Describes some commands, or all.",
        syntax: "[command-name...]",
        run: info,
        subcommands: &[],
    },
    Command {
        name: "list",
        arity: -2,
        flags: LOADING | STALE,
        keys: NO_KEYS,
        categories: "connection slow",
        group: "server",
        since: "7.0.0",
        complexity: "O(N), N being the number of commands",
        summary: "Lists the names of commands: all, or those of a category, a pattern or a module.",
        syntax: "[FILTERBY filterby(MODULE module-name | ACLCAT category | PATTERN pattern)]",
        run: list,
        subcommands: &[],
    },
    Command {
        name: "docs",
        arity: -2,
        flags: LOADING | STALE,
        keys: NO_KEYS,
        categories: "connection slow",
        group: "server",
        since: "7.0.0",
        complexity: "O(N), N being the number of commands asked about",
        summary: "Answers what some commands do, or all, in words.",
        syntax: "[command-name...]",
        run: documentation::docs,
        subcommands: &[],
    },
    Command {
        name: "getkeys",
        arity: -4,
        flags: LOADING | STALE,
        keys: NO_KEYS,
        categories: "connection slow",
        group: "server",
        since: "2.8.13",
        complexity: "O(N), N being the number of arguments",
        summary: "Finds the keys among the arguments of a command.",
        syntax: "command arg...",
        run: get_keys,
        subcommands: &[],
    },
    Command {
        name: "getkeysandflags",
        arity: -4,
        flags: LOADING | STALE,
        keys: NO_KEYS,
        categories: "connection slow",
        group: "server",
        since: "7.0.0",
        complexity: "O(N), N being the number of arguments",
        summary: "Finds the keys among the arguments of a command, and what it does to them.",
        syntax: "command arg...",
        run: get_keys_and_flags,
        subcommands: &[],
    },
    Command {
        name: "help",
        arity: 2,
        flags: LOADING | STALE,
        keys: NO_KEYS,
        categories: "connection slow",
        group: "server",
        since: "5.0.0",
        complexity: "O(1)",
        summary: "Lists the subcommands.",
        syntax: "",
        run: help,
        subcommands: &[],
    },
];

/// Answers HELP of any container: its subcommands and what they do.
pub fn help(call: &mut Call<'_, '_>) -> Result<()> {
    let container = table::find(call.argument(0)).ok_or("ERR Invalid command specified")?;
    call.reply.array(1 + 2 * container.subcommands.len());
    let name = container.name.to_ascii_uppercase();
    call.reply.status(&format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    for subcommand in container.subcommands {
        call.reply.status(&subcommand.name.to_ascii_uppercase());
        call.reply.status(&format!("    {}", subcommand.summary));
    }
    Ok(())
}

/// The error for a subcommand that is called with arguments which make no sense together.
pub fn wrong_subcommand(call: &Call<'_, '_>) -> Failure {
    let subcommand = String::from_utf8_lossy(call.argument(1));
    let container = String::from_utf8_lossy(call.argument(0)).to_ascii_uppercase();
    Failure::text(format!(
        "ERR unknown subcommand or wrong number of arguments for '{subcommand}'. Try {container} HELP."
    ))
}

fn all(call: &mut Call<'_, '_>) -> Result<()> {
    call.reply.array(table::all().count());
    for command in table::all() {
        describe(&mut call.reply, command);
    }
    Ok(())
}

fn count(call: &mut Call<'_, '_>) -> Result<()> {
    call.reply.count(table::all().count() as u64);
    Ok(())
}

fn info(call: &mut Call<'_, '_>) -> Result<()> {
    if call.arguments.len() == 2 {
        return all(call);
    }
    documentation::check_names(call)?;
    call.reply.array(call.arguments.len() - 2);
    for name in call.arguments.from(2) {
        match table::find_full(name) {
            Some(command) => describe(&mut call.reply, command),
            None => call.reply.null(),
        }
    }
    Ok(())
}

/// The ten elements of COMMAND INFO.
fn describe(reply: &mut Reply<'_>, command: &Entry) {
    let name = &command.full_name;
    reply.array(10);
    reply.bulk(name.as_bytes());
    reply.integer(i64::from(command.arity));
    let names = flags::NAMES.iter().enumerate().filter(|(bit, _)| command.has(1 << bit));
    reply.words(names.map(|(_, name)| *name));
    for number in [command.keys.first, command.keys.last, command.keys.step] {
        reply.integer(i64::from(number));
    }
    let has = |category: &&str| command.categories.split(' ').any(|has| has == *category);
    let categories: Vec<String> =
        CATEGORIES.iter().filter(|category| has(category)).map(|category| format!("@{category}")).collect();
    reply.words(categories.iter().map(String::as_str));
    let tips: Vec<&str> = key_specs::tips(name).split(' ').filter(|tip| !tip.is_empty()).collect();
    reply.set(tips.len());
    tips.iter().for_each(|tip| reply.bulk(tip.as_bytes()));
    let specs = key_specs::specs(name);
    reply.set(specs.len());
    for (index, spec) in specs.iter().enumerate() {
        describe_keys(reply, spec, key_specs::notes(name, index));
    }
    reply.set(command.subcommands.len());
    command.subcommands().iter().for_each(|subcommand| describe(reply, subcommand));
}

fn describe_keys(reply: &mut Reply<'_>, spec: &Spec, notes: Option<&str>) {
    reply.map(3 + usize::from(notes.is_some()));
    if let Some(notes) = notes {
        reply.bulk(b"notes");
        reply.bulk(notes.as_bytes());
    }
    reply.bulk(b"flags");
    reply.words(spec.flags.split(' '));
    reply.bulk(b"begin_search");
    match spec.begin {
        Begin::Index(index) => typed(reply, "index", &[("index", index as i64)]),
        Begin::Keyword(keyword, from) => {
            type_and_length(reply, "keyword", 2);
            reply.bulk(b"keyword");
            reply.bulk(keyword.as_bytes());
            reply.bulk(b"startfrom");
            reply.integer(i64::from(from));
        }
        Begin::Unknown => typed(reply, "unknown", &[]),
    }
    reply.bulk(b"find_keys");
    match spec.find {
        Find::Range { last, step, limit } => {
            let numbers = [("lastkey", i64::from(last)), ("keystep", step as i64), ("limit", limit as i64)];
            typed(reply, "range", &numbers);
        }
        Find::Counted => typed(reply, "keynum", &[("keynumidx", 0), ("firstkey", 1), ("keystep", 1)]),
        Find::Unknown => typed(reply, "unknown", &[]),
    }
}

/// A map of a type and its numbers.
fn typed(reply: &mut Reply<'_>, name: &str, numbers: &[(&str, i64)]) {
    type_and_length(reply, name, numbers.len());
    for (name, number) in numbers {
        reply.bulk(name.as_bytes());
        reply.integer(*number);
    }
}

fn type_and_length(reply: &mut Reply<'_>, name: &str, length: usize) {
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(name.as_bytes());
    reply.bulk(b"spec");
    reply.map(length);
}

/// Which names COMMAND LIST is to give, subcommands included.
enum Filter<'a> {
    All,
    Category(String),
    Pattern(&'a [u8]),
    /// There are no modules.
    Module,
}

impl Filter<'_> {
    fn takes(&self, command: &Command, name: &str, budget: &mut Budget) -> bool {
        match self {
            Self::All => true,
            Self::Category(category) => command.categories.split(' ').any(|has| has == category),
            Self::Pattern(pattern) => budget.matches(pattern, name.as_bytes(), true),
            Self::Module => false,
        }
    }
}

fn list(call: &mut Call<'_, '_>) -> Result<()> {
    let filter = match call.arguments.len() {
        2 => Filter::All,
        5 if !call.is(2, "FILTERBY") => return Err(Failure::from(SYNTAX)),
        5 if call.is(3, "ACLCAT") => {
            Filter::Category(String::from_utf8_lossy(call.argument(4)).to_ascii_lowercase())
        }
        5 if call.is(3, "PATTERN") => {
            if call.argument(4).len() > PATTERN_BYTES_MAX {
                return Err(Failure::from(PATTERN_TOO_LONG));
            }
            Filter::Pattern(call.argument(4))
        }
        5 if call.is(3, "MODULE") => Filter::Module,
        _ => return Err(Failure::from(SYNTAX)),
    };
    reply_names_that(call, &filter)
}

/// Answers the names of commands and subcommands that a filter takes.
fn reply_names_that(call: &mut Call<'_, '_>, filter: &Filter<'_>) -> Result<()> {
    let mut budget = Budget::default();
    let is_taken = |command: &&Entry| filter.takes(command, &command.full_name, &mut budget);
    let names: Vec<&str> =
        table::entries().iter().filter(is_taken).map(|command| command.full_name.as_str()).collect();
    if budget.is_spent() {
        return Err(Failure::from(NAMES_TAKE_TOO_LONG));
    }
    call.reply.array(names.len());
    names.iter().for_each(|name| call.reply.bulk(name.as_bytes()));
    Ok(())
}

/// Answers the names of all commands in a category.
pub fn reply_names_in_category(call: &mut Call<'_, '_>, category: String) -> Result<()> {
    reply_names_that(call, &Filter::Category(category))
}

/// The keys among arguments that begin with a command's name: where they are, and what is done to them.
fn keys_of(arguments: Arguments<'_>) -> Result<Vec<(usize, &'static str)>> {
    let invalid = "ERR Invalid command specified";
    let mut command = table::find(arguments.at(0)).ok_or(invalid)?;
    if !command.subcommands.is_empty() {
        command = command.subcommand(arguments.at(1)).ok_or(invalid)?;
    }
    let name = &command.full_name;
    if key_specs::specs(name).iter().all(|spec| spec.flags == "not_key") {
        return Err(Failure::from("ERR The command has no key arguments"));
    }
    if !command.takes(arguments.len()) {
        return Err(Failure::from("ERR Invalid number of arguments specified for command"));
    }
    match key_specs::find_keys(name, arguments) {
        Some(keys) => Ok(keys),
        None if command.has(NO_MANDATORY_KEYS) => Ok(Vec::new()),
        None => Err(Failure::from("ERR Invalid arguments specified for command")),
    }
}

fn get_keys(call: &mut Call<'_, '_>) -> Result<()> {
    let arguments = call.arguments.skip(2);
    let keys = keys_of(arguments)?;
    call.reply.array(keys.len());
    keys.iter().for_each(|(index, _)| call.reply.bulk(arguments.at(*index)));
    Ok(())
}

fn get_keys_and_flags(call: &mut Call<'_, '_>) -> Result<()> {
    let arguments = call.arguments.skip(2);
    let keys = keys_of(arguments)?;
    call.reply.array(keys.len());
    for (index, flags) in keys {
        call.reply.array(2);
        call.reply.bulk(arguments.at(index));
        call.reply.words(flags.split(' '));
    }
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
                ("COMMAND foo", "-ERR unknown subcommand 'foo'. Try COMMAND HELP.\r\n"),
                ("COMMAND COUNT x", "-ERR wrong number of arguments for 'command|count' command\r\n"),
                (
                    "COMMAND INFO foo get",
                    "*2\r\n$-1\r\n*10\r\n$3\r\nget\r\n:2\r\n*2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n*3\r\n+@read\r\n+@string\r\n+@fast\r\n*0\r\n\
                     *1\r\n*6\r\n$5\r\nflags\r\n*2\r\n+RO\r\n+access\r\n$12\r\nbegin_search\r\n*4\r\n$4\r\ntype\r\n$5\r\nindex\r\n$4\r\nspec\r\n*2\r\n$5\r\n\
                     index\r\n:1\r\n$9\r\nfind_keys\r\n*4\r\n$4\r\ntype\r\n$5\r\nrange\r\n$4\r\nspec\r\n*6\r\n$7\r\nlastkey\r\n:0\r\n$7\r\nkeystep\r\n:1\r\n\
                     $5\r\nlimit\r\n:0\r\n*0\r\n",
                ),
                ("COMMAND LIST FILTERBY", "-ERR syntax error\r\n"),
                ("COMMAND LIST foo", "-ERR syntax error\r\n"),
                ("COMMAND LIST FILTERBY foo bar", "-ERR syntax error\r\n"),
                ("COMMAND LIST FILTERBY MODULE json", "*0\r\n"),
                ("COMMAND LIST FILTERBY ACLCAT nonsense", "*0\r\n"),
                (
                    "COMMAND LIST FILTERBY PATTERN config|re*",
                    "*2\r\n$16\r\nconfig|resetstat\r\n$14\r\nconfig|rewrite\r\n",
                ),
                ("COMMAND GETKEYS foo a", "-ERR Invalid command specified\r\n"),
                ("COMMAND GETKEYS get a", "*1\r\n$1\r\na\r\n"),
                ("COMMAND GETKEYS get a b", "-ERR Invalid number of arguments specified for command\r\n"),
                ("COMMAND GETKEYS config get x", "-ERR The command has no key arguments\r\n"),
                ("COMMAND GETKEYS del a b", "*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
                ("COMMAND GETKEYS memory usage a", "*1\r\n$1\r\na\r\n"),
                ("COMMAND GETKEYSANDFLAGS set a b", "*1\r\n*2\r\n$1\r\na\r\n*2\r\n+OW\r\n+update\r\n"),
                (
                    "COMMAND GETKEYSANDFLAGS set a b get",
                    "*1\r\n*2\r\n$1\r\na\r\n*3\r\n+RW\r\n+access\r\n+update\r\n",
                ),
                (
                    "COMMAND GETKEYSANDFLAGS bitfield a overflow fail get u8 set",
                    "*1\r\n*2\r\n$1\r\na\r\n*2\r\n+RO\r\n+access\r\n",
                ),
                (
                    "COMMAND GETKEYSANDFLAGS bitfield a get u8",
                    "*1\r\n*2\r\n$1\r\na\r\n*3\r\n+RW\r\n+access\r\n+update\r\n",
                ),
            ]);
        let count = table::all().count();
        assert_eq!(server.line("COMMAND COUNT"), format!(":{count}\r\n"));
        assert!(server.line("COMMAND").starts_with(&format!("*{count}\r\n*10\r\n")));
        // Subcommands are among them, as with a filter.
        assert_eq!(server.line("COMMAND LIST"), server.line("COMMAND LIST FILTERBY PATTERN *"));
        assert!(server.line("COMMAND LIST").contains("\r\nacl|cat\r\n"));
    }

    /// Each name was compared with a budget of its own, and patterns had any length.
    #[test]
    fn comparing_with_a_pattern_is_bounded() {
        let mut server = TestServer::new();
        let mut list = |pattern: &[u8]| {
            let words: [&[u8]; 5] = [b"COMMAND", b"LIST", b"FILTERBY", b"PATTERN", pattern];
            String::from_utf8(server.call(&words)).unwrap()
        };
        let class = |length: usize| [b"*[", &b"z".repeat(length - 4)[..], b"]q"].concat();
        assert_eq!(list(&class(PATTERN_BYTES_MAX)), "*0\r\n");
        assert_eq!(list(&class(PATTERN_BYTES_MAX + 1)), format!("-{PATTERN_TOO_LONG}\r\n"));
    }

    #[test]
    fn help_lists_every_subcommand() {
        let mut server = TestServer::new();
        let own = ["acl", "client", "cluster", "command", "config", "latency", "memory", "module", "slowlog"];
        for container in own.map(|name| table::find(name.as_bytes()).unwrap()) {
            let text = server.line(&format!("{} HELP", container.name));
            assert!(text.starts_with(&format!("*{}\r\n+", 1 + 2 * container.subcommands.len())), "{text}");
        }
    }

    #[test]
    fn every_category_is_known() {
        for command in table::entries() {
            for category in command.categories.split(' ') {
                assert!(CATEGORIES.contains(&category), "{category} of {}", command.name);
            }
        }
    }
}
