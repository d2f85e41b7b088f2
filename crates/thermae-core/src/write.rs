//! Changing a key: find it, decide, append a record, publish it.
//!
//! Everything about one key happens under its partition's lock, so conditions are decided on what is true when the record is published,
//! and sequence numbers of one key grow in the order of publication. Nothing waits under that lock: where a frame is
//! missing, or a record that must be compared lies in the cold tier, the lock is released, the room made or the record read, and
//! the update starts over.

use crate::crash::crash_point;
use crate::engine::{Engine, PartitionGuard};
use crate::error::{Error, Result};
use crate::feed::ChangeKind;
use crate::index::{ADDRESS_MASK, EntryRef, entry};
use crate::layout::{ADDRESS_MIN, Place, state};
use crate::log::{Reserved, Sequence};
use crate::read::{RecordMeta, Wanted, show_key};
use crate::record::{self, Draft, KEY_BYTES_MAX, Word0, flag, kind};
use crate::room::RoomRequest;
use crate::segment::{Purpose, Room};
use std::sync::atomic::Ordering;

/// Encodings whose values start at a multiple of 64 bytes, so that arrays can be used where they lie.
pub const ALIGNED_ENCODINGS: [u8; 2] = [7, 8];

/// Why an update must let go of its lock.
#[derive(Debug)]
pub(crate) enum Stop {
    /// There is too little of something.
    Room(Room),
    /// This entry's record is cold and must be read first.
    Cold(u64),
    /// It failed.
    Error(Error),
}

impl From<Room> for Stop {
    fn from(room: Room) -> Self {
        Self::Room(room)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// The record that a key has now.
#[derive(Debug)]
pub(crate) struct Present<'a> {
    /// Its entry's place.
    pub place: EntryRef<'a>,
    /// Its entry.
    pub entry: u64,
    /// What is known of it.
    pub meta: RecordMeta,
    /// Its first word.
    pub word: Word0,
    /// Bytes of the record.
    pub total: usize,
    /// Link of an extended record.
    pub link: u64,
    /// Whether it has expired: present in memory, absent to users.
    pub is_expired: bool,
    /// Segment identities of a large value.
    pub extents: Vec<u64>,
}

/// Cold records read while the lock was released: entry, segment identity, bytes.
pub(crate) type ColdRecords = Vec<(u64, u64, Vec<u8>)>;

/// What an update came to: sequence number and whether a visible value was replaced, if anything changed; and extents that are dead now.
type Outcome = (Option<(u64, bool)>, Vec<u64>);

/// What an update makes of a key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change<'a> {
    /// Leave it.
    Keep,
    /// Store this.
    Put(NewValue<'a>),
    /// Delete it.
    Delete,
}

/// A value to store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewValue<'a> {
    pub encoding: u8,
    pub expires_at_ms: u64,
    pub flags: u32,
    pub payload: Payload<'a>,
}

/// Where a new value's bytes are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Payload<'a> {
    /// To be written into the record.
    Inline(&'a [u8]),
    /// In extents already: value length and extent list.
    Large(u32, &'a [u8]),
}

impl Engine {
    /// Refuses keys that no record can hold.
    #[inline]
    pub(crate) fn check_key(key: &[u8]) -> Result<()> {
        if key.len() > KEY_BYTES_MAX {
            return Err(Error::InvalidKey(format!(
                "the key {} is {} bytes long; keys may have up to {KEY_BYTES_MAX} bytes: store the long part in the value, or use its hash as key",
                show_key(key),
                key.len()
            )));
        }
        Ok(())
    }

    /// Changes one key: `decide` is given its present record (`None` = absent or expired) and says what becomes of it. It may be
    /// called again when the update has to start over. Returns what it replaced and the sequence number, if anything changed.
    pub(crate) fn update_key<'a>(
        &self,
        wanted: Wanted<'_>,
        mut decide: impl FnMut(Option<&Present<'_>>) -> Result<Change<'a>>,
    ) -> Result<Option<(u64, bool)>> {
        self.check_writable()?;
        Self::check_key(wanted.key)?;
        let partition = self.partition_of(wanted.hash);
        let mut cold = ColdRecords::new();
        let mut request = RoomRequest::for_frames(1);
        loop {
            let guard = self.lock_partition(partition);
            match self.update_locked(&guard, wanted, &cold, &mut decide) {
                Ok((result, dead_extents)) => {
                    // Under the lock still: whoever inherits it retires extents that nothing refers to.
                    self.retire_extents(&dead_extents);
                    drop(guard);
                    return Ok(result);
                }
                Err(Stop::Error(error)) => return Err(error),
                Err(Stop::Cold(entry)) => {
                    drop(guard);
                    self.fetch_cold(entry, &mut cold)?;
                }
                Err(Stop::Room(room)) => {
                    drop(guard);
                    self.make_room(room, &mut request)?;
                }
            }
        }
    }

    #[inline]
    fn update_locked<'a>(
        &self,
        guard: &PartitionGuard<'_>,
        wanted: Wanted<'_>,
        cold: &ColdRecords,
        decide: &mut impl FnMut(Option<&Present<'_>>) -> Result<Change<'a>>,
    ) -> Result<Outcome, Stop> {
        let mut present = self.locate(guard, wanted, cold)?;
        let visible = present.as_ref().filter(|present| !present.is_expired);
        match decide(visible)? {
            Change::Keep => Ok((None, Vec::new())),
            Change::Put(value) => {
                let sequence = self.put_locked(guard, wanted, present.as_ref(), value)?;
                let replaced = present.as_ref().is_some_and(|present| !present.is_expired);
                Ok((
                    Some((sequence, replaced)),
                    present.take().map(|present| present.extents).unwrap_or_default(),
                ))
            }
            Change::Delete => {
                let Some(present) = present else { return Ok((None, Vec::new())) };
                let sequence = self.delete_locked(guard, wanted, &present)?;
                Ok(((!present.is_expired).then_some((sequence, true)), present.extents))
            }
        }
    }

    /// The record that a key has, in a locked partition.
    #[inline]
    pub(crate) fn locate<'a>(
        &'a self,
        guard: &PartitionGuard<'_>,
        wanted: Wanted<'_>,
        cold: &ColdRecords,
    ) -> Result<Option<Present<'a>>, Stop> {
        let mut probe = self.probe(self.table(guard.number), self.tag(wanted.hash));
        while let Some((place, entry)) = probe.next() {
            if let Some(present) = self.resolve(place, entry, wanted, cold)? {
                return Ok(Some(present));
            }
        }
        Ok(None)
    }

    /// The record of one entry, if it is the key's.
    #[inline]
    fn resolve<'a>(
        &self,
        place_ref: EntryRef<'a>,
        entry: u64,
        wanted: Wanted<'_>,
        cold: &ColdRecords,
    ) -> Result<Option<Present<'a>>, Stop> {
        let frame_bytes = self.geometry.frame_bytes as usize;
        let Some((slot, offset)) = self.split(entry & ADDRESS_MASK) else {
            return Err(Stop::Error(self.damaged(0, 0, wanted.key)));
        };
        let segment = self.segment(slot);
        loop {
            let place_word = segment.place.load(Ordering::Acquire);
            let place = Place::unpack(place_word);
            let Some(base) = self.mapped_base(place) else {
                let segment_id = segment.segment_id.load(Ordering::Acquire);
                let Some((_, _, bytes)) = cold.iter().find(|known| known.0 == entry && known.1 == segment_id)
                else {
                    return Err(Stop::Cold(entry));
                };
                let Some(record) =
                    record::parse(bytes, offset, frame_bytes).filter(|record| record.is_intact(segment_id))
                else {
                    return Err(Stop::Error(self.damaged(slot, offset, wanted.key)));
                };
                return Ok((record.key == wanted.key).then(|| self.present(place_ref, entry, &record)));
            };
            let room = frame_bytes.saturating_sub(offset);
            if room < record::HEADER_BYTES + 4 {
                return Err(Stop::Error(self.damaged(slot, offset, wanted.key)));
            }
            // SAFETY: within the frame. A demotion may take the frame away meanwhile; then the place has changed and this is done again.
            let at = unsafe { base.add(offset) };
            // SAFETY: as above.
            let head = unsafe { std::slice::from_raw_parts(at, 24) };
            let sized = record::total_len(head, offset, frame_bytes, room);
            let record = sized.and_then(|(_, total)| {
                // SAFETY: total was checked against the room.
                let bytes = unsafe { std::slice::from_raw_parts(at, total) };
                record::parse(bytes, offset, frame_bytes)
            });
            let result = record.and_then(|record| {
                if record.key == wanted.key && place.hot.is_some() {
                    return Some(Some(self.present(place_ref, entry, &record)));
                }
                // Another key's, or this key's own, damaged? What lies in persistent memory may be. And in the hot tier two keys with one tag are rare enough to make sure.
                if !record.is_intact(segment.segment_id.load(Ordering::Relaxed)) {
                    return None;
                }
                Some((record.key == wanted.key).then(|| self.present(place_ref, entry, &record)))
            });
            std::sync::atomic::fence(Ordering::Acquire);
            if segment.place.load(Ordering::Relaxed) != place_word {
                continue;
            }
            return match result {
                Some(present) => Ok(present),
                None => Err(Stop::Error(self.damaged(slot, offset, wanted.key))),
            };
        }
    }

    #[inline]
    fn present<'a>(&self, place: EntryRef<'a>, entry: u64, record: &record::Parsed<'_>) -> Present<'a> {
        let is_large = record.word.base_kind() == kind::LARGE;
        Present {
            place,
            entry,
            meta: RecordMeta {
                version: record.sequence,
                encoding: record.word.encoding,
                value_len: u64::from(record.word.value_len),
                expires_at_ms: record.expiry_ms,
                flags: record.client_flags,
            },
            word: record.word,
            total: record.total,
            link: record.link,
            is_expired: record.expiry_ms != 0 && record.expiry_ms <= self.now_ms(),
            extents: if is_large {
                record
                    .extents(self.geometry.frame_bytes as usize)
                    .map(|extents| extents.1)
                    .unwrap_or_default()
            } else {
                Vec::new()
            },
        }
    }

    /// Reads the cold record of an entry, so that the next attempt need not.
    pub(crate) fn fetch_cold(&self, entry: u64, cold: &mut ColdRecords) -> Result<()> {
        let Some((slot, offset)) = self.split(entry & ADDRESS_MASK) else { return Ok(()) };
        let segment = self.segment(slot);
        let segment_id = segment.segment_id.load(Ordering::Acquire);
        let place_word = segment.place.load(Ordering::Acquire);
        let place = Place::unpack(place_word);
        // By the frame and not by its number: a damaged one leads nowhere, and the next attempt would come back here.
        if self.hot_base(place).is_some() {
            return Ok(());
        }
        // In no tier: unless the entry has changed meanwhile, the next attempt reports that.
        let bytes = if place.cold.is_some() { self.read_cold(place, offset)? } else { None };
        std::sync::atomic::fence(Ordering::Acquire);
        if segment.place.load(Ordering::Acquire) == place_word
            && segment.segment_id.load(Ordering::Acquire) == segment_id
        {
            cold.retain(|known| known.0 != entry);
            // Bytes that are no record are kept too: the attempt that uses them reports the damage.
            cold.push((entry, segment_id, bytes.unwrap_or_default()));
        }
        Ok(())
    }

    /// Appends and publishes a value in a locked partition. Returns its sequence number.
    #[inline]
    pub(crate) fn put_locked(
        &self,
        guard: &PartitionGuard<'_>,
        wanted: Wanted<'_>,
        present: Option<&Present<'_>>,
        value: NewValue<'_>,
    ) -> Result<u64, Stop> {
        let tag = self.tag(wanted.hash);
        let vacancy = match present {
            Some(_) => None,
            None => Some(self.vacancy(guard, tag)?),
        };
        let head = if present.is_none()
            && self.durable.is_none()
            && self.take_ghost(guard, tag)
            && value.expires_at_ms == 0
        {
            crate::layout::SURVIVOR_HEAD
        } else {
            self.head_for_update(guard, value.expires_at_ms, present.map(|present| present.meta.version))
        };
        let (value_len, payload, base_kind) = match value.payload {
            Payload::Inline(bytes) => (bytes.len() as u32, bytes, kind::PUT),
            Payload::Large(len, list) => (len, list, kind::LARGE),
        };
        let word = Word0 {
            value_len,
            key_len: wanted.key.len() as u16,
            kind: base_kind
                | flag::of(value.expires_at_ms, value.flags)
                | if ALIGNED_ENCODINGS.contains(&value.encoding) && base_kind == kind::PUT {
                    flag::ALIGNED
                } else {
                    0
                },
            encoding: value.encoding,
        };
        let draft = Draft {
            word,
            expiry_ms: value.expires_at_ms,
            client_flags: value.flags,
            link: 0,
            batch_offset: 0,
            key: wanted.key,
            payload,
        };
        let reserved = self.reserve(head, self.total_at(word), Sequence::New(1), Purpose::Write)?;
        self.fill_in_flight(guard, &reserved, &draft);
        crash_point!("put.committed");
        if base_kind == kind::LARGE {
            self.adopt_extents(payload);
        }
        let address = self.address(reserved.slot, reserved.offset);
        match (present, vacancy) {
            (Some(present), _) => present.place.store(entry(tag, address)),
            (None, Some(vacancy)) => self.fill_entry(guard, vacancy, entry(tag, address)),
            (None, None) => unreachable!("an absent key was given a vacancy"),
        }
        crash_point!("put.published");
        self.note_published(wanted.key);
        if present.is_some_and(|present| present.is_expired) {
            self.note_change(guard, ChangeKind::Expired, wanted.key, wanted.hash);
        }
        self.note_change(guard, ChangeKind::Set, wanted.key, wanted.hash);
        self.count_live(reserved.slot, reserved.total, value.expires_at_ms);
        // Last: until the expiry is noted, whoever inherits the lock has something to complete.
        guard.partition.in_flight.store(0, Ordering::Release);
        if let Some(present) = present {
            self.count_dead(present);
        }
        Ok(reserved.sequence)
    }

    /// Deletes a key in a locked partition.
    pub(crate) fn delete_locked(
        &self,
        guard: &PartitionGuard<'_>,
        wanted: Wanted<'_>,
        present: &Present<'_>,
    ) -> Result<u64, Stop> {
        let mut sequence = 0;
        if self.needs_tombstones() {
            let draft = Draft::tombstone(wanted.key);
            let reserved = self.reserve_for_tombstones(self.total_at(draft.word), Sequence::New(1))?;
            self.fill_in_flight(guard, &reserved, &draft);
            sequence = reserved.sequence;
            self.segment(reserved.slot).tombstone_bytes.fetch_add(reserved.total as u32, Ordering::Relaxed);
            crash_point!("delete.committed");
        }
        self.remove_entry(guard, present.place, false);
        guard.partition.in_flight.store(0, Ordering::Release);
        crash_point!("delete.published");
        let change = if present.is_expired { ChangeKind::Expired } else { ChangeKind::Deleted };
        self.note_change(guard, change, wanted.key, wanted.hash);
        self.count_dead(present);
        Ok(sequence)
    }

    /// Writes and commits a record for a locked partition; the caller publishes it.
    #[inline]
    fn fill_in_flight(&self, guard: &PartitionGuard<'_>, reserved: &Reserved, draft: &Draft<'_>) {
        guard.partition.in_flight.store(self.address(reserved.slot, reserved.offset), Ordering::Release);
        crash_point!("append.reserved");
        self.fill(reserved, draft, draft.checksum(reserved.sequence));
    }

    /// Writes and commits a record into reserved space.
    #[inline]
    pub(crate) fn fill(&self, reserved: &Reserved, draft: &Draft<'_>, crc: u32) {
        let shape = record::shape(draft.word, reserved.offset, self.geometry.frame_bytes as usize);
        debug_assert_eq!(shape.total, reserved.total);
        // SAFETY: the reservation is this thread's alone, and as long as the shape says.
        unsafe {
            record::write_body(reserved.at, draft, &shape, reserved.sequence, crc, reserved.segment_id);
            crash_point!("append.written");
            record::commit(reserved.at, draft.word);
        }
    }

    /// Counts a published record towards its segment.
    #[inline]
    pub(crate) fn count_live(&self, slot: u32, total: usize, expires_at_ms: u64) {
        let segment = self.segment(slot);
        segment.live_bytes.fetch_add(total as u32, Ordering::Relaxed);
        self.note_expiry(slot, expires_at_ms);
    }

    /// Makes sure that a published record is removed when it expires.
    #[inline]
    pub(crate) fn note_expiry(&self, slot: u32, expires_at_ms: u64) {
        if expires_at_ms != 0 {
            let segment = self.segment(slot);
            segment.next_expiry_ms.fetch_min(expires_at_ms, Ordering::Relaxed);
            segment.last_expiry_ms.fetch_max(expires_at_ms, Ordering::Relaxed);
        }
    }

    /// Takes a record that is no longer published from its segment's count, and from its home's.
    #[inline]
    pub(crate) fn count_dead(&self, present: &Present<'_>) {
        self.count_dead_record(present.entry, present.word, present.total, present.link);
    }

    /// The same of the record that an entry led to.
    #[inline]
    pub(crate) fn count_dead_record(&self, entry: u64, word: Word0, total: usize, link: u64) {
        if let Some((slot, _)) = self.split(entry & ADDRESS_MASK) {
            self.count_dead_bytes(slot, total);
        }
        if word.kind() == kind::COPY
            && link & ADDRESS_MASK >= ADDRESS_MIN
            && let Some((home, offset)) = self.split(link & ADDRESS_MASK)
        {
            let word = Word0 { kind: (word.kind & !kind::MASK) | kind::PUT, ..word };
            self.count_dead_bytes(
                home,
                record::shape(word, offset, self.geometry.frame_bytes as usize).total,
            );
        }
    }

    /// Takes bytes from a segment's live count.
    #[inline]
    pub(crate) fn count_dead_bytes(&self, slot: u32, bytes: usize) {
        let live = &self.segment(slot).live_bytes;
        let before = live.fetch_sub(bytes as u32, Ordering::Relaxed);
        if before < bytes as u32 {
            // A crash had left the count too low; it is a hint, and zero is the better one.
            live.store(0, Ordering::Relaxed);
        }
    }

    /// Makes the extents in a LARGE record's list a published value's own, so that the reaper leaves them alone. Called once the
    /// record is committed and before it is published: whoever inherits the lock completes that.
    pub(crate) fn adopt_extents(&self, list: &[u8]) {
        for chunk in list.get(8..).unwrap_or_default().chunks_exact(8) {
            let mut bytes = [0_u8; 8];
            bytes.copy_from_slice(chunk);
            if let Some(slot) = self.slot_of(u64::from_le_bytes(bytes)) {
                self.segment(slot).state.store(state::EXTENT, Ordering::Release);
            }
        }
    }

    /// Retires the extents of a large value that is no longer published.
    pub(crate) fn retire_extents(&self, extents: &[u64]) {
        for slot in extents.iter().filter_map(|&segment_id| self.slot_of(segment_id)) {
            self.retire(slot);
        }
    }
}
