//! What who runs a store asks of it and changes while it runs: settings for all participants, what it counts, background duties one at a time.

use crate::error::{Error, Result};
use crate::options::{Durability, WhenFull};
use crate::room::RoomRequest;
use crate::segment::Room;
use crate::stats::{Config, Stats};
use crate::store::Store;
use std::collections::HashSet;
use std::sync::atomic::Ordering;

impl Store {
    /// Changes the durability of the running store, for all participants.
    ///
    /// # Errors
    /// InvalidOption without a cold tier; ReadOnly; those of the flush that a stricter durability begins with.
    pub fn set_durability(&self, durability: Durability) -> Result<()> {
        self.enter()?;
        self.engine().check_writable()?;
        if durability != Durability::None && self.engine().durable.is_none() {
            return Err(Error::invalid_option(format!(
                "{} has no cold tier and no warm one, so nothing can be made durable: create the store with cold=",
                self.engine().paths.location
            )));
        }
        self.engine().change_durability(durability)
    }

    /// Lets only so many bytes of the hot tier be used, for all participants, until its shared memory is made anew; what is too much is demoted
    /// or, as `when_full` says, dropped before this returns. The memory itself stays allocated. In whole frames, rounded down.
    ///
    /// # Errors
    /// InvalidOption for less than 16 frames or more than the hot tier's size; Full where nothing more may be given up; ReadOnly, Closed, Cancelled.
    pub fn set_hot_limit(&self, bytes: u64) -> Result<()> {
        self.enter()?;
        self.engine().check_writable()?;
        self.engine().limit_hot(bytes)
    }

    /// Changes what a full store does, for all participants.
    ///
    /// # Errors
    /// ReadOnly, Io.
    pub fn set_when_full(&self, when_full: WhenFull) -> Result<()> {
        self.enter()?;
        self.engine().check_writable()?;
        self.engine().change_when_full(when_full)
    }

    /// What is acknowledged survives what, at present.
    pub fn durability(&self) -> Durability {
        self.engine().durability()
    }

    /// How the store is configured now.
    pub fn config(&self) -> Config {
        self.engine().config()
    }

    /// What the store holds and has done.
    ///
    /// # Errors
    /// Closed.
    pub fn stats(&self) -> Result<Stats> {
        self.enter()?;
        Ok(self.engine().stats())
    }

    /// The last sequence number given out: [`Stats::sequence`], without the work of counting the rest.
    ///
    /// # Errors
    /// Closed.
    pub fn sequence(&self) -> Result<u64> {
        self.enter()?;
        Ok(self.engine().last_sequence())
    }

    /// Whether a failed flush has stopped writes: [`Stats::writes_stopped`], likewise.
    ///
    /// # Errors
    /// Closed.
    pub fn writes_stopped(&self) -> Result<bool> {
        self.enter()?;
        Ok(self.engine().globals().writes_stopped.load(Ordering::SeqCst) != 0)
    }

    /// Frees at least one frame of a full tier, as a writer would. For tests and tools.
    ///
    /// # Errors
    /// Full where nothing can be freed.
    pub fn make_room(&self) -> Result<()> {
        self.enter()?;
        self.engine().check_writable()?;
        self.engine().make_room(Room::Hot, &mut RoomRequest::for_frames(1))
    }

    /// Moves up to `segments_max` of the oldest segments from the warm tier to the cold one, as is done in the background where the warm one
    /// is nearly full. False where there was none to move. For tests and tools.
    ///
    /// # Errors
    /// WritesStopped after a failed write or sync.
    pub fn migrate(&self, segments_max: usize) -> Result<bool> {
        self.enter()?;
        self.engine().check_writable()?;
        let _room = self.engine().lock_room();
        self.engine().migrate_step(segments_max, &mut HashSet::new())
    }

    /// One round of the background duties, for who opened the store without background threads. For tests and tools.
    ///
    /// # Errors
    /// The first that a duty met; the others were done all the same.
    pub fn keep_house(&self) -> Result<()> {
        self.enter()?;
        self.engine().check_writable()?;
        self.engine().keep_house()
    }
}
