//! A server with clients of both protocols, over sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use thermae_core::env::SystemEnv;
use thermae_core::{Location, Options, Store, destroy};
use thermae_server::config::Config;
use thermae_server::server::{Server, listen};
use thermae_server::socket::Protocol;

/// How long what has to happen may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The directory of a store that goes with it, and its memory with both.
struct Place(tempfile::TempDir);

impl Place {
    fn location(&self) -> Location {
        Location::Directory(self.0.path().join("store"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = destroy(&SystemEnv, &self.location()) {
            assert!(std::thread::panicking(), "{error}");
        }
    }
}

/// A server on free ports, and its store.
struct Served {
    // It ends first.
    server: Server,
    _place: Place,
}

impl Served {
    fn start(change: impl FnOnce(&mut Config)) -> Self {
        let place = Place(tempfile::tempdir().unwrap());
        let options = Options { hot_bytes: Some(64 << 20), cold_bytes: Some(64 << 20), ..Options::default() };
        let store = Store::open(&place.location(), &options).unwrap();
        let any = vec!["127.0.0.1:0".to_owned()];
        let mut config = Config { threads: 2, redis: any.clone(), memcached: any, ..Config::default() };
        change(&mut config);
        Self {
            server: Server::start(store, config.clone(), listen(&config).unwrap()).unwrap(),
            _place: place,
        }
    }

    fn connect(&self, protocol: Protocol) -> TcpStream {
        let address =
            self.server.addresses().iter().find(|(spoken, _)| *spoken == protocol).unwrap().1.clone();
        let client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }
}

/// Sends, and reads as many bytes as the answer has to have.
fn ask(client: &mut TcpStream, request: &str, answer: &str) {
    client.write_all(request.as_bytes()).unwrap();
    let mut bytes = vec![0; answer.len()];
    client.read_exact(&mut bytes).unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), answer);
}

#[test]
fn both_protocols_have_the_same_keys() {
    let served = Served::start(|_| {});
    let (mut memcached, mut redis) = (served.connect(Protocol::Memcached), served.connect(Protocol::Redis));
    ask(&mut memcached, "set k 5 0 3\r\nabc\r\n", "STORED\r\n");
    ask(&mut redis, "GET k\r\nSET l x\r\n", "$3\r\nabc\r\n+OK\r\n");
    ask(&mut memcached, "get k l\r\n", "VALUE k 5 3\r\nabc\r\nVALUE l 0 1\r\nx\r\nEND\r\n");
    let since = Instant::now();
    ask(&mut memcached, "flush_all 1\r\n", "OK\r\n");
    drop(memcached);
    loop {
        redis.write_all(b"GET k\r\n").unwrap();
        let mut answer = [0; 5];
        redis.read_exact(&mut answer).unwrap();
        if &answer == b"$-1\r\n" {
            break;
        }
        redis.read_exact(&mut [0; 4]).unwrap();
        assert!(since.elapsed() < PATIENCE, "nothing was flushed");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(since.elapsed() > Duration::from_millis(900));
}

#[test]
fn a_list_that_is_read_slowly_comes_whole() {
    let served = Served::start(|_| {});
    let mut client = served.connect(Protocol::Memcached);
    let value = "v".repeat(500_000);
    for number in 0..10 {
        ask(&mut client, &format!("set k{number} 0 0 500000\r\n{value}\r\n"), "STORED\r\n");
    }
    let keys: String = (0..10).map(|number| format!(" k{number}")).collect();
    client.write_all(format!("get{}\r\nmn\r\n", keys.repeat(10)).as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let answer = format!("VALUE k0 0 500000\r\n{value}\r\n");
    let mut bytes = vec![0; answer.len()];
    for number in 0..100 {
        client.read_exact(&mut bytes).unwrap();
        assert!(bytes.starts_with(format!("VALUE k{} ", number % 10).as_bytes()), "value {number}");
        assert!(bytes.ends_with(b"vv\r\n"));
    }
    ask(&mut client, "", "END\r\nMN\r\n");
}

#[test]
fn a_client_too_many_is_told_so() {
    let served = Served::start(|config| config.clients_max = 1);
    let mut first = served.connect(Protocol::Memcached);
    ask(&mut first, "mn\r\n", "MN\r\n");
    let mut answer = String::new();
    served.connect(Protocol::Memcached).read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "ERROR max number of clients reached\r\n");
}

#[test]
fn a_client_that_quits_or_sends_nonsense_is_let_go() {
    let served = Served::start(|config| config.password = "secret".to_owned());
    let mut client = served.connect(Protocol::Memcached);
    ask(&mut client, "get k\r\n", "CLIENT_ERROR unauthenticated\r\n");
    ask(&mut client, "set x 0 0 14\r\ndefault secret\r\nset k 0 0 1\r\na\r\n", "STORED\r\nSTORED\r\n");
    for last in ["quit\r\n".to_owned(), "GET / HTTP/1.1\r\nset k 0 0 1\r\nb\r\n".to_owned()] {
        let mut client = served.connect(Protocol::Memcached);
        ask(&mut client, "set x 0 0 14\r\ndefault secret\r\n", "STORED\r\n");
        client.write_all(last.as_bytes()).unwrap();
        let end = client.read(&mut [0; 10]);
        assert!(matches!(&end, Ok(0)) || end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    }
    ask(&mut client, "get k\r\n", "VALUE k 0 1\r\na\r\nEND\r\n");
    let mut binary = served.connect(Protocol::Memcached);
    binary.write_all(&[&[0x80_u8][..], &[0; 23]].concat()).unwrap();
    let mut answer = Vec::new();
    binary.read_to_end(&mut answer).unwrap();
    assert!(answer.len() > 24 && answer[0] == 0x81);
}
