//! Removing a store: all of it, or only its shared half.
//!
//! Both happen under the attach lock and only while nobody is attached, so that nothing is taken from under anyone. Whoever waits for that
//! lock meanwhile finds the lock file gone and looks again.

use crate::env::Env;
use crate::error::{Error, Result};
use crate::membership::is_anyone_attached;
use crate::open::lock_attach;
use crate::options::Location;
use crate::places::{SHARED_MEMORY, directory_of, exists, prepare_directory, volatile_name, warm_path};
use crate::superblock::Superblock;
use std::path::Path;

/// Everything of a store that `remove` may delete; an error while anyone is attached.
fn with_unused_store(
    env: &dyn Env,
    location: &Location,
    remove: impl FnOnce(&Path, Option<&Path>, Option<&Path>) -> Result<()>,
) -> Result<()> {
    let directory = directory_of(env, location)?;
    prepare_directory(env, &directory, false)?;
    let superblock_path = directory.join("store");
    let superblock = Superblock::read(env, &superblock_path)?;
    let lock_path = directory.join("lock");
    let (lock_file, _guard) = lock_attach(env, &lock_path)?;
    if is_anyone_attached(lock_file.fd(), superblock.options.participants_max) {
        return Err(Error::InUse(format!(
            "{location} is in use: close every handle of it in every process first"
        )));
    }
    let found =
        env.metadata(&superblock_path).map_err(|source| Error::io("look at", &superblock_path, source))?;
    let shared = Path::new(SHARED_MEMORY).join(volatile_name(&superblock, found.device, found.inode));
    let has_shared = matches!(location, Location::Directory(_)) && exists(env, &shared)?;
    let warm = warm_path(env, &directory, &superblock)?;
    let is_elsewhere = superblock.warm_directory.is_some() && exists(env, &warm)?;
    remove(&directory, has_shared.then_some(&*shared), is_elsewhere.then_some(&*warm))
}

/// Removes a store: its files and its shared memory. Everything in it is gone.
///
/// # Errors
/// InUse while any process has it open; NotAStore where there is none.
pub fn destroy(env: &dyn Env, location: &Location) -> Result<()> {
    with_unused_store(env, location, |directory, shared, warm| {
        if let Some(path) = warm {
            env.remove_file(path).map_err(|source| Error::io("remove", path, source))?;
        }
        for path in shared.into_iter().chain([directory]) {
            env.remove_dir_all(path).map_err(|source| Error::io("remove", path, source))?;
        }
        Ok(())
    })
}

/// Removes the volatile half of a store in a directory, as a reboot of the machine would; the next open recovers it from the
/// cold tier. For benchmarks and tests of recovery, and to return a closed store's shared memory.
///
/// # Errors
/// InUse while any process has it open; NotAStore where there is none.
pub fn forget_shared_memory(env: &dyn Env, location: &Location) -> Result<()> {
    with_unused_store(env, location, |directory, shared, _| {
        if let Some(path) = shared {
            env.remove_dir_all(path).map_err(|source| Error::io("remove", path, source))?;
        }
        if matches!(location, Location::Directory(_)) {
            for name in ["control", "hot"] {
                let path = directory.join(name);
                if exists(env, &path)? {
                    env.remove_file(&path).map_err(|source| Error::io("remove", &path, source))?;
                }
            }
        }
        Ok(())
    })
}
