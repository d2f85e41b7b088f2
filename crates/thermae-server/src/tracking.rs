//! Which clients may hold copies of which keys' values, and who is told when those change: client-side caching as Redis has it.
//!
//! A table leads from keys to the numbers of clients that have read them; a change takes the key out of it and tells those clients, each once
//! until it reads the key again. Clients in broadcasting mode are told of all keys with some prefixes instead, and need no place in the table.
//! As in Redis, keys count without their database. Numbers of clients that have gone stay until their key changes: no number is given twice.
//!
//! # No change is missed
//!
//! A reader notes the key first and reads the store afterwards. Who changes a key changes the store first and looks into the table afterwards. Both
//! take the lock of the key's part of the table, so one of them comes first there:
//!
//! - The look comes before the note: the change was made before the look, so the reader, whose read follows its note, sees it.
//! - The note comes before the look: the client is told. Its loop takes messages between turns, never within a command, so what it is told comes
//!   behind the reply that may be outdated.
//!
//! Lists of prefixes are behind a lock in the same way. A flush empties the table before it tells all clients, for the same reason.
//!
//! While nobody tracks, nobody looks: a command reads one word, [`Attention`], when it begins and again when it is done. The second look is
//! what counts: the change was made before it. But a processor may still let a load pass an earlier store, so that the change becomes
//! visible to others only after the load; and a fence in each command is what nobody should pay for clients that do not exist. So who turns
//! tracking on while nobody tracks sets the bit, and then has the kernel put a barrier into every thread of the process
//! ([`Attention::announce`]), before the client is answered, that is before it reads anything that counts. A thread that looked before its barrier,
//! and saw no bit, has made its change before the barrier, too: the client's reads see it. A thread that looks after its barrier
//! sees the bit. A command that saw it only the second time does not know what it has changed: then all clients are told to forget
//! everything, which happens once, if at all. Rejected: a fence in each command, and waiting until each loop has passed
//! through its wait: a loop that waits serves nobody, and two would wait for each other.
//!
//! # What clients can make the server keep
//!
//! Keys are limited in number by `tracking-table-max-keys`, and with their clients in bytes by [`TABLE_BYTES_MAX`]; beyond that, some key is taken
//! out and its clients are told, as if it had changed. A client's prefixes have limits of their own.
//!
//! All may be called by all threads. Messages are returned, not sent: that is up to the caller, who holds none of the locks then.

use crate::attention::{Attention, CHANGES};
use crate::clients::{Client, Clients, marks};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Parts of the table, each with a lock.
const PARTS: usize = 64;
/// Keys in the table, unless told otherwise.
const KEYS_MAX_DEFAULT: u64 = 1_000_000;
/// Bytes of the table.
pub const TABLE_BYTES_MAX: usize = 1 << 30;
/// What an entry takes beside the bytes of its key, about.
const ENTRY_BYTES: usize = 64;
/// Of a client's number.
const ITEM_BYTES: usize = size_of::<u64>();
/// Keys taken out at once because there are too many; each note adds one at most.
const EVICTED_PER_NOTE: usize = 100;
/// Prefixes of a client.
pub const PREFIXES_MAX: usize = 1024;
/// Bytes of a client's prefixes.
pub const PREFIX_BYTES_MAX: usize = 64 << 10;

/// Which reads of a client are noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// All.
    All,
    /// Those after CLIENT CACHING YES.
    OptIn,
    /// All but those after CLIENT CACHING NO.
    OptOut,
    /// None: it is told of all keys with its prefixes.
    None,
}

/// How a client tracks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Which of its reads are noted.
    pub noted: Noted,
    /// The client that is told instead of it; 0: itself.
    pub redirect: u64,
    /// Whether it is not told of its own changes.
    pub no_loop: bool,
    /// Those of a client in broadcasting mode.
    pub prefixes: BTreeSet<Vec<u8>>,
}

/// A client that tracks, as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The client that is told instead of it; 0: itself.
    pub redirect: u64,
    /// That one was gone when there was something to tell.
    pub is_broken: bool,
    /// It is told of all keys with its prefixes.
    pub is_broadcast: bool,
}

/// Messages, each to a client.
pub type Letters = Vec<(Arc<Client>, Vec<u8>)>;

/// A client that tracks.
#[derive(Debug)]
struct Tracker {
    client: Arc<Client>,
    options: Options,
    /// The client that was to be told instead of it was gone when there was something to tell.
    is_broken: AtomicBool,
}

#[derive(Debug, Default)]
struct Trackers {
    clients: HashMap<u64, Tracker>,
    /// With the numbers of their clients.
    prefixes: BTreeMap<Vec<u8>, BTreeSet<u64>>,
}

/// Keys with the sorted numbers of their clients. In order, so that some key is found fast when one has to go: the neighbour of the one that came.
type Part = BTreeMap<Box<[u8]>, Vec<u64>>;

/// What there is, for INFO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Clients that track.
    pub clients: usize,
    /// Keys in the table.
    pub keys: usize,
    /// Clients of keys in the table, each counted for each key.
    pub items: usize,
    /// Different prefixes.
    pub prefixes: usize,
}

/// Who may hold copies of what.
#[derive(Debug)]
pub struct Tracking {
    parts: [Mutex<Part>; PARTS],
    hasher: RandomState,
    keys: AtomicUsize,
    items: AtomicUsize,
    /// Bytes of the keys in the table.
    key_bytes: AtomicUsize,
    /// 0: no limit.
    keys_max: AtomicU64,
    trackers: RwLock<Trackers>,
}

impl Default for Tracking {
    fn default() -> Self {
        Self {
            parts: [const { Mutex::new(BTreeMap::new()) }; PARTS],
            hasher: RandomState::new(),
            keys: AtomicUsize::new(0),
            items: AtomicUsize::new(0),
            key_bytes: AtomicUsize::new(0),
            keys_max: AtomicU64::new(KEYS_MAX_DEFAULT),
            trackers: RwLock::default(),
        }
    }
}

impl Tracking {
    /// A client tracks from now on, or in another way.
    ///
    /// # Errors
    /// Where the system has no barrier for all threads.
    pub fn turn_on(&self, attention: &Attention, client: &Arc<Client>, options: Options) -> io::Result<()> {
        let mut trackers = self.trackers.write().unwrap_or_else(PoisonError::into_inner);
        if trackers.clients.is_empty() {
            // Under the lock: whoever finds others here knows that the barrier is behind it.
            attention.announce(CHANGES)?;
        }
        trackers.forget(client.id);
        for prefix in &options.prefixes {
            trackers.prefixes.entry(prefix.clone()).or_default().insert(client.id);
        }
        let tracker = Tracker { client: Arc::clone(client), options, is_broken: AtomicBool::new(false) };
        trackers.clients.insert(client.id, tracker);
        Ok(())
    }

    /// A client does not track any more. What it has read is forgotten with its keys, or with the last client.
    pub fn turn_off(&self, attention: &Attention, id: u64) {
        let mut trackers = self.trackers.write().unwrap_or_else(PoisonError::into_inner);
        let was_there = trackers.forget(id);
        if was_there && trackers.clients.is_empty() {
            attention.set(CHANGES, false);
            self.clear();
        }
    }

    /// How a client tracks.
    pub fn options(&self, id: u64) -> Option<Options> {
        let trackers = self.trackers.read().unwrap_or_else(PoisonError::into_inner);
        trackers.clients.get(&id).map(|tracker| tracker.options.clone())
    }

    /// How a client tracks, as others see it.
    pub fn seen(&self, id: u64) -> Option<Seen> {
        let trackers = self.trackers.read().unwrap_or_else(PoisonError::into_inner);
        trackers.clients.get(&id).map(|tracker| Seen {
            redirect: tracker.options.redirect,
            is_broken: tracker.is_broken.load(Ordering::Relaxed),
            is_broadcast: tracker.options.noted == Noted::None,
        })
    }

    /// What there is.
    pub fn totals(&self) -> Totals {
        let trackers = self.trackers.read().unwrap_or_else(PoisonError::into_inner);
        Totals {
            clients: trackers.clients.len(),
            keys: self.keys.load(Ordering::Relaxed),
            items: self.items.load(Ordering::Relaxed),
            prefixes: trackers.prefixes.len(),
        }
    }

    /// Most keys in the table; 0: no limit.
    pub fn keys_max(&self) -> u64 {
        self.keys_max.load(Ordering::Relaxed)
    }

    /// Changes the most keys in the table; clients are to be told of those that have to go.
    #[must_use]
    pub fn set_keys_max(&self, clients: &Clients, keys_max: u64) -> Letters {
        self.keys_max.store(keys_max, Ordering::Relaxed);
        self.make_room(clients, 0, b"", usize::MAX)
    }

    /// A client is about to read a key. Clients are to be told of keys that have to go for it.
    #[must_use]
    pub fn note(&self, clients: &Clients, key: &[u8], id: u64) -> Letters {
        let number = self.number_of_part(key);
        let mut part = self.part(number);
        if let Some(ids) = part.get_mut(key) {
            let Err(at) = ids.binary_search(&id) else { return Letters::new() };
            ids.insert(at, id);
        } else {
            part.insert(key.into(), vec![id]);
            self.keys.fetch_add(1, Ordering::Relaxed);
            self.key_bytes.fetch_add(key.len(), Ordering::Relaxed);
        }
        self.items.fetch_add(1, Ordering::Relaxed);
        drop(part);
        self.make_room(clients, number, key, EVICTED_PER_NOTE)
    }

    /// Keys have changed, by a client's command where one is named: who is to be told.
    #[must_use]
    pub fn changed<'k>(
        &self,
        clients: &Clients,
        keys: impl Iterator<Item = &'k [u8]>,
        by: Option<u64>,
    ) -> Letters {
        let mut taken = Vec::new();
        let trackers = self.trackers.read().unwrap_or_else(PoisonError::into_inner);
        let mut by_prefix: BTreeMap<&[u8], BTreeSet<&[u8]>> = BTreeMap::new();
        for key in keys {
            for prefix in trackers.prefixes_of(key) {
                by_prefix.entry(prefix).or_default().insert(key);
            }
            if let Some(ids) = self.take(&mut self.part(self.number_of_part(key)), key) {
                taken.push((key, ids));
            }
        }
        let mut post = Post { clients, letters: Vec::new(), places: HashMap::new() };
        for (key, ids) in &taken {
            trackers.tell_of(key, ids, by, &mut post);
        }
        for (prefix, keys) in by_prefix {
            let keys: Vec<&[u8]> = keys.into_iter().collect();
            for id in &trackers.prefixes[prefix] {
                let Some(tracker) = trackers.clients.get(id) else { continue };
                if !(tracker.options.no_loop && by == Some(*id)) {
                    post.invalidate(tracker, Some(&keys));
                }
            }
        }
        post.letters
    }

    /// Anything may have changed: all clients are to be told.
    #[must_use]
    pub fn flushed(&self, clients: &Clients) -> Letters {
        self.clear();
        let trackers = self.trackers.read().unwrap_or_else(PoisonError::into_inner);
        let mut post = Post { clients, letters: Vec::new(), places: HashMap::new() };
        trackers.clients.values().for_each(|tracker| post.invalidate(tracker, None));
        post.letters
    }

    fn number_of_part(&self, key: &[u8]) -> usize {
        self.hasher.hash_one(key) as usize % PARTS
    }

    fn part(&self, number: usize) -> MutexGuard<'_, Part> {
        self.parts[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, part: &mut Part, key: &[u8]) -> Option<Vec<u64>> {
        let ids = part.remove(key)?;
        self.uncount(1, ids.len(), key.len());
        Some(ids)
    }

    fn uncount(&self, keys: usize, items: usize, key_bytes: usize) {
        self.keys.fetch_sub(keys, Ordering::Relaxed);
        self.items.fetch_sub(items, Ordering::Relaxed);
        self.key_bytes.fetch_sub(key_bytes, Ordering::Relaxed);
    }

    fn clear(&self) {
        for number in 0..PARTS {
            let part = std::mem::take(&mut *self.part(number));
            let items = part.values().map(Vec::len).sum();
            self.uncount(part.len(), items, part.keys().map(|key| key.len()).sum());
        }
    }

    fn is_too_full(&self) -> bool {
        let keys = self.keys.load(Ordering::Relaxed);
        let item_bytes = self.items.load(Ordering::Relaxed) * ITEM_BYTES;
        let bytes = keys * ENTRY_BYTES + item_bytes + self.key_bytes.load(Ordering::Relaxed);
        let keys_max = self.keys_max();
        (keys_max != 0 && keys as u64 > keys_max) || bytes > TABLE_BYTES_MAX
    }

    /// Takes keys out while there are too many, the neighbours of this one first; so many at most.
    fn make_room(&self, clients: &Clients, number: usize, key: &[u8], evicted_max: usize) -> Letters {
        let mut evicted: Vec<(Box<[u8]>, Vec<u64>)> = Vec::new();
        let mut step = 0;
        while step < PARTS && evicted.len() < evicted_max && self.is_too_full() {
            let mut part = self.part((number + step) % PARTS);
            let behind = part.range::<[u8], _>((Bound::Excluded(key), Bound::Unbounded)).next();
            let victim = behind.or_else(|| part.first_key_value()).map(|(victim, _)| victim.clone());
            let victim = victim.filter(|victim| step != 0 || **victim != *key);
            match victim.and_then(|victim| Some((self.take(&mut part, &victim)?, victim))) {
                Some((ids, victim)) => evicted.push((victim, ids)),
                None => step += 1,
            }
        }
        if evicted.is_empty() {
            return Letters::new();
        }
        let trackers = self.trackers.read().unwrap_or_else(PoisonError::into_inner);
        let mut post = Post { clients, letters: Vec::new(), places: HashMap::new() };
        evicted.iter().for_each(|(key, ids)| trackers.tell_of(key, ids, None, &mut post));
        post.letters
    }
}

impl Trackers {
    /// Whether the client was there.
    fn forget(&mut self, id: u64) -> bool {
        let Some(tracker) = self.clients.remove(&id) else { return false };
        for prefix in &tracker.options.prefixes {
            if let Some(ids) = self.prefixes.get_mut(prefix) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.prefixes.remove(prefix);
                }
            }
        }
        true
    }

    /// The prefixes that a key has: in each step, the last one in order that is not behind what is left of the key. Where that is none of the
    /// key's, all of those are within what both have in common.
    fn prefixes_of<'t>(&'t self, key: &[u8]) -> Vec<&'t [u8]> {
        let mut found = Vec::new();
        let mut left = Some(key);
        while let Some(rest) = left {
            let up_to = (Bound::Unbounded, Bound::Included(rest));
            let Some((prefix, _)) = self.prefixes.range::<[u8], _>(up_to).next_back() else { break };
            let common = prefix.iter().zip(key).take_while(|(one, other)| one == other).count();
            if common == prefix.len() {
                found.push(prefix.as_slice());
                left = common.checked_sub(1).map(|length| &key[..length]);
            } else {
                left = Some(&key[..common]);
            }
        }
        found
    }

    /// Tells those of these clients that still want to know that their copy of a key is outdated.
    fn tell_of(&self, key: &[u8], ids: &[u64], by: Option<u64>, post: &mut Post<'_>) {
        for id in ids {
            let Some(tracker) = self.clients.get(id) else { continue };
            let is_own = tracker.options.no_loop && by == Some(*id);
            if tracker.options.noted != Noted::None && !is_own {
                post.invalidate(tracker, Some(&[key]));
            }
        }
    }
}

/// Messages being written; those to one client are put together.
struct Post<'a> {
    clients: &'a Clients,
    letters: Letters,
    /// Where the letter to a client is.
    places: HashMap<u64, usize>,
}

impl Post<'_> {
    fn letter(&mut self, client: &Arc<Client>) -> &mut Vec<u8> {
        let place = *self.places.entry(client.id).or_insert_with(|| {
            self.letters.push((Arc::clone(client), Vec::new()));
            self.letters.len() - 1
        });
        &mut self.letters[place].1
    }

    /// Tells a client, or the one that it has named, that its copies of keys are outdated; `None`: all of them.
    fn invalidate(&mut self, tracker: &Tracker, keys: Option<&[&[u8]]>) {
        let redirect = tracker.options.redirect;
        let target = if redirect == 0 {
            Arc::clone(&tracker.client)
        } else if let Some(target) = self.clients.find(redirect) {
            target
        } else {
            tracker.is_broken.store(true, Ordering::Relaxed);
            if speaks_resp3(&tracker.client) {
                let letter = self.letter(&tracker.client);
                letter.extend_from_slice(b">2\r\n$21\r\ntracking-redir-broken\r\n");
                letter.extend_from_slice(format!(":{redirect}\r\n").as_bytes());
            }
            return;
        };
        let is_resp3 = speaks_resp3(&target);
        if !is_resp3 && (redirect == 0 || !target.is_subscribed()) {
            // RESP2 has no way to tell a client what it did not ask for, unless it is one that listens.
            return;
        }
        let letter = self.letter(&target);
        letter.extend_from_slice(if is_resp3 {
            b">2\r\n$10\r\ninvalidate\r\n"
        } else {
            b"*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n"
        });
        match keys {
            Some(keys) => {
                letter.extend_from_slice(format!("*{}\r\n", keys.len()).as_bytes());
                for key in keys {
                    letter.extend_from_slice(format!("${}\r\n", key.len()).as_bytes());
                    letter.extend_from_slice(key);
                    letter.extend_from_slice(b"\r\n");
                }
            }
            None if is_resp3 => letter.extend_from_slice(b"_\r\n"),
            None => letter.extend_from_slice(b"$-1\r\n"),
        }
    }
}

fn speaks_resp3(client: &Client) -> bool {
    client.flags.load(Ordering::Relaxed) & marks::RESP3 != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::Place;
    use proptest::prelude::*;

    /// Clients that track, with numbers from 1 on, speaking RESP3.
    struct World {
        clients: Clients,
        attention: Attention,
        tracking: Tracking,
    }

    impl World {
        fn new(options: Vec<Options>) -> Self {
            let world = Self {
                clients: Clients::default(),
                attention: Attention::default(),
                tracking: Tracking::default(),
            };
            for (index, options) in options.into_iter().enumerate() {
                world.add(index as u64 + 1, options);
            }
            world
        }

        fn add(&self, id: u64, options: Options) {
            let client = Arc::new(Client::new(id, String::new(), String::new(), Place::default(), 0));
            client.flags.store(marks::RESP3, Ordering::Relaxed);
            self.clients.add(&client);
            self.tracking.turn_on(&self.attention, &client, options).unwrap();
        }

        fn note(&self, key: &str, id: u64) -> Vec<(u64, String)> {
            read(self.tracking.note(&self.clients, key.as_bytes(), id))
        }

        fn change(&self, keys: &[&str], by: Option<u64>) -> Vec<(u64, String)> {
            read(self.tracking.changed(&self.clients, keys.iter().map(|key| key.as_bytes()), by))
        }
    }

    fn read(letters: Letters) -> Vec<(u64, String)> {
        let mut read: Vec<(u64, String)> = letters
            .into_iter()
            .map(|(client, bytes)| (client.id, String::from_utf8(bytes).unwrap()))
            .collect();
        read.sort();
        read
    }

    fn normal() -> Options {
        Options { noted: Noted::All, redirect: 0, no_loop: false, prefixes: BTreeSet::new() }
    }

    fn broadcast(prefixes: &[&str]) -> Options {
        let prefixes = prefixes.iter().map(|prefix| prefix.as_bytes().to_vec()).collect();
        Options { noted: Noted::None, prefixes, ..normal() }
    }

    fn invalidate(keys: &[&str]) -> String {
        let keys: String = keys.iter().map(|key| format!("${}\r\n{key}\r\n", key.len())).collect();
        let count = keys.matches('$').count();
        format!(">2\r\n$10\r\ninvalidate\r\n*{count}\r\n{keys}")
    }

    #[test]
    fn each_reader_is_told_once() {
        let world = World::new(vec![normal(), normal(), Options { no_loop: true, ..normal() }]);
        for id in [2, 1, 2, 3] {
            assert!(world.note("a", id).is_empty());
        }
        assert!(world.note("b", 1).is_empty());
        let totals = Totals { clients: 3, keys: 2, items: 4, prefixes: 0 };
        assert_eq!(world.tracking.totals(), totals);
        let both = [invalidate(&["a"]), invalidate(&["b"])].concat();
        assert_eq!(world.change(&["a", "c", "b"], Some(3)), [(1, both), (2, invalidate(&["a"]))]);
        assert!(world.change(&["a", "b"], None).is_empty());
        assert_eq!(world.tracking.totals(), Totals { keys: 0, items: 0, ..totals });
        world.note("a", 3);
        assert_eq!(world.change(&["a"], Some(1)), [(3, invalidate(&["a"]))]);
    }

    #[test]
    fn clients_that_broadcast_are_told_of_their_prefixes() {
        let own = Options { no_loop: true, ..broadcast(&["user:"]) };
        let world = World::new(vec![broadcast(&["user:", "item:"]), broadcast(&[""]), own]);
        assert_eq!(world.tracking.totals().prefixes, 3);
        assert_eq!(
            world.change(&["user:2", "user:1", "user:2", "other"], Some(3)),
            [(1, invalidate(&["user:1", "user:2"])), (2, invalidate(&["other", "user:1", "user:2"]))]
        );
        world.tracking.turn_off(&world.attention, 1);
        assert_eq!(world.tracking.totals().prefixes, 2);
        let told = invalidate(&["user:1"]);
        assert_eq!(world.change(&["user:1", "item:1"], None).last(), Some(&(3, told)));
    }

    #[test]
    fn a_flush_is_told_to_all_and_empties_the_table() {
        let world = World::new(vec![normal(), Options { no_loop: true, ..normal() }, broadcast(&["x"])]);
        world.note("a", 1);
        let told = ">2\r\n$10\r\ninvalidate\r\n_\r\n".to_owned();
        let letters = read(world.tracking.flushed(&world.clients));
        assert_eq!(letters, [(1, told.clone()), (2, told.clone()), (3, told)]);
        assert_eq!(world.tracking.totals().keys, 0);
        assert!(world.change(&["a"], None).is_empty());
    }

    #[test]
    fn another_client_may_be_told_until_it_is_gone() {
        let world = World::new(vec![normal(), Options { redirect: 1, ..normal() }]);
        world.note("a", 2);
        assert_eq!(world.change(&["a"], None), [(1, invalidate(&["a"]))]);
        // In RESP2 it is a message of a channel.
        let target = world.clients.find(1).unwrap();
        target.flags.store(0, Ordering::Relaxed);
        target.subscriptions[0].store(1, Ordering::Relaxed);
        world.note("a", 1);
        world.note("a", 2);
        let message = "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*1\r\n$1\r\na\r\n".to_owned();
        assert_eq!(world.change(&["a"], None), [(1, message)]);
        assert!(!world.tracking.seen(2).unwrap().is_broken);
        world.clients.remove(1);
        world.note("a", 2);
        let broken = ">2\r\n$21\r\ntracking-redir-broken\r\n:1\r\n".to_owned();
        assert_eq!(world.change(&["a"], None), [(2, broken)]);
        assert!(world.tracking.seen(2).unwrap().is_broken);
    }

    #[test]
    fn attention_is_wanted_while_somebody_tracks() {
        let world = World::new(vec![normal(), normal()]);
        world.note("a", 1);
        assert_eq!(world.attention.wanted_now(), CHANGES);
        world.tracking.turn_off(&world.attention, 1);
        world.tracking.turn_off(&world.attention, 7);
        assert_eq!(world.attention.wanted_now(), CHANGES);
        assert_eq!(world.tracking.totals().keys, 1);
        world.tracking.turn_off(&world.attention, 2);
        assert_eq!(world.attention.wanted_now(), 0);
        assert_eq!(world.tracking.totals(), Totals { clients: 0, keys: 0, items: 0, prefixes: 0 });
    }

    #[test]
    fn keys_beyond_the_limit_are_told_as_changed() {
        let world = World::new(vec![normal()]);
        assert!(world.tracking.set_keys_max(&world.clients, 10).is_empty());
        let mut told = Vec::new();
        for number in 0..100 {
            told.extend(world.note(&format!("key:{number}"), 1));
            assert!(world.tracking.totals().keys <= 10);
        }
        assert_eq!(told.len(), 90);
        // Those that are left are the others, among them the one that came last.
        let last = world.change(&["key:99"], None);
        assert_eq!(last, [(1, invalidate(&["key:99"]))]);
        let left: Vec<String> = (0..99).map(|number| format!("key:{number}")).collect();
        told.extend(last);
        for key in left {
            told.extend(world.change(&[&key], None));
        }
        told.sort();
        told.dedup();
        assert_eq!(told.len(), 100);
        // Without a limit they stay; with a new one they go at once.
        assert!(world.tracking.set_keys_max(&world.clients, 0).is_empty());
        (0..500).for_each(|number| assert!(world.note(&format!("key:{number}"), 1).is_empty()));
        let letters = world.tracking.set_keys_max(&world.clients, 3);
        assert_eq!(letters[0].1.windows(10).filter(|text| text == b"invalidate").count(), 497);
        assert_eq!(world.tracking.totals().keys, 3);
    }

    proptest! {
        #[test]
        fn prefixes_are_found(
            prefixes in prop::collection::btree_set("[ab]{0,4}", 0..12), key in "[abc]{0,6}"
        ) {
            let mut trackers = Trackers::default();
            for prefix in &prefixes {
                trackers.prefixes.insert(prefix.clone().into_bytes(), BTreeSet::new());
            }
            let mut found = trackers.prefixes_of(key.as_bytes());
            found.reverse();
            let expected: Vec<&[u8]> =
                prefixes.iter().filter(|prefix| key.starts_with(*prefix)).map(String::as_bytes).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
