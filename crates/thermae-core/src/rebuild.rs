//! The index filled: every key's record decided, from what was replayed and what a checkpoint says.
//!
//! Updates were collected by the upper bits of their hash, so each group of partitions is decided and filled by one thread, without waiting for
//! another. Sorting a group brings the updates of one key together, the one that counts first, and puts them in the order of the partitions: so
//! the index is filled table by table. 128 bits of hash stand for a key.
//!
//! An entry of the checkpoint holds unless it leads above what the checkpoint covers, its segment is gone, or a replayed record has its key. Whether
//! one does is only known from the record; so where an entry's tag is that of a replayed key, the record is read, segment by segment.

use crate::checkpoint::Checkpoint;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::index::{ADDRESS_MASK, entry, tag_of};
use crate::layout::{ADDRESS_BITS, Place, SEGMENT_HEADER_BYTES};
use crate::record;
use crate::replay::{Harvest, IS_LARGE, IS_TOMBSTONE, LargeRecord, Update, check_of, has_extents};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Threads at most.
const THREADS_MAX: usize = 16;
/// Groups of partitions that are filled independently.
const GROUPS_MAX: usize = 256;
/// Candidates in one segment from which on it is read whole.
const READ_WHOLE_FROM: usize = 64;

/// Fills an empty index, and notes by slot what was found on the way.
#[derive(Debug)]
pub(crate) struct Rebuild<'a> {
    pub engine: &'a Engine,
    /// Entries of the checkpoint that lead below this offset hold.
    pub covered: &'a [u32],
    /// Records that say what a key is, or that it is not.
    pub counted: &'a [AtomicU32],
    /// Extents that a record names.
    pub named: &'a [AtomicBool],
}

/// What it came to.
#[derive(Debug, Default)]
pub(crate) struct Rebuilt {
    /// Keys.
    pub records: u64,
    /// What was found damaged, one sentence each.
    pub damaged: Vec<String>,
}

impl Rebuild<'_> {
    /// Decides every key and fills the index.
    ///
    /// # Errors
    /// Io; Full where the index does not fit.
    pub(crate) fn fill(
        &self,
        harvests: &mut [Harvest],
        mut checkpoint: Option<Checkpoint>,
        prefix: u64,
    ) -> Result<Rebuilt> {
        let larges: HashMap<u64, LargeRecord> = harvests
            .iter_mut()
            .flat_map(|harvest| std::mem::take(&mut harvest.larges))
            .map(|large| (large.address, large))
            .collect();
        let slots: Vec<Mutex<Group>> = (0..groups(self.engine))
            .map(|group| {
                let parts =
                    harvests.iter_mut().map(|harvest| std::mem::take(&mut harvest.groups[group])).collect();
                Mutex::new(Group { parts, updates: Vec::new(), candidates: Vec::new() })
            })
            .collect();
        if let Some(checkpoint) = &mut checkpoint {
            checkpoint.entries.iter_mut().filter(|word| !self.is_covered(**word)).for_each(|word| *word = 0);
        }
        for_each_group(&slots, |_, group| {
            group.decide(prefix);
            if let Some(checkpoint) = &checkpoint {
                group.find_candidates(self.engine, checkpoint);
            }
            Ok(())
        })?;
        let mut rebuilt = Rebuilt::default();
        if let Some(checkpoint) = &mut checkpoint {
            self.settle_candidates(&slots, checkpoint, &mut rebuilt)?;
        }
        let damaged = Mutex::new(Vec::new());
        let records = AtomicU64::new(0);
        for_each_group(&slots, |number, group| {
            self.fill_group(number, group, checkpoint.as_ref(), &larges, &records, &damaged)
        })?;
        rebuilt.records = records.into_inner();
        rebuilt.damaged.append(&mut lock(&damaged));
        Ok(rebuilt)
    }

    /// Whether an entry of the checkpoint leads to what it covers, and the segment is still there. What lies above is replayed.
    fn is_covered(&self, word: u64) -> bool {
        self.engine.split(word & ADDRESS_MASK).is_some_and(|(slot, offset)| {
            offset >= SEGMENT_HEADER_BYTES && offset < self.covered[slot as usize] as usize
        })
    }

    /// Reads the checkpoint's records that may have the key of a replayed one, and drops the entries of those that do.
    fn settle_candidates(
        &self,
        slots: &[Mutex<Group>],
        checkpoint: &mut Checkpoint,
        rebuilt: &mut Rebuilt,
    ) -> Result<()> {
        let mut all: Vec<(usize, Candidate)> = Vec::new();
        for (number, group) in slots.iter().enumerate() {
            let candidates = std::mem::take(&mut lock(group).candidates);
            all.extend(candidates.into_iter().map(|candidate| (number, candidate)));
        }
        all.sort_unstable_by_key(|(_, candidate)| candidate.address);
        let engine = self.engine;
        let slot_of = |candidate: &(usize, Candidate)| candidate.1.address >> engine.offset_bits;
        let runs: Vec<&[(usize, Candidate)]> =
            all.chunk_by(|one, other| slot_of(one) == slot_of(other)).collect();
        let next = AtomicUsize::new(0);
        let outcomes = in_parallel(runs.len(), || {
            let mut outcomes = Vec::new();
            let mut buffer = Vec::new();
            while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.judge_run(run, slots, &mut buffer, &mut outcomes)?;
            }
            Ok(outcomes)
        })?;
        for outcome in outcomes.into_iter().flatten() {
            match outcome {
                Outcome::Replaced { entry_index, slot, total } => {
                    checkpoint.entries[entry_index] = 0;
                    engine.count_dead_bytes(slot, total);
                }
                Outcome::Damaged { entry_index, what } => {
                    checkpoint.entries[entry_index] = 0;
                    rebuilt.damaged.push(what);
                }
            }
        }
        Ok(())
    }

    fn judge_run(
        &self,
        run: &[(usize, Candidate)],
        slots: &[Mutex<Group>],
        buffer: &mut Vec<u8>,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<()> {
        let engine = self.engine;
        let frame_bytes = engine.geometry.frame_bytes as usize;
        let Some((slot, _)) = run.first().and_then(|(_, candidate)| engine.split(candidate.address)) else {
            return Ok(());
        };
        let segment_id = engine.segment(slot).segment_id.load(Ordering::Relaxed);
        let place = Place::unpack(engine.segment(slot).place.load(Ordering::Relaxed));
        let (Some(durable), Some(frame)) = (&engine.durable, place.cold) else { return Ok(()) };
        let is_whole = run.len() >= READ_WHOLE_FROM;
        if is_whole {
            buffer.resize(self.covered[slot as usize] as usize, 0);
            match durable.read_salvaging(frame, 0, buffer) {
                Ok(_) => {}
                Err(Error::Corrupt(_)) => buffer.clear(),
                Err(error) => return Err(error),
            }
        }
        for (group, candidate) in run {
            let offset = engine.split(candidate.address).map_or(0, |(_, offset)| offset);
            let read;
            let bytes: &[u8] = if is_whole {
                buffer.get(offset..).unwrap_or(&[])
            } else {
                read = engine.salvage_cold(place, offset)?;
                read.as_deref().unwrap_or(&[])
            };
            let entry_index = candidate.entry_index;
            let Some(record) =
                record::parse(bytes, offset, frame_bytes).filter(|record| record.is_intact(segment_id))
            else {
                let what = format!(
                    "segment {segment_id:#x} (slot {slot}): the record at offset {offset} is damaged; its key is lost"
                );
                outcomes.push(Outcome::Damaged { entry_index, what });
                continue;
            };
            let update = lock(&slots[*group]).updates[candidate.update_index];
            let is_same =
                engine.hash(record.key) == update.hash && check_of(engine, record.key) == update.check;
            // A replayed record was live after the checkpoint began, so it is at least as new as what the checkpoint covers.
            if is_same && record.sequence <= update.sequence {
                outcomes.push(Outcome::Replaced { entry_index, slot, total: record.total });
            }
        }
        Ok(())
    }

    /// Fills the partitions of one group.
    fn fill_group(
        &self,
        number: usize,
        group: &mut Group,
        checkpoint: Option<&Checkpoint>,
        larges: &HashMap<u64, LargeRecord>,
        records: &AtomicU64,
        damaged: &Mutex<Vec<String>>,
    ) -> Result<()> {
        let engine = self.engine;
        let now_ms = engine.now_ms();
        let mut winners = Vec::with_capacity(group.updates.len());
        for update in &group.updates {
            let Some((slot, offset)) = engine.split(update.address()) else { continue };
            self.counted[slot as usize].fetch_add(1, Ordering::Relaxed);
            if update.is(IS_TOMBSTONE) {
                engine.segment(slot).tombstone_bytes.fetch_add(update.total() as u32, Ordering::Relaxed);
                continue;
            }
            if update.expiry_ms != 0 && update.expiry_ms <= now_ms {
                continue;
            }
            if update.is(IS_LARGE) {
                match larges.get(&update.address()) {
                    Some(large) if has_extents(engine, large, false)? => self.name_extents(large),
                    _ => {
                        lock(damaged).push(format!(
                            "the large value at slot {slot}, offset {offset} lacks parts of its bytes; its key is lost"
                        ));
                        continue;
                    }
                }
            }
            engine.count_live(slot, update.total(), update.expiry_ms);
            winners
                .push((engine.partition_of(update.hash), entry(engine.tag(update.hash), update.address())));
        }
        let partitions = engine.geometry.partitions as usize / groups(engine);
        let mut rest = &winners[..];
        for partition in (number * partitions) as u32..((number + 1) * partitions) as u32 {
            let count = rest.iter().take_while(|(owner, _)| *owner == partition).count();
            let (mine, others) = rest.split_at(count);
            rest = others;
            let kept = checkpoint.map_or(&[][..], |checkpoint| {
                &checkpoint.entries
                    [checkpoint.starts[partition as usize]..checkpoint.starts[partition as usize + 1]]
            });
            let words =
                || kept.iter().copied().filter(|&word| word != 0).chain(mine.iter().map(|(_, word)| *word));
            let total = words().count() as u32;
            if total == 0 {
                continue;
            }
            let guard = engine.lock_partition(partition);
            engine.reserve_entries(&guard, total).map_err(|_| self.index_does_not_fit())?;
            for word in words() {
                let place =
                    engine.vacancy(&guard, word >> ADDRESS_BITS).map_err(|_| self.index_does_not_fit())?;
                engine.fill_entry(&guard, place, word);
            }
            records.fetch_add(u64::from(total), Ordering::Relaxed);
        }
        Ok(())
    }

    #[cold]
    fn index_does_not_fit(&self) -> Error {
        Error::full(format!(
            "the hot tier of {} has no room for the index of what its cold tier holds: create a store with a larger hot tier and restore a \
             snapshot there",
            self.engine.paths.location
        ))
    }

    fn name_extents(&self, large: &LargeRecord) {
        let mut left = large.value_len;
        for slot in large.extents.iter().filter_map(|&segment_id| self.engine.slot_of(segment_id)) {
            let segment = self.engine.segment(slot);
            let piece = left.min(self.engine.geometry.frame_bytes);
            segment.key_hash.store(large.hash, Ordering::Relaxed);
            segment.live_bytes.store(piece, Ordering::Relaxed);
            left -= piece;
            self.named[slot as usize].store(true, Ordering::Relaxed);
        }
    }
}

/// The updates of some partitions.
#[derive(Debug)]
struct Group {
    /// As the threads found them.
    parts: Vec<Vec<Update>>,
    /// One for each key: the one that counts, by hash.
    updates: Vec<Update>,
    candidates: Vec<Candidate>,
}

/// An entry of the checkpoint that may be the same key's as an update.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    address: u64,
    entry_index: usize,
    update_index: usize,
}

/// What became of a candidate.
#[derive(Debug)]
enum Outcome {
    Replaced { entry_index: usize, slot: u32, total: usize },
    Damaged { entry_index: usize, what: String },
}

impl Group {
    /// Keeps what counts of each key.
    fn decide(&mut self, prefix: u64) {
        let count = self.parts.iter().map(Vec::len).sum();
        let mut updates = Vec::with_capacity(count);
        for part in self.parts.drain(..) {
            updates.extend(part.into_iter().filter(|update| update.sequence <= prefix));
        }
        updates.sort_unstable_by_key(Update::rank);
        updates.dedup_by(|next, kept| next.is_same_key(kept));
        self.updates = updates;
    }

    fn find_candidates(&mut self, engine: &Engine, checkpoint: &Checkpoint) {
        let partition_bits = engine.geometry.partition_bits();
        let mut from = 0;
        while from < self.updates.len() {
            let partition = engine.partition_of(self.updates[from].hash);
            let count =
                self.updates[from..].partition_point(|update| engine.partition_of(update.hash) == partition);
            let mine = &self.updates[from..from + count];
            // Sorted by hash, hence by tag within a partition.
            let tag = |update: &Update| tag_of(update.hash, partition_bits);
            for entry_index in
                checkpoint.starts[partition as usize]..checkpoint.starts[partition as usize + 1]
            {
                let word = checkpoint.entries[entry_index];
                if word == 0 {
                    continue;
                }
                let first = mine.partition_point(|update| tag(update) < word >> ADDRESS_BITS);
                for (index, _) in mine
                    .iter()
                    .enumerate()
                    .skip(first)
                    .take_while(|(_, update)| tag(update) == word >> ADDRESS_BITS)
                {
                    self.candidates.push(Candidate {
                        address: word & ADDRESS_MASK,
                        entry_index,
                        update_index: from + index,
                    });
                }
            }
            from += count;
        }
    }
}

/// How many groups the partitions fall into: a power of two.
pub(crate) fn groups(engine: &Engine) -> usize {
    GROUPS_MAX.min(engine.geometry.partitions as usize)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` on as many threads as there is work and processors for.
pub(crate) fn in_parallel<R: Send>(pieces: usize, work: impl Fn() -> Result<R> + Sync) -> Result<Vec<R>> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = processors.min(THREADS_MAX).min(pieces).max(1);
    if threads == 1 {
        return Ok(vec![work()?]);
    }
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(&work)).collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

fn for_each_group(
    groups: &[Mutex<Group>],
    work: impl Fn(usize, &mut Group) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    in_parallel(groups.len(), || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(group) = groups.get(number) else { return Ok(()) };
            work(number, &mut lock(group))?;
        }
    })
    .map(drop)
}
