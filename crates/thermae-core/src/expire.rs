//! Expiry: what has expired is invisible to reads at once; here it is removed, so that its memory comes back without anyone touching it.
//!
//! Every segment knows when the next of its records expires, so a look costs one pass over the segment table. Of a segment that is due, only
//! the records that expired since the last look are looked up. Records that expire together were written together (the TTL
//! classes), so most segments end by all of it expiring, and are retired whole.
//!
//! `next_expiry_ms` is reset before the segment is walked, and every writer lowers it after publishing: so a record that appears meanwhile is
//! in the walk or in the next one. Work is bounded: a call looks at so many bytes, those longest overdue first.

use crate::engine::{Engine, LockGuard};
use crate::error::Result;
use crate::layout::{Segment, TTL_HEAD_FIRST, class, state};
use crate::relocate::{Fate, Wanted};
use crate::waiting::check_cancelled;
use std::sync::atomic::Ordering;

/// Most bytes of hot segments that one call looks at.
const HOT_BYTES_MAX: u64 = 256 << 20;
/// Most bytes that one call reads from the cold tier.
const COLD_BYTES_MAX: u64 = 32 << 20;
/// Bytes, a segment at least, after which the room lock is lent to others.
const HELD_BYTES_MAX: u64 = 2 << 20;
/// When a segment whose walk did not see everything is looked at again.
const AGAIN_MS: u64 = 100;

impl Engine {
    /// Removes what has expired at `now_ms`. Returns how many records.
    ///
    /// # Errors
    /// Those of reading cold segments; Cancelled, Closed.
    pub(crate) fn expire_due(&self, now_ms: u64) -> Result<u64> {
        let now_ms = now_ms.min(self.now_ms());
        if self.read_only || !self.has_due(now_ms) {
            return Ok(0);
        }
        let (expired, _room) = self.expire_some(self.lock_room(), now_ms)?;
        Ok(expired)
    }

    /// Removes what has expired, as far as one call goes. Takes and returns the room lock, and lends it meanwhile.
    ///
    /// # Errors
    /// As [`Engine::expire_due`].
    fn expire_some<'e>(&'e self, mut room: LockGuard<'e>, now_ms: u64) -> Result<(u64, LockGuard<'e>)> {
        let mut due: Vec<(u64, u32)> = (0..self.geometry.slots)
            .filter(|&slot| self.is_due(slot, now_ms))
            .map(|slot| (self.segment(slot).next_expiry_ms.load(Ordering::Relaxed), slot))
            .collect();
        due.sort_unstable();
        let (mut hot_left, mut cold_left) = (HOT_BYTES_MAX, COLD_BYTES_MAX);
        let (mut expired, mut held_bytes) = (0, 0);
        for (_, slot) in due {
            if held_bytes >= HELD_BYTES_MAX {
                self.reclaim();
                room = self.pass_room_lock(room)?;
                held_bytes = 0;
            }
            if !self.is_due(slot, now_ms) {
                // Others have looked at it meanwhile.
                continue;
            }
            let segment = self.segment(slot);
            let place = crate::layout::Place::unpack(segment.place.load(Ordering::Acquire));
            let left = if place.hot.is_some() { &mut hot_left } else { &mut cold_left };
            if *left == 0 {
                continue;
            }
            let bytes = u64::from(segment.tail.load(Ordering::Relaxed));
            *left = left.saturating_sub(bytes);
            held_bytes += bytes;
            expired += self.expire_segment(slot, now_ms)?;
        }
        self.reclaim();
        Ok((expired, room))
    }

    /// Removes all that has expired at `now_ms`, however much there is to look at.
    ///
    /// # Errors
    /// As [`Engine::expire_due`].
    pub(crate) fn expire_all(&self, now_ms: u64) -> Result<()> {
        let now_ms = now_ms.min(self.now_ms());
        let expires = |segment: &Segment| segment.last_expiry_ms.load(Ordering::Relaxed) != 0;
        if self.read_only || !self.segments().iter().any(expires) {
            return Ok(());
        }
        check_cancelled()?;
        // Whoever looks through a segment takes its next moment away meanwhile, as if nothing in it were due: only under the lock does one see
        // all that is.
        let mut room = self.lock_room();
        // The second time for what others have put off while the lock was lent.
        for _ in 0..2 {
            self.hasten_second_looks(now_ms);
            let mut calls = 0;
            // Each call looks at one segment at least, and what it can't finish is due again later than now.
            while self.has_due(now_ms) && calls < self.geometry.slots {
                if calls > 0 {
                    room = self.pass_room_lock(room)?;
                }
                calls += 1;
                (_, room) = self.expire_some(room, now_ms)?;
            }
            if calls == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Makes due at once what an earlier look could not finish and put off: who counts can't wait for it. (What was never looked at, and is due that
    /// soon, can't be told apart, and is looked at once for nothing.)
    fn hasten_second_looks(&self, now_ms: u64) {
        let put_off_until_ms = now_ms.saturating_add(AGAIN_MS);
        for segment in self.segments() {
            let is_put_off = segment.expired_until_ms.load(Ordering::Relaxed) == 0
                && segment.next_expiry_ms.load(Ordering::Relaxed) <= put_off_until_ms;
            if is_put_off {
                segment.next_expiry_ms.fetch_min(now_ms, Ordering::AcqRel);
            }
        }
    }

    /// Whoever died in the middle of a look left its segment without a next moment: all that held anything with an expiry are looked
    /// through once more. Under the room lock, just inherited.
    pub(crate) fn repair_expiries(&self) {
        for segment in self.segments() {
            let is_unknown = segment.next_expiry_ms.load(Ordering::Relaxed) == u64::MAX
                && segment.last_expiry_ms.load(Ordering::Relaxed) != 0;
            if is_unknown {
                segment
                    .next_expiry_ms
                    .fetch_min(segment.expired_until_ms.load(Ordering::Relaxed), Ordering::AcqRel);
            }
        }
    }

    fn has_due(&self, now_ms: u64) -> bool {
        (0..self.geometry.slots).any(|slot| self.is_due(slot, now_ms))
    }

    fn is_due(&self, slot: u32, now_ms: u64) -> bool {
        let segment = self.segment(slot);
        matches!(segment.state.load(Ordering::Acquire), state::OPEN | state::CLOSED)
            && segment.next_expiry_ms.load(Ordering::Relaxed) <= now_ms
    }

    fn expire_segment(&self, slot: u32, now_ms: u64) -> Result<u64> {
        let segment = self.segment(slot);
        let next_ms = segment.next_expiry_ms.swap(u64::MAX, Ordering::AcqRel);
        let done_ms = segment.expired_until_ms.load(Ordering::Relaxed);
        // A record may have been stored since with an expiry in the past: then nothing may be taken as done.
        let after_ms = if next_ms > done_ms { done_ms } else { 0 };
        let walk = match self.walk(slot, Wanted::Due { after_ms, until_ms: now_ms }) {
            Ok(Some(walk)) => walk,
            other => {
                put_off(segment, now_ms);
                return other.map(|_| 0);
            }
        };
        let tally = self.pass(&walk, usize::MAX, |_| Fate::Stay);
        let is_open = segment.state.load(Ordering::Acquire) == state::OPEN;
        if walk.has_unwritten {
            put_off(segment, now_ms);
        } else {
            segment.next_expiry_ms.fetch_min(walk.next_expiry_ms, Ordering::AcqRel);
            segment.expired_until_ms.store(now_ms, Ordering::Relaxed);
        }
        self.retire_expired(slot, is_open, now_ms)?;
        Ok(tally.expired)
    }

    /// Gives up a segment in which expiry left next to nothing.
    fn retire_expired(&self, slot: u32, is_open: bool, now_ms: u64) -> Result<()> {
        let segment = self.segment(slot);
        let live_bytes = segment.live_bytes.load(Ordering::Relaxed);
        let class = segment.class.load(Ordering::Relaxed);
        if is_open {
            let is_over = live_bytes == 0 && segment.last_expiry_ms.load(Ordering::Relaxed) <= now_ms;
            if class < class::TTL || !is_over {
                return Ok(());
            }
            self.close_open_segment(TTL_HEAD_FIRST + class - class::TTL);
        }
        if live_bytes <= segment.tail.load(Ordering::Relaxed) / 16 && self.survivors_fit(live_bytes).is_ok() {
            self.compact_segment(slot)?;
        }
        Ok(())
    }
}

/// After a look that did not see everything: another one is due soon, and takes nothing as done.
fn put_off(segment: &Segment, now_ms: u64) {
    segment.expired_until_ms.store(0, Ordering::Relaxed);
    segment.next_expiry_ms.fetch_min(now_ms.saturating_add(AGAIN_MS), Ordering::AcqRel);
}
