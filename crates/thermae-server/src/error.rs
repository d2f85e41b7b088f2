//! What stored bytes can be wrong about, for what computes on bytes alone; commands answer with a `Failure`. A message is the line that clients of
//! Redis know, its code first: libraries tell errors apart by that text, so that it is part of the protocol.

/// Of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong. A message is a reply's text, without the leading `-` and the line's end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The value is a string, but no sketch: too short, other magic, or of another length than its encoding has.
    #[error("WRONGTYPE Key is not a valid HyperLogLog string value.")]
    NotAHyperLogLog,
    /// The value begins as a sketch, and its opcodes do not describe its registers.
    #[error("INVALIDOBJ Corrupted HLL object detected")]
    CorruptHyperLogLog,
}
