//! All items deleted for `flush_all`, at once or later, in slices between which others are served.

use crate::attention::CHANGES;
use crate::emptying::Emptying;
use crate::shared::Shared;
use std::sync::atomic::Ordering;
use thermae_core::{Error, deferring};

/// A deletion of all keys of database 0, which memcached's clients share with Redis's and Python, but of no key of another database.
#[derive(Debug)]
pub struct Flush {
    /// What is still to be done.
    pub emptying: Emptying,
    newest_mark: u64,
}

impl Flush {
    /// One that begins now.
    pub fn new(shared: &Shared) -> Self {
        Self { emptying: Emptying::new(Some(0)), newest_mark: shared.marks.newest_version() }
    }

    /// A slice of it. Whether it was the last.
    ///
    /// # Errors
    /// Those of the store: what was deleted before stays so.
    pub fn go_on(&mut self, shared: &Shared) -> Result<bool, Error> {
        let is_done = self.emptying.go_on(&shared.store);
        if !matches!(is_done, Ok(false)) {
            // Of what was deleted before an error, others have to know as well.
            tell(shared);
        }
        if matches!(is_done, Ok(true)) {
            shared.marks.forget_all_through(self.newest_mark);
        }
        is_done
    }

    /// It does not go on.
    pub fn stop(self, shared: &Shared) {
        tell(shared);
    }
}

/// Tells clients of Redis that keep copies of values.
fn tell(shared: &Shared) {
    if shared.attention.wanted_now() & CHANGES != 0 {
        shared.invalidate_all();
    }
}

/// What a loop does for `flush_all` with a delay: whoever asked for it was answered long ago.
#[derive(Debug, Default)]
pub struct DelayedFlush(Option<Flush>);

impl DelayedFlush {
    /// Begins with it once its time has come, where no other loop does, and goes on with it. Called in each turn of a loop, before anybody is
    /// served in it, for clients of other protocols wait for it, too. Whether there is more to do at once. A pause holds it back like all that writes.
    #[inline]
    pub fn go_on(&mut self, shared: &Shared) -> bool {
        let at = shared.memcached_flush_at_ms.load(Ordering::Relaxed);
        (self.0.is_some() || at != 0) && self.go_on_at(at, shared)
    }

    #[cold]
    fn go_on_at(&mut self, at: u64, shared: &Shared) -> bool {
        let now_ms = shared.store.now_ms();
        if shared.pause.left_ms(now_ms) != 0 {
            return false;
        }
        let flush_at_ms = &shared.memcached_flush_at_ms;
        let is_due = at != 0 && at <= now_ms;
        if is_due && flush_at_ms.compare_exchange(at, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            // One that is under way has begun too early for this time: the new one does its work as well.
            self.0 = Some(Flush::new(shared));
        }
        let Some(flush) = &mut self.0 else { return false };
        // What the store can't do, its next caller is told.
        let (is_done, sequence) = deferring(|| flush.go_on(shared).unwrap_or(true));
        if sequence != 0 {
            shared.flusher.want(sequence);
        }
        if is_done {
            self.0 = None;
        }
        !is_done
    }
}
