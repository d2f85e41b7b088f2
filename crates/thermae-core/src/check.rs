//! Verifying every invariant of a store, also while others use it, and repairing what can be.
//!
//! Nothing is believed because it was written by this engine: each file's blocks, each segment's records in both tiers, each entry of the
//! index, the frames, the tables' memory, the locks. Others may be writing meanwhile, so a finding counts only if it is there again
//! when it is looked at again, or under the lock that guards it. Each segment is pinned while it is looked at; nothing waits for the check.
//!
//! **Missing sequence numbers.** A number is missing if no record of the log holds it although one should. One should if the number
//! is above the *freed horizon*, the greatest number of any segment that was freed (up to there, what was superseded may be gone; after a recovery the
//! horizon is where the log ended then), or if it lies between the neighbours of a damaged stretch of a segment of fresh records,
//! which are in the order of their numbers.
//!
//! **Repair** makes every structure consistent again and keeps every value that is intact. Damaged records are given up: their segment is
//! *quarantined*, that is, named in the report and served but for the damaged stretches. A damaged record is restored where the other tier has an
//! intact copy. What can't be read is damaged only where the device failed again and again while the segments were gone through; a failure after
//! that ends the check with an error, for what can't be read now may be intact. Rejected: falling back to an older version of a key, which a reader could not tell from the current one.

mod frames;
mod index;
mod segments;

use crate::checkpoint::{Found, checkpoint_files, read_checkpoint};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::frame_file::FrameFile;
use crate::layout::{Place, SEGMENT_NUMBER_MAX, SLOT_BITS, class, state};
use crate::losses;
use crate::store::Store;
use crate::superblock::Superblock;
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Most sequence numbers that are looked for: one bit each.
const SEQUENCES_MAX: u64 = 1 << 28;
/// How long a check pauses in all, to see whether what looks wrong is only being changed.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most problems listed one by one.
const PROBLEMS_MAX: usize = 10_000;

/// One thing that is not as it should be.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    /// Which invariant it breaks, in a word or two.
    pub kind: String,
    /// Where.
    pub place: String,
    /// What.
    pub description: String,
    /// Whether it was put right: nothing was lost by it.
    pub repaired: bool,
}

/// What a check found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CheckReport {
    /// Whether nothing is wrong.
    pub ok: bool,
    /// What is.
    pub problems: Vec<Problem>,
    /// Segments looked at.
    pub segments: u64,
    /// Intact records with a key in them.
    pub records: u64,
    /// Keys in the index whose values are intact.
    pub keys: u64,
    /// Bytes of segments looked at.
    pub bytes: u64,
    /// Sequence numbers that no record holds although one should: `3-39,41,43-85`.
    pub missing_sequences: String,
    /// Segments with damaged records. All else in them is served.
    pub quarantined: Vec<String>,
    /// By how many bytes the segments' counts of live bytes are off together. Only a hint to those who make room; a crash leaves it a little off.
    pub live_bytes_drift: u64,
}

/// Which sequence numbers were found, one bit each.
#[derive(Debug)]
struct Sequences {
    first: u64,
    end: u64,
    bits: Vec<u64>,
}

impl Sequences {
    fn new(first: u64, last: u64) -> Self {
        let first = first.max(last.saturating_sub(SEQUENCES_MAX));
        let end = last.saturating_add(1).max(first);
        Self { first, end, bits: vec![0; ((end - first) as usize).div_ceil(64)] }
    }

    fn note(&mut self, sequence: u64, count: u64) {
        let from = sequence.max(self.first);
        let to = sequence.saturating_add(count).min(self.end);
        for number in from..to {
            let at = (number - self.first) as usize;
            self.bits[at / 64] |= 1 << (at % 64);
        }
    }

    fn has(&self, number: u64) -> bool {
        let at = number.wrapping_sub(self.first) as usize;
        number < self.first || number >= self.end || self.bits[at / 64] >> (at % 64) & 1 == 1
    }

    /// What of a range was not found.
    fn missing(&self, within: Range<u64>) -> Vec<Range<u64>> {
        let mut missing: Vec<Range<u64>> = Vec::new();
        let end = within.end.min(self.end);
        let mut number = within.start.max(self.first);
        while number < end {
            let at = number - self.first;
            // Sixty-four at once, where all of them were found or none.
            let whole = at
                .is_multiple_of(64)
                .then(|| self.bits[at as usize / 64])
                .filter(|&word| word == 0 || word == u64::MAX);
            let next = if whole.is_some() { number.saturating_add(64).min(end) } else { number + 1 };
            if !self.has(number) {
                match missing.last_mut() {
                    Some(last) if last.end == number => last.end = next,
                    _ => missing.push(number..next),
                }
            }
            number = next;
        }
        missing
    }
}

/// Ranges of numbers, compactly: `3-39,41,43-85`.
fn compact_ranges(ranges: &[Range<u64>]) -> String {
    let show = |range: &Range<u64>| match range.end - 1 {
        last if last == range.start => last.to_string(),
        last => format!("{}-{last}", range.start),
    };
    ranges.iter().map(show).collect::<Vec<_>>().join(",")
}

/// Puts ranges in order, and together where they touch.
fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// A check in progress.
struct Checker<'a> {
    engine: &'a Engine,
    repair: bool,
    report: CheckReport,
    sequences: Sequences,
    /// Numbers that damaged stretches held.
    lost: Vec<Range<u64>>,
    /// Up to here numbers may rightly be gone.
    horizon: u64,
    /// By segment identity: how many large values list it.
    extent_owners: HashMap<u64, u32>,
    /// Slots of extents whose hot and cold copies are not the same.
    differing_extents: Vec<u32>,
    /// By identity: segments of which the device could not give back something, however often it was asked.
    unreadable: HashSet<u64>,
    /// By slot: identity of its segment when first seen, and live bytes counted.
    live: HashMap<u32, (u64, u64)>,
    /// How much longer the check may pause in all.
    patience: Duration,
    /// The greatest sequence number found.
    greatest_sequence: u64,
    /// Whether the index was changed.
    changed: bool,
}

impl Store {
    /// Verifies every invariant. With `repair`, puts right what can be, keeping every value that is intact.
    ///
    /// # Errors
    /// Closed; ReadOnly for a repair by a read-only handle; Cancelled, and what was repaired by then stays so; Io, when the check could not
    /// be completed.
    pub fn check(&self, repair: bool) -> Result<CheckReport> {
        let engine = self.engine();
        engine.check_usable()?;
        if repair {
            engine.check_writable()?;
        }
        engine.check(repair)
    }
}

impl Engine {
    fn check(&self, repair: bool) -> Result<CheckReport> {
        let globals = self.globals();
        if !self.read_only {
            // What the dead held is released at any rate within a quarter of a second: it is no problem, unless that fails.
            self.reap_dead()?;
        }
        let last = if self.read_only {
            globals.next_sequence.load(Ordering::SeqCst).saturating_sub(1)
        } else {
            let heads = self.lock_heads();
            let last = globals.next_sequence.load(Ordering::SeqCst).saturating_sub(1);
            drop(heads);
            last
        };
        let horizon = globals.freed_sequence.load(Ordering::SeqCst);
        let mut checker = Checker {
            engine: self,
            repair,
            report: CheckReport::default(),
            sequences: Sequences::new(1, last),
            lost: Vec::new(),
            horizon,
            extent_owners: HashMap::new(),
            differing_extents: Vec::new(),
            unreadable: HashSet::new(),
            live: HashMap::new(),
            patience: PATIENCE,
            greatest_sequence: 0,
            changed: false,
        };
        checker.check_files()?;
        checker.check_losses()?;
        checker.check_locks();
        checker.check_segments()?;
        checker.check_counters();
        checker.check_index()?;
        checker.check_differing_extents()?;
        checker.check_extents()?;
        checker.check_frames();
        checker.check_arena();
        checker.check_live_bytes();
        checker.note_missing();
        checker.release_quarantined();
        if checker.changed && self.durable.is_some() && globals.writes_stopped.load(Ordering::Relaxed) == 0 {
            // What was removed must not come back with the next recovery.
            self.write_checkpoint()?;
        }
        let mut report = checker.report;
        report.ok = report.problems.is_empty();
        Ok(report)
    }
}

impl Checker<'_> {
    /// Leaves something alone for a moment before it is looked at again. Where so much is wrong that this adds up, it is no writer's doing.
    fn pause(&mut self, duration: Duration) {
        if let Some(left) = self.patience.checked_sub(duration) {
            self.patience = left;
            std::thread::sleep(duration);
        }
    }

    /// Notes that pausing changed nothing: where much is damaged, waiting for a writer each time would be most of the check.
    fn lose_patience(&mut self) {
        self.patience /= 2;
    }

    fn problem(&mut self, kind: &str, place: &str, description: &str, repaired: bool) {
        if self.report.problems.len() < PROBLEMS_MAX {
            let problem = Problem {
                kind: kind.to_owned(),
                place: place.to_owned(),
                description: description.to_owned(),
                repaired,
            };
            self.report.problems.push(problem);
        }
    }

    /// What recoveries found damaged: by now nothing in the store says so.
    fn check_losses(&mut self) -> Result<()> {
        let engine = self.engine;
        let found = losses::read(&*engine.env, &engine.paths.directory)?;
        for loss in &found {
            // Acknowledged by the repair, but what was lost stays lost.
            self.problem("lost in a recovery", &engine.paths.directory.display().to_string(), loss, false);
        }
        if self.repair && !found.is_empty() {
            losses::forget(&*engine.env, &engine.paths.directory)?;
        }
        Ok(())
    }

    /// Superblock, the blocks of the durable tiers' files, checkpoints.
    fn check_files(&mut self) -> Result<()> {
        let engine = self.engine;
        let path = engine.paths.superblock.display().to_string();
        let intact = Superblock::intact_copies(&*engine.env, &engine.paths.superblock)?;
        if intact < 2 {
            let repaired = self.repair && intact > 0;
            if repaired {
                // Each update writes the older copy, a damaged one counting as older.
                engine.update_superblock(|_| {})?;
                engine.update_superblock(|_| {})?;
            }
            self.problem(
                "superblock",
                &path,
                &format!("{} of its two copies are damaged", 2 - intact),
                repaired,
            );
        }
        let Some(durable) = &engine.durable else { return Ok(()) };
        for file in durable.files() {
            self.check_shape(file)?;
        }
        let file = durable.watermark_file();
        let path = file.path().display().to_string();
        let intact = file.intact_watermarks()?;
        if intact < 2 {
            if self.repair {
                let watermark = engine.globals().watermark.load(Ordering::SeqCst);
                for _ in intact..2 {
                    file.write_watermark(watermark)?;
                }
                file.sync()?;
            }
            self.problem(
                "watermark",
                &path,
                &format!("{} of its two watermark blocks are damaged", 2 - intact),
                self.repair,
            );
        }
        self.check_checkpoints()
    }

    fn check_shape(&mut self, file: &FrameFile) -> Result<()> {
        let path = file.path().display().to_string();
        let damage = file.examine()?;
        if (damage.header || damage.missing_bytes > 0) && self.repair {
            file.repair_shape()?;
        }
        if damage.header {
            self.problem("header", &path, "its header block is damaged", self.repair);
        }
        if damage.missing_bytes > 0 {
            let description = format!("it is {} bytes too short", damage.missing_bytes);
            self.problem("length", &path, &description, self.repair);
        }
        Ok(())
    }

    fn check_checkpoints(&mut self) -> Result<()> {
        let engine = self.engine;
        // Whoever writes one replaces a file by a rename, so that what is read here is always whole.
        for path in checkpoint_files(engine) {
            let Found::Damaged(reason) = read_checkpoint(engine, &path)? else { continue };
            if self.repair {
                engine.env.remove_file(&path).map_err(|source| Error::io("remove", &path, source))?;
                engine.write_checkpoint()?;
            }
            self.problem("checkpoint", &path.display().to_string(), &reason, self.repair);
        }
        Ok(())
    }

    /// Locks held by nobody alive. What dead participants held was released before.
    fn check_locks(&mut self) {
        let engine = self.engine;
        let globals = engine.globals();
        let is_stale = |owner: Option<u32>| {
            owner.is_some_and(|owner| owner >= engine.geometry.participants || !engine.member.is_alive(owner))
        };
        for number in 0..engine.geometry.partitions {
            if is_stale(engine.partitions()[number as usize].lock.owner()) {
                if self.repair {
                    drop(engine.lock_partition(number));
                }
                self.problem(
                    "lock",
                    &format!("index partition {number}"),
                    "it is locked by nobody alive",
                    self.repair,
                );
            }
        }
        for number in 0..globals.heads.len() as u32 {
            if is_stale(engine.head(number).lock.owner()) {
                if self.repair {
                    engine.close_open_segment(number);
                }
                self.problem("lock", &format!("head {number}"), "it is locked by nobody alive", self.repair);
            }
        }
        if is_stale(globals.pool_lock.owner()) {
            if self.repair {
                drop(engine.lock_pool());
            }
            self.problem("lock", "the pool", "it is locked by nobody alive", self.repair);
        }
        if is_stale(globals.arena_lock.owner()) {
            if self.repair {
                drop(engine.lock_arena());
            }
            self.problem("lock", "the arena", "it is locked by nobody alive", self.repair);
        }
        if is_stale(globals.room_lock.owner()) {
            if self.repair {
                drop(engine.lock_room());
            }
            self.problem("lock", "the lock of making room", "it is held by nobody alive", self.repair);
        }
        let leases = [
            ("flushing", &globals.flush_lease),
            ("keeping house", &globals.keeper_lease),
            ("checkpoints", &globals.checkpoint_lock),
            ("snapshots", &globals.snapshot_lock),
            ("named locks", &globals.names_lock),
        ];
        for (name, lock) in leases {
            if is_stale(lock.owner()) {
                if self.repair {
                    drop(engine.lock(lock, |_| {}));
                }
                self.problem(
                    "lock",
                    &format!("the lock of {name}"),
                    "it is held by nobody alive",
                    self.repair,
                );
            }
        }
    }

    /// What a slot says about itself. Each of these words is only ever changed to another sane value, so one look suffices.
    fn check_slot_words(&mut self, slot: u32) {
        let engine = self.engine;
        let segment = engine.segment(slot);
        let place = format!("slot {slot}");
        let current = segment.state.load(Ordering::SeqCst);
        if current > state::QUARANTINED {
            self.problem("segment table", &place, &format!("its state is {current}, which is none"), false);
            return;
        }
        if current == state::FREE {
            return;
        }
        let segment_id = segment.segment_id.load(Ordering::SeqCst);
        let is_plausible = segment_id & ((1 << SLOT_BITS) - 1) == u64::from(slot)
            && segment_id >> SLOT_BITS < engine.globals().next_segment.load(Ordering::SeqCst);
        let is_unchanged = segment.state.load(Ordering::SeqCst) == current;
        if !is_plausible && is_unchanged && segment.segment_id.load(Ordering::SeqCst) == segment_id {
            self.problem(
                "segment table",
                &place,
                &format!("{segment_id:#x} can't be the identity of its segment"),
                false,
            );
        }
        let frames = Place::unpack(segment.place.load(Ordering::SeqCst));
        let is_outside = frames.hot.is_some_and(|frame| frame >= engine.geometry.hot_frames)
            || frames.cold.is_some_and(|frame| frame >= engine.geometry.durable_frames());
        if is_outside {
            self.problem(
                "segment table",
                &place,
                &format!("it names frames that do not exist ({:?}, {:?})", frames.hot, frames.cold),
                false,
            );
        }
        let tail = segment.tail.load(Ordering::SeqCst);
        if tail > engine.geometry.frame_bytes {
            self.problem(
                "segment table",
                &place,
                &format!(
                    "{tail} bytes of it are said to be in use, and a frame has {}",
                    engine.geometry.frame_bytes
                ),
                false,
            );
        }
    }

    /// Frames that a recovery set aside because it could not tell what they hold, or could not read it. By now nothing leads there.
    fn release_quarantined(&mut self) {
        let engine = self.engine;
        for (slot, segment) in engine.segments().iter().enumerate() {
            if segment.state.load(Ordering::SeqCst) != state::QUARANTINED {
                continue;
            }
            let place = Place::unpack(segment.place.load(Ordering::SeqCst));
            let name = format!(
                "slot {slot} ({})",
                match (&engine.durable, place.cold) {
                    (Some(durable), Some(frame)) => durable.describe(frame),
                    _ => "in no frame".to_owned(),
                }
            );
            let description =
                "its frame was set aside by the last recovery, which could not tell what it holds";
            self.report.quarantined.push(name.clone());
            if self.repair {
                engine.retire(slot as u32);
            }
            self.problem("set aside", &name, description, self.repair);
        }
    }

    /// Numbers are given out once: the counters are beyond all that were found.
    fn check_counters(&mut self) {
        let globals = self.engine.globals();
        let identity = self
            .engine
            .segments()
            .iter()
            .map(|segment| segment.segment_id.load(Ordering::SeqCst) >> SLOT_BITS)
            .max()
            .unwrap_or(0);
        // The table may hold an identity that can't be right, which is a problem of its own.
        let identity = if identity > SEGMENT_NUMBER_MAX { 0 } else { identity };
        for (name, counter, greatest) in [
            ("sequence", &globals.next_sequence, self.greatest_sequence),
            ("segment", &globals.next_segment, identity),
        ] {
            let next = counter.load(Ordering::SeqCst);
            if next > greatest {
                continue;
            }
            if self.repair {
                counter.fetch_max(greatest + 1, Ordering::SeqCst);
            }
            let description =
                format!("the next {name} number is {next}, and {greatest} was given out already");
            self.problem("counter", "the shared state", &description, self.repair);
        }
        let (watermark, next) =
            (globals.watermark.load(Ordering::SeqCst), globals.next_sequence.load(Ordering::SeqCst));
        if watermark >= next {
            if self.repair {
                globals.watermark.store(
                    globals.watermark_recorded.load(Ordering::SeqCst).min(next.saturating_sub(1)),
                    Ordering::SeqCst,
                );
            }
            let description = format!("the watermark is {watermark}, and the next sequence number is {next}");
            self.problem("counter", "the shared state", &description, self.repair);
        }
    }

    fn add_live(&mut self, slot: u32, bytes: usize) {
        let segment_id = self.engine.segment(slot).segment_id.load(Ordering::Acquire);
        let live = self.live.entry(slot).or_insert((segment_id, 0));
        if live.0 == segment_id {
            live.1 += bytes as u64;
        }
    }

    /// Compares the counts of live bytes with what the index leads to. Exact where nobody writes.
    fn check_live_bytes(&mut self) {
        for (slot, segment) in self.engine.segments().iter().enumerate() {
            let is_log = matches!(segment.state.load(Ordering::Acquire), state::OPEN | state::CLOSED)
                && segment.class.load(Ordering::Relaxed) != class::EXTENT;
            if !is_log {
                continue;
            }
            let segment_id = segment.segment_id.load(Ordering::Acquire);
            let found =
                self.live.get(&(slot as u32)).filter(|live| live.0 == segment_id).map_or(0, |live| live.1);
            let counted = u64::from(segment.live_bytes.load(Ordering::Relaxed));
            self.report.live_bytes_drift += counted.abs_diff(found);
            if self.repair && counted != found {
                // As a difference, so that what writers count meanwhile is not lost.
                segment.live_bytes.fetch_add((found as u32).wrapping_sub(counted as u32), Ordering::Relaxed);
            }
        }
    }

    fn note_missing(&mut self) {
        // Segments freed while the check ran raised the horizon.
        let horizon = self.horizon.max(self.engine.globals().freed_sequence.load(Ordering::SeqCst));
        let above = self.sequences.missing(horizon.saturating_add(1)..u64::MAX);
        let lost = joined(self.lost.iter().flat_map(|lost| self.sequences.missing(lost.clone())).collect());
        let is_lost =
            |range: &Range<u64>| lost.iter().any(|lost| lost.start <= range.start && range.end <= lost.end);
        let is_explained = above.iter().all(is_lost);
        self.report.missing_sequences = compact_ranges(&joined([above, lost].concat()));
        if !is_explained {
            let description =
                format!("no record holds the sequence numbers {}", self.report.missing_sequences);
            self.problem("missing", "the log", &description, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_written_compactly() {
        assert_eq!(compact_ranges(&joined(vec![43..86, 3..30, 41..42, 30..40, 5..6])), "3-39,41,43-85");
        assert_eq!(compact_ranges(&Sequences::new(7, 7).missing(0..9)), "7");
        assert_eq!(compact_ranges(&[]), "");
    }

    #[test]
    fn what_is_missing_is_found_in_any_part_of_the_range() {
        let mut sequences = Sequences::new(1, 1000);
        sequences.note(1, 2);
        sequences.note(40, 1);
        sequences.note(42, 1);
        sequences.note(86, 915);
        assert_eq!(compact_ranges(&sequences.missing(0..u64::MAX)), "3-39,41,43-85");
        assert_eq!(compact_ranges(&sequences.missing(10..42)), "10-39,41");
        assert_eq!(compact_ranges(&sequences.missing(86..1001)), "");
        assert_eq!(compact_ranges(&Sequences::new(1, 1000).missing(0..u64::MAX)), "1-1000");
        assert_eq!(compact_ranges(&Sequences::new(500, 1000).missing(0..700)), "500-699");
    }

    #[test]
    fn numbers_outside_of_the_range_are_never_missing() {
        let mut sequences = Sequences::new(1, 100);
        sequences.note(90, u64::MAX);
        sequences.note(0, 11);
        assert!(
            (1..=10).all(|number| sequences.has(number)) && (90..=100).all(|number| sequences.has(number))
        );
        assert!((11..90).all(|number| !sequences.has(number)));
        assert!(sequences.has(0) && sequences.has(101) && sequences.has(u64::MAX));
    }
}
