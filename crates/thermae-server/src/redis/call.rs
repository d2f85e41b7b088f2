//! One call of a command: what it was given, what it may use, and where its reply goes.

use crate::databases::stored_key;
use crate::failure::{Failure, Result};
use crate::numbers::parse_integer;
use crate::redis::reply::Reply;
use crate::redis::request::Arguments;
use crate::redis::session::Session;
use crate::redis::table::Entry;
use crate::shared::Shared;
use crate::space::Space;
use std::borrow::Cow;

/// The error for options in no order that makes sense.
pub const SYNTAX: &str = "ERR syntax error";
/// The error for what should be a number.
pub const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
/// The error for what should be a number with a fraction.
pub const NOT_A_FLOAT: &str = "ERR value is not a valid float";
/// The error for a value of another type.
pub const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

/// Does a command. What it had written when it fails is taken back.
pub type Handler = fn(&mut Call<'_, '_>) -> Result<()>;

/// A command, called.
#[derive(Debug)]
pub struct Call<'a, 's> {
    /// Its row.
    pub command: &'static Entry,
    /// With its name, and the name of its subcommand.
    pub arguments: Arguments<'a>,
    /// Where its reply goes.
    pub reply: Reply<'a>,
    /// Who called.
    pub session: &'a mut Session,
    /// The keys and values.
    pub space: &'a mut Space<'s>,
    /// What all clients share.
    pub shared: &'a Shared,
}

impl<'a> Call<'a, '_> {
    /// An argument.
    #[inline]
    pub fn argument(&self, index: usize) -> &'a [u8] {
        self.arguments.at(index)
    }

    /// An argument that is a key of the client's database, as the store has it.
    #[inline]
    pub fn key(&self, index: usize) -> Cow<'a, [u8]> {
        stored_key(self.session.database, self.arguments.at(index))
    }

    /// An argument that has to be an integer.
    ///
    /// # Errors
    /// Where it is none of 64 bits.
    #[inline]
    pub fn integer(&self, index: usize) -> Result<i64> {
        parse_integer(self.arguments.at(index)).ok_or(Failure::from(NOT_AN_INTEGER))
    }

    /// Notes what happened to a key, of one of [`crate::events::classes`]: it is told once the command has run, or the transaction.
    #[inline]
    pub fn note(&mut self, class: u32, name: &'static str, key: &[u8]) {
        self.space.events.note(class, name, key);
    }

    /// Whether an argument is this word, in any case.
    #[inline]
    pub fn is(&self, index: usize, word: &str) -> bool {
        self.arguments.at(index).eq_ignore_ascii_case(word.as_bytes())
    }
}
