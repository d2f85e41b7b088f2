//! Environments for tests: one that fails when told to, one that records what was written and shows what a power
//! failure could have left. Compiled for tests only.

mod fault;
mod recording;

pub use fault::{Fault, FaultEnv, FaultRule, Operation, Site};
pub use recording::{Image, Recording, RecordingEnv, Tear};
