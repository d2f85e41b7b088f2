//! A string as an array of bits: what SETBIT, GETBIT, BITCOUNT, BITPOS and BITOP compute.
//!
//! Bit 0 is the highest bit of the first byte. Behind its end a string goes on in zeros: reading there finds them, and setting a bit there
//! makes the string longer. How long it may become, the caller decides, with [`parse_offset`]. Ranges are as Redis 7.0 has them: both
//! ends included, in bytes or in bits, and counted from the string's end where negative.

use crate::numbers::parse_integer;
use std::ops::Range;

/// What the ends of a range count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes: the range is of all of their bits.
    Byte,
    /// Bits.
    Bit,
}

/// From where a bit is looked for, and to where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// Everywhere, and in the zeros behind the string.
    Whole,
    /// From this byte on, and in the zeros behind the string.
    From(i64),
    /// From `first` to `last`, and nowhere else.
    Between(i64, i64, Unit),
}

/// How several strings are combined into one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combination {
    /// The bits that are set in all of them.
    And,
    /// The bits that are set in any of them.
    Or,
    /// The bits that are set in an odd number of them.
    Xor,
}

/// Reads an offset in bits; `#3` is the third integer of `field_bits` bits, where the command has such. None where Redis says "bit offset
/// is not an integer or out of range": not below `string_bytes_max`.
///
/// # Examples
/// ```
/// use thermae_server::bits::parse_offset;
/// assert_eq!(parse_offset(b"100", None, 512 << 20), Some(100));
/// assert_eq!(parse_offset(b"#3", Some(8), 512 << 20), Some(24));
/// assert_eq!(parse_offset(b"4294967296", None, 512 << 20), None);
/// ```
pub fn parse_offset(text: &[u8], field_bits: Option<u32>, string_bytes_max: u64) -> Option<u64> {
    let offset = match (text.split_first(), field_bits) {
        (Some((b'#', number)), Some(field_bits)) => {
            parse_integer(number)?.checked_mul(i64::from(field_bits))?
        }
        _ => parse_integer(text)?,
    };
    u64::try_from(offset).ok().filter(|offset| offset >> 3 < string_bytes_max)
}

/// The bit at an offset.
pub fn get_bit(bytes: &[u8], offset: u64) -> bool {
    let byte = usize::try_from(offset >> 3).ok().and_then(|index| bytes.get(index));
    byte.is_some_and(|byte| byte & mask_of(offset) != 0)
}

/// Sets the bit at an offset, in a string that becomes as long as that takes; what it was before.
///
/// # Examples
/// ```
/// use thermae_server::bits::set_bit;
/// let mut bytes = Vec::new();
/// assert!(!set_bit(&mut bytes, 9, true));
/// assert_eq!(bytes, [0, 0x40]);
/// ```
pub fn set_bit(bytes: &mut Vec<u8>, offset: u64, bit: bool) -> bool {
    let index = (offset >> 3) as usize;
    if index >= bytes.len() {
        bytes.resize(index + 1, 0);
    }
    let old = get_bit(bytes, offset);
    if old != bit {
        bytes[index] ^= mask_of(offset);
    }
    old
}

fn mask_of(offset: u64) -> u8 {
    0x80 >> (offset & 7)
}

/// How many bits are set, in a range that includes both ends, or in all of it.
///
/// # Examples
/// ```
/// use thermae_server::bits::{Unit, count};
/// assert_eq!(count(b"foobar", None), 26);
/// assert_eq!(count(b"foobar", Some((1, 1, Unit::Byte))), 6);
/// assert_eq!(count(b"foobar", Some((5, -18, Unit::Bit))), 17);
/// ```
pub fn count(bytes: &[u8], range: Option<(i64, i64, Unit)>) -> u64 {
    let bits = match range {
        None => 0..bytes.len() as u64 * 8,
        // Else both would be moved to 0 where the string is short, and name its first byte.
        Some((first, last, _)) if first < 0 && last < 0 && first > last => return 0,
        Some((first, last, unit)) => bits_of(bytes.len(), first, last, unit),
    };
    if bits.is_empty() {
        return 0;
    }
    let (first_byte, last_byte) = ((bits.start >> 3) as usize, ((bits.end - 1) >> 3) as usize);
    let before = bytes[first_byte] & !(0xff >> (bits.start & 7));
    let behind = bytes[last_byte] & (mask_of(bits.end - 1) - 1);
    let outside = before.count_ones() + behind.count_ones();
    ones(&bytes[first_byte..=last_byte]) - u64::from(outside)
}

/// Set bits of all bytes, eight at a time.
fn ones(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let of_words: u64 = words.iter().map(|word| u64::from(u64::from_ne_bytes(*word).count_ones())).sum();
    of_words + rest.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>()
}

/// The bits that a range with negative ends, or with ends outside, names. Empty where it names none.
fn bits_of(len: usize, first: i64, last: i64, unit: Unit) -> Range<u64> {
    // A string's length in bits fits by far.
    let total = match unit {
        Unit::Byte => len as i64,
        Unit::Bit => len as i64 * 8,
    };
    let from_start = |end: i64| if end < 0 { (total + end).max(0) } else { end };
    let (first, last) = (from_start(first), from_start(last).min(total - 1));
    if first > last {
        return 0..0;
    }
    let (first, last) = (first as u64, last as u64);
    match unit {
        Unit::Byte => first * 8..(last + 1) * 8,
        Unit::Bit => first..last + 1,
    }
}

/// Where the first bit is that has the value. A clear bit is found behind the string's end at the latest, unless the range says where to
/// end; and nothing is found in an empty range. A missing string is not the empty one: Redis finds its first clear bit at 0.
///
/// # Examples
/// ```
/// use thermae_server::bits::{Span, Unit, position};
/// assert_eq!(position(b"\xff\xf0\x00", false, Span::Whole), Some(12));
/// assert_eq!(position(b"\xff\xff", false, Span::Whole), Some(16));
/// assert_eq!(position(b"\xff\xff", false, Span::Between(0, -1, Unit::Byte)), None);
/// ```
pub fn position(bytes: &[u8], bit: bool, span: Span) -> Option<u64> {
    let (bits, is_bounded) = match span {
        Span::Whole => (bits_of(bytes.len(), 0, -1, Unit::Byte), false),
        Span::From(first) => (bits_of(bytes.len(), first, -1, Unit::Byte), false),
        Span::Between(first, last, unit) => (bits_of(bytes.len(), first, last, unit), true),
    };
    if bits.is_empty() {
        return None;
    }
    // Looking for a clear bit is looking for a set one in the complement.
    let flip = if bit { 0 } else { 0xff };
    let (first_byte, end_byte) = ((bits.start >> 3) as usize, ((bits.end - 1) >> 3) as usize + 1);
    let head = (bytes[first_byte] ^ flip) & (0xff >> (bits.start & 7));
    let found = if head != 0 {
        Some((first_byte, head))
    } else {
        first_other_than(&bytes[first_byte + 1..end_byte], flip)
            .map(|index| first_byte + 1 + index)
            .map(|index| (index, bytes[index] ^ flip))
    };
    found
        .map(|(index, byte)| index as u64 * 8 + u64::from(byte.leading_zeros()))
        .filter(|position| bits.contains(position))
        .or((!bit && !is_bounded).then_some(bits.end))
}

/// Where the first byte is that is not the given one; eight at a time.
fn first_other_than(bytes: &[u8], byte: u8) -> Option<usize> {
    let (words, _) = bytes.as_chunks::<8>();
    let same_words = words.iter().take_while(|word| **word == [byte; 8]).count();
    let rest = &bytes[same_words * 8..];
    rest.iter().position(|other| *other != byte).map(|index| same_words * 8 + index)
}

/// Combines what was combined so far with one more string, bit by bit; the result is as long as the longest, the shorter ones going on in zeros. A missing
/// string is an empty one. One at a time, so that two of them are in memory, however many there are.
///
/// # Examples
/// ```
/// use thermae_server::bits::{Combination, combine};
/// let mut bits = b"foobar".to_vec();
/// combine(Combination::And, &mut bits, b"abcdef");
/// assert_eq!(bits, b"`bc`ab");
/// combine(Combination::Or, &mut bits, b"\x80\0\0\0\0\0\x02");
/// assert_eq!(bits, b"\xe0bc`ab\x02");
/// ```
pub fn combine(combination: Combination, result: &mut Vec<u8>, input: &[u8]) {
    if result.len() < input.len() {
        result.resize(input.len(), 0);
    }
    let (shared, behind) = result.split_at_mut(input.len());
    let pairs = shared.iter_mut().zip(input);
    match combination {
        Combination::And => {
            pairs.for_each(|(byte, other)| *byte &= other);
            behind.fill(0);
        }
        Combination::Or => pairs.for_each(|(byte, other)| *byte |= other),
        Combination::Xor => pairs.for_each(|(byte, other)| *byte ^= other),
    }
}

/// A string with all of its bits the other way: BITOP NOT.
pub fn complement(input: &[u8]) -> Vec<u8> {
    input.iter().map(|byte| !byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn offsets() {
        for (text, field_bits, offset) in [
            ("0", None, Some(0)),
            ("7", Some(8), Some(7)),
            ("#7", Some(8), Some(56)),
            ("#0", Some(64), Some(0)),
            ("1023", None, Some(1023)),
            ("1024", None, None),
            ("#127", Some(8), Some(1016)),
            ("#128", Some(8), None),
            ("#7", None, None),
            ("-1", None, None),
            ("#-1", Some(8), None),
            ("#9223372036854775807", Some(2), None),
            ("", None, None),
            ("#", Some(8), None),
            ("01", None, None),
        ] {
            assert_eq!(parse_offset(text.as_bytes(), field_bits, 128), offset, "{text:?}");
        }
    }

    #[test]
    fn single_bits() {
        let mut bytes = b"a".to_vec();
        assert!(!get_bit(&bytes, u64::MAX));
        assert!(get_bit(&bytes, 1));
        assert!(!set_bit(&mut bytes, 23, false));
        assert_eq!(bytes, b"a\0\0");
        assert!(!set_bit(&mut bytes, 6, true));
        assert!(set_bit(&mut bytes, 7, false));
        assert_eq!(bytes, b"b\0\0");
    }

    #[test]
    fn counts_of_the_documentation() {
        for (range, expected) in [
            ((0, 0, Unit::Byte), 4),
            ((1, 1, Unit::Byte), 6),
            ((5, 30, Unit::Bit), 17),
            ((0, -5, Unit::Byte), 10),
            ((3, 2, Unit::Byte), 0),
            ((-2, -1, Unit::Byte), 7),
            ((-9, -8, Unit::Byte), 4),
            ((-8, -9, Unit::Byte), 0),
            ((6, 9, Unit::Byte), 0),
            ((i64::MIN, i64::MAX, Unit::Bit), 26),
            ((i64::MAX, i64::MIN, Unit::Bit), 0),
        ] {
            assert_eq!(count(b"foobar", Some(range)), expected, "{range:?}");
        }
        assert_eq!(count(b"", None), 0);
        assert_eq!(count(b"", Some((0, -1, Unit::Byte))), 0);
        assert_eq!(count(b"", Some((-1, -1, Unit::Bit))), 0);
    }

    #[test]
    fn positions() {
        for (bytes, bit, span, expected) in [
            (&b"\xff\xf0\x00"[..], false, Span::Whole, Some(12)),
            (b"\x00\xff\xf0", true, Span::From(0), Some(8)),
            (b"\x00\xff\xf0", true, Span::From(2), Some(16)),
            (b"\x00\xff\xf0", true, Span::Between(2, -1, Unit::Byte), Some(16)),
            (b"\x00\xff\xf0", true, Span::Between(7, 15, Unit::Bit), Some(8)),
            (b"\x00\xff\xf0", true, Span::Between(7, -3, Unit::Bit), Some(8)),
            (b"\x00\x00\x00", true, Span::Whole, None),
            (b"\xff\xff\xff", false, Span::Whole, Some(24)),
            (b"\xff\xff\xff", false, Span::From(-1), Some(24)),
            (b"\xff\xff\xff", false, Span::From(3), None),
            (b"\xff\xff\xff", false, Span::Between(0, 2, Unit::Byte), None),
            (b"\xff\xff\xff", false, Span::Between(9, 14, Unit::Bit), None),
            (b"\xff\xf7\xff", false, Span::Between(13, 14, Unit::Bit), None),
            (b"\xff\xf7\xff", false, Span::Between(12, 12, Unit::Bit), Some(12)),
            (b"", false, Span::Whole, None),
            (b"", true, Span::Whole, None),
        ] {
            assert_eq!(position(bytes, bit, span), expected, "{bytes:x?} {bit} {span:?}");
        }
    }

    fn combined(combination: Combination, inputs: &[&[u8]]) -> Vec<u8> {
        let mut result = inputs[0].to_vec();
        inputs[1..].iter().for_each(|input| combine(combination, &mut result, input));
        result
    }

    #[test]
    fn combinations_of_different_lengths() {
        assert_eq!(combined(Combination::And, &[b"\xff\xff", b"\x0f"]), b"\x0f\x00");
        assert_eq!(combined(Combination::And, &[b"\x0f", b"\xff\xff"]), b"\x0f\x00");
        assert_eq!(combined(Combination::Or, &[b"\x0f", b"", b"\xf0\xff"]), b"\xff\xff");
        assert_eq!(combined(Combination::Xor, &[b"\x0f\x01", b"\xff", b"\x01"]), b"\xf1\x01");
        assert_eq!(combined(Combination::Xor, &[b"one"]), b"one");
        assert!(combined(Combination::And, &[b"", b""]).is_empty());
        assert_eq!(complement(b"\x00\xf0"), b"\xff\x0f");
    }

    /// The bits that a range names, told one by one.
    fn named(len: usize, first: i64, last: i64, unit: Unit) -> Vec<u64> {
        let width = if unit == Unit::Byte { 8 } else { 1 };
        let total = len as i64 * 8 / width;
        let resolve = |end: i64| if end < 0 { (end + total).max(0) } else { end };
        (0..total)
            .filter(|index| *index >= resolve(first) && *index <= resolve(last))
            .flat_map(|index| (index * width) as u64..((index + 1) * width) as u64)
            .collect()
    }

    fn units() -> impl Strategy<Value = Unit> {
        prop_oneof![Just(Unit::Byte), Just(Unit::Bit)]
    }

    fn strings() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![4 => Just(0_u8), 4 => Just(0xff_u8), 1 => any::<u8>()];
        prop::collection::vec(byte, 0..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn ranges_as_told_one_by_one(bytes in strings(), first in -400_i64..400, last in -400_i64..400, unit in units(), bit: bool) {
            let bits = named(bytes.len(), first, last, unit);
            let set = bits.iter().filter(|offset| get_bit(&bytes, **offset)).count() as u64;
            let expected = if first < 0 && last < 0 && first > last { 0 } else { set };
            prop_assert_eq!(count(&bytes, Some((first, last, unit))), expected);
            let found = bits.iter().copied().find(|offset| get_bit(&bytes, *offset) == bit);
            prop_assert_eq!(position(&bytes, bit, Span::Between(first, last, unit)), found);
            let open = named(bytes.len(), first, -1, Unit::Byte);
            let found = open.iter().copied().find(|offset| get_bit(&bytes, *offset) == bit);
            let behind = (!bit && !open.is_empty()).then_some(bytes.len() as u64 * 8);
            prop_assert_eq!(position(&bytes, bit, Span::From(first)), found.or(behind));
        }

        #[test]
        fn combinations_bit_by_bit(inputs in prop::collection::vec(strings(), 1..5)) {
            let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
            let len = inputs.iter().map(|input| input.len()).max().unwrap_or(0);
            for (combination, threshold) in
                [(Combination::And, inputs.len()), (Combination::Or, 1), (Combination::Xor, 0)]
            {
                let result = combined(combination, &inputs);
                prop_assert_eq!(result.len(), len);
                for offset in 0..len as u64 * 8 {
                    let set = inputs.iter().filter(|input| get_bit(input, offset)).count();
                    let expected = if combination == Combination::Xor { set % 2 == 1 } else { set >= threshold };
                    prop_assert_eq!(get_bit(&result, offset), expected);
                }
            }
        }
    }
}
