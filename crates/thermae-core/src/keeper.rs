//! The background threads of a participant, and which duty runs when.
//!
//! Every writable handle has two threads: one flushes, one keeps house. Only the holders of the two leases work; the others look every
//! quarter of a second whether a lease has become free or its holder has died. With no participant attached nothing runs, and nothing needs to.
//!
//! After a fork the child has no such threads: its first call starts its own.

use crate::background::{in_one_piece, work_in_background};
use crate::engine::Engine;
use crate::error::Result;
use crate::lock::{NOBODY, SharedLock};
use crate::pool::HUGE_PAGE_BYTES;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the housekeeper looks around.
const TICK: Duration = Duration::from_millis(250);
/// How long the flusher sleeps when nobody wakes it.
const FLUSH_TICK: Duration = Duration::from_millis(100);

/// Huge pages asked for in one round, where nobody waits for the processor.
const HUGE_PAGES_PER_TICK: u32 = 32;

/// How far ahead of the frames in use.
const HUGE_PAGES_AHEAD_BYTES: u64 = 64 << 20;

/// The two threads.
#[derive(Debug)]
pub(crate) struct Keeper {
    shared: Arc<Signal>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Signal {
    stop: AtomicBool,
    sleeping: Mutex<()>,
    wake: Condvar,
}

impl Signal {
    fn sleep(&self, duration: Duration) {
        let guard = self.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.stop.load(Ordering::SeqCst) {
            // Woken early or not, the loop looks at everything again.
            drop(self.wake.wait_timeout(guard, duration));
        }
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

impl Keeper {
    /// Starts the threads for an engine.
    pub(crate) fn start(engine: &Arc<Engine>) -> Self {
        let shared = Arc::new(Signal::default());
        let mut threads = Vec::new();
        for (name, run) in
            [("thermae-flush", flush_loop as fn(&Engine, &Signal)), ("thermae-keep", keep_loop)]
        {
            let (engine, signal) = (engine.clone(), shared.clone());
            let spawned =
                std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&engine, &signal));
            // Without threads the store works all the same: writers make room and flush themselves.
            threads.extend(spawned);
        }
        Self { shared, threads }
    }

    /// Ends the threads and waits for them.
    pub(crate) fn stop(self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(self.shared.sleeping.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.wake.notify_all();
        for thread in self.threads {
            // A thread that panicked has nothing left to do; its lease is free once this process leaves.
            let _ = thread.join();
        }
    }
}

/// A lease held by this participant while the guard lives.
struct Lease<'a>(&'a SharedLock);

impl<'a> Lease<'a> {
    fn take(engine: &Engine, lock: &'a SharedLock) -> Option<Self> {
        lock.try_lock_or_inherit(engine.member.lock_word(), |slot| engine.member.is_alive(slot))
            .map(|_| Self(lock))
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.0.unlock();
    }
}

fn flush_loop(engine: &Engine, signal: &Signal) {
    while !signal.is_stopping() {
        if engine.durable.is_none() {
            signal.sleep(TICK);
            continue;
        }
        // A failed flush has stopped writing and said so to everybody; there is nothing to do but look again.
        let _ = engine.flush_step(FLUSH_TICK);
    }
}

fn keep_loop(engine: &Engine, signal: &Signal) {
    work_in_background();
    while !signal.is_stopping() {
        if let Some(_lease) = Lease::take(engine, &engine.globals().keeper_lease) {
            // Should the keeper before have died in the middle of it.
            engine.release_what_was_of(NOBODY);
            while !signal.is_stopping() {
                // Each duty is tried again at the next tick; an error in one (a full disk, say) does not keep the others from running.
                let _ = engine.keep_house();
                signal.sleep(TICK);
            }
        }
        signal.sleep(TICK);
    }
}

impl Engine {
    /// One round of the maintenance duties.
    pub(crate) fn keep_house(&self) -> Result<()> {
        let mut first_error = Ok(());
        let mut note = |result: Result<()>| {
            if first_error.is_ok() {
                first_error = result;
            }
        };
        note(self.reap_dead());
        note(self.expire_due(self.now_ms()).map(drop));
        note(self.keep_room());
        if self.durable.is_some() && self.is_checkpoint_due() {
            note(self.write_checkpoint_at_leisure());
        }
        self.widen_pages();
        first_error
    }

    /// Has the hot frames in use backed by huge pages, some at a time: a random access to small pages costs a walk through four
    /// levels of page tables (eight under virtualisation), which is as long as the access itself.
    fn widen_pages(&self) {
        let globals = self.globals();
        let used =
            u64::from(globals.hot_high_water.load(Ordering::Relaxed)) * u64::from(self.geometry.frame_bytes);
        // Ahead of the writers, who then meet no page fault on fresh memory either.
        let used = (used + HUGE_PAGES_AHEAD_BYTES).min(self.geometry.hot_file_bytes() as u64);
        let wanted = (used as usize).div_ceil(HUGE_PAGE_BYTES) as u32;
        let first = globals.huge_pages.load(Ordering::Relaxed);
        for page in first..wanted.min(first.saturating_add(HUGE_PAGES_PER_TICK)) {
            // What the kernel won't do now it would not do later either: each page is asked for once.
            let was_done = in_one_piece(|| {
                self.hot.collapse(page as usize * HUGE_PAGE_BYTES);
            });
            if !was_done {
                return;
            }
            globals.huge_pages.store(page + 1, Ordering::Relaxed);
        }
    }

    /// Releases what dead participants held.
    pub(crate) fn reap_dead(&self) -> Result<()> {
        if self.globals().buried.swap(0, Ordering::SeqCst) > 0 {
            self.release_what_was_of(NOBODY);
        }
        for dead in self.dead_participants() {
            self.reap(dead, || {
                self.release_what_was_of(dead);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn release_what_was_of(&self, dead: u32) {
        self.inherit_all_locks(dead);
        self.forget_observers_of(dead);
        self.await_repairs(dead);
        self.release_segments_of(dead);
    }

    /// Waits for those who inherited a partition from a dead participant and are still repairing it: they may be about to adopt extents
    /// that it had not published yet.
    fn await_repairs(&self, dead: u32) {
        for hash in self.pending_extent_hashes(dead) {
            drop(self.lock_partition(self.partition_of(hash)));
        }
    }

    /// Takes over every lock that a dead participant held, which repairs what it guards.
    fn inherit_all_locks(&self, dead: u32) {
        for number in 0..self.geometry.partitions {
            if self.partitions()[number as usize].lock.owner() == Some(dead) {
                drop(self.lock_partition(number));
            }
        }
        let globals = self.globals();
        for number in 0..globals.heads.len() as u32 {
            if self.head(number).lock.owner() == Some(dead) {
                self.close_open_segment(number);
            }
        }
        if globals.room_lock.owner() == Some(dead) {
            drop(self.lock_room());
        }
        if globals.pool_lock.owner() == Some(dead) {
            drop(self.lock_pool());
        }
        if globals.arena_lock.owner() == Some(dead) {
            drop(self.lock_arena());
        }
        for lock in [
            &globals.snapshot_lock,
            &globals.flush_lease,
            &globals.checkpoint_lock,
            &globals.names_lock,
            &globals.keeper_lease,
        ] {
            if lock.owner() == Some(dead) {
                drop(self.lock(lock, |_| {}));
            }
        }
    }
}
