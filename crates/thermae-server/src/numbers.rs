//! Integers, doubles and sizes as clients write them, and doubles as they are answered.
//!
//! As strict as Redis 7.0: a text is a number only if it is the one way, or one of C's ways, to write it, so that a value that merely
//! looks like a number keeps its bytes. None means that the text is none; what is said about it depends on the command.
//! [`crate::extended`] has the floats that are added up.

use crate::float_text::{DOUBLE, FloatText};
use std::fmt::Write;

/// Significant digits of a double that tell it from every other one.
const DOUBLE_DIGITS: usize = 17;
/// An `i64` has at most a sign and 19 digits.
const INTEGER_BYTES_MAX: usize = 20;

/// Reads an integer of 64 bits: digits without a leading zero, perhaps a minus sign, nothing else.
///
/// # Examples
/// ```
/// use thermae_server::numbers::parse_integer;
/// assert_eq!(parse_integer(b"-10"), Some(-10));
/// assert_eq!(parse_integer(b"007"), None);
/// ```
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    if text.len() > INTEGER_BYTES_MAX {
        return None;
    }
    let (negative, digits) = match text.split_first()? {
        (b'-', digits) => (true, digits),
        _ => (false, text),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    digits.iter().try_fold(0_i64, |number, digit| {
        let digit = i64::from(digit.is_ascii_digit().then(|| digit - b'0')?);
        let scaled = number.checked_mul(10)?;
        // Downwards for negative numbers: there is one more of them.
        if negative { scaled.checked_sub(digit) } else { scaled.checked_add(digit) }
    })
}

/// Reads a double as Redis does for scores and coordinates: decimal or hexadecimal, with an exponent or without, or infinite; no
/// spaces, no NaN, nothing that is too large or rounded to zero.
///
/// # Examples
/// ```
/// use thermae_server::numbers::parse_double;
/// assert_eq!(parse_double(b"-1.5e3"), Some(-1500.0));
/// assert_eq!(parse_double(b"+inf"), Some(f64::INFINITY));
/// assert_eq!(parse_double(b"1e999"), None);
/// ```
pub fn parse_double(text: &[u8]) -> Option<f64> {
    let number = match FloatText::read(text)? {
        FloatText::Infinite { negative } => {
            return Some(if negative { f64::NEG_INFINITY } else { f64::INFINITY });
        }
        FloatText::Finite(number) => number,
    };
    if number.hexadecimal {
        let magnitude = number.nearest(&DOUBLE)?;
        // The mantissa's highest bit is implied, and missing from the numbers that have the least exponent.
        let hidden = 1 << (f64::MANTISSA_DIGITS - 1);
        let biased = magnitude.exponent - DOUBLE.zero().exponent + i64::from(magnitude.mantissa >= hidden);
        let bits = (biased as u64) << (f64::MANTISSA_DIGITS - 1) | magnitude.mantissa & (hidden - 1);
        let value = f64::from_bits(bits);
        return Some(if number.negative { -value } else { value });
    }
    // The standard library's is exact too, and takes time in proportion to the text, whose length nobody bounds.
    let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (value.is_finite() && (value != 0.0 || number.is_zero())).then_some(value)
}

/// Writes a double with 17 significant digits, as C's `%.17g` does: Redis 7.0's way, in RESP2 and in RESP3. Newer ones write
/// the fewest digits that read back the same.
///
/// # Examples
/// ```
/// use thermae_server::numbers::format_double;
/// assert_eq!(format_double(3.0), "3");
/// assert_eq!(format_double(3.14), "3.1400000000000001");
/// assert_eq!(format_double(1e100), "1e+100");
/// assert_eq!(format_double(f64::NEG_INFINITY), "-inf");
/// ```
pub fn format_double(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{:.*e}", DOUBLE_DIGITS - 1, value.abs());
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits = mantissa.replace('.', "");
    let digits = match digits.trim_end_matches('0') {
        "" => "0",
        digits => digits,
    };
    let mut text = String::new();
    if value.is_sign_negative() {
        text.push('-');
    }
    match usize::try_from(exponent) {
        Ok(exponent) if exponent < DOUBLE_DIGITS => {
            let whole = exponent + 1;
            text.extend(digits.chars().chain(std::iter::repeat('0')).take(whole));
            if digits.len() > whole {
                text.push('.');
                text.push_str(&digits[whole..]);
            }
        }
        Err(_) if exponent >= -4 => {
            text.push_str("0.");
            text.extend(std::iter::repeat_n('0', exponent.unsigned_abs() as usize - 1));
            text.push_str(digits);
        }
        _ => {
            text.push_str(&digits[..1]);
            if digits.len() > 1 {
                text.push('.');
                text.push_str(&digits[1..]);
            }
            let sign = if exponent < 0 { '-' } else { '+' };
            // Writing to a string cannot fail.
            let _ = write!(text, "e{sign}{:02}", exponent.unsigned_abs());
        }
    }
    text
}

/// Reads an amount of memory as Redis's configuration has it, in bytes: "1k" is 1000 and "1kb" is 1024, likewise m, mb, g and gb, in any
/// case. A unit alone is 0, as it is to Redis. What exceeds 64 bits is refused; Redis multiplies it anyway and keeps the low bits.
///
/// # Examples
/// ```
/// use thermae_server::numbers::parse_memory_bytes;
/// assert_eq!(parse_memory_bytes(b"100mb"), Some(100 << 20));
/// assert_eq!(parse_memory_bytes(b"1k"), Some(1000));
/// assert_eq!(parse_memory_bytes(b"1.5gb"), None);
/// ```
pub fn parse_memory_bytes(text: &[u8]) -> Option<u64> {
    let digits_len = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, unit) = text.split_at(digits_len);
    let unit_bytes: u64 = match unit.to_ascii_lowercase().as_slice() {
        b"" | b"b" => 1,
        b"k" => 1000,
        b"kb" => 1 << 10,
        b"m" => 1_000_000,
        b"mb" => 1 << 20,
        b"g" => 1_000_000_000,
        b"gb" => 1 << 30,
        _ => return None,
    };
    let number = digits
        .iter()
        .try_fold(0_u64, |number, digit| number.checked_mul(10)?.checked_add(u64::from(digit - b'0')))?;
    number.checked_mul(unit_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn integers() {
        for number in [0, 1, -1, 10, i64::MAX, i64::MIN, i64::MAX - 1, 1_000_000_000_000_000_000] {
            assert_eq!(parse_integer(number.to_string().as_bytes()), Some(number));
        }
        for text in [
            "",
            "-",
            "+1",
            " 1",
            "1 ",
            "01",
            "-0",
            "00",
            "-01",
            "1.0",
            "1e3",
            "0x1",
            "1\0",
            "9223372036854775808",
            "-9223372036854775809",
            "18446744073709551616",
            "999999999999999999999",
            "--1",
            "١",
            "a",
            "1a",
        ] {
            assert_eq!(parse_integer(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn doubles() {
        for (text, value) in [
            ("1", 1.0),
            ("+1.", 1.0),
            (".5", 0.5),
            ("1E-2", 0.01),
            ("0x1p-1074", 5e-324),
            ("0x.8", 0.5),
            ("-0xFFp4", -4080.0),
            ("0x1.fffffffffffffp1023", f64::MAX),
            ("0x1p-1022", f64::MIN_POSITIVE),
            ("0x0p9999", 0.0),
            ("-inf", f64::NEG_INFINITY),
            ("Infinity", f64::INFINITY),
            ("1.7976931348623157e308", f64::MAX),
            ("4.9e-324", 5e-324),
            ("0e999", 0.0),
        ] {
            assert_eq!(parse_double(text.as_bytes()), Some(value), "{text:?}");
        }
        assert!(parse_double(b"-0").unwrap().is_sign_negative());
        assert!(parse_double(b"-0x0").unwrap().is_sign_negative());
        for text in ["", "nan", "1e309", "-1e309", "1e-400", "0x1p1024", "0x1p-1076", " 1", "1 ", "1e", "abc"]
        {
            assert_eq!(parse_double(text.as_bytes()), None, "{text:?}");
        }
        let long = format!("{}.5e-100000", "1".repeat(100_001));
        assert_eq!(parse_double(long.as_bytes()), Some(1.111_111_111_111_111_2));
    }

    /// Each as C's `printf("%.17g")` has it.
    #[test]
    fn doubles_are_written_as_c_writes_them() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (0.1, "0.10000000000000001"),
            (100.0, "100"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (12_345_678_901_234_567.0, "12345678901234568"),
            (1.5e17, "1.5e+17"),
            (1e-4, "0.0001"),
            (1e-5, "1.0000000000000001e-05"),
            (0.000_244_140_625, "0.000244140625"),
            (5e-324, "4.9406564584124654e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (99_999_999_999_999_999.0, "1e+17"),
            (f64::NAN, "nan"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(format_double(value), text);
        }
    }

    #[test]
    fn memory() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("007", 7),
            ("1b", 1),
            ("2K", 2000),
            ("2kB", 2048),
            ("3m", 3_000_000),
            ("3MB", 3 << 20),
            ("4g", 4_000_000_000),
            ("4gb", 4 << 30),
            ("18446744073709551615", u64::MAX),
            ("", 0),
            ("mb", 0),
        ] {
            assert_eq!(parse_memory_bytes(text.as_bytes()), Some(bytes), "{text:?}");
        }
        for text in
            ["-1", "1.5gb", "1 mb", " 1", "1tb", "1kib", "k1", "+1", "18446744073709551616", "99999999999gb"]
        {
            assert_eq!(parse_memory_bytes(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn doubles_read_back(bits: u64) {
            let value = f64::from_bits(bits);
            prop_assume!(!value.is_nan());
            prop_assert_eq!(parse_double(format_double(value).as_bytes()).map(f64::to_bits), Some(bits));
        }

        #[test]
        fn only_what_an_integer_is_written_as_reads_as_one(text in "[-+ 0]?[0-9]{0,20}[ .a]?") {
            let written = text.parse::<i64>().ok().filter(|number| number.to_string() == text);
            prop_assert_eq!(parse_integer(text.as_bytes()), written);
        }
    }
}
