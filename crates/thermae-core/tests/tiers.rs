//! What a user sees of the tiers: what stays when memory is full, what a cold tier keeps, what a full store refuses, and that memory comes back.
//!
//! Every value is derived from its key and a version, so that wrong bytes show whatever went wrong.

#[path = "tiers/large_values.rs"]
mod large_values;
#[path = "tiers/limit.rs"]
mod limit;
#[path = "common/zipf.rs"]
mod zipf;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use thermae_core::{
    BatchOp, Durability, Error, Location, Options, SetOptions, SetOutcome, Store, View, WhenFull, destroy,
    forget_shared_memory,
};
use zipf::{Zipf, mix};

const MIB: u64 = 1 << 20;

/// A store that is removed at the end of its test.
struct Scratch {
    store: Option<Store>,
    location: Location,
    _directory: Option<tempfile::TempDir>,
}

impl std::ops::Deref for Scratch {
    type Target = Store;

    fn deref(&self) -> &Store {
        self.store.as_ref().expect("open until dropped")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The store's shared memory can be removed once its last handle is gone.
        let closed = self.store.take().map(|store| store.close());
        let destroyed = destroy(&thermae_core::env::SystemEnv, &self.location);
        if !std::thread::panicking() {
            closed.transpose().unwrap();
            destroyed.unwrap();
        }
    }
}

fn cache(name: &str, options: Options) -> Scratch {
    let location = Location::parse(&format!("shm://test-tiers-{name}-{}", std::process::id())).unwrap();
    let store = Store::open(&location, &Options { hot_bytes: Some(16 * MIB), ..options }).unwrap();
    Scratch { store: Some(store), location, _directory: None }
}

fn tiered(cold_mib: u64, durability: Durability, options: Options) -> Scratch {
    let directory = tempfile::tempdir().unwrap();
    let location = Location::Directory(directory.path().join("store"));
    let options = Options {
        hot_bytes: options.hot_bytes.or(Some(16 * MIB)),
        cold_bytes: Some(cold_mib * MIB),
        durability: Some(durability),
        ..options
    };
    let store = Store::open(&location, &options).unwrap();
    Scratch { store: Some(store), location, _directory: Some(directory) }
}

/// A value that says which key and version it is of, all the way through.
fn value(key: u64, version: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 24);
    bytes.extend_from_slice(&version.to_le_bytes());
    let mut word = mix(key ^ version << 32);
    while bytes.len() < len {
        bytes.extend_from_slice(&word.to_le_bytes());
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    }
    bytes.truncate(len.max(8));
    bytes
}

/// The version of a value, which must be one of `key`.
fn version_of(key: u64, bytes: &[u8]) -> u64 {
    let version = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert!(
        bytes == value(key, version, bytes.len()),
        "key {key} holds bytes that were never stored under it"
    );
    version
}

fn name(key: u64) -> Vec<u8> {
    format!("key:{key:08}").into_bytes()
}

/// The client flags of a version of a key: some have none.
fn flags_of(key: u64, version: u64) -> u32 {
    let mixed = mix(key.wrapping_mul(31) ^ version);
    if mixed.is_multiple_of(3) { 0 } else { mixed as u32 }
}

fn options_of(key: u64, version: u64) -> SetOptions {
    SetOptions { flags: flags_of(key, version), ..SetOptions::default() }
}

fn set(store: &Store, key: u64, version: u64, len: usize) {
    let outcome = store.set(&name(key), &value(key, version, len), &options_of(key, version)).unwrap();
    assert!(matches!(outcome, SetOutcome::Stored(_)));
}

fn get(store: &Store, key: u64) -> Option<u64> {
    store.get(&name(key)).unwrap().map(|(meta, bytes)| {
        let version = version_of(key, &bytes);
        assert_eq!(meta.flags, flags_of(key, version), "the flags of version {version} of key {key}");
        version
    })
}

#[test]
fn a_full_cache_keeps_what_is_used_and_what_is_new() {
    let store = cache("keeps", Options::default());
    let (hot_keys, stream) = (1000, 80_000);
    for key in 0..hot_keys {
        set(&store, key, 1, 1000);
    }
    for key in hot_keys..stream {
        set(&store, key, 1, 1000);
        // Each hot key is read about once in two thousand writes, two megabytes apart.
        get(&store, mix(key) % hot_keys);
        if key % 2 == 0 {
            get(&store, mix(key + 1_000_000) % hot_keys);
        }
    }
    let kept = (0..hot_keys).filter(|&key| get(&store, key) == Some(1)).count();
    assert!(kept as u64 > hot_keys * 97 / 100, "{kept} of {hot_keys} keys in use were kept");
    for key in stream - 500..stream {
        assert_eq!(get(&store, key), Some(1), "key {key} was stored just now");
    }
    let stats = store.stats().unwrap();
    assert!(stats.evicted > stream / 2, "{stats:?}");
    assert!(stats.hot_used_bytes <= stats.hot_bytes, "{stats:?}");
    // The background goes on evicting for a moment: the count is right once it rests.
    let agrees = (0..20).any(|_| {
        let len = store.len().unwrap();
        let found = (0..stream).filter(|&key| get(&store, key).is_some()).count() as u64;
        found == len && store.len().unwrap() == len
    });
    assert!(agrees, "{} keys are counted, and others are there", store.len().unwrap());
}

#[test]
fn overwrites_in_a_full_cache_are_never_lost_behind_old_versions() {
    let store = cache("overwrites", Options::default());
    let mut latest = HashMap::new();
    for step in 0..60_000_u64 {
        let key = mix(step) % 20_000;
        set(&store, key, step + 1, 100 + (step % 1500) as usize);
        latest.insert(key, step + 1);
    }
    let present = latest.iter().filter(|&(&key, &version)| {
        let found = get(&store, key);
        assert!(found.is_none() || found == Some(version), "key {key}: {found:?} instead of {version}");
        found.is_some()
    });
    assert!(present.count() > 5000);
}

fn everything_is_kept(durability: Durability) {
    let store = tiered(96, durability, Options::default());
    let keys = 60_000;
    for key in 0..keys {
        set(&store, key, 1, 1000);
    }
    for key in (0..keys).step_by(7) {
        set(&store, key, 2, 900);
    }
    for key in (0..keys).step_by(11) {
        assert!(store.delete(&name(key)).unwrap());
    }
    let expected = |key| match key {
        key if key % 11 == 0 => None,
        key if key % 7 == 0 => Some(2),
        _ => Some(1),
    };
    for key in 0..keys {
        assert_eq!(get(&store, key), expected(key), "key {key}");
    }
    let stats = store.stats().unwrap();
    assert!(stats.cold_reads > 10_000 && stats.demoted_segments > 20 && stats.evicted == 0, "{stats:?}");
    // A few keys in use: read twice within the window they move to memory, and then no read goes to flash. Room for them is made in the background,
    // which a busy machine may have come late to.
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        for _ in 0..6 {
            for key in 1..2000 {
                get(&store, key);
            }
        }
        let before = store.stats().unwrap();
        for key in 1..2000 {
            assert_eq!(get(&store, key), expected(key));
        }
        let reads = store.stats().unwrap().cold_reads - before.cold_reads;
        if reads < 20 && before.promoted > 1000 {
            break;
        }
        assert!(Instant::now() < until, "{reads} reads of promoted keys went to flash");
    }
    // Under pressure the copies are given up again, and the keys are found at home.
    for key in keys..keys + 20_000 {
        set(&store, key, 1, 1000);
    }
    for key in 0..keys {
        assert_eq!(get(&store, key), expected(key), "key {key}");
    }
    assert_eq!(
        store.len().unwrap(),
        (0..keys + 20_000).filter(|&key| get(&store, key).is_some()).count() as u64
    );
}

#[test]
fn with_a_cold_tier_everything_is_kept() {
    everything_is_kept(Durability::EverySec);
}

#[test]
fn with_a_cold_tier_and_no_durability_everything_is_kept() {
    everything_is_kept(Durability::None);
}

/// Bytes written to flash for each byte stored, under Zipfian overwrites of a store whose cold tier is 85 % full.
fn write_amplification(durability: Durability, cold_mib: u64, writes: u64) -> f64 {
    let options = Options {
        hot_bytes: Some(cold_mib / 4 * MIB),
        when_full: Some(WhenFull::Error),
        ..Options::default()
    };
    let store = tiered(cold_mib, durability, options);
    let value_len = 1000;
    let keys = (cold_mib * MIB) as usize * 85 / 100 / (value_len + 40);
    let mut versions = vec![1_u64; keys];
    // Without flags, so that all records are of one length.
    let set = |key, version| {
        store.set(&name(key), &value(key, version, value_len), &SetOptions::default()).unwrap();
    };
    for key in 0..keys as u64 {
        set(key, 1);
    }
    let before = store.stats().unwrap();
    let mut zipf = Zipf::new(keys, 0.99, 1);
    for version in 2..writes + 2 {
        let key = zipf.next_key();
        set(key, version);
        versions[key as usize] = version;
    }
    let after = store.stats().unwrap();
    for key in (0..keys as u64).step_by(13) {
        let (_, bytes) = store.get(&name(key)).unwrap().unwrap();
        assert_eq!(version_of(key, &bytes), versions[key as usize], "key {key}");
    }
    let user_bytes = writes * (value_len as u64 + 40);
    (after.cold_written_bytes - before.cold_written_bytes) as f64 / user_bytes as f64
}

#[test]
fn zipfian_overwrites_at_85_percent_occupancy_cost_little_extra_writing() {
    let relaxed = write_amplification(Durability::None, 256, 600_000);
    // 0.95 beside other work.
    assert!(relaxed <= 1.1, "{relaxed}");
    // 1.2 to 1.35 beside other work: less than in a store written to for long, for compaction begins only on the way. On a busy machine more
    // flushes come in between, each of which writes what might yet have died.
    let flushed = write_amplification(Durability::EverySec, 512, 900_000);
    assert!(flushed <= 1.55, "{flushed}");
}

#[test]
fn what_is_overwritten_before_a_flush_is_not_written() {
    // No flush comes before durability is turned on.
    let store = tiered(256, Durability::None, Options { hot_bytes: Some(64 * MIB), ..Options::default() });
    let (keys, rounds, value_len) = (2000, 12, 1000);
    for version in 1..=rounds {
        for key in 0..keys {
            set(&store, key, version, value_len);
        }
    }
    assert_eq!(store.stats().unwrap().cold_written_bytes, 0);
    store.set_durability(Durability::EverySec).unwrap();
    let stats = store.stats().unwrap();
    assert!(stats.watermark >= keys * rounds, "{stats:?}");
    let live_bytes = keys * value_len as u64;
    assert!(
        (live_bytes..live_bytes * 3 / 2 + MIB).contains(&stats.cold_written_bytes),
        "{} bytes were written, and {live_bytes} are alive",
        stats.cold_written_bytes
    );
    assert!((0..keys).all(|key| get(&store, key) == Some(rounds)));
}

#[test]
fn a_checkpoint_in_the_background_makes_no_flush_of_its_own() {
    // So small a cold tier that checkpoints are due all the time.
    let store = tiered(64, Durability::EverySec, Options { hot_bytes: Some(64 * MIB), ..Options::default() });
    for key in 0..2000 {
        set(&store, key, 1, 1000);
    }
    store.flush().unwrap();
    let (before, began) = (store.stats().unwrap(), Instant::now());
    let mut version = 1;
    let has_checkpoint = || store.stats().unwrap().checkpoint_sequence > before.checkpoint_sequence;
    while began.elapsed() < Duration::from_secs(3)
        || (!has_checkpoint() && began.elapsed() < Duration::from_secs(30))
    {
        version += 1;
        for key in 0..2000 {
            set(&store, key, version, 1000);
        }
    }
    let (after, elapsed) = (store.stats().unwrap(), began.elapsed());
    assert!(after.checkpoint_sequence > before.checkpoint_sequence, "{after:?}");
    // One is due half a second after the one before, however slow the machine is, and a writer that needs room makes one now and then. Were each
    // checkpoint to make its own, there would be five times as many.
    let due = elapsed.as_millis() as u64 / 500 + 1;
    let flushes = after.flushes - before.flushes;
    assert!(flushes <= 2 * due, "{flushes} flushes in {elapsed:?}");
    assert!((0..2000).all(|key| get(&store, key) == Some(version)));
}

#[test]
fn a_full_cold_tier_that_may_evict_drops_what_is_oldest() {
    let store =
        tiered(32, Durability::EverySec, Options { when_full: Some(WhenFull::Evict), ..Options::default() });
    for key in 0..80_000 {
        set(&store, key, 1, 1000);
    }
    assert!((79_000..80_000).all(|key| get(&store, key) == Some(1)));
    // What was set last is still being flushed, and that evicts: counted is where nothing was evicted meanwhile.
    let evicted = || store.stats().unwrap().evicted;
    let (mut present, mut len) = (0, 0);
    wait_until("a count without an eviction", || {
        let before = evicted();
        present = (0..80_000).filter(|&key| get(&store, key) == Some(1)).count();
        len = store.len().unwrap();
        evicted() == before
    });
    assert!((15_000..35_000).contains(&present), "{present}");
    assert_eq!(len, present as u64);
}

fn fill(store: &Store, first: u64) -> u64 {
    for key in first.. {
        match store.set(&name(key), &value(key, 1, 1000), &options_of(key, 1)) {
            Ok(_) => {}
            Err(Error::Full(message)) => {
                assert!(
                    message.contains("is full")
                        && message.contains("when_full")
                        && message.contains("delete"),
                    "{message}"
                );
                return key;
            }
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!()
}

fn refuses_and_recovers(store: &Store, capacity_min: u64) {
    let keys = fill(store, 0);
    assert!(keys >= capacity_min, "full with {keys} keys");
    for key in 0..keys {
        assert_eq!(get(store, key), Some(1));
    }
    // Deletes go on in a full store, scattered ones too, and what they free can be used.
    for key in (0..keys).filter(|key| key % 3 == 0) {
        assert!(store.delete(&name(key)).unwrap(), "key {key}");
    }
    let again = fill(store, keys);
    assert!(again - keys > keys / 5, "{} keys fit after {} were deleted", again - keys, keys / 3);
    for key in 0..again {
        assert_eq!(get(store, key), (key >= keys || key % 3 != 0).then_some(1), "key {key} of {again}");
    }
    for key in 0..again {
        store.delete(&name(key)).unwrap();
    }
    let emptied = fill(store, 0);
    assert!(emptied > keys * 9 / 10, "{emptied} keys fit into the emptied store, {keys} at first");
    assert_eq!(store.stats().unwrap().evicted, 0);
}

#[test]
fn a_store_that_may_not_evict_refuses_and_takes_again_after_deletes() {
    let store = cache("refuses", Options { when_full: Some(WhenFull::Error), ..Options::default() });
    refuses_and_recovers(&store, 8_000);
}

#[test]
fn a_tiered_store_that_may_not_evict_refuses_and_takes_again_after_deletes() {
    let store =
        tiered(24, Durability::EverySec, Options { when_full: Some(WhenFull::Error), ..Options::default() });
    refuses_and_recovers(&store, 15_000);
}

#[test]
fn without_durability_a_full_tiered_store_refuses_and_takes_again_after_deletes() {
    let store =
        tiered(24, Durability::None, Options { when_full: Some(WhenFull::Error), ..Options::default() });
    refuses_and_recovers(&store, 20_000);
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}: not after ten seconds");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn memory_comes_back(store: &Store) {
    let used_before = store.stats().unwrap().hot_used_bytes;
    let options = |key, ttl_ms| SetOptions { expires_at_ms: store.now_ms() + ttl_ms, ..options_of(key, 1) };
    for key in 0..6_000 {
        store.set(&name(key), &value(key, 1, 1000), &options(key, 2000)).unwrap();
    }
    for key in 6_000..6_100 {
        store.set(&name(key), &value(key, 1, 1000), &options(key, 600_000)).unwrap();
    }
    assert!(store.stats().unwrap().hot_used_bytes > used_before + 3 * MIB);
    std::thread::sleep(Duration::from_millis(2050));
    assert!((0..6_000).all(|key| get(store, key).is_none()), "expired keys are invisible at once");
    assert_eq!(store.len().unwrap(), 100);
    let start = Instant::now();
    // What is open, the kept keys and the index may stay.
    wait_until("the memory of expired keys", || {
        store.stats().unwrap().hot_used_bytes <= used_before + 4 * MIB
    });
    // Two, and one for a machine that stands still meanwhile.
    assert!(start.elapsed() < Duration::from_secs(3), "it took {:?}", start.elapsed());
    assert!((6_000..6_100).all(|key| get(store, key) == Some(1)));
    assert_eq!(store.stats().unwrap().expired, 6_000);
}

#[test]
fn the_memory_of_expired_keys_comes_back() {
    memory_comes_back(&cache("expiry", Options::default()));
}

#[test]
fn the_memory_of_expired_keys_comes_back_with_a_cold_tier() {
    memory_comes_back(&tiered(32, Durability::EverySec, Options::default()));
}

#[test]
fn expired_cold_keys_are_removed_and_counted_exactly() {
    let store = tiered(64, Durability::None, Options::default());
    let expires_at_ms = store.now_ms() + 3_000;
    for key in 0..10_000 {
        let expires_at_ms = if key % 2 == 0 { expires_at_ms } else { 0 };
        store
            .set(&name(key), &value(key, 1, 1000), &SetOptions { expires_at_ms, ..options_of(key, 1) })
            .unwrap();
    }
    for key in 10_000..40_000 {
        set(&store, key, 1, 1000);
    }
    assert!(store.stats().unwrap().demoted_segments > 5);
    wait_until("the expiry", || store.now_ms() > expires_at_ms);
    assert_eq!(store.len().unwrap(), 35_000);
    assert!((0..10_000).all(|key| get(&store, key) == (key % 2 == 1).then_some(1)));
}

#[test]
fn a_record_stored_with_an_expiry_in_the_past_is_removed_too() {
    let store = cache("past", Options::default());
    let soon = SetOptions { expires_at_ms: store.now_ms() + 50, ..SetOptions::default() };
    store.set(b"soon", b"1", &soon).unwrap();
    store.set(b"kept", b"1", &SetOptions::default()).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(store.len().unwrap(), 1);
    store.set(b"past", b"1", &SetOptions { expires_at_ms: 1, ..SetOptions::default() }).unwrap();
    assert_eq!(store.len().unwrap(), 1);
}

#[test]
fn views_keep_their_bytes_through_eviction_and_demotion() {
    let stores = [
        cache("views", Options::default()),
        tiered(64, Durability::None, Options::default()),
        tiered(64, Durability::EverySec, Options::default()),
    ];
    for store in &stores {
        let mut held: Vec<(u64, View)> = Vec::new();
        for key in 0..40_000 {
            set(store, key, 1, 1000);
            if key % 5000 == 10 {
                held.push((key, store.view(&name(key)).unwrap().unwrap()));
                // A view's segment may be all that could go: the view stays and the others go.
            }
            if held.len() > 4 {
                held.remove(0);
            }
        }
        set(store, 100_000, 1, 1_200_000);
        held.push((100_000, store.view(&name(100_000)).unwrap().unwrap()));
        store.delete(&name(100_000)).unwrap();
        for key in 40_000..60_000 {
            set(store, key, 1, 1000);
        }
        for (key, view) in &held {
            assert_eq!(version_of(*key, view), 1);
        }
    }
}

#[test]
fn a_store_full_of_views_says_so() {
    let store = cache("pinned", Options::default());
    let mut held = Vec::new();
    let mut refused = None;
    for key in 0..40_000 {
        match store.set(&name(key), &value(key, 1, 1000), &options_of(key, 1)) {
            Ok(_) => held.extend(store.view(&name(key)).unwrap().map(|view| (key, view))),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let message = refused.expect("a store whose every frame is pinned is full").to_string();
    assert!(message.contains("views hold"), "{message}");
    assert!(held.iter().all(|(key, view)| version_of(*key, view) == 1));
    held.clear();
    set(&store, 50_000, 1, 1000);
    assert_eq!(get(&store, 50_000), Some(1));
}

/// Frames are freed for a large value again and again, but other writers take them, and views hold so many that it can never have enough
/// at once: its writer once made room forever.
#[test]
fn a_writer_that_never_gets_its_frames_is_told_that_the_store_is_full() {
    let store = cache("starved", Options::default());
    let mut held = Vec::new();
    for key in 0..36 {
        set(&store, key, 1, 250_000);
        held.push(store.view(&name(key)).unwrap().unwrap());
    }
    let stop = AtomicBool::new(false);
    let (refused, took) = std::thread::scope(|scope| {
        for thread in 0..2 {
            let (store, stop) = (&store, &stop);
            scope.spawn(move || {
                let started = Instant::now();
                for version in 1.. {
                    if stop.load(Ordering::Relaxed) || started.elapsed() > Duration::from_secs(30) {
                        return;
                    }
                    set(store, 1000 + thread * 100 + version % 100, version, 200_000);
                }
            });
        }
        let started = Instant::now();
        let outcome = store.set(&name(999), &value(999, 1, 7 << 20), &options_of(999, 1));
        stop.store(true, Ordering::Relaxed);
        (outcome.map(|_| ()), started.elapsed())
    });
    let error = refused.expect_err("seven frames are never free at once");
    assert!(matches!(&error, Error::Full(message) if message.contains("views hold")), "{error}");
    assert!(took < Duration::from_secs(15), "refused after {took:?} only");
    held.clear();
    set(&store, 999, 2, 7 << 20);
    assert_eq!(get(&store, 999), Some(2));
}

/// Threads that write, overwrite, delete and read their own keys and read each other's, in a store that is always full.
fn hammer(store: &Store, may_evict: bool) {
    let stop = AtomicBool::new(false);
    let threads = 4_u64;
    let keys = 6_000_u64;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let stop = &stop;
            scope.spawn(move || {
                let mut versions: HashMap<u64, u64> = HashMap::new();
                let mut seed = thread + 1;
                let mut version = 0;
                while !stop.load(Ordering::Relaxed) {
                    seed = mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15));
                    let key = thread * keys + seed % keys;
                    version += 1;
                    match seed >> 40 & 15 {
                        0 => {
                            store.delete(&name(key)).unwrap();
                            versions.remove(&key);
                        }
                        1 => {
                            let other = (key + 1) % keys + thread * keys;
                            let (one, two) = (value(key, version, 300), value(other, version, 300));
                            let (key_name, other_name) = (name(key), name(other));
                            store
                                .transaction(
                                    &[
                                        BatchOp::Set {
                                            key: &key_name,
                                            value: &one,
                                            encoding: 0,
                                            expires_at_ms: 0,
                                            flags: flags_of(key, version),
                                        },
                                        BatchOp::Set {
                                            key: &other_name,
                                            value: &two,
                                            encoding: 0,
                                            expires_at_ms: 0,
                                            flags: flags_of(other, version),
                                        },
                                    ],
                                    &[],
                                )
                                .unwrap();
                            versions.insert(key, version);
                            versions.insert(other, version);
                        }
                        2 if seed >> 50 & 63 == 0 => {
                            set(store, key, version, 400_000);
                            versions.insert(key, version);
                        }
                        2..7 => {
                            set(store, key, version, 200 + (seed >> 20 & 2047) as usize);
                            versions.insert(key, version);
                        }
                        7 => {
                            // Another thread's key: any of its versions, but whole.
                            get(store, (thread + 1) % threads * keys + seed % keys);
                        }
                        8 => {
                            if let Some(view) = store.view(&name(key)).unwrap() {
                                let version = version_of(key, &view);
                                assert_eq!(Some(&version), versions.get(&key));
                                assert_eq!(view.meta().flags, flags_of(key, version));
                            }
                        }
                        _ => {
                            let found = get(store, key);
                            let expected = versions.get(&key).copied();
                            assert!(
                                found == expected || (may_evict && found.is_none()),
                                "key {key}: {found:?}, not {expected:?}"
                            );
                        }
                    }
                }
                for (&key, &version) in &versions {
                    let found = get(store, key);
                    assert!(
                        found == Some(version) || (may_evict && found.is_none()),
                        "key {key}: {found:?}, not {version}"
                    );
                }
            });
        }
        std::thread::sleep(Duration::from_secs(4));
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn four_threads_in_a_full_cache_never_see_wrong_bytes() {
    let store = cache("hammer", Options::default());
    hammer(&store, true);
    assert!(store.stats().unwrap().evicted > 1000);
}

#[test]
fn four_threads_over_two_tiers_never_see_wrong_bytes_nor_lose_any() {
    for durability in [Durability::None, Durability::EverySec] {
        let store =
            tiered(128, durability, Options { when_full: Some(WhenFull::Error), ..Options::default() });
        hammer(&store, false);
        let stats = store.stats().unwrap();
        assert!(stats.demoted_segments > 10 && stats.evicted == 0, "{stats:?}");
    }
}
