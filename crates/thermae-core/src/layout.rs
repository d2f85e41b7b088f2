//! Every struct that lives in shared memory, and where it lies in the control file.
//!
//! ```text
//! control:  header page | globals page | named locks | participants | segments | directory | partitions | free hot | free warm | free cold | index frames | feed
//! ```
//! Positions follow from the [`Geometry`] alone, which follows from the superblock; so attaching computes
//! nothing that depends on how much is stored. Sizes and offsets are asserted at compile time. All fields are atomics: any of them
//! may be read while another process writes. docs/format.md gives the bytes.

use crate::lock::SharedLock;
use crate::options::TierBytes;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64};

/// Changes whenever anything in shared memory or in a stored file changes its meaning.
pub use crate::block::LAYOUT_VERSION;
/// First word of a control file.
pub const CONTROL_MAGIC: u64 = u64::from_le_bytes(*b"THRMctl1");
/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;
/// Entries in an index bucket.
pub const BUCKET_ENTRIES: usize = 7;
/// Bytes of an index bucket: a cache line.
pub const BUCKET_BYTES: usize = 64;
/// Most buckets in one partition's table (14 bits of the directory word).
pub const BUCKETS_MAX: u32 = (1 << 14) - 1;
/// Bytes of the header at the start of every log segment.
pub const SEGMENT_HEADER_BYTES: usize = 64;
/// Addresses below this are not records (they would lie in a segment header): the index uses them as ghosts.
pub const ADDRESS_MIN: u64 = (SEGMENT_HEADER_BYTES / 8) as u64;
/// Bits of an address.
pub const ADDRESS_BITS: u32 = 40;
/// Heads for fresh writes, at most.
pub const FRESH_HEADS_MAX: u32 = 4;
/// Head that takes the survivors of compaction and eviction; with a cold tier, the youngest of them.
pub const SURVIVOR_HEAD: u32 = 4;
/// Head that takes cache copies of cold records.
pub const CACHE_HEAD: u32 = 5;
/// First head of the TTL classes.
pub const TTL_HEAD_FIRST: u32 = 6;
/// Heads of TTL classes, at most.
pub const TTL_HEADS_MAX: u32 = 9;
/// First head of older survivors, by age.
pub const OLD_SURVIVOR_HEAD_FIRST: u32 = TTL_HEAD_FIRST + TTL_HEADS_MAX;
/// Heads of older survivors.
pub const OLD_SURVIVOR_HEADS: u32 = 3;
/// Head that takes the tombstones of a full store, and nothing else: what is kept back for deletes must not be used up by values.
pub const TOMBSTONE_HEAD: u32 = OLD_SURVIVOR_HEAD_FIRST + OLD_SURVIVOR_HEADS;
/// All heads.
pub const HEADS: usize = TOMBSTONE_HEAD as usize + 1;
/// Most partitions of an index: 18 bits of a key's hash. Those of tiers of 32 GiB in all; beyond that each holds more.
pub const PARTITIONS_MAX: u32 = 1 << 18;
/// Bits of a segment identity that repeat its slot; the rest is a counter that never repeats.
pub const SLOT_BITS: u32 = 22;
/// Greatest number of a segment (its identity without the slot) that a store could ever have come to, opening one every microsecond for a year.
/// What claims to be greater is damaged, and everything up to it can be counted on from.
pub const SEGMENT_NUMBER_MAX: u64 = 1 << 41;
/// Frames of a tier that users' writes leave to compaction, eviction and tombstones.
pub const RESERVE_FRAMES: u32 = 2;

/// Bytes at the start of the feed: its words, on cache lines of their own.
pub const FEED_HEADER_BYTES: usize = 128;
/// Bytes of a slot of the feed: a cache line.
pub const FEED_SLOT_BYTES: usize = 64;
/// Fewest slots of the feed: the longest key takes about a thousand.
pub const FEED_SLOTS_MIN: u32 = 1 << 11;
/// Most slots of the feed: 30 ms of two million changes a second.
pub const FEED_SLOTS_MAX: u32 = 1 << 16;
/// The feed's part of the hot tier's bytes, one in so many, between those bounds.
const FEED_SHARE: u64 = 128;

/// A segment's state.
pub mod state {
    /// The slot describes nothing.
    pub const FREE: u32 = 0;
    /// A participant (the owner) is setting it up.
    pub const OPENING: u32 = 1;
    /// A head appends to it.
    pub const OPEN: u32 = 2;
    /// Complete.
    pub const CLOSED: u32 = 3;
    /// Extents of a large value that its owner has not published yet.
    pub const EXTENT_PENDING: u32 = 4;
    /// Part of a published large value.
    pub const EXTENT: u32 = 5;
    /// Holds nothing alive; its frames come back when pins and durability allow.
    pub const RETIRED: u32 = 6;
    /// Set aside because its bytes are damaged: its frame is not reused before a repair.
    pub const QUARANTINED: u32 = 7;
}

/// What a segment holds.
pub mod class {
    /// Fresh writes (the small queue of the eviction policy).
    pub const FRESH: u32 = 0;
    /// Survivors of compaction and eviction (the main queue).
    pub const SURVIVOR: u32 = 1;
    /// Copies of cold records, never flushed.
    pub const CACHE: u32 = 2;
    /// Part of a large value.
    pub const EXTENT: u32 = 3;
    /// Nothing of the log: the slot holds the frame that a segment moves to, then the one it moved from (see `migrate`).
    pub const MOVED: u32 = 4;
    /// Records that expire together; plus the TTL class.
    pub const TTL: u32 = 8;
}

/// Sizes that fix where everything lies.
///
/// The durable tiers share one row of numbers: frames of the warm tier come first, those of the cold tier follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a frame, a power of two.
    pub frame_bytes: u32,
    /// Frames of the hot pool.
    pub hot_frames: u32,
    /// Frames of the warm pool.
    pub warm_frames: u32,
    /// Frames of the cold pool.
    pub cold_frames: u32,
    /// Slots of the segment table.
    pub slots: u32,
    /// Index partitions, a power of two.
    pub partitions: u32,
    /// Participant slots.
    pub participants: u32,
    /// Pages of one participant.
    pub participant_pages: u32,
    /// Slots of the feed of changes, a power of two.
    pub feed_slots: u32,
}

/// What a store's index refers to, and so can't change: neither with the sizes of its tiers, nor in a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Index partitions, a power of two.
    pub partitions: u32,
    /// Slots of the segment table, at least.
    pub slots_min: u32,
}

impl Geometry {
    /// The geometry of a store with these tiers. `hot_bytes` pays for the control file too: that is the one memory limit.
    /// `None` where the hot tier is too small to hold the control file and eight frames, or the tiers exceed the address space.
    pub fn of(tiers: TierBytes, frame_bytes: u32, participants: u32) -> Option<Self> {
        let all_bytes = tiers.hot.checked_add(tiers.warm)?.checked_add(tiers.cold)?;
        let partitions = (all_bytes / (128 << 10)).clamp(64, u64::from(PARTITIONS_MAX));
        let shape = Shape { partitions: 1 << partitions.ilog2(), slots_min: 0 };
        Self::with_shape(tiers, frame_bytes, participants, shape)
    }

    /// The same with what was chosen before: a restored store keeps it, whatever its tiers' sizes.
    pub fn with_shape(
        tiers: TierBytes,
        frame_bytes: u32,
        participants: u32,
        Shape { partitions, slots_min }: Shape,
    ) -> Option<Self> {
        let frame = u64::from(frame_bytes);
        let hot_most = tiers.hot / frame;
        let (warm_frames, cold_frames) = (tiers.warm / frame, tiers.cold / frame);
        let slots = hot_most.checked_add(warm_frames)?.checked_add(cold_frames)?.checked_add(64)?;
        let slots = slots.max(u64::from(slots_min));
        let slots_max = 1_u64 << (ADDRESS_BITS - (frame_bytes.trailing_zeros() - 3)).min(SLOT_BITS);
        if slots >= slots_max {
            return None;
        }
        let pin_bytes = slots.div_ceil(64) * 8;
        let mut geometry = Self {
            frame_bytes,
            hot_frames: u32::try_from(hot_most).ok()?,
            warm_frames: u32::try_from(warm_frames).ok()?,
            cold_frames: u32::try_from(cold_frames).ok()?,
            slots: u32::try_from(slots).ok()?,
            partitions,
            participants,
            participant_pages: u32::try_from((PINS_OFFSET as u64 + pin_bytes).div_ceil(PAGE_BYTES as u64))
                .ok()?,
            feed_slots: feed_slots(tiers.hot),
        };
        let left = tiers.hot.checked_sub(geometry.control_bytes() as u64)?;
        geometry.hot_frames = u32::try_from(left / frame).ok()?;
        (geometry.hot_frames >= 8).then_some(geometry)
    }

    /// Frames of the hot pool before the control file took its share: what the control file's arrays are sized for.
    const fn hot_frames_bound(&self) -> usize {
        (self.slots - 64 - self.durable_frames()) as usize
    }

    /// Frames of the warm and the cold pool together.
    pub const fn durable_frames(&self) -> u32 {
        self.warm_frames + self.cold_frames
    }

    /// Offset of the table of named locks.
    pub const fn named_locks_offset(&self) -> usize {
        2 * PAGE_BYTES
    }

    /// Offset of the participants' pages.
    pub const fn participants_offset(&self) -> usize {
        self.named_locks_offset() + NAMED_LOCKS * size_of::<NamedLock>()
    }

    /// Bytes of one participant's pages.
    pub const fn participant_bytes(&self) -> usize {
        self.participant_pages as usize * PAGE_BYTES
    }

    /// Offset of the segment table.
    pub const fn segments_offset(&self) -> usize {
        self.participants_offset() + self.participants as usize * self.participant_bytes()
    }

    /// Offset of the partition directory.
    pub const fn directory_offset(&self) -> usize {
        self.segments_offset() + self.slots as usize * size_of::<Segment>()
    }

    /// Offset of the partition states.
    pub const fn partitions_offset(&self) -> usize {
        self.directory_offset() + self.partitions as usize * 8
    }

    /// Offset of the stack of free hot frames.
    pub const fn free_hot_offset(&self) -> usize {
        self.partitions_offset() + self.partitions as usize * size_of::<Partition>()
    }

    /// Offset of the stack of free warm frames.
    pub const fn free_warm_offset(&self) -> usize {
        self.free_hot_offset() + self.hot_frames_bound() * 4
    }

    /// Offset of the stack of free cold frames.
    pub const fn free_cold_offset(&self) -> usize {
        self.free_warm_offset() + self.warm_frames as usize * 4
    }

    /// Offset of the list of frames that hold index tables.
    pub const fn index_frames_offset(&self) -> usize {
        self.free_cold_offset() + self.cold_frames as usize * 4
    }

    /// Offset of the feed of changes: a page's start.
    pub const fn feed_offset(&self) -> usize {
        let end = self.index_frames_offset() + (self.hot_frames_bound() + self.warm_frames as usize) * 4;
        end.div_ceil(PAGE_BYTES) * PAGE_BYTES
    }

    /// Bytes of the control file.
    pub const fn control_bytes(&self) -> usize {
        let end = self.feed_offset() + FEED_HEADER_BYTES + self.feed_slots as usize * FEED_SLOT_BYTES;
        end.div_ceil(PAGE_BYTES) * PAGE_BYTES
    }

    /// Bytes of the hot file.
    pub const fn hot_file_bytes(&self) -> usize {
        self.hot_frames as usize * self.frame_bytes as usize
    }

    /// Bits of an address that are the offset in 8-byte units.
    pub const fn offset_bits(&self) -> u32 {
        self.frame_bytes.trailing_zeros() - 3
    }

    /// Bits of a hash that choose the partition.
    pub const fn partition_bits(&self) -> u32 {
        self.partitions.trailing_zeros()
    }

    /// Values longer than this are stored in extents.
    pub const fn inline_value_max(&self) -> usize {
        self.frame_bytes as usize / 4
    }
}

/// Slots of the feed beside a hot tier.
fn feed_slots(hot_bytes: u64) -> u32 {
    let slots = hot_bytes / FEED_SHARE / FEED_SLOT_BYTES as u64;
    let slots = slots.clamp(u64::from(FEED_SLOTS_MIN), u64::from(FEED_SLOTS_MAX));
    1 << slots.ilog2()
}

/// First page of the control file: written once, when the store's shared half is made.
#[repr(C)]
#[derive(Debug)]
pub struct ControlHeader {
    /// [`CONTROL_MAGIC`], stored last: a control file without it was never finished.
    pub magic: AtomicU64,
    /// [`LAYOUT_VERSION`].
    pub layout_version: AtomicU32,
    /// Sum of the sizes of the shared structs: incompatible builds refuse to share.
    pub struct_bytes: AtomicU32,
    /// The store's identity (two words).
    pub store_id: [AtomicU64; 2],
    /// The kernel's boot identity (two words).
    pub boot_id: [AtomicU64; 2],
    /// This shared half's own identity (two words), which the superblock names.
    pub memory_id: [AtomicU64; 2],
    /// Device of the file `store`.
    pub device: AtomicU64,
    /// Inode of the file `store`.
    pub inode: AtomicU64,
    /// Geometry, as computed by whoever made this.
    pub frame_bytes: AtomicU32,
    /// See [`Geometry`].
    pub hot_frames: AtomicU32,
    /// See [`Geometry`].
    pub warm_frames: AtomicU32,
    /// See [`Geometry`].
    pub cold_frames: AtomicU32,
    /// See [`Geometry`].
    pub slots: AtomicU32,
    /// See [`Geometry`].
    pub partitions: AtomicU32,
    /// See [`Geometry`].
    pub participants: AtomicU32,
    /// See [`Geometry`].
    pub feed_slots: AtomicU32,
    /// Store clock = boot clock + this, in milliseconds.
    pub clock_offset_ms: AtomicI64,
    /// Seed of the key hash.
    pub hash_seed: AtomicU64,
}

/// Words that writers share, each group on cache lines of its own.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Globals {
    /// The next sequence number to give out.
    pub next_sequence: AtomicU64,
    /// The last sequence number that the flush under way makes durable; `u64::MAX` while none is, or it is not known yet. Here, because who waits
    /// for a flush has just taken a number.
    pub flush_noted: AtomicU64,
    _pad0: [u64; 6],
    /// Everything up to this sequence number is durable.
    pub watermark: AtomicU64,
    /// Futex: changes with every watermark.
    pub watermark_wakes: AtomicU32,
    /// Futex: changes with every request to flush.
    pub flush_wakes: AtomicU32,
    /// The greatest sequence number that someone waits to be durable.
    pub flush_wanted: AtomicU64,
    /// The watermark that the durable tier itself records.
    pub watermark_recorded: AtomicU64,
    /// Flushes completed.
    pub flush_count: AtomicU64,
    /// Errno of the failed sync that ended writing, or 0.
    pub writes_stopped: AtomicU32,
    /// [`crate::options::Durability`] as a number.
    pub durability: AtomicU32,
    /// [`crate::options::WhenFull`] as a number.
    pub when_full: AtomicU32,
    /// Extents that were given up before they were written, since a watermark was last recorded that covers their records.
    pub extents_unwritten: AtomicU32,
    /// Guards the free lists and the slots' transitions from and to FREE.
    pub pool_lock: SharedLock,
    /// Guards the index arena.
    pub arena_lock: SharedLock,
    /// Held by whoever makes room (evicts, compacts).
    pub room_lock: SharedLock,
    /// Lease of the flusher.
    pub flush_lease: SharedLock,
    /// Lease of the maintenance duties.
    pub keeper_lease: SharedLock,
    /// Held by whoever writes a checkpoint or a snapshot.
    pub checkpoint_lock: SharedLock,
    /// Held by whoever takes a snapshot. Meanwhile deletes leave tombstones, and slots that the snapshot needs are not freed.
    pub snapshot_lock: SharedLock,
    /// Dead participants whose slots were used again before what they held was released: it is nobody's until the keeper comes by.
    pub buried: AtomicU32,
    /// Counter of segment identities.
    pub next_segment: AtomicU64,
    /// Free hot frames on the stack.
    pub free_hot: AtomicU32,
    /// Free cold frames on the stack.
    pub free_cold: AtomicU32,
    /// Frames that hold index tables.
    pub index_frames: AtomicU32,
    /// Where the next search for a free slot begins.
    pub slot_cursor: AtomicU32,
    /// Where the next search of the arena begins: index of the frame in the list.
    pub arena_cursor: AtomicU32,
    /// Fresh heads in use.
    pub fresh_heads: AtomicU32,
    /// TTL classes in use.
    pub ttl_heads: AtomicU32,
    /// Epoch of the window in which two reads of a cold record promote it (six bits are used).
    pub cold_epoch: AtomicU32,
    /// Records with a sequence number above this are newer than the last checkpoint.
    pub checkpoint_sequence: AtomicU64,
    /// Bytes appended to the log when the last checkpoint began.
    pub checkpoint_log_bytes: AtomicU64,
    /// Bytes appended by users' writes.
    pub log_bytes: AtomicU64,
    /// Bytes written to the cold tier.
    pub cold_written_bytes: AtomicU64,
    /// Bytes read from cold records within the current cold epoch.
    pub cold_epoch_bytes: AtomicU64,
    /// Guards the table of named locks.
    pub names_lock: SharedLock,
    /// Futex: changes whenever a named lock is released.
    pub names_wakes: AtomicU32,
    /// Hot frames that were ever in use: frames from here on are untouched.
    pub hot_high_water: AtomicU32,
    /// Huge pages of the hot file that the kernel was asked for.
    pub huge_pages: AtomicU32,
    /// When the last flush ended (store clock).
    pub flushed_at_ms: AtomicU64,
    /// Number of the latest snapshot: says whether a slot's [`Segment::snapshot_copied`] is of this one.
    pub snapshot_number: AtomicU64,
    /// Segments numbered from here on were opened after the moment that the snapshot shows; `u64::MAX` while that lies ahead.
    pub snapshot_end: AtomicU64,
    /// The greatest sequence number in any freed segment of the log: up to it, numbers may rightly be gone.
    pub freed_sequence: AtomicU64,
    /// A hot frame that is being taken from its slot, while it is not known yet whether someone pins it: slot plus one, then frame, 32
    /// bits each; 0 = none. Under the pool lock.
    pub unplaced: AtomicU64,
    /// A segment that is being given another durable frame: its slot plus one, then the slot that holds the other frame, 32 bits
    /// each; 0 = none. Under the pool lock.
    pub moving: AtomicU64,
    /// The frame that it moves from.
    pub moving_from: AtomicU32,
    /// Free warm frames on the stack.
    pub free_warm: AtomicU32,
    /// Beginnings and ends of writes to the cold tier, counted. Looked at only where there is a warm tier too: then most flushes need not sync
    /// the cold one.
    pub cold_writes: AtomicU32,
    /// What `cold_writes` was before the last sync of the cold tier that succeeded.
    pub cold_writes_synced: AtomicU32,
    /// Bytes written to the warm tier.
    pub warm_written_bytes: AtomicU64,
    /// The open segments.
    pub heads: [Head; HEADS],
    /// Whether there may be keys that begin with [`crate::KEY_MARK`], see `marked`.
    pub marked_keys: AtomicU64,
    /// Observers of the feed of changes, see `feed`. Read for each change, and so on a line that is hardly ever written.
    pub observers: AtomicU32,
    /// Held by who counts them.
    pub observers_lock: SharedLock,
    /// Hot frames that are left free, because the hot tier may not be used whole.
    pub hot_withheld: AtomicU32,
}

impl Globals {
    /// All locks but those of the heads.
    pub fn locks(&self) -> [&SharedLock; 9] {
        [
            &self.pool_lock,
            &self.arena_lock,
            &self.room_lock,
            &self.flush_lease,
            &self.keeper_lease,
            &self.checkpoint_lock,
            &self.snapshot_lock,
            &self.names_lock,
            &self.observers_lock,
        ]
    }
}

/// Named locks that may be held at once.
pub const NAMED_LOCKS: usize = 1024;

/// A named lock: who holds which name.
#[repr(C)]
#[derive(Debug)]
pub struct NamedLock {
    /// 128-bit hash of the name.
    pub name: [AtomicU64; 2],
    /// Incarnation of the participant that holds it, 0 = free.
    pub incarnation: AtomicU64,
    /// Differs for every acquisition.
    pub token: AtomicU64,
}

/// An open segment that records are appended to.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Head {
    /// Guards the tail of the open segment.
    pub lock: SharedLock,
    /// Slot of the open segment plus one, or 0.
    pub slot_plus_one: AtomicU32,
}

/// One slot of the segment table.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct Segment {
    /// Where the bytes are, see [`Place`].
    pub place: AtomicU64,
    /// Identity: counter << [`SLOT_BITS`] | slot. Never repeats.
    pub segment_id: AtomicU64,
    /// One of [`state`].
    pub state: AtomicU32,
    /// One of [`class`].
    pub class: AtomicU32,
    /// Participant that opened it.
    pub owner: AtomicU32,
    /// Bytes reserved so far, the header included.
    pub tail: AtomicU32,
    /// Bytes that the cold frame holds.
    pub flushed: AtomicU32,
    /// Bytes of records that the index points to. A hint: a crash may leave it a little off.
    pub live_bytes: AtomicU32,
    /// When the next of its records expires (store clock), `u64::MAX` = none.
    pub next_expiry_ms: AtomicU64,
    /// When the last of its records expires, 0 = none has an expiry.
    pub last_expiry_ms: AtomicU64,
    /// Smallest sequence number in it.
    pub sequence_min: AtomicU64,
    /// Greatest sequence number in it.
    pub sequence_max: AtomicU64,
    /// `next_sequence` when it was retired.
    pub retired_sequence: AtomicU64,
    /// `flush_count` when it was retired.
    pub retired_flush: AtomicU64,
    /// Which part of a large value this is.
    pub part: AtomicU32,
    /// Of how many.
    pub parts: AtomicU32,
    /// Hash of the key whose value this is a part of.
    pub key_hash: AtomicU64,
    /// Everything in it that expires up to this moment was removed (store clock).
    pub expired_until_ms: AtomicU64,
    /// Number of the last snapshot that has no need of this slot any more.
    pub snapshot_copied: AtomicU64,
    /// Bytes of tombstones in it. A hint, like `live_bytes`: it weighs what must be copied on until a checkpoint covers it.
    pub tombstone_bytes: AtomicU32,
    _pad: u32,
}

/// State of an index partition.
#[repr(C)]
#[derive(Debug)]
pub struct Partition {
    /// Writers exclude each other.
    pub lock: SharedLock,
    /// Entries that point to records.
    pub count: AtomicU32,
    /// A table allocated but not published yet (a directory word), so that the arena can be recomputed.
    pub pending_table: AtomicU64,
    /// Address of a record reserved but not published yet, 0 = none: whoever inherits the lock completes or abandons it.
    pub in_flight: AtomicU64,
    /// Keys that came and went, counted: who found a key absent, and finds it absent again, knows by it whether it can have been there in between.
    pub moves: AtomicU64,
}

/// States of a participant slot.
pub mod participant_state {
    /// Nobody's, and holds nothing.
    pub const FREE: u32 = 0;
    /// Taken; alive while its byte of the lock file is locked.
    pub const ACTIVE: u32 = 1;
}

/// Counters that a participant keeps for itself; the store's statistics are their sums.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Counters {
    /// Reads that found their key.
    pub hits: AtomicU64,
    /// Reads that did not.
    pub misses: AtomicU64,
    /// Values stored.
    pub sets: AtomicU64,
    /// Keys deleted.
    pub deletes: AtomicU64,
    /// Records dropped to make room.
    pub evicted: AtomicU64,
    /// Records removed because they expired.
    pub expired: AtomicU64,
    /// Cold records copied to the hot tier.
    pub promoted: AtomicU64,
    /// Segments whose hot frame was given up.
    pub demoted_segments: AtomicU64,
    /// Bytes that compaction copied.
    pub compacted_bytes: AtomicU64,
    /// Reads that went to the cold tier.
    pub cold_reads: AtomicU64,
    /// Reads that were served from the warm tier.
    pub warm_reads: AtomicU64,
    /// Bytes of records that they read.
    pub warm_read_bytes: AtomicU64,
    /// Reads that had to start over because something moved under them.
    pub retries: AtomicU64,
    /// Locks taken over from the dead.
    pub inherited_locks: AtomicU64,
}

/// First page of a participant; the pin bitmap follows at [`PINS_OFFSET`].
#[repr(C)]
#[derive(Debug)]
pub struct Participant {
    /// One of [`participant_state`].
    pub state: AtomicU32,
    /// Process.
    pub pid: AtomicU32,
    /// 1 = may only read.
    pub read_only: AtomicU32,
    /// How many observers of the feed it has.
    pub observers: AtomicU32,
    /// Differs for every use of the slot.
    pub incarnation: AtomicU64,
    /// When it attached (store clock).
    pub attached_ms: AtomicU64,
    /// How many of its observers need not be told what it does itself.
    pub observers_of_others: AtomicU32,
    _pad1: [u32; 7],
    /// See [`Counters`].
    pub counters: Counters,
}

/// Offset of the pin bitmap in a participant's pages: one bit a slot of the segment table.
pub const PINS_OFFSET: usize = 512;

/// A partition's table, as its directory word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Offset in the hot pool, in cache lines.
    pub line: u64,
    /// Buckets; 0 = no table yet.
    pub buckets: u32,
    /// Differs from the table before.
    pub version: u16,
}

impl Table {
    /// As stored.
    #[inline]
    pub const fn pack(self) -> u64 {
        self.line << 30 | (self.buckets as u64) << 16 | self.version as u64
    }

    /// From a stored word.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "each field takes its own bits")]
    pub const fn unpack(word: u64) -> Self {
        Self { line: word >> 30, buckets: (word >> 16) as u32 & BUCKETS_MAX, version: word as u16 }
    }
}

/// Where a segment's bytes are: one word, so that it changes in one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Hot frame.
    pub hot: Option<u32>,
    /// Durable frame: of the warm tier, or of the cold one.
    pub cold: Option<u32>,
    /// Changes whenever the word does.
    pub generation: u16,
}

impl Place {
    /// As stored.
    #[inline]
    pub const fn pack(self) -> u64 {
        let hot = match self.hot {
            Some(frame) => frame as u64 + 1,
            None => 0,
        };
        let cold = match self.cold {
            Some(frame) => frame as u64 + 1,
            None => 0,
        };
        hot | cold << 24 | (self.generation as u64) << 48
    }

    /// From a stored word.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "each field takes its own bits")]
    pub const fn unpack(word: u64) -> Self {
        let hot = (word & 0xff_ffff) as u32;
        let cold = (word >> 24 & 0xff_ffff) as u32;
        Self {
            hot: if hot == 0 { None } else { Some(hot - 1) },
            cold: if cold == 0 { None } else { Some(cold - 1) },
            generation: (word >> 48) as u16,
        }
    }

    /// The same with other frames, in the next generation.
    #[inline]
    pub const fn moved(self, hot: Option<u32>, cold: Option<u32>) -> Self {
        Self { hot, cold, generation: self.generation.wrapping_add(1) }
    }
}

/// Sum of the sizes of the shared structs, stamped into the control header.
pub const STRUCT_BYTES: u32 = (size_of::<ControlHeader>()
    + size_of::<Globals>()
    + size_of::<Segment>()
    + size_of::<Partition>()
    + size_of::<NamedLock>()
    + size_of::<Participant>()
    + FEED_HEADER_BYTES
    + FEED_SLOT_BYTES) as u32;

const _: () = {
    assert!(size_of::<ControlHeader>() <= PAGE_BYTES);
    assert!(size_of::<Globals>() <= PAGE_BYTES);
    assert!(size_of::<Segment>() == 128);
    assert!(size_of::<Partition>() == 32);
    assert!(size_of::<Head>() == 64);
    assert!(size_of::<NamedLock>() == 32 && (NAMED_LOCKS * 32).is_multiple_of(PAGE_BYTES));
    assert!(size_of::<Participant>() <= PINS_OFFSET);
    // The word that each change reads shares its line with words that are hardly ever written.
    assert!(std::mem::offset_of!(Globals, observers) / 64 == std::mem::offset_of!(Globals, marked_keys) / 64);
    assert!(size_of::<AtomicU8>() == 1 && size_of::<AtomicU16>() == 2);
    // A slot and an offset fit an address with every frame size from 1 MiB on.
    assert!(SLOT_BITS + 17 < ADDRESS_BITS && ADDRESS_BITS + 24 == 64);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_back() {
        for (hot, cold) in
            [(None, None), (Some(0), None), (None, Some(7)), (Some(0xff_fffd), Some(0xff_fffd))]
        {
            let place = Place { hot, cold, generation: 65_535 };
            assert_eq!(Place::unpack(place.pack()), place);
            assert_eq!(place.moved(cold, hot).generation, 0);
        }
    }

    #[test]
    fn hot_bytes_bound_all_of_shared_memory() {
        let tiers = |hot, warm, cold| TierBytes { hot, warm, cold };
        for (tiers, frame) in [
            (tiers(16 << 20, 0, 0), 1 << 20),
            (tiers(256 << 20, 64 << 20, 1 << 30), 1 << 20),
            (tiers(4 << 30, 16 << 30, 64 << 30), 8 << 20),
        ] {
            let hot = tiers.hot;
            let geometry = Geometry::of(tiers, frame, 64).unwrap();
            let used = geometry.control_bytes() as u64 + geometry.hot_file_bytes() as u64;
            assert!(used <= hot && used + 2 * u64::from(frame) > hot, "{geometry:?} uses {used}");
        }
        assert!(Geometry::of(tiers(1 << 20, 0, 0), 1 << 20, 64).is_none());
        assert!(Geometry::of(tiers(1 << 20, 0, 1 << 60), 1 << 20, 64).is_none());
        assert!(Geometry::of(tiers(1 << 20, u64::MAX, 1 << 60), 1 << 20, 64).is_none());
    }
}
