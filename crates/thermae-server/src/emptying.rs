//! The store emptied, or one of its databases: key by key, in slices between which a loop serves others.
//!
//! 632,006 keys took 0.9 s to delete, and a loop that did it in one go would answer nobody meanwhile. So a slice ends after [`SLICE`], and
//! whoever asked for the deletion calls for the next one in his next turn, until all is done; what is remembered between two is a position, and no
//! lock is held. A key that was there when it began is gone when it has ended; one that is set meanwhile may stay or go. A disk is waited for once, at the
//! end. Rejected: a thread of its own, which would have to be told of pauses and of the end, and would take the processor from the loops just when
//! they have clients to serve.

use crate::databases::{is_of, prefix_of};
use crate::latency::Moment;
use std::time::{Duration, Instant};
use thermae_core::{Error, Store, deferring};

/// How long a slice takes, but for the last step of it. Others wait so long at most; much shorter ones would let a busy loop get nowhere.
const SLICE: Duration = Duration::from_micros(500);
/// Keys between two looks at the clock, at most: some 100 us where they are in memory. Where each takes a read of a disk, or several, it is fewer.
const KEYS_PER_STEP_MAX: usize = 64;

/// A deletion of all keys that is under way.
#[derive(Debug)]
pub struct Emptying {
    /// All of them where there is none.
    database: Option<u8>,
    position: u64,
    /// Keys between two looks at the clock, by how long the last ones took.
    keys_per_step: usize,
    /// What has to be durable before anybody is told that it is done.
    sequence: u64,
    /// When the command began that asked for it, where it is timed.
    pub began: Option<Moment>,
}

impl Emptying {
    /// Of a database, or of all. Nothing is deleted yet.
    pub fn new(database: Option<u8>) -> Self {
        Self { database, position: 0, keys_per_step: KEYS_PER_STEP_MAX, sequence: 0, began: None }
    }

    /// Deletes as many keys as a slice has time for. Whether that were all.
    ///
    /// # Errors
    /// Those of the store: what was deleted before stays so.
    pub fn go_on(&mut self, store: &Store) -> Result<bool, Error> {
        let (is_done, sequence) = deferring(|| self.delete_some(store));
        self.sequence = self.sequence.max(sequence);
        if is_done? {
            store.acknowledge(self.sequence)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn delete_some(&mut self, store: &Store) -> Result<bool, Error> {
        let prefix = prefix_of(self.database);
        let mut now = Instant::now();
        let until = now + SLICE;
        loop {
            let began = now;
            let (keys, next) = store.scan_step(&prefix, self.position, self.keys_per_step)?;
            let stored = keys.iter().map(|(stored, _)| stored.as_slice());
            let stored: Vec<&[u8]> = stored.filter(|stored| is_of(self.database, stored)).collect();
            store.delete_many(&stored)?;
            let Some(next) = next else { return Ok(true) };
            self.position = next;
            now = Instant::now();
            self.keys_per_step = match now - began {
                took if took > SLICE => (self.keys_per_step / 2).max(1),
                took if took < SLICE / 4 => (self.keys_per_step * 2).min(KEYS_PER_STEP_MAX),
                _ => self.keys_per_step,
            };
            if now >= until {
                return Ok(false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::databases::stored_key;
    use thermae_core::{Durability, Location, Options, SetOptions, destroy};

    const KEYS: u32 = 10_000;

    #[test]
    fn it_goes_on_slice_by_slice_and_a_disk_is_waited_for_once() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            hot_bytes: Some(16 << 20),
            cold_bytes: Some(16 << 20),
            durability: Some(Durability::Always),
            ..Options::default()
        };
        let location = Location::Directory(directory.path().join("store"));
        let store = Store::open(&location, &options).unwrap();
        let ((), last) = deferring(|| {
            for number in 0..KEYS {
                let key = format!("key:{number}");
                store.set(&stored_key(1, key.as_bytes()), b"", &SetOptions::default()).unwrap();
            }
            store.set(b"kept", b"", &SetOptions::default()).unwrap();
        });
        let (mut emptying, mut slices) = (Emptying::new(Some(1)), 1);
        let sequence = loop {
            let (is_done, sequence) = deferring(|| emptying.go_on(&store).unwrap());
            if is_done {
                break sequence;
            }
            assert_eq!(sequence, 0, "nothing is to be waited for before the end");
            slices += 1;
        };
        assert!(slices > 2, "{slices}");
        assert!(sequence >= last + u64::from(KEYS), "{sequence} {last}");
        assert_eq!(store.len().unwrap(), 1);
        store.wait_durable(sequence).unwrap();
        drop(store);
        destroy(&*options.env, &location).unwrap();
    }
}
