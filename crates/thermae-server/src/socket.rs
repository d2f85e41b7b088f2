//! Sockets that clients come to, and those that they come on: always without waiting.

use crate::tls::Acceptor;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::sockopt::{
    set_ipv6_v6only, set_socket_keepalive, set_socket_reuseaddr, set_tcp_congestion, set_tcp_keepcnt,
    set_tcp_keepidle, set_tcp_keepintvl, set_tcp_nodelay,
};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, acceptfrom_with, bind, getsockname, listen,
    socket_with,
};
use rustls::ServerConfig;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 511;
/// After how long a client that says nothing is asked whether it is still there, as in Redis; and how often, before it is taken for gone.
pub const KEEPALIVE: Duration = Duration::from_secs(300);
const KEEPALIVE_PROBES: u32 = 3;

/// Which protocol a listener's clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Redis.
    Redis,
    /// memcached.
    Memcached,
}

/// A socket that clients come to.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub fd: OwnedFd,
    /// What its clients speak.
    pub protocol: Protocol,
    /// Where it is, as a user would write it.
    pub address: String,
    /// That they speak it in TLS, and with what.
    pub tls: Option<Arc<Acceptor>>,
    /// Removed with the listener.
    path: Option<PathBuf>,
}

/// A client that came.
#[derive(Debug)]
pub struct Accepted {
    /// Its socket.
    pub fd: OwnedFd,
    /// Where it calls from.
    pub address: String,
    /// Where it was accepted.
    pub local_address: String,
    /// Whether it is on this machine.
    pub is_local: bool,
    /// What it speaks.
    pub protocol: Protocol,
    /// That it speaks this in TLS, and with what.
    pub tls: Option<Arc<ServerConfig>>,
}

impl Listener {
    /// Listens on `HOST:PORT`: on each address that the host has, for clients take `localhost` to be either of two; but not once more on one that is
    /// among the `others`, of the same protocol. Port 0 is a free one, the same on all of them where it is free there, too.
    ///
    /// # Errors
    /// A name that has no address; what the system says, of any address but a loopback of a family that the machine does not have.
    pub fn tcp(
        address: &str,
        protocol: Protocol,
        tls: Option<&Arc<Acceptor>>,
        others: &[Self],
    ) -> io::Result<Vec<Self>> {
        let mut listeners: Vec<Self> = Vec::new();
        let mut missing = Some(io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address"));
        for resolved in address.to_socket_addrs()? {
            let is_same = |other: &Self| {
                other.protocol == protocol && other.tls.is_some() == tls.is_some() && other.is_at(&resolved)
            };
            if listeners.iter().chain(others).any(is_same) {
                missing = None;
                continue;
            }
            let first = listeners.first().and_then(Self::bound);
            let with_port = first
                .filter(|_| resolved.port() == 0)
                .map(|first| SocketAddr::new(resolved.ip(), first.port()));
            let listener = match with_port.map(|address| Self::at(&address, protocol, tls.cloned())) {
                Some(Err(error)) if error.kind() == io::ErrorKind::AddrInUse => None,
                other => other,
            };
            match listener.unwrap_or_else(|| Self::at(&resolved, protocol, tls.cloned())) {
                Ok(listener) => listeners.push(listener),
                Err(error) if is_of_a_missing_family(&resolved, &error) => {
                    missing = missing.map(|_| error);
                }
                Err(error) => return Err(error),
            }
        }
        match missing {
            Some(error) if listeners.is_empty() => Err(error),
            _ => Ok(listeners),
        }
    }

    fn bound(&self) -> Option<SocketAddr> {
        SocketAddr::try_from(getsockname(&self.fd).ok()?).ok()
    }

    fn is_at(&self, address: &SocketAddr) -> bool {
        address.port() != 0 && self.bound().is_some_and(|bound| bound == *address)
    }

    fn at(resolved: &SocketAddr, protocol: Protocol, tls: Option<Arc<Acceptor>>) -> io::Result<Self> {
        let family = if resolved.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(family, SocketType::STREAM, flags, None)?;
        set_socket_reuseaddr(&fd, true)?;
        if resolved.is_ipv6() {
            set_ipv6_v6only(&fd, true)?;
        }
        // Linux gives a socket that is accepted what its listener was told. Replies are written whole: waiting for more to send only delays them.
        set_tcp_nodelay(&fd, true)?;
        keep_alive(&fd)?;
        if resolved.ip().is_loopback() {
            // There is no congestion to be controlled inside of a machine; where the system has no such algorithm, its own does.
            let _ = set_tcp_congestion(&fd, "reno");
        }
        bind(&fd, resolved)?;
        listen(&fd, BACKLOG)?;
        let bound = SocketAddr::try_from(getsockname(&fd)?)?;
        let address = if tls.is_some() { format!("{bound} (TLS)") } else { bound.to_string() };
        Ok(Self { fd, protocol, address, tls, path: None })
    }

    /// Listens on a path, which only this user may open. A socket that nobody listens on any more is replaced, anything else is not.
    ///
    /// # Errors
    /// What the system says; AddrInUse where something is there.
    pub fn unix(path: &Path, protocol: Protocol) -> io::Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let new = || socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        if let Ok(metadata) = std::fs::symlink_metadata(path) {
            let is_abandoned = metadata.file_type().is_socket()
                && rustix::net::connect(new()?, &address) == Err(Errno::CONNREFUSED);
            if !is_abandoned {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "something is there already"));
            }
            std::fs::remove_file(path)?;
        }
        let fd = new()?;
        // Before it has a name: Linux gives the file the socket's mode, so that there is no moment at which others get in.
        rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
        bind(&fd, &address)?;
        listen(&fd, BACKLOG)?;
        Ok(Self {
            fd,
            protocol,
            address: format!("unix:{}", path.display()),
            tls: None,
            path: Some(path.to_owned()),
        })
    }

    /// The next client; `None` where none waits.
    ///
    /// # Errors
    /// What the system says: too many open files, above all. A client that has gone again is no error.
    pub fn accept(&self) -> io::Result<Option<Accepted>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        loop {
            let (fd, peer) = match acceptfrom_with(&self.fd, flags) {
                Ok(accepted) => accepted,
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(error) => return Err(error.into()),
            };
            if self.path.is_some() {
                let (address, local_address) = (format!("{}:0", self.address), self.address.clone());
                let protocol = self.protocol;
                return Ok(Some(Accepted {
                    fd,
                    address,
                    local_address,
                    is_local: true,
                    protocol,
                    tls: None,
                }));
            }
            // A client that has gone again has no address.
            let ends = (peer.map(SocketAddr::try_from), getsockname(&fd).map(SocketAddr::try_from));
            let (Some(Ok(peer)), Ok(Ok(own))) = ends else { continue };
            return Ok(Some(Accepted {
                fd,
                address: peer.to_string(),
                local_address: own.to_string(),
                is_local: peer.ip().is_loopback(),
                protocol: self.protocol,
                tls: self.tls.as_ref().map(|tls| tls.present()),
            }));
        }
    }
}

/// Whether a loopback can't be listened on because the machine has none of its family: `localhost` often stands for one of each.
fn is_of_a_missing_family(address: &SocketAddr, error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
        || (error.kind() == io::ErrorKind::AddrNotAvailable && address.ip().is_loopback())
}

/// Has the system ask a client that says nothing whether it is still there: one whose machine has gone would keep its place for ever.
fn keep_alive(fd: &OwnedFd) -> Result<(), Errno> {
    set_socket_keepalive(fd, true)?;
    set_tcp_keepidle(fd, KEEPALIVE)?;
    set_tcp_keepintvl(fd, KEEPALIVE / KEEPALIVE_PROBES)?;
    set_tcp_keepcnt(fd, KEEPALIVE_PROBES)
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Whoever comes next replaces a socket that was left.
            drop(std::fs::remove_file(path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::net::TcpStream;

    #[test]
    fn a_name_is_listened_on_at_all_its_addresses() {
        let addresses: BTreeSet<SocketAddr> = "localhost:0".to_socket_addrs().unwrap().collect();
        let listeners = Listener::tcp("localhost:0", Protocol::Redis, None, &[]).unwrap();
        assert_eq!(listeners.len(), addresses.len());
        // Once is enough, and another protocol can't share it.
        let first = &listeners[0].address;
        assert!(Listener::tcp(first, Protocol::Redis, None, &listeners).unwrap().is_empty());
        let refused = Listener::tcp(first, Protocol::Memcached, None, &listeners);
        assert_eq!(refused.map(drop).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        for listener in listeners {
            let client = TcpStream::connect(&listener.address).unwrap();
            let accepted = listener.accept().unwrap().unwrap();
            assert_eq!(accepted.address, client.local_addr().unwrap().to_string());
            assert_eq!(accepted.local_address, listener.address);
            assert!(accepted.is_local);
        }
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        // Of the block that is kept for documentation.
        let refused = Listener::tcp("192.0.2.1:0", Protocol::Redis, None, &[]);
        assert_eq!(refused.map(drop).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
    }
}
