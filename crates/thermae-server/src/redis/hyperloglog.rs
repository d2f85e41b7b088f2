//! Commands on HyperLogLogs: sketches that count distinct elements.
//!
//! A sketch is a string with Redis's own bytes in it, and what it says is in [`crate::hyperloglog`]. As in Redis, an estimate is kept in the sketch, so that the
//! next PFCOUNT need not make it again; where it can't be kept, for lack of room or of leave to write, it is answered all the same.

use crate::error::Error;
use crate::events::classes::STRING;
use crate::failure::{Failure, Result};
use crate::hyperloglog::{self, Union};
use crate::redis::call::Call;
use crate::redis::table::{ALL_KEYS, Command, ONE_KEY, flags};
use crate::redis::values::{look_at, parts, set_bytes};
use crate::space::Space;
use std::borrow::Cow;
use thermae_core::{SetOptions, Update};

use flags::{DENYOOM, FAST, MAY_REPLICATE, READONLY, WRITE};

/// The rows.
pub static COMMANDS: &[Command] = &[
    Command {
        name: "pfadd",
        arity: -2,
        flags: WRITE | DENYOOM | FAST,
        keys: ONE_KEY,
        categories: "fast hyperloglog write",
        group: "hyperloglog",
        since: "2.8.9",
        complexity: "O(1) for each element",
        summary: "Adds elements to a sketch that counts distinct ones.",
        syntax: "key#0 [element...]",
        run: pfadd,
        subcommands: &[],
    },
    Command {
        name: "pfcount",
        arity: -2,
        flags: READONLY | MAY_REPLICATE,
        keys: ALL_KEYS,
        categories: "hyperloglog read slow",
        group: "hyperloglog",
        since: "2.8.9",
        complexity: "O(1) for one key, else O(N), N being the number of keys",
        summary: "Estimates how many distinct elements were added to one sketch, or to several together.",
        syntax: "key#0...",
        run: pfcount,
        subcommands: &[],
    },
    Command {
        name: "pfmerge",
        arity: -2,
        flags: WRITE | DENYOOM,
        keys: ALL_KEYS,
        categories: "hyperloglog slow write",
        group: "hyperloglog",
        since: "2.8.9",
        complexity: "O(N), N being the number of keys",
        summary: "Stores a sketch of all elements that several sketches have seen.",
        syntax: "destkey#0 sourcekey#1...",
        run: pfmerge,
        subcommands: &[],
    },
];

fn failure(error: Error) -> Failure {
    Failure::text(error.to_string())
}

/// A key's value.
fn read(space: &mut Space<'_>, key: &[u8]) -> Result<Option<Vec<u8>>> {
    let found = space.get(key)?;
    if found.is_none() {
        space.events.note_miss(key);
    }
    Ok(found.map(|(_, value)| value))
}

fn pfadd(call: &mut Call<'_, '_>) -> Result<()> {
    let (key, arguments) = (call.key(1), call.arguments);
    let is_changed = call.space.update(&key, |current| {
        let (value, kept) = parts(current);
        let mut is_changed = current.is_none();
        let mut sketch = if is_changed { hyperloglog::create() } else { value.to_vec() };
        hyperloglog::recognize(&sketch).map_err(failure)?;
        for element in arguments.from(2) {
            is_changed |= hyperloglog::add(&mut sketch, element).map_err(failure)?;
        }
        let update = if is_changed { set_bytes(sketch, kept) } else { Update::Keep };
        Ok((update, is_changed))
    })?;
    if is_changed {
        call.note(STRING, "pfadd", &key);
    }
    call.reply.flag(is_changed);
    Ok(())
}

fn pfcount(call: &mut Call<'_, '_>) -> Result<()> {
    if call.arguments.len() > 2 {
        return count_union(call);
    }
    let key = call.key(1);
    let Some(count) = look_at(call.space, &key, hyperloglog::count)? else {
        call.reply.integer(0);
        return Ok(());
    };
    let count = count.map_err(failure)?;
    if !count.was_cached {
        // The answer does not depend on it.
        drop(keep_count(call.space, &key));
    }
    call.reply.count(count.elements);
    Ok(())
}

fn keep_count(space: &mut Space<'_>, key: &[u8]) -> Result<()> {
    space.update(key, |current| {
        let (value, kept) = parts(current);
        let count = hyperloglog::count(value).map_err(failure)?;
        let mut sketch = value.to_vec();
        hyperloglog::store_count(&mut sketch, count.elements).map_err(failure)?;
        Ok((if count.was_cached { Update::Keep } else { set_bytes(sketch, kept) }, ()))
    })
}

/// What the sketches of these keys have seen together; those that are missing are left out.
fn union_of(space: &mut Space<'_>, keys: &[Cow<'_, [u8]>]) -> Result<Union> {
    let mut union = Union::default();
    for key in keys {
        if let Some(sketch) = read(space, key)? {
            union.take(&sketch).map_err(failure)?;
        }
    }
    Ok(union)
}

fn count_union(call: &mut Call<'_, '_>) -> Result<()> {
    let keys: Vec<_> = (1..call.arguments.len()).map(|index| call.key(index)).collect();
    let union = call.space.atomically(|space| union_of(space, &keys))?;
    call.reply.count(union.count());
    Ok(())
}

fn pfmerge(call: &mut Call<'_, '_>) -> Result<()> {
    let target = call.key(1);
    let keys: Vec<_> = (2..call.arguments.len()).map(|index| call.key(index)).collect();
    call.space.atomically(|space| {
        let mut merged = read(space, &target)?.unwrap_or_else(hyperloglog::create);
        // Where several are no sketches, the error is that of the first argument.
        hyperloglog::validate(&merged).map_err(failure)?;
        union_of(space, &keys)?.merge_into(&mut merged).map_err(failure)?;
        space.set(&target, &merged, &SetOptions { keep_ttl: true, ..SetOptions::default() })?;
        space.events.note(STRING, "pfadd", &target);
        Ok(())
    })?;
    call.reply.ok();
    Ok(())
}
