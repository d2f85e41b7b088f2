//! The segment table: slots, their frames, and the life of a segment.
//!
//! ```text
//! FREE -> OPENING -> OPEN -> CLOSED -> RETIRED -> FREE          a stretch of the log
//! FREE -> EXTENT_PENDING -> EXTENT -> RETIRED -> FREE           a piece of a large value
//! ```
//! A slot leaves FREE and returns to it under the pool lock, together with its frames; so frames in use are exactly those
//! that some slot's place word (or the list of index frames) names, and the free stacks can be recomputed after a death.
//! A retired slot keeps its frames while a living participant pins it, and its cold frame until a flush that began later has
//! recorded a watermark that covers the retirement: until then a power failure could need its bytes. A slot that was retired before
//! anything of it was written keeps its cold frame no longer than its hot one.

use crate::crash::crash_point;
use crate::engine::{Engine, LockGuard};
use crate::error::{Error, Result};
use crate::frame_file::FrameState;
use crate::layout::{
    CONTROL_MAGIC, ControlHeader, Place, RESERVE_FRAMES, SEGMENT_HEADER_BYTES, SLOT_BITS, Segment, class,
    state,
};
use crate::options::IndexPlacement;
use std::sync::atomic::{AtomicU32, Ordering};

/// What there is too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Free hot frames.
    Hot,
    /// Free durable frames, of the cold tier or the warm one.
    Cold,
    /// Places in this partition of the index: that has its share of the hot tier, or a table can't be larger.
    Index(u32),
}

/// Who asks for a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Users' writes.
    Write,
    /// What goes on in a full store while there is something to be had: index tables, cache copies made by a demotion, and older survivors, which can
    /// do without a head of their own. Opening one more than compaction empties must not cost the others the last frame.
    Reserve,
    /// Tombstones: a frame of nothing else comes back as soon as a checkpoint covers it.
    Tombstones,
    /// Survivors of eviction and compaction, or a full store could never become less full.
    Survivors,
}

impl Purpose {
    /// Frames that this purpose leaves to more urgent ones.
    const fn leaves(self) -> u32 {
        match self {
            Self::Write => RESERVE_FRAMES,
            Self::Reserve => 1,
            Self::Tombstones | Self::Survivors => 0,
        }
    }
}

/// Hot frames that the index leaves to values at least, of a tier of twice as many: what is appended to and the reserve, in a small store.
const VALUE_FRAMES_MIN: u32 = 8;

/// First eight bytes of a segment.
pub const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"THRMseg1");

/// The header of a segment: what its frame holds.
pub(crate) fn header(segment_id: u64, class: u32) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut header = [0_u8; SEGMENT_HEADER_BYTES];
    header[..8].copy_from_slice(&SEGMENT_MAGIC.to_le_bytes());
    header[8..16].copy_from_slice(&segment_id.to_le_bytes());
    header[16..20].copy_from_slice(&class.to_le_bytes());
    let crc = crc32c::crc32c(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Flushes that must complete after a retirement before the cold frame may be reused: one may be under way, one
/// makes the survivors durable, one records that watermark.
pub const FLUSHES_BEFORE_REUSE: u64 = 3;
/// Stands for the count of flushes at a retirement before anything of the segment was written: its cold frame holds nothing that a
/// power failure could need, and may be reused at once.
const RETIRED_UNWRITTEN: u64 = u64::MAX;

/// A write to the durable tiers, under way.
#[must_use]
pub(crate) struct DurableWrite<'a>(Option<&'a AtomicU32>);

impl Drop for DurableWrite<'_> {
    fn drop(&mut self) {
        if let Some(writes) = self.0 {
            writes.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Hot frames that the index may have of so many: three quarters, or less where too few were left. Values pass through the others: without
/// those nothing could be stored or deleted any more, however much of the index is empty.
fn index_share(hot_frames: u32) -> u32 {
    hot_frames - (hot_frames / 4).max(VALUE_FRAMES_MIN).min(hot_frames / 2)
}

impl Engine {
    /// Takes the pool lock.
    pub(crate) fn lock_pool(&self) -> LockGuard<'_> {
        self.lock(&self.globals().pool_lock, |_| self.repair_pool())
    }

    fn pop(stack: &[AtomicU32], height: &AtomicU32, leave: u32) -> Option<u32> {
        let top = height.load(Ordering::Relaxed);
        if top <= leave || top as usize > stack.len() {
            return None;
        }
        let frame = stack[top as usize - 1].load(Ordering::Relaxed);
        height.store(top - 1, Ordering::Relaxed);
        Some(frame)
    }

    fn push(stack: &[AtomicU32], height: &AtomicU32, frame: u32) {
        let top = height.load(Ordering::Relaxed);
        assert!((top as usize) < stack.len(), "a frame was freed twice");
        stack[top as usize].store(frame, Ordering::Relaxed);
        height.store(top + 1, Ordering::Relaxed);
    }

    fn pop_warm(&self) -> Option<u32> {
        Self::pop(self.free_warm(), &self.globals().free_warm, 0)
            .filter(|&frame| frame < self.geometry.warm_frames)
    }

    fn pop_hot(&self, purpose: Purpose) -> Option<u32> {
        let globals = self.globals();
        let leave = purpose.leaves().saturating_add(globals.hot_withheld.load(Ordering::Relaxed));
        let frame = Self::pop(self.free_hot(), &globals.free_hot, leave)
            .filter(|&frame| frame < self.geometry.hot_frames)?;
        globals.hot_high_water.fetch_max(frame + 1, Ordering::Relaxed);
        Some(frame)
    }

    /// A durable frame: a warm one if there is any, for what is new is what is read, and a flush of it is soon done.
    fn pop_durable(&self, purpose: Purpose) -> Option<u32> {
        if self.free_durable() <= purpose.leaves() {
            return None;
        }
        self.pop_warm().or_else(|| self.pop_cold(0))
    }

    fn pop_cold(&self, leave: u32) -> Option<u32> {
        let frames = self.geometry.warm_frames..self.geometry.durable_frames();
        Self::pop(self.free_cold(), &self.globals().free_cold, leave).filter(|frame| frames.contains(frame))
    }

    fn push_durable(&self, frame: u32) {
        let globals = self.globals();
        if frame < self.geometry.warm_frames {
            Self::push(self.free_warm(), &globals.free_warm, frame);
        } else {
            Self::push(self.free_cold(), &globals.free_cold, frame);
        }
    }

    /// Free hot frames that may be used: less than none where the hot tier was limited to less than is in use.
    pub(crate) fn free_hot_frames(&self) -> i64 {
        let globals = self.globals();
        i64::from(globals.free_hot.load(Ordering::Acquire))
            - i64::from(globals.hot_withheld.load(Ordering::Relaxed))
    }

    /// Hot frames that may be used.
    pub(crate) fn hot_frames_usable(&self) -> u32 {
        self.geometry.hot_frames.saturating_sub(self.globals().hot_withheld.load(Ordering::Relaxed))
    }

    /// Free durable frames, warm and cold.
    pub(crate) fn free_durable(&self) -> u32 {
        let globals = self.globals();
        globals.free_warm.load(Ordering::Acquire).saturating_add(globals.free_cold.load(Ordering::Acquire))
    }

    /// To be held while a durable frame, or its record, is written: a flush that begins before that ends syncs the cold tier, if it is a cold
    /// one, and so does the next.
    pub(crate) fn write_durable(&self, frame: u32) -> DurableWrite<'_> {
        let writes = (frame >= self.geometry.warm_frames).then_some(&self.globals().cold_writes);
        if let Some(writes) = writes {
            writes.fetch_add(1, Ordering::SeqCst);
        }
        DurableWrite(writes)
    }

    fn find_free_slot(&self) -> Option<u32> {
        let slots = self.geometry.slots;
        let start = self.globals().slot_cursor.load(Ordering::Relaxed) % slots;
        let slot = (0..slots)
            .map(|step| (start + step) % slots)
            .find(|&slot| self.segment(slot).state.load(Ordering::Relaxed) == state::FREE)?;
        self.globals().slot_cursor.store(slot + 1, Ordering::Relaxed);
        Some(slot)
    }

    /// Takes a frame for an index table, of the warm tier where that holds the index and has one left; the caller lists it among the index frames under the arena lock it holds.
    pub(crate) fn take_index_frame(&self, partition: u32) -> Result<u32, Room> {
        let _pool = self.lock_pool();
        let globals = self.globals();
        let count = globals.index_frames.load(Ordering::Relaxed);
        // There is a place for every frame there is: a count beyond that is damaged.
        let place = self.index_frames().get(count as usize).ok_or(Room::Index(partition))?;
        // Not the last of them: what is in them is compacted and deleted with their help.
        let is_spare = self.free_durable() > RESERVE_FRAMES + 1;
        let warm = || {
            let frame = if is_spare { self.pop_warm() } else { None };
            frame.map(|frame| self.geometry.hot_frames + frame)
        };
        let is_warm = self.superblock.options.index == IndexPlacement::Warm;
        let frame = match if is_warm { warm() } else { None } {
            Some(frame) => frame,
            None if self.has_index_its_share(count) => return Err(Room::Index(partition)),
            None => self.pop_hot(Purpose::Reserve).ok_or(Room::Hot)?,
        };
        place.store(frame, Ordering::Relaxed);
        globals.index_frames.store(count + 1, Ordering::Release);
        Ok(frame)
    }

    /// Whether the index has as much of the hot tier as it may. A recovery takes what the index needs.
    fn has_index_its_share(&self, index_frames: u32) -> bool {
        let of_hot = self
            .index_frames()
            .iter()
            .take(index_frames as usize)
            .filter(|frame| frame.load(Ordering::Relaxed) < self.geometry.hot_frames)
            .count() as u32;
        let is_recovered = self.control.at::<ControlHeader>(0).magic.load(Ordering::Acquire) == CONTROL_MAGIC;
        is_recovered && of_hot >= index_share(self.hot_frames_usable())
    }

    /// Opens a segment of `class`: a slot, a hot frame, and, but for cache copies, the cold frame that it is written to sooner or later. It
    /// is taken here whatever the durability: else memory could hold more than the cold tier has room for, and neither a flush nor a
    /// checkpoint, which eviction needs, could be completed.
    pub(crate) fn open_segment(&self, class: u32, purpose: Purpose) -> Result<u32, Room> {
        let pool = self.lock_pool();
        let slot = self.take_slot(class, state::OPENING, purpose)?;
        drop(pool);
        crash_point!("segment.opening");
        self.write_segment_header(slot);
        let segment = self.segment(slot);
        segment.tail.store(SEGMENT_HEADER_BYTES as u32, Ordering::Relaxed);
        segment.state.store(state::OPEN, Ordering::Release);
        Ok(slot)
    }

    /// Takes the slots and frames of a large value, all or none. They are this participant's until published.
    pub(crate) fn open_extents(&self, count: usize) -> Result<Vec<u32>, Room> {
        let pool = self.lock_pool();
        let mut slots = Vec::with_capacity(count);
        for part in 0..count {
            match self.take_slot(class::EXTENT, state::EXTENT_PENDING, Purpose::Write) {
                Ok(slot) => {
                    self.segment(slot).part.store(part as u32, Ordering::Relaxed);
                    self.segment(slot).parts.store(count as u32, Ordering::Relaxed);
                    slots.push(slot);
                }
                Err(room) => {
                    slots.iter().for_each(|&slot| self.free_slot(slot));
                    drop(pool);
                    return Err(room);
                }
            }
        }
        Ok(slots)
    }

    /// Under the pool lock: a free slot with its frames, described.
    fn take_slot(&self, class: u32, new_state: u32, purpose: Purpose) -> Result<u32, Room> {
        let globals = self.globals();
        let with_cold = class != class::CACHE && self.durable.is_some();
        // Before a slot is looked for: in a full store each delete comes by here.
        if self.free_hot_frames() <= i64::from(purpose.leaves()) {
            return Err(Room::Hot);
        }
        let slot = self.find_free_slot().ok_or(Room::Cold)?;
        let hot = self.pop_hot(purpose).ok_or(Room::Hot)?;
        crash_point!("segment.frame_taken");
        let cold = if with_cold {
            match self.pop_durable(purpose) {
                Some(frame) => Some(frame),
                None => {
                    Self::push(self.free_hot(), &globals.free_hot, hot);
                    return Err(Room::Cold);
                }
            }
        } else {
            None
        };
        self.describe_slot(slot, class, new_state, Some(hot), cold);
        Ok(slot)
    }

    /// Under the pool lock: a free slot that holds a cold frame for a segment that will move there.
    pub(crate) fn open_holder(&self) -> Option<u32> {
        let _pool = self.lock_pool();
        let slot = self.find_free_slot()?;
        let frame = self.pop_cold(RESERVE_FRAMES)?;
        self.describe_slot(slot, class::MOVED, state::OPENING, None, Some(frame));
        Some(slot)
    }

    fn describe_slot(&self, slot: u32, class: u32, new_state: u32, hot: Option<u32>, cold: Option<u32>) {
        let globals = self.globals();
        let segment = self.segment(slot);
        let number = globals.next_segment.fetch_add(1, Ordering::Relaxed);
        segment.owner.store(self.me(), Ordering::Relaxed);
        segment.class.store(class, Ordering::Relaxed);
        segment.tail.store(0, Ordering::Relaxed);
        segment.flushed.store(0, Ordering::Relaxed);
        segment.live_bytes.store(0, Ordering::Relaxed);
        segment.next_expiry_ms.store(u64::MAX, Ordering::Relaxed);
        segment.last_expiry_ms.store(0, Ordering::Relaxed);
        segment.expired_until_ms.store(0, Ordering::Relaxed);
        segment.sequence_min.store(u64::MAX, Ordering::Relaxed);
        segment.sequence_max.store(0, Ordering::Relaxed);
        segment.part.store(0, Ordering::Relaxed);
        segment.parts.store(1, Ordering::Relaxed);
        segment.tombstone_bytes.store(0, Ordering::Relaxed);
        segment.segment_id.store(number << SLOT_BITS | u64::from(slot), Ordering::Release);
        segment.state.store(new_state, Ordering::Release);
        let place = Place::unpack(segment.place.load(Ordering::Relaxed));
        segment.place.store(place.moved(hot, cold).pack(), Ordering::SeqCst);
    }

    /// The first bytes of a segment, so that its frame says what it is.
    fn write_segment_header(&self, slot: u32) {
        let segment = self.segment(slot);
        let place = Place::unpack(segment.place.load(Ordering::Relaxed));
        let Some(base) = self.hot_base(place) else { return };
        let header =
            header(segment.segment_id.load(Ordering::Relaxed), segment.class.load(Ordering::Relaxed));
        // SAFETY: the frame was just taken by this participant and nothing points into it yet.
        unsafe { std::ptr::copy_nonoverlapping(header.as_ptr(), base, header.len()) };
    }

    /// Declares that nothing in a slot is alive. Its frames come back by `reclaim`.
    pub(crate) fn retire(&self, slot: u32) {
        let segment = self.segment(slot);
        let globals = self.globals();
        segment.retired_sequence.store(globals.next_sequence.load(Ordering::SeqCst), Ordering::Relaxed);
        let retired_flush = if segment.flushed.load(Ordering::Acquire) == 0 {
            RETIRED_UNWRITTEN
        } else {
            globals.flush_count.load(Ordering::SeqCst)
        };
        segment.retired_flush.store(retired_flush, Ordering::Relaxed);
        if segment.class.load(Ordering::Relaxed) == class::EXTENT
            && segment.flushed.load(Ordering::Acquire) < segment.tail.load(Ordering::Acquire)
        {
            // The record that lists it may be on disk soon without it: an expired value has no later record that says it is gone.
            globals.extents_unwritten.fetch_add(1, Ordering::SeqCst);
        }
        segment.live_bytes.store(0, Ordering::Relaxed);
        segment.state.store(state::RETIRED, Ordering::Release);
    }

    /// Gives back a slot's frames and the slot itself; under the pool lock.
    fn free_slot(&self, slot: u32) {
        let globals = self.globals();
        let segment = self.segment(slot);
        if !matches!(segment.class.load(Ordering::Relaxed), class::CACHE | class::EXTENT | class::MOVED) {
            globals.freed_sequence.fetch_max(segment.sequence_max.load(Ordering::Relaxed), Ordering::SeqCst);
        }
        let place = Place::unpack(segment.place.load(Ordering::Relaxed));
        if let (Some(durable), Some(frame), true) =
            (&self.durable, place.cold, segment.flushed.swap(0, Ordering::Relaxed) != 0)
        {
            // Flushes clear a retired segment's frame record; where nothing is flushed it happens here, so that no recovery finds it
            // after durability is turned on. If the disk fails, the flush that durability begins with says so.
            let _writing = self.write_durable(frame);
            let _ = durable.clear_frame_record(frame);
        }
        segment.place.store(place.moved(None, None).pack(), Ordering::SeqCst);
        crash_point!("segment.freeing");
        segment.segment_id.store(0, Ordering::Release);
        segment.state.store(state::FREE, Ordering::Release);
        if let Some(frame) = place.hot {
            Self::push(self.free_hot(), &globals.free_hot, frame);
        }
        if let Some(frame) = place.cold {
            self.push_durable(frame);
        }
    }

    /// Gives back what retired slots still hold, as far as pins and durability allow. Returns the hot and cold frames regained.
    pub(crate) fn reclaim(&self) -> (u32, u32) {
        let globals = self.globals();
        let (mut hot_count, mut cold_count) = (0, 0);
        for slot in 0..self.geometry.slots {
            let segment = self.segment(slot);
            if segment.state.load(Ordering::Acquire) != state::RETIRED {
                continue;
            }
            let _pool = self.lock_pool();
            if segment.state.load(Ordering::SeqCst) != state::RETIRED || self.is_held_for_snapshot(slot) {
                continue;
            }
            let before = Place::unpack(segment.place.load(Ordering::Relaxed));
            if segment.class.load(Ordering::Relaxed) == class::MOVED
                && self.is_pinned(segment.part.load(Ordering::Relaxed))
            {
                // Who pinned the segment before it moved is still using its bytes where they were.
                continue;
            }
            let retired_flush = segment.retired_flush.load(Ordering::Relaxed);
            let flushes = globals.flush_count.load(Ordering::SeqCst).saturating_sub(retired_flush);
            let is_reusable = before.cold.is_none() || !self.is_flushed() || flushes >= FLUSHES_BEFORE_REUSE;
            if before.hot.is_none() && !is_reusable && retired_flush != RETIRED_UNWRITTEN {
                continue;
            }
            // A pin keeps the cold frame too: a snapshot reads from there.
            if !self.take_hot_frame(slot) {
                continue;
            }
            hot_count += u32::from(before.hot.is_some());
            // Without a pin no flush is at it, and none will be.
            let is_unwritten =
                retired_flush == RETIRED_UNWRITTEN && segment.flushed.load(Ordering::Acquire) == 0;
            if retired_flush == RETIRED_UNWRITTEN && !is_unwritten {
                // A flush had noted its tail before it was retired, and what supersedes it may not be in that flush.
                segment.retired_flush.store(globals.flush_count.load(Ordering::SeqCst), Ordering::Relaxed);
            }
            if is_unwritten {
                self.forget_half_written_frame(before);
            }
            if is_reusable || is_unwritten {
                self.forget_cold_frame(before, segment.flushed.load(Ordering::Relaxed));
                cold_count += u32::from(before.cold.is_some());
                self.free_slot(slot);
            }
        }
        (hot_count, cold_count)
    }

    /// Clears the frame record of a segment of which nothing was written, as far as is known: a flusher that died in the middle of it may
    /// have left one, and a deleted key could come back with it.
    fn forget_half_written_frame(&self, place: Place) {
        if let (Some(durable), Some(frame)) = (&self.durable, place.cold)
            && !matches!(durable.read_frame_record(frame), Ok(FrameState::Free))
        {
            // Should the disk fail, the next flush, which rewrites the entry or syncs the file, says so.
            let _writing = self.write_durable(frame);
            let _ = durable.clear_frame_record(frame);
        }
    }

    /// Clears the frame record of a cold frame that is given back without a flush, which would have cleared it: or a deleted key
    /// could come back with it after a reboot.
    fn forget_cold_frame(&self, place: Place, flushed: u32) {
        if let (Some(durable), Some(frame), false) =
            (&self.durable, place.cold, self.is_flushed() || flushed == 0)
        {
            let _writing = self.write_durable(frame);
            // Without durability nothing is promised that a failure here could break.
            let _ = durable.clear_frame_record(frame);
        }
    }

    /// Whether a snapshot still has to copy what a retired slot holds. What was retired before a snapshot began is not in it, so
    /// whoever saw no snapshot frees nothing that one which begins now could need.
    pub(crate) fn is_held_for_snapshot(&self, slot: u32) -> bool {
        let globals = self.globals();
        let Some(owner) = globals.snapshot_lock.owner() else { return false };
        let segment = self.segment(slot);
        let number = segment.segment_id.load(Ordering::SeqCst) >> SLOT_BITS;
        number < globals.snapshot_end.load(Ordering::SeqCst)
            && segment.snapshot_copied.load(Ordering::SeqCst)
                != globals.snapshot_number.load(Ordering::SeqCst)
            && self.member.is_alive(owner)
    }

    /// The durable frame that a segment of the log or an extent was opened with.
    ///
    /// # Errors
    /// Corrupt: there is none.
    pub(crate) fn durable_frame(&self, slot: u32) -> Result<u32> {
        Place::unpack(self.segment(slot).place.load(Ordering::SeqCst)).cold.ok_or_else(|| {
            Error::corrupt(format!(
                "segment slot {slot} of {} has no frame in a durable tier; run `thermae check`",
                self.paths.location
            ))
        })
    }

    /// Gives up a segment's hot frame, its bytes being in its cold frame. False while someone pins it, and where the slot has become another
    /// segment's: an extent may be overwritten and freed at any time.
    pub(crate) fn drop_hot_frame(&self, slot: u32, segment_id: u64) -> bool {
        let _pool = self.lock_pool();
        let segment = self.segment(slot);
        let is_same = segment.segment_id.load(Ordering::Acquire) == segment_id
            && matches!(segment.state.load(Ordering::Acquire), state::CLOSED | state::EXTENT);
        let has_hot = Place::unpack(segment.place.load(Ordering::Relaxed)).hot.is_some();
        is_same && has_hot && self.is_in_cold(slot) && self.take_hot_frame(slot)
    }

    /// Whether a segment's cold frame holds all of it.
    pub(crate) fn is_in_cold(&self, slot: u32) -> bool {
        let segment = self.segment(slot);
        let tail = segment.tail.load(Ordering::Acquire);
        Place::unpack(segment.place.load(Ordering::Acquire)).cold.is_some()
            && tail > 0
            && segment.flushed.load(Ordering::Acquire) >= tail
    }

    /// Frees the hot frame of a slot, if it has one. False while someone pins the slot. The caller holds the pool lock.
    fn take_hot_frame(&self, slot: u32) -> bool {
        let globals = self.globals();
        let segment = self.segment(slot);
        let place = Place::unpack(segment.place.load(Ordering::Relaxed));
        // The place changes before the pins are read: a pin set later sees the change and is given up by its owner. Until the pins are read the
        // frame is in no place and on no stack; who inherits the lock must not take it for free.
        if let Some(frame) = place.hot {
            globals.unplaced.store(u64::from(slot + 1) << 32 | u64::from(frame), Ordering::SeqCst);
        }
        let without_hot = place.moved(None, place.cold);
        segment.place.store(without_hot.pack(), Ordering::SeqCst);
        crash_point!("segment.unplaced");
        let is_pinned = self.is_pinned(slot);
        if is_pinned {
            crash_point!("segment.unplaced_though_pinned");
            segment.place.store(without_hot.moved(place.hot, place.cold).pack(), Ordering::SeqCst);
        } else if let Some(frame) = place.hot {
            Self::push(self.free_hot(), &globals.free_hot, frame);
        }
        globals.unplaced.store(0, Ordering::SeqCst);
        !is_pinned
    }

    /// Gives a frame back to its slot that a dead participant was about to free: whether it is pinned is looked at anew by who wants it next.
    fn restore_unplaced(&self) {
        let globals = self.globals();
        let unplaced = globals.unplaced.load(Ordering::SeqCst);
        if let Some(slot) =
            ((unplaced >> 32) as u32).checked_sub(1).filter(|&slot| slot < self.geometry.slots)
        {
            let segment = self.segment(slot);
            let place = Place::unpack(segment.place.load(Ordering::SeqCst));
            if place.hot.is_none() && segment.state.load(Ordering::Acquire) != state::FREE {
                segment.place.store(place.moved(Some(unplaced as u32), place.cold).pack(), Ordering::SeqCst);
            }
        }
        globals.unplaced.store(0, Ordering::SeqCst);
    }

    /// Recomputes the free stacks from the slots and the index frames. Under the pool lock, just inherited.
    pub(crate) fn repair_pool(&self) {
        let globals = self.globals();
        self.restore_unplaced();
        self.finish_moving();
        let mut hot_used = vec![false; self.geometry.hot_frames as usize];
        let mut durable_used = vec![false; self.geometry.durable_frames() as usize];
        let index_count = globals.index_frames.load(Ordering::Acquire) as usize;
        for frame in self.index_frames().iter().take(index_count) {
            let frame = frame.load(Ordering::Relaxed);
            let used = match frame.checked_sub(self.geometry.hot_frames) {
                None => hot_used.get_mut(frame as usize),
                Some(warm) if warm < self.geometry.warm_frames => durable_used.get_mut(warm as usize),
                Some(_) => None,
            };
            if let Some(used) = used {
                *used = true;
            }
        }
        for segment in self.segments() {
            let place = Place::unpack(segment.place.load(Ordering::SeqCst));
            let is_free = segment.state.load(Ordering::Acquire) == state::FREE;
            if is_free {
                // Died between taking frames and describing the slot, or between freeing one and the other.
                if place.hot.is_some() || place.cold.is_some() {
                    segment.place.store(place.moved(None, None).pack(), Ordering::SeqCst);
                }
                continue;
            }
            if let Some(used) = place.hot.and_then(|frame| hot_used.get_mut(frame as usize)) {
                *used = true;
            }
            if let Some(used) = place.cold.and_then(|frame| durable_used.get_mut(frame as usize)) {
                *used = true;
            }
        }
        let (warm_used, cold_used) = durable_used.split_at(self.geometry.warm_frames as usize);
        Self::refill(self.free_hot(), &globals.free_hot, &hot_used, 0);
        Self::refill(self.free_warm(), &globals.free_warm, warm_used, 0);
        Self::refill(self.free_cold(), &globals.free_cold, cold_used, self.geometry.warm_frames);
    }

    /// Gives a segment the durable frame that a holder has, and the holder the segment's own, which comes free when nobody who pinned the
    /// segment before uses it any more. False where the segment is not what it was, or no longer in `from`.
    pub(crate) fn exchange_frames(&self, slot: u32, segment_id: u64, from: u32, holder: u32) -> bool {
        let _pool = self.lock_pool();
        let globals = self.globals();
        let segment = self.segment(slot);
        let place = Place::unpack(segment.place.load(Ordering::Relaxed));
        let is_same = segment.segment_id.load(Ordering::SeqCst) == segment_id
            && matches!(segment.state.load(Ordering::SeqCst), state::CLOSED | state::EXTENT)
            && place.cold == Some(from);
        let Some(to) =
            Place::unpack(self.segment(holder).place.load(Ordering::Relaxed)).cold.filter(|_| is_same)
        else {
            return false;
        };
        self.segment(holder).part.store(slot, Ordering::Relaxed);
        // Two words change, and whoever inherits the lock in between has to know which frame is whose.
        globals.moving_from.store(from, Ordering::SeqCst);
        globals.moving.store(u64::from(slot + 1) << 32 | u64::from(holder), Ordering::SeqCst);
        segment.place.store(place.moved(place.hot, Some(to)).pack(), Ordering::SeqCst);
        crash_point!("migrate.moving");
        self.finish_moving();
        true
    }

    /// Gives the holder the frame that a segment has left, if it has. Under the pool lock.
    fn finish_moving(&self) {
        let globals = self.globals();
        let moving = globals.moving.load(Ordering::SeqCst);
        let (slot, holder) = (((moving >> 32) as u32).checked_sub(1), moving as u32);
        let slots = 0..self.geometry.slots;
        if let Some(slot) = slot.filter(|slot| slots.contains(slot) && slots.contains(&holder)) {
            let from = globals.moving_from.load(Ordering::SeqCst);
            let has_left = Place::unpack(self.segment(slot).place.load(Ordering::SeqCst)).cold != Some(from);
            let other = self.segment(holder);
            if has_left && other.class.load(Ordering::Relaxed) == class::MOVED {
                let place = Place::unpack(other.place.load(Ordering::SeqCst));
                other.place.store(place.moved(None, Some(from)).pack(), Ordering::SeqCst);
            }
        }
        globals.moving.store(0, Ordering::SeqCst);
    }

    /// Writes a stack anew, lowest frame on top; `first` is the number of the first frame.
    pub(crate) fn refill(stack: &[AtomicU32], height: &AtomicU32, used: &[bool], first: u32) {
        let mut top = 0;
        for frame in (0..used.len()).rev().filter(|&frame| !used[frame]) {
            stack[top].store(first + u32::try_from(frame).unwrap_or(u32::MAX), Ordering::Relaxed);
            top += 1;
        }
        height.store(u32::try_from(top).unwrap_or(u32::MAX), Ordering::Release);
    }

    /// Hashes of the keys whose large values a dead participant was writing.
    pub(crate) fn pending_extent_hashes(&self, dead: u32) -> Vec<u64> {
        // The state first: the owner read after it is this use's of the slot, or a later one's.
        let is_pending = |segment: &&Segment| {
            segment.state.load(Ordering::Acquire) == state::EXTENT_PENDING
                && segment.owner.load(Ordering::Relaxed) == dead
        };
        self.segments()
            .iter()
            .filter(is_pending)
            .map(|segment| segment.key_hash.load(Ordering::Relaxed))
            .collect()
    }

    /// Gives up what a dead participant was setting up: segments half opened, extents never published.
    pub(crate) fn release_segments_of(&self, dead: u32) {
        for slot in 0..self.geometry.slots {
            let segment = self.segment(slot);
            let current = segment.state.load(Ordering::Acquire);
            if segment.owner.load(Ordering::Relaxed) != dead {
                continue;
            }
            match current {
                state::OPENING | state::EXTENT_PENDING => self.retire(slot),
                state::OPEN if !self.is_head(slot) => segment.state.store(state::CLOSED, Ordering::Release),
                _ => {}
            }
        }
    }

    fn is_head(&self, slot: u32) -> bool {
        self.globals().heads.iter().any(|head| head.slot_plus_one.load(Ordering::Acquire) == slot + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::index_share;

    #[test]
    fn the_index_leaves_frames_to_values_in_any_store() {
        assert_eq!([4, 8, 15, 16, 31, 64, 1024].map(index_share), [2, 4, 8, 8, 23, 48, 768]);
    }
}
