//! What a store holds, has done, and is configured as: sums over what the participants and the shared structures count.
//!
//! Nothing is locked for it: each number was true a moment ago, but not all at the same moment.

use crate::durable::DurableTiers;
use crate::engine::Engine;
use crate::layout::{Counters, state};
use serde::Serialize;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How a store is configured.
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    /// What it was opened by.
    pub location: String,
    /// Hot tier, in bytes.
    pub hot_bytes: u64,
    /// How many of them may be used.
    pub hot_limit_bytes: u64,
    /// Warm tier, in bytes; 0 = none.
    pub warm_bytes: u64,
    /// The warm tier's file, where there is one.
    pub warm_file: Option<String>,
    /// Whether what is written to the warm tier is durable without a system call, because it is persistent memory.
    pub warm_is_synchronous: Option<bool>,
    /// Cold tier, in bytes; 0 = none.
    pub cold_bytes: u64,
    /// Frame, in bytes.
    pub frame_bytes: u32,
    /// `none`, `everysec` or `always`.
    pub durability: String,
    /// `evict` or `error`.
    pub when_full: String,
    /// Whether this handle may only read.
    pub read_only: bool,
    /// Participant slots.
    pub participants_max: u32,
    /// Where the shared half is.
    pub memory_directory: String,
}

/// What a store holds and has done. Counts are of all participants since the shared half was made.
#[derive(Debug, Clone, Serialize)]
pub struct Stats {
    /// Keys, expired ones included until they are removed (at most two seconds).
    pub keys: u64,
    /// Reads that found their key.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Values stored.
    pub sets: u64,
    /// Keys deleted.
    pub deletes: u64,
    /// Records dropped to make room.
    pub evicted: u64,
    /// Records removed because they expired.
    pub expired: u64,
    /// Records of the lower tiers copied to the hot one.
    pub promoted: u64,
    /// Segments whose hot frame was given up.
    pub demoted_segments: u64,
    /// Reads that were served from the warm tier.
    pub warm_reads: u64,
    /// Reads that went to the cold tier.
    pub cold_reads: u64,
    /// Reads that started over.
    pub retries: u64,
    /// Locks taken over from dead participants.
    pub inherited_locks: u64,
    /// Bytes that compaction copied.
    pub compacted_bytes: u64,
    /// Hot tier, in bytes.
    pub hot_bytes: u64,
    /// How many of them may be used, see [`crate::Store::set_hot_limit`].
    pub hot_limit_bytes: u64,
    /// Of it in frames that hold something.
    pub hot_used_bytes: u64,
    /// Warm tier, in bytes.
    pub warm_bytes: u64,
    /// Of it in frames that hold something.
    pub warm_used_bytes: u64,
    /// Cold tier, in bytes.
    pub cold_bytes: u64,
    /// Of it in frames that hold something.
    pub cold_used_bytes: u64,
    /// Bytes of records that are alive, headers included.
    pub live_bytes: u64,
    /// Bytes of index tables.
    pub index_bytes: u64,
    /// Bytes of the frames that hold them.
    pub index_frame_bytes: u64,
    /// Bytes of the control file.
    pub control_bytes: u64,
    /// Bytes appended to closed segments of the log.
    pub log_bytes: u64,
    /// Bytes written to the warm tier.
    pub warm_written_bytes: u64,
    /// Bytes written to the cold tier.
    pub cold_written_bytes: u64,
    /// Last sequence number given out.
    pub sequence: u64,
    /// Up to this one, everything is durable.
    pub watermark: u64,
    /// Flushes completed.
    pub flushes: u64,
    /// Sequence number of the last index checkpoint.
    pub checkpoint_sequence: u64,
    /// Living participants.
    pub participants: u32,
    /// As many as there can be.
    pub participants_max: u32,
    /// Whether a flush failed, so that writes are refused until the store is opened again.
    pub writes_stopped: bool,
    /// Whether what is written to the warm tier is durable without a system call, because it is persistent memory; `None` where there is no
    /// warm tier.
    pub warm_is_synchronous: Option<bool>,
    /// What a key costs on average, with its value, its header and its part of the index, in bytes; `None` where there are no keys.
    pub item_bytes_mean: Option<u64>,
    /// Segments that views and snapshots keep from being reused.
    pub pinned_segments: u32,
    /// Where the hot tier is: in shared memory, or, where there was no room for it, in the store's own directory.
    pub memory_directory: String,
}

impl Engine {
    /// Keys in the index, expired ones included.
    pub(crate) fn count_entries(&self) -> u64 {
        self.partitions().iter().map(|partition| u64::from(partition.count.load(Ordering::Relaxed))).sum()
    }

    /// Bytes of the hot tier that may be used.
    pub(crate) fn hot_limit_bytes(&self) -> u64 {
        let withheld = u64::from(self.globals().hot_withheld.load(Ordering::Relaxed));
        self.superblock.options.hot_bytes.saturating_sub(withheld * u64::from(self.geometry.frame_bytes))
    }

    /// How the store is configured now.
    pub(crate) fn config(&self) -> Config {
        let fixed = &self.superblock.options;
        Config {
            location: self.paths.location.to_string(),
            hot_bytes: fixed.hot_bytes,
            hot_limit_bytes: self.hot_limit_bytes(),
            warm_bytes: fixed.warm_bytes,
            warm_file: (fixed.warm_bytes != 0).then(|| self.paths.warm.display().to_string()),
            warm_is_synchronous: self.durable.as_ref().and_then(DurableTiers::is_synchronous),
            cold_bytes: fixed.cold_bytes,
            frame_bytes: fixed.frame_bytes,
            durability: self.durability().to_string(),
            when_full: self.when_full().to_string(),
            read_only: self.read_only,
            participants_max: fixed.participants_max,
            memory_directory: self.paths.volatile.display().to_string(),
        }
    }

    /// What the store holds and has done.
    pub(crate) fn stats(&self) -> Stats {
        let globals = self.globals();
        let frame_bytes = u64::from(self.geometry.frame_bytes);
        let sum = |field: fn(&Counters) -> &AtomicU64| -> u64 {
            (0..self.geometry.participants)
                .map(|slot| field(&self.participant(slot).counters).load(Ordering::Relaxed))
                .sum()
        };
        let (index_bytes, index_frame_bytes) = self.index_bytes();
        let used_bytes = |frames: u32, free: &AtomicU32| {
            u64::from(frames.saturating_sub(free.load(Ordering::Relaxed))) * frame_bytes
        };
        let live_bytes = self
            .segments()
            .iter()
            .filter(|segment| {
                matches!(segment.state.load(Ordering::Relaxed), state::OPEN | state::CLOSED | state::EXTENT)
            })
            .map(|segment| u64::from(segment.live_bytes.load(Ordering::Relaxed)))
            .sum();
        let living = self.living_participants();
        let keys = self.count_entries();
        Stats {
            keys,
            hits: sum(|counters| &counters.hits),
            misses: sum(|counters| &counters.misses),
            sets: sum(|counters| &counters.sets),
            deletes: sum(|counters| &counters.deletes),
            evicted: sum(|counters| &counters.evicted),
            expired: sum(|counters| &counters.expired),
            promoted: sum(|counters| &counters.promoted),
            demoted_segments: sum(|counters| &counters.demoted_segments),
            warm_reads: sum(|counters| &counters.warm_reads),
            cold_reads: sum(|counters| &counters.cold_reads),
            retries: sum(|counters| &counters.retries),
            inherited_locks: sum(|counters| &counters.inherited_locks),
            compacted_bytes: sum(|counters| &counters.compacted_bytes),
            hot_bytes: self.superblock.options.hot_bytes,
            hot_limit_bytes: self.hot_limit_bytes(),
            hot_used_bytes: used_bytes(self.geometry.hot_frames, &globals.free_hot),
            warm_bytes: self.superblock.options.warm_bytes,
            warm_used_bytes: used_bytes(self.geometry.warm_frames, &globals.free_warm),
            cold_bytes: self.superblock.options.cold_bytes,
            cold_used_bytes: used_bytes(self.geometry.cold_frames, &globals.free_cold),
            live_bytes,
            index_bytes,
            index_frame_bytes,
            control_bytes: self.geometry.control_bytes() as u64,
            log_bytes: globals.log_bytes.load(Ordering::Relaxed),
            warm_written_bytes: globals.warm_written_bytes.load(Ordering::Relaxed),
            cold_written_bytes: globals.cold_written_bytes.load(Ordering::Relaxed),
            sequence: globals.next_sequence.load(Ordering::Relaxed).saturating_sub(1),
            watermark: globals.watermark.load(Ordering::Relaxed),
            flushes: globals.flush_count.load(Ordering::Relaxed),
            checkpoint_sequence: globals.checkpoint_sequence.load(Ordering::Relaxed),
            participants: living.len() as u32,
            participants_max: self.superblock.options.participants_max,
            writes_stopped: globals.writes_stopped.load(Ordering::Relaxed) != 0,
            warm_is_synchronous: self.durable.as_ref().and_then(DurableTiers::is_synchronous),
            item_bytes_mean: (live_bytes + index_bytes).checked_div(keys),
            pinned_segments: self.count_pinned_by(&living),
            memory_directory: self.paths.volatile.display().to_string(),
        }
    }
}
