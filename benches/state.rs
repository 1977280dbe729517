//! What the store's state machine costs by itself: applying puts, reading them, and delivering them to watchers.
//!
//! No log, no network, no fsync: the figures are the floor under every write and watch.

#![allow(clippy::disallowed_methods, reason = "benchmarks make the world they need")]

use std::cell::LazyCell;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kontiki_api::etcdserverpb as pb;
use kontiki_store::command::Command;
use kontiki_store::ids::LogIndex;
use kontiki_store::state::{Applied, State, StateOptions};
use kontiki_store::watch::{Head, WatchStream};
use tempfile::TempDir;

const KEYS: u64 = 10_000;
/// As many as a large cluster has; what walks over all of them shows.
const MANY_KEYS: u64 = 1_000_000;

/// A state whose commands arrive in batches of one size.
struct Applier {
    state: State,
    index: u64,
    _dir: TempDir,
}

impl Applier {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let state = State::open(dir.path(), StateOptions::default()).expect("a fresh state opens");
        Self { state, index: 0, _dir: dir }
    }

    fn apply(&mut self, batch: &[Command]) {
        for command in batch {
            self.state.apply(command).expect("a put succeeds");
        }
        self.index += 1;
        self.state.commit(Applied { index: LogIndex(self.index), consensus: Bytes::new() });
    }
}

fn put(n: u64) -> Command {
    let key = format!("/registry/pods/default/{:06}", n.wrapping_mul(7919) % KEYS).into();
    Command::Put(pb::PutRequest { key, value: Bytes::from_static(&[b'v'; 256]), ..pb::PutRequest::default() })
}

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    for size in [1_u64, 64] {
        let mut applier = Applier::new();
        let mut next = 0;
        group.throughput(Throughput::Elements(size));
        group.bench_function(format!("put_256_bytes/batch_{size}"), |bencher| {
            bencher.iter_batched(
                || {
                    next += size;
                    (next..next + size).map(put).collect::<Vec<_>>()
                },
                |batch| applier.apply(&batch),
                BatchSize::SmallInput,
            );
        });
    }
}

fn range(criterion: &mut Criterion) {
    let mut applier = Applier::new();
    applier.apply(&(0..KEYS).map(put).collect::<Vec<_>>());
    let reader = applier.state.reader();
    let one = pb::RangeRequest { key: "/registry/pods/default/000042".into(), ..pb::RangeRequest::default() };
    let page = pb::RangeRequest { key: "/".into(), range_end: "0".into(), limit: 500, ..pb::RangeRequest::default() };
    let count = pb::RangeRequest { count_only: true, ..page.clone() };
    for (name, request) in [("one", one), ("page_of_500", page), ("count", count)] {
        criterion.bench_function(&format!("range/{name}"), |bencher| bencher.iter(|| reader.range(&request)));
    }
}

fn count(criterion: &mut Criterion) {
    let all =
        pb::RangeRequest { key: "/".into(), range_end: "0".into(), count_only: true, ..pb::RangeRequest::default() };
    // Not filled for nothing where another benchmark was asked for.
    let filled = LazyCell::new(|| {
        let mut applier = Applier::new();
        for batch in 0..MANY_KEYS / 1000 {
            applier.apply(&(batch * 1000..(batch + 1) * 1000).map(new_key).collect::<Vec<_>>());
        }
        applier
    });
    criterion.bench_function(&format!("count/of_{MANY_KEYS}"), |bencher| {
        let reader = filled.state.reader();
        let counted = reader.range(&all).expect("a range").count;
        assert_eq!(counted, MANY_KEYS as i64, "what is measured");
        bencher.iter(|| reader.range(&all));
    });
}

fn new_key(n: u64) -> Command {
    let key = format!("/registry/pods/default/{n:08}").into();
    Command::Put(pb::PutRequest { key, value: Bytes::from_static(b"v"), ..pb::PutRequest::default() })
}

fn watch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("watch");
    for watchers in [1_u64, 1000] {
        let mut applier = Applier::new();
        let mut streams: Vec<WatchStream> = (0..watchers).map(|_| watching(&applier)).collect();
        let mut next = 0;
        group.throughput(Throughput::Elements(watchers));
        group.bench_function(format!("put_to_event/watchers_{watchers}"), |bencher| {
            bencher.iter(|| {
                next += 1;
                applier.apply(&[put(next)]);
                for stream in &mut streams {
                    stream.ready().expect("every watcher has an event");
                    stream.sent();
                }
            });
        });
        let mut wire = BytesMut::new();
        group.bench_function(format!("put_to_wire/watchers_{watchers}"), |bencher| {
            bencher.iter(|| {
                next += 1;
                applier.apply(&[put(next)]);
                for stream in &mut streams {
                    wire.clear();
                    let answer = stream.ready().expect("every watcher has an event");
                    answer.put_frame(&mut Head::new(pb::ResponseHeader::default()), &mut wire);
                    stream.sent();
                }
            });
        });
    }
}

fn watching(applier: &Applier) -> WatchStream {
    let mut stream = applier.state.reader().watch().stream();
    let (key, range_end) = ("/registry/pods/".into(), "/registry/pods0".into());
    stream.create(pb::WatchCreateRequest { key, range_end, ..pb::WatchCreateRequest::default() });
    stream.ready().expect("the created response");
    stream
}

criterion_group!(benches, apply, range, count, watch);
criterion_main!(benches);
