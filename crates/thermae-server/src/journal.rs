//! What happens to the server that whoever runs it should know: events, kept until they are fetched.
//!
//! Loops note and never wait: for the lock only as long as it takes to push, as nothing is formatted, written or called under it. What strangers can make
//! happen is bounded twice: so many events of a kind in a second, and so many in all; what is left out is counted. Rejected: writing to
//! standard error from the loops, which a reader that has stopped reading would stop.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Events that are kept at most.
const EVENTS_MAX: usize = 1024;
/// Events of a kind that are kept of each second.
const EVENTS_PER_SECOND_MAX: u64 = 10;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: &'static str,
    /// When, store clock.
    pub at_ms: u64,
    /// What is known of it.
    pub fields: Vec<(&'static str, String)>,
    /// More of its kind that happened before it and were left out.
    pub left_out: u64,
}

/// How often one kind of event happened.
#[derive(Debug, Default)]
struct Rate {
    second: u64,
    count: u64,
    left_out: u64,
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Event>,
    rates: HashMap<&'static str, Rate>,
}

/// Events that were not fetched yet.
#[derive(Debug, Default)]
pub struct Journal(Mutex<Kept>);

impl Journal {
    /// Notes an event.
    #[cold]
    pub fn note(&self, kind: &'static str, at_ms: u64, fields: Vec<(&'static str, String)>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Kept { events, rates } = &mut *kept;
        let rate = rates.entry(kind).or_default();
        let second = at_ms / 1000;
        if rate.second != second {
            (rate.second, rate.count) = (second, 0);
        }
        rate.count += 1;
        if rate.count > EVENTS_PER_SECOND_MAX || events.len() >= EVENTS_MAX {
            rate.left_out += 1;
        } else {
            let left_out = std::mem::take(&mut rate.left_out);
            events.push_back(Event { kind, at_ms, fields, left_out });
        }
    }

    /// Takes the events in the order in which they were noted; behind them those kinds of which the last second left some out.
    pub fn take(&self, now_ms: u64) -> Vec<Event> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut events: Vec<Event> = kept.events.drain(..).collect();
        for (kind, rate) in &mut kept.rates {
            if rate.left_out > 0 && rate.second < now_ms / 1000 {
                let left_out = std::mem::take(&mut rate.left_out);
                events.push(Event { kind, at_ms: now_ms, fields: Vec::new(), left_out });
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted() {
        let journal = Journal::default();
        for number in 0..15 {
            journal.note("refused", 1000 + number, vec![("number", number.to_string())]);
        }
        journal.note("other", 1100, Vec::new());
        let events = journal.take(1999);
        assert_eq!(events.len(), EVENTS_PER_SECOND_MAX as usize + 1);
        assert!(events.iter().all(|event| event.left_out == 0));
        assert_eq!(events[9].fields, [("number", "9".to_owned())]);
        journal.note("refused", 2000, Vec::new());
        assert_eq!(
            journal.take(2001),
            [Event { kind: "refused", at_ms: 2000, fields: Vec::new(), left_out: 5 }]
        );
        (0..12).for_each(|_| journal.note("refused", 3000, Vec::new()));
        assert_eq!(journal.take(3001).len(), 10);
        assert_eq!(journal.take(3999), []);
        let last = Event { kind: "refused", at_ms: 4000, fields: Vec::new(), left_out: 2 };
        assert_eq!((journal.take(4000), journal.take(9000)), (vec![last], vec![]));
    }

    #[test]
    fn who_never_fetches_makes_nothing_grow() {
        let journal = Journal::default();
        for second in 0..1000 {
            (0..11).for_each(|_| journal.note("refused", second * 1000, Vec::new()));
        }
        let events = journal.take(1_000_000);
        let told: u64 = events.iter().map(|event| event.left_out + 1).sum();
        assert_eq!((events.len(), told), (EVENTS_MAX + 1, 11_001));
    }
}
