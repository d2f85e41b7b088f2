//! A full store: what drops nothing refuses at once, and can always be emptied; what may drop goes on, whatever the size of its values.

mod common;

use common::{MIB, Place, Random, options};
use std::sync::atomic::Ordering;
use std::time::Duration;
use thermae_core::env::SystemEnv;
use thermae_core::{BatchOp, Durability, Error, Options, SetOptions, Store, WhenFull, forget_shared_memory};

fn name(number: u64) -> Vec<u8> {
    format!("key:{number}").into_bytes()
}

fn set(store: &Store, number: u64, bytes: usize) -> Result<(), Error> {
    store.set(&name(number), &vec![number as u8; bytes], &SetOptions::default()).map(drop)
}

/// Stores values until one is refused; returns the number after the last.
fn fill(store: &Store, from: u64, bytes: usize) -> u64 {
    (from..)
        .find(|&number| match set(store, number, bytes) {
            Ok(()) => false,
            Err(Error::Full(_)) => true,
            Err(error) => panic!("{bytes} bytes: {error}"),
        })
        .unwrap_or_else(|| unreachable!("every store is full some day"))
}

fn check(store: &Store) {
    let problems = store.check(false).unwrap().problems;
    assert!(problems.is_empty(), "{problems:#?}");
}

/// Fills, deletes, fills again, clears, and fills for the last time. Deletes never fail; of values there is room for as many again, but
/// for what lies scattered in frames.
fn fill_and_empty(options: &Options, bytes: usize, again_percent: u64) {
    let place = Place::in_directory();
    let store = place.open(options);
    let count = fill(&store, 0, bytes);
    let copied_bytes = store.stats().unwrap().compacted_bytes;
    for _ in 0..50 {
        assert!(matches!(set(&store, count, bytes), Err(Error::Full(_))));
    }
    let stats = store.stats().unwrap();
    assert_eq!(stats.compacted_bytes, copied_bytes, "where all is alive, copying it gains nothing");

    let mut numbers: Vec<u64> = (0..count).collect();
    let mut random = Random::new(bytes as u64);
    (1..numbers.len()).rev().for_each(|at| numbers.swap(at, random.below(at as u64 + 1) as usize));
    let (deleted, kept) = numbers.split_at(numbers.len() / 2);
    for (at, &number) in deleted.iter().enumerate() {
        match store.delete(&name(number)) {
            Ok(is_deleted) => assert!(is_deleted),
            Err(error) => panic!("{bytes} bytes, delete {at} of {}: {error}", deleted.len()),
        }
    }
    let added = fill(&store, count, bytes) - count;
    assert!(added * 100 >= deleted.len() as u64 * again_percent, "{added} of {}", deleted.len());
    check(&store);

    // What a replay of the log makes of it.
    let durability = options.durability.unwrap();
    if options.cold_bytes != Some(0) && durability != Durability::None {
        store.flush().unwrap();
        store.engine().closed.store(true, Ordering::SeqCst);
        drop(store);
        forget_shared_memory(&SystemEnv, &place.location).unwrap();
    } else {
        store.close().unwrap();
    }
    let store = place.open(options);
    assert_eq!(store.len().unwrap(), kept.len() as u64 + added);
    deleted.iter().for_each(|&number| assert!(store.meta(&name(number)).unwrap().is_none()));
    kept.iter().for_each(|&number| assert!(store.meta(&name(number)).unwrap().is_some()));

    assert_eq!(store.clear().unwrap(), kept.len() as u64 + added);
    let last = fill(&store, 0, bytes);
    assert!(last * 100 >= count * again_percent, "{last} of {count}");
    check(&store);
    store.close().unwrap();
}

#[test]
fn a_store_that_drops_nothing_can_be_emptied() {
    // Values of 100 kB and more leave a part of each frame unfilled; records of 8 bytes are no larger than what says that they are gone.
    for bytes in [8, 1000, 100_000, 180_000, 250_000, 1_500_000] {
        let again_percent = if bytes < 10_000 { 85 } else { 65 };
        for (hot, cold) in [(16, 16), (32, 64)] {
            for durability in [Durability::None, Durability::EverySec] {
                fill_and_empty(&options(hot, cold, durability, WhenFull::Error), bytes, again_percent);
            }
        }
        fill_and_empty(&options(32, 0, Durability::None, WhenFull::Error), bytes, again_percent);
    }
}

#[test]
fn a_store_that_drops_nothing_can_be_emptied_where_every_write_is_flushed() {
    for bytes in [1000, 100_000, 1_500_000] {
        fill_and_empty(&options(16, 16, Durability::Always, WhenFull::Error), bytes, 65);
    }
}

#[test]
fn a_store_with_a_warm_tier_can_be_emptied() {
    for bytes in [8, 1000, 180_000] {
        let tiers =
            Options { warm_bytes: Some(24 * MIB), ..options(16, 32, Durability::EverySec, WhenFull::Error) };
        fill_and_empty(&tiers, bytes, 65);
    }
}

/// What is kept back for deletes is not used up by what is stored meanwhile.
#[test]
fn deletes_go_on_beside_sets() {
    for (bytes, cold) in [(8, 16), (1000, 64), (1000, 256)] {
        let place = Place::in_directory();
        let store = place.open(&options(16.max(cold / 4), cold, Durability::EverySec, WhenFull::Error));
        let count = fill(&store, 0, bytes);
        let mut alive: Vec<u64> = (0..count).collect();
        let mut random = Random::new(cold);
        let (mut refused, mut next) = (0, count);
        for round in 0..40_000 {
            let number = alive.swap_remove(random.below(alive.len() as u64) as usize);
            match store.delete(&name(number)) {
                Ok(is_deleted) => assert!(is_deleted),
                Err(error) => panic!("{bytes} bytes in {cold} MiB, delete {round}: {error}"),
            }
            match set(&store, next, bytes) {
                Ok(()) => alive.push(next),
                Err(Error::Full(_)) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            next += 1;
        }
        assert!(refused < 40_000, "room is made of what was deleted");
        assert_eq!(store.len().unwrap(), alive.len() as u64);
        check(&store);
        store.close().unwrap();
    }
}

#[test]
fn a_transaction_that_only_deletes_finds_room_too() {
    let place = Place::in_directory();
    let store = place.open(&options(16, 16, Durability::EverySec, WhenFull::Error));
    let count = fill(&store, 0, 1000);
    let names: Vec<Vec<u8>> = (0..count).map(name).collect();
    delete_in_transactions(&store, &names);
    assert!(store.is_empty().unwrap());
    check(&store);
    store.close().unwrap();
}

fn delete_in_transactions(store: &Store, names: &[Vec<u8>]) {
    for names in names.chunks(100) {
        let ops: Vec<BatchOp<'_>> = names.iter().map(|name| BatchOp::Delete { key: name }).collect();
        store.transaction(&ops, &[]).unwrap();
    }
}

/// Each reboot closes what was appended to, however little that was.
#[test]
fn deletes_go_on_after_reboots() {
    for (hot, cold) in [(16, 16), (64, 64)] {
        let place = Place::in_directory();
        let options = options(hot, cold, Durability::EverySec, WhenFull::Error);
        let mut store = place.open(&options);
        let count = fill(&store, 0, 1000);
        for number in 0..count {
            if number < 500 && number % 60 == 0 {
                store.flush().unwrap();
                store.engine().closed.store(true, Ordering::SeqCst);
                drop(store);
                forget_shared_memory(&SystemEnv, &place.location).unwrap();
                store = place.open(&options);
                assert_eq!(store.len().unwrap(), count - number);
            }
            assert!(store.delete(&name(number)).unwrap(), "{number}");
        }
        assert!(store.is_empty().unwrap());
        assert!(fill(&store, 0, 1000) * 100 > 85 * count);
        check(&store);
        store.close().unwrap();
    }
}

#[test]
fn what_has_expired_makes_room_for_the_next() {
    for cold in [0, 32] {
        let place = Place::in_directory();
        let store = place.open(&options(32, cold, Durability::None, WhenFull::Error));
        let soon = SetOptions { expires_at_ms: store.now_ms() + 5000, ..SetOptions::default() };
        let filled = (0..100_000).find(|&number| store.set(&name(number), &[7; 1000], &soon).is_err());
        let filled = filled.expect("room each time: filling took so long that what was stored had expired");
        assert!(filled > 10_000);
        while store.now_ms() <= soon.expires_at_ms {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Nobody but this writer is there to remove it.
        set(&store, 0, 1000).unwrap();
        store.close().unwrap();
    }
}

/// The unfilled end of each frame was taken for what compaction gains: nothing was ever dropped, and the cache refused what came.
#[test]
fn a_cache_of_values_that_do_not_fill_frames_drops_the_oldest() {
    for bytes in [180_000, 210_000] {
        for durability in [Durability::None, Durability::EverySec] {
            let place = Place::in_directory();
            let store = place.open(&options(16, 32, durability, WhenFull::Evict));
            (0..1000).for_each(|number| set(&store, number, bytes).unwrap());
            assert!(store.meta(&name(999)).unwrap().is_some());
            assert!(store.meta(&name(0)).unwrap().is_none());
            let stats = store.stats().unwrap();
            assert!(stats.compacted_bytes < stats.log_bytes / 4, "{stats:?}");
            assert!(stats.keys * bytes as u64 >= 16 * MIB, "{stats:?}");
            check(&store);
            store.close().unwrap();
        }
    }
}

/// The index has its share of the hot tier, and values pass through the rest.
#[test]
fn an_index_as_large_as_it_may_be_ends_no_service() {
    let place = Place::in_directory();
    let store = place.open(&options(16, 64, Durability::EverySec, WhenFull::Error));
    let count = fill(&store, 0, 1);
    let text = set(&store, count, 1).unwrap_err().to_string();
    assert!(text.contains("the index takes 8MiB of it and can't grow"), "{text}");
    (0..1000).for_each(|number| set(&store, number, 900).unwrap());
    (0..1000).for_each(|number| assert!(store.delete(&name(number)).unwrap()));
    (0..500).for_each(|number| set(&store, number, 1).unwrap());
    let names: Vec<Vec<u8>> = (2000..4000).map(name).collect();
    delete_in_transactions(&store, &names);
    check(&store);

    store.set_when_full(WhenFull::Evict).unwrap();
    (count..2 * count).for_each(|number| set(&store, number, 1).unwrap());
    assert!(store.meta(&name(2 * count - 1)).unwrap().is_some());
    assert!(store.meta(&name(1000)).unwrap().is_none(), "the oldest made room");
    let keys = store.len().unwrap();
    assert!((count - count / 10..=count + count / 5).contains(&keys), "{keys} of {count}");
    // A transaction may want several places in one partition.
    let names: Vec<Vec<u8>> = (3 * count..3 * count + 5000).map(name).collect();
    let ops: Vec<BatchOp<'_>> = names
        .iter()
        .map(|key| BatchOp::Set { key, value: b"1", encoding: 0, expires_at_ms: 0, flags: 0 })
        .collect();
    store.transaction(&ops, &[]).unwrap();
    let keys = store.len().unwrap();
    let evicted = store.stats().unwrap().evicted;
    assert!(evicted <= count + count / 20, "hardly more than came: {evicted} of {count}");
    check(&store);
    assert_eq!(store.clear().unwrap(), keys);
    set(&store, 0, 1).unwrap();
    store.close().unwrap();
}

/// Recovery gives each partition the table that it needs: one that had been filled up further would come back larger each time.
#[test]
fn an_index_at_its_bound_is_recovered_as_large_as_it_was() {
    let place = Place::in_directory();
    let options = options(16, 64, Durability::EverySec, WhenFull::Evict);
    let mut next = 0;
    for _ in 0..4 {
        let store = place.open(&options);
        (next..next + 700_000).for_each(|number| set(&store, number, 1).unwrap());
        next += 700_000;
        assert!(store.meta(&name(next - 1)).unwrap().is_some());
        let stats = store.stats().unwrap();
        assert!(stats.index_frame_bytes <= 8 * MIB, "{stats:?}");
        store.flush().unwrap();
        store.engine().closed.store(true, Ordering::SeqCst);
        drop(store);
        forget_shared_memory(&SystemEnv, &place.location).unwrap();
    }
}
