//! Any bytes as a record: parsing never fails otherwise than by saying so, and what was parsed is written as the same bytes again.
#![cfg_attr(feature = "libfuzzer", no_main)]

use thermae_core::record::{self, Draft, flag, kind};
use thermae_fuzz::{Bytes, fuzz_target};

const FRAME_BYTES: usize = 1 << 20;

fn run(data: &[u8]) {
    let mut input = Bytes(data);
    let segment_id = u64::from(input.word());
    let offset = input.word() as usize % FRAME_BYTES / 8 * 8;
    let bytes = &input.0[..input.0.len().min(FRAME_BYTES - offset)];
    // Not all of a record may be there yet: its length is judged from its first word.
    if let Some((_, total)) = record::total_len(bytes, offset, FRAME_BYTES, FRAME_BYTES - offset) {
        assert!(
            total >= record::HEADER_BYTES
                && total <= FRAME_BYTES - offset
                && total % record::ALIGN_BYTES == 0
        );
    }
    let Some(parsed) = record::parse(bytes, offset, FRAME_BYTES) else { return };
    assert!(parsed.total <= bytes.len());
    let _ = parsed.is_intact(segment_id);
    if let Some((_, extents)) = parsed.extents(FRAME_BYTES) {
        assert_eq!(extents.len(), record::extent_count(parsed.word.value_len, FRAME_BYTES));
    }
    if !parsed.word.has_key() || parsed.word.kind & !(kind::MASK | flag::ALL) != 0 {
        return;
    }
    let shape = record::shape(parsed.word, offset, FRAME_BYTES);
    let draft = Draft {
        word: parsed.word,
        expiry_ms: parsed.expiry_ms,
        client_flags: parsed.client_flags,
        link: parsed.link,
        batch_offset: parsed.batch_offset,
        key: parsed.key,
        payload: parsed.payload,
    };
    let crc = draft.checksum(parsed.sequence);
    let mut written = vec![0xaa_u8; shape.total];
    // SAFETY: the vector is as long as the shape says.
    unsafe { record::write_body(written.as_mut_ptr(), &draft, &shape, parsed.sequence, crc, segment_id) };
    written[..8].copy_from_slice(&parsed.word.pack().to_le_bytes());
    let Some(again) = record::parse(&written, offset, FRAME_BYTES) else {
        panic!("what was written does not parse")
    };
    let is_possible = parsed.sequence <= record::SEQUENCE_MAX;
    assert_eq!(again.is_intact(segment_id), is_possible, "a number that no store can have come to is damage");
    let fields = |record: &record::Parsed<'_>| {
        (record.word, record.sequence, record.expiry_ms, record.link, record.batch_offset, record.total)
    };
    assert_eq!(fields(&again), fields(&parsed));
    assert_eq!(
        (again.client_flags, again.key, again.payload),
        (parsed.client_flags, parsed.key, parsed.payload)
    );
    // One bit of what the checksum covers is enough to tell.
    let at = shape.key_offset + parsed.key.len() / 2;
    if !parsed.key.is_empty() {
        written[at] ^= 1;
        assert!(
            !record::parse(&written, offset, FRAME_BYTES).is_some_and(|record| record.is_intact(segment_id))
        );
    }
}

fuzz_target!(run);
