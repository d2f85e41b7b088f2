//! Where all ends that others are told of, whoever did it: published messages, what happened to keys, commands that monitors are shown.
//!
//! A message is encoded once for each version of the protocol that is spoken by those who get it, and goes to them by way of their loops: who publishes
//! waits for nobody, and all that it publishes reaches each of them in order. That includes the publisher itself, whose messages so come after
//! its reply. Rejected: writing those into its reply, as Redis does; within that of an EXEC, no client could tell them from what it asked for.

use crate::attention::{EVICTIONS, MESSAGES};
use crate::clients::{Client, marks};
use crate::databases::database_of;
use crate::events::{Event, Events, classes};
use crate::glob::Budget;
use crate::redis::reply::Reply;
use crate::shared::Shared;
use crate::watch_log::WatchLog;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Tells those who want to know by its name what was done, in order: what Redis or memcached clients of this server did, and what is known of others.
pub fn tell(shared: &Shared, events: &Events) {
    let mut budget = Budget::default();
    for event in &events.events {
        match event {
            Event::Key { class, name, key } => notify(&mut budget, shared, *class, name, key),
            Event::Message { is_sharded, channel, message } => {
                publish_within(&mut budget, shared, *is_sharded, channel, message);
            }
            Event::Command(line) => show(shared, line),
        }
    }
}

/// Tells those who want to know what others did to keys, or the store by itself: nothing that a command of this server did.
pub fn tell_foreign(shared: &Shared, events: &Events) {
    tell(shared, events);
    if shared.attention.wanted() & EVICTIONS != 0 {
        show_evictions(shared, events);
    }
    if !events.changed.is_empty() {
        shared.invalidate(events.changed.iter().map(Vec::as_slice), None);
    }
}

/// Shows memcached clients that watch it which of their keys had to make room.
fn show_evictions(shared: &Shared, events: &Events) {
    let mut log = WatchLog::default();
    for event in &events.events {
        if let Event::Key { class: classes::EVICTED, key, .. } = event
            && database_of(key).0 == 0
        {
            log.evicted(EVICTIONS, key);
            if log.has_enough() {
                shared.show(&mut log);
            }
        }
    }
    if !log.is_empty() {
        shared.show(&mut log);
    }
}

/// Sends a message to all who are subscribed to a channel. Returns how many times it was sent.
pub fn publish(shared: &Shared, is_sharded: bool, channel: &[u8], message: &[u8]) -> usize {
    publish_within(&mut Budget::default(), shared, is_sharded, channel, message)
}

fn publish_within(
    budget: &mut Budget,
    shared: &Shared,
    is_sharded: bool,
    channel: &[u8],
    message: &[u8],
) -> usize {
    if shared.attention.wanted() & MESSAGES == 0 {
        return 0;
    }
    shared.channels.publish_within(budget, is_sharded, channel, |pattern, subscribers| {
        let mut encoded = [None, None];
        for client in subscribers.values() {
            let is_resp3 = speaks_resp3(client);
            let bytes = encoded[usize::from(is_resp3)]
                .get_or_insert_with(|| encode(is_resp3, is_sharded, pattern, channel, message));
            shared.deliver(client.place, Arc::clone(bytes));
        }
    })
}

fn speaks_resp3(client: &Client) -> bool {
    client.flags.load(Ordering::Relaxed) & marks::RESP3 != 0
}

fn encode(
    is_resp3: bool,
    is_sharded: bool,
    pattern: Option<&[u8]>,
    channel: &[u8],
    message: &[u8],
) -> Arc<[u8]> {
    let mut bytes = Vec::new();
    let mut reply = Reply::new(&mut bytes, is_resp3);
    match pattern {
        Some(pattern) => {
            reply.push(4);
            reply.bulk(b"pmessage");
            reply.bulk(pattern);
        }
        None => {
            reply.push(3);
            reply.bulk(if is_sharded { b"smessage" } else { b"message" });
        }
    }
    reply.bulk(channel);
    reply.bulk(message);
    bytes.into()
}

/// Publishes what happened to a key, in those ways that are asked for.
fn notify(budget: &mut Budget, shared: &Shared, class: u32, name: &str, stored: &[u8]) {
    let notified = shared.notified.load(Ordering::Relaxed);
    if notified & class == 0 {
        return;
    }
    let (database, key) = database_of(stored);
    if notified & classes::KEYSPACE != 0 {
        let channel = [format!("__keyspace@{database}__:").as_bytes(), key].concat();
        publish_within(budget, shared, false, &channel, name.as_bytes());
    }
    if notified & classes::KEYEVENT != 0 {
        let channel = format!("__keyevent@{database}__:{name}");
        publish_within(budget, shared, false, channel.as_bytes(), key);
    }
}

/// Shows a line to all monitors.
fn show(shared: &Shared, line: &[u8]) {
    let line: Arc<[u8]> = line.into();
    shared.monitors.each(|client| shared.deliver(client.place, Arc::clone(&line)));
}
