//! The store against a model: whatever sequence of requests, it answers as a sorted map with expiry does.
//!
//! The model is exact: values, encodings, client flags, expiries, versions, counts, and which requests are refused. Time is the environment's, and moves in
//! steps so much larger than a test takes that its own running does not count. Views are held to the end, through everything.
#![cfg(feature = "test-env")]

mod common;

#[path = "common/requests.rs"]
mod requests;

use common::{Place, keys, options};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};
use requests::{FRAME_BYTES, INTEGER, KEYS, LARGE_KEYS, Request, Value, When, key_bytes, request};
use std::collections::BTreeMap;
use std::sync::Arc;
use thermae_core::env::{Env, SystemEnv};
use thermae_core::env_test::FaultEnv;
use thermae_core::{
    BatchOp, Condition, Durability, Error, KEY_BYTES_MAX, Options, RecordMeta, SetOptions, SetOutcome, Store,
    Update, View, WhenFull, forget_shared_memory,
};

/// What time moves by: more than any test takes.
const STEP_MS: u64 = 10_000_000;
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    bytes: Vec<u8>,
    encoding: u8,
    flags: u32,
    /// In steps of the model's clock, 0 = never.
    expires: u64,
    version: u64,
}

/// A store and what it should hold.
struct Run {
    views: Vec<(View, Entry)>,
    store: Option<Store>,
    /// Dropped, and thereby removed, after those who use it.
    place: Place,
    options: Options,
    env: FaultEnv,
    entries: BTreeMap<Vec<u8>, Entry>,
    /// Steps that passed.
    now: u64,
    /// The store's clock at step 0.
    start_ms: u64,
    /// The greatest version seen.
    version: u64,
    /// Whether the store survives the loss of its memory after a close.
    is_durable: bool,
}

type Outcome = Result<(), TestCaseError>;
/// What a transaction makes of a key: its value (`None` = none), how long that lives, its flags.
type Change = (Vec<u8>, Option<Vec<u8>>, u8, u32);

impl Run {
    fn new(place: Place, options: Options) -> Self {
        let env = FaultEnv::new(Arc::new(SystemEnv));
        let options = Options { env: Arc::new(env.clone()), ..options };
        let store = place.open(&options);
        let is_durable = options.cold_bytes != Some(0);
        let start_ms = store.now_ms();
        Self {
            place,
            options,
            env,
            store: Some(store),
            entries: BTreeMap::new(),
            now: 0,
            start_ms,
            version: 0,
            views: Vec::new(),
            is_durable,
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    /// In the middle of a step, so that the model need not know what else the clock did.
    fn expires_ms(&self, ttl: u8) -> u64 {
        if ttl == 0 { 0 } else { self.start_ms + self.expires(ttl) * STEP_MS - STEP_MS / 2 }
    }

    fn expires(&self, ttl: u8) -> u64 {
        if ttl == 0 { 0 } else { self.now + u64::from(ttl) }
    }

    fn present(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(key).filter(|entry| entry.expires == 0 || entry.expires > self.now)
    }

    /// Notes what was stored; versions only grow.
    fn put(
        &mut self,
        key: Vec<u8>,
        bytes: Vec<u8>,
        encoding: u8,
        flags: u32,
        expires: u64,
        version: Option<u64>,
    ) -> Outcome {
        let version = match version {
            Some(version) => version,
            None => self.store().meta(&key).unwrap().map_or(0, |meta| meta.version),
        };
        let is_gone = expires != 0 && expires <= self.now;
        prop_assert!(is_gone || version > self.version, "version {version} after {}", self.version);
        self.version = self.version.max(version);
        self.entries.insert(key, Entry { bytes, encoding, flags, expires, version });
        Ok(())
    }

    fn check(&self, key: &[u8]) -> Outcome {
        let found = self.store().get(key).unwrap();
        let expected = self.present(key);
        match (&found, expected) {
            (None, None) => {}
            (Some((meta, bytes)), Some(entry)) => {
                prop_assert!(
                    bytes == &entry.bytes,
                    "{} bytes where {} were stored",
                    bytes.len(),
                    entry.bytes.len()
                );
                prop_assert_eq!(
                    (meta.encoding, meta.flags, meta.version, meta.value_len),
                    (entry.encoding, entry.flags, entry.version, bytes.len() as u64)
                );
                prop_assert_eq!(meta.expires_at_ms == 0, entry.expires == 0);
            }
            _ => prop_assert!(
                false,
                "found {:?} where {:?} was expected",
                found.map(|found| found.0),
                expected.map(|entry| entry.version)
            ),
        }
        Ok(())
    }

    fn apply(&mut self, request: &Request) -> Outcome {
        match request {
            Request::Set { key, value, ttl, keep_ttl, condition } => {
                self.set(*key, *value, *ttl, *keep_ttl, *condition)
            }
            Request::Get(key) => self.check(&key_bytes(*key)),
            Request::View(key) => self.view(*key),
            Request::Delete(key) => self.delete(*key),
            Request::Pop(key) => self.pop(*key),
            Request::Touch { key, ttl } => self.touch(*key, *ttl),
            Request::Add { key, by, initial, ttl } => self.add(*key, *by, *initial, *ttl),
            Request::Update { key, to, delete } => self.update(*key, *to, *delete),
            Request::Transaction { ops, expected } => self.transact(ops, expected),
            Request::SetMany(items) => self.set_many(items),
            Request::DeleteMany(keys) => self.delete_many(keys),
            Request::GetMany(keys) => self.get_many(keys),
            Request::Scan(key) => self.scan(*key),
            Request::Len => {
                let count = self
                    .entries
                    .values()
                    .filter(|entry| entry.expires == 0 || entry.expires > self.now)
                    .count();
                prop_assert_eq!(self.store().len().unwrap(), count as u64);
                Ok(())
            }
            Request::Clear => {
                let count = self.live_keys(b"").len();
                prop_assert_eq!(self.store().clear().unwrap(), count as u64);
                self.entries.clear();
                Ok(())
            }
            Request::Pass(steps) => {
                self.env.jump_boot_clock_ms((u64::from(*steps) * STEP_MS) as i64);
                self.now += u64::from(*steps);
                Ok(())
            }
            Request::Flush => {
                self.store().flush().unwrap();
                Ok(())
            }
            Request::Fill => self.fill(),
            Request::Reopen => {
                self.store().close().unwrap();
                self.store = Some(self.place.open(&self.options));
                Ok(())
            }
            Request::Reboot => self.reboot(),
        }
    }

    fn set(&mut self, key: u8, value: Value, ttl: u8, keep_ttl: bool, condition: When) -> Outcome {
        let (key_bytes, bytes) = (key_bytes(key), value.bytes(key));
        let present = self.present(&key_bytes).cloned();
        let version = present.as_ref().map_or(0, |entry| entry.version);
        let (condition, holds) = match condition {
            When::Always => (Condition::Always, true),
            When::Absent => (Condition::IfAbsent, present.is_none()),
            When::Present => (Condition::IfPresent, present.is_some()),
            When::Version(true) => (Condition::IfVersion(version), true),
            When::Version(false) => (Condition::IfVersion(version + 1), false),
        };
        let options = SetOptions {
            encoding: value.encoding,
            expires_at_ms: self.expires_ms(ttl),
            flags: value.flags(),
            keep_ttl,
            condition,
        };
        let outcome = self.store().set(&key_bytes, &bytes, &options);
        if key_bytes.len() > KEY_BYTES_MAX {
            prop_assert!(matches!(outcome, Err(Error::InvalidKey(_))), "{outcome:?}");
            return Ok(());
        }
        match outcome.unwrap() {
            SetOutcome::NotStored => prop_assert!(!holds),
            SetOutcome::Stored(version) => {
                prop_assert!(holds);
                let expires = present.filter(|_| keep_ttl).map_or(self.expires(ttl), |entry| entry.expires);
                self.put(key_bytes.clone(), bytes, value.encoding, value.flags(), expires, Some(version))?;
            }
        }
        self.check(&key_bytes)
    }

    fn view(&mut self, key: u8) -> Outcome {
        let key = key_bytes(key);
        let view = self.store().view(&key).unwrap();
        let present = self.present(&key).cloned();
        prop_assert_eq!(view.is_some(), present.is_some());
        if let (Some(view), Some(entry)) = (view, present) {
            prop_assert!(*view == entry.bytes[..]);
            prop_assert_eq!(
                (view.meta().version, view.meta().encoding, view.meta().flags),
                (entry.version, entry.encoding, entry.flags)
            );
            if entry.encoding == 7 && entry.bytes.len() <= FRAME_BYTES / 4 && view.is_zero_copy() {
                prop_assert_eq!(view.as_ptr() as usize % 64, 0, "an array's bytes are not aligned");
            }
            // Few at a time: what is pinned can't be reused, and the store is small.
            if self.views.len() < 6 {
                self.views.push((view, entry));
            }
        }
        Ok(())
    }

    fn delete(&mut self, key: u8) -> Outcome {
        let key = key_bytes(key);
        let result = self.store().delete(&key);
        if key.len() > KEY_BYTES_MAX {
            prop_assert!(matches!(result, Err(Error::InvalidKey(_))), "{result:?}");
            return Ok(());
        }
        prop_assert_eq!(result.unwrap(), self.present(&key).is_some());
        self.entries.remove(&key);
        self.check(&key)
    }

    fn pop(&mut self, key: u8) -> Outcome {
        let key = key_bytes(key);
        let popped = self.store().pop(&key).unwrap().map(|(meta, bytes)| (meta.version, meta.flags, bytes));
        let expected = self.present(&key).map(|entry| (entry.version, entry.flags, entry.bytes.clone()));
        prop_assert!(popped == expected);
        self.entries.remove(&key);
        self.check(&key)
    }

    fn touch(&mut self, key: u8, ttl: u8) -> Outcome {
        let key = key_bytes(key);
        let present = self.present(&key).cloned();
        prop_assert_eq!(self.store().touch(&key, self.expires_ms(ttl)).unwrap(), present.is_some());
        if let Some(entry) = present {
            self.put(key.clone(), entry.bytes, entry.encoding, entry.flags, self.expires(ttl), None)?;
        }
        self.check(&key)
    }

    fn add(&mut self, key: u8, by: i64, initial: Option<i64>, ttl: u8) -> Outcome {
        let key = key_bytes(key);
        let result = self.store().incr(&key, by, initial, self.expires_ms(ttl));
        let present = self.present(&key).cloned();
        let before = match &present {
            None => initial.map(Some),
            Some(entry) => {
                Some(std::str::from_utf8(&entry.bytes).ok().and_then(|text| text.parse::<i64>().ok()))
            }
        };
        match before {
            _ if key.len() > KEY_BYTES_MAX && initial.is_some() => {
                let is_right = matches!(result, Err(Error::InvalidKey(_)))
                    || before.flatten().and_then(|before| before.checked_add(by)).is_none();
                prop_assert!(is_right, "{result:?}");
            }
            None => prop_assert!(result.unwrap().is_none()),
            Some(None) => prop_assert!(matches!(result, Err(Error::WrongType(_))), "{result:?}"),
            Some(Some(before)) => match before.checked_add(by) {
                None => prop_assert!(matches!(result, Err(Error::Overflow(_))), "{result:?}"),
                Some(sum) => {
                    prop_assert_eq!(result.unwrap(), Some(sum));
                    let (expires, flags) =
                        present.map_or((self.expires(ttl), 0), |entry| (entry.expires, entry.flags));
                    self.put(key.clone(), sum.to_string().into_bytes(), INTEGER, flags, expires, None)?;
                }
            },
        }
        self.check(&key)
    }

    fn update(&mut self, key: u8, to: Option<Value>, delete: bool) -> Outcome {
        let bytes = key_bytes(key);
        if bytes.len() > KEY_BYTES_MAX {
            return Ok(());
        }
        let present = self.present(&bytes).cloned();
        let mut seen = None;
        let result = self.store().update(&bytes, &mut |current| {
            let seen_of = |meta: RecordMeta, value: &[u8]| (meta.version, meta.flags, value.to_vec());
            seen = Some(current.map(|current| seen_of(current.meta, current.value)));
            Ok(match (to, delete) {
                (_, true) => Update::Delete,
                (Some(value), false) => Update::Set {
                    value: value.bytes(key),
                    encoding: value.encoding,
                    expires_at_ms: 0,
                    flags: value.flags(),
                },
                (None, false) => Update::Keep,
            })
        });
        let version = result.unwrap();
        let expected = present.as_ref().map(|entry| (entry.version, entry.flags, entry.bytes.clone()));
        prop_assert!(seen == Some(expected));
        match (to, delete) {
            (_, true) => {
                prop_assert_eq!(version.is_some(), present.is_some());
                self.entries.remove(&bytes);
            }
            (Some(value), false) => {
                let (made, encoding, flags) = (value.bytes(key), value.encoding, value.flags());
                self.put(bytes.clone(), made, encoding, flags, 0, Some(version.unwrap()))?;
            }
            (None, false) => prop_assert!(version.is_none()),
        }
        self.check(&bytes)
    }

    fn transact(&mut self, ops: &[(u8, Option<Value>, u8)], expected: &[(u8, bool)]) -> Outcome {
        let ops: Vec<Change> = ops
            .iter()
            .map(|&(key, value, ttl)| {
                let flags = value.map_or(0, Value::flags);
                (key_bytes(key), value.map(|value| value.bytes(key.max(LARGE_KEYS - 1))), ttl, flags)
            })
            .collect();
        let batch: Vec<BatchOp<'_>> = ops
            .iter()
            .map(|(key, value, ttl, flags)| match value {
                Some(value) => BatchOp::Set {
                    key,
                    value,
                    encoding: 0,
                    expires_at_ms: self.expires_ms(*ttl),
                    flags: *flags,
                },
                None => BatchOp::Delete { key },
            })
            .collect();
        let expected: Vec<(Vec<u8>, Option<u64>)> = expected
            .iter()
            .map(|&(key, is_right)| {
                let key = key_bytes(key);
                let version = self.present(&key).map(|entry| entry.version);
                let version = if is_right { version } else { Some(version.map_or(1, |version| version + 1)) };
                (key, version)
            })
            .collect();
        let holds =
            expected.iter().all(|(key, version)| self.present(key).map(|entry| entry.version) == *version);
        let expected: Vec<(&[u8], Option<u64>)> =
            expected.iter().map(|(key, version)| (key.as_slice(), *version)).collect();
        let result = self.store().transaction(&batch, &expected);
        let latest: BTreeMap<&Vec<u8>, usize> =
            ops.iter().enumerate().map(|(index, (key, ..))| (key, index)).collect();
        let inline_bytes: usize = latest
            .values()
            .map(|&index| {
                ops[index].0.len()
                    + 52
                    + ops[index]
                        .1
                        .as_ref()
                        .map_or(0, |value| if value.len() > FRAME_BYTES / 4 { 64 } else { value.len() })
            })
            .sum();
        match result {
            Err(Error::InvalidKey(_)) => prop_assert!(ops.iter().any(|(key, ..)| key.len() > KEY_BYTES_MAX)),
            Err(Error::TransactionTooLarge(_)) => {
                prop_assert!(inline_bytes > FRAME_BYTES / 2 - 1024, "only {inline_bytes} bytes");
            }
            Err(Error::Conflict(_)) => prop_assert!(!holds),
            Err(error) => prop_assert!(false, "{}: {error}", error.name()),
            Ok(()) => {
                prop_assert!(holds && inline_bytes < FRAME_BYTES / 2 + 4096);
                let mut order: Vec<usize> = latest.into_values().collect();
                order.sort_unstable();
                for index in order {
                    let (key, value, ttl, flags) = &ops[index];
                    match value {
                        None => drop(self.entries.remove(key)),
                        Some(value) => {
                            self.put(key.clone(), value.clone(), 0, *flags, self.expires(*ttl), None)?;
                        }
                    }
                }
            }
        }
        ops.iter().try_for_each(|(key, ..)| self.check(key))
    }

    fn set_many(&mut self, items: &[(u8, Value)]) -> Outcome {
        let first = items.first().map(|&(_, value)| value);
        // One large value at a time; keys that no record can hold are tried one by one.
        let items: Vec<(Vec<u8>, Vec<u8>, u8)> = items
            .iter()
            .filter(|(key, _)| *key != 4)
            .map(|&(key, value)| (key_bytes(key), value.bytes(KEYS), value.encoding))
            .collect();
        let all: Vec<(&[u8], &[u8], u8)> = items
            .iter()
            .map(|(key, value, encoding)| (key.as_slice(), value.as_slice(), *encoding))
            .collect();
        // They have the same flags, if any.
        let flags = first.map_or(0, Value::flags);
        self.store().set_many(&all, &SetOptions { flags, ..SetOptions::default() }).unwrap();
        let latest: BTreeMap<&Vec<u8>, usize> =
            items.iter().enumerate().map(|(index, (key, ..))| (key, index)).collect();
        let mut order: Vec<usize> = latest.into_values().collect();
        order.sort_unstable();
        for index in order {
            let (key, value, encoding) = items[index].clone();
            self.put(key, value, encoding, flags, 0, None)?;
        }
        items.iter().try_for_each(|(key, ..)| self.check(key))
    }

    fn delete_many(&mut self, keys: &[u8]) -> Outcome {
        let keys: Vec<Vec<u8>> = keys.iter().filter(|&&key| key != 4).map(|&key| key_bytes(key)).collect();
        let mut count = 0;
        for key in &keys {
            count += u64::from(self.present(key).is_some());
            self.entries.remove(key);
        }
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        prop_assert_eq!(self.store().delete_many(&keys).unwrap(), count);
        Ok(())
    }

    fn get_many(&mut self, keys: &[u8]) -> Outcome {
        let keys: Vec<Vec<u8>> = keys.iter().map(|&key| key_bytes(key)).collect();
        let wanted: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let mut values: Vec<Vec<u8>> = vec![Vec::new(); keys.len()];
        let mut metas = vec![None; keys.len()];
        self.store()
            .get_many_into(
                &wanted,
                &mut |index, meta| {
                    values[index] = vec![0; meta.value_len as usize];
                    values[index].as_mut_ptr()
                },
                &mut metas,
            )
            .unwrap();
        for ((key, value), meta) in keys.iter().zip(values).zip(metas) {
            let found = meta.map(|meta| (meta.version, meta.flags, value));
            let expected = self.present(key).map(|entry| (entry.version, entry.flags, entry.bytes.clone()));
            prop_assert!(found == expected);
        }
        Ok(())
    }

    fn live_keys(&self, prefix: &[u8]) -> Vec<Vec<u8>> {
        self.entries
            .keys()
            .filter(|key| key.starts_with(prefix) && self.present(key).is_some())
            .cloned()
            .collect()
    }

    fn scan(&mut self, key: u8) -> Outcome {
        let prefix = match key {
            0..6 => Vec::new(),
            6..10 => b"user:".to_vec(),
            10..14 => b"other:1".to_vec(),
            _ => key_bytes(key),
        };
        prop_assert!(keys(self.store(), &prefix) == self.live_keys(&prefix));
        Ok(())
    }

    /// Writes so much that the tiers have to be tidied, and removes it again.
    fn fill(&mut self) -> Outcome {
        for round in 0..24 {
            let key = format!("fill:{}", round % 4).into_bytes();
            self.store().set(&key, &vec![round; 200_000], &SetOptions::default()).unwrap();
        }
        for index in 0..4 {
            let was_there = self.store().delete(format!("fill:{index}").as_bytes()).unwrap();
            prop_assert!(was_there);
        }
        Ok(())
    }

    /// The machine's memory is lost; what a clean close flushed is not.
    fn reboot(&mut self) -> Outcome {
        if !self.is_durable {
            return Ok(());
        }
        self.check_views()?;
        self.views.clear();
        self.store().close().unwrap();
        self.store = None;
        forget_shared_memory(&SystemEnv, &self.place.location).unwrap();
        // The store's clock goes on from where the wall clock is.
        let now_ms = (self.start_ms + self.now * STEP_MS) as i64;
        self.env.jump_wall_clock_ms(now_ms - self.env.wall_time_ms() as i64);
        self.store = Some(self.place.open(&self.options));
        Ok(())
    }

    fn check_views(&self) -> Outcome {
        for (view, entry) in &self.views {
            prop_assert!(**view == entry.bytes[..], "a held view of version {} changed", entry.version);
        }
        Ok(())
    }

    fn finish(mut self) -> Outcome {
        for key in 0..KEYS {
            self.check(&key_bytes(key))?;
        }
        prop_assert!(keys(self.store(), b"") == self.live_keys(b""));
        let report = self.store().check(false).unwrap();
        prop_assert!(report.ok, "the check found {:#?}", report.problems);
        self.store().close().unwrap();
        self.store = None;
        self.check_views()
    }
}

fn config(cases: u32) -> Config {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(cases);
    Config { cases, failure_persistence: None, ..Config::default() }
}

fn play(mut run: Run, requests: &[Request]) -> Outcome {
    for (index, request) in requests.iter().enumerate() {
        run.apply(request)
            .map_err(|error| TestCaseError::fail(format!("request {index}, {request:?}: {error}")))?;
    }
    run.finish()
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn a_store_in_shared_memory_is_a_map(requests in prop::collection::vec(request(), 1..120)) {
        play(Run::new(Place::shared_memory("model"), options(48, 0, Durability::None, WhenFull::Error)), &requests)?;
    }

    #[test]
    fn a_store_with_a_cold_tier_is_a_map(requests in prop::collection::vec(request(), 1..120)) {
        play(Run::new(Place::in_directory(), options(24, 96, Durability::EverySec, WhenFull::Error)), &requests)?;
    }

    #[test]
    fn a_store_with_background_threads_is_a_map(requests in prop::collection::vec(request(), 1..80)) {
        let options = Options { background: true, ..options(24, 96, Durability::EverySec, WhenFull::Evict) };
        play(Run::new(Place::in_directory(), options), &requests)?;
    }
}

/// A deletion in a segment that had been flushed up to before it was not carried along when expiry emptied that segment: nothing older
/// seemed to be anywhere else. What had been flushed of the segment was still on disk, and after a reboot the deleted key was back.
#[test]
fn a_deletion_outlives_the_segment_whose_beginning_is_on_disk() {
    let options = options(24, 96, Durability::EverySec, WhenFull::Error);
    let mut run = Run::new(Place::in_directory(), options);
    let value = |len| Value { len, seed: 1, encoding: 0 };
    let set =
        |key, ttl| Request::Set { key, value: value(10), ttl, keep_ttl: false, condition: When::Always };
    let requests = [
        set(6, 0),
        Request::Reopen,
        Request::Delete(6),
        set(7, 1),
        Request::Fill,
        Request::Pass(1),
        Request::Len,
    ];
    requests.iter().try_for_each(|request| run.apply(request)).unwrap();
    run.apply(&Request::Reboot).unwrap();
    run.finish().unwrap();
}
