//! When values expire, as commands are told it: EX, PX, EXAT and PXAT with an amount, KEEPTTL, PERSIST.
//!
//! Redis looks at an amount only once it knows that there is something to expire, so an option is first noted as it was written and becomes a
//! time later. Times are of the store's clock, which is taken as milliseconds since 1970. A time that has passed is no error: the key
//! expires at once.

use crate::failure::{Failure, Result};
use crate::numbers::parse_integer;
use crate::redis::call::{Call, NOT_AN_INTEGER};

/// What an amount of time counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
}

/// An amount of time that was not looked at yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry<'a> {
    /// As it was written.
    pub amount: &'a [u8],
    /// What it counts.
    pub unit: TimeUnit,
    /// Whether it counts from 1970, not from now.
    pub is_absolute: bool,
}

/// What a command says about how long a value is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lifetime<'a> {
    /// Nothing.
    #[default]
    Unsaid,
    /// KEEPTTL: as long as before.
    Keep,
    /// PERSIST: for good.
    Persist,
    /// Until a time.
    Until(Expiry<'a>),
}

const WORDS: [(&str, TimeUnit, bool); 4] = [
    ("EX", TimeUnit::Seconds, false),
    ("PX", TimeUnit::Milliseconds, false),
    ("EXAT", TimeUnit::Seconds, true),
    ("PXAT", TimeUnit::Milliseconds, true),
];

/// The point in time that an amount says, which may be long ago; `None` where it leaves 64 bits.
pub fn deadline_ms(amount: i64, unit: TimeUnit, is_absolute: bool, now_ms: u64) -> Option<i64> {
    let amount_ms = match unit {
        TimeUnit::Seconds => amount.checked_mul(1000)?,
        TimeUnit::Milliseconds => amount,
    };
    if is_absolute { Some(amount_ms) } else { amount_ms.checked_add(i64::try_from(now_ms).ok()?) }
}

/// The answer to an amount of time that makes no sense.
pub fn invalid_expire_time(command_name: &str) -> Failure {
    Failure::text(format!("ERR invalid expire time in '{command_name}' command"))
}

/// Whether this time, 0 being never, is over.
pub fn has_passed(expires_at_ms: u64, now_ms: u64) -> bool {
    expires_at_ms != 0 && expires_at_ms <= now_ms
}

impl Expiry<'_> {
    /// When that is; never 0.
    ///
    /// # Errors
    /// An amount that is no integer, not above 0, or too large.
    pub fn at_ms(&self, now_ms: u64, command_name: &str) -> Result<u64> {
        let amount = parse_integer(self.amount).ok_or(NOT_AN_INTEGER)?;
        (amount > 0)
            .then(|| deadline_ms(amount, self.unit, self.is_absolute, now_ms))
            .flatten()
            .and_then(|deadline_ms| u64::try_from(deadline_ms).ok())
            .ok_or_else(|| invalid_expire_time(command_name))
    }
}

impl<'a> Lifetime<'a> {
    /// Takes the option at `index`, if it is one of these and says no other kind of thing than what was said before: the last amount
    /// counts. Returns how many arguments that were.
    pub fn take(&mut self, call: &Call<'a, '_>, index: usize) -> Option<usize> {
        let (said, arguments) = if call.is(index, "KEEPTTL") {
            (Self::Keep, 1)
        } else if call.is(index, "PERSIST") {
            (Self::Persist, 1)
        } else {
            let (_, unit, is_absolute) = WORDS.into_iter().find(|(word, ..)| call.is(index, word))?;
            if index + 1 >= call.arguments.len() {
                return None;
            }
            (Self::Until(Expiry { amount: call.argument(index + 1), unit, is_absolute }), 2)
        };
        let agrees = match (*self, said) {
            (Self::Unsaid, _) => true,
            (Self::Until(before), Self::Until(now)) => {
                (before.unit, before.is_absolute) == (now.unit, now.is_absolute)
            }
            (before, said) => before == said,
        };
        agrees.then(|| {
            *self = said;
            arguments
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_000_000;

    fn at_ms(amount: &str, unit: TimeUnit, is_absolute: bool) -> Result<u64, String> {
        let expiry = Expiry { amount: amount.as_bytes(), unit, is_absolute };
        expiry.at_ms(NOW_MS, "set").map_err(|failure| failure.line().into_owned())
    }

    #[test]
    fn amounts_become_times() {
        assert_eq!(at_ms("5", TimeUnit::Seconds, false), Ok(NOW_MS + 5000));
        assert_eq!(at_ms("5", TimeUnit::Milliseconds, false), Ok(NOW_MS + 5));
        assert_eq!(at_ms("5", TimeUnit::Seconds, true), Ok(5000));
        assert_eq!(at_ms("5", TimeUnit::Milliseconds, true), Ok(5));
        assert_eq!(at_ms(&i64::MAX.to_string(), TimeUnit::Milliseconds, true), Ok(i64::MAX as u64));
        assert_eq!(at_ms("9223372036854775", TimeUnit::Seconds, true), Ok(9_223_372_036_854_775_000));
    }

    #[test]
    fn amounts_that_make_no_sense_are_refused() {
        let invalid = Err("ERR invalid expire time in 'set' command".to_owned());
        for (amount, unit, is_absolute) in [
            ("0", TimeUnit::Seconds, false),
            ("-1", TimeUnit::Milliseconds, true),
            ("9223372036854775807", TimeUnit::Milliseconds, false),
            ("9223372036854775", TimeUnit::Seconds, false),
            ("9223372036854776", TimeUnit::Seconds, true),
        ] {
            assert_eq!(at_ms(amount, unit, is_absolute), invalid, "{amount}");
        }
        assert_eq!(at_ms("x", TimeUnit::Seconds, false), Err(NOT_AN_INTEGER.to_owned()));
        assert_eq!(deadline_ms(-5, TimeUnit::Seconds, false, NOW_MS), Some(NOW_MS as i64 - 5000));
        assert_eq!(deadline_ms(i64::MIN, TimeUnit::Seconds, true, NOW_MS), None);
    }
}
