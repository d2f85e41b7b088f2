//! The flags of meta commands: letters, some with a token behind them, that say what to do and what to answer.
//!
//! All commands know all letters; each heeds those that concern it.

use crate::memcache::words::{Words, signed, unsigned};

/// Most words of a command, its name included.
const WORDS_MAX: usize = 19;
/// Most bytes of an opaque token, its letter included.
const OPAQUE_BYTES_MAX: usize = 32;

/// The error for more of them than a command may have, of all commands but `mg`.
pub const TOO_MANY: &str = "CLIENT_ERROR options flags too long";

/// The flags of one command.
#[derive(Debug, Clone, Copy)]
pub struct Flags<'a> {
    words: Words<'a>,
    seen: u64,
    /// C: the CAS value that the item has to have.
    pub cas: Option<u64>,
    /// F: client flags.
    pub client_flags: u32,
    /// D: by how much to count.
    pub delta: u64,
    /// J: where counting begins.
    pub initial: u64,
    /// M: which of its modes a command is in.
    pub mode: Option<u8>,
    /// N: expiry of an item that is made where there was none.
    pub vivify: Option<i64>,
    /// R: who finds less than so many seconds left is to store the item anew.
    pub recache: Option<i64>,
    /// T: new expiry.
    pub expiry: Option<i64>,
}

/// The bit that notes a letter.
const fn bit(letter: u8) -> u64 {
    1 << (letter - b'A')
}

impl<'a> Flags<'a> {
    /// The expiry of an item that is made where there was none: N and T are heeded in the order in which they stand, so that the last one holds.
    pub fn expiry_when_made(&self) -> Option<i64> {
        let vivify = self.vivify?;
        let is_last_touch = self.words.filter(|word| matches!(word[0], b'N' | b'T')).last()?[0] == b'T';
        if is_last_touch { self.expiry } else { Some(vivify) }
    }

    /// Whether a command with these words has too many of them; `before` words were taken already.
    pub fn are_too_many(words: Words<'a>, before: usize) -> bool {
        words.are_more_than(WORDS_MAX - before)
    }

    /// Those that a command has.
    ///
    /// # Errors
    /// The text that memcached gives.
    pub fn parse(words: Words<'a>) -> Result<Self, &'static str> {
        const BAD_TOKEN: &str = "CLIENT_ERROR bad token in command line format";
        let mut flags = Self {
            words,
            seen: 0,
            cas: None,
            client_flags: 0,
            delta: 1,
            initial: 0,
            mode: None,
            vivify: None,
            recache: None,
            expiry: None,
        };
        for word in words {
            let (letter, token) = (word[0], &word[1..]);
            if letter.is_ascii_alphabetic() {
                if flags.has(letter) {
                    return Err("CLIENT_ERROR duplicate flag");
                }
                flags.seen |= bit(letter);
            }
            match letter {
                b'b' | b'c' | b'f' | b'h' | b'k' | b'l' | b'q' | b's' | b't' | b'u' | b'v' | b'I' | b'L'
                | b'P' => {}
                b'O' if word.len() > OPAQUE_BYTES_MAX => return Err("CLIENT_ERROR opaque token too long"),
                b'O' => {}
                b'C' => flags.cas = Some(unsigned(token).ok_or(BAD_TOKEN)?),
                b'N' => flags.vivify = Some(signed(token).ok_or(BAD_TOKEN)?),
                b'R' => flags.recache = Some(signed(token).ok_or(BAD_TOKEN)?),
                b'T' => flags.expiry = Some(signed(token).ok_or(BAD_TOKEN)?),
                b'F' => {
                    let client_flags = unsigned(token).and_then(|number| u32::try_from(number).ok());
                    flags.client_flags = client_flags.ok_or("CLIENT_ERROR bad command line format")?;
                }
                b'D' => flags.delta = unsigned(token).ok_or("CLIENT_ERROR invalid numeric delta value")?,
                b'J' => {
                    flags.initial = unsigned(token).ok_or("CLIENT_ERROR invalid numeric initial value")?;
                }
                b'M' => match token {
                    [mode] => flags.mode = Some(*mode),
                    _ => return Err("CLIENT_ERROR incorrect length for M token"),
                },
                _ => return Err("CLIENT_ERROR invalid flag"),
            }
        }
        Ok(flags)
    }

    /// Whether a letter is among them.
    #[inline]
    pub fn has(&self, letter: u8) -> bool {
        self.seen & bit(letter) != 0
    }

    /// All, each with its token, in their order.
    #[inline]
    pub fn words(&self) -> Words<'a> {
        self.words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_and_tokens_are_told_apart() {
        let flags = Flags::parse(Words::new(b"v k Oab T-1 C5 MA F7 D2 J3 N4 R6 q")).unwrap();
        assert!(flags.has(b'v') && flags.has(b'q') && !flags.has(b'V') && !flags.has(b'z'));
        assert_eq!((flags.expiry, flags.cas, flags.mode), (Some(-1), Some(5), Some(b'A')));
        assert_eq!((flags.client_flags, flags.delta, flags.initial), (7, 2, 3));
        assert_eq!((flags.vivify, flags.recache), (Some(4), Some(6)));
    }

    #[test]
    fn nothing_is_guessed() {
        for text in ["z", "\u{e4}", "{", "@", "v v", "Cx", "C-1", "T", "MAB", "F4294967296", "S5", "E5"] {
            assert!(Flags::parse(Words::new(text.as_bytes())).is_err(), "{text}");
        }
    }
}
