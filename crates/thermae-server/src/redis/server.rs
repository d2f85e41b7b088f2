//! Commands about the server.

use crate::databases::{database_of, stored_prefix};
use crate::failure::Result;
use crate::redis::call::Call;
use crate::redis::table::{Command, NO_KEYS, flags};

use flags::{FAST, LOADING, READONLY, STALE};

/// The rows.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "dbsize",
        arity: 1,
        flags: READONLY | FAST,
        keys: NO_KEYS,
        categories: "fast keyspace read",
        group: "server",
        since: "1.0.0",
        complexity: "O(1) where only database 0 is used, else O(N), N being the number of keys in the store",
        summary: "Answers how many keys the database has.",
        run: dbsize,
        subcommands: &[],
    },
    Command {
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
    },
];

fn dbsize(call: &mut Call<'_, '_>) -> Result<()> {
    let database = call.session.database;
    let mut scan = call.space.store().scan(&stored_prefix(database));
    let mut count = 0;
    while let Some(batch) = scan.next_batch()? {
        count += batch.iter().filter(|(key, _)| database_of(key).0 == database).count() as u64;
    }
    call.reply.count(count);
    Ok(())
}

fn time(call: &mut Call<'_, '_>) -> Result<()> {
    let now_ms = call.space.now_ms();
    call.reply.array(2);
    call.reply.bulk((now_ms / 1000).to_string().as_bytes());
    call.reply.bulk((now_ms % 1000 * 1000).to_string().as_bytes());
    Ok(())
}
