//! What a float's text says, read as strictly as Redis has C's `strtod` and `strtold` read it, and the nearest number to it in a
//! binary format.
//!
//! ```text
//! [+-] ( inf | infinity | digits [. digits] [e [+-] digits] | 0x hex [. hex] [p [+-] digits] )
//! ```
//! In any case, and with no digits on one side of the point but not on both.
//! No white space anywhere and nothing after it; "nan" is refused, because every caller refuses it. What is read is exact: rounding happens
//! once, in [`Number::nearest`], half to even.

use crate::natural::Natural;
use std::cmp::Ordering;

/// Exponents beyond this are as good as infinite, and sums of them cannot overflow.
const EXPONENT_MAX: i64 = 1 << 60;

/// A text that is a float.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatText<'a> {
    /// Without end.
    Infinite {
        /// Whether it is below zero.
        negative: bool,
    },
    /// A number.
    Finite(Number<'a>),
}

/// `whole.fraction * base^exponent`, where the base is 10 for decimal digits and 2 for hexadecimal ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number<'a> {
    /// Whether a minus sign stands before it; zero can have one.
    pub negative: bool,
    /// Whether its digits are hexadecimal.
    pub hexadecimal: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
}

/// A binary format: its numbers are `mantissa * 2^exponent`, with a mantissa of at most `precision_bits`.
#[derive(Debug)]
pub struct Format {
    /// Bits of a mantissa, at most 64.
    precision_bits: u32,
    /// Of the least number above zero, whose mantissa is 1.
    exponent_min: i64,
    /// The numbers are below 2 to the power of this.
    limit_bits: i64,
}

/// IEEE 754's binary64.
pub const DOUBLE: Format = Format { precision_bits: 53, exponent_min: -1074, limit_bits: 1024 };
/// The x87's 80 bits: what C calls `long double` on x86-64.
pub const EXTENDED: Format = Format { precision_bits: 64, exponent_min: -16445, limit_bits: 16384 };

/// `mantissa * 2^exponent`: its magnitude in a [`Format`]. Zero has the mantissa 0 and the least exponent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Magnitude {
    /// With its highest possible bit set, unless the exponent is the least one.
    pub mantissa: u64,
    /// Of the mantissa's lowest bit.
    pub exponent: i64,
}

impl Format {
    /// Zero.
    pub const fn zero(&self) -> Magnitude {
        Magnitude { mantissa: 0, exponent: self.exponent_min }
    }

    /// `mantissa * 2^exponent` where `rest` is what is left, compared with half of that mantissa's lowest bit. None if it overflows.
    fn rounded(&self, mantissa: u64, exponent: i64, rest: Ordering) -> Option<Magnitude> {
        let up = rest == Ordering::Greater || (rest == Ordering::Equal && mantissa & 1 == 1);
        let (mut mantissa, mut exponent) = (u128::from(mantissa) + u128::from(up), exponent);
        if mantissa >> self.precision_bits != 0 {
            // All ones were rounded up to a power of two: no bit is lost.
            mantissa >>= 1;
            exponent += 1;
        }
        let length = i64::from(128 - mantissa.leading_zeros());
        (length + exponent <= self.limit_bits).then_some(Magnitude { mantissa: mantissa as u64, exponent })
    }

    /// The nearest to `mantissa * 2^exponent`, with a set lowest bit for anything more that is below that bit. None if it overflows.
    pub fn nearest(&self, mantissa: u128, exponent: i64) -> Option<Magnitude> {
        if mantissa == 0 {
            return Some(self.zero());
        }
        let length = i64::from(128 - mantissa.leading_zeros());
        let target = (exponent + length - i64::from(self.precision_bits)).max(self.exponent_min);
        let dropped = target - exponent;
        match dropped {
            ..=0 => self.rounded((mantissa << -dropped) as u64, target, Ordering::Less),
            1..=127 => {
                let rest = mantissa & ((1 << dropped) - 1);
                self.rounded((mantissa >> dropped) as u64, target, rest.cmp(&(1 << (dropped - 1))))
            }
            128 => self.rounded(0, target, mantissa.cmp(&(1 << 127))),
            _ => Some(self.zero()),
        }
    }

    /// The nearest to `numerator / denominator`, neither of them zero. None if it overflows.
    fn nearest_quotient(&self, mut numerator: Natural, mut denominator: Natural) -> Option<Magnitude> {
        // Shifted until the quotient is in [1, 2) * 2^top.
        let mut top = numerator.bits() as i64 - denominator.bits() as i64;
        if top >= 0 {
            denominator.shift_left(top as u64);
        } else {
            numerator.shift_left(top.unsigned_abs());
        }
        if numerator < denominator {
            numerator.shift_left(1);
            top -= 1;
        }
        let mantissa_bits = (top - self.exponent_min + 1).min(i64::from(self.precision_bits));
        if mantissa_bits < 0 {
            return Some(self.zero());
        }
        // Long division, a bit at a time; the numerator stays below twice the denominator.
        let mut mantissa = 0_u64;
        for _ in 0..mantissa_bits {
            mantissa <<= 1;
            if numerator >= denominator {
                numerator.subtract(&denominator);
                mantissa |= 1;
            }
            numerator.shift_left(1);
        }
        self.rounded(mantissa, top - mantissa_bits + 1, numerator.cmp(&denominator))
    }
}

impl<'a> FloatText<'a> {
    /// Reads a text, all of it. None if it is no float, or not a number.
    pub fn read(text: &'a [u8]) -> Option<Self> {
        let (negative, rest) = match text.split_first()? {
            (b'-', rest) => (true, rest),
            (b'+', rest) => (false, rest),
            _ => (false, text),
        };
        if rest.eq_ignore_ascii_case(b"inf") || rest.eq_ignore_ascii_case(b"infinity") {
            return Some(Self::Infinite { negative });
        }
        let hexadecimal = rest.len() > 2 && rest[..2].eq_ignore_ascii_case(b"0x");
        let rest = if hexadecimal { &rest[2..] } else { rest };
        let is_digit = if hexadecimal { u8::is_ascii_hexdigit } else { u8::is_ascii_digit };
        let (whole, rest) = rest.split_at(rest.iter().take_while(|byte| is_digit(byte)).count());
        let (fraction, rest) = match rest.split_first() {
            Some((b'.', rest)) => rest.split_at(rest.iter().take_while(|byte| is_digit(byte)).count()),
            _ => (&[][..], rest),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let exponent = match rest.split_first() {
            None => 0,
            Some((letter, digits))
                if letter.eq_ignore_ascii_case(if hexadecimal { &b'p' } else { &b'e' }) =>
            {
                read_exponent(digits)?
            }
            Some(_) => return None,
        };
        Some(Self::Finite(Number { negative, hexadecimal, whole, fraction, exponent }))
    }
}

/// A signed run of digits, as near to it as [`EXPONENT_MAX`] allows.
fn read_exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let magnitude = digits
        .iter()
        .fold(0_i64, |sum, digit| sum.saturating_mul(10).saturating_add(i64::from(digit - b'0')))
        .min(EXPONENT_MAX);
    Some(if negative { -magnitude } else { magnitude })
}

impl<'a> Number<'a> {
    fn digits(&self) -> impl Iterator<Item = u8> + 'a {
        self.whole.iter().chain(self.fraction).copied()
    }

    /// Whether no digit says anything but zero.
    pub fn is_zero(&self) -> bool {
        self.digits().all(|digit| digit == b'0')
    }

    /// The nearest number of a format. None where C says `ERANGE` and Redis refuses: too large, or rounded to zero without being it.
    ///
    /// For decimal digits the work grows with the square of their count, which callers bound.
    pub fn nearest(&self, format: &Format) -> Option<Magnitude> {
        if self.is_zero() {
            return Some(format.zero());
        }
        let magnitude =
            if self.hexadecimal { self.nearest_hexadecimal(format) } else { self.nearest_decimal(format) };
        magnitude.filter(|magnitude| magnitude.mantissa > 0)
    }

    fn nearest_hexadecimal(&self, format: &Format) -> Option<Magnitude> {
        let mut exponent = self.exponent - 4 * self.fraction.len() as i64;
        let mut mantissa = 0_u128;
        for digit in self.digits() {
            let value = u128::from((digit as char).to_digit(16)?);
            if mantissa >> 124 == 0 {
                mantissa = mantissa << 4 | value;
            } else {
                // Far below the last bit that counts; only whether it is zero can still matter.
                mantissa |= u128::from(value != 0);
                exponent += 4;
            }
        }
        format.nearest(mantissa, exponent)
    }

    fn nearest_decimal(&self, format: &Format) -> Option<Magnitude> {
        let leading_zeros = self.digits().take_while(|digit| *digit == b'0').count() as i64;
        // The number is in [10^(point - 1), 10^point); 10 is between 2^3 and 2^4.
        let point = self.whole.len() as i64 - leading_zeros + self.exponent;
        if point > 0 && 3 * (point - 1) >= format.limit_bits {
            return None;
        }
        if point < 0 && 3 * point < format.exponent_min - 1 {
            return Some(format.zero());
        }
        let mut numerator = Natural::from_digits(self.digits());
        let mut denominator = Natural::new(1);
        let scale = self.exponent - self.fraction.len() as i64;
        let scaled = if scale >= 0 { &mut numerator } else { &mut denominator };
        scaled.scale_by_ten(scale.unsigned_abs() as u32);
        format.nearest_quotient(numerator, denominator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(text: &str) -> Number<'_> {
        match FloatText::read(text.as_bytes()) {
            Some(FloatText::Finite(number)) => number,
            other => panic!("{text:?} was read as {other:?}"),
        }
    }

    fn double(magnitude: Magnitude) -> f64 {
        // Exact: both factors are doubles, in two steps where the power alone is none.
        let half = magnitude.exponent / 2;
        magnitude.mantissa as f64 * 2_f64.powi(half as i32) * 2_f64.powi((magnitude.exponent - half) as i32)
    }

    fn assert_as_rust_reads_it(text: &str) {
        let expected: f64 = text.parse().unwrap();
        let found = number(text).nearest(&DOUBLE).map(double);
        let zero = number(text).is_zero();
        let out_of_range = expected.is_infinite() || (expected == 0.0 && !zero);
        assert_eq!(found, (!out_of_range).then_some(expected.abs()), "{text:?}");
    }

    #[test]
    fn what_is_a_float() {
        for text in [
            "1", "-1", "+1", "1.", ".5", "1.5e3", "1E+3", "1e-3", "0x1", "0X.8P1", "0x1.p-3", "00", "-0",
            "0e999",
        ] {
            assert!(matches!(FloatText::read(text.as_bytes()), Some(FloatText::Finite(_))), "{text:?}");
        }
        for (text, negative) in [("inf", false), ("-inf", true), ("+INF", false), ("-Infinity", true)] {
            assert_eq!(FloatText::read(text.as_bytes()), Some(FloatText::Infinite { negative }), "{text:?}");
        }
        for text in [
            "", "-", "+", ".", "e5", "1e", "1e+", "1 ", " 1", "1\0", "0x", "0x.", "0xp1", "0x1p", "0x1e+1",
            "1p1", "--1", "+-1", "1.2.3", "nan", "-nan(7)", "infi", "1_0", "1,5", "١",
        ] {
            assert_eq!(FloatText::read(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn the_edges_of_doubles() {
        for text in [
            "1.7976931348623157e308",
            "1.7976931348623158e308",
            "1.7976931348623159e308",
            "1e309",
            "1e99999999999999999999",
            "4.9e-324",
            "2.4703282292062328e-324",
            "2.4703282292062327e-324",
            "2.225073858507201e-308",
            "1e-400",
            "1e-99999999999999999999",
            "0.0e-99999999999999999999",
            "9007199254740993",
            "9007199254740995",
            "9007199254740993.00000000000000000000000000000000000000001",
        ] {
            assert_as_rust_reads_it(text);
        }
        // Exactly half of the least number: to even, which is zero; a bit more is not.
        assert_eq!(number("0x1p-1075").nearest(&DOUBLE), None);
        assert_eq!(
            number("0x1.00000000000000000000000000000000000001p-1075").nearest(&DOUBLE).map(double),
            Some(5e-324)
        );
        assert_eq!(number("0x1.fffffffffffff8p1023").nearest(&DOUBLE), None);
        assert_eq!(number("0x1.fffffffffffff7p1023").nearest(&DOUBLE).map(double), Some(f64::MAX));
    }

    #[test]
    fn the_edges_of_extended_numbers() {
        let power =
            |text| number(text).nearest(&EXTENDED).map(|magnitude| (magnitude.mantissa, magnitude.exponent));
        assert_eq!(power("18446744073709551615"), Some((u64::MAX, 0)));
        assert_eq!(power("18446744073709551616"), Some((1 << 63, 1)));
        assert_eq!(power("18446744073709551615.5"), Some((1 << 63, 1)));
        assert_eq!(power("0x1p-16445"), Some((1, -16445)));
        assert_eq!(power("0x1p-16446"), None);
        assert_eq!(power("0x3p-16446"), Some((2, -16445)));
        assert_eq!(power("0x1p16383"), Some((1 << 63, 16320)));
        assert_eq!(power("0x1p16384"), None);
        assert_eq!(power("1e4932").map(|(mantissa, _)| mantissa), Some(0xd72c_b2a9_5c7e_f6cd));
        assert_eq!(power("1e4933"), None);
        assert_eq!(power("1e-4951"), None);
        assert_eq!(power("4e-4951"), Some((1, -16445)));
    }

    proptest! {
        #[test]
        fn decimals_are_rounded_as_rust_rounds_them(
            text in "-?[0-9]{1,25}(\\.[0-9]{0,40})?(e-?[0-9]{1,3})?"
        ) {
            assert_as_rust_reads_it(&text);
        }

        #[test]
        fn doubles_read_back(bits: u64) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            assert_as_rust_reads_it(&format!("{value:e}"));
            // Halfway between two neighbours, which takes hundreds of digits to say.
            let above = f64::from_bits((bits & !(1 << 63)) + 1);
            if above.is_finite() {
                assert_as_rust_reads_it(&format!("{:.1080}", value.abs() / 2.0 + above / 2.0));
            }
        }

        #[test]
        fn hexadecimal_digits_are_the_bits(mantissa in 1_u64..1 << 53, exponent in -1074_i64..971) {
            let text = format!("0x{mantissa:x}p{exponent}");
            let expected = double(Magnitude { mantissa, exponent });
            prop_assert_eq!(number(&text).nearest(&DOUBLE).map(double), Some(expected));
        }
    }
}
