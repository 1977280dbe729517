//! Durability with real processes: members are killed with SIGKILL under load, one, two or all at a time, and afterwards
//! every acknowledged write is on every member at the revision that was acknowledged.

#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::kv_client::KvClient;
use kontiki_api::etcdserverpb::maintenance_client::MaintenanceClient;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::store::StoreCluster;

const WRITERS: usize = 8;
const ROUNDS: usize = 14;

/// What one writer was told: key → (value, revision).
type Acknowledged = BTreeMap<String, (String, i64)>;

/// Writes as fast as it can, to whichever member answers, and remembers each acknowledgement.
async fn write(
    writer: usize,
    channels: Vec<tonic::transport::Channel>,
    newest: Arc<AtomicI64>,
    stop: Arc<AtomicBool>,
) -> Acknowledged {
    let mut acknowledged = BTreeMap::new();
    let mut member = writer % channels.len();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (key, value) = (format!("w{writer}/{n:06}"), format!("value {n} of {writer}"));
        let floor = newest.load(Ordering::SeqCst);
        let put = pb::PutRequest { key: key.clone().into(), value: value.clone().into(), ..Default::default() };
        match KvClient::new(channels[member].clone()).put(put).await {
            Ok(answer) => {
                let revision = answer.into_inner().header.unwrap().revision;
                assert!(revision > floor, "revision {revision} after {floor} had been acknowledged");
                newest.fetch_max(revision, Ordering::SeqCst);
                acknowledged.insert(key, (value, revision));
            }
            // Not acknowledged: it may or may not be there, and its key is never used again.
            Err(_) => {
                member = (member + 1) % channels.len();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    acknowledged
}

/// At least this many further writes are acknowledged before the next blow.
async fn await_progress(newest: &AtomicI64, writes: i64) {
    let (from, deadline) = (newest.load(Ordering::SeqCst), Instant::now() + Duration::from_secs(30));
    while newest.load(Ordering::SeqCst) < from + writes {
        assert!(Instant::now() < deadline, "no write was acknowledged for 30 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost() {
    let seed: u64 = std::env::var("KONTIKI_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("KONTIKI_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = StoreCluster::start(3).await;
    let (stop, newest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let channels = (0..cluster.len()).map(|i| cluster.channel(i)).collect();
            tokio::spawn(write(writer, channels, newest.clone(), stop.clone()))
        })
        .collect();
    let mut kills = 0;
    for round in 0..ROUNDS {
        await_progress(&newest, random.random_range(50..400)).await;
        // One, two or all at once, in turn; which ones is left to chance.
        let victims = round % 3 + 1;
        let first = random.random_range(0..cluster.len());
        for k in 0..victims {
            cluster.kill((first + k) % cluster.len());
            kills += 1;
        }
        for k in 0..victims {
            cluster.start_member((first + k) % cluster.len());
        }
    }
    await_progress(&newest, 100).await;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Acknowledged::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    assert!(kills >= 20, "{kills} kills");
    for member in 0..cluster.len() {
        verify(&cluster, member, &acknowledged).await;
    }
    same_hash(&cluster).await;
    println!("{kills} kills, {} acknowledged writes, all on every member", acknowledged.len());
}

/// Everything that was acknowledged is there, with the revision that was acknowledged.
async fn verify(cluster: &StoreCluster, member: usize, acknowledged: &Acknowledged) {
    cluster.await_ready(member).await;
    let all = pb::RangeRequest { key: "w".into(), range_end: "x".into(), ..Default::default() };
    let mut client = KvClient::new(cluster.channel(member)).max_decoding_message_size(256 << 20);
    let found: BTreeMap<String, (String, i64)> = client
        .range(all)
        .await
        .unwrap()
        .into_inner()
        .kvs
        .into_iter()
        .map(|kv| (support::text(&kv.key), (support::text(&kv.value), kv.mod_revision)))
        .collect();
    for (key, expected) in acknowledged {
        assert_eq!(found.get(key), Some(expected), "{key} on member {member}");
    }
}

/// All members hold the same history, not only the same newest values.
async fn same_hash(cluster: &StoreCluster) {
    let mut revision = 0;
    let mut hashes = Vec::new();
    for member in 0..cluster.len() {
        let mut client = MaintenanceClient::new(cluster.channel(member));
        let answer = client.hash_kv(pb::HashKvRequest { revision }).await.unwrap().into_inner();
        revision = answer.hash_revision;
        hashes.push(answer.hash);
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "hashes at revision {revision}: {hashes:?}");
}
