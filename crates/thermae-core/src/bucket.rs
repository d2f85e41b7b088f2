//! The index's buckets: entries, and where a tag's entries are looked for.
//!
//! ```text
//! bucket:  | entry 0 | ... | entry 6 | access byte 0 | ... | access byte 6 | overflow |      one cache line
//! entry:   | tag (24) | address (40) |                 0 = empty, address < 8 = ghost
//! ```
//! An entry's home bucket is `tag * buckets >> 24`; a full bucket spills into the next one and sets its overflow byte, which only growing clears.
//! Entries never move within a table, and each changes in one store: a scan sees a key's old entry or its new one. One writer at a time.

use crate::layout::{ADDRESS_BITS, ADDRESS_MIN, BUCKET_ENTRIES};
use crate::sync::{AtomicU8, AtomicU64, Ordering};

/// The address bits of an entry.
pub const ADDRESS_MASK: u64 = (1 << ADDRESS_BITS) - 1;
/// Bits of a tag.
pub const TAG_BITS: u32 = 64 - ADDRESS_BITS;
/// A ghost's address: the key was evicted lately.
pub const GHOST: u64 = 1;
/// Greatest access count.
pub const ACCESS_MAX: u8 = 3;

/// A bucket. The bytes are stored separately, so that readers need no read-modify-write.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Bucket {
    /// The entries.
    pub entries: [AtomicU64; BUCKET_ENTRIES],
    /// One for each entry: bits 0-1 count reads (saturating), bits 2-7 are the epoch of the last cold read.
    pub access: [AtomicU8; BUCKET_ENTRIES],
    /// Whether entries whose home this is may be in the next bucket.
    pub overflow: AtomicU8,
}

/// One entry's place in a table.
#[derive(Debug, Clone, Copy)]
pub struct EntryRef<'a> {
    bucket: &'a Bucket,
    index: usize,
}

impl<'a> EntryRef<'a> {
    /// The entry.
    #[inline]
    pub fn load(&self) -> u64 {
        self.bucket.entries[self.index].load(Ordering::Acquire)
    }

    /// Publishes another entry: one store.
    #[inline]
    pub fn store(&self, entry: u64) {
        self.bucket.entries[self.index].store(entry, Ordering::Release);
    }

    /// The access byte.
    #[inline]
    pub fn access(&self) -> &'a AtomicU8 {
        &self.bucket.access[self.index]
    }
}

/// The tag of a hash.
#[inline]
pub fn tag_of(hash: u64, partition_bits: u32) -> u64 {
    hash << partition_bits >> (64 - TAG_BITS)
}

/// The entry for a tag and an address.
#[inline]
pub fn entry(tag: u64, address: u64) -> u64 {
    (tag << ADDRESS_BITS) | address
}

/// Whether an entry points to a record.
#[inline]
pub fn is_record(entry: u64) -> bool {
    entry & ADDRESS_MASK >= ADDRESS_MIN
}

/// The number of the bucket where a tag's entries begin.
#[inline]
pub fn home_of(tag: u64, buckets: usize) -> usize {
    usize::try_from((tag * buckets as u64) >> TAG_BITS).unwrap_or(0)
}

/// All entries of a table, with their places.
pub fn entries(buckets: &[Bucket]) -> impl Iterator<Item = (EntryRef<'_>, u64)> {
    buckets.iter().flat_map(|bucket| {
        bucket
            .entries
            .iter()
            .enumerate()
            .map(move |(index, word)| (EntryRef { bucket, index }, word.load(Ordering::Acquire)))
    })
}

/// The entries of one tag, walked from its home.
#[derive(Debug)]
pub struct Probe<'a> {
    buckets: &'a [Bucket],
    at: usize,
    left: usize,
    index: usize,
    tag: u64,
}

impl<'a> Probe<'a> {
    /// A walk that begins.
    #[inline]
    pub fn new(buckets: &'a [Bucket], tag: u64) -> Self {
        Self { buckets, at: home_of(tag, buckets.len()), left: buckets.len(), index: 0, tag }
    }

    /// The next entry with the tag that points to a record.
    #[inline]
    pub fn next(&mut self) -> Option<(EntryRef<'a>, u64)> {
        while self.left > 0 {
            let bucket = &self.buckets[self.at];
            while self.index < BUCKET_ENTRIES {
                let index = self.index;
                self.index += 1;
                let entry = bucket.entries[index].load(Ordering::Acquire);
                if entry >> ADDRESS_BITS == self.tag && is_record(entry) {
                    return Some((EntryRef { bucket, index }, entry));
                }
            }
            if bucket.overflow.load(Ordering::Acquire) == 0 {
                self.left = 0;
                return None;
            }
            self.left -= 1;
            self.index = 0;
            self.at = if self.at + 1 == self.buckets.len() { 0 } else { self.at + 1 };
        }
        None
    }
}

/// The first empty entry from the tag's home on, or else a ghost's; buckets passed are marked as overflowing first.
pub fn find_vacancy(buckets: &[Bucket], tag: u64) -> Option<EntryRef<'_>> {
    let mut at = home_of(tag, buckets.len());
    for _ in 0..buckets.len() {
        let bucket = &buckets[at];
        let mut ghost = None;
        for (index, word) in bucket.entries.iter().enumerate() {
            let word = word.load(Ordering::Relaxed);
            if word == 0 {
                return Some(EntryRef { bucket, index });
            }
            if !is_record(word) {
                ghost = Some(EntryRef { bucket, index });
            }
        }
        if ghost.is_some() {
            return ghost;
        }
        bucket.overflow.store(1, Ordering::Release);
        at = if at + 1 == buckets.len() { 0 } else { at + 1 };
    }
    None
}

/// Takes a ghost of the tag out of its home bucket. False where there is none.
pub fn take_ghost(buckets: &[Bucket], tag: u64) -> bool {
    let Some(home) = buckets.get(home_of(tag, buckets.len())) else { return false };
    let ghost = home.entries.iter().find(|word| word.load(Ordering::Relaxed) == entry(tag, GHOST));
    ghost.map(|word| word.store(0, Ordering::Release)).is_some()
}

/// Fills an empty table with the records' entries of a smaller one, and how often they were read.
pub fn rehash(old: &[Bucket], new: &[Bucket]) {
    for (from, word) in entries(old).filter(|&(_, word)| is_record(word)) {
        let Some(place) = find_vacancy(new, word >> ADDRESS_BITS) else {
            unreachable!("a table with more buckets than the one before has room for its entries");
        };
        place.access().store(from.access().load(Ordering::Relaxed), Ordering::Relaxed);
        place.store(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{ROUNDS, explore, fence, thread};
    use std::collections::HashSet;
    use std::sync::Arc;

    fn table(buckets: usize) -> Vec<Bucket> {
        (0..buckets).map(|_| Bucket::default()).collect()
    }

    fn find(buckets: &[Bucket], tag: u64) -> Vec<u64> {
        let mut probe = Probe::new(buckets, tag);
        std::iter::from_fn(|| probe.next()).map(|(_, word)| word).collect()
    }

    #[test]
    fn every_entry_is_found_again_also_past_full_buckets() {
        explore(|| {
            let buckets = table(8);
            let mut stored = HashSet::new();
            for number in 0..48_u64 {
                // Two thirds of the tags share one home, so that buckets overflow and wrap around.
                let tag = if number % 3 == 0 { number << 18 } else { (1 << TAG_BITS) - 1 - number };
                find_vacancy(&buckets, tag).unwrap().store(entry(tag, 1000 + number));
                stored.insert((tag, 1000 + number));
            }
            let larger = table(10);
            rehash(&buckets, &larger);
            for &(tag, address) in &stored {
                assert_eq!(find(&buckets, tag), [entry(tag, address)]);
                assert_eq!(find(&larger, tag), [entry(tag, address)]);
            }
            assert!(find(&buckets, 12_345).is_empty() && find(&[], 12_345).is_empty());
        });
    }

    #[test]
    fn ghosts_are_no_records_and_give_way() {
        explore(|| {
            let buckets = table(1);
            buckets[0].entries.iter().for_each(|word| word.store(entry(5, GHOST), Ordering::Relaxed));
            assert!(find(&buckets, 5).is_empty());
            find_vacancy(&buckets, 5).unwrap().store(entry(5, 99));
            assert_eq!(find(&buckets, 5), [entry(5, 99)]);
            assert!(take_ghost(&buckets, 5) && !take_ghost(&buckets, 6) && !take_ghost(&[], 5));
        });
    }

    /// One partition's tables: which one is published, and the memory that they lie in.
    struct Partition {
        published: AtomicU64,
        tables: [Vec<Bucket>; 3],
    }

    impl Partition {
        /// As readers do: the entries of a tag, of one table that was the published one throughout.
        fn look_up(&self, tag: u64) -> Vec<u64> {
            loop {
                let number = self.published.load(Ordering::Acquire);
                let found = find(&self.tables[number as usize], tag);
                fence(Ordering::Acquire);
                if self.published.load(Ordering::Relaxed) == number {
                    return found;
                }
            }
        }
    }

    /// While a writer changes, adds, removes and grows, and gives the memory of the old table to another partition, readers find a key that is
    /// present throughout, old or new, and never what is another's.
    #[test]
    fn readers_never_miss_what_is_present_nor_see_what_is_not_theirs() {
        explore(|| {
            const TAG: u64 = (1 << TAG_BITS) - 1;
            let partition =
                Arc::new(Partition { published: AtomicU64::new(0), tables: [table(1), table(2), table(3)] });
            let add = |number: usize, tag, address| {
                find_vacancy(&partition.tables[number], tag).unwrap().store(entry(tag, address));
            };
            add(0, TAG, 100);
            (0..5).for_each(|other| add(0, other, 200 + other));
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    let partition = partition.clone();
                    thread::spawn(move || {
                        let mut newest = 0;
                        for _ in 0..ROUNDS.min(200) {
                            let found = partition.look_up(TAG);
                            assert_eq!(
                                found.len(),
                                1,
                                "a key that is present was found {} times",
                                found.len()
                            );
                            let address = found[0] & ADDRESS_MASK;
                            assert!(
                                (100..104).contains(&address) && address >= newest,
                                "address {address} after {newest}"
                            );
                            newest = address;
                        }
                    })
                })
                .collect();
            for number in 0..2 {
                let (old, new) = (&partition.tables[number], &partition.tables[number + 1]);
                // An update, and a key that comes: the last vacancy, so that the next one must grow.
                let mut probe = Probe::new(old, TAG);
                probe.next().unwrap().0.store(entry(TAG, 101 + 2 * number as u64));
                add(number, 50 + number as u64, 300);
                rehash(old, new);
                partition.published.store(number as u64 + 1, Ordering::SeqCst);
                // The old memory is another partition's now, which has a key with the same tag.
                old.iter()
                    .flat_map(|bucket| &bucket.entries)
                    .for_each(|word| word.store(0, Ordering::Relaxed));
                old.iter().for_each(|bucket| bucket.overflow.store(0, Ordering::Relaxed));
                add(number, TAG, 900);
                let mut probe = Probe::new(new, TAG);
                probe.next().unwrap().0.store(entry(TAG, 102 + number as u64));
            }
            readers.into_iter().for_each(|reader| reader.join().unwrap());
            assert_eq!(partition.look_up(TAG), [entry(TAG, 103)]);
            (0..5).for_each(|other| assert_eq!(partition.look_up(other), [entry(other, 200 + other)]));
        });
    }
}
