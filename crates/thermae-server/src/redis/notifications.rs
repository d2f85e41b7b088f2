//! `notify-keyspace-events`: which events of keys are published, as letters and as bits.
//!
//! The events themselves are noted by the commands, with [`crate::redis::call::Call::note`]; how they are published is said in [`crate::redis::telling`].

use crate::attention::{EVENTS, NEW_KEYS};
use crate::events::classes::{
    EVICTED, EXPIRED, GENERIC, HASH, KEY_MISS, KEYEVENT, KEYSPACE, LIST, MODULE, NEW, SET, SORTED_SET,
    STREAM, STRING,
};
use crate::shared::Shared;
use std::sync::atomic::Ordering;

/// Letters and what they stand for, in the order in which they are answered.
const LETTERS: [(char, u32); 14] = [
    ('g', GENERIC),
    ('$', STRING),
    ('l', LIST),
    ('s', SET),
    ('h', HASH),
    ('z', SORTED_SET),
    ('x', EXPIRED),
    ('e', EVICTED),
    ('t', STREAM),
    ('d', MODULE),
    ('n', NEW),
    ('K', KEYSPACE),
    ('E', KEYEVENT),
    ('m', KEY_MISS),
];
/// What `A` stands for.
const ALL: u32 = GENERIC | STRING | LIST | SET | HASH | SORTED_SET | EXPIRED | EVICTED | STREAM | MODULE;

/// The bits that letters stand for.
///
/// # Errors
/// What CONFIG SET says where one stands for nothing.
pub fn parse(text: &str) -> Result<u32, String> {
    let bits = |letter| match letter {
        'A' => Some(ALL),
        _ => LETTERS.iter().find(|(known, _)| *known == letter).map(|(_, bits)| *bits),
    };
    text.chars()
        .try_fold(0, |all, letter| Some(all | bits(letter)?))
        .ok_or_else(|| "Invalid event class character. Use 'Ag$lshzxeKEtmdn'.".to_owned())
}

/// The letters for these bits. As in Redis 7.0, that of new keys is not among them where `A` is.
pub fn format(notified: u32) -> String {
    let is_all = notified & ALL == ALL;
    let hidden = if is_all { ALL | NEW } else { 0 };
    let shown = LETTERS.iter().filter(|(_, bits)| notified & bits & !hidden != 0);
    let all = if is_all { "A" } else { "" };
    all.chars().chain(shown.map(|(letter, _)| *letter)).collect()
}

/// Has these events be published from now on.
pub fn apply(shared: &Shared, notified: u32) {
    shared.notified.store(notified, Ordering::Relaxed);
    let is_published = notified & (KEYSPACE | KEYEVENT) != 0;
    shared.attention.set(EVENTS, is_published && notified & !(KEYSPACE | KEYEVENT) != 0);
    shared.attention.set(NEW_KEYS, is_published && notified & NEW != 0);
    if is_published {
        shared.observing.begin(&shared.store);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_answered_in_order() {
        for (given, answered) in [
            ("", ""),
            ("AKE", "AKE"),
            ("KEA", "AKE"),
            ("AA", "A"),
            ("AKEnm", "AKEm"),
            ("nmKE", "nKEm"),
            ("dK", "dK"),
            ("dtexzhsl$g", "A"),
            ("g$lshzxet", "g$lshzxet"),
        ] {
            assert_eq!(format(parse(given).unwrap()), answered, "{given}");
        }
        assert!(parse("Aq").unwrap_err().contains("Invalid event class character"));
    }
}
