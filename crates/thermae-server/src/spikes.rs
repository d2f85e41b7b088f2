//! Spikes of latency: what took longer than somebody wants it to, event by event, the highest of each second.
//!
//! Whoever does something that may take long times it, where that is wanted, and notes it here. Commands are timed anyway, and those that take long
//! found with one comparison (see `latency`), so that watching costs the others nothing. There are few events, each a constant of this file, and each
//! keeps so many samples, so that nothing grows. Rejected: samples per loop, put together when they are asked for; a lock that is taken at most once a
//! millisecond, the shortest threshold, is no loop's bottleneck.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A command that is not expected to be fast.
pub const COMMAND: &str = "command";
/// A command that is: one with the flag FAST.
pub const FAST_COMMAND: &str = "fast-command";
/// Making changes durable for clients that wait for it. Redis calls it so, and so do the tools that ask.
pub const FLUSH: &str = "aof-fsync-always";

/// Samples kept of one event, the latest ones.
pub const SAMPLES_MAX: usize = 160;

/// The highest latency of a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The second, since 1970.
    pub at_seconds: u64,
    /// How long it took.
    pub milliseconds: u64,
}

/// The spikes of one event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Series {
    /// The oldest one first.
    pub samples: VecDeque<Sample>,
    /// The highest that there was since the last reset, of samples that are not kept any more included.
    pub milliseconds_max: u64,
}

impl Series {
    fn note(&mut self, sample: Sample) {
        self.milliseconds_max = self.milliseconds_max.max(sample.milliseconds);
        match self.samples.back_mut() {
            Some(last) if last.at_seconds == sample.at_seconds => {
                last.milliseconds = last.milliseconds.max(sample.milliseconds);
            }
            _ => {
                if self.samples.len() == SAMPLES_MAX {
                    self.samples.pop_front();
                }
                self.samples.push_back(sample);
            }
        }
    }
}

/// What a server has seen of spikes.
#[derive(Debug, Default)]
pub struct Spikes {
    /// 0: nothing is watched.
    threshold_milliseconds: AtomicU64,
    series: Mutex<BTreeMap<&'static str, Series>>,
}

impl Spikes {
    /// From how many milliseconds on something is a spike; 0: nothing is.
    pub fn threshold_milliseconds(&self) -> u64 {
        self.threshold_milliseconds.load(Ordering::Relaxed)
    }

    /// Changes it. What was seen stays.
    pub fn set_threshold(&self, milliseconds: u64) {
        self.threshold_milliseconds.store(milliseconds, Ordering::Relaxed);
    }

    /// Whether anything is watched.
    pub fn is_on(&self) -> bool {
        self.threshold_milliseconds() != 0
    }

    /// The time from which something is a spike, in nanoseconds; `u64::MAX`: nothing is.
    pub fn watched_from_nanoseconds(&self) -> u64 {
        match self.threshold_milliseconds() {
            0 => u64::MAX,
            least => least.saturating_mul(1_000_000),
        }
    }

    /// Notes how long something took, if that is a spike.
    #[cold]
    pub fn note(&self, event: &'static str, milliseconds: u64, at_seconds: u64) {
        let least = self.threshold_milliseconds();
        if least != 0 && milliseconds >= least {
            self.lock().entry(event).or_default().note(Sample { at_seconds, milliseconds });
        }
    }

    /// Does something that is timed for this alone, and notes how long it took.
    pub fn time<R>(
        &self,
        event: &'static str,
        at_seconds: impl FnOnce() -> u64,
        work: impl FnOnce() -> R,
    ) -> R {
        if !self.is_on() {
            return work();
        }
        let began = Instant::now();
        let result = work();
        self.note(event, began.elapsed().as_millis() as u64, at_seconds());
        result
    }

    /// The spikes of an event, if it has had any.
    pub fn of(&self, event: &[u8]) -> Option<Series> {
        self.lock().iter().find(|(name, _)| name.as_bytes() == event).map(|(_, series)| series.clone())
    }

    /// The events that have had spikes, by name, and these.
    pub fn all(&self) -> Vec<(&'static str, Series)> {
        self.lock().iter().map(|(name, series)| (*name, series.clone())).collect()
    }

    /// Forgets the spikes of the events that are chosen; of how many there were any.
    pub fn forget(&self, is_chosen: impl Fn(&str) -> bool) -> usize {
        let mut series = self.lock();
        let before = series.len();
        series.retain(|name, _| !is_chosen(name));
        before - series.len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Series>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(spikes: &Spikes) -> Vec<(u64, u64)> {
        let series = spikes.of(COMMAND.as_bytes()).unwrap_or_default();
        series.samples.iter().map(|sample| (sample.at_seconds, sample.milliseconds)).collect()
    }

    #[test]
    fn the_highest_of_each_second_is_kept() {
        let spikes = Spikes::default();
        spikes.note(COMMAND, 1_000, 1);
        assert_eq!(
            (spikes.is_on(), spikes.watched_from_nanoseconds(), spikes.all().len()),
            (false, u64::MAX, 0)
        );
        spikes.set_threshold(5);
        assert_eq!((spikes.is_on(), spikes.watched_from_nanoseconds()), (true, 5_000_000));
        for (milliseconds, at_seconds) in [(4, 1), (5, 1), (7, 1), (6, 1), (9, 3), (5, 4)] {
            spikes.note(COMMAND, milliseconds, at_seconds);
        }
        spikes.note(FLUSH, 5, 1);
        assert_eq!(samples(&spikes), [(1, 7), (3, 9), (4, 5)]);
        assert_eq!(spikes.of(b"command").unwrap().milliseconds_max, 9);
        assert_eq!(spikes.all().iter().map(|(name, _)| *name).collect::<Vec<_>>(), [FLUSH, COMMAND]);
        assert_eq!(spikes.of(b"COMMAND"), None);
        // What was seen is not forgotten by whoever stops watching.
        spikes.set_threshold(0);
        assert_eq!(samples(&spikes).len(), 3);
        assert_eq!((spikes.forget(|name| name == COMMAND), spikes.forget(|name| name == COMMAND)), (1, 0));
        assert_eq!((spikes.forget(|_| true), spikes.all().len()), (1, 0));
    }

    #[test]
    fn work_is_timed_where_somebody_watches() {
        let spikes = Spikes::default();
        let sleep = || {
            std::thread::sleep(std::time::Duration::from_millis(6));
            7
        };
        assert_eq!(spikes.time(FLUSH, || 3, sleep), 7);
        assert_eq!(spikes.all(), []);
        spikes.set_threshold(5);
        assert_eq!(spikes.time(FLUSH, || 3, sleep), 7);
        assert_eq!(spikes.time(COMMAND, || 3, || 8), 8);
        let all = spikes.all();
        assert_eq!((all.len(), all[0].0, all[0].1.samples[0].at_seconds), (1, FLUSH, 3));
    }

    #[test]
    fn the_latest_samples_are_kept_and_the_highest_of_all_remembered() {
        let spikes = Spikes::default();
        spikes.set_threshold(1);
        spikes.note(COMMAND, 99, 0);
        for second in 1..=1_000 {
            spikes.note(COMMAND, 2, second);
        }
        let series = spikes.of(b"command").unwrap();
        assert_eq!((series.samples.len(), series.milliseconds_max), (SAMPLES_MAX, 99));
        assert_eq!(series.samples.front().unwrap().at_seconds, 1_001 - SAMPLES_MAX as u64);
        spikes.set_threshold(u64::MAX);
        assert_eq!(spikes.watched_from_nanoseconds(), u64::MAX);
    }
}
