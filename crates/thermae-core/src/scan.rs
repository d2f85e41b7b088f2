//! Walking over all keys, partition by partition, without a lock and without a list of what is stored.
//!
//! A partition's entries are read as one consistent copy; each record is then read and counts only if its entry is still the same
//! afterwards, else the partition is read again. So a key that is present throughout is given exactly once; one that comes
//! or goes meanwhile may be given or not. Memory: one partition's keys at a time.

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::index::ADDRESS_MASK;
use crate::read::{RecordMeta, Wanted};
use crate::waiting::check_cancelled;
use std::collections::HashSet;
use std::sync::Arc;

/// A key and what is known of its value.
pub type Key = (Vec<u8>, RecordMeta);

/// A walk over the keys with a prefix.
#[derive(Debug)]
pub struct Scan {
    engine: Arc<Engine>,
    prefix: Vec<u8>,
    partition: u32,
}

/// Times that a partition is read again before what changed is passed over.
const PASSES_MAX: usize = 64;

impl Scan {
    pub(crate) fn new(engine: Arc<Engine>, prefix: &[u8]) -> Self {
        Self { engine, prefix: prefix.to_vec(), partition: 0 }
    }

    /// The next keys and what is known of their values; `None` at the end. Never an empty list.
    ///
    /// # Errors
    /// Closed, Cancelled, and those of reading.
    pub fn next_batch(&mut self) -> Result<Option<Vec<Key>>> {
        while self.partition < self.engine.geometry.partitions {
            self.engine.check_usable()?;
            check_cancelled()?;
            let keys = self.read_partition(self.partition)?;
            self.partition += 1;
            if !keys.is_empty() {
                return Ok(Some(keys));
            }
        }
        Ok(None)
    }

    fn read_partition(&self, partition: u32) -> Result<Vec<Key>> {
        let mut keys = Vec::new();
        let mut done = HashSet::new();
        let mut seen = HashSet::new();
        let mut unreadable = Vec::new();
        let mut failure = None;
        for _ in 0..PASSES_MAX {
            unreadable.clear();
            for entry in self.engine.partition_entries(partition) {
                if done.contains(&entry) {
                    continue;
                }
                let read =
                    self.engine.with_locked_record(entry & ADDRESS_MASK, |record| Some(record.key.to_vec()));
                let Some(key) = read.unwrap_or_else(|error| {
                    failure = Some((entry, error));
                    None
                }) else {
                    unreadable.push(entry);
                    continue;
                };
                let hash = self.engine.hash(&key);
                if self.engine.partition_of(hash) != partition || !self.engine.is_current(hash, entry) {
                    unreadable.push(entry);
                    continue;
                }
                done.insert(entry);
                if !key.starts_with(&self.prefix) || !seen.insert(key.clone()) {
                    continue;
                }
                // The look-up decides on expiry and on transactions that are not decided.
                if let Some(found) =
                    self.engine.find(Wanted { key: &key, hash }, &mut |_| std::ptr::null_mut())?
                {
                    keys.push((key, found.meta));
                }
            }
            if unreadable.is_empty() {
                return Ok(keys);
            }
        }
        // What changed all the while may be passed over, but not what stayed where it was and can't be read.
        let entries = self.engine.partition_entries(partition);
        if let Some((_, error)) =
            failure.filter(|(entry, _)| unreadable.contains(entry) && entries.contains(entry))
        {
            return Err(error);
        }
        match unreadable.iter().find(|entry| entries.contains(entry)) {
            Some(entry) => Err(Error::corrupt(format!(
                "index partition {partition} of {} holds entry {entry:#018x}, which leads to no intact record; \
                 run `thermae check --repair` to set it aside, or restore a snapshot",
                self.engine.paths.location
            ))),
            None => Ok(keys),
        }
    }
}
