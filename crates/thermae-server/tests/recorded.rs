//! Bytes and replies as a Redis 7.0.15 on x86-64 gave them. Each test replays, from the outside, commands that were sent to that server;
//! whether a sketch is the same to the last byte is told by its hash.

use thermae_server::bitfield::{self, Action, FieldType, Operation, Overflow};
use thermae_server::bits::{self, Combination, Span, Unit};
use thermae_server::extended::Extended;
use thermae_server::glob::Budget;
use thermae_server::{hyperloglog, numbers};

/// FNV-1a, 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn add_all(sketch: &mut Vec<u8>, elements: impl Iterator<Item = Vec<u8>>) {
    for element in elements {
        hyperloglog::add(sketch, &element).unwrap();
    }
}

/// Multiples of a number, as text.
fn multiples(of: usize, range: std::ops::Range<usize>) -> impl Iterator<Item = Vec<u8>> {
    range.map(move |number| (number * of).to_string().into_bytes())
}

/// `PFADD h`, then one element at a time; at some points GET, PFCOUNT, which caches the count, and GET again.
#[test]
fn a_sketch_that_grows() {
    let mut sketch = hyperloglog::create();
    let mut added = 0;
    for (last, len, hash, elements, hash_with_count) in [
        (0, 18, 0x524b_c36d_036c_0579, 0, 0xfd8f_436a_8f6e_62f9),
        (1, 21, 0x323d_a3c3_b4f2_8a1f, 1, 0x446d_e56f_d33c_5174),
        (10, 47, 0x5cc5_132c_8e91_0d54, 10, 0x5cde_536f_74ba_0a91),
        (100, 287, 0x8270_ee18_d147_f54d, 100, 0x3770_f1dc_7181_58cb),
        (1000, 1922, 0x624d_08a1_fbc4_7e31, 1001, 0x0a0d_d3e8_4971_cee9),
        (1500, 2766, 0xca0b_0117_ad6a_5b5e, 1512, 0xace7_91cd_419b_7f39),
        (2000, 12304, 0x2515_9afa_a6c7_3dc8, 2006, 0x0884_2a2e_8b28_d8d8),
    ] {
        add_all(&mut sketch, multiples(1, added + 1..last + 1));
        added = last;
        assert_eq!((sketch.len(), fnv(&sketch)), (len, hash), "up to {last}");
        assert_eq!(hyperloglog::count(&sketch).unwrap().elements, elements, "up to {last}");
        hyperloglog::store_count(&mut sketch, elements).unwrap();
        assert_eq!(fnv(&sketch), hash_with_count, "up to {last}");
    }
}

/// Elements of 0 to 40 bytes: every way in which the hash's last word can be filled.
#[test]
fn elements_of_all_lengths() {
    let mut sketch = hyperloglog::create();
    add_all(&mut sketch, (0..41).map(|len| vec![b'x'; len]));
    assert_eq!((sketch.len(), fnv(&sketch)), (133, 0xb134_f5ba_7abd_2476));
}

#[test]
fn merged_sketches() {
    let [mut a, mut b, mut dense] = [hyperloglog::create(), hyperloglog::create(), hyperloglog::create()];
    add_all(&mut a, multiples(1, 0..300));
    add_all(&mut b, multiples(7, 0..300));
    add_all(&mut dense, multiples(1, 1..2001));
    let union = |sketches: &[&[u8]]| {
        let mut union = hyperloglog::Union::default();
        sketches.iter().for_each(|sketch| union.take(sketch).unwrap());
        union
    };
    assert_eq!(union(&[&a, &b]).count(), 555);
    let mut merged = hyperloglog::create();
    union(&[&a, &b]).merge_into(&mut merged).unwrap();
    assert_eq!((merged.len(), fnv(&merged)), (1142, 0xd1c4_7315_06ec_f8a7));
    union(&[&dense]).merge_into(&mut merged).unwrap();
    assert_eq!((merged.len(), fnv(&merged)), (12304, 0x4f86_6214_aef9_2520));
    assert_eq!(hyperloglog::count(&merged).unwrap().elements, 2022);
}

#[test]
fn refused_sketches() {
    let truncated = b"HYLL\x01\0\0\0\0\0\0\0\0\0\0\x80\x7f";
    let error = hyperloglog::count(truncated).unwrap_err();
    assert_eq!(error.to_string(), "INVALIDOBJ Corrupted HLL object detected");
    let error = hyperloglog::add(&mut b"x".to_vec(), b"1").unwrap_err();
    assert_eq!(error.to_string(), "WRONGTYPE Key is not a valid HyperLogLog string value.");
}

#[test]
fn floats_added_up() {
    for (value, increment, sum) in [
        ("10.5", "0.1", "10.6"),
        ("5.0e3", "200", "5200"),
        ("3.0", "0", "3"),
        ("0.1", "0.2", "0.3"),
        ("1.1", "2.2", "3.3"),
        ("100.1", "0.7", "100.8"),
        ("1234.56", "0.01", "1234.57000000000000006"),
        ("1e17", "0.1", "100000000000000000.1015625"),
        ("1e-17", "0", "0.00000000000000001"),
        ("4.9e-18", "0", "0"),
        ("0x1p-18", "0", "0.00000381469726562"),
        ("3.0e-5", "-1", "-0.99997"),
        ("1e20", "0.5", "100000000000000000000"),
        ("1e30", "1", "1000000000000000000024696061952"),
        ("99999999999.99", "0.01", "100000000000"),
        ("-0.0", "0", "0"),
    ] {
        let [value, increment] = [value, increment].map(|text| Extended::parse(text.as_bytes()).unwrap());
        assert_eq!(value.checked_add(increment).unwrap().to_string(), sum);
    }
}

#[test]
fn doubles_answered() {
    for (text, reply) in [
        ("3.14", "3.1400000000000001"),
        ("0.1", "0.10000000000000001"),
        ("1e17", "1e+17"),
        ("123456789012345678", "1.2345678901234568e+17"),
        ("1e-5", "1.0000000000000001e-05"),
        ("0x1.8p3", "12"),
        ("-0", "-0"),
        ("1e300", "1.0000000000000001e+300"),
        ("4.9e-324", "4.9406564584124654e-324"),
        ("-inf", "-inf"),
    ] {
        assert_eq!(
            numbers::parse_double(text.as_bytes()).map(numbers::format_double).as_deref(),
            Some(reply)
        );
    }
}

/// The operations of a BITFIELD, as a client writes them.
fn operations(text: &str) -> Vec<Operation> {
    let mut words = text.split(' ');
    let mut overflow = Overflow::Wrap;
    let mut operations = Vec::new();
    while let Some(verb) = words.next() {
        let mut word = || words.next().unwrap();
        if verb == "OVERFLOW" {
            overflow = match word() {
                "SAT" => Overflow::Saturate,
                "FAIL" => Overflow::Fail,
                _ => Overflow::Wrap,
            };
            continue;
        }
        let field = FieldType::parse(word().as_bytes()).unwrap();
        let offset = bits::parse_offset(word().as_bytes(), Some(field.bits()), 512 << 20).unwrap();
        let action = match verb {
            "GET" => Action::Get,
            "SET" => Action::Set(word().parse().unwrap()),
            _ => Action::Increment(word().parse().unwrap()),
        };
        operations.push(Operation { field, offset, action, overflow });
    }
    operations
}

#[test]
fn fields_of_a_string() {
    let mut bytes = Vec::new();
    let zeros_after = |start: &[u8], len: usize| [start, &vec![0; len - start.len()]].concat();
    let long = b"\xef\xff\xff\xff\xff\xff\xff\xff\xc0\0\0\0\x06";
    for (text, replies, stored) in [
        ("SET i8 0 -1 GET u8 0 GET u4 4", vec![Some(0), Some(255), Some(15)], vec![0xff]),
        (
            "OVERFLOW SAT INCRBY u8 8 300 OVERFLOW WRAP INCRBY u8 8 3 OVERFLOW FAIL INCRBY u8 8 254",
            vec![Some(255), Some(2), None],
            vec![0xff, 2],
        ),
        (
            "SET i63 3 -4611686018427387905 GET i63 3 INCRBY i5 100 -20",
            vec![Some(-285_978_576_338_026_496), Some(4_611_686_018_427_387_903), Some(12)],
            zeros_after(long, 14),
        ),
        (
            "OVERFLOW SAT SET i63 3 -4611686018427387905 GET i63 3",
            vec![Some(4_611_686_018_427_387_903), Some(4_611_686_018_427_387_903)],
            zeros_after(long, 14),
        ),
        ("OVERFLOW FAIL SET u1 200 2", vec![None], zeros_after(long, 26)),
    ] {
        assert_eq!(bitfield::apply(&mut bytes, &operations(text)).replies, replies, "{text}");
        assert_eq!(bytes, stored, "{text}");
    }
}

#[test]
fn bits_of_a_string() {
    let string = b"\xff\xf0\x00";
    for (bit, span, reply) in [
        (false, Span::Whole, Some(12)),
        (true, Span::From(2), None),
        (false, Span::Between(0, 0, Unit::Byte), None),
        (false, Span::Between(1, 1, Unit::Byte), Some(12)),
        (false, Span::Between(0, 11, Unit::Bit), None),
        (true, Span::Between(-13, -1, Unit::Bit), Some(11)),
        (false, Span::From(5), None),
        (true, Span::Between(0, -1, Unit::Byte), Some(0)),
    ] {
        assert_eq!(bits::position(string, bit, span), reply, "{bit} {span:?}");
    }
    assert_eq!(bits::position(b"", false, Span::Whole), None);
    assert_eq!(bits::count(b"", Some((-1, -1, Unit::Byte))), 0);
    let mut combined = string.to_vec();
    bits::combine(Combination::And, &mut combined, b"");
    assert_eq!(combined, [0; 3]);
}

/// KEYS, on a server with these keys.
#[test]
fn patterns_of_keys() {
    const KEYS: [&[u8]; 13] =
        [b"", b"-", b"A", b"[a]", b"\\", b"]", b"^", b"a", b"a-b", b"a]", b"ab", b"abc", b"\xff"];
    for (pattern, matching) in [
        (&b"**"[..], &KEYS[1..]),
        (b"[a-]", &[b"]", b"^", b"a"]),
        (b"[]", &[]),
        (b"[^", &[b"-", b"A", b"\\", b"]", b"^", b"a", b"\xff"]),
        (b"[^]", &[b"-", b"A", b"\\", b"]", b"^", b"a", b"\xff"]),
        (b"[b-A]", &[b"A", b"\\", b"]", b"^", b"a"]),
        (b"a[\\]\\-]*", &[b"a-b", b"a]"]),
        (b"*]", &[b"[a]", b"]", b"a]"]),
        (b"\\", &[b"\\"]),
        (b"\\\\", &[b"\\"]),
        (b"[\x80-a]", &[b"-", b"A", b"\\", b"]", b"^", b"a", b"\xff"]),
        (b"?*", &KEYS[1..]),
        (b"*b*", &[b"a-b", b"ab", b"abc"]),
        (b"[[]*", &[b"[a]"]),
        (b"[a", &[b"a"]),
    ] {
        let mut budget = Budget::default();
        let found: Vec<&[u8]> = KEYS.into_iter().filter(|key| budget.matches(pattern, key, false)).collect();
        assert_eq!(found, matching, "{:?}", pattern.escape_ascii().to_string());
    }
}
