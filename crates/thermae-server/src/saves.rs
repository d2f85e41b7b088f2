//! What clients ask for with SAVE and BGSAVE: a snapshot of the store, or, where the server was not told where to put snapshots, a flush of
//! its durable tiers.
//!
//! BGSAVE is done by a thread of its own, SAVE on the loop of who asks, whose other clients wait meanwhile; there is one of both at a time.
//! A snapshot is there whole or not at all; once it is, those before it are removed, unless somebody has them open. Rejected: exchanging one
//! fixed name, which would take a snapshot away from under whoever is copying it.

use crate::errand::Errand;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use thermae_core::env::{Env, SystemEnv};
use thermae_core::{Cancellation, Error, Location, Store, destroy};

/// What the names of snapshots begin with; milliseconds since 1970 follow.
const PREFIX: &str = "snapshot-";
/// The name of one that is not done with.
const UNDER_WAY: &str = "saving";

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
}

/// Saves of a server's store.
#[derive(Debug)]
pub struct Saves {
    directory: Option<PathBuf>,
    state: Mutex<State>,
    errand: Errand,
    cancellation: Cancellation,
}

/// There is one under way.
#[derive(Debug)]
pub struct Busy;

impl Saves {
    /// Of a server that starts now, and puts snapshots into this directory.
    pub fn new(directory: Option<PathBuf>, store: &Store) -> Self {
        let state = State { succeeded: (store.now_ms() / 1000, 0), ..State::default() };
        let (errand, cancellation) = (Errand::default(), Cancellation::default());
        Self { directory, state: Mutex::new(state), errand, cancellation }
    }

    /// Whether a save makes snapshots.
    pub fn makes_snapshots(&self) -> bool {
        self.directory.is_some()
    }

    /// What is known of saves.
    pub fn state(&self) -> State {
        self.lock().clone()
    }

    /// Begins one, to be done by the thread.
    ///
    /// # Errors
    /// There is one already.
    pub fn begin(&self) -> Result<(), Busy> {
        let mut state = self.lock();
        if state.began.is_some() {
            return Err(Busy);
        }
        state.began = Some(Instant::now());
        self.errand.want();
        Ok(())
    }

    /// Does one on this thread.
    ///
    /// # Errors
    /// There is one already; or those of the snapshot, or of the flush.
    pub fn save(&self, store: &Store) -> Result<Result<(), Error>, Busy> {
        {
            let mut state = self.lock();
            if state.began.is_some() {
                return Err(Busy);
            }
            state.began = Some(Instant::now());
        }
        Ok(self.work(store))
    }

    /// The thread's work, until the server ends.
    pub fn run(&self, store: &Store) {
        // Who wants to know how it ended asks for the state.
        self.errand.run(|| drop(self.work(store)));
    }

    /// Ends the thread; a snapshot under way is given up.
    pub fn end(&self) {
        self.cancellation.cancel();
        self.errand.end();
    }

    fn work(&self, store: &Store) -> Result<(), Error> {
        let began_at_seconds = store.now_ms() / 1000;
        let saved = self.cancellation.run(|| self.write(store));
        let mut state = self.lock();
        let took = state.began.take().map_or(Duration::ZERO, |began| began.elapsed());
        let failure = saved.as_ref().err().map(ToString::to_string);
        state.last = Some(Outcome { took, failure });
        saved.map(|sequence| {
            state.succeeded = (began_at_seconds, sequence);
            state.count += 1;
        })
    }

    /// Returns the sequence number up to which all is saved.
    fn write(&self, store: &Store) -> Result<u64, Error> {
        let Some(directory) = &self.directory else {
            let sequence = store.sequence()?;
            return store.flush().map(|()| sequence);
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
        Ok(report.sequence)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
