//! The sparse encoding: opcodes for runs of registers that hold the same.
//!
//! ```text
//! 00llllll            zeros, length l + 1: 1 to 64
//! 01llllll llllllll   zeros, length l + 1: 1 to 16384, high bits first
//! 1vvvvvll            the value v + 1, 1 to 32, length l + 1: 1 to 4
//! ```
//! All opcodes together have exactly as many registers as a sketch. Which opcodes stand for the same registers depends on the order in
//! which they were raised; the splitting and joining here is Redis's, step by step, because equal histories have to give equal bytes.

use super::{HEADER_BYTES, REGISTERS, SPARSE_BYTES_MAX};
use crate::error::{Error, Result};

const SHORT_ZEROS_MAX: usize = 64;
const LONG_ZEROS: u8 = 0x40;
const VALUE: u8 = 0x80;
const VALUE_MAX: u8 = 32;
const VALUE_RUN_MAX: usize = 4;
/// How many opcodes, from the one before the change on, may be joined with their neighbours.
const JOINS_TRIED: usize = 5;

/// A run of registers that hold the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub value: u8,
    /// How many registers, at least one.
    pub len: usize,
    /// Bytes of the opcode.
    size: usize,
}

/// What became of a register that is to hold at least a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raised {
    /// It held as much.
    Already,
    /// It holds it now.
    Yes,
    /// This encoding has no room for it; nothing was changed.
    NoRoom,
}

/// The run that an opcode at the beginning of some bytes stands for; None if there is none, or only half of one.
fn decode(bytes: &[u8]) -> Option<Run> {
    Some(match *bytes {
        [first, ..] if first & VALUE != 0 => {
            Run { value: (first >> 2 & 0x1f) + 1, len: usize::from(first & 3) + 1, size: 1 }
        }
        [first, second, ..] if first & LONG_ZEROS != 0 => {
            let len = usize::from(first & 0x3f) << 8 | usize::from(second);
            Run { value: 0, len: len + 1, size: 2 }
        }
        [first, ..] if first & LONG_ZEROS == 0 => Run { value: 0, len: usize::from(first) + 1, size: 1 },
        _ => return None,
    })
}

/// The runs that opcodes stand for, up to one that is none.
pub fn runs(mut opcodes: &[u8]) -> impl Iterator<Item = Run> {
    std::iter::from_fn(move || {
        let run = decode(opcodes)?;
        opcodes = &opcodes[run.size..];
        Some(run)
    })
}

/// Whether opcodes have as many registers as a sketch, and nothing is behind them. Half an opcode at the end is refused; Redis reads the
/// zero that ends its strings for the other half.
pub fn validate(opcodes: &[u8]) -> Result<()> {
    let (mut registers, mut size) = (0, 0);
    for run in runs(opcodes) {
        registers += run.len;
        size += run.size;
        // Whatever the string's length: each opcode has a register at least.
        if registers > REGISTERS {
            break;
        }
    }
    if registers == REGISTERS && size == opcodes.len() { Ok(()) } else { Err(Error::CorruptHyperLogLog) }
}

/// Appends the opcode for a run of zeros.
pub fn push_zeros(opcodes: &mut Vec<u8>, len: usize) {
    if len > SHORT_ZEROS_MAX {
        opcodes.extend([LONG_ZEROS | ((len - 1) >> 8) as u8, (len - 1) as u8]);
    } else if len > 0 {
        opcodes.push((len - 1) as u8);
    }
}

fn push_value(opcodes: &mut Vec<u8>, value: u8, len: usize) {
    if len > 0 {
        opcodes.push(value_opcode(value, len));
    }
}

fn value_opcode(value: u8, len: usize) -> u8 {
    VALUE | (value - 1) << 2 | (len - 1) as u8
}

/// Makes a register hold at least a value, in a valid sketch of this encoding.
pub fn raise(sketch: &mut Vec<u8>, index: usize, value: u8) -> Raised {
    if value > VALUE_MAX {
        // More than any register here holds.
        return Raised::NoRoom;
    }
    let (mut first, mut at, mut previous_at) = (0, HEADER_BYTES, HEADER_BYTES);
    let mut found = None;
    for run in runs(&sketch[HEADER_BYTES..]) {
        if index < first + run.len {
            found = Some(run);
            break;
        }
        first += run.len;
        previous_at = at;
        at += run.size;
    }
    let Some(run) = found else {
        unreachable!("a valid sketch has register {index}");
    };
    if run.value >= value {
        return Raised::Already;
    }
    let (before, behind) = (index - first, first + run.len - 1 - index);
    let mut opcodes = Vec::with_capacity(5);
    if run.value == 0 {
        push_zeros(&mut opcodes, before);
        push_value(&mut opcodes, value, 1);
        push_zeros(&mut opcodes, behind);
    } else {
        push_value(&mut opcodes, run.value, before);
        push_value(&mut opcodes, value, 1);
        push_value(&mut opcodes, run.value, behind);
    }
    if opcodes.len() > run.size && sketch.len() - run.size + opcodes.len() > SPARSE_BYTES_MAX {
        return Raised::NoRoom;
    }
    sketch.splice(at..at + run.size, opcodes);
    join_neighbours(sketch, previous_at);
    Raised::Yes
}

/// Joins neighbouring runs of one value, as far as one opcode can hold them, near the opcode at `at`.
fn join_neighbours(sketch: &mut Vec<u8>, mut at: usize) {
    for _ in 0..JOINS_TRIED {
        let Some(run) = decode(&sketch[at..]) else {
            return;
        };
        let next = decode(&sketch[at + run.size..]);
        match next
            .filter(|next| run.value > 0 && next.value == run.value && next.len + run.len <= VALUE_RUN_MAX)
        {
            Some(next) => {
                sketch[at + 1] = value_opcode(run.value, run.len + next.len);
                // The joined run is tried again, with what is now behind it.
                sketch.remove(at);
            }
            None => at += run.size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_decode_to_what_was_pushed() {
        for len in 1..=REGISTERS {
            let mut opcodes = Vec::new();
            push_zeros(&mut opcodes, len);
            let size = if len <= SHORT_ZEROS_MAX { 1 } else { 2 };
            assert_eq!(decode(&opcodes), Some(Run { value: 0, len, size }));
            assert_eq!(opcodes.len(), size);
        }
        for value in 1..=VALUE_MAX {
            for len in 1..=VALUE_RUN_MAX {
                assert_eq!(decode(&[value_opcode(value, len)]), Some(Run { value, len, size: 1 }));
            }
        }
        assert_eq!(decode(&[0x7f]), None);
        assert_eq!(decode(&[]), None);
    }

    #[test]
    fn registers_are_counted() {
        assert_eq!(validate(&[0x7f, 0xff]), Ok(()));
        assert_eq!(validate(&[0x7f, 0xfe, 0x00]), Ok(()));
        assert_eq!(validate(&[0x7f, 0xfe, 0x80]), Ok(()));
        for opcodes in [
            &[][..],
            &[0x7f],
            &[0x7f, 0xfe],
            &[0x7f, 0xff, 0x00],
            &[0x7f, 0xfe, 0x81],
            &[0x7f, 0xff, 0x7f],
            &[0xff; 7_000],
        ] {
            assert_eq!(validate(opcodes), Err(Error::CorruptHyperLogLog));
        }
    }
}
