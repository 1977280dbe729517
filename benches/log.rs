//! What an append to the log costs until it is durable: alone, and when many wait for the same sync.
//!
//! Real files, real fsync, in the temporary directory: on a RAM disk the figures mean nothing.

#![allow(clippy::disallowed_methods, reason = "benchmarks make the world they need")]

use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kontiki_store::io::disk::LocalDisk;
use kontiki_store::io::random::SystemRandom;
use kontiki_store::io::wal::{Wal, WalOptions};
use kontiki_store::limits::LOG_SEGMENT_BYTES;
use kontiki_store::wal::segment::Owner;
use kontiki_store::wal::{Entry, EntryId};
use tempfile::TempDir;

struct Log {
    wal: Wal,
    next: u64,
    _dir: TempDir,
}

impl Log {
    fn new(fsync: bool) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let options = WalOptions {
            dir: dir.path().join("log"),
            owner: Owner { cluster: 1, member: 1 },
            segment_bytes: LOG_SEGMENT_BYTES,
            cache_bytes: 1 << 20,
            fsync,
        };
        let wal = Wal::open(Arc::new(LocalDisk), &SystemRandom, options).expect("a fresh log opens");
        Self { wal, next: 0, _dir: dir }
    }

    /// Appends `count` entries, each by itself, and waits until all are durable.
    fn append(&mut self, count: u64) {
        let (done, wait) = mpsc::channel();
        for _ in 0..count {
            let id = EntryId { term: 1, node: 1, index: self.next };
            self.next += 1;
            let entry = Entry { id, kind: 1, payload: Bytes::from_static(&[b'v'; 256]) };
            let done = done.clone();
            self.wal.append(vec![entry], Box::new(move || done.send(()).expect("the benchmark waits")));
        }
        for _ in 0..count {
            wait.recv().expect("every append is reported");
        }
        // Purged behind, so that a long run reuses its files as a member does.
        if self.next.is_multiple_of(1 << 14) {
            self.wal.purge(EntryId { term: 1, node: 1, index: self.next - 1 });
        }
    }
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log_append");
    for (name, fsync) in [("fsync", true), ("no_fsync", false)] {
        for waiting in [1_u64, 64] {
            let mut log = Log::new(fsync);
            group.throughput(Throughput::Elements(waiting));
            group.bench_function(format!("256_bytes/{name}/{waiting}_waiting"), |bencher| {
                bencher.iter(|| log.append(waiting));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, append);
criterion_main!(benches);
