//! Processes killed in the middle of their work: at every named crash point of the engine, and at random moments.
//!
//! Whatever a process was doing: the others go on within a second, a new one attaches, every value is one that somebody wrote in full, versions
//! do not go back, transactions happened or did not, what was acknowledged holds, and the count of keys is the number of keys.
//! The stores are used on and on, so that a little damage of each death would add up.
#![cfg(feature = "crash-points")]

mod common;

#[path = "common/workload.rs"]
mod workload;

use common::{
    End, Notes, Place, Stamp, TAKEOVER_MAX, check_flags, flagged, flags_of, keys, options, setting,
    spawn_with, wait_until,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thermae_core::env::SystemEnv;
use thermae_core::{
    Durability, Error, IndexPlacement, Observer, Options, SetOptions, Store, WhenFull, forget_shared_memory,
};
use workload::{COUNTERS, EXPIRY_MS_MAX, GROUPS, MEMBERS, SHARED_KEYS, Writer};

/// How long a victim works before it gives up on reaching its crash point.
const VICTIM_TIME: Duration = Duration::from_millis(2500);
/// Writers of the parent have these numbers; victims count up from zero.
const SURVIVOR: u32 = 1_000_000;
const OBSERVER: u32 = 1_000_001;
/// Segments that a writer's views pin at most: six views, each of a record and two extents.
const SURVIVOR_PINS_MAX: u32 = 18;

/// What kind of store it is: each reaches other parts of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// With a cold tier that holds everything, flushed every second.
    Durable,
    /// The same, every write waited for.
    Always,
    /// With a cold tier that is written to only when the hot one is full.
    Lazy,
    /// With a cold tier too small for what is written, which is evicted.
    Evicting,
    /// With a warm tier that everything goes through on its way to a cold one.
    Warm,
    /// In shared memory alone, evicting.
    Cache,
}

impl Kind {
    const ALL: [Self; 6] = [Self::Durable, Self::Cache, Self::Evicting, Self::Lazy, Self::Always, Self::Warm];

    fn options(self) -> Options {
        // So few participants that the slots of the dead are used again: the parent's two, three victims.
        let participants_max = 5;
        let options = match self {
            Self::Durable => options(24, 64, Durability::EverySec, WhenFull::Error),
            Self::Always => options(24, 64, Durability::Always, WhenFull::Error),
            Self::Lazy => options(24, 64, Durability::None, WhenFull::Error),
            Self::Warm => Options {
                warm_bytes: Some(20 * common::MIB),
                index: Some(IndexPlacement::Warm),
                ..options(24, 64, Durability::EverySec, WhenFull::Error)
            },
            Self::Evicting => options(20, 20, Durability::EverySec, WhenFull::Evict),
            Self::Cache => options(20, 0, Durability::None, WhenFull::Evict),
        };
        Options { participants_max, ..options }
    }

    /// Whether keys may vanish to make room.
    fn may_evict(self) -> bool {
        matches!(self, Self::Evicting | Self::Cache)
    }
}

/// What the survivor thread and the inspection share.
#[derive(Default)]
struct Survivor {
    /// Held during each of its requests: who takes it finds no writer of this process at work.
    gate: Mutex<()>,
    stop: AtomicBool,
    requests: AtomicU64,
}

/// While nobody writes, and after those who died were seen to, the feed comes to an end: who died with a ticket in his hand is waited for, but not for ever.
fn drain(feed: &mut Observer) {
    wait_until("the feed is read to its end", TAKEOVER_MAX, || {
        feed.drain(&mut |_| ()).unwrap();
        !feed.has_more()
    });
}

/// A store, somebody who goes on using it, and what is known of it.
struct Arena {
    kind: Kind,
    place: Place,
    observer: Option<Store>,
    feed: Option<Observer>,
    survivor: Arc<Survivor>,
    thread: Option<JoinHandle<()>>,
    victims: u32,
    acknowledged: [u64; COUNTERS as usize],
    unanswered: [u64; COUNTERS as usize],
}

impl Arena {
    fn new(kind: Kind) -> Self {
        let place = match kind {
            Kind::Cache => Place::shared_memory("kill"),
            _ => Place::in_directory(),
        };
        let mut arena = Self {
            kind,
            place,
            observer: None,
            feed: None,
            survivor: Arc::default(),
            thread: None,
            victims: 0,
            acknowledged: [0; COUNTERS as usize],
            unanswered: [0; COUNTERS as usize],
        };
        arena.open();
        if kind == Kind::Warm {
            // More than its warm tier holds, so that something moves on as soon as a victim looks after the store.
            churn(arena.observer(), 1);
            arena.observer().flush().unwrap();
        }
        arena
    }

    fn open(&mut self) {
        self.observer = Some(self.place.open(&self.kind.options()));
        self.feed = Some(self.observer().observe().unwrap());
        self.survivor = Arc::default();
        let (store, shared) =
            (self.place.open(&Options { background: false, ..Options::default() }), self.survivor.clone());
        let notes = Notes::create(&self.place.beside("notes-survivor"));
        self.thread = Some(std::thread::spawn(move || {
            let mut writer = Writer::new(&store, SURVIVOR, Some(notes));
            while !shared.stop.load(Ordering::Relaxed) {
                let gate = shared.gate.lock().unwrap();
                writer.step();
                drop(gate);
                shared.requests.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(200));
            }
        }));
    }

    /// Nobody of this process has the store open any more.
    fn close(&mut self) {
        self.survivor.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            assert!(
                thread.join().is_ok() || std::thread::panicking(),
                "the survivor failed; its message is above"
            );
        }
        self.feed = None;
        if let Some(observer) = self.observer.take() {
            assert!(observer.close().is_ok() || std::thread::panicking());
        }
    }

    fn observer(&self) -> &Store {
        self.observer.as_ref().unwrap()
    }

    fn notes(&self, victim: u32) -> PathBuf {
        self.place.beside(&format!("notes-{victim}"))
    }

    /// Starts a process that works on the store until it is killed.
    fn start(&mut self, role: &str, crash_point: Option<String>) -> (u32, common::ChildGuard) {
        let victim = self.victims;
        self.victims += 1;
        let settings = [
            ("STORE", self.place.text()),
            ("VICTIM", victim.to_string()),
            ("NOTES", self.notes(victim).display().to_string()),
        ];
        let environment: Vec<_> =
            crash_point.into_iter().map(|point| ("THERMAE_CRASH_POINT", point)).collect();
        (victim, spawn_with(role, &settings, &environment))
    }

    /// A child that dies at the given pass of a point; false where it never came there.
    fn kill_at(&mut self, point: &str, pass: u32) -> bool {
        #[allow(clippy::print_stderr, reason = "tests show it where something fails")]
        {
            eprintln!("killing at {point}, pass {pass}");
        }
        let crash_point = Some(format!("{point}:{pass}"));
        let (role, _) = point.split_once('.').unwrap_or((point, ""));
        let (victim, mut child) = match role {
            "repair" => return self.kill_repairer_at(point, pass),
            "recover" => {
                self.close();
                forget_shared_memory(&SystemEnv, &self.place.location).unwrap();
                self.start("opener", crash_point)
            }
            "snapshot" => self.start("copier", crash_point),
            _ => self.start("writer", crash_point),
        };
        let end = child.wait(VICTIM_TIME + Duration::from_secs(20));
        if self.observer.is_none() {
            self.open();
        }
        self.inspect(&[victim]);
        end == End::Killed
    }

    /// The same for points that only who comes after a death passes: one child dies in the middle of something, and, before anybody else
    /// takes over what it held, the next one dies taking over.
    fn kill_repairer_at(&mut self, point: &str, pass: u32) -> bool {
        let survivor = self.survivor.clone();
        let gate = survivor.gate.lock().unwrap();
        let first_point = ["batch.publishing", "put.committed", "batch.committed"][pass as usize % 3];
        let (first, mut child) = self.start("writer", Some(format!("{first_point}:3")));
        assert_eq!(child.wait(VICTIM_TIME + Duration::from_secs(20)), End::Killed);
        let (second, mut child) = self.start("writer", Some(format!("{point}:1")));
        let end = child.wait(VICTIM_TIME + Duration::from_secs(20));
        drop(gate);
        self.inspect(&[first, second]);
        end == End::Killed
    }

    /// Judges what is left after the deaths of `victims`.
    fn inspect(&mut self, victims: &[u32]) {
        let died = Instant::now();
        let survivor = self.survivor.clone();
        let gate = loop {
            match survivor.gate.try_lock() {
                Ok(gate) => break gate,
                Err(std::sync::TryLockError::Poisoned(_)) => {
                    panic!("the survivor failed; its message is above")
                }
                Err(std::sync::TryLockError::WouldBlock) => std::thread::sleep(Duration::from_micros(100)),
            }
            assert!(died.elapsed() < TAKEOVER_MAX, "the survivor's request was held up by the death");
        };
        // Before anyone takes a dead participant's locks, and after: readers must see the same.
        let groups = self.read_groups();
        let started = Instant::now();
        let mut writer = Writer::new(self.observer(), OBSERVER, None);
        let items: Vec<(Vec<u8>, Vec<u8>)> = (0..SHARED_KEYS)
            .map(|index| {
                let key = workload::shared_key(index);
                // Of a length that goes without flags: all of a batch have the same.
                let value = Stamp { writer: OBSERVER, number: index }.value(&key, 99);
                assert_eq!(flags_of(&value), 0);
                (key, value)
            })
            .collect();
        let items: Vec<(&[u8], &[u8], u8)> =
            items.iter().map(|(key, value)| (key.as_slice(), value.as_slice(), 0)).collect();
        match self.observer().set_many(&items, &SetOptions::default()) {
            Ok(()) | Err(Error::Full(_)) => {}
            Err(error) => panic!("set after the death: {error}"),
        }
        assert!(
            started.elapsed() < TAKEOVER_MAX,
            "setting {SHARED_KEYS} keys after the death took {:?}",
            started.elapsed()
        );
        writer.hold_view().unwrap();
        writer.release_view();
        let newcomer = self.place.open(&Options::default());
        wait_until("the dead are reaped", TAKEOVER_MAX, || newcomer.engine().dead_participants().is_empty());
        newcomer.close().unwrap();
        drop(newcomer);
        self.compare_groups(&groups);
        for &victim in victims {
            let notes = self.notes(victim);
            workload::check_own_keys(self.observer(), victim, &notes, self.kind.may_evict());
            self.count(&notes);
        }
        self.check_all();
        drain(self.feed.as_mut().unwrap());
        drop(gate);
    }

    /// Who wrote each group last; `None` where it is deleted.
    fn read_groups(&self) -> Vec<Option<Stamp>> {
        (0..GROUPS)
            .map(|group| {
                let found: Vec<Option<Stamp>> = (0..MEMBERS)
                    .map(|member| {
                        let key = workload::group_key(group, member);
                        self.observer().get(&key).unwrap().map(|(_, value)| Stamp::of(&key, &value))
                    })
                    .collect();
                let some = found.iter().flatten().next().copied();
                let is_whole =
                    found.iter().all(|&stamp| stamp == some || (self.kind.may_evict() && stamp.is_none()));
                assert!(is_whole, "a transaction on group {group} happened in part: {found:?}");
                some
            })
            .collect()
    }

    fn compare_groups(&self, before: &[Option<Stamp>]) {
        for (group, (before, after)) in before.iter().zip(self.read_groups()).enumerate() {
            let is_same = *before == after || (self.kind.may_evict() && after.is_none());
            assert!(
                is_same,
                "taking over changed what readers see of group {group}: {before:?}, then {after:?}"
            );
        }
    }

    fn count(&mut self, notes: &Path) {
        for (index, (acknowledged, unanswered)) in workload::noted_additions(notes).into_iter().enumerate() {
            self.acknowledged[index] += acknowledged;
            self.unanswered[index] += unanswered;
        }
        let _ = std::fs::remove_file(notes);
    }

    /// Counters hold every addition that was acknowledged, and none that nobody asked for.
    fn check_counters(&self) {
        if self.kind.may_evict() {
            return;
        }
        let survivors = workload::noted_additions(&self.place.beside("notes-survivor"));
        for (index, (acknowledged, unanswered)) in survivors.into_iter().enumerate() {
            let least = self.acknowledged[index] + acknowledged;
            let most = least + self.unanswered[index] + unanswered;
            let found = self.observer().get(&workload::counter_key(index as u64)).unwrap();
            let found: u64 = found.map_or(0, |(_, value)| String::from_utf8(value).unwrap().parse().unwrap());
            assert!(
                (least..=most).contains(&found),
                "counter {index} is {found}, and {least} to {most} additions were made"
            );
        }
    }

    /// What must hold whenever nobody writes.
    fn check_all(&self) {
        let store = self.observer();
        // Nothing is to expire between counting and looking.
        std::thread::sleep(Duration::from_millis(EXPIRY_MS_MAX + 2));
        let len = store.len().unwrap();
        let all = keys(store, b"");
        let mut odd = Vec::new();
        for key in &all {
            match store.get(key).unwrap() {
                Some(_) if key.starts_with(b"c:") => {}
                Some((meta, value)) => {
                    Stamp::of(key, &value);
                    check_flags(key, &meta, &value);
                }
                None => odd.push(String::from_utf8_lossy(key).into_owned()),
            }
        }
        assert!(odd.is_empty(), "the scan gave keys that are not there: {odd:?}");
        let mut kinds = std::collections::BTreeMap::new();
        all.iter().for_each(|key| *kinds.entry(key[0] as char).or_insert(0) += 1);
        assert_eq!(len, all.len() as u64, "the count of keys against the keys: {kinds:?}");
        self.check_counters();
        let mut problems = store.check(false).unwrap().problems;
        // Whoever dies between taking a number and writing it down leaves a gap, in which nothing was.
        problems.retain(|problem| problem.kind != "missing");
        assert!(problems.is_empty(), "the check found {problems:#?}");
        let pinned = store.stats().unwrap().pinned_segments;
        assert!(
            pinned <= SURVIVOR_PINS_MAX,
            "{pinned} segments are pinned; the survivor's views pin {SURVIVOR_PINS_MAX} at most"
        );
    }

    /// Looks at everything once more, opened anew.
    fn finish(mut self) {
        assert!(self.survivor.requests.load(Ordering::Relaxed) > 0, "the survivor did nothing");
        self.close();
        self.observer = Some(self.place.open(&Options { background: false, ..Options::default() }));
        self.check_all();
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.close();
    }
}

/// What the child processes do; nothing in the process that runs the tests.
#[test]
fn role() {
    let Some(role) = common::role() else { return };
    let store = Store::open(
        &common::location_setting(),
        &Options { read_only: role == "holder", ..Options::default() },
    )
    .unwrap();
    let id = setting("VICTIM").parse().unwrap();
    let mut writer = Writer::new(&store, id, Some(Notes::create(Path::new(&setting("NOTES")))));
    let until = Instant::now() + VICTIM_TIME;
    let mut steps = 0_u64;
    while Instant::now() < until && role != "opener" {
        steps += 1;
        match role.as_str() {
            "holder" => writer.hold_view().unwrap(),
            "churner" => churn(&store, steps),
            "copier" if steps.is_multiple_of(500) => {
                let copy = tempfile::tempdir().unwrap();
                store.snapshot(copy.path()).unwrap();
            }
            _ => writer.step(),
        }
    }
    drop(writer);
    store.close().unwrap();
}

/// The names of all crash points, as the engine's sources have them.
fn crash_points() -> Vec<String> {
    fn collect(directory: &Path, names: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, names);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                names.extend(
                    text.split("crash_point!(\"")
                        .skip(1)
                        .filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())),
                );
            }
        }
    }
    let mut names = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut names);
    names.sort();
    names.dedup();
    names
}

/// The kinds of store in which a point can be reached, the likeliest first. A new point is tried in all.
fn kinds_for(point: &str) -> &'static [Kind] {
    const WITH_COLD: &[Kind] = &[Kind::Durable, Kind::Evicting, Kind::Always];
    let hints: [(&str, &[Kind]); 10] = [
        ("cache.", WITH_COLD),
        ("checkpoint.", &[Kind::Evicting, Kind::Durable]),
        ("compact.floor", &[Kind::Evicting]),
        ("delete.committed", WITH_COLD),
        ("demote.written", &[Kind::Lazy]),
        ("demote.", WITH_COLD),
        ("evict.", &[Kind::Cache, Kind::Evicting]),
        ("flush.", WITH_COLD),
        ("migrate.", &[Kind::Warm]),
        ("recover.", &[Kind::Durable, Kind::Warm, Kind::Always]),
    ];
    hints.iter().find(|(prefix, _)| point.starts_with(prefix)).map_or(&Kind::ALL, |(_, kinds)| kinds)
}

#[test]
#[allow(clippy::print_stderr, reason = "where a death goes wrong, it is good to know which ones went before")]
fn a_death_at_any_crash_point_leaves_a_store_that_works() {
    let points = crash_points();
    assert!(points.len() >= 20, "only {} crash points were found in the sources", points.len());
    let only = std::env::var("THERMAE_KILL_POINT").ok();
    let mut arenas: Vec<Arena> = Vec::new();
    let mut unreached = Vec::new();
    for point in points.iter().filter(|&point| only.as_ref().is_none_or(|only| only == point)) {
        let mut passes = [1, 2, 15].into_iter();
        let mut pass = passes.next().unwrap();
        let mut is_reached = false;
        for &kind in kinds_for(point) {
            if !arenas.iter().any(|arena| arena.kind == kind) {
                arenas.push(Arena::new(kind));
            }
            if point.starts_with("table.") {
                // Tables grow while a store fills, so each of these deaths has a store of its own.
                arenas.retain(|arena| arena.kind != kind);
                arenas.push(Arena::new(kind));
            }
            let arena = arenas.iter_mut().find(|arena| arena.kind == kind).unwrap();
            let started = Instant::now();
            let was_killed = arena.kill_at(point, pass);
            eprintln!(
                "{point}:{pass} in a store of kind {kind:?}: {} after {:?}",
                if was_killed { "killed" } else { "not reached" },
                started.elapsed()
            );
            if was_killed {
                is_reached = true;
                match passes.next() {
                    Some(next) => pass = next,
                    None => break,
                }
            } else if is_reached {
                break;
            }
        }
        if !is_reached {
            unreached.push(point.clone());
        }
    }
    arenas.into_iter().for_each(Arena::finish);
    assert!(unreached.is_empty(), "no workload came to the crash points {unreached:?}: make one that does");
}

#[test]
fn kills_at_random_moments_leave_a_store_that_works() {
    let kills: u64 =
        std::env::var("THERMAE_KILLS").map_or(300, |text| text.parse().expect("THERMAE_KILLS is a number"));
    let mut random = common::Random::new(kills);
    let mut arenas: Vec<Arena> =
        [Kind::Durable, Kind::Cache, Kind::Always, Kind::Warm].into_iter().map(Arena::new).collect();
    let mut done = 0;
    while done < kills {
        for arena in &mut arenas {
            let mut running: Vec<_> =
                ["writer", "writer", "holder"].into_iter().map(|role| arena.start(role, None)).collect();
            for (victim, _) in &running[..2] {
                let notes = arena.notes(*victim);
                wait_until("the victim works", Duration::from_secs(10), || {
                    std::fs::metadata(&notes).is_ok_and(|found| found.len() > 0)
                });
            }
            for (_, child) in &mut running {
                std::thread::sleep(Duration::from_micros(random.below(12_000)));
                child.kill();
            }
            done += running.len() as u64;
            let victims: Vec<u32> = running.iter().map(|(victim, _)| *victim).collect();
            arena.inspect(&victims);
        }
    }
    arenas.into_iter().for_each(Arena::finish);
}

/// Fills the hot tier several times over.
fn churn(store: &Store, number: u64) {
    for index in 0..100 {
        let key = format!("churn {index}").into_bytes();
        let value = Stamp { writer: 0, number }.value(&key, 200_000);
        store.set(&key, &value, &flagged(&value)).unwrap();
    }
}

/// Whoever frees a frame takes it out of its slot first and looks at the pins then. One who died in between left a frame that was in no
/// slot, and whoever took over the lock counted it among the free ones: the bytes of a view changed under its holder.
#[test]
fn a_pinned_frame_is_not_free_after_a_death_between_unplacing_it_and_seeing_the_pin() {
    let mut arena = Arena::new(Kind::Cache);
    let store = arena.place.open(&Options { background: false, ..Options::default() });
    let stamp = Stamp { writer: OBSERVER, number: 1 };
    let key = b"l:viewed";
    store.set(key, &stamp.value(key, 1_500_000), &SetOptions::default()).unwrap();
    let view = store.view(key).unwrap().unwrap();
    arena.survivor.stop.store(true, Ordering::Relaxed);
    arena.thread.take().unwrap().join().unwrap();
    store.delete(key).unwrap();
    let (_, mut child) = arena.start("churner", Some("segment.unplaced_though_pinned:1".into()));
    assert_eq!(child.wait(VICTIM_TIME + Duration::from_secs(20)), End::Killed);
    churn(&store, 1);
    churn(&store, 2);
    assert_eq!(Stamp::of(key, &view), stamp);
    drop(view);
    store.close().unwrap();
}
