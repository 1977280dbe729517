//! etcd's surface: gRPC services and HTTP endpoints over one [`Member`].
//!
//! The edge only translates: it checks what needs no state, asks the member, fills headers. Order, consistency and watch
//! rules live below. [`router`] is a tower service, so the same surface is served over TCP ([`crate::io::serve`]) and to
//! the control plane in the same process.

pub mod access;
mod auth;
mod cluster;
mod concurrency;
mod election;
mod gateway;
mod health;
mod http;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod metrics;
mod range_stream;
mod snapshot;
#[cfg(test)]
mod tests;
mod version;
mod watch;

use std::time::Duration;

use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::auth_server::AuthServer;
use kontiki_api::etcdserverpb::cluster_server::ClusterServer;
use kontiki_api::etcdserverpb::kv_server::KvServer;
use kontiki_api::etcdserverpb::lease_server::LeaseServer;
use kontiki_api::etcdserverpb::maintenance_server::MaintenanceServer;
use kontiki_api::etcdserverpb::watch_server::WatchServer;
use kontiki_api::v3electionpb::election_server::ElectionServer;
use kontiki_api::v3lockpb::lock_server::LockServer;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, HealthService};

use self::access::guard;
use self::metrics::layer::Counting;
use crate::error::StoreError;
use crate::limits;
use crate::member::Member;

pub use self::access::embedded;
pub use self::http::HttpConfig;
pub use version::{ETCD_VERSION, STORAGE_VERSION, version_json};

/// What an operator may set about the edge.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// A larger command is refused: `etcdserver: request is too large`.
    pub max_request_bytes: usize,
    pub max_txn_ops: usize,
    pub progress_interval: Duration,
    /// A shorter lease lasts this long.
    pub lease_ttl_min_s: i64,
    pub http: HttpConfig,
    /// A unary request that takes longer is logged.
    pub warn_unary: Duration,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            max_request_bytes: limits::MAX_REQUEST_BYTES,
            max_txn_ops: limits::MAX_TXN_OPS,
            progress_interval: limits::WATCH_PROGRESS_INTERVAL,
            lease_ttl_min_s: limits::LEASE_TTL_MIN_S,
            http: HttpConfig::default(),
            warn_unary: limits::WARN_UNARY,
        }
    }
}

/// What every service shares.
#[derive(Clone)]
pub(crate) struct Edge {
    member: Member,
    config: EdgeConfig,
}

/// All gRPC services and HTTP endpoints of a member, for a client port that carries both.
pub fn router(member: Member, config: EdgeConfig) -> axum::Router {
    // The paths of gRPC first, so that nothing of HTTP's stands before them.
    let grpc = grpc(member.clone(), config.clone()).into_axum_router();
    grpc.clone().fallback_service(http::client_routes(Edge { member, config }, grpc))
}

/// The HTTP endpoints alone (`--listen-client-http-urls`); the client port then serves [`grpc`] alone.
pub fn http_router(member: Member, config: EdgeConfig) -> axum::Router {
    let grpc = grpc(member.clone(), config.clone()).into_axum_router();
    http::client_routes(Edge { member, config }, grpc)
}

/// `/metrics` and the health probes alone (`--listen-metrics-urls`).
pub fn metrics_router(member: Member, config: EdgeConfig) -> axum::Router {
    http::metrics_routes(Edge { member, config })
}

/// The gRPC services alone. Whoever calls them is subject to authentication.
pub fn grpc(member: Member, config: EdgeConfig) -> Routes {
    let receive = config.max_request_bytes + limits::REQUEST_OVERHEAD_BYTES;
    let counting = Counting {
        metrics: member.metrics().rpc.clone(),
        extensive: config.http.extensive_metrics,
        warn_unary: config.warn_unary,
    };
    let edge = Edge { member, config };
    let routes = Routes::new(guard(&edge, KvServer::new(edge.clone()).max_decoding_message_size(receive)))
        .add_service(guard(&edge, WatchServer::new(edge.clone()).max_decoding_message_size(receive)))
        .add_service(guard(&edge, LeaseServer::new(edge.clone())))
        .add_service(guard(&edge, ClusterServer::new(edge.clone())))
        .add_service(guard(&edge, MaintenanceServer::new(edge.clone())))
        .add_service(guard(&edge, AuthServer::new(edge.clone())))
        .add_service(guard(&edge, LockServer::new(edge.clone())))
        .add_service(guard(&edge, ElectionServer::new(edge.clone())))
        .add_service(guard(&edge, health_service()));
    Routes::from(routes.into_axum_router().layer(counting))
}

/// `grpc.health.v1`: a member that answers is serving; what it can do is told by `/readyz`.
fn health_service() -> HealthServer<impl Health> {
    let reporter = HealthReporter::new();
    HealthServer::new(HealthService::from_health_reporter(reporter))
}

impl Edge {
    /// The header of an answer at `revision`.
    fn header(&self, revision: i64) -> pb::ResponseHeader {
        let status = self.member.status();
        pb::ResponseHeader {
            cluster_id: status.cluster_id.0,
            member_id: status.id.0,
            revision,
            raft_term: status.term.0,
        }
    }

    /// The header of an answer that is not about the key space.
    fn header_now(&self) -> pb::ResponseHeader {
        self.header(self.member.reader().revision().0)
    }

    /// Completes a header in which only the revision is set.
    fn complete(&self, header: Option<pb::ResponseHeader>) -> Option<pb::ResponseHeader> {
        let revision = header.map_or_else(|| self.member.reader().revision().0, |header| header.revision);
        Some(self.header(revision))
    }

    /// A learner serves no more than its status, a snapshot and serializable ranges.
    fn refuse_learner(&self) -> Result<(), StoreError> {
        match self.member.is_learner() {
            true => Err(StoreError::NotSupportedForLearner),
            false => Ok(()),
        }
    }

    /// Learners refuse; clients that ask for it are refused at once where no leader is known.
    fn require_leader(&self, metadata: &MetadataMap) -> Result<(), StoreError> {
        self.refuse_learner()?;
        self.require_known_leader(metadata)
    }

    fn require_known_leader(&self, metadata: &MetadataMap) -> Result<(), StoreError> {
        // What differs from the other members' contents is shown to nobody.
        if self.member.is_quarantined() {
            return Err(StoreError::Corrupt);
        }
        if wants_leader(metadata) && self.member.status().leader.is_none() {
            return Err(StoreError::NoLeader);
        }
        Ok(())
    }
}

fn wants_leader(metadata: &MetadataMap) -> bool {
    metadata.get("hasleader").is_some_and(|value| value == "true")
}

/// The body of an applied command's answer; any other kind of answer is a bug of the state machine.
macro_rules! response {
    ($reply:expr, $kind:ident) => {
        match $reply {
            Ok(crate::command::Response::$kind(response)) => response,
            Ok(other) => unreachable!("the state machine answered another kind of command: {other:?}"),
            Err(error) => return Err(error.into()),
        }
    };
}
pub(crate) use response;
