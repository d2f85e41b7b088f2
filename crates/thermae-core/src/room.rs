//! Making room: what is done when a frame is needed and none is free, and ahead of that.
//!
//! A writer that finds no frame lets go of every lock, comes here, and starts over. One at a time makes room, under the room lock; who
//! waited for it finds the room made. One call frees a frame, or a few, in a bounded number of steps, each of which empties one segment:
//!
//! | | hot tier | cold tier |
//! |---|---|---|
//! | no cold tier, `when_full=evict` | evict | |
//! | no cold tier, `when_full=error` | compact | |
//! | with a cold tier | demote, let go of cache copies | compact; with `evict`, then evict what a checkpoint covers |
//!
//! Where a partition of the index can't grow, `evict` drops some of its keys.
//!
//! The keeper does the same ahead of demand, so that writers seldom have to. It also moves what is old from the warm tier to the cold one;
//! to a writer both are one, and "cold tier" above means either.
//!
//! A frame of the cold tier that a flush must cover first is waited for by flushing here; so a full store with nobody attached but one
//! writer, and no threads, still goes on.
//!
//! `Full` is answered at once where all that is stored is alive and may not be dropped (see `full`); a little later when nothing was freed
//! and nothing that passes by itself (a writer in the middle of a record, a flush) stands in the way; and, after some seconds, when frames are
//! freed again and again and none of them comes to the writer that asked: others take them, or survivors fill them.

use crate::census::{Census, Tried};
use crate::compact::{COMPACT_BEFORE_EVICT_GAIN_PERCENT_MIN, COMPACT_GAIN_PERCENT_MIN};
use crate::demote::Demoted;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::evict_key::Dropped;
use crate::layout::{Place, RESERVE_FRAMES, class, state};
use crate::options::{HOT_FRAMES_MIN, WhenFull};
use crate::pack::{PACK_FOR_CALLER_MAX, PACK_FOR_ROOM_DEAD_PERCENT_MIN};
use crate::segment::{FLUSHES_BEFORE_REUSE, Room};
use crate::sizes::size_text;
use crate::sync::futex_wait;
use crate::waiting::{before_wait, check_cancelled, uninterrupted};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Segments that one call empties at most.
const STEPS_MAX: usize = 48;
/// Segments that the keeper empties at most in one round.
const KEEPER_STEPS_MAX: usize = 16;
/// Calls without progress after which a writer is told that the store is full.
const FRUITLESS_MAX: u32 = 6;
/// How long room is made for one request, whatever comes of it, before its writer is told that the store is full.
const MAKING_ROOM_MAX: Duration = Duration::from_secs(5);
/// So much longer for each frame that is needed: large values take many, and moving one to flash takes its time.
const PER_FRAME_MAX: Duration = Duration::from_millis(50);
/// Longest pause between two calls without progress.
const PAUSE_MAX: Duration = Duration::from_millis(16);
/// Longest wait for a flush under way, which pins what it writes.
const FLUSH_WAIT_MAX: Duration = Duration::from_secs(1);
/// How often whoever waits for a flush looks whether its flusher lives.
const FLUSHER_LOOK_EVERY: Duration = Duration::from_millis(20);
/// Pause while a snapshot copies what was given up already.
const SNAPSHOT_PAUSE: Duration = Duration::from_micros(500);
/// Pause while somebody writes a checkpoint that makes tombstones needless.
const CHECKPOINT_PAUSE: Duration = Duration::from_millis(2);
/// Cold frames that wait for flushes before it is worth forcing them.
const WAITING_WORTH_A_FLUSH: u32 = 2;
/// Notes among the slots tried that something else was tried: no slot has such a number.
const CHECKPOINTED: u32 = u32::MAX;
/// See [`CHECKPOINTED`].
const HEADS_CLOSED: u32 = u32::MAX - 1;
/// Share of the hot tier's frames that the keeper keeps free.
const HOT_FREE_PERCENT: u32 = 3;
/// Share of the cold tier's frames that the keeper keeps free: what is kept free makes compaction work harder.
const COLD_FREE_PERCENT: u32 = 1;

/// Cold frames that a writer frees at once where this takes a flush: the more, the seldomer what might yet have died is flushed; but what
/// lies free makes compaction work harder, and its writer waits. In simulations of 256 to 1024 frames these came out best.
const fn frames_freed_together(frames: u32) -> u32 {
    match frames {
        0..64 => 1,
        64..256 => frames / 32,
        256..400 => 8,
        400..800 => 12,
        _ => 16,
    }
}

/// A writer's wish for frames, from its first call for room until it has them or gives up.
#[derive(Debug)]
pub(crate) struct RoomRequest {
    /// Zero before the first call; one more than the calls without progress since the last that freed something.
    attempts: u32,
    /// When room was first made for it.
    began: Option<Instant>,
    /// Time spent waiting for a snapshot or a checkpoint, which end by themselves.
    waited: Duration,
    /// How long room is made for it.
    limit: Duration,
    /// Free frames when the store was found to be full for good.
    free_when_full: Option<i64>,
}

impl RoomRequest {
    /// For what needs so many frames at once.
    pub(crate) fn for_frames(count: usize) -> Self {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let limit = MAKING_ROOM_MAX.saturating_add(PER_FRAME_MAX.saturating_mul(count));
        Self { attempts: 0, began: None, waited: Duration::ZERO, limit, free_when_full: None }
    }

    /// Whether room has been made for it for so long that more of the same won't help: others take what is freed, or survivors fill it.
    fn is_overdue(&mut self) -> bool {
        self.began.get_or_insert_with(Instant::now).elapsed().saturating_sub(self.waited) > self.limit
    }

    /// Waits for what ends by itself.
    fn wait(&mut self, pause: Duration) {
        let began = Instant::now();
        std::thread::sleep(pause);
        self.waited += began.elapsed();
    }
}

impl Engine {
    /// Makes room of a kind, for a writer that holds no lock and found none.
    ///
    /// # Errors
    /// Full when nothing can be freed, or what is freed does not come to this writer; Cancelled; those of reading, writing and flushing.
    pub(crate) fn make_room(&self, room: Room, request: &mut RoomRequest) -> Result<()> {
        self.check_writable()?;
        before_wait();
        check_cancelled()?;
        let room = match room {
            // Without a cold tier, what is missing is a slot of the segment table, and evicting frees those too.
            Room::Cold if self.durable.is_none() => Room::Hot,
            room => room,
        };
        let is_first = request.attempts == 0;
        if request.is_overdue() {
            return Err(self.full(room));
        }
        let freed = {
            let guard = self.lock_room();
            let (hot, cold) = self.reclaim();
            let reclaimed = match room {
                Room::Hot => hot,
                Room::Cold => cold,
                // Frames are no help: it has as many as it may.
                Room::Index(_) => 0,
            };
            // Who needs many frames at once comes back after the first call, and then more are freed.
            let is_made = reclaimed > 0 || (is_first && self.free_frames(room) > i64::from(RESERVE_FRAMES));
            if !is_made && self.is_held_up_by_snapshot(room) {
                drop(guard);
                request.wait(SNAPSHOT_PAUSE);
                return Ok(());
            }
            let freed = is_made || uninterrupted(|| self.free_some(room, STEPS_MAX))?;
            if !freed && self.is_full_for_good(room) {
                let free = self.free_frames(room);
                if request.free_when_full == Some(free) {
                    drop(guard);
                    return self.refuse(room, free);
                }
                // Frames may have come free since this writer found none: it tries once more before it is refused.
                request.free_when_full = Some(free);
                return Ok(());
            }
            freed
        };
        if freed {
            request.attempts = 1;
            return Ok(());
        }
        if self.is_checkpoint_awaited(room) {
            request.wait(CHECKPOINT_PAUSE);
            return Ok(());
        }
        request.attempts = request.attempts.max(1) + 1;
        if request.attempts > FRUITLESS_MAX {
            return Err(self.full(room));
        }
        if self.wait_for_flush_under_way() {
            return Ok(());
        }
        // What stands in the way may be another writer's record, which takes microseconds.
        std::thread::sleep(Duration::from_millis(1 << request.attempts.min(4)).min(PAUSE_MAX));
        Ok(())
    }

    /// What has expired goes when the background comes to it, or here; where nothing has, the store is full.
    /// Where others have made room meanwhile, it is not: they had `free` frames.
    fn refuse(&self, room: Room, free: i64) -> Result<()> {
        let has_expired = self.expire_due(self.now_ms())? > 0;
        if has_expired || self.free_frames(room) != free { Ok(()) } else { Err(self.full(room)) }
    }

    /// Waits for the flush that somebody living is at, for a while; false where nobody is. Whoever is at it may die, and wakes nobody then.
    pub(crate) fn wait_for_flush_under_way(&self) -> bool {
        let globals = self.globals();
        let until = Instant::now() + FLUSH_WAIT_MAX;
        let seen = globals.watermark_wakes.load(Ordering::Acquire);
        let mut has_waited = false;
        while globals.watermark_wakes.load(Ordering::Acquire) == seen
            && globals.flush_lease.owner().is_some_and(|owner| self.member.is_alive(owner))
            && Instant::now() < until
        {
            futex_wait(&globals.watermark_wakes, seen, FLUSHER_LOOK_EVERY);
            has_waited = true;
        }
        has_waited
    }

    /// Returns when everything written so far is durable. The caller holds no lock.
    ///
    /// # Errors
    /// As [`Engine::flush_once`].
    pub fn flush_all(&self) -> Result<()> {
        self.pack_before_flush(false, PACK_FOR_CALLER_MAX)?;
        self.wait_durable(self.last_sequence())
    }

    /// Keeps some frames of either tier free ahead of demand. For the keeper, every tick.
    ///
    /// # Errors
    /// Those of reading, writing and flushing.
    pub(crate) fn keep_room(&self) -> Result<()> {
        if self.check_writable().is_err() {
            return Ok(());
        }
        self.reclaim();
        if self.durable.is_none() && self.when_full() == WhenFull::Error {
            // Copying around what is alive ahead of demand would be work for nothing.
            return Ok(());
        }
        self.migrate_ahead()?;
        for room in [Room::Cold, Room::Hot] {
            let (frames, percent) = if room == Room::Hot {
                (self.geometry.hot_frames, HOT_FREE_PERCENT)
            } else {
                (self.geometry.durable_frames(), COLD_FREE_PERCENT)
            };
            if frames == 0 {
                continue;
            }
            let wanted = if room == Room::Cold && self.is_packed() {
                // More would be compacted before a flush, which writers need anyway, has made it emptier.
                RESERVE_FRAMES + 1
            } else {
                (frames / 100 * percent).max(RESERVE_FRAMES + 2)
            };
            let is_short = || self.free_soon(room) < i64::from(wanted) && !self.is_held_up_by_snapshot(room);
            let mut tried = Tried::new();
            for _ in 0..KEEPER_STEPS_MAX {
                if !is_short() {
                    break;
                }
                let Some(lock) = self.lock_room_soon() else { break };
                // Who had the lock meanwhile may have made enough.
                if !is_short() || !self.step(room, &mut tried, false)? {
                    break;
                }
                self.reclaim();
                Self::lend_room_lock(lock);
            }
        }
        Ok(())
    }

    /// Whether frames were given up that a snapshot has yet to copy: they come soon, and giving up more would give up too much.
    fn is_held_up_by_snapshot(&self, room: Room) -> bool {
        matches!(room, Room::Hot | Room::Cold)
            && self.globals().snapshot_lock.owner().is_some()
            && self.segments().iter().enumerate().any(|(slot, segment)| {
                let place = Place::unpack(segment.place.load(Ordering::Relaxed));
                let has_frame = if room == Room::Hot { place.hot.is_some() } else { place.cold.is_some() };
                has_frame
                    && segment.state.load(Ordering::Acquire) == state::RETIRED
                    && self.is_held_for_snapshot(slot as u32)
            })
    }

    fn free_frames(&self, room: Room) -> i64 {
        match room {
            Room::Hot => self.free_hot_frames(),
            Room::Cold => i64::from(self.free_durable()),
            Room::Index(_) => 0,
        }
    }

    /// Free frames, and those that the next flushes make free.
    fn free_soon(&self, room: Room) -> i64 {
        let waiting = if room == Room::Cold { self.census().retired_cold } else { 0 };
        self.free_frames(room) + i64::from(waiting)
    }

    /// Takes steps until more frames of a kind are free than before, or drops keys where the index can't grow. The caller holds the room lock.
    fn free_some(&self, room: Room, steps_max: usize) -> Result<bool> {
        if let Room::Index(partition) = room {
            if self.when_full() == WhenFull::Error {
                return Ok(false);
            }
            return match self.drop_from_partition(partition)? {
                Dropped::Some => Ok(true),
                Dropped::Nothing => Ok(false),
                Dropped::Wants(room) => self.free_some(room, steps_max),
            };
        }
        let before = self.free_frames(room);
        let mut tried = Tried::new();
        let mut wanted = 1;
        if room == Room::Cold && self.is_packed() {
            for _ in 0..steps_max {
                if self.pack_step(PACK_FOR_ROOM_DEAD_PERCENT_MIN, &mut tried)?.is_none() {
                    break;
                }
                if self.free_frames(room) > before {
                    return Ok(true);
                }
            }
            if self.is_flushed() {
                // What is compacted now must be flushed, and with it all that is unwritten and might yet have died: so it is made to last.
                wanted = frames_freed_together(self.geometry.durable_frames());
            }
        }
        for _ in 0..steps_max {
            let has_more = self.step(room, &mut tried, true)?;
            self.reclaim();
            if room == Room::Cold && self.is_flushed() {
                let waiting = self.census().retired_cold;
                // The last free frame is for survivors: without it no further step would come to anything.
                let is_short = !has_more || self.free_frames(room) <= 1;
                if waiting >= WAITING_WORTH_A_FLUSH || (waiting > 0 && is_short) {
                    self.flush_for_reuse()?;
                }
            }
            if self.free_frames(room) >= before + i64::from(wanted) || self.is_held_up_by_snapshot(room) {
                return Ok(true);
            }
            if !has_more {
                break;
            }
        }
        Ok(self.free_frames(room) > before)
    }

    /// Flushes as often as it takes until the frames that are retired now may be reused.
    fn flush_for_reuse(&self) -> Result<()> {
        self.pack_before_flush(true, PACK_FOR_CALLER_MAX)?;
        for _ in 0..FLUSHES_BEFORE_REUSE {
            self.flush_for_frames()?;
            self.reclaim();
            if self.census().retired_cold == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Empties one segment. False where there is none to empty.
    fn step(&self, room: Room, tried: &mut Tried, may_flush: bool) -> Result<bool> {
        match (room, self.durable.is_some(), self.when_full()) {
            (Room::Hot, false, WhenFull::Evict) => self.evict_step(tried),
            (Room::Hot, false, WhenFull::Error) => self.compact_step(COMPACT_GAIN_PERCENT_MIN, tried),
            (Room::Hot, true, _) => {
                if may_flush && self.must_flush_to_demote() {
                    if self.pack_step(PACK_FOR_ROOM_DEAD_PERCENT_MIN, tried)?.is_some() {
                        return Ok(true);
                    }
                    self.pack_before_flush(true, PACK_FOR_CALLER_MAX)?;
                }
                Ok(self.demote_step(tried, may_flush)? == Demoted::Some)
            }
            (Room::Index(_), ..) => Ok(false),
            (Room::Cold, ..) => {
                // Survivors pass through the hot tier.
                if self.free_frames(Room::Hot) <= 0 && self.demote_step(tried, may_flush)? == Demoted::Some {
                    self.reclaim();
                }
                self.cold_step(tried)
            }
        }
    }

    /// Whether nothing that could be demoted is in the cold tier yet.
    fn must_flush_to_demote(&self) -> bool {
        let census = self.census();
        self.is_flushed()
            && self.is_packed()
            && !census.closed.iter().chain(&census.extents).any(|candidate| {
                candidate.is_hot && !candidate.is_unwritten && candidate.class != class::CACHE
            })
    }

    fn cold_step(&self, tried: &mut Tried) -> Result<bool> {
        match self.when_full() {
            WhenFull::Error => self.compact_step(COMPACT_GAIN_PERCENT_MIN, tried),
            WhenFull::Evict => Ok(self.compact_step(COMPACT_BEFORE_EVICT_GAIN_PERCENT_MIN, tried)?
                || self.evict_cold_step(tried)?),
        }
    }

    /// Compacts the best segment for it; true if there was one, whatever came of it.
    fn compact_step(&self, gain_percent_min: u64, tried: &mut Tried) -> Result<bool> {
        if self.durable.is_some() && self.pack_step(PACK_FOR_ROOM_DEAD_PERCENT_MIN, tried)?.is_some() {
            return Ok(true);
        }
        let census = self.census();
        let Some(candidate) = self.best_to_compact(&census, gain_percent_min, tried) else {
            if self.has_tombstones_to_cover(&census) && tried.insert(CHECKPOINTED) {
                return self.cover_tombstones(&census);
            }
            // What was deleted from segments that are still appended to can only be regained once they are closed.
            return Ok(tried.insert(HEADS_CLOSED) && self.close_dead_heads());
        };
        tried.insert(candidate.slot);
        self.compact_segment(candidate.slot)?;
        Ok(true)
    }

    /// Whether somebody living is at a checkpoint by which something is to be gained, and nothing is left even for deletes until then.
    fn is_checkpoint_awaited(&self, room: Room) -> bool {
        let owner = self.globals().checkpoint_lock.owner();
        owner.is_some_and(|owner| self.member.is_alive(owner))
            && self.free_frames(room) <= 0
            && self.has_tombstones_to_cover(&self.census())
    }

    /// Writes checkpoints, so that tombstones need not be kept. False where that is not possible now.
    fn cover_tombstones(&self, census: &Census) -> Result<bool> {
        // Before: one more in such a segment, and the checkpoint would not cover it.
        for number in self.heads_kept_by_tombstones(census) {
            self.close_open_segment(number);
        }
        if self.globals().checkpoint_lock.owner().is_some() {
            self.hasten_checkpoint()?;
            return Ok(false);
        }
        self.cover_log().map(|()| true)
    }

    /// Closes the open segments in which most is dead. False where there is none.
    fn close_dead_heads(&self) -> bool {
        self.dead_heads().into_iter().map(|number| self.close_open_segment(number)).count() > 0
    }

    /// Limits the hot tier to its first so many bytes' worth of frames, or, with its whole size, lets it be used whole again. Returns when what is
    /// too much was given up.
    ///
    /// # Errors
    /// InvalidOption; Full where that is not possible, and then the limit is what it was; those of making room.
    pub(crate) fn limit_hot(&self, bytes: u64) -> Result<()> {
        let hot_bytes = self.superblock.options.hot_bytes;
        let frame_bytes = u64::from(self.geometry.frame_bytes);
        if !(HOT_FRAMES_MIN * frame_bytes..=hot_bytes).contains(&bytes) {
            return Err(Error::invalid_option(format!(
                "the hot tier of {} can be limited to {} and up to its size, {}, but not to {}: for more, take a snapshot and restore it with a larger hot",
                self.paths.location,
                size_text(HOT_FRAMES_MIN * frame_bytes),
                size_text(hot_bytes),
                size_text(bytes)
            )));
        }
        let frames = (hot_bytes - bytes).div_ceil(frame_bytes) as u32;
        let withheld = &self.globals().hot_withheld;
        let before = withheld.swap(frames, Ordering::SeqCst);
        let mut request = RoomRequest::for_frames(frames as usize);
        while self.free_frames(Room::Hot) < i64::from(RESERVE_FRAMES) {
            if let Err(error) = self.make_room(Room::Hot, &mut request) {
                withheld.store(before, Ordering::SeqCst);
                return Err(error);
            }
        }
        Ok(())
    }
}
