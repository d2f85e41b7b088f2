//! Commands on strings.

use crate::failure::{Failure, Result};
use crate::redis::call::{Call, SYNTAX};
use crate::redis::table::{Command, ONE_KEY, flags};
use thermae_core::{Condition, SetOptions};

use flags::{DENYOOM, FAST, READONLY, WRITE};

/// The rows.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "get",
        arity: 2,
        flags: READONLY | FAST,
        keys: ONE_KEY,
        categories: "fast read string",
        group: "string",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "Answers the value of a key.",
        run: get,
        subcommands: &[],
    },
    Command {
        name: "set",
        arity: -3,
        flags: WRITE | DENYOOM,
        keys: ONE_KEY,
        categories: "slow string write",
        group: "string",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "Stores a value, whatever the key held, and says when it expires.",
        run: set,
        subcommands: &[],
    },
];

fn get(call: &mut Call<'_, '_>) -> Result<()> {
    let key = call.key(1);
    reply_value(call, &key)
}

/// Replies with the value of a key: copied once, from where it is stored to where the reply is.
#[inline]
fn reply_value(call: &mut Call<'_, '_>, key: &[u8]) -> Result<()> {
    if !call.space.is_plain() {
        match call.space.get(key)? {
            Some((_, value)) => call.reply.bulk(&value),
            None => call.reply.null(),
        }
        return Ok(());
    }
    let start = call.reply.position();
    let reply = &mut call.reply;
    let found = call.space.store().get_into(key, |meta| {
        // May be asked again, when the value moved under the reader.
        reply.take_back(start);
        reply.bulk_space(meta.value_len as usize)
    })?;
    match found {
        // SAFETY: the store wrote as many bytes as it asked for last.
        Some(meta) => unsafe { call.reply.end_bulk(meta.value_len as usize) },
        None => {
            call.reply.take_back(start);
            call.reply.null();
        }
    }
    Ok(())
}

fn set(call: &mut Call<'_, '_>) -> Result<()> {
    let key = call.key(1);
    let mut options = SetOptions::default();
    if call.arguments.len() > 3 {
        if call.arguments.len() == 4 && call.is(3, "NX") {
            options.condition = Condition::IfAbsent;
        } else {
            return Err(Failure::from(SYNTAX));
        }
    }
    if call.space.set(&key, call.argument(2), &options)? {
        call.reply.ok();
    } else {
        call.reply.null();
    }
    Ok(())
}
