//! An [`Env`] that fails on command, and whose clocks, boot and user can be changed.
//!
//! A sweep over every I/O of an operation: note its operations with [`FaultEnv::trace`] once, then run it again
//! for each n with a rule that skips n. Accesses through a mapping are not seen, and neither is locking.

use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::env::{Env, EnvFile, FileMetadata, OpenHow};

/// Error number of a failing device.
const EIO: i32 = 5;
/// Error number of a full file system.
const ENOSPC: i32 = 28;
/// Error number of a call that a signal interrupted.
const EINTR: i32 = 4;

const SECTOR_BYTES: u64 = 512;

/// The kinds of I/O that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Site {
    /// Opening or creating a file.
    Open,
    /// Reading from a file.
    Read,
    /// Writing to a file.
    Write,
    /// Giving a file its blocks.
    Allocate,
    /// Making a file durable.
    Sync,
    /// Changing a file's length.
    SetLen,
    /// Renaming.
    Rename,
    /// Removing a file or directory.
    Remove,
    /// Creating a directory.
    CreateDir,
    /// Making a directory durable.
    SyncDir,
    /// Examining or listing.
    Examine,
}

/// What happens instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done, and this error number comes back.
    Error(i32),
    /// A write puts down its first half, in whole sectors, and then this error number comes back.
    HalfThenError(i32),
    /// A read or write does its first half and says so: no error, the caller must go on.
    Short,
}

impl Fault {
    /// The device failed.
    pub const EIO: Fault = Fault::Error(EIO);
    /// The file system is full.
    pub const ENOSPC: Fault = Fault::Error(ENOSPC);
    /// A signal arrived: the caller must try again.
    pub const EINTR: Fault = Fault::Error(EINTR);
}

/// When something happens instead.
#[derive(Clone, Debug)]
pub struct FaultRule {
    /// At which kind of I/O; all kinds if `None`.
    pub site: Option<Site>,
    /// On paths that contain this; all paths if empty.
    pub path_part: String,
    /// How many that match go well first.
    pub skip: u64,
    /// How many fail then; `u64::MAX` is all.
    pub times: u64,
    /// What happens.
    pub fault: Fault,
}

impl FaultRule {
    /// Every I/O of one kind from now on.
    pub fn always(site: Site, path_part: &str, fault: Fault) -> FaultRule {
        FaultRule { site: Some(site), path_part: path_part.into(), skip: 0, times: u64::MAX, fault }
    }

    /// The nth I/O from now (counted from 0) of one kind, once.
    pub fn nth(site: Site, path_part: &str, nth: u64, fault: Fault) -> FaultRule {
        FaultRule { site: Some(site), path_part: path_part.into(), skip: nth, times: 1, fault }
    }

    /// The nth I/O from now (counted from 0) of any kind, once.
    pub fn nth_of_all(nth: u64, fault: Fault) -> FaultRule {
        FaultRule { site: None, path_part: String::new(), skip: nth, times: 1, fault }
    }
}

/// An operation as it was seen.
pub type Operation = (Site, PathBuf);

/// A clock: the inner environment's, moved, or stopped.
#[derive(Debug, Default)]
struct Clock {
    offset_ms: AtomicI64,
    is_stopped: AtomicBool,
    stopped_at_ms: AtomicU64,
}

impl Clock {
    fn read(&self, inner_ms: u64) -> u64 {
        if self.is_stopped.load(Ordering::Acquire) {
            return self.stopped_at_ms.load(Ordering::Relaxed);
        }
        inner_ms.saturating_add_signed(self.offset_ms.load(Ordering::Relaxed))
    }

    fn stop_at(&self, ms: u64) {
        self.stopped_at_ms.store(ms, Ordering::Relaxed);
        self.is_stopped.store(true, Ordering::Release);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct State {
    rules: Mutex<Vec<FaultRule>>,
    operations: AtomicU64,
    injected: AtomicU64,
    trace: Mutex<Option<Vec<Operation>>>,
    injections: Mutex<Vec<Operation>>,
    bad_sectors: Mutex<Vec<(String, Range<u64>)>>,
    boot: Clock,
    wall: Clock,
    reboots: AtomicU64,
    disowned: Mutex<Vec<PathBuf>>,
    other_user: AtomicBool,
    user_id: AtomicU32,
    limited: AtomicBool,
    available_bytes: AtomicU64,
}

impl State {
    /// Counts an operation and says what is to happen to it.
    fn next(&self, site: Site, path: &Path) -> Option<Fault> {
        self.operations.fetch_add(1, Ordering::Relaxed);
        if let Some(trace) = lock(&self.trace).as_mut() {
            trace.push((site, path.to_path_buf()));
        }
        let text = path.to_string_lossy();
        let mut rules = lock(&self.rules);
        let mut chosen = None;
        for rule in rules.iter_mut() {
            let matches = rule.site.is_none_or(|wanted| wanted == site) && text.contains(&rule.path_part);
            if !matches || rule.times == 0 {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            if chosen.is_none() {
                chosen = Some(rule.fault);
                if rule.times != u64::MAX {
                    rule.times -= 1;
                }
            }
        }
        if chosen.is_some() {
            self.injected.fetch_add(1, Ordering::Relaxed);
            lock(&self.injections).push((site, path.to_path_buf()));
        }
        chosen
    }

    fn is_spoilt(&self, path: &Path, bytes: Range<u64>) -> bool {
        let text = path.to_string_lossy();
        lock(&self.bad_sectors)
            .iter()
            .any(|(part, bad)| text.contains(part) && bad.start < bytes.end && bytes.start < bad.end)
    }

    /// What is known of a file or directory, which may seem to be another user's.
    fn seen(&self, path: &Path, metadata: FileMetadata) -> FileMetadata {
        let is_disowned = lock(&self.disowned).iter().any(|disowned| disowned == path);
        FileMetadata { uid: metadata.uid.wrapping_add(u32::from(is_disowned)), ..metadata }
    }

    /// For operations that are done or not.
    fn check(&self, site: Site, path: &Path) -> io::Result<()> {
        match self.next(site, path) {
            Some(Fault::Error(number) | Fault::HalfThenError(number)) => {
                Err(io::Error::from_raw_os_error(number))
            }
            Some(Fault::Short) | None => Ok(()),
        }
    }
}

/// Wraps another environment and fails as its rules say. Clones share their rules.
#[derive(Clone, Debug)]
pub struct FaultEnv {
    inner: Arc<dyn Env>,
    state: Arc<State>,
}

impl FaultEnv {
    /// Without rules it does what `inner` does.
    pub fn new(inner: Arc<dyn Env>) -> FaultEnv {
        FaultEnv { inner, state: Arc::default() }
    }

    /// Adds a rule; the first of several that match decides, and the others count on.
    pub fn inject(&self, rule: FaultRule) {
        lock(&self.state.rules).push(rule);
    }

    /// Forgets all rules, bad sectors, and foreign files.
    pub fn heal(&self) {
        lock(&self.state.rules).clear();
        lock(&self.state.disowned).clear();
        lock(&self.state.bad_sectors).clear();
    }

    /// From now on reads that touch these bytes fail with EIO, in files whose path contains this.
    pub fn spoil(&self, path_part: &str, bytes: Range<u64>) {
        lock(&self.state.bad_sectors).push((path_part.to_owned(), bytes));
    }

    /// How many operations there were.
    pub fn operations(&self) -> u64 {
        self.state.operations.load(Ordering::Relaxed)
    }

    /// How many of them a rule applied to.
    pub fn injected(&self) -> u64 {
        self.state.injected.load(Ordering::Relaxed)
    }

    /// Notes every operation from now on.
    pub fn trace(&self) {
        *lock(&self.state.trace) = Some(Vec::new());
    }

    /// What was noted since [`FaultEnv::trace`].
    pub fn traced(&self) -> Vec<Operation> {
        lock(&self.state.trace).clone().unwrap_or_default()
    }

    /// The operations that a rule applied to.
    pub fn injections(&self) -> Vec<Operation> {
        lock(&self.state.injections).clone()
    }

    /// Moves the wall clock, either way.
    pub fn jump_wall_clock_ms(&self, by_ms: i64) {
        self.state.wall.offset_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// The wall clock stands still there.
    pub fn stop_wall_clock_at_ms(&self, ms: u64) {
        self.state.wall.stop_at(ms);
    }

    /// The boot clock stands still there.
    pub fn stop_boot_clock_at_ms(&self, ms: u64) {
        self.state.boot.stop_at(ms);
    }

    /// Moves the boot clock; forward is time passing, backward is a machine that booted again.
    pub fn jump_boot_clock_ms(&self, by_ms: i64) {
        self.state.boot.offset_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// From now on the boot has another identity.
    pub fn reboot(&self) {
        self.state.reboots.fetch_add(1, Ordering::Relaxed);
    }

    /// From now on the process seems to run as this user.
    pub fn set_user_id(&self, user_id: u32) {
        self.state.user_id.store(user_id, Ordering::Relaxed);
        self.state.other_user.store(true, Ordering::Release);
    }

    /// From now on what is at this path seems to belong to another user.
    pub fn disown(&self, path: &Path) {
        lock(&self.state.disowned).push(path.to_path_buf());
    }

    /// From now on every file system seems to have this much room; allocations beyond it fail as they would.
    pub fn set_available_bytes(&self, available_bytes: u64) {
        self.state.available_bytes.store(available_bytes, Ordering::Relaxed);
        self.state.limited.store(true, Ordering::Release);
    }
}

impl Env for FaultEnv {
    fn open(&self, path: &Path, how: OpenHow) -> io::Result<Arc<dyn EnvFile>> {
        self.state.check(Site::Open, path)?;
        let inner = self.inner.open(path, how)?;
        Ok(Arc::new(FaultFile { inner, path: path.to_path_buf(), state: self.state.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.state.check(Site::Rename, to)?;
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.state.check(Site::Remove, path)?;
        self.inner.remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.state.check(Site::CreateDir, path)?;
        self.inner.create_dir(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.state.check(Site::Remove, path)?;
        self.inner.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.state.check(Site::SyncDir, path)?;
        self.inner.sync_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.state.check(Site::Examine, path)?;
        self.inner.list(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<FileMetadata> {
        self.state.check(Site::Examine, path)?;
        self.inner.metadata(path).map(|metadata| self.state.seen(path, metadata))
    }

    fn available_bytes(&self, path: &Path) -> io::Result<u64> {
        self.state.check(Site::Examine, path)?;
        if self.state.limited.load(Ordering::Acquire) {
            return Ok(self.state.available_bytes.load(Ordering::Relaxed));
        }
        self.inner.available_bytes(path)
    }

    fn boot_time_ms(&self) -> u64 {
        self.state.boot.read(self.inner.boot_time_ms())
    }

    fn wall_time_ms(&self) -> u64 {
        self.state.wall.read(self.inner.wall_time_ms())
    }

    fn random_u64(&self) -> u64 {
        self.inner.random_u64()
    }

    fn boot_id(&self) -> io::Result<[u8; 16]> {
        let id = u128::from_le_bytes(self.inner.boot_id()?);
        Ok(id.wrapping_add(u128::from(self.state.reboots.load(Ordering::Relaxed))).to_le_bytes())
    }

    fn user_id(&self) -> u32 {
        if self.state.other_user.load(Ordering::Acquire) {
            return self.state.user_id.load(Ordering::Relaxed);
        }
        self.inner.user_id()
    }
}

#[derive(Debug)]
struct FaultFile {
    inner: Arc<dyn EnvFile>,
    path: PathBuf,
    state: Arc<State>,
}

/// The first half of some bytes, but at least one: nothing at all would mean the file's end.
fn half(len: usize) -> usize {
    len.div_ceil(2)
}

impl EnvFile for FaultFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.state.is_spoilt(&self.path, offset..offset.saturating_add(buffer.len() as u64)) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        match self.state.next(Site::Read, &self.path) {
            Some(Fault::Error(number) | Fault::HalfThenError(number)) => {
                Err(io::Error::from_raw_os_error(number))
            }
            Some(Fault::Short) => {
                let count = half(buffer.len());
                self.inner.read_at(&mut buffer[..count], offset)
            }
            None => self.inner.read_at(buffer, offset),
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        match self.state.next(Site::Write, &self.path) {
            Some(Fault::Error(number)) => Err(io::Error::from_raw_os_error(number)),
            Some(Fault::HalfThenError(number)) => {
                // Neither the page cache nor a disk tears a sector.
                let end = (offset + half(bytes.len()) as u64) / SECTOR_BYTES * SECTOR_BYTES;
                let count = end.saturating_sub(offset) as usize;
                self.inner.write_all_at(&bytes[..count], offset)?;
                Err(io::Error::from_raw_os_error(number))
            }
            Some(Fault::Short) => self.inner.write_at(&bytes[..half(bytes.len())], offset),
            None => self.inner.write_at(bytes, offset),
        }
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.state.check(Site::Allocate, &self.path)?;
        let limited = self.state.limited.load(Ordering::Acquire);
        if limited && len > self.state.available_bytes.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        self.inner.allocate(offset, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.state.check(Site::Sync, &self.path)?;
        self.inner.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.state.check(Site::Sync, &self.path)?;
        self.inner.sync_all()
    }

    fn len(&self) -> io::Result<u64> {
        self.state.check(Site::Examine, &self.path)?;
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.state.check(Site::SetLen, &self.path)?;
        self.inner.set_len(len)
    }

    fn metadata(&self) -> io::Result<FileMetadata> {
        self.state.check(Site::Examine, &self.path)?;
        self.inner.metadata().map(|metadata| self.state.seen(&self.path, metadata))
    }

    fn fd(&self) -> RawFd {
        self.inner.fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SystemEnv;
    use crate::frame_file::{FrameFile, FrameFileGeometry};

    const GEOMETRY: FrameFileGeometry =
        FrameFileGeometry { uuid: [7; 16], frame_bytes: 4096, frames: 70, alignment_bytes: 4096 };

    fn faulty() -> (tempfile::TempDir, PathBuf, FaultEnv) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cold");
        (directory, path, FaultEnv::new(Arc::new(SystemEnv)))
    }

    #[test]
    fn every_failure_of_a_creation_is_seen_and_leaves_no_half_made_file() {
        let (_directory, path, env) = faulty();
        FrameFile::create(&env, &path, GEOMETRY).unwrap();
        let operations = env.operations();
        assert!(operations >= 9, "{operations} operations");
        for nth in 0..operations {
            for fault in [Fault::EIO, Fault::ENOSPC, Fault::HalfThenError(ENOSPC)] {
                let (_directory, path, env) = faulty();
                env.inject(FaultRule::nth_of_all(nth, fault));
                let error = FrameFile::create(&env, &path, GEOMETRY).unwrap_err();
                assert_eq!((error.name(), env.injected()), ("Io", 1), "operation {nth}");
                if env.exists(&path).unwrap() {
                    FrameFile::open(&env, &path, GEOMETRY, true).unwrap();
                }
                // A second attempt is not hindered by what the first one left.
                env.heal();
                FrameFile::create(&env, &path, GEOMETRY).unwrap();
                assert_eq!(env.list(path.parent().unwrap()).unwrap(), ["cold"]);
            }
        }
    }

    #[test]
    fn short_reads_and_writes_are_gone_on_with() {
        let (_directory, path, env) = faulty();
        env.inject(FaultRule::always(Site::Write, "", Fault::Short));
        env.inject(FaultRule::always(Site::Read, "", Fault::Short));
        let pool = FrameFile::create(&env, &path, GEOMETRY).unwrap();
        pool.write_at(5, 0, &[9; 4096]).unwrap();
        pool.write_watermark(3).unwrap();
        let plain = FrameFile::open(&SystemEnv, &path, GEOMETRY, true).unwrap();
        let mut buffer = [0; 4096];
        plain.read_at(5, 0, &mut buffer).unwrap();
        assert_eq!(buffer, [9; 4096]);
        assert_eq!(pool.read_watermark().unwrap(), plain.read_watermark().unwrap());
        assert_eq!(pool.read_frame_table().unwrap(), plain.read_frame_table().unwrap());
        assert!(env.injected() > 20);
    }

    #[test]
    fn rules_match_site_path_and_count() {
        let (_directory, path, env) = faulty();
        FrameFile::create(&env, &path, GEOMETRY).unwrap();
        let pool = FrameFile::open(&env, &path, GEOMETRY, false).unwrap();
        env.trace();
        pool.examine().unwrap();
        assert_eq!(env.traced(), [(Site::Examine, path.clone()), (Site::Read, path.clone())]);
        env.inject(FaultRule::nth(Site::Sync, "cold", 1, Fault::EIO));
        env.inject(FaultRule::always(Site::Sync, "elsewhere", Fault::EIO));
        pool.sync().unwrap();
        assert_eq!(pool.sync().unwrap_err().os_error(), Some(EIO));
        pool.sync().unwrap();
        assert_eq!(env.injected(), 1);
        assert_eq!(env.injections(), [(Site::Sync, path)]);
        let place = pool.position(1, 100, 1).unwrap();
        env.spoil("cold", place..place + 1);
        assert!(pool.read_at(1, 0, &mut [0; 100]).is_ok() && pool.read_at(1, 101, &mut [0; 100]).is_ok());
        assert_eq!(pool.read_at(1, 50, &mut [0; 100]).unwrap_err().os_error(), Some(EIO));
        env.heal();
        pool.read_at(1, 50, &mut [0; 100]).unwrap();
    }

    #[test]
    fn clocks_boot_user_and_room_can_be_changed() {
        let (_directory, path, env) = faulty();
        let (boot, wall, id) = (env.boot_time_ms(), env.wall_time_ms(), env.boot_id().unwrap());
        env.jump_boot_clock_ms(3_600_000);
        env.jump_wall_clock_ms(-3_600_000);
        env.reboot();
        assert!(env.boot_time_ms() >= boot + 3_600_000);
        assert!(env.wall_time_ms() < wall - 3_000_000);
        assert_ne!(env.boot_id().unwrap(), id);
        env.set_available_bytes(1000);
        assert_eq!(env.available_bytes(&path).unwrap(), 1000);
        let full = FrameFile::create(&env, &path, GEOMETRY).unwrap_err();
        assert_eq!(full.os_error(), Some(ENOSPC));
        FrameFile::create(&SystemEnv, &path, GEOMETRY).unwrap();
        env.set_user_id(env.user_id() + 1);
        assert_eq!(FrameFile::open(&env, &path, GEOMETRY, true).unwrap_err().name(), "Permission");
    }
}
