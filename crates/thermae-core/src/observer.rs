//! Observers: who wants to know which keys change, whoever changes them, told from the feed.
//!
//! An observer is a participant's, and reads at its own pace with a cursor of its own; nobody waits for it. What it can't be told one by one, because
//! it was too slow, or because somebody died before he said what he did, it is told as [`Change::Overrun`]: any key may have changed.
//!
//! A change that is published after [`Store::observe`] returned is told, or an overrun is; see `feed` for why. A change is done when it is told. One
//! observer's calls exclude each other (`&mut`); several observers, of one process or many, know nothing of each other.
//!
//! **Sleep.** Who sleeps says so in a word that writers look at, and the first who sees it takes it back and wakes all: one system call by one writer.
//! Who was woken just now first sleeps for [`NAP`] without saying so. So writers make at most a thousand such calls a second, however many
//! changes there are, and the first change after a pause is told at once.
//!
//! **Fork.** A forked child's observer begins anew when it is first used, with an overrun.

use crate::engine::Engine;
use crate::error::Result;
use crate::feed::ChangeKind;
use crate::ring::{Next, Reader};
use crate::store::Store;
use crate::sync::futex_wait;
use crate::waiting::before_wait;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Least time between two wake-ups by writers.
const NAP: Duration = Duration::from_millis(1);
/// Longest sleep between two looks: who was about to wake the sleepers may have died.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long an entry may take from its ticket to its last byte before it is given up. Its writer has a partition locked for so long.
const WRITTEN_WITHIN: Duration = Duration::from_millis(100);

/// What an observer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// A key has changed.
    Key {
        /// How.
        kind: ChangeKind,
        /// The key.
        key: &'a [u8],
        /// Whether the observer's own participant did it, by a call or in the background.
        by_self: bool,
    },
    /// Any keys may have changed, in ways that can't be told any more.
    Overrun,
}

/// Is told which keys change. Dropping it ends that.
#[derive(Debug)]
pub struct Observer {
    engine: Arc<Engine>,
    /// Need not be told what its own participant sets and deletes.
    is_of_others: bool,
    /// The use of a participant slot that it is counted for; a fork leads to another.
    incarnation: u64,
    reader: Reader,
    /// The entry that is waited for, and since when.
    unwritten: Option<(u64, Instant)>,
    /// When it last slept.
    slept_at: Option<Instant>,
    /// It has to be said that any keys may have changed.
    is_overrun: bool,
}

impl Store {
    /// Begins to observe: from here on every change of a key is told, whoever makes it, this handle's own included; so are expiry and eviction.
    /// Costs one pass over the locks of the index, and from then on each change somewhat more.
    ///
    /// # Errors
    /// Closed; ReadOnly, for who observes has to say so in shared memory.
    pub fn observe(&self) -> Result<Observer> {
        self.enter()?;
        Observer::new(self.engine(), false)
    }

    /// The same for who knows what it sets and deletes itself, through this handle or another that shares its participant: that may be told or not,
    /// and while nobody else observes it costs little and overruns nobody. What else happens is told, and so is what this participant drops or
    /// finds to have expired.
    ///
    /// # Errors
    /// As [`Store::observe`].
    pub fn observe_others(&self) -> Result<Observer> {
        self.enter()?;
        Observer::new(self.engine(), true)
    }
}

impl Observer {
    fn new(engine: &Arc<Engine>, is_of_others: bool) -> Result<Self> {
        if engine.read_only {
            return Err(engine.unwritable());
        }
        let mut observer = Self {
            engine: engine.clone(),
            is_of_others,
            incarnation: 0,
            reader: Reader::default(),
            unwritten: None,
            slept_at: None,
            is_overrun: false,
        };
        observer.begin();
        Ok(observer)
    }

    fn begin(&mut self) {
        self.engine.count_observers(|count| count + 1);
        self.incarnation = self.engine.member.incarnation();
        // Whoever holds one of these locks by now may not have seen that. What he does is done once he lets go.
        for number in 0..self.engine.geometry.partitions {
            drop(self.engine.lock_partition(number));
        }
        // Only now, see `feed`.
        self.own_count().fetch_add(u32::from(self.is_of_others), Ordering::SeqCst);
        // Everything up to here is done.
        self.skip();
    }

    fn own_count(&self) -> &AtomicU32 {
        &self.engine.participant(self.engine.me()).observers_of_others
    }

    fn skip(&mut self) {
        let (feed, _) = self.engine.feed();
        self.reader.skip(&feed.head);
        self.unwritten = None;
    }

    /// Whether it is still counted: not in a forked child, which has a participant of its own.
    fn is_counted(&self) -> bool {
        self.incarnation == self.engine.member.incarnation()
    }

    /// In a forked child, begins anew.
    fn enter(&mut self) -> Result<()> {
        self.engine.check_usable()?;
        if !self.is_counted() {
            self.begin();
            self.is_overrun = true;
        }
        Ok(())
    }

    /// Whether there may be something to be told.
    pub fn has_more(&self) -> bool {
        self.is_overrun || self.reader.is_behind(&self.engine.feed().0.head)
    }

    /// Sleeps until there may be something to be told, or the time is over.
    ///
    /// # Errors
    /// Closed; TooManyParticipants in a forked child for which there was no slot.
    pub fn wait(&mut self, timeout: Duration) -> Result<()> {
        let began = Instant::now();
        loop {
            self.enter()?;
            let left = timeout.saturating_sub(began.elapsed());
            let (feed, _) = self.engine.feed();
            if self.is_overrun || left.is_zero() {
                return Ok(());
            }
            if self.reader.is_behind(&feed.head) {
                if self.unwritten.is_some() {
                    // Its writer is at it, or was.
                    nap(NAP.min(left));
                }
                return Ok(());
            }
            let awake = self.slept_at.map_or(NAP, |slept_at| slept_at.elapsed());
            if awake < NAP {
                nap((NAP - awake).min(left));
                continue;
            }
            let seen = feed.wakes.load(Ordering::SeqCst);
            feed.has_sleepers.store(1, Ordering::SeqCst);
            if !self.reader.is_behind(&feed.head) {
                futex_wait(&feed.wakes, seen, left.min(LOOK_EVERY));
                self.slept_at = Some(Instant::now());
            }
        }
    }

    /// Tells what has happened since the last time, up to this moment.
    ///
    /// # Errors
    /// As [`Observer::wait`].
    pub fn drain(&mut self, tell: &mut impl FnMut(Change<'_>)) -> Result<()> {
        self.enter()?;
        if std::mem::take(&mut self.is_overrun) {
            tell(Change::Overrun);
        }
        let (feed, slots) = self.engine.feed();
        let end = feed.head.load(Ordering::SeqCst);
        while self.reader.position() < end {
            let position = self.reader.position();
            match self.reader.next(&feed.head, slots, |key| self.engine.hash(key)) {
                Next::Nothing => break,
                Next::Entry(header) => match ChangeKind::from_code(header.kind) {
                    Some(kind) => {
                        let by_self = header.mark == self.engine.member.mark();
                        tell(Change::Key { kind, key: self.reader.key(), by_self });
                    }
                    None => tell(Change::Overrun),
                },
                Next::Overrun => tell(Change::Overrun),
                Next::Unwritten => {
                    let since = match self.unwritten {
                        Some((waited_for, since)) if waited_for == position => since,
                        _ => Instant::now(),
                    };
                    self.unwritten = Some((position, since));
                    if since.elapsed() < WRITTEN_WITHIN {
                        return Ok(());
                    }
                    // Behind all there is: how long the entry was to be is not known, and so not where the next one begins.
                    self.reader.skip(&feed.head);
                    tell(Change::Overrun);
                }
            }
            self.unwritten = None;
        }
        Ok(())
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        if self.is_counted() && !self.engine.orphaned.load(Ordering::Relaxed) {
            // First, see `feed`.
            self.own_count().fetch_sub(u32::from(self.is_of_others), Ordering::SeqCst);
            self.engine.count_observers(|count| count.saturating_sub(1));
        }
    }
}

fn nap(time: Duration) {
    before_wait();
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use crate::options::{Location, Options};
    use crate::store::{SetOptions, Store};
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    /// Whoever holds a partition may have looked already whether anybody observes, and not yet published.
    #[test]
    fn who_begins_to_observe_waits_for_those_who_are_at_it() {
        let location = Location::SharedMemory(format!("test-observer-{}", std::process::id()));
        let options = Options { hot_bytes: Some(16 << 20), background: false, ..Options::default() };
        let store = Store::open(&location, &options).unwrap();
        let engine = store.engine();
        let count = || engine.globals().observers.load(Ordering::SeqCst);
        std::thread::scope(|scope| {
            for number in [0, engine.geometry.partitions - 1] {
                let guard = engine.lock_partition(number);
                let beginning = scope.spawn(|| store.observe().unwrap());
                while count() == 0 {
                    std::thread::yield_now();
                }
                std::thread::sleep(Duration::from_millis(30));
                assert!(!beginning.is_finished(), "partition {number} is locked");
                drop(guard);
                let observer = beginning.join().unwrap();
                assert!(!observer.has_more() && count() == 1);
                drop(observer);
                assert_eq!(count(), 0);
            }
        });
        // With nobody observing nothing is put into the feed.
        store.set(b"key", b"value", &SetOptions::default()).unwrap();
        assert_eq!(engine.feed().0.head.load(Ordering::SeqCst), 0);
        store.close().unwrap();
        drop(store);
        crate::remove::destroy(&crate::env::SystemEnv, &location).unwrap();
    }
}
