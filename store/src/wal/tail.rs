//! The log as the member sees it: which entries exist, where their bytes are, and the newest of them in memory.
//!
//! Entries are readable here from the moment they are appended, long before they are on disk; the cache therefore never
//! drops an entry whose position is not known yet. Ids are kept as runs of one leader, so the id of any index is a binary
//! search among a handful.

use std::collections::VecDeque;

use bytes::Bytes;

use super::recovery::Damage;
use super::{Entry, EntryId, Position, Record};

/// What an entry costs in the cache besides its payload.
const ENTRY_OVERHEAD: usize = 64;
const UNWRITTEN: Position = Position { segment: 0, offset: 0, length: 0 };

/// Consecutive entries of one leader, from `first` on.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: u64,
    term: u64,
    node: u64,
}

/// A range as it is to be read: first these places, then these entries.
#[derive(Debug, Default)]
pub struct Slice {
    pub stored: Vec<(EntryId, Position)>,
    pub cached: Vec<Entry>,
}

/// See the module.
#[derive(Debug)]
pub struct Tail {
    purged: Option<EntryId>,
    /// The index of `positions[0]`.
    first: u64,
    positions: VecDeque<Position>,
    runs: VecDeque<Run>,
    /// The newest entries; always a suffix of the log.
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    cache_bytes_max: usize,
    vote: Bytes,
}

impl Tail {
    #[must_use]
    pub fn new(purged: Option<EntryId>, vote: Bytes, cache_bytes_max: usize) -> Self {
        Self {
            purged,
            first: purged.map_or(0, |id| id.index + 1),
            positions: VecDeque::new(),
            runs: VecDeque::new(),
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max,
            vote,
        }
    }

    #[must_use]
    pub fn vote(&self) -> Bytes {
        self.vote.clone()
    }

    pub fn set_vote(&mut self, vote: Bytes) {
        self.vote = vote;
    }

    #[must_use]
    pub fn purged(&self) -> Option<EntryId> {
        self.purged
    }

    /// The last entry, or the last purged one where none is left.
    #[must_use]
    pub fn last(&self) -> Option<EntryId> {
        match self.positions.is_empty() {
            true => self.purged,
            false => self.id_at(self.next() - 1),
        }
    }

    /// The index after the last entry.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.first + self.positions.len() as u64
    }

    /// The id of the entry at `index`, if the log holds it.
    #[must_use]
    pub fn id_at(&self, index: u64) -> Option<EntryId> {
        if index < self.first || index >= self.next() {
            return None;
        }
        let run = self.runs.partition_point(|run| run.first <= index).checked_sub(1)?;
        let Run { term, node, .. } = self.runs[run];
        Some(EntryId { term, node, index })
    }

    /// The entry becomes the last one.
    ///
    /// # Panics
    /// When it leaves a hole: Raft never does.
    pub fn append(&mut self, entry: Entry) {
        assert!(self.extend(entry.id), "entry {} appended after {:?}", entry.id.index, self.last());
        self.cache_bytes += entry.payload.len() + ENTRY_OVERHEAD;
        self.cache.push_back(entry);
    }

    /// Drops the entries at `from` and after it.
    pub fn truncate(&mut self, from: u64) {
        let keep = from.saturating_sub(self.first) as usize;
        if keep >= self.positions.len() {
            return;
        }
        self.positions.truncate(keep);
        while self.runs.back().is_some_and(|run| run.first >= from) {
            self.runs.pop_back();
        }
        while self.cache.back().is_some_and(|entry| entry.id.index >= from) {
            let entry = self.cache.pop_back().expect("it was just seen");
            self.cache_bytes -= entry.payload.len() + ENTRY_OVERHEAD;
        }
    }

    /// Drops the entries up to `id`; the log goes on after it even when it was shorter.
    pub fn purge(&mut self, id: EntryId) {
        if self.purged.is_some_and(|purged| purged.index >= id.index) {
            return;
        }
        self.purged = Some(id);
        // The oldest segments may be gone already when recovery comes to an old purge: the log begins later than it says.
        let Some(gone) = (id.index + 1).checked_sub(self.first) else { return };
        self.positions.drain(..(gone as usize).min(self.positions.len()));
        self.first = id.index + 1;
        if self.positions.is_empty() {
            self.runs.clear();
        }
        while self.runs.len() > 1 && self.runs[1].first <= self.first {
            self.runs.pop_front();
        }
        if let Some(run) = self.runs.front_mut() {
            run.first = run.first.max(self.first);
        }
        while self.cache.front().is_some_and(|entry| entry.id.index < self.first) {
            self.drop_oldest();
        }
    }

    /// The entry's record is in the files now, so the cache may forget it.
    pub fn written(&mut self, id: EntryId, position: Position) {
        // Truncated meanwhile, and perhaps replaced by another leader's entry, whose own write follows.
        if self.id_at(id.index) == Some(id) {
            let place = (id.index - self.first) as usize;
            self.positions[place] = position;
        }
    }

    /// Forgets the oldest cached entries that are over the budget and in the files.
    pub fn evict(&mut self) {
        while self.cache_bytes > self.cache_bytes_max {
            let Some(entry) = self.cache.front() else { return };
            if self.positions[(entry.id.index - self.first) as usize] == UNWRITTEN {
                return;
            }
            self.drop_oldest();
        }
    }

    /// The entries of `start..end` that exist; ends early once `bytes_max` is exceeded, but never before one entry.
    #[must_use]
    pub fn slice(&self, start: u64, end: u64, bytes_max: usize) -> Slice {
        let start = start.max(self.first);
        let end = end.min(self.next());
        let cached_from = self.next() - self.cache.len() as u64;
        let mut slice = Slice::default();
        let mut bytes = 0;
        for index in start..end {
            if bytes > bytes_max {
                break;
            }
            if index < cached_from {
                let position = self.positions[(index - self.first) as usize];
                bytes += position.length as usize;
                slice.stored.push((self.id_at(index).expect("it is in the log"), position));
            } else {
                let entry = &self.cache[(index - cached_from) as usize];
                bytes += entry.payload.len() + ENTRY_OVERHEAD;
                slice.cached.push(entry.clone());
            }
        }
        slice
    }

    /// The last entry that lies in a segment before `segment`.
    #[must_use]
    pub fn last_before_segment(&self, segment: u32) -> Option<u64> {
        let before = self.positions.partition_point(|position| *position != UNWRITTEN && position.segment < segment);
        before.checked_sub(1).map(|last| self.first + last as u64)
    }

    /// Takes over a record that recovery read.
    ///
    /// # Errors
    /// [`Damage::Gap`] when the log has a hole.
    pub fn replay(&mut self, record: Record, position: Position) -> Result<(), Damage> {
        match record {
            Record::Entry(entry) => {
                if !self.extend(entry.id) {
                    return Err(Damage::Gap {
                        segment: position.segment.into(),
                        byte: position.offset.into(),
                        found: entry.id.index,
                        last: self.next().saturating_sub(1),
                    });
                }
                self.written(entry.id, position);
            }
            Record::Vote(vote) => self.vote = vote,
            Record::Truncate { from } => self.truncate(from),
            Record::Purge(id) => self.purge(id),
        }
        Ok(())
    }

    /// Makes room for `id` at the end; false when that would leave a hole.
    fn extend(&mut self, id: EntryId) -> bool {
        if self.positions.is_empty() && id.index >= self.first {
            self.first = id.index;
        }
        if id.index != self.next() {
            return false;
        }
        if self.runs.back().is_none_or(|run| (run.term, run.node) != (id.term, id.node)) {
            self.runs.push_back(Run { first: id.index, term: id.term, node: id.node });
        }
        self.positions.push_back(UNWRITTEN);
        true
    }

    fn drop_oldest(&mut self) {
        let entry = self.cache.pop_front().expect("the caller saw one");
        self.cache_bytes -= entry.payload.len() + ENTRY_OVERHEAD;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, index: u64) -> EntryId {
        EntryId { term, node: 1, index }
    }

    #[test]
    fn recovery_passes_a_purge_of_what_a_later_one_has_taken_the_files_of() {
        let mut recovered = Tail::new(None, Bytes::new(), 200);
        let entry = |index| Record::Entry(Entry { id: id(1, index), kind: 1, payload: Bytes::new() });
        let at = |offset| Position { segment: 3, offset, length: 1 };
        // The segments with the entries before 50 are gone, because the second purge has followed.
        for record in [entry(50), entry(51), Record::Purge(id(1, 20)), entry(52), Record::Purge(id(1, 50)), entry(53)] {
            recovered.replay(record, at(7)).unwrap();
        }
        assert_eq!((recovered.purged(), recovered.last(), recovered.next()), (Some(id(1, 50)), Some(id(1, 53)), 54));
        let stored: Vec<u64> = recovered.slice(0, 100, usize::MAX).stored.iter().map(|(id, _)| id.index).collect();
        assert_eq!(stored, [51, 52, 53]);
    }

    fn tail(entries: &[EntryId]) -> Tail {
        let mut tail = Tail::new(None, Bytes::new(), 200);
        for id in entries {
            tail.append(Entry { id: *id, kind: 1, payload: Bytes::from(vec![0; 36]) });
        }
        tail
    }

    fn place(index: u64) -> Position {
        Position { segment: 1, offset: index as u32 * 100, length: 100 }
    }

    #[test]
    fn ids_are_found_through_truncation_and_purging() {
        let mut tail = tail(&[id(1, 0), id(1, 1), id(2, 2), id(2, 3), id(3, 4)]);
        tail.truncate(3);
        assert_eq!(tail.last(), Some(id(2, 2)));
        tail.append(Entry { id: id(4, 3), kind: 1, payload: Bytes::new() });
        tail.purge(id(1, 0));
        assert_eq!(
            (0..5).map(|index| tail.id_at(index)).collect::<Vec<_>>(),
            [None, Some(id(1, 1)), Some(id(2, 2)), Some(id(4, 3)), None]
        );
    }

    #[test]
    fn purging_past_the_end_moves_the_log() {
        let mut tail = tail(&[id(1, 0), id(1, 1)]);
        tail.purge(id(3, 9));
        assert_eq!((tail.last(), tail.next()), (Some(id(3, 9)), 10));
        tail.append(Entry { id: id(3, 10), kind: 1, payload: Bytes::new() });
        assert_eq!(tail.last(), Some(id(3, 10)));
    }

    #[test]
    fn an_entry_leaves_the_cache_only_when_it_is_in_the_files() {
        let mut tail = tail(&[id(1, 0), id(1, 1), id(1, 2)]);
        tail.evict();
        assert_eq!(tail.slice(0, 3, usize::MAX).cached.len(), 3, "nothing is written yet");
        tail.written(id(1, 0), place(0));
        tail.evict();
        let slice = tail.slice(0, 3, usize::MAX);
        assert_eq!(slice.stored, [(id(1, 0), place(0))]);
        assert_eq!(slice.cached.len(), 2);
    }

    #[test]
    fn a_slice_ends_early_but_never_empty() {
        let tail = tail(&[id(1, 0), id(1, 1), id(1, 2)]);
        assert_eq!(tail.slice(0, 3, 0).cached.len(), 1);
        assert_eq!(tail.slice(0, 3, 101).cached.len(), 2);
    }

    #[test]
    fn the_entries_of_old_segments_are_found() {
        let mut tail = tail(&[id(1, 5), id(1, 6), id(1, 7), id(1, 8)]);
        assert_eq!(tail.last_before_segment(9), None, "nothing is written yet");
        for (index, segment) in [(5, 2), (6, 2), (7, 4)] {
            tail.written(id(1, index), Position { segment, offset: 0, length: 1 });
        }
        let found = [2, 3, 4, 5].map(|segment| tail.last_before_segment(segment));
        assert_eq!(found, [None, Some(6), Some(6), Some(7)]);
    }

    #[test]
    fn a_write_of_a_replaced_entry_places_nothing() {
        let mut tail = tail(&[id(1, 0), id(1, 1)]);
        tail.truncate(1);
        tail.append(Entry { id: id(2, 1), kind: 1, payload: Bytes::new() });
        tail.written(id(1, 1), place(1));
        tail.cache_bytes_max = 0;
        tail.written(id(1, 0), place(0));
        tail.evict();
        assert_eq!(tail.slice(0, 2, usize::MAX).cached.len(), 1);
    }
}
