//! Clients of a server that runs: they are listed, ended, made to wait and let go, across the loops that serve them.

mod common;

use common::served::{Client, PATIENCE, Served, wait_until};
use std::time::{Duration, Instant};

#[test]
fn clients_of_any_loop_are_listed_and_ended() {
    let served = Served::new("kill");
    let mut clients: Vec<Client> = (0..4).map(|_| served.connect()).collect();
    let ids: Vec<String> = clients.iter_mut().map(Client::id).collect();
    assert_eq!(clients[0].send("CLIENT LIST").lines().count(), 4);
    assert_eq!(clients[0].send(&format!("CLIENT KILL ID {}", ids[1])), ":1");
    assert!(clients[1].is_closed());
    assert_eq!(clients[0].send("CLIENT KILL TYPE normal"), ":2");
    assert!(clients[2].is_closed() && clients[3].is_closed());
    wait_until(|| clients[0].send("INFO clients").contains("connected_clients:1\r\n"));
    assert_eq!(clients[0].send(&format!("CLIENT KILL ID {} SKIPME no", ids[0])), ":1");
    assert!(clients[0].is_closed());
    served.end();
}

#[test]
fn idle_clients_are_let_go() {
    let served = Served::new("idle");
    let (mut first, mut second) = (served.connect(), served.connect());
    assert_eq!(second.send("PING"), "+PONG");
    assert_eq!(first.send("CONFIG SET timeout 1"), "+OK");
    wait_until(|| first.send("CLIENT LIST").lines().count() == 1);
    assert!(second.is_closed());
    assert_eq!(first.send("PING"), "+PONG");
    served.end();
}

#[test]
fn a_pause_holds_commands_back_and_loses_none() {
    let served = Served::new("pause");
    let (mut first, mut second, mut third) = (served.connect(), served.connect(), served.connect());
    assert_eq!(first.send("CLIENT PAUSE 60000 WRITE"), "+OK");
    second.write("GET a\r\nSET a 1\r\nGET a");
    third.write("SET b 1");
    assert_eq!(second.read(), "null");
    assert_eq!(first.send("GET a"), "null");
    // Who goes while it waits is forgotten, and so is what it sent.
    drop(third);
    wait_until(|| first.send("CLIENT LIST").lines().count() == 2);
    assert_eq!(first.send("CLIENT UNPAUSE"), "+OK");
    assert_eq!((second.read(), second.read()), ("+OK".to_owned(), "1".to_owned()));
    assert_eq!(first.send("GET b"), "null");
    // A pause of everything ends by itself.
    let start = Instant::now();
    assert_eq!(first.send("CLIENT PAUSE 300"), "+OK");
    assert_eq!(second.send("GET a"), "1");
    assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
    served.end();
}

#[test]
fn a_client_can_end_the_server() {
    let served = Served::new("shutdown");
    let (mut first, mut second) = (served.connect(), served.connect());
    assert_eq!(second.send("PING"), "+PONG");
    first.write("SHUTDOWN NOSAVE");
    assert!(first.is_closed() && second.is_closed());
    assert!(served.server.wait(PATIENCE));
    served.end();
}

/// Whether the end comes with the last bytes or after them, and however the two are cut.
#[test]
fn who_sends_no_more_is_answered_and_let_go() {
    let served = Served::new("ends");
    let mut watching = served.connect();
    for (number, pause) in (0..300).map(|number| (number, Duration::from_micros(number % 7 * 20))) {
        let mut client = served.connect();
        let (first, rest) = "ECHO one\r\nECHO two\r\n".split_at(number as usize % 20);
        for part in [first, rest] {
            client.write_raw(part.as_bytes());
            std::thread::sleep(pause);
        }
        client.sends_no_more();
        assert_eq!((client.read(), client.read()), ("one".to_owned(), "two".to_owned()));
        assert!(client.is_closed());
    }
    wait_until(|| watching.send("INFO clients").contains("connected_clients:1\r\n"));
    served.end();
}
