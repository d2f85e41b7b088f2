//! Who is subscribed to which channels and patterns.
//!
//! One registry for all loops, behind a lock that publishers share and subscribers take alone: messages are many, subscriptions are few. Who is published
//! to is called under that lock, so that an UNSUBSCRIBE that has got the lock is followed by no message for it. What a client is subscribed to
//! is kept here alone; how much it is stands in [`Client::subscriptions`], too, which is changed under the lock and read without it. Rejected: a
//! registry for each loop, to which messages are handed over: a publisher could not say how many got its message.
//!
//! Patterns are tried one after the other for each message, by [`glob`], which bounds the work of all that one command tries.

use crate::attention::{Attention, MESSAGES};
use crate::clients::Client;
use crate::glob::{Budget, PATTERN_BYTES_MAX, PATTERN_TOO_LONG};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Most subscriptions of one client.
const SUBSCRIPTIONS_MAX: usize = 1 << 20;
/// Most bytes of the subscriptions of all clients.
const BYTES_MAX: usize = 1 << 30;
/// What a subscription takes beside its name, about.
const SUBSCRIPTION_BYTES: usize = 512;

/// What can be subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A channel.
    Channel,
    /// All channels whose names a pattern describes.
    Pattern,
    /// A channel of a shard, which no pattern describes.
    Shard,
}

/// Of a channel, or a pattern.
pub type Name = Arc<[u8]>;
/// What one client is subscribed to, by kind.
pub type Subscriptions = [BTreeSet<Name>; 3];
/// Those who are subscribed to the same, by their numbers.
pub type Subscribers = BTreeMap<u64, Arc<Client>>;

const KINDS: [Kind; 3] = [Kind::Channel, Kind::Pattern, Kind::Shard];

#[derive(Debug, Default)]
struct Registry {
    /// By kind.
    subscribers: [HashMap<Name, Subscribers>; 3],
    /// By client.
    subscriptions: HashMap<u64, Subscriptions>,
    bytes: usize,
}

/// The registry.
#[derive(Debug, Default)]
pub struct Channels(RwLock<Registry>);

impl Channels {
    fn read(&self) -> RwLockReadGuard<'_, Registry> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Registry> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Subscribes a client to all of these, or to none. Returns what it counts as subscribed to after each.
    ///
    /// # Errors
    /// The client has too many subscriptions, all of them together take too much, or a pattern is too long.
    pub fn subscribe<'n>(
        &self,
        client: &Arc<Client>,
        kind: Kind,
        names: impl Iterator<Item = &'n [u8]> + Clone,
        attention: &Attention,
    ) -> Result<Vec<usize>, &'static str> {
        if kind == Kind::Pattern && names.clone().any(|name| name.len() > PATTERN_BYTES_MAX) {
            return Err(PATTERN_TOO_LONG);
        }
        let mut registry = self.write();
        let present = KINDS.map(|kind| client.subscribed_to(kind as usize)).iter().sum::<usize>();
        // Those that it has already are counted once more, which only matters close to the limits.
        if present + names.clone().count() > SUBSCRIPTIONS_MAX {
            return Err("ERR a client may have 1048576 subscriptions: unsubscribe from some first");
        }
        let bytes: usize = names.clone().map(|name| name.len() + SUBSCRIPTION_BYTES).sum();
        if registry.bytes + bytes > BYTES_MAX {
            return Err(
                "ERR the subscriptions of all clients may take 1 GiB together: unsubscribe from some first",
            );
        }
        let counts = names.map(|name| {
            registry.add(client, kind, name);
            counted(client, kind)
        });
        let counts = counts.collect();
        registry.settle(attention);
        Ok(counts)
    }

    /// Ends a subscription, if there is one. Returns what the client counts as subscribed to then.
    pub fn unsubscribe(&self, client: &Client, kind: Kind, name: &[u8], attention: &Attention) -> usize {
        let mut registry = self.write();
        registry.remove(client, kind, name);
        registry.settle(attention);
        counted(client, kind)
    }

    /// Ends all subscriptions of a client.
    pub fn leave(&self, client: &Client, attention: &Attention) {
        if client.is_subscribed() {
            let mut registry = self.write();
            registry.replace(client, &Subscriptions::default());
            registry.settle(attention);
        }
    }

    /// What a client is subscribed to.
    pub fn of(&self, client: &Client) -> Subscriptions {
        self.read().subscriptions.get(&client.id).cloned().unwrap_or_default()
    }

    /// Has a client be subscribed to what it was subscribed to before.
    pub fn restore(&self, client: &Arc<Client>, before: &Subscriptions, attention: &Attention) {
        let mut registry = self.write();
        registry.replace(client, before);
        for (kind, names) in KINDS.into_iter().zip(before) {
            names.iter().for_each(|name| registry.add(client, kind, name));
        }
        registry.settle(attention);
    }

    /// Does something while nothing is published.
    pub fn while_silent<T>(&self, work: impl FnOnce() -> T) -> T {
        let _alone = self.write();
        work()
    }

    /// Does something while nobody's subscriptions change: a message that goes out meanwhile, to one who is subscribed, is there before an UNSUBSCRIBE is
    /// answered.
    pub fn while_steady<T>(&self, work: impl FnOnce() -> T) -> T {
        let _shared = self.read();
        work()
    }

    /// Calls `deliver` with those who are subscribed to a channel, and then, for each pattern that describes it, with the pattern and those who are
    /// subscribed to that. Returns how many times a client was among them.
    pub fn publish(
        &self,
        is_sharded: bool,
        channel: &[u8],
        deliver: impl FnMut(Option<&[u8]>, &Subscribers),
    ) -> usize {
        self.publish_within(&mut Budget::default(), is_sharded, channel, deliver)
    }

    /// The same, of a command that publishes more than that. A pattern that takes more than is left of its budget describes nothing.
    pub fn publish_within(
        &self,
        budget: &mut Budget,
        is_sharded: bool,
        channel: &[u8],
        mut deliver: impl FnMut(Option<&[u8]>, &Subscribers),
    ) -> usize {
        let registry = self.read();
        let mut count = 0;
        let kind = if is_sharded { Kind::Shard } else { Kind::Channel };
        if let Some(subscribers) = registry.subscribers[kind as usize].get(channel) {
            count += subscribers.len();
            deliver(None, subscribers);
        }
        if !is_sharded {
            for (pattern, subscribers) in &registry.subscribers[Kind::Pattern as usize] {
                if budget.matches(pattern, channel, false) {
                    count += subscribers.len();
                    deliver(Some(pattern), subscribers);
                }
            }
        }
        count
    }

    /// How many different channels, or patterns, there are.
    pub fn count(&self, kind: Kind) -> usize {
        self.read().subscribers[kind as usize].len()
    }

    /// How many clients are subscribed to a channel.
    pub fn subscribers(&self, kind: Kind, name: &[u8]) -> usize {
        self.read().subscribers[kind as usize].get(name).map_or(0, Subscribers::len)
    }

    /// The channels, in order; those that a pattern describes, if there is one. One that is too long to be subscribed to describes none.
    pub fn names(&self, kind: Kind, pattern: Option<&[u8]>) -> Vec<Name> {
        if pattern.is_some_and(|pattern| pattern.len() > PATTERN_BYTES_MAX) {
            return Vec::new();
        }
        let mut budget = Budget::default();
        let registry = self.read();
        let names = registry.subscribers[kind as usize].keys();
        let mut names: Vec<Name> = names
            .filter(|name| pattern.is_none_or(|pattern| budget.matches(pattern, name, false)))
            .cloned()
            .collect();
        drop(registry);
        names.sort_unstable();
        names
    }
}

/// What a client is told that it is subscribed to: channels and patterns, or channels of shards.
pub fn counted(client: &Client, kind: Kind) -> usize {
    match kind {
        Kind::Channel | Kind::Pattern => {
            client.subscribed_to(Kind::Channel as usize) + client.subscribed_to(Kind::Pattern as usize)
        }
        Kind::Shard => client.subscribed_to(Kind::Shard as usize),
    }
}

impl Registry {
    fn add(&mut self, client: &Arc<Client>, kind: Kind, name: &[u8]) {
        let subscribers = &mut self.subscribers[kind as usize];
        // One name for all who are subscribed to it.
        let name =
            subscribers.get_key_value(name).map_or_else(|| Name::from(name), |(name, _)| Arc::clone(name));
        let before = subscribers.entry(Arc::clone(&name)).or_default().insert(client.id, Arc::clone(client));
        if before.is_none() {
            self.bytes += name.len() + SUBSCRIPTION_BYTES;
            self.subscriptions.entry(client.id).or_default()[kind as usize].insert(name);
            client.subscriptions[kind as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn remove(&mut self, client: &Client, kind: Kind, name: &[u8]) {
        let Some(subscriptions) = self.subscriptions.get_mut(&client.id) else { return };
        if !subscriptions[kind as usize].remove(name) {
            return;
        }
        if subscriptions.iter().all(BTreeSet::is_empty) {
            self.subscriptions.remove(&client.id);
        }
        let subscribers = &mut self.subscribers[kind as usize];
        if let Some(left) = subscribers.get_mut(name) {
            left.remove(&client.id);
            if left.is_empty() {
                subscribers.remove(name);
            }
        }
        self.bytes -= name.len() + SUBSCRIPTION_BYTES;
        client.subscriptions[kind as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// Ends the subscriptions of a client but for those that it is to keep.
    fn replace(&mut self, client: &Client, kept: &Subscriptions) {
        let present = self.subscriptions.get(&client.id).cloned().unwrap_or_default();
        for (kind, names) in KINDS.into_iter().zip(&present) {
            for name in names.difference(&kept[kind as usize]) {
                self.remove(client, kind, name);
            }
        }
    }

    /// Messages are of interest while somebody is subscribed.
    fn settle(&self, attention: &Attention) {
        attention.set(MESSAGES, !self.subscriptions.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::Place;

    fn client(id: u64) -> Arc<Client> {
        Arc::new(Client::new(id, String::new(), String::new(), Place::default(), 0))
    }

    fn names(names: &[&'static str]) -> Vec<&'static [u8]> {
        names.iter().map(|name| name.as_bytes()).collect()
    }

    /// Who gets a message, and by which pattern.
    fn receivers(channels: &Channels, is_sharded: bool, channel: &str) -> Vec<(String, Vec<u64>)> {
        let mut receivers = Vec::new();
        let count = channels.publish(is_sharded, channel.as_bytes(), |pattern, subscribers| {
            let pattern = String::from_utf8(pattern.unwrap_or_default().to_vec()).unwrap();
            receivers.push((pattern, subscribers.keys().copied().collect::<Vec<_>>()));
        });
        assert_eq!(count, receivers.iter().map(|(_, ids)| ids.len()).sum::<usize>());
        let direct = usize::from(receivers.first().is_some_and(|(pattern, _)| pattern.is_empty()));
        receivers[direct..].sort();
        receivers
    }

    #[test]
    fn messages_go_to_those_who_are_subscribed() {
        let (channels, attention) = (Channels::default(), Attention::default());
        let (first, second) = (client(1), client(2));
        let subscribe = |client, kind, to: &[&'static str]| {
            channels.subscribe(client, kind, names(to).into_iter(), &attention).unwrap()
        };
        assert_eq!(subscribe(&first, Kind::Channel, &["news", "news", "sport"]), [1, 1, 2]);
        assert_eq!(attention.wanted(), MESSAGES);
        assert_eq!(subscribe(&first, Kind::Pattern, &["n*", "*s"]), [3, 4]);
        assert_eq!(subscribe(&first, Kind::Shard, &["news"]), [1]);
        assert_eq!(subscribe(&second, Kind::Channel, &["news"]), [1]);
        let of = |text: &str, ids: &[u64]| (text.to_owned(), ids.to_vec());
        assert_eq!(receivers(&channels, false, "news"), [of("", &[1, 2]), of("*s", &[1]), of("n*", &[1])]);
        assert_eq!(receivers(&channels, true, "news"), [of("", &[1])]);
        assert_eq!(receivers(&channels, false, "nobody"), [of("n*", &[1])]);
        assert_eq!(channels.names(Kind::Channel, None).len(), 2);
        assert_eq!(channels.names(Kind::Channel, Some(b"s*")), [Name::from(&b"sport"[..])]);
        assert_eq!((channels.subscribers(Kind::Channel, b"news"), channels.count(Kind::Pattern)), (2, 2));
        assert_eq!(channels.unsubscribe(&first, Kind::Channel, b"news", &attention), 3);
        assert_eq!(channels.unsubscribe(&first, Kind::Channel, b"news", &attention), 3);
        assert_eq!(receivers(&channels, false, "news"), [of("", &[2]), of("*s", &[1]), of("n*", &[1])]);
        channels.leave(&first, &attention);
        assert!(!first.is_subscribed() && second.is_subscribed());
        assert_eq!(attention.wanted(), MESSAGES);
        channels.leave(&second, &attention);
        assert_eq!(attention.wanted(), 0);
        let registry = channels.read();
        assert_eq!((registry.bytes, registry.subscriptions.len()), (0, 0));
        assert!(registry.subscribers.iter().all(HashMap::is_empty));
    }

    #[test]
    fn what_did_not_happen_is_undone() {
        let (channels, attention) = (Channels::default(), Attention::default());
        let client = client(1);
        channels.subscribe(&client, Kind::Channel, names(&["a", "b"]).into_iter(), &attention).unwrap();
        let before = channels.of(&client);
        channels.unsubscribe(&client, Kind::Channel, b"a", &attention);
        channels.subscribe(&client, Kind::Pattern, names(&["c"]).into_iter(), &attention).unwrap();
        channels.restore(&client, &before, &attention);
        assert_eq!(channels.of(&client), before);
        assert_eq!(KINDS.map(|kind| client.subscribed_to(kind as usize)), [2, 0, 0]);
        assert_eq!(channels.read().bytes, 2 * (1 + SUBSCRIPTION_BYTES));
    }

    #[test]
    fn subscriptions_are_bounded() {
        let (channels, attention) = (Channels::default(), Attention::default());
        let client = client(1);
        let many = std::iter::repeat_n(&b"a"[..], SUBSCRIPTIONS_MAX + 1);
        let error = channels.subscribe(&client, Kind::Channel, many, &attention).unwrap_err();
        assert!(error.contains(&format!("{SUBSCRIPTIONS_MAX} subscriptions")), "{error}");
        let long = vec![0; 1 << 20];
        let long = std::iter::repeat_n(long.as_slice(), BYTES_MAX >> 20);
        let error = channels.subscribe(&client, Kind::Shard, long, &attention).unwrap_err();
        assert!(error.contains("1 GiB"), "{error}");
        let long = vec![b'*'; PATTERN_BYTES_MAX + 1];
        let subscribe =
            |kind, length| channels.subscribe(&client, kind, [&long[..length]].into_iter(), &attention);
        assert_eq!(subscribe(Kind::Pattern, long.len()), Err(PATTERN_TOO_LONG));
        assert_eq!(subscribe(Kind::Channel, long.len()), Ok(vec![1]));
        assert_eq!(subscribe(Kind::Pattern, PATTERN_BYTES_MAX), Ok(vec![2]));
        channels.leave(&client, &attention);
        assert!(!client.is_subscribed() && attention.wanted() == 0);
    }
}
