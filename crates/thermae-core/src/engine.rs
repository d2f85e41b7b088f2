//! An attached store: the mappings, the participant, and typed access to what is shared.
//!
//! One `Engine` per open handle; handles and views share it by `Arc`, and its last owner gives up the participant slot. All methods take
//! `&self` and may be called from any thread; everything that changes is in shared memory behind atomics or shared locks.

use crate::durable::DurableTiers;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::forked::PerProcess;
use crate::layout::{
    Counters, Geometry, Globals, HEADS, Head, PAGE_BYTES, Partition, Place, SLOT_BITS, Segment,
};
use crate::lock::{Acquired, SharedLock};
use crate::membership::Membership;
use crate::options::{Durability, Location, WhenFull};
use crate::pool::Mapping;
use crate::superblock::Superblock;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Where a store's files are.
#[derive(Debug, Clone)]
pub struct Paths {
    /// What the user named.
    pub location: Location,
    /// The directory with the durable half (of a shared-memory store: all of it).
    pub directory: PathBuf,
    /// The directory with the volatile half.
    pub volatile: PathBuf,
    /// `store`.
    pub superblock: PathBuf,
    /// `lock`.
    pub lock: PathBuf,
    /// `warm`, or a file elsewhere on persistent memory.
    pub warm: PathBuf,
    /// `cold`.
    pub cold: PathBuf,
    /// `control`.
    pub control: PathBuf,
    /// `hot`.
    pub hot: PathBuf,
}

/// An attached store.
#[derive(Debug)]
pub struct Engine {
    /// Sizes.
    pub geometry: Geometry,
    /// Files.
    pub paths: Paths,
    /// Files, clock, randomness.
    pub env: Arc<dyn Env>,
    /// The warm and the cold tier, if there is either.
    pub durable: Option<DurableTiers>,
    /// Identity and configuration.
    pub superblock: Superblock,
    /// This handle's participant.
    pub member: Membership,
    /// Whether this participant may only read.
    pub read_only: bool,
    /// Whether reads verify checksums in the hot tier too.
    pub verify_reads: bool,
    /// Whether a recovery may do without checkpoints that it needs, see [`crate::options::Options::salvage`].
    pub salvage: bool,
    /// The control file.
    pub control: Mapping,
    /// A writable mapping of this participant's pages alone, where `control` is read-only; else null. A fork replaces the child's.
    pub own_pages: AtomicPtr<Mapping>,
    /// The hot frames; behind them the warm ones, where the index is there.
    pub hot: Mapping,
    /// Set by close.
    pub closed: AtomicBool,
    /// Set in the child of a fork that found no free slot.
    pub orphaned: AtomicBool,
    /// Counts forks that this engine went through: background threads do not survive them.
    pub forks: AtomicU32,
    /// Held by the thread of this handle that releases what a dead participant held.
    pub reaping: PerProcess<Mutex<()>>,
    /// Address bits that are the offset.
    pub offset_bits: u32,
    /// Seed of the key hash.
    pub hash_seed: u64,
    /// Store clock minus boot clock.
    pub clock_offset_ms: i64,
}

/// One partition, locked.
#[derive(Debug)]
pub struct PartitionGuard<'a> {
    /// The partition's state.
    pub partition: &'a Partition,
    /// Its number.
    pub number: u32,
}

impl Drop for PartitionGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.partition.lock.unlock();
    }
}

/// Any other shared lock, held.
#[derive(Debug)]
pub struct LockGuard<'a>(pub &'a SharedLock);

impl Drop for LockGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.unlock();
    }
}

impl Engine {
    /// The shared words.
    #[inline]
    pub fn globals(&self) -> &Globals {
        self.control.at(PAGE_BYTES)
    }

    /// The segment table.
    #[inline]
    pub fn segments(&self) -> &[Segment] {
        self.control.slice(self.geometry.segments_offset(), self.geometry.slots as usize)
    }

    /// One slot of the segment table.
    #[inline]
    pub fn segment(&self, slot: u32) -> &Segment {
        &self.segments()[slot as usize]
    }

    /// The partition directory: where each partition's table is.
    #[inline]
    pub fn directory(&self) -> &[AtomicU64] {
        self.control.slice(self.geometry.directory_offset(), self.geometry.partitions as usize)
    }

    /// The partitions' states.
    #[inline]
    pub fn partitions(&self) -> &[Partition] {
        self.control.slice(self.geometry.partitions_offset(), self.geometry.partitions as usize)
    }

    /// The stack of free hot frames (its height is in the globals).
    pub fn free_hot(&self) -> &[AtomicU32] {
        self.control.slice(self.geometry.free_hot_offset(), self.geometry.hot_frames as usize)
    }

    /// The stack of free warm frames.
    pub fn free_warm(&self) -> &[AtomicU32] {
        self.control.slice(self.geometry.free_warm_offset(), self.geometry.warm_frames as usize)
    }

    /// The stack of free cold frames.
    pub fn free_cold(&self) -> &[AtomicU32] {
        self.control.slice(self.geometry.free_cold_offset(), self.geometry.cold_frames as usize)
    }

    /// Frames that hold index tables.
    pub fn index_frames(&self) -> &[AtomicU32] {
        let frames = self.geometry.hot_frames + self.geometry.warm_frames;
        self.control.slice(self.geometry.index_frames_offset(), frames as usize)
    }

    /// Frames that index tables may be in: the hot ones, then, where the index is in the warm tier, those of that, mapped right behind.
    pub fn index_frames_max(&self) -> u32 {
        (self.hot.len() / self.geometry.frame_bytes as usize) as u32
    }

    /// One head.
    #[inline]
    pub fn head(&self, number: u32) -> &Head {
        debug_assert!((number as usize) < HEADS);
        &self.globals().heads[number as usize]
    }

    /// First byte of a hot frame.
    ///
    /// # Panics
    /// When there is no such frame: callers check numbers that come from shared memory.
    #[inline]
    pub fn frame(&self, frame: u32) -> *mut u8 {
        assert!(frame < self.geometry.hot_frames);
        // SAFETY: the hot mapping is hot_frames x frame_bytes long.
        unsafe { self.hot.base().add(frame as usize * self.geometry.frame_bytes as usize) }
    }

    /// The bytes of a hot frame that hold `slot`, if it is hot and the frame number is sane.
    #[inline]
    pub fn hot_base(&self, place: Place) -> Option<*mut u8> {
        match place.hot {
            Some(frame) if frame < self.geometry.hot_frames => Some(self.frame(frame)),
            _ => None,
        }
    }

    /// The mapped bytes that hold a segment: of its hot frame, or else of its warm one, which nobody may write to.
    #[inline]
    pub fn mapped_base(&self, place: Place) -> Option<*mut u8> {
        self.hot_base(place).or_else(|| self.warm_base(place))
    }

    /// Kept out of the way of hot reads.
    #[inline(never)]
    fn warm_base(&self, place: Place) -> Option<*mut u8> {
        if place.hot.is_some() {
            return None;
        }
        self.durable.as_ref()?.warm_base(place.cold?)
    }

    /// Slot and byte offset of an address, if they can exist.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "addresses have 40 bits and offsets at most 23")]
    pub fn split(&self, address: u64) -> Option<(u32, usize)> {
        let slot = (address >> self.offset_bits) as u32;
        let offset = ((address & ((1 << self.offset_bits) - 1)) as usize) << 3;
        (slot < self.geometry.slots).then_some((slot, offset))
    }

    /// The address of an offset in a slot.
    #[inline]
    pub fn address(&self, slot: u32, offset: usize) -> u64 {
        u64::from(slot) << self.offset_bits | (offset as u64 >> 3)
    }

    /// The slot that a segment identity names, if it is still that segment.
    #[inline]
    pub fn slot_of(&self, segment_id: u64) -> Option<u32> {
        let slot = u32::try_from(segment_id & ((1 << SLOT_BITS) - 1)).ok()?;
        (slot < self.geometry.slots && self.segment(slot).segment_id.load(Ordering::Acquire) == segment_id)
            .then_some(slot)
    }

    /// The store's clock: it does not jump with the wall clock, and goes on across reboots.
    #[inline]
    pub fn now_ms(&self) -> u64 {
        self.env.boot_time_ms().saturating_add_signed(self.clock_offset_ms)
    }

    /// Hash of a key.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        xxhash_rust::xxh3::xxh3_64_with_seed(key, self.hash_seed)
    }

    /// This participant's slot.
    #[inline]
    pub fn me(&self) -> u32 {
        self.member.slot()
    }

    /// This participant's counters.
    #[inline]
    pub fn counters(&self) -> &Counters {
        &self.participant(self.me()).counters
    }

    /// Adds to a counter of this participant's. Threads of one participant may lose a count to each other: these are statistics.
    #[inline]
    pub fn count(counter: &AtomicU64, by: u64) {
        counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }

    /// The current durability.
    pub fn durability(&self) -> Durability {
        let code = u8::try_from(self.globals().durability.load(Ordering::Relaxed)).unwrap_or(u8::MAX);
        Durability::from_code(code).unwrap_or(Durability::Always)
    }

    /// What a full store does.
    pub fn when_full(&self) -> WhenFull {
        let code = u8::try_from(self.globals().when_full.load(Ordering::Relaxed)).unwrap_or(u8::MAX);
        WhenFull::from_code(code).unwrap_or(WhenFull::Error)
    }

    /// Whether segments must have a durable frame from the start, because they will be flushed.
    pub fn is_flushed(&self) -> bool {
        self.durable.is_some() && self.durability() != Durability::None
    }

    /// Whether deletes must be logged: when some log may be replayed later.
    #[inline]
    pub fn needs_tombstones(&self) -> bool {
        self.durable.is_some() || self.globals().snapshot_lock.owner().is_some()
    }

    /// Takes a shared lock; where it is inherited from a dead participant, `repair` runs before anything else.
    #[inline]
    pub fn lock<'a>(&'a self, lock: &'a SharedLock, repair: impl FnOnce(u32)) -> LockGuard<'a> {
        if let Acquired::Inherited(dead) =
            lock.lock(self.member.lock_word(), |slot| self.member.is_alive(slot))
        {
            Self::count(&self.counters().inherited_locks, 1);
            repair(dead);
        }
        LockGuard(lock)
    }

    /// Refuses use after close, and use by an orphaned child.
    #[inline]
    pub fn check_usable(&self) -> Result<()> {
        if self.closed.load(Ordering::Relaxed) || self.orphaned.load(Ordering::Relaxed) {
            return Err(self.unusable());
        }
        Ok(())
    }

    #[cold]
    fn unusable(&self) -> Error {
        if self.orphaned.load(Ordering::Relaxed) {
            return Error::TooManyParticipants(format!(
                "{} had no free participant slot for this forked process ({} in use); raise participants_max when creating the store",
                self.paths.location, self.geometry.participants
            ));
        }
        Error::Closed(format!("{} was closed; open it again to use it", self.paths.location))
    }

    /// Refuses writes by read-only participants and after a failed flush.
    #[inline]
    pub fn check_writable(&self) -> Result<()> {
        self.check_usable()?;
        if self.read_only || self.globals().writes_stopped.load(Ordering::Relaxed) != 0 {
            return Err(self.unwritable());
        }
        Ok(())
    }

    #[cold]
    pub(crate) fn unwritable(&self) -> Error {
        if self.read_only {
            return Error::ReadOnly(format!(
                "{} was opened read-only; open it without read_only to write",
                self.paths.location
            ));
        }
        let errno = self.globals().writes_stopped.load(Ordering::Relaxed);
        Error::WritesStopped(format!(
            "writing to {} stopped for good because a flush failed ({}): what was acknowledged as durable before is safe, reads go on; \
             take a snapshot to another disk if you need what was not durable yet; then mend the disk, close all users of the store and open it \
             again, which recovers it",
            self.paths.location,
            std::io::Error::from_raw_os_error(errno.cast_signed())
        ))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if !self.orphaned.load(Ordering::Relaxed) {
            self.leave();
        }
        let own = self.own_pages.swap(std::ptr::null_mut(), Ordering::AcqRel);
        if !own.is_null() {
            // SAFETY: made by Box::into_raw, and nobody else refers to this engine any more.
            drop(unsafe { Box::from_raw(own) });
        }
        self.reaping.free(*self.forks.get_mut());
    }
}
