//! Directories that are complete or not there: made under a temporary name, and renamed last.

use crate::crash::crash_point;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::places::prepare_directory;
use crate::superblock::{parent, temporary_path};
use std::path::{Path, PathBuf};

/// A directory under its temporary name; removed again unless it is finished.
pub(crate) struct Staged<'a> {
    env: &'a dyn Env,
    /// Where it is until then.
    pub temporary: PathBuf,
    is_finished: bool,
}

impl<'a> Staged<'a> {
    pub(crate) fn begin(env: &'a dyn Env, directory: &Path) -> Result<Self> {
        let exists = env.exists(directory).map_err(|source| Error::io("look at", directory, source))?;
        if exists {
            let names = env.list(directory).map_err(|source| Error::io("list", directory, source))?;
            if names.iter().any(|name| name == "store") {
                return Err(Error::invalid_option(format!(
                    "{} is a store or a snapshot: name a new directory",
                    directory.display()
                )));
            }
            if let Some(name) = names.first() {
                return Err(Error::invalid_option(format!(
                    "{} is not empty (it holds {}): name a new directory, or remove that one first",
                    directory.display(),
                    name.to_string_lossy()
                )));
            }
        }
        let above = parent(directory);
        if !env.exists(above).unwrap_or(false) {
            prepare_directory(env, above, true)?;
        }
        let temporary = temporary_path(&without_trailing_slash(directory));
        remove_leftover(env, &temporary)?;
        env.create_dir(&temporary).map_err(|source| Error::io("create the directory", &temporary, source))?;
        Ok(Self { env, temporary, is_finished: false })
    }

    pub(crate) fn finish(mut self, directory: &Path) -> Result<()> {
        let env = self.env;
        env.sync_dir(&self.temporary)
            .map_err(|source| Error::io("sync the directory", &self.temporary, source))?;
        crash_point!("snapshot.synced");
        env.rename(&self.temporary, directory)
            .map_err(|source| Error::io("rename a new directory to", directory, source))?;
        self.is_finished = true;
        let above = parent(directory);
        env.sync_dir(above).map_err(|source| {
            // Nothing is left behind by what failed, or a second attempt would find its directory taken.
            let _ = env.remove_dir_all(directory);
            Error::io("sync the directory", above, source)
        })
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            // The failure that led here is the one to report.
            let _ = self.env.remove_dir_all(&self.temporary);
        }
    }
}

/// `a/b/` names what `a/b` does, but `a/b/.new` would lie inside of it.
fn without_trailing_slash(path: &Path) -> PathBuf {
    path.components().collect()
}

/// Removes what an attempt that died has left, and refuses anything else of that name.
fn remove_leftover(env: &dyn Env, temporary: &Path) -> Result<()> {
    if !env.exists(temporary).map_err(|source| Error::io("look at", temporary, source))? {
        return Ok(());
    }
    let names = env.list(temporary).map_err(|source| Error::io("list", temporary, source))?;
    let is_ours = |name: &str| {
        let name = name.strip_suffix(".new").unwrap_or(name);
        matches!(name, "store" | "warm" | "cold" | "checkpoint.0" | "checkpoint.1")
    };
    if let Some(foreign) = names.iter().find(|name| !name.to_str().is_some_and(is_ours)) {
        return Err(Error::invalid_option(format!(
            "{} is needed for the copy while it is incomplete, and holds {}: move that away, or name another directory",
            temporary.display(),
            foreign.to_string_lossy()
        )));
    }
    env.remove_dir_all(temporary).map_err(|source| Error::io("remove", temporary, source))
}
