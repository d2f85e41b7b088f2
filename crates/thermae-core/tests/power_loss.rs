//! Power failing at any moment: a recorded workload, and from it the states in which the files could have been left, with unsynced
//! writes dropped, reordered by pages or sectors, and torn. Each must recover to a prefix of the acknowledged history, with everything in it
//! that was acknowledged as durable; and after more writes and another power failure, to exactly that.
//!
//! `THERMAE_IMAGES` says how many images each workload is tried with.
#![cfg(feature = "test-env")]

mod common;

use common::{Random, check_flags, flagged, flags_of, options};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use thermae_core::env::{Env, SystemEnv};
use thermae_core::env_test::{Image, RecordingEnv};
use thermae_core::{
    BatchOp, Durability, Location, Options, ShmPlacement, Store, WhenFull, forget_shared_memory,
};

const IMAGES_DEFAULT: usize = 300;
/// What the images of all tests together take at most.
const SCRATCH_BYTES: u64 = 1 << 30;

/// A directory for a store; in memory where there is room, since no power fails here and syncs are what most of the time would go to.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if SystemEnv.available_bytes(memory).is_ok_and(|bytes| bytes >= SCRATCH_BYTES) {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

/// One change of history.
type Change = Vec<(Vec<u8>, Option<Arc<Vec<u8>>>)>;
type State = BTreeMap<Vec<u8>, Arc<Vec<u8>>>;

/// What is asked of a store.
#[derive(Debug, Clone, Copy)]
struct Workload {
    durability: Durability,
    changes: usize,
    keys: u64,
    value_bytes_max: u64,
    /// Flushes in a hundred changes.
    flush_percent: u64,
    /// Warm tier, through which everything goes on its way to the cold one; 0 = none.
    warm_mib: u64,
    /// Transactions in a hundred changes; at most 15.
    transaction_percent: u64,
    /// In a hundred changes, how often records are moved and the index is written down when all is durable, and nothing was written since.
    moves_percent: u64,
    seed: u64,
}

/// What was asked of a store, in order, and what it promised.
struct History {
    changes: Vec<Change>,
    /// Changes up to this many were durable when the recording had so many events.
    promises: Vec<(usize, usize)>,
}

impl History {
    fn promised(&self, cut: usize) -> usize {
        self.promises
            .iter()
            .filter(|(position, _)| *position <= cut)
            .map(|(_, count)| *count)
            .max()
            .unwrap_or(0)
    }

    /// The state after each change.
    fn states(&self) -> Vec<State> {
        let mut states = vec![State::new()];
        for change in &self.changes {
            let mut state = states[states.len() - 1].clone();
            for (key, value) in change {
                match value {
                    Some(value) => state.insert(key.clone(), value.clone()),
                    None => state.remove(key),
                };
            }
            states.push(state);
        }
        states
    }
}

fn is_durable(path: &Path) -> bool {
    path.file_name().is_some_and(|name| {
        let name = name.to_string_lossy();
        name.starts_with("store")
            || name.starts_with("warm")
            || name.starts_with("cold")
            || name.starts_with("checkpoint")
    })
}

fn settings(durability: Durability, warm_mib: u64) -> Options {
    Options {
        shm: ShmPlacement::SharedMemory,
        warm_bytes: Some(warm_mib * common::MIB),
        ..options(16, 16, durability, WhenFull::Error)
    }
}

/// Asks a store for all kinds of things, and records what it writes.
fn record(workload: Workload) -> (thermae_core::env_test::Recording, History) {
    let Workload { durability, changes, keys, value_bytes_max, flush_percent, warm_mib, .. } = workload;
    let (transaction_percent, seed) = (workload.transaction_percent, workload.seed);
    let directory = scratch();
    let root = directory.path().join("store");
    let env = RecordingEnv::new(Arc::new(SystemEnv), &root, is_durable);
    let location = Location::Directory(root);
    let store =
        Store::open(&location, &Options { env: Arc::new(env.clone()), ..settings(durability, warm_mib) })
            .unwrap();
    let mut history = History { changes: Vec::new(), promises: Vec::new() };
    let mut random = Random::new(seed);
    let mut number = 0_u64;
    let mut value = |random: &mut Random, bytes: u64| {
        number += 1;
        let mut value = vec![number as u8; random.below(bytes) as usize + 8];
        value[..8].copy_from_slice(&number.to_le_bytes());
        Arc::new(value)
    };
    while history.changes.len() < changes {
        let key = format!("key:{}", random.below(keys)).into_bytes();
        let change: Change = match random.below(100) {
            0..20 => {
                if !store.delete(&key).unwrap() {
                    continue;
                }
                vec![(key, None)]
            }
            kind if (20..20 + transaction_percent).contains(&kind) => {
                let count = random.below(5) + 1;
                let mut members: BTreeMap<Vec<u8>, Option<Arc<Vec<u8>>>> = BTreeMap::new();
                for _ in 0..count {
                    let value = (!random.percent(20)).then(|| value(&mut random, value_bytes_max));
                    members.insert(format!("key:{}", random.below(keys)).into_bytes(), value);
                }
                let ops: Vec<BatchOp<'_>> = members
                    .iter()
                    .map(|(key, value)| match value {
                        Some(value) => {
                            BatchOp::Set { key, value, encoding: 0, expires_at_ms: 0, flags: flags_of(value) }
                        }
                        None => BatchOp::Delete { key },
                    })
                    .collect();
                store.transaction(&ops, &[]).unwrap();
                members.into_iter().collect()
            }
            35..38 => {
                let value = value(&mut random, 400_000);
                let value = Arc::new([value.as_slice(), &vec![5; 300_000]].concat());
                store.set(b"large", &value, &flagged(&value)).unwrap();
                vec![(b"large".to_vec(), Some(value))]
            }
            _ => {
                let value = value(&mut random, value_bytes_max);
                store.set(&key, &value, &flagged(&value)).unwrap();
                vec![(key, Some(value))]
            }
        };
        history.changes.push(change);
        if durability == Durability::Always {
            history.promises.push((env.position(), history.changes.len()));
        }
        if random.percent(flush_percent) {
            store.flush().unwrap();
            history.promises.push((env.position(), history.changes.len()));
        }
        // A checkpoint flushes too.
        if random.percent(flush_percent / 3) {
            store.engine().write_checkpoint().unwrap();
        }
        if random.percent(workload.moves_percent) {
            store.flush().unwrap();
            history.promises.push((env.position(), history.changes.len()));
            store.make_room().unwrap_or(());
            store.engine().write_checkpoint().unwrap();
        }
        if random.percent(4) {
            store.make_room().unwrap_or(());
        }
        if warm_mib > 0 && random.percent(3) {
            store.keep_house().unwrap();
        }
    }
    if warm_mib > 0 {
        assert!(store.stats().unwrap().cold_written_bytes > 0, "nothing moved on to the cold tier");
    }
    store.close().unwrap();
    drop(store);
    forget_shared_memory(&SystemEnv, &location).unwrap();
    (env.recording(), history)
}

fn contents(store: &Store) -> State {
    let mut found = BTreeMap::new();
    let mut scan = store.scan(b"");
    while let Some(batch) = scan.next_batch().unwrap() {
        for (key, _) in batch {
            let (meta, value) = store.get(&key).unwrap().expect("a key that a scan found");
            check_flags(&key, &meta, &value);
            assert!(found.insert(key, Arc::new(value)).is_none());
        }
    }
    found
}

fn crash(store: Store, location: &Location) {
    store.engine().closed.store(true, Ordering::SeqCst);
    drop(store);
    forget_shared_memory(&SystemEnv, location).unwrap();
}

fn try_image(image: &Image, history: &History, states: &[State], workload: Workload) {
    let what = format!("cut {}, {:?}, seed {}", image.cut, image.tear, image.seed);
    let directory = scratch();
    let root = directory.path().join("store");
    std::fs::create_dir(&root).unwrap();
    image.write_into(&root).unwrap();
    let location = Location::Directory(root);
    let options = settings(workload.durability, workload.warm_mib);
    let promised = history.promised(image.cut);
    let store = match Store::open(&location, &Options { create: false, ..options.clone() }) {
        Ok(store) => store,
        Err(error) => {
            assert!(promised == 0 && !image.paths().any(|path| path == Path::new("cold")), "{what}: {error}");
            return;
        }
    };
    let found = contents(&store);
    let length = (promised..states.len()).find(|&length| states[length] == found);
    let Some(length) = length else {
        let earlier = (0..promised).rev().find(|&length| states[length] == found);
        panic!("{what}: what was recovered is no state from {promised} on (earlier: {earlier:?})");
    };
    // What is written now must count, and what was cut off must not come back, with and without another power failure.
    let mut expected = found;
    for number in 0..40_u64 {
        let key = format!("key:{}", number * 7 % 60).into_bytes();
        let value = format!("after {length}: {number}").into_bytes();
        store.set(&key, &value, &flagged(&value)).unwrap();
        expected.insert(key, Arc::new(value));
    }
    store.flush().unwrap();
    crash(store, &location);
    let store = Store::open(&location, &options).unwrap();
    assert!(contents(&store) == expected, "{what}: after another recovery");
    store.close().unwrap();
    drop(store);
    forget_shared_memory(&SystemEnv, &location).unwrap();
}

fn images() -> usize {
    std::env::var("THERMAE_IMAGES").ok().and_then(|text| text.parse().ok()).unwrap_or(IMAGES_DEFAULT)
}

fn run(workload: Workload) {
    let (recording, history) = record(workload);
    let states = history.states();
    for image in recording.images(images(), workload.seed) {
        try_image(&image, &history, &states, workload);
    }
}

const FLUSHED: Workload = Workload {
    durability: Durability::EverySec,
    changes: 600,
    keys: 60,
    value_bytes_max: 2000,
    flush_percent: 6,
    warm_mib: 0,
    transaction_percent: 15,
    moves_percent: 0,
    seed: 1,
};

#[test]
fn with_every_write_acknowledged_as_durable() {
    run(Workload { durability: Durability::Always, changes: 300, ..FLUSHED });
}

#[test]
fn with_flushes_now_and_then() {
    run(Workload { seed: 2, ..FLUSHED });
}

#[test]
fn in_a_small_store_that_compacts() {
    run(Workload { changes: 700, value_bytes_max: 60_000, seed: 3, ..FLUSHED });
}

/// What compaction moved was durable before, and must be where it is now before a checkpoint leads there.
#[test]
fn with_records_moved_right_before_a_checkpoint() {
    let moved = Workload { changes: 700, keys: 120, moves_percent: 10, seed: 8, ..FLUSHED };
    run(Workload { value_bytes_max: 90_000, ..moved });
    run(Workload { value_bytes_max: 90_000, transaction_percent: 0, seed: 9, ..moved });
}

/// Segments are dead, and given up, before they were ever flushed: their numbers are missing on disk.
#[test]
fn with_overwrites_that_never_reach_the_disk() {
    run(Workload { changes: 1200, keys: 10, value_bytes_max: 80_000, flush_percent: 1, seed: 4, ..FLUSHED });
}

/// What is old moves on from the warm tier to the cold one, and segments are found in both.
#[test]
fn in_a_small_store_with_a_warm_tier() {
    run(Workload { changes: 900, value_bytes_max: 80_000, warm_mib: 16, seed: 6, ..FLUSHED });
}

/// Segments are packed before they are flushed, but for those with transactions, which are flushed as they are.
#[test]
fn with_overwrites_that_are_packed() {
    let packed =
        Workload { changes: 1200, keys: 30, value_bytes_max: 50_000, flush_percent: 2, seed: 6, ..FLUSHED };
    run(Workload { transaction_percent: 0, ..packed });
    run(Workload { transaction_percent: 1, seed: 7, ..packed });
}

/// A power failure in the middle of a recovery changes nothing about its outcome.
#[test]
fn recovery_itself_may_lose_power() {
    let (recording, history) = record(Workload { changes: 250, value_bytes_max: 4000, seed: 5, ..FLUSHED });
    let states = history.states();
    for image in recording.images(images() / 20, 5) {
        let directory = scratch();
        let root = directory.path().join("store");
        std::fs::create_dir(&root).unwrap();
        image.write_into(&root).unwrap();
        let location = Location::Directory(root.clone());
        let env = RecordingEnv::new(Arc::new(SystemEnv), &root, is_durable);
        let options = Options { create: false, ..settings(Durability::EverySec, 0) };
        let Ok(store) = Store::open(&location, &Options { env: Arc::new(env.clone()), ..options.clone() })
        else {
            continue;
        };
        let found = contents(&store);
        let length = (0..states.len()).find(|&length| states[length] == found);
        assert!(length.is_some(), "cut {}, {:?}, seed {}", image.cut, image.tear, image.seed);
        crash(store, &location);
        for again in env.recording().images(20, image.seed) {
            let directory = scratch();
            let root = directory.path().join("store");
            std::fs::create_dir(&root).unwrap();
            again.write_into(&root).unwrap();
            let location = Location::Directory(root);
            // The recording knows a file from its first opening on; all of them were there before.
            let is_known = |name: &str| {
                again.paths().any(|path| path == Path::new(name))
                    || !image.paths().any(|path| path == Path::new(name))
            };
            if !["store", "cold", "checkpoint.0", "checkpoint.1"].into_iter().all(is_known) {
                continue;
            }
            let store = Store::open(&location, &options).unwrap();
            assert!(
                contents(&store) == found,
                "cut {}, {:?}, seed {} of a recovery",
                again.cut,
                again.tear,
                again.seed
            );
            crash(store, &location);
        }
    }
}
