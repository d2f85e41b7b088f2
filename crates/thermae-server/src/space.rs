//! Keys and values as commands see them: the store itself, or the store under changes that are not decided yet.
//!
//! A command that reads and writes several keys, and a transaction of several commands, has to happen at once, while other threads and other
//! processes use the store too. So it runs on an [`Overlay`]: what it reads is noted with its version, what it writes is kept back, and at
//! the end all is applied as one transaction of the store, if no version has changed; else everything is run again. No lock is held, and
//! nobody waits. Rejected: one lock for all commands, as a server with one thread has it: Python processes do not take it.
//!
//! A single key's change goes straight to the store, which decides by version in the same way.

use crate::attention::NEW_KEYS;
use crate::events::Events;
use crate::failure::{Failure, Result};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use thermae_core::{BatchOp, Condition, Current, Error, RecordMeta, SetOptions, SetOutcome, Store, Update};

/// Times that what is to happen at once is run before its client is told that others were always faster.
const ATTEMPTS_MAX: usize = 1000;

/// Most bytes of values that are kept back until they are applied: clients must not fill memory that the store's limits do not cover.
const WRITTEN_BYTES_MAX: usize = 64 << 20;

/// A value that is not applied yet.
#[derive(Debug, Clone)]
struct Written {
    value: Vec<u8>,
    meta: RecordMeta,
}

/// Changes that are not decided yet, and what they rest on.
#[derive(Debug, Default)]
pub struct Overlay {
    /// Versions that were seen; `None`: the key was absent.
    seen: HashMap<Vec<u8>, Option<u64>>,
    written: HashMap<Vec<u8>, Option<Written>>,
    /// Bytes of all values that were written, overwritten ones included.
    written_bytes: usize,
    /// What was read does not go together.
    is_void: bool,
}

/// What a command reads and writes.
#[derive(Debug)]
pub struct Space<'a> {
    store: &'a Store,
    overlay: Option<Overlay>,
    /// What commands did to keys.
    pub events: Events,
}

impl<'a> Space<'a> {
    /// The store itself.
    pub fn new(store: &'a Store) -> Self {
        Self { store, overlay: None, events: Events::default() }
    }

    /// The store underneath: for what is no matter of keys, and for reading where [`Space::is_plain`].
    pub fn store(&self) -> &'a Store {
        self.store
    }

    /// Whether changes happen as they are made.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.overlay.is_none()
    }

    /// The store's clock.
    pub fn now_ms(&self) -> u64 {
        self.store.now_ms()
    }

    /// A value and what is known of it.
    ///
    /// # Errors
    /// Those of the store.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<(RecordMeta, Vec<u8>)>> {
        let Some(overlay) = &mut self.overlay else { return Ok(self.store.get(key)?) };
        if let Some(written) = overlay.written.get(key) {
            return Ok(written.as_ref().map(|written| (written.meta, written.value.clone())));
        }
        let found = self.store.get(key)?;
        overlay.see(key, found.as_ref().map(|(meta, _)| meta.version))?;
        Ok(found)
    }

    /// What is known of a value.
    ///
    /// # Errors
    /// Those of the store.
    pub fn meta(&mut self, key: &[u8]) -> Result<Option<RecordMeta>> {
        let Some(overlay) = &mut self.overlay else { return Ok(self.store.meta(key)?) };
        if let Some(written) = overlay.written.get(key) {
            return Ok(written.as_ref().map(|written| written.meta));
        }
        let found = self.store.meta(key)?;
        overlay.see(key, found.map(|meta| meta.version))?;
        Ok(found)
    }

    /// Stores a value; false where the condition did not hold.
    ///
    /// # Errors
    /// Those of the store.
    pub fn set(&mut self, key: &[u8], value: &[u8], options: &SetOptions) -> Result<bool> {
        if self.is_plain() {
            if self.events.wants(NEW_KEYS) {
                return self.set_looking(key, value, options);
            }
            let is_stored = matches!(self.store.set(key, value, options)?, SetOutcome::Stored(_));
            if is_stored {
                self.events.note_change(key);
            }
            return Ok(is_stored);
        }
        let present = self.meta(key)?;
        let Some(expires_at_ms) = expiry_if(options, present.as_ref()) else { return Ok(false) };
        if present.is_none() {
            self.events.note_new(key);
        }
        self.write(key, Some(Written::new(value.to_vec(), options.encoding, expires_at_ms, options.flags)))?;
        Ok(true)
    }

    /// The same in the store itself, finding out whether the key is new.
    #[cold]
    fn set_looking(&mut self, key: &[u8], value: &[u8], options: &SetOptions) -> Result<bool> {
        self.update(key, |current| {
            let Some(expires_at_ms) = expiry_if(options, current.as_ref().map(|current| &current.meta))
            else {
                return Ok((Update::Keep, false));
            };
            let (encoding, flags) = (options.encoding, options.flags);
            Ok((Update::Set { value: value.to_vec(), encoding, expires_at_ms, flags }, true))
        })
    }

    /// Deletes a key; false where it was absent.
    ///
    /// # Errors
    /// Those of the store.
    pub fn delete(&mut self, key: &[u8]) -> Result<bool> {
        if self.is_plain() {
            let was_present = self.store.delete(key)?;
            if was_present {
                self.events.note_change(key);
            }
            return Ok(was_present);
        }
        let is_present = self.meta(key)?.is_some();
        if is_present {
            self.write(key, None)?;
        }
        Ok(is_present)
    }

    /// Reads, decides and writes one key as one step; `decide` may be called more than once. Returns what it said beside the change.
    ///
    /// # Errors
    /// What `decide` returns, and those of the store.
    pub fn update<T>(
        &mut self,
        key: &[u8],
        mut decide: impl FnMut(Option<Current<'_>>) -> Result<(Update, T)>,
    ) -> Result<T> {
        if self.is_plain() {
            let mut said = None;
            let (mut changes, mut is_new) = (false, false);
            self.store.update(key, &mut |current| match decide(current) {
                Ok((update, answer)) => {
                    is_new = current.is_none();
                    changes = match update {
                        Update::Keep => false,
                        Update::Set { .. } => true,
                        Update::Delete => current.is_some(),
                    };
                    said = Some(Ok(answer));
                    Ok(update)
                }
                Err(failure) => {
                    changes = false;
                    said = Some(Err(failure));
                    Ok(Update::Keep)
                }
            })?;
            if changes {
                self.events.note_change(key);
                if is_new {
                    self.events.note_new(key);
                }
            }
            return said.unwrap_or_else(|| Err(Failure::from("ERR the store decided without asking")));
        }
        let current = self.get(key)?;
        let (update, answer) = decide(current.as_ref().map(|(meta, value)| Current { meta: *meta, value }))?;
        match update {
            Update::Keep => {}
            Update::Set { value, encoding, expires_at_ms, flags } => {
                if current.is_none() {
                    self.events.note_new(key);
                }
                self.write(key, Some(Written::new(value, encoding, expires_at_ms, flags)))?;
            }
            Update::Delete if current.is_none() => {}
            Update::Delete => self.write(key, None)?,
        }
        Ok(answer)
    }

    /// Whether a change that is not applied yet deletes this key.
    pub fn is_deleted(&self, key: &[u8]) -> bool {
        self.overlay.as_ref().is_some_and(|overlay| matches!(overlay.written.get(key), Some(None)))
    }

    /// The keys that the store does not have yet: changes that are not applied yet bring them.
    ///
    /// # Errors
    /// Those of the store.
    pub fn new_keys(&self) -> Result<Vec<Vec<u8>>> {
        let mut keys = Vec::new();
        for (key, written) in self.overlay.iter().flat_map(|overlay| &overlay.written) {
            if written.is_some() && self.store.meta(key)?.is_none() {
                keys.push(key.clone());
            }
        }
        Ok(keys)
    }

    /// Does `work` at once or not at all: others see either nothing of it or all, and it sees nothing of theirs in between. It may be called
    /// more than once, each time before anything of the time before has happened. Within another such work it becomes part of that.
    ///
    /// # Errors
    /// What `work` returns, nothing being changed; those of the store.
    pub fn atomically<T>(&mut self, work: impl FnMut(&mut Self) -> Result<T>) -> Result<T> {
        if !self.is_plain() {
            let mut work = work;
            return work(self);
        }
        self.atomically_if(&HashMap::new(), work)?.ok_or_else(|| Failure::from("ERR no version was expected"))
    }

    /// The same, if keys are what they were when it happens; `None` where one is not.
    ///
    /// # Errors
    /// As [`Space::atomically`].
    pub fn atomically_if<T>(
        &mut self,
        expected: &HashMap<Vec<u8>, Watched>,
        mut work: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Option<T>> {
        let mark = self.events.mark();
        for _ in 0..ATTEMPTS_MAX {
            self.events.take_back(mark);
            // Now, too: work that neither reads nor writes leaves nothing to be decided at the end.
            if !self.have(expected)? {
                return Ok(None);
            }
            let seen = expected.iter().map(|(key, watched)| (key.clone(), watched.version)).collect();
            self.overlay = Some(Overlay { seen, ..Overlay::default() });
            let result = work(self);
            let overlay = self.overlay.take().unwrap_or_default();
            match result {
                // Whatever was made of it: a transaction goes on after a command that failed.
                _ if overlay.is_void => {}
                Err(Failure::Store(Error::Conflict(_))) => {}
                Err(failure) => {
                    self.events.take_back(mark);
                    return Err(failure);
                }
                Ok(answer) => match overlay.apply(self.store) {
                    Ok(()) => return Ok(Some(answer)),
                    Err(Error::Conflict(_)) => {}
                    Err(error) => {
                        self.events.take_back(mark);
                        return Err(error.into());
                    }
                },
            }
        }
        self.events.take_back(mark);
        if !self.have(expected)? {
            return Ok(None);
        }
        Err(Failure::from("ERR others kept changing the same keys; try again"))
    }

    /// Whether keys are in the store what they were.
    fn have(&self, expected: &HashMap<Vec<u8>, Watched>) -> Result<bool> {
        for (key, watched) in expected {
            if !watched.is_as_before(self.store, key)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn write(&mut self, key: &[u8], written: Option<Written>) -> Result<()> {
        if let Some(overlay) = &mut self.overlay {
            overlay.written_bytes += written.as_ref().map_or(0, |written| written.value.len());
            if overlay.written_bytes > WRITTEN_BYTES_MAX {
                return Err(Failure::from(
                    "ERR what is to happen at once writes more than 64 MiB of values: split it",
                ));
            }
            overlay.written.insert(key.to_vec(), written);
            // In the order in which it happened. If it does not happen, this is taken back.
            self.events.note_change(key);
        }
        Ok(())
    }
}

/// What a key was when somebody began to watch it.
#[derive(Debug, Clone, Copy)]
pub struct Watched {
    /// Its version; `None`: it was absent.
    version: Option<u64>,
    moves: u64,
}

impl Watched {
    /// What the key is now.
    ///
    /// # Errors
    /// Those of the store.
    pub fn new(store: &Store, key: &[u8]) -> Result<Self> {
        // First: what happens in between then counts as having happened after.
        let moves = store.moves(key);
        Ok(Self { version: store.meta(key)?.map(|meta| meta.version), moves })
    }

    /// Whether nobody has changed it since. Absent keys have no version: that one came and went is known otherwise.
    fn is_as_before(self, store: &Store, key: &[u8]) -> Result<bool> {
        let version = store.meta(key)?.map(|meta| meta.version);
        Ok(version == self.version && (version.is_some() || store.moves(key) == self.moves))
    }
}

/// When a value expires that is stored with these options where there is this one, or none; `None`: it is not stored there.
fn expiry_if(options: &SetOptions, present: Option<&RecordMeta>) -> Option<u64> {
    let holds = match options.condition {
        Condition::Always => true,
        Condition::IfAbsent => present.is_none(),
        Condition::IfPresent => present.is_some(),
        Condition::IfVersion(version) => present.map_or(0, |present| present.version) == version,
    };
    holds.then_some(match present {
        Some(present) if options.keep_ttl => present.expires_at_ms,
        _ => options.expires_at_ms,
    })
}

impl Written {
    fn new(value: Vec<u8>, encoding: u8, expires_at_ms: u64, flags: u32) -> Self {
        let value_len = value.len() as u64;
        // No version that the store gives out, and never the one of an absent key.
        Self { value, meta: RecordMeta { version: u64::MAX, encoding, value_len, expires_at_ms, flags } }
    }
}

impl Overlay {
    /// Notes a version; one that differs from what was seen before means that what was decided on it is void.
    fn see(&mut self, key: &[u8], version: Option<u64>) -> Result<()> {
        match self.seen.entry(key.to_vec()) {
            Entry::Vacant(entry) => {
                entry.insert(version);
                Ok(())
            }
            Entry::Occupied(entry) if *entry.get() == version => Ok(()),
            Entry::Occupied(_) => {
                self.is_void = true;
                Err(Failure::Store(Error::Conflict("a key changed meanwhile".to_owned())))
            }
        }
    }

    fn apply(&self, store: &Store) -> std::result::Result<(), Error> {
        let ops: Vec<BatchOp<'_>> = self
            .written
            .iter()
            .map(|(key, written)| match written {
                Some(Written { value, meta }) => BatchOp::Set {
                    key,
                    value,
                    encoding: meta.encoding,
                    expires_at_ms: meta.expires_at_ms,
                    flags: meta.flags,
                },
                None => BatchOp::Delete { key },
            })
            .collect();
        let expected: Vec<(&[u8], Option<u64>)> =
            self.seen.iter().map(|(key, version)| (key.as_slice(), *version)).collect();
        if ops.is_empty() && expected.len() < 2 {
            return Ok(());
        }
        store.transaction(&ops, &expected)
    }
}
