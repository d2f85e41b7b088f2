//! Another configuration for a server that runs: the one place where what it was started with is read again.
//!
//! First all that may fail is made ready, then all is put in its place, so that a mistake anywhere changes nothing. What clients have by then they keep: a
//! TLS session its certificate, a login its rights. What can't change while the server runs is left as it is, and named.
//!
//! The password is compared with the one that was read before, not with the one that `default` has: where the configuration says what it said, what
//! clients did since (ACL SETUSER, CONFIG SET requirepass) holds. A configuration that has no password any more does not open a closed `default`: whoever
//! means that starts the server anew, or says it with ACL SETUSER.

use crate::config::Config;
use crate::redis::rewriting;
use crate::shared::Shared;
use crate::tls::{Acceptor, TlsError};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// Why nothing was replaced.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// A certificate or a key that can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A parameter of CONFIG SET that there is not, or not with this value.
    #[error("{0}")]
    Parameter(String),
}

/// Replaces what can be; the names of what differs and stays.
///
/// # Errors
/// A certificate, a key or a parameter that can't be used; then nothing has changed.
pub fn reload(
    shared: &Shared,
    acceptor: Option<&Acceptor>,
    mut config: Config,
) -> Result<Vec<&'static str>, ReloadError> {
    let _only_one = shared.config_changes.lock().unwrap_or_else(PoisonError::into_inner);
    let present = shared.config.read().unwrap_or_else(PoisonError::into_inner).clone();
    let mut kept = Vec::new();
    let mut keep = |name, differs| {
        if differs {
            kept.push(name);
        }
    };
    keep("threads", config.threads != present.threads);
    keep("redis", config.redis != present.redis);
    keep("memcached", config.memcached != present.memcached);
    keep("memcached-unix", config.memcached_unix != present.memcached_unix);
    keep("tls", config.tls != present.tls);
    keep("unix", config.unix != present.unix);
    keep("snapshots", config.snapshots != present.snapshots);
    keep("acl-file", config.acl_file != present.acl_file);
    let mut loaded_password = shared.loaded_password.lock().unwrap_or_else(PoisonError::into_inner);
    let is_password_new = config.password != *loaded_password;
    let opens = config.password.is_empty() && !shared.users.default_user().is_open();
    keep("password", is_password_new && opens);
    let renewed = match (acceptor, &config.tls_certificate, &config.tls_key) {
        (Some(acceptor), Some(certificate), Some(key)) => {
            Some((acceptor, Acceptor::read(certificate, key, config.tls_authority.as_deref())?))
        }
        (Some(_), ..) => {
            keep("tls-certificate and tls-key", true);
            config.tls_certificate.clone_from(&present.tls_certificate);
            config.tls_key.clone_from(&present.tls_key);
            None
        }
        (None, ..) => None,
    };
    rewriting::take(shared, &config.redis_parameters).map_err(ReloadError::Parameter)?;
    rewriting::forget_replaced(shared);
    if let Some((acceptor, renewed)) = renewed {
        acceptor.replace(renewed);
    }
    let Config {
        threads,
        redis,
        memcached,
        memcached_unix,
        tls,
        unix,
        snapshots,
        acl_file,
        password: present_password,
        ..
    } = present;
    let mut config =
        Config { threads, redis, memcached, memcached_unix, tls, unix, snapshots, acl_file, ..config };
    let password = std::mem::replace(&mut config.password, present_password);
    shared.argument_bytes_max.store(config.argument_bytes_max, Ordering::Relaxed);
    shared.clients.limit_held_bytes(shared.clients_bytes_max(config.clients_bytes_max));
    shared.memcached_value_bytes_max.store(config.memcached_value_bytes_max, Ordering::Relaxed);
    *shared.config.write().unwrap_or_else(PoisonError::into_inner) = config;
    if is_password_new && !opens {
        shared.config.write().unwrap_or_else(PoisonError::into_inner).password.clone_from(&password);
        shared.set_default_password(&password);
        *loaded_password = password;
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DebugCommand;
    use crate::redis::test_support::TestServer;
    use std::path::PathBuf;

    /// It was compared with the password of `default`, so that one which an administrator had replaced was good again, and a server that was given one
    /// while it ran lost it.
    #[test]
    fn a_password_that_clients_changed_holds() {
        let mut server = TestServer::new();
        let with = |password: &str| Config { password: password.to_owned(), ..Config::default() };
        let accepts = |server: &TestServer, password: &[u8]| {
            let default = server.shared().users.default_user();
            !default.is_open() && default.accepts(password)
        };
        // No password was read, and none is now.
        assert_eq!(server.line("CONFIG SET requirepass given"), "+OK\r\n");
        assert!(reload(server.shared(), None, with("")).unwrap().is_empty());
        assert!(accepts(&server, b"given"));
        assert_eq!(server.line("CONFIG GET requirepass"), "*2\r\n$11\r\nrequirepass\r\n$5\r\ngiven\r\n");
        // Another one is read, changed by a client, and read again as it was.
        reload(server.shared(), None, with("old")).unwrap();
        assert!(accepts(&server, b"old") && !accepts(&server, b"given"));
        assert_eq!(server.line("ACL SETUSER default resetpass >new"), "+OK\r\n");
        reload(server.shared(), None, with("old")).unwrap();
        assert!(accepts(&server, b"new") && !accepts(&server, b"old"));
        assert_eq!(server.line("CONFIG GET requirepass"), "*2\r\n$11\r\nrequirepass\r\n$0\r\n\r\n");
        // One that is gone opens nothing, each time that it is read so.
        for _ in 0..2 {
            assert_eq!(reload(server.shared(), None, with("")).unwrap(), ["password"]);
            assert!(accepts(&server, b"new"));
        }
        reload(server.shared(), None, with("newer")).unwrap();
        assert!(accepts(&server, b"newer") && !accepts(&server, b"new"));
        assert_eq!(*server.shared().config.read().unwrap(), with("newer"));
        // What a client has opened is open.
        assert_eq!(server.line("ACL SETUSER default nopass"), "+OK\r\n");
        assert!(reload(server.shared(), None, with("")).unwrap().is_empty());
        assert!(server.shared().users.default_user().is_open());
    }

    #[test]
    fn what_can_change_does_and_the_rest_is_named() {
        let mut server = TestServer::new();
        let changes = Config {
            password: "secret".to_owned(),
            clients_max: 7,
            argument_bytes_max: 2 << 20,
            memcached_value_bytes_max: 3 << 20,
            timeout_seconds: 5,
            protected_mode: false,
            enable_debug_command: DebugCommand::Local,
            ..Config::default()
        };
        assert!(reload(server.shared(), None, changes.clone()).unwrap().is_empty());
        assert!(server.shared().users.default_user().knows(b"secret"));
        assert_eq!(*server.shared().config.read().unwrap(), changes);
        assert_eq!(server.line("CONFIG GET proto-max-bulk-len").split("\r\n").nth(4), Some("2097152"));
        assert_eq!(server.shared().argument_bytes_max.load(Ordering::Relaxed), 2 << 20);
        assert_eq!(server.shared().memcached_value_bytes_max.load(Ordering::Relaxed), 3 << 20);
        let path = || Some(PathBuf::from("/run/other"));
        let fixed = Config {
            threads: 9,
            redis: vec!["127.0.0.1:1".to_owned()],
            memcached: vec!["127.0.0.1:2".to_owned()],
            memcached_unix: path(),
            tls: vec!["127.0.0.1:3".to_owned()],
            unix: path(),
            snapshots: path(),
            acl_file: path(),
            clients_max: 8,
            ..changes.clone()
        };
        let kept = reload(server.shared(), None, fixed).unwrap();
        assert_eq!(
            kept,
            ["threads", "redis", "memcached", "memcached-unix", "tls", "unix", "snapshots", "acl-file"]
        );
        assert_eq!(*server.shared().config.read().unwrap(), Config { clients_max: 8, ..changes });
    }

    #[test]
    fn what_a_configuration_has_replaced_is_not_written() {
        let mut server = TestServer::new();
        server.line(
            "CONFIG SET timeout 7 slowlog-max-len 3 maxmemory-policy noeviction tracking-table-max-keys 4",
        );
        let texts = ["slowlog-max-len=5".to_owned()];
        let config = Config { redis_parameters: texts.to_vec(), ..Config::default() };
        reload(server.shared(), None, config.clone()).unwrap();
        let changed: Vec<_> = server.shared().changed_parameters.lock().unwrap().iter().copied().collect();
        assert_eq!(changed, ["maxmemory-policy", "tracking-table-max-keys"]);
        assert_eq!(server.shared().slow_log.entries_max(), 5);
        // A mistake changes nothing.
        let wrong = ["slowlog-max-len=6", "slowlog-log-slower-than=x"].map(str::to_owned).to_vec();
        let error = reload(
            server.shared(),
            None,
            Config { redis_parameters: wrong, clients_max: 3, ..config.clone() },
        );
        assert!(error.unwrap_err().to_string().contains("slowlog-log-slower-than"));
        assert_eq!(
            (server.shared().slow_log.entries_max(), server.shared().config.read().unwrap().clients_max),
            (5, config.clients_max)
        );
    }
}
