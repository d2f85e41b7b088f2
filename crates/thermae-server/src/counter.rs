//! A count that one thread writes and all may read.
//!
//! Adding is a load and a store, both relaxed: no locked instruction, and no line that another core writes. Who reads may see what was true a
//! moment ago. It only grows; who wants it to begin anew remembers what it was and subtracts, for a second writer would lose counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// The count.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// More. By the thread that it belongs to.
    #[inline]
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// How much it is.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
