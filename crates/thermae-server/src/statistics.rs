//! What a server counts: each loop for itself, and added up by who asks.
//!
//! A loop alone writes its counts, on lines that no other loop writes. They never begin anew: what was counted when somebody asked for that is
//! remembered, and left out of what INFO shows; so metrics, which are of the whole time, are not disturbed. What the store counts is treated in the
//! same way, for it was counting before the server started. Redis clients and memcached clients each begin anew for themselves. Rejected: counts
//! that all loops share, for whose lines the cores would wait in turn.

use crate::counter::Counter;
use crate::counts::{self, Counts};
use crate::histogram::Distribution;
use crate::usage::{Rows, UsageSum};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use thermae_core::Stats;

/// Most commands and subcommands that the table of the Redis face may have; a test there holds it.
pub const COMMANDS_MAX: usize = 512;
/// Most verbs of the memcached face.
pub const VERBS_MAX: usize = 32;
/// Different codes of errors that a loop counts; what comes later is counted as a whole only.
const ERROR_CODES_MAX: usize = 128;

/// What one loop counts.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct LoopCounts {
    /// Bytes received.
    pub received_bytes: Counter,
    /// Bytes sent.
    pub sent_bytes: Counter,
    errors: Counter,
    /// By their code, as clients got them. Locked by its loop for each error, and rarely by who reads.
    errors_by_code: Mutex<BTreeMap<String, u64>>,
    /// What memcached clients have done.
    pub memcached: Counts,
    /// Commands of the Redis face, by their number in the table.
    pub commands: Rows<COMMANDS_MAX>,
    /// Verbs of the memcached face.
    pub verbs: Rows<VERBS_MAX>,
}

impl LoopCounts {
    /// A client got an error.
    #[cold]
    pub fn note_error(&self, line: &str) {
        self.errors.add(1);
        let code = line.split(' ').next().unwrap_or_default();
        let mut counts = self.errors_by_code.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(code) {
            *count += 1;
        } else if counts.len() < ERROR_CODES_MAX {
            counts.insert(code.to_owned(), 1);
        }
    }
}

/// What all loops counted.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Connections accepted.
    pub connections: u64,
    /// Connections refused: there were too many, or protected mode lets nobody in from elsewhere.
    pub connections_refused: u64,
    /// Clients ended because all together held too much.
    pub clients_evicted: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Commands that were answered with an error.
    pub errors: u64,
    /// Those by their code.
    pub errors_by_code: BTreeMap<String, u64>,
    /// Commands of the Redis face, by their number in the table.
    pub commands: Vec<UsageSum>,
    /// Verbs of the memcached face.
    pub verbs: Vec<UsageSum>,
}

impl Totals {
    /// Commands executed, of both faces.
    pub fn calls(&self) -> u64 {
        self.commands.iter().chain(&self.verbs).map(|usage| usage.calls).sum()
    }

    fn subtract(&mut self, before: &Self) {
        for (count, before) in [
            (&mut self.connections, before.connections),
            (&mut self.connections_refused, before.connections_refused),
            (&mut self.clients_evicted, before.clients_evicted),
            (&mut self.received_bytes, before.received_bytes),
            (&mut self.sent_bytes, before.sent_bytes),
            (&mut self.errors, before.errors),
        ] {
            *count = count.saturating_sub(before);
        }
        for (code, count) in &before.errors_by_code {
            if let Some(sum) = self.errors_by_code.get_mut(code) {
                *sum = sum.saturating_sub(*count);
            }
        }
        self.errors_by_code.retain(|_, count| *count != 0);
        self.commands.iter_mut().zip(&before.commands).for_each(|(sum, before)| sum.subtract(before));
        self.verbs.iter_mut().zip(&before.verbs).for_each(|(sum, before)| sum.subtract(before));
    }
}

/// What the store counts, whoever uses it, and clients are shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreTotals {
    /// Reads that found their key.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Values stored.
    pub sets: u64,
    /// Keys dropped to make room.
    pub evicted: u64,
    /// Keys removed because they expired.
    pub expired: u64,
}

impl StoreTotals {
    /// Since the store's memory was made.
    pub fn of(stats: &Stats) -> Self {
        let Stats { hits, misses, sets, evicted, expired, .. } = *stats;
        Self { hits, misses, sets, evicted, expired }
    }

    fn since(self, before: Self) -> Self {
        Self {
            hits: self.hits.saturating_sub(before.hits),
            misses: self.misses.saturating_sub(before.misses),
            sets: self.sets.saturating_sub(before.sets),
            evicted: self.evicted.saturating_sub(before.evicted),
            expired: self.expired.saturating_sub(before.expired),
        }
    }
}

/// What was counted when a face's clients wanted it to begin anew.
#[derive(Debug, Default)]
struct Before {
    totals: Totals,
    store: StoreTotals,
    /// How long the calls of each command of the Redis face had taken.
    times: Vec<Distribution>,
    /// What memcached clients had done.
    memcached: [u64; counts::NAMES.len()],
}

/// All counts of a server. On lines of its own: where the loops' are is read for each command.
#[derive(Debug)]
#[repr(align(128))]
pub struct Statistics {
    loops: Box<[LoopCounts]>,
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections refused: there were too many, or protected mode lets nobody in from elsewhere.
    pub connections_refused: AtomicU64,
    /// Clients ended because all together held too much.
    pub clients_evicted: AtomicU64,
    /// Connections open now.
    pub clients: AtomicU64,
    /// Of the Redis face.
    before: Mutex<Before>,
    memcached_before: Mutex<Before>,
}

impl Statistics {
    /// Of so many loops, and of a store that has counted so much.
    pub fn new(loops: usize, store: StoreTotals) -> Self {
        let before = || Mutex::new(Before { store, ..Before::default() });
        Self {
            loops: (0..loops).map(|_| LoopCounts::default()).collect(),
            connections: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            clients_evicted: AtomicU64::new(0),
            clients: AtomicU64::new(0),
            before: before(),
            memcached_before: before(),
        }
    }

    /// Those of a loop, which alone may add to them.
    #[inline]
    pub fn of_loop(&self, number: usize) -> &LoopCounts {
        &self.loops[number]
    }

    /// What was counted since the start.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals {
            connections: self.connections.load(Ordering::Relaxed),
            connections_refused: self.connections_refused.load(Ordering::Relaxed),
            clients_evicted: self.clients_evicted.load(Ordering::Relaxed),
            commands: vec![UsageSum::default(); COMMANDS_MAX],
            verbs: vec![UsageSum::default(); VERBS_MAX],
            ..Totals::default()
        };
        for counts in &self.loops {
            totals.received_bytes += counts.received_bytes.get();
            totals.sent_bytes += counts.sent_bytes.get();
            totals.errors += counts.errors.get();
            let by_code = counts.errors_by_code.lock().unwrap_or_else(PoisonError::into_inner);
            for (code, count) in by_code.iter() {
                *totals.errors_by_code.entry(code.clone()).or_default() += count;
            }
            drop(by_code);
            counts.commands.add_to(&mut totals.commands);
            counts.verbs.add_to(&mut totals.verbs);
        }
        totals
    }

    /// What was counted since Redis clients wanted it to begin anew, here and in the store, which has counted so much by now.
    pub fn since_reset(&self, store: StoreTotals) -> (Totals, StoreTotals) {
        self.since(&self.before, store)
    }

    /// The same without the store.
    pub fn totals_since_reset(&self) -> Totals {
        self.since(&self.before, StoreTotals::default()).0
    }

    /// How long the calls of a command of the Redis face took, since the start.
    pub fn times_of_command(&self, number: usize) -> Distribution {
        let mut times = Distribution::default();
        self.loops.iter().for_each(|counts| counts.commands.add_times_to(number, &mut times));
        times
    }

    /// The same since it was to begin anew.
    pub fn times_of_command_since_reset(&self, number: usize) -> Distribution {
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let mut times = self.times_of_command(number);
        if let Some(before) = before.times.get(number) {
            times.subtract(before);
        }
        times
    }

    /// How long a verb of the memcached face took, since the start.
    pub fn times_of_verb(&self, number: usize) -> Distribution {
        let mut times = Distribution::default();
        self.loops.iter().for_each(|counts| counts.verbs.add_times_to(number, &mut times));
        times
    }

    /// Begins anew, for Redis clients.
    pub fn reset(&self, store: StoreTotals) {
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        (before.totals, before.store) = (self.totals(), store);
        before.times = (0..COMMANDS_MAX).map(|number| self.times_of_command(number)).collect();
    }

    /// What memcached clients did since the start.
    pub fn memcached(&self) -> [u64; counts::NAMES.len()] {
        let mut sums = [0; counts::NAMES.len()];
        self.loops.iter().for_each(|counts| counts.memcached.add_to(&mut sums));
        sums
    }

    /// The same since they wanted it to begin anew.
    pub fn memcached_since_reset(&self) -> [u64; counts::NAMES.len()] {
        let before = self.memcached_before.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sums = self.memcached();
        let pairs = sums.iter_mut().zip(before.memcached);
        pairs.for_each(|(sum, before)| *sum = sum.saturating_sub(before));
        sums
    }

    /// What else was counted since then, here and in the store, which has counted so much by now.
    pub fn since_memcached_reset(&self, store: StoreTotals) -> (Totals, StoreTotals) {
        self.since(&self.memcached_before, store)
    }

    /// Begins anew, for memcached clients.
    pub fn reset_memcached(&self, store: StoreTotals) {
        let mut before = self.memcached_before.lock().unwrap_or_else(PoisonError::into_inner);
        (before.totals, before.store) = (self.totals(), store);
        before.memcached = self.memcached();
    }

    fn since(&self, before: &Mutex<Before>, store: StoreTotals) -> (Totals, StoreTotals) {
        let before = before.lock().unwrap_or_else(PoisonError::into_inner);
        let mut totals = self.totals();
        totals.subtract(&before.totals);
        (totals, store.since(before.store))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::{Count, Tally};

    #[test]
    fn loops_add_up_and_begin_anew_together() {
        let statistics = Statistics::new(2, StoreTotals::default());
        let work = |number: usize, nanoseconds: u64| {
            let counts = statistics.of_loop(number);
            counts.received_bytes.add(10);
            counts.note_error("WRONGTYPE x");
            let usage = counts.commands.of(7);
            usage.calls.add(1);
            usage.note_time(nanoseconds);
            counts.verbs.of(VERBS_MAX - 1).calls.add(2);
        };
        work(0, 1_000);
        work(1, 2_000);
        statistics.of_loop(1).commands.of(COMMANDS_MAX - 1).rejected.add(1);
        let totals = statistics.totals_since_reset();
        assert_eq!((totals.received_bytes, totals.errors, totals.calls()), (20, 2, 6));
        assert_eq!(totals.errors_by_code, BTreeMap::from([("WRONGTYPE".to_owned(), 2)]));
        assert_eq!(totals.commands[7], UsageSum { calls: 2, nanoseconds: 3_000, ..UsageSum::default() });
        assert_eq!(totals.commands[COMMANDS_MAX - 1].rejected, 1);
        assert_eq!(statistics.times_of_command_since_reset(7).count_below_power(10), 1);
        assert_eq!(statistics.times_of_command(7).count(), 2);
        statistics.reset(StoreTotals::default());
        let totals = statistics.totals_since_reset();
        assert_eq!((totals.received_bytes, totals.errors, totals.calls()), (0, 0, 0));
        assert!(totals.errors_by_code.is_empty() && totals.commands.iter().all(|usage| !usage.is_used()));
        work(1, 4_000);
        let totals = statistics.totals_since_reset();
        assert_eq!((totals.received_bytes, totals.errors_by_code["WRONGTYPE"]), (10, 1));
        assert_eq!(totals.commands[7].nanoseconds, 4_000);
        assert_eq!(statistics.times_of_command_since_reset(7).percentile_nanoseconds(100.0), 4_031);
        assert_eq!((statistics.totals().errors, statistics.times_of_command(7).count()), (3, 3));
    }

    #[test]
    fn only_so_many_codes_of_errors_are_told_apart() {
        let statistics = Statistics::new(1, StoreTotals::default());
        for number in 0..=ERROR_CODES_MAX {
            statistics.of_loop(0).note_error(&format!("E{number} x"));
        }
        let totals = statistics.totals();
        assert_eq!(
            (totals.errors_by_code.len(), totals.errors),
            (ERROR_CODES_MAX, ERROR_CODES_MAX as u64 + 1)
        );
    }

    #[test]
    fn memcached_counts_of_loops_add_up_and_begin_anew_alone() {
        let statistics = Statistics::new(2, StoreTotals::default());
        let mut tally = Tally::default();
        tally.add(Count::Gets);
        statistics.of_loop(0).memcached.add(&tally);
        statistics.of_loop(1).memcached.add(&tally);
        assert_eq!(statistics.memcached_since_reset()[Count::Gets as usize], 2);
        statistics.reset(StoreTotals::default());
        assert_eq!(statistics.memcached_since_reset()[Count::Gets as usize], 2);
        statistics.reset_memcached(StoreTotals::default());
        statistics.of_loop(1).memcached.add(&tally);
        assert_eq!(statistics.memcached_since_reset()[Count::Gets as usize], 1);
        assert_eq!(statistics.memcached()[Count::Gets as usize], 3);
    }
    /// A server showed what its store had counted before it started, and CONFIG RESETSTAT and stats reset left that as it was.
    #[test]
    fn what_the_store_counted_before_is_left_out() {
        let counted = |factor: u64| StoreTotals {
            hits: 10 * factor,
            misses: 20 * factor,
            sets: 30 * factor,
            evicted: 40 * factor,
            expired: 50 * factor,
        };
        let shown = |(_, store): (Totals, StoreTotals)| {
            [store.hits, store.misses, store.sets, store.evicted, store.expired]
        };
        let (none, once, twice) = ([0; 5], [10, 20, 30, 40, 50], [20, 40, 60, 80, 100]);
        let statistics = Statistics::new(1, counted(1));
        assert_eq!(shown(statistics.since_reset(counted(1))), none);
        assert_eq!(shown(statistics.since_memcached_reset(counted(2))), once);
        statistics.reset(counted(2));
        assert_eq!(shown(statistics.since_reset(counted(3))), once);
        assert_eq!(shown(statistics.since_memcached_reset(counted(3))), twice);
        statistics.reset_memcached(counted(3));
        assert_eq!(shown(statistics.since_memcached_reset(counted(3))), none);
    }

    #[test]
    fn each_face_begins_anew_for_itself() {
        let statistics = Statistics::new(1, StoreTotals::default());
        statistics.connections.store(3, Ordering::Relaxed);
        let store = StoreTotals::default();
        statistics.reset_memcached(store);
        assert_eq!(statistics.since_memcached_reset(store).0.connections, 0);
        assert_eq!(statistics.since_reset(store).0.connections, 3);
    }
}
