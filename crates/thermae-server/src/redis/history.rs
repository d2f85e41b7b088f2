//! How commands changed from one version of Redis to another, and what was deprecated when: for COMMAND DOCS.
//!
//! It stands beside the table of commands and not in its rows, since most commands never changed.

/// What came with a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The version of Redis.
    pub version: &'static str,
    /// What was new.
    pub text: &'static str,
}

const fn change(version: &'static str, text: &'static str) -> Change {
    Change { version, text }
}

/// Advice against a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deprecation {
    /// The version of Redis that gave it first.
    pub since: &'static str,
    /// What is to be called instead.
    pub replaced_by: &'static str,
}

/// Names of commands, and their changes from the oldest on.
const CHANGES: &[(&str, &[Change])] = &[
    (
        "acl|getuser",
        &[
            change("6.2.0", "Patterns of channels are answered, too."),
            change("7.0.0", "Selectors are answered, too, and patterns as rules instead of as a list."),
        ],
    ),
    (
        "acl|setuser",
        &[
            change("6.2.0", "Rules about channels."),
            change("7.0.0", "Selectors, and keys to be read or to be written only."),
        ],
    ),
    ("auth", &[change("6.0.0", "Users with names.")]),
    ("bgsave", &[change("3.2.2", "The option `SCHEDULE`.")]),
    ("bitcount bitpos", &[change("7.0.0", "Ranges of bits: the options `BYTE` and `BIT`.")]),
    (
        "client|kill",
        &[
            change("2.8.12", "Filters, each behind its name."),
            change("2.8.12", "The filter `ID`."),
            change("3.2.0", "The type `master` of the filter `TYPE`."),
            change("5.0.0", "The type `replica`, which may still be called `slave`."),
            change("6.2.0", "The filter `LADDR`."),
        ],
    ),
    (
        "client|list",
        &[
            change("2.8.12", "The field `id`."),
            change("5.0.0", "The filter `TYPE`."),
            change("6.0.0", "The field `user`."),
            change("6.2.0", "The fields `argv-mem`, `tot-mem`, `laddr` and `redir`, and the filter `ID`."),
            change("7.0.0", "The fields `resp`, `multi-mem`, `rbs` and `rbp`."),
            change("7.0.3", "The field `ssub`."),
        ],
    ),
    ("client|pause", &[change("6.2.0", "The modes `WRITE` and `ALL`.")]),
    (
        "cluster|slots",
        &[
            change("4.0.0", "Names of nodes are answered, too."),
            change("7.0.0", "Further addresses of nodes are answered, too."),
        ],
    ),
    ("command|info", &[change("7.0.0", "Without names it describes all commands.")]),
    ("config|get", &[change("7.0.0", "Several patterns at once.")]),
    ("config|set", &[change("7.0.0", "Several parameters at once.")]),
    ("exists", &[change("3.0.3", "Several keys at once.")]),
    (
        "expire expireat pexpire pexpireat",
        &[change("7.0.0", "Conditions: the options `NX`, `XX`, `GT` and `LT`.")],
    ),
    ("flushall flushdb", &[change("4.0.0", "The option `ASYNC`."), change("6.2.0", "The option `SYNC`.")]),
    ("hello", &[change("6.2.0", "Without a version it leaves the protocol as it is.")]),
    ("info", &[change("7.0.0", "Several sections at once.")]),
    ("pttl ttl", &[change("2.8.0", "A key that is not there is told from one that never expires.")]),
    ("renamenx", &[change("3.2.0", "Both names may be the same.")]),
    (
        "restore",
        &[
            change("3.0.0", "The option `REPLACE`."),
            change("5.0.0", "The option `ABSTTL`."),
            change("5.0.0", "The options `IDLETIME` and `FREQ`."),
        ],
    ),
    ("scan", &[change("6.0.0", "The option `TYPE`.")]),
    (
        "set",
        &[
            change("2.6.12", "The options `EX`, `PX`, `NX` and `XX`."),
            change("6.0.0", "The option `KEEPTTL`."),
            change("6.2.0", "The options `GET`, `EXAT` and `PXAT`."),
            change("7.0.0", "`NX` and `GET` may be given together."),
        ],
    ),
    ("shutdown", &[change("7.0.0", "The options `NOW`, `FORCE` and `ABORT`.")]),
    ("slowlog|get", &[change("4.0.0", "The client's address and name are answered, too.")]),
];

/// Names of commands that are advised against.
const DEPRECATIONS: &[(&str, Deprecation)] = &[
    ("cluster|slots", Deprecation { since: "7.0.0", replaced_by: "`CLUSTER SHARDS`" }),
    ("getset", Deprecation { since: "6.2.0", replaced_by: "`SET` with the option `GET`" }),
    ("slaveof", Deprecation { since: "5.0.0", replaced_by: "`REPLICAOF`" }),
    ("substr", Deprecation { since: "2.0.0", replaced_by: "`GETRANGE`" }),
];

/// Commands for those who work on a server rather than with it.
const INTERNAL: &[&str] = &["debug"];

/// How a command changed, from its oldest change on.
pub fn changes(full_name: &str) -> &'static [Change] {
    let has = |names: &str| names.split(' ').any(|name| name == full_name);
    CHANGES.iter().find(|(names, _)| has(names)).map_or(&[], |(_, changes)| changes)
}

/// Whether a command is advised against.
pub fn deprecation(full_name: &str) -> Option<&'static Deprecation> {
    DEPRECATIONS.iter().find(|(name, _)| *name == full_name).map(|(_, deprecation)| deprecation)
}

/// Whether a command is for those who work on a server.
pub fn is_internal(full_name: &str) -> bool {
    INTERNAL.contains(&full_name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::table;

    fn parts(version: &str) -> Vec<u8> {
        version.split('.').map(|part| part.parse().unwrap()).collect()
    }

    #[test]
    fn names_are_those_of_commands_and_there_once() {
        let changed = CHANGES.iter().flat_map(|(names, _)| names.split(' '));
        let deprecated = DEPRECATIONS.iter().map(|(name, _)| *name);
        for names in [changed.collect::<Vec<_>>(), deprecated.collect(), INTERNAL.to_vec()] {
            for (index, name) in names.iter().enumerate() {
                assert!(table::find_full(name.as_bytes()).is_some(), "{name}");
                assert!(!names[..index].contains(name), "{name} is there twice");
            }
        }
    }

    #[test]
    fn changes_follow_the_first_version_in_order() {
        for command in table::entries() {
            let versions = changes(&command.full_name).iter().map(|change| change.version);
            let versions: Vec<_> = std::iter::once(command.since).chain(versions).map(parts).collect();
            assert!(versions.is_sorted(), "{}: {versions:?}", command.full_name);
        }
    }
}
