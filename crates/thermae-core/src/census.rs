//! What is in the tiers now: the segments that could be emptied, by age, and how the frames are divided.
//!
//! One look at the segment table, without locks: a hint. Whoever acts on a candidate looks at the segment itself again.

use crate::engine::Engine;
use crate::layout::{Place, Segment, class, state};
use std::collections::HashSet;
use std::sync::atomic::Ordering;

/// A closed segment of the log, or a published extent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub slot: u32,
    pub segment_id: u64,
    pub class: u32,
    pub tail: u32,
    /// Bytes that would have to be moved: of live records, and of tombstones that no checkpoint covers.
    pub live_bytes: u32,
    /// Those of such tombstones.
    pub tombstone_bytes: u32,
    pub is_hot: bool,
    /// Whether its durable frame is the warm tier's.
    pub is_warm: bool,
    /// Nothing of it was written to the cold tier yet.
    pub is_unwritten: bool,
    pub sequence_max: u64,
}

impl Candidate {
    /// Bytes that need not be moved.
    pub(crate) fn dead_bytes(&self) -> u32 {
        self.tail.saturating_sub(self.live_bytes)
    }

    /// Whether so little of it is alive that moving the rest costs next to nothing.
    pub(crate) fn is_nearly_dead(&self) -> bool {
        self.live_bytes <= self.tail / 8
    }
}

/// The tiers at one moment.
#[derive(Debug, Default)]
pub(crate) struct Census {
    /// Closed segments of the log, oldest first.
    pub closed: Vec<Candidate>,
    /// Published extents, oldest first.
    pub extents: Vec<Candidate>,
    /// Hot frames of fresh segments and TTL classes.
    pub fresh_frames: u32,
    /// Hot frames of survivors.
    pub survivor_frames: u32,
    /// Hot frames of cache copies.
    pub cache_frames: u32,
    /// Hot frames of large values.
    pub extent_frames: u32,
    /// Retired segments that still hold a hot frame.
    pub retired_hot: u32,
    /// Retired segments that still hold a cold frame.
    pub retired_cold: u32,
}

impl Census {
    /// Hot frames that hold data.
    pub(crate) fn data_frames(&self) -> u32 {
        self.fresh_frames + self.survivor_frames + self.cache_frames + self.extent_frames
    }
}

/// Segments that were looked at in vain while making room this time.
pub(crate) type Tried = HashSet<u32>;

impl Engine {
    /// Looks at every segment once.
    pub(crate) fn census(&self) -> Census {
        let mut census = Census::default();
        for (slot, segment) in self.segments().iter().enumerate() {
            let current = segment.state.load(Ordering::Acquire);
            if matches!(current, state::FREE | state::OPENING) {
                continue;
            }
            let place = Place::unpack(segment.place.load(Ordering::Relaxed));
            let tail = segment.tail.load(Ordering::Relaxed);
            let tombstone_bytes = self.uncovered_tombstone_bytes(segment);
            let candidate = Candidate {
                slot: slot as u32,
                segment_id: segment.segment_id.load(Ordering::Relaxed),
                class: segment.class.load(Ordering::Relaxed),
                tail,
                live_bytes: segment.live_bytes.load(Ordering::Relaxed).saturating_add(tombstone_bytes),
                tombstone_bytes,
                is_hot: place.hot.is_some(),
                is_warm: place.cold.is_some_and(|frame| frame < self.geometry.warm_frames),
                is_unwritten: segment.flushed.load(Ordering::Relaxed) == 0,
                sequence_max: segment.sequence_max.load(Ordering::Relaxed),
            };
            let is_hot = u32::from(candidate.is_hot);
            match current {
                state::RETIRED => {
                    census.retired_hot += is_hot;
                    census.retired_cold += u32::from(place.cold.is_some());
                    continue;
                }
                state::EXTENT => census.extents.push(candidate),
                state::CLOSED => census.closed.push(candidate),
                _ => {}
            }
            match candidate.class {
                class::SURVIVOR => census.survivor_frames += is_hot,
                class::CACHE => census.cache_frames += is_hot,
                class::EXTENT => census.extent_frames += is_hot,
                _ => census.fresh_frames += is_hot,
            }
        }
        census.closed.sort_unstable_by_key(|candidate| candidate.segment_id);
        census.extents.sort_unstable_by_key(|candidate| candidate.segment_id);
        census
    }

    /// Bytes of a segment that would have to be moved: of live records, and of tombstones that no checkpoint covers.
    pub(crate) fn needed_bytes(&self, segment: &Segment) -> u32 {
        segment.live_bytes.load(Ordering::Relaxed).saturating_add(self.uncovered_tombstone_bytes(segment))
    }

    /// Bytes of a segment's tombstones that no checkpoint covers.
    pub(crate) fn uncovered_tombstone_bytes(&self, segment: &Segment) -> u32 {
        if self.durable.is_none() {
            // They were written for a snapshot, and no replay asks for them.
            return 0;
        }
        let checkpoint = self.globals().checkpoint_sequence.load(Ordering::Acquire);
        let is_covered = segment.sequence_max.load(Ordering::Relaxed) <= checkpoint;
        if is_covered { 0 } else { segment.tombstone_bytes.load(Ordering::Relaxed) }
    }

    /// Closes the oldest open segment of the heads in `numbers` that holds anything, so that it can be emptied. False where there is none.
    pub(crate) fn close_oldest_head(&self, numbers: std::ops::Range<u32>) -> bool {
        let oldest = numbers
            .filter_map(|number| {
                let slot = self.open_slot(number)?;
                let segment = self.segment(slot);
                let is_used =
                    segment.tail.load(Ordering::Relaxed) as usize > crate::layout::SEGMENT_HEADER_BYTES;
                is_used.then(|| (segment.segment_id.load(Ordering::Relaxed), number))
            })
            .min();
        if let Some((_, number)) = oldest {
            self.close_open_segment(number);
        }
        oldest.is_some()
    }

    /// Slots that the heads in `numbers` append to, oldest first.
    pub(crate) fn open_slots(&self, numbers: std::ops::Range<u32>) -> Vec<u32> {
        let mut slots: Vec<u32> = numbers.filter_map(|number| self.open_slot(number)).collect();
        slots.sort_unstable_by_key(|&slot| self.segment(slot).segment_id.load(Ordering::Relaxed));
        slots
    }
}
