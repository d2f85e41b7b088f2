//! Walking over all keys, partition by partition, without a lock and without a list of what is stored.
//!
//! A partition's entries are read as one consistent copy; each record is then read and counts only if its entry is still the same
//! afterwards, else the partition is read again. So a key that is present throughout is given exactly once; one that comes
//! or goes meanwhile may be given or not. Memory: one partition's keys at a time.
//!
//! Who can't hold a walk between calls names a **position** instead: a partition and a tag, that is, the first bits of a hash. Keys come in the order of
//! these bits, which never change, whatever happens to a table meanwhile; so a walk in steps has the same guarantee, and a store remembers nothing of
//! it. Rejected: a place in a table as the position: growing tables would move keys past it.

use crate::background::give_way;
use crate::bucket::TAG_BITS;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::index::ADDRESS_MASK;
use crate::layout::ADDRESS_BITS;
use crate::read::{RecordMeta, Wanted};
use crate::waiting::check_cancelled;
use std::collections::HashSet;
use std::ops::RangeInclusive;
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
/// Keys that a walk in the background reads in a piece of work: some 20 us.
const KEYS_PER_PIECE: usize = 32;
/// The greatest tag.
const TAG_MAX: u64 = (1 << TAG_BITS) - 1;
/// Partitions that a step looks at before it ends with fewer keys than were asked for: a quarter of a millisecond where they are empty.
const STEP_PARTITIONS_MIN: usize = 4096;
/// The same, for each key that was asked for.
const STEP_PARTITIONS_PER_KEY: usize = 64;
/// Neighbours of which a random key is one: so that those after a gap are not chosen more often than others.
const RANDOM_AMONG: usize = 16;

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
            let keys = self.read_partition(self.partition, 0..=TAG_MAX)?;
            self.partition += 1;
            if !keys.is_empty() {
                return Ok(Some(keys));
            }
        }
        Ok(None)
    }

    /// Looks at about `keys` keys from a position on. Returns those with the prefix, and the position to go on from, `None` at the end.
    pub(crate) fn step(&self, position: u64, keys: usize) -> Result<(Vec<Key>, Option<u64>)> {
        let mut found = Vec::new();
        let mut keys_left = keys.max(1);
        let mut partitions_left = STEP_PARTITIONS_MIN.max(keys.saturating_mul(STEP_PARTITIONS_PER_KEY));
        let mut position = position;
        while position < self.end() {
            if keys_left == 0 || partitions_left == 0 {
                return Ok((found, Some(position)));
            }
            self.engine.check_usable()?;
            check_cancelled()?;
            let (partition, first_tag) = ((position >> TAG_BITS) as u32, position & TAG_MAX);
            let mut tags = self.engine.partition_entries(partition);
            tags.iter_mut().for_each(|entry| *entry >>= ADDRESS_BITS);
            tags.retain(|tag| *tag >= first_tag);
            // Entries with one tag stay together: no position lies between them.
            let last_tag =
                if tags.len() > keys_left { *tags.select_nth_unstable(keys_left - 1).1 } else { TAG_MAX };
            if !tags.is_empty() {
                found.append(&mut self.read_partition(partition, first_tag..=last_tag)?);
            }
            keys_left = keys_left.saturating_sub(tags.len());
            partitions_left -= 1;
            position = (u64::from(partition) << TAG_BITS) + last_tag + 1;
        }
        Ok((found, None))
    }

    /// A key with the prefix that `accepts` accepts, any of them, each about as likely.
    pub(crate) fn random(&self, mut accepts: impl FnMut(&[u8]) -> bool) -> Result<Option<Vec<u8>>> {
        let random = || self.engine.env.random_u64();
        let mut keys: Vec<Key> = Vec::new();
        let (mut position, mut has_wrapped) = (random() % self.end(), false);
        loop {
            let (mut found, next) = self.step(position, RANDOM_AMONG - keys.len())?;
            found.retain(|key| accepts(&key.0) && !keys.contains(key));
            keys.append(&mut found);
            // Behind the last key comes the first: it would be chosen less often than others if it had nothing before it.
            let is_enough = keys.len() >= RANDOM_AMONG || next.is_some() && !keys.is_empty();
            if is_enough || next.is_none() && has_wrapped {
                break;
            }
            has_wrapped |= next.is_none();
            position = next.unwrap_or(0);
        }
        let chosen = random().checked_rem(keys.len() as u64);
        Ok(chosen.map(|chosen| keys.swap_remove(chosen as usize).0))
    }

    /// The first position after all keys.
    fn end(&self) -> u64 {
        u64::from(self.engine.geometry.partitions) << TAG_BITS
    }

    /// The keys of a partition whose tags are among these.
    fn read_partition(&self, partition: u32, tags: RangeInclusive<u64>) -> Result<Vec<Key>> {
        let mut keys = Vec::new();
        let mut done = HashSet::new();
        let mut seen = HashSet::new();
        let mut unreadable = Vec::new();
        let mut failure = None;
        for _ in 0..PASSES_MAX {
            unreadable.clear();
            for (number, entry) in self.engine.partition_entries(partition).into_iter().enumerate() {
                if number % KEYS_PER_PIECE == KEYS_PER_PIECE - 1 {
                    give_way();
                }
                if done.contains(&entry) || !tags.contains(&(entry >> ADDRESS_BITS)) {
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
