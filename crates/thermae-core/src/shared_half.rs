//! Where a store's shared half is, and whether it is usable: complete, of this layout, this store and this boot, and the one that the store was
//! recovered into last. There are two places for it, shared memory and the store's directory; and others may have had one that is not seen from
//! here, in a `/dev/shm` of their own.
//!
//! All callers hold the attach byte.

use crate::env::{Env, OpenHow, open_own};
use crate::error::{Error, Result};
use crate::layout::{
    CONTROL_MAGIC, ControlHeader, Geometry, Globals, LAYOUT_VERSION, PAGE_BYTES, SEGMENT_NUMBER_MAX,
    STRUCT_BYTES,
};
use crate::options::{Location, Options, ShmPlacement};
use crate::places::{SHARED_MEMORY, exists, has_memory, volatile_name};
use crate::pool::Mapping;
use crate::record::SEQUENCE_MAX;
use crate::superblock::Superblock;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) fn words(bytes: [u8; 16]) -> [u64; 2] {
    let number = u128::from_le_bytes(bytes);
    [number as u64, (number >> 64) as u64]
}

/// What must be equal for a shared half to be this store's, of this boot, and the one that it was last recovered into.
pub(crate) struct Stamp {
    pub store_id: [u64; 2],
    pub boot_id: [u64; 2],
    pub memory_id: [u64; 2],
    pub device: u64,
    pub inode: u64,
}

/// Whether a control file can be attached to.
fn judge(header: &ControlHeader, stamp: &Stamp, geometry: &Geometry, path: &Path) -> Result<bool> {
    let load = |word: &AtomicU32| word.load(Ordering::Acquire);
    if header.magic.load(Ordering::Acquire) != CONTROL_MAGIC {
        return Ok(false);
    }
    let same = |words: &[std::sync::atomic::AtomicU64; 2], other: [u64; 2]| {
        words[0].load(Ordering::Relaxed) == other[0] && words[1].load(Ordering::Relaxed) == other[1]
    };
    let is_this_boots = same(&header.boot_id, stamp.boot_id);
    if is_this_boots
        && (load(&header.layout_version) != LAYOUT_VERSION || load(&header.struct_bytes) != STRUCT_BYTES)
    {
        return Err(Error::WrongLayout(format!(
            "{} has layout {} ({} bytes of shared structures) and this build has layout {LAYOUT_VERSION} ({STRUCT_BYTES} bytes): \
             use the version of thermae that the running processes use, or close them all first",
            path.display(),
            load(&header.layout_version),
            load(&header.struct_bytes)
        )));
    }
    let has_geometry = load(&header.frame_bytes) == geometry.frame_bytes
        && load(&header.hot_frames) == geometry.hot_frames
        && load(&header.warm_frames) == geometry.warm_frames
        && load(&header.cold_frames) == geometry.cold_frames
        && load(&header.slots) == geometry.slots
        && load(&header.partitions) == geometry.partitions
        && load(&header.participants) == geometry.participants
        && load(&header.feed_slots) == geometry.feed_slots;
    Ok(is_this_boots
        && same(&header.store_id, stamp.store_id)
        && same(&header.memory_id, stamp.memory_id)
        && header.device.load(Ordering::Relaxed) == stamp.device
        && header.inode.load(Ordering::Relaxed) == stamp.inode
        && has_geometry)
}

/// Whether the shared half is there and can be attached to.
fn is_usable(
    env: &dyn Env,
    path: &Path,
    stamp: &Stamp,
    geometry: &Geometry,
    is_attached: bool,
) -> Result<bool> {
    if !exists(env, path)? {
        return Ok(false);
    }
    let file = open_own(env, path, OpenHow::READ)?;
    if file.len().map_err(|source| Error::io("measure", path, source))? == 0 {
        // Whoever made it died before it had its length.
        return Ok(false);
    }
    let control = Mapping::new(file, path, PAGE_BYTES + size_of::<Globals>(), false)?;
    if !judge(control.at(0), stamp, geometry, path)? {
        return Ok(false);
    }
    // After a failed flush only what the disk gives back is certain: once nobody is attached any more, that is what the store becomes.
    let globals: &Globals = control.at(PAGE_BYTES);
    let is_sane = globals.next_sequence.load(Ordering::SeqCst) <= SEQUENCE_MAX
        && globals.next_segment.load(Ordering::SeqCst) <= SEGMENT_NUMBER_MAX;
    if !is_sane && (is_attached || geometry.durable_frames() == 0) {
        return Err(Error::corrupt(format!(
            "{} is damaged: it counts further than any store can have come; {}",
            path.display(),
            if geometry.durable_frames() > 0 {
                "close the store everywhere, and it is recovered from its durable tiers"
            } else {
                "what the store held can't be told any more: remove it (thermae.destroy) and begin anew"
            }
        )));
    }
    Ok(is_sane && (is_attached || globals.writes_stopped.load(Ordering::SeqCst) == 0))
}

/// Removes a shared half that could not be completed: it holds nothing that is not on disk, and takes memory.
pub(crate) fn discard_shared_half(env: &dyn Env, directory: &Path, volatile: &Path) {
    // What can't be removed now is replaced by the next attempt.
    if volatile == directory {
        let _ = env.remove_file(&directory.join("control"));
        let _ = env.remove_file(&directory.join("hot"));
    } else {
        let _ = env.remove_dir_all(volatile);
    }
}

/// Where a store's shared half may be.
pub(crate) struct Places {
    directory: PathBuf,
    /// In shared memory; `None` where that is the store's directory itself.
    shared: Option<PathBuf>,
}

impl Places {
    pub fn of(
        env: &dyn Env,
        location: &Location,
        directory: &Path,
        superblock: &Superblock,
        stamp: &Stamp,
    ) -> Result<Self> {
        let shared = match location {
            Location::SharedMemory(_) => None,
            Location::Directory(_) => {
                Some(Path::new(SHARED_MEMORY).join(volatile_name(superblock, stamp.device, stamp.inode)))
            }
        };
        has_memory(env, shared.as_deref().unwrap_or(directory))?;
        Ok(Self { directory: directory.to_path_buf(), shared })
    }

    fn all(&self) -> impl Iterator<Item = &Path> {
        [Some(&*self.directory), self.shared.as_deref()].into_iter().flatten()
    }

    /// The one with a shared half that can be attached to.
    pub fn usable(
        &self,
        env: &dyn Env,
        stamp: &Stamp,
        geometry: &Geometry,
        is_attached: bool,
    ) -> Result<Option<PathBuf>> {
        for place in self.all() {
            if is_usable(env, &place.join("control"), stamp, geometry, is_attached)? {
                return Ok(Some(place.to_path_buf()));
            }
        }
        Ok(None)
    }

    /// Where one is to be made: as it is asked for, or where there is room.
    pub fn chosen(&self, env: &dyn Env, geometry: &Geometry, options: &Options) -> PathBuf {
        let Some(shared) = &self.shared else { return self.directory.clone() };
        let needed = geometry.control_bytes() as u64 + geometry.hot_file_bytes() as u64;
        let is_shared = match options.shm {
            ShmPlacement::Directory => false,
            ShmPlacement::SharedMemory => true,
            ShmPlacement::Auto => {
                // What is there of an earlier one makes room for its successor.
                let taken = ["control", "hot"].map(|name| env.metadata(&shared.join(name)));
                let freed: u64 = taken.into_iter().flatten().map(|found| found.len).sum();
                env.available_bytes(Path::new(SHARED_MEMORY)).unwrap_or(0).saturating_add(freed) >= needed
            }
        };
        if is_shared { shared.clone() } else { self.directory.clone() }
    }

    /// Removes what is left of others, now that one was made: nobody is attached to them, nor can be.
    pub fn discard_others(&self, env: &dyn Env, volatile: &Path) {
        self.all().filter(|place| *place != volatile).for_each(|place| {
            discard_shared_half(env, &self.directory, place);
        });
    }
}
