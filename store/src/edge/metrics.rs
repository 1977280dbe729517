//! `/metrics`, and the counting of RPCs.
//!
//! Whatever a member knows anyway is looked up here, when somebody asks; see [`crate::metrics`] for what is counted as it
//! happens.

pub(super) mod body;
pub(super) mod layer;
#[cfg(test)]
mod tests;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use tonic::Code;

use super::{ETCD_VERSION, Edge};
use crate::io::process::Usage;
use crate::metrics::Metrics;

pub(super) async fn text(State(edge): State<Edge>) -> Response {
    let metrics = edge.member.metrics();
    let text = metrics.scrapes.count(|| {
        edge.look(metrics);
        metrics.text()
    });
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

impl Edge {
    /// Sets the gauges.
    fn look(&self, metrics: &Metrics) {
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let (status, reader) = (self.member.status(), self.member.reader());
        let server = &metrics.server;
        server.has_leader.set(status.leader.is_some().into());
        server.is_leader.set((status.leader == Some(status.id)).into());
        server.is_learner.set(status.is_learner.into());
        server.committed.set(whole(status.committed.0));
        server.applied.set(whole(status.applied.0));
        server.quota_bytes.set(self.member.quota_bytes());
        server.pending.set(whole(self.member.proposals_pending() as u64));
        server.id.with_label_values(&[&status.id.to_string()]).set(1);
        server.version.with_label_values(&[ETCD_VERSION]).set(1);
        server.cluster_version.reset();
        if let Some(cluster) = self.member.cluster_version() {
            let minor = cluster.rsplit_once('.').map_or(cluster.as_str(), |(minor, _)| minor);
            server.cluster_version.with_label_values(&[minor]).set(1);
        }
        let promoted = metrics.rpc.handled("/etcdserverpb.Cluster/MemberPromote", Code::Ok);
        server.learners_promoted.inc_by(promoted.saturating_sub(server.learners_promoted.get()));

        let (state, size) = (&metrics.state, reader.size());
        state.size.set(whole(size.total));
        state.size_in_use.set(whole(size.in_use));
        state.keys.set(whole(reader.keys() as u64));
        state.revision.set(reader.revision().0);
        state.compact_revision.set(reader.compact_revision().0);
        state.auth_revision.set(whole(reader.auth().revision()));
        self.member.look_at_peers();
        look_at_process(metrics);
    }
}

fn look_at_process(metrics: &Metrics) {
    let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let (process, usage) = (&metrics.process, Usage::now());
    process.cpu_seconds.inc_by((usage.cpu_seconds - process.cpu_seconds.get()).max(0.0));
    process.resident_bytes.set(whole(usage.resident_bytes));
    process.virtual_bytes.set(whole(usage.virtual_bytes));
    process.virtual_max_bytes.set(usage.virtual_max_bytes as f64);
    process.start_time_s.set(usage.start_time_s);
    process.received_bytes.inc_by(usage.received_bytes.saturating_sub(process.received_bytes.get()));
    process.sent_bytes.inc_by(usage.sent_bytes.saturating_sub(process.sent_bytes.get()));
    for used in [&process.open_fds, &process.fds_used] {
        used.set(whole(usage.open_fds));
    }
    for limit in [&process.max_fds, &process.fds_limit] {
        limit.set(whole(usage.max_fds));
    }
}
