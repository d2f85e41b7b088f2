//! The numbered databases of Redis in one store.
//!
//! Database 0 is the store as Python sees it: the same keys. A key of database *n* is stored behind the bytes 0xFF and *n*; no text begins with 0xFF, for it
//! never occurs in UTF-8. So that every key of bytes has its place, a key of database 0 that would look like one of those is stored
//! behind 0xFF and 0. Rejected: a store for each database: sixteen limits where users set one, and no transaction across them.

use std::borrow::Cow;
use thermae_core::KEY_MARK;

/// How many there are.
pub const DATABASES: u8 = 16;

/// The key under which the store has a database's key.
#[inline]
pub fn stored_key(database: u8, key: &[u8]) -> Cow<'_, [u8]> {
    if database == 0 && !looks_marked(key) {
        return Cow::Borrowed(key);
    }
    Cow::Owned([&[KEY_MARK, database], key].concat())
}

/// The database that a stored key belongs to, and its key there.
pub fn database_of(stored: &[u8]) -> (u8, &[u8]) {
    match stored {
        [KEY_MARK, 0, key @ ..] if looks_marked(key) => (0, key),
        [KEY_MARK, database @ 1..DATABASES, key @ ..] => (*database, key),
        key => (0, key),
    }
}

/// What all stored keys of a database begin with, as far as it is one thing: those of database 0 may begin with anything.
pub fn stored_prefix(database: u8) -> Vec<u8> {
    if database == 0 { Vec::new() } else { vec![KEY_MARK, database] }
}

/// Whether a stored key is of the database, or there is none that it has to be of.
pub fn is_of(database: Option<u8>, stored: &[u8]) -> bool {
    database.is_none_or(|database| database_of(stored).0 == database)
}

/// What all stored keys begin with that [`is_of`] may find to be so.
pub fn prefix_of(database: Option<u8>) -> Vec<u8> {
    database.map(stored_prefix).unwrap_or_default()
}

fn looks_marked(key: &[u8]) -> bool {
    matches!(key, [KEY_MARK, 0..DATABASES, ..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_key_of_every_database_has_a_place_of_its_own(
            first in (0..DATABASES, key()), second in (0..DATABASES, key())
        ) {
            let stored = |(database, key): &(u8, Vec<u8>)| stored_key(*database, key).into_owned();
            let stored_first = stored(&first);
            prop_assert_eq!(database_of(&stored_first), (first.0, first.1.as_slice()));
            prop_assert_eq!(stored(&first) == stored(&second), first == second);
            prop_assert!(stored(&first).starts_with(&stored_prefix(first.0)));
        }
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0_u8, 1, 15, 16, b'a', 0xff]), 0..4)
    }

    #[test]
    fn python_and_database_0_have_the_same_keys() {
        for key in [&b"user:1"[..], b"", b"\xff", b"\xff\x10", "\u{10ffff}".as_bytes()] {
            assert_eq!(stored_key(0, key), Cow::Borrowed(key));
            assert_eq!(database_of(key), (0, key));
        }
    }
}
