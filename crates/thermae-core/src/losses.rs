//! What recoveries found damaged, kept beside the store until somebody acknowledges it.
//!
//! A recovery that lost a record leaves no trace of it in the index, so a later check would find nothing wrong. The file `losses` keeps its
//! sentences (one JSON string a line, oldest first, bounded), `check` reports them, and a repair removes the file.

use crate::env::{Env, OpenHow};
use crate::error::{Error, Result};
use crate::superblock::temporary_path;
use std::path::{Path, PathBuf};

/// Most sentences kept.
const LOSSES_MAX: usize = 10_000;
/// Most bytes read of the file: beyond what the sentences can take, it is not ours.
const BYTES_MAX: u64 = 16 << 20;

fn path_in(directory: &Path) -> PathBuf {
    directory.join("losses")
}

/// Adds what a recovery found, durably.
pub(crate) fn add(env: &dyn Env, directory: &Path, found: &[String]) -> Result<()> {
    if found.is_empty() {
        return Ok(());
    }
    let path = path_in(directory);
    let mut all = read(env, directory)?;
    all.extend_from_slice(found);
    all.truncate(LOSSES_MAX);
    let lines: Vec<String> =
        all.iter().map(|line| serde_json::Value::from(line.as_str()).to_string()).collect();
    let temporary = temporary_path(&path);
    let written = write_new(env, &temporary, lines.join("\n").as_bytes()).and_then(|()| {
        env.rename(&temporary, &path).map_err(|source| Error::io("rename a new file to", &path, source))
    });
    if written.is_err() {
        // The first failure is the one to report; what is left over is replaced by the next attempt.
        let _ = env.remove_file(&temporary);
    }
    written?;
    env.sync_dir(directory).map_err(|source| Error::io("sync the directory", directory, source))
}

fn write_new(env: &dyn Env, path: &Path, bytes: &[u8]) -> Result<()> {
    let file = env.open(path, OpenHow::REPLACE).map_err(|source| Error::io("create", path, source))?;
    file.write_all_at(bytes, 0)
        .and_then(|()| file.sync_all())
        .map_err(|source| Error::io("write", path, source))
}

/// What is written down; nothing where there is no file.
pub(crate) fn read(env: &dyn Env, directory: &Path) -> Result<Vec<String>> {
    let path = path_in(directory);
    let file = match env.open(&path, OpenHow::READ) {
        Ok(file) => file,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::io("open", &path, source)),
    };
    let len = file.len().map_err(|source| Error::io("measure", &path, source))?.min(BYTES_MAX);
    let mut bytes = vec![0_u8; usize::try_from(len).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0).map_err(|source| Error::io("read", &path, source))?;
    let text = String::from_utf8_lossy(&bytes);
    // A line that is no JSON string is shown as it stands: it is a message for people.
    Ok(text
        .lines()
        .take(LOSSES_MAX)
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| line.to_owned()))
        .collect())
}

/// Forgets what was written down.
pub(crate) fn forget(env: &dyn Env, directory: &Path) -> Result<()> {
    let path = path_in(directory);
    match env.remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", &path, source))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SystemEnv;

    #[test]
    fn losses_add_up_and_are_forgotten_together() {
        let directory = tempfile::tempdir().unwrap();
        assert!(read(&SystemEnv, directory.path()).unwrap().is_empty());
        add(&SystemEnv, directory.path(), &["one \"quoted\"\nline".to_owned()]).unwrap();
        add(&SystemEnv, directory.path(), &[]).unwrap();
        add(&SystemEnv, directory.path(), &["two".to_owned()]).unwrap();
        assert_eq!(read(&SystemEnv, directory.path()).unwrap(), ["one \"quoted\"\nline", "two"]);
        std::fs::write(directory.path().join("losses"), b"\xff not ours").unwrap();
        assert_eq!(read(&SystemEnv, directory.path()).unwrap().len(), 1);
        forget(&SystemEnv, directory.path()).unwrap();
        forget(&SystemEnv, directory.path()).unwrap();
        assert!(read(&SystemEnv, directory.path()).unwrap().is_empty());
    }
}
