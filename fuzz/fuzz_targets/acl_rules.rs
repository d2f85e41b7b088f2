//! Any bytes as a file of users, and as a pattern with what it is to match: a file is refused or read, what was read is described in rules that lead to
//! the same users, and no pattern takes longer than its bounds allow, which the time limit of an input watches over.
//!
//! The first byte says how long the pattern is and whether case matters, the next two how long the text is, repeated to make long ones; the rest is the file.
#![cfg_attr(feature = "libfuzzer", no_main)]

use thermae_fuzz::{Bytes, fuzz_target};
use thermae_server::glob;
use thermae_server::redis::acl_file;
use thermae_server::redis::acl_rules::describe;
use thermae_server::users::{READ, USER_BYTES_MAX};

/// Texts as long as keys that somebody makes up to keep the server busy.
const TEXT_BYTES_MAX: usize = 1 << 20;

fn run(data: &[u8]) {
    let mut input = Bytes(data);
    let (choice, repeated) = (input.byte(), input.byte());
    let ignore_case = choice & 0x80 != 0;
    let pattern = input.take(usize::from(choice & 0x7f));
    let length = usize::from(input.byte());
    let text = input.take(length);
    let is_matched = glob::matches(pattern, text, ignore_case);
    let literal: Vec<u8> = text.iter().flat_map(|byte| [b'\\', *byte]).collect();
    assert!(glob::matches(&literal, text, ignore_case));
    if !ignore_case && is_matched {
        assert!(glob::matches(pattern, text, true) || pattern.contains(&b'['));
    }
    let long = text.repeat((usize::from(repeated) << 8).min(TEXT_BYTES_MAX / text.len().max(1)));
    glob::matches(pattern, &long, ignore_case);

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
                assert!(selector.allows_key(text, READ));
            }
            selector.allows_channel(text, false);
        }
    }
    let again = acl_file::parse(&written, "users.acl");
    assert_eq!(again.as_ref(), Ok(&accounts), "{}", String::from_utf8_lossy(&written));
}

fuzz_target!(run);
