//! Commands on keys, whatever they hold.

use crate::databases::stored_key;
use crate::failure::Result;
use crate::redis::call::Call;
use crate::redis::table::{ALL_KEYS, Command, flags};

use flags::WRITE;

/// The rows.
pub const COMMANDS: &[Command] = &[Command {
    name: "del",
    arity: -2,
    flags: WRITE,
    keys: ALL_KEYS,
    categories: "keyspace slow write",
    group: "generic",
    since: "1.0.0",
    complexity: "O(N), N being the number of keys",
    summary: "Deletes keys; answers how many there were.",
    run: delete,
    subcommands: &[],
}];

fn delete(call: &mut Call<'_, '_>) -> Result<()> {
    let (arguments, database) = (call.arguments, call.session.database);
    let count = call.space.atomically(|space| {
        let mut count = 0;
        for key in arguments.from(1) {
            count += u64::from(space.delete(&stored_key(database, key))?);
        }
        Ok(count)
    })?;
    call.reply.count(count);
    Ok(())
}
