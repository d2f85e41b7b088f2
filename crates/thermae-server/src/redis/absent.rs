//! Commands about what a Thermae server does not have, which clients ask for all the same: replicas, a cluster, modules.
//!
//! Each answers as a Redis does that has none of it either.

use crate::failure::{Failure, Result};
use crate::redis::call::Call;
use crate::redis::introspection::help;
use crate::redis::table::{Command, NO_KEYS, flags};

use flags::{ADMIN, FAST, LOADING, NO_ASYNC_LOADING, NOSCRIPT, STALE};

/// The rows.
pub static COMMANDS: &[Command] = &[
    Command {
        name: "bgrewriteaof",
        arity: 1,
        flags: ADMIN | NOSCRIPT | NO_ASYNC_LOADING,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "1.0.0",
        complexity: "O(1)",
        summary: "Would compact the log, which is done all the time.",
        syntax: "",
        run: rewrite_log,
        subcommands: &[],
    },
    Command {
        name: "failover",
        arity: -1,
        flags: ADMIN | NOSCRIPT | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "6.2.0",
        complexity: "O(1)",
        summary: "Would hand over to a replica; there is none.",
        syntax: "[TO target(host port:integer [FORCE])] [ABORT] [TIMEOUT milliseconds:integer]",
        run: failover,
        subcommands: &[],
    },
    Command {
        name: "readonly",
        arity: 1,
        flags: LOADING | STALE | FAST,
        keys: NO_KEYS,
        categories: "connection fast",
        group: "cluster",
        since: "3.0.0",
        complexity: "O(1)",
        summary: "Would allow reads from a cluster's replica.",
        syntax: "",
        run: no_cluster,
        subcommands: &[],
    },
    Command {
        name: "readwrite",
        arity: 1,
        flags: LOADING | STALE | FAST,
        keys: NO_KEYS,
        categories: "connection fast",
        group: "cluster",
        since: "3.0.0",
        complexity: "O(1)",
        summary: "Would forbid reads from a cluster's replica.",
        syntax: "",
        run: no_cluster,
        subcommands: &[],
    },
    Command {
        name: "asking",
        arity: 1,
        flags: FAST,
        keys: NO_KEYS,
        categories: "connection fast",
        group: "cluster",
        since: "3.0.0",
        complexity: "O(1)",
        summary: "Would follow a cluster's redirection.",
        syntax: "",
        run: no_cluster,
        subcommands: &[],
    },
    Command {
        name: "cluster",
        arity: -2,
        flags: 0,
        keys: NO_KEYS,
        categories: "slow",
        group: "cluster",
        since: "3.0.0",
        complexity: "That of the subcommand",
        summary: "Groups the commands about a cluster.",
        syntax: "",
        run: help,
        subcommands: CLUSTER,
    },
    Command {
        name: "module",
        arity: -2,
        flags: 0,
        keys: NO_KEYS,
        categories: "slow",
        group: "server",
        since: "4.0.0",
        complexity: "That of the subcommand",
        summary: "Groups the commands about modules.",
        syntax: "",
        run: help,
        subcommands: MODULE,
    },
];

static CLUSTER: &[Command] = &[
    Command {
        name: "info",
        arity: 2,
        flags: STALE,
        keys: NO_KEYS,
        categories: "slow",
        group: "cluster",
        since: "3.0.0",
        complexity: "O(1)",
        summary: "Would describe the cluster.",
        syntax: "",
        run: no_cluster,
        subcommands: &[],
    },
    Command {
        name: "nodes",
        arity: 2,
        flags: STALE,
        keys: NO_KEYS,
        categories: "slow",
        group: "cluster",
        since: "3.0.0",
        complexity: "O(N), N being the number of nodes",
        summary: "Would list the nodes.",
        syntax: "",
        run: no_cluster,
        subcommands: &[],
    },
    Command {
        name: "slots",
        arity: 2,
        flags: STALE,
        keys: NO_KEYS,
        categories: "slow",
        group: "cluster",
        since: "3.0.0",
        complexity: "O(N), N being the number of nodes",
        summary: "Would say which node has which slots.",
        syntax: "",
        run: no_cluster,
        subcommands: &[],
    },
    Command {
        name: "shards",
        arity: 2,
        flags: STALE,
        keys: NO_KEYS,
        categories: "slow",
        group: "cluster",
        since: "7.0.0",
        complexity: "O(N), N being the number of nodes",
        summary: "Would list the shards.",
        syntax: "",
        run: no_cluster,
        subcommands: &[],
    },
    Command {
        name: "myid",
        arity: 2,
        flags: STALE,
        keys: NO_KEYS,
        categories: "slow",
        group: "cluster",
        since: "3.0.0",
        complexity: "O(1)",
        summary: "Would answer this node's name.",
        syntax: "",
        run: no_cluster,
        subcommands: &[],
    },
    Command {
        name: "keyslot",
        arity: 3,
        flags: STALE,
        keys: NO_KEYS,
        categories: "slow",
        group: "cluster",
        since: "3.0.0",
        complexity: "O(N), N being the bytes of the key",
        summary: "Would answer the slot of a key.",
        syntax: "key:string",
        run: no_cluster,
        subcommands: &[],
    },
    Command {
        name: "help",
        arity: 2,
        flags: LOADING | STALE,
        keys: NO_KEYS,
        categories: "slow",
        group: "cluster",
        since: "5.0.0",
        complexity: "O(1)",
        summary: "Lists the subcommands.",
        syntax: "",
        run: help,
        subcommands: &[],
    },
];

static MODULE: &[Command] = &[
    Command {
        name: "list",
        arity: 2,
        flags: ADMIN | NOSCRIPT,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "4.0.0",
        complexity: "O(1)",
        summary: "Lists the modules; there are none.",
        syntax: "",
        run: no_modules,
        subcommands: &[],
    },
    Command {
        name: "help",
        arity: 2,
        flags: LOADING | STALE,
        keys: NO_KEYS,
        categories: "slow",
        group: "server",
        since: "5.0.0",
        complexity: "O(1)",
        summary: "Lists the subcommands.",
        syntax: "",
        run: help,
        subcommands: &[],
    },
];

fn rewrite_log(call: &mut Call<'_, '_>) -> Result<()> {
    call.reply.status("Background append only file rewriting started");
    Ok(())
}

fn failover(call: &mut Call<'_, '_>) -> Result<()> {
    Err(Failure::from(if call.arguments.len() == 2 && call.is(1, "ABORT") {
        "ERR No failover in progress."
    } else {
        "ERR FAILOVER requires connected replicas."
    }))
}

fn no_cluster(_: &mut Call<'_, '_>) -> Result<()> {
    Err(Failure::from("ERR This instance has cluster support disabled"))
}

fn no_modules(call: &mut Call<'_, '_>) -> Result<()> {
    call.reply.array(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::redis::test_support::TestServer;

    #[test]
    fn replies_are_those_of_redis() {
        let no_cluster = "-ERR This instance has cluster support disabled\r\n";
        TestServer::new().check(&[
            ("FAILOVER", "-ERR FAILOVER requires connected replicas.\r\n"),
            ("FAILOVER ABORT", "-ERR No failover in progress.\r\n"),
            ("READONLY", no_cluster),
            ("CLUSTER INFO", no_cluster),
            ("CLUSTER foo", "-ERR unknown subcommand 'foo'. Try CLUSTER HELP.\r\n"),
            ("MODULE LIST", "*0\r\n"),
        ]);
    }
}
