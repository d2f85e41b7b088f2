//! The language of rules about users: read, and written down in Redis's normal form.
//!
//! ```text
//! on off                      comes in, or does not            >password <password       knows a password, or forgets it
//! nopass resetpass            with any, with none              #digest !digest           the same by its SHA-256
//! +get -get +config|get       a command, a subcommand          ~pattern %R~a %W~a %RW~a  keys, to read, to write, both
//! +@read -@read               the commands of a category       allkeys resetkeys         ~*, none
//! +select|0                   only with this first argument    &pattern                  channels
//! allcommands nocommands      +@all, -@all                     allchannels resetchannels
//! (+get ~a)                   rights that hold together        clearselectors            none of these
//! skip-sanitize-payload sanitize-payload                       reset                     as it was made
//! ```
//! Rules are applied in order; the normal form says which rules lead to the same rights, beginning with nobody's or everybody's. Everything
//! here is a function of its arguments and of the names of commands: a fuzz target drives it.
//!
//! The normal form is that of Redis 7.0, which finds categories that fit and then names what is left, and so depends on all commands that there
//! are. Only the order of the single commands differs: it is that of the numbers here, and random there.

use crate::redis::request::split_words;
use crate::redis::rights;
use crate::users::{Commands, Digest, KeyPattern, READ, Selector, USER_BYTES_MAX, User, WRITE, digest_of};

/// Most rules at once.
pub const RULES_MAX: usize = 4096;
/// Longest pattern, and longest first argument.
pub const PATTERN_BYTES_MAX: usize = 4096;

/// Why a rule is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleError {
    /// It is none.
    Syntax,
    /// Its command or category is not known.
    Unknown,
    /// A pattern of keys where all are allowed.
    AllKeys,
    /// A pattern of channels where all are allowed.
    AllChannels,
    /// A password to be forgotten that is not known.
    NoPassword,
    /// No SHA-256.
    NoDigest,
    /// A first argument of a subcommand.
    FirstArgumentOfSubcommand,
    /// More rules, or longer ones, than a user may have.
    TooMuch,
}

impl RuleError {
    /// What is said of it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Syntax => "Syntax error",
            Self::Unknown => "Unknown command or category name in ACL",
            Self::AllKeys => {
                "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. Try 'resetkeys' to \
                 start with an empty list of patterns"
            }
            Self::AllChannels => {
                "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any effect. Try \
                 'resetchannels' to start with an empty list of channels"
            }
            Self::NoPassword => "The password you are trying to remove from the user does not exist",
            Self::NoDigest => {
                "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters"
            }
            Self::FirstArgumentOfSubcommand => "Allowing first-arg of a subcommand is not supported",
            Self::TooMuch => {
                "a user takes 4096 rules at once, patterns of 4096 bytes, and 64 KiB in all: use fewer or shorter rules"
            }
        }
    }
}

type Result<T> = std::result::Result<T, RuleError>;

/// Whether a name could not be told from what follows it in a line: it has white space or a zero in it.
pub fn has_spaces(text: &[u8]) -> bool {
    text.iter().any(|byte| matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r' | 0))
}

/// Joins what belongs to one selector, blanks in parentheses having made several words of it.
///
/// # Errors
/// Which word opens a parenthesis that nothing closes.
pub fn merge<'a>(words: impl Iterator<Item = &'a [u8]>) -> std::result::Result<Vec<Vec<u8>>, usize> {
    let mut merged = Vec::new();
    let mut open: Option<(usize, Vec<u8>)> = None;
    for (index, word) in words.enumerate() {
        if word.first() == Some(&b'(') && word.last() != Some(&b')') {
            open = Some((index, word.to_vec()));
        } else if let Some((_, selector)) = &mut open {
            selector.push(b' ');
            selector.extend_from_slice(word);
            if word.last() == Some(&b')') {
                merged.extend(open.take().map(|(_, selector)| selector));
            }
        } else {
            merged.push(word.to_vec());
        }
    }
    match open {
        None => Ok(merged),
        Some((index, _)) => Err(index),
    }
}

/// Applies a rule to a user.
///
/// # Errors
/// Why it is none; the user may have been changed in part where it is too much.
pub fn apply(user: &mut User, rule: &[u8]) -> Result<()> {
    if rule.len() > USER_BYTES_MAX {
        return Err(RuleError::TooMuch);
    }
    let is = |word: &str| rule.eq_ignore_ascii_case(word.as_bytes());
    match rule {
        [] => {}
        _ if is("on") => user.is_on = true,
        _ if is("off") => user.is_on = false,
        _ if is("skip-sanitize-payload") => user.sanitizes_payload = Some(false),
        _ if is("sanitize-payload") => user.sanitizes_payload = Some(true),
        _ if is("nopass") => {
            user.needs_no_password = true;
            user.passwords.clear();
        }
        _ if is("resetpass") => {
            user.needs_no_password = false;
            user.passwords.clear();
        }
        [mark @ (b'>' | b'#'), password @ ..] => {
            let digest = if *mark == b'>' { digest_of(password) } else { parse_digest(password)? };
            if !user.passwords.contains(&digest) {
                user.passwords.push(digest);
            }
            user.needs_no_password = false;
        }
        [mark @ (b'<' | b'!'), password @ ..] => {
            let digest = if *mark == b'<' { digest_of(password) } else { parse_digest(password)? };
            let at = user.passwords.iter().position(|known| *known == digest);
            user.passwords.remove(at.ok_or(RuleError::NoPassword)?);
        }
        [b'(', rules @ .., b')'] => user.selectors.push(parse_selector(rules)?),
        _ if is("clearselectors") => user.selectors.clear(),
        _ if is("reset") => {
            *user = User { sanitizes_payload: Some(true), ..User::new(&user.name) };
        }
        _ => apply_to_selector(&mut user.root, rule)?,
    }
    if user.bytes() > USER_BYTES_MAX { Err(RuleError::TooMuch) } else { Ok(()) }
}

/// Only lower case: the same digest has one form.
fn parse_digest(text: &[u8]) -> Result<Digest> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(RuleError::NoDigest),
    };
    let mut digest = Digest::default();
    if text.len() != 2 * digest.len() {
        return Err(RuleError::NoDigest);
    }
    for (byte, pair) in digest.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(digest)
}

/// What is no list of words, its quotes not closing, has no rules, as in Redis.
fn parse_selector(rules: &[u8]) -> Result<Selector> {
    let mut selector = Selector::NONE;
    let rules = split_words(rules).unwrap_or_default();
    if rules.len() > RULES_MAX {
        return Err(RuleError::TooMuch);
    }
    for rule in rules {
        // What was quoted is written without quotes: what needs them would not be read back, or not as the same.
        if rule.iter().any(|byte| matches!(byte, b'"' | b'\'')) || rule.last() == Some(&b')') {
            return Err(RuleError::Syntax);
        }
        apply_to_selector(&mut selector, &rule)?;
    }
    Ok(selector)
}

fn apply_to_selector(selector: &mut Selector, rule: &[u8]) -> Result<()> {
    let is = |word: &str| rule.eq_ignore_ascii_case(word.as_bytes());
    match rule {
        _ if is("allkeys") || is("~*") => {
            selector.has_all_keys = true;
            selector.keys.clear();
        }
        _ if is("resetkeys") => {
            selector.has_all_keys = false;
            selector.keys.clear();
        }
        _ if is("allchannels") || is("&*") => {
            selector.has_all_channels = true;
            selector.channels.clear();
        }
        _ if is("resetchannels") => {
            selector.has_all_channels = false;
            selector.channels.clear();
        }
        _ if is("allcommands") || is("+@all") => {
            selector.commands = Commands::ALL;
            selector.first_arguments.clear();
        }
        _ if is("nocommands") || is("-@all") => {
            selector.commands = Commands::NONE;
            selector.first_arguments.clear();
        }
        [b'~', pattern @ ..] => add_keys(selector, READ | WRITE, pattern)?,
        [b'%', rest @ ..] => {
            if selector.has_all_keys {
                return Err(RuleError::AllKeys);
            }
            let (access, pattern) = parse_access(rest)?;
            add_keys(selector, access, pattern)?;
        }
        [b'&', pattern @ ..] => {
            if selector.has_all_channels {
                return Err(RuleError::AllChannels);
            }
            check_pattern(pattern)?;
            if !selector.channels.iter().any(|known| known == pattern) {
                selector.channels.push(pattern.to_vec());
            }
        }
        [sign @ (b'+' | b'-'), b'@', name @ ..] => {
            let commands = rights::category(name).ok_or(RuleError::Unknown)?;
            change_category(selector, commands, *sign == b'+');
        }
        [b'-', name @ ..] => change_command(selector, rights::find(name).ok_or(RuleError::Unknown)?, false),
        [b'+', name @ ..] => allow(selector, name)?,
        _ => return Err(RuleError::Syntax),
    }
    Ok(())
}

fn check_pattern(pattern: &[u8]) -> Result<()> {
    if has_spaces(pattern) {
        return Err(RuleError::Syntax);
    }
    if pattern.len() > PATTERN_BYTES_MAX { Err(RuleError::TooMuch) } else { Ok(()) }
}

/// The letters before a pattern. No letter at all would be a right to nothing, which Redis takes, and ends when it is to describe it.
fn parse_access(rest: &[u8]) -> Result<(u8, &[u8])> {
    let mut access = 0;
    for (index, byte) in rest.iter().enumerate() {
        let bit = match byte {
            b'~' if access != 0 => return Ok((access, &rest[index + 1..])),
            b'r' | b'R' => READ,
            b'w' | b'W' => WRITE,
            _ => return Err(RuleError::Syntax),
        };
        if access & bit != 0 {
            return Err(RuleError::Syntax);
        }
        access |= bit;
    }
    if access == 0 { Err(RuleError::Syntax) } else { Ok((access, &[])) }
}

fn add_keys(selector: &mut Selector, access: u8, pattern: &[u8]) -> Result<()> {
    if selector.has_all_keys {
        return Err(RuleError::AllKeys);
    }
    check_pattern(pattern)?;
    match selector.keys.iter_mut().find(|known| known.pattern == pattern) {
        Some(known) => known.access |= access,
        None => selector.keys.push(KeyPattern { pattern: pattern.to_vec(), access }),
    }
    Ok(())
}

/// A container stands for its subcommands as well.
fn set_command(commands: &mut Commands, number: usize, is_allowed: bool) {
    commands.set(number, is_allowed);
    rights::all()[number].subcommands.iter().for_each(|number| commands.set(*number, is_allowed));
}

fn change_command(selector: &mut Selector, number: usize, is_allowed: bool) {
    set_command(&mut selector.commands, number, is_allowed);
    selector.first_arguments.remove(&number);
}

fn set_category(commands: &mut Commands, category: &Commands, are_allowed: bool) {
    for number in (0..rights::all().len()).filter(|number| category.has(*number)) {
        set_command(commands, number, are_allowed);
    }
}

fn change_category(selector: &mut Selector, category: &Commands, are_allowed: bool) {
    set_category(&mut selector.commands, category, are_allowed);
    selector.first_arguments.retain(|number, _| !category.has(*number));
}

/// Allows a command, a subcommand, or a command with a first argument.
fn allow(selector: &mut Selector, name: &[u8]) -> Result<()> {
    let Some(bar) = name.iter().rposition(|byte| *byte == b'|') else {
        change_command(selector, rights::find(name).ok_or(RuleError::Unknown)?, true);
        return Ok(());
    };
    let (command, argument) = (&name[..bar], &name[bar + 1..]);
    let number = rights::find(command).ok_or(RuleError::Unknown)?;
    let right = &rights::all()[number];
    if right.has_container {
        return Err(RuleError::FirstArgumentOfSubcommand);
    }
    if argument.is_empty() {
        return Err(RuleError::Syntax);
    }
    if !right.subcommands.is_empty() {
        change_command(selector, rights::find(name).ok_or(RuleError::Unknown)?, true);
        return Ok(());
    }
    check_pattern(argument)?;
    if selector.commands.has(number) {
        return Ok(());
    }
    let arguments = selector.first_arguments.entry(number).or_default();
    if !arguments.iter().any(|known| known.eq_ignore_ascii_case(argument)) {
        arguments.push(argument.to_vec());
    }
    Ok(())
}

/// A user in one line, as files and ACL LIST have it.
pub fn describe(user: &User) -> Vec<u8> {
    let mut words = vec![b"user".to_vec(), user.name.clone()];
    words.extend(flags(user).into_iter().map(|flag| flag.as_bytes().to_vec()));
    words.extend(user.passwords.iter().map(|digest| format!("#{}", hexadecimal(digest)).into_bytes()));
    words.extend(describe_selector(&user.root));
    for selector in &user.selectors {
        words.push([b"(", describe_selector(selector).join(&b' ').as_slice(), b")"].concat());
    }
    words.join(&b' ')
}

/// What is on and off.
pub fn flags(user: &User) -> Vec<&'static str> {
    let mut flags = vec![if user.is_on { "on" } else { "off" }];
    if user.needs_no_password {
        flags.push("nopass");
    }
    match user.sanitizes_payload {
        Some(true) => flags.push("sanitize-payload"),
        Some(false) => flags.push("skip-sanitize-payload"),
        None => {}
    }
    flags
}

/// A digest, as rules have it.
pub fn hexadecimal(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn describe_selector(selector: &Selector) -> Vec<Vec<u8>> {
    let mut words = describe_keys(selector);
    if !selector.has_all_channels {
        words.push(b"resetchannels".to_vec());
    }
    words.extend(describe_channels(selector));
    words.push(describe_commands(selector));
    words
}

/// The rules for its keys.
pub fn describe_keys(selector: &Selector) -> Vec<Vec<u8>> {
    if selector.has_all_keys {
        return vec![b"~*".to_vec()];
    }
    let described = selector.keys.iter().map(|keys| {
        let mark: &[u8] = match keys.access {
            READ => b"%R~",
            WRITE => b"%W~",
            // Redis writes `~*`, behind which it takes no other pattern when it reads it.
            _ if keys.pattern == b"*" => b"%RW~",
            _ => b"~",
        };
        [mark, &keys.pattern].concat()
    });
    described.collect()
}

/// The rules for its channels, but for that which takes all of them away first.
pub fn describe_channels(selector: &Selector) -> Vec<Vec<u8>> {
    if selector.has_all_channels {
        return vec![b"&*".to_vec()];
    }
    selector.channels.iter().map(|channel| [b"&", channel.as_slice()].concat()).collect()
}

/// The rules for its commands: all or none, then categories as long as one fits better than it does not, then what is still to be said.
pub fn describe_commands(selector: &Selector) -> Vec<u8> {
    let adds = !selector.commands.has_future();
    let (mut described, sign) = if adds { (Commands::NONE, '+') } else { (Commands::ALL, '-') };
    let mut text = if adds { b"-@all".to_vec() } else { b"+@all".to_vec() };
    let mut left = selector.commands;
    let mut applied = Vec::new();
    while let Some((name, commands)) = best_category(&left, adds, &applied) {
        text.extend_from_slice(format!(" {sign}@{name}").as_bytes());
        set_category(&mut described, commands, adds);
        set_category(&mut left, commands, !adds);
        applied.push(name);
    }
    for (number, right) in rights::all().iter().enumerate().filter(|(_, right)| !right.has_container) {
        describe_command(selector, number, &mut described, &mut text);
        for number in &right.subcommands {
            describe_command(selector, *number, &mut described, &mut text);
        }
    }
    text
}

fn describe_command(selector: &Selector, number: usize, described: &mut Commands, text: &mut Vec<u8>) {
    let name = &rights::all()[number].name;
    let is_allowed = selector.commands.has(number);
    if is_allowed != described.has(number) {
        text.extend_from_slice(format!(" {}{name}", if is_allowed { '+' } else { '-' }).as_bytes());
        set_command(described, number, is_allowed);
    }
    for argument in selector.first_arguments.get(&number).into_iter().flatten() {
        text.extend_from_slice(format!(" +{name}|").as_bytes());
        text.extend_from_slice(argument);
    }
}

/// The category that says most of what is left to be said, and says least that is not so.
fn best_category(left: &Commands, adds: bool, applied: &[&str]) -> Option<(&'static str, &'static Commands)> {
    let mut best = None;
    let (mut wrong_least, mut right_most) = (u32::MAX, 0);
    for (name, commands) in rights::categories().filter(|(name, _)| !applied.contains(name)) {
        let (on, off) = left.count(commands);
        let (right, wrong) = if adds { (on, off) } else { (off, on) };
        if right > wrong && (wrong < wrong_least || (wrong == wrong_least && right > right_most)) {
            best = Some((name, commands));
            (wrong_least, right_most) = (wrong, right);
        }
    }
    best
}

#[cfg(test)]
#[path = "acl_rules_tests.rs"]
mod tests;
