//! A hot tier of which not all may be used.

use super::*;

#[test]
fn a_limited_hot_tier_gives_up_what_is_too_much_and_grows_again() {
    let options = Options { hot_bytes: Some(64 * MIB), background: false, ..Options::default() };
    let used_bytes = |store: &Store| store.stats().unwrap().hot_used_bytes;
    for (name, when_full, cold_mib) in
        [("cache", WhenFull::Evict, 0), ("tiered", WhenFull::Error, 128), ("both", WhenFull::Evict, 64)]
    {
        let options = Options { when_full: Some(when_full), ..options.clone() };
        let store = match cold_mib {
            0 => {
                let place = format!("shm://test-tiers-limit-{}", std::process::id());
                let location = Location::parse(&place).unwrap();
                Scratch { store: Some(Store::open(&location, &options).unwrap()), location, _directory: None }
            }
            _ => tiered(cold_mib, Durability::EverySec, options),
        };
        for key in 0..45_000 {
            set(&store, key, 1, 1000);
        }
        assert!(used_bytes(&store) > 40 * MIB, "{name}");
        store.set_hot_limit(20 * MIB + 5).unwrap();
        assert_eq!(store.config().hot_limit_bytes, 20 * MIB);
        assert!(used_bytes(&store) <= 20 * MIB, "{name}: {} bytes are used", used_bytes(&store));
        for key in 45_000..60_000 {
            set(&store, key, 1, 1000);
            assert!(used_bytes(&store) <= 20 * MIB, "{name}");
        }
        assert_eq!(get(&store, 59_999), Some(1));
        if cold_mib == 128 {
            assert!((0..60_000).all(|key| get(&store, key) == Some(1)), "nothing may be dropped");
        }
        let refused = store.set(b"large", &vec![1; 11 << 20], &SetOptions::default());
        assert!(matches!(refused, Err(Error::ValueTooLarge(_))), "{refused:?}");
        store.set_hot_limit(64 * MIB).unwrap();
        for key in 60_000..100_000 {
            set(&store, key, 1, 1000);
        }
        assert!(used_bytes(&store) > 40 * MIB, "{name}");
    }
}

#[test]
fn a_hot_tier_is_not_limited_to_less_than_must_stay() {
    let options = Options { when_full: Some(WhenFull::Error), background: false, ..Options::default() };
    let place = format!("shm://test-tiers-limit-refused-{}", std::process::id());
    let location = Location::parse(&place).unwrap();
    let store = Store::open(&location, &Options { hot_bytes: Some(64 * MIB), ..options }).unwrap();
    let store = Scratch { store: Some(store), location, _directory: None };
    for key in 0..45_000 {
        set(&store, key, 1, 1000);
    }
    for bytes in [0, 16 * MIB - 1, 64 * MIB + 1, u64::MAX] {
        let refused = store.set_hot_limit(bytes);
        assert!(matches!(refused, Err(Error::InvalidOption(_))), "{bytes}: {refused:?}");
    }
    let refused = store.set_hot_limit(20 * MIB);
    assert!(matches!(refused, Err(Error::Full(_))), "{refused:?}");
    assert_eq!(store.config().hot_limit_bytes, 64 * MIB);
    set(&store, 45_000, 1, 1000);
    assert!((0..=45_000).all(|key| get(&store, key) == Some(1)));
}
