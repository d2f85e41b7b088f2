//! What redis-server 7.0.15 answered, command by command: the same is to be answered here.
//!
//! A file of `tests/transcripts` is one client's session with an empty server: each command after `> `, as redis-cli takes it, and below it the
//! reply's bytes, escaped. `! resp3` turns to the newer protocol, as HELLO does. `tests/transcripts/record.py` asks a redis-server anew.
//!
//! Each session is held twice: once as it stands, and once with each command in a transaction of its own, where it works on changes that are kept
//! back.

mod common;

use common::Client;
use std::fs;
use std::path::Path;

const OPENED: &str = "+OK\\r\\n+QUEUED\\r\\n*1\\r\\n";

fn transcripts() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(!paths.is_empty());
    let name = |path: &Path| path.file_stem().unwrap().to_string_lossy().into_owned();
    paths.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

/// Holds a session; `ask` sends one command. Returns what was answered otherwise.
fn hold(name: &str, transcript: &str, mut ask: impl FnMut(&mut Client, &str, &str) -> String) -> Vec<String> {
    let mut client = Client::new();
    let mut differences = Vec::new();
    let mut lines = transcript.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(command) = line.strip_prefix("> ") {
            let (_, expected) = lines.next().unwrap();
            let reply = ask(&mut client, command, expected);
            if reply != expected {
                differences
                    .push(format!("{name}:{}: {command}\n  redis {expected}\n  here  {reply}", number + 1));
            }
        } else if line == "! resp3" {
            client.session.is_resp3 = true;
        } else {
            assert!(line.is_empty() || line.starts_with('#'), "{name}:{}: {line}", number + 1);
        }
    }
    differences
}

#[test]
fn replies_are_those_of_redis() {
    let hold = |(name, text): &(String, String)| hold(name, text, |client, command, _| client.ask(command));
    let differences: Vec<String> = transcripts().iter().flat_map(hold).collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn replies_in_transactions_are_those_of_redis() {
    let ask = |client: &mut Client, command: &str, expected: &str| {
        let all = ["multi", command, "exec"].map(|line| client.ask(line)).concat();
        // What can't even be queued is answered at once, and nothing is executed.
        let is_refused = all.starts_with("+OK\\r\\n-") && all.ends_with("previous errors.\\r\\n");
        match all.strip_prefix(OPENED) {
            Some(reply) => reply.to_owned(),
            None if is_refused && all.contains(expected) => expected.to_owned(),
            None => all,
        }
    };
    let hold = |(name, text): &(String, String)| hold(name, text, ask);
    let differences: Vec<String> = transcripts().iter().flat_map(hold).collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
