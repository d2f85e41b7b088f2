//! The outside world: files, clocks, randomness. All of the engine's I/O goes through an [`Env`], so that a test
//! can put another one in its place that fails, lies about time, or records what was written.
//!
//! Thread and fork safety: [`SystemEnv`] has no state; a file's reads and writes are positional, so that threads
//! and forked children may share one descriptor. Nothing here caches.
//!
//! Rejected: handing out `std::fs::File`. Its cursor, buffering and `create` defaults (mode 0666, links
//! followed) are all wrong for a store's files, and faults could not be injected.

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// How much the fallback of `allocate` writes at once.
const ZERO_CHUNK_BYTES: usize = 1 << 20;

/// How a file is opened. Links are never followed in the path's last component.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenHow {
    /// Readable.
    pub read: bool,
    /// Writable.
    pub write: bool,
    /// Create the file where there is none.
    pub create: bool,
    /// Create the file, and fail where there is one.
    pub create_new: bool,
    /// Empty the file.
    pub truncate: bool,
}

impl OpenHow {
    /// An existing file, to be read.
    pub const READ: OpenHow =
        OpenHow { read: true, write: false, create: false, create_new: false, truncate: false };
    /// An existing file, to be read and written.
    pub const READ_WRITE: OpenHow = OpenHow { write: true, ..OpenHow::READ };
    /// Opens or creates, keeping what is there.
    pub const CREATE: OpenHow = OpenHow { create: true, ..OpenHow::READ_WRITE };
    /// Fails where the file exists.
    pub const CREATE_NEW: OpenHow = OpenHow { create_new: true, ..OpenHow::READ_WRITE };
    /// Opens or creates, and empties.
    pub const REPLACE: OpenHow = OpenHow { truncate: true, ..OpenHow::CREATE };
}

/// What the system says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMetadata {
    /// Number of its file system.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Its owner.
    pub uid: u32,
    /// Type and permission bits, as `stat` gives them.
    pub mode: u32,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Whether it is a symbolic link.
    pub is_link: bool,
}

impl FileMetadata {
    /// Whether it is an ordinary file: not a directory, a link, a device or a pipe.
    pub fn is_file(&self) -> bool {
        rustix::fs::FileType::from_raw_mode(self.mode).is_file()
    }
}

impl From<fs::Metadata> for FileMetadata {
    fn from(metadata: fs::Metadata) -> FileMetadata {
        FileMetadata {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            uid: metadata.uid(),
            mode: metadata.mode(),
            is_dir: metadata.is_dir(),
            is_link: metadata.is_symlink(),
        }
    }
}

/// Everything that is outside of the process.
pub trait Env: Send + Sync + Debug {
    /// Created files have mode 0600; the descriptor does not survive `exec`.
    fn open(&self, path: &Path, how: OpenHow) -> io::Result<Arc<dyn EnvFile>>;
    /// Gives a file another name in one step; a file that had it is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name; the bytes go with the last descriptor or mapping.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// With mode 0700. The parent must exist.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and all that is in it; links in it are removed, not followed.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in the directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>>;
    /// Of the path itself: a link is described, not followed.
    fn metadata(&self, path: &Path) -> io::Result<FileMetadata>;
    /// What an unprivileged user may still write to the path's file system.
    fn available_bytes(&self, path: &Path) -> io::Result<u64>;
    /// Milliseconds since boot, sleep included; never goes back.
    fn boot_time_ms(&self) -> u64;
    /// Milliseconds since 1970; may jump either way.
    fn wall_time_ms(&self) -> u64;
    /// From the kernel, not guessable.
    fn random_u64(&self) -> u64;
    /// Differs after every boot of the machine.
    fn boot_id(&self) -> io::Result<[u8; 16]>;
    /// The user that this process acts as.
    fn user_id(&self) -> u32;

    /// For identities.
    fn random_bytes_16(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.random_u64().to_le_bytes());
        bytes[8..].copy_from_slice(&self.random_u64().to_le_bytes());
        bytes
    }

    /// Whether the path names anything, a dangling link included.
    fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.metadata(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// An open file. All I/O is positional.
pub trait EnvFile: Send + Sync + Debug {
    /// May read fewer bytes than asked for; 0 is the file's end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// May write fewer bytes than given.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Gives `[offset, offset + len)` blocks of its own, so that no later write there can fail for want of space.
    /// Grows the file where needed and keeps the bytes already there.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// `fdatasync`.
    fn sync_data(&self) -> io::Result<()>;
    /// `fsync`.
    fn sync_all(&self) -> io::Result<()>;
    /// Begins to write to the device what was written to the file within `[offset, offset + len)`, so that a later sync finds little left to
    /// do: a hint, after which nothing is durable yet.
    fn start_writing(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }
    /// Frees the memory in which the system keeps what was synced of `[offset, offset + len)`: a hint, for what nobody reads soon.
    fn drop_cached(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }
    /// In bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts off the end, or adds a hole of zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Of the opened file, whatever its path names by now.
    fn metadata(&self) -> io::Result<FileMetadata>;
    /// For mapping and locking.
    fn fd(&self) -> RawFd;

    /// Whether its length is 0.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills the buffer, or fails with `UnexpectedEof` where the file ends before.
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset) {
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        format!("the file ends at byte {offset}, {} bytes too early", buffer.len()),
                    ));
                }
                Ok(count) => {
                    buffer = &mut buffer[count..];
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes all of the bytes.
    fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, offset) {
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::WriteZero,
                        format!("nothing more could be written at byte {offset}"),
                    ));
                }
                Ok(count) => {
                    bytes = &bytes[count..];
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The operating system's own files, clocks and randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEnv;

#[derive(Debug)]
struct SystemFile(File);

impl Env for SystemEnv {
    fn open(&self, path: &Path, how: OpenHow) -> io::Result<Arc<dyn EnvFile>> {
        // The standard library adds O_CLOEXEC itself. O_NONBLOCK: a FIFO under the name must not hang the open.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new()
            .read(how.read)
            .write(how.write)
            .create(how.create)
            .create_new(how.create_new)
            .truncate(how.truncate)
            .mode(FILE_MODE)
            .custom_flags(flags.bits() as i32)
            .open(path)?;
        Ok(Arc::new(SystemFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(DIRECTORY_MODE).create(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let directory =
            OpenOptions::new().read(true).custom_flags(OFlags::DIRECTORY.bits() as i32).open(path)?;
        match directory.sync_all() {
            // Some network and overlay file systems cannot sync a directory and order such changes themselves.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(()),
            result => result,
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
    }

    fn metadata(&self, path: &Path) -> io::Result<FileMetadata> {
        fs::symlink_metadata(path).map(FileMetadata::from)
    }

    fn available_bytes(&self, path: &Path) -> io::Result<u64> {
        let status = rustix::fs::statvfs(path)?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }

    fn boot_time_ms(&self) -> u64 {
        milliseconds(rustix::time::clock_gettime(rustix::time::ClockId::Boottime))
    }

    fn wall_time_ms(&self) -> u64 {
        milliseconds(rustix::time::clock_gettime(rustix::time::ClockId::Realtime))
    }

    fn random_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        let mut filled = 0;
        while filled < bytes.len() {
            match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                // Linux has had getrandom since 3.17; nothing weaker may name a store's identity.
                Err(error) => panic!("the kernel gives no random bytes: {error}"),
            }
        }
        u64::from_le_bytes(bytes)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the Env that others go through")]
    fn boot_id(&self) -> io::Result<[u8; 16]> {
        parse_uuid(&fs::read_to_string("/proc/sys/kernel/random/boot_id")?).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "/proc/sys/kernel/random/boot_id holds no identifier")
        })
    }

    fn user_id(&self) -> u32 {
        rustix::process::geteuid().as_raw()
    }
}

/// Refuses a file or directory of another user: whoever owns it can change its bytes, or its length, under a mapping.
/// `metadata` must be of the opened file where there is one, since a path can be exchanged in between.
pub fn check_owner(env: &dyn Env, metadata: &FileMetadata, path: &Path) -> Result<()> {
    let user_id = env.user_id();
    if metadata.uid == user_id {
        return Ok(());
    }
    Err(Error::Permission(format!(
        "{} belongs to user {}, and this process runs as user {user_id}: run as its owner, or have the store's files given to this user",
        path.display(),
        metadata.uid
    )))
}

/// Opens a file that is to be mapped or locked; refuses another user's.
pub(crate) fn open_own(env: &dyn Env, path: &Path, how: OpenHow) -> Result<Arc<dyn EnvFile>> {
    let file = env.open(path, how).map_err(|source| Error::io("open", path, source))?;
    let metadata = file.metadata().map_err(|source| Error::io("look at", path, source))?;
    check_owner(env, &metadata, path)?;
    Ok(file)
}

fn milliseconds(time: rustix::time::Timespec) -> u64 {
    // Before 1970 reads as 1970.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1000) + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text.trim().bytes().filter(|byte| *byte != b'-').collect();
    if digits.len() != 32 {
        return None;
    }
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(bytes)
}

impl EnvFile for SystemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(&self.0, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(&self.0, bytes, offset)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        loop {
            match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), offset, len) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => return allocate_by_writing(self, offset, len),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn start_writing(&self, offset: u64, len: u64) {
        // To the system, no bytes mean all up to the file's end.
        if len == 0 {
            return;
        }
        // Without the flags that wait: those would also take away the error of a failed write, which belongs to the sync that follows.
        // SAFETY: a call on an open descriptor, without pointers.
        unsafe {
            libc::sync_file_range(
                self.fd(),
                offset as libc::off64_t,
                len as libc::off64_t,
                libc::SYNC_FILE_RANGE_WRITE,
            );
        }
    }

    fn drop_cached(&self, offset: u64, len: u64) {
        let Some(len) = NonZeroU64::new(len) else { return };
        let _ = rustix::fs::fadvise(&self.0, offset, Some(len), Advice::DontNeed);
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn metadata(&self) -> io::Result<FileMetadata> {
        self.0.metadata().map(FileMetadata::from)
    }

    fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// For file systems without fallocate: rewrites what is there, and zeros after it. Only for a file that nobody
/// else writes yet, which is when the engine allocates.
fn allocate_by_writing(file: &dyn EnvFile, offset: u64, len: u64) -> io::Result<()> {
    let end = offset.checked_add(len).ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut chunk = vec![0; ZERO_CHUNK_BYTES];
    let mut position = offset;
    while position < end {
        let count = (end - position).min(ZERO_CHUNK_BYTES as u64) as usize;
        let present = file.len()?.saturating_sub(position).min(count as u64) as usize;
        file.read_exact_at(&mut chunk[..present], position)?;
        chunk[present..count].fill(0);
        file.write_all_at(&chunk[..count], position)?;
        position += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn scratch() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    fn create(path: &Path) -> Arc<dyn EnvFile> {
        SystemEnv.open(path, OpenHow::CREATE_NEW).expect("a new file")
    }

    #[test]
    fn files_and_directories_are_private() {
        let directory = scratch();
        let inner = directory.path().join("inner");
        SystemEnv.create_dir(&inner).unwrap();
        let file = create(&inner.join("file"));
        assert_eq!(file.metadata().unwrap().mode & 0o777, 0o600);
        let metadata = SystemEnv.metadata(&inner).unwrap();
        assert!(metadata.is_dir && metadata.mode & 0o777 == 0o700);
    }

    #[test]
    fn links_are_not_followed() {
        let directory = scratch();
        create(&directory.path().join("target"));
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("target", &link).unwrap();
        let error = SystemEnv.open(&link, OpenHow::CREATE).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
        assert!(SystemEnv.metadata(&link).unwrap().is_link);
    }

    #[test]
    fn create_new_refuses_an_existing_file_and_replace_empties_it() {
        let directory = scratch();
        let path = directory.path().join("file");
        create(&path).write_all_at(b"abc", 0).unwrap();
        assert_eq!(
            SystemEnv.open(&path, OpenHow::CREATE_NEW).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(SystemEnv.open(&path, OpenHow::CREATE).unwrap().len().unwrap(), 3);
        assert!(SystemEnv.open(&path, OpenHow::REPLACE).unwrap().is_empty().unwrap());
    }

    #[test]
    fn reads_past_the_end_say_where_the_file_ends() {
        let directory = scratch();
        let file = create(&directory.path().join("file"));
        file.write_all_at(b"abcdef", 2).unwrap();
        let mut buffer = [9; 8];
        file.read_exact_at(&mut buffer, 0).unwrap();
        assert_eq!(&buffer, b"\0\0abcdef");
        let error = file.read_exact_at(&mut buffer, 3).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(error.to_string().contains("byte 8"), "{error}");
    }

    #[test]
    fn allocation_keeps_what_is_there_by_either_way() {
        let directory = scratch();
        for (name, by_writing) in [("fallocate", false), ("written", true)] {
            let path: PathBuf = directory.path().join(name);
            let file = create(&path);
            file.write_all_at(b"abc", 100).unwrap();
            let len = 3 * ZERO_CHUNK_BYTES as u64 + 7;
            if by_writing {
                allocate_by_writing(file.as_ref(), 50, len).unwrap();
            } else {
                file.allocate(50, len).unwrap();
            }
            assert_eq!(file.len().unwrap(), 50 + len);
            let mut buffer = [0; 3];
            file.read_exact_at(&mut buffer, 100).unwrap();
            assert_eq!(&buffer, b"abc");
            let blocks = fs::metadata(&path).unwrap().blocks();
            assert!(blocks * 512 >= len, "{blocks} blocks of 512 bytes for {len} bytes");
        }
    }

    #[test]
    fn names_can_be_listed_moved_and_removed() {
        let directory = scratch();
        let from = directory.path().join("from");
        let to = directory.path().join("to");
        create(&from);
        SystemEnv.rename(&from, &to).unwrap();
        SystemEnv.sync_dir(directory.path()).unwrap();
        assert_eq!(SystemEnv.list(directory.path()).unwrap(), [OsString::from("to")]);
        assert!(SystemEnv.exists(&to).unwrap() && !SystemEnv.exists(&from).unwrap());
        SystemEnv.remove_file(&to).unwrap();
        assert!(SystemEnv.list(directory.path()).unwrap().is_empty());
    }

    #[test]
    fn clocks_run_and_randomness_differs() {
        let before = SystemEnv.boot_time_ms();
        assert!(before > 0 && SystemEnv.boot_time_ms() >= before);
        assert!(SystemEnv.wall_time_ms() > 1_600_000_000_000);
        assert_ne!(SystemEnv.random_u64(), SystemEnv.random_u64());
        assert_eq!(SystemEnv.boot_id().unwrap(), SystemEnv.boot_id().unwrap());
        assert!(SystemEnv.available_bytes(Path::new("/tmp")).unwrap() > 0);
    }

    #[test]
    fn only_the_owner_is_accepted() {
        let directory = scratch();
        let metadata = SystemEnv.metadata(directory.path()).unwrap();
        check_owner(&SystemEnv, &metadata, directory.path()).unwrap();
        let foreign = FileMetadata { uid: metadata.uid + 1, ..metadata };
        let error = check_owner(&SystemEnv, &foreign, directory.path()).unwrap_err();
        assert_eq!(error.name(), "Permission");
        assert!(error.to_string().contains(&directory.path().display().to_string()));
    }

    #[test]
    fn identifiers_are_parsed_strictly() {
        assert_eq!(
            parse_uuid("00010203-0405-0607-0809-0a0B0c0D0e0f\n"),
            Some([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15])
        );
        assert_eq!(parse_uuid(""), None);
        assert_eq!(parse_uuid("0001020304050607080g0a0b0c0d0e0f"), None);
    }
}
