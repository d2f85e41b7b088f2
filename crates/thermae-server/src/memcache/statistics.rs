//! `stats`: the numbers that memcached reports, under its names, as far as this server has them.
//!
//! Items and bytes are those of the whole store, whoever stored them, and so is what is counted of its items. Counts begin at the server's start,
//! and anew at `stats reset`. There is one class of items, for the store has no slabs.

use crate::clients::{Client, marks};
use crate::counts::{Count, NAMES, Tally};
use crate::memcache::administration::VERSION;
use crate::memcache::turn::Turn;
use crate::memcache::words::{Words, unsigned};
use crate::statistics::StoreTotals;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use thermae_core::Error;

/// stats, and its sections.
pub fn report(turn: &mut Turn<'_>, mut words: Words<'_>) {
    let done = match words.next() {
        None => general(turn),
        Some(b"reset") => match reset(turn) {
            Ok(()) => return turn.line("RESET"),
            Err(error) => Err(error),
        },
        Some(b"settings") => settings(turn),
        Some(b"items") => items(turn),
        Some(b"slabs") => slabs(turn),
        Some(b"sizes") => {
            stat(turn, "sizes_status", "disabled");
            Ok(())
        }
        Some(b"sizes_enable" | b"sizes_disable") => return turn.line("STAT sizes_status disabled"),
        Some(b"conns") => {
            connections(turn);
            Ok(())
        }
        Some(b"extstore") => Ok(()),
        Some(b"detail") => return detail(turn, words.next()),
        Some(b"cachedump") => return cachedump(turn, words),
        Some(_) => return turn.line("ERROR"),
    };
    match done {
        Ok(()) => turn.line("END"),
        Err(error) => {
            let text = turn.failure(&error);
            turn.line(&text);
        }
    }
}

fn stat(turn: &mut Turn<'_>, name: &str, value: impl Display) {
    turn.line(&format!("STAT {name} {value}"));
}

fn general(turn: &mut Turn<'_>) -> Result<(), Error> {
    let stats = turn.store().stats()?;
    let config = turn.store().config();
    let shared = turn.shared;
    let (totals, counted) = shared.statistics.since_memcached_reset(StoreTotals::of(&stats));
    let clients = shared.statistics.clients.load(Ordering::Relaxed);
    let (clients_max, threads) = {
        let config = shared.config.read().unwrap_or_else(PoisonError::into_inner);
        (config.clients_max, config.threads)
    };
    stat(turn, "pid", std::process::id());
    stat(turn, "uptime", shared.started_at.elapsed().as_secs());
    stat(turn, "time", turn.now_seconds());
    stat(turn, "version", VERSION);
    stat(turn, "pointer_size", usize::BITS);
    stat(turn, "max_connections", clients_max);
    stat(turn, "curr_connections", clients);
    stat(turn, "total_connections", totals.connections);
    stat(turn, "rejected_connections", totals.connections_refused);
    stat(turn, "connection_structures", clients);
    turn.counts.memcached.add(&std::mem::take(&mut turn.tally));
    for (name, count) in NAMES.into_iter().zip(shared.statistics.memcached_since_reset()) {
        stat(turn, name, count);
    }
    stat(turn, "bytes_read", totals.received_bytes);
    stat(turn, "bytes_written", totals.sent_bytes);
    stat(turn, "limit_maxbytes", config.hot_bytes + config.warm_bytes + config.cold_bytes);
    stat(turn, "accepting_conns", 1);
    stat(turn, "threads", threads);
    stat(turn, "hash_bytes", stats.index_bytes);
    stat(turn, "bytes", stats.live_bytes);
    stat(turn, "curr_items", stats.keys);
    stat(turn, "total_items", counted.sets);
    stat(turn, "evictions", counted.evicted);
    stat(turn, "reclaimed", counted.expired);
    Ok(())
}

/// All that this face shows begins anew, and nothing that others are shown.
fn reset(turn: &mut Turn<'_>) -> Result<(), Error> {
    let stats = turn.store().stats()?;
    turn.tally = Tally::default();
    turn.shared.statistics.reset_memcached(StoreTotals::of(&stats));
    Ok(())
}

fn settings(turn: &mut Turn<'_>) -> Result<(), Error> {
    let config = turn.store().config();
    let item_size_max = turn.shared.memcached_value_bytes_max.load(Ordering::Relaxed);
    let own = turn.shared.config.read().unwrap_or_else(PoisonError::into_inner).clone();
    stat(turn, "maxbytes", config.hot_bytes + config.warm_bytes + config.cold_bytes);
    stat(turn, "maxconns", own.clients_max);
    let address = own.memcached.first().map_or("", String::as_str);
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "0"));
    stat(turn, "tcpport", port);
    stat(turn, "udpport", 0);
    stat(turn, "inter", host);
    stat(turn, "verbosity", 0);
    stat(turn, "evictions", if config.when_full == "evict" { "on" } else { "off" });
    let socket = own.memcached_unix.as_ref().map(|path| path.display().to_string());
    stat(turn, "domain_socket", socket.as_deref().unwrap_or("NULL"));
    stat(turn, "num_threads", own.threads);
    stat(turn, "cas_enabled", "yes");
    stat(turn, "auth_enabled_ascii", if turn.shared.users.default_user().is_open() { "no" } else { "yes" });
    stat(turn, "binding_protocol", "ascii");
    stat(turn, "item_size_max", item_size_max);
    stat(turn, "maxconns_fast", "yes");
    stat(turn, "flush_enabled", "yes");
    stat(turn, "dump_enabled", "no");
    stat(turn, "shutdown_command", "no");
    stat(turn, "idle_timeout", own.timeout_seconds);
    stat(turn, "track_sizes", "no");
    Ok(())
}

fn items(turn: &mut Turn<'_>) -> Result<(), Error> {
    let stats = turn.store().stats()?;
    if stats.keys != 0 {
        let (_, counted) = turn.shared.statistics.since_memcached_reset(StoreTotals::of(&stats));
        stat(turn, "items:1:number", stats.keys);
        stat(turn, "items:1:mem_requested", stats.live_bytes);
        stat(turn, "items:1:evicted", counted.evicted);
        stat(
            turn,
            "items:1:outofmemory",
            turn.shared.statistics.memcached_since_reset()[Count::StoreNoMemory as usize],
        );
        stat(turn, "items:1:reclaimed", counted.expired);
    }
    Ok(())
}

fn slabs(turn: &mut Turn<'_>) -> Result<(), Error> {
    let stats = turn.store().stats()?;
    let frame_bytes = u64::from(turn.store().config().frame_bytes);
    let total_bytes = stats.hot_bytes + stats.warm_bytes + stats.cold_bytes;
    let used_bytes = stats.hot_used_bytes + stats.warm_used_bytes + stats.cold_used_bytes;
    stat(turn, "1:chunk_size", stats.item_bytes_mean.unwrap_or(0));
    stat(turn, "1:total_pages", total_bytes / frame_bytes);
    stat(turn, "1:used_chunks", stats.keys);
    for (name, count) in NAMES.into_iter().zip(turn.shared.statistics.memcached_since_reset()) {
        if name == "cmd_set" || name.ends_with("_hits") || name == "cas_badval" {
            stat(turn, &format!("1:{name}"), count);
        }
    }
    stat(turn, "active_slabs", 1);
    stat(turn, "total_malloced", used_bytes);
    Ok(())
}

/// Who is connected for this protocol, and where it listens, by the numbers of their sockets.
fn connections(turn: &mut Turn<'_>) {
    let shared = turn.shared;
    let mut found: Vec<(i32, Vec<(&str, String)>)> = Vec::new();
    if let Some(reach) = shared.reach.get() {
        let since = shared.started_at.elapsed().as_secs();
        for (fd, address) in &reach.memcached {
            let state = "conn_listening".to_owned();
            let facts =
                [("addr", named(address)), ("state", state), ("secs_since_last_cmd", since.to_string())];
            found.push((*fd, facts.into()));
        }
    }
    let clients = shared.clients.all().into_iter();
    for client in clients.filter(|client| client.flags.load(Ordering::Relaxed) & marks::MEMCACHED != 0) {
        let listener = named(&client.local_address);
        // Who comes by a path has no address but that.
        let address = if listener.starts_with("unix:") { listener.clone() } else { named(&client.address) };
        let (state, idle_ms) = if client.id == turn.client.id {
            ("conn_parse_cmd", 0)
        } else {
            let active_at_ms = client.active_at_ms.load(Ordering::Relaxed);
            (state_of(&client), turn.now_ms.saturating_sub(active_at_ms))
        };
        let facts = [
            ("addr", address),
            ("listen_addr", listener),
            ("state", state.to_owned()),
            ("secs_since_last_cmd", (idle_ms / 1000).to_string()),
        ];
        found.push((client.place.fd, facts.into()));
    }
    found.sort_by_key(|(fd, _)| *fd);
    for (fd, facts) in found {
        for (name, value) in facts {
            stat(turn, &format!("{fd}:{name}"), value);
        }
    }
}

/// An address with the kind that it is of.
fn named(address: &str) -> String {
    match address.parse() {
        Ok(SocketAddr::V4(_)) => format!("tcp:{address}"),
        Ok(SocketAddr::V6(_)) => format!("tcp6:{address}"),
        Err(_) => address.to_owned(),
    }
}

/// What a client that does not ask right now is at, in memcached's words.
fn state_of(client: &Client) -> &'static str {
    if client.flags.load(Ordering::Relaxed) & marks::WATCHES != 0 {
        "conn_watch"
    } else if client.output_bytes.load(Ordering::Relaxed) != 0 {
        "conn_mwrite"
    } else if client.input_bytes.load(Ordering::Relaxed) != 0 {
        "conn_nread"
    } else {
        "conn_read"
    }
}

/// Counts by prefixes of keys, which are never on.
fn detail(turn: &mut Turn<'_>, word: Option<&[u8]>) {
    match word {
        Some(b"on" | b"off") => turn.line("OK"),
        Some(b"dump") => turn.line("END"),
        _ => turn.line("CLIENT_ERROR usage: stats detail on|off|dump"),
    }
}

/// A list of some keys of a class, which this server does not give.
fn cachedump(turn: &mut Turn<'_>, words: Words<'_>) {
    match words.take_exactly::<2>(usize::MAX) {
        None => turn.line("CLIENT_ERROR bad command line"),
        Some(numbers) if numbers.iter().all(|word| unsigned(word).is_some()) => {
            turn.line("CLIENT_ERROR stats cachedump not allowed");
        }
        Some(_) => turn.line("CLIENT_ERROR bad command line format"),
    }
}
