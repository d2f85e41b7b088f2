//! Commands on parts of values.
//!
//! The store never changes a value in place, which readers may be looking at: what becomes longer, or other, is written anew. So APPEND takes as long as
//! the whole value does, not as long as what is appended.

use crate::events::classes::STRING;
use crate::failure::{Failure, Result};
use crate::redis::call::Call;
use crate::redis::table::{Command, ONE_KEY, flags};
use crate::redis::values::{look_at, parts, set_bytes};
use std::sync::atomic::Ordering;
use thermae_core::Update;

use flags::{DENYOOM, FAST, READONLY, WRITE};

/// The rows.
pub static COMMANDS: &[Command] = &[
    Command {
        name: "append",
        arity: 3,
        flags: WRITE | DENYOOM | FAST,
        keys: ONE_KEY,
        categories: "fast string write",
        group: "string",
        since: "2.0.0",
        complexity: "O(N), N being the length that the value has afterwards",
        summary: "Adds bytes at the end of a value.",
        syntax: "key#0 value",
        run: append,
        subcommands: &[],
    },
    Command {
        name: "strlen",
        arity: 2,
        flags: READONLY | FAST,
        keys: ONE_KEY,
        categories: "fast read string",
        group: "string",
        since: "2.2.0",
        complexity: "O(1)",
        summary: "Answers how many bytes a value has.",
        syntax: "key#0",
        run: strlen,
        subcommands: &[],
    },
    Command {
        name: "getrange",
        arity: 4,
        flags: READONLY,
        keys: ONE_KEY,
        categories: "read slow string",
        group: "string",
        since: "2.4.0",
        complexity: "O(N), N being the number of bytes answered",
        summary: "Answers the bytes of a value from one position to another.",
        syntax: "key#0 start:integer end:integer",
        run: getrange,
        subcommands: &[],
    },
    Command {
        name: "substr",
        arity: 4,
        flags: READONLY,
        keys: ONE_KEY,
        categories: "read slow string",
        group: "string",
        since: "1.0.0",
        complexity: "O(N), N being the number of bytes answered",
        summary: "Answers the bytes of a value from one position to another, as GETRANGE does.",
        syntax: "key#0 start:integer end:integer",
        run: getrange,
        subcommands: &[],
    },
    Command {
        name: "setrange",
        arity: 4,
        flags: WRITE | DENYOOM,
        keys: ONE_KEY,
        categories: "slow string write",
        group: "string",
        since: "2.2.0",
        complexity: "O(N), N being the length that the value has afterwards",
        summary: "Overwrites the bytes of a value from a position on.",
        syntax: "key#0 offset:integer value",
        run: setrange,
        subcommands: &[],
    },
];

/// The end of a value that would go from `offset` on by `added` bytes.
///
/// # Errors
/// A value that would be longer than clients may send one.
fn checked_end(offset: usize, added: usize, bytes_max: u64) -> Result<usize> {
    offset
        .checked_add(added)
        .filter(|end| *end as u64 <= bytes_max)
        .ok_or(Failure::from("ERR string exceeds maximum allowed size (proto-max-bulk-len)"))
}

fn append(call: &mut Call<'_, '_>) -> Result<()> {
    let (key, suffix) = (call.key(1), call.argument(2));
    let bytes_max = call.shared.argument_bytes_max.load(Ordering::Relaxed);
    let length = call.space.update(&key, |current| {
        let (value, kept) = parts(current);
        let length = checked_end(value.len(), suffix.len(), bytes_max)?;
        Ok((set_bytes([value, suffix].concat(), kept), length))
    })?;
    call.note(STRING, "append", &key);
    call.reply.count(length as u64);
    Ok(())
}

fn strlen(call: &mut Call<'_, '_>) -> Result<()> {
    let key = call.key(1);
    let meta = call.space.meta(&key)?;
    if meta.is_none() {
        call.space.events.note_miss(&key);
    }
    call.reply.count(meta.map_or(0, |meta| meta.value_len));
    Ok(())
}

fn getrange(call: &mut Call<'_, '_>) -> Result<()> {
    let (key, first, last) = (call.key(1), call.integer(2)?, call.integer(3)?);
    let reply = &mut call.reply;
    let found = look_at(call.space, &key, |value| reply.bulk(part(value, first, last)))?;
    if found.is_none() {
        call.reply.bulk(b"");
    }
    Ok(())
}

/// The bytes from one position to another, both included; negative ones count from the end.
fn part(value: &[u8], first: i64, last: i64) -> &[u8] {
    // Else both would be moved to 0 where the value is short, and name its first byte.
    if first < 0 && last < 0 && first > last {
        return b"";
    }
    let length = value.len() as i64;
    let from_start = |position: i64| if position < 0 { (length + position).max(0) } else { position };
    let (first, last) = (from_start(first), from_start(last).min(length - 1));
    if first > last { b"" } else { &value[first as usize..=last as usize] }
}

fn setrange(call: &mut Call<'_, '_>) -> Result<()> {
    let (key, offset, patch) = (call.key(1), call.integer(2)?, call.argument(3));
    let offset = usize::try_from(offset).map_err(|_| "ERR offset is out of range")?;
    let bytes_max = call.shared.argument_bytes_max.load(Ordering::Relaxed);
    let store = call.space.store();
    let length = call.space.update(&key, |current| {
        let (value, kept) = parts(current);
        if patch.is_empty() {
            return Ok((Update::Keep, value.len()));
        }
        let end = checked_end(offset, patch.len(), bytes_max)?;
        // Before it is made: a few bytes that a client sends must not become half a GiB that the store refuses.
        store.check_value_len(end as u64)?;
        let mut value = value.to_vec();
        if value.len() < end {
            value.resize(end, 0);
        }
        value[offset..end].copy_from_slice(patch);
        let length = value.len();
        Ok((set_bytes(value, kept), length))
    })?;
    if !patch.is_empty() {
        call.note(STRING, "setrange", &key);
    }
    call.reply.count(length as u64);
    Ok(())
}
