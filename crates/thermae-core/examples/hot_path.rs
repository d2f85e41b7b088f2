//! The hot path alone, for profilers: `cargo run --release --example hot_path -- get 1000000`.
//! Prints nanoseconds per operation; use it under `perf record` or callgrind to see the instructions of a get or of a set.

#![allow(clippy::print_stdout, reason = "a command-line tool prints")]

use std::time::Instant;
use thermae_core::{Location, Options, SetOptions, Store};

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
    println!("{}", serde_json::to_string(&store.stats()?)?);
    store.close()?;
    drop(store);
    thermae_core::destroy(&thermae_core::env::SystemEnv, &location)?;
    Ok(())
}

fn report(what: &str, start: Instant, count: u64) {
    let nanoseconds = start.elapsed().as_nanos() as f64 / count as f64;
    println!("{what}: {nanoseconds:.0} ns/op");
}
