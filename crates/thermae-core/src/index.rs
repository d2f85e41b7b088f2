//! The shared hash index: from a key's hash to the address of its record.
//!
//! ```text
//! hash:       | partition | tag (24 bits) | ...
//! directory:  | table | table | ...                       one word each: where a partition's buckets are
//! ```
//! **Readers** take no lock and never wait: they load the directory word, scan, and load the word again. Every
//! change is one 8-byte store of an entry, or of the directory word. **Writers** of one partition exclude each other by its lock. **Growth** builds a table aside from the tags alone and publishes it by the directory word.
//!
//! Rejected: chained overflow buckets (a second allocation scheme), cuckoo moves (readers could miss a key that is present),
//! doubling (load would swing between 43 and 86 %: 20 bytes a key on average instead of 12).

use crate::arena::GRANULE_BUCKETS;
use crate::bucket::{self, Bucket, GHOST, Probe, find_vacancy, is_record};
use crate::crash::crash_point;
use crate::engine::{Engine, PartitionGuard};
use crate::layout::{ADDRESS_BITS, BUCKET_BYTES, BUCKET_ENTRIES, BUCKETS_MAX, Table};
use crate::segment::Room;
use std::sync::atomic::{Ordering, fence};

pub use crate::bucket::{ACCESS_MAX, ADDRESS_MASK, EntryRef, entry, tag_of};

const _: () = assert!(size_of::<Bucket>() == BUCKET_BYTES);

impl Engine {
    /// The partition of a hash.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "partition numbers have at most 18 bits")]
    pub fn partition_of(&self, hash: u64) -> u32 {
        (hash >> (64 - self.geometry.partition_bits())) as u32
    }

    /// The tag of a hash.
    #[inline]
    pub fn tag(&self, hash: u64) -> u64 {
        tag_of(hash, self.geometry.partition_bits())
    }

    /// A table's buckets; none where the word makes no sense.
    #[inline]
    pub fn buckets(&self, table: Table) -> &[Bucket] {
        let start = usize::try_from(table.line).unwrap_or(usize::MAX).saturating_mul(BUCKET_BYTES);
        let end = start.saturating_add(table.buckets as usize * BUCKET_BYTES);
        if end > self.hot.len() {
            return &[];
        }
        self.hot.slice(start, table.buckets as usize)
    }

    /// Walks the entries of `table` that carry `tag`.
    #[inline]
    pub fn probe(&self, table: Table, tag: u64) -> Probe<'_> {
        Probe::new(self.buckets(table), tag)
    }

    /// The table of a partition, as published now.
    #[inline]
    pub fn table(&self, partition: u32) -> Table {
        Table::unpack(self.directory()[partition as usize].load(Ordering::Acquire))
    }

    /// A place for a new entry of `hash` in a locked partition, growing it where it is full. The caller stores the entry and counts it.
    pub(crate) fn vacancy(&self, guard: &PartitionGuard<'_>, tag: u64) -> Result<EntryRef<'_>, Room> {
        let mut table = self.table(guard.number);
        let count = guard.partition.count.load(Ordering::Relaxed);
        // Six of seven: beyond that, more than one look-up in ten would need a second cache line.
        if count >= table.buckets * 6
            && table.buckets < BUCKETS_MAX - GRANULE_BUCKETS
            && self.possible_count(guard, table) >= table.buckets * 6
        {
            table = self.grow(guard, table)?;
        }
        loop {
            if let Some(place) = find_vacancy(self.buckets(table), tag) {
                return Ok(place);
            }
            if table.buckets >= BUCKETS_MAX - GRANULE_BUCKETS {
                return Err(Room::Index(guard.number));
            }
            table = self.grow(guard, table)?;
        }
    }

    /// How many entries a locked partition counts. More than its table has places for is damage, and counted anew.
    fn possible_count(&self, guard: &PartitionGuard<'_>, table: Table) -> u32 {
        let count = &guard.partition.count;
        if count.load(Ordering::Relaxed) > table.buckets * BUCKET_ENTRIES as u32 {
            count.store(self.locked_entries(guard).count() as u32, Ordering::Relaxed);
        }
        count.load(Ordering::Relaxed)
    }

    /// Grows a locked partition until it can take `more` new entries without growing again.
    pub(crate) fn reserve_entries(&self, guard: &PartitionGuard<'_>, more: u32) -> Result<(), Room> {
        loop {
            let table = self.table(guard.number);
            let count = self.possible_count(guard, table).saturating_add(more);
            if count <= table.buckets * 6 {
                return Ok(());
            }
            if table.buckets >= BUCKETS_MAX - GRANULE_BUCKETS {
                return Err(Room::Index(guard.number));
            }
            let needed = count.div_ceil(6);
            self.grow_to(guard, table, needed.max(table.buckets + (table.buckets / 4).max(1)))?;
        }
    }

    /// Rebuilds a partition's table with about a quarter more buckets.
    fn grow(&self, guard: &PartitionGuard<'_>, old: Table) -> Result<Table, Room> {
        self.grow_to(guard, old, old.buckets + (old.buckets / 4).max(1))
    }

    /// Rebuilds a partition's table with `wanted` buckets or more, as far as a table may have so many.
    fn grow_to(&self, guard: &PartitionGuard<'_>, old: Table, wanted: u32) -> Result<Table, Room> {
        let buckets =
            wanted.next_multiple_of(GRANULE_BUCKETS).min(BUCKETS_MAX / GRANULE_BUCKETS * GRANULE_BUCKETS);
        let new = self.allocate_table(guard.number, buckets, old.version.wrapping_add(1))?;
        bucket::rehash(self.buckets(old), self.buckets(new));
        crash_point!("table.filled");
        self.publish_table(guard.number, new, old);
        Ok(new)
    }

    /// Whether a ghost remembers the tag; it is taken away, having served.
    pub(crate) fn take_ghost(&self, guard: &PartitionGuard<'_>, tag: u64) -> bool {
        bucket::take_ghost(self.buckets(self.table(guard.number)), tag)
    }

    /// All entries of a partition that point to records, as one consistent copy (readers' view; no lock needed).
    pub fn partition_entries(&self, partition: u32) -> Vec<u64> {
        loop {
            let word = self.directory()[partition as usize].load(Ordering::Acquire);
            let entries = bucket::entries(self.buckets(Table::unpack(word)))
                .map(|(_, word)| word)
                .filter(|&word| is_record(word))
                .collect();
            fence(Ordering::Acquire);
            if self.directory()[partition as usize].load(Ordering::Relaxed) == word {
                return entries;
            }
        }
    }

    /// The places of all entries of a locked partition that point to records.
    pub(crate) fn locked_entries<'a>(
        &'a self,
        guard: &PartitionGuard<'_>,
    ) -> impl Iterator<Item = (EntryRef<'a>, u64)> + use<'a> {
        bucket::entries(self.buckets(self.table(guard.number))).filter(|&(_, word)| is_record(word))
    }

    /// The place of the entry that points to `address` in a locked partition.
    pub(crate) fn entry_at(
        &self,
        guard: &PartitionGuard<'_>,
        tag: u64,
        address: u64,
    ) -> Option<EntryRef<'_>> {
        let mut probe = self.probe(self.table(guard.number), tag);
        while let Some((place, word)) = probe.next() {
            if word & ADDRESS_MASK == address {
                return Some(place);
            }
        }
        None
    }

    /// Empties an entry of a locked partition, leaving a ghost where the key was evicted.
    pub(crate) fn remove_entry(&self, guard: &PartitionGuard<'_>, place: EntryRef<'_>, leave_ghost: bool) {
        let tag = place.load() >> ADDRESS_BITS;
        place.store(if leave_ghost { entry(tag, GHOST) } else { 0 });
        place.access().store(0, Ordering::Relaxed);
        let count = &guard.partition.count;
        count.store(count.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
        note_move(guard);
    }

    /// Fills a vacancy of a locked partition.
    #[inline]
    pub(crate) fn fill_entry(&self, guard: &PartitionGuard<'_>, place: EntryRef<'_>, word: u64) {
        place.access().store(0, Ordering::Relaxed);
        place.store(word);
        let count = &guard.partition.count;
        count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        note_move(guard);
    }
}

/// A key of a locked partition came or went.
#[inline]
fn note_move(guard: &PartitionGuard<'_>) {
    let moves = &guard.partition.moves;
    moves.store(moves.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_word_reads_back() {
        let table = Table { line: (1 << 34) - 1, buckets: BUCKETS_MAX, version: u16::MAX };
        assert_eq!(Table::unpack(table.pack()), table);
    }
}
