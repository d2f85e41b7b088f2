//! Snapshots while others write: what is restored is the store as it was at one moment, in every respect.
//!
//! Each writer's operations are numbered and follow from their numbers, so the state after each of them is known; and transfers between accounts
//! keep one sum. A snapshot must show every writer's keys as they were after some one of its operations, and that sum.

mod common;

use common::{
    MIB, Place, Random, Stamp, check_flags, flagged, flags_of, keys, location_setting, options, setting,
    spawn,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use thermae_core::env::SystemEnv;
use thermae_core::{
    BatchOp, Cancellation, Durability, Error, Location, Options, SetOptions, Store, WhenFull, destroy,
    forget_shared_memory, restore,
};

const ACCOUNTS: u64 = 40;
const BALANCE: i64 = 1000;
const KEYS: u64 = 300;
/// Trailing deletions leave no trace in a snapshot; so many operations after the last one seen are tried.
const TRAIL: u64 = 60;

fn account(number: u64) -> Vec<u8> {
    format!("account:{number:03}").into_bytes()
}

fn balance(store: &Store, number: u64) -> (i64, u64) {
    let (meta, value) =
        store.get(&account(number)).unwrap().unwrap_or_else(|| panic!("account {number} is gone"));
    check_flags(&account(number), &meta, &value);
    (std::str::from_utf8(&value).unwrap().parse().unwrap(), meta.version)
}

fn open_accounts(store: &Store) {
    for number in 0..ACCOUNTS {
        let value = BALANCE.to_string();
        store.set(&account(number), value.as_bytes(), &flagged(value.as_bytes())).unwrap();
    }
}

fn transfer(store: &Store, random: &mut Random) {
    let (from, to) = (random.below(ACCOUNTS), random.below(ACCOUNTS));
    if from == to {
        return;
    }
    let amount = random.below(50) as i64;
    let ((from_balance, from_version), (to_balance, to_version)) = (balance(store, from), balance(store, to));
    let (from_key, to_key) = (account(from), account(to));
    let (from_value, to_value) = ((from_balance - amount).to_string(), (to_balance + amount).to_string());
    let ops = [
        BatchOp::Set {
            key: &from_key,
            value: from_value.as_bytes(),
            encoding: 2,
            expires_at_ms: 0,
            flags: flags_of(from_value.as_bytes()),
        },
        BatchOp::Set {
            key: &to_key,
            value: to_value.as_bytes(),
            encoding: 2,
            expires_at_ms: 0,
            flags: flags_of(to_value.as_bytes()),
        },
    ];
    match store.transaction(&ops, &[(&from_key, Some(from_version)), (&to_key, Some(to_version))]) {
        Ok(()) | Err(Error::Conflict(_)) => {}
        Err(error) => panic!("transfer: {error}"),
    }
}

/// What a writer's operation does: which key, and the length of its new value (`None` = deletes it).
fn operation(writer: u32, number: u64) -> (Vec<u8>, Option<usize>) {
    let mut random = Random::new(number << 8 | u64::from(writer));
    random.next();
    let key = format!("writer{writer}:{}", random.below(KEYS)).into_bytes();
    let len = match random.below(100) {
        0..15 => None,
        15..16 => Some(300_000 + random.below(1_000_000) as usize),
        _ => Some(24 + random.below(2000) as usize),
    };
    (key, len)
}

fn apply(store: &Store, writer: u32, number: u64) {
    let (key, len) = operation(writer, number);
    match len {
        None => {
            store.delete(&key).unwrap();
        }
        Some(len) => {
            let value = Stamp { writer, number }.value(&key, len);
            store.set(&key, &value, &flagged(&value)).unwrap();
        }
    }
}

/// Verifies that a writer's keys are as they were after one of its operations from `first` on; returns which.
fn verify_writer(store: &Store, writer: u32, first: u64) -> u64 {
    let prefix = format!("writer{writer}:").into_bytes();
    let mut found = BTreeMap::new();
    for key in keys(store, &prefix) {
        let (meta, value) = store.get(&key).unwrap().unwrap();
        let stamp = Stamp::of(&key, &value);
        check_flags(&key, &meta, &value);
        assert_eq!(stamp.writer, writer);
        found.insert(key, stamp.number);
    }
    let last = found.values().copied().max().unwrap_or(0).max(first);
    let mut state = BTreeMap::new();
    for number in 1..=last + TRAIL {
        let (key, len) = operation(writer, number);
        match len {
            None => drop(state.remove(&key)),
            Some(_) => drop(state.insert(key, number)),
        }
        if number >= last && state == found {
            return number;
        }
    }
    let mut wrong = Vec::new();
    let mut state = BTreeMap::new();
    for number in 1..=last {
        let (key, len) = operation(writer, number);
        match len {
            None => drop(state.remove(&key)),
            Some(_) => drop(state.insert(key, number)),
        }
    }
    for key in state.keys().chain(found.keys()) {
        if state.get(key) != found.get(key) {
            wrong.push((String::from_utf8_lossy(key).into_owned(), state.get(key), found.get(key)));
        }
    }
    panic!(
        "writer {writer}: the snapshot is no state of the history; around operation {last} (expected, found): {wrong:?}"
    );
}

fn verify_sum(store: &Store) {
    let sum: i64 = (0..ACCOUNTS).map(|number| balance(store, number).0).sum();
    assert_eq!(sum, ACCOUNTS as i64 * BALANCE, "money was made or lost");
}

fn verify_ok(store: &Store) {
    let report = store.check(false).unwrap();
    assert!(report.ok, "{:#?}", report.problems);
    assert_eq!(report.missing_sequences, "");
    assert_eq!(report.keys, store.stats().unwrap().keys);
}

fn open_at(directory: &Path) -> Store {
    Store::open(
        &Location::Directory(directory.to_path_buf()),
        &Options { create: true, background: false, ..Options::default() },
    )
    .unwrap()
}

fn remove(directory: &Path) {
    destroy(&SystemEnv, &Location::Directory(directory.to_path_buf())).unwrap();
}

/// Takes `rounds` snapshots while two writers and a third that transfers are at work, and verifies each.
fn snapshots_while_writing(place: &Place, store: &Store, rounds: usize) {
    open_accounts(store);
    let done = [AtomicU64::new(0), AtomicU64::new(0)];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (writer, done) in done.iter().enumerate() {
            let stop = &stop;
            scope.spawn(move || {
                for number in 1.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    apply(store, writer as u32, number);
                    done.store(number, Ordering::SeqCst);
                }
            });
        }
        let stop_transfers = &stop;
        scope.spawn(move || {
            let mut random = Random::new(7);
            while !stop_transfers.load(Ordering::Relaxed) {
                transfer(store, &mut random);
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..rounds {
                std::thread::sleep(Duration::from_millis(150));
                let before = [0, 1].map(|writer: usize| done[writer].load(Ordering::SeqCst));
                let directory = place.beside(&format!("snapshot{round}"));
                let report = store.snapshot(&directory).unwrap();
                let after = [0, 1].map(|writer: usize| done[writer].load(Ordering::SeqCst));
                assert!(report.damaged.is_empty(), "{:?}", report.damaged);
                let restored = place.beside(&format!("restored{round}"));
                let again =
                    restore(&directory, &Location::Directory(restored.clone()), &Options::default()).unwrap();
                assert_eq!((again.sequence, again.segments), (report.sequence, report.segments));
                for directory in [&directory, &restored] {
                    let copy = open_at(directory);
                    verify_sum(&copy);
                    for writer in [0, 1] {
                        let at = verify_writer(&copy, writer, before[writer as usize]);
                        assert!(at <= after[writer as usize] + TRAIL + 1, "the snapshot shows the future");
                    }
                    verify_ok(&copy);
                    drop(copy);
                    remove(directory);
                }
            }
        }));
        stop.store(true, Ordering::SeqCst);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    verify_ok(store);
}

#[test]
fn of_shared_memory() {
    let place = Place::shared_memory("snapshot");
    let store = place.open(&options(96, 0, Durability::None, WhenFull::Error));
    snapshots_while_writing(&place, &store, 4);
}

#[test]
fn of_a_directory_without_a_cold_tier() {
    let place = Place::in_directory();
    let store =
        place.open(&Options { background: true, ..options(96, 0, Durability::None, WhenFull::Error) });
    snapshots_while_writing(&place, &store, 3);
}

#[test]
fn of_tiers_while_segments_are_demoted_and_compacted() {
    for durability in [Durability::EverySec, Durability::None] {
        let place = Place::in_directory();
        let store =
            place.open(&Options { background: true, ..options(24, 256, durability, WhenFull::Error) });
        // More than the hot tier holds, so that much is cold, and the writers keep demoting.
        for number in 0..20_000_u64 {
            let key = format!("ballast:{number}");
            store
                .set(
                    key.as_bytes(),
                    &Stamp { writer: 9, number }.value(key.as_bytes(), 1500),
                    &SetOptions::default(),
                )
                .unwrap();
        }
        snapshots_while_writing(&place, &store, 3);
        for number in (0..20_000_u64).step_by(97) {
            let key = format!("ballast:{number}");
            assert_eq!(
                Stamp::of(key.as_bytes(), &store.get(key.as_bytes()).unwrap().unwrap().1).number,
                number
            );
        }
    }
}

#[test]
fn of_a_full_cache_that_keeps_evicting() {
    let place = Place::shared_memory("snapshot-full");
    let store = place.open(&options(16, 0, Durability::None, WhenFull::Evict));
    let write = |number: u64| {
        let key = format!("key{}", number % 20_000).into_bytes();
        store.set(&key, &Stamp { writer: 1, number }.value(&key, 1000), &SetOptions::default()).unwrap();
    };
    (0..40_000).for_each(write);
    let stop = AtomicBool::new(false);
    let slowest = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 40_000.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let start = Instant::now();
                write(number);
                slowest.fetch_max(start.elapsed().as_micros() as u64, Ordering::Relaxed);
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..5 {
                let directory = place.beside(&format!("snapshot{round}"));
                store.snapshot(&directory).unwrap();
                let copy = open_at(&directory);
                let found = keys(&copy, b"");
                assert!(found.len() > 5000, "{} keys of a full store", found.len());
                for key in &found {
                    Stamp::of(key, &copy.get(key).unwrap().unwrap().1);
                }
                verify_ok(&copy);
                drop(copy);
                remove(&directory);
            }
        }));
        stop.store(true, Ordering::SeqCst);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(
        slowest.load(Ordering::Relaxed) < 2_000_000,
        "a write waited for {} us",
        slowest.load(Ordering::Relaxed)
    );
}

#[test]
fn a_restored_store_goes_on_for_good_and_a_view_outlives_it_all() {
    let place = Place::in_directory();
    let store = place.open(&options(32, 64, Durability::EverySec, WhenFull::Error));
    for number in 1..=2000 {
        apply(&store, 1, number);
    }
    let (key, value) = (b"viewed", vec![7_u8; 700_000]);
    store.set(key, &value, &SetOptions::default()).unwrap();
    let view = store.view(key).unwrap().unwrap();
    let directory = place.beside("snapshot");
    store.snapshot(&directory).unwrap();
    assert!(*view == *value, "a snapshot moved what a view shows");
    store.delete(key).unwrap();

    let target = place.beside("restored");
    let wanted = Options {
        hot_bytes: Some(48 * MIB),
        cold_bytes: Some(96 * MIB),
        durability: Some(Durability::Always),
        ..Options::default()
    };
    let report = restore(&directory, &Location::Directory(target.clone()), &wanted).unwrap();
    let copy = open_at(&target);
    assert_eq!((copy.config().hot_bytes, copy.config().cold_bytes), (48 * MIB, 96 * MIB));
    assert_eq!(copy.config().durability, "always");
    assert_eq!(copy.stats().unwrap().keys, report.keys);
    assert_eq!(copy.get(key).unwrap().unwrap().1, value);
    for number in 2001..=3000 {
        apply(&copy, 1, number);
    }
    copy.flush().unwrap();
    drop(copy);
    // A machine dies: what was written above the snapshot's limit must come back.
    forget_shared_memory(&SystemEnv, &Location::Directory(target.clone())).unwrap();
    let copy = open_at(&target);
    assert!(verify_writer(&copy, 1, 3000) >= 3000);
    verify_ok(&copy);
    drop(copy);
    assert_eq!(verify_writer(&store, 1, 2000), 2000, "the original changed");
    remove(&target);

    // The snapshot itself is a store, and from its first opening on no snapshot any more.
    let copy = open_at(&directory);
    apply(&copy, 1, 2001);
    drop(copy);
    let refused =
        restore(&directory, &Location::Directory(place.beside("third")), &Options::default()).unwrap_err();
    assert_eq!(refused.name(), "NotAStore");
    assert!(refused.to_string().contains("take a snapshot"), "{refused}");
    assert!(!place.beside("third").exists() && !place.beside("third.new").exists());
    remove(&directory);
    drop(store);
    assert!(*view == *value);
}

#[test]
fn of_an_empty_store() {
    for cold in [0, 64] {
        let place = Place::in_directory();
        let store = place.open(&options(32, cold, Durability::None, WhenFull::Error));
        let directory = place.beside("snapshot");
        assert_eq!(store.snapshot(&directory).unwrap().sequence, 0);
        let copy = open_at(&directory);
        assert_eq!(copy.len().unwrap(), 0);
        store.set(b"a", b"1", &SetOptions::default()).unwrap();
        copy.set(b"b", b"2", &SetOptions::default()).unwrap();
        assert!(copy.get(b"a").unwrap().is_none());
        verify_ok(&copy);
        drop(copy);
        remove(&directory);
    }
}

/// Cancelled in the middle of copying, before it, and while it waits for another one.
#[test]
fn what_is_cancelled_leaves_nothing() {
    let place = Place::in_directory();
    let store = place.open(&options(32, 64, Durability::EverySec, WhenFull::Error));
    for number in 0..9000 {
        store.set(&account(number), &[7; 4000], &SetOptions::default()).unwrap();
    }
    let directory = place.beside("snapshot");
    let left = || std::fs::read_dir(place.beside("")).unwrap().count();
    let before = left();
    let cancellation = Cancellation::default();
    let mut copied = 0;
    let cancelled = cancellation.run(|| {
        store.snapshot_with(&directory, &mut |done, total| {
            (copied, _) = (done, assert!(total > 2 && done < total, "cancelled too late: {done} of {total}"));
            cancellation.cancel();
        })
    });
    assert_eq!((cancelled.unwrap_err().name(), left()), ("Cancelled", before));
    assert!(copied > 0);
    assert_eq!(cancellation.run(|| store.check(false)).unwrap_err().name(), "Cancelled");
    assert_eq!(cancellation.run(|| store.clear()).unwrap_err().name(), "Cancelled");

    // The lock is free again, and so is what was held for the copy.
    store.snapshot(&directory).unwrap();
    let restored = Location::Directory(place.beside("restored"));
    let before = left();
    let cancelled = cancellation.run(|| restore(&directory, &restored, &Options::default()));
    assert_eq!((cancelled.unwrap_err().name(), left()), ("Cancelled", before));
    assert_eq!(restore(&directory, &restored, &Options::default()).unwrap().keys, 9000);

    // A recovery that is given up, here in the log behind the checkpoint, leaves the next one what it found.
    let written = Store::open(&restored, &Options::default()).unwrap();
    written.set(&account(9000), b"new", &SetOptions::default()).unwrap();
    written.close().unwrap();
    drop(written);
    forget_shared_memory(&SystemEnv, &restored).unwrap();
    let cancelled = cancellation.run(|| Store::open(&restored, &Options::default()));
    assert_eq!(cancelled.unwrap_err().name(), "Cancelled");
    let again = Store::open(&restored, &Options::default()).unwrap();
    assert_eq!(again.len().unwrap(), 9001);
    again.close().unwrap();
    drop(again);
    destroy(&SystemEnv, &restored).unwrap();
    assert!(store.check(false).unwrap().ok);
}

#[test]
fn what_is_refused() {
    let place = Place::in_directory();
    let store = place.open(&options(32, 64, Durability::EverySec, WhenFull::Error));
    store.set(b"key", &[1; 2000], &SetOptions::default()).unwrap();
    let taken = place.beside("taken");
    std::fs::create_dir(&taken).unwrap();
    std::fs::write(taken.join("mine"), b"text").unwrap();
    let refused = store.snapshot(&taken).unwrap_err();
    assert_eq!(refused.name(), "InvalidOption");
    assert!(refused.to_string().contains("mine"), "{refused}");

    let half = place.beside("half.new");
    std::fs::create_dir(&half).unwrap();
    std::fs::write(half.join("mine"), b"text").unwrap();
    assert_eq!(store.snapshot(&place.beside("half")).unwrap_err().name(), "InvalidOption");
    assert!(half.join("mine").exists());

    let reader = Store::open(&place.location, &Options { read_only: true, ..Options::default() }).unwrap();
    assert_eq!(reader.snapshot(&place.beside("by-reader")).unwrap_err().name(), "ReadOnly");

    let directory = place.beside("snapshot");
    store.snapshot(&directory).unwrap();
    let to = |options: Options| {
        restore(&directory, &Location::Directory(place.beside("restored")), &options).unwrap_err()
    };
    for (options, part) in [
        (Options { cold_bytes: Some(0), ..Options::default() }, "cold"),
        (Options { frame_bytes: Some(8 << 20), ..Options::default() }, "frame"),
        (Options { cold_bytes: Some(8 * MIB), ..Options::default() }, "smaller"),
    ] {
        let refused = to(options);
        assert_eq!(refused.name(), "InvalidOption");
        assert!(refused.to_string().contains(part), "{refused}");
    }
    let refused = restore(&directory, &Location::Directory(taken), &Options::default()).unwrap_err();
    assert_eq!(refused.name(), "InvalidOption");
    let refused = restore(
        &place.beside("nothing"),
        &Location::Directory(place.beside("restored")),
        &Options::default(),
    )
    .unwrap_err();
    assert_eq!(refused.name(), "NotAStore");
    let names: Vec<_> =
        std::fs::read_dir(place.directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().starts_with("restored")), "{names:?}");
}

/// The part of a process that writes, and of one that takes a snapshot. Run by the tests below; does nothing by itself.
#[test]
fn role() {
    match common::role().as_deref() {
        Some("write") => {
            let store =
                Store::open(&location_setting(), &Options { create: false, ..Options::default() }).unwrap();
            let writer: u32 = setting("WRITER").parse().unwrap();
            for number in 1.. {
                apply(&store, writer, number);
            }
        }
        Some("snapshot") => {
            let store =
                Store::open(&location_setting(), &Options { create: false, ..Options::default() }).unwrap();
            store.snapshot(Path::new(&setting("DIRECTORY"))).unwrap();
        }
        _ => {}
    }
}

#[test]
fn while_other_processes_write_and_die() {
    let place = Place::in_directory();
    let store =
        place.open(&Options { background: true, ..options(64, 128, Durability::EverySec, WhenFull::Error) });
    for round in 0..3 {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                spawn("write", &[("STORE", place.text()), ("WRITER", (round * 2 + writer).to_string())])
            })
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        let directory = place.beside(&format!("snapshot{round}"));
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(u64::from(round) * 4));
            let mut writers = writers;
            writers[0].kill();
            writers
        });
        store.snapshot(&directory).unwrap();
        drop(killer.join().unwrap());
        let copy = open_at(&directory);
        for writer in round * 2..round * 2 + 2 {
            verify_writer(&copy, writer, 0);
        }
        verify_ok(&copy);
        drop(copy);
        remove(&directory);
    }
}

#[cfg(feature = "crash-points")]
#[test]
fn whoever_takes_a_snapshot_may_die_at_any_point_of_it() {
    for point in
        ["checkpoint.dumped", "checkpoint.synced", "snapshot.dumped", "snapshot.copied:2", "snapshot.synced"]
    {
        let place = Place::in_directory();
        let store = place
            .open(&Options { background: true, ..options(32, 64, Durability::EverySec, WhenFull::Error) });
        for number in 1..=3000 {
            apply(&store, 3, number);
        }
        let directory = place.beside("snapshot");
        let settings = [("STORE", place.text()), ("DIRECTORY", directory.display().to_string())];
        let mut child =
            common::spawn_with("snapshot", &settings, &[("THERMAE_CRASH_POINT", point.to_owned())]);
        assert_eq!(child.wait(Duration::from_secs(60)), common::End::Killed, "{point}");
        assert!(!directory.exists(), "{point}: half a snapshot has its name");
        // What it held on to is free again, and its remains are in nobody's way.
        for number in 3001..=4000 {
            apply(&store, 3, number);
        }
        let start = Instant::now();
        store.snapshot(&directory).unwrap();
        assert!(start.elapsed() < Duration::from_secs(10), "{point}");
        let copy = open_at(&directory);
        assert!(verify_writer(&copy, 3, 4000) >= 4000);
        verify_ok(&copy);
        drop(copy);
        remove(&directory);
        common::wait_until("the snapshot's hold is given up", common::TAKEOVER_MAX, || {
            store.engine().globals().snapshot_lock.owner().is_none()
        });
        verify_ok(&store);
    }
}
