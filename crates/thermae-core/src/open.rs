//! Creating a store, attaching to one, rebuilding its shared half.
//!
//! Everything here happens under the attach byte of the lock file, so that one process at a time decides whether the shared half is usable.
//! If it is (`shared_half.rs`), attaching maps two files and claims a slot, whatever is stored. Otherwise, if nobody is attached, it is built
//! anew and recovered from the durable tiers. So it is after a failed flush, once nobody is attached any more. What a creation or a recovery that
//! fails has made is removed again, under the same lock.

use crate::durable::DurableTiers;
use crate::engine::{Engine, Paths};
use crate::env::{Env, EnvFile, OpenHow, check_owner, open_own};
use crate::error::{Error, Result};
use crate::forked::PerProcess;
use crate::layout::{
    CONTROL_MAGIC, ControlHeader, FRESH_HEADS_MAX, Geometry, Globals, LAYOUT_VERSION, PAGE_BYTES,
    Participant, STRUCT_BYTES, Shape, TTL_HEADS_MAX,
};
use crate::leftovers;
use crate::lock::SharedLock;
use crate::losses;
use crate::membership::{ATTACH_BYTE, Membership, bury, is_anyone_attached, lock_byte, unlock_byte};
use crate::options::{Durability, IndexPlacement, Location, Options, Resolved, WhenFull};
use crate::participants::register_for_forks;
use crate::places::{
    SHARED_MEMORY, absolute_warm_directory, directory_of, exists, has_memory, prepare_directory,
    volatile_name, warm_path,
};
use crate::pool::{HUGE_PAGE_BYTES, Mapping};
use crate::recover;
use crate::shared_half::{Places, Stamp, discard_shared_half, words};
use crate::sizes::size_text;
use crate::superblock::{Superblock, parent};
use crate::tiers::open_durable;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// What a huge page may take on average: about as long as small ones with their first faults.
const HUGE_PAGE_MS_MAX: u64 = 1;
/// How late they may be before they are given up.
const HUGE_PAGES_DELAY_MS_MAX: u64 = 5;
/// Attempts to lock a lock file that others remove meanwhile.
const LOCK_ATTEMPTS_MAX: u32 = 16;

/// The attach byte of a lock file, held.
pub(crate) struct AttachGuard {
    file: Arc<dyn EnvFile>,
}

impl Drop for AttachGuard {
    fn drop(&mut self) {
        unlock_byte(self.file.fd(), ATTACH_BYTE);
    }
}

/// Opens the lock file and waits for its attach byte.
pub(crate) fn lock_attach(env: &dyn Env, path: &Path) -> Result<(Arc<dyn EnvFile>, AttachGuard)> {
    for _ in 0..LOCK_ATTEMPTS_MAX {
        let file = env.open(path, OpenHow::CREATE).map_err(|source| Error::io("open", path, source))?;
        lock_byte(file.fd(), ATTACH_BYTE, true).map_err(|source| Error::io("lock", path, source))?;
        let guard = AttachGuard { file: file.clone() };
        let locked = file.metadata().map_err(|source| Error::io("look at", path, source))?;
        check_owner(env, &locked, path)?;
        // Whoever held it may have removed the store, and another may have made a new one with a lock file of its own.
        match env.metadata(path) {
            Ok(named) if (named.device, named.inode) == (locked.device, locked.inode) => {
                return Ok((file, guard));
            }
            Ok(_) => {}
            Err(source) if source.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::io("look at", path, source)),
        }
    }
    Err(Error::InUse(format!(
        "{} is being removed and made again all the time by other processes: end them, then open the store again",
        parent(path).display()
    )))
}

/// Refuses to make a store among foreign files.
fn check_vacant(env: &dyn Env, directory: &Path) -> Result<()> {
    let names = env.list(directory).map_err(|source| Error::io("list", directory, source))?;
    let foreign = names.iter().find(|name| *name != "lock" && !name.to_string_lossy().ends_with(".new"));
    match foreign {
        None => Ok(()),
        Some(name) => Err(Error::NotAStore(format!(
            "{} is not empty (it holds {}) and holds no store: name an empty or a new directory",
            directory.display(),
            name.to_string_lossy()
        ))),
    }
}

fn create_superblock(
    env: &dyn Env,
    path: &Path,
    resolved: Resolved,
    options: &Options,
) -> Result<Superblock> {
    let geometry = geometry_of(&resolved, None)?;
    let superblock = Superblock {
        generation: 0,
        uuid: env.random_bytes_16(),
        hash_seed: env.random_u64(),
        created_wall_ms: env.wall_time_ms(),
        options: resolved,
        partitions: geometry.partitions,
        slot_count: geometry.slots,
        flags: 0,
        sequence_limit: 0,
        tombstone_floor: 0,
        warm_directory: absolute_warm_directory(options)?,
        memory_id: [0; 16],
    };
    superblock.create(env, path)?;
    Superblock::read(env, path)
}

/// What follows from a store's options; `partitions` are those it was created with, if it exists.
pub(crate) fn geometry_of(resolved: &Resolved, shape: Option<Shape>) -> Result<Geometry> {
    let (tiers, frame, participants) =
        (resolved.tier_bytes(), resolved.frame_bytes, resolved.participants_max);
    let geometry = match shape {
        Some(shape) => Geometry::with_shape(tiers, frame, participants, shape),
        None => Geometry::of(tiers, frame, participants),
    };
    geometry.ok_or_else(|| {
        Error::InvalidOption(format!(
            "a hot tier of {} has no room for the control file and eight frames beside durable tiers of {} and {} participants: \
             raise hot, or lower warm, cold or participants_max",
            size_text(tiers.hot),
            size_text(tiers.warm + tiers.cold),
            resolved.participants_max
        ))
    })
}

fn map_file(env: &dyn Env, path: &Path, len: usize, writable: bool) -> Result<Mapping> {
    let how = OpenHow { read: true, write: writable, ..OpenHow::default() };
    Mapping::new(open_own(env, path, how)?, path, len, writable)
}

/// Attaches to a store, creating or rebuilding what is missing.
pub(crate) fn attach(location: &Location, options: &Options) -> Result<Arc<Engine>> {
    let env = options.env.clone();
    // Files are opened by their paths later too, for forks and snapshots, when the working directory may be another.
    let location = &location.absolute()?;
    let directory = directory_of(&*env, location)?;
    let may_create = options.create && !options.read_only;
    let superblock_path = directory.join("store");
    let has_store = match env.exists(&superblock_path) {
        // A path through a file is answered below, by what is said of the directory.
        Err(source) if source.kind() == io::ErrorKind::NotADirectory => false,
        found => found.map_err(|source| Error::io("look at", &superblock_path, source))?,
    };
    let has_directory = has_store || env.exists(&directory).unwrap_or(true);
    if !has_store && may_create {
        // Options that can't be are refused before anything is made.
        geometry_of(&options.resolve(location)?, None)?;
    }
    prepare_directory(&*env, &directory, may_create)?;
    if !has_store {
        if !may_create {
            return Err(Error::NotAStore(format!(
                "{} holds no store: check the path{}",
                directory.display(),
                if options.read_only {
                    ", or open it once without read_only to create it"
                } else {
                    ", or open it with create=True"
                }
            )));
        }
        check_vacant(&*env, &directory)?;
    }
    let lock_path = directory.join("lock");
    let (lock_file, attach_guard) = lock_attach(&*env, &lock_path)?;
    let is_new = !exists(&*env, &superblock_path)?;
    let attached = attach_locked(env.clone(), location, &directory, lock_file, is_new, options);
    if is_new && attached.is_err() {
        undo_creation(&*env, location, &directory, !has_directory);
    }
    drop(attach_guard);
    let engine = Arc::new(attached?);
    register_for_forks(&engine);
    Ok(engine)
}

/// Removes what a failed creation has made, under the attach lock, as far as that is possible: another attempt may ask for other sizes, and
/// memory that no store will ever use must not stay taken. The failure that led here is the one to report.
fn undo_creation(env: &dyn Env, location: &Location, directory: &Path, with_directory: bool) {
    let superblock_path = directory.join("store");
    if matches!(location, Location::Directory(_))
        && let (Ok(superblock), Ok(found)) =
            (Superblock::read(env, &superblock_path), env.metadata(&superblock_path))
    {
        if superblock.warm_directory.is_some()
            && let Ok(path) = warm_path(env, directory, &superblock)
        {
            let _ = env.remove_file(&path);
        }
        let volatile = volatile_name(&superblock, found.device, found.inode);
        let _ = env.remove_dir_all(&Path::new(SHARED_MEMORY).join(volatile));
    }
    if with_directory {
        let _ = env.remove_dir_all(directory);
        return;
    }
    // The superblock last: with it, what is left is a store that was never completely made, and the next opening completes it.
    for name in ["control", "hot", "warm", "cold", "store"] {
        let _ = env.remove_file(&directory.join(name));
    }
    let _ = env.sync_dir(directory);
}

/// The rest of attaching, under the attach lock.
fn attach_locked(
    env: Arc<dyn Env>,
    location: &Location,
    directory: &Path,
    lock_file: Arc<dyn EnvFile>,
    is_new: bool,
    options: &Options,
) -> Result<Engine> {
    let directory = directory.to_path_buf();
    let (superblock_path, lock_path) = (directory.join("store"), directory.join("lock"));
    let superblock = if is_new {
        check_vacant(&*env, &directory)?;
        let resolved = options.resolve(location)?;
        if let Some(warm_directory) = absolute_warm_directory(options)? {
            prepare_directory(&*env, &warm_directory, true)?;
        }
        create_superblock(&*env, &superblock_path, resolved, options)?
    } else {
        Superblock::read(&*env, &superblock_path)?
    };
    if (options.read_only || !options.create) && superblock.sequence_limit != 0 {
        return Err(Error::NotAStore(format!(
            "{} is a snapshot, and opening it makes it a store of its own, which can't be restored any more: restore it (thermae restore), or \
             open it with create=True",
            directory.display()
        )));
    }
    options.check_against(location, &superblock.options)?;
    let geometry = geometry_of(&superblock.options, Some(superblock.shape()))?;
    if geometry.slots != superblock.slot_count {
        return Err(Error::WrongLayout(format!(
            "{} was made by a build that lays stores out differently (slots {} and {}): open it with that build, take a snapshot there \
             and restore it here",
            superblock_path.display(),
            superblock.slot_count,
            geometry.slots
        )));
    }
    let found =
        env.metadata(&superblock_path).map_err(|source| Error::io("look at", &superblock_path, source))?;
    let stamp = Stamp {
        store_id: words(superblock.uuid),
        boot_id: words(
            env.boot_id().map_err(|source| Error::io("read", "/proc/sys/kernel/random/boot_id", source))?,
        ),
        memory_id: words(superblock.memory_id),
        device: found.device,
        inode: found.inode,
    };
    let is_attached = is_anyone_attached(lock_file.fd(), geometry.participants);
    let places = Places::of(&*env, location, &directory, &superblock, &stamp)?;
    let usable = places.usable(&*env, &stamp, &geometry, is_attached)?;
    let is_usable = usable.is_some();
    let volatile = usable.unwrap_or_else(|| places.chosen(&*env, &geometry, options));
    let paths = Paths {
        location: location.clone(),
        warm: warm_path(&*env, &directory, &superblock)?,
        superblock: superblock_path,
        lock: lock_path,
        cold: directory.join("cold"),
        control: volatile.join("control"),
        hot: volatile.join("hot"),
        directory,
        volatile,
    };
    let mut durable = open_durable(&*env, &paths, &superblock, &geometry, options)?;
    if !is_usable {
        if is_attached {
            return Err(Error::InUse(format!(
                "{} is open in processes that do not share this process's {SHARED_MEMORY}: let containers share it (--ipc or a common mount), \
                 or create the store with placement=\"directory\"",
                paths.location,
            )));
        }
        build(&env, &paths, &superblock, &geometry, stamp, durable, &lock_file, options)
            .inspect_err(|_| discard_shared_half(&*env, &paths.directory, &paths.volatile))?;
        places.discard_others(&*env, &paths.volatile);
        durable = open_durable(&*env, &paths, &superblock, &geometry, options)?;
    }
    join(env, paths, superblock, geometry, durable, lock_file, options)
}

fn new_file(env: &dyn Env, path: &Path) -> Result<Arc<dyn EnvFile>> {
    let how = OpenHow { read: true, write: true, create: true, truncate: true, ..OpenHow::default() };
    let file = env.open(path, how).map_err(|source| Error::io("create", path, source))?;
    let metadata = file.metadata().map_err(|source| Error::io("look at", path, source))?;
    check_owner(env, &metadata, path)?;
    Ok(file)
}

fn not_allocated(path: &Path, len: u64, source: io::Error) -> Error {
    if source.raw_os_error() != Some(libc::ENOSPC) {
        return Error::io(format!("allocate {} for", size_text(len)), path, source);
    }
    Error::Full(format!(
        "{} has no room for {} of hot tier: choose a smaller hot, give shared memory more room (mount -o remount,size=..., \
         docker run --shm-size), or open with placement=\"directory\" to map files in the store's directory instead",
        path.parent().unwrap_or(path).display(),
        size_text(len)
    ))
}

/// Makes a file of `len` bytes, all of them allocated.
fn allocate_file(env: &dyn Env, path: &Path, len: u64) -> Result<Mapping> {
    let file = new_file(env, path)?;
    if let Err(source) = file.allocate(0, len) {
        let _ = env.remove_file(path);
        return Err(not_allocated(path, len, source));
    }
    Mapping::new(file, path, usize::try_from(len).unwrap_or(usize::MAX), true)
}

/// Makes the file of the hot tier and maps it. It must not be touched before `fill_hot`.
fn create_hot(env: &dyn Env, path: &Path, len: u64) -> Result<Mapping> {
    let file = new_file(env, path)?;
    file.set_len(len).map_err(|source| not_allocated(path, len, source))?;
    Mapping::new(file, path, usize::try_from(len).unwrap_or(usize::MAX), true)
}

/// Allocates all of the hot tier: in huge pages as far as the kernel gives them, then in small ones. A huge page is ready to use for a third
/// of what its 512 small ones cost to allocate alone; each of those would then fault when it is first touched, and the housekeeper would
/// copy them into a huge one in the end. Returns how many there are.
fn fill_hot(env: &dyn Env, hot: &Mapping, path: &Path, len: u64) -> Result<u32> {
    take_huge_pages(env, hot, len)
        .and_then(|huge_pages| hot.file().allocate(0, len).map(|()| huge_pages))
        .map_err(|source| not_allocated(path, len, source))
}

/// Has a new, empty file backed by huge pages until the kernel refuses one, or takes longer over them than they save: memory may be in
/// pieces that it first has to move about, or a hypervisor's that it has to fetch. Returns how many there are.
fn take_huge_pages(env: &dyn Env, hot: &Mapping, len: u64) -> io::Result<u32> {
    let started_ms = env.boot_time_ms();
    let wanted = u32::try_from(len / HUGE_PAGE_BYTES as u64).unwrap_or(u32::MAX);
    for page in 0..wanted {
        let offset = page as usize * HUGE_PAGE_BYTES;
        // Nothing collapses that holds nothing.
        hot.file().allocate(offset as u64, PAGE_BYTES as u64)?;
        let allowed_ms = HUGE_PAGES_DELAY_MS_MAX + u64::from(page) * HUGE_PAGE_MS_MAX;
        if env.boot_time_ms().saturating_sub(started_ms) > allowed_ms || !hot.collapse(offset) {
            return Ok(page);
        }
    }
    Ok(wanted)
}

/// Builds the shared half, recovering from the cold tier what is there.
#[allow(clippy::too_many_arguments, reason = "the parts of a store that exist at this point")]
fn build(
    env: &Arc<dyn Env>,
    paths: &Paths,
    superblock: &Superblock,
    geometry: &Geometry,
    mut stamp: Stamp,
    durable: Option<DurableTiers>,
    lock_file: &Arc<dyn EnvFile>,
    options: &Options,
) -> Result<()> {
    let memory_id = env.random_bytes_16();
    stamp.memory_id = words(memory_id);
    if paths.volatile != paths.directory {
        prepare_directory(&**env, &paths.volatile, true)?;
        has_memory(&**env, &paths.volatile)?;
        leftovers::note_origin(&**env, &paths.volatile, &paths.directory)?;
    }
    let _ = env.remove_file(&paths.control);
    let control = allocate_file(&**env, &paths.control, geometry.control_bytes() as u64)?;
    // Without room for the hot tier there is to be nothing; the failure to report is that one.
    let discard = |_: &Error| {
        let _ = env.remove_file(&paths.hot);
        let _ = env.remove_file(&paths.control);
    };
    let hot = create_hot(&**env, &paths.hot, geometry.hot_file_bytes() as u64).inspect_err(discard)?;
    let header: &ControlHeader = control.at(0);
    header.layout_version.store(LAYOUT_VERSION, Ordering::Relaxed);
    header.struct_bytes.store(STRUCT_BYTES, Ordering::Relaxed);
    for word in 0..2 {
        header.store_id[word].store(stamp.store_id[word], Ordering::Relaxed);
        header.boot_id[word].store(stamp.boot_id[word], Ordering::Relaxed);
        header.memory_id[word].store(stamp.memory_id[word], Ordering::Relaxed);
    }
    header.device.store(stamp.device, Ordering::Relaxed);
    header.inode.store(stamp.inode, Ordering::Relaxed);
    header.frame_bytes.store(geometry.frame_bytes, Ordering::Relaxed);
    header.hot_frames.store(geometry.hot_frames, Ordering::Relaxed);
    header.warm_frames.store(geometry.warm_frames, Ordering::Relaxed);
    header.cold_frames.store(geometry.cold_frames, Ordering::Relaxed);
    header.slots.store(geometry.slots, Ordering::Relaxed);
    header.partitions.store(geometry.partitions, Ordering::Relaxed);
    header.participants.store(geometry.participants, Ordering::Relaxed);
    header.feed_slots.store(geometry.feed_slots, Ordering::Relaxed);
    header.hash_seed.store(superblock.hash_seed, Ordering::Relaxed);
    let offset =
        i64::try_from(env.wall_time_ms()).unwrap_or(0) - i64::try_from(env.boot_time_ms()).unwrap_or(0);
    header.clock_offset_ms.store(offset, Ordering::Relaxed);

    let writer = Options { read_only: false, ..options.clone() };
    // Not opened again where it can be helped: what the first opening found missing is for the recovery to tell.
    let durable =
        if options.read_only { open_durable(&**env, paths, superblock, geometry, &writer)? } else { durable };
    let hot = match superblock.options.index {
        IndexPlacement::Hot => hot,
        IndexPlacement::Warm => map_hot(&**env, paths, superblock, geometry, durable.as_ref(), true)?,
    };
    let is_snapshot = superblock.sequence_limit != 0;
    let engine = assemble(
        env.clone(),
        paths.clone(),
        superblock.clone(),
        *geometry,
        durable,
        (control, hot),
        lock_file,
        &writer,
    )?;
    let globals = engine.globals();
    globals.next_sequence.store(1, Ordering::Relaxed);
    globals.flush_noted.store(u64::MAX, Ordering::Relaxed);
    globals.next_segment.store(1, Ordering::Relaxed);
    globals.durability.store(u32::from(superblock.options.durability.code()), Ordering::Relaxed);
    globals.when_full.store(u32::from(superblock.options.when_full.code()), Ordering::Relaxed);
    let frames = geometry.hot_frames;
    let (fresh, ttl) = match frames {
        0..24 => (1, 0),
        24..64 => (1, 2),
        64..256 => (2, 4),
        _ => (FRESH_HEADS_MAX, TTL_HEADS_MAX),
    };
    globals.fresh_heads.store(fresh, Ordering::Relaxed);
    globals.ttl_heads.store(ttl, Ordering::Relaxed);
    engine.repair_pool();
    // Allocated while the log is read, which touches none of it.
    let report = std::thread::scope(|scope| {
        let filling =
            scope.spawn(|| fill_hot(&**env, &engine.hot, &paths.hot, geometry.hot_file_bytes() as u64));
        recover::recover(&engine, || {
            let filled = filling.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            globals.huge_pages.store(filled.inspect_err(discard)?, Ordering::Relaxed);
            // There is room, and all was read: from here on any other shared half is out of date, and the recovery may write. Both copies: the
            // identity of another must not come back with the older one, should the newer one be damaged some day.
            for _ in 0..2 {
                Superblock::update(&**env, &paths.superblock, |superblock| superblock.memory_id = memory_id)?;
            }
            Ok(())
        })
    })?;
    if engine.durable.is_some() {
        losses::add(&**env, &paths.directory, &report.damaged)?;
        // What was superseded before it was flushed is in no file: up to here, numbers may rightly be missing.
        globals
            .freed_sequence
            .store(globals.next_sequence.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
    }
    if is_snapshot {
        // A snapshot holds nothing above its limit, and what is written from here on must not be ignored by the next recovery.
        // Both copies: the limit must not come back with the older one, should the newer one be damaged some day.
        for _ in 0..2 {
            Superblock::update(&**env, &paths.superblock, |superblock| superblock.sequence_limit = 0)?;
        }
    }
    // Last of all: from here on the shared half is one that can be attached to.
    engine.control.at::<ControlHeader>(0).magic.store(CONTROL_MAGIC, Ordering::SeqCst);
    Ok(())
}

#[allow(clippy::too_many_arguments, reason = "the parts of an engine")]
fn assemble(
    env: Arc<dyn Env>,
    paths: Paths,
    superblock: Superblock,
    geometry: Geometry,
    durable: Option<DurableTiers>,
    (control, hot): (Mapping, Mapping),
    lock_file: &Arc<dyn EnvFile>,
    options: &Options,
) -> Result<Engine> {
    let header: &ControlHeader = control.at(0);
    let clock_offset_ms = header.clock_offset_ms.load(Ordering::Relaxed);
    let now_ms = env.boot_time_ms().saturating_add_signed(clock_offset_ms);
    // A read-only participant writes its own pages only; the mapping for claiming them goes when it has them.
    let claiming = if control.is_writable() {
        None
    } else {
        Some(map_file(&*env, &paths.control, geometry.control_bytes(), true)?)
    };
    let pages = claiming.as_ref().unwrap_or(&control);
    let offset = |slot: u32| geometry.participants_offset() + slot as usize * geometry.participant_bytes();
    let page = |slot: u32| pages.at::<Participant>(offset(slot));
    let clear = |slot: u32| {
        let words = (geometry.slots as usize).div_ceil(64);
        let bits: &[std::sync::atomic::AtomicU64] =
            pages.slice(offset(slot) + crate::layout::PINS_OFFSET, words);
        bits.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    };
    let bury = |slot: u32| bury(pages, &geometry, slot);
    let member = Membership::claim(
        lock_file.clone(),
        geometry.participants,
        &page,
        &clear,
        &bury,
        options.read_only,
        now_ms,
    )?;
    let Some(member) = member else {
        return Err(Error::TooManyParticipants(format!(
            "all {} participant slots of {} are taken: close some handles, or create the store with a greater participants_max",
            geometry.participants, paths.location
        )));
    };
    let own_pages = match claiming {
        Some(_) => Some(own_pages(&*env, &paths, &geometry, member.slot())?),
        None => None,
    };
    Ok(Engine {
        hash_seed: superblock.hash_seed,
        offset_bits: geometry.offset_bits(),
        geometry,
        paths,
        env,
        durable,
        superblock,
        member,
        read_only: options.read_only,
        verify_reads: options.verify_reads,
        salvage: options.salvage,
        control,
        own_pages: std::sync::atomic::AtomicPtr::new(
            own_pages.map_or(std::ptr::null_mut(), |pages| Box::into_raw(Box::new(pages))),
        ),
        hot,
        closed: AtomicBool::new(false),
        orphaned: AtomicBool::new(false),
        forks: AtomicU32::new(0),
        reaping: PerProcess::default(),
        clock_offset_ms,
    })
}

/// A writable mapping of one participant's pages alone.
pub(crate) fn own_pages(env: &dyn Env, paths: &Paths, geometry: &Geometry, slot: u32) -> Result<Mapping> {
    let how = OpenHow { read: true, write: true, ..OpenHow::default() };
    let file = open_own(env, &paths.control, how)?;
    let offset = geometry.participants_offset() + slot as usize * geometry.participant_bytes();
    Mapping::part(file, &paths.control, offset, geometry.participant_bytes(), true)
}

/// Maps the hot frames and, where they hold the index too, the warm ones behind them.
fn map_hot(
    env: &dyn Env,
    paths: &Paths,
    superblock: &Superblock,
    geometry: &Geometry,
    durable: Option<&DurableTiers>,
    writable: bool,
) -> Result<Mapping> {
    let warm = durable.filter(|_| superblock.options.index == IndexPlacement::Warm);
    let Some(tail) = warm.and_then(DurableTiers::warm_part) else {
        return map_file(env, &paths.hot, geometry.hot_file_bytes(), writable);
    };
    let how = OpenHow { read: true, write: writable, ..OpenHow::default() };
    let file = open_own(env, &paths.hot, how)?;
    Mapping::with_tail((file, &paths.hot, geometry.hot_file_bytes()), tail, writable)
}

/// Refuses a reader that asks for another durability or `when_full` than there is: it changes nothing, and must not seem to.
fn check_reader(location: &Location, options: &Options, globals: &Globals) -> Result<()> {
    let code = |word: &AtomicU32| u8::try_from(word.load(Ordering::Relaxed)).ok();
    let durability = code(&globals.durability).and_then(Durability::from_code).map(Durability::as_str);
    let when_full = code(&globals.when_full).and_then(WhenFull::from_code).map(WhenFull::as_str);
    for (name, asked, present) in [
        ("durability", options.durability.map(Durability::as_str), durability),
        ("when_full", options.when_full.map(WhenFull::as_str), when_full),
    ] {
        if let (Some(asked), Some(present)) = (asked, present)
            && asked != present
        {
            return Err(Error::InvalidOption(format!(
                "{location} has {name} = {present:?}, which a read-only handle can't change to {asked:?}: leave {name} away, or open it without read_only"
            )));
        }
    }
    Ok(())
}

/// Maps a usable shared half and claims a slot in it.
fn join(
    env: Arc<dyn Env>,
    paths: Paths,
    superblock: Superblock,
    geometry: Geometry,
    durable: Option<DurableTiers>,
    lock_file: Arc<dyn EnvFile>,
    options: &Options,
) -> Result<Engine> {
    let writable = !options.read_only;
    let control = map_file(&*env, &paths.control, geometry.control_bytes(), writable)?;
    if options.read_only {
        check_reader(&paths.location, options, control.at(PAGE_BYTES))?;
    }
    let hot = map_hot(&*env, &paths, &superblock, &geometry, durable.as_ref(), writable)?;
    leftovers::hold(&*env, hot.file(), &paths.hot)?;
    if writable && paths.volatile != paths.directory {
        // Anew where the store was moved.
        leftovers::note_origin(&*env, &paths.volatile, &paths.directory)?;
    }
    let engine = assemble(env, paths, superblock, geometry, durable, (control, hot), &lock_file, options)?;
    if writable {
        engine.free_impossible_locks();
    }
    Ok(engine)
}

impl Engine {
    /// Frees every lock that is this participant's before it took any. A slot is given away only when its last owner's locks were taken
    /// over, so such a word is damaged, and whoever waited for it would wait for itself.
    fn free_impossible_locks(&self) {
        let me = Some(self.me());
        for number in 0..self.geometry.partitions {
            let lock = &self.partitions()[number as usize].lock;
            if lock.owner() == me {
                lock.unlock();
                self.repair_partition(&self.lock_partition(number));
            }
        }
        for number in 0..self.globals().heads.len() as u32 {
            if self.head(number).lock.owner() == me {
                self.head(number).lock.unlock();
                self.close_open_segment(number);
            }
        }
        let is_damaged = self
            .globals()
            .locks()
            .into_iter()
            .filter(|lock| lock.owner() == me)
            .map(SharedLock::unlock)
            .count()
            > 0;
        if is_damaged {
            let pool = self.lock_pool();
            self.repair_pool();
            drop(pool);
            let _arena = self.lock_arena();
            self.repair_arena();
        }
    }

    /// Has the store go on with what this opening asks for, where it is another durability or `when_full` than there is.
    pub(crate) fn adopt_settings(&self, options: &Options) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        let stored = &self.superblock.options;
        let is_news = |when_full| when_full != self.when_full() || when_full != stored.when_full;
        let when_full = options.when_full.filter(|&when_full| is_news(when_full));
        let is_news = |durability| durability != self.durability() || durability != stored.durability;
        let durability = options.durability.filter(|&durability| is_news(durability));
        if when_full.is_none() && durability.is_none() {
            return Ok(());
        }
        self.check_writable()?;
        when_full.map_or(Ok(()), |when_full| self.change_when_full(when_full))?;
        durability.map_or(Ok(()), |durability| self.change_durability(durability))
    }

    /// Changes the durability, for all participants, in memory and for whoever makes that anew.
    pub(crate) fn change_durability(&self, durability: Durability) -> Result<()> {
        let in_memory = (&self.globals().durability, durability.code());
        self.change_setting(in_memory, |superblock| superblock.options.durability = durability)?;
        if durability == Durability::None { Ok(()) } else { self.flush_all() }
    }

    /// Changes what a full store does, likewise.
    pub(crate) fn change_when_full(&self, when_full: WhenFull) -> Result<()> {
        let in_memory = (&self.globals().when_full, when_full.code());
        self.change_setting(in_memory, |superblock| superblock.options.when_full = when_full)
    }

    /// Under one lock, so that memory and file agree on which of two changes was the last. Written down first: where that fails, the store goes on
    /// as it was.
    fn change_setting(
        &self,
        (word, code): (&AtomicU32, u8),
        change: impl FnOnce(&mut Superblock),
    ) -> Result<()> {
        let (_file, _guard) = lock_attach(&*self.env, &self.paths.lock)?;
        Superblock::update(&*self.env, &self.paths.superblock, change)?;
        word.store(u32::from(code), Ordering::SeqCst);
        Ok(())
    }

    /// Changes the superblock, durably, excluding whoever attaches at the same time.
    pub(crate) fn update_superblock(&self, change: impl FnOnce(&mut Superblock)) -> Result<()> {
        // A file of its own: locks of one open file do not exclude its own threads.
        let (_file, _guard) = lock_attach(&*self.env, &self.paths.lock)?;
        Superblock::update(&*self.env, &self.paths.superblock, change).map(drop)
    }
}
