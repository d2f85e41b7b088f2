//! Participants: forks, read-only ones, named locks, views that outlive everything, too many at once, threads.

mod common;

use common::{End, Place, Stamp, TAKEOVER_MAX, keys, options, setting, spawn, spawn_with, wait_until};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use thermae_core::layout::state;
use thermae_core::{
    BatchOp, Durability, Error, LockToken, Options, Result, SetOptions, Store, View, WhenFull,
};

const TIMEOUT: Duration = Duration::from_secs(30);

fn cache() -> Options {
    options(16, 0, Durability::None, WhenFull::Evict)
}

fn set(store: &Store, key: &[u8], value: &[u8]) {
    store.set(key, value, &SetOptions::default()).unwrap();
}

fn value(store: &Store, key: &[u8]) -> Option<Vec<u8>> {
    store.get(key).unwrap().map(|(_, value)| value)
}

fn lock(store: &Store, name: &[u8], timeout_ms: u64) -> Result<LockToken> {
    store.lock_acquire(name, Some(Duration::from_millis(timeout_ms)), &mut || Ok(()))
}

/// Writes until the hot tier was filled several times over.
fn churn(store: &Store, rounds: usize) {
    for round in 0..rounds {
        for index in 0..40 {
            let key = format!("churn {index}").into_bytes();
            let value = Stamp { writer: 1, number: round as u64 }.value(&key, 200_000);
            set(store, &key, &value);
        }
    }
}

/// Forks; the child runs `act` and ends at once, with 0 if it returned.
fn fork(act: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the roles that fork have one thread; the child goes on in the same state.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let is_done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).is_ok();
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(i32::from(!is_done)) };
    }
    pid
}

/// Waits for a forked child's end.
fn join(pid: libc::pid_t) {
    let mut status = 0;
    // SAFETY: a child of this process.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert!(
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
        "the forked child failed ({status:#x}); its message is above"
    );
}

/// Ends this process as a kill would: nothing is closed, nothing is run.
fn die() -> ! {
    // SAFETY: kills this process.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    unreachable!("a killed process goes on")
}

/// A file by which one process tells another that it came so far.
fn signal(name: &str) -> PathBuf {
    Path::new(&setting("SIGNALS")).join(name)
}

fn give(path: &Path) {
    std::fs::write(path, b"").unwrap();
}

fn await_signal(path: &Path) {
    wait_until(&format!("{} is given", path.display()), TIMEOUT, || path.exists());
}

fn settings(place: &Place) -> [(&'static str, String); 2] {
    [("STORE", place.text()), ("SIGNALS", place.directory.path().display().to_string())]
}

/// What the child processes do; nothing in the process that runs the tests. They run one test, so they have one thread.
#[test]
fn role() {
    let Some(role) = common::role() else { return };
    let location = common::location_setting();
    let store = Store::open(&location, &Options { background: false, ..Options::default() }).unwrap();
    match role.as_str() {
        "forker" => fork_and_share(&store),
        "forker-at-work" => fork_while_work_is_under_way(&store),
        "orphan-maker" => fork_without_a_slot(&store),
        "forker-of-forkers" => fork_again_and_again(&Store::open(&location, &Options::default()).unwrap()),
        "forker-with-threads" => fork_with_keeper(&Store::open(&location, &Options::default()).unwrap()),
        "dying-parent" => {
            set(&store, b"before", b"1");
            let _token = lock(&store, b"parents", 0).unwrap();
            let _view = store.view(b"viewed").unwrap().unwrap();
            fork(|| {
                // Never touches the store, and outlives its parent.
                await_signal(&signal("enough"));
            });
            give(&signal("forked"));
            die();
        }
        "lock-holder" => {
            let _token = lock(&store, b"held", 0).unwrap();
            give(&signal("locked"));
            std::thread::sleep(TIMEOUT);
        }
        "large-writer" => {
            // Killed in the middle of it.
            set(&store, b"large", &vec![1; 2_000_000]);
        }
        "expiring-transactor" => {
            let expires_at_ms = store.now_ms() + 3_600_000;
            let ops = [BatchOp::Set { key: b"kept", value: b"1", encoding: 0, expires_at_ms, flags: 5 }];
            store.transaction(&ops, &[]).unwrap();
            // Killed in the middle of it, with the key's partition locked.
            set(&store, b"kept", b"2");
        }
        "sitter" => {
            give(&signal(&setting("NAME")));
            std::thread::sleep(TIMEOUT);
        }
        role => panic!("there is no role {role}"),
    }
}

fn fork_and_share(store: &Store) {
    set(store, b"parents", b"1");
    let old = Stamp { writer: 1, number: 1 };
    set(store, b"viewed", &old.value(b"viewed", 1000));
    set(store, b"large", &old.value(b"large", 1_500_000));
    let views: Vec<(&[u8], View)> =
        [&b"viewed"[..], b"large"].into_iter().map(|key| (key, store.view(key).unwrap().unwrap())).collect();
    let token = lock(store, b"name", 0).unwrap();
    let participants = store.stats().unwrap().participants;
    let (child_is_in, parent_let_go) = (signal("child is in"), signal("parent let go"));
    let pid = fork(|| {
        // A participant of its own, which has none of its parent's locks.
        assert_eq!(store.stats().unwrap().participants, participants + 1);
        assert!(!store.lock_release(&token).unwrap(), "the child released its parent's lock");
        assert!(matches!(lock(store, b"name", 50), Err(Error::Timeout(_))));
        set(store, b"childs", b"2");
        assert_eq!(value(store, b"parents").unwrap(), b"1");
        give(&child_is_in);
        await_signal(&parent_let_go);
        // The parent's views are gone, and with them its pins; the memory was wanted ever since.
        for (key, view) in &views {
            assert_eq!(Stamp::of(key, view), old, "an inherited view lost its bytes");
        }
        lock(store, b"name", 1500).unwrap();
        store.close().unwrap();
        assert!(matches!(store.get(b"parents"), Err(Error::Closed(_))));
    });
    await_signal(&child_is_in);
    assert_eq!(value(store, b"childs").unwrap(), b"2");
    assert!(store.lock_release(&token).unwrap());
    drop(views);
    store.delete(b"viewed").unwrap();
    store.delete(b"large").unwrap();
    churn(store, 10);
    give(&parent_let_go);
    join(pid);
    set(store, b"after", b"3");
    // The child ended without a word: its slot and its pins go with it.
    wait_until("the child's pins are gone", TAKEOVER_MAX, || store.stats().unwrap().pinned_segments == 0);
    assert_eq!(store.stats().unwrap().participants, participants);
}

/// A child's background threads are its own: they start with its first call, and do not start again after a close.
fn fork_with_keeper(store: &Store) {
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    set(store, b"key", b"1");
    let pid = fork(|| {
        assert_eq!(threads(), 1);
        set(store, b"key", b"2");
        assert_eq!(threads(), 3, "flusher and keeper of the child");
        store.close().unwrap();
        assert_eq!(threads(), 1);
        // The child's calls once started a keeper before they found the store closed: threads that nobody would ever end.
        assert!(matches!(store.get(b"key"), Err(Error::Closed(_))));
        assert!(matches!(store.set(b"key", b"3", &SetOptions::default()), Err(Error::Closed(_))));
        assert_eq!(threads(), 1);
    });
    join(pid);
    assert_eq!(value(store, b"key").unwrap(), b"2");
    store.close().unwrap();
}

/// What the parent's threads pinned for the time of some work is not the child's: it has no such thread that would ever let go. A child born
/// in the middle of a flush once pinned all that was being flushed for as long as it lived.
fn fork_while_work_is_under_way(store: &Store) {
    set(store, b"viewed", b"value");
    let view = store.view(b"viewed").unwrap().unwrap();
    let pinned = || {
        (0..store.engine().geometry.slots).filter(|&slot| store.engine().is_pinned(slot)).collect::<Vec<_>>()
    };
    let viewed = pinned();
    assert_eq!(viewed.len(), 1);
    let worked_at = (viewed[0] + 1) % store.engine().geometry.slots;
    store.engine().pin(worked_at);
    store.engine().pin(viewed[0]);
    let parent_let_go = signal("parent let go");
    let pid = fork(|| {
        await_signal(&parent_let_go);
        assert_eq!(pinned(), viewed, "the view's pin alone");
        give(&signal("child let go"));
    });
    store.engine().unpin(worked_at);
    store.engine().unpin(viewed[0]);
    give(&parent_let_go);
    await_signal(&signal("child let go"));
    join(pid);
    assert_eq!(pinned(), viewed);
    drop(view);
    assert!(pinned().is_empty());
}

/// A forked child looked after its background threads under a mutex at every call, for ever. Whenever one of its threads was at that when another
/// forked again, the next child found the mutex locked by nobody.
fn fork_again_and_again(store: &Store) {
    set(store, b"key", b"1");
    let pid = fork(|| {
        let is_enough = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !is_enough.load(Ordering::Relaxed) {
                        assert_eq!(value(store, b"key").unwrap(), b"1");
                    }
                });
            }
            let forked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for _ in 0..60 {
                    join(fork(|| {
                        // SAFETY: ends this process, should it hang.
                        unsafe { libc::alarm(5) };
                        assert_eq!(value(store, b"key").unwrap(), b"1");
                    }));
                }
            }));
            is_enough.store(true, Ordering::Relaxed);
            assert!(forked.is_ok());
        });
        store.close().unwrap();
    });
    join(pid);
    store.close().unwrap();
}

/// The child of a fork that finds no free slot is refused, and leaves what is its parent's alone. It once closed the lock file's descriptor
/// twice, the second time whatever file had got its number, and took its views' pins away from its parent.
fn fork_without_a_slot(store: &Store) {
    let stamp = Stamp { writer: 1, number: 1 };
    set(store, b"viewed", &stamp.value(b"viewed", 1000));
    let view = store.view(b"viewed").unwrap().unwrap();
    let lock_file = Path::new("/proc/self/fd");
    let pid = fork(|| {
        let fds = || std::fs::read_dir(lock_file).unwrap().count();
        let before = fds();
        // Gets the number that the lock file had.
        let bystanders: Vec<_> = (0..4).map(|_| std::fs::File::open("/proc/self/stat").unwrap()).collect();
        assert!(matches!(store.get(b"viewed"), Err(Error::TooManyParticipants(_))));
        assert!(matches!(
            store.set(b"viewed", b"", &SetOptions::default()),
            Err(Error::TooManyParticipants(_))
        ));
        let again =
            Store::open(&common::location_setting(), &Options { background: false, ..Options::default() });
        assert!(matches!(again, Err(Error::TooManyParticipants(_))));
        // SAFETY: both are bitwise copies of values that are forgotten next: in this process they come to their end here.
        unsafe {
            drop(std::ptr::read(&raw const view));
            drop(std::ptr::read(store));
        }
        let metadata: Vec<_> = bystanders.iter().map(std::fs::File::metadata).collect();
        assert!(
            metadata.iter().all(std::result::Result::is_ok),
            "the store closed another's file: {metadata:?}"
        );
        drop(bystanders);
        assert!(fds() <= before);
    });
    join(pid);
    assert_eq!(store.stats().unwrap().pinned_segments, 1, "the child took its parent's pin away");
    assert_eq!(Stamp::of(b"viewed", &view), stamp);
}

fn run(role: &str, place: &Place) {
    assert_eq!(spawn(role, &settings(place)).wait(TIMEOUT), End::Finished);
}

#[test]
fn a_forked_child_is_a_participant_of_its_own_and_keeps_its_views() {
    for place in [Place::shared_memory("fork"), Place::in_directory()] {
        let is_shared = place.text().starts_with("shm");
        let options =
            if is_shared { cache() } else { options(16, 32, Durability::EverySec, WhenFull::Evict) };
        let store = place.open(&options);
        run("forker", &place);
        assert_eq!(value(&store, b"after").unwrap(), b"3");
        store.close().unwrap();
    }
}

#[test]
fn a_forked_child_has_background_threads_of_its_own() {
    let place = Place::shared_memory("fork-threads");
    let store = place.open(&cache());
    run("forker-with-threads", &place);
    store.close().unwrap();
}

#[test]
fn a_forked_child_has_the_pins_of_views_alone() {
    let place = Place::shared_memory("fork-at-work");
    let store = place.open(&cache());
    run("forker-at-work", &place);
    store.close().unwrap();
}

#[test]
fn a_child_of_threads_that_are_at_work_forks_children_that_work() {
    let place = Place::shared_memory("fork-again");
    let store = place.open(&Options { participants_max: 128, ..cache() });
    run("forker-of-forkers", &place);
    store.close().unwrap();
}

/// The lock on a dead participant's byte keeps other handles out, and let every thread of this one in: the slower of two was still releasing when
/// the slot was a newcomer's already, whose segments it then gave away.
#[test]
fn the_threads_of_one_handle_release_a_dead_participant_once() {
    let place = Place::shared_memory("reap");
    let store = place.open(&cache());
    let mut sitter = spawn("sitter", &[&settings(&place)[..], &[("NAME", "seated".to_owned())]].concat());
    await_signal(&place.beside("seated"));
    sitter.kill();
    let engine = store.engine();
    let slot = engine.dead_participants()[0];
    let (inside, entered) = (AtomicU64::new(0), std::sync::Barrier::new(2));
    let released = std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            engine.reap(slot, || {
                inside.fetch_add(1, Ordering::SeqCst);
                entered.wait();
                // The other one tries meanwhile.
                std::thread::sleep(Duration::from_millis(200));
                assert_eq!(inside.load(Ordering::SeqCst), 1, "two threads release the same participant");
                Ok(())
            })
        });
        let second = scope.spawn(|| {
            entered.wait();
            engine.reap(slot, || {
                inside.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
        });
        [first, second].map(|thread| thread.join().unwrap().unwrap())
    });
    assert_eq!(released, [true, false]);
    assert!(engine.dead_participants().is_empty());
    store.close().unwrap();
}

#[test]
fn a_fork_without_a_free_slot_is_refused_in_the_child_and_harms_nobody() {
    let place = Place::shared_memory("fork-full");
    let store = place.open(&Options { participants_max: 2, ..cache() });
    run("orphan-maker", &place);
    set(&store, b"key", b"value");
    store.close().unwrap();
}

#[test]
fn a_child_that_never_touches_the_store_does_not_keep_its_parent_alive() {
    let place = Place::shared_memory("fork-death");
    let store = place.open(&cache());
    set(&store, b"viewed", b"value");
    let mut parent = spawn("dying-parent", &settings(&place));
    assert_eq!(parent.wait(TIMEOUT), End::Killed);
    await_signal(&place.beside("forked"));
    let died = Instant::now();
    // The parent's named lock is free, though its child lives on with all the files that it inherited. The child has its pins.
    let token = lock(&store, b"parents", 1500).unwrap();
    assert!(died.elapsed() < TAKEOVER_MAX);
    assert!(store.lock_release(&token).unwrap());
    assert_eq!(store.engine().dead_participants().len(), 1);
    assert_eq!(store.stats().unwrap().participants, 2, "this one and the child");
    assert_eq!(store.stats().unwrap().pinned_segments, 1);
    give(&place.beside("enough"));
    wait_until("the child's pins are gone", TIMEOUT, || store.stats().unwrap().pinned_segments == 0);
    store.close().unwrap();
}

#[test]
fn named_locks_are_exclusive_and_free_when_their_holder_dies() {
    let place = Place::shared_memory("names");
    let store = place.open(&cache());
    let mine = lock(&store, b"mine", 0).unwrap();
    assert!(matches!(lock(&store, b"mine", 20), Err(Error::Timeout(_))), "named locks are not reentrant");
    let other = lock(&store, b"other", 0).unwrap();
    assert!(store.lock_release(&mine).unwrap());
    assert!(!store.lock_release(&mine).unwrap(), "a lock was released twice");
    let again = lock(&store, b"mine", 0).unwrap();
    assert!(!store.lock_release(&mine).unwrap(), "an old token released a new lock");
    assert!(store.lock_release(&again).unwrap() && store.lock_release(&other).unwrap());

    let mut holder = spawn("lock-holder", &settings(&place));
    await_signal(&place.beside("locked"));
    assert!(matches!(lock(&store, b"held", 50), Err(Error::Timeout(_))));
    let waiter = std::thread::spawn({
        let store = place.open(&Options { background: false, ..Options::default() });
        move || {
            let token = lock(&store, b"held", 20_000).unwrap();
            let taken = Instant::now();
            assert!(store.lock_release(&token).unwrap());
            taken
        }
    });
    std::thread::sleep(Duration::from_millis(150));
    assert!(!waiter.is_finished());
    let killed = Instant::now();
    holder.kill();
    let taken = waiter.join().unwrap();
    assert!(taken.saturating_duration_since(killed) < TAKEOVER_MAX);

    let mut asked = 0;
    let token = lock(&store, b"mine", 0).unwrap();
    let interrupted = store.lock_acquire(b"mine", None, &mut || {
        asked += 1;
        if asked == 3 { Err(Error::Timeout("interrupted".into())) } else { Ok(()) }
    });
    assert!(matches!(interrupted, Err(Error::Timeout(message)) if message == "interrupted"));
    assert!(store.lock_release(&token).unwrap());
    store.close().unwrap();
}

#[test]
fn named_locks_exclude_threads() {
    let place = Place::shared_memory("name-threads");
    let store = Arc::new(place.open(&cache()));
    let inside = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (store, inside) = (store.clone(), inside.clone());
            std::thread::spawn(move || {
                for _ in 0..200 {
                    let token = lock(&store, b"one", 20_000).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    assert!(store.lock_release(&token).unwrap());
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    store.close().unwrap();
}

#[test]
fn a_read_only_participant_reads_what_others_write_and_writes_nothing() {
    for (place, options) in [
        (Place::shared_memory("read-only"), cache()),
        (Place::in_directory(), options(16, 48, Durability::EverySec, WhenFull::Error)),
    ] {
        let read_only = Options { read_only: true, ..Options::default() };
        assert!(
            matches!(Store::open(&place.location, &read_only), Err(Error::NotAStore(_))),
            "a read-only open created a store"
        );
        let store = place.open(&options);
        let reader = place.open(&read_only);
        set(&store, b"key", b"1");
        let (meta, _) = reader.get(b"key").unwrap().unwrap();
        let view = reader.view(b"key").unwrap().unwrap();
        assert_eq!(store.stats().unwrap().pinned_segments, 1, "a read-only participant's pin is seen by all");
        let refusals = [
            reader.set(b"key", b"2", &SetOptions::default()).map(drop),
            reader.delete(b"key").map(drop),
            reader.pop(b"key").map(drop),
            reader.touch(b"key", 1).map(drop),
            reader.incr(b"count", 1, Some(0), 0).map(drop),
            reader.clear().map(drop),
            reader.set_many(&[(b"key", b"2", 0)], &SetOptions::default()),
            reader.delete_many(&[b"key"]).map(drop),
            reader.transaction(&[BatchOp::Delete { key: b"key" }], &[]),
            reader.lock_acquire(b"name", None, &mut || Ok(())).map(drop),
            reader.flush(),
            reader.set_when_full(WhenFull::Error),
            reader.set(b"large", &vec![0; 1 << 20], &SetOptions::default()).map(drop),
        ];
        for (index, refusal) in refusals.into_iter().enumerate() {
            assert!(matches!(refusal, Err(Error::ReadOnly(_))), "request {index}: {refusal:?}");
        }
        assert_eq!(store.meta(b"key").unwrap().unwrap(), meta);
        assert_eq!(store.len().unwrap(), 1);
        // While the other writes, evicts and demotes: always whole values, and the view keeps its bytes.
        let writer = std::thread::spawn(move || {
            store.delete(b"key").unwrap();
            churn(&store, 8);
            store
        });
        let mut reads = 0;
        while !writer.is_finished() {
            for index in 0..40 {
                let key = format!("churn {index}").into_bytes();
                if let Some(value) = value(&reader, &key) {
                    Stamp::of(&key, &value);
                    reads += 1;
                }
            }
        }
        assert!(reads > 0);
        assert_eq!(*view, *b"1");
        let store = writer.join().unwrap();
        assert_eq!(keys(&reader, b"churn"), keys(&store, b"churn"));
        drop(view);
        assert_eq!(store.stats().unwrap().pinned_segments, 0);
        reader.close().unwrap();
        store.close().unwrap();
    }
}

#[test]
fn views_keep_their_bytes_through_everything() {
    for (place, options) in [
        (Place::shared_memory("views"), cache()),
        (Place::in_directory(), options(16, 32, Durability::EverySec, WhenFull::Evict)),
    ] {
        let store = place.open(&options);
        let stamp = Stamp { writer: 1, number: 7 };
        let fates =
            ["deleted", "overwritten", "popped", "in a transaction", "expired", "left alone", "cleared"];
        let lens = [24, 5000, 262_144, 262_145, 1_500_000];
        let expires_at_ms = store.now_ms() + 2000;
        let mut views = Vec::new();
        for (index, fate) in fates.iter().enumerate() {
            let key = fate.as_bytes();
            let expires_at_ms = if *fate == "expired" { expires_at_ms } else { 0 };
            let bytes = stamp.value(key, lens[index % lens.len()]);
            store.set(key, &bytes, &SetOptions { expires_at_ms, ..SetOptions::default() }).unwrap();
            let view = store.view(key).unwrap().unwrap();
            assert!(view.is_zero_copy());
            assert_eq!(view.meta().value_len, bytes.len() as u64);
            views.push((key, view));
        }
        store.delete(b"deleted").unwrap();
        set(&store, b"overwritten", b"new");
        store.pop(b"popped").unwrap().unwrap();
        let ops = [BatchOp::Set {
            key: b"in a transaction",
            value: b"new",
            encoding: 0,
            expires_at_ms: 0,
            flags: 0,
        }];
        store.transaction(&ops, &[]).unwrap();
        let check = |when: &str| {
            for (key, view) in &views {
                assert_eq!(Stamp::of(key, view), stamp, "{} {when}", String::from_utf8_lossy(key));
            }
        };
        // Eviction, demotion and compaction, by one who works hard.
        churn(&store, 12);
        check("after churning");
        wait_until("it has expired", Duration::from_secs(10), || store.now_ms() > expires_at_ms);
        assert!(value(&store, b"expired").is_none());
        store.len().unwrap();
        check("after expiring");
        store.clear().unwrap();
        churn(&store, 4);
        check("after clearing");
        store.close().unwrap();
        check("after closing");
        let other = place.open(&Options { background: false, ..Options::default() });
        churn(&other, 4);
        check("after closing, while another goes on");
        assert!(other.stats().unwrap().pinned_segments > 0);
        drop(store);
        check("after dropping the store");
        drop(views);
        assert_eq!(other.stats().unwrap().pinned_segments, 0);
        other.close().unwrap();
    }
}

#[test]
fn a_closed_store_says_so() {
    let place = Place::shared_memory("closed");
    let store = place.open(&cache());
    set(&store, b"key", b"value");
    let mut scan = store.scan(b"");
    store.close().unwrap();
    store.close().unwrap();
    assert!(store.is_closed());
    let refusals = [
        store.get(b"key").map(drop),
        store.meta(b"key").map(drop),
        store.view(b"key").map(drop),
        store.set(b"key", b"", &SetOptions::default()).map(drop),
        store.set(b"key", &vec![0; 1 << 20], &SetOptions::default()).map(drop),
        store.delete(b"key").map(drop),
        store.pop(b"key").map(drop),
        store.touch(b"key", 0).map(drop),
        store.incr(b"key", 1, None, 0).map(drop),
        store.len().map(drop),
        store.clear().map(drop),
        store.transaction(&[], &[]),
        store.flush(),
        store.stats().map(drop),
        store.check(false).map(drop),
        scan.next_batch().map(drop),
        lock(&store, b"name", 0).map(drop),
    ];
    for (index, refusal) in refusals.into_iter().enumerate() {
        assert!(matches!(refusal, Err(Error::Closed(_))), "request {index}: {refusal:?}");
    }
}

#[test]
fn too_many_participants_are_refused_until_one_leaves() {
    let place = Place::shared_memory("many");
    let first = place.open(&Options { participants_max: 3, ..cache() });
    let second = place.open(&Options { background: false, ..Options::default() });
    let third = place.open(&Options { background: false, read_only: true, ..Options::default() });
    let refusal = Store::open(&place.location, &Options::default());
    let Err(Error::TooManyParticipants(message)) = refusal else { panic!("{refusal:?}") };
    assert!(message.contains('3') && message.contains("participants_max"), "{message}");
    set(&first, b"key", b"value");
    drop(third);
    let fourth = place.open(&Options { background: false, ..Options::default() });
    assert_eq!(value(&fourth, b"key").unwrap(), b"value");
    drop((first, second, fourth));
}

/// Where no slot is free, a newcomer takes a dead one's before the keeper came by; what the dead had begun was once released only by the
/// next keeper, however long this one lived.
#[test]
fn what_the_dead_began_is_released_though_their_slots_are_used_again() {
    let place = Place::shared_memory("buried");
    let keeper = place.open(&Options { participants_max: 2, background: true, ..cache() });
    for _ in 0..4 {
        let crash = [("THERMAE_CRASH_POINT", "large.piece_written:2".to_owned())];
        assert_eq!(spawn_with("large-writer", &settings(&place), &crash).wait(TIMEOUT), End::Killed);
        let successor = place.open(&Options { background: false, ..Options::default() });
        let pending = || {
            let segments = keeper.engine().segments().iter();
            segments.filter(|segment| segment.state.load(Ordering::SeqCst) == state::EXTENT_PENDING).count()
        };
        wait_until("the extents are free", TAKEOVER_MAX, || pending() == 0);
        successor.close().unwrap();
    }
    keeper.close().unwrap();
}

/// Whoever took over the partition of a key that a transaction had stored with an expiry looked for that expiry beyond the bytes that it had
/// read of the record, and panicked.
#[test]
fn what_a_transaction_stored_with_an_expiry_outlives_the_next_writers_death() {
    let place = Place::shared_memory("expiring-transaction");
    let store = place.open(&cache());
    let crash = [("THERMAE_CRASH_POINT", "append.reserved".to_owned())];
    assert_eq!(spawn_with("expiring-transactor", &settings(&place), &crash).wait(TIMEOUT), End::Killed);
    assert!(store.touch(b"kept", 0).unwrap());
    let (meta, value) = store.get(b"kept").unwrap().unwrap();
    assert_eq!((meta.expires_at_ms, meta.flags, value.as_slice()), (0, 5, &b"1"[..]));
    store.close().unwrap();
}

/// Slots of the dead were once free only after a living participant had reaped them. Where all of them were killed, there was none, and
/// nobody could ever attach again.
#[test]
fn the_dead_do_not_keep_others_out() {
    let place = Place::shared_memory("dead");
    place.open(&Options { participants_max: 2, ..cache() }).close().unwrap();
    for round in 0..3 {
        let mut sitters: Vec<_> = (0..2)
            .map(|number| {
                let [store, signals] = settings(&place);
                spawn("sitter", &[store, signals, ("NAME", format!("sitting {round} {number}"))])
            })
            .collect();
        for number in 0..2 {
            await_signal(&place.beside(&format!("sitting {round} {number}")));
        }
        assert!(matches!(
            Store::open(&place.location, &Options::default()),
            Err(Error::TooManyParticipants(_))
        ));
        sitters.iter_mut().for_each(common::ChildGuard::kill);
    }
    let reader = place.open(&Options { read_only: true, ..Options::default() });
    let store = place.open(&Options { background: false, ..Options::default() });
    set(&store, b"key", b"value");
    assert_eq!(value(&reader, b"key").unwrap(), b"value");
    drop((reader, store));
}

/// A transaction once waited for as many numbers as it had been given changes, though a key given twice takes one, and an empty one none: with
/// durability "always" it waited for numbers that nobody had taken yet.
#[test]
fn transactions_wait_for_what_they_wrote_and_no_more() {
    let place = Place::in_directory();
    let store = Arc::new(place.open(&options(16, 16, Durability::Always, WhenFull::Error)));
    let worker = std::thread::spawn({
        let store = store.clone();
        move || {
            let set = |value| BatchOp::Set { key: b"twice", value, encoding: 0, expires_at_ms: 0, flags: 0 };
            store.transaction(&[set(b"1"), set(b"2"), set(b"3")], &[]).unwrap();
            let (meta, last) = store.get(b"twice").unwrap().unwrap();
            assert_eq!(last, b"3");
            store.transaction(&[], &[]).unwrap();
            store.transaction(&[], &[(b"twice", Some(meta.version)), (b"absent", None)]).unwrap();
            assert!(matches!(store.transaction(&[], &[(b"twice", None)]), Err(Error::Conflict(_))));
            store.transaction(&[BatchOp::Delete { key: b"absent" }], &[]).unwrap();
        }
    });
    wait_until("the transactions are over", Duration::from_secs(10), || worker.is_finished());
    worker.join().unwrap();
    store.close().unwrap();
}
