//! How many keys each numbered database has, and how many of them expire: what only a walk over all keys tells.
//!
//! INFO is asked for it every second, and a walk over ten million keys takes one. So a loop that is asked counts a small store itself, and for a
//! large one answers what was counted last, waiting for nobody; where that is old, a thread of its own counts anew for who asks next, most of the time at rest.
//! Rejected: counts that writers keep: another line that every write of every process takes, for numbers that only dashboards read.

use crate::databases::{DATABASES, database_of};
use crate::errand::Errand;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use thermae_core::{Error, Store};

/// A store with so many keys is counted at once, which takes a millisecond.
const KEYS_MAX_AT_ONCE: u64 = 10_000;
/// Keys are counted again after this many times what that took.
const REST_TIMES: u32 = 100;
/// And not more often than this.
const REST_LEAST: Duration = Duration::from_secs(1);

/// What was counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// When.
    at: Instant,
    /// How long that took.
    took: Duration,
    /// For each database: keys, those of them that expire, and the mean of the milliseconds until they do.
    pub databases: Vec<[u64; 3]>,
}

impl Counted {
    fn is_fresh(&self) -> bool {
        self.at.elapsed() < REST_LEAST.max(self.took.saturating_mul(REST_TIMES))
    }
}

#[derive(Debug, Default)]
struct State {
    latest: Option<Arc<Counted>>,
    is_under_way: bool,
}

/// What is known of the numbered databases.
#[derive(Debug, Default)]
pub struct Census {
    state: Mutex<State>,
    walk: Errand,
}

impl Census {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a store that has about so many keys; `None`: nothing was counted yet.
    ///
    /// # Errors
    /// Those of the store.
    pub fn latest(&self, store: &Store, keys: u64) -> Result<Option<Arc<Counted>>, Error> {
        let mut state = self.lock();
        if state.latest.as_ref().is_some_and(|counted| counted.is_fresh()) {
            return Ok(state.latest.clone());
        }
        if keys > KEYS_MAX_AT_ONCE {
            if !state.is_under_way {
                state.is_under_way = true;
                self.walk.want();
            }
            return Ok(state.latest.clone());
        }
        drop(state);
        let counted = count(store, || false)?.map(Arc::new);
        self.lock().latest.clone_from(&counted);
        Ok(counted)
    }

    /// The thread's work, until the server ends.
    pub fn run(&self, store: &Store) {
        self.walk.run(|| {
            let counted = count(store, || self.walk.is_over());
            let mut state = self.lock();
            state.is_under_way = false;
            // What a store can't tell now is left as it was known.
            if let Ok(Some(counted)) = counted {
                state.latest = Some(Arc::new(counted));
            }
        });
    }

    /// Ends the thread; a walk under way is given up.
    pub fn end(&self) {
        self.walk.end();
    }
}

/// Walks over all keys; `None` where it was told to give up.
fn count(store: &Store, gives_up: impl Fn() -> bool) -> Result<Option<Counted>, Error> {
    let at = Instant::now();
    let now_ms = store.now_ms();
    let mut databases = vec![[0_u64; 3]; usize::from(DATABASES)];
    let mut scan = store.scan(b"");
    while let Some(batch) = scan.next_batch()? {
        for (key, meta) in &batch {
            let [keys, expiring, left_ms] = &mut databases[usize::from(database_of(key).0)];
            *keys += 1;
            if meta.expires_at_ms != 0 {
                *expiring += 1;
                *left_ms = left_ms.saturating_add(meta.expires_at_ms.saturating_sub(now_ms));
            }
        }
        if gives_up() {
            return Ok(None);
        }
    }
    for [_, expiring, left_ms] in &mut databases {
        *left_ms = left_ms.checked_div(*expiring).unwrap_or(0);
    }
    Ok(Some(Counted { at, took: at.elapsed(), databases }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use thermae_core::env::SystemEnv;
    use thermae_core::{Location, Options, SetOptions, destroy};

    fn with_store(name: &str, act: impl FnOnce(&Store)) {
        let location = Location::parse(&format!("shm://test-census-{name}-{}", std::process::id())).unwrap();
        let options = Options { hot_bytes: Some(16 << 20), background: false, ..Options::default() };
        let store = Store::open(&location, &options).unwrap();
        act(&store);
        drop(store);
        destroy(&SystemEnv, &location).unwrap();
    }

    /// INFO walked over all keys while every other INFO, and so every loop, waited for it.
    #[test]
    fn a_large_store_is_counted_aside() {
        with_store("aside", |store| {
            let census = Census::default();
            store.set(b"a", b"", &SetOptions::default()).unwrap();
            let brief = SetOptions { expires_at_ms: store.now_ms() + 100_000, ..SetOptions::default() };
            store.set(b"\xff\x02b", b"", &brief).unwrap();
            // Nobody counts, and nobody waits.
            let large = KEYS_MAX_AT_ONCE + 1;
            assert_eq!(census.latest(store, large).unwrap(), None);
            std::thread::scope(|scope| {
                let thread = scope.spawn(|| census.run(store));
                let deadline = Instant::now() + Duration::from_secs(20);
                let counted = loop {
                    match census.latest(store, large).unwrap() {
                        Some(counted) => break counted,
                        None => assert!(Instant::now() < deadline, "nothing was counted"),
                    }
                    std::thread::sleep(Duration::from_millis(2));
                };
                assert_eq!(
                    (counted.databases[0], counted.databases[2][..2].to_vec()),
                    ([1, 0, 0], vec![1, 1])
                );
                assert!((90_000..=100_000).contains(&counted.databases[2][2]), "{counted:?}");
                census.end();
                thread.join().unwrap();
            });
            assert_eq!(count(store, || true).unwrap(), None);
        });
    }

    #[test]
    fn a_small_one_is_counted_at_once_and_not_every_time() {
        with_store("at-once", |store| {
            let census = Census::default();
            let first = census.latest(store, 0).unwrap().unwrap();
            store.set(b"a", b"", &SetOptions::default()).unwrap();
            assert_eq!(census.latest(store, 1).unwrap().unwrap(), first);
            std::thread::sleep(REST_LEAST);
            assert_eq!(census.latest(store, 1).unwrap().unwrap().databases[0], [1, 0, 0]);
        });
    }
}
