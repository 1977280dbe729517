//! What a stream says when it has nothing to tell.

use std::time::Duration;

use kontiki_api::etcdserverpb as pb;

use super::{create, created, from, next, rest, revision, texts, tiny_ring};
use crate::state::testing::Harness;
use crate::watch::WatchStreamOptions;

#[tokio::test]
async fn manual_progress_comes_after_the_events_it_covers() {
    let mut harness = Harness::new();
    let mut stream = harness.reader().watch().stream();
    stream.progress();
    assert!(rest(&mut stream).is_empty(), "without watchers there is nothing to say");
    created(&mut stream, create("a", "")).await;
    created(&mut stream, create("b", "")).await;
    stream.progress();
    let response = next(&mut stream).await;
    assert_eq!((response.watch_id, revision(&response), response.events.len()), (-1, 1, 0));
    harness.put("a", "1");
    harness.put("b", "1");
    stream.progress();
    let responses = rest(&mut stream);
    assert_eq!(responses.len(), 3);
    assert_eq!((responses[2].watch_id, revision(&responses[2])), (-1, 3));
    assert!(responses[..2].iter().all(|response| response.events.len() == 1));
}

#[tokio::test]
async fn a_replaying_watcher_keeps_the_stream_from_progress() {
    let mut harness = Harness::with(tiny_ring());
    for n in 0..10 {
        harness.put("a", &n.to_string());
    }
    let mut stream = harness.reader().watch().stream();
    created(&mut stream, create("b", "")).await;
    created(&mut stream, from(2, create("a", ""))).await;
    stream.progress();
    let responses = rest(&mut stream);
    assert!(responses.iter().all(|response| response.watch_id == 1), "one of the two is not there yet: {responses:?}");
    stream.progress();
    assert_eq!(next(&mut stream).await.watch_id, -1);
}

#[tokio::test]
async fn periodic_progress_goes_to_quiet_watchers_that_ask() {
    let mut harness = Harness::new();
    let options = WatchStreamOptions { progress_interval: Duration::from_millis(50), ..WatchStreamOptions::default() };
    let mut stream = harness.reader().watch().stream_with(options);
    let notified = |request| pb::WatchCreateRequest { progress_notify: true, ..request };
    let quiet = created(&mut stream, notified(create("a", ""))).await;
    created(&mut stream, create("b", "")).await;
    let future = created(&mut stream, notified(from(50, create("c", "")))).await;
    harness.put("x", "1");
    let response = next(&mut stream).await;
    assert_eq!((response.watch_id, revision(&response), response.events.len()), (quiet, 2, 0));
    harness.put("a", "1");
    assert_eq!(texts(&next(&mut stream).await), "3:a=1");
    let before = tokio::time::Instant::now();
    let response = next(&mut stream).await;
    assert_eq!((response.watch_id, revision(&response)), (quiet, 3));
    assert!(before.elapsed() >= Duration::from_millis(50), "an interval with events is skipped");
    assert_ne!(quiet, future);
}
