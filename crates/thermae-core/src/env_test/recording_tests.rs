//! Images hold what was synced, and only what could be there.

use super::*;
use crate::frame_file::{FrameFile, FrameFileGeometry};
use crate::superblock::Superblock;

struct Scratch {
    directory: tempfile::TempDir,
    env: RecordingEnv,
}

impl Scratch {
    fn new() -> Scratch {
        let directory = tempfile::tempdir().unwrap();
        let env = RecordingEnv::new(Arc::new(SystemEnv), directory.path(), |path| path != Path::new("lock"));
        Scratch { directory, env }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn create(&self, name: &str) -> Arc<dyn EnvFile> {
        self.env.open(&self.path(name), OpenHow::CREATE_NEW).unwrap()
    }

    fn sync_dir(&self) {
        self.env.sync_dir(self.directory.path()).unwrap();
    }
}

fn names(image: &Image) -> Vec<&str> {
    image.paths().filter_map(Path::to_str).collect()
}

#[test]
fn what_was_synced_is_in_every_image_and_the_rest_in_some() {
    let scratch = Scratch::new();
    let file = scratch.create("file");
    file.write_all_at(&[1; 8192], 0).unwrap();
    file.sync_data().unwrap();
    scratch.sync_dir();
    file.write_all_at(&[2; 8192], 0).unwrap();
    let recording = scratch.env.recording();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        for (tear, unit) in [(Tear::Pages, 4096), (Tear::Sectors, 512)] {
            let bytes = recording.image(recording.len(), tear, seed).read(Path::new("file")).unwrap();
            assert_eq!(bytes.len(), 8192);
            for chunk in bytes.chunks(unit) {
                assert!(chunk == vec![1; unit] || chunk == vec![2; unit], "a unit is whole");
            }
            seen.insert((bytes[0], bytes[8191]));
        }
        let bytes = recording.image(recording.len(), Tear::MidWrite, seed).read(Path::new("file")).unwrap();
        assert!(bytes.is_sorted_by(|left, right| left >= right), "a first part of the write");
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(1, 1), (1, 2), (2, 1), (2, 2)]);
    let read = |tear| recording.image(recording.len(), tear, 0).read(Path::new("file")).unwrap();
    assert_eq!((read(Tear::Dropped), read(Tear::Applied)), (vec![1; 8192], vec![2; 8192]));
}

#[test]
fn a_unit_never_shows_a_later_write_without_the_earlier_one() {
    let scratch = Scratch::new();
    let file = scratch.create("file");
    scratch.sync_dir();
    file.write_all_at(b"first", 0).unwrap();
    file.write_all_at(b"second", 100).unwrap();
    let recording = scratch.env.recording();
    for seed in 0..100 {
        let bytes = recording.image(recording.len(), Tear::Pages, seed).read(Path::new("file")).unwrap();
        assert!(bytes.len() <= 5 || bytes.starts_with(b"first"));
    }
}

#[test]
fn a_sync_covers_only_what_was_written_before_it_began() {
    let scratch = Scratch::new();
    let file = scratch.create("file");
    scratch.sync_dir();
    file.write_all_at(b"before", 0).unwrap();
    let since = scratch.env.position();
    file.write_all_at(b"during", 0).unwrap();
    scratch.env.log().events.push(Event::Sync { file: 1, since });
    let recording = scratch.env.recording();
    let bytes = recording.image(recording.len(), Tear::Dropped, 0).read(Path::new("file")).unwrap();
    assert_eq!(bytes, b"before");
}

#[test]
fn names_need_a_sync_of_their_directory() {
    let scratch = Scratch::new();
    let file = scratch.create("file.new");
    file.write_all_at(b"new", 0).unwrap();
    file.sync_all().unwrap();
    scratch.env.rename(&scratch.path("file.new"), &scratch.path("file")).unwrap();
    let before = scratch.env.recording();
    assert!(names(&before.image(before.len(), Tear::Dropped, 0)).is_empty());
    assert_eq!(names(&before.image(before.len(), Tear::Applied, 0)), ["file"]);
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..50 {
        seen.insert(format!("{:?}", names(&before.image(before.len(), Tear::Pages, seed))));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["[\"file\"]", "[\"file.new\"]", "[]"]);
    scratch.sync_dir();
    scratch.env.remove_file(&scratch.path("file")).unwrap();
    let after = scratch.env.recording();
    let image = after.image(after.len(), Tear::Dropped, 0);
    assert_eq!(image.read(Path::new("file")).unwrap(), b"new");
    assert!(names(&after.image(after.len(), Tear::Applied, 0)).is_empty());
}

#[test]
fn a_removed_files_inode_may_come_back_as_another_file() {
    let scratch = Scratch::new();
    scratch.create("file").write_all_at(b"old and long", 0).unwrap();
    scratch.env.remove_file(&scratch.path("file")).unwrap();
    scratch.create("file").write_all_at(b"new", 0).unwrap();
    let recording = scratch.env.recording();
    let image = recording.image(recording.len(), Tear::Applied, 0);
    assert_eq!(image.read(Path::new("file")).unwrap(), b"new");
}

#[test]
fn files_from_before_the_recording_are_durable_and_unwanted_ones_left_out() {
    let scratch = Scratch::new();
    let path = scratch.path("old");
    SystemEnv.open(&path, OpenHow::CREATE_NEW).unwrap().write_all_at(b"abcdef", 3).unwrap();
    let file = scratch.env.open(&path, OpenHow::READ_WRITE).unwrap();
    file.set_len(4).unwrap();
    scratch.create("lock");
    let recording = scratch.env.recording();
    let read = |tear| recording.image(recording.len(), tear, 0).read(Path::new("old")).unwrap();
    assert_eq!((read(Tear::Dropped), read(Tear::Applied)), (b"\0\0\0abcdef".to_vec(), b"\0\0\0a".to_vec()));
    assert_eq!(names(&recording.image(recording.len(), Tear::Applied, 0)), ["old"]);
}

#[test]
fn images_are_repeatable_and_can_be_written_out() {
    let scratch = Scratch::new();
    let file = scratch.create("file");
    scratch.sync_dir();
    for step in 0..50_u8 {
        file.write_all_at(&[step; 3000], u64::from(step) * 1000).unwrap();
        if step % 7 == 0 {
            file.sync_data().unwrap();
        }
    }
    let recording = scratch.env.recording();
    for (image, again) in recording.images(100, 42).zip(recording.images(100, 42)) {
        let alone = recording.image(image.cut, image.tear, image.seed);
        let bytes = image.read(Path::new("file"));
        assert_eq!(bytes, again.read(Path::new("file")));
        assert_eq!(bytes, alone.read(Path::new("file")));
        let target = tempfile::tempdir().unwrap();
        image.write_into(target.path()).unwrap();
        if let Some(bytes) = bytes {
            let written = SystemEnv.open(&target.path().join("file"), OpenHow::READ).unwrap();
            let mut buffer = vec![0; bytes.len()];
            written.read_exact_at(&mut buffer, 0).unwrap();
            assert_eq!((buffer, written.len().unwrap()), (bytes.clone(), bytes.len() as u64));
        }
    }
}

/// The superblock and the watermark through power failures: whatever is left says something that was written, and
/// never less than what was synced.
#[test]
fn alternating_blocks_survive_every_power_failure() {
    use crate::options::{Location, Options};
    let scratch = Scratch::new();
    let geometry = FrameFileGeometry { uuid: [7; 16], frame_bytes: 4096, frames: 4, alignment_bytes: 4096 };
    let pool = FrameFile::create(&scratch.env, &scratch.path("cold"), geometry).unwrap();
    let superblock = Superblock {
        generation: 0,
        uuid: [7; 16],
        hash_seed: 1,
        created_wall_ms: 2,
        options: Options::default().resolve(&Location::parse("data").unwrap()).unwrap(),
        partitions: 64,
        slot_count: 4096,
        flags: 0,
        sequence_limit: 0,
        tombstone_floor: 0,
        warm_directory: None,
        memory_id: [0; 16],
    };
    superblock.create(&scratch.env, &scratch.path("store")).unwrap();
    let mut synced = vec![(scratch.env.position(), 0)];
    for sequence in 1..20 {
        pool.write_watermark(sequence).unwrap();
        pool.sync().unwrap();
        let change = |superblock: &mut Superblock| superblock.sequence_limit = sequence;
        Superblock::update(&scratch.env, &scratch.path("store"), change).unwrap();
        synced.push((scratch.env.position(), sequence));
    }
    let recording = scratch.env.recording();
    for image in recording.images(500, 1) {
        let target = tempfile::tempdir().unwrap();
        image.write_into(target.path()).unwrap();
        let floor =
            synced.iter().rev().find(|(position, _)| *position <= image.cut).map(|(_, sequence)| *sequence);
        let store = target.path().join("store");
        if floor.is_some() || SystemEnv.exists(&store).unwrap() {
            let found = Superblock::read(&SystemEnv, &store).unwrap().sequence_limit;
            assert!((floor.unwrap_or(0)..=floor.unwrap_or(0) + 1).contains(&found), "{found} {image:?}");
        }
        let cold = target.path().join("cold");
        if floor.is_some() || SystemEnv.exists(&cold).unwrap() {
            let pool = FrameFile::open(&SystemEnv, &cold, geometry, true).unwrap();
            let found = pool.read_watermark().unwrap().unwrap().sequence;
            assert!((floor.unwrap_or(0)..=floor.unwrap_or(0) + 1).contains(&found), "{found} {image:?}");
        }
    }
}
