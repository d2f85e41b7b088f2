//! What clients of this face see beyond single answers: parts, passwords, sharing with others, limits.

use crate::databases::stored_key;
use crate::memcache::flushing::DelayedFlush;
use crate::memcache::harness::{Client, flush_if_due, shared};
use crate::memcache::turn::STEPS_PER_TURN;
use crate::redis::pipeline::OUTPUT_BYTES_ENOUGH;
use crate::refusals::Reason;
use crate::shared::Shared;
use crate::users::{DEFAULT, User};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use thermae_core::{ENCODING_INTEGER, SetOptions};

const HOT_BYTES: u64 = 64 << 20;

#[test]
fn a_long_list_is_answered_in_parts() {
    let shared = shared(HOT_BYTES);
    let mut client = Client::new(true);
    let value = vec![b'x'; 100 << 10];
    for number in 0..10 {
        shared.store.set(format!("k{number}").as_bytes(), &value, &SetOptions::default()).unwrap();
    }
    let once: String = (0..10).map(|number| format!("k{number} nope ")).collect();
    for end in ["\r\n", "\n", "\0ignored\r\n", "   \r\n"] {
        client.input = format!("get {}{end}gats 0 {once}{end}mn\r\n", once.repeat(5)).into_bytes();
        let (mut answers, mut turns) = (Vec::new(), 0);
        while !client.input.is_empty() {
            let output = client.turn(&shared);
            assert!(output.len() < OUTPUT_BYTES_ENOUGH + value.len() + 100);
            answers.extend_from_slice(&output);
            turns += 1;
        }
        assert!(turns >= 60 * value.len() / (OUTPUT_BYTES_ENOUGH + value.len()));
        let text = String::from_utf8(answers).unwrap();
        assert_eq!(text.matches("VALUE ").count(), 60);
        assert_eq!((text.matches("END\r\n").count(), text.ends_with("END\r\nMN\r\n")), (2, true));
    }
}

#[test]
fn keys_that_are_missed_end_the_turn_as_well() {
    let shared = shared(HOT_BYTES);
    let mut client = Client::new(true);
    shared.store.set(b"k", b"v", &SetOptions::default()).unwrap();
    let keys = 2 * STEPS_PER_TURN + 5;
    client.input = format!("get k {}k\r\nget k\r\n", "x ".repeat(keys - 2)).into_bytes();
    for answer in ["VALUE k 0 1\r\nv\r\n", ""] {
        assert_eq!(client.turn(&shared), answer.as_bytes());
        assert!(client.session.ends_turn && !client.input.is_empty());
    }
    assert_eq!(client.turn(&shared), b"VALUE k 0 1\r\nv\r\nEND\r\n".repeat(2));
    assert!(!client.session.ends_turn && client.input.is_empty());
    // So do requests that nobody waits for.
    client.input = b"delete x noreply\r\n".repeat(STEPS_PER_TURN + 1);
    client.turn(&shared);
    assert_eq!((client.session.ends_turn, client.input.len()), (true, 18));
    client.turn(&shared);
    assert_eq!((client.session.ends_turn, client.input.len()), (false, 0));
}

#[test]
fn strangers_may_send_what_a_login_needs_and_no_more() {
    let shared = shared(HOT_BYTES);
    let bad = "CLIENT_ERROR bad authentication token format\r\n{closed}";
    let refused = "CLIENT_ERROR unauthenticated\r\n{closed}";
    for (sent, answer) in [
        ("set k 0 0 1025\r\n", bad),
        ("set k 0 0 1048576\r\nx", bad),
        ("add k 0 0 1025\r\nx", refused),
        ("ms k 1025\r\nx", refused),
        (&format!("get {}", "k ".repeat(1100)), refused),
        (&format!("gets {}\r\n", "k ".repeat(1100)), refused),
        (&"k".repeat(2049), refused),
    ] {
        assert_eq!(Client::new(false).send(sent, &shared), answer, "{sent:.20}");
        let pieces = Client::new(false).send_in_pieces(sent.as_bytes(), 7, &shared);
        assert_eq!(String::from_utf8(pieces).unwrap(), answer, "{sent:.20}");
    }
    // What is known of a client holds from its next request on, in whatever pieces they came.
    let keys = "k ".repeat(2000);
    let sent = format!("set k 0 0 14\r\ndefault secret\r\nget {keys}\r\nset k 0 0 2000\r\n{:2000}\r\n", "v");
    assert_eq!(Client::new(false).send(&sent, &shared), "STORED\r\nEND\r\nSTORED\r\n");
    let long = format!("set k 0 0 1024\r\nu {:1022}\r\n", "x");
    assert_eq!(Client::new(false).send(long, &shared), "CLIENT_ERROR authentication failure\r\n");
}

#[test]
fn a_pause_holds_back_what_it_is_of() {
    let shared = shared(HOT_BYTES);
    let reads = ["get k\r\n", "gets k\r\n", "mg k v\r\n", "mn\r\n", "me k\r\n", "version\r\n", "get\r\n"];
    let writes = [
        "set k 0 0 1\r\nx\r\n",
        "cas k 0 0 1 1\r\nx\r\n",
        "ms k 1\r\nx\r\n",
        "gat 0 k\r\n",
        "mg k T30\r\n",
        "mg k v N30\r\n",
        "md k\r\n",
        "ma k\r\n",
        "incr k 1\r\n",
        "decr k 1\r\n",
        "touch k 0\r\n",
        "delete k\r\n",
        "flush_all\r\n",
    ];
    let now_ms = shared.store.now_ms();
    for of_all in [false, true] {
        shared.pause.begin(now_ms, now_ms + 1_000_000, of_all);
        for request in reads.iter().chain(&writes) {
            let mut client = Client::new(true);
            let waits = of_all || writes.contains(request);
            client.input = [b"mn\r\n", request.as_bytes()].concat();
            let before = if of_all { "" } else { "MN\r\n" };
            let answer = String::from_utf8(client.turn(&shared)).unwrap();
            assert_eq!(answer == before, waits, "{request}");
            assert_eq!((client.session.is_paused, !client.input.is_empty()), (waits, waits), "{request}");
        }
        shared.memcached_flush_at_ms.store(1, Ordering::SeqCst);
        flush_if_due(&shared);
        assert_eq!(shared.memcached_flush_at_ms.load(Ordering::SeqCst), 1);
        let mut client = Client::new(true);
        assert_eq!(client.send("set k 0 0 1\r\nx\r\n", &shared), "");
        shared.pause.end();
        assert_eq!(client.send("get k\r\n", &shared), "STORED\r\nVALUE k 0 1\r\nx\r\nEND\r\n");
    }
}

#[test]
fn a_password_is_said_with_set() {
    let shared = shared(HOT_BYTES);
    let mut client = Client::new(false);
    const REFUSED: &str = "CLIENT_ERROR unauthenticated\r\n";
    for request in [
        "get k\r\n",
        "mn\r\n",
        "quit\r\n",
        "ms k 1\r\na\r\n",
        "add k 0 0 14\r\ndefault secret\r\n",
        "set k\r\n",
    ] {
        assert_eq!(client.send(request, &shared), REFUSED, "{request}");
    }
    let wrong = "CLIENT_ERROR authentication failure\r\n";
    for password in ["secreT", "secret ", "secre", "", " secret"] {
        let request = format!("set k 0 0 {}\r\ndefault {password}\r\n", 8 + password.len());
        assert_eq!(client.send(request, &shared), wrong, "{password}");
    }
    assert_eq!(client.send("set k 0 0 11\r\nuser secret\r\n", &shared), wrong);
    let no_token = "CLIENT_ERROR bad authentication token format\r\n";
    assert_eq!(client.send("set k 0 0 6\r\nsecret\r\n", &shared), no_token);
    assert_eq!(client.send("set k 0 0 14\r\ndefault secret\r\nget k\r\n", &shared), "STORED\r\nEND\r\n");
    assert_eq!(client.send("set k 0 0 6\r\nu nope\r\n", &shared), "STORED\r\n");
}

/// There are no rights to some commands or keys here: who may not do everything does nothing.
#[test]
fn a_user_who_may_not_do_everything_does_nothing() {
    let shared = shared(HOT_BYTES);
    let change = |name: &str, may_do_everything: bool| {
        let mut user = User::default_with(b"pw");
        user.name = name.as_bytes().to_vec();
        user.root.has_all_channels = may_do_everything;
        shared.change_users(|accounts| accounts.insert(name.as_bytes().to_vec(), Arc::new(user)));
    };
    change("all", true);
    change("some", false);
    let mut client = Client::new(false);
    let failure = "CLIENT_ERROR authentication failure\r\n";
    assert_eq!(client.send("set k 0 0 7\r\nsome pw\r\n", &shared), failure);
    assert_eq!(client.send("set k 0 0 6\r\nall pw\r\nget k\r\n", &shared), "STORED\r\nEND\r\n");
    // What it may do is looked up again once users were changed.
    change("other", false);
    assert_eq!(client.send("get k\r\n", &shared), "END\r\n");
    change("all", false);
    assert_eq!(client.send("get k\r\n", &shared), "CLIENT_ERROR unauthenticated\r\n");
    change("all", true);
    assert_eq!(client.send("set k 0 0 6\r\nall pw\r\nget k\r\n", &shared), "STORED\r\nEND\r\n");
    shared.change_users(|accounts| accounts.remove(b"all".as_slice()));
    assert_eq!(client.send("get k\r\n", &shared), "CLIENT_ERROR unauthenticated\r\n");
    // Nor does one that needs no password, where `default` may not do everything.
    let mut default = User::default_with(b"");
    default.root.has_all_keys = false;
    shared.change_users(|accounts| accounts.insert(DEFAULT.to_vec(), Arc::new(default)));
    assert_eq!(Client::new(true).send("get k\r\n", &shared), "CLIENT_ERROR unauthenticated\r\n");
}

#[test]
fn what_a_browser_sends_ends_the_connection() {
    let shared = shared(HOT_BYTES);
    for line in ["POST / HTTP/1.1", "GET / HTTP/1.1", "POST /x", "post", "Host: localhost", "host: x"] {
        for is_authenticated in [true, false] {
            let mut client = Client::new(is_authenticated);
            let sent = format!("{line}\r\nset k 0 0 1\r\nv\r\n");
            assert_eq!(client.send(sent, &shared), "{closed}", "{line} {is_authenticated}");
            assert!(client.session.is_foreign, "{line} {is_authenticated}");
        }
    }
    assert_eq!(shared.store.len().unwrap(), 0);
}

/// memcached cuts flags to 32 bits and stores; who relied on that had its data executed as requests.
#[test]
fn the_data_behind_flags_that_do_not_fit_are_no_requests() {
    let shared = shared(HOT_BYTES);
    for piece_bytes in [1, 7, usize::MAX] {
        let mut client = Client::new(true);
        let sent = b"set k 4294967296 0 11\r\nflush_all\r\n\r\nmn\r\n";
        let answer = client.send_in_pieces(sent, piece_bytes, &shared);
        assert_eq!(String::from_utf8(answer).unwrap(), "CLIENT_ERROR bad command line format\r\nMN\r\n");
    }
}

#[test]
fn an_item_that_is_made_has_the_expiry_that_stands_last() {
    let shared = shared(HOT_BYTES);
    let mut client = Client::new(true);
    for (number, (flags, answered)) in [
        ("T0 N30 t", "HD t30 W"),
        ("N30 T0 t", "HD t-1 W"),
        ("t N30", "HD t-1 W"),
        ("N30 t T60", "HD t30 W"),
        ("T60 t N30", "HD t60 W"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(client.send(format!("mg k{number} {flags}\r\n"), &shared), format!("{answered}\r\n"));
    }
    // The next one finds what was said last.
    for (number, left) in ["t30", "t-1", "t30", "t60", "t30"].iter().enumerate() {
        assert_eq!(client.send(format!("mg k{number} t\r\n"), &shared), format!("HD {left} Z\r\n"));
    }
    assert_eq!(client.send("ma c N30 T0 t\r\nma d T0 N30 t\r\n", &shared), "HD t-1\r\nHD t30\r\n");
    // Of one that is there, N changes nothing.
    assert_eq!(client.send("mg k1 N30 t\r\n", &shared), "HD t-1 Z\r\n");
}

/// A login lasted as long as there was a user of its name, and nobody could see or end it by that name.
#[test]
fn a_login_ends_with_its_user_and_others_see_it() {
    let shared = shared(HOT_BYTES);
    let boss = || {
        let mut user = User::default_with(b"pw");
        user.name = b"boss".to_vec();
        shared.change_users(|accounts| accounts.insert(b"boss".to_vec(), Arc::new(user)));
    };
    boss();
    let mut client = Client::new(false);
    shared.clients.add(&client.seen);
    assert_eq!(client.seen.user(), DEFAULT);
    assert_eq!(client.send("set k 0 0 7\r\nboss pw\r\n", &shared), "STORED\r\n");
    assert_eq!(client.seen.user(), b"boss");
    // Deleted, which ends its clients, and made anew: the old login is not that of the new user.
    shared.change_users(|accounts| accounts.remove(b"boss".as_slice()));
    assert!(shared.kill(&client.seen));
    boss();
    assert_eq!(client.send("set k 0 0 1\r\nv\r\nget k\r\n", &shared), "{closed}");
    assert_eq!(shared.store.len().unwrap(), 0);
    assert!(shared.refusals.latest(10).is_empty());
    let mut stranger = Client::new(false);
    for name in ["boss", "boss", "nobody"] {
        let request = format!("set k 0 0 {}\r\n{name} nope\r\n", name.len() + 5);
        assert_eq!(stranger.send(request, &shared), "CLIENT_ERROR authentication failure\r\n");
    }
    let noted = shared.refusals.latest(10);
    let of = |index: usize| (noted[index].count, noted[index].user.as_slice(), noted[index].reason);
    assert_eq!((noted.len(), of(0)), (2, (1, b"nobody".as_slice(), Reason::Auth)));
    assert_eq!(of(1), (2, b"boss".as_slice(), Reason::Auth));
    assert!(noted[0].client.contains("addr=test "), "{}", noted[0].client);
}

#[test]
fn the_binary_protocol_is_refused_in_its_own_words() {
    let shared = shared(HOT_BYTES);
    let mut request = [0_u8; 24];
    (request[0], request[1]) = (0x80, 0x0a);
    request[12..16].copy_from_slice(b"mark");
    for piece_bytes in [1, 5, 24] {
        let answer = Client::new(true).send_in_pieces(&request, piece_bytes, &shared);
        let (header, text) = answer.strip_suffix(b"{closed}").unwrap().split_at(24);
        assert_eq!((header[0], header[1], header[7], &header[12..16]), (0x81, 0x0a, 0x81, &b"mark"[..]));
        assert_eq!(u32::from_be_bytes(header[8..12].try_into().unwrap()) as usize, text.len());
    }
    let mut client = Client::new(true);
    assert_eq!(client.send("mn\r\n", &shared), "MN\r\n");
    assert_eq!(client.send_in_pieces(b"\x80\r\n", 10, &shared), b"ERROR\r\n");
}

fn set_elsewhere(shared: &Shared) {
    for key in [stored_key(0, b"k"), stored_key(0, b"\xff\x01"), stored_key(1, b"k")] {
        shared.store.set(&key, b"1", &SetOptions::default()).unwrap();
    }
}

#[test]
fn flush_all_deletes_database_0_at_its_time() {
    let shared = shared(HOT_BYTES);
    let mut client = Client::new(true);
    let count = || shared.store.len().unwrap();
    set_elsewhere(&shared);
    assert_eq!(client.send("flush_all\r\n", &shared), "OK\r\n");
    assert_eq!(count(), 1);
    set_elsewhere(&shared);
    assert_eq!(client.send("flush_all 10\r\n", &shared), "OK\r\n");
    flush_if_due(&shared);
    assert_eq!(count(), 3);
    let at = shared.memcached_flush_at_ms.load(Ordering::SeqCst);
    assert!((9_000..=10_000).contains(&(at - shared.store.now_ms())));
    shared.memcached_flush_at_ms.store(1, Ordering::SeqCst);
    flush_if_due(&shared);
    assert_eq!(count(), 1);
    set_elsewhere(&shared);
    flush_if_due(&shared);
    assert_eq!(count(), 3, "once is enough");
    assert_eq!(client.send("flush_all 10\r\nflush_all\r\n", &shared), "OK\r\nOK\r\n");
    assert_eq!(shared.memcached_flush_at_ms.load(Ordering::SeqCst), 0, "the last one counts");
}

#[test]
fn a_flush_takes_turns_and_is_one_request() {
    let shared = shared(HOT_BYTES);
    let mut client = Client::new(true);
    let fill = || {
        for number in 0..14_000_u32 {
            shared.store.set(format!("key:{number}").as_bytes(), b"", &SetOptions::default()).unwrap();
        }
    };
    for noreply in ["", " noreply"] {
        fill();
        let begin = if noreply.is_empty() { "OK\r\n" } else { "" };
        client.input = format!("flush_all{noreply}\r\nset b 0 0 1\r\nx\r\nget b key:1\r\n").into_bytes();
        let first = client.turn(&shared);
        assert!(first.is_empty() && client.session.ends_turn && client.input.starts_with(b"flush_all"));
        let answer = client.send("mn\r\n", &shared);
        assert_eq!(answer, format!("{begin}STORED\r\nVALUE b 0 1\r\nx\r\nEND\r\nMN\r\n"));
        assert_eq!(shared.store.len().unwrap(), 1);
    }
    assert!(client.send("stats\r\n", &shared).contains("STAT cmd_flush 2\r\n"));
    // Who loses its rights in the middle has to say again who it is.
    fill();
    client.input = b"flush_all\r\n".to_vec();
    client.turn(&shared);
    let left = shared.store.len().unwrap();
    assert!((1..14_001).contains(&left), "{left}");
    shared.change_users(|accounts| accounts.insert(DEFAULT.to_vec(), Arc::new(User::new(DEFAULT))));
    assert_eq!(client.send("mn\r\n", &shared), "CLIENT_ERROR unauthenticated\r\n".repeat(2));
    assert_eq!(shared.store.len().unwrap(), left);
}

#[test]
fn a_flush_that_is_due_takes_turns_of_its_loop() {
    let shared = shared(HOT_BYTES);
    for number in 0..14_000_u32 {
        shared.store.set(format!("key:{number}").as_bytes(), b"", &SetOptions::default()).unwrap();
    }
    shared.memcached_flush_at_ms.store(1, Ordering::SeqCst);
    let (mut first, mut second) = (DelayedFlush::default(), DelayedFlush::default());
    assert!(first.go_on(&shared) && !second.go_on(&shared), "one loop does it");
    let now_ms = shared.store.now_ms();
    shared.pause.begin(now_ms, now_ms + 100_000, false);
    let left = shared.store.len().unwrap();
    assert!((1..14_000).contains(&left), "{left}");
    assert!(!first.go_on(&shared));
    assert_eq!(shared.store.len().unwrap(), left, "nothing is deleted in a pause");
    shared.pause.end();
    // Another time replaces no flush that is under way.
    shared.memcached_flush_at_ms.store(now_ms + 100_000, Ordering::SeqCst);
    while first.go_on(&shared) {}
    assert_eq!(shared.store.len().unwrap(), 0);
    assert_eq!(shared.memcached_flush_at_ms.load(Ordering::SeqCst), now_ms + 100_000);
}

#[test]
fn values_are_shared_as_they_are() {
    let shared = shared(HOT_BYTES);
    let mut client = Client::new(true);
    let options = SetOptions { encoding: 1, ..SetOptions::default() };
    shared.store.set("ü".as_bytes(), "ä\r\n".as_bytes(), &options).unwrap();
    assert_eq!(client.send("get ü\r\n", &shared), "VALUE ü 0 4\r\nä\r\n\r\nEND\r\n");
    let encoding = |key: &[u8]| shared.store.meta(key).unwrap().unwrap().encoding;
    assert_eq!(client.send("set k 7 0 2\r\n10\r\n", &shared), "STORED\r\n");
    assert_eq!(encoding(b"k"), 0);
    assert_eq!(client.send("decr k 1\r\n", &shared), "9\r\n");
    assert_eq!(encoding(b"k"), ENCODING_INTEGER);
    assert_eq!(shared.store.incr(b"k", 1, None, 0).unwrap(), Some(10));
    assert_eq!(client.send("get k\r\n", &shared), "VALUE k 7 2\r\n10\r\nEND\r\n");
    assert_eq!(client.send("incr k 9223372036854775808\r\n", &shared), "9223372036854775818\r\n");
    assert_eq!(encoding(b"k"), 0, "no integer to Python");
    assert_eq!(client.send("append k 0 0 1\r\nx\r\n", &shared), "STORED\r\n");
    assert_eq!((encoding(b"k"), encoding("ü".as_bytes())), (0, 1));
}

#[test]
fn a_full_store_is_the_servers_error() {
    let shared = shared(16 << 20);
    let mut client = Client::new(true);
    let request = |number: usize| {
        let value = "v".repeat(500_000);
        format!("set k{number} 0 0 {}\r\n{value}\r\n", value.len())
    };
    let answers: Vec<String> = (0..60).map(|number| client.send(request(number), &shared)).collect();
    assert_eq!(answers[0], "STORED\r\n");
    assert_eq!(answers[59], "SERVER_ERROR out of memory storing object\r\n");
    assert!(client.send("stats\r\n", &shared).contains("STAT store_no_memory "));
}

/// A set that was refused left the value that it was to replace, which its client then read.
#[test]
fn what_cannot_be_replaced_is_lost() {
    let shared = shared(16 << 20);
    let mut client = Client::new(true);
    for key in ["s", "m", "a"] {
        assert_eq!(client.send(format!("set {key} 0 0 3\r\nold\r\n"), &shared), "STORED\r\n");
    }
    for number in 0..60 {
        let value = vec![b'v'; 500_000];
        let _ = shared.store.set(format!("fill {number}").as_bytes(), &value, &SetOptions::default());
    }
    let full = "SERVER_ERROR out of memory storing object\r\n";
    let value = "v".repeat(500_000);
    for (request, answer) in [
        ("set s 0 0 500000", full),
        ("get s", "END\r\n"),
        ("ms m 500000", full),
        ("mg m", "EN\r\n"),
        ("replace a 0 0 500000", full),
        ("mg a", "HD\r\n"),
        ("ms a 500000 MR", full),
        ("mg a", "HD\r\n"),
    ] {
        let data = if request.contains("500000") { format!("{value}\r\n") } else { String::new() };
        assert_eq!(client.send(format!("{request}\r\n{data}"), &shared), answer, "{request}");
    }
}

#[test]
fn lists_of_keys_are_bounded_too() {
    let shared = shared(HOT_BYTES);
    let mut client = Client::new(true);
    client.input = b"get ".to_vec();
    client.input.resize(8 << 20, b'k');
    assert!(client.turn(&shared).is_empty());
    client.input.resize((8 << 20) + 1, b'k');
    assert_eq!(client.turn(&shared), b"CLIENT_ERROR line too long\r\n");
    assert!(client.session.closes);
}

#[test]
fn stats_say_what_was_done() {
    let shared = shared(HOT_BYTES);
    let mut client = Client::new(true);
    client.send(
        "set k 0 0 1\r\n1\r\nget k nope\r\nincr k 1\r\ndecr nope 1\r\ndelete k\r\ntouch k 0\r\nmg k\r\n",
        &shared,
    );
    let report = client.send("stats\r\n", &shared);
    for line in [
        "cmd_get 3",
        "cmd_set 1",
        "get_hits 1",
        "get_misses 2",
        "incr_hits 1",
        "decr_misses 1",
        "delete_hits 1",
        "touch_misses 1",
        "cmd_meta 1",
        "version 1.6.18",
        "curr_items 0",
    ] {
        assert!(report.contains(&format!("STAT {line}\r\n")), "{line} is not in {report}");
    }
    for section in ["", " settings", " items", " slabs", " sizes", " conns"] {
        let report = client.send(format!("stats{section}\r\n"), &shared);
        let lines: Vec<&str> = report.strip_suffix("END\r\n").unwrap().lines().collect();
        assert!(
            lines.iter().all(|line| line.starts_with("STAT ") && line.split(' ').count() == 3),
            "{report}"
        );
    }
    assert!(client.send("stats settings\r\n", &shared).contains("STAT domain_socket NULL\r\n"));
    shared.config.write().unwrap().memcached_unix = Some("/run/m.sock".into());
    assert!(client.send("stats settings\r\n", &shared).contains("STAT domain_socket /run/m.sock\r\n"));
    assert_eq!(client.send("stats reset\r\n", &shared), "RESET\r\n");
    let report = client.send("stats\r\n", &shared);
    for line in ["cmd_set 0", "total_items 0", "evictions 0", "reclaimed 0"] {
        assert!(report.contains(&format!("STAT {line}\r\n")), "{line} is not in {report}");
    }
}

/// Pieces of what clients send, sensible and not. Nothing whose answer depends on when it comes.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "get a b\r\n",
        "gets a b c\r\n",
        "gat 100 a b\r\n",
        "set a 5 0 3\r\nabc\r\n",
        "set b 0 0 3\r\n123\r\n",
        "set a 0 0 2 noreply\r\nab\r\n",
        "add c 0 0 1\r\nx\r\n",
        "append a 0 0 1\r\ny\r\n",
        "cas a 0 0 1 3\r\nz\r\n",
        "incr b 5\r\n",
        "decr b 500\r\n",
        "delete a\r\n",
        "touch b 1000\r\n",
        "set a 0 0 1\r\nabc\r\n",
        "set a 0 0 x\r\n",
        "set a 0 0 2000000\r\n",
        "mg a v c t k Oq\r\n",
        "mg d N30 v t\r\n",
        "mg b R2000 t c\r\n",
        "ms a 2 T100 c\r\nxy\r\n",
        "ms a 1 C2 I\r\nx\r\n",
        "ms YQ== 1 b k\r\nx\r\n",
        "md a I q\r\n",
        "md b\r\n",
        "ma b v\r\n",
        "ma e N0 J5 v\r\n",
        "mn\r\n",
        "version\r\n",
        "flush_all\r\n",
        "\r\n",
        "\n",
        " ",
        "set ",
        "get ",
        "0 ",
        "x",
        "\0",
        "\x7f\r\n",
    ]);
    prop_oneof![
        9 => known.prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
        1 => (0_usize..3000).prop_map(|length| vec![b'v'; length]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn pieces_of_any_size_are_answered_alike(
        fragments in prop::collection::vec(fragment(), 1..60),
        sizes in prop::collection::vec(1_usize..200, 1..20),
    ) {
        let bytes = [b"mn\r\n".to_vec(), fragments.concat()].concat();
        let whole = Client::new(true).send_in_pieces(&bytes, usize::MAX, &shared(16 << 20));
        let (shared, mut client, mut answers) = (shared(16 << 20), Client::new(true), Vec::new());
        let mut rest = &bytes[..];
        for size in sizes.iter().cycle() {
            if rest.is_empty() || client.session.closes {
                break;
            }
            let (piece, after) = rest.split_at((*size).min(rest.len()));
            answers.extend(client.send_in_pieces(piece, usize::MAX, &shared));
            rest = after;
        }
        prop_assert_eq!(whole.escape_ascii().to_string(), answers.escape_ascii().to_string());
    }
}
