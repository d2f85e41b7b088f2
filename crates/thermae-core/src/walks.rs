//! All keys of a store together: how many there are, which, any of them.
//!
//! Nothing here is one moment's picture: others go on writing. What each method promises nevertheless is said there.

use crate::error::Result;
use crate::marked::KEY_MARK;
use crate::scan::{Key, Scan};
use crate::store::Store;

impl Store {
    /// Keys that are present. Expired ones are removed first, so that they do not count.
    ///
    /// # Errors
    /// Closed, Io.
    pub fn len(&self) -> Result<u64> {
        self.enter()?;
        if !self.engine().read_only {
            self.engine().expire_all(self.engine().now_ms())?;
        }
        Ok(self.engine().count_entries())
    }

    /// Whether any key begins with [`KEY_MARK`], as the keys of a server's other databases do. Where there was none when this was asked last, and
    /// none was stored since, that is known at once; else it takes a walk over the keys.
    ///
    /// # Errors
    /// As [`Store::scan_step`].
    pub fn has_marked_keys(&self) -> Result<bool> {
        self.enter()?;
        if self.engine().has_no_marked_keys() {
            return Ok(false);
        }
        let look = (!self.engine().read_only).then(|| self.engine().begin_look());
        let has_any = self.scan(&[KEY_MARK]).next_batch()?.is_some();
        if let Some(look) = look.filter(|_| !has_any) {
            self.engine().end_look(&look);
        }
        Ok(has_any)
    }

    /// A number that is another one after the key came or went, and mostly only then: also after others did whose hashes begin alike. Asked
    /// before the key was found absent and again where it is still absent, it says whether it can have been there in between.
    pub fn moves(&self, key: &[u8]) -> u64 {
        let engine = self.engine();
        let partition = engine.partition_of(engine.hash(key));
        engine.partitions()[partition as usize].moves.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Whether there is no key.
    ///
    /// # Errors
    /// As [`Store::len`].
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Deletes all keys; returns how many.
    ///
    /// # Errors
    /// As [`Store::delete`]; Cancelled.
    pub fn clear(&self) -> Result<u64> {
        self.engine().check_writable()?;
        let mut scan = self.scan(b"");
        let mut count = 0;
        while let Some(batch) = scan.next_batch()? {
            let keys: Vec<&[u8]> = batch.iter().map(|(key, _)| key.as_slice()).collect();
            count += self.delete_many(&keys)?;
        }
        Ok(count)
    }

    /// Walks over the keys that begin with `prefix`.
    pub fn scan(&self, prefix: &[u8]) -> Scan {
        Scan::new(self.engine().clone(), prefix)
    }

    /// A step of a walk over the keys that begin with `prefix`, of which nothing is remembered: looks at about `keys` keys from `position` on (0 = the
    /// first), and returns those that begin so, and the position to go on from; `None` at the end. A key that is present from the first step to
    /// the last is given exactly once. A step's time is bounded: it may find nothing although more is to come.
    ///
    /// # Errors
    /// Closed, Cancelled, and those of reading.
    pub fn scan_step(&self, prefix: &[u8], position: u64, keys: usize) -> Result<(Vec<Key>, Option<u64>)> {
        self.enter()?;
        self.scan(prefix).step(position, keys)
    }

    /// Any of the keys that begin with `prefix` and that `accepts` accepts.
    ///
    /// # Errors
    /// As [`Store::scan_step`].
    pub fn random_key(&self, prefix: &[u8], accepts: impl FnMut(&[u8]) -> bool) -> Result<Option<Vec<u8>>> {
        self.enter()?;
        self.scan(prefix).random(accepts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Sequence;
    use crate::options::{Location, Options};
    use crate::segment::Purpose;
    use crate::store::SetOptions;
    use std::time::Duration;

    /// A look for expired keys that met somebody writing came back a tenth of a second later; meanwhile the expired counted.
    #[test]
    fn what_expired_does_not_count_though_a_look_at_it_was_put_off() {
        let directory = tempfile::tempdir().unwrap();
        let location = Location::Directory(directory.path().join("store"));
        let sizes = Options { hot_bytes: Some(16 << 20), cold_bytes: Some(0), ..Options::default() };
        let store = Store::open(&location, &Options { background: false, ..sizes }).unwrap();
        let engine = store.engine();
        let expiring =
            |left_ms| SetOptions { expires_at_ms: engine.now_ms() + left_ms, ..SetOptions::default() };
        store.set(b"first", b"1", &expiring(1)).unwrap();
        store.set(b"second", b"2", &expiring(60)).unwrap();
        let head = engine.head_for(engine.now_ms() + 60);
        let reserved = engine.reserve(head, |_| 64, Sequence::New(1), Purpose::Write).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        assert!(engine.expire_due(engine.now_ms()).unwrap() > 0);
        // SAFETY: just reserved, and nothing was written there.
        unsafe { engine.abandon(reserved.at, reserved.segment_id, reserved.total, reserved.sequence, 1) };
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(store.len().unwrap(), 0);
        store.close().unwrap();
        drop(store);
        crate::remove::destroy(&crate::env::SystemEnv, &location).unwrap();
    }
}
