//! A store as callers see it.
//!
//! Each method is one request: check, look up or change, wait where durability says so. Nothing here knows how records or
//! indexes look. A `Store` may be used from any thread; after a fork the child uses its own copy of the same value.

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::forked::PerProcess;
use crate::keeper::Keeper;
use crate::large::{self, write_large};
use crate::names::LockToken;
use crate::open;
use crate::options::{Durability, Location, Options};
use crate::read::{RecordMeta, Wanted, show_key};
use crate::transaction::BatchOp;
use crate::view::{self, View};
use crate::waiting::{LONG_COPY_BYTES, before_wait, check_cancelled};
use crate::write::{Change, NewValue, Payload, Present};
use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Encoding of integers: decimal digits.
pub const ENCODING_INTEGER: u8 = 2;
/// Keys looked up together, so that their cache misses overlap.
const BATCH_KEYS: usize = 32;
/// Most keys that [`Store::prefetch`] looks at: more would push the first ones out of the cache again.
const PREFETCHED_KEYS_MAX: usize = 64;
/// So many of them between two looks whether the call is to be given up.
const BATCHES_PER_LOOK: usize = 32;

/// An open store.
#[derive(Debug)]
pub struct Store {
    engine: Arc<Engine>,
    keeper: PerProcess<Mutex<Option<Keeper>>>,
    wants_keeper: bool,
}

/// When a value is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Condition {
    /// In any case.
    #[default]
    Always,
    /// If the key is absent.
    IfAbsent,
    /// If the key is present.
    IfPresent,
    /// If the key has this version; 0 = absent.
    IfVersion(u64),
}

/// How a value is stored.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetOptions {
    /// How the bytes are encoded.
    pub encoding: u8,
    /// When it expires (store clock, see [`Store::now_ms`]); 0 = never.
    pub expires_at_ms: u64,
    /// What the client keeps beside the value and gets with it again, 0 = nothing. It replaces what the key had.
    pub flags: u32,
    /// Keep the expiry that the key has.
    pub keep_ttl: bool,
    /// When to store at all.
    pub condition: Condition,
}

/// What became of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetOutcome {
    /// Stored, as this version.
    Stored(u64),
    /// The condition did not hold.
    NotStored,
}

/// A key's present value, for [`Store::update`].
#[derive(Debug, Clone, Copy)]
pub struct Current<'a> {
    /// What is known of it.
    pub meta: RecordMeta,
    /// Its bytes.
    pub value: &'a [u8],
}

/// What [`Store::update`] makes of a key.
#[derive(Debug, Clone)]
pub enum Update {
    /// Leave it as it is.
    Keep,
    /// Store this.
    Set {
        /// Value.
        value: Vec<u8>,
        /// How it is encoded.
        encoding: u8,
        /// When it expires, 0 = never.
        expires_at_ms: u64,
        /// What the client keeps beside the value, 0 = nothing.
        flags: u32,
    },
    /// Delete it.
    Delete,
}

thread_local! {
    /// The last sequence number that this thread's caller will wait for by itself, while it said so.
    static DEFERRED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Does work on this thread that changes stores without waiting for durability. Returns the last sequence number to wait for with
/// [`Store::wait_durable`] before anyone is told, 0 where there is nothing to wait for. For servers, which have others to serve meanwhile.
pub fn deferring<T>(work: impl FnOnce() -> T) -> (T, u64) {
    struct Restore(Option<u64>);
    impl Drop for Restore {
        fn drop(&mut self) {
            DEFERRED.set(self.0);
        }
    }
    let _restore = Restore(DEFERRED.replace(Some(0)));
    let result = work();
    (result, DEFERRED.get().unwrap_or(0))
}

impl Store {
    /// Opens a store, creating it where there is none.
    ///
    /// # Errors
    /// What is wrong with the location, the options, or the files there.
    pub fn open(location: &Location, options: &Options) -> Result<Self> {
        let engine = open::attach(location, options)?;
        let store = Self {
            engine,
            keeper: PerProcess::default(),
            wants_keeper: options.background && !options.read_only,
        };
        store.engine.adopt_settings(options)?;
        store.ensure_keeper();
        Ok(store)
    }

    /// Starts the background threads, also in a forked child, which inherits none.
    fn ensure_keeper(&self) {
        if self.wants_keeper {
            let keeper = self.keeper.get(self.engine.forks.load(Ordering::Relaxed));
            let mut keeper = keeper.lock().unwrap_or_else(PoisonError::into_inner);
            // Not after a close by another thread, which takes the keeper under the same mutex, or finds none.
            if keeper.is_none() && !self.engine.closed.load(Ordering::SeqCst) {
                *keeper = Some(Keeper::start(&self.engine));
            }
        }
    }

    /// Closes this handle: what durability promises is flushed, the background threads end. Views stay valid. Closing twice is no error.
    ///
    /// # Errors
    /// Those of the flush; the handle is closed all the same.
    pub fn close(&self) -> Result<()> {
        if self.engine.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let keeper = self
            .keeper
            .existing(self.engine.forks.load(Ordering::Relaxed))
            .and_then(|keeper| keeper.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(keeper) = keeper {
            keeper.stop();
        }
        let must_flush = !self.engine.read_only
            && self.engine.is_flushed()
            && !self.engine.orphaned.load(Ordering::Relaxed);
        if must_flush { self.engine.flush_all() } else { Ok(()) }
    }

    /// Whether the handle was closed.
    pub fn is_closed(&self) -> bool {
        self.engine.closed.load(Ordering::Relaxed)
    }

    /// The engine, for this crate's own layers and tests.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    #[inline]
    fn wanted<'a>(&self, key: &'a [u8]) -> Wanted<'a> {
        Wanted { key, hash: self.engine.hash(key) }
    }

    /// Background threads do not survive a fork; the child's first call brings its own.
    #[inline]
    pub(crate) fn enter(&self) -> Result<()> {
        self.engine.check_usable()?;
        let forks = self.engine.forks.load(Ordering::Relaxed);
        if forks != 0 && self.keeper.existing(forks).is_none() {
            self.ensure_keeper();
        }
        Ok(())
    }

    /// Copies a value into memory that `buffer` returns for it (at least `value_len` bytes; it may be called again).
    ///
    /// # Errors
    /// Closed, Corrupt, Io.
    #[inline]
    pub fn get_into(
        &self,
        key: &[u8],
        mut buffer: impl FnMut(&RecordMeta) -> *mut u8,
    ) -> Result<Option<RecordMeta>> {
        self.enter()?;
        self.get_hashed(self.wanted(key), &mut buffer)
    }

    #[inline]
    fn get_hashed(
        &self,
        wanted: Wanted<'_>,
        buffer: &mut impl FnMut(&RecordMeta) -> *mut u8,
    ) -> Result<Option<RecordMeta>> {
        let found = self.engine.find(wanted, buffer)?;
        let counters = self.engine.counters();
        match found {
            Some(found) => {
                Engine::count(&counters.hits, 1);
                if found.promote {
                    self.engine.promote(wanted, found.entry)?;
                }
                Ok(Some(found.meta))
            }
            None => {
                Engine::count(&counters.misses, 1);
                Ok(None)
            }
        }
    }

    /// A value and what is known of it.
    ///
    /// # Errors
    /// As [`Store::get_into`].
    pub fn get(&self, key: &[u8]) -> Result<Option<(RecordMeta, Vec<u8>)>> {
        let mut value = Vec::new();
        let meta = self.get_into(key, |meta| {
            if meta.value_len >= LONG_COPY_BYTES {
                before_wait();
            }
            value = vec![0_u8; meta.value_len as usize];
            value.as_mut_ptr()
        })?;
        Ok(meta.map(|meta| (meta, value)))
    }

    /// Copies many values: `buffer(i, meta)` says where value `i` goes; `out[i]` says what was found.
    ///
    /// # Errors
    /// As [`Store::get_into`]; Cancelled.
    pub fn get_many_into(
        &self,
        keys: &[&[u8]],
        buffer: &mut dyn FnMut(usize, &RecordMeta) -> *mut u8,
        out: &mut [Option<RecordMeta>],
    ) -> Result<()> {
        self.enter()?;
        for (chunk_index, chunk) in keys.chunks(BATCH_KEYS).enumerate() {
            look_around(chunk_index)?;
            let mut hashes = [0_u64; BATCH_KEYS];
            for (hash, key) in hashes.iter_mut().zip(chunk) {
                *hash = self.engine.hash(key);
                self.engine.prefetch_bucket(*hash);
            }
            hashes[..chunk.len()].iter().for_each(|&hash| self.engine.prefetch_record(hash));
            for (offset, (key, &hash)) in chunk.iter().zip(&hashes).enumerate() {
                let index = chunk_index * BATCH_KEYS + offset;
                out[index] = self.get_hashed(Wanted { key, hash }, &mut |meta| buffer(index, meta))?;
            }
        }
        Ok(())
    }

    /// What is known of a key's value, without copying it.
    ///
    /// # Errors
    /// As [`Store::get_into`].
    pub fn meta(&self, key: &[u8]) -> Result<Option<RecordMeta>> {
        self.enter()?;
        Ok(self.engine.find(self.wanted(key), &mut |_| std::ptr::null_mut())?.map(|found| found.meta))
    }

    /// Waits until `sequence` is as durable as the store promises.
    #[inline]
    /// Where each write is to be durable before anybody is told of it, returns when everything up to this sequence number is; in [`deferring`], leaves that to
    /// its caller.
    ///
    /// # Errors
    /// As [`Store::wait_durable`].
    pub fn acknowledge(&self, sequence: u64) -> Result<()> {
        if self.engine.durable.is_some() && self.engine.durability() == Durability::Always {
            if let Some(last) = DEFERRED.get() {
                DEFERRED.set(Some(last.max(sequence)));
            } else {
                self.engine.wait_durable(sequence)?;
            }
        }
        Ok(())
    }

    /// Returns when everything up to this sequence number is durable, see [`deferring`].
    ///
    /// # Errors
    /// WritesStopped; Cancelled.
    pub fn wait_durable(&self, sequence: u64) -> Result<()> {
        self.engine.wait_durable(sequence)
    }

    /// Whether it is.
    pub fn is_durable(&self, sequence: u64) -> bool {
        self.engine.durable.is_none() || self.engine.globals().watermark.load(Ordering::SeqCst) >= sequence
    }

    /// Has the processor fetch what looking up these keys will read: first all their places in the index, then the records that those
    /// lead to. For callers that have many look-ups to make, one after another.
    #[inline]
    pub fn prefetch<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) {
        let mut hashes = [0_u64; PREFETCHED_KEYS_MAX];
        let mut count = 0;
        for (hash, key) in hashes.iter_mut().zip(keys) {
            *hash = self.engine.hash(key);
            self.engine.prefetch_bucket(*hash);
            count += 1;
        }
        if count == 1 {
            // Its record is looked for soon enough, and looking for it now would be waiting for the bucket.
            return;
        }
        hashes[..count].iter().for_each(|&hash| self.engine.prefetch_record(hash));
    }

    /// Stores a value.
    ///
    /// # Errors
    /// ReadOnly, Closed, InvalidKey, ValueTooLarge, Full, WritesStopped, Io, Corrupt.
    #[inline]
    pub fn set(&self, key: &[u8], value: &[u8], options: &SetOptions) -> Result<SetOutcome> {
        let outcome = self.set_without_waiting(key, value, options)?;
        if let SetOutcome::Stored(sequence) = outcome {
            self.acknowledge(sequence)?;
        }
        Ok(outcome)
    }

    #[inline]
    fn set_without_waiting(&self, key: &[u8], value: &[u8], options: &SetOptions) -> Result<SetOutcome> {
        self.enter()?;
        let wanted = self.wanted(key);
        let large = if value.len() > self.engine.geometry.inline_value_max() {
            self.engine.check_writable()?;
            Engine::check_key(key)?;
            Some(write_large(&self.engine, wanted.hash, value)?)
        } else {
            None
        };
        let payload =
            large.as_ref().map_or(Payload::Inline(value), |large| Payload::Large(large.len, &large.list));
        let result = self.engine.update_key(wanted, |present| {
            if !holds(options.condition, present) {
                return Ok(Change::Keep);
            }
            let expires_at_ms = match present {
                Some(present) if options.keep_ttl => present.meta.expires_at_ms,
                _ => options.expires_at_ms,
            };
            let (encoding, flags) = (options.encoding, options.flags);
            Ok(Change::Put(NewValue { encoding, expires_at_ms, flags, payload }))
        });
        if let Some(large) = &large
            && !matches!(result, Ok(Some(_)))
        {
            large.slots.iter().for_each(|&slot| self.engine.retire(slot));
        }
        Ok(match result? {
            Some((sequence, _)) => {
                Engine::count(&self.engine.counters().sets, 1);
                SetOutcome::Stored(sequence)
            }
            None => SetOutcome::NotStored,
        })
    }

    /// Stores many values, each by itself, waiting once for all. On an error, those before it are stored.
    ///
    /// # Errors
    /// As [`Store::set`]; Cancelled.
    pub fn set_many(&self, items: &[(&[u8], &[u8], u8)], options: &SetOptions) -> Result<()> {
        let mut last = 0;
        for (chunk_index, chunk) in items.chunks(BATCH_KEYS).enumerate() {
            look_around(chunk_index)?;
            for (key, ..) in chunk {
                self.engine.prefetch_bucket(self.engine.hash(key));
            }
            for &(key, value, encoding) in chunk {
                if let SetOutcome::Stored(sequence) =
                    self.set_without_waiting(key, value, &SetOptions { encoding, ..*options })?
                {
                    last = last.max(sequence);
                }
            }
        }
        self.acknowledge(last)
    }

    /// Deletes a key; false where it was absent.
    ///
    /// # Errors
    /// As [`Store::set`], but never Full while any frame is in reserve.
    pub fn delete(&self, key: &[u8]) -> Result<bool> {
        let sequence = self.delete_without_waiting(key)?;
        if let Some(sequence) = sequence {
            self.acknowledge(sequence)?;
        }
        Ok(sequence.is_some())
    }

    fn delete_without_waiting(&self, key: &[u8]) -> Result<Option<u64>> {
        self.enter()?;
        let result = self.engine.update_key(self.wanted(key), |_| Ok(Change::Delete))?;
        Ok(result.filter(|&(_, was_visible)| was_visible).map(|(sequence, _)| {
            Engine::count(&self.engine.counters().deletes, 1);
            sequence
        }))
    }

    /// Deletes many keys; returns how many were present. On an error, those before it are deleted.
    ///
    /// # Errors
    /// As [`Store::delete`]; Cancelled.
    pub fn delete_many(&self, keys: &[&[u8]]) -> Result<u64> {
        let (mut count, mut last) = (0, 0);
        for (chunk_index, chunk) in keys.chunks(BATCH_KEYS).enumerate() {
            look_around(chunk_index)?;
            for key in chunk {
                if let Some(sequence) = self.delete_without_waiting(key)? {
                    count += 1;
                    last = last.max(sequence);
                }
            }
        }
        self.acknowledge(last)?;
        Ok(count)
    }

    /// Removes a key and returns its value.
    ///
    /// # Errors
    /// As [`Store::get`] and [`Store::delete`].
    pub fn pop(&self, key: &[u8]) -> Result<Option<(RecordMeta, Vec<u8>)>> {
        self.engine.check_writable()?;
        // A value is read first and deleted if it is still that version: a large one is thus never copied under a lock.
        loop {
            let Some((meta, value)) = self.get(key)? else { return Ok(None) };
            let result = self.engine.update_key(self.wanted(key), |present| {
                Ok(if present.is_some_and(|present| present.meta.version == meta.version) {
                    Change::Delete
                } else {
                    Change::Keep
                })
            })?;
            if let Some((sequence, _)) = result {
                Engine::count(&self.engine.counters().deletes, 1);
                self.acknowledge(sequence)?;
                return Ok(Some((meta, value)));
            }
        }
    }

    /// Gives a key another expiry (store clock, 0 = never); false where it is absent. All else of it stays, but for its version.
    ///
    /// # Errors
    /// As [`Store::set`].
    pub fn touch(&self, key: &[u8], expires_at_ms: u64) -> Result<bool> {
        loop {
            let Some((meta, value)) = self.get(key)? else { return Ok(false) };
            let options = SetOptions {
                encoding: meta.encoding,
                expires_at_ms,
                flags: meta.flags,
                keep_ttl: false,
                condition: Condition::IfVersion(meta.version),
            };
            if let SetOutcome::Stored(_) = self.set(key, &value, &options)? {
                return Ok(true);
            }
        }
    }

    /// Adds to an integer and returns the sum; expiry and client flags stay. An absent key counts as `initial`, with the expiry given for new
    /// keys; without an initial value it stays absent, and `None` is returned.
    ///
    /// # Errors
    /// WrongType where the value is no integer of 64 bits; Overflow; as [`Store::set`].
    pub fn incr(&self, key: &[u8], by: i64, initial: Option<i64>, expires_at_ms: u64) -> Result<Option<i64>> {
        let mut result = None;
        self.update(key, &mut |current| {
            result = None;
            let (before, expires_at_ms, flags) = match current {
                None => match initial {
                    Some(initial) => (initial, expires_at_ms, 0),
                    None => return Ok(Update::Keep),
                },
                Some(current) => (
                    std::str::from_utf8(current.value).ok().and_then(|text| text.parse::<i64>().ok()).ok_or_else(|| {
                        Error::WrongType(format!(
                            "the value of key {} is no integer of 64 bits, so nothing can be added to it: store an int first, or use another key",
                            show_key(key)
                        ))
                    })?,
                    current.meta.expires_at_ms,
                    current.meta.flags,
                ),
            };
            let sum = before.checked_add(by).ok_or_else(|| {
                Error::Overflow(format!(
                    "adding {by} to {before} at key {} leaves the range of 64-bit integers; the value is unchanged",
                    show_key(key)
                ))
            })?;
            result = Some(sum);
            let value = sum.to_string().into_bytes();
            Ok(Update::Set { value, encoding: ENCODING_INTEGER, expires_at_ms, flags })
        })?;
        Ok(result)
    }

    /// Reads, decides and writes as one step: `decide` sees the current value and says what becomes of it. It may be called more than
    /// once. Returns the new version, if anything changed (0 for a deletion that left no record).
    ///
    /// # Errors
    /// Those of `decide`, and as [`Store::set`].
    pub fn update(
        &self,
        key: &[u8],
        decide: &mut dyn FnMut(Option<Current<'_>>) -> Result<Update>,
    ) -> Result<Option<u64>> {
        self.enter()?;
        loop {
            // Decided on a copy, applied if the version is still the same: no caller's code runs under a lock.
            let current = self.get(key)?;
            let version = current.as_ref().map_or(0, |(meta, _)| meta.version);
            let update = decide(current.as_ref().map(|(meta, value)| Current { meta: *meta, value }))?;
            let condition = Condition::IfVersion(version);
            match update {
                Update::Keep => return Ok(None),
                Update::Set { value, encoding, expires_at_ms, flags } => {
                    let options = SetOptions { encoding, expires_at_ms, flags, keep_ttl: false, condition };
                    if let SetOutcome::Stored(sequence) = self.set(key, &value, &options)? {
                        return Ok(Some(sequence));
                    }
                }
                Update::Delete if version == 0 => return Ok(None),
                Update::Delete => {
                    let result = self.engine.update_key(self.wanted(key), |present| {
                        Ok(if holds(condition, present) { Change::Delete } else { Change::Keep })
                    })?;
                    if let Some((sequence, _)) = result {
                        Engine::count(&self.engine.counters().deletes, 1);
                        self.acknowledge(sequence)?;
                        return Ok(Some(sequence));
                    }
                }
            }
        }
    }

    /// A value's bytes where they lie, valid while held. Their checksum is not verified: that would read them all.
    ///
    /// # Errors
    /// As [`Store::get_into`].
    pub fn view(&self, key: &[u8]) -> Result<Option<View>> {
        self.enter()?;
        let view = view::view(&self.engine, self.wanted(key))?;
        let counters = self.engine.counters();
        Engine::count(if view.is_some() { &counters.hits } else { &counters.misses }, 1);
        Ok(view)
    }

    /// Whether a value of so many bytes can be stored here, as far as its length decides that: for who would have to make a long one first.
    ///
    /// # Errors
    /// ValueTooLarge, with the text of the error that storing it would end with.
    pub fn check_value_len(&self, len: u64) -> Result<()> {
        large::check_len(&self.engine, len)
    }

    /// Applies all of `ops` or none; for each of `expected`, the key must still have that version (`None` = be absent).
    ///
    /// # Errors
    /// Conflict, TransactionTooLarge, and as [`Store::set`]; then nothing was changed.
    pub fn transaction(&self, ops: &[BatchOp<'_>], expected: &[(&[u8], Option<u64>)]) -> Result<()> {
        self.enter()?;
        let sequence = self.engine.apply_batch(ops, expected)?;
        self.acknowledge(sequence)
    }

    /// Takes the lock `name`, waiting at most `timeout`. It is freed when this process dies. `interrupted` is asked now and then while waiting.
    ///
    /// # Errors
    /// Timeout, Full (too many locks held), ReadOnly, Closed, and what `interrupted` returns.
    pub fn lock_acquire(
        &self,
        name: &[u8],
        timeout: Option<Duration>,
        interrupted: &mut dyn FnMut() -> Result<()>,
    ) -> Result<LockToken> {
        self.enter()?;
        self.engine.acquire_name(name, timeout, interrupted)
    }

    /// Releases a lock; false where it was not held under this token any more.
    ///
    /// # Errors
    /// Closed.
    pub fn lock_release(&self, token: &LockToken) -> Result<bool> {
        self.enter()?;
        Ok(self.engine.release_name(token))
    }

    /// The store's clock in milliseconds: close to the wall clock's, but it never jumps with it.
    pub fn now_ms(&self) -> u64 {
        self.engine.now_ms()
    }

    /// Returns when everything acknowledged so far is durable. Without a cold tier there is nothing to do.
    ///
    /// # Errors
    /// WritesStopped, ReadOnly, Closed.
    pub fn flush(&self) -> Result<()> {
        self.enter()?;
        self.engine.check_writable()?;
        if self.engine.durable.is_some() { self.engine.flush_all() } else { Ok(()) }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // A destructor has nobody to report to; whoever needs to know calls close().
        let _ = self.close();
        self.keeper.free(self.engine.forks.load(Ordering::Relaxed));
    }
}

/// At each batch of a call with many keys.
#[inline]
fn look_around(batch: usize) -> Result<()> {
    if batch % BATCHES_PER_LOOK == BATCHES_PER_LOOK - 1 { check_cancelled() } else { Ok(()) }
}

#[inline]
fn holds(condition: Condition, present: Option<&Present<'_>>) -> bool {
    match condition {
        Condition::Always => true,
        Condition::IfAbsent => present.is_none(),
        Condition::IfPresent => present.is_some(),
        Condition::IfVersion(version) => present.map_or(0, |present| present.meta.version) == version,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// A writer that made room once waited a whole second for a flush whose flusher had been killed in the meantime.
    #[test]
    fn nobody_waits_for_the_flush_of_the_dead() {
        let directory = tempfile::tempdir().unwrap();
        let location = Location::Directory(directory.path().join("store"));
        let sizes = Options { hot_bytes: Some(16 << 20), cold_bytes: Some(32 << 20), ..Options::default() };
        let options = Options { durability: Some(Durability::None), background: false, ..sizes };
        let survivor = Store::open(&location, &options).unwrap();
        let victim = Store::open(&location, &options).unwrap();
        let _held = std::mem::ManuallyDrop::new(victim.engine().wait_flush_lease());
        std::thread::scope(|scope| {
            let (begins, has_begun) = std::sync::mpsc::channel();
            let survivor = &survivor;
            let waiter = scope.spawn(move || {
                let began = Instant::now();
                begins.send(()).unwrap();
                assert!(survivor.engine().wait_for_flush_under_way());
                began.elapsed()
            });
            has_begun.recv().unwrap();
            std::thread::sleep(Duration::from_millis(100));
            // Its slot is free from here on, as after a kill; the lease still names it.
            drop(victim);
            let waited = waiter.join().unwrap();
            assert!((Duration::from_millis(90)..Duration::from_millis(800)).contains(&waited), "{waited:?}");
        });
        assert!(!survivor.engine().wait_for_flush_under_way(), "nobody is at it");
        survivor.close().unwrap();
        drop(survivor);
        crate::remove::destroy(&crate::env::SystemEnv, &location).unwrap();
    }
}
