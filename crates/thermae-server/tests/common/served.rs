//! A server that runs, with a store of its own, and clients that talk to it over sockets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};
use thermae_core::{Location, Options, Store};
use thermae_server::config::Config;
use thermae_server::server::{Server, listen};

/// Longest that anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A server, and its store, which goes with it.
pub struct Served {
    pub server: Server,
    location: Location,
    options: Options,
}

impl Served {
    /// One with two loops.
    pub fn new(name: &str) -> Self {
        Self::with_loops(name, 2)
    }

    pub fn with_loops(name: &str, threads: u32) -> Self {
        let location = Location::parse(&format!("shm://test-server-{name}-{}", std::process::id())).unwrap();
        let options = Options { hot_bytes: Some(64 << 20), ..Options::default() };
        let store = Store::open(&location, &options).unwrap();
        let any = || vec!["127.0.0.1:0".to_owned()];
        let config = Config { threads, redis: any(), memcached: any(), ..Config::default() };
        Self {
            server: Server::start(store, config.clone(), listen(&config).unwrap()).unwrap(),
            location,
            options,
        }
    }

    pub fn connect_to(&self, index: usize) -> Client {
        let stream = TcpStream::connect(&self.server.addresses()[index].1).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client(BufReader::new(stream))
    }

    /// A client of Redis, speaking RESP2.
    pub fn connect(&self) -> Client {
        self.connect_to(0)
    }

    /// The same, speaking RESP3.
    pub fn connect_resp3(&self) -> Client {
        let mut client = self.connect();
        assert!(client.send("HELLO 3").starts_with("%[server redis"));
        client
    }

    /// Ends the server and removes its store.
    pub fn end(self) {
        self.server.close().unwrap();
        drop(self.server);
        thermae_core::destroy(&*self.options.env, &self.location).unwrap();
    }
}

/// One of its clients.
pub struct Client(BufReader<TcpStream>);

impl Client {
    pub fn write(&mut self, commands: &str) {
        self.0.get_mut().write_all(format!("{commands}\r\n").as_bytes()).unwrap();
    }

    pub fn write_raw(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    pub fn sends_no_more(&mut self) {
        self.0.get_mut().shutdown(Shutdown::Write).unwrap();
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// A reply, or what the client did not ask for, in one line: aggregates in brackets behind their mark, bulks as they are.
    pub fn read(&mut self) -> String {
        let line = self.line();
        let length: usize = match line.as_bytes()[0] {
            b'$' | b'*' | b'%' | b'~' | b'>' => match line[1..].parse() {
                Ok(length) => length,
                Err(_) => return "null".to_owned(),
            },
            b'_' => return "null".to_owned(),
            _ => return line,
        };
        let mark = &line[..1];
        match mark {
            "$" => {
                let mut bytes = vec![0; length + 2];
                self.0.read_exact(&mut bytes).unwrap();
                bytes.truncate(length);
                String::from_utf8(bytes).unwrap()
            }
            _ => {
                let count = if mark == "%" { 2 * length } else { length };
                let parts: Vec<String> = (0..count).map(|_| self.read()).collect();
                format!("{mark}[{}]", parts.join(" "))
            }
        }
    }

    pub fn send(&mut self, command: &str) -> String {
        self.write(command);
        self.read()
    }

    pub fn id(&mut self) -> String {
        self.send("CLIENT ID").trim_start_matches(':').to_owned()
    }

    pub fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0) | Err(_))
    }
}

/// Waits until something is so.
pub fn wait_until(mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "it never was");
        std::thread::sleep(Duration::from_millis(5));
    }
}
