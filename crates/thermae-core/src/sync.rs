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

/// The same, but woken only by those who wake one of `bits`.
pub(crate) fn futex_wait_for(word: &AtomicU32, seen: u32, timeout: Duration, bits: u32) {
    before_wait();
    // This kind of wait takes the moment at which it is over, not its length.
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct lives through the call, and this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let nanoseconds = time.tv_nsec + i64::from(timeout.subsec_nanos());
    time.tv_sec += timeout.as_secs().cast_signed() + nanoseconds / 1_000_000_000;
    time.tv_nsec = nanoseconds % 1_000_000_000;
    let no_word = std::ptr::null::<u32>();
    // SAFETY: as in futex_wait.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT_BITSET,
            seen,
            &raw const time,
            no_word,
            bits,
        )
    };
}

/// Wakes up to `count` of those who sleep on `word` for one of `bits`; who waits for anything counts as well.
pub(crate) fn futex_wake_for(word: &AtomicU32, count: i32, bits: u32) {
    let no_word = std::ptr::null::<u32>();
    // SAFETY: as in futex_wait.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE_BITSET, count, no_word, no_word, bits)
    };
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
