//! Locking a partition, and making it whole again after its owner died.
//!
//! The owner may have died anywhere: before its record was complete (the record is abandoned), between record and entry (the update is
//! completed: it is in the log already, and would come back with the next replay), while growing (the new table is dropped),
//! or within a transaction (undone). What inheriting the lock costs is one pass over the partition: about a thousand entries.

use crate::engine::{Engine, PartitionGuard};
use crate::index::{ADDRESS_MASK, Table, entry};
use crate::layout::{ADDRESS_MIN, Place, Segment, state};
use crate::lock::Acquired;
use crate::record::{self, Parsed, Word0, kind};
use std::sync::atomic::Ordering;

impl Engine {
    /// Locks a partition.
    #[inline]
    pub(crate) fn lock_partition(&self, number: u32) -> PartitionGuard<'_> {
        let partition = &self.partitions()[number as usize];
        let acquired = partition.lock.lock(self.me(), |slot| self.member.is_alive(slot));
        let guard = PartitionGuard { partition, number };
        if let Acquired::Inherited(dead) = acquired {
            Self::count(&self.counters().inherited_locks, 1);
            self.repair_partition(&guard, dead);
        }
        guard
    }

    /// Makes a partition whole whose lock was just inherited from `dead`.
    #[cold]
    pub(crate) fn repair_partition(&self, guard: &PartitionGuard<'_>, dead: u32) {
        let pending = guard.partition.pending_table.load(Ordering::Acquire);
        if pending != 0 {
            if pending == self.directory()[guard.number as usize].load(Ordering::Acquire) {
                // Published, but the old table was not given back: the arena finds its granules again.
                self.release_table(guard.number, None);
                let _arena = self.lock(&self.globals().arena_lock, |_| {});
                self.repair_arena();
            } else {
                self.release_table(guard.number, Some(Table::unpack(pending)));
            }
        }
        self.undo_transactions(guard, dead);
        self.complete_in_flight(guard);
        let count = self.locked_entries(guard).count();
        guard.partition.count.store(u32::try_from(count).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Puts back the entries that a dead participant's undecided transaction replaced.
    fn undo_transactions(&self, guard: &PartitionGuard<'_>, dead: u32) {
        for (place, word) in self.locked_entries(guard) {
            let Some((base, _, offset)) = self.hot_record(word & ADDRESS_MASK) else { continue };
            // SAFETY: hot_record checked that a header of 32 bytes lies in the frame, which this entry keeps in use.
            let at = unsafe { base.add(offset) };
            // SAFETY: as above.
            let header = unsafe { std::slice::from_raw_parts(at, record::BATCH_BYTES) };
            let Some((first, _)) = record::total_len(header, offset, self.geometry.frame_bytes as usize, usize::MAX) else {
                continue;
            };
            if !first.is_in_batch() {
                continue;
            }
            let field = |from: usize, bytes: &[u8]| u32::from_le_bytes([bytes[from], bytes[from + 1], bytes[from + 2], bytes[from + 3]]);
            let lead_offset = field(record::BATCH_OFFSET_OFFSET, header) as usize;
            if lead_offset % record::ALIGN_BYTES != 0 || lead_offset >= offset {
                continue;
            }
            // SAFETY: below `offset`, hence within the frame.
            let lead = unsafe { std::slice::from_raw_parts(base.add(lead_offset), record::BATCH_BYTES) };
            // SAFETY: as above, and aligned.
            let lead_word = Word0::unpack(unsafe { record::word0_at(base.add(lead_offset)) }.load(Ordering::Acquire));
            let is_undecided = lead_word.kind() == kind::BATCH_PENDING && field(24, lead) == dead + 1;
            if !is_undecided && lead_word.kind() != kind::ABANDONED {
                continue;
            }
            let mut link = [0_u8; 8];
            link.copy_from_slice(&header[record::LINK_OFFSET..record::LINK_OFFSET + 8]);
            let link = u64::from_le_bytes(link);
            if link & ADDRESS_MASK >= ADDRESS_MIN {
                place.store(link);
            } else {
                self.remove_entry(guard, place, false);
            }
        }
    }

    /// Completes the update that a dead participant had in flight in this partition, or abandons its record.
    fn complete_in_flight(&self, guard: &PartitionGuard<'_>) {
        let address = guard.partition.in_flight.swap(0, Ordering::AcqRel);
        if address < ADDRESS_MIN {
            return;
        }
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
            self.republish(guard, &record, address);
        }
    }

    fn republish(&self, guard: &PartitionGuard<'_>, record: &Parsed<'_>, address: u64) {
        let hash = self.hash(record.key);
        if self.partition_of(hash) != guard.number {
            return;
        }
        if record.word.base_kind() == kind::LARGE {
            self.adopt_extents(record.payload);
        }
        let tag = self.tag(hash);
        let is_tombstone = record.word.base_kind() == kind::TOMBSTONE;
        let mut probe = self.probe(self.table(guard.number), tag);
        while let Some((place, word)) = probe.next() {
            if word & ADDRESS_MASK == address {
                return;
            }
            let matches = self.with_locked_record(word & ADDRESS_MASK, |other| {
                (other.key == record.key).then_some(other.sequence)
            });
            match matches {
                Some(sequence) if sequence < record.sequence => {
                    if is_tombstone {
                        self.remove_entry(guard, place, false);
                    } else {
                        place.store(entry(tag, address));
                    }
                    return;
                }
                Some(_) => return,
                None => {}
            }
        }
        if !is_tombstone {
            // A store too full to index the record keeps the update in the log; it comes back with the next replay.
            if let Ok(place) = self.vacancy(guard, tag) {
                self.fill_entry(guard, place, entry(tag, address));
            }
        }
    }

    /// The frame, segment and offset of an address that is hot, with room for an extended header behind it.
    pub(crate) fn hot_record(&self, address: u64) -> Option<(*mut u8, &Segment, usize)> {
        let (slot, offset) = self.split(address)?;
        let segment = self.segment(slot);
        if segment.state.load(Ordering::Acquire) == state::FREE || offset + record::BATCH_BYTES > self.geometry.frame_bytes as usize {
            return None;
        }
        let base = self.hot_base(Place::unpack(segment.place.load(Ordering::Acquire)))?;
        Some((base, segment, offset))
    }

    /// Runs `act` on the record at `address`, hot or cold, while the partition that refers to it is locked.
    pub(crate) fn with_locked_record<R>(&self, address: u64, act: impl FnOnce(&Parsed<'_>) -> Option<R>) -> Option<R> {
        let (slot, offset) = self.split(address)?;
        let frame_bytes = self.geometry.frame_bytes as usize;
        let segment = self.segment(slot);
        for _ in 0..8 {
            let place_word = segment.place.load(Ordering::Acquire);
            let place = Place::unpack(place_word);
            let bytes = match self.hot_base(place) {
                Some(base) => {
                    let room = frame_bytes.checked_sub(offset).filter(|&room| room >= record::HEADER_BYTES + 4)?;
                    // SAFETY: within the frame; a copy is made, and used only if the place did not change meanwhile.
                    let head = unsafe { std::slice::from_raw_parts(base.add(offset), 24) };
                    let Some((_, total)) = record::total_len(head, offset, frame_bytes, room) else { return None };
                    // SAFETY: total was checked against the room.
                    unsafe { std::slice::from_raw_parts(base.add(offset), total) }.to_vec()
                }
                None => match self.read_cold(place, offset) {
                    Ok(Some(bytes)) => bytes,
                    _ => return None,
                },
            };
            std::sync::atomic::fence(Ordering::Acquire);
            if segment.place.load(Ordering::Relaxed) == place_word {
                return record::parse(&bytes, offset, frame_bytes).and_then(|record| act(&record));
            }
        }
        None
    }
}
