//! What etcd promises of a watch, checked while members are killed, the history is compacted and readers are slow.
//!
//! Ordered, unique, atomic, reliable, resumable, bookmarkable, with the previous value: writers remember what was
//! acknowledged, watchers what they saw; afterwards each seen history is held against the acknowledged one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]

#[path = "watch/observer.rs"]
mod observer;
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::kv_client::KvClient;
use observer::{Observer, Pace, Seen};
use pb::request_op::Request;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::store::StoreCluster;
use tonic::transport::Channel;

const WRITERS: usize = 4;
const KEYS: usize = 12;
const PREFIX: &str = "w/";
const EVENTS_MIN: usize = 4000;

/// What one acknowledged revision changed: key → value, none for a deletion.
type Changes = BTreeMap<String, Option<String>>;

/// Shared by the writers of a run.
struct Writing {
    stop: AtomicBool,
    newest: AtomicI64,
    acknowledged: AtomicUsize,
}

/// Puts, deletions and transactions of several keys, through whichever member answers.
async fn write(writer: usize, seed: u64, channels: Vec<Channel>, shared: Arc<Writing>) -> BTreeMap<i64, Changes> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut acknowledged = BTreeMap::new();
    let mut member = writer % channels.len();
    for number in 0.. {
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        let changes = changes(writer, number, &mut random);
        let answer = KvClient::new(channels[member].clone()).txn(request(&changes)).await;
        match answer {
            Ok(answer) => {
                let answer = answer.into_inner();
                let revision = answer.header.unwrap().revision;
                let changes = effective(changes, &answer.responses);
                if !changes.is_empty() {
                    let before = acknowledged.insert(revision, changes);
                    assert!(before.is_none(), "revision {revision} was acknowledged twice to writer {writer}");
                }
                shared.newest.fetch_max(revision, Ordering::SeqCst);
                shared.acknowledged.fetch_add(1, Ordering::SeqCst);
            }
            // It may have happened or not: the watchers tell.
            Err(_) => {
                member = (member + 1) % channels.len();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    acknowledged
}

fn changes(writer: usize, number: usize, random: &mut StdRng) -> Changes {
    let count = if random.random_range(0..4) == 0 { random.random_range(2..5) } else { 1 };
    let change = |random: &mut StdRng| {
        let key = format!("{PREFIX}{:02}", random.random_range(0..KEYS));
        (key, (random.random_range(0..5) > 0).then(|| format!("{writer}/{number}")))
    };
    (0..count).map(|_| change(random)).collect()
}

fn request(changes: &Changes) -> pb::TxnRequest {
    let operation = |(key, value): (&String, &Option<String>)| {
        let key = key.clone().into();
        let request = match value {
            Some(value) => {
                Request::RequestPut(pb::PutRequest { key, value: value.clone().into(), ..Default::default() })
            }
            None => Request::RequestDeleteRange(pb::DeleteRangeRequest { key, ..Default::default() }),
        };
        pb::RequestOp { request: Some(request) }
    };
    pb::TxnRequest { success: changes.iter().map(operation).collect(), ..Default::default() }
}

/// Without the deletions that found nothing.
fn effective(changes: Changes, responses: &[pb::ResponseOp]) -> Changes {
    let happened = |response: &pb::ResponseOp| match &response.response {
        Some(pb::response_op::Response::ResponseDeleteRange(deleted)) => deleted.deleted > 0,
        _ => true,
    };
    changes.into_iter().zip(responses).filter(|(_, response)| happened(response)).map(|(change, _)| change).collect()
}

/// Every promise, for one watcher that began at `from` and was told everything up to `upto`.
fn check(seen: &Seen, acknowledged: &BTreeMap<i64, Changes>, from: i64, upto: i64) {
    let name = &seen.name;
    let mut values: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    let mut last = from - 1;
    for (revision, changes) in &seen.revisions {
        assert!(*revision > last, "{name}: revision {revision} after {last}");
        last = *revision;
        for change in changes {
            let known = values.get(change.key.as_str()).copied();
            if let Some(known) = known {
                let before = change.previous.as_deref();
                assert_eq!(before, known, "{name}: the value before {revision} of {}", change.key);
            }
            values.insert(&change.key, change.value.as_deref());
        }
    }
    for (revision, expected) in acknowledged.range(from..=upto) {
        let seen = seen.revisions.get(revision).unwrap_or_else(|| panic!("{name}: revision {revision} is missing"));
        let seen: Changes = seen.iter().map(|change| (change.key.clone(), change.value.clone())).collect();
        assert_eq!(&seen, expected, "{name}: revision {revision}");
    }
}

fn seed() -> u64 {
    let seed = std::env::var("KONTIKI_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("KONTIKI_SEED={seed}");
    seed
}

async fn await_writes(shared: &Writing, count: usize) {
    let (from, deadline) = (shared.acknowledged.load(Ordering::SeqCst), Instant::now() + Duration::from_secs(60));
    while shared.acknowledged.load(Ordering::SeqCst) < from + count {
        assert!(Instant::now() < deadline, "fewer than {count} writes were acknowledged in a minute");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn compact(cluster: &StoreCluster, revision: i64) {
    for member in (0..cluster.len()).filter(|member| cluster.is_running(*member)) {
        let request = pb::CompactionRequest { revision, physical: false };
        if KvClient::new(cluster.channel(member)).compact(request).await.is_ok() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_see_every_acknowledged_change_once_in_order_and_whole() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = StoreCluster::start(3).await;
    let shared = Arc::new(Writing {
        stop: AtomicBool::new(false),
        newest: AtomicI64::new(0),
        acknowledged: AtomicUsize::new(0),
    });
    let channels = |cluster: &StoreCluster| (0..cluster.len()).map(|i| cluster.channel(i)).collect::<Vec<_>>();
    let observers: Vec<Observer> = [
        ("steady", Pace::Eager, 0),
        ("on another member", Pace::Eager, 1),
        ("slow", Pace::Slow, 2),
        ("resuming", Pace::Restless, 0),
    ]
    .into_iter()
    .map(|(name, pace, member)| Observer::start(name, pace, channels(&cluster), member, PREFIX))
    .collect();
    for observer in &observers {
        observer.created().await;
    }
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write(writer, seed ^ writer as u64, channels(&cluster), shared.clone())))
        .collect();
    let from = 2;
    for round in 0..6 {
        await_writes(&shared, EVENTS_MIN / 6).await;
        let victim = if round % 2 == 0 { cluster.leader().await } else { random.random_range(0..cluster.len()) };
        cluster.kill(victim);
        await_writes(&shared, 50).await;
        cluster.start_member(victim);
        cluster.await_ready(victim).await;
        // Only what everybody has seen: a watcher that is further behind would rightly be cancelled.
        let slowest = observers.iter().map(Observer::position).min().unwrap();
        compact(&cluster, slowest).await;
    }
    await_writes(&shared, 200).await;
    shared.stop.store(true, Ordering::SeqCst);
    let mut acknowledged: BTreeMap<i64, Changes> = BTreeMap::new();
    for writer in writers {
        for (revision, changes) in writer.await.unwrap() {
            assert!(acknowledged.insert(revision, changes).is_none(), "two writers were told revision {revision}");
        }
    }
    let newest = shared.newest.load(Ordering::SeqCst);
    let mut histories = Vec::new();
    for observer in observers {
        let seen = observer.until(newest).await;
        check(&seen, &acknowledged, from, newest);
        println!(
            "{}: {} revisions, {} bookmarks, {} resumptions",
            seen.name,
            seen.revisions.len(),
            seen.bookmarks,
            seen.resumptions
        );
        assert!(seen.revisions.len() >= EVENTS_MIN, "{} saw only {}", seen.name, seen.revisions.len());
        histories.push(seen);
    }
    for pair in histories.windows(2) {
        let upto = |seen: &Seen| seen.revisions.range(..=newest).map(|(r, c)| (*r, c.clone())).collect::<Vec<_>>();
        assert!(upto(&pair[0]) == upto(&pair[1]), "{} and {} saw different histories", pair[0].name, pair[1].name);
    }
}
