//! Dropping one key, as if it was deleted: a large value beside which a tombstone is nothing, or a key of a partition of the index that can't grow.
//!
//! Such a partition drops some of its own keys: what others drop makes no place in it. Rejected: dropping the oldest segments until
//! it has one; with ten thousand partitions, the oldest key of one of them is behind ten thousand others.

use crate::crash::crash_point;
use crate::engine::{Engine, PartitionGuard};
use crate::error::Result;
use crate::feed::ChangeKind;
use crate::index::{ACCESS_MAX, ADDRESS_MASK, EntryRef};
use crate::layout::Place;
use crate::log::Sequence;
use crate::record::{self, Draft, Word0};
use crate::segment::Room;
use std::sync::atomic::Ordering;

/// One in so many keys of a partition is dropped at once.
const PARTITION_SHARE_DROPPED: usize = 32;

/// A key to be dropped, whose partition is locked.
pub(crate) struct Victim<'e> {
    /// Its entry's place.
    pub place: EntryRef<'e>,
    /// Its entry.
    pub entry: u64,
    /// What its record says.
    pub key: Vec<u8>,
    pub word: Word0,
    pub total: usize,
    pub link: u64,
    pub extents: Vec<u64>,
    pub is_expired: bool,
}

/// What an entry leads to.
pub(crate) enum Found<'e> {
    Victim(Victim<'e>),
    /// This entry's record has to be read first, without the lock.
    Cold(u64),
    /// No intact record.
    Nowhere,
}

impl Engine {
    /// The key of an entry of a locked partition. The caller holds the room lock.
    pub(crate) fn victim_at<'e>(
        &self,
        place: EntryRef<'e>,
        entry: u64,
        cold: &[(u64, u64, Vec<u8>)],
    ) -> Found<'e> {
        let frame_bytes = self.geometry.frame_bytes as usize;
        let Some((slot, offset)) = self.split(entry & ADDRESS_MASK).filter(|at| at.1 < frame_bytes) else {
            return Found::Nowhere;
        };
        let segment = self.segment(slot);
        let segment_id = segment.segment_id.load(Ordering::Acquire);
        let bytes = match self.mapped_base(Place::unpack(segment.place.load(Ordering::Acquire))) {
            // SAFETY: a frame's bytes; the room lock keeps it from being given up, and the record in it is committed.
            Some(base) => unsafe { std::slice::from_raw_parts(base.add(offset), frame_bytes - offset) },
            None => match cold.iter().find(|known| known.0 == entry && known.1 == segment_id) {
                Some((_, _, bytes)) => bytes,
                None => return Found::Cold(entry),
            },
        };
        let record = record::parse(bytes, offset, frame_bytes);
        let Some(record) = record.filter(|record| record.is_intact(segment_id)) else {
            return Found::Nowhere;
        };
        Found::Victim(Victim {
            place,
            entry,
            key: record.key.to_vec(),
            word: record.word,
            total: record.total,
            link: record.link,
            extents: record.extents(frame_bytes).map(|extents| extents.1).unwrap_or_default(),
            is_expired: record.expiry_ms != 0 && record.expiry_ms <= self.now_ms(),
        })
    }

    /// Drops a key of a locked partition, unless even the reserve has no room for its tombstone.
    pub(crate) fn drop_victim(&self, guard: &PartitionGuard<'_>, victim: &Victim<'_>) -> Result<(), Room> {
        if self.needs_tombstones() {
            let draft = Draft::tombstone(&victim.key);
            let reserved = self.reserve_for_tombstones(self.total_at(draft.word), Sequence::New(1))?;
            guard.partition.in_flight.store(self.address(reserved.slot, reserved.offset), Ordering::Release);
            crash_point!("evict.reserved");
            self.fill(&reserved, &draft, draft.checksum(reserved.sequence));
            self.segment(reserved.slot).tombstone_bytes.fetch_add(reserved.total as u32, Ordering::Relaxed);
            crash_point!("evict.committed");
        }
        self.remove_entry(guard, victim.place, false);
        guard.partition.in_flight.store(0, Ordering::Release);
        crash_point!("evict.published");
        let (change, counter) = if victim.is_expired {
            (ChangeKind::Expired, &self.counters().expired)
        } else {
            (ChangeKind::Evicted, &self.counters().evicted)
        };
        self.note_change(guard, change, &victim.key, self.hash(&victim.key));
        self.count_dead_record(victim.entry, victim.word, victim.total, victim.link);
        // Under the lock still: whoever inherits it retires extents that nothing refers to.
        self.retire_extents(&victim.extents);
        Self::count(counter, 1);
        Ok(())
    }

    /// Drops some keys of a partition: those that were read least, of several such the oldest. False where it has none. The caller holds
    /// the room lock.
    pub(crate) fn drop_from_partition(&self, partition: u32) -> Result<bool> {
        let (mut cold, mut damaged) = (Vec::new(), Vec::new());
        let mut is_first = true;
        loop {
            let guard = self.lock_partition(partition);
            let mut missing = Vec::new();
            let mut victims = Vec::new();
            let least = self.least_of(&guard, &damaged);
            if least.is_empty() {
                return Ok(false);
            }
            for (place, entry) in least {
                match self.victim_at(place, entry, &cold) {
                    Found::Victim(victim) => victims.push(victim),
                    Found::Cold(entry) => missing.push(entry),
                    Found::Nowhere => damaged.push(entry),
                }
            }
            if victims.is_empty() && missing.is_empty() {
                continue;
            }
            // Which are the least may change while the lock is let go of: once all were read, those are dropped that still are.
            if missing.is_empty() || !is_first && !victims.is_empty() {
                return Ok(
                    victims.iter().filter(|victim| self.drop_victim(&guard, victim).is_ok()).count() > 0
                );
            }
            drop(guard);
            is_first = false;
            for entry in missing {
                self.fetch_cold(entry, &mut cold)?;
            }
        }
    }

    /// The keys of a locked partition that are the first to go: some, for to find them is a look at all.
    fn least_of<'a>(&'a self, guard: &PartitionGuard<'_>, damaged: &[u64]) -> Vec<(EntryRef<'a>, u64)> {
        let rank = |&(place, entry): &(EntryRef<'_>, u64)| {
            let slot = self.split(entry & ADDRESS_MASK).map(|at| at.0);
            let age = slot.map(|slot| self.segment(slot).segment_id.load(Ordering::Relaxed));
            (place.access().load(Ordering::Relaxed) & ACCESS_MAX, age)
        };
        let mut entries: Vec<_> =
            self.locked_entries(guard).filter(|(_, entry)| !damaged.contains(entry)).collect();
        entries.sort_by_cached_key(rank);
        entries.truncate(entries.len().div_ceil(PARTITION_SHARE_DROPPED));
        entries
    }
}
