//! Writers that remember what was acknowledged, and the proof that all of it is there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::kv_client::KvClient;
use kontiki_api::etcdserverpb::maintenance_client::MaintenanceClient;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use super::store::StoreCluster;

/// What the writers were told: key → (value, revision).
pub type Acknowledged = BTreeMap<String, (String, i64)>;

pub struct Load {
    channels: Arc<Mutex<Vec<Channel>>>,
    newest: Arc<AtomicI64>,
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Acknowledged>>,
}

impl Load {
    /// Starts `writers` that write as fast as they can, each to whichever member answers.
    pub fn start(writers: usize, channels: Vec<Channel>) -> Self {
        let (stop, newest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
        let channels = Arc::new(Mutex::new(channels));
        let writers = (0..writers)
            .map(|writer| tokio::spawn(write(writer, channels.clone(), newest.clone(), stop.clone())))
            .collect();
        Self { channels, newest, stop, writers }
    }

    /// A member that may be written to from now on.
    pub fn add(&self, channel: Channel) {
        self.channels.lock().unwrap().push(channel);
    }

    /// At least this many further writes are acknowledged.
    pub async fn await_progress(&self, writes: i64) {
        let (from, deadline) = (self.newest.load(Ordering::SeqCst), Instant::now() + Duration::from_secs(30));
        while self.newest.load(Ordering::SeqCst) < from + writes {
            assert!(Instant::now() < deadline, "no write was acknowledged for 30 s");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn stop(self) -> Acknowledged {
        self.stop.store(true, Ordering::Relaxed);
        let mut acknowledged = Acknowledged::new();
        for writer in self.writers {
            acknowledged.extend(writer.await.unwrap());
        }
        acknowledged
    }
}

async fn write(
    writer: usize,
    channels: Arc<Mutex<Vec<Channel>>>,
    newest: Arc<AtomicI64>,
    stop: Arc<AtomicBool>,
) -> Acknowledged {
    let mut acknowledged = BTreeMap::new();
    let mut member = writer;
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (key, value) = (format!("w{writer}/{n:06}"), format!("value {n} of {writer}"));
        let floor = newest.load(Ordering::SeqCst);
        let put = pb::PutRequest { key: key.clone().into(), value: value.clone().into(), ..Default::default() };
        let channel = {
            let channels = channels.lock().unwrap();
            channels[member % channels.len()].clone()
        };
        match KvClient::new(channel).put(put).await {
            Ok(answer) => {
                let revision = answer.into_inner().header.unwrap().revision;
                assert!(revision > floor, "revision {revision} after {floor} had been acknowledged");
                newest.fetch_max(revision, Ordering::SeqCst);
                acknowledged.insert(key, (value, revision));
            }
            // Not acknowledged: it may or may not be there, and its key is never used again.
            Err(_) => {
                member += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    acknowledged
}

/// Everything that was acknowledged is there, with the revision that was acknowledged.
pub async fn verify(cluster: &StoreCluster, member: usize, acknowledged: &Acknowledged) {
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
        .map(|kv| (super::text(&kv.key), (super::text(&kv.value), kv.mod_revision)))
        .collect();
    for (key, expected) in acknowledged {
        assert_eq!(found.get(key), Some(expected), "{key} on member {member}");
    }
}

/// All running members hold the same history, not only the same newest values.
pub async fn same_hash(cluster: &StoreCluster) {
    let mut revision = 0;
    let mut hashes = Vec::new();
    for member in (0..cluster.len()).filter(|member| cluster.is_running(*member)) {
        let mut client = MaintenanceClient::new(cluster.channel(member));
        let answer = client.hash_kv(pb::HashKvRequest { revision }).await.unwrap().into_inner();
        revision = answer.hash_revision;
        hashes.push(answer.hash);
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "hashes at revision {revision}: {hashes:?}");
}
