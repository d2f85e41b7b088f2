//! What of all commands somebody wants to know: one word, which loops read before each command.
//!
//! Mostly nobody wants to know anything, and all that a command then costs is this load from a line that nobody writes.

use rustix::thread::{MembarrierCommand, membarrier};
use std::io;
use std::sync::atomic::{AtomicU32, Ordering, compiler_fence};

/// The commands themselves: somebody monitors them.
pub const COMMANDS: u32 = 1;
/// What happens to keys, by its name: somebody is notified of it.
pub const EVENTS: u32 = 1 << 1;
/// Which keys change: clients keep copies of values.
pub const CHANGES: u32 = 1 << 2;
/// What is published: somebody is subscribed.
pub const MESSAGES: u32 = 1 << 3;
/// Which keys are new: somebody is notified of it, for which it has to be found out.
pub const NEW_KEYS: u32 = 1 << 4;
/// Who calls: the user `default` may not do everything; see [`crate::users`].
pub const USERS: u32 = 1 << 5;
/// Which keys memcached clients look up: somebody watches it.
pub const FETCHES: u32 = 1 << 6;
/// What memcached clients store: somebody watches it.
pub const STORES: u32 = 1 << 7;
/// Which keys have to make room: a memcached client watches it.
pub const EVICTIONS: u32 = 1 << 8;
/// Which memcached clients come and go: somebody watches it.
pub const CONNECTIONS: u32 = 1 << 9;

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

    /// The bits, as they are after all that this thread has done before: what was not wanted then was done before [`Attention::announce`] returned.
    #[inline]
    pub fn wanted_now(&self) -> u32 {
        // The processor's part is done by who announces.
        compiler_fence(Ordering::SeqCst);
        self.wanted()
    }

    /// Somebody wants to know, and every thread of the process knows it: one that does not find the bit any time later has looked before, and
    /// all that it had done until then can be seen by now.
    ///
    /// # Errors
    /// Where the system has no barrier for all threads (Linux has since 4.14).
    pub fn announce(&self, what: u32) -> io::Result<()> {
        membarrier(MembarrierCommand::RegisterPrivateExpedited)?;
        self.set(what, true);
        Ok(membarrier(MembarrierCommand::PrivateExpedited)?)
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
