//! What the memcached face counts: under the names by which `stats` reports it.
//!
//! A loop adds to a [`Tally`] while it serves a client, and to its [`Counts`], which others read, once at the end.

use crate::counter::Counter;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Keys asked for.
    Gets,
    /// Values that were to be stored.
    Sets,
    /// flush_all.
    Flushes,
    /// New expiries.
    Touches,
    /// Meta commands.
    Metas,
    /// Keys asked for that were there.
    GetHits,
    /// Keys asked for that were not.
    GetMisses,
    /// Deletions of nothing.
    DeleteMisses,
    /// Deletions.
    DeleteHits,
    /// Additions to nothing.
    IncrMisses,
    /// Additions.
    IncrHits,
    /// Subtractions from nothing.
    DecrMisses,
    /// Subtractions.
    DecrHits,
    /// Comparisons with nothing.
    CasMisses,
    /// Comparisons that held.
    CasHits,
    /// Comparisons that did not.
    CasBadValue,
    /// New expiries for what is there.
    TouchHits,
    /// New expiries for what is not.
    TouchMisses,
    /// Values that are longer than allowed.
    StoreTooLarge,
    /// Values that there was no room for.
    StoreNoMemory,
    /// Passwords that were said.
    Auths,
    /// Wrong ones.
    AuthErrors,
}

/// The names, in the order of [`Count`].
pub const NAMES: [&str; 22] = [
    "cmd_get",
    "cmd_set",
    "cmd_flush",
    "cmd_touch",
    "cmd_meta",
    "get_hits",
    "get_misses",
    "delete_misses",
    "delete_hits",
    "incr_misses",
    "incr_hits",
    "decr_misses",
    "decr_hits",
    "cas_misses",
    "cas_hits",
    "cas_badval",
    "touch_hits",
    "touch_misses",
    "store_too_large",
    "store_no_memory",
    "auth_cmds",
    "auth_errors",
];

const _: () = assert!(Count::AuthErrors as usize + 1 == NAMES.len());

/// Counts of one loop.
#[derive(Debug, Default)]
pub struct Counts([Counter; NAMES.len()]);

/// Counts of one turn of one loop.
#[derive(Debug, Default)]
pub struct Tally([u32; NAMES.len()]);

impl Tally {
    /// One more.
    #[inline]
    pub fn add(&mut self, count: Count) {
        self.0[count as usize] += 1;
    }

    /// One more of the first where `holds`, else of the second.
    #[inline]
    pub fn choose(&mut self, holds: bool, first: Count, second: Count) {
        self.add(if holds { first } else { second });
    }
}

impl Counts {
    /// Adds what a turn counted.
    pub fn add(&self, tally: &Tally) {
        for (total, &count) in self.0.iter().zip(&tally.0) {
            if count != 0 {
                total.add(u64::from(count));
            }
        }
    }

    /// Adds them to sums in the order of [`NAMES`].
    pub fn add_to(&self, sums: &mut [u64; NAMES.len()]) {
        sums.iter_mut().zip(&self.0).for_each(|(sum, count)| *sum += count.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_turn_counted_is_added_under_its_name() {
        let counts = Counts::default();
        let mut tally = Tally::default();
        tally.add(Count::AuthErrors);
        tally.choose(true, Count::GetHits, Count::GetMisses);
        tally.choose(false, Count::GetHits, Count::GetMisses);
        counts.add(&tally);
        counts.add(&tally);
        let mut sums = [0; NAMES.len()];
        counts.add_to(&mut sums);
        let all: Vec<(&str, u64)> = NAMES.into_iter().zip(sums).filter(|(_, count)| *count != 0).collect();
        assert_eq!(all, [("get_hits", 2), ("get_misses", 2), ("auth_errors", 2)]);
    }
}
