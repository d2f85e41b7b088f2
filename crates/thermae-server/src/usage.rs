//! How often each command was called on one loop, and how long that took: rows by number.
//!
//! A row is made when its command is first used on the loop, so that hundreds of commands nobody uses cost nothing. The loop alone writes; others
//! read, and add up the loops.

use crate::counter::Counter;
use crate::histogram::{Distribution, Histogram};
use std::sync::OnceLock;

/// One command on one loop.
#[derive(Debug, Default)]
pub struct Usage {
    /// Calls that were begun.
    pub calls: Counter,
    /// What those took that were timed.
    nanoseconds: Counter,
    /// Calls of those that were answered with an error.
    pub failed: Counter,
    /// What was not even begun, for something spoke against it.
    pub rejected: Counter,
    histogram: Histogram,
}

impl Usage {
    /// A call took so long.
    #[inline]
    pub fn note_time(&self, nanoseconds: u64) {
        self.nanoseconds.add(nanoseconds);
        self.histogram.note(nanoseconds);
    }
}

/// Commands by number.
#[derive(Debug)]
pub struct Rows<const COUNT: usize>([OnceLock<Box<Usage>>; COUNT]);

impl<const COUNT: usize> Default for Rows<COUNT> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| OnceLock::new()))
    }
}

impl<const COUNT: usize> Rows<COUNT> {
    /// The row of a command, for the loop that writes it.
    #[inline]
    pub fn of(&self, number: usize) -> &Usage {
        self.0[number].get_or_init(new_row)
    }

    /// Adds what was counted to sums, which are one for each row.
    pub fn add_to(&self, sums: &mut [UsageSum]) {
        for (sum, usage) in sums.iter_mut().zip(&self.0) {
            if let Some(usage) = usage.get() {
                sum.calls += usage.calls.get();
                sum.nanoseconds += usage.nanoseconds.get();
                sum.failed += usage.failed.get();
                sum.rejected += usage.rejected.get();
            }
        }
    }

    /// Adds how long the calls of a command took.
    pub fn add_times_to(&self, number: usize, distribution: &mut Distribution) {
        if let Some(usage) = self.0[number].get() {
            distribution.add(&usage.histogram);
        }
    }
}

#[cold]
fn new_row() -> Box<Usage> {
    Box::default()
}

/// One command on all loops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsageSum {
    /// Calls that were begun.
    pub calls: u64,
    /// What those took that were timed.
    pub nanoseconds: u64,
    /// Calls of those that were answered with an error.
    pub failed: u64,
    /// What was not even begun.
    pub rejected: u64,
}

impl UsageSum {
    /// Whether it was ever asked for.
    pub fn is_used(&self) -> bool {
        self.calls != 0 || self.rejected != 0
    }

    /// Leaves out what was counted by an earlier moment.
    pub fn subtract(&mut self, before: &Self) {
        self.calls = self.calls.saturating_sub(before.calls);
        self.nanoseconds = self.nanoseconds.saturating_sub(before.nanoseconds);
        self.failed = self.failed.saturating_sub(before.failed);
        self.rejected = self.rejected.saturating_sub(before.rejected);
    }
}
