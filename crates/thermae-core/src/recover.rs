//! The shared half rebuilt from the durable one, after the machine died.
//!
//! 1. The frame table says which segment every cold frame holds; each goes back into its slot.
//! 2. The newest usable checkpoint gives the index as of a sequence number; what it does not cover is read (`replay`).
//! 3. Everything up to the recorded watermark W is there, or damaged. Above W the longest gap-free run of sequence numbers is kept, up to P: what
//!    survives is a prefix of history. A batch is cut off whole. So is a large value whose extents did not reach the disk, unless
//!    something later replaced it anyway.
//! 4. Of each key's records the greatest sequence number counts; a tombstone removes the key.
//! 5. The index is filled, extents that no record names are freed, and so are segments in which nothing counts.
//!
//! **What is cut off must stay off.** Numbers above P are given out again, so a later recovery must not find the records that had them. They are
//! overwritten before anything else happens: a header of 24 bytes turns one into space that says nothing, and in a segment of fresh
//! writes, where numbers only grow, the first one that is cut off takes the rest of the frame with it. Then, synced before, P becomes
//! the recorded watermark, and only then are frames freed. So a recovery that dies at any point leaves the next one the same
//! answer: before P is recorded the gap above P is still there and nothing below it was touched; afterwards nothing above P is left.
//!
//! **Segments that a dead machine had retired** may come back, for a free frame is not wiped. Those numbered below the checkpoint's counter and
//! absent from its table are ignored; of two that claim one slot, the later one counts; and what is in the others loses to what
//! superseded it (see `flush`).
//!
//! Speed: threads share the segments, then groups of partitions. No record is read twice.
//!
//! Live bytes of segments that a checkpoint covers are those it noted, less what was replaced since: a hint, as always.

use crate::block::{get_u32, get_u64};
use crate::checkpoint::{self, Checkpoint, NotedSegment, checkpoint_files, read_checkpoint};
use crate::crash::crash_point;
use crate::durable::DurableTiers;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::frame_file::{FrameKind, FrameRecord, FrameState};
use crate::index::ADDRESS_MASK;
use crate::layout::{
    Place, SEGMENT_HEADER_BYTES, SEGMENT_NUMBER_MAX, SLOT_BITS, TTL_HEADS_MAX, class, state,
};
use crate::rebuild::{Rebuild, groups, in_parallel};
use crate::record;
use crate::replay::{Harvest, Hole, LargeRecord, Late, Scanned, Task, has_extents, scan};
use crate::segment::SEGMENT_MAGIC;
use crate::waiting::check_cancelled;
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Instant;

/// What a recovery found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RecoveryReport {
    /// Keys afterwards.
    pub records: u64,
    /// Segments and extents in use afterwards.
    pub segments: u64,
    /// Bytes of the log that were read.
    pub bytes: u64,
    /// How long it took.
    pub duration_ms: u64,
    /// What was found damaged, one sentence each.
    pub damaged: Vec<String>,
    /// Records cut off because what precedes them did not reach the disk.
    pub truncated_records: u64,
    /// Whether a checkpoint was used.
    pub from_checkpoint: bool,
}

/// Rebuilds the shared half of `engine`, which is empty and nobody else's yet. Before `await_hot` returns its hot tier is not touched, and
/// nothing is written.
///
/// # Errors
/// Those of `await_hot`; Io; Cancelled, before anything durable was changed; Corrupt where only a checkpoint could tell deleted keys from others and none is intact; Full where the index does not fit.
pub(crate) fn recover(engine: &Engine, await_hot: impl FnOnce() -> Result<()>) -> Result<RecoveryReport> {
    let started = Instant::now();
    let Some(durable) = &engine.durable else { return await_hot().map(|()| RecoveryReport::default()) };
    let mut recovery = Recovery::new(engine, durable)?;
    recovery.place_segments()?;
    let mut harvests = recovery.scan_segments()?;
    await_hot()?;
    let prefix = recovery.prefix(&mut harvests)?;
    recovery.cut_off(&harvests, prefix)?;
    recovery.rebuild(&mut harvests, prefix)?;
    recovery.free_extents()?;
    recovery.finish(&harvests, prefix)?;
    let mut report = recovery.report;
    report.duration_ms = started.elapsed().as_millis() as u64;
    Ok(report)
}

struct Recovery<'a> {
    engine: &'a Engine,
    durable: &'a DurableTiers,
    report: RecoveryReport,
    checkpoint: Option<Checkpoint>,
    /// Checkpoints that were of no use.
    useless_checkpoints: Vec<PathBuf>,
    noted: HashMap<u64, NotedSegment>,
    recorded: u64,
    /// Everything up to here reached the disk; `None` where that is not known.
    watermark: Option<u64>,
    /// Records above this are ignored.
    limit: u64,
    tasks: Vec<Task>,
    /// Frames that hold nothing that counts but whose frame record says otherwise.
    to_clear: Vec<u32>,
    next_segment: u64,
    /// By slot: entries of the checkpoint that lead below this offset hold.
    covered: Vec<u32>,
    /// By slot: records that say what a key is, or that it is not.
    counted: Vec<AtomicU32>,
    /// By slot: extents that a record names.
    named: Vec<AtomicBool>,
}

impl<'a> Recovery<'a> {
    fn new(engine: &'a Engine, durable: &'a DurableTiers) -> Result<Self> {
        let slots = engine.geometry.slots as usize;
        let limit = match engine.superblock.sequence_limit {
            0 => u64::MAX,
            limit => limit,
        };
        let mut recovery = Self {
            engine,
            durable,
            report: RecoveryReport::default(),
            checkpoint: None,
            useless_checkpoints: Vec::new(),
            noted: HashMap::new(),
            recorded: 0,
            watermark: None,
            limit,
            tasks: Vec::new(),
            to_clear: Vec::new(),
            next_segment: 1,
            covered: vec![0; slots],
            counted: (0..slots).map(|_| AtomicU32::new(0)).collect(),
            named: (0..slots).map(|_| AtomicBool::new(false)).collect(),
        };
        recovery.choose_checkpoint()?;
        let recorded = durable.read_watermark()?.map(|watermark| watermark.sequence);
        if recorded.is_none() {
            let path = durable.watermark_file().path().display();
            recovery.damaged(format!("both watermark blocks of {path} are damaged"));
        }
        recovery.recorded = recorded.unwrap_or(0);
        let covered = recovery.checkpoint.as_ref().map(|checkpoint| checkpoint.durable_sequence);
        recovery.watermark = recorded.max(covered);
        for file in durable.files() {
            let (damage, path) = (file.damage(), file.path().display());
            if damage.header {
                recovery.damaged(format!(
                    "the header of {path} is damaged; it holds nothing that the file `store` does not say"
                ));
            }
            if damage.missing_bytes > 0 {
                recovery.damaged(format!("{path} is {} bytes too short", damage.missing_bytes));
            }
        }
        Ok(recovery)
    }

    fn damaged(&mut self, what: String) {
        self.report.damaged.push(what);
    }

    fn choose_checkpoint(&mut self) -> Result<()> {
        let engine = self.engine;
        let floor = engine.superblock.tombstone_floor;
        for path in checkpoint_files(engine) {
            match read_checkpoint(engine, &path)? {
                checkpoint::Found::Absent => {}
                checkpoint::Found::Damaged(reason) => {
                    self.damaged(format!("{} is damaged: {reason}", path.display()));
                    self.useless_checkpoints.push(path);
                }
                checkpoint::Found::Whole(found)
                    if found.durable_sequence > self.limit || found.barrier.sequence < floor =>
                {
                    self.useless_checkpoints.push(path);
                }
                checkpoint::Found::Whole(found) => {
                    self.noted =
                        found.barrier.segments.iter().map(|noted| (noted.segment_id, *noted)).collect();
                    self.next_segment = found.barrier.next_segment.max(1);
                    self.report.from_checkpoint = true;
                    self.checkpoint = Some(*found);
                    return Ok(());
                }
            }
        }
        if floor == 0 {
            return Ok(());
        }
        if engine.salvage {
            self.damaged(format!(
                "no checkpoint was intact, so keys that were deleted or evicted up to sequence number {floor} may be back"
            ));
            return Ok(());
        }
        Err(Error::corrupt(format!(
            "no checkpoint in {} is intact ({}), and without one keys that were deleted or evicted up to sequence number {floor} can't be told \
             from others: put checkpoint.0 and checkpoint.1 back as they were, or restore a snapshot, or have the store recovered all the same, \
             with such keys in it, by `thermae check --repair`",
            engine.paths.directory.display(),
            if self.report.damaged.is_empty() {
                "none is there that is new enough".to_owned()
            } else {
                self.report.damaged.join("; ")
            }
        )))
    }

    /// What a frame with a damaged entry holds, as far as its own first bytes tell. `Err(true)`: nothing was ever written there.
    fn identify(&mut self, frame: u32) -> Result<std::result::Result<FrameRecord, bool>> {
        let mut bytes = [0_u8; 4096];
        match self.durable.read_salvaging(frame, 0, &mut bytes) {
            Ok(None) => {}
            // What can't be read is not known to be empty.
            Ok(Some(_)) => return Ok(Err(false)),
            Err(Error::Corrupt(_)) => return Ok(Err(false)),
            Err(error) => return Err(error),
        }
        let is_header =
            get_u64(&bytes, 0) == SEGMENT_MAGIC && crc32c::crc32c(&bytes[..60]) == get_u32(&bytes, 60);
        let is_header = is_header && get_u64(&bytes, 8) >> SLOT_BITS <= SEGMENT_NUMBER_MAX;
        if !is_header {
            return Ok(Err(bytes.iter().all(|&byte| byte == 0)));
        }
        Ok(Ok(FrameRecord {
            kind: FrameKind::LogSegment,
            class: bytes[16],
            segment_id: get_u64(&bytes, 8),
            owner_sequence: 0,
            part: 0,
            parts: 1,
            used_bytes: 0,
            written_wall_ms: 0,
        }))
    }

    /// Puts the segments that the frame table names back into their slots.
    fn place_segments(&mut self) -> Result<()> {
        let mut by_slot: HashMap<u32, (u32, FrameRecord)> = HashMap::new();
        let mut quarantined = Vec::new();
        for (frame, found) in self.durable.read_frame_table()?.into_iter().enumerate() {
            let frame = frame as u32;
            let record = match found {
                FrameState::Free => continue,
                FrameState::Used(record) => record,
                FrameState::Damaged => match self.identify(frame)? {
                    Ok(record) => {
                        self.damaged(format!(
                            "{}: its entry in the frame table is damaged; the frame itself says what it holds",
                            self.durable.describe(frame)
                        ));
                        record
                    }
                    Err(true) => {
                        self.to_clear.push(frame);
                        continue;
                    }
                    Err(false) => {
                        self.damaged(format!(
                            "{}: its entry in the frame table is damaged, so it is set aside",
                            self.durable.describe(frame)
                        ));
                        quarantined.push(frame);
                        continue;
                    }
                },
            };
            self.claim_slot(frame, record, &mut by_slot, &mut quarantined);
        }
        for (&slot, &(frame, record)) in &by_slot {
            self.place(slot, frame, &record);
        }
        self.quarantine(&quarantined);
        self.tasks.sort_unstable_by_key(|task| task.frame);
        let _pool = self.engine.lock_pool();
        self.engine.repair_pool();
        Ok(())
    }

    fn claim_slot(
        &mut self,
        frame: u32,
        record: FrameRecord,
        by_slot: &mut HashMap<u32, (u32, FrameRecord)>,
        quarantined: &mut Vec<u32>,
    ) {
        let number = record.segment_id >> SLOT_BITS;
        let slot = (record.segment_id & ((1 << SLOT_BITS) - 1)) as u32;
        if slot >= self.engine.geometry.slots || number == 0 {
            self.damaged(format!(
                "{} claims to hold segment {:#x}, which can't exist; it is set aside",
                self.durable.describe(frame),
                record.segment_id
            ));
            quarantined.push(frame);
            return;
        }
        self.next_segment = self.next_segment.max(number + 1);
        let was_retired = self.checkpoint.as_ref().is_some_and(|checkpoint| {
            number < checkpoint.barrier.next_segment
                && record.kind == FrameKind::LogSegment
                && !self.noted.contains_key(&record.segment_id)
        });
        if was_retired {
            self.to_clear.push(frame);
            return;
        }
        match by_slot.get(&slot) {
            // It was moving from the warm tier to the cold one: the copy there got its entry when it was whole, and what is left here may
            // be another segment's by now.
            Some((other_frame, other))
                if other.segment_id == record.segment_id
                    && self.durable.is_warm(*other_frame)
                    && !self.durable.is_warm(frame) =>
            {
                self.to_clear.push(*other_frame);
                by_slot.insert(slot, (frame, record));
            }
            Some((other_frame, other)) if other.segment_id == record.segment_id => {
                let (kept, dropped) = if other.used_bytes >= record.used_bytes {
                    (*other_frame, frame)
                } else {
                    (frame, *other_frame)
                };
                if kept == frame {
                    by_slot.insert(slot, (frame, record));
                }
                self.damaged(format!(
                    "frames {kept} and {dropped} both claim to hold segment {:#x}; frame {kept} counts",
                    record.segment_id
                ));
                quarantined.push(dropped);
            }
            // A slot is given to another segment only when nothing of the one before is needed any more.
            Some((_, other)) if other.segment_id > record.segment_id => self.to_clear.push(frame),
            Some((other_frame, _)) => {
                self.to_clear.push(*other_frame);
                by_slot.insert(slot, (frame, record));
            }
            None => {
                by_slot.insert(slot, (frame, record));
            }
        }
    }

    fn place(&mut self, slot: u32, frame: u32, record: &FrameRecord) {
        let frame_bytes = self.engine.geometry.frame_bytes;
        let segment = self.engine.segment(slot);
        let header = SEGMENT_HEADER_BYTES as u32;
        let noted = self.noted.get(&record.segment_id).copied();
        let is_extent = record.kind == FrameKind::Extent;
        let noted = noted.filter(|noted| {
            let is_log = matches!(noted.state, state::OPEN | state::CLOSED)
                && (header..=frame_bytes).contains(&noted.tail);
            noted.tail.is_multiple_of(record::ALIGN_BYTES as u32) && is_log != is_extent || is_extent
        });
        let class = match u32::from(record.class) {
            _ if is_extent => class::EXTENT,
            class::SURVIVOR => class::SURVIVOR,
            found if (class::TTL..class::TTL + TTL_HEADS_MAX).contains(&found) => found,
            _ => class::FRESH,
        };
        segment.segment_id.store(record.segment_id, Ordering::Relaxed);
        segment.class.store(class, Ordering::Relaxed);
        segment.owner.store(self.engine.me(), Ordering::Relaxed);
        segment.part.store(record.part, Ordering::Relaxed);
        segment.parts.store(record.parts, Ordering::Relaxed);
        segment.sequence_min.store(noted.map_or(u64::MAX, |noted| noted.sequence_min), Ordering::Relaxed);
        segment.sequence_max.store(noted.map_or(0, |noted| noted.sequence_max), Ordering::Relaxed);
        segment.next_expiry_ms.store(noted.map_or(u64::MAX, |noted| noted.next_expiry_ms), Ordering::Relaxed);
        segment.last_expiry_ms.store(noted.map_or(0, |noted| noted.last_expiry_ms), Ordering::Relaxed);
        segment.live_bytes.store(noted.map_or(0, |noted| noted.live_bytes), Ordering::Relaxed);
        segment.tombstone_bytes.store(noted.map_or(0, |noted| noted.tombstone_bytes), Ordering::Relaxed);
        segment.key_hash.store(noted.map_or(0, |noted| noted.key_hash), Ordering::Relaxed);
        let tail = if is_extent { record.used_bytes } else { noted.map_or(header, |noted| noted.tail) };
        segment.tail.store(tail, Ordering::Relaxed);
        segment.flushed.store(tail, Ordering::Relaxed);
        segment.place.store(Place { hot: None, cold: Some(frame), generation: 1 }.pack(), Ordering::Relaxed);
        segment.state.store(if is_extent { state::EXTENT } else { state::CLOSED }, Ordering::Release);
        if is_extent {
            return;
        }
        self.covered[slot as usize] = noted.map_or(0, |noted| noted.tail);
        if noted.is_none_or(|noted| noted.state == state::OPEN) {
            self.tasks.push(Task { slot, segment_id: record.segment_id, class, frame, from: tail });
        }
    }

    /// Keeps frames from being reused before a repair.
    fn quarantine(&mut self, frames: &[u32]) {
        let mut slots = 0..self.engine.geometry.slots;
        for &frame in frames {
            let is_free =
                |slot: &u32| self.engine.segment(*slot).state.load(Ordering::Relaxed) == state::FREE;
            // There are more slots than frames of both pools.
            let Some(slot) = slots.find(is_free) else { return };
            let segment = self.engine.segment(slot);
            segment.segment_id.store(self.next_segment << SLOT_BITS | u64::from(slot), Ordering::Relaxed);
            self.next_segment += 1;
            segment.owner.store(u32::MAX, Ordering::Relaxed);
            segment
                .place
                .store(Place { hot: None, cold: Some(frame), generation: 1 }.pack(), Ordering::Relaxed);
            segment.state.store(state::QUARANTINED, Ordering::Release);
        }
    }

    fn floor(&self) -> u64 {
        self.watermark.unwrap_or(u64::MAX).min(self.limit)
    }

    fn scan_segments(&mut self) -> Result<Vec<Harvest>> {
        let (engine, tasks, floor, groups) = (self.engine, &self.tasks, self.floor(), groups(self.engine));
        let next = AtomicUsize::new(0);
        let harvests = in_parallel(tasks.len(), || {
            let mut harvest = Harvest::new(groups);
            while let Some(&task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                check_cancelled()?;
                scan(engine, &mut harvest, task, floor)?;
            }
            Ok(harvest)
        })?;
        for harvest in &harvests {
            self.report.damaged.extend(harvest.damaged.iter().cloned());
            self.report.bytes +=
                harvest.scanned.iter().map(|scanned| u64::from(scanned.end - scanned.task.from)).sum::<u64>();
        }
        Ok(harvests)
    }

    /// The last sequence number that is kept.
    fn prefix(&mut self, harvests: &mut [Harvest]) -> Result<u64> {
        let covered = self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.durable_sequence);
        let Some(watermark) = self.watermark else {
            let seen = harvests
                .iter()
                .flat_map(|harvest| &harvest.scanned)
                .map(|scanned| scanned.sequence_max)
                .max();
            return Ok(seen.unwrap_or(0).max(covered).min(self.limit));
        };
        let mut lates: Vec<Late> =
            harvests.iter().flat_map(|harvest| harvest.lates.iter().copied()).collect();
        // Found in runs that ascend already, which a merge sort takes as they are.
        lates.sort_by_key(|late| late.first);
        let mut bad = Vec::new();
        for large in
            harvests.iter().flat_map(|harvest| &harvest.larges).filter(|large| large.sequence > watermark)
        {
            if !has_extents(self.engine, large, true)? {
                bad.push(BadLarge { sequence: large.sequence, later: later_updates(harvests, large) });
            }
        }
        Ok(keep_prefix(watermark, self.limit, &lates, &bad))
    }

    /// Overwrites what is above the prefix, and what a torn write left between whole records.
    fn cut_off(&mut self, harvests: &[Harvest], prefix: u64) -> Result<()> {
        let mut by_slot: HashMap<u32, Vec<Late>> = HashMap::new();
        for late in harvests.iter().flat_map(|harvest| &harvest.lates).filter(|late| late.last() > prefix) {
            self.report.truncated_records += u64::from(late.count);
            by_slot.entry(late.slot).or_default().push(*late);
        }
        let mut holes: HashMap<u32, Vec<Hole>> = HashMap::new();
        for hole in harvests.iter().flat_map(|harvest| &harvest.holes).filter(|hole| !hole.is_damage) {
            holes.entry(hole.slot).or_default().push(*hole);
        }
        for scanned in harvests.iter().flat_map(|harvest| &harvest.scanned) {
            let slot = scanned.task.slot;
            let late = by_slot.remove(&slot).unwrap_or_default();
            let tail =
                self.cut_off_segment(scanned, &late, holes.get(&slot).map_or(&[][..], Vec::as_slice))?;
            let segment = self.engine.segment(slot);
            segment.tail.store(tail, Ordering::Relaxed);
            segment.flushed.store(tail, Ordering::Relaxed);
            segment.sequence_min.fetch_min(scanned.sequence_min, Ordering::Relaxed);
            segment.sequence_max.fetch_max(scanned.sequence_max.min(prefix), Ordering::Relaxed);
            if scanned.is_unreadable {
                segment.state.store(state::QUARANTINED, Ordering::Relaxed);
                self.covered[slot as usize] = 0;
            }
        }
        self.durable.sync()?;
        crash_point!("recover.cut_off");
        if prefix != self.recorded {
            self.durable.write_watermark(prefix)?;
            self.durable.sync()?;
        }
        crash_point!("recover.recorded");
        Ok(())
    }

    /// Returns the segment's tail.
    fn cut_off_segment(&self, scanned: &Scanned, late: &[Late], holes: &[Hole]) -> Result<u32> {
        let task = scanned.task;
        let frame_bytes = self.engine.geometry.frame_bytes;
        let mut end = scanned.end;
        let mut fills_rest = scanned.is_cut_short;
        if task.class == class::SURVIVOR {
            // Survivors have the numbers of their originals, in any order: each is cut off by itself.
            for record in late {
                self.abandon(&task, record.offset, record.total)?;
            }
        } else if let Some(first) = late.iter().map(|record| record.offset).min() {
            end = first;
            fills_rest = true;
        }
        for hole in holes.iter().filter(|hole| hole.from < end) {
            self.abandon(&task, hole.from, hole.to - hole.from)?;
        }
        if fills_rest && frame_bytes - end >= record::HOLE_BYTES as u32 {
            self.abandon(&task, end, frame_bytes - end)?;
            end = frame_bytes;
        }
        Ok(end)
    }

    /// Turns bytes of a segment into space that says nothing and took no sequence number.
    fn abandon(&self, task: &Task, offset: u32, total: u32) -> Result<()> {
        self.durable.write_at(task.frame, offset, &record::hole(task.segment_id, 0, total as usize))
    }

    /// Decides every key and fills the index.
    fn rebuild(&mut self, harvests: &mut [Harvest], prefix: u64) -> Result<()> {
        let rebuild = Rebuild {
            engine: self.engine,
            covered: &self.covered,
            counted: &self.counted,
            named: &self.named,
        };
        let rebuilt = rebuild.fill(harvests, self.checkpoint.take(), prefix)?;
        self.report.records = rebuilt.records;
        self.report.damaged.extend(rebuilt.damaged);
        Ok(())
    }

    /// Frees the extents that no record names. Those that the checkpoint knew are looked up by their key's hash.
    fn free_extents(&mut self) -> Result<()> {
        let engine = self.engine;
        let mut by_key: HashMap<u64, Vec<u32>> = HashMap::new();
        for slot in 0..engine.geometry.slots {
            let segment = engine.segment(slot);
            if segment.state.load(Ordering::Relaxed) != state::EXTENT
                || self.named[slot as usize].load(Ordering::Relaxed)
            {
                continue;
            }
            if self.noted.contains_key(&segment.segment_id.load(Ordering::Relaxed)) {
                by_key.entry(segment.key_hash.load(Ordering::Relaxed)).or_default().push(slot);
            } else {
                self.free(slot);
            }
        }
        for (hash, slots) in by_key {
            let named = self.extents_of(hash)?;
            for slot in slots {
                if !named.contains(&engine.segment(slot).segment_id.load(Ordering::Relaxed)) {
                    self.free(slot);
                }
            }
        }
        Ok(())
    }

    /// The extents of all large values whose keys may have this hash.
    fn extents_of(&mut self, hash: u64) -> Result<HashSet<u64>> {
        let engine = self.engine;
        let frame_bytes = engine.geometry.frame_bytes as usize;
        let mut named = HashSet::new();
        let mut probe = engine.probe(engine.table(engine.partition_of(hash)), engine.tag(hash));
        while let Some((_, word)) = probe.next() {
            let Some((slot, offset)) = engine.split(word & ADDRESS_MASK) else { continue };
            let segment = engine.segment(slot);
            let place = Place::unpack(segment.place.load(Ordering::Relaxed));
            let bytes = engine.salvage_cold(place, offset)?;
            let segment_id = segment.segment_id.load(Ordering::Relaxed);
            let record = bytes.as_deref().and_then(|bytes| record::parse(bytes, offset, frame_bytes));
            match record.filter(|record| record.is_intact(segment_id)) {
                Some(record) => {
                    named.extend(record.extents(frame_bytes).map(|(_, extents)| extents).unwrap_or_default());
                }
                None => self.damaged(format!(
                    "segment {segment_id:#x} (slot {slot}): the record at offset {offset} is damaged"
                )),
            }
        }
        Ok(named)
    }

    /// Empties a slot; its frame's record is cleared, so that no later recovery finds it there.
    fn free(&mut self, slot: u32) {
        let segment = self.engine.segment(slot);
        let place = Place::unpack(segment.place.load(Ordering::Relaxed));
        self.to_clear.extend(place.cold);
        segment.place.store(place.moved(None, None).pack(), Ordering::Relaxed);
        segment.segment_id.store(0, Ordering::Relaxed);
        segment.state.store(state::FREE, Ordering::Release);
    }

    fn finish(&mut self, harvests: &[Harvest], prefix: u64) -> Result<()> {
        let engine = self.engine;
        let damaged: HashSet<u32> = harvests
            .iter()
            .flat_map(|harvest| &harvest.holes)
            .filter(|hole| hole.is_damage)
            .map(|hole| hole.slot)
            .collect();
        for scanned in harvests.iter().flat_map(|harvest| &harvest.scanned) {
            let slot = scanned.task.slot;
            let is_new = self.covered[slot as usize] == 0;
            let is_empty = self.counted[slot as usize].load(Ordering::Relaxed) == 0;
            if is_new && is_empty && !scanned.is_unreadable && !damaged.contains(&slot) {
                self.free(slot);
            }
        }
        for frame in std::mem::take(&mut self.to_clear) {
            self.durable.clear_frame_record(frame)?;
        }
        self.durable.sync()?;
        crash_point!("recover.cleared");
        // The next checkpoint is to take the place of these, and not of the one that served. And the limit ends with this recovery: without it one from
        // beyond it would be taken for a good one.
        checkpoint::remove_checkpoints(&*engine.env, &engine.paths.directory, &self.useless_checkpoints)?;
        let globals = engine.globals();
        globals.next_sequence.store(prefix.saturating_add(1), Ordering::SeqCst);
        globals.watermark.store(prefix, Ordering::SeqCst);
        globals.watermark_recorded.store(prefix, Ordering::SeqCst);
        globals.flush_wanted.store(prefix, Ordering::SeqCst);
        // What both checkpoints cover; the next one will cover more. After a salvage there are none.
        let covered = if self.report.from_checkpoint { engine.superblock.tombstone_floor } else { 0 };
        globals.checkpoint_sequence.store(covered, Ordering::SeqCst);
        globals.next_segment.store(self.next_segment, Ordering::SeqCst);
        // What was replayed is replayed again until a checkpoint covers it.
        globals.log_bytes.store(self.report.bytes, Ordering::Relaxed);
        globals.checkpoint_log_bytes.store(0, Ordering::Relaxed);
        let _pool = engine.lock_pool();
        engine.repair_pool();
        let is_used = |segment: &&crate::layout::Segment| {
            matches!(
                segment.state.load(Ordering::Relaxed),
                state::CLOSED | state::EXTENT | state::QUARANTINED
            )
        };
        self.report.segments = engine.segments().iter().filter(is_used).count() as u64;
        Ok(())
    }
}

/// A large value above the watermark whose bytes are not all there.
struct BadLarge {
    sequence: u64,
    /// Later updates of its key, ascending.
    later: Vec<u64>,
}

fn later_updates(harvests: &[Harvest], large: &LargeRecord) -> Vec<u64> {
    let mut later: Vec<u64> = harvests
        .iter()
        .flat_map(|harvest| harvest.updates.beside(large.hash))
        .filter(|update| {
            update.hash == large.hash && update.check == large.check && update.sequence > large.sequence
        })
        .map(|update| update.sequence)
        .collect();
    later.sort_unstable();
    later
}

/// The last sequence number of the longest gap-free run above the watermark. `lates` is sorted by first number.
fn keep_prefix(watermark: u64, limit: u64, lates: &[Late], bad: &[BadLarge]) -> u64 {
    let mut prefix = watermark;
    for late in lates {
        if late.first > prefix.saturating_add(1) {
            break;
        }
        prefix = prefix.max(late.last());
    }
    prefix = prefix.min(limit);
    loop {
        let before = prefix;
        for late in lates.iter().filter(|late| late.is_batch) {
            if late.first <= prefix && prefix < late.last() {
                prefix = late.first - 1;
            }
        }
        for large in bad {
            let is_replaced = large.later.first().is_some_and(|&later| later <= prefix);
            if large.sequence <= prefix && !is_replaced {
                prefix = large.sequence - 1;
            }
        }
        if prefix == before {
            return prefix;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn late(first: u64, count: u32, is_batch: bool) -> Late {
        Late { slot: 0, offset: 64, total: 24, first, count, is_batch }
    }

    #[test]
    fn the_prefix_ends_at_the_first_gap_above_the_watermark() {
        let lates = [late(11, 1, false), late(12, 3, false), late(13, 1, false), late(16, 1, false)];
        assert_eq!(keep_prefix(10, u64::MAX, &lates, &[]), 14);
        assert_eq!(keep_prefix(10, 12, &lates, &[]), 12);
        assert_eq!(keep_prefix(15, u64::MAX, &lates, &[]), 16);
        assert_eq!(keep_prefix(9, u64::MAX, &lates, &[]), 9);
        assert_eq!(keep_prefix(u64::MAX, 7, &lates, &[]), 7);
    }

    #[test]
    fn a_batch_is_cut_off_whole() {
        let lates = [late(11, 1, false), late(12, 4, true), late(16, 1, false)];
        assert_eq!(keep_prefix(10, u64::MAX, &lates, &[]), 16);
        for limit in 12..15 {
            assert_eq!(keep_prefix(10, limit, &lates, &[]), 11, "limit {limit}");
        }
        assert_eq!(keep_prefix(10, 15, &lates, &[]), 15);
    }

    #[test]
    fn a_large_value_without_its_bytes_ends_the_prefix_unless_it_was_replaced() {
        let lates = [late(11, 1, false), late(12, 1, false), late(13, 2, true), late(15, 1, false)];
        let bad = |sequence, later: &[u64]| BadLarge { sequence, later: later.to_vec() };
        assert_eq!(keep_prefix(10, u64::MAX, &lates, &[bad(12, &[])]), 11);
        assert_eq!(keep_prefix(10, u64::MAX, &lates, &[bad(12, &[15])]), 15);
        assert_eq!(keep_prefix(10, 14, &lates, &[bad(12, &[15])]), 11);
        // Cutting one off takes away what replaced another.
        assert_eq!(keep_prefix(10, u64::MAX, &lates, &[bad(11, &[15]), bad(14, &[])]), 10);
    }
}
