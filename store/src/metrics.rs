//! What a member counts about itself, under etcd's names.
//!
//! Every member owns a registry: several of them in one process do not mix. Counters are plain atomics that were looked
//! up once, when the part that counts was made; what is known anyway (sizes, indexes, leadership) is read when somebody
//! asks ([`crate::edge`] does that for `/metrics`), so that it costs the write path nothing.

mod apply;
mod compaction;
mod peers;
mod process;
mod request;
pub mod rpc;
mod server;
mod snapshot;
mod state;
mod text;
mod wal;
mod watch;

use std::collections::HashMap;
use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

pub use self::apply::ApplyMetrics;
pub use self::compaction::CompactionMetrics;
pub use self::peers::{PeerMetrics, PeerTraffic};
pub use self::process::{ProcessMetrics, ScrapeMetrics};
pub use self::request::{RequestKind, RequestMetrics};
pub use self::rpc::RpcMetrics;
pub use self::server::ServerMetrics;
pub use self::snapshot::SnapshotMetrics;
pub use self::state::{Counts, StateMetrics};
pub use self::wal::WalMetrics;
pub use self::watch::{Carries, WatchMetrics};

/// All metrics of one member.
pub struct Metrics {
    registry: Registry,
    pub server: ServerMetrics,
    pub apply: ApplyMetrics,
    pub state: StateMetrics,
    pub wal: WalMetrics,
    pub snapshots: SnapshotMetrics,
    pub peers: PeerMetrics,
    pub requests: RequestMetrics,
    pub rpc: Arc<RpcMetrics>,
    pub process: ProcessMetrics,
    pub scrapes: ScrapeMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        Self {
            server: ServerMetrics::new(&registry),
            apply: ApplyMetrics::new(&registry),
            state: StateMetrics::new(&registry),
            wal: WalMetrics::new(&registry),
            snapshots: SnapshotMetrics::new(&registry),
            peers: PeerMetrics::new(&registry),
            requests: RequestMetrics::new(&registry),
            rpc: RpcMetrics::new(&registry),
            process: ProcessMetrics::new(&registry),
            scrapes: ScrapeMetrics::new(&registry),
            registry,
        }
    }

    /// Everything, in Prometheus' text form.
    #[must_use]
    pub fn text(&self) -> String {
        text::encode(&self.registry.gather())
    }
}

const WELL_FORMED: &str = "the names of metrics are well-formed and used once";

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect(WELL_FORMED);
    collector
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name, help).expect(WELL_FORMED))
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels).expect(WELL_FORMED))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::new(name, help).expect(WELL_FORMED))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(registry, IntGaugeVec::new(Opts::new(name, help), labels).expect(WELL_FORMED))
}

fn float_gauge(registry: &Registry, name: &str, help: &str) -> Gauge {
    register(registry, Gauge::new(name, help).expect(WELL_FORMED))
}

/// `count` buckets, each twice as wide as the one before.
fn doubling(first: f64, count: usize) -> Vec<f64> {
    prometheus::exponential_buckets(first, 2.0, count).expect(WELL_FORMED)
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
    let options = HistogramOpts::new(name, help).buckets(buckets);
    register(registry, Histogram::with_opts(options).expect(WELL_FORMED))
}

/// One of several histograms of the same name, told apart by fixed labels.
fn labelled(registry: &Registry, name: &str, help: &str, buckets: Vec<f64>, labels: &[(&str, &str)]) -> Histogram {
    let labels: HashMap<String, String> =
        labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let options = HistogramOpts::new(name, help).buckets(buckets).const_labels(labels);
    register(registry, Histogram::with_opts(options).expect(WELL_FORMED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_members_do_not_share_a_counter() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.server.leader_changes.inc();
        assert!(one.text().contains("\netcd_server_leader_changes_seen_total 1\n"));
        assert!(other.text().contains("\netcd_server_leader_changes_seen_total 0\n"));
    }
}
