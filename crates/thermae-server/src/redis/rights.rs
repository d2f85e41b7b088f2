//! What rights there are: a number for every command and category that rules may name; and whether a user's rights suffice for a call.
//!
//! Commands of the table have the table's numbers. Behind them come those of Redis that the table does not have: rules may name them, so that a
//! file of users that was written for Redis is taken as it is, and so that a user's rights are described in the same words as there, which
//! depend on all commands that a category has. Nobody can call them. When the table gets one of them, its row is what counts.
//!
//! A call is checked as Redis checks it: selector by selector, each for the command, the keys and the channels together.

use crate::glob::Budget;
use crate::redis::introspection::CATEGORIES;
use crate::redis::key_specs;
use crate::redis::request::Arguments;
use crate::redis::table::{self, Entry, flags};
use crate::users::{COMMANDS_MAX, Commands, READ, Selector, User, WRITE};
use std::collections::HashMap;
use std::sync::LazyLock;

/// Commands of Redis 7.0 that may be missing in the table, after their categories.
const OF_REDIS: &[(&str, &str)] = &[
    ("admin dangerous hyperloglog slow", "pfselftest"),
    ("admin dangerous hyperloglog slow write", "pfdebug"),
    (
        "admin dangerous slow",
        "cluster|addslots cluster|addslotsrange cluster|bumpepoch cluster|count-failure-reports cluster|delslots cluster|delslotsrange \
         cluster|failover cluster|flushslots cluster|forget cluster|meet cluster|replicas cluster|replicate cluster|reset cluster|saveconfig \
         cluster|set-config-epoch cluster|setslot cluster|slaves module|load module|loadex module|unload monitor psync replconf sync",
    ),
    ("blocking fast sortedset write", "bzpopmax bzpopmin"),
    ("blocking list slow write", "blmove blmpop blpop brpop brpoplpush"),
    ("blocking read slow stream", "xread"),
    ("blocking slow sortedset write", "bzmpop"),
    ("blocking slow stream write", "xreadgroup"),
    ("connection slow", "client|caching client|getredir client|tracking client|trackinginfo"),
    ("dangerous keyspace slow write", "migrate restore-asking"),
    ("fast hash read", "hexists hget hlen hmget hstrlen"),
    ("fast hash write", "hdel hincrby hincrbyfloat hmset hset hsetnx"),
    ("fast list read", "llen"),
    ("fast list write", "lpop lpush lpushx rpop rpush rpushx"),
    ("fast pubsub", "publish spublish"),
    ("fast read set", "scard sismember smismember"),
    ("fast read sortedset", "zcard zcount zlexcount zmscore zrank zrevrank zscore"),
    ("fast read stream", "xlen"),
    ("fast set write", "sadd smove spop srem"),
    ("fast sortedset write", "zadd zincrby zpopmax zpopmin zrem"),
    ("fast stream write", "xack xadd xautoclaim xclaim xdel xsetid"),
    ("geo read slow", "geodist geohash geopos georadius_ro georadiusbymember_ro geosearch"),
    ("geo slow write", "geoadd georadius georadiusbymember geosearchstore"),
    ("hash read slow", "hgetall hkeys hrandfield hscan hvals"),
    ("list read slow", "lindex lpos lrange"),
    ("list slow write", "linsert lmove lmpop lrem lset ltrim rpoplpush"),
    (
        "slow",
        "function pubsub script xgroup xinfo cluster|countkeysinslot cluster|getkeysinslot cluster|links pubsub|help",
    ),
    (
        "pubsub slow",
        "psubscribe pubsub|channels pubsub|numpat pubsub|numsub pubsub|shardchannels pubsub|shardnumsub punsubscribe ssubscribe subscribe \
         sunsubscribe unsubscribe",
    ),
    ("read set slow", "sdiff sinter sintercard smembers srandmember sscan sunion"),
    (
        "read slow sortedset",
        "zdiff zinter zintercard zrandmember zrange zrangebylex zrangebyscore zrevrange zrevrangebylex zrevrangebyscore zscan zunion",
    ),
    ("read slow stream", "xinfo|consumers xinfo|groups xinfo|stream xpending xrange xrevrange"),
    (
        "scripting slow",
        "eval eval_ro evalsha evalsha_ro fcall fcall_ro function|dump function|help function|kill function|list function|stats script|debug \
         script|exists script|flush script|help script|kill script|load",
    ),
    ("scripting slow write", "function|delete function|flush function|load function|restore"),
    ("set slow write", "sdiffstore sinterstore sunionstore"),
    (
        "slow sortedset write",
        "zdiffstore zinterstore zmpop zrangestore zremrangebylex zremrangebyrank zremrangebyscore zunionstore",
    ),
    ("slow stream", "xgroup|help xinfo|help"),
    (
        "slow stream write",
        "xgroup|create xgroup|createconsumer xgroup|delconsumer xgroup|destroy xgroup|setid xtrim",
    ),
];

/// The right to call a command.
#[derive(Debug)]
pub struct Right {
    /// The command's name, behind that of its container and a bar where it has one.
    pub name: String,
    categories: &'static str,
    /// Whether the command is a subcommand.
    pub has_container: bool,
    /// Subcommands, by number.
    pub subcommands: Vec<usize>,
}

struct Rights {
    all: Vec<Right>,
    numbers: HashMap<Vec<u8>, usize>,
    categories: Vec<Commands>,
}

static RIGHTS: LazyLock<Rights> = LazyLock::new(|| {
    let of_table = table::entries().iter().map(|entry| (entry.full_name.clone(), entry.categories));
    let mut all: Vec<Right> = of_table.map(|(name, categories)| Right::new(name, categories)).collect();
    for (categories, names) in OF_REDIS {
        for name in names.split_ascii_whitespace().filter(|name| named(name).is_none()) {
            all.push(Right::new(name.to_owned(), categories));
        }
    }
    assert!(all.len() <= COMMANDS_MAX, "more commands than a set of them has room for");
    let numbers: HashMap<Vec<u8>, usize> =
        all.iter().enumerate().map(|(number, right)| (right.name.as_bytes().to_vec(), number)).collect();
    for number in 0..all.len() {
        let container = all[number].name.split_once('|').map(|(container, _)| container.as_bytes().to_vec());
        if let Some(container) = container.and_then(|name| numbers.get(&name)) {
            all[number].has_container = true;
            all[*container].subcommands.push(number);
        }
    }
    let in_category = |category: &&str| {
        let mut commands = Commands::NONE;
        for (number, right) in all.iter().enumerate() {
            if right.categories.split(' ').any(|has| has == *category) {
                commands.set(number, true);
            }
        }
        commands
    };
    let categories = CATEGORIES.iter().map(in_category).collect();
    Rights { all, numbers, categories }
});

impl Right {
    fn new(name: String, categories: &'static str) -> Self {
        Self { name, categories, has_container: false, subcommands: Vec::new() }
    }
}

/// A row of the table by its full name.
fn named(name: &str) -> Option<&'static Entry> {
    match name.split_once('|') {
        None => table::find(name.as_bytes()),
        Some((container, name)) => table::find(container.as_bytes())?.subcommand(name.as_bytes()),
    }
}

/// All rights, by number.
pub fn all() -> &'static [Right] {
    &RIGHTS.all
}

/// The number of a command by its full name, in any case.
pub fn find(name: &[u8]) -> Option<usize> {
    RIGHTS.numbers.get(name.to_ascii_lowercase().as_slice()).copied()
}

/// All categories and their commands, in the order in which Redis lists them.
pub fn categories() -> impl Iterator<Item = (&'static str, &'static Commands)> {
    CATEGORIES.into_iter().zip(&RIGHTS.categories)
}

/// The commands of a category, its name in any case.
pub fn category(name: &[u8]) -> Option<&'static Commands> {
    categories()
        .find(|(category, _)| category.as_bytes().eq_ignore_ascii_case(name))
        .map(|(_, commands)| commands)
}

/// Why a call is refused, and which argument is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Denied {
    /// The user may not call the command.
    Command,
    /// Nor touch the key there.
    Key(usize),
    /// Nor use the channel there.
    Channel(usize),
}

/// The keys of a call and how they are accessed, found when they are needed first.
type Keys = Option<Vec<(usize, u8)>>;

/// Whether a user may call a command with these arguments, which are so many as it takes.
///
/// # Errors
/// What is at fault where the call came furthest.
pub fn check(user: &User, command: &Entry, arguments: Arguments<'_>) -> Result<(), Denied> {
    check_within(&mut Budget::default(), user, command, arguments)
}

/// The same, of a command that has several calls checked. Keys and channels that take more than is left of its budget are denied.
///
/// # Errors
/// Those of [`check`].
pub fn check_within(
    budget: &mut Budget,
    user: &User,
    command: &Entry,
    arguments: Arguments<'_>,
) -> Result<(), Denied> {
    let mut worst = Denied::Command;
    let mut keys = None;
    for selector in user.all_selectors() {
        match check_selector(selector, command, arguments, &mut keys, budget) {
            Ok(()) => return Ok(()),
            Err(denied) => worst = worst.max(denied),
        }
    }
    Err(worst)
}

/// Whether a user may call a command on keys that are not among its arguments: on any that there may be.
pub fn may_read_all_keys(user: &User, command: &Entry, arguments: Arguments<'_>) -> bool {
    let (mut keys, mut budget) = (None, Budget::default());
    user.all_selectors().any(|selector| {
        check_selector(selector, command, arguments, &mut keys, &mut budget).is_ok()
            && selector.allows_all_keys(READ)
    })
}

fn check_selector(
    selector: &Selector,
    command: &Entry,
    arguments: Arguments<'_>,
    keys: &mut Keys,
    budget: &mut Budget,
) -> Result<(), Denied> {
    if !command.has(flags::NO_AUTH)
        && !selector.commands.has(command.number)
        && !allows_first_argument(selector, command, arguments)
    {
        return Err(Denied::Command);
    }
    if !selector.has_all_keys {
        let keys = keys.get_or_insert_with(|| find_keys(command, arguments));
        let denied =
            keys.iter().find(|(index, access)| !selector.allows_key(arguments.at(*index), *access, budget));
        if let Some((index, _)) = denied {
            return Err(Denied::Key(*index));
        }
    }
    if !selector.has_all_channels && command.has(flags::PUBSUB) {
        let (channels, are_patterns) = match command.full_name.as_str() {
            "publish" | "spublish" => (1..2, false),
            "subscribe" | "ssubscribe" => (1..arguments.len(), false),
            "psubscribe" => (1..arguments.len(), true),
            _ => (0..0, false),
        };
        for index in channels {
            if !selector.allows_channel(arguments.at(index), are_patterns, budget) {
                return Err(Denied::Channel(index));
            }
        }
    }
    Ok(())
}

fn allows_first_argument(selector: &Selector, command: &Entry, arguments: Arguments<'_>) -> bool {
    let allowed = selector.first_arguments.get(&command.number);
    arguments.len() > 1
        && allowed
            .is_some_and(|allowed| allowed.iter().any(|word| word.eq_ignore_ascii_case(arguments.at(1))))
}

/// Keys that cannot be told are those of a call that the command refuses: a count that is no number, say.
fn find_keys(command: &Entry, arguments: Arguments<'_>) -> Vec<(usize, u8)> {
    let keys = key_specs::find_keys(&command.full_name, arguments).unwrap_or_default();
    keys.into_iter().map(|(index, words)| (index, access_of(words))).collect()
}

/// What the flags of a key mean for its value's content: none of them where only whether it is there is asked.
fn access_of(words: &str) -> u8 {
    words.split(' ').fold(0, |access, word| match word {
        "access" => access | READ,
        "insert" | "update" | "delete" => access | WRITE,
        _ => access,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_begin_with_those_of_the_table() {
        for entry in table::entries() {
            assert_eq!(find(entry.full_name.to_ascii_uppercase().as_bytes()), Some(entry.number));
            let right = &all()[entry.number];
            assert_eq!(
                (right.name.as_str(), right.has_container),
                (entry.full_name.as_str(), entry.container.is_some())
            );
            let own: Vec<usize> = entry.subcommands().iter().map(|entry| entry.number).collect();
            assert!(right.subcommands.starts_with(&own), "{}", right.name);
        }
        assert!(find(b"nonsense").is_none() && find(b"config|nonsense").is_none() && find(b"").is_none());
        let names: HashSet<&str> = all().iter().map(|right| right.name.as_str()).collect();
        assert_eq!(names.len(), all().len());
    }

    /// Redis 7.0.15 has 366 commands and subcommands; a container without one of them would be described otherwise than there.
    #[test]
    fn all_commands_of_redis_are_there_and_agree_with_the_table() {
        assert!(all().len() >= 366, "{}", all().len());
        for (categories, names) in OF_REDIS {
            for name in names.split_ascii_whitespace() {
                assert!(find(name.as_bytes()).is_some(), "{name}");
                if let Some(entry) = named(name) {
                    assert_eq!(entry.categories, *categories, "{name}");
                }
                if let Some((container, _)) = name.split_once('|') {
                    assert!(find(container.as_bytes()).is_some(), "{container}");
                }
            }
        }
    }

    #[test]
    fn categories_have_commands_of_both_kinds() {
        let write = category(b"WRITE").unwrap();
        for (name, is_in) in [("set", true), ("lpush", true), ("get", false), ("xgroup|create", true)] {
            assert_eq!(write.has(find(name.as_bytes()).unwrap()), is_in, "{name}");
        }
        assert!(category(b"nonsense").is_none() && category(b"all").is_none());
    }
}
