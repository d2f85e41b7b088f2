//! Power loss by record and replay: an [`Env`] that logs what is done to a directory's files, and from the log the
//! states in which a power failure could have left them.
//!
//! What is promised is only what was synced: a file's bytes by a sync of the file that began after the write
//! returned, a name (creation, rename, removal) by a sync of its directory. Everything else may be there or not:
//! - bytes: per unit (4 KiB or 512 B, aligned in the file) any earlier state of that unit, each unit for itself, which
//!   is both dropping and reordering; or the writes in order up to some byte in the middle of one;
//! - names: any first part of each directory's unsynced changes, in order, as a journal keeps them.
//!
//! A unit never shows a later write without the earlier ones to the same unit: the page cache holds them together, so
//! no disk can. Accesses through a mapping are not seen; leave mapped files out.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::env::{Env, EnvFile, FileMetadata, OpenHow, SystemEnv};

const PAGE_BYTES: usize = 4096;

type FileId = u64;

/// How the writes that were not synced are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tear {
    /// All lost.
    Dropped,
    /// All there.
    Applied,
    /// Each aligned 4 KiB for itself.
    Pages,
    /// Each aligned 512 B for itself.
    Sectors,
    /// In order, up to a byte in the middle of one.
    MidWrite,
}

impl Tear {
    /// All of them.
    pub const ALL: [Tear; 5] = [Tear::Dropped, Tear::Applied, Tear::Pages, Tear::Sectors, Tear::MidWrite];

    fn unit_bytes(self) -> u64 {
        if self == Tear::Sectors { 512 } else { PAGE_BYTES as u64 }
    }
}

#[derive(Clone, Debug)]
enum Change {
    Write {
        offset: u64,
        bytes: Arc<[u8]>,
    },
    /// Allocation: at least this long.
    Grow {
        len: u64,
    },
    SetLen {
        len: u64,
    },
}

#[derive(Clone, Debug)]
enum NameChange {
    Link { path: PathBuf, file: FileId },
    Rename { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
}

impl NameChange {
    fn directory(&self) -> Option<&Path> {
        match self {
            NameChange::Link { path, .. } | NameChange::Remove { path } => path.parent(),
            NameChange::Rename { to, .. } => to.parent(),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, FileId>) {
        match self {
            NameChange::Link { path, file } => {
                names.insert(path.clone(), *file);
            }
            NameChange::Rename { from, to } => {
                // A rename of a name whose creation was lost cannot be there either; of a directory, all below moves.
                let moved: Vec<_> = names.keys().filter(|path| path.starts_with(from)).cloned().collect();
                for path in moved {
                    if let (Some(file), Ok(rest)) = (names.remove(&path), path.strip_prefix(from)) {
                        let target = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
                        names.insert(target, file);
                    }
                }
            }
            NameChange::Remove { path } => names.retain(|name, _| !name.starts_with(path)),
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    /// A file that was there before the recording met it; durable.
    Known {
        path: PathBuf,
        file: FileId,
        content: Content,
    },
    Change {
        file: FileId,
        change: Change,
    },
    Name(NameChange),
    /// Returned now, and covers what was logged before position `since`.
    Sync {
        file: FileId,
        since: usize,
    },
    SyncDir {
        path: PathBuf,
        since: usize,
    },
}

#[derive(Debug, Default)]
struct Log {
    events: Vec<Event>,
    names: BTreeMap<PathBuf, FileId>,
    files: FileId,
}

impl Log {
    fn rename(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.events.push(Event::Name(change));
    }

    fn new_file(&mut self) -> FileId {
        self.files += 1;
        self.files
    }
}

/// Wraps another environment and logs every change to the files under one directory. Clones share the log.
#[derive(Clone)]
pub struct RecordingEnv {
    inner: Arc<dyn Env>,
    root: PathBuf,
    wanted: fn(&Path) -> bool,
    log: Arc<Mutex<Log>>,
}

impl std::fmt::Debug for RecordingEnv {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "RecordingEnv({}, {} events)", self.root.display(), self.position())
    }
}

impl RecordingEnv {
    /// Logs the files under `root` for which `wanted` holds (asked with the path relative to `root`).
    pub fn new(inner: Arc<dyn Env>, root: &Path, wanted: fn(&Path) -> bool) -> RecordingEnv {
        RecordingEnv { inner, root: root.to_path_buf(), wanted, log: Arc::default() }
    }

    /// How many events were logged. What was acknowledged at position p must be in every image cut at p or later.
    pub fn position(&self) -> usize {
        self.log().events.len()
    }

    /// The log so far.
    pub fn recording(&self) -> Recording {
        Recording { root: self.root.clone(), events: self.log().events.clone() }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_wanted(&self, path: &Path) -> bool {
        path.strip_prefix(&self.root).is_ok_and(self.wanted)
    }
}

impl Env for RecordingEnv {
    fn open(&self, path: &Path, how: OpenHow) -> io::Result<Arc<dyn EnvFile>> {
        if !self.is_wanted(path) {
            return self.inner.open(path, how);
        }
        // Held throughout, so that two threads creating one name agree who did.
        let mut log = self.log();
        let existed = self.inner.exists(path)?;
        let before = match log.names.get(path) {
            None if existed => Some(Content::load(self.inner.as_ref(), path)?),
            _ => None,
        };
        let inner = self.inner.open(path, how)?;
        let file = match log.names.get(path) {
            Some(file) if existed => *file,
            _ => {
                let file = log.new_file();
                match before {
                    Some(content) => {
                        log.names.insert(path.to_path_buf(), file);
                        log.events.push(Event::Known { path: path.to_path_buf(), file, content });
                    }
                    None => log.rename(NameChange::Link { path: path.to_path_buf(), file }),
                }
                file
            }
        };
        if how.truncate && existed {
            log.events.push(Event::Change { file, change: Change::SetLen { len: 0 } });
        }
        Ok(Arc::new(RecordingFile { inner, file, log: self.log.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut log = self.log();
        self.inner.rename(from, to)?;
        if self.is_wanted(from) || self.is_wanted(to) {
            log.rename(NameChange::Rename { from: from.to_path_buf(), to: to.to_path_buf() });
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut log = self.log();
        self.inner.remove_file(path)?;
        log.rename(NameChange::Remove { path: path.to_path_buf() });
        Ok(())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut log = self.log();
        self.inner.remove_dir_all(path)?;
        log.rename(NameChange::Remove { path: path.to_path_buf() });
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let since = self.position();
        self.inner.sync_dir(path)?;
        self.log().events.push(Event::SyncDir { path: path.to_path_buf(), since });
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.inner.list(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<FileMetadata> {
        self.inner.metadata(path)
    }

    fn available_bytes(&self, path: &Path) -> io::Result<u64> {
        self.inner.available_bytes(path)
    }

    fn boot_time_ms(&self) -> u64 {
        self.inner.boot_time_ms()
    }

    fn wall_time_ms(&self) -> u64 {
        self.inner.wall_time_ms()
    }

    fn random_u64(&self) -> u64 {
        self.inner.random_u64()
    }

    fn boot_id(&self) -> io::Result<[u8; 16]> {
        self.inner.boot_id()
    }

    fn user_id(&self) -> u32 {
        self.inner.user_id()
    }
}

#[derive(Debug)]
struct RecordingFile {
    inner: Arc<dyn EnvFile>,
    file: FileId,
    log: Arc<Mutex<Log>>,
}

impl RecordingFile {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After the fact: a sync that begins before a write is logged does not count for it, which errs on the safe side.
    fn changed(&self, change: Change) {
        self.log().events.push(Event::Change { file: self.file, change });
    }

    fn synced(&self, sync: impl FnOnce(&dyn EnvFile) -> io::Result<()>) -> io::Result<()> {
        let since = self.log().events.len();
        sync(self.inner.as_ref())?;
        self.log().events.push(Event::Sync { file: self.file, since });
        Ok(())
    }
}

impl EnvFile for RecordingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let count = self.inner.write_at(bytes, offset)?;
        self.changed(Change::Write { offset, bytes: bytes[..count].into() });
        Ok(count)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.allocate(offset, len)?;
        self.changed(Change::Grow { len: offset + len });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.synced(|file| file.sync_data())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.synced(|file| file.sync_all())
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)?;
        self.changed(Change::SetLen { len });
        Ok(())
    }

    fn metadata(&self) -> io::Result<FileMetadata> {
        self.inner.metadata()
    }

    fn fd(&self) -> RawFd {
        self.inner.fd()
    }
}

/// A file's bytes: pages that are not there are zeros. Clones share their pages.
#[derive(Clone, Debug, Default)]
struct Content {
    len: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE_BYTES]>>,
}

impl Content {
    fn load(env: &dyn Env, path: &Path) -> io::Result<Content> {
        let file = env.open(path, OpenHow::READ)?;
        let mut content = Content::default();
        let mut page = [0; PAGE_BYTES];
        let len = file.len()?;
        while content.len < len {
            let count = (len - content.len).min(PAGE_BYTES as u64) as usize;
            file.read_exact_at(&mut page[..count], content.len)?;
            content.write(content.len, &page[..count]);
        }
        Ok(content)
    }

    fn write(&mut self, mut offset: u64, mut bytes: &[u8]) {
        self.len = self.len.max(offset + bytes.len() as u64);
        while !bytes.is_empty() {
            let start = (offset % PAGE_BYTES as u64) as usize;
            let count = bytes.len().min(PAGE_BYTES - start);
            let page =
                self.pages.entry(offset / PAGE_BYTES as u64).or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(page)[start..start + count].copy_from_slice(&bytes[..count]);
            offset += count as u64;
            bytes = &bytes[count..];
        }
    }

    fn set_len(&mut self, len: u64) {
        let boundary = len / PAGE_BYTES as u64;
        self.pages.retain(|number, _| *number <= boundary);
        if let Some(page) = self.pages.get_mut(&boundary) {
            Arc::make_mut(page)[(len % PAGE_BYTES as u64) as usize..].fill(0);
        }
        self.len = len;
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, bytes } => self.write(*offset, bytes),
            Change::Grow { len } => self.len = self.len.max(*len),
            Change::SetLen { len } => self.set_len(*len),
        }
    }

    /// Applies what is left of `pending` after a power failure.
    fn apply_torn(&mut self, pending: &[&Change], tear: Tear, random: &mut Random) {
        match tear {
            Tear::Dropped => {}
            Tear::Applied => pending.iter().for_each(|change| self.apply(change)),
            Tear::MidWrite => {
                let whole = random.below(pending.len() as u64 + 1) as usize;
                pending[..whole].iter().for_each(|change| self.apply(change));
                if let Some(Change::Write { offset, bytes }) = pending.get(whole) {
                    let cut = random.below(bytes.len() as u64 + 1) as usize;
                    self.write(*offset, &bytes[..cut]);
                }
            }
            Tear::Pages | Tear::Sectors => self.apply_by_unit(pending, tear.unit_bytes(), random),
        }
    }

    fn apply_by_unit(&mut self, pending: &[&Change], unit_bytes: u64, random: &mut Random) {
        // From nearly nothing written back to nearly all; in between anything goes.
        let complete_in_8 = random.below(9);
        let limit = |random: &mut Random| {
            if random.below(8) < complete_in_8 {
                pending.len()
            } else {
                random.below(pending.len() as u64 + 1) as usize
            }
        };
        let shape_limit = limit(random);
        let mut limits: HashMap<u64, usize> = HashMap::new();
        for (index, change) in pending.iter().enumerate() {
            let Change::Write { offset, bytes } = change else {
                if index < shape_limit {
                    self.apply(change);
                }
                continue;
            };
            let mut position = *offset;
            let end = offset + bytes.len() as u64;
            while position < end {
                let unit = position / unit_bytes;
                let unit_end = end.min((unit + 1) * unit_bytes);
                if index < *limits.entry(unit).or_insert_with(|| limit(random)) {
                    self.write(position, &bytes[(position - offset) as usize..(unit_end - offset) as usize]);
                }
                position = unit_end;
            }
        }
    }

    fn store(&self, path: &Path) -> io::Result<()> {
        let file = SystemEnv.open(path, OpenHow::REPLACE)?;
        for (number, page) in &self.pages {
            let offset = number * PAGE_BYTES as u64;
            let count = self.len.saturating_sub(offset).min(PAGE_BYTES as u64) as usize;
            file.write_all_at(&page[..count], offset)?;
        }
        file.set_len(self.len)
    }
}

/// What was logged.
#[derive(Clone, Debug)]
pub struct Recording {
    root: PathBuf,
    events: Vec<Event>,
}

impl Recording {
    /// Number of events; an image can be cut before each of them and after the last.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether nothing was logged.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// One state in which power failing after the first `cut` events could have left the files.
    pub fn image(&self, cut: usize, tear: Tear, seed: u64) -> Image {
        let mut replay = Replay::default();
        replay.advance(&self.events, cut);
        replay.image(&self.root, cut, tear, seed)
    }

    /// `count` images at random cuts, in the order of their cuts, each way of tearing in turn. The same seed gives the same.
    pub fn images(&self, count: usize, seed: u64) -> impl Iterator<Item = Image> + '_ {
        let mut random = Random(seed);
        let mut cuts: Vec<usize> =
            (0..count).map(|_| random.below(self.events.len() as u64 + 1) as usize).collect();
        cuts.sort_unstable();
        let mut replay = Replay::default();
        cuts.into_iter().zip(Tear::ALL.into_iter().cycle()).map(move |(cut, tear)| {
            replay.advance(&self.events, cut);
            replay.image(&self.root, cut, tear, random.next())
        })
    }
}

/// The files as a power failure left them.
#[derive(Clone, Debug)]
pub struct Image {
    /// After how many events.
    pub cut: usize,
    /// How unsynced writes were treated.
    pub tear: Tear,
    /// With which `cut` and `tear` it gives this image again.
    pub seed: u64,
    files: BTreeMap<PathBuf, Content>,
}

impl Image {
    /// The files' paths, relative to the recorded directory.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path)
    }

    /// One file's bytes.
    pub fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let content = self.files.get(path)?;
        let mut bytes = vec![0; content.len as usize];
        for (number, page) in &content.pages {
            let start = (*number as usize * PAGE_BYTES).min(bytes.len());
            let end = (start + PAGE_BYTES).min(bytes.len());
            bytes[start..end].copy_from_slice(&page[..end - start]);
        }
        Some(bytes)
    }

    /// Writes the files under another directory, with holes where nothing was written.
    pub fn write_into(&self, root: &Path) -> io::Result<()> {
        for (path, content) in &self.files {
            let mut directory = root.to_path_buf();
            for part in path.parent().into_iter().flat_map(Path::components) {
                directory.push(part);
                if !SystemEnv.exists(&directory)? {
                    SystemEnv.create_dir(&directory)?;
                }
            }
            content.store(&root.join(path))?;
        }
        Ok(())
    }
}

/// What is durable after a first part of the log, and what is not.
#[derive(Default)]
struct Replay<'a> {
    position: usize,
    durable: HashMap<FileId, Content>,
    pending: BTreeMap<FileId, Vec<(usize, &'a Change)>>,
    names: BTreeMap<PathBuf, FileId>,
    pending_names: Vec<(usize, &'a NameChange)>,
}

impl<'a> Replay<'a> {
    fn advance(&mut self, events: &'a [Event], cut: usize) {
        for (position, event) in events.iter().enumerate().take(cut).skip(self.position) {
            match event {
                Event::Known { path, file, content } => {
                    self.durable.insert(*file, content.clone());
                    self.names.insert(path.clone(), *file);
                }
                Event::Change { file, change } => {
                    self.pending.entry(*file).or_default().push((position, change));
                }
                Event::Name(change) => self.pending_names.push((position, change)),
                Event::Sync { file, since } => {
                    let pending = self.pending.entry(*file).or_default();
                    let covered = pending.partition_point(|(position, _)| position < since);
                    let content = self.durable.entry(*file).or_default();
                    pending.drain(..covered).for_each(|(_, change)| content.apply(change));
                }
                Event::SyncDir { path, since } => {
                    let names = &mut self.names;
                    self.pending_names.retain(|(position, change)| {
                        let covered = position < since && change.directory() == Some(path.as_path());
                        if covered {
                            change.apply(names);
                        }
                        !covered
                    });
                }
            }
        }
        self.position = self.position.max(cut);
    }

    fn image(&self, root: &Path, cut: usize, tear: Tear, seed: u64) -> Image {
        let mut random = Random(seed);
        let mut names = self.names.clone();
        let mut limits: HashMap<Option<&Path>, u64> = HashMap::new();
        let count = self.pending_names.len() as u64;
        for (index, (_, change)) in self.pending_names.iter().enumerate() {
            let limit = *limits.entry(change.directory()).or_insert_with(|| match tear {
                Tear::Dropped => 0,
                Tear::Applied => count,
                Tear::Pages | Tear::Sectors | Tear::MidWrite => random.below(count + 1),
            });
            if (index as u64) < limit {
                change.apply(&mut names);
            }
        }
        let mut files = BTreeMap::new();
        for (path, file) in names {
            let mut content = self.durable.get(&file).cloned().unwrap_or_default();
            if let Some(pending) = self.pending.get(&file).filter(|pending| !pending.is_empty()) {
                let changes: Vec<&Change> = pending.iter().map(|(_, change)| *change).collect();
                content.apply_torn(&changes, tear, &mut random);
            }
            if let Ok(relative) = path.strip_prefix(root) {
                files.insert(relative.to_path_buf(), content);
            }
        }
        Image { cut, tear, seed, files }
    }
}

/// SplitMix64: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`, which is above 0.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
#[path = "recording_tests.rs"]
mod tests;
