//! What the tests share: places for stores, values that prove themselves, child processes, and notes that outlive their writer.
#![allow(dead_code, reason = "each test uses a part of this")]

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use thermae_core::env::SystemEnv;
use thermae_core::{Durability, Location, Options, RecordMeta, SetOptions, Store, WhenFull, destroy};

pub const MIB: u64 = 1 << 20;
/// Names the part that a child process plays; absent in the process that runs the tests.
const ROLE: &str = "THERMAE_TEST_ROLE";
/// Bytes of a stamp: the shortest value that proves itself.
pub const STAMP_BYTES: usize = 24;
/// How long a survivor may be held up by a death: 1 s is promised, the rest is for busy machines.
pub const TAKEOVER_MAX: Duration = Duration::from_secs(3);

/// A place for one store, removed in the end.
pub struct Place {
    pub location: Location,
    pub directory: tempfile::TempDir,
}

impl Place {
    /// In shared memory alone.
    pub fn shared_memory(what: &str) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("test-{what}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self { location: Location::SharedMemory(name), directory: tempfile::tempdir().unwrap() }
    }

    /// In a directory.
    pub fn in_directory() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { location: Location::Directory(directory.path().join("store")), directory }
    }

    /// As a child process is told.
    pub fn text(&self) -> String {
        self.location.to_string()
    }

    /// A path beside the store.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn open(&self, options: &Options) -> Store {
        Store::open(&self.location, options).unwrap_or_else(|error| panic!("open {}: {error}", self.location))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = destroy(&SystemEnv, &self.location) {
            assert!(std::thread::panicking(), "destroy {}: {error}", self.location);
        }
    }
}

/// Options of a store without background threads.
pub fn options(hot_mib: u64, cold_mib: u64, durability: Durability, when_full: WhenFull) -> Options {
    Options {
        hot_bytes: Some(hot_mib * MIB),
        cold_bytes: Some(cold_mib * MIB),
        durability: Some(durability),
        when_full: Some(when_full),
        background: false,
        ..Options::default()
    }
}

/// A small generator of numbers that are random enough, the same for the same seed.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Who wrote a value, as his how-manieth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub writer: u32,
    pub number: u64,
}

impl Stamp {
    /// A value of `len` bytes (at least a stamp's) that proves who wrote it under which key, and that it is whole.
    pub fn value(self, key: &[u8], len: usize) -> Vec<u8> {
        let mut value = vec![0_u8; len.max(STAMP_BYTES)];
        value[4..8].copy_from_slice(&self.writer.to_le_bytes());
        value[8..16].copy_from_slice(&self.number.to_le_bytes());
        value[16..24].copy_from_slice(&(len.max(STAMP_BYTES) as u64).to_le_bytes());
        let mut random = Random::new(self.number ^ u64::from(self.writer) << 40);
        value[STAMP_BYTES..].chunks_mut(8).for_each(|chunk| {
            let number = random.next().to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        });
        let crc = checksum(key, &value);
        value[..4].copy_from_slice(&crc.to_le_bytes());
        value
    }

    /// Who wrote a value.
    ///
    /// # Panics
    /// Where the value is not wholly what one writer wrote under this key.
    pub fn of(key: &[u8], value: &[u8]) -> Self {
        let shown = String::from_utf8_lossy(key);
        assert!(
            value.len() >= STAMP_BYTES,
            "the value of {shown} has {} bytes, which nobody wrote",
            value.len()
        );
        let stamp = Self {
            writer: u32::from_le_bytes(value[4..8].try_into().unwrap()),
            number: u64::from_le_bytes(value[8..16].try_into().unwrap()),
        };
        let len = u64::from_le_bytes(value[16..24].try_into().unwrap());
        assert_eq!(len, value.len() as u64, "the value of {shown} ({stamp:?}) was cut or grew");
        let crc = u32::from_le_bytes(value[..4].try_into().unwrap());
        assert_eq!(crc, checksum(key, value), "the value of {shown} ({stamp:?}) is not what was written");
        stamp
    }
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), &value[4..])
}

/// The client flags that a value is stored with where a test looks at them: none with every third length, so that records with and without
/// them lie side by side.
pub fn flags_of(value: &[u8]) -> u32 {
    if value.len().is_multiple_of(3) { 0 } else { crc32c::crc32c(value) | 1 }
}

/// How such a value is stored.
pub fn flagged(value: &[u8]) -> SetOptions {
    SetOptions { flags: flags_of(value), ..SetOptions::default() }
}

/// Makes sure that a value has the flags that it was stored with.
///
/// # Panics
/// Where it has others.
pub fn check_flags(key: &[u8], meta: &RecordMeta, value: &[u8]) {
    assert_eq!(meta.flags, flags_of(value), "the flags of {:?} ({meta:?})", String::from_utf8_lossy(key));
}

/// Notes of a process that may be killed: each is one appending write, so that what was noted is in the file, whole.
pub struct Notes(File);

impl Notes {
    pub fn create(path: &Path) -> Self {
        Self(OpenOptions::new().create(true).append(true).open(path).unwrap())
    }

    pub fn note(&mut self, bytes: &[u8]) {
        assert_eq!(self.0.write(bytes).unwrap(), bytes.len(), "a note was not written whole");
    }

    /// All notes of `LEN` bytes each.
    pub fn read<const LEN: usize>(path: &Path) -> Vec<[u8; LEN]> {
        let bytes = std::fs::read(path).unwrap_or_default();
        assert_eq!(bytes.len() % LEN, 0, "{} holds half a note", path.display());
        bytes.chunks_exact(LEN).map(|chunk| chunk.try_into().unwrap()).collect()
    }
}

/// The part that this process is to play, where it was started by [`spawn`].
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// A setting that [`spawn`] was given.
pub fn setting(name: &str) -> String {
    std::env::var(format!("THERMAE_TEST_{name}"))
        .unwrap_or_else(|_| panic!("the child process was not told {name}"))
}

/// The location that a child process is to open.
pub fn location_setting() -> Location {
    Location::parse(&setting("STORE")).unwrap()
}

/// Starts this test program again to play a part: the test `role` runs there alone.
pub fn spawn(role: &str, settings: &[(&str, String)]) -> ChildGuard {
    spawn_with(role, settings, &[])
}

/// As [`spawn`], with more environment.
pub fn spawn_with(role: &str, settings: &[(&str, String)], environment: &[(&str, String)]) -> ChildGuard {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "role", "--test-threads=1", "--nocapture", "--quiet"]).env(ROLE, role);
    for (name, value) in settings {
        command.env(format!("THERMAE_TEST_{name}"), value);
    }
    command.envs(environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))));
    ChildGuard(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
}

/// A child process that does not outlive the test.
pub struct ChildGuard(pub Child);

/// How a child process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, in order.
    Finished,
    /// By SIGKILL.
    Killed,
}

impl ChildGuard {
    /// Waits for the end.
    ///
    /// # Panics
    /// When the child fails, or takes longer than `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> End {
        use std::os::unix::process::ExitStatusExt;
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return match (status.success(), status.signal()) {
                    (true, _) => End::Finished,
                    (_, Some(libc::SIGKILL)) => End::Killed,
                    _ => panic!("a child process failed ({status}); its message is above"),
                };
            }
            assert!(Instant::now() < deadline, "a child process did not end within {timeout:?}");
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    /// Waits until it has stopped itself (see `THERMAE_STOP_POINT`).
    ///
    /// # Panics
    /// When it ends instead, or does not stop within `timeout`.
    pub fn wait_stopped(&mut self, timeout: Duration) {
        let path = format!("/proc/{}/stat", self.0.id());
        wait_until("the child has stopped", timeout, || {
            assert!(self.0.try_wait().unwrap().is_none(), "a child process ended before it stopped");
            let stat = std::fs::read_to_string(&path).unwrap();
            stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
        });
    }

    /// Lets a stopped one go on.
    pub fn go_on(&self) {
        // SAFETY: a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(self.0.id().cast_signed(), libc::SIGCONT) }, 0);
    }

    /// Kills it, whatever it is doing.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        assert_eq!(self.wait(Duration::from_secs(10)), End::Killed);
    }
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Nanoseconds of the clock that all processes of this machine share.
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct lives through the call.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) }, 0);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Waits until something holds.
///
/// # Panics
/// When it does not within `timeout`.
pub fn wait_until(what: &str, timeout: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + timeout;
    while !holds() {
        assert!(Instant::now() < deadline, "after {timeout:?} still not: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// All keys with a prefix, sorted.
pub fn keys(store: &Store, prefix: &[u8]) -> Vec<Vec<u8>> {
    let mut scan = store.scan(prefix);
    let mut keys = Vec::new();
    while let Some(batch) = scan.next_batch().unwrap() {
        assert!(!batch.is_empty());
        keys.extend(batch.into_iter().map(|(key, _)| key));
    }
    let given = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), given, "a scan gave a key twice");
    keys
}

/// Flips one bit in every place of a file where `needle` is. Returns how many.
pub fn flip(path: &Path, needle: &[u8]) -> usize {
    let mut bytes = std::fs::read(path).unwrap();
    let places: Vec<usize> = bytes
        .windows(needle.len())
        .enumerate()
        .filter(|(_, window)| *window == needle)
        .map(|(at, _)| at)
        .collect();
    for &at in &places {
        bytes[at] ^= 1;
    }
    std::fs::write(path, bytes).unwrap();
    places.len()
}
