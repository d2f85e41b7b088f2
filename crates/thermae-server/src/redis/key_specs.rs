//! Where the keys of commands are among their arguments, and what is done to them: the long form that COMMAND INFO gives and that clients of
//! clusters and proxies go by.
//!
//! It stands beside the table of commands and not in its rows, since most commands share a few of these forms. A test holds the two together.

use crate::numbers::parse_integer;
use crate::redis::request::Arguments;

/// Where the search for keys begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// At this argument, the name being 0.
    Index(usize),
    /// Behind this word, looked for from this argument on; negative: from the end, backwards.
    Keyword(&'static str, i32),
    /// Only the command itself knows.
    Unknown,
}

/// Which arguments from there on are keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Find {
    /// Those up to the last one, which counts from the first, or, where it is negative, from the end; with a limit, only that part of what is left.
    Range {
        /// The last one.
        last: i32,
        /// From one to the next.
        step: usize,
        /// 0 or 1: all; 2: half of them.
        limit: usize,
    },
    /// As many as the argument there says.
    Counted,
    /// Only the command itself knows.
    Unknown,
}

/// Some keys of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// What is done to them: words separated by blanks.
    pub flags: &'static str,
    /// Where the search begins.
    pub begin: Begin,
    /// How it goes on.
    pub find: Find,
}

const fn range(flags: &'static str, index: usize, last: i32, step: usize) -> Spec {
    Spec { flags, begin: Begin::Index(index), find: Find::Range { last, step, limit: 0 } }
}

const fn one(flags: &'static str, index: usize) -> Spec {
    range(flags, index, 0, 1)
}

const fn counted(flags: &'static str, index: usize) -> Spec {
    Spec { flags, begin: Begin::Index(index), find: Find::Counted }
}

const fn behind(flags: &'static str, keyword: &'static str, from: i32, find: Find) -> Spec {
    Spec { flags, begin: Begin::Keyword(keyword, from), find }
}

const fn unknown(flags: &'static str) -> Spec {
    Spec { flags, begin: Begin::Unknown, find: Find::Unknown }
}

const ONE: Find = Find::Range { last: 0, step: 1, limit: 0 };
const HALF: Find = Find::Range { last: -1, step: 1, limit: 2 };
/// Of commands whose options decide what happens to the key.
const VARIABLE: &str = "variable_flags";

/// Names of commands, and what their keys are found by.
const SPECS: &[(&str, &[Spec])] = &[
    ("append hsetnx linsert lpush lpushx pfadd rpush rpushx sadd", &[one("RW insert", 1)]),
    (
        "bitcount bitfield_ro bitpos dump expiretime geodist geohash geopos georadius_ro georadiusbymember_ro geosearch get getbit getrange hget hgetall hkeys hmget hrandfield hscan hvals lindex lpos lrange pexpiretime pttl smembers smismember srandmember sscan substr ttl xpending xrange xrevrange zcount zlexcount zmscore zrandmember zrange zrangebylex zrangebyscore zrank zrevrange zrevrangebylex zrevrangebyscore zrevrank zscan zscore",
        &[one("RO access", 1)],
    ),
    ("bitfield set", &[one("RW access update variable_flags", 1)]),
    ("bitop", &[one("OW update", 2), range("RO access", 3, -1, 1)]),
    ("blmove brpoplpush lmove rpoplpush smove", &[one("RW access delete", 1), one("RW insert", 2)]),
    ("blmpop bzmpop", &[counted("RW access delete", 2)]),
    ("blpop brpop bzpopmax bzpopmin", &[range("RW access delete", 1, -2, 1)]),
    ("copy", &[one("RO access", 1), one("OW update", 2)]),
    (
        "decr decrby getex getset hincrby hincrbyfloat incr incrby incrbyfloat move setbit zincrby",
        &[one("RW access update", 1)],
    ),
    ("del unlink", &[range("RM delete", 1, -1, 1)]),
    ("eval evalsha fcall", &[counted("RW access update", 2)]),
    ("eval_ro evalsha_ro fcall_ro", &[counted("RO access", 2)]),
    ("exists touch watch", &[range("RO", 1, -1, 1)]),
    (
        "expire expireat geoadd hmset hset lset persist pexpire pexpireat setrange xack xadd xclaim xsetid zadd",
        &[one("RW update", 1)],
    ),
    (
        "georadius",
        &[
            one("RO access", 1),
            behind("OW update", "STORE", 6, ONE),
            behind("OW update", "STOREDIST", 6, ONE),
        ],
    ),
    (
        "georadiusbymember",
        &[
            one("RO access", 1),
            behind("OW update", "STORE", 5, ONE),
            behind("OW update", "STOREDIST", 5, ONE),
        ],
    ),
    ("geosearchstore zrangestore", &[one("OW update", 1), one("RO access", 2)]),
    ("getdel lpop rpop spop zpopmax zpopmin", &[one("RW access delete", 1)]),
    (
        "hdel lrem ltrim srem xautoclaim xdel xtrim zrem zremrangebylex zremrangebyrank zremrangebyscore",
        &[one("RW delete", 1)],
    ),
    ("hexists hlen hstrlen llen scard sismember strlen type xlen zcard", &[one("RO", 1)]),
    ("lcs", &[range("RO access", 1, 1, 1)]),
    ("lmpop zmpop", &[counted("RW access delete", 1)]),
    ("memory|usage object|encoding object|freq object|idletime object|refcount", &[one("RO", 2)]),
    ("mget sdiff sinter sunion", &[range("RO access", 1, -1, 1)]),
    ("mset", &[range("OW update", 1, -1, 2)]),
    ("msetnx", &[range("OW insert", 1, -1, 2)]),
    ("pfcount", &[range("RW access", 1, -1, 1)]),
    ("pfmerge", &[one("RW access insert", 1), range("RO access", 2, -1, 1)]),
    ("psetex restore setex", &[one("OW update", 1)]),
    ("rename", &[one("RW access delete", 1), one("OW update", 2)]),
    ("renamenx", &[one("RW access delete", 1), one("OW insert", 2)]),
    ("sdiffstore sunionstore", &[one("OW update", 1), range("RO access", 2, -1, 1)]),
    ("setnx", &[one("OW insert", 1)]),
    ("sintercard zdiff zinter zintercard zunion", &[counted("RO access", 1)]),
    ("sinterstore", &[one("RW update", 1), range("RO access", 2, -1, 1)]),
    ("sort", &[one("RO access", 1), unknown("RO access"), unknown("OW update")]),
    ("sort_ro", &[one("RO access", 1), unknown("RO access")]),
    ("spublish", &[one("not_key", 1)]),
    ("ssubscribe sunsubscribe", &[range("not_key", 1, -1, 1)]),
    ("xgroup|create xgroup|createconsumer", &[one("RW insert", 2)]),
    ("xgroup|delconsumer xgroup|destroy", &[one("RW delete", 2)]),
    ("xgroup|setid", &[one("RW update", 2)]),
    ("xinfo|consumers xinfo|groups xinfo|stream", &[one("RO access", 2)]),
    ("xread", &[behind("RO access", "STREAMS", 1, HALF)]),
    ("xreadgroup", &[behind("RO access", "STREAMS", 4, HALF)]),
    ("zdiffstore zinterstore zunionstore", &[one("OW update", 1), counted("RO access", 2)]),
];

/// Names of commands, which of their specifications it is about, and what is to be said of that.
const NOTES: &[(&str, usize, &str)] = &[
    ("bitfield", 0, "Whether the key is written to depends on the operations."),
    ("getex", 0, "The key is written to, for its time to expire may change."),
    ("pfcount", 0, "The key counts as written to, for Redis may change how it keeps the sketch."),
    ("set", 0, "The key is read only if `GET` is given."),
    ("sort", 1, "Keys that `BY` and `GET` lead to: their names depend on what is sorted."),
    ("sort", 2, "The key behind `STORE`, which may stand anywhere among the options."),
    ("sort_ro", 1, "Keys that `BY` and `GET` lead to: their names depend on what is sorted."),
];

/// Hints to clients, and names of the commands that have them.
const TIPS: &[(&str, &str)] = &[
    (
        "client|info client|list cluster|info cluster|nodes cluster|shards cluster|slots dump hrandfield hscan lastsave migrate object|encoding object|freq object|idletime object|refcount pttl spop srandmember sscan time ttl xadd xautoclaim xclaim xinfo|consumers xpending xtrim zrandmember zscan",
        "nondeterministic_output",
    ),
    (
        "command command|docs command|info command|list function|list hgetall hkeys hvals module|list sdiff sinter smembers sunion",
        "nondeterministic_output_order",
    ),
    (
        "config|set latency|reset script|flush script|load slowlog|reset",
        "request_policy:all_nodes response_policy:all_succeeded",
    ),
    ("dbsize", "request_policy:all_shards response_policy:agg_sum"),
    ("del exists touch unlink", "request_policy:multi_shard response_policy:agg_sum"),
    (
        "flushall flushdb function|delete function|flush function|load function|restore memory|purge ping",
        "request_policy:all_shards response_policy:all_succeeded",
    ),
    ("function|kill script|kill", "request_policy:all_shards response_policy:one_succeeded"),
    (
        "function|stats info memory|doctor memory|malloc-stats memory|stats",
        "nondeterministic_output request_policy:all_shards response_policy:special",
    ),
    ("keys", "request_policy:all_shards nondeterministic_output_order"),
    (
        "latency|doctor latency|graph latency|histogram latency|history latency|latest",
        "nondeterministic_output request_policy:all_nodes response_policy:special",
    ),
    ("mget", "request_policy:multi_shard"),
    ("mset", "request_policy:multi_shard response_policy:all_succeeded"),
    ("msetnx", "request_policy:multi_shard response_policy:agg_min"),
    ("randomkey", "request_policy:all_shards nondeterministic_output"),
    ("scan", "nondeterministic_output request_policy:special"),
    ("script|exists", "request_policy:all_shards response_policy:agg_logical_and"),
    ("slowlog|get", "request_policy:all_nodes nondeterministic_output"),
    ("slowlog|len", "request_policy:all_nodes response_policy:agg_sum nondeterministic_output"),
    ("wait", "request_policy:all_shards response_policy:agg_min"),
];

fn row<T: Copy>(rows: &[(&str, T)], full_name: &str) -> Option<T> {
    rows.iter().find(|(names, _)| names.split(' ').any(|name| name == full_name)).map(|(_, value)| *value)
}

/// What the keys of a command are found by.
pub fn specs(full_name: &str) -> &'static [Spec] {
    row(SPECS, full_name).unwrap_or_default()
}

/// What is to be said of one of a command's specifications.
pub fn notes(full_name: &str, index: usize) -> Option<&'static str> {
    let is_it = |(name, of, _): &&(&str, usize, &str)| (*name, *of) == (full_name, index);
    NOTES.iter().find(is_it).map(|(_, _, text)| *text)
}

/// Hints to clients of a cluster, separated by blanks; empty where there is none.
pub fn tips(full_name: &str) -> &'static str {
    row(TIPS, full_name).unwrap_or_default()
}

/// The keys among the arguments of a command that may be called with so many: where they are, and what is done to them. `None` where they can't
/// be told.
pub fn find_keys(full_name: &str, arguments: Arguments<'_>) -> Option<Vec<(usize, &'static str)>> {
    if matches!(full_name, "sort" | "sort_ro") {
        return Some(keys_of_sort(full_name, arguments));
    }
    let mut keys = Vec::new();
    for spec in specs(full_name) {
        if spec.flags == "not_key" {
            continue;
        }
        let begin = match spec.begin {
            Begin::Index(index) => Some(index),
            Begin::Keyword(keyword, from) => find_keyword(arguments, keyword, from).map(|index| index + 1),
            Begin::Unknown => None,
        };
        if let Some(begin) = begin {
            let flags =
                if spec.flags.contains(VARIABLE) { flags_now(full_name, arguments) } else { spec.flags };
            keys.extend(places(arguments, begin, spec.find)?.map(|index| (index, flags)));
        }
    }
    Some(keys)
}

/// Where a word is, looked for forwards, or backwards from the end.
fn find_keyword(arguments: Arguments<'_>, keyword: &str, from: i32) -> Option<usize> {
    let is_keyword = |index: &usize| arguments.at(*index).eq_ignore_ascii_case(keyword.as_bytes());
    let length = arguments.len();
    match usize::try_from(from) {
        Ok(from) => (from..length).find(is_keyword),
        Err(_) => (1..(length + 1).saturating_sub(from.unsigned_abs() as usize)).rev().find(is_keyword),
    }
}

fn places(arguments: Arguments<'_>, begin: usize, find: Find) -> Option<impl Iterator<Item = usize>> {
    let length = arguments.len();
    let (first, last, step) = match find {
        Find::Range { last, step, limit } => {
            let end = match usize::try_from(last) {
                Ok(last) => begin + last,
                Err(_) if limit > 1 => begin + (length.saturating_sub(begin) / limit).checked_sub(1)?,
                Err(_) => length.checked_sub(last.unsigned_abs() as usize)?,
            };
            (begin, end, step)
        }
        Find::Counted => {
            let count = usize::try_from(parse_integer(arguments.at(begin))?).ok()?;
            (begin + 1, begin.checked_add(count)?, 1)
        }
        Find::Unknown => return None,
    };
    (last < length).then(|| (first..=last).step_by(step))
}

/// What SET and BITFIELD do to their key with these options.
fn flags_now(full_name: &str, arguments: Arguments<'_>) -> &'static str {
    if full_name == "set" {
        let gets = arguments.from(3).any(|argument| argument.eq_ignore_ascii_case(b"get"));
        return if gets { "RW access update" } else { "OW update" };
    }
    if only_reads(arguments) { "RO access" } else { "RW access update" }
}

/// Whether a BITFIELD consists of what reads. What makes no sense does not: a user who may not write learns nothing from it.
fn only_reads(arguments: Arguments<'_>) -> bool {
    let mut index = 2;
    while index < arguments.len() {
        let is = |word: &[u8]| arguments.at(index).eq_ignore_ascii_case(word);
        index += if is(b"get") {
            3
        } else if is(b"overflow") {
            2
        } else {
            return false;
        };
    }
    index == arguments.len()
}

/// SORT stores under the last key that STORE names.
fn keys_of_sort(full_name: &str, arguments: Arguments<'_>) -> Vec<(usize, &'static str)> {
    let mut keys = vec![(1, "RO access")];
    let mut stored = None;
    let mut index = 2;
    while full_name == "sort" && index < arguments.len() {
        let is = |word: &[u8]| arguments.at(index).eq_ignore_ascii_case(word);
        if is(b"store") && index + 1 < arguments.len() {
            stored = Some((index + 1, "OW update"));
        }
        index += if is(b"limit") {
            3
        } else if is(b"get") || is(b"by") || is(b"store") {
            2
        } else {
            1
        };
    }
    keys.extend(stored);
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::table;

    #[test]
    fn the_table_has_the_same_keys() {
        for command in table::entries() {
            let name = &command.full_name;
            let first = specs(name).first().and_then(|spec| match (spec.begin, spec.find) {
                (Begin::Index(index), Find::Range { .. }) => i32::try_from(index).ok(),
                _ => None,
            });
            assert_eq!(command.keys.first, first.unwrap_or(0), "{name}");
        }
    }

    #[test]
    fn notes_are_about_specifications_that_there_are() {
        for (name, index, _) in NOTES {
            assert!(*index < specs(name).len(), "{name}");
        }
    }

    #[test]
    fn names_are_there_once() {
        let mut names: Vec<&str> = SPECS.iter().flat_map(|(names, _)| names.split(' ')).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
