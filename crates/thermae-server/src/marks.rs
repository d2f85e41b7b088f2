//! What memcached's clients are told of items that no record keeps: stale, being recached, read before.
//!
//! **Stale items and winners.** A client may mark an item as stale instead of deleting it (`md` with `I`), and of those who then read it, or read it
//! shortly before it expires, one is told to store it anew (`W`), the others that somebody does so (`Z`). Such a [`Mark`] belongs to one version of one
//! key, and any store of the key ends it. Marks are kept in the server's memory, for they are few and short-lived: a server that is started anew, and
//! other servers and Python beside it, see the items without them. Rejected: bits in the record, which would make each reader of the store know of
//! memcached's recaching; high bits of the client flags, all 32 of which are the client's. The marks are bounded: where there are too many, the oldest goes,
//! and if it said that an item is stale, the item with it, for an item that is gone is never wrong, while a stale one that looks fresh is.
//!
//! **Reads.** Whether an item was read before, and when last, is noted in a table of fixed size without a lock, from the first meta command on that may
//! ask for it. Two items may share a slot, whose last user counts: these are hints for caching, not facts about values.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Most marks at once.
const MARKS_MAX: usize = 64 << 10;
/// Slots of the table of reads.
const SLOTS: usize = 64 << 10;
/// Places of the filter that keys without a mark pass by.
const FILTER_PLACES: usize = 16 << 10;
/// The bit of a slot that says that its item was read.
const WAS_READ: u64 = 1 << 32;

#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    version: u64,
    is_stale: bool,
    is_won: bool,
}

#[derive(Debug, Default)]
struct Marked {
    marks: HashMap<Vec<u8>, Mark>,
    /// Keys in the order in which they were marked; some may have no mark any more.
    order: VecDeque<Vec<u8>>,
}

/// A stale item whose mark had to go, so that the item has to go, too.
#[derive(Debug, PartialEq, Eq)]
pub struct Displaced {
    /// As the store has it.
    pub key: Vec<u8>,
    /// If it still has this version.
    pub version: u64,
}

/// How an item stands with those who would recache it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// It is marked as stale.
    pub is_stale: bool,
    /// Somebody was told before to recache it.
    pub was_won: bool,
    /// Who asked now is to recache it.
    pub wins: bool,
}

/// What was known of an item's reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reads {
    /// Whether there was any.
    pub was_read: bool,
    /// Seconds since the last one, or since it was stored.
    pub idle_seconds: u64,
}

/// What is told of items that no record keeps.
#[derive(Debug)]
pub struct Marks {
    /// How many marked keys have each place: only where there are some, the lock is taken.
    filter: Box<[AtomicU32]>,
    marked: Mutex<Marked>,
    reads: OnceLock<Box<[AtomicU64]>>,
}

impl Default for Marks {
    fn default() -> Self {
        Self {
            filter: (0..FILTER_PLACES).map(|_| AtomicU32::new(0)).collect(),
            marked: Mutex::default(),
            reads: OnceLock::new(),
        }
    }
}

impl Marks {
    fn marked(&self) -> MutexGuard<'_, Marked> {
        self.marked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How an item stands, `wants` saying that who asks would recache it even though it is not stale.
    #[inline]
    pub fn standing(&self, key: &[u8], version: u64, wants: bool) -> (Standing, Option<Displaced>) {
        if !wants && !self.may_have(key) {
            return (Standing::default(), None);
        }
        self.standing_marked(key, version, wants)
    }

    /// Whether an item may be marked.
    #[inline]
    pub fn may_have(&self, key: &[u8]) -> bool {
        self.filter_place(key).load(Ordering::Acquire) != 0
    }

    #[inline]
    fn filter_place(&self, key: &[u8]) -> &AtomicU32 {
        &self.filter[place(key, 0).0 % FILTER_PLACES]
    }

    fn standing_marked(&self, key: &[u8], version: u64, wants: bool) -> (Standing, Option<Displaced>) {
        let mut marked = self.marked();
        let mark = marked.marks.get(key).copied().filter(|mark| mark.version == version).unwrap_or_default();
        let wins = !mark.is_won && (mark.is_stale || wants);
        let standing = Standing { is_stale: mark.is_stale, was_won: mark.is_won, wins };
        let displaced = if wins {
            self.put(&mut marked, key, Mark { version, is_won: true, is_stale: mark.is_stale })
        } else {
            None
        };
        (standing, displaced)
    }

    /// Marks an item as stale, `is_won` saying that somebody was told to recache it.
    pub fn set_stale(&self, key: &[u8], version: u64, is_won: bool) -> Option<Displaced> {
        self.put(&mut self.marked(), key, Mark { version, is_stale: true, is_won })
    }

    /// Whether somebody was told to recache an item.
    pub fn was_won(&self, key: &[u8], version: u64) -> bool {
        let marked = self.marked();
        marked.marks.get(key).is_some_and(|mark| mark.version == version && mark.is_won)
    }

    /// An item has a new version, but is otherwise what it was.
    #[inline]
    pub fn carry(&self, key: &[u8], from: u64, to: u64) {
        if !self.may_have(key) {
            return;
        }
        if let Some(mark) = self.marked().marks.get_mut(key).filter(|mark| mark.version == from) {
            mark.version = to;
        }
    }

    /// An item was stored anew, or deleted: what was said of it before is void.
    #[inline]
    pub fn forget(&self, key: &[u8]) {
        if !self.may_have(key) {
            return;
        }
        self.remove(&mut self.marked(), key);
    }

    /// All items were deleted.
    pub fn forget_all(&self) {
        let mut marked = self.marked();
        *marked = Marked::default();
        self.filter.iter().for_each(|place| place.store(0, Ordering::Release));
    }

    fn put(&self, marked: &mut Marked, key: &[u8], mark: Mark) -> Option<Displaced> {
        let mut displaced = None;
        if marked.marks.insert(key.to_vec(), mark).is_none() {
            self.filter_place(key).fetch_add(1, Ordering::AcqRel);
            marked.order.push_back(key.to_vec());
            if marked.order.len() > MARKS_MAX {
                displaced = marked.order.pop_front().and_then(|key| {
                    let mark = self.remove(marked, &key)?;
                    mark.is_stale.then_some(Displaced { key, version: mark.version })
                });
            }
        }
        displaced
    }

    fn remove(&self, marked: &mut Marked, key: &[u8]) -> Option<Mark> {
        let mark = marked.marks.remove(key)?;
        self.filter_place(key).fetch_sub(1, Ordering::AcqRel);
        Some(mark)
    }

    /// From now on reads are noted.
    #[inline]
    pub fn note_reads(&self) {
        self.reads.get_or_init(|| (0..SLOTS).map(|_| AtomicU64::new(0)).collect());
    }

    /// What is known of an item's reads. Of one that was never seen: none, and that it has just come.
    pub fn reads(&self, key: &[u8], version: u64, now_seconds: u64) -> Reads {
        let Some(slots) = self.reads.get() else { return Reads::default() };
        let (slot, tag) = place(key, version);
        let word = slots[slot].load(Ordering::Relaxed);
        if word >> 33 != tag {
            return Reads::default();
        }
        let idle_seconds = now_seconds.saturating_sub(word & u64::from(u32::MAX));
        Reads { was_read: word & WAS_READ != 0, idle_seconds }
    }

    /// An item was read (or, where `is_read` is false, stored).
    #[inline]
    pub fn note(&self, key: &[u8], version: u64, now_seconds: u64, is_read: bool) {
        if let Some(slots) = self.reads.get() {
            let (slot, tag) = place(key, version);
            let was_read = if is_read { WAS_READ } else { 0 };
            let word = tag << 33 | was_read | now_seconds & u64::from(u32::MAX);
            slots[slot].store(word, Ordering::Relaxed);
        }
    }
}

/// The slot of an item's version, and what it is known by there: 31 bits, never 0.
#[inline]
fn place(key: &[u8], version: u64) -> (usize, u64) {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = version.wrapping_mul(FACTOR);
    for piece in key.chunks(8) {
        let mut bytes = [0_u8; 8];
        bytes[..piece.len()].copy_from_slice(piece);
        hash = (hash.rotate_left(29) ^ u64::from_le_bytes(bytes)).wrapping_mul(FACTOR);
    }
    hash ^= hash >> 32;
    ((hash % SLOTS as u64) as usize, hash >> 33 | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(is_stale: bool, was_won: bool, wins: bool) -> Standing {
        Standing { is_stale, was_won, wins }
    }

    #[test]
    fn one_wins_and_the_others_know() {
        let marks = Marks::default();
        assert_eq!(marks.standing(b"k", 1, false).0, Standing::default());
        assert_eq!(marks.standing(b"k", 1, true).0, standing(false, false, true));
        assert_eq!(marks.standing(b"k", 1, true).0, standing(false, true, false));
        assert_eq!(marks.standing(b"k", 1, false).0, standing(false, true, false));
        assert_eq!(marks.standing(b"k", 2, false).0, Standing::default());
        assert_eq!(marks.set_stale(b"k", 3, false), None);
        assert_eq!(marks.standing(b"k", 3, false).0, standing(true, false, true));
        marks.carry(b"k", 3, 4);
        marks.carry(b"k", 3, 5);
        assert_eq!(marks.standing(b"k", 4, false).0, standing(true, true, false));
        assert!(marks.may_have(b"k"));
        marks.forget(b"k");
        assert!(!marks.may_have(b"k"));
        assert_eq!(marks.standing(b"k", 4, false).0, Standing::default());
    }

    #[test]
    fn the_oldest_mark_goes_and_takes_a_stale_item_along() {
        let marks = Marks::default();
        let key = |number: usize| number.to_string().into_bytes();
        assert_eq!(marks.set_stale(&key(0), 7, false), None);
        for number in 1..MARKS_MAX {
            assert_eq!(marks.standing(&key(number), 1, true).1, None);
        }
        assert_eq!(marks.standing(b"x", 1, true).1, Some(Displaced { key: key(0), version: 7 }));
        assert_eq!(marks.standing(b"y", 1, true).1, None, "a winner's mark goes alone");
        assert_eq!(marks.marked().order.len(), MARKS_MAX);
        let filtered =
            |marks: &Marks| -> u32 { marks.filter.iter().map(|place| place.load(Ordering::Relaxed)).sum() };
        assert_eq!(filtered(&marks) as usize, MARKS_MAX);
        marks.forget_all();
        assert_eq!(filtered(&marks), 0);
    }

    #[test]
    fn reads_are_noted_once_somebody_may_ask() {
        let marks = Marks::default();
        marks.note(b"k", 1, 100, true);
        assert_eq!(marks.reads(b"k", 1, 100), Reads::default());
        marks.note_reads();
        marks.note(b"k", 1, 100, false);
        assert_eq!(marks.reads(b"k", 1, 103), Reads { was_read: false, idle_seconds: 3 });
        marks.note(b"k", 1, 105, true);
        assert_eq!(marks.reads(b"k", 1, 105), Reads { was_read: true, idle_seconds: 0 });
        assert_eq!(marks.reads(b"k", 2, 105), Reads::default(), "another version");
        assert_eq!(marks.reads(b"a longer key", 1, 105), Reads::default());
    }
}
