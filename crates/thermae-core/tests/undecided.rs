//! Transactions that are stopped half way: what readers, flushes and checks of others make of them meanwhile, and afterwards.
#![cfg(feature = "crash-points")]

mod common;

use common::{ChildGuard, End, Place, options, setting};
use std::collections::HashMap;
use std::time::Duration;
use thermae_core::{BatchOp, Durability, Options, SetOptions, Store, WhenFull};

const TIMEOUT: Duration = Duration::from_secs(30);
/// Stored in extents.
const LARGE_BYTES: usize = 300_000;

fn put(store: &Store, key: &[u8], value: &[u8]) {
    store.set(key, value, &SetOptions::default()).unwrap();
}

fn value(store: &Store, key: &[u8]) -> Option<Vec<u8>> {
    store.get(key).unwrap().map(|(_, value)| value)
}

fn open(place: &Place, cold_mib: u64, durability: Durability) -> Store {
    place.open(&Options { background: false, ..options(16, cold_mib, durability, WhenFull::Error) })
}

/// What a process is told that stores the same value under some keys, in one transaction.
fn settings(place: &Place, keys: &[&[u8]], value: &[u8]) -> [(&'static str, String); 3] {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    [("STORE", place.text()), ("KEYS", text(&keys.join(&b' '))), ("VALUE", text(value))]
}

/// A process that stores the same value under some keys, in one transaction, and stops itself at a point of that.
fn stopped(place: &Place, keys: &[&[u8]], value: &[u8], point: &str) -> ChildGuard {
    let stop = [("THERMAE_STOP_POINT", point.to_owned())];
    let mut child = common::spawn_with("transactor", &settings(place, keys, value), &stop);
    child.wait_stopped(TIMEOUT);
    child
}

fn finish(child: &mut ChildGuard) {
    child.go_on();
    assert_eq!(child.wait(TIMEOUT), End::Finished);
}

/// A reader that has found a transaction undecided reads what it would replace. When it is decided then, what was replaced is given up, though the
/// index's entry stays: the reader once took that for damage, as the extents of the value that it was to copy were gone.
#[test]
fn what_a_transaction_replaces_may_go_while_it_is_read() {
    let place = Place::shared_memory("replaced");
    let store = open(&place, 0, Durability::None);
    put(&store, b"one", &vec![b'1'; LARGE_BYTES]);
    put(&store, b"two", b"1");
    let mut child = stopped(&place, &[b"one", b"two"], b"2", "batch.publishing:2");
    assert_eq!(value(&store, b"two").unwrap(), b"1", "it is decided already");
    let mut copy = Vec::new();
    let mut calls = 0;
    let meta = store.get_into(b"one", |meta| {
        calls += 1;
        if calls == 1 {
            finish(&mut child);
            // What was given up is given to others, and written over.
            (0..30).for_each(|_| put(&store, b"other", &vec![b'x'; LARGE_BYTES]));
        }
        copy = vec![0; meta.value_len as usize];
        copy.as_mut_ptr()
    });
    assert_eq!((meta.unwrap().unwrap().value_len, copy.as_slice(), calls), (1, &b"2"[..], 2));
    store.close().unwrap();
}

/// Two keys that the index can't tell apart but by their records.
fn keys_with_one_tag(store: &Store) -> [Vec<u8>; 2] {
    let engine = store.engine();
    let mut known: HashMap<(u32, u64), Vec<u8>> = HashMap::new();
    for number in 0_u64.. {
        let key = format!("key:{number}").into_bytes();
        let hash = engine.hash(&key);
        if let Some(other) = known.insert((engine.partition_of(hash), engine.tag(hash)), key.clone()) {
            return [other, key];
        }
    }
    unreachable!("there are keys enough")
}

/// Where a transaction that is not decided adds a key, there is nothing to be read of that key; a reader once took that for an answer, though it was after
/// another key with the same tag.
#[test]
fn a_key_that_a_transaction_adds_hides_no_other() {
    let place = Place::shared_memory("alike");
    let store = open(&place, 0, Durability::None);
    let [present, added] = keys_with_one_tag(&store);
    // The place that it leaves is the first that is free.
    put(&store, &added, b"0");
    put(&store, &present, b"1");
    assert!(store.delete(&added).unwrap());
    let mut child = stopped(&place, &[&added], b"2", "batch.publishing:1");
    for _ in 0..2 {
        assert_eq!(value(&store, &present).unwrap(), b"1");
        assert_eq!(*store.view(&present).unwrap().unwrap(), *b"1");
    }
    assert_eq!(value(&store, &added), None);
    finish(&mut child);
    assert_eq!(
        (value(&store, &present).unwrap(), value(&store, &added).unwrap()),
        (b"1".to_vec(), b"2".to_vec())
    );
    store.close().unwrap();
}

/// A flush writes what a transaction stored as soon as that has happened, marked as decided or not.
#[test]
fn tiers_are_the_same_whether_a_transaction_was_flushed_with_its_marks_or_without() {
    for point in ["batch.committed:1", "batch.marking:1"] {
        let place = Place::in_directory();
        let store = open(&place, 16, Durability::EverySec);
        put(&store, b"one", b"1");
        let mut child = stopped(&place, &[b"one", b"two"], b"2", point);
        assert_eq!(
            (value(&store, b"one").unwrap(), value(&store, b"two").unwrap()),
            (b"2".to_vec(), b"2".to_vec())
        );
        store.flush().unwrap();
        finish(&mut child);
        let report = store.check(false).unwrap();
        assert!(report.ok, "{report:?}");
        store.close().unwrap();
        let store = open(&place, 16, Durability::EverySec);
        assert_eq!(value(&store, b"two").unwrap(), b"2");
        store.close().unwrap();
    }
}

/// A transaction that somebody died in is undone by who takes over its partitions. Meanwhile its segment was once given to others, and the index led there for
/// ever.
#[test]
fn a_segment_is_not_given_up_before_what_was_undone_in_it_is_out_of_the_index() {
    let place = Place::shared_memory("undone");
    let store =
        place.open(&Options { background: false, ..options(16, 0, Durability::None, WhenFull::Evict) });
    let crash = [("THERMAE_CRASH_POINT", "batch.publishing:1".to_owned())];
    let mut dead = common::spawn_with("transactor", &settings(&place, &[b"one"], b"1"), &crash);
    assert_eq!(dead.wait(TIMEOUT), End::Killed);
    let mut heir = stopped(&place, &[b"one"], b"2", "repair.begun");
    let engine = store.engine();
    let partition_of = |key: &[u8]| engine.partition_of(engine.hash(key));
    std::thread::scope(|scope| {
        let evicting = scope.spawn(|| {
            for number in 0..800 {
                let key = format!("other:{number}").into_bytes();
                if partition_of(&key) != partition_of(b"one") {
                    put(&store, &key, &vec![b'x'; 50_000]);
                }
            }
        });
        // As far as it comes without the heir.
        let mut before = None;
        common::wait_until("it comes no further", TIMEOUT, || {
            std::thread::sleep(Duration::from_millis(500));
            let sequence = store.sequence().unwrap();
            before.replace(sequence) == Some(sequence)
        });
        assert!(!evicting.is_finished(), "it has not come to the segment");
        finish(&mut heir);
        evicting.join().unwrap();
    });
    let report = store.check(false).unwrap();
    assert!(report.ok, "{report:?}");
    assert!(value(&store, b"one").is_none_or(|value| value == b"2"));
    store.close().unwrap();
}

/// What the child processes do; nothing in the process that runs the tests.
#[test]
fn role() {
    let Some(role) = common::role() else { return };
    assert_eq!(role, "transactor");
    let location = common::location_setting();
    let store = Store::open(&location, &Options { background: false, ..Options::default() }).unwrap();
    let (keys, value) = (setting("KEYS"), setting("VALUE"));
    let ops: Vec<_> = keys
        .split(' ')
        .map(|key| BatchOp::Set {
            key: key.as_bytes(),
            value: value.as_bytes(),
            encoding: 0,
            expires_at_ms: 0,
            flags: 0,
        })
        .collect();
    store.transaction(&ops, &[]).unwrap();
    store.close().unwrap();
}
