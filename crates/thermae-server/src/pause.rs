//! CLIENT PAUSE: until when clients have to wait, and which of their commands.
//!
//! The loops look at one number before each command; that it is 0 is all that most of them ever learn. What a client had sent is kept, and is
//! executed when the pause is over. Commands that another loop had begun when the pause began are finished.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A pause, or none. On a line of its own: it is read for each command, and what lies beside it may be written as often.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Pause {
    /// Store clock; 0: there is none.
    until_ms: AtomicU64,
    of_all: AtomicBool,
}

impl Pause {
    /// Has clients wait, either with all commands or with those that write. A pause under way is never made shorter or narrower.
    pub fn begin(&self, now_ms: u64, until_ms: u64, of_all: bool) {
        let is_on = self.left_ms(now_ms) > 0;
        self.of_all.store(of_all || (is_on && self.is_of_all()), Ordering::Relaxed);
        if is_on {
            self.until_ms.fetch_max(until_ms, Ordering::Relaxed);
        } else {
            self.until_ms.store(until_ms, Ordering::Relaxed);
        }
    }

    /// Ends it.
    pub fn end(&self) {
        self.until_ms.store(0, Ordering::Relaxed);
    }

    /// Whether it is worth looking closer.
    #[inline]
    pub fn may_be_on(&self) -> bool {
        self.until_ms.load(Ordering::Relaxed) != 0
    }

    /// How long it goes on; 0: there is none.
    pub fn left_ms(&self, now_ms: u64) -> u64 {
        self.until_ms.load(Ordering::Relaxed).saturating_sub(now_ms)
    }

    /// Whether commands wait that only read.
    pub fn is_of_all(&self) -> bool {
        self.of_all.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_never_made_shorter_or_narrower() {
        let pause = Pause::default();
        assert!(!pause.may_be_on() && pause.left_ms(5) == 0);
        pause.begin(10, 30, true);
        pause.begin(11, 20, false);
        assert_eq!((pause.left_ms(11), pause.is_of_all()), (19, true));
        pause.begin(12, 40, false);
        assert_eq!((pause.left_ms(12), pause.is_of_all()), (28, true));
        // That one is over.
        pause.begin(40, 50, false);
        assert_eq!((pause.left_ms(40), pause.is_of_all()), (10, false));
        pause.end();
        assert!(!pause.may_be_on());
    }
}
