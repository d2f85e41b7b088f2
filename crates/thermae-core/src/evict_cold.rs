//! Eviction of a store with a cold tier: what is dropped when that is full.
//!
//! First in, first out: what was read lately is given another round. What must not happen is that a replay of the log brings back an older value of a
//! key that was dropped. A segment of the log is dropped once a checkpoint covers it. A large value is dropped as if it was deleted: beside
//! it a tombstone is nothing, no checkpoint is needed, and it goes alone. So a store of nothing but large values, which is full before
//! they fill a segment of the log, forgets its oldest value and not all of them.

use crate::census::{Candidate, Census, Tried};
use crate::engine::{Engine, PartitionGuard};
use crate::error::Result;
use crate::evict_key::Found;
use crate::index::ACCESS_MAX;
use crate::layout::class;
use crate::relocate::{Fate, Keep, Wanted};
use std::sync::atomic::Ordering;

/// What counts of how often a large value was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// Who was read gets another round, with one read less on the account.
    Spare,
    /// The oldest goes.
    Ignore,
}

impl Engine {
    /// Drops the oldest of what there is. False where there is nothing to drop. The caller holds the room lock.
    pub(crate) fn evict_cold_step(&self, tried: &mut Tried) -> Result<bool> {
        let census = self.census();
        let is_untried = |candidate: &&Candidate| {
            candidate.class != class::CACHE
                && !tried.contains(&candidate.slot)
                && !self.is_pinned(candidate.slot)
        };
        let oldest = census.closed.iter().find(is_untried).map_or(u64::MAX, |candidate| candidate.segment_id);
        Ok(self.evict_large(&census, tried, oldest, Reads::Spare)?
            || self.evict_covered(tried)?
            || self.evict_large(&census, &mut Tried::new(), u64::MAX, Reads::Ignore)?)
    }

    /// Drops the oldest segment of the log that a checkpoint covers, but for what was read lately. False where there is none.
    fn evict_covered(&self, tried: &mut Tried) -> Result<bool> {
        let covers = |census: &Census, tried: &Tried| {
            let checkpoint = self.globals().checkpoint_sequence.load(Ordering::Acquire);
            census
                .closed
                .iter()
                .filter(|candidate| candidate.class != class::CACHE && !tried.contains(&candidate.slot))
                .filter(|candidate| candidate.sequence_max <= checkpoint)
                .map(|candidate| candidate.slot)
                .find(|&slot| !self.is_pinned(slot))
        };
        let mut oldest = covers(&self.census(), tried);
        if oldest.is_none() {
            if self.globals().checkpoint_lock.owner().is_some() {
                self.hasten_checkpoint()?;
            } else {
                self.cover_log()?;
            }
            oldest = covers(&self.census(), tried);
        }
        let Some(slot) = oldest else { return Ok(false) };
        tried.insert(slot);
        let checkpoint = self.globals().checkpoint_sequence.load(Ordering::Acquire);
        let sequence_max = self.segment(slot).sequence_max.load(Ordering::Acquire);
        if sequence_max > checkpoint {
            return Ok(false);
        }
        let Some(walk) = self.walk(slot, Wanted::All)?.filter(|walk| walk.is_complete) else {
            return Ok(false);
        };
        let budget_bytes = u64::from(self.geometry.frame_bytes) / 4;
        let mut cached_left = budget_bytes;
        let mut keep = Keep::new(&self.weigh(&walk), 1, budget_bytes);
        let tally = self.pass(&walk, usize::MAX, |live| {
            let total = live.record.total;
            let is_kept =
                if live.is_cached { cached_left >= total as u64 } else { keep.keeps(live.count(), total) };
            if is_kept {
                cached_left -= if live.is_cached { total as u64 } else { 0 };
                Fate::SurviveOrEvict(live.access)
            } else {
                Fate::Evict { leave_ghost: false }
            }
        });
        Self::count(&self.counters().compacted_bytes, tally.copied_bytes);
        if tally.is_emptied() { self.retire_emptied(&walk) } else { Ok(false) }
    }

    /// Drops the oldest large value, of those older than a segment identity. False where there is none.
    fn evict_large(&self, census: &Census, tried: &mut Tried, before: u64, reads: Reads) -> Result<bool> {
        for extent in census.extents.iter().take_while(|extent| extent.segment_id < before) {
            // One extent stands for all of its value's.
            let is_first = self.segment(extent.slot).part.load(Ordering::Relaxed) == 0;
            if is_first
                && !self.is_pinned(extent.slot)
                && tried.insert(extent.slot)
                && self.drop_large(*extent, reads)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Drops the value that an extent is a part of. False where it was spared, or is gone.
    fn drop_large(&self, extent: Candidate, reads: Reads) -> Result<bool> {
        let hash = self.segment(extent.slot).key_hash.load(Ordering::Acquire);
        let mut cold = Vec::new();
        loop {
            let guard = self.lock_partition(self.partition_of(hash));
            match self.find_large(&guard, hash, extent.segment_id, &cold) {
                Found::Nowhere => return Ok(false),
                Found::Victim(large) => {
                    let access = large.place.access().load(Ordering::Relaxed);
                    if reads == Reads::Spare && access & ACCESS_MAX > 0 && !large.is_expired {
                        large.place.access().store(access - 1, Ordering::Relaxed);
                        return Ok(false);
                    }
                    return Ok(self.drop_victim(&guard, &large).is_ok());
                }
                Found::Cold(entry) => {
                    drop(guard);
                    self.fetch_cold(entry, &mut cold)?;
                }
            }
        }
    }

    /// The large value that an extent is a part of; nowhere where its key has another value by now, or its record is damaged.
    fn find_large(
        &self,
        guard: &PartitionGuard<'_>,
        hash: u64,
        extent_id: u64,
        cold: &[(u64, u64, Vec<u8>)],
    ) -> Found<'_> {
        let mut probe = self.probe(self.table(guard.number), self.tag(hash));
        while let Some((place, entry)) = probe.next() {
            match self.victim_at(place, entry, cold) {
                Found::Victim(victim) if victim.extents.contains(&extent_id) => return Found::Victim(victim),
                Found::Cold(entry) => return Found::Cold(entry),
                Found::Victim(_) | Found::Nowhere => {}
            }
        }
        Found::Nowhere
    }
}
