//! The file `store`: what a store is, and how it was configured.
//!
//! Two copies of one block, written alternately: an update goes to the older copy and is synced, so that power
//! failing in between leaves the other one whole. The newest intact copy counts. Generation g is in copy g mod 2.
//!
//! The file comes into being by a rename, complete: where it exists there is a store, and where it does not, whatever
//! else lies in the directory is left over from a creation that never finished.
//!
//! Processes exclude each other by the attach lock when they create or update; readers need no lock, for they take
//! a whole copy or none. Rejected: a single copy rewritten through a temporary file, which would change the inode
//! that the name of the store's shared memory is derived from.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::block::{BLOCK_BYTES, BLOCK_FIELDS_OFFSET, Block, BlockState, LAYOUT_VERSION};
use crate::env::{Env, EnvFile, OpenHow, check_owner};
use crate::error::{Error, Result};
use crate::layout::{PARTITIONS_MAX, Shape};
use crate::options::{Durability, IndexPlacement, Resolved, WhenFull};
use crate::record::SEQUENCE_MAX;

const MAGIC: &[u8; 8] = b"THERMAES";
const COPIES: u64 = 2;

/// An address is 40 bits of 8-byte units.
const ADDRESSABLE_BYTES: u64 = 8 << 40;

/// The index is in the warm tier.
const FLAG_INDEX_WARM: u32 = 1;
/// Flags that this build understands; a store with any other is refused.
pub const FLAGS_KNOWN: u32 = FLAG_INDEX_WARM;

const HASH_SEED_OFFSET: usize = BLOCK_FIELDS_OFFSET;
const CREATED_OFFSET: usize = 48;
const HOT_BYTES_OFFSET: usize = 56;
const COLD_BYTES_OFFSET: usize = 64;
const FRAME_BYTES_OFFSET: usize = 72;
const PARTITIONS_OFFSET: usize = 76;
const PARTICIPANTS_MAX_OFFSET: usize = 80;
const SLOT_COUNT_OFFSET: usize = 84;
const DURABILITY_OFFSET: usize = 88;
const WHEN_FULL_OFFSET: usize = 89;
const FLAGS_OFFSET: usize = 92;
const SEQUENCE_LIMIT_OFFSET: usize = 96;
const TOMBSTONE_FLOOR_OFFSET: usize = 104;
const WARM_BYTES_OFFSET: usize = 112;
const WARM_DIRECTORY_LEN_OFFSET: usize = 120;
const WARM_DIRECTORY_OFFSET: usize = 128;
const MEMORY_ID_OFFSET: usize = WARM_DIRECTORY_OFFSET + WARM_DIRECTORY_BYTES_MAX;

/// Longest path of a directory for the warm tier.
pub const WARM_DIRECTORY_BYTES_MAX: usize = 1024;

/// What the file `store` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// How often it was written; [`Superblock::create`] and [`Superblock::update`] set it.
    pub generation: u64,
    /// Random; every file of the store carries it.
    pub uuid: [u8; 16],
    /// Seed of the keys' hash.
    pub hash_seed: u64,
    /// When the store was created: wall clock, milliseconds since 1970.
    pub created_wall_ms: u64,
    /// Sizes, which are fixed, and what may be changed on a running store.
    pub options: Resolved,
    /// Partitions of the index; a power of two.
    pub partitions: u32,
    /// Slots of the segment table.
    pub slot_count: u32,
    /// See [`FLAGS_KNOWN`].
    pub flags: u32,
    /// Records above this sequence number are ignored by recovery; 0 is no limit. Set in snapshots.
    pub sequence_limit: u64,
    /// Tombstones at or below this sequence number may be gone from the log.
    pub tombstone_floor: u64,
    /// Where the warm tier's file is, absolute; `None` = beside this file.
    pub warm_directory: Option<PathBuf>,
    /// Random; of the shared half that the store was last recovered into. Any other that is found (in another container's `/dev/shm`, or in the
    /// place where it was before) knows nothing of what happened since.
    pub memory_id: [u8; 16],
}

impl Superblock {
    /// Writes a new file and makes it durable, its name included. The caller holds the attach lock and knows that
    /// there is none yet; a file of that name would be replaced.
    pub fn create(&self, env: &dyn Env, path: &Path) -> Result<()> {
        self.validate().map_err(|problem| {
            Error::InvalidOption(format!("cannot create {}: {problem}", path.display()))
        })?;
        let temporary = temporary_path(path);
        let written = self.write_new(env, &temporary).and_then(|()| {
            env.rename(&temporary, path).map_err(|error| Error::io("rename a new file to", path, error))
        });
        if let Err(error) = written {
            // The first failure is the one to report; what is left over is replaced by the next attempt.
            let _ = env.remove_file(&temporary);
            return Err(error);
        }
        let directory = parent(path);
        env.sync_dir(directory).map_err(|error| Error::io("sync the directory", directory, error))
    }

    fn write_new(&self, env: &dyn Env, temporary: &Path) -> Result<()> {
        let file =
            env.open(temporary, OpenHow::REPLACE).map_err(|error| Error::io("create", temporary, error))?;
        // Both copies at once: from the first moment on one of them may be damaged.
        for generation in 1..=COPIES {
            let block = Superblock { generation, ..self.clone() }.encode();
            file.write_all_at(&block.0[..], copy_offset(generation))
                .map_err(|error| Error::io("write", temporary, error))?;
        }
        file.sync_all().map_err(|error| Error::io("sync", temporary, error))
    }

    /// Reads the newest intact copy.
    ///
    /// Errors: `NotAStore` where there is no such file or another one, `Permission` where it is another user's,
    /// `WrongLayout` where another version wrote it, `Corrupt` where no copy is intact.
    pub fn read(env: &dyn Env, path: &Path) -> Result<Superblock> {
        let file = open_owned(env, path, OpenHow::READ)?;
        read_newest(file.as_ref(), path)
    }

    /// How many of the two copies are intact and in their places.
    pub fn intact_copies(env: &dyn Env, path: &Path) -> Result<u64> {
        let file = open_owned(env, path, OpenHow::READ)?;
        let mut intact = 0;
        for copy in 0..COPIES {
            let mut block = Block::zeroed();
            match file.read_exact_at(&mut block.0[..], copy * BLOCK_BYTES as u64) {
                Ok(()) => {
                    intact += u64::from(
                        block.state(MAGIC) == BlockState::Valid && block.generation() % COPIES == copy,
                    );
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(error) => return Err(Error::io("read", path, error)),
            }
        }
        Ok(intact)
    }

    /// Changes what the file says and makes it durable; returns what it says then. The caller holds the attach lock.
    pub fn update(env: &dyn Env, path: &Path, change: impl FnOnce(&mut Superblock)) -> Result<Superblock> {
        let file = open_owned(env, path, OpenHow::READ_WRITE)?;
        let current = read_newest(file.as_ref(), path)?;
        let mut next = current.clone();
        change(&mut next);
        next.generation = current.generation.checked_add(1).ok_or_else(|| {
            Error::Corrupt(format!(
                "{} counts as many updates as there can be: restore a snapshot",
                path.display()
            ))
        })?;
        next.validate().map_err(|problem| {
            Error::InvalidOption(format!("cannot update {}: {problem}", path.display()))
        })?;
        file.write_all_at(&next.encode().0[..], copy_offset(next.generation))
            .map_err(|error| Error::io("write", path, error))?;
        file.sync_data().map_err(|error| Error::io("sync", path, error))?;
        Ok(next)
    }

    fn encode(&self) -> Block {
        let mut block = Block::new(MAGIC, self.generation, &self.uuid);
        block.put_u64(HASH_SEED_OFFSET, self.hash_seed);
        block.put_u64(CREATED_OFFSET, self.created_wall_ms);
        block.put_u64(HOT_BYTES_OFFSET, self.options.hot_bytes);
        block.put_u64(COLD_BYTES_OFFSET, self.options.cold_bytes);
        block.put_u32(FRAME_BYTES_OFFSET, self.options.frame_bytes);
        block.put_u32(PARTITIONS_OFFSET, self.partitions);
        block.put_u32(PARTICIPANTS_MAX_OFFSET, self.options.participants_max);
        block.put_u32(SLOT_COUNT_OFFSET, self.slot_count);
        block.put_u8(DURABILITY_OFFSET, self.options.durability.code());
        block.put_u8(WHEN_FULL_OFFSET, self.options.when_full.code());
        let index = if self.options.index == IndexPlacement::Warm { FLAG_INDEX_WARM } else { 0 };
        block.put_u32(FLAGS_OFFSET, self.flags & !FLAG_INDEX_WARM | index);
        block.put_u64(SEQUENCE_LIMIT_OFFSET, self.sequence_limit);
        block.put_u64(TOMBSTONE_FLOOR_OFFSET, self.tombstone_floor);
        block.put_u64(WARM_BYTES_OFFSET, self.options.warm_bytes);
        let directory = self.warm_directory.as_deref().map_or(&[][..], |path| path.as_os_str().as_bytes());
        block.put_u32(WARM_DIRECTORY_LEN_OFFSET, directory.len() as u32);
        block.0[WARM_DIRECTORY_OFFSET..WARM_DIRECTORY_OFFSET + directory.len()].copy_from_slice(directory);
        block.0[MEMORY_ID_OFFSET..MEMORY_ID_OFFSET + 16].copy_from_slice(&self.memory_id);
        block.seal();
        block
    }

    /// Of an intact block. A checksum proves that the bytes are as written, not that they make sense.
    fn decode(block: &Block) -> std::result::Result<Superblock, String> {
        let durability = block.u8(DURABILITY_OFFSET);
        let when_full = block.u8(WHEN_FULL_OFFSET);
        let directory_len = block.u32(WARM_DIRECTORY_LEN_OFFSET) as usize;
        if directory_len > WARM_DIRECTORY_BYTES_MAX {
            return Err(format!("a path of {directory_len} bytes for the warm tier is too long"));
        }
        let directory = &block.0[WARM_DIRECTORY_OFFSET..WARM_DIRECTORY_OFFSET + directory_len];
        let mut memory_id = [0; 16];
        memory_id.copy_from_slice(&block.0[MEMORY_ID_OFFSET..MEMORY_ID_OFFSET + 16]);
        let superblock = Superblock {
            generation: block.generation(),
            uuid: block.identity(),
            hash_seed: block.u64(HASH_SEED_OFFSET),
            created_wall_ms: block.u64(CREATED_OFFSET),
            options: Resolved {
                hot_bytes: block.u64(HOT_BYTES_OFFSET),
                warm_bytes: block.u64(WARM_BYTES_OFFSET),
                cold_bytes: block.u64(COLD_BYTES_OFFSET),
                index: if block.u32(FLAGS_OFFSET) & FLAG_INDEX_WARM == 0 {
                    IndexPlacement::Hot
                } else {
                    IndexPlacement::Warm
                },
                frame_bytes: block.u32(FRAME_BYTES_OFFSET),
                durability: Durability::from_code(durability)
                    .ok_or(format!("durability {durability} is unknown"))?,
                when_full: WhenFull::from_code(when_full)
                    .ok_or(format!("when_full {when_full} is unknown"))?,
                participants_max: block.u32(PARTICIPANTS_MAX_OFFSET),
            },
            partitions: block.u32(PARTITIONS_OFFSET),
            slot_count: block.u32(SLOT_COUNT_OFFSET),
            flags: block.u32(FLAGS_OFFSET) & !FLAG_INDEX_WARM,
            sequence_limit: block.u64(SEQUENCE_LIMIT_OFFSET),
            tombstone_floor: block.u64(TOMBSTONE_FLOOR_OFFSET),
            warm_directory: (directory_len > 0).then(|| PathBuf::from(OsStr::from_bytes(directory))),
            memory_id,
        };
        superblock.validate()?;
        Ok(superblock)
    }

    /// What its index refers to.
    pub fn shape(&self) -> Shape {
        Shape { partitions: self.partitions, slots_min: self.slot_count }
    }

    /// Everything that later arithmetic relies on.
    fn validate(&self) -> std::result::Result<(), String> {
        self.options.validate().map_err(|error| error.to_string())?;
        if !self.partitions.is_power_of_two() || self.partitions > PARTITIONS_MAX {
            return Err(format!(
                "{} partitions are not a power of two up to {PARTITIONS_MAX}",
                self.partitions
            ));
        }
        // Both factors are bounded above: 2^32 slots of 2^23 bytes.
        let addressed_bytes = u64::from(self.slot_count) * u64::from(self.options.frame_bytes);
        if self.slot_count == 0 || addressed_bytes > ADDRESSABLE_BYTES {
            return Err(format!("{} slots are none, or more than an address can name", self.slot_count));
        }
        if let Some(sequence) =
            [self.sequence_limit, self.tombstone_floor].into_iter().find(|&sequence| sequence > SEQUENCE_MAX)
        {
            return Err(format!("no store can have come to sequence number {sequence}"));
        }
        if let Some(directory) = &self.warm_directory {
            let len = directory.as_os_str().len();
            if !directory.is_absolute() || len > WARM_DIRECTORY_BYTES_MAX || self.options.warm_bytes == 0 {
                return Err(format!(
                    "{} can't be the directory of a warm tier of {} bytes: it must be an absolute path of at most {WARM_DIRECTORY_BYTES_MAX} bytes",
                    directory.display(),
                    self.options.warm_bytes
                ));
            }
        }
        if self.flags & !FLAGS_KNOWN != 0 {
            return Err(format!("the flags {:#x} are unknown", self.flags & !FLAGS_KNOWN));
        }
        Ok(())
    }
}

fn open_owned(env: &dyn Env, path: &Path, how: OpenHow) -> Result<std::sync::Arc<dyn EnvFile>> {
    let file = env.open(path, how).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NotAStore(format!(
            "there is no store at {}: check the path (thermae.open makes one unless create is false, and so does `thermae set`)",
            parent(path).display()
        )),
        io::ErrorKind::IsADirectory => not_a_store(path),
        _ => Error::io("open", path, error),
    })?;
    let metadata = file.metadata().map_err(|error| Error::io("examine", path, error))?;
    if !metadata.is_file() {
        return Err(not_a_store(path));
    }
    check_owner(env, &metadata, path)?;
    Ok(file)
}

fn read_newest(file: &dyn EnvFile, path: &Path) -> Result<Superblock> {
    let mut newest: Option<(Block, BlockState)> = None;
    let mut damaged = false;
    for copy in 0..COPIES {
        let mut block = Block::zeroed();
        match file.read_exact_at(&mut block.0[..], copy * BLOCK_BYTES as u64) {
            Ok(()) => {}
            // A file cut short has lost its second copy at most, or was never a store.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
            Err(error) => return Err(Error::io("read", path, error)),
        }
        let state = block.state(MAGIC);
        let intact = matches!(state, BlockState::Valid | BlockState::OtherLayout(_));
        // Another layout may order its copies otherwise.
        let misplaced = state == BlockState::Valid && block.generation() % COPIES != copy;
        damaged |= state == BlockState::Damaged || misplaced;
        let newer = newest.as_ref().is_none_or(|(other, _)| other.generation() < block.generation());
        if intact && !misplaced && newer {
            newest = Some((block, state));
        }
    }
    match newest {
        Some((_, BlockState::OtherLayout(found))) => Err(Error::WrongLayout(format!(
            "{} has layout {found}, and this version of Thermae uses layout {LAYOUT_VERSION}: open it with the version that wrote it, take a snapshot there, and restore that here",
            path.display()
        ))),
        Some((block, _)) => Superblock::decode(&block).map_err(|problem| {
            Error::Corrupt(format!(
                "{} is damaged or was altered: {problem}. Restore a snapshot, or put a copy of this file back",
                path.display()
            ))
        }),
        None if damaged => Err(Error::Corrupt(format!(
            "{} is damaged: neither of its two copies passes its checksum. Restore a snapshot, or put a copy of this file back",
            path.display()
        ))),
        None => Err(not_a_store(path)),
    }
}

fn not_a_store(path: &Path) -> Error {
    Error::NotAStore(format!(
        "{} is not the file of a Thermae store: name another directory, or move what is there away",
        path.display()
    ))
}

fn copy_offset(generation: u64) -> u64 {
    generation % COPIES * BLOCK_BYTES as u64
}

/// The directory that a file's name is in.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The name under which a file is written before it gets its own.
pub(crate) fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".new");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SystemEnv;
    use crate::options::{Location, Options};

    fn sample() -> Superblock {
        Superblock {
            generation: 0,
            uuid: *b"0123456789abcdef",
            hash_seed: 0x1122_3344_5566_7788,
            created_wall_ms: 1_700_000_000_123,
            options: Options::default().resolve(&Location::parse("data").unwrap()).unwrap(),
            partitions: 1 << 12,
            slot_count: 2048,
            flags: 0,
            sequence_limit: 0,
            tombstone_floor: 5,
            warm_directory: None,
            memory_id: *b"fedcba9876543210",
        }
    }

    struct Scratch {
        _directory: tempfile::TempDir,
        path: PathBuf,
    }

    fn created() -> Scratch {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        sample().create(&SystemEnv, &path).unwrap();
        Scratch { _directory: directory, path }
    }

    fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
        SystemEnv.open(path, OpenHow::READ_WRITE).unwrap().write_all_at(bytes, offset).unwrap();
    }

    fn read(path: &Path) -> Result<Superblock> {
        Superblock::read(&SystemEnv, path)
    }

    #[test]
    fn what_is_created_is_read_and_nothing_is_left_over() {
        let scratch = created();
        assert_eq!(read(&scratch.path).unwrap(), Superblock { generation: 2, ..sample() });
        assert_eq!(SystemEnv.list(parent(&scratch.path)).unwrap(), ["store"]);
        assert_eq!(SystemEnv.metadata(&scratch.path).unwrap().len, 2 * BLOCK_BYTES as u64);
    }

    #[test]
    fn updates_alternate_and_survive_the_loss_of_either_copy() {
        let scratch = created();
        for expected in 3..8 {
            let updated = Superblock::update(&SystemEnv, &scratch.path, |superblock| {
                superblock.sequence_limit = expected;
                superblock.options.durability = Durability::Always;
            })
            .unwrap();
            assert_eq!((updated.generation, updated.sequence_limit), (expected, expected));
            assert_eq!(read(&scratch.path).unwrap(), updated);
        }
        // The newest copy torn in the middle: the one before it counts, and the next update replaces the torn one.
        overwrite(&scratch.path, copy_offset(7) + 512, &[0xAA; 512]);
        assert_eq!(read(&scratch.path).unwrap().sequence_limit, 6);
        let updated =
            Superblock::update(&SystemEnv, &scratch.path, |superblock| superblock.tombstone_floor = 9)
                .unwrap();
        assert_eq!((updated.generation, updated.tombstone_floor), (7, 9));
        assert_eq!(read(&scratch.path).unwrap(), updated);
    }

    #[test]
    fn both_copies_damaged_is_corrupt() {
        let scratch = created();
        overwrite(&scratch.path, 100, b"x");
        overwrite(&scratch.path, 4096 + 100, b"x");
        let error = read(&scratch.path).unwrap_err();
        assert_eq!(error.name(), "Corrupt");
        assert!(error.to_string().contains("store"), "{error}");
    }

    #[test]
    fn a_copy_in_the_other_ones_place_does_not_count() {
        let scratch = created();
        let newest = Superblock { generation: 9, ..sample() }.encode();
        overwrite(&scratch.path, 0, &newest.0[..]);
        assert_eq!(read(&scratch.path).unwrap().generation, 1);
    }

    #[test]
    fn another_layout_says_which() {
        let scratch = created();
        for copy in 0..2 {
            let mut block = sample().encode();
            block.put_u32(8, 77);
            block.seal();
            overwrite(&scratch.path, copy * 4096, &block.0[..]);
        }
        let error = read(&scratch.path).unwrap_err();
        assert_eq!(error.name(), "WrongLayout");
        assert!(
            error.to_string().contains("layout 77")
                && error.to_string().contains(&format!("layout {LAYOUT_VERSION}:")),
            "{error}"
        );
    }

    #[test]
    fn other_things_are_not_a_store() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        assert_eq!(read(&path).unwrap_err().name(), "NotAStore");
        for bytes in [&b""[..], b"THERMAES", &[0; 8192], &[0xFF; 10_000]] {
            SystemEnv.open(&path, OpenHow::REPLACE).unwrap().write_all_at(bytes, 0).unwrap();
            assert_eq!(read(&path).unwrap_err().name(), "NotAStore", "{} bytes", bytes.len());
        }
        assert_eq!(read(directory.path()).unwrap_err().name(), "NotAStore");
    }

    #[test]
    fn an_intact_checksum_does_not_vouch_for_the_fields() {
        let scratch = created();
        for (offset, value) in [
            (FRAME_BYTES_OFFSET, 3),
            (PARTITIONS_OFFSET, 3),
            (PARTITIONS_OFFSET, 1 << 31),
            (SLOT_COUNT_OFFSET, 0),
            (SLOT_COUNT_OFFSET, u32::MAX),
            (PARTICIPANTS_MAX_OFFSET, 0),
            (PARTICIPANTS_MAX_OFFSET, u32::MAX),
            (DURABILITY_OFFSET, 0x0000_0003),
            (DURABILITY_OFFSET, 0x0000_0200),
            (FLAGS_OFFSET, 1 << 30),
            (HOT_BYTES_OFFSET, 1),
            (HOT_BYTES_OFFSET + 4, u32::MAX),
            (COLD_BYTES_OFFSET, 4095),
        ] {
            let mut block = Superblock { generation: 4, ..sample() }.encode();
            block.put_u32(offset, value);
            block.seal();
            overwrite(&scratch.path, 0, &block.0[..]);
            let error = read(&scratch.path).unwrap_err();
            assert_eq!(error.name(), "Corrupt", "offset {offset}: {error}");
        }
    }

    #[test]
    fn a_nonsensical_update_is_refused_and_changes_nothing() {
        let scratch = created();
        let before = read(&scratch.path).unwrap();
        let refused = Superblock::update(&SystemEnv, &scratch.path, |superblock| superblock.partitions = 3);
        assert_eq!(refused.unwrap_err().name(), "InvalidOption");
        assert_eq!(read(&scratch.path).unwrap(), before);
    }

    #[test]
    fn a_file_cut_after_its_first_copy_is_still_read() {
        let scratch = created();
        SystemEnv.open(&scratch.path, OpenHow::READ_WRITE).unwrap().set_len(5000).unwrap();
        assert_eq!(read(&scratch.path).unwrap().generation, 2);
    }
}
