//! What commands take of the server's own memory: a short command must not make it grow by what its keys hold together, nor by what the store refuses.
//!
//! One test, as the process is measured as a whole.

mod common;

use common::Client;
use thermae_core::SetOptions;

/// More than each of these commands needs, and far less than each has taken.
const GROWTH_BYTES_MAX: u64 = 40 << 20;

/// A number of bytes that the system knows of this process.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// The reply, and by how much the process was larger at most while it was made.
fn measured(client: &mut Client, line: &str) -> (String, u64) {
    // The peak begins anew.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS:");
    let reply = client.send_words(line.split(' ')).escape_ascii().to_string();
    (reply, memory("VmHWM:").saturating_sub(before))
}

/// BITOP and PFCOUNT held all their sources at once; SETBIT and its kin made what the store then refused.
#[test]
fn short_commands_take_little_memory() {
    let mut client = Client::new();
    client.store().set(b"big", &vec![0xa5; 4 << 20], &SetOptions::default()).unwrap();
    let elements: Vec<String> = (0..5_000).map(|number| number.to_string()).collect();
    client.send_words(["PFADD", "sketch"].into_iter().chain(elements.iter().map(String::as_str)));
    assert_eq!(client.ask("STRLEN sketch"), ":12304\\r\\n");
    let count = client.ask("PFCOUNT sketch");
    let refused = "-ERR the value is ";
    for (line, reply) in [
        (format!("BITOP OR d{}", " big".repeat(60)), ":4194304\\r\\n"),
        (format!("PFCOUNT{}", " sketch".repeat(4_000)), &*count),
        (format!("PFMERGE merged{}", " sketch".repeat(4_000)), "+OK\\r\\n"),
        ("SETBIT k 4294967295 1".to_owned(), refused),
        ("SETRANGE k 536870000 x".to_owned(), refused),
        ("BITFIELD k SET u8 4294967288 1".to_owned(), refused),
        ("APPEND big x".to_owned(), ":4194305\\r\\n"),
    ] {
        let (answer, growth_bytes) = measured(&mut client, &line);
        assert!(answer.starts_with(reply), "{line:.30}: {answer}");
        assert!(growth_bytes < GROWTH_BYTES_MAX, "{line:.30} took {growth_bytes} bytes");
    }
    assert_eq!(client.ask("EXISTS k"), ":0\\r\\n");
    assert_eq!(client.ask("PFCOUNT merged"), count);
}
