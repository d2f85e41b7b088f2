//! Publish and subscribe.
//!
//! Who is subscribed to what is in [`crate::channels`]; how messages reach them is said in [`crate::redis::telling`]. What a transaction publishes is sent
//! once it has happened; what it subscribes to and unsubscribes from is undone where it has not.
//!
//! Messages wait in the mailbox of a subscriber's loop until that comes to them. So a client that ends a subscription is first given what waits
//! for it: what comes after the reply to its UNSUBSCRIBE would be taken for the reply to its next command.

use crate::attention::MESSAGES;
use crate::channels::{Kind, Name, counted};
use crate::events::Event;
use crate::failure::{Failure, Result};
use crate::redis::call::Call;
use crate::redis::introspection::{help, wrong_subcommand};
use crate::redis::table::{ALL_KEYS, Command, NO_KEYS, ONE_KEY, flags};
use crate::redis::telling;

use flags::{FAST, LOADING, MAY_REPLICATE, NOSCRIPT, PUBSUB, STALE};

/// The rows.
pub static COMMANDS: &[Command] = &[
    Command {
        name: "subscribe",
        arity: -2,
        flags: PUBSUB | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "pubsub slow",
        group: "pubsub",
        since: "2.0.0",
        complexity: "O(N), N being the number of channels",
        summary: "Subscribes this client to channels.",
        syntax: "channel...",
        run: subscribe,
        subcommands: &[],
    },
    Command {
        name: "unsubscribe",
        arity: -1,
        flags: PUBSUB | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "pubsub slow",
        group: "pubsub",
        since: "2.0.0",
        complexity: "O(N), N being the number of channels",
        summary: "Ends subscriptions to channels, or to all of them.",
        syntax: "[channel...]",
        run: unsubscribe,
        subcommands: &[],
    },
    Command {
        name: "psubscribe",
        arity: -2,
        flags: PUBSUB | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "pubsub slow",
        group: "pubsub",
        since: "2.0.0",
        complexity: "O(N), N being the number of patterns",
        summary: "Subscribes this client to all channels whose names patterns describe.",
        syntax: "pattern(pattern)...",
        run: psubscribe,
        subcommands: &[],
    },
    Command {
        name: "punsubscribe",
        arity: -1,
        flags: PUBSUB | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "pubsub slow",
        group: "pubsub",
        since: "2.0.0",
        complexity: "O(N), N being the number of patterns",
        summary: "Ends subscriptions to patterns, or to all of them.",
        syntax: "[pattern...]",
        run: punsubscribe,
        subcommands: &[],
    },
    Command {
        name: "ssubscribe",
        arity: -2,
        flags: PUBSUB | NOSCRIPT | LOADING | STALE,
        keys: ALL_KEYS,
        categories: "pubsub slow",
        group: "pubsub",
        since: "7.0.0",
        complexity: "O(N), N being the number of channels",
        summary: "Subscribes this client to channels of a shard.",
        syntax: "shardchannel...",
        run: ssubscribe,
        subcommands: &[],
    },
    Command {
        name: "sunsubscribe",
        arity: -1,
        flags: PUBSUB | NOSCRIPT | LOADING | STALE,
        keys: ALL_KEYS,
        categories: "pubsub slow",
        group: "pubsub",
        since: "7.0.0",
        complexity: "O(N), N being the number of channels",
        summary: "Ends subscriptions to channels of a shard, or to all of them.",
        syntax: "[shardchannel...]",
        run: sunsubscribe,
        subcommands: &[],
    },
    Command {
        name: "publish",
        arity: 3,
        flags: PUBSUB | MAY_REPLICATE | LOADING | STALE | FAST,
        keys: NO_KEYS,
        categories: "fast pubsub",
        group: "pubsub",
        since: "2.0.0",
        complexity: "O(N), N being the number of those who get it and of all patterns",
        summary: "Sends a message to all who are subscribed to a channel; answers how many there are.",
        syntax: "channel message",
        run: publish,
        subcommands: &[],
    },
    Command {
        name: "spublish",
        arity: 3,
        flags: PUBSUB | MAY_REPLICATE | LOADING | STALE | FAST,
        keys: ONE_KEY,
        categories: "fast pubsub",
        group: "pubsub",
        since: "7.0.0",
        complexity: "O(N), N being the number of those who get it",
        summary: "Sends a message to all who are subscribed to a channel of a shard; answers how many there are.",
        syntax: "shardchannel message",
        run: spublish,
        subcommands: &[],
    },
    Command {
        name: "pubsub",
        arity: -2,
        flags: 0,
        keys: NO_KEYS,
        categories: "slow",
        group: "pubsub",
        since: "2.8.0",
        complexity: "That of the subcommand",
        summary: "Groups the commands about who is subscribed to what.",
        syntax: "",
        run: help,
        subcommands: SUBCOMMANDS,
    },
];

static SUBCOMMANDS: &[Command] = &[
    Command {
        name: "channels",
        arity: -2,
        flags: PUBSUB | LOADING | STALE,
        keys: NO_KEYS,
        categories: "pubsub slow",
        group: "pubsub",
        since: "2.8.0",
        complexity: "O(N), N being the number of channels that somebody is subscribed to",
        summary: "Lists the channels that somebody is subscribed to, or those that a pattern describes.",
        syntax: "[pattern]",
        run: channels,
        subcommands: &[],
    },
    Command {
        name: "numsub",
        arity: -2,
        flags: PUBSUB | LOADING | STALE,
        keys: NO_KEYS,
        categories: "pubsub slow",
        group: "pubsub",
        since: "2.8.0",
        complexity: "O(N), N being the number of channels asked about",
        summary: "Answers how many clients are subscribed to each of these channels, not counting patterns.",
        syntax: "[channel...]",
        run: channel_counts,
        subcommands: &[],
    },
    Command {
        name: "numpat",
        arity: 2,
        flags: PUBSUB | LOADING | STALE,
        keys: NO_KEYS,
        categories: "pubsub slow",
        group: "pubsub",
        since: "2.8.0",
        complexity: "O(1)",
        summary: "Answers how many different patterns somebody is subscribed to.",
        syntax: "",
        run: pattern_count,
        subcommands: &[],
    },
    Command {
        name: "shardchannels",
        arity: -2,
        flags: PUBSUB | LOADING | STALE,
        keys: NO_KEYS,
        categories: "pubsub slow",
        group: "pubsub",
        since: "7.0.0",
        complexity: "O(N), N being the number of channels that somebody is subscribed to",
        summary: "Lists the channels of a shard that somebody is subscribed to, or those that a pattern describes.",
        syntax: "[pattern]",
        run: shard_channels,
        subcommands: &[],
    },
    Command {
        name: "shardnumsub",
        arity: -2,
        flags: PUBSUB | LOADING | STALE,
        keys: NO_KEYS,
        categories: "pubsub slow",
        group: "pubsub",
        since: "7.0.0",
        complexity: "O(N), N being the number of channels asked about",
        summary: "Answers how many clients are subscribed to each of these channels of a shard.",
        syntax: "[shardchannel...]",
        run: shard_channel_counts,
        subcommands: &[],
    },
    Command {
        name: "help",
        arity: 2,
        flags: LOADING | STALE,
        keys: NO_KEYS,
        categories: "slow",
        group: "pubsub",
        since: "6.2.0",
        complexity: "O(1)",
        summary: "Lists the subcommands.",
        syntax: "",
        run: help,
        subcommands: &[],
    },
];

/// Whether a command changes what its client is subscribed to.
pub fn is_about_subscriptions(command: &Command) -> bool {
    command.group == "pubsub" && command.name.ends_with("subscribe")
}

fn subscribe(call: &mut Call<'_, '_>) -> Result<()> {
    add(call, Kind::Channel)
}

fn psubscribe(call: &mut Call<'_, '_>) -> Result<()> {
    add(call, Kind::Pattern)
}

fn ssubscribe(call: &mut Call<'_, '_>) -> Result<()> {
    // Redis 7.0 has it so, of this one alone.
    if !call.space.is_plain() {
        return Err(Failure::from("ERR SSUBSCRIBE isn't allowed for a DENY BLOCKING client"));
    }
    add(call, Kind::Shard)
}

fn add(call: &mut Call<'_, '_>, kind: Kind) -> Result<()> {
    let (session, shared) = (&mut *call.session, call.shared);
    // In which version it is to be told is known before anything is.
    session.publish();
    let names = call.arguments.from(1);
    let counts = shared.channels.subscribe(&session.client, kind, names.clone(), &shared.attention)?;
    session.settle();
    // What the same EXEC publishes from here on is for this client, too.
    call.space.events.want(shared.attention.wanted());
    for (name, count) in names.zip(counts) {
        confirm(call, Some(name), count);
    }
    Ok(())
}

fn unsubscribe(call: &mut Call<'_, '_>) -> Result<()> {
    remove(call, Kind::Channel)
}

fn punsubscribe(call: &mut Call<'_, '_>) -> Result<()> {
    remove(call, Kind::Pattern)
}

fn sunsubscribe(call: &mut Call<'_, '_>) -> Result<()> {
    remove(call, Kind::Shard)
}

fn remove(call: &mut Call<'_, '_>, kind: Kind) -> Result<()> {
    let (session, shared) = (&mut *call.session, call.shared);
    let names: Vec<Name> = if call.arguments.len() > 1 {
        call.arguments.from(1).map(Name::from).collect()
    } else {
        let [channels, patterns, shards] = shared.channels.of(&session.client);
        let names = match kind {
            Kind::Channel => channels,
            Kind::Pattern => patterns,
            Kind::Shard => shards,
        };
        names.into_iter().collect()
    };
    let end = |name: &Name| shared.channels.unsubscribe(&session.client, kind, name, &shared.attention);
    let counts: Vec<usize> = names.iter().map(end).collect();
    session.settle();
    if call.space.is_plain() {
        reply_messages(call);
    }
    for (name, count) in names.iter().zip(counts) {
        confirm(call, Some(name), count);
    }
    if names.is_empty() {
        let count = counted(&call.session.client, kind);
        confirm(call, None, count);
    }
    Ok(())
}

/// One reply to a command that subscribes or unsubscribes: there is one for each name.
fn confirm(call: &mut Call<'_, '_>, name: Option<&[u8]>, count: usize) {
    call.reply.push(3);
    call.reply.bulk(call.command.name.as_bytes());
    match name {
        Some(name) => call.reply.bulk(name),
        None => call.reply.null(),
    }
    call.reply.count(count as u64);
}

/// Replies with the messages that wait for the client, before anything else.
pub fn reply_messages(call: &mut Call<'_, '_>) {
    for message in call.shared.take_messages(call.session.client.place) {
        call.reply.raw(&message);
    }
}

fn publish(call: &mut Call<'_, '_>) -> Result<()> {
    send(call, false)
}

fn spublish(call: &mut Call<'_, '_>) -> Result<()> {
    send(call, true)
}

fn send(call: &mut Call<'_, '_>, is_sharded: bool) -> Result<()> {
    let (channel, message) = (call.argument(1), call.argument(2));
    let count = if call.space.is_plain() {
        telling::publish(call.shared, is_sharded, channel, message)
    } else if call.space.events.wants(MESSAGES) {
        let (channel, message) = (channel.to_vec(), message.to_vec());
        let count = call.shared.channels.publish(is_sharded, &channel, |_, _| {});
        call.space.events.events.push(Event::Message { is_sharded, channel, message });
        count
    } else {
        0
    };
    call.reply.count(count as u64);
    Ok(())
}

fn channels(call: &mut Call<'_, '_>) -> Result<()> {
    list(call, Kind::Channel)
}

fn shard_channels(call: &mut Call<'_, '_>) -> Result<()> {
    list(call, Kind::Shard)
}

fn list(call: &mut Call<'_, '_>, kind: Kind) -> Result<()> {
    let pattern = match call.arguments.len() {
        2 => None,
        3 => Some(call.argument(2)),
        _ => return Err(wrong_subcommand(call)),
    };
    let names = call.shared.channels.names(kind, pattern);
    call.reply.array(names.len());
    names.iter().for_each(|name| call.reply.bulk(name));
    Ok(())
}

fn channel_counts(call: &mut Call<'_, '_>) -> Result<()> {
    count_subscribers(call, Kind::Channel)
}

fn shard_channel_counts(call: &mut Call<'_, '_>) -> Result<()> {
    count_subscribers(call, Kind::Shard)
}

fn count_subscribers(call: &mut Call<'_, '_>, kind: Kind) -> Result<()> {
    call.reply.array(2 * (call.arguments.len() - 2));
    for name in call.arguments.from(2) {
        call.reply.bulk(name);
        call.reply.count(call.shared.channels.subscribers(kind, name) as u64);
    }
    Ok(())
}

fn pattern_count(call: &mut Call<'_, '_>) -> Result<()> {
    call.reply.count(call.shared.channels.count(Kind::Pattern) as u64);
    Ok(())
}

#[cfg(test)]
#[path = "pubsub_tests.rs"]
mod tests;
