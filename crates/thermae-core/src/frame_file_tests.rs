//! The cold tier's file from the outside: shape, entries, watermarks, damage, concurrency.

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::env::SystemEnv;

const GEOMETRY: FrameFileGeometry =
    FrameFileGeometry { uuid: [7; 16], frame_bytes: 64 << 10, frames: 130, alignment_bytes: 4096 };

struct Scratch {
    _directory: tempfile::TempDir,
    path: PathBuf,
    pool: FrameFile,
}

fn created() -> Scratch {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cold");
    let pool = FrameFile::create(&SystemEnv, &path, GEOMETRY).unwrap();
    Scratch { _directory: directory, path, pool }
}

impl Scratch {
    fn open(&self) -> Result<FrameFile> {
        FrameFile::open(&SystemEnv, &self.path, GEOMETRY, false)
    }

    fn overwrite(&self, offset: u64, bytes: &[u8]) {
        SystemEnv.open(&self.path, OpenHow::READ_WRITE).unwrap().write_all_at(bytes, offset).unwrap();
    }

    fn cut(&self, len: u64) {
        SystemEnv.open(&self.path, OpenHow::READ_WRITE).unwrap().set_len(len).unwrap();
    }
}

fn record(segment_id: u64) -> FrameRecord {
    FrameRecord {
        kind: FrameKind::LogSegment,
        class: 3,
        segment_id,
        owner_sequence: 99,
        part: 0,
        parts: 1,
        used_bytes: 1234,
        written_wall_ms: 1_700_000_000_000,
    }
}

/// With a right checksum: what was written by a build that had such a record, or to make this one fail.
#[test]
fn an_entry_whose_numbers_contradict_each_other_is_damaged() {
    for impossible in [
        FrameRecord { parts: 2, ..record(8) },
        FrameRecord { part: 1, parts: 2, ..record(8) },
        FrameRecord { parts: 0, ..record(8) },
        FrameRecord { part: 5, ..extent(0) },
        FrameRecord { used_bytes: GEOMETRY.frame_bytes + 1, ..extent(0) },
    ] {
        let entry = encode_entry(&GEOMETRY.uuid, 9, Some(&impossible));
        assert_eq!(decode_entry(&GEOMETRY, 9, &entry), FrameState::Damaged, "{impossible:?}");
    }
    for possible in [record(8), extent(4)] {
        let entry = encode_entry(&GEOMETRY.uuid, 9, Some(&possible));
        assert_eq!(decode_entry(&GEOMETRY, 9, &entry), FrameState::Used(possible));
    }
}

fn extent(part: u32) -> FrameRecord {
    FrameRecord { kind: FrameKind::Extent, part, parts: 5, ..record(8) }
}

#[test]
fn a_new_file_is_complete_allocated_and_free() {
    let scratch = created();
    let metadata = std::fs::metadata(&scratch.path).unwrap();
    assert_eq!(metadata.len(), GEOMETRY.file_bytes());
    assert_eq!(GEOMETRY.file_bytes(), (3 + 3) * 4096 + 130 * (64 << 10));
    assert!(metadata.blocks() * 512 >= metadata.len());
    assert_eq!(metadata.mode() & 0o777, 0o600);
    assert_eq!(SystemEnv.list(parent(&scratch.path)).unwrap(), ["cold"]);
    let pool = scratch.open().unwrap();
    assert_eq!(pool.damage(), FrameFileDamage::default());
    assert_eq!(pool.read_frame_table().unwrap(), [FrameState::Free; 130]);
    assert_eq!(pool.read_watermark().unwrap(), Some(Watermark { generation: 2, sequence: 0 }));
}

#[test]
fn frames_keep_what_is_written_and_refuse_what_is_outside() {
    let scratch = created();
    let last = GEOMETRY.frame_bytes - 4;
    for frame in [0, 1, 129] {
        scratch.pool.write_at(frame, last, &frame.to_le_bytes()).unwrap();
        scratch.pool.write_at(frame, 0, b"start").unwrap();
    }
    let pool = scratch.open().unwrap();
    for frame in [0, 1, 129_u32] {
        let mut buffer = [0; 4];
        pool.read_at(frame, last, &mut buffer).unwrap();
        assert_eq!(buffer, frame.to_le_bytes());
    }
    let mut buffer = [0; 5];
    for (frame, offset) in [(130, 0), (u32::MAX, 0), (0, last), (129, u32::MAX)] {
        assert_eq!(pool.read_at(frame, offset, &mut buffer).unwrap_err().name(), "Corrupt");
        assert_eq!(pool.write_at(frame, offset, b"12345").unwrap_err().name(), "Corrupt");
    }
    assert_eq!(pool.clear_frame_record(130).unwrap_err().name(), "Corrupt");
    assert_eq!(pool.write_frame_record(130, &record(1)).unwrap_err().name(), "Corrupt");
    assert_eq!(pool.read_frame_record(130).unwrap_err().name(), "Corrupt");
    assert_eq!(pool.read_frame_table().unwrap(), [FrameState::Free; 130]);
}

#[test]
fn entries_are_kept_cleared_and_damaged_one_by_one() {
    let scratch = created();
    scratch.pool.write_frame_record(63, &record(5)).unwrap();
    scratch.pool.write_frame_record(64, &extent(4)).unwrap();
    scratch.pool.write_frame_record(65, &record(6)).unwrap();
    scratch.pool.clear_frame_record(65).unwrap();
    // Zeros are damage, not room.
    scratch.overwrite(TABLE_OFFSET + 2 * 64, &[0; 64]);
    let table = scratch.open().unwrap().read_frame_table().unwrap();
    for (frame, state) in table.into_iter().enumerate() {
        let expected = match frame {
            2 => FrameState::Damaged,
            63 => FrameState::Used(record(5)),
            64 => FrameState::Used(extent(4)),
            _ => FrameState::Free,
        };
        assert_eq!(state, expected, "frame {frame}");
        assert_eq!(scratch.pool.read_frame_record(frame as u32).unwrap(), expected);
    }
}

#[test]
fn every_changed_bit_of_an_entry_is_noticed() {
    let entry = encode_entry(&GEOMETRY.uuid, 9, Some(&extent(2)));
    assert_eq!(decode_entry(&GEOMETRY, 9, &entry), FrameState::Used(extent(2)));
    for bit in 0..ENTRY_BYTES * 8 {
        let mut changed = entry;
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode_entry(&GEOMETRY, 9, &changed), FrameState::Damaged, "bit {bit}");
    }
    assert_eq!(decode_entry(&GEOMETRY, 8, &entry), FrameState::Damaged, "an entry of another frame");
    let other = FrameFileGeometry { uuid: [8; 16], ..GEOMETRY };
    assert_eq!(decode_entry(&other, 9, &entry), FrameState::Damaged, "an entry of another store");
}

#[test]
fn a_checksum_does_not_vouch_for_an_entry() {
    for (offset, bytes) in [
        (ENTRY_KIND_OFFSET, &[9_u8][..]),
        (ENTRY_PART_OFFSET, &[5, 0, 0, 0]),
        (ENTRY_PARTS_OFFSET, &[0, 0, 0, 0]),
        (ENTRY_USED_BYTES_OFFSET, &[255, 255, 255, 255]),
    ] {
        let mut entry = encode_entry(&GEOMETRY.uuid, 9, Some(&extent(2)));
        entry[offset..offset + bytes.len()].copy_from_slice(bytes);
        let checksum = entry_checksum(&GEOMETRY.uuid, &entry);
        entry[ENTRY_CHECKSUM_OFFSET..].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(decode_entry(&GEOMETRY, 9, &entry), FrameState::Damaged, "offset {offset}");
    }
}

#[test]
fn watermarks_alternate_and_survive_the_loss_of_either() {
    let scratch = created();
    for sequence in 1..=4 {
        scratch.pool.write_watermark(sequence * 100).unwrap();
        scratch.pool.sync().unwrap();
    }
    let newest = Watermark { generation: 6, sequence: 400 };
    assert_eq!(scratch.open().unwrap().read_watermark().unwrap(), Some(newest));
    scratch.overwrite(watermark_offset(6) + 40, b"torn");
    assert_eq!(scratch.pool.read_watermark().unwrap(), Some(Watermark { generation: 5, sequence: 300 }));
    scratch.pool.write_watermark(500).unwrap();
    assert_eq!(scratch.pool.read_watermark().unwrap(), Some(Watermark { generation: 6, sequence: 500 }));
    scratch.overwrite(WATERMARK_OFFSET, &[0; 8192]);
    assert_eq!(scratch.pool.read_watermark().unwrap(), None);
    scratch.pool.write_watermark(600).unwrap();
    assert_eq!(scratch.pool.read_watermark().unwrap(), Some(Watermark { generation: 1, sequence: 600 }));
}

#[test]
fn a_damaged_header_costs_nothing() {
    let scratch = created();
    scratch.pool.write_at(3, 0, b"kept").unwrap();
    scratch.overwrite(0, &[0xEE; 4096]);
    let pool = scratch.open().unwrap();
    assert_eq!(pool.damage(), FrameFileDamage { header: true, missing_bytes: 0 });
    let mut buffer = [0; 4];
    pool.read_at(3, 0, &mut buffer).unwrap();
    assert_eq!(&buffer, b"kept");
    pool.repair_shape().unwrap();
    assert_eq!(scratch.open().unwrap().damage(), FrameFileDamage::default());
    pool.read_at(3, 0, &mut buffer).unwrap();
    assert_eq!(&buffer, b"kept");
}

#[test]
fn a_file_cut_short_serves_what_is_left() {
    let scratch = created();
    scratch.pool.write_at(3, 0, b"kept").unwrap();
    scratch.pool.write_frame_record(3, &record(3)).unwrap();
    scratch.cut(GEOMETRY.data_offset() + 4 * (64 << 10) + 10);
    let pool = scratch.open().unwrap();
    assert_eq!(pool.damage().missing_bytes, 126 * (64 << 10) - 10);
    let mut buffer = [0; 4];
    pool.read_at(3, 0, &mut buffer).unwrap();
    assert_eq!(&buffer, b"kept");
    let error = pool.read_at(9, 0, &mut buffer).unwrap_err();
    assert_eq!(error.name(), "Corrupt");
    scratch.cut(TABLE_OFFSET + 4 * 64 + 1);
    let table = scratch.open().unwrap().read_frame_table().unwrap();
    assert_eq!(table[3], FrameState::Used(record(3)));
    assert!(table[4..].iter().all(|state| *state == FrameState::Damaged) && table.len() == 130);
    scratch.cut(0);
    let pool = scratch.open().unwrap();
    assert!(pool.damage().header && pool.read_watermark().unwrap().is_none());
    pool.repair_shape().unwrap();
    assert_eq!(scratch.open().unwrap().damage(), FrameFileDamage::default());
}

#[test]
fn the_file_of_another_store_or_shape_is_refused() {
    let scratch = created();
    for geometry in [
        FrameFileGeometry { uuid: [8; 16], ..GEOMETRY },
        FrameFileGeometry { frames: 129, ..GEOMETRY },
        FrameFileGeometry { frame_bytes: 4096, ..GEOMETRY },
    ] {
        let error = FrameFile::open(&SystemEnv, &scratch.path, geometry, true).unwrap_err();
        assert_eq!(error.name(), "Corrupt", "{error}");
    }
    let mut header = encode_header(&GEOMETRY);
    header.put_u32(8, 50);
    header.seal();
    scratch.overwrite(0, &header.0[..]);
    assert_eq!(scratch.open().unwrap_err().name(), "WrongLayout");
    let missing =
        FrameFile::open(&SystemEnv, &scratch.path.with_extension("no"), GEOMETRY, true).unwrap_err();
    assert_eq!(missing.name(), "Corrupt");
}

#[test]
fn impossible_shapes_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (frame_bytes, frames) in [(0, 1), (4097, 1), (u32::MAX, 1), (4096, 0), (4096, u32::MAX)] {
        let geometry = FrameFileGeometry { uuid: [1; 16], frame_bytes, frames, alignment_bytes: 4096 };
        let error = FrameFile::create(&SystemEnv, &directory.path().join("cold"), geometry).unwrap_err();
        assert_eq!(error.name(), "InvalidOption");
    }
    assert!(SystemEnv.list(directory.path()).unwrap().is_empty());
}

#[test]
fn threads_use_different_frames_at_once() {
    let scratch = created();
    let pool = &scratch.pool;
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            scope.spawn(move || {
                for frame in (thread..130).step_by(4) {
                    pool.write_at(frame, 100, &[frame as u8; 5000]).unwrap();
                    pool.write_frame_record(frame, &record(u64::from(frame))).unwrap();
                }
            });
        }
    });
    let states = scratch.open().unwrap().read_frame_table().unwrap();
    for frame in 0..130_u32 {
        let mut buffer = [0; 5000];
        pool.read_at(frame, 100, &mut buffer).unwrap();
        assert_eq!(buffer, [frame as u8; 5000]);
        assert_eq!(states[frame as usize], FrameState::Used(record(u64::from(frame))));
    }
}
