//! Bad sectors: what the device can't give back is named and refused, never made up; everything beside it is served, moved, copied and recovered.

use crate::common::{End, location_setting, spawn_with};
use crate::trial::{Held, Trial};
use std::os::unix::fs::FileExt;
use std::time::Duration;
use thermae_core::env::SystemEnv;
use thermae_core::env_test::{Fault, FaultRule, Site};
use thermae_core::{
    Durability, Location, Options, SetOptions, Store, WhenFull, destroy, forget_shared_memory, restore,
};

const BLOCK_BYTES: u64 = 4096;
const HURT: &[u8] = b"hurt";
/// Longer than a block, so that one of its blocks holds nothing else.
const HURT_BYTES: usize = 10_000;

/// A store that was recovered, so that all is in the cold tier, and the place there of one value.
fn cold_store(expiry_in_ms: u64) -> (Trial, u64) {
    let mut trial = Trial::new(16, 32, Durability::EverySec, WhenFull::Error);
    assert!(trial.open());
    for number in 0..20 {
        trial.set(&format!("w:{number}"), 100 + number * 900);
    }
    let store = trial.store.as_ref().unwrap();
    let expires_at_ms = if expiry_in_ms == 0 { 0 } else { store.now_ms() + expiry_in_ms };
    let options = SetOptions { expires_at_ms, ..SetOptions::default() };
    store.set(HURT, &[0xa5; HURT_BYTES], &options).unwrap();
    for number in 20..40 {
        trial.set(&format!("w:{number}"), 100 + number * 900);
    }
    trial.flush();
    // What the last flush made durable is known to be so by the next one's record; until then a gap looks like a power failure's.
    trial.set("w:0", 200);
    trial.flush();
    trial.damaged.insert(HURT.to_vec());
    let bytes = std::fs::read(trial.path("cold")).unwrap();
    let place = bytes.windows(HURT_BYTES).position(|window| window == [0xa5; HURT_BYTES]).unwrap() as u64;
    (trial, place.next_multiple_of(BLOCK_BYTES))
}

impl Trial {
    fn spoil(&self, place: u64) {
        self.env.spoil(&self.path("cold").to_string_lossy(), place..place + BLOCK_BYTES);
    }

    fn reboot(&mut self) {
        self.lose_memory();
        assert!(self.open(), "{}", self.errors[0]);
    }
}

/// A read at run time that fails is that key's error, and leaves nothing behind.
#[test]
fn a_read_that_fails_is_an_error_of_its_key_alone() {
    let (mut trial, place) = cold_store(0);
    trial.checkpoint();
    trial.checkpoint();
    trial.reboot();
    trial.spoil(place);
    let store = trial.store.take().unwrap();
    for _ in 0..3 {
        let error = store.get(HURT).unwrap_err();
        assert_eq!((error.name(), error.os_error()), ("Io", Some(libc::EIO)), "{error}");
        assert!(error.to_string().contains("/cold"), "{error}");
        assert!(store.view(HURT).is_err());
        assert!(store.pop(HURT).is_err());
    }
    assert!(store.get(b"w:19").unwrap().is_some() && store.get(b"w:20").unwrap().is_some());
    let report = store.check(false).unwrap();
    assert!(!report.ok && report.quarantined.len() == 1, "{report:?}");
    assert!(report.quarantined[0].contains("cold frame"), "{report:?}");
    trial.env.heal();
    assert_eq!(store.get(HURT).unwrap().unwrap().1, [0xa5; HURT_BYTES]);
    assert!(store.check(false).unwrap().ok);
    // What could be read again is no longer excused.
    trial.damaged.clear();
    store.delete(HURT).unwrap();
    trial.store = Some(store);
    trial.conclude();
}

/// The making of room went through segments until one could not be read, and ended there with an error, for every writer from then on; and
/// counting keys failed as long as a record in such a segment was to expire.
#[test]
fn a_bad_sector_ends_neither_the_making_of_room_nor_expiry() {
    let (mut trial, place) = cold_store(1000);
    trial.checkpoint();
    trial.checkpoint();
    trial.reboot();
    trial.spoil(place);
    trial.env.jump_boot_clock_ms(5000);
    trial.env.jump_wall_clock_ms(5000);
    // The bad record is counted, for nobody can remove it; the others are what they should be.
    assert_eq!(trial.ask(Store::len), Some(41));
    for number in 0..96 {
        trial.set(&format!("w:{number}"), 250_000);
    }
    // Every second one, so that the segments left are half alive.
    for number in 0..150 {
        trial.set(&format!("w:{}", number * 2 % 96), 250_000);
    }
    assert!(trial.errors.is_empty(), "{}", trial.errors[0]);
    let store = trial.store.take().unwrap();
    assert!(store.stats().unwrap().compacted_bytes > 0);
    trial.check_contents(&store, Held::Whole);
    trial.store = Some(store);
    trial.env.heal();
    trial.conclude();
}

/// A store with one bad sector could neither be opened, nor checked, nor copied.
#[test]
fn a_store_with_a_bad_sector_opens_and_names_what_is_set_aside() {
    for has_checkpoint in [false, true] {
        let (mut trial, place) = cold_store(0);
        if has_checkpoint {
            trial.checkpoint();
        }
        trial.spoil(place);
        trial.reboot();
        let store = trial.store.take().unwrap();
        let report = store.check(false).unwrap();
        trial.check_contents(&store, Held::Whole);
        assert!(!report.ok && report.quarantined.len() == 1, "{report:?}");
        if !has_checkpoint {
            let is_told =
                |part: &str| report.problems.iter().any(|problem| problem.description.contains(part));
            assert!(is_told("can't be read in part") && is_told("Input/output error"), "{report:?}");
        }
        let target = trial.directory.path().join("snapshot");
        let snapshot = store.snapshot(&target).unwrap();
        assert_eq!(snapshot.damaged.len(), 1, "{snapshot:?}");
        trial.env.heal();
        let restored = Location::Directory(trial.directory.path().join("restored"));
        restore(&target, &restored, &trial.options).unwrap();
        let copy = Store::open(&restored, &trial.options).unwrap();
        trial.check_contents(&copy, Held::Whole);
        copy.close().unwrap();
        drop(copy);
        destroy(&*trial.options.env, &restored).unwrap();
        // With the device as it is, everything but the bad sector is kept by a repair.
        trial.spoil(place);
        assert!(store.check(true).unwrap().problems.iter().any(|problem| problem.kind == "damaged"));
        trial.check_contents(&store, Held::Whole);
        trial.store = Some(store);
        trial.conclude();
    }
}

/// One bad sector is in one file: nothing of the sort may be told of a device that gives nothing back, or recovering would
/// make a store of what little could be read.
#[test]
fn a_device_that_is_gone_gives_no_empty_store() {
    let (mut trial, _) = cold_store(0);
    trial.damaged.clear();
    trial.ask(|store| store.delete(HURT));
    trial.flush();
    let len = std::fs::metadata(trial.path("cold")).unwrap().len();
    trial.lose_memory();
    // All of the frames, but neither header and watermarks nor the table.
    trial.env.spoil(&trial.path("cold").to_string_lossy(), 4 * BLOCK_BYTES..len);
    let opened = trial.open();
    assert!(!opened && trial.errors[0].os_error() == Some(libc::EIO), "{:?}", trial.errors);
    trial.errors.clear();
    trial.env.heal();
    trial.conclude();
}

/// Reads of the cold file that a check of this store makes.
fn cold_reads(trial: &Trial, store: &Store) -> u64 {
    trial.env.trace();
    assert!(store.check(false).unwrap().ok);
    let is_cold_read =
        |(site, path): &&(Site, std::path::PathBuf)| *site == Site::Read && path.ends_with("cold");
    trial.env.traced().iter().filter(is_cold_read).count() as u64
}

/// A repair took every entry out of the index whose record the device had failed to give back three times in a row, though the segment had been read
/// whole just before.
#[test]
fn a_device_that_fails_for_a_moment_costs_a_repair_no_key() {
    let (mut trial, _) = cold_store(0);
    trial.checkpoint();
    trial.checkpoint();
    trial.reboot();
    trial.damaged.clear();
    let store = trial.store.take().unwrap();
    store.delete(HURT).unwrap();
    let reads = cold_reads(&trial, &store);
    for (times, is_endured) in [(2, true), (u64::MAX, false)] {
        // The index is gone through record by record, and near the end.
        for last in [15, 30] {
            trial.env.inject(FaultRule {
                skip: reads - last,
                times,
                ..FaultRule::always(Site::Read, "/cold", Fault::EIO)
            });
            match store.check(true) {
                Ok(report) => assert!(report.ok && is_endured, "{report:?}"),
                Err(error) => assert!(!is_endured && error.is_device_failure(), "{error}"),
            }
            assert!(trial.env.injected() > 0);
            trial.env.heal();
            trial.check_contents(&store, Held::Whole);
            assert!(store.check(false).unwrap().ok);
        }
    }
    trial.store = Some(store);
    trial.conclude();
}

/// What dies in [`an_update_whose_writer_died_gives_a_key_no_second_entry`].
pub fn play() {
    let store =
        Store::open(&location_setting(), &Options { background: false, ..Options::default() }).unwrap();
    store.set(b"w:5", b"in flight", &SetOptions::default()).unwrap();
}

/// Whoever inherits a partition completes the update that was in flight there. A record that could not be read meanwhile was taken for another key's,
/// and the key got a second entry.
#[cfg(feature = "crash-points")]
#[test]
fn an_update_whose_writer_died_gives_a_key_no_second_entry() {
    for failures in [1, u64::MAX] {
        let (mut trial, _) = cold_store(0);
        trial.damaged.clear();
        trial.ask(|store| store.delete(HURT));
        trial.close();
        forget_shared_memory(&SystemEnv, &trial.location).unwrap();
        assert!(trial.open(), "{}", trial.errors[0]);
        let store = trial.store.take().unwrap();
        let before = store.get(b"w:5").unwrap().unwrap().1;
        let settings = [("STORE", trial.location.to_string())];
        let point = [("THERMAE_CRASH_POINT", "put.committed".to_owned())];
        assert_eq!(spawn_with("sectors", &settings, &point).wait(Duration::from_secs(20)), End::Killed);
        trial.env.inject(FaultRule { times: failures, ..FaultRule::always(Site::Read, "/cold", Fault::EIO) });
        // Each of these locks the partition of some key; that of the dead one's is among them, and nothing is read but by its repair.
        for number in 0..2000 {
            store.set(format!("other:{number}").as_bytes(), b"", &SetOptions::default()).unwrap();
        }
        assert!(trial.env.injected() > 0);
        trial.env.heal();
        let found = store.get(b"w:5").unwrap().unwrap().1;
        let expected = if failures == 1 { b"in flight".to_vec() } else { before };
        assert!(found == expected, "{failures} failures: neither the update nor what it found");
        let report = store.check(false).unwrap();
        assert!(report.ok, "{report:?}");
        assert_eq!(store.len().unwrap(), 2040);
        store.delete(b"w:5").unwrap();
        assert!(store.get(b"w:5").unwrap().is_none());
        store.close().unwrap();
        drop(store);
        destroy(&SystemEnv, &trial.location).unwrap();
    }
}

/// Bytes of a cold file, for tests that look for them there.
#[test]
fn the_bad_sector_is_where_the_value_is() {
    let (trial, place) = cold_store(0);
    let mut block = [0; BLOCK_BYTES as usize];
    std::fs::File::open(trial.path("cold")).unwrap().read_exact_at(&mut block, place).unwrap();
    assert_eq!(block, [0xa5; BLOCK_BYTES as usize]);
}
