//! What memcached's clients are told of items that no record keeps: stale, being recached, read before.
//!
//! **Stale items and winners.** A client may mark an item as stale instead of deleting it (`md` with `I`), and of those who then read it, or read it
//! shortly before it expires, one is told to store it anew (`W`), the others that somebody does so (`Z`). Such a [`Mark`] belongs to one version of one
//! key, and any store of the key ends it. Versions are never given twice, and only what has a mark's version is marked; so what loops say of one key in any
//! order comes to the same: a lower version never replaces a higher one's mark, a store forgets only what is older, and a move to a new version that
//! is told before the one that leads to it is remembered. A mark that makes an item stale is set with the marks locked and the filter raised before
//! the store is changed, so that whoever changes the item next finds it. Marks are kept in the server's memory, for they are few and short-lived: a server that is started anew, and
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
/// Moves of a mark that may be told too early. Others than memcached's clients tell of none, so that some lead nowhere.
const MOVES_MAX: usize = 8;
/// The bit of a slot that says that its item was read.
const WAS_READ: u64 = 1 << 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Mark {
    version: u64,
    is_stale: bool,
    is_won: bool,
}

#[derive(Debug, Default)]
struct Marking {
    mark: Mark,
    /// By which its place in the order is known.
    generation: u64,
    /// Versions from which, and to which, the item is known to have gone on, later than the mark's.
    moves: Vec<(u64, u64)>,
}

impl Marking {
    /// Goes on to where the moves lead, and forgets those of before.
    fn settle(&mut self) {
        while let Some(&(_, to)) = self.moves.iter().find(|(from, _)| *from == self.mark.version) {
            self.mark.version = to;
        }
        let version = self.mark.version;
        self.moves.retain(|(from, _)| *from > version);
    }

    fn add(&mut self, from: u64, to: u64) {
        if from < self.mark.version {
            return;
        }
        if let Some(earlier) = self.moves.iter_mut().find(|(_, end)| *end == from) {
            earlier.1 = to;
        } else {
            if self.moves.len() == MOVES_MAX {
                self.moves.remove(0);
            }
            self.moves.push((from, to));
        }
        self.settle();
    }
}

#[derive(Debug, Default)]
struct Marked {
    marks: HashMap<Vec<u8>, Marking>,
    /// Keys in the order in which they were marked, with the generations of their marks. Some may have none any more, or one of another generation,
    /// whose place is further behind.
    order: VecDeque<(Vec<u8>, u64)>,
    /// The last generation given out.
    generation: u64,
}

impl Marked {
    /// Forgets the places of marks that are no more.
    fn forget_places(&mut self) {
        let Self { marks, order, .. } = self;
        order.retain(|(key, generation)| is_place(marks, key, *generation));
    }

    /// What is said of a version of an item.
    fn of(&self, key: &[u8], version: u64) -> Option<Mark> {
        self.marks.get(key).map(|marking| marking.mark).filter(|mark| mark.version == version)
    }
}

/// Whether a place in the order is that of a mark.
fn is_place(marks: &HashMap<Vec<u8>, Marking>, key: &[u8], generation: u64) -> bool {
    marks.get(key).is_some_and(|marking| marking.generation == generation)
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
        let mark = marked.of(key, version).unwrap_or_default();
        let wins = !mark.is_won && (mark.is_stale || wants);
        let standing = Standing { is_stale: mark.is_stale, was_won: mark.is_won, wins };
        let displaced = if wins {
            self.put(&mut marked, key, Mark { version, is_won: true, is_stale: mark.is_stale })
        } else {
            None
        };
        (standing, displaced)
    }

    /// Makes an item stale: `change` gives it a new version, and says which, and what version was replaced where it may have been won by somebody, who
    /// then still is to recache it; `None` where it changes nothing.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn make_stale<E>(
        &self,
        key: &[u8],
        change: impl FnOnce() -> Result<Option<(u64, Option<u64>)>, E>,
    ) -> Result<Option<Displaced>, E> {
        let mut marked = self.marked();
        // Whoever changes the item after this change looks at the marks, and waits for the lock.
        let filtered = self.filter_place(key);
        filtered.fetch_add(1, Ordering::AcqRel);
        let changed = change();
        let displaced = match changed {
            Ok(Some((version, replaced))) => {
                let is_won =
                    replaced.is_some_and(|replaced| marked.of(key, replaced).is_some_and(|mark| mark.is_won));
                self.put(&mut marked, key, Mark { version, is_stale: true, is_won })
            }
            _ => None,
        };
        filtered.fetch_sub(1, Ordering::AcqRel);
        changed.map(|_| displaced)
    }

    /// An item has a new version, but is otherwise what it was.
    #[inline]
    pub fn carry(&self, key: &[u8], from: u64, to: u64) {
        if !self.may_have(key) {
            return;
        }
        if let Some(marking) = self.marked().marks.get_mut(key) {
            marking.add(from, to);
        }
    }

    /// An item was stored as this version: what was said of earlier ones is void.
    #[inline]
    pub fn forget_before(&self, key: &[u8], version: u64) {
        if self.may_have(key) {
            self.forget_through(key, version - 1);
        }
    }

    /// The version that is marked of an item. After it is deleted, [`Marks::forget_through`] forgets that.
    #[inline]
    pub fn version(&self, key: &[u8]) -> Option<u64> {
        if !self.may_have(key) {
            return None;
        }
        self.marked().marks.get(key).map(|marking| marking.mark.version)
    }

    /// Forgets what was said of an item up to this version.
    pub fn forget_through(&self, key: &[u8], version: u64) {
        let mut marked = self.marked();
        if marked.marks.get(key).is_some_and(|marking| marking.mark.version <= version) {
            self.remove(&mut marked, key);
        }
    }

    /// The highest version that is marked. After all items are deleted, [`Marks::forget_all_through`] forgets those up to it.
    pub fn newest_version(&self) -> u64 {
        self.marked().marks.values().map(|marking| marking.mark.version).max().unwrap_or(0)
    }

    /// Forgets what was said of any item up to this version.
    pub fn forget_all_through(&self, version: u64) {
        let mut marked = self.marked();
        let old = marked.marks.iter().filter(|(_, marking)| marking.mark.version <= version);
        for key in old.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.remove(&mut marked, &key);
        }
        marked.forget_places();
    }

    fn put(&self, marked: &mut Marked, key: &[u8], mark: Mark) -> Option<Displaced> {
        if let Some(marking) = marked.marks.get_mut(key) {
            if mark.version >= marking.mark.version {
                marking.mark = mark;
                marking.settle();
            }
            return None;
        }
        marked.generation += 1;
        let generation = marked.generation;
        marked.marks.insert(key.to_vec(), Marking { mark, generation, moves: Vec::new() });
        self.filter_place(key).fetch_add(1, Ordering::AcqRel);
        marked.order.push_back((key.to_vec(), generation));
        if marked.order.len() > 2 * MARKS_MAX {
            marked.forget_places();
        }
        if marked.marks.len() <= MARKS_MAX {
            return None;
        }
        loop {
            let (key, generation) = marked.order.pop_front()?;
            if is_place(&marked.marks, &key, generation) {
                let mark = self.remove(marked, &key)?;
                return mark.is_stale.then_some(Displaced { key, version: mark.version });
            }
        }
    }

    fn remove(&self, marked: &mut Marked, key: &[u8]) -> Option<Mark> {
        let marking = marked.marks.remove(key)?;
        self.filter_place(key).fetch_sub(1, Ordering::AcqRel);
        Some(marking.mark)
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

    fn set_stale(marks: &Marks, key: &[u8], version: u64) {
        let displaced = marks.make_stale(key, || Ok::<_, ()>(Some((version, None))));
        assert_eq!(displaced, Ok(None));
    }

    /// Places of marks that were gone counted as marks: once 65,536 had been made, each new one took another with it, and a key that was marked again
    /// went by its old place.
    #[test]
    fn marks_that_are_gone_take_no_place() {
        let marks = Marks::default();
        set_stale(&marks, b"first", 1);
        set_stale(&marks, b"again", 1);
        marks.forget_through(b"again", 1);
        for number in 0..3 * MARKS_MAX as u64 {
            set_stale(&marks, b"brief", 2 + number);
            marks.forget_through(b"brief", 2 + number);
            assert!(marks.marked().order.len() <= 2 * MARKS_MAX);
        }
        for number in 2..MARKS_MAX {
            set_stale(&marks, &number.to_le_bytes(), 1);
        }
        set_stale(&marks, b"again", 2);
        // Now there are as many as may be; the next one takes the oldest with it.
        let displaced = |key: &[u8]| marks.make_stale(key, || Ok::<_, ()>(Some((1, None)))).unwrap().unwrap();
        assert_eq!(displaced(b"one more"), Displaced { key: b"first".to_vec(), version: 1 });
        assert_eq!(displaced(b"another"), Displaced { key: 2_usize.to_le_bytes().to_vec(), version: 1 });
        assert_eq!(marks.version(b"again"), Some(2));
    }

    /// What loops tell of one key, in each order in which they can.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Told {
        Stale(u64),
        Carried(u64, u64),
        Stored(u64),
        Deleted(u64),
    }

    fn orders(told: &[Told]) -> Vec<Vec<Told>> {
        if told.is_empty() {
            return vec![Vec::new()];
        }
        let mut all = Vec::new();
        for (index, first) in told.iter().enumerate() {
            let mut rest = told.to_vec();
            rest.remove(index);
            // The mark is set before anybody changes the item further: the lock is held.
            let is_possible = !rest.iter().any(|other| match (first, other) {
                (Told::Carried(from, _), Told::Stale(stale)) => stale <= from,
                (Told::Stored(stored) | Told::Deleted(stored), Told::Stale(stale)) => stale < stored,
                (Told::Stale(first), Told::Stale(second)) => second < first,
                _ => false,
            });
            if is_possible {
                all.extend(orders(&rest).into_iter().map(|order| [vec![*first], order].concat()));
            }
        }
        all
    }

    #[test]
    fn what_loops_tell_in_any_order_comes_to_the_same() {
        use Told::{Carried, Deleted, Stale, Stored};
        for (told, stale) in [
            (&[Stale(2), Carried(2, 3), Carried(3, 4), Carried(4, 5)][..], Some(5)),
            (&[Stored(2), Stale(3), Carried(3, 4)], Some(4)),
            (&[Stored(3), Stale(2), Carried(3, 4)], None),
            (&[Stale(2), Stored(3), Stale(4)], Some(4)),
            (&[Stale(2), Carried(2, 3), Stored(4), Carried(4, 5), Stale(6), Carried(6, 7)], Some(7)),
            (&[Stale(2), Deleted(2), Stored(4), Stale(5)], Some(5)),
            (&[Stale(2), Carried(2, 3), Stale(4), Carried(4, 5)], Some(5)),
        ] {
            let orders = orders(told);
            assert!(!orders.is_empty(), "{told:?}");
            for order in orders {
                let marks = Marks::default();
                for one in &order {
                    match *one {
                        Stale(version) => set_stale(&marks, b"k", version),
                        Carried(from, to) => marks.carry(b"k", from, to),
                        Stored(version) => marks.forget_before(b"k", version),
                        Deleted(version) => marks.forget_through(b"k", version),
                    }
                }
                let found = (1..10).find(|version| marks.standing(b"k", *version, false).0.is_stale);
                assert_eq!(found, stale, "{order:?}");
            }
        }
    }

    #[test]
    fn moves_that_lead_nowhere_are_bounded() {
        let marks = Marks::default();
        set_stale(&marks, b"k", 1);
        for version in 1..100 {
            marks.carry(b"k", version * 10, version * 10 + 1);
        }
        assert_eq!(marks.marked().marks[&b"k"[..]].moves.len(), MOVES_MAX);
        // One that goes on counts as one.
        marks.carry(b"k", 991, 992);
        marks.carry(b"k", 1, 990);
        assert!(marks.standing(b"k", 992, false).0.is_stale);
        assert_eq!(marks.marked().marks[&b"k"[..]].moves.len(), 0);
    }

    #[test]
    fn who_makes_an_item_stale_is_seen_before_it_is() {
        let marks = Marks::default();
        let displaced = marks.make_stale(b"k", || {
            // The other loop's change comes after this one's, and its mark is looked for after that.
            assert!(marks.may_have(b"k"));
            Ok::<_, ()>(Some((2, None)))
        });
        assert_eq!(displaced, Ok(None));
        assert!(marks.make_stale(b"other", || Err(())).is_err());
        assert_eq!(marks.make_stale(b"other", || Ok::<_, ()>(None)), Ok(None));
        assert!(!marks.may_have(b"other"));
        // A winner of what is replaced stays the one to recache it.
        assert!(marks.standing(b"k", 2, false).0.wins);
        assert_eq!(marks.make_stale(b"k", || Ok::<_, ()>(Some((3, Some(2))))), Ok(None));
        assert_eq!(marks.standing(b"k", 3, false).0, standing(true, true, false));
    }

    #[test]
    fn one_wins_and_the_others_know() {
        let marks = Marks::default();
        assert_eq!(marks.standing(b"k", 1, false).0, Standing::default());
        assert_eq!(marks.standing(b"k", 1, true).0, standing(false, false, true));
        assert_eq!(marks.standing(b"k", 1, true).0, standing(false, true, false));
        assert_eq!(marks.standing(b"k", 1, false).0, standing(false, true, false));
        assert_eq!(marks.standing(b"k", 2, false).0, Standing::default());
        set_stale(&marks, b"k", 3);
        assert_eq!(marks.standing(b"k", 3, false).0, standing(true, false, true));
        marks.carry(b"k", 3, 4);
        marks.carry(b"k", 3, 5);
        assert_eq!(marks.standing(b"k", 4, false).0, standing(true, true, false));
        assert!(marks.may_have(b"k"));
        marks.forget_before(b"k", 5);
        assert!(!marks.may_have(b"k"));
        assert_eq!(marks.standing(b"k", 4, false).0, Standing::default());
    }

    #[test]
    fn the_oldest_mark_goes_and_takes_a_stale_item_along() {
        let marks = Marks::default();
        let key = |number: usize| number.to_string().into_bytes();
        set_stale(&marks, &key(0), 7);
        for number in 1..MARKS_MAX {
            assert_eq!(marks.standing(&key(number), 1, true).1, None);
        }
        assert_eq!(marks.standing(b"x", 1, true).1, Some(Displaced { key: key(0), version: 7 }));
        assert_eq!(marks.standing(b"y", 1, true).1, None, "a winner's mark goes alone");
        assert_eq!(marks.marked().order.len(), MARKS_MAX);
        let filtered =
            |marks: &Marks| -> u32 { marks.filter.iter().map(|place| place.load(Ordering::Relaxed)).sum() };
        assert_eq!(filtered(&marks) as usize, MARKS_MAX);
        marks.forget_all_through(0);
        assert_eq!(filtered(&marks) as usize, MARKS_MAX);
        marks.forget_all_through(marks.newest_version());
        assert_eq!((filtered(&marks), marks.marked().order.len()), (0, 0));
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
