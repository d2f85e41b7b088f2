//! Clients of a server that runs: they are listed, ended, made to wait and let go, across the loops that serve them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use thermae_core::{Location, Options, Store};
use thermae_server::config::Config;
use thermae_server::server::{Server, listen};

/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server with two loops, and its store, which goes with it.
struct Served {
    server: Server,
    location: Location,
    options: Options,
}

impl Served {
    fn new(name: &str) -> Self {
        let location = Location::parse(&format!("shm://test-clients-{name}-{}", std::process::id())).unwrap();
        let options = Options { hot_bytes: Some(64 << 20), ..Options::default() };
        let store = Store::open(&location, &options).unwrap();
        let config = Config { threads: 2, redis: vec!["127.0.0.1:0".to_owned()], ..Config::default() };
        Self {
            server: Server::start(store, config.clone(), listen(&config).unwrap()).unwrap(),
            location,
            options,
        }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(&self.server.addresses()[0].1).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(BufReader::new(stream))
    }

    /// Ends the server and removes its store.
    fn end(self) {
        self.server.close().unwrap();
        drop(self.server);
        thermae_core::destroy(&*self.options.env, &self.location).unwrap();
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn write(&mut self, command: &str) {
        self.0.get_mut().write_all(format!("{command}\r\n").as_bytes()).unwrap();
    }

    /// A reply of one line or one bulk.
    fn read(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        if let Some(length) =
            line.strip_prefix('$').and_then(|length| length.trim_end().parse::<usize>().ok())
        {
            let mut bytes = vec![0; length + 2];
            self.0.read_exact(&mut bytes).unwrap();
            bytes.truncate(length);
            return String::from_utf8(bytes).unwrap();
        }
        line.trim_end().to_owned()
    }

    fn send(&mut self, command: &str) -> String {
        self.write(command);
        self.read()
    }

    fn id(&mut self) -> String {
        self.send("CLIENT ID").trim_start_matches(':').to_owned()
    }

    fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0) | Err(_))
    }
}

/// Waits until something is so.
fn wait_until(mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "it never was");
        std::thread::sleep(Duration::from_millis(5));
    }
}

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
    assert_eq!(second.read(), "$-1");
    assert_eq!(first.send("GET a"), "$-1");
    // Who goes while it waits is forgotten, and so is what it sent.
    drop(third);
    wait_until(|| first.send("CLIENT LIST").lines().count() == 2);
    assert_eq!(first.send("CLIENT UNPAUSE"), "+OK");
    assert_eq!((second.read(), second.read()), ("+OK".to_owned(), "1".to_owned()));
    assert_eq!(first.send("GET b"), "$-1");
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
