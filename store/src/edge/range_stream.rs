//! RangeStream: a range of any size in parts, at one revision and with bounded memory.
//!
//! The parts together are what Range answers. Header, count and more come with the last part, and nothing is held between
//! two parts but where to go on: a client that reads slowly costs nothing, and compaction ends its stream with an error.

use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;
use futures::stream::unfold;
use kontiki_api::etcdserverpb as pb;
use pb::range_request::{SortOrder, SortTarget};
use prost::Message;
use tonic::Status;

use super::Edge;
use super::access::Sender;
use crate::auth::{AuthState, Caller};
use crate::error::StoreError;
use crate::limits::{RANGE_PART_KEYS_FIRST, RANGE_PART_KEYS_MAX};
use crate::state::check;

/// The parts of one range.
pub(super) type Parts = Pin<Box<dyn Stream<Item = Result<pb::RangeStreamResponse, Status>> + Send>>;

/// Starts a streamed range; a linearizable one waits for the barrier here.
pub(super) async fn start(edge: Edge, sender: Sender, request: pb::RangeRequest) -> Result<Parts, Status> {
    check::range(&request)?;
    if !is_streamable(&request) {
        return Err(Status::unimplemented("etcdserver: RangeStream takes neither a sort order nor revision filters"));
    }
    if !request.serializable {
        edge.member.read_barrier().await?;
    }
    let count = pb::RangeRequest { count_only: true, limit: 0, ..request.clone() };
    let counted = edge.read_for(&sender, &request, &count).await?;
    let current = counted.header.as_ref().map_or(0, |header| header.revision);
    if request.count_only {
        let answer = pb::RangeResponse { header: edge.complete(counted.header), ..counted };
        return Ok(Box::pin(tokio_stream::once(Ok(part(answer)))));
    }
    let revision = if request.revision > 0 { request.revision } else { current };
    let keys_left = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
    let range = Progress {
        next: request.key.clone(),
        revision,
        current,
        count: counted.count,
        keys_left,
        part_keys: RANGE_PART_KEYS_FIRST,
        edge,
        sender,
        request,
    };
    Ok(Box::pin(unfold(Some(range), |range| async move {
        let mut range = range?;
        match range.read().await {
            Ok((answer, true)) => Some((Ok(part(answer)), None)),
            Ok((answer, false)) => Some((Ok(part(answer)), Some(range))),
            Err(error) => Some((Err(error.into()), None)),
        }
    })))
}

/// What needs all keys before the first can be told has no parts.
fn is_streamable(request: &pb::RangeRequest) -> bool {
    let is_key_order = request.sort_target() == SortTarget::Key && request.sort_order() != SortOrder::Descend;
    let bounds =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    is_key_order && bounds == [0; 4]
}

fn part(answer: pb::RangeResponse) -> pb::RangeStreamResponse {
    pb::RangeStreamResponse { range_response: Some(answer) }
}

/// Where a streamed range is.
struct Progress {
    edge: Edge,
    sender: Sender,
    request: pb::RangeRequest,
    next: Bytes,
    /// What is read, and what was current when it began.
    revision: i64,
    current: i64,
    count: i64,
    /// None without a limit.
    keys_left: Option<usize>,
    part_keys: usize,
}

impl Progress {
    /// The next part, and whether it is the last.
    async fn read(&mut self) -> Result<(pb::RangeResponse, bool), StoreError> {
        let keys = self.keys_left.map_or(self.part_keys, |left| left.min(self.part_keys));
        let page = pb::RangeRequest {
            key: self.next.clone(),
            revision: self.revision,
            limit: i64::try_from(keys).unwrap_or(i64::MAX),
            ..self.request.clone()
        };
        let pb::RangeResponse { kvs, more, .. } = self.edge.read_for(&self.sender, &self.request, &page).await?;
        self.adapt(&kvs);
        if let Some(left) = &mut self.keys_left {
            *left -= kvs.len();
        }
        let is_last = !more || self.keys_left == Some(0);
        if let Some(last) = kvs.last() {
            self.next = [&last.key[..], &[0]].concat().into();
        }
        let answer = match is_last {
            true => pb::RangeResponse { header: Some(self.edge.header(self.current)), kvs, more, count: self.count },
            false => pb::RangeResponse { kvs, ..Default::default() },
        };
        Ok((answer, is_last))
    }

    /// As many keys in the next part as fill a message of the largest request's size, if they are like these.
    fn adapt(&mut self, kvs: &[kontiki_api::mvccpb::KeyValue]) {
        let bytes: usize = kvs.iter().map(Message::encoded_len).sum();
        if let Some(fitting) = self.edge.config.max_request_bytes.saturating_mul(kvs.len()).checked_div(bytes) {
            self.part_keys = fitting.clamp(1, RANGE_PART_KEYS_MAX);
        }
    }
}

impl Edge {
    /// A page of `whole`, for which alone the sender needs permission.
    async fn read_for(
        &self,
        sender: &Sender,
        whole: &pb::RangeRequest,
        page: &pb::RangeRequest,
    ) -> Result<pb::RangeResponse, StoreError> {
        let may = |auth: &AuthState, caller: &Caller| auth.may_read(caller, &whole.key, &whole.range_end);
        self.read_as(sender, may, || self.member.reader().range(page)).await
    }
}
