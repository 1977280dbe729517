//! What nobody should send: each port and each call answers with an error or closes, and the member goes on as before.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]

mod support;

use std::time::Duration;

use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::kv_client::KvClient;
use kontiki_api::etcdserverpb::lease_client::LeaseClient;
use kontiki_api::etcdserverpb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use support::store::StoreCluster;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

/// How much a member may grow over a storm: buffers of connections that are gone are kept by the allocator for a while.
const GROWTH_BYTES: u64 = 96 << 20;

fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

async fn still_works(cluster: &StoreCluster) {
    let mut client = KvClient::new(cluster.channel(0));
    let put = pb::PutRequest { key: "works".into(), ..Default::default() };
    client.put(put).await.expect("the member goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rubbish_on_every_port_closes_the_connection_and_nothing_else() {
    let seed: u64 = std::env::var("KONTIKI_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("KONTIKI_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = StoreCluster::start(1).await;
    still_works(&cluster).await;
    let before = resident_bytes(cluster.process(0).pid());
    let ports = [cluster.client_url(0), cluster.peer_url(0)];
    let openings: [&[u8]; 6] = [
        b"",
        b"GET / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01",
        b"kontiki",
        b"\xff\xff\xff\xff",
    ];
    for round in 0..300 {
        let address = ports[round % 2].strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut rubbish = vec![0; random.random_range(0..4096)];
        random.fill_bytes(&mut rubbish);
        // The member may close while it is written to.
        let _ = stream.write_all(openings[round % openings.len()]).await;
        let _ = stream.write_all(&rubbish).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "round {round}: a connection that sent rubbish and ended stays open");
    }
    still_works(&cluster).await;
    assert!(cluster.process(0).is_running());
    let after = resident_bytes(cluster.process(0).pid());
    assert!(after < before + GROWTH_BYTES, "grown from {before} to {after} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_hold_nobody_up() {
    let cluster = StoreCluster::start(1).await;
    let ports = [cluster.client_url(0), cluster.peer_url(0)];
    let mut silent = Vec::new();
    for n in 0..400 {
        silent.push(TcpStream::connect(ports[n % 2].strip_prefix("http://").unwrap()).await.unwrap());
    }
    still_works(&cluster).await;
    drop(silent);
    still_works(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_too_large_or_make_no_sense_are_named() {
    let cluster = StoreCluster::start(1).await;
    let mut client = KvClient::new(cluster.channel(0)).max_encoding_message_size(64 << 20);
    let sized =
        |bytes: usize| pb::PutRequest { key: "large".into(), value: vec![0; bytes].into(), ..Default::default() };
    client.put(sized((3 << 19) - 100)).await.unwrap();
    let refused = client.put(sized(3 << 19)).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "etcdserver: request is too large"));
    // Beyond half a mebibyte more the framing refuses, before the request is read.
    let refused = client.put(sized(3 << 20)).await.unwrap_err();
    assert!(matches!(refused.code(), Code::ResourceExhausted | Code::OutOfRange), "{refused}");
    let odd = pb::RangeRequest { key: "k".into(), sort_order: 9, ..Default::default() };
    assert_eq!(client.range(odd).await.unwrap_err().message(), "etcdserver: invalid sort option");
    let mut lease = LeaseClient::new(cluster.channel(0));
    let refused = lease.lease_revoke(pb::LeaseRevokeRequest { id: 0 }).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::NotFound, "etcdserver: requested lease not found"));
    let granted = lease.lease_grant(pb::LeaseGrantRequest { ttl: i64::MIN, id: -7 }).await.unwrap().into_inner();
    assert_eq!((granted.id, granted.ttl), (-7, 2));
    still_works(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_watches_leaves_nothing_behind() {
    let mut cluster = StoreCluster::start(1).await;
    still_works(&cluster).await;
    storm(&cluster).await;
    let before = resident_bytes(cluster.process(0).pid());
    for _ in 0..5 {
        storm(&cluster).await;
    }
    still_works(&cluster).await;
    let after = resident_bytes(cluster.process(0).pid());
    assert!(after < before + GROWTH_BYTES / 4, "grown from {before} to {after} bytes");
}

/// Streams with many watchers that are cancelled, and streams that end without a word.
async fn storm(cluster: &StoreCluster) {
    for stream in 0..20 {
        let (sender, requests) = tokio::sync::mpsc::channel(256);
        let create = pb::WatchCreateRequest { key: "storm".into(), range_end: "\0".into(), ..Default::default() };
        for _ in 0..100 {
            let request_union = Some(RequestUnion::CreateRequest(create.clone()));
            sender.send(pb::WatchRequest { request_union }).await.unwrap();
        }
        for watch_id in 0..100 {
            let request_union = Some(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }));
            sender.send(pb::WatchRequest { request_union }).await.unwrap();
        }
        let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
        let opened = WatchClient::new(cluster.channel(0)).watch(requests).await;
        let mut responses = opened.unwrap().into_inner();
        if stream % 2 == 0 {
            let mut cancelled = 0;
            while cancelled < 100 {
                cancelled += usize::from(responses.message().await.unwrap().unwrap().canceled);
            }
        }
    }
}
