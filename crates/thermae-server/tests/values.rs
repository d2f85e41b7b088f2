//! What commands make of values: how they are encoded, and when they expire.

mod common;

use common::Client;
use thermae_core::{ENCODING_INTEGER, RecordMeta, SetOptions};

const OK: &str = "+OK\\r\\n";
const DAY_MS: u64 = 86_400_000;

fn meta(client: &Client, key: &str) -> RecordMeta {
    client.store().meta(key.as_bytes()).unwrap().unwrap()
}

/// Seconds that a key has left; 0: it is kept for good.
fn seconds_left(client: &Client, key: &str) -> u64 {
    let expires_at_ms = meta(client, key).expires_at_ms;
    if expires_at_ms == 0 { 0 } else { (expires_at_ms - client.store().now_ms()).div_ceil(1000) }
}

/// A value that expires in a thousand seconds.
fn expiring(value: &str) -> Client {
    let mut client = Client::new();
    assert_eq!(client.ask(&format!("set k {value} ex 1000")), OK);
    client
}

#[test]
fn what_stores_a_value_says_when_it_expires() {
    for (command, expected) in [
        ("set k w", 0),
        ("set k w get", 0),
        ("set k w xx", 0),
        ("set k w keepttl", 1000),
        ("set k w keepttl get", 1000),
        ("set k w ex 5 ex 500", 500),
        ("set k w px 500000", 500),
        ("setex k 500 w", 500),
        ("psetex k 500000 w", 500),
        ("getset k w", 0),
        ("mset k w other v", 0),
        ("mset k w", 0),
        ("bitop not k k", 0),
        ("getex k", 1000),
        ("getex k persist", 0),
        ("getex k ex 500", 500),
        ("getex k px 500000", 500),
    ] {
        let mut client = expiring("v");
        let reply = client.ask(command);
        assert!(!reply.starts_with('-'), "{command}: {reply}");
        assert_eq!(seconds_left(&client, "k"), expected, "{command}");
    }
}

#[test]
fn what_changes_a_value_leaves_when_it_expires() {
    for command in [
        "incr k",
        "decr k",
        "incrby k 5",
        "decrby k 5",
        "incrbyfloat k 0.5",
        "append k x",
        "setrange k 1 x",
        "setbit k 100 1",
        "bitfield k set u8 0 1",
        "get k",
        "strlen k",
    ] {
        let mut client = expiring("1");
        let reply = client.ask(command);
        assert!(!reply.starts_with('-'), "{command}: {reply}");
        assert_eq!(seconds_left(&client, "k"), 1000, "{command}");
    }
}

#[test]
fn times_may_be_points_in_time() {
    let mut client = Client::new();
    let later_ms = client.store().now_ms() + DAY_MS;
    assert_eq!(client.ask(&format!("set k v pxat {later_ms}")), OK);
    assert_eq!(meta(&client, "k").expires_at_ms, later_ms);
    assert_eq!(client.ask(&format!("getex k exat {}", later_ms / 1000 + 1)), "$1\\r\\nv\\r\\n");
    assert_eq!(meta(&client, "k").expires_at_ms, (later_ms / 1000 + 1) * 1000);
    assert_eq!(client.ask("set k v exat 1"), OK);
    assert!(client.store().meta(b"k").unwrap().is_none());
}

#[test]
fn values_of_python_are_read_as_their_bytes_and_stay_what_they_are_until_they_change() {
    const TEXT: u8 = 1;
    let mut client = Client::new();
    let text = SetOptions { encoding: TEXT, ..SetOptions::default() };
    let integer = SetOptions { encoding: ENCODING_INTEGER, ..SetOptions::default() };
    client.store().set(b"text", "häuser".as_bytes(), &text).unwrap();
    client.store().set(b"number", b"41", &integer).unwrap();
    assert_eq!(client.ask("get text"), "$7\\r\\nh\\xc3\\xa4user\\r\\n");
    assert_eq!(client.ask("getex text ex 100"), "$7\\r\\nh\\xc3\\xa4user\\r\\n");
    assert_eq!(client.ask("setbit text 1 1"), ":1\\r\\n");
    assert_eq!(client.ask("setrange text 0 \"\""), ":7\\r\\n");
    assert_eq!(meta(&client, "text").encoding, TEXT);
    assert_eq!(client.ask("append text x"), ":8\\r\\n");
    assert_eq!(meta(&client, "text").encoding, 0);
    assert_eq!(client.ask("incr number"), ":42\\r\\n");
    assert_eq!(meta(&client, "number").encoding, ENCODING_INTEGER);
    assert_eq!(client.ask("incrbyfloat number 1"), "$2\\r\\n43\\r\\n");
    assert_eq!(meta(&client, "number").encoding, 0);
    assert_eq!(client.ask("set number 43 keepttl"), OK);
    assert_eq!(meta(&client, "number").encoding, 0);
}

#[test]
fn long_values_are_looked_at_where_they_lie() {
    let mut client = Client::new();
    for length in [4095, 4096, 4097, 100_000, 3 << 20] {
        let value: Vec<u8> = (0..length).map(|index: u32| (index % 251) as u8).collect();
        client.store().set(b"k", &value, &SetOptions::default()).unwrap();
        let ones: u32 = value.iter().map(|byte| byte.count_ones()).sum();
        assert_eq!(client.ask("bitcount k"), format!(":{ones}\\r\\n"));
        let last = value[value.len() - 3..].escape_ascii();
        assert_eq!(client.ask("getrange k -3 -1"), format!("$3\\r\\n{last}\\r\\n"));
        assert_eq!(client.ask("append k \"\""), format!(":{length}\\r\\n"));
        let bulk = [format!("${length}\r\n").as_bytes(), &value, b"\r\n"].concat();
        assert!(client.send("get k") == bulk, "{length}");
        assert!(
            client.send("mget k nokey k") == [b"*3\r\n", &bulk[..], b"$-1\r\n", &bulk[..]].concat(),
            "{length}"
        );
    }
}

#[test]
fn databases_do_not_see_each_other() {
    let mut client = Client::new();
    assert_eq!(client.ask("mset a 0 b 0"), OK);
    assert_eq!(client.ask("select 3"), OK);
    assert_eq!(client.ask("mget a b"), "*2\\r\\n$-1\\r\\n$-1\\r\\n");
    assert_eq!(client.ask("msetnx a 3 c 3"), ":1\\r\\n");
    assert_eq!(client.ask("bitop or d a c"), ":1\\r\\n");
    assert_eq!(client.ask("select 0"), OK);
    assert_eq!(client.ask("mget a b c d"), "*4\\r\\n$1\\r\\n0\\r\\n$1\\r\\n0\\r\\n$-1\\r\\n$-1\\r\\n");
}
