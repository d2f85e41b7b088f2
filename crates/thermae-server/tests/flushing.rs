//! Commands that delete all keys: their clients wait for the end, and nobody else does.

mod common;

use common::served::{Client, PATIENCE, Served, wait_until};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Deleting so many takes some tenths of a second.
const KEYS: usize = 300_000;
const KEYS_PER_COMMAND: usize = 1_000;
/// Commands of others that are answered meanwhile, at least: in one go it was one.
const OTHERS_MIN: usize = 20;
/// How often something is tried that has to be done while keys are deleted: a machine that stands still just then lets that end first.
const ATTEMPTS: usize = 5;

/// A server with one loop.
fn served(name: &str) -> Served {
    Served::with_loops(&format!("flushing-{name}"), 1)
}

fn fill(client: &mut Client) {
    for number in 0..KEYS / KEYS_PER_COMMAND {
        let keys: Vec<String> =
            (0..KEYS_PER_COMMAND).map(|key| format!("key:{} x", number * KEYS_PER_COMMAND + key)).collect();
        assert_eq!(client.send(&format!("MSET {}", keys.join(" "))), "+OK");
    }
    assert_eq!(size(client), KEYS);
}

fn size(client: &mut Client) -> usize {
    client.send("DBSIZE").trim_start_matches(':').parse().unwrap()
}

/// Has a flush begin, and some of the keys be deleted.
fn begin(flushing: &mut Client, command: &str, other: &mut Client) {
    flushing.write(command);
    wait_until(|| size(other) < KEYS);
}

#[test]
fn others_are_served_while_keys_are_deleted() {
    let served = served("others");
    let (mut other, mut memcached) = (served.connect(), served.connect_to(1));
    let mut redis = served.connect();
    for (command, reply) in [("FLUSHALL", "+OK"), ("FLUSHDB ASYNC", "+OK"), ("flush_all", "OK")] {
        let flushing = if reply == "OK" { &mut memcached } else { &mut redis };
        let are_served = (0..ATTEMPTS).any(|_| {
            fill(&mut other);
            let (is_over, mut answered) = (AtomicBool::new(false), 0);
            std::thread::scope(|scope| {
                flushing.write(command);
                scope.spawn(|| {
                    assert_eq!(flushing.line(), reply);
                    is_over.store(true, Ordering::SeqCst);
                });
                while !is_over.load(Ordering::SeqCst) {
                    assert_eq!(other.send("PING"), "+PONG");
                    answered += 1;
                }
            });
            assert_eq!(size(&mut other), 0, "{command}");
            answered >= OTHERS_MIN
        });
        assert!(are_served, "{command}");
    }
    served.end();
}

#[test]
fn a_flush_with_a_delay_keeps_nobody_waiting() {
    let are_served = (0..ATTEMPTS).any(|attempt| {
        // One each: the store may be empty a moment before the flush is over, which would take keys of the next attempt.
        let served = served(&format!("delayed-{attempt}"));
        let mut other = served.connect();
        fill(&mut other);
        assert_eq!(served.connect_to(1).send("flush_all 1"), "OK");
        let (start, mut answered) = (Instant::now(), 0);
        loop {
            match size(&mut other) {
                0 => break,
                KEYS => {}
                _ => answered += 1,
            }
            assert!(start.elapsed() < PATIENCE);
        }
        served.end();
        answered >= OTHERS_MIN
    });
    assert!(are_served);
}

#[test]
fn what_a_client_sent_behind_a_flush_is_executed_behind_it() {
    let served = served("order");
    let (mut client, mut memcached) = (served.connect(), served.connect_to(1));
    fill(&mut client);
    client.write("SET a 1\r\nFLUSHALL\r\nSET b 2\r\nGET b\r\nGET a\r\nDBSIZE");
    let replies: Vec<String> = (0..6).map(|_| client.read()).collect();
    assert_eq!(replies, ["+OK", "+OK", "+OK", "2", "null", ":1"]);
    fill_beside(&mut client);
    for (command, reply) in [("flush_all", "OK\r\n"), ("flush_all noreply", "")] {
        memcached.write(&format!("set a 0 0 1\r\n1\r\n{command}\r\nset b 0 0 1\r\n2\r\nget a b\r\nmn"));
        for line in format!("STORED\r\n{reply}STORED\r\nVALUE b 0 1\r\n2\r\nEND\r\nMN").lines() {
            assert_eq!(memcached.line(), line, "{command}");
        }
        assert_eq!(size(&mut client), 1, "{command}");
        fill_beside(&mut client);
    }
    served.end();
}

fn fill_beside(client: &mut Client) {
    assert_eq!(client.send("DEL b"), ":1");
    fill(client);
}

/// A client that keeps copies of values is told once, and one that monitors is shown one command.
#[test]
fn others_learn_of_a_flush_once() {
    let served = served("told");
    let (mut client, mut tracking, mut monitoring) =
        (served.connect(), served.connect_resp3(), served.connect());
    fill(&mut client);
    assert_eq!(tracking.send("CLIENT TRACKING ON BCAST"), "+OK");
    assert_eq!(monitoring.send("MONITOR"), "+OK");
    assert_eq!(client.send("FLUSHALL"), "+OK");
    assert_eq!(client.send("ECHO end"), "end");
    assert_eq!(tracking.read(), ">[invalidate null]");
    assert_eq!(tracking.send("PING"), "+PONG");
    assert!(monitoring.line().ends_with("\"FLUSHALL\""));
    assert!(monitoring.line().ends_with("\"ECHO\" \"end\""));
    served.end();
}

#[test]
fn a_client_that_goes_away_has_all_deleted() {
    let served = served("gone");
    let mut other = served.connect();
    for (index, command) in [(0, "FLUSHALL"), (1, "flush_all")] {
        fill(&mut other);
        let mut client = served.connect_to(index);
        begin(&mut client, command, &mut other);
        drop(client);
        wait_until(|| size(&mut other) == 0);
    }
    served.end();
}

#[test]
fn a_client_that_is_ended_has_some_deleted() {
    let served = served("ended");
    let mut other = served.connect();
    let are_some_left = (0..ATTEMPTS).any(|_| {
        let (mut client, mut tracking) = (served.connect(), served.connect_resp3());
        fill(&mut other);
        let id = client.id();
        assert_eq!(tracking.send("CLIENT TRACKING ON BCAST"), "+OK");
        begin(&mut client, "FLUSHALL", &mut other);
        assert_eq!(other.send(&format!("CLIENT KILL ID {id}")), ":1");
        let left = size(&mut other);
        assert_eq!(tracking.read(), ">[invalidate null]");
        assert_eq!(size(&mut other), left);
        if left > 0 {
            assert!(client.is_closed());
        }
        other.send("FLUSHALL");
        left > 0
    });
    assert!(are_some_left);
    served.end();
}

#[test]
fn a_flush_does_not_keep_the_server_from_ending() {
    for (index, command, reply) in [
        (0, "FLUSHALL", "-ERR the server ends: some of the keys are deleted, and some are not"),
        (1, "flush_all", "SERVER_ERROR the server ends: some of the items are deleted, and some are not"),
    ] {
        let is_told = (0..ATTEMPTS).any(|attempt| {
            let served = served(&format!("shutdown-{index}-{attempt}"));
            let (mut client, mut other) = (served.connect_to(index), served.connect());
            fill(&mut other);
            begin(&mut client, command, &mut other);
            let start = Instant::now();
            other.write("SHUTDOWN NOSAVE");
            let line = client.line();
            assert!(client.is_closed() && other.is_closed());
            assert!(served.server.wait(PATIENCE));
            assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
            served.end();
            line == reply
        });
        assert!(is_told, "{command}");
    }
}
