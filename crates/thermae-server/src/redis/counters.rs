//! Commands on numbers.
//!
//! An integer is stored as Python stores its own, so that either reads what the other has counted; a number with a fraction is stored as the text that
//! Redis has for it. What a number is, is as strict as in Redis: any other text is left alone.

use crate::events::classes::STRING;
use crate::extended::Extended;
use crate::failure::Result;
use crate::numbers::parse_integer;
use crate::redis::call::{Call, NOT_A_FLOAT, NOT_AN_INTEGER};
use crate::redis::table::{Command, ONE_KEY, flags};
use crate::redis::values::{parts, set_bytes, set_encoded};
use thermae_core::ENCODING_INTEGER;

use flags::{DENYOOM, FAST, WRITE};

/// The rows.
pub static COMMANDS: &[Command] = &[
    Command {
        name: "incr",
        arity: 2,
        flags: WRITE | DENYOOM | FAST,
        keys: ONE_KEY,
        categories: "fast string write",
        group: "string",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "Adds one to an integer.",
        syntax: "key#0",
        run: incr,
        subcommands: &[],
    },
    Command {
        name: "decr",
        arity: 2,
        flags: WRITE | DENYOOM | FAST,
        keys: ONE_KEY,
        categories: "fast string write",
        group: "string",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "Takes one from an integer.",
        syntax: "key#0",
        run: decr,
        subcommands: &[],
    },
    Command {
        name: "incrby",
        arity: 3,
        flags: WRITE | DENYOOM | FAST,
        keys: ONE_KEY,
        categories: "fast string write",
        group: "string",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "Adds to an integer.",
        syntax: "key#0 increment:integer",
        run: incrby,
        subcommands: &[],
    },
    Command {
        name: "decrby",
        arity: 3,
        flags: WRITE | DENYOOM | FAST,
        keys: ONE_KEY,
        categories: "fast string write",
        group: "string",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "Takes from an integer.",
        syntax: "key#0 decrement:integer",
        run: decrby,
        subcommands: &[],
    },
    Command {
        name: "incrbyfloat",
        arity: 3,
        flags: WRITE | DENYOOM | FAST,
        keys: ONE_KEY,
        categories: "fast string write",
        group: "string",
        since: "2.6.0",
        complexity: "O(1)",
        summary: "Adds to a number with a fraction.",
        syntax: "key#0 increment:double",
        run: incrbyfloat,
        subcommands: &[],
    },
];

fn incr(call: &mut Call<'_, '_>) -> Result<()> {
    add(call, 1)
}

fn decr(call: &mut Call<'_, '_>) -> Result<()> {
    add(call, -1)
}

fn incrby(call: &mut Call<'_, '_>) -> Result<()> {
    let by = call.integer(2)?;
    add(call, by)
}

fn decrby(call: &mut Call<'_, '_>) -> Result<()> {
    let by = call.integer(2)?.checked_neg().ok_or("ERR decrement would overflow")?;
    add(call, by)
}

fn add(call: &mut Call<'_, '_>, by: i64) -> Result<()> {
    let key = call.key(1);
    let sum = call.space.update(&key, |current| {
        let (text, kept) = parts(current);
        let before = if current.is_some() { parse_integer(text).ok_or(NOT_AN_INTEGER)? } else { 0 };
        let sum = before.checked_add(by).ok_or("ERR increment or decrement would overflow")?;
        let value = sum.to_string().into_bytes();
        Ok((set_encoded(value, ENCODING_INTEGER, kept), sum))
    })?;
    call.note(STRING, "incrby", &key);
    call.reply.integer(sum);
    Ok(())
}

fn incrbyfloat(call: &mut Call<'_, '_>) -> Result<()> {
    let (key, increment) = (call.key(1), call.argument(2));
    let sum = call.space.update(&key, |current| {
        let (text, kept) = parts(current);
        let text = if current.is_some() { text } else { b"0" };
        let before = Extended::parse(text).ok_or(NOT_A_FLOAT)?;
        let increment = Extended::parse(increment).ok_or(NOT_A_FLOAT)?;
        let sum = before.checked_add(increment).ok_or("ERR increment would produce NaN or Infinity")?;
        let sum = sum.to_string().into_bytes();
        Ok((set_bytes(sum.clone(), kept), sum))
    })?;
    call.note(STRING, "incrbyfloat", &key);
    call.reply.bulk(&sum);
    Ok(())
}
