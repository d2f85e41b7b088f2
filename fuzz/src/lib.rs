//! What drives the fuzz targets on stable Rust: the corpus first, then its mutations, for as long as asked.
//!
//! An input that makes a target panic, hang or crash is kept under `artifacts/TARGET/`; `TARGET FILE...` runs it again. Without coverage
//! feedback this finds less than libFuzzer does in the same time, but it runs wherever the tests run. The seed of the mutations is printed, and
//! `--seed` repeats a run.

#![allow(clippy::disallowed_methods, reason = "the driver's own files are not a store's")]

use std::fs;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// How long one input may take.
const INPUT_SECONDS_MAX: u64 = 20;
/// Longest input that mutation makes.
const INPUT_BYTES_MAX: usize = 1 << 16;

/// Declares a target: a function from bytes, as `libFuzzer` calls it or as a program.
#[macro_export]
macro_rules! fuzz_target {
    ($run:path) => {
        #[cfg(feature = "libfuzzer")]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| $run(data));

        #[cfg(not(feature = "libfuzzer"))]
        fn main() -> std::process::ExitCode {
            $crate::drive(env!("CARGO_BIN_NAME"), &mut $run)
        }
    };
}

/// A small generator of numbers that are random enough.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next one.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    /// The next one, below a bound.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound.max(1) as u64) as usize
    }
}

/// Takes an input apart.
#[derive(Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    /// The next byte, 0 at the end.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// The next four bytes as a number; what is missing counts as zeros.
    pub fn word(&mut self) -> u32 {
        let mut word = [0; 4];
        let bytes = self.take(4);
        word[..bytes.len()].copy_from_slice(bytes);
        u32::from_le_bytes(word)
    }

    /// The next bytes, as many as there are.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

struct Arguments {
    seconds: u64,
    seed: u64,
    files: Vec<PathBuf>,
}

fn arguments() -> Result<Arguments, String> {
    let clock =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
    let mut parsed = Arguments { seconds: 10, seed: clock % 1_000_000_007, files: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = |name: &str| {
            let text = words.next().ok_or(format!("{name} needs a number"))?;
            text.parse().map_err(|_| format!("{name} needs a number, not {text:?}"))
        };
        match word.as_str() {
            "--seconds" => parsed.seconds = number("--seconds")?,
            "--seed" => parsed.seed = number("--seed")?,
            _ if word.starts_with('-') => {
                return Err(format!("{word} is unknown: use --seconds N, --seed N, or name files to run"));
            }
            _ => parsed.files.push(word.into()),
        }
    }
    Ok(parsed)
}

/// Runs a target as a program.
pub fn drive(name: &str, run: &mut dyn FnMut(&[u8])) -> std::process::ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("{problem}");
            return 2.into();
        }
    };
    match Driver::new(name).and_then(|mut driver| driver.drive(&arguments, run)) {
        Ok(true) => 0.into(),
        Ok(false) => 1.into(),
        Err(error) => {
            eprintln!("{name}: {error}");
            2.into()
        }
    }
}

struct Driver {
    corpus: PathBuf,
    artifacts: PathBuf,
    /// The input at hand: its length, then its bytes. Still there when the process is not.
    current: fs::File,
}

/// When the input at hand began, in milliseconds since the first; 0 = none is at hand.
static BEGAN_MS: AtomicU64 = AtomicU64::new(0);

impl Driver {
    fn new(name: &str) -> std::io::Result<Self> {
        let home = Path::new(env!("CARGO_MANIFEST_DIR"));
        let artifacts = home.join("artifacts").join(name);
        fs::create_dir_all(&artifacts)?;
        let last = artifacts.join("last-input");
        let current =
            fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&last)?;
        let mut len = [0; 8];
        if current.read_exact_at(&mut len, 0).is_ok() && u64::from_le_bytes(len) > 0 {
            let mut input = vec![0; (u64::from_le_bytes(len) as usize).min(INPUT_BYTES_MAX * 2)];
            let count = current.read_at(&mut input, 8)?;
            let kept = artifacts.join(format!("crash-{:08x}", crc32c::crc32c(&input[..count])));
            fs::write(&kept, &input[..count])?;
            eprintln!(
                "{name}: an earlier run ended in the middle of an input, now kept as {}",
                kept.display()
            );
        }
        current.set_len(0)?;
        Ok(Self { corpus: home.join("corpus").join(name), artifacts, current })
    }

    fn drive(&mut self, arguments: &Arguments, run: &mut dyn FnMut(&[u8])) -> std::io::Result<bool> {
        let started = Instant::now();
        std::thread::spawn(move || watch(started));
        if !arguments.files.is_empty() {
            for file in &arguments.files {
                let input = fs::read(file)?;
                if !self.run_one(&input, run, started)? {
                    return Ok(false);
                }
                println!("{} passes", file.display());
            }
            return Ok(true);
        }
        let mut files: Vec<PathBuf> = fs::read_dir(&self.corpus)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        files.sort();
        let corpus: Vec<Vec<u8>> = files.iter().map(fs::read).collect::<Result<_, _>>()?;
        for input in &corpus {
            if !self.run_one(input, run, started)? {
                return Ok(false);
            }
        }
        let mut random = Random::new(arguments.seed);
        let mut count = 0_u64;
        while started.elapsed() < Duration::from_secs(arguments.seconds) {
            let input = mutate(&corpus, &mut random);
            if !self.run_one(&input, run, started)? {
                return Ok(false);
            }
            count += 1;
        }
        println!("{} corpus files and {count} mutations (seed {}), all well", corpus.len(), arguments.seed);
        Ok(true)
    }

    fn run_one(
        &mut self,
        input: &[u8],
        run: &mut dyn FnMut(&[u8]),
        started: Instant,
    ) -> std::io::Result<bool> {
        let mut noted = (input.len() as u64).to_le_bytes().to_vec();
        noted.extend_from_slice(input);
        self.current.write_all_at(&noted, 0)?;
        BEGAN_MS.store(started.elapsed().as_millis() as u64 + 1, Ordering::SeqCst);
        let passed = catch_unwind(AssertUnwindSafe(|| run(input))).is_ok();
        BEGAN_MS.store(0, Ordering::SeqCst);
        self.current.write_all_at(&0_u64.to_le_bytes(), 0)?;
        if !passed {
            let kept = self.artifacts.join(format!("panic-{:08x}", crc32c::crc32c(input)));
            fs::write(&kept, input)?;
            eprintln!("the input is kept as {}", kept.display());
        }
        Ok(passed)
    }
}

/// Ends the process when an input takes too long; what was noted of it shows which.
fn watch(started: Instant) {
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let began = BEGAN_MS.load(Ordering::SeqCst);
        if began != 0 && started.elapsed().as_millis() as u64 > began + INPUT_SECONDS_MAX * 1000 {
            eprintln!(
                "an input takes longer than {INPUT_SECONDS_MAX} s; the next run keeps it as an artifact"
            );
            std::process::abort();
        }
    }
}

const TELLING: [u64; 12] =
    [0, 1, 7, 8, 0x7f, 0xff, 0xffff, 1 << 20, (1 << 20) - 1, 0x7fff_ffff, 0xffff_ffff, u64::MAX];

/// An input made from the corpus.
fn mutate(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = if corpus.is_empty() { Vec::new() } else { corpus[random.below(corpus.len())].clone() };
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() + 1);
        match random.below(8) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.number() as u8,
            2 => input.insert(at, random.number() as u8),
            3 if at < input.len() => drop(input.remove(at)),
            4 => {
                let bytes = TELLING[random.below(TELLING.len())].to_le_bytes();
                let len = [1, 2, 4, 8][random.below(4)].min(input.len() - at);
                input[at..at + len].copy_from_slice(&bytes[..len]);
            }
            5 => {
                let len = random.below(64);
                let more: Vec<u8> = std::iter::repeat_with(|| random.number() as u8).take(len).collect();
                input.splice(at..at, more);
            }
            6 => {
                let end = (at + random.below(64)).min(input.len());
                input.drain(at..end);
            }
            7 if !corpus.is_empty() => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() + 1);
                let end = (from + random.below(128)).min(other.len());
                input.splice(at..at, other[from..end].iter().copied());
            }
            _ => {}
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

/// A directory in memory where there is one: targets that open stores are bound by the file system.
pub fn scratch_directory() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    let made = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() };
    made.unwrap_or_else(|error| panic!("no directory for a store: {error}"))
}
