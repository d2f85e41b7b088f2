//! Numbers in shared memory that can't be. Whoever may write there, or a failing memory bank, may leave any; each must end in an error or be
//! made anew, and none in a signal, a panic, or a number used as if it were right.

mod common;

use common::{MIB, Place, options};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use thermae_core::layout::{Place as Frames, state};
use thermae_core::record::{BATCH_BYTES, kind};
use thermae_core::{BatchOp, Durability, Error, IndexPlacement, Options, SetOptions, Store, WhenFull};

const LARGE_BYTES: usize = 1_500_000;

fn set(store: &Store, key: &str) -> Result<(), Error> {
    store.set(key.as_bytes(), b"value", &SetOptions::default()).map(drop)
}

/// Keys enough for every partition to outgrow its table.
fn outgrow(store: &Store, from: u32) -> Result<(), Error> {
    (from..from + 30_000).try_for_each(|number| set(store, &format!("key:{number}")))
}

#[test]
fn an_extent_in_no_frame_is_not_mapped() {
    let place = Place::shared_memory("altered");
    let store = place.open(&options(16, 0, Durability::None, WhenFull::Error));
    store.set(b"large", &vec![7; LARGE_BYTES], &SetOptions::default()).unwrap();
    assert!(*store.view(b"large").unwrap().unwrap() == vec![7; LARGE_BYTES]);
    let engine = store.engine();
    let frames = engine.geometry.hot_frames;
    let extent =
        engine.segments().iter().find(|segment| segment.state.load(Ordering::SeqCst) == state::EXTENT);
    let word = &extent.unwrap().place;
    let before = word.load(Ordering::SeqCst);
    for frame in [frames, frames + 1, (1 << 24) - 2] {
        let altered = Frames { hot: Some(frame), ..Frames::unpack(before) };
        word.store(altered.pack(), Ordering::SeqCst);
        let error = store.view(b"large").map(|view| view.map(|view| view.to_vec())).unwrap_err();
        assert_eq!(error.name(), "Corrupt", "{error}");
        assert_eq!(store.get(b"large").unwrap_err().name(), "Corrupt");
    }
    word.store(before, Ordering::SeqCst);
    assert!(*store.view(b"large").unwrap().unwrap() == vec![7; LARGE_BYTES]);
}

#[test]
fn a_partitions_count_that_can_not_be_is_made_anew() {
    let place = Place::shared_memory("altered");
    let store = place.open(&options(32, 0, Durability::None, WhenFull::Error));
    outgrow(&store, 0).unwrap();
    for count in [u32::MAX, u32::MAX - 1, 1 << 31, 200_000] {
        for partition in store.engine().partitions() {
            partition.count.store(count, Ordering::SeqCst);
        }
        outgrow(&store, 0).unwrap();
        outgrow(&store, 30_000).unwrap();
        let members: Vec<String> = (0..100).map(|number| format!("batch:{number}")).collect();
        let ops: Vec<_> = members
            .iter()
            .map(|key| BatchOp::Set {
                key: key.as_bytes(),
                value: b"",
                encoding: 0,
                expires_at_ms: 0,
                flags: 0,
            })
            .collect();
        store.transaction(&ops, &[]).unwrap();
        store.delete_many(&members.iter().map(String::as_bytes).collect::<Vec<_>>()).unwrap();
    }
    assert_eq!(store.get(b"key:59999").unwrap().unwrap().1, b"value");
    assert!(store.check(true).unwrap().problems.iter().all(|problem| problem.kind == "count"));
    assert_eq!(store.len().unwrap(), 60_000);
    assert!(store.check(false).unwrap().ok);
}

#[test]
fn a_list_of_index_frames_that_can_not_be_is_not_followed() {
    let place = Place::shared_memory("altered");
    let store = place.open(&options(32, 0, Durability::None, WhenFull::Error));
    outgrow(&store, 0).unwrap();
    let count = &store.engine().globals().index_frames;
    let before = count.load(Ordering::SeqCst);
    for altered in [u32::MAX, store.engine().geometry.hot_frames + 1] {
        count.store(altered, Ordering::SeqCst);
        // The index can't grow; what is there is served.
        assert_eq!(outgrow(&store, 30_000).unwrap_err().name(), "Full");
        assert_eq!(store.get(b"key:1").unwrap().unwrap().1, b"value");
        assert!(!store.check(false).unwrap().ok);
    }
    count.store(before, Ordering::SeqCst);
    // What it lists can't be: other frames are taken.
    let listed = &store.engine().index_frames()[..before as usize];
    let frames: Vec<u32> = listed.iter().map(|frame| frame.load(Ordering::SeqCst)).collect();
    listed.iter().for_each(|frame| frame.store(u32::MAX, Ordering::SeqCst));
    outgrow(&store, 30_000).unwrap();
    assert!(!store.check(false).unwrap().ok);
    for (place, frame) in listed.iter().zip(frames) {
        place.store(frame, Ordering::SeqCst);
    }
    assert_eq!(store.len().unwrap(), 60_000);
}

#[test]
fn a_free_warm_frame_that_can_not_be_is_not_used() {
    let place = Place::in_directory();
    let options = Options {
        warm_bytes: Some(20 * MIB),
        index: Some(IndexPlacement::Warm),
        ..options(24, 32, Durability::EverySec, WhenFull::Error)
    };
    let store = place.open(&options);
    set(&store, "first").unwrap();
    for frame in store.engine().free_warm() {
        frame.store(u32::MAX - 9, Ordering::SeqCst);
    }
    let frames = || store.engine().globals().index_frames.load(Ordering::SeqCst);
    let before = frames();
    for round in 0.. {
        outgrow(&store, round * 30_000).unwrap();
        if frames() > before + 1 {
            assert_eq!(store.len().unwrap(), u64::from(round + 1) * 30_000 + 1);
            break;
        }
    }
    assert!(!store.check(false).unwrap().ok);
    store.check(true).unwrap();
    assert!(store.check(false).unwrap().ok);
}

/// Where a transaction has happened, each of its records says so: a reader that looks for the lead, far away, waits for another cache miss.
#[test]
fn readers_do_not_look_for_the_lead_of_a_transaction_that_has_happened() {
    let place = Place::shared_memory("altered");
    let store = place.open(&options(16, 0, Durability::None, WhenFull::Error));
    let value = vec![7; LARGE_BYTES];
    let set = |key, value| BatchOp::Set { key, value, encoding: 0, expires_at_ms: 0, flags: 0 };
    store.transaction(&[set(b"short", b"here"), set(b"large", &value)], &[]).unwrap();
    let hot = std::fs::OpenOptions::new().read(true).write(true).open(&store.engine().paths.hot).unwrap();
    let bytes = std::fs::read(&store.engine().paths.hot).unwrap();
    let record = bytes.windows(5).position(|window| window == b"short").unwrap() - BATCH_BYTES;
    let batch_offset = u32::from_le_bytes(bytes[record + 20..record + 24].try_into().unwrap());
    let frame_bytes = store.engine().geometry.frame_bytes as usize;
    let lead = (record / frame_bytes * frame_bytes) as u64 + u64::from(batch_offset);
    assert_eq!(bytes[lead as usize + 6] & kind::MASK, kind::BATCH);
    hot.write_all_at(&[kind::ABANDONED], lead + 6).unwrap();
    assert_eq!(store.get(b"short").unwrap().unwrap().1, b"here");
    assert!(store.get(b"large").unwrap().unwrap().1 == value);
    for (key, value) in [(&b"short"[..], &b"here"[..]), (b"large", &value)] {
        let view = store.view(key).unwrap().unwrap();
        assert!(view.is_zero_copy() && *view == *value);
    }
    // Nor do they take what is not marked for what has happened.
    hot.write_all_at(&0_u64.to_le_bytes(), record as u64 + 24).unwrap();
    assert_eq!(store.get(b"short").unwrap_err().name(), "Corrupt");
    hot.write_all_at(&[kind::BATCH], lead + 6).unwrap();
    assert_eq!(store.get(b"short").unwrap().unwrap().1, b"here");
}
