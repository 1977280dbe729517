//! What goes to a watcher's client: a response whose events may be there as bytes already.
//!
//! Watchers of the same range on one stream are told of a change one after the other, and what they are told differs in
//! the first few bytes only. The events are encoded for the first of them; the others get a copy.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use kontiki_api::etcdserverpb as pb;
use prost::Message;

use super::hub::GroupId;
use super::ring::Block;
use super::watcher::Filter;

/// A response. In its header only the revision is set, and the rest of it is the edge's.
#[derive(Debug)]
pub struct Answer {
    pub response: pb::WatchResponse,
    /// More of its events, encoded.
    encoded: Bytes,
}

/// The flag of compression and the length, before every message of gRPC.
const PREFIX_BYTES: usize = 5;

impl Answer {
    pub(super) fn encoded(response: pb::WatchResponse, encoded: Bytes) -> Self {
        Self { response, encoded }
    }

    /// Appends it as gRPC sends it.
    ///
    /// # Panics
    /// When it is longer than 4 GiB.
    pub fn put_frame(&self, to: &mut BytesMut) {
        let length = self.response.encoded_len() + self.encoded.len();
        to.reserve(PREFIX_BYTES + length);
        to.put_u8(0);
        to.put_u32(u32::try_from(length).expect("a response is limited by what it is made of"));
        self.response.encode(to).expect("there is room");
        // Fields of a message may come in pieces; events are its last ones.
        to.extend_from_slice(&self.encoded);
    }

    /// The whole response, for whoever reads it in this program.
    ///
    /// # Panics
    /// Never: it decodes what was encoded here.
    #[must_use]
    pub fn decoded(self) -> pb::WatchResponse {
        let mut response = self.response;
        response.merge(self.encoded).expect("what was encoded can be decoded");
        response
    }
}

impl From<pb::WatchResponse> for Answer {
    fn from(response: pb::WatchResponse) -> Self {
        Self { response, encoded: Bytes::new() }
    }
}

/// The events that one group's watchers with the same filter get of a block.
#[derive(Debug)]
pub(super) struct Shared {
    block: Arc<Block>,
    group: GroupId,
    filter: Filter,
    pub(super) count: usize,
    pub(super) events: Bytes,
}

impl Shared {
    pub(super) fn new(
        block: Arc<Block>,
        group: GroupId,
        filter: Filter,
        events: Vec<kontiki_api::mvccpb::Event>,
    ) -> Self {
        let count = events.len();
        let events = pb::WatchResponse { events, ..Default::default() }.encode_to_vec().into();
        Self { block, group, filter, count, events }
    }

    pub(super) fn is_of(&self, block: &Arc<Block>, group: GroupId, filter: Filter) -> bool {
        Arc::ptr_eq(&self.block, block) && self.group == group && self.filter == filter
    }
}
