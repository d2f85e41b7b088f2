//! Packing: what is overwritten before a flush comes to it is never written.
//!
//! **The idea.** With `everysec` most of what is overwritten soon is dead before it is flushed, and without durability before it is demoted. Segments of which nothing was written yet are
//! compacted in memory, both when cold frames are needed and before a flush. That writes nothing, saves writing what is dead in them, and
//! their cold frames are free at once. When frames are needed, as little is packed as will do: what is packed later has more dead in it.
//!
//! A flush counts the sequence numbers that it writes, and records its watermark before anyone is told where some are missing (see `flush`); so
//! packing changes nothing about what survives a power failure. A transaction's records are left until they are durable (see `compact`).
//!
//! Rejected: writing only the live records of a segment and leaving gaps. It saves as much writing, but the gaps keep their room on flash,
//! and compaction pays for that.

use crate::census::Tried;
use crate::engine::Engine;
use crate::error::Result;
use crate::layout::{CACHE_HEAD, HEADS, class};
use crate::options::Durability;
use crate::relocate::Wanted;
use crate::sync::futex_wait;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Share of an unwritten segment, in percent, that must be dead for packing it when frames are needed.
pub(crate) const PACK_FOR_ROOM_DEAD_PERCENT_MIN: u64 = 20;
/// The same before a flush, which is the last chance to save the writing.
const PACK_FOR_FLUSH_DEAD_PERCENT_MIN: u64 = 5;
/// Dead bytes that an open segment must hold to be closed and packed before a flush.
const PACK_OPEN_DEAD_BYTES_MIN: u32 = 64 << 10;
/// Bytes of segments that are packed before one flush at most: about 100 ms of work.
const PACK_FOR_FLUSH_BYTES_MAX: u64 = 128 << 20;
/// How long the flusher pauses while somebody else moves records.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(1);
/// How long packing may put off a flush in the background, waiting for those who make room included.
const PACK_IN_BACKGROUND_MAX: Duration = Duration::from_millis(200);
/// How long it may put off one that somebody waits for.
pub(crate) const PACK_FOR_CALLER_MAX: Duration = Duration::from_secs(1);

impl Engine {
    /// Whether unwritten segments are packed. Where every write is flushed by itself there is nothing to pack.
    pub(crate) fn is_packed(&self) -> bool {
        self.durable.is_some() && self.durability() != Durability::Always && self.check_writable().is_ok()
    }

    /// Packs the unwritten segment in which most is dead. Returns its bytes; `None` where there is none with a share of `dead_percent_min`.
    /// The caller holds the room lock.
    pub(crate) fn pack_step(&self, dead_percent_min: u64, tried: &mut Tried) -> Result<Option<u64>> {
        if !self.is_packed() {
            return Ok(None);
        }
        let census = self.census();
        let found = census
            .closed
            .iter()
            .filter(|candidate| candidate.is_unwritten && candidate.class != class::CACHE)
            .filter(|candidate| {
                u64::from(candidate.dead_bytes()) * 100 >= u64::from(candidate.tail) * dead_percent_min
            })
            .filter(|candidate| !tried.contains(&candidate.slot) && !self.is_pinned(candidate.slot))
            .max_by_key(|candidate| candidate.dead_bytes());
        let Some(candidate) = found else { return Ok(None) };
        tried.insert(candidate.slot);
        if self.survivors_fit(candidate.live_bytes).is_ok()
            && let Some(walk) = self.walk(candidate.slot, Wanted::All)?.filter(|walk| walk.is_complete)
            && !self.has_batches_to_flush(&walk)
            && self.compact_walked(&walk)?
        {
            // The slot may be another segment's from here on.
            self.reclaim();
            tried.remove(&candidate.slot);
        }
        Ok(Some(u64::from(candidate.tail)))
    }

    /// Packs what the next flush would write. Who holds no room lock takes it segment by segment, so that writers in need of room get on.
    ///
    /// # Errors
    /// Those of reading.
    pub(crate) fn pack_before_flush(&self, holds_room_lock: bool, time_max: Duration) -> Result<()> {
        if !self.is_packed() {
            return Ok(());
        }
        self.close_heads_to_pack();
        let (mut tried, mut left_bytes) = (Tried::new(), PACK_FOR_FLUSH_BYTES_MAX);
        let began = Instant::now();
        while left_bytes > 0 && began.elapsed() < time_max {
            let room = if holds_room_lock { None } else { self.try_lock_room() };
            if room.is_none() && !holds_room_lock {
                // Whoever holds it may be at it for long, and a flush that is due does not wait for that.
                std::thread::sleep(LOOK_AGAIN_AFTER);
                continue;
            }
            match self.pack_step(PACK_FOR_FLUSH_DEAD_PERCENT_MIN, &mut tried)? {
                Some(bytes) => left_bytes = left_bytes.saturating_sub(bytes),
                None => return Ok(()),
            }
            room.map(Self::lend_room_lock);
        }
        Ok(())
    }

    /// Closes the open segments that are worth packing before a flush.
    fn close_heads_to_pack(&self) {
        for number in 0..HEADS as u32 {
            let is_worth_it = number != CACHE_HEAD
                && self.open_slot(number).is_some_and(|slot| {
                    let segment = self.segment(slot);
                    let tail = segment.tail.load(Ordering::Relaxed);
                    let dead_bytes = tail.saturating_sub(self.needed_bytes(segment));
                    segment.flushed.load(Ordering::Relaxed) == 0
                        && dead_bytes >= PACK_OPEN_DEAD_BYTES_MIN
                        && u64::from(dead_bytes) * 100 >= u64::from(tail) * PACK_FOR_FLUSH_DEAD_PERCENT_MIN
                });
            if is_worth_it {
                self.close_open_segment(number);
            }
        }
    }

    /// One round of the background flusher: sleeps up to `tick`, then flushes if something is due.
    ///
    /// # Errors
    /// As [`Engine::flush_once`].
    pub(crate) fn flush_step(&self, tick: Duration) -> Result<()> {
        let globals = self.globals();
        let seen = globals.flush_wakes.load(Ordering::Acquire);
        futex_wait(&globals.flush_wakes, seen, tick);
        if globals.writes_stopped.load(Ordering::SeqCst) != 0 || !self.is_flush_due() {
            return Ok(());
        }
        // A segment that can't be packed is flushed as it is.
        let packed = self.pack_before_flush(false, PACK_IN_BACKGROUND_MAX);
        self.flush_if_due()?;
        packed
    }
}
