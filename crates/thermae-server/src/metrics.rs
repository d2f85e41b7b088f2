//! All that monitoring wants to know, at one moment: what a scrape gets, whatever form it is written in.
//!
//! Counts are of the whole time of the server, whatever CONFIG RESETSTAT was told. Each was true a moment ago, but not all at the same moment. Nothing
//! is locked that a request waits for.

use crate::counts;
use crate::histogram::Distribution;
use crate::memcache::verbs::VERBS;
use crate::redis::table;
use crate::shared::Shared;
use crate::usage::UsageSum;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use thermae_core::{Result, Stats};

/// Buckets end at powers of two of nanoseconds: from 2^10 (a microsecond) to 2^30 (a second).
const FIRST_POWER: u32 = 10;
const LAST_POWER: u32 = 30;
/// What errors are counted as whose code is not counted by itself.
const OTHER_ERRORS: &str = "other";

/// A command, or a verb of the memcached face behind `memcached_`.
#[derive(Debug, Serialize)]
pub struct CommandMetrics {
    /// Its name.
    pub name: String,
    /// Calls that were begun.
    pub calls: u64,
    /// Those that were answered with an error.
    pub failed: u64,
    /// What was not even begun.
    pub rejected: u64,
    /// What the calls took that were timed.
    pub nanoseconds: u64,
    /// How many were timed.
    pub timed: u64,
    /// How many of those took no longer than the end of each bucket.
    pub buckets: Vec<u64>,
}

/// The whole.
#[derive(Debug, Serialize)]
pub struct Metrics {
    /// Since the server started.
    pub uptime_seconds: f64,
    /// Clients that are connected.
    pub connections: u64,
    /// Connections accepted.
    pub connections_accepted: u64,
    /// Connections refused.
    pub connections_refused: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Errors that Redis clients got, by their code.
    pub errors: BTreeMap<String, u64>,
    /// Ends of the buckets.
    pub bucket_ends_nanoseconds: Vec<u64>,
    /// Commands that were called.
    pub commands: Vec<CommandMetrics>,
    /// What memcached clients have done, under memcached's names.
    pub memcached: BTreeMap<&'static str, u64>,
    /// When the last save that did not fail began, in seconds since 1970; before there was one, when the server started.
    pub last_save_at_seconds: u64,
    /// Saves that did not fail.
    pub saves: u64,
    /// Saves that failed.
    pub saves_failed: u64,
    /// The store.
    pub store: Stats,
}

/// What there is to be told now.
///
/// # Errors
/// Those of the store.
pub fn metrics(shared: &Shared) -> Result<Metrics> {
    let statistics = &shared.statistics;
    let totals = statistics.totals();
    let of_table = table::entries().iter().zip(&totals.commands).filter(|(_, usage)| usage.is_used());
    let of_table = of_table.map(|(command, usage)| {
        of(command.full_name.clone(), *usage, &statistics.times_of_command(command.number))
    });
    let of_verbs = VERBS.iter().zip(&totals.verbs).enumerate().filter(|(_, (_, usage))| usage.is_used());
    let of_verbs = of_verbs.map(|(number, (verb, usage))| {
        of(format!("memcached_{verb}"), *usage, &statistics.times_of_verb(number))
    });
    let commands = of_table.chain(of_verbs).collect();
    let saves = shared.saves.state();
    let mut errors = totals.errors_by_code;
    let uncounted = totals.errors.saturating_sub(errors.values().sum());
    if uncounted != 0 {
        *errors.entry(OTHER_ERRORS.to_owned()).or_default() += uncounted;
    }
    Ok(Metrics {
        uptime_seconds: shared.started_at.elapsed().as_secs_f64(),
        connections: statistics.clients.load(Ordering::Relaxed),
        connections_accepted: totals.connections,
        connections_refused: totals.connections_refused,
        received_bytes: totals.received_bytes,
        sent_bytes: totals.sent_bytes,
        errors,
        bucket_ends_nanoseconds: (FIRST_POWER..=LAST_POWER).map(|power| 1 << power).collect(),
        commands,
        memcached: counts::NAMES.into_iter().zip(statistics.memcached()).collect(),
        last_save_at_seconds: saves.succeeded.0,
        saves: saves.count,
        saves_failed: saves.failures,
        store: shared.store.stats()?,
    })
}

fn of(name: String, usage: UsageSum, times: &Distribution) -> CommandMetrics {
    let UsageSum { calls, nanoseconds, failed, rejected } = usage;
    let buckets = (FIRST_POWER..=LAST_POWER).map(|power| times.count_below_power(power)).collect();
    CommandMetrics { name, calls, failed, rejected, nanoseconds, timed: times.count(), buckets }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::test_support::TestServer;

    #[test]
    fn all_is_told_whatever_was_reset() {
        let mut server = TestServer::new();
        for line in ["SET k v", "INCR k", "GET", "CONFIG RESETSTAT"] {
            server.line(line);
        }
        server.shared().statistics.of_loop(0).verbs.of(1).calls.add(1);
        server.shared().statistics.of_loop(0).verbs.of(1).note_time(1_500);
        let metrics = metrics(server.shared()).unwrap();
        let shown: Vec<(&str, u64, u64, u64, u64)> = metrics
            .commands
            .iter()
            .map(|command| (&*command.name, command.calls, command.failed, command.rejected, command.timed))
            .collect();
        let mut sorted = shown;
        sorted.sort_unstable();
        let expected = [
            ("config|resetstat", 1, 0, 0, 1),
            ("get", 0, 0, 1, 0),
            ("incr", 1, 1, 0, 1),
            ("memcached_get", 1, 0, 0, 1),
            ("set", 1, 0, 0, 1),
        ];
        assert_eq!(sorted, expected);
        let verb = metrics.commands.last().unwrap();
        assert_eq!((verb.nanoseconds, &verb.buckets[..2]), (1_500, &[0, 1][..]));
        assert_eq!(verb.buckets.len(), metrics.bucket_ends_nanoseconds.len());
        assert_eq!(metrics.bucket_ends_nanoseconds[..2], [1_024, 2_048]);
        assert_eq!(metrics.errors, BTreeMap::from([("ERR".to_owned(), 2)]));
        assert_eq!((metrics.store.keys, metrics.memcached["cmd_get"]), (1, 0));
    }
}
