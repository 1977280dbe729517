//! Watchers where history ends: at the compaction floor, and in a state that was replaced by a copy.

use kontiki_api::etcdserverpb as pb;

use super::{create, created, from, next, rest, revision, tiny_ring, until};
use crate::state::testing::{Harness, uncached};

#[tokio::test]
async fn a_captured_previous_value_outlives_its_compaction() {
    let mut harness = Harness::with(uncached());
    let mut stream = harness.reader().watch().stream();
    created(&mut stream, pb::WatchCreateRequest { prev_kv: true, ..create("a", "") }).await;
    harness.put("a", "1");
    harness.put("a", "2");
    harness.compact(3).unwrap();
    harness.compact_physically();
    assert_eq!(until(&mut stream, 3).await, "2:a=1 3:a=2(1)");
}

#[tokio::test]
async fn a_start_below_the_floor_is_created_and_then_cancelled() {
    let mut harness = Harness::new();
    for n in 0..5 {
        harness.put("a", &n.to_string());
    }
    harness.compact(4).unwrap();
    let mut stream = harness.reader().watch().stream();
    let id = created(&mut stream, from(3, create("a", ""))).await;
    let response = next(&mut stream).await;
    assert_eq!((response.watch_id, response.canceled, response.compact_revision), (id, true, 4));
    assert_eq!((revision(&response), response.cancel_reason.as_str()), (0, ""));
    harness.put("a", "more");
    assert!(rest(&mut stream).is_empty());
}

#[tokio::test]
async fn a_watch_from_the_floor_sees_the_deletion_there() {
    let mut harness = Harness::with(tiny_ring());
    harness.put("a", "1");
    harness.put("b", "1");
    harness.delete("a", "");
    harness.put("c", "1");
    harness.compact(4).unwrap();
    harness.compact_physically();
    let harness = harness.reopen();
    let mut stream = harness.reader().watch().stream();
    created(&mut stream, from(4, create("a", "z"))).await;
    assert_eq!(until(&mut stream, 5).await, "4:-a 5:c=1");
}

#[tokio::test]
async fn a_laggard_overtaken_by_compaction_is_cancelled() {
    let mut harness = Harness::with(tiny_ring());
    let mut stream = harness.reader().watch().stream();
    let id = created(&mut stream, create("a", "")).await;
    for n in 0..5 {
        harness.put("a", &n.to_string());
    }
    harness.compact(5).unwrap();
    let response = next(&mut stream).await;
    assert_eq!((response.watch_id, response.canceled, response.compact_revision), (id, true, 5));
}

#[tokio::test]
async fn a_synced_watch_does_not_mind_compaction() {
    let mut harness = Harness::with(tiny_ring());
    let mut stream = harness.reader().watch().stream();
    created(&mut stream, create("quiet", "")).await;
    for n in 0..50 {
        harness.put("noise", &n.to_string());
    }
    harness.compact(51).unwrap();
    harness.compact_physically();
    harness.put("quiet", "1");
    harness.put("noise", "more");
    assert_eq!(until(&mut stream, 52).await, "52:quiet=1");
}

#[tokio::test]
async fn watchers_go_on_after_a_checkpoint_is_installed() {
    let mut leader = Harness::new();
    let mut follower = Harness::new();
    for harness in [&mut leader, &mut follower] {
        harness.put("a", "1");
    }
    let mut stream = follower.reader().watch().stream();
    created(&mut stream, create("a", "z")).await;
    leader.put("b", "1");
    leader.put("a", "2");
    leader.state.checkpoint(&leader.path("copy")).unwrap();
    follower.state.install(&leader.path("copy")).unwrap();
    follower.put("c", "1");
    assert_eq!(until(&mut stream, 5).await, "3:b=1 4:a=2 5:c=1");
}

#[tokio::test]
async fn a_synced_watcher_survives_the_install_of_a_compacted_checkpoint() {
    let mut leader = Harness::new();
    let mut follower = Harness::new();
    for harness in [&mut leader, &mut follower] {
        for n in 0..5 {
            harness.put("a", &n.to_string());
        }
    }
    let mut stream = follower.reader().watch().stream();
    created(&mut stream, create("b", "")).await;
    follower.put("a", "5");
    leader.put("a", "5");
    leader.compact(6).unwrap();
    leader.compact_physically();
    leader.put("b", "1");
    leader.state.checkpoint(&leader.path("copy")).unwrap();
    follower.state.install(&leader.path("copy")).unwrap();
    assert_eq!(until(&mut stream, 8).await, "8:b=1");
}
