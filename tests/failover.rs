//! What clients of a survivor see when the leader goes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::{Duration, Instant};

use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::kv_client::KvClient;
use support::store::StoreCluster;

/// Puts one after the other through one member; the longest time between two acknowledgements.
async fn longest_gap(channel: tonic::transport::Channel, until: Instant) -> (Duration, usize) {
    let mut client = KvClient::new(channel);
    let (mut last, mut gap, mut errors) = (Instant::now(), Duration::ZERO, 0);
    while Instant::now() < until {
        let put = pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
        match client.put(put).await {
            Ok(_) => {
                gap = gap.max(last.elapsed());
                last = Instant::now();
            }
            Err(_) => errors += 1,
        }
    }
    (gap.max(last.elapsed()), errors)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_a_pause_below_a_second() {
    let mut cluster = StoreCluster::start(3).await;
    for _ in 0..3 {
        let leader = cluster.leader().await;
        let survivor = cluster.channel((leader + 1) % 3);
        let load = tokio::spawn(longest_gap(survivor, Instant::now() + Duration::from_secs(3)));
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.kill(leader);
        let (gap, errors) = load.await.unwrap();
        println!("leader killed: {gap:?} without an acknowledged write, {errors} errors");
        assert!(gap < Duration::from_secs(1), "{gap:?} without an acknowledged write");
        assert_eq!(errors, 0, "a client of a survivor sees a pause, not an error");
        cluster.start_member(leader);
        cluster.await_ready(leader).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_told_to_stop_hands_over_first() {
    let mut cluster = StoreCluster::start(3).await;
    let leader = cluster.leader().await;
    let survivor = cluster.channel((leader + 1) % 3);
    let load = tokio::spawn(longest_gap(survivor, Instant::now() + Duration::from_secs(2)));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let status = cluster.process(leader).terminate(Duration::from_secs(10));
    cluster.forget(leader);
    let (gap, errors) = load.await.unwrap();
    println!("leader told to stop: {gap:?} without an acknowledged write, {errors} errors");
    assert!(status.success(), "{status}");
    assert_eq!(errors, 0);
    // An election takes more than 200 ms: a shorter gap shows that there was none.
    assert!(gap < Duration::from_millis(200), "{gap:?} without an acknowledged write");
}
