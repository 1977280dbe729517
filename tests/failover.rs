//! What clients of a survivor see when the leader goes.

#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::kv_client::KvClient;
use support::store::StoreCluster;

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
