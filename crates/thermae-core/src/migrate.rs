//! Migration: what is old leaves the warm tier for the cold one, so that what is new finds room there.
//!
//! **The idea.** The warm tier takes every flush, for its syncs cost little, and serves what it holds where it lies. It is a queue: the oldest segments
//! leave it first, a little ahead of demand; what is read often is in the hot tier meanwhile, and what is read again from the cold one goes
//! back there. A segment in which more than half is dead is not moved but compacted: flash is then written to for what is alive.
//! Nobody waits for a migration: where the warm tier is full, new segments go to the cold one directly.
//!
//! **Order.** Bytes, sync, entry in the frame table, sync, the new place. So a power failure leaves either no entry in the cold tier, or a
//! whole copy under it; a recovery that finds a segment in both tiers takes the cold one (see `recover`), whatever has become of the
//! warm frame. Addresses do not change, nor does anything in the index.
//!
//! **Death.** A slot of its own (class MOVED) holds the cold frame until the segment has it, and from then on the warm one, until nobody who pinned
//! the segment before uses that any more. Whoever dies on the way leaves a slot that the reaper retires, like any that was being set up.

use crate::census::{Candidate, Tried};
use crate::crash::crash_point;
use crate::durable::DurableTiers;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::frame_file::FrameState;
use crate::layout::{Place, class, state};
use std::sync::atomic::Ordering;

/// Share of the warm tier's frames that is kept free.
const WARM_FREE_PERCENT: u32 = 6;
/// Frames that are kept free at least.
const WARM_FREE_MIN: u32 = 4;
/// Segments that share two syncs.
const BATCH_SEGMENTS: usize = 8;
/// Batches in one round of the keeper.
const BATCHES_MAX: usize = 4;
/// Share of a segment, in percent, that must be alive for it to be moved rather than compacted.
const MOVED_ALIVE_PERCENT_MIN: u64 = 50;

/// A segment on its way.
struct Moving {
    candidate: Candidate,
    /// Its warm frame.
    from: u32,
    /// The slot that holds its cold frame.
    holder: u32,
    /// That frame.
    to: u32,
}

impl Engine {
    /// Keeps some frames of the warm tier free, where there is a cold one to move their segments to. For the keeper.
    ///
    /// # Errors
    /// WritesStopped after a failed write or sync.
    pub(crate) fn migrate_ahead(&self) -> Result<()> {
        if self.geometry.warm_frames == 0 || self.geometry.cold_frames == 0 {
            return Ok(());
        }
        let wanted = (self.geometry.warm_frames / 100 * WARM_FREE_PERCENT).max(WARM_FREE_MIN);
        let mut tried = Tried::new();
        let missing = || wanted.saturating_sub(self.globals().free_warm.load(Ordering::Acquire));
        for _ in 0..BATCHES_MAX {
            if missing() == 0 {
                break;
            }
            let Some(lock) = self.lock_room_soon() else { break };
            // Who had the lock meanwhile may have made enough.
            if missing() == 0 || !self.migrate_step(missing() as usize, &mut tried)? {
                break;
            }
            self.reclaim();
            Self::lend_room_lock(lock);
        }
        Ok(())
    }

    /// Moves up to `count` segments, or compacts as many. False where there is none to move. The caller holds the room lock.
    pub(crate) fn migrate_step(&self, count: usize, tried: &mut Tried) -> Result<bool> {
        let Some(durable) = &self.durable else { return Ok(false) };
        let census = self.census();
        let mut queue: Vec<Candidate> = census
            .closed
            .iter()
            .filter(|candidate| candidate.class != class::CACHE)
            .chain(&census.extents)
            .filter(|candidate| candidate.is_warm && !tried.contains(&candidate.slot))
            .copied()
            .collect();
        queue.sort_unstable_by_key(|candidate| candidate.segment_id);
        let mut batch = Vec::new();
        let mut has_done = false;
        for candidate in queue.into_iter().take(4 * BATCH_SEGMENTS) {
            if batch.len() >= count.min(BATCH_SEGMENTS) {
                break;
            }
            tried.insert(candidate.slot);
            let alive_percent = u64::from(candidate.live_bytes) * 100 / u64::from(self.geometry.frame_bytes);
            let is_log = candidate.class != class::EXTENT;
            if is_log
                && alive_percent < MOVED_ALIVE_PERCENT_MIN
                && self.survivors_fit(candidate.live_bytes).is_ok()
            {
                has_done |= self.compact_segment(candidate.slot)?;
                continue;
            }
            match self.copy_to_cold(durable, candidate) {
                Ok(Some(moving)) => batch.push(moving),
                Ok(None) => {}
                Err(error) => return Err(self.give_up(&batch, error)),
            }
        }
        if batch.is_empty() {
            return Ok(has_done);
        }
        match self.finish_batch(durable, &batch) {
            Ok(()) => Ok(true),
            Err(error) => Err(self.give_up(&batch, error)),
        }
    }

    /// Copies a segment's bytes to a cold frame that a slot of its own holds. `None` where it is not wholly in its warm frame, or no
    /// frame is free.
    fn copy_to_cold(&self, durable: &DurableTiers, candidate: Candidate) -> Result<Option<Moving>> {
        // A large value's parts may be given up at any time; pinned, they keep their frame.
        self.pin(candidate.slot);
        let copied = self.copy_pinned(durable, candidate);
        self.unpin(candidate.slot);
        copied
    }

    fn copy_pinned(&self, durable: &DurableTiers, candidate: Candidate) -> Result<Option<Moving>> {
        let segment = self.segment(candidate.slot);
        let tail = segment.tail.load(Ordering::Acquire).min(self.geometry.frame_bytes);
        let from = Place::unpack(segment.place.load(Ordering::SeqCst)).cold;
        let Some(from) = from.filter(|&frame| durable.is_warm(frame)) else { return Ok(None) };
        let Some(base) = durable.warm_base(from) else { return Ok(None) };
        if segment.segment_id.load(Ordering::SeqCst) != candidate.segment_id
            || segment.flushed.load(Ordering::Acquire) < tail
        {
            return Ok(None);
        }
        let Some(holder) = self.open_holder() else { return Ok(None) };
        let Some(to) = Place::unpack(self.segment(holder).place.load(Ordering::Acquire)).cold else {
            return Ok(None);
        };
        // From here on the frame may have an entry, which has to be cleared before the frame is used for anything else.
        self.segment(holder).flushed.store(tail, Ordering::Release);
        let moving = Moving { candidate, from, holder, to };
        // SAFETY: pinned, and the segment was still in this frame after the pin; no byte that was flushed changes.
        let bytes = unsafe { std::slice::from_raw_parts(base, tail as usize) };
        if let Err(error) = durable.write_at(to, 0, bytes) {
            return Err(self.give_up(&[moving], error));
        }
        self.count_written(to, u64::from(tail));
        crash_point!("migrate.copied");
        Ok(Some(moving))
    }

    fn finish_batch(&self, durable: &DurableTiers, batch: &[Moving]) -> Result<()> {
        self.sync_cold(durable)?;
        for moving in batch {
            if let FrameState::Used(mut record) = durable.read_frame_record(moving.from)?
                && record.segment_id == moving.candidate.segment_id
            {
                record.used_bytes = moving.candidate.tail.min(self.geometry.frame_bytes);
                durable.write_frame_record(moving.to, &record)?;
            }
        }
        crash_point!("migrate.recorded");
        self.sync_cold(durable)?;
        for moving in batch {
            let segment_id = moving.candidate.segment_id;
            let is_recorded = matches!(
                durable.read_frame_record(moving.to)?,
                FrameState::Used(record) if record.segment_id == segment_id
            );
            let is_moved = is_recorded
                && self.exchange_frames(moving.candidate.slot, segment_id, moving.from, moving.holder);
            if is_moved {
                durable.clear_frame_record(moving.from)?;
                self.segment(moving.holder).flushed.store(0, Ordering::Release);
            }
        }
        crash_point!("migrate.moved");
        durable.sync_watermark_file()?;
        // A holder whose frame's entry is cleared is free as soon as no pin needs its bytes.
        batch.iter().for_each(|moving| self.retire(moving.holder));
        Ok(())
    }

    fn sync_cold(&self, durable: &DurableTiers) -> Result<()> {
        // Without durability nothing is promised that the order of writes could keep.
        match durable.cold().filter(|_| self.is_flushed()) {
            Some(cold) => cold.sync(),
            None => Ok(()),
        }
    }

    /// After a failed write or sync: the page cache may have dropped what it could not write, and a later sync would not say so. What the
    /// segments' warm frames hold is whole.
    fn give_up(&self, batch: &[Moving], error: Error) -> Error {
        batch
            .iter()
            .filter(|moving| self.segment(moving.holder).state.load(Ordering::Acquire) == state::OPENING)
            .for_each(|moving| self.retire(moving.holder));
        if self.is_flushed() { self.stop_writes(error) } else { error }
    }
}
