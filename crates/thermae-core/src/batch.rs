//! What a record that belongs to a transaction says of it: where its lead is, and what it replaces.

use crate::engine::Engine;
use crate::index::ADDRESS_MASK;
use crate::layout::ADDRESS_MIN;
use crate::record::{
    ALIGN_BYTES, BATCH_BYTES, BATCH_OFFSET_OFFSET, LINK_OF_DECIDED, LINK_OFFSET, Word0, kind, word0_at,
};
use std::sync::atomic::{AtomicU64, Ordering};

// No record is there, so that no link to one is the mark.
const _: () = assert!(LINK_OF_DECIDED & ADDRESS_MASK < ADDRESS_MIN);

/// A member of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Member<'a> {
    lead: &'a AtomicU64,
    /// The entry that it replaces, until it is marked as decided.
    pub link: u64,
}

impl Member<'_> {
    /// Whether its batch has happened.
    #[inline]
    pub fn has_happened(&self) -> bool {
        self.link == LINK_OF_DECIDED || Word0::unpack(self.lead.load(Ordering::Acquire)).kind() == kind::BATCH
    }
}

impl Engine {
    /// The record at `offset` of the frame at `base`, which is a member of a batch and committed; `None` where its lead can't be where it says.
    /// The caller keeps the frame mapped, and finds out whether it still was that record's.
    #[inline]
    pub(crate) fn batch_member(&self, base: *mut u8, offset: usize) -> Option<Member<'_>> {
        if offset + BATCH_BYTES > self.geometry.frame_bytes as usize {
            return None;
        }
        // SAFETY: a member's header has 32 bytes, which lie in the frame, 8-byte aligned as all records.
        let (batch_offset, link) = unsafe {
            let at = base.add(offset);
            (at.add(BATCH_OFFSET_OFFSET).cast::<u32>().read_unaligned(), word0_at(at.add(LINK_OFFSET)))
        };
        let batch_offset = u32::from_le(batch_offset) as usize;
        let link = u64::from_le(link.load(Ordering::Acquire));
        if !batch_offset.is_multiple_of(ALIGN_BYTES) || batch_offset >= offset {
            return None;
        }
        // SAFETY: aligned, and below a record of the frame.
        let lead = unsafe { word0_at(base.add(batch_offset)) };
        Some(Member { lead, link })
    }
}
