//! How long commands take: the clock that says so, and whether it is counted.
//!
//! A command costs one reading of the precise clock, about 20 ns: what ends one command begins the next one of the same batch. Rejected: the clock
//! of the scheduler's ticks, which is a load from memory, but of which most commands take no whole tick; and the processor's own counter, which is
//! 10 ns faster, and right on some machines only.

use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// A moment of the monotonic clock, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(u64);

impl Moment {
    /// The present one.
    #[inline]
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        Self(now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned())
    }

    /// Nanoseconds since an earlier one.
    #[inline]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What is told of how long commands take. On lines of its own: whether it is counted is read for each command.
#[derive(Debug)]
#[repr(align(128))]
pub struct Latency {
    is_tracked: AtomicBool,
    percentiles: Mutex<Vec<f64>>,
}

impl Default for Latency {
    fn default() -> Self {
        Self { is_tracked: AtomicBool::new(true), percentiles: Mutex::new(vec![50.0, 99.0, 99.9]) }
    }
}

impl Latency {
    /// Whether it is counted how long commands take.
    #[inline]
    pub fn is_tracked(&self) -> bool {
        self.is_tracked.load(Ordering::Relaxed)
    }

    /// Which percentiles INFO shows.
    pub fn percentiles(&self) -> Vec<f64> {
        self.percentiles.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes both.
    pub fn set(&self, is_tracked: bool, percentiles: Vec<f64>) {
        self.is_tracked.store(is_tracked, Ordering::Relaxed);
        *self.percentiles.lock().unwrap_or_else(PoisonError::into_inner) = percentiles;
    }
}
