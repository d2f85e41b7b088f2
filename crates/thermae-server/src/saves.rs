//! What clients ask for with SAVE and BGSAVE: a snapshot of the store, or, where the server was not told where to put snapshots, a flush of
//! its durable tiers.
//!
//! BGSAVE is done by a thread of its own, SAVE on the loop of who asks, whose other clients wait meanwhile; there is one of both at a time.
//! A snapshot is there whole or not at all; once it is, those before it are removed, unless somebody has them open. How each ended is noted in the
//! journal, for nobody waits for a background one. Rejected: exchanging one fixed name, which would take a snapshot away from under whoever is
//! copying it.

use crate::errand::Errand;
use crate::journal::Journal;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use thermae_core::env::{Env, SystemEnv};
use thermae_core::{Cancellation, Error, Location, Store, destroy};

/// What the names of snapshots begin with; milliseconds since 1970 follow.
const PREFIX: &str = "snapshot-";
/// The name of one that is not done with.
const UNDER_WAY: &str = "saving";
/// Why one failed that was given up.
const GIVEN_UP: &str = "it was given up, for the server is to end";

/// How a save ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How long it took.
    pub took: Duration,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// What is known of saves.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// When the one under way began.
    pub began: Option<Instant>,
    /// How the last one ended.
    pub last: Option<Outcome>,
    /// When the last one that did not fail began, in seconds since 1970, and the store's sequence number then; of the server's start, before.
    pub succeeded: (u64, u64),
    /// Saves that did not fail.
    pub count: u64,
    /// Saves that failed.
    pub failures: u64,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// The one under way is done by the thread.
    is_in_background: bool,
    /// Of the one under way.
    cancellation: Cancellation,
    /// The server ends: whatever begins now is given up.
    is_over: bool,
}

impl Inner {
    fn start(&mut self, is_in_background: bool) {
        self.state.began = Some(Instant::now());
        self.is_in_background = is_in_background;
        self.cancellation = Cancellation::default();
        if self.is_over {
            self.cancellation.cancel();
        }
    }
}

/// What was saved.
struct Saved {
    /// All up to this sequence number.
    sequence: u64,
    /// The snapshot, where one was made.
    path: Option<PathBuf>,
}

/// Saves of a server's store.
#[derive(Debug)]
pub struct Saves {
    directory: Option<PathBuf>,
    inner: Mutex<Inner>,
    /// Signalled when a save has ended, and when the server is to end.
    changed: Condvar,
    errand: Errand,
}

/// There is one under way.
#[derive(Debug)]
pub struct Busy;

impl Saves {
    /// Of a server that starts now, and puts snapshots into this directory.
    ///
    /// # Errors
    /// Closed.
    pub fn new(directory: Option<PathBuf>, store: &Store) -> Result<Self, Error> {
        let state = State { succeeded: (store.now_ms() / 1000, store.sequence()?), ..State::default() };
        let cancellation = Cancellation::default();
        let inner = Mutex::new(Inner { state, is_in_background: false, cancellation, is_over: false });
        Ok(Self { directory, inner, changed: Condvar::new(), errand: Errand::default() })
    }

    /// Whether a save makes snapshots.
    pub fn makes_snapshots(&self) -> bool {
        self.directory.is_some()
    }

    /// What is known of saves.
    pub fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// Begins one, to be done by the thread.
    ///
    /// # Errors
    /// There is one already.
    pub fn begin(&self) -> Result<(), Busy> {
        self.start(true)?;
        self.errand.want();
        Ok(())
    }

    /// Does one on this thread.
    ///
    /// # Errors
    /// There is one already; or those of the snapshot, or of the flush.
    pub fn save(&self, store: &Store, journal: &Journal) -> Result<Result<(), Error>, Busy> {
        self.start(false)?;
        Ok(self.work(store, journal))
    }

    /// Does one on this thread, of a server that is to end once it is done. One in the background is given up for it, as Redis does; one that another
    /// client waits for is waited for.
    ///
    /// # Errors
    /// Those of the snapshot, or of the flush; cancelled where the server ends meanwhile.
    pub fn save_before_the_end(&self, store: &Store, journal: &Journal) -> Result<(), Error> {
        let mut inner = self.lock();
        while inner.state.began.is_some() {
            if inner.is_over {
                return Err(Error::Cancelled(GIVEN_UP.to_owned()));
            }
            if inner.is_in_background {
                inner.cancellation.cancel();
            }
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner.start(false);
        drop(inner);
        self.work(store, journal)
    }

    /// The thread's work, until the server ends.
    pub fn run(&self, store: &Store, journal: &Journal) {
        // How it ended is noted.
        self.errand.run(|| drop(self.work(store, journal)));
    }

    /// Ends the thread; a snapshot under way is given up.
    pub fn end(&self) {
        let mut inner = self.lock();
        inner.is_over = true;
        inner.cancellation.cancel();
        drop(inner);
        self.changed.notify_all();
        self.errand.end();
    }

    fn start(&self, is_in_background: bool) -> Result<(), Busy> {
        let mut inner = self.lock();
        if inner.state.began.is_some() {
            return Err(Busy);
        }
        inner.start(is_in_background);
        Ok(())
    }

    fn work(&self, store: &Store, journal: &Journal) -> Result<(), Error> {
        let began_at_seconds = store.now_ms() / 1000;
        let cancellation = self.lock().cancellation.clone();
        let saved = cancellation.run(|| self.write(store));
        let failure = saved.as_ref().err().map(|error| match error {
            Error::Cancelled(_) => GIVEN_UP.to_owned(),
            error => error.to_string(),
        });
        let mut inner = self.lock();
        let state = &mut inner.state;
        let took = state.began.take().map_or(Duration::ZERO, |began| began.elapsed());
        state.last = Some(Outcome { took, failure: failure.clone() });
        if let Ok(Saved { sequence, .. }) = &saved {
            state.succeeded = (began_at_seconds, *sequence);
            state.count += 1;
        } else {
            state.failures += 1;
        }
        drop(inner);
        self.changed.notify_all();
        let (kind, fields) = if let Some(reason) = failure {
            ("save-failed", vec![("reason", reason)])
        } else {
            let path = saved.as_ref().ok().and_then(|saved| saved.path.as_ref());
            let took = ("took_ms", took.as_millis().to_string());
            match path {
                Some(path) => ("saved", vec![("path", path.display().to_string()), took]),
                // Whoever reads the log must not take it for a copy.
                None => ("saved-without-snapshot", vec![took]),
            }
        };
        journal.note(kind, store.now_ms(), fields);
        saved.map(drop)
    }

    fn write(&self, store: &Store) -> Result<Saved, Error> {
        let Some(directory) = &self.directory else {
            let sequence = store.sequence()?;
            return store.flush().map(|()| Saved { sequence, path: None });
        };
        let under_way = directory.join(UNDER_WAY);
        if SystemEnv.exists(&under_way).unwrap_or(false) {
            // Whole, but whoever made it did not come to name it.
            destroy(&SystemEnv, &Location::Directory(under_way.clone()))?;
        }
        let report = store.snapshot(&under_way)?;
        let name = format!("{PREFIX}{}", store.now_ms());
        let named = directory.join(&name);
        let failed = |action, path: &Path, source| Error::io(action, path, source);
        SystemEnv
            .rename(&under_way, &named)
            .map_err(|source| failed("rename a snapshot to", &named, source))?;
        SystemEnv.sync_dir(directory).map_err(|source| failed("sync the directory", directory, source))?;
        let names = SystemEnv.list(directory).map_err(|source| failed("list", directory, source))?;
        for other in names.iter().filter_map(|name| name.to_str()).filter(|other| *other != name) {
            let is_snapshot = other
                .strip_prefix(PREFIX)
                .is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
            if is_snapshot {
                // One that is in use goes with the next save.
                drop(destroy(&SystemEnv, &Location::Directory(directory.join(other))));
            }
        }
        Ok(Saved { sequence: report.sequence, path: Some(named) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "files for tests")]
mod tests {
    use super::*;
    use std::thread;
    use thermae_core::{Options, SetOptions};

    /// A store, and a place for snapshots that is not there yet.
    fn with_store(name: &str, act: impl FnOnce(&Store, &Path)) {
        let location = Location::SharedMemory(format!("test-saves-{name}-{}", std::process::id()));
        let options = Options { hot_bytes: Some(16 << 20), background: false, ..Options::default() };
        let store = Store::open(&location, &options).unwrap();
        store.set(b"key", b"value", &SetOptions::default()).unwrap();
        let place = tempfile::tempdir().unwrap();
        act(&store, &place.path().join("snapshots"));
        drop(store);
        destroy(&SystemEnv, &location).unwrap();
    }

    fn wait_until(condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < deadline, "what was waited for did not happen");
            thread::yield_now();
        }
    }

    /// What was noted: the kinds, and what is known of each.
    fn noted(journal: &Journal) -> Vec<(&'static str, Vec<(&'static str, String)>)> {
        journal.take(0).into_iter().map(|event| (event.kind, event.fields)).collect()
    }

    /// It began with the sequence number 0, so that all that a store had ever seen counted as not saved once a server was started anew.
    #[test]
    fn what_was_written_before_the_start_is_no_change() {
        with_store("start", |store, _| {
            let (_, sequence) = Saves::new(None, store).unwrap().state().succeeded;
            assert_eq!(sequence, store.sequence().unwrap());
            assert_ne!(sequence, 0);
        });
    }

    /// Nobody was told of one in the background that had failed.
    #[test]
    fn how_each_ended_is_noted() {
        with_store("noted", |store, directory| {
            let journal = Journal::default();
            let saves = Saves::new(Some(directory.to_owned()), store).unwrap();
            std::fs::write(directory, "no directory").unwrap();
            thread::scope(|scope| {
                let thread = scope.spawn(|| saves.run(store, &journal));
                saves.begin().unwrap();
                wait_until(|| saves.state().failures == 1);
                saves.end();
                thread.join().unwrap();
            });
            let failures = noted(&journal);
            let [("save-failed", fields)] = &failures[..] else { panic!("{failures:?}") };
            let [("reason", reason)] = &fields[..] else { panic!("{fields:?}") };
            assert!(reason.contains(directory.to_str().unwrap()), "{reason}");
            std::fs::remove_file(directory).unwrap();
            let saves = Saves::new(Some(directory.to_owned()), store).unwrap();
            saves.save(store, &journal).unwrap().unwrap();
            let made = noted(&journal);
            let [("saved", fields)] = &made[..] else { panic!("{made:?}") };
            let [("path", path), ("took_ms", took)] = &fields[..] else { panic!("{fields:?}") };
            assert!(Path::new(path).is_dir() && Path::new(path).parent() == Some(directory), "{path}");
            assert!(took.parse::<u64>().is_ok(), "{took}");
            assert_eq!((saves.state().count, saves.state().failures), (1, 0));
        });
    }

    /// Of one that has begun, and that no thread comes to do.
    #[test]
    fn who_waits_for_a_save_does_not_outlast_the_server() {
        with_store("over", |store, _| {
            let saves = Saves::new(None, store).unwrap();
            saves.begin().unwrap();
            thread::scope(|scope| {
                let waiting = scope.spawn(|| saves.save_before_the_end(store, &Journal::default()));
                wait_until(|| saves.lock().cancellation.is_cancelled());
                saves.end();
                assert_eq!(waiting.join().unwrap().unwrap_err().name(), "Cancelled");
            });
        });
    }

    #[test]
    fn the_last_one_takes_the_place_of_one_in_the_background() {
        with_store("last", |store, directory| {
            let journal = Journal::default();
            let saves = Saves::new(Some(directory.to_owned()), store).unwrap();
            saves.begin().unwrap();
            thread::scope(|scope| {
                let last = scope.spawn(|| saves.save_before_the_end(store, &journal));
                wait_until(|| saves.lock().cancellation.is_cancelled());
                let thread = scope.spawn(|| saves.run(store, &journal));
                last.join().unwrap().unwrap();
                saves.end();
                thread.join().unwrap();
            });
            // The two may be noted in any order.
            let mut noted = noted(&journal);
            noted.sort();
            assert_eq!(noted[0], ("save-failed", vec![("reason", GIVEN_UP.to_owned())]));
            assert_eq!((noted.len(), noted[1].0), (2, "saved"));
            assert_eq!(std::fs::read_dir(directory).unwrap().count(), 1);
        });
    }
}
