//! Every I/O of every phase of a store's life made to fail in every way that applies to it, one at a time, and from some moment on.
//!
//! A phase is run once to note its operations. Then each distinct site (kind of operation, file) fails at its first and at its last operation, and
//! so do operations chosen at random up to a bound (`THERMAE_FAULTS`, runs of each phase beyond the distinct sites).
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a run that fails, or hangs, is named before the test program ends"
)]

use crate::common::{MIB, Random, flip};
use crate::trial::{Held, LARGE_BYTES, Trial, shuffle};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use thermae_core::env::SystemEnv;
use thermae_core::env_test::{Fault, FaultRule, Operation, Site};
use thermae_core::{Durability, Error, Location, SetOptions, Store, WhenFull, destroy, restore};

const RUNS_DEFAULT: usize = 16;
/// Longest that one run may take before it counts as hung.
const RUN_MAX: Duration = Duration::from_secs(60);

/// A phase of a store's life.
struct Phase {
    name: &'static str,
    begin: fn() -> Trial,
    run: fn(&mut Trial),
    /// What must hold at once, before anything is mended by later use.
    after: fn(&mut Trial),
}

#[derive(Debug, Clone)]
struct Injection {
    /// Number of the operation in the phase.
    number: usize,
    operation: Operation,
    fault: Fault,
    /// The same operation on the same file goes on failing.
    stays: bool,
}

/// What was being done, shown where it panics.
struct Doing(String);

impl Drop for Doing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("that was in: {}", self.0);
        }
    }
}

fn runs() -> usize {
    std::env::var("THERMAE_FAULTS").ok().and_then(|text| text.parse().ok()).unwrap_or(RUNS_DEFAULT)
}

/// The ways in which an operation can fail that must be seen, and those that must not be.
fn faults_of(site: Site) -> Vec<Fault> {
    const ENOSPC: i32 = libc::ENOSPC;
    match site {
        Site::Read => vec![Fault::EIO, Fault::Short, Fault::EINTR],
        Site::Write => vec![
            Fault::EIO,
            Fault::ENOSPC,
            Fault::HalfThenError(libc::EIO),
            Fault::HalfThenError(ENOSPC),
            Fault::Short,
            Fault::EINTR,
        ],
        Site::Open | Site::Allocate | Site::Sync | Site::CreateDir | Site::Rename => {
            vec![Fault::EIO, Fault::ENOSPC]
        }
        Site::SetLen | Site::Remove | Site::SyncDir | Site::Examine => vec![Fault::EIO],
    }
}

fn is_transparent(fault: Fault) -> bool {
    matches!(fault, Fault::Short | Fault::EINTR)
}

/// The last part of a path; of stores whose names differ from run to run, a name that does not.
fn stable_name(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if name.starts_with("thermae-") { "(volatile)".to_owned() } else { name }
}

fn injections(operations: &[Operation], seed: u64) -> Vec<Injection> {
    let at = |number: usize, fault, stays| {
        let operation = operations[number].clone();
        Injection { number, operation, fault, stays }
    };
    let key = |operation: &Operation| (format!("{:?}", operation.0), stable_name(&operation.1));
    let sites: BTreeSet<(String, String)> = operations.iter().map(key).collect();
    let mut chosen = Vec::new();
    for site in sites {
        let mut numbers = (0..operations.len()).filter(|&number| key(&operations[number]) == site);
        let first = numbers.next().unwrap();
        for fault in faults_of(operations[first].0) {
            chosen.push(at(first, fault, false));
            if !is_transparent(fault) {
                chosen.push(at(first, fault, true));
            }
        }
        if let Some(last) = numbers.next_back() {
            chosen.extend(
                faults_of(operations[last].0).into_iter().take(2).map(|fault| at(last, fault, false)),
            );
        }
    }
    let mut others: Vec<Injection> = (0..operations.len())
        .flat_map(|number| {
            let faults = faults_of(operations[number].0);
            faults.into_iter().map(move |fault| (number, fault)).collect::<Vec<_>>()
        })
        .map(|(number, fault)| at(number, fault, false))
        .collect();
    shuffle(&mut others, &mut Random::new(seed));
    chosen.extend(others.into_iter().take(runs()));
    chosen
}

fn rule(injection: &Injection, operations: &[Operation], trial: &Trial) -> FaultRule {
    let name = stable_name(&injection.operation.1);
    let is_same =
        |operation: &&Operation| operation.0 == injection.operation.0 && stable_name(&operation.1) == name;
    let skip = operations[..injection.number].iter().filter(is_same).count() as u64;
    let path_part = match name.as_str() {
        "(volatile)" => "/dev/shm/thermae-".to_owned(),
        // A file of the store itself, not of its snapshot beside it.
        name if injection.operation.1.parent().is_some_and(|parent| parent.ends_with("store")) => {
            trial.path(name).to_string_lossy().into_owned()
        }
        name => name.to_owned(),
    };
    // By kind and file, not by number alone: while a store is opened, the hot tier is allocated beside everything else.
    let times = if injection.stays { u64::MAX } else { 1 };
    FaultRule { skip, times, ..FaultRule::always(injection.operation.0, &path_part, injection.fault) }
}

/// A message must name what failed, and say what can be done.
fn check_error(error: &Error, injection: &Injection, hit: &[Operation]) {
    let text = error.to_string();
    let number = match injection.fault {
        Fault::Error(number) | Fault::HalfThenError(number) => number,
        Fault::Short => panic!("a short read or write was not gone on with: {text}"),
    };
    match error {
        Error::Io { path, source, .. } => {
            assert_eq!(source.raw_os_error(), Some(number), "{text}");
            // What is made under a temporary name has its own by the time that the failure is told.
            let is_named = |failed: &PathBuf| failed == path || failed.with_extension("") == *path;
            assert!(hit.iter().any(|(_, failed)| is_named(failed)), "{text} does not name one of {hit:?}");
            let remedy = if number == libc::EIO { "the device failed" } else { "free space" };
            assert!(text.contains(remedy), "{text} names no remedy");
        }
        Error::WritesStopped(_) => {
            let cause = std::io::Error::from_raw_os_error(number).to_string();
            assert!(text.contains(&cause) && text.contains("open it again"), "{text}");
        }
        // No room for the shared half: where, and four ways out.
        Error::Full(_) if injection.operation.0 == Site::Allocate => {
            assert!(number == libc::ENOSPC && text.contains("choose a smaller hot"), "{text}");
        }
        // A checkpoint that can never be read covers nothing, and only what is covered can be evicted from the cold tier.
        Error::Full(_)
            if injection.stays && stable_name(&injection.operation.1).starts_with("checkpoint") =>
        {
            assert!(text.contains("larger cold"), "{text}");
        }
        other => {
            panic!("{} is not what a failing {:?} should come to: {text}", other.name(), injection.operation)
        }
    }
}

/// Says where it is when it hangs, and ends the tests.
fn watch(doing: &'static Mutex<String>, count: &'static AtomicU64) {
    std::thread::spawn(move || {
        let mut before = u64::MAX;
        loop {
            std::thread::sleep(RUN_MAX);
            let now = count.load(Ordering::SeqCst);
            if now == before && now != 0 {
                eprintln!("hung in: {}", doing.lock().unwrap());
                std::process::abort();
            }
            before = if now == 0 { u64::MAX } else { now };
        }
    });
}

fn sweep(phase: &Phase, count: &'static AtomicU64, doing: &'static Mutex<String>) {
    watch(doing, count);
    let started = Instant::now();
    let mut trial = (phase.begin)();
    trial.env.trace();
    (phase.run)(&mut trial);
    assert!(trial.errors.is_empty(), "{} fails without faults: {}", phase.name, trial.errors[0]);
    let operations = trial.env.traced();
    (phase.after)(&mut trial);
    trial.conclude();
    let (mut seen, mut hidden) = (0, 0);
    let injections = injections(&operations, 1);
    for injection in &injections {
        let what = format!("{}: {injection:?}", phase.name);
        doing.lock().unwrap().clone_from(&what);
        count.fetch_add(1, Ordering::SeqCst);
        let _doing = Doing(what);
        let mut trial = (phase.begin)();
        trial.env.inject(rule(injection, &operations, &trial));
        (phase.run)(&mut trial);
        let hit = trial.env.injections();
        for error in std::mem::take(&mut trial.errors) {
            seen += 1;
            check_error(&error, injection, &hit);
        }
        hidden += usize::from(is_transparent(injection.fault) && !hit.is_empty());
        trial.env.heal();
        (phase.after)(&mut trial);
        trial.conclude();
    }
    count.store(0, Ordering::SeqCst);
    println!(
        "{}: {} operations, {} runs, {seen} errors seen, {hidden} faults to be gone on with, {:.1} s",
        phase.name,
        operations.len(),
        injections.len(),
        started.elapsed().as_secs_f32()
    );
    assert!(seen > injections.len() / 8, "hardly anything of {} was made to fail", phase.name);
}

macro_rules! phases {
    ($($name:ident: $begin:expr, $run:expr, $after:expr;)*) => {
        $(#[test]
        fn $name() {
            static COUNT: AtomicU64 = AtomicU64::new(0);
            static DOING: Mutex<String> = Mutex::new(String::new());
            sweep(&Phase { name: stringify!($name), begin: $begin, run: $run, after: $after }, &COUNT, &DOING);
        })*
    };
}

phases! {
    creation: || Trial::new(16, 16, Durability::EverySec, WhenFull::Error), create, leaves_no_hindrance;
    writing: || filled(Durability::EverySec), write, nothing_more;
    writing_through: || filled(Durability::Always), write, nothing_more;
    turning_durable: || filled(Durability::None), turn_durable, nothing_more;
    demoting: || Trial::opened(16, 32, Durability::EverySec, WhenFull::Error), outgrow, nothing_more;
    demoting_without_durability: || Trial::opened(16, 32, Durability::None, WhenFull::Error), outgrow, nothing_more;
    with_a_warm_tier: || warm(Durability::EverySec), migrate, nothing_more;
    with_a_warm_tier_written_through: || warm(Durability::Always), migrate, nothing_more;
    creation_with_a_warm_tier: unopened_warm, create, leaves_no_hindrance;
    recovering_with_a_warm_tier: dead_warm, attach, nothing_more;
    evicting: || Trial::opened(16, 16, Durability::EverySec, WhenFull::Evict), overflow, nothing_more;
    attaching: closed, attach, nothing_more;
    recovering: || dead(true), attach, nothing_more;
    recovering_from_the_log_alone: || dead(false), attach, nothing_more;
    snapshot: || filled(Durability::EverySec), take_snapshot, leaves_no_half_snapshot;
    restoring: snapshotted, restore_snapshot, leaves_no_half_restore;
    checking: damaged, check, nothing_more;
}

fn nothing_more(_: &mut Trial) {}

impl Trial {
    fn opened(hot_mib: u64, cold_mib: u64, durability: Durability, when_full: WhenFull) -> Self {
        let mut trial = Self::new(hot_mib, cold_mib, durability, when_full);
        assert!(trial.open(), "{}", trial.errors[0]);
        trial.may_evict = when_full == WhenFull::Evict;
        trial
    }
}

fn create(trial: &mut Trial) {
    if trial.open() {
        trial.set("w:1", 100);
        trial.flush();
        trial.close();
    }
}

/// A creation that failed once left its superblock behind, and whoever followed the advice to ask for a smaller tier was told that the store
/// had another size; it also left the memory of the shared half taken.
fn leaves_no_hindrance(trial: &mut Trial) {
    let volatile: BTreeSet<PathBuf> = trial
        .env
        .injections()
        .into_iter()
        .chain(trial.env.traced())
        .map(|(_, path)| path)
        .filter(|path| path.starts_with("/dev/shm/") && stable_name(path) == "(volatile)")
        .collect();
    let is_made = trial.path("store").exists();
    assert!(is_made || volatile.iter().all(|path| !path.exists()), "{volatile:?} was left behind");
    if !is_made {
        let names = std::fs::read_dir(trial.path("")).map_or(0, Iterator::count);
        assert!(names <= 1, "{:?}", std::fs::read_dir(trial.path("")).unwrap().collect::<Vec<_>>());
        trial.options.hot_bytes = Some(17 * MIB);
        trial.options.cold_bytes = Some(18 * MIB);
        trial.options.warm_bytes = trial.options.warm_bytes.map(|bytes| bytes + MIB);
    }
}

/// A store with something of everything, flushed and not.
fn filled(durability: Durability) -> Trial {
    let mut trial = Trial::opened(16, 16, durability, WhenFull::Error);
    for number in 0..12 {
        trial.set(&format!("w:{number}"), 100 + number * 400);
    }
    trial.set("large:0", LARGE_BYTES);
    trial.transact(&["t:0", "t:1", "t:2"], "w:11", 300);
    trial.flush();
    trial.set("w:3", 70_000);
    trial.delete("w:4");
    trial
}

fn write(trial: &mut Trial) {
    trial.set("w:1", 5000);
    trial.flush();
    trial.set("large:1", 2 * LARGE_BYTES);
    trial.set("large:0", 4 * LARGE_BYTES);
    trial.transact(&["t:0", "t:1"], "w:5", 2000);
    trial.flush();
    let soon = trial.store.as_ref().unwrap().now_ms() + 60_000;
    trial.set_expiring("e:0", 400, soon);
    trial.set_expiring("e:1", 400, soon + 3_600_000);
    trial.delete("large:1");
    trial.checkpoint();
    trial.env.jump_boot_clock_ms(120_000);
    trial.env.jump_wall_clock_ms(120_000);
    trial.ask(|store| store.len().map(drop));
    trial.read("e:0");
    trial.ask(|store| store.set_when_full(WhenFull::Error));
    trial.set("w:6", 60_000);
    trial.checkpoint();
    trial.set("w:7", 100);
    trial.flush();
    trial.flush();
    trial.delete("w:8");
}

fn turn_durable(trial: &mut Trial) {
    trial.set("w:1", 5000);
    trial.flush();
    trial.make_durable(|store| store.set_durability(Durability::Always));
    trial.set("w:2", 300);
    trial.set("large:1", LARGE_BYTES);
    trial.transact(&["t:0", "t:1"], "w:5", 2000);
    trial.ask(|store| store.set_durability(Durability::None));
    trial.set("w:6", 300);
    trial.make_durable(|store| store.set_durability(Durability::EverySec));
    trial.set("w:7", 300);
    trial.close();
}

/// More than the hot tier holds, then reads of what is cold, then overwrites until segments are compacted.
fn outgrow(trial: &mut Trial) {
    for number in 0..72 {
        trial.set(&format!("w:{number}"), 250_000);
    }
    for number in [0, 1, 2, 0, 1, 2] {
        trial.read(&format!("w:{number}"));
    }
    trial.set("large:0", 3 * LARGE_BYTES);
    for number in 0..100 {
        trial.set(&format!("w:{}", number * 7 % 72), 250_000);
    }
    for number in [50, 51, 50, 51] {
        trial.read(&format!("w:{number}"));
    }
    trial.delete("w:2");
    trial.flush();
}

fn unopened_warm() -> Trial {
    let mut trial = Trial::new(16, 32, Durability::EverySec, WhenFull::Error);
    trial.options.warm_bytes = Some(16 * MIB);
    trial
}

fn warm(durability: Durability) -> Trial {
    let mut trial = unopened_warm();
    trial.options.durability = Some(durability);
    assert!(trial.open(), "{}", trial.errors[0]);
    for number in 0..12 {
        trial.set(&format!("w:{number}"), 200_000);
    }
    trial.set("large:0", 3 * LARGE_BYTES);
    trial.flush();
    trial
}

/// What the warm tier holds moves on to the cold one, whole or what is alive of it, while it is read and written to.
fn migrate(trial: &mut Trial) {
    trial.transact(&["t:0", "t:1"], "w:5", 20_000);
    trial.flush();
    trial.ask(|store| store.migrate(2));
    for number in 0..12 {
        trial.read(&format!("w:{number}"));
    }
    for number in 0..30 {
        trial.set(&format!("w:{}", number % 8), 250_000);
    }
    trial.flush();
    trial.checkpoint();
    trial.ask(|store| store.migrate(8));
    trial.read("large:0");
    trial.set("large:0", 2 * LARGE_BYTES);
    trial.delete("w:3");
    trial.flush();
    trial.ask(|store| store.migrate(8));
    trial.ask(Store::keep_house);
    trial.read("w:11");
    trial.flush();
}

fn dead_warm() -> Trial {
    let mut trial = warm(Durability::EverySec);
    migrate(&mut trial);
    trial.set("w:1", 100);
    trial.flush();
    trial.set("w:2", 100);
    assert!(trial.errors.is_empty(), "{}", trial.errors[0]);
    trial.lose_memory();
    trial
}

/// More than both tiers hold.
fn overflow(trial: &mut Trial) {
    for number in 0..140 {
        trial.set(&format!("w:{number}"), 250_000);
        if number % 5 == 0 {
            trial.read(&format!("w:{}", number / 2));
        }
    }
    trial.flush();
}

fn closed() -> Trial {
    let mut trial = filled(Durability::None);
    trial.checkpoint();
    trial.set("w:9", 100);
    trial.close();
    trial
}

fn dead(has_checkpoint: bool) -> Trial {
    let mut trial = filled(Durability::EverySec);
    if has_checkpoint {
        trial.checkpoint();
        trial.set("w:0", 50);
        trial.checkpoint();
    }
    trial.set("large:2", 3 * LARGE_BYTES);
    trial.transact(&["t:1", "t:2"], "w:0", 300);
    trial.delete("large:0");
    trial.set("w:5", 100);
    trial.flush();
    trial.set("w:5", 200);
    trial.lose_memory();
    trial
}

/// An opening that could not find out whether the shared half was there took it for absent, made another, and lost what only that held.
fn attach(trial: &mut Trial) {
    if trial.open() {
        let held = std::mem::replace(&mut trial.next, Held::Whole);
        let store = trial.store.take().unwrap();
        // The fault was for the opening; where it was not met there it must not be met here.
        trial.env.heal();
        trial.check_contents(&store, held);
        trial.store = Some(store);
    }
}

fn take_snapshot(trial: &mut Trial) {
    let target = trial.directory.path().join("above").join("snapshot");
    trial.ask(|store| store.snapshot(&target).map(drop));
    trial.set("w:1", 40);
}

/// What a snapshot that failed leaves is nothing, or what the next attempt replaces; never anything that passes for a snapshot.
fn leaves_no_half_snapshot(trial: &mut Trial) {
    let target = trial.directory.path().join("above").join("snapshot");
    let is_whole = target.exists();
    if !is_whole {
        let half = trial.directory.path().join("above").join("snapshot.new");
        if half.exists() {
            let restored = Location::Directory(trial.directory.path().join("restored"));
            assert!(restore(&half, &restored, &trial.options).is_err(), "half a snapshot was restored");
        }
        trial.store.as_ref().unwrap().snapshot(&target).unwrap();
    }
    let restored = Location::Directory(trial.directory.path().join("restored"));
    let report = restore(&target, &restored, &trial.options).unwrap();
    assert!(report.damaged.is_empty(), "{report:?}");
    assert!(report.keys > 10);
    destroy(&SystemEnv, &restored).unwrap();
    std::fs::remove_dir_all(target).unwrap();
}

fn snapshotted() -> Trial {
    let trial = filled(Durability::EverySec);
    let target = trial.directory.path().join("snapshot");
    trial.store.as_ref().unwrap().snapshot(&target).unwrap();
    trial
}

fn restored_location(trial: &Trial) -> Location {
    Location::Directory(trial.directory.path().join("restored"))
}

fn restore_snapshot(trial: &mut Trial) {
    let source = trial.directory.path().join("snapshot");
    let result = restore(&source, &restored_location(trial), &trial.options);
    if let Some(report) = trial.note(result) {
        assert!(report.damaged.is_empty(), "{report:?}");
    }
}

/// A restoration that failed when its store was opened for the first time left that store, and its memory, behind.
fn leaves_no_half_restore(trial: &mut Trial) {
    let (source, target) = (trial.directory.path().join("snapshot"), restored_location(trial));
    let Location::Directory(directory) = &target else { unreachable!() };
    if !directory.exists() {
        restore(&source, &target, &trial.options).unwrap();
    }
    let store = Store::open(&target, &trial.options).unwrap();
    trial.check_contents(&store, Held::Whole);
    store.close().unwrap();
    drop(store);
    destroy(&SystemEnv, &target).unwrap();
}

/// A store of which one record and one block are damaged.
fn damaged() -> Trial {
    let mut trial = filled(Durability::EverySec);
    let text = "a value that is easily found";
    trial.store.as_ref().unwrap().set(b"hurt", text.as_bytes(), &SetOptions::default()).unwrap();
    trial.damaged.insert(b"hurt".to_vec());
    trial.flush();
    trial.checkpoint();
    trial.checkpoint();
    trial.lose_memory();
    assert_eq!(flip(&trial.path("cold"), text.as_bytes()), 1);
    assert!(trial.open(), "{}", trial.errors[0]);
    trial.next = Held::Whole;
    trial
}

fn check(trial: &mut Trial) {
    if let Some(report) = trial.ask(|store| store.check(false)) {
        assert!(!report.ok && report.quarantined.len() == 1, "{report:?}");
    }
    trial.ask(|store| store.check(true));
    trial.set("w:1", 40);
}

#[test]
fn the_choice_of_faults_covers_every_site() {
    let path = |name: &str| PathBuf::from("/store").join(name);
    let operations = vec![
        (Site::Open, path("cold")),
        (Site::Write, path("cold")),
        (Site::Write, path("cold")),
        (Site::Sync, path("cold")),
        (Site::Read, path("store")),
    ];
    let chosen = injections(&operations, 1);
    for (number, operation) in operations.iter().enumerate() {
        assert!(
            chosen.iter().any(|injection| injection.number == number && injection.operation == *operation)
        );
    }
    assert!(chosen.iter().any(|injection| injection.stays && injection.fault == Fault::EIO));
}
