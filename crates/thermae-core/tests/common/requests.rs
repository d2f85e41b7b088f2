//! What may be asked of a store, at random, for the model's test.

use crate::common::MIB;
use proptest::prelude::*;
use thermae_core::KEY_BYTES_MAX;

/// Keys in play; the last few are odd ones.
pub const KEYS: u8 = 20;
/// Keys that may have values of whole frames.
pub const LARGE_KEYS: u8 = 3;
pub const FRAME_BYTES: usize = MIB as usize;
pub const INTEGER: u8 = 2;

/// A request, with keys by number and times in steps.
#[derive(Debug, Clone)]
pub enum Request {
    Set { key: u8, value: Value, ttl: u8, keep_ttl: bool, condition: When },
    Get(u8),
    View(u8),
    Delete(u8),
    Pop(u8),
    Touch { key: u8, ttl: u8 },
    Add { key: u8, by: i64, initial: Option<i64>, ttl: u8 },
    Update { key: u8, to: Option<Value>, delete: bool },
    Transaction { ops: Vec<(u8, Option<Value>, u8)>, expected: Vec<(u8, bool)> },
    SetMany(Vec<(u8, Value)>),
    DeleteMany(Vec<u8>),
    GetMany(Vec<u8>),
    Scan(u8),
    Len,
    Clear,
    Pass(u8),
    Flush,
    Fill,
    Reopen,
    Reboot,
}

/// A value's length and what its bytes are made of.
#[derive(Debug, Clone, Copy)]
pub struct Value {
    pub len: usize,
    pub seed: u8,
    pub encoding: u8,
}

/// A condition; versions are right or wrong.
#[derive(Debug, Clone, Copy)]
pub enum When {
    Always,
    Absent,
    Present,
    Version(bool),
}

impl Value {
    /// What the client keeps beside it: nothing, little, all that fits.
    pub fn flags(self) -> u32 {
        match self.seed % 3 {
            0 => 0,
            1 => u32::from(self.seed),
            _ => u32::MAX - u32::from(self.seed),
        }
    }

    pub fn bytes(self, key: u8) -> Vec<u8> {
        let len = if key < LARGE_KEYS { self.len } else { self.len.min(FRAME_BYTES / 4) };
        if self.encoding == INTEGER {
            return i64::from(self.seed).to_string().into_bytes();
        }
        (0..len).map(|at| self.seed.wrapping_add(at as u8).wrapping_mul(31) ^ (at >> 8) as u8).collect()
    }
}

/// The bytes of a key: some empty, some as long as may be, some longer, many with a common beginning.
pub fn key_bytes(key: u8) -> Vec<u8> {
    match key {
        0 => Vec::new(),
        1 => vec![b'x'; KEY_BYTES_MAX],
        2 => b"user:".to_vec(),
        3 => vec![0xff; 300],
        4 => vec![b'x'; KEY_BYTES_MAX + 1],
        5..12 => format!("user:{key}").into_bytes(),
        _ => format!("other:{key}").into_bytes(),
    }
}

fn value() -> impl Strategy<Value = Value> {
    let inline_max = FRAME_BYTES / 4;
    let len = prop_oneof![
        8 => 0..20_usize,
        6 => 20..5000_usize,
        2 => inline_max - 2..inline_max + 3,
        1 => FRAME_BYTES - 1..FRAME_BYTES + 2,
        1 => Just(5 * FRAME_BYTES / 2),
    ];
    // 7 is the encoding whose bytes are aligned in memory.
    (len, any::<u8>(), prop_oneof![3 => Just(0), 1 => Just(INTEGER), 1 => Just(7)])
        .prop_map(|(len, seed, encoding)| Value { len, seed, encoding })
}

/// Expiries: mostly none, some long before now is over, some later.
fn ttl() -> impl Strategy<Value = u8> {
    prop_oneof![5 => Just(0_u8), 3 => 1..6_u8]
}

pub fn request() -> impl Strategy<Value = Request> {
    let key = || 0..KEYS;
    let when = prop_oneof![
        5 => Just(When::Always),
        1 => Just(When::Absent),
        1 => Just(When::Present),
        2 => any::<bool>().prop_map(When::Version)
    ];
    let op = (key(), proptest::option::weighted(0.75, value()), ttl());
    prop_oneof![
        20 => (key(), value(), ttl(), any::<bool>(), when)
            .prop_map(|(key, value, ttl, keep_ttl, condition)| Request::Set { key, value, ttl, keep_ttl, condition }),
        6 => key().prop_map(Request::Get),
        4 => key().prop_map(Request::View),
        5 => key().prop_map(Request::Delete),
        3 => key().prop_map(Request::Pop),
        4 => (key(), ttl()).prop_map(|(key, ttl)| Request::Touch { key, ttl }),
        6 => (key(), prop_oneof![-3..4_i64, Just(i64::MAX)], proptest::option::of(-5..5_i64), ttl())
            .prop_map(|(key, by, initial, ttl)| Request::Add { key, by, initial, ttl }),
        4 => (key(), proptest::option::of(value()), any::<bool>()).prop_map(|(key, to, delete)| Request::Update { key, to, delete }),
        6 => (prop::collection::vec(op, 0..6), prop::collection::vec((key(), proptest::bool::weighted(0.85)), 0..3))
            .prop_map(|(ops, expected)| Request::Transaction { ops, expected }),
        2 => prop::collection::vec((key(), value()), 0..40).prop_map(Request::SetMany),
        2 => prop::collection::vec(key(), 0..40).prop_map(Request::DeleteMany),
        2 => prop::collection::vec(key(), 0..40).prop_map(Request::GetMany),
        4 => key().prop_map(Request::Scan),
        4 => Just(Request::Len),
        1 => Just(Request::Clear),
        6 => (1..4_u8).prop_map(Request::Pass),
        1 => Just(Request::Flush),
        2 => Just(Request::Fill),
        2 => Just(Request::Reopen),
        1 => Just(Request::Reboot),
    ]
}
