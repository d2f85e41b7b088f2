//! Which memcached clients watch what is done, and are shown the lines of [`crate::watch_log`].
//!
//! All is shown under one lock, which numbers the lines in the order in which watchers get them, and is only taken while there are watchers. What
//! a watcher leaves unread is bounded: lines that find no room are left out for it, and it is told how many. Rejected: closing it, as
//! monitors of Redis are, whose protocol has no word for that.

use crate::attention::{Attention, CONNECTIONS, EVICTIONS, FETCHES, STORES};
use crate::clients::Client;
use crate::watch_log::{Line, WatchLog};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many clients may watch, as in memcached: each line is written once more for each of them.
const WATCHERS_MAX: usize = 20;
/// Bytes that a watcher may leave unread before lines are left out.
const UNREAD_BYTES_MAX: usize = 1 << 20;

#[derive(Debug)]
struct Watcher {
    client: Arc<Client>,
    /// What it is shown: bits of [`crate::attention`].
    what: u32,
    /// Lines that were left out since it was told how many.
    skipped: u64,
}

#[derive(Debug, Default)]
struct State {
    by_id: BTreeMap<u64, Watcher>,
    /// Lines that there were.
    lines: u64,
}

/// Clients that watch.
#[derive(Debug, Default)]
pub struct Watchers(Mutex<State>);

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more, which is shown this from now on; false where there are too many.
    pub fn add(&self, client: &Arc<Client>, what: u32, attention: &Attention) -> bool {
        let mut state = self.lock();
        if state.by_id.len() >= WATCHERS_MAX {
            return false;
        }
        state.by_id.insert(client.id, Watcher { client: Arc::clone(client), what, skipped: 0 });
        state.settle(attention);
        true
    }

    /// One that was is none any more.
    pub fn remove(&self, client: &Client, attention: &Attention) {
        let mut state = self.lock();
        state.by_id.remove(&client.id);
        state.settle(attention);
    }

    /// Who watches.
    pub fn all(&self) -> Vec<Arc<Client>> {
        self.lock().by_id.values().map(|watcher| Arc::clone(&watcher.client)).collect()
    }

    /// Shows lines to those who watch what they tell of: `unread` says how many bytes a client has not taken, and `deliver` sends it some.
    pub fn show(
        &self,
        log: &mut WatchLog,
        unread: impl Fn(&Client) -> usize,
        deliver: impl Fn(&Client, Arc<[u8]>),
    ) {
        let lines = log.take();
        let mut state = self.lock();
        let first = state.lines + 1;
        state.lines += lines.len() as u64;
        // Those who watch the same get the same bytes.
        let mut written: BTreeMap<u32, (u64, Arc<[u8]>)> = BTreeMap::new();
        for watcher in state.by_id.values_mut() {
            let (count, bytes) =
                written.entry(watcher.what).or_insert_with(|| write(&lines, watcher.what, first));
            if *count == 0 {
                continue;
            }
            if unread(&watcher.client) + bytes.len() > UNREAD_BYTES_MAX {
                watcher.skipped += *count;
                continue;
            }
            if watcher.skipped != 0 {
                deliver(&watcher.client, format!("skipped={}\n", watcher.skipped).into_bytes().into());
                watcher.skipped = 0;
            }
            deliver(&watcher.client, Arc::clone(bytes));
        }
    }
}

impl State {
    /// What nobody watches any more is not noted, and what somebody does is.
    fn settle(&self, attention: &Attention) {
        let wanted = self.by_id.values().fold(0, |wanted, watcher| wanted | watcher.what);
        for what in [FETCHES, STORES, EVICTIONS, CONNECTIONS] {
            attention.set(what, wanted & what != 0);
        }
    }
}

/// Those lines that tell of this, as a watcher gets them, and how many they are; `first` is the number of the first line of all.
fn write(lines: &[Line], what: u32, first: u64) -> (u64, Arc<[u8]>) {
    let (mut count, mut text) = (0, String::new());
    for (number, line) in (first..).zip(lines).filter(|(_, line)| line.what & what != 0) {
        count += 1;
        let (seconds, micros) = (line.at.as_secs(), line.at.subsec_micros());
        // Writing to a string does not fail.
        let _ = writeln!(text, "ts={seconds}.{micros:06} gid={number} {}", line.text);
    }
    (count, text.into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::Place;
    use std::cell::RefCell;

    fn client(id: u64) -> Arc<Client> {
        Arc::new(Client::new(id, "test".to_owned(), "test".to_owned(), Place::default(), 0))
    }

    /// What each client was shown, without when.
    fn shown(watchers: &Watchers, log: &mut WatchLog, unread: usize) -> Vec<(u64, String)> {
        let shown = RefCell::new(Vec::new());
        watchers.show(
            log,
            |_| unread,
            |client, bytes| {
                let text = String::from_utf8(bytes.to_vec()).unwrap();
                for line in text.split_terminator('\n') {
                    let line = line.split_once(' ').map_or(line, |(_, line)| line);
                    shown.borrow_mut().push((client.id, line.to_owned()));
                }
            },
        );
        shown.into_inner()
    }

    #[test]
    fn each_is_shown_what_it_watches() {
        let (watchers, attention, mut log) = <(Watchers, Attention, WatchLog)>::default();
        let (first, second) = (client(1), client(2));
        assert!(watchers.add(&first, EVICTIONS, &attention));
        assert!(watchers.add(&second, EVICTIONS | CONNECTIONS, &attention));
        assert_eq!(attention.wanted(), EVICTIONS | CONNECTIONS);
        log.connected(CONNECTIONS, 3, "127.0.0.1:4");
        log.evicted(EVICTIONS, b"a");
        let evicted = "gid=2 type=eviction key=a clsid=1".to_owned();
        let connected = "gid=1 type=conn_new rip=127.0.0.1 rport=4 transport=tcp cfd=3".to_owned();
        assert_eq!(shown(&watchers, &mut log, 0), [(1, evicted.clone()), (2, connected), (2, evicted)]);
        watchers.remove(&second, &attention);
        assert_eq!(attention.wanted(), EVICTIONS);
        log.connected(CONNECTIONS, 3, "127.0.0.1:4");
        assert_eq!(shown(&watchers, &mut log, 0), []);
        log.evicted(EVICTIONS, b"b");
        assert_eq!(shown(&watchers, &mut log, 0), [(1, "gid=4 type=eviction key=b clsid=1".to_owned())]);
        watchers.remove(&first, &attention);
        assert_eq!(attention.wanted(), 0);
    }

    #[test]
    fn who_does_not_read_is_told_how_much_it_missed() {
        let (watchers, attention, mut log) = <(Watchers, Attention, WatchLog)>::default();
        assert!(watchers.add(&client(1), EVICTIONS, &attention));
        for key in [b"a", b"b"] {
            log.evicted(EVICTIONS, key);
            log.connected(CONNECTIONS, 3, "127.0.0.1:4");
            assert_eq!(shown(&watchers, &mut log, UNREAD_BYTES_MAX), []);
        }
        log.evicted(EVICTIONS, b"c");
        let lines = [(1, "skipped=2".to_owned()), (1, "gid=5 type=eviction key=c clsid=1".to_owned())];
        assert_eq!(shown(&watchers, &mut log, 0), lines);
        log.evicted(EVICTIONS, b"d");
        assert_eq!(shown(&watchers, &mut log, 0), [(1, "gid=6 type=eviction key=d clsid=1".to_owned())]);
    }

    #[test]
    fn there_are_only_so_many() {
        let (watchers, attention) = <(Watchers, Attention)>::default();
        let clients: Vec<_> = (0..WATCHERS_MAX as u64).map(client).collect();
        assert!(clients.iter().all(|client| watchers.add(client, FETCHES, &attention)));
        assert!(!watchers.add(&client(99), STORES, &attention));
        assert_eq!((attention.wanted(), watchers.all().len()), (FETCHES, WATCHERS_MAX));
        watchers.remove(&clients[3], &attention);
        assert!(watchers.add(&client(99), STORES, &attention));
    }
}
