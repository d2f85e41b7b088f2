//! Durable sets by many threads, without an interpreter's lock: `cargo run --release --example group_commit -- DIRECTORY 64`.
//! Prints operations and flushes a second, for one thread and for so many, so that what the engine does is told from what Python adds.

#![allow(clippy::print_stdout, reason = "a command-line tool prints")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use thermae_core::{Durability, Location, Options, Result, SetOptions, Store};

const SECONDS: u64 = 3;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().unwrap_or_else(|| ".".to_owned()))
        .join(format!("group-commit-{}", std::process::id()));
    let threads: u64 = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let location = Location::Directory(directory);
    let options = Options { durability: Some(Durability::Always), ..Options::default() };
    let store = Store::open(&location, &options)?;
    for count in [1, threads] {
        measure(&store, count)?;
    }
    store.close()?;
    drop(store);
    thermae_core::destroy(&thermae_core::env::SystemEnv, &location)?;
    Ok(())
}

fn measure(store: &Store, threads: u64) -> Result<()> {
    let (done, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let (began, flushes) = (Instant::now(), store.stats()?.flushes);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..threads)
            .map(|writer| {
                let (done, is_over) = (&done, &is_over);
                scope.spawn(move || -> Result<()> {
                    for number in 0_u64.. {
                        if is_over.load(Ordering::Relaxed) {
                            break;
                        }
                        let key = format!("{writer}:{}", number % 1000);
                        store.set(key.as_bytes(), &[b'v'; 100], &SetOptions::default())?;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        std::thread::sleep(Duration::from_secs(SECONDS));
        is_over.store(true, Ordering::Relaxed);
        writers
            .into_iter()
            .try_for_each(|writer| writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{threads} threads: {:.0} sets a second, {:.0} flushes a second",
        done.load(Ordering::Relaxed) as f64 / seconds,
        (store.stats()?.flushes - flushes) as f64 / seconds
    );
    Ok(())
}
