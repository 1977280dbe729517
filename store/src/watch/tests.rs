use std::time::Duration;

use bytes::Bytes;
use kontiki_api::etcdserverpb as pb;
use kontiki_api::mvccpb::Event;
use kontiki_api::mvccpb::event::EventType;
use pb::watch_create_request::FilterType;

use super::{Answer, Head, WatchStream, WatchStreamOptions, replay};
use crate::metrics::{StateMetrics, WatchMetrics};
use crate::mvcc::interval::Interval;
use crate::state::StateOptions;
use crate::state::testing::{Harness, delete_op, options, put_op, txn, uncached};

mod compaction;
mod histories;
mod progress;

fn create(key: &str, end: &str) -> pb::WatchCreateRequest {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    pb::WatchCreateRequest { key: bytes(key), range_end: bytes(end), ..pb::WatchCreateRequest::default() }
}

fn from(revision: i64, request: pb::WatchCreateRequest) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { start_revision: revision, ..request }
}

/// A ring that holds next to nothing, so that catching up means reading from disk.
fn tiny_ring() -> StateOptions {
    StateOptions { watch_ring_bytes: 1, ..options() }
}

async fn next(stream: &mut WatchStream) -> pb::WatchResponse {
    tokio::time::timeout(Duration::from_secs(20), stream.next()).await.expect("a response in time").decoded()
}

/// Lets the stream look at everything there is; whatever it finds is returned.
fn rest(stream: &mut WatchStream) -> Vec<pb::WatchResponse> {
    let mut responses = Vec::new();
    // Each round looks at a bounded number of watchers; an empty one may be followed by another.
    for _ in 0..1000 {
        responses.extend(stream.ready().map(Answer::decoded));
    }
    responses
}

async fn created(stream: &mut WatchStream, request: pb::WatchCreateRequest) -> i64 {
    stream.create(request);
    let response = next(stream).await;
    assert!(response.created && !response.canceled && response.events.is_empty(), "{response:?}");
    response.watch_id
}

fn text(event: &Event) -> String {
    let kv = event.kv.as_ref().unwrap();
    let utf8 = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let head = match event.r#type() {
        EventType::Put => format!("{}={}", utf8(&kv.key), utf8(&kv.value)),
        EventType::Delete => format!("-{}", utf8(&kv.key)),
    };
    let previous = event.prev_kv.as_ref().map(|kv| format!("({})", utf8(&kv.value))).unwrap_or_default();
    format!("{}:{head}{previous}", kv.mod_revision)
}

fn texts(response: &pb::WatchResponse) -> String {
    response.events.iter().map(text).collect::<Vec<_>>().join(" ")
}

fn revision(response: &pb::WatchResponse) -> i64 {
    response.header.as_ref().unwrap().revision
}

/// Reads until the last event is of `revision`.
async fn until(stream: &mut WatchStream, revision: i64) -> String {
    let mut all = Vec::new();
    loop {
        let response = next(stream).await;
        all.push(texts(&response));
        if response.events.last().is_some_and(|event| event.kv.as_ref().unwrap().mod_revision >= revision) {
            return all.join(" ");
        }
    }
}

#[tokio::test]
async fn a_watch_sees_what_comes_after_it() {
    let mut harness = Harness::new();
    harness.put("a", "before");
    let mut stream = harness.reader().watch().stream();
    stream.create(create("a", ""));
    let response = next(&mut stream).await;
    assert_eq!((response.watch_id, response.created, revision(&response)), (0, true, 2));
    harness.put("a", "1");
    harness.put("b", "elsewhere");
    harness.delete("a", "");
    let response = next(&mut stream).await;
    assert_eq!((texts(&response).as_str(), response.watch_id), ("3:a=1 5:-a", 0));
    assert!(rest(&mut stream).is_empty());
}

#[tokio::test]
async fn a_waiting_stream_is_woken_by_a_commit() {
    let mut harness = Harness::new();
    let mut stream = harness.reader().watch().stream();
    created(&mut stream, create("a", "z")).await;
    let waiting = tokio::spawn(async move { next(&mut stream).await });
    tokio::task::yield_now().await;
    harness.put("k", "1");
    assert_eq!(texts(&waiting.await.unwrap()), "2:k=1");
}

#[tokio::test]
async fn watchers_of_one_range_on_one_stream_are_each_told_what_they_asked_for() {
    let mut harness = Harness::new();
    harness.put("a", "0");
    let mut stream = harness.reader().watch().stream();
    let no_put = || pb::WatchCreateRequest { filters: vec![FilterType::Noput.into()], ..create("a", "z") };
    for request in [create("a", "z"), create("a", "z"), no_put(), create("a", ""), no_put(), create("a", "z")] {
        created(&mut stream, request).await;
    }
    created(&mut stream, pb::WatchCreateRequest { prev_kv: true, ..create("a", "z") }).await;
    let told = async |stream: &mut WatchStream, count: usize| {
        let mut all = Vec::new();
        for _ in 0..count {
            let response = next(stream).await;
            all.push((response.watch_id, texts(&response)));
        }
        assert!(rest(stream).is_empty());
        all.sort();
        all
    };
    let same = |ids: &[i64], text: &str| ids.iter().map(|id| (*id, text.to_owned())).collect::<Vec<_>>();
    harness.put("a", "1");
    let expected = [same(&[0, 1, 3, 5], "3:a=1"), same(&[6], "3:a=1(0)")].concat();
    assert_eq!(told(&mut stream, 5).await, expected);
    harness.delete("a", "");
    let expected = [same(&[0, 1, 2, 3, 4, 5], "4:-a"), same(&[6], "4:-a(1)")].concat();
    assert_eq!(told(&mut stream, 7).await, expected);
    // Two revisions at once are told together.
    harness.put("b", "2");
    harness.put("b", "3");
    let expected = [same(&[0, 1, 5], "5:b=2 6:b=3"), same(&[6], "5:b=2 6:b=3(2)")].concat();
    assert_eq!(told(&mut stream, 4).await, expected);
}

#[tokio::test]
async fn a_frame_holds_what_the_whole_response_would() {
    let mut harness = Harness::new();
    let mut stream = harness.reader().watch().stream();
    created(&mut stream, create("a", "z")).await;
    created(&mut stream, create("a", "z")).await;
    for value in ["1".repeat(10), "2".repeat(100_000)] {
        harness.put("k", &value);
        for _ in 0..2 {
            let answer = stream.next().await;
            let mut frame = bytes::BytesMut::new();
            let place = pb::ResponseHeader { cluster_id: 1, member_id: 2, raft_term: 3, ..Default::default() };
            answer.clone().put_frame(&mut Head::new(place), &mut frame);
            let told = answer.shared_bytes();
            let mut whole = answer.decoded();
            whole.header = whole.header.map(|header| pb::ResponseHeader { revision: header.revision, ..place });
            let whole = prost::Message::encode_to_vec(&whole);
            assert!((frame.len()..frame.len() + 64).contains(&told), "{told} for {}", frame.len());
            assert_eq!(frame[..5], [&[0][..], &u32::try_from(whole.len()).unwrap().to_be_bytes()].concat());
            assert!(frame[5..] == whole[..] && whole.len() > value.len());
        }
    }
}

#[tokio::test]
async fn a_deletion_carries_key_and_revision_only() {
    let mut harness = Harness::new();
    harness.put("a", "1");
    let mut stream = harness.reader().watch().stream();
    created(&mut stream, create("a", "")).await;
    harness.delete("a", "");
    let response = next(&mut stream).await;
    let kv = response.events[0].kv.as_ref().unwrap();
    assert_eq!((kv.mod_revision, kv.create_revision, kv.version, kv.lease, kv.value.len()), (3, 0, 0, 0, 0));
}

#[tokio::test]
async fn history_comes_first_and_then_what_is_new_without_gap() {
    for options in [
        options(),
        tiny_ring(),
        StateOptions { watch_replay_keys: 0, ..tiny_ring() },
        StateOptions { watch_ring_bytes: 1, ..uncached() },
    ] {
        let mut harness = Harness::with(options);
        for n in 2..10 {
            harness.put(if n % 2 == 0 { "a" } else { "b" }, &n.to_string());
        }
        let mut stream = harness.reader().watch().stream();
        created(&mut stream, pb::WatchCreateRequest { prev_kv: true, ..from(4, create("a", "")) }).await;
        harness.put("a", "10");
        harness.delete("a", "");
        let seen = until(&mut stream, 11).await;
        assert_eq!(seen, "4:a=4(2) 6:a=6(4) 8:a=8(6) 10:a=10(8) 11:-a(10)");
        harness.put("a", "12");
        assert_eq!(until(&mut stream, 12).await, "12:a=12");
    }
}

#[test]
fn who_missed_the_same_reads_it_once() {
    let mut harness = Harness::with(StateOptions { watch_replay_keys: 0, ..tiny_ring() });
    for n in 2..10 {
        harness.put(if n % 2 == 0 { "a" } else { "b" }, &n.to_string());
    }
    let watch = harness.reader().watch();
    watch.hub().recent.begin();
    let slice = |start: &str, from| {
        let interval = Interval::of(&Bytes::copy_from_slice(start.as_bytes()), &Bytes::from_static(b"z"));
        replay::slice(watch.hub(), &interval, (from, 9)).ok().expect("nothing is compacted")
    };
    let (first, second) = (slice("a", 2), slice("b", 5));
    assert!(second.was_read_with(&first) && second.next() == 10);
    let revisions = |slice: &replay::Slice| slice.blocks().iter().map(|block| block.revision).collect::<Vec<_>>();
    assert_eq!((revisions(&first), revisions(&second)), ((2..10).collect(), (5..10).collect()));
    harness.compact(4).unwrap();
    let gone = replay::slice(watch.hub(), &Interval::of(&Bytes::from_static(b"a"), &Bytes::from_static(b"z")), (2, 9));
    assert!(gone.is_err(), "what is compacted is not told, kept or not");
    watch.hub().recent.end();
    assert!(!slice("a", 5).was_read_with(&first), "nothing is kept once nobody replays");
}

#[tokio::test]
async fn a_start_in_the_future_waits() {
    let mut harness = Harness::new();
    harness.put("a", "2");
    let mut stream = harness.reader().watch().stream();
    created(&mut stream, from(5, create("a", ""))).await;
    harness.put("a", "3");
    stream.progress();
    harness.put("a", "4");
    assert!(rest(&mut stream).is_empty(), "neither events nor progress below the start");
    harness.put("a", "5");
    assert_eq!(until(&mut stream, 5).await, "5:a=5");
    stream.progress();
    assert_eq!(revision(&next(&mut stream).await), 5);
}

#[tokio::test]
async fn created_responses_follow_the_order_of_requests() {
    let mut harness = Harness::new();
    harness.put("a", "1");
    let mut stream = harness.reader().watch().stream();
    let with_id = |watch_id, request| pb::WatchCreateRequest { watch_id, ..request };
    stream.create(from(1, create("a", "")));
    stream.create(with_id(7, create("b", "")));
    stream.create(with_id(7, create("c", "")));
    stream.create(with_id(1, create("d", "")));
    stream.create(create("e", ""));
    stream.create(create("z", "a"));
    stream.create(from(-1, create("a", "")));
    let mut seen = Vec::new();
    for _ in 0..7 {
        let response = next(&mut stream).await;
        assert!(response.created && revision(&response) == 2);
        assert_eq!(response.canceled, !response.cancel_reason.is_empty());
        seen.push((response.watch_id, response.cancel_reason));
    }
    let ok = |id| (id, String::new());
    let no = |reason: &str| (-1, reason.to_owned());
    let expected = [
        ok(0),
        ok(7),
        no("mvcc: duplicate watch ID provided on the WatchStream"),
        ok(1),
        ok(2),
        no("mvcc: watcher range is empty"),
        no("etcdserver: mvcc: required revision has been compacted"),
    ];
    assert_eq!(seen, expected);
    assert_eq!(texts(&next(&mut stream).await), "2:a=1");
}

#[tokio::test]
async fn an_empty_key_is_the_first_one() {
    let mut harness = Harness::new();
    let mut stream = harness.reader().watch().stream();
    created(&mut stream, create("", "\0")).await;
    harness.put("anything", "1");
    assert_eq!(texts(&next(&mut stream).await), "2:anything=1");
}

#[tokio::test]
async fn nothing_follows_a_cancel_and_an_unknown_id_is_silent() {
    let mut harness = Harness::new();
    let mut stream = harness.reader().watch().stream();
    let id = created(&mut stream, create("a", "")).await;
    harness.put("a", "1");
    stream.cancel(99);
    stream.cancel(id);
    let response = next(&mut stream).await;
    assert!(response.canceled && !response.created && response.watch_id == id);
    assert_eq!(revision(&response), 2);
    harness.put("a", "2");
    stream.cancel(id);
    assert!(rest(&mut stream).is_empty());
}

#[tokio::test]
async fn a_revision_is_one_response() {
    let mut harness = Harness::with(tiny_ring());
    let mut stream = harness.reader().watch().stream();
    created(&mut stream, create("a", "z")).await;
    harness.txn(txn(vec![put_op("c", "1"), put_op("b", "1"), put_op("d", "1")])).unwrap();
    harness.txn(txn(vec![delete_op("a", "d"), put_op("e", "1")])).unwrap();
    assert_eq!(until(&mut stream, 3).await, "2:c=1 2:b=1 2:d=1 3:-b 3:-c 3:e=1");
    // The same from disk, where a slice ends only between revisions.
    let many = |n: i64| (0..100).map(|k| put_op(&format!("k{k:03}"), &n.to_string())).collect();
    for n in 0..25 {
        harness.txn(txn(many(n))).unwrap();
    }
    let mut stream = harness.reader().watch().stream();
    created(&mut stream, from(4, create("k", "l"))).await;
    let mut expected = 4;
    while expected < 29 {
        let response = next(&mut stream).await;
        let revisions: Vec<i64> = response.events.iter().map(|e| e.kv.as_ref().unwrap().mod_revision).collect();
        for chunk in revisions.chunk_by(|a, b| a == b) {
            assert_eq!((chunk[0], chunk.len()), (expected, 100));
            expected += 1;
        }
    }
}

#[tokio::test]
async fn filters_drop_kinds_and_silent_revisions() {
    let mut harness = Harness::new();
    let mut stream = harness.reader().watch().stream();
    let filtered = |filter: FilterType| pb::WatchCreateRequest { filters: vec![filter.into()], ..create("a", "z") };
    let deletes = created(&mut stream, filtered(FilterType::Noput)).await;
    let puts = created(&mut stream, filtered(FilterType::Nodelete)).await;
    harness.put("a", "1");
    harness.delete("a", "");
    let mut seen = [next(&mut stream).await, next(&mut stream).await];
    seen.sort_by_key(|response| response.watch_id);
    assert_eq!((seen[0].watch_id, texts(&seen[0]).as_str()), (deletes, "3:-a"));
    assert_eq!((seen[1].watch_id, texts(&seen[1]).as_str()), (puts, "2:a=1"));
    assert!(rest(&mut stream).is_empty());
}

#[tokio::test]
async fn previous_values_are_those_before_the_revision_and_absent_for_creations() {
    // From the cache, captured at write time, and from disk.
    for (options, late) in [(options(), false), (uncached(), false), (uncached(), true), (tiny_ring(), true)] {
        let mut harness = Harness::with(options);
        let mut stream = harness.reader().watch().stream();
        let request = pb::WatchCreateRequest { prev_kv: true, ..from(2, create("a", "z")) };
        if !late {
            created(&mut stream, request.clone()).await;
        }
        harness.put("a", "1");
        harness.put("a", "2");
        harness.delete("a", "");
        harness.put("a", "3");
        harness.txn(txn(vec![put_op("a", "4"), put_op("b", "1")])).unwrap();
        if late {
            created(&mut stream, request).await;
        }
        assert_eq!(until(&mut stream, 6).await, "2:a=1 3:a=2(1) 4:-a(2) 5:a=3 6:a=4(3) 6:b=1");
    }
}

#[tokio::test]
async fn fragments_split_by_events_and_stay_together() {
    let mut harness = Harness::new();
    let options = WatchStreamOptions { fragment_bytes: 1500, ..WatchStreamOptions::default() };
    let mut stream = harness.reader().watch().stream_with(options);
    let split = created(&mut stream, pb::WatchCreateRequest { fragment: true, ..create("a", "z") }).await;
    let value = "x".repeat(500);
    let keys = ["a", "b", "c", "d", "e"];
    harness.txn(txn(keys.map(|key| put_op(key, &value)).into())).unwrap();
    let first = next(&mut stream).await;
    stream.create(create("q", ""));
    stream.cancel(split);
    let mut parts = vec![first];
    while parts.last().unwrap().fragment {
        parts.push(next(&mut stream).await);
    }
    assert_eq!(parts.iter().map(|part| part.events.len()).collect::<Vec<_>>(), [2, 2, 1]);
    assert!(parts.iter().all(|part| part.watch_id == split && revision(part) == 2));
    assert!(next(&mut stream).await.created);
    assert!(next(&mut stream).await.canceled);
}

#[tokio::test]
async fn a_response_is_measured_once_however_many_parts_it_has() {
    let metrics = StateMetrics::default();
    let mut harness = Harness::with(StateOptions { metrics: metrics.clone(), ..options() });
    let options = WatchStreamOptions { fragment_bytes: 1500, ..WatchStreamOptions::default() };
    let mut stream = harness.reader().watch().stream_with(options);
    let watch_id = created(&mut stream, pb::WatchCreateRequest { fragment: true, ..create("a", "z") }).await;
    let counts = || {
        let WatchMetrics { reply_s, response_s, response_per_event_s, .. } = &metrics.watch;
        [reply_s, response_s, response_per_event_s].map(prometheus::Histogram::get_sample_count)
    };
    assert_eq!(counts(), [0, 0, 0], "it is not sent yet");
    stream.sent();
    stream.sent();
    assert_eq!(counts(), [1, 0, 0]);
    let value = "x".repeat(500);
    harness.txn(txn(["a", "b", "c", "d", "e"].map(|key| put_op(key, &value)).into())).unwrap();
    while next(&mut stream).await.fragment {
        stream.sent();
        assert_eq!(counts(), [1, 0, 0], "another part follows");
    }
    stream.sent();
    assert_eq!(counts(), [1, 1, 1]);
    let WatchMetrics { response_s, response_per_event_s, .. } = &metrics.watch;
    let [whole, each] = [response_s, response_per_event_s].map(prometheus::Histogram::get_sample_sum);
    assert!((whole / 5.0 - each).abs() < 1e-12 && each > 0.0, "{whole} for five events, {each} for each");
    stream.cancel(watch_id);
    assert!(next(&mut stream).await.canceled);
    stream.sent();
    assert_eq!(counts(), [2, 1, 1]);
}

#[tokio::test]
async fn lease_revocation_shows_as_one_revision_in_key_order() {
    let mut harness = Harness::new();
    harness.grant(5, 60).unwrap();
    for key in ["c", "a", "b"] {
        harness.put_leased(key, 5).unwrap();
    }
    let mut stream = harness.reader().watch().stream();
    created(&mut stream, create("a", "z")).await;
    harness.revoke(5).unwrap();
    assert_eq!(texts(&next(&mut stream).await), "5:-a 5:-b 5:-c");
}

#[tokio::test]
async fn streams_that_are_dropped_leave_nothing_behind() {
    let mut harness = Harness::new();
    for _ in 0..3 {
        let mut stream = harness.reader().watch().stream();
        created(&mut stream, pb::WatchCreateRequest { prev_kv: true, ..create("a", "z") }).await;
        created(&mut stream, create("a", "")).await;
        harness.put("a", "1");
        drop(stream);
        assert!(harness.reader().nobody_watches());
    }
}
