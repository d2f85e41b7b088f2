//! Who is attached: slots, liveness, pins, and what a fork does.
//!
//! A participant (one attached handle of one process) owns a slot: pages of the control file with its counters and its pin bitmap.
//! It is alive exactly while it holds the OFD lock on byte 1 + slot of the lock file. An OFD lock belongs to the open file, not to
//! a process id, so it ends with the process whatever PID namespace it lives in, and two handles of one process are two participants.
//!
//! **Pins.** A view pins its segments: one bit per segment in the owner's bitmap, counted locally so that many views of one
//! segment set one bit. Pinning is hazard-pointer style: set the bit, then look whether the segment is still where it was; a
//! reuser changes the place first and looks at the bits after. A dead participant's pins vanish because only living ones' are looked at.
//!
//! **Fork.** The child inherits the parent's mappings, views and open files. Before the fork, the parent opens the lock file anew,
//! claims a slot for the child and copies its pins there, of which the child keeps those of views; after it, the parent closes that file and the child closes the parent's. So at no
//! instant is a view of the child unpinned, and the child never keeps its parent's lock alive.
//!
//! **Incarnations** number the uses of slots: what a participant leaves half done is marked with its own, so that a later user of
//! the same slot is never taken for it.
//!
//! Rejected: process ids with start times (ambiguous across PID namespaces), heartbeats (a stopped process is not a dead one).

use crate::engine::Engine;
use crate::env::{EnvFile, OpenHow, open_own};
use crate::error::{Error, Result};
use crate::layout::{PINS_OFFSET, Participant, participant_state};
use crate::membership::{SLOT_BYTE_FIRST, claim_slot, lock_byte, lock_word_of, unlock_byte};
use crate::pool::Mapping;
use crate::waiting::before_wait;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Once, PoisonError, Weak};

impl Engine {
    /// A participant's page.
    #[inline]
    pub fn participant(&self, slot: u32) -> &Participant {
        let (mapping, offset) = self.participant_pages(slot);
        mapping.at(offset)
    }

    /// Where a participant's pages are mapped: a read-only participant's own through a mapping of their own.
    #[inline]
    fn participant_pages(&self, slot: u32) -> (&Mapping, usize) {
        let own = self.own_pages.load(Ordering::Acquire);
        if own.is_null() || slot != self.member.slot() {
            return (&self.control, self.participant_offset(slot));
        }
        // SAFETY: set once from a box when the engine is made (again in a forked child), and freed by the engine's drop alone.
        (unsafe { &*own }, 0)
    }

    fn participant_offset(&self, slot: u32) -> usize {
        assert!(slot < self.geometry.participants);
        self.geometry.participants_offset() + slot as usize * self.geometry.participant_bytes()
    }

    fn pin_words(&self, slot: u32) -> &[AtomicU64] {
        let words = (self.geometry.slots as usize).div_ceil(64);
        let (mapping, offset) = self.participant_pages(slot);
        mapping.slice(offset + PINS_OFFSET, words)
    }

    /// Zeroes a participant's pins.
    pub(crate) fn clear_pins(&self, slot: u32) {
        self.pin_words(slot).iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// Whether the participant that used `incarnation` still lives and is the same use of its slot.
    pub fn is_incarnation_alive(&self, incarnation: u64) -> bool {
        let participants = u64::from(self.geometry.participants);
        let Some(slot) =
            incarnation.checked_sub(1).and_then(|number| u32::try_from(number % participants).ok())
        else {
            return false;
        };
        let participant = self.participant(slot);
        participant.state.load(Ordering::Acquire) == participant_state::ACTIVE
            && participant.incarnation.load(Ordering::Relaxed) == incarnation
            && self.member.is_alive(slot)
    }

    /// Whether the participant that left `mark` still lives and is the same use of its slot.
    pub(crate) fn is_mark_alive(&self, mark: u32) -> bool {
        let Some(number) = mark.checked_sub(1) else { return false };
        // Marks repeat after 2^32 uses; within one use of a slot, the slot follows from the full number.
        (0..self.geometry.participants).any(|slot| {
            let incarnation = self.participant(slot).incarnation.load(Ordering::Acquire);
            incarnation as u32 == number + 1 && self.is_incarnation_alive(incarnation)
        })
    }

    /// Pins a segment for this participant. The caller checks afterwards that the segment is still where it was.
    pub fn pin(&self, segment: u32) {
        self.member.pins.with(|counts| {
            let count = counts.entry(segment).or_default();
            count.all += 1;
            if count.all == 1 {
                self.pin_words(self.member.slot())[segment as usize / 64]
                    .fetch_or(1 << (segment % 64), Ordering::SeqCst);
            }
        });
        fence(Ordering::SeqCst);
    }

    /// Makes one pin each of these segments a view's.
    pub(crate) fn pin_for_view(&self, segments: &[u32]) {
        self.member.pins.with(|counts| {
            for segment in segments {
                if let Some(count) = counts.get_mut(segment) {
                    count.views += 1;
                }
            }
        });
    }

    /// Takes back a view's pins.
    pub(crate) fn unpin_view(&self, segments: &[u32]) {
        segments.iter().for_each(|&segment| self.take_back(segment, true));
    }

    /// Takes back one pin.
    pub fn unpin(&self, segment: u32) {
        self.take_back(segment, false);
    }

    fn take_back(&self, segment: u32, is_views: bool) {
        // A forked child that found no slot has no pins: the bits that it sees are its parent's.
        if self.orphaned.load(Ordering::Relaxed) {
            return;
        }
        self.member.pins.with(|counts| {
            let Some(count) = counts.get_mut(&segment) else {
                debug_assert!(false, "unpin of segment {segment} that is not pinned");
                return;
            };
            count.all -= 1;
            count.views -= u32::from(is_views);
            if count.all == 0 {
                counts.remove(&segment);
                self.clear_pin(segment);
            }
        });
    }

    fn clear_pin(&self, segment: u32) {
        self.pin_words(self.member.slot())[segment as usize / 64]
            .fetch_and(!(1 << (segment % 64)), Ordering::SeqCst);
    }

    /// Whether any living participant pins a segment. The caller changed the segment's place before asking.
    pub fn is_pinned(&self, segment: u32) -> bool {
        fence(Ordering::SeqCst);
        (0..self.geometry.participants).any(|slot| {
            self.participant(slot).state.load(Ordering::Acquire) == participant_state::ACTIVE
                && self.pin_words(slot)[segment as usize / 64].load(Ordering::SeqCst) >> (segment % 64) & 1
                    == 1
                && self.member.is_alive(slot)
        })
    }

    /// Segments that these participants pin.
    pub(crate) fn count_pinned_by(&self, participants: &[u32]) -> u32 {
        fence(Ordering::SeqCst);
        let mut pinned = vec![0; (self.geometry.slots as usize).div_ceil(64)];
        for &slot in participants {
            for (all, own) in pinned.iter_mut().zip(self.pin_words(slot)) {
                *all |= own.load(Ordering::SeqCst);
            }
        }
        pinned.iter().map(|word| word.count_ones()).sum()
    }

    /// Slots that are taken, by the living or the dead.
    fn taken_slots(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.geometry.participants)
            .filter(|&slot| self.participant(slot).state.load(Ordering::Acquire) == participant_state::ACTIVE)
    }

    /// Slots of living participants.
    pub(crate) fn living_participants(&self) -> Vec<u32> {
        self.taken_slots().filter(|&slot| self.member.is_alive(slot)).collect()
    }

    /// Slots whose participant died and whose belongings nobody has released yet.
    pub fn dead_participants(&self) -> Vec<u32> {
        self.taken_slots().filter(|&slot| !self.member.is_alive(slot)).collect()
    }

    /// Releases what a dead participant held (`release`), then its slot. False where another is at it, has done it, or it came alive.
    pub fn reap(&self, slot: u32, release: impl FnOnce() -> Result<()>) -> Result<bool> {
        // The lock on its byte keeps other handles out, but is every thread's of this one: one that came late would find the slot a newcomer's.
        let reaping = self.reaping.get(self.forks.load(Ordering::Relaxed));
        let _exclusive = match reaping.try_lock() {
            Ok(guard) => guard,
            Err(_) => {
                before_wait();
                reaping.lock().unwrap_or_else(PoisonError::into_inner)
            }
        };
        let byte = SLOT_BYTE_FIRST + i64::from(slot);
        let fd = self.member.fd();
        let locked = slot != self.member.slot()
            && lock_byte(fd, byte, false)
                .map_err(|source| Error::io("lock a dead participant's byte of", &self.paths.lock, source))?;
        if !locked {
            return Ok(false);
        }
        let participant = self.participant(slot);
        let result = if participant.state.load(Ordering::Acquire) == participant_state::ACTIVE {
            release().map(|()| {
                self.clear_pins(slot);
                participant.state.store(participant_state::FREE, Ordering::Release);
                true
            })
        } else {
            Ok(false)
        };
        unlock_byte(fd, byte);
        result
    }

    /// Gives up this participant's slot: the last thing an engine does.
    pub(crate) fn leave(&self) {
        let slot = self.member.slot();
        self.clear_pins(slot);
        self.participant(slot).state.store(participant_state::FREE, Ordering::Release);
        unlock_byte(self.member.fd(), SLOT_BYTE_FIRST + i64::from(slot));
    }
}

/// A slot claimed for a child that is about to be forked.
struct Heir {
    engine: Arc<Engine>,
    claim: Option<Claim>,
}

/// What a child takes over.
struct Claim {
    file: Arc<dyn EnvFile>,
    slot: u32,
    incarnation: u64,
    own_pages: Option<Mapping>,
}

struct Forking {
    busy: AtomicBool,
    engines: std::cell::UnsafeCell<Vec<Weak<Engine>>>,
    heirs: std::cell::UnsafeCell<Vec<Heir>>,
}

// SAFETY: both cells are only touched while `busy` is held.
unsafe impl Sync for Forking {}

/// All engines of this process. A plain spin lock, because it is taken before a fork and released on both sides of it.
static FORKING: Forking = Forking {
    busy: AtomicBool::new(false),
    engines: std::cell::UnsafeCell::new(Vec::new()),
    heirs: std::cell::UnsafeCell::new(Vec::new()),
};

impl Forking {
    fn acquire(&self) {
        while self.busy.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            std::thread::yield_now();
        }
    }

    fn release(&self) {
        self.busy.store(false, Ordering::Release);
    }
}

/// Makes forks of this process give the child a slot of its own.
pub(crate) fn register_for_forks(engine: &Arc<Engine>) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handlers are functions that live as long as the program.
        unsafe {
            libc::pthread_atfork(Some(before_fork), Some(after_fork_in_parent), Some(after_fork_in_child))
        };
    });
    FORKING.acquire();
    // SAFETY: `busy` is held.
    let engines = unsafe { &mut *FORKING.engines.get() };
    engines.retain(|engine| engine.strong_count() > 0);
    engines.push(Arc::downgrade(engine));
    FORKING.release();
}

extern "C" fn before_fork() {
    FORKING.acquire();
    // SAFETY: `busy` is held, until both sides release it.
    let (engines, heirs) = unsafe { (&mut *FORKING.engines.get(), &mut *FORKING.heirs.get()) };
    for engine in engines.iter().filter_map(Weak::upgrade) {
        engine.member.pins.acquire();
        let claim = claim_for_child(&engine);
        heirs.push(Heir { engine, claim });
    }
}

fn claim_for_child(engine: &Engine) -> Option<Claim> {
    let how = OpenHow { read: true, write: true, ..OpenHow::default() };
    let file = open_own(&*engine.env, &engine.paths.lock, how).ok()?;
    let geometry = &engine.geometry;
    let claiming = if engine.read_only {
        let control = open_own(&*engine.env, &engine.paths.control, how).ok()?;
        Some(Mapping::new(control, &engine.paths.control, geometry.control_bytes(), true).ok()?)
    } else {
        None
    };
    let pages = claiming.as_ref().unwrap_or(&engine.control);
    let words = |slot: u32| -> &[AtomicU64] {
        pages.slice(engine.participant_offset(slot) + PINS_OFFSET, (geometry.slots as usize).div_ceil(64))
    };
    let (slot, incarnation) = claim_slot(
        file.fd(),
        geometry.participants,
        &|slot| pages.at(engine.participant_offset(slot)),
        &|slot| words(slot).iter().for_each(|word| word.store(0, Ordering::Relaxed)),
        None,
        engine.read_only,
        engine.now_ms(),
    )
    .ok()??;
    for (mine, theirs) in engine.pin_words(engine.member.slot()).iter().zip(words(slot)) {
        theirs.store(mine.load(Ordering::Relaxed), Ordering::SeqCst);
    }
    let own_pages = if engine.read_only {
        let control = open_own(&*engine.env, &engine.paths.control, how).ok()?;
        let offset = engine.participant_offset(slot);
        Some(Mapping::part(control, &engine.paths.control, offset, geometry.participant_bytes(), true).ok()?)
    } else {
        None
    };
    Some(Claim { file, slot, incarnation, own_pages })
}

extern "C" fn after_fork_in_parent() {
    // SAFETY: `busy` is held since before the fork.
    let heirs = std::mem::take(unsafe { &mut *FORKING.heirs.get() });
    for heir in &heirs {
        heir.engine.member.pins.release();
    }
    FORKING.release();
    // Closing our descriptors leaves the lock with the child alone; dropping engines may call back here, so it comes last.
    drop(heirs);
}

extern "C" fn after_fork_in_child() {
    // SAFETY: `busy` is held since before the fork; the child has this one thread.
    let heirs = std::mem::take(unsafe { &mut *FORKING.heirs.get() });
    for heir in heirs {
        let member = &heir.engine.member;
        let old_fd = member.fd.load(Ordering::Relaxed);
        match heir.claim {
            Some(claim) => {
                member.slot.store(claim.slot, Ordering::Relaxed);
                member.incarnation.store(claim.incarnation, Ordering::Relaxed);
                let word = lock_word_of(claim.slot, claim.incarnation, heir.engine.geometry.participants);
                member.lock_word.store(word, Ordering::Relaxed);
                member.fd.store(claim.file.fd(), Ordering::Relaxed);
                if let Some(pages) = claim.own_pages {
                    // The parent's mapping stays: another of its threads may have been reading through it.
                    heir.engine.own_pages.store(Box::into_raw(Box::new(pages)), Ordering::Release);
                }
                heir.engine.participant(claim.slot).pid.store(std::process::id(), Ordering::Relaxed);
                // The engine owns the file from here on by its descriptor's number.
                #[allow(clippy::mem_forget, reason = "dropping it would close the descriptor")]
                std::mem::forget(claim.file);
            }
            None => {
                heir.engine.orphaned.store(true, Ordering::Relaxed);
                // Closed below; the number may soon be another file's, which the engine's end must not close.
                member.fd.store(-1, Ordering::Relaxed);
            }
        }
        // SAFETY: the descriptor belongs to the file forgotten above (or to an orphaned engine that no longer uses it).
        unsafe { libc::close(old_fd) };
        // What the parent's other threads were at is theirs alone.
        let is_orphaned = heir.engine.orphaned.load(Ordering::Relaxed);
        member.pins.keep_views(|segment| {
            if !is_orphaned {
                heir.engine.clear_pin(segment);
            }
        });
        member.pins.release();
        heir.engine.forks.fetch_add(1, Ordering::Relaxed);
        // The engine's own drop is the child's business only when its last handle goes.
        drop(heir.engine);
    }
    FORKING.release();
}
