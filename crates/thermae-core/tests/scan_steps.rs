//! Walks in steps, of which the store remembers nothing.

mod common;

use common::{Place, keys, options};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use thermae_core::{BatchOp, Durability, KEY_MARK, Key, SetOptions, Store, WhenFull};

const KEYS: u32 = 5000;

fn stays(number: u32) -> Vec<u8> {
    format!("stays:{number}").into_bytes()
}

fn set(store: &Store, key: &[u8]) {
    store.set(key, b"value", &SetOptions::default()).unwrap();
}

/// All keys with a prefix, walked in steps of so many.
fn walk(store: &Store, prefix: &[u8], step: usize, mut between: impl FnMut(&[Key])) -> Vec<Vec<u8>> {
    let (mut found, mut next) = (Vec::new(), Some(0));
    while let Some(position) = next {
        let (keys, after) = store.scan_step(prefix, position, step).unwrap();
        assert!(after.is_none_or(|after| after > position));
        between(&keys);
        found.extend(keys.into_iter().map(|(key, _)| key));
        next = after;
    }
    found.sort();
    found
}

#[test]
fn steps_of_any_size_give_each_key_once() {
    let place = Place::shared_memory("scan-steps");
    let store = place.open(&options(16, 0, Durability::None, WhenFull::Error));
    (0..KEYS).for_each(|number| set(&store, &stays(number)));
    let all = keys(&store, b"");
    for step in [0, 1, 7, 100, KEYS as usize, usize::MAX] {
        // Keys with one tag come together, so a step may give a few more.
        let most = step.max(1).saturating_add(2);
        let found = walk(&store, b"", step, |keys| assert!(keys.len() <= most, "{} for {step}", keys.len()));
        assert!(found == all, "{} of {} keys in steps of {step}", found.len(), all.len());
    }
    assert_eq!(walk(&store, b"stays:42", 100, |_| {}), keys(&store, b"stays:42"));
    assert_eq!(walk(&store, b"none", 100, |_| {}), Vec::<Vec<u8>>::new());
    for position in [u64::MAX, 1 << 60] {
        assert_eq!(store.scan_step(b"", position, 10).unwrap(), (Vec::new(), None));
    }
    store.close().unwrap();
}

#[test]
fn what_stays_is_found_while_others_write() {
    let place = Place::shared_memory("scan-steps");
    let store = place.open(&options(16, 0, Durability::None, WhenFull::Error));
    (0..KEYS).for_each(|number| set(&store, &stays(number)));
    let all = keys(&store, b"stays:");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Tables grow, and what stays is written again.
            for number in (0..40_000).cycle().take_while(|_| !is_over.load(Ordering::Relaxed)) {
                set(&store, format!("comes:{number}").as_bytes());
                set(&store, &stays(number % KEYS));
                store.delete(format!("comes:{}", (number + 20_000) % 40_000).as_bytes()).unwrap();
            }
        });
        for step in [13, 200, 3000] {
            assert!(walk(&store, b"stays:", step, |_| {}) == all, "in steps of {step}");
        }
        is_over.store(true, Ordering::Relaxed);
    });
    store.close().unwrap();
}

#[test]
fn an_empty_store_is_walked_in_bounded_steps() {
    let place = Place::shared_memory("scan-steps");
    let store = place.open(&options(1024, 0, Durability::None, WhenFull::Error));
    set(&store, b"alone");
    let mut steps = 0;
    assert_eq!(walk(&store, b"", 10, |_| steps += 1), [b"alone"]);
    assert_eq!(steps, 2, "1 GiB has 8192 partitions");
    assert_eq!(store.random_key(b"", |_| true).unwrap(), Some(b"alone".to_vec()));
    assert_eq!(store.random_key(b"", |key| key != b"alone").unwrap(), None);
    store.close().unwrap();
}

#[test]
fn each_key_is_chosen_at_random_now_and_then() {
    let place = Place::shared_memory("scan-steps");
    let store = place.open(&options(16, 0, Durability::None, WhenFull::Error));
    assert_eq!(store.random_key(b"", |_| true).unwrap(), None);
    (0..100).for_each(|number| set(&store, &stays(number)));
    set(&store, b"other");
    let mut times: HashMap<Vec<u8>, u32> = HashMap::new();
    for _ in 0..10_000 {
        let chosen = store.random_key(b"stays:", |key| key != b"stays:7").unwrap().unwrap();
        *times.entry(chosen).or_default() += 1;
    }
    assert_eq!(times.len(), 99);
    let (least, most) = (times.values().min().unwrap(), times.values().max().unwrap());
    assert!(*least > 10 && *most < 300, "of 101 times on average, from {least} to {most}");
    store.close().unwrap();
}

#[test]
fn keys_behind_the_mark_are_known_of() {
    let place = Place::shared_memory("marked-keys");
    let store = place.open(&options(16, 0, Durability::None, WhenFull::Error));
    let other = place.open(&options(16, 0, Durability::None, WhenFull::Error));
    let marked = [KEY_MARK, 1, b'a'];
    set(&store, b"a");
    set(&store, &[b'a', KEY_MARK]);
    assert!(!store.has_marked_keys().unwrap());
    set(&other, &marked);
    assert!(store.has_marked_keys().unwrap() && store.has_marked_keys().unwrap());
    other.delete(&marked).unwrap();
    assert!(!store.has_marked_keys().unwrap());
    let op = BatchOp::Set {
        key: &marked,
        value: b"value",
        encoding: 0,
        expires_at_ms: other.now_ms() + 500,
        flags: 0,
    };
    other.transaction(&[op], &[]).unwrap();
    assert!(store.has_marked_keys().unwrap());
    common::wait_until("the key has expired", Duration::from_secs(5), || !store.has_marked_keys().unwrap());
    // Over its expired record.
    set(&other, &marked);
    assert!(store.has_marked_keys().unwrap());
    other.close().unwrap();
    store.close().unwrap();
}

#[test]
fn a_key_behind_the_mark_is_never_missed() {
    let place = Place::shared_memory("marked-keys");
    let store = place.open(&options(16, 0, Durability::None, WhenFull::Error));
    let marked = [KEY_MARK, 1, b'a'];
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..2000 {
                set(&store, &marked);
                assert!(store.has_marked_keys().unwrap());
                store.delete(&marked).unwrap();
            }
            is_over.store(true, Ordering::Relaxed);
        });
        while !is_over.load(Ordering::Relaxed) {
            store.has_marked_keys().unwrap();
        }
    });
    store.close().unwrap();
}
