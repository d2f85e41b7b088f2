//! One handle's place among the participants: its slot, the lock that says it lives, and the count of its pins.
//!
//! A participant is alive exactly while it holds the OFD lock on byte 1 + slot of the lock file. An OFD lock belongs to the open file, not to
//! a process id, so it ends with the process whatever PID namespace it lives in, and two handles of one process are two participants.

use crate::env::EnvFile;
use crate::error::{Error, Result};
use crate::layout::{Geometry, Globals, PAGE_BYTES, Participant, Partition, Segment, participant_state};
use crate::lock::{NOBODY, lock_word};
use crate::pool::Mapping;
use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

/// Byte of the lock file that serialises attaching.
pub const ATTACH_BYTE: i64 = 0;
/// Byte of the lock file that participant 0 holds.
pub(crate) const SLOT_BYTE_FIRST: i64 = 1;

fn lock_description(kind: libc::c_int, byte: i64) -> libc::flock {
    // SAFETY: flock is plain data; zero is a valid value of each field.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    #[allow(clippy::cast_possible_truncation, reason = "lock kinds and SEEK_SET are tiny constants")]
    {
        lock.l_type = kind as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
    }
    lock.l_start = byte;
    lock.l_len = 1;
    lock
}

/// Locks one byte of an open lock file, without waiting or (`wait`) until it is free.
pub fn lock_byte(fd: RawFd, byte: i64, wait: bool) -> io::Result<bool> {
    let command = if wait { libc::F_OFD_SETLKW } else { libc::F_OFD_SETLK };
    loop {
        let lock = lock_description(libc::F_WRLCK, byte);
        // SAFETY: fd is open and the struct lives through the call.
        if unsafe { libc::fcntl(fd, command, &lock) } == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) if !wait => return Ok(false),
            Some(libc::EINTR) => {}
            _ => return Err(error),
        }
    }
}

/// Locks one byte of an open file together with others who share it, waiting until nobody has it for himself.
pub fn share_byte(fd: RawFd, byte: i64) -> io::Result<()> {
    loop {
        let lock = lock_description(libc::F_RDLCK, byte);
        // SAFETY: fd is open and the struct lives through the call.
        if unsafe { libc::fcntl(fd, libc::F_OFD_SETLKW, &lock) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return Err(error);
        }
    }
}

/// Unlocks one byte.
pub fn unlock_byte(fd: RawFd, byte: i64) {
    let lock = lock_description(libc::F_UNLCK, byte);
    // SAFETY: as in lock_byte. Unlocking a byte of an open file can't fail for a reason we could act on.
    unsafe { libc::fcntl(fd, libc::F_OFD_SETLK, &lock) };
}

/// Whether another open file holds `byte`.
pub fn is_byte_locked(fd: RawFd, byte: i64) -> bool {
    let mut lock = lock_description(libc::F_WRLCK, byte);
    // SAFETY: as in lock_byte.
    let answer = unsafe { libc::fcntl(fd, libc::F_OFD_GETLK, &mut lock) };
    // When in doubt, alive: taking over from the living corrupts, waiting does not.
    answer != 0 || i32::from(lock.l_type) != libc::F_UNLCK
}

/// Whether any participant of any slot below `participants` holds its byte.
pub fn is_anyone_attached(fd: RawFd, participants: u32) -> bool {
    let mut lock = lock_description(libc::F_WRLCK, SLOT_BYTE_FIRST);
    lock.l_len = i64::from(participants);
    // SAFETY: as in lock_byte.
    let answer = unsafe { libc::fcntl(fd, libc::F_OFD_GETLK, &mut lock) };
    answer != 0 || i32::from(lock.l_type) != libc::F_UNLCK
}

/// This handle's place among the participants.
#[derive(Debug)]
pub struct Membership {
    pub(crate) slot: AtomicU32,
    pub(crate) lock_word: AtomicU32,
    pub(crate) incarnation: AtomicU64,
    /// The lock file's descriptor, owned: a fork gives the child another.
    pub(crate) fd: AtomicI32,
    /// Views' pins, counted.
    pub(crate) pins: PinCounts,
}

/// Who pins a segment.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct PinCount {
    /// Views, and work under way.
    pub all: u32,
    /// Views alone: a forked child has them too.
    pub views: u32,
}

/// Pins of this participant by segment. A plain spin lock, because a fork takes it before and releases it on both sides.
#[derive(Debug, Default)]
pub(crate) struct PinCounts {
    busy: AtomicBool,
    counts: std::cell::UnsafeCell<HashMap<u32, PinCount>>,
}

// SAFETY: `counts` is only touched while `busy` is held.
unsafe impl Sync for PinCounts {}

impl PinCounts {
    pub(crate) fn acquire(&self) {
        while self.busy.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            std::thread::yield_now();
        }
    }

    pub(crate) fn release(&self) {
        self.busy.store(false, Ordering::Release);
    }

    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut HashMap<u32, PinCount>) -> R) -> R {
        self.acquire();
        // SAFETY: `busy` is held.
        let result = act(unsafe { &mut *self.counts.get() });
        self.release();
        result
    }

    /// In a forked child, `busy` being held since before the fork: forgets what threads pinned that the child does not have. `unpinned` is told
    /// each segment that no view pins. Allocates nothing.
    pub(crate) fn keep_views(&self, unpinned: impl Fn(u32)) {
        // SAFETY: `busy` is held.
        let counts = unsafe { &mut *self.counts.get() };
        counts.retain(|&segment, count| {
            count.all = count.views;
            if count.all == 0 {
                unpinned(segment);
            }
            count.all > 0
        });
    }
}

const _: () = assert!(crate::options::PARTICIPANTS_MAX_LIMIT < NOBODY);

/// The lock word of a participant in `slot`: incarnations of a slot are as far apart as there are slots.
pub(crate) fn lock_word_of(slot: u32, incarnation: u64, participants: u32) -> u32 {
    lock_word(slot, incarnation / u64::from(participants))
}

impl Membership {
    /// Claims a slot on an open lock file: a free one, or else a dead participant's, whose locks are left to [`NOBODY`]. `page` gives a
    /// slot's page; `clear_pins` and `bury` clear its pins and leave what it held.
    pub fn claim<'a>(
        file: Arc<dyn EnvFile>,
        participants: u32,
        page: &impl Fn(u32) -> &'a Participant,
        clear_pins: &impl Fn(u32),
        bury: &impl Fn(u32),
        read_only: bool,
        now_ms: u64,
    ) -> Result<Option<Self>> {
        let claim = |is_free: bool| {
            claim_slot(
                file.fd(),
                participants,
                page,
                clear_pins,
                (!is_free).then_some(bury as &dyn Fn(u32)),
                read_only,
                now_ms,
            )
            .map_err(|source| Error::io("lock a participant's byte of", "lock", source))
        };
        let claimed = match claim(true)? {
            // With nobody alive there is nobody who would free the slots of the dead.
            None => claim(false)?,
            claimed => claimed,
        };
        let Some((slot, incarnation)) = claimed else { return Ok(None) };
        // A descriptor of its own, owned by number: after a fork the child must close the parent's without touching its locks, and
        // the file that was attached through goes its own way.
        // SAFETY: duplicates an open descriptor.
        let fd = unsafe { libc::fcntl(file.fd(), libc::F_DUPFD_CLOEXEC, 0) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            page(slot).state.store(participant_state::FREE, Ordering::Release);
            unlock_byte(file.fd(), SLOT_BYTE_FIRST + i64::from(slot));
            return Err(Error::io("duplicate the descriptor of", "lock", error));
        }
        Ok(Some(Self {
            slot: AtomicU32::new(slot),
            lock_word: AtomicU32::new(lock_word_of(slot, incarnation, participants)),
            incarnation: AtomicU64::new(incarnation),
            fd: AtomicI32::new(fd),
            pins: PinCounts::default(),
        }))
    }

    /// This participant's slot.
    #[inline]
    pub fn slot(&self) -> u32 {
        self.slot.load(Ordering::Relaxed)
    }

    /// What this participant puts into locks that it takes.
    #[inline]
    pub fn lock_word(&self) -> u32 {
        self.lock_word.load(Ordering::Relaxed)
    }

    /// Number that no other use of any slot has had since the shared half was made.
    pub fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Relaxed)
    }

    /// The low half of the incarnation: marks what this participant has begun and not finished.
    #[inline]
    pub fn mark(&self) -> u32 {
        self.incarnation() as u32
    }

    /// Descriptor of the lock file.
    pub fn fd(&self) -> RawFd {
        self.fd.load(Ordering::Relaxed)
    }

    /// Whether the participant in `slot` lives.
    pub fn is_alive(&self, slot: u32) -> bool {
        slot == self.slot() || is_byte_locked(self.fd(), SLOT_BYTE_FIRST + i64::from(slot))
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if self.fd() >= 0 {
            // SAFETY: the descriptor is this membership's own. Closing it ends the lock on the slot's byte.
            unsafe { libc::close(self.fd()) };
        }
    }
}

/// Leaves to [`NOBODY`] what a dead participant held, so that its slot can be used again: it is released like what others of the dead held.
pub(crate) fn bury(control: &Mapping, geometry: &Geometry, dead: u32) {
    let globals: &Globals = control.at(PAGE_BYTES);
    let partitions: &[Partition] = control.slice(geometry.partitions_offset(), geometry.partitions as usize);
    let heads = globals.heads.iter().map(|head| &head.lock);
    partitions
        .iter()
        .map(|partition| &partition.lock)
        .chain(heads)
        .chain(globals.locks())
        .for_each(|lock| lock.leave_to_nobody(dead));
    let segments: &[Segment] = control.slice(geometry.segments_offset(), geometry.slots as usize);
    for segment in segments {
        // What was published has no owner any more.
        let _ = segment.owner.compare_exchange(dead, NOBODY, Ordering::AcqRel, Ordering::Relaxed);
    }
    globals.buried.fetch_add(1, Ordering::SeqCst);
}

pub(crate) fn claim_slot<'a>(
    fd: RawFd,
    participants: u32,
    page: &impl Fn(u32) -> &'a Participant,
    clear_pins: &impl Fn(u32),
    bury: Option<&dyn Fn(u32)>,
    read_only: bool,
    now_ms: u64,
) -> io::Result<Option<(u32, u64)>> {
    for slot in 0..participants {
        let participant = page(slot);
        if participant.state.load(Ordering::Acquire) != participant_state::FREE && bury.is_none() {
            continue;
        }
        if !lock_byte(fd, SLOT_BYTE_FIRST + i64::from(slot), false)? {
            continue;
        }
        // The byte excludes other claimers and reapers; only now is the state what it seems.
        if participant.state.load(Ordering::Acquire) != participant_state::FREE {
            let Some(bury) = bury else {
                unlock_byte(fd, SLOT_BYTE_FIRST + i64::from(slot));
                continue;
            };
            bury(slot);
        }
        clear_pins(slot);
        let incarnation = participant.incarnation.load(Ordering::Relaxed) + u64::from(participants);
        let incarnation =
            if incarnation == u64::from(participants) { u64::from(slot) + 1 } else { incarnation };
        participant.incarnation.store(incarnation, Ordering::Relaxed);
        participant.pid.store(std::process::id(), Ordering::Relaxed);
        participant.read_only.store(u32::from(read_only), Ordering::Relaxed);
        participant.attached_ms.store(now_ms, Ordering::Relaxed);
        participant.observers.store(0, Ordering::Relaxed);
        participant.observers_of_others.store(0, Ordering::Relaxed);
        participant.state.store(participant_state::ACTIVE, Ordering::Release);
        return Ok(Some((slot, incarnation)));
    }
    Ok(None)
}
