//! Thermae's engine: one shared copy of keys and values, in tiers, for any number of processes.
//!
//! The layers, top to bottom; each uses only those below it (a test holds this):
//!
//! - check: verifying every invariant
//! - restore: stores made from snapshots
//! - snapshot: a consistent copy while writers go on
//! - walks: what a caller sees of all keys together
//! - observer: what others changed, told to who wants to know
//! - operation: what who runs a store asks of it and changes
//! - store: what a caller sees
//! - stats: what a store holds, has done, and is configured as
//! - keeper: the background threads and which duty runs when
//! - scan: walking over all keys
//! - remove: removing all of a store, or its shared half
//! - open: creating and attaching
//! - tiers: the files of the durable tiers, opened and made
//! - transaction: several keys at once, all or nothing
//! - view: values used where they lie
//! - names: named locks
//! - large: values in extents
//! - write: changing a key
//! - room: making room when a tier is full
//! - full: whether room may yet be gained, and what a writer is told that finds none
//! - expire: removing what has expired
//! - migrate: what leaves the warm tier for the cold one
//! - demote: what leaves the hot tier for the durable ones, and what comes back
//! - evict: what a store without a cold tier drops
//! - pack: what is dead before it is flushed is not written
//! - evict_cold: what a store with one drops
//! - evict_key: dropping single keys, as if they were deleted
//! - compact: copying live records together
//! - relocate: going through a segment and moving what is alive in it
//! - room_lock: the lock of those who make room
//! - census: what is in the tiers now
//! - leftovers: shared memory whose store may be gone
//! - losses: what recoveries found damaged, kept until a repair
//! - recover: the shared half rebuilt from the durable one
//! - rebuild: the index filled from what was read back
//! - replay: a segment of the log read back
//! - updates: what was read back, by hash
//! - checkpoint: the index written down
//! - flush: the log's bytes made durable
//! - partition: locking a partition and making it whole
//! - read: finding a record and copying it out
//! - batch: what a record says of the transaction that it belongs to
//! - log: reserving, committing, abandoning space
//! - index: from hash to address
//! - arena: memory for index tables
//! - segment: the segment table and the frames
//! - feed: changes put where observers read them
//! - marked: whether any key begins with a byte that no text has
//! - participants: pins, liveness, reaping, forks
//! - engine: an attached store
//! - membership: one handle's slot
//! - env_test: environments that fail on purpose and remember what was written
//! - durable: the warm and the cold tier as one row of frames
//! - persistent: a file on persistent memory
//! - frame_file: the file of a durable tier
//! - staged: directories that are complete or not there
//! - shared_half: whether the shared half can be gone on with, and where it is
//! - places: where a store's parts are
//! - superblock: identity and configuration
//! - pool: mapped memory
//! - lines: cache lines written back to memory
//! - ring: entries that many write and many read, by tickets
//! - bucket: entries of the index, and where they are looked for
//! - layout: everything in shared memory
//! - background: giving way to others
//! - block: checksummed blocks of a file
//! - lock: locks that survive their owner
//! - record: a record's bytes
//! - crash: points at which tests kill
//! - forked: values that a forked child does not take over
//! - sync: atomics, threads and time
//! - waiting: telling a caller of waits, and giving up
//! - options: what a user may choose
//! - sizes: sizes as users write them
//! - env: files, clock, randomness
//! - error: what can go wrong
#![warn(missing_docs)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "sizes are bounded by the frame size, which fits 32 bits; see layout"
)]

mod arena;
mod background;
mod batch;
mod block;
mod bucket;
mod census;
mod check;
mod checkpoint;
mod compact;
mod crash;
mod demote;
pub mod durable;
pub mod engine;
#[allow(clippy::disallowed_methods, reason = "the one place that touches the file system")]
pub mod env;
#[cfg(any(test, feature = "test-env"))]
pub mod env_test;
mod error;
mod evict;
mod evict_cold;
mod evict_key;
mod expire;
mod feed;
mod flush;
mod forked;
pub mod frame_file;
mod full;
mod index;
mod keeper;
mod large;
pub mod layout;
mod leftovers;
mod lines;
pub mod lock;
mod log;
mod losses;
mod marked;
mod membership;
mod migrate;
mod names;
mod observer;
mod open;
mod operation;
mod options;
mod pack;
mod participants;
mod partition;
mod persistent;
mod places;
mod pool;
mod read;
mod rebuild;
pub mod record;
mod recover;
mod relocate;
mod remove;
mod replay;
mod restore;
mod ring;
mod room;
mod room_lock;
mod scan;
mod segment;
mod shared_half;
mod sizes;
mod snapshot;
mod staged;
mod stats;
mod store;
mod superblock;
mod sync;
mod tiers;
mod transaction;
mod updates;
mod view;
mod waiting;
mod walks;
mod write;

pub use background::work_in_background;
pub use check::{CheckReport, Problem};
pub use error::{Error, Result};
pub use feed::ChangeKind;
pub use leftovers::{MemoryState, SharedMemory, remove_orphaned_memory, shared_memory};
pub use marked::KEY_MARK;
pub use names::LockToken;
pub use observer::{Change, Observer};
pub use options::{Durability, IndexPlacement, Location, Options, ShmPlacement, WhenFull};
pub use read::RecordMeta;
pub use record::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
pub use remove::{destroy, forget_shared_memory};
pub use restore::{RestoreReport, restore};
pub use scan::{Key, Scan};
pub use sizes::parse_size;
pub use snapshot::SnapshotReport;
pub use stats::{Config, Stats};
pub use store::{Condition, Current, ENCODING_INTEGER, SetOptions, SetOutcome, Store, Update, deferring};
pub use transaction::BatchOp;
pub use view::View;
pub use waiting::{Cancellation, WaitHooks, set_wait_hooks};
