//! CONFIG as clients see it; texts are those of redis-server 7.0.15.

use super::*;
use crate::redis::test_support::TestServer;

#[test]
fn replies_are_those_of_redis() {
    let mut server = TestServer::new();
    let failed = |name: &str, reason: &str| {
        format!("-ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}\r\n")
    };
    server.check(&[
        ("CONFIG GET", "-ERR wrong number of arguments for 'config|get' command\r\n"),
        ("CONFIG GET nonsense", "*0\r\n"),
        ("CONFIG GET TimeOut", "*2\r\n$7\r\nTimeOut\r\n$1\r\n0\r\n"),
        (
            "CONFIG GET slowlog-* timeout slowlog-max-len",
            "*6\r\n$23\r\nslowlog-log-slower-than\r\n$5\r\n10000\r\n$15\r\nslowlog-max-len\r\n$3\r\n128\r\n$7\r\ntimeout\r\n$1\r\n0\r\n",
        ),
        ("CONFIG SET timeout", "-ERR wrong number of arguments for 'config|set' command\r\n"),
        ("CONFIG SET timeout 1 foo", "-ERR syntax error\r\n"),
        (
            "CONFIG SET foo bar",
            "-ERR Unknown option or number of arguments for CONFIG SET - 'foo'\r\n",
        ),
        ("CONFIG SET timeout x", &failed("timeout", "argument couldn't be parsed into an integer")),
        (
            "CONFIG SET timeout -1",
            &failed("timeout", "argument must be between 0 and 2147483647 inclusive"),
        ),
        ("CONFIG SET timeout 1 timeout 2", &failed("timeout", "duplicate parameter")),
        ("CONFIG SET databases 3", &failed("databases", IMMUTABLE)),
        ("CONFIG SET databases 16", "+OK\r\n"),
        ("CONFIG SET timeout 5 databases 3", &failed("databases", IMMUTABLE)),
        ("CONFIG SET maxmemory x", &failed("maxmemory", "argument must be a memory value")),
        ("CONFIG SET maxmemory 16mb", "+OK\r\n"),
        ("CONFIG SET maxmemory 0", "+OK\r\n"),
        ("CONFIG GET maxmemory", "*2\r\n$9\r\nmaxmemory\r\n$8\r\n16777216\r\n"),
        (
            "CONFIG SET proto-max-bulk-len 1",
            &failed(
                "proto-max-bulk-len",
                "argument must be between 1048576 and 1073741824 inclusive",
            ),
        ),
        (
            "CONFIG SET protected-mode maybe",
            &failed("protected-mode", "argument must be 'yes' or 'no'"),
        ),
        (
            "CONFIG SET appendfsync foo",
            &failed("appendfsync", "argument(s) must be one of the following: everysec, always, no"),
        ),
        (
            "CONFIG SET notify-keyspace-events q",
            &failed(
                "notify-keyspace-events",
                "Invalid event class character. Use 'Ag$lshzxeKEtmdn'.",
            ),
        ),
        ("CONFIG SET notify-keyspace-events KxEe$", "+OK\r\n"),
        ("CONFIG GET notify-keyspace-events", "*2\r\n$22\r\nnotify-keyspace-events\r\n$5\r\n$xeKE\r\n"),
        (
            "CONFIG SET latency-tracking-info-percentiles x",
            &failed(
                "latency-tracking-info-percentiles",
                "Invalid latency-tracking-info-percentiles parameters",
            ),
        ),
        (
            "CONFIG SET latency-tracking-info-percentiles \"50 101\"",
            &failed(
                "latency-tracking-info-percentiles",
                "latency-tracking-info-percentiles parameters should sit between [0.0,100.0]",
            ),
        ),
        (
            "CONFIG SET latency-tracking maybe",
            &failed("latency-tracking", "argument must be 'yes' or 'no'"),
        ),
        (
            "CONFIG GET latency-tracking*",
            "*4\r\n$16\r\nlatency-tracking\r\n$3\r\nyes\r\n$33\r\nlatency-tracking-info-percentiles\r\n$10\r\n50 99 99.9\r\n",
        ),
        (
            "CONFIG GET client-output-buffer-limit stop-writes-on-bgsave-error",
            "*4\r\n$26\r\nclient-output-buffer-limit\r\n$44\r\nnormal 0 0 0 slave 0 0 0 pubsub 33554432 0 0\r\n$27\r\n\
             stop-writes-on-bgsave-error\r\n$2\r\nno\r\n",
        ),
        (
            "CONFIG GET lazyfree-*",
            "*10\r\n$22\r\nlazyfree-lazy-eviction\r\n$2\r\nno\r\n$20\r\nlazyfree-lazy-expire\r\n$3\r\nyes\r\n$24\r\n\
             lazyfree-lazy-server-del\r\n$3\r\nyes\r\n$22\r\nlazyfree-lazy-user-del\r\n$3\r\nyes\r\n$24\r\n\
             lazyfree-lazy-user-flush\r\n$3\r\nyes\r\n",
        ),
        ("CONFIG SET lazyfree-lazy-user-del yes stop-writes-on-bgsave-error no", "+OK\r\n"),
        ("CONFIG SET lazyfree-lazy-user-del no", &failed("lazyfree-lazy-user-del", IMMUTABLE)),
        ("CONFIG REWRITE", "-ERR The server is running without a config file\r\n"),
        ("CONFIG RESETSTAT", "+OK\r\n"),
        ("CONFIG foo", "-ERR unknown subcommand 'foo'. Try CONFIG HELP.\r\n"),
    ]);
    assert_eq!(server.line("CONFIG SET save \"\""), "+OK\r\n");
    let text = server.line("CONFIG SET maxmemory-policy foo");
    assert!(text.contains("argument(s) must be one of the following: "), "{text}");
}

#[test]
fn parameters_change_all_or_none() {
    let mut server = TestServer::new();
    server.check(&[
        ("CONFIG SET timeout 7 maxclients 9 proto-max-bulk-len 2mb slowlog-max-len 3", "+OK\r\n"),
        ("CONFIG GET timeout", "*2\r\n$7\r\ntimeout\r\n$1\r\n7\r\n"),
        ("CONFIG GET slowlog-max-len", "*2\r\n$15\r\nslowlog-max-len\r\n$1\r\n3\r\n"),
        ("CONFIG SET maxmemory-policy allkeys-lru requirepass secret", "+OK\r\n"),
        ("CONFIG GET maxmemory-policy", "*2\r\n$16\r\nmaxmemory-policy\r\n$11\r\nallkeys-lru\r\n"),
        ("CONFIG SET maxmemory-policy noeviction", "+OK\r\n"),
        ("CONFIG GET maxmemory-policy", "*2\r\n$16\r\nmaxmemory-policy\r\n$10\r\nnoeviction\r\n"),
    ]);
    assert_eq!(server.shared().argument_bytes_max.load(Ordering::Relaxed), 2 << 20);
    assert_eq!(server.shared().config.read().unwrap().password, "secret");
    // A store in memory alone can't be durable; then the rest does not happen either.
    let reply = server.line("CONFIG SET timeout 8 maxmemory-policy allkeys-lru appendfsync always");
    assert!(reply.contains("(possibly related to argument 'appendfsync')"), "{reply}");
    let config = server.shared().config.read().unwrap().clone();
    assert_eq!((config.timeout_seconds, config.clients_max), (7, 9));
    assert_eq!(server.shared().store.config().when_full, WhenFull::Error.as_str());
}

#[test]
fn addresses_are_told_as_hosts_and_ports() {
    let mut server = TestServer::new();
    {
        let mut config = server.shared().config.write().unwrap();
        config.redis = vec!["127.0.0.1:7000".to_owned(), "[::1]:7000".to_owned()];
        config.tls = vec!["127.0.0.1:7001".to_owned()];
    }
    server.check(&[
        ("CONFIG GET port", "*2\r\n$4\r\nport\r\n$4\r\n7000\r\n"),
        ("CONFIG GET tls-port", "*2\r\n$8\r\ntls-port\r\n$4\r\n7001\r\n"),
        ("CONFIG GET bind", "*2\r\n$4\r\nbind\r\n$13\r\n127.0.0.1 ::1\r\n"),
    ]);
}

/// Each name was compared with a budget of its own, and patterns had any length: a few of 1 MB kept a loop busy for seconds.
#[test]
fn comparing_with_patterns_is_bounded() {
    let mut server = TestServer::new();
    let mut get = |patterns: &[&[u8]]| {
        let words = [&[&b"CONFIG"[..], b"GET"], patterns].concat();
        String::from_utf8(server.call(&words)).unwrap()
    };
    let class = |length: usize| [b"*[", &b"z".repeat(length - 4)[..], b"]q"].concat();
    let (longest, too_long) = (class(PATTERN_BYTES_MAX), class(PATTERN_BYTES_MAX + 1));
    assert_eq!(get(&[&longest]), "*0\r\n");
    assert_eq!(get(&[b"timeout", &too_long]), format!("-{PATTERN_TOO_LONG}\r\n"));
    assert_eq!(get(&[&longest[..]; 100]), format!("-{NAMES_TAKE_TOO_LONG}\r\n"));
    let many = vec![&b"timeout"[..]; ASKED_MAX + 1];
    assert_eq!(get(&many[1..]), "*2\r\n$7\r\ntimeout\r\n$1\r\n0\r\n");
    assert!(get(&many).starts_with("-ERR too many parameters"));
    // What is no pattern is just no name.
    assert_eq!(get(&[&b"z".repeat(2 * PATTERN_BYTES_MAX)]), "*0\r\n");
}

#[test]
fn names_are_sorted_and_lower_case() {
    assert!(PARAMETERS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert!(PARAMETERS.iter().all(|(name, ..)| *name == name.to_ascii_lowercase()));
}
