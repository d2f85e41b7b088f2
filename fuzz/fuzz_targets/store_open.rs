//! A store whose files were altered in any way, checksums made right again or not, is opened and used: no panic, no crash, no hang.
//!
//! Input: patches of a file each (which, where, how many bytes, the bytes). With bit 6 of the file's number the checksum of the block that was
//! hit is made right, so that what lies behind it is reached.
#![cfg_attr(feature = "libfuzzer", no_main)]
#![allow(clippy::disallowed_methods, reason = "what a damaged disk does to files, no Env may stand in for")]

use std::cell::RefCell;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use thermae_core::{BatchOp, Durability, Location, Options, SetOptions, ShmPlacement, Store};
use thermae_fuzz::{Bytes, fuzz_target, scratch_directory};

const MIB: u64 = 1 << 20;
const BLOCK_BYTES: usize = 4096;
const FILES: [&str; 6] = ["store", "cold", "checkpoint.0", "checkpoint.1", "control", "hot"];
const VOLATILE_FIRST: usize = 4;
const PATCHES_MAX: usize = 16;

/// Offsets, and the bytes there.
type Stretches = Vec<(u64, Vec<u8>)>;

struct Bench {
    _scratch: tempfile::TempDir,
    directory: PathBuf,
    /// Of each file: length, and the stretches that are not zero.
    files: Vec<(u64, Stretches)>,
}

fn options() -> Options {
    Options {
        hot_bytes: Some(16 * MIB),
        cold_bytes: Some(16 * MIB),
        durability: Some(Durability::EverySec),
        shm: ShmPlacement::Directory,
        participants_max: 4,
        background: false,
        ..Options::default()
    }
}

fn key(number: u64) -> Vec<u8> {
    format!("key:{number}").into_bytes()
}

impl Bench {
    fn new() -> Self {
        let scratch = scratch_directory();
        let directory = scratch.path().join("store");
        let store =
            Store::open(&Location::Directory(directory.clone()), &options()).expect("a new store opens");
        for number in 0..300 {
            store
                .set(&key(number), &vec![number as u8; 20 + number as usize], &SetOptions::default())
                .expect("set");
        }
        store.set(b"large", &vec![7; 400_000], &SetOptions::default()).expect("set");
        store.engine().write_checkpoint().expect("checkpoint");
        for number in 100..200 {
            store.delete(&key(number)).expect("delete");
        }
        let (first, second) = (key(1), key(2));
        let set = |key| BatchOp::Set { key, value: b"both", encoding: 0, expires_at_ms: 0, flags: 7 };
        store.transaction(&[set(&first), set(&second)], &[]).expect("transaction");
        store.engine().write_checkpoint().expect("checkpoint");
        store.set(b"after", b"the checkpoint", &SetOptions::default()).expect("set");
        store.close().expect("close");
        drop(store);
        let files = FILES
            .iter()
            .map(|name| stretches(&std::fs::read(directory.join(name)).expect("the file was just made")))
            .collect();
        Self { _scratch: scratch, directory, files }
    }

    fn lay_down(&self, is_warm: bool) {
        let _ = std::fs::remove_dir_all(&self.directory);
        std::fs::create_dir(&self.directory).expect("the directory is made");
        let count = if is_warm { FILES.len() } else { VOLATILE_FIRST };
        for (name, (len, stretches)) in FILES[..count].iter().zip(&self.files) {
            let file = std::fs::File::create(self.directory.join(name)).expect("a file is made");
            file.set_len(*len).expect("its length is set");
            for (offset, bytes) in stretches {
                file.write_all_at(bytes, *offset).expect("it is filled");
            }
        }
        if is_warm {
            // The shared half belongs to the file `store` with this inode.
            let metadata = std::fs::metadata(self.directory.join("store")).expect("metadata");
            let control = std::fs::OpenOptions::new()
                .write(true)
                .open(self.directory.join("control"))
                .expect("control");
            control.write_all_at(&metadata.dev().to_le_bytes(), 48).expect("device");
            control.write_all_at(&metadata.ino().to_le_bytes(), 56).expect("inode");
        }
    }

    fn patch(&self, number: u8, input: &mut Bytes<'_>, is_warm: bool) {
        let which = usize::from(number & 0x3f) % if is_warm { FILES.len() } else { VOLATILE_FIRST };
        let (_, stretches) = &self.files[which];
        let at = input.word() as usize;
        let (start, bytes) = &stretches[at % stretches.len()];
        let at = start + ((at >> 8) % bytes.len()) as u64;
        let len = usize::from(input.byte() % 32) + 1;
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.directory.join(FILES[which]))
            .expect("open");
        file.write_all_at(input.take(len), at).expect("patch");
        if number & 0x40 != 0 {
            let start = at / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
            let mut block = vec![0; BLOCK_BYTES];
            if file.read_exact_at(&mut block, start).is_ok() && block.starts_with(b"THERMAE") {
                block[12..16].fill(0);
                let crc = crc32c::crc32c(&block);
                file.write_all_at(&crc.to_le_bytes(), start + 12).expect("checksum");
            }
        }
        if number & 0x80 != 0 {
            file.set_len(at).expect("cut");
        }
    }
}

fn stretches(bytes: &[u8]) -> (u64, Stretches) {
    let mut stretches = Stretches::new();
    for (number, block) in
        bytes.chunks(BLOCK_BYTES).enumerate().filter(|(_, block)| block.iter().any(|&byte| byte != 0))
    {
        stretches.push(((number * BLOCK_BYTES) as u64, block.to_vec()));
    }
    (bytes.len() as u64, stretches)
}

fn run(data: &[u8]) {
    thread_local!(static BENCH: RefCell<Option<Bench>> = const { RefCell::new(None) });
    BENCH.with_borrow_mut(|bench| open(bench.get_or_insert_with(Bench::new), data));
}

fn open(bench: &Bench, data: &[u8]) {
    let mut input = Bytes(data);
    let is_warm = input.byte() & 1 != 0;
    bench.lay_down(is_warm);
    for _ in 0..PATCHES_MAX {
        if input.is_empty() {
            break;
        }
        let number = input.byte();
        bench.patch(number, &mut input, is_warm);
    }
    let Ok(store) = Store::open(&Location::Directory(bench.directory.clone()), &options()) else { return };
    use_store(&store);
    let _ = store.check(true);
    use_store(&store);
    let _ = store.close();
}

/// Whatever is answered is fine, as long as something is.
fn use_store(store: &Store) {
    for number in 0..300 {
        let _ = store.get(&key(number));
    }
    let _ = store.get(b"large");
    let _ = store.view(b"large");
    let mut scan = store.scan(b"");
    while let Ok(Some(_)) = scan.next_batch() {}
    let _ = store.check(false);
    let _ = store.set(b"new", b"value", &SetOptions::default());
    let _ = store.delete(b"key:5");
    let _ = store.stats();
    let _ = store.flush();
}

fuzz_target!(run);
