//! Memory for index tables, inside hot frames.
//!
//! Tables are runs of granules (four buckets, 256 bytes) in frames taken from the hot pool, so the index counts towards the one memory
//! limit. Each such frame begins with a bitmap of its granules, the bitmap's own included. Freed runs merge by themselves, being bits.
//! Everything happens under the arena lock; a bitmap can be recomputed from the partitions' directory words, published and pending.
//!
//! A freed table may be reused at once: readers validate the directory word after reading, so what they saw there meanwhile is discarded.
//!
//! Rejected: size classes with free lists. All partitions grow at about the same time, so tables of one size are freed when nobody
//! wants that size again: up to four times the memory in use would lie in the lists.

use crate::engine::{Engine, LockGuard};
use crate::index::Table;
use crate::layout::BUCKET_BYTES;
use crate::segment::Room;
use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets of a granule.
pub const GRANULE_BUCKETS: u32 = 4;
/// Bytes of a granule.
pub const GRANULE_BYTES: usize = GRANULE_BUCKETS as usize * BUCKET_BYTES;

impl Engine {
    pub(crate) fn lock_arena(&self) -> LockGuard<'_> {
        self.lock(&self.globals().arena_lock, |_| self.repair_arena())
    }

    fn granules_per_frame(&self) -> usize {
        self.geometry.frame_bytes as usize / GRANULE_BYTES
    }

    fn bitmap(&self, frame: u32) -> &[AtomicU64] {
        let words = self.granules_per_frame() / 64;
        self.hot.slice(frame as usize * self.geometry.frame_bytes as usize, words)
    }

    /// Granules that a frame's own bitmap takes.
    fn bitmap_granules(&self) -> usize {
        (self.granules_per_frame() / 8).div_ceil(GRANULE_BYTES)
    }

    /// Zeroed memory for `buckets` buckets (a multiple of four), noted as pending for the partition until it is published.
    pub(crate) fn allocate_table(&self, partition: u32, buckets: u32, version: u16) -> Result<Table, Room> {
        let granules = (buckets / GRANULE_BUCKETS) as usize;
        let _arena = self.lock_arena();
        let globals = self.globals();
        let count = (globals.index_frames.load(Ordering::Acquire) as usize).min(self.index_frames().len());
        let start = globals.arena_cursor.load(Ordering::Relaxed) as usize;
        let found = (0..count).map(|step| (start + step) % count).find_map(|at| {
            let frame = self.index_frames()[at].load(Ordering::Relaxed);
            find_run(self.bitmap(frame), granules).map(|granule| (at, frame, granule))
        });
        let (at, frame, granule) = match found {
            Some(found) => found,
            None => {
                let frame = self.take_index_frame()?;
                self.format_index_frame(frame);
                (count, frame, self.bitmap_granules())
            }
        };
        globals.arena_cursor.store(u32::try_from(at).unwrap_or(0), Ordering::Relaxed);
        let offset = frame as usize * self.geometry.frame_bytes as usize + granule * GRANULE_BYTES;
        let table = Table { line: (offset / BUCKET_BYTES) as u64, buckets, version };
        self.partitions()[partition as usize].pending_table.store(table.pack(), Ordering::Release);
        mark_run(self.bitmap(frame), granule, granules, true);
        self.hot.slice::<AtomicU64>(offset, buckets as usize * BUCKET_BYTES / 8).iter().for_each(|word| word.store(0, Ordering::Relaxed));
        Ok(table)
    }

    fn format_index_frame(&self, frame: u32) {
        self.bitmap(frame).iter().for_each(|word| word.store(0, Ordering::Relaxed));
        mark_run(self.bitmap(frame), 0, self.bitmap_granules(), true);
    }

    /// Ends a growth: the new table is published, so the pending note goes and the old table's memory is free.
    pub(crate) fn release_table(&self, partition: u32, old: Option<Table>) {
        let _arena = self.lock_arena();
        self.partitions()[partition as usize].pending_table.store(0, Ordering::Release);
        if let Some((frame, granule)) = old.and_then(|table| self.table_granule(table)) {
            let granules = old.map_or(0, |table| table.buckets / GRANULE_BUCKETS) as usize;
            mark_run(self.bitmap(frame), granule, granules, false);
        }
    }

    fn table_granule(&self, table: Table) -> Option<(u32, usize)> {
        let offset = usize::try_from(table.line).ok()? * BUCKET_BYTES;
        let frame_bytes = self.geometry.frame_bytes as usize;
        let frame = u32::try_from(offset / frame_bytes).ok()?;
        (table.buckets > 0 && frame < self.geometry.hot_frames).then_some((frame, offset % frame_bytes / GRANULE_BYTES))
    }

    /// Recomputes all bitmaps from the tables in use. Under the arena lock, just inherited.
    pub(crate) fn repair_arena(&self) {
        let count = self.globals().index_frames.load(Ordering::Acquire) as usize;
        let frames: Vec<u32> = self.index_frames().iter().take(count).map(|frame| frame.load(Ordering::Relaxed)).collect();
        frames.iter().for_each(|&frame| self.format_index_frame(frame));
        let words = self.directory().iter().map(|word| word.load(Ordering::Acquire));
        let pending = self.partitions().iter().map(|partition| partition.pending_table.load(Ordering::Acquire));
        for table in words.chain(pending).map(Table::unpack) {
            if let Some((frame, granule)) = self.table_granule(table).filter(|(frame, _)| frames.contains(frame)) {
                mark_run(self.bitmap(frame), granule, (table.buckets / GRANULE_BUCKETS) as usize, true);
            }
        }
    }

    /// Bytes of index tables in use, and of the frames that hold them.
    pub fn index_bytes(&self) -> (u64, u64) {
        let used: u64 = self
            .directory()
            .iter()
            .map(|word| u64::from(Table::unpack(word.load(Ordering::Relaxed)).buckets) * BUCKET_BYTES as u64)
            .sum();
        let frames = u64::from(self.globals().index_frames.load(Ordering::Relaxed));
        (used, frames * u64::from(self.geometry.frame_bytes))
    }
}

/// First run of `wanted` clear bits.
fn find_run(bitmap: &[AtomicU64], wanted: usize) -> Option<usize> {
    let mut run = 0;
    for (index, word) in bitmap.iter().enumerate() {
        let bits = word.load(Ordering::Relaxed);
        if bits == u64::MAX {
            run = 0;
            continue;
        }
        if bits == 0 {
            run += 64;
            if run >= wanted {
                return Some((index + 1) * 64 - run);
            }
            continue;
        }
        for bit in 0..64 {
            run = if bits >> bit & 1 == 0 { run + 1 } else { 0 };
            if run >= wanted {
                return Some(index * 64 + bit + 1 - wanted);
            }
        }
    }
    None
}

fn mark_run(bitmap: &[AtomicU64], first: usize, count: usize, used: bool) {
    for granule in first..first + count {
        let Some(word) = bitmap.get(granule / 64) else { return };
        let bit = 1_u64 << (granule % 64);
        let bits = word.load(Ordering::Relaxed);
        word.store(if used { bits | bit } else { bits & !bit }, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_across_words_and_freed_runs_merge() {
        let bitmap: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
        assert_eq!(find_run(&bitmap, 200), Some(0));
        mark_run(&bitmap, 0, 60, true);
        assert_eq!(find_run(&bitmap, 100), Some(60));
        mark_run(&bitmap, 60, 100, true);
        assert_eq!(find_run(&bitmap, 97), None);
        assert_eq!(find_run(&bitmap, 96), Some(160));
        mark_run(&bitmap, 10, 20, false);
        mark_run(&bitmap, 30, 40, false);
        assert_eq!(find_run(&bitmap, 60), Some(10));
        assert_eq!(find_run(&bitmap, 61), Some(160));
        mark_run(&bitmap, 0, 256, true);
        assert_eq!(find_run(&bitmap, 1), None);
    }
}
