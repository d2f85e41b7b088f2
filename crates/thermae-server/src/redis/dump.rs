//! DUMP and RESTORE: values as bytes that another server takes, Redis itself included.

use crate::failure::{Failure, Result};
use crate::redis::call::{Call, SYNTAX};
use crate::redis::payload::{Refused, decode_string, encode_string};
use crate::redis::table::{Command, ONE_KEY, flags};
use thermae_core::{Condition, SetOptions};

use flags::{DENYOOM, READONLY, WRITE};

/// The rows.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "dump",
        arity: 2,
        flags: READONLY,
        keys: ONE_KEY,
        categories: "keyspace read slow",
        group: "generic",
        since: "2.6.0",
        complexity: "O(N), N being the bytes of the value",
        summary: "Answers a key's value as bytes that RESTORE takes.",
        run: dump,
        subcommands: &[],
    },
    Command {
        name: "restore",
        arity: -4,
        flags: WRITE | DENYOOM,
        keys: ONE_KEY,
        categories: "dangerous keyspace slow write",
        group: "generic",
        since: "2.6.0",
        complexity: "O(N), N being the bytes of the value",
        summary: "Stores a value that DUMP answered.",
        run: restore,
        subcommands: &[],
    },
];

/// The error for a key that is there already.
const BUSY: &str = "BUSYKEY Target key name already exists.";
/// Greatest frequency.
const FREQUENCY_MAX: i64 = 255;

fn dump(call: &mut Call<'_, '_>) -> Result<()> {
    let key = call.key(1);
    match call.space.get(&key)? {
        Some((_, value)) => call.reply.bulk(&encode_string(&value)),
        None => call.reply.null(),
    }
    Ok(())
}

/// What RESTORE was told. How idle or how often used a key is says nothing to a store that finds out by itself.
#[derive(Debug, Default)]
struct Options {
    replaces: bool,
    /// The expiry is a moment.
    is_absolute: bool,
}

impl Options {
    fn parse(call: &Call<'_, '_>) -> Result<Self> {
        let mut options = Self::default();
        let (mut has_idle_time, mut has_frequency) = (false, false);
        let mut index = 4;
        while index < call.arguments.len() {
            let has_value = index + 1 < call.arguments.len();
            if call.is(index, "REPLACE") {
                options.replaces = true;
            } else if call.is(index, "ABSTTL") {
                options.is_absolute = true;
            } else if call.is(index, "IDLETIME") && has_value && !has_frequency {
                index += 1;
                if call.integer(index)? < 0 {
                    return Err(Failure::from("ERR Invalid IDLETIME value, must be >= 0"));
                }
                has_idle_time = true;
            } else if call.is(index, "FREQ") && has_value && !has_idle_time {
                index += 1;
                if !(0..=FREQUENCY_MAX).contains(&call.integer(index)?) {
                    return Err(Failure::from("ERR Invalid FREQ value, must be >= 0 and <= 255"));
                }
                has_frequency = true;
            } else {
                return Err(Failure::from(SYNTAX));
            }
            index += 1;
        }
        Ok(options)
    }
}

fn restore(call: &mut Call<'_, '_>) -> Result<()> {
    let options = Options::parse(call)?;
    let key = call.key(1);
    if !options.replaces && call.space.meta(&key)?.is_some() {
        return Err(Failure::from(BUSY));
    }
    let ttl_ms =
        u64::try_from(call.integer(2)?).map_err(|_| Failure::from("ERR Invalid TTL value, must be >= 0"))?;
    let value = decode_string(call.argument(3)).map_err(|refused| match refused {
        Refused::Footer => "ERR DUMP payload version or checksum are wrong",
        Refused::Value => "ERR Bad data format",
    })?;
    let now_ms = call.space.now_ms();
    let expires_at_ms = match ttl_ms {
        0 => 0,
        moment_ms if options.is_absolute => moment_ms,
        // A sum that Redis's signed integers can't hold is a moment long past there.
        ttl_ms => ttl_ms.checked_add(now_ms).filter(|sum| i64::try_from(*sum).is_ok()).unwrap_or(1),
    };
    if expires_at_ms != 0 && expires_at_ms <= now_ms {
        call.space.delete(&key)?;
    } else {
        let condition = if options.replaces { Condition::Always } else { Condition::IfAbsent };
        let options = SetOptions { expires_at_ms, condition, ..SetOptions::default() };
        // Looked at again: somebody else may have stored the key meanwhile.
        if !call.space.set(&key, &value, &options)? {
            return Err(Failure::from(BUSY));
        }
    }
    call.reply.ok();
    Ok(())
}
