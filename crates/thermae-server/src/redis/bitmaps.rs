//! Commands on the bits of values.
//!
//! What they compute is in [`crate::bits`] and [`crate::bitfield`]; here are their arguments, in the order in which Redis looks at them, and the keys. A
//! change that changes nothing is not written.

use crate::bitfield::{self, Action, FieldType, Operation, Overflow};
use crate::bits::{self, Combination, Span, Unit};
use crate::events::classes::{GENERIC, STRING};
use crate::failure::{Failure, Result};
use crate::numbers::parse_integer;
use crate::redis::call::{Call, SYNTAX};
use crate::redis::table::{Command, Keys, ONE_KEY, flags};
use crate::redis::values::{look_at, parts, set_bytes};
use std::sync::atomic::Ordering;
use thermae_core::{SetOptions, Update};

use flags::{DENYOOM, FAST, READONLY, WRITE};

/// The rows.
pub static COMMANDS: &[Command] = &[
    Command {
        name: "getbit",
        arity: 3,
        flags: READONLY | FAST,
        keys: ONE_KEY,
        categories: "bitmap fast read",
        group: "bitmap",
        since: "2.2.0",
        complexity: "O(1)",
        summary: "Answers a bit of a value.",
        syntax: "key#0 offset:integer",
        run: getbit,
        subcommands: &[],
    },
    Command {
        name: "setbit",
        arity: 4,
        flags: WRITE | DENYOOM,
        keys: ONE_KEY,
        categories: "bitmap slow write",
        group: "bitmap",
        since: "2.2.0",
        complexity: "O(N), N being the length that the value has afterwards",
        summary: "Sets or clears a bit of a value and answers what it was.",
        syntax: "key#0 offset:integer value:integer",
        run: setbit,
        subcommands: &[],
    },
    Command {
        name: "bitcount",
        arity: -2,
        flags: READONLY,
        keys: ONE_KEY,
        categories: "bitmap read slow",
        group: "bitmap",
        since: "2.6.0",
        complexity: "O(N), N being the length of the range",
        summary: "Counts the bits of a value that are set.",
        syntax: "key#0 [index(start:integer end:integer [index_unit(BYTE | BIT)@7.0.0])]",
        run: bitcount,
        subcommands: &[],
    },
    Command {
        name: "bitpos",
        arity: -3,
        flags: READONLY,
        keys: ONE_KEY,
        categories: "bitmap read slow",
        group: "bitmap",
        since: "2.8.7",
        complexity: "O(N), N being the length of the range",
        summary: "Finds the first bit of a value that is set, or clear.",
        syntax: "key#0 bit:integer [index(start:integer [end_index(end:integer [index_unit(BYTE | BIT)@7.0.0])])]",
        run: bitpos,
        subcommands: &[],
    },
    Command {
        name: "bitop",
        arity: -4,
        flags: WRITE | DENYOOM,
        keys: Keys { first: 2, last: -1, step: 1 },
        categories: "bitmap slow write",
        group: "bitmap",
        since: "2.6.0",
        complexity: "O(N), N being the length of the longest value",
        summary: "Combines values bit by bit and stores the result.",
        syntax: "operation destkey#0 key#1...",
        run: bitop,
        subcommands: &[],
    },
    Command {
        name: "bitfield",
        arity: -2,
        flags: WRITE | DENYOOM,
        keys: ONE_KEY,
        categories: "bitmap slow write",
        group: "bitmap",
        since: "3.2.0",
        complexity: "O(1) for each operation, and O(N) to write, N being the length that the value has afterwards",
        summary: "Reads and writes integers of any width inside a value.",
        syntax: "key#0 [operation(GET encoding_offset(encoding offset:integer) | \
                 write([OVERFLOW wrap_sat_fail(WRAP | SAT | FAIL)] write_operation(\
                 SET encoding_offset_value(encoding offset:integer value:integer) | \
                 INCRBY encoding_offset_increment(encoding offset:integer increment:integer))))...]",
        run: bitfield,
        subcommands: &[],
    },
    Command {
        name: "bitfield_ro",
        arity: -2,
        flags: READONLY | FAST,
        keys: ONE_KEY,
        categories: "bitmap fast read",
        group: "bitmap",
        since: "6.0.0",
        complexity: "O(1) for each operation",
        summary: "Reads integers of any width inside a value.",
        syntax: "key#0 [GET encoding_offset(encoding offset:integer)]...",
        run: bitfield_ro,
        subcommands: &[],
    },
];

const NO_OFFSET: &str = "ERR bit offset is not an integer or out of range";

/// An argument that says where a bit is, or where a field of so many bits begins.
fn offset(call: &Call<'_, '_>, index: usize, field_bits: Option<u32>) -> Result<u64> {
    let bytes_max = call.shared.argument_bytes_max.load(Ordering::Relaxed);
    bits::parse_offset(call.argument(index), field_bits, bytes_max).ok_or(Failure::from(NO_OFFSET))
}

fn getbit(call: &mut Call<'_, '_>) -> Result<()> {
    let (key, offset) = (call.key(1), offset(call, 2, None)?);
    let bit = look_at(call.space, &key, |value| bits::get_bit(value, offset))?;
    call.reply.flag(bit.unwrap_or(false));
    Ok(())
}

fn setbit(call: &mut Call<'_, '_>) -> Result<()> {
    let (key, offset) = (call.key(1), offset(call, 2, None)?);
    let bit = match parse_integer(call.argument(3)) {
        Some(0) => false,
        Some(1) => true,
        _ => return Err(Failure::from("ERR bit is not an integer or out of range")),
    };
    let store = call.space.store();
    let (old, is_changed) = call.space.update(&key, |current| {
        let (value, kept) = parts(current);
        if offset >> 3 < value.len() as u64 && bits::get_bit(value, offset) == bit {
            return Ok((Update::Keep, (bit, false)));
        }
        // Before it is made: a few bytes that a client sends must not become half a GiB that the store refuses.
        store.check_value_len((offset >> 3) + 1)?;
        let mut value = value.to_vec();
        let old = bits::set_bit(&mut value, offset, bit);
        Ok((set_bytes(value, kept), (old, true)))
    })?;
    if is_changed {
        call.note(STRING, "setbit", &key);
    }
    call.reply.flag(old);
    Ok(())
}

/// An argument that says what the ends of a range count.
fn unit(call: &Call<'_, '_>, index: usize) -> Result<Unit> {
    if call.is(index, "BIT") {
        Ok(Unit::Bit)
    } else if call.is(index, "BYTE") {
        Ok(Unit::Byte)
    } else {
        Err(Failure::from(SYNTAX))
    }
}

fn bitcount(call: &mut Call<'_, '_>) -> Result<()> {
    let key = call.key(1);
    // Of a missing key the range may be nonsense.
    let range = count_range(call);
    let count = look_at(call.space, &key, |value| range.map(|range| bits::count(value, range)))?;
    call.reply.count(count.unwrap_or(Ok(0))?);
    Ok(())
}

fn count_range(call: &Call<'_, '_>) -> Result<Option<(i64, i64, Unit)>> {
    let arguments = call.arguments.len();
    if arguments == 2 {
        return Ok(None);
    }
    if !(4..=5).contains(&arguments) {
        return Err(Failure::from(SYNTAX));
    }
    let (first, last) = (call.integer(2)?, call.integer(3)?);
    let is_reversed = first < 0 && last < 0 && first > last;
    // Redis has answered by then.
    let unit = if arguments == 5 && !is_reversed { unit(call, 4)? } else { Unit::Byte };
    Ok(Some((first, last, unit)))
}

fn bitpos(call: &mut Call<'_, '_>) -> Result<()> {
    let key = call.key(1);
    let bit = match call.integer(2)? {
        0 => false,
        1 => true,
        _ => return Err(Failure::from("ERR The bit argument must be 1 or 0.")),
    };
    // Of a missing key the range may be nonsense.
    let span = position_span(call);
    let found = look_at(call.space, &key, |value| span.map(|span| bits::position(value, bit, span)))?;
    match found {
        Some(found) => call.reply.integer(found?.map_or(-1, |position| position as i64)),
        None => call.reply.integer(if bit { -1 } else { 0 }),
    }
    Ok(())
}

fn position_span(call: &Call<'_, '_>) -> Result<Span> {
    Ok(match call.arguments.len() {
        3 => Span::Whole,
        4 => Span::From(call.integer(3)?),
        5 => Span::Between(call.integer(3)?, call.integer(4)?, Unit::Byte),
        6 => {
            let (first, unit) = (call.integer(3)?, unit(call, 5)?);
            Span::Between(first, call.integer(4)?, unit)
        }
        _ => return Err(Failure::from(SYNTAX)),
    })
}

fn bitop(call: &mut Call<'_, '_>) -> Result<()> {
    let combination = if call.is(1, "AND") {
        Some(Combination::And)
    } else if call.is(1, "OR") {
        Some(Combination::Or)
    } else if call.is(1, "XOR") {
        Some(Combination::Xor)
    } else if call.is(1, "NOT") {
        None
    } else {
        return Err(Failure::from(SYNTAX));
    };
    if combination.is_none() && call.arguments.len() != 4 {
        return Err(Failure::from("ERR BITOP NOT must be called with a single source key."));
    }
    let target = call.key(2);
    let sources: Vec<_> = (3..call.arguments.len()).map(|index| call.key(index)).collect();
    let length = call.space.atomically(|space| {
        let mut result = Vec::new();
        // Source by source: there may be more of them than memory has room for.
        for (index, source) in sources.iter().enumerate() {
            let found = space.get(source)?;
            if found.is_none() {
                space.events.note_miss(source);
            }
            let value = found.map(|(_, value)| value).unwrap_or_default();
            match combination {
                None => result = bits::complement(&value),
                Some(_) if index == 0 => result = value,
                Some(combination) => bits::combine(combination, &mut result, &value),
            }
        }
        if result.is_empty() {
            if space.delete(&target)? {
                space.events.note(GENERIC, "del", &target);
            }
        } else {
            space.set(&target, &result, &SetOptions::default())?;
            space.events.note(STRING, "set", &target);
        }
        Ok(result.len())
    })?;
    call.reply.count(length as u64);
    Ok(())
}

fn bitfield(call: &mut Call<'_, '_>) -> Result<()> {
    let operations = operations(call)?;
    if !has_writes(&operations) {
        return read_fields(call, &operations);
    }
    let key = call.key(1);
    let store = call.space.store();
    let (replies, is_changed) = call.space.update(&key, |current| {
        let (value, kept) = parts(current);
        store.check_value_len(bitfield::bytes_written(&operations) as u64)?;
        let mut value = value.to_vec();
        let applied = bitfield::apply(&mut value, &operations);
        let update = if applied.is_changed { set_bytes(value, kept) } else { Update::Keep };
        Ok((update, (applied.replies, applied.is_changed)))
    })?;
    if is_changed {
        call.note(STRING, "setbit", &key);
    }
    reply_fields(call, &replies);
    Ok(())
}

fn bitfield_ro(call: &mut Call<'_, '_>) -> Result<()> {
    let operations = operations(call)?;
    if has_writes(&operations) {
        return Err(Failure::from("ERR BITFIELD_RO only supports the GET subcommand"));
    }
    read_fields(call, &operations)
}

fn has_writes(operations: &[Operation]) -> bool {
    operations.iter().any(|operation| operation.action != Action::Get)
}

fn read_fields(call: &mut Call<'_, '_>, operations: &[Operation]) -> Result<()> {
    let key = call.key(1);
    let read = |value: &[u8]| -> Vec<Option<i64>> {
        operations
            .iter()
            .map(|operation| Some(bitfield::get(value, operation.field, operation.offset)))
            .collect()
    };
    let replies = look_at(call.space, &key, read)?.unwrap_or_else(|| read(b""));
    reply_fields(call, &replies);
    Ok(())
}

fn reply_fields(call: &mut Call<'_, '_>, replies: &[Option<i64>]) {
    call.reply.array(replies.len());
    for reply in replies {
        match reply {
            Some(number) => call.reply.integer(*number),
            None => call.reply.null(),
        }
    }
}

/// What a BITFIELD is to do.
fn operations(call: &Call<'_, '_>) -> Result<Vec<Operation>> {
    let mut operations = Vec::new();
    let mut overflow = Overflow::default();
    let mut index = 2;
    while index < call.arguments.len() {
        let following = call.arguments.len() - index - 1;
        if call.is(index, "OVERFLOW") && following >= 1 {
            overflow = overflow_mode(call, index + 1)?;
            index += 2;
            continue;
        }
        let has_value = if call.is(index, "GET") && following >= 2 {
            false
        } else if (call.is(index, "SET") || call.is(index, "INCRBY")) && following >= 3 {
            true
        } else {
            return Err(Failure::from(SYNTAX));
        };
        let field = FieldType::parse(call.argument(index + 1)).ok_or(
            "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.",
        )?;
        let offset = offset(call, index + 2, Some(field.bits()))?;
        let action = if !has_value {
            Action::Get
        } else if call.is(index, "SET") {
            Action::Set(call.integer(index + 3)?)
        } else {
            Action::Increment(call.integer(index + 3)?)
        };
        operations.push(Operation { field, offset, action, overflow });
        index += if has_value { 4 } else { 3 };
    }
    Ok(operations)
}

fn overflow_mode(call: &Call<'_, '_>, index: usize) -> Result<Overflow> {
    if call.is(index, "WRAP") {
        Ok(Overflow::Wrap)
    } else if call.is(index, "SAT") {
        Ok(Overflow::Saturate)
    } else if call.is(index, "FAIL") {
        Ok(Overflow::Fail)
    } else {
        Err(Failure::from("ERR Invalid OVERFLOW type specified"))
    }
}
