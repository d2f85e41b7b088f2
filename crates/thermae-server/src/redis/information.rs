//! INFO: what the server knows about itself, as lines that dashboards read.
//!
//! Each number is one that somebody counts here; fields of Redis that would be made up are left out. Whatever has a counterpart in the store
//! has Redis's name; the rest is in a section of its own, `thermae`.

use crate::channels::Kind;
use crate::databases::DATABASES;
use crate::failure::Result;
use crate::redis::call::Call;
use crate::redis::command_statistics;
use crate::redis::connection::REDIS_VERSION;
use crate::redis::settings::{is_durable, policy, port_of};
use crate::statistics::StoreTotals;
use std::cell::OnceCell;
use std::fmt::{Display, Write};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use thermae_core::Stats;

/// Work per second is measured over at least so long.
const RATE_OVER_LEAST: Duration = Duration::from_millis(500);
/// Linux counts processor time in so many parts of a second, whatever its own ticks are.
const TICKS_PER_SECOND: f64 = 100.0;

/// What sections are written from.
struct Facts<'c, 'a, 's> {
    call: &'c Call<'a, 's>,
    counted: OnceCell<Stats>,
}

impl Facts<'_, '_, '_> {
    /// What the store holds: counted once, and only for a section that has it, for it takes longer the more there is.
    fn stats(&self) -> Result<&Stats> {
        if let Some(stats) = self.counted.get() {
            return Ok(stats);
        }
        let stats = self.call.space.store().stats()?;
        Ok(self.counted.get_or_init(|| stats))
    }
}

/// A section: its name, its title, whether it is there when none is asked for, and what writes it.
type Section = (&'static str, &'static str, bool, fn(&Facts<'_, '_, '_>, &mut Lines) -> Result<()>);

const SECTIONS: &[Section] = &[
    ("server", "Server", true, server),
    ("clients", "Clients", true, clients),
    ("memory", "Memory", true, memory),
    ("persistence", "Persistence", true, persistence),
    ("stats", "Stats", true, statistics),
    ("replication", "Replication", true, replication),
    ("cpu", "CPU", true, processor),
    ("modules", "Modules", true, |_, _| Ok(())),
    ("commandstats", "Commandstats", false, commands),
    ("errorstats", "Errorstats", true, errors),
    ("latencystats", "Latencystats", false, latency),
    ("cluster", "Cluster", true, cluster),
    ("keyspace", "Keyspace", true, keyspace),
    ("thermae", "Thermae", false, store),
];

/// Lines of a name and a value.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, value: impl Display) {
        // Writing to a string does not fail.
        let _ = write!(self.0, "{name}:{value}\r\n");
    }

    /// Bytes, and the same for people.
    fn add_bytes(&mut self, name: &str, bytes: u64) {
        self.add(name, bytes);
        self.add(&format!("{name}_human"), human(bytes));
    }
}

/// INFO, of all sections that are asked for.
pub fn info(call: &mut Call<'_, '_>) -> Result<()> {
    let wanted: Vec<String> =
        call.arguments.from(1).map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect();
    let is_wanted = |name: &str, is_default: bool| {
        wanted.iter().any(|wanted| match wanted.as_str() {
            "all" | "everything" => true,
            "default" => is_default,
            wanted => wanted == name,
        }) || (wanted.is_empty() && is_default)
    };
    let facts = Facts { call, counted: OnceCell::new() };
    let mut lines = Lines::default();
    for (name, title, is_default, write_section) in SECTIONS {
        if is_wanted(name, *is_default) {
            if !lines.0.is_empty() {
                lines.0.push_str("\r\n");
            }
            let _ = write!(lines.0, "# {title}\r\n");
            write_section(&facts, &mut lines)?;
        }
    }
    call.reply.verbatim("txt", &lines.0);
    Ok(())
}

/// Bytes with a unit, as Redis writes them for people.
fn human(bytes: u64) -> String {
    let units = ["B", "K", "M", "G", "T", "P", "E"];
    let mut rest = bytes as f64;
    let mut unit = 0;
    while rest >= 1024.0 && unit + 1 < units.len() {
        rest /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes}B") } else { format!("{rest:.2}{}", units[unit]) }
}

/// A number that a file of the system has behind a name.
fn number_in(path: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn word_in(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn server(facts: &Facts<'_, '_, '_>, lines: &mut Lines) -> Result<()> {
    let shared = facts.call.shared;
    let uptime_seconds = shared.started_at.elapsed().as_secs();
    let now_ms = facts.call.space.now_ms();
    let config = shared.config.read().unwrap_or_else(PoisonError::into_inner).clone();
    let executable = std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default();
    let (system, release) = (word_in("/proc/sys/kernel/ostype"), word_in("/proc/sys/kernel/osrelease"));
    lines.add("redis_version", REDIS_VERSION);
    lines.add("redis_git_sha1", "00000000");
    lines.add("redis_git_dirty", 0);
    lines.add("redis_mode", "standalone");
    lines.add("thermae_version", env!("CARGO_PKG_VERSION"));
    lines.add("os", format!("{system} {release} {}", std::env::consts::ARCH));
    lines.add("arch_bits", usize::BITS);
    lines.add("monotonic_clock", "POSIX clock_gettime");
    lines.add("multiplexing_api", "epoll");
    lines.add("process_id", std::process::id());
    lines.add("process_supervised", "no");
    lines.add("run_id", &shared.run_id);
    lines.add("tcp_port", port_of(shared, &config, false));
    lines.add("server_time_usec", now_ms * 1000);
    lines.add("uptime_in_seconds", uptime_seconds);
    lines.add("uptime_in_days", uptime_seconds / 86_400);
    lines.add("hz", 10);
    lines.add("configured_hz", 10);
    lines.add("lru_clock", (now_ms / 1000) & 0xff_ffff);
    lines.add("executable", executable);
    let config_file = config.config_file.as_ref().map(|path| path.display().to_string());
    lines.add("config_file", config_file.unwrap_or_default());
    lines.add("io_threads_active", u8::from(config.threads > 1));
    Ok(())
}

fn clients(facts: &Facts<'_, '_, '_>, lines: &mut Lines) -> Result<()> {
    let shared = facts.call.shared;
    let clients = shared.clients.all();
    let most = |bytes: fn(&crate::clients::Client) -> usize| clients.iter().map(|client| bytes(client)).max();
    lines.add("connected_clients", shared.statistics.clients.load(Ordering::Relaxed));
    lines.add("cluster_connections", 0);
    lines.add("maxclients", shared.config.read().unwrap_or_else(PoisonError::into_inner).clients_max);
    let input_bytes = most(|client| client.input_bytes.load(Ordering::Relaxed));
    let output_bytes = most(|client| client.output_bytes.load(Ordering::Relaxed));
    lines.add("client_recent_max_input_buffer", input_bytes.unwrap_or(0));
    lines.add("client_recent_max_output_buffer", output_bytes.unwrap_or(0));
    lines.add("blocked_clients", 0);
    lines.add("tracking_clients", shared.tracking.totals().clients);
    lines.add("clients_in_timeout_table", 0);
    Ok(())
}

/// What is alive in the hot tier, the index and the tables beside it. What is dead is not counted, though it comes back only when room is needed: a
/// store that overwrites is not full.
pub fn used_bytes(stats: &Stats) -> u64 {
    let data_bytes = stats.hot_used_bytes.saturating_sub(stats.index_frame_bytes);
    stats.live_bytes.min(data_bytes) + stats.index_bytes + stats.control_bytes
}

/// Memory is the hot tier and the tables beside it; what the process has resident includes it where it was touched.
fn memory(facts: &Facts<'_, '_, '_>, lines: &mut Lines) -> Result<()> {
    let stats = facts.stats()?;
    let used_bytes = used_bytes(stats);
    let peak_bytes =
        facts.call.shared.used_bytes_peak.fetch_max(used_bytes, Ordering::Relaxed).max(used_bytes);
    let resident_bytes = number_in("/proc/self/status", "VmRSS") * 1024;
    let overhead_bytes = stats.index_bytes + stats.control_bytes;
    let ratio = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    lines.add_bytes("used_memory", used_bytes);
    lines.add_bytes("used_memory_rss", resident_bytes);
    lines.add_bytes("used_memory_peak", peak_bytes);
    lines.add("used_memory_peak_perc", format!("{:.2}%", 100.0 * ratio(used_bytes, peak_bytes)));
    lines.add("used_memory_overhead", overhead_bytes);
    lines.add("used_memory_startup", stats.control_bytes);
    lines.add("used_memory_dataset", stats.live_bytes);
    let dataset_part = ratio(stats.live_bytes, stats.live_bytes + overhead_bytes);
    lines.add("used_memory_dataset_perc", format!("{:.2}%", 100.0 * dataset_part));
    lines.add_bytes("total_system_memory", number_in("/proc/meminfo", "MemTotal") * 1024);
    lines.add_bytes("used_memory_lua", 0);
    lines.add_bytes("used_memory_scripts", 0);
    lines.add_bytes("maxmemory", stats.hot_limit_bytes);
    lines.add("maxmemory_policy", policy(&facts.call.space.store().config().when_full));
    lines.add("mem_fragmentation_ratio", format!("{:.2}", ratio(resident_bytes, used_bytes)));
    lines.add("mem_fragmentation_bytes", resident_bytes.cast_signed() - used_bytes.cast_signed());
    lines.add("mem_not_counted_for_evict", 0);
    lines.add("mem_replication_backlog", 0);
    lines.add("mem_clients_slaves", 0);
    lines.add("mem_clients_normal", facts.call.shared.clients.bytes());
    lines.add("mem_aof_buffer", 0);
    lines.add("mem_allocator", "thermae");
    lines.add("active_defrag_running", 0);
    lines.add("lazyfree_pending_objects", 0);
    lines.add("lazyfreed_objects", 0);
    Ok(())
}

fn persistence(facts: &Facts<'_, '_, '_>, lines: &mut Lines) -> Result<()> {
    let (call, store) = (facts.call, facts.call.space.store());
    let saves = call.shared.saves.state();
    let (last_save_seconds, saved_sequence) = saves.succeeded;
    let last_save_status =
        if saves.last.as_ref().is_some_and(|last| last.failure.is_some()) { "err" } else { "ok" };
    let status = if store.writes_stopped()? { "err" } else { "ok" };
    lines.add("loading", 0);
    lines.add("async_loading", 0);
    lines.add("rdb_changes_since_last_save", store.sequence()?.saturating_sub(saved_sequence));
    lines.add("rdb_bgsave_in_progress", u8::from(saves.began.is_some()));
    lines.add("rdb_last_save_time", last_save_seconds);
    lines.add("rdb_last_bgsave_status", last_save_status);
    lines.add("rdb_last_bgsave_time_sec", saves.last.map_or(-1, |last| last.took.as_secs() as i64));
    lines
        .add("rdb_current_bgsave_time_sec", saves.began.map_or(-1, |began| began.elapsed().as_secs() as i64));
    lines.add("rdb_saves", saves.count);
    lines.add("rdb_last_cow_size", 0);
    lines.add("aof_enabled", u8::from(is_durable(&store.config())));
    lines.add("aof_rewrite_in_progress", 0);
    lines.add("aof_rewrite_scheduled", 0);
    lines.add("aof_last_rewrite_time_sec", -1);
    lines.add("aof_current_rewrite_time_sec", -1);
    lines.add("aof_last_bgrewrite_status", status);
    lines.add("aof_last_write_status", status);
    lines.add("aof_last_cow_size", 0);
    lines.add("module_fork_in_progress", 0);
    lines.add("module_fork_last_cow_size", 0);
    Ok(())
}

fn statistics(facts: &Facts<'_, '_, '_>, lines: &mut Lines) -> Result<()> {
    let (totals, store) = facts.call.shared.statistics.since_reset(StoreTotals::of(facts.stats()?));
    let (commands, received_bytes, sent_bytes) = (totals.calls(), totals.received_bytes, totals.sent_bytes);
    let [commands_rate, received_rate, sent_rate] = rates(facts, [commands, received_bytes, sent_bytes]);
    lines.add("total_connections_received", totals.connections);
    lines.add("total_commands_processed", commands);
    lines.add("instantaneous_ops_per_sec", format!("{commands_rate:.0}"));
    lines.add("total_net_input_bytes", received_bytes);
    lines.add("total_net_output_bytes", sent_bytes);
    lines.add("total_net_repl_input_bytes", 0);
    lines.add("total_net_repl_output_bytes", 0);
    lines.add("instantaneous_input_kbps", format!("{:.2}", received_rate / 1024.0));
    lines.add("instantaneous_output_kbps", format!("{:.2}", sent_rate / 1024.0));
    lines.add("rejected_connections", totals.connections_refused);
    lines.add("sync_full", 0);
    lines.add("sync_partial_ok", 0);
    lines.add("sync_partial_err", 0);
    lines.add("expired_keys", store.expired);
    lines.add("expired_stale_perc", "0.00");
    lines.add("expired_time_cap_reached_count", 0);
    lines.add("evicted_keys", store.evicted);
    lines.add("evicted_clients", totals.clients_evicted);
    lines.add("keyspace_hits", store.hits);
    lines.add("keyspace_misses", store.misses);
    let channels = &facts.call.shared.channels;
    lines.add("pubsub_channels", channels.count(Kind::Channel));
    lines.add("pubsub_patterns", channels.count(Kind::Pattern));
    lines.add("pubsubshard_channels", channels.count(Kind::Shard));
    lines.add("latest_fork_usec", 0);
    lines.add("total_forks", 0);
    lines.add("migrate_cached_sockets", 0);
    lines.add("slave_expires_tracked_keys", 0);
    lines.add("active_defrag_hits", 0);
    lines.add("active_defrag_misses", 0);
    let tracked = facts.call.shared.tracking.totals();
    lines.add("tracking_total_keys", tracked.keys);
    lines.add("tracking_total_items", tracked.items);
    lines.add("tracking_total_prefixes", tracked.prefixes);
    lines.add("unexpected_error_replies", 0);
    lines.add("total_error_replies", totals.errors);
    Ok(())
}

/// Work per second since INFO last measured it; the first time, since the start.
fn rates(facts: &Facts<'_, '_, '_>, counts: [u64; 3]) -> [f64; 3] {
    let mut rates = facts.call.shared.rates.lock().unwrap_or_else(PoisonError::into_inner);
    let elapsed = rates.at.elapsed();
    if elapsed >= RATE_OVER_LEAST {
        for (index, count) in counts.into_iter().enumerate() {
            rates.per_second[index] =
                count.saturating_sub(rates.counts[index]) as f64 / elapsed.as_secs_f64();
        }
        (rates.at, rates.counts) = (Instant::now(), counts);
    }
    rates.per_second
}

fn replication(facts: &Facts<'_, '_, '_>, lines: &mut Lines) -> Result<()> {
    lines.add("role", "master");
    lines.add("connected_slaves", 0);
    lines.add("master_failover_state", "no-failover");
    lines.add("master_replid", &facts.call.shared.run_id);
    lines.add("master_replid2", "0".repeat(40));
    lines.add("master_repl_offset", 0);
    lines.add("second_repl_offset", -1);
    lines.add("repl_backlog_active", 0);
    lines.add("repl_backlog_size", 0);
    lines.add("repl_backlog_first_byte_offset", 0);
    lines.add("repl_backlog_histlen", 0);
    Ok(())
}

fn processor(_: &Facts<'_, '_, '_>, lines: &mut Lines) -> Result<()> {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command's name comes before, in brackets, and may have blanks.
    let fields: Vec<f64> = text
        .rsplit_once(") ")
        .map(|(_, rest)| rest.split(' ').map(|field| field.parse().unwrap_or(0.0)).collect())
        .unwrap_or_default();
    let seconds = |index: usize| fields.get(index).copied().unwrap_or(0.0) / TICKS_PER_SECOND;
    for (name, index) in [
        ("used_cpu_sys", 12),
        ("used_cpu_user", 11),
        ("used_cpu_sys_children", 14),
        ("used_cpu_user_children", 13),
    ] {
        lines.add(name, format!("{:.6}", seconds(index)));
    }
    Ok(())
}

fn commands(facts: &Facts<'_, '_, '_>, lines: &mut Lines) -> Result<()> {
    command_statistics::call_lines(facts.call.shared).iter().for_each(|(name, value)| lines.add(name, value));
    Ok(())
}

fn latency(facts: &Facts<'_, '_, '_>, lines: &mut Lines) -> Result<()> {
    command_statistics::latency_lines(facts.call.shared)
        .iter()
        .for_each(|(name, value)| lines.add(name, value));
    Ok(())
}

fn errors(facts: &Facts<'_, '_, '_>, lines: &mut Lines) -> Result<()> {
    for (code, count) in facts.call.shared.statistics.totals_since_reset().errors_by_code {
        lines.add(&format!("errorstat_{code}"), format!("count={count}"));
    }
    Ok(())
}

fn cluster(_: &Facts<'_, '_, '_>, lines: &mut Lines) -> Result<()> {
    lines.add("cluster_enabled", 0);
    Ok(())
}

/// How many keys each database has: what a walk over them counted now and then, and, for database 0, the store's own count less that.
fn keyspace(facts: &Facts<'_, '_, '_>, lines: &mut Lines) -> Result<()> {
    let all_keys = facts.stats()?.keys;
    let counted = facts.call.shared.census.latest(facts.call.space.store(), all_keys)?;
    let unknown = [[0; 3]; DATABASES as usize];
    let databases = counted.as_ref().map_or(&unknown[..], |counted| &counted.databases);
    let elsewhere: u64 = databases.iter().skip(1).map(|[keys, ..]| keys).sum();
    for (database, [keys, expiring, mean_ms]) in databases.iter().enumerate() {
        let keys = if database == 0 { all_keys.saturating_sub(elsewhere) } else { *keys };
        if keys > 0 {
            let expiring = (*expiring).min(keys);
            lines.add(&format!("db{database}"), format!("keys={keys},expires={expiring},avg_ttl={mean_ms}"));
        }
    }
    Ok(())
}

fn store(facts: &Facts<'_, '_, '_>, lines: &mut Lines) -> Result<()> {
    let (stats, config) = (facts.stats()?, facts.call.space.store().config());
    lines.add("location", &config.location);
    lines.add("durability", &config.durability);
    lines.add("when_full", &config.when_full);
    for (name, number) in [
        ("hot_bytes", stats.hot_bytes),
        ("hot_limit_bytes", stats.hot_limit_bytes),
        ("hot_used_bytes", stats.hot_used_bytes),
        ("warm_bytes", stats.warm_bytes),
        ("warm_used_bytes", stats.warm_used_bytes),
        ("cold_bytes", stats.cold_bytes),
        ("cold_used_bytes", stats.cold_used_bytes),
        ("live_bytes", stats.live_bytes),
        ("index_bytes", stats.index_bytes),
        ("sets", stats.sets),
        ("deletes", stats.deletes),
        ("promoted", stats.promoted),
        ("warm_reads", stats.warm_reads),
        ("cold_reads", stats.cold_reads),
        ("compacted_bytes", stats.compacted_bytes),
        ("sequence", stats.sequence),
        ("watermark", stats.watermark),
        ("participants", u64::from(stats.participants)),
        ("participants_max", u64::from(stats.participants_max)),
    ] {
        lines.add(name, number);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::test_support::TestServer;
    use std::collections::HashMap;

    /// The fields of a reply, and the titles of its sections.
    fn parsed(reply: &str) -> (HashMap<String, String>, Vec<String>) {
        let text = reply.split_once("\r\n").unwrap().1;
        let titles = text.lines().filter_map(|line| line.strip_prefix("# ")).map(str::to_owned).collect();
        let fields =
            text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(':'));
        (fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(), titles)
    }

    #[test]
    fn sections_come_as_they_are_asked_for() {
        let mut server = TestServer::new();
        let titles = |server: &mut TestServer, command: &str| parsed(&server.line(command)).1.join(" ");
        let default =
            "Server Clients Memory Persistence Stats Replication CPU Modules Errorstats Cluster Keyspace";
        assert_eq!(titles(&mut server, "INFO"), default);
        assert_eq!(titles(&mut server, "INFO default"), default);
        assert_eq!(titles(&mut server, "INFO keyspace SERVER server"), "Server Keyspace");
        assert_eq!(parsed(&server.line("INFO everything")).1.len(), SECTIONS.len());
        assert_eq!(server.line("INFO nonsense"), "$0\r\n\r\n");
        assert_eq!(server.line("INFO cluster"), "$30\r\n# Cluster\r\ncluster_enabled:0\r\n\r\n");
    }

    #[test]
    fn fields_tell_what_is_there() {
        let mut server = TestServer::new();
        server.line("SET a b");
        server.line("SELECT 2");
        server.line("SET c d");
        server.line("GET nothing");
        server.line("NONSENSE");
        let (fields, _) = parsed(&server.line("INFO all"));
        for (name, value) in [
            ("redis_version", "7.0.15"),
            ("role", "master"),
            ("maxmemory", "16777216"),
            ("keyspace_misses", "1"),
            ("total_error_replies", "1"),
            ("errorstat_ERR", "count=1"),
            ("db0", "keys=1,expires=0,avg_ttl=0"),
            ("db2", "keys=1,expires=0,avg_ttl=0"),
            ("participants", "1"),
        ] {
            assert_eq!(fields.get(name).map(String::as_str), Some(value), "{name}");
        }
        for name in ["used_memory", "used_memory_rss", "total_system_memory", "process_id"] {
            assert!(fields[name].parse::<u64>().unwrap() > 0, "{name}");
        }
        assert_eq!(fields["run_id"].len(), 40);
        server.line("CONFIG RESETSTAT");
        let (fields, _) = parsed(&server.line("INFO"));
        assert_eq!((&*fields["total_error_replies"], &*fields["keyspace_misses"]), ("0", "0"));
        server.line("GET nothing");
        assert_eq!(parsed(&server.line("INFO")).0["keyspace_misses"], "1");
    }

    #[test]
    fn bytes_are_written_for_people_as_redis_does() {
        for (bytes, text) in
            [(0, "0B"), (1023, "1023B"), (1024, "1.00K"), (965_896, "943.26K"), (25_276_510_208, "23.54G")]
        {
            assert_eq!(human(bytes), text);
        }
    }
}
