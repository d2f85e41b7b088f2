//! Integers of any width inside a string: what BITFIELD reads and writes.
//!
//! A field is 1 to 64 bits (63 if it has no sign, because replies are signed), highest bit first, at any offset in bits; in the
//! zeros behind the string's end too, which writing makes part of it. Signed fields are in two's complement.
//!
//! Redis makes the string long enough for every write before the first of them, and leaves it so where all of them overflow and fail:
//! [`apply`] does the same, because the string's length is what STRLEN and GET show.

use crate::numbers::parse_integer;

/// Bytes that a field of 64 bits can lie in.
const FIELD_BYTES_MAX: usize = 9;

/// A field's width, and whether it has a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldType {
    is_signed: bool,
    bits: u32,
}

/// What happens to a number that a field cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The bits that the field has room for are kept.
    #[default]
    Wrap,
    /// The nearest number that it can hold takes its place.
    Saturate,
    /// Nothing is written, and there is no reply.
    Fail,
}

/// What is done with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The reply is its value.
    Get,
    /// It gets this value; the reply is the one before.
    Set(i64),
    /// This is added to it; the reply is the sum.
    Increment(i64),
}

/// One operation of a BITFIELD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Of the field.
    pub field: FieldType,
    /// Where the field is, in bits; below what [`crate::bits::parse_offset`] allows.
    pub offset: u64,
    /// What is done.
    pub action: Action,
    /// For what overflows.
    pub overflow: Overflow,
}

/// What a BITFIELD came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// One for each operation; None for a write that overflowed and failed.
    pub replies: Vec<Option<i64>>,
    /// Whether any byte of the string is new or another one.
    pub is_changed: bool,
}

impl FieldType {
    /// Reads `i` or `u` and a width, such as "i16". None where Redis says "Invalid bitfield type".
    ///
    /// # Examples
    /// ```
    /// use thermae_server::bitfield::FieldType;
    /// assert_eq!(FieldType::parse(b"i16").unwrap().bits(), 16);
    /// assert_eq!(FieldType::parse(b"u64"), None);
    /// ```
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (is_signed, bits_max) = match text.first()? {
            b'i' => (true, 64),
            b'u' => (false, 63),
            _ => return None,
        };
        let bits = u32::try_from(parse_integer(&text[1..])?).ok()?;
        (1..=bits_max).contains(&bits).then_some(Self { is_signed, bits })
    }

    /// Its width.
    pub fn bits(self) -> u32 {
        self.bits
    }

    /// The number that these bits, the lowest of a word, say.
    fn decoded(self, bits: u64) -> i64 {
        let unused = 64 - self.bits;
        let high = bits << unused;
        if self.is_signed { high as i64 >> unused } else { (high >> unused) as i64 }
    }

    fn min_max(self) -> (i128, i128) {
        if self.is_signed {
            (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1)
        } else {
            (0, (1 << self.bits) - 1)
        }
    }

    /// What a field holds that is given this number; None if that fails.
    fn fitted(self, number: i128, overflow: Overflow) -> Option<i64> {
        let (min, max) = self.min_max();
        if (min..=max).contains(&number) {
            return Some(number as i64);
        }
        match overflow {
            Overflow::Wrap => Some(self.decoded(number as u64)),
            Overflow::Saturate => Some(number.clamp(min, max) as i64),
            Overflow::Fail => None,
        }
    }

    /// The number that SET means by an argument. Without a sign, one below zero is a large one. With a sign, one so far below zero that its
    /// distance from the field's greatest number takes more than 63 bits is too large for Redis where it saturates: the distance wraps.
    fn argument(self, value: i64, overflow: Overflow) -> i128 {
        if !self.is_signed {
            return i128::from(value as u64);
        }
        let value = i128::from(value);
        let (_, max) = self.min_max();
        let wraps = self.bits < 64 && max - value > i128::from(i64::MAX);
        if wraps && overflow == Overflow::Saturate { max + 1 } else { value }
    }
}

/// A field's value.
///
/// # Examples
/// ```
/// use thermae_server::bitfield::{FieldType, get};
/// let [unsigned, signed] = [b"u4", b"i4"].map(|name| FieldType::parse(name).unwrap());
/// assert_eq!((get(b"\x0f\xf0", unsigned, 4), get(b"\x0f\xf0", signed, 4)), (15, -1));
/// ```
pub fn get(bytes: &[u8], field: FieldType, offset: u64) -> i64 {
    let first_byte = usize::try_from(offset >> 3).unwrap_or(usize::MAX).min(bytes.len());
    let mut window = [0; FIELD_BYTES_MAX];
    let len = (bytes.len() - first_byte).min(FIELD_BYTES_MAX);
    window[..len].copy_from_slice(&bytes[first_byte..first_byte + len]);
    field.decoded((word_of(window) >> shift_of(field, offset)) as u64)
}

fn word_of(window: [u8; FIELD_BYTES_MAX]) -> u128 {
    window.iter().fold(0, |word, byte| word << 8 | u128::from(*byte))
}

/// How far a field is above the lowest bit of the window that begins with its first byte.
fn shift_of(field: FieldType, offset: u64) -> u32 {
    FIELD_BYTES_MAX as u32 * 8 - (offset & 7) as u32 - field.bits
}

/// How many bytes a string has at least that a field is in.
fn bytes_to_hold(field: FieldType, offset: u64) -> usize {
    ((offset + u64::from(field.bits) - 1) >> 3) as usize + 1
}

/// Writes a field into a string that is long enough.
fn put(bytes: &mut [u8], field: FieldType, offset: u64, value: i64) {
    let first_byte = (offset >> 3) as usize;
    let touched = &mut bytes[first_byte..bytes_to_hold(field, offset)];
    let mut window = [0; FIELD_BYTES_MAX];
    window[..touched.len()].copy_from_slice(touched);
    let shift = shift_of(field, offset);
    let mask = ((1_u128 << field.bits) - 1) << shift;
    let word = word_of(window) & !mask | (u128::from(value as u64) << shift) & mask;
    let unused_bits = (FIELD_BYTES_MAX - touched.len()) as u32 * 8;
    let word = word >> unused_bits;
    for (index, byte) in touched.iter_mut().rev().enumerate() {
        *byte = (word >> (8 * index)) as u8;
    }
}

/// How long a string is at least once these operations were applied to it: as long as those that write take.
pub fn bytes_written(operations: &[Operation]) -> usize {
    let writes = operations.iter().filter(|operation| operation.action != Action::Get);
    writes.map(|operation| bytes_to_hold(operation.field, operation.offset)).max().unwrap_or(0)
}

/// Does all operations, in order, on a string; an empty one stands for a missing one.
///
/// # Examples
/// ```
/// use thermae_server::bitfield::{Action, FieldType, Operation, Overflow, apply};
/// let field = FieldType::parse(b"u2").unwrap();
/// let increment = Operation { field, offset: 6, action: Action::Increment(3), overflow: Overflow::Wrap };
/// let mut bytes = Vec::new();
/// let applied = apply(&mut bytes, &[increment, increment]);
/// assert_eq!((applied.replies, bytes), (vec![Some(3), Some(2)], vec![0b10]));
/// ```
pub fn apply(bytes: &mut Vec<u8>, operations: &[Operation]) -> Applied {
    let len = bytes_written(operations);
    let mut is_changed = false;
    if len > bytes.len() {
        bytes.resize(len, 0);
        is_changed = true;
    }
    let mut replies = Vec::with_capacity(operations.len());
    for Operation { field, offset, action, overflow } in operations.iter().copied() {
        let old = get(bytes, field, offset);
        let (new, reply) = match action {
            Action::Get => {
                replies.push(Some(old));
                continue;
            }
            Action::Set(value) => {
                let new = field.fitted(field.argument(value, overflow), overflow);
                (new, new.map(|_| old))
            }
            Action::Increment(increment) => {
                let new = field.fitted(i128::from(old) + i128::from(increment), overflow);
                (new, new)
            }
        };
        if let Some(new) = new.filter(|new| *new != old) {
            put(bytes, field, offset, new);
            is_changed = true;
        }
        replies.push(reply);
    }
    Applied { replies, is_changed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bits;
    use proptest::prelude::*;

    fn field(name: &str) -> FieldType {
        FieldType::parse(name.as_bytes()).unwrap()
    }

    fn one(bytes: &mut Vec<u8>, name: &str, action: Action, overflow: Overflow) -> Option<i64> {
        apply(bytes, &[Operation { field: field(name), offset: 0, action, overflow }]).replies[0]
    }

    #[test]
    fn types() {
        for name in ["i1", "u1", "i64", "u63"] {
            let bits: u32 = name[1..].parse().unwrap();
            assert_eq!(field(name), FieldType { is_signed: name.starts_with('i'), bits });
        }
        for name in [
            "",
            "i",
            "u",
            "i0",
            "u0",
            "i65",
            "u64",
            "I8",
            "U8",
            "8",
            "i-1",
            "i08",
            "i8 ",
            "x8",
            "i4294967304",
        ] {
            assert_eq!(FieldType::parse(name.as_bytes()), None, "{name:?}");
        }
    }

    #[test]
    fn overflows() {
        for (name, action, overflow, reply, stored) in [
            ("u8", Action::Set(256), Overflow::Wrap, Some(0), 0),
            ("u8", Action::Set(257), Overflow::Wrap, Some(0), 1),
            ("u8", Action::Set(300), Overflow::Saturate, Some(0), 255),
            ("u8", Action::Set(-1), Overflow::Saturate, Some(0), 255),
            ("u8", Action::Set(-1), Overflow::Wrap, Some(0), 255),
            ("u8", Action::Set(-1), Overflow::Fail, None, 0),
            ("u8", Action::Increment(-1), Overflow::Saturate, Some(0), 0),
            ("u8", Action::Increment(-1), Overflow::Wrap, Some(255), 255),
            ("u8", Action::Increment(256), Overflow::Fail, None, 0),
            ("i8", Action::Set(128), Overflow::Wrap, Some(0), -128),
            ("i8", Action::Set(-129), Overflow::Wrap, Some(0), 127),
            ("i8", Action::Set(-129), Overflow::Saturate, Some(0), -128),
            ("i8", Action::Set(i64::MIN + 128), Overflow::Saturate, Some(0), -128),
            ("i8", Action::Set(i64::MIN + 127), Overflow::Saturate, Some(0), 127),
            ("i8", Action::Set(i64::MIN + 127), Overflow::Wrap, Some(0), 127),
            ("i8", Action::Set(i64::MIN + 127), Overflow::Fail, None, 0),
            ("i8", Action::Increment(200), Overflow::Saturate, Some(127), 127),
            ("i8", Action::Increment(-200), Overflow::Saturate, Some(-128), -128),
            ("i8", Action::Increment(-200), Overflow::Wrap, Some(56), 56),
            ("i64", Action::Set(i64::MIN), Overflow::Fail, Some(0), i64::MIN),
            ("u63", Action::Set(i64::MAX), Overflow::Fail, Some(0), i64::MAX),
            ("u63", Action::Set(-1), Overflow::Wrap, Some(0), i64::MAX),
            ("i1", Action::Set(1), Overflow::Wrap, Some(0), -1),
            ("i1", Action::Set(1), Overflow::Saturate, Some(0), 0),
        ] {
            let mut bytes = Vec::new();
            assert_eq!(one(&mut bytes, name, action, overflow), reply, "{name} {action:?} {overflow:?}");
            assert_eq!(get(&bytes, field(name), 0), stored, "{name} {action:?} {overflow:?}");
        }
        let mut bytes = i64::MAX.to_be_bytes().to_vec();
        assert_eq!(one(&mut bytes, "i64", Action::Increment(1), Overflow::Fail), None);
        assert_eq!(one(&mut bytes, "i64", Action::Increment(1), Overflow::Saturate), Some(i64::MAX));
        assert_eq!(one(&mut bytes, "i64", Action::Increment(1), Overflow::Wrap), Some(i64::MIN));
        assert_eq!(one(&mut bytes, "i64", Action::Increment(-1), Overflow::Fail), None);
        assert_eq!(one(&mut bytes, "i64", Action::Increment(-1), Overflow::Saturate), Some(i64::MIN));
        assert_eq!(one(&mut bytes, "i64", Action::Increment(i64::MIN), Overflow::Wrap), Some(0));
    }

    #[test]
    fn strings_grow_before_the_first_write_and_for_writes_only() {
        let operation = |action, offset, overflow| Operation { field: field("u8"), offset, action, overflow };
        let mut bytes = Vec::new();
        let applied = apply(&mut bytes, &[operation(Action::Get, 1000, Overflow::Wrap)]);
        assert_eq!(applied, Applied { replies: vec![Some(0)], is_changed: false });
        assert!(bytes.is_empty());
        let failing = operation(Action::Set(256), 9, Overflow::Fail);
        let applied = apply(&mut bytes, &[failing]);
        assert_eq!(applied, Applied { replies: vec![None], is_changed: true });
        assert_eq!(bytes, [0, 0, 0]);
        assert!(!apply(&mut bytes, &[failing]).is_changed);
        let same = operation(Action::Set(0), 16, Overflow::Wrap);
        assert_eq!(apply(&mut bytes, &[same]), Applied { replies: vec![Some(0)], is_changed: false });
    }

    #[test]
    fn far_behind_the_end() {
        assert_eq!(get(b"\xff", field("i64"), u64::MAX), 0);
        assert_eq!(get(b"\xff", field("i64"), 0), i64::from_be_bytes([0xff, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(get(b"\xff", field("u63"), 7), 1 << 62);
    }

    proptest! {
        #[test]
        fn as_bits_set_one_by_one(
            bytes in prop::collection::vec(any::<u8>(), 0..20),
            offset in 0_u64..200,
            bits in 1_u32..65,
            value: i64,
        ) {
            let field = FieldType { is_signed: true, bits };
            let mut expected = bytes.clone();
            for index in 0..bits {
                let bit = value >> (bits - 1 - index) & 1 == 1;
                bits::set_bit(&mut expected, offset + u64::from(index), bit);
            }
            let mut found = bytes.clone();
            let operation = Operation { field, offset, action: Action::Set(value), overflow: Overflow::Wrap };
            let applied = apply(&mut found, &[operation]);
            prop_assert_eq!(applied.is_changed, found != bytes);
            prop_assert_eq!(&found, &expected);
            prop_assert_eq!(get(&found, field, offset), value << (64 - bits) >> (64 - bits));
            prop_assert_eq!(applied.replies, vec![Some(get(&bytes, field, offset))]);
        }
    }
}
