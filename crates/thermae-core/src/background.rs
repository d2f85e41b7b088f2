//! Work in the background gives way: between two pieces of it, who waits for the processor goes first.
//!
//! A round of the housekeeper is a millisecond in one piece, which a scheduler lets it finish: a server whose loop is on the same processor then
//! answers a millisecond late, four times a second (99.9 % of requests at half of the peak load took up to 1.2 ms, and 0.15 ms since the
//! housekeeper gives way).
//!
//! It holds the room lock meanwhile, for which writers wait who find no frame. Who serves requests is done in microseconds; who keeps the processor
//! for milliseconds whenever it is given has work of its own, and would have the housekeeper get on with a piece for each slice of the other's
//! while the writers wait. So it is counted how long one gave way, and others are due three quarters of the time. For that reason, too, it
//! has no lower priority. (Rejected: to give way to nobody for a while after one who took long. A server that works off what came while
//! a disk or its machine stood still takes long, too, and met the background's longest pieces just then.)
//!
//! Some work is done by the system in one piece, whoever waits: making a huge page takes 0.1 to 0.7 ms, and 5 to 9 ms where a hypervisor has to
//! fetch the memory first. While others wait for such pieces they are rare, and as many as there are to do while nobody does.
//!
//! What is written in the background goes to the device as it is written, and is let go of once it is there: what a sync finds to write, and what
//! the removal of a file finds in memory, is milliseconds of work that the system does in one piece.
//!
//! Writers do the same work where the housekeeper is not ahead of them, and give way to nobody: they wait for what comes of it.

use crate::block::BLOCK_BYTES;
use crate::env::EnvFile;
use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};

/// Records that are gone through in a piece of work: some 20 us.
const RECORDS_PER_PIECE: usize = 256;
/// Bytes that are copied in a piece of work, to a file or from memory: 10 to 30 us.
pub(crate) const PIECE_BYTES: usize = 32 << 10;
/// Bytes that a device is asked to begin with at a time: as long a piece of work, and enough for it to be fast.
const WRITTEN_TOGETHER_BYTES: usize = 256 << 10;
/// What the others may have been ahead by at most, beyond their share.
const AHEAD_MAX: Duration = Duration::from_millis(10);
/// One part in so many of the time is the background's.
const SHARE: u32 = 4;

/// One part in so many of the time may be work in one piece that others wait for. At half of its peak load a server is as long in working off
/// what came meanwhile, so that half of what would be seen in the 99.9th percentile is late.
const WAITING_SHARE: u32 = 4000;
/// They did wait where they then kept the processor for more than one part in so many of the time that the piece took: what the system's
/// own threads do now and then is less.
const CATCHING_UP_SHARE: u32 = 100;
/// Nor is a request served in less.
const CATCHING_UP_MIN: Duration = Duration::from_micros(5);
/// A piece that took long because the machine stood still is no reason to rest for hours.
const REST_MAX: Duration = Duration::from_secs(30);

/// How long a thread waited for those whom it gave way to, less the share of the time that they are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Account {
    ahead: Duration,
    as_of: Instant,
}

impl Account {
    /// After a piece of work that ended at `began`, and giving way from then until `ended`.
    fn noted(self, began: Instant, ended: Instant) -> Self {
        let due = (ended - self.as_of) / SHARE * (SHARE - 1);
        Self { ahead: (self.ahead + (ended - began)).saturating_sub(due), as_of: ended }
    }
}

thread_local! {
    /// `None`: this thread does not work in the background.
    static ACCOUNT: Cell<Option<Account>> = const { Cell::new(None) };
    /// No work in one piece until then.
    static RESTS_UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// This thread works in the background from now on: what it has a store do gives way to others.
pub fn work_in_background() {
    ACCOUNT.set(Some(Account { ahead: Duration::ZERO, as_of: Instant::now() }));
}

/// Called between two pieces of work. Returns for how long others then had the processor; `None` where it was not their turn, or where this
/// thread does not work in the background.
pub(crate) fn give_way() -> Option<Duration> {
    let account = ACCOUNT.get()?;
    let began = Instant::now();
    let gives_way = account.ahead <= AHEAD_MAX;
    if gives_way {
        std::thread::yield_now();
    }
    let ended = if gives_way { Instant::now() } else { began };
    ACCOUNT.set(Some(account.noted(began, ended)));
    gives_way.then(|| ended - began)
}

/// Does work that can't be cut into pieces, and gives way. Does nothing and returns false where others have waited enough for such work.
pub(crate) fn in_one_piece(work: impl FnOnce()) -> bool {
    let began = Instant::now();
    if RESTS_UNTIL.get().is_some_and(|until| began < until) {
        return false;
    }
    work();
    let took = began.elapsed();
    let others = give_way();
    if ACCOUNT.get().is_some() {
        RESTS_UNTIL.set(rest_after(took, others).map(|rest| Instant::now() + rest));
    }
    true
}

/// How long to rest after work in one piece that took so long, and after which others had the processor for so long.
fn rest_after(took: Duration, others: Option<Duration>) -> Option<Duration> {
    let waited = others.is_none_or(|others| others > (took / CATCHING_UP_SHARE).max(CATCHING_UP_MIN));
    waited.then(|| took.saturating_mul(WAITING_SHARE).min(REST_MAX))
}

/// Gives way, called before each record of many.
#[inline]
pub(crate) fn give_way_at(record: usize) {
    if record % RECORDS_PER_PIECE == RECORDS_PER_PIECE - 1 {
        give_way();
    }
}

/// Writes to a file in pieces, and has its device begin with them: a sync that follows is soon done.
///
/// # Errors
/// Of the first write that failed; what is before it may be written.
pub(crate) fn write_in_pieces(file: &dyn EnvFile, bytes: &[u8], offset: u64) -> io::Result<()> {
    let whole_blocks = |position: u64| position / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    let mut position = offset;
    for together in bytes.chunks(WRITTEN_TOGETHER_BYTES) {
        // A block that is not full yet would be written twice, and some devices have who fills it wait for the first time.
        let first = whole_blocks(position);
        for piece in together.chunks(PIECE_BYTES) {
            give_way();
            file.write_all_at(piece, position)?;
            position += piece.len() as u64;
        }
        give_way();
        file.start_writing(first, whole_blocks(position) - first);
    }
    Ok(())
}

/// Frees in pieces the memory in which the system keeps a part of a file, which was synced and which nobody reads soon: it would be in the way of
/// other data, and whoever removes a file that is in memory waits while that is freed in one piece.
pub(crate) fn drop_cached_in_pieces(file: &dyn EnvFile, offset: u64, len: u64) {
    for start in (0..len).step_by(PIECE_BYTES) {
        give_way();
        file.drop_cached(offset + start, (len - start).min(PIECE_BYTES as u64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{Env, FileMetadata, OpenHow, SystemEnv};
    use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};
    use std::ops::Range;
    use std::os::fd::RawFd;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    #[test]
    fn only_the_background_gives_way() {
        (0..10_000).for_each(give_way_at);
        assert_eq!(ACCOUNT.get(), None);
        work_in_background();
        let before = ACCOUNT.get();
        give_way_at(0);
        assert_eq!(ACCOUNT.get(), before, "not after the first of many records");
        give_way_at(RECORDS_PER_PIECE - 1);
        assert_ne!(ACCOUNT.get(), before);
    }

    /// A file that notes what its device is asked to begin with.
    #[derive(Debug)]
    struct Noting {
        inner: Arc<dyn EnvFile>,
        begun: Mutex<Vec<Range<u64>>>,
    }

    impl EnvFile for Noting {
        fn start_writing(&self, offset: u64, len: u64) {
            assert!(offset + len <= self.len().unwrap(), "before it was written");
            self.begun.lock().unwrap().push(offset..offset + len);
        }
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            self.inner.read_at(buffer, offset)
        }
        fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
            assert!(bytes.len() <= PIECE_BYTES, "{} bytes in one piece", bytes.len());
            self.inner.write_at(bytes, offset)
        }
        fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
            self.inner.allocate(offset, len)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.inner.sync_data()
        }
        fn sync_all(&self) -> io::Result<()> {
            self.inner.sync_all()
        }
        fn len(&self) -> io::Result<u64> {
            self.inner.len()
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.inner.set_len(len)
        }
        fn metadata(&self) -> io::Result<FileMetadata> {
            self.inner.metadata()
        }
        fn fd(&self) -> RawFd {
            self.inner.fd()
        }
    }

    #[test]
    fn the_device_begins_with_each_block_once_when_it_is_full() {
        let directory = tempfile::tempdir().unwrap();
        let inner = SystemEnv.open(&directory.path().join("file"), OpenHow::REPLACE).unwrap();
        let file = Noting { inner, begun: Mutex::default() };
        // As a file of chunks: short headers, and long payloads.
        let mut end = 0;
        for len in [16, 3 * WRITTEN_TOGETHER_BYTES, 16, WRITTEN_TOGETHER_BYTES / 2, 16, 1000] {
            write_in_pieces(&file, &vec![1; len], end).unwrap();
            end += len as u64;
        }
        let mut reached = 0;
        for begun in file.begun.into_inner().unwrap().iter().filter(|begun| !begun.is_empty()) {
            assert_eq!(begun.start, reached, "a block twice, or none");
            reached = begun.end;
        }
        assert_eq!(reached, end / BLOCK_BYTES as u64 * BLOCK_BYTES as u64);
    }

    #[test]
    fn what_is_written_in_pieces_is_there_and_stays_when_it_is_no_longer_cached() {
        let directory = tempfile::tempdir().unwrap();
        let file = SystemEnv.open(&directory.path().join("file"), OpenHow::REPLACE).unwrap();
        // Neither begins nor ends with a piece, and is several times what is written together.
        let bytes: Vec<u8> =
            (0..3 * WRITTEN_TOGETHER_BYTES + 4321).map(|index| (index % 251) as u8).collect();
        let offset = 12_345;
        write_in_pieces(&*file, &bytes, offset).unwrap();
        file.sync_data().unwrap();
        drop_cached_in_pieces(&*file, 0, offset + bytes.len() as u64);
        let mut read = vec![0; bytes.len()];
        file.read_exact_at(&mut read, offset).unwrap();
        assert!(read == bytes);
        assert_eq!(file.len().unwrap(), offset + bytes.len() as u64);
    }

    #[test]
    fn work_in_one_piece_rests_only_where_others_waited_for_it() {
        let (us, ms) = (Duration::from_micros, Duration::from_millis);
        assert_eq!(rest_after(ms(6), Some(us(30))), None, "a thread of the system's own");
        assert_eq!(rest_after(ms(6), Some(us(100))), Some(ms(24_000)));
        assert_eq!(rest_after(us(100), Some(us(6))), Some(ms(400)));
        assert_eq!(rest_after(us(100), Some(us(4))), None, "nobody: going and coming back takes as long");
        assert_eq!(rest_after(us(100), None), Some(ms(400)), "others who have more than their share already");
        assert_eq!(
            rest_after(ms(3_600_000), Some(ms(3_600_000))),
            Some(REST_MAX),
            "a machine that stood still"
        );
    }

    #[test]
    fn only_the_background_rests_from_work_in_one_piece_and_does_so_beside_a_hog() {
        let worked = || {
            let mut pieces = 0;
            while pieces < 1000 && in_one_piece(|| std::thread::sleep(Duration::from_micros(10))) {
                pieces += 1;
            }
            pieces
        };
        let mut here = CpuSet::new();
        here.set(sched_getcpu());
        sched_setaffinity(None, &here).unwrap();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Inherits the processor.
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
            let in_the_foreground = worked();
            work_in_background();
            let in_the_background = worked();
            ended.store(true, Ordering::Relaxed);
            assert_eq!(in_the_foreground, 1000, "who waits for the work itself");
            assert!(in_the_background < 1000, "the hog waited");
        });
    }

    /// Pieces of 20 us, and others who keep the processor for `others` each time: what share of the time this thread gets.
    fn share_beside(others: Duration) -> f64 {
        let (start, piece) = (Instant::now(), Duration::from_micros(20));
        let mut account = Account { ahead: Duration::ZERO, as_of: start };
        let (mut now, mut worked) = (start, Duration::ZERO);
        while now - start < Duration::from_secs(10) {
            (now, worked) = (now + piece, worked + piece);
            let away = if account.ahead <= AHEAD_MAX { others } else { Duration::ZERO };
            account = account.noted(now, now + away);
            now += away;
        }
        worked.as_secs_f64() / (now - start).as_secs_f64()
    }

    #[test]
    fn those_who_are_soon_done_always_go_first_and_those_who_never_are_leave_a_share() {
        let beside_a_server = share_beside(Duration::from_micros(50));
        assert!((beside_a_server - 20.0 / 70.0).abs() < 0.001, "{beside_a_server}");
        let beside_a_hog = share_beside(Duration::from_millis(3));
        assert!((beside_a_hog - 0.25).abs() < 0.01, "{beside_a_hog}");
    }
}
