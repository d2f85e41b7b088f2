//! What fails: devices, full disks and memory, interrupted calls, clocks. Nothing of it may cost what was acknowledged, hang, or be kept quiet.
#![cfg(feature = "test-env")]

#[path = "faults/clock.rs"]
mod clock;
mod common;
#[path = "faults/elsewhere.rs"]
mod elsewhere;
#[path = "faults/foreign.rs"]
mod foreign;
#[path = "faults/full.rs"]
mod full;
#[path = "faults/sectors.rs"]
mod sectors;
#[path = "faults/sweep.rs"]
mod sweep;
#[path = "faults/trial.rs"]
mod trial;

/// What child processes run.
#[test]
fn role() {
    match common::role().as_deref() {
        None => {}
        Some("full") => full::play(),
        Some("sectors") => sectors::play(),
        Some(other) => panic!("no part is called {other}"),
    }
}
