//! The newest revisions, as events ready to be sent: written by apply, read by every watcher.

use std::collections::VecDeque;
use std::sync::Arc;

use kontiki_api::mvccpb::event::EventType;
use kontiki_api::mvccpb::{Event, KeyValue};

use crate::mvcc::record::Kind;

/// One change of a revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Complete, with `prev_kv` where it was captured.
    pub event: Event,
    /// There was a previous version, but its value was not read when this was written.
    pub previous_on_disk: bool,
}

impl Change {
    #[must_use]
    pub fn new(kind: Kind, kv: KeyValue, replaces: bool, previous: Option<KeyValue>) -> Self {
        let kind = match kind {
            Kind::Put => EventType::Put,
            Kind::Delete => EventType::Delete,
        };
        let previous_on_disk = replaces && previous.is_none();
        Self { event: Event { r#type: kind.into(), kv: Some(kv), prev_kv: previous }, previous_on_disk }
    }

    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.kv().key
    }

    #[must_use]
    pub fn kv(&self) -> &KeyValue {
        self.event.kv.as_ref().expect("every event has its key")
    }

    fn bytes(&self) -> usize {
        event_bytes(&self.event)
    }
}

/// What an event takes, in memory and about as much on the wire.
#[must_use]
pub fn event_bytes(event: &Event) -> usize {
    let kvs = [&event.kv, &event.prev_kv];
    64 + kvs.into_iter().flatten().map(|kv| 64 + kv.key.len() + kv.value.len()).sum::<usize>()
}

/// All changes of one revision, in their order within it.
#[derive(Debug, PartialEq)]
pub struct Block {
    pub revision: i64,
    pub changes: Vec<Change>,
    bytes: usize,
}

impl Block {
    #[must_use]
    pub fn new(revision: i64, changes: Vec<Change>) -> Self {
        let bytes = 64 + changes.iter().map(Change::bytes).sum::<usize>();
        Self { revision, changes, bytes }
    }

    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A gapless run of revisions, bounded by bytes; the newest one is always in it.
#[derive(Debug)]
pub struct Ring {
    blocks: VecDeque<Arc<Block>>,
    /// The revision that comes next.
    next: i64,
    bytes: usize,
    bytes_max: usize,
}

impl Ring {
    #[must_use]
    pub fn new(revision: i64, bytes_max: usize) -> Self {
        Self { blocks: VecDeque::new(), next: revision + 1, bytes: 0, bytes_max }
    }

    /// The newest revision there is, in the ring or not.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.next - 1
    }

    /// The oldest revision still in the ring; the next one to come when the ring is empty.
    #[must_use]
    pub fn first(&self) -> i64 {
        self.blocks.front().map_or(self.next, |block| block.revision)
    }

    #[must_use]
    pub fn get(&self, revision: i64) -> Option<&Arc<Block>> {
        self.blocks.get(usize::try_from(revision - self.first()).ok()?)
    }

    pub fn push(&mut self, block: Block) {
        assert_eq!(block.revision, self.next, "every revision is published once, in order");
        self.next += 1;
        self.bytes += block.bytes;
        self.blocks.push_back(Arc::new(block));
        while self.bytes > self.bytes_max && self.blocks.len() > 1 {
            let oldest = self.blocks.pop_front().expect("more than one block");
            self.bytes -= oldest.bytes;
        }
    }

    /// Starts over after `revision`: what lies between was never seen here.
    pub fn reset(&mut self, revision: i64) {
        *self = Self::new(revision, self.bytes_max);
    }
}
