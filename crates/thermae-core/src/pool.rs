//! Mapped memory: one reservation for each mapped file, and extents mapped side by side.
//!
//! A pool's file is allocated in full before it is mapped, so that touching it can't raise SIGBUS for want of space, and
//! its length is checked against what will be used. An address is base + frame x frame bytes + offset: no map call on any read path.
//!
//! `unsafe` lives here, in `record`, and where records and index words are read and published.

use crate::env::EnvFile;
use crate::error::{Error, Result};
use crate::lines::write_back_lines;
use std::alloc::{Layout, handle_alloc_error};
use std::io;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

/// A file mapped shared, whole.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
    writable: bool,
    file: Arc<dyn EnvFile>,
}

// SAFETY: the mapping is plain memory; what is in it is accessed through atomics or under the engine's locks.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of `file`, which must be at least that long.
    ///
    /// # Errors
    /// Corrupt when the file is shorter; Io when the kernel refuses.
    pub fn new(file: Arc<dyn EnvFile>, path: &Path, len: usize, writable: bool) -> Result<Self> {
        Self::part(file, path, 0, len, writable)
    }

    /// Maps `len` bytes of `file` from `offset` (a multiple of the page size) on.
    ///
    /// # Errors
    /// As [`Mapping::new`].
    pub fn part(
        file: Arc<dyn EnvFile>,
        path: &Path,
        offset: usize,
        len: usize,
        writable: bool,
    ) -> Result<Self> {
        let actual = file.len().map_err(|source| Error::io("measure", path, source))?;
        if actual < (offset + len) as u64 {
            return Err(Error::Corrupt(format!(
                "{} is {actual} bytes long where {} are needed: it was cut short. Close all users of the store, \
                 remove the file and open again; what was flushed is recovered",
                path.display(),
                offset + len
            )));
        }
        let protection = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        let base = map_aligned(file.fd(), offset, len, 0, protection, libc::MAP_SHARED)
            .map_err(|source| Error::io("map", path, source))?;
        Ok(Self { base, len, writable, file })
    }

    /// Maps a part of another file, `tail_len` bytes from `tail_offset` (a multiple of the page size) on, right behind the first `len`
    /// bytes of `file`: one stretch of addresses.
    ///
    /// # Errors
    /// As [`Mapping::new`], of the first file; the kernel's.
    pub fn with_tail(
        (file, path, len): (Arc<dyn EnvFile>, &Path, usize),
        (tail, tail_offset, tail_len): (&dyn EnvFile, u64, usize),
        writable: bool,
    ) -> Result<Self> {
        let actual = file.len().map_err(|source| Error::io("measure", path, source))?;
        if actual < len as u64 {
            return Err(Error::corrupt(format!(
                "{} is {actual} bytes long where {len} are needed",
                path.display()
            )));
        }
        let protection = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        let base = map_aligned(file.fd(), 0, len, tail_len, protection, libc::MAP_SHARED)
            .map_err(|source| Error::io("map", path, source))?;
        // From here on the whole range is unmapped on every way out.
        let mapping = Self { base, len: len + tail_len, writable, file };
        let offset =
            libc::off_t::try_from(tail_offset).map_err(|_| Error::corrupt("a file is too long to map"))?;
        // SAFETY: replaces the second part of the range that this mapping has reserved; the tail's file is allocated in full.
        let at = unsafe {
            libc::mmap(
                mapping.base.as_ptr().add(len).cast(),
                tail_len,
                protection,
                libc::MAP_SHARED | libc::MAP_FIXED,
                tail.fd(),
                offset,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(Error::io("map the warm tier beside", path, io::Error::last_os_error()));
        }
        Ok(mapping)
    }

    /// Maps all of a file's first `len` bytes so that what is written back from the caches is durable: on a DAX file system. `None` where the
    /// kernel does not grant that.
    ///
    /// # Errors
    /// Io, other than the refusal.
    pub fn synchronous(file: Arc<dyn EnvFile>, path: &Path, len: usize) -> Result<Option<Self>> {
        let flags = libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC;
        match map_aligned(file.fd(), 0, len, 0, libc::PROT_READ | libc::PROT_WRITE, flags) {
            Ok(base) => Ok(Some(Self { base, len, writable: true, file })),
            // EOPNOTSUPP: no persistent memory; EINVAL: a kernel before 4.15.
            Err(source) if matches!(source.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => Ok(None),
            Err(source) => Err(Error::io("map", path, source)),
        }
    }

    /// Stores bytes and writes their cache lines back.
    ///
    /// # Panics
    /// When they would not lie within a writable mapping.
    pub fn write_back(&self, offset: usize, bytes: &[u8]) {
        assert!(self.writable && offset.checked_add(bytes.len()).is_some_and(|end| end <= self.len));
        // SAFETY: within the mapping; nobody refers to these bytes yet, because frames and blocks are published after they are written.
        unsafe {
            let to = self.base.as_ptr().add(offset);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
            write_back_lines(to, bytes.len());
        }
    }

    /// First byte.
    #[inline]
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Bytes mapped.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether stores are allowed.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// The file.
    pub fn file(&self) -> &Arc<dyn EnvFile> {
        &self.file
    }

    /// A reference to a shared struct at `offset`.
    ///
    /// # Panics
    /// When it would lie outside the mapping: offsets come from the geometry, so that is our own bug.
    #[inline]
    pub fn at<T>(&self, offset: usize) -> &T {
        assert!(offset + size_of::<T>() <= self.len && offset.is_multiple_of(align_of::<T>()));
        // SAFETY: in bounds and aligned; every T used here is made of atomics, for which any bytes are valid.
        unsafe { &*self.base.as_ptr().add(offset).cast::<T>() }
    }

    /// A reference to an array of shared structs at `offset`.
    ///
    /// # Panics
    /// As [`Mapping::at`].
    #[inline]
    pub fn slice<T>(&self, offset: usize, count: usize) -> &[T] {
        assert!(offset + size_of::<T>() * count <= self.len && offset.is_multiple_of(align_of::<T>()));
        // SAFETY: as in `at`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(offset).cast::<T>(), count) }
    }
}

/// Bytes of a huge page, on the processors at hand.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// `MADV_COLLAPSE` of Linux 6.1: makes a range huge pages now, whatever the policy for automatic ones.
const MADV_COLLAPSE: libc::c_int = 25;

/// Maps part of a file so that huge pages of the file are huge in the mapping too: at an address aligned like them. `reserved_behind` bytes
/// of addresses behind it stay reserved for the caller.
fn map_aligned(
    fd: libc::c_int,
    offset: usize,
    len: usize,
    reserved_behind: usize,
    protection: libc::c_int,
    flags: libc::c_int,
) -> io::Result<NonNull<u8>> {
    let reserved = len + reserved_behind + HUGE_PAGE_BYTES;
    // SAFETY: reserves an address range of the kernel's choice.
    let range = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            reserved,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if range == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let start = range as usize;
    let aligned = start.next_multiple_of(HUGE_PAGE_BYTES);
    let end = (aligned + len + reserved_behind).next_multiple_of(4096);
    // SAFETY: within the range just reserved; what of it is not used is given back.
    let base = unsafe {
        let base = libc::mmap(
            aligned as *mut libc::c_void,
            len,
            protection,
            flags | libc::MAP_FIXED,
            fd,
            offset as libc::off_t,
        );
        if base == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            libc::munmap(range, reserved);
            return Err(error);
        }
        if aligned > start {
            libc::munmap(range, aligned - start);
        }
        if start + reserved > end {
            libc::munmap(end as *mut libc::c_void, start + reserved - end);
        }
        base
    };
    NonNull::new(base.cast::<u8>()).ok_or_else(|| io::Error::other("the kernel mapped it at address zero"))
}

impl Mapping {
    /// Asks the kernel to back `[offset, offset + HUGE_PAGE_BYTES)` with one huge page: a random access then costs no page-table walk
    /// of four levels. False where the kernel can't or won't, which costs speed and nothing else.
    pub fn collapse(&self, offset: usize) -> bool {
        if !offset.is_multiple_of(HUGE_PAGE_BYTES) || offset + HUGE_PAGE_BYTES > self.len {
            return false;
        }
        // SAFETY: within this mapping; the advice changes how memory is backed, not what is in it.
        unsafe { libc::madvise(self.base.as_ptr().add(offset).cast(), HUGE_PAGE_BYTES, MADV_COLLAPSE) == 0 }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this mapping's own range; nothing borrowed from it outlives it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Private memory of words, all zero, in huge pages where the kernel gives them: for much that is filled at once and soon given back,
/// where a page fault for every 4 KiB takes longer than the filling.
#[derive(Debug)]
pub struct Words {
    base: NonNull<u64>,
    count: usize,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// `count` words, at least one. As for all private memory, the program ends where there is none.
    pub fn new(count: usize) -> Self {
        let layout = Layout::array::<u64>(count.max(1)).unwrap_or(Layout::new::<u64>());
        // SAFETY: reserves private memory of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                layout.size(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        match NonNull::new(base.cast::<u64>()).filter(|_| base != libc::MAP_FAILED) {
            Some(base) => {
                // SAFETY: within the range just mapped; the advice changes how memory is backed, not what is in it.
                unsafe { libc::madvise(base.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE) };
                Self { base, count: layout.size() / size_of::<u64>() }
            }
            None => handle_alloc_error(layout),
        }
    }
}

impl Deref for Words {
    type Target = [u64];

    #[inline]
    fn deref(&self) -> &[u64] {
        // SAFETY: `count` words are mapped, and any bytes are words.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.count) }
    }
}

impl DerefMut for Words {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u64] {
        // SAFETY: as above, and this value is the only way to them.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.count) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: this value's own range.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.count * size_of::<u64>()) };
    }
}

/// Pieces of a file mapped side by side, read-only.
#[derive(Debug)]
pub struct Joined {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: read-only memory.
unsafe impl Send for Joined {}
// SAFETY: read-only memory.
unsafe impl Sync for Joined {}

impl Joined {
    /// Maps `pieces`, each `piece_len` bytes of a file at an offset, in order.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(pieces: &[(&dyn EnvFile, u64)], piece_len: usize) -> io::Result<Self> {
        let len = pieces.len() * piece_len;
        // SAFETY: an address range reserved for the pieces, released on drop.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base =
            NonNull::new(base.cast::<u8>()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        let joined = Self { base, len };
        for (index, &(file, offset)) in pieces.iter().enumerate() {
            let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
            // SAFETY: replaces part of the range just reserved; the file is allocated in full.
            let at = unsafe {
                libc::mmap(
                    base.as_ptr().add(index * piece_len).cast(),
                    piece_len,
                    libc::PROT_READ,
                    libc::MAP_SHARED | libc::MAP_FIXED,
                    file.fd(),
                    offset,
                )
            };
            if at == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(joined)
    }

    /// First byte.
    pub fn base(&self) -> *const u8 {
        self.base.as_ptr()
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        // SAFETY: this value's own range.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
