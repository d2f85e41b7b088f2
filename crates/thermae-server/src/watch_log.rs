//! What memcached clients that watch are shown: lines of a log, as memcached 1.6 writes them.
//!
//! Lines are collected while commands are executed, and numbered when they are shown (see [`crate::watchers`]). A key is percent-encoded, so that none
//! of its bytes can end a line or a word. What memcached knows of an item's class of slabs is 1 here, as in `stats`: the store has no slabs.

use crate::databases::database_of;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of lines from which on they are shown before more are collected.
const BYTES_ENOUGH: usize = 64 << 10;

/// A line, but for its number.
#[derive(Debug)]
pub struct Line {
    /// What it tells of: a bit of [`crate::attention`].
    pub what: u32,
    /// When it happened, since 1970.
    pub at: Duration,
    /// What happened.
    pub text: String,
}

/// Lines that were not shown yet.
#[derive(Debug, Default)]
pub struct WatchLog {
    lines: Vec<Line>,
    bytes: usize,
}

/// What became of an item that a client wanted to be stored.
#[derive(Debug, Clone, Copy)]
pub struct Storing {
    /// Such as `stored`.
    pub status: &'static str,
    /// Such as `set`.
    pub command: &'static str,
    /// Seconds until it expires; 0: never, -1: it has expired already.
    pub seconds_left: i64,
    /// Bytes of its value; `None`: they were too many to be looked at.
    pub bytes: Option<u64>,
}

impl WatchLog {
    /// Whether there is nothing to be shown.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether there is so much that it should be shown.
    pub fn has_enough(&self) -> bool {
        self.bytes >= BYTES_ENOUGH
    }

    /// Takes the lines.
    pub fn take(&mut self) -> Vec<Line> {
        self.bytes = 0;
        std::mem::take(&mut self.lines)
    }

    /// A client looked for a key, as the store has it, whose value has so many bytes; `None`: there is none.
    pub fn fetched(&mut self, what: u32, fd: i32, key: &[u8], bytes: Option<u64>) {
        let (status, class) = if bytes.is_some() { ("found", 1) } else { ("not_found", 0) };
        let bytes = bytes.unwrap_or(0);
        let rest = format!(" status={status} clsid={class} cfd={fd} size={bytes}");
        self.push_about(what, "item_get", key, &rest);
    }

    /// A client wanted a key, as the store has it, to have a value.
    pub fn stored(&mut self, what: u32, fd: i32, key: &[u8], storing: Storing) {
        let Storing { status, command, seconds_left, bytes } = storing;
        let (class, bytes) = bytes.map_or((0, 0), |bytes| (1, bytes));
        let rest =
            format!(" status={status} cmd={command} ttl={seconds_left} clsid={class} cfd={fd} size={bytes}");
        self.push_about(what, "item_store", key, &rest);
    }

    /// A key, as the store has it, had to make room. What its value was, nobody knows any more.
    pub fn evicted(&mut self, what: u32, key: &[u8]) {
        self.push_about(what, "eviction", key, " clsid=1");
    }

    /// A client came.
    pub fn connected(&mut self, what: u32, fd: i32, address: &str) {
        self.push(what, format!("type=conn_new {} cfd={fd}", peer(address)));
    }

    /// A client has gone, and why.
    pub fn disconnected(&mut self, what: u32, fd: i32, address: &str, reason: &str) {
        self.push(what, format!("type=conn_close {} reason={reason} cfd={fd}", peer(address)));
    }

    fn push_about(&mut self, what: u32, kind: &str, stored_key: &[u8], rest: &str) {
        let mut text = format!("type={kind} key=");
        for &byte in database_of(stored_key).1 {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                text.push(char::from(byte));
            } else {
                // Writing to a string does not fail.
                let _ = write!(text, "%{byte:02X}");
            }
        }
        text.push_str(rest);
        self.push(what, text);
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "a line says when it was written, whatever the store's clock says"
    )]
    fn push(&mut self, what: u32, text: String) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.bytes += text.len();
        self.lines.push(Line { what, at, text });
    }
}

/// Where a client calls from.
fn peer(address: &str) -> String {
    match address.parse::<SocketAddr>() {
        Ok(address) => format!("rip={} rport={} transport=tcp", address.ip(), address.port()),
        Err(_) => "rip=unix rport=0 transport=local".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(log: &mut WatchLog) -> Vec<String> {
        log.take().into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn no_byte_of_a_key_ends_a_word_or_a_line() {
        let mut log = WatchLog::default();
        let all: Vec<u8> = (0..=254).collect();
        log.fetched(1, 7, &all, None);
        let text = texts(&mut log).remove(0);
        let words: Vec<&str> = text.split(' ').collect();
        assert_eq!(words.len(), 6, "{text}");
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{text}");
        assert!(words[1].starts_with("key=%00%01") && words[1].contains("xyz%7B%7C%7D~%7F%80"), "{text}");
        assert!(words[1].contains("%2C-.%2F0") && words[1].contains("%5E_%60a"), "{text}");
    }

    #[test]
    fn lines_are_those_of_memcached() {
        let mut log = WatchLog::default();
        assert!(log.is_empty());
        log.fetched(1, 7, b"a", Some(5));
        log.stored(
            2,
            7,
            b"a b",
            Storing { status: "stored", command: "set", seconds_left: 60, bytes: Some(3) },
        );
        log.stored(
            2,
            7,
            b"a",
            Storing { status: "too_large", command: "add", seconds_left: -1, bytes: None },
        );
        log.evicted(4, b"a");
        log.connected(8, 7, "[::1]:80");
        log.disconnected(8, 7, "127.0.0.1:81", "normal");
        log.disconnected(8, 7, "unix:/run/m.sock:0", "error");
        assert_eq!(
            texts(&mut log),
            [
                "type=item_get key=a status=found clsid=1 cfd=7 size=5",
                "type=item_store key=a%20b status=stored cmd=set ttl=60 clsid=1 cfd=7 size=3",
                "type=item_store key=a status=too_large cmd=add ttl=-1 clsid=0 cfd=7 size=0",
                "type=eviction key=a clsid=1",
                "type=conn_new rip=::1 rport=80 transport=tcp cfd=7",
                "type=conn_close rip=127.0.0.1 rport=81 transport=tcp reason=normal cfd=7",
                "type=conn_close rip=unix rport=0 transport=local reason=error cfd=7",
            ]
        );
        assert!(log.is_empty() && !log.has_enough());
    }
}
