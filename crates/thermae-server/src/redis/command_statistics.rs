//! How often commands are called and how long that takes, as clients are told: two sections of INFO, and LATENCY HISTOGRAM.

use crate::failure::Result;
use crate::histogram::Distribution;
use crate::redis::call::Call;
use crate::redis::table::{self, Entry};
use crate::shared::Shared;
use std::fmt::Write;

/// LATENCY HISTOGRAM begins at 2^10 ns, which it calls 1 us, and doubles.
const FIRST_POWER: u32 = 10;
const LAST_POWER: u32 = 36;

/// Lines of INFO: calls of each command that was called.
pub fn call_lines(shared: &Shared) -> Vec<(String, String)> {
    let totals = shared.statistics.totals_since_reset();
    let used = table::entries().iter().zip(&totals.commands).filter(|(_, usage)| usage.is_used());
    used.map(|(command, usage)| {
        let microseconds = usage.nanoseconds / 1000;
        let mean = if usage.calls == 0 { 0.0 } else { microseconds as f64 / usage.calls as f64 };
        let value = format!(
            "calls={},usec={microseconds},usec_per_call={mean:.2},rejected_calls={},failed_calls={}",
            usage.calls, usage.rejected, usage.failed
        );
        (format!("cmdstat_{}", command.full_name), value)
    })
    .collect()
}

/// Lines of INFO: percentiles of each command of which it is tracked how long it takes; none while that is off.
pub fn latency_lines(shared: &Shared) -> Vec<(String, String)> {
    if !shared.latency.is_tracked() {
        return Vec::new();
    }
    let percentiles = shared.latency.percentiles();
    let timed = table::entries().iter().filter_map(|command| Some((command, times(shared, command)?)));
    timed
        .map(|(command, times)| {
            let mut value = String::new();
            for percentile in &percentiles {
                let microseconds = times.percentile_nanoseconds(*percentile) as f64 / 1000.0;
                let comma = if value.is_empty() { "" } else { "," };
                // Writing to a string does not fail.
                let _ = write!(value, "{comma}p{}={microseconds:.3}", percentile_text(*percentile));
            }
            (format!("latency_percentiles_usec_{}", command.full_name), value)
        })
        .collect()
}

/// A percentile without zeros at its end.
pub fn percentile_text(percentile: f64) -> String {
    let text = format!("{percentile:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// How long the calls of a command took, if there were any.
fn times(shared: &Shared, command: &Entry) -> Option<Distribution> {
    let times = shared.statistics.times_of_command_since_reset(command.number);
    (times.count() != 0).then_some(times)
}

/// LATENCY HISTOGRAM: of all commands, or of those that are named and their subcommands.
pub fn histogram(call: &mut Call<'_, '_>) -> Result<()> {
    let commands: Vec<&Entry> = if call.arguments.len() == 2 {
        table::entries().iter().collect()
    } else {
        let named = call.arguments.from(2).filter_map(table::find_full);
        named.flat_map(|command| std::iter::once(command).chain(command.subcommands())).collect()
    };
    let shared = call.shared;
    let timed: Vec<(&Entry, Distribution)> =
        commands.into_iter().filter_map(|command| Some((command, times(shared, command)?))).collect();
    call.reply.map(timed.len());
    for (command, times) in timed {
        call.reply.bulk(command.full_name.as_bytes());
        call.reply.map(2);
        call.reply.bulk(b"calls");
        call.reply.count(times.count());
        call.reply.bulk(b"histogram_usec");
        let steps = steps(&times);
        call.reply.map(steps.len());
        for (microseconds, count) in steps {
            call.reply.count(microseconds);
            call.reply.count(count);
        }
    }
    Ok(())
}

/// How many calls took no longer than each power of two, where that is more than for the one before.
fn steps(times: &Distribution) -> Vec<(u64, u64)> {
    let mut before = 0;
    let mut steps = Vec::new();
    for power in FIRST_POWER..=LAST_POWER {
        let count = times.count_below_power(power);
        if count > before {
            steps.push((shown_microseconds(power), count));
            before = count;
        }
    }
    steps
}

/// How Redis writes a power of two of nanoseconds: as the end of its own bucket there, a 128th further.
fn shown_microseconds(power: u32) -> u64 {
    ((1 << power) + (1 << (power - 7)) - 1) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::test_support::TestServer;

    fn lines(server: &mut TestServer, section: &str) -> Vec<String> {
        let text = server.line(&format!("INFO {section}"));
        text.split("\r\n").skip(2).filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn calls_failures_and_rejections_are_told_apart() {
        let mut server = TestServer::new();
        for line in [
            "CONFIG RESETSTAT",
            "SET k v",
            "SET k",
            "INCR k",
            "GET k",
            "GET k",
            "NONSENSE",
            "OBJECT",
            "OBJECT x",
        ] {
            server.line(line);
        }
        let expected = [
            ("cmdstat_set:calls=1,", "rejected_calls=1,failed_calls=0"),
            ("cmdstat_get:calls=2,", "rejected_calls=0,failed_calls=0"),
            ("cmdstat_incr:calls=1,", "rejected_calls=0,failed_calls=1"),
            ("cmdstat_object:calls=0,usec=0,usec_per_call=0.00,", "rejected_calls=1,failed_calls=0"),
            ("cmdstat_config|resetstat:calls=1,", "rejected_calls=0,failed_calls=0"),
        ];
        let found = lines(&mut server, "commandstats");
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (begin, end) in expected {
            assert!(
                found.iter().any(|line| line.starts_with(begin) && line.ends_with(end)),
                "{begin} {found:?}"
            );
        }
        server.line("CONFIG RESETSTAT");
        let found = lines(&mut server, "commandstats");
        assert!(found.len() == 1 && found[0].starts_with("cmdstat_config|resetstat:calls=1,"), "{found:?}");
    }

    #[test]
    fn a_transaction_counts_what_it_runs() {
        let mut server = TestServer::new();
        for line in [
            "MULTI",
            "SET k v",
            "INCR k",
            "CLIENT REPLY",
            "EXEC",
            "EXEC",
            "MULTI",
            "INCRBY k x",
            "GET k",
            "EXEC",
        ] {
            server.line(line);
        }
        let found = lines(&mut server, "commandstats").join("\n");
        for (name, calls, rejected, failed) in [
            ("multi", 2, 0, 0),
            ("exec", 3, 0, 2),
            ("incrby", 1, 0, 1),
            ("get", 1, 0, 0),
            ("client|reply", 0, 1, 0),
        ] {
            let line = found.lines().find(|line| line.starts_with(&format!("cmdstat_{name}:"))).unwrap();
            assert!(line.contains(&format!("calls={calls},usec=")), "{line}");
            assert!(line.ends_with(&format!("rejected_calls={rejected},failed_calls={failed}")), "{line}");
        }
        assert!(!found.contains("cmdstat_set:") && !found.contains("cmdstat_incr:"));
    }

    #[test]
    fn percentiles_are_those_that_are_asked_for() {
        let mut server = TestServer::new();
        server.line("GET k");
        let found = lines(&mut server, "latencystats");
        let values = found[0].strip_prefix("latency_percentiles_usec_get:").unwrap().split(',');
        let names: Vec<&str> = values.map(|value| value.split_once('=').unwrap().0).collect();
        assert_eq!((found.len(), names), (1, vec!["p50", "p99", "p99.9"]));
        server.check(&[
            ("CONFIG SET latency-tracking-info-percentiles \"0 99.99\"", "+OK\r\n"),
            ("CONFIG RESETSTAT", "+OK\r\n"),
        ]);
        let found = lines(&mut server, "latencystats");
        assert!(found[0].starts_with("latency_percentiles_usec_config|resetstat:p0="), "{found:?}");
        assert!(found[0].contains(",p99.99="), "{found:?}");
        server.line("CONFIG SET latency-tracking no");
        assert!(lines(&mut server, "latencystats").is_empty());
    }

    #[test]
    fn without_tracking_calls_are_counted_and_not_timed() {
        let mut server = TestServer::new();
        server.line("CONFIG SET latency-tracking no");
        for line in ["SLOWLOG LEN", "CONFIG SET slowlog-log-slower-than -1", "GET k"] {
            server.line(line);
        }
        assert!(server.session.began.is_none());
        server.check(&[("LATENCY HISTOGRAM get slowlog", "*0\r\n")]);
        let found = lines(&mut server, "commandstats").join("\n");
        for name in ["get", "slowlog|len"] {
            assert!(found.contains(&format!("cmdstat_{name}:calls=1,usec=0,usec_per_call=0.00,")), "{found}");
        }
    }

    #[test]
    fn histograms_are_cumulative_at_powers_of_two() {
        let mut server = TestServer::new();
        let note = |server: &TestServer, name: &str, nanoseconds: u64| {
            let number = table::find_full(name.as_bytes()).unwrap().number;
            server.session.counts(server.shared()).commands.of(number).note_time(nanoseconds);
        };
        for nanoseconds in [0, 1_000, 1_024, 30_000, 30_000, u64::MAX] {
            note(&server, "get", nanoseconds);
        }
        note(&server, "config|get", 5_000);
        let last = shown_microseconds(LAST_POWER);
        server.check(&[
            (
                "LATENCY HISTOGRAM GET nonsense",
                &format!(
                    "*2\r\n$3\r\nget\r\n*4\r\n$5\r\ncalls\r\n:6\r\n$14\r\nhistogram_usec\r\n*8\r\n:1\r\n:2\r\n:2\r\n:3\r\n:33\r\n:5\r\n:{last}\r\n:6\r\n"
                ),
            ),
            (
                "LATENCY HISTOGRAM config",
                "*2\r\n$10\r\nconfig|get\r\n*4\r\n$5\r\ncalls\r\n:1\r\n$14\r\nhistogram_usec\r\n*2\r\n:8\r\n:1\r\n",
            ),
        ]);
        assert!(server.line("LATENCY HISTOGRAM").starts_with("*6\r\n"));
    }

    #[test]
    fn every_command_has_a_row() {
        assert!(table::entries().len() <= crate::statistics::COMMANDS_MAX);
    }
}
