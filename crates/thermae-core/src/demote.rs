//! Demotion and promotion: which bytes are in memory, where a cold tier keeps all of them.
//!
//! **The idea.** It is eviction's (see `evict`), only that nothing is lost. The hot segments of the log are the small queue: the oldest one's hot frame is
//! given up once its bytes are in its cold frame, and no address changes. Records of it that were read meanwhile are copied to a cache segment
//! first; cache segments are the main queue. A copy remembers its home: when it is given up, its entry leads home again. So neither
//! demotion nor promotion ever writes a record to flash a second time.
//!
//! A cold record that is read twice within the window (while a quarter to a half of the hot tier's size was read from the cold one) is
//! promoted: copied to a cache segment. Once is not enough, or a scan over everything would empty the hot tier of what is used.
//!
//! Large values are demoted extent by extent and read from where they are: a promotion would move megabytes for one read.
//!
//! Without durability, segments are written to their cold frame only here, when they are demoted, and nothing is synced.

use crate::census::{Candidate, Census, Tried};
use crate::crash::crash_point;
use crate::engine::Engine;
use crate::error::Result;
use crate::evict::SMALL_SHARE_PERCENT;
use crate::frame_file::{FrameKind, FrameRecord};
use crate::index::ADDRESS_MASK;
use crate::layout::{CACHE_HEAD, HEADS, Place, TTL_HEAD_FIRST, class, state};
use crate::read::Wanted as WantedKey;
use crate::record::{self, kind};
use crate::relocate::{Fate, Keep, Live, Wanted};
use crate::segment::Purpose;
use std::sync::atomic::Ordering;

/// Reads with which a record of a demoted segment is copied to the cache.
const CACHED_AT: u8 = 1;
/// Reads with which a cache copy is kept for another round.
const CACHE_KEEPS_AT: u8 = 1;
/// Bytes read from the warm tier by one participant before it tells the others.
const WARM_BYTES_PER_NOTE: u64 = 1 << 18;
/// Reads on account of a record just promoted.
const PROMOTED_COUNT: u8 = 0;

/// What a step of making hot room came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Demoted {
    /// A frame's worth of something was given up, or the next step will find more to give up.
    Some,
    /// There is nothing to give up.
    Nothing,
}

impl Engine {
    /// Gives up one hot frame: by demoting a segment, or by letting go of cache copies. The caller holds the room lock.
    pub(crate) fn demote_step(&self, tried: &mut Tried, may_flush: bool) -> Result<Demoted> {
        let census = self.census();
        let nearly_dead = census
            .closed
            .iter()
            .filter(|candidate| {
                candidate.is_hot && candidate.is_nearly_dead() && !tried.contains(&candidate.slot)
            })
            .find(|candidate| !self.is_pinned(candidate.slot));
        if let Some(candidate) =
            nearly_dead.filter(|candidate| self.survivors_fit(candidate.live_bytes).is_ok())
        {
            tried.insert(candidate.slot);
            return Ok(if self.compact_segment(candidate.slot)? {
                Demoted::Some
            } else {
                self.demote_next(&census, tried, may_flush)?
            });
        }
        self.demote_next(&census, tried, may_flush)
    }

    fn demote_next(&self, census: &Census, tried: &mut Tried, may_flush: bool) -> Result<Demoted> {
        let log_frames = census.data_frames() - census.cache_frames;
        let log_first = log_frames * 100 > SMALL_SHARE_PERCENT * census.data_frames();
        for is_log in [log_first, !log_first] {
            let found = if is_log {
                self.demote_oldest(census, tried, may_flush)?
            } else {
                self.empty_oldest_cache(census, tried)?
            };
            if found == Demoted::Some {
                return Ok(found);
            }
        }
        let has_closed = self.close_oldest_head(CACHE_HEAD..TTL_HEAD_FIRST)
            || self.close_oldest_head(0..CACHE_HEAD)
            || self.close_oldest_head(TTL_HEAD_FIRST..HEADS as u32);
        Ok(if has_closed { Demoted::Some } else { Demoted::Nothing })
    }

    /// Demotes the oldest hot segment or extent whose bytes are, or can be brought, in the cold tier.
    fn demote_oldest(&self, census: &Census, tried: &mut Tried, may_flush: bool) -> Result<Demoted> {
        let mut queue: Vec<Candidate> = census
            .closed
            .iter()
            .filter(|candidate| candidate.class != class::CACHE)
            .chain(&census.extents)
            .filter(|candidate| {
                candidate.is_hot && !tried.contains(&candidate.slot) && !self.is_pinned(candidate.slot)
            })
            .copied()
            .collect();
        queue.sort_unstable_by_key(|candidate| candidate.segment_id);
        let is_flushed = self.is_flushed();
        if is_flushed
            && may_flush
            && !queue.is_empty()
            && !queue.iter().any(|candidate| self.is_in_cold(candidate.slot))
        {
            self.flush_once()?;
        }
        for candidate in queue {
            if !self.is_in_cold(candidate.slot) {
                if is_flushed {
                    continue;
                }
                if !self.write_to_cold(candidate)? {
                    continue;
                }
            }
            tried.insert(candidate.slot);
            if self.demote(candidate, self.kept_bytes_max(tried))? {
                return Ok(Demoted::Some);
            }
        }
        Ok(Demoted::Nothing)
    }

    /// Gives up the hot frame of a segment that is in the cold tier, after copying what was read to the cache.
    fn demote(&self, candidate: Candidate, budget_bytes: u64) -> Result<bool> {
        if candidate.class != class::EXTENT {
            let Some(walk) = self.walk(candidate.slot, Wanted::All)?.filter(|walk| walk.is_complete) else {
                return Ok(false);
            };
            let mut keep = Keep::new(&self.weigh(&walk), CACHED_AT, budget_bytes);
            let tally = self.pass(&walk, usize::MAX, |live: &Live<'_>| {
                let is_kept =
                    !live.is_large() && !live.is_cached && keep.keeps(live.count(), live.record.total);
                if is_kept { Fate::Cache(0) } else { Fate::Stay }
            });
            // A frame goes only after the partition of each record was locked: a transaction may still be marking its own.
            debug_assert!(tally.stopped.is_none());
        }
        crash_point!("demote.copied");
        let is_dropped = self.drop_hot_frame(candidate.slot, candidate.segment_id);
        crash_point!("demote.dropped");
        Self::count(&self.counters().demoted_segments, u64::from(is_dropped));
        Ok(is_dropped)
    }

    /// Empties the oldest cache segment: copies that were read are copied on, the entries of the others lead home again.
    fn empty_oldest_cache(&self, census: &Census, tried: &mut Tried) -> Result<Demoted> {
        let oldest = census
            .closed
            .iter()
            .filter(|candidate| candidate.class == class::CACHE && !tried.contains(&candidate.slot))
            .find(|candidate| !self.is_pinned(candidate.slot));
        let Some(candidate) = oldest else { return Ok(Demoted::Nothing) };
        tried.insert(candidate.slot);
        let Some(walk) = self.walk(candidate.slot, Wanted::All)?.filter(|walk| walk.is_complete) else {
            return Ok(Demoted::Nothing);
        };
        let mut keep = Keep::new(&self.weigh(&walk), CACHE_KEEPS_AT, self.kept_bytes_max(tried));
        let tally = self.pass(&walk, usize::MAX, |live: &Live<'_>| {
            if keep.keeps(live.count(), live.record.total) {
                Fate::Cache(live.count().saturating_sub(1))
            } else {
                Fate::Home
            }
        });
        if !tally.is_emptied() {
            return Ok(Demoted::Nothing);
        }
        crash_point!("cache.emptied");
        self.retire(candidate.slot);
        Ok(Demoted::Some)
    }

    /// Writes a segment or an extent that was never flushed to a cold frame. False where a living writer is at it, or it is gone.
    fn write_to_cold(&self, candidate: Candidate) -> Result<bool> {
        // While it is pinned, the slot and its frames are not given to anybody else.
        self.pin(candidate.slot);
        let written = self.write_pinned_to_cold(candidate);
        self.unpin(candidate.slot);
        written
    }

    fn write_pinned_to_cold(&self, candidate: Candidate) -> Result<bool> {
        let Some(durable) = &self.durable else { return Ok(false) };
        let slot = candidate.slot;
        let segment = self.segment(slot);
        let tail = segment.tail.load(Ordering::Acquire);
        let found = segment.state.load(Ordering::Acquire);
        let is_same = segment.segment_id.load(Ordering::Acquire) == candidate.segment_id
            && matches!(found, state::CLOSED | state::EXTENT);
        if !is_same {
            return Ok(false);
        }
        let record = if found == state::EXTENT {
            let (part, parts) = (segment.part.load(Ordering::Relaxed), segment.parts.load(Ordering::Relaxed));
            FrameRecord {
                kind: FrameKind::Extent,
                owner_sequence: 0,
                part,
                parts,
                ..self.log_frame_record(slot)
            }
        } else {
            let is_settled = self
                .walk(slot, Wanted::Due { after_ms: 0, until_ms: 0 })?
                .is_some_and(|walk| walk.is_complete);
            if !is_settled {
                return Ok(false);
            }
            self.log_frame_record(slot)
        };
        let frame = self.durable_frame(slot)?;
        let Some(base) = self.hot_base(Place::unpack(segment.place.load(Ordering::Acquire))) else {
            return Ok(false);
        };
        // SAFETY: a closed segment or a published extent does not change below its tail, and it is pinned. (But for links, of which it does not matter
        // what is written: see `LINK_OF_DECIDED`.)
        let bytes = unsafe { std::slice::from_raw_parts(base, tail as usize) };
        let _writing = self.write_durable(frame);
        durable.write_frame_record(frame, &record)?;
        durable.write_at(frame, 0, bytes)?;
        crash_point!("demote.written");
        segment.flushed.store(tail, Ordering::Release);
        self.count_written(frame, u64::from(tail));
        Ok(true)
    }

    fn log_frame_record(&self, slot: u32) -> FrameRecord {
        let segment = self.segment(slot);
        let is_survivor = segment.class.load(Ordering::Relaxed) == class::SURVIVOR;
        FrameRecord {
            kind: FrameKind::LogSegment,
            class: segment.class.load(Ordering::Relaxed) as u8,
            segment_id: segment.segment_id.load(Ordering::Relaxed),
            owner_sequence: if is_survivor { 0 } else { segment.sequence_min.load(Ordering::Relaxed) },
            part: 0,
            parts: 1,
            used_bytes: segment.tail.load(Ordering::Relaxed),
            written_wall_ms: self.env.wall_time_ms(),
        }
    }

    /// Copies a cold record, found under `found`, to the cache, unless it changed meanwhile or there is no room for it: a
    /// promotion is an opportunity, not a duty.
    ///
    /// # Errors
    /// Those of reading the record.
    pub(crate) fn promote(&self, wanted: WantedKey<'_>, found: u64) -> Result<()> {
        if self.read_only || self.durable.is_none() {
            return Ok(());
        }
        let Some((slot, offset)) = self.split(found & ADDRESS_MASK) else { return Ok(()) };
        let mut cold = Vec::new();
        self.fetch_cold(found, &mut cold)?;
        let Some((_, segment_id, bytes)) = cold.pop() else { return Ok(()) };
        let parsed = record::parse(&bytes, offset, self.geometry.frame_bytes as usize);
        let is_promotable = |record: &record::Parsed<'_>| {
            record.word.base_kind() == kind::PUT && record.is_intact(segment_id) && record.key == wanted.key
        };
        let Some(record) = parsed.filter(is_promotable) else { return Ok(()) };
        for is_last in [false, true] {
            let guard = self.lock_partition(self.partition_of(wanted.hash));
            let tag = self.tag(wanted.hash);
            let is_same = self.segment(slot).segment_id.load(Ordering::Acquire) == segment_id;
            let Some(place) = self.entry_at(&guard, tag, found & ADDRESS_MASK).filter(|_| is_same) else {
                return Ok(());
            };
            let copied = self.publish_cache_copy(
                &guard,
                segment_id,
                &record,
                found & ADDRESS_MASK,
                place,
                tag,
                Purpose::Write,
            );
            if copied.is_ok() {
                place.access().store(PROMOTED_COUNT, Ordering::Relaxed);
                Self::count(&self.counters().promoted, 1);
                return Ok(());
            }
            drop(guard);
            // One frame is made free by whoever finds none; the next thousands of promotions use it.
            match self.try_lock_room().filter(|_| !is_last) {
                Some(_room) => {
                    let is_done = self.demote_step(&mut Tried::new(), false);
                    if !matches!(is_done, Ok(Demoted::Some)) {
                        return Ok(());
                    }
                    self.reclaim();
                }
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Counts bytes read from the warm tier, as if from the cold one; a shared word at every such read would be what readers wait for.
    #[inline(never)]
    pub(crate) fn note_warm_read(&self, bytes: usize) {
        let counters = self.counters();
        Self::count(&counters.warm_reads, 1);
        Self::count(&counters.warm_read_bytes, bytes as u64);
        let read = counters.warm_read_bytes.load(Ordering::Relaxed);
        if read / WARM_BYTES_PER_NOTE != read.saturating_sub(bytes as u64) / WARM_BYTES_PER_NOTE {
            self.note_cold_read(WARM_BYTES_PER_NOTE as usize);
        }
    }

    /// Counts bytes read from the cold tier; they make the window in which two reads promote a record move on.
    pub(crate) fn note_cold_read(&self, bytes: usize) {
        if self.read_only {
            return;
        }
        let globals = self.globals();
        let read = &globals.cold_epoch_bytes;
        let total = read.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        if total > self.geometry.hot_file_bytes() as u64 / 4
            && read.compare_exchange(total, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            globals.cold_epoch.fetch_add(1, Ordering::Relaxed);
        }
    }
}
