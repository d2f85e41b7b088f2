//! The index filled: every key's record decided, from what was replayed and what a checkpoint says.
//!
//! Updates were collected by the upper bits of their hash, so each group of partitions is decided and filled by one thread, without waiting for
//! another, and small enough to stay in its processor's cache meanwhile. A hash table finds the updates of one key, of which the first in rank is
//! kept; then the index is filled table by table, each as large as it has to be. 128 bits of hash stand for a key. What is counted by slot is
//! added up by each thread for itself. Rejected: sorting each group (twice the time), and counting in shared memory at once (threads
//! that meet in the same slots wait for each other at every record).
//!
//! An entry of the checkpoint holds unless it leads above what the checkpoint covers, its segment is gone, or a replayed record has its key. Whether
//! one does is only known from the record; so where an entry's tag is that of a replayed key, the record is read, segment by segment.

use crate::checkpoint::Checkpoint;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::index::{ADDRESS_MASK, entry, tag_of};
use crate::layout::{ADDRESS_BITS, Place, SEGMENT_HEADER_BYTES};
use crate::record;
use crate::replay::{Harvest, LargeRecord, check_of, has_extents};
use crate::updates::{IS_LARGE, IS_TOMBSTONE, Update};
use crate::waiting::Cancellation;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
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
        let harvests = &*harvests;
        let slots: Vec<Mutex<Group>> =
            (0..groups(self.engine)).map(|_| Mutex::new(Group::default())).collect();
        if let Some(checkpoint) = &mut checkpoint {
            checkpoint.entries.iter_mut().filter(|word| !self.is_covered(**word)).for_each(|word| *word = 0);
        }
        if let Some(checkpoint) = &checkpoint {
            for_each_group(
                &slots,
                || Scratch::new(0),
                |number, group, scratch| {
                    group.decide(number, harvests, prefix, scratch);
                    group.find_candidates(self.engine, checkpoint);
                    Ok(())
                },
            )?;
        }
        let mut rebuilt = Rebuilt::default();
        if let Some(checkpoint) = &mut checkpoint {
            self.settle_candidates(&slots, checkpoint, &mut rebuilt)?;
        }
        let damaged = Mutex::new(Vec::new());
        let slot_count = self.counted.len();
        let tallies = for_each_group(
            &slots,
            || Scratch::new(slot_count),
            |number, group, scratch| {
                if checkpoint.is_none() {
                    group.decide(number, harvests, prefix, scratch);
                }
                self.fill_group(number, group, checkpoint.as_ref(), &larges, scratch, &damaged)?;
                scratch.updates = std::mem::take(&mut group.updates);
                Ok(())
            },
        )?;
        rebuilt.records = tallies.iter().map(|scratch| scratch.records).sum();
        tallies.iter().for_each(|scratch| self.add_up(&scratch.slots));
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
                    "segment {segment_id:#x} (slot {slot}): the record at offset {offset} is damaged; its key is lost, unless it was stored anew or deleted since"
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

    /// Adds what one thread counted to what the slots say.
    fn add_up(&self, tallies: &[Tally]) {
        for (slot, tally) in tallies.iter().enumerate().filter(|(_, tally)| tally.counted > 0) {
            let segment = self.engine.segment(slot as u32);
            self.counted[slot].fetch_add(tally.counted, Ordering::Relaxed);
            segment.live_bytes.fetch_add(tally.live_bytes, Ordering::Relaxed);
            segment.tombstone_bytes.fetch_add(tally.tombstone_bytes, Ordering::Relaxed);
        }
    }

    /// Fills the partitions of one group.
    fn fill_group(
        &self,
        number: usize,
        group: &mut Group,
        checkpoint: Option<&Checkpoint>,
        larges: &HashMap<u64, LargeRecord>,
        scratch: &mut Scratch,
        damaged: &Mutex<Vec<String>>,
    ) -> Result<()> {
        let engine = self.engine;
        let now_ms = engine.now_ms();
        let partitions = engine.geometry.partitions as usize / groups(engine);
        let first_partition = number * partitions;
        let Scratch { winners, words, starts, slots, .. } = scratch;
        winners.clear();
        starts.clear();
        starts.resize(partitions + 1, 0);
        for update in &group.updates {
            let Some((slot, offset)) = engine.split(update.address()) else { continue };
            let tally = &mut slots[slot as usize];
            tally.counted += 1;
            if update.is(IS_TOMBSTONE) {
                tally.tombstone_bytes += update.total() as u32;
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
            tally.live_bytes += update.total() as u32;
            engine.note_expiry(slot, update.expiry_ms);
            let partition = engine.partition_of(update.hash) as usize - first_partition;
            starts[partition + 1] += 1;
            winners.push((partition, entry(engine.tag(update.hash), update.address())));
        }
        order_by_partition(winners, starts, words);
        for partition in 0..partitions {
            // The ordering moved each start to its end.
            let mine = &words[partition.checked_sub(1).map_or(0, |before| starts[before])..starts[partition]];
            let kept = checkpoint.map_or(&[][..], |checkpoint| {
                let partition = first_partition + partition;
                &checkpoint.entries[checkpoint.starts[partition]..checkpoint.starts[partition + 1]]
            });
            scratch.records += self.fill_partition((first_partition + partition) as u32, kept, mine)?;
        }
        Ok(())
    }

    /// Fills one partition with what a checkpoint says (zeros are what it no longer says) and what was replayed. Returns how many entries it has.
    fn fill_partition(&self, partition: u32, kept: &[u64], mine: &[u64]) -> Result<u64> {
        let engine = self.engine;
        let words = || kept.iter().chain(mine).copied().filter(|&word| word != 0);
        let total = words().count() as u32;
        if total == 0 {
            return Ok(0);
        }
        let guard = engine.lock_partition(partition);
        engine.reserve_entries(&guard, total).map_err(|_| self.index_does_not_fit())?;
        for word in words() {
            let place =
                engine.vacancy(&guard, word >> ADDRESS_BITS).map_err(|_| self.index_does_not_fit())?;
            engine.fill_entry(&guard, place, word);
        }
        Ok(u64::from(total))
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

/// What one thread needs from group to group, and what it counts.
#[derive(Debug, Default)]
struct Scratch {
    /// By bits of the key's second hash: an update plus one.
    table: Vec<u32>,
    /// Memory for the next group's updates.
    updates: Vec<Update>,
    /// Partition within the group, and the entry.
    winners: Vec<(usize, u64)>,
    /// The entries of all partitions of a group, one partition after the other.
    words: Vec<u64>,
    starts: Vec<usize>,
    /// Keys.
    records: u64,
    /// By slot.
    slots: Vec<Tally>,
}

impl Scratch {
    fn new(slots: usize) -> Self {
        Self { slots: vec![Tally::default(); slots], ..Self::default() }
    }
}

/// What was counted in one slot.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    counted: u32,
    live_bytes: u32,
    tombstone_bytes: u32,
}

/// Sorts entries by their partition, by counting. On entry `starts[partition + 1]` is how many the partition has; afterwards
/// `starts[partition]` is where its entries end.
fn order_by_partition(winners: &[(usize, u64)], starts: &mut [usize], words: &mut Vec<u64>) {
    let mut end = 0;
    for start in &mut *starts {
        end += *start;
        *start = end;
    }
    words.clear();
    words.resize(winners.len(), 0);
    for &(partition, word) in winners {
        words[starts[partition]] = word;
        starts[partition] += 1;
    }
}

/// The updates of some partitions.
#[derive(Debug, Default)]
struct Group {
    /// One for each key: the one that counts.
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
    /// Keeps what counts of each key in the group.
    fn decide(&mut self, number: usize, harvests: &[Harvest], prefix: u64, scratch: &mut Scratch) {
        let count: usize = harvests.iter().map(|harvest| harvest.updates.count(number)).sum();
        let table = &mut scratch.table;
        table.clear();
        // At most half full, so that every search ends.
        table.resize((2 * count).next_power_of_two(), 0);
        let mask = table.len() - 1;
        let mut updates = std::mem::take(&mut scratch.updates);
        updates.clear();
        updates.reserve(count);
        let found = harvests.iter().flat_map(|harvest| harvest.updates.of_group(number));
        for update in found.filter(|update| update.sequence <= prefix) {
            let mut at = update.check as usize & mask;
            loop {
                let Some(kept) = table[at].checked_sub(1).map(|index| &mut updates[index as usize]) else {
                    updates.push(update);
                    table[at] = updates.len() as u32;
                    break;
                };
                if kept.is_same_key(&update) {
                    if update.rank() < kept.rank() {
                        *kept = update;
                    }
                    break;
                }
                at = (at + 1) & mask;
            }
        }
        self.updates = updates;
    }

    /// Finds the entries of a checkpoint that may be those of an updated key.
    fn find_candidates(&mut self, engine: &Engine, checkpoint: &Checkpoint) {
        self.updates.sort_unstable_by_key(|update| update.hash);
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
    let (work, cancellation) = (&work, Cancellation::current());
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|_| {
                let cancellation = cancellation.clone();
                scope.spawn(move || cancellation.run(work))
            })
            .collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// Goes through all groups; each thread has a state of its own, which is returned.
fn for_each_group<S: Send>(
    groups: &[Mutex<Group>],
    state: impl Fn() -> S + Sync,
    work: impl Fn(usize, &mut Group, &mut S) -> Result<()> + Sync,
) -> Result<Vec<S>> {
    let next = AtomicUsize::new(0);
    in_parallel(groups.len(), || {
        let mut state = state();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(group) = groups.get(number) else { return Ok(state) };
            work(number, &mut lock(group), &mut state)?;
        }
    })
}
