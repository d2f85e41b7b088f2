//! Going through a segment record by record: which of them are alive, and what becomes of each.
//!
//! Whoever empties a segment (eviction, demotion, compaction, expiry) holds the room lock, so that a segment that is being walked is neither
//! reused nor emptied by another. A record is alive exactly if, under the lock of its key's partition, the key's entry leads to it: directly, or
//! to a cache copy whose link is its address. A transaction that is not decided holds its partitions, so there none is half done.
//!
//! Moving a record: append a copy with its own sequence number and checksum, commit it, then store the entry (of a cached one: the copy's
//! link). Death in between leaves a copy that nothing refers to. A segment is retired only after a pass that left nothing alive in it, and
//! after what must outlive it was carried along: tombstones, and expiries, that no checkpoint covers yet.
//!
//! Rejected: trusting the count of live bytes. It is a hint that a crash may leave wrong, and a retired segment that is still referred
//! to would be read as something else.

use crate::background::give_way_at;
use crate::crash::crash_point;
use crate::engine::{Engine, PartitionGuard};
use crate::error::Result;
use crate::feed::ChangeKind;
use crate::index::{ACCESS_MAX, ADDRESS_MASK, EntryRef, entry};
use crate::layout::{
    OLD_SURVIVOR_HEAD_FIRST, OLD_SURVIVOR_HEADS, Place, SEGMENT_HEADER_BYTES, SURVIVOR_HEAD, class, state,
};
use crate::log::{Reserved, Sequence};
use crate::record::{self, Draft, LINK_OFFSET, Parsed, Word0, flag, kind};
use crate::segment::{Purpose, Room};
use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

/// How far ahead of the record at hand index lines are fetched.
const PREFETCH_AHEAD: usize = 8;
/// How often a record that a living writer is at is looked at again before the segment is left alone.
const SETTLE_PASSES_MAX: u32 = 200;

/// A record with a key, found in a segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item {
    pub offset: u32,
    pub total: u32,
    pub hash: u64,
}

/// A segment's records, all of them whole and intact.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    pub slot: u32,
    pub segment_id: u64,
    pub class: u32,
    pub bytes: Cow<'a, [u8]>,
    pub items: Vec<Item>,
    /// Closed, and no record in it is still being written.
    pub is_complete: bool,
    /// Whether a living writer is still at some of it.
    pub has_unwritten: bool,
    /// When the next of the records that were not listed expires.
    pub next_expiry_ms: u64,
    wanted: Wanted,
}

/// Which records a walk lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All with a key, each verified.
    All,
    /// Those that expire after one moment and not after another.
    Due { after_ms: u64, until_ms: u64 },
}

/// A record that is alive.
#[derive(Debug)]
pub(crate) struct Live<'r> {
    pub record: Parsed<'r>,
    /// Its entry's access byte.
    pub access: u8,
    /// Whether the entry leads to a cache copy of it.
    pub is_cached: bool,
}

impl Live<'_> {
    /// Reads counted since the record was last moved.
    pub(crate) fn count(&self) -> u8 {
        self.access & ACCESS_MAX
    }

    /// Whether its value is in extents.
    pub(crate) fn is_large(&self) -> bool {
        self.record.word.base_kind() == kind::LARGE
    }
}

/// What becomes of a live record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It stays where it is.
    Stay,
    /// It is dropped to make room.
    Evict { leave_ghost: bool },
    /// It is appended to the survivors; the entry's access byte becomes this.
    Survive(u8),
    /// The same, but where there is no room for it, it is dropped.
    SurviveOrEvict(u8),
    /// A copy goes to the cache segments; the entry's access byte becomes this.
    Cache(u8),
    /// Of a cache copy: the entry leads to its home again.
    Home,
}

/// What a pass came to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Live records that stayed.
    pub stayed: u64,
    /// Bytes of copies made.
    pub copied_bytes: u64,
    /// Extents given up.
    pub extents: usize,
    /// Records that had expired.
    pub expired: u64,
    /// Ended early: for want of this, or because it was told to (`None`).
    pub stopped: Option<Option<Room>>,
}

impl Tally {
    /// Whether nothing alive is left behind.
    pub(crate) fn is_emptied(&self) -> bool {
        self.stayed == 0 && self.stopped.is_none()
    }
}

impl Engine {
    /// The records of a segment. `None` where it can't be emptied now: a living writer is at it, or it is damaged. Of an open segment,
    /// the records that are whole. The caller holds the room lock.
    pub(crate) fn walk(&self, slot: u32, wanted: Wanted) -> Result<Option<Walk<'_>>> {
        let segment = self.segment(slot);
        let is_open = match segment.state.load(Ordering::Acquire) {
            state::OPEN => true,
            state::CLOSED => false,
            _ => return Ok(None),
        };
        let frame_bytes = self.geometry.frame_bytes as usize;
        let tail = segment.tail.load(Ordering::Acquire) as usize;
        if !(SEGMENT_HEADER_BYTES..=frame_bytes).contains(&tail) {
            return Ok(None);
        }
        let place = Place::unpack(segment.place.load(Ordering::Acquire));
        let mut walk = Walk {
            slot,
            segment_id: segment.segment_id.load(Ordering::Acquire),
            class: segment.class.load(Ordering::Relaxed),
            bytes: Cow::Borrowed(&[]),
            items: Vec::new(),
            is_complete: !is_open,
            has_unwritten: false,
            next_expiry_ms: u64::MAX,
            wanted,
        };
        let is_whole = if let Some(base) = self.hot_base(place) {
            // SAFETY: the tail was checked against the frame, which the room lock keeps from being reused. Space that a writer is
            // still at is not looked at.
            walk.bytes = Cow::Borrowed(unsafe { std::slice::from_raw_parts(base, tail) });
            self.walk_hot(&mut walk, base, tail, is_open)
        } else if let (Some(durable), Some(frame)) = (&self.durable, place.cold) {
            if segment.flushed.load(Ordering::Acquire) as usize != tail {
                return Ok(None);
            }
            walk.bytes = match durable.warm_base(frame) {
                // SAFETY: the tail was checked against the frame, and no byte that was flushed changes; the room lock keeps the frame.
                Some(base) => Cow::Borrowed(unsafe { std::slice::from_raw_parts(base, tail) }),
                None => {
                    let mut bytes = vec![0_u8; tail];
                    match durable.read_at(frame, 0, &mut bytes) {
                        Ok(()) => {}
                        // Damaged like any other, so it is left where it is: one bad sector must not end the making of room.
                        Err(error) if error.is_device_failure() => return Ok(None),
                        Err(error) => return Err(error),
                    }
                    Cow::Owned(bytes)
                }
            };
            self.walk_cold(&mut walk, tail)
        } else {
            false
        };
        Ok(is_whole.then_some(walk))
    }

    fn walk_hot(&self, walk: &mut Walk<'_>, base: *mut u8, tail: usize, is_open: bool) -> bool {
        let mut offset = SEGMENT_HEADER_BYTES;
        let mut has_holes = false;
        let (mut passes, mut records) = (0, 0);
        while offset < tail {
            give_way_at(records);
            records += 1;
            let Some((word, total)) = self.settle(base, offset, walk.segment_id) else {
                // SAFETY: below the tail; records are 8-byte aligned.
                let word =
                    Word0::unpack(unsafe { record::word0_at(base.add(offset)) }.load(Ordering::Acquire));
                let is_being_written = matches!(word.kind(), kind::RESERVED | kind::BATCH_PENDING);
                let total = word.value_len as usize;
                if is_being_written && is_open && total >= record::HEADER_BYTES && total <= tail - offset {
                    walk.has_unwritten = true;
                    offset += total;
                    continue;
                }
                passes += 1;
                if !is_being_written || passes > SETTLE_PASSES_MAX {
                    return false;
                }
                std::thread::yield_now();
                continue;
            };
            has_holes |= word.kind() == kind::ABANDONED;
            if !self.note_item(walk, word, offset, total, tail) {
                return false;
            }
            offset += total;
        }
        if has_holes {
            // What was abandoned may have been published by a dead participant whose partitions nobody has locked since.
            self.await_whole_partitions();
        }
        offset == tail
    }

    fn walk_cold(&self, walk: &mut Walk<'_>, tail: usize) -> bool {
        let frame_bytes = self.geometry.frame_bytes as usize;
        let mut offset = SEGMENT_HEADER_BYTES;
        let mut records = 0;
        while offset < tail {
            give_way_at(records);
            records += 1;
            let Some((word, total)) =
                record::total_len(&walk.bytes[offset..], offset, frame_bytes, tail - offset)
            else {
                return false;
            };
            if !self.note_item(walk, word, offset, total, tail) {
                return false;
            }
            offset += total;
        }
        offset == tail
    }

    /// Lists a record with a key. False where its bytes are not what they should be.
    fn note_item(&self, walk: &mut Walk<'_>, word: Word0, offset: usize, total: usize, tail: usize) -> bool {
        if total == 0 || total > tail - offset {
            return false;
        }
        if !word.has_key() {
            return true;
        }
        let frame_bytes = self.geometry.frame_bytes as usize;
        if let Wanted::Due { after_ms, until_ms } = walk.wanted {
            let at = offset + record::shape(word, offset, frame_bytes).expiry_offset;
            let Some(bytes) =
                walk.bytes.get(at..at + record::EXPIRY_BYTES).filter(|_| word.has(flag::EXPIRY))
            else {
                return true;
            };
            let mut expiry = [0_u8; 8];
            expiry.copy_from_slice(bytes);
            let expiry_ms = u64::from_le_bytes(expiry);
            if expiry_ms <= after_ms || expiry_ms > until_ms {
                if expiry_ms > until_ms {
                    walk.next_expiry_ms = walk.next_expiry_ms.min(expiry_ms);
                }
                return true;
            }
        }
        let parsed = record::parse(&walk.bytes[offset..offset + total], offset, frame_bytes);
        let Some(record) = parsed.filter(|record| record.is_intact(walk.segment_id)) else { return false };
        let hash = self.hash(record.key);
        walk.items.push(Item { offset: offset as u32, total: total as u32, hash });
        true
    }

    /// Locks and unlocks every partition that somebody holds. If it is somebody dead, locking makes it whole; if it is somebody alive, it may be in the
    /// middle of that.
    fn await_whole_partitions(&self) {
        for (number, partition) in self.partitions().iter().enumerate() {
            if partition.lock.owner().is_some() {
                drop(self.lock_partition(number as u32));
            }
        }
    }

    /// A record of a walk, parsed.
    pub(crate) fn item_record<'w>(&self, walk: &'w Walk<'_>, item: Item) -> Option<Parsed<'w>> {
        let (from, to) = (item.offset as usize, (item.offset + item.total) as usize);
        record::parse(&walk.bytes[from..to], from, self.geometry.frame_bytes as usize)
    }

    /// The entry through which a record of a locked partition is alive; with the slot and link word of its cache copy, if that is how.
    fn live_entry(
        &self,
        guard: &PartitionGuard<'_>,
        tag: u64,
        address: u64,
        may_be_cached: bool,
    ) -> Option<(EntryRef<'_>, Option<(u32, &AtomicU64)>)> {
        let mut probe = self.probe(self.table(guard.number), tag);
        while let Some((place, word)) = probe.next() {
            if word & ADDRESS_MASK == address {
                return Some((place, None));
            }
            if !may_be_cached {
                continue;
            }
            if let Some((slot, link)) = self.cache_link(word & ADDRESS_MASK)
                && link.load(Ordering::Acquire) & ADDRESS_MASK == address
            {
                return Some((place, Some((slot, link))));
            }
        }
        None
    }

    /// The slot and the link word of the cache copy at an address to which a locked partition's entry leads; `None` if it is no cache copy.
    fn cache_link(&self, address: u64) -> Option<(u32, &AtomicU64)> {
        let (slot, offset) = self.split(address)?;
        let segment = self.segment(slot);
        if segment.class.load(Ordering::Relaxed) != class::CACHE {
            return None;
        }
        // A cache segment is hot until it is retired, which it is not while an entry leads into it.
        let base = self.hot_base(Place::unpack(segment.place.load(Ordering::Acquire)))?;
        if offset + record::BATCH_BYTES > self.geometry.frame_bytes as usize {
            return None;
        }
        // SAFETY: the header of an extended record lies in the frame.
        let word = Word0::unpack(unsafe { record::word0_at(base.add(offset)) }.load(Ordering::Acquire));
        // SAFETY: as above; the link is 8-byte aligned because records are and its offset is.
        (word.kind() == kind::COPY)
            .then(|| (slot, unsafe { record::word0_at(base.add(offset + LINK_OFFSET)) }))
    }

    /// Goes through the live records of a walk; `decide` says what becomes of each. Expired ones are removed without asking. Ends after
    /// giving up `extents_max` extents or more.
    pub(crate) fn pass(
        &self,
        walk: &Walk<'_>,
        extents_max: usize,
        mut decide: impl FnMut(&Live<'_>) -> Fate,
    ) -> Tally {
        let mut tally = Tally::default();
        let now_ms = self.now_ms();
        for (index, &item) in walk.items.iter().enumerate() {
            give_way_at(index);
            if let Some(ahead) = walk.items.get(index + PREFETCH_AHEAD) {
                self.prefetch_bucket(ahead.hash);
            }
            self.pass_item(walk, item, now_ms, &mut tally, &mut decide);
            if tally.stopped.is_none() && tally.extents >= extents_max && index + 1 < walk.items.len() {
                tally.stopped = Some(None);
            }
            if tally.stopped.is_some() {
                break;
            }
        }
        tally
    }

    fn pass_item(
        &self,
        walk: &Walk<'_>,
        item: Item,
        now_ms: u64,
        tally: &mut Tally,
        decide: &mut impl FnMut(&Live<'_>) -> Fate,
    ) {
        let Some(record) = self.item_record(walk, item) else { return };
        let tag = self.tag(item.hash);
        let address = self.address(walk.slot, item.offset as usize);
        let may_be_cached = walk.class != class::CACHE && self.durable.is_some();
        let guard = self.lock_partition(self.partition_of(item.hash));
        let Some((place, copy)) = self.live_entry(&guard, tag, address, may_be_cached) else { return };
        let is_expired = record.expiry_ms != 0 && record.expiry_ms <= now_ms;
        let live = Live { access: place.access().load(Ordering::Relaxed), is_cached: copy.is_some(), record };
        let fate = if record.word.base_kind() == kind::TOMBSTONE || is_expired {
            Fate::Evict { leave_ghost: false }
        } else {
            decide(&live)
        };
        match fate {
            Fate::Stay => {
                tally.stayed += 1;
                return;
            }
            Fate::Home => return self.send_home(walk, &live.record, place, tag),
            Fate::Cache(access) => {
                // Without room for a copy the record is served from where it is.
                match self.copy_to_cache(&guard, walk, item, &live, place, access, tally) {
                    Ok(()) => {}
                    Err(_) if walk.class == class::CACHE => self.send_home(walk, &live.record, place, tag),
                    Err(_) => tally.stayed += 1,
                }
                return;
            }
            Fate::Survive(access) => {
                if let Err(room) =
                    self.move_to_survivors(&guard, walk, item, &live, place, copy, access, tally)
                {
                    tally.stopped = Some(Some(room));
                }
                return;
            }
            Fate::SurviveOrEvict(access) => {
                if self.move_to_survivors(&guard, walk, item, &live, place, copy, access, tally).is_ok() {
                    return;
                }
            }
            Fate::Evict { .. } => {}
        }
        let leave_ghost = matches!(fate, Fate::Evict { leave_ghost: true });
        self.remove_live(&guard, walk, item, &live.record, place, copy, leave_ghost);
        let extents = live
            .record
            .extents(self.geometry.frame_bytes as usize)
            .map(|(_, extents)| extents)
            .unwrap_or_default();
        self.retire_extents(&extents);
        tally.extents += extents.len();
        if is_expired {
            self.note_change(&guard, ChangeKind::Expired, live.record.key, item.hash);
        } else if live.record.word.base_kind() != kind::TOMBSTONE {
            self.note_change(&guard, ChangeKind::Evicted, live.record.key, item.hash);
        }
        drop(guard);
        if is_expired {
            Self::count(&self.counters().expired, 1);
            tally.expired += 1;
        } else if live.record.word.base_kind() != kind::TOMBSTONE {
            Self::count(&self.counters().evicted, 1);
        }
    }

    /// Lets the entry of a cache copy lead to its home again.
    fn send_home(&self, walk: &Walk<'_>, record: &Parsed<'_>, place: EntryRef<'_>, tag: u64) {
        place.store(entry(tag, record.link & ADDRESS_MASK));
        place.access().store(0, Ordering::Relaxed);
        self.count_dead_bytes(walk.slot, record.total);
    }

    /// Takes a live record out of the index.
    #[allow(clippy::too_many_arguments, reason = "the state of one record of a pass")]
    fn remove_live(
        &self,
        guard: &PartitionGuard<'_>,
        walk: &Walk<'_>,
        item: Item,
        record: &Parsed<'_>,
        place: EntryRef<'_>,
        copy: Option<(u32, &AtomicU64)>,
        leave_ghost: bool,
    ) {
        let copy_offset = self.split(place.load() & ADDRESS_MASK).map_or(0, |(_, offset)| offset);
        self.remove_entry(guard, place, leave_ghost);
        crash_point!("evict.removed");
        self.count_dead_bytes(walk.slot, item.total as usize);
        if let Some((cache_slot, _)) = copy {
            let word = Word0 { kind: with_kind(record.word, kind::COPY), ..record.word };
            self.count_dead_bytes(
                cache_slot,
                record::shape(word, copy_offset, self.geometry.frame_bytes as usize).total,
            );
        } else if walk.class == class::CACHE
            && let Some((home, offset)) = self.split(record.link & ADDRESS_MASK)
        {
            let word = Word0 { kind: with_kind(record.word, kind::PUT), ..record.word };
            self.count_dead_bytes(
                home,
                record::shape(word, offset, self.geometry.frame_bytes as usize).total,
            );
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the state of one record of a pass")]
    fn move_to_survivors(
        &self,
        guard: &PartitionGuard<'_>,
        walk: &Walk<'_>,
        item: Item,
        live: &Live<'_>,
        place: EntryRef<'_>,
        copy: Option<(u32, &AtomicU64)>,
        access: u8,
        tally: &mut Tally,
    ) -> Result<(), Room> {
        let base_kind = live.record.word.base_kind();
        let head = self.head_for_survivor(guard, live.record.sequence);
        let append = |head| {
            let purpose = if head == SURVIVOR_HEAD { Purpose::Survivors } else { Purpose::Reserve };
            self.append_record(guard, walk.segment_id, &live.record, base_kind, 0, head, purpose)
        };
        let reserved = append(head).or_else(|_| {
            // Where no frame is left for another class, what is open takes it, and at last the head that may have the last frame.
            (OLD_SURVIVOR_HEAD_FIRST..OLD_SURVIVOR_HEAD_FIRST + OLD_SURVIVOR_HEADS)
                .filter(|&other| other != head && self.open_slot(other).is_some())
                .find_map(|other| append(other).ok())
                .map_or_else(|| append(SURVIVOR_HEAD), Ok)
        })?;
        let address = self.address(reserved.slot, reserved.offset);
        match copy {
            Some((_, link)) => link.store(address, Ordering::Release),
            None => {
                place.store(entry(self.tag(item.hash), address));
                place.access().store(access, Ordering::Relaxed);
            }
        }
        crash_point!("survivor.published");
        self.count_live(reserved.slot, reserved.total, live.record.expiry_ms);
        guard.partition.in_flight.store(0, Ordering::Release);
        self.count_dead_bytes(walk.slot, item.total as usize);
        tally.copied_bytes += reserved.total as u64;
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "the state of one record of a pass")]
    fn copy_to_cache(
        &self,
        guard: &PartitionGuard<'_>,
        walk: &Walk<'_>,
        item: Item,
        live: &Live<'_>,
        place: EntryRef<'_>,
        access: u8,
        tally: &mut Tally,
    ) -> Result<(), Room> {
        let is_copy = walk.class == class::CACHE;
        let home = if is_copy {
            live.record.link & ADDRESS_MASK
        } else {
            self.address(walk.slot, item.offset as usize)
        };
        let total = self.publish_cache_copy(
            guard,
            walk.segment_id,
            &live.record,
            home,
            place,
            self.tag(item.hash),
            Purpose::Reserve,
        )?;
        place.access().store(access, Ordering::Relaxed);
        if is_copy {
            self.count_dead_bytes(walk.slot, item.total as usize);
        }
        tally.copied_bytes += total as u64;
        Ok(())
    }

    /// Appends a cache copy of a live record and lets its entry lead to the copy. Returns the copy's bytes.
    #[allow(clippy::too_many_arguments, reason = "what a copy consists of")]
    pub(crate) fn publish_cache_copy(
        &self,
        guard: &PartitionGuard<'_>,
        segment_id: u64,
        record: &Parsed<'_>,
        home: u64,
        place: EntryRef<'_>,
        tag: u64,
        purpose: Purpose,
    ) -> Result<usize, Room> {
        let reserved = self.append_record(
            guard,
            segment_id,
            record,
            kind::COPY,
            home,
            crate::layout::CACHE_HEAD,
            purpose,
        )?;
        place.store(entry(tag, self.address(reserved.slot, reserved.offset)));
        crash_point!("cache.published");
        self.count_live(reserved.slot, reserved.total, record.expiry_ms);
        guard.partition.in_flight.store(0, Ordering::Release);
        Ok(reserved.total)
    }

    /// Appends and commits a copy of a record, with its own sequence number and checksum; the caller publishes it.
    #[allow(clippy::too_many_arguments, reason = "what a copy consists of")]
    fn append_record(
        &self,
        guard: &PartitionGuard<'_>,
        segment_id: u64,
        record: &Parsed<'_>,
        new_kind: u8,
        link: u64,
        head: u32,
        purpose: Purpose,
    ) -> Result<Reserved, Room> {
        let word = Word0 { kind: with_kind(record.word, new_kind), ..record.word };
        let draft = Draft {
            word,
            expiry_ms: record.expiry_ms,
            client_flags: record.client_flags,
            link,
            batch_offset: 0,
            key: record.key,
            payload: record.payload,
        };
        let reserved = self.reserve(head, self.total_at(word), Sequence::Kept(record.sequence), purpose)?;
        guard.partition.in_flight.store(self.address(reserved.slot, reserved.offset), Ordering::Release);
        crash_point!("survivor.reserved");
        // The checksum travels with the bytes instead of being made anew: damage on the way would show.
        self.fill(&reserved, &draft, record.stored_crc ^ record::checksum_mask(segment_id));
        crash_point!("survivor.committed");
        Ok(reserved)
    }

    /// Appends again what a replay of the log will need though no entry leads to it: tombstones, and records whose
    /// expiry removed them, that are newer than `covered`.
    pub(crate) fn carry(&self, walk: &Walk<'_>, covered: u64) -> Result<u64, Room> {
        if self.durable.is_none() || walk.class == class::CACHE {
            return Ok(0);
        }
        let now_ms = self.now_ms();
        let mut carried_bytes = 0;
        for &item in &walk.items {
            let Some(record) = self.item_record(walk, item) else { continue };
            let is_tombstone = record.word.base_kind() == kind::TOMBSTONE;
            let is_expired = record.expiry_ms != 0 && record.expiry_ms <= now_ms;
            if record.sequence <= covered || !(is_tombstone || is_expired) {
                continue;
            }
            let draft = Draft::tombstone(record.key);
            let total_at = self.total_at(draft.word);
            let reserved =
                self.reserve(SURVIVOR_HEAD, total_at, Sequence::Kept(record.sequence), Purpose::Survivors)?;
            self.fill(&reserved, &draft, draft.checksum(record.sequence));
            self.segment(reserved.slot).tombstone_bytes.fetch_add(reserved.total as u32, Ordering::Relaxed);
            carried_bytes += reserved.total as u64;
        }
        Ok(carried_bytes)
    }

    /// Bytes of a walk's live records by access count, as far as a look without locks tells.
    pub(crate) fn weigh(&self, walk: &Walk<'_>) -> [u64; ACCESS_MAX as usize + 1] {
        let mut bytes = [0; ACCESS_MAX as usize + 1];
        for (index, item) in walk.items.iter().enumerate() {
            give_way_at(index);
            if let Some(ahead) = walk.items.get(index + PREFETCH_AHEAD) {
                self.prefetch_bucket(ahead.hash);
            }
            let address = self.address(walk.slot, item.offset as usize);
            let mut probe = self.probe(self.table(self.partition_of(item.hash)), self.tag(item.hash));
            while let Some((place, word)) = probe.next() {
                if word & ADDRESS_MASK == address {
                    bytes[(place.access().load(Ordering::Relaxed) & ACCESS_MAX) as usize] +=
                        u64::from(item.total);
                    break;
                }
            }
        }
        bytes
    }
}

/// The kind byte of a copy: another kind, the same flags.
const fn with_kind(word: Word0, new_kind: u8) -> u8 {
    (word.kind & flag::ALL) | new_kind
}

/// Which records of a victim are kept: the more often read ones first, as far as a budget goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keep {
    /// Records read at least so often are kept.
    from_count: u8,
    /// Of those read once less, so many bytes are kept too; zero if such records were not read often enough.
    left_bytes: u64,
}

impl Keep {
    /// Keeps records read `first` times or more, at most `budget_bytes` of the live `bytes` by access count.
    pub(crate) fn new(bytes: &[u64; ACCESS_MAX as usize + 1], first: u8, budget_bytes: u64) -> Self {
        let mut keep = Self { from_count: ACCESS_MAX + 1, left_bytes: budget_bytes };
        while keep.from_count > first {
            let next = bytes[keep.from_count as usize - 1];
            if next > keep.left_bytes {
                return keep;
            }
            keep.left_bytes -= next;
            keep.from_count -= 1;
        }
        keep.left_bytes = 0;
        keep
    }

    /// Whether a record is kept.
    pub(crate) fn keeps(&mut self, count: u8, total: usize) -> bool {
        if count >= self.from_count {
            return true;
        }
        let is_kept = count + 1 == self.from_count && total as u64 <= self.left_bytes;
        if is_kept {
            self.left_bytes -= total as u64;
        }
        is_kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_read_are_kept_first_and_the_budget_holds() {
        let bytes = [1000, 100, 200, 300];
        let kept = |first, budget| {
            let mut keep = Keep::new(&bytes, first, budget);
            let counts = (0..=3_u8).flat_map(|count| vec![count; bytes[count as usize] as usize / 10]);
            counts.filter(|&count| keep.keeps(count, 10)).fold([0; 4], |mut sums, count| {
                sums[count as usize] += 10;
                sums
            })
        };
        assert_eq!(kept(1, u64::MAX), [0, 100, 200, 300]);
        assert_eq!(kept(2, 5000), [0, 0, 200, 300]);
        assert_eq!(kept(1, 600), [0, 100, 200, 300]);
        assert_eq!(kept(1, 550), [0, 50, 200, 300]);
        assert_eq!(kept(1, 400), [0, 0, 100, 300]);
        assert_eq!(kept(1, 120), [0, 0, 0, 120]);
        assert_eq!(kept(1, 0), [0; 4]);
    }

    #[test]
    fn a_copy_keeps_the_flags_that_describe_its_bytes() {
        let flags = [flag::EXPIRY, flag::ALIGNED, flag::CLIENT_FLAGS, flag::EXPIRY | flag::CLIENT_FLAGS];
        for flags in flags {
            let word = Word0 { value_len: 1, key_len: 1, kind: kind::BATCH_PUT | flags, encoding: 0 };
            assert_eq!(with_kind(word, kind::PUT), kind::PUT | flags);
        }
    }
}
