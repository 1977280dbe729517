//! Many keys and a long history: what is asked of all of it takes little memory, and tidying it up leaves writes alone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]

mod support;

use std::fs;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::kv_client::KvClient;
use pb::request_op::Request;
use support::store::StoreCluster;
use tonic::transport::Channel;

const KEYS: usize = 200_000;
const VALUE_BYTES: usize = 256;
const TXN_OPS: usize = 128;
/// What a request may add to a server's memory: a few messages, whatever it is asked.
const GROWTH_BYTES_MAX: u64 = 16 << 20;

fn key(number: usize) -> String {
    format!("registry/{number:09}")
}

fn everything() -> pb::RangeRequest {
    pb::RangeRequest { key: "registry/".into(), range_end: "registry0".into(), ..Default::default() }
}

/// Puts `keys` keys `rounds` times over, in transactions, some at a time.
async fn fill(channel: &Channel, keys: usize, rounds: usize) {
    let puts: Vec<pb::TxnRequest> = (0..rounds)
        .flat_map(|_| (0..keys).step_by(TXN_OPS))
        .map(|first| {
            let put = |number| pb::RequestOp {
                request: Some(Request::RequestPut(pb::PutRequest {
                    key: key(number).into(),
                    value: vec![b'x'; VALUE_BYTES].into(),
                    ..Default::default()
                })),
            };
            pb::TxnRequest { success: (first..keys.min(first + TXN_OPS)).map(put).collect(), ..Default::default() }
        })
        .collect();
    let put = |txn| {
        let mut client = KvClient::new(channel.clone());
        async move { client.txn(txn).await.map(drop) }
    };
    futures::stream::iter(puts.into_iter().map(put)).buffer_unordered(8).try_collect::<()>().await.unwrap();
}

/// A process' memory in bytes, now or at most since [`forget_peak`].
fn memory_bytes(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

/// By how much `work` made a process grow at its highest.
async fn growth(pid: u32, work: impl Future<Output = ()>) -> u64 {
    forget_peak(pid);
    let before = memory_bytes(pid, "VmRSS");
    work.await;
    memory_bytes(pid, "VmHWM").saturating_sub(before)
}

async fn stream_all(channel: &Channel) {
    let mut client = KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
    let mut parts = client.range_stream(everything()).await.unwrap().into_inner();
    let (mut keys, mut counted) = (0, 0);
    while let Some(part) = parts.message().await.unwrap() {
        let part = part.range_response.unwrap();
        keys += part.kvs.len();
        counted = part.count;
    }
    assert_eq!((keys, counted), (KEYS, i64::try_from(KEYS).unwrap()));
}

async fn page_all(channel: &Channel) {
    let mut client = KvClient::new(channel.clone());
    let mut page = pb::RangeRequest { limit: 500, ..everything() };
    let mut keys = 0;
    loop {
        let answer = client.range(page.clone()).await.unwrap().into_inner();
        keys += answer.kvs.len();
        assert_eq!(answer.count as usize, KEYS - (keys - answer.kvs.len()), "what is left from here on");
        page.revision = answer.header.unwrap().revision;
        if !answer.more {
            break;
        }
        page.key = [&answer.kvs.last().unwrap().key[..], &[0]].concat().into();
    }
    assert_eq!(keys, KEYS);
}

async fn count_all(channel: &Channel) {
    let count = pb::RangeRequest { count_only: true, ..everything() };
    let answer = KvClient::new(channel.clone()).range(count).await.unwrap().into_inner();
    assert_eq!((answer.count as usize, answer.kvs.len()), (KEYS, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asking_for_everything_takes_little_memory() {
    let mut cluster = StoreCluster::start(1).await;
    let channel = cluster.channel(0);
    fill(&channel, KEYS, 1).await;
    let pid = cluster.process(0).pid();
    // Caches have their size once everything was read.
    stream_all(&channel).await;
    for (what, grown) in [
        ("a stream of all keys", growth(pid, stream_all(&channel)).await),
        ("pages of all keys", growth(pid, page_all(&channel)).await),
        ("a count of all keys", growth(pid, count_all(&channel)).await),
    ] {
        println!("{what}: {} KiB more for a moment", grown >> 10);
        assert!(grown <= GROWTH_BYTES_MAX, "{what} took {} MiB", grown >> 20);
    }
}

/// How long puts take, one after the other, until `done`.
async fn put_until(channel: Channel, mut done: impl AsyncFnMut() -> bool) -> Vec<Duration> {
    let mut client = KvClient::new(channel);
    let mut took = Vec::new();
    while !done().await {
        let put = pb::PutRequest { key: "small".into(), value: "v".into(), ..Default::default() };
        let start = Instant::now();
        client.put(put).await.unwrap();
        took.push(start.elapsed());
    }
    took.sort();
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compacting_a_long_history_leaves_writes_alone() {
    let cluster = StoreCluster::start(1).await;
    let channel = cluster.channel(0);
    fill(&channel, 20_000, 5).await;
    let mut puts = 0;
    let before = put_until(channel.clone(), async || {
        puts += 1;
        puts > 500
    })
    .await;
    let mut client = KvClient::new(channel.clone());
    let revision = client.range(everything_counted()).await.unwrap().into_inner().header.unwrap().revision;
    let compaction = tokio::spawn(async move {
        client.compact(pb::CompactionRequest { revision, physical: true }).await.unwrap();
    });
    let during = put_until(channel, async || compaction.is_finished()).await;
    compaction.await.unwrap();
    let at = |took: &[Duration], percent: usize| took[took.len() * percent / 100 - usize::from(percent == 100)];
    println!(
        "puts before: p50 {:?} p99 {:?}; while 80,000 versions are removed: {} puts, p50 {:?} p99 {:?} worst {:?}",
        at(&before, 50),
        at(&before, 99),
        during.len(),
        at(&during, 50),
        at(&during, 99),
        at(&during, 100)
    );
    assert!(during.len() > 20, "{} puts while history was removed", during.len());
    assert!(at(&during, 100) < Duration::from_secs(1), "a put waited {:?} for the compaction", at(&during, 100));
}

fn everything_counted() -> pb::RangeRequest {
    pb::RangeRequest { count_only: true, ..everything() }
}
