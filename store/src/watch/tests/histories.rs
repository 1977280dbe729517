//! Whole histories: whatever the moment and the pace, each watcher sees all of its range, once and in order.

use proptest::prelude::*;

use super::{create, created, from, next, rest, text};
use crate::command::Command;
use crate::state::StateOptions;
use crate::state::testing::{Harness, delete, delete_op, options, put, put_op, txn};

/// One writer on a thread of its own; watchers that come at different times must see the same, each from its start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_concurrent_writer_nothing_is_lost_repeated_or_reordered() {
    for watch_replay_keys in [0, 64] {
        see_all_of_a_concurrent_writer(watch_replay_keys).await;
    }
}

async fn see_all_of_a_concurrent_writer(watch_replay_keys: usize) {
    const WRITES: i64 = 4000;
    let ring = StateOptions { watch_ring_bytes: 20_000, watch_replay_keys, background_compaction: true, ..options() };
    let mut harness = Harness::with(ring);
    let reader = harness.reader();
    let writer = std::thread::spawn(move || {
        for n in 0..WRITES {
            harness.run(&Command::Put(put(&format!("k{}", n % 7), &n.to_string()))).unwrap();
            if n % 11 == 0 {
                harness.run(&Command::DeleteRange(delete("k3", "k5"))).unwrap();
            }
        }
        harness.put("k9", "end");
        harness
    });
    let mut watchers = Vec::new();
    for slow in [false, true, false, true] {
        let reader = reader.clone();
        watchers.push(tokio::spawn(async move {
            let mut stream = reader.watch().stream();
            created(&mut stream, from(2, create("k", "l"))).await;
            let mut seen: Vec<(i64, String)> = Vec::new();
            loop {
                let response = next(&mut stream).await;
                let last = seen.last().map_or(1, |(revision, _)| *revision);
                let first = response.events[0].kv.as_ref().unwrap().mod_revision;
                assert!(first > last, "a revision is not split over responses: {first} after {last}");
                for event in &response.events {
                    seen.push((event.kv.as_ref().unwrap().mod_revision, text(event)));
                }
                if seen.last().unwrap().1.ends_with("k9=end") {
                    return seen;
                }
                for _ in 0..if slow { 200 } else { 0 } {
                    tokio::task::yield_now().await;
                }
            }
        }));
    }
    let mut histories = Vec::new();
    for watcher in watchers {
        histories.push(watcher.await.unwrap());
    }
    let harness = writer.join().unwrap();
    let newest = harness.revision();
    for history in &histories {
        assert_eq!(history, &histories[0]);
        let mut revisions: Vec<i64> = history.iter().map(|(revision, _)| *revision).collect();
        assert!(revisions.is_sorted());
        revisions.dedup();
        assert_eq!(revisions, (2..=newest).collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Watchers of random ranges and starts, read at random moments, see exactly the changes in their range.
    #[test]
    fn a_watcher_sees_exactly_the_changes_in_its_range(
        ring_bytes in prop_oneof![Just(1_usize), Just(2000), Just(1 << 20)],
        replay_keys in prop_oneof![Just(0_usize), Just(2), Just(64)],
        steps in prop::collection::vec((0_u8..10, 0_u8..12, any::<bool>(), prop::bool::weighted(0.1)), 1..120),
        watchers in prop::collection::vec((0_u8..10, 0_u8..12, 0_usize..60, 0_i64..40), 1..8),
    ) {
        let ring = StateOptions { watch_ring_bytes: ring_bytes, watch_replay_keys: replay_keys, ..options() };
        let mut harness = Harness::with(ring);
        let mut all: Vec<(i64, u8, String)> = Vec::new();
        let mut streams = Vec::new();
        for (index, (key, other, deletes, reads)) in steps.into_iter().enumerate() {
            for (low, high, at, back) in watchers.iter().filter(|watcher| watcher.2 == index) {
                let mut stream = harness.reader().watch().stream();
                let start = (harness.revision() - back).max(0);
                let (start_key, end_key) = (format!("k{low:02}"), format!("k{high:02}"));
                if low < high {
                    stream.create(from(start, create(&start_key, &end_key)));
                    let start = if start == 0 { harness.revision() + 1 } else { start };
                    streams.push((stream, *low..*high, start, Vec::new(), *at));
                }
            }
            let (first, second) = (format!("k{key:02}"), format!("k{other:02}"));
            let ops = if deletes { vec![delete_op(&first, "")] } else { vec![put_op(&first, "v"), put_op(&second, "w")] };
            let request = txn(ops);
            if crate::state::check::txn(&request, 128).is_ok() {
                let before = harness.revision();
                harness.txn(request).unwrap();
                let now = harness.revision();
                if now > before && deletes {
                    all.push((now, key, format!("{now}:-{first}")));
                } else if now > before {
                    all.push((now, key, format!("{now}:{first}=v")));
                    all.push((now, other, format!("{now}:{second}=w")));
                }
            }
            if reads {
                for (stream, _, _, seen, _) in &mut streams {
                    seen.extend(rest(stream).iter().flat_map(|response| response.events.iter().map(text)));
                }
            }
        }
        for (mut stream, keys, start, mut seen, _) in streams {
            seen.extend(rest(&mut stream).iter().flat_map(|response| response.events.iter().map(text)));
            let expected: Vec<_> = all
                .iter()
                .filter(|(revision, key, _)| *revision >= start && keys.contains(key))
                .map(|(_, _, text)| text.clone())
                .collect();
            prop_assert_eq!(seen, expected);
        }
    }
}
