//! What clients of a survivor see when the leader goes.

#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::kv_client::KvClient;
use kontiki_api::etcdserverpb::lease_client::LeaseClient;
use kontiki_api::etcdserverpb::maintenance_client::MaintenanceClient;
use kontiki_api::etcdserverpb::watch_client::WatchClient;
use kontiki_api::etcdserverpb::watch_request::RequestUnion;
use rustix::process::Signal;
use support::store::StoreCluster;
use tonic::Code;

/// A client that puts one key after the other through one member.
struct Load {
    acknowledged: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Seen>,
}

#[derive(Debug)]
struct Seen {
    /// The longest time between two acknowledgements.
    gap: Duration,
    errors: usize,
}

impl Load {
    fn start(channel: tonic::transport::Channel) -> Self {
        let (acknowledged, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let task = tokio::spawn(put_until(channel, acknowledged.clone(), stop.clone()));
        Self { acknowledged, stop, task }
    }

    /// Waits for that many further acknowledgements.
    async fn progress(&self, writes: usize) {
        let target = self.acknowledged.load(Ordering::Relaxed) + writes;
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.acknowledged.load(Ordering::Relaxed) < target {
            assert!(Instant::now() < deadline, "no further {writes} writes were acknowledged in 20 s");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

async fn put_until(channel: tonic::transport::Channel, acknowledged: Arc<AtomicUsize>, stop: Arc<AtomicBool>) -> Seen {
    let mut client = KvClient::new(channel);
    let mut last = Instant::now();
    let mut seen = Seen { gap: Duration::ZERO, errors: 0 };
    while !stop.load(Ordering::Relaxed) {
        let put = pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
        match client.put(put).await {
            Ok(_) => {
                seen.gap = seen.gap.max(last.elapsed());
                last = Instant::now();
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => seen.errors += 1,
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_a_pause_below_a_second() {
    let mut cluster = StoreCluster::start(3).await;
    for _ in 0..5 {
        let leader = cluster.leader().await;
        let load = Load::start(cluster.channel((leader + 1) % 3));
        load.progress(100).await;
        cluster.kill(leader);
        load.progress(100).await;
        let seen = load.stop().await;
        println!("leader killed: {seen:?}");
        assert!(seen.gap < Duration::from_secs(1), "{seen:?}");
        assert_eq!(seen.errors, 0, "a client of a survivor sees a pause, not an error");
        cluster.start_member(leader);
        cluster.await_ready(leader).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_told_to_stop_hands_over_first() {
    let mut cluster = StoreCluster::start(3).await;
    let leader = cluster.leader().await;
    let load = Load::start(cluster.channel((leader + 1) % 3));
    load.progress(100).await;
    let status = cluster.process(leader).terminate(Duration::from_secs(10));
    cluster.forget(leader);
    load.progress(100).await;
    let seen = load.stop().await;
    println!("leader told to stop: {seen:?}");
    // As etcd does, the member ends by the signal that told it to.
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15), "{status}");
    assert_eq!(seen.errors, 0);
    // An election takes more than 200 ms: a shorter gap shows that there was none.
    assert!(seen.gap < Duration::from_millis(200), "{seen:?}");
}

/// Members that a signal froze: the others see what a cut cable looks like.
struct Frozen<'a> {
    cluster: &'a mut StoreCluster,
    members: Vec<usize>,
}

impl<'a> Frozen<'a> {
    fn freeze(cluster: &'a mut StoreCluster, members: Vec<usize>) -> Self {
        members.iter().for_each(|i| cluster.process(*i).signal(Signal::STOP));
        Self { cluster, members }
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.members.iter().for_each(|i| self.cluster.process(*i).signal(Signal::CONT));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_hanging_leader_was_asked_is_answered_by_its_successor() {
    let mut cluster = StoreCluster::start(3).await;
    let leader = cluster.leader().await;
    let channel = cluster.channel((leader + 1) % 3);
    let frozen = Frozen::freeze(&mut cluster, vec![leader]);
    // Sent before anybody can know that the leader is gone.
    let start = Instant::now();
    let puts = (0..20).map(|number| {
        let mut client = KvClient::new(channel.clone());
        let put = pb::PutRequest { key: format!("k{number}").into(), value: "v".into(), ..Default::default() };
        tokio::spawn(async move { client.put(put).await })
    });
    let reads = (0..5).map(|_| {
        let mut client = KvClient::new(channel.clone());
        tokio::spawn(async move { client.range(pb::RangeRequest { key: "k0".into(), ..Default::default() }).await })
    });
    let (puts, reads): (Vec<_>, Vec<_>) = (puts.collect(), reads.collect());
    for put in puts {
        put.await.unwrap().unwrap();
    }
    for read in reads {
        read.await.unwrap().unwrap();
    }
    let took = start.elapsed();
    println!("puts and reads in flight were answered after {took:?}");
    assert!(took < Duration::from_secs(4), "an election takes less than {took:?}");
    let range = pb::RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    let kvs = KvClient::new(channel).range(range).await.unwrap().into_inner().kvs;
    assert!(kvs.len() == 20 && kvs.iter().all(|kv| kv.version == 1), "each once: {kvs:?}");
    drop(frozen);
}

fn requires_leader<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("hasleader", "true".parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_majority_knows_that_it_does_not_lead() {
    let mut cluster = StoreCluster::start(3).await;
    let leader = cluster.leader().await;
    let channel = cluster.channel(leader);
    let grant = pb::LeaseGrantRequest { ttl: 600, id: 7 };
    LeaseClient::new(channel.clone()).lease_grant(grant).await.unwrap();
    let (requests, waiting) = tokio::sync::mpsc::channel(1);
    let create = pb::WatchCreateRequest { key: "k".into(), ..Default::default() };
    let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    requests.send(create).await.unwrap();
    let requests = requires_leader(tokio_stream::wrappers::ReceiverStream::new(waiting));
    let mut watch = WatchClient::new(channel.clone()).watch(requests).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().unwrap().created);

    let others = (0..3).filter(|i| *i != leader).collect();
    let frozen = Frozen::freeze(&mut cluster, others);
    // A renewal that starts now cannot be proven, whatever this member still believes of itself.
    let renewal = tokio::spawn(renew(channel.clone()));
    let status = until_leaderless(channel.clone()).await;
    assert_eq!((status.leader, status.errors), (0, vec!["etcdserver: no leader".to_owned()]));
    let range = pb::RangeRequest { key: "k".into(), serializable: true, ..Default::default() };
    let refused = KvClient::new(channel.clone()).range(requires_leader(range.clone())).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "etcdserver: no leader"));
    KvClient::new(channel.clone()).range(range).await.unwrap();
    let ended = watch.message().await.unwrap_err();
    assert_eq!((ended.code(), ended.message()), (Code::Unavailable, "etcdserver: no leader"));
    let renewed = renewal.await.unwrap();
    assert!(!matches!(renewed, Ok(ttl) if ttl > 0), "{renewed:?}");

    drop(frozen);
    let load = Load::start(channel.clone());
    load.progress(10).await;
    load.stop().await;
    assert_eq!(renew(channel).await.unwrap(), 600);
}

/// The time that lease 7 has after a renewal.
async fn renew(channel: tonic::transport::Channel) -> Result<i64, tonic::Status> {
    let requests = tokio_stream::once(pb::LeaseKeepAliveRequest { id: 7 });
    let mut answers = LeaseClient::new(channel).lease_keep_alive(requests).await?.into_inner();
    Ok(answers.message().await?.map_or(0, |answer| answer.ttl))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_nobody_talks_to_knows_no_leader() {
    let mut cluster = StoreCluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let channel = cluster.channel(follower);
    let others = (0..3).filter(|i| *i != follower).collect();
    let frozen = Frozen::freeze(&mut cluster, others);
    let status = until_leaderless(channel.clone()).await;
    assert_eq!(status.errors, ["etcdserver: no leader"]);
    drop(frozen);
    cluster.await_ready(follower).await;
    assert_ne!(MaintenanceClient::new(channel).status(pb::StatusRequest {}).await.unwrap().into_inner().leader, 0);
}

async fn until_leaderless(channel: tonic::transport::Channel) -> pb::StatusResponse {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut maintenance = MaintenanceClient::new(channel);
    loop {
        let status = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
        if status.leader == 0 {
            return status;
        }
        assert!(Instant::now() < deadline, "after 10 s it still names a leader: {status:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
