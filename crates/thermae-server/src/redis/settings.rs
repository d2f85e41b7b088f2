//! CONFIG: what the server is told, under the names that Redis gives it.
//!
//! Only what means something here has a name: what clients, dashboards and libraries ask for. A parameter that cannot be changed takes the value that it
//! has, so that programs which set it to what they need go on, and refuses any other as Redis refuses an immutable one. Rejected: accepting what
//! has no effect; whoever sets it would believe that it has.

use crate::clients::PUSHED_BYTES_MAX;
use crate::config::Config;
use crate::failure::{Failure, Result};
use crate::glob::{Budget, NAMES_TAKE_TOO_LONG, PATTERN_BYTES_MAX, PATTERN_TOO_LONG};
use crate::redis::call::{Call, SYNTAX};
use crate::redis::command_statistics::percentile_text;
use crate::redis::introspection::help;
use crate::redis::notifications;
use crate::redis::rewriting::rewrite;
use crate::redis::table::{Command, NO_KEYS, flags};
use crate::shared::Shared;
use crate::socket::KEEPALIVE;
use crate::statistics::StoreTotals;
use std::collections::{BTreeMap, HashSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use thermae_core::{Durability, WhenFull};

use flags::{ADMIN, LOADING, NOSCRIPT, STALE};

/// Parameters or patterns that one CONFIG GET may ask about: far more than there are parameters, and few enough that even the longest
/// patterns are compared with all of them in a fraction of a second.
const ASKED_MAX: usize = 1024;
/// Percentiles that INFO shows of each command.
const PERCENTILES_MAX: usize = 64;
const IMMUTABLE: &str = "can't set immutable config";
/// What listeners' addresses end with that speak TLS.
const TLS_MARK: &str = " (TLS)";
/// Shortest limit of an argument's length.
const BULK_BYTES_LEAST: i64 = 1 << 20;
/// What a connection keeps of a command that is not whole yet.
const BULK_BYTES_MOST: i64 = 1 << 30;

/// The rows.
pub static COMMANDS: &[Command] = &[Command {
    name: "config",
    arity: -2,
    flags: 0,
    keys: NO_KEYS,
    categories: "slow",
    group: "server",
    since: "2.0.0",
    complexity: "That of the subcommand",
    summary: "Groups the commands about the server's configuration.",
    syntax: "",
    run: help,
    subcommands: SUBCOMMANDS,
}];

static SUBCOMMANDS: &[Command] = &[
    Command {
        name: "get",
        arity: -3,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "2.0.0",
        complexity: "O(N), N being the number of patterns",
        summary: "Answers the parameters whose names match patterns, and their values.",
        syntax: "parameter(parameter)...",
        run: get,
        subcommands: &[],
    },
    Command {
        name: "set",
        arity: -4,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "2.0.0",
        complexity: "O(N), N being the number of parameters",
        summary: "Changes parameters while the server runs, all of them or none.",
        syntax: "parameter_value(parameter value)...",
        run: set,
        subcommands: &[],
    },
    Command {
        name: "resetstat",
        arity: 2,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "2.0.0",
        complexity: "O(1)",
        summary: "Begins counting anew what INFO counts.",
        syntax: "",
        run: reset_statistics,
        subcommands: &[],
    },
    Command {
        name: "rewrite",
        arity: 2,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "2.8.0",
        complexity: "O(1)",
        summary: "Writes what CONFIG SET has changed into the file of the configuration.",
        syntax: "",
        run: rewrite,
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

/// What parameters are read from.
struct Present<'a> {
    shared: &'a Shared,
    config: Config,
    store: thermae_core::Config,
}

/// What they will be.
struct Draft {
    config: Config,
    durability: Durability,
    when_full: WhenFull,
    hot_limit_bytes: u64,
    slower_than_microseconds: i64,
    slow_entries_max: u64,
    spike_milliseconds: u64,
    tracked_keys_max: u64,
    notified: u32,
    is_latency_tracked: bool,
    latency_percentiles: Vec<f64>,
    refusals_max: u64,
    /// Whether the password is one that was given.
    has_new_password: bool,
}

type Get = fn(&Present<'_>) -> String;
type Set = fn(&mut Draft, &Present<'_>, &str) -> Result<(), String>;

/// A parameter: its name, its value, and how to change it; `None`: it has always the same value.
type Parameter = (&'static str, Get, Option<Set>);

const PARAMETERS: &[Parameter] = &[
    ("acl-pubsub-default", |_| "resetchannels".to_owned(), None),
    ("aclfile", acl_file, None),
    ("acllog-max-len", |present| present.shared.refusals.entries_max().to_string(), Some(set_refusals_max)),
    ("activedefrag", |_| "no".to_owned(), None),
    ("appendfsync", |present| append_fsync(&present.store.durability).to_owned(), Some(set_append_fsync)),
    ("appendonly", |present| yes_or_no(is_durable(&present.store)), None),
    ("bind", bind, None),
    // Replies have no limit of their own beside that of all clients together; what clients did not ask for has.
    ("client-output-buffer-limit", output_limits, None),
    ("client-query-buffer-limit", |_| "1073741824".to_owned(), None),
    ("cluster-enabled", |_| "no".to_owned(), None),
    ("daemonize", |_| "no".to_owned(), None),
    ("databases", |_| crate::databases::DATABASES.to_string(), None),
    ("dir", |present| present.store.location.clone(), None),
    ("enable-debug-command", |present| present.config.enable_debug_command.as_str().to_owned(), None),
    ("hz", |_| "10".to_owned(), None),
    ("io-threads", |present| present.config.threads.to_string(), None),
    (
        "latency-monitor-threshold",
        |present| present.shared.spikes.threshold_milliseconds().to_string(),
        Some(set_spike_threshold),
    ),
    (
        "latency-tracking",
        |present| yes_or_no(present.shared.latency.is_tracked()),
        Some(set_latency_tracking),
    ),
    ("latency-tracking-info-percentiles", latency_percentiles, Some(set_latency_percentiles)),
    // Room that a record makes is cleaned up in the background, whatever ended it; but who needs room has it made before the reply.
    ("lazyfree-lazy-eviction", |_| "no".to_owned(), None),
    ("lazyfree-lazy-expire", |_| "yes".to_owned(), None),
    ("lazyfree-lazy-server-del", |_| "yes".to_owned(), None),
    ("lazyfree-lazy-user-del", |_| "yes".to_owned(), None),
    ("lazyfree-lazy-user-flush", |_| "yes".to_owned(), None),
    ("logfile", |_| String::new(), None),
    ("loglevel", |_| "notice".to_owned(), None),
    ("maxclients", |present| present.config.clients_max.to_string(), Some(set_clients_max)),
    ("maxmemory", |present| present.store.hot_limit_bytes.to_string(), Some(set_maxmemory)),
    (
        "maxmemory-clients",
        |present| present.shared.clients_bytes_max(present.config.clients_bytes_max).to_string(),
        Some(set_clients_bytes_max),
    ),
    ("maxmemory-policy", |present| policy(&present.store.when_full).to_owned(), Some(set_policy)),
    (
        "notify-keyspace-events",
        |present| notifications::format(present.shared.notified.load(Ordering::Relaxed)),
        Some(set_notified),
    ),
    ("pidfile", |_| String::new(), None),
    ("port", |present| port_of(present.shared, &present.config, false), None),
    ("protected-mode", |present| yes_or_no(present.config.protected_mode), Some(set_protected_mode)),
    (
        "proto-max-bulk-len",
        |present| present.config.argument_bytes_max.to_string(),
        Some(set_argument_bytes_max),
    ),
    ("replica-read-only", |_| "yes".to_owned(), None),
    ("replicaof", |_| String::new(), None),
    ("requirepass", |present| present.config.password.clone(), Some(set_password)),
    ("save", |_| String::new(), None),
    ("slaveof", |_| String::new(), None),
    (
        "slowlog-log-slower-than",
        |present| present.shared.slow_log.slower_than_microseconds().to_string(),
        Some(set_slower_than),
    ),
    (
        "slowlog-max-len",
        |present| present.shared.slow_log.entries_max().to_string(),
        Some(set_slow_entries_max),
    ),
    ("stop-writes-on-bgsave-error", |_| "no".to_owned(), None),
    ("supervised", |_| "no".to_owned(), None),
    ("tcp-backlog", |_| "511".to_owned(), None),
    ("tcp-keepalive", |_| KEEPALIVE.as_secs().to_string(), None),
    ("timeout", |present| present.config.timeout_seconds.to_string(), Some(set_timeout)),
    ("tls-port", |present| port_of(present.shared, &present.config, true), None),
    (
        "tracking-table-max-keys",
        |present| present.shared.tracking.keys_max().to_string(),
        Some(set_tracked_keys_max),
    ),
    ("unixsocket", unix_socket, None),
    ("unixsocketperm", |present| if present.config.unix.is_some() { "600" } else { "0" }.to_owned(), None),
];

/// Whether what is written is kept when the machine fails, or can be.
pub fn is_durable(store: &thermae_core::Config) -> bool {
    store.cold_bytes != 0 || store.warm_bytes != 0
}

/// What a full store does, as Redis names it.
pub fn policy(when_full: &str) -> &'static str {
    if when_full == WhenFull::Evict.as_str() { "allkeys-lru" } else { "noeviction" }
}

fn append_fsync(durability: &str) -> &'static str {
    match durability.parse() {
        Ok(Durability::Always) => "always",
        Ok(Durability::EverySec) => "everysec",
        Ok(Durability::None) | Err(_) => "no",
    }
}

fn output_limits(_: &Present<'_>) -> String {
    format!("normal 0 0 0 slave 0 0 0 pubsub {PUSHED_BYTES_MAX} 0 0")
}

fn yes_or_no(is_so: bool) -> String {
    if is_so { "yes" } else { "no" }.to_owned()
}

/// Host and port of each address for Redis clients, with or without TLS; those that the server has, if it runs.
fn addresses(shared: &Shared, config: &Config, is_tls: bool) -> Vec<(String, String)> {
    let configured = if is_tls { &config.tls } else { &config.redis };
    let addresses: Vec<&str> = match shared.reach.get() {
        None => configured.iter().map(String::as_str).collect(),
        Some(reach) if is_tls => {
            reach.addresses.iter().filter_map(|address| address.strip_suffix(TLS_MARK)).collect()
        }
        Some(reach) => reach
            .addresses
            .iter()
            .map(String::as_str)
            .filter(|address| !address.ends_with(TLS_MARK))
            .collect(),
    };
    addresses
        .into_iter()
        .filter(|address| !address.starts_with("unix:"))
        .filter_map(|address| address.rsplit_once(':'))
        .map(|(host, port)| (host.trim_matches(['[', ']']).to_owned(), port.to_owned()))
        .collect()
}

/// The port of the first address for Redis clients; 0 where there is none.
pub fn port_of(shared: &Shared, config: &Config, is_tls: bool) -> String {
    addresses(shared, config, is_tls).first().map_or_else(|| "0".to_owned(), |(_, port)| port.clone())
}

fn bind(present: &Present<'_>) -> String {
    let of = |is_tls| addresses(present.shared, &present.config, is_tls).into_iter().map(|(host, _)| host);
    let mut hosts: Vec<String> = of(false).collect();
    for host in of(true) {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts.join(" ")
}

fn acl_file(present: &Present<'_>) -> String {
    present.config.acl_file.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
}

fn unix_socket(present: &Present<'_>) -> String {
    present.config.unix.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
}

fn integer(text: &str, least: i64, most: i64) -> Result<i64, String> {
    let number: i64 = text.parse().map_err(|_| "argument couldn't be parsed into an integer".to_owned())?;
    within(number, least, most)
}

fn within(number: i64, least: i64, most: i64) -> Result<i64, String> {
    if (least..=most).contains(&number) {
        Ok(number)
    } else {
        Err(format!("argument must be between {least} and {most} inclusive"))
    }
}

/// A number of bytes, perhaps with a unit.
fn memory(text: &str) -> Result<i64, String> {
    let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
    let factor = match text[digits..].to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "k" => Some(1000),
        "kb" => Some(1 << 10),
        "m" => Some(1_000_000),
        "mb" => Some(1 << 20),
        "g" => Some(1_000_000_000),
        "gb" => Some(1 << 30),
        _ => None,
    };
    let bytes = factor.and_then(|factor: i64| text[..digits].parse::<i64>().ok()?.checked_mul(factor));
    bytes.ok_or_else(|| "argument must be a memory value".to_owned())
}

/// One of these words, in any case: which.
fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, value)| *value).ok_or_else(
        || {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            format!("argument(s) must be one of the following: {}", words.join(", "))
        },
    )
}

fn set_append_fsync(draft: &mut Draft, _: &Present<'_>, text: &str) -> Result<(), String> {
    let choices =
        [("everysec", Durability::EverySec), ("always", Durability::Always), ("no", Durability::None)];
    draft.durability = choice(text, &choices)?;
    Ok(())
}

fn set_policy(draft: &mut Draft, _: &Present<'_>, text: &str) -> Result<(), String> {
    draft.when_full = choice(text, &[("allkeys-lru", WhenFull::Evict), ("noeviction", WhenFull::Error)])?;
    Ok(())
}

/// How much of the hot tier is used; 0, no limit, is all of it.
fn set_maxmemory(draft: &mut Draft, present: &Present<'_>, text: &str) -> Result<(), String> {
    let bytes = u64::try_from(memory(text)?).map_err(|_| "argument must be a memory value".to_owned())?;
    draft.hot_limit_bytes = if bytes == 0 { present.store.hot_bytes } else { bytes };
    Ok(())
}

fn set_clients_max(draft: &mut Draft, _: &Present<'_>, text: &str) -> Result<(), String> {
    draft.config.clients_max = integer(text, 1, i64::from(u32::MAX))? as u32;
    Ok(())
}

fn set_timeout(draft: &mut Draft, _: &Present<'_>, text: &str) -> Result<(), String> {
    draft.config.timeout_seconds = integer(text, 0, i64::from(i32::MAX))?.unsigned_abs();
    Ok(())
}

/// What all clients together may hold; 0: no limit.
fn set_clients_bytes_max(draft: &mut Draft, present: &Present<'_>, text: &str) -> Result<(), String> {
    let share = text.strip_suffix('%').map(|digits| integer(digits, 0, 100)).transpose()?;
    let bytes = match share {
        Some(percent) => present.store.hot_limit_bytes * percent.unsigned_abs() / 100,
        None => memory(text)?.unsigned_abs(),
    };
    draft.config.clients_bytes_max = Some(bytes);
    Ok(())
}

fn set_argument_bytes_max(draft: &mut Draft, _: &Present<'_>, text: &str) -> Result<(), String> {
    draft.config.argument_bytes_max =
        within(memory(text)?, BULK_BYTES_LEAST, BULK_BYTES_MOST)?.unsigned_abs();
    Ok(())
}

fn set_protected_mode(draft: &mut Draft, _: &Present<'_>, text: &str) -> Result<(), String> {
    draft.config.protected_mode = is_yes(text)?;
    Ok(())
}

fn is_yes(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("argument must be 'yes' or 'no'".to_owned()),
    }
}

fn set_latency_tracking(draft: &mut Draft, _: &Present<'_>, text: &str) -> Result<(), String> {
    draft.is_latency_tracked = is_yes(text)?;
    Ok(())
}

fn latency_percentiles(present: &Present<'_>) -> String {
    let percentiles = present.shared.latency.percentiles();
    percentiles.into_iter().map(percentile_text).collect::<Vec<_>>().join(" ")
}

/// Numbers with a blank between each two; none where the text is empty.
fn set_latency_percentiles(draft: &mut Draft, _: &Present<'_>, text: &str) -> Result<(), String> {
    let words: Vec<&str> = if text.is_empty() { Vec::new() } else { text.split(' ').collect() };
    if words.len() > PERCENTILES_MAX {
        return Err(format!("latency-tracking-info-percentiles takes at most {PERCENTILES_MAX} parameters"));
    }
    let numbers: Option<Vec<f64>> =
        words.iter().map(|word| word.parse().ok().filter(|number: &f64| !number.is_nan())).collect();
    let numbers = numbers.ok_or("Invalid latency-tracking-info-percentiles parameters")?;
    if !numbers.iter().all(|number| (0.0..=100.0).contains(number)) {
        return Err("latency-tracking-info-percentiles parameters should sit between [0.0,100.0]".to_owned());
    }
    draft.latency_percentiles = numbers;
    Ok(())
}

fn set_password(draft: &mut Draft, _: &Present<'_>, text: &str) -> Result<(), String> {
    draft.config.password = text.to_owned();
    draft.has_new_password = true;
    Ok(())
}

fn set_refusals_max(draft: &mut Draft, _: &Present<'_>, text: &str) -> Result<(), String> {
    draft.refusals_max = integer(text, 0, i64::MAX)?.unsigned_abs();
    Ok(())
}

fn set_slower_than(draft: &mut Draft, _: &Present<'_>, text: &str) -> Result<(), String> {
    draft.slower_than_microseconds = integer(text, -1, i64::MAX)?;
    Ok(())
}

fn set_slow_entries_max(draft: &mut Draft, _: &Present<'_>, text: &str) -> Result<(), String> {
    draft.slow_entries_max = integer(text, 0, i64::MAX)?.unsigned_abs();
    Ok(())
}

fn set_spike_threshold(draft: &mut Draft, _: &Present<'_>, text: &str) -> Result<(), String> {
    draft.spike_milliseconds = integer(text, 0, i64::MAX)?.unsigned_abs();
    Ok(())
}

fn set_tracked_keys_max(draft: &mut Draft, _: &Present<'_>, text: &str) -> Result<(), String> {
    draft.tracked_keys_max = integer(text, 0, i64::MAX)?.unsigned_abs();
    Ok(())
}

fn set_notified(draft: &mut Draft, _: &Present<'_>, text: &str) -> Result<(), String> {
    draft.notified = notifications::parse(text)?;
    Ok(())
}

impl<'a> Present<'a> {
    fn new(shared: &'a Shared) -> Self {
        let config = shared.config.read().unwrap_or_else(PoisonError::into_inner).clone();
        Self { shared, config, store: shared.store.config() }
    }
}

fn get(call: &mut Call<'_, '_>) -> Result<()> {
    if call.arguments.len() - 2 > ASKED_MAX {
        let text = format!("ERR too many parameters are asked about at once: {ASKED_MAX} are allowed");
        return Err(Failure::text(text));
    }
    let present = Present::new(call.shared);
    let mut budget = Budget::default();
    let mut found: BTreeMap<&str, (String, String)> = BTreeMap::new();
    for pattern in call.arguments.from(2) {
        let is_pattern = pattern.iter().any(|byte| b"[*?".contains(byte));
        if is_pattern && pattern.len() > PATTERN_BYTES_MAX {
            return Err(Failure::from(PATTERN_TOO_LONG));
        }
        for (name, get, _) in PARAMETERS {
            // A name comes back as it was written.
            let shown = if is_pattern && budget.matches(pattern, name.as_bytes(), true) {
                (*name).to_owned()
            } else if !is_pattern && pattern.eq_ignore_ascii_case(name.as_bytes()) {
                String::from_utf8_lossy(pattern).into_owned()
            } else {
                continue;
            };
            found.entry(name).or_insert_with(|| (shown, get(&present)));
        }
        if budget.is_spent() {
            return Err(Failure::from(NAMES_TAKE_TOO_LONG));
        }
    }
    call.reply.map(found.len());
    for (name, value) in found.values() {
        call.reply.bulk(name.as_bytes());
        call.reply.bulk(value.as_bytes());
    }
    Ok(())
}

fn set(call: &mut Call<'_, '_>) -> Result<()> {
    if !call.arguments.len().is_multiple_of(2) {
        return Err(Failure::from(SYNTAX));
    }
    // One after the other: what two set at once is all of both.
    let _only_one = call.shared.config_changes.lock().unwrap_or_else(PoisonError::into_inner);
    let given: Vec<(&[u8], &[u8])> = (2..call.arguments.len())
        .step_by(2)
        .map(|index| (call.argument(index), call.argument(index + 1)))
        .collect();
    let names = change(call.shared, &given)?;
    call.shared.changed_parameters.lock().unwrap_or_else(PoisonError::into_inner).extend(names);
    call.reply.ok();
    Ok(())
}

/// The value of a parameter.
pub fn value_of(shared: &Shared, name: &str) -> Option<String> {
    PARAMETERS.iter().find(|(own, ..)| *own == name).map(|(_, get, _)| get(&Present::new(shared)))
}

/// Changes parameters, all of them or none; the names of those that can have another value. Under the lock of [`Shared::config_changes`].
///
/// # Errors
/// What is wrong with one.
pub fn change(shared: &Shared, given: &[(&[u8], &[u8])]) -> Result<Vec<&'static str>> {
    let present = Present::new(shared);
    let pairs = find_pairs(given, &present)?;
    let mut draft = Draft {
        config: present.config.clone(),
        durability: shared.store.durability(),
        when_full: present.store.when_full.parse()?,
        hot_limit_bytes: present.store.hot_limit_bytes,
        slower_than_microseconds: shared.slow_log.slower_than_microseconds(),
        slow_entries_max: shared.slow_log.entries_max(),
        spike_milliseconds: shared.spikes.threshold_milliseconds(),
        tracked_keys_max: shared.tracking.keys_max(),
        notified: shared.notified.load(Ordering::Relaxed),
        is_latency_tracked: shared.latency.is_tracked(),
        latency_percentiles: shared.latency.percentiles(),
        refusals_max: shared.refusals.entries_max(),
        has_new_password: false,
    };
    for pair in &pairs {
        if let Some(set) = pair.set {
            set(&mut draft, &present, pair.value).map_err(|reason| failed(pair.shown, &reason))?;
        }
    }
    apply(&present, draft)?;
    Ok(pairs.iter().filter(|pair| pair.set.is_some()).map(|pair| pair.name).collect())
}

fn failed(name: &str, reason: &str) -> Failure {
    Failure::text(format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}"))
}

/// What is to be set, and how.
struct Pair<'a> {
    name: &'static str,
    /// The name as it was written.
    shown: &'a str,
    value: &'a str,
    set: Option<Set>,
}

/// Refuses a name of which there is no parameter.
///
/// # Errors
/// That there is none.
pub fn check_name(given: &[u8]) -> Result<()> {
    demand(given).map(drop)
}

/// The parameter of a name, and the name as it was written.
fn demand(given: &[u8]) -> Result<(&'static Parameter, &str)> {
    let parameter = PARAMETERS.iter().find(|(name, ..)| given.eq_ignore_ascii_case(name.as_bytes()));
    match (parameter, std::str::from_utf8(given)) {
        (Some(parameter), Ok(shown)) => Ok((parameter, shown)),
        _ => Err(Failure::text(format!(
            "ERR Unknown option or number of arguments for CONFIG SET - '{}'",
            String::from_utf8_lossy(given)
        ))),
    }
}

fn find_pairs<'a>(given: &[(&'a [u8], &'a [u8])], present: &Present<'_>) -> Result<Vec<Pair<'a>>> {
    let mut pairs = Vec::new();
    let mut names = HashSet::new();
    for (given, value) in given {
        let ((name, get, set), shown) = demand(given)?;
        let value = std::str::from_utf8(value).map_err(|_| failed(shown, "argument must be text"))?;
        if set.is_none() && !value.eq_ignore_ascii_case(&get(present)) {
            return Err(failed(shown, IMMUTABLE));
        }
        if !names.insert(name) {
            return Err(failed(shown, "duplicate parameter"));
        }
        pairs.push(Pair { name, shown, value, set: *set });
    }
    Ok(pairs)
}

/// First what may fail: the store's part, of which what was done is taken back if the rest can't be.
fn apply(present: &Present<'_>, draft: Draft) -> Result<()> {
    let shared = present.shared;
    let store = &shared.store;
    let (when_full, limit_bytes) = (present.store.when_full.parse()?, present.store.hot_limit_bytes);
    if draft.when_full != when_full {
        store
            .set_when_full(draft.when_full)
            .map_err(|error| failed("maxmemory-policy", &error.to_string()))?;
    }
    let limited = match draft.hot_limit_bytes {
        bytes if bytes == limit_bytes => Ok(()),
        bytes => store.set_hot_limit(bytes).map_err(|error| failed("maxmemory", &error.to_string())),
    };
    let done = limited.and_then(|()| match draft.durability {
        durability if durability == store.durability() => Ok(()),
        durability => store.set_durability(durability).map_err(|error| {
            // It was so before, so there is room for it.
            let _ = store.set_hot_limit(limit_bytes);
            failed("appendfsync", &error.to_string())
        }),
    });
    if done.is_err() && draft.when_full != when_full {
        store.set_when_full(when_full)?;
    }
    done?;
    shared.post(shared.tracking.set_keys_max(&shared.clients, draft.tracked_keys_max));
    notifications::apply(shared, draft.notified);
    shared.latency.set(draft.is_latency_tracked, draft.latency_percentiles);
    shared.refusals.set_entries_max(draft.refusals_max);
    if draft.has_new_password {
        shared.set_default_password(&draft.config.password);
    }
    shared.slow_log.set(draft.slower_than_microseconds, draft.slow_entries_max);
    shared.spikes.set_threshold(draft.spike_milliseconds);
    shared.heed_thresholds();
    shared.argument_bytes_max.store(draft.config.argument_bytes_max, Ordering::Relaxed);
    shared.clients.limit_held_bytes(shared.clients_bytes_max(draft.config.clients_bytes_max));
    *shared.config.write().unwrap_or_else(PoisonError::into_inner) = draft.config;
    Ok(())
}

fn reset_statistics(call: &mut Call<'_, '_>) -> Result<()> {
    let stats = call.space.store().stats()?;
    call.shared.statistics.reset(StoreTotals::of(&stats));
    call.reply.ok();
    Ok(())
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
