//! Making the log durable: its new bytes to the cold tier, one sync for all who wait, then the watermark.
//!
//! A flush locks all heads for a moment and notes the last sequence number S and every tail. Everything up to S lies below those
//! tails. It then waits for the records below them that are still being written (or abandons those of the dead), writes the
//! bytes to the cold frames, syncs, and publishes S. The watermark block on disk says what the flush *before* made durable: it is
//! written together with the data of this one, so that one sync serves both.
//!
//! **What a recovery needs, and why it finds it.** It keeps the longest gap-free run of sequence numbers above the recorded watermark.
//! - What is retired before the tails are noted is superseded or copied by records below the tails: it need not be written. What is retired
//!   *while* a flush runs must be, for what supersedes it may lie above the tails: so segments are pinned before the tails are
//!   noted, and a pinned segment keeps its bytes.
//! - A number whose record was retired unwritten, or whose writer died between taking it and writing it down, is a gap on disk. A flush counts the
//!   numbers that it writes; where some are missing, it syncs a second time with the watermark S before anyone is told, so that the gap lies below it.
//! - A retired segment's cold frame is reused only after three more flushes: the first may have noted its tails already, the second makes
//!   durable what superseded the segment, the third records that. So as long as a truncation could bring an old record back to life, its
//!   bytes are there. In that third flush the frame's record is cleared; a dead segment whose frame record is still there does no harm in a recovery: each
//!   of its records loses to a greater sequence number, to a copy with the same one, or to a tombstone, which is kept until a
//!   checkpoint covers it; and segments retired before a checkpoint are not replayed after it.
//! - Who makes room need not wait so long. Its flush begins after the retirement, so it makes durable what superseded the segment; and whether the
//!   recorded watermark covers that, it can see. Often it does after one flush: where numbers are missing it is recorded at once,
//!   and while room is made little is written.
//! - A frame gets its new record before its data and in the same sync. Torn apart by a power failure, the record names a segment of which no byte is
//!   found, or the bytes lie under an older name: checksums are masked with the segment's identity, so neither is taken for the other.
//!
//! **Group commit.** Whoever waits and finds the lease free flushes for all; the others sleep on the watermark and find, woken, that they are
//! served or that the lease is free. No hand-over to a thread is on anyone's path, and a dead leader's lease is inherited.
//!
//! A failed write or sync ends writing for good: the page cache may have dropped what it could not write, so a later success would prove nothing.

use crate::crash::crash_point;
use crate::durable::DurableTiers;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::frame_file::{FrameKind, FrameRecord};
use crate::layout::{Globals, Place, class, state};
use crate::log::COUNT_OFFSET;
use crate::options::Durability;
use crate::record::{self, Word0, kind};
use crate::segment::FLUSHES_BEFORE_REUSE;
use crate::sync::{futex_wait_for, futex_wake_all, futex_wake_for};
use crate::waiting::{before_wait, check_cancelled};
use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Longest sleep of a waiter before it looks for a dead leader.
const WAIT_MAX: Duration = Duration::from_millis(20);
/// How old unflushed records may become in the background.
const FLUSH_EVERY_MS: u64 = 500;
/// How long a flush waits for one record that a living writer is at, before it gives up for this time.
const SETTLE_MAX: Duration = Duration::from_secs(2);
/// How often whoever waits for a flush that comes anyway looks whether it has come.
const LOOK_FOR_FLUSH_EVERY: Duration = Duration::from_millis(5);
/// Longest such wait: a flush in the background is due and done by then.
const FLUSH_COMES_WITHIN: Duration = Duration::from_millis(800);
/// Looks for candidates before the heads are locked while looking.
const SCANS_MAX: u32 = 3;
const EIO: i32 = 5;

/// Bytes of one segment that a flush writes. Holds a pin.
#[derive(Debug)]
struct Piece<'a> {
    engine: &'a Engine,
    slot: u32,
    segment_id: u64,
    from: u32,
    to: u32,
    class: u32,
}

impl Drop for Piece<'_> {
    fn drop(&mut self) {
        self.engine.unpin(self.slot);
    }
}

/// The lease of the flusher, held.
pub(crate) struct FlushLease<'a> {
    globals: &'a Globals,
    /// Which flush was completed, if one was.
    completed: Cell<Option<u64>>,
}

impl Drop for FlushLease<'_> {
    fn drop(&mut self) {
        let globals = self.globals;
        globals.flush_noted.store(u64::MAX, Ordering::SeqCst);
        // Free first, then wake: one of those woken may have to lead the next flush.
        globals.flush_lease.unlock();
        globals.watermark_wakes.fetch_add(1, Ordering::SeqCst);
        match self.completed.get() {
            // Whoever has to wait for the next flush sleeps on, but for one, to lead it.
            Some(number) => {
                futex_wake_for(&globals.watermark_wakes, i32::MAX, waits_for(number));
                futex_wake_for(&globals.watermark_wakes, 1, waits_for(number + 1));
            }
            None => futex_wake_all(&globals.watermark_wakes),
        }
    }
}

/// The bit for which sleeps who waits for this flush. Two are enough: at any time, all wait for the one under way or the next.
const fn waits_for(number: u64) -> u32 {
    1 << (number % 2)
}

impl Engine {
    /// The last sequence number given out.
    pub(crate) fn last_sequence(&self) -> u64 {
        // Zero only where the shared half is damaged.
        self.globals().next_sequence.load(Ordering::SeqCst).saturating_sub(1)
    }

    fn try_flush_lease(&self) -> Option<FlushLease<'_>> {
        let globals = self.globals();
        globals
            .flush_lease
            .try_lock_or_inherit(self.member.lock_word(), |slot| self.member.is_alive(slot))?;
        Some(FlushLease { globals, completed: Cell::new(None) })
    }

    pub(crate) fn wait_flush_lease(&self) -> FlushLease<'_> {
        let globals = self.globals();
        // Nothing is half changed: what a dead flusher wrote is written again, or counted as written and synced now.
        globals.flush_lease.lock(self.member.lock_word(), |slot| self.member.is_alive(slot));
        FlushLease { globals, completed: Cell::new(None) }
    }

    /// Flushes everything that was reserved before the call. Returns the watermark, which stays where it was while a living
    /// writer does not finish its record.
    ///
    /// # Errors
    /// WritesStopped after a write or sync failed, now or earlier; Full where a segment has no cold frame and none is free.
    pub fn flush_once(&self) -> Result<u64> {
        self.flush_with(&self.wait_flush_lease())
    }

    /// Flushes like [`Engine::flush_once`], and lets go of the cold frames of what was retired before, where that is safe already. For who
    /// makes room.
    ///
    /// # Errors
    /// As [`Engine::flush_once`].
    pub(crate) fn flush_for_frames(&self) -> Result<()> {
        let globals = self.globals();
        let lease = self.wait_flush_lease();
        let retired: Vec<(u32, u64)> = self
            .segments()
            .iter()
            .enumerate()
            .filter(|(_, segment)| segment.state.load(Ordering::SeqCst) == state::RETIRED)
            .map(|(slot, segment)| (slot as u32, segment.segment_id.load(Ordering::Acquire)))
            .collect();
        let before = globals.flush_count.load(Ordering::SeqCst);
        self.flush_with(&lease)?;
        // Only the lease's holder counts.
        if globals.flush_count.load(Ordering::SeqCst) != before {
            self.let_go_of(&retired);
        }
        Ok(())
    }

    /// Returns when a flush that began after the call has made everything durable that was in the log then: what compaction copied too, which
    /// has no sequence number of its own to wait for.
    ///
    /// # Errors
    /// As [`Engine::flush_once`]; Cancelled.
    pub(crate) fn flush_all_copies(&self) -> Result<()> {
        let globals = self.globals();
        if self.durable.is_none() {
            return Ok(());
        }
        loop {
            before_wait();
            check_cancelled()?;
            let lease = self.wait_flush_lease();
            // Only the lease's holder counts; a flush is not counted while a living writer does not finish its record.
            let before = globals.flush_count.load(Ordering::SeqCst);
            self.flush_with(&lease)?;
            if globals.flush_count.load(Ordering::SeqCst) != before {
                return Ok(());
            }
        }
    }

    /// The same, but with `everysec` a flush is waited for that comes anyway: each flush writes what might yet have died.
    ///
    /// # Errors
    /// As [`Engine::flush_all_copies`].
    pub(crate) fn await_flush_of_copies(&self) -> Result<()> {
        if self.durability() != Durability::EverySec {
            return self.flush_all_copies();
        }
        let globals = self.globals();
        let flushes = || globals.flush_count.load(Ordering::SeqCst);
        // While the lease is held no flush is under way: the next one to be counted begins after this.
        let before = {
            let _lease = self.wait_flush_lease();
            flushes()
        };
        let began = Instant::now();
        let is_waiting = || {
            flushes() == before
                && self.last_sequence() > globals.watermark.load(Ordering::SeqCst)
                && began.elapsed() < FLUSH_COMES_WITHIN
                && !self.closed.load(Ordering::Relaxed)
        };
        while is_waiting() {
            std::thread::sleep(LOOK_FOR_FLUSH_EVERY);
        }
        if flushes() == before { self.flush_all_copies() } else { Ok(()) }
    }

    /// Marks what was retired before a flush noted its tails, and that flush succeeded, for reuse: as far as the recorded watermark covers
    /// the retirement.
    fn let_go_of(&self, retired: &[(u32, u64)]) {
        let globals = self.globals();
        let recorded = globals.watermark_recorded.load(Ordering::SeqCst);
        let Some(long_ago) = globals.flush_count.load(Ordering::SeqCst).checked_sub(FLUSHES_BEFORE_REUSE)
        else {
            return;
        };
        // Under the pool lock no slot becomes another segment's.
        let _pool = self.lock_pool();
        for &(slot, segment_id) in retired {
            let segment = self.segment(slot);
            let is_same = segment.state.load(Ordering::SeqCst) == state::RETIRED
                && segment.segment_id.load(Ordering::Acquire) == segment_id;
            if is_same && segment.retired_sequence.load(Ordering::Relaxed) <= recorded + 1 {
                segment.retired_flush.fetch_min(long_ago, Ordering::Relaxed);
            }
        }
    }

    fn flush_with(&self, lease: &FlushLease<'_>) -> Result<u64> {
        let globals = self.globals();
        let Some(durable) = &self.durable else { return Ok(self.last_sequence()) };
        if self.read_only {
            return Err(self.unwritable());
        }
        if globals.writes_stopped.load(Ordering::SeqCst) != 0 {
            return Err(self.unwritable());
        }
        // Left behind by whoever died at it.
        globals.flush_noted.store(u64::MAX, Ordering::SeqCst);
        let (sequence, pieces) = self.note_tails();
        globals.flush_noted.store(sequence, Ordering::SeqCst);
        // Looked at after what is to be written was noted: what is given up from here on is written, or newer than `sequence`.
        let unwritten = globals.extents_unwritten.load(Ordering::SeqCst);
        let watermark = globals.watermark.load(Ordering::SeqCst);
        let result = self.write_pieces(durable, &pieces).and_then(|written| match written {
            None => Ok(watermark),
            Some(count) => {
                let is_complete = count == sequence.saturating_sub(watermark) && unwritten == 0;
                let flushed = self.sync_pieces(durable, watermark, sequence, is_complete)?;
                globals.extents_unwritten.fetch_sub(unwritten, Ordering::SeqCst);
                lease.completed.set(Some(globals.flush_count.load(Ordering::SeqCst)));
                Ok(flushed)
            }
        });
        globals.flushed_at_ms.store(self.now_ms(), Ordering::Relaxed);
        result.map_err(|error| self.stop_writes(error))
    }

    /// Ends writing for good after a failed write or sync of what must be durable; returns what writers are told from now on. Other
    /// errors are left as they are.
    pub(crate) fn stop_writes(&self, error: Error) -> Error {
        match error {
            Error::Io { .. } | Error::Permission(_) => {
                let errno = error.os_error().filter(|&errno| errno != 0).unwrap_or(EIO);
                self.globals().writes_stopped.store(errno.cast_unsigned(), Ordering::SeqCst);
                self.unwritable()
            }
            other => other,
        }
    }

    /// The last sequence number given out, and what lies unflushed below the tails of that moment.
    fn note_tails(&self) -> (u64, Vec<Piece<'_>>) {
        let globals = self.globals();
        for scan in 0.. {
            // The table is looked through without holding anybody up. A segment that appears meanwhile is noticed by the counter of identities.
            let opened = globals.next_segment.load(Ordering::SeqCst);
            let mut pieces = if scan < SCANS_MAX { self.unflushed() } else { Vec::new() };
            let heads = self.lock_heads();
            if scan >= SCANS_MAX {
                pieces = self.unflushed();
            } else if globals.next_segment.load(Ordering::SeqCst) != opened {
                continue;
            }
            let sequence = self.last_sequence();
            for piece in &mut pieces {
                piece.to =
                    self.segment(piece.slot).tail.load(Ordering::Acquire).min(self.geometry.frame_bytes);
            }
            pieces.retain(|piece| piece.from < piece.to && self.is_flushable(piece.slot, piece.segment_id));
            drop(heads);
            return (sequence, pieces);
        }
        unreachable!("the last scan always returns")
    }

    fn is_flushable(&self, slot: u32, segment_id: u64) -> bool {
        let segment = self.segment(slot);
        let is_live = matches!(
            segment.state.load(Ordering::Acquire),
            state::OPEN | state::CLOSED | state::EXTENT | state::EXTENT_PENDING
        );
        is_live
            && segment.segment_id.load(Ordering::Acquire) == segment_id
            && segment.class.load(Ordering::Relaxed) != class::CACHE
            && Place::unpack(segment.place.load(Ordering::SeqCst)).hot.is_some()
    }

    /// Pins every segment that may have something to flush. An open one is taken even if it has nothing yet.
    fn unflushed(&self) -> Vec<Piece<'_>> {
        let mut pieces = Vec::new();
        for (slot, segment) in self.segments().iter().enumerate() {
            let current = segment.state.load(Ordering::Acquire);
            if !matches!(current, state::OPEN | state::CLOSED | state::EXTENT | state::EXTENT_PENDING)
                || segment.class.load(Ordering::Relaxed) == class::CACHE
            {
                continue;
            }
            let (from, to) = (segment.flushed.load(Ordering::Acquire), segment.tail.load(Ordering::Acquire));
            let may_grow = matches!(current, state::OPEN | state::EXTENT_PENDING);
            if from >= to && !may_grow {
                continue;
            }
            let slot = slot as u32;
            let segment_id = segment.segment_id.load(Ordering::Acquire);
            self.pin(slot);
            // Dropped (and unpinned) at once where the segment was retired before the pin was seen.
            let piece = Piece {
                engine: self,
                slot,
                segment_id,
                from,
                to,
                class: segment.class.load(Ordering::Relaxed),
            };
            if self.is_flushable(slot, segment_id) {
                pieces.push(piece);
            }
        }
        pieces
    }

    /// Writes all pieces; returns how many sequence numbers they hold. `None` where a living writer does not finish.
    fn write_pieces(&self, durable: &DurableTiers, pieces: &[Piece<'_>]) -> Result<Option<u64>> {
        let mut count = 0;
        for piece in pieces {
            let segment = self.segment(piece.slot);
            let Some(base) = self.pinned_base(piece.slot) else {
                return Err(Error::corrupt(format!(
                    "segment slot {} of {} lost its memory while it was being flushed; run `thermae check`",
                    piece.slot, self.paths.location
                )));
            };
            if piece.class != class::EXTENT {
                match self.settle_piece(piece, base)? {
                    Some(found) => count += found,
                    None => return Ok(None),
                }
            }
            let frame = self.durable_frame(piece.slot)?;
            let _writing = self.write_durable(frame);
            if piece.from == 0 {
                durable.write_frame_record(frame, &self.frame_record(piece))?;
                crash_point!("flush.frame_recorded");
            }
            // SAFETY: the frame is pinned; up to the noted tail all records are settled and don't change, but for the links of a transaction that has
            // just happened: of those it does not matter what is written.
            let bytes = unsafe {
                std::slice::from_raw_parts(base.add(piece.from as usize), (piece.to - piece.from) as usize)
            };
            durable.write_at(frame, piece.from, bytes)?;
            crash_point!("flush.written");
            segment.flushed.store(piece.to, Ordering::Release);
            self.count_written(frame, bytes.len() as u64);
        }
        Ok(Some(count))
    }

    /// The hot frame of a pinned segment. Whoever wants to free it takes it away before he looks at the pins, and puts it back.
    pub(crate) fn pinned_base(&self, slot: u32) -> Option<*mut u8> {
        let base = || self.hot_base(Place::unpack(self.segment(slot).place.load(Ordering::SeqCst)));
        base().or_else(|| {
            let _pool = self.lock_pool();
            base()
        })
    }

    fn frame_record(&self, piece: &Piece<'_>) -> FrameRecord {
        let segment = self.segment(piece.slot);
        let is_extent = piece.class == class::EXTENT;
        FrameRecord {
            kind: if is_extent { FrameKind::Extent } else { FrameKind::LogSegment },
            class: piece.class as u8,
            segment_id: piece.segment_id,
            // Survivors keep their numbers, so no bound holds for what will follow; an extent's record has its number still to come.
            owner_sequence: match piece.class {
                class::EXTENT | class::SURVIVOR => 0,
                _ => segment.sequence_min.load(Ordering::Relaxed),
            },
            part: if is_extent { segment.part.load(Ordering::Relaxed) } else { 0 },
            parts: if is_extent { segment.parts.load(Ordering::Relaxed) } else { 1 },
            used_bytes: piece.to,
            written_wall_ms: self.env.wall_time_ms(),
        }
    }

    /// Waits until every record of a piece is settled; returns how many sequence numbers they took.
    fn settle_piece(&self, piece: &Piece<'_>, base: *mut u8) -> Result<Option<u64>> {
        let mut offset = (piece.from as usize).max(crate::layout::SEGMENT_HEADER_BYTES);
        let mut count = 0;
        while offset < piece.to as usize {
            let Some((word, total)) = self.settle_patiently(base, offset, piece.segment_id)? else {
                return Ok(None);
            };
            if total == 0 || total > piece.to as usize - offset {
                return Err(self.damaged(piece.slot, offset, b""));
            }
            count += match word.kind() {
                // SAFETY: an abandoned record has at least 24 bytes, all of them settled.
                kind::ABANDONED => u64::from(u32::from_le(unsafe {
                    base.add(offset + COUNT_OFFSET).cast::<u32>().read_unaligned()
                })),
                // Survivors repeat numbers that were counted when they were new.
                _ if word.has_key() && piece.class != class::SURVIVOR => 1,
                _ => 0,
            };
            offset += total;
        }
        Ok(Some(count))
    }

    fn settle_patiently(
        &self,
        base: *mut u8,
        offset: usize,
        segment_id: u64,
    ) -> Result<Option<(Word0, usize)>> {
        let mut until = None;
        for round in 0_u32.. {
            if let Some(settled) = self.settle(base, offset, segment_id) {
                return Ok(Some(settled));
            }
            // SAFETY: below the noted tail of a pinned segment, and records are 8-byte aligned.
            let word = Word0::unpack(unsafe { record::word0_at(base.add(offset)) }.load(Ordering::Acquire));
            if !matches!(word.kind(), kind::RESERVED | kind::BATCH_PENDING) {
                // It may have been committed between the two looks.
                if let Some(settled) = self.settle(base, offset, segment_id) {
                    return Ok(Some(settled));
                }
                return Err(self.damaged(self.slot_of(segment_id).unwrap_or(u32::MAX), offset, b""));
            }
            if round < 64 {
                std::thread::yield_now();
            } else if Instant::now() < *until.get_or_insert_with(|| Instant::now() + SETTLE_MAX) {
                std::thread::sleep(Duration::from_micros(50));
            } else {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Makes the pieces durable, with the watermark of the flush before, and publishes the new one. Where not all that has a number up to it
    /// `is_complete` on disk, rightly so, the new watermark is recorded too: a recovery would take it for the end of the log.
    fn sync_pieces(
        &self,
        durable: &DurableTiers,
        watermark: u64,
        sequence: u64,
        is_complete: bool,
    ) -> Result<u64> {
        let globals = self.globals();
        if watermark > globals.watermark_recorded.load(Ordering::Relaxed) {
            durable.write_watermark(watermark)?;
        }
        self.clear_retired(durable)?;
        self.sync_tiers(durable)?;
        let mut recorded = watermark;
        if !is_complete {
            durable.write_watermark(sequence)?;
            durable.sync_watermark_file()?;
            recorded = sequence;
        }
        crash_point!("flush.synced");
        globals.watermark_recorded.fetch_max(recorded, Ordering::SeqCst);
        globals.watermark.fetch_max(sequence, Ordering::SeqCst);
        globals.flush_count.fetch_add(1, Ordering::SeqCst);
        Ok(sequence.max(watermark))
    }

    /// Syncs the warm tier, and the cold one only where something was written there: on persistent memory a flush costs next to nothing, and
    /// should not wait for a disk that it has no business with.
    fn sync_tiers(&self, durable: &DurableTiers) -> Result<()> {
        let globals = self.globals();
        let writes = globals.cold_writes.load(Ordering::SeqCst);
        if self.geometry.warm_frames > 0 && globals.cold_writes_synced.load(Ordering::SeqCst) == writes {
            return durable.sync_watermark_file();
        }
        durable.sync()?;
        globals.cold_writes_synced.store(writes, Ordering::SeqCst);
        Ok(())
    }

    /// Counts bytes written to a durable frame.
    pub(crate) fn count_written(&self, frame: u32, bytes: u64) {
        let globals = self.globals();
        let written = if frame < self.geometry.warm_frames {
            &globals.warm_written_bytes
        } else {
            &globals.cold_written_bytes
        };
        written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Clears the frame records of segments whose retirement this flush is the last to wait for.
    fn clear_retired(&self, durable: &DurableTiers) -> Result<()> {
        if !self.is_flushed() {
            return Ok(());
        }
        let flushes = self.globals().flush_count.load(Ordering::SeqCst);
        for (slot, segment) in self.segments().iter().enumerate() {
            let is_due = || {
                segment.state.load(Ordering::Acquire) == state::RETIRED
                    && flushes.saturating_sub(segment.retired_flush.load(Ordering::Relaxed)) + 1
                        >= FLUSHES_BEFORE_REUSE
                    && segment.flushed.load(Ordering::Relaxed) != 0
            };
            if !is_due() {
                continue;
            }
            // Pinned, so that the frame is nobody else's while its record is written.
            let slot = slot as u32;
            self.pin(slot);
            let place = Place::unpack(segment.place.load(Ordering::SeqCst));
            let result = match place.cold {
                Some(frame) if is_due() => {
                    let _writing = self.write_durable(frame);
                    durable.clear_frame_record(frame).map(|()| segment.flushed.store(0, Ordering::Relaxed))
                }
                _ => Ok(()),
            };
            self.unpin(slot);
            result?;
        }
        Ok(())
    }

    /// Returns when everything up to `sequence` is durable, flushing for all who wait if nobody does.
    ///
    /// # Errors
    /// As [`Engine::flush_once`]; Cancelled, and then it becomes durable all the same.
    pub fn wait_durable(&self, sequence: u64) -> Result<()> {
        let globals = self.globals();
        if self.durable.is_none() {
            return Ok(());
        }
        loop {
            let seen = globals.watermark_wakes.load(Ordering::Acquire);
            if globals.watermark.load(Ordering::SeqCst) >= sequence {
                return Ok(());
            }
            before_wait();
            check_cancelled()?;
            if globals.writes_stopped.load(Ordering::SeqCst) != 0 {
                return Err(self.unwritable());
            }
            match self.try_flush_lease() {
                Some(lease) if globals.watermark.load(Ordering::SeqCst) < sequence => {
                    self.flush_with(&lease)?;
                }
                Some(_) => {}
                None => {
                    globals.flush_wanted.fetch_max(sequence, Ordering::Relaxed);
                    // The flush under way, unless it began too early.
                    let is_covered = sequence <= globals.flush_noted.load(Ordering::SeqCst);
                    let number = globals.flush_count.load(Ordering::SeqCst) + if is_covered { 1 } else { 2 };
                    futex_wait_for(&globals.watermark_wakes, seen, WAIT_MAX, waits_for(number));
                }
            }
        }
    }

    /// Flushes if something is due and nobody else is at it.
    ///
    /// # Errors
    /// As [`Engine::flush_once`].
    pub(crate) fn flush_if_due(&self) -> Result<()> {
        match self.try_flush_lease() {
            Some(lease) if self.is_flush_due() => self.flush_with(&lease).map(drop),
            _ => Ok(()),
        }
    }

    /// Whether someone waits for a flush, or the oldest unflushed record is as old as may be.
    pub(crate) fn is_flush_due(&self) -> bool {
        let globals = self.globals();
        let watermark = globals.watermark.load(Ordering::SeqCst);
        if globals.flush_wanted.load(Ordering::Relaxed) > watermark {
            return true;
        }
        let is_behind = self.last_sequence() > watermark
            || globals.watermark_recorded.load(Ordering::Relaxed) < watermark;
        // A clock that went back says nothing about an age, and must not put flushes off until it has caught up.
        let age_ms = self.now_ms().checked_sub(globals.flushed_at_ms.load(Ordering::Relaxed));
        is_behind
            && self.durability() != Durability::None
            && age_ms.is_none_or(|age_ms| age_ms >= FLUSH_EVERY_MS)
    }
}
