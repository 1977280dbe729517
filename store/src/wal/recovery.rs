//! What a segment's bytes mean after a crash: how far the log is true, and whether the rest was lost or never finished.
//!
//! One frame is written and synced at a time, so only the very last frame of the log can be torn, and it was never
//! acknowledged: it is cut. A bad frame before bytes that a later frame or header calls durable is acknowledged data that
//! is gone: the member must not start with it, or it would vote and count as if it still had them.

use bytes::Bytes;

use super::frame::{Frame, candidates};
use super::segment::{Owner, SEGMENT_HEADER, SegmentHeader};
use super::{Offset, Position, Record};

/// Why a log must not be used as it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("segment {segment}: the header is damaged")]
    Header { segment: u64 },
    #[error("segment {segment} is missing")]
    Missing { segment: u64 },
    #[error(
        "it belongs to member {found_member:x} of cluster {found_cluster:x}, but this is member {member:x} of cluster {cluster:x}"
    )]
    Foreign { found_cluster: u64, found_member: u64, cluster: u64, member: u64 },
    #[error(
        "segment {segment} is unreadable at byte {byte} although it was synced up to segment {durable_segment} byte \
         {durable_byte}: acknowledged data is lost. Remove this member, and add it again with an empty directory"
    )]
    Lost { segment: u64, byte: u64, durable_segment: u64, durable_byte: u64 },
    #[error("segment {segment}, byte {byte}: a record of a true frame does not decode: written by a newer version?")]
    Record { segment: u64, byte: u64 },
    #[error("segment {segment}, byte {byte}: entry {found} follows entry {last}")]
    Gap { segment: u64, byte: u64, found: u64, last: u64 },
}

/// What a scan found.
#[derive(Debug, PartialEq, Eq)]
pub struct Scan {
    /// Where the true frames end, and the next one will be written.
    pub end: u64,
    /// Frames after `end` that were never promised to anyone: their headers must be erased, or they might be taken for
    /// true once the gap before them is filled.
    pub stale: Vec<u64>,
}

/// Checks that `header` belongs to `owner` and stands at `sequence`.
///
/// # Errors
/// [`Damage::Foreign`] or [`Damage::Header`].
pub fn check_header(bytes: &[u8], owner: Owner, sequence: u64) -> Result<SegmentHeader, Damage> {
    let header = SegmentHeader::decode(bytes).ok_or(Damage::Header { segment: sequence })?;
    if header.owner != owner {
        return Err(Damage::Foreign {
            found_cluster: header.owner.cluster,
            found_member: header.owner.member,
            cluster: owner.cluster,
            member: owner.member,
        });
    }
    if header.sequence != sequence {
        return Err(Damage::Header { segment: sequence });
    }
    Ok(header)
}

/// Hands every record of a segment to `replay`, in order. `promised` is the end that the next segment's header vouches
/// for; `None` for the last segment.
///
/// # Errors
/// When acknowledged data is lost, or `replay` refuses a record.
pub fn scan(
    bytes: &Bytes,
    header: &SegmentHeader,
    promised: Option<u64>,
    mut replay: impl FnMut(Record, Position) -> Result<(), Damage>,
) -> Result<Scan, Damage> {
    let segment = header.sequence;
    let mut end = SEGMENT_HEADER;
    while promised.is_none_or(|promised| (end as u64) < promised) {
        let Some(frame) = Frame::parse(bytes, header.nonce, end) else { break };
        for found in frame.records() {
            let (record, offset, length) = found.ok_or(Damage::Record { segment, byte: end as u64 })?;
            replay(record, position(segment, end + offset, length))?;
        }
        end += frame.length;
    }
    let end_offset = Offset { segment, byte: end as u64 };
    let lost = |durable: Offset| Damage::Lost {
        segment,
        byte: end_offset.byte,
        durable_segment: durable.segment,
        durable_byte: durable.byte,
    };
    if let Some(promised) = promised {
        return match end_offset.byte == promised {
            true => Ok(Scan { end: promised, stale: Vec::new() }),
            false => Err(lost(Offset { segment, byte: promised })),
        };
    }
    let mut stale = Vec::new();
    for at in candidates(bytes, header.nonce, end) {
        let Some(frame) = Frame::parse(bytes, header.nonce, at) else { continue };
        if frame.durable > end_offset {
            return Err(lost(frame.durable));
        }
        stale.push(at as u64);
    }
    Ok(Scan { end: end_offset.byte, stale })
}

/// A record's place; segments are numbered from 1 and are at most 4 GiB long.
#[must_use]
pub fn position(segment: u64, offset: usize, length: usize) -> Position {
    Position {
        segment: u32::try_from(segment).expect("four thousand million segments are never reached"),
        offset: u32::try_from(offset).expect("a segment is below 4 GiB"),
        length: u32::try_from(length).expect("a record is below 4 GiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::frame::FrameBuilder;
    use crate::wal::{Entry, EntryId};

    const NONCE: u64 = 0x1234_5678_9abc_def0;

    fn header() -> SegmentHeader {
        SegmentHeader {
            owner: Owner { cluster: 1, member: 2 },
            sequence: 1,
            nonce: NONCE,
            previous_end: Offset::default(),
            purged: None,
            vote: Bytes::new(),
        }
    }

    /// A segment with one entry a frame; gives the frames' offsets too. `durable` says what each frame vouches for.
    fn segment(entries: u64, durable: impl Fn(u64) -> Offset) -> (Vec<u8>, Vec<u64>) {
        let mut bytes = header().encode();
        let mut offsets = Vec::new();
        let mut builder = FrameBuilder::default();
        for index in 1..=entries {
            builder.clear();
            let id = EntryId { term: 1, node: 2, index };
            builder.push(&Record::Entry(Entry { id, kind: 1, payload: Bytes::from(vec![index as u8; 40]) }));
            let at = bytes.len() as u64;
            offsets.push(at);
            bytes.extend_from_slice(builder.finish(NONCE, at, durable(at)));
        }
        bytes.resize(bytes.len() + 4096, 0);
        (bytes, offsets)
    }

    fn synced(at: u64) -> Offset {
        Offset { segment: 1, byte: at }
    }

    fn entries(bytes: Vec<u8>) -> Result<(usize, Scan), Damage> {
        let mut count = 0;
        let scan = scan(&bytes.into(), &header(), None, |_, _| {
            count += 1;
            Ok(())
        })?;
        Ok((count, scan))
    }

    #[test]
    fn a_damaged_last_frame_is_cut() {
        let (mut bytes, offsets) = segment(3, synced);
        bytes[offsets[2] as usize + 40] ^= 1;
        assert_eq!(entries(bytes), Ok((2, Scan { end: offsets[2], stale: vec![] })));
    }

    #[test]
    fn a_damaged_earlier_frame_is_lost_data() {
        let (mut bytes, offsets) = segment(3, synced);
        bytes[offsets[1] as usize + 40] ^= 1;
        let lost = Damage::Lost { segment: 1, byte: offsets[1], durable_segment: 1, durable_byte: offsets[2] };
        assert_eq!(entries(bytes), Err(lost));
    }

    #[test]
    fn frames_that_nobody_was_promised_are_erased_with_the_gap_before_them() {
        let (mut bytes, offsets) = segment(3, |_| Offset::default());
        bytes[offsets[0] as usize + 40] ^= 1;
        assert_eq!(entries(bytes), Ok((0, Scan { end: offsets[0], stale: offsets[1..].to_vec() })));
    }

    #[test]
    fn a_segment_must_reach_what_the_next_header_vouches_for() {
        let (bytes, offsets) = segment(2, synced);
        let full = bytes.len() as u64 - 4096;
        let bytes = Bytes::from(bytes);
        assert_eq!(scan(&bytes, &header(), Some(full), |_, _| Ok(())), Ok(Scan { end: full, stale: vec![] }));
        let cut = bytes.slice(..offsets[1] as usize);
        let lost = Damage::Lost { segment: 1, byte: offsets[1], durable_segment: 1, durable_byte: full };
        assert_eq!(scan(&cut, &header(), Some(full), |_, _| Ok(())), Err(lost));
    }
}
