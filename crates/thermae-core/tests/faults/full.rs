//! Disks and shared memory that are full: really, on small file systems in memory that a child process mounts for itself alone, and pretended,
//! which needs no privilege and is done in any case.

use crate::common::{End, MIB, setting, spawn};
use crate::trial::{Held, Trial, is_stopped, scratch};
use std::ffi::CString;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thermae_core::env::SystemEnv;
use thermae_core::env_test::{Fault, FaultRule, Site};
use thermae_core::{Durability, Error, Location, Options, ShmPlacement, Store, WhenFull, destroy, restore};

const TIMEOUT: Duration = Duration::from_secs(120);
/// Room for a store with 16 MiB of cold tier, and a little beside it.
const DISK_BYTES: u64 = 24 * MIB;
const MEMORY: &str = "/dev/shm";
const JUNK_CHUNK_BYTES: usize = 4096;

/// How something is made full.
enum Device {
    /// A file system of this size, mounted there.
    Real(PathBuf),
    /// By rules; nothing is really full.
    Pretended,
}

impl Device {
    fn fill(&self, trial: &Trial) {
        match self {
            Self::Real(directory) => {
                let mut junk = std::fs::File::create(directory.join("junk")).unwrap();
                loop {
                    match junk.write_all(&[1; JUNK_CHUNK_BYTES]) {
                        Ok(()) => {}
                        Err(error) if error.kind() == ErrorKind::StorageFull => break,
                        Err(error) => panic!("filling {}: {error}", directory.display()),
                    }
                }
            }
            Self::Pretended => {
                for new in [".new", "snapshot"] {
                    trial.env.inject(FaultRule::always(Site::Write, new, Fault::ENOSPC));
                }
                trial.env.inject(FaultRule::always(Site::Allocate, "", Fault::ENOSPC));
            }
        }
    }

    fn free(&self, trial: &Trial) {
        match self {
            Self::Real(directory) => std::fs::remove_file(directory.join("junk")).unwrap(),
            Self::Pretended => trial.env.heal(),
        }
    }
}

/// Checks that an error is the full disk's, names a file on it, and says what helps.
fn check_full(error: &Error, part: &str) {
    let text = error.to_string();
    let Error::Io { path, source, .. } = error else { panic!("{} is not Io: {text}", error.name()) };
    assert_eq!(source.raw_os_error(), Some(libc::ENOSPC), "{text}");
    assert!(path.to_string_lossy().contains(part) && text.contains("free space"), "{text}");
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

fn volatile_names() -> Vec<String> {
    let mut found = names(Path::new(MEMORY));
    found.retain(|name| name.starts_with("thermae-"));
    found.sort();
    found
}

/// The tiers are allocated when the store is made, so a full disk stops neither writes nor flushes: only what needs new files.
fn outlive_a_full_disk(device: &Device, mut trial: Trial) {
    let snapshot = trial.directory.path().join("snapshot");
    assert!(trial.open(), "{}", trial.errors[0]);
    for number in 0..8 {
        trial.set(&format!("w:{number}"), 60_000);
    }
    trial.flush();
    device.fill(&trial);
    for number in 4..24 {
        trial.set(&format!("w:{number}"), 100_000);
    }
    trial.set("large:0", 900_000);
    trial.delete("w:2");
    trial.transact(&["t:0", "t:1"], "w:3", 2000);
    trial.flush();
    assert!(trial.errors.is_empty(), "{}", trial.errors[0]);
    trial.checkpoint();
    check_full(&trial.errors.pop().expect("a checkpoint had room"), "checkpoint");
    trial.ask(|store| store.snapshot(&snapshot).map(drop));
    check_full(&trial.errors.pop().expect("a snapshot had room"), "snapshot");
    assert!(
        !snapshot.exists() && names(snapshot.parent().unwrap()).iter().all(|name| name != "snapshot.new")
    );
    assert!(!is_stopped(trial.store.as_ref().unwrap()));
    trial.set("w:30", 100);
    trial.flush();
    check(&mut trial, Held::Whole);
    // The same on the same full disk, attached to and recovered.
    trial.close();
    assert!(trial.errors.is_empty(), "{}", trial.errors[0]);
    assert!(trial.open(), "attaching: {}", trial.errors[0]);
    check(&mut trial, Held::Whole);
    if matches!(device, Device::Real(_)) {
        trial.lose_memory();
        assert!(trial.open(), "recovering: {}", trial.errors[0]);
        check(&mut trial, Held::Recovered);
        trial.next = Held::Whole;
        trial.set("w:31", 100);
        trial.flush();
        assert!(trial.errors.is_empty(), "{}", trial.errors[0]);
    }
    device.free(&trial);
    trial.checkpoint();
    assert!(trial.errors.is_empty(), "{}", trial.errors[0]);
    let report = trial.store.as_ref().unwrap().snapshot(&snapshot);
    assert!(report.is_ok(), "{report:?}");
    // A restoration needs room for all of the tier, which there is not beside the store itself.
    if matches!(device, Device::Real(_)) {
        let restored = snapshot.with_file_name("restored");
        let error = restore(&snapshot, &Location::Directory(restored.clone()), &trial.options).unwrap_err();
        check_full(&error, "restored");
        assert!(names(restored.parent().unwrap()).iter().all(|name| !name.starts_with("restored")));
    }
    std::fs::remove_dir_all(&snapshot).unwrap();
    trial.conclude();
}

fn check(trial: &mut Trial, held: Held) {
    let store = trial.store.take().unwrap();
    trial.check_contents(&store, held);
    trial.store = Some(store);
}

fn trial_in(directory: tempfile::TempDir) -> Trial {
    Trial::new_in(directory, 16, 16, Durability::EverySec, WhenFull::Error)
}

/// Whoever follows the advice to ask for less must not be told that a store of another size is there.
fn outlive_a_creation_without_room(device: &Device, mut trial: Trial) -> Trial {
    let volatile = volatile_names();
    trial.options.cold_bytes = Some(64 * MIB);
    if matches!(device, Device::Pretended) {
        trial.env.inject(FaultRule::always(Site::Allocate, "cold", Fault::ENOSPC));
    }
    assert!(!trial.open(), "64 MiB fit into {DISK_BYTES} bytes");
    check_full(&trial.errors.pop().unwrap(), "cold");
    let Location::Directory(directory) = &trial.location else { unreachable!() };
    assert!(!directory.exists(), "{:?} was left behind", names(directory));
    if matches!(device, Device::Real(_)) {
        assert_eq!(volatile_names(), volatile);
    }
    trial.env.heal();
    trial.options.cold_bytes = Some(16 * MIB);
    trial
}

fn outlive_full_memory(device: &Device, mut trial: Trial) {
    let before = volatile_names();
    if matches!(device, Device::Pretended) {
        trial.env.inject(FaultRule::always(Site::Allocate, "/dev/shm/thermae-", Fault::ENOSPC));
    }
    assert!(!trial.open(), "16 MiB of hot tier fit into 8 MiB");
    let error = trial.errors.pop().unwrap();
    let text = error.to_string();
    assert_eq!(error.name(), "Full", "{text}");
    assert!(text.contains(MEMORY) && text.contains("choose a smaller hot"), "{text}");
    let Location::Directory(directory) = trial.location.clone() else { unreachable!() };
    assert!(!directory.exists(), "{:?} was left behind", names(&directory));
    if matches!(device, Device::Real(_)) {
        assert_eq!(volatile_names(), before);
    }
    // What the message advises.
    trial.env.heal();
    trial.options.shm = ShmPlacement::Directory;
    assert!(trial.open(), "{}", trial.errors[0]);
    trial.set("w:1", 5000);
    trial.flush();
    check(&mut trial, Held::Whole);
    assert!(directory.join("hot").exists());
    if matches!(device, Device::Real(_)) {
        // What is done where nothing is asked for.
        let elsewhere = Location::Directory(trial.directory.path().join("elsewhere"));
        let store =
            Store::open(&elsewhere, &Options { shm: ShmPlacement::Auto, ..trial.options.clone() }).unwrap();
        assert_eq!(store.config().memory_directory, elsewhere.to_string());
        store.close().unwrap();
        drop(store);
        destroy(&SystemEnv, &elsewhere).unwrap();
    }
    trial.conclude();
}

/// Mounts a file system of a size, in memory.
fn mount(directory: &Path, bytes: u64) -> io::Result<()> {
    let target = CString::new(directory.to_str().unwrap()).unwrap();
    let data = CString::new(format!("size={bytes},mode=1777")).unwrap();
    // SAFETY: all strings end with a zero byte and live through the call.
    let result = unsafe {
        libc::mount(c"tmpfs".as_ptr(), target.as_ptr(), c"tmpfs".as_ptr(), 0, data.as_ptr().cast())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives this thread, and what it starts, mounts of its own, which end with it.
fn leave_mounts() -> io::Result<()> {
    // SAFETY: no preconditions.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: all strings end with a zero byte and live through the call; null is allowed for the rest.
    let result =
        unsafe { libc::mount(c"none".as_ptr(), c"/".as_ptr(), std::ptr::null(), flags, std::ptr::null()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The part of a child process. What it finds is written down beside its mounts.
pub fn play() {
    let root = PathBuf::from(setting("ROOT"));
    let note = |text: &str| std::fs::write(root.join("outcome"), text).unwrap();
    let disk = root.join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = leave_mounts()
        .and_then(|()| mount(&disk, DISK_BYTES))
        .and_then(|()| mount(Path::new(MEMORY), 4 * DISK_BYTES));
    if let Err(error) = mounted {
        assert!(matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::ENOSYS)), "{error}");
        return note(&format!("denied: {error}"));
    }
    let device = Device::Real(disk.clone());
    let trial = outlive_a_creation_without_room(&device, trial_in(tempfile::tempdir_in(&disk).unwrap()));
    outlive_a_full_disk(&device, trial);
    mount(Path::new(MEMORY), 8 * MIB).unwrap();
    let device = Device::Real(PathBuf::from(MEMORY));
    outlive_full_memory(&device, trial_in(tempfile::tempdir_in(&root).unwrap()));
    note("done");
}

#[test]
fn file_systems_that_are_really_full() {
    let root = tempfile::tempdir().unwrap();
    let settings = [("ROOT", root.path().display().to_string())];
    assert_eq!(spawn("full", &settings).wait(TIMEOUT), End::Finished);
    let outcome = std::fs::read_to_string(root.path().join("outcome")).unwrap();
    if let Some(reason) = outcome.strip_prefix("denied: ") {
        // Past the capture of what tests print: whoever reads the log must see what was not tried.
        writeln!(
            io::stderr(),
            "NOT TRIED: file systems that are really full, for this process may not mount any ({reason}); run the tests as root for \
             that. The pretended ones were tried."
        )
        .unwrap();
    } else {
        assert_eq!(outcome, "done");
    }
}

#[test]
fn file_systems_that_seem_full() {
    let device = Device::Pretended;
    outlive_a_full_disk(&device, outlive_a_creation_without_room(&device, trial_in(scratch())));
    outlive_full_memory(&device, trial_in(scratch()));
}
