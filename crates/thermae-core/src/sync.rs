//! What concurrent code is made of. The test `interleavings` compiles the sources that import it against a scheduler's atomics and threads
//! instead, and runs their unit tests under thousands of interleavings.

pub use std::hint::spin_loop;
pub use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
pub use std::thread;
pub use std::time::Instant;

/// Rounds of a test that repeats itself.
#[cfg(test)]
pub const ROUNDS: u32 = 10_000;

/// Runs a test, here once.
#[cfg(test)]
pub fn explore(test: impl Fn() + Send + Sync + 'static) {
    test();
}
