//! The bytes that DUMP answers and RESTORE takes: a value as Redis writes it into its files, version and checksum behind it.
//!
//! ```text
//! type (1 byte) | value | version (2 bytes) | CRC-64 of all before (8 bytes)                  both little-endian
//!
//! type 0 = string:   00nnnnnn                        n bytes
//!                    01nnnnnn nnnnnnnn               n bytes
//!                    10000000 n (4 bytes)            n bytes         n big-endian
//!                    10000001 n (8 bytes)            n bytes         n big-endian
//!                    11000000, ...01, ...10          an integer of 1, 2, 4 bytes, little-endian
//!                    11000011 c n                    c bytes of LZF that become n; both written as lengths above
//! ```
//! Redis 7.0 writes the version 10 and reads that and older ones. What is read was sent by a stranger: the checksum says nothing about who made it,
//! and each length is checked against what is there. Bytes behind the value are passed over, as Redis does.

use crate::numbers::parse_integer;
use crate::redis::lzf;

/// Version that is written; the newest that is read.
const VERSION: u16 = 10;
/// Version and checksum.
const FOOTER_BYTES: usize = 10;
const TYPE_STRING: u8 = 0;
/// Texts up to this length are written as integers where they are some.
const INTEGER_TEXT_MAX: usize = 11;
/// Texts above this length are compressed where that helps.
const PLAIN_TEXT_MAX: usize = 20;

const INTEGER_8: u8 = 0xc0;
const INTEGER_16: u8 = 0xc1;
const INTEGER_32: u8 = 0xc2;
const COMPRESSED: u8 = 0xc3;
const LENGTH_32: u8 = 0x80;
const LENGTH_64: u8 = 0x81;

/// Why bytes are no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// They are of a newer version, or were changed on the way.
    Footer,
    /// They make no sense, or are a type that is not known here.
    Value,
}

/// The polynomial of Jones, bits reversed.
const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5;

const CRC_TABLE: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

fn crc64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |crc, byte| CRC_TABLE[usize::from(crc as u8 ^ byte)] ^ crc >> 8)
}

/// The bytes that Redis would write for a value itself, without what is in front of it and behind it.
pub fn serialized_length(value: &[u8]) -> usize {
    encode_string(value).len() - 1 - FOOTER_BYTES
}

/// Writes a string.
pub fn encode_string(value: &[u8]) -> Vec<u8> {
    let mut output = vec![TYPE_STRING];
    let integer = (value.len() <= INTEGER_TEXT_MAX).then(|| parse_integer(value)).flatten();
    let compressed = if value.len() > PLAIN_TEXT_MAX { lzf::compress(value) } else { None };
    if let Some(integer) = integer.and_then(|integer| i32::try_from(integer).ok()) {
        put_integer(&mut output, integer);
    } else if let Some(compressed) = compressed {
        output.push(COMPRESSED);
        put_length(&mut output, compressed.len());
        put_length(&mut output, value.len());
        output.extend_from_slice(&compressed);
    } else {
        put_length(&mut output, value.len());
        output.extend_from_slice(value);
    }
    output.extend_from_slice(&VERSION.to_le_bytes());
    let crc = crc64(&output);
    output.extend_from_slice(&crc.to_le_bytes());
    output
}

fn put_integer(output: &mut Vec<u8>, integer: i32) {
    if let Ok(integer) = i8::try_from(integer) {
        output.push(INTEGER_8);
        output.extend_from_slice(&integer.to_le_bytes());
    } else if let Ok(integer) = i16::try_from(integer) {
        output.push(INTEGER_16);
        output.extend_from_slice(&integer.to_le_bytes());
    } else {
        output.push(INTEGER_32);
        output.extend_from_slice(&integer.to_le_bytes());
    }
}

fn put_length(output: &mut Vec<u8>, length: usize) {
    match length {
        0..=0x3f => output.push(length as u8),
        0x40..=0x3fff => output.extend_from_slice(&(0x4000 | length as u16).to_be_bytes()),
        _ => {
            // Values stay below 4 GiB, so the longest form is only ever read.
            output.push(LENGTH_32);
            output.extend_from_slice(&(length as u32).to_be_bytes());
        }
    }
}

/// Reads a string.
pub fn decode_string(payload: &[u8]) -> Result<Vec<u8>, Refused> {
    let body = payload.len().checked_sub(FOOTER_BYTES).ok_or(Refused::Footer)?;
    let (version, crc) = (&payload[body..body + 2], &payload[body + 2..]);
    let is_known = u16::from_le_bytes([version[0], version[1]]) <= VERSION;
    if !is_known || crc64(&payload[..body + 2]).to_le_bytes() != crc {
        return Err(Refused::Footer);
    }
    let mut reader = Reader(&payload[..body]);
    match reader.byte() {
        Some(TYPE_STRING) => reader.string().ok_or(Refused::Value),
        _ => Err(Refused::Value),
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn string(&mut self) -> Option<Vec<u8>> {
        let first = self.byte()?;
        match first {
            INTEGER_8 => Some(i8::from_le_bytes(self.array()?).to_string().into_bytes()),
            INTEGER_16 => Some(i16::from_le_bytes(self.array()?).to_string().into_bytes()),
            INTEGER_32 => Some(i32::from_le_bytes(self.array()?).to_string().into_bytes()),
            COMPRESSED => {
                let (compressed_len, length) = (self.length()?, self.length()?);
                lzf::decompress(self.bytes(compressed_len)?, length)
            }
            _ => {
                let length = self.length_after(first)?;
                self.bytes(length).map(<[u8]>::to_vec)
            }
        }
    }

    fn length(&mut self) -> Option<usize> {
        let first = self.byte()?;
        self.length_after(first)
    }

    /// A length whose first byte is known.
    fn length_after(&mut self, first: u8) -> Option<usize> {
        match first {
            0..=0x3f => Some(usize::from(first)),
            0x40..=0x7f => Some(usize::from(first & 0x3f) << 8 | usize::from(self.byte()?)),
            LENGTH_32 => usize::try_from(u32::from_be_bytes(self.array()?)).ok(),
            LENGTH_64 => usize::try_from(u64::from_be_bytes(self.array()?)).ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// With a footer that is right.
    fn sealed(body: &[u8]) -> Vec<u8> {
        let mut payload = [body, &VERSION.to_le_bytes()].concat();
        payload.extend_from_slice(&crc64(&payload).to_le_bytes());
        payload
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value in prop::collection::vec(any::<u8>(), 0..300), repeated in 1_usize..100) {
            let value = value.repeat(repeated);
            prop_assert_eq!(decode_string(&encode_string(&value)), Ok(value));
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..100)) {
            let of_string = [&[TYPE_STRING], body.as_slice()].concat();
            for body in [body, of_string] {
                let payload = sealed(&body);
                if let Ok(value) = decode_string(&payload) {
                    prop_assert_eq!(decode_string(&encode_string(&value)), Ok(value));
                }
            }
        }
    }

    #[test]
    fn the_checksum_is_redis_s() {
        assert_eq!(crc64(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }

    #[test]
    fn redis_writes_the_same_bytes() {
        for (value, payload) in [
            (&b""[..], &b"\x00\x00\n\x00]\x9b\\@\x0f\x7f\xa2\xda"[..]),
            (b"abc", b"\x00\x03abc\n\x00\xd9\xac0=Ar\xa2\xe2"),
            (b"007", b"\x00\x03007\n\x00rX\xe2{Li\xba\xd9"),
            (b"-0", b"\x00\x02-0\n\x00\xd5A\x1f\xd9\xd6\xd0P\xcc"),
            (b"1", b"\x00\xc0\x01\n\x00&x\xe7\xb6\xd1\x01\x11\xfc"),
            (b"-128", b"\x00\xc0\x80\n\x00\x99f2m/\x0c[\xd9"),
            (b"128", b"\x00\xc1\x80\x00\n\x00\xebz\xb3\xb5\x10\xcfKe"),
            (b"-32768", b"\x00\xc1\x00\x80\n\x00\xb5@\x06GS\xbb\x1a\xce"),
            (b"32768", b"\x00\xc2\x00\x80\x00\x00\n\x00E\xd8.\xed\xd5\xbd\xa9\x10"),
            (b"-2147483648", b"\x00\xc2\x00\x00\x00\x80\n\x00\xc7O\x87>3U\x81\x87"),
            (b"2147483648", b"\x00\n2147483648\n\x00\xe7\xb1)\xa3L\x1dv\xee"),
            (b"1234567890123456789", b"\x00\x131234567890123456789\n\x00\xc7\to\xfa\x89\xcdq\x01"),
        ] {
            assert_eq!(encode_string(value), payload, "{value:?}");
            assert_eq!(decode_string(payload).as_deref(), Ok(value));
        }
        // Compressed by Redis itself.
        let compressed = b"\x00\xc3\x06\x15\x01xx\xe0\n\x00\n\x00\x94\x1a\x83g`\x17\x19/";
        assert_eq!(decode_string(compressed), Ok(vec![b'x'; 21]));
    }

    #[test]
    fn nonsense_is_refused() {
        for payload in [&b""[..], b"short", b"\x00\x03abc\n\x00\xd9\xac0=Ar\xa2\xe3"] {
            assert_eq!(decode_string(payload), Err(Refused::Footer), "{payload:?}");
        }
        for body in [
            &b""[..],
            b"\x01",
            b"\x00",
            b"\x00\x04abc",
            b"\x00\x40",
            b"\x00\x80\xff\xff\xff\xffabc",
            b"\x00\x81\xff\xff\xff\xff\xff\xff\xff\xffabc",
            b"\x00\x82abc",
            b"\x00\xc2\x01\x02\x03",
            b"\x00\xc4abc",
            b"\x00\xc3\x06\x16\x01xx\xe0\n\x00",
            b"\x00\xc3\x07\x15\x01xx\xe0\n\x00",
            b"\x00\xc3\xc0\x01\x15",
        ] {
            assert_eq!(decode_string(&sealed(body)), Err(Refused::Value), "{body:?}");
        }
    }

    #[test]
    fn a_newer_version_is_refused() {
        let mut payload = b"\x00\x03abc\x0b\x00".to_vec();
        payload.extend_from_slice(&crc64(&payload).to_le_bytes());
        assert_eq!(decode_string(&payload), Err(Refused::Footer));
    }
}
