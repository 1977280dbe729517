//! A segment's header: whose log it is, where it stands, and what must survive the deletion of older segments.

use bytes::Bytes;

use super::frame::{get_u32, get_u64};
use super::{EntryId, Offset};

/// Bytes before a segment's first frame.
pub const SEGMENT_HEADER: usize = 4096;
const MAGIC: &[u8; 8] = b"kontiki\x01";
const VOTE_AT: usize = 96;
const VOTE_MAX: usize = 1024;

/// Whose log this is; a directory of another member is refused by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub cluster: u64,
    pub member: u64,
}

/// The first 4 KiB of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub owner: Owner,
    pub sequence: u64,
    /// Drawn anew for each life of a file: what earlier lives left in it never passes for a frame.
    pub nonce: u64,
    /// The end of the segment before: all of it was synced before this header was written.
    pub previous_end: Offset,
    /// As of the end of the segment before.
    pub purged: Option<EntryId>,
    /// The vote as of the end of the segment before; empty for none.
    pub vote: Bytes,
}

impl SegmentHeader {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.vote.len() <= VOTE_MAX, "a vote is a few dozen bytes");
        let Self { owner, sequence, nonce, previous_end, purged, vote } = self;
        let id = purged.unwrap_or_default();
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[0; 8]);
        for number in [owner.cluster, owner.member, *sequence, *nonce, previous_end.segment, previous_end.byte] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for number in [id.term, id.node, id.index] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&u32::from(purged.is_some()).to_le_bytes());
        bytes.extend_from_slice(&(vote.len() as u32).to_le_bytes());
        debug_assert_eq!(bytes.len(), VOTE_AT);
        bytes.extend_from_slice(vote);
        bytes.resize(SEGMENT_HEADER, 0);
        let crc = crc32c::crc32c(&bytes[12..]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None` when this is not a header or a damaged one.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..SEGMENT_HEADER)?;
        if &bytes[..8] != MAGIC || crc32c::crc32c(&bytes[12..]) != get_u32(bytes, 8) {
            return None;
        }
        let word = |place: usize| get_u64(bytes, 16 + 8 * place);
        let purged = EntryId { term: word(6), node: word(7), index: word(8) };
        let vote_length = get_u32(bytes, 92) as usize;
        Some(Self {
            owner: Owner { cluster: word(0), member: word(1) },
            sequence: word(2),
            nonce: word(3),
            previous_end: Offset { segment: word(4), byte: word(5) },
            purged: (get_u32(bytes, 88) == 1).then_some(purged),
            vote: Bytes::copy_from_slice(bytes.get(VOTE_AT..VOTE_AT + vote_length)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_gives_back_what_was_put_in_and_notices_damage() {
        let header = SegmentHeader {
            owner: Owner { cluster: 1, member: 2 },
            sequence: 3,
            nonce: 4,
            previous_end: Offset { segment: 2, byte: 4096 },
            purged: Some(EntryId { term: 5, node: 6, index: 7 }),
            vote: Bytes::from_static(b"vote"),
        };
        let mut bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Some(header));
        bytes[100] ^= 1;
        assert_eq!(SegmentHeader::decode(&bytes), None);
    }
}
