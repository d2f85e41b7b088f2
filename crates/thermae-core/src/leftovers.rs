//! Shared memory whose store may be gone: a directory removed by hand leaves its volatile half in `/dev/shm` until the machine restarts.
//!
//! Each volatile half notes where its store is (`origin`, an absolute path), and every handle holds a shared lock on the first byte of
//! `hot` for as long as it maps it. So it can be told whether anybody uses it, and whether the store that it belongs to is where it was: the
//! name of a volatile half follows from its superblock's identity, device and inode, which can be looked at again.
//!
//! **Nothing is removed by itself.** That a directory can't be seen from here does not mean that it is gone: it may be on a disk that is not
//! mounted, in another container, or moved. Its memory may hold what was acknowledged and is on no disk yet. So only a person says
//! "remove what is orphaned", having been shown what that is; and what is not certain is not called orphaned.
//!
//! Whoever removes takes the lock exclusively, and whoever attaches makes sure, once it has its share, that the file it locked is still
//! the one that is named: so nobody goes on with memory that others can't find.

use crate::env::{Env, EnvFile, OpenHow};
use crate::error::{Error, Result};
use crate::layout::{CONTROL_MAGIC, ControlHeader};
use crate::membership::{is_byte_locked, lock_byte, share_byte};
use crate::places::{SHARED_MEMORY, volatile_name};
use crate::pool::Mapping;
use crate::superblock::{Superblock, parent};
use serde::Serialize;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const ORIGIN: &str = "origin";
const OUT_OF_DATE: &str = "the store has got other memory since, and this is out of date";
/// The byte of `hot` that says that it is in use.
const IN_USE_BYTE: i64 = 0;
/// Directories beside a store's old place that are looked at for it.
const SIBLINGS_MAX: usize = 10_000;
/// Longer paths the kernel does not take.
const PATH_BYTES_MAX: u64 = 4096;

/// What became of the store that shared memory belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryState {
    /// Some process has it open.
    InUse,
    /// Nobody has it open, and the store is there.
    Kept,
    /// Nobody has it open, and there is no such store any more.
    Orphaned,
    /// Nobody has it open, and whether the store is there can't be told from here.
    Unknown,
}

/// The memory of one store.
#[derive(Debug, Clone, Serialize)]
pub struct SharedMemory {
    /// Its directory's name in `/dev/shm`.
    pub name: String,
    /// The store it belongs to, as far as that is known.
    pub location: Option<String>,
    /// How much it takes.
    pub bytes: u64,
    /// What became of that store.
    pub state: MemoryState,
    /// Why it is said to be so.
    pub reason: String,
}

/// Notes in a volatile half which directory it belongs to, unless it says so already. The caller holds the attach byte.
pub(crate) fn note_origin(env: &dyn Env, volatile: &Path, directory: &Path) -> Result<()> {
    let directory = std::path::absolute(directory)
        .map_err(|source| Error::io("find the absolute path of", directory, source))?;
    if read_origin(env, volatile).as_deref() == Some(&*directory) {
        return Ok(());
    }
    let path = volatile.join(ORIGIN);
    let file = env.open(&path, OpenHow::REPLACE).map_err(|source| Error::io("create", &path, source))?;
    file.write_all_at(directory.as_os_str().as_bytes(), 0).map_err(|source| Error::io("write", &path, source))
}

/// `None` where nothing, or nothing sensible, is noted: then its state is unknown.
fn read_origin(env: &dyn Env, volatile: &Path) -> Option<PathBuf> {
    let file = env.open(&volatile.join(ORIGIN), OpenHow::READ).ok()?;
    let len = file.len().ok().filter(|len| (1..PATH_BYTES_MAX).contains(len))?;
    let mut bytes = vec![0; usize::try_from(len).ok()?];
    file.read_exact_at(&mut bytes, 0).ok()?;
    Some(PathBuf::from(OsString::from_vec(bytes))).filter(|path| path.is_absolute())
}

/// Says that this open file's memory is in use, until it is closed. The caller has mapped it.
pub(crate) fn hold(env: &dyn Env, hot: &Arc<dyn EnvFile>, path: &Path) -> Result<()> {
    share_byte(hot.fd(), IN_USE_BYTE).map_err(|source| Error::io("lock", path, source))?;
    let held = hot.metadata().map_err(|source| Error::io("look at", path, source))?;
    match env.metadata(path) {
        Ok(named) if (named.device, named.inode) == (held.device, held.inode) => Ok(()),
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::io("look at", path, source)),
        _ => Err(Error::InUse(format!(
            "{} was being removed as the memory of a store that is gone: open the store again, which makes it anew",
            path.display()
        ))),
    }
}

/// The shared memory of this user's stores, in order of their names.
///
/// # Errors
/// Io, where `/dev/shm` can't be listed.
pub fn shared_memory(env: &dyn Env) -> Result<Vec<SharedMemory>> {
    let root = Path::new(SHARED_MEMORY);
    let mut names = env.list(root).map_err(|source| Error::io("list", root, source))?;
    names.sort_unstable();
    Ok(names.iter().filter_map(|name| name.to_str()).filter_map(|name| describe(env, name)).collect())
}

/// Removes the shared memory of stores that are gone: of all of them, or of those in the directories of these names. Returns what was removed.
///
/// # Errors
/// Io: what was removed before stays so.
pub fn remove_orphaned_memory(env: &dyn Env, names: Option<&[String]>) -> Result<Vec<SharedMemory>> {
    let mut removed = Vec::new();
    let is_wanted = |memory: &SharedMemory| {
        memory.state == MemoryState::Orphaned && names.is_none_or(|names| names.contains(&memory.name))
    };
    for memory in shared_memory(env)?.into_iter().filter(is_wanted) {
        let path = Path::new(SHARED_MEMORY).join(&memory.name);
        let hot = path.join("hot");
        let file = env.open(&hot, OpenHow::READ_WRITE).map_err(|source| Error::io("open", &hot, source))?;
        let is_free =
            lock_byte(file.fd(), IN_USE_BYTE, false).map_err(|source| Error::io("lock", &hot, source))?;
        // Looked at again: it may have been opened, and closed, in between.
        if is_free && judge(env, &path, &memory.name).0 == MemoryState::Orphaned {
            env.remove_dir_all(&path).map_err(|source| Error::io("remove", &path, source))?;
            removed.push(memory);
        }
    }
    Ok(removed)
}

/// `None` where it is not this user's, or no memory of a store.
fn describe(env: &dyn Env, name: &str) -> Option<SharedMemory> {
    let rest = name.strip_prefix("thermae-")?;
    let path = Path::new(SHARED_MEMORY).join(name);
    // What vanishes meanwhile is none.
    let found = env.metadata(&path).ok()?;
    if !found.is_dir || found.uid != env.user_id() {
        return None;
    }
    let bytes = ["control", "hot"]
        .iter()
        .filter_map(|file| env.metadata(&path.join(file)).ok())
        .map(|file| file.len)
        .sum();
    let shared = rest.strip_prefix("shm-").and_then(|rest| rest.split_once('-'));
    let location = match shared {
        Some((_, name)) => Some(format!("shm://{name}")),
        None => read_origin(env, &path).map(|origin| origin.display().to_string()),
    };
    let (state, reason) = if is_in_use(env, &path) {
        (MemoryState::InUse, "some process has it open".to_owned())
    } else if shared.is_some() {
        (MemoryState::Kept, "it is the store itself: thermae.destroy removes it".to_owned())
    } else {
        judge(env, &path, name)
    };
    Some(SharedMemory { name: name.to_owned(), location, bytes, state, reason })
}

fn is_in_use(env: &dyn Env, path: &Path) -> bool {
    env.open(&path.join("hot"), OpenHow::READ).is_ok_and(|file| is_byte_locked(file.fd(), IN_USE_BYTE))
}

/// Whether the store is still there that unused memory belongs to.
fn judge(env: &dyn Env, path: &Path, name: &str) -> (MemoryState, String) {
    let Some(origin) = read_origin(env, path) else {
        return (MemoryState::Unknown, "it does not say which store it belongs to".to_owned());
    };
    let unknown = |reason: String| (MemoryState::Unknown, reason);
    let Some(owner) = owner_of(env, &path.join("control")) else {
        return unknown("it was never completed, or is damaged".to_owned());
    };
    if let Some(is_current) = uses(env, &origin, owner, name) {
        return if is_current {
            (MemoryState::Kept, "the store is there".to_owned())
        } else {
            // Nothing can come back to it: whoever opens the store makes its memory anew.
            (MemoryState::Orphaned, OUT_OF_DATE.to_owned())
        };
    }
    // The file system that the store was on has to be seen from here, or nothing is known of what is on it.
    let above = parent(&origin);
    let seen = match (env.metadata(&origin), env.metadata(above)) {
        (Ok(found), _) => found.device == owner.device,
        (Err(source), Ok(found)) => source.kind() == io::ErrorKind::NotFound && found.device == owner.device,
        _ => false,
    };
    let is_above_gone = env.metadata(above).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let is_file_system_there = || {
        above
            .ancestors()
            .find_map(|path| env.metadata(path).ok())
            .is_some_and(|found| found.device == owner.device)
    };
    if !seen && is_above_gone && is_file_system_there() {
        return unknown(format!(
            "{} is gone too: it may have been moved, or not be mounted; if it was removed, remove {} by hand",
            above.display(),
            path.display()
        ));
    }
    if !seen {
        return unknown(format!(
            "the file system that {} was on can't be seen from here: it may not be mounted",
            origin.display()
        ));
    }
    let siblings = match env.list(above) {
        Ok(siblings) if siblings.len() <= SIBLINGS_MAX => siblings,
        _ => return unknown(format!("{} can't be searched for the store", above.display())),
    };
    let moved = siblings.iter().map(|sibling| above.join(sibling)).find_map(|sibling| {
        let is_current = uses(env, &sibling, owner, name)?;
        Some((sibling, is_current))
    });
    match moved {
        Some((moved, true)) => (MemoryState::Kept, format!("the store was moved to {}", moved.display())),
        Some((_, false)) => (MemoryState::Orphaned, OUT_OF_DATE.to_owned()),
        None => (MemoryState::Orphaned, format!("there is no such store at {} any more", origin.display())),
    }
}

/// Whether the store in a directory is the one that has its memory under this name, and then, whether that memory is the one it was opened with
/// last. A damaged superblock at the right place counts as the one that was there; an intact one also tells whether the place was given to
/// another file since.
fn uses(env: &dyn Env, directory: &Path, owner: Owner, name: &str) -> Option<bool> {
    let path = directory.join("store");
    let found = env.metadata(&path).ok()?;
    if (found.device, found.inode) != (owner.device, owner.inode) {
        return None;
    }
    match Superblock::read(env, &path) {
        Ok(superblock) => (volatile_name(&superblock, owner.device, owner.inode) == name)
            .then(|| u128::from_le_bytes(superblock.memory_id) == owner.memory_id),
        Err(_) => Some(true),
    }
}

/// What memory says of the store that it belongs to: the device and inode of its superblock, and which memory of it this is.
#[derive(Clone, Copy)]
struct Owner {
    device: u64,
    inode: u64,
    memory_id: u128,
}

/// As a complete control file has it.
fn owner_of(env: &dyn Env, control: &Path) -> Option<Owner> {
    let file = env.open(control, OpenHow::READ).ok()?;
    let is_whole = file.len().ok()? >= size_of::<ControlHeader>() as u64;
    let mapping = is_whole.then(|| Mapping::new(file, control, size_of::<ControlHeader>(), false))?.ok()?;
    let header: &ControlHeader = mapping.at(0);
    let [low, high] = [0, 1].map(|word| u128::from(header.memory_id[word].load(Ordering::Relaxed)));
    (header.magic.load(Ordering::Acquire) == CONTROL_MAGIC).then(|| Owner {
        device: header.device.load(Ordering::Relaxed),
        inode: header.inode.load(Ordering::Relaxed),
        memory_id: low | high << 64,
    })
}
