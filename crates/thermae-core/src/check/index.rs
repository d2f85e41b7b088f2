//! Verifying the index: every entry leads to an intact record whose key belongs there, no key is there twice, and the counts are right.
//!
//! Entries are read without a lock, as readers do, and a finding counts only if the same entry is still there when it was looked at
//! again. To repair, the partition is locked: an entry that leads to a damaged cache copy is put back to the copy's home, any other is
//! removed. An older version in the log is never put back: nobody could tell it from the current one. An entry whose record can't be read is
//! neither right nor wrong: unless the segments' pass found the device to have lost just that, the check ends there.

use super::Checker;
use crate::arena::GRANULE_BUCKETS;
use crate::block::BLOCK_BYTES;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::index::{ADDRESS_MASK, entry};
use crate::layout::{
    ADDRESS_BITS, ADDRESS_MIN, BUCKET_BYTES, Place, SEGMENT_HEADER_BYTES, Table, class, state,
};
use crate::read::show_key;
use crate::record::{self, Parsed, kind};
use crate::waiting::check_cancelled;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often entries that look wrong are looked at.
const LOOKS_MAX: u32 = 3;
/// Says of an entry that it is in a bucket in which nobody looks for it.
const MISPLACED: &str = "it is where no look-up for its key comes by";
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(1);

/// What an entry leads to.
#[derive(Debug)]
struct Facts {
    key: Vec<u8>,
    hash: u64,
    sequence: u64,
    total: usize,
    is_copy: bool,
    /// Of a cache copy: its home's slot, and the bytes that count as alive there.
    home: Option<(u32, usize)>,
    /// Of a large value: its extents.
    extents: Vec<u64>,
    /// The value is damaged, though its record is not.
    problem: Option<String>,
}

/// Why nothing can be told of an entry.
#[derive(Debug)]
enum Unfit {
    /// What is wrong with it.
    Wrong(String),
    /// What it leads to can't be read now.
    Unread(Error),
}

impl From<String> for Unfit {
    fn from(description: String) -> Self {
        Self::Wrong(description)
    }
}

impl From<&str> for Unfit {
    fn from(description: &str) -> Self {
        Self::Wrong(description.to_owned())
    }
}

impl From<Error> for Unfit {
    fn from(error: Error) -> Self {
        Self::Unread(error)
    }
}

impl Unfit {
    /// What is wrong; an error, where nobody can tell.
    fn wrong(self) -> Result<String> {
        match self {
            Self::Wrong(description) => Ok(description),
            Self::Unread(error) => Err(error),
        }
    }
}

/// What was found out, or `None` where something is wrong; an error, where nobody can tell.
fn if_right<T>(found: std::result::Result<T, Unfit>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(unfit) => unfit.wrong().map(|_| None),
    }
}

impl Checker<'_> {
    /// Runs `act` on the record at `address`. Of what the device was found to have lost the rest is looked at.
    pub(super) fn with_record<R>(
        &self,
        address: u64,
        act: impl FnOnce(&Parsed<'_>) -> Option<R>,
    ) -> Result<Option<R>> {
        let engine = self.engine;
        let read_cold = |place: Place, offset: usize| match engine.read_cold(place, offset) {
            Err(error) if error.is_device_failure() && self.is_lost(address) => {
                Ok(self.salvage(place, offset))
            }
            read => read,
        };
        engine.with_record_read_by(address, read_cold, act)
    }

    /// Whether the segment of an address is one of which the device could not give back everything.
    fn is_lost(&self, address: u64) -> bool {
        let segment_id = |slot| self.engine.segment(slot).segment_id.load(Ordering::Acquire);
        self.engine.split(address).is_some_and(|(slot, _)| self.unreadable.contains(&segment_id(slot)))
    }

    /// A record beside a block that can't be read. Blocks that can't be are zeros in it.
    fn salvage(&self, place: Place, offset: usize) -> Option<Vec<u8>> {
        let (durable, frame) = (self.engine.durable.as_ref()?, place.cold?);
        let frame_bytes = self.engine.geometry.frame_bytes as usize;
        let start = offset / BLOCK_BYTES * BLOCK_BYTES;
        let mut bytes = Vec::new();
        let mut end = offset + record::HEADER_BYTES;
        // The header says how long it is.
        for _ in 0..2 {
            bytes.resize(end.next_multiple_of(BLOCK_BYTES).min(frame_bytes) - start, 0);
            durable.read_salvaging(frame, start as u32, &mut bytes).ok()?;
            let (_, total) =
                record::total_len(&bytes[offset - start..], offset, frame_bytes, frame_bytes - offset)?;
            end = offset + total;
            if end <= start + bytes.len() {
                return Some(bytes[offset - start..end - start].to_vec());
            }
        }
        None
    }

    /// Verifies one entry.
    fn entry_facts(&self, partition: u32, word: u64) -> std::result::Result<Facts, Unfit> {
        let engine = self.engine;
        let address = word & ADDRESS_MASK;
        let (slot, offset) = engine.split(address).ok_or("it leads to a slot that does not exist")?;
        let segment = engine.segment(slot);
        let current = segment.state.load(Ordering::Acquire);
        if !matches!(current, state::OPEN | state::CLOSED | state::QUARANTINED) {
            return Err(Unfit::Wrong(format!(
                "it leads to slot {slot}, which holds no segment of the log (state {current})"
            )));
        }
        let tail = segment.tail.load(Ordering::Acquire) as usize;
        let segment_id = segment.segment_id.load(Ordering::Acquire);
        let mut facts = self
            .with_record(address, |record| Some(engine.record_facts(record, segment_id, offset, tail)))?
            .ok_or_else(|| format!("it leads to slot {slot}, offset {offset}, where no record begins"))??;
        if engine.partition_of(facts.hash) != partition || engine.tag(facts.hash) != word >> ADDRESS_BITS {
            return Err(Unfit::Wrong(format!(
                "it leads to the record of key {}, whose hash belongs elsewhere",
                show_key(&facts.key)
            )));
        }
        if facts.is_copy {
            facts.home = Some(self.home_facts(segment.class.load(Ordering::Relaxed), address, &facts)?);
        }
        if !facts.extents.is_empty() {
            facts.problem = self.extents_problem(address, &facts, false)?;
        }
        Ok(facts)
    }

    /// The home of a cache copy: slot, and bytes of the record there.
    fn home_facts(
        &self,
        copy_class: u32,
        copy: u64,
        facts: &Facts,
    ) -> std::result::Result<(u32, usize), Unfit> {
        let engine = self.engine;
        if copy_class != class::CACHE {
            return Err("it leads to a cache copy outside of a cache segment".into());
        }
        let link = self.with_record(copy, |record| Some(record.link & ADDRESS_MASK))?.unwrap_or(0);
        let (slot, _) =
            engine.split(link).filter(|_| link >= ADDRESS_MIN).ok_or("its cache copy has no home")?;
        let segment_id = engine.segment(slot).segment_id.load(Ordering::Acquire);
        let total = self.with_record(link, |record| {
            let is_same =
                record.key == facts.key && record.sequence == facts.sequence && record.is_intact(segment_id);
            is_same.then_some(record.total)
        })?;
        Ok((
            slot,
            total.ok_or_else(|| {
                format!("the home of the cache copy of key {} is not the same record", show_key(&facts.key))
            })?,
        ))
    }

    /// What is wrong with a large value, as it is served or (`from_cold`) as the cold tier has it, by the checksum in its record.
    ///
    /// # Errors
    /// Io.
    fn extents_problem(&self, address: u64, facts: &Facts, from_cold: bool) -> Result<Option<String>> {
        let engine = self.engine;
        let frame_bytes = engine.geometry.frame_bytes as usize;
        let known = self.with_record(address, |record| {
            record.extents(frame_bytes).map(|(checksum, _)| (checksum, record.word.value_len as usize))
        })?;
        let Some((wanted, len)) = known else { return Ok(Some("its record changed".to_owned())) };
        let mut checksum = 0;
        let mut bytes = Vec::new();
        for (part, &segment_id) in facts.extents.iter().enumerate() {
            let name = || format!("part {part} of the value of key {}", show_key(&facts.key));
            let Some(slot) = engine.slot_of(segment_id) else {
                return Ok(Some(format!("{} is gone", name())));
            };
            let segment = engine.segment(slot);
            if segment.state.load(Ordering::Acquire) != state::EXTENT {
                return Ok(Some(format!("{} is in slot {slot}, which is no extent in use", name())));
            }
            bytes.resize((len - part * frame_bytes).min(frame_bytes), 0);
            engine.pin(slot);
            let place = Place::unpack(segment.place.load(Ordering::SeqCst));
            let is_flushed = segment.flushed.load(Ordering::Acquire) as usize >= bytes.len();
            let hot = engine.hot_base(place).filter(|_| !from_cold || !is_flushed);
            let read = match (hot, &engine.durable, place.cold) {
                (Some(base), ..) => {
                    // SAFETY: pinned, and a part is at most a frame.
                    unsafe { std::ptr::copy_nonoverlapping(base, bytes.as_mut_ptr(), bytes.len()) };
                    Ok(())
                }
                (None, Some(durable), Some(frame)) => durable.read_at(frame, 0, &mut bytes),
                _ => Err(Error::corrupt("it is in neither tier")),
            };
            engine.unpin(slot);
            match read {
                Ok(()) => {}
                Err(error)
                    if matches!(error, Error::Corrupt(_))
                        || (error.is_device_failure() && self.unreadable.contains(&segment_id)) =>
                {
                    return Ok(Some(format!("{} can't be read: {error}", name())));
                }
                Err(error) => return Err(error),
            }
            checksum = crc32c::crc32c_append(checksum, &bytes);
        }
        Ok((checksum != wanted)
            .then(|| format!("the value of key {} does not match its checksum", show_key(&facts.key))))
    }
}

impl Engine {
    fn record_facts(
        &self,
        record: &Parsed<'_>,
        segment_id: u64,
        offset: usize,
        tail: usize,
    ) -> std::result::Result<Facts, String> {
        let base_kind = record.word.base_kind();
        let is_value =
            base_kind == kind::PUT || base_kind == kind::LARGE || record.word.kind() == kind::BATCH_TOMBSTONE;
        if !is_value || !record.is_intact(segment_id) {
            return Err(format!(
                "it leads to offset {offset} of segment {segment_id:#x}, where no intact record with a value begins"
            ));
        }
        if offset < SEGMENT_HEADER_BYTES || offset + record.total > tail {
            return Err(format!(
                "it leads to offset {offset}, beyond the {tail} bytes in use of its segment"
            ));
        }
        let extents = if base_kind == kind::LARGE {
            record
                .extents(self.geometry.frame_bytes as usize)
                .ok_or("its record's list of extents contradicts the value's length")?
                .1
        } else {
            Vec::new()
        };
        Ok(Facts {
            key: record.key.to_vec(),
            hash: self.hash(record.key),
            sequence: record.sequence,
            total: record.total,
            is_copy: record.word.kind() == kind::COPY,
            home: None,
            extents,
            problem: None,
        })
    }

    /// Whether a partition's table holds this entry now.
    fn has_entry(&self, partition: u32, word: u64) -> bool {
        self.partition_entries(partition).contains(&word)
    }
}

impl Checker<'_> {
    /// Partitions whose tables can't be theirs: outside of the index's frames, or on top of another's. Of two that overlap, that one in which
    /// more entries do not belong; what it indexed is lost, but nobody else's.
    fn check_tables(&mut self) -> Result<()> {
        let engine = self.engine;
        let guard = (!engine.read_only).then(|| engine.lock_arena());
        let mut tables: Vec<(u64, u64, u32)> = (0..engine.geometry.partitions)
            .map(|number| (engine.table(number), number))
            .filter(|(table, _)| table.buckets > 0)
            .map(|(table, number)| (table.line, table.line + u64::from(table.buckets), number))
            .collect();
        drop(guard);
        tables.sort_unstable();
        let lines_per_frame = u64::from(engine.geometry.frame_bytes) / BUCKET_BYTES as u64;
        let index_frames = &engine.index_frames()[..(engine.globals().index_frames.load(Ordering::Acquire)
            as usize)
            .min(engine.index_frames().len())];
        let is_possible = |&(line, end, _): &(u64, u64, u32)| {
            let frame = line / lines_per_frame;
            let is_inside =
                end <= (frame + 1) * lines_per_frame && line.is_multiple_of(u64::from(GRANULE_BUCKETS));
            is_inside
                && index_frames
                    .iter()
                    .any(|index_frame| u64::from(index_frame.load(Ordering::Relaxed)) == frame)
        };
        let (possible, impossible): (Vec<_>, Vec<_>) = tables.into_iter().partition(is_possible);
        let mut wrong: Vec<u32> = impossible.iter().map(|table| table.2).collect();
        for pair in possible.windows(2).filter(|pair| pair[1].0 < pair[0].1) {
            let (left, right) = (pair[0].2, pair[1].2);
            wrong.push(if self.foreign(left)? > self.foreign(right)? { left } else { right });
        }
        wrong.dedup();
        for number in wrong {
            if self.repair {
                let guard = engine.lock_partition(number);
                let version = engine.table(number).version.wrapping_add(1);
                engine.directory()[number as usize]
                    .store(Table { line: 0, buckets: 0, version }.pack(), Ordering::SeqCst);
                guard.partition.pending_table.store(0, Ordering::Release);
                guard.partition.count.store(0, Ordering::Release);
                self.changed = true;
            }
            let description = "its table is where no table can be, or overlaps another partition's";
            self.problem("index", &format!("index partition {number}"), description, self.repair);
        }
        Ok(())
    }

    /// How many of a partition's entries do not lead to records that belong to it.
    fn foreign(&self, partition: u32) -> Result<usize> {
        let mut count = 0;
        for word in self.engine.partition_entries(partition) {
            count += usize::from(if_right(self.entry_facts(partition, word))?.is_none());
        }
        Ok(count)
    }

    /// Verifies all partitions.
    pub(super) fn check_index(&mut self) -> Result<()> {
        self.check_tables()?;
        for partition in 0..self.engine.geometry.partitions {
            check_cancelled()?;
            self.check_partition(partition)?;
        }
        Ok(())
    }

    fn check_partition(&mut self, partition: u32) -> Result<()> {
        let place = format!("index partition {partition}");
        let mut keys: HashMap<Vec<u8>, (u64, u64)> = HashMap::new();
        let mut suspicious: Vec<(u64, String)> =
            self.engine.partition_entries(partition).into_iter().map(|word| (word, String::new())).collect();
        let mut listed: HashSet<u64> = suspicious.iter().map(|(word, _)| *word).collect();
        for look in 0..LOOKS_MAX {
            if look > 0 {
                // Only what is still there can be wrong; and what was moved meanwhile has another entry now.
                let present = self.engine.partition_entries(partition);
                suspicious.retain(|(word, _)| present.contains(word));
                let new = present.into_iter().filter(|&word| listed.insert(word));
                suspicious.extend(new.map(|word| (word, String::new())));
            }
            let words = std::mem::take(&mut suspicious);
            for (word, _) in words {
                match self.entry_facts(partition, word) {
                    Ok(facts) if !self.engine.is_current(facts.hash, word) => {
                        suspicious.push((word, MISPLACED.to_owned()));
                    }
                    Ok(facts) if look > 0 && self.has_moved(partition, word, keys.get(&facts.key)) => {}
                    Ok(facts) if facts.problem.is_none() => {
                        self.note_entry(partition, word, facts, &mut keys)?;
                    }
                    Ok(facts) => suspicious.push((word, facts.problem.unwrap_or_default())),
                    // The device may have failed just then.
                    Err(Unfit::Unread(_)) if look + 1 < LOOKS_MAX => suspicious.push((word, String::new())),
                    Err(unfit) => suspicious.push((word, unfit.wrong()?)),
                }
            }
            if suspicious.is_empty() {
                break;
            }
            self.pause(LOOK_AGAIN_AFTER);
        }
        if !suspicious.is_empty() {
            self.lose_patience();
        }
        for (word, description) in suspicious {
            if !self.engine.has_entry(partition, word) {
                continue;
            }
            let mended = match self.repair {
                true if description == MISPLACED => self.place_again(partition, word)?,
                true => self.mend_value(partition, word)?,
                false => None,
            };
            let repaired = mended.is_some() || (self.repair && self.drop_entry(partition, word)?);
            if let Some(facts) = mended {
                self.note_entry(partition, word, facts, &mut keys)?;
            }
            self.problem("entry", &format!("{place}, entry {word:#018x}"), &description, repaired);
        }
        self.check_count(partition, &place);
        Ok(())
    }

    /// Whether a key was noted under another entry, which it has no more.
    fn has_moved(&self, partition: u32, word: u64, noted: Option<&(u64, u64)>) -> bool {
        noted.is_some_and(|&(other, _)| other != word && !self.engine.has_entry(partition, other))
    }

    fn note_entry(
        &mut self,
        partition: u32,
        word: u64,
        facts: Facts,
        keys: &mut HashMap<Vec<u8>, (u64, u64)>,
    ) -> Result<()> {
        self.report.keys += 1;
        if let Some((slot, _)) = self.engine.split(word & ADDRESS_MASK) {
            self.add_live(slot, facts.total);
        }
        if let Some((slot, total)) = facts.home {
            self.add_live(slot, total);
        }
        for &segment_id in &facts.extents {
            *self.extent_owners.entry(segment_id).or_insert(0) += 1;
        }
        let Some((other, other_sequence)) = keys.insert(facts.key.clone(), (word, facts.sequence)) else {
            return Ok(());
        };
        // While the table was read the key may have been removed and stored again elsewhere in it.
        if other != word && self.engine.has_entry(partition, other) && self.engine.has_entry(partition, word)
        {
            let older = if other_sequence < facts.sequence { other } else { word };
            let repaired = self.repair && self.drop_entry(partition, older)?;
            let place = format!("index partition {partition}");
            self.problem(
                "key twice",
                &place,
                &format!("key {} has two entries", show_key(&facts.key)),
                repaired,
            );
        }
        Ok(())
    }

    /// Puts an entry where readers look for it.
    fn place_again(&mut self, partition: u32, word: u64) -> Result<Option<Facts>> {
        let engine = self.engine;
        let guard = engine.lock_partition(partition);
        let facts = if_right(self.entry_facts(partition, word))?.filter(|facts| facts.problem.is_none());
        let place = engine.locked_entries(&guard).find(|(_, other)| *other == word);
        let (Some(facts), Some((place, _))) = (facts, place) else { return Ok(None) };
        engine.remove_entry(&guard, place, false);
        self.changed = true;
        let Ok(vacancy) = engine.vacancy(&guard, word >> ADDRESS_BITS) else { return Ok(None) };
        engine.fill_entry(&guard, vacancy, word);
        engine.note_published(&facts.key);
        engine.note_anything(&guard);
        Ok(Some(facts))
    }

    /// Puts a large value right whose hot copy is damaged and whose cold one is not. What was wrong with an entry may also have passed.
    fn mend_value(&self, partition: u32, word: u64) -> Result<Option<Facts>> {
        let engine = self.engine;
        let Some(mut facts) = if_right(self.entry_facts(partition, word))? else { return Ok(None) };
        if facts.problem.is_none() {
            return Ok(Some(facts));
        }
        // Nobody supersedes the value meanwhile, so its extents stay what they are.
        let _guard = engine.lock_partition(partition);
        if self.extents_problem(word & ADDRESS_MASK, &facts, true)?.is_some() {
            return Ok(None);
        }
        for slot in facts.extents.iter().filter_map(|&segment_id| engine.slot_of(segment_id)) {
            let segment = engine.segment(slot);
            engine.pin(slot);
            let place = Place::unpack(segment.place.load(Ordering::SeqCst));
            let len = segment.tail.load(Ordering::Acquire).min(engine.geometry.frame_bytes);
            if let (Some(base), Some(durable), Some(frame)) =
                (engine.hot_base(place), &engine.durable, place.cold)
            {
                let mut bytes = vec![0; len as usize];
                if segment.flushed.load(Ordering::Acquire) >= len
                    && durable.read_at(frame, 0, &mut bytes).is_ok()
                {
                    // SAFETY: pinned, and the length was bounded by the frame. Whoever reads there now fails on the checksum and not before.
                    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), base, bytes.len()) };
                }
            }
            engine.unpin(slot);
        }
        facts.problem = self.extents_problem(word & ADDRESS_MASK, &facts, false)?;
        Ok(facts.problem.is_none().then_some(facts))
    }

    /// Takes an entry out of the index, or puts it back to the home of its cache copy.
    fn drop_entry(&mut self, partition: u32, word: u64) -> Result<bool> {
        let guard = self.engine.lock_partition(partition);
        let tag = word >> ADDRESS_BITS;
        // Anywhere in the table: what is damaged need not be where its tag belongs.
        let Some((place, _)) = self.engine.locked_entries(&guard).find(|(_, other)| *other == word) else {
            return Ok(false);
        };
        let home = self.with_record(word & ADDRESS_MASK, |record| {
            (record.word.kind() == kind::COPY).then_some(entry(tag, record.link & ADDRESS_MASK))
        })?;
        let facts = home.map_or(Ok(None), |home| if_right(self.entry_facts(partition, home)))?;
        match home.filter(|_| facts.is_some_and(|facts| facts.problem.is_none())) {
            Some(home) => place.store(home),
            None => self.engine.remove_entry(&guard, place, false),
        }
        self.engine.note_anything(&guard);
        self.changed = true;
        Ok(true)
    }

    fn check_count(&mut self, partition: u32, place: &str) {
        let count = &self.engine.partitions()[partition as usize].count;
        let differs = |engine: &Engine| {
            let (counted, entries) =
                (count.load(Ordering::Acquire), engine.partition_entries(partition).len());
            (counted as usize != entries).then_some((counted, entries))
        };
        if differs(self.engine).is_none() {
            return;
        }
        // Only under the lock are the two the same at every moment.
        let guard = (!self.engine.read_only).then(|| self.engine.lock_partition(partition));
        let Some((counted, entries)) = differs(self.engine) else { return };
        let repaired = self.repair && guard.is_some();
        if repaired {
            count.store(entries as u32, Ordering::Release);
        }
        drop(guard);
        self.problem("count", place, &format!("it counts {counted} entries and has {entries}"), repaired);
    }
}
