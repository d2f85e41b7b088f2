//! The durable tiers as one: the frames of the warm tier, then those of the cold tier, in one row of numbers.
//!
//! | | file | written | read |
//! |---|---|---|---|
//! | warm | persistent memory, or any file | with cache-line write-back where the kernel grants that, else by system calls | where it lies, mapped read-only |
//! | cold | flash | by system calls | by system calls |
//!
//! Both files have the form that `frame_file` describes. The first of them holds the watermark: it is the one that every flush syncs.
//! A store has either tier, both or neither; whoever writes, reads or recovers frames need not know which.
//!
//! Thread and process safety: that of `frame_file`. The mapping of the warm frames can't be written through, so no stray store harms what is durable
//! (a store with its index in the warm tier maps them once more, behind the hot frames, for its tables).
//!
//! Rejected: the warm tier as a part of the hot one. It would be larger memory, but a reboot would lose what it holds.

use crate::env::EnvFile;
use crate::error::{Error, Result};
use crate::frame_file::{FrameFile, FrameFileGeometry, FrameRecord, FrameState, Watermark};
use crate::persistent::PersistentFile;
use crate::pool::Mapping;
use std::sync::Arc;

/// A warm tier, open.
#[derive(Debug)]
pub struct WarmTier {
    file: FrameFile,
    /// Its frames, read-only.
    frames: Mapping,
    is_synchronous: bool,
}

impl WarmTier {
    /// Maps an open file of frames, which is as long as it should be, and finds out how it is best written.
    ///
    /// # Errors
    /// Those of mapping; Corrupt where the file is too short to be mapped.
    pub fn new(file: FrameFile, read_only: bool) -> Result<Self> {
        let geometry = *file.geometry();
        let missing_bytes = file.damage().missing_bytes;
        if missing_bytes > 0 && read_only {
            return Err(Error::corrupt(format!(
                "{} is {missing_bytes} bytes too short: open the store without read_only, which gives it its length back and says what was lost",
                file.path().display()
            )));
        }
        let too_long = |_| Error::corrupt(format!("{} is too long to be mapped", file.path().display()));
        let data_offset = usize::try_from(geometry.data_offset()).map_err(too_long)?;
        let file_len = usize::try_from(geometry.file_bytes()).map_err(too_long)?;
        let handle: Arc<dyn EnvFile> = file.file().clone();
        let frames = Mapping::part(handle.clone(), file.path(), data_offset, file_len - data_offset, false)?;
        let synchronous = if read_only { None } else { Mapping::synchronous(handle, file.path(), file_len)? };
        let is_synchronous = synchronous.is_some();
        let file = match synchronous {
            Some(mapping) => file.through(Arc::new(PersistentFile::new(mapping))),
            None => file,
        };
        Ok(Self { file, frames, is_synchronous })
    }
}

/// The durable tiers of one store.
#[derive(Debug)]
pub struct DurableTiers {
    warm: Option<WarmTier>,
    cold: Option<FrameFile>,
    warm_frames: u32,
}

impl DurableTiers {
    /// The tiers that a store has; `None` where it has neither.
    pub fn new(warm: Option<WarmTier>, cold: Option<FrameFile>) -> Option<Self> {
        let warm_frames = warm.as_ref().map_or(0, |warm| warm.file.frames());
        (warm.is_some() || cold.is_some()).then_some(Self { warm, cold, warm_frames })
    }

    /// The files, the warm one first.
    pub fn files(&self) -> impl Iterator<Item = &FrameFile> {
        self.warm.iter().map(|warm| &warm.file).chain(&self.cold)
    }

    /// The file that holds the watermark.
    ///
    /// # Panics
    /// Never: there is at least one file.
    pub fn watermark_file(&self) -> &FrameFile {
        self.files().next().unwrap_or_else(|| unreachable!("one of the tiers exists"))
    }

    /// The cold tier.
    pub fn cold(&self) -> Option<&FrameFile> {
        self.cold.as_ref()
    }

    /// Whether what is written to the warm tier is durable without a system call; `None` where there is no warm tier.
    pub fn is_synchronous(&self) -> Option<bool> {
        self.warm.as_ref().map(|warm| warm.is_synchronous)
    }

    /// Whether a frame is the warm tier's.
    #[inline]
    pub fn is_warm(&self, frame: u32) -> bool {
        frame < self.warm_frames
    }

    /// Number of frames.
    pub fn frames(&self) -> u32 {
        self.files().map(FrameFile::frames).sum()
    }

    /// The file that a frame is in, and its number there.
    pub fn locate(&self, frame: u32) -> Result<(&FrameFile, u32)> {
        match (&self.warm, &self.cold) {
            (Some(warm), _) if frame < self.warm_frames => Ok((&warm.file, frame)),
            // Numbers beyond the last frame are refused there.
            (_, Some(cold)) => Ok((cold, frame - self.warm_frames)),
            _ => Err(Error::corrupt(format!(
                "frame {frame} is beyond the {} of {}: run `thermae check`",
                self.warm_frames,
                self.watermark_file().path().display()
            ))),
        }
    }

    /// First byte of a warm frame, where it is mapped; nobody may write there.
    #[inline]
    pub fn warm_base(&self, frame: u32) -> Option<*mut u8> {
        let warm = self.warm.as_ref().filter(|_| frame < self.warm_frames)?;
        // SAFETY: the mapping is warm_frames x frame_bytes long.
        Some(unsafe { warm.frames.base().add(frame as usize * warm.file.frame_bytes() as usize) })
    }

    /// All warm frames, as a part of their file that may be mapped.
    pub fn warm_part(&self) -> Option<(&dyn EnvFile, u64, usize)> {
        let warm = self.warm.as_ref()?;
        Some((&**warm.frames.file(), warm.file.geometry().data_offset(), warm.frames.len()))
    }

    /// Where a warm frame is in its file, for mapping it beside others.
    pub fn warm_piece(&self, frame: u32) -> Option<(&dyn EnvFile, u64)> {
        let warm = self.warm.as_ref().filter(|_| frame < self.warm_frames)?;
        let position = warm.file.position(frame, 0, warm.file.frame_bytes() as usize).ok()?;
        Some((&**warm.frames.file(), position))
    }

    /// Reads all of `buffer` from within a frame.
    pub fn read_at(&self, frame: u32, offset: u32, buffer: &mut [u8]) -> Result<()> {
        let (file, frame) = self.locate(frame)?;
        file.read_at(frame, offset, buffer)
    }

    /// The same for those who save what can be saved, see [`FrameFile::read_salvaging`].
    pub fn read_salvaging(&self, frame: u32, offset: u32, buffer: &mut [u8]) -> Result<Option<Error>> {
        let (file, frame) = self.locate(frame)?;
        file.read_salvaging(frame, offset, buffer)
    }

    /// Writes all of `bytes` within a frame. Not durable before a sync.
    pub fn write_at(&self, frame: u32, offset: u32, bytes: &[u8]) -> Result<()> {
        let (file, frame) = self.locate(frame)?;
        file.write_at(frame, offset, bytes)
    }

    /// Makes everything written before durable, in both tiers. See [`FrameFile::sync`] on errors.
    pub fn sync(&self) -> Result<()> {
        self.files().try_for_each(FrameFile::sync)
    }

    /// Makes everything written before to the file of the watermark durable.
    pub fn sync_watermark_file(&self) -> Result<()> {
        self.watermark_file().sync()
    }

    /// Writes a used frame's entry. Not durable before a sync.
    pub fn write_frame_record(&self, frame: u32, record: &FrameRecord) -> Result<()> {
        let (file, frame) = self.locate(frame)?;
        file.write_frame_record(frame, record)
    }

    /// Writes that a frame is free. Not durable before a sync.
    pub fn clear_frame_record(&self, frame: u32) -> Result<()> {
        let (file, frame) = self.locate(frame)?;
        file.clear_frame_record(frame)
    }

    /// One frame's entry.
    pub fn read_frame_record(&self, frame: u32) -> Result<FrameState> {
        let (file, frame) = self.locate(frame)?;
        file.read_frame_record(frame)
    }

    /// All entries, by frame.
    pub fn read_frame_table(&self) -> Result<Vec<FrameState>> {
        let mut states = Vec::with_capacity(self.frames() as usize);
        for file in self.files() {
            states.extend(file.read_frame_table()?);
        }
        Ok(states)
    }

    /// Writes the older of the two watermark blocks. See [`FrameFile::write_watermark`].
    pub fn write_watermark(&self, sequence: u64) -> Result<()> {
        self.watermark_file().write_watermark(sequence)
    }

    /// The newest intact watermark.
    pub fn read_watermark(&self) -> Result<Option<Watermark>> {
        self.watermark_file().read_watermark()
    }

    /// Where a frame is, for messages.
    pub fn describe(&self, frame: u32) -> String {
        match self.locate(frame) {
            Ok((file, number)) => format!("frame {number} of {}", file.path().display()),
            Err(_) => format!("frame {frame}, which does not exist"),
        }
    }
}

/// The form of a warm tier's file: its frames are mapped, and begin where a huge page may.
pub fn warm_geometry(uuid: [u8; 16], frame_bytes: u32, frames: u32) -> FrameFileGeometry {
    FrameFileGeometry { uuid, frame_bytes, frames, alignment_bytes: crate::pool::HUGE_PAGE_BYTES as u32 }
}

/// The form of a cold tier's file.
pub fn cold_geometry(uuid: [u8; 16], frame_bytes: u32, frames: u32) -> FrameFileGeometry {
    FrameFileGeometry { uuid, frame_bytes, frames, alignment_bytes: crate::block::BLOCK_BYTES as u32 }
}
