//! The requests of a kube-apiserver, in its shapes and together: optimistic transactions, pages at one revision, watches
//! with progress on demand, the compactor's races, objects that live as long as a lease.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::kv_client::KvClient;
use kontiki_api::etcdserverpb::lease_client::LeaseClient;
use kontiki_api::etcdserverpb::watch_client::WatchClient;
use kontiki_api::mvccpb::event::EventType;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;
use pb::response_op::Response;
use pb::watch_request::RequestUnion;
use support::store::StoreCluster;
use support::text;
use tonic::Code;
use tonic::transport::Channel;

const PODS: &str = "/registry/pods/";
const PODS_END: &str = "/registry/pods0";
const LIMIT: Duration = Duration::from_secs(20);

fn get(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

fn list(revision: i64, limit: i64, from: &[u8]) -> pb::RangeRequest {
    pb::RangeRequest { key: from.to_owned().into(), range_end: PODS_END.into(), revision, limit, ..Default::default() }
}

/// If the key was last changed at `revision` (0: is not there), then do `change`, else get it.
fn guarded(key: &str, revision: i64, change: Request) -> pb::TxnRequest {
    let op = |request| pb::RequestOp { request: Some(request) };
    let unchanged = pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key.to_owned().into(),
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..Default::default()
    };
    pb::TxnRequest {
        compare: vec![unchanged],
        success: vec![op(change)],
        failure: vec![op(Request::RequestRange(get(key)))],
    }
}

fn put(key: &str, value: String, lease: i64) -> Request {
    Request::RequestPut(pb::PutRequest { key: key.to_owned().into(), value: value.into(), lease, ..Default::default() })
}

fn delete(key: &str) -> Request {
    Request::RequestDeleteRange(pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() })
}

/// GuaranteedUpdate: adds one to the counter in `key` until nobody was faster; returns the revisions it was told.
async fn count_up(channel: Channel, key: String, times: usize) -> Vec<i64> {
    let mut client = KvClient::new(channel);
    let mut revisions = Vec::new();
    let found = client.range(get(&key)).await.unwrap().into_inner().kvs.remove(0);
    let (mut value, mut revision) = (text(&found.value).parse::<u64>().unwrap(), found.mod_revision);
    while revisions.len() < times {
        let txn = guarded(&key, revision, put(&key, (value + 1).to_string(), 0));
        let answer = client.txn(txn).await.unwrap().into_inner();
        if answer.succeeded {
            (value, revision) = (value + 1, answer.header.unwrap().revision);
            revisions.push(revision);
        } else {
            let Some(Response::ResponseRange(current)) = &answer.responses[0].response else {
                panic!("the failed branch gets the object: {answer:?}")
            };
            (value, revision) = (text(&current.kvs[0].value).parse().unwrap(), current.kvs[0].mod_revision);
        }
    }
    revisions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn optimistic_updates_from_every_member_lose_nothing() {
    let cluster = StoreCluster::start(3).await;
    let key = format!("{PODS}default/counter");
    let create = || guarded(&key, 0, put(&key, "0".into(), 0));
    let mut client = KvClient::new(cluster.channel(0));
    assert!(client.txn(create()).await.unwrap().into_inner().succeeded);
    assert!(!client.txn(create()).await.unwrap().into_inner().succeeded, "it is there already");
    let workers: Vec<_> = (0..6).map(|n| tokio::spawn(count_up(cluster.channel(n % 3), key.clone(), 50))).collect();
    let mut revisions = BTreeSet::new();
    for worker in workers {
        for revision in worker.await.unwrap() {
            assert!(revisions.insert(revision), "revision {revision} was told to two workers");
        }
    }
    let counter = client.range(get(&key)).await.unwrap().into_inner().kvs.remove(0);
    assert_eq!(text(&counter.value), "300");
    assert_eq!(counter.version, 301);
    assert_eq!(Some(&counter.mod_revision), revisions.last());
    let stale = client.txn(guarded(&key, 2, delete(&key))).await.unwrap().into_inner();
    assert!(!stale.succeeded, "a deletion that has not seen the newest object");
    let gone = client.txn(guarded(&key, counter.mod_revision, delete(&key))).await.unwrap().into_inner();
    assert!(gone.succeeded && gone.header.unwrap().revision == counter.mod_revision + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_at_one_revision_are_one_list() {
    let cluster = StoreCluster::start(3).await;
    let mut client = KvClient::new(cluster.channel(1));
    for n in 0..250 {
        let key = format!("{PODS}default/pod-{n:03}");
        client.txn(guarded(&key, 0, put(&key, format!("pod {n}"), 0))).await.unwrap();
    }
    let writer = cluster.channel(2);
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn(async move {
        let mut client = KvClient::new(writer);
        for n in 250.. {
            if stopped.try_recv().is_ok() {
                return;
            }
            let key = format!("{PODS}default/pod-{n:03}");
            client.txn(guarded(&key, 0, put(&key, "later".into(), 0))).await.unwrap();
            client
                .delete_range(pb::DeleteRangeRequest {
                    key: format!("{PODS}default/pod-{:03}", n - 250).into(),
                    ..Default::default()
                })
                .await
                .unwrap();
        }
    });
    for page_size in [1, 7, 100, 500] {
        let mut pages = Vec::new();
        let (mut from, mut revision) = (PODS.as_bytes().to_vec(), 0);
        loop {
            let page = client.range(list(revision, page_size, &from)).await.unwrap().into_inner();
            let header = page.header.unwrap();
            if revision == 0 {
                revision = header.revision;
            }
            assert!(header.revision >= revision, "the header tells the current revision");
            let remaining = page.count - i64::try_from(page.kvs.len()).unwrap();
            assert_eq!(page.more, remaining > 0, "count {} of {}", page.count, page.kvs.len());
            if let Some(last) = page.kvs.last() {
                from = [&last.key[..], b"\0"].concat();
            }
            pages.extend(page.kvs);
            if !page.more {
                break;
            }
        }
        let whole = client.range(list(revision, 0, PODS.as_bytes())).await.unwrap().into_inner();
        assert_eq!(pages, whole.kvs, "pages of {page_size} at {revision}");
        let count = pb::RangeRequest { count_only: true, ..list(revision, 0, PODS.as_bytes()) };
        assert_eq!(client.range(count).await.unwrap().into_inner().count, i64::try_from(whole.kvs.len()).unwrap());
    }
    stop.send(()).unwrap();
    writing.await.unwrap();
}

/// A watch as a cacher opens it.
struct Cacher {
    requests: tokio::sync::mpsc::Sender<pb::WatchRequest>,
    responses: tonic::Streaming<pb::WatchResponse>,
}

impl Cacher {
    async fn open(channel: Channel, prefix: &str, end: &str, start_revision: i64) -> Self {
        let (requests, receiver) = tokio::sync::mpsc::channel(16);
        let create = pb::WatchCreateRequest {
            key: prefix.to_owned().into(),
            range_end: end.to_owned().into(),
            start_revision,
            progress_notify: true,
            prev_kv: true,
            ..Default::default()
        };
        let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.send(create).await.unwrap();
        let mut call = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
        call.metadata_mut().insert("hasleader", "true".parse().unwrap());
        let mut responses = WatchClient::new(channel).watch(call).await.unwrap().into_inner();
        let created = responses.message().await.unwrap().unwrap();
        assert!(created.created && created.events.is_empty(), "{created:?}");
        Self { requests, responses }
    }

    async fn next(&mut self) -> pb::WatchResponse {
        let next = tokio::time::timeout(LIMIT, self.responses.message()).await.expect("a response in time");
        next.unwrap().expect("the stream goes on")
    }

    /// Asks where the store is as often as an API server does, until that is `revision`; returns the events on the way.
    async fn catch_up(&mut self, revision: i64) -> Vec<kontiki_api::mvccpb::Event> {
        let mut events = Vec::new();
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        let deadline = tokio::time::Instant::now() + LIMIT;
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let ask = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                    self.requests.send(pb::WatchRequest { request_union: Some(ask) }).await.unwrap();
                }
                response = self.responses.message() => {
                    let response = response.unwrap().unwrap();
                    if response.events.is_empty() {
                        assert_eq!(response.watch_id, -1, "{response:?}");
                        if response.header.unwrap().revision >= revision {
                            return events;
                        }
                    }
                    events.extend(response.events);
                }
                () = tokio::time::sleep_until(deadline) => panic!("no progress to {revision} in {LIMIT:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_fed_by_a_watch_is_consistent_at_every_bookmark() {
    let cluster = StoreCluster::start(3).await;
    let mut client = KvClient::new(cluster.channel(0));
    let first = client.range(list(0, 0, PODS.as_bytes())).await.unwrap().into_inner().header.unwrap().revision;
    let mut cacher = Cacher::open(cluster.channel(1), PODS, PODS_END, first + 1).await;
    let mut cache: BTreeMap<String, i64> = BTreeMap::new();
    for round in 0..20 {
        let mut writes = Vec::new();
        for n in 0..10 {
            let (mut client, key) = (KvClient::new(cluster.channel(n % 3)), format!("{PODS}default/p{n}"));
            writes.push(tokio::spawn(async move {
                let current = client.range(get(&key)).await.unwrap().into_inner().kvs;
                let revision = current.first().map_or(0, |kv| kv.mod_revision);
                let change = match revision > 0 && (n + round) % 3 == 0 {
                    true => delete(&key),
                    false => put(&key, format!("{round}"), 0),
                };
                assert!(client.txn(guarded(&key, revision, change)).await.unwrap().into_inner().succeeded);
            }));
        }
        for write in writes {
            write.await.unwrap();
        }
        // A consistent list from the cache: one small linearizable read, then the watch must get there.
        let revision = client.range(get(PODS)).await.unwrap().into_inner().header.unwrap().revision;
        for event in cacher.catch_up(revision).await {
            let is_delete = event.r#type() == EventType::Delete;
            let kv = event.kv.unwrap();
            let known = cache.get(&text(&kv.key)).copied();
            assert_eq!(event.prev_kv.map(|previous| previous.mod_revision), known, "what {} was before", text(&kv.key));
            if is_delete {
                cache.remove(&text(&kv.key));
            } else {
                cache.insert(text(&kv.key), kv.mod_revision);
            }
        }
        let stored = client.range(list(revision, 0, PODS.as_bytes())).await.unwrap().into_inner().kvs;
        let stored: BTreeMap<String, i64> = stored.into_iter().map(|kv| (text(&kv.key), kv.mod_revision)).collect();
        assert_eq!(cache, stored, "at revision {revision}");
    }
}

/// What each API server's compactor does every five minutes; true for the one that won.
async fn compact_as(channel: Channel, version: i64, seen: i64) -> bool {
    let mut client = KvClient::new(channel);
    let op = |request| pb::RequestOp { request: Some(request) };
    let mine = pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Version.into(),
        key: "compact_rev_key".into(),
        target_union: Some(TargetUnion::Version(version)),
        ..Default::default()
    };
    let txn = pb::TxnRequest {
        compare: vec![mine],
        success: vec![op(put("compact_rev_key", seen.to_string(), 0))],
        failure: vec![op(Request::RequestRange(get("compact_rev_key")))],
    };
    let won = client.txn(txn).await.unwrap().into_inner().succeeded;
    if won && seen > 0 {
        client.compact(pb::CompactionRequest { revision: seen, physical: false }).await.unwrap();
    }
    won
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_racing_compactors_wins_and_readers_of_the_past_are_told() {
    let cluster = StoreCluster::start(3).await;
    let mut client = KvClient::new(cluster.channel(0));
    let mut seen = 0;
    for version in 0..5 {
        let racers: Vec<_> = (0..3).map(|n| tokio::spawn(compact_as(cluster.channel(n), version, seen))).collect();
        let mut winners = 0;
        for racer in racers {
            winners += usize::from(racer.await.unwrap());
        }
        assert_eq!(winners, 1, "compactors that won round {version}");
        for n in 0..20 {
            let key = format!("{PODS}default/p{n}");
            client
                .put(pb::PutRequest { key: key.into(), value: version.to_string().into(), ..Default::default() })
                .await
                .unwrap();
        }
        seen = client.range(get("compact_rev_key")).await.unwrap().into_inner().header.unwrap().revision;
    }
    let compacted = client.range(get("compact_rev_key")).await.unwrap().into_inner().kvs.remove(0);
    let compacted: i64 = text(&compacted.value).parse().unwrap();
    for member in 0..3 {
        let mut client = KvClient::new(cluster.channel(member));
        let refused = client.range(list(compacted - 1, 0, PODS.as_bytes())).await.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange);
        assert_eq!(refused.message(), "etcdserver: mvcc: required revision has been compacted");
        client.range(list(compacted, 0, PODS.as_bytes())).await.unwrap();
        let again = client.compact(pb::CompactionRequest { revision: compacted, physical: false }).await.unwrap_err();
        assert_eq!(again.message(), "etcdserver: mvcc: required revision has been compacted");
        let mut cacher = Cacher::open(cluster.channel(member), PODS, PODS_END, compacted - 1).await;
        let cancelled = cacher.next().await;
        assert!(cancelled.canceled && cancelled.compact_revision == compacted, "{cancelled:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_a_lease_end_together() {
    const OBJECTS: usize = 1000;
    let cluster = StoreCluster::start(3).await;
    let mut client = KvClient::new(cluster.channel(2));
    let grant = pb::LeaseGrantRequest { ttl: 8, id: 0 };
    let lease = LeaseClient::new(cluster.channel(1)).lease_grant(grant).await.unwrap().into_inner();
    let start = client.range(get("/registry/events/")).await.unwrap().into_inner().header.unwrap().revision + 1;
    let mut cacher = Cacher::open(cluster.channel(0), "/registry/events/", "/registry/events0", start).await;
    let workers: Vec<_> = (0..20)
        .map(|worker| {
            let mut client = KvClient::new(cluster.channel(worker % 3));
            tokio::spawn(async move {
                for n in (worker..OBJECTS).step_by(20) {
                    let key = format!("/registry/events/default/e{n:04}");
                    let created =
                        client.txn(guarded(&key, 0, put(&key, format!("event {n}"), lease.id))).await.unwrap();
                    assert!(created.into_inner().succeeded);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    let mut created = 0;
    loop {
        let response = cacher.next().await;
        if response.events.iter().all(|event| event.r#type() == EventType::Put) {
            created += response.events.len();
            continue;
        }
        let keys: Vec<String> = response.events.iter().map(|event| text(&event.kv.as_ref().unwrap().key)).collect();
        let revisions: BTreeSet<i64> =
            response.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision).collect();
        assert_eq!(
            (created, keys.len(), revisions.len()),
            (OBJECTS, OBJECTS, 1),
            "created, ended, in how many revisions"
        );
        assert!(keys.is_sorted(), "a lease's keys end in their order");
        assert!(response.events.iter().all(|event| event.prev_kv.is_some()));
        return;
    }
}
