//! Dropping single keys, as if they were deleted: a large value, beside which a tombstone is nothing, or keys of a partition of the index that can't grow.
//!
//! Such a partition drops some of its own keys: what others drop makes no place in it. Rejected: dropping the oldest segments until
//! it has one; with ten thousand partitions, the oldest key of one of them is behind ten thousand others.

use crate::crash::crash_point;
use crate::engine::{Engine, PartitionGuard};
use crate::error::{Error, Result};
use crate::feed::ChangeKind;
use crate::index::{ACCESS_MAX, ADDRESS_MASK, EntryRef};
use crate::layout::Place;
use crate::log::Sequence;
use crate::record::{self, Draft, Word0};
use crate::segment::Room;
use std::sync::atomic::Ordering;

/// One in so many keys of a partition is dropped at once.
const PARTITION_SHARE_DROPPED: usize = 32;

/// And so many at most: each may have to be read from flash, while others wait.
const DROPPED_MAX: usize = 64;
/// How often it is looked which are to go: others may change that each time.
const ROUNDS_MAX: usize = 8;

/// What dropping keys of a partition came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// There is a place now.
    Some,
    /// It has no key that could be dropped.
    Nothing,
    /// There is no frame for what says that they are gone.
    Wants(Room),
}

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

    /// Drops some keys of a partition that can't grow: those that were read least, of several such the oldest. The caller holds the room lock.
    pub(crate) fn drop_from_partition(&self, partition: u32) -> Result<Dropped> {
        let (mut cold, mut damaged) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS_MAX {
            let guard = self.lock_partition(partition);
            let (mut missing, mut victims) = (Vec::new(), Vec::new());
            let least = self.least_of(&guard, &damaged);
            if least.is_empty() {
                return Ok(Dropped::Nothing);
            }
            for (place, entry) in least {
                match self.victim_at(place, entry, &cold) {
                    Found::Victim(victim) => victims.push(victim),
                    Found::Cold(entry) => missing.push(entry),
                    Found::Nowhere => damaged.push(entry),
                }
            }
            // Which are the least may change while the lock is let go of: once all were read, those are dropped that still are.
            if !victims.is_empty() && (missing.is_empty() || round > 0) {
                return Ok(self.drop_victims(&guard, &victims));
            }
            drop(guard);
            for entry in missing {
                match self.fetch_cold(entry, &mut cold) {
                    Ok(()) => {}
                    // Damaged like any other: one bad sector must not end the making of room.
                    Err(error) if error.is_device_failure() || matches!(error, Error::Corrupt(_)) => {
                        damaged.push(entry);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Dropped::Nothing)
    }

    fn drop_victims(&self, guard: &PartitionGuard<'_>, victims: &[Victim<'_>]) -> Dropped {
        for (count, victim) in victims.iter().enumerate() {
            match self.drop_victim(guard, victim) {
                Ok(()) => {}
                Err(room) if count == 0 => return Dropped::Wants(room),
                Err(_) => break,
            }
        }
        Dropped::Some
    }

    /// The keys of a locked partition that go first. Finding them takes a look at all of its keys, so it is several.
    fn least_of<'a>(&'a self, guard: &PartitionGuard<'_>, damaged: &[u64]) -> Vec<(EntryRef<'a>, u64)> {
        let rank = |&(place, entry): &(EntryRef<'_>, u64)| {
            let slot = self.split(entry & ADDRESS_MASK).map(|at| at.0);
            let age = slot.map(|slot| self.segment(slot).segment_id.load(Ordering::Relaxed));
            (place.access().load(Ordering::Relaxed) & ACCESS_MAX, age)
        };
        let mut entries: Vec<_> =
            self.locked_entries(guard).filter(|(_, entry)| !damaged.contains(entry)).collect();
        entries.sort_by_cached_key(rank);
        entries.truncate(entries.len().div_ceil(PARTITION_SHARE_DROPPED).min(DROPPED_MAX));
        entries
    }
}
