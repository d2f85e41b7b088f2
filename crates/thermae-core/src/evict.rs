//! Eviction of a store without a cold tier: what is dropped when memory is full.
//!
//! **The idea (S3-FIFO).** Most keys that are stored are never read again before they would be dropped anyway. So a new key earns its place: fresh segments
//! are a small queue of about a tenth of the memory, and only what was read while in it moves on, to the survivors, which are the
//! main queue. Both queues are first in, first out; a survivor that was read since it was last looked at is appended again with one
//! read less on its account. A key that leaves the small queue unread leaves a ghost behind (an empty index entry that remembers
//! its tag), and if it comes back while the ghost lasts it goes to the main queue at once. Readers only ever bump a byte: no list, no lock.
//!
//! A victim is a segment, so one pass frees a frame and memory is never fragmented. Of the first few victims everything that was read is kept;
//! of those after them at most three quarters of a frame, the most read part. So room is made in a bounded number of steps, however
//! hot everything is.
//!
//! Large values are evicted by their records, one at a time, also from a segment that is still being appended to.
//!
//! Source: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023. Rejected: exact LRU, which needs a write to
//! shared memory and a lock on every read; and sampling, whose victims are scattered, so that frames free up only by copying.

use crate::census::{Candidate, Census, Tried};
use crate::engine::Engine;
use crate::error::Result;
use crate::layout::{HEADS, SURVIVOR_HEAD, class};
use crate::relocate::{Fate, Keep, Live, Wanted};

/// Share of the data's frames that the small queue may have.
pub(crate) const SMALL_SHARE_PERCENT: u32 = 10;
/// Reads with which a record leaves the small queue for the main queue.
const SMALL_SURVIVES_AT: u8 = 1;
/// Reads with which a record of the main queue is kept for another round.
const MAIN_SURVIVES_AT: u8 = 1;

/// Victims' bytes that may all be kept while making room once, if all of it was read: copying them takes some milliseconds.
const GENEROUS_BYTES: u64 = 8 << 20;

impl Engine {
    /// Most bytes of a victim that are kept, after others were tried.
    pub(crate) fn kept_bytes_max(&self, tried: &Tried) -> u64 {
        let frame_bytes = u64::from(self.geometry.frame_bytes);
        if tried.len() as u64 * frame_bytes <= GENEROUS_BYTES { u64::MAX } else { frame_bytes / 4 * 3 }
    }

    /// Empties one segment by dropping what is in it and was not read, or drops a large value. True if anything came of it. The
    /// caller holds the room lock.
    pub(crate) fn evict_step(&self, tried: &mut Tried) -> Result<bool> {
        let census = self.census();
        let nearly_dead = census
            .closed
            .iter()
            .filter(|candidate| candidate.is_nearly_dead() && !tried.contains(&candidate.slot))
            .find(|candidate| !self.is_pinned(candidate.slot));
        if let Some(candidate) =
            nearly_dead.filter(|candidate| self.survivors_fit(candidate.live_bytes).is_ok())
        {
            tried.insert(candidate.slot);
            return self.compact_segment(candidate.slot);
        }
        let small_first = census.fresh_frames * 100 > SMALL_SHARE_PERCENT * census.data_frames();
        for is_small in [small_first, !small_first] {
            if let Some(candidate) = self.oldest_of_queue(&census, is_small, tried) {
                tried.insert(candidate.slot);
                return self.evict_segment(candidate.slot, is_small, self.kept_bytes_max(tried));
            }
        }
        for is_small in [small_first, !small_first] {
            for slot in
                self.open_slots(0..HEADS as u32).into_iter().filter(|&slot| self.is_of_queue(slot, is_small))
            {
                if self.evict_segment(slot, is_small, 0)? {
                    return Ok(true);
                }
            }
        }
        let numbers = if small_first {
            [0..SURVIVOR_HEAD, SURVIVOR_HEAD..HEADS as u32]
        } else {
            [SURVIVOR_HEAD..HEADS as u32, 0..SURVIVOR_HEAD]
        };
        Ok(numbers.into_iter().any(|numbers| self.close_oldest_head(numbers)))
    }

    fn is_of_queue(&self, slot: u32, is_small: bool) -> bool {
        let class = self.segment(slot).class.load(std::sync::atomic::Ordering::Relaxed);
        (class != class::SURVIVOR) == is_small
    }

    fn oldest_of_queue<'c>(
        &self,
        census: &'c Census,
        is_small: bool,
        tried: &Tried,
    ) -> Option<&'c Candidate> {
        census
            .closed
            .iter()
            .filter(|candidate| {
                (candidate.class != class::SURVIVOR) == is_small && !tried.contains(&candidate.slot)
            })
            .find(|candidate| !self.is_pinned(candidate.slot))
    }

    /// Decides about every record of a segment. An open segment gives up large values only.
    fn evict_segment(&self, slot: u32, is_small: bool, budget_bytes: u64) -> Result<bool> {
        let Some(walk) = self.walk(slot, Wanted::All)? else { return Ok(false) };
        let first = if is_small { SMALL_SURVIVES_AT } else { MAIN_SURVIVES_AT };
        let mut keep = Keep::new(&self.weigh(&walk), first, budget_bytes);
        let is_closed = walk.is_complete;
        let tally = self.pass(&walk, 1, |live: &Live<'_>| {
            if !is_closed && !live.is_large() {
                Fate::Stay
            } else if keep.keeps(live.count(), live.record.total) {
                // Reads in the small queue have bought the place in the main queue; there they count anew.
                Fate::SurviveOrEvict(if is_small { 0 } else { live.count().saturating_sub(1) })
            } else {
                Fate::Evict { leave_ghost: is_small }
            }
        });
        if is_closed && tally.is_emptied() {
            self.retire(slot);
            return Ok(true);
        }
        Ok(tally.extents > 0)
    }
}
