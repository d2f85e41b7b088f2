//! Compaction: live records are copied together so that whole frames come free.
//!
//! **Which segment.** The one with the best benefit for its cost: gain x age / u, where gain is the share of a frame that is dead, for the
//! most part (see `worth_compacting`), u the share that is alive, and age how many segments were opened since: free space in old segments
//! stays free, while a young one will be emptier by itself soon (after Rosenblum and Ousterhout, "The design and implementation of a
//! log-structured file system", 1992; u instead of their 1 + u because what is written counts here, not what is read: in a simulation of
//! Zipfian overwrites at 85 % it writes a seventh less).
//! Survivors go to segments of their own, so that records which live long are not copied along with fresh ones again and again.
//!
//! **What must not get lost.** A replay of the log must not bring back what was deleted, expired or evicted. Such a fact is in the log until a checkpoint
//! covers it: newer tombstones and expiries are carried along, older ones may go (a checkpoint raises the superblock's tombstone floor
//! before it counts).
//!
//! A damaged segment is left where it is: reads of its damaged records fail with an error, the others succeed.

use crate::census::{Candidate, Census, Tried};
use crate::crash::crash_point;
use crate::engine::Engine;
use crate::error::Result;
use crate::layout::{SLOT_BITS, SURVIVOR_HEAD, class, state};
use crate::record;
use crate::relocate::{Fate, Walk, Wanted};
use crate::segment::Room;
use std::sync::atomic::Ordering;

/// Smallest share of a frame, in percent, that compacting a segment must gain when nothing may be dropped.
pub(crate) const COMPACT_GAIN_PERCENT_MIN: u64 = 3;
/// The same where dropping old data is allowed: for less, copying costs more than what it keeps is worth.
pub(crate) const COMPACT_BEFORE_EVICT_GAIN_PERCENT_MIN: u64 = 10;

impl Engine {
    /// Whether survivors of `bytes` fit in what the survivors' head and the reserve have left.
    pub(crate) fn survivors_fit(&self, bytes: u32) -> Result<(), Room> {
        let left = self.open_slot(SURVIVOR_HEAD).map_or(0, |slot| {
            self.geometry.frame_bytes.saturating_sub(self.segment(slot).tail.load(Ordering::Relaxed))
        });
        // Records do not fill a segment to the last byte: half is a margin that any mix of records respects.
        if bytes <= left / 2 {
            return Ok(());
        }
        if self.free_hot_frames() <= 0 {
            return Err(Room::Hot);
        }
        if self.durable.is_some() && self.free_durable() == 0 {
            return Err(Room::Cold);
        }
        Ok(())
    }

    /// Segments worth compacting, and what is gained: at least `gain_percent_min` of a frame.
    ///
    /// That is what is dead in it; and its end, where a record of any size would have found room there, but only if there is another such
    /// end to fill it up with. A shorter end is no gain: the next record did not fit, nor will it where the survivors go; counted, it would
    /// have the same values copied again and again.
    pub(crate) fn worth_compacting<'c>(
        &self,
        census: &'c Census,
        gain_percent_min: u64,
    ) -> Vec<(&'c Candidate, u32)> {
        let frame_bytes = self.geometry.frame_bytes;
        let record_bytes_max = record::inline_total_max(self.geometry.inline_value_max());
        let usable_end_bytes = |tail: u32| {
            let end_bytes = frame_bytes.saturating_sub(tail);
            if end_bytes as usize >= record_bytes_max { end_bytes } else { 0 }
        };
        let of_log = || census.closed.iter().filter(|candidate| candidate.class != class::CACHE);
        let open_tail =
            self.open_slot(SURVIVOR_HEAD).map(|slot| self.segment(slot).tail.load(Ordering::Relaxed));
        let ends = of_log()
            .map(|candidate| candidate.tail)
            .chain(open_tail)
            .filter(|&tail| usable_end_bytes(tail) > 0)
            .count();
        of_log()
            .map(|candidate| {
                if candidate.live_bytes == 0 {
                    // Nothing has to be copied: its frame is gained, however little was written to it.
                    return (candidate, frame_bytes);
                }
                let end_bytes = if ends > 1 { usable_end_bytes(candidate.tail) } else { 0 };
                (candidate, candidate.dead_bytes() + end_bytes)
            })
            .filter(|&(_, gain_bytes)| {
                u64::from(gain_bytes) * 100 >= u64::from(frame_bytes) * gain_percent_min
            })
            .collect()
    }

    /// The segment that is best compacted, of those that were not tried and whose survivors there is room for.
    pub(crate) fn best_to_compact(
        &self,
        census: &Census,
        gain_percent_min: u64,
        tried: &Tried,
    ) -> Option<Candidate> {
        let frame_bytes = f64::from(self.geometry.frame_bytes);
        let next_segment = self.globals().next_segment.load(Ordering::Relaxed);
        let mut rated: Vec<(f64, &Candidate)> = self
            .worth_compacting(census, gain_percent_min)
            .into_iter()
            .filter(|(candidate, _)| !tried.contains(&candidate.slot))
            .map(|(candidate, gain_bytes)| {
                let gained = f64::from(gain_bytes) / frame_bytes;
                let alive = f64::from(candidate.live_bytes) / frame_bytes;
                let age = next_segment.saturating_sub(candidate.segment_id >> SLOT_BITS) + 1;
                // One in a thousand more, so that the age still counts among segments without anything alive.
                (gained * age as f64 / (alive + 0.001), candidate)
            })
            .collect();
        rated.sort_unstable_by(|one, other| other.0.total_cmp(&one.0));
        let mut candidates = rated.into_iter().map(|(_, candidate)| *candidate);
        candidates.find(|candidate| {
            self.survivors_fit(candidate.live_bytes).is_ok() && !self.is_pinned(candidate.slot)
        })
    }

    /// Moves what is alive in a segment to the survivors and retires it. False where that was not possible, or not to the end.
    /// The caller holds the room lock.
    pub(crate) fn compact_segment(&self, slot: u32) -> Result<bool> {
        let Some(walk) = self.walk(slot, Wanted::All)?.filter(|walk| walk.is_complete) else {
            return Ok(false);
        };
        if self.has_batches_to_flush(&walk) {
            self.flush_once()?;
            if self.has_batches_to_flush(&walk) {
                return Ok(false);
            }
        }
        self.compact_walked(&walk)
    }

    /// Whether a segment holds records of transactions that a power failure could still undo. Such a batch is on disk whole or not at all, but
    /// copies of its records would each count alone: so it is flushed before any of it is moved.
    pub(crate) fn has_batches_to_flush(&self, walk: &Walk<'_>) -> bool {
        let watermark = self.globals().watermark.load(Ordering::SeqCst);
        self.is_flushed()
            && self.segment(walk.slot).sequence_max.load(Ordering::Acquire) > watermark
            && walk.items.iter().any(|&item| {
                self.item_record(walk, item)
                    .is_some_and(|record| record.word.is_in_batch() && record.sequence > watermark)
            })
    }

    /// The same as [`Engine::compact_segment`], for a segment that was walked and holds no such records.
    pub(crate) fn compact_walked(&self, walk: &Walk<'_>) -> Result<bool> {
        let is_cache = walk.class == class::CACHE;
        let tally = self
            .pass(walk, usize::MAX, |live| if is_cache { Fate::Home } else { Fate::Survive(live.access) });
        Self::count(&self.counters().compacted_bytes, tally.copied_bytes);
        if !tally.is_emptied() {
            return Ok(false);
        }
        self.retire_emptied(walk)
    }

    /// Retires a segment in which nothing is alive, after carrying along what a replay needs. False where there is no room for that.
    pub(crate) fn retire_emptied(&self, walk: &Walk<'_>) -> Result<bool> {
        match self.carry(walk, self.covered_sequence(walk)) {
            Ok(carried_bytes) => Self::count(&self.counters().compacted_bytes, carried_bytes),
            Err(_) => return Ok(false),
        }
        crash_point!("compact.emptied");
        self.retire(walk.slot);
        crash_point!("compact.retired");
        Ok(true)
    }

    /// Up to which sequence number deletions and expiries of this segment need not be carried along: as far as a checkpoint covers them, and
    /// as far as no other segment holds anything older that they could be needed against. This segment counts too where only its beginning
    /// was flushed: that stays on disk for some flushes more, and what follows it will not be written any more.
    fn covered_sequence(&self, walk: &Walk<'_>) -> u64 {
        let checkpoint = self.globals().checkpoint_sequence.load(Ordering::Acquire);
        let own = self.segment(walk.slot);
        let flushed = own.flushed.load(Ordering::Acquire);
        let is_half_flushed = flushed != 0 && flushed < own.tail.load(Ordering::Acquire);
        let oldest = self
            .segments()
            .iter()
            .enumerate()
            .filter(|&(slot, segment)| {
                let is_log = !matches!(
                    segment.class.load(Ordering::Relaxed),
                    class::CACHE | class::EXTENT | class::MOVED
                );
                let counts = slot as u32 != walk.slot || is_half_flushed;
                is_log && counts && segment.state.load(Ordering::Acquire) != state::FREE
            })
            .map(|(_, segment)| segment.sequence_min.load(Ordering::Relaxed))
            .min();
        checkpoint.max(oldest.unwrap_or(u64::MAX).saturating_sub(1))
    }
}
