//! Files and directories that are not the store's own. Names in `/dev/shm` are anybody's to take: after a reboot another user may have made there what
//! the store would map, and could change it under the mapping. It is refused, named, and left as it is.

use crate::trial::{Held, Trial};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use thermae_core::env::SystemEnv;
use thermae_core::{Durability, Location, Options, Store, WhenFull, destroy, forget_shared_memory};

/// A store that was closed, and its directory in shared memory.
fn closed() -> (Trial, PathBuf) {
    let mut trial = Trial::new(16, 16, Durability::EverySec, WhenFull::Error);
    assert!(trial.open());
    for number in 0..20 {
        trial.set(&format!("w:{number}"), 100 + number * 90);
    }
    let volatile = PathBuf::from(trial.store.as_ref().unwrap().config().memory_directory);
    assert!(volatile.starts_with("/dev/shm"));
    trial.close();
    (trial, volatile)
}

/// Opening is refused, for reading and for writing, with an error that names this.
fn check_refused(trial: &Trial, location: &Location, culprit: &Path) {
    for read_only in [false, true] {
        let options = Options { read_only, ..trial.options.clone() };
        let error = Store::open(location, &options).unwrap_err();
        assert_eq!(error.name(), "Permission", "{}: {error}", culprit.display());
        assert!(error.to_string().contains(&*culprit.to_string_lossy()), "{error}");
    }
}

fn check_whole(trial: &mut Trial) {
    trial.env.heal();
    let failures = trial.errors.len();
    assert!(trial.open(), "{}", trial.errors[failures]);
    let store = trial.store.take().unwrap();
    trial.check_contents(&store, Held::Whole);
    trial.store = Some(store);
    trial.close();
}

#[test]
fn what_another_user_owns_is_not_mapped() {
    let (mut trial, volatile) = closed();
    let parts = [
        volatile.clone(),
        volatile.join("control"),
        volatile.join("hot"),
        trial.path("store"),
        trial.path("lock"),
        trial.path("cold"),
    ];
    for part in parts {
        assert!(part.exists());
        trial.env.disown(&part);
        check_refused(&trial, &trial.location, &part);
        assert!(part.exists());
        check_whole(&mut trial);
    }
    // In a store without memory of its own what another one put there is not taken for a place to build it.
    forget_shared_memory(&SystemEnv, &trial.location).unwrap();
    std::fs::create_dir(&volatile).unwrap();
    trial.env.disown(&volatile);
    check_refused(&trial, &trial.location, &volatile);
    assert_eq!(std::fs::read_dir(&volatile).unwrap().count(), 0);
    std::fs::remove_dir(&volatile).unwrap();
    trial.next = Held::Recovered;
    trial.conclude();
}

#[test]
fn a_link_in_the_place_of_shared_memory_is_not_followed() {
    let (mut trial, volatile) = closed();
    let moved = trial.directory.path().join("moved");
    std::fs::rename(&volatile, &moved).unwrap();
    symlink(&moved, &volatile).unwrap();
    check_refused(&trial, &trial.location, &volatile);
    std::fs::remove_file(&volatile).unwrap();
    std::fs::rename(&moved, &volatile).unwrap();
    for name in ["control", "hot"] {
        let (file, aside) = (volatile.join(name), volatile.join("aside"));
        std::fs::rename(&file, &aside).unwrap();
        symlink(&aside, &file).unwrap();
        let error = Store::open(&trial.location, &trial.options).unwrap_err();
        assert!(error.to_string().contains(&*file.to_string_lossy()), "{error}");
        std::fs::remove_file(&file).unwrap();
        std::fs::rename(&aside, &file).unwrap();
    }
    check_whole(&mut trial);
    trial.conclude();
}

#[test]
fn shared_memory_that_others_may_write_to_is_refused() {
    let (mut trial, volatile) = closed();
    let give = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    for mode in [0o770, 0o702] {
        give(&volatile, mode);
        check_refused(&trial, &trial.location, &volatile);
    }
    give(&volatile, 0o700);
    check_whole(&mut trial);
    trial.conclude();

    let trial = Trial::new(16, 0, Durability::None, WhenFull::Error);
    let location = Location::SharedMemory(format!("test-foreign-{}", std::process::id()));
    let options = Options { cold_bytes: None, ..trial.options.clone() };
    drop(Store::open(&location, &options).unwrap());
    let directory = PathBuf::from(Store::open(&location, &options).unwrap().config().memory_directory);
    give(&directory, 0o777);
    check_refused(&trial, &location, &directory);
    give(&directory, 0o700);
    drop(Store::open(&location, &options).unwrap());
    destroy(&SystemEnv, &location).unwrap();
}
