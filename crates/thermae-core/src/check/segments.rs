//! Reading a segment record by record, finding what is damaged in it, and mending that.
//!
//! A segment's bytes are looked at as they are in each tier that has them. A *stretch* is damaged from the first byte at which no intact record
//! begins to the next one at which one does. Where the other tier has the stretch intact it is copied from there; a lost lead of a
//! transaction is made anew from its records, which were published, so the transaction happened; what is left becomes a hole, so that the rest of
//! the segment can be walked, compacted and replayed again.

use super::Checker;
use crate::engine::Engine;
use crate::error::Result;
use crate::layout::{Place, SEGMENT_HEADER_BYTES, SLOT_BITS, class, state};
use crate::log::COUNT_OFFSET;
use crate::record::{self, BATCH_BYTES, HOLE_BYTES, SEQUENCE_MAX, Word0, kind};
use crate::waiting::check_cancelled;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Bytes that may be checksummed in looking for the next intact record behind a damaged one. Bytes made to look like records
/// at every offset would otherwise take minutes a frame; the index's own addresses are looked at in any case.
const RESYNC_BYTES_MAX: usize = 64 << 20;
/// How long a suspicious segment is left alone before it is looked at again.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(2);
const LOOKS_MAX: u32 = 3;

/// A record found intact, or one that a writer is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item {
    pub offset: usize,
    pub total: usize,
    pub sequence: u64,
    /// Sequence numbers that it takes, from `sequence` on.
    pub count: u64,
    pub has_key: bool,
}

/// What a segment's bytes turn out to be.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Image {
    pub items: Vec<Item>,
    pub damaged: Vec<Range<usize>>,
}

/// A segment as it was when it was looked at.
#[derive(Debug)]
pub(super) struct Found {
    pub slot: u32,
    pub segment_id: u64,
    pub class: u32,
    pub state: u32,
    pub place: Place,
    pub hot: Option<(Vec<u8>, Image)>,
    pub cold: Option<(Vec<u8>, Image)>,
    /// Whether the device did not give back all of the cold copy.
    pub is_unreadable: bool,
}

impl Found {
    pub(super) fn name(&self) -> String {
        let place = match (self.place.hot, self.place.cold) {
            (Some(hot), Some(cold)) => format!("hot frame {hot}, cold frame {cold}"),
            (Some(hot), None) => format!("hot frame {hot}"),
            (None, Some(cold)) => format!("cold frame {cold}"),
            (None, None) => "no frame".to_owned(),
        };
        format!("segment {} (slot {}, {place})", self.segment_id >> SLOT_BITS, self.slot)
    }

    /// What readers are served from.
    pub(super) fn served(&self) -> Option<&(Vec<u8>, Image)> {
        self.hot.as_ref().or(self.cold.as_ref())
    }

    fn is_damaged(&self) -> bool {
        [&self.hot, &self.cold].into_iter().flatten().any(|(_, image)| !image.damaged.is_empty())
            || self.differs()
    }

    /// Whether both tiers have intact records that are not the same.
    fn differs(&self) -> bool {
        let (Some((hot, hot_image)), Some((cold, cold_image))) = (&self.hot, &self.cold) else {
            return false;
        };
        let len = hot.len().min(cold.len());
        hot_image.damaged.is_empty()
            && cold_image.damaged.is_empty()
            && hot[..len] != cold[..len]
            && without_links(hot, hot_image)[..len] != without_links(cold, cold_image)[..len]
    }
}

/// A segment's bytes, but for the links of what belongs to transactions: one that happened while the segment was flushed may be marked as decided in memory
/// alone.
fn without_links(bytes: &[u8], image: &Image) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for item in image.items.iter().filter(|item| item.has_key) {
        if Word0::unpack(u64_at(&bytes, item.offset)).is_in_batch() {
            bytes[item.offset + record::LINK_OFFSET..item.offset + BATCH_BYTES].fill(0);
        }
    }
    bytes
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    bytes
        .get(offset..offset + 4)
        .map_or(0, |bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from(u32_at(bytes, offset)) | u64::from(u32_at(bytes, offset + 4)) << 32
}

/// The intact record at `offset`, if one begins there. `lead` is the transaction that it would belong to.
fn intact_item(
    bytes: &[u8],
    offset: usize,
    segment_id: u64,
    frame_bytes: usize,
    lead: Option<usize>,
) -> Option<Item> {
    let rest = &bytes[offset..];
    let (word, total) = record::total_len(rest, offset, frame_bytes, rest.len())?;
    let sequence = u64_at(rest, 8);
    let count = u64::from(u32_at(rest, COUNT_OFFSET));
    let has_lead_checksum = |total: u32| {
        sequence <= SEQUENCE_MAX
            && record::batch_checksum(sequence, total, count as u32) ^ record::checksum_mask(segment_id)
                == u32_at(rest, 16)
    };
    if word.has_key() {
        let record =
            record::parse(rest, offset, frame_bytes).filter(|record| record.is_intact(segment_id))?;
        let is_led = !word.is_in_batch() || lead == Some(record.batch_offset as usize);
        return is_led.then_some(Item { offset, total, sequence, count: 1, has_key: true });
    }
    match word.kind() {
        kind::ABANDONED if has_lead_checksum(word.value_len) => {
            Some(Item { offset, total, sequence, count, has_key: false })
        }
        kind::BATCH if has_lead_checksum(word.value_len) && word.value_len as usize <= rest.len() => {
            Some(Item { offset, total, sequence, count: 0, has_key: false })
        }
        _ => None,
    }
}

/// Goes through a segment's bytes. With `is_live`, records that a writer is at are passed over.
pub(super) fn scan(bytes: &[u8], segment_id: u64, frame_bytes: usize, is_live: bool) -> Image {
    let mut image = Image::default();
    if !is_header_intact(bytes, segment_id) {
        image.damaged.push(0..SEGMENT_HEADER_BYTES.min(bytes.len()));
    }
    let mut offset = SEGMENT_HEADER_BYTES;
    let mut lead = None;
    let mut budget = RESYNC_BYTES_MAX;
    while offset < bytes.len() {
        if let Some(item) = intact_item(bytes, offset, segment_id, frame_bytes, lead) {
            if Word0::unpack(u64_at(bytes, offset)).kind() == kind::BATCH {
                lead = Some(offset);
            }
            image.items.push(item);
            offset += item.total;
            continue;
        }
        let word = Word0::unpack(u64_at(bytes, offset));
        let len = word.value_len as usize;
        let sequence = u64_at(bytes, offset + 8);
        let is_being_written = is_live
            && matches!(word.kind(), kind::RESERVED | kind::BATCH_PENDING)
            && sequence <= SEQUENCE_MAX;
        if is_being_written && len >= HOLE_BYTES && len.is_multiple_of(8) && len <= bytes.len() - offset {
            let count = match word.kind() {
                kind::RESERVED if word.kind >> 4 < 2 => u64::from(word.kind >> 4),
                _ => u64::from(u32_at(bytes, offset + COUNT_OFFSET)),
            };
            image.items.push(Item { offset, total: len, sequence, count, has_key: false });
            offset += len;
            continue;
        }
        let (end, end_lead) = next_intact(bytes, offset + 8, segment_id, frame_bytes, &mut budget);
        image.damaged.push(offset..end);
        lead = end_lead;
        offset = end;
    }
    image
}

fn is_header_intact(bytes: &[u8], segment_id: u64) -> bool {
    bytes.len() >= SEGMENT_HEADER_BYTES
        && u64_at(bytes, 0) == crate::segment::SEGMENT_MAGIC
        && u64_at(bytes, 8) == segment_id
        && u32_at(bytes, 60) == crc32c::crc32c(&bytes[..60])
}

/// Where the next intact record begins, or the end; and the transaction that it belongs to.
fn next_intact(
    bytes: &[u8],
    from: usize,
    segment_id: u64,
    frame_bytes: usize,
    budget: &mut usize,
) -> (usize, Option<usize>) {
    for offset in (from..bytes.len()).step_by(record::ALIGN_BYTES) {
        let Some((word, total)) =
            record::total_len(&bytes[offset..], offset, frame_bytes, bytes.len() - offset)
        else {
            continue;
        };
        if word.has_key() {
            let Some(left) = budget.checked_sub(total) else { return (bytes.len(), None) };
            *budget = left;
        }
        // Of a transaction whose lead is lost, the first record is where passing on begins again.
        let lead = word.is_in_batch().then(|| u32_at(&bytes[offset..], record::BATCH_OFFSET_OFFSET) as usize);
        if intact_item(bytes, offset, segment_id, frame_bytes, lead).is_some() {
            return (offset, lead);
        }
    }
    (bytes.len(), None)
}

impl Engine {
    /// What is in a segment now. `None` where the slot holds none, or it changed too often to be looked at.
    pub(super) fn look_at_segment(&self, slot: u32) -> Result<Option<Found>> {
        for _ in 0..LOOKS_MAX {
            self.pin(slot);
            let found = self.look_at_pinned(slot);
            self.unpin(slot);
            match found {
                Ok(None) => {}
                other => return other,
            }
        }
        Ok(None)
    }

    fn look_at_pinned(&self, slot: u32) -> Result<Option<Found>> {
        let segment = self.segment(slot);
        let segment_id = segment.segment_id.load(Ordering::SeqCst);
        let current = segment.state.load(Ordering::SeqCst);
        let place_word = segment.place.load(Ordering::SeqCst);
        let place = Place::unpack(place_word);
        let frame_bytes = self.geometry.frame_bytes as usize;
        let tail = (segment.tail.load(Ordering::SeqCst) as usize).min(frame_bytes);
        let flushed = (segment.flushed.load(Ordering::SeqCst) as usize).min(tail);
        if matches!(current, state::FREE | state::OPENING | state::QUARANTINED) {
            return Ok(None);
        }
        let mut found = Found {
            slot,
            segment_id,
            class: segment.class.load(Ordering::Relaxed),
            state: current,
            place,
            hot: None,
            cold: None,
            is_unreadable: false,
        };
        if let Some(base) = self.hot_base(place) {
            // SAFETY: pinned, and the length was bounded by the frame. A writer may be at some of it: those records are passed over.
            let bytes = unsafe { std::slice::from_raw_parts(base, tail) }.to_vec();
            let image = self.image_of(&found, &bytes, true);
            found.hot = Some((bytes, image));
        }
        if let (Some(durable), Some(frame)) =
            (&self.durable, place.cold.filter(|&frame| frame < self.geometry.durable_frames()))
        {
            // A demoted segment is served from here, so all of it must be here.
            let len = if place.hot.is_some() || flushed > 0 { flushed } else { tail };
            let mut bytes = vec![0; len];
            if len > 0 {
                match durable.read_salvaging(frame, 0, &mut bytes) {
                    // What the device can't read is zeros now, and found to be damaged below.
                    Ok(failure) => found.is_unreadable = failure.is_some(),
                    // The end of the file is missing: what can't be read is as good as damaged.
                    Err(crate::error::Error::Corrupt(_)) => bytes.fill(0),
                    Err(error) => return Err(error),
                }
                let image = self.image_of(&found, &bytes, false);
                found.cold = Some((bytes, image));
            }
        }
        let is_same = segment.place.load(Ordering::SeqCst) == place_word
            && segment.segment_id.load(Ordering::SeqCst) == segment_id
            && segment.state.load(Ordering::SeqCst) == current;
        Ok(is_same.then_some(found))
    }

    fn image_of(&self, found: &Found, bytes: &[u8], is_live: bool) -> Image {
        if found.class == class::EXTENT {
            return Image::default();
        }
        scan(bytes, found.segment_id, self.geometry.frame_bytes as usize, is_live)
    }
}

impl Checker<'_> {
    /// Verifies every segment; notes its sequence numbers; mends what is damaged if told to.
    pub(super) fn check_segments(&mut self) -> Result<()> {
        for slot in 0..self.engine.geometry.slots {
            check_cancelled()?;
            self.check_slot_words(slot);
            let Some(mut found) = self.engine.look_at_segment(slot)? else { continue };
            for _ in 1..LOOKS_MAX {
                if !found.is_damaged() && !found.is_unreadable {
                    break;
                }
                // A writer may have been in the middle of it, or the device have failed just then.
                self.pause(LOOK_AGAIN_AFTER);
                match self.engine.look_at_segment(slot)? {
                    Some(again) => found = again,
                    None => break,
                }
            }
            if found.state == state::RETIRED {
                // Nothing in it is alive, and its frames may have been given away already.
                self.horizon =
                    self.horizon.max(self.engine.segment(slot).sequence_max.load(Ordering::Relaxed));
                continue;
            }
            if found.is_unreadable {
                self.unreadable.insert(found.segment_id);
            }
            self.report.segments += 1;
            if let Some((bytes, image)) = found.served() {
                self.report.bytes += bytes.len() as u64;
                self.report.records += image.items.iter().filter(|item| item.has_key).count() as u64;
                for item in image.items.iter().filter(|_| found.class != class::CACHE) {
                    self.sequences.note(item.sequence, item.count);
                    self.greatest_sequence = self
                        .greatest_sequence
                        .max(item.sequence.saturating_add(item.count.saturating_sub(1)));
                }
            }
            if found.is_damaged() {
                self.lose_patience();
                self.note_damage(&found)?;
            }
        }
        Ok(())
    }

    fn note_damage(&mut self, found: &Found) -> Result<()> {
        let name = found.name();
        if found.class == class::EXTENT {
            // Only the value's own checksum tells which of the two is right.
            self.differing_extents.push(found.slot);
            return Ok(());
        }
        let mended = self.repair && self.mend(found)?;
        for (tier, copy) in [("hot", &found.hot), ("cold", &found.cold)] {
            let Some((_, image)) = copy else { continue };
            for stretch in &image.damaged {
                self.problem(
                    "damaged",
                    &name,
                    &format!(
                        "bytes {} to {} of its {tier} copy are no intact records",
                        stretch.start, stretch.end
                    ),
                    mended,
                );
            }
        }
        if found.differs() {
            self.problem(
                "tiers differ",
                &name,
                "its hot and its cold copy are both intact and not the same",
                mended,
            );
        }
        if let Some((_, image)) = found.served().filter(|(_, image)| !image.damaged.is_empty()) {
            self.report.quarantined.push(name);
            if !matches!(found.class, class::SURVIVOR | class::CACHE) {
                self.note_lost_sequences(found, image);
            }
        }
        Ok(())
    }

    /// The numbers between the neighbours of a damaged stretch: fresh records are in the order of their numbers.
    fn note_lost_sequences(&mut self, found: &Found, image: &Image) {
        let segment = self.engine.segment(found.slot);
        for stretch in image.damaged.iter().filter(|stretch| stretch.start >= SEGMENT_HEADER_BYTES) {
            let before = image.items.iter().rev().find(|item| item.offset < stretch.start && item.count > 0);
            let after = image.items.iter().find(|item| item.offset >= stretch.end && item.count > 0);
            let first = before.map_or(segment.sequence_min.load(Ordering::Relaxed), |item| {
                item.sequence.saturating_add(item.count)
            });
            let end = after
                .map_or(segment.sequence_max.load(Ordering::Relaxed).saturating_add(1), |item| item.sequence);
            self.lost.push(first..end);
        }
    }

    /// Extents whose two copies are not the same. By now what is served is right, or no value leads there any more.
    pub(super) fn check_differing_extents(&mut self) -> Result<()> {
        for slot in std::mem::take(&mut self.differing_extents) {
            let Some(found) = self.engine.look_at_segment(slot)? else { continue };
            let is_mended =
                self.repair && found.class == class::EXTENT && (!found.differs() || self.mend(&found)?);
            self.problem(
                "tiers differ",
                &found.name(),
                "its hot and its cold copy are not the same",
                is_mended,
            );
        }
        Ok(())
    }

    /// Makes a damaged segment passable again, and whole where another copy allows. True where both copies are whole again.
    fn mend(&self, found: &Found) -> Result<bool> {
        let engine = self.engine;
        let _room = engine.lock_room();
        engine.pin(found.slot);
        let segment = engine.segment(found.slot);
        let is_same = Place::unpack(segment.place.load(Ordering::SeqCst)).hot == found.place.hot
            && Place::unpack(segment.place.load(Ordering::SeqCst)).cold == found.place.cold
            && segment.segment_id.load(Ordering::SeqCst) == found.segment_id;
        let result = if is_same { self.mend_pinned(found) } else { Ok(false) };
        engine.unpin(found.slot);
        result
    }

    fn mend_pinned(&self, found: &Found) -> Result<bool> {
        let engine = self.engine;
        let frame_bytes = engine.geometry.frame_bytes as usize;
        let mut is_whole = true;
        if let Some((bytes, image)) = &found.hot {
            for stretch in &image.damaged {
                let (patch, is_right) = patch(found, bytes, found.cold.as_ref(), stretch, frame_bytes);
                is_whole &= is_right;
                if let Some(base) = engine.hot_base(found.place) {
                    // SAFETY: within the pinned frame, and these bytes are no record that anybody could be reading.
                    unsafe {
                        std::ptr::copy_nonoverlapping(patch.as_ptr(), base.add(stretch.start), patch.len());
                    };
                }
            }
        }
        if let (Some((bytes, image)), Some(durable), Some(frame)) =
            (&found.cold, &engine.durable, found.place.cold)
        {
            for stretch in &image.damaged {
                let (patch, is_right) = patch(found, bytes, found.hot.as_ref(), stretch, frame_bytes);
                is_whole &= is_right;
                durable.write_at(frame, stretch.start as u32, &patch)?;
            }
            if found.differs() {
                // What readers are served is what is kept.
                if let Some((hot, _)) = &found.hot {
                    durable.write_at(frame, 0, &hot[..bytes.len().min(hot.len())])?;
                }
            }
            durable.sync()?;
        }
        Ok(is_whole)
    }
}

/// What to write over a damaged stretch, and whether that is what was there.
fn patch(
    found: &Found,
    bytes: &[u8],
    other: Option<&(Vec<u8>, Image)>,
    stretch: &Range<usize>,
    frame_bytes: usize,
) -> (Vec<u8>, bool) {
    if let Some((other_bytes, other_image)) = other {
        let is_intact = other_image
            .damaged
            .iter()
            .all(|damaged| damaged.end <= stretch.start || damaged.start >= stretch.end);
        if is_intact && other_bytes.len() >= stretch.end {
            return (other_bytes[stretch.clone()].to_vec(), true);
        }
    }
    if stretch.start == 0 {
        return (crate::segment::header(found.segment_id, found.class).to_vec(), true);
    }
    if let Some(lead) = remade_lead(found, bytes, stretch, frame_bytes) {
        return (lead, true);
    }
    let mut patch = vec![0; stretch.len()];
    let hole = record::hole(found.segment_id, 0, stretch.len());
    let len = hole.len().min(patch.len());
    patch[..len].copy_from_slice(&hole[..len]);
    (patch, false)
}

/// The lead of the transaction whose records follow a damaged stretch of just a lead's length.
fn remade_lead(found: &Found, bytes: &[u8], stretch: &Range<usize>, frame_bytes: usize) -> Option<Vec<u8>> {
    if stretch.len() != BATCH_BYTES {
        return None;
    }
    let mut end = stretch.end;
    let (mut first, mut count) = (None, 0_u32);
    while end < bytes.len() {
        let Some(item) = intact_item(bytes, end, found.segment_id, frame_bytes, Some(stretch.start)) else {
            break;
        };
        let word = Word0::unpack(u64_at(bytes, end));
        if !word.is_in_batch() || u32_at(&bytes[end..], record::BATCH_OFFSET_OFFSET) as usize != stretch.start
        {
            break;
        }
        first.get_or_insert(item.sequence);
        count += 1;
        end += item.total;
    }
    let total = (end - stretch.start) as u32;
    let word = Word0 { value_len: total, key_len: 0, kind: kind::BATCH, encoding: 0 };
    let crc = record::batch_checksum(first?, total, count) ^ record::checksum_mask(found.segment_id);
    let mut lead = vec![0; BATCH_BYTES];
    lead[..8].copy_from_slice(&word.pack().to_le_bytes());
    lead[8..16].copy_from_slice(&first?.to_le_bytes());
    lead[16..20].copy_from_slice(&crc.to_le_bytes());
    lead[20..24].copy_from_slice(&count.to_le_bytes());
    Some(lead)
}
