//! Traffic between members.

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Registry};

use super::{WELL_FORMED, counter, counters, doubling, gauges, register};
use crate::ids::MemberId;

#[derive(Clone)]
pub struct PeerMetrics {
    sent_bytes: IntCounterVec,
    received_bytes: IntCounterVec,
    sent_failures: IntCounterVec,
    received_failures: IntCounterVec,
    round_trip: HistogramVec,
    /// Set when somebody looks.
    pub active: IntGaugeVec,
    pub known: IntGaugeVec,
    pub heartbeat_failures: IntCounter,
}

/// The counters of one peer, looked up when its connection is made.
#[derive(Clone)]
pub struct PeerTraffic {
    pub sent_bytes: IntCounter,
    pub received_bytes: IntCounter,
    pub sent_failures: IntCounter,
    pub received_failures: IntCounter,
    /// From a heartbeat to its answer.
    pub round_trip: Histogram,
    pub heartbeat_failures: IntCounter,
}

impl Default for PeerMetrics {
    /// Counts for nobody.
    fn default() -> Self {
        Self::new(&Registry::new())
    }
}

impl Default for PeerTraffic {
    /// Counts for nobody.
    fn default() -> Self {
        PeerMetrics::default().peer(MemberId(0))
    }
}

impl PeerMetrics {
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let r = registry;
        let round_trip =
            HistogramOpts::new("etcd_network_peer_round_trip_time_seconds", "Round-Trip-Time histogram between peers.");
        Self {
            sent_bytes: counters(
                r,
                "etcd_network_peer_sent_bytes_total",
                "The total number of bytes sent to peers.",
                &["To"],
            ),
            received_bytes: counters(
                r,
                "etcd_network_peer_received_bytes_total",
                "The total number of bytes received from peers.",
                &["From"],
            ),
            sent_failures: counters(
                r,
                "etcd_network_peer_sent_failures_total",
                "The total number of send failures from peers.",
                &["To"],
            ),
            received_failures: counters(
                r,
                "etcd_network_peer_received_failures_total",
                "The total number of receive failures from peers.",
                &["From"],
            ),
            round_trip: register(
                r,
                HistogramVec::new(round_trip.buckets(doubling(0.0001, 16)), &["To"]).expect(WELL_FORMED),
            ),
            active: gauges(
                r,
                "etcd_network_active_peers",
                "The current number of active peer connections.",
                &["Local", "Remote"],
            ),
            known: gauges(r, "etcd_network_known_peers", "The current number of known peers.", &["Local"]),
            heartbeat_failures: counter(
                r,
                "etcd_server_heartbeat_send_failures_total",
                "The total number of leader heartbeat send failures (likely overloaded from slow disk).",
            ),
        }
    }

    #[must_use]
    pub fn peer(&self, member: MemberId) -> PeerTraffic {
        let label: &[&str] = &[&member.to_string()];
        PeerTraffic {
            sent_bytes: self.sent_bytes.with_label_values(label),
            received_bytes: self.received_bytes.with_label_values(label),
            sent_failures: self.sent_failures.with_label_values(label),
            received_failures: self.received_failures.with_label_values(label),
            round_trip: self.round_trip.with_label_values(label),
            heartbeat_failures: self.heartbeat_failures.clone(),
        }
    }
}
