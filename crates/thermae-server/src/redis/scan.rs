//! Commands that walk over the keys of a database.
//!
//! A cursor is the store's own position (see [`thermae_core::Store::scan_step`]): the server remembers nothing between two calls, a walk goes on after a
//! restart, with another server of the same store as well, and each key that is there from its beginning to its end is answered, once. COUNT is how many keys are
//! looked at, of all databases together.
//!
//! In a transaction these commands also see what it has changed before; but what others add meanwhile does not make it start over.

use crate::databases::{database_of, stored_prefix};
use crate::failure::{Failure, Result};
use crate::glob::{Budget, PATTERN_BYTES_MAX, PATTERN_TOO_LONG};
use crate::redis::call::{Call, SYNTAX};
use crate::redis::reply::Reply;
use crate::redis::table::{Command, NO_KEYS, flags};

use std::cell::Cell;

use flags::READONLY;

/// The rows.
pub static COMMANDS: &[Command] = &[
    Command {
        name: "keys",
        arity: 2,
        flags: READONLY,
        keys: NO_KEYS,
        categories: "dangerous keyspace read slow",
        group: "generic",
        since: "1.0.0",
        complexity: "O(N), N being the number of keys in the store",
        summary: "Answers all keys that a pattern describes.",
        syntax: "pattern",
        run: keys,
        subcommands: &[],
    },
    Command {
        name: "scan",
        arity: -2,
        flags: READONLY,
        keys: NO_KEYS,
        categories: "keyspace read slow",
        group: "generic",
        since: "2.8.0",
        complexity: "O(1) for a call with the usual COUNT; O(N) for a whole walk, N being the number of keys in the store",
        summary: "Answers some of the keys, and the cursor with which to ask for more.",
        syntax: "cursor:integer [MATCH pattern] [COUNT count:integer] [TYPE type@6.0.0]",
        run: scan,
        subcommands: &[],
    },
    Command {
        name: "randomkey",
        arity: 1,
        flags: READONLY,
        keys: NO_KEYS,
        categories: "keyspace read slow",
        group: "generic",
        since: "1.0.0",
        complexity: "O(1) where most keys are of this database; O(N) at worst, N being the number of keys in the store",
        summary: "Answers any of the keys.",
        syntax: "",
        run: random_key,
        subcommands: &[],
    },
];

/// Keys looked at where SCAN is not told how many.
const COUNT_USUAL: usize = 10;

/// Which of the stored keys are meant.
#[derive(Debug)]
struct Wanted<'a> {
    database: u8,
    /// `None`: any key.
    pattern: Option<&'a [u8]>,
    /// What all of them begin with.
    prefix: Vec<u8>,
    /// Of the command.
    budget: Cell<Budget>,
}

impl<'a> Wanted<'a> {
    fn new(database: u8, pattern: &'a [u8]) -> Result<Self> {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(Failure::from(PATTERN_TOO_LONG));
        }
        let mut prefix = stored_prefix(database);
        // Keys of database 0 that look like those of others are stored behind a mark.
        if database != 0 || !pattern.starts_with(b"\xff") {
            prefix.extend(pattern.iter().take_while(|byte| !b"*?[\\".contains(byte)));
        }
        let pattern = (pattern != b"*").then_some(pattern);
        Ok(Self { database, pattern, prefix, budget: Cell::default() })
    }

    /// The key of the database that a stored key is, where it is meant.
    fn key<'k>(&self, stored: &'k [u8]) -> Option<&'k [u8]> {
        let (database, key) = database_of(stored);
        let is_wanted = database == self.database
            && self.pattern.is_none_or(|pattern| {
                let mut budget = self.budget.get();
                let fits = budget.matches(pattern, key, false);
                self.budget.set(budget);
                fits
            });
        is_wanted.then_some(key)
    }

    /// Keys may be missing among those that were found where the budget is spent: that is no answer.
    fn check_budget(&self) -> Result<()> {
        if self.budget.get().is_spent() {
            return Err(Failure::from("ERR the pattern takes too long to compare with these keys"));
        }
        Ok(())
    }
}

/// Keys that are to be answered, as bulks already.
#[derive(Debug, Default)]
struct Found {
    count: usize,
    bulks: Vec<u8>,
}

impl Found {
    fn add(&mut self, key: &[u8]) {
        self.count += 1;
        Reply::new(&mut self.bulks, false).bulk(key);
    }

    fn reply(&self, call: &mut Call<'_, '_>) {
        call.reply.array(self.count);
        call.reply.raw(&self.bulks);
    }
}

fn keys(call: &mut Call<'_, '_>) -> Result<()> {
    let wanted = Wanted::new(call.session.database, call.argument(1))?;
    let mut found = Found::default();
    let mut walk = call.space.store().scan(&wanted.prefix);
    while let Some(batch) = walk.next_batch()? {
        for (stored, _) in batch.iter().filter(|(stored, _)| !call.space.is_deleted(stored)) {
            if let Some(key) = wanted.key(stored) {
                found.add(key);
            }
        }
        wanted.check_budget()?;
    }
    for stored in call.space.new_keys()? {
        if let Some(key) = wanted.key(&stored) {
            found.add(key);
        }
    }
    found.reply(call);
    Ok(())
}

/// What SCAN was told beside the cursor.
#[derive(Debug)]
struct Options<'a> {
    pattern: &'a [u8],
    count: usize,
    /// Whether values of this type are meant.
    has_strings: bool,
}

impl<'a> Options<'a> {
    fn parse(call: &Call<'a, '_>) -> Result<Self> {
        let mut options = Self { pattern: b"*", count: COUNT_USUAL, has_strings: true };
        for index in (2..call.arguments.len()).step_by(2) {
            if index + 1 >= call.arguments.len() {
                return Err(Failure::from(SYNTAX));
            } else if call.is(index, "COUNT") {
                let count = call.integer(index + 1)?;
                options.count =
                    usize::try_from(count).ok().filter(|count| *count > 0).ok_or(Failure::from(SYNTAX))?;
            } else if call.is(index, "MATCH") {
                options.pattern = call.argument(index + 1);
            } else if call.is(index, "TYPE") {
                options.has_strings = call.is(index + 1, "string");
            } else {
                return Err(Failure::from(SYNTAX));
            }
        }
        Ok(options)
    }
}

fn scan(call: &mut Call<'_, '_>) -> Result<()> {
    let cursor = parse_cursor(call.argument(1)).ok_or("ERR invalid cursor")?;
    let options = Options::parse(call)?;
    let wanted = Wanted::new(call.session.database, options.pattern)?;
    let (keys, next) = call.space.store().scan_step(&wanted.prefix, cursor, options.count)?;
    let mut found = Found::default();
    let stored = keys.iter().map(|(stored, _)| stored).filter(|stored| !call.space.is_deleted(stored));
    // What is only about to be stored has no position yet, and is answered first.
    let new_keys = if cursor == 0 { call.space.new_keys()? } else { Vec::new() };
    for stored in stored.chain(&new_keys).filter(|_| options.has_strings) {
        if let Some(key) = wanted.key(stored) {
            found.add(key);
        }
    }
    wanted.check_budget()?;
    call.reply.array(2);
    call.reply.bulk(next.unwrap_or(0).to_string().as_bytes());
    found.reply(call);
    Ok(())
}

/// A cursor as Redis reads it, with C's `strtoul`: a sign may stand before it, none of the digits has to, and a NUL ends it.
fn parse_cursor(text: &[u8]) -> Option<u64> {
    let text = text.split(|byte| *byte == 0).next()?;
    if text.is_empty() {
        return Some(0);
    }
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(if is_negative { number.wrapping_neg() } else { number })
}

fn random_key(call: &mut Call<'_, '_>) -> Result<()> {
    let wanted = Wanted::new(call.session.database, b"*")?;
    let space = &*call.space;
    let chosen = space
        .store()
        .random_key(&wanted.prefix, |stored| wanted.key(stored).is_some() && !space.is_deleted(stored))?;
    let chosen = match chosen {
        Some(stored) => Some(stored),
        None => space.new_keys()?.into_iter().find(|stored| wanted.key(stored).is_some()),
    };
    match chosen.as_deref().and_then(|stored| wanted.key(stored)) {
        Some(key) => call.reply.bulk(key),
        None => call.reply.null(),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::test_support::TestServer;
    use thermae_core::SetOptions;

    /// A pattern that was made for it kept others waiting for as long as there were keys.
    #[test]
    fn a_pattern_that_takes_too_long_is_an_error() {
        let mut server = TestServer::new();
        let text = b"a".repeat(24 << 10);
        for number in 0..4 {
            let key = [&text[..], &[b'0' + number]].concat();
            server.store().set(&key, b"v", &SetOptions::default()).unwrap();
        }
        let slow = [&b"*"[..], &b"a".repeat(PATTERN_BYTES_MAX - 2), b"b"].concat();
        let error = b"-ERR the pattern takes too long to compare with these keys\r\n";
        assert_eq!(server.call(&[b"KEYS", &slow]), error);
        assert_eq!(server.call(&[b"SCAN", b"0", b"MATCH", &slow, b"COUNT", b"100"]), error);
        let long = b"a".repeat(PATTERN_BYTES_MAX + 1);
        let error = format!("-{PATTERN_TOO_LONG}\r\n");
        assert_eq!(server.call(&[b"KEYS", &long]), error.as_bytes());
        assert_eq!(server.call(&[b"SCAN", b"0", b"MATCH", &long]), error.as_bytes());
        assert!(server.line("KEYS *a3").starts_with("*1\r\n"));
    }

    #[test]
    fn cursors_are_read_as_redis_reads_them() {
        for (text, cursor) in [
            (&b"0"[..], Some(0)),
            (b"", Some(0)),
            (b"+7", Some(7)),
            (b"-1", Some(u64::MAX)),
            (b"-18446744073709551615", Some(1)),
            (b"18446744073709551615", Some(u64::MAX)),
            (b"18446744073709551616", None),
            (b"007", Some(7)),
            (b"5\0x", Some(5)),
            (b"\0", Some(0)),
            (b" 1", None),
            (b"1 ", None),
            (b"0x1", None),
            (b"-", None),
            (b"+-1", None),
        ] {
            assert_eq!(parse_cursor(text), cursor, "{text:?}");
        }
    }

    #[test]
    fn what_a_pattern_begins_with_narrows_the_walk() {
        assert_eq!(Wanted::new(0, b"user:*").unwrap().prefix, b"user:");
        assert_eq!(Wanted::new(3, b"us[e]r").unwrap().prefix, b"\xff\x03us");
        assert_eq!(Wanted::new(0, b"\xff*").unwrap().prefix, b"");
        assert_eq!(Wanted::new(0, b"a\\*b").unwrap().prefix, b"a");
        assert_eq!(Wanted::new(0, b"\xff*").unwrap().key(b"\xff\x00\xff\x01a"), Some(&b"\xff\x01a"[..]));
        assert_eq!(Wanted::new(0, b"*").unwrap().key(b"\xff\x01a"), None);
    }

    #[test]
    fn each_database_shows_its_own_keys() {
        TestServer::new().check(&[
            ("randomkey", "$-1\r\n"),
            ("keys *", "*0\r\n"),
            ("dbsize", ":0\r\n"),
            ("set one 1", "+OK\r\n"),
            ("randomkey", "$3\r\none\r\n"),
            ("keys *", "*1\r\n$3\r\none\r\n"),
            ("keys o?e", "*1\r\n$3\r\none\r\n"),
            ("keys zz*", "*0\r\n"),
            ("keys [n-p]ne", "*1\r\n$3\r\none\r\n"),
            ("dbsize", ":1\r\n"),
            ("scan x", "-ERR invalid cursor\r\n"),
            ("scan \"\"", "*2\r\n$1\r\n0\r\n*1\r\n$3\r\none\r\n"),
            ("scan \" 1\"", "-ERR invalid cursor\r\n"),
            ("scan 0x", "-ERR invalid cursor\r\n"),
            ("scan 18446744073709551616", "-ERR invalid cursor\r\n"),
            ("scan 18446744073709551615", "*2\r\n$1\r\n0\r\n*0\r\n"),
            ("scan -1", "*2\r\n$1\r\n0\r\n*0\r\n"),
            ("scan 0 count 0", "-ERR syntax error\r\n"),
            ("scan 0 count x", "-ERR value is not an integer or out of range\r\n"),
            ("scan 0 count -1", "-ERR syntax error\r\n"),
            ("scan 0 count", "-ERR syntax error\r\n"),
            ("scan 0 foo 1", "-ERR syntax error\r\n"),
            ("scan 0", "*2\r\n$1\r\n0\r\n*1\r\n$3\r\none\r\n"),
            ("scan 0 MATCH o*", "*2\r\n$1\r\n0\r\n*1\r\n$3\r\none\r\n"),
            ("scan 0 match x*", "*2\r\n$1\r\n0\r\n*0\r\n"),
            ("scan 0 TYPE STRING", "*2\r\n$1\r\n0\r\n*1\r\n$3\r\none\r\n"),
            ("scan 0 type list", "*2\r\n$1\r\n0\r\n*0\r\n"),
            ("scan 0 type nonsense count 5 match *", "*2\r\n$1\r\n0\r\n*0\r\n"),
            ("scan 0 count 9223372036854775807", "*2\r\n$1\r\n0\r\n*1\r\n$3\r\none\r\n"),
            ("select 3", "+OK\r\n"),
            ("randomkey", "$-1\r\n"),
            ("keys *", "*0\r\n"),
            ("dbsize", ":0\r\n"),
            ("scan 0", "*2\r\n$1\r\n0\r\n*0\r\n"),
            ("set three 3", "+OK\r\n"),
            ("randomkey", "$5\r\nthree\r\n"),
            ("keys t*", "*1\r\n$5\r\nthree\r\n"),
            ("dbsize", ":1\r\n"),
            ("scan 0 match th*", "*2\r\n$1\r\n0\r\n*1\r\n$5\r\nthree\r\n"),
            ("select 0", "+OK\r\n"),
            ("keys *", "*1\r\n$3\r\none\r\n"),
            ("dbsize", ":1\r\n"),
            ("multi", "+OK\r\n"),
            ("set two 2", "+QUEUED\r\n"),
            ("del one", "+QUEUED\r\n"),
            ("keys *", "+QUEUED\r\n"),
            ("scan 0", "+QUEUED\r\n"),
            ("randomkey", "+QUEUED\r\n"),
            ("dbsize", "+QUEUED\r\n"),
            ("exec", "*6\r\n+OK\r\n:1\r\n*1\r\n$3\r\ntwo\r\n*2\r\n$1\r\n0\r\n*1\r\n$3\r\ntwo\r\n$3\r\ntwo\r\n:1\r\n"),
            ("keys *", "*1\r\n$3\r\ntwo\r\n"),
        ]);
    }

    /// The cursor that a reply names, and the keys.
    fn step(server: &mut TestServer, line: &str) -> (String, Vec<String>) {
        let reply = server.line(line);
        let mut lines = reply.split("\r\n").filter(|line| !line.starts_with(['$', '*'])).map(str::to_owned);
        (lines.next().unwrap(), lines.filter(|key| !key.is_empty()).collect())
    }

    #[test]
    fn a_walk_in_steps_gives_each_key_once() {
        let mut server = TestServer::new();
        for number in 0..3000 {
            server.line(&format!("set stays:{number} 1"));
            server.line(&format!("set goes:{number} 1"));
        }
        server.check(&[("select 1", "+OK\r\n"), ("set stays:other 1", "+OK\r\n"), ("select 0", "+OK\r\n")]);
        let (mut cursor, mut steps, mut found) = ("0".to_owned(), 0, Vec::new());
        loop {
            let (next, keys) = step(&mut server, &format!("scan {cursor} match stays:* count 50"));
            assert!(keys.len() <= 52, "{} keys", keys.len());
            found.extend(keys);
            // Tables grow and empty meanwhile, and values move.
            for number in steps * 100..steps * 100 + 100 {
                server.line(&format!("set comes:{number} 1"));
                server.line(&format!("del goes:{number}"));
                server.line(&format!("set stays:{} 2", number % 3000));
            }
            steps += 1;
            cursor = next;
            if cursor == "0" {
                break;
            }
        }
        assert!(steps >= 120, "{steps} steps");
        found.sort();
        let mut expected: Vec<String> = (0..3000).map(|number| format!("stays:{number}")).collect();
        expected.sort();
        assert!(found == expected, "{} of {} keys", found.len(), expected.len());
    }

    #[test]
    fn any_key_may_be_the_random_one() {
        let mut server = TestServer::new();
        for number in 0..50 {
            server.line(&format!("set {number} 1"));
        }
        server.check(&[
            ("select 1", "+OK\r\n"),
            ("set other 1", "+OK\r\n"),
            ("randomkey", "$5\r\nother\r\n"),
        ]);
        server.line("select 0");
        let chosen: std::collections::HashSet<String> = (0..4000).map(|_| server.line("randomkey")).collect();
        assert_eq!(chosen.len(), 50);
        assert!(!chosen.contains("$5\r\nother\r\n"));
    }
}
