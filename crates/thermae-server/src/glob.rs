//! Patterns of keys and channels, as KEYS, SCAN and PSUBSCRIBE take them.
//!
//! ```text
//! *        any bytes, or none             [abc]  [a-z]  [^a-z]    one byte that is listed, or is not
//! ?        any one byte                   \x                      the byte x, whatever it is
//! ```
//! A class has an end where its `]` is or the pattern ends; a range may be written either way round; bytes from 128 up come before all
//! others in ranges, as C's signed characters do. Only ASCII letters have a case.
//!
//! Every token but `*` takes exactly one byte, so that only the last `*` passed ever needs to be tried again: at most
//! `pattern * text` steps, where trying each `*` for itself, as is usual, takes exponential time. Two bounds beyond that:
//!
//! - A [`Budget`] of `STEPS_MAX` steps for all that one command matches, above those that a few passes over pattern and text take; once it is spent, what
//!   takes more is answered with no. Only pattern and text of many kilobytes, made for it, get there. Redis has no such bound, and its one thread
//!   would be busy for minutes.
//! - `STARS_MAX` stars with something behind them; the answer is no as well. Redis has the same bound, on how deep it recurses.
//!
//! Rejected: translating to regular expressions; their crates know no such classes, and the translation is longer than this file.

/// Steps, bytes of pattern looked at, of one command: a fraction of a second, as the test `patterns_made_to_take_long` shows.
const STEPS_MAX: usize = 1 << 24;
/// Passes over pattern and text that cost nothing: what people write takes hardly more than one.
const PASSES_FREE: usize = 4;
/// Longest pattern that clients may subscribe to, or look for keys with: longer ones describe nothing that shorter ones could not.
pub const PATTERN_BYTES_MAX: usize = 4096;
/// The error for a longer one.
pub const PATTERN_TOO_LONG: &str = "ERR a pattern may be 4096 bytes long";
/// The error where the budget did not suffice, so that names may be missing among those that were found.
pub const NAMES_TAKE_TOO_LONG: &str = "ERR the patterns take too long to compare with these names";

/// The steps that a command may still take, beside those that are free.
#[derive(Debug, Clone, Copy)]
pub struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(STEPS_MAX)
    }
}

impl Budget {
    /// Whether something was answered with no because it took too long, or nearly so.
    pub fn is_spent(&self) -> bool {
        self.0 == 0
    }

    /// Whether a pattern describes the whole of a text, as far as the budget goes.
    ///
    /// An empty text matches only an empty pattern, not even `*`: so it is in Redis 7.0, whose KEYS and SCAN take a lone `*` as no pattern
    /// at all, without asking here.
    ///
    /// # Examples
    /// ```
    /// use thermae_server::glob::Budget;
    /// let mut budget = Budget::default();
    /// assert!(budget.matches(b"user:[0-9]*:name", b"user:42:name", false));
    /// assert!(budget.matches(b"USER:*", b"user:42", true));
    /// assert!(!budget.matches(b"h?llo", b"hllo", false));
    /// ```
    pub fn matches(&mut self, pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
        let free = pattern.len().saturating_add(text.len()).saturating_mul(PASSES_FREE);
        let mut steps_left = free.saturating_add(self.0);
        let answer = matches_in(pattern, text, ignore_case, &mut steps_left);
        // What is free is used first.
        self.0 = self.0.min(steps_left);
        answer
    }
}

/// Stars, runs of them taken as one and a last one not counted, above which nothing matches.
const STARS_MAX: usize = 1000;

fn matches_in(pattern: &[u8], text: &[u8], ignore_case: bool, steps_left: &mut usize) -> bool {
    if text.is_empty() {
        return pattern.is_empty();
    }
    let mut stars = 0;
    // What follows the last star, and where in the text that was tried.
    let mut retry: Option<(usize, usize)> = None;
    let (mut at, mut text_at) = (0, 0);
    while let Some(byte) = text.get(text_at) {
        if pattern.get(at) == Some(&b'*') {
            at += pattern[at..].iter().take_while(|byte| **byte == b'*').count();
            stars += 1;
            if at == pattern.len() {
                return true;
            }
            if stars > STARS_MAX {
                return false;
            }
            retry = Some((at, text_at));
        }
        let (fits, token_len) = match pattern.get(at) {
            Some(_) => match_token(&pattern[at..], *byte, ignore_case),
            None => (false, 1),
        };
        let Some(left) = steps_left.checked_sub(token_len) else {
            *steps_left = 0;
            return false;
        };
        *steps_left = left;
        if fits {
            (at, text_at) = (at + token_len, text_at + 1);
        } else if let Some((after_star, tried_at)) = retry {
            (at, text_at) = (after_star, tried_at + 1);
            retry = Some((at, text_at));
        } else {
            return false;
        }
    }
    // Moving the last star on would only leave less text for the same tokens.
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// Whether the token that a pattern begins with, which is no star, takes a byte; and how long the token is.
fn match_token(pattern: &[u8], byte: u8, ignore_case: bool) -> (bool, usize) {
    let is = |literal: u8| literal == byte || (ignore_case && literal.eq_ignore_ascii_case(&byte));
    match pattern {
        [b'?', ..] => (true, 1),
        [b'[', ..] => match_class(pattern, byte, ignore_case),
        [b'\\', literal, ..] => (is(*literal), 2),
        [literal, ..] => (is(*literal), 1),
        [] => (false, 0),
    }
}

/// The same for a class. What is escaped in it has a case even where case is ignored; Redis has it so.
fn match_class(pattern: &[u8], byte: u8, ignore_case: bool) -> (bool, usize) {
    let folded = |byte: u8| if ignore_case { byte.to_ascii_lowercase() } else { byte };
    let signed_folded = |byte: i8| folded(byte as u8) as i8;
    let negated = pattern.get(1) == Some(&b'^');
    let mut at = if negated { 2 } else { 1 };
    let mut listed = false;
    loop {
        let (fits, len) = match &pattern[at..] {
            [] => break,
            [b'\\', literal, ..] => (*literal == byte, 2),
            [b']', ..] => {
                at += 1;
                break;
            }
            [first, b'-', last, ..] => {
                // Put in order first and folded then, which can leave nothing between them.
                let (first, last) = (*first as i8, *last as i8);
                let range = signed_folded(first.min(last))..=signed_folded(first.max(last));
                (range.contains(&signed_folded(byte as i8)), 3)
            }
            [literal, ..] => (folded(*literal) == folded(byte), 1),
        };
        listed |= fits;
        at += len;
    }
    (listed != negated, at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, Instant};

    fn matches(pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
        Budget::default().matches(pattern, text, ignore_case)
    }

    fn assert_matches(pattern: &[u8], text: &[u8]) {
        assert!(matches(pattern, text, false), "{:?} {:?}", pattern.escape_ascii(), text.escape_ascii());
    }

    fn assert_differs(pattern: &[u8], text: &[u8]) {
        assert!(!matches(pattern, text, false), "{:?} {:?}", pattern.escape_ascii(), text.escape_ascii());
    }

    #[test]
    fn stars_and_question_marks() {
        for (pattern, text) in [
            ("*", "a"),
            ("**", "a"),
            ("h*llo", "hllo"),
            ("h*llo", "heeeello"),
            ("h?llo", "hello"),
            ("*a*b*c*", "xxaxxbxxcxx"),
            ("a*", "a"),
            ("a***", "a"),
            ("*?", "abc"),
            ("?*?", "ab"),
            ("*aab", "aaaaab"),
            ("*.*.c", "a.b.b.c"),
            ("", ""),
        ] {
            assert_matches(pattern.as_bytes(), text.as_bytes());
        }
        for (pattern, text) in [
            ("", "a"),
            ("a", ""),
            ("*", ""),
            ("**", ""),
            ("h?llo", "hllo"),
            ("?*?", "a"),
            ("*a", "ab"),
            ("a*b", "abc"),
            ("ab", "abc"),
            ("abc", "ab"),
            ("A", "a"),
        ] {
            assert_differs(pattern.as_bytes(), text.as_bytes());
        }
    }

    #[test]
    fn classes() {
        for (pattern, text) in [
            ("h[ae]llo", "hallo"),
            ("h[^e]llo", "hallo"),
            ("h[a-b]llo", "hbllo"),
            ("[z-a]", "m"),
            ("[a-]", "a"),
            ("[a-]", "]"),
            ("[a-]", "_"),
            ("[a", "a"),
            ("[ab", "b"),
            ("[a-", "-"),
            ("[^", "x"),
            ("[^]", "x"),
            ("[\\]]", "]"),
            ("[\\^a]", "^"),
            ("[a^]", "^"),
            ("[\\", "\\"),
            ("x[^a]*", "xb"),
            ("[*]", "*"),
            ("[?]", "?"),
        ] {
            assert_matches(pattern.as_bytes(), text.as_bytes());
        }
        for (pattern, text) in [
            ("h[ae]llo", "hillo"),
            ("h[^e]llo", "hello"),
            ("[", "["),
            ("[]", "]"),
            ("[]", "["),
            ("[]a]", "a"),
            ("[^ab", "b"),
            ("[*]", "a"),
            ("[a]b", "a"),
        ] {
            assert_differs(pattern.as_bytes(), text.as_bytes());
        }
    }

    #[test]
    fn escapes() {
        assert_matches(b"\\*", b"*");
        assert_differs(b"\\*", b"a");
        assert_matches(b"a\\", b"a\\");
        assert_matches(b"\\a", b"a");
        assert_matches(b"\\\\", b"\\");
        assert_matches(b"\\[a]", b"[a]");
        assert_matches(b"*\\", b"aa\\");
    }

    #[test]
    fn bytes_are_signed_in_ranges() {
        assert_matches(b"[\x80-a]", b"A");
        assert_matches(b"[\xff-\x01]", b"\0");
        assert_differs(b"[a-\xff]", b"z");
        assert_matches(b"[\x80-\xff]", b"\xc3");
        assert_differs(b"[\x80-\xff]", b"a");
    }

    #[test]
    fn case() {
        assert!(matches(b"HeL[LX]\\O", b"hElxo", true));
        assert!(matches(b"[A-Z]", b"q", true));
        assert!(!matches(b"[\\A]", b"a", true), "what is escaped in a class has a case");
        assert!(!matches(b"\xc4", b"\xe4", true), "only ASCII letters have a case");
        // 'Z' is before 'a', and "z" behind it.
        assert!(!matches(b"[a-Z]", b"_", true));
        assert!(matches(b"[a-Z]", b"_", false));
    }

    #[test]
    fn patterns_made_to_take_long() {
        let begin = Instant::now();
        let text = vec![b'a'; 1 << 16];
        let mut pattern = b"a*".repeat(900);
        pattern.push(b'b');
        assert_differs(&pattern, &text);
        // What would match after 2^31 steps is given up.
        let mut pattern = vec![b'*'];
        pattern.extend(vec![b'a'; 1 << 15]);
        let mut text = vec![b'a'; (1 << 15) - 1];
        text.push(b'b');
        let text = [text.repeat(4), vec![b'a'; 1 << 15]].concat();
        assert_differs(&pattern, &text);
        let class = [b"*[".to_vec(), vec![b'x'; 1 << 16], b"]y".to_vec()].concat();
        assert_differs(&class, &vec![b'x'; 1 << 16]);
        assert!(begin.elapsed() < Duration::from_secs(20));
        // A pass without a second try is never given up.
        let long = vec![b'a'; STEPS_MAX + 1];
        assert_matches(&long, &long);
    }

    /// Each match had a budget of its own, so that a command which matches many times took as many fractions of a second.
    #[test]
    fn all_matches_of_a_command_have_one_budget() {
        let pattern = [&b"*"[..], &b"a".repeat(1000), b"b"].concat();
        let text = [&b"a".repeat(9000)[..], b"b"].concat();
        let mut budget = Budget::default();
        // Some eight million steps each.
        assert!(budget.matches(&pattern, &text, false) && !budget.is_spent());
        assert!(budget.matches(&pattern, &text, false) && !budget.is_spent());
        for _ in 0..100 {
            assert!(!budget.matches(&pattern, &text, false) && budget.is_spent());
        }
        // What takes no more than a few passes is still found.
        assert!(budget.matches(b"*a*", &text, false) && budget.matches(b"*aab", b"aaaaab", false));
    }

    #[test]
    fn stars_are_counted() {
        let text = vec![b'a'; 3000];
        assert_matches(&b"*a".repeat(1000), &text);
        assert_differs(&b"*a".repeat(1001), &text);
        assert_matches(&[b"*a".repeat(1000), b"*".to_vec()].concat(), &text);
        assert_matches(&[b"*".repeat(1500), b"a".to_vec()].concat(), &text);
    }

    /// Tries every split at every star.
    fn matches_slowly(pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
        match (pattern, text) {
            ([], _) => text.is_empty(),
            ([b'*', rest @ ..], _) => {
                (0..=text.len()).any(|taken| matches_slowly(rest, &text[taken..], ignore_case))
            }
            (_, []) => false,
            (_, [byte, rest @ ..]) => {
                let (fits, len) = match_token(pattern, *byte, ignore_case);
                fits && matches_slowly(&pattern[len..], rest, ignore_case)
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn as_every_split_tried(pattern in "[ab*?\\[\\]^\\-\\\\B]{0,9}", text in "[ab\\]\\-A]{1,9}", ignore_case: bool) {
            let expected = matches_slowly(pattern.as_bytes(), text.as_bytes(), ignore_case);
            prop_assert_eq!(matches(pattern.as_bytes(), text.as_bytes(), ignore_case), expected);
        }

        #[test]
        fn any_bytes(pattern: Vec<u8>, text: Vec<u8>, ignore_case: bool) {
            matches(&pattern, &text, ignore_case);
            let literal: Vec<u8> = text.iter().flat_map(|byte| [b'\\', *byte]).collect();
            prop_assert!(matches(&literal, &text, false));
        }
    }
}
