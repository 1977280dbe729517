//! Physical compaction: removing the records that the logical floor has put out of sight.
//!
//! It runs beside everything else, in slices that hold the index for a few leaves at a time, and may be interrupted at
//! any point: what is already gone is not missed, and a crash only means that the walk starts again. Deleting is not part
//! of apply, but no record is deleted before the floor that allows it is committed, and memtables are flushed in order.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rocksdb::WriteBatch;

use super::CompactionPace;
use super::core::{self, Core};
use crate::io::clock::{Clock, Stopwatch, SystemClock, unix_seconds};
use crate::io::engine::Family;
use crate::limits;

pub(crate) struct Compactor {
    core: Arc<Core>,
    /// Held during a step, and while the contents are replaced under it.
    pass: Mutex<Pass>,
    /// The floor down to which everything is gone.
    compacted: tokio::sync::watch::Sender<i64>,
    signal: Mutex<Signal>,
    signalled: Condvar,
}

/// A walk over the index at one floor.
struct Pass {
    floor: i64,
    /// Where it goes on; nothing between passes.
    next: Option<Box<[u8]>>,
    removed: usize,
    /// How many were removed at the last pause.
    rested_at: usize,
    /// Started with the pass.
    clock: SystemClock,
}

impl Pass {
    fn at(floor: i64, next: Option<Box<[u8]>>) -> Self {
        Self { floor, next, removed: 0, rested_at: 0, clock: SystemClock::default() }
    }
}

#[derive(Default)]
struct Signal {
    work: bool,
    stop: bool,
}

impl Compactor {
    pub(crate) fn new(core: Arc<Core>, compacted: i64) -> Self {
        Self {
            core,
            pass: Mutex::new(Pass::at(compacted, None)),
            compacted: tokio::sync::watch::Sender::new(compacted),
            signal: Mutex::default(),
            signalled: Condvar::new(),
        }
    }

    /// Follows the floor down to which everything is gone.
    pub(crate) fn compacted(&self) -> tokio::sync::watch::Receiver<i64> {
        self.compacted.subscribe()
    }

    pub(crate) fn wake(&self) {
        self.signal.lock().work = true;
        self.signalled.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.signal.lock().stop = true;
        self.signalled.notify_one();
    }

    pub(crate) fn spawn(self: Arc<Self>, pace: CompactionPace) -> thread::JoinHandle<()> {
        let run = move || {
            while self.await_work() {
                while !self.signal.lock().stop && self.step() {
                    self.rest(pace);
                }
            }
        };
        thread::Builder::new().name("compactor".to_owned()).spawn(run).expect("a thread can be started")
    }

    /// False when it is time to stop.
    fn await_work(&self) -> bool {
        let mut signal = self.signal.lock();
        while !signal.work && !signal.stop {
            self.signalled.wait(&mut signal);
        }
        signal.work = false;
        !signal.stop
    }

    /// A pause after a batch, unless it is time to stop.
    fn rest(&self, pace: CompactionPace) {
        {
            let mut pass = self.pass.lock();
            if pass.next.is_none() || pass.removed - pass.rested_at < pace.batch.max(1) {
                return;
            }
            pass.rested_at = pass.removed;
        }
        let mut signal = self.signal.lock();
        self.signalled.wait_while_for(&mut signal, |signal| !signal.stop, pace.pause);
    }

    /// Prunes one slice; false when nothing is left to do.
    pub(crate) fn step(&self) -> bool {
        let mut pass = self.pass.lock();
        if pass.next.is_none() {
            let floor = self.core.index.read().floor();
            if floor <= pass.floor {
                return false;
            }
            *pass = Pass::at(floor, Some(Box::default()));
        }
        let metrics = &self.core.metrics.compaction;
        let mut removed = Vec::new();
        let mut watch;
        {
            let mut index = self.core.index.write();
            watch = Stopwatch::start();
            for _ in 0..limits::PRUNE_SLICE_LEAVES {
                let Some(from) = pass.next.take() else { break };
                pass.next = index.prune_slice(&from, pass.floor, &mut removed);
            }
        }
        metrics.index_pause_ms.observe(milliseconds(watch.lap()));
        let engine = self.core.engine();
        let mut batch = WriteBatch::default();
        for past in &removed {
            engine.delete(&mut batch, Family::Records, &past.stamp.to_bytes());
        }
        pass.removed += removed.len();
        let done = pass.next.is_none();
        if done {
            core::put_compacted(&engine, &mut batch, pass.floor);
        }
        engine.write(batch).expect("the state database accepts writes");
        metrics.pause_ms.observe(milliseconds(watch.lap()));
        metrics.records.inc_by(removed.len() as u64);
        if done {
            self.finish(&pass);
        }
        true
    }

    fn finish(&self, pass: &Pass) {
        let took = pass.clock.now();
        let metrics = &self.core.metrics.compaction;
        metrics.total_ms.observe(milliseconds(took));
        metrics.last_unix_s.set(i64::try_from(unix_seconds()).unwrap_or(i64::MAX));
        self.compacted.send_replace(pass.floor);
        let (compact_revision, removed, took_ms) = (pass.floor, pass.removed, took.as_millis());
        tracing::info!(compact_revision, removed, took_ms, "finished scheduled compaction");
    }

    /// Runs `replace`, which changes the contents, while no slice is under way, and starts over with the new ones.
    pub(crate) fn replace(&self, compacted: i64, replace: impl FnOnce()) {
        let mut pass = self.pass.lock();
        replace();
        *pass = Pass::at(compacted, None);
        self.compacted.send_replace(compacted);
        drop(pass);
        self.wake();
    }
}

fn milliseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}
