//! What concurrent code is made of. The test `interleavings` compiles the sources that import it against a scheduler's atomics and threads
//! instead, and runs their unit tests under thousands of interleavings.

pub use std::hint::spin_loop;
#[cfg(test)]
pub use std::sync::atomic::fence;
pub use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
pub use std::thread;
pub use std::time::Instant;

pub(crate) use crate::waiting::before_wait;

use std::time::Duration;

/// Sleeps until `word` is no longer `seen`, someone wakes its waiters, or `timeout` is over.
pub(crate) fn futex_wait(word: &AtomicU32, seen: u32, timeout: Duration) {
    before_wait();
    let time = libc::timespec {
        tv_sec: timeout.as_secs().cast_signed(),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    // SAFETY: the word lives in a mapping that the caller borrows; every outcome, errors included, only means "look again".
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, seen, &raw const time, 0, 0) };
}

/// Wakes all who sleep on `word`.
pub(crate) fn futex_wake_all(word: &AtomicU32) {
    // SAFETY: as in futex_wait.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX, 0, 0, 0) };
}

/// Rounds of a test that repeats itself.
#[cfg(test)]
pub const ROUNDS: u32 = 10_000;

/// Runs a test, here once.
#[cfg(test)]
pub fn explore(test: impl Fn() + Send + Sync + 'static) {
    test();
}
