//! Snapshots: a consistent copy of a store while writers go on.
//!
//! A snapshot shows the store as of a sequence number S: the log up to there, and the index as a checkpoint. It is a complete store's
//! directory, so it can be opened where it lies. No fork, and no memory that grows with the data: one frame, and a few bytes per segment.
//!
//! 1. The snapshot lock is taken. From then on deletes leave tombstones, and no retired slot is freed that the snapshot may need; whatever was
//!    retired before is not in it. The lock's owner is the snapshot: when that dies, both end by themselves.
//! 2. A checkpoint is written: the log's ends, then the index partition by partition, while writes go on.
//! 3. With all heads locked for a moment, S is the last sequence number given out; segments opened later hold nothing up to it.
//! 4. Each segment is copied, and may be freed from then on; retired ones come first, because somebody may wait for their frames. A record that
//!    a writer is still at is waited for if it is not newer than S; what is newer becomes a hole in the copy.
//! 5. Watermark, superblock (a new identity, the sequence limit S), and one rename: a snapshot is there whole or not at all.
//!
//! So what the copy holds depends on S alone, not on how long copying took. A store without a cold tier gets one in its snapshot; the file
//! ends after the frames in use, and gets its full length when it is first opened or restored.
//!
//! Rejected: pinning all segments from the start. Pins keep hot frames where they are, and a full store could demote nothing until it
//! was copied. Rejected: copying the frames as they are and cutting at S on recovery. Every later recovery would have to know S.

use crate::background::{PIECE_BYTES, give_way, give_way_at};
use crate::checkpoint::Barrier;
use crate::crash::crash_point;
use crate::durable::cold_geometry;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::frame_file::{FrameFile, FrameKind, FrameRecord};
use crate::layout::{Place, RESERVE_FRAMES, SEGMENT_HEADER_BYTES, SLOT_BITS, Shape, class, state};
use crate::lock::SharedLock;
use crate::open;
use crate::options::{IndexPlacement, Resolved};
use crate::record::{self, Word0, kind};
use crate::staged::Staged;
use crate::store::Store;
use crate::superblock::Superblock;
use crate::waiting::{before_wait, check_cancelled};
use serde::Serialize;
use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a snapshot waits for one record that a living writer is at.
const SETTLE_MAX: Duration = Duration::from_secs(10);
/// Segments copied between two looks for retired ones, whose frames somebody may be waiting for.
const COPIES_PER_LOOK: usize = 16;
/// How often a snapshot looks whether the one before it is done.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// So much is copied between two syncs: none of them lasts long, and no more than that is kept in the system's memory.
const SYNC_EVERY_BYTES: u64 = 32 << 20;
/// Attempts to copy a segment that moves between the tiers meanwhile.
const ATTEMPTS_MAX: u32 = 100;

/// What a snapshot came to.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotReport {
    /// Where it is.
    pub directory: String,
    /// The snapshot shows the store as of this sequence number.
    pub sequence: u64,
    /// Segments copied.
    pub segments: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// How long it took.
    pub milliseconds: u64,
    /// Segments of which a part could not be verified. They were copied as they are; `check` tells more.
    pub damaged: Vec<String>,
}

/// The snapshot lock, held.
struct Held<'a>(&'a SharedLock);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.unlock();
    }
}

/// One segment that belongs to the snapshot.
#[derive(Debug, Clone, Copy)]
struct Planned {
    slot: u32,
    segment_id: u64,
}

impl Store {
    /// Copies the store into a new directory, as of one moment, while others go on reading and writing.
    ///
    /// # Errors
    /// ReadOnly, Closed; InvalidOption where the directory is not new or empty; Timeout where a stopped process does not finish
    /// a record; Cancelled; Io. Nothing is left behind.
    pub fn snapshot(&self, directory: &Path) -> Result<SnapshotReport> {
        self.snapshot_with(directory, &mut |_, _| {})
    }

    /// The same; `progress` is told how many segments are copied, of how many.
    ///
    /// # Errors
    /// As [`Store::snapshot`].
    pub fn snapshot_with(
        &self,
        directory: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<SnapshotReport> {
        let engine = self.engine();
        engine.check_usable()?;
        if engine.read_only {
            // It could not tell the others what must not be freed.
            return Err(Error::ReadOnly(format!(
                "{} was opened read-only, and a snapshot has to hold on to what it copies: open it without read_only to take one",
                engine.paths.location
            )));
        }
        let staged = Staged::begin(&*engine.env, directory)?;
        let report = engine.snapshot_into(&staged.temporary, directory, progress)?;
        staged.finish(directory)?;
        Ok(report)
    }
}

/// Cold frames that a store needs for so many segments: the reserves, and some to begin with.
pub(crate) fn frames_for(segments: u64) -> u64 {
    segments + 2 * u64::from(RESERVE_FRAMES) + 4
}

/// A snapshot's cold tier is the store's own, unless what is hot or warm has to fit too and does not: then it is one with room to spare.
/// It has no warm tier: it is a copy to be put away.
fn snapshot_options(options: &Resolved, segments: u64) -> Resolved {
    let frame_bytes = u64::from(options.frame_bytes);
    let needed = frames_for(segments) * frame_bytes;
    let cold_bytes = if options.cold_bytes >= needed {
        options.cold_bytes
    } else {
        needed.max(options.hot_bytes) + (options.hot_bytes / 8).next_multiple_of(frame_bytes)
    };
    Resolved { warm_bytes: 0, cold_bytes, index: IndexPlacement::Hot, ..*options }
}

impl Engine {
    fn snapshot_into(
        &self,
        temporary: &Path,
        directory: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<SnapshotReport> {
        let started = Instant::now();
        let globals = self.globals();
        let _held = self.lock_snapshots()?;
        // Before the barrier is noted: from here on nothing is freed that is alive at or after it.
        globals.snapshot_end.store(u64::MAX, Ordering::SeqCst);
        let number = globals.snapshot_number.fetch_add(1, Ordering::SeqCst) + 1;
        let uuid = self.env.random_bytes_16();
        let barrier = self.note_barrier();
        let mut end = u64::MAX;
        let sequence =
            self.write_checkpoint_file(&temporary.join("checkpoint.0"), &uuid, 2, &barrier, &mut || {
                let heads = self.lock_heads();
                let sequence = globals.next_sequence.load(Ordering::SeqCst).saturating_sub(1);
                end = globals.next_segment.load(Ordering::SeqCst);
                drop(heads);
                globals.snapshot_end.store(end, Ordering::SeqCst);
                Ok(sequence)
            })?;
        crash_point!("snapshot.dumped");
        let planned = self.plan_copies(&barrier, end, number);
        let current = Superblock::read(&*self.env, &self.paths.superblock)?;
        let options = snapshot_options(&current.options, planned.len() as u64);
        // Segments keep their slots: addresses and identities name them.
        let slots_min = planned.iter().map(|planned| planned.slot + 1).max().unwrap_or(0);
        let shape = Shape { partitions: current.partitions, slots_min };
        let geometry = open::geometry_of(&options, Some(shape))?;
        let cold_geometry = cold_geometry(uuid, geometry.frame_bytes, geometry.cold_frames);
        let pool = FrameFile::create_partial(
            &*self.env,
            &temporary.join("cold"),
            cold_geometry,
            planned.len() as u32,
        )?;
        let mut copier = Copier {
            engine: self,
            pool: &pool,
            sequence,
            number,
            buffer: Vec::new(),
            frame: 0,
            synced_frame: 0,
            bytes: 0,
            synced_bytes: 0,
            damaged: Vec::new(),
        };
        copier.copy_all(planned, progress)?;
        pool.write_watermark(sequence)?;
        copier.sync()?;
        let (segments, bytes, damaged) = (u64::from(copier.frame), copier.bytes, copier.damaged);
        let superblock = Superblock {
            uuid,
            created_wall_ms: self.env.wall_time_ms(),
            slot_count: geometry.slots,
            // 0 would mean no limit; an empty store has no record up to 1 either.
            sequence_limit: sequence.max(1),
            // Tombstones up to the checkpoint are not needed, and another checkpoint of the original may have been written since.
            tombstone_floor: barrier.sequence,
            options,
            warm_directory: None,
            memory_id: [0; 16],
            ..current
        };
        superblock.create(&*self.env, &temporary.join("store"))?;
        Ok(SnapshotReport {
            directory: directory.display().to_string(),
            sequence,
            segments,
            bytes,
            milliseconds: started.elapsed().as_millis() as u64,
            damaged,
        })
    }

    /// One snapshot at a time, which may be long for the next one.
    fn lock_snapshots(&self) -> Result<Held<'_>> {
        let lock = &self.globals().snapshot_lock;
        while lock.try_lock_or_inherit(self.member.lock_word(), |slot| self.member.is_alive(slot)).is_none() {
            check_cancelled()?;
            before_wait();
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(Held(lock))
    }

    /// The segments that may hold something of the snapshot. All others are released.
    fn plan_copies(&self, barrier: &Barrier, end: u64, number: u64) -> Vec<Planned> {
        let noted: HashSet<u64> = barrier.segments.iter().map(|noted| noted.segment_id).collect();
        let mut planned = Vec::new();
        for (slot, segment) in self.segments().iter().enumerate() {
            let segment_id = segment.segment_id.load(Ordering::SeqCst);
            let is_older = segment_id != 0 && segment_id >> SLOT_BITS < end;
            let holds_something = match segment.state.load(Ordering::SeqCst) {
                state::OPEN | state::CLOSED | state::EXTENT | state::EXTENT_PENDING => true,
                // What was retired before the barrier was superseded or dropped by then, and its bytes may be gone.
                state::RETIRED => {
                    segment_id >> SLOT_BITS >= barrier.next_segment || noted.contains(&segment_id)
                }
                _ => false,
            };
            let is_copied = !matches!(segment.class.load(Ordering::Relaxed), class::CACHE | class::MOVED);
            if is_older && holds_something && is_copied {
                planned.push(Planned { slot: slot as u32, segment_id });
            } else if is_older {
                segment.snapshot_copied.store(number, Ordering::SeqCst);
            }
        }
        // In the order in which they were opened: that is about the order in which they are retired.
        planned.sort_unstable_by_key(|planned| planned.segment_id);
        planned
    }
}

/// Copies segments into a snapshot's frames.
struct Copier<'a> {
    engine: &'a Engine,
    pool: &'a FrameFile,
    sequence: u64,
    number: u64,
    buffer: Vec<u8>,
    frame: u32,
    synced_frame: u32,
    bytes: u64,
    synced_bytes: u64,
    damaged: Vec<String>,
}

impl Copier<'_> {
    fn copy_all(&mut self, mut planned: Vec<Planned>, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let total = planned.len() as u64;
        // Taken from the end.
        planned.reverse();
        while !planned.is_empty() {
            let is_retired = |planned: &Planned| {
                self.engine.segment(planned.slot).state.load(Ordering::Acquire) == state::RETIRED
            };
            let (retired, rest): (Vec<Planned>, Vec<Planned>) = planned.into_iter().partition(is_retired);
            planned = rest;
            let later = planned.len().saturating_sub(COPIES_PER_LOOK);
            for planned in retired.into_iter().chain(planned.split_off(later).into_iter().rev()) {
                check_cancelled()?;
                self.copy(planned)?;
                self.engine.segment(planned.slot).snapshot_copied.store(self.number, Ordering::SeqCst);
            }
            progress(total - planned.len() as u64, total);
        }
        Ok(())
    }

    fn copy(&mut self, planned: Planned) -> Result<()> {
        let segment = self.engine.segment(planned.slot);
        if !self.read(planned)? {
            return Ok(());
        }
        let is_extent = segment.class.load(Ordering::Relaxed) == class::EXTENT;
        self.pool.write_in_pieces(self.frame, &self.buffer)?;
        self.pool.write_frame_record(
            self.frame,
            &FrameRecord {
                kind: if is_extent { FrameKind::Extent } else { FrameKind::LogSegment },
                class: segment.class.load(Ordering::Relaxed) as u8,
                segment_id: planned.segment_id,
                owner_sequence: 0,
                part: if is_extent { segment.part.load(Ordering::Relaxed) } else { 0 },
                parts: if is_extent { segment.parts.load(Ordering::Relaxed).max(1) } else { 1 },
                used_bytes: self.buffer.len() as u32,
                written_wall_ms: self.engine.env.wall_time_ms(),
            },
        )?;
        crash_point!("snapshot.copied");
        self.frame += 1;
        self.bytes += self.buffer.len() as u64;
        if self.bytes - self.synced_bytes >= SYNC_EVERY_BYTES { self.sync() } else { Ok(()) }
    }

    /// Makes durable what was copied, and lets go of it.
    fn sync(&mut self) -> Result<()> {
        give_way();
        self.pool.sync()?;
        while self.synced_frame < self.frame {
            self.pool.drop_cached(self.synced_frame)?;
            self.synced_frame += 1;
        }
        self.synced_bytes = self.bytes;
        Ok(())
    }

    /// Fills the buffer with what the segment holds of the snapshot; false where that is nothing.
    fn read(&mut self, planned: Planned) -> Result<bool> {
        let segment = self.engine.segment(planned.slot);
        for _ in 0..ATTEMPTS_MAX {
            if segment.segment_id.load(Ordering::SeqCst) != planned.segment_id {
                // Held slots are not reused; this one was never published and was given up by whoever was setting it up.
                return Ok(false);
            }
            let len =
                (segment.tail.load(Ordering::SeqCst) as usize).min(self.engine.geometry.frame_bytes as usize);
            // A pin keeps the hot frame where it is while records in it are looked at, and settled.
            self.engine.pin(planned.slot);
            let place = Place::unpack(segment.place.load(Ordering::SeqCst));
            let read = match self.engine.pinned_base(planned.slot) {
                Some(base) => self.read_hot(planned, base, len).map(|()| true),
                None => self.read_cold(planned, place, len),
            };
            self.engine.unpin(planned.slot);
            if read? {
                return Ok(len > 0);
            }
        }
        Err(Error::corrupt(format!(
            "segment slot {} of {} is in neither tier; run `thermae check`",
            planned.slot, self.engine.paths.location
        )))
    }

    fn read_cold(&mut self, planned: Planned, place: Place, len: usize) -> Result<bool> {
        let segment = self.engine.segment(planned.slot);
        let (Some(durable), Some(frame)) = (&self.engine.durable, place.cold) else { return Ok(false) };
        self.buffer.resize(len, 0);
        let failure = durable.read_salvaging(frame, 0, &mut self.buffer)?;
        // Compared without the generation: a pin that came too late for a demotion changes that alone.
        let now = Place::unpack(segment.place.load(Ordering::SeqCst));
        if now.cold != place.cold {
            return Ok(false);
        }
        if segment.class.load(Ordering::Relaxed) != class::EXTENT {
            self.cut(planned, None)?;
        } else if failure.is_some() {
            self.note_damage(planned, 0)?;
        }
        Ok(true)
    }

    fn read_hot(&mut self, planned: Planned, base: *mut u8, len: usize) -> Result<()> {
        self.buffer.resize(len, 0);
        for (number, piece) in self.buffer.chunks_mut(PIECE_BYTES).enumerate() {
            give_way();
            // SAFETY: pinned, and the length was bounded by the frame. Bytes that a writer is still at are replaced below.
            unsafe {
                let from = base.add(number * PIECE_BYTES);
                std::ptr::copy_nonoverlapping(from, piece.as_mut_ptr(), piece.len());
            }
        }
        if self.engine.segment(planned.slot).class.load(Ordering::Relaxed) != class::EXTENT {
            self.cut(planned, Some(base))?;
        }
        Ok(())
    }

    /// Makes the buffer end with what belongs to the snapshot: records newer than its moment become holes.
    fn cut(&mut self, planned: Planned, base: Option<*mut u8>) -> Result<()> {
        let frame_bytes = self.engine.geometry.frame_bytes as usize;
        let mut offset = SEGMENT_HEADER_BYTES;
        let mut keep = SEGMENT_HEADER_BYTES.min(self.buffer.len());
        let mut records = 0;
        while offset < self.buffer.len() {
            give_way_at(records);
            records += 1;
            let Some((word, total)) =
                record::total_len(&self.buffer[offset..], offset, frame_bytes, self.buffer.len() - offset)
            else {
                return self.note_damage(planned, offset);
            };
            let sequence = self.sequence_at(offset);
            let whole = match word.kind() {
                kind::BATCH | kind::BATCH_PENDING => word.value_len as usize,
                _ => total,
            };
            if whole < total || whole > self.buffer.len() - offset {
                return self.note_damage(planned, offset);
            }
            if sequence > self.sequence {
                self.make_hole(planned, offset, whole);
                offset += whole;
                continue;
            }
            if matches!(word.kind(), kind::RESERVED | kind::BATCH_PENDING) {
                let Some(base) = base else { return self.note_damage(planned, offset) };
                self.settle(planned, base, offset, whole)?;
                continue;
            }
            if word.has_key() {
                let parsed = record::parse(&self.buffer[offset..offset + total], offset, frame_bytes);
                if parsed.is_none_or(|record| !record.is_intact(planned.segment_id)) {
                    self.note_damage(planned, offset)?;
                }
            }
            offset += total;
            keep = offset;
        }
        self.buffer.truncate(keep);
        Ok(())
    }

    fn sequence_at(&self, offset: usize) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&self.buffer[offset + 8..offset + 16]);
        u64::from_le_bytes(word)
    }

    fn make_hole(&mut self, planned: Planned, offset: usize, total: usize) {
        let hole = record::hole(planned.segment_id, self.sequence, total);
        self.buffer[offset..offset + total].fill(0);
        self.buffer[offset..offset + hole.len()].copy_from_slice(&hole);
    }

    /// Waits until a record that a writer is at is decided, and copies it again.
    fn settle(&mut self, planned: Planned, base: *mut u8, offset: usize, whole: usize) -> Result<()> {
        let until = Instant::now() + SETTLE_MAX;
        while self.engine.settle(base, offset, planned.segment_id).is_none() {
            // SAFETY: pinned, below the tail, and records are 8-byte aligned.
            let word = Word0::unpack(unsafe { record::word0_at(base.add(offset)) }.load(Ordering::Acquire));
            if !matches!(word.kind(), kind::RESERVED | kind::BATCH_PENDING) {
                break;
            }
            if Instant::now() > until {
                return Err(Error::Timeout(format!(
                    "a process that writes to {} has not finished a record for {} s: let it go on or end it, then take the snapshot again",
                    self.engine.paths.location,
                    SETTLE_MAX.as_secs()
                )));
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        // SAFETY: as in read_hot; the record is settled and `whole` bytes long at least.
        unsafe {
            std::ptr::copy_nonoverlapping(base.add(offset), self.buffer.as_mut_ptr().add(offset), whole);
        }
        Ok(())
    }

    fn note_damage(&mut self, planned: Planned, offset: usize) -> Result<()> {
        let name = format!(
            "segment {} (slot {}) from offset {offset} on",
            planned.segment_id >> SLOT_BITS,
            planned.slot
        );
        if self.damaged.last() != Some(&name) {
            self.damaged.push(name);
        }
        Ok(())
    }
}
