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
