//! What clients that watch are shown, and what they can do no more.

use crate::mailbox::Mailbox;
use crate::memcache::harness::{self, Client};
use crate::redis::telling::tell_foreign;
use crate::shared::{Reach, Shared};
use crate::users::User;
use std::sync::Arc;
use thermae_core::SetOptions;

/// A server whose clients can be sent what they did not ask for.
fn shared() -> Shared {
    let shared = harness::shared(64 << 20);
    let mailboxes = Arc::new([Mailbox::new().unwrap()]);
    shared.reach.set(Reach { mailboxes, addresses: Vec::new(), memcached: Vec::new() }).unwrap();
    shared
}

/// A client that watches.
fn watcher(flags: &str, shared: &Shared) -> Client {
    let mut client = Client::new(true);
    assert_eq!(client.send(format!("watch{flags}\r\n"), shared), "OK\r\n");
    client
}

/// What it was shown since the last time, without when and without numbers.
fn shown(client: &Client, shared: &Shared) -> Vec<String> {
    let messages = shared.take_messages(client.seen.place);
    let text = String::from_utf8(messages.iter().flat_map(|bytes| bytes.to_vec()).collect()).unwrap();
    text.split_terminator('\n')
        .map(|line| match line.split_once("type=") {
            Some((_, what)) => what.to_owned(),
            None => line.to_owned(),
        })
        .collect()
}

#[test]
fn nothing_is_noted_while_nobody_watches() {
    let shared = shared();
    let (first, mut client) = (watcher(" fetchers mutations", &shared), Client::new(true));
    assert_eq!(client.send("set a 0 0 1\r\nv\r\n", &shared), "STORED\r\n");
    assert_eq!(shown(&first, &shared).len(), 2);
    let mut session = first.session;
    session.leave(&first.seen, &shared);
    assert_eq!(shared.attention.wanted(), 0);
    assert_eq!(client.send("set a 0 0 1\r\nv\r\n", &shared), "STORED\r\n");
    // Lines have no number then either.
    let second = watcher("", &shared);
    client.send("get a\r\n", &shared);
    let messages = shared.take_messages(second.seen.place);
    let line = String::from_utf8(messages[0].to_vec()).unwrap();
    assert!(line.contains(" gid=3 type=item_get key=a status=found clsid=1 cfd=0 size=1\n"), "{line}");
}

#[test]
fn who_watches_sends_nothing_more() {
    let shared = shared();
    let mut client = Client::new(true);
    let sent = "version\r\nwatch mutations\r\nset a 0 0 1\r\nv\r\nquit\r\n";
    assert_eq!(client.send(sent, &shared), "VERSION 1.6.18\r\nOK\r\n");
    for more in
        ["get a\r\n", "set a 0 0 1\r\nv\r\n", "watch fetchers\r\n", "quit\r\n", "POST / HTTP/1.1\r\n", "x"]
    {
        assert_eq!(client.send(more, &shared), "");
        assert!(client.input.is_empty() && !client.session.closes);
    }
    assert!(shared.store.get(b"a").unwrap().is_none());
}

#[test]
fn what_memcached_does_not_know_is_refused() {
    let shared = shared();
    let mut client = Client::new(true);
    for flags in ["x", "fetchers x", "FETCHERS", "deletions", "a\tb"] {
        assert_eq!(client.send(format!("watch {flags}\r\nmn\r\n"), &shared), "ERROR\r\nMN\r\n");
    }
    assert_eq!(client.send("watch fetchers noreply\r\nmn\r\n", &shared), "MN\r\n");
    assert_eq!(shared.attention.wanted(), 0);
    let all =
        " fetchers mutations evictions connevents sysevents rawcmds proxyreqs proxyevents proxyuser fetchers";
    let watchers: Vec<Client> = (0..20).map(|_| watcher(all, &shared)).collect();
    let refusal = "WATCHER_TOO_MANY log watcher limit reached\r\n";
    assert_eq!(client.send("watch\r\n", &shared), refusal);
    assert_eq!(client.send("mn\r\n", &shared), "MN\r\n");
    assert_eq!(watchers.len(), 20);
}

#[test]
fn only_what_has_to_make_room_and_clients_can_see_is_shown() {
    let shared = shared();
    let watcher = watcher(" evictions", &shared);
    let mut events = crate::events::Events::default();
    events.want(crate::attention::EVENTS);
    for (class, name, key) in [
        (crate::events::classes::EVICTED, "evicted", &b"a\n"[..]),
        (crate::events::classes::EVICTED, "evicted", b"\xff\x01other"),
        (crate::events::classes::EXPIRED, "expired", b"b"),
    ] {
        events.note(class, name, key);
    }
    events.keep(shared.attention.wanted());
    tell_foreign(&shared, &events);
    assert_eq!(shown(&watcher, &shared), ["eviction key=a%0A clsid=1"]);
}

#[test]
fn a_long_turn_is_shown_bit_by_bit_and_what_finds_no_room_is_counted() {
    let shared = shared();
    let (watcher, mut client) = (watcher(" fetchers", &shared), Client::new(true));
    let line = format!("get {}\r\n", "\u{1}".repeat(250));
    client.send(line.repeat(2000), &shared);
    let lines = shown(&watcher, &shared);
    let bytes: usize = lines.iter().map(String::len).sum();
    assert!((800 << 10..1 << 20).contains(&bytes), "{bytes}");
    assert!(lines.iter().all(|line| line.starts_with("item_get key=%01%01")));
    client.send("get a\r\n", &shared);
    let rest = shown(&watcher, &shared);
    assert_eq!(
        rest,
        [&format!("skipped={}", 2000 - lines.len()), "item_get key=a status=not_found clsid=0 cfd=0 size=0"]
    );
}

#[test]
fn who_may_not_do_everything_any_more_watches_no_more() {
    let shared = shared();
    let [app, other] = [b"app".to_vec(), b"other".to_vec()].map(|name| {
        let mut user = User::clone(&shared.users.default_user());
        user.name = name;
        Arc::new(user)
    });
    shared.change_users(|accounts| accounts.insert(app.name.clone(), Arc::clone(&app)));
    let mut watcher = Client::new(false);
    shared.clients.add(&watcher.seen);
    assert_eq!(watcher.send("set a 0 0 10\r\napp secret\r\nwatch\r\n", &shared), "STORED\r\nOK\r\n");
    shared.change_users(|accounts| accounts.insert(other.name.clone(), Arc::clone(&other)));
    assert!(!watcher.seen.is_killed());
    shared.change_users(|accounts| accounts.remove(&b"app"[..]));
    assert!(watcher.seen.is_killed());
}

#[test]
fn values_that_find_no_room_are_shown_as_such() {
    let shared = shared();
    shared.memcached_value_bytes_max.store(10, std::sync::atomic::Ordering::Relaxed);
    let (watcher, mut client) = (watcher(" fetchers mutations", &shared), Client::new(true));
    shared.store.set(b"a", b"v", &SetOptions::default()).unwrap();
    let too_large = "SERVER_ERROR object too large for cache\r\n";
    assert_eq!(client.send(format!("set a 0 60 11\r\n{}\r\n", "x".repeat(11)), &shared), too_large);
    assert_eq!(client.send(format!("ms a 11 ME\r\n{}\r\n", "x".repeat(11)), &shared), too_large);
    let lines = shown(&watcher, &shared);
    assert_eq!(
        lines,
        [
            "item_store key=a status=too_large cmd=set ttl=60 clsid=0 cfd=0 size=0",
            "item_get key=a status=found clsid=1 cfd=0 size=1",
            "item_store key=a status=too_large cmd=add ttl=0 clsid=0 cfd=0 size=0",
            "item_get key=a status=not_found clsid=0 cfd=0 size=0",
        ]
    );
}
