//! The feed: every change is told to whoever observes, or that it can't be told; whoever makes it, and whoever dies.

mod common;

use common::{
    ChildGuard, End, Place, Random, TAKEOVER_MAX, keys, options, setting, spawn, spawn_with, wait_until,
};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use thermae_core::ChangeKind::{Deleted, Evicted, Expired, Set};
use thermae_core::{
    BatchOp, Change, ChangeKind, Condition, Durability, Error, KEY_BYTES_MAX, Observer, Options, SetOptions,
    Store, Update, WhenFull,
};

const TIMEOUT: Duration = Duration::from_secs(30);
/// Keys that each of several writing processes stores.
const KEYS_EACH: u32 = 3000;

/// What was told of one change: how, which key, by oneself; `None` for an overrun.
type Told = Option<(ChangeKind, Vec<u8>, bool)>;

fn cache() -> Options {
    options(16, 0, Durability::None, WhenFull::Evict)
}

fn attached() -> Options {
    Options { background: false, ..Options::default() }
}

fn set(store: &Store, key: &[u8], value: &[u8]) {
    store.set(key, value, &SetOptions::default()).unwrap();
}

fn drain(observer: &mut Observer) -> Vec<Told> {
    let mut told = Vec::new();
    observer
        .drain(&mut |change| {
            told.push(match change {
                Change::Key { kind, key, by_self } => Some((kind, key.to_vec(), by_self)),
                Change::Overrun => None,
            });
        })
        .unwrap();
    told
}

fn by(is_self: bool, kind: ChangeKind, key: &[u8]) -> Told {
    Some((kind, key.to_vec(), is_self))
}

fn observers(store: &Store) -> u32 {
    store.engine().globals().observers.load(Ordering::SeqCst)
}

fn settings(place: &Place) -> [(&'static str, String); 2] {
    [("STORE", place.text()), ("SIGNALS", place.directory.path().display().to_string())]
}

fn give(path: &Path) {
    std::fs::write(path, b"").unwrap();
}

fn await_signal(path: &Path) {
    wait_until(&format!("{} is given", path.display()), TIMEOUT, || path.exists());
}

fn signal(name: &str) -> PathBuf {
    Path::new(&setting("SIGNALS")).join(name)
}

fn numbered(writer: u32, number: u32) -> Vec<u8> {
    // Some take several slots of the ring.
    let filling = if number.is_multiple_of(50) { "-".repeat(200) } else { String::new() };
    format!("{writer} {number}{filling}").into_bytes()
}

/// What the child processes do; nothing in the process that runs the tests.
#[test]
fn role() {
    let Some(role) = common::role() else { return };
    let store = Store::open(&common::location_setting(), &attached()).unwrap();
    match role.as_str() {
        "observer" => {
            let _observers = [store.observe().unwrap(), store.observe().unwrap()];
            give(&signal("observing"));
            std::thread::sleep(TIMEOUT);
        }
        "writer" => {
            let number: u32 = setting("NUMBER").parse().unwrap();
            let mut random = Random::new(u64::from(number));
            for index in 0..KEYS_EACH {
                set(&store, &numbered(number, index), b"value");
                let shared = format!("shared {}", random.below(20));
                match random.below(3) {
                    0 => drop(store.delete(shared.as_bytes()).unwrap()),
                    _ => set(&store, shared.as_bytes(), &index.to_le_bytes()),
                }
            }
        }
        "setter" => set(&store, b"key", b"theirs"),
        "transactor" => {
            let set = |key| BatchOp::Set { key, value: b"", encoding: 0, expires_at_ms: 0, flags: 0 };
            store.transaction(&[set(b"key"), set(b"other")], &[]).unwrap();
        }
        "endless-setter" => {
            for number in 0_u64.. {
                set(&store, b"key", &number.to_le_bytes());
                if number == 0 {
                    give(&signal("setting"));
                }
            }
        }
        "forker" => fork_while_observing(&store, store.observe().unwrap(), true),
        "forker-of-others" => fork_while_observing(&store, store.observe_others().unwrap(), false),
        role => panic!("there is no role {role}"),
    }
}

#[test]
fn every_change_is_told_with_its_key_and_who_made_it() {
    let place = Place::shared_memory("told");
    let store = place.open(&cache());
    let other = place.open(&attached());
    set(&store, b"before", b"1");
    let mut observer = store.observe().unwrap();
    assert_eq!(drain(&mut observer), []);

    set(&store, b"", b"a value under the shortest key");
    let longest = vec![b'k'; KEY_BYTES_MAX];
    set(&other, &longest, b"value");
    assert_eq!(drain(&mut observer), [by(true, Set, b""), by(false, Set, &longest)]);

    // What changes nothing is not told.
    let options = SetOptions { condition: Condition::IfAbsent, ..SetOptions::default() };
    other.set(b"before", b"2", &options).unwrap();
    other.delete(b"absent").unwrap();
    other.update(b"before", &mut |_| Ok(Update::Keep)).unwrap();
    other.transaction(&[BatchOp::Delete { key: b"absent" }], &[]).unwrap();
    other.get(b"before").unwrap().unwrap();
    assert_eq!(drain(&mut observer), []);

    other.incr(b"count", 1, Some(0), 0).unwrap();
    other.touch(b"before", other.now_ms() + 60_000).unwrap();
    other.pop(b"before").unwrap().unwrap();
    other.set_many(&[(b"a", b"1", 0), (b"b", b"2", 0)], &SetOptions::default()).unwrap();
    other.delete_many(&[b"a", b"absent"]).unwrap();
    set(&other, b"large", &vec![7; 1_500_000]);
    let told = drain(&mut observer);
    let expected = [
        by(false, Set, b"count"),
        by(false, Set, b"before"),
        by(false, Deleted, b"before"),
        by(false, Set, b"a"),
        by(false, Set, b"b"),
        by(false, Deleted, b"a"),
        by(false, Set, b"large"),
    ];
    assert_eq!(told, expected);

    let set_op = BatchOp::Set { key: b"c", value: b"3", encoding: 0, expires_at_ms: 0, flags: 0 };
    let ops = [set_op, BatchOp::Delete { key: b"b" }, BatchOp::Delete { key: b"absent" }];
    store.transaction(&ops, &[]).unwrap();
    assert_eq!(drain(&mut observer), [by(true, Set, b"c"), by(true, Deleted, b"b")]);

    // Each observer has a cursor of its own, and only knows of what came after it.
    let mut late = other.observe().unwrap();
    store.delete(b"c").unwrap();
    assert_eq!(drain(&mut late), [by(false, Deleted, b"c")]);
    assert_eq!(drain(&mut observer), [by(true, Deleted, b"c")]);
    assert_eq!(observers(&store), 2);
    drop((observer, late));
    assert_eq!(observers(&store), 0);
    store.close().unwrap();
    other.close().unwrap();
}

#[test]
fn who_may_not_write_or_has_closed_can_not_observe() {
    let place = Place::shared_memory("refused");
    let store = place.open(&cache());
    let reader = place.open(&Options { read_only: true, ..attached() });
    assert!(matches!(reader.observe(), Err(Error::ReadOnly(_))));
    let mut observer = store.observe().unwrap();
    store.close().unwrap();
    assert!(matches!(store.observe(), Err(Error::Closed(_))));
    assert!(matches!(observer.wait(TIMEOUT), Err(Error::Closed(_))));
    assert!(matches!(observer.drain(&mut |_| ()), Err(Error::Closed(_))));
}

#[test]
fn what_expires_is_told_once_however_it_is_removed() {
    let place = Place::shared_memory("expired");
    let store = place.open(&cache());
    let other = place.open(&attached());
    let mut observer = store.observe().unwrap();
    let soon = SetOptions { expires_at_ms: other.now_ms() + 500, ..SetOptions::default() };
    let expiring: [&[u8]; 6] =
        [b"looked for", b"replaced", b"deleted", b"in a batch", b"batch 2", b"touched"];
    for key in expiring {
        other.set(key, b"value", &soon).unwrap();
    }
    other.touch(b"touched", 0).unwrap();
    assert_eq!(drain(&mut observer).len(), expiring.len() + 1);
    wait_until("all have expired", TIMEOUT, || other.now_ms() > soon.expires_at_ms);
    assert!(other.get(b"looked for").unwrap().is_none());
    assert_eq!(drain(&mut observer), []);
    set(&other, b"replaced", b"new");
    assert!(!other.delete(b"deleted").unwrap());
    let set_op = BatchOp::Set { key: b"in a batch", value: b"3", encoding: 0, expires_at_ms: 0, flags: 0 };
    other.transaction(&[set_op, BatchOp::Delete { key: b"batch 2" }], &[]).unwrap();
    let expected = [
        by(false, Expired, b"replaced"),
        by(false, Set, b"replaced"),
        by(false, Expired, b"deleted"),
        by(false, Expired, b"in a batch"),
        by(false, Set, b"in a batch"),
        by(false, Expired, b"batch 2"),
    ];
    assert_eq!(drain(&mut observer), expected);
    store.keep_house().unwrap();
    assert_eq!(drain(&mut observer), [by(true, Expired, b"looked for")]);
    assert_eq!(store.len().unwrap(), 3);
    assert_eq!(drain(&mut observer), []);
    store.close().unwrap();
    other.close().unwrap();
}

/// Where values move between tiers nothing changes, and so nothing is told; what is dropped is.
#[test]
fn what_is_evicted_is_told_and_what_moves_is_not() {
    for (cold_mib, durability) in [(0, Durability::None), (20, Durability::EverySec)] {
        let place = Place::in_directory();
        let store = place.open(&options(20, cold_mib, durability, WhenFull::Evict));
        let other = place.open(&attached());
        let mut observer = store.observe().unwrap();
        let mut present = BTreeSet::new();
        let mut evicted = 0;
        for round in 0..600_u32 {
            let key = format!("key {round}").into_bytes();
            // Large values are evicted in a way of their own.
            let len = if round.is_multiple_of(40) { 1_200_000 } else { 100_000 };
            set(&other, &key, &vec![1; len]);
            other.get(format!("key {}", round / 2).as_bytes()).unwrap();
            for told in drain(&mut observer) {
                match told.expect("nobody was too slow") {
                    (Set, key, false) => assert!(present.insert(key)),
                    (Evicted, key, false) => {
                        assert!(present.remove(&key), "{:?} was not there", String::from_utf8_lossy(&key));
                        evicted += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(keys(&store, b""), Vec::from_iter(present), "with {cold_mib} MiB of cold tier");
        assert!(evicted > 200, "{evicted} were evicted with {cold_mib} MiB of cold tier");
        drop(observer);
        store.close().unwrap();
        other.close().unwrap();
    }
}

#[test]
fn who_is_too_slow_is_told_so_and_goes_on() {
    let place = Place::shared_memory("slow");
    let store = place.open(&cache());
    let mut observer = store.observe().unwrap();
    let slots = store.engine().geometry.feed_slots;
    for number in 0..slots {
        set(&store, b"key", &number.to_le_bytes());
    }
    assert_eq!(drain(&mut observer), vec![by(true, Set, b"key"); slots as usize]);
    for number in 0..=slots {
        set(&store, b"key", &number.to_le_bytes());
    }
    assert_eq!(drain(&mut observer), [None]);
    set(&store, b"last", b"");
    assert_eq!(drain(&mut observer), [by(true, Set, b"last")]);
    store.close().unwrap();
}

#[test]
fn who_sleeps_is_woken_by_another_process_and_by_nothing_else() {
    let place = Place::shared_memory("woken");
    let store = place.open(&cache());
    let mut observer = store.observe().unwrap();
    let began = Instant::now();
    observer.wait(Duration::from_millis(250)).unwrap();
    assert!(began.elapsed() >= Duration::from_millis(250) && drain(&mut observer).is_empty());
    let mut child = spawn("setter", &settings(&place));
    observer.wait(TIMEOUT).unwrap();
    assert!(began.elapsed() < TIMEOUT);
    assert_eq!(drain(&mut observer), [by(false, Set, b"key")]);
    assert_eq!(child.wait(TIMEOUT), End::Finished);
    // Many changes, one sleeper: it misses none, and is not woken for each.
    let wakes_before = wakes(&store);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0..20_000_u32 {
                set(&store, b"key", &number.to_le_bytes());
            }
        });
        while !writer.is_finished() {
            observer.wait(Duration::from_millis(50)).unwrap();
            drain(&mut observer);
        }
    });
    let woken = u128::from(wakes(&store) - wakes_before);
    // Once a millisecond, and once more where it was about to sleep and saw that it need not.
    assert!(woken <= 2 * (began.elapsed().as_millis() + 1), "woken {woken} times in {:?}", began.elapsed());
    store.close().unwrap();
}

fn wakes(store: &Store) -> u32 {
    store.engine().feed_wakes()
}

/// Eight processes write and delete; whatever is in the store in the end was told, and copies that were kept until told are right.
#[test]
fn of_what_many_processes_write_nothing_is_missing() {
    let place = Place::shared_memory("many");
    let store = place.open(&options(64, 0, Durability::None, WhenFull::Error));
    let mut observer = store.observe().unwrap();
    let mut writers: Vec<ChildGuard> = (0..8)
        .map(|number| {
            let [store, signals] = settings(&place);
            spawn("writer", &[store, signals, ("NUMBER", number.to_string())])
        })
        .collect();
    let mut told = HashSet::new();
    let mut copies: BTreeMap<Vec<u8>, Option<u64>> = BTreeMap::new();
    let mut overruns = 0;
    let deadline = Instant::now() + 4 * TIMEOUT;
    loop {
        // Before the last look: what they did is in the feed then.
        let is_over = writers.iter_mut().all(|writer| writer.0.try_wait().unwrap().is_some());
        observer.wait(Duration::from_millis(20)).unwrap();
        observer
            .drain(&mut |change| match change {
                Change::Key { kind, key, by_self } => {
                    assert!(!by_self && matches!(kind, Set | Deleted));
                    copies.remove(key);
                    if !key.starts_with(b"shared") {
                        assert!(
                            told.insert(key.to_vec()),
                            "{:?} was told twice",
                            String::from_utf8_lossy(key)
                        );
                    }
                }
                Change::Overrun => {
                    copies.clear();
                    overruns += 1;
                }
            })
            .unwrap();
        if is_over && !observer.has_more() {
            break;
        }
        for number in 0..20 {
            let key = format!("shared {number}").into_bytes();
            let version = || store.meta(&key).unwrap().map(|meta| meta.version);
            copies.entry(key.clone()).or_insert_with(version);
        }
        assert!(Instant::now() < deadline, "the writers do not come to an end");
    }
    for writer in &mut writers {
        assert_eq!(writer.wait(TIMEOUT), End::Finished);
    }
    for (key, version) in copies {
        let now = store.meta(&key).unwrap().map(|meta| meta.version);
        assert_eq!(now, version, "nobody was told of {:?}", String::from_utf8_lossy(&key));
    }
    if overruns == 0 {
        let stored: HashSet<Vec<u8>> =
            (0..8).flat_map(|writer| (0..KEYS_EACH).map(move |number| numbered(writer, number))).collect();
        assert!(told == stored, "{} of {} were told", told.len(), stored.len());
    }
    store.close().unwrap();
}

/// Who begins to observe and then reads a key is told of whatever is published after that: also by who looked whether anybody observes just before.
#[test]
fn who_begins_to_observe_misses_nothing_that_comes_after() {
    const ROUNDS: u64 = 3000;
    let place = Place::shared_memory("begin");
    let store = place.open(&cache());
    set(&store, b"key", &0_u64.to_le_bytes());
    let (begin, end, spins) = (Barrier::new(2), Barrier::new(2), AtomicU64::new(0));
    // Which of the two comes first is left to chance but in a few rounds, so that each does.
    let (changed_in, comes_first) = (AtomicU64::new(0), |round: u64| round % 100 == 1);
    let (read_in, comes_last) = (AtomicU64::new(0), |round: u64| round % 100 == 2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random::new(3);
            for round in 1..=ROUNDS {
                begin.wait();
                while comes_last(round) && read_in.load(Ordering::Acquire) < round {
                    std::thread::yield_now();
                }
                for _ in 0..random.below(3000) {
                    spins.fetch_add(1, Ordering::Relaxed);
                }
                set(&store, b"key", &round.to_le_bytes());
                changed_in.store(round, Ordering::Release);
                end.wait();
            }
        });
        let (mut earlier, mut later) = (0, 0);
        for round in 1..=ROUNDS {
            begin.wait();
            while comes_first(round) && changed_in.load(Ordering::Acquire) < round {
                std::thread::yield_now();
            }
            let mut observer = store.observe().unwrap();
            let (_, value) = store.get(b"key").unwrap().unwrap();
            read_in.store(round, Ordering::Release);
            end.wait();
            let told = drain(&mut observer);
            if value == round.to_le_bytes() {
                earlier += 1;
            } else {
                later += 1;
                assert_eq!(told, [by(true, Set, b"key")], "round {round}");
            }
        }
        assert!(earlier > 0 && later > 0, "{earlier} rounds with the change first, {later} with it after");
    });
    store.close().unwrap();
}

#[test]
#[cfg(feature = "crash-points")]
fn who_dies_in_the_middle_of_a_change_is_told_as_an_overrun() {
    let place = Place::shared_memory("dead-writer");
    let store = place.open(&Options { background: true, ..cache() });
    let mut observer = store.observe().unwrap();
    let points = [
        ("setter", "append.reserved"),
        ("setter", "put.committed"),
        ("setter", "put.published"),
        ("setter", "feed.ticket_taken"),
        ("transactor", "batch.publishing"),
        ("transactor", "batch.committed"),
        ("transactor", "feed.ticket_taken:2"),
    ];
    for (role, point) in points {
        let crash = [("THERMAE_CRASH_POINT", point.to_owned())];
        assert_eq!(spawn_with(role, &settings(&place), &crash).wait(TIMEOUT), End::Killed);
        let began = Instant::now();
        let mut told = Vec::new();
        while !told.contains(&None) {
            observer.wait(Duration::from_millis(100)).unwrap();
            told.extend(drain(&mut observer));
            assert!(began.elapsed() < TAKEOVER_MAX, "at {point} only {told:?} was told");
        }
        // What comes after is told as ever.
        wait_until("the feed is quiet", TAKEOVER_MAX, || {
            let is_quiet = store.engine().dead_participants().is_empty() && !observer.has_more();
            drain(&mut observer);
            is_quiet
        });
        set(&store, b"after", b"");
        assert_eq!(drain(&mut observer), [by(true, Set, b"after")], "after {point}");
    }
    store.close().unwrap();
}

#[test]
fn a_writer_killed_at_any_moment_leaves_no_stale_copy() {
    let place = Place::shared_memory("killed-writer");
    let store = place.open(&Options { background: true, ..cache() });
    let mut observer = store.observe().unwrap();
    let mut random = Random::new(11);
    for _ in 0..20 {
        let _ = std::fs::remove_file(place.beside("setting"));
        let mut child = spawn("endless-setter", &settings(&place));
        await_signal(&place.beside("setting"));
        std::thread::sleep(Duration::from_micros(random.below(5000)));
        child.kill();
        let mut copy = None;
        let began = Instant::now();
        loop {
            let is_last = store.engine().dead_participants().is_empty();
            observer
                .drain(&mut |change| match change {
                    Change::Key { key, .. } => {
                        assert_eq!(key, b"key");
                        copy = None;
                    }
                    Change::Overrun => copy = None,
                })
                .unwrap();
            if copy.is_none() {
                copy = Some(store.get(b"key").unwrap().unwrap().1);
            } else if is_last && !observer.has_more() {
                break;
            }
            assert!(began.elapsed() < TAKEOVER_MAX, "the feed does not come to an end");
            observer.wait(Duration::from_millis(5)).unwrap();
        }
        assert_eq!(copy, store.get(b"key").unwrap().map(|(_, value)| value));
    }
    store.close().unwrap();
}

#[test]
fn an_observer_that_is_killed_costs_nothing_any_more() {
    let place = Place::shared_memory("dead-observer");
    let store = place.open(&Options { participants_max: 2, ..cache() });
    for round in 0..2 {
        let _ = std::fs::remove_file(place.beside("observing"));
        let mut child = spawn("observer", &settings(&place));
        await_signal(&place.beside("observing"));
        assert_eq!(observers(&store), 2);
        let own = store.observe().unwrap();
        assert_eq!(observers(&store), 3);
        child.kill();
        if round == 0 {
            // By whoever releases what the dead held.
            store.keep_house().unwrap();
            assert_eq!(observers(&store), 1);
            drop(own);
        } else {
            // Also where its slot was used again before.
            drop(own);
            drop(place.open(&attached()));
            store.keep_house().unwrap();
        }
        assert_eq!(observers(&store), 0);
    }
    let mut observer = store.observe().unwrap();
    set(&store, b"key", b"");
    assert_eq!(drain(&mut observer), [by(true, Set, b"key")]);
    store.close().unwrap();
}

/// `is_told` says whether the observer is told what its own participant does, while nobody else observes.
fn fork_while_observing(store: &Store, mut observer: Observer, is_told: bool) {
    set(store, b"before", b"");
    let (observing, set_by_parent) = (signal("child observes"), signal("parent has set"));
    // SAFETY: this role has one thread; the child goes on in the same state.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let is_right = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // What its parent had not read yet is not its own to tell.
            assert_eq!(drain(&mut observer), [None]);
            assert_eq!(observers(store), 2);
            give(&observing);
            await_signal(&set_by_parent);
            set(store, b"childs", b"");
            assert_eq!(drain(&mut observer), [by(false, Set, b"parents"), by(true, Set, b"childs")]);
            drop(observer);
            assert_eq!(observers(store), 1);
        }));
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(i32::from(is_right.is_err())) };
    }
    await_signal(&observing);
    set(store, b"parents", b"");
    give(&set_by_parent);
    let mut status = 0;
    // SAFETY: a child of this process.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(status, 0, "the forked child failed; its message is above");
    set(store, b"after", b"");
    let mut expected = vec![by(true, Set, b"parents"), by(false, Set, b"childs")];
    if is_told {
        expected.insert(0, by(true, Set, b"before"));
        expected.push(by(true, Set, b"after"));
    }
    assert_eq!(drain(&mut observer), expected);
}

#[test]
fn a_forked_child_observes_by_itself() {
    let place = Place::shared_memory("fork");
    let store = place.open(&cache());
    for role in ["forker", "forker-of-others"] {
        assert_eq!(spawn(role, &settings(&place)).wait(TIMEOUT), End::Finished, "{role}");
        assert_eq!(observers(&store), 0);
        for key in ["observing", "parent has set", "child observes"] {
            let _ = std::fs::remove_file(place.beside(key));
        }
    }
    store.close().unwrap();
}

#[test]
fn what_one_does_oneself_is_left_out_while_nobody_wants_it() {
    let place = Place::shared_memory("others");
    let store = place.open(&cache());
    let other = place.open(&attached());
    let mut observer = store.observe_others().unwrap();
    let slots = u64::from(store.engine().geometry.feed_slots);
    let act = |store: &Store| {
        set(store, b"own", b"");
        store.delete(b"own").unwrap();
    };
    let told = [by(true, Set, b"own"), by(true, Deleted, b"own")];
    // It would be overrun.
    (0..slots).for_each(|_| act(&store));
    assert!(!observer.has_more());
    // Several of them want no more than one.
    let second = store.observe_others().unwrap();
    act(&store);
    assert!(!observer.has_more());
    drop(second);
    set(&other, b"theirs", b"");
    assert_eq!(drain(&mut observer), [by(false, Set, b"theirs")]);
    // What it removes itself, no call of it said.
    let soon = SetOptions { expires_at_ms: store.now_ms() + 20, ..SetOptions::default() };
    store.set(b"brief", b"", &soon).unwrap();
    wait_until("it has expired", TIMEOUT, || store.now_ms() > soon.expires_at_ms);
    set(&store, b"brief", b"");
    assert_eq!(drain(&mut observer), [by(true, Expired, b"brief")]);
    // Others want to be told, and so do those of its own who say so.
    for (observing, is_self) in [(&other, false), (&store, true)] {
        let mut wants = observing.observe().unwrap();
        act(&store);
        assert_eq!(drain(&mut wants), [by(is_self, Set, b"own"), by(is_self, Deleted, b"own")]);
        assert_eq!(drain(&mut observer), told);
        drop(wants);
        act(&store);
        assert!(!observer.has_more());
    }
    // Each of two is one of the others for the other.
    let mut of_other = other.observe_others().unwrap();
    set(&store, b"ours", b"");
    set(&other, b"theirs", b"");
    for (observer, is_first) in [(&mut observer, true), (&mut of_other, false)] {
        assert_eq!(drain(observer), [by(is_first, Set, b"ours"), by(!is_first, Set, b"theirs")]);
    }
    drop((observer, of_other));
    assert_eq!(observers(&store), 0);
    store.close().unwrap();
    other.close().unwrap();
}

/// Those who need not be told come and go meanwhile, so that both counts change all the time.
#[test]
fn who_wants_to_be_told_is_told_whoever_else_observes() {
    /// Fewer than what overruns who does not look.
    const SETS: u64 = 300;
    let place = Place::shared_memory("wants");
    let store = place.open(&cache());
    let other = place.open(&attached());
    let number =
        |store: &Store| u64::from_le_bytes(store.get(b"key").unwrap().unwrap().1.try_into().unwrap());
    set(&store, b"key", &0_u64.to_le_bytes());
    let (is_over, beginning, end) = (AtomicBool::new(false), Barrier::new(2), Barrier::new(2));
    let (mut in_between, mut untold) = (0, Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0.. {
                beginning.wait();
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                for set_before in round * SETS..(round + 1) * SETS {
                    set(&store, b"key", &(set_before + 1).to_le_bytes());
                }
                end.wait();
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    drop(store.observe_others().unwrap());
                }
            });
        }
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(500) || (in_between < 20 && began.elapsed() < TIMEOUT) {
            for observing in [&store, &other] {
                beginning.wait();
                let mut observer = observing.observe().unwrap();
                let from = number(&store);
                end.wait();
                let (set, told) = (number(&store) - from, drain(&mut observer).len() as u64);
                // More are told where a value was set, and told, and read only then: between the two calls above.
                untold.extend((told < set).then_some((told, set)));
                in_between += u32::from(0 < set && set < SETS);
            }
        }
        is_over.store(true, Ordering::SeqCst);
        beginning.wait();
    });
    assert_eq!(untold, [], "told only so many of so many");
    assert!(in_between >= 20, "only {in_between} began to observe while keys were set");
    assert_eq!(observers(&store), 0);
    store.close().unwrap();
    other.close().unwrap();
}
