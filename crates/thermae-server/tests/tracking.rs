//! Clients that keep copies of values, of a server that runs: whatever changes a key, and on whichever loop, they are told.

mod common;

use common::served::{Client, PATIENCE, Served, wait_until};
use std::collections::HashMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long readers and writers race, at least.
const RACE: Duration = Duration::from_secs(3);

#[test]
fn readers_on_any_loop_are_told() {
    let served = Served::new("told");
    let mut readers: Vec<Client> = (0..4).map(|_| served.connect_resp3()).collect();
    let mut writers: Vec<Client> = (0..2).map(|_| served.connect()).collect();
    for reader in &mut readers {
        assert_eq!(reader.send("CLIENT TRACKING ON"), "+OK");
    }
    for (round, command) in [
        "SET a 1",
        "APPEND a 2",
        "EXPIRE a 100",
        "PERSIST a",
        "RENAME a b",
        "COPY b a",
        "INCR a",
        "GETDEL a",
        "MSET a 1 c 1",
        "SETBIT a 1 1",
        "SET a 1 EX 100",
        "GETEX a PERSIST",
        "DEL a",
        "SETNX a 1",
        "MOVE a 3",
        "PFADD a x",
        "SWAPDB 0 1",
    ]
    .into_iter()
    .enumerate()
    {
        for reader in &mut readers {
            reader.send("EXISTS a");
        }
        writers[round % 2].send(command);
        for reader in &mut readers {
            assert_eq!(reader.read(), ">[invalidate *[a]]", "{command}");
        }
    }
    for command in ["FLUSHDB", "FLUSHALL"] {
        assert_eq!(writers[0].send(command), "+OK");
        for reader in &mut readers {
            assert_eq!(reader.read(), ">[invalidate null]");
        }
    }
    // All are gone: nothing is kept for them.
    drop(readers);
    wait_until(|| writers[0].send("INFO clients").contains("tracking_clients:0\r\n"));
    assert!(writers[0].send("INFO stats").contains("tracking_total_keys:0\r\ntracking_total_items:0\r\n"));
    served.end();
}

#[test]
fn what_memcached_clients_change_is_told() {
    let served = Served::new("memcached");
    let (mut reader, mut writer) = (served.connect_resp3(), served.connect_to(1));
    assert_eq!(reader.send("CLIENT TRACKING ON"), "+OK");
    for (request, answer) in [
        ("set a 0 0 1\r\n1", "STORED"),
        ("append a 0 0 1\r\n2", "STORED"),
        ("incr a 1", "13"),
        ("touch a 100", "TOUCHED"),
        ("delete a", "DELETED"),
        ("ms a 1\r\n1", "HD"),
        ("ma a", "HD"),
        ("mg a T100", "HD"),
        ("md a I", "HD"),
        ("md a", "HD"),
        ("mg a N100", "HD W"),
    ] {
        reader.send("GET a");
        writer.write(request);
        assert_eq!(writer.line(), answer, "{request}");
        assert_eq!(reader.read(), ">[invalidate *[a]]", "{request}");
    }
    writer.write("flush_all");
    assert_eq!(writer.line(), "OK");
    assert_eq!(reader.read(), ">[invalidate null]");
    served.end();
}

#[test]
fn another_client_is_told_as_long_as_it_is_there() {
    let served = Served::new("redirect");
    let (mut reader, mut target, mut writer) = (served.connect_resp3(), served.connect(), served.connect());
    let id = target.id();
    // Where the server has channels, a client of RESP2 takes messages once it has subscribed to one.
    target.send("SUBSCRIBE __redis__:invalidate");
    assert_eq!(reader.send(&format!("CLIENT TRACKING ON REDIRECT {id}")), "+OK");
    assert_eq!(reader.send("GET a"), "null");
    assert_eq!(writer.send("SET a 1"), "+OK");
    assert_eq!(target.read(), "*[message __redis__:invalidate *[a]]");
    assert_eq!(writer.send("FLUSHALL"), "+OK");
    assert_eq!(target.read(), "*[message __redis__:invalidate null]");
    assert!(writer.send("CLIENT LIST").contains(&format!(" redir={id} ")));
    drop(target);
    wait_until(|| writer.send("CLIENT LIST").lines().count() == 2);
    assert_eq!(reader.send("GET a"), "null");
    assert_eq!(writer.send("SET a 1"), "+OK");
    assert_eq!(reader.read(), format!(">[tracking-redir-broken :{id}]"));
    assert_eq!(
        reader.send("CLIENT TRACKINGINFO"),
        format!("%[flags ~[on broken_redirect] redirect :{id} prefixes *[]]")
    );
    assert!(writer.send("CLIENT LIST").contains(" flags=tR "));
    // Turned on once more, it is whole again.
    assert_eq!(reader.send("CLIENT TRACKING ON"), "+OK");
    assert_eq!(reader.send("CLIENT TRACKINGINFO"), "%[flags ~[on] redirect :0 prefixes *[]]");
    served.end();
}

#[test]
fn a_full_table_lets_clients_forget() {
    let served = Served::new("full");
    let (mut reader, mut writer) = (served.connect_resp3(), served.connect());
    assert_eq!(writer.send("CONFIG SET tracking-table-max-keys 3"), "+OK");
    assert_eq!(reader.send("CLIENT TRACKING ON"), "+OK");
    let (mut told, mut replies) = (HashMap::new(), 0);
    for number in 0..10 {
        reader.write(&format!("GET {number}"));
    }
    while replies < 10 || told.len() < 7 {
        match reader.read().as_str() {
            "null" => replies += 1,
            push => *told.entry(push.to_owned()).or_insert(0) += 1,
        }
    }
    assert!(told.values().all(|count| *count == 1), "{told:?}");
    assert!(writer.send("INFO stats").contains("tracking_total_keys:3\r\ntracking_total_items:3\r\n"));
    served.end();
}

#[test]
fn nothing_in_resp3_is_sent_to_who_has_gone_back() {
    let served = Served::new("back");
    let (mut reader, mut writer) = (served.connect_resp3(), served.connect());
    for _ in 0..200 {
        reader.write("HELLO 3\r\nCLIENT TRACKING ON\r\nGET a");
        assert!(reader.read().starts_with("%["));
        assert_eq!(reader.read(), "+OK");
        reader.read();
        writer.write("SET a 1");
        reader.write("RESET\r\nPING");
        // What is told meanwhile comes before that, or never.
        while reader.read() != "+RESET" {}
        assert_eq!(reader.read(), "+PONG");
        assert_eq!(writer.read(), "+OK");
    }
    served.end();
}

/// A client's copies of values: what it was told to forget is not in it.
struct Copies {
    client: Client,
    values: HashMap<String, String>,
}

impl Copies {
    /// Takes what comes until the reply does.
    fn reply(&mut self) -> String {
        loop {
            let read = self.client.read();
            let Some(told) = read.strip_prefix(">[invalidate ") else { return read };
            match told.strip_prefix("*[").and_then(|keys| keys.strip_suffix("]]")) {
                Some(keys) => keys.split(' ').for_each(|key| drop(self.values.remove(key))),
                None => self.values.clear(),
            }
        }
    }

    fn get(&mut self, key: &str) {
        if !self.values.contains_key(key) {
            self.client.write(&format!("GET {key}"));
            let value = self.reply();
            self.values.insert(key.to_owned(), value);
        }
    }
}

impl Copies {
    /// No copy differs from the store, now that nobody writes, or else will not for long.
    fn check(&mut self, judge: &mut Client) {
        let start = Instant::now();
        loop {
            self.client.write("PING");
            assert_eq!(self.reply(), "+PONG");
            let stale = self.values.iter().find(|(key, value)| judge.send(&format!("GET {key}")) != **value);
            let Some(stale) = stale else { return };
            assert!(start.elapsed() < PATIENCE, "outdated for ever: {stale:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

const KEYS: u64 = 20;

/// Changes keys in each of the ways there are, until it is over; never while others hold the gate.
fn write_all_the_time(
    mut client: Client,
    writer: u64,
    gate: &RwLock<()>,
    changes: &AtomicU64,
    is_over: &AtomicBool,
) {
    let mut number = writer;
    while !is_over.load(Ordering::Relaxed) {
        number += 4;
        let _gate = gate.read().unwrap();
        let (key, other) = (number * 7 % KEYS, number * 11 % KEYS);
        let all = || (0..KEYS).map(|key| format!(" {key} {number}")).collect::<String>();
        match number / 4 % 7 {
            0 => client.send(&format!("MSET {key} {number} {other} {number}")),
            1 => {
                client.write(&format!("MULTI\r\nSET {key} {number}\r\nDEL {other}\r\nEXEC"));
                (0..4).map(|_| client.read()).last().unwrap()
            }
            2 => client.send(&format!("DEL {key}")),
            3 => client.send(&format!("APPEND {key} x")),
            4 => client.send(&format!("MSET{}", all())),
            _ => client.send(&format!("SET {key} {number}")),
        };
        changes.fetch_add(1, Ordering::Relaxed);
    }
}

/// Readers keep copies of what they read, while writers on both loops change it. Whenever all is quiet, no copy differs from the store.
fn race(name: &str, readers: u64, read: impl Fn(&mut Copies, u64) + Sync) {
    let served = Served::new(name);
    let (is_over, gate, changes) = (AtomicBool::new(false), RwLock::new(()), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let (is_over, gate, changes, read) = (&is_over, &gate, &changes, &read);
        for writer in 0..4 {
            let client = served.connect();
            scope.spawn(move || write_all_the_time(client, writer, gate, changes, is_over));
        }
        let readers: Vec<_> = (0..readers)
            .map(|reader| {
                let mut copies = Copies { client: served.connect_resp3(), values: HashMap::new() };
                let mut judge = served.connect();
                scope.spawn(move || {
                    let mut round = reader;
                    let start = Instant::now();
                    let await_changes = || {
                        let changed = changes.load(Ordering::Relaxed);
                        wait_until(|| changes.load(Ordering::Relaxed) > changed + 4);
                    };
                    while start.elapsed() < RACE || round < reader + 10 {
                        // The lock prefers who wants it alone: without waiting here, they could keep those who change keys out.
                        await_changes();
                        read(&mut copies, round);
                        await_changes();
                        let _gate = gate.write().unwrap();
                        copies.check(&mut judge);
                        round += 1;
                    }
                })
            })
            .collect();
        let ends: Vec<_> = readers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        is_over.store(true, Ordering::Relaxed);
        ends.into_iter().for_each(|end| end.unwrap());
    });
    served.end();
}

#[test]
fn no_copy_is_outdated_for_ever() {
    race("race", 3, |copies, round| {
        if round < 3 {
            copies.client.write("CLIENT TRACKING ON");
            assert_eq!(copies.reply(), "+OK");
        }
        for step in 0..50 {
            copies.get(&((round + step) * 7 % KEYS).to_string());
        }
    });
}

/// With one reader, nobody tracks in between: what writers are at when it begins is told as well.
#[test]
fn no_copy_is_outdated_for_ever_where_tracking_comes_and_goes() {
    race("flip", 1, |copies, _| {
        let reads: String = (0..KEYS).map(|key| format!("\r\nGET {key}")).collect();
        copies.client.write(&format!("CLIENT TRACKING OFF\r\nCLIENT TRACKING ON{reads}"));
        assert_eq!(copies.reply(), "+OK");
        copies.values.clear();
        assert_eq!(copies.reply(), "+OK");
        for key in 0..KEYS {
            let value = copies.reply();
            copies.values.insert(key.to_string(), value);
        }
    });
}
