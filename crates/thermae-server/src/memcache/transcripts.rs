//! What memcached answers, in `transcripts/`, against what is answered here: whole, and in pieces of any size.

use crate::memcache::harness::{Client, shared};
use std::collections::HashMap;

const TRANSCRIPTS: [(&str, &str); 2] =
    [("text", include_str!("transcripts/text.txt")), ("meta", include_str!("transcripts/meta.txt"))];

/// What a client sends, and what is answered, both as they stand there.
struct Step {
    sent: String,
    answered: String,
}

struct Case {
    name: String,
    steps: Vec<Step>,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (file, text) in TRANSCRIPTS {
        for line in text.lines() {
            let (mark, rest) = line.split_at(line.len().min(2));
            let case = cases.last_mut();
            match (mark, case) {
                ("# ", _) => cases.push(Case { name: format!("{file}: {rest}"), steps: Vec::new() }),
                ("> ", Some(case)) => {
                    case.steps.push(Step { sent: rest.to_owned(), answered: String::new() });
                }
                // What Thermae answers instead stands behind what memcached answers.
                ("< " | "! " | "<" | "!", Some(case)) => {
                    case.steps.last_mut().unwrap().answered = rest.to_owned();
                }
                ("", _) => {}
                _ => panic!("{file}: a line that makes no sense: {line}"),
            }
        }
    }
    cases
}

/// CAS values that were answered, by the names that they have in a transcript.
#[derive(Default)]
struct Names(HashMap<usize, u64>);

/// A part of a line: bytes, or a CAS value and what is added to it.
enum Part {
    Bytes(Vec<u8>),
    Cas(usize, i64),
}

fn parts(text: &str) -> Vec<Part> {
    let mut parts = vec![Part::Bytes(Vec::new())];
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let mut push = |bytes: &[u8]| match parts.last_mut() {
            Some(Part::Bytes(last)) => last.extend_from_slice(bytes),
            _ => parts.push(Part::Bytes(bytes.to_vec())),
        };
        let (bytes, length) = match letter {
            '\\' => match &rest[1..2] {
                "r" => (vec![b'\r'], 2),
                "n" => (vec![b'\n'], 2),
                "t" => (vec![b'\t'], 2),
                "0" => (vec![0], 2),
                "\\" => (vec![b'\\'], 2),
                "x" => (vec![u8::from_str_radix(&rest[2..4], 16).unwrap()], 4),
                other => panic!("an escape that makes no sense: {other}"),
            },
            '{' => {
                let (inner, _) = rest[1..].split_once('}').unwrap();
                rest = &rest[inner.len() + 2..];
                if let Some((count, unit)) = inner.split_once('*') {
                    push(&unit.repeat(count.parse().unwrap()).into_bytes());
                } else if let Some(cas) = inner.strip_prefix('c') {
                    let at = cas.find(['+', '-']).unwrap_or(cas.len());
                    let change = if at == cas.len() { 0 } else { cas[at..].parse().unwrap() };
                    parts.push(Part::Cas(cas[..at].parse().unwrap(), change));
                }
                continue;
            }
            other => (other.to_string().into_bytes(), other.len_utf8()),
        };
        push(&bytes);
        rest = &rest[length..];
    }
    parts
}

impl Names {
    fn bytes(&self, text: &str) -> Vec<u8> {
        let part = |part| match part {
            Part::Bytes(bytes) => bytes,
            Part::Cas(name, change) => (self.0[&name].strict_add_signed(change)).to_string().into_bytes(),
        };
        parts(text).into_iter().flat_map(part).collect()
    }

    /// Whether an answer is as it stands there; names are given on the way.
    fn fits(&mut self, expected: &str, answer: &[u8]) -> bool {
        let mut rest = answer;
        for part in parts(expected) {
            let length = match part {
                Part::Bytes(bytes) if rest.starts_with(&bytes) => bytes.len(),
                Part::Bytes(_) => return false,
                Part::Cas(name, _) => {
                    let length = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
                    let number: u64 = std::str::from_utf8(&rest[..length]).unwrap().parse().unwrap_or(0);
                    if *self.0.entry(name).or_insert(number) != number {
                        return false;
                    }
                    length
                }
            };
            rest = &rest[length..];
        }
        rest.is_empty()
    }
}

fn shown(bytes: &[u8]) -> String {
    let text = bytes.escape_ascii().to_string();
    text[..text.len().min(400)].to_owned()
}

/// All cases, each in pieces of this size; what did not fit.
fn differences(piece_bytes: usize) -> Vec<String> {
    let shared = shared(64 << 20);
    let mut differences = Vec::new();
    for case in cases() {
        shared.store.clear().unwrap();
        shared.marks.forget_all_through(u64::MAX);
        let mut client = Client::new(true);
        let mut names = Names::default();
        for step in &case.steps {
            let sent = names.bytes(&step.sent);
            let answer = client.send_in_pieces(&sent, piece_bytes.max(sent.len() / 1000), &shared);
            let expected = step.answered.replace("{closed}", "\\x7bclosed\\x7d");
            if !names.fits(&expected, &answer) {
                differences.push(format!(
                    "{}\n  > {}\n  < {}\n  is {}",
                    case.name,
                    &step.sent[..step.sent.len().min(200)],
                    &step.answered[..step.answered.len().min(400)],
                    shown(&answer)
                ));
            }
        }
    }
    differences
}

#[test]
fn answers_are_those_of_memcached() {
    let differences = differences(usize::MAX);
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn answers_do_not_depend_on_how_the_bytes_come() {
    for piece_bytes in [1, 2, 3, 7, 64, 1000] {
        let differences = differences(piece_bytes);
        assert!(differences.is_empty(), "pieces of {piece_bytes}:\n{}", differences.join("\n"));
    }
}
