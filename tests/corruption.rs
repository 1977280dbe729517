//! A disk that lies under a running member: the member ends with a sentence, and comes back rebuilt from the others.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]

mod support;

use std::os::unix::fs::FileExt;
use std::time::Duration;

use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::kv_client::KvClient;
use support::store::StoreCluster;
use support::wait_for;

const KEYS: usize = 200;

async fn value(cluster: &StoreCluster, i: usize, key: usize) -> Result<Vec<u8>, tonic::Status> {
    let request = pb::RangeRequest { key: format!("k{key}").into(), ..Default::default() };
    let answer = KvClient::new(cluster.channel(i)).range(request).await?.into_inner();
    Ok(answer.kvs[0].value.to_vec())
}

/// Overwrites the first quarter of every table in place, as a failing disk would.
fn scratch(cluster: &StoreCluster, i: usize) {
    let mut scratched = 0;
    for generation in std::fs::read_dir(cluster.data_dir(i).join("member/state")).unwrap() {
        let generation = generation.unwrap().path();
        if !generation.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(generation).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "sst") {
                let file = std::fs::File::options().write(true).open(&path).unwrap();
                let length = file.metadata().unwrap().len() / 4;
                file.write_all_at(&vec![0x55; usize::try_from(length).unwrap()], 0).unwrap();
                scratched += 1;
            }
        }
    }
    assert!(scratched > 0, "the state is on disk");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_disk_lies_ends_and_is_rebuilt() {
    let mut cluster = StoreCluster::start(3).await;
    let mut kv = KvClient::new(cluster.channel(0));
    for key in 0..KEYS {
        let value = vec![b'v'; 1000];
        kv.put(pb::PutRequest { key: format!("k{key}").into(), value: value.into(), ..Default::default() })
            .await
            .unwrap();
    }
    // A planned stop flushes; what is started again reads values from the disk.
    let victim = (cluster.leader().await + 1) % 3;
    cluster.process(victim).terminate(Duration::from_secs(20));
    cluster.forget(victim);
    cluster.start_member(victim);
    cluster.await_ready(victim).await;
    scratch(&cluster, victim);
    assert!(value(&cluster, victim, 3).await.is_err(), "a wrong value must not be served");
    wait_for("the member to end", Duration::from_secs(20), || (!cluster.process(victim).is_running()).then_some(()));
    let log = std::fs::read_to_string(cluster.log(victim)).unwrap();
    assert!(log.contains("kontiki: the state database cannot be read: Corruption"), "{log}");
    assert!(log.contains("the next start rebuilds it from the other members"), "{log}");
    cluster.forget(victim);
    cluster.start_member(victim);
    cluster.await_ready(victim).await;
    for key in 0..KEYS {
        assert_eq!(value(&cluster, victim, key).await.unwrap(), vec![b'v'; 1000]);
    }
    let log = std::fs::read_to_string(cluster.log(victim)).unwrap();
    assert!(log.contains("the state is damaged; it is rebuilt from another member"), "{log}");
}
