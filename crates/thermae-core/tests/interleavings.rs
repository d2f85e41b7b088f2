//! The real sources of the locks, of the index's buckets and of the feed's ring under a scheduler that tries thousands of interleavings.
//!
//! `sync` is what those sources import; here it is the scheduler's. Their own unit tests are what runs: `explore` repeats each under one
//! random schedule after the other. It explores sequentially consistent executions; that the orderings suffice on real processors is for the
//! tests with real threads and processes.

/// The scheduler's atomics and threads, in place of the crate's `sync`.
mod sync {
    pub use shuttle::hint::spin_loop;
    pub use shuttle::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
    use std::time::Duration;

    /// Nobody here wants to be told of waits.
    pub fn before_wait() {}

    /// Rounds of a test that repeats itself.
    pub const ROUNDS: u32 = 3;
    /// Schedules tried of each test.
    const SCHEDULES: usize = 1500;

    pub mod thread {
        pub use shuttle::thread::{spawn, yield_now};

        /// Sleeping is letting others run.
        pub fn sleep(_time: std::time::Duration) {
            yield_now();
        }
    }

    /// A clock of which each look takes a second: who waits does not wait long before it asks whether the owner lives.
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub struct Instant(Duration);

    impl Instant {
        pub fn now() -> Self {
            use std::cell::Cell;
            thread_local!(static LOOKS: Cell<u64> = const { Cell::new(0) });
            LOOKS.set(LOOKS.get() + 1);
            Self(Duration::from_secs(LOOKS.get()))
        }
    }

    impl std::ops::Add<Duration> for Instant {
        type Output = Self;

        fn add(self, time: Duration) -> Self {
            Self(self.0 + time)
        }
    }

    /// Runs a test under many schedules.
    pub fn explore(test: impl Fn() + Send + Sync + 'static) {
        let mut config = shuttle::Config::new();
        config.silence_warnings = true;
        let scheduler = shuttle::scheduler::RandomScheduler::new(SCHEDULES);
        shuttle::Runner::new(scheduler, config).run(test);
    }
}

/// The numbers that the sources need of the shared layout.
mod layout {
    pub use thermae_core::layout::{ADDRESS_BITS, ADDRESS_MIN, BUCKET_ENTRIES, FEED_SLOT_BYTES};
}

#[allow(dead_code, missing_docs, reason = "the crate uses all of it")]
#[path = "../src/bucket.rs"]
mod bucket;

#[allow(dead_code, missing_docs, reason = "the crate uses all of it")]
#[path = "../src/lock.rs"]
mod lock;

#[allow(dead_code, missing_docs, reason = "the crate uses all of it")]
#[path = "../src/ring.rs"]
mod ring;
