//! Users: who may come in, and what they may do then.
//!
//! A [`User`] never changes: whoever changes one puts another in its place, and who holds the old one sees it whole. [`Users`] counts its changes,
//! so that a client's session finds with one load that the user it holds may be another one now. What may be done is told by numbers of commands;
//! which number is which command is known above, where the table is.
//!
//! How a client notices that its rights have changed:
//!
//! - A session whose user may not do everything compares the count of changes before each command.
//! - One of the user `default` who may do everything, which is every session of a server without users, looks at nothing. A bit of
//!   [`crate::attention`], whose word is read before each command anyway, says that `default` may not do everything any more; from then on
//!   all sessions compare the count. The bit is set before the change is answered, so that a command sent after the answer is checked.
//!
//! Rejected: ringing all loops and having each walk over its sessions. A command could be run between the answer and the ring.
//!
//! Passwords are kept as SHA-256, as Redis keeps them: files of users are the same. A digest is compared whole, in a time that tells nothing.

use crate::glob::Budget;
use ring::digest::{SHA256, digest};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

/// Most users.
pub const USERS_MAX: usize = 4096;
/// Most bytes that a user's name and rules take, as [`User::bytes`] counts them.
pub const USER_BYTES_MAX: usize = 64 << 10;
/// What a rule counts beside its bytes.
const RULE_BYTES: usize = 32;
/// What a selector counts beside its rules.
const SELECTOR_BYTES: usize = 256;

/// Who everybody is that has not said anything else.
pub const DEFAULT: &[u8] = b"default";

const WORDS: usize = 16;
/// Most commands, and the number that stands for those that do not exist yet.
pub const COMMANDS_MAX: usize = WORDS * 64 - 1;

/// A set of commands, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commands([u64; WORDS]);

impl Commands {
    /// None.
    pub const NONE: Self = Self([0; WORDS]);
    /// All, those included that do not exist yet.
    pub const ALL: Self = Self([u64::MAX; WORDS]);

    /// Whether one is among them.
    #[inline]
    pub fn has(&self, number: usize) -> bool {
        self.0[number / 64] >> (number % 64) & 1 != 0
    }

    /// Whether those are among them that do not exist yet.
    pub fn has_future(&self) -> bool {
        self.has(COMMANDS_MAX)
    }

    /// Puts one in, or takes it out.
    pub fn set(&mut self, number: usize, is_in: bool) {
        let bit = 1 << (number % 64);
        let word = &mut self.0[number / 64];
        *word = if is_in { *word | bit } else { *word & !bit };
    }

    /// Puts others in, or takes them out.
    pub fn set_all(&mut self, others: &Self, are_in: bool) {
        for (word, other) in self.0.iter_mut().zip(others.0) {
            *word = if are_in { *word | other } else { *word & !other };
        }
    }

    /// How many of others are among them, and how many are not.
    pub fn count(&self, others: &Self) -> (u32, u32) {
        self.0.iter().zip(others.0).fold((0, 0), |(on, off), (word, other)| {
            (on + (word & other).count_ones(), off + (!word & other).count_ones())
        })
    }
}

/// May be read: a bit of [`KeyPattern::access`].
pub const READ: u8 = 1;
/// May be written.
pub const WRITE: u8 = 1 << 1;

/// Keys, and what may be done to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPattern {
    /// See [`crate::glob`].
    pub pattern: Vec<u8>,
    /// [`READ`], [`WRITE`] or both.
    pub access: u8,
}

/// Rights that hold together: these commands with these keys and channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// Commands that may be called.
    pub commands: Commands,
    /// Of commands that may not: first arguments with which they may be called all the same.
    pub first_arguments: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Any key.
    pub has_all_keys: bool,
    /// Else these.
    pub keys: Vec<KeyPattern>,
    /// Any channel.
    pub has_all_channels: bool,
    /// Else these, as patterns.
    pub channels: Vec<Vec<u8>>,
}

impl Selector {
    /// No right at all.
    pub const NONE: Self = Self {
        commands: Commands::NONE,
        first_arguments: BTreeMap::new(),
        has_all_keys: false,
        keys: Vec::new(),
        has_all_channels: false,
        channels: Vec::new(),
    };

    /// Whether nothing is kept back.
    pub fn is_everything(&self) -> bool {
        self.commands == Commands::ALL && self.has_all_keys && self.has_all_channels
    }

    /// Whether this may be done to a key: bits of access. A pattern that takes more than is left of the budget allows nothing.
    pub fn allows_key(&self, key: &[u8], access: u8, budget: &mut Budget) -> bool {
        self.has_all_keys
            || self.keys.iter().any(|allowed| {
                allowed.access & access == access && budget.matches(&allowed.pattern, key, false)
            })
    }

    /// Whether this may be done to every key there may be.
    pub fn allows_all_keys(&self, access: u8) -> bool {
        self.has_all_keys
            || self.keys.iter().any(|allowed| allowed.access & access == access && allowed.pattern == b"*")
    }

    /// Whether a channel may be used; whether a pattern may be subscribed to, which has to be allowed as it is. As with keys, within a budget.
    pub fn allows_channel(&self, channel: &[u8], is_pattern: bool, budget: &mut Budget) -> bool {
        let mut channels = self.channels.iter();
        self.has_all_channels
            || if is_pattern {
                channels.any(|allowed| allowed == channel)
            } else {
                channels.any(|allowed| budget.matches(allowed, channel, false))
            }
    }

    fn bytes(&self) -> usize {
        let of = |texts: &[Vec<u8>]| texts.iter().map(|text| text.len() + RULE_BYTES).sum::<usize>();
        let keys: usize = self.keys.iter().map(|key| key.pattern.len() + RULE_BYTES).sum();
        let arguments: usize = self.first_arguments.values().map(|arguments| of(arguments)).sum();
        SELECTOR_BYTES + keys + arguments + of(&self.channels)
    }
}

/// What is kept of a password.
pub type Digest = [u8; 32];

/// The digest of a password.
pub fn digest_of(password: &[u8]) -> Digest {
    let mut bytes = Digest::default();
    bytes.copy_from_slice(digest(&SHA256, password).as_ref());
    bytes
}

/// Compares in a time that does not depend on where the two differ.
fn is_same(left: &Digest, right: &Digest) -> bool {
    let difference = left.iter().zip(right).fold(0, |difference, (a, b)| difference | black_box(a ^ b));
    black_box(difference) == 0
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Any bytes but white space and zeros.
    pub name: Vec<u8>,
    /// Whether it may come in.
    pub is_on: bool,
    /// Comes in with any password.
    pub needs_no_password: bool,
    /// What Redis would do with payloads that this user restores, where that was said; they are checked always here.
    pub sanitizes_payload: Option<bool>,
    /// Else one of these is needed.
    pub passwords: Vec<Digest>,
    /// What it may do.
    pub root: Selector,
    /// What it may do beside that.
    pub selectors: Vec<Selector>,
}

static EVERYBODY: LazyLock<Arc<User>> = LazyLock::new(|| Arc::new(User::default_with(b"")));

impl User {
    /// Who may do nothing, and not come in either.
    pub fn new(name: &[u8]) -> Self {
        Self {
            name: name.to_vec(),
            is_on: false,
            needs_no_password: false,
            sanitizes_payload: None,
            passwords: Vec::new(),
            root: Selector::NONE,
            selectors: Vec::new(),
        }
    }

    /// The user `default` of a server that was told nothing else but a password; an empty one is none.
    pub fn default_with(password: &[u8]) -> Self {
        let everything = Selector {
            commands: Commands::ALL,
            has_all_keys: true,
            has_all_channels: true,
            ..Selector::NONE
        };
        let mut user = Self { is_on: true, root: everything, ..Self::new(DEFAULT) };
        user.set_password(password);
        user
    }

    /// The user `default` of a server that was told nothing else.
    pub fn everybody() -> Arc<Self> {
        Arc::clone(&EVERYBODY)
    }

    /// This password and no other one; an empty one: none is needed.
    pub fn set_password(&mut self, password: &[u8]) {
        self.needs_no_password = password.is_empty();
        self.passwords = if password.is_empty() { Vec::new() } else { vec![digest_of(password)] };
    }

    /// All selectors, the nameless first one included.
    pub fn all_selectors(&self) -> impl Iterator<Item = &Selector> {
        std::iter::once(&self.root).chain(&self.selectors)
    }

    /// Whether nothing is kept back from it.
    pub fn may_do_everything(&self) -> bool {
        self.all_selectors().any(Selector::is_everything)
    }

    /// Whether everybody is this user who does not say anything else.
    pub fn is_open(&self) -> bool {
        self.is_on && self.needs_no_password
    }

    /// Whether it comes in with this password. All are compared, so that the time does not tell which one it was.
    pub fn accepts(&self, password: &[u8]) -> bool {
        if !self.is_on || self.needs_no_password {
            return self.is_on;
        }
        let digest = digest_of(password);
        self.passwords.iter().fold(false, |is_right, known| is_right | is_same(known, &digest))
    }

    /// Whether this is one of its passwords.
    pub fn knows(&self, password: &[u8]) -> bool {
        self.passwords.contains(&digest_of(password))
    }

    /// What it takes, as the limit counts it.
    pub fn bytes(&self) -> usize {
        self.name.len()
            + self.passwords.len() * (size_of::<Digest>() + RULE_BYTES)
            + self.all_selectors().map(Selector::bytes).sum::<usize>()
    }
}

/// Users by their names.
pub type Accounts = BTreeMap<Vec<u8>, Arc<User>>;

/// All users of a server. There is always a `default` among them.
#[derive(Debug)]
pub struct Users {
    accounts: RwLock<Accounts>,
    /// Counts changes; on a line of its own, as it is read for each command of who may not do everything.
    version: Version,
}

#[derive(Debug)]
#[repr(align(128))]
struct Version(AtomicU64);

impl Users {
    /// The user `default` alone, with a password, or none where it is empty.
    pub fn new(password: &[u8]) -> Self {
        let default = User::default_with(password);
        let accounts = Accounts::from([(default.name.clone(), Arc::new(default))]);
        // From 1: a session that has looked at nothing yet has 0.
        Self { accounts: RwLock::new(accounts), version: Version(AtomicU64::new(1)) }
    }

    /// How often users were changed.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version.0.load(Ordering::Acquire)
    }

    /// A user.
    pub fn get(&self, name: &[u8]) -> Option<Arc<User>> {
        self.accounts.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// The user `default`.
    pub fn default_user(&self) -> Arc<User> {
        self.get(DEFAULT).unwrap_or_else(|| Arc::new(User::new(DEFAULT)))
    }

    /// All, in the order of their names.
    pub fn all(&self) -> Vec<Arc<User>> {
        self.accounts.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Who comes in with this name and password.
    pub fn authenticate(&self, name: &[u8], password: &[u8]) -> Option<Arc<User>> {
        self.get(name).filter(|user| user.accepts(password))
    }

    /// Changes users. Who may have to know of it is up to [`crate::shared::Shared::change_users`].
    pub fn change<R>(&self, change: impl FnOnce(&mut Accounts) -> R) -> R {
        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut accounts);
        // While the lock is held: who finds the new count finds the new users.
        self.version.0.fetch_add(1, Ordering::Release);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_known_by_their_digests() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let text: String = digest_of(b"abc").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, abc);
        let mut user = User::default_with(b"abc");
        assert!(user.accepts(b"abc") && !user.accepts(b"abd") && !user.accepts(b"") && !user.is_open());
        user.passwords.push(digest_of(b"other"));
        assert!(user.accepts(b"other") && user.accepts(b"abc"));
        user.is_on = false;
        assert!(!user.accepts(b"abc"));
        user.set_password(b"");
        assert!(!user.accepts(b"") && !user.is_open());
        user.is_on = true;
        assert!(user.accepts(b"anything") && user.is_open());
        for position in 0..32 {
            let mut other = digest_of(b"abc");
            other[position] ^= 1;
            assert!(!is_same(&other, &digest_of(b"abc")), "{position}");
        }
    }

    #[test]
    fn sets_of_commands_are_counted_and_changed() {
        let mut some = Commands::NONE;
        some.set(0, true);
        some.set(64, true);
        some.set(COMMANDS_MAX, true);
        assert!(some.has(64) && !some.has(65) && some.has_future());
        let mut others = Commands::NONE;
        others.set(64, true);
        others.set(65, true);
        assert_eq!(some.count(&others), (1, 1));
        some.set_all(&others, false);
        assert!(!some.has(64) && some.has(0));
        some.set_all(&Commands::ALL, true);
        assert_eq!(some, Commands::ALL);
    }

    #[test]
    fn keys_and_channels_are_allowed_by_patterns() {
        let mut selector = Selector::NONE;
        let allows_key = |selector: &Selector, key: &[u8], access| {
            selector.allows_key(key, access, &mut Budget::default())
        };
        let allows_channel = |selector: &Selector, name: &[u8], is_pattern| {
            selector.allows_channel(name, is_pattern, &mut Budget::default())
        };
        assert!(!allows_key(&selector, b"", 0) && !allows_channel(&selector, b"", false));
        selector.keys.push(KeyPattern { pattern: b"r*".to_vec(), access: READ });
        selector.keys.push(KeyPattern { pattern: b"*w".to_vec(), access: WRITE });
        selector.channels.push(b"c*".to_vec());
        assert!(allows_key(&selector, b"rw", READ) && allows_key(&selector, b"rw", WRITE));
        // Both have to be in the same pattern, as in Redis.
        assert!(!allows_key(&selector, b"rw", READ | WRITE));
        assert!(allows_key(&selector, b"r", 0) && !allows_key(&selector, b"x", 0));
        assert!(allows_channel(&selector, b"cx", false) && !allows_channel(&selector, b"cx", true));
        assert!(allows_channel(&selector, b"c*", true) && !allows_channel(&selector, b"d", false));
        assert!(!selector.allows_all_keys(READ));
        selector.keys.push(KeyPattern { pattern: b"*".to_vec(), access: READ });
        assert!(selector.allows_all_keys(READ) && !selector.allows_all_keys(WRITE));
    }

    #[test]
    fn changes_are_counted_and_others_keep_what_they_hold() {
        let users = Users::new(b"");
        let (before, version) = (users.default_user(), users.version());
        assert!(before.may_do_everything() && before.is_open() && before == User::everybody());
        users.change(|accounts| {
            accounts.insert(DEFAULT.to_vec(), Arc::new(User::new(DEFAULT)));
            accounts.insert(b"a".to_vec(), Arc::new(User::default_with(b"pw")));
        });
        assert!(users.version() > version && before.may_do_everything());
        assert!(!users.default_user().may_do_everything());
        assert_eq!(users.all().len(), 2);
        assert!(users.authenticate(b"a", b"pw").is_some() && users.authenticate(b"a", b"px").is_none());
        assert!(users.authenticate(b"b", b"pw").is_none());
    }
}
