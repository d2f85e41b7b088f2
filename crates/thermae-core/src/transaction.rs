//! Several keys at once: all change or none, for readers, for survivors and after a crash.
//!
//! The batch is one contiguous region of the log: a BATCH record, then the records. All partitions concerned are locked in ascending order;
//! expected versions are checked; the records are written with the entries they replace as links; the lead becomes PENDING;
//! the entries are published; the lead becomes BATCH, in one store, and that is the moment at which everything changes. Then each record is marked
//! as decided, for readers, who else have to look for the lead, whose line is in no cache.

use crate::crash::crash_point;
use crate::engine::{Engine, PartitionGuard};
use crate::error::{Error, Result};
use crate::feed::ChangeKind;
use crate::index::{EntryRef, entry};
use crate::large::{LargeValue, write_large};
use crate::log::Sequence;
use crate::options::FRAME_BYTES_SMALL;
use crate::read::{Wanted, show_key};
use crate::record::{self, BATCH_BYTES, Draft, LINK_OF_DECIDED, LINK_OFFSET, Word0, flag, kind};
use crate::room::RoomRequest;
use crate::segment::Purpose;
use crate::write::{ColdRecords, Present, Stop};
use std::collections::HashMap;
use std::sync::atomic::Ordering;

/// One change of a transaction.
#[derive(Debug, Clone, Copy)]
pub enum BatchOp<'a> {
    /// Store a value.
    Set {
        /// Key.
        key: &'a [u8],
        /// Value.
        value: &'a [u8],
        /// How the value is encoded.
        encoding: u8,
        /// When it expires (store clock), 0 = never.
        expires_at_ms: u64,
        /// What the client keeps beside the value, 0 = nothing.
        flags: u32,
    },
    /// Delete a key.
    Delete {
        /// Key.
        key: &'a [u8],
    },
}

impl<'a> BatchOp<'a> {
    fn key(&self) -> &'a [u8] {
        match self {
            Self::Set { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// A record of the batch, planned.
struct Planned<'a> {
    wanted: Wanted<'a>,
    draft: Draft<'a>,
    /// Offset from the start of the region. Where that begins is not known yet, so values in a batch are not aligned.
    offset: usize,
    total: usize,
}

impl Engine {
    /// Applies all of `ops` or none. `expected` are versions that must still be current (`None` = absent). Returns the last sequence
    /// number taken, 0 for none.
    pub(crate) fn apply_batch(&self, ops: &[BatchOp<'_>], expected: &[(&[u8], Option<u64>)]) -> Result<u64> {
        self.check_writable()?;
        // The last change of a key is the one that counts.
        let mut latest: HashMap<&[u8], usize> = HashMap::with_capacity(ops.len());
        for (index, op) in ops.iter().enumerate() {
            Self::check_key(op.key())?;
            latest.insert(op.key(), index);
        }
        let chosen: Vec<&BatchOp<'_>> = ops
            .iter()
            .enumerate()
            .filter(|(index, op)| latest[op.key()] == *index)
            .map(|(_, op)| op)
            .collect();
        let larges = self.write_larges(&chosen)?;
        let result = self.apply_prepared(&chosen, &larges, expected);
        if result.is_err() {
            larges.iter().flatten().for_each(|large| large.slots.iter().for_each(|&slot| self.retire(slot)));
        }
        result
    }

    fn write_larges(&self, ops: &[&BatchOp<'_>]) -> Result<Vec<Option<LargeValue>>> {
        let mut larges: Vec<Option<LargeValue>> = Vec::with_capacity(ops.len());
        for op in ops {
            let large = match op {
                BatchOp::Set { key, value, .. } if value.len() > self.geometry.inline_value_max() => {
                    write_large(self, self.hash(key), value)
                }
                _ => {
                    larges.push(None);
                    continue;
                }
            };
            match large {
                Ok(large) => larges.push(Some(large)),
                Err(error) => {
                    larges
                        .iter()
                        .flatten()
                        .for_each(|large| large.slots.iter().for_each(|&slot| self.retire(slot)));
                    return Err(error);
                }
            }
        }
        Ok(larges)
    }

    fn plan<'a>(
        &self,
        ops: &[&BatchOp<'a>],
        larges: &'a [Option<LargeValue>],
    ) -> Result<(Vec<Planned<'a>>, usize)> {
        let mut offset = BATCH_BYTES;
        let mut planned = Vec::with_capacity(ops.len());
        for (op, large) in ops.iter().zip(larges) {
            let (base, value_len, payload): (u8, u32, &[u8]) = match (op, large) {
                (BatchOp::Delete { .. }, _) => (kind::BATCH_TOMBSTONE, 0, &[]),
                (BatchOp::Set { .. }, Some(large)) => (kind::BATCH_LARGE, large.len, &large.list),
                (BatchOp::Set { value, .. }, None) => (kind::BATCH_PUT, value.len() as u32, value),
            };
            let (encoding, expiry_ms, client_flags) = match op {
                BatchOp::Delete { .. } => (0, 0, 0),
                BatchOp::Set { encoding, expires_at_ms, flags, .. } => (*encoding, *expires_at_ms, *flags),
            };
            let word = Word0 {
                value_len,
                key_len: op.key().len() as u16,
                kind: base | flag::of(expiry_ms, client_flags),
                encoding,
            };
            let total = record::shape(word, 0, self.geometry.frame_bytes as usize).total;
            let key = op.key();
            planned.push(Planned {
                wanted: Wanted { key, hash: self.hash(key) },
                draft: Draft { word, expiry_ms, client_flags, link: 0, batch_offset: 0, key, payload },
                offset,
                total,
            });
            offset += total;
        }
        let most = self.geometry.frame_bytes as usize / 2;
        if offset > most {
            let is_small = self.geometry.frame_bytes == FRAME_BYTES_SMALL;
            return Err(Error::TransactionTooLarge(format!(
                "the transaction's records take {offset} bytes and may take {most} in {}: split it{}",
                self.paths.location,
                if is_small {
                    ", or create the store with frames of 8 MiB, as it has by itself from a hot tier of 512 MiB on"
                } else {
                    ""
                }
            )));
        }
        Ok((planned, offset))
    }

    fn apply_prepared(
        &self,
        ops: &[&BatchOp<'_>],
        larges: &[Option<LargeValue>],
        expected: &[(&[u8], Option<u64>)],
    ) -> Result<u64> {
        let (planned, total) = self.plan(ops, larges)?;
        let expected: Vec<(Wanted<'_>, Option<u64>)> =
            expected.iter().map(|&(key, version)| (Wanted { key, hash: self.hash(key) }, version)).collect();
        let mut numbers: Vec<u32> = planned
            .iter()
            .map(|item| item.wanted.hash)
            .chain(expected.iter().map(|(wanted, _)| wanted.hash))
            .map(|hash| self.partition_of(hash))
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut cold = ColdRecords::new();
        let mut request = RoomRequest::for_frames(1);
        loop {
            let guards: Vec<PartitionGuard<'_>> =
                numbers.iter().map(|&number| self.lock_partition(number)).collect();
            let result = self.apply_locked(&guards, &numbers, &planned, total, &expected, &cold);
            match result {
                Ok((sequence, dead_extents)) => {
                    self.retire_extents(&dead_extents);
                    drop(guards);
                    return Ok(sequence);
                }
                Err(Stop::Error(error)) => return Err(error),
                Err(Stop::Cold(entry)) => {
                    drop(guards);
                    self.fetch_cold(entry, &mut cold)?;
                }
                Err(Stop::Room(room)) => {
                    drop(guards);
                    self.make_room(room, &mut request)?;
                }
            }
        }
    }

    /// A change of a batch has happened.
    fn note_batch_change(
        &self,
        guard: &PartitionGuard<'_>,
        item: &Planned<'_>,
        before: Option<&Present<'_>>,
    ) {
        let Wanted { key, hash } = item.wanted;
        let had_expired = before.is_some_and(|before| before.is_expired);
        if had_expired {
            self.note_change(guard, ChangeKind::Expired, key, hash);
        }
        if item.draft.word.base_kind() != kind::TOMBSTONE {
            self.note_change(guard, ChangeKind::Set, key, hash);
        } else if before.is_some() && !had_expired {
            self.note_change(guard, ChangeKind::Deleted, key, hash);
        }
    }

    fn apply_locked(
        &self,
        guards: &[PartitionGuard<'_>],
        numbers: &[u32],
        planned: &[Planned<'_>],
        total: usize,
        expected: &[(Wanted<'_>, Option<u64>)],
        cold: &ColdRecords,
    ) -> Result<(u64, Vec<u64>), Stop> {
        let guard_at = |hash: u64| {
            numbers
                .binary_search(&self.partition_of(hash))
                .unwrap_or_else(|_| unreachable!("all partitions are locked"))
        };
        let guard_of = |hash: u64| &guards[guard_at(hash)];
        for (wanted, version) in expected {
            let present = self.locate(guard_of(wanted.hash), *wanted, cold)?;
            let actual = present.filter(|present| !present.is_expired).map(|present| present.meta.version);
            if actual != *version {
                let text = |version: Option<u64>| {
                    version.map_or("no such key".to_owned(), |version| format!("version {version}"))
                };
                return Err(Stop::Error(Error::Conflict(format!(
                    "key {} changed while the transaction ran (it saw {}, now there is {}); nothing was changed: run it again",
                    show_key(wanted.key),
                    text(*version),
                    text(actual)
                ))));
            }
        }
        if planned.is_empty() {
            return Ok((0, Vec::new()));
        }
        let locate_all = || -> Result<Vec<Option<Present<'_>>>, Stop> {
            planned.iter().map(|item| self.locate(guard_of(item.wanted.hash), item.wanted, cold)).collect()
        };
        let mut presents = locate_all()?;
        // Vacancies before anything is written that can't be published without. Growing invalidates places: then all are looked for again.
        let mut new_keys = vec![0_u32; guards.len()];
        for (item, present) in planned.iter().zip(&presents) {
            let is_new = present.is_none() && item.draft.word.base_kind() != kind::TOMBSTONE;
            new_keys[guard_at(item.wanted.hash)] += u32::from(is_new);
        }
        let mut has_grown = false;
        for (guard, &count) in guards.iter().zip(&new_keys).filter(|&(_, &count)| count > 0) {
            let before = self.table(guard.number);
            self.reserve_entries(guard, count)?;
            has_grown |= self.table(guard.number) != before;
        }
        if has_grown {
            presents = locate_all()?;
        }
        let count = u32::try_from(planned.len()).unwrap_or(u32::MAX);
        let sequence = Sequence::New(count);
        let deletes_only = planned.iter().all(|item| item.draft.word.base_kind() == kind::TOMBSTONE);
        let reserved = if deletes_only {
            self.reserve_for_tombstones(|_| total, sequence)?
        } else {
            self.reserve(self.head_for(0), |_| total, sequence, Purpose::Write)?
        };
        crash_point!("batch.reserved");
        for (index, item) in planned.iter().enumerate() {
            let link = presents[index].as_ref().map_or(0, |present| present.entry);
            let draft = Draft { link, batch_offset: reserved.offset as u32, ..item.draft };
            let sequence = reserved.sequence + index as u64;
            let crc = draft.checksum(sequence);
            let shape =
                record::shape(draft.word, reserved.offset + item.offset, self.geometry.frame_bytes as usize);
            debug_assert_eq!(shape.total, item.total);
            // SAFETY: within the region just reserved; offsets and totals add up to it.
            unsafe {
                let at = reserved.at.add(item.offset);
                record::write_body(at, &draft, &shape, sequence, crc, reserved.segment_id);
                record::commit(at, draft.word);
            }
        }
        let crc = record::batch_checksum(reserved.sequence, total as u32, count)
            ^ record::checksum_mask(reserved.segment_id);
        let lead = Word0 { value_len: total as u32, key_len: 0, kind: kind::BATCH_PENDING, encoding: 0 };
        // SAFETY: the lead's 32 bytes begin the region just reserved.
        unsafe {
            reserved.at.add(16).cast::<u32>().write_unaligned(crc.to_le());
            reserved.at.add(20).cast::<u32>().write_unaligned(count.to_le());
            reserved.at.add(24).cast::<u32>().write_unaligned(self.member.mark().to_le());
            reserved.at.add(28).cast::<u32>().write_unaligned(0);
            record::commit(reserved.at, lead);
        }
        crash_point!("batch.pending");
        for (index, item) in planned.iter().enumerate() {
            let guard = guard_of(item.wanted.hash);
            let tag = self.tag(item.wanted.hash);
            let word = entry(tag, self.address(reserved.slot, reserved.offset + item.offset));
            if item.draft.word.base_kind() == kind::LARGE {
                self.adopt_extents(item.draft.payload);
            }
            match &presents[index] {
                Some(present) => present.place.store(word),
                None if item.draft.word.base_kind() == kind::TOMBSTONE => {}
                None => {
                    // Room for all of them was reserved above, so this can't fail half way.
                    let place: EntryRef<'_> = self.vacancy(guard, tag)?;
                    self.fill_entry(guard, place, word);
                }
            }
            crash_point!("batch.publishing");
        }
        // SAFETY: as above. This store is the moment at which the transaction happens.
        unsafe { record::commit(reserved.at, Word0 { kind: kind::BATCH, ..lead }) };
        crash_point!("batch.committed");
        for item in planned {
            // SAFETY: a link is within its record, 8-byte aligned as that is. The frame is still this segment's, for the partitions are locked:
            // nobody gives up a frame of the log without having locked, one after the other, the partition of each record in it.
            unsafe { record::word0_at(reserved.at.add(item.offset + LINK_OFFSET)) }
                .store(LINK_OF_DECIDED.to_le(), Ordering::Release);
            crash_point!("batch.marking");
        }
        planned.iter().for_each(|item| self.note_published(item.wanted.key));
        let mut dead_extents = Vec::new();
        for (item, present) in planned.iter().zip(&mut presents) {
            if item.draft.word.base_kind() == kind::TOMBSTONE {
                self.segment(reserved.slot).tombstone_bytes.fetch_add(item.total as u32, Ordering::Relaxed);
            } else {
                self.count_live(reserved.slot, item.total, item.draft.expiry_ms);
                Self::count(&self.counters().sets, 1);
            }
            if let Some(present) = present {
                if item.draft.word.base_kind() == kind::TOMBSTONE {
                    self.remove_entry(guard_of(item.wanted.hash), present.place, false);
                    Self::count(&self.counters().deletes, 1);
                }
                self.count_dead(present);
                dead_extents.append(&mut present.extents);
            }
            self.note_batch_change(guard_of(item.wanted.hash), item, present.as_ref());
        }
        Ok((reserved.sequence + u64::from(count) - 1, dead_extents))
    }
}
