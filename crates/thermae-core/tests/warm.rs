//! What a user sees of a warm tier: what it holds is served where it lies, outlives the machine, moves on to the cold tier, and is only ever
//! the store's own. On these machines it is an ordinary file, mapped; `persistent` tests how persistent memory is written.

mod common;

use common::{MIB, Place, Stamp, check_flags, flagged, options};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use thermae_core::env::SystemEnv;
use thermae_core::layout::state;
use thermae_core::{
    Durability, Error, IndexPlacement, Location, Options, SetOptions, Store, WhenFull, destroy,
    forget_shared_memory, restore,
};

const VALUE_BYTES: usize = 10_000;

fn warm(hot_mib: u64, warm_mib: u64, cold_mib: u64) -> Options {
    Options {
        warm_bytes: Some(warm_mib * MIB),
        ..options(hot_mib, cold_mib, Durability::EverySec, WhenFull::Error)
    }
}

fn name(number: u64) -> Vec<u8> {
    format!("key:{number:06}").into_bytes()
}

fn stamp(number: u64) -> Stamp {
    Stamp { writer: 7, number }
}

fn fill(store: &Store, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let key = name(number);
        let value = stamp(number).value(&key, VALUE_BYTES);
        store.set(&key, &value, &flagged(&value)).unwrap();
        if number.is_multiple_of(50) {
            store.flush().unwrap();
            store.keep_house().unwrap();
        }
    }
    store.flush().unwrap();
    store.keep_house().unwrap();
}

fn verify(store: &Store, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let key = name(number);
        let (meta, value) = store.get(&key).unwrap().unwrap_or_else(|| panic!("key {number} is gone"));
        assert_eq!(Stamp::of(&key, &value), stamp(number));
        check_flags(&key, &meta, &value);
    }
}

fn check(store: &Store) {
    let problems = store.check(false).unwrap().problems;
    assert!(problems.is_empty(), "{problems:#?}");
}

/// The machine dies: the shared half is gone, and nothing was closed.
fn reboot(store: Store, place: &Place) {
    store.engine().closed.store(true, Ordering::SeqCst);
    drop(store);
    forget_shared_memory(&SystemEnv, &place.location).unwrap();
}

#[test]
fn what_the_hot_tier_has_no_room_for_is_served_from_the_warm_one() {
    let place = Place::in_directory();
    let store = place.open(&warm(16, 64, 64));
    fill(&store, 0..3000);
    verify(&store, 0..3000);
    let stats = store.stats().unwrap();
    assert!(stats.warm_reads > 1000, "{stats:?}");
    assert_eq!((stats.cold_reads, stats.cold_written_bytes), (0, 0), "nothing had to leave the warm tier");
    assert!(stats.warm_used_bytes >= 28 << 20 && stats.warm_written_bytes >= 3000 * VALUE_BYTES as u64);
    check(&store);
    store.close().unwrap();
}

#[test]
fn what_is_read_twice_comes_back_to_the_hot_tier() {
    let place = Place::in_directory();
    let store = place.open(&warm(16, 64, 64));
    fill(&store, 0..3000);
    for _ in 0..3 {
        verify(&store, 0..200);
    }
    let before = store.stats().unwrap();
    assert!(before.promoted >= 150, "{before:?}");
    verify(&store, 0..200);
    let after = store.stats().unwrap();
    assert!(after.warm_reads - before.warm_reads < 50, "read from the hot tier by now");
    check(&store);
    store.close().unwrap();
}

#[test]
fn what_is_old_moves_on_to_the_cold_tier() {
    let place = Place::in_directory();
    let store = place.open(&warm(16, 16, 128));
    fill(&store, 0..8000);
    let stats = store.stats().unwrap();
    assert!(stats.cold_used_bytes >= 60 << 20, "{stats:?}");
    verify(&store, 0..8000);
    assert!(store.stats().unwrap().cold_reads > 4000);
    check(&store);
    // Flash is written to once for what stays alive.
    assert!(stats.cold_written_bytes <= 8000 * (VALUE_BYTES as u64 + 100), "{stats:?}");
    store.close().unwrap();
    let store = place.open(&Options { background: false, ..Options::default() });
    verify(&store, 0..8000);
    store.close().unwrap();
}

#[test]
fn a_machine_that_dies_loses_neither_tier() {
    let place = Place::in_directory();
    let store = place.open(&warm(16, 16, 128));
    fill(&store, 0..6000);
    reboot(store, &place);
    let store = place.open(&Options { background: false, ..Options::default() });
    verify(&store, 0..6000);
    check(&store);
    let stats = store.stats().unwrap();
    assert!(stats.warm_used_bytes > 0 && stats.cold_used_bytes > 0, "{stats:?}");
    fill(&store, 6000..9000);
    reboot(store, &place);
    let store = place.open(&Options { background: false, ..Options::default() });
    verify(&store, 0..9000);
    check(&store);
    store.close().unwrap();
}

#[test]
fn a_store_with_a_warm_tier_alone_is_durable() {
    let place = Place::in_directory();
    let store = place.open(&warm(16, 64, 0));
    fill(&store, 0..4000);
    // Most of it again, so that compaction has to find room.
    for _ in 0..3 {
        fill(&store, 1000..4000);
    }
    verify(&store, 0..4000);
    reboot(store, &place);
    let store = place.open(&Options { background: false, ..Options::default() });
    verify(&store, 0..4000);
    check(&store);
    assert!(!place.beside("store/cold").exists());
    let always = store.set_durability(Durability::Always);
    always.unwrap();
    fill(&store, 0..10);
    store.close().unwrap();
}

#[test]
fn a_store_with_a_warm_tier_alone_evicts() {
    let place = Place::in_directory();
    let store = place.open(&Options { when_full: Some(WhenFull::Evict), ..warm(16, 16, 0) });
    fill(&store, 0..5000);
    let stats = store.stats().unwrap();
    assert!(stats.evicted > 2000 && stats.keys > 500, "{stats:?}");
    verify(&store, 4900..5000);
    check(&store);
    store.close().unwrap();
}

#[test]
fn a_view_of_a_warm_value_is_no_copy_and_keeps_its_bytes_when_the_segment_moves() {
    let place = Place::in_directory();
    let store = place.open(&warm(16, 16, 128));
    fill(&store, 0..2000);
    // In the warm tier alone: too old for the hot one, too new to have moved on.
    let numbers: Vec<u64> = (0..2000)
        .filter(|&number| {
            let before = store.stats().unwrap().warm_reads;
            store.get(&name(number)).unwrap();
            store.stats().unwrap().warm_reads > before
        })
        .collect();
    assert!(numbers.len() > 20, "{} keys are warm", numbers.len());
    let views: Vec<_> =
        numbers.iter().map(|&number| (number, store.view(&name(number)).unwrap().unwrap())).collect();
    let zero_copy = views.iter().filter(|(_, view)| view.is_zero_copy()).count();
    assert!(zero_copy * 10 > views.len() * 9, "{zero_copy} of {} views are no copies", views.len());
    fill(&store, 2000..9000);
    for &number in &numbers {
        store.delete(&name(number)).unwrap();
    }
    fill(&store, 9000..9500);
    for (number, view) in &views {
        assert_eq!(Stamp::of(&name(*number), view), stamp(*number));
    }
    assert!(store.stats().unwrap().pinned_segments > 0);
    store.close().unwrap();
    drop(store);
    views.iter().for_each(|(number, view)| assert_eq!(Stamp::of(&name(*number), view), stamp(*number)));
}

#[test]
fn large_values_are_viewed_where_their_parts_lie() {
    let place = Place::in_directory();
    let store = place.open(&warm(16, 32, 128));
    let large = |number: u64| format!("large:{number}").into_bytes();
    let set = |number: u64| {
        let key = large(number);
        let value = stamp(number).value(&key, 2_500_000);
        store.set(&key, &value, &flagged(&value)).unwrap();
        store.flush().unwrap();
        store.keep_house().unwrap();
    };
    (0..7).for_each(set);
    let view = store.view(&large(0)).unwrap().unwrap();
    assert!(view.is_zero_copy(), "its parts are warm");
    (7..40).for_each(set);
    for number in 0..40 {
        let key = large(number);
        let (meta, value) = store.get(&key).unwrap().unwrap();
        assert_eq!(Stamp::of(&key, &value), stamp(number));
        check_flags(&key, &meta, &value);
        assert_eq!(Stamp::of(&key, &store.view(&key).unwrap().unwrap()), stamp(number));
    }
    assert!(store.stats().unwrap().cold_used_bytes > 40 << 20);
    assert_eq!(Stamp::of(&large(0), &view), stamp(0));
    drop(view);
    check(&store);
    reboot(store, &place);
    let store = place.open(&Options { background: false, ..Options::default() });
    for number in 0..40 {
        let key = large(number);
        assert_eq!(Stamp::of(&key, &store.view(&key).unwrap().unwrap()), stamp(number));
    }
    store.close().unwrap();
}

#[test]
fn the_warm_tier_may_be_on_another_file_system_and_goes_with_the_store() {
    let place = Place::in_directory();
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let elsewhere = memory.path().join("persistent");
    let store = place.open(&Options { warm_directory: Some(elsewhere.clone()), ..warm(16, 16, 64) });
    fill(&store, 0..3000);
    let files: Vec<PathBuf> =
        std::fs::read_dir(&elsewhere).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let metadata = std::fs::metadata(&files[0]).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert!(metadata.blocks() * 512 >= 16 << 20, "allocated in full");
    assert_eq!(store.config().warm_file.as_deref(), files[0].to_str());
    store.close().unwrap();
    drop(store);
    let store = place.open(&Options { background: false, ..Options::default() });
    verify(&store, 0..3000);
    store.close().unwrap();
    drop(store);
    // A copy of the directory must not write into the original's warm tier.
    let copy = place.beside("copy");
    std::fs::create_dir(&copy).unwrap();
    for name in ["store", "cold", "checkpoint.0", "checkpoint.1"] {
        let from = place.beside("store").join(name);
        if from.exists() {
            std::fs::copy(from, copy.join(name)).unwrap();
        }
    }
    std::fs::write(copy.join("checkpoint.0"), b"").unwrap();
    let error = Store::open(&Location::Directory(copy), &Options::default()).unwrap_err();
    assert!(
        matches!(&error, Error::Corrupt(message) if message.contains("restore a snapshot") && message.contains("missing")),
        "{error}"
    );
    destroy(&SystemEnv, &place.location).unwrap();
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0, "removed with the store");
    // For the place's own clean-up.
    place.open(&warm(16, 16, 64)).close().unwrap();
}

#[test]
fn a_damaged_warm_tier_costs_what_was_in_it_and_is_named() {
    let place = Place::in_directory();
    let store = place.open(&warm(16, 32, 64));
    fill(&store, 0..2000);
    reboot(store, &place);
    let path = place.beside("store/warm");
    let length = std::fs::metadata(&path).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length - (20 << 20)).unwrap();
    let store = place.open(&Options { background: false, ..Options::default() });
    let (mut found, mut lost) = (0, 0);
    for number in 0..2000 {
        match store.get(&name(number)) {
            Ok(Some((_, value))) => {
                assert_eq!(Stamp::of(&name(number), &value), stamp(number));
                found += 1;
            }
            Ok(None) | Err(Error::Corrupt(_)) => lost += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(found > 100 && lost > 100, "{found} found, {lost} lost");
    let report = store.check(false).unwrap();
    assert!(
        report
            .problems
            .iter()
            .any(|problem| problem.description.contains("too short") && problem.description.contains("warm")),
        "{:#?}",
        report.problems
    );
    assert_eq!(std::fs::metadata(&path).unwrap().len(), length, "what is mapped has something behind it");
    store.close().unwrap();
}

#[test]
fn snapshots_lead_into_and_out_of_a_warm_tier() {
    let place = Place::in_directory();
    let store = place.open(&warm(16, 16, 64));
    fill(&store, 0..3000);
    let snapshot = place.beside("snapshot");
    store.snapshot(&snapshot).unwrap();
    store.close().unwrap();
    for (name, warm_mib, cold_mib) in [("cold-only", 0, 64), ("both", 32, 64), ("warm-only", 64, 0)] {
        let location = Location::Directory(place.beside(name));
        let restored = restore(&snapshot, &location, &warm(16, warm_mib, cold_mib)).unwrap();
        assert_eq!(restored.keys, 3000);
        let store = Store::open(&location, &Options { background: false, ..Options::default() }).unwrap();
        verify(&store, 0..3000);
        fill(&store, 3000..3300);
        let config = store.config();
        assert_eq!((config.warm_bytes, config.cold_bytes), (warm_mib * MIB, cold_mib * MIB));
        check(&store);
        let again = place.beside(&format!("{name}-snapshot"));
        store.snapshot(&again).unwrap();
        store.close().unwrap();
        drop(store);
        destroy(&SystemEnv, &location).unwrap();
        let store = restore(&again, &location, &Options::default()).map(|report| report.keys);
        assert_eq!(store.unwrap(), 3300);
        destroy(&SystemEnv, &location).unwrap();
    }
}

/// Slots are taken in turn, so a store that has been written to for a while uses those that a store without a warm tier would not have.
#[test]
fn a_snapshot_holds_the_segments_of_every_slot() {
    let place = Place::in_directory();
    let store = place.open(&warm(16, 32, 64));
    let slots = store.engine().geometry.slots;
    let is_used = |slot: u32| store.engine().segment(slot).state.load(Ordering::SeqCst) == state::CLOSED;
    fill(&store, 0..2500);
    let mut last = 2500;
    while !(slots - 16..slots).any(is_used) {
        assert!(last < 100_000, "the last slots are never used");
        fill(&store, last..last + 500);
        for number in last - 2500..last - 2000 {
            store.delete(&name(number)).unwrap();
        }
        last += 500;
    }
    let snapshot = place.beside("snapshot");
    store.snapshot(&snapshot).unwrap();
    store.close().unwrap();
    let snapshot = Location::Directory(snapshot);
    let opened = Store::open(&snapshot, &Options::default()).unwrap();
    verify(&opened, last - 2500..last);
    check(&opened);
    assert_eq!(opened.stats().unwrap().keys, 2500);
    opened.close().unwrap();
    drop(opened);
    // Also smaller, if what it holds has room.
    let smaller = Location::Directory(place.beside("smaller"));
    let again = place.beside("again");
    let opened = Store::open(&snapshot, &Options::default()).unwrap();
    opened.snapshot(&again).unwrap();
    opened.close().unwrap();
    drop(opened);
    destroy(&SystemEnv, &snapshot).unwrap();
    assert_eq!(
        restore(&again, &smaller, &options(16, 84, Durability::EverySec, WhenFull::Error)).unwrap().keys,
        2500
    );
    let opened = Store::open(&smaller, &Options::default()).unwrap();
    assert!(opened.engine().geometry.slots > 16 + 84 + 64, "more slots than its tiers ask for");
    verify(&opened, last - 2500..last);
    fill(&opened, last..last + 200);
    check(&opened);
    opened.close().unwrap();
    drop(opened);
    destroy(&SystemEnv, &smaller).unwrap();
}

/// Keys that would fill the hot tier with their index leave it to the values when the index is elsewhere.
#[test]
fn the_index_may_be_in_the_warm_tier() {
    let small = |store: &Store, numbers: std::ops::Range<u64>| {
        for number in numbers {
            store.set(&name(number), &number.to_le_bytes(), &SetOptions::default()).unwrap();
        }
        store.flush().unwrap();
        store.keep_house().unwrap();
    };
    let verify_small = |store: &Store, numbers: std::ops::Range<u64>| {
        for number in numbers {
            let (_, value) =
                store.get(&name(number)).unwrap().unwrap_or_else(|| panic!("key {number} is gone"));
            assert_eq!(value, number.to_le_bytes());
        }
    };
    let place = Place::in_directory();
    let options = Options { index: Some(IndexPlacement::Warm), ..warm(16, 48, 64) };
    let store = place.open(&options);
    let hot_before = store.stats().unwrap().hot_used_bytes;
    small(&store, 0..300_000);
    let stats = store.stats().unwrap();
    assert!(stats.index_frame_bytes >= 3 << 20, "{stats:?}");
    assert!(store.engine().index_frames_max() > store.engine().geometry.hot_frames);
    let index_frames = stats.index_frame_bytes >> 20;
    let is_warm = store.engine().index_frames()[..index_frames as usize]
        .iter()
        .all(|frame| frame.load(Ordering::Relaxed) >= store.engine().geometry.hot_frames);
    assert!(
        is_warm,
        "all of the index is in the warm tier; {hot_before} bytes of the hot one were in use before"
    );
    verify_small(&store, 0..300_000);
    check(&store);
    let reader = place.open(&Options { read_only: true, background: false, ..Options::default() });
    verify_small(&reader, 0..1000);
    reader.close().unwrap();
    drop(reader);
    store.close().unwrap();
    drop(store);
    let store = place.open(&Options { background: false, ..Options::default() });
    verify_small(&store, 0..300_000);
    let error =
        Store::open(&place.location, &Options { index: Some(IndexPlacement::Hot), ..Options::default() });
    assert!(matches!(error, Err(Error::InvalidOption(message)) if message.contains("index")));
    reboot(store, &place);
    let store = place.open(&Options { background: false, ..Options::default() });
    verify_small(&store, 0..300_000);
    small(&store, 300_000..350_000);
    check(&store);
    store.close().unwrap();
}

#[test]
fn a_reader_of_its_own_maps_the_warm_tier_too() {
    let place = Place::in_directory();
    let store = place.open(&warm(16, 64, 64));
    fill(&store, 0..3000);
    let reader =
        place.open(&Options { read_only: true, background: false, hot_bytes: None, ..Options::default() });
    verify(&reader, 0..3000);
    assert!(reader.view(&name(0)).unwrap().unwrap().is_zero_copy());
    assert!(matches!(reader.set(b"a", b"b", &SetOptions::default()), Err(Error::ReadOnly(_))));
    reader.close().unwrap();
    store.close().unwrap();
}
