//! The hot path alone, for profilers: `cargo run --release --example hot_path -- get 1000000`.
//! `observe` in place of `get` repeats the sets while another thread is told of each.
//! Prints nanoseconds per operation; use it under `perf record` or callgrind to see the instructions of a get or of a set.

#![allow(clippy::print_stdout, reason = "a command-line tool prints")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use thermae_core::{Change, Location, Options, SetOptions, Store};

/// Keys set between two looks at the clock.
const STRETCH_KEYS: usize = 200;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_else(|| "get".to_owned());
    let keys: u64 = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let location = Location::parse(&format!("shm://hot-path-{}", std::process::id()))?;
    let options = Options { hot_bytes: Some(1 << 30), background: false, ..Options::default() };
    let store = Store::open(&location, &options)?;
    let name = |number: u64| format!("key:{:010}", number.wrapping_mul(2_654_435_761) % 10_000_000_000);
    let names: Vec<String> = (0..keys).map(name).collect();
    let value = [b'v'; 100];
    for round in 0..3 {
        let start = Instant::now();
        for key in &names {
            store.set(key.as_bytes(), &value, &SetOptions::default())?;
        }
        report(&format!("set {round}"), start, keys);
    }
    let order: Vec<usize> = (0..names.len()).map(|index| (index * 7_368_787) % names.len()).collect();
    if what == "get" {
        let mut buffer = vec![0_u8; 4096];
        for round in 0..5 {
            let start = Instant::now();
            let mut found = 0_u64;
            for &index in &order {
                found +=
                    u64::from(store.get_into(names[index].as_bytes(), |_| buffer.as_mut_ptr())?.is_some());
            }
            assert_eq!(found, keys);
            report(&format!("get {round}"), start, keys);
        }
        let mut many = vec![0_u8; 1000 * 128];
        let mut out = vec![None; 1000];
        let start = Instant::now();
        for chunk in order.chunks(1000) {
            let wanted: Vec<&[u8]> = chunk.iter().map(|&index| names[index].as_bytes()).collect();
            store.get_many_into(
                &wanted,
                &mut |index, _| many[index * 128..].as_mut_ptr(),
                &mut out[..wanted.len()],
            )?;
        }
        report("get_many", start, keys);
    }
    if what == "observe" {
        observe(&store, &names, &value)?;
    }
    println!("{}", serde_json::to_string(&store.stats()?)?);
    store.close()?;
    drop(store);
    thermae_core::destroy(&thermae_core::env::SystemEnv, &location)?;
    Ok(())
}

/// Sets while somebody observes, and while nobody does any more.
fn observe(store: &Store, names: &[String], value: &[u8]) -> thermae_core::Result<()> {
    let is_over = AtomicBool::new(false);
    for round in 0..6 {
        let mut observer = if round % 2 == 0 { Some(store.observe()?) } else { None };
        let what = format!("set {round}, {} observer", i32::from(observer.is_some()));
        is_over.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let (mut told, mut overruns) = (0_u64, 0_u64);
                let Some(observer) = &mut observer else { return Ok((0, 0)) };
                while !is_over.load(Ordering::Relaxed) || observer.has_more() {
                    observer.wait(Duration::from_millis(10))?;
                    observer.drain(&mut |change| match change {
                        Change::Key { .. } => told += 1,
                        Change::Overrun => overruns += 1,
                    })?;
                }
                thermae_core::Result::Ok((told, overruns))
            });
            // Of many short stretches those count in which nothing else had the processor.
            let mut stretches = Vec::new();
            for keys in names.chunks(STRETCH_KEYS) {
                let start = Instant::now();
                for key in keys {
                    store.set(key.as_bytes(), value, &SetOptions::default())?;
                }
                stretches.push(start.elapsed().as_nanos() as f64 / keys.len() as f64);
            }
            stretches.sort_by(f64::total_cmp);
            let [fastest, median] = [stretches[stretches.len() / 100], stretches[stretches.len() / 2]];
            println!("{what}: {fastest:.0} ns/op in the fastest hundredth, {median:.0} at the median");
            is_over.store(true, Ordering::Relaxed);
            let (told, overruns) = reader.join().unwrap_or(Ok((0, 0)))?;
            println!("  told of {told} changes, overrun {overruns} times");
            thermae_core::Result::Ok(())
        })?;
    }
    Ok(())
}

fn report(what: &str, start: Instant, count: u64) {
    let nanoseconds = start.elapsed().as_nanos() as f64 / count as f64;
    println!("{what}: {nanoseconds:.0} ns/op");
}
