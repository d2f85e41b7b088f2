//! Requests of the Redis protocol: bytes to arguments, nothing copied.
//!
//! A read may bring many commands, and the beginning of one more. [`parse`] notes where the arguments of each whole one lie; what it has found of
//! the last one is kept in [`Partial`] beside the connection's bytes, so that a command of a million arguments that comes in a
//! thousand reads is looked at once. Spans are offsets into the buffer that was parsed, or, for inline commands, whose quotes have to be
//! resolved, into bytes that the batch owns.
//!
//! Everything here was sent by a stranger: each length is checked against its limit before anything is done with it.

use crate::numbers::parse_integer;
use std::ops::Range;

/// Longest line of an inline command, and of a length.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Most arguments of one command.
const ARGUMENTS_MAX: i64 = 1 << 20;
/// The same before a client has said who it is, the longest of them, and the longest line: enough for one such argument with blanks and escapes.
const STRANGERS_ARGUMENTS_MAX: i64 = 10;
const STRANGERS_ARGUMENT_BYTES_MAX: i64 = 16 << 10;
const STRANGERS_LINE_BYTES_MAX: usize = 32 << 10;

/// Where an argument lies.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span {
    start: u32,
    end: u32,
}

/// One command of a batch.
#[derive(Debug, Clone)]
struct Whole {
    spans: Range<u32>,
    is_inline: bool,
    /// Bytes of the buffer up to its end.
    end: usize,
}

/// Commands that were found in one buffer.
#[derive(Debug, Default)]
pub struct Batch {
    spans: Vec<Span>,
    commands: Vec<Whole>,
    inline_bytes: Vec<u8>,
}

/// What was found of a command whose end has not come yet; spans count from the command's first byte.
#[derive(Debug, Default)]
pub struct Partial {
    spans: Vec<Span>,
    /// Arguments that are still to come; -1 before their number is known.
    missing: i64,
    /// Length of the argument under way, once known.
    length: Option<u32>,
    /// Bytes that were looked at.
    position: usize,
}

/// What a client may send.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Whether it has said who it is, or need not.
    pub is_authenticated: bool,
    /// Longest argument.
    pub argument_bytes_max: u64,
}

impl Limits {
    fn line_bytes_max(self) -> usize {
        if self.is_authenticated { LINE_BYTES_MAX } else { STRANGERS_LINE_BYTES_MAX }
    }

    /// Refuses a command of more arguments than a stranger may send.
    fn check_strangers_count(self, count: i64) -> Result<(), ProtocolError> {
        if count > STRANGERS_ARGUMENTS_MAX && !self.is_authenticated {
            return Err(ProtocolError("unauthenticated multibulk length".to_owned()));
        }
        Ok(())
    }

    /// Refuses an argument that is longer than a stranger may send.
    fn check_strangers_length(self, bytes: i64) -> Result<(), ProtocolError> {
        if bytes > STRANGERS_ARGUMENT_BYTES_MAX && !self.is_authenticated {
            return Err(ProtocolError("unauthenticated bulk length".to_owned()));
        }
        Ok(())
    }
}

/// Why the rest of a connection's bytes makes no sense; the text that Redis gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtocolError(pub String);

/// The arguments of one command; the first is its name.
#[derive(Debug, Clone, Copy)]
pub struct Arguments<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Arguments<'a> {
    /// How many, the name included.
    #[inline]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is not even a name.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// One of them; empty where there is none, which no caller relies on: arity is checked first.
    #[inline]
    pub fn at(&self, index: usize) -> &'a [u8] {
        self.spans
            .get(index)
            .and_then(|span| self.bytes.get(span.start as usize..span.end as usize))
            .unwrap_or_default()
    }

    /// All from this one on.
    pub fn from(&self, index: usize) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        let (bytes, spans) = (self.bytes, &self.spans[index.min(self.spans.len())..]);
        spans.iter().map(move |span| bytes.get(span.start as usize..span.end as usize).unwrap_or_default())
    }

    /// The same arguments without the first ones.
    #[must_use]
    pub fn skip(self, count: usize) -> Self {
        Self { bytes: self.bytes, spans: &self.spans[count.min(self.spans.len())..] }
    }
}

/// Arguments that outlive the bytes they came in.
#[derive(Debug, Clone)]
pub struct OwnedArguments {
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

impl From<Arguments<'_>> for OwnedArguments {
    fn from(arguments: Arguments<'_>) -> Self {
        // Neither takes more than is in it: many of these may wait for EXEC.
        let bytes = arguments.from(0).map(<[u8]>::len).sum();
        let mut owned = Self { bytes: Vec::with_capacity(bytes), spans: Vec::with_capacity(arguments.len()) };
        for argument in arguments.from(0) {
            let start = owned.bytes.len() as u32;
            owned.bytes.extend_from_slice(argument);
            owned.spans.push(Span { start, end: owned.bytes.len() as u32 });
        }
        owned
    }
}

impl OwnedArguments {
    /// The same, borrowed.
    pub fn arguments(&self) -> Arguments<'_> {
        Arguments { bytes: &self.bytes, spans: &self.spans }
    }
}

impl Batch {
    /// Forgets all commands, keeping memory for a usual batch.
    pub fn clear(&mut self) {
        self.spans.clear();
        self.commands.clear();
        self.inline_bytes.clear();
        self.spans.shrink_to(16 << 10);
        self.inline_bytes.shrink_to(LINE_BYTES_MAX);
    }

    /// How many commands.
    pub fn len(&self) -> usize {
        self.commands.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// The arguments of one command, `buffer` being what was parsed; and where in it the command ends.
    #[inline]
    pub fn command<'a>(&'a self, index: usize, buffer: &'a [u8]) -> (Arguments<'a>, usize) {
        let whole = &self.commands[index];
        let spans = &self.spans[whole.spans.start as usize..whole.spans.end as usize];
        let bytes = if whole.is_inline { &self.inline_bytes } else { buffer };
        (Arguments { bytes, spans }, whole.end)
    }
}

/// Finds up to `commands_max` whole commands in `buffer`, which begins where a command begins. Returns where the first command that is not whole
/// begins; an error comes after the commands before it.
///
/// # Errors
/// What Redis calls a protocol error: the connection has to be closed after the commands found were executed.
pub fn parse(
    buffer: &[u8],
    commands_max: usize,
    limits: Limits,
    partial: &mut Option<Box<Partial>>,
    batch: &mut Batch,
) -> (usize, Result<(), ProtocolError>) {
    let mut start = 0;
    while start < buffer.len() && batch.commands.len() < commands_max {
        let first = batch.spans.len();
        let parsed = if buffer[start] == b'*' {
            parse_array(buffer, start, limits, partial, batch)
        } else {
            parse_inline(buffer, start, limits, batch)
        };
        match parsed {
            Ok(Some(end)) => {
                let is_inline = buffer[start] != b'*';
                if batch.spans.len() > first {
                    let spans = first as u32..batch.spans.len() as u32;
                    batch.commands.push(Whole { spans, is_inline, end });
                }
                start = end;
            }
            Ok(None) => {
                batch.spans.truncate(first);
                break;
            }
            Err(error) => {
                batch.spans.truncate(first);
                return (start, Err(error));
            }
        }
    }
    (start, Ok(()))
}

/// A number line: its value, and where the next line begins. `None` where its end has not come yet.
#[inline]
fn number_line(
    buffer: &[u8],
    at: usize,
    limits: Limits,
    too_long: &str,
) -> Result<Option<(Option<i64>, usize)>, ProtocolError> {
    // Most lengths have one to three digits.
    let mut value: i64 = 0;
    let mut position = at;
    while let Some(&byte) = buffer.get(position) {
        if byte.is_ascii_digit() && position - at < 10 {
            value = value * 10 + i64::from(byte - b'0');
            position += 1;
        } else if byte == b'\r' && position > at && (buffer[at] != b'0' || position == at + 1) {
            return Ok(buffer.get(position + 1).map(|_| (Some(value), position + 2)));
        } else {
            return unusual_number_line(buffer, at, limits, too_long);
        }
    }
    Ok(None)
}

#[cold]
fn unusual_number_line(
    buffer: &[u8],
    at: usize,
    limits: Limits,
    too_long: &str,
) -> Result<Option<(Option<i64>, usize)>, ProtocolError> {
    let (rest, line_bytes_max) = (&buffer[at..], limits.line_bytes_max());
    match rest.iter().take(line_bytes_max).position(|&byte| byte == b'\r') {
        Some(length) if rest.len() > length + 1 => {
            Ok(Some((parse_integer(&rest[..length]), at + length + 2)))
        }
        None if rest.len() >= line_bytes_max => Err(ProtocolError(too_long.to_owned())),
        _ => Ok(None),
    }
}

/// Notes the arguments of an array; where it ends, or `None`, `partial` then holding what is known.
fn parse_array(
    buffer: &[u8],
    start: usize,
    limits: Limits,
    partial: &mut Option<Box<Partial>>,
    batch: &mut Batch,
) -> Result<Option<usize>, ProtocolError> {
    let (mut position, mut missing, mut length) = (start, -1_i64, None);
    let first = batch.spans.len();
    if let Some(known) = partial.take() {
        (position, missing, length) = (start + known.position, known.missing, known.length);
        if first == 0 && start == 0 {
            // What came of it begins the buffer: its spans are moved there and back, however many, for each byte that comes.
            batch.spans = known.spans;
        } else {
            let offset = start as u32;
            batch.spans.extend(
                known.spans.iter().map(|span| Span { start: span.start + offset, end: span.end + offset }),
            );
        }
    }
    let is_whole = loop {
        if missing < 0 {
            let Some((count, next)) =
                number_line(buffer, position + 1, limits, "too big mbulk count string")?
            else {
                break false;
            };
            let count = count.filter(|&count| count <= ARGUMENTS_MAX);
            let Some(count) = count else { return Err(ProtocolError("invalid multibulk length".to_owned())) };
            limits.check_strangers_count(count)?;
            position = next;
            missing = count.max(0);
        }
        if missing == 0 {
            break true;
        }
        let bytes = match length {
            Some(bytes) => bytes,
            None => {
                match buffer.get(position) {
                    None => break false,
                    Some(b'$') => {}
                    Some(&other) => {
                        return Err(ProtocolError(format!("expected '$', got '{}'", shown(other))));
                    }
                }
                let Some((bytes, next)) =
                    number_line(buffer, position + 1, limits, "too big bulk count string")?
                else {
                    break false;
                };
                let allowed = i64::try_from(limits.argument_bytes_max).unwrap_or(i64::MAX);
                let Some(bytes) = bytes.filter(|bytes| (0..=allowed).contains(bytes)) else {
                    return Err(ProtocolError("invalid bulk length".to_owned()));
                };
                limits.check_strangers_length(bytes)?;
                position = next;
                bytes as u32
            }
        };
        let end = position + bytes as usize;
        if buffer.len() < end + 2 {
            length = Some(bytes);
            break false;
        }
        length = None;
        batch.spans.push(Span { start: position as u32, end: end as u32 });
        position = end + 2;
        missing -= 1;
    };
    if is_whole {
        return Ok(Some(position));
    }
    let offset = start as u32;
    let spans = if first == 0 && start == 0 {
        std::mem::take(&mut batch.spans)
    } else {
        batch.spans[first..]
            .iter()
            .map(|span| Span { start: span.start - offset, end: span.end - offset })
            .collect()
    };
    *partial = Some(Box::new(Partial { spans, missing, length, position: position - start }));
    Ok(None)
}

/// A byte as it may be shown in an error: never one that could end the line.
fn shown(byte: u8) -> char {
    match byte {
        b'\r' | b'\n' | b' ' => ' ',
        _ if byte.is_ascii_graphic() => char::from(byte),
        _ => '?',
    }
}

/// Notes the words of a line; where it ends, or `None`.
fn parse_inline(
    buffer: &[u8],
    start: usize,
    limits: Limits,
    batch: &mut Batch,
) -> Result<Option<usize>, ProtocolError> {
    let (rest, line_bytes_max) = (&buffer[start..], limits.line_bytes_max());
    let Some(length) = rest.iter().take(line_bytes_max).position(|&byte| byte == b'\n') else {
        return if rest.len() >= line_bytes_max {
            Err(ProtocolError("too big inline request".to_owned()))
        } else {
            Ok(None)
        };
    };
    let mut line = rest[..length].strip_suffix(b"\r").unwrap_or(&rest[..length]);
    let first = batch.spans.len();
    loop {
        let begin = batch.inline_bytes.len();
        match next_word(&mut line, &mut batch.inline_bytes) {
            None => return Err(ProtocolError("unbalanced quotes in request".to_owned())),
            Some(false) => return Ok(Some(start + length + 1)),
            Some(true) => {}
        }
        let end = batch.inline_bytes.len();
        batch.spans.push(Span { start: begin as u32, end: end as u32 });
        limits.check_strangers_count((batch.spans.len() - first) as i64)?;
        limits.check_strangers_length((end - begin) as i64)?;
    }
}

/// The words of a line as redis-cli writes them: bare, in double quotes with escapes, or in single quotes. `None` where quotes do not close,
/// or are followed by something.
pub fn split_words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (mut words, mut rest) = (Vec::new(), line);
    loop {
        let mut word = Vec::new();
        if !next_word(&mut rest, &mut word)? {
            return Some(words);
        }
        words.push(word);
    }
}

/// Appends the first word of a line to `word`, and leaves the line behind it; false where there is none. `None` as in [`split_words`].
fn next_word(line: &mut &[u8], word: &mut Vec<u8>) -> Option<bool> {
    let rest = line.trim_ascii_start();
    if rest.first().is_none_or(|first| *first == 0) {
        return Some(false);
    }
    let mut position = 0;
    while let Some(&byte) = rest.get(position) {
        match byte {
            b'"' | b'\'' => {
                position = quoted(rest, position, word)?;
                if rest.get(position).is_some_and(|byte| !byte.is_ascii_whitespace() && *byte != 0x0b) {
                    return None;
                }
                break;
            }
            b' ' | b'\t' | b'\r' | b'\n' | 0 => break,
            _ => word.push(byte),
        }
        position += 1;
    }
    *line = &rest[position..];
    Some(true)
}

/// Appends what is between the quote at `open` and its partner, and returns where the text goes on.
fn quoted(text: &[u8], open: usize, word: &mut Vec<u8>) -> Option<usize> {
    let quote = text[open];
    let mut position = open + 1;
    loop {
        let byte = *text.get(position)?;
        if byte == quote {
            return Some(position + 1);
        }
        if byte != b'\\' || (quote == b'\'' && text.get(position + 1) != Some(&b'\'')) {
            word.push(byte);
            position += 1;
            continue;
        }
        let hexadecimal = (text.get(position + 1) == Some(&b'x'))
            .then(|| text.get(position + 2..position + 4))
            .flatten()
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        if let (Some(byte), b'"') = (hexadecimal, quote) {
            word.push(byte);
            position += 4;
            continue;
        }
        word.push(match *text.get(position + 1)? {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'b' => 0x08,
            b'a' => 0x07,
            other => other,
        });
        position += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: Limits = Limits { is_authenticated: true, argument_bytes_max: 512 << 20 };
    const STRANGER: Limits = Limits { is_authenticated: false, argument_bytes_max: 512 << 20 };

    /// Feeds bytes in pieces, as a connection does; the commands, and the error that ended them.
    fn feed(pieces: &[&[u8]], limits: Limits) -> (Vec<Vec<Vec<u8>>>, Option<String>) {
        let (mut buffer, mut partial, mut commands) = (Vec::new(), None, Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                let mut batch = Batch::default();
                let (consumed, result) = parse(&buffer, 2, limits, &mut partial, &mut batch);
                for index in 0..batch.len() {
                    let (arguments, end) = batch.command(index, &buffer);
                    assert!(end <= consumed);
                    commands.push(arguments.from(0).map(<[u8]>::to_vec).collect());
                }
                buffer.drain(..consumed);
                if let Err(ProtocolError(text)) = result {
                    return (commands, Some(text));
                }
                if batch.is_empty() {
                    break;
                }
            }
        }
        (commands, None)
    }

    fn words(texts: &[&str]) -> Vec<Vec<u8>> {
        texts.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    #[test]
    fn commands_come_whole_however_they_are_cut() {
        let bytes = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\na\r\nb\0\r\n*1\r\n$4\r\nPING\r\nget k\r\n*0\r\n*2\r\n$3\r\nGET\r\n$0\r\n\r\n\r\n\"a\\x41\\n\" 'b c'\n";
        let expected = vec![
            words(&["SET", "k", "a\r\nb\0"]),
            words(&["PING"]),
            words(&["get", "k"]),
            words(&["GET", ""]),
            words(&["aA\n", "b c"]),
        ];
        assert_eq!(feed(&[bytes], KNOWN), (expected.clone(), None));
        for cut in 0..bytes.len() {
            assert_eq!(
                feed(&[&bytes[..cut], &bytes[cut..]], KNOWN),
                (expected.clone(), None),
                "cut at {cut}"
            );
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(feed(&single, KNOWN), (expected, None));
    }

    /// A command of a million arguments, whose last one came a byte at a time, was copied for each byte.
    #[test]
    fn what_was_found_of_a_long_command_stays_where_it_is() {
        let mut buffer = b"*10001\r\n".to_vec();
        buffer.extend(b"$1\r\nk\r\n".repeat(10_000));
        buffer.extend(b"$100\r\n");
        let (mut partial, mut batch) = (None, Batch::default());
        assert_eq!(parse(&buffer, 10, KNOWN, &mut partial, &mut batch), (0, Ok(())));
        let spans = |partial: &Option<Box<Partial>>| partial.as_ref().map(|partial| partial.spans.as_ptr());
        let found = spans(&partial);
        for _ in 0..101 {
            buffer.push(b'x');
            assert_eq!(parse(&buffer, 10, KNOWN, &mut partial, &mut batch), (0, Ok(())));
            assert_eq!(spans(&partial), found);
            batch.clear();
        }
        buffer.push(b'\n');
        let (end, result) = parse(&buffer, 10, KNOWN, &mut partial, &mut batch);
        assert_eq!((end, result), (buffer.len(), Ok(())));
        assert_eq!(batch.command(0, &buffer).0.len(), 10_001);
    }

    #[test]
    fn nonsense_is_named_after_what_came_before_was_found() {
        for (bytes, error) in [
            (&b"*x\r\n"[..], "invalid multibulk length"),
            (b"*1048577\r\n", "invalid multibulk length"),
            (b"*99999999999999999999\r\n", "invalid multibulk length"),
            (b"*1\r\n+OK\r\n", "expected '$', got '+'"),
            (b"*1\r\n\nOK\r\n", "expected '$', got ' '"),
            (b"*1\r\n$-1\r\n", "invalid bulk length"),
            (b"*1\r\n$536870913\r\n", "invalid bulk length"),
            (b"*1\r\n$07\r\n", "invalid bulk length"),
            (b"get \"k\n", "unbalanced quotes in request"),
            (b"get 'k'x\n", "unbalanced quotes in request"),
        ] {
            let with_ping = [b"*1\r\n$4\r\nPING\r\n", bytes].concat();
            assert_eq!(
                feed(&[&with_ping], KNOWN),
                (vec![words(&["PING"])], Some(error.to_owned())),
                "{bytes:?}"
            );
        }
        let long = vec![b'1'; LINE_BYTES_MAX + 1];
        assert_eq!(feed(&[&long], KNOWN).1.unwrap(), "too big inline request");
        assert_eq!(feed(&[&[b"*", &long[..]].concat()], KNOWN).1.unwrap(), "too big mbulk count string");
        assert_eq!(feed(&[&[b"*1\r\n$", &long[..]].concat()], KNOWN).1.unwrap(), "too big bulk count string");
    }

    #[test]
    fn a_stranger_may_send_little() {
        assert_eq!(feed(&[b"*11\r\n"], STRANGER).1.unwrap(), "unauthenticated multibulk length");
        assert_eq!(feed(&[b"*1\r\n$16385\r\n"], STRANGER).1.unwrap(), "unauthenticated bulk length");
        assert_eq!(feed(&[b"*1\r\n$4\r\nPING\r\n"], STRANGER), (vec![words(&["PING"])], None));
    }

    /// Lines were held to no limit but that of all lines: 32,000 arguments, or one of 64 KB.
    #[test]
    fn a_stranger_may_send_as_little_in_a_line() {
        let line = |words: &[&[u8]]| [&words.join(&b' ')[..], b"\n"].concat();
        let longest = b"x".repeat(STRANGERS_ARGUMENT_BYTES_MAX as usize);
        let too_long = [&longest[..], b"x"].concat();
        for (sent, count) in [(line(&[&b"x"[..]; 10]), 10), (line(&[b"AUTH", &longest]), 2)] {
            let (commands, error) = feed(&[&sent], STRANGER);
            assert_eq!((commands[0].len(), error), (count, None));
        }
        for (sent, error) in [
            (line(&[&b"x"[..]; 11]), "unauthenticated multibulk length"),
            ([&b"x ".repeat(10_000)[..], b"\n"].concat(), "unauthenticated multibulk length"),
            (line(&[b"AUTH", &too_long]), "unauthenticated bulk length"),
            (b"x".repeat(STRANGERS_LINE_BYTES_MAX), "too big inline request"),
            (b" ".repeat(STRANGERS_LINE_BYTES_MAX), "too big inline request"),
            ([b"*", &b"1".repeat(STRANGERS_LINE_BYTES_MAX)[..]].concat(), "too big mbulk count string"),
        ] {
            assert_eq!(feed(&[&sent], STRANGER), (Vec::new(), Some(error.to_owned())));
            assert_ne!(feed(&[&sent], KNOWN).1.as_deref(), Some(error));
        }
    }

    #[test]
    fn a_negative_count_is_no_command() {
        assert_eq!(feed(&[b"*-1\r\nPING\r\n"], KNOWN), (vec![words(&["PING"])], None));
    }
}
