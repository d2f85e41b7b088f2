//! Requests of the memcached protocol: bytes to requests, nothing copied.
//!
//! A line, and for some commands a block of data whose length the line says. What a request is, and where it ends, is known from its bytes alone,
//! so that all that came can be looked at before any of it is executed. Everything here was sent by a stranger: each length is checked against
//! its limit before anything is done with it, and what a value may not be is skipped as it comes, without being kept.

use crate::memcache::flags::{Flags, TOO_MANY};
use crate::memcache::words::{Words, signed, unsigned};

/// Longest key.
pub const KEY_BYTES_MAX: usize = 250;
/// Longest line, but for a list of keys.
const LINE_BYTES_MAX: usize = 2048;
/// Longest line that lists keys.
const KEYS_LINE_BYTES_MAX: usize = 8 << 20;
/// Longest data before a client has said who it is, with which it says so.
const STRANGERS_DATA_BYTES_MAX: u64 = 1024;
/// Blanks that may stand before the name of a command that lists keys.
const BLANKS_MAX: usize = 100;
/// Lengths from here on are no numbers to memcached.
const DATA_BYTES_END: u64 = (i32::MAX - 2) as u64;

/// The error for a line that makes no sense.
pub const BAD_FORMAT: &str = "CLIENT_ERROR bad command line format";
/// The error for data that does not end with its line.
pub const BAD_CHUNK: &str = "CLIENT_ERROR bad data chunk";
/// The error for a value that is longer than allowed.
pub const TOO_LARGE: &str = "SERVER_ERROR object too large for cache";

/// What a storage command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Stores.
    Set,
    /// Stores where there is nothing.
    Add,
    /// Stores where there is something.
    Replace,
    /// Adds behind what is there.
    Append,
    /// Adds in front of it.
    Prepend,
    /// Stores where the version is this one.
    Cas(u64),
}

/// What came behind a line that announced data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data<'a> {
    /// As many bytes as announced.
    Whole(&'a [u8]),
    /// Their end was not where it should be.
    WrongEnd,
    /// More than a value may have; they are skipped.
    TooLarge,
}

/// A storage command.
#[derive(Debug, Clone, Copy)]
pub struct Storage<'a> {
    /// What to do.
    pub mode: Mode,
    /// With what.
    pub key: &'a [u8],
    /// Client flags.
    pub flags: u32,
    /// As it was sent.
    pub expiry: i64,
    /// The value.
    pub data: Data<'a>,
    /// Whether nobody waits for an answer.
    pub is_silent: bool,
}

/// A list of keys, and what to do with them.
#[derive(Debug, Clone, Copy)]
pub struct Retrieval<'a> {
    /// The words behind the name.
    pub words: Words<'a>,
    /// With CAS values.
    pub has_cas: bool,
    /// The first word is a new expiry.
    pub touches: bool,
}

/// A request that its bytes already say no to.
#[derive(Debug, Clone, Copy)]
pub struct Refusal {
    /// The answer.
    pub text: &'static str,
    /// Whether nobody waits for it.
    pub is_silent: bool,
    /// Whether the connection is closed then.
    pub closes: bool,
}

/// A request.
#[derive(Debug, Clone, Copy)]
pub enum Request<'a> {
    /// get, gets, gat, gats.
    Retrieval(Retrieval<'a>),
    /// set, add, replace, append, prepend, cas.
    Storage(Storage<'a>),
    /// ms: its key as it was sent, its flags, and its data.
    MetaSet(&'a [u8], Words<'a>, Data<'a>),
    /// All others: the name, and the words behind it.
    Line(&'a [u8], Words<'a>),
    /// Refused.
    Refused(Refusal),
}

/// A request, and where it ends: beyond the bytes that have come, where the rest is to be skipped.
#[derive(Debug, Clone, Copy)]
pub struct Framed<'a> {
    /// What is asked.
    pub request: Request<'a>,
    /// Bytes up to its end.
    pub end: usize,
}

impl<'a> Request<'a> {
    /// What an error says.
    fn refused(text: &'static str) -> Self {
        Self::Refused(Refusal { text, is_silent: false, closes: false })
    }

    /// The key that is looked up first.
    #[inline]
    pub fn key(&self) -> Option<&'a [u8]> {
        match self {
            Self::Retrieval(Retrieval { words, touches, .. }) => words.word(usize::from(*touches)),
            Self::Storage(storage) => Some(storage.key),
            Self::MetaSet(key, ..) => Some(key),
            Self::Line(_, words) => words.word(0),
            Self::Refused(_) => None,
        }
    }
}

/// What a client may send.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    keys_line_bytes_max: usize,
    value_bytes_max: u64,
}

impl Limits {
    /// Of a client that has said who it is, or need not.
    pub fn new(value_bytes_max: u64) -> Self {
        Self { keys_line_bytes_max: KEYS_LINE_BYTES_MAX, value_bytes_max }
    }

    /// Of any other: what it needs to say so, and no more, for it is kept until it is whole.
    pub const STRANGERS: Self =
        Self { keys_line_bytes_max: LINE_BYTES_MAX, value_bytes_max: STRANGERS_DATA_BYTES_MAX };
}

/// The first request in `buffer`; `None` where it is not whole. There is no line's end before `looked_at`, which is moved on.
#[inline]
pub fn parse<'a>(buffer: &'a [u8], looked_at: &mut usize, limits: Limits) -> Option<Framed<'a>> {
    let from = (*looked_at).min(buffer.len());
    let Some(length) = buffer[from..].iter().position(|&byte| byte == b'\n') else {
        *looked_at = buffer.len();
        return line_bytes_max_exceeded(buffer, limits).then(|| too_long(buffer.len()));
    };
    let length = from + length;
    let line = &buffer[..length];
    if length > LINE_BYTES_MAX && line_bytes_max_exceeded(line, limits) {
        return Some(too_long(length + 1));
    }
    let framed = parse_line(line, &buffer[length + 1..], limits.value_bytes_max)?;
    *looked_at = 0;
    Some(Framed { request: framed.request, end: length + 1 + framed.end })
}

/// Whether a line is longer than it may be.
fn line_bytes_max_exceeded(line: &[u8], limits: Limits) -> bool {
    if line.len() <= LINE_BYTES_MAX {
        return false;
    }
    let blanks = line.iter().position(|&byte| byte != b' ').unwrap_or(line.len());
    let lists_keys =
        [&b"get "[..], b"gets ", b"gat ", b"gats "].iter().any(|name| line[blanks..].starts_with(name));
    !lists_keys || blanks > BLANKS_MAX || line.len() > limits.keys_line_bytes_max
}

fn too_long(end: usize) -> Framed<'static> {
    let refusal = Refusal { text: "CLIENT_ERROR line too long", is_silent: false, closes: true };
    Framed { request: Request::Refused(refusal), end }
}

/// A request by its line; `end` counts from behind the line.
#[inline]
fn parse_line<'a>(line: &'a [u8], after: &'a [u8], value_bytes_max: u64) -> Option<Framed<'a>> {
    let mut words = Words::new(line);
    let name = words.next().unwrap_or_default();
    let retrieval = |has_cas, touches| Request::Retrieval(Retrieval { words, has_cas, touches });
    let request = match name {
        b"get" | b"bget" => retrieval(false, false),
        b"gets" => retrieval(true, false),
        b"gat" => retrieval(false, true),
        b"gats" => retrieval(true, true),
        b"set" => return parse_storage(Mode::Set, words, after, value_bytes_max),
        b"add" => return parse_storage(Mode::Add, words, after, value_bytes_max),
        b"replace" => return parse_storage(Mode::Replace, words, after, value_bytes_max),
        b"append" => return parse_storage(Mode::Append, words, after, value_bytes_max),
        b"prepend" => return parse_storage(Mode::Prepend, words, after, value_bytes_max),
        b"cas" => return parse_storage(Mode::Cas(0), words, after, value_bytes_max),
        b"ms" => return parse_meta_set(words, after, value_bytes_max),
        name => Request::Line(name, words),
    };
    Some(Framed { request, end: 0 })
}

/// The data of a length that was announced. `None` where they have not all come.
#[inline]
fn data(after: &[u8], length: usize, value_bytes_max: u64) -> Option<Data<'_>> {
    if length as u64 > value_bytes_max {
        return Some(Data::TooLarge);
    }
    let data = after.get(..length + 2)?;
    Some(data.strip_suffix(b"\r\n").map_or(Data::WrongEnd, Data::Whole))
}

/// The length of data, as a line says it.
#[inline]
fn data_length(word: &[u8]) -> Option<usize> {
    let length = signed(word).and_then(|length| u64::try_from(length).ok())?;
    (length < DATA_BYTES_END).then_some(length as usize)
}

#[inline]
fn parse_storage<'a>(
    mode: Mode,
    words: Words<'a>,
    after: &'a [u8],
    value_bytes_max: u64,
) -> Option<Framed<'a>> {
    let framed = |request, end| Some(Framed { request, end });
    let count = if matches!(mode, Mode::Cas(_)) { 5 } else { 4 };
    let is_whole = words.are_more_than(count - 1) && !words.are_more_than(count + 1);
    let Some([key, flags, expiry, length]) = words.take_exactly::<4>(2).filter(|_| is_whole) else {
        return framed(Request::refused("ERROR"), 0);
    };
    let is_silent = words.end_with_noreply();
    let refuse = |text| Request::Refused(Refusal { text, is_silent, closes: false });
    let flags = unsigned(flags);
    let mode = match mode {
        Mode::Cas(_) => words.word(4).and_then(unsigned).map(Mode::Cas),
        mode => Some(mode),
    };
    let numbers = (flags, signed(expiry), data_length(length), mode);
    let (Some(flags), Some(expiry), Some(length), Some(mode)) = numbers else {
        return framed(refuse(BAD_FORMAT), 0);
    };
    if key.len() > KEY_BYTES_MAX {
        return framed(refuse(BAD_FORMAT), 0);
    }
    let Ok(flags) = u32::try_from(flags) else {
        // memcached cuts them and stores the data, so its client has sent data: they must not be taken for requests.
        return framed(refuse(BAD_FORMAT), length + 2);
    };
    let data = data(after, length, value_bytes_max)?;
    framed(Request::Storage(Storage { mode, key, flags, expiry, data, is_silent }), length + 2)
}

fn parse_meta_set<'a>(mut words: Words<'a>, after: &'a [u8], value_bytes_max: u64) -> Option<Framed<'a>> {
    let framed = |request, end| Some(Framed { request, end });
    let all = words;
    let Some(key) = words.next() else { return framed(Request::refused("ERROR"), 0) };
    let length = words.next().and_then(data_length).filter(|_| key.len() <= KEY_BYTES_MAX);
    if Flags::are_too_many(all, 1) {
        return framed(Request::refused(TOO_MANY), 0);
    }
    let Some(length) = length else { return framed(Request::refused(BAD_FORMAT), 0) };
    framed(Request::MetaSet(key, words, data(after, length, value_bytes_max)?), length + 2)
}
