//! The log's open ends: reserving space, committing it, giving it up.
//!
//! A reservation writes the record's first word as RESERVED, with its whole length, before the tail moves over it. So below a tail every byte
//! belongs to a record whose length is known, and a writer that dies leaves a hole that says who made it and which
//! sequence numbers it took. Only the tail is guarded by the head's lock; records are filled in outside it, in parallel.

use crate::crash::crash_point;
use crate::engine::{Engine, LockGuard, PartitionGuard};
use crate::layout::{
    FRESH_HEADS_MAX, HEADS, OLD_SURVIVOR_HEAD_FIRST, OLD_SURVIVOR_HEADS, Place, SEGMENT_HEADER_BYTES,
    SURVIVOR_HEAD, TOMBSTONE_HEAD, TTL_HEAD_FIRST, class, state,
};
use crate::record::{self, Word0, kind};
use crate::segment::{Purpose, Room};
use std::sync::atomic::Ordering;

/// Space in the log that belongs to the caller until it commits or abandons it.
#[derive(Debug)]
pub struct Reserved {
    /// Slot of the segment.
    pub slot: u32,
    /// Offset in the segment.
    pub offset: usize,
    /// The space.
    pub at: *mut u8,
    /// Bytes.
    pub total: usize,
    /// First sequence number taken.
    pub sequence: u64,
    /// Identity of the segment.
    pub segment_id: u64,
}

/// How many sequence numbers a reservation takes, or which one it repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequence {
    /// So many new ones.
    New(u32),
    /// A copy keeps its original's.
    Kept(u64),
}

/// Offset of the count of sequence numbers in an ABANDONED or BATCH record.
pub(crate) const COUNT_OFFSET: usize = 20;
/// A RESERVED record says in the upper half of its kind how many sequence numbers it took: none, one, or (from here on) those of a
/// batch, whose count is at [`COUNT_OFFSET`] and stays there until the batch is decided.
const COUNT_IN_BODY: u32 = 2;
/// Bits of a participant's mark in a RESERVED record's word.
const WRITER_MARK: u32 = 0xff_ffff;

impl Engine {
    /// The head that a write with this expiry goes to: records that expire together die together.
    #[inline]
    pub(crate) fn head_for(&self, expires_at_ms: u64) -> u32 {
        let globals = self.globals();
        if expires_at_ms != 0 {
            let classes = globals.ttl_heads.load(Ordering::Relaxed);
            if classes > 0 {
                let left_seconds = expires_at_ms.saturating_sub(self.now_ms()) / 1000;
                // Classes by powers of four from four seconds on.
                let class = (64 - (left_seconds >> 2).leading_zeros()).div_ceil(2);
                return TTL_HEAD_FIRST + class.min(classes - 1);
            }
        }
        self.me() % globals.fresh_heads.load(Ordering::Relaxed).clamp(1, FRESH_HEADS_MAX)
    }

    /// The head that a value goes to which replaces one with this sequence number, in a locked partition. With a cold tier, values that will be
    /// overwritten at about the same time are kept together, or compaction copies those that stay along with those that go;
    /// how long the replaced value lasted is the best guess at how long its successor will.
    #[inline]
    pub(crate) fn head_for_update(
        &self,
        guard: &PartitionGuard<'_>,
        expires_at_ms: u64,
        replaced: Option<u64>,
    ) -> u32 {
        let classes = self.age_classes();
        if classes == 1 || expires_at_ms != 0 {
            return self.head_for(expires_at_ms);
        }
        match replaced.map(|sequence| self.age_percent(guard, sequence)) {
            Some(0..10) => 0,
            Some(10..60) => 1,
            // New keys go with those that last: most never change.
            _ => classes.min(3) - 1,
        }
    }

    /// The head that a survivor goes to, of a locked partition: the longer a value has lasted, the longer it will.
    pub(crate) fn head_for_survivor(&self, guard: &PartitionGuard<'_>, sequence: u64) -> u32 {
        let classes = self.age_classes();
        if classes == 1 {
            return SURVIVOR_HEAD;
        }
        let class = match self.age_percent(guard, sequence) {
            0..40 => 0,
            40..160 => 1,
            160..640 => 2,
            _ => 3,
        };
        match class.min(classes - 1) {
            0 => SURVIVOR_HEAD,
            older => OLD_SURVIVOR_HEAD_FIRST + older - 1,
        }
    }

    /// Classes by age that the hot tier has frames for: each keeps one open.
    fn age_classes(&self) -> u32 {
        match self.geometry.hot_frames {
            _ if self.durable.is_none() => 1,
            0..24 => 1,
            24..48 => 2,
            _ => 1 + OLD_SURVIVOR_HEADS,
        }
    }

    /// Updates since a sequence number was given out, as a percentage of the number of keys (guessed from one partition's).
    fn age_percent(&self, guard: &PartitionGuard<'_>, sequence: u64) -> u64 {
        let keys = u64::from(guard.partition.count.load(Ordering::Relaxed)).max(1)
            * u64::from(self.geometry.partitions);
        let age = self.globals().next_sequence.load(Ordering::Relaxed).saturating_sub(sequence);
        age.saturating_mul(100) / keys
    }

    /// Locks all heads: nothing is reserved while the guards live.
    pub(crate) fn lock_heads(&self) -> Vec<LockGuard<'_>> {
        (0..HEADS as u32).map(|number| self.lock_head(number)).collect()
    }

    /// Whether the participant with this short mark lives. Should a later participant have the same one (after 2^24 uses of slots), the
    /// dead one's hole waits until that one has left too.
    fn is_writer_alive(&self, short_mark: u32) -> bool {
        (0..self.geometry.participants).any(|slot| {
            let incarnation = self.participant(slot).incarnation.load(Ordering::Acquire);
            incarnation as u32 & WRITER_MARK == short_mark && self.is_incarnation_alive(incarnation)
        })
    }

    /// Takes the lock of a head.
    pub(crate) fn lock_head(&self, number: u32) -> LockGuard<'_> {
        let head = self.head(number);
        self.lock(&head.lock, |_| {
            // The tail may or may not have moved; either is consistent. What the dead opened and did not announce, the reaper retires.
            self.close_head(number);
        })
    }

    /// Ends the open segment of a locked head.
    fn close_head(&self, number: u32) {
        if let Some(slot) = self.open_slot(number) {
            let segment = self.segment(slot);
            if segment.state.load(Ordering::Acquire) == state::OPEN {
                self.globals()
                    .log_bytes
                    .fetch_add(u64::from(segment.tail.load(Ordering::Relaxed)), Ordering::Relaxed);
                segment.state.store(state::CLOSED, Ordering::Release);
            }
        }
        self.head(number).slot_plus_one.store(0, Ordering::Release);
    }

    /// The slot of a head's open segment.
    #[inline]
    pub(crate) fn open_slot(&self, number: u32) -> Option<u32> {
        let slot = self.head(number).slot_plus_one.load(Ordering::Acquire).checked_sub(1)?;
        (slot < self.geometry.slots).then_some(slot)
    }

    /// Ends the open segment of a head, so that it can be evicted, compacted or copied.
    pub(crate) fn close_open_segment(&self, number: u32) {
        let _head = self.lock_head(number);
        self.close_head(number);
    }

    fn class_of_head(number: u32) -> u32 {
        match number {
            0..FRESH_HEADS_MAX => class::FRESH,
            SURVIVOR_HEAD => class::SURVIVOR,
            crate::layout::CACHE_HEAD => class::CACHE,
            TOMBSTONE_HEAD => class::FRESH,
            OLD_SURVIVOR_HEAD_FIRST.. => class::SURVIVOR,
            _ => class::TTL + (number - TTL_HEAD_FIRST),
        }
    }

    /// Reserves space for a record whose size at an offset is `total_at`, in head `number`.
    #[inline]
    pub(crate) fn reserve(
        &self,
        number: u32,
        total_at: impl Fn(usize) -> usize,
        sequence: Sequence,
        purpose: Purpose,
    ) -> Result<Reserved, Room> {
        let frame_bytes = self.geometry.frame_bytes as usize;
        let _guard = self.lock_head(number);
        let mut offset = 0;
        let mut total = 0;
        let fitting = self.open_slot(number).filter(|&slot| {
            let segment = self.segment(slot);
            offset = segment.tail.load(Ordering::Relaxed) as usize;
            let is_sane =
                segment.state.load(Ordering::Relaxed) == state::OPEN && offset % record::ALIGN_BYTES == 0;
            total = total_at(offset);
            is_sane && offset >= SEGMENT_HEADER_BYTES && offset + total <= frame_bytes
        });
        let slot = match fitting {
            Some(slot) => slot,
            None => {
                // The new segment first: in a full tier the old one keeps serving smaller records.
                let slot = self.open_segment(Self::class_of_head(number), purpose)?;
                self.close_head(number);
                self.head(number).slot_plus_one.store(slot + 1, Ordering::Release);
                offset = SEGMENT_HEADER_BYTES;
                total = total_at(offset);
                assert!(offset + total <= frame_bytes, "a record of {total} bytes was to be written inline");
                slot
            }
        };
        let segment = self.segment(slot);
        let place = Place::unpack(segment.place.load(Ordering::Relaxed));
        // An open segment is always hot: nobody demotes what a head appends to.
        let Some(base) = self.hot_base(place) else { return Err(Room::Hot) };
        let globals = self.globals();
        let (first, count) = match sequence {
            Sequence::New(count) => {
                (globals.next_sequence.fetch_add(u64::from(count), Ordering::SeqCst), count)
            }
            Sequence::Kept(kept) => (kept, 0),
        };
        crash_point!("append.numbered");
        if first < segment.sequence_min.load(Ordering::Relaxed) {
            segment.sequence_min.store(first, Ordering::Relaxed);
        }
        let last = first + u64::from(count.saturating_sub(1));
        if last > segment.sequence_max.load(Ordering::Relaxed) {
            segment.sequence_max.store(last, Ordering::Relaxed);
        }
        // SAFETY: offset + total was checked against the frame; the space above the tail is this head's, whose lock is held.
        let at = unsafe { base.add(offset) };
        // Owner and count are in the word itself: the writer fills all other bytes while the word still says RESERVED.
        let mark = self.member.mark();
        let word = Word0 {
            value_len: total as u32,
            key_len: mark as u16,
            kind: kind::RESERVED | (count.min(COUNT_IN_BODY) as u8) << 4,
            encoding: (mark >> 16) as u8,
        };
        // SAFETY: as above; records are at least 24 bytes long.
        unsafe {
            at.add(8).cast::<u64>().write_unaligned(first.to_le());
            at.add(COUNT_OFFSET).cast::<u32>().write_unaligned(count.to_le());
            record::commit(at, word);
        }
        segment.tail.store((offset + total) as u32, Ordering::Release);
        Ok(Reserved {
            slot,
            offset,
            at,
            total,
            sequence: first,
            segment_id: segment.segment_id.load(Ordering::Relaxed),
        })
    }

    /// What a record with this first word takes at an offset.
    #[inline]
    pub(crate) fn total_at(&self, word: Word0) -> impl Fn(usize) -> usize + use<> {
        let frame_bytes = self.geometry.frame_bytes as usize;
        move |offset| record::shape(word, offset, frame_bytes).total
    }

    /// Reserves space for tombstones: among what is written now or, where there is no frame for that, in one of the reserve's.
    pub(crate) fn reserve_for_tombstones(
        &self,
        total_at: impl Fn(usize) -> usize,
        sequence: Sequence,
    ) -> Result<Reserved, Room> {
        self.reserve(self.head_for(0), &total_at, sequence, Purpose::Write)
            .or_else(|_| self.reserve(TOMBSTONE_HEAD, &total_at, sequence, Purpose::Tombstones))
    }

    /// Turns reserved space into a hole that scanners skip.
    ///
    /// # Safety
    /// `at` points at a RESERVED (or undecided BATCH) record of segment `segment_id` that its writer no longer touches.
    pub(crate) unsafe fn abandon(
        &self,
        at: *mut u8,
        segment_id: u64,
        total: usize,
        sequence: u64,
        count: u32,
    ) {
        let total_len = u32::try_from(total).unwrap_or(u32::MAX);
        let crc = record::batch_checksum(sequence, total_len, count) ^ record::checksum_mask(segment_id);
        let word = Word0 { value_len: total_len, key_len: 0, kind: kind::ABANDONED, encoding: 0 };
        // SAFETY: the caller's promise.
        unsafe {
            at.add(8).cast::<u64>().write_unaligned(sequence.to_le());
            at.add(COUNT_OFFSET).cast::<u32>().write_unaligned(count.to_le());
            at.add(16).cast::<u32>().write_unaligned(crc.to_le());
            record::commit(at, word);
        }
    }

    /// The state of the record at `offset` of a hot segment, with reserved or undecided space of the dead abandoned on the way.
    /// `None` while a living writer is at it.
    pub(crate) fn settle(&self, base: *mut u8, offset: usize, segment_id: u64) -> Option<(Word0, usize)> {
        let frame_bytes = self.geometry.frame_bytes as usize;
        if !offset.is_multiple_of(record::ALIGN_BYTES) || offset + 24 > frame_bytes {
            // Only a damaged tail leads here.
            return None;
        }
        // SAFETY: the caller scans below the tail of a segment that it keeps from being reused.
        let at = unsafe { base.add(offset) };
        // SAFETY: as above.
        let word = Word0::unpack(unsafe { record::word0_at(at) }.load(Ordering::Acquire));
        // SAFETY: as above; every record is at least 24 bytes.
        let head = unsafe { std::slice::from_raw_parts(at, 32.min(frame_bytes - offset)) };
        let field = |from: usize| {
            head.get(from..from + 4)
                .map_or(0, |bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        };
        let (is_owner_alive, count) = match word.kind() {
            kind::RESERVED => {
                let code = u32::from(word.kind >> 4);
                let count = if code < COUNT_IN_BODY { code } else { field(COUNT_OFFSET) };
                (self.is_writer_alive(u32::from(word.key_len) | u32::from(word.encoding) << 16), count)
            }
            kind::BATCH_PENDING => (self.is_mark_alive(field(24)), field(COUNT_OFFSET)),
            kind::BATCH => return Some((word, record::BATCH_BYTES)),
            _ => return record::total_len(head, offset, frame_bytes, frame_bytes - offset),
        };
        if is_owner_alive {
            return None;
        }
        // The owner may have finished its work just before it died; only now is the word its last.
        // SAFETY: as above.
        let last = Word0::unpack(unsafe { record::word0_at(at) }.load(Ordering::Acquire));
        if last != word {
            return self.settle(base, offset, segment_id);
        }
        // SAFETY: as above.
        let sequence = u64::from_le(unsafe { at.add(8).cast::<u64>().read_unaligned() });
        let total = word.value_len as usize;
        // SAFETY: the owner is dead.
        unsafe { self.abandon(at, segment_id, total, sequence, count) };
        Some((Word0 { kind: kind::ABANDONED, key_len: 0, encoding: 0, value_len: word.value_len }, total))
    }
}
