//! Commands about the connection itself.

use crate::databases::DATABASES;
use crate::failure::{Failure, Result};
use crate::redis::call::Call;
use crate::redis::table::{Command, NO_KEYS, flags};

use flags::{ALLOW_BUSY, FAST, LOADING, NO_AUTH, NOSCRIPT, STALE};

/// The rows.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "ping",
        arity: -1,
        flags: FAST,
        keys: NO_KEYS,
        categories: "connection fast",
        group: "connection",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "Answers PONG, or its argument.",
        run: ping,
        subcommands: &[],
    },
    Command {
        name: "echo",
        arity: 2,
        flags: FAST,
        keys: NO_KEYS,
        categories: "connection fast",
        group: "connection",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "Answers its argument.",
        run: echo,
        subcommands: &[],
    },
    Command {
        name: "select",
        arity: 2,
        flags: LOADING | STALE | FAST,
        keys: NO_KEYS,
        categories: "connection fast",
        group: "connection",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "Selects the numbered database that this connection uses.",
        run: select,
        subcommands: &[],
    },
    Command {
        name: "quit",
        arity: -1,
        flags: NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY,
        keys: NO_KEYS,
        categories: "connection fast",
        group: "connection",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "Closes the connection once all replies are sent.",
        run: quit,
        subcommands: &[],
    },
];

fn ping(call: &mut Call<'_, '_>) -> Result<()> {
    match call.arguments.len() {
        1 => call.reply.status("PONG"),
        2 => call.reply.bulk(call.arguments.at(1)),
        _ => return Err(Failure::from("ERR wrong number of arguments for 'ping' command")),
    }
    Ok(())
}

fn echo(call: &mut Call<'_, '_>) -> Result<()> {
    call.reply.bulk(call.arguments.at(1));
    Ok(())
}

fn select(call: &mut Call<'_, '_>) -> Result<()> {
    let number = call.integer(1).map_err(|_| Failure::from("ERR invalid DB index"))?;
    let database = u8::try_from(number).ok().filter(|database| *database < DATABASES);
    call.session.database = database.ok_or("ERR DB index is out of range")?;
    call.reply.ok();
    Ok(())
}

fn quit(call: &mut Call<'_, '_>) -> Result<()> {
    call.session.closes = true;
    call.reply.ok();
    Ok(())
}
