//! Clocks that jump. Expiry goes by the store's clock: that is the wall clock of the moment at which the shared half was made, and runs on with
//! the boot clock, so what happens to the wall clock of a running store must not matter to it, and no value of either clock may harm.

use crate::common::{options, wait_until};
use crate::trial::{Held, Trial, scratch};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use thermae_core::env::SystemEnv;
use thermae_core::env_test::FaultEnv;
use thermae_core::{Durability, Location, Options, SetOptions, ShmPlacement, Store, WhenFull, destroy};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const YEAR_MS: i64 = 365 * 24 * HOUR_MS;
/// Values at which sums and differences of clocks go over an edge.
const EDGES_MS: [u64; 7] =
    [0, 1, i64::MAX as u64 - 1, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX - 1, u64::MAX];
/// Longest that a background flush may take to come; one second is promised, the rest is for busy machines.
const FLUSH_MAX: Duration = Duration::from_secs(10);

fn opened(prepare: impl FnOnce(&Trial)) -> Trial {
    let mut trial = Trial::new(16, 16, Durability::EverySec, WhenFull::Error);
    prepare(&trial);
    assert!(trial.open(), "{}", trial.errors[0]);
    trial
}

fn now_ms(trial: &Trial) -> u64 {
    trial.store.as_ref().unwrap().now_ms()
}

/// Every duty that looks at a clock, and every key by every way of reading.
fn use_clocks(trial: &mut Trial, what: &str) {
    let failures = trial.errors.len();
    trial.ask(Store::keep_house);
    trial.set("w:now", 300);
    for (key, ttl_ms) in [("e:minute", MINUTE_MS as u64), ("e:last", u64::MAX)] {
        let expires_at_ms = now_ms(trial).saturating_add(ttl_ms);
        trial.set_expiring(key, 300, expires_at_ms);
    }
    trial.transact(&["t:0", "t:1"], "w:gone", 200);
    trial.flush();
    trial.checkpoint();
    trial.ask(Store::keep_house);
    assert!(trial.errors.len() == failures, "{what}: {}", trial.errors[failures]);
    check(trial, Held::Whole);
    let store = trial.store.as_ref().unwrap();
    let report = store.check(false).unwrap();
    assert!(report.ok, "{what}: {report:?}");
}

fn check(trial: &mut Trial, held: Held) {
    let store = trial.store.take().unwrap();
    trial.check_contents(&store, held);
    trial.store = Some(store);
}

fn is_there(trial: &Trial, key: &str) -> bool {
    trial.store.as_ref().unwrap().get(key.as_bytes()).unwrap().is_some()
}

#[test]
fn a_wall_clock_that_jumps_moves_nothing_in_a_running_store() {
    let mut trial = opened(|_| {});
    let start_ms = now_ms(&trial);
    trial.set("w:0", 300);
    trial.set_expiring("e:hour", 300, start_ms + HOUR_MS as u64);
    trial.set_expiring("e:soon", 300, start_ms + 10 * MINUTE_MS as u64);
    let jumps_ms =
        [HOUR_MS, -2 * HOUR_MS, 10 * YEAR_MS, -40 * YEAR_MS, -100 * YEAR_MS, i64::MAX / 2, i64::MAX / 2];
    for jump_ms in jumps_ms {
        trial.env.jump_wall_clock_ms(jump_ms);
        use_clocks(&mut trial, &format!("a jump of {jump_ms} ms"));
    }
    for edge_ms in EDGES_MS {
        trial.env.stop_wall_clock_at_ms(edge_ms);
        use_clocks(&mut trial, &format!("a wall clock at {edge_ms} ms"));
        assert!(is_there(&trial, "e:hour") && is_there(&trial, "e:soon"), "gone at {edge_ms} ms");
    }
    let passed_ms = now_ms(&trial) - start_ms;
    assert!(
        passed_ms < 5 * MINUTE_MS as u64,
        "the store's clock went with the wall clock, by {passed_ms} ms"
    );
    // Time that passes is the boot clock's.
    trial.env.jump_boot_clock_ms(11 * MINUTE_MS);
    use_clocks(&mut trial, "eleven minutes later");
    assert!(is_there(&trial, "e:hour") && !is_there(&trial, "e:soon") && is_there(&trial, "w:0"));
    trial.env.jump_boot_clock_ms(HOUR_MS);
    use_clocks(&mut trial, "an hour later");
    assert!(!is_there(&trial, "e:hour") && is_there(&trial, "w:0"));
    // A recovery goes by the wall clock again, which has to be right by then for what has expired to stay so.
    trial.env.stop_wall_clock_at_ms(now_ms(&trial));
    trial.conclude();
}

/// Reopening attaches to the same shared half, and with it to the same clock.
#[test]
fn a_wall_clock_that_jumps_while_the_store_is_closed_moves_nothing_either() {
    for edge_ms in EDGES_MS {
        let mut trial = opened(|_| {});
        let start_ms = now_ms(&trial);
        trial.set_expiring("e:hour", 300, start_ms + HOUR_MS as u64);
        trial.close();
        trial.env.stop_wall_clock_at_ms(edge_ms);
        assert!(trial.open(), "{}", trial.errors[0]);
        assert!(now_ms(&trial) - start_ms < 5 * MINUTE_MS as u64 && is_there(&trial, "e:hour"));
        use_clocks(&mut trial, &format!("reopened with a wall clock at {edge_ms} ms"));
        trial.conclude();
    }
}

/// Sums with a clock close to its end overflowed where a segment's next expiry was put off.
#[test]
fn no_value_of_the_boot_clock_harms_a_running_store() {
    let mut trial = opened(|_| {});
    trial.set("w:0", 300);
    for edge_ms in EDGES_MS.into_iter().rev().chain(EDGES_MS) {
        trial.env.stop_boot_clock_at_ms(edge_ms);
        use_clocks(&mut trial, &format!("a boot clock at {edge_ms} ms"));
        assert!(is_there(&trial, "w:0"));
    }
    trial.conclude();
}

#[test]
fn a_store_can_be_made_and_recovered_at_any_time() {
    for wall_ms in EDGES_MS {
        for (boot_ms, wall_then_ms) in [(0, 1), (i64::MAX as u64, u64::MAX), (u64::MAX, 0)] {
            let mut trial = opened(|trial| {
                trial.env.stop_wall_clock_at_ms(wall_ms);
                trial.env.stop_boot_clock_at_ms(boot_ms);
            });
            use_clocks(&mut trial, &format!("made at {wall_ms} ms, {boot_ms} ms after booting"));
            trial.lose_memory();
            trial.env.stop_wall_clock_at_ms(wall_then_ms);
            trial.env.stop_boot_clock_at_ms(1);
            assert!(trial.open(), "{}", trial.errors[0]);
            check(&mut trial, Held::Recovered);
            trial.next = Held::Whole;
            use_clocks(&mut trial, "recovered");
            trial.conclude();
        }
    }
}

/// A machine that has lost its time with its power knows no better than that less time has passed: what has not expired by its clock is kept,
/// and expires when that clock gets there. One whose clock went forward finds expired what is past by then, and nothing else.
#[test]
fn recovery_keeps_what_has_not_expired_by_the_clock_it_finds() {
    for (jump_ms, keeps_minute, keeps_hour) in [
        (0, true, true),
        (-HOUR_MS, true, true),
        (-40 * YEAR_MS, true, true),
        (-100 * YEAR_MS, true, true),
        (10 * MINUTE_MS, false, true),
        (2 * HOUR_MS, false, false),
        (100 * YEAR_MS, false, false),
    ] {
        let mut trial = opened(|_| {});
        let start_ms = now_ms(&trial);
        trial.set("w:0", 300);
        trial.set_expiring("e:minutes", 300, start_ms + 5 * MINUTE_MS as u64);
        trial.set_expiring("e:hour", 300, start_ms + HOUR_MS as u64);
        trial.checkpoint();
        trial.set_expiring("e:later", 300, start_ms + HOUR_MS as u64);
        trial.flush();
        trial.lose_memory();
        trial.env.jump_wall_clock_ms(jump_ms);
        assert!(trial.open(), "{}", trial.errors[0]);
        check(&mut trial, Held::Recovered);
        trial.next = Held::Whole;
        let found = ["w:0", "e:minutes", "e:hour", "e:later"].map(|key| is_there(&trial, key));
        assert_eq!(found, [true, keeps_minute, keeps_hour, keeps_hour], "after a jump of {jump_ms} ms");
        use_clocks(&mut trial, &format!("recovered after a jump of {jump_ms} ms"));
        trial.conclude();
    }
}

/// A clock that went back put flushes off until it had caught up with the last one: the second that `everysec` promises became hours.
#[test]
fn the_background_goes_on_flushing_whatever_the_clocks_do() {
    let directory = scratch();
    let env = FaultEnv::new(Arc::new(SystemEnv));
    let location = Location::Directory(directory.path().join("store"));
    let store = Store::open(
        &location,
        &Options {
            background: true,
            shm: ShmPlacement::SharedMemory,
            env: Arc::new(env.clone()),
            ..options(16, 16, Durability::EverySec, WhenFull::Error)
        },
    )
    .unwrap();
    let flushed = |what: &str, number: usize| {
        store.set(format!("w:{number}").as_bytes(), b"flushed soon", &SetOptions::default()).unwrap();
        let globals = store.engine().globals();
        let written = globals.next_sequence.load(Ordering::SeqCst) - 1;
        wait_until(&format!("flushed after {what}"), FLUSH_MAX, || {
            globals.watermark.load(Ordering::SeqCst) >= written
        });
    };
    flushed("the beginning", 0);
    let jumps_ms = [HOUR_MS, -HOUR_MS, -12 * HOUR_MS, YEAR_MS, i64::MAX / 2, -i64::MAX / 2];
    for (number, jump_ms) in jumps_ms.into_iter().enumerate() {
        env.jump_boot_clock_ms(jump_ms);
        env.jump_wall_clock_ms(-jump_ms);
        flushed(&format!("a jump of {jump_ms} ms"), number);
    }
    assert_eq!(store.len().unwrap(), jumps_ms.len() as u64);
    store.close().unwrap();
    drop(store);
    destroy(&SystemEnv, &location).unwrap();
}
