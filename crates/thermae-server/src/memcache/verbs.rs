//! What requests are counted as: one row for each verb, whose number is its place here.

use crate::memcache::request::{Mode, Request, Retrieval, Storage};
use crate::statistics::VERBS_MAX;

/// Names, those that clients send most of first among those that are compared: all but the first ten.
pub static VERBS: &[&str] = &[
    "other",
    "get",
    "gat",
    "set",
    "add",
    "replace",
    "append",
    "prepend",
    "cas",
    "ms",
    "mg",
    "md",
    "ma",
    "mn",
    "me",
    "incr",
    "decr",
    "touch",
    "delete",
    "flush_all",
    "stats",
    "version",
];

const COMPARED_FROM: usize = 10;
const _: () = assert!(VERBS.len() <= VERBS_MAX);

/// The number of a request's verb; gets is counted as get, gats as gat, and what has no row as other.
#[inline]
pub fn verb_of(request: &Request<'_>) -> usize {
    match request {
        Request::Retrieval(Retrieval { touches, .. }) => 1 + usize::from(*touches),
        Request::Storage(Storage { mode, .. }) => match mode {
            Mode::Set => 3,
            Mode::Add => 4,
            Mode::Replace => 5,
            Mode::Append => 6,
            Mode::Prepend => 7,
            Mode::Cas(_) => 8,
        },
        Request::MetaSet(..) => 9,
        Request::Line(name, _) => {
            let found = VERBS[COMPARED_FROM..].iter().position(|verb| verb.as_bytes() == *name);
            found.map_or(0, |at| COMPARED_FROM + at)
        }
        Request::Refused(_) => 0,
    }
}

/// Whether an answer says that something was wrong with the request, or with the server.
#[inline]
pub fn is_failure(answer: &[u8]) -> bool {
    [&b"ERROR"[..], b"CLIENT_ERROR", b"SERVER_ERROR"].iter().any(|word| answer.starts_with(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memcache::request::Limits;
    use crate::memcache::request::parse;

    #[test]
    fn each_verb_is_counted_under_its_name() {
        let number =
            |line: &str| verb_of(&parse(line.as_bytes(), &mut 0, Limits::new(1 << 20)).unwrap().request);
        for verb in
            ["mg", "md", "ma", "mn", "me", "incr", "decr", "touch", "delete", "flush_all", "stats", "version"]
        {
            assert_eq!(VERBS[number(&format!("{verb} k 1\r\n"))], verb);
        }
        for verb in ["set", "add", "replace", "append", "prepend"] {
            assert_eq!(VERBS[number(&format!("{verb} k 0 0 1\r\nv\r\n"))], verb);
        }
        for (line, verb) in [
            ("get k\r\n", "get"),
            ("gets k\r\n", "get"),
            ("gat 1 k\r\n", "gat"),
            ("gats 1 k\r\n", "gat"),
            ("cas k 0 0 1 1\r\nv\r\n", "cas"),
            ("ms k 1\r\nv\r\n", "ms"),
            ("nonsense\r\n", "other"),
            ("set k\r\n", "other"),
        ] {
            assert_eq!(VERBS[number(line)], verb, "{line}");
        }
    }
}
