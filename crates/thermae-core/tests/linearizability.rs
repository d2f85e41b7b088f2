//! Eight processes on a few keys: every history must be one that a single copy, used by one at a time, could have given.
//!
//! Each process notes when each of its requests began and ended, on the clock that all share, and what it was answered. The checker
//! (after Wing and Gong, with Lowe's memory of configurations) then looks for an order: it walks over the events in time and keeps
//! every configuration that explains what was answered so far: the key's value, and which of the requests under way have taken effect.
//! As each process has one request under way, that is at most 2^8 sets for each value.

mod common;

use common::{End, Notes, Place, Random, monotonic_ns, options, setting, spawn};
use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};
use thermae_core::{
    BatchOp, Condition, Durability, Location, Options, SetOptions, SetOutcome, Store, WhenFull,
};

const PROCESSES: u32 = 8;
const KEYS: u64 = 4;
const REQUESTS: u64 = 1500;
const NOTE_BYTES: usize = 40;

/// A request, and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Get(Option<i64>),
    Set(i64),
    /// From a value read before to another; whether it succeeded. Values are unique, so that they stand for versions.
    Swap(Option<i64>, i64, bool),
    /// One to the value, or to the first number where the key is absent; the sum.
    Add(i64, i64),
    Delete(bool),
    Pop(Option<i64>),
}

/// One request of a history.
#[derive(Debug, Clone, Copy)]
struct Event {
    process: u32,
    start_ns: u64,
    end_ns: u64,
    request: Request,
}

impl Request {
    /// What a key with value `state` has after the request, if the answer is one that it can give.
    #[allow(clippy::option_option, reason = "whether it can be, and whether the key is present then")]
    fn apply(self, state: Option<i64>) -> Option<Option<i64>> {
        match self {
            Self::Get(answer) => (answer == state).then_some(state),
            Self::Set(value) => Some(Some(value)),
            Self::Swap(from, to, true) => (from == state).then_some(Some(to)),
            Self::Swap(from, _, false) => (from != state).then_some(state),
            Self::Add(initial, answer) => (state.unwrap_or(initial) + 1 == answer).then_some(Some(answer)),
            Self::Delete(answer) => (answer == state.is_some()).then_some(None),
            Self::Pop(answer) => (answer == state).then_some(None),
        }
    }
}

/// Whether some order of the requests, each at a moment between its start and its end, explains all answers; else the request that none explains.
fn check(events: &[Event]) -> Result<(), Event> {
    let mut moments: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * events.len());
    for (index, event) in events.iter().enumerate() {
        assert!(event.start_ns <= event.end_ns);
        // At one instant starts come before ends: requests that touch may have been in either order.
        moments.push((event.start_ns, false, index));
        moments.push((event.end_ns, true, index));
    }
    moments.sort_unstable();
    let mut running: Vec<Option<usize>> = vec![None; 64];
    let mut configurations: HashSet<(u64, Option<i64>)> = HashSet::from([(0, None)]);
    for (_, is_end, index) in moments {
        let process = events[index].process as usize;
        if !is_end {
            assert!(running[process].replace(index).is_none(), "a process has two requests under way");
            continue;
        }
        let mut next = HashSet::new();
        let mut seen = configurations.clone();
        let mut open: Vec<(u64, Option<i64>)> = configurations.into_iter().collect();
        while let Some((done, state)) = open.pop() {
            if (done >> process) & 1 == 1 {
                next.insert((done & !(1 << process), state));
                continue;
            }
            for (other, event) in
                running.iter().enumerate().filter_map(|(other, event)| Some((other, (*event)?)))
            {
                if (done >> other) & 1 == 0
                    && let Some(state) = events[event].request.apply(state)
                {
                    let configuration = (done | (1 << other), state);
                    if seen.insert(configuration) {
                        open.push(configuration);
                    }
                }
            }
        }
        if next.is_empty() {
            return Err(events[index]);
        }
        running[process] = None;
        configurations = next;
    }
    Ok(())
}

fn event(process: u32, start_ns: u64, end_ns: u64, request: Request) -> Event {
    Event { process, start_ns, end_ns, request }
}

#[test]
fn the_checker_accepts_what_can_be_and_rejects_what_can_not() {
    use Request::{Add, Delete, Get, Pop, Set, Swap};
    let good = [
        vec![
            event(0, 0, 10, Set(1)),
            event(1, 5, 6, Get(None)),
            event(1, 7, 8, Get(Some(1))),
            event(2, 9, 20, Delete(true)),
        ],
        vec![
            event(0, 0, 10, Add(0, 2)),
            event(1, 0, 10, Add(0, 1)),
            event(2, 11, 12, Pop(Some(2))),
            event(0, 13, 14, Get(None)),
        ],
        vec![
            event(0, 0, 9, Set(1)),
            event(1, 1, 8, Set(2)),
            event(2, 2, 3, Get(Some(2))),
            event(2, 4, 5, Get(Some(1))),
        ],
        vec![
            event(0, 0, 1, Set(1)),
            event(0, 2, 9, Swap(Some(1), 2, true)),
            event(1, 3, 8, Swap(Some(1), 3, false)),
        ],
    ];
    for history in good {
        assert!(check(&history).is_ok(), "{history:?}");
    }
    let bad = [
        // A stale read.
        vec![event(0, 0, 1, Set(1)), event(0, 2, 3, Set(2)), event(1, 4, 5, Get(Some(1)))],
        // An addition lost.
        vec![event(0, 0, 5, Add(0, 1)), event(1, 0, 5, Add(0, 1))],
        // New, then old.
        vec![event(0, 0, 9, Set(1)), event(1, 1, 2, Get(Some(1))), event(1, 3, 4, Get(None))],
        // Two swaps from one value.
        vec![
            event(0, 0, 1, Set(1)),
            event(0, 2, 9, Swap(Some(1), 2, true)),
            event(1, 3, 8, Swap(Some(1), 3, true)),
        ],
        // A value that two took away.
        vec![event(0, 0, 1, Set(1)), event(0, 2, 9, Pop(Some(1))), event(1, 3, 8, Delete(true))],
        // A value from nowhere.
        vec![event(0, 0, 1, Get(Some(7)))],
    ];
    for history in bad {
        assert!(check(&history).is_err(), "{history:?}");
    }
}

fn pack(event: &Event) -> [u8; NOTE_BYTES] {
    let option = |value: Option<i64>| (value.unwrap_or(0), u8::from(value.is_some()));
    let (code, (first, is_some), second, flag) = match event.request {
        Request::Get(answer) => (0, option(answer), 0, false),
        Request::Set(value) => (1, (value, 0), 0, false),
        Request::Swap(from, to, is_done) => (2, option(from), to, is_done),
        Request::Add(initial, answer) => (3, (initial, 0), answer, false),
        Request::Delete(answer) => (4, (0, 0), 0, answer),
        Request::Pop(answer) => (5, option(answer), 0, false),
    };
    let mut note = [0_u8; NOTE_BYTES];
    note[..4].copy_from_slice(&[code, is_some, u8::from(flag), event.process as u8]);
    for (at, word) in [event.start_ns, event.end_ns, first as u64, second as u64].into_iter().enumerate() {
        note[8 + at * 8..16 + at * 8].copy_from_slice(&word.to_le_bytes());
    }
    note
}

fn unpack(note: &[u8; NOTE_BYTES]) -> (u8, Event) {
    let word = |at: usize| u64::from_le_bytes(note[8 + at * 8..16 + at * 8].try_into().unwrap());
    let (first, second, flag) = (word(2) as i64, word(3) as i64, note[2] == 1);
    let option = (note[1] == 1).then_some(first);
    let request = match note[0] {
        0 => Request::Get(option),
        1 => Request::Set(first),
        2 => Request::Swap(option, second, flag),
        3 => Request::Add(first, second),
        4 => Request::Delete(flag),
        5 => Request::Pop(option),
        code => panic!("note of an unknown request {code}"),
    };
    (note[4], event(u32::from(note[3]), word(0), word(1), request))
}

fn key(index: u64) -> Vec<u8> {
    format!("key {index}").into_bytes()
}

fn number(value: &[u8]) -> i64 {
    std::str::from_utf8(value).unwrap().trim_start().parse().unwrap()
}

/// A value of about `len` bytes: short ones, and ones so long that they are stored in extents.
fn text(value: i64, len: usize) -> Vec<u8> {
    let digits = value.to_string().into_bytes();
    let mut text = vec![b' '; len.saturating_sub(digits.len())];
    text.extend(digits);
    text
}

/// Mixed requests on a few keys, each noted with its times and its answer.
fn play(store: &Store, process: u32, notes: &mut Notes) {
    let mut random = Random::new(u64::from(process) + 100);
    let mut unique = 0;
    // Additions change a value by one: the low bits keep values of different origins apart.
    let mut fresh = || {
        unique += 1;
        (i64::from(process) << 48) | (unique << 20)
    };
    for _ in 0..REQUESTS {
        let index = random.below(KEYS);
        let key = key(index);
        let kind = random.below(100);
        let (mut start_ns, request) = (monotonic_ns(), kind);
        let request = match request {
            0..40 => Request::Get(store.get(&key).unwrap().map(|(_, value)| number(&value))),
            40..60 => {
                let value = fresh();
                store.set(&key, value.to_string().as_bytes(), &SetOptions::default()).unwrap();
                Request::Set(value)
            }
            60..75 => {
                let before = store.get(&key).unwrap();
                let condition = before
                    .as_ref()
                    .map_or(Condition::IfAbsent, |(meta, _)| Condition::IfVersion(meta.version));
                if random.percent(50) {
                    std::thread::yield_now();
                }
                let value = fresh();
                start_ns = monotonic_ns();
                let outcome = store
                    .set(
                        &key,
                        value.to_string().as_bytes(),
                        &SetOptions { condition, ..SetOptions::default() },
                    )
                    .unwrap();
                Request::Swap(
                    before.map(|(_, value)| number(&value)),
                    value,
                    matches!(outcome, SetOutcome::Stored(_)),
                )
            }
            75..90 => {
                let initial = fresh();
                Request::Add(initial, store.incr(&key, 1, Some(initial), 0).unwrap().unwrap())
            }
            90..96 => Request::Delete(store.delete(&key).unwrap()),
            _ => Request::Pop(store.pop(&key).unwrap().map(|(_, value)| number(&value))),
        };
        let mut note = pack(&event(process, start_ns, monotonic_ns(), request));
        note[4] = index as u8;
        notes.note(&note);
    }
}

fn check_place(place: &Place, options: &Options) {
    let store = place.open(options);
    let go = place.beside("go");
    let notes = |process: u32| place.beside(&format!("history-{process}"));
    let mut players: Vec<_> = (0..PROCESSES)
        .map(|process| {
            let settings = [
                ("STORE", place.text()),
                ("GO", go.display().to_string()),
                ("PROCESS", process.to_string()),
                ("NOTES", notes(process).display().to_string()),
            ];
            spawn("player", &settings)
        })
        .collect();
    std::thread::sleep(Duration::from_millis(100));
    std::fs::write(&go, b"").unwrap();
    for player in &mut players {
        assert_eq!(player.wait(Duration::from_secs(60)), End::Finished);
    }
    let mut histories: Vec<Vec<Event>> = vec![Vec::new(); KEYS as usize];
    for process in 0..PROCESSES {
        for note in Notes::read::<NOTE_BYTES>(&notes(process)) {
            let (key, event) = unpack(&note);
            histories[key as usize].push(event);
        }
    }
    assert_eq!(histories.iter().map(Vec::len).sum::<usize>() as u64, u64::from(PROCESSES) * REQUESTS);
    for (index, history) in histories.iter_mut().enumerate() {
        history.sort_unstable_by_key(|event| event.start_ns);
        if let Err(event) = check(history) {
            let at = history.iter().position(|other| other.start_ns == event.start_ns).unwrap();
            let near: Vec<String> = history[at.saturating_sub(12)..history.len().min(at + 6)]
                .iter()
                .map(|event| format!("{event:?}"))
                .collect();
            panic!("no order explains the history of key {index} at {event:?}:\n{}", near.join("\n"));
        }
        let last = store.get(&key(index as u64)).unwrap().map(|(_, value)| number(&value));
        let end_ns = monotonic_ns();
        history.push(event(0, end_ns, end_ns, Request::Get(last)));
        assert!(check(history).is_ok(), "key {index} ended as {last:?}, which its history does not explain");
    }
    store.close().unwrap();
}

#[test]
fn eight_processes_are_as_one_in_shared_memory() {
    check_place(&Place::shared_memory("linear"), &options(16, 0, Durability::None, WhenFull::Evict));
}

#[test]
fn eight_processes_are_as_one_with_a_cold_tier() {
    check_place(&Place::in_directory(), &options(16, 32, Durability::EverySec, WhenFull::Error));
}

/// Pairs of keys that one process changes together, to numbers that grow; lengths differ, up to ones stored in extents.
fn change_pairs(store: &Store, until: Instant) {
    let mut random = Random::new(7);
    let mut value = 0;
    // Published after the pair and before the commit: for that long, readers find the pair's new records and must take the old ones.
    let fillers: Vec<Vec<u8>> = (0..40).map(|number| format!("filler {number}").into_bytes()).collect();
    while Instant::now() < until {
        value += 1;
        let len = match random.below(20) {
            0 => 300_000,
            1..5 => 20_000,
            _ => 10 + random.below(100) as usize,
        };
        let value = text(value, len);
        let mut ops = [b"one", b"two"]
            .map(|key| BatchOp::Set { key, value: &value, encoding: 0, expires_at_ms: 0, flags: 0 })
            .to_vec();
        ops.extend(fillers.iter().map(|key| BatchOp::Set {
            key,
            value: b"",
            encoding: 0,
            expires_at_ms: 0,
            flags: 0,
        }));
        store.transaction(&ops, &[]).unwrap();
    }
}

/// Whoever reads one key of a pair and then the other never finds the second older, by copy or by view. A view once had the length and the version
/// of the record before, if its transaction was decided between the look-up and the pin: too few bytes, or somebody else's.
fn read_pairs(store: &Store, until: Instant) {
    let mut random = Random::new(u64::from(std::process::id()));
    let mut reads = 0_u64;
    let mut newest = 0;
    while Instant::now() < until {
        let (first, second): (&[u8], &[u8]) =
            if random.percent(50) { (b"one", b"two") } else { (b"two", b"one") };
        for key in [first, second] {
            let value = if random.percent(50) {
                let Some(view) = store.view(key).unwrap() else { continue };
                number(&view)
            } else {
                let Some((_, value)) = store.get(key).unwrap() else { continue };
                number(&value)
            };
            assert!(
                value >= newest,
                "a transaction's second key was still at {value} after its first was at {newest}"
            );
            newest = value;
            reads += 1;
        }
    }
    assert!(reads > 100, "only {reads} reads");
}

#[test]
fn readers_see_a_transaction_whole() {
    let place = Place::shared_memory("pairs");
    let store = place.open(&options(32, 0, Durability::None, WhenFull::Error));
    let settings = [("STORE", place.text())];
    let mut children: Vec<_> = ["pair-writer", "pair-reader", "pair-reader", "pair-reader"]
        .map(|role| spawn(role, &settings))
        .into();
    for child in &mut children {
        assert_eq!(child.wait(Duration::from_secs(60)), End::Finished);
    }
    store.close().unwrap();
}

/// What the child processes do; nothing in the process that runs the tests.
#[test]
fn role() {
    let Some(role) = common::role() else { return };
    let location: Location = common::location_setting();
    let store =
        Store::open(&location, &Options { background: role == "pair-writer", ..Options::default() }).unwrap();
    let until = Instant::now() + Duration::from_secs(3);
    match role.as_str() {
        "player" => {
            let go = setting("GO");
            common::wait_until("all are ready", Duration::from_secs(30), || Path::new(&go).exists());
            play(
                &store,
                setting("PROCESS").parse().unwrap(),
                &mut Notes::create(Path::new(&setting("NOTES"))),
            );
        }
        "pair-writer" => change_pairs(&store, until),
        "pair-reader" => read_pairs(&store, until),
        role => panic!("there is no role {role}"),
    }
    store.close().unwrap();
}
