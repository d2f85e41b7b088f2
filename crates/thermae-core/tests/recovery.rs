//! What comes back after the machine died: the store is closed without a flush, its shared memory removed, its files perhaps damaged,
//! and opened again. Every value is derived from its key and a version, so that wrong bytes show whatever went wrong.

mod common;

use common::{Place, Random, check_flags, flagged, flags_of, flip, options};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use thermae_core::env::SystemEnv;
use thermae_core::layout::state;
use thermae_core::{
    BatchOp, Durability, Error, Options, SetOptions, Store, Update, WhenFull, forget_shared_memory,
};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn value(key: &[u8], version: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(version ^ crc32c::crc32c(key) as u64);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn settings() -> Options {
    options(32, 64, Durability::EverySec, WhenFull::Error)
}

fn set(store: &Store, model: &mut Model, key: &[u8], version: u64, len: usize) {
    let bytes = value(key, version, len);
    store.set(key, &bytes, &flagged(&bytes)).unwrap();
    model.insert(key.to_vec(), bytes);
}

/// Ends a process without a word: nothing is flushed.
fn crash(store: Store) {
    store.engine().closed.store(true, Ordering::SeqCst);
    drop(store);
}

/// The machine dies, and the store is opened again.
fn reboot(place: &Place, store: Store, options: &Options) -> Store {
    crash(store);
    forget_shared_memory(&SystemEnv, &place.location).unwrap();
    place.open(options)
}

fn check(store: &Store, model: &Model) {
    for (key, expected) in model {
        let found =
            store.get(key).unwrap_or_else(|error| panic!("get {:?}: {error}", String::from_utf8_lossy(key)));
        let found = found.unwrap_or_else(|| panic!("{:?} is gone", String::from_utf8_lossy(key)));
        assert!(found.1 == *expected, "{:?} has another value", String::from_utf8_lossy(key));
        check_flags(key, &found.0, expected);
    }
    let mut scan = store.scan(b"");
    while let Some(batch) = scan.next_batch().unwrap() {
        for (key, _) in batch {
            assert!(model.contains_key(&key), "{:?} came back from the dead", String::from_utf8_lossy(&key));
        }
    }
    assert_eq!(store.len().unwrap(), model.len() as u64);
}

fn cold_file(place: &Place) -> PathBuf {
    place.directory.path().join("store").join("cold")
}

fn checkpoint_file(place: &Place, number: u32) -> PathBuf {
    place.directory.path().join("store").join(format!("checkpoint.{number}"))
}

#[test]
fn all_kinds_of_records_come_back() {
    let place = Place::in_directory();
    let store = place.open(&settings());
    let mut model = Model::new();
    for index in 0..2000_u64 {
        set(&store, &mut model, format!("key:{index}").as_bytes(), index, (index % 700) as usize);
    }
    for index in (0..2000_u64).step_by(3) {
        set(&store, &mut model, format!("key:{index}").as_bytes(), index + 1_000_000, 50);
    }
    for index in (0..2000_u64).step_by(7) {
        let key = format!("key:{index}").into_bytes();
        assert!(store.delete(&key).unwrap());
        model.remove(&key);
    }
    set(&store, &mut model, b"", 1, 10);
    set(&store, &mut model, &vec![b'k'; 65_535], 1, 0);
    set(&store, &mut model, b"large", 1, 5_000_003);
    set(&store, &mut model, b"large replaced", 1, 3_000_000);
    set(&store, &mut model, b"large replaced", 2, 2_100_000);
    set(&store, &mut model, b"large deleted", 1, 1_100_000);
    store.delete(b"large deleted").unwrap();
    model.remove(&b"large deleted"[..]);
    let in_batch = value(b"batched", 1, 301);
    let ops = [
        BatchOp::Set {
            key: b"batched",
            value: &in_batch,
            encoding: 0,
            expires_at_ms: 0,
            flags: flags_of(&in_batch),
        },
        BatchOp::Delete { key: b"key:1" },
        BatchOp::Delete { key: b"never there" },
    ];
    store.transaction(&ops, &[]).unwrap();
    model.insert(b"batched".to_vec(), in_batch);
    model.remove(&b"key:1"[..]);
    let far = store.now_ms() + 3_600_000;
    store
        .set(b"expires later", b"x", &SetOptions { expires_at_ms: far, encoding: 3, ..flagged(b"x") })
        .unwrap();
    model.insert(b"expires later".to_vec(), b"x".to_vec());
    store
        .set(
            b"expires at once",
            b"x",
            &SetOptions { expires_at_ms: store.now_ms() + 1, ..SetOptions::default() },
        )
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(5));
    let versions: Vec<_> = model.keys().map(|key| store.meta(key).unwrap().unwrap()).collect();
    store.flush().unwrap();

    let mut store = reboot(&place, store, &settings());
    for round in 0..3 {
        check(&store, &model);
        let again: Vec<_> = model.keys().map(|key| store.meta(key).unwrap().unwrap()).collect();
        assert_eq!(versions, again, "encodings, expiries and versions are as they were");
        if round == 1 {
            store.engine().write_checkpoint().unwrap();
        }
        store = reboot(&place, store, &settings());
    }
    check(&store, &model);
}

/// Stores keys by every verb there is; says which client flags each of them has then.
fn store_with_flags(store: &Store) -> BTreeMap<&'static [u8], u32> {
    let far = store.now_ms() + 3_600_000;
    let large = vec![7; 700_000];
    let with = |flags| SetOptions { flags, ..SetOptions::default() };
    let set = |key: &[u8], value: &[u8], options: SetOptions| {
        store.set(key, value, &options).unwrap();
    };
    set(b"none", b"1", with(0));
    set(b"plain", b"1", with(u32::MAX));
    set(b"aligned", &[1; 100], SetOptions { encoding: 7, ..with(1) });
    set(b"large", &large, with(2));
    set(b"overwritten", b"1", with(9));
    set(b"overwritten", b"2", with(3));
    set(b"reset", b"1", with(9));
    set(b"reset", b"2", with(0));
    set(b"ttl kept", b"1", SetOptions { expires_at_ms: far, ..with(9) });
    set(b"ttl kept", b"2", SetOptions { keep_ttl: true, ..with(4) });
    assert_eq!(store.meta(b"ttl kept").unwrap().unwrap().expires_at_ms, far);
    set(b"touched", b"1", with(5));
    set(b"large touched", &large, with(6));
    for key in [&b"touched"[..], b"large touched"] {
        assert!(store.touch(key, far).unwrap());
    }
    set(b"counted", b"41", SetOptions { expires_at_ms: far, ..with(7) });
    assert_eq!(store.incr(b"counted", 1, None, 0).unwrap(), Some(42));
    store.incr(b"counted anew", 1, Some(0), 0).unwrap();
    store.set_many(&[(b"one of many", b"1", 0), (b"another", b"2", 0)], &with(8)).unwrap();
    set(b"updated", b"1", with(9));
    let mut add = |current: Option<thermae_core::Current<'_>>| {
        let flags = current.map_or(0, |current| current.meta.flags) + 1;
        Ok(Update::Set { value: b"2".to_vec(), encoding: 0, expires_at_ms: 0, flags })
    };
    store.update(b"updated", &mut add).unwrap();
    let in_batch =
        |key, value, expires_at_ms, flags| BatchOp::Set { key, value, encoding: 0, expires_at_ms, flags };
    let ops = [
        in_batch(b"batched", b"1", 0, 11),
        in_batch(b"batched expiring", b"1", far, 12),
        in_batch(b"batched large", &large, far, 13),
        in_batch(b"batched none", b"1", 0, 0),
        in_batch(b"one of many", b"1", 0, 14),
    ];
    store.transaction(&ops, &[]).unwrap();
    set(b"batched", b"2", with(15));
    set(b"popped", b"1", with(16));
    assert_eq!(store.pop(b"popped").unwrap().unwrap().0.flags, 16);
    let flags: [(&[u8], u32); 17] = [
        (b"none", 0),
        (b"plain", u32::MAX),
        (b"aligned", 1),
        (b"large", 2),
        (b"overwritten", 3),
        (b"reset", 0),
        (b"ttl kept", 4),
        (b"touched", 5),
        (b"large touched", 6),
        (b"counted", 7),
        (b"counted anew", 0),
        (b"another", 8),
        (b"updated", 10),
        (b"batched expiring", 12),
        (b"batched large", 13),
        (b"batched none", 0),
        (b"one of many", 14),
    ];
    flags.into_iter().chain([(&b"batched"[..], 15)]).collect()
}

#[test]
fn client_flags_stay_with_their_values_wherever_they_go() {
    let place = Place::in_directory();
    let store = place.open(&settings());
    let flags = store_with_flags(&store);
    let check = |store: &Store, when: &str| {
        for (&key, &flags) in &flags {
            let name = String::from_utf8_lossy(key);
            let found = [
                store.get(key).unwrap().map(|(meta, _)| meta.flags),
                store.meta(key).unwrap().map(|meta| meta.flags),
                store.view(key).unwrap().map(|view| view.meta().flags),
            ];
            assert_eq!(found, [Some(flags); 3], "{name:?} {when}");
        }
        let mut scan = store.scan(b"");
        while let Some(batch) = scan.next_batch().unwrap() {
            for (key, meta) in batch {
                assert_eq!(meta.flags, flags.get(&key[..]).copied().unwrap_or(99), "scanned {when}");
            }
        }
    };
    // Nothing is read before it is demoted: what is read stays in memory.
    let ballast = |store: &Store, from: u64| {
        for number in from..from + 4000 {
            let options = SetOptions { flags: 99, ..SetOptions::default() };
            store.set(format!("ballast:{}", number % 4500).as_bytes(), &[1; 10_000], &options).unwrap();
        }
    };
    ballast(&store, 0);
    check(&store, "when demoted");
    // A promotion takes room that is there, and makes some only of what was flushed.
    store.flush().unwrap();
    store.make_room().unwrap();
    for _ in 0..3 {
        flags.keys().for_each(|key| drop(store.get(key).unwrap()));
    }
    check(&store, "when promoted");
    let stats = store.stats().unwrap();
    assert!(stats.demoted_segments > 3 && stats.cold_reads > 10 && stats.promoted > 3, "{stats:?}");
    for round in 1..6 {
        ballast(&store, round * 4000);
        check(&store, "when compacted");
    }
    let stats = store.stats().unwrap();
    assert!(stats.compacted_bytes > 0, "{stats:?}");
    store.close().unwrap();
    drop(store);
    let store = place.open(&settings());
    check(&store, "when opened again");
    let store = reboot(&place, store, &settings());
    check(&store, "after a reboot");
    store.engine().write_checkpoint().unwrap();
    let store = reboot(&place, store, &settings());
    check(&store, "with a checkpoint, after a reboot");
    assert!(store.check(false).unwrap().ok);
}

#[test]
fn what_was_not_flushed_is_cut_off_and_stays_off() {
    let place = Place::in_directory();
    let mut store = place.open(&settings());
    let mut model = Model::new();
    for round in 0..4_u64 {
        for index in 0..300_u64 {
            set(&store, &mut model, format!("kept:{}", index % 200).as_bytes(), round * 1000 + index, 90);
        }
        store.flush().unwrap();
        let mut lost = model.clone();
        for index in 0..100_u64 {
            set(&store, &mut lost, format!("lost:{index}").as_bytes(), round, 90);
            set(&store, &mut lost, format!("kept:{index}").as_bytes(), 77, 90);
        }
        store = reboot(&place, store, &settings());
        check(&store, &model);
    }
}

#[test]
fn a_record_torn_above_the_watermark_ends_history_there() {
    let place = Place::in_directory();
    let store = place.open(&settings());
    let mut model = Model::new();
    for index in 0..500_u64 {
        set(&store, &mut model, format!("key:{index:04}").as_bytes(), index, 64);
    }
    // One flush: the disk does not say yet that it is complete.
    store.flush().unwrap();
    crash(store);
    assert_eq!(flip(&cold_file(&place), b"key:0321"), 1);
    forget_shared_memory(&SystemEnv, &place.location).unwrap();
    let store = place.open(&settings());
    model.retain(|key, _| key.as_slice() < b"key:0321");
    check(&store, &model);
    // Numbers are given out again; what had them before must not come back.
    for index in 0..400_u64 {
        set(&store, &mut model, format!("new:{index:04}").as_bytes(), index, 64);
    }
    store.flush().unwrap();
    let store = reboot(&place, store, &settings());
    check(&store, &model);
    store.engine().write_checkpoint().unwrap();
    let store = reboot(&place, store, &settings());
    check(&store, &model);
}

#[test]
fn damage_below_the_watermark_costs_only_the_damaged() {
    let place = Place::in_directory();
    let store = place.open(&settings());
    let mut model = Model::new();
    for index in 0..500_u64 {
        set(&store, &mut model, format!("key:{index:04}").as_bytes(), index, 64);
    }
    store.flush().unwrap();
    set(&store, &mut model, b"last", 1, 10);
    store.flush().unwrap();
    crash(store);
    for key in [&b"key:0100"[..], b"key:0101", b"key:0400"] {
        assert_eq!(flip(&cold_file(&place), key), 1);
        model.remove(key);
    }
    forget_shared_memory(&SystemEnv, &place.location).unwrap();
    let store = place.open(&settings());
    check(&store, &model);
}

/// A large value from flash was once handed out unverified by such a handle, which does without in the hot tier only.
#[test]
fn what_comes_from_flash_is_verified_whatever_the_handle_does_without() {
    let place = Place::in_directory();
    let store = place.open(&settings());
    let sizes = [("small", 1000), ("large", 1_500_000)];
    for (key, len) in sizes {
        let value = format!("bytes of the {key} value").into_bytes().into_iter().cycle().take(len);
        store.set(key.as_bytes(), &value.collect::<Vec<u8>>(), &SetOptions::default()).unwrap();
    }
    store.flush().unwrap();
    let store = reboot(&place, store, &Options { verify_reads: false, ..settings() });
    for (key, len) in sizes {
        let read_len = || store.get(key.as_bytes()).map(|found| found.unwrap().1.len());
        assert_eq!(read_len().unwrap(), len);
        assert!(flip(&cold_file(&place), format!("bytes of the {key} value").as_bytes()) > 10);
        assert_eq!(read_len().unwrap_err().name(), "Corrupt");
    }
}

#[test]
fn a_transaction_is_cut_off_whole() {
    let place = Place::in_directory();
    let store = place.open(&settings());
    let mut model = Model::new();
    set(&store, &mut model, b"before", 1, 20);
    let keys: Vec<Vec<u8>> = (0..20).map(|index| format!("member:{index:02}").into_bytes()).collect();
    let ops: Vec<_> = keys
        .iter()
        .map(|key| BatchOp::Set { key, value: b"together", encoding: 0, expires_at_ms: 0, flags: 0 })
        .collect();
    store.transaction(&ops, &[]).unwrap();
    set(&store, &mut model.clone(), b"after", 1, 20);
    store.flush().unwrap();
    crash(store);
    assert_eq!(flip(&cold_file(&place), b"member:13"), 1);
    forget_shared_memory(&SystemEnv, &place.location).unwrap();
    let store = place.open(&settings());
    check(&store, &model);
}

#[test]
fn a_checkpoint_and_what_came_after_it_add_up() {
    let place = Place::in_directory();
    let store = place.open(&settings());
    let mut model = Model::new();
    for index in 0..5000_u64 {
        set(&store, &mut model, format!("key:{index}").as_bytes(), index, 100);
    }
    set(&store, &mut model, b"large kept", 1, 2_500_000);
    set(&store, &mut model, b"large replaced", 1, 2_500_000);
    store.engine().write_checkpoint().unwrap();
    for index in (0..5000_u64).step_by(5) {
        set(&store, &mut model, format!("key:{index}").as_bytes(), index + 9999, 120);
    }
    for index in (0..5000_u64).step_by(11) {
        let key = format!("key:{index}").into_bytes();
        store.delete(&key).unwrap();
        model.remove(&key);
    }
    for index in 5000..6000_u64 {
        set(&store, &mut model, format!("key:{index}").as_bytes(), index, 100);
    }
    set(&store, &mut model, b"large replaced", 2, 1_500_000);
    store.flush().unwrap();
    let mut store = reboot(&place, store, &settings());
    check(&store, &model);
    store.engine().write_checkpoint().unwrap();
    store = reboot(&place, store, &settings());
    check(&store, &model);
    // The older of two checkpoints serves when the newer one is damaged.
    crash(store);
    damage_checkpoint(&place, 0);
    forget_shared_memory(&SystemEnv, &place.location).unwrap();
    let store = place.open(&settings());
    check(&store, &model);
    // What both covered may be gone from the log: without them nothing is guessed.
    crash(store);
    damage_checkpoint(&place, 1);
    forget_shared_memory(&SystemEnv, &place.location).unwrap();
    let error = Store::open(&place.location, &settings()).unwrap_err();
    assert!(matches!(error, Error::Corrupt(_)), "{error}");
    assert!(error.to_string().contains("checkpoint.1") && error.to_string().contains("--repair"), "{error}");
    // Unless it is asked for.
    let store = place.open(&Options { salvage: true, ..settings() });
    for (key, value) in &model {
        assert_eq!(store.get(key).unwrap().unwrap().1, *value);
    }
    let report = store.check(true).unwrap();
    let is_told = report.problems.iter().any(|problem| problem.description.contains("may be back"));
    assert!(is_told, "{:#?}", report.problems);
    store.engine().write_checkpoint().unwrap();
    let store = reboot(&place, store, &settings());
    assert!(model.iter().all(|(key, value)| store.get(key).unwrap().unwrap().1 == *value));
    assert!(store.check(false).unwrap().ok);
    store.close().unwrap();
}

#[test]
fn one_damaged_checkpoint_leaves_the_log() {
    let place = Place::in_directory();
    let store = place.open(&settings());
    let mut model = Model::new();
    for index in 0..3000_u64 {
        set(&store, &mut model, format!("key:{}", index % 2000).as_bytes(), index, 100);
    }
    store.engine().write_checkpoint().unwrap();
    crash(store);
    damage_checkpoint(&place, 1);
    forget_shared_memory(&SystemEnv, &place.location).unwrap();
    check(&place.open(&settings()), &model);
}

/// A checkpoint that was damaged behind its header passed for the newest one: the next was written over the intact one that had just served, and
/// raised the floor to what the damaged one claimed to cover. One more damaged file, and the store did not open.
#[test]
fn a_damaged_checkpoint_is_replaced_before_the_one_that_serves() {
    let place = Place::in_directory();
    let mut store = place.open(&settings());
    let mut model = Model::new();
    // From the third round on the newest file is damaged each time.
    for round in 0..5_u64 {
        for index in 0..1000_u64 {
            set(&store, &mut model, format!("key:{index}").as_bytes(), round * 1000 + index, 100);
        }
        for index in (round..1000).step_by(7) {
            let key = format!("key:{index}").into_bytes();
            store.delete(&key).unwrap();
            model.remove(&key);
        }
        store.engine().write_checkpoint().unwrap();
        if round < 2 {
            continue;
        }
        store.flush().unwrap();
        crash(store);
        let generation = |path: &PathBuf| {
            let header = std::fs::read(path).unwrap_or_default();
            header.get(16..24).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
        };
        let newest = [0, 1].map(|number| checkpoint_file(&place, number)).into_iter().max_by_key(generation);
        damage_file(&newest.unwrap());
        forget_shared_memory(&SystemEnv, &place.location).unwrap();
        store = place.open(&settings());
        check(&store, &model);
    }
    let report = store.check(false).unwrap();
    assert_eq!(report.problems.len(), 3, "{report:?}");
    assert!(report.problems.iter().all(|problem| problem.kind == "lost in a recovery"), "{report:?}");
    store.close().unwrap();
}

fn damage_checkpoint(place: &Place, number: u32) {
    damage_file(&checkpoint_file(place, number));
}

fn damage_file(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(path, bytes).unwrap();
}

/// A segment in which everything is dead may be given up before it was ever flushed. Its numbers are then missing on disk, above the last
/// watermark recorded there, and what was acknowledged after them must not be taken for what follows a gap.
#[test]
fn segments_given_up_before_they_were_flushed_leave_no_gap() {
    let place = Place::in_directory();
    let store = place.open(&settings());
    let mut model = Model::new();
    for version in 0..4000_u64 {
        set(&store, &mut model, format!("key:{}", version % 10).as_bytes(), version, 1000);
    }
    let engine = store.engine();
    let dead: Vec<_> = engine
        .segments()
        .iter()
        .filter(|segment| {
            segment.state.load(Ordering::SeqCst) == state::CLOSED
                && segment.live_bytes.load(Ordering::SeqCst) == 0
        })
        .collect();
    assert!(dead.len() > 1, "whole segments are dead");
    for segment in dead {
        segment
            .retired_sequence
            .store(engine.globals().next_sequence.load(Ordering::SeqCst), Ordering::SeqCst);
        segment.retired_flush.store(engine.globals().flush_count.load(Ordering::SeqCst), Ordering::SeqCst);
        segment.state.store(state::RETIRED, Ordering::SeqCst);
    }
    store.flush().unwrap();
    let store = reboot(&place, store, &settings());
    check(&store, &model);
}

/// A mix of everything, with compaction, demotion, checkpoints and reboots: after a flush, exactly what was stored comes back.
#[test]
fn a_long_life_with_many_reboots() {
    let place = Place::in_directory();
    let options = options(16, 24, Durability::EverySec, WhenFull::Error);
    let mut store = place.open(&options);
    let mut model = Model::new();
    let mut random = Random::new(42);
    for round in 0..40_u64 {
        for step in 0..600_u64 {
            let key = format!("key:{}", random.below(1500)).into_bytes();
            let version = round * 1000 + step;
            match random.below(20) {
                0..3 => {
                    store.delete(&key).unwrap();
                    model.remove(&key);
                }
                3 => {
                    let keys: Vec<Vec<u8>> = (0..random.below(6) + 1)
                        .map(|_| format!("key:{}", random.below(1500)).into_bytes())
                        .collect();
                    let values: Vec<Vec<u8>> = keys.iter().map(|key| value(key, version, 200)).collect();
                    let ops: Vec<_> = keys
                        .iter()
                        .zip(&values)
                        .map(|(key, value)| BatchOp::Set {
                            key,
                            value,
                            encoding: 0,
                            expires_at_ms: 0,
                            flags: flags_of(value),
                        })
                        .collect();
                    store.transaction(&ops, &[]).unwrap();
                    model.extend(keys.into_iter().zip(values));
                }
                4 if step % 50 == 0 => set(&store, &mut model, b"large", version, 1_400_000),
                _ => set(&store, &mut model, &key, version, random.below(3000) as usize),
            }
        }
        if round % 3 == 1 {
            store.engine().write_checkpoint().unwrap();
        }
        if round % 2 == 0 {
            let _ = store.make_room();
        }
        store.flush().unwrap();
        let dies = round % 4 != 2;
        if dies && round % 5 == 4 {
            // What was never flushed must leave no trace.
            for index in 0..50 {
                store
                    .set(format!("key:{index}").as_bytes(), b"never flushed", &SetOptions::default())
                    .unwrap();
                let _ = store.delete(format!("key:{}", index + 100).as_bytes());
            }
        }
        if dies {
            store = reboot(&place, store, &options);
            check(&store, &model);
        }
    }
    check(&store, &model);
}

/// A value in segments of its own that expires before it was ever written leaves a record on disk that lists segments which are not there. A
/// recovery once took that for the end of the log, and gave up all that had been flushed after it.
#[test]
fn a_large_value_that_expired_before_it_was_written_ends_nothing() {
    for durability in [Durability::EverySec, Durability::None] {
        let place = Place::in_directory();
        let asked = options(16, 16, durability, WhenFull::Evict);
        let store = place.open(&asked);
        let mut model = Model::new();
        set(&store, &mut model, b"first", 1, 10);
        let soon = SetOptions { expires_at_ms: store.now_ms() + 20, ..SetOptions::default() };
        store.set(b"large", &vec![7; 700_000], &soon).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(40));
        assert_eq!(store.len().unwrap(), 1);
        set(&store, &mut model, b"long", 1, 10);
        store.flush().unwrap();
        let store = reboot(&place, store, &asked);
        check(&store, &model);
        assert!(store.get(b"large").unwrap().is_none());
        assert_eq!(store.len().unwrap(), 2, "{durability:?}");
        assert_eq!(store.check(false).unwrap().problems.len(), 0);
        store.close().unwrap();
    }
}

fn end(store: Store) {
    store.close().unwrap();
    drop(store);
}

/// The store's files of one of its two places for memory: put aside, as another container does not see them, and back.
fn put_aside(memory: &Path, aside: &Path) {
    std::fs::rename(memory, aside).unwrap();
}

/// One store, opened in turn by two who do not see each other's `/dev/shm`: whoever comes second must not go on with what it knew before the
/// other one wrote.
#[test]
fn memory_that_others_have_left_behind_is_not_gone_on_with() {
    let place = Place::in_directory();
    let settings = options(32, 64, Durability::Always, WhenFull::Error);
    let store = place.open(&settings);
    let memory = PathBuf::from(store.config().memory_directory);
    let (ours, theirs) = (memory.with_extension("ours"), memory.with_extension("theirs"));
    let write = |store: &Store, key: &[u8], value: &[u8]| {
        store.set(key, value, &SetOptions::default()).unwrap();
    };
    let read = |store: &Store, key: &[u8]| store.get(key).unwrap().map(|(_, bytes)| bytes);
    write(&store, b"x", b"ours");
    end(store);
    put_aside(&memory, &ours);
    let store = place.open(&settings);
    assert_eq!(read(&store, b"x").as_deref(), Some(&b"ours"[..]));
    write(&store, b"x", b"theirs");
    write(&store, b"y", b"theirs");
    end(store);
    put_aside(&memory, &theirs);
    put_aside(&ours, &memory);
    let name = memory.file_name().unwrap().to_str().unwrap();
    let listed = thermae_core::shared_memory(&SystemEnv).unwrap();
    let listed = listed.iter().find(|memory| memory.name == name).unwrap();
    assert!(listed.state == thermae_core::MemoryState::Orphaned, "{listed:?}");
    let store = place.open(&settings);
    assert_eq!(read(&store, b"x").as_deref(), Some(&b"theirs"[..]));
    assert_eq!(read(&store, b"y").as_deref(), Some(&b"theirs"[..]));
    write(&store, b"z", b"ours");
    // What the others have is out of date in its turn, and one of us who is attached is not fooled by it either.
    let second = place.open(&settings);
    assert_eq!(read(&second, b"z").as_deref(), Some(&b"ours"[..]));
    end(second);
    end(store);
    std::fs::remove_dir_all(&memory).unwrap();
    put_aside(&theirs, &memory);
    let store = place.open(&settings);
    for (key, value) in [(b"x", &b"theirs"[..]), (b"y", b"theirs"), (b"z", b"ours")] {
        assert_eq!(read(&store, key).as_deref(), Some(value), "{}", String::from_utf8_lossy(key));
    }
    assert!(store.check(false).unwrap().ok);
}

/// A store whose memory was once made in its directory, for want of room in `/dev/shm`, did not find back, and left there what it had before.
#[test]
fn memory_is_made_where_it_is_wanted_and_the_other_place_is_emptied() {
    let place = Place::in_directory();
    let in_shared = settings();
    let in_directory = Options { shm: thermae_core::ShmPlacement::Directory, ..settings() };
    let store = place.open(&in_shared);
    let memory = PathBuf::from(store.config().memory_directory);
    let directory = place.directory.path().join("store");
    assert_ne!(memory, directory);
    store.set(b"a", b"1", &SetOptions::default()).unwrap();
    end(store);
    // Where it is usable it is used, whatever is asked for.
    let store = place.open(&in_directory);
    assert_eq!(PathBuf::from(store.config().memory_directory), memory);
    let store = reboot(&place, store, &in_directory);
    assert_eq!(PathBuf::from(store.config().memory_directory), directory);
    assert!(!memory.exists());
    store.flush().unwrap();
    crash(store);
    // A reboot of the machine leaves the files in the directory: the boot's identity tells, which is the header's third field.
    let control = std::fs::OpenOptions::new().write(true).open(directory.join("control")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&control, &[0; 16], 32).unwrap();
    let store = place.open(&in_shared);
    assert_eq!(PathBuf::from(store.config().memory_directory), memory);
    assert!(!directory.join("control").exists() && !directory.join("hot").exists());
    assert_eq!(store.get(b"a").unwrap().map(|(_, bytes)| bytes).as_deref(), Some(&b"1"[..]));
}

/// What a later opening asked for held while the memory lasted, and was forgotten with it: a store that was to refuse evicted.
#[test]
fn durability_and_when_full_of_a_later_opening_stay() {
    let place = Place::in_directory();
    let first = place.open(&options(32, 64, Durability::EverySec, WhenFull::Evict));
    set(&first, &mut Model::new(), b"key", 1, 100);
    let second = place.open(&Options {
        durability: Some(Durability::Always),
        when_full: Some(WhenFull::Error),
        background: false,
        ..Options::default()
    });
    assert!(second.is_durable(second.sequence().unwrap()), "what was stored before is durable, too");
    let of = |store: &Store| (store.durability(), store.engine().when_full());
    assert_eq!(of(&first), (Durability::Always, WhenFull::Error));
    crash(second);
    let store = reboot(&place, first, &Options::default());
    assert_eq!(of(&store), (Durability::Always, WhenFull::Error));
    assert_eq!(store.get(b"key").unwrap().unwrap().1, value(b"key", 1, 100));
    store.close().unwrap();
}
