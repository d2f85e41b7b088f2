//! The feed: every change of a key, put where observers read it, in memory that all share.
//!
//! Mostly nobody observes, and then a change costs one look at a word that is hardly ever written, so in the cache of each processor.
//!
//! **Nothing is missed.** Who changes a key holds its partition's lock, publishes, and only then, still under the lock, looks whether anybody
//! observes. Who begins to observe says so first, and then takes and releases the lock of each partition in turn (see `observer`). So of each change
//! one of two holds: it was published under a lock that was released before, and who observes reads it in the store; or its lock was
//! taken after, and then the writer sees that somebody observes. Both follow from how locks are handed over, on every processor, and there is no
//! fence on the path of a write: the usual pair (publish, fence, look; say so, fence, read) would cost each write a fence for observers that
//! are not there.
//!
//! **What nobody wants is left out.** Where all who observe are this participant's own, and need not be told what it does itself, its sets and
//! deletions are not put there: a server, whose commands tell of them, would fill the ring with them. That compares two counts, `observers` of the store
//! with `observers_of_others` of the participant, read in this order under the partition's lock. An observer is in the first from its beginning
//! to its end, and in the second only from after it took and released all locks until before it leaves the first. So whoever reads both under one
//! lock never finds more in the second than he found in the first; and who wants to be told is in the first alone, which makes it greater.
//!
//! **Order.** The changes of one key are in the feed in the order in which they were published, for both happen under its lock. Whoever reads an entry
//! finds the change done.
//!
//! **Death.** Who dies under a partition's lock may have published and not said so, or taken a ticket and not used it. Whoever inherits the lock puts
//! an entry there that says that anything may have changed. Who dies while it observes leaves a count behind, in its participant's page: the sum over
//! the living is counted anew by whoever releases what it held. The feed is nowhere written down: no observer outlives it.

use crate::crash::crash_point;
use crate::engine::{Engine, LockGuard, PartitionGuard};
use crate::layout::{FEED_HEADER_BYTES, FEED_SLOT_BYTES, participant_state};
use crate::lock::NOBODY;
use crate::ring::{self, Header, Slot};
use crate::sync::futex_wake_all;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// A value was stored, or another expiry.
    Set,
    /// It was deleted.
    Deleted,
    /// It had expired, and was removed.
    Expired,
    /// It was dropped to make room.
    Evicted,
}

/// In place of a kind: something may have happened to any key.
const ANYTHING: u8 = 0;

impl ChangeKind {
    const fn code(self) -> u8 {
        match self {
            Self::Set => 1,
            Self::Deleted => 2,
            Self::Expired => 3,
            Self::Evicted => 4,
        }
    }

    /// The kind that an entry says; none where anything may have changed.
    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Set),
            2 => Some(Self::Deleted),
            3 => Some(Self::Expired),
            4 => Some(Self::Evicted),
            _ => None,
        }
    }
}

/// The words before the ring.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct FeedHeader {
    /// The next ticket.
    pub head: AtomicU64,
    _pad: [u64; 7],
    /// Whether an observer may be asleep.
    pub has_sleepers: AtomicU32,
    /// Futex: changes when observers are woken.
    pub wakes: AtomicU32,
}

const _: () = {
    assert!(size_of::<FeedHeader>() == FEED_HEADER_BYTES);
    assert!(size_of::<Slot>() == FEED_SLOT_BYTES);
    assert!(std::mem::offset_of!(FeedHeader, has_sleepers) == 64);
};

impl Engine {
    pub(crate) fn feed(&self) -> (&FeedHeader, &[Slot]) {
        let offset = self.geometry.feed_offset();
        let slots = self.control.slice(offset + FEED_HEADER_BYTES, self.geometry.feed_slots as usize);
        (self.control.at(offset), slots)
    }

    /// How often observers were woken. For tests.
    pub fn feed_wakes(&self) -> u32 {
        self.feed().0.wakes.load(Ordering::Relaxed)
    }

    /// A key of a locked partition has changed, and everyone can see that.
    #[inline]
    pub(crate) fn note_change(&self, guard: &PartitionGuard<'_>, kind: ChangeKind, key: &[u8], hash: u64) {
        if self.globals().observers.load(Ordering::Relaxed) != 0 {
            self.tell_observers(guard, kind.code(), key, hash);
        }
    }

    /// Keys of a locked partition may have changed, and nobody knows which.
    pub(crate) fn note_anything(&self, guard: &PartitionGuard<'_>) {
        if self.globals().observers.load(Ordering::Relaxed) != 0 {
            self.tell_observers(guard, ANYTHING, b"", self.hash(b""));
        }
    }

    /// Whether somebody wants to know what this participant does, and not only what happens otherwise.
    fn is_observed_itself(&self) -> bool {
        // Acquire, and in this order: see above.
        let observers = self.globals().observers.load(Ordering::Acquire);
        observers != self.participant(self.me()).observers_of_others.load(Ordering::Acquire)
    }

    #[cold]
    #[inline(never)]
    fn tell_observers(&self, _guard: &PartitionGuard<'_>, kind: u8, key: &[u8], hash: u64) {
        let is_own_doing = [ChangeKind::Set.code(), ChangeKind::Deleted.code()].contains(&kind);
        if is_own_doing && !self.is_observed_itself() {
            return;
        }
        let (feed, slots) = self.feed();
        let ticket = ring::take(&feed.head, key.len());
        crash_point!("feed.ticket_taken");
        ring::fill(slots, ticket, Header { kind, mark: self.member.mark() }, key, hash);
        // An observer says that it sleeps and then looks at the head; this is the other way round, so that one of them sees the other.
        if feed.has_sleepers.load(Ordering::SeqCst) != 0 && feed.has_sleepers.swap(0, Ordering::SeqCst) != 0 {
            feed.wakes.fetch_add(1, Ordering::SeqCst);
            futex_wake_all(&feed.wakes);
        }
    }

    /// This participant has more observers, or fewer.
    pub(crate) fn count_observers(&self, change: impl FnOnce(u32) -> u32) {
        let _counting = self.lock_observers();
        let own = &self.participant(self.me()).observers;
        own.store(change(own.load(Ordering::Relaxed)), Ordering::Relaxed);
        self.sum_observers();
    }

    /// Forgets the observers of a dead participant.
    pub(crate) fn forget_observers_of(&self, dead: u32) {
        let _counting = self.lock_observers();
        if dead != NOBODY {
            self.participant(dead).observers.store(0, Ordering::Relaxed);
            self.participant(dead).observers_of_others.store(0, Ordering::Relaxed);
        }
        self.sum_observers();
    }

    fn lock_observers(&self) -> LockGuard<'_> {
        // Each who holds it counts anew: nothing to repair.
        self.lock(&self.globals().observers_lock, |_| {})
    }

    fn sum_observers(&self) {
        let count = (0..self.geometry.participants)
            .map(|slot| self.participant(slot))
            .filter(|participant| participant.state.load(Ordering::Acquire) == participant_state::ACTIVE)
            .fold(0_u32, |sum, participant| {
                sum.saturating_add(participant.observers.load(Ordering::Relaxed))
            });
        self.globals().observers.store(count, Ordering::SeqCst);
    }
}
