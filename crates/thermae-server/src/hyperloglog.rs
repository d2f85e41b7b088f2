//! Sketches that count distinct elements in 12 KiB or less, in the very bytes that Redis keeps: a dump of one side's key is the other's.
//!
//! ```text
//! | "HYLL" | encoding (1) | unused (3) | cached count (8, little-endian) | registers ... |
//!            0 dense: 16384 registers of 6 bits, each from the lowest free bit on
//!            1 sparse: opcodes for runs of registers, see `sparse`
//! ```
//! An element's hash names a register by its low 14 bits, and the register keeps the longest run of zeros, plus one, seen in the other 50.
//! From how many registers hold what, the count is estimated: see `estimate`. The cached count is out of date where its highest bit is
//! set. A sketch begins sparse, becomes dense where it outgrows [`SPARSE_BYTES_MAX`], and stays dense.
//!
//! The bytes may come from anybody who can SET a string. Every function checks them whole before it reads or changes a register: one
//! that fails has changed nothing. The exception is a cached count, which is believed, as in Redis.
//!
//! Rejected: a format of our own with the same estimates. Clients copy sketches between servers with GET, SET, DUMP and RESTORE.

mod estimate;
mod sparse;

use crate::error::{Error, Result};
use crate::murmur::murmur_hash_64a;

/// Registers of a sketch.
const REGISTERS: usize = 1 << INDEX_BITS;
/// Bits of a hash that name a register.
const INDEX_BITS: u32 = 14;
/// Bits of a hash whose zeros are counted.
const RANK_BITS: u32 = 64 - INDEX_BITS;
/// Bits of a register in the dense encoding.
const REGISTER_BITS: usize = 6;
const REGISTER_MASK: u8 = (1 << REGISTER_BITS) - 1;
const HEADER_BYTES: usize = 16;
const DENSE_BYTES: usize = HEADER_BYTES + REGISTERS * REGISTER_BITS / 8;
/// Longest sparse sketch, its header included: Redis's default `hll-sparse-max-bytes`.
pub const SPARSE_BYTES_MAX: usize = 3000;

const MAGIC: &[u8] = b"HYLL";
const ENCODING_AT: usize = 4;
const CACHE_AT: usize = 8;
/// Holds the bit that says that the cached count is out of date.
const CACHE_TOP_AT: usize = 15;
const OUT_OF_DATE: u8 = 0x80;
const DENSE: u8 = 0;
const SPARSE: u8 = 1;

const HASH_SEED: u64 = 0xadc8_3b19;

const _: () = assert!(RANK_BITS + 1 < 1 << REGISTER_BITS, "a register holds every rank");
const _: () = assert!(DENSE_BYTES == 12304);

/// How many registers hold each value.
type Histogram = [u32; 1 << REGISTER_BITS];
const NO_REGISTERS: Histogram = [0; 1 << REGISTER_BITS];

/// An estimate, and whether it was there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Distinct elements, about.
    pub elements: u64,
    /// Whether the sketch had it; else [`store_count`] may keep it there.
    pub was_cached: bool,
}

/// How a sketch's registers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Dense,
    Sparse,
}

/// A sketch of nothing, with its cached count out of date: as PFADD and PFMERGE leave a key that they make.
///
/// # Examples
/// ```
/// use thermae_server::hyperloglog::create;
/// assert_eq!(create(), b"HYLL\x01\0\0\0\0\0\0\0\0\0\0\x80\x7f\xff");
/// ```
pub fn create() -> Vec<u8> {
    let mut sketch = [MAGIC, &[SPARSE]].concat();
    sketch.resize(HEADER_BYTES, 0);
    sketch[CACHE_TOP_AT] = OUT_OF_DATE;
    sparse::push_zeros(&mut sketch, REGISTERS);
    sketch
}

/// Which encoding a header announces; what it announces has the right length if it is dense.
fn encoding_of(sketch: &[u8]) -> Result<Encoding> {
    if sketch.len() < HEADER_BYTES || !sketch.starts_with(MAGIC) {
        return Err(Error::NotAHyperLogLog);
    }
    match sketch[ENCODING_AT] {
        DENSE if sketch.len() == DENSE_BYTES => Ok(Encoding::Dense),
        SPARSE => Ok(Encoding::Sparse),
        _ => Err(Error::NotAHyperLogLog),
    }
}

/// Whether a string begins as a sketch does; its registers may be corrupt.
///
/// # Errors
/// It does not.
pub fn recognize(sketch: &[u8]) -> Result<()> {
    encoding_of(sketch).map(drop)
}

/// Whether a string is a sketch in every byte.
///
/// # Errors
/// What is wrong with it.
pub fn validate(sketch: &[u8]) -> Result<()> {
    match encoding_of(sketch)? {
        Encoding::Dense => Ok(()),
        Encoding::Sparse => sparse::validate(&sketch[HEADER_BYTES..]),
    }
}

/// The register that an element belongs to, and what it has to hold at least.
fn register_of(element: &[u8]) -> (usize, u8) {
    let hash = murmur_hash_64a(element, HASH_SEED);
    let index = hash as usize & (REGISTERS - 1);
    // A bit above the highest one ends the run where all others are zeros.
    let rank = (hash >> INDEX_BITS | 1 << RANK_BITS).trailing_zeros() + 1;
    (index, rank as u8)
}

/// Adds an element; whether that changed a register, which makes the cached count out of date.
///
/// # Errors
/// The string is no sketch, or a corrupt one.
///
/// # Examples
/// ```
/// use thermae_server::hyperloglog::{add, count, create};
/// let mut sketch = create();
/// assert!(add(&mut sketch, b"a").unwrap());
/// assert!(!add(&mut sketch, b"a").unwrap());
/// assert_eq!(count(&sketch).unwrap().elements, 1);
/// assert!(add(&mut b"no sketch".to_vec(), b"a").is_err());
/// ```
pub fn add(sketch: &mut Vec<u8>, element: &[u8]) -> Result<bool> {
    validate(sketch)?;
    let (index, rank) = register_of(element);
    let changed = raise(sketch, index, rank);
    if changed {
        sketch[CACHE_TOP_AT] |= OUT_OF_DATE;
    }
    Ok(changed)
}

/// Makes a register of a valid sketch hold at least a value; whether it held less.
fn raise(sketch: &mut Vec<u8>, index: usize, value: u8) -> bool {
    if sketch[ENCODING_AT] == SPARSE {
        match sparse::raise(sketch, index, value) {
            sparse::Raised::Already => return false,
            sparse::Raised::Yes => return true,
            sparse::Raised::NoRoom => make_dense(sketch),
        }
    }
    let registers = &mut sketch[HEADER_BYTES..];
    let is_less = dense_register(registers, index) < value;
    if is_less {
        set_dense_register(registers, index, value);
    }
    is_less
}

/// The word that a register begins in, and where in it. The last register ends with its byte.
fn dense_word(registers: &[u8], index: usize) -> (u16, usize, usize) {
    let (byte, shift) = (index * REGISTER_BITS / 8, index * REGISTER_BITS % 8);
    let high = registers.get(byte + 1).copied().unwrap_or(0);
    (u16::from_le_bytes([registers[byte], high]), byte, shift)
}

fn dense_register(registers: &[u8], index: usize) -> u8 {
    let (word, _, shift) = dense_word(registers, index);
    (word >> shift) as u8 & REGISTER_MASK
}

fn set_dense_register(registers: &mut [u8], index: usize, value: u8) {
    let (word, byte, shift) = dense_word(registers, index);
    let word = word & !(u16::from(REGISTER_MASK) << shift) | u16::from(value) << shift;
    let [low, high] = word.to_le_bytes();
    registers[byte] = low;
    if let Some(next) = registers.get_mut(byte + 1) {
        *next = high;
    }
}

/// Gives a valid sketch the dense encoding, and the rest of its header as it was.
fn make_dense(sketch: &mut Vec<u8>) {
    if sketch[ENCODING_AT] == DENSE {
        return;
    }
    let mut dense = sketch[..HEADER_BYTES].to_vec();
    dense[ENCODING_AT] = DENSE;
    dense.resize(DENSE_BYTES, 0);
    for_each_run(sketch, |first, len, value| {
        if value > 0 {
            for index in first..first + len {
                set_dense_register(&mut dense[HEADER_BYTES..], index, value);
            }
        }
    });
    *sketch = dense;
}

/// Goes through the registers of a valid sketch in order: the first one of a run, how many there are, and what they hold.
fn for_each_run(sketch: &[u8], mut visit: impl FnMut(usize, usize, u8)) {
    let registers = &sketch[HEADER_BYTES..];
    let mut index = 0;
    if sketch[ENCODING_AT] == SPARSE {
        for run in sparse::runs(registers) {
            visit(index, run.len, run.value);
            index += run.len;
        }
        return;
    }
    // Four registers are three bytes.
    for [low, middle, high] in registers.as_chunks::<3>().0 {
        let word = u32::from_le_bytes([*low, *middle, *high, 0]);
        for place in 0..4 {
            visit(index + place, 1, (word >> (REGISTER_BITS * place)) as u8 & REGISTER_MASK);
        }
        index += 4;
    }
}

/// The cached count, unless it is out of date.
fn cached_count(sketch: &[u8]) -> Option<u64> {
    let bytes = sketch.get(CACHE_AT..HEADER_BYTES)?.try_into().ok()?;
    (sketch[CACHE_TOP_AT] & OUT_OF_DATE == 0).then(|| u64::from_le_bytes(bytes))
}

/// How many distinct elements were added, about: the cached count if that is up to date.
///
/// # Errors
/// The string is no sketch, or a corrupt one without an up-to-date count.
pub fn count(sketch: &[u8]) -> Result<Count> {
    encoding_of(sketch)?;
    if let Some(elements) = cached_count(sketch) {
        return Ok(Count { elements, was_cached: true });
    }
    validate(sketch)?;
    let mut histogram = NO_REGISTERS;
    for_each_run(sketch, |_, len, value| histogram[usize::from(value)] += len as u32);
    Ok(Count { elements: estimate::elements(&histogram), was_cached: false })
}

/// Keeps a count in the sketch that it is of, as PFCOUNT of one key does.
///
/// # Errors
/// The string is no sketch.
pub fn store_count(sketch: &mut [u8], elements: u64) -> Result<()> {
    encoding_of(sketch)?;
    sketch[CACHE_AT..HEADER_BYTES].copy_from_slice(&elements.to_le_bytes());
    Ok(())
}

/// What several sketches have seen together. It takes one after the other, so that one of them is in memory, however many there are.
///
/// # Examples
/// ```
/// use thermae_server::hyperloglog::{Union, add, count, create};
/// let [mut ours, mut theirs] = [create(), create()];
/// add(&mut ours, b"a").unwrap();
/// add(&mut theirs, b"b").unwrap();
/// let mut union = Union::default();
/// union.take(&ours).unwrap();
/// union.take(&theirs).unwrap();
/// assert_eq!(union.count(), 2);
/// union.merge_into(&mut ours).unwrap();
/// assert_eq!(count(&ours).unwrap().elements, 2);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Union {
    /// For each register, the most that any of the sketches holds.
    registers: Vec<u8>,
    is_dense: bool,
}

impl Default for Union {
    /// Of no sketch.
    fn default() -> Self {
        Self { registers: vec![0; REGISTERS], is_dense: false }
    }
}

impl Union {
    /// Takes one more sketch.
    ///
    /// # Errors
    /// The string is no sketch, or a corrupt one; then nothing was taken.
    pub fn take(&mut self, sketch: &[u8]) -> Result<()> {
        validate(sketch)?;
        self.is_dense |= sketch[ENCODING_AT] == DENSE;
        for_each_run(sketch, |first, len, value| {
            for register in &mut self.registers[first..first + len] {
                *register = value.max(*register);
            }
        });
        Ok(())
    }

    /// How many distinct elements were added to any of the sketches, about: PFCOUNT of several keys.
    pub fn count(&self) -> u64 {
        let mut histogram = NO_REGISTERS;
        for value in &self.registers {
            histogram[usize::from(*value)] += 1;
        }
        estimate::elements(&histogram)
    }

    /// Makes a sketch that of everything that was added to it or to one of these: PFMERGE. It becomes dense if any of them is. One that is missing is
    /// made with [`create`].
    ///
    /// # Errors
    /// The string is no sketch, or a corrupt one; then it is as it was.
    pub fn merge_into(mut self, sketch: &mut Vec<u8>) -> Result<()> {
        self.take(sketch)?;
        if self.is_dense {
            make_dense(sketch);
        }
        for (index, value) in self.registers.into_iter().enumerate() {
            if value > 0 {
                raise(sketch, index, value);
            }
        }
        sketch[CACHE_TOP_AT] |= OUT_OF_DATE;
        Ok(())
    }
}

#[cfg(test)]
#[path = "hyperloglog_tests.rs"]
mod tests;
