//! What a store holds, has done, and is configured as: sums over what the participants and the shared structures count.
//!
//! Nothing is locked for it: each number was true a moment ago, but not all at the same moment.

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
    /// Cold tier, in bytes.
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
    pub volatile_directory: String,
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
    /// Cold records copied to the hot tier.
    pub promoted: u64,
    /// Segments whose hot frame was given up.
    pub demoted_segments: u64,
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
    /// Of it in frames that hold something.
    pub hot_used_bytes: u64,
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
    /// Segments that views and snapshots keep from being reused.
    pub pinned_segments: u32,
}

impl Engine {
    /// Keys in the index, expired ones included.
    pub(crate) fn count_entries(&self) -> u64 {
        self.partitions().iter().map(|partition| u64::from(partition.count.load(Ordering::Relaxed))).sum()
    }

    /// How the store is configured now.
    pub(crate) fn config(&self) -> Config {
        let fixed = &self.superblock.options;
        Config {
            location: self.paths.location.to_string(),
            hot_bytes: fixed.hot_bytes,
            cold_bytes: fixed.cold_bytes,
            frame_bytes: fixed.frame_bytes,
            durability: self.durability().to_string(),
            when_full: self.when_full().to_string(),
            read_only: self.read_only,
            participants_max: fixed.participants_max,
            volatile_directory: self.paths.volatile.display().to_string(),
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
        let free = |count: &AtomicU32| u64::from(count.load(Ordering::Relaxed));
        let live_bytes = self
            .segments()
            .iter()
            .filter(|segment| {
                matches!(segment.state.load(Ordering::Relaxed), state::OPEN | state::CLOSED | state::EXTENT)
            })
            .map(|segment| u64::from(segment.live_bytes.load(Ordering::Relaxed)))
            .sum();
        let participants = (0..self.geometry.participants)
            .filter(|&slot| {
                self.participant(slot).state.load(Ordering::Relaxed) != 0 && self.member.is_alive(slot)
            })
            .count();
        Stats {
            keys: self.count_entries(),
            hits: sum(|counters| &counters.hits),
            misses: sum(|counters| &counters.misses),
            sets: sum(|counters| &counters.sets),
            deletes: sum(|counters| &counters.deletes),
            evicted: sum(|counters| &counters.evicted),
            expired: sum(|counters| &counters.expired),
            promoted: sum(|counters| &counters.promoted),
            demoted_segments: sum(|counters| &counters.demoted_segments),
            cold_reads: sum(|counters| &counters.cold_reads),
            retries: sum(|counters| &counters.retries),
            inherited_locks: sum(|counters| &counters.inherited_locks),
            compacted_bytes: sum(|counters| &counters.compacted_bytes),
            hot_bytes: self.superblock.options.hot_bytes,
            hot_used_bytes: (u64::from(self.geometry.hot_frames) - free(&globals.free_hot)) * frame_bytes,
            cold_bytes: self.superblock.options.cold_bytes,
            cold_used_bytes: (u64::from(self.geometry.cold_frames) - free(&globals.free_cold)) * frame_bytes,
            live_bytes,
            index_bytes,
            index_frame_bytes,
            control_bytes: self.geometry.control_bytes() as u64,
            log_bytes: globals.log_bytes.load(Ordering::Relaxed),
            cold_written_bytes: globals.cold_written_bytes.load(Ordering::Relaxed),
            sequence: globals.next_sequence.load(Ordering::Relaxed).saturating_sub(1),
            watermark: globals.watermark.load(Ordering::Relaxed),
            flushes: globals.flush_count.load(Ordering::Relaxed),
            checkpoint_sequence: globals.checkpoint_sequence.load(Ordering::Relaxed),
            participants: participants as u32,
            pinned_segments: self.pinned_count(),
        }
    }
}
