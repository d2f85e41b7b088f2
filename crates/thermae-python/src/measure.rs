//! The engine's own speed, for `thermae bench`: what it does without an interpreter's lock between its threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use thermae_core::{Location, Options, SetOptions, Store};

use crate::errors::{IntoPython, invalid_option};
use crate::gil;

/// Sets a second of so many threads of the engine, each of them storing `value` at keys of its own in turn.
#[pyfunction]
pub(crate) fn sets_per_second(
    py: Python<'_>,
    location: &str,
    keys: Vec<Vec<u8>>,
    value: Vec<u8>,
    threads: usize,
    seconds: f64,
) -> PyResult<f64> {
    let duration = Duration::try_from_secs_f64(seconds)
        .map_err(|error| invalid_option(py, format!("seconds makes no sense: {error}")))?;
    if threads == 0 || keys.len() < threads {
        return Err(invalid_option(py, "each thread needs a key of its own".to_owned()));
    }
    let location = Location::parse(location).into_python(py)?;
    gil::detached(py, || {
        let store = Store::open(&location, &Options { create: false, ..Options::default() })?;
        let rate = measure(&store, &keys, &value, threads, duration)?;
        store.close()?;
        Ok(rate)
    })
    .into_python(py)
}

fn measure(
    store: &Store,
    keys: &[Vec<u8>],
    value: &[u8],
    threads: usize,
    duration: Duration,
) -> thermae_core::Result<f64> {
    let (done, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let began = Instant::now();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..threads)
            .map(|first| {
                let (done, is_over) = (&done, &is_over);
                scope.spawn(move || -> thermae_core::Result<()> {
                    for key in keys.iter().skip(first).step_by(threads).cycle() {
                        if is_over.load(Ordering::Relaxed) {
                            break;
                        }
                        store.set(key, value, &SetOptions::default())?;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        std::thread::sleep(duration);
        is_over.store(true, Ordering::Relaxed);
        writers
            .into_iter()
            .try_for_each(|writer| writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    Ok(done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64())
}
