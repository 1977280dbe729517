//! Durability with real processes: members are killed with SIGKILL under load, one, two or all at a time, and afterwards
//! every acknowledged write is on every member at the revision that was acknowledged.

#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::load::{Load, same_hash, verify};
use support::store::StoreCluster;

const WRITERS: usize = 8;
const ROUNDS: usize = 14;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost() {
    let seed: u64 = std::env::var("KONTIKI_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("KONTIKI_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = StoreCluster::start(3).await;
    let load = Load::start(WRITERS, (0..cluster.len()).map(|i| cluster.channel(i)).collect());
    let mut kills = 0;
    for round in 0..ROUNDS {
        load.await_progress(random.random_range(50..400)).await;
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
    load.await_progress(100).await;
    let acknowledged = load.stop().await;
    assert!(kills >= 20, "{kills} kills");
    for member in 0..cluster.len() {
        verify(&cluster, member, &acknowledged).await;
    }
    same_hash(&cluster).await;
    println!("{kills} kills, {} acknowledged writes, all on every member", acknowledged.len());
}
