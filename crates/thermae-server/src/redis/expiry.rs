//! Commands about when keys expire.
//!
//! Moments are those of the store's clock, in milliseconds since 1970; one that is past deletes the key at once, so that none is ever stored. All
//! commands that set one do what PEXPIREAT does, with another unit or another beginning.

use crate::events::classes::GENERIC;
use crate::failure::{Failure, Result};
use crate::redis::call::Call;
use crate::redis::table::{Command, ONE_KEY, flags};
use thermae_core::{RecordMeta, Update};

use flags::{FAST, READONLY, WRITE};

/// The rows.
pub static COMMANDS: &[Command] = &[
    Command {
        name: "expire",
        arity: -3,
        flags: WRITE | FAST,
        keys: ONE_KEY,
        categories: "fast keyspace write",
        group: "generic",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "Says in how many seconds a key expires.",
        syntax: "key#0 seconds:integer [condition(NX | XX | GT | LT)@7.0.0]",
        run: expire,
        subcommands: &[],
    },
    Command {
        name: "pexpire",
        arity: -3,
        flags: WRITE | FAST,
        keys: ONE_KEY,
        categories: "fast keyspace write",
        group: "generic",
        since: "2.6.0",
        complexity: "O(1)",
        summary: "Says in how many milliseconds a key expires.",
        syntax: "key#0 milliseconds:integer [condition(NX | XX | GT | LT)@7.0.0]",
        run: pexpire,
        subcommands: &[],
    },
    Command {
        name: "expireat",
        arity: -3,
        flags: WRITE | FAST,
        keys: ONE_KEY,
        categories: "fast keyspace write",
        group: "generic",
        since: "1.2.0",
        complexity: "O(1)",
        summary: "Says when a key expires, in seconds since 1970.",
        syntax: "key#0 unix-time-seconds:unix-time [condition(NX | XX | GT | LT)@7.0.0]",
        run: expireat,
        subcommands: &[],
    },
    Command {
        name: "pexpireat",
        arity: -3,
        flags: WRITE | FAST,
        keys: ONE_KEY,
        categories: "fast keyspace write",
        group: "generic",
        since: "2.6.0",
        complexity: "O(1)",
        summary: "Says when a key expires, in milliseconds since 1970.",
        syntax: "key#0 unix-time-milliseconds:unix-time [condition(NX | XX | GT | LT)@7.0.0]",
        run: pexpireat,
        subcommands: &[],
    },
    Command {
        name: "ttl",
        arity: 2,
        flags: READONLY | FAST,
        keys: ONE_KEY,
        categories: "fast keyspace read",
        group: "generic",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "Answers how many seconds a key has left: -1 where it never expires, -2 where it is absent.",
        syntax: "key#0",
        run: ttl,
        subcommands: &[],
    },
    Command {
        name: "pttl",
        arity: 2,
        flags: READONLY | FAST,
        keys: ONE_KEY,
        categories: "fast keyspace read",
        group: "generic",
        since: "2.6.0",
        complexity: "O(1)",
        summary: "Answers how many milliseconds a key has left: -1 where it never expires, -2 where it is absent.",
        syntax: "key#0",
        run: pttl,
        subcommands: &[],
    },
    Command {
        name: "expiretime",
        arity: 2,
        flags: READONLY | FAST,
        keys: ONE_KEY,
        categories: "fast keyspace read",
        group: "generic",
        since: "7.0.0",
        complexity: "O(1)",
        summary: "Answers when a key expires, in seconds since 1970: -1 where it never does, -2 where it is absent.",
        syntax: "key#0",
        run: expiretime,
        subcommands: &[],
    },
    Command {
        name: "pexpiretime",
        arity: 2,
        flags: READONLY | FAST,
        keys: ONE_KEY,
        categories: "fast keyspace read",
        group: "generic",
        since: "7.0.0",
        complexity: "O(1)",
        summary: "Answers when a key expires, in milliseconds since 1970: -1 where it never does, -2 where it is absent.",
        syntax: "key#0",
        run: pexpiretime,
        subcommands: &[],
    },
    Command {
        name: "persist",
        arity: 2,
        flags: WRITE | FAST,
        keys: ONE_KEY,
        categories: "fast keyspace write",
        group: "generic",
        since: "2.2.0",
        complexity: "O(1)",
        summary: "Has a key never expire; answers whether it would have.",
        syntax: "key#0",
        run: persist,
        subcommands: &[],
    },
];

const MS_PER_SECOND: i64 = 1000;

/// Under which conditions a key's expiry is changed.
#[derive(Debug, Clone, Copy, Default)]
struct Conditions {
    /// If it never expires.
    nx: bool,
    /// If it does.
    xx: bool,
    /// If it would expire earlier.
    gt: bool,
    /// If it would expire later.
    lt: bool,
}

impl Conditions {
    fn parse(call: &Call<'_, '_>) -> Result<Self> {
        let mut conditions = Self::default();
        for index in 3..call.arguments.len() {
            let condition = match &*call.argument(index).to_ascii_lowercase() {
                b"nx" => &mut conditions.nx,
                b"xx" => &mut conditions.xx,
                b"gt" => &mut conditions.gt,
                b"lt" => &mut conditions.lt,
                _ => {
                    let shown = String::from_utf8_lossy(call.argument(index));
                    return Err(Failure::text(format!("ERR Unsupported option {shown}")));
                }
            };
            *condition = true;
        }
        if conditions.nx && (conditions.xx || conditions.gt || conditions.lt) {
            return Err(Failure::from("ERR NX and XX, GT or LT options at the same time are not compatible"));
        }
        if conditions.gt && conditions.lt {
            return Err(Failure::from("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(conditions)
    }

    /// Whether they hold for a key that expires now and then; one that never does counts as the latest.
    fn hold(self, present_ms: u64, wanted_ms: i64) -> bool {
        let never = present_ms == 0;
        let present_ms = i64::try_from(present_ms).unwrap_or(i64::MAX);
        !(self.nx && !never
            || self.xx && never
            || self.gt && (never || wanted_ms <= present_ms)
            || self.lt && !never && wanted_ms >= present_ms)
    }
}

fn expire(call: &mut Call<'_, '_>) -> Result<()> {
    let now_ms = now_ms(call);
    set_expiry(call, MS_PER_SECOND, now_ms)
}

fn pexpire(call: &mut Call<'_, '_>) -> Result<()> {
    let now_ms = now_ms(call);
    set_expiry(call, 1, now_ms)
}

fn expireat(call: &mut Call<'_, '_>) -> Result<()> {
    set_expiry(call, MS_PER_SECOND, 0)
}

fn pexpireat(call: &mut Call<'_, '_>) -> Result<()> {
    set_expiry(call, 1, 0)
}

fn now_ms(call: &Call<'_, '_>) -> i64 {
    i64::try_from(call.space.now_ms()).unwrap_or(i64::MAX)
}

/// Has a key expire so many units after a moment.
fn set_expiry(call: &mut Call<'_, '_>, unit_ms: i64, from_ms: i64) -> Result<()> {
    let conditions = Conditions::parse(call)?;
    let wanted_ms = call.integer(2)?.checked_mul(unit_ms).and_then(|span_ms| span_ms.checked_add(from_ms));
    let Some(wanted_ms) = wanted_ms else {
        return Err(Failure::text(format!("ERR invalid expire time in '{}' command", call.command.name)));
    };
    let expires_at_ms = u64::try_from(wanted_ms).ok().filter(|wanted_ms| *wanted_ms > call.space.now_ms());
    let key = call.key(1);
    let is_set = call.space.update(&key, |current| {
        let Some(current) = current.filter(|current| conditions.hold(current.meta.expires_at_ms, wanted_ms))
        else {
            return Ok((Update::Keep, false));
        };
        let update = match expires_at_ms {
            Some(expires_at_ms) => {
                let (encoding, flags) = (current.meta.encoding, current.meta.flags);
                Update::Set { value: current.value.to_vec(), encoding, expires_at_ms, flags }
            }
            None => Update::Delete,
        };
        Ok((update, true))
    })?;
    if is_set {
        call.note(GENERIC, if expires_at_ms.is_some() { "expire" } else { "del" }, &key);
    }
    call.reply.flag(is_set);
    Ok(())
}

fn persist(call: &mut Call<'_, '_>) -> Result<()> {
    let key = call.key(1);
    let is_changed = call.space.update(&key, |current| {
        Ok(match current.filter(|current| current.meta.expires_at_ms != 0) {
            Some(current) => {
                let (encoding, flags) = (current.meta.encoding, current.meta.flags);
                (Update::Set { value: current.value.to_vec(), encoding, expires_at_ms: 0, flags }, true)
            }
            None => (Update::Keep, false),
        })
    })?;
    if is_changed {
        call.note(GENERIC, "persist", &key);
    }
    call.reply.flag(is_changed);
    Ok(())
}

fn ttl(call: &mut Call<'_, '_>) -> Result<()> {
    reply_expiry(call, |expires_at_ms, now_ms| seconds(expires_at_ms.saturating_sub(now_ms)))
}

fn pttl(call: &mut Call<'_, '_>) -> Result<()> {
    reply_expiry(call, u64::saturating_sub)
}

fn expiretime(call: &mut Call<'_, '_>) -> Result<()> {
    reply_expiry(call, |expires_at_ms, _| seconds(expires_at_ms))
}

fn pexpiretime(call: &mut Call<'_, '_>) -> Result<()> {
    reply_expiry(call, |expires_at_ms, _| expires_at_ms)
}

/// To the nearest second.
fn seconds(ms: u64) -> u64 {
    ms.saturating_add(500) / 1000
}

/// Replies with a number made of when the key expires and what time it is.
fn reply_expiry(call: &mut Call<'_, '_>, number: impl FnOnce(u64, u64) -> u64) -> Result<()> {
    let key = call.key(1);
    match call.space.meta(&key)? {
        None => {
            call.space.events.note_miss(&key);
            call.reply.integer(-2);
        }
        Some(RecordMeta { expires_at_ms: 0, .. }) => call.reply.integer(-1),
        Some(meta) => {
            let now_ms = call.space.now_ms();
            call.reply.count(number(meta.expires_at_ms, now_ms));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::redis::test_support::TestServer;

    #[test]
    fn expiries_are_set_under_conditions() {
        TestServer::new().check(&[
            ("set b 1", "+OK\r\n"),
            ("expire b x", "-ERR value is not an integer or out of range\r\n"),
            ("expire b 10 foo", "-ERR Unsupported option foo\r\n"),
            ("expire b 10 nx xx", "-ERR NX and XX, GT or LT options at the same time are not compatible\r\n"),
            ("expire b 10 gt lt", "-ERR GT and LT options at the same time are not compatible\r\n"),
            ("expire b 10 NX GT", "-ERR NX and XX, GT or LT options at the same time are not compatible\r\n"),
            ("expire b x foo", "-ERR Unsupported option foo\r\n"),
            ("expire b 9223372036854775807", "-ERR invalid expire time in 'expire' command\r\n"),
            ("expire b 9223372036854775", "-ERR invalid expire time in 'expire' command\r\n"),
            ("expire b -9223372036854775808", "-ERR invalid expire time in 'expire' command\r\n"),
            ("pexpire b 9223372036854775807", "-ERR invalid expire time in 'pexpire' command\r\n"),
            ("expireat b 9223372036854775807", "-ERR invalid expire time in 'expireat' command\r\n"),
            ("expireat b x", "-ERR value is not an integer or out of range\r\n"),
            ("expire zz 10", ":0\r\n"),
            ("expire", "-ERR wrong number of arguments for 'expire' command\r\n"),
            ("pexpireat b 9223372036854775807", ":1\r\n"),
            ("expiretime b", ":9223372036854776\r\n"),
            ("pexpiretime b", ":9223372036854775807\r\n"),
            ("persist b", ":1\r\n"),
            ("persist b", ":0\r\n"),
            ("persist zz", ":0\r\n"),
            ("ttl b", ":-1\r\n"),
            ("pttl b", ":-1\r\n"),
            ("expiretime b", ":-1\r\n"),
            ("pexpiretime b", ":-1\r\n"),
            ("ttl zz", ":-2\r\n"),
            ("pttl zz", ":-2\r\n"),
            ("expiretime zz", ":-2\r\n"),
            ("pexpiretime zz", ":-2\r\n"),
            ("expire b 100 xx", ":0\r\n"),
            ("expire b 100 gt", ":0\r\n"),
            ("expire b 100 lt", ":1\r\n"),
            ("expire b 200 lt", ":0\r\n"),
            ("expire b 200 gt", ":1\r\n"),
            ("expire b 200 nx", ":0\r\n"),
            ("expire b 300 xx gt", ":1\r\n"),
            ("expire b 300 xx xx", ":1\r\n"),
            ("ttl b", ":300\r\n"),
            ("get b", "$1\r\n1\r\n"),
            ("expireat b 4102444800", ":1\r\n"),
            ("expiretime b", ":4102444800\r\n"),
            ("pexpiretime b", ":4102444800000\r\n"),
            ("pexpireat b 4102444801499", ":1\r\n"),
            ("expiretime b", ":4102444801\r\n"),
            ("pexpireat b 4102444801500", ":1\r\n"),
            ("expiretime b", ":4102444802\r\n"),
            ("expireat b 1", ":1\r\n"),
            ("exists b", ":0\r\n"),
            ("set b 1", "+OK\r\n"),
            ("pexpire b 0", ":1\r\n"),
            ("exists b", ":0\r\n"),
            ("set b 1", "+OK\r\n"),
            ("pexpireat b -9223372036854775808", ":1\r\n"),
            ("exists b", ":0\r\n"),
            ("set b 1", "+OK\r\n"),
            ("expire b -1 gt", ":0\r\n"),
            ("exists b", ":1\r\n"),
            ("expire b -1 lt", ":1\r\n"),
            ("exists b", ":0\r\n"),
        ]);
    }
}
