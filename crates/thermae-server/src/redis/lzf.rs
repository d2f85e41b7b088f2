//! LZF, in which Redis keeps long strings within dumps.
//!
//! ```text
//! 000nnnnn                     n + 1 bytes follow as they are
//! nnnooooo oooooooo            n + 2 bytes (n from 1 to 6) that came o + 1 bytes before the end of what there is
//! 111ooooo nnnnnnnn oooooooo   n + 9 bytes, likewise
//! ```
//! What is compressed here may differ from what Redis makes of it; each reads the other's. What is decompressed was sent by a stranger: each
//! length is checked, and no more memory is taken than what really comes out.

/// Bytes that one step takes as they are, at most.
const LITERALS_MAX: usize = 32;
/// Farthest that bytes are taken from.
const DISTANCE_MAX: usize = 1 << 13;
/// Most bytes that one step repeats, and the fewest.
const MATCH_MAX: usize = 264;
const MATCH_MIN: usize = 3;
/// A repetition of up to so many bytes has its length in the first byte.
const SHORT_MATCH_MAX: usize = 8;
const TABLE_BITS: u32 = 14;
/// Bytes that compression has to save.
const SAVED_BYTES_MIN: usize = 4;

/// Compresses; `None` where that would not save a few bytes.
pub fn compress(input: &[u8]) -> Option<Vec<u8>> {
    let output_max = input.len().checked_sub(SAVED_BYTES_MIN)?;
    let mut output = Vec::with_capacity(output_max);
    // For each hash of three bytes where they were last, counted from 1.
    let mut places = vec![0_usize; 1 << TABLE_BITS];
    let (mut at, mut literals_from) = (0, 0);
    while at + MATCH_MIN <= input.len() {
        let place = &mut places[hash(&input[at..])];
        let candidate =
            std::mem::replace(place, at + 1).checked_sub(1).filter(|from| at - from <= DISTANCE_MAX);
        let length = candidate.map_or(0, |from| common(&input[from..], &input[at..]));
        match candidate {
            Some(from) if length >= MATCH_MIN => {
                put_literals(&mut output, &input[literals_from..at]);
                put_match(&mut output, length, at - from - 1);
                at += length;
                literals_from = at;
            }
            _ => at += 1,
        }
        if output.len() + (at - literals_from) > output_max {
            return None;
        }
    }
    put_literals(&mut output, &input[literals_from..]);
    (output.len() <= output_max).then_some(output)
}

/// Of the three bytes that `text` begins with.
fn hash(text: &[u8]) -> usize {
    let bytes = u32::from_le_bytes([text[0], text[1], text[2], 0]);
    (bytes.wrapping_mul(0x9e37_79b1) >> (32 - TABLE_BITS)) as usize
}

/// How many bytes both begin with, as far as one step can repeat them.
fn common(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take(MATCH_MAX).take_while(|(left, right)| left == right).count()
}

fn put_literals(output: &mut Vec<u8>, literals: &[u8]) {
    for run in literals.chunks(LITERALS_MAX) {
        output.push(run.len() as u8 - 1);
        output.extend_from_slice(run);
    }
}

fn put_match(output: &mut Vec<u8>, length: usize, offset: usize) {
    let high = (offset >> 8) as u8;
    if length <= SHORT_MATCH_MAX {
        output.push((length as u8 - 2) << 5 | high);
    } else {
        output.extend([7 << 5 | high, (length - SHORT_MATCH_MAX - 1) as u8]);
    }
    output.push(offset as u8);
}

/// Decompresses what has to become exactly so many bytes; `None` where it does not.
pub fn decompress(input: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut output: Vec<u8> = Vec::new();
    let mut rest = input.iter();
    while let Some(&control) = rest.next() {
        if usize::from(control) < LITERALS_MAX {
            let (run, after) = rest.as_slice().split_at_checked(usize::from(control) + 1)?;
            output.extend_from_slice(run);
            rest = after.iter();
        } else {
            let mut count = usize::from(control >> 5) + 2;
            if count == SHORT_MATCH_MAX + 1 {
                count += usize::from(*rest.next()?);
            }
            let offset = usize::from(control & 0x1f) << 8 | usize::from(*rest.next()?);
            let from = output.len().checked_sub(offset + 1)?;
            // One by one: what is repeated may include what this step writes.
            for index in from..from + count {
                output.push(output[index]);
            }
        }
        if output.len() > length {
            return None;
        }
    }
    (output.len() == length).then_some(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_compressed_comes_back(
            words in prop::collection::vec(prop::sample::select(vec!["a", "bc", "abcabc", "\0\u{ff}", "xyzxyzxyz"]), 0..500)
        ) {
            let text = words.concat().into_bytes();
            if let Some(compressed) = compress(&text) {
                prop_assert!(compressed.len() + SAVED_BYTES_MIN <= text.len());
                prop_assert_eq!(decompress(&compressed, text.len()), Some(text.clone()));
                prop_assert_eq!(decompress(&compressed, text.len() + 1), None);
            }
        }

        #[test]
        fn any_bytes_decompress_or_are_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..200), length in 0_usize..2000
        ) {
            prop_assert!(decompress(&bytes, length).is_none_or(|output| output.len() == length));
        }
    }

    #[test]
    fn far_and_long_repetitions_fit_their_fields() {
        let mut text: Vec<u8> =
            (0..DISTANCE_MAX).map(|number| (number * number / 7 + number / 256) as u8).collect();
        text.extend_from_within(..600);
        text.extend([0; 3 * MATCH_MAX + 2]);
        let compressed = compress(&text).unwrap();
        assert_eq!(decompress(&compressed, text.len()), Some(text));
    }

    #[test]
    fn what_can_not_be_shortened_stays() {
        let text: Vec<u8> = (0..=255).collect();
        assert_eq!(compress(&text), None);
        assert_eq!((compress(b""), compress(b"aaa")), (None, None));
    }

    #[test]
    fn redis_writes_what_is_read_here() {
        assert_eq!(decompress(b"\x01xx\xe0\n\0", 21), Some(vec![b'x'; 21]));
        let long = b"\x01aa\xe0\xff\0\xe0\xff\0\xe0\xff\0\xe0\xc3\0\x01aa";
        assert_eq!(decompress(long, 1000), Some(vec![b'a'; 1000]));
        for (broken, length) in
            [(&b"\x05ab"[..], 2), (b"\xe0", 9), (b"\xe0\x01", 9), (b"\x20\0", 3), (b"\0a\x20\x01", 4)]
        {
            assert_eq!(decompress(broken, length), None, "{broken:?}");
        }
    }
}
