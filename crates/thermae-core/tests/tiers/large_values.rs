//! Values of more than a frame: evicted one by one, kept where they are read, moved to the cold tier and read from there.

use super::*;

#[test]
fn large_values_are_evicted_one_by_one() {
    let store = cache("large", Options::default());
    for key in 0..60 {
        set(&store, key, 1, 1_500_000);
        assert_eq!(get(&store, key), Some(1));
    }
    let kept = (0..60).filter(|&key| get(&store, key) == Some(1)).count();
    assert!(kept >= 3, "{kept} values of two frames each in a store of about fourteen frames");
    // One that takes half the tier fits too, and so do small ones after it.
    set(&store, 100, 1, 6_500_000);
    assert_eq!(get(&store, 100), Some(1));
    for key in 200..12_000 {
        set(&store, key, 1, 1000);
    }
    assert_eq!(get(&store, 11_999), Some(1));
}

/// A cold tier full of large values was full for good: there was no whole segment of the log to evict, and without durability not even room for
/// the flush of a checkpoint.
fn a_full_cold_tier_forgets_old_values_of_any_size(durability: Durability) {
    let options = || Options { when_full: Some(WhenFull::Evict), background: false, ..Options::default() };
    let mut scratch = tiered(16, durability, options());
    let len = |number: u64| if mix(number).is_multiple_of(3) { 100_000 } else { 1_200_000 };
    let keys = 40;
    let mut newest = vec![None; keys as usize];
    for number in 0..400_u64 {
        let key = mix(number ^ 0x55) % keys;
        set(&scratch, key, number, len(number));
        newest[key as usize] = Some(number);
        assert_eq!(get(&scratch, key), Some(number), "what was just stored");
    }
    let count = (0..keys)
        .filter(|&key| {
            get(&scratch, key).inspect(|&version| assert_eq!(Some(version), newest[key as usize])).is_some()
        })
        .count();
    assert!(count >= 8, "only {count} keys are left");
    let stats = scratch.stats().unwrap();
    assert!(stats.evicted > 100, "{} were evicted", stats.evicted);
    scratch.flush().unwrap();
    scratch.store.take().unwrap().close().unwrap();
    forget_shared_memory(&thermae_core::env::SystemEnv, &scratch.location).unwrap();
    scratch.store =
        Some(Store::open(&scratch.location, &Options { background: false, ..Options::default() }).unwrap());
    let after = (0..keys)
        .filter(|&key| {
            get(&scratch, key).inspect(|&version| assert_eq!(Some(version), newest[key as usize])).is_some()
        })
        .count();
    assert_eq!(after, count, "keys after a recovery from the cold tier");
    let report = scratch.check(false).unwrap();
    assert!(report.ok, "the check found {:#?}", report.problems);
}

#[test]
fn a_full_cold_tier_forgets_old_values_of_any_size_without_durability() {
    a_full_cold_tier_forgets_old_values_of_any_size(Durability::None);
}

#[test]
fn a_full_cold_tier_forgets_old_values_of_any_size_flushed_every_second() {
    a_full_cold_tier_forgets_old_values_of_any_size(Durability::EverySec);
}

/// Large values that are read get another round, like small ones.
#[test]
fn large_values_that_are_read_outlive_those_that_are_not_in_a_full_cold_tier() {
    let options = Options { when_full: Some(WhenFull::Evict), background: false, ..Options::default() };
    let scratch = tiered(32, Durability::EverySec, options);
    for key in 0..60 {
        set(&scratch, key, 1, 1_200_000);
        get(&scratch, 0);
    }
    assert_eq!(get(&scratch, 0), Some(1), "read again and again");
    assert_eq!(get(&scratch, 1), None, "never read");
    assert_eq!(get(&scratch, 59), Some(1), "the newest");
}

#[test]
fn large_values_move_to_the_cold_tier_and_are_read_from_there() {
    for durability in [Durability::None, Durability::EverySec] {
        let store = tiered(96, durability, Options::default());
        for key in 0..40 {
            set(&store, key, 1, 1_000_000 + key as usize * 20_000);
        }
        for key in (0..40).step_by(3) {
            set(&store, key, 2, 700_000);
        }
        for key in 0..40 {
            assert_eq!(get(&store, key), Some(if key % 3 == 0 { 2 } else { 1 }), "key {key}");
        }
        assert_eq!(store.stats().unwrap().evicted, 0);
    }
}
