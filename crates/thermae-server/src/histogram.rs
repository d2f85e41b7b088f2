//! How often what took how long: a log-linear histogram of nanoseconds.
//!
//! Each power of two is divided into 32 buckets of one width, so that a bucket is known by a shift, and its ends differ by less than a 32nd. One
//! thread notes, with a load and a store; others read each bucket as it was a moment ago. Rejected: the exact values of a sample, for the rare slow
//! call is what is looked for; and sketches that merge buckets, for a bucket then has to be searched.

use crate::counter::Counter;

/// Buckets of a power of two, as bits.
const SUB_BITS: u32 = 5;
const SUBS: usize = 1 << SUB_BITS;
/// From 2^36 ns (69 s) on, all is the same.
const NANOSECONDS_BITS: u32 = 36;
const BUCKETS: usize = ((NANOSECONDS_BITS - SUB_BITS + 1) as usize) << SUB_BITS;

/// Where a duration is counted.
#[inline]
fn bucket_of(nanoseconds: u64) -> usize {
    let nanoseconds = nanoseconds.min((1 << NANOSECONDS_BITS) - 1);
    let shift = (nanoseconds | 1 << SUB_BITS).ilog2() - SUB_BITS;
    ((shift as usize) << SUB_BITS) + (nanoseconds >> shift) as usize
}

/// The durations that a bucket counts: the shortest and the longest.
fn ends_of(bucket: usize) -> (u64, u64) {
    let shift = (bucket / SUBS).saturating_sub(1);
    let part = (bucket - shift * SUBS) as u64;
    (part << shift, ((part + 1) << shift) - 1)
}

/// What one thread counts.
#[derive(Debug)]
pub struct Histogram([Counter; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl Histogram {
    /// Something took so long.
    #[inline]
    pub fn note(&self, nanoseconds: u64) {
        self.0[bucket_of(nanoseconds)].add(1);
    }
}

/// What several threads counted, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Distribution(Vec<u64>);

impl Distribution {
    /// Adds what a thread counted.
    pub fn add(&mut self, histogram: &Histogram) {
        self.0.resize(BUCKETS, 0);
        self.0.iter_mut().zip(&histogram.0).for_each(|(sum, count)| *sum += count.get());
    }

    /// Leaves out what was counted by an earlier moment.
    pub fn subtract(&mut self, before: &Self) {
        self.0.iter_mut().zip(&before.0).for_each(|(sum, count)| *sum = sum.saturating_sub(*count));
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// How many took less than 2^`bits` ns.
    pub fn count_below_power(&self, bits: u32) -> u64 {
        let end = if bits >= NANOSECONDS_BITS { BUCKETS } else { bucket_of(1 << bits) };
        self.0.iter().take(end).sum()
    }

    /// The time that so many of a hundred did not exceed, to a 32nd of it; 0 where nothing was counted.
    pub fn percentile_nanoseconds(&self, percentile: f64) -> u64 {
        let rank = ((percentile / 100.0 * self.count() as f64 + 0.5) as u64).max(1);
        let mut sum = 0;
        let found = self.0.iter().position(|count| {
            sum += count;
            sum >= rank
        });
        let Some(bucket) = found else { return 0 };
        let (shortest, longest) = ends_of(bucket);
        if percentile == 0.0 { shortest } else { longest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn distribution(durations: &[u64]) -> Distribution {
        let histogram = Histogram::default();
        durations.iter().for_each(|duration| histogram.note(*duration));
        let mut distribution = Distribution::default();
        distribution.add(&histogram);
        distribution
    }

    #[test]
    fn buckets_follow_one_another_without_a_gap() {
        let mut next = 0;
        for bucket in 0..BUCKETS {
            let (shortest, longest) = ends_of(bucket);
            assert_eq!((shortest, bucket_of(shortest), bucket_of(longest)), (next, bucket, bucket));
            assert!((longest - shortest) * SUBS as u64 <= longest, "{bucket}");
            next = longest + 1;
        }
        assert_eq!(next, 1 << NANOSECONDS_BITS);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn nothing_has_no_percentiles() {
        assert_eq!(Distribution::default().percentile_nanoseconds(50.0), 0);
        assert_eq!((Distribution::default().count(), distribution(&[]).count()), (0, 0));
    }

    #[test]
    fn what_was_counted_before_is_left_out() {
        let histogram = Histogram::default();
        let (mut before, mut after) = (Distribution::default(), Distribution::default());
        histogram.note(1_000_000);
        before.add(&histogram);
        histogram.note(2_000);
        after.add(&histogram);
        after.add(&histogram);
        after.subtract(&before);
        assert_eq!((after.count(), after.count_below_power(11), after.count_below_power(12)), (3, 2, 2));
        after.subtract(&before);
        assert_eq!((after.count(), after.percentile_nanoseconds(100.0)), (2, 2_015));
    }

    proptest! {
        #[test]
        fn percentiles_and_counts_are_those_of_the_sorted_durations(
            durations in prop::collection::vec((0_u32..NANOSECONDS_BITS, any::<u64>()), 1..300),
            percentile in 0.0..=100.0_f64,
            bits in 0_u32..40,
        ) {
            let mut durations: Vec<u64> =
                durations.into_iter().map(|(bits, any)| any & ((2 << bits) - 1)).collect();
            let distribution = distribution(&durations);
            durations.sort_unstable();
            let rank = ((percentile / 100.0 * durations.len() as f64 + 0.5) as usize).clamp(1, durations.len());
            let exact = durations[rank - 1];
            let found = distribution.percentile_nanoseconds(percentile);
            prop_assert!(found >= exact && (found - exact) * SUBS as u64 <= found, "{found} {exact}");
            prop_assert_eq!(distribution.count(), durations.len() as u64);
            let below = durations.iter().filter(|duration| **duration < 1 << bits).count();
            prop_assert_eq!(distribution.count_below_power(bits), below as u64);
        }
    }
}
