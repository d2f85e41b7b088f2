//! What a command did that others are told of, collected while it runs: to keys, and in a transaction what it published and that it ran at all.
//!
//! A command that has to be run again (see [`crate::space`]) takes back what it said before. Nothing is collected that nobody wants to know.

use crate::attention::{CHANGES, EVENTS, EVICTIONS, NEW_KEYS};

/// Classes of what happens to keys, and how it is published: bits of what `notify-keyspace-events` says.
pub mod classes {
    /// Under the key's name.
    pub const KEYSPACE: u32 = 1;
    /// Under the event's name.
    pub const KEYEVENT: u32 = 1 << 1;
    /// Whatever the key holds: deleted, renamed, given an expiry.
    pub const GENERIC: u32 = 1 << 2;
    /// Commands on strings.
    pub const STRING: u32 = 1 << 3;
    /// Commands on lists.
    pub const LIST: u32 = 1 << 4;
    /// Commands on sets.
    pub const SET: u32 = 1 << 5;
    /// Commands on hashes.
    pub const HASH: u32 = 1 << 6;
    /// Commands on sorted sets.
    pub const SORTED_SET: u32 = 1 << 7;
    /// A key has expired.
    pub const EXPIRED: u32 = 1 << 8;
    /// A key had to make room.
    pub const EVICTED: u32 = 1 << 9;
    /// Commands on streams.
    pub const STREAM: u32 = 1 << 10;
    /// A key was looked for that is not there.
    pub const KEY_MISS: u32 = 1 << 11;
    /// Commands of modules.
    pub const MODULE: u32 = 1 << 12;
    /// A key was not there before.
    pub const NEW: u32 = 1 << 13;
}

/// Something that others are told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It happened to a key.
    Key {
        /// One of [`classes`].
        class: u32,
        /// Such as `set`.
        name: &'static str,
        /// The key, as the store has it.
        key: Vec<u8>,
    },
    /// It is a message to all who are subscribed to a channel.
    Message {
        /// The channel is one of a shard.
        is_sharded: bool,
        /// Its name.
        channel: Vec<u8>,
        /// What is published.
        message: Vec<u8>,
    },
    /// It is a command that ran, as those are shown it who monitor commands.
    Command(Vec<u8>),
}

/// What happened.
#[derive(Debug, Default)]
pub struct Events {
    wanted: u32,
    /// What is to be told, in order.
    pub events: Vec<Event>,
    /// Keys that have another value than before, or none, as the store has them.
    pub changed: Vec<Vec<u8>>,
    /// Databases were emptied; their keys need not be listed. Not taken back: that clients forget too much does no harm.
    pub is_flushed: bool,
}

impl Events {
    /// What is to be collected from now on: bits of [`crate::attention`].
    #[inline]
    pub fn want(&mut self, wanted: u32) {
        self.wanted = wanted;
    }

    /// Forgets what was collected and is not wanted.
    pub fn keep(&mut self, wanted: u32) {
        if wanted & (EVENTS | EVICTIONS) == 0 {
            self.events.clear();
        }
        if wanted & CHANGES == 0 {
            self.changed.clear();
            self.is_flushed = false;
        }
    }

    /// Whether this is to be collected: a bit of [`crate::attention`].
    #[inline]
    pub fn wants(&self, what: u32) -> bool {
        self.wanted & what != 0
    }

    /// Something that happened to a key.
    #[inline]
    pub fn note(&mut self, class: u32, name: &'static str, key: &[u8]) {
        if self.wants(EVENTS) {
            self.push_key(class, name, key);
        }
    }

    /// A key was looked for in vain.
    #[inline]
    pub fn note_miss(&mut self, key: &[u8]) {
        self.note(classes::KEY_MISS, "keymiss", key);
    }

    /// A key was not there before.
    #[inline]
    pub fn note_new(&mut self, key: &[u8]) {
        if self.wants(NEW_KEYS) {
            self.push_key(classes::NEW, "new", key);
        }
    }

    #[cold]
    fn push_key(&mut self, class: u32, name: &'static str, key: &[u8]) {
        self.events.push(Event::Key { class, name, key: key.to_vec() });
    }

    /// A key has changed.
    #[inline]
    pub fn note_change(&mut self, key: &[u8]) {
        if self.wants(CHANGES) {
            self.changed.push(key.to_vec());
        }
    }

    /// All keys of a database, or of all, are gone.
    pub fn note_flush(&mut self) {
        if self.wanted & CHANGES != 0 {
            self.is_flushed = true;
        }
    }

    /// Whether there is nothing to be told.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.changed.is_empty() && !self.is_flushed
    }

    /// What was collected so far, for [`Events::take_back`].
    pub fn mark(&self) -> (usize, usize) {
        (self.events.len(), self.changed.len())
    }

    /// Whether something is known to be new that was not when this mark was made.
    pub fn has_new_since(&self, (events, _): (usize, usize)) -> bool {
        self.events[events..].iter().any(|event| matches!(event, Event::Key { class: classes::NEW, .. }))
    }

    /// A key was looked for in vain, before what was collected since this mark.
    pub fn note_miss_before(&mut self, key: &[u8], (events, _): (usize, usize)) {
        let since = self.events.split_off(events);
        self.note_miss(key);
        self.events.extend(since);
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
        self.is_flushed = false;
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
        events.note_new(b"a");
        let set = Event::Key { class: 1, name: "set", key: b"a".to_vec() };
        assert_eq!(events.events, [set]);
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
        events.note_flush();
        assert!(!events.is_empty());
        events.clear();
        assert!(events.is_empty());
        events.want(EVENTS);
        events.note_flush();
        assert!(events.is_empty());
    }
}
