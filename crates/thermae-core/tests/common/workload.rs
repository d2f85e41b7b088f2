//! A writer that does everything at once, and notes what it was promised, so that what a death left can be judged exactly.
//!
//! Keys: `k:` anybody's; `l:` anybody's, large; `g:` groups that only transactions touch, all members at once; `e:` that expire soon;
//! `c:` counters; `o:` the writer's own, of which each change is noted before it is asked for and again when it is acknowledged.

use crate::common::{Notes, Random, STAMP_BYTES, Stamp, check_flags, flagged, flags_of};
use std::collections::{HashMap, VecDeque};
use std::path::Path;
use thermae_core::{BatchOp, Error, Result, SetOptions, SetOutcome, Store, View};

pub const SHARED_KEYS: u64 = 1500;
pub const LARGE_KEYS: u64 = 3;
pub const GROUPS: u64 = 16;
pub const MEMBERS: usize = 4;
pub const COUNTERS: u64 = 8;
pub const OWN_KEYS: u64 = 64;
/// How long values under `e:` live at most.
pub const EXPIRY_MS_MAX: u64 = 30;
/// Views held at a time.
const VIEWS_MAX: usize = 6;

/// Bytes of a note: what, key, nothing, number.
pub const NOTE_BYTES: usize = 16;
const INTENDS_SET: u8 = 1;
const INTENDS_DELETE: u8 = 2;
const ACKNOWLEDGED: u8 = 3;
const INTENDS_ADD: u8 = 4;
const ADDED: u8 = 5;

pub fn shared_key(index: u64) -> Vec<u8> {
    format!("k:{index}").into_bytes()
}

pub fn group_key(group: u64, member: usize) -> Vec<u8> {
    format!("g:{group}:{member}").into_bytes()
}

pub fn counter_key(index: u64) -> Vec<u8> {
    format!("c:{index}").into_bytes()
}

fn own_key(writer: u32, index: u64) -> Vec<u8> {
    format!("o:{writer}:{index}").into_bytes()
}

/// One writer on one store.
pub struct Writer<'a> {
    store: &'a Store,
    id: u32,
    number: u64,
    random: Random,
    notes: Option<Notes>,
    views: VecDeque<(Vec<u8>, View, Stamp)>,
    versions: HashMap<Vec<u8>, u64>,
    /// Requests refused because the store was full.
    pub refused: u64,
}

impl<'a> Writer<'a> {
    pub fn new(store: &'a Store, id: u32, notes: Option<Notes>) -> Self {
        let random = Random::new(u64::from(id) + 1);
        Self {
            store,
            id,
            number: 0,
            random,
            notes,
            views: VecDeque::new(),
            versions: HashMap::new(),
            refused: 0,
        }
    }

    /// Does something.
    pub fn step(&mut self) {
        self.number += 1;
        let result = match self.random.below(100) {
            0..30 => self.set_shared(),
            30..42 => self.get_shared(),
            42..46 => self.delete_shared(),
            46..58 => self.transact(),
            58..64 => self.read_group(),
            64..72 => self.add(),
            72..77 => self.set_expiring(),
            77..92 => self.change_own(),
            92..96 => self.hold_view(),
            96..97 => self.set_large(),
            97..98 => self.store.touch(&shared_key(self.random.below(SHARED_KEYS)), 0).map(drop),
            _ => self.pop_shared(),
        };
        match result {
            Ok(()) => {}
            Err(Error::Full(_)) => self.refused += 1,
            Err(error) => panic!("writer {}: {}: {error}", self.id, error.name()),
        }
    }

    fn stamp(&self) -> Stamp {
        Stamp { writer: self.id, number: self.number }
    }

    /// Mostly small, some of tens of kilobytes.
    fn len(&mut self) -> usize {
        let most = if self.random.percent(10) { 40_000 } else { 3000 };
        STAMP_BYTES + self.random.below(most) as usize
    }

    fn set(&mut self, key: &[u8], len: usize, expires_at_ms: u64) -> Result<u64> {
        let value = self.stamp().value(key, len);
        match self.store.set(key, &value, &SetOptions { expires_at_ms, ..flagged(&value) })? {
            SetOutcome::Stored(version) => Ok(version),
            SetOutcome::NotStored => panic!("an unconditional set did not store"),
        }
    }

    fn set_shared(&mut self) -> Result<()> {
        let (key, len) = (shared_key(self.random.below(SHARED_KEYS)), self.len());
        let version = self.set(&key, len, 0)?;
        self.note_version(&key, version);
        Ok(())
    }

    /// Versions that one observer sees of a key never go back.
    fn note_version(&mut self, key: &[u8], version: u64) {
        let before = self.versions.insert(key.to_vec(), version).unwrap_or(0);
        assert!(
            version >= before,
            "{} went from version {before} back to {version}",
            String::from_utf8_lossy(key)
        );
    }

    fn get_shared(&mut self) -> Result<()> {
        let key = shared_key(self.random.below(SHARED_KEYS));
        if let Some((meta, value)) = self.store.get(&key)? {
            Stamp::of(&key, &value);
            check_flags(&key, &meta, &value);
            self.note_version(&key, meta.version);
        }
        Ok(())
    }

    fn delete_shared(&mut self) -> Result<()> {
        let key = shared_key(self.random.below(SHARED_KEYS));
        self.store.delete(&key).map(drop)
    }

    fn pop_shared(&mut self) -> Result<()> {
        let key = shared_key(self.random.below(SHARED_KEYS));
        if let Some((meta, value)) = self.store.pop(&key)? {
            Stamp::of(&key, &value);
            check_flags(&key, &meta, &value);
            self.note_version(&key, meta.version);
        }
        Ok(())
    }

    fn set_large(&mut self) -> Result<()> {
        let key = format!("l:{}", self.random.below(LARGE_KEYS)).into_bytes();
        let len = 300_000 + self.random.below(1_200_000) as usize;
        self.set(&key, len, 0).map(drop)
    }

    fn set_expiring(&mut self) -> Result<()> {
        let key = format!("e:{}", self.random.below(200)).into_bytes();
        let (len, left_ms) = (self.len(), 1 + self.random.below(EXPIRY_MS_MAX));
        self.set(&key, len, self.store.now_ms() + left_ms).map(drop)
    }

    /// All members of a group at once: set, now and then one of them large, or deleted.
    fn transact(&mut self) -> Result<()> {
        let group = self.random.below(GROUPS);
        let keys: Vec<Vec<u8>> = (0..MEMBERS).map(|member| group_key(group, member)).collect();
        if self.random.percent(15) {
            let ops: Vec<BatchOp<'_>> = keys.iter().map(|key| BatchOp::Delete { key }).collect();
            return self.store.transaction(&ops, &[]);
        }
        let values: Vec<Vec<u8>> = keys
            .iter()
            .map(|key| {
                let len = if self.random.percent(1) { 300_001 } else { self.len() };
                self.stamp().value(key, len)
            })
            .collect();
        let ops: Vec<BatchOp<'_>> = keys
            .iter()
            .zip(&values)
            .map(|(key, value)| BatchOp::Set {
                key,
                value,
                encoding: 0,
                expires_at_ms: 0,
                flags: flags_of(value),
            })
            .collect();
        self.store.transaction(&ops, &[])
    }

    /// A transaction numbers its records in order: whoever reads one member and then the next never finds that one older.
    fn read_group(&mut self) -> Result<()> {
        let group = self.random.below(GROUPS);
        let mut version_min = 0;
        for member in 0..MEMBERS {
            let key = group_key(group, member);
            if let Some((meta, value)) = self.store.get(&key)? {
                Stamp::of(&key, &value);
                check_flags(&key, &meta, &value);
                assert!(
                    meta.version >= version_min,
                    "member {member} of group {group} is older than the one read before"
                );
                version_min = meta.version + 1;
            }
        }
        Ok(())
    }

    fn add(&mut self) -> Result<()> {
        let index = self.random.below(COUNTERS);
        self.note(INTENDS_ADD, index, 0);
        self.store.incr(&counter_key(index), 1, Some(0), 0)?;
        self.note(ADDED, index, 0);
        Ok(())
    }

    fn change_own(&mut self) -> Result<()> {
        let index = self.random.below(OWN_KEYS);
        let key = own_key(self.id, index);
        if self.random.percent(20) {
            self.note(INTENDS_DELETE, index, self.number);
            self.store.delete(&key)?;
        } else {
            let len = self.len();
            self.note(INTENDS_SET, index, self.number);
            self.set(&key, len, 0)?;
        }
        self.note(ACKNOWLEDGED, index, self.number);
        Ok(())
    }

    fn note(&mut self, what: u8, index: u64, number: u64) {
        if let Some(notes) = &mut self.notes {
            let mut note = [0_u8; NOTE_BYTES];
            note[0] = what;
            note[1] = index as u8;
            note[8..].copy_from_slice(&number.to_le_bytes());
            notes.note(&note);
        }
    }

    /// Views keep their bytes, whatever happens to their keys.
    pub fn hold_view(&mut self) -> Result<()> {
        if self.views.len() == VIEWS_MAX {
            self.release_view();
        }
        let key = match self.random.below(3) {
            0 => format!("l:{}", self.random.below(LARGE_KEYS)).into_bytes(),
            1 => group_key(self.random.below(GROUPS), self.random.below(MEMBERS as u64) as usize),
            _ => shared_key(self.random.below(SHARED_KEYS)),
        };
        if let Some(view) = self.store.view(&key)? {
            let stamp = Stamp::of(&key, &view);
            check_flags(&key, view.meta(), &view);
            self.views.push_back((key, view, stamp));
        }
        Ok(())
    }

    pub fn release_view(&mut self) {
        if let Some((key, view, stamp)) = self.views.pop_front() {
            assert_eq!(Stamp::of(&key, &view), stamp, "the bytes of a held view changed");
        }
    }
}

/// What a writer's notes say that it was promised of counters: acknowledged additions, and those asked for and not answered.
pub fn noted_additions(notes: &Path) -> [(u64, u64); COUNTERS as usize] {
    let mut counts = [(0, 0); COUNTERS as usize];
    for note in Notes::read::<NOTE_BYTES>(notes) {
        let (acknowledged, unanswered) = &mut counts[note[1] as usize % COUNTERS as usize];
        match note[0] {
            INTENDS_ADD => *unanswered += 1,
            ADDED => {
                *unanswered -= 1;
                *acknowledged += 1;
            }
            _ => {}
        }
    }
    counts
}

/// Compares a dead writer's own keys with its notes, then removes them. Each key is as last acknowledged, or as the one request left
/// that was not answered. `may_evict`: a key may have been dropped to make room.
pub fn check_own_keys(store: &Store, writer: u32, notes: &Path, may_evict: bool) {
    let mut promised: HashMap<u64, Option<u64>> = HashMap::new();
    let mut asked: HashMap<u64, Option<u64>> = HashMap::new();
    for note in Notes::read::<NOTE_BYTES>(notes) {
        let (index, number) = (u64::from(note[1]), u64::from_le_bytes(note[8..].try_into().unwrap()));
        match note[0] {
            INTENDS_SET => drop(asked.insert(index, Some(number))),
            INTENDS_DELETE => drop(asked.insert(index, None)),
            ACKNOWLEDGED => drop(promised.insert(index, asked.remove(&index).unwrap())),
            _ => {}
        }
    }
    for index in 0..OWN_KEYS {
        let key = own_key(writer, index);
        let found = store.get(&key).unwrap().map(|(_, value)| Stamp::of(&key, &value).number);
        let kept = promised.get(&index).copied().flatten();
        let is_right = found == kept || asked.get(&index) == Some(&found) || (may_evict && found.is_none());
        assert!(
            is_right,
            "own key {index} of writer {writer} is {found:?}; acknowledged: {kept:?}, asked for: {:?}",
            asked.get(&index)
        );
        store.delete(&key).unwrap();
    }
}
