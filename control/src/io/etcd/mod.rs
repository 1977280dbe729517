//! The store as the API server sees it: a handful of typed operations over an etcd v3 client.
//!
//! Works over any gRPC service: TCP channels to several endpoints of any etcd (a failing endpoint is left for the next one), or
//! the store member in the same process. Every write is a transaction on `mod_revision`, so a write whose answer was lost can
//! be sent again: a second try that finds its own value has succeeded. Nothing here knows Kubernetes beyond "keys and bytes".

mod failure;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::kv_client::KvClient;
use kontiki_api::etcdserverpb::lease_client::LeaseClient;
use kontiki_api::etcdserverpb::watch_client::WatchClient;
use parking_lot::Mutex;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request as Op;
use tonic::codegen::StdError;
use tower::util::BoxCloneSyncService;

pub use failure::StoreFailure;
pub use watch::{StoreWatch, WatchBatch, WatchError};

use crate::limits;

/// A gRPC transport: a TCP channel or a service in the same process.
pub type Transport =
    BoxCloneSyncService<http::Request<tonic::body::Body>, http::Response<tonic::body::Body>, TransportError>;

/// What broke below gRPC.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TransportError(StdError);

/// A stored value and the revision that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub key: Bytes,
    pub value: Bytes,
    pub mod_revision: i64,
}

/// One page of a range read.
#[derive(Debug)]
pub struct Page {
    pub items: Vec<Stored>,
    /// The store's revision when it was read (not the one asked for).
    pub revision: i64,
    /// How many keys of the range lie after this page.
    pub remaining: i64,
}

/// What a conditional write did.
#[derive(Debug)]
pub enum Written {
    /// The revision of the write.
    Done(i64),
    /// The key was not at the expected revision; its present state.
    Conflict(Option<Stored>),
    /// A guard key was not at its expected revision.
    GuardFailed,
}

/// A key that must be at this revision for a write to happen.
#[derive(Clone, Debug)]
pub struct Guard {
    pub key: Bytes,
    pub mod_revision: i64,
}

#[derive(Clone)]
struct Endpoint {
    kv: KvClient<Transport>,
    watch: WatchClient<Transport>,
    lease: LeaseClient<Transport>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Storage {
    inner: Arc<Inner>,
}

struct Inner {
    endpoints: Vec<Endpoint>,
    /// The endpoint in use; moved on by whoever sees it fail.
    current: AtomicUsize,
    /// One lease is shared by the keys written within a minute, as Kubernetes does: a lease per Event would double the writes.
    shared_leases: Mutex<Vec<SharedLease>>,
}

#[derive(Clone)]
struct SharedLease {
    ttl_s: i64,
    id: i64,
    granted: Instant,
    keys: usize,
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage").field("endpoints", &self.inner.endpoints.len()).finish()
    }
}

impl Storage {
    /// Over a store in the same process, or any other single gRPC service.
    pub fn new<S>(service: S) -> Self
    where
        S: tower::Service<http::Request<tonic::body::Body>, Response = http::Response<tonic::body::Body>>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Error: Into<StdError>,
        S::Future: Send + 'static,
    {
        Self::from_transports(vec![transport(service)])
    }

    /// Over TCP to `http://host:port` endpoints, connecting as needed. TLS to a store comes with its own endpoints type later.
    ///
    /// # Errors
    /// When an endpoint is not a URL, or there is none.
    pub fn connect(endpoints: &[String]) -> Result<Self, StoreFailure> {
        let mut transports = Vec::new();
        for endpoint in endpoints {
            let url = if endpoint.contains("://") { endpoint.clone() } else { format!("http://{endpoint}") };
            let channel = tonic::transport::Endpoint::from_shared(url)
                .map_err(|error| StoreFailure::Internal(format!("store endpoint {endpoint}: {error}")))?
                .connect_timeout(limits::STORE_CONNECT_TIMEOUT)
                .http2_keep_alive_interval(limits::STORE_KEEP_ALIVE)
                .keep_alive_timeout(limits::STORE_KEEP_ALIVE)
                .keep_alive_while_idle(true)
                .tcp_nodelay(true)
                .connect_lazy();
            transports.push(transport(channel));
        }
        if transports.is_empty() {
            return Err(StoreFailure::Internal("no store endpoint given".into()));
        }
        Ok(Self::from_transports(transports))
    }

    fn from_transports(transports: Vec<Transport>) -> Self {
        let max = limits::STORE_MESSAGE_SIZE_MAX;
        let endpoints = transports
            .into_iter()
            .map(|t| Endpoint {
                kv: KvClient::new(t.clone()).max_decoding_message_size(max).max_encoding_message_size(max),
                watch: WatchClient::new(t.clone()).max_decoding_message_size(max),
                lease: LeaseClient::new(t),
            })
            .collect();
        let inner = Inner { endpoints, current: AtomicUsize::new(0), shared_leases: Mutex::new(Vec::new()) };
        Self { inner: Arc::new(inner) }
    }

    /// The plain client of the endpoint in use, for callers with their own requests.
    #[must_use]
    pub fn kv(&self) -> KvClient<Transport> {
        self.inner.endpoints[self.inner.current.load(Ordering::Relaxed)].kv.clone()
    }

    /// The value at `key`, linearizably, and the store's revision.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<(Option<Stored>, i64), StoreFailure> {
        let request = pb::RangeRequest { key: key.into(), ..Default::default() };
        let (response, _) = self.unary(|e| range_call(e, request.clone())).await?;
        let revision = header_revision(response.header.as_ref());
        Ok((response.kvs.into_iter().next().map(stored), revision))
    }

    /// The store's revision, linearizably: a read of a key that never exists.
    pub async fn revision(&self) -> Result<i64, StoreFailure> {
        Ok(self.get(&b"/kontiki/revision"[..]).await?.1)
    }

    /// Keys from `start` up to the end of `prefix`, at `revision` (0 = now), at most `limit` (0 = all).
    pub async fn range(&self, prefix: &str, start: &str, limit: i64, revision: i64) -> Result<Page, StoreFailure> {
        let request = pb::RangeRequest {
            key: Bytes::from(start.to_owned()),
            range_end: prefix_end(prefix.as_bytes()),
            limit,
            revision,
            ..Default::default()
        };
        let (response, _) = self.unary(|e| range_call(e, request.clone())).await?;
        let remaining = response.count - i64::try_from(response.kvs.len()).expect("a count fits");
        let revision = header_revision(response.header.as_ref());
        Ok(Page { items: response.kvs.into_iter().map(stored).collect(), revision, remaining: remaining.max(0) })
    }

    /// Writes `key` if it does not exist. `ttl_s` > 0 makes it vanish about that many seconds later.
    pub async fn create(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        guards: &[Guard],
        ttl_s: i64,
    ) -> Result<Written, StoreFailure> {
        self.write(key.into(), Some(value.into()), 0, guards, ttl_s).await
    }

    /// Overwrites `key` if it is at `expected`.
    pub async fn update(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        expected: i64,
        ttl_s: i64,
    ) -> Result<Written, StoreFailure> {
        self.write(key.into(), Some(value.into()), expected, &[], ttl_s).await
    }

    /// Removes `key` if it is at `expected`.
    pub async fn delete(&self, key: impl Into<Bytes>, expected: i64) -> Result<Written, StoreFailure> {
        self.write(key.into(), None, expected, &[], 0).await
    }

    async fn write(
        &self,
        key: Bytes,
        value: Option<Bytes>,
        expected: i64,
        guards: &[Guard],
        ttl_s: i64,
    ) -> Result<Written, StoreFailure> {
        let lease = if ttl_s > 0 { self.shared_lease(ttl_s).await? } else { 0 };
        let mut compare = vec![mod_revision_is(key.clone(), expected)];
        compare.extend(guards.iter().map(|g| mod_revision_is(g.key.clone(), g.mod_revision)));
        let op = match &value {
            Some(value) => {
                Op::RequestPut(pb::PutRequest { key: key.clone(), value: value.clone(), lease, ..Default::default() })
            }
            None => Op::RequestDeleteRange(pb::DeleteRangeRequest { key: key.clone(), ..Default::default() }),
        };
        let read = Op::RequestRange(pb::RangeRequest { key: key.clone(), ..Default::default() });
        let txn = pb::TxnRequest {
            compare,
            success: vec![pb::RequestOp { request: Some(op) }],
            failure: vec![pb::RequestOp { request: Some(read) }],
        };
        let (response, tries) = self.unary(|e| txn_call(e, txn.clone())).await?;
        Ok(outcome(response, value.as_ref(), expected, tries))
    }

    /// A lease of at least `ttl_s`, shared with other keys of the same minute.
    async fn shared_lease(&self, ttl_s: i64) -> Result<i64, StoreFailure> {
        // Short leases (server addresses) are refreshed by their owner and must not outlive it by much.
        let reuse = reuse_of(ttl_s);
        let now = Instant::now();
        {
            let mut leases = self.inner.shared_leases.lock();
            leases.retain(|l| now - l.granted < reuse_of(l.ttl_s));
            if let Some(lease) =
                leases.iter_mut().find(|l| l.ttl_s == ttl_s && l.keys < limits::KEYS_PER_SHARED_LEASE_MAX)
            {
                lease.keys += 1;
                return Ok(lease.id);
            }
        }
        let granted = ttl_s + i64::try_from(reuse.as_secs()).expect("at most a minute");
        let request = pb::LeaseGrantRequest { ttl: granted, id: 0 };
        let (response, _) = self.unary(|mut e| Box::pin(async move { e.lease.lease_grant(request).await })).await?;
        if reuse > Duration::ZERO {
            self.inner.shared_leases.lock().push(SharedLease { ttl_s, id: response.id, granted: now, keys: 1 });
        }
        Ok(response.id)
    }

    /// Drops the history before `revision`.
    pub async fn compact(&self, revision: i64) -> Result<(), StoreFailure> {
        let request = pb::CompactionRequest { revision, physical: false };
        self.unary(|mut e| Box::pin(async move { e.kv.compact(request).await })).await.map(|_| ())
    }

    /// Watches everything under `prefix` from `start_revision` on; 0 is from now on.
    pub async fn watch(&self, prefix: &str, start_revision: i64) -> Result<StoreWatch, StoreFailure> {
        let index = self.inner.current.load(Ordering::Relaxed);
        let mut client = self.inner.endpoints[index].watch.clone();
        let opened = StoreWatch::open(&mut client, prefix, start_revision).await;
        if opened.is_err() {
            self.leave_endpoint(index);
        }
        opened
    }

    /// Called when a watch of the current endpoint broke: the next one goes elsewhere.
    pub fn leave_current_endpoint(&self) {
        self.leave_endpoint(self.inner.current.load(Ordering::Relaxed));
    }

    fn leave_endpoint(&self, index: usize) {
        let next = (index + 1) % self.inner.endpoints.len();
        // Only the first of those who saw it fail moves on, so that a burst of failures is one step.
        let _ = self.inner.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Runs a call until it answers, changing endpoints while they are unavailable; also says how many tries it took.
    async fn unary<T>(&self, call: impl Fn(Endpoint) -> Call<T>) -> Result<(T, usize), StoreFailure> {
        let deadline = Instant::now() + limits::STORE_DEADLINE;
        let one = self.inner.endpoints.len() == 1;
        let patience = if one { limits::STORE_DEADLINE } else { limits::STORE_ATTEMPT_TIMEOUT };
        let mut pause = Duration::from_millis(5);
        for tries in 1.. {
            let index = self.inner.current.load(Ordering::Relaxed);
            let failure = match tokio::time::timeout(patience, call(self.inner.endpoints[index].clone())).await {
                Ok(Ok(response)) => return Ok((response.into_inner(), tries)),
                Ok(Err(status)) => StoreFailure::from(status),
                Err(_) => StoreFailure::Unavailable("the store did not answer in time".into()),
            };
            if !matches!(failure, StoreFailure::Unavailable(_)) || Instant::now() + pause >= deadline {
                return Err(failure);
            }
            self.leave_endpoint(index);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
        unreachable!("the loop ends by returning")
    }
}

/// How long a lease of this TTL takes new keys.
fn reuse_of(ttl_s: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl_s / 60).expect("a TTL is positive").min(60))
}

/// A call under way, its type forgotten: the compiler cannot see through the layers that it is `Send`.
type Call<T> = futures::future::BoxFuture<'static, Result<tonic::Response<T>, tonic::Status>>;

fn range_call(mut endpoint: Endpoint, request: pb::RangeRequest) -> Call<pb::RangeResponse> {
    Box::pin(async move { endpoint.kv.range(request).await })
}

fn txn_call(mut endpoint: Endpoint, request: pb::TxnRequest) -> Call<pb::TxnResponse> {
    Box::pin(async move { endpoint.kv.txn(request).await })
}

/// What a write transaction did. A retried one that finds its own value was done by an earlier try.
fn outcome(response: pb::TxnResponse, value: Option<&Bytes>, expected: i64, tries: usize) -> Written {
    let revision = header_revision(response.header.as_ref());
    if response.succeeded {
        return Written::Done(revision);
    }
    let present = response.responses.into_iter().find_map(|r| match r.response {
        Some(pb::response_op::Response::ResponseRange(range)) => range.kvs.into_iter().next().map(stored),
        _ => None,
    });
    if tries > 1 {
        match (&present, value) {
            (Some(present), Some(value)) if present.value == *value => return Written::Done(present.mod_revision),
            (None, None) => return Written::Done(revision),
            _ => {}
        }
    }
    match &present {
        Some(present) if present.mod_revision == expected => Written::GuardFailed,
        None if expected == 0 => Written::GuardFailed,
        _ => Written::Conflict(present),
    }
}

fn transport<S>(service: S) -> Transport
where
    S: tower::Service<http::Request<tonic::body::Body>, Response = http::Response<tonic::body::Body>>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Error: Into<StdError>,
    S::Future: Send + 'static,
{
    use tower::ServiceExt;
    BoxCloneSyncService::new(service.map_err(|error| TransportError(error.into())))
}

fn mod_revision_is(key: Bytes, revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key,
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..Default::default()
    }
}

fn stored(kv: kontiki_api::mvccpb::KeyValue) -> Stored {
    Stored { key: kv.key, value: kv.value, mod_revision: kv.mod_revision }
}

fn header_revision(header: Option<&pb::ResponseHeader>) -> i64 {
    header.map_or(0, |h| h.revision)
}

/// The first key after everything that starts with `prefix`.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(&[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_carries_over_ff() {
        assert_eq!(&prefix_end(b"/a/")[..], b"/a0");
        assert_eq!(&prefix_end(&[b'a', 0xff])[..], b"b");
        assert_eq!(&prefix_end(&[0xff])[..], [0]);
    }

    fn refused(present: Option<(&'static [u8], i64)>) -> pb::TxnResponse {
        let kvs = present
            .map(|(value, mod_revision)| kontiki_api::mvccpb::KeyValue {
                value: Bytes::from_static(value),
                mod_revision,
                ..Default::default()
            })
            .into_iter()
            .collect();
        let range = pb::RangeResponse { kvs, ..Default::default() };
        let response = Some(pb::response_op::Response::ResponseRange(range));
        pb::TxnResponse { responses: vec![pb::ResponseOp { response }], ..Default::default() }
    }

    #[test]
    fn a_retried_write_that_finds_its_own_value_is_done() {
        let value = Bytes::from_static(b"mine");
        assert!(matches!(outcome(refused(Some((b"mine", 7))), Some(&value), 0, 2), Written::Done(7)));
        assert!(matches!(outcome(refused(Some((b"mine", 7))), Some(&value), 0, 1), Written::Conflict(Some(_))));
        assert!(matches!(outcome(refused(Some((b"other", 7))), Some(&value), 0, 2), Written::Conflict(Some(_))));
        assert!(matches!(outcome(refused(None), None, 5, 2), Written::Done(_)));
    }

    #[test]
    fn a_key_that_is_as_expected_means_that_a_guard_failed() {
        let value = Bytes::from_static(b"v");
        assert!(matches!(outcome(refused(None), Some(&value), 0, 1), Written::GuardFailed));
        assert!(matches!(outcome(refused(None), Some(&value), 4, 1), Written::Conflict(None)));
    }
}
