//! Reading one segment of the log back from the cold tier: which records are whole, and what each of them says.
//!
//! A record counts if its checksum, masked with its segment's identity, holds; a batch only if its lead and all of its records do. Between whole records
//! there may be bytes that are none: what a power failure tore, what was damaged, what an earlier segment left in the frame. They are
//! stepped over in units of eight bytes, so one bad sector never hides what follows it. What is found is listed by key hash; which of it
//! counts is decided in `recover`, when all segments have been read.
//!
//! Bytes that only look like records cost a checksum each; a value made to look like thousands of them would make that quadratic, so
//! failed attempts have a budget per segment.

use crate::block::{get_u32, get_u64};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::layout::{Place, class, state};
use crate::log::COUNT_OFFSET;
use crate::record::{self, BATCH_BYTES, Parsed, SEQUENCE_MAX, Word0, kind};
use crate::updates::{IS_LARGE, IS_SURVIVOR, IS_TOMBSTONE, Update, Updates};
use std::ops::Range;
use std::sync::atomic::Ordering;

/// Shortest record.
pub(crate) const RECORD_BYTES_MIN: usize = 24;
/// Bytes read at once: what was read last is still in the processor's cache when it is looked at.
const READ_BYTES: usize = 256 << 10;
/// Bytes of which some must be readable where a read failed.
const SALVAGE_BYTES: usize = 1 << 20;
/// Checksummed bytes of what turned out to be no records, per segment, in frames.
const BUDGET_FRAMES: usize = 4;

/// A large value's record.
#[derive(Debug, Clone)]
pub(crate) struct LargeRecord {
    pub address: u64,
    pub hash: u64,
    pub check: u64,
    pub sequence: u64,
    pub value_len: u32,
    pub value_crc: u32,
    pub extents: Vec<u64>,
}

/// A record or batch with a sequence number above the floor: it may have to be cut off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Late {
    pub slot: u32,
    pub offset: u32,
    pub total: u32,
    pub first: u64,
    pub count: u32,
    /// All or nothing.
    pub is_batch: bool,
}

impl Late {
    /// Its last sequence number; one below the first if it took none.
    pub(crate) const fn last(&self) -> u64 {
        self.first.saturating_add(self.count as u64).saturating_sub(1)
    }
}

/// A stretch between whole records.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hole {
    pub slot: u32,
    pub from: u32,
    pub to: u32,
    /// It held records that were durable, as far as can be told.
    pub is_damage: bool,
}

/// What is to be read of a segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task {
    pub slot: u32,
    pub segment_id: u64,
    pub class: u32,
    pub frame: u32,
    pub from: u32,
}

/// A segment, read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scanned {
    pub task: Task,
    /// End of the last whole record.
    pub end: u32,
    pub sequence_min: u64,
    pub sequence_max: u64,
    /// The budget ran out: there may be more.
    pub is_cut_short: bool,
    /// Its bytes could not be read.
    pub is_unreadable: bool,
}

/// What one thread found.
#[derive(Debug, Default)]
pub(crate) struct Harvest {
    pub updates: Updates,
    pub larges: Vec<LargeRecord>,
    pub lates: Vec<Late>,
    pub holes: Vec<Hole>,
    pub scanned: Vec<Scanned>,
    pub damaged: Vec<String>,
    buffer: Vec<u8>,
}

/// What begins at an offset.
enum Whole<'a> {
    Record(Parsed<'a>),
    /// Says nothing.
    Filler,
    Batch(u32),
}

impl Harvest {
    pub(crate) fn new(groups: usize) -> Self {
        Self { updates: Updates::new(groups), ..Self::default() }
    }
}

/// Reads a segment. Records with a number above `floor` are listed one by one.
///
/// # Errors
/// Io; bytes that are missing are damage, and reported.
pub(crate) fn scan(engine: &Engine, harvest: &mut Harvest, task: Task, floor: u64) -> Result<()> {
    let frame_bytes = engine.geometry.frame_bytes as usize;
    let mut bytes = std::mem::take(&mut harvest.buffer);
    bytes.resize(frame_bytes, 0);
    let mut scanned = Scanned {
        task,
        end: task.from,
        sequence_min: u64::MAX,
        sequence_max: 0,
        is_cut_short: false,
        is_unreadable: false,
    };
    let mut offset = task.from as usize;
    let mut budget = frame_bytes * BUDGET_FRAMES;
    // The last piece is read first: that a file was cut short shows before anything is listed.
    let last = offset + (frame_bytes - offset).saturating_sub(1) / READ_BYTES * READ_BYTES;
    match read_piece(engine, task.frame, last..frame_bytes, &mut bytes) {
        Ok(mut failure) => {
            for start in (offset..=last).step_by(READ_BYTES) {
                let end = (start + READ_BYTES).min(frame_bytes);
                if start < last {
                    failure = read_piece(engine, task.frame, start..end, &mut bytes)?.or(failure);
                }
                let bytes = &bytes[..end];
                let mut scanner =
                    Scanner { engine, harvest, bytes, frame_bytes, floor, budget, scanned: &mut scanned };
                offset = scanner.run(offset);
                budget = scanner.budget;
            }
            if let Some(failure) = failure {
                harvest.damaged.push(format!(
                    "segment {:#x} (slot {}) can't be read in part, which is taken for damaged: {failure}",
                    task.segment_id, task.slot
                ));
            }
        }
        Err(Error::Corrupt(reason)) => {
            harvest.damaged.push(format!(
                "segment {:#x} (slot {}) can't be read and is set aside: {reason}",
                task.segment_id, task.slot
            ));
            scanned.is_unreadable = true;
        }
        Err(error) => return Err(error),
    }
    harvest.scanned.push(scanned);
    harvest.buffer = bytes;
    Ok(())
}

/// Fills a range of a frame's bytes. Returns what failed where the device can't read all of it.
fn read_piece(engine: &Engine, frame: u32, range: Range<usize>, bytes: &mut [u8]) -> Result<Option<Error>> {
    let Some(durable) = &engine.durable else { return Ok(None) };
    match durable.read_at(frame, range.start as u32, &mut bytes[range.clone()]) {
        Err(error) if error.is_device_failure() => {
            let start = range.start / SALVAGE_BYTES * SALVAGE_BYTES;
            let end = range.end.max(start + SALVAGE_BYTES).min(bytes.len());
            durable.read_salvaging(frame, start as u32, &mut bytes[start..end])
        }
        result => result.map(|()| None),
    }
}

impl Engine {
    /// The record at an offset of a cold frame, for a recovery; `None` where it is cut off, no record, or can't be read though others can.
    pub(crate) fn salvage_cold(&self, place: Place, offset: usize) -> Result<Option<Vec<u8>>> {
        match self.read_cold(place, offset) {
            Err(Error::Corrupt(_)) => return Ok(None),
            Err(error) if error.is_device_failure() => {}
            read => return read,
        }
        let (Some(durable), Some(frame)) = (&self.durable, place.cold) else { return Ok(None) };
        let frame_bytes = self.geometry.frame_bytes as usize;
        let mut bytes = vec![0; frame_bytes];
        durable.read_salvaging(frame, 0, &mut bytes)?;
        let bytes = &bytes[offset..];
        let sized = record::total_len(bytes, offset, frame_bytes, bytes.len());
        Ok(sized.map(|(_, total)| bytes[..total].to_vec()))
    }
}

struct Scanner<'a> {
    engine: &'a Engine,
    harvest: &'a mut Harvest,
    /// What has been read so far.
    bytes: &'a [u8],
    frame_bytes: usize,
    floor: u64,
    budget: usize,
    scanned: &'a mut Scanned,
}

impl<'a> Scanner<'a> {
    /// Takes what is whole from `offset` on, as far as the bytes have been read. Returns where to go on when more have been.
    fn run(&mut self, mut offset: usize) -> usize {
        let is_all = self.bytes.len() == self.frame_bytes;
        while offset + RECORD_BYTES_MIN <= self.bytes.len() {
            match self.whole(offset) {
                Some((whole, total)) => {
                    self.take(offset, total, whole);
                    offset += total;
                    self.scanned.end = offset as u32;
                }
                // Perhaps it is whole with what follows.
                None if !is_all => break,
                None => match self.resume(offset + RECORD_BYTES_MIN) {
                    Some(next) => {
                        self.note_hole(offset, next);
                        offset = next;
                    }
                    None => break,
                },
            }
        }
        offset
    }

    /// The next offset from `from` on at which something whole begins.
    #[cold]
    fn resume(&mut self, from: usize) -> Option<usize> {
        let last = self.bytes.len().checked_sub(RECORD_BYTES_MIN)?;
        let mut offset = from;
        while offset <= last {
            let word = Word0::unpack(get_u64(self.bytes, offset));
            // Most of what is no record is seen here: zeros, and kinds that are never found at the start of something whole.
            let is_found = matches!(
                word.kind(),
                kind::PUT | kind::TOMBSTONE | kind::LARGE | kind::ABANDONED | kind::BATCH
            );
            if let Some((_, total)) = is_found.then(|| self.sized(offset)).flatten() {
                if self.budget < total {
                    self.scanned.is_cut_short = true;
                    return None;
                }
                if self.whole(offset).is_some() {
                    return Some(offset);
                }
                self.budget -= total;
            }
            offset += record::ALIGN_BYTES;
        }
        None
    }

    /// Word and length of what may begin at an offset.
    fn sized(&self, offset: usize) -> Option<(Word0, usize)> {
        let room = self.bytes.len() - offset;
        let (word, total) = record::total_len(&self.bytes[offset..], offset, self.frame_bytes, room)?;
        if word.kind() == kind::BATCH {
            let region = word.value_len as usize;
            return (region >= BATCH_BYTES && region <= room && region.is_multiple_of(record::ALIGN_BYTES))
                .then_some((word, region));
        }
        (total >= RECORD_BYTES_MIN).then_some((word, total))
    }

    /// What begins at an offset, if it is whole, and its length: of a batch, that of its whole region.
    #[inline(always)]
    fn whole(&self, offset: usize) -> Option<(Whole<'a>, usize)> {
        if let kind::PUT | kind::TOMBSTONE | kind::LARGE = Word0::unpack(get_u64(self.bytes, offset)).kind() {
            let record = record::parse(&self.bytes[offset..], offset, self.frame_bytes)?;
            let is_whole = record.total >= RECORD_BYTES_MIN && record.is_intact(self.scanned.task.segment_id);
            return is_whole.then_some((Whole::Record(record), record.total));
        }
        let (word, total) = self.sized(offset)?;
        match word.kind() {
            kind::ABANDONED => self.is_framed(offset, total).then_some((Whole::Filler, total)),
            kind::BATCH if self.is_framed(offset, total) => {
                let count = get_u32(self.bytes, offset + COUNT_OFFSET);
                self.is_batch_whole(offset, total, count).then_some((Whole::Batch(count), total))
            }
            _ => None,
        }
    }

    /// Whether the checksum of an ABANDONED or BATCH record holds.
    fn is_framed(&self, offset: usize, total: usize) -> bool {
        let count = get_u32(self.bytes, offset + COUNT_OFFSET);
        let sequence = get_u64(self.bytes, offset + 8);
        let checksum = record::batch_checksum(sequence, total as u32, count);
        sequence <= SEQUENCE_MAX
            && checksum ^ record::checksum_mask(self.scanned.task.segment_id)
                == get_u32(self.bytes, offset + 16)
    }

    fn is_batch_whole(&self, offset: usize, region: usize, count: u32) -> bool {
        let first = get_u64(self.bytes, offset + 8);
        let (mut at, end) = (offset + BATCH_BYTES, offset + region);
        for index in 0..u64::from(count) {
            let member = record::parse(&self.bytes[at..end], at, self.frame_bytes);
            let is_whole = member.is_some_and(|record| {
                record.word.is_in_batch()
                    && record.batch_offset as usize == offset
                    && record.sequence == first.wrapping_add(index)
                    && record.is_intact(self.scanned.task.segment_id)
            });
            match member.filter(|_| is_whole) {
                Some(record) => at += record.total,
                None => return false,
            }
        }
        at == end
    }

    #[inline(always)]
    fn take(&mut self, offset: usize, total: usize, whole: Whole<'_>) {
        match whole {
            Whole::Record(record) => {
                self.list(offset, &record);
                self.note_late(offset, total, record.sequence, 1, false);
            }
            Whole::Filler => {
                let (sequence, count) =
                    (get_u64(self.bytes, offset + 8), get_u32(self.bytes, offset + COUNT_OFFSET));
                if count > 0 {
                    self.note_late(offset, total, sequence, count, false);
                }
            }
            Whole::Batch(count) => {
                let first = get_u64(self.bytes, offset + 8);
                let mut at = offset + BATCH_BYTES;
                for _ in 0..count {
                    let Some(member) = record::parse(&self.bytes[at..], at, self.frame_bytes) else { break };
                    self.list(at, &member);
                    at += member.total;
                }
                self.note_late(offset, total, first, count, true);
            }
        }
    }

    fn note_late(&mut self, offset: usize, total: usize, first: u64, count: u32, is_batch: bool) {
        let late = Late {
            slot: self.scanned.task.slot,
            offset: offset as u32,
            total: total as u32,
            first,
            count,
            is_batch,
        };
        if count == 0 {
            return;
        }
        self.scanned.sequence_min = self.scanned.sequence_min.min(first);
        self.scanned.sequence_max = self.scanned.sequence_max.max(late.last());
        if late.last() > self.floor {
            self.harvest.lates.push(late);
        }
    }

    /// Lists what a whole record says.
    #[inline(always)]
    fn list(&mut self, offset: usize, record: &Parsed<'_>) {
        let task = self.scanned.task;
        let address = self.engine.address(task.slot, offset);
        let hash = self.engine.hash(record.key);
        let check = check_of(self.engine, record.key);
        let base_kind = record.word.base_kind();
        let flags = if base_kind == kind::TOMBSTONE { IS_TOMBSTONE } else { 0 }
            | if base_kind == kind::LARGE { IS_LARGE } else { 0 }
            | if task.class == class::SURVIVOR { IS_SURVIVOR } else { 0 };
        self.harvest.updates.push(&Update::new(
            hash,
            check,
            record.sequence,
            record.expiry_ms,
            address,
            record.total,
            flags,
        ));
        if base_kind == kind::LARGE
            && let Some((value_crc, extents)) = record.extents(self.frame_bytes)
        {
            let (sequence, value_len) = (record.sequence, record.word.value_len);
            self.harvest.larges.push(LargeRecord {
                address,
                hash,
                check,
                sequence,
                value_len,
                value_crc,
                extents,
            });
        }
    }

    fn note_hole(&mut self, from: usize, to: usize) {
        // A header whose length leads exactly to the next record was a whole record once. And numbers grow along a segment of fresh
        // writes: what precedes a durable record there was durable too.
        let is_exact = self.sized(from).is_some_and(|(_, total)| from + total == to);
        let next = get_u64(self.bytes, to + 8);
        let task = self.scanned.task;
        let is_damage = next <= self.floor && (is_exact || task.class != class::SURVIVOR);
        if is_damage {
            self.harvest.damaged.push(format!(
                "segment {:#x} (slot {}): bytes {from} to {to} hold no intact record; what was there is lost",
                task.segment_id, task.slot
            ));
        }
        self.harvest.holes.push(Hole { slot: task.slot, from: from as u32, to: to as u32, is_damage });
    }
}

/// The second half of a key's hash.
pub(crate) fn check_of(engine: &Engine, key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_128_with_seed(key, engine.hash_seed) as u64
}

/// Whether all extents of a large value are there; with `with_bytes`, also whether their bytes are the value's.
///
/// # Errors
/// Io.
pub(crate) fn has_extents(engine: &Engine, large: &LargeRecord, with_bytes: bool) -> Result<bool> {
    let frame_bytes = engine.geometry.frame_bytes as usize;
    let mut frames = Vec::with_capacity(large.extents.len());
    for (part, &segment_id) in large.extents.iter().enumerate() {
        let Some(slot) = engine.slot_of(segment_id) else { return Ok(false) };
        let segment = engine.segment(slot);
        let is_part = segment.state.load(Ordering::Relaxed) == state::EXTENT
            && segment.part.load(Ordering::Relaxed) as usize == part;
        match Place::unpack(segment.place.load(Ordering::Relaxed)).cold {
            Some(frame) if is_part => frames.push(frame),
            _ => return Ok(false),
        }
    }
    if !with_bytes {
        return Ok(true);
    }
    let Some(durable) = &engine.durable else { return Ok(false) };
    let mut buffer = vec![0; READ_BYTES];
    let mut crc = 0;
    let mut left = large.value_len as usize;
    for frame in frames {
        let piece = left.min(frame_bytes);
        for start in (0..piece).step_by(READ_BYTES) {
            let chunk = &mut buffer[..READ_BYTES.min(piece - start)];
            match durable.read_salvaging(frame, start as u32, chunk) {
                Ok(_) => crc = crc32c::crc32c_append(crc, chunk),
                Err(Error::Corrupt(_)) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        left -= piece;
    }
    Ok(crc == large.value_crc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_format_document_is_what_is_written() {
        let segment_id = 0x40_0001;
        let word = Word0 { value_len: 3, key_len: 1, kind: kind::PUT, encoding: 0 };
        let crc = record::checksum(word, 7, 0, 0, b"k", b"abc");
        let stored = crc ^ record::checksum_mask(segment_id);
        assert_eq!((crc, record::checksum_mask(segment_id)), (0x979c_f865, 0x881d_304d));
        let bytes =
            [&word.pack().to_le_bytes()[..], &7_u64.to_le_bytes(), &stored.to_le_bytes(), b"kabc"].concat();
        assert_eq!(bytes.len(), RECORD_BYTES_MIN);
        let record = record::parse(&bytes, 64, 1 << 20).unwrap();
        assert!(record.is_intact(segment_id) && record.key == b"k" && record.payload == b"abc");
    }
}
