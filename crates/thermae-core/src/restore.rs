//! Stores made from snapshots.

use crate::checkpoint::copy_checkpoint;
use crate::durable::cold_geometry;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::frame_file::{FrameFile, FrameKind, FrameRecord, FrameState};
use crate::layout::{Geometry, SEGMENT_HEADER_BYTES, SLOT_BITS, Shape};
use crate::open;
use crate::options::{Location, Options, Resolved};
use crate::places::{absolute_warm_directory, warm_path};
use crate::record;
use crate::remove;
use crate::sizes::size_text;
use crate::snapshot::frames_for;
use crate::staged::Staged;
use crate::store::Store;
use crate::superblock::Superblock;
use crate::tiers::create_durable;
use crate::waiting::check_cancelled;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// So much is written between two syncs, so that none of them lasts long.
const SYNC_EVERY_BYTES: u64 = 256 << 20;

/// What restoring came to.
#[derive(Debug, Clone, Serialize)]
pub struct RestoreReport {
    /// The new store.
    pub location: String,
    /// It begins as of this sequence number of the original.
    pub sequence: u64,
    /// Keys in it, expired ones included.
    pub keys: u64,
    /// Segments copied.
    pub segments: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// How long it took.
    pub milliseconds: u64,
    /// Segments of the snapshot of which a part could not be verified. They were copied as they are; `check` of the new store tells more.
    pub damaged: Vec<String>,
}

/// Makes a store from a snapshot. `options` may give other sizes of the tiers, another durability and `when_full`; the rest is as in the
/// original. The new store has an identity of its own.
///
/// # Errors
/// InvalidOption where the location is in use, or the sizes have no room for what the snapshot holds; NotAStore, Corrupt where the
/// snapshot is none or is damaged beyond use; Cancelled; Io. Nothing is left behind, unless the new store was complete.
pub fn restore(snapshot: &Path, location: &Location, options: &Options) -> Result<RestoreReport> {
    let env = options.env.clone();
    match location {
        Location::Directory(directory) => {
            let started = Instant::now();
            let staged = Staged::begin(&*env, directory)?;
            let mut report = restore_into(&env, snapshot, &staged.temporary, options)?;
            staged.finish(directory)?;
            report.location = location.to_string();
            let opening = Options {
                // What was restored is as a snapshot is, and this makes it a store.
                create: true,
                read_only: false,
                background: false,
                hot_bytes: None,
                warm_bytes: None,
                warm_directory: None,
                index: None,
                cold_bytes: None,
                ..options.clone()
            };
            // Recovered and checkpointed at once, so that what is wrong shows now and the first user attaches warm.
            report.keys = first_opening(location, &opening).inspect_err(|_| {
                // Unless somebody has it open by now, in which case it is a store in use and not what a failure has left.
                let _ = remove::destroy(&*env, location);
            })?;
            report.milliseconds = started.elapsed().as_millis() as u64;
            Ok(report)
        }
        Location::SharedMemory(name) => Err(Error::invalid_option(format!(
            "a snapshot can't be restored to shm://{name}, which has no files to restore to: restore it to a directory, with \
             durability=\"none\" if it need not be durable"
        ))),
    }
}

/// Opens a store just restored, writes a checkpoint, and closes it. Returns how many keys are in it.
fn first_opening(location: &Location, options: &Options) -> Result<u64> {
    let store = Store::open(location, options)?;
    store.engine().write_checkpoint()?;
    let keys = store.stats()?.keys;
    store.close()?;
    Ok(keys)
}

/// Refuses a directory that holds no snapshot; one that holds several, as a server's `--snapshots` does, has them named.
fn check_is_snapshot(env: &dyn Env, directory: &Path) -> Result<()> {
    if env.exists(&directory.join("store")).unwrap_or(true) {
        return Ok(());
    }
    let mut within = env.list(directory).unwrap_or_default();
    within.retain(|name| env.exists(&directory.join(name).join("store")).unwrap_or(false));
    within.sort_unstable();
    Err(Error::NotAStore(match within.last() {
        Some(last) => format!(
            "{} is no snapshot itself, and holds {}: name one of them, the last of which is {}",
            directory.display(),
            within.len(),
            directory.join(last).display()
        ),
        None => format!("there is no snapshot at {}: check the path", directory.display()),
    }))
}

/// The options of the restored store.
fn restored_options(snapshot: &Path, stored: &Resolved, options: &Options) -> Result<Resolved> {
    if let Some(asked) = options.frame_bytes.filter(|&asked| asked != stored.frame_bytes) {
        return Err(Error::invalid_option(format!(
            "{} has frames of {} and can't be restored with frames of {}: leave frame away",
            snapshot.display(),
            size_text(u64::from(stored.frame_bytes)),
            size_text(u64::from(asked))
        )));
    }
    if options.cold_bytes == Some(0) && options.warm_bytes.unwrap_or(0) == 0 {
        return Err(Error::invalid_option(format!(
            "{} can't be restored without a cold or a warm tier, which is what it is restored into: leave cold away, or give its size",
            snapshot.display()
        )));
    }
    let frame_bytes = u64::from(stored.frame_bytes);
    let whole = |bytes: u64| bytes - bytes % frame_bytes;
    let resolved = Resolved {
        hot_bytes: whole(options.hot_bytes.unwrap_or(stored.hot_bytes)),
        warm_bytes: whole(options.warm_bytes.unwrap_or(0)),
        index: options.index.unwrap_or_default(),
        cold_bytes: whole(options.cold_bytes.unwrap_or(stored.cold_bytes)),
        durability: options.durability.unwrap_or(stored.durability),
        when_full: options.when_full.unwrap_or(stored.when_full),
        ..*stored
    };
    resolved.validate()?;
    Ok(resolved)
}

fn restore_into(
    env: &Arc<dyn Env>,
    snapshot: &Path,
    temporary: &Path,
    options: &Options,
) -> Result<RestoreReport> {
    check_is_snapshot(&**env, snapshot)?;
    let superblock = Superblock::read(&**env, &snapshot.join("store"))?;
    if superblock.sequence_limit == 0 {
        return Err(Error::NotAStore(format!(
            "{} is a store, not a snapshot (or a snapshot that was opened since): take a snapshot of it, and restore that",
            snapshot.display()
        )));
    }
    let resolved = restored_options(snapshot, &superblock.options, options)?;
    let old_geometry = open::geometry_of(&superblock.options, Some(superblock.shape()))?;
    let source_geometry = cold_geometry(superblock.uuid, old_geometry.frame_bytes, old_geometry.cold_frames);
    let source = FrameFile::open(&**env, &snapshot.join("cold"), source_geometry, true)?;
    let used = used_frames(&source, snapshot)?;
    // Segments keep their slots: addresses and identities name them.
    let slots_min = used.iter().map(|(_, record)| slot_of(record) + 1).max().unwrap_or(0);
    let geometry =
        open::geometry_of(&resolved, Some(Shape { partitions: superblock.partitions, slots_min }))?;
    check_room(snapshot, &used, &geometry)?;
    let uuid = env.random_bytes_16();
    let restored = Superblock {
        uuid,
        options: resolved,
        slot_count: geometry.slots,
        created_wall_ms: env.wall_time_ms(),
        warm_directory: absolute_warm_directory(options)?,
        ..superblock
    };
    restored.create(&**env, &temporary.join("store"))?;
    let warm_path = warm_path(&**env, temporary, &restored)?;
    let result = restore_frames(env, snapshot, temporary, (&source, &used), (&restored, &warm_path));
    if result.is_err() && restored.warm_directory.is_some() {
        // Beside the error that is reported nothing more can be done; what is in the temporary directory goes with that.
        let _ = env.remove_file(&warm_path);
    }
    result
}

/// Writes a snapshot's frames into the tiers of a store that is being made from it.
fn restore_frames(
    env: &Arc<dyn Env>,
    snapshot: &Path,
    temporary: &Path,
    (source, used): (&FrameFile, &[(u32, FrameRecord)]),
    (superblock, warm_path): (&Superblock, &Path),
) -> Result<RestoreReport> {
    let geometry = open::geometry_of(&superblock.options, Some(superblock.shape()))?;
    let target = create_durable(&**env, warm_path, &temporary.join("cold"), superblock, &geometry)?
        .ok_or_else(|| Error::invalid_option("a snapshot can't be restored without a durable tier"))?;
    let mut report = RestoreReport {
        location: String::new(),
        sequence: superblock.sequence_limit,
        keys: 0,
        segments: used.len() as u64,
        bytes: 0,
        milliseconds: 0,
        damaged: Vec::new(),
    };
    let mut buffer = Vec::new();
    for (to, (from, record)) in used.iter().enumerate() {
        check_cancelled()?;
        buffer.resize(record.used_bytes as usize, 0);
        let name = format!("segment {} (frame {from})", record.segment_id >> SLOT_BITS);
        let failure = match source.read_salvaging(*from, 0, &mut buffer) {
            // The end of the file is missing: nothing of it is there, and nothing is written either.
            Err(error @ Error::Corrupt(_)) => {
                buffer.clear();
                Some(error)
            }
            read => read?,
        };
        match failure {
            Some(failure) => report.damaged.push(format!("{name}: {failure}")),
            None if !is_frame_intact(&buffer, record, geometry.frame_bytes as usize) => {
                report.damaged.push(name);
            }
            None => {}
        }
        target.write_at(to as u32, 0, &buffer)?;
        target.write_frame_record(to as u32, record)?;
        let synced = report.bytes / SYNC_EVERY_BYTES;
        report.bytes += u64::from(record.used_bytes);
        if report.bytes / SYNC_EVERY_BYTES > synced {
            target.sync()?;
        }
    }
    target.write_watermark(
        source.read_watermark()?.map_or(superblock.sequence_limit, |watermark| watermark.sequence),
    )?;
    target.sync()?;
    copy_checkpoint(
        &**env,
        &snapshot.join("checkpoint.0"),
        &temporary.join("checkpoint.0"),
        &source.geometry().uuid,
        &superblock.uuid,
    )?;
    Ok(report)
}

fn used_frames(source: &FrameFile, snapshot: &Path) -> Result<Vec<(u32, FrameRecord)>> {
    let mut used = Vec::new();
    for (frame, found) in source.read_frame_table()?.into_iter().enumerate() {
        match found {
            FrameState::Used(record) => used.push((frame as u32, record)),
            FrameState::Free => {}
            FrameState::Damaged => {
                return Err(Error::corrupt(format!(
                    "the frame table of {} is damaged at frame {frame}: open a copy of the snapshot with thermae.open, which makes it a \
                     store that serves what is intact, run `thermae check --repair` on that, and take a snapshot of it",
                    snapshot.join("cold").display()
                )));
            }
        }
    }
    Ok(used)
}

fn slot_of(record: &FrameRecord) -> u32 {
    (record.segment_id & ((1 << SLOT_BITS) - 1)) as u32
}

/// Whether tiers of this geometry have room for a snapshot's segments.
fn check_room(snapshot: &Path, used: &[(u32, FrameRecord)], geometry: &Geometry) -> Result<()> {
    let frame_bytes = u64::from(geometry.frame_bytes);
    let frames_needed = frames_for(used.len() as u64);
    if frames_needed > u64::from(geometry.durable_frames()) {
        return Err(Error::invalid_option(format!(
            "{} holds {} segments, for which durable tiers of {} have no room: restore it with cold={} or more",
            snapshot.display(),
            used.len(),
            size_text(u64::from(geometry.durable_frames()) * frame_bytes),
            size_text(frames_needed * frame_bytes)
        )));
    }
    Ok(())
}

/// Whether every record of a copied segment passes its checksum. Extents are verified with the record that lists them.
fn is_frame_intact(bytes: &[u8], frame: &FrameRecord, frame_bytes: usize) -> bool {
    if frame.kind == FrameKind::Extent {
        return true;
    }
    let mut offset = SEGMENT_HEADER_BYTES;
    while offset < bytes.len() {
        let Some((word, total)) =
            record::total_len(&bytes[offset..], offset, frame_bytes, bytes.len() - offset)
        else {
            return false;
        };
        if word.has_key()
            && record::parse(&bytes[offset..offset + total], offset, frame_bytes)
                .is_none_or(|record| !record.is_intact(frame.segment_id))
        {
            return false;
        }
        offset += total;
    }
    true
}
