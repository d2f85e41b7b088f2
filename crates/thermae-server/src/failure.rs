//! What a command answers instead of its reply.

use std::borrow::Cow;
use thermae_core::Error;

/// Of everything that a command does.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a command did nothing, or has not done all yet.
#[derive(Debug)]
pub enum Failure {
    /// The protocol's own error: the text that Redis gives, its code first.
    Text(Cow<'static, str>),
    /// What the store said.
    Store(Error),
    /// It goes on when it is called again, in its client's next turn, which is no failure: nothing is answered or counted before its end.
    Unfinished,
}

impl Failure {
    /// A text that is made up.
    pub fn text(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }

    /// The error line that a Redis client gets, without its mark: a code that clients know, then the sentence.
    pub fn line(&self) -> Cow<'static, str> {
        match self {
            Self::Text(text) => text.clone(),
            Self::Unfinished => Cow::Borrowed("ERR the command has not ended"),
            Self::Store(error) => Cow::Owned(match error {
                Error::Full(text) => {
                    format!("OOM command not allowed when used memory > 'maxmemory': {text}")
                }
                Error::WritesStopped(text) => format!("MISCONF {text}"),
                Error::ReadOnly(text) => format!("READONLY {text}"),
                Error::WrongType(text) => format!("WRONGTYPE {text}"),
                other => format!("ERR {other}"),
            }),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<&'static str> for Failure {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}
