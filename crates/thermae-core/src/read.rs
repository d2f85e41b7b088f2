//! Finding a record and copying it out, without a lock.
//!
//! The order of loads is the proof. Directory word D, entry E, the segment's place P, then E again: E unchanged means that at
//! that moment E was valid and P was its segment's place. Then the bytes are read, and P and D are loaded again: P unchanged
//! means that the bytes were that segment's throughout (a place word changes generation before its frame is reused), D unchanged
//! that E came from the partition's own table. Anything else starts over. So a reader may well look at garbage, but never uses it:
//! lengths are checked before they are used, and nothing is returned before the last two loads.
//!
//! Where E leads to a record of a transaction that is not decided, the record that it would replace is read, and E alone says nothing of it:
//! E stays as it is when the transaction is decided, and what was replaced is given up. There "E unchanged" means that the transaction is
//! undecided too (see [`Route`]).

use crate::batch::Member;
use crate::bucket::home_of;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::index::{ACCESS_MAX, ADDRESS_MASK, EntryRef};
use crate::layout::{ADDRESS_MIN, Place, Segment, Table};
use crate::record::{self, Parsed, Word0, flag, kind};
use crate::waiting::before_wait;
use std::sync::atomic::{Ordering, fence};

/// What is known of a value besides its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordMeta {
    /// Sequence number of the update that stored it.
    pub version: u64,
    /// How the bytes are encoded.
    pub encoding: u8,
    /// Bytes of the value.
    pub value_len: u64,
    /// When it expires (store clock), 0 = never.
    pub expires_at_ms: u64,
    /// What the client keeps beside the value, 0 = nothing. It means nothing to the engine.
    pub flags: u32,
}

/// A successful look-up.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// What was found.
    pub meta: RecordMeta,
    /// Its entry.
    pub entry: u64,
    /// Whether it was read from a lower tier for the second time within the window, so that it should be promoted.
    pub promote: bool,
}

/// First bytes read of a cold record: most records are shorter.
const COLD_READ_BYTES: usize = 4096;

/// What one attempt came to.
enum Step {
    Hit(Found),
    Miss,
    Other,
    Retry,
    /// The entry leads nowhere sensible: its table was reused under the reader, or memory is damaged.
    Nonsense,
}

/// How a look-up came to an address.
struct Route<'a> {
    /// The entry of the index, and what it was.
    place: EntryRef<'a>,
    entry: u64,
    /// Where the address is the link of a record that the entry leads to: the transaction of that.
    undecided: Option<Undecided<'a>>,
}

/// A transaction that was not decided when it was looked at.
struct Undecided<'a> {
    member: Member<'a>,
    /// Its segment, and the place of that.
    segment: &'a Segment,
    place_word: u64,
}

impl Route<'_> {
    /// Whether it still leads there: if so, what it leads to had not been given up when this was called.
    #[inline]
    fn is_current(&self) -> bool {
        self.place.load() == self.entry
            && self.undecided.as_ref().is_none_or(|transaction| {
                // What was just read is the lead only if its frame is still that segment's.
                !transaction.member.has_happened()
                    && transaction.segment.place.load(Ordering::Acquire) == transaction.place_word
            })
    }
}

/// What copying a large value came to.
enum Copied {
    Whole,
    /// An extent moved under us.
    Moved,
    /// An extent is not there.
    Gone,
}

/// A key looked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub key: &'a [u8],
    pub hash: u64,
}

impl Engine {
    /// Looks a key up. `buffer` is given what is known of the value and returns where to copy it (at least `value_len` bytes), or null
    /// not to; it may be called again when the look-up starts over.
    #[inline]
    pub(crate) fn find(
        &self,
        wanted: Wanted<'_>,
        buffer: &mut impl FnMut(&RecordMeta) -> *mut u8,
    ) -> Result<Option<Found>> {
        let partition = self.partition_of(wanted.hash) as usize;
        let tag = self.tag(wanted.hash);
        let directory = &self.directory()[partition];
        let mut retries = 0_u32;
        'again: loop {
            let word = directory.load(Ordering::Acquire);
            let mut probe = self.probe(Table::unpack(word), tag);
            let mut result = None;
            while let Some((place, entry)) = probe.next() {
                match self.examine(place, entry, &wanted, buffer)? {
                    Step::Hit(found) => {
                        result = Some((place, found));
                        break;
                    }
                    Step::Miss => break,
                    Step::Other => {}
                    Step::Retry => {
                        self.back_off(&mut retries);
                        continue 'again;
                    }
                    Step::Nonsense => {
                        fence(Ordering::Acquire);
                        if directory.load(Ordering::Relaxed) == word && place.load() == entry {
                            return Err(self.damaged_index(partition, entry, wanted.key));
                        }
                        self.back_off(&mut retries);
                        continue 'again;
                    }
                }
            }
            fence(Ordering::Acquire);
            if directory.load(Ordering::Relaxed) != word {
                self.back_off(&mut retries);
                continue;
            }
            return Ok(result.map(|(place, found)| self.note_access(place, found)));
        }
    }

    #[cold]
    fn back_off(&self, retries: &mut u32) {
        *retries += 1;
        Self::count(&self.counters().retries, 1);
        if *retries > 16 {
            before_wait();
            std::thread::yield_now();
        }
    }

    /// Counts the access in the entry's byte, unless it is saturated; decides whether a cold record is promoted.
    #[inline]
    fn note_access(&self, place: EntryRef<'_>, mut found: Found) -> Found {
        if self.read_only {
            found.promote = false;
            return found;
        }
        let access = place.access().load(Ordering::Relaxed);
        if !found.promote {
            if access & ACCESS_MAX < ACCESS_MAX {
                place.access().store(access + 1, Ordering::Relaxed);
            }
            return found;
        }
        // A hit in a lower tier: the byte's upper bits say in which epoch the last one was.
        #[allow(clippy::cast_possible_truncation, reason = "six bits of the epoch are used")]
        let epoch = (self.globals().cold_epoch.load(Ordering::Relaxed) & 63) as u8;
        let is_recent = access & ACCESS_MAX > 0 && epoch.wrapping_sub(access >> 2) & 63 <= 1;
        let count = if is_recent { (access & ACCESS_MAX).saturating_add(1).min(ACCESS_MAX) } else { 1 };
        place.access().store(epoch << 2 | count, Ordering::Relaxed);
        found.promote = is_recent;
        found
    }

    /// Looks at the record of one entry.
    #[inline]
    fn examine(
        &self,
        place_ref: EntryRef<'_>,
        entry: u64,
        wanted: &Wanted<'_>,
        buffer: &mut impl FnMut(&RecordMeta) -> *mut u8,
    ) -> Result<Step> {
        let mut address = entry & ADDRESS_MASK;
        let mut route = Route { place: place_ref, entry, undecided: None };
        // Twice at most: a record of an undecided transaction leads to the one it would replace.
        for _ in 0..2 {
            let Some((slot, offset)) = self.split(address) else { return Ok(Step::Nonsense) };
            let segment = self.segment(slot);
            let place_word = segment.place.load(Ordering::Acquire);
            if !route.is_current() {
                return Ok(Step::Retry);
            }
            let place = Place::unpack(place_word);
            let Some(base) = self.mapped_base(place) else {
                return self.examine_cold(&route, address, place_word, wanted, buffer);
            };
            // What lies in persistent memory may have been damaged while nobody ran.
            let verifies = self.verify_reads || place.hot.is_none();
            let frame_bytes = self.geometry.frame_bytes as usize;
            if offset + record::HEADER_BYTES > frame_bytes {
                return Ok(Step::Nonsense);
            }
            // SAFETY: within the frame, and records are 8-byte aligned (addresses count in units of 8).
            let at = unsafe { base.add(offset) };
            // The header says how long the record is, but waiting for it before asking for the rest would cost a second cache miss.
            prefetch(at.wrapping_add(64));
            prefetch(at.wrapping_add(128));
            // SAFETY: as above.
            let word = Word0::unpack(unsafe { record::word0_at(at) }.load(Ordering::Acquire));
            if word.is_in_batch() {
                let member = self.batch_member(base, offset);
                if !member.is_some_and(|member| member.has_happened()) {
                    let is_locked =
                        self.partitions()[self.partition_of(wanted.hash) as usize].lock.owner().is_some();
                    fence(Ordering::Acquire);
                    if member.is_some_and(|member| member.has_happened())
                        || !route.is_current()
                        || segment.place.load(Ordering::Acquire) != place_word
                    {
                        return Ok(Step::Retry);
                    }
                    // Only while its partitions are locked is a transaction undecided.
                    let (Some(member), true) = (member, is_locked) else {
                        return Err(self.damaged(slot, offset, wanted.key));
                    };
                    if member.link & ADDRESS_MASK < ADDRESS_MIN {
                        // It replaces nothing; but its key may be another's with the same tag.
                        return Ok(Step::Other);
                    }
                    address = member.link & ADDRESS_MASK;
                    route.undecided = Some(Undecided { member, segment, place_word });
                    continue;
                }
            }
            let shape = record::shape(word, offset, frame_bytes);
            let is_sane = word.has_key() && offset + shape.total <= frame_bytes;
            // SAFETY: only used when sane: within the frame. The bytes may change under us; then the place has changed and all is discarded.
            let key_matches = is_sane
                && word.key_len as usize == wanted.key.len()
                && unsafe { std::slice::from_raw_parts(at.add(shape.key_offset), wanted.key.len()) }
                    == wanted.key;
            if !key_matches {
                // Two keys with one tag are rare enough to make sure that this is not the wanted key's own record, damaged.
                let is_intact = !is_sane || !verifies || self.is_intact_at(at, offset, shape.total, segment);
                fence(Ordering::Acquire);
                if segment.place.load(Ordering::Relaxed) != place_word {
                    return Ok(Step::Retry);
                }
                if !is_intact {
                    return Err(self.damaged(slot, offset, wanted.key));
                }
                return Ok(if is_sane { Step::Other } else { Step::Nonsense });
            }
            // SAFETY: as above; these fields lie before the key.
            let (sequence, stored_crc, expires_at_ms, flags) = unsafe {
                let expiry = if word.has(flag::EXPIRY) {
                    u64::from_le(at.add(shape.expiry_offset).cast::<u64>().read_unaligned())
                } else {
                    0
                };
                let flags = if word.has(flag::CLIENT_FLAGS) {
                    u32::from_le(at.add(shape.client_flags_offset).cast::<u32>().read_unaligned())
                } else {
                    0
                };
                (
                    u64::from_le(at.add(8).cast::<u64>().read_unaligned()),
                    u32::from_le(at.add(16).cast::<u32>().read_unaligned()),
                    expiry,
                    flags,
                )
            };
            let meta = RecordMeta {
                version: sequence,
                encoding: word.encoding,
                value_len: u64::from(word.value_len),
                expires_at_ms,
                flags,
            };
            if word.base_kind() != kind::PUT {
                // SAFETY: as above: the whole record lies in the frame.
                let bytes = unsafe { std::slice::from_raw_parts(at, shape.total) }.to_vec();
                let segment_id = segment.segment_id.load(Ordering::Relaxed);
                fence(Ordering::Acquire);
                if segment.place.load(Ordering::Relaxed) != place_word {
                    return Ok(Step::Retry);
                }
                return self.finish_owned(
                    &route,
                    offset,
                    &bytes,
                    segment_id,
                    wanted,
                    buffer,
                    place.hot.is_none(),
                );
            }
            if expires_at_ms != 0 && expires_at_ms <= self.now_ms() {
                let is_intact = !verifies || self.is_intact_at(at, offset, shape.total, segment);
                fence(Ordering::Acquire);
                if segment.place.load(Ordering::Relaxed) != place_word {
                    return Ok(Step::Retry);
                }
                return if is_intact { Ok(Step::Miss) } else { Err(self.damaged(slot, offset, wanted.key)) };
            }
            // The buffer may be sized from a torn header: make sure of the header before anything is allocated from it.
            fence(Ordering::Acquire);
            if segment.place.load(Ordering::Relaxed) != place_word {
                return Ok(Step::Retry);
            }
            let to = buffer(&meta);
            if !to.is_null() {
                // SAFETY: the source lies in the frame; the caller's buffer has room for value_len bytes.
                unsafe {
                    std::ptr::copy_nonoverlapping(at.add(shape.value_offset), to, word.value_len as usize);
                };
                let segment_id = segment.segment_id.load(Ordering::Relaxed);
                fence(Ordering::Acquire);
                if segment.place.load(Ordering::Relaxed) != place_word {
                    return Ok(Step::Retry);
                }
                if verifies {
                    // SAFETY: just filled.
                    let value = unsafe { std::slice::from_raw_parts(to, word.value_len as usize) };
                    let crc = record::checksum(word, sequence, expires_at_ms, flags, wanted.key, value);
                    if crc ^ record::checksum_mask(segment_id) != stored_crc {
                        return Err(self.damaged(slot, offset, wanted.key));
                    }
                }
            }
            if place.hot.is_none() {
                self.note_warm_read(shape.total);
            }
            return Ok(Step::Hit(Found { meta, entry, promote: place.hot.is_none() }));
        }
        // The replaced record of an undecided transaction is itself undecided: the partition changed meanwhile.
        Ok(Step::Retry)
    }

    /// Whether the record at `at` passes its checksum. The bytes may change meanwhile: the caller looks at the place afterwards.
    #[cold]
    fn is_intact_at(&self, at: *const u8, offset: usize, total: usize, segment: &Segment) -> bool {
        // SAFETY: the caller checked that so many bytes lie in the frame; what they are is copied before it is looked at.
        let bytes = unsafe { std::slice::from_raw_parts(at, total) }.to_vec();
        record::parse(&bytes, offset, self.geometry.frame_bytes as usize)
            .is_some_and(|record| record.is_intact(segment.segment_id.load(Ordering::Relaxed)))
    }

    #[cold]
    fn damaged_index(&self, partition: usize, entry: u64, key: &[u8]) -> Error {
        Error::corrupt(format!(
            "index partition {partition} of {} holds entry {entry:#018x}, which leads to no record (looking for key {}); \
             run `thermae check --repair` to rebuild the index from the log",
            self.paths.location,
            show_key(key)
        ))
    }

    #[cold]
    pub(crate) fn damaged(&self, slot: u32, offset: usize, key: &[u8]) -> Error {
        Error::corrupt(format!(
            "the record of key {} at segment slot {slot}, offset {offset} of {} does not match its checksum; \
             run `thermae check --repair` to set it aside, or restore a snapshot",
            show_key(key),
            self.paths.location
        ))
    }

    /// Reads the record at `address` from its durable frame: its bytes, whole. `None` where the place changed or the bytes hold no record.
    pub(crate) fn read_cold(&self, place: Place, offset: usize) -> Result<Option<Vec<u8>>> {
        let (Some(durable), Some(frame)) = (&self.durable, place.cold) else { return Ok(None) };
        let frame_bytes = self.geometry.frame_bytes as usize;
        if offset + record::HEADER_BYTES > frame_bytes || frame >= self.geometry.durable_frames() {
            return Ok(None);
        }
        let mut bytes = vec![0_u8; COLD_READ_BYTES.min(frame_bytes - offset)];
        durable.read_at(frame, offset as u32, &mut bytes)?;
        let Some((_, total)) = record::total_len(&bytes, offset, frame_bytes, frame_bytes - offset) else {
            return Ok(None);
        };
        if total > bytes.len() {
            let have = bytes.len();
            bytes.resize(total, 0);
            durable.read_at(frame, (offset + have) as u32, &mut bytes[have..])?;
        }
        bytes.truncate(total);
        Ok(Some(bytes))
    }

    #[cold]
    fn examine_cold(
        &self,
        route: &Route<'_>,
        address: u64,
        place_word: u64,
        wanted: &Wanted<'_>,
        buffer: &mut impl FnMut(&RecordMeta) -> *mut u8,
    ) -> Result<Step> {
        let Some((slot, offset)) = self.split(address) else { return Ok(Step::Retry) };
        let segment = self.segment(slot);
        let place = Place::unpack(place_word);
        let segment_id = segment.segment_id.load(Ordering::Acquire);
        let bytes = if place.cold.is_some() { self.read_cold(place, offset)? } else { None };
        fence(Ordering::Acquire);
        if segment.place.load(Ordering::Relaxed) != place_word || !route.is_current() {
            return Ok(Step::Retry);
        }
        Self::count(&self.counters().cold_reads, 1);
        self.note_cold_read(bytes.as_ref().map_or(0, Vec::len));
        let Some(bytes) = bytes else { return Err(self.damaged(slot, offset, wanted.key)) };
        self.finish_owned(route, offset, &bytes, segment_id, wanted, buffer, true)
    }

    /// The rest of a look-up, from a private copy of the record's bytes.
    #[allow(clippy::too_many_arguments, reason = "the state of one look-up, handed on once")]
    fn finish_owned(
        &self,
        route: &Route<'_>,
        offset: usize,
        bytes: &[u8],
        segment_id: u64,
        wanted: &Wanted<'_>,
        buffer: &mut impl FnMut(&RecordMeta) -> *mut u8,
        is_cold: bool,
    ) -> Result<Step> {
        let frame_bytes = self.geometry.frame_bytes as usize;
        let slot = u32::try_from(segment_id & ((1 << crate::layout::SLOT_BITS) - 1)).unwrap_or(u32::MAX);
        let Some(record) =
            record::parse(bytes, offset, frame_bytes).filter(|record| record.is_intact(segment_id))
        else {
            return Err(self.damaged(slot, offset, wanted.key));
        };
        if record.key != wanted.key {
            return Ok(Step::Other);
        }
        if record.word.base_kind() == kind::TOMBSTONE
            || (record.expiry_ms != 0 && record.expiry_ms <= self.now_ms())
        {
            return Ok(Step::Miss);
        }
        let meta = RecordMeta {
            version: record.sequence,
            encoding: record.word.encoding,
            value_len: u64::from(record.word.value_len),
            expires_at_ms: record.expiry_ms,
            flags: record.client_flags,
        };
        let is_large = record.word.base_kind() == kind::LARGE;
        let to = buffer(&meta);
        if !to.is_null() {
            if is_large {
                match self.copy_large(&record, to, slot, offset)? {
                    Copied::Whole => {}
                    Copied::Moved => return Ok(Step::Retry),
                    // Extents are given up only after the entry is, or the transaction decided, so with both as they were this is damage.
                    Copied::Gone => {
                        return Ok(if route.is_current() { Step::Nonsense } else { Step::Retry });
                    }
                }
                if !route.is_current() {
                    return Ok(Step::Retry);
                }
            } else {
                // SAFETY: the caller's buffer has room for value_len bytes.
                unsafe { std::ptr::copy_nonoverlapping(record.payload.as_ptr(), to, record.payload.len()) };
            }
        }
        Ok(Step::Hit(Found { meta, entry: route.entry, promote: is_cold && !is_large }))
    }

    /// Copies a large value from its extents.
    fn copy_large(&self, record: &Parsed<'_>, to: *mut u8, slot: u32, offset: usize) -> Result<Copied> {
        let frame_bytes = self.geometry.frame_bytes as usize;
        let Some((value_crc, extents)) = record.extents(frame_bytes) else {
            return Err(self.damaged(slot, offset, record.key));
        };
        let len = record.word.value_len as usize;
        let mut verifies = self.verify_reads;
        for (part, &segment_id) in extents.iter().enumerate() {
            let from = part * frame_bytes;
            let piece = (len - from).min(frame_bytes);
            let Some(extent) = self.slot_of(segment_id) else { return Ok(Copied::Gone) };
            let segment = self.segment(extent);
            let place_word = segment.place.load(Ordering::Acquire);
            let place = Place::unpack(place_word);
            verifies |= place.hot.is_none();
            // SAFETY: the caller's buffer has room for value_len bytes, of which this is a piece.
            let target = unsafe { std::slice::from_raw_parts_mut(to.add(from), piece) };
            match (self.mapped_base(place), &self.durable, place.cold) {
                // SAFETY: a piece is at most a frame.
                (Some(base), ..) => unsafe {
                    std::ptr::copy_nonoverlapping(base, target.as_mut_ptr(), piece);
                },
                (None, Some(durable), Some(frame)) => durable.read_at(frame, 0, target)?,
                _ => return Ok(Copied::Gone),
            }
            fence(Ordering::Acquire);
            if segment.place.load(Ordering::Relaxed) != place_word || self.slot_of(segment_id).is_none() {
                return Ok(Copied::Moved);
            }
        }
        if verifies {
            // SAFETY: filled above.
            let value = unsafe { std::slice::from_raw_parts(to, len) };
            if crc32c::crc32c(value) != value_crc {
                return Err(self.damaged(slot, offset, record.key));
            }
        }
        Ok(Copied::Whole)
    }

    /// Starts loading what a look-up of `hash` will touch first: the partition's bucket.
    #[inline]
    pub(crate) fn prefetch_bucket(&self, hash: u64) {
        let table = self.table(self.partition_of(hash));
        let buckets = self.buckets(table);
        if !buckets.is_empty() {
            prefetch((&raw const buckets[home_of(self.tag(hash), buckets.len())]).cast());
        }
    }

    /// Starts loading the record that a look-up of `hash` will most likely find.
    #[inline]
    pub(crate) fn prefetch_record(&self, hash: u64) {
        let mut probe = self.probe(self.table(self.partition_of(hash)), self.tag(hash));
        let Some((_, entry)) = probe.next() else { return };
        let Some((slot, offset)) = self.split(entry & ADDRESS_MASK) else { return };
        let place = Place::unpack(self.segment(slot).place.load(Ordering::Relaxed));
        if let Some(base) = self.mapped_base(place) {
            let at = base.wrapping_add(offset);
            prefetch(at);
            prefetch(at.wrapping_add(64));
            prefetch(at.wrapping_add(128));
        }
    }
}

/// A hint to the processor; no effect on the program's meaning, whatever the address.
#[inline]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetching never faults; SSE is part of the x86-64 baseline.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: PRFM never faults.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}

/// A key as it appears in messages: text where it is text, shortened.
pub fn show_key(key: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&key[..key.len().min(48)]);
    if key.len() > 48 { format!("{shown:?}... ({} bytes)", key.len()) } else { format!("{shown:?}") }
}
