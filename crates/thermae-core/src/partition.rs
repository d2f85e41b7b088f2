//! Locking a partition, and making it whole again after its owner died.
//!
//! The owner may have died anywhere: before its record was complete (the record is abandoned), between record and entry (the update is
//! completed: it is in the log already, and would come back with the next replay), while growing (the new table is dropped),
//! within a transaction (undone, or completed where it had happened), or while it repaired this very partition: every step here can be
//! taken again by the next one. What inheriting the lock costs is one pass over the partition, about a thousand entries, and one over
//! the segment table.

use crate::block::get_u64;
use crate::crash::crash_point;
use crate::engine::{Engine, PartitionGuard};
use crate::error::{Error, Result};
use crate::index::{ADDRESS_MASK, entry};
use crate::layout::{ADDRESS_MIN, Place, SLOT_BITS, Segment, Table, state};
use crate::lock::Acquired;
use crate::record::{self, Parsed, flag, kind};
use std::sync::atomic::Ordering;

/// How often an update that somebody died in is tried to be completed, where a record can't be read.
const REPUBLISH_ATTEMPTS_MAX: u32 = 3;
/// Where a transaction's record has its expiry, if it has one.
const BATCH_EXPIRY_OFFSET: usize = record::HEADER_BYTES + record::EXTENDED_BYTES;

impl Engine {
    /// Locks a partition.
    #[inline]
    pub(crate) fn lock_partition(&self, number: u32) -> PartitionGuard<'_> {
        let partition = &self.partitions()[number as usize];
        let acquired = partition.lock.lock(self.member.lock_word(), |slot| self.member.is_alive(slot));
        let guard = PartitionGuard { partition, number };
        if let Acquired::Inherited(_) = acquired {
            Self::count(&self.counters().inherited_locks, 1);
            self.repair_partition(&guard);
        }
        guard
    }

    /// Makes a partition whole whose lock was just inherited.
    #[cold]
    pub(crate) fn repair_partition(&self, guard: &PartitionGuard<'_>) {
        crash_point!("repair.begun");
        let pending = guard.partition.pending_table.load(Ordering::Acquire);
        if pending != 0 {
            // A table that was published is not pending: what held the old one's memory was the arena's lock, and that is repaired.
            let is_published = pending == self.directory()[guard.number as usize].load(Ordering::Acquire);
            self.release_table(guard.number, (!is_published).then(|| Table::unpack(pending)));
        }
        self.finish_transactions(guard);
        crash_point!("repair.transactions_finished");
        self.complete_in_flight(guard);
        crash_point!("repair.update_completed");
        self.note_marked_keys();
        self.retire_forgotten_extents(guard);
        let count = self.locked_entries(guard).count();
        guard.partition.count.store(u32::try_from(count).unwrap_or(u32::MAX), Ordering::Relaxed);
        // Whatever was changed here, by the dead one or just now, nobody was told of it.
        self.note_anything(guard);
    }

    /// Puts back the entries that an undecided transaction replaced; does what is left to do for one that happened. Whoever began it held
    /// this partition's lock, so it is dead, be it the one that the lock was inherited from or one before.
    fn finish_transactions(&self, guard: &PartitionGuard<'_>) {
        for (place, word) in self.locked_entries(guard) {
            let Some((base, segment, offset)) = self.hot_record(word & ADDRESS_MASK) else { continue };
            let frame_bytes = self.geometry.frame_bytes as usize;
            // SAFETY: hot_record checked that a header of 32 bytes lies in the frame, which this entry keeps in use.
            let at = unsafe { base.add(offset) };
            let header_len = (BATCH_EXPIRY_OFFSET + record::EXPIRY_BYTES).min(frame_bytes - offset);
            // SAFETY: as above; no more than the frame has.
            let header = unsafe { std::slice::from_raw_parts(at, header_len) };
            let Some((first, _)) = record::total_len(header, offset, frame_bytes, frame_bytes - offset)
            else {
                continue;
            };
            if !first.is_in_batch() {
                continue;
            }
            let Some(member) = self.batch_member(base, offset) else { continue };
            if member.has_happened() {
                if first.base_kind() == kind::TOMBSTONE {
                    self.remove_entry(guard, place, false);
                } else if first.has(flag::EXPIRY) {
                    let slot = (segment.segment_id.load(Ordering::Acquire) & ((1 << SLOT_BITS) - 1)) as u32;
                    self.note_expiry(slot, get_u64(header, BATCH_EXPIRY_OFFSET));
                }
                continue;
            }
            if member.link & ADDRESS_MASK >= ADDRESS_MIN {
                place.store(member.link);
            } else {
                self.remove_entry(guard, place, false);
            }
        }
    }

    /// Retires extents of this partition's keys that no record lists: their owner died between unpublishing them and saying so, or
    /// in a transaction that was undone.
    fn retire_forgotten_extents(&self, guard: &PartitionGuard<'_>) {
        let frame_bytes = self.geometry.frame_bytes as usize;
        for (slot, segment) in self.segments().iter().enumerate() {
            let hash = segment.key_hash.load(Ordering::Relaxed);
            if segment.state.load(Ordering::Acquire) != state::EXTENT
                || self.partition_of(hash) != guard.number
            {
                continue;
            }
            // The hash once more, after the identity: the slot may have become another key's in between.
            let segment_id = segment.segment_id.load(Ordering::Acquire);
            if segment.key_hash.load(Ordering::Acquire) != hash {
                continue;
            }
            let mut probe = self.probe(self.table(guard.number), self.tag(hash));
            // A record that can't be read may list it.
            let is_listed = std::iter::from_fn(|| probe.next()).any(|(_, word)| {
                let listed = self.with_locked_record(word & ADDRESS_MASK, |record| {
                    Some(
                        record.extents(frame_bytes).is_some_and(|(_, extents)| extents.contains(&segment_id)),
                    )
                });
                listed.ok().flatten().unwrap_or(true)
            });
            if !is_listed {
                self.retire(slot as u32);
            }
        }
    }

    /// Completes the update that a dead participant had in flight in this partition, or abandons its record.
    fn complete_in_flight(&self, guard: &PartitionGuard<'_>) {
        let address = guard.partition.in_flight.load(Ordering::Acquire);
        if address >= ADDRESS_MIN {
            self.complete_update(guard, address);
        }
        guard.partition.in_flight.store(0, Ordering::Release);
    }

    fn complete_update(&self, guard: &PartitionGuard<'_>, address: u64) {
        let Some((base, segment, offset)) = self.hot_record(address) else { return };
        let segment_id = segment.segment_id.load(Ordering::Acquire);
        let tail = segment.tail.load(Ordering::Acquire) as usize;
        if offset >= tail {
            return;
        }
        let Some((word, total)) = self.settle(base, offset, segment_id) else { return };
        if !word.has_key() || offset + total > tail {
            return;
        }
        // SAFETY: below the tail of a segment that holds an unpublished record, which nobody retires while the partition is locked.
        let bytes = unsafe { std::slice::from_raw_parts(base.add(offset), total) };
        let Some(record) = record::parse(bytes, offset, self.geometry.frame_bytes as usize) else { return };
        if record.is_intact(segment_id) && !record.word.is_in_batch() {
            // What fails once may succeed at once again. A key whose record can't be read is left as it is: with a second entry it would be
            // there twice. Its update was never answered; it stays in the log, and comes back with the next replay that still finds it there.
            // It can't be left in flight for somebody else: once the lock is free, its segment may become another.
            let _ = (0..REPUBLISH_ATTEMPTS_MAX).find_map(|_| self.republish(guard, &record, address).ok());
            self.note_expiry((segment_id & ((1 << SLOT_BITS) - 1)) as u32, record.expiry_ms);
        }
    }

    /// # Errors
    /// Io, where a record that may be the key's can't be read; nothing was changed then.
    fn republish(&self, guard: &PartitionGuard<'_>, record: &Parsed<'_>, address: u64) -> Result<()> {
        let hash = self.hash(record.key);
        if self.partition_of(hash) != guard.number {
            return Ok(());
        }
        if record.word.base_kind() == kind::LARGE {
            self.adopt_extents(record.payload);
        }
        let tag = self.tag(hash);
        let is_tombstone = record.word.base_kind() == kind::TOMBSTONE;
        let mut probe = self.probe(self.table(guard.number), tag);
        while let Some((place, word)) = probe.next() {
            if word & ADDRESS_MASK == address {
                return Ok(());
            }
            let matches = self.with_locked_record(word & ADDRESS_MASK, |other| {
                (other.key == record.key).then_some(other.sequence)
            })?;
            match matches {
                Some(sequence) if sequence < record.sequence => {
                    if is_tombstone {
                        self.remove_entry(guard, place, false);
                    } else {
                        place.store(entry(tag, address));
                    }
                    return Ok(());
                }
                Some(_) => return Ok(()),
                None => {}
            }
        }
        if !is_tombstone {
            // A store too full to index the record keeps the update in the log; it comes back with the next replay.
            if let Ok(place) = self.vacancy(guard, tag) {
                self.fill_entry(guard, place, entry(tag, address));
            }
        }
        Ok(())
    }

    /// The frame, segment and offset of an address that is hot, with room for an extended header behind it.
    pub(crate) fn hot_record(&self, address: u64) -> Option<(*mut u8, &Segment, usize)> {
        let (slot, offset) = self.split(address)?;
        let segment = self.segment(slot);
        if segment.state.load(Ordering::Acquire) == state::FREE
            || offset + record::BATCH_BYTES > self.geometry.frame_bytes as usize
        {
            return None;
        }
        let base = self.hot_base(Place::unpack(segment.place.load(Ordering::Acquire)))?;
        Some((base, segment, offset))
    }

    /// Runs `act` on the record at `address`, hot or cold, while the partition that refers to it is locked. `None` where no record is.
    ///
    /// # Errors
    /// Io: what can't be read now may be there.
    pub(crate) fn with_locked_record<R>(
        &self,
        address: u64,
        act: impl FnOnce(&Parsed<'_>) -> Option<R>,
    ) -> Result<Option<R>> {
        self.with_record_read_by(address, |place, offset| self.read_cold(place, offset), act)
    }

    /// The same, where what is in no mapped frame is read by `read_cold`.
    pub(crate) fn with_record_read_by<R>(
        &self,
        address: u64,
        read_cold: impl Fn(Place, usize) -> Result<Option<Vec<u8>>>,
        act: impl FnOnce(&Parsed<'_>) -> Option<R>,
    ) -> Result<Option<R>> {
        let Some((slot, offset)) = self.split(address) else { return Ok(None) };
        let frame_bytes = self.geometry.frame_bytes as usize;
        let segment = self.segment(slot);
        for _ in 0..8 {
            let place_word = segment.place.load(Ordering::Acquire);
            let place = Place::unpack(place_word);
            let read = match self.mapped_base(place) {
                Some(base) => mapped_record(base, offset, frame_bytes),
                None => match read_cold(place, offset) {
                    // The file ends before it, so it is lost.
                    Err(Error::Corrupt(_)) => None,
                    read => read?,
                },
            };
            std::sync::atomic::fence(Ordering::Acquire);
            if segment.place.load(Ordering::Relaxed) == place_word {
                let record = read.as_deref().and_then(|bytes| record::parse(bytes, offset, frame_bytes));
                return Ok(record.and_then(|record| act(&record)));
            }
        }
        Ok(None)
    }
}

/// A copy of the record at an offset of a mapped frame. The bytes may change meanwhile: the caller looks at the place afterwards.
fn mapped_record(base: *mut u8, offset: usize, frame_bytes: usize) -> Option<Vec<u8>> {
    let room = frame_bytes.checked_sub(offset).filter(|&room| room >= record::HEADER_BYTES + 4)?;
    // SAFETY: within the frame; a copy is made, and used only if the place did not change meanwhile.
    let head = unsafe { std::slice::from_raw_parts(base.add(offset), 24) };
    let (_, total) = record::total_len(head, offset, frame_bytes, room)?;
    // SAFETY: total was checked against the room.
    Some(unsafe { std::slice::from_raw_parts(base.add(offset), total) }.to_vec())
}
