//! A log made up by the input, recovered by opening the store: without damage the result is the model's, with damage every value is one
//! that its key had.
//!
//! Input: the recorded watermark, whether the log is damaged in the end, then commands of a few bytes each.
#![cfg_attr(feature = "libfuzzer", no_main)]
#![allow(clippy::disallowed_methods, reason = "what a damaged disk does to files, no Env may stand in for")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use thermae_core::env::SystemEnv;
use thermae_core::frame_file::{FrameFile, FrameFileGeometry, FrameKind, FrameRecord};
use thermae_core::layout::{SEGMENT_HEADER_BYTES, SLOT_BITS};
use thermae_core::record::{self, BATCH_BYTES, Draft, Word0, flag, kind};
use thermae_core::{Durability, Location, Options, ShmPlacement, Store};
use thermae_fuzz::{Bytes, fuzz_target, scratch_directory};

const MIB: u64 = 1 << 20;
const FRAME_BYTES: usize = 1 << 20;
const SEGMENTS: usize = 3;
const COMMANDS_MAX: usize = 200;
const SEGMENT_MAGIC: [u8; 8] = *b"THRMseg1";

/// A store with an empty log, made anew for every input.
struct Bench {
    _scratch: tempfile::TempDir,
    directory: PathBuf,
    superblock: Vec<u8>,
    geometry: FrameFileGeometry,
}

fn options() -> Options {
    Options {
        hot_bytes: Some(16 * MIB),
        cold_bytes: Some(16 * MIB),
        durability: Some(Durability::EverySec),
        shm: ShmPlacement::Directory,
        participants_max: 4,
        background: false,
        ..Options::default()
    }
}

impl Bench {
    fn new() -> Self {
        let scratch = scratch_directory();
        let directory = scratch.path().join("store");
        let store =
            Store::open(&Location::Directory(directory.clone()), &options()).expect("a new store opens");
        let engine = store.engine();
        let geometry = FrameFileGeometry {
            uuid: engine.superblock.uuid,
            frame_bytes: engine.geometry.frame_bytes,
            frames: engine.geometry.cold_frames,
            alignment_bytes: 4096,
        };
        drop(store);
        let superblock = std::fs::read(directory.join("store")).expect("the file was just made");
        Self { _scratch: scratch, directory, superblock, geometry }
    }

    /// Removes what the input before left.
    fn reset(&self) -> FrameFile {
        for name in ["control", "hot", "checkpoint.0", "checkpoint.1"] {
            let _ = std::fs::remove_file(self.directory.join(name));
        }
        std::fs::write(self.directory.join("store"), &self.superblock).expect("the superblock is written");
        FrameFile::create(&SystemEnv, &self.directory.join("cold"), self.geometry)
            .expect("a cold file is made")
    }
}

/// A segment in the making.
struct Segment {
    id: u64,
    bytes: Vec<u8>,
}

impl Segment {
    fn new(slot: usize) -> Self {
        let id = (slot as u64 + 1) << SLOT_BITS | slot as u64;
        let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
        bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..16].copy_from_slice(&id.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        Self { id, bytes }
    }

    fn append(&mut self, sequence: u64, batch_offset: Option<usize>, key: &[u8], value: Option<&[u8]>) {
        let kind = match (value, batch_offset) {
            (Some(_), None) => kind::PUT,
            (None, None) => kind::TOMBSTONE,
            (Some(_), Some(_)) => kind::BATCH_PUT,
            (None, Some(_)) => kind::BATCH_TOMBSTONE,
        };
        let payload = value.unwrap_or_default();
        let client_flags = value.map_or(0, flags_of);
        let word = Word0 {
            value_len: payload.len() as u32,
            key_len: key.len() as u16,
            kind: kind | flag::of(0, client_flags),
            encoding: 0,
        };
        let offset = self.bytes.len();
        let shape = record::shape(word, offset, FRAME_BYTES);
        let draft = Draft {
            word,
            expiry_ms: 0,
            client_flags,
            link: 0,
            batch_offset: batch_offset.unwrap_or(0) as u32,
            key,
            payload,
        };
        let crc = draft.checksum(sequence);
        self.bytes.resize(offset + shape.total, 0);
        // SAFETY: the vector was just made longer by the shape's total.
        unsafe {
            record::write_body(self.bytes.as_mut_ptr().add(offset), &draft, &shape, sequence, crc, self.id)
        };
        self.bytes[offset..offset + 8].copy_from_slice(&word.pack().to_le_bytes());
    }

    /// The lead of a batch whose records follow it up to the end.
    fn lead(&mut self, at: usize, sequence: u64, count: u32) {
        let total = (self.bytes.len() - at) as u32;
        let word = Word0 { value_len: total, key_len: 0, kind: kind::BATCH, encoding: 0 };
        let crc = record::batch_checksum(sequence, total, count) ^ record::checksum_mask(self.id);
        self.bytes[at..at + 8].copy_from_slice(&word.pack().to_le_bytes());
        self.bytes[at + 8..at + 16].copy_from_slice(&sequence.to_le_bytes());
        self.bytes[at + 16..at + 20].copy_from_slice(&crc.to_le_bytes());
        self.bytes[at + 20..at + 24].copy_from_slice(&count.to_le_bytes());
    }
}

/// The client flags that a value is stored with: none with every third length.
fn flags_of(value: &[u8]) -> u32 {
    if value.len().is_multiple_of(3) { 0 } else { crc32c::crc32c(value) | 1 }
}

type Change = (Vec<u8>, Option<Vec<u8>>);

/// One update or transaction: its first sequence number, its changes, and whether it reached the disk.
struct Update {
    first: u64,
    changes: Vec<Change>,
    is_there: bool,
}

fn run(data: &[u8]) {
    thread_local!(static BENCH: RefCell<Option<Bench>> = const { RefCell::new(None) });
    BENCH.with_borrow_mut(|bench| replay(bench.get_or_insert_with(Bench::new), data));
}

fn replay(bench: &Bench, data: &[u8]) {
    let mut input = Bytes(data);
    let watermark_share = u64::from(input.byte());
    let damage = input.byte();
    let mut segments: Vec<Segment> = (0..SEGMENTS).map(Segment::new).collect();
    let mut updates: Vec<Update> = Vec::new();
    let mut sequence = 1;
    while !input.is_empty() && updates.len() < COMMANDS_MAX {
        let command = input.byte();
        let segment = &mut segments[command as usize % SEGMENTS];
        let is_batch = command & 0x40 != 0;
        let is_there = command & 0x80 == 0;
        let count = if is_batch { 1 + u64::from(command >> 4 & 3) } else { 1 };
        let start = segment.bytes.len();
        if is_batch {
            segment.bytes.resize(start + BATCH_BYTES, 0);
        }
        let mut changes: Vec<Change> = Vec::new();
        for member in 0..count {
            let key = vec![b'k'; 1 + usize::from(input.byte() % 9)];
            let key = if changes.iter().any(|(other, _)| *other == key) {
                format!("m{member}").into_bytes()
            } else {
                key
            };
            let len = input.byte();
            let value = (len % 8 != 0)
                .then(|| [sequence + member; 32].map(u64::to_le_bytes).concat()[..usize::from(len)].to_vec());
            segment.append(sequence + member, is_batch.then_some(start), &key, value.as_deref());
            changes.push((key, value));
        }
        if is_batch {
            segment.lead(start, sequence, count as u32);
        }
        if !is_there {
            // It never reached the disk; what follows did.
            segment.bytes[start..].fill(0);
        }
        updates.push(Update { first: sequence, changes, is_there });
        sequence += count;
    }
    let last = sequence - 1;
    // Everything up to the watermark is there: that is what it says.
    let first_missing =
        updates.iter().find(|update| !update.is_there).map_or(sequence, |update| update.first);
    let watermark = (last * watermark_share / 255).min(first_missing - 1);
    let cold = bench.reset();
    for (slot, segment) in segments.iter_mut().enumerate() {
        if damage & 1 != 0 {
            let at = input.word() as usize % segment.bytes.len();
            let patch = input.take(usize::from(damage >> 4) + 1);
            let end = (at + patch.len()).min(segment.bytes.len());
            segment.bytes[at..end].copy_from_slice(&patch[..end - at]);
        }
        let record = FrameRecord {
            kind: FrameKind::LogSegment,
            class: 0,
            segment_id: segment.id,
            owner_sequence: 0,
            part: 0,
            parts: 1,
            used_bytes: segment.bytes.len() as u32,
            written_wall_ms: 0,
        };
        cold.write_frame_record(slot as u32, &record).expect("frame record");
        cold.write_at(slot as u32, 0, &segment.bytes).expect("segment");
    }
    cold.write_watermark(watermark).expect("watermark");
    drop(cold);

    let opened = Store::open(&Location::Directory(bench.directory.clone()), &options());
    let store = match opened {
        Ok(store) => store,
        Err(_) if damage & 1 != 0 => return,
        Err(error) => panic!("an intact log is refused: {error}"),
    };
    let mut history: BTreeMap<Vec<u8>, Vec<Option<Vec<u8>>>> = BTreeMap::new();
    let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for update in &updates {
        for (key, value) in &update.changes {
            history.entry(key.clone()).or_default().push(value.clone());
            if update.first < first_missing {
                match value {
                    Some(value) => drop(model.insert(key.clone(), value.clone())),
                    None => drop(model.remove(key)),
                }
            }
        }
    }
    for (key, values) in &history {
        let found = match store.get(key) {
            Ok(found) => found.map(|(meta, value)| {
                assert_eq!(meta.flags, flags_of(&value), "{key:?} has flags that it never had");
                value
            }),
            Err(_) if damage & 1 != 0 => continue,
            Err(error) => panic!("reading {key:?} of an intact log fails: {error}"),
        };
        if damage & 1 != 0 {
            assert!(found.is_none() || values.contains(&found), "{key:?} has a value that it never had");
        } else {
            assert_eq!(
                found.as_ref(),
                model.get(key),
                "key {key:?}, watermark {watermark}, gap at {first_missing}, last {last}"
            );
        }
    }
    let report = store.check(false);
    if damage & 1 == 0 {
        let report = report.expect("a check of an intact store");
        assert!(report.ok, "{:?}", report.problems);
        assert_eq!(report.keys, model.len() as u64);
    }
    store.set(b"after", b"value", &Default::default()).expect("a recovered store takes writes");
    assert_eq!(store.get(b"after").expect("a read").map(|(_, value)| value).as_deref(), Some(&b"value"[..]));
}

fuzz_target!(run);
