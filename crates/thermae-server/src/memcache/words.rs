//! Lines, words and numbers, as memcached takes them.

/// The words of a line that were not taken yet. Only blanks part them, and a NUL ends them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    /// Of a line, without its end.
    #[inline]
    pub fn new(line: &'a [u8]) -> Self {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Self(match line.iter().position(|&byte| byte == 0) {
            None => line,
            Some(end) => &line[..end],
        })
    }

    /// Goes on with words that were not taken, as [`Words::rest`] gave them: nothing has to be looked for in them again.
    #[inline]
    pub fn resumed(rest: &'a [u8]) -> Self {
        Self(rest)
    }

    /// Whether the last word says that nobody waits for an answer.
    #[inline]
    pub fn end_with_noreply(self) -> bool {
        let text = self.0.trim_ascii_end();
        text.strip_suffix(b"noreply").is_some_and(|before| before.last().is_none_or(|&byte| byte == b' '))
    }

    /// The word at this place among those not taken yet.
    #[inline]
    pub fn word(mut self, index: usize) -> Option<&'a [u8]> {
        self.nth(index)
    }

    /// The last word.
    pub fn last_word(self) -> Option<&'a [u8]> {
        self.last()
    }

    /// What was not taken yet.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Whether there are more words than this.
    #[inline]
    pub fn are_more_than(mut self, count: usize) -> bool {
        self.nth(count).is_some()
    }

    /// As many words as asked for, and no more than `N + more`.
    #[inline]
    pub fn take_exactly<const N: usize>(mut self, more: usize) -> Option<[&'a [u8]; N]> {
        let mut words = [&b""[..]; N];
        for word in &mut words {
            *word = self.next()?;
        }
        (!self.are_more_than(more)).then_some(words)
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let start = self.0.iter().position(|&byte| byte != b' ')?;
        let text = &self.0[start..];
        let length = text.iter().position(|&byte| byte == b' ').unwrap_or(text.len());
        let (word, rest) = text.split_at(length);
        self.0 = rest;
        Some(word)
    }
}

/// A number of 64 bits without a sign; a plus, or a minus before 0, is allowed.
#[inline]
pub fn unsigned(word: &[u8]) -> Option<u64> {
    let (is_negative, digits) = match word {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let mut value: u64 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
    }
    (!is_negative || value == 0).then_some(value)
}

/// A number of 64 bits with a sign.
#[inline]
pub fn signed(word: &[u8]) -> Option<i64> {
    match word {
        [b'-', digits @ ..] if digits.first().is_some_and(u8::is_ascii_digit) => {
            0_i64.checked_sub_unsigned(unsigned(digits)?)
        }
        _ => i64::try_from(unsigned(word)?).ok(),
    }
}

/// A value as a counter: blanks in front, a number, and after a blank anything.
pub fn counter(value: &[u8]) -> Option<u64> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    let text = &value[value.iter().position(|byte| !is_blank(byte))?..];
    let length = text.iter().position(|byte| is_blank(byte) || *byte == 0).unwrap_or(text.len());
    unsigned(&text[..length])
}

/// Appends a number.
#[inline]
pub fn push_number(output: &mut Vec<u8>, number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    output.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_part_words() {
        let words = |line: &'static str| Words::new(line.as_bytes()).collect::<Vec<_>>();
        assert_eq!(words("get  a b \r"), [&b"get"[..], b"a", b"b"]);
        assert_eq!(words("a\tb\r\r"), [&b"a\tb\r"[..]]);
        assert_eq!(words("a\0b"), [&b"a"[..]]);
        assert_eq!(words("  "), [&b""[..]; 0]);
        assert!(Words::new(b"set k noreply  ").end_with_noreply());
        assert!(!Words::new(b"set k xnoreply").end_with_noreply());
        assert_eq!(Words::new(b"a b c").take_exactly::<2>(1), Some([&b"a"[..], b"b"]));
        assert_eq!(Words::new(b"a b c").take_exactly::<2>(0), None);
        assert_eq!(Words::new(b"a").take_exactly::<2>(0), None);
    }

    #[test]
    fn numbers_are_whole_words() {
        for (word, number) in [
            ("0", Some(0)),
            ("+7", Some(7)),
            ("-0", Some(0)),
            ("007", Some(7)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("", None),
            ("+", None),
            ("-", None),
            ("-1", None),
            ("1x", None),
            ("0x1", None),
            ("+-1", None),
        ] {
            assert_eq!(unsigned(word.as_bytes()), number, "{word}");
        }
        for (word, number) in [
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("--1", None),
            ("-+1", None),
            ("-", None),
        ] {
            assert_eq!(signed(word.as_bytes()), number, "{word}");
        }
    }

    #[test]
    fn counters_end_at_a_blank() {
        for (value, number) in [
            ("12", Some(12)),
            (" \t5  ", Some(5)),
            ("5\0z", Some(5)),
            ("12 x", Some(12)),
            ("12x", None),
            (" ", None),
        ] {
            assert_eq!(counter(value.as_bytes()), number, "{value}");
        }
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 9, 10, u64::MAX] {
            let mut output = Vec::new();
            push_number(&mut output, number);
            assert_eq!(output, number.to_string().into_bytes());
        }
    }
}
