//! watch: its client is shown, line by line, what memcached clients do, and sends nothing any more.
//!
//! memcached reads nothing more from such a client, not even `quit`. Here it is read and forgotten, so that it is known when the client has gone.

use crate::attention::{CONNECTIONS, EVICTIONS, FETCHES, STORES};
use crate::clients::marks;
use crate::memcache::turn::Turn;
use crate::memcache::words::Words;
use std::sync::atomic::Ordering;

/// Makes the client a watcher; whether it is one now.
pub fn watch(turn: &mut Turn<'_>, words: Words<'_>) -> bool {
    let mut what = if words.are_more_than(0) { 0 } else { FETCHES };
    for word in words {
        what |= match word {
            b"fetchers" => FETCHES,
            b"mutations" => STORES,
            b"evictions" => EVICTIONS,
            b"connevents" => CONNECTIONS,
            // A memcached without a proxy, or whose lists and slabs rest, has nothing to tell of these either.
            b"sysevents" | b"rawcmds" | b"proxyreqs" | b"proxyevents" | b"proxyuser" => 0,
            _ => {
                turn.line_unless(words.end_with_noreply(), "ERROR");
                return false;
            }
        }
    }
    let shared = turn.shared;
    if !shared.watchers.add(turn.client, what, &shared.attention) {
        turn.line("WATCHER_TOO_MANY log watcher limit reached");
        return false;
    }
    if what & EVICTIONS != 0 {
        shared.observing.begin(&shared.store);
    }
    turn.client.flags.fetch_or(marks::WATCHES, Ordering::Relaxed);
    turn.line("OK");
    true
}
