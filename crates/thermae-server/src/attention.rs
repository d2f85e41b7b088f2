//! What of all commands somebody wants to know: one word, which loops read before each command.
//!
//! Mostly nobody wants to know anything, and all that a command then costs is this load from a line that nobody writes.

use std::sync::atomic::{AtomicU32, Ordering};

/// The commands themselves: somebody monitors them.
pub const COMMANDS: u32 = 1;
/// What happens to keys, by its name: somebody is notified of it.
pub const EVENTS: u32 = 1 << 1;
/// Which keys change: clients keep copies of values.
pub const CHANGES: u32 = 1 << 2;
/// Who calls: the user `default` may not do everything; see [`crate::users`].
pub const USERS: u32 = 1 << 3;

/// Bits of what is wanted. On a line of its own: it is read for each command, and what lies beside it may be written as often.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Attention(AtomicU32);

impl Attention {
    /// The bits.
    #[inline]
    pub fn wanted(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Somebody wants to know, or nobody any more. What was wanted before is up to the caller's lock.
    pub fn set(&self, what: u32, is_wanted: bool) {
        if is_wanted {
            self.0.fetch_or(what, Ordering::SeqCst);
        } else {
            self.0.fetch_and(!what, Ordering::SeqCst);
        }
    }
}
