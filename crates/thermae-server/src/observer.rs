//! What others do to the store's keys, Python processes above all, and what the store does by itself: told to those clients who want to know.
//!
//! A thread observes the store while somebody wants to know, and sleeps otherwise. What this server's own handle of the store changes it need not be
//! told, and where it is, because others observe too, it passes that by: the commands that did it tell of it. Of what expired or was evicted it tells
//! whoever removed it, as no command did.
//!
//! **Order.** Who wants to know sets the bits of [`crate::attention`] first, then calls [`Observing::begin`], and only then answers its client:
//! whatever anybody does to a key after that answer is told. So observing begins on the caller's thread, not on this one.

use crate::attention::{Attention, CHANGES, EVENTS, EVICTIONS};
use crate::events::{Events, classes};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thermae_core::{Change, ChangeKind, Observer, Store};

/// How often who observes looks whether anybody still wants to know.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is told.
#[derive(Debug)]
pub enum Told<'a> {
    /// What happened to keys.
    Events(&'a Events),
    /// Anything may have happened to any key.
    Overrun,
}

#[derive(Debug, Default)]
struct State {
    is_begun: bool,
    /// For the thread to take.
    begun: Option<Observer>,
    is_over: bool,
}

/// Whether the store is observed, and by what.
#[derive(Debug, Default)]
pub struct Observing {
    state: Mutex<State>,
    changed: Condvar,
}

impl Observing {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the store observed from here on, if it is not. A store that may only be read can't be: then nothing is told of others.
    pub fn begin(&self, store: &Store) {
        let mut state = self.lock();
        if state.is_begun || state.is_over {
            return;
        }
        if let Ok(observer) = store.observe_others() {
            state.is_begun = true;
            state.begun = Some(observer);
            self.changed.notify_one();
        }
    }

    /// Ends the thread.
    pub fn end(&self) {
        self.lock().is_over = true;
        self.changed.notify_one();
    }

    /// The thread's work.
    pub fn run(&self, attention: &Attention, mut tell: impl FnMut(Told<'_>)) {
        loop {
            let mut state = self.lock();
            let observer = loop {
                if state.is_over {
                    return;
                }
                match state.begun.take() {
                    Some(observer) => break observer,
                    None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(state);
            self.follow(observer, attention, &mut tell);
        }
    }

    /// Tells what is observed, while somebody wants to know.
    fn follow(&self, mut observer: Observer, attention: &Attention, tell: &mut impl FnMut(Told<'_>)) {
        loop {
            // Where the store was closed there is nothing more to come.
            let is_open = observer.wait(LOOK_EVERY).is_ok()
                && pass_on(&mut observer, || attention.wanted(), tell).is_ok();
            let mut state = self.lock();
            // Who wants to know has set the bits before he took this lock.
            if !is_open || state.is_over || attention.wanted() & (EVENTS | CHANGES | EVICTIONS) == 0 {
                state.is_begun = false;
                return;
            }
        }
    }
}

/// Tells what has happened since the last time. All of it is collected, and what is wanted is looked at only then: who wants to know since a moment ago has
/// set the bits before he observed what is among it.
fn pass_on(
    observer: &mut Observer,
    wanted: impl Fn() -> u32,
    tell: &mut impl FnMut(Told<'_>),
) -> thermae_core::Result<()> {
    let mut events = Events::default();
    events.want(EVENTS | CHANGES);
    let result = observer.drain(&mut |change| match change {
        Change::Key { kind: ChangeKind::Set | ChangeKind::Deleted, by_self: true, .. } => {}
        Change::Key { kind, key, .. } => {
            let (class, name) = match kind {
                ChangeKind::Set => (classes::STRING, "set"),
                ChangeKind::Deleted => (classes::GENERIC, "del"),
                ChangeKind::Expired => (classes::EXPIRED, "expired"),
                ChangeKind::Evicted => (classes::EVICTED, "evicted"),
            };
            events.note(class, name, key);
            events.note_change(key);
        }
        Change::Overrun => {
            events.keep(wanted());
            tell(Told::Events(&events));
            events.clear();
            tell(Told::Overrun);
        }
    });
    events.keep(wanted());
    if !events.is_empty() {
        tell(Told::Events(&events));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Event;
    use std::time::Instant;
    use thermae_core::env::SystemEnv;
    use thermae_core::{Location, Options, SetOptions, destroy};

    const PATIENCE: Duration = Duration::from_secs(10);

    fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "still not: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// A store, what another process would be, and everything that is told, as text.
    fn observed(
        name: &str,
        act: impl FnOnce(&Observing, &Attention, &Store, &Store, &dyn Fn() -> Vec<String>),
    ) {
        let location =
            Location::parse(&format!("shm://test-observer-{name}-{}", std::process::id())).unwrap();
        let options = Options { hot_bytes: Some(16 << 20), background: false, ..Options::default() };
        let (store, other) =
            (Store::open(&location, &options).unwrap(), Store::open(&location, &options).unwrap());
        let (observing, attention, told) = <(Observing, Attention, Mutex<Vec<String>>)>::default();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                observing.run(&attention, |what| {
                    let mut told = told.lock().unwrap();
                    let Told::Events(events) = what else { return told.push("overrun".to_owned()) };
                    for event in &events.events {
                        let Event::Key { class, name, key } = event else { panic!("{event:?}") };
                        told.push(format!("{class} {name} {}", String::from_utf8_lossy(key)));
                    }
                    for key in &events.changed {
                        told.push(format!("changed {}", String::from_utf8_lossy(key)));
                    }
                });
            });
            let acted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                act(&observing, &attention, &store, &other, &|| std::mem::take(&mut *told.lock().unwrap()));
            }));
            // Whatever came of it: the scope waits for the thread.
            observing.end();
            thread.join().unwrap();
            acted.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // Too late.
            observing.begin(&store);
        });
        assert_eq!(store.engine().globals().observers.load(std::sync::atomic::Ordering::SeqCst), 0);
        drop((store, other));
        destroy(&SystemEnv, &location).unwrap();
    }

    fn set(store: &Store, key: &str, expires_at_ms: u64) {
        store.set(key.as_bytes(), b"value", &SetOptions { expires_at_ms, ..SetOptions::default() }).unwrap();
    }

    #[test]
    fn what_others_do_is_told_and_what_this_process_does_only_where_no_command_did() {
        observed("told", |observing, attention, store, other, told| {
            attention.set(EVENTS, true);
            attention.set(CHANGES, true);
            observing.begin(store);
            set(store, "own", 0);
            set(store, "brief", store.now_ms() + 30);
            set(other, "theirs", 0);
            other.delete(b"own").unwrap();
            store.delete(b"theirs").unwrap();
            wait_until("the key has expired", || store.meta(b"brief").unwrap().is_none());
            store.keep_house().unwrap();
            set(other, "last", 0);
            let mut all = Vec::new();
            wait_until("everything was told", || {
                all.extend(told());
                all.contains(&"changed last".to_owned())
            });
            let names: Vec<&str> =
                all.iter().map(String::as_str).filter(|told| !told.starts_with("changed")).collect();
            assert_eq!(names, ["8 set theirs", "4 del own", "256 expired brief", "8 set last"]);
            let changed: Vec<&str> = all.iter().filter_map(|told| told.strip_prefix("changed ")).collect();
            assert_eq!(changed, ["theirs", "own", "brief", "last"]);
        });
    }

    /// What is wanted was looked at before what had happened: who came in between, and was answered, missed what happened then.
    #[test]
    fn who_comes_while_it_looks_misses_nothing() {
        let mut told = Vec::new();
        observed("between", |_, _, store, other, _| {
            let mut observer = store.observe().unwrap();
            let bits = std::cell::Cell::new(0);
            for _ in 0..2 {
                // A client sets the bits right after they were looked at, and is answered; then the key changes.
                let wanted = || {
                    let before = bits.replace(EVENTS | CHANGES);
                    if before == 0 {
                        set(other, "key", 0);
                    }
                    before
                };
                let mut tell = |what: Told<'_>| {
                    if let Told::Events(events) = what {
                        told.extend(events.changed.clone());
                    }
                };
                pass_on(&mut observer, wanted, &mut tell).unwrap();
            }
        });
        assert_eq!(told, [b"key".to_vec()]);
    }

    #[test]
    fn it_observes_only_while_somebody_wants_to_know() {
        observed("wanted", |observing, attention, store, other, told| {
            let is_observed =
                || store.engine().globals().observers.load(std::sync::atomic::Ordering::SeqCst) > 0;
            for round in 0..3 {
                assert!(!is_observed());
                set(other, "unobserved", 0);
                attention.set(CHANGES, true);
                observing.begin(store);
                observing.begin(store);
                assert!(is_observed());
                let key = format!("round {round}");
                set(other, &key, 0);
                let mut all = Vec::new();
                wait_until("it was told", || {
                    all.extend(told());
                    !all.is_empty()
                });
                assert_eq!(all, [format!("changed {key}")]);
                attention.set(CHANGES, false);
                wait_until("nobody observes", || !is_observed());
            }
        });
    }

    /// However much that is, and however long the thread does not run.
    #[test]
    fn what_this_process_does_overruns_nobody() {
        observed("own", |observing, attention, store, other, told| {
            attention.set(CHANGES, true);
            observing.begin(store);
            set(other, "theirs", 0);
            wait_until("it was told", || told() == ["changed theirs"]);
            // It needs this lock to go on.
            let held = observing.lock();
            for _ in 0..2 * store.engine().geometry.feed_slots {
                set(store, "own", 0);
            }
            drop(held);
            set(other, "last", 0);
            let mut all = Vec::new();
            wait_until("it goes on", || {
                all.extend(told());
                all.contains(&"changed last".to_owned())
            });
            assert_eq!(all, ["changed last"]);
        });
    }

    #[test]
    fn who_was_overtaken_says_that_anything_may_have_changed() {
        observed("overrun", |observing, attention, store, other, told| {
            attention.set(EVENTS, true);
            // More than is kept, before the thread takes it up.
            let observer = store.observe().unwrap();
            for _ in 0..=store.engine().geometry.feed_slots {
                set(other, "key", 0);
            }
            *observing.lock() = State { is_begun: true, begun: Some(observer), is_over: false };
            observing.changed.notify_one();
            let mut all = Vec::new();
            wait_until("the overrun was told", || {
                all.extend(told());
                !all.is_empty()
            });
            assert_eq!(all, ["overrun"]);
            set(other, "after", 0);
            wait_until("it goes on", || told() == ["8 set after"]);
        });
    }
}
