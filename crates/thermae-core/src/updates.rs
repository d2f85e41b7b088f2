//! What the records of a log say of their keys, collected by hash while the log is read.
//!
//! Each thread that reads has a collection of its own. An update goes to the group that the upper bits of its hash name, so that groups can
//! be decided one by one later. A group's updates lie in blocks of the order in which they were found, and blocks in chunks of a huge
//! page: nothing is moved when more comes, and memory is asked for in few, large pieces. Rejected: a vector for each group, which
//! took as long to grow, fault by fault, as the log took to read.

use crate::pool::{HUGE_PAGE_BYTES, Words};
use crate::read::prefetch;

/// The key was deleted.
pub(crate) const IS_TOMBSTONE: u64 = 1;
/// The value is in extents.
pub(crate) const IS_LARGE: u64 = 2;
/// A copy made by compaction: preferred over its original.
pub(crate) const IS_SURVIVOR: u64 = 4;
const UPDATE_WORDS: usize = 5;
const TOTAL_SHIFT: u32 = 4;
const TOTAL_BITS: u32 = 20;
const ADDRESS_SHIFT: u32 = TOTAL_SHIFT + TOTAL_BITS;

/// What a record says about its key. 128 bits of hash stand for the key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Update {
    /// The key's hash, as the index uses it.
    pub hash: u64,
    /// 64 more bits of hash.
    pub check: u64,
    pub sequence: u64,
    /// 0 = never.
    pub expiry_ms: u64,
    /// Address, bytes in units of eight, flags: least significant last.
    packed: u64,
}

impl Update {
    /// What a record of `total` bytes at an address says, with flags.
    #[inline]
    pub(crate) const fn new(
        hash: u64,
        check: u64,
        sequence: u64,
        expiry_ms: u64,
        address: u64,
        total: usize,
        flags: u64,
    ) -> Self {
        let packed = address << ADDRESS_SHIFT | (total as u64 >> 3) << TOTAL_SHIFT | flags;
        Self { hash, check, sequence, expiry_ms, packed }
    }

    const fn from_words(words: &[u64; UPDATE_WORDS]) -> Self {
        let [hash, check, sequence, expiry_ms, packed] = *words;
        Self { hash, check, sequence, expiry_ms, packed }
    }

    const fn to_words(self) -> [u64; UPDATE_WORDS] {
        [self.hash, self.check, self.sequence, self.expiry_ms, self.packed]
    }

    pub(crate) const fn address(&self) -> u64 {
        self.packed >> ADDRESS_SHIFT
    }

    pub(crate) const fn total(&self) -> usize {
        ((self.packed >> TOTAL_SHIFT & ((1 << TOTAL_BITS) - 1)) as usize) << 3
    }

    pub(crate) const fn is(&self, flag: u64) -> bool {
        self.packed & flag != 0
    }

    /// Sorts updates of one key together, the one that counts first: the latest; of several with one number a tombstone (it says that the
    /// others expired), then a survivor.
    pub(crate) const fn rank(&self) -> (u64, u64, u64, u64) {
        (self.hash, self.check, u64::MAX - self.sequence, !(self.packed & (IS_TOMBSTONE | IS_SURVIVOR)))
    }

    pub(crate) const fn is_same_key(&self, other: &Self) -> bool {
        self.hash == other.hash && self.check == other.check
    }
}

/// Updates in one block: a group's last one is half empty on average.
const BLOCK_UPDATES: usize = 64;
const BLOCK_WORDS: usize = BLOCK_UPDATES * UPDATE_WORDS;
const CHUNK_BLOCKS: usize = HUGE_PAGE_BYTES / 8 / BLOCK_WORDS;

/// The updates that one thread found, by group.
#[derive(Debug, Default)]
pub(crate) struct Updates {
    chunks: Vec<Words>,
    /// Blocks given out.
    blocks: usize,
    groups: Vec<Group>,
}

#[derive(Debug, Clone, Default)]
struct Group {
    /// All but the last are full.
    blocks: Vec<usize>,
    count: usize,
    /// Where the next update goes, if the last block is not full: its chunk, and the word in it.
    next: (usize, usize),
}

impl Updates {
    pub(crate) fn new(groups: usize) -> Self {
        Self { groups: vec![Group::default(); groups], ..Self::default() }
    }

    #[inline]
    pub(crate) fn push(&mut self, update: &Update) {
        let number = group_of(update.hash, self.groups.len());
        if self.groups[number].count.is_multiple_of(BLOCK_UPDATES) {
            self.add_block(number);
        }
        let group = &mut self.groups[number];
        group.count += 1;
        let (chunk, word) = group.next;
        let after = word + UPDATE_WORDS;
        group.next = (chunk, after);
        let words = &mut self.chunks[chunk];
        words[word..after].copy_from_slice(&update.to_words());
        // So many other groups have their turn first that the next update's memory arrives meanwhile.
        if let Some(last) = words.get(after + UPDATE_WORDS - 1) {
            prefetch(std::ptr::from_ref(last).cast());
        }
    }

    #[cold]
    fn add_block(&mut self, group: usize) {
        if self.blocks == self.chunks.len() * CHUNK_BLOCKS {
            self.chunks.push(Words::new(HUGE_PAGE_BYTES / 8));
        }
        let group = &mut self.groups[group];
        group.blocks.push(self.blocks);
        group.next = (self.blocks / CHUNK_BLOCKS, self.blocks % CHUNK_BLOCKS * BLOCK_WORDS);
        self.blocks += 1;
    }

    /// How many updates a group has.
    pub(crate) fn count(&self, group: usize) -> usize {
        self.groups.get(group).map_or(0, |group| group.count)
    }

    /// The updates of a group.
    pub(crate) fn of_group(&self, group: usize) -> impl Iterator<Item = Update> {
        let blocks = self.groups.get(group).map_or(&[][..], |group| &group.blocks);
        let words = blocks.iter().flat_map(|&block| {
            let start = block % CHUNK_BLOCKS * BLOCK_WORDS;
            self.chunks[block / CHUNK_BLOCKS][start..start + BLOCK_WORDS].as_chunks().0
        });
        words.take(self.count(group)).map(Update::from_words)
    }

    /// The updates of the group that a hash belongs to.
    pub(crate) fn beside(&self, hash: u64) -> impl Iterator<Item = Update> {
        self.of_group(group_of(hash, self.groups.len()))
    }
}

/// The group of a hash, among `groups` (a power of two).
fn group_of(hash: u64, groups: usize) -> usize {
    if groups <= 1 { 0 } else { (hash >> (64 - groups.trailing_zeros())) as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_keeps_its_fields_apart() {
        let update = |address: u64, total: usize, flags: u64, sequence| {
            Update::new(1, 2, sequence, 0, address, total, flags)
        };
        let greatest = update((1 << 40) - 1, (8 << 20) - 8, IS_TOMBSTONE | IS_LARGE | IS_SURVIVOR, 1);
        assert_eq!((greatest.address(), greatest.total()), ((1 << 40) - 1, (8 << 20) - 8));
        let least = update(8, 24, 0, 1);
        assert_eq!((least.address(), least.total(), least.is(IS_TOMBSTONE)), (8, 24, false));
        // The later one counts; of copies with one number the tombstone, then the survivor.
        let mut ranked = [
            update(1, 24, 0, 5),
            update(2, 24, IS_SURVIVOR, 5),
            update(3, 24, IS_SURVIVOR | IS_TOMBSTONE, 5),
            update(4, 24, 0, 6),
        ];
        ranked.sort_unstable_by_key(Update::rank);
        assert_eq!(ranked.map(|update| update.address()), [4, 3, 2, 1]);
    }

    #[test]
    fn each_group_gives_back_its_own_updates_in_order() {
        const GROUPS: usize = 4;
        let mut updates = Updates::new(GROUPS);
        // More than a chunk, and groups of different sizes: one of exactly full blocks, one without any.
        let counts = [0, BLOCK_UPDATES * 3, 1, CHUNK_BLOCKS * BLOCK_UPDATES + 7];
        let of = |group: usize, number: usize| {
            Update::new((group as u64) << 62 | number as u64, 2, number as u64, 4, 5, 24, IS_LARGE)
        };
        for number in 0..CHUNK_BLOCKS * BLOCK_UPDATES + 7 {
            for group in (0..GROUPS).filter(|&group| number < counts[group]) {
                updates.push(&of(group, number));
            }
        }
        for (group, &count) in counts.iter().enumerate() {
            assert_eq!(updates.count(group), count);
            let found: Vec<_> = updates.of_group(group).map(Update::to_words).collect();
            let pushed: Vec<_> = (0..count).map(|number| of(group, number).to_words()).collect();
            assert!(found == pushed, "group {group}");
        }
        assert_eq!(updates.beside(1 << 63).count(), 1);
        assert_eq!(Updates::default().of_group(0).count(), 0);
    }
}
