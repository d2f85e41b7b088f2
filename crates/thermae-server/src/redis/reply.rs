//! Replies of the Redis protocol, in either of its versions, appended to a connection's output.
//!
//! What RESP3 has types for and RESP2 has not is written as RESP2 always wrote it: a map as a flat array, a double as text, a null as an
//! empty bulk of length -1. Errors are one line whatever is in them: a line break in received bytes must not begin another reply.

use crate::numbers::format_double;

/// Writes the replies to one client.
#[derive(Debug)]
pub struct Reply<'a> {
    output: &'a mut Vec<u8>,
    is_resp3: bool,
}

impl<'a> Reply<'a> {
    /// Replies appended to `output`.
    pub fn new(output: &'a mut Vec<u8>, is_resp3: bool) -> Self {
        Self { output, is_resp3 }
    }

    /// From now on in this version.
    pub fn speak(&mut self, is_resp3: bool) {
        self.is_resp3 = is_resp3;
    }

    /// Whether the client speaks RESP3.
    pub fn is_resp3(&self) -> bool {
        self.is_resp3
    }

    /// Bytes written so far, for [`Reply::take_back`].
    pub fn position(&self) -> usize {
        self.output.len()
    }

    /// Forgets what was written after `position`.
    pub fn take_back(&mut self, position: usize) {
        self.output.truncate(position);
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.output.push(kind);
        self.output.extend_from_slice(text);
        self.output.extend_from_slice(b"\r\n");
    }

    #[inline]
    fn number(&mut self, kind: u8, number: i64) {
        let mut digits = [0_u8; 24];
        let mut at = digits.len() - 2;
        digits[at..].copy_from_slice(b"\r\n");
        let mut rest = number.unsigned_abs();
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            at -= 1;
            digits[at] = b'-';
        }
        at -= 1;
        digits[at] = kind;
        self.output.extend_from_slice(&digits[at..]);
    }

    /// `+OK`.
    #[inline]
    pub fn ok(&mut self) {
        self.output.extend_from_slice(b"+OK\r\n");
    }

    /// A status.
    pub fn status(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// An error, its code first; line breaks become spaces, those at its ends nothing.
    pub fn error(&mut self, text: &str) {
        let text = text.trim_matches(['\r', '\n']);
        self.output.push(b'-');
        self.output.extend(text.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
        self.output.extend_from_slice(b"\r\n");
    }

    /// An integer.
    #[inline]
    pub fn integer(&mut self, number: i64) {
        self.number(b':', number);
    }

    /// A count.
    #[inline]
    pub fn count(&mut self, number: u64) {
        self.integer(i64::try_from(number).unwrap_or(i64::MAX));
    }

    /// 1 or 0.
    #[inline]
    pub fn flag(&mut self, is_so: bool) {
        self.output.extend_from_slice(if is_so { b":1\r\n" } else { b":0\r\n" });
    }

    /// Bytes.
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.number(b'$', bytes.len() as i64);
        self.output.extend_from_slice(bytes);
        self.output.extend_from_slice(b"\r\n");
    }

    /// Bytes of a known length that are yet to be written: where they go. To be finished with [`Reply::end_bulk`].
    #[inline]
    pub fn bulk_space(&mut self, length: usize) -> *mut u8 {
        self.number(b'$', length as i64);
        self.output.reserve(length + 2);
        self.output.spare_capacity_mut().as_mut_ptr().cast()
    }

    /// The bytes asked for with [`Reply::bulk_space`] are there.
    ///
    /// # Safety
    /// `length` bytes were written to where it said, and nothing to this reply since.
    #[inline]
    pub unsafe fn end_bulk(&mut self, length: usize) {
        let end = self.output.len() + length;
        // SAFETY: reserved by `bulk_space`, written by the caller.
        unsafe { self.output.set_len(end) };
        self.output.extend_from_slice(b"\r\n");
    }

    /// Text with its format, such as `txt`; a bulk in RESP2.
    pub fn verbatim(&mut self, format: &str, text: &str) {
        if self.is_resp3 {
            self.number(b'=', (format.len() + 1 + text.len()) as i64);
            for part in [format.as_bytes(), b":", text.as_bytes(), b"\r\n"] {
                self.output.extend_from_slice(part);
            }
        } else {
            self.bulk(text.as_bytes());
        }
    }

    /// Nothing.
    #[inline]
    pub fn null(&mut self) {
        self.output.extend_from_slice(if self.is_resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// No array.
    pub fn null_array(&mut self) {
        self.output.extend_from_slice(if self.is_resp3 { b"_\r\n" } else { b"*-1\r\n" });
    }

    /// True or false; 1 or 0 in RESP2.
    pub fn boolean(&mut self, is_so: bool) {
        if self.is_resp3 {
            self.output.extend_from_slice(if is_so { b"#t\r\n" } else { b"#f\r\n" });
        } else {
            self.flag(is_so);
        }
    }

    /// A number with a fraction; text in RESP2.
    pub fn double(&mut self, number: f64) {
        let text = format_double(number);
        if self.is_resp3 { self.line(b',', text.as_bytes()) } else { self.bulk(text.as_bytes()) }
    }

    /// So many replies follow, in order.
    #[inline]
    pub fn array(&mut self, length: usize) {
        self.number(b'*', length as i64);
    }

    /// So many pairs of replies follow.
    pub fn map(&mut self, length: usize) {
        if self.is_resp3 { self.number(b'%', length as i64) } else { self.number(b'*', 2 * length as i64) }
    }

    /// So many replies follow, in no order.
    pub fn set(&mut self, length: usize) {
        self.number(if self.is_resp3 { b'~' } else { b'*' }, length as i64);
    }

    /// A set of statuses.
    pub fn words<'t>(&mut self, words: impl Iterator<Item = &'t str>) {
        let words: Vec<&str> = words.collect();
        self.set(words.len());
        words.iter().for_each(|word| self.status(word));
    }

    /// So many replies follow that nobody asked for.
    pub fn push(&mut self, length: usize) {
        self.number(if self.is_resp3 { b'>' } else { b'*' }, length as i64);
    }

    /// What is a reply already.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(is_resp3: bool, write: impl Fn(&mut Reply<'_>)) -> String {
        let mut output = Vec::new();
        write(&mut Reply::new(&mut output, is_resp3));
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn each_version_has_its_form() {
        let all = |reply: &mut Reply<'_>| {
            reply.map(1);
            reply.set(1);
            reply.push(2);
            reply.null();
            reply.null_array();
            reply.boolean(true);
            reply.double(1.5);
            reply.verbatim("txt", "ab");
            reply.bulk(b"");
            reply.integer(i64::MIN);
        };
        assert_eq!(
            written(true, all),
            "%1\r\n~1\r\n>2\r\n_\r\n_\r\n#t\r\n,1.5\r\n=6\r\ntxt:ab\r\n$0\r\n\r\n:-9223372036854775808\r\n"
        );
        assert_eq!(
            written(false, all),
            "*2\r\n*1\r\n*2\r\n$-1\r\n*-1\r\n:1\r\n$3\r\n1.5\r\n$2\r\nab\r\n$0\r\n\r\n:-9223372036854775808\r\n"
        );
    }

    #[test]
    fn an_error_is_one_line() {
        assert_eq!(written(false, |reply| reply.error("ERR a\r\n+OK\nb")), "-ERR a  +OK b\r\n");
        assert_eq!(written(false, |reply| reply.error("ERR a\r\n")), "-ERR a\r\n");
    }

    #[test]
    fn bytes_may_be_written_where_they_go() {
        let text = written(false, |reply| {
            let at = reply.bulk_space(3);
            // SAFETY: three bytes were asked for.
            unsafe {
                std::ptr::copy_nonoverlapping(b"abc".as_ptr(), at, 3);
                reply.end_bulk(3);
            }
        });
        assert_eq!(text, "$3\r\nabc\r\n");
    }
}
