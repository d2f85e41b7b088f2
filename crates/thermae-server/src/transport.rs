//! How bytes get to a client and back: as they are, or in TLS. Never waits.
//!
//! A TLS session keeps records that the socket did not take; until they are gone, nothing more is given to it, so that what it holds is bounded as a
//! plain connection's output is.

use rustix::buffer::spare_capacity;
use rustix::io::{Errno, read};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustls::ServerConnection;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Plain bytes given to a TLS session at once.
const TLS_CHUNK_BYTES: usize = 64 << 10;

/// What reading came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// So many bytes; as many more may be there as were asked for.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// The client has gone, or what it sent is no TLS.
    End,
    /// The connection is broken.
    Broken,
}

/// What sending came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// So many bytes were taken, all that there were or not.
    Bytes(usize),
    /// The client has gone.
    End,
}

/// A client's socket.
#[derive(Debug)]
pub enum Transport {
    /// Bytes as they are.
    Plain(OwnedFd),
    /// In TLS.
    Tls(Box<Tls>),
}

/// A socket with its TLS session.
#[derive(Debug)]
pub struct Tls {
    fd: OwnedFd,
    session: ServerConnection,
    failure: Option<rustls::Error>,
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(fd) => fd.as_fd(),
            Self::Tls(tls) => tls.fd.as_fd(),
        }
    }
}

impl Transport {
    /// A socket in TLS.
    pub fn tls(fd: OwnedFd, mut session: ServerConnection) -> Self {
        session.set_buffer_limit(Some(2 * TLS_CHUNK_BYTES));
        Self::Tls(Box::new(Tls { fd, session, failure: None }))
    }

    /// Reads once, behind what `input` holds, as much as it has room for.
    #[inline]
    pub fn read(&mut self, input: &mut Vec<u8>) -> Received {
        match self {
            // Of a socket, this is a little less work for the system than read.
            Self::Plain(fd) => {
                received_of(recv(&*fd, spare_capacity(input), RecvFlags::empty()).map(|(count, _)| count))
            }
            Self::Tls(tls) => tls.read(input),
        }
    }

    /// The same, no more than so many bytes; of TLS, as many as are decrypted at once.
    pub fn read_up_to(&mut self, input: &mut Vec<u8>, bytes_max: usize) -> Received {
        let Self::Plain(fd) = self else { return self.read(input) };
        let before = input.len();
        input.resize(before + bytes_max, 0);
        let received = recv(&*fd, &mut input[before..], RecvFlags::empty());
        input.truncate(before + received.map_or(0, |(count, _)| count));
        received_of(received.map(|(count, _)| count))
    }

    /// Bytes that have come and were not read yet; of TLS a few more than they stand for.
    pub fn readable_bytes(&self) -> usize {
        rustix::io::ioctl_fionread(self.as_fd())
            .map_or(0, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// What was wrong with what came, where that was no TLS, or none that is accepted.
    pub fn failure(&self) -> Option<String> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => tls.failure.as_ref().map(ToString::to_string),
        }
    }

    /// Sends what the client takes.
    #[inline]
    pub fn send(&mut self, output: &[u8]) -> Sent {
        match self {
            Self::Plain(fd) => send_plain(fd, output),
            Self::Tls(tls) => tls.send(output),
        }
    }

    /// Whether something was taken that the socket has not taken yet: [`Transport::send`] nothing more to have it sent.
    #[inline]
    pub fn is_behind(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.session.wants_write(),
        }
    }
}

#[inline]
fn received_of(result: Result<usize, Errno>) -> Received {
    match result {
        Ok(0) => Received::End,
        Ok(count) => Received::Bytes(count),
        Err(Errno::AGAIN | Errno::INTR) => Received::Nothing,
        Err(_) => Received::Broken,
    }
}

#[inline]
fn send_plain(fd: &OwnedFd, output: &[u8]) -> Sent {
    let mut sent = 0;
    while sent < output.len() {
        match send(fd, &output[sent..], SendFlags::NOSIGNAL) {
            Ok(count) => sent += count,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            Err(_) => return Sent::End,
        }
    }
    Sent::Bytes(sent)
}

/// The socket, as the TLS library reads and writes it.
struct Raw<'a>(&'a OwnedFd);

impl Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(read(self.0, buffer)?)
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Tls {
    fn read(&mut self, input: &mut Vec<u8>) -> Received {
        let mut count = 0;
        let mut is_over = false;
        // As many records as there are: what is left in the session's own buffer makes no socket readable.
        loop {
            match self.session.read_tls(&mut Raw(&self.fd)) {
                Ok(0) => is_over = true,
                Ok(_) => {}
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
                {
                    break;
                }
                Err(_) => return Received::End,
            }
            let state = match self.session.process_new_packets() {
                Ok(state) => state,
                Err(error) => {
                    // What was wrong is said in an alert, for those who take it.
                    self.push();
                    self.failure = Some(error);
                    return Received::End;
                }
            };
            let plain = state.plaintext_bytes_to_read();
            let before = input.len();
            input.resize(before + plain, 0);
            match self.session.reader().read(&mut input[before..]) {
                Ok(taken) => {
                    input.truncate(before + taken);
                    count += taken;
                }
                Err(_) => input.truncate(before),
            }
            if is_over || state.peer_has_closed() {
                return if count > 0 { Received::Bytes(count) } else { Received::End };
            }
            if count >= TLS_CHUNK_BYTES {
                break;
            }
        }
        if !self.push() {
            return Received::End;
        }
        if count > 0 { Received::Bytes(count) } else { Received::Nothing }
    }

    fn send(&mut self, output: &[u8]) -> Sent {
        let mut sent = 0;
        loop {
            if !self.push() {
                return Sent::End;
            }
            if self.session.wants_write() || sent == output.len() {
                return Sent::Bytes(sent);
            }
            let chunk = &output[sent..output.len().min(sent + TLS_CHUNK_BYTES)];
            match self.session.writer().write(chunk) {
                Ok(taken) => sent += taken,
                Err(_) => return Sent::End,
            }
        }
    }

    /// Gives the socket what it takes; false where the client has gone.
    fn push(&mut self) -> bool {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Raw(&self.fd)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }
}
