//! What fails: devices, full disks and memory, interrupted calls, clocks. Nothing of it may cost what was acknowledged, hang, or be kept quiet.
#![cfg(feature = "test-env")]

mod common;
#[path = "faults/sweep.rs"]
mod sweep;
#[path = "faults/trial.rs"]
mod trial;
