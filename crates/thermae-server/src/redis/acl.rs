//! ACL: who may come in, what each may do, and what was refused.
//!
//! All changes are made under the lock of the configuration, since the password of `default` is part of both.

use crate::failure::{Failure, Result};
use crate::glob::Budget;
use crate::redis::acl_rules::{self, PATTERN_BYTES_MAX, RULES_MAX, RuleError, has_spaces};
use crate::redis::call::Call;
use crate::redis::execute::find;
use crate::redis::introspection::{CATEGORIES, help, reply_names_in_category, wrong_subcommand};
use crate::redis::rights::{self, Denied};
use crate::redis::table::{Command, NO_KEYS, flags};
use crate::redis::{acl_file, table};
use crate::refusals::Reason;
use crate::users::{DEFAULT, Selector, USERS_MAX, User};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError};

use flags::{ADMIN, LOADING, NOSCRIPT, STALE};

/// Most bits of a password that is made up, and how many there are where nobody says.
const PASSWORD_BITS_MAX: i64 = 4096;
const PASSWORD_BITS: i64 = 256;
/// Entries of the log that are shown where nobody says.
const SHOWN_ENTRIES: i64 = 10;
/// Bytes of a name that an error shows.
const SHOWN_BYTES_MAX: usize = 128;

/// The rows.
pub static COMMANDS: &[Command] = &[Command {
    name: "acl",
    arity: -2,
    flags: 0,
    keys: NO_KEYS,
    categories: "slow",
    group: "server",
    since: "6.0.0",
    complexity: "That of the subcommand",
    summary: "Groups the commands about users and what they may do.",
    syntax: "",
    run: help,
    subcommands: SUBCOMMANDS,
}];

static SUBCOMMANDS: &[Command] = &[
    Command {
        name: "whoami",
        arity: 2,
        flags: NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "slow",
        group: "server",
        since: "6.0.0",
        complexity: "O(1)",
        summary: "Answers the name of this connection's user.",
        syntax: "",
        run: who_am_i,
        subcommands: &[],
    },
    Command {
        name: "users",
        arity: 2,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "6.0.0",
        complexity: "O(N), N being the number of users",
        summary: "Lists the names of the users.",
        syntax: "",
        run: users,
        subcommands: &[],
    },
    Command {
        name: "list",
        arity: 2,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "6.0.0",
        complexity: "O(N), N being the number of users",
        summary: "Lists the users with their rules, as a file of users has them.",
        syntax: "",
        run: list,
        subcommands: &[],
    },
    Command {
        name: "getuser",
        arity: 3,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "6.0.0",
        complexity: "O(N), N being the number of the user's rules",
        summary: "Answers the rules of a user, part by part.",
        syntax: "username",
        run: get_user,
        subcommands: &[],
    },
    Command {
        name: "setuser",
        arity: -3,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "6.0.0",
        complexity: "O(N), N being the number of rules",
        summary: "Applies rules to a user, all of them or none; makes the user where there is none.",
        syntax: "username [rule...]",
        run: set_user,
        subcommands: &[],
    },
    Command {
        name: "deluser",
        arity: -3,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "6.0.0",
        complexity: "O(N), N being the number of connections",
        summary: "Deletes users and closes their connections.",
        syntax: "username...",
        run: delete_users,
        subcommands: &[],
    },
    Command {
        name: "cat",
        arity: -2,
        flags: NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "slow",
        group: "server",
        since: "6.0.0",
        complexity: "O(N), N being the number of commands",
        summary: "Lists the categories of commands, or the commands of a category.",
        syntax: "[categoryname]",
        run: category,
        subcommands: &[],
    },
    Command {
        name: "genpass",
        arity: -2,
        flags: NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "slow",
        group: "server",
        since: "6.0.0",
        complexity: "O(1)",
        summary: "Makes up a password of so many bits, 256 by default, in hexadecimal digits.",
        syntax: "[bits:integer]",
        run: make_password,
        subcommands: &[],
    },
    Command {
        name: "dryrun",
        arity: -4,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "7.0.0",
        complexity: "O(1)",
        summary: "Says whether a user may call a command, without calling it.",
        syntax: "username command [arg...]",
        run: dry_run,
        subcommands: &[],
    },
    Command {
        name: "log",
        arity: -2,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "6.0.0",
        complexity: "O(N), N being the number of entries shown",
        summary: "Shows what was refused last, or forgets it.",
        syntax: "[operation(count:integer | RESET)]",
        run: log,
        subcommands: &[],
    },
    Command {
        name: "load",
        arity: 2,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "6.0.0",
        complexity: "O(N), N being the number of users",
        summary: "Replaces all users by those of the file of users, or none.",
        syntax: "",
        run: load,
        subcommands: &[],
    },
    Command {
        name: "save",
        arity: 2,
        flags: ADMIN | NOSCRIPT | LOADING | STALE,
        keys: NO_KEYS,
        categories: "admin dangerous slow",
        group: "server",
        since: "6.0.0",
        complexity: "O(N), N being the number of users",
        summary: "Writes the users to the file of users.",
        syntax: "",
        run: save,
        subcommands: &[],
    },
    Command {
        name: "help",
        arity: 2,
        flags: LOADING | STALE,
        keys: NO_KEYS,
        categories: "slow",
        group: "server",
        since: "6.0.0",
        complexity: "O(1)",
        summary: "Lists the subcommands.",
        syntax: "",
        run: help,
        subcommands: &[],
    },
];

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(SHOWN_BYTES_MAX)]).into_owned()
}

fn who_am_i(call: &mut Call<'_, '_>) -> Result<()> {
    call.reply.bulk(&call.session.user.name);
    Ok(())
}

fn users(call: &mut Call<'_, '_>) -> Result<()> {
    let users = call.shared.users.all();
    call.reply.array(users.len());
    users.iter().for_each(|user| call.reply.bulk(&user.name));
    Ok(())
}

fn list(call: &mut Call<'_, '_>) -> Result<()> {
    let users = call.shared.users.all();
    call.reply.array(users.len());
    users.iter().for_each(|user| call.reply.bulk(&acl_rules::describe(user)));
    Ok(())
}

fn get_user(call: &mut Call<'_, '_>) -> Result<()> {
    let Some(user) = call.shared.users.get(call.argument(2)) else {
        call.reply.null();
        return Ok(());
    };
    call.reply.map(6);
    call.reply.bulk(b"flags");
    let flags = acl_rules::flags(&user);
    call.reply.set(flags.len());
    flags.iter().for_each(|flag| call.reply.bulk(flag.as_bytes()));
    call.reply.bulk(b"passwords");
    call.reply.array(user.passwords.len());
    for digest in &user.passwords {
        call.reply.bulk(acl_rules::hexadecimal(digest).as_bytes());
    }
    reply_selector(call, &user.root);
    call.reply.bulk(b"selectors");
    call.reply.array(user.selectors.len());
    for selector in &user.selectors {
        call.reply.map(3);
        reply_selector(call, selector);
    }
    Ok(())
}

fn reply_selector(call: &mut Call<'_, '_>, selector: &Selector) {
    for (name, rules) in [
        ("commands", acl_rules::describe_commands(selector)),
        ("keys", acl_rules::describe_keys(selector).join(&b' ')),
        ("channels", acl_rules::describe_channels(selector).join(&b' ')),
    ] {
        call.reply.bulk(name.as_bytes());
        call.reply.bulk(&rules);
    }
}

/// Held by who changes users.
fn only_one<'a>(call: &Call<'a, '_>) -> MutexGuard<'a, ()> {
    call.shared.config_changes.lock().unwrap_or_else(PoisonError::into_inner)
}

fn set_user(call: &mut Call<'_, '_>) -> Result<()> {
    let name = call.argument(2);
    if has_spaces(name) {
        return Err(Failure::from("ERR Usernames can't contain spaces or null characters"));
    }
    let rules = acl_rules::merge(call.arguments.from(3)).map_err(|index| {
        let at = String::from_utf8_lossy(call.argument(3 + index));
        Failure::text(format!("ERR Unmatched parenthesis in acl selector starting at '{at}'."))
    })?;
    let refused = |rule: &[u8], error: RuleError| {
        let rule = String::from_utf8_lossy(&rule[..rule.len().min(PATTERN_BYTES_MAX)]);
        Failure::text(format!("ERR Error in ACL SETUSER modifier '{rule}': {}", error.text()))
    };
    if rules.len() > RULES_MAX {
        return Err(refused(b"...", RuleError::TooMuch));
    }
    let _only_one = only_one(call);
    let users = &call.shared.users;
    let known = users.get(name);
    if known.is_none() && users.all().len() >= USERS_MAX {
        return Err(Failure::text(format!(
            "ERR there are at most {USERS_MAX} users: delete one with ACL DELUSER"
        )));
    }
    let mut user = known.map_or_else(|| User::new(name), |user| User::clone(&user));
    for rule in &rules {
        acl_rules::apply(&mut user, rule).map_err(|error| refused(rule, error))?;
    }
    let user = Arc::new(user);
    call.shared.change_users(|accounts| accounts.insert(name.to_vec(), Arc::clone(&user)));
    end_listeners_of(call, &[user]);
    call.session.refresh(call.shared);
    call.reply.ok();
    Ok(())
}

fn delete_users(call: &mut Call<'_, '_>) -> Result<()> {
    if call.arguments.from(2).any(|name| name == DEFAULT) {
        return Err(Failure::from("ERR The 'default' user cannot be removed"));
    }
    let _only_one = only_one(call);
    let names = call.arguments.from(2);
    let deleted: Vec<Arc<User>> =
        call.shared.change_users(|accounts| names.filter_map(|name| accounts.remove(name)).collect());
    end_clients_of(call, &deleted);
    call.reply.count(deleted.len() as u64);
    Ok(())
}

/// Closes the connections of users that are no more; the caller's once it has its reply.
fn end_clients_of(call: &mut Call<'_, '_>, deleted: &[Arc<User>]) {
    if deleted.is_empty() {
        return;
    }
    let names: HashSet<&[u8]> = deleted.iter().map(|user| user.name.as_slice()).collect();
    for client in call.shared.clients.all() {
        if client.id != call.session.id && names.contains(client.user().as_slice()) {
            call.shared.kill(&client);
        }
    }
    call.session.refresh(call.shared);
}

/// Closes the connections of users who are subscribed to what they may not be subscribed to any more; the caller's once it has its reply.
fn end_listeners_of(call: &mut Call<'_, '_>, users: &[Arc<User>]) {
    let restricted: HashMap<&[u8], &User> = users
        .iter()
        .filter(|user| !user.all_selectors().any(|selector| selector.has_all_channels))
        .map(|user| (user.name.as_slice(), &**user))
        .collect();
    if restricted.is_empty() {
        return;
    }
    // One for all: whatever the names that some made up take, usual ones are found within what is free.
    let mut budget = Budget::default();
    for client in call.shared.clients.all().iter().filter(|client| client.is_subscribed()) {
        let Some(user) = restricted.get(client.user().as_slice()) else { continue };
        let [channels, patterns, shards] = call.shared.channels.of(client);
        let names = channels.iter().chain(&shards).map(|name| (name, false));
        let is_lost =
            names.chain(patterns.iter().map(|pattern| (pattern, true))).any(|(name, is_pattern)| {
                !user.all_selectors().any(|selector| selector.allows_channel(name, is_pattern, &mut budget))
            });
        if is_lost && client.id == call.session.id {
            call.session.closes = true;
        } else if is_lost {
            call.shared.kill(client);
        }
    }
}

fn category(call: &mut Call<'_, '_>) -> Result<()> {
    match call.arguments.len() {
        2 => {
            call.reply.array(CATEGORIES.len());
            CATEGORIES.iter().for_each(|category| call.reply.bulk(category.as_bytes()));
            Ok(())
        }
        3 => {
            let name = shown(call.argument(2));
            let wanted = name.to_ascii_lowercase();
            if !CATEGORIES.contains(&wanted.as_str()) {
                return Err(Failure::text(format!("ERR Unknown category '{name}'")));
            }
            reply_names_in_category(call, wanted)
        }
        _ => Err(wrong_subcommand(call)),
    }
}

fn make_password(call: &mut Call<'_, '_>) -> Result<()> {
    let bits = match call.arguments.len() {
        2 => PASSWORD_BITS,
        3 => call.integer(2)?,
        _ => return Err(wrong_subcommand(call)),
    };
    if !(1..=PASSWORD_BITS_MAX).contains(&bits) {
        return Err(Failure::text(format!(
            "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to {PASSWORD_BITS_MAX}"
        )));
    }
    let mut bytes = [0_u8; PASSWORD_BITS_MAX as usize / 8];
    let mut filled = 0;
    while filled < bytes.len() {
        let drawn = rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty());
        filled +=
            drawn.map_err(|error| Failure::text(format!("ERR the system has no randomness: {error}")))?;
    }
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    call.reply.bulk(&digits.as_bytes()[..bits.unsigned_abs().div_ceil(4) as usize]);
    Ok(())
}

fn dry_run(call: &mut Call<'_, '_>) -> Result<()> {
    let name = call.argument(2);
    let Some(user) = call.shared.users.get(name) else {
        return Err(Failure::text(format!("ERR User '{}' not found", shown(name))));
    };
    let arguments = call.arguments.skip(3);
    let is_known = table::find(arguments.at(0)).is_some_and(|command| {
        command.subcommands.is_empty()
            || arguments.len() == 1
            || command.subcommand(arguments.at(1)).is_some()
    });
    if !is_known {
        return Err(Failure::text(format!("ERR Command '{}' not found", shown(arguments.at(0)))));
    }
    let command = find(arguments)?;
    let refusal = match rights::check(&user, command, arguments) {
        Ok(()) => {
            call.reply.ok();
            return Ok(());
        }
        Err(Denied::Command) => {
            format!("This user has no permissions to run the '{}' command", command.full_name)
        }
        Err(Denied::Key(index)) => denied_text(arguments.at(index), "key"),
        Err(Denied::Channel(index)) => denied_text(arguments.at(index), "channel"),
    };
    call.reply.bulk(refusal.as_bytes());
    Ok(())
}

fn denied_text(name: &[u8], kind: &str) -> String {
    format!("This user has no permissions to access the '{}' {kind}", String::from_utf8_lossy(name))
}

fn log(call: &mut Call<'_, '_>) -> Result<()> {
    let count = match call.arguments.len() {
        2 => SHOWN_ENTRIES,
        3 if call.is(2, "RESET") => {
            call.shared.refusals.clear();
            call.reply.ok();
            return Ok(());
        }
        3 => call.integer(2)?,
        _ => return Err(wrong_subcommand(call)),
    };
    let now_ms = call.shared.store.now_ms();
    let entries = call.shared.refusals.latest(usize::try_from(count).unwrap_or(0));
    call.reply.array(entries.len());
    for entry in entries {
        let reason = match entry.reason {
            Reason::Command => "command",
            Reason::Key => "key",
            Reason::Channel => "channel",
            Reason::Auth => "auth",
        };
        let reply = &mut call.reply;
        reply.map(7);
        reply.bulk(b"count");
        reply.count(entry.count);
        reply.bulk(b"reason");
        reply.bulk(reason.as_bytes());
        reply.bulk(b"context");
        reply.bulk(if entry.is_in_transaction { b"multi" } else { b"toplevel" });
        reply.bulk(b"object");
        reply.bulk(&entry.object);
        reply.bulk(b"username");
        reply.bulk(&entry.user);
        reply.bulk(b"age-seconds");
        reply.double(now_ms.saturating_sub(entry.at_ms) as f64 / 1000.0);
        reply.bulk(b"client-info");
        reply.bulk(entry.client.as_bytes());
    }
    Ok(())
}

/// The path of the file of users.
fn file(call: &Call<'_, '_>) -> Result<PathBuf> {
    let config = call.shared.config.read().unwrap_or_else(PoisonError::into_inner);
    let path = config.acl_file.clone();
    Ok(path.ok_or(
        "ERR This Redis instance is not configured to use an ACL file. Name one with --acl-file (acl-file in the file of --config) and start \
         the server again: users are kept nowhere else.",
    )?)
}

fn load(call: &mut Call<'_, '_>) -> Result<()> {
    let _only_one = only_one(call);
    let new = acl_file::load(&file(call)?, call.shared.users.default_user())
        .map_err(|error| Failure::text(format!("ERR {error}")))?;
    let deleted: Vec<Arc<User>> = call.shared.change_users(|accounts| {
        let old = std::mem::replace(accounts, new);
        old.into_values().filter(|user| !accounts.contains_key(&user.name)).collect()
    });
    end_clients_of(call, &deleted);
    end_listeners_of(call, &call.shared.users.all());
    call.session.refresh(call.shared);
    call.reply.ok();
    Ok(())
}

fn save(call: &mut Call<'_, '_>) -> Result<()> {
    let _only_one = only_one(call);
    let path = file(call)?;
    acl_file::save(&path, &call.shared.users.all()).map_err(|error| {
        Failure::text(format!(
            "ERR There was an error trying to save the ACLs to {}: {error}",
            path.display()
        ))
    })?;
    call.reply.ok();
    Ok(())
}

#[cfg(test)]
#[path = "acl_tests.rs"]
mod tests;
