//! What goes to a watcher's client: a response whose events may be there as bytes already.
//!
//! Watchers of the same range on one stream are told of a change one after the other, and what they are told differs in
//! the first few bytes only. The events are encoded for the first of them; the others get a copy.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use kontiki_api::etcdserverpb as pb;
use kontiki_api::mvccpb::Event;
use prost::Message;
use prost::encoding::int64;

use super::hub::GroupId;
use super::response;
use super::ring::Block;
use super::watcher::{Filter, Watcher};

/// A response. In its header only the revision is set, and the rest of it is the edge's.
#[derive(Clone, Debug)]
pub enum Answer {
    Whole(Box<pb::WatchResponse>),
    /// What other watchers are told as well: `events` are encoded as those of a response.
    Shared {
        revision: i64,
        watch_id: i64,
        events: Bytes,
    },
}

/// The header of the response before, encoded: mostly the next one's is the same.
pub struct Head {
    header: pb::ResponseHeader,
    encoded: Vec<u8>,
}

impl Head {
    /// For responses of the member that `place` names; its revision is not looked at.
    #[must_use]
    pub fn new(place: pb::ResponseHeader) -> Self {
        Self { header: place, encoded: Vec::new() }
    }

    fn of(&mut self, revision: i64) -> &[u8] {
        if self.header.revision != revision || self.encoded.is_empty() {
            self.header.revision = revision;
            self.encoded = pb::WatchResponse { header: Some(self.header), ..Default::default() }.encode_to_vec();
        }
        &self.encoded
    }
}

/// The flag of compression and the length, before every message of gRPC.
const PREFIX_BYTES: usize = 5;

/// At most: the prefix, the header and the watcher's id.
const FRAME_BYTES_BEFORE_EVENTS: usize = PREFIX_BYTES + 2 + 4 * 11 + 11;

/// `watch_id` of a response.
const WATCH_ID: u32 = 2;

impl Answer {
    /// Appends it as gRPC sends it.
    ///
    /// # Panics
    /// When it is longer than 4 GiB.
    pub fn put_frame(self, head: &mut Head, to: &mut BytesMut) {
        let (revision, watch_id, events) = match self {
            Self::Shared { revision, watch_id, events } => (revision, watch_id, events),
            Self::Whole(mut response) => {
                let revision = response.header.map_or(0, |header| header.revision);
                response.header = Some(pb::ResponseHeader { revision, ..head.header });
                put_prefix(response.encoded_len(), to);
                return response.encode(to).expect("there is room");
            }
        };
        let head = head.of(revision);
        let id_bytes = match watch_id {
            0 => 0,
            id => int64::encoded_len(WATCH_ID, &id),
        };
        put_prefix(head.len() + id_bytes + events.len(), to);
        to.extend_from_slice(head);
        if id_bytes > 0 {
            int64::encode(WATCH_ID, &watch_id, to);
        }
        to.extend_from_slice(&events);
    }

    /// About as many bytes as its frame has, and as that of each other watcher who is told the same; 0 if it tells only one.
    #[must_use]
    pub fn shared_bytes(&self) -> usize {
        match self {
            Self::Whole(_) => 0,
            Self::Shared { events, .. } => events.len() + FRAME_BYTES_BEFORE_EVENTS,
        }
    }

    /// The whole response, for whoever reads it in this program.
    ///
    /// # Panics
    /// Never: it decodes what was encoded here.
    #[must_use]
    pub fn decoded(self) -> pb::WatchResponse {
        match self {
            Self::Whole(response) => *response,
            Self::Shared { revision, watch_id, events } => {
                let mut response = response::events(revision, watch_id, Vec::new());
                response.merge(events).expect("what was encoded can be decoded");
                response
            }
        }
    }
}

fn put_prefix(length: usize, to: &mut BytesMut) {
    to.reserve(PREFIX_BYTES + length);
    to.put_u8(0);
    to.put_u32(u32::try_from(length).expect("a response is limited by what it is made of"));
}

impl From<pb::WatchResponse> for Answer {
    fn from(response: pb::WatchResponse) -> Self {
        Self::Whole(Box::new(response))
    }
}

/// The events that one group's watchers with the same filter get of a block.
#[derive(Debug)]
pub(super) struct Shared {
    block: Arc<Block>,
    group: GroupId,
    filter: Filter,
    /// The block is all there is for a watcher whose next revision is this one, as long as the newest revision is that one.
    from: i64,
    pub(super) newest: i64,
    pub(super) count: usize,
    pub(super) events: Bytes,
}

impl Shared {
    pub(super) fn new(block: Arc<Block>, watcher: &Watcher, newest: i64, events: Vec<Event>) -> Self {
        let (group, filter, count) = (watcher.registration.group, watcher.filter, events.len());
        let events = pb::WatchResponse { events, ..Default::default() }.encode_to_vec().into();
        Self { from: watcher.next, newest, block, group, filter, count, events }
    }

    /// The same, found once more by another look.
    pub(super) fn found_at(self, from: i64, newest: i64) -> Self {
        Self { from, newest, ..self }
    }

    pub(super) fn revision(&self) -> i64 {
        self.block.revision
    }

    /// Whether the events are `watcher`'s of `block`.
    pub(super) fn is_of(&self, block: &Arc<Block>, watcher: &Watcher) -> bool {
        Arc::ptr_eq(&self.block, block) && self.is_alike(watcher)
    }

    /// Whether `watcher` stands where the one before it did.
    pub(super) fn is_for(&self, watcher: &Watcher) -> bool {
        self.from == watcher.next && self.is_alike(watcher) && !watcher.replaying.get() && watcher.shares()
    }

    fn is_alike(&self, watcher: &Watcher) -> bool {
        self.group == watcher.registration.group && self.filter == watcher.filter
    }
}
