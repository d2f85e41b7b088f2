//! Any bytes as a file of users, and as a pattern with what it is to match: a file is refused or read, what was read is described in rules that lead to
//! the same users, and no pattern takes longer than its bounds allow, which the time limit of an input watches over.
//!
//! The first byte says how long the pattern is and whether case matters, the next two how often pattern and text are repeated to make long ones, and how
//! long the text is; the rest is the file.
#![cfg_attr(feature = "libfuzzer", no_main)]

use thermae_fuzz::{Bytes, fuzz_target};
use thermae_server::glob::{Budget, PATTERN_BYTES_MAX};
use thermae_server::redis::acl_file;
use thermae_server::redis::acl_rules::describe;
use thermae_server::users::{READ, USER_BYTES_MAX};

/// Texts as long as keys that somebody makes up to keep the server busy.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// Patterns longer than any that a client can have compared: matching alone has to bear them as well.
const LONG_PATTERN_BYTES_MAX: usize = 16 * PATTERN_BYTES_MAX;
/// Names that a command compares with a pattern, such as those of all parameters.
const NAMES: usize = 100;

fn matches(pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
    Budget::default().matches(pattern, text, ignore_case)
}

/// What is repeated so often, but no longer than it may be.
fn repeated_up_to(text: &[u8], count: usize, bytes_max: usize) -> Vec<u8> {
    text.repeat(count.min(bytes_max / text.len().max(1)))
}

fn run(data: &[u8]) {
    let mut input = Bytes(data);
    let (choice, repeated) = (input.byte(), input.byte());
    let ignore_case = choice & 0x80 != 0;
    let pattern = input.take(usize::from(choice & 0x7f));
    let length = usize::from(input.byte());
    let text = input.take(length);
    let is_matched = matches(pattern, text, ignore_case);
    let literal: Vec<u8> = text.iter().flat_map(|byte| [b'\\', *byte]).collect();
    assert!(matches(&literal, text, ignore_case));
    if !ignore_case && is_matched {
        assert!(matches(pattern, text, true) || pattern.contains(&b'['));
    }
    let count = usize::from(repeated) << 8;
    let long = repeated_up_to(text, count, TEXT_BYTES_MAX);
    matches(pattern, &long, ignore_case);
    let long_pattern = repeated_up_to(pattern, count, LONG_PATTERN_BYTES_MAX);
    let mut budget = Budget::default();
    budget.matches(&long_pattern, &long, ignore_case);
    for _ in 0..NAMES {
        budget.matches(&long_pattern, text, ignore_case);
    }

    let Ok(accounts) = acl_file::parse(input.0, "users.acl") else { return };
    let mut written = Vec::new();
    for (name, user) in &accounts {
        assert!(*name == user.name && user.bytes() <= USER_BYTES_MAX);
        written.extend_from_slice(&describe(user));
        written.push(b'\n');
        // A user who may do everything passes every check of keys and channels.
        if user.may_do_everything() {
            assert!(user.all_selectors().any(|selector| selector.allows_all_keys(READ)));
        }
        for selector in user.all_selectors() {
            if selector.allows_all_keys(READ) && !text.is_empty() {
                assert!(selector.allows_key(text, READ, &mut Budget::default()));
            }
            selector.allows_channel(text, false, &mut Budget::default());
        }
    }
    let again = acl_file::parse(&written, "users.acl");
    assert_eq!(again.as_ref(), Ok(&accounts), "{}", String::from_utf8_lossy(&written));
}

fuzz_target!(run);
