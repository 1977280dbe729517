//! Frames and records as bytes.
//!
//! ```text
//! frame  = magic u32 | crc u32 | length u32 | records u32 | durable segment u64 | durable byte u64 | record*  | zeros to 8
//! record = crc u32 | length u32 | kind u8 | payload kind u8 | zero u16 | body
//! entry  = term u64 | node u64 | index u64 | payload          vote = bytes
//! purge  = term u64 | node u64 | index u64                    truncate = from u64
//! ```
//!
//! Little endian. The frame's checksum starts from the segment's nonce and the frame's offset, so that neither stale
//! bytes of a recycled file nor a misplaced write can pass for a frame. The record's own checksum lets one entry be
//! read back without its frame.

use bytes::Bytes;

use super::{Entry, EntryId, Offset, Record};

/// Bytes before a frame's first record.
pub const FRAME_HEADER: usize = 32;
const RECORD_HEADER: usize = 12;
const ALIGNMENT: usize = 8;
const MAGIC: u32 = 0x4b57_414c;

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const TRUNCATE: u8 = 3;
const PURGE: u8 = 4;

/// Collects records into one frame; the buffer is reused from frame to frame.
#[derive(Debug)]
pub struct FrameBuilder {
    buffer: Vec<u8>,
    records: u32,
}

impl Default for FrameBuilder {
    fn default() -> Self {
        Self { buffer: vec![0; FRAME_HEADER], records: 0 }
    }
}

impl FrameBuilder {
    pub fn clear(&mut self) {
        self.buffer.truncate(FRAME_HEADER);
        self.records = 0;
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// The bytes of the frame so far, as it will be written.
    #[must_use]
    pub fn length(&self) -> usize {
        self.buffer.len().next_multiple_of(ALIGNMENT)
    }

    /// Adds a record; returns its offset within the frame and its length.
    pub fn push(&mut self, record: &Record) -> (usize, usize) {
        let start = self.buffer.len();
        let (kind, payload_kind) = match record {
            Record::Entry(entry) => (ENTRY, entry.kind),
            Record::Vote(_) => (VOTE, 0),
            Record::Truncate { .. } => (TRUNCATE, 0),
            Record::Purge(_) => (PURGE, 0),
        };
        self.buffer.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, kind, payload_kind, 0, 0]);
        match record {
            Record::Entry(entry) => {
                put_id(&mut self.buffer, entry.id);
                self.buffer.extend_from_slice(&entry.payload);
            }
            Record::Vote(vote) => self.buffer.extend_from_slice(vote),
            Record::Truncate { from } => self.buffer.extend_from_slice(&from.to_le_bytes()),
            Record::Purge(id) => put_id(&mut self.buffer, *id),
        }
        let length = self.buffer.len() - start;
        let body = u32::try_from(length - RECORD_HEADER).expect("a record is far below 4 GiB");
        self.buffer[start + 4..start + 8].copy_from_slice(&body.to_le_bytes());
        let crc = crc32c::crc32c(&self.buffer[start + 4..]);
        self.buffer[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        self.records += 1;
        (start, length)
    }

    /// The finished frame for this place in the log. `durable` is what was known to be synced before it.
    pub fn finish(&mut self, nonce: u64, offset: u64, durable: Offset) -> &[u8] {
        self.buffer.resize(self.length(), 0);
        let length = u32::try_from(self.buffer.len()).expect("a frame is far below 4 GiB");
        self.buffer[0..4].copy_from_slice(&magic(nonce).to_le_bytes());
        self.buffer[8..12].copy_from_slice(&length.to_le_bytes());
        self.buffer[12..16].copy_from_slice(&self.records.to_le_bytes());
        self.buffer[16..24].copy_from_slice(&durable.segment.to_le_bytes());
        self.buffer[24..32].copy_from_slice(&durable.byte.to_le_bytes());
        let crc = crc32c::crc32c_append(seed(nonce, offset), &self.buffer[8..]);
        self.buffer[4..8].copy_from_slice(&crc.to_le_bytes());
        &self.buffer
    }
}

/// A frame that passed its checksum.
#[derive(Clone, Debug)]
pub struct Frame {
    pub length: usize,
    pub durable: Offset,
    records: u32,
    body: Bytes,
}

impl Frame {
    /// The frame at `offset` of a segment's `bytes`, if a whole and true one is there.
    #[must_use]
    pub fn parse(bytes: &Bytes, nonce: u64, offset: usize) -> Option<Self> {
        let header = bytes.get(offset..offset + FRAME_HEADER)?;
        if get_u32(header, 0) != magic(nonce) {
            return None;
        }
        let length = get_u32(header, 8) as usize;
        if length < FRAME_HEADER || !length.is_multiple_of(ALIGNMENT) {
            return None;
        }
        let frame = bytes.get(offset..offset.checked_add(length)?)?;
        if crc32c::crc32c_append(seed(nonce, offset as u64), &frame[8..]) != get_u32(header, 4) {
            return None;
        }
        Some(Self {
            length,
            durable: Offset { segment: get_u64(header, 16), byte: get_u64(header, 24) },
            records: get_u32(header, 12),
            body: bytes.slice(offset + FRAME_HEADER..offset + length),
        })
    }

    /// The records with their offsets within the frame and their lengths; `None` where one does not decode.
    pub fn records(&self) -> impl Iterator<Item = Option<(Record, usize, usize)>> + '_ {
        let mut at = 0;
        (0..self.records).map(move |_| {
            let start = at;
            let header = self.body.get(start..start + RECORD_HEADER)?;
            let length = RECORD_HEADER + get_u32(header, 4) as usize;
            let record = decode_record(&self.body.slice(start..self.body.len().min(start + length)))?;
            at = start + length;
            Some((record, FRAME_HEADER + start, length))
        })
    }
}

/// One record that fills `bytes` exactly; `None` when it is damaged.
#[must_use]
pub fn decode_record(bytes: &Bytes) -> Option<Record> {
    let header = bytes.get(..RECORD_HEADER)?;
    if get_u32(header, 4) as usize != bytes.len() - RECORD_HEADER || crc32c::crc32c(&bytes[4..]) != get_u32(header, 0) {
        return None;
    }
    let body = bytes.slice(RECORD_HEADER..);
    match header[8] {
        ENTRY if body.len() >= 24 => {
            Some(Record::Entry(Entry { id: get_id(&body), kind: header[9], payload: body.slice(24..) }))
        }
        VOTE => Some(Record::Vote(body)),
        TRUNCATE if body.len() == 8 => Some(Record::Truncate { from: get_u64(&body, 0) }),
        PURGE if body.len() == 24 => Some(Record::Purge(get_id(&body))),
        _ => None,
    }
}

/// Where a frame might start after `from`: the places whose first word is this segment's magic.
pub fn candidates(bytes: &Bytes, nonce: u64, from: usize) -> impl Iterator<Item = usize> + '_ {
    let word = magic(nonce).to_le_bytes();
    let start = from.next_multiple_of(ALIGNMENT);
    (start..bytes.len().saturating_sub(FRAME_HEADER)).step_by(ALIGNMENT).filter(move |at| bytes[*at..*at + 4] == word)
}

fn magic(nonce: u64) -> u32 {
    MAGIC ^ (nonce as u32)
}

fn seed(nonce: u64, offset: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&nonce.to_le_bytes()), &offset.to_le_bytes())
}

fn put_id(buffer: &mut Vec<u8>, id: EntryId) {
    let EntryId { term, node, index } = id;
    buffer.extend_from_slice(&term.to_le_bytes());
    buffer.extend_from_slice(&node.to_le_bytes());
    buffer.extend_from_slice(&index.to_le_bytes());
}

fn get_id(bytes: &[u8]) -> EntryId {
    EntryId { term: get_u64(bytes, 0), node: get_u64(bytes, 8), index: get_u64(bytes, 16) }
}

pub(super) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, payload: &'static str) -> Record {
        Record::Entry(Entry {
            id: EntryId { term: 3, node: 9, index },
            kind: 1,
            payload: Bytes::from_static(payload.as_bytes()),
        })
    }

    fn frame_at(offset: usize, records: &[Record]) -> Bytes {
        let mut builder = FrameBuilder::default();
        for record in records {
            builder.push(record);
        }
        let mut bytes = vec![0; offset];
        bytes.extend_from_slice(builder.finish(77, offset as u64, Offset { segment: 2, byte: 8 }));
        bytes.into()
    }

    #[test]
    fn a_frame_gives_back_what_was_put_in() {
        let records = [
            entry(1, "one"),
            Record::Vote(Bytes::from_static(b"vote")),
            Record::Truncate { from: 4 },
            Record::Purge(EntryId { term: 1, node: 2, index: 3 }),
            entry(2, ""),
        ];
        let bytes = frame_at(64, &records);
        let frame = Frame::parse(&bytes, 77, 64).expect("a true frame");
        assert_eq!(frame.durable, Offset { segment: 2, byte: 8 });
        assert_eq!(64 + frame.length, bytes.len());
        let back: Vec<_> = frame.records().map(|record| record.expect("decodes").0).collect();
        assert_eq!(back, records);
        let (_, offset, length) = frame.records().next().expect("one").expect("decodes");
        assert_eq!(decode_record(&bytes.slice(64 + offset..64 + offset + length)), Some(entry(1, "one")));
    }

    #[test]
    fn a_frame_elsewhere_or_of_another_life_of_the_file_is_refused() {
        let bytes = frame_at(64, &[entry(1, "one")]);
        assert!(Frame::parse(&bytes, 78, 64).is_none(), "another nonce");
        let moved: Bytes = [&[0; 8][..], &bytes].concat().into();
        assert!(Frame::parse(&moved, 77, 72).is_none(), "another offset");
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let bytes = frame_at(0, &[entry(1, "payload")]);
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 0x10;
            assert!(Frame::parse(&damaged.into(), 77, 0).is_none(), "byte {at}");
        }
    }
}
