//! Where a store's parts are: its directory, its memory, the warm tier's file; and whether they may be used.
//!
//! Nothing is opened here. A directory that is not this user's own is refused, and "not to be found" is told from "not to be known":
//! what looks absent is made anew, and takes the place of what was there.

use crate::env::Env;
use crate::error::{Error, Result};
use crate::options::{Location, Options};
use crate::superblock::{Superblock, parent};
use std::io;
use std::path::{Path, PathBuf};

pub(crate) const SHARED_MEMORY: &str = "/dev/shm";
/// Mode bits of group and others.
const OTHERS_MAY_WRITE: u32 = 0o022;

pub(crate) fn directory_of(env: &dyn Env, location: &Location) -> Result<PathBuf> {
    match location {
        Location::Directory(path) => Ok(path.clone()),
        Location::SharedMemory(name) => {
            let root = Path::new(SHARED_MEMORY);
            env.metadata(root).map_err(|source| Error::io("use shared memory at", root, source))?;
            Ok(root.join(format!("thermae-shm-{}-{name}", env.user_id())))
        }
    }
}

/// Refuses what is not this user's own directory; makes it where there is none.
pub(crate) fn prepare_directory(env: &dyn Env, path: &Path, create: bool) -> Result<()> {
    match env.metadata(path) {
        Ok(found) if found.is_link => Err(Error::NotAStore(format!(
            "{} is a link, which may lead elsewhere tomorrow: name the directory itself",
            path.display()
        ))),
        Ok(found) if !found.is_dir => Err(Error::NotAStore(format!(
            "{} is a file; a store is a directory: name another path, or move the file away",
            path.display()
        ))),
        Ok(found) => {
            let uid = env.user_id();
            if found.uid != uid {
                return Err(Error::Permission(format!(
                    "{} belongs to user {}, and this process runs as user {uid}: open it as its owner, or use another directory",
                    path.display(),
                    found.uid
                )));
            }
            Ok(())
        }
        Err(source) if source.kind() == io::ErrorKind::NotFound && create => {
            if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty())
                && env.metadata(above).is_err()
            {
                prepare_directory(env, above, true)?;
            }
            match env.create_dir(path) {
                // By somebody, just now.
                Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
                    prepare_directory(env, path, false)
                }
                Err(source) => Err(Error::io("create the directory", path, source)),
                // Its name has to survive a power failure like what is written under it.
                Ok(()) => env
                    .sync_dir(parent(path))
                    .map_err(|source| Error::io("sync the directory", parent(path), source)),
            }
        }
        Err(source) if source.kind() == io::ErrorKind::NotFound => Err(Error::NotAStore(format!(
            "there is no store at {}: check the path (thermae.open makes one unless create is false, and so does `thermae set`)",
            path.display()
        ))),
        Err(source) => Err(Error::io("look at", path, source)),
    }
}

/// Whether a store's directory in shared memory is there. Anybody may make a directory of that name once a reboot has removed the store's own: what
/// is there must be this user's, no link, and for nobody else to write to.
///
/// # Errors
/// Permission, where it is not; Io.
pub(crate) fn has_memory(env: &dyn Env, path: &Path) -> Result<bool> {
    let found = match env.metadata(path) {
        Ok(found) => found,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(Error::io("look at", path, source)),
    };
    let user_id = env.user_id();
    let problem = if found.is_link {
        "is a link".to_owned()
    } else if !found.is_dir {
        "is a file".to_owned()
    } else if found.uid != user_id {
        format!("belongs to user {}, and this process runs as user {user_id}", found.uid)
    } else if found.mode & OTHERS_MAY_WRITE != 0 {
        format!("can be written to by other users (mode {:o})", found.mode & 0o7777)
    } else {
        return Ok(true);
    };
    Err(Error::Permission(format!(
        "{} {problem}: there the store has its shared memory, which whoever made this could change at will; \
         look who did, have it removed, then open the store again",
        path.display()
    )))
}

/// Whether a path names anything. Not to know is an error: what looks absent is made anew, and takes the place of what was there.
pub(crate) fn exists(env: &dyn Env, path: &Path) -> Result<bool> {
    env.exists(path).map_err(|source| Error::io("look at", path, source))
}

/// The directory asked for the warm tier's file, as it is kept.
pub(crate) fn absolute_warm_directory(options: &Options) -> Result<Option<PathBuf>> {
    let absolute = |path: &PathBuf| {
        std::path::absolute(path)
            .map_err(|source| Error::io("find the directory of the warm tier", path, source))
    };
    options.warm_directory.as_ref().map(absolute).transpose()
}

/// Where a store's warm tier is. Beside the store it goes with it when its directory is copied or moved. Elsewhere its name says whose it is:
/// the superblock's inode tells a copy of the directory from the original, which must not share what one of them writes.
///
/// # Errors
/// Io where `store` can't be looked at.
pub(crate) fn warm_path(env: &dyn Env, directory: &Path, superblock: &Superblock) -> Result<PathBuf> {
    let Some(warm_directory) = &superblock.warm_directory else { return Ok(directory.join("warm")) };
    let path = directory.join("store");
    let inode = env.metadata(&path).map_err(|source| Error::io("look at", &path, source))?.inode;
    let uuid = u128::from_be_bytes(superblock.uuid);
    Ok(warm_directory.join(format!("thermae-{uuid:032x}-{inode:x}.warm")))
}

/// The name of a store's directory in shared memory: its identity and the place of its superblock, so that a copy gets another.
pub(crate) fn volatile_name(superblock: &Superblock, device: u64, inode: u64) -> String {
    let mut bytes = superblock.uuid.to_vec();
    bytes.extend_from_slice(&device.to_le_bytes());
    bytes.extend_from_slice(&inode.to_le_bytes());
    format!(
        "thermae-{:016x}{:016x}",
        xxhash_rust::xxh3::xxh3_64(&bytes),
        u64::from_le_bytes(superblock.uuid[..8].try_into().unwrap_or_default())
    )
}
