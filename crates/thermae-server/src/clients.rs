//! Who is connected, as others see it: what CLIENT LIST shows and CLIENT KILL finds.
//!
//! A connection publishes what it is at with a few relaxed stores each time that its loop has served it; whoever lists reads them, each
//! number being true a moment ago. Only names, and the map itself, are behind locks, and those are taken when clients come, go, change
//! their name, or are listed: never on the way of a request. Rejected: asking each loop for its clients, whose answer the slowest one delays.

use crate::users::DEFAULT;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bits of [`Client::flags`].
pub mod marks {
    /// Speaks RESP3.
    pub const RESP3: u32 = 1;
    /// Is to be kept when clients have to go.
    pub const NO_EVICT: u32 = 1 << 1;
    /// Is between MULTI and EXEC.
    pub const IN_TRANSACTION: u32 = 1 << 2;
    /// Is closed once it has its replies.
    pub const CLOSES: u32 = 1 << 3;
    /// Is shown every command.
    pub const MONITORS: u32 = 1 << 4;
    /// Speaks memcached's protocol.
    pub const MEMCACHED: u32 = 1 << 5;
    /// Is shown what memcached clients do.
    pub const WATCHES: u32 = 1 << 6;
}

/// What a connection takes at rest, about.
pub const BYTES_AT_REST: usize = 1 << 10;
/// What a client may leave unread of what it did not ask for; one that leaves more is closed.
pub const PUSHED_BYTES_MAX: usize = 32 << 20;
/// Longest name that a client may give itself: every client's is kept, and shown in every CLIENT LIST.
pub const NAME_BYTES_MAX: usize = 4 << 10;

/// For [`Client::command`].
pub const NO_COMMAND: usize = usize::MAX;

/// How a client is reached.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place {
    /// Its socket's number.
    pub fd: i32,
    /// The loop that serves it.
    pub event_loop: usize,
    /// By which the loop knows it.
    pub token: u64,
}

/// A client, as others see it.
#[derive(Debug)]
pub struct Client {
    /// Its number, never given twice by a server.
    pub id: u64,
    /// Where it calls from.
    pub address: String,
    /// Where it was accepted.
    pub local_address: String,
    /// How it is reached.
    pub place: Place,
    /// When it came, store clock.
    pub connected_at_ms: u64,
    /// When it was served last, store clock.
    pub active_at_ms: AtomicU64,
    /// The database that it selected.
    pub database: AtomicU32,
    /// Bits of [`marks`].
    pub flags: AtomicU32,
    /// Commands that wait for EXEC; -1: there was no MULTI.
    pub queued: AtomicI64,
    /// The number of its last command in the table; [`NO_COMMAND`]: there was none.
    pub command: AtomicUsize,
    /// Bytes of a command that is not whole yet.
    pub input_bytes: AtomicUsize,
    /// Bytes of replies that it has not taken yet.
    pub output_bytes: AtomicUsize,
    /// Bytes of the commands that wait for EXEC and of the keys under WATCH, with what keeps them.
    pub transaction_bytes: AtomicUsize,
    /// Bytes of all that is kept for it, as they count in [`Clients::held_bytes`].
    held_bytes: AtomicUsize,
    /// How many channels, patterns and channels of shards it is subscribed to.
    pub subscriptions: [AtomicUsize; 3],
    name: Mutex<Vec<u8>>,
    /// Length of the name, for those who want no more of it than that.
    name_bytes: AtomicUsize,
    user: Mutex<Vec<u8>>,
    is_killed: AtomicBool,
}

impl Client {
    /// Whether it is on this machine.
    pub fn is_local(&self) -> bool {
        self.address.starts_with("unix:")
            || self.address.parse().is_ok_and(|address: SocketAddr| address.ip().is_loopback())
    }

    /// One that has just come.
    pub fn new(id: u64, address: String, local_address: String, place: Place, connected_at_ms: u64) -> Self {
        Self {
            id,
            address,
            local_address,
            place,
            connected_at_ms,
            active_at_ms: AtomicU64::new(connected_at_ms),
            database: AtomicU32::new(0),
            flags: AtomicU32::new(0),
            queued: AtomicI64::new(-1),
            command: AtomicUsize::new(NO_COMMAND),
            input_bytes: AtomicUsize::new(0),
            output_bytes: AtomicUsize::new(0),
            transaction_bytes: AtomicUsize::new(0),
            held_bytes: AtomicUsize::new(0),
            subscriptions: Default::default(),
            name: Mutex::new(Vec::new()),
            name_bytes: AtomicUsize::new(0),
            user: Mutex::new(DEFAULT.to_vec()),
            is_killed: AtomicBool::new(false),
        }
    }

    /// What it calls itself; empty: nothing.
    pub fn name(&self) -> Vec<u8> {
        self.name_up_to(usize::MAX)
    }

    /// The same, no more than its first bytes being copied.
    pub fn name_up_to(&self, bytes_max: usize) -> Vec<u8> {
        beginning(&self.name, bytes_max)
    }

    /// It calls itself something else.
    pub fn rename(&self, name: &[u8]) {
        *self.name.lock().unwrap_or_else(PoisonError::into_inner) = name.to_vec();
        self.name_bytes.store(name.len(), Ordering::Relaxed);
    }

    /// Bytes of all that is kept for it beside its buffers.
    #[inline]
    pub fn state_bytes(&self) -> usize {
        self.transaction_bytes.load(Ordering::Relaxed) + self.name_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of all that is kept for it, beyond what every client takes at rest, as of when it was served last.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes.load(Ordering::Relaxed)
    }

    /// How many channels, patterns or channels of shards it is subscribed to, by their place in [`Client::subscriptions`].
    pub fn subscribed_to(&self, kind: usize) -> usize {
        self.subscriptions[kind].load(Ordering::Relaxed)
    }

    /// Whether it is subscribed to anything.
    #[inline]
    pub fn is_subscribed(&self) -> bool {
        self.subscriptions.iter().any(|count| count.load(Ordering::Relaxed) != 0)
    }

    /// Whether it waits for what others do, and so is not idle when it says nothing.
    pub fn is_listening(&self) -> bool {
        self.is_subscribed() || self.flags.load(Ordering::Relaxed) & (marks::MONITORS | marks::WATCHES) != 0
    }

    /// Whose rights it has.
    pub fn user(&self) -> Vec<u8> {
        self.user_up_to(usize::MAX)
    }

    /// The same, no more than its first bytes being copied.
    pub fn user_up_to(&self, bytes_max: usize) -> Vec<u8> {
        beginning(&self.user, bytes_max)
    }

    /// It said who it is.
    pub fn become_user(&self, name: &[u8]) {
        *self.user.lock().unwrap_or_else(PoisonError::into_inner) = name.to_vec();
    }

    /// Whether somebody ended it.
    pub fn is_killed(&self) -> bool {
        self.is_killed.load(Ordering::Relaxed)
    }
}

fn beginning(name: &Mutex<Vec<u8>>, bytes_max: usize) -> Vec<u8> {
    let name = name.lock().unwrap_or_else(PoisonError::into_inner);
    name[..name.len().min(bytes_max)].to_vec()
}

/// All clients of a server.
#[derive(Debug, Default)]
pub struct Clients {
    by_id: Mutex<BTreeMap<u64, Arc<Client>>>,
    held_bytes: AtomicUsize,
    /// Zero: no limit.
    held_bytes_max: AtomicUsize,
}

impl Clients {
    /// Limits what is kept for all clients together; 0: not at all.
    pub fn limit_held_bytes(&self, bytes: u64) {
        self.held_bytes_max.store(usize::try_from(bytes).unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// What that limit is.
    pub fn held_bytes_max(&self) -> usize {
        self.held_bytes_max.load(Ordering::Relaxed)
    }

    /// What is kept for all clients together: in their buffers, of their transactions, and their names.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes.load(Ordering::Relaxed)
    }

    /// The same, with what all take at rest.
    pub fn bytes(&self) -> usize {
        let count = self.by_id.lock().unwrap_or_else(PoisonError::into_inner).len();
        count * BYTES_AT_REST + self.held_bytes()
    }

    /// Notes how many bytes are kept for one client now. Whether those of all clients together are more than they may be.
    #[inline]
    pub fn note_held(&self, client: &Client, bytes: usize) -> bool {
        // Nearly all clients are at rest, and hold as much before as after.
        if client.held_bytes.load(Ordering::Relaxed) == bytes {
            return false;
        }
        // Who is being ended is not counted again by a turn that was under way: others would be ended in its place.
        let bytes = if client.is_killed() { 0 } else { bytes };
        let before = client.held_bytes.swap(bytes, Ordering::Relaxed);
        let held_bytes = self
            .held_bytes
            .fetch_add(bytes.wrapping_sub(before), Ordering::Relaxed)
            .wrapping_add(bytes)
            .wrapping_sub(before);
        let most = self.held_bytes_max();
        bytes > before && most != 0 && held_bytes > most
    }

    /// Where all clients together hold more than they may, marks the one for which most is kept as ended, of those that may be ended for that, as
    /// [`Clients::mark_killed`] does; with what it held. `None` also where the end of any would gain nothing worth it: names alone keep nobody out.
    pub fn kill_largest(&self) -> Option<(Arc<Client>, usize)> {
        let may_end = |client: &&Arc<Client>| client.flags.load(Ordering::Relaxed) & marks::NO_EVICT == 0;
        let mut clients = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at with the lock: several loops may have found the limit passed, and the first has mended it.
        let most = self.held_bytes_max();
        if most == 0 || self.held_bytes() <= most {
            return None;
        }
        let largest = clients.values().filter(may_end).max_by_key(|client| client.held_bytes());
        let id = largest.filter(|client| client.held_bytes() > BYTES_AT_REST)?.id;
        let largest = clients.remove(&id)?;
        let bytes = self.end(&largest);
        Some((largest, bytes))
    }

    /// Marks a client as ended; what it held, which counts no more: others would be ended in its place.
    fn end(&self, client: &Client) -> usize {
        // First: else a turn of its loop that comes after this notes it again.
        client.is_killed.store(true, Ordering::Relaxed);
        let bytes = client.held_bytes.swap(0, Ordering::Relaxed);
        self.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
        bytes
    }

    /// One has come.
    pub fn add(&self, client: &Arc<Client>) {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner).insert(client.id, Arc::clone(client));
    }

    /// One has gone.
    pub fn remove(&self, id: u64) {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Who is there, in the order in which they came.
    pub fn all(&self) -> Vec<Arc<Client>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// One of them.
    pub fn find(&self, id: u64) -> Option<Arc<Client>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// Notes that one is to be ended, and that others see it no more; whether it was there. Its loop is to be told by the caller.
    pub fn mark_killed(&self, id: u64) -> bool {
        let client = self.by_id.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        let Some(client) = client else { return false };
        self.end(&client);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(count: u64) -> (Clients, Vec<Arc<Client>>) {
        let clients = Clients::default();
        let new = |id| Arc::new(Client::new(id, String::new(), String::new(), Place::default(), 0));
        let all: Vec<_> = (0..count).map(new).collect();
        all.iter().for_each(|client| clients.add(client));
        (clients, all)
    }

    #[test]
    fn the_largest_goes_first_and_who_holds_next_to_nothing_stays() {
        let (clients, all) = clients(4);
        for (client, bytes) in all.iter().zip([BYTES_AT_REST, 5000, 9000, 7000]) {
            clients.note_held(client, bytes);
        }
        assert!(clients.kill_largest().is_none(), "there is no limit");
        clients.limit_held_bytes(1);
        all[2].flags.store(marks::NO_EVICT, Ordering::Relaxed);
        for (id, bytes) in [(3, 7000), (1, 5000)] {
            let (client, held) = clients.kill_largest().unwrap();
            assert_eq!((client.id, held), (id, bytes));
        }
        assert!(clients.kill_largest().is_none());
        assert_eq!(clients.held_bytes(), BYTES_AT_REST + 9000);
        assert_eq!(clients.bytes(), 2 * BYTES_AT_REST + clients.held_bytes());
    }

    /// Its loop may be serving it meanwhile, and note what it holds after that: another client was ended in its place.
    #[test]
    fn who_is_being_ended_counts_no_more() {
        let (clients, all) = clients(1);
        clients.limit_held_bytes(1);
        assert!(clients.note_held(&all[0], 5000));
        assert!(clients.kill_largest().is_some() && all[0].is_killed() && !clients.mark_killed(0));
        assert!(clients.kill_largest().is_none(), "the limit is kept");
        assert!(!clients.note_held(&all[0], 5000));
        assert_eq!(clients.held_bytes(), 0);
    }

    #[test]
    fn a_name_is_held() {
        let (_, all) = clients(1);
        all[0].rename(b"worker");
        all[0].transaction_bytes.store(100, Ordering::Relaxed);
        assert_eq!(all[0].state_bytes(), 106);
        all[0].rename(b"");
        assert_eq!(all[0].state_bytes(), 100);
    }
}
