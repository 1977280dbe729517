//! Opening a log: sync what is there, replay it, cut the torn end, and start the thread.
//!
//! Every segment is synced before it is read: after a crash of the process the page cache may hold frames that never
//! reached the disk, and what recovery reports must not be lost by the next power cut.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::super::disk::{Disk, File};
use super::super::random::Random;
use super::files::{Files, SEGMENT, list, segment_path};
use super::writer::{Active, Closed, Writer};
use super::{OpenError, Queue, Shared, Wal, WalOptions};
use crate::metrics::WalMetrics;
use crate::wal::Record;
use crate::wal::recovery::{Damage, Scan, check_header, scan};
use crate::wal::segment::{Owner, SEGMENT_HEADER, SegmentHeader};
use crate::wal::tail::Tail;

/// Whose log is in `dir`; `None` where there is none yet.
///
/// # Errors
/// When the directory cannot be read, or holds something else.
pub fn owner(disk: &dyn Disk, dir: &Path) -> io::Result<Option<Owner>> {
    if !dir.exists() {
        return Ok(None);
    }
    // Only looks: another process may be at work here, which is found out when the log is opened.
    let names = disk.list(dir)?;
    let sequences = names.iter().filter_map(|name| u64::from_str_radix(name.strip_suffix(SEGMENT)?, 16).ok());
    let Some(first) = sequences.min() else { return Ok(None) };
    let mut bytes = vec![0; SEGMENT_HEADER];
    disk.open(&segment_path(dir, first))?.read_at(&mut bytes, 0)?;
    let header = SegmentHeader::decode(&bytes);
    // A damaged header is reported when the log is opened.
    Ok(header.map(|header| header.owner))
}

struct Loaded {
    file: Arc<dyn File>,
    header: SegmentHeader,
}

pub(super) fn open(
    disk: Arc<dyn Disk>,
    random: &dyn Random,
    options: WalOptions,
    metrics: WalMetrics,
) -> Result<Wal, OpenError> {
    disk.create_dir(&options.dir)?;
    let listing = list(&*disk, &options.dir)?;
    let files = Files::start(disk.clone(), options.dir.clone(), options.segment_bytes, listing.spares)?;
    let segments = load_headers(&*disk, &options, &listing.segments)?;
    let (purged, vote) = match segments.first() {
        Some(first) => (first.header.purged, first.header.vote.clone()),
        None => (None, Bytes::new()),
    };
    let mut tail = Tail::new(purged, vote, options.cache_bytes);
    let mut closed = VecDeque::new();
    let mut active = None;
    for (place, segment) in segments.iter().enumerate() {
        let promised = segments.get(place + 1).map(|next| next.header.previous_end.byte);
        let (found, last_index) = replay(segment, promised, &mut tail)?;
        match promised {
            Some(_) => closed.push_back(Closed { sequence: segment.header.sequence, last_index }),
            None => {
                erase(segment, &found)?;
                active = Some(Active {
                    file: segment.file.clone(),
                    sequence: segment.header.sequence,
                    nonce: segment.header.nonce,
                    size: segment.file.size()?,
                    end: found.end,
                    last_index,
                });
            }
        }
    }
    let live: BTreeMap<u32, Arc<dyn File>> =
        segments.iter().map(|segment| (segment.header.sequence as u32, segment.file.clone())).collect();
    let shared = Arc::new(Shared {
        tail: Mutex::new(tail),
        queue: Mutex::new(Queue::default()),
        wake: Condvar::new(),
        segments: Mutex::new(live),
        metrics,
    });
    let thread = Writer::start(shared.clone(), options, files, active, closed, random.next_u64())?;
    Ok(Wal { shared, thread: Some(thread) })
}

/// The headers of all segments, which must be a row without a hole.
fn load_headers(disk: &dyn Disk, options: &WalOptions, sequences: &[u64]) -> Result<Vec<Loaded>, OpenError> {
    let mut loaded: Vec<Loaded> = Vec::new();
    for sequence in sequences {
        if let Some(before) = loaded.last() {
            let expected = before.header.sequence + 1;
            if *sequence != expected {
                return Err(Damage::Missing { segment: expected }.into());
            }
        }
        let file = disk.open(&segment_path(&options.dir, *sequence))?;
        if options.fsync {
            file.sync()?;
        }
        let mut bytes = vec![0; SEGMENT_HEADER];
        file.read_at(&mut bytes, 0)?;
        let header = check_header(&bytes, options.owner, *sequence)?;
        loaded.push(Loaded { file, header });
    }
    Ok(loaded)
}

fn replay(segment: &Loaded, promised: Option<u64>, tail: &mut Tail) -> Result<(Scan, Option<u64>), OpenError> {
    let mut bytes = vec![0; segment.file.size()? as usize];
    segment.file.read_at(&mut bytes, 0)?;
    let mut last_index = None;
    let found = scan(&Bytes::from(bytes), &segment.header, promised, |record, position| {
        if let Record::Entry(entry) = &record {
            last_index = last_index.max(Some(entry.id.index));
        }
        tail.replay(record, position)
    })?;
    Ok((found, last_index))
}

/// Makes sure that nothing after the end can be taken for a frame later.
fn erase(segment: &Loaded, found: &Scan) -> Result<(), OpenError> {
    const HEADER_START: [u8; 8] = [0; 8];
    for at in &found.stale {
        segment.file.write_at(&HEADER_START, *at)?;
    }
    if !found.stale.is_empty() {
        tracing::warn!(
            segment = segment.header.sequence,
            frames = found.stale.len(),
            "unsynced frames cut from the log"
        );
        segment.file.sync()?;
    }
    Ok(())
}
