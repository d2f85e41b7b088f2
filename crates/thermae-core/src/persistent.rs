//! Persistent memory: a file written through a mapping, each cache line written back by hand.
//!
//! On a DAX file system the kernel grants `MAP_SYNC`: what is stored in such a mapping and written back from the processor's caches
//! is durable, with no system call. [`PersistentFile`] makes that look like any other file, so that whoever writes frames and
//! blocks need not know: `write_at` copies and writes back, `sync_data` is a fence. Everywhere else the kernel refuses `MAP_SYNC`, and
//! the file is written and synced by system calls, whose errors are seen.
//!
//! Thread and process safety: as of any file; who may write where is decided above. A fork inherits the mapping.
//!
//! Rejected: storing through an ordinary mapping with `msync`. A failed write would raise SIGBUS instead of an error, and
//! the mapping that readers use could be written to by accident.

use crate::env::{EnvFile, FileMetadata};
use crate::lines::fence_of_write_backs;
use crate::pool::Mapping;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

/// A file on persistent memory.
#[derive(Debug)]
pub struct PersistentFile {
    /// Writable, and of the whole file.
    mapping: Mapping,
}

impl PersistentFile {
    /// Writes through `mapping`, which covers its file. It makes nothing durable unless the mapping is synchronous.
    pub fn new(mapping: Mapping) -> Self {
        assert!(mapping.is_writable(), "persistent memory is written through its mapping");
        Self { mapping }
    }

    fn inner(&self) -> &Arc<dyn EnvFile> {
        self.mapping.file()
    }
}

impl EnvFile for PersistentFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner().read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.mapping.len() as u64) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{} bytes at {offset} are not within the {} bytes mapped",
                    bytes.len(),
                    self.mapping.len()
                ),
            ));
        }
        self.mapping.write_back(offset as usize, bytes);
        Ok(bytes.len())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner().allocate(offset, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        fence_of_write_backs();
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        fence_of_write_backs();
        self.inner().sync_all()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner().len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner().set_len(len)
    }

    fn metadata(&self) -> io::Result<FileMetadata> {
        self.inner().metadata()
    }

    fn fd(&self) -> RawFd {
        self.inner().fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{Env, OpenHow, SystemEnv};

    #[test]
    fn what_is_written_back_is_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("memory");
        let file = SystemEnv.open(&path, OpenHow::CREATE_NEW).unwrap();
        file.allocate(0, 3 * 4096).unwrap();
        let mapping = Mapping::new(file, &path, 3 * 4096, true).unwrap();
        let memory = PersistentFile::new(mapping);
        let mut model = vec![0_u8; 3 * 4096];
        for (round, (offset, len)) in
            [(0, 1), (63, 2), (64, 64), (4095, 4098), (100, 0), (12_287, 1), (5, 8192)]
                .into_iter()
                .enumerate()
        {
            let bytes = vec![round as u8 + 1; len];
            memory.write_all_at(&bytes, offset as u64).unwrap();
            model[offset..offset + len].copy_from_slice(&bytes);
            memory.sync_data().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), model, "round {round}");
        }
        let mut read = vec![0; 100];
        memory.read_exact_at(&mut read, 4000).unwrap();
        assert_eq!(read, model[4000..4100]);
        for (offset, len) in [(3 * 4096, 1), (u64::MAX, 1), (12_287, 2)] {
            let error = memory.write_at(&vec![7; len], offset).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
        assert_eq!(std::fs::read(&path).unwrap(), model);
    }

    #[test]
    fn the_kernel_grants_a_synchronous_mapping_on_persistent_memory_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ordinary");
        let file = SystemEnv.open(&path, OpenHow::CREATE_NEW).unwrap();
        file.allocate(0, 4096).unwrap();
        let is_dax = std::fs::read_to_string("/proc/mounts").unwrap().contains("dax=always");
        let mapping = Mapping::synchronous(file, &path, 4096).unwrap();
        assert!(mapping.is_none() || is_dax, "no page cache is synchronous");
    }
}
