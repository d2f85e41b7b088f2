//! Commands on whole values: stored, answered, deleted, and when they expire.
//!
//! What reads and writes one key is one step of the store, decided on the version that was read; what concerns several keys is one
//! transaction. A value that expires at a time that has passed is not stored: its key is deleted.

use crate::attention::NEW_KEYS;
use crate::events::classes::{EXPIRED, GENERIC, KEY_MISS, STRING};
use crate::failure::{Failure, Result};
use crate::redis::call::{Call, SYNTAX};
use crate::redis::expiry_options::{Expiry, Lifetime, TimeUnit, has_passed};
use crate::redis::table::{ALL_KEYS, Command, Keys, ONE_KEY, flags};
use crate::redis::values::{ENCODING_BYTES, reply_bytes, reply_value};
use crate::space::Space;
use std::borrow::Cow;
use thermae_core::{BatchOp, Condition, SetOptions, Update};

use flags::{DENYOOM, FAST, READONLY, WRITE};

/// The rows.
pub static COMMANDS: &[Command] = &[
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
        syntax: "key#0",
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
        syntax: "key#0 value [condition(NX | XX)@2.6.12] [GET@6.2.0] [expiration(\
                 EX seconds:integer@2.6.12 | PX milliseconds:integer@2.6.12 | \
                 EXAT unix-time-seconds:unix-time@6.2.0 | PXAT unix-time-milliseconds:unix-time@6.2.0 | KEEPTTL@6.0.0)]",
        run: set,
        subcommands: &[],
    },
    Command {
        name: "setnx",
        arity: 3,
        flags: WRITE | DENYOOM | FAST,
        keys: ONE_KEY,
        categories: "fast string write",
        group: "string",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "Stores a value if the key is absent.",
        syntax: "key#0 value",
        run: setnx,
        subcommands: &[],
    },
    Command {
        name: "setex",
        arity: 4,
        flags: WRITE | DENYOOM,
        keys: ONE_KEY,
        categories: "slow string write",
        group: "string",
        since: "2.0.0",
        complexity: "O(1)",
        summary: "Stores a value that expires after so many seconds.",
        syntax: "key#0 seconds:integer value",
        run: setex,
        subcommands: &[],
    },
    Command {
        name: "psetex",
        arity: 4,
        flags: WRITE | DENYOOM,
        keys: ONE_KEY,
        categories: "slow string write",
        group: "string",
        since: "2.6.0",
        complexity: "O(1)",
        summary: "Stores a value that expires after so many milliseconds.",
        syntax: "key#0 milliseconds:integer value",
        run: psetex,
        subcommands: &[],
    },
    Command {
        name: "getset",
        arity: 3,
        flags: WRITE | DENYOOM | FAST,
        keys: ONE_KEY,
        categories: "fast string write",
        group: "string",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "Stores a value and answers the one before.",
        syntax: "key#0 value",
        run: getset,
        subcommands: &[],
    },
    Command {
        name: "getdel",
        arity: 2,
        flags: WRITE | FAST,
        keys: ONE_KEY,
        categories: "fast string write",
        group: "string",
        since: "6.2.0",
        complexity: "O(1)",
        summary: "Deletes a key and answers its value.",
        syntax: "key#0",
        run: getdel,
        subcommands: &[],
    },
    Command {
        name: "getex",
        arity: -2,
        flags: WRITE | FAST,
        keys: ONE_KEY,
        categories: "fast string write",
        group: "string",
        since: "6.2.0",
        complexity: "O(1)",
        summary: "Answers the value of a key and says when it expires.",
        syntax: "key#0 [expiration(EX seconds:integer | PX milliseconds:integer | \
                 EXAT unix-time-seconds:unix-time | PXAT unix-time-milliseconds:unix-time | PERSIST)]",
        run: getex,
        subcommands: &[],
    },
    Command {
        name: "mget",
        arity: -2,
        flags: READONLY | FAST,
        keys: ALL_KEYS,
        categories: "fast read string",
        group: "string",
        since: "1.0.0",
        complexity: "O(N), N being the number of keys",
        summary: "Answers the values of several keys.",
        syntax: "key#0...",
        run: mget,
        subcommands: &[],
    },
    Command {
        name: "mset",
        arity: -3,
        flags: WRITE | DENYOOM,
        keys: Keys { first: 1, last: -1, step: 2 },
        categories: "slow string write",
        group: "string",
        since: "1.0.1",
        complexity: "O(N), N being the number of keys",
        summary: "Stores several values at once.",
        syntax: "key_value(key#0 value)...",
        run: mset,
        subcommands: &[],
    },
    Command {
        name: "msetnx",
        arity: -3,
        flags: WRITE | DENYOOM,
        keys: Keys { first: 1, last: -1, step: 2 },
        categories: "slow string write",
        group: "string",
        since: "1.0.1",
        complexity: "O(N), N being the number of keys",
        summary: "Stores several values at once if all of their keys are absent.",
        syntax: "key_value(key#0 value)...",
        run: msetnx,
        subcommands: &[],
    },
];

/// Keys of one command that are looked up together, so that their cache misses overlap.
const BATCH_KEYS: usize = 32;

fn get(call: &mut Call<'_, '_>) -> Result<()> {
    let key = call.key(1);
    reply_value(call, &key)
}

fn set(call: &mut Call<'_, '_>) -> Result<()> {
    if call.arguments.len() > 3 {
        return set_with_options(call);
    }
    let key = call.key(1);
    call.space.set(&key, call.argument(2), &SetOptions::default())?;
    call.note(STRING, "set", &key);
    call.reply.ok();
    Ok(())
}

/// What SET is told beside key and value.
#[derive(Debug, Default)]
struct SetWords<'a> {
    condition: Condition,
    answers_old: bool,
    lifetime: Lifetime<'a>,
}

impl<'a> SetWords<'a> {
    fn parse(call: &Call<'a, '_>) -> Result<Self> {
        let mut words = Self::default();
        let mut index = 3;
        while index < call.arguments.len() {
            if call.is(index, "NX") && words.condition != Condition::IfPresent {
                words.condition = Condition::IfAbsent;
            } else if call.is(index, "XX") && words.condition != Condition::IfAbsent {
                words.condition = Condition::IfPresent;
            } else if call.is(index, "GET") {
                words.answers_old = true;
            } else {
                index += words.lifetime.take(call, index).ok_or(SYNTAX)?;
                continue;
            }
            index += 1;
        }
        if words.lifetime == Lifetime::Persist { Err(Failure::from(SYNTAX)) } else { Ok(words) }
    }
}

fn set_with_options(call: &mut Call<'_, '_>) -> Result<()> {
    let words = SetWords::parse(call)?;
    let expires_at_ms = match words.lifetime {
        Lifetime::Until(expiry) => expiry.at_ms(call.space.now_ms(), call.command.name)?,
        _ => 0,
    };
    let options = SetOptions {
        encoding: ENCODING_BYTES,
        expires_at_ms,
        keep_ttl: words.lifetime == Lifetime::Keep,
        condition: words.condition,
        ..SetOptions::default()
    };
    if words.answers_old {
        return exchange(call, 2, &options);
    }
    if store(call, 2, &options)? {
        call.reply.ok();
    } else {
        call.reply.null();
    }
    Ok(())
}

/// Whether a value may be stored where there is one, or none.
fn holds(condition: Condition, is_present: bool) -> bool {
    match condition {
        Condition::IfAbsent => !is_present,
        Condition::IfPresent => is_present,
        Condition::Always | Condition::IfVersion(_) => true,
    }
}

/// Stores the argument `value_index` at the key that is the first argument; false where the condition did not hold.
fn store(call: &mut Call<'_, '_>, value_index: usize, options: &SetOptions) -> Result<bool> {
    let key = call.key(1);
    let (now_ms, value) = (call.space.now_ms(), call.argument(value_index));
    let (is_stored, is_new) = if has_passed(options.expires_at_ms, now_ms) {
        call.space.update(&key, |current| {
            let holds = holds(options.condition, current.is_some());
            Ok((if holds { Update::Delete } else { Update::Keep }, (holds, current.is_none())))
        })?
    } else {
        (call.space.set(&key, value, options)?, false)
    };
    if is_stored {
        note_stored(call, &key, is_new, options.expires_at_ms, now_ms);
    }
    Ok(is_stored)
}

/// The same, answering the value before, whether or not the condition held.
fn exchange(call: &mut Call<'_, '_>, value_index: usize, options: &SetOptions) -> Result<()> {
    let (key, value) = (call.key(1), call.argument(value_index));
    let (now_ms, mark) = (call.space.now_ms(), call.space.events.mark());
    let old = call.space.update(&key, |current| {
        let update = if !holds(options.condition, current.is_some()) {
            Update::Keep
        } else if has_passed(options.expires_at_ms, now_ms) {
            Update::Delete
        } else {
            let expires_at_ms = match current {
                Some(current) if options.keep_ttl => current.meta.expires_at_ms,
                _ => options.expires_at_ms,
            };
            Update::Set { value: value.to_vec(), encoding: ENCODING_BYTES, expires_at_ms, flags: 0 }
        };
        Ok((update, current.map(|current| current.value.to_vec())))
    })?;
    // The change itself has noted that the key is new, if it is; it was looked for before.
    if old.is_none() {
        call.space.events.note_miss_before(&key, mark);
    }
    if holds(options.condition, old.is_some()) {
        let is_new = old.is_none() && has_passed(options.expires_at_ms, now_ms);
        note_stored(call, &key, is_new, options.expires_at_ms, now_ms);
    }
    reply_bytes(&mut call.reply, old.as_deref());
    Ok(())
}

/// Notes that a value was stored. One that had expired by then was there, as far as others are told; `is_new`: and nothing before it.
fn note_stored(call: &mut Call<'_, '_>, key: &[u8], is_new: bool, expires_at_ms: u64, now_ms: u64) {
    if is_new {
        call.space.events.note_new(key);
    }
    call.note(STRING, "set", key);
    if expires_at_ms != 0 {
        call.note(GENERIC, "expire", key);
        if has_passed(expires_at_ms, now_ms) {
            call.note(EXPIRED, "expired", key);
        }
    }
}

fn setnx(call: &mut Call<'_, '_>) -> Result<()> {
    let is_stored = store(call, 2, &SetOptions { condition: Condition::IfAbsent, ..SetOptions::default() })?;
    call.reply.flag(is_stored);
    Ok(())
}

fn setex(call: &mut Call<'_, '_>) -> Result<()> {
    set_for(call, TimeUnit::Seconds)
}

fn psetex(call: &mut Call<'_, '_>) -> Result<()> {
    set_for(call, TimeUnit::Milliseconds)
}

fn set_for(call: &mut Call<'_, '_>, unit: TimeUnit) -> Result<()> {
    let expiry = Expiry { amount: call.argument(2), unit, is_absolute: false };
    let expires_at_ms = expiry.at_ms(call.space.now_ms(), call.command.name)?;
    store(call, 3, &SetOptions { expires_at_ms, ..SetOptions::default() })?;
    call.reply.ok();
    Ok(())
}

fn getset(call: &mut Call<'_, '_>) -> Result<()> {
    exchange(call, 2, &SetOptions::default())
}

fn getdel(call: &mut Call<'_, '_>) -> Result<()> {
    let key = call.key(1);
    let old = call
        .space
        .update(&key, |current| Ok((Update::Delete, current.map(|current| current.value.to_vec()))))?;
    match old {
        Some(_) => call.note(GENERIC, "del", &key),
        None => call.space.events.note_miss(&key),
    }
    reply_bytes(&mut call.reply, old.as_deref());
    Ok(())
}

fn getex(call: &mut Call<'_, '_>) -> Result<()> {
    let key = call.key(1);
    let mut lifetime = Lifetime::default();
    let mut index = 2;
    while index < call.arguments.len() {
        index += lifetime.take(call, index).ok_or(SYNTAX)?;
    }
    let expiry = match lifetime {
        Lifetime::Unsaid => return reply_value(call, &key),
        Lifetime::Keep => return Err(Failure::from(SYNTAX)),
        Lifetime::Persist => None,
        Lifetime::Until(expiry) => Some(expiry),
    };
    let (now_ms, name) = (call.space.now_ms(), call.command.name);
    let mut event = None;
    let value = call.space.update(&key, |current| {
        let Some(current) = current else {
            event = Some((KEY_MISS, "keymiss"));
            return Ok((Update::Keep, None));
        };
        let expires_at_ms = expiry.map_or(Ok(0), |expiry| expiry.at_ms(now_ms, name))?;
        let value = current.value.to_vec();
        event = match expiry {
            None => (current.meta.expires_at_ms != 0).then_some((GENERIC, "persist")),
            Some(_) if has_passed(expires_at_ms, now_ms) => Some((GENERIC, "del")),
            Some(_) => Some((GENERIC, "expire")),
        };
        let update = if has_passed(expires_at_ms, now_ms) {
            Update::Delete
        } else if expires_at_ms == current.meta.expires_at_ms {
            Update::Keep
        } else {
            let (encoding, flags) = (current.meta.encoding, current.meta.flags);
            Update::Set { value: value.clone(), encoding, expires_at_ms, flags }
        };
        Ok((update, Some(value)))
    })?;
    if let Some((class, name)) = event {
        call.note(class, name, &key);
    }
    reply_bytes(&mut call.reply, value.as_deref());
    Ok(())
}

/// Each key is answered as it is then: others may change some of them meanwhile. Between MULTI and EXEC they can't.
fn mget(call: &mut Call<'_, '_>) -> Result<()> {
    let keys: Vec<Cow<'_, [u8]>> = (1..call.arguments.len()).map(|index| call.key(index)).collect();
    call.reply.array(keys.len());
    for batch in keys.chunks(BATCH_KEYS) {
        if call.space.is_plain() {
            call.space.store().prefetch(batch.iter().map(|key| &**key));
        }
        for key in batch {
            reply_value(call, key)?;
        }
    }
    Ok(())
}

/// A key, as the store has it, and its value.
type Pair<'a> = (Cow<'a, [u8]>, &'a [u8]);

/// What MSET and MSETNX are to store.
fn pairs<'a>(call: &Call<'a, '_>) -> Result<Vec<Pair<'a>>> {
    if call.arguments.len().is_multiple_of(2) {
        let name = call.command.name;
        return Err(Failure::text(format!("ERR wrong number of arguments for '{name}' command")));
    }
    Ok((1..call.arguments.len())
        .step_by(2)
        .map(|index| (call.key(index), call.argument(index + 1)))
        .collect())
}

fn set_all(space: &mut Space<'_>, pairs: &[Pair<'_>]) -> Result<()> {
    for (key, value) in pairs {
        space.set(key, value, &SetOptions::default())?;
        space.events.note(STRING, "set", key);
    }
    Ok(())
}

fn mset(call: &mut Call<'_, '_>) -> Result<()> {
    let pairs = pairs(call)?;
    if call.space.is_plain() && pairs.len() > 1 && !call.space.events.wants(NEW_KEYS) {
        let set =
            |(key, value)| BatchOp::Set { key, value, encoding: ENCODING_BYTES, expires_at_ms: 0, flags: 0 };
        let ops: Vec<BatchOp<'_>> = pairs.iter().map(|(key, value)| set((&**key, *value))).collect();
        call.space.store().transaction(&ops, &[])?;
        for (key, _) in &pairs {
            call.space.events.note_change(key);
            call.note(STRING, "set", key);
        }
    } else if let [(key, value)] = &pairs[..] {
        call.space.set(key, value, &SetOptions::default())?;
        call.note(STRING, "set", key);
    } else {
        call.space.atomically(|space| set_all(space, &pairs))?;
    }
    call.reply.ok();
    Ok(())
}

fn msetnx(call: &mut Call<'_, '_>) -> Result<()> {
    let pairs = pairs(call)?;
    let is_stored = call.space.atomically(|space| {
        for (key, _) in &pairs {
            if space.meta(key)?.is_some() {
                return Ok(false);
            }
        }
        set_all(space, &pairs)?;
        Ok(true)
    })?;
    call.reply.flag(is_stored);
    Ok(())
}
