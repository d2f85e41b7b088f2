//! Work in the background gives way: between two pieces of it, who waits for the processor goes first.
//!
//! A round of the housekeeper is a millisecond in one piece, which a scheduler lets it finish: a server whose loop is on the same processor then
//! answers a millisecond late, four times a second (99.9 % of requests at half of the peak load took up to 1.2 ms, and 0.15 ms since the
//! housekeeper gives way).
//!
//! It holds the room lock meanwhile, for which writers wait who find no frame. Who serves requests is done in microseconds; who keeps the processor
//! for longer when it is given is somebody with work of its own, and nobody gives way to that one again for a while: else the housekeeper would get on
//! with a piece for each slice of the other's, and the writers would wait as long. For that reason, too, it has no lower priority.
//!
//! Writers do the same work where the housekeeper is not ahead of them, and give way to nobody: they wait for what comes of it.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Records that are gone through in a piece of work: some 20 us.
const RECORDS_PER_PIECE: usize = 256;
/// Who keeps the processor for so long has work of its own.
const SHORT_MAX: Duration = Duration::from_micros(500);
/// How long nobody gives way after that.
const REST: Duration = Duration::from_millis(100);

thread_local! {
    /// From when on this thread gives way; `None`: it does not work in the background.
    static GIVES_WAY_FROM: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// This thread works in the background from now on: what it has a store do gives way to others.
pub fn work_in_background() {
    GIVES_WAY_FROM.set(Some(Instant::now()));
}

/// Called between two pieces of work.
pub(crate) fn give_way() {
    let Some(from) = GIVES_WAY_FROM.get() else { return };
    let began = Instant::now();
    if began < from {
        return;
    }
    std::thread::yield_now();
    let ended = Instant::now();
    if ended - began > SHORT_MAX {
        GIVES_WAY_FROM.set(Some(ended + REST));
    }
}

/// The same, called before each record of many.
#[inline]
pub(crate) fn give_way_at(record: usize) {
    if record % RECORDS_PER_PIECE == RECORDS_PER_PIECE - 1 {
        give_way();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_background_gives_way_and_rests_from_it() {
        give_way();
        assert_eq!(GIVES_WAY_FROM.get(), None);
        work_in_background();
        let later = Instant::now() + Duration::from_secs(3600);
        GIVES_WAY_FROM.set(Some(later));
        (0..10_000).for_each(give_way_at);
        assert_eq!(GIVES_WAY_FROM.get(), Some(later));
    }
}
