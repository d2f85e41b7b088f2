//! CONFIG REWRITE, and what it has written read again: which parameter stands where in the file of the configuration.
//!
//! Those that `thermae serve` has an option for stand under its name, all others in one list of `NAME=VALUE`, each in one place only. Only what CONFIG SET
//! has changed is written. A password is not: it may come from the environment, so that no file has it.

use crate::failure::{Failure, Result};
use crate::redis::call::Call;
use crate::redis::config_file::{self, Changes, PARAMETERS_KEY, Setting};
use crate::redis::settings;
use crate::shared::Shared;
use std::sync::PoisonError;

/// Most that the option takes for what all clients may hold.
const CLIENTS_BYTES_MOST: i64 = 1 << 40;

/// Where a parameter stands in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A number, under this name.
    Integer(&'static str),
    /// True or false, under this name.
    Flag(&'static str),
    /// One of some words, under this name: as the parameter has them, and the option.
    Word(&'static str, &'static [(&'static str, &'static str)]),
    /// Nowhere: it is a secret. There is an option of this name.
    Secret(&'static str),
    /// In the list.
    List,
}

fn place_of(name: &str) -> Place {
    match name.to_ascii_lowercase().as_str() {
        "appendfsync" => {
            Place::Word("durability", &[("always", "always"), ("everysec", "everysec"), ("no", "none")])
        }
        "maxclients" => Place::Integer("clients-max"),
        "maxmemory-clients" => Place::Integer("clients-memory-max"),
        "maxmemory-policy" => Place::Word("when-full", &[("allkeys-lru", "evict"), ("noeviction", "error")]),
        "protected-mode" => Place::Flag("protected-mode"),
        "proto-max-bulk-len" => Place::Integer("argument-max"),
        "requirepass" => Place::Secret("password"),
        "timeout" => Place::Integer("timeout-seconds"),
        _ => Place::List,
    }
}

impl Place {
    /// The option that says the same.
    fn option(self) -> Option<&'static str> {
        match self {
            Self::Integer(key) | Self::Flag(key) | Self::Word(key, _) | Self::Secret(key) => Some(key),
            Self::List => None,
        }
    }

    /// Whether the server takes it from the configuration each time that this is read. Other options are the store's, and a password that clients have changed may hold.
    fn is_reloaded(self) -> bool {
        matches!(self, Self::Integer(_) | Self::Flag(_))
    }
}

/// The name of a parameter, and a value for it.
type Pair<'a> = (&'a [u8], &'a [u8]);

/// Sets the parameters of a configuration, all of them or none, as CONFIG SET does. Under the lock of [`Shared::config_changes`].
///
/// # Errors
/// What is wrong with one.
pub fn take(shared: &Shared, texts: &[String]) -> std::result::Result<(), String> {
    let pairs = pairs(texts)?;
    if pairs.is_empty() {
        return Ok(());
    }
    let names = settings::change(shared, &pairs).map_err(told)?;
    // Now they are as the configuration has them.
    let mut changed = shared.changed_parameters.lock().unwrap_or_else(PoisonError::into_inner);
    changed.retain(|name| !names.contains(name));
    Ok(())
}

/// Names and values, as a configuration has them, the names being looked at.
///
/// # Errors
/// What is wrong with one.
pub fn pairs(texts: &[String]) -> std::result::Result<Vec<Pair<'_>>, String> {
    let mut pairs = Vec::new();
    for text in texts {
        let Some((name, value)) = text.split_once('=') else {
            return Err(format!(
                "{PARAMETERS_KEY} {text}: NAME=VALUE is wanted, such as slowlog-max-len=1000"
            ));
        };
        if let Some(option) = place_of(name).option() {
            return Err(format!("{PARAMETERS_KEY} {name}: there is an option for it, {option}"));
        }
        settings::check_name(name.as_bytes()).map_err(told)?;
        pairs.push((name.as_bytes(), value.as_bytes()));
    }
    Ok(pairs)
}

/// A refusal of CONFIG SET's, as one of the configuration.
#[allow(clippy::needless_pass_by_value, reason = "an error is mapped")]
fn told(failure: Failure) -> String {
    let line = failure.line();
    format!("{PARAMETERS_KEY}: {}", line.strip_prefix("ERR ").unwrap_or(&line))
}

/// A configuration has replaced what clients have changed, but for what it need not name, and what is the store's.
pub fn forget_replaced(shared: &Shared) {
    let mut changed = shared.changed_parameters.lock().unwrap_or_else(PoisonError::into_inner);
    changed.retain(|name| !place_of(name).is_reloaded());
}

/// What is to be written, and the parameters that are not, for what they say is a secret.
fn changes(shared: &Shared) -> std::result::Result<(Changes, Vec<&'static str>), String> {
    let names = shared.changed_parameters.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (mut changes, mut secrets) = (Changes::default(), Vec::new());
    for name in names {
        let value = settings::value_of(shared, name).ok_or_else(|| format!("{name} has no value"))?;
        match place_of(name) {
            Place::Integer(key) => {
                let number: i64 =
                    value.parse().map_err(|_| format!("{name} {value} is no number that {key} may be"))?;
                if name == "maxmemory-clients" && number > CLIENTS_BYTES_MOST {
                    return Err(format!(
                        "{name} is {value}, and {key} may be 1TiB at most: set it to less, or to 0"
                    ));
                }
                changes.keys.push((key, Setting::Integer(number)));
            }
            Place::Flag(key) => changes.keys.push((key, Setting::Flag(value == "yes"))),
            Place::Word(key, words) => {
                let word = words.iter().find(|(own, _)| *own == value);
                let (_, word) = word.ok_or_else(|| format!("{name} {value} is nothing that {key} may be"))?;
                changes.keys.push((key, Setting::Word(word)));
            }
            Place::Secret(_) => {
                let loaded = shared.loaded_password.lock().unwrap_or_else(PoisonError::into_inner);
                if *loaded != value {
                    secrets.push(name);
                }
            }
            Place::List => {
                let store = shared.store.config();
                // All of the hot tier, however large that is the next time.
                let is_all = name == "maxmemory" && store.hot_limit_bytes == store.hot_bytes;
                changes.parameters.push((name, if is_all { "0".to_owned() } else { value }));
            }
        }
    }
    Ok((changes, secrets))
}

/// Answers once the file is written; the other clients of the loop wait meanwhile.
///
/// # Errors
/// There is no file, or it can't be written; then it is as it was.
pub fn rewrite(call: &mut Call<'_, '_>) -> Result<()> {
    let shared = call.shared;
    let _only_one = shared.config_changes.lock().unwrap_or_else(PoisonError::into_inner);
    let path = shared.config.read().unwrap_or_else(PoisonError::into_inner).config_file.clone();
    let path = path.ok_or("ERR The server is running without a config file")?;
    let failed = |reason: String| Failure::text(format!("ERR Rewriting config file: {reason}"));
    let (changes, secrets) = changes(shared).map_err(failed)?;
    config_file::rewrite(&path, &changes).map_err(failed)?;
    let mut fields = vec![("path", path.display().to_string())];
    if !secrets.is_empty() {
        fields.push(("not_written", format!("without {}, which is a secret", secrets.join(" "))));
    }
    shared.journal.note("config-rewritten", call.space.now_ms(), fields);
    call.reply.ok();
    Ok(())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "files for tests")]
mod tests {
    use super::*;
    use crate::redis::test_support::TestServer;

    #[test]
    fn what_was_changed_is_written_and_taken_again() {
        let mut server = TestServer::new();
        assert!(server.line("INFO server").contains("\r\nconfig_file:\r\n"));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("thermae.toml");
        std::fs::write(&path, "timeout-seconds = 5 # idle\npassword = \"old\"\n").unwrap();
        server.shared().config.write().unwrap().config_file = Some(path.clone());
        let text = || std::fs::read_to_string(&path).unwrap();
        server.check(&[
            ("CONFIG REWRITE", "+OK\r\n"),
            ("CONFIG SET timeout 7 maxclients 9 proto-max-bulk-len 2mb protected-mode no", "+OK\r\n"),
            (
                "CONFIG SET maxmemory-policy noeviction appendfsync no maxmemory-clients 0 maxmemory 0",
                "+OK\r\n",
            ),
            ("CONFIG SET slowlog-max-len 3 notify-keyspace-events KEA requirepass new", "+OK\r\n"),
            (
                "CONFIG SET latency-tracking-info-percentiles \"50 99.5\" latency-monitor-threshold 20",
                "+OK\r\n",
            ),
            ("CONFIG REWRITE", "+OK\r\n"),
        ]);
        assert!(server.line("INFO server").contains(&format!("\r\nconfig_file:{}\r\n", path.display())));
        let list = [
            "latency-monitor-threshold=20",
            "latency-tracking-info-percentiles=50 99.5",
            "maxmemory=0",
            "notify-keyspace-events=AKE",
            "slowlog-max-len=3",
        ];
        let expected = format!(
            "timeout-seconds = 7 # idle\npassword = \"old\"\ndurability = \"none\"\nclients-max = 9\nclients-memory-max = 0\n\
             when-full = \"error\"\nargument-max = 2097152\nprotected-mode = false\nredis-parameter = [\"{}\"]\n",
            list.join("\", \"")
        );
        // In the order of the parameters' names.
        let mut lines: Vec<_> = expected.lines().collect();
        lines.sort_unstable();
        let written = text();
        let mut found: Vec<_> = written.lines().collect();
        found.sort_unstable();
        assert_eq!(found, lines);
        let events = server.shared().journal.take(0);
        assert_eq!(events[1].fields[1], ("not_written", "without requirepass, which is a secret".to_owned()));
        // Another server takes the list as this one has written it, and has nothing to add.
        let mut other = TestServer::new();
        take(other.shared(), &list.map(str::to_owned)).unwrap();
        other.shared().config.write().unwrap().config_file = Some(path.clone());
        other.check(&[
            ("CONFIG GET slowlog-max-len", "*2\r\n$15\r\nslowlog-max-len\r\n$1\r\n3\r\n"),
            ("CONFIG REWRITE", "+OK\r\n"),
        ]);
        assert_eq!(text(), written);
    }

    #[test]
    fn what_is_no_parameter_is_refused() {
        let server = TestServer::new();
        for (text, reason) in [
            ("slowlog-max-len", "NAME=VALUE is wanted"),
            ("Timeout=3", "there is an option for it, timeout-seconds"),
            ("requirepass=x", "there is an option for it, password"),
            ("nonsense=3", "Unknown option"),
            ("databases=3", "can't set immutable config"),
            ("slowlog-max-len=x", "couldn't be parsed into an integer"),
        ] {
            let error = take(server.shared(), &[text.to_owned()]).unwrap_err();
            assert!(error.starts_with(PARAMETERS_KEY) && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_is_told() {
        let mut server = TestServer::new();
        server.check(&[("CONFIG REWRITE", "-ERR The server is running without a config file\r\n")]);
        server.shared().config.write().unwrap().config_file = Some("/nowhere/thermae.toml".into());
        let reply = server.line("CONFIG REWRITE");
        assert!(
            reply.starts_with("-ERR Rewriting config file: /nowhere/thermae.toml: No such file"),
            "{reply}"
        );
        server.line("CONFIG SET maxmemory-clients 2000gb");
        let reply = server.line("CONFIG REWRITE");
        assert!(reply.contains("clients-memory-max may be 1TiB at most"), "{reply}");
    }
}
