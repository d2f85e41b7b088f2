//! The index written down, so that a recovery need not read the whole log.
//!
//! A checkpoint begins with all heads locked for a moment: it notes the last sequence number S0, the next segment number and every segment's tail.
//! Then it dumps the index partition by partition, each under its lock, while writes go on; so an entry may already lead to something newer
//! than S0, but none is older, since a record reserved before the tails were noted was published before its partition was dumped. At the end it
//! notes S1, makes everything up to there durable, and only then writes the footer that makes the file valid.
//!
//! Recovery takes the entries that lead below the noted tails, and replays what lies above them: everything newer than S0. The dump of a key that
//! changed meanwhile leads above the tails and is found there. Segments numbered below the noted counter that the table does not list
//! were retired before the checkpoint: what they held is superseded, or dropped for good.
//!
//! Two files are written alternately, each under another name first: the one before stays whole until the next one is. What is deleted, expired
//! or evicted may be dropped from the log only as far as *both* cover it, and the superblock's tombstone floor says how far that
//! is: so the older one still serves when the newer one is damaged. Cache copies are not durable, so the dump names their homes. Rejected: stopping writers for a consistent dump (a pause that grows with the data), and
//! logging index changes (a second write for every update).

use crate::background::{drop_cached_in_pieces, give_way, write_in_pieces};
use crate::block::{BLOCK_BYTES, BLOCK_FIELDS_OFFSET, Block, BlockState, get_u32, get_u64};
use crate::crash::crash_point;
use crate::engine::{Engine, PartitionGuard};
use crate::env::{Env, EnvFile, OpenHow};
use crate::error::{Error, Result, is_device_failure};
use crate::index::{ADDRESS_MASK, entry};
use crate::layout::{ADDRESS_BITS, SEGMENT_NUMBER_MAX, Segment, class, state};
use crate::record::{self, LINK_OFFSET, SEQUENCE_MAX, Word0, kind};
use crate::superblock::temporary_path;
use crate::waiting::check_cancelled;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const MAGIC: &[u8; 8] = b"THERMAEK";
const FILES: u64 = 2;

const SEQUENCE_OFFSET: usize = BLOCK_FIELDS_OFFSET;
const NEXT_SEGMENT_OFFSET: usize = 48;
const HASH_SEED_OFFSET: usize = 56;
const PARTITIONS_OFFSET: usize = 64;
const SEGMENTS_OFFSET: usize = 68;

const CHUNK_HEADER_BYTES: usize = 16;
const CHUNK_BYTES_MAX: usize = 1 << 20;
const CHUNK_SEGMENTS: u32 = 1;
const CHUNK_ENTRIES: u32 = 2;
const CHUNK_FOOTER: u32 = 3;

const SEGMENT_BYTES: usize = 64;
const FOOTER_BYTES: usize = 24;

/// Log bytes after which a checkpoint is worth its writing, at least.
const DUE_BYTES: u64 = 64 << 20;

/// A segment as it was when a checkpoint began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotedSegment {
    pub segment_id: u64,
    pub tail: u32,
    pub live_bytes: u32,
    pub tombstone_bytes: u32,
    pub state: u32,
    pub class: u32,
    pub sequence_min: u64,
    pub sequence_max: u64,
    pub next_expiry_ms: u64,
    pub last_expiry_ms: u64,
    /// Of an extent: hash of the key whose value it is a part of.
    pub key_hash: u64,
}

impl NotedSegment {
    fn encode(&self) -> [u8; SEGMENT_BYTES] {
        let mut bytes = [0; SEGMENT_BYTES];
        bytes[..8].copy_from_slice(&self.segment_id.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.tail.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.live_bytes.to_le_bytes());
        bytes[16..18].copy_from_slice(&(self.state as u16).to_le_bytes());
        bytes[18..20].copy_from_slice(&(self.class as u16).to_le_bytes());
        bytes[20..24].copy_from_slice(&self.tombstone_bytes.to_le_bytes());
        let words =
            [self.sequence_min, self.sequence_max, self.next_expiry_ms, self.last_expiry_ms, self.key_hash];
        for (word, place) in words.iter().zip(bytes[24..].chunks_exact_mut(8)) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Self {
        Self {
            segment_id: get_u64(bytes, 0),
            tail: get_u32(bytes, 8),
            live_bytes: get_u32(bytes, 12),
            state: get_u32(bytes, 16) & 0xffff,
            class: get_u32(bytes, 16) >> 16,
            tombstone_bytes: get_u32(bytes, 20),
            sequence_min: get_u64(bytes, 24),
            sequence_max: get_u64(bytes, 32),
            next_expiry_ms: get_u64(bytes, 40),
            last_expiry_ms: get_u64(bytes, 48),
            key_hash: get_u64(bytes, 56),
        }
    }
}

/// The log's ends at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Barrier {
    /// Last sequence number given out.
    pub sequence: u64,
    /// The number that the next segment gets.
    pub next_segment: u64,
    /// Segments of the log and extents; no cache segments.
    pub segments: Vec<NotedSegment>,
}

/// A checkpoint as read back.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub barrier: Barrier,
    /// Everything up to this sequence number was durable when the checkpoint was completed.
    pub durable_sequence: u64,
    /// Where each partition's entries begin, and where the last one's end.
    pub starts: Vec<usize>,
    /// The entries, by partition.
    pub entries: Vec<u64>,
}

/// What one of the two files turns out to be.
#[derive(Debug)]
pub(crate) enum Found {
    /// There is none.
    Absent,
    /// It is damaged, for this reason.
    Damaged(String),
    /// It is complete.
    Whole(Box<Checkpoint>),
}

/// The name of the file with an even or odd generation.
pub(crate) fn checkpoint_path(directory: &Path, generation: u64) -> PathBuf {
    directory.join(format!("checkpoint.{}", generation % FILES))
}

/// When the next of a segment's records expires. Whoever looks for expired ones takes that moment away for so long; one that was written down as
/// if there were none would never come.
fn next_expiry_ms(segment: &Segment) -> u64 {
    let done_ms = segment.expired_until_ms.load(Ordering::Relaxed);
    match segment.next_expiry_ms.load(Ordering::Acquire) {
        u64::MAX if segment.last_expiry_ms.load(Ordering::Relaxed) > done_ms => done_ms,
        next_ms => next_ms,
    }
}

impl Engine {
    /// Whether enough was written since the last checkpoint for the next one to pay.
    pub fn is_checkpoint_due(&self) -> bool {
        let globals = self.globals();
        if !self.is_flushed() || self.read_only || globals.writes_stopped.load(Ordering::Relaxed) != 0 {
            return false;
        }
        let written = globals
            .log_bytes
            .load(Ordering::Relaxed)
            .wrapping_sub(globals.checkpoint_log_bytes.load(Ordering::Relaxed));
        // What no checkpoint covers can't be evicted: several must fit into the cold tier.
        let tier_share = u64::from(self.geometry.durable_frames()) * u64::from(self.geometry.frame_bytes) / 8;
        written > DUE_BYTES.max(2 * self.index_bytes().0).min(tier_share)
    }

    /// The log's ends now.
    pub(crate) fn note_barrier(&self) -> Barrier {
        let globals = self.globals();
        let heads = self.lock_heads();
        let sequence = self.last_sequence();
        let next_segment = globals.next_segment.load(Ordering::SeqCst);
        let segments = self
            .segments()
            .iter()
            .filter_map(|segment| {
                let noted = NotedSegment {
                    state: segment.state.load(Ordering::Acquire),
                    segment_id: segment.segment_id.load(Ordering::Acquire),
                    tail: segment.tail.load(Ordering::Acquire),
                    live_bytes: segment.live_bytes.load(Ordering::Relaxed),
                    tombstone_bytes: segment.tombstone_bytes.load(Ordering::Relaxed),
                    class: segment.class.load(Ordering::Relaxed),
                    sequence_min: segment.sequence_min.load(Ordering::Relaxed),
                    sequence_max: segment.sequence_max.load(Ordering::Relaxed),
                    next_expiry_ms: next_expiry_ms(segment),
                    last_expiry_ms: segment.last_expiry_ms.load(Ordering::Relaxed),
                    key_hash: segment.key_hash.load(Ordering::Relaxed),
                };
                let is_listed = matches!(
                    noted.state,
                    state::OPEN | state::CLOSED | state::EXTENT | state::EXTENT_PENDING
                );
                (is_listed && noted.class != class::CACHE).then_some(noted)
            })
            .collect();
        drop(heads);
        Barrier { sequence, next_segment, segments }
    }

    /// Hands the entries of every partition to `each`, cache copies replaced by their homes. Each partition is locked while it is copied, so
    /// whatever was reserved before the call and published is among them.
    pub(crate) fn dump_index(&self, each: &mut dyn FnMut(u32, &[u64]) -> Result<()>) -> Result<()> {
        let mut entries = Vec::new();
        for number in 0..self.geometry.partitions {
            check_cancelled()?;
            entries.clear();
            let guard = self.lock_partition(number);
            entries.extend(self.locked_entries(&guard).map(|(_, word)| self.durable_entry(&guard, word)));
            drop(guard);
            give_way();
            each(number, &entries)?;
        }
        Ok(())
    }

    /// An entry of a locked partition, or the one that leads to its record's home.
    fn durable_entry(&self, _guard: &PartitionGuard<'_>, word: u64) -> u64 {
        let Some((base, segment, offset)) = self.hot_record(word & ADDRESS_MASK) else { return word };
        if segment.class.load(Ordering::Relaxed) != class::CACHE {
            return word;
        }
        // SAFETY: hot_record checked that 32 bytes lie in the frame, which this entry keeps in use.
        let (first, link) =
            unsafe { (record::word0_at(base.add(offset)), record::word0_at(base.add(offset + LINK_OFFSET))) };
        if Word0::unpack(first.load(Ordering::Acquire)).kind() != kind::COPY {
            return word;
        }
        entry(word >> ADDRESS_BITS, link.load(Ordering::Acquire) & ADDRESS_MASK)
    }

    /// Writes a checkpoint and makes it the one that recovery uses. What the one before it covers may be dropped from the log from then on.
    ///
    /// # Errors
    /// Io; those of the flush that completes it. The checkpoint before it stays valid.
    pub fn write_checkpoint(&self) -> Result<()> {
        self.write_checkpoint_after(|| self.flush_all_copies())
    }

    /// The same, for the keeper: nobody waits for it, so no flush is made for it if one comes anyway.
    ///
    /// # Errors
    /// As [`Engine::write_checkpoint`].
    pub(crate) fn write_checkpoint_at_leisure(&self) -> Result<()> {
        self.write_checkpoint_after(|| self.await_flush_of_copies())
    }

    /// Makes the flush that a checkpoint under way may be waiting for, on behalf of who can make no room before that checkpoint is written.
    ///
    /// # Errors
    /// WritesStopped after a failed write or sync.
    pub(crate) fn hasten_checkpoint(&self) -> Result<()> {
        self.flush_once().map(drop)
    }

    fn write_checkpoint_after(&self, flush: impl Fn() -> Result<()>) -> Result<()> {
        if self.durable.is_none() {
            return Ok(());
        }
        self.check_writable()?;
        let globals = self.globals();
        // A dead writer leaves at most a file under its temporary name, which the next one replaces.
        let _guard = self.lock(&globals.checkpoint_lock, |_| {});
        let log_bytes = globals.log_bytes.load(Ordering::Relaxed);
        let directory = &self.paths.directory;
        let before = (0..FILES)
            .filter_map(|file| {
                read_header(&*self.env, &checkpoint_path(directory, file), &self.superblock.uuid)
            })
            .max();
        let generation = before.map_or(0, |(generation, _)| generation) + 1;
        let barrier = self.note_barrier();
        self.write_checkpoint_file(
            &checkpoint_path(directory, generation),
            &self.superblock.uuid,
            generation,
            &barrier,
            &mut || {
                let durable_sequence = self.last_sequence();
                // Also where that is durable already: the index may lead to copies of older records, made since the last flush.
                flush()?;
                self.wait_durable(durable_sequence)?;
                Ok(durable_sequence)
            },
        )?;
        self.env.sync_dir(directory).map_err(|source| Error::io("sync the directory", directory, source))?;
        crash_point!("checkpoint.renamed");
        globals.checkpoint_log_bytes.store(log_bytes, Ordering::Relaxed);
        if let Some((_, covered)) =
            before.filter(|&(_, covered)| covered > globals.checkpoint_sequence.load(Ordering::SeqCst))
        {
            // Said first, dropped after: the log alone no longer tells all up to here.
            self.update_superblock(|superblock| {
                superblock.tombstone_floor = superblock.tombstone_floor.max(covered);
            })?;
            crash_point!("checkpoint.floor_raised");
            globals.checkpoint_sequence.fetch_max(covered, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Writes both checkpoints anew, so that all that is deleted, expired or cold now may be dropped from the log.
    ///
    /// # Errors
    /// As [`Engine::write_checkpoint`].
    pub(crate) fn cover_log(&self) -> Result<()> {
        self.write_checkpoint()?;
        self.write_checkpoint()
    }

    /// Writes a checkpoint of the index under `path`, through a temporary name, for the store `uuid`; `end` is called after the dump, and
    /// returns the sequence number up to which the checkpoint needs the log, once that is or will be durable.
    pub(crate) fn write_checkpoint_file(
        &self,
        path: &Path,
        uuid: &[u8; 16],
        generation: u64,
        barrier: &Barrier,
        end: &mut dyn FnMut() -> Result<u64>,
    ) -> Result<u64> {
        let temporary = temporary_path(path);
        let written =
            self.write_temporary(&temporary, uuid, generation, barrier, end).and_then(|durable_sequence| {
                self.env
                    .rename(&temporary, path)
                    .map_err(|source| Error::io("rename a new file to", path, source))?;
                Ok(durable_sequence)
            });
        if written.is_err() {
            // The first failure is the one to report; what is left over is replaced by the next attempt.
            let _ = self.env.remove_file(&temporary);
        }
        written
    }

    fn write_temporary(
        &self,
        path: &Path,
        uuid: &[u8; 16],
        generation: u64,
        barrier: &Barrier,
        end: &mut dyn FnMut() -> Result<u64>,
    ) -> Result<u64> {
        let file =
            self.env.open(path, OpenHow::REPLACE).map_err(|source| Error::io("create", path, source))?;
        let mut header = Block::new(MAGIC, generation, uuid);
        header.put_u64(SEQUENCE_OFFSET, barrier.sequence);
        header.put_u64(NEXT_SEGMENT_OFFSET, barrier.next_segment);
        header.put_u64(HASH_SEED_OFFSET, self.hash_seed);
        header.put_u32(PARTITIONS_OFFSET, self.geometry.partitions);
        header.put_u32(SEGMENTS_OFFSET, barrier.segments.len() as u32);
        header.seal();
        let mut writer =
            ChunkWriter { file, path, position: 0, seed: chunk_seed(uuid, generation), number: 0 };
        writer.put(&header.0[..])?;
        let mut payload = Vec::with_capacity(CHUNK_BYTES_MAX);
        for segment in &barrier.segments {
            if payload.len() + SEGMENT_BYTES > CHUNK_BYTES_MAX {
                writer.chunk(CHUNK_SEGMENTS, &mut payload)?;
            }
            payload.extend_from_slice(&segment.encode());
        }
        writer.chunk(CHUNK_SEGMENTS, &mut payload)?;
        let mut count = 0_u64;
        self.dump_index(&mut |partition, entries| {
            if entries.is_empty() {
                return Ok(());
            }
            if payload.len() + 8 + entries.len() * 8 > CHUNK_BYTES_MAX {
                writer.chunk(CHUNK_ENTRIES, &mut payload)?;
            }
            payload.extend_from_slice(&partition.to_le_bytes());
            payload.extend_from_slice(&(entries.len() as u32).to_le_bytes());
            entries.iter().for_each(|entry| payload.extend_from_slice(&entry.to_le_bytes()));
            count += entries.len() as u64;
            Ok(())
        })?;
        writer.chunk(CHUNK_ENTRIES, &mut payload)?;
        crash_point!("checkpoint.dumped");
        let durable_sequence = end()?;
        for word in [durable_sequence, count, u64::from(writer.number)] {
            payload.extend_from_slice(&word.to_le_bytes());
        }
        writer.chunk(CHUNK_FOOTER, &mut payload)?;
        writer.file.sync_all().map_err(|source| Error::io("sync", path, source))?;
        drop_cached_in_pieces(&*writer.file, 0, writer.position);
        crash_point!("checkpoint.synced");
        Ok(durable_sequence)
    }
}

/// Appends checksummed chunks to a file.
struct ChunkWriter<'a> {
    file: Arc<dyn EnvFile>,
    path: &'a Path,
    position: u64,
    seed: u32,
    number: u32,
}

impl ChunkWriter<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        write_in_pieces(&*self.file, bytes, self.position)
            .map_err(|source| Error::io("write", self.path, source))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Writes a chunk and empties its payload.
    fn chunk(&mut self, chunk_kind: u32, payload: &mut Vec<u8>) -> Result<()> {
        let header = encode_chunk_header(self.seed, chunk_kind, self.number, payload);
        self.put(&header)?;
        self.put(payload)?;
        self.number += 1;
        payload.clear();
        Ok(())
    }
}

/// Chunks carry the store and the generation in their checksums: one of another file is never taken for this one's.
fn chunk_seed(uuid: &[u8; 16], generation: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(uuid), &generation.to_le_bytes())
}

fn encode_chunk_header(seed: u32, chunk_kind: u32, number: u32, payload: &[u8]) -> [u8; CHUNK_HEADER_BYTES] {
    let mut header = [0; CHUNK_HEADER_BYTES];
    header[..4].copy_from_slice(&chunk_kind.to_le_bytes());
    header[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    header[8..12].copy_from_slice(&number.to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c_append(seed, &header[..12]), payload);
    header[12..].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// Generation of a checkpoint file, and the sequence number at its start.
fn read_header(env: &dyn Env, path: &Path, uuid: &[u8; 16]) -> Option<(u64, u64)> {
    let file = env.open(path, OpenHow::READ).ok()?;
    let mut block = Block::zeroed();
    file.read_exact_at(&mut block.0[..], 0).ok()?;
    (block.state(MAGIC) == BlockState::Valid && block.identity() == *uuid)
        .then(|| (block.generation(), block.u64(SEQUENCE_OFFSET)))
}

/// Reads a checkpoint file and verifies all of it.
///
/// # Errors
/// Io: a file that can't be read now may be whole.
pub(crate) fn read_checkpoint(engine: &Engine, path: &Path) -> Result<Found> {
    let file = match engine.env.open(path, OpenHow::READ) {
        Ok(file) => file,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Found::Absent),
        Err(source) => return Err(Error::io("open", path, source)),
    };
    let read_all = || {
        let payload = Vec::new();
        ChunkReader { file: file.clone(), position: 0, seed: 0, number: 0, payload }.read_all(engine)
    };
    let read = match read_all() {
        // Not everything that fails once is lost.
        Err(Unreadable::Io(source)) if is_device_failure(&source) => read_all(),
        read => read,
    };
    match read {
        Ok(checkpoint) => Ok(Found::Whole(Box::new(checkpoint))),
        Err(Unreadable::Damaged(reason)) => Ok(Found::Damaged(reason)),
        Err(Unreadable::Io(source)) if source.kind() == io::ErrorKind::UnexpectedEof => {
            Ok(Found::Damaged("it was cut short".into()))
        }
        // The other file, or the log, tells the same: no reason to serve nothing.
        Err(Unreadable::Io(source)) if is_device_failure(&source) => {
            Ok(Found::Damaged(format!("it can't be read ({source})")))
        }
        Err(Unreadable::Io(source)) => Err(Error::io("read", path, source)),
    }
}

enum Unreadable {
    Damaged(String),
    Io(io::Error),
}

impl From<io::Error> for Unreadable {
    fn from(source: io::Error) -> Self {
        Self::Io(source)
    }
}

fn damaged<T>(reason: impl Into<String>) -> std::result::Result<T, Unreadable> {
    Err(Unreadable::Damaged(reason.into()))
}

struct ChunkReader {
    file: Arc<dyn EnvFile>,
    position: u64,
    seed: u32,
    number: u32,
    payload: Vec<u8>,
}

impl ChunkReader {
    /// Reads the next chunk's payload; returns its kind.
    fn next(&mut self) -> std::result::Result<u32, Unreadable> {
        let mut header = [0; CHUNK_HEADER_BYTES];
        self.file.read_exact_at(&mut header, self.position)?;
        let len = get_u32(&header, 4) as usize;
        if len > CHUNK_BYTES_MAX {
            return damaged(format!("chunk {} claims {len} bytes", self.number));
        }
        self.payload.resize(len, 0);
        self.file.read_exact_at(&mut self.payload, self.position + CHUNK_HEADER_BYTES as u64)?;
        let chunk_kind = get_u32(&header, 0);
        if header != encode_chunk_header(self.seed, chunk_kind, self.number, &self.payload) {
            return damaged(format!("chunk {} does not match its checksum", self.number));
        }
        self.position += (CHUNK_HEADER_BYTES + len) as u64;
        self.number += 1;
        Ok(chunk_kind)
    }

    fn read_all(&mut self, engine: &Engine) -> std::result::Result<Checkpoint, Unreadable> {
        let mut header = Block::zeroed();
        self.file.read_exact_at(&mut header.0[..], 0)?;
        let is_ours = header.state(MAGIC) == BlockState::Valid
            && header.identity() == engine.superblock.uuid
            && header.u64(HASH_SEED_OFFSET) == engine.hash_seed
            && header.u32(PARTITIONS_OFFSET) == engine.geometry.partitions;
        if !is_ours {
            return damaged("its header is damaged, or another store's");
        }
        self.position = BLOCK_BYTES as u64;
        self.seed = chunk_seed(&engine.superblock.uuid, header.generation());
        let mut checkpoint = Checkpoint {
            barrier: Barrier {
                sequence: header.u64(SEQUENCE_OFFSET),
                next_segment: header.u64(NEXT_SEGMENT_OFFSET),
                segments: Vec::new(),
            },
            durable_sequence: 0,
            starts: Vec::with_capacity(engine.geometry.partitions as usize + 1),
            entries: Vec::new(),
        };
        loop {
            match self.next()? {
                CHUNK_SEGMENTS if self.payload.len().is_multiple_of(SEGMENT_BYTES) => {
                    checkpoint
                        .barrier
                        .segments
                        .extend(self.payload.chunks_exact(SEGMENT_BYTES).map(NotedSegment::decode));
                }
                CHUNK_ENTRIES => self.take_entries(engine, &mut checkpoint)?,
                CHUNK_FOOTER if self.payload.len() == FOOTER_BYTES => break,
                _ => return damaged(format!("chunk {} is of no known kind", self.number - 1)),
            }
        }
        let is_complete = get_u64(&self.payload, 8) == checkpoint.entries.len() as u64
            && get_u64(&self.payload, 16) + 1 == u64::from(self.number)
            && header.u32(SEGMENTS_OFFSET) as usize == checkpoint.barrier.segments.len();
        checkpoint.durable_sequence = get_u64(&self.payload, 0);
        if !is_complete || checkpoint.durable_sequence < checkpoint.barrier.sequence {
            return damaged("its footer contradicts what precedes it");
        }
        if checkpoint.durable_sequence > SEQUENCE_MAX || checkpoint.barrier.next_segment > SEGMENT_NUMBER_MAX
        {
            return damaged("it counts further than any store can have come");
        }
        checkpoint.starts.resize(engine.geometry.partitions as usize + 1, checkpoint.entries.len());
        Ok(checkpoint)
    }

    fn take_entries(
        &self,
        engine: &Engine,
        checkpoint: &mut Checkpoint,
    ) -> std::result::Result<(), Unreadable> {
        let mut rest = &self.payload[..];
        while !rest.is_empty() {
            if rest.len() < 8 {
                return damaged("a partition is cut short");
            }
            let (partition, count) = (get_u32(rest, 0), get_u32(rest, 4) as usize);
            let is_next =
                partition < engine.geometry.partitions && partition as usize >= checkpoint.starts.len();
            if !is_next || rest.len() < 8 + count * 8 {
                return damaged(format!("partition {partition} is out of place"));
            }
            checkpoint.starts.resize(partition as usize + 1, checkpoint.entries.len());
            checkpoint.entries.extend(rest[8..8 + count * 8].chunks_exact(8).map(|bytes| get_u64(bytes, 0)));
            rest = &rest[8 + count * 8..];
        }
        Ok(())
    }
}

/// Copies a checkpoint file, verifying all of it, and gives the copy another store's identity.
///
/// # Errors
/// Corrupt where it is damaged; Io.
pub(crate) fn copy_checkpoint(
    env: &dyn Env,
    from: &Path,
    to: &Path,
    old_uuid: &[u8; 16],
    new_uuid: &[u8; 16],
) -> Result<()> {
    let file = env.open(from, OpenHow::READ).map_err(|source| Error::io("open", from, source))?;
    let mut header = Block::zeroed();
    let mut reader =
        ChunkReader { file, position: BLOCK_BYTES as u64, seed: 0, number: 0, payload: Vec::new() };
    let unreadable = |problem: Unreadable| match problem {
        Unreadable::Io(source) if source.kind() != io::ErrorKind::UnexpectedEof => {
            Error::io("read", from, source)
        }
        Unreadable::Io(_) => Error::corrupt(format!(
            "{} was cut short: take another snapshot, or restore an older one",
            from.display()
        )),
        Unreadable::Damaged(reason) => Error::corrupt(format!(
            "{} is damaged ({reason}): take another snapshot, or restore an older one",
            from.display()
        )),
    };
    reader.file.read_exact_at(&mut header.0[..], 0).map_err(|source| unreadable(source.into()))?;
    if header.state(MAGIC) != BlockState::Valid || header.identity() != *old_uuid {
        return Err(unreadable(Unreadable::Damaged(
            "its header does not match its checksum, or is another store's".to_owned(),
        )));
    }
    let generation = header.generation();
    reader.seed = chunk_seed(old_uuid, generation);
    let target = env.open(to, OpenHow::REPLACE).map_err(|source| Error::io("create", to, source))?;
    let mut writer = ChunkWriter {
        file: target,
        path: to,
        position: 0,
        seed: chunk_seed(new_uuid, generation),
        number: 0,
    };
    let mut copy = Block::new(MAGIC, generation, new_uuid);
    copy.0[BLOCK_FIELDS_OFFSET..].copy_from_slice(&header.0[BLOCK_FIELDS_OFFSET..]);
    copy.seal();
    writer.put(&copy.0[..])?;
    loop {
        let chunk_kind = reader.next().map_err(unreadable)?;
        let mut payload = std::mem::take(&mut reader.payload);
        writer.chunk(chunk_kind, &mut payload)?;
        if chunk_kind == CHUNK_FOOTER {
            return writer.file.sync_all().map_err(|source| Error::io("sync", to, source));
        }
    }
}

/// Removes checkpoints that a recovery could not use, durably. One that is damaged behind its header would pass for the newest whole one, and the next
/// one would be written over the one that is left.
pub(crate) fn remove_checkpoints(env: &dyn Env, directory: &Path, paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        match env.remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", path, source));
            }
            _ => {}
        }
    }
    if paths.is_empty() {
        return Ok(());
    }
    env.sync_dir(directory).map_err(|source| Error::io("sync the directory", directory, source))
}

/// The two files, the newer generation first.
pub(crate) fn checkpoint_files(engine: &Engine) -> Vec<PathBuf> {
    let directory = &engine.paths.directory;
    let mut files: Vec<(Option<(u64, u64)>, PathBuf)> = (0..FILES)
        .map(|file| checkpoint_path(directory, file))
        .map(|path| (read_header(&*engine.env, &path, &engine.superblock.uuid), path))
        .collect();
    files.sort_unstable_by(|left, right| right.cmp(left));
    files.into_iter().map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noted_segment_reads_back() {
        let noted = NotedSegment {
            segment_id: 1 << 40 | 3,
            tail: 4,
            live_bytes: 5,
            tombstone_bytes: 6,
            state: state::EXTENT,
            class: class::TTL + 8,
            sequence_min: 7,
            sequence_max: 8,
            next_expiry_ms: u64::MAX,
            last_expiry_ms: 9,
            key_hash: 10,
        };
        assert_eq!(NotedSegment::decode(&noted.encode()), noted);
    }

    #[test]
    fn a_chunk_belongs_to_its_store_its_generation_and_its_place() {
        let header = |uuid: u8, generation, number, payload: &[u8]| {
            encode_chunk_header(chunk_seed(&[uuid; 16], generation), CHUNK_ENTRIES, number, payload)
        };
        let this = header(1, 2, 3, b"payload");
        assert_eq!(this, header(1, 2, 3, b"payload"));
        for other in [
            header(9, 2, 3, b"payload"),
            header(1, 9, 3, b"payload"),
            header(1, 2, 9, b"payload"),
            header(1, 2, 3, b"Payload"),
        ] {
            assert_ne!(this[12..], other[12..]);
        }
    }
}
