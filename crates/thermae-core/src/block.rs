//! Checksummed blocks of 4 KiB: how the fixed parts of a store's files are written down.
//!
//! Every block starts with the same 40 bytes (magic, layout version, CRC32C, generation, store identity), whose
//! places are the same in all layout versions, so that any build can tell another version's file from a damaged one.
//! All integers are little-endian and are read and written one by one: the bytes never depend on a struct's padding.
//! The checksum covers the whole block with the checksum's own field as zeros.

/// The layout of all files of a store; a build attaches to exactly this one.
pub const LAYOUT_VERSION: u32 = 5;

/// Size of a block, and the alignment of everything in a store's files.
pub const BLOCK_BYTES: usize = 4096;

/// Where a block's own fields start, after those that all blocks have.
pub const BLOCK_FIELDS_OFFSET: usize = 40;

/// Greatest generation that anything could ever have come to. What claims to be newer is damaged, so that a next one can always be counted.
const GENERATION_MAX: u64 = 1 << 62;

const MAGIC_OFFSET: usize = 0;
const LAYOUT_OFFSET: usize = 8;
const CHECKSUM_OFFSET: usize = 12;
const GENERATION_OFFSET: usize = 16;
const IDENTITY_OFFSET: usize = 24;

/// What a block turns out to be when it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockState {
    /// Intact and of this build's layout.
    Valid,
    /// Intact, written by a build with the layout named.
    OtherLayout(u32),
    /// Begins as it should and fails its checksum.
    Damaged,
    /// Something else.
    Foreign,
}

/// One block in memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Block(pub Box<[u8; BLOCK_BYTES]>);

impl Block {
    /// A block of zeros, to be read into.
    pub fn zeroed() -> Block {
        Block(Box::new([0; BLOCK_BYTES]))
    }

    /// A block with its common fields filled in; call [`Block::seal`] when its own are too.
    pub fn new(magic: &[u8; 8], generation: u64, identity: &[u8; 16]) -> Block {
        let mut block = Block::zeroed();
        block.0[MAGIC_OFFSET..MAGIC_OFFSET + 8].copy_from_slice(magic);
        block.put_u32(LAYOUT_OFFSET, LAYOUT_VERSION);
        block.put_u64(GENERATION_OFFSET, generation);
        block.0[IDENTITY_OFFSET..IDENTITY_OFFSET + 16].copy_from_slice(identity);
        block
    }

    /// Writes the checksum. Nothing may be changed after it.
    pub fn seal(&mut self) {
        let checksum = self.checksum();
        self.put_u32(CHECKSUM_OFFSET, checksum);
    }

    /// Whether the block is intact and one of those that begin with `magic`.
    pub fn state(&self, magic: &[u8; 8]) -> BlockState {
        if self.0[MAGIC_OFFSET..MAGIC_OFFSET + 8] != magic[..] {
            return BlockState::Foreign;
        }
        if self.u32(CHECKSUM_OFFSET) != self.checksum() || self.generation() > GENERATION_MAX {
            return BlockState::Damaged;
        }
        match self.u32(LAYOUT_OFFSET) {
            LAYOUT_VERSION => BlockState::Valid,
            other => BlockState::OtherLayout(other),
        }
    }

    /// Counts the writes of what is kept in two alternating blocks; the greater is the newer.
    pub fn generation(&self) -> u64 {
        self.u64(GENERATION_OFFSET)
    }

    /// Identity of the store that the block belongs to.
    pub fn identity(&self) -> [u8; 16] {
        let mut identity = [0; 16];
        identity.copy_from_slice(&self.0[IDENTITY_OFFSET..IDENTITY_OFFSET + 16]);
        identity
    }

    /// The byte at a fixed offset.
    pub fn u8(&self, offset: usize) -> u8 {
        self.0[offset]
    }

    /// The integer at a fixed offset.
    pub fn u32(&self, offset: usize) -> u32 {
        get_u32(&self.0[..], offset)
    }

    /// The integer at a fixed offset.
    pub fn u64(&self, offset: usize) -> u64 {
        get_u64(&self.0[..], offset)
    }

    /// Writes at a fixed offset.
    pub fn put_u8(&mut self, offset: usize, value: u8) {
        self.0[offset] = value;
    }

    /// Writes at a fixed offset.
    pub fn put_u32(&mut self, offset: usize, value: u32) {
        self.0[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Writes at a fixed offset.
    pub fn put_u64(&mut self, offset: usize, value: u64) {
        self.0[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    }

    fn checksum(&self) -> u32 {
        let checksum = crc32c::crc32c(&self.0[..CHECKSUM_OFFSET]);
        let checksum = crc32c::crc32c_append(checksum, &[0; 4]);
        crc32c::crc32c_append(checksum, &self.0[CHECKSUM_OFFSET + 4..])
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Block(generation {}, {:x?}...)", self.generation(), &self.0[..8])
    }
}

/// Reads a little-endian integer; the caller has checked the bounds.
pub fn get_u32(bytes: &[u8], offset: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(field)
}

/// Reads a little-endian integer; the caller has checked the bounds.
pub fn get_u64(bytes: &[u8], offset: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: &[u8; 8] = b"TESTTEST";

    fn sealed() -> Block {
        let mut block = Block::new(MAGIC, 7, &[3; 16]);
        block.put_u64(BLOCK_FIELDS_OFFSET, 0x0102_0304_0506_0708);
        block.seal();
        block
    }

    #[test]
    fn fields_are_little_endian_and_read_back() {
        let block = sealed();
        assert_eq!(block.state(MAGIC), BlockState::Valid);
        assert_eq!((block.generation(), block.identity()), (7, [3; 16]));
        assert_eq!(block.0[BLOCK_FIELDS_OFFSET..BLOCK_FIELDS_OFFSET + 8], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(block.u32(BLOCK_FIELDS_OFFSET), 0x0506_0708);
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let block = sealed();
        for bit in 0..BLOCK_BYTES * 8 {
            let mut changed = block.clone();
            changed.0[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 64 { BlockState::Foreign } else { BlockState::Damaged };
            assert_eq!(changed.state(MAGIC), expected, "bit {bit}");
        }
    }

    #[test]
    fn another_layout_is_told_from_damage() {
        let mut block = sealed();
        block.put_u32(LAYOUT_OFFSET, 9);
        assert_eq!(block.state(MAGIC), BlockState::Damaged);
        block.seal();
        assert_eq!(block.state(MAGIC), BlockState::OtherLayout(9));
        assert_eq!(block.state(b"OTHERONE"), BlockState::Foreign);
        assert_eq!(Block::zeroed().state(MAGIC), BlockState::Foreign);
    }
}
