//! How much is written to flash for each byte of key and value: Zipf 0.99 overwrites with 85 % of the cold tier alive, durability `everysec`.
//!
//! `cargo run --release --example write_amplification -- 128 40000` takes a hot tier of 128 MiB, a cold one four times as large, and makes
//! 40,000 sets a second; without the last argument, as many as it can. As in `thermae bench tiers`, it measures twice as many overwrites as there are
//! keys, after as many that bring compaction into its steady state.

#![allow(clippy::print_stdout, reason = "a command-line tool prints")]

#[path = "../tests/common/zipf.rs"]
mod zipf;

use std::time::{Duration, Instant};
use thermae_core::{Durability, Location, Options, SetOptions, Store, WhenFull, destroy, env::SystemEnv};
use zipf::Zipf;

const VALUE_BYTES: usize = 1000;
const KEY_BYTES: usize = 14;
const RECORD_BYTES: usize = KEY_BYTES + VALUE_BYTES + 40;
/// Sets between two looks at the clock, where there is a pace to keep.
const PACED_TOGETHER: usize = 256;

fn set(store: &Store, key: usize) {
    let name = format!("{key:0KEY_BYTES$}");
    store.set(name.as_bytes(), &[7; VALUE_BYTES], &SetOptions::default()).unwrap();
}

/// Overwrites `count` keys, at most `pace` a second; returns how long each set took, in order of length.
fn overwrite(store: &Store, zipf: &mut Zipf, count: usize, pace: Option<f64>) -> Vec<Duration> {
    let mut took = Vec::with_capacity(count);
    let began = Instant::now();
    for number in 0..count {
        let key = zipf.next_key() as usize;
        let started = Instant::now();
        set(store, key);
        took.push(started.elapsed());
        if let Some(pace) = pace.filter(|_| number % PACED_TOGETHER == 0) {
            let due = Duration::from_secs_f64(number as f64 / pace);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
    }
    store.flush().unwrap();
    took.sort_unstable();
    took
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let hot_bytes = arguments.next().map_or(128, |text| text.parse::<u64>().expect("MiB of hot tier")) << 20;
    let pace = arguments.next().map(|text| text.parse::<f64>().expect("sets a second"));
    let directory = tempfile::tempdir().unwrap();
    let location = Location::Directory(directory.path().join("store"));
    let options = Options {
        hot_bytes: Some(hot_bytes),
        cold_bytes: Some(4 * hot_bytes),
        durability: Some(Durability::EverySec),
        when_full: Some(WhenFull::Error),
        ..Options::default()
    };
    let store = Store::open(&location, &options).unwrap();
    let keys = 4 * hot_bytes as usize / 100 * 85 / RECORD_BYTES;
    (0..keys).for_each(|key| set(&store, key));
    let mut zipf = Zipf::new(keys, 0.99, 1);
    overwrite(&store, &mut zipf, 2 * keys, pace);
    let before = store.stats().unwrap();
    let began = Instant::now();
    let took = overwrite(&store, &mut zipf, 2 * keys, pace);
    let (after, elapsed) = (store.stats().unwrap(), began.elapsed());
    let written = (after.cold_written_bytes - before.cold_written_bytes) as f64;
    println!(
        "write amplification {:.3}, {:.0} sets a second, p99.9 {:?}, longest {:?}, {} flushes",
        written / (2 * keys * (KEY_BYTES + VALUE_BYTES)) as f64,
        2.0 * keys as f64 / elapsed.as_secs_f64(),
        took[took.len() / 1000 * 999],
        took[took.len() - 1],
        after.flushes - before.flushes,
    );
    store.close().unwrap();
    drop(store);
    destroy(&SystemEnv, &location).unwrap();
}
