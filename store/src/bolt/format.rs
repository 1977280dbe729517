//! The layout of pages, as bbolt's documentation and its files show it. Numbers are little-endian here: bbolt writes them
//! as the machine has them, and every machine etcd supports but s390x is little-endian.
//!
//! A page is `id u64 | flags u16 | count u16 | overflow u32`, then elements, then the bytes they point to. A leaf's element
//! is `flags u32 | pos u32 | ksize u32 | vsize u32`, a branch's `pos u32 | ksize u32 | id u64`; `pos` counts from the
//! element itself. A bucket is a value `root u64 | sequence u64`; a root of 0 means that its only page follows inline.

use super::BoltError;

pub(super) const PAGE_HEADER: usize = 16;
pub(super) const ELEMENT: usize = 16;
pub(super) const BUCKET_HEADER: usize = 16;
pub(super) const META_BYTES: usize = 64;
/// What this program writes; it reads every power of two that bbolt does.
pub(super) const PAGE_SIZE: usize = 4096;

pub(super) const BRANCH: u16 = 0x01;
pub(super) const LEAF: u16 = 0x02;
pub(super) const META: u16 = 0x04;
pub(super) const FREELIST: u16 = 0x10;
/// The flag of a leaf's element whose value is a bucket.
pub(super) const BUCKET: u32 = 0x01;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const PAGE_SIZE_MIN: u32 = 512;
const PAGE_SIZE_MAX: u32 = 1 << 24;

/// The first bytes of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageHeader {
    pub(super) id: u64,
    pub(super) flags: u16,
    pub(super) count: u16,
    /// Pages that follow and belong to this one.
    pub(super) overflow: u32,
}

impl PageHeader {
    pub(super) fn encode(self) -> [u8; PAGE_HEADER] {
        let Self { id, flags, count, overflow } = self;
        let mut bytes = [0; PAGE_HEADER];
        bytes[..8].copy_from_slice(&id.to_le_bytes());
        bytes[8..10].copy_from_slice(&flags.to_le_bytes());
        bytes[10..12].copy_from_slice(&count.to_le_bytes());
        bytes[12..].copy_from_slice(&overflow.to_le_bytes());
        bytes
    }

    /// `None` when there are too few bytes.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            id: u64_at(bytes, 0)?,
            flags: u16_at(bytes, 8)?,
            count: u16_at(bytes, 10)?,
            overflow: u32_at(bytes, 12)?,
        })
    }
}

/// What a transaction of bbolt commits: where everything begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) page_size: u32,
    pub(super) root: u64,
    pub(super) freelist: u64,
    /// Pages of the file that count; what lies after them does not.
    pub(super) pages: u64,
    pub(super) transaction: u64,
}

impl Meta {
    pub(super) fn encode(&self) -> [u8; META_BYTES] {
        let Self { page_size, root, freelist, pages, transaction } = *self;
        let mut bytes = [0; META_BYTES];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..12].copy_from_slice(&page_size.to_le_bytes());
        // 12..16 are flags, 24..32 the root bucket's sequence: always 0.
        bytes[16..24].copy_from_slice(&root.to_le_bytes());
        bytes[32..40].copy_from_slice(&freelist.to_le_bytes());
        bytes[40..48].copy_from_slice(&pages.to_le_bytes());
        bytes[48..56].copy_from_slice(&transaction.to_le_bytes());
        let sum = fnv1a(&bytes[..56]);
        bytes[56..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Checks what can be checked without the rest of the file.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BoltError> {
        let short = || BoltError::Invalid("it is too short for a meta page".to_owned());
        let word = |at| u64_at(bytes, at).ok_or_else(short);
        let half = |at| u32_at(bytes, at).ok_or_else(short);
        match half(0)? {
            MAGIC => {}
            magic if magic == MAGIC.swap_bytes() => {
                return Err(BoltError::Invalid("it was written by a big-endian machine".to_owned()));
            }
            _ => return Err(BoltError::Invalid("the magic number is missing".to_owned())),
        }
        let (version, page_size) = (half(4)?, half(8)?);
        if version != VERSION {
            return Err(BoltError::Invalid(format!("format version {version}; only {VERSION} is known")));
        }
        if word(56)? != fnv1a(&bytes[..56]) {
            return Err(BoltError::Invalid("the checksum of the meta page is wrong".to_owned()));
        }
        if !page_size.is_power_of_two() || !(PAGE_SIZE_MIN..=PAGE_SIZE_MAX).contains(&page_size) {
            return Err(BoltError::Invalid(format!("a page size of {page_size} bytes")));
        }
        Ok(Self { page_size, root: word(16)?, freelist: word(32)?, pages: word(40)?, transaction: word(48)? })
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_fnv_1a() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_meta_page_comes_back_and_its_damage_is_noticed() {
        let meta = Meta { page_size: 4096, root: 7, freelist: 2, pages: 9, transaction: 5 };
        let mut bytes = meta.encode();
        assert_eq!(Meta::decode(&bytes).unwrap(), meta);
        bytes[40] ^= 1;
        assert!(Meta::decode(&bytes).unwrap_err().to_string().contains("checksum"));
        bytes[..4].reverse();
        assert!(Meta::decode(&bytes).unwrap_err().to_string().contains("big-endian"));
    }
}
