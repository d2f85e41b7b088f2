//! A full store: whether room may yet be gained in it, and what a writer is told that finds none.
//!
//! Where nothing may be dropped, a store in which everything is alive stays full until somebody deletes. Its writers are refused at once: a
//! server that tried again for each of them would keep all its clients waiting.

use crate::census::{Candidate, Census};
use crate::compact::COMPACT_GAIN_PERCENT_MIN;
use crate::engine::Engine;
use crate::error::Error;
use crate::layout::{HEADS, Place, TOMBSTONE_HEAD, state};
use crate::options::WhenFull;
use crate::segment::Room;
use crate::sizes::size_text;
use std::sync::atomic::Ordering;

impl Engine {
    /// Whether nothing but a delete can make room of a kind, which was looked for a moment ago in vain.
    pub(crate) fn is_full_for_good(&self, room: Room) -> bool {
        if matches!(room, Room::Index(_)) {
            return true;
        }
        if self.when_full() != WhenFull::Error {
            return false;
        }
        let census = self.census();
        if self.has_retired(room) {
            return false;
        }
        if room == Room::Hot && self.durable.is_some() {
            // What is there can be demoted, once it is unpinned or flushed.
            let mut candidates = census.closed.iter().chain(&census.extents);
            return !candidates.any(|candidate| candidate.is_hot && self.may_come_free(candidate.slot));
        }
        !self.is_anything_worth_compacting(&census)
            && !self.has_tombstones_to_cover(&census)
            && self.dead_heads().is_empty()
    }

    fn is_anything_worth_compacting(&self, census: &Census) -> bool {
        self.worth_compacting(census, COMPACT_GAIN_PERCENT_MIN)
            .iter()
            .any(|(candidate, _)| self.may_come_free(candidate.slot))
    }

    /// Whether a segment's frame can be had. What is pinned counts while a flush is under way, whose pins pass by themselves; a view's may
    /// stay for hours.
    fn may_come_free(&self, slot: u32) -> bool {
        self.globals().flush_lease.owner().is_some() || !self.is_pinned(slot)
    }

    fn has_retired(&self, room: Room) -> bool {
        self.segments().iter().enumerate().any(|(slot, segment)| {
            let place = Place::unpack(segment.place.load(Ordering::Relaxed));
            let has_frame = if room == Room::Hot { place.hot.is_some() } else { place.cold.is_some() };
            has_frame
                && segment.state.load(Ordering::Acquire) == state::RETIRED
                && self.may_come_free(slot as u32)
        })
    }

    /// Whether a checkpoint, which makes tombstones needless, gains a good part of a frame: in segments that it makes worth compacting, in one of
    /// which tombstones keep most, or in one that is appended to and nothing else keeps.
    pub(crate) fn has_tombstones_to_cover(&self, census: &Census) -> bool {
        if self.durable.is_none() {
            return false;
        }
        let frame_bytes = self.geometry.frame_bytes;
        let gained = |candidate: &&Candidate| {
            let gain_bytes = u64::from(candidate.dead_bytes() + candidate.tombstone_bytes);
            gain_bytes * 100 >= u64::from(frame_bytes) * COMPACT_GAIN_PERCENT_MIN
        };
        let gained_bytes: u64 =
            census.closed.iter().filter(gained).map(|candidate| u64::from(candidate.tombstone_bytes)).sum();
        let is_kept_by_them = |candidate: &Candidate| {
            candidate.tombstone_bytes > 0
                && candidate.live_bytes - candidate.tombstone_bytes <= candidate.tail / 2
        };
        gained_bytes >= u64::from(frame_bytes / 2)
            || census.closed.iter().any(is_kept_by_them)
            || !self.heads_kept_by_tombstones(census).is_empty()
    }

    /// Heads whose open segment nothing but tombstones keeps.
    pub(crate) fn heads_kept_by_tombstones(&self, census: &Census) -> Vec<u32> {
        (0..HEADS as u32).filter(|&number| self.is_head_kept_by_tombstones(census, number)).collect()
    }

    fn is_head_kept_by_tombstones(&self, census: &Census, number: u32) -> bool {
        let Some(slot) = self.open_slot(number) else { return false };
        let segment = self.segment(slot);
        let (tail, frame_bytes) = (segment.tail.load(Ordering::Relaxed), self.geometry.frame_bytes);
        self.uncovered_tombstone_bytes(segment) > 0
            && match number {
                TOMBSTONE_HEAD => {
                    // Compaction may want its frame before it is half full, if it is the last.
                    tail > frame_bytes / 2
                        || self.free_durable() == 0 && self.is_anything_worth_compacting(census)
                }
                _ => tail > frame_bytes / 4 && segment.live_bytes.load(Ordering::Relaxed) < tail / 2,
            }
    }

    /// Heads whose open segment is mostly dead: that can only be regained once it is closed.
    pub(crate) fn dead_heads(&self) -> Vec<u32> {
        let is_mostly_dead = |&number: &u32| {
            self.open_slot(number).is_some_and(|slot| {
                let segment = self.segment(slot);
                let tail = segment.tail.load(Ordering::Relaxed);
                let is_last_frame =
                    number == TOMBSTONE_HEAD && self.durable.is_some() && self.free_durable() == 0;
                (is_last_frame || tail > self.geometry.frame_bytes / 4)
                    && self.needed_bytes(segment) < tail / 2
            })
        };
        (0..HEADS as u32).filter(is_mostly_dead).collect()
    }

    /// The error that says why, and what helps.
    #[cold]
    pub(crate) fn full(&self, room: Room) -> Error {
        let census = self.census();
        let frame_bytes = u64::from(self.geometry.frame_bytes);
        let options = &self.superblock.options;
        let (tier, bytes) = match room {
            Room::Hot | Room::Index(_) => ("hot", self.hot_limit_bytes()),
            Room::Cold if options.cold_bytes == 0 => ("warm", options.warm_bytes),
            Room::Cold => ("cold", options.cold_bytes),
        };
        let pinned = (0..self.geometry.slots)
            .filter(|&slot| {
                self.segment(slot).state.load(Ordering::Relaxed) != state::FREE && self.is_pinned(slot)
            })
            .count() as u64;
        let mut holders = Vec::new();
        if pinned > 0 {
            holders.push(format!("views hold {} of it: release them", size_text(pinned * frame_bytes)));
        }
        let index_bytes = u64::from(self.globals().index_frames.load(Ordering::Relaxed)) * frame_bytes;
        let is_index = matches!(room, Room::Index(_));
        if is_index || room == Room::Hot && index_bytes * 4 > bytes {
            holders.push(format!(
                "the index takes {} of it{}: so many keys need a store with a larger hot tier",
                size_text(index_bytes),
                if is_index { " and can't grow" } else { "" }
            ));
        }
        if room == Room::Cold && census.retired_cold > 0 {
            holders.push(format!(
                "{} of it wait for a flush",
                size_text(u64::from(census.retired_cold) * frame_bytes)
            ));
        }
        if self.when_full() == WhenFull::Error {
            holders.push(format!(
                "{}when_full=\"error\" drops nothing: delete some (room comes back in frames of {frame}), or set when_full=\"evict\"",
                if is_index { "" } else { "what is stored takes the rest, and " },
                frame = size_text(frame_bytes)
            ));
        }
        let holders = if holders.is_empty() {
            "nothing in it could be given up".to_owned()
        } else {
            holders.join("; ")
        };
        Error::full(format!(
            "the {tier} tier of {} ({}) is full: {holders}; or create the store with a larger {tier} tier",
            self.paths.location,
            size_text(bytes)
        ))
    }
}
