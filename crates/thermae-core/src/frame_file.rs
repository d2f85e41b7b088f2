//! The file of a durable tier, warm or cold: equal frames, all of them allocated, read and written with explicit I/O.
//!
//! ```text
//! 0      4 KiB     8 KiB     12 KiB                  (next multiple of 4 KiB)
//! header watermark watermark frame table, 64 B each  frame 0 | frame 1 | ...
//! ```
//! This module knows where things are and whether they are intact; what a frame means, when it may be reused
//! and what the watermark promises is decided above.
//!
//! Everything about the file's shape follows from the superblock, so a damaged header block costs nothing but
//! a line in the report of `check`. Free frames have a checksummed entry too: an entry of zeros is damage, not
//! room, or a lost sector of the table would quietly hand frames that hold data to the next writer.
//!
//! Thread and process safety: all I/O is positional and nothing is cached, so any number of threads and processes
//! may read and write different frames and entries at once. Who may write which frame, and who may write the
//! watermark, is decided by locks and leases above. An entry never crosses a 512-byte sector.

use crate::waiting::before_wait;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::background::{drop_cached_in_pieces, write_in_pieces};
use crate::block::{BLOCK_BYTES, BLOCK_FIELDS_OFFSET, Block, BlockState, LAYOUT_VERSION, get_u32, get_u64};
use crate::env::{Env, EnvFile, OpenHow, check_owner};
use crate::error::{Error, Result};
use crate::layout::{SEGMENT_NUMBER_MAX, SLOT_BITS};
use crate::record::SEQUENCE_MAX;
use crate::sizes::size_text;
use crate::superblock::{parent, temporary_path};

const HEADER_MAGIC: &[u8; 8] = b"THERMAEC";
const WATERMARK_MAGIC: &[u8; 8] = b"THERMAEW";
const ENTRY_MAGIC: &[u8; 4] = b"FRAM";

const WATERMARK_OFFSET: u64 = BLOCK_BYTES as u64;
const WATERMARK_BLOCKS: u64 = 2;
const TABLE_OFFSET: u64 = WATERMARK_OFFSET + WATERMARK_BLOCKS * BLOCK_BYTES as u64;

/// Bytes of one entry of the frame table.
pub const ENTRY_BYTES: usize = 64;
const ENTRIES_PER_BLOCK: usize = BLOCK_BYTES / ENTRY_BYTES;
/// How much of the frame table is read at once.
const TABLE_READ_BLOCKS: usize = 64;

/// So many unreadable blocks in a row, and none beside them, are a device that is gone.
const SALVAGED_BLOCKS_MIN: usize = 16;

/// A place word numbers cold frames with 24 bits, 0 meaning none.
const FRAMES_MAX: u32 = (1 << 24) - 2;
const FRAME_BYTES_MAX: u32 = 1 << 30;

const HEADER_FRAME_BYTES_OFFSET: usize = BLOCK_FIELDS_OFFSET;
const HEADER_FRAMES_OFFSET: usize = 44;
const HEADER_TABLE_OFFSET: usize = 48;
const HEADER_DATA_OFFSET: usize = 56;

const WATERMARK_SEQUENCE_OFFSET: usize = BLOCK_FIELDS_OFFSET;

const ENTRY_KIND_OFFSET: usize = 4;
const ENTRY_CLASS_OFFSET: usize = 5;
const ENTRY_SEGMENT_ID_OFFSET: usize = 8;
const ENTRY_OWNER_SEQUENCE_OFFSET: usize = 16;
const ENTRY_PART_OFFSET: usize = 24;
const ENTRY_PARTS_OFFSET: usize = 28;
const ENTRY_USED_BYTES_OFFSET: usize = 32;
const ENTRY_FRAME_OFFSET: usize = 36;
const ENTRY_WRITTEN_OFFSET: usize = 40;
const ENTRY_CHECKSUM_OFFSET: usize = 60;

const _: () = assert!(BLOCK_BYTES.is_multiple_of(512) && 512 % ENTRY_BYTES == 0);
const _: () =
    assert!(ENTRY_CHECKSUM_OFFSET + 4 == ENTRY_BYTES && ENTRY_WRITTEN_OFFSET + 8 <= ENTRY_CHECKSUM_OFFSET);

/// The shape of such a file, as the superblock has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameFileGeometry {
    /// Identity of the store.
    pub uuid: [u8; 16],
    /// Bytes of a frame; a multiple of 4 KiB.
    pub frame_bytes: u32,
    /// Number of frames.
    pub frames: u32,
    /// Frame 0 starts at a multiple of this, itself a multiple of 4 KiB: of a huge page where frames are mapped.
    pub alignment_bytes: u32,
}

impl FrameFileGeometry {
    fn validate(&self) -> Result<()> {
        let frame_valid = self.frame_bytes > 0
            && self.frame_bytes <= FRAME_BYTES_MAX
            && (self.frame_bytes as usize).is_multiple_of(BLOCK_BYTES);
        let alignment_valid =
            self.alignment_bytes > 0 && (self.alignment_bytes as usize).is_multiple_of(BLOCK_BYTES);
        if frame_valid && alignment_valid && (1..=FRAMES_MAX).contains(&self.frames) {
            return Ok(());
        }
        Err(Error::InvalidOption(format!(
            "a tier of {} frames of {} bytes is not possible: use 1 to {FRAMES_MAX} frames of a multiple of {BLOCK_BYTES} bytes",
            self.frames, self.frame_bytes
        )))
    }

    /// Where frame 0 starts.
    pub fn data_offset(&self) -> u64 {
        let table_blocks = u64::from(self.frames).div_ceil(ENTRIES_PER_BLOCK as u64);
        (TABLE_OFFSET + table_blocks * BLOCK_BYTES as u64).next_multiple_of(u64::from(self.alignment_bytes))
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.data_offset() + u64::from(self.frames) * u64::from(self.frame_bytes)
    }
}

/// What a used frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// A segment of the log.
    LogSegment,
    /// A part of a large value.
    Extent,
}

const KIND_FREE: u8 = 0;
const KIND_LOG_SEGMENT: u8 = 1;
const KIND_EXTENT: u8 = 2;

/// The frame table's entry for a used frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRecord {
    /// What it holds.
    pub kind: FrameKind,
    /// Class of the segment.
    pub class: u8,
    /// Identity of the segment.
    pub segment_id: u64,
    /// Sequence number of the record that owns the extent; of a log segment, a lower bound of its records'.
    pub owner_sequence: u64,
    /// Which part of the large value; 0 for a log segment.
    pub part: u32,
    /// Of how many; 1 for a log segment.
    pub parts: u32,
    /// How many bytes from the frame's start are in use. A hint for log segments: more may have been flushed since.
    pub used_bytes: u32,
    /// When the entry was written: wall clock, milliseconds since 1970.
    pub written_wall_ms: u64,
}

impl FrameRecord {
    /// Whether its numbers go together.
    fn is_possible(&self, frame_bytes: u32) -> bool {
        self.part < self.parts
            && self.used_bytes <= frame_bytes
            && (self.kind == FrameKind::Extent || self.parts == 1)
    }
}

/// One entry of the frame table, as found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameState {
    /// Holds nothing.
    Free,
    /// Holds what the entry says.
    Used(FrameRecord),
    /// Its entry is lost: the frame may hold data and must not be reused before a repair.
    Damaged,
}

/// A durable lower bound of what was flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// Counts the writes.
    pub generation: u64,
    /// All records up to this sequence number were synced before this was written.
    pub sequence: u64,
}

/// What is wrong with the file beyond its frames and their entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameFileDamage {
    /// The header block fails its checksum; the superblock says the same, so nothing is lost.
    pub header: bool,
    /// The file is this much shorter than it should be.
    pub missing_bytes: u64,
}

/// The file of one durable tier.
#[derive(Debug)]
pub struct FrameFile {
    file: Arc<dyn EnvFile>,
    path: PathBuf,
    geometry: FrameFileGeometry,
    damage: FrameFileDamage,
}

impl FrameFile {
    /// Creates the file, every byte of it allocated, all frames free and the watermark 0. It gets its name last, so
    /// a file of that name is complete; one that was there is replaced.
    ///
    /// Errors: `Io` with the system's "no space left" where the file system cannot hold the tier.
    pub fn create(env: &dyn Env, path: &Path, geometry: FrameFileGeometry) -> Result<FrameFile> {
        Self::create_partial(env, path, geometry, geometry.frames)
    }

    /// The same, with only the first `frames` frames in the file: how a snapshot is kept. Opening it as a store gives it the rest.
    pub fn create_partial(
        env: &dyn Env,
        path: &Path,
        geometry: FrameFileGeometry,
        frames: u32,
    ) -> Result<FrameFile> {
        geometry.validate()?;
        let temporary = temporary_path(path);
        let made = write_new(env, &temporary, geometry, frames).and_then(|file| {
            env.rename(&temporary, path).map_err(|error| Error::io("rename a new file to", path, error))?;
            Ok(file)
        });
        let file = match made {
            Ok(file) => file,
            Err(error) => {
                // The first failure is the one to report; what is left over is replaced by the next attempt.
                let _ = env.remove_file(&temporary);
                return Err(error);
            }
        };
        let directory = parent(path);
        env.sync_dir(directory).map_err(|error| Error::io("sync the directory", directory, error))?;
        Ok(FrameFile { file, path: path.to_path_buf(), geometry, damage: FrameFileDamage::default() })
    }

    /// Opens the file of the store that `geometry` comes from. A damaged header or a file cut short do not
    /// prevent it: [`FrameFile::damage`] says so, and what is there can be read.
    ///
    /// Errors: `Corrupt` where the file is missing, is another store's or has another shape; `WrongLayout`, `Permission`.
    pub fn open(
        env: &dyn Env,
        path: &Path,
        geometry: FrameFileGeometry,
        read_only: bool,
    ) -> Result<FrameFile> {
        geometry.validate()?;
        let how = if read_only { OpenHow::READ } else { OpenHow::READ_WRITE };
        let file = env.open(path, how).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::IsADirectory => no_cold_file(path),
            _ => Error::io("open", path, error),
        })?;
        let metadata = file.metadata().map_err(|error| Error::io("examine", path, error))?;
        if !metadata.is_file() {
            return Err(no_cold_file(path));
        }
        check_owner(env, &metadata, path)?;
        let mut pool =
            FrameFile { file, path: path.to_path_buf(), geometry, damage: FrameFileDamage::default() };
        pool.damage = pool.examine()?;
        Ok(pool)
    }

    /// What is wrong with the file's shape now.
    pub fn examine(&self) -> Result<FrameFileDamage> {
        let len = self.file.len().map_err(|error| Error::io("measure", &self.path, error))?;
        Ok(FrameFileDamage {
            missing_bytes: self.geometry.file_bytes().saturating_sub(len),
            header: !self.header_is_intact()?,
        })
    }

    fn header_is_intact(&self) -> Result<bool> {
        let Some(block) = self.read_block(0)? else { return Ok(false) };
        match block.state(HEADER_MAGIC) {
            BlockState::Valid => {}
            BlockState::OtherLayout(found) => {
                return Err(Error::WrongLayout(format!(
                    "{} has layout {found}, and this version of Thermae uses layout {LAYOUT_VERSION}: open it with the version that wrote it, take a snapshot there, and restore that here",
                    self.path.display()
                )));
            }
            BlockState::Damaged | BlockState::Foreign => return Ok(false),
        }
        if block.identity() != self.geometry.uuid {
            return Err(Error::Corrupt(format!(
                "{} belongs to another store than the file `store` beside it: put the store's own file back, or restore a snapshot",
                self.path.display()
            )));
        }
        if block != encode_header(&self.geometry) {
            return Err(Error::Corrupt(format!(
                "{} has frames of another size or number than the file `store` beside it says: put the store's own file back, or restore a snapshot",
                self.path.display()
            )));
        }
        Ok(true)
    }

    /// The file itself.
    pub fn file(&self) -> &Arc<dyn EnvFile> {
        &self.file
    }

    /// Its shape.
    pub fn geometry(&self) -> &FrameFileGeometry {
        &self.geometry
    }

    /// The same, read and written in another way.
    #[must_use]
    pub fn through(self, file: Arc<dyn EnvFile>) -> FrameFile {
        FrameFile { file, ..self }
    }

    /// What was found wrong when the file was opened.
    pub fn damage(&self) -> FrameFileDamage {
        self.damage
    }

    /// Writes the header again and gives the file its full length back. What was lost in frames stays lost.
    pub fn repair_shape(&self) -> Result<()> {
        self.file
            .allocate(0, self.geometry.file_bytes())
            .and_then(|()| self.file.write_all_at(&encode_header(&self.geometry).0[..], 0))
            .and_then(|()| self.file.sync_all())
            .map_err(|error| Error::io("repair", &self.path, error))
    }

    /// Number of frames.
    pub fn frames(&self) -> u32 {
        self.geometry.frames
    }

    /// Bytes of a frame.
    pub fn frame_bytes(&self) -> u32 {
        self.geometry.frame_bytes
    }

    /// The file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a byte of a frame is in the file; `Corrupt` if `len` bytes from there are not all in the frame.
    pub fn position(&self, frame: u32, offset: u32, len: usize) -> Result<u64> {
        let end = u64::from(offset).checked_add(len as u64);
        if frame < self.geometry.frames && end.is_some_and(|end| end <= u64::from(self.geometry.frame_bytes))
        {
            return Ok(self.geometry.data_offset()
                + u64::from(frame) * u64::from(self.geometry.frame_bytes)
                + u64::from(offset));
        }
        Err(Error::Corrupt(format!(
            "{len} bytes at {offset} of frame {frame} are outside of {} ({} frames of {} bytes): run `thermae check`",
            self.path.display(),
            self.geometry.frames,
            self.geometry.frame_bytes
        )))
    }

    /// Reads all of `buffer` from within a frame.
    pub fn read_at(&self, frame: u32, offset: u32, buffer: &mut [u8]) -> Result<()> {
        let position = self.position(frame, offset, buffer.len())?;
        before_wait();
        self.file.read_exact_at(buffer, position).map_err(|error| self.read_error(error))
    }

    /// The same for those who save what can be saved: where the device fails, each 4 KiB is tried for itself, and what can't be read becomes zeros,
    /// which are no record. Returns the first failure that stayed. Where nothing of many blocks can be read, it is not some sectors that are
    /// bad, and what would be given up now may be there when the device is back: that is an error.
    pub fn read_salvaging(&self, frame: u32, offset: u32, buffer: &mut [u8]) -> Result<Option<Error>> {
        match self.read_at(frame, offset, buffer) {
            Err(error) if error.is_device_failure() => {}
            result => return result.map(|()| None),
        }
        let (mut failure, mut failures) = (None, 0);
        let pieces = buffer.len().div_ceil(BLOCK_BYTES);
        for (piece, start) in buffer.chunks_mut(BLOCK_BYTES).zip((offset..).step_by(BLOCK_BYTES)) {
            match self.read_at(frame, start, piece) {
                Ok(()) => {}
                Err(error) if error.is_device_failure() => {
                    piece.fill(0);
                    failures += 1;
                    failure.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        match failure {
            Some(failure) if failures == pieces && pieces >= SALVAGED_BLOCKS_MIN => Err(failure),
            failure => Ok(failure),
        }
    }

    /// Writes all of `bytes` within a frame. Not durable before [`FrameFile::sync`].
    pub fn write_at(&self, frame: u32, offset: u32, bytes: &[u8]) -> Result<()> {
        let position = self.position(frame, offset, bytes.len())?;
        before_wait();
        self.file.write_all_at(bytes, position).map_err(|error| Error::io("write", &self.path, error))
    }

    /// The same from a frame's start, as background work does it, see [`write_in_pieces`].
    pub(crate) fn write_in_pieces(&self, frame: u32, bytes: &[u8]) -> Result<()> {
        let position = self.position(frame, 0, bytes.len())?;
        before_wait();
        write_in_pieces(&*self.file, bytes, position).map_err(|error| Error::io("write", &self.path, error))
    }

    /// Frees the memory that the system keeps of a frame that was synced.
    pub(crate) fn drop_cached(&self, frame: u32) -> Result<()> {
        let len = self.geometry.frame_bytes;
        drop_cached_in_pieces(&*self.file, self.position(frame, 0, len as usize)?, u64::from(len));
        Ok(())
    }

    /// Makes everything written before, by any thread or process, durable.
    ///
    /// After an error nothing is known about what was written since the last success, and a later success proves
    /// nothing: the caller stops all writes.
    pub fn sync(&self) -> Result<()> {
        before_wait();
        self.file.sync_data().map_err(|error| Error::io("sync", &self.path, error))
    }

    /// Writes a used frame's entry. Not durable before [`FrameFile::sync`].
    pub fn write_frame_record(&self, frame: u32, record: &FrameRecord) -> Result<()> {
        if !record.is_possible(self.geometry.frame_bytes) {
            // It comes from shared memory, and no later open would believe it.
            return Err(Error::corrupt(format!(
                "the shared state says of frame {frame} of {} what can't be ({record:?}): run `thermae check --repair`",
                self.path.display()
            )));
        }
        self.write_entry(frame, &encode_entry(&self.geometry.uuid, frame, Some(record)))
    }

    /// Writes that a frame is free. Not durable before [`FrameFile::sync`].
    pub fn clear_frame_record(&self, frame: u32) -> Result<()> {
        self.write_entry(frame, &encode_entry(&self.geometry.uuid, frame, None))
    }

    fn write_entry(&self, frame: u32, entry: &[u8; ENTRY_BYTES]) -> Result<()> {
        self.position(frame, 0, 0)?;
        self.file
            .write_all_at(entry, TABLE_OFFSET + u64::from(frame) * ENTRY_BYTES as u64)
            .map_err(|error| Error::io("write", &self.path, error))
    }

    /// One frame's entry.
    pub fn read_frame_record(&self, frame: u32) -> Result<FrameState> {
        self.position(frame, 0, 0)?;
        let mut entry = [0; ENTRY_BYTES];
        let count = self.read_present(TABLE_OFFSET + u64::from(frame) * ENTRY_BYTES as u64, &mut entry)?;
        if count < ENTRY_BYTES {
            return Ok(FrameState::Damaged);
        }
        Ok(decode_entry(&self.geometry, frame, &entry))
    }

    /// All entries, by frame. Entries that the file is too short for are damaged ones; an I/O error is an error.
    pub fn read_frame_table(&self) -> Result<Vec<FrameState>> {
        let mut states = Vec::with_capacity(self.geometry.frames as usize);
        let mut chunk = vec![0; TABLE_READ_BLOCKS * BLOCK_BYTES];
        let mut position = TABLE_OFFSET;
        while states.len() < self.geometry.frames as usize {
            let entries = (self.geometry.frames as usize - states.len()).min(chunk.len() / ENTRY_BYTES);
            let chunk = &mut chunk[..entries * ENTRY_BYTES];
            let present = self.read_present(position, chunk)?;
            for (index, entry) in chunk.chunks_exact(ENTRY_BYTES).enumerate() {
                let complete = (index + 1) * ENTRY_BYTES <= present;
                let frame = states.len() as u32;
                states.push(if complete {
                    decode_entry(&self.geometry, frame, entry)
                } else {
                    FrameState::Damaged
                });
            }
            position += chunk.len() as u64;
        }
        Ok(states)
    }

    /// Writes the older of the two watermark blocks. Not durable before [`FrameFile::sync`]. The caller holds the
    /// flush lease, and has synced everything up to `sequence` before.
    pub fn write_watermark(&self, sequence: u64) -> Result<()> {
        let generation = self.read_watermark()?.map_or(0, |watermark| watermark.generation);
        // A block that claims the last generation is altered, not old: the watermark then stays behind, which is safe.
        let generation = generation.wrapping_add(1);
        self.file
            .write_all_at(
                &encode_watermark(&self.geometry, generation, sequence).0[..],
                watermark_offset(generation),
            )
            .map_err(|error| Error::io("write", &self.path, error))
    }

    /// How many of the two watermark blocks are intact and in their places.
    pub fn intact_watermarks(&self) -> Result<u64> {
        let mut intact = 0;
        for index in 0..WATERMARK_BLOCKS {
            let Some(block) = self.read_block(watermark_offset(index))? else { continue };
            let is_ours =
                block.state(WATERMARK_MAGIC) == BlockState::Valid && block.identity() == self.geometry.uuid;
            intact += u64::from(is_ours && block.generation() % WATERMARK_BLOCKS == index);
        }
        Ok(intact)
    }

    /// The newest intact watermark; `None` if both blocks are damaged, which is a loss of knowledge, not of data.
    pub fn read_watermark(&self) -> Result<Option<Watermark>> {
        let mut newest: Option<Watermark> = None;
        for index in 0..WATERMARK_BLOCKS {
            let Some(block) = self.read_block(watermark_offset(index))? else { continue };
            let counts = block.state(WATERMARK_MAGIC) == BlockState::Valid
                && block.identity() == self.geometry.uuid
                && block.generation() % WATERMARK_BLOCKS == index
                && block.u64(WATERMARK_SEQUENCE_OFFSET) <= SEQUENCE_MAX;
            if counts && newest.is_none_or(|other| other.generation < block.generation()) {
                newest = Some(Watermark {
                    generation: block.generation(),
                    sequence: block.u64(WATERMARK_SEQUENCE_OFFSET),
                });
            }
        }
        Ok(newest)
    }

    /// `None` where the file ends before the block does.
    fn read_block(&self, position: u64) -> Result<Option<Block>> {
        let mut block = Block::zeroed();
        let present = self.read_present(position, &mut block.0[..])?;
        Ok((present == BLOCK_BYTES).then_some(block))
    }

    /// Reads as far as the file goes; returns how far.
    fn read_present(&self, position: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut present = 0;
        while present < buffer.len() {
            match self.file.read_at(&mut buffer[present..], position + present as u64) {
                Ok(0) => break,
                Ok(count) => present += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", &self.path, error)),
            }
        }
        Ok(present)
    }

    fn read_error(&self, error: io::Error) -> Error {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Error::Corrupt(format!(
                "{} was cut short: {error}. Run `thermae check`, or restore a snapshot",
                self.path.display()
            ));
        }
        Error::io("read", &self.path, error)
    }
}

fn no_cold_file(path: &Path) -> Error {
    Error::Corrupt(format!(
        "{} is missing or no file, but the store has a tier there: put the file back, or restore a snapshot",
        path.display()
    ))
}

fn write_new(
    env: &dyn Env,
    temporary: &Path,
    geometry: FrameFileGeometry,
    frames: u32,
) -> Result<Arc<dyn EnvFile>> {
    let file =
        env.open(temporary, OpenHow::REPLACE).map_err(|error| Error::io("create", temporary, error))?;
    let file_bytes =
        geometry.data_offset() + u64::from(frames.min(geometry.frames)) * u64::from(geometry.frame_bytes);
    file.allocate(0, file_bytes).map_err(|error| {
        // Without what the file has beside the frames: it is the size that was given, or follows from others.
        let size = size_text(file_bytes - geometry.data_offset());
        Error::io(format!("allocate {size} for"), temporary, error)
    })?;
    let write = |bytes: &[u8], position: u64| {
        file.write_all_at(bytes, position).map_err(|error| Error::io("write", temporary, error))
    };
    write(&encode_header(&geometry).0[..], 0)?;
    for generation in 1..=WATERMARK_BLOCKS {
        write(&encode_watermark(&geometry, generation, 0).0[..], watermark_offset(generation))?;
    }
    let mut table = vec![0; TABLE_READ_BLOCKS * BLOCK_BYTES];
    let mut frame = 0;
    while frame < geometry.frames {
        let entries = ((geometry.frames - frame) as usize).min(table.len() / ENTRY_BYTES);
        for (entry, frame) in table.chunks_exact_mut(ENTRY_BYTES).take(entries).zip(frame..) {
            entry.copy_from_slice(&encode_entry(&geometry.uuid, frame, None));
        }
        write(&table[..entries * ENTRY_BYTES], TABLE_OFFSET + u64::from(frame) * ENTRY_BYTES as u64)?;
        frame += entries as u32;
    }
    file.sync_all().map_err(|error| Error::io("sync", temporary, error))?;
    Ok(file)
}

fn watermark_offset(generation: u64) -> u64 {
    WATERMARK_OFFSET + generation % WATERMARK_BLOCKS * BLOCK_BYTES as u64
}

fn encode_header(geometry: &FrameFileGeometry) -> Block {
    let mut block = Block::new(HEADER_MAGIC, 0, &geometry.uuid);
    block.put_u32(HEADER_FRAME_BYTES_OFFSET, geometry.frame_bytes);
    block.put_u32(HEADER_FRAMES_OFFSET, geometry.frames);
    block.put_u64(HEADER_TABLE_OFFSET, TABLE_OFFSET);
    block.put_u64(HEADER_DATA_OFFSET, geometry.data_offset());
    block.seal();
    block
}

fn encode_watermark(geometry: &FrameFileGeometry, generation: u64, sequence: u64) -> Block {
    let mut block = Block::new(WATERMARK_MAGIC, generation, &geometry.uuid);
    block.put_u64(WATERMARK_SEQUENCE_OFFSET, sequence);
    block.seal();
    block
}

fn encode_entry(uuid: &[u8; 16], frame: u32, record: Option<&FrameRecord>) -> [u8; ENTRY_BYTES] {
    let mut entry = [0; ENTRY_BYTES];
    entry[..4].copy_from_slice(ENTRY_MAGIC);
    let mut put = |offset: usize, bytes: &[u8]| entry[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(ENTRY_KIND_OFFSET, &[KIND_FREE]);
    put(ENTRY_FRAME_OFFSET, &frame.to_le_bytes());
    if let Some(record) = record {
        let kind = match record.kind {
            FrameKind::LogSegment => KIND_LOG_SEGMENT,
            FrameKind::Extent => KIND_EXTENT,
        };
        put(ENTRY_KIND_OFFSET, &[kind]);
        put(ENTRY_CLASS_OFFSET, &[record.class]);
        put(ENTRY_SEGMENT_ID_OFFSET, &record.segment_id.to_le_bytes());
        put(ENTRY_OWNER_SEQUENCE_OFFSET, &record.owner_sequence.to_le_bytes());
        put(ENTRY_PART_OFFSET, &record.part.to_le_bytes());
        put(ENTRY_PARTS_OFFSET, &record.parts.to_le_bytes());
        put(ENTRY_USED_BYTES_OFFSET, &record.used_bytes.to_le_bytes());
        put(ENTRY_WRITTEN_OFFSET, &record.written_wall_ms.to_le_bytes());
    }
    let checksum = entry_checksum(uuid, &entry);
    entry[ENTRY_CHECKSUM_OFFSET..].copy_from_slice(&checksum.to_le_bytes());
    entry
}

/// The store's identity goes in first: an entry left by another store on the same blocks is no entry of ours.
fn entry_checksum(uuid: &[u8; 16], entry: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(uuid), &entry[..ENTRY_CHECKSUM_OFFSET])
}

fn decode_entry(geometry: &FrameFileGeometry, frame: u32, entry: &[u8]) -> FrameState {
    let intact = entry[..4] == ENTRY_MAGIC[..]
        && get_u32(entry, ENTRY_CHECKSUM_OFFSET) == entry_checksum(&geometry.uuid, entry)
        && get_u32(entry, ENTRY_FRAME_OFFSET) == frame;
    if !intact {
        return FrameState::Damaged;
    }
    let kind = match entry[ENTRY_KIND_OFFSET] {
        KIND_FREE => return FrameState::Free,
        KIND_LOG_SEGMENT => FrameKind::LogSegment,
        KIND_EXTENT => FrameKind::Extent,
        _ => return FrameState::Damaged,
    };
    let record = FrameRecord {
        kind,
        class: entry[ENTRY_CLASS_OFFSET],
        segment_id: get_u64(entry, ENTRY_SEGMENT_ID_OFFSET),
        owner_sequence: get_u64(entry, ENTRY_OWNER_SEQUENCE_OFFSET),
        part: get_u32(entry, ENTRY_PART_OFFSET),
        parts: get_u32(entry, ENTRY_PARTS_OFFSET),
        used_bytes: get_u32(entry, ENTRY_USED_BYTES_OFFSET),
        written_wall_ms: get_u64(entry, ENTRY_WRITTEN_OFFSET),
    };
    let is_possible =
        record.is_possible(geometry.frame_bytes) && record.segment_id >> SLOT_BITS <= SEGMENT_NUMBER_MAX;
    if is_possible { FrameState::Used(record) } else { FrameState::Damaged }
}

#[cfg(test)]
#[path = "frame_file_tests.rs"]
mod tests;
