//! How long commands take: the clock that says so, whether it is counted, and from when on it is noted.
//!
//! A command costs one reading of the precise clock, about 20 ns: what ends one command begins the next one of the same batch. Rejected: the clock
//! of the scheduler's ticks, which is a load from memory, but of which most commands take no whole tick; and the processor's own counter, which is
//! 10 ns faster, and right on some machines only.

use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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

/// What is told of how long commands take. On lines of its own: all but the percentiles is read for each command.
#[derive(Debug)]
#[repr(align(128))]
pub struct Latency {
    is_tracked: AtomicBool,
    /// `u64::MAX`: no command is.
    noted_from_nanoseconds: AtomicU64,
    percentiles: Mutex<Vec<f64>>,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            is_tracked: AtomicBool::new(true),
            noted_from_nanoseconds: AtomicU64::new(u64::MAX),
            percentiles: Mutex::new(vec![50.0, 99.0, 99.9]),
        }
    }
}

impl Latency {
    /// Whether it is counted how long commands take.
    #[inline]
    pub fn is_tracked(&self) -> bool {
        self.is_tracked.load(Ordering::Relaxed)
    }

    /// Whether commands have to be timed: to count it, or to note what takes long.
    #[inline]
    pub fn is_timed(&self) -> bool {
        self.is_tracked() || self.noted_from_nanoseconds.load(Ordering::Relaxed) != u64::MAX
    }

    /// Whether a command that took so long is to be noted: one question for all who want to know, as it is asked for each command.
    #[inline]
    pub fn is_noted(&self, nanoseconds: u64) -> bool {
        nanoseconds >= self.noted_from_nanoseconds.load(Ordering::Relaxed)
    }

    /// Has commands noted that take so long, `u64::MAX` being none: the least that anybody wants to know of.
    pub fn note_from(&self, nanoseconds: u64) {
        self.noted_from_nanoseconds.store(nanoseconds, Ordering::Relaxed);
    }

    /// Which percentiles INFO shows.
    pub fn percentiles(&self) -> Vec<f64> {
        self.percentiles.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes whether it is counted, and which percentiles are shown.
    pub fn set(&self, is_tracked: bool, percentiles: Vec<f64>) {
        self.is_tracked.store(is_tracked, Ordering::Relaxed);
        *self.percentiles.lock().unwrap_or_else(PoisonError::into_inner) = percentiles;
    }
}
