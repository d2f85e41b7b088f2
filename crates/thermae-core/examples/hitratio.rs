//! Hit ratios of a full cache beside exact simulators with room for as many keys: `cargo run --release --example hitratio`.
//!
//! Each trace is a stream of look-ups; a miss stores the key. The simulators (LRU, and S3-FIFO key by key) hold as many keys as
//! the store does at the end, so the store pays for its headers, its index and its frames in nothing but what is compared: which keys it keeps.

#[path = "../tests/common/zipf.rs"]
mod zipf;

use std::collections::{HashMap, HashSet, VecDeque};
use thermae_core::{Location, Options, SetOptions, Store, destroy, env::SystemEnv};
use zipf::Zipf;

const OPERATIONS: usize = 4_000_000;
/// Operations after which hits are counted.
const WARM_UP: usize = OPERATIONS / 4;

/// Keys by a Zipf distribution; every so often a run of keys that come only once.
fn trace(keys: usize, exponent: f64, scan_every: usize, scan_len: usize) -> Vec<u64> {
    let mut zipf = Zipf::new(keys, exponent, 7);
    let mut once = 1_u64 << 40;
    let mut trace = Vec::with_capacity(OPERATIONS);
    while trace.len() < OPERATIONS {
        if scan_every > 0 && trace.len() % scan_every == 0 {
            trace.extend(once..once + scan_len as u64);
            once += scan_len as u64;
        }
        trace.push(zipf.next_key());
    }
    trace.truncate(OPERATIONS);
    trace
}

fn ratio(trace: &[u64], mut look_up: impl FnMut(u64) -> bool) -> f64 {
    let mut hits = 0;
    for (index, &key) in trace.iter().enumerate() {
        hits += usize::from(look_up(key) && index >= WARM_UP);
    }
    100.0 * hits as f64 / (trace.len() - WARM_UP) as f64
}

/// Exact LRU: a queue of (key, stamp) in which stale stamps are passed over.
fn lru(trace: &[u64], capacity: usize) -> f64 {
    let (mut stamps, mut queue, mut stamp) = (HashMap::new(), VecDeque::new(), 0_u64);
    ratio(trace, |key| {
        stamp += 1;
        let hit = stamps.insert(key, stamp).is_some();
        queue.push_back((key, stamp));
        while stamps.len() > capacity {
            let Some((oldest, at)) = queue.pop_front() else { break };
            if stamps.get(&oldest) == Some(&at) {
                stamps.remove(&oldest);
            }
        }
        hit
    })
}

/// S3-FIFO key by key: a tenth small queue, as many ghosts as the main queue has keys.
fn s3_fifo(trace: &[u64], capacity: usize) -> f64 {
    let small_max = capacity / 10;
    let mut reads: HashMap<u64, u8> = HashMap::new();
    let (mut small, mut main, mut ghosts, mut is_ghost) =
        (VecDeque::new(), VecDeque::new(), VecDeque::new(), HashSet::new());
    ratio(trace, |key| {
        if let Some(count) = reads.get_mut(&key) {
            *count = (*count + 1).min(3);
            return true;
        }
        while reads.len() >= capacity {
            if small.len() > small_max || main.is_empty() {
                let Some(oldest) = small.pop_front() else { break };
                if reads[&oldest] > 1 {
                    reads.insert(oldest, 0);
                    main.push_back(oldest);
                } else {
                    reads.remove(&oldest);
                    ghosts.push_back(oldest);
                    is_ghost.insert(oldest);
                    if ghosts.len() > capacity - small_max {
                        ghosts.pop_front().map(|ghost| is_ghost.remove(&ghost));
                    }
                }
            } else if let Some(oldest) = main.pop_front() {
                match reads[&oldest] {
                    0 => drop(reads.remove(&oldest)),
                    count => {
                        reads.insert(oldest, count - 1);
                        main.push_back(oldest);
                    }
                }
            }
        }
        if is_ghost.remove(&key) {
            main.push_back(key);
        } else {
            small.push_back(key);
        }
        reads.insert(key, 0);
        false
    })
}

fn thermae(trace: &[u64], hot_mib: u64) -> Result<(f64, usize), Box<dyn std::error::Error>> {
    let location = Location::parse(&format!("shm://hitratio-{}", std::process::id()))?;
    let store = Store::open(&location, &Options { hot_bytes: Some(hot_mib << 20), ..Options::default() })?;
    let value = [7_u8; 200];
    let mut buffer = [0_u8; 256];
    let mut failure = None;
    let hits = ratio(trace, |key| match store.get_into(&key.to_le_bytes(), |_| buffer.as_mut_ptr()) {
        Ok(Some(_)) => true,
        Ok(None) => {
            failure = store.set(&key.to_le_bytes(), &value, &SetOptions::default()).err().or(failure.take());
            false
        }
        Err(error) => {
            failure = Some(error);
            false
        }
    });
    let keys = usize::try_from(store.len()?)?;
    store.close()?;
    drop(store);
    destroy(&SystemEnv, &location)?;
    failure.map_or(Ok((hits, keys)), |error| Err(error.into()))
}

#[allow(clippy::print_stdout, reason = "a table is what this program is for")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("{:<28} {:>8} {:>8} {:>8} {:>8}", "trace", "keys", "thermae", "S3-FIFO", "LRU");
    for (name, keys, exponent, scan_every, scan_len) in [
        ("zipf 0.99, 10 x the cache", 1_000_000, 0.99, 0, 0),
        ("zipf 0.99, 3 x the cache", 300_000, 0.99, 0, 0),
        ("zipf 0.8, 10 x the cache", 1_000_000, 0.8, 0, 0),
        ("zipf 0.99 with scans", 500_000, 0.99, 20_000, 10_000),
    ] {
        let trace = trace(keys, exponent, scan_every, scan_len);
        let (hits, kept) = thermae(&trace, 32)?;
        println!(
            "{name:<28} {kept:>8} {hits:>8.2} {:>8.2} {:>8.2}",
            s3_fifo(&trace, kept),
            lru(&trace, kept)
        );
    }
    Ok(())
}
