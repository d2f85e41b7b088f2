//! LCS: what two values have in common.
//!
//! The textbook's table: for each pair of beginnings, how long their longest common subsequence is; then the way back from its last corner. Where two
//! ways back are as good, the one that Redis goes is gone, so that the same of several answers is given. The table is bounded by the longest
//! argument that clients may send, as in Redis: so is the time for which others wait.

use crate::failure::{Failure, Result};
use crate::numbers::parse_integer;
use crate::redis::call::{Call, NOT_AN_INTEGER, SYNTAX};
use crate::redis::reply::Reply;
use crate::redis::table::{Command, Keys, flags};
use std::sync::atomic::Ordering;

use flags::READONLY;

/// The rows.
pub static COMMANDS: &[Command] = &[Command {
    name: "lcs",
    arity: -3,
    flags: READONLY,
    keys: Keys { first: 1, last: 2, step: 1 },
    categories: "read slow string",
    group: "string",
    since: "7.0.0",
    complexity: "O(N*M), N and M being the lengths of the values",
    summary: "Answers the longest sequence of bytes that two values have in common, or where it is in them.",
    syntax: "key1#0 key2#0 [LEN] [IDX] [MINMATCHLEN len:integer] [WITHMATCHLEN]",
    run: lcs,
    subcommands: &[],
}];

/// What is answered.
#[derive(Debug, Default)]
struct Words {
    is_length: bool,
    is_index: bool,
    length_min: i64,
    is_with_lengths: bool,
}

impl Words {
    fn parse(call: &Call<'_, '_>) -> Result<Self> {
        let mut words = Self::default();
        let mut index = 3;
        while index < call.arguments.len() {
            if call.is(index, "IDX") {
                words.is_index = true;
            } else if call.is(index, "LEN") {
                words.is_length = true;
            } else if call.is(index, "WITHMATCHLEN") {
                words.is_with_lengths = true;
            } else if call.is(index, "MINMATCHLEN") && index + 1 < call.arguments.len() {
                index += 1;
                words.length_min = parse_integer(call.argument(index)).ok_or(NOT_AN_INTEGER)?;
            } else {
                return Err(Failure::from(SYNTAX));
            }
            index += 1;
        }
        if words.is_index && words.is_length {
            return Err(Failure::from("ERR If you want both the length and indexes, please just use IDX."));
        }
        Ok(words)
    }
}

/// Bytes that follow each other in both values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first_start: usize,
    second_start: usize,
    length: usize,
}

/// Lengths of longest common subsequences, a row for each beginning of the first value, a column for each of the second's.
struct Table<'a> {
    first: &'a [u8],
    second: &'a [u8],
    lengths: Vec<u32>,
}

impl<'a> Table<'a> {
    /// Bytes that it takes.
    fn bytes(first: &[u8], second: &[u8]) -> u64 {
        let cells = (first.len() as u64 + 1).saturating_mul(second.len() as u64 + 1);
        cells.saturating_mul(size_of::<u32>() as u64)
    }

    fn new(first: &'a [u8], second: &'a [u8]) -> Self {
        let columns = second.len() + 1;
        let mut lengths = vec![0; (first.len() + 1) * columns];
        for (row, byte) in first.iter().enumerate() {
            let (above, here) = lengths[row * columns..][..2 * columns].split_at_mut(columns);
            for (column, other) in second.iter().enumerate() {
                here[column + 1] =
                    if byte == other { above[column] + 1 } else { above[column + 1].max(here[column]) };
            }
        }
        Self { first, second, lengths }
    }

    fn at(&self, row: usize, column: usize) -> u32 {
        self.lengths[row * (self.second.len() + 1) + column]
    }

    /// Of the whole values.
    fn length(&self) -> u32 {
        self.at(self.first.len(), self.second.len())
    }

    /// The subsequence, its last run first.
    fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let (mut row, mut column) = (self.first.len(), self.second.len());
        let mut is_in_run = false;
        while row > 0 && column > 0 {
            if self.first[row - 1] != self.second[column - 1] {
                is_in_run = false;
                if self.at(row - 1, column) > self.at(row, column - 1) {
                    row -= 1;
                } else {
                    column -= 1;
                }
                continue;
            }
            (row, column) = (row - 1, column - 1);
            let length = match runs.last() {
                Some(run) if is_in_run => run.length + 1,
                _ => 1,
            };
            if is_in_run {
                runs.pop();
            }
            runs.push(Run { first_start: row, second_start: column, length });
            is_in_run = true;
        }
        runs
    }
}

fn lcs(call: &mut Call<'_, '_>) -> Result<()> {
    let (first, second) = (call.key(1), call.key(2));
    let words = Words::parse(call)?;
    let values = call.space.atomically(|space| {
        let mut values = [Vec::new(), Vec::new()];
        for (key, value) in [&first, &second].into_iter().zip(&mut values) {
            match space.get(key)? {
                Some((_, found)) => *value = found,
                None => space.events.note_miss(key),
            }
        }
        Ok(values)
    });
    let [first, second] = values?;
    if Table::bytes(&first, &second) > call.shared.argument_bytes_max.load(Ordering::Relaxed) {
        return Err(Failure::from(
            "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len",
        ));
    }
    let table = Table::new(&first, &second);
    if words.is_index {
        reply_runs(&mut call.reply, &table, &words);
    } else if words.is_length {
        call.reply.count(u64::from(table.length()));
    } else {
        let runs = table.runs();
        let in_order = runs.iter().rev();
        let bytes: Vec<u8> =
            in_order.flat_map(|run| &first[run.first_start..run.first_start + run.length]).copied().collect();
        call.reply.bulk(&bytes);
    }
    Ok(())
}

fn reply_runs(reply: &mut Reply<'_>, table: &Table<'_>, words: &Words) {
    let mut runs = table.runs();
    runs.retain(|run| run.length as i64 >= words.length_min);
    reply.map(2);
    reply.bulk(b"matches");
    reply.array(runs.len());
    for run in runs {
        reply.array(if words.is_with_lengths { 3 } else { 2 });
        for start in [run.first_start, run.second_start] {
            reply.array(2);
            reply.count(start as u64);
            reply.count((start + run.length - 1) as u64);
        }
        if words.is_with_lengths {
            reply.count(run.length as u64);
        }
    }
    reply.bulk(b"len");
    reply.count(u64::from(table.length()));
}
