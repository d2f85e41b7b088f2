//! Load at a set pace, for `thermae bench`: what clients wait for whose requests do not depend on how fast others are answered.
//!
//! A request's time counts from when it was due, not from when it could be sent: else a server that stops for a while would keep most of those from
//! asking who had to wait (G. Tene calls it coordinated omission). One thread sends and receives without sleeping; it needs a processor of
//! its own.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::gil;

const READ_BYTES: usize = 64 << 10;
/// How long replies may be missing at the end.
const LATE_MAX: Duration = Duration::from_secs(10);

/// A request as it is sent, and how many bytes its reply has.
type Exchange = (Vec<u8>, usize);

struct Client {
    socket: TcpStream,
    /// When each request was due whose reply is not whole yet, and how many bytes of the reply are missing.
    owed: VecDeque<(Instant, usize)>,
    unsent: Vec<u8>,
}

impl Client {
    fn new(port: u16) -> std::io::Result<Client> {
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(Client { socket, owed: VecDeque::new(), unsent: Vec::new() })
    }

    fn send(&mut self) -> std::io::Result<()> {
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes what has come; appends how long each whole reply took.
    fn receive(&mut self, buffer: &mut [u8], seconds: &mut Vec<f64>) -> std::io::Result<()> {
        let received = match self.socket.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(received) => received,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        let mut left = received;
        while left > 0 {
            let Some((due, missing)) = self.owed.front_mut() else {
                return Err(std::io::Error::other("a reply that nobody waits for"));
            };
            let taken = left.min(*missing);
            (left, *missing) = (left - taken, *missing - taken);
            if *missing == 0 {
                seconds.push(now.duration_since(*due).as_secs_f64());
                self.owed.pop_front();
            }
        }
        if buffer[0] == b'-' {
            return Err(std::io::Error::other(String::from_utf8_lossy(&buffer[..received]).into_owned()));
        }
        Ok(())
    }
}

/// Sends the requests in turn, so many a second, over so many connections. Returns how many seconds each took, in the order of the replies.
#[pyfunction]
pub(crate) fn paced_latencies_seconds(
    py: Python<'_>,
    port: u16,
    exchanges: Vec<Exchange>,
    requests_per_second: f64,
    connections: usize,
    seconds: f64,
) -> PyResult<Vec<f64>> {
    let count = (requests_per_second * seconds) as usize;
    if exchanges.is_empty() || connections == 0 || count == 0 {
        return Err(PyRuntimeError::new_err("there is nothing to be sent"));
    }
    let interval = Duration::from_secs_f64(1.0 / requests_per_second);
    gil::detached(py, || run(port, &exchanges, interval, connections, count))
        .map_err(|error| PyRuntimeError::new_err(format!("the load failed: {error}")))
}

fn run(
    port: u16,
    exchanges: &[Exchange],
    interval: Duration,
    connections: usize,
    count: usize,
) -> std::io::Result<Vec<f64>> {
    let mut clients = (0..connections).map(|_| Client::new(port)).collect::<std::io::Result<Vec<_>>>()?;
    let mut buffer = vec![0; READ_BYTES];
    let mut seconds = Vec::with_capacity(count);
    let (mut asked, mut due) = (0, Instant::now());
    while seconds.len() < count {
        let now = Instant::now();
        while due <= now && asked < count {
            let (request, reply_bytes) = &exchanges[asked % exchanges.len()];
            let client = &mut clients[asked % connections];
            client.unsent.extend_from_slice(request);
            client.owed.push_back((due, *reply_bytes));
            (asked, due) = (asked + 1, due + interval);
            client.send()?;
        }
        if asked == count && now.duration_since(due) > LATE_MAX {
            return Err(ErrorKind::TimedOut.into());
        }
        for client in clients.iter_mut().filter(|client| !client.owed.is_empty()) {
            client.send()?;
            client.receive(&mut buffer, &mut seconds)?;
        }
    }
    Ok(seconds)
}
