//! Values too large for the log: whole frames of their own, listed in one record.
//!
//! The extents are written before the record, outside any lock, and belong to the writer until the record is committed; a writer that dies before leaves
//! them to the reaper. Frames need not be adjacent, so no fragmentation can make a value that fits refuse to fit.

use crate::crash::crash_point;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::layout::Place;
use crate::record;
use crate::room::RoomRequest;
use crate::sizes::size_text;
use std::sync::atomic::Ordering;

/// A large value, written into extents and not published yet.
#[derive(Debug)]
pub(crate) struct LargeValue {
    /// Bytes.
    pub len: u32,
    /// What its record stores.
    pub list: Vec<u8>,
    /// Slots of the extents.
    pub slots: Vec<u32>,
}

/// Writes a value into extents.
pub(crate) fn write_large(engine: &Engine, hash: u64, value: &[u8]) -> Result<LargeValue> {
    let frame_bytes = engine.geometry.frame_bytes as usize;
    let len = u32::try_from(value.len()).map_err(|_| too_large(engine, value.len() as u64))?;
    let count = record::extent_count(len, frame_bytes);
    if count > engine.hot_frames_usable() as usize / 2 {
        return Err(too_large(engine, value.len() as u64));
    }
    let mut request = RoomRequest::for_frames(count);
    let slots = loop {
        match engine.open_extents(count) {
            Ok(slots) => break slots,
            Err(room) => engine.make_room(room, &mut request)?,
        }
    };
    let mut list = Vec::with_capacity(8 + 8 * count);
    list.extend_from_slice(&crc32c::crc32c(value).to_le_bytes());
    list.extend_from_slice(&(count as u32).to_le_bytes());
    for (&slot, piece) in slots.iter().zip(value.chunks(frame_bytes)) {
        let segment = engine.segment(slot);
        let place = Place::unpack(segment.place.load(Ordering::Relaxed));
        let Some(base) = engine.hot_base(place) else { return Err(too_large(engine, value.len() as u64)) };
        // SAFETY: the frame was just taken by this participant, and a piece is at most a frame.
        unsafe { std::ptr::copy_nonoverlapping(piece.as_ptr(), base, piece.len()) };
        segment.key_hash.store(hash, Ordering::Relaxed);
        segment.live_bytes.store(piece.len() as u32, Ordering::Relaxed);
        segment.tail.store(piece.len() as u32, Ordering::Release);
        crash_point!("large.piece_written");
        list.extend_from_slice(&segment.segment_id.load(Ordering::Relaxed).to_le_bytes());
    }
    Ok(LargeValue { len, list, slots })
}

/// Whether a value of so many bytes can be stored at all, as [`write_large`] finds it.
pub(crate) fn check_len(engine: &Engine, len: u64) -> Result<()> {
    if len <= value_bytes_max(engine) { Ok(()) } else { Err(too_large(engine, len)) }
}

fn value_bytes_max(engine: &Engine) -> u64 {
    let frames = engine.hot_frames_usable() / 2;
    (u64::from(frames) * u64::from(engine.geometry.frame_bytes)).min(record::VALUE_BYTES_MAX)
}

fn too_large(engine: &Engine, len: u64) -> Error {
    let most = value_bytes_max(engine);
    Error::ValueTooLarge(format!(
        "the value is {} bytes long and {} takes values of up to {} (half its hot tier, and never more than 4 GiB - 1): \
         create the store with a larger hot tier, or split the value",
        len,
        engine.paths.location,
        size_text(most)
    ))
}
