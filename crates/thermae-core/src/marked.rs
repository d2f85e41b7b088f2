//! Whether any key begins with a byte that no text has.
//!
//! A server keeps its other databases behind that byte ([`KEY_MARK`]), so that the keys of the first one are just the store's keys. How many these are is
//! known at once as long as there are no others; that there are none is what the store remembers here, in one word of shared memory:
//!
//! ```text
//! | generation (62) | 0 there may be some, 1 somebody looks whether there are, 2 there are none |
//! ```
//! Who looks says so, walks over the keys, and notes that there are none if the word is still the same. Who stores such a key looks at the word
//! once it is published, and takes back what it says; so does whoever inherits a lock under which that may be due. Either the walk comes after the key and
//! finds it, or the key comes after the walk and finds the word. It is nowhere written down: a store that is opened anew may have some.
//!
//! Rejected: counting such keys; each way for a key to go away (expiry, eviction, compaction, damage) would have to know its name.

use crate::engine::Engine;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// What a key begins with that belongs to no text: it never occurs in UTF-8.
pub const KEY_MARK: u8 = 0xff;

const STATE_BITS: u32 = 2;
const MAYBE: u64 = 0;
const LOOKING: u64 = 1;
const NONE: u64 = 2;

/// Begins a generation. Returns the word.
fn begin(marked_keys: &AtomicU64, state: u64) -> u64 {
    let next = |word: u64| ((word >> STATE_BITS) + 1) << STATE_BITS | state;
    let mut word = marked_keys.load(Ordering::SeqCst);
    while let Err(other) = marked_keys.compare_exchange(word, next(word), Ordering::SeqCst, Ordering::SeqCst)
    {
        word = other;
    }
    // Before anything is read.
    fence(Ordering::SeqCst);
    next(word)
}

fn state(word: u64) -> u64 {
    word & ((1 << STATE_BITS) - 1)
}

/// A look whether there are such keys: the word while it lasts.
#[derive(Debug)]
pub(crate) struct Look(u64);

impl Engine {
    /// A key was published; its partition is still locked.
    #[inline]
    pub(crate) fn note_published(&self, key: &[u8]) {
        if key.first() == Some(&KEY_MARK) {
            self.note_marked_keys();
        }
    }

    /// A key that begins so was published, or may have been.
    pub(crate) fn note_marked_keys(&self) {
        // What was published first, for everyone.
        fence(Ordering::SeqCst);
        let marked_keys = &self.globals().marked_keys;
        if state(marked_keys.load(Ordering::SeqCst)) != MAYBE {
            begin(marked_keys, MAYBE);
        }
    }

    /// Whether it is known that there are no such keys.
    pub(crate) fn has_no_marked_keys(&self) -> bool {
        state(self.globals().marked_keys.load(Ordering::SeqCst)) == NONE
    }

    /// Somebody begins to look whether there are such keys.
    pub(crate) fn begin_look(&self) -> Look {
        Look(begin(&self.globals().marked_keys, LOOKING))
    }

    /// Nothing was found.
    pub(crate) fn end_look(&self, look: &Look) {
        let none = look.0 & !LOOKING | NONE;
        // Where it is another by now, somebody stored such a key meanwhile, or looks too.
        let _ = self.globals().marked_keys.compare_exchange(look.0, none, Ordering::SeqCst, Ordering::SeqCst);
    }
}
