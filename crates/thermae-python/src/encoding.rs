//! The encodings that this crate knows by number; docs/format.md lists all of them.

pub(crate) const ENCODING_BYTES: u8 = 0;
pub(crate) const ENCODING_STR: u8 = 1;
pub(crate) const ENCODING_INT: u8 = 2;
pub(crate) const ENCODING_FLOAT: u8 = 3;
pub(crate) const ENCODING_BOOL: u8 = 4;
pub(crate) const ENCODING_NONE: u8 = 5;
/// Up to here, values are scalars, and decoded in Rust.
pub(crate) const ENCODING_SCALAR_LAST: u8 = ENCODING_NONE;
/// A NumPy array: it is copied into memory that stays writable.
pub(crate) const ENCODING_ARRAY: u8 = 7;
