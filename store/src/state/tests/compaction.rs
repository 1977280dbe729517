use kontiki_api::etcdserverpb as pb;

use crate::error::StoreError;
use crate::ids::Revision;
use crate::io::engine::{Family, Step};
use crate::mvcc::record::Stamp;
use crate::state::testing::{Harness, pairs, range, uncached};

/// Revisions of the records on disk.
fn stored(harness: &Harness) -> Vec<i64> {
    let mut stored = Vec::new();
    let mut visit = |key: &[u8], _: &[u8]| {
        stored.push(Stamp::from_bytes(key).unwrap().main);
        Ok::<_, std::io::Error>(Step::Next)
    };
    harness.state.engine.scan(Family::Records, b"", &mut visit).unwrap();
    stored
}

fn at(harness: &Harness, revision: i64) -> Result<String, StoreError> {
    let request = pb::RangeRequest { revision, ..range("a", "z") };
    harness.reader().range(&request).map(|response| pairs(&response.kvs).join(" "))
}

#[test]
fn a_compacted_revision_is_refused_and_the_floor_itself_is_not() {
    let mut harness = Harness::with(uncached());
    for value in ["1", "2", "3"] {
        harness.put("a", value);
    }
    harness.compact(3).unwrap();
    for _ in 0..2 {
        assert_eq!(at(&harness, 2), Err(StoreError::Compacted));
        assert_eq!(at(&harness, 3).unwrap(), "a=2");
        assert_eq!(at(&harness, 0).unwrap(), "a=3");
        harness.compact_physically();
    }
    assert_eq!(stored(&harness), [3, 4]);
    assert_eq!(harness.revision(), 4);
}

#[test]
fn compacting_twice_or_ahead_is_refused() {
    let mut harness = Harness::new();
    harness.put("a", "1");
    harness.put("a", "2");
    assert_eq!(harness.compact(4), Err(StoreError::FutureRevision));
    harness.compact(3).unwrap();
    assert_eq!(harness.compact(3), Err(StoreError::Compacted));
    assert_eq!(harness.compact(2), Err(StoreError::Compacted));
    assert_eq!(harness.reader().compact_revision(), Revision(3));
}

#[test]
fn a_fresh_store_can_be_compacted_at_0_and_1() {
    let mut harness = Harness::new();
    harness.compact(0).unwrap();
    harness.compact(1).unwrap();
    assert_eq!(harness.compact(1), Err(StoreError::Compacted));
}

#[test]
fn what_is_deleted_before_the_floor_disappears_and_a_deletion_at_the_floor_stays() {
    let mut harness = Harness::new();
    harness.put("a", "1");
    harness.delete("a", "");
    harness.put("b", "1");
    harness.delete("b", "");
    harness.compact(5).unwrap();
    harness.compact_physically();
    assert_eq!(stored(&harness), [5]);
    harness.put("c", "1");
    harness.compact(6).unwrap();
    harness.compact_physically();
    assert_eq!(stored(&harness), [6]);
}

#[test]
fn an_interrupted_compaction_is_finished_after_a_restart() {
    let mut harness = Harness::new();
    for n in 0..3000 {
        harness.put(&format!("{n:04}"), "1");
        harness.put(&format!("{n:04}"), "2");
    }
    harness.compact(6001).unwrap();
    assert!(harness.state.compact_step(), "one slice of several");
    assert!(stored(&harness).len() > 3000);
    let harness = harness.reopen();
    harness.compact_physically();
    assert_eq!(stored(&harness).len(), 3000);
    let response = harness.reader().range(&range("0", "9")).unwrap();
    assert_eq!((response.count, response.kvs.len()), (3000, 3000));
}

#[test]
fn sizes_shrink_with_compaction_and_survive_a_restart() {
    let mut harness = Harness::new();
    for _ in 0..10 {
        harness.put("a", &"x".repeat(1000));
    }
    let before = harness.reader().size().total;
    assert!((10_000..11_000).contains(&before), "{before}");
    harness.compact(11).unwrap();
    harness.compact_physically();
    let after = harness.reader().size();
    assert!((1000..1100).contains(&after.total), "{after:?}");
    assert_eq!(harness.reopen().reader().size(), after);
}

#[test]
fn the_digest_does_not_depend_on_physical_compaction() {
    let mut a = Harness::new();
    let mut b = Harness::new();
    for harness in [&mut a, &mut b] {
        harness.put("a", "1");
        harness.put("b", "1");
        harness.delete("a", "");
        harness.put("b", "2");
        harness.put("c", "1");
        harness.compact(4).unwrap();
    }
    let digest = |harness: &Harness, revision| harness.reader().hash_kv(Revision(revision)).unwrap();
    let expected = digest(&a, 0);
    assert_eq!((expected.compact_revision, expected.hash_revision), (4, 6));
    assert_ne!(digest(&a, 5).hash, expected.hash);
    b.compact_physically();
    assert_eq!(digest(&b, 0), expected);
    assert_eq!(digest(&b.reopen(), 0), expected);
    assert_eq!(a.reader().hash_kv(Revision(3)), Err(StoreError::Compacted));
    assert_eq!(a.reader().hash_kv(Revision(7)), Err(StoreError::FutureRevision));
    a.put("c", "2");
    assert_ne!(digest(&a, 0).hash, expected.hash);
}

#[tokio::test]
async fn a_physical_compaction_can_be_waited_for() {
    let mut harness =
        Harness::with(crate::state::StateOptions { background_compaction: true, ..crate::state::testing::options() });
    for _ in 0..100 {
        harness.put("a", "1");
    }
    harness.compact(101).unwrap();
    let reader = harness.reader();
    let done = reader.compacted_physically(Revision(101));
    tokio::time::timeout(std::time::Duration::from_secs(10), done).await.expect("in time");
    assert_eq!(stored(&harness), [101]);
}

/// Twenty keys, each rewritten all the time in one revision together with a counter; every read must find all of them with
/// the same counter, whatever compaction does meanwhile.
#[test]
fn reads_of_the_present_are_whole_under_writes_and_compaction() {
    use crate::state::testing::{put_op, txn};
    use std::sync::atomic::{AtomicBool, Ordering};

    let mut harness = Harness::with(crate::state::StateOptions { background_compaction: true, ..uncached() });
    let write = |harness: &mut Harness, n: i64| {
        harness.txn(txn((0..20).map(|key| put_op(&format!("k{key:02}"), &n.to_string())).collect())).unwrap();
    };
    write(&mut harness, 0);
    let reader = harness.reader();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let read = scope.spawn(|| {
            let mut reads = 0;
            while !stop.load(Ordering::Relaxed) || reads == 0 {
                let response = reader.range(&range("k", "l")).unwrap();
                let values: std::collections::BTreeSet<_> = response.kvs.iter().map(|kv| kv.value.clone()).collect();
                assert_eq!((response.kvs.len(), response.count, values.len()), (20, 20, 1));
                let _ = reader.hash_kv(Revision(0));
                reads += 1;
            }
            reads
        });
        for n in 1..1500 {
            write(&mut harness, n);
            if n % 3 == 0 {
                harness.compact(harness.revision()).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(read.join().unwrap() > 0);
    });
}
