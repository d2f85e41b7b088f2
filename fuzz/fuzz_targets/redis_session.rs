//! Any bytes as what a Redis client sends, cut anywhere: the server answers each command with exactly one well-formed reply, or ends the connection
//! with an error. Two clients: one that the server knows, one that has not said who it is.
#![cfg_attr(feature = "libfuzzer", no_main)]

use std::sync::LazyLock;
use thermae_core::{Location, Options, ShmPlacement, Store};
use thermae_fuzz::{Bytes, fuzz_target};
use thermae_server::config::{Config, DebugCommand};
use thermae_server::redis::pipeline::Pipeline;
use thermae_server::redis::request::Batch;
use thermae_server::redis::session::Session;
use thermae_server::shared::Shared;

const ARGUMENT_BYTES_MAX: u64 = 1 << 20;
const DEPTH_MAX: u32 = 16;

static SHARED: LazyLock<Shared> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    let location = Location::Directory(directory.path().join("store"));
    let shm = ShmPlacement::Directory;
    let options = Options { hot_bytes: Some(32 << 20), background: false, shm, ..Options::default() };
    let store = Store::open(&location, &options).unwrap_or_else(|error| panic!("{error}"));
    // Its files lose their names here; what is mapped stays until the process ends, however it does.
    drop(directory);
    // DEBUG PANIC does what it says.
    let enable_debug_command = DebugCommand::No;
    Shared::new(store, Config { password: "secret".to_owned(), enable_debug_command, ..Config::default() }).unwrap()
});

/// Where a reply ends; panics where it is none.
fn end_of_reply(output: &[u8], depth: u32) -> usize {
    assert!(depth < DEPTH_MAX, "replies are nested endlessly");
    let length = output.windows(2).position(|pair| pair == b"\r\n").unwrap_or_else(|| panic!("a reply has no end"));
    let line = &output[..length];
    assert!(!line[1..].contains(&b'\n') && !line[1..].contains(&b'\r'), "a line within a line");
    let number = || -> i64 {
        std::str::from_utf8(&line[1..]).ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no number"))
    };
    let mut at = length + 2;
    let children = match line[0] {
        b'+' | b'-' | b':' | b',' | b'#' | b'_' | b'(' => 0,
        b'$' | b'=' => {
            if number() >= 0 {
                at += number() as usize + 2;
                assert_eq!(&output[at - 2..at], b"\r\n");
            }
            0
        }
        b'*' | b'~' | b'>' => number().max(0),
        b'%' => 2 * number(),
        other => panic!("a reply begins with {other:#x}"),
    };
    for _ in 0..children {
        at += end_of_reply(&output[at..], depth + 1);
    }
    at
}

fn run(data: &[u8]) {
    let mut input = Bytes(data);
    let (choice, step) = (input.byte(), usize::from(input.byte()) + 1);
    let is_known = choice & 1 == 0;
    let session = Session::new(1, "127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned(), is_known, 0);
    let mut pipeline = Pipeline::new(session);
    let (mut batch, mut buffer, mut output) = (Batch::default(), Vec::new(), Vec::new());
    for piece in input.0.chunks(if choice & 2 == 0 { usize::MAX } else { step }) {
        buffer.extend_from_slice(piece);
        loop {
            output.clear();
            let (done, _) = thermae_core::deferring(|| {
                pipeline.process(&buffer, ARGUMENT_BYTES_MAX, &mut batch, &SHARED, &mut output)
            });
            assert!(done <= buffer.len());
            buffer.drain(..done);
            let mut at = 0;
            while at < output.len() {
                at += end_of_reply(&output[at..], 0);
            }
            if pipeline.session.closes {
                return;
            }
            if !pipeline.session.ends_turn && (output.is_empty() || done == 0) {
                break;
            }
        }
    }
}

fuzz_target!(run);
