//! The table of commands: the one source of every command's name, arity, flags, keys, categories and documentation.
//!
//! Each group's rows stand beside the functions that do what they say; here is what a row is, and how it is found.

use crate::redis::call::Handler;
use crate::redis::{
    absent, acl, bitmaps, client, connection, counters, diagnostics, dump, expiry, hyperloglog,
    introspection, keys, keyspace, latency, lcs, monitor, object, pubsub, ranges, scan, server, settings,
    sort, strings, transactions,
};
use std::ops::Deref;
use std::sync::LazyLock;

/// Bits of [`Command::flags`].
pub mod flags {
    /// Changes keys.
    pub const WRITE: u32 = 1;
    /// Only reads keys.
    pub const READONLY: u32 = 1 << 1;
    /// May need memory.
    pub const DENYOOM: u32 = 1 << 2;
    /// For whoever runs the server.
    pub const ADMIN: u32 = 1 << 3;
    /// Publishes or subscribes.
    pub const PUBSUB: u32 = 1 << 4;
    /// Not from scripts.
    pub const NOSCRIPT: u32 = 1 << 5;
    /// May wait.
    pub const BLOCKING: u32 = 1 << 6;
    /// While loading.
    pub const LOADING: u32 = 1 << 7;
    /// While a replica is stale.
    pub const STALE: u32 = 1 << 8;
    /// Not shown to MONITOR.
    pub const SKIP_MONITOR: u32 = 1 << 9;
    /// Not put into the slow log.
    pub const SKIP_SLOWLOG: u32 = 1 << 10;
    /// Constant or logarithmic time.
    pub const FAST: u32 = 1 << 11;
    /// Before authentication.
    pub const NO_AUTH: u32 = 1 << 12;
    /// Not while loading in the background.
    pub const NO_ASYNC_LOADING: u32 = 1 << 13;
    /// Not between MULTI and EXEC.
    pub const NO_MULTI: u32 = 1 << 14;
    /// May be called without keys, although it takes some.
    pub const NO_MANDATORY_KEYS: u32 = 1 << 15;
    /// Keys can't be found by position alone.
    pub const MOVABLEKEYS: u32 = 1 << 16;
    /// While a script keeps the server busy.
    pub const ALLOW_BUSY: u32 = 1 << 17;

    /// Of those that Redis tells its replicas although they change no key, as it has to be held back by a pause of those that write. It has no name.
    pub const MAY_REPLICATE: u32 = 1 << 18;

    /// Names as COMMAND INFO gives them, by bit.
    pub const NAMES: [&str; 18] = [
        "write",
        "readonly",
        "denyoom",
        "admin",
        "pubsub",
        "noscript",
        "blocking",
        "loading",
        "stale",
        "skip_monitor",
        "skip_slowlog",
        "fast",
        "no_auth",
        "no_async_loading",
        "no_multi",
        "no_mandatory_keys",
        "movablekeys",
        "allow_busy",
    ];
}

/// Where a command's keys are among its arguments, the name being 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keys {
    /// The first one; 0: there are none.
    pub first: i32,
    /// The last one; negative: counted from the end, -1 being the last argument.
    pub last: i32,
    /// From one to the next.
    pub step: i32,
}

/// No keys.
pub const NO_KEYS: Keys = Keys { first: 0, last: 0, step: 0 };
/// The first argument.
pub const ONE_KEY: Keys = Keys { first: 1, last: 1, step: 1 };
/// All arguments.
pub const ALL_KEYS: Keys = Keys { first: 1, last: -1, step: 1 };

/// A command, or a subcommand.
#[derive(Debug)]
pub struct Command {
    /// Lower case.
    pub name: &'static str,
    /// How many arguments, the name included (and the subcommand's); negative: at least so many.
    pub arity: i32,
    /// Bits of [`flags`].
    pub flags: u32,
    /// Where its keys are.
    pub keys: Keys,
    /// Names of its ACL categories, without `@`, in alphabetical order, separated by blanks; `read`, `write`, `fast`, `slow` and the like included.
    pub categories: &'static str,
    /// Group of the documentation.
    pub group: &'static str,
    /// Version of Redis that had it first.
    pub since: &'static str,
    /// Time it takes.
    pub complexity: &'static str,
    /// What it does, in a sentence.
    pub summary: &'static str,
    /// Arguments behind its name (and the subcommand's), in the form that [`syntax`](crate::redis::syntax) reads; empty: it takes none.
    pub syntax: &'static str,
    /// Does it; for a container, answers what no subcommand does.
    pub run: Handler,
    /// Where the first argument chooses.
    pub subcommands: &'static [Command],
}

/// All groups. Statics, as the rows are: a row is told from another by where it is, and a constant may be in several places.
static GROUPS: &[&[Command]] = &[
    strings::COMMANDS,
    counters::COMMANDS,
    ranges::COMMANDS,
    lcs::COMMANDS,
    bitmaps::COMMANDS,
    hyperloglog::COMMANDS,
    keys::COMMANDS,
    expiry::COMMANDS,
    scan::COMMANDS,
    sort::COMMANDS,
    dump::COMMANDS,
    object::COMMANDS,
    keyspace::COMMANDS,
    connection::COMMANDS,
    client::COMMANDS,
    server::COMMANDS,
    settings::COMMANDS,
    introspection::COMMANDS,
    diagnostics::COMMANDS,
    latency::COMMANDS,
    acl::COMMANDS,
    absent::COMMANDS,
    transactions::COMMANDS,
    pubsub::COMMANDS,
    monitor::COMMANDS,
];

const SLOTS: usize = 1024;
const NAME_BYTES_MAX: usize = 32;

/// A row in its place: with what the table as a whole knows of it.
#[derive(Debug)]
pub struct Entry {
    row: &'static Command,
    /// Its place among all commands and subcommands; the subcommands of a container follow it.
    pub number: usize,
    /// Its name, behind that of its container and a bar where it has one.
    pub full_name: String,
    /// The container of a subcommand.
    pub container: Option<&'static Command>,
}

impl Deref for Entry {
    type Target = Command;

    #[inline]
    fn deref(&self) -> &Command {
        self.row
    }
}

impl Entry {
    /// Its subcommands.
    pub fn subcommands(&self) -> &'static [Self] {
        &entries()[self.number + 1..][..self.row.subcommands.len()]
    }

    /// One of its subcommands, in any case.
    pub fn subcommand(&self, name: &[u8]) -> Option<&'static Self> {
        self.subcommands().iter().find(|command| command.name.as_bytes().eq_ignore_ascii_case(name))
    }
}

/// All rows, and where commands are found by name: a table with free places, searched from the place that the name's hash gives.
struct Table {
    entries: &'static [Entry],
    slots: Box<[Option<&'static Entry>; SLOTS]>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut entries = Vec::new();
    for row in GROUPS.iter().copied().flatten() {
        entries.push(Entry { row, number: entries.len(), full_name: row.name.to_owned(), container: None });
        for subcommand in row.subcommands {
            let full_name = format!("{}|{}", row.name, subcommand.name);
            entries.push(Entry { row: subcommand, number: entries.len(), full_name, container: Some(row) });
        }
    }
    // It is there as long as the process: references to its entries need no count.
    let entries: &'static [Entry] = Vec::leak(entries);
    let mut slots = Box::new([None; SLOTS]);
    for command in entries.iter().filter(|entry| entry.container.is_none()) {
        let mut at = hash(command.name.as_bytes());
        while slots[at].is_some() {
            at = (at + 1) % SLOTS;
        }
        slots[at] = Some(command);
    }
    Table { entries, slots }
});

/// Of a name in any case.
#[inline]
fn hash(name: &[u8]) -> usize {
    let mut hash = name.len() as u32;
    for &byte in name {
        hash = hash.wrapping_mul(0x0100_0193) ^ u32::from(byte | 0x20);
    }
    (hash ^ hash >> 15) as usize % SLOTS
}

/// Every command and subcommand, by number.
pub fn entries() -> &'static [Entry] {
    TABLE.entries
}

/// Every command, in the table's order.
pub fn all() -> impl Iterator<Item = &'static Entry> {
    entries().iter().filter(|entry| entry.container.is_none())
}

/// A command by its name, in any case.
#[inline]
pub fn find(name: &[u8]) -> Option<&'static Entry> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let table = &*TABLE;
    let mut at = hash(name);
    while let Some(command) = table.slots[at] {
        if command.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some(command);
        }
        at = (at + 1) % SLOTS;
    }
    None
}

/// A command, or a subcommand behind its container's name and a bar.
pub fn find_full(name: &[u8]) -> Option<&'static Entry> {
    match name.iter().position(|byte| *byte == b'|') {
        None => find(name),
        Some(bar) => find(&name[..bar])?.subcommand(&name[bar + 1..]),
    }
}

impl Command {
    /// Whether it may be called with so many arguments, its name included.
    #[inline]
    pub fn takes(&self, arguments: usize) -> bool {
        let arguments = i32::try_from(arguments).unwrap_or(i32::MAX);
        if self.arity >= 0 { arguments == self.arity } else { arguments >= -self.arity }
    }

    /// Whether it has this flag.
    #[inline]
    pub fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_command_is_found_by_its_name_alone() {
        let mut names = HashSet::new();
        for command in all() {
            assert!(names.insert(command.name), "{} is there twice", command.name);
            assert!(command.name.len() <= NAME_BYTES_MAX);
            assert!(std::ptr::eq(find(command.name.to_ascii_uppercase().as_bytes()).unwrap(), command));
        }
        assert!(names.len() * 2 < SLOTS);
        assert!(find(b"nonsense").is_none() && find(b"").is_none() && find(&[b'g'; 1000]).is_none());
    }

    #[test]
    fn rows_make_sense() {
        for (number, command) in entries().iter().enumerate() {
            assert_eq!(command.number, number);
            assert_ne!(command.arity, 0, "{}", command.name);
            assert_eq!(command.name, command.name.to_ascii_lowercase());
            assert!(!command.summary.is_empty() && !command.since.is_empty(), "{}", command.name);
            let mut categories: Vec<&str> = command.categories.split(' ').collect();
            categories.sort_unstable();
            assert_eq!(categories.join(" "), command.categories, "{}", command.name);
            let is_fast = command.has(flags::FAST);
            assert!(categories.contains(&if is_fast { "fast" } else { "slow" }), "{}", command.name);
            assert!(!(command.has(flags::WRITE) && command.has(flags::READONLY)), "{}", command.name);
            assert_eq!(command.keys.first == 0, command.keys.step == 0, "{}", command.name);
        }
    }
}
