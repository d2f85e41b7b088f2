//! LATENCY: what took long, as clients are told of it, and what may help.
//!
//! The replies are those of Redis 7.0. What the doctor says is for people, and in words of our own.

use crate::failure::{Failure, Result};
use crate::redis::call::Call;
use crate::redis::command_statistics;
use crate::redis::introspection::help;
use crate::redis::sparkline::sparkline;
use crate::redis::table::{Command, NO_KEYS, flags};
use crate::shared::Shared;
use crate::spikes::{COMMAND, FAST_COMMAND, FLUSH, Series};
use std::fmt::Write;

use flags::{ADMIN, LOADING, NOSCRIPT, STALE};

/// How wide the line below a graph's title is.
const RULE_COLUMNS: usize = 80;

/// The rows.
pub static COMMANDS: &[Command] = &[Command {
    name: "latency",
    arity: -2,
    flags: 0,
    keys: NO_KEYS,
    categories: "slow",
    group: "server",
    since: "2.8.13",
    complexity: "That of the subcommand",
    summary: "Groups the commands about latency.",
    syntax: "",
    run: help,
    subcommands: SUBCOMMANDS,
}];

static SUBCOMMANDS: &[Command] = &[
    Command {
        name: "latest",
        arity: 2,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "2.8.13",
        complexity: "O(1)",
        summary: "Answers the latest spike of each event, and the highest.",
        syntax: "",
        run: latest,
        subcommands: &[],
    },
    Command {
        name: "history",
        arity: 3,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "2.8.13",
        complexity: "O(1)",
        summary: "Answers the spikes of an event, the highest of each second.",
        syntax: "event",
        run: history,
        subcommands: &[],
    },
    Command {
        name: "reset",
        arity: -2,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "2.8.13",
        complexity: "O(1)",
        summary: "Forgets the spikes of events, or of all; answers of how many.",
        syntax: "[event...]",
        run: reset,
        subcommands: &[],
    },
    Command {
        name: "graph",
        arity: 3,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "2.8.13",
        complexity: "O(1)",
        summary: "Draws the spikes of an event.",
        syntax: "event",
        run: graph,
        subcommands: &[],
    },
    Command {
        name: "histogram",
        arity: -2,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "7.0.0",
        complexity: "O(1)",
        summary: "Answers how long calls of commands took: of all, or of some.",
        syntax: "[command...]",
        run: command_statistics::histogram,
        subcommands: &[],
    },
    Command {
        name: "doctor",
        arity: 2,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "2.8.13",
        complexity: "O(1)",
        summary: "Says which spikes there were, and what may help.",
        syntax: "",
        run: doctor,
        subcommands: &[],
    },
    Command {
        name: "help",
        arity: 2,
        flags: LOADING | STALE,
        keys: NO_KEYS,
        categories: "slow",
        group: "server",
        since: "2.8.13",
        complexity: "O(1)",
        summary: "Lists the subcommands.",
        syntax: "",
        run: help,
        subcommands: &[],
    },
];

fn latest(call: &mut Call<'_, '_>) -> Result<()> {
    let all = call.shared.spikes.all();
    call.reply.array(all.len());
    for (event, series) in all {
        let Some(last) = series.samples.back() else { continue };
        call.reply.array(4);
        call.reply.bulk(event.as_bytes());
        call.reply.count(last.at_seconds);
        call.reply.count(last.milliseconds);
        call.reply.count(series.milliseconds_max);
    }
    Ok(())
}

fn history(call: &mut Call<'_, '_>) -> Result<()> {
    let series = call.shared.spikes.of(call.argument(2)).unwrap_or_default();
    call.reply.array(series.samples.len());
    for sample in &series.samples {
        call.reply.array(2);
        call.reply.count(sample.at_seconds);
        call.reply.count(sample.milliseconds);
    }
    Ok(())
}

fn reset(call: &mut Call<'_, '_>) -> Result<()> {
    let arguments = call.arguments;
    let is_chosen =
        |event: &str| arguments.len() == 2 || arguments.from(2).any(|argument| argument == event.as_bytes());
    call.reply.count(call.shared.spikes.forget(is_chosen) as u64);
    Ok(())
}

fn graph(call: &mut Call<'_, '_>) -> Result<()> {
    let event = String::from_utf8_lossy(call.argument(2));
    let Some(series) = call.shared.spikes.of(call.argument(2)) else {
        return Err(Failure::text(format!("ERR No samples available for event '{event}'")));
    };
    let heights = || series.samples.iter().map(|sample| sample.milliseconds);
    let (high, low) = (heights().max().unwrap_or(0), heights().min().unwrap_or(0));
    let now_seconds = call.space.now_ms() / 1000;
    let points: Vec<(u64, String)> = series
        .samples
        .iter()
        .map(|sample| (sample.milliseconds, age(now_seconds.saturating_sub(sample.at_seconds))))
        .collect();
    call.reply.verbatim(
        "txt",
        &format!(
            "{event} - high {high} ms, low {low} ms (all time high {} ms)\n{}\n{}",
            series.milliseconds_max,
            "-".repeat(RULE_COLUMNS),
            sparkline(&points),
        ),
    );
    Ok(())
}

/// How long ago something was, in the largest unit of which it is at least one.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn doctor(call: &mut Call<'_, '_>) -> Result<()> {
    let text = report(call.shared, &call.shared.spikes.all());
    call.reply.verbatim("txt", &text);
    Ok(())
}

/// What was seen, and what to do about it.
fn report(shared: &Shared, all: &[(&'static str, Series)]) -> String {
    let least = shared.spikes.threshold_milliseconds();
    if all.is_empty() {
        return match least {
            0 => "Spikes of latency are not watched. CONFIG SET latency-monitor-threshold MILLISECONDS has those noted that take so long or longer; LATENCY \
                  HISTOGRAM and INFO latencystats show how long commands take without it.\n"
                .to_owned(),
            _ => format!("Nothing took {least} ms or longer since this is watched.\n"),
        };
    }
    let mut text = match least {
        0 => "Spikes of latency are not watched any more. Those that were seen before:\n\n".to_owned(),
        _ => format!("What took {least} ms or longer, by event, the highest of each second:\n\n"),
    };
    for (number, (event, series)) in all.iter().enumerate() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}. {event}: {}", number + 1, summary(series));
    }
    text.push_str("\nWhat may help:\n\n");
    for advice in advices(shared, all) {
        let _ = writeln!(text, "- {advice}");
    }
    text
}

/// The spikes of an event in one line.
fn summary(series: &Series) -> String {
    let count = series.samples.len() as u64;
    let heights = || series.samples.iter().map(|sample| sample.milliseconds);
    // Samples are there as long as the series is, and a sum of 160 is far from what a number may be.
    let mean = heights().sum::<u64>() / count.max(1);
    let deviation = heights().map(|height| height.abs_diff(mean)).sum::<u64>() / count.max(1);
    let spikes = if count == 1 { "1 spike".to_owned() } else { format!("{count} spikes") };
    let often = match (series.samples.front(), series.samples.back()) {
        (Some(first), Some(last)) if count > 1 => {
            let seconds = last.at_seconds.saturating_sub(first.at_seconds) as f64;
            format!(", one in {:.1} s", seconds / (count - 1) as f64)
        }
        _ => String::new(),
    };
    format!(
        "{spikes} of {mean} ms on average (mean deviation {deviation} ms){often}; {} ms at most.",
        series.milliseconds_max
    )
}

fn advices(shared: &Shared, all: &[(&'static str, Series)]) -> Vec<String> {
    let has = |event: &str| all.iter().any(|(name, _)| *name == event);
    let mut advices = Vec::new();
    if has(COMMAND) || has(FAST_COMMAND) {
        let slow_from = shared.slow_log.slow_from_nanoseconds();
        let is_in_slow_log = slow_from != u64::MAX && slow_from <= shared.spikes.watched_from_nanoseconds();
        advices.push(if is_in_slow_log {
            "SLOWLOG GET says which commands they were, and of which clients.".to_owned()
        } else {
            "The slow log is off, or leaves out commands that are watched here: CONFIG SET slowlog-log-slower-than MICROSECONDS to no more than \
             latency-monitor-threshold, and SLOWLOG GET says which they are."
                .to_owned()
        });
    }
    if has(COMMAND) {
        advices.push(
            "A command that looks at many keys or makes a large value keeps the other clients of its loop waiting: SCAN in place of KEYS, fewer keys in \
             a command, smaller values. `thermae serve --threads` spreads clients over more loops."
                .to_owned(),
        );
    }
    if has(FAST_COMMAND) {
        advices.push(
            "A fast command takes long where its value is large, or in a tier below memory, where room has to be made first, or where the machine lacks \
             processor time: see `cold_reads` in `thermae stats`, a larger hot tier, and the load of the machine."
                .to_owned(),
        );
    }
    if has(FLUSH) {
        advices.push(
            "Clients wait for the disk, as appendfsync is `always`: a faster disk, or a warm tier, makes it shorter; with `everysec` nobody waits, and the \
             last second may be lost with the machine."
                .to_owned(),
        );
    }
    advices
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Moment;
    use crate::redis::test_support::TestServer;

    #[test]
    fn nothing_is_watched_unless_it_is_wanted() {
        let mut server = TestServer::new();
        server.check(&[
            ("DEBUG SLEEP 0.003", "+OK\r\n"),
            ("LATENCY LATEST", "*0\r\n"),
            ("LATENCY HISTORY command", "*0\r\n"),
            ("LATENCY RESET a b", ":0\r\n"),
            ("LATENCY GRAPH x", "-ERR No samples available for event 'x'\r\n"),
            ("LATENCY HISTOGRAM foo", "*0\r\n"),
            ("LATENCY GRAPH", "-ERR wrong number of arguments for 'latency|graph' command\r\n"),
            ("CONFIG GET latency-monitor-threshold", "*2\r\n$25\r\nlatency-monitor-threshold\r\n$1\r\n0\r\n"),
        ]);
        let reply = server.line("LATENCY DOCTOR");
        assert!(reply.contains("CONFIG SET latency-monitor-threshold"), "{reply}");
        for (value, reason) in [
            ("-1", "argument must be between 0 and 9223372036854775807 inclusive"),
            ("x", "argument couldn't be parsed into an integer"),
        ] {
            let reply = server.line(&format!("CONFIG SET latency-monitor-threshold {value}"));
            assert!(reply.ends_with(&format!(" - {reason}\r\n")), "{reply}");
        }
        assert_eq!(server.line("CONFIG SET latency-monitor-threshold 60000"), "+OK\r\n");
        let reply = server.line("LATENCY DOCTOR");
        assert!(reply.contains("Nothing took 60000 ms or longer"), "{reply}");
    }

    #[test]
    fn commands_that_take_long_are_seen() {
        let mut server = TestServer::new();
        // Whatever else wants commands to be timed.
        assert_eq!(
            server.line(
                "CONFIG SET latency-tracking no slowlog-log-slower-than -1 latency-monitor-threshold 20"
            ),
            "+OK\r\n"
        );
        assert_eq!(server.line("DEBUG SLEEP 0.03"), "+OK\r\n");
        let series = server.shared().spikes.of(b"command").unwrap();
        let last = *series.samples.back().unwrap();
        assert!((30..5_000).contains(&last.milliseconds), "{last:?}");
        assert!(server.shared().slow_log.is_empty());
        let reply = server.line("LATENCY LATEST");
        let (seconds, height) = (last.at_seconds, last.milliseconds);
        assert_eq!(reply, format!("*1\r\n*4\r\n$7\r\ncommand\r\n:{seconds}\r\n:{height}\r\n:{height}\r\n"));
        let reply = server.line("LATENCY HISTORY command");
        assert_eq!(reply, format!("*1\r\n*2\r\n:{seconds}\r\n:{height}\r\n"));
        let reply = server.line("LATENCY GRAPH command");
        let title = format!("command - high {height} ms, low {height} ms (all time high {height} ms)\n");
        assert!(reply.contains(&title) && reply.contains(" \n \n \n_\n \n"), "{reply}");
        let reply = server.line("LATENCY DOCTOR");
        assert!(reply.contains("1. command: 1 spike of") && reply.contains("The slow log is off"), "{reply}");
        server.line("HELLO 3");
        assert!(server.line("LATENCY GRAPH command").starts_with('='));
        server.check(&[
            ("LATENCY RESET x", ":0\r\n"),
            ("LATENCY RESET command x command", ":1\r\n"),
            ("LATENCY HISTORY command", "*0\r\n"),
            ("CONFIG SET latency-monitor-threshold 0", "+OK\r\n"),
            ("DEBUG SLEEP 0.03", "+OK\r\n"),
            ("LATENCY LATEST", "*0\r\n"),
        ]);
        assert!(!server.shared().latency.is_timed());
    }

    #[test]
    fn fast_commands_are_an_event_of_their_own() {
        let mut server = TestServer::new();
        server.line("CONFIG SET latency-monitor-threshold 5");
        let began = Moment::now();
        std::thread::sleep(std::time::Duration::from_millis(6));
        server.call_since(Some(began), &[b"GET", b"k"]);
        let events: Vec<_> = server.shared().spikes.all().into_iter().map(|(event, _)| event).collect();
        assert_eq!(events, [FAST_COMMAND]);
        // What was noted takes time, which is not the next command's.
        assert!(server.session.began.is_none() && server.session.ends_turn);
    }

    #[test]
    fn what_is_noted_is_what_either_wants() {
        let mut server = TestServer::new();
        let from = |server: &TestServer, microseconds: u64| {
            let latency = &server.shared().latency;
            latency.is_noted(microseconds * 1_000) && !latency.is_noted(microseconds * 1_000 - 1)
        };
        assert!(from(&server, 10_000));
        server.line("CONFIG SET latency-monitor-threshold 2");
        assert!(from(&server, 2_000));
        server.line("CONFIG SET slowlog-log-slower-than 500");
        assert!(from(&server, 500));
        server.line("CONFIG SET slowlog-log-slower-than -1");
        assert!(from(&server, 2_000));
    }

    #[test]
    fn the_doctor_says_what_was_seen_of_each_event() {
        let server = TestServer::new();
        let shared = server.shared();
        shared.spikes.set_threshold(50);
        for (milliseconds, at_seconds) in [(100, 10), (200, 12), (300, 16)] {
            shared.spikes.note(FLUSH, milliseconds, at_seconds);
        }
        shared.spikes.note(FAST_COMMAND, 60, 10);
        let text = report(shared, &shared.spikes.all());
        for part in [
            "What took 50 ms or longer",
            "1. aof-fsync-always: 3 spikes of 200 ms on average (mean deviation 66 ms), one in 3.0 s; 300 ms at most.\n",
            "2. fast-command: 1 spike of 60 ms on average (mean deviation 0 ms); 60 ms at most.\n",
            "- SLOWLOG GET says",
            "- A fast command takes long",
            "- Clients wait for the disk",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("A command that looks at many keys"), "{text}");
        shared.spikes.set_threshold(0);
        assert!(
            report(shared, &shared.spikes.all()).starts_with("Spikes of latency are not watched any more.")
        );
    }

    #[test]
    fn ages_have_the_largest_unit() {
        let ages = [0, 59, 60, 3_599, 3_600, 86_399, 86_400, 864_000].map(age);
        assert_eq!(ages, ["0s", "59s", "1m", "59m", "1h", "23h", "1d", "10d"]);
    }
}
