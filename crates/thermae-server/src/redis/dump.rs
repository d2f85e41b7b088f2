//! DUMP and RESTORE: values as bytes that another server takes, Redis itself included.

use crate::events::classes::GENERIC;
use crate::failure::{Failure, Result};
use crate::redis::call::{Call, SYNTAX};
use crate::redis::payload::{Refused, decode_string, encode_string};
use crate::redis::table::{Command, ONE_KEY, flags};
use thermae_core::{Condition, SetOptions};

use flags::{DENYOOM, READONLY, WRITE};

/// The rows.
pub static COMMANDS: &[Command] = &[
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
        syntax: "key#0",
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
        syntax: "key#0 ttl:integer serialized-value [REPLACE@3.0.0] [ABSTTL@5.0.0] \
                 [IDLETIME seconds:integer@5.0.0] [FREQ frequency:integer@5.0.0]",
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
        None => {
            call.space.events.note_miss(&key);
            call.reply.null();
        }
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
        if call.space.delete(&key)? {
            call.note(GENERIC, "del", &key);
        }
    } else {
        let condition = if options.replaces { Condition::Always } else { Condition::IfAbsent };
        let (replaces, mark) = (options.replaces, call.space.events.mark());
        let options = SetOptions { expires_at_ms, condition, ..SetOptions::default() };
        // Looked at again: somebody else may have stored the key meanwhile.
        if !call.space.set(&key, &value, &options)? {
            return Err(Failure::from(BUSY));
        }
        // To Redis, what replaces another key is a new one.
        if replaces && !call.space.events.has_new_since(mark) {
            call.space.events.note_new(&key);
        }
        call.note(GENERIC, "restore", &key);
    }
    call.reply.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::redis::test_support::TestServer;

    /// The string `abc`, dumped by Redis 7.0.
    const ABC: &[u8] = b"\x00\x03abc\n\x00\xd9\xac0=Ar\xa2\xe2";

    fn restore(server: &mut TestServer, key: &str, ttl: &str, payload: &[u8], options: &str) -> String {
        let mut words: Vec<&[u8]> = vec![b"restore", key.as_bytes(), ttl.as_bytes(), payload];
        words.extend(options.split(' ').filter(|word| !word.is_empty()).map(str::as_bytes));
        String::from_utf8(server.call(&words)).unwrap()
    }

    #[test]
    fn a_dump_is_redis_s() {
        let mut server = TestServer::new();
        server.check(&[("dump zz", "$-1\r\n"), ("set d abc", "+OK\r\n")]);
        assert_eq!(server.call(&[b"dump", b"d"]), [b"$15\r\n", ABC, b"\r\n"].concat());
    }

    #[test]
    fn what_was_dumped_is_restored() {
        const DAMAGED: &str = "-ERR DUMP payload version or checksum are wrong\r\n";
        const NOT_AN_INTEGER: &str = "-ERR value is not an integer or out of range\r\n";
        const SYNTAX: &str = "-ERR syntax error\r\n";
        // Type 1, a list, with a footer that is right.
        let list = b"\x01\x00\n\x00\x5b\xf8\x25\xcc\x6c\x17\x43\x56";
        let mut server = TestServer::new();
        let server = &mut server;
        server.line("set d 1");
        for (key, ttl, payload, options, reply) in [
            ("d", "0", ABC, "", "-BUSYKEY Target key name already exists.\r\n"),
            ("d", "x", b"junk", "", "-BUSYKEY Target key name already exists.\r\n"),
            ("d", "0", ABC, "replace", "+OK\r\n"),
            ("e", "x", ABC, "", NOT_AN_INTEGER),
            ("e", "-1", ABC, "", "-ERR Invalid TTL value, must be >= 0\r\n"),
            ("e", "0", &ABC[..14], "", DAMAGED),
            ("e", "0", b"short", "", DAMAGED),
            ("e", "0", b"", "", DAMAGED),
            ("e", "0", list, "", "-ERR Bad data format\r\n"),
            ("e", "0", ABC, "foo", SYNTAX),
            ("e", "0", ABC, "idletime", SYNTAX),
            ("e", "0", ABC, "idletime x", NOT_AN_INTEGER),
            ("e", "0", ABC, "idletime -1", "-ERR Invalid IDLETIME value, must be >= 0\r\n"),
            ("e", "0", ABC, "freq 256", "-ERR Invalid FREQ value, must be >= 0 and <= 255\r\n"),
            ("e", "0", ABC, "freq x", NOT_AN_INTEGER),
            ("e", "0", ABC, "freq 1 idletime 1", SYNTAX),
            ("e", "0", ABC, "idletime 1 freq 1", SYNTAX),
            ("e", "0", b"junk", "replace foo", SYNTAX),
            ("e", "0", ABC, "idletime 1", "+OK\r\n"),
            ("past", "1", ABC, "absttl replace", "+OK\r\n"),
            ("far", "9223372036854775807", ABC, "", "+OK\r\n"),
            ("last", "9223372036854775807", ABC, "absttl", "+OK\r\n"),
            ("often", "1000000", ABC, "FREQ 5", "+OK\r\n"),
        ] {
            assert_eq!(restore(server, key, ttl, payload, options), reply, "{key} {ttl} {options}");
        }
        server.check(&[
            ("get d", "$3\r\nabc\r\n"),
            ("ttl d", ":-1\r\n"),
            ("get e", "$3\r\nabc\r\n"),
            ("exists past", ":0\r\n"),
            ("exists far", ":0\r\n"),
            ("pexpiretime last", ":9223372036854775807\r\n"),
            ("ttl often", ":1000\r\n"),
        ]);
    }

    #[test]
    fn long_values_come_back() {
        let mut server = TestServer::new();
        let long = b"0123456789abcdef".repeat(100_000);
        server.call(&[b"set", b"d", &long]);
        let reply = server.call(&[b"dump", b"d"]);
        let start = reply.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        assert!(reply.len() < long.len() / 50);
        assert_eq!(restore(&mut server, "e", "0", &reply[start..reply.len() - 2], ""), "+OK\r\n");
        assert!(server.store().get(b"e").unwrap().unwrap().1 == long);
    }
}
