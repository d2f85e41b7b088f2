//! A record: header, key, value; how its bytes are laid out, committed and verified.
//!
//! ```text
//!  0        4      6    7    8            16      20
//!  +--------+------+----+----+------------+-------+----------+--------+--------+-----+---------+-------+
//!  | value  | key  |kind|enc.| sequence   | CRC   | extended | expiry | client | key | padding | value |
//!  | length |length|    |    |            |       | 0 or 12  | 0 or 8 | flags, |     | to 64   |       |
//!  |        |      |    |    |            |       |          |        | 0 or 4 |     |         |       |
//!  +--------+------+----+----+------------+-------+----------+--------+--------+-----+---------+-------+
//!  \______ word 0 _________/
//! ```
//! Word 0 is stored last and in one piece: a record is RESERVED (its length known, its bytes not) until that store makes it
//! COMMITTED; from then on it never changes, except the link of a cache copy, and that of a transaction's record, once, when that has happened. The CRC covers word 0 (with the kind
//! normalised, so that a copy keeps its original's checksum), sequence, expiry, client flags, key and value, and is masked with the segment's
//! identity, so that bytes left in a reused frame by an earlier segment can't pass for records.
//!
//! Client flags are a number that the engine keeps for whoever stored the value, as memcache clients expect. Nearly all records have none,
//! and those take no byte more for it. Rejected: flags in front of the value, as a part of it: then views, appends and lengths would
//! have to know of them, and `touch` and `incr` would carry them along only by chance.
//!
//! Every parse checks lengths against the bytes at hand before it uses them.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of the fixed header.
pub const HEADER_BYTES: usize = 20;
/// Bytes of the extended part: batch offset (4) and link (8).
pub const EXTENDED_BYTES: usize = 12;
/// Bytes of the expiry, where there is one.
pub const EXPIRY_BYTES: usize = 8;
/// Bytes of the client flags, where there are some.
pub const CLIENT_FLAGS_BYTES: usize = 4;
/// Offset of the link word in an extended record.
pub const LINK_OFFSET: usize = 24;
/// In the place of a link: the batch has happened. So readers need not look for its lead, which is another miss. Where it is not there, because whoever
/// was to put it there died, or has not come to it yet, the lead says whether the batch has happened.
pub const LINK_OF_DECIDED: u64 = 1;
/// Offset of the batch offset in an extended record.
pub const BATCH_OFFSET_OFFSET: usize = 20;
/// Alignment of records.
pub const ALIGN_BYTES: usize = 8;
/// Alignment of the value where the ALIGNED flag is set.
pub const VALUE_ALIGN_BYTES: usize = 64;
/// Bytes of a BATCH record's own header.
pub const BATCH_BYTES: usize = 32;
/// Longest key.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;
/// Longest value.
pub const VALUE_BYTES_MAX: u64 = u32::MAX as u64;

/// Greatest sequence number that a store could ever have come to, giving out one every nanosecond for a century. What claims to be
/// greater is damaged, and everything up to it can be counted on from.
pub const SEQUENCE_MAX: u64 = 1 << 62;

/// What a record is. The low four bits of the kind byte.
pub mod kind {
    /// Space taken, bytes not yet written; the word holds its length, its owner's mark and how many sequence numbers it took.
    pub const RESERVED: u8 = 1;
    /// A key and its value.
    pub const PUT: u8 = 2;
    /// A key that was deleted.
    pub const TOMBSTONE: u8 = 3;
    /// Leads a transaction that is not decided.
    pub const BATCH_PENDING: u8 = 4;
    /// Space that holds nothing: its writer died or gave up.
    pub const ABANDONED: u8 = 5;
    /// A key whose value is in extents.
    pub const LARGE: u8 = 6;
    /// Leads a transaction that happened.
    pub const BATCH: u8 = 7;
    /// A PUT copied into a cache segment; its link is the home address.
    pub const COPY: u8 = 8;
    /// PUT, TOMBSTONE, LARGE inside a batch; the link is the entry replaced, or [`LINK_OF_DECIDED`](super::LINK_OF_DECIDED).
    pub const BATCH_PUT: u8 = 9;
    /// See [`BATCH_PUT`].
    pub const BATCH_TOMBSTONE: u8 = 10;
    /// See [`BATCH_PUT`].
    pub const BATCH_LARGE: u8 = 11;
    /// The bits of the kind proper.
    pub const MASK: u8 = 0x0f;
}

/// The high four bits of the kind byte.
pub mod flag {
    /// An expiry time follows the header.
    pub const EXPIRY: u8 = 0x10;
    /// The value starts at a multiple of 64 bytes within its frame.
    pub const ALIGNED: u8 = 0x20;
    /// Client flags follow the header, after the expiry if there is one.
    pub const CLIENT_FLAGS: u8 = 0x40;
    /// All that describe a record's bytes, and stay with them in every copy.
    pub const ALL: u8 = EXPIRY | ALIGNED | CLIENT_FLAGS;

    /// What a record with this expiry (0 = never) and these client flags (0 = none) says of its parts.
    #[inline]
    pub const fn of(expiry_ms: u64, client_flags: u32) -> u8 {
        (if expiry_ms != 0 { EXPIRY } else { 0 }) | (if client_flags != 0 { CLIENT_FLAGS } else { 0 })
    }
}

/// A record's first eight bytes, unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word0 {
    /// Bytes of the value; of the whole space for RESERVED, ABANDONED and BATCH kinds.
    pub value_len: u32,
    /// Bytes of the key.
    pub key_len: u16,
    /// Kind and flags.
    pub kind: u8,
    /// How the value is encoded.
    pub encoding: u8,
}

impl Word0 {
    /// As the eight bytes stored.
    #[inline]
    pub const fn pack(self) -> u64 {
        self.value_len as u64
            | (self.key_len as u64) << 32
            | (self.kind as u64) << 48
            | (self.encoding as u64) << 56
    }

    /// From the eight bytes stored.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "each field takes its own bits")]
    pub const fn unpack(word: u64) -> Self {
        Self {
            value_len: word as u32,
            key_len: (word >> 32) as u16,
            kind: (word >> 48) as u8,
            encoding: (word >> 56) as u8,
        }
    }

    /// The kind without its flags.
    #[inline]
    pub const fn kind(self) -> u8 {
        self.kind & kind::MASK
    }

    /// Whether the header is followed by batch offset and link.
    #[inline]
    pub const fn is_extended(self) -> bool {
        matches!(self.kind(), kind::COPY | kind::BATCH_PUT | kind::BATCH_TOMBSTONE | kind::BATCH_LARGE)
    }

    /// Whether this record belongs to a transaction.
    #[inline]
    pub const fn is_in_batch(self) -> bool {
        matches!(self.kind(), kind::BATCH_PUT | kind::BATCH_TOMBSTONE | kind::BATCH_LARGE)
    }

    /// PUT, TOMBSTONE or LARGE for a record with a key; other kinds as they are.
    #[inline]
    pub const fn base_kind(self) -> u8 {
        match self.kind() {
            kind::COPY | kind::BATCH_PUT => kind::PUT,
            kind::BATCH_TOMBSTONE => kind::TOMBSTONE,
            kind::BATCH_LARGE => kind::LARGE,
            other => other,
        }
    }

    /// Whether this is a record with a key (PUT, TOMBSTONE, LARGE in any of their forms).
    #[inline]
    pub const fn has_key(self) -> bool {
        matches!(self.base_kind(), kind::PUT | kind::TOMBSTONE | kind::LARGE)
    }

    /// Whether `flags` are set.
    #[inline]
    pub const fn has(self, flags: u8) -> bool {
        self.kind & flags != 0
    }

    /// The same word with its kind normalised, as the checksum covers it.
    #[inline]
    const fn normalised(self) -> u64 {
        Self { kind: (self.kind & !kind::MASK & !flag::ALIGNED) | self.base_kind(), ..self }.pack()
    }
}

/// Where a record's parts are, from its own start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Offset of the expiry (meaningful with the EXPIRY flag).
    pub expiry_offset: usize,
    /// Offset of the client flags (meaningful with the CLIENT_FLAGS flag).
    pub client_flags_offset: usize,
    /// Offset of the key.
    pub key_offset: usize,
    /// Offset of the value, or of a LARGE record's extent list.
    pub value_offset: usize,
    /// Bytes stored in the log for the value.
    pub payload_len: usize,
    /// Bytes of the whole record, padded to [`ALIGN_BYTES`].
    pub total: usize,
}

/// Rounds up to a multiple of `to`, a power of two.
#[inline]
pub const fn align_up(value: usize, to: usize) -> usize {
    (value + to - 1) & !(to - 1)
}

/// Extents that a value of `value_len` bytes takes.
#[inline]
pub const fn extent_count(value_len: u32, frame_bytes: usize) -> usize {
    (value_len as usize).div_ceil(frame_bytes)
}

/// Bytes that a LARGE record stores for a value: checksum, count, and one segment identity per extent.
#[inline]
pub const fn large_payload_len(value_len: u32, frame_bytes: usize) -> usize {
    8 + 8 * extent_count(value_len, frame_bytes)
}

/// Bytes that a record takes at most whose value, of up to `inline_value_max` bytes, is in it.
pub const fn inline_total_max(inline_value_max: usize) -> usize {
    let before_key = HEADER_BYTES + EXTENDED_BYTES + EXPIRY_BYTES + CLIENT_FLAGS_BYTES;
    align_up(before_key + KEY_BYTES_MAX + VALUE_ALIGN_BYTES + inline_value_max, ALIGN_BYTES)
}

/// The parts of a record that starts at `offset` of its frame.
#[inline]
pub const fn shape(word: Word0, offset: usize, frame_bytes: usize) -> Shape {
    let base = word.base_kind();
    match base {
        kind::PUT | kind::TOMBSTONE | kind::LARGE => {
            let expiry_offset = if word.is_extended() { HEADER_BYTES + EXTENDED_BYTES } else { HEADER_BYTES };
            let client_flags_offset = expiry_offset + if word.has(flag::EXPIRY) { EXPIRY_BYTES } else { 0 };
            let key_offset =
                client_flags_offset + if word.has(flag::CLIENT_FLAGS) { CLIENT_FLAGS_BYTES } else { 0 };
            let after_key = key_offset + word.key_len as usize;
            let value_offset = if word.has(flag::ALIGNED) {
                align_up(offset + after_key, VALUE_ALIGN_BYTES) - offset
            } else {
                after_key
            };
            let payload_len = match base {
                kind::PUT => word.value_len as usize,
                kind::LARGE => large_payload_len(word.value_len, frame_bytes),
                _ => 0,
            };
            Shape {
                expiry_offset,
                client_flags_offset,
                key_offset,
                value_offset,
                payload_len,
                total: align_up(value_offset + payload_len, ALIGN_BYTES),
            }
        }
        kind::BATCH | kind::BATCH_PENDING => Shape::without_parts(BATCH_BYTES),
        _ => Shape::without_parts(word.value_len as usize),
    }
}

impl Shape {
    /// Of a record without a key.
    #[inline]
    const fn without_parts(total: usize) -> Self {
        Self {
            expiry_offset: 0,
            client_flags_offset: 0,
            key_offset: 0,
            value_offset: 0,
            payload_len: 0,
            total,
        }
    }
}

/// What a segment's identity adds to the checksums in it.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "a 32-bit mask is wanted")]
pub const fn checksum_mask(segment_id: u64) -> u32 {
    let mixed = segment_id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32 ^ mixed as u32
}

/// The unmasked CRC32C of a record's content.
#[inline]
pub fn checksum(
    word: Word0,
    sequence: u64,
    expiry_ms: u64,
    client_flags: u32,
    key: &[u8],
    payload: &[u8],
) -> u32 {
    let mut head = [0_u8; 16 + EXPIRY_BYTES + CLIENT_FLAGS_BYTES];
    head[..8].copy_from_slice(&word.normalised().to_le_bytes());
    head[8..16].copy_from_slice(&sequence.to_le_bytes());
    let mut head_len = 16;
    if word.has(flag::EXPIRY) {
        head[16..24].copy_from_slice(&expiry_ms.to_le_bytes());
        head_len += EXPIRY_BYTES;
    }
    if word.has(flag::CLIENT_FLAGS) {
        head[head_len..head_len + CLIENT_FLAGS_BYTES].copy_from_slice(&client_flags.to_le_bytes());
        head_len += CLIENT_FLAGS_BYTES;
    }
    let crc = crc32c_append(0, &head[..head_len]);
    let crc = crc32c_append(crc, key);
    crc32c_append(crc, payload)
}

/// From here on three interleaved streams pay.
const CRC_STREAMS_FROM_BYTES: usize = 1024;

/// CRC32C of what is mostly short. The library aligns its reads byte by byte and looks for long blocks first, which for a record of
/// 100 bytes takes longer than the checksum itself.
#[inline]
fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() < CRC_STREAMS_FROM_BYTES && is_x86_feature_detected!("sse4.2") {
        // SAFETY: the processor has the instructions.
        return unsafe { crc32c_short(crc, bytes) };
    }
    crc32c::crc32c_append(crc, bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn crc32c_short(crc: u32, bytes: &[u8]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u16, _mm_crc32_u32, _mm_crc32_u64};
    let (words, mut rest) = bytes.as_chunks::<8>();
    let crc = words.iter().fold(u64::from(!crc), |crc, word| _mm_crc32_u64(crc, u64::from_le_bytes(*word)));
    let mut crc = crc as u32;
    if let Some((part, after)) = rest.split_first_chunk::<4>() {
        crc = _mm_crc32_u32(crc, u32::from_le_bytes(*part));
        rest = after;
    }
    if let Some((part, after)) = rest.split_first_chunk::<2>() {
        crc = _mm_crc32_u16(crc, u16::from_le_bytes(*part));
        rest = after;
    }
    if let Some(&byte) = rest.first() {
        crc = _mm_crc32_u8(crc, byte);
    }
    !crc
}

/// The checksum of a BATCH record: which region it leads and how many records are in it.
pub fn batch_checksum(sequence: u64, total: u32, count: u32) -> u32 {
    let mut bytes = [0_u8; 16];
    bytes[..8].copy_from_slice(&sequence.to_le_bytes());
    bytes[8..12].copy_from_slice(&total.to_le_bytes());
    bytes[12..].copy_from_slice(&count.to_le_bytes());
    crc32c::crc32c(&bytes)
}

/// Bytes of [`hole`].
pub const HOLE_BYTES: usize = 24;

/// The beginning of an ABANDONED record of `total` bytes that takes no sequence number: it makes a stretch of a segment passable.
pub fn hole(segment_id: u64, sequence: u64, total: usize) -> [u8; HOLE_BYTES] {
    let total = u32::try_from(total).unwrap_or(u32::MAX);
    let word = Word0 { value_len: total, key_len: 0, kind: kind::ABANDONED, encoding: 0 };
    let crc = batch_checksum(sequence, total, 0) ^ checksum_mask(segment_id);
    let mut bytes = [0; HOLE_BYTES];
    bytes[..8].copy_from_slice(&word.pack().to_le_bytes());
    bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// A record's fields, as parsed from bytes that hold all of it.
#[derive(Debug, Clone, Copy)]
pub struct Parsed<'a> {
    /// The first word.
    pub word: Word0,
    /// Sequence number.
    pub sequence: u64,
    /// CRC as stored (masked).
    pub stored_crc: u32,
    /// When it expires, in milliseconds of the store's clock; 0 = never.
    pub expiry_ms: u64,
    /// What the client keeps beside the value; 0 = nothing.
    pub client_flags: u32,
    /// Home of a COPY, replaced entry of a batch member, else 0.
    pub link: u64,
    /// Offset of the leading BATCH record in the frame, for batch members.
    pub batch_offset: u32,
    /// The key.
    pub key: &'a [u8],
    /// The value, or the extent list of a LARGE record.
    pub payload: &'a [u8],
    /// Bytes of the whole record.
    pub total: usize,
}

#[inline]
fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes([bytes[offset], bytes[offset + 1], bytes[offset + 2], bytes[offset + 3]])
}

#[inline]
fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut word = [0_u8; 8];
    word.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(word)
}

/// Bytes of the whole record that begins with `bytes` (at least eight), or `None` where they begin none that fits in `room`.
#[inline(always)]
pub fn total_len(bytes: &[u8], offset: usize, frame_bytes: usize, room: usize) -> Option<(Word0, usize)> {
    if bytes.len() < 8 || room < ALIGN_BYTES {
        return None;
    }
    let word = Word0::unpack(u64_at(bytes, 0));
    if !(kind::RESERVED..=kind::BATCH_LARGE).contains(&word.kind()) {
        return None;
    }
    let total = shape(word, offset, frame_bytes).total;
    (total >= HEADER_BYTES && total <= room && total.is_multiple_of(ALIGN_BYTES)).then_some((word, total))
}

/// Parses the record at `offset` of its frame, whose bytes (and perhaps more) are `bytes`; `None` where they hold no whole record.
#[inline(always)]
pub fn parse(bytes: &[u8], offset: usize, frame_bytes: usize) -> Option<Parsed<'_>> {
    let (word, total) = total_len(bytes, offset, frame_bytes, bytes.len())?;
    let shape = shape(word, offset, frame_bytes);
    let (expiry_ms, client_flags, key, payload) = if word.has_key() {
        (
            if word.has(flag::EXPIRY) { u64_at(bytes, shape.expiry_offset) } else { 0 },
            if word.has(flag::CLIENT_FLAGS) { u32_at(bytes, shape.client_flags_offset) } else { 0 },
            &bytes[shape.key_offset..shape.key_offset + word.key_len as usize],
            &bytes[shape.value_offset..shape.value_offset + shape.payload_len],
        )
    } else {
        (0, 0, &bytes[..0], &bytes[..0])
    };
    Some(Parsed {
        word,
        sequence: u64_at(bytes, 8),
        stored_crc: u32_at(bytes, 16),
        expiry_ms,
        client_flags,
        link: if word.is_extended() { u64_at(bytes, LINK_OFFSET) } else { 0 },
        batch_offset: if word.is_in_batch() { u32_at(bytes, BATCH_OFFSET_OFFSET) } else { 0 },
        key,
        payload,
        total,
    })
}

impl Parsed<'_> {
    /// Whether the checksum holds, for a record of segment `segment_id`, and its sequence number is possible.
    #[inline]
    pub fn is_intact(&self, segment_id: u64) -> bool {
        self.sequence <= SEQUENCE_MAX
            && checksum(self.word, self.sequence, self.expiry_ms, self.client_flags, self.key, self.payload)
                ^ checksum_mask(segment_id)
                == self.stored_crc
    }

    /// The extents of a LARGE record: checksum of the value, identities of its segments. `None` if the list contradicts the length.
    pub fn extents(&self, frame_bytes: usize) -> Option<(u32, Vec<u64>)> {
        let count = extent_count(self.word.value_len, frame_bytes);
        if self.word.base_kind() != kind::LARGE
            || self.payload.len() != 8 + 8 * count
            || u32_at(self.payload, 4) as usize != count
        {
            return None;
        }
        Some((u32_at(self.payload, 0), (0..count).map(|part| u64_at(self.payload, 8 + 8 * part)).collect()))
    }
}

/// What to write as a record.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// The first word in its committed form.
    pub word: Word0,
    /// When it expires; 0 = never (must agree with the EXPIRY flag).
    pub expiry_ms: u64,
    /// What the client keeps beside the value; 0 = nothing (must agree with the CLIENT_FLAGS flag).
    pub client_flags: u32,
    /// Link of an extended record.
    pub link: u64,
    /// Offset of the leading BATCH record.
    pub batch_offset: u32,
    /// The key.
    pub key: &'a [u8],
    /// The value or extent list.
    pub payload: &'a [u8],
}

impl<'a> Draft<'a> {
    /// That a key is deleted.
    #[inline]
    pub const fn tombstone(key: &'a [u8]) -> Self {
        let word = Word0 { value_len: 0, key_len: key.len() as u16, kind: kind::TOMBSTONE, encoding: 0 };
        Self { word, expiry_ms: 0, client_flags: 0, link: 0, batch_offset: 0, key, payload: &[] }
    }

    /// The unmasked CRC32C of what is to be written.
    #[inline]
    pub fn checksum(&self, sequence: u64) -> u32 {
        checksum(self.word, sequence, self.expiry_ms, self.client_flags, self.key, self.payload)
    }
}

/// Writes all of a record but its first word to `to`.
///
/// # Safety
/// `to` points at `shape(..).total` writable bytes that no other thread or process writes (a reservation of the caller's).
#[inline]
pub unsafe fn write_body(
    to: *mut u8,
    draft: &Draft<'_>,
    shape: &Shape,
    sequence: u64,
    crc_unmasked: u32,
    segment_id: u64,
) {
    // SAFETY: all offsets are below shape.total, which the caller owns.
    unsafe {
        to.add(8).cast::<u64>().write_unaligned(sequence.to_le());
        to.add(16).cast::<u32>().write_unaligned((crc_unmasked ^ checksum_mask(segment_id)).to_le());
        if draft.word.is_extended() {
            to.add(BATCH_OFFSET_OFFSET).cast::<u32>().write_unaligned(draft.batch_offset.to_le());
            to.add(LINK_OFFSET).cast::<u64>().write_unaligned(draft.link.to_le());
        }
        if draft.word.has(flag::EXPIRY) {
            to.add(shape.expiry_offset).cast::<u64>().write_unaligned(draft.expiry_ms.to_le());
        }
        if draft.word.has(flag::CLIENT_FLAGS) {
            to.add(shape.client_flags_offset).cast::<u32>().write_unaligned(draft.client_flags.to_le());
        }
        std::ptr::copy_nonoverlapping(draft.key.as_ptr(), to.add(shape.key_offset), draft.key.len());
        std::ptr::copy_nonoverlapping(
            draft.payload.as_ptr(),
            to.add(shape.value_offset),
            draft.payload.len(),
        );
        // Padding is zeroed so that no bytes of an earlier use of the frame ever reach a file.
        let key_end = shape.key_offset + draft.key.len();
        std::ptr::write_bytes(to.add(key_end), 0, shape.value_offset - key_end);
        let end = shape.value_offset + draft.payload.len();
        std::ptr::write_bytes(to.add(end), 0, shape.total - end);
    }
}

/// The first word of the record at `at`, as one atomic word.
///
/// # Safety
/// `at` is 8-byte aligned and lies in a mapping that outlives the reference.
#[inline]
pub unsafe fn word0_at<'a>(at: *const u8) -> &'a AtomicU64 {
    // SAFETY: alignment and lifetime are the caller's promise; every bit pattern is a valid u64.
    unsafe { &*at.cast::<AtomicU64>() }
}

/// Makes the record at `at` what its first word says, in one store.
///
/// # Safety
/// As [`word0_at`]; the body was written by this thread.
#[inline]
pub unsafe fn commit(at: *const u8, word: Word0) {
    // SAFETY: the caller's promise.
    unsafe { word0_at(at) }.store(word.pack(), Ordering::Release);
}

const _: () = assert!(LINK_OFFSET.is_multiple_of(8) && HEADER_BYTES + EXTENDED_BYTES == 32);

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME_BYTES: usize = 1 << 20;
    const SEGMENT: u64 = 42;

    fn build(kind_byte: u8, expiry_ms: u64, client_flags: u32, key: &[u8], value: &[u8]) -> (Shape, Vec<u8>) {
        let word = Word0 {
            value_len: u32::try_from(value.len()).unwrap(),
            key_len: u16::try_from(key.len()).unwrap(),
            kind: kind_byte | flag::of(expiry_ms, client_flags),
            encoding: 7,
        };
        let shape = shape(word, 64, FRAME_BYTES);
        let mut bytes = vec![0xaa_u8; shape.total];
        let draft = Draft { word, expiry_ms, client_flags, link: 5, batch_offset: 6, key, payload: value };
        // SAFETY: the vector has shape.total bytes.
        unsafe { write_body(bytes.as_mut_ptr(), &draft, &shape, 9, draft.checksum(9), SEGMENT) };
        bytes[..8].copy_from_slice(&word.pack().to_le_bytes());
        (shape, bytes)
    }

    /// Every kind with a key, plain and aligned, with and without each of the optional parts.
    fn builds() -> impl Iterator<Item = (u8, u64, u32)> {
        let kinds = [
            kind::PUT,
            kind::PUT | flag::ALIGNED,
            kind::COPY,
            kind::COPY | flag::ALIGNED,
            kind::BATCH_PUT,
            kind::TOMBSTONE,
            kind::BATCH_TOMBSTONE,
        ];
        kinds.into_iter().flat_map(|kind| {
            [(0, 0), (77, 0), (0, 0xdead_beef), (77, 1), (u64::MAX, u32::MAX)]
                .map(|(expiry_ms, client_flags)| (kind, expiry_ms, client_flags))
        })
    }

    #[test]
    fn a_record_reads_back_and_a_flipped_bit_shows() {
        for (kind_byte, expiry_ms, client_flags) in builds() {
            let is_deletion = matches!(kind_byte, kind::TOMBSTONE | kind::BATCH_TOMBSTONE);
            let value: &[u8] = if is_deletion { &[] } else { &[1; 100] };
            let (shape, bytes) = build(kind_byte, expiry_ms, client_flags, b"key", value);
            let record = parse(&bytes, 64, FRAME_BYTES).unwrap();
            assert_eq!((record.key, record.payload, record.sequence), (&b"key"[..], value, 9));
            assert_eq!((record.expiry_ms, record.client_flags), (expiry_ms, client_flags));
            assert_eq!(record.link, if record.word.is_extended() { 5 } else { 0 });
            assert!(record.is_intact(SEGMENT));
            assert!(!record.is_intact(SEGMENT + 1), "a record of another segment does not pass");
            if kind_byte & flag::ALIGNED != 0 {
                assert_eq!((64 + shape.value_offset) % VALUE_ALIGN_BYTES, 0);
            }
            // Padding, batch offset and link are what the checksum leaves out, and of the first word the bits that a copy changes.
            let covered = (8..HEADER_BYTES)
                .chain(shape.expiry_offset..shape.key_offset + 3)
                .chain(shape.value_offset..shape.value_offset + shape.payload_len);
            for (at, bit) in covered.flat_map(|at| (0..8).map(move |bit| (at, bit))) {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let shows = parse(&damaged, 64, FRAME_BYTES).is_none_or(|record| !record.is_intact(SEGMENT));
                assert!(shows, "kind {kind_byte:#x}: bit {bit} of byte {at} may flip");
            }
        }
    }

    /// What says which parts there are is covered too: with a part more or less, all that follows would be read from elsewhere.
    #[test]
    fn a_flipped_flag_shows() {
        for (kind_byte, expiry_ms, client_flags) in builds() {
            let (_, bytes) = build(kind_byte, expiry_ms, client_flags, b"key", &[]);
            for flipped in [flag::EXPIRY, flag::CLIENT_FLAGS, flag::EXPIRY | flag::CLIENT_FLAGS] {
                let mut damaged = bytes.clone();
                damaged[6] ^= flipped;
                damaged.resize(bytes.len() + 16, 0);
                let shows = parse(&damaged, 64, FRAME_BYTES).is_none_or(|record| !record.is_intact(SEGMENT));
                assert!(shows, "kind {kind_byte:#x}: flags {flipped:#x} may flip");
            }
        }
    }

    #[test]
    fn parts_that_are_not_there_take_no_bytes() {
        let total = |expiry_ms, client_flags| build(kind::PUT, expiry_ms, client_flags, b"k", b"abc").1.len();
        assert_eq!((total(0, 0), total(0, 7), total(1, 0), total(1, 7)), (24, 32, 32, 40));
        let (shape, bytes) = build(kind::PUT, 0x0102_0304_0506_0708, 0x1112_1314, b"k", b"abc");
        assert_eq!((shape.expiry_offset, shape.client_flags_offset, shape.key_offset), (20, 28, 32));
        assert_eq!(bytes[20..36], *b"\x08\x07\x06\x05\x04\x03\x02\x01\x14\x13\x12\x11kabc");
        let (shape, _) = build(kind::COPY, 0, 7, b"k", b"abc");
        assert_eq!((shape.client_flags_offset, shape.key_offset), (32, 36));
    }

    #[test]
    fn short_checksums_are_those_of_the_library() {
        let bytes: Vec<u8> = (0..2048_u32).map(|number| ((number * 31) >> 3) as u8).collect();
        let lengths = (0..64).chain(CRC_STREAMS_FROM_BYTES - 9..=CRC_STREAMS_FROM_BYTES + 9);
        for (len, start) in lengths.flat_map(|len| (0..9).map(move |start| (len, start))) {
            let bytes = &bytes[start..start + len];
            assert_eq!(
                crc32c_append(7, bytes),
                crc32c::crc32c_append(7, bytes),
                "{len} bytes from {start} on"
            );
        }
    }

    #[test]
    fn a_copy_keeps_its_originals_checksum() {
        let put = Word0 { value_len: 3, key_len: 1, kind: kind::PUT, encoding: 0 };
        let copy = Word0 { kind: kind::COPY | flag::ALIGNED, ..put };
        assert_eq!(checksum(put, 1, 0, 0, b"k", b"abc"), checksum(copy, 1, 0, 0, b"k", b"abc"));
        let flagged = |word: Word0| Word0 { kind: word.kind | flag::CLIENT_FLAGS, ..word };
        assert_eq!(
            checksum(flagged(put), 1, 0, 5, b"k", b"abc"),
            checksum(flagged(copy), 1, 0, 5, b"k", b"abc")
        );
        let tombstone = Word0 { value_len: 0, kind: kind::TOMBSTONE, ..put };
        assert_ne!(checksum(put, 1, 0, 0, b"k", b""), checksum(tombstone, 1, 0, 0, b"k", b""));
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let word = Word0 { value_len: u32::MAX, key_len: u16::MAX, kind: kind::PUT, encoding: 0 };
        assert!(parse(&word.pack().to_le_bytes().repeat(8), 0, 1 << 20).is_none());
        assert!(parse(&[0; 64], 0, 1 << 20).is_none(), "zeroed memory is no record");
        assert!(parse(&[1, 2, 3], 0, 1 << 20).is_none());
    }
}
