//! SORT and SORT_RO: elements in order, the order and the answer being those of other keys where asked for.
//!
//! What is sorted are a list's, a set's or a sorted set's elements; a string has none. Each element has a weight: itself, or the value of the key that
//! a pattern makes of it. Elements of equal weight are in the order of their bytes, as Redis has it.

use crate::databases::stored_key;
use crate::events::classes::GENERIC;
use crate::failure::{Failure, Result};
use crate::numbers::parse_double;
use crate::redis::call::{Call, SYNTAX, WRONG_TYPE};
use crate::redis::rights::may_read_all_keys;
use crate::redis::table::{Command, ONE_KEY, flags};
use crate::space::Space;
use std::cmp::Ordering;

use flags::{DENYOOM, MOVABLEKEYS, READONLY, WRITE};

/// The rows.
pub static COMMANDS: &[Command] = &[
    Command {
        name: "sort",
        arity: -2,
        flags: WRITE | DENYOOM | MOVABLEKEYS,
        keys: ONE_KEY,
        categories: "dangerous list set slow sortedset write",
        group: "generic",
        since: "1.0.0",
        complexity: "O(N log N), N being the number of elements",
        summary: "Answers the elements of a list or set in order, or stores them.",
        syntax: "key#0 [BY pattern#1] [LIMIT offset_count(offset:integer count:integer)] \
                 [GET pattern#1]... [order(ASC | DESC)] [sorting=ALPHA] [STORE destination#2]",
        run: sort,
        subcommands: &[],
    },
    Command {
        name: "sort_ro",
        arity: -2,
        flags: READONLY | MOVABLEKEYS,
        keys: ONE_KEY,
        categories: "dangerous list read set slow sortedset",
        group: "generic",
        since: "7.0.0",
        complexity: "O(N log N), N being the number of elements",
        summary: "Answers the elements of a list or set in order.",
        syntax: "key#0 [BY pattern#1] [LIMIT offset_count(offset:integer count:integer)] \
                 [GET pattern#1]... [order(ASC | DESC)] [sorting=ALPHA]",
        run: sort_read_only,
        subcommands: &[],
    },
];

/// How to sort, and what to answer.
#[derive(Debug, Default)]
struct Options<'a> {
    /// Makes an element's weight's key of it; a pattern that makes the same key of all: they stay in order.
    by: Option<&'a [u8]>,
    /// Make of each element what is answered for it.
    get: Vec<&'a [u8]>,
    /// How many to leave out, and how many to answer; negative = none, all.
    limit: Option<(i64, i64)>,
    is_descending: bool,
    /// By bytes, not by numbers.
    is_alphabetical: bool,
    store: Option<&'a [u8]>,
}

impl<'a> Options<'a> {
    fn parse(call: &Call<'a, '_>, may_store: bool) -> Result<Self> {
        let mut options = Self::default();
        let mut index = 2;
        while index < call.arguments.len() {
            let values = call.arguments.len() - index - 1;
            if call.is(index, "ASC") {
                options.is_descending = false;
            } else if call.is(index, "DESC") {
                options.is_descending = true;
            } else if call.is(index, "ALPHA") {
                options.is_alphabetical = true;
            } else if call.is(index, "LIMIT") && values >= 2 {
                options.limit = Some((call.integer(index + 1)?, call.integer(index + 2)?));
                index += 2;
            } else if call.is(index, "STORE") && values >= 1 && may_store {
                index += 1;
                options.store = Some(call.argument(index));
            } else if call.is(index, "BY") && values >= 1 {
                index += 1;
                options.by = Some(call.argument(index));
                if call.argument(index).contains(&b'*') {
                    check_access(call, "BY")?;
                }
            } else if call.is(index, "GET") && values >= 1 {
                index += 1;
                options.get.push(call.argument(index));
                check_access(call, "GET")?;
            } else {
                return Err(Failure::from(SYNTAX));
            }
            index += 1;
        }
        Ok(options)
    }
}

/// What patterns make of elements may be any key.
fn check_access(call: &Call<'_, '_>, option: &str) -> Result<()> {
    let session = &call.session;
    if session.is_unlimited || may_read_all_keys(&session.user, call.command, call.arguments) {
        return Ok(());
    }
    Err(Failure::text(format!("ERR {option} option of SORT denied due to insufficient ACL permissions.")))
}

fn sort(call: &mut Call<'_, '_>) -> Result<()> {
    let options = Options::parse(call, true)?;
    let (key, database) = (call.key(1), call.session.database);
    let Some(store) = options.store else { return reply_sorted(call, &key, &options) };
    let store = stored_key(database, store);
    let count = call.space.atomically(|space| {
        let answers = answers(space, database, &key, &options)?;
        // Nothing is stored as nothing at all.
        if space.delete(&store)? {
            space.events.note(GENERIC, "del", &store);
        }
        Ok(answers.len())
    })?;
    call.reply.count(count as u64);
    Ok(())
}

fn sort_read_only(call: &mut Call<'_, '_>) -> Result<()> {
    let options = Options::parse(call, false)?;
    let key = call.key(1);
    reply_sorted(call, &key, &options)
}

fn reply_sorted(call: &mut Call<'_, '_>, key: &[u8], options: &Options<'_>) -> Result<()> {
    let database = call.session.database;
    let answers = call.space.atomically(|space| answers(space, database, key, options))?;
    call.reply.array(answers.len());
    for answer in answers {
        match answer {
            Some(bytes) => call.reply.bulk(&bytes),
            None => call.reply.null(),
        }
    }
    Ok(())
}

fn answers(
    space: &mut Space<'_>,
    database: u8,
    key: &[u8],
    options: &Options<'_>,
) -> Result<Vec<Option<Vec<u8>>>> {
    let elements = elements(space, key)?;
    let mut look_up = |key: &[u8]| Ok(space.get(&stored_key(database, key))?.map(|(_, value)| value));
    let sorted = sorted(elements, options, &mut look_up)?;
    let mut answers = Vec::new();
    for element in sorted {
        for pattern in &options.get {
            answers.push(made_of(pattern, &element, &mut look_up)?);
        }
        if options.get.is_empty() {
            answers.push(Some(element));
        }
    }
    Ok(answers)
}

/// The elements of a key's value.
fn elements(space: &mut Space<'_>, key: &[u8]) -> Result<Vec<Vec<u8>>> {
    match space.meta(key)? {
        None => {
            space.events.note_miss(key);
            Ok(Vec::new())
        }
        Some(_) => Err(Failure::from(WRONG_TYPE)),
    }
}

type LookUp<'f> = dyn FnMut(&[u8]) -> Result<Option<Vec<u8>>> + 'f;

/// Elements in order, those that the limit leaves.
fn sorted(elements: Vec<Vec<u8>>, options: &Options<'_>, look_up: &mut LookUp<'_>) -> Result<Vec<Vec<u8>>> {
    let mut weighted = Vec::with_capacity(elements.len());
    let stays = options.by.is_some_and(|pattern| !pattern.contains(&b'*'));
    for element in elements {
        let weight = match options.by {
            _ if stays => Weight::default(),
            Some(pattern) => Weight::new(made_of(pattern, &element, look_up)?, options.is_alphabetical)?,
            None => Weight::new(Some(element.clone()), options.is_alphabetical)?,
        };
        weighted.push((weight, element));
    }
    if !stays {
        weighted.sort_by(|left, right| {
            let order = left.0.compare(&right.0).then_with(|| left.1.cmp(&right.1));
            if options.is_descending { order.reverse() } else { order }
        });
    }
    let (skipped, taken) = options.limit.unwrap_or((0, -1));
    let skipped = usize::try_from(skipped).unwrap_or(0);
    let taken = usize::try_from(taken).unwrap_or(usize::MAX);
    Ok(weighted.into_iter().map(|(_, element)| element).skip(skipped).take(taken).collect())
}

/// What decides where an element comes.
#[derive(Debug, Default)]
struct Weight {
    number: f64,
    /// `None`: before all.
    text: Option<Vec<u8>>,
}

impl Weight {
    fn new(value: Option<Vec<u8>>, is_alphabetical: bool) -> Result<Self> {
        let number = match &value {
            Some(value) if !is_alphabetical => {
                parse_double(value).ok_or("ERR One or more scores can't be converted into double")?
            }
            _ => 0.0,
        };
        Ok(Self { number, text: value.filter(|_| is_alphabetical) })
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.number.total_cmp(&other.number).then_with(|| self.text.cmp(&other.text))
    }
}

/// What a pattern makes of an element: the value of the key that has the element in place of the first `*`; `#` stands for the element itself.
fn made_of(pattern: &[u8], element: &[u8], look_up: &mut LookUp<'_>) -> Result<Option<Vec<u8>>> {
    if pattern == b"#" {
        return Ok(Some(element.to_vec()));
    }
    let Some(star) = pattern.iter().position(|byte| *byte == b'*') else { return Ok(None) };
    let (before, after) = (&pattern[..star], &pattern[star + 1..]);
    // With the name of a field behind an arrow, it is a field of that key's hash; no value is one yet.
    let arrow = after.windows(2).position(|bytes| bytes == b"->");
    if arrow.is_some_and(|arrow| arrow + 2 < after.len()) {
        return Ok(None);
    }
    look_up(&[before, element, after].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::test_support::TestServer;
    use std::collections::HashMap;

    fn sorted_words(words: &[&str], options: &Options<'_>) -> Result<Vec<String>> {
        let values = HashMap::from([("w_a", "3"), ("w_b", "1"), ("w_c", "2"), ("w_x", "many")]);
        let mut look_up = |key: &[u8]| {
            Ok(values.get(std::str::from_utf8(key).unwrap()).map(|value| value.as_bytes().to_vec()))
        };
        let elements = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        let sorted = sorted(elements, options, &mut look_up)?;
        Ok(sorted.into_iter().map(|element| String::from_utf8(element).unwrap()).collect())
    }

    #[test]
    fn elements_come_in_the_order_asked_for() {
        let options = Options::default();
        assert_eq!(sorted_words(&["10", "9", "-1.5", "9"], &options).unwrap(), ["-1.5", "9", "9", "10"]);
        let options = Options { is_alphabetical: true, is_descending: true, ..Options::default() };
        assert_eq!(sorted_words(&["10", "9", "b", "a"], &options).unwrap(), ["b", "a", "9", "10"]);
        let options = Options { by: Some(b"w_*"), ..Options::default() };
        assert_eq!(sorted_words(&["a", "b", "c", "d"], &options).unwrap(), ["d", "b", "c", "a"]);
        let options = Options { by: Some(b"nosort"), is_descending: true, ..Options::default() };
        assert_eq!(sorted_words(&["b", "a", "c"], &options).unwrap(), ["b", "a", "c"]);
    }

    #[test]
    fn a_limit_leaves_some() {
        for (limit, left) in [
            ((1, 1), &["2"][..]),
            ((-5, 2), &["1", "2"]),
            ((1, -1), &["2", "3"]),
            ((3, 1), &[]),
            ((0, 0), &[]),
        ] {
            let options = Options { limit: Some(limit), ..Options::default() };
            assert_eq!(sorted_words(&["3", "1", "2"], &options).unwrap(), left, "{limit:?}");
        }
    }

    #[test]
    fn a_weight_has_to_be_a_number() {
        let options = Options { by: Some(b"w_*"), ..Options::default() };
        let failure = sorted_words(&["a", "x"], &options).unwrap_err();
        assert_eq!(failure.line(), "ERR One or more scores can't be converted into double");
        assert_eq!(sorted_words(&["x"], &Options { is_alphabetical: true, ..options }).unwrap(), ["x"]);
    }

    #[test]
    fn patterns_make_keys_of_elements() {
        let mut look_up = |key: &[u8]| Ok(Some(key.to_vec()));
        let mut made = |pattern: &[u8]| made_of(pattern, b"e", &mut look_up).unwrap();
        assert_eq!(made(b"#"), Some(b"e".to_vec()));
        assert_eq!(made(b"a*b*"), Some(b"aeb*".to_vec()));
        assert_eq!(made(b"*->"), Some(b"e->".to_vec()));
        assert_eq!((made(b"*->field"), made(b"none")), (None, None));
    }

    #[test]
    fn what_is_no_list_is_not_sorted() {
        TestServer::new().check(&[
            ("sort zz", "*0\r\n"),
            ("sort", "-ERR wrong number of arguments for 'sort' command\r\n"),
            ("sort zz limit 1", "-ERR syntax error\r\n"),
            ("sort zz limit x 1", "-ERR value is not an integer or out of range\r\n"),
            ("sort zz limit 1 x", "-ERR value is not an integer or out of range\r\n"),
            ("sort zz foo", "-ERR syntax error\r\n"),
            ("sort zz by", "-ERR syntax error\r\n"),
            ("sort zz get", "-ERR syntax error\r\n"),
            ("sort zz store", "-ERR syntax error\r\n"),
            ("sort zz by nosort", "*0\r\n"),
            ("sort zz BY w_* GET # LIMIT 0 10 ALPHA DESC ASC", "*0\r\n"),
            ("sort_ro zz", "*0\r\n"),
            ("sort_ro zz store b", "-ERR syntax error\r\n"),
            ("set s hello", "+OK\r\n"),
            ("sort s", "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"),
            ("sort_ro s", "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"),
            ("sort s foo", "-ERR syntax error\r\n"),
            ("sort s store s", "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"),
            ("sort zz store s", ":0\r\n"),
            ("exists s", ":0\r\n"),
        ]);
    }
}
