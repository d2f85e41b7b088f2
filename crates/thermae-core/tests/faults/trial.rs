//! One store under a [`FaultEnv`], everything that was asked of it, and what it may hold by now.
//!
//! History is a list of changes. One that was acknowledged is certain; one that failed may have happened or not. A store that was never cut off
//! holds what the whole list leads to; one that was recovered, what some first part of it leads to that has all that was promised as durable.
//! Values are stamped with their key and number, so that no wrong one can pass for right.

use crate::common::{MIB, Random, Stamp};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use thermae_core::env::SystemEnv;
use thermae_core::env_test::FaultEnv;
use thermae_core::{
    BatchOp, Durability, Error, Location, Options, Problem, Result, SetOptions, ShmPlacement, Store,
    WhenFull, destroy, forget_shared_memory,
};

/// Values longer than this are in extents.
pub const LARGE_BYTES: usize = 300_000;

/// A directory in memory where there is room: no power fails here, and syncs are what most of the time would go to.
pub fn scratch() -> tempfile::TempDir {
    use thermae_core::env::Env;
    let memory = Path::new("/dev/shm");
    if SystemEnv.available_bytes(memory).is_ok_and(|bytes| bytes >= 256 * MIB) {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

#[derive(Debug, Clone)]
struct Value {
    bytes: Arc<Vec<u8>>,
    expires_at_ms: u64,
}

#[derive(Debug)]
struct Change {
    members: Vec<(Vec<u8>, Option<Value>)>,
    is_certain: bool,
}

/// How much of history a store must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// All of it.
    Whole,
    /// A first part, with all that was promised.
    Recovered,
}

pub struct Trial {
    pub env: FaultEnv,
    pub directory: tempfile::TempDir,
    pub location: Location,
    pub options: Options,
    pub store: Option<Store>,
    /// What failed, in order.
    pub errors: Vec<Error>,
    /// Keys may have been dropped to make room.
    pub may_evict: bool,
    /// Keys whose records were damaged on purpose: right, absent, or an error.
    pub damaged: BTreeSet<Vec<u8>>,
    /// What the next opening finds.
    pub next: Held,
    changes: Vec<Change>,
    promised: usize,
    number: u64,
}

impl Trial {
    pub fn new(hot_mib: u64, cold_mib: u64, durability: Durability, when_full: WhenFull) -> Self {
        Self::new_in(scratch(), hot_mib, cold_mib, durability, when_full)
    }

    pub fn new_in(
        directory: tempfile::TempDir,
        hot_mib: u64,
        cold_mib: u64,
        durability: Durability,
        when_full: WhenFull,
    ) -> Self {
        let env = FaultEnv::new(Arc::new(SystemEnv));
        let options = Options {
            shm: ShmPlacement::SharedMemory,
            env: Arc::new(env.clone()),
            ..crate::common::options(hot_mib, cold_mib, durability, when_full)
        };
        Self {
            env,
            location: Location::Directory(directory.path().join("store")),
            directory,
            options,
            store: None,
            errors: Vec::new(),
            may_evict: false,
            damaged: BTreeSet::new(),
            next: Held::Whole,
            changes: Vec::new(),
            promised: 0,
            number: 0,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("store").join(name)
    }

    /// Opens the store; what fails is noted.
    pub fn open(&mut self) -> bool {
        let result = Store::open(&self.location, &self.options);
        self.store = self.note(result);
        self.store.is_some()
    }

    /// Notes a failure.
    pub fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.errors.push(error)).ok()
    }

    /// Asks the store for something, if it is open.
    pub fn ask<T>(&mut self, ask: impl FnOnce(&Store) -> Result<T>) -> Option<T> {
        let result = ask(self.store.as_ref()?);
        self.note(result)
    }

    /// Asks for a change, and adds it to history.
    fn change(&mut self, members: Vec<(Vec<u8>, Option<Value>)>, ask: impl FnOnce(&Store) -> Result<()>) {
        let Some(store) = &self.store else { return };
        let is_always = store.durability() == Durability::Always;
        let result = ask(store);
        let is_certain = self.note(result).is_some();
        self.changes.push(Change { members, is_certain });
        if is_certain && is_always {
            self.promised = self.changes.len();
        }
    }

    fn value(&mut self, key: &[u8], len: usize, expires_at_ms: u64) -> Value {
        self.number += 1;
        let stamp = Stamp { writer: 0, number: self.number };
        Value { bytes: Arc::new(stamp.value(key, len)), expires_at_ms }
    }

    pub fn set(&mut self, key: &str, len: usize) {
        self.set_expiring(key, len, 0);
    }

    pub fn set_expiring(&mut self, key: &str, len: usize, expires_at_ms: u64) {
        let key = key.as_bytes().to_vec();
        let value = self.value(&key, len, expires_at_ms);
        let options = SetOptions { expires_at_ms, ..SetOptions::default() };
        self.change(vec![(key.clone(), Some(value.clone()))], |store| {
            store.set(&key, &value.bytes, &options).map(drop)
        });
    }

    pub fn delete(&mut self, key: &str) {
        let key = key.as_bytes();
        self.change(vec![(key.to_vec(), None)], |store| store.delete(key).map(drop));
    }

    /// Sets all of the keys, and deletes another, at once.
    pub fn transact(&mut self, keys: &[&str], deleted: &str, len: usize) {
        let mut members: Vec<(Vec<u8>, Option<Value>)> = keys
            .iter()
            .map(|key| (key.as_bytes().to_vec(), Some(self.value(key.as_bytes(), len, 0))))
            .collect();
        members.push((deleted.as_bytes().to_vec(), None));
        let asked = members.clone();
        self.change(members, |store| {
            let ops: Vec<BatchOp<'_>> = asked
                .iter()
                .map(|(key, value)| match value {
                    Some(value) => {
                        BatchOp::Set { key, value: &value.bytes, encoding: 0, expires_at_ms: 0, flags: 0 }
                    }
                    None => BatchOp::Delete { key },
                })
                .collect();
            store.transaction(&ops, &[])
        });
    }

    /// After it, all of history is durable.
    pub fn make_durable(&mut self, ask: impl FnOnce(&Store) -> Result<()>) {
        if self.ask(ask).is_some() {
            self.promised = self.changes.len();
        }
    }

    pub fn flush(&mut self) {
        self.make_durable(Store::flush);
    }

    pub fn checkpoint(&mut self) {
        self.make_durable(|store| store.engine().write_checkpoint());
    }

    /// Reads a key, whose value must be one that it may have, or a failure.
    pub fn read(&mut self, key: &str) {
        let Some(found) = self.ask(|store| store.get(key.as_bytes())) else { return };
        let found = found.map(|(_, bytes)| bytes);
        let now_ms = self.store.as_ref().map_or(0, Store::now_ms);
        let values = self.allowed(self.changes.len());
        assert!(
            self.is_allowed(values.get(key.as_bytes()).map_or(&[], Vec::as_slice), found.as_ref(), now_ms),
            "{key} has a value that nobody gave it"
        );
    }

    /// Closes the store; what fails is noted.
    pub fn close(&mut self) {
        let Some(store) = self.store.take() else { return };
        let is_flushed = store.engine().is_flushed();
        let is_stopped = is_stopped(&store);
        match store.close() {
            Ok(()) if is_flushed => self.promised = self.changes.len(),
            Ok(()) => {}
            Err(error) => {
                self.next = Held::Recovered;
                self.errors.push(error);
            }
        }
        if is_stopped {
            self.next = Held::Recovered;
        }
    }

    /// Ends the process without a word.
    pub fn crash(&mut self) {
        if let Some(store) = self.store.take() {
            if is_stopped(&store) {
                self.next = Held::Recovered;
            }
            store.engine().closed.store(true, Ordering::SeqCst);
        }
    }

    /// The machine dies.
    pub fn lose_memory(&mut self) {
        self.crash();
        self.env.reboot();
        forget_shared_memory(&SystemEnv, &self.location).unwrap();
        self.next = Held::Recovered;
    }

    /// Of each key, the values that it may have after so many changes.
    fn allowed(&self, cut: usize) -> BTreeMap<&[u8], Vec<Option<&Value>>> {
        let mut allowed: BTreeMap<&[u8], Vec<Option<&Value>>> = BTreeMap::new();
        for change in &self.changes[..cut] {
            for (key, value) in &change.members {
                let values = allowed.entry(key).or_insert_with(|| vec![None]);
                if change.is_certain {
                    values.clear();
                }
                values.push(value.as_ref());
            }
        }
        allowed
    }

    fn is_allowed(&self, values: &[Option<&Value>], found: Option<&Vec<u8>>, now_ms: u64) -> bool {
        let is_visible = |value: &&Value| value.expires_at_ms == 0 || value.expires_at_ms > now_ms;
        values.iter().any(|value| value.filter(is_visible).map(|value| &*value.bytes) == found)
            || (found.is_none() && (values.is_empty() || self.may_evict))
    }

    /// Whether what was found is what so many changes lead to; if not, a key that says so.
    fn fits(
        &self,
        cut: usize,
        found: &BTreeMap<Vec<u8>, Vec<u8>>,
        now_ms: u64,
    ) -> std::result::Result<(), String> {
        let allowed = self.allowed(cut);
        for key in found.keys().map(Vec::as_slice).chain(allowed.keys().copied()) {
            let values = allowed.get(key).map_or(&[][..], Vec::as_slice);
            let is_excused = self.damaged.contains(key) && !found.contains_key(key);
            if !is_excused && !self.is_allowed(values, found.get(key), now_ms) {
                return Err(String::from_utf8_lossy(key).into_owned());
            }
        }
        // A transaction that failed happened whole or not at all.
        for (number, change) in self.changes[..cut].iter().enumerate() {
            let later: BTreeSet<&[u8]> = self.changes[number + 1..cut]
                .iter()
                .flat_map(|change| change.members.iter().map(|(key, _)| key.as_slice()))
                .collect();
            let shown: BTreeSet<bool> = change
                .members
                .iter()
                .filter(|(key, value)| !later.contains(key.as_slice()) && value.is_some())
                .map(|(key, value)| found.get(key) == value.as_ref().map(|value| &*value.bytes))
                .collect();
            if change.members.len() > 1 && shown.len() > 1 && !self.may_evict && self.damaged.is_empty() {
                return Err(format!("the transaction of change {number}"));
            }
        }
        Ok(())
    }

    /// All that is in the open store, read in every way.
    fn contents(&self, store: &Store) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut found = BTreeMap::new();
        let keys: BTreeSet<&Vec<u8>> =
            self.changes.iter().flat_map(|change| change.members.iter().map(|(key, _)| key)).collect();
        for key in keys {
            match store.get(key) {
                Ok(Some((_, bytes))) => {
                    found.insert(key.clone(), bytes);
                }
                Ok(None) => {}
                Err(error) => {
                    let shown = String::from_utf8_lossy(key);
                    assert!(self.damaged.contains(key), "get {shown}: {error}");
                    assert!(error.to_string().contains(&*shown), "{error} does not name {shown}");
                }
            }
        }
        if self.damaged.is_empty() {
            let mut scan = store.scan(b"");
            let mut scanned = BTreeSet::new();
            while let Some(batch) = scan.next_batch().unwrap() {
                scanned.extend(batch.into_iter().map(|(key, _)| key));
            }
            assert!(
                scanned.iter().eq(found.keys()),
                "a scan finds {scanned:?} and look-ups {:?}",
                found.keys()
            );
            assert_eq!(store.len().unwrap(), found.len() as u64);
        }
        found
    }

    /// The store holds what it must.
    pub fn check_contents(&mut self, store: &Store, held: Held) {
        let (found, now_ms) = (self.contents(store), store.now_ms());
        let last = self.changes.len();
        let first = if held == Held::Whole { last } else { self.promised };
        let misfits: Vec<String> =
            (first..=last).rev().map_while(|cut| self.fits(cut, &found, now_ms).err()).collect();
        assert!(
            misfits.len() <= last - first,
            "{held:?}: what is there is no state from change {first} to {last} on: {}",
            misfits.join(", ")
        );
        if held == Held::Recovered {
            // From here on that is history.
            let members = found
                .into_iter()
                .map(|(key, bytes)| {
                    let expires_at_ms = self.expiry_of(&key, &bytes);
                    (key, Some(Value { bytes: Arc::new(bytes), expires_at_ms }))
                })
                .collect();
            self.changes = vec![Change { members, is_certain: true }];
            self.promised = 1;
        }
    }

    fn expiry_of(&self, key: &[u8], bytes: &[u8]) -> u64 {
        self.changes
            .iter()
            .flat_map(|change| &change.members)
            .filter(|(other, _)| other == key)
            .filter_map(|(_, value)| value.as_ref())
            .find(|value| *value.bytes == bytes)
            .map_or(0, |value| value.expires_at_ms)
    }

    fn write_some(&mut self, what: &str) {
        let failures = self.errors.len();
        for number in 0..6 {
            self.set(&format!("{what}:{number}"), 200 + number * 300);
        }
        self.set("w:1", 900);
        self.set("large:1", LARGE_BYTES);
        self.delete("w:2");
        self.transact(&["t:0", "t:1", "t:2"], "w:3", 100);
        assert!(self.errors.len() == failures, "{what}: {}", self.errors[failures]);
    }

    /// Everything that must hold after whatever failed, now that nothing fails any more: reads, writes, a warm reopening, a recovery, a check.
    pub fn conclude(mut self) {
        self.env.heal();
        if let Some(store) = self.store.take() {
            self.check_contents(&store, Held::Whole);
            let stopped = is_stopped(&store);
            self.store = Some(store);
            if stopped {
                self.expect_only_refusals();
            } else {
                self.write_some("healed");
                let store = self.store.take().unwrap();
                self.check_contents(&store, Held::Whole);
                self.store = Some(store);
            }
            let failures = self.errors.len();
            self.close();
            assert!(stopped || self.errors.len() == failures, "close: {}", self.errors[failures]);
        }
        let held = self.next;
        self.reopen("warm", held);
        self.write_some("reopened");
        self.flush();
        self.lose_memory();
        self.reopen("rebooted", Held::Recovered);
        let store = self.store.take().unwrap();
        // A checkpoint that could not be read when nothing newer was there is told of until a repair, though the log replaced it.
        let is_told = |problem: &Problem| {
            problem.kind == "lost in a recovery" && problem.description.contains("it can't be read")
        };
        let report = store.check(false).unwrap();
        assert!(!self.damaged.is_empty() || report.problems.iter().all(is_told), "{report:?}");
        if !report.ok {
            store.check(true).unwrap();
        }
        let report = store.check(false).unwrap();
        assert!(report.ok, "{report:?}");
        store.close().unwrap();
        let volatile = store.config().memory_directory;
        drop(store);
        destroy(&SystemEnv, &self.location).unwrap();
        assert!(!Path::new(&volatile).exists() && !self.path("").exists());
    }

    fn reopen(&mut self, what: &str, held: Held) {
        let failures = self.errors.len();
        assert!(self.open(), "{what}: {}", self.errors[failures]);
        let store = self.store.take().unwrap();
        self.check_contents(&store, held);
        self.store = Some(store);
        self.next = Held::Whole;
    }

    /// After a failed flush every write is refused for good, and says what to do.
    fn expect_only_refusals(&mut self) {
        for attempt in 0..3 {
            let failures = self.errors.len();
            self.set("refused", 100);
            self.set("refused", LARGE_BYTES);
            self.delete("w:1");
            self.transact(&["refused", "t:0"], "w:1", 100);
            self.ask(Store::flush);
            self.ask(|store| store.engine().write_checkpoint());
            assert_eq!(self.errors.len() - failures, 6, "attempt {attempt}: a write was not refused");
            assert!(self.errors[failures..].iter().all(|error| error.name() == "WritesStopped"));
            // Refused is not failed half-way: nothing of it may have happened.
            self.changes.truncate(self.changes.len() - 4);
            let store = self.store.take().unwrap();
            self.check_contents(&store, Held::Whole);
            self.store = Some(store);
        }
    }
}

/// Whether writing has stopped for good.
pub fn is_stopped(store: &Store) -> bool {
    store.engine().globals().writes_stopped.load(Ordering::SeqCst) != 0
}

/// Puts a list into an order that is random enough.
pub fn shuffle<T>(list: &mut [T], random: &mut Random) {
    for last in (1..list.len()).rev() {
        list.swap(last, random.below(last as u64 + 1) as usize);
    }
}
