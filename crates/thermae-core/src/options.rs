//! What a caller may ask for when a store is opened, and what follows from it for a new one.
//!
//! `None` means "as the store has it, or the default when it is created". Sizes are fixed at creation; durability
//! and the answer of a full store may change while it runs. All questions about a combination of options are
//! answered here, before any file is touched.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use crate::env::{Env, SystemEnv};
use crate::error::{Error, Result};
use crate::sizes::size_text;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Smallest hot tier.
pub const HOT_BYTES_MIN: u64 = 16 * MIB;
/// The hot tier where none is asked for.
pub const HOT_BYTES_DEFAULT: u64 = 256 * MIB;
/// Most that the tiers may have together, below what an address can name (2^40 units of 8 bytes).
pub const TIERS_BYTES_MAX: u64 = 6 << 40;
/// Most frames that the tiers may have together, below what a segment's identity can name (2^22 slots).
pub const TIERS_FRAMES_MAX: u64 = 3 << 20;
/// Fewer frames would leave none to evict while a few are open for writing.
pub const HOT_FRAMES_MIN: u64 = 16;
/// Fewer frames would be full before a second had passed.
pub const WARM_FRAMES_MIN: u64 = 16;
/// A frame of a small store.
pub const FRAME_BYTES_SMALL: u32 = 1 << 20;
/// A frame of a large store.
pub const FRAME_BYTES_LARGE: u32 = 8 << 20;
/// From this much hot tier on, frames are large.
pub const FRAME_BYTES_LARGE_FROM: u64 = 512 * MIB;
/// Participants at once where no number is asked for.
pub const PARTICIPANTS_MAX_DEFAULT: u32 = 128;
/// Each participant has pages of its own in the control file, which the hot tier pays for.
pub const PARTICIPANTS_MAX_LIMIT: u32 = 4096;

const SHM_SCHEME: &str = "shm://";
const SHM_NAME_BYTES_MAX: usize = 64;

/// Where a store lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    /// A directory.
    Directory(PathBuf),
    /// The name of a store that is in shared memory alone.
    SharedMemory(String),
}

impl Location {
    /// `shm://name` is shared memory, anything else without a scheme a directory.
    pub fn parse(text: &str) -> Result<Location> {
        if let Some(name) = text.strip_prefix(SHM_SCHEME) {
            return Location::shared_memory(name);
        }
        if text.is_empty() {
            return Err(Error::invalid_option(
                "the location is empty: name a directory (\"data/\") or shared memory (\"shm://name\")",
            ));
        }
        if text.contains('\0') {
            return Err(Error::invalid_option(format!(
                "the location {text:?} contains a zero byte, which no path may: remove it"
            )));
        }
        // What a path type makes of shm://name. Nobody means a directory by that.
        if let Some((_, name)) =
            text.rsplit_once("shm:/").filter(|_| text.split('/').any(|part| part == "shm:"))
        {
            return Err(Error::invalid_option(format!(
                "the location {text:?} is a path through \"shm:\": for shared memory give \"shm://{name}\" as text, because a path \
                 joins its slashes"
            )));
        }
        if let Some((scheme, _)) = text.split_once("://")
            && !scheme.is_empty()
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
        {
            return Err(Error::invalid_option(format!(
                "the location {text:?} has the unknown scheme {scheme:?}: name a directory (\"data/\") or shared memory (\"shm://name\")"
            )));
        }
        Ok(Location::Directory(PathBuf::from(text)))
    }

    fn shared_memory(name: &str) -> Result<Location> {
        let valid = (1..=SHM_NAME_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        if !valid {
            return Err(Error::invalid_option(format!(
                "the shared memory name {name:?} is not valid: use 1 to {SHM_NAME_BYTES_MAX} of the characters A-Z a-z 0-9 . _ -"
            )));
        }
        Ok(Location::SharedMemory(name.to_string()))
    }

    /// The same place by a name that stays true wherever the process goes: a directory's path from the root, without a slash at its end.
    ///
    /// # Errors
    /// Io where the path is relative and the working directory can't be told.
    pub fn absolute(&self) -> Result<Location> {
        let Location::Directory(path) = self else { return Ok(self.clone()) };
        let absolute = std::path::absolute(path)
            .map_err(|source| Error::io("find the absolute path of", path, source))?;
        Ok(Location::Directory(absolute.components().collect()))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Directory(path) => write!(formatter, "{}", path.display()),
            Location::SharedMemory(name) => write!(formatter, "{SHM_SCHEME}{name}"),
        }
    }
}

/// What is promised when a write returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Survives a clean close and the death of any process, not the machine's.
    None,
    /// Survives the machine's death, less at most the last second.
    EverySec,
    /// Survives the machine's death, whole.
    Always,
}

impl Durability {
    /// All of them.
    pub const ALL: [Durability; 3] = [Durability::None, Durability::EverySec, Durability::Always];

    /// As users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Durability::None => "none",
            Durability::EverySec => "everysec",
            Durability::Always => "always",
        }
    }

    /// As stored.
    pub fn code(self) -> u8 {
        match self {
            Durability::None => 0,
            Durability::EverySec => 1,
            Durability::Always => 2,
        }
    }

    /// The reverse of `code`.
    pub fn from_code(code: u8) -> Option<Durability> {
        Durability::ALL.into_iter().find(|durability| durability.code() == code)
    }
}

impl FromStr for Durability {
    type Err = Error;

    fn from_str(text: &str) -> Result<Durability> {
        Durability::ALL.into_iter().find(|durability| durability.as_str() == text).ok_or_else(|| {
            Error::invalid_option(format!(
                "durability {text:?} is unknown: use \"none\", \"everysec\" or \"always\""
            ))
        })
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// How a full store answers a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhenFull {
    /// By dropping what was used least lately.
    Evict,
    /// By refusing it; reads and deletes go on.
    Error,
}

impl WhenFull {
    /// All of them.
    pub const ALL: [WhenFull; 2] = [WhenFull::Evict, WhenFull::Error];

    /// As users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            WhenFull::Evict => "evict",
            WhenFull::Error => "error",
        }
    }

    /// As stored.
    pub fn code(self) -> u8 {
        match self {
            WhenFull::Evict => 0,
            WhenFull::Error => 1,
        }
    }

    /// The reverse of `code`.
    pub fn from_code(code: u8) -> Option<WhenFull> {
        WhenFull::ALL.into_iter().find(|when_full| when_full.code() == code)
    }
}

impl FromStr for WhenFull {
    type Err = Error;

    fn from_str(text: &str) -> Result<WhenFull> {
        WhenFull::ALL.into_iter().find(|when_full| when_full.as_str() == text).ok_or_else(|| {
            Error::invalid_option(format!("when_full {text:?} is unknown: use \"evict\" or \"error\""))
        })
    }
}

impl fmt::Display for WhenFull {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Which mapped tier holds the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IndexPlacement {
    /// The hot one: every look-up goes through it.
    #[default]
    Hot,
    /// The warm one, while it has room: where DRAM is too dear for the index of what persistent memory and flash hold.
    Warm,
}

impl FromStr for IndexPlacement {
    type Err = Error;

    fn from_str(text: &str) -> Result<IndexPlacement> {
        match text {
            "hot" => Ok(IndexPlacement::Hot),
            "warm" => Ok(IndexPlacement::Warm),
            _ => Err(Error::invalid_option(format!("index {text:?} is unknown: use \"hot\" or \"warm\""))),
        }
    }
}

/// Where the volatile half of a store in a directory is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShmPlacement {
    /// In shared memory where it is large enough, else in the store's directory.
    #[default]
    Auto,
    /// In shared memory, or not at all.
    SharedMemory,
    /// In the store's directory, as mapped files.
    Directory,
}

/// What a caller asks for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the hot tier.
    pub hot_bytes: Option<u64>,
    /// Size of the warm tier, on persistent memory; 0 is none.
    pub warm_bytes: Option<u64>,
    /// A directory on persistent memory for the warm tier's file; looked at only when the store is created. `None` is the store's own.
    pub warm_directory: Option<PathBuf>,
    /// Which mapped tier holds the index.
    pub index: Option<IndexPlacement>,
    /// Size of the cold tier, on flash. 0 is none; without a warm tier, nothing survives the machine's death then.
    pub cold_bytes: Option<u64>,
    /// Size of a frame: 1 MiB or 8 MiB.
    pub frame_bytes: Option<u32>,
    /// What is promised when a write returns.
    pub durability: Option<Durability>,
    /// How a full store answers a write.
    pub when_full: Option<WhenFull>,
    /// Attach without ever changing data; the store must exist.
    pub read_only: bool,
    /// Create the store where there is none, or make one of a snapshot.
    pub create: bool,
    /// Verify the checksum of every value read from the hot tier. Those of other tiers are verified anyway.
    pub verify_reads: bool,
    /// Recover from the log alone where every checkpoint is lost that could tell deleted and evicted keys from others: they may come back.
    pub salvage: bool,
    /// Where the volatile half is kept.
    pub shm: ShmPlacement,
    /// Looked at only when the store is created.
    pub participants_max: u32,
    /// Whether this participant takes part in background work.
    pub background: bool,
    /// Files, clocks and randomness.
    pub env: Arc<dyn Env>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            hot_bytes: None,
            warm_bytes: None,
            warm_directory: None,
            index: None,
            cold_bytes: None,
            frame_bytes: None,
            durability: None,
            when_full: None,
            read_only: false,
            create: true,
            verify_reads: true,
            salvage: false,
            shm: ShmPlacement::Auto,
            participants_max: PARTICIPANTS_MAX_DEFAULT,
            background: true,
            env: Arc::new(SystemEnv),
        }
    }
}

/// What the tiers may take, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierBytes {
    /// Hot tier; the control file is part of it.
    pub hot: u64,
    /// Warm tier, 0 = none.
    pub warm: u64,
    /// Cold tier, 0 = none.
    pub cold: u64,
}

/// The options of a new store, complete and consistent. Tiers are whole numbers of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Size of the hot tier.
    pub hot_bytes: u64,
    /// Size of the warm tier; 0 is none.
    pub warm_bytes: u64,
    /// Size of the cold tier; 0 is none.
    pub cold_bytes: u64,
    /// Which mapped tier holds the index.
    pub index: IndexPlacement,
    /// Size of a frame.
    pub frame_bytes: u32,
    /// What is promised when a write returns.
    pub durability: Durability,
    /// How a full store answers a write.
    pub when_full: WhenFull,
    /// Participants at once.
    pub participants_max: u32,
}

impl Resolved {
    /// Frames of the hot tier.
    pub fn hot_frames(&self) -> u32 {
        (self.hot_bytes / u64::from(self.frame_bytes)) as u32
    }

    /// Frames of the cold tier.
    pub fn cold_frames(&self) -> u32 {
        (self.cold_bytes / u64::from(self.frame_bytes)) as u32
    }

    /// The tiers' sizes.
    pub fn tier_bytes(&self) -> TierBytes {
        TierBytes { hot: self.hot_bytes, warm: self.warm_bytes, cold: self.cold_bytes }
    }

    /// Whether anything outlives the machine's death.
    pub fn has_durable_tier(&self) -> bool {
        self.warm_bytes != 0 || self.cold_bytes != 0
    }

    /// What must hold of any store, whether asked for by a caller or read from a superblock.
    pub fn validate(&self) -> Result<()> {
        let Resolved { hot_bytes, warm_bytes, cold_bytes, frame_bytes, .. } = *self;
        if frame_bytes != FRAME_BYTES_SMALL && frame_bytes != FRAME_BYTES_LARGE {
            return Err(Error::invalid_option(format!(
                "a frame of {} is not supported: frames are 1 MiB or 8 MiB",
                size_text(u64::from(frame_bytes))
            )));
        }
        if hot_bytes < HOT_BYTES_MIN {
            return Err(Error::invalid_option(format!(
                "a hot tier of {} is too small: give it at least {}",
                size_text(hot_bytes),
                size_text(HOT_BYTES_MIN)
            )));
        }
        if hot_bytes < HOT_FRAMES_MIN * u64::from(frame_bytes) {
            return Err(Error::invalid_option(format!(
                "a hot tier of {} holds fewer than {HOT_FRAMES_MIN} frames of {}: enlarge it to {}, or use frames of 1 MiB",
                size_text(hot_bytes),
                size_text(u64::from(frame_bytes)),
                size_text(HOT_FRAMES_MIN * u64::from(frame_bytes))
            )));
        }
        let together_max = TIERS_BYTES_MAX.min(TIERS_FRAMES_MAX * u64::from(frame_bytes));
        let durable_bytes = warm_bytes.saturating_add(cold_bytes);
        if hot_bytes.saturating_add(durable_bytes) > together_max {
            return Err(Error::invalid_option(format!(
                "tiers of {} (hot), {} (warm) and {} (cold) are too large: with frames of {} they may have {} together: {}",
                size_text(hot_bytes),
                size_text(warm_bytes),
                size_text(cold_bytes),
                size_text(u64::from(frame_bytes)),
                size_text(together_max),
                if frame_bytes < FRAME_BYTES_LARGE {
                    "make them smaller, or the hot one 512MiB or larger, which has frames of 8MiB"
                } else {
                    "make them smaller"
                }
            )));
        }
        for (tier, bytes) in [("hot", hot_bytes), ("warm", warm_bytes), ("cold", cold_bytes)] {
            if !bytes.is_multiple_of(u64::from(frame_bytes)) {
                return Err(Error::invalid_option(format!(
                    "a {tier} tier of {bytes} bytes is not a whole number of frames of {frame_bytes} bytes: round it"
                )));
            }
        }
        if warm_bytes != 0 && warm_bytes < WARM_FRAMES_MIN * u64::from(frame_bytes) {
            return Err(Error::invalid_option(format!(
                "a warm tier of {} is too small: give it at least {WARM_FRAMES_MIN} frames, {}, or set it to 0 for none",
                size_text(warm_bytes),
                size_text(WARM_FRAMES_MIN * u64::from(frame_bytes))
            )));
        }
        if warm_bytes == 0 && self.index == IndexPlacement::Warm {
            return Err(Error::invalid_option(
                "the index can't be in a warm tier that the store does not have: give the tier's size with warm, or leave index away",
            ));
        }
        if durable_bytes != 0 && durable_bytes < hot_bytes {
            let tiers = match (warm_bytes, cold_bytes) {
                (0, _) => format!("a cold tier of {} is", size_text(cold_bytes)),
                (_, 0) => format!("a warm tier of {} is", size_text(warm_bytes)),
                _ => format!(
                    "a warm tier of {} and a cold tier of {} together are",
                    size_text(warm_bytes),
                    size_text(cold_bytes)
                ),
            };
            return Err(Error::invalid_option(format!(
                "{tiers} smaller than the hot tier of {}, but everything in the hot tier needs its place there: enlarge it, or set it to 0 for none",
                size_text(hot_bytes)
            )));
        }
        if durable_bytes == 0 && self.durability != Durability::None {
            return Err(no_durable_tier(self.durability));
        }
        if !(1..=PARTICIPANTS_MAX_LIMIT).contains(&self.participants_max) {
            return Err(Error::invalid_option(format!(
                "participants_max {} is out of range: use 1 to {PARTICIPANTS_MAX_LIMIT}",
                self.participants_max
            )));
        }
        Ok(())
    }
}

pub(crate) fn no_durable_tier(durability: Durability) -> Error {
    Error::invalid_option(format!(
        "durability {:?} needs a cold tier or a warm one, and this store has neither: use durability \"none\", or create a store in a directory (not shm://) with cold above 0",
        durability.as_str()
    ))
}

impl Options {
    /// Completes the options for a store that is to be created.
    pub fn resolve(&self, location: &Location) -> Result<Resolved> {
        let shared_memory = matches!(location, Location::SharedMemory(_));
        for (tier, bytes) in [("warm", self.warm_bytes), ("cold", self.cold_bytes)] {
            if shared_memory && bytes.unwrap_or(0) != 0 {
                return Err(Error::invalid_option(format!(
                    "{location} is in shared memory alone and cannot have a {tier} tier: leave {tier} away, or name a directory"
                )));
            }
        }
        let warm_bytes = self.warm_bytes.unwrap_or(0);
        if let (Some(directory), 0) = (&self.warm_directory, warm_bytes) {
            return Err(Error::invalid_option(format!(
                "warm_directory names {}, but there is no warm tier to put there: give its size with warm, or leave warm_directory away",
                directory.display()
            )));
        }
        let hot_bytes = self.hot_bytes.unwrap_or(HOT_BYTES_DEFAULT);
        let frame_bytes = self.frame_bytes.unwrap_or(if hot_bytes < FRAME_BYTES_LARGE_FROM {
            FRAME_BYTES_SMALL
        } else {
            FRAME_BYTES_LARGE
        });
        let cold_bytes = self.cold_bytes.unwrap_or(if shared_memory {
            0
        } else {
            hot_bytes.saturating_mul(4).clamp(GIB, TIERS_BYTES_MAX.saturating_sub(hot_bytes).max(GIB))
        });
        let has_durable_tier = warm_bytes != 0 || cold_bytes != 0;
        let durability =
            self.durability.unwrap_or(if has_durable_tier { Durability::EverySec } else { Durability::None });
        let resolved = Resolved {
            hot_bytes: whole_frames(hot_bytes, frame_bytes),
            warm_bytes: whole_frames(warm_bytes, frame_bytes),
            index: self.index.unwrap_or_default(),
            cold_bytes: whole_frames(cold_bytes, frame_bytes),
            frame_bytes,
            durability,
            when_full: self.when_full.unwrap_or(WhenFull::Evict),
            participants_max: self.participants_max,
        };
        // Rounding must not turn a small tier into none.
        for (tier, asked, rounded) in
            [("warm", warm_bytes, resolved.warm_bytes), ("cold", cold_bytes, resolved.cold_bytes)]
        {
            if asked != 0 && rounded == 0 {
                return Err(Error::invalid_option(format!(
                    "a {tier} tier of {} is smaller than one frame: enlarge it, or set it to 0 for none",
                    size_text(asked)
                )));
            }
        }
        resolved.validate()?;
        Ok(resolved)
    }

    /// Whether an existing store is what was asked for. Durability and `when_full` may differ: they can be changed.
    pub fn check_against(&self, location: &Location, store: &Resolved) -> Result<()> {
        let asked = [
            ("hot", self.hot_bytes, store.hot_bytes),
            ("warm", self.warm_bytes, store.warm_bytes),
            ("cold", self.cold_bytes, store.cold_bytes),
            ("frame", self.frame_bytes.map(u64::from), u64::from(store.frame_bytes)),
        ];
        for (name, asked, present) in asked {
            // Compared as creation would have rounded it: the same call must open what it created.
            let differs = asked
                .is_some_and(|asked| asked != present && whole_frames(asked, store.frame_bytes) != present);
            if let (true, Some(asked)) = (differs, asked) {
                return Err(Error::invalid_option(format!(
                    "{location} was created with {name} = {} and cannot be opened with {name} = {}: leave {name} away, or restore a snapshot of it into a new store",
                    size_text(present),
                    size_text(asked)
                )));
            }
        }
        if let Some(index) = self.index.filter(|&index| index != store.index) {
            return Err(Error::invalid_option(format!(
                "{location} was created with its index in the {:?} tier and cannot be opened with it in the {index:?} one: leave index away, or restore a snapshot of it into a new store",
                store.index
            )));
        }
        match self.durability {
            Some(durability) if durability != Durability::None && !store.has_durable_tier() => {
                Err(no_durable_tier(durability))
            }
            _ => Ok(()),
        }
    }
}

/// Down to whole frames, as a limit must hold. An unsupported frame size is left to `validate` to refuse.
fn whole_frames(bytes: u64, frame_bytes: u32) -> u64 {
    match u64::from(frame_bytes) {
        0 => bytes,
        frame_bytes => bytes - bytes % frame_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> Location {
        Location::Directory(PathBuf::from("data"))
    }

    fn refused(options: &Options, location: &Location) -> String {
        let error = options.resolve(location).unwrap_err();
        assert_eq!(error.name(), "InvalidOption");
        error.to_string()
    }

    #[test]
    fn locations() {
        assert_eq!(Location::parse("data/").unwrap(), Location::Directory("data/".into()));
        assert_eq!(Location::parse("shm://a.B_1-2").unwrap(), Location::SharedMemory("a.B_1-2".into()));
        assert_eq!(Location::parse("shm://x").unwrap().to_string(), "shm://x");
        let long = format!("shm://{}", "x".repeat(65));
        for text in
            ["", "shm://", "shm://a/b", "shm://ä", "a\0b", "redis://host", "shm:/a", "/b/shm:/a", &long]
        {
            assert_eq!(Location::parse(text).unwrap_err().name(), "InvalidOption", "{text:?}");
        }
        assert!(Location::parse("/b/shm:/a").unwrap_err().to_string().contains("give \"shm://a\" as text"));
    }

    #[test]
    fn absolute_locations() {
        let here = std::env::current_dir().unwrap();
        for text in ["data", "data/", "./data", ".//data/."] {
            let location = Location::parse(text).unwrap().absolute().unwrap();
            assert_eq!(location.to_string(), here.join("data").to_str().unwrap(), "{text:?}");
        }
        for text in ["/srv/data", "/srv/../data", "shm://x"] {
            let location = Location::parse(text).unwrap();
            assert_eq!(location.absolute().unwrap(), location, "{text:?}");
        }
    }

    #[test]
    fn defaults() {
        let resolved = Options::default().resolve(&directory()).unwrap();
        assert_eq!(
            resolved,
            Resolved {
                hot_bytes: 256 << 20,
                warm_bytes: 0,
                cold_bytes: 1 << 30,
                index: IndexPlacement::Hot,
                frame_bytes: 1 << 20,
                durability: Durability::EverySec,
                when_full: WhenFull::Evict,
                participants_max: 128,
            }
        );
        assert_eq!((resolved.hot_frames(), resolved.cold_frames()), (256, 1024));
        let shared_memory = Options::default().resolve(&Location::SharedMemory("x".into())).unwrap();
        assert_eq!((shared_memory.cold_bytes, shared_memory.durability), (0, Durability::None));
        let large = Options { hot_bytes: Some(512 << 20), ..Options::default() };
        let resolved = large.resolve(&directory()).unwrap();
        assert_eq!((resolved.frame_bytes, resolved.cold_bytes), (8 << 20, 2 << 30));
    }

    #[test]
    fn sizes_are_rounded_down_to_frames_and_open_again() {
        let options = Options {
            hot_bytes: Some((20 << 20) + 5),
            cold_bytes: Some((40 << 20) + 7),
            ..Options::default()
        };
        let resolved = options.resolve(&directory()).unwrap();
        assert_eq!((resolved.hot_bytes, resolved.cold_bytes), (20 << 20, 40 << 20));
        options.check_against(&directory(), &resolved).unwrap();
        let other = Options { hot_bytes: Some(21 << 20), ..Options::default() };
        let message = other.check_against(&directory(), &resolved).unwrap_err().to_string();
        assert!(
            message.contains("20MiB") && message.contains("21MiB") && message.contains("data"),
            "{message}"
        );
        Options::default().check_against(&directory(), &resolved).unwrap();
    }

    #[test]
    fn contradictions_are_refused() {
        let with = |change: fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            options
        };
        for (options, part) in [
            (with(|o| o.hot_bytes = Some(1 << 20)), "too small"),
            (with(|o| o.hot_bytes = Some(u64::MAX)), "too large"),
            (with(|o| o.cold_bytes = Some(u64::MAX)), "too large"),
            (with(|o| o.cold_bytes = Some(5)), "smaller than one frame"),
            (with(|o| o.cold_bytes = Some(128 << 20)), "smaller than the hot tier"),
            (with(|o| o.warm_bytes = Some(1 << 20)), "at least 16 frames"),
            (with(|o| o.warm_bytes = Some(5)), "smaller than one frame"),
            (with(|o| o.warm_directory = Some("/mnt".into())), "no warm tier"),
            (with(|o| o.index = Some(IndexPlacement::Warm)), "does not have"),
            (
                with(|o| {
                    o.cold_bytes = Some(0);
                    o.warm_bytes = Some(64 << 20);
                }),
                "a warm tier of 64MiB is smaller than the hot tier",
            ),
            (with(|o| o.frame_bytes = Some(2 << 20)), "1 MiB or 8 MiB"),
            (with(|o| o.frame_bytes = Some(0)), "1 MiB or 8 MiB"),
            (
                with(|o| {
                    o.frame_bytes = Some(8 << 20);
                    o.hot_bytes = Some(64 << 20);
                }),
                "fewer than 16 frames",
            ),
            (
                with(|o| {
                    o.cold_bytes = Some(0);
                    o.durability = Some(Durability::Always);
                }),
                "needs a cold tier",
            ),
            (with(|o| o.participants_max = 0), "out of range"),
        ] {
            let message = refused(&options, &directory());
            assert!(message.contains(part), "{message} lacks {part:?}");
        }
        let shared_memory = Location::SharedMemory("x".into());
        assert!(refused(&with(|o| o.cold_bytes = Some(1 << 30)), &shared_memory).contains("shared memory"));
        assert!(refused(&with(|o| o.warm_bytes = Some(1 << 30)), &shared_memory).contains("a warm tier"));
        let warm_only = with(|o| {
            o.cold_bytes = Some(0);
            o.warm_bytes = Some(256 << 20);
        });
        let resolved = warm_only.resolve(&directory()).unwrap();
        assert_eq!((resolved.warm_bytes, resolved.durability), (256 << 20, Durability::EverySec));
        assert!(
            refused(&with(|o| o.durability = Some(Durability::EverySec)), &shared_memory)
                .contains("cold tier")
        );
        let none = with(|o| o.cold_bytes = Some(0)).resolve(&directory()).unwrap();
        assert_eq!(none.durability, Durability::None);
        let always = with(|o| o.durability = Some(Durability::Always));
        assert!(always.check_against(&directory(), &none).is_err());
    }

    #[test]
    fn words_and_codes_round_trip() {
        for durability in Durability::ALL {
            assert_eq!(durability.as_str().parse::<Durability>().unwrap(), durability);
            assert_eq!(Durability::from_code(durability.code()), Some(durability));
        }
        for when_full in WhenFull::ALL {
            assert_eq!(when_full.as_str().parse::<WhenFull>().unwrap(), when_full);
            assert_eq!(WhenFull::from_code(when_full.code()), Some(when_full));
        }
        assert!("sometimes".parse::<Durability>().unwrap_err().to_string().contains("everysec"));
        assert!("panic".parse::<WhenFull>().unwrap_err().to_string().contains("evict"));
        assert_eq!((Durability::from_code(3), WhenFull::from_code(2)), (None, None));
    }
}
