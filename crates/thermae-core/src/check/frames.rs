//! Verifying who owns which frame, and which extents belong to a value.

use super::Checker;
use crate::error::Result;
use crate::frame_file::{FrameKind, FrameState};
use crate::index::ADDRESS_MASK;
use crate::layout::{Place, SLOT_BITS, class, state};
use std::collections::HashMap;
use std::sync::atomic::Ordering;

/// Who a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Slot(u32),
    Index,
    Free,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Slot(slot) => write!(formatter, "slot {slot}"),
            Self::Index => write!(formatter, "the index"),
            Self::Free => write!(formatter, "the free frames"),
        }
    }
}

impl Checker<'_> {
    /// Every frame is exactly one slot's, the index's, or free.
    pub(super) fn check_frames(&mut self) {
        let engine = self.engine;
        // The read-only can't hold the lock: they look twice, and believe what they saw both times.
        let guard = (!engine.read_only).then(|| engine.lock_pool());
        let mut findings = self.frame_problems();
        if guard.is_none() && !findings.is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(50));
            let again = self.frame_problems();
            findings.retain(|finding| again.contains(finding));
        }
        let is_lists_only = findings.iter().all(|(_, is_list)| *is_list);
        let repaired = self.repair && guard.is_some() && is_lists_only;
        if repaired && !findings.is_empty() {
            engine.repair_pool();
        }
        drop(guard);
        for (description, _) in findings {
            self.problem("frames", "the tiers", &description, repaired);
        }
        self.check_frame_table();
    }

    /// What is wrong, and whether it is only in the lists of free frames, which can be made anew.
    fn frame_problems(&self) -> Vec<(String, bool)> {
        let engine = self.engine;
        let globals = engine.globals();
        let mut problems = Vec::new();
        let mut hot: HashMap<u32, Owner> = HashMap::new();
        let mut durable: HashMap<u32, Owner> = HashMap::new();
        let mut claim = |frames: &mut HashMap<u32, Owner>, tier: &str, frame: u32, owner: Owner| {
            if let Some(other) = frames.insert(frame, owner) {
                let is_list = owner == Owner::Free || other == Owner::Free;
                problems.push((format!("{tier} frame {frame} belongs to {other} and to {owner}"), is_list));
            }
        };
        let index_frames =
            (globals.index_frames.load(Ordering::Acquire) as usize).min(engine.index_frames().len());
        for frame in &engine.index_frames()[..index_frames] {
            let frame = frame.load(Ordering::Relaxed);
            match frame.checked_sub(engine.geometry.hot_frames) {
                Some(warm) if engine.index_frames_max() > engine.geometry.hot_frames => {
                    claim(&mut durable, "warm", warm, Owner::Index);
                }
                _ => claim(&mut hot, "hot", frame, Owner::Index),
            }
        }
        for (slot, segment) in engine.segments().iter().enumerate() {
            let place = Place::unpack(segment.place.load(Ordering::SeqCst));
            if segment.state.load(Ordering::SeqCst) == state::FREE {
                continue;
            }
            if let Some(frame) = place.hot {
                claim(&mut hot, "hot", frame, Owner::Slot(slot as u32));
            }
            if let Some(frame) = place.cold {
                claim(&mut durable, "durable", frame, Owner::Slot(slot as u32));
            }
        }
        let mut missing = Vec::new();
        for (tier, stack, height) in [
            ("hot", engine.free_hot(), &globals.free_hot),
            ("warm", engine.free_warm(), &globals.free_warm),
            ("cold", engine.free_cold(), &globals.free_cold),
        ] {
            let frames = if tier == "hot" { &mut hot } else { &mut durable };
            let height = height.load(Ordering::Acquire) as usize;
            if height > stack.len() {
                missing
                    .push((format!("{height} {tier} frames are said to be free, of {}", stack.len()), true));
            }
            for frame in &stack[..height.min(stack.len())] {
                claim(frames, tier, frame.load(Ordering::Relaxed), Owner::Free);
            }
        }
        let geometry = &engine.geometry;
        for (frames, tier, count) in
            [(&hot, "hot", geometry.hot_frames), (&durable, "durable", geometry.durable_frames())]
        {
            let unowned = (0..count).filter(|frame| !frames.contains_key(frame)).count();
            if unowned > 0 {
                missing.push((format!("{unowned} {tier} frames belong to nobody"), true));
            }
            let outside = frames.keys().filter(|&&frame| frame >= count).count();
            if outside > 0 {
                let is_list = frames.iter().all(|(&frame, &owner)| frame < count || owner == Owner::Free);
                missing.push((format!("{outside} {tier} frames that do not exist are in use"), is_list));
            }
        }
        problems.extend(missing);
        problems
    }

    /// The frame table on disk says of each flushed segment's frame what the segment table says.
    fn check_frame_table(&mut self) {
        let engine = self.engine;
        let Some(durable) = &engine.durable else { return };
        let table = match durable.read_frame_table() {
            Ok(table) => table,
            Err(error) => return self.problem("frame table", "the durable tiers", &error.to_string(), false),
        };
        let mut owners = HashMap::new();
        for (slot, segment) in engine.segments().iter().enumerate() {
            let place = Place::unpack(segment.place.load(Ordering::SeqCst));
            let is_flushed = segment.flushed.load(Ordering::SeqCst) > 0;
            let is_live =
                matches!(segment.state.load(Ordering::SeqCst), state::OPEN | state::CLOSED | state::EXTENT);
            if let Some(frame) = place.cold.filter(|_| is_flushed && is_live) {
                owners.insert(frame, slot as u32);
            }
        }
        for (frame, found) in table.into_iter().enumerate() {
            let frame = frame as u32;
            let owner = owners.get(&frame).copied();
            let description = match (found, owner) {
                (FrameState::Damaged, _) => "its entry is damaged".to_owned(),
                (FrameState::Used(record), Some(slot))
                    if record.segment_id == engine.segment(slot).segment_id.load(Ordering::Acquire) =>
                {
                    continue;
                }
                (_, Some(slot)) => {
                    format!("its entry does not name the segment of slot {slot}, which is in it")
                }
                // Of a free frame, or one whose segment was not flushed yet or is retired, the entry may be an old one.
                _ => continue,
            };
            // A segment may have come or gone since the table was read.
            let is_same = owner.is_none_or(|slot| {
                Place::unpack(engine.segment(slot).place.load(Ordering::SeqCst)).cold == Some(frame)
            });
            if !is_same || durable.read_frame_record(frame).ok() != Some(found) {
                continue;
            }
            let repaired = self.repair && self.rewrite_frame_record(frame, owner);
            self.problem("frame table", &durable.describe(frame), &description, repaired);
        }
    }

    fn rewrite_frame_record(&self, frame: u32, owner: Option<u32>) -> bool {
        let engine = self.engine;
        let Some(durable) = &engine.durable else { return false };
        // Nobody takes or frees the frame meanwhile.
        let _pool = engine.lock_pool();
        let is_owners =
            |slot: u32| Place::unpack(engine.segment(slot).place.load(Ordering::SeqCst)).cold == Some(frame);
        let written = match owner.or_else(|| (0..engine.geometry.slots).find(|&slot| is_owners(slot))) {
            Some(slot) if is_owners(slot) => {
                let segment = engine.segment(slot);
                let is_extent = segment.class.load(Ordering::Relaxed) == class::EXTENT;
                durable.write_frame_record(
                    frame,
                    &crate::frame_file::FrameRecord {
                        kind: if is_extent { FrameKind::Extent } else { FrameKind::LogSegment },
                        class: segment.class.load(Ordering::Relaxed) as u8,
                        segment_id: segment.segment_id.load(Ordering::Relaxed),
                        owner_sequence: 0,
                        part: if is_extent { segment.part.load(Ordering::Relaxed) } else { 0 },
                        parts: if is_extent { segment.parts.load(Ordering::Relaxed) } else { 1 },
                        used_bytes: segment.flushed.load(Ordering::Relaxed).min(engine.geometry.frame_bytes),
                        written_wall_ms: engine.env.wall_time_ms(),
                    },
                )
            }
            Some(_) => return false,
            None => durable.clear_frame_record(frame),
        };
        written.and_then(|()| durable.sync()).is_ok()
    }

    /// The memory of index tables.
    pub(super) fn check_arena(&mut self) {
        let engine = self.engine;
        let guard = (!engine.read_only).then(|| engine.lock_arena());
        let mut findings = engine.arena_problems();
        if guard.is_none() && !findings.is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(50));
            let again = engine.arena_problems();
            findings.retain(|finding| again.contains(finding));
        }
        let mut repaired = false;
        if self.repair && guard.is_some() && !findings.is_empty() {
            engine.repair_arena();
            repaired = engine.arena_problems().is_empty();
        }
        drop(guard);
        for description in findings {
            self.problem("index memory", "the arena", &description, repaired);
        }
    }

    /// Every extent in use belongs to exactly one live value.
    pub(super) fn check_extents(&mut self) -> Result<()> {
        let engine = self.engine;
        for (slot, segment) in engine.segments().iter().enumerate() {
            if segment.state.load(Ordering::SeqCst) != state::EXTENT {
                continue;
            }
            let segment_id = segment.segment_id.load(Ordering::SeqCst);
            let name = format!("segment {} (slot {slot})", segment_id >> SLOT_BITS);
            match self.extent_owners.get(&segment_id) {
                Some(1) => {}
                Some(owners) => {
                    let description = format!("it is listed by {owners} large values");
                    self.problem("extent", &name, &description, false);
                }
                None if self.has_owner(segment.key_hash.load(Ordering::Relaxed), segment_id)? => {}
                None => {
                    if segment.state.load(Ordering::SeqCst) != state::EXTENT
                        || segment.segment_id.load(Ordering::SeqCst) != segment_id
                    {
                        continue;
                    }
                    if self.repair {
                        engine.retire(slot as u32);
                    }
                    self.problem("orphan", &name, "it is a part of no value that is alive", self.repair);
                }
            }
        }
        Ok(())
    }

    /// Whether the key whose value an extent was written for has a value that lists it. Under the partition's lock no such value is
    /// between its old and its new place; what was just superseded is retired a moment later, so this waits a moment first.
    fn has_owner(&self, key_hash: u64, segment_id: u64) -> Result<bool> {
        let engine = self.engine;
        std::thread::sleep(std::time::Duration::from_millis(5));
        let number = engine.partition_of(key_hash);
        let _guard = (!engine.read_only).then(|| engine.lock_partition(number));
        let frame_bytes = engine.geometry.frame_bytes as usize;
        let mut probe = engine.probe(engine.table(number), engine.tag(key_hash));
        while let Some((_, word)) = probe.next() {
            let extents = self.with_record(word & ADDRESS_MASK, |record| record.extents(frame_bytes))?;
            if extents.is_some_and(|(_, list)| list.contains(&segment_id)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
