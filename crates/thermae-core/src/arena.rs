//! Memory for index tables, inside hot frames or, where the store says so, warm ones.
//!
//! Tables are runs of granules (four buckets, 256 bytes) in frames taken from the pools, so the index counts towards the tiers'
//! limits. Warm frames have the numbers behind the hot ones here, as they are mapped behind them; what is in them is as volatile. Each such frame begins with a bitmap of its granules, the bitmap's own included. Freed runs merge by themselves, being bits.
//! Everything happens under the arena lock; a bitmap can be recomputed from the partitions' directory words, published and pending.
//!
//! A freed table may be reused at once: readers validate the directory word after reading, so what they saw there meanwhile is discarded.
//!
//! Rejected: size classes with free lists. All partitions grow at about the same time, so tables of one size are freed when nobody
//! wants that size again: up to four times the memory in use would lie in the lists.

use crate::crash::crash_point;
use crate::engine::{Engine, LockGuard};
use crate::layout::{BUCKET_BYTES, Table};
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

    /// The frames that are listed as holding tables, and their places in the list. A number that can't be is passed over, and so are all where
    /// their count can't be, for what is beyond it says nothing; `check` reports both.
    fn listed_frames(&self) -> impl Iterator<Item = (usize, u32)> {
        let count = self.globals().index_frames.load(Ordering::Acquire) as usize;
        let listed = self.index_frames().get(..count).unwrap_or_default();
        let frames = listed.iter().map(|frame| frame.load(Ordering::Relaxed));
        frames.enumerate().filter(|&(_, frame)| frame < self.index_frames_max())
    }

    /// Zeroed memory for `buckets` buckets (a multiple of four), noted as pending for the partition until it is published.
    pub(crate) fn allocate_table(&self, partition: u32, buckets: u32, version: u16) -> Result<Table, Room> {
        let granules = (buckets / GRANULE_BUCKETS) as usize;
        let _arena = self.lock_arena();
        let globals = self.globals();
        let count = (globals.index_frames.load(Ordering::Acquire) as usize).min(self.index_frames().len());
        let start = globals.arena_cursor.load(Ordering::Relaxed) as usize;
        let from_start = self.listed_frames().skip_while(|&(at, _)| at < start);
        let found = from_start.chain(self.listed_frames().take_while(|&(at, _)| at < start)).find_map(
            |(at, frame)| find_run(self.bitmap(frame), granules).map(|granule| (at, frame, granule)),
        );
        let (at, frame, granule) = match found {
            Some(found) => found,
            None => {
                if self.bitmap_granules() + granules > self.granules_per_frame() {
                    return Err(Room::Index(partition));
                }
                let frame = self.take_index_frame(partition)?;
                self.format_index_frame(frame);
                (count, frame, self.bitmap_granules())
            }
        };
        globals.arena_cursor.store(u32::try_from(at).unwrap_or(0), Ordering::Relaxed);
        let offset = frame as usize * self.geometry.frame_bytes as usize + granule * GRANULE_BYTES;
        let table = Table { line: (offset / BUCKET_BYTES) as u64, buckets, version };
        self.partitions()[partition as usize].pending_table.store(table.pack(), Ordering::Release);
        mark_run(self.bitmap(frame), granule, granules, true);
        crash_point!("table.allocated");
        self.hot
            .slice::<AtomicU64>(offset, buckets as usize * BUCKET_BYTES / 8)
            .iter()
            .for_each(|word| word.store(0, Ordering::Relaxed));
        Ok(table)
    }

    fn format_index_frame(&self, frame: u32) {
        self.bitmap(frame).iter().for_each(|word| word.store(0, Ordering::Relaxed));
        mark_run(self.bitmap(frame), 0, self.bitmap_granules(), true);
    }

    /// Ends a growth: publishes the new table and frees the old one's memory, both under the arena lock: a repair of the arena, which knows
    /// tables by their being published or pending, never falls in between.
    pub(crate) fn publish_table(&self, partition: u32, new: Table, old: Table) {
        let _arena = self.lock_arena();
        self.directory()[partition as usize].store(new.pack(), Ordering::SeqCst);
        crash_point!("table.published");
        self.end_growth(partition, Some(old));
    }

    /// Gives up a growth that was not finished: the pending note goes, and the memory of `table` is free.
    pub(crate) fn release_table(&self, partition: u32, table: Option<Table>) {
        let _arena = self.lock_arena();
        self.end_growth(partition, table);
    }

    fn end_growth(&self, partition: u32, unused: Option<Table>) {
        self.partitions()[partition as usize].pending_table.store(0, Ordering::Release);
        let place = unused.and_then(|table| self.table_granule(table));
        // Of a damaged word the bits would be another frame's bytes.
        let is_listed = |&(frame, _): &(u32, usize)| self.listed_frames().any(|(_, listed)| listed == frame);
        if let Some((frame, granule)) = place.filter(is_listed) {
            let granules = unused.map_or(0, |table| table.buckets / GRANULE_BUCKETS) as usize;
            mark_run(self.bitmap(frame), granule, granules, false);
        }
    }

    fn table_granule(&self, table: Table) -> Option<(u32, usize)> {
        let offset = usize::try_from(table.line).ok()? * BUCKET_BYTES;
        let frame_bytes = self.geometry.frame_bytes as usize;
        let frame = u32::try_from(offset / frame_bytes).ok()?;
        (table.buckets > 0 && frame < self.index_frames_max())
            .then_some((frame, offset % frame_bytes / GRANULE_BYTES))
    }

    /// Recomputes all bitmaps from the tables in use. Under the arena lock, just inherited.
    pub(crate) fn repair_arena(&self) {
        let frames: Vec<u32> = self.listed_frames().map(|(_, frame)| frame).collect();
        frames.iter().for_each(|&frame| self.format_index_frame(frame));
        let words = self.directory().iter().map(|word| word.load(Ordering::Acquire));
        let pending =
            self.partitions().iter().map(|partition| partition.pending_table.load(Ordering::Acquire));
        for table in words.chain(pending).map(Table::unpack) {
            if let Some((frame, granule)) =
                self.table_granule(table).filter(|(frame, _)| frames.contains(frame))
            {
                mark_run(self.bitmap(frame), granule, (table.buckets / GRANULE_BUCKETS) as usize, true);
            }
        }
    }

    /// What is wrong with the bitmaps and the tables' places; nothing is changed. The caller holds the arena lock, or reads a store that is not
    /// being written to.
    pub(crate) fn arena_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let count =
            (self.globals().index_frames.load(Ordering::Acquire) as usize).min(self.index_frames().len());
        let words_per_frame = self.granules_per_frame() / 64;
        let mut expected: Vec<(u32, Vec<AtomicU64>)> = Vec::with_capacity(count);
        for frame in self.index_frames().iter().take(count).map(|frame| frame.load(Ordering::Relaxed)) {
            if frame >= self.index_frames_max() || expected.iter().any(|(other, _)| *other == frame) {
                problems.push(format!(
                    "the list of index frames names frame {frame}, which does not exist or is listed twice"
                ));
                continue;
            }
            let bits: Vec<AtomicU64> = (0..words_per_frame).map(|_| AtomicU64::new(0)).collect();
            mark_run(&bits, 0, self.bitmap_granules(), true);
            expected.push((frame, bits));
        }
        let published = self.directory().iter().map(|word| word.load(Ordering::Acquire));
        let pending =
            self.partitions().iter().map(|partition| partition.pending_table.load(Ordering::Acquire));
        let mut seen = std::collections::HashSet::new();
        for word in
            published.chain(pending).filter(|&word| Table::unpack(word).buckets > 0 && seen.insert(word))
        {
            let table = Table::unpack(word);
            let granules = (table.buckets / GRANULE_BUCKETS) as usize;
            let place = self
                .table_granule(table)
                .filter(|&(_, granule)| granule + granules <= self.granules_per_frame());
            let Some((frame, granule)) = place else {
                problems.push(format!("the table {word:#x} is outside of the hot tier"));
                continue;
            };
            let Some((_, bits)) = expected.iter().find(|(other, _)| *other == frame) else {
                problems.push(format!("the table {word:#x} is in frame {frame}, which holds no tables"));
                continue;
            };
            let is_taken = |at: usize| bits[at / 64].load(Ordering::Relaxed) >> (at % 64) & 1 == 1;
            if (granule..granule + granules).any(is_taken) {
                problems.push(format!("the table {word:#x} overlaps another one in frame {frame}"));
            }
            mark_run(bits, granule, granules, true);
        }
        for (frame, bits) in &expected {
            let differs = self
                .bitmap(*frame)
                .iter()
                .zip(bits)
                .any(|(found, wanted)| found.load(Ordering::Relaxed) != wanted.load(Ordering::Relaxed));
            if differs {
                problems
                    .push(format!("the bitmap of index frame {frame} does not agree with the tables in it"));
            }
        }
        problems
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
