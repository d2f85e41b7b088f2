//! Commands about the server.

use crate::failure::Result;
use crate::redis::call::Call;
use crate::redis::table::{Command, NO_KEYS, flags};

use flags::{FAST, LOADING, STALE};

/// The rows.
pub const COMMANDS: &[Command] = &[Command {
    name: "time",
    arity: 1,
    flags: LOADING | STALE | FAST,
    keys: NO_KEYS,
    categories: "fast",
    group: "server",
    since: "2.6.0",
    complexity: "O(1)",
    summary: "Answers the store's time: seconds since 1970, and microseconds.",
    run: time,
    subcommands: &[],
}];

fn time(call: &mut Call<'_, '_>) -> Result<()> {
    let now_ms = call.space.now_ms();
    call.reply.array(2);
    call.reply.bulk((now_ms / 1000).to_string().as_bytes());
    call.reply.bulk((now_ms % 1000 * 1000).to_string().as_bytes());
    Ok(())
}
