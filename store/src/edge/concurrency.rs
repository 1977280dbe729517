//! What locks and elections have in common: keys under a prefix that live with a lease, and the wait for those before.
//!
//! The algorithm is that of etcd's client library, so that a lock taken here and one taken by a client exclude each other.
//! Every step is an ordinary request of the same caller, subject to the same checks.

use bytes::Bytes;
use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::kv_server::Kv;
use kontiki_api::etcdserverpb::lease_server::Lease;
use kontiki_api::mvccpb::event::EventType;
use kontiki_api::mvccpb::{Event, KeyValue};
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request;
use tonic::Status;

use super::Edge;
use super::access::Sender;
use crate::error::StoreError;
use crate::limits::SESSION_TTL_S;
use crate::watch::{WatchStream, WatchStreamOptions};

/// A caller's requests, made from inside.
#[derive(Clone)]
pub(super) struct Session {
    edge: Edge,
    sender: Sender,
}

impl Session {
    pub(super) fn new(edge: &Edge, sender: Sender) -> Self {
        Self { edge: edge.clone(), sender }
    }

    pub(super) async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        Ok(self.edge.range(self.sender.request(request)).await?.into_inner())
    }

    pub(super) async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        Ok(self.edge.txn(self.sender.request(request)).await?.into_inner())
    }

    pub(super) async fn delete(&self, key: Bytes) -> Result<pb::DeleteRangeResponse, Status> {
        let request = pb::DeleteRangeRequest { key, ..Default::default() };
        Ok(self.edge.delete_range(self.sender.request(request)).await?.into_inner())
    }

    /// `lease`, or one that is granted now and renewed by nobody.
    pub(super) async fn lease(&self, lease: i64) -> Result<i64, Status> {
        if lease != 0 {
            return Ok(lease);
        }
        let grant = pb::LeaseGrantRequest { ttl: SESSION_TTL_S, id: 0 };
        Ok(self.edge.lease_grant(self.sender.request(grant)).await?.into_inner().id)
    }

    /// Returns when no key under `prefix` is left that was created at `newest` or before.
    pub(super) async fn await_predecessors(&self, prefix: &Bytes, newest: i64) -> Result<(), Status> {
        loop {
            let last = pb::RangeRequest {
                max_create_revision: newest,
                sort_order: SortOrder::Descend.into(),
                ..by_creation(prefix)
            };
            let found = self.range(last).await?;
            let Some(before) = found.kvs.into_iter().next() else { return Ok(()) };
            let revision = found.header.map_or(0, |header| header.revision);
            let mut events = self.watch(before.key, Bytes::new(), revision + 1)?;
            while events.next().await?.r#type() != EventType::Delete {}
        }
    }

    pub(super) fn header(&self, revision: i64) -> pb::ResponseHeader {
        self.edge.header(revision)
    }

    pub(super) fn watch(&self, key: Bytes, range_end: Bytes, start_revision: i64) -> Result<Events, Status> {
        let mut stream = self.edge.member.reader().watch().stream_with(WatchStreamOptions::default());
        stream.create(pb::WatchCreateRequest { key, range_end, start_revision, ..Default::default() });
        Ok(Events { stream, waiting: Vec::new().into_iter(), member: self.edge.member.clone() })
    }
}

/// The events of one watch.
pub(super) struct Events {
    stream: WatchStream,
    waiting: std::vec::IntoIter<Event>,
    member: crate::member::Member,
}

impl Events {
    pub(super) async fn next(&mut self) -> Result<Event, Status> {
        loop {
            if let Some(event) = self.waiting.next() {
                return Ok(event);
            }
            let response = tokio::select! {
                answer = self.stream.next() => answer.decoded(),
                () = self.member.stopped() => return Err(StoreError::Stopped.into()),
            };
            self.stream.sent();
            if response.canceled {
                // Compacted meanwhile.
                return Err(StoreError::Compacted.into());
            }
            self.waiting = response.events.into_iter();
        }
    }
}

/// Under `prefix`, the one key that was created first.
pub(super) fn by_creation(prefix: &Bytes) -> pb::RangeRequest {
    pb::RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_target: SortTarget::Create.into(),
        sort_order: SortOrder::Ascend.into(),
        ..Default::default()
    }
}

/// If `key` was created at `revision` (0: is not there), then `success`, else `failure`.
pub(super) fn if_created_at(
    key: &Bytes,
    revision: i64,
    success: Vec<Request>,
    failure: Vec<Request>,
) -> pb::TxnRequest {
    let compare = pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
    };
    let ops = |requests: Vec<Request>| requests.into_iter().map(|r| pb::RequestOp { request: Some(r) }).collect();
    pb::TxnRequest { compare: vec![compare], success: ops(success), failure: ops(failure) }
}

pub(super) fn get(key: &Bytes) -> Request {
    Request::RequestRange(pb::RangeRequest { key: key.clone(), ..Default::default() })
}

pub(super) fn put(key: &Bytes, value: Bytes, lease: i64) -> Request {
    Request::RequestPut(pb::PutRequest { key: key.clone(), value, lease, ..Default::default() })
}

/// The key-values of the `n`th operation, which was a range.
pub(super) fn ranged(answer: &pb::TxnResponse, n: usize) -> &[KeyValue] {
    match answer.responses.get(n).and_then(|op| op.response.as_ref()) {
        Some(pb::response_op::Response::ResponseRange(range)) => &range.kvs,
        _ => &[],
    }
}

/// `name/` and the lease in hexadecimal: the key of one who waits.
pub(super) fn key_of(prefix: &Bytes, lease: i64) -> Bytes {
    [&prefix[..], format!("{lease:x}").as_bytes()].concat().into()
}

pub(super) fn prefix_of(name: &Bytes) -> Bytes {
    [&name[..], b"/"].concat().into()
}

/// The end of the range of all keys with `prefix`, which never is empty and never ends in the highest byte.
fn prefix_end(prefix: &Bytes) -> Bytes {
    let mut end = prefix.to_vec();
    *end.last_mut().expect("a prefix ends in a slash") += 1;
    end.into()
}

/// Deletes a waiter's key when its call is given up: nobody would ever hold, or give back, what it waits for.
pub(super) struct Withdraw {
    session: Session,
    key: Option<Bytes>,
}

impl Withdraw {
    pub(super) fn new(session: &Session, key: &Bytes) -> Self {
        Self { session: session.clone(), key: Some(key.clone()) }
    }

    /// It came to its turn.
    pub(super) fn keep(mut self) {
        self.key = None;
    }
}

impl Drop for Withdraw {
    #[allow(clippy::disallowed_methods, reason = "the call that would wait for it is gone")]
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let session = self.session.clone();
        tokio::spawn(async move {
            if let Err(error) = session.delete(key).await {
                tracing::debug!(%error, "the key of one who waits no longer ends with its lease");
            }
        });
    }
}
