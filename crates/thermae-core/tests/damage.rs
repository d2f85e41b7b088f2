//! Damage: whatever is done to a store's files while nobody uses it, opening and using it ends in an error, a quarantine or the right value.
//!
//! One store is made, with everything in it that a store can hold, and copied for each case; a case damages one file, then a child process opens
//! the copy, reads every key, scans, checks, repairs, reads again and writes. A crash or a hang of the child fails the test, and so does a
//! value that its key never had. A key that is absent, or has an older value than it should, must at least show: reading failed, or the
//! check found something.
//!
//! `THERMAE_CORRUPTIONS` says how many cases (5,000); `THERMAE_CORRUPTION_CASE` runs a single one, for debugging.

#![allow(clippy::print_stderr, reason = "a child process has no other way to say what it found")]

mod common;

use common::{MIB, Random, flagged, flags_of, setting, spawn};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use thermae_core::env::{Env, EnvFile, FileMetadata, OpenHow, SystemEnv};
use thermae_core::layout::{PAGE_BYTES, Segment};
use thermae_core::{BatchOp, Durability, Location, Options, SetOptions, ShmPlacement, Store, WhenFull};

const CASES: u64 = 5000;
const CASE_SECONDS_MAX: u32 = 10;
const WORKERS: u64 = 2;
const TAIL: &[u8] = b"tail";
const VOLATILE: [&str; 2] = ["control", "hot"];
const FILES: [&str; 7] = ["store", "cold", "checkpoint.0", "checkpoint.1", "warm", "control", "hot"];

/// Every value that a key had, oldest first; the last entry is what it has now (`None` = deleted).
type History = BTreeMap<Vec<u8>, Vec<Option<Vec<u8>>>>;

/// The system's files and clocks, and numbers that are the same every time: so that a case is, too.
#[derive(Debug, Default)]
struct SteadyEnv {
    system: SystemEnv,
    numbers: AtomicU64,
}

impl Env for SteadyEnv {
    fn open(&self, path: &Path, how: OpenHow) -> io::Result<Arc<dyn EnvFile>> {
        self.system.open(path, how)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.system.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.system.remove_file(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.system.create_dir(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.system.remove_dir_all(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.system.sync_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.system.list(path)
    }
    fn metadata(&self, path: &Path) -> io::Result<FileMetadata> {
        self.system.metadata(path)
    }
    fn available_bytes(&self, path: &Path) -> io::Result<u64> {
        self.system.available_bytes(path)
    }
    fn boot_time_ms(&self) -> u64 {
        self.system.boot_time_ms()
    }
    fn wall_time_ms(&self) -> u64 {
        self.system.wall_time_ms()
    }
    fn random_u64(&self) -> u64 {
        Random::new(self.numbers.fetch_add(1, Ordering::Relaxed) + 99).next()
    }
    fn boot_id(&self) -> io::Result<[u8; 16]> {
        self.system.boot_id()
    }
    fn user_id(&self) -> u32 {
        self.system.user_id()
    }
}

fn settings() -> Options {
    Options {
        env: Arc::new(SteadyEnv::default()),
        hot_bytes: Some(16 * MIB),
        warm_bytes: Some(16 * MIB),
        cold_bytes: Some(32 * MIB),
        durability: Some(Durability::EverySec),
        when_full: Some(WhenFull::Error),
        shm: ShmPlacement::Directory,
        participants_max: 4,
        background: false,
        ..Options::default()
    }
}

fn value(key: &[u8], version: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(version << 32 ^ u64::from(crc32c::crc32c(key)));
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| random.next() as u8).take(len).collect();
    let mark = version.to_le_bytes();
    let marked = len.min(8);
    bytes[..marked].copy_from_slice(&mark[..marked]);
    bytes
}

/// The history of the store, and the store itself if one is given.
fn make(store: Option<&Store>) -> History {
    let mut history = History::new();
    let mut version = 0;
    let mut write =
        |store: Option<&Store>, history: &mut History, key: String, len: Option<usize>, encoding: u8| {
            version += 1;
            let value = len.map(|len| value(key.as_bytes(), version, len));
            if let Some(store) = store {
                match &value {
                    Some(value) => {
                        let expires_at_ms = if key.ends_with('7') { store.now_ms() + 100_000_000 } else { 0 };
                        let options = SetOptions { encoding, expires_at_ms, ..flagged(value) };
                        store.set(key.as_bytes(), value, &options).unwrap();
                    }
                    None => drop(store.delete(key.as_bytes()).unwrap()),
                }
            }
            history.entry(key.into_bytes()).or_default().push(value);
        };
    // Old versions, which later ones replace.
    for number in 0..400 {
        write(store, &mut history, format!("key:{number}"), Some(100 + number % 700), 0);
    }
    for number in 0..3 {
        write(store, &mut history, format!("large:{number}"), Some(270_000 + number * 500_000), 7);
    }
    for number in 0..1200 {
        write(store, &mut history, format!("ballast:{number}"), Some(1800), (number % 9) as u8);
    }
    if let Some(store) = store {
        store.flush().unwrap();
        store.engine().write_checkpoint().unwrap();
        // The oldest has moved on to the cold tier; what follows is in the warm one.
        assert!(store.migrate(3).unwrap());
        // Some of it is demoted, so that records are found in either tier, and some read back.
        for _ in 0..3 {
            store.make_room().unwrap();
        }
        for _ in 0..3 {
            for number in 0..40 {
                drop(store.get(format!("key:{number}").as_bytes()).unwrap());
            }
        }
        store.engine().write_checkpoint().unwrap();
    }
    for number in (0..400).step_by(2) {
        write(store, &mut history, format!("key:{number}"), Some(50 + number), 1);
    }
    for number in (1..400).step_by(10) {
        write(store, &mut history, format!("key:{number}"), None, 0);
    }
    write(store, &mut history, "large:1".to_owned(), Some(400_000), 0);
    for number in 0..20_u64 {
        let keys: Vec<String> = (0..4).map(|member| format!("batch:{number}:{member}")).collect();
        let values: Vec<Vec<u8>> =
            keys.iter().map(|key| value(key.as_bytes(), 1000 + number, 60 + number as usize)).collect();
        let mut ops: Vec<BatchOp<'_>> = keys
            .iter()
            .zip(&values)
            .map(|(key, value)| BatchOp::Set {
                key: key.as_bytes(),
                value,
                encoding: 0,
                expires_at_ms: 0,
                flags: flags_of(value),
            })
            .collect();
        let gone = format!("key:{}", 3 + number * 10);
        ops.push(BatchOp::Delete { key: gone.as_bytes() });
        if let Some(store) = store {
            store.transaction(&ops, &[]).unwrap();
        }
        for (key, value) in keys.iter().zip(values) {
            history.entry(key.clone().into_bytes()).or_default().push(Some(value));
        }
        history.entry(gone.into_bytes()).or_default().push(None);
    }
    if let Some(store) = store {
        store.flush().unwrap();
        // What the very last flush wrote can't be told from what a power failure tore, so something must follow what is to be missed.
        store.set(TAIL, b"", &SetOptions::default()).unwrap();
        store.flush().unwrap();
    }
    history
}

/// A file of the prepared store: its length and the stretches of it that are not zero.
struct Template {
    name: &'static str,
    len: u64,
    stretches: Vec<(u64, Vec<u8>)>,
}

impl Template {
    fn read(directory: &Path, name: &'static str) -> Self {
        let bytes = std::fs::read(directory.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut stretches: Vec<(u64, Vec<u8>)> = Vec::new();
        for (number, block) in bytes.chunks(PAGE_BYTES).enumerate() {
            if block.iter().all(|&byte| byte == 0) {
                continue;
            }
            let offset = (number * PAGE_BYTES) as u64;
            match stretches.last_mut() {
                Some((start, stretch)) if *start + stretch.len() as u64 == offset => {
                    stretch.extend_from_slice(block);
                }
                _ => stretches.push((offset, block.to_vec())),
            }
        }
        Self { name, len: bytes.len() as u64, stretches }
    }

    fn write(&self, directory: &Path) {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(directory.join(self.name))
            .unwrap();
        file.set_len(self.len).unwrap();
        for (offset, bytes) in &self.stretches {
            file.write_all_at(bytes, *offset).unwrap();
        }
    }

    /// An offset at which something is stored.
    fn used_offset(&self, random: &mut Random) -> u64 {
        let (start, bytes) = &self.stretches[random.below(self.stretches.len() as u64) as usize];
        start + random.below(bytes.len() as u64)
    }
}

/// A prepared store, in memory.
struct Prepared {
    files: Vec<Template>,
    /// Offsets of words in a file that mean something: (file, offset).
    words: Vec<(usize, u64)>,
}

fn prepare(directory: &Path) -> Prepared {
    let store = Store::open(&Location::Directory(directory.to_path_buf()), &settings()).unwrap();
    make(Some(&store));
    let engine = store.engine();
    let geometry = engine.geometry;
    let mut words = Vec::new();
    let (cold, warm, control, hot) = (1, 4, 5, 6);
    // Everything in the control file that is not one of thousands alike.
    words.extend((0..PAGE_BYTES as u64 / 8).map(|word| (control, PAGE_BYTES as u64 + word * 8)));
    words.extend((0..12).map(|word| (control, word * 8)));
    for (slot, segment) in engine.segments().iter().enumerate() {
        if segment.state.load(Ordering::Relaxed) == 0 {
            continue;
        }
        let at = geometry.segments_offset() + slot * size_of::<Segment>();
        words.extend((0..16).map(|word| (control, (at + word * 8) as u64)));
        let place = thermae_core::layout::Place::unpack(segment.place.load(Ordering::Relaxed));
        let tail = u64::from(segment.tail.load(Ordering::Relaxed));
        let frame_bytes = u64::from(geometry.frame_bytes);
        for (file, start) in [
            (hot, place.hot.map(|frame| u64::from(frame) * frame_bytes)),
            (
                warm,
                place
                    .cold
                    .filter(|&frame| frame < geometry.warm_frames)
                    .map(|frame| (2 << 20) + u64::from(frame) * frame_bytes),
            ),
            (
                cold,
                place.cold.and_then(|frame| frame.checked_sub(geometry.warm_frames)).map(|frame| {
                    12288
                        + 4096 * u64::from(geometry.cold_frames).div_ceil(64)
                        + u64::from(frame) * frame_bytes
                }),
            ),
        ] {
            let Some(start) = start else { continue };
            words.extend((0..8).map(|word| (file, start + word * 8)));
            words.extend((0..60).map(|part| (file, start + tail * part / 60 / 8 * 8)));
        }
    }
    for partition in 0..geometry.partitions as usize {
        words.push((control, (geometry.directory_offset() + partition * 8) as u64));
        words.push((control, (geometry.partitions_offset() + partition * 32) as u64));
        let table = engine.table(partition as u32);
        words.extend(
            (0..u64::from(table.buckets) * 8).step_by(5).map(|word| (hot, table.line * 64 + word * 8)),
        );
    }
    for (file, frames) in [(cold, geometry.cold_frames), (warm, geometry.warm_frames)] {
        words.extend((0..3 * 512).step_by(3).map(|word| (file, word * 8)));
        words.extend((0..u64::from(frames) * 8).map(|word| (file, 12288 + word * 8)));
    }
    words.extend((0..1024).step_by(2).map(|word| (0, word * 8)));
    for checkpoint in [2, 3] {
        words.extend((0..700).map(|word| (checkpoint, word * 8)));
    }
    store.close().unwrap();
    drop(store);
    let files = FILES.iter().map(|name| Template::read(directory, name)).collect();
    Prepared { files, words }
}

impl Prepared {
    /// Lays a copy down, as it was when it was closed or, without `is_warm`, after a reboot.
    fn lay_down(&self, directory: &Path, is_warm: bool) {
        for file in &self.files {
            if VOLATILE.contains(&file.name) && !is_warm {
                let _ = std::fs::remove_file(directory.join(file.name));
            } else {
                file.write(directory);
            }
        }
        if is_warm {
            // The shared half belongs to the file `store` with this inode.
            let metadata = std::fs::metadata(directory.join("store")).unwrap();
            let control = OpenOptions::new().write(true).open(directory.join("control")).unwrap();
            control.write_all_at(&metadata.dev().to_le_bytes(), 48).unwrap();
            control.write_all_at(&metadata.ino().to_le_bytes(), 56).unwrap();
        }
    }

    /// Damages one file; says what was done.
    fn damage(&self, directory: &Path, random: &mut Random, is_warm: bool) -> String {
        if random.percent(45) {
            return self.damage_word(directory, random, is_warm);
        }
        let count = if is_warm { FILES.len() } else { FILES.len() - VOLATILE.len() };
        let template = &self.files[random.below(count as u64) as usize];
        let file = OpenOptions::new().read(true).write(true).open(directory.join(template.name)).unwrap();
        let at = template.used_offset(random);
        let what = match random.below(9) {
            0..3 => {
                let flips = 1 + random.below(8);
                for _ in 0..flips {
                    let at = template.used_offset(random);
                    let byte = read_byte(&file, at) ^ 1 << random.below(8);
                    file.write_all_at(&[byte], at).unwrap();
                }
                format!("{flips} bits flipped")
            }
            3 => overwrite(&file, template, at / 512 * 512, &[0; 512], "a sector zeroed"),
            4 => overwrite(&file, template, at / 4096 * 4096, &[0; 4096], "a page zeroed"),
            5 => {
                let garbage: Vec<u8> = std::iter::repeat_with(|| random.next() as u8).take(512).collect();
                overwrite(&file, template, at / 512 * 512, &garbage, "a sector of garbage")
            }
            6 => {
                let from = template.used_offset(random) / 512 * 512;
                let mut copied = vec![0; 512];
                let count = file.read_at(&mut copied, from).unwrap();
                overwrite(&file, template, at / 512 * 512, &copied[..count], "a sector over another")
            }
            7 => {
                let len = if random.percent(30) { random.below(4) * 4096 } else { at };
                file.set_len(len.min(template.len)).unwrap();
                format!("cut to {} bytes", len.min(template.len))
            }
            _ => {
                if random.percent(50) {
                    file.set_len(template.len + 1 + random.below(9000)).unwrap();
                    "made longer".to_owned()
                } else {
                    std::fs::remove_file(directory.join(template.name)).unwrap();
                    "removed".to_owned()
                }
            }
        };
        format!("{} near {at}: {what}", template.name)
    }

    fn damage_word(&self, directory: &Path, random: &mut Random, is_warm: bool) -> String {
        let (file, at) = loop {
            let (file, at) = self.words[random.below(self.words.len() as u64) as usize];
            if is_warm || !VOLATILE.contains(&FILES[file]) {
                break (file, at);
            }
        };
        let path = directory.join(FILES[file]);
        let file = OpenOptions::new().read(true).write(true).open(path.clone()).unwrap();
        let mut bytes = [0; 8];
        if file.read_exact_at(&mut bytes, at).is_err() {
            return "nothing".to_owned();
        }
        let old = u64::from_le_bytes(bytes);
        let new = match random.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => old.wrapping_add(1),
            3 => old.wrapping_sub(1),
            4 => old ^ 1 << random.below(64),
            5 => old & 0xffff_ffff,
            6 => old ^ random.next() << 32,
            _ => random.next(),
        };
        file.write_all_at(&new.to_le_bytes(), at).unwrap();
        format!("{} at {at}: {old:#x} became {new:#x}", path.file_name().unwrap().to_string_lossy())
    }
}

fn read_byte(file: &File, at: u64) -> u8 {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0]
}

fn overwrite(file: &File, template: &Template, at: u64, bytes: &[u8], what: &str) -> String {
    let len = bytes.len().min((template.len - at) as usize);
    file.write_all_at(&bytes[..len], at).unwrap();
    format!("{what} at {at}")
}

#[derive(Debug, Default)]
struct Reading {
    errors: u64,
    /// Absent, or as they were earlier.
    lost: Vec<String>,
}

/// Reads every key.
fn read_all(store: &Store, history: &History) -> Result<Reading, String> {
    let mut reading = Reading::default();
    for (key, versions) in history {
        let name = || String::from_utf8_lossy(key).into_owned();
        let found = match store.get(key) {
            Ok(Some((meta, value))) if meta.flags != flags_of(&value) => {
                return Err(format!("{} has flags that it never had", name()));
            }
            Ok(found) => found.map(|(_, value)| value),
            Err(_) => {
                reading.errors += 1;
                continue;
            }
        };
        let current = versions.last().unwrap();
        if found == *current {
            continue;
        }
        if found.is_some() && !versions.contains(&found) {
            return Err(format!("{} has a value that it never had", name()));
        }
        reading.lost.push(name());
    }
    let mut scan = store.scan(b"");
    loop {
        match scan.next_batch() {
            Ok(None) => return Ok(reading),
            Ok(Some(batch)) => {
                if let Some((key, _)) = batch
                    .iter()
                    .find(|(key, _)| !history.contains_key(key) && key != TAIL && !key.starts_with(b"after:"))
                {
                    return Err(format!(
                        "a scan gave {}, which was never stored",
                        String::from_utf8_lossy(key)
                    ));
                }
            }
            Err(_) => {
                reading.errors += 1;
                return Ok(reading);
            }
        }
    }
}

/// What a user does with a store; an error says what is not allowed to happen.
fn use_store(directory: &Path, history: &History, may_look_torn: bool) -> Result<(), String> {
    let Ok(store) = Store::open(&Location::Directory(directory.to_path_buf()), &settings()) else {
        return Ok(());
    };
    let reading = read_all(&store, history)?;
    let found = store.check(false);
    let shows = reading.errors > 0 || found.as_ref().map_or(true, |report| !report.ok);
    if !reading.lost.is_empty() && !shows && !may_look_torn {
        return Err(format!("nothing shows that these are lost: {:?}", reading.lost));
    }
    let Ok(repaired) = store.check(true) else { return Ok(()) };
    let again = read_all(&store, history)?;
    let all_repaired = repaired
        .problems
        .iter()
        .all(|problem| problem.repaired || problem.kind == "damaged" || problem.kind == "entry");
    if all_repaired && again.errors > 0 {
        return Err(format!(
            "after a repair that claims to be complete {} reads fail: {:?}",
            again.errors, repaired.problems
        ));
    }
    for number in 0..20 {
        let key = format!("after:{number}");
        let bytes = value(key.as_bytes(), number, 500);
        if store.set(key.as_bytes(), &bytes, &SetOptions::default()).is_ok() {
            match store.get(key.as_bytes()) {
                Ok(Some((_, found))) if found == bytes => {}
                Ok(_) => return Err(format!("{key} was stored and is not there")),
                Err(_) => {}
            }
        }
    }
    let _ = store.flush();
    let _ = store.close();
    Ok(())
}

extern "C" fn show_where_it_hangs(_signal: libc::c_int) {
    eprintln!("it hangs at:\n{}", std::backtrace::Backtrace::force_capture());
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(5) };
}

/// Runs one case in a child of its own; an error says what went wrong.
fn run_case(prepared: &Prepared, history: &History, directory: &Path, case: u64) -> Result<(), String> {
    let mut random = Random::new(case + 1);
    random.next();
    let is_warm = random.percent(60);
    prepared.lay_down(directory, is_warm);
    let mut done = prepared.damage(directory, &mut random, is_warm);
    if random.percent(15) {
        done = format!("{done}; {}", prepared.damage_if_there(directory, &mut random, is_warm));
    }
    // A durable tier that was hit twice, once in what says how much of it was durable, is as a power failure in the middle of a flush leaves it.
    let hits = done.matches("cold").count() + done.matches("warm").count();
    let has_many_flips = hits == 1 && done.contains("bits flipped") && !done.contains(": 1 bits flipped");
    let may_look_torn = !is_warm && (hits == 2 || has_many_flips);
    // SAFETY: this process has one thread that matters, and the child ends by _exit.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork failed");
    if child == 0 {
        if std::env::var_os("THERMAE_CORRUPTION_CASE").is_some() {
            // SAFETY: the handler prints where the case hangs, and ends the process.
            unsafe { libc::signal(libc::SIGALRM, show_where_it_hangs as *const () as libc::sighandler_t) };
        }
        // SAFETY: an alarm ends this process if the case hangs.
        unsafe { libc::alarm(CASE_SECONDS_MAX) };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            use_store(directory, history, may_look_torn)
        }));
        let code = match result {
            Ok(Ok(())) => 0,
            Ok(Err(problem)) => {
                eprintln!("case {case} ({done}, {}): {problem}", if is_warm { "warm" } else { "cold" });
                3
            }
            Err(_) => {
                eprintln!("case {case} ({done}, {}): a panic, above", if is_warm { "warm" } else { "cold" });
                4
            }
        };
        // SAFETY: nothing of the parent's may run here.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: waits for this process's own child.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 {
        return Ok(());
    }
    let how = if libc::WIFSIGNALED(status) {
        format!("signal {}", libc::WTERMSIG(status))
    } else {
        format!("code {}", libc::WEXITSTATUS(status))
    };
    Err(format!("case {case} ({}): {done}: ended with {how}", if is_warm { "warm" } else { "cold" }))
}

impl Prepared {
    fn damage_if_there(&self, directory: &Path, random: &mut Random, is_warm: bool) -> String {
        let all_there = self
            .files
            .iter()
            .all(|file| (!is_warm && VOLATILE.contains(&file.name)) || directory.join(file.name).exists());
        if all_there { self.damage_word(directory, random, is_warm) } else { "nothing more".to_owned() }
    }
}

fn case_numbers() -> Vec<u64> {
    match std::env::var("THERMAE_CORRUPTION_CASE") {
        Ok(case) => vec![case.parse().unwrap()],
        Err(_) => {
            (0..std::env::var("THERMAE_CORRUPTIONS").map_or(CASES, |count| count.parse().unwrap())).collect()
        }
    }
}

/// A directory in memory where there is one, for speed.
fn scratch() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { tempfile::tempdir_in(shared).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// The part of a worker. Run by the test below; does nothing by itself.
#[test]
fn role() {
    if common::role().as_deref() != Some("worker") {
        return;
    }
    let share: u64 = setting("SHARE").parse().unwrap();
    let directory = scratch();
    let original = directory.path().join("original");
    let prepared = prepare(&original);
    std::fs::remove_dir_all(&original).unwrap();
    let history = make(None);
    let copy = directory.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    prepared.lay_down(&copy, true);
    use_undamaged(&copy, &history);
    prepared.lay_down(&copy, false);
    use_undamaged(&copy, &history);
    let failures: Vec<String> = case_numbers()
        .into_iter()
        .filter(|case| case % WORKERS == share)
        .filter_map(|case| run_case(&prepared, &history, &copy, case).err())
        .collect();
    assert!(failures.is_empty(), "{} cases failed:\n{}", failures.len(), failures.join("\n"));
}

/// A copy that nothing was done to is in order, or the test tests nothing.
fn use_undamaged(directory: &Path, history: &History) {
    let store = Store::open(&Location::Directory(directory.to_path_buf()), &settings()).unwrap();
    let reading = read_all(&store, history).unwrap();
    assert!(reading.errors == 0 && reading.lost.is_empty(), "{reading:?}");
    let report = store.check(false).unwrap();
    assert!(report.ok && report.quarantined.is_empty() && report.missing_sequences.is_empty(), "{report:#?}");
    assert_eq!(report.live_bytes_drift, 0);
}

#[test]
fn damage_ends_in_an_error_a_quarantine_or_the_right_value() {
    let mut workers: Vec<_> =
        (0..WORKERS).map(|share| spawn("worker", &[("SHARE", share.to_string())])).collect();
    for worker in &mut workers {
        worker.wait(Duration::from_secs(1800));
    }
}
