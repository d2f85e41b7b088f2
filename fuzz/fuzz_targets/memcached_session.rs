//! Any bytes as what a memcached client sends, cut anywhere: the server answers with well-formed lines and values, or ends the connection. Two clients:
//! one that the server knows, one that has not said who it is, and never learns anything but that.
#![cfg_attr(feature = "libfuzzer", no_main)]

use std::sync::{Arc, LazyLock};
use thermae_core::{Location, Options, Store};
use thermae_fuzz::{Bytes, fuzz_target};
use thermae_server::clients::{Client, Place};
use thermae_server::config::Config;
use thermae_server::memcache::session::Session;
use thermae_server::shared::Shared;

/// What lines begin with, but for numbers.
const BEGINNINGS: [&str; 23] = [
    "STORED",
    "NOT_STORED",
    "EXISTS",
    "NOT_FOUND",
    "DELETED",
    "TOUCHED",
    "OK",
    "END",
    "ERROR",
    "CLIENT_ERROR ",
    "SERVER_ERROR ",
    "VERSION ",
    "STAT ",
    "RESET",
    "HD",
    "EN",
    "NS",
    "EX",
    "NF",
    "MN",
    "ME ",
    "VALUE ",
    "VA ",
];

static SHARED: LazyLock<Shared> = LazyLock::new(|| {
    let name = format!("thermae-fuzz-memcached-{}", std::process::id());
    let options = Options { hot_bytes: Some(32 << 20), background: false, ..Options::default() };
    let store =
        Store::open(&Location::SharedMemory(name), &options).unwrap_or_else(|error| panic!("{error}"));
    // The files go when the process ends, as nobody else knows of them.
    drop(std::fs::remove_dir_all(&store.engine().paths.volatile));
    Shared::new(store, Config { password: "secret".to_owned(), ..Config::default() }).unwrap()
});

/// Where an answer ends; panics where it is none.
fn end_of_answer(output: &[u8]) -> usize {
    let length =
        output.windows(2).position(|pair| pair == b"\r\n").unwrap_or_else(|| panic!("an answer has no end"));
    let line = &output[..length];
    let is_number = !line.is_empty() && line.iter().all(u8::is_ascii_digit);
    let is_known = BEGINNINGS.iter().any(|beginning| line.starts_with(beginning.as_bytes()));
    assert!(is_number || is_known, "a line that is no answer: {}", line.escape_ascii());
    let words: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let value_len = match words[..] {
        [b"VALUE", _, _, length] | [b"VALUE", _, _, length, _] | [b"VA", length, ..] => length,
        _ => return length + 2,
    };
    let value_len: usize = std::str::from_utf8(value_len).ok().and_then(|text| text.parse().ok()).unwrap();
    let end = length + 2 + value_len + 2;
    assert_eq!(&output[end - 2..end], b"\r\n", "a value does not end where it should");
    end
}

fn run(data: &[u8]) {
    let mut input = Bytes(data);
    let (choice, step) = (input.byte(), usize::from(input.byte()) + 1);
    let is_known = choice & 1 == 0;
    let says_password = input.0.windows(7).any(|text| text == b" secret");
    let mut session = Session::new(is_known, 0);
    let client = Arc::new(Client::new(1, String::new(), String::new(), Place::default(), 0));
    let (mut buffer, mut output, mut is_first) = (Vec::new(), Vec::new(), true);
    for piece in input.0.chunks(if choice & 2 == 0 { usize::MAX } else { step }) {
        buffer.extend_from_slice(piece);
        loop {
            output.clear();
            let (done, _) = thermae_core::deferring(|| session.process(&buffer, &client, &SHARED, &mut output));
            assert!(done <= buffer.len());
            buffer.drain(..done);
            if is_first && output.first() == Some(&0x81) {
                assert!(session.closes);
                return;
            }
            is_first &= output.is_empty();
            let mut at = 0;
            while at < output.len() {
                let end = at + end_of_answer(&output[at..]);
                let is_refused = output[at..].starts_with(b"CLIENT_ERROR ");
                assert!(is_known || says_password || is_refused, "a stranger was answered");
                at = end;
            }
            if session.closes {
                return;
            }
            if !session.ends_turn && (output.is_empty() || done == 0) {
                break;
            }
        }
    }
    session.leave(&client, &SHARED);
}

fuzz_target!(run);
