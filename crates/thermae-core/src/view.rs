//! Values used where they lie: pinned, mapped, never copied while hot or warm.
//!
//! A view pins the segments its bytes are in, then makes sure that the entry still leads there: from then on the frames are not reused, whatever
//! happens to the key. What lies in the warm tier is verified first, as all that may have been damaged while nobody ran. Pins count by participant, so they vanish with a dead process. Records of a transaction that is not
//! decided yet, and cold values, are copied into memory of the view's own instead: same bytes, same life time.

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::index::ADDRESS_MASK;
use crate::layout::Place;
use crate::pool::Joined;
use crate::read::{RecordMeta, Wanted};
use crate::record::{self, kind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A value's bytes, valid as long as this lives.
#[derive(Debug)]
pub struct View {
    bytes: Bytes,
    len: usize,
    meta: RecordMeta,
    pinned: Vec<u32>,
    /// After the bytes: the mapping must outlive them.
    engine: Arc<Engine>,
}

#[derive(Debug)]
enum Bytes {
    Mapped(*const u8),
    Joined(Joined),
    Owned(Vec<u8>),
}

// SAFETY: the bytes are read-only, pinned and mapped for the view's life.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// What is known of the value.
    pub fn meta(&self) -> &RecordMeta {
        &self.meta
    }

    /// Whether the bytes are the store's own, not a copy.
    pub fn is_zero_copy(&self) -> bool {
        !matches!(self.bytes, Bytes::Owned(_))
    }
}

impl std::ops::Deref for View {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let base = match &self.bytes {
            Bytes::Mapped(base) => *base,
            Bytes::Joined(joined) => joined.base(),
            Bytes::Owned(bytes) => return bytes,
        };
        // SAFETY: the pinned segments hold `len` bytes from `base` on, for as long as this view lives.
        unsafe { std::slice::from_raw_parts(base, self.len) }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.engine.unpin_view(&self.pinned);
    }
}

/// Pins that are given back unless a view takes them over.
struct Pins<'a> {
    engine: &'a Engine,
    slots: Vec<u32>,
}

impl Pins<'_> {
    fn add(&mut self, slot: u32) {
        self.engine.pin(slot);
        self.slots.push(slot);
    }
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        self.slots.iter().for_each(|&slot| self.engine.unpin(slot));
    }
}

/// Attempts to pin before the value is copied instead.
const ATTEMPTS: usize = 8;

/// A view of a key's value; `None` where the key is absent.
pub(crate) fn view(engine: &Arc<Engine>, wanted: Wanted<'_>) -> Result<Option<View>> {
    for _ in 0..ATTEMPTS {
        let Some(found) = engine.find(wanted, &mut |_| std::ptr::null_mut())? else { return Ok(None) };
        let mut pins = Pins { engine, slots: Vec::new() };
        if let Some((bytes, meta)) = pin_value(engine, wanted, found.entry, &mut pins)? {
            let pinned = std::mem::take(&mut pins.slots);
            engine.pin_for_view(&pinned);
            return Ok(Some(View {
                bytes,
                len: usize::try_from(meta.value_len).unwrap_or(0),
                meta,
                pinned,
                engine: engine.clone(),
            }));
        }
    }
    let mut copy = Vec::new();
    let found = engine.find(wanted, &mut |meta| {
        copy = vec![0_u8; usize::try_from(meta.value_len).unwrap_or(0)];
        copy.as_mut_ptr()
    })?;
    Ok(found.map(|found| View {
        len: copy.len(),
        bytes: Bytes::Owned(copy),
        meta: found.meta,
        pinned: Vec::new(),
        engine: engine.clone(),
    }))
}

/// Pins the value of an entry; `None` where it moved, is cold, or is undecided.
fn pin_value(
    engine: &Arc<Engine>,
    wanted: Wanted<'_>,
    entry: u64,
    pins: &mut Pins<'_>,
) -> Result<Option<(Bytes, RecordMeta)>> {
    let frame_bytes = engine.geometry.frame_bytes as usize;
    let Some((slot, offset)) = engine.split(entry & ADDRESS_MASK) else { return Ok(None) };
    pins.add(slot);
    let place = Place::unpack(engine.segment(slot).place.load(Ordering::SeqCst));
    let Some(base) = engine.mapped_base(place) else { return Ok(None) };
    if !engine.is_current(wanted.hash, entry) {
        return Ok(None);
    }
    // SAFETY: pinned, and the entry leads here after the pin: the frame stays, and the record is committed.
    let bytes = unsafe { std::slice::from_raw_parts(base.add(offset), frame_bytes - offset) };
    let Some(record) = record::parse(bytes, offset, frame_bytes).filter(|record| record.key == wanted.key)
    else {
        return Err(engine.damaged(slot, offset, wanted.key));
    };
    if record.word.is_in_batch()
        && !engine.batch_member(base, offset).is_some_and(|member| member.has_happened())
    {
        return Ok(None);
    }
    // Of this record: the one that was found may be its predecessor, if it belongs to a transaction that was decided since.
    let meta = RecordMeta {
        version: record.sequence,
        encoding: record.word.encoding,
        value_len: u64::from(record.word.value_len),
        expires_at_ms: record.expiry_ms,
        flags: record.client_flags,
    };
    let mut is_hot = place.hot.is_some();
    if !is_hot && !record.is_intact(engine.segment(slot).segment_id.load(Ordering::Relaxed)) {
        return Err(engine.damaged(slot, offset, wanted.key));
    }
    match record.word.base_kind() {
        kind::PUT => return Ok(Some((Bytes::Mapped(record.payload.as_ptr()), meta))),
        kind::LARGE => {}
        _ => return Ok(None),
    }
    let Some((value_checksum, extents)) = record.extents(frame_bytes) else {
        return Err(engine.damaged(slot, offset, wanted.key));
    };
    let mut pieces = Vec::with_capacity(extents.len());
    for segment_id in extents {
        let Some(extent) = engine.slot_of(segment_id) else { return Ok(None) };
        pins.add(extent);
        let place = Place::unpack(engine.segment(extent).place.load(Ordering::SeqCst));
        let Some(_) = engine.slot_of(segment_id) else { return Ok(None) };
        let warm = || engine.durable.as_ref()?.warm_piece(place.cold?);
        let piece = match place.hot {
            // Beyond the file there is nothing to map.
            Some(frame) => (frame < engine.geometry.hot_frames)
                .then(|| (&**engine.hot.file(), u64::from(frame) * frame_bytes as u64)),
            None => warm(),
        };
        let Some(piece) = piece else { return Ok(None) };
        is_hot &= place.hot.is_some();
        pieces.push(piece);
    }
    if !engine.is_current(wanted.hash, entry) {
        return Ok(None);
    }
    let joined = Joined::new(&pieces, frame_bytes)
        .map_err(|source| Error::io("map a large value of", &engine.paths.hot, source))?;
    if !is_hot {
        // SAFETY: mapped, and pinned.
        let value = unsafe { std::slice::from_raw_parts(joined.base(), record.word.value_len as usize) };
        if crc32c::crc32c(value) != value_checksum {
            return Err(engine.damaged(slot, offset, wanted.key));
        }
    }
    Ok(Some((Bytes::Joined(joined), meta)))
}

impl Engine {
    /// Whether the index still holds exactly this entry.
    pub(crate) fn is_current(&self, hash: u64, entry: u64) -> bool {
        let number = self.partition_of(hash);
        loop {
            let table = self.table(number);
            let mut probe = self.probe(table, self.tag(hash));
            let found = std::iter::from_fn(|| probe.next()).any(|(_, word)| word == entry);
            std::sync::atomic::fence(Ordering::Acquire);
            if self.table(number) == table {
                return found;
            }
        }
    }
}
