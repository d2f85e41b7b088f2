//! What a command did to keys, collected while it runs: for those who are told afterwards.
//!
//! A command that has to be run again (see [`crate::space`]) takes back what it said before. Nothing is collected that nobody wants to know.

use crate::attention::{CHANGES, EVENTS};

/// Classes of what happens to keys: bits of what `notify-keyspace-events` says.
pub mod classes {
    /// Whatever the key holds: deleted, renamed, given an expiry.
    pub const GENERIC: u32 = 1 << 2;
    /// Commands on strings.
    pub const STRING: u32 = 1 << 3;
    /// A key has expired.
    pub const EXPIRED: u32 = 1 << 8;
    /// A key had to make room.
    pub const EVICTED: u32 = 1 << 9;
}

/// Something that happened to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Class of the event, a bit of `notify-keyspace-events`.
    pub class: u32,
    /// Such as `set`.
    pub name: &'static str,
    /// The key, as the store has it.
    pub key: Vec<u8>,
}

/// What happened.
#[derive(Debug, Default)]
pub struct Events {
    wanted: u32,
    /// What is to be told by its name, in order.
    pub events: Vec<Event>,
    /// Keys that have another value than before, or none, as the store has them.
    pub changed: Vec<Vec<u8>>,
}

impl Events {
    /// What is to be collected from now on: bits of [`crate::attention`].
    #[inline]
    pub fn want(&mut self, wanted: u32) {
        self.wanted = wanted;
    }

    /// An event.
    #[inline]
    pub fn note(&mut self, class: u32, name: &'static str, key: &[u8]) {
        if self.wanted & EVENTS != 0 {
            self.events.push(Event { class, name, key: key.to_vec() });
        }
    }

    /// A key has changed.
    #[inline]
    pub fn note_change(&mut self, key: &[u8]) {
        if self.wanted & CHANGES != 0 {
            self.changed.push(key.to_vec());
        }
    }

    /// Whether there is nothing to be told.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.changed.is_empty()
    }

    /// What was collected so far, for [`Events::take_back`].
    pub fn mark(&self) -> (usize, usize) {
        (self.events.len(), self.changed.len())
    }

    /// Forgets what was collected since.
    pub fn take_back(&mut self, (events, changed): (usize, usize)) {
        self.events.truncate(events);
        self.changed.truncate(changed);
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.events.clear();
        self.changed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wanted_is_collected() {
        let mut events = Events::default();
        events.note(1, "set", b"a");
        events.note_change(b"a");
        assert!(events.is_empty());
        events.want(EVENTS);
        events.note(1, "set", b"a");
        events.note_change(b"a");
        assert_eq!(events.events, [Event { class: 1, name: "set", key: b"a".to_vec() }]);
        assert!(events.changed.is_empty());
        events.want(CHANGES);
        events.note(1, "del", b"b");
        events.note_change(b"b");
        assert_eq!((events.events.len(), events.changed.as_slice()), (1, [b"b".to_vec()].as_slice()));
        let mark = events.mark();
        events.note_change(b"c");
        events.take_back(mark);
        assert_eq!(events.changed, [b"b".to_vec()]);
        events.clear();
        assert!(events.is_empty());
    }
}
