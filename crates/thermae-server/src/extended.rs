//! Floats of 80 bits, as x86-64's `long double` has them: what INCRBYFLOAT and HINCRBYFLOAT add up and write.
//!
//! Redis reads both numbers with `strtold`, adds them with the x87, and prints the sum with `%.17Lf`, less trailing zeros. Here the three
//! steps are done exactly on integers and rounded once each, half to even, as IEEE 754 has it: a sum is the same text as on a
//! Redis for x86-64, to the last digit, on any processor. A Redis on another processor can differ in it: there `long double` has
//! 113 or 53 bits.
//!
//! Rejected: doubles, whose sum of 10.5 and 0.1 takes 17 digits to say "10.6" and says something else; and decimal arithmetic,
//! which is nicer and differs from Redis in the 19th digit.

use crate::float_text::{EXTENDED, FloatText, Magnitude};
use crate::natural::Natural;
use std::fmt;

/// A text of this many bytes or more is no float to Redis.
const TEXT_BYTES_LIMIT: usize = 5 * 1024;
/// Digits behind the point that are written.
const FRACTION_DIGITS: usize = 17;

/// A float of 80 bits that is not NaN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extended {
    negative: bool,
    /// None for infinity.
    magnitude: Option<Magnitude>,
}

impl Extended {
    /// Reads a float as Redis does for INCRBYFLOAT: decimal or hexadecimal, with an exponent or without, or infinite; no spaces, no
    /// NaN, nothing that is too large or rounded to zero.
    ///
    /// # Examples
    /// ```
    /// use thermae_server::extended::Extended;
    /// assert_eq!(Extended::parse(b"5.0e3").unwrap().to_string(), "5000");
    /// assert_eq!(Extended::parse(b" 1"), None);
    /// ```
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() >= TEXT_BYTES_LIMIT {
            return None;
        }
        Some(match FloatText::read(text)? {
            FloatText::Infinite { negative } => Self { negative, magnitude: None },
            FloatText::Finite(number) => {
                Self { negative: number.negative, magnitude: Some(number.nearest(&EXTENDED)?) }
            }
        })
    }

    /// The sum, or None where Redis says "increment would produce NaN or Infinity".
    ///
    /// # Examples
    /// ```
    /// use thermae_server::extended::Extended;
    /// let [value, increment] = ["10.5", "0.1"].map(|text| Extended::parse(text.as_bytes()).unwrap());
    /// assert_eq!(value.checked_add(increment).unwrap().to_string(), "10.6");
    /// ```
    pub fn checked_add(self, other: Self) -> Option<Self> {
        // Below the mantissa 63 bits for what the other one has, above it one for the carry. What is below these 63 is kept as one set
        // bit, enough to round by: if bits are lost here, the exponents are far apart, and a difference loses at most one bit at the top.
        const GUARD_BITS: i64 = 63;
        let (mut large, mut small) = ((self.negative, self.magnitude?), (other.negative, other.magnitude?));
        if (large.1.exponent, large.1.mantissa) < (small.1.exponent, small.1.mantissa) {
            (large, small) = (small, large);
        }
        let apart = large.1.exponent - small.1.exponent;
        let wide = |magnitude: Magnitude| u128::from(magnitude.mantissa) << GUARD_BITS;
        let large_wide = wide(large.1);
        let small_wide = match apart {
            0..=127 => {
                let shifted = wide(small.1) >> apart;
                shifted | u128::from(shifted << apart != wide(small.1))
            }
            _ => u128::from(small.1.mantissa != 0),
        };
        let sum = if large.0 == small.0 { large_wide + small_wide } else { large_wide - small_wide };
        let magnitude = EXTENDED.nearest(sum, large.1.exponent - GUARD_BITS)?;
        Some(Self { negative: large.0, magnitude: Some(magnitude) })
    }
}

/// As Redis writes floats for people: all digits before the point, at most 17 behind it, no trailing zeros, no "-0".
impl fmt::Display for Extended {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.negative { "-" } else { "" };
        let Some(Magnitude { mantissa, exponent }) = self.magnitude else {
            return write!(formatter, "{sign}inf");
        };
        if exponent >= 0 {
            let mut whole = Natural::new(u128::from(mantissa));
            whole.shift_left(exponent.unsigned_abs());
            return write!(formatter, "{sign}{}", whole.to_decimal());
        }
        // In units of the last digit: below 2^121.
        let units_per_one = 10_u128.pow(FRACTION_DIGITS as u32);
        let units = shift_right_rounded(u128::from(mantissa) * units_per_one, exponent.unsigned_abs());
        if units == 0 {
            return formatter.write_str("0");
        }
        write!(formatter, "{sign}{}", units / units_per_one)?;
        let fraction = format!("{:0FRACTION_DIGITS$}", units % units_per_one);
        match fraction.trim_end_matches('0') {
            "" => Ok(()),
            digits => write!(formatter, ".{digits}"),
        }
    }
}

/// `number / 2^bits`, half to even, for a number below 2^127 and at least one bit.
fn shift_right_rounded(number: u128, bits: u64) -> u128 {
    if bits > 127 {
        return 0;
    }
    let quotient = number >> bits;
    let (rest, half) = (number & ((1 << bits) - 1), 1 << (bits - 1));
    quotient + u128::from(rest > half || (rest == half && quotient & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(value: &str, increment: &str) -> Option<String> {
        let [value, increment] = [value, increment].map(|text| Extended::parse(text.as_bytes()).unwrap());
        value.checked_add(increment).map(|sum| sum.to_string())
    }

    #[test]
    fn sums_as_redis_writes_them() {
        for (value, increment, expected) in [
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("0", "3.0", "3"),
            ("3", "-3", "0"),
            ("0", "-0.5", "-0.5"),
            ("-1e-30", "0", "0"),
            ("1.23", "-0.23", "1"),
            ("0x10", "0x.8", "16.5"),
            ("1e4000", "-1e4000", "0"),
            ("18446744073709551615", "1", "18446744073709551616"),
            // Ties go to even; less than a tie does not, however far below it the difference is.
            ("18446744073709551615", "0.5", "18446744073709551616"),
            ("18446744073709551614", "0.5", "18446744073709551614"),
            ("18446744073709551614", "0x.8000000000000001", "18446744073709551615"),
            ("0x1p64", "-0x1p-2", "18446744073709551616"),
            ("0x1p64", "-0x1p-1", "18446744073709551616"),
            ("0x1p64", "-0x.8000000000000001", "18446744073709551615"),
            ("0x1p64", "-0x1p-16445", "18446744073709551616"),
            ("-0x1p64", "0x1p-16445", "-18446744073709551616"),
        ] {
            assert_eq!(sum(value, increment).as_deref(), Some(expected), "{value} + {increment}");
            assert_eq!(sum(increment, value).as_deref(), Some(expected), "{increment} + {value}");
        }
    }

    #[test]
    fn no_infinite_sums() {
        for (value, increment) in [("inf", "1"), ("1", "-inf"), ("inf", "-inf"), ("1e4932", "1e4932")] {
            assert_eq!(sum(value, increment), None, "{value} + {increment}");
        }
        assert_eq!(Extended::parse(b"-inf").unwrap().to_string(), "-inf");
    }

    #[test]
    fn long_texts() {
        let text = format!("0.{}1", "0".repeat(TEXT_BYTES_LIMIT - 4));
        assert_eq!(text.len(), TEXT_BYTES_LIMIT - 1);
        assert_eq!(Extended::parse(text.as_bytes()), None, "it is below the least number");
        let text = "9".repeat(4000);
        assert_eq!(sum(&text, "0").map(|sum| sum.len()), Some(4000));
        let text = format!("1.{}", "0".repeat(TEXT_BYTES_LIMIT - 3));
        assert_eq!(sum(&text, "0").as_deref(), Some("1"));
        assert_eq!(Extended::parse(format!("{text}0").as_bytes()), None, "one byte too long");
    }

    proptest! {
        #[test]
        fn sums_of_integers_are_exact(a in -(1_i64 << 62)..1 << 62, b in -(1_i64 << 62)..1 << 62) {
            prop_assert_eq!(sum(&a.to_string(), &b.to_string()), Some((a + b).to_string()));
        }

        /// What has few digits is summed as people do it: below 32, sums are off by less than half of the last digit that is written.
        #[test]
        fn sums_of_short_decimals_are_decimal(a: i64, b: i64, places in 0_usize..12) {
            let scale = 10_i64.pow(places as u32);
            let (a, b) = (a % (15 * scale), b % (15 * scale));
            let text = |units: i64| {
                let sign = if units < 0 { "-" } else { "" };
                let fraction = format!("{:0places$}", units.abs() % scale);
                let text = format!("{sign}{}.{fraction}", units.abs() / scale);
                text.trim_end_matches('0').trim_end_matches('.').to_owned()
            };
            prop_assert_eq!(sum(&text(a), &text(b)), Some(text(a + b)));
        }
    }
}
