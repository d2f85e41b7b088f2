//! A ring of entries that many write and many read, without a lock: tickets say where, and contents say whether.
//!
//! ```text
//! slot:   | check | header | key, up to 48 bytes |                    one cache line
//!         | key, 64 bytes more |  ...                                 the slots that follow, where the key is longer
//! header: | kind (8) | bytes of the key (16) | mark of the writer (32) | 0 |     least significant first
//! ```
//! A writer takes a ticket for each slot of its entry, in one step, and fills the slots that these tickets name, modulo the ring's length. Nobody waits for
//! anybody: a writer that is stopped in the middle may find, when it goes on, that the ring has come round and others have been there.
//!
//! So an entry is what its **check** says: the key's hash mixed with the header and the ticket. A reader copies what is there and computes it. Whatever
//! else it meets does not match: an entry that is not written yet, one of a round before or after, or a mixture of two, be it that a writer was
//! overtaken there, died there, or is at it. Orders between the words do not matter for that; the check is stored last, with release, so
//! that what matches is as a rule met at the first look.
//!
//! The key itself is in the ring, and not where its record is: a record that was deleted, has expired or was evicted may be gone when a reader comes, and
//! reading it may take a disk. So a reader needs no pins, and every key can be told.
//!
//! Rejected: a stamp for each slot in place of the check (an overtaken writer writes into another's stamped entry unless slots are locked, and then the
//! dead leave locks behind); one lock for the ring (writers of all partitions would wait for each other); a ring for each participant (no
//! order between the changes of one key).

use crate::layout::FEED_SLOT_BYTES;
use crate::sync::{AtomicU64, Ordering};

const SLOT_WORDS: usize = FEED_SLOT_BYTES / 8;
/// Words before the key.
const ENTRY_WORDS: usize = 2;
/// Bytes of the key in its entry's first slot.
const FIRST_KEY_BYTES: usize = (SLOT_WORDS - ENTRY_WORDS) * 8;

/// A slot of the ring.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Slot {
    words: [AtomicU64; SLOT_WORDS],
}

/// What an entry says beside its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What happened.
    pub kind: u8,
    /// Mark of the participant that did it.
    pub mark: u32,
}

impl Header {
    const fn pack(self, key_len: u16) -> u64 {
        self.kind as u64 | (key_len as u64) << 8 | (self.mark as u64) << 24
    }

    #[allow(clippy::cast_possible_truncation, reason = "each field takes its own bits")]
    const fn unpack(word: u64) -> (Self, u16) {
        (Self { kind: word as u8, mark: (word >> 24) as u32 }, (word >> 8) as u16)
    }
}

/// Slots that the entry of a key takes.
const fn slots_of(key_bytes: usize) -> u64 {
    1 + key_bytes.saturating_sub(FIRST_KEY_BYTES).div_ceil(FEED_SLOT_BYTES) as u64
}

/// The three are mixed by different multipliers: what differs in two of them does not cancel out.
const fn check(hash: u64, header: u64, ticket: u64) -> u64 {
    hash ^ header.wrapping_mul(0xff51_afd7_ed55_8ccd) ^ (ticket + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Word number `word` of the entry at a ticket.
fn word_of(slots: &[Slot], ticket: u64, word: usize) -> &AtomicU64 {
    let slot = ticket as usize + word / SLOT_WORDS;
    &slots[slot & (slots.len() - 1)].words[word % SLOT_WORDS]
}

/// Takes the ticket for an entry. What the caller did before is done for whoever finds `head` beyond it.
pub fn take(head: &AtomicU64, key_bytes: usize) -> u64 {
    // SeqCst, for a writer then looks whether a reader sleeps, and a reader that is about to sleep looks at this.
    head.fetch_add(slots_of(key_bytes), Ordering::SeqCst)
}

/// Writes the entry that the ticket was taken for. `hash` is what readers get from the same key.
pub fn fill(slots: &[Slot], ticket: u64, header: Header, key: &[u8], hash: u64) {
    let header = header.pack(key.len() as u16);
    word_of(slots, ticket, 1).store(header, Ordering::Relaxed);
    let (words, rest) = key.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        word_of(slots, ticket, ENTRY_WORDS + index).store(u64::from_le_bytes(*word), Ordering::Relaxed);
    }
    if !rest.is_empty() {
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        word_of(slots, ticket, ENTRY_WORDS + words.len()).store(u64::from_le_bytes(word), Ordering::Relaxed);
    }
    word_of(slots, ticket, 0).store(check(hash, header, ticket), Ordering::Release);
}

/// What a reader finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It has read everything.
    Nothing,
    /// An entry; its key is in the reader.
    Entry(Header),
    /// An entry that is not written yet, or never will be: its writer died, or was overtaken.
    Unwritten,
    /// Entries are gone that it had not read; it goes on behind all there are.
    Overrun,
}

/// A reader: how far it has come.
#[derive(Debug, Default)]
pub struct Reader {
    cursor: u64,
    key: Vec<u8>,
}

impl Reader {
    /// Whether there is anything that it has not read.
    pub fn is_behind(&self, head: &AtomicU64) -> bool {
        head.load(Ordering::SeqCst) != self.cursor
    }

    /// Goes on behind all entries that there are. What their writers did before is done for the caller. Returns how far that is.
    pub fn skip(&mut self, head: &AtomicU64) -> u64 {
        self.cursor = head.load(Ordering::SeqCst);
        self.cursor
    }

    /// How far it has come.
    pub fn position(&self) -> u64 {
        self.cursor
    }

    /// The key of the entry read last.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Reads the next entry. `hash` is the writers' hash of a key.
    pub fn next(&mut self, head: &AtomicU64, slots: &[Slot], hash: impl Fn(&[u8]) -> u64) -> Next {
        let behind = head.load(Ordering::SeqCst).wrapping_sub(self.cursor);
        if behind == 0 {
            return Next::Nothing;
        }
        if behind > slots.len() as u64 {
            self.skip(head);
            return Next::Overrun;
        }
        let Some((header, key_len)) = self.read(slots, hash) else {
            // While it was read, or its writer was at it, the ring may have come round.
            let is_gone = head.load(Ordering::SeqCst).wrapping_sub(self.cursor) > slots.len() as u64;
            if is_gone {
                self.skip(head);
            }
            return if is_gone { Next::Overrun } else { Next::Unwritten };
        };
        self.cursor += slots_of(key_len);
        Next::Entry(header)
    }

    /// The entry at the cursor, if there is one.
    fn read(&mut self, slots: &[Slot], hash: impl Fn(&[u8]) -> u64) -> Option<(Header, usize)> {
        let found = word_of(slots, self.cursor, 0).load(Ordering::Acquire);
        let word = word_of(slots, self.cursor, 1).load(Ordering::Relaxed);
        let (header, key_len) = Header::unpack(word);
        let key_len = usize::from(key_len);
        if slots_of(key_len) > slots.len() as u64 {
            return None;
        }
        self.key.clear();
        for index in 0..key_len.div_ceil(8) {
            let word = word_of(slots, self.cursor, ENTRY_WORDS + index).load(Ordering::Relaxed);
            self.key.extend_from_slice(&word.to_le_bytes());
        }
        self.key.truncate(key_len);
        (found == check(hash(&self.key), word, self.cursor)).then_some((header, key_len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{ROUNDS, explore, thread};
    use std::sync::Arc;

    fn hash(key: &[u8]) -> u64 {
        xxhash_rust::xxh3::xxh3_64(key)
    }

    fn slots(count: usize) -> Vec<Slot> {
        (0..count).map(|_| Slot::default()).collect()
    }

    fn put(head: &AtomicU64, slots: &[Slot], kind: u8, key: &[u8]) {
        let ticket = take(head, key.len());
        fill(slots, ticket, Header { kind, mark: u32::MAX - 7 }, key, hash(key));
    }

    #[test]
    fn keys_of_every_length_are_read_back_in_order() {
        explore(|| {
            let (head, slots, mut reader) = (AtomicU64::new(0), slots(16), Reader::default());
            assert_eq!(reader.next(&head, &slots, hash), Next::Nothing);
            // Whole words, none, at the ends of slots, round the end of the ring.
            for key_len in [0, 1, 7, 8, 47, 48, 49, 112, 113, 300, 1000 - 16] {
                let key: Vec<u8> = (0..key_len).map(|index| (index * 7 + key_len) as u8).collect();
                put(&head, &slots, 3, &key);
                assert!(reader.is_behind(&head));
                let header = Header { kind: 3, mark: u32::MAX - 7 };
                assert_eq!(reader.next(&head, &slots, hash), Next::Entry(header), "{key_len}");
                assert_eq!(reader.key(), key);
                assert!(!reader.is_behind(&head));
            }
        });
    }

    #[test]
    fn who_is_overtaken_is_told_and_goes_on_behind_it() {
        explore(|| {
            let (head, slots, mut reader) = (AtomicU64::new(0), slots(4), Reader::default());
            for number in 0..4 {
                put(&head, &slots, number, b"key");
            }
            assert!(matches!(reader.next(&head, &slots, hash), Next::Entry(Header { kind: 0, .. })));
            put(&head, &slots, 4, b"key");
            assert!(matches!(reader.next(&head, &slots, hash), Next::Entry(Header { kind: 1, .. })));
            put(&head, &slots, 5, b"key");
            put(&head, &slots, 6, b"key");
            assert_eq!(reader.next(&head, &slots, hash), Next::Overrun);
            assert_eq!((reader.next(&head, &slots, hash), reader.position()), (Next::Nothing, 7));
        });
    }

    #[test]
    fn an_entry_whose_writer_died_is_never_read() {
        explore(|| {
            let (head, slots, mut reader) = (AtomicU64::new(0), slots(4), Reader::default());
            for round in 0..3 {
                // It took its ticket and died: before it wrote anything, in the middle, or before the last word. The round before left a whole entry there.
                let ticket = take(&head, 3);
                let header = Header { kind: 2, mark: 1 }.pack(3);
                if round > 0 {
                    word_of(&slots, ticket, 1).store(header, Ordering::Relaxed);
                }
                if round > 1 {
                    word_of(&slots, ticket, 2)
                        .store(u64::from_le_bytes(*b"key\0\0\0\0\0"), Ordering::Relaxed);
                }
                for _ in 0..3 {
                    put(&head, &slots, 1, b"key");
                }
                assert_eq!(reader.next(&head, &slots, hash), Next::Unwritten);
                assert_eq!(reader.next(&head, &slots, hash), Next::Unwritten);
                assert_eq!(reader.skip(&head), 4 * (round + 1));
                put(&head, &slots, 1, b"late");
                assert!(matches!(reader.next(&head, &slots, hash), Next::Entry(_)));
                assert_eq!(reader.key(), b"late");
                for _ in 0..3 {
                    put(&head, &slots, 1, b"key");
                    assert!(matches!(reader.next(&head, &slots, hash), Next::Entry(_)));
                }
                head.store(4 * (round + 1), Ordering::Relaxed);
                reader.skip(&head);
            }
        });
    }

    #[test]
    fn a_writer_that_is_overtaken_spoils_entries_and_makes_none_up() {
        explore(|| {
            let (head, slots, mut reader) = (AtomicU64::new(0), slots(2), Reader::default());
            let late = take(&head, 3);
            for number in 1..3 {
                put(&head, &slots, number, b"key");
            }
            reader.skip(&head);
            reader.cursor = late + 2;
            // The one in its slot is of the next round, and the one that went on late does not pass for it.
            fill(&slots, late, Header { kind: 9, mark: 9 }, b"old", hash(b"old"));
            assert_eq!(reader.next(&head, &slots, hash), Next::Unwritten);
        });
    }

    /// The key of an entry tells who wrote it and which of his it is; some take several slots.
    fn key(writer: u8, number: u32) -> Vec<u8> {
        let mut key = vec![writer; if number.is_multiple_of(3) { 70 } else { 5 }];
        key[1..5].copy_from_slice(&number.to_le_bytes());
        key
    }

    /// Several write to a ring so small that they overtake each other and the reader; what it reads was written, in each writer's order, and nothing is
    /// missing of what came without an overrun between.
    #[test]
    fn what_is_read_was_written_and_what_is_missing_is_told() {
        explore(|| {
            let shared = Arc::new((AtomicU64::new(0), slots(8)));
            let threads: Vec<_> = (0..2_u8)
                .map(|writer| {
                    let shared = shared.clone();
                    thread::spawn(move || {
                        for number in 0..ROUNDS {
                            put(&shared.0, &shared.1, writer, &key(writer, number));
                        }
                    })
                })
                .collect();
            let mut reader = Reader::default();
            let mut expected = [Some(0), Some(0)];
            let mut read = |reader: &mut Reader| {
                let next = reader.next(&shared.0, &shared.1, hash);
                match next {
                    Next::Entry(header) => {
                        let number = u32::from_le_bytes(reader.key()[1..5].try_into().unwrap());
                        assert_eq!(reader.key(), key(header.kind, number));
                        let expected = &mut expected[usize::from(header.kind)];
                        assert!(expected.is_none_or(|expected| expected == number), "{expected:?} {number}");
                        *expected = Some(number + 1);
                    }
                    Next::Overrun => expected = [None; 2],
                    Next::Unwritten => thread::yield_now(),
                    Next::Nothing => {}
                }
                next
            };
            for _ in 0..ROUNDS {
                read(&mut reader);
            }
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            // A writer that was overtaken may have spoilt what is in the ring; else all of it is there.
            while !matches!(read(&mut reader), Next::Nothing | Next::Unwritten) {}
        });
    }
}
