//! A store that somebody tries to open where its memory can't be seen, and fails: what is only in that memory must not suffer from it.

use crate::common::{Place, options};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use thermae_core::env::SystemEnv;
use thermae_core::env_test::{Fault, FaultEnv, FaultRule, Site};
use thermae_core::{Durability, Options, SetOptions, ShmPlacement, Store, WhenFull};

#[test]
fn memory_is_still_the_stores_after_others_failed_to_open_it() {
    let place = Place::in_directory();
    let settings =
        Options { shm: ShmPlacement::SharedMemory, ..options(32, 64, Durability::None, WhenFull::Error) };
    let store = place.open(&settings);
    let memory = PathBuf::from(store.config().memory_directory);
    store.set(b"only in memory", b"1", &SetOptions::default()).unwrap();
    // Killed: nothing was flushed.
    store.engine().closed.store(true, Ordering::SeqCst);
    drop(store);
    let aside = memory.with_extension("aside");
    for fault in [
        FaultRule::always(Site::Allocate, "hot", Fault::Error(libc::ENOSPC)),
        FaultRule::always(Site::Read, "cold", Fault::Error(libc::EACCES)),
    ] {
        std::fs::rename(&memory, &aside).unwrap();
        let env = FaultEnv::new(Arc::new(SystemEnv));
        env.inject(fault);
        let elsewhere = Options { env: Arc::new(env.clone()), ..settings.clone() };
        Store::open(&place.location, &elsewhere).unwrap_err();
        assert!(env.injected() > 0);
        assert!(!memory.exists(), "what a failed opening has made is left");
        std::fs::rename(&aside, &memory).unwrap();
    }
    let store = place.open(&settings);
    assert_eq!(store.get(b"only in memory").unwrap().map(|(_, bytes)| bytes), Some(b"1".to_vec()));
    drop(store);
}
