//! etcd's surface: gRPC services and HTTP endpoints over one [`Member`].
//!
//! The edge only translates: it checks what needs no state, asks the member, fills headers. Order, consistency and watch
//! rules live below. Everything is a tower service, so the same surface is served over TCP ([`crate::io::serve`]) and to
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
mod surface;
#[cfg(test)]
mod tests;
mod version;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::auth_server::AuthServer;
use kontiki_api::etcdserverpb::cluster_server::ClusterServer;
use kontiki_api::etcdserverpb::kv_server::KvServer;
use kontiki_api::etcdserverpb::lease_server::LeaseServer;
use kontiki_api::etcdserverpb::maintenance_server::MaintenanceServer;
use kontiki_api::v3electionpb::election_server::ElectionServer;
use kontiki_api::v3lockpb::lock_server::LockServer;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, HealthService};
use tower::Layer;

use self::access::{Guard, guard};
use self::metrics::layer::Counting;
use self::watch::WatchServer;
use crate::error::StoreError;
use crate::limits;
use crate::member::Member;

pub use self::access::embedded;
pub use self::http::HttpConfig;
pub use self::surface::Surface;
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
    /// RPCs that the JSON gateway has under way at once.
    pub concurrent_streams_max: u32,
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
            concurrent_streams_max: u32::MAX,
            warn_unary: limits::WARN_UNARY,
        }
    }
}

/// What every service shares; cloned with the service for every call.
#[derive(Clone)]
pub struct Edge {
    member: Member,
    config: Arc<EdgeConfig>,
}

/// All gRPC services and HTTP endpoints of a member, for a client port that carries both.
pub fn surface(member: Member, config: EdgeConfig) -> Surface {
    let edge = Edge::new(member, config);
    Surface::new(edge.counting().layer(edge.kv()), edge.router())
}

/// The gRPC services alone, for a client port where HTTP has one of its own.
pub fn grpc_surface(member: Member, config: EdgeConfig) -> Surface {
    let edge = Edge::new(member, config);
    Surface::new(edge.counting().layer(edge.kv()), edge.grpc().into_axum_router())
}

/// The HTTP endpoints alone (`--listen-client-http-urls`); the client port then serves [`grpc_surface`].
pub fn http_router(member: Member, config: EdgeConfig) -> axum::Router {
    let edge = Edge::new(member, config);
    let grpc = edge.grpc().into_axum_router();
    http::client_routes(edge, grpc)
}

/// `/metrics` and the health probes alone (`--listen-metrics-urls`).
pub fn metrics_router(member: Member, config: EdgeConfig) -> axum::Router {
    http::metrics_routes(Edge::new(member, config))
}

/// The gRPC services alone. Whoever calls them is subject to authentication.
pub fn grpc(member: Member, config: EdgeConfig) -> Routes {
    Edge::new(member, config).grpc()
}

/// A gRPC service behind the table of who may call what.
macro_rules! service {
    ($edge:expr, $server:ident) => {
        guard(
            $edge,
            $server::new($edge.clone())
                .max_decoding_message_size($edge.config.max_request_bytes + limits::REQUEST_OVERHEAD_BYTES)
                .accept_compressed(CompressionEncoding::Gzip),
        )
    };
}

impl Edge {
    fn new(member: Member, config: EdgeConfig) -> Self {
        Self { member, config: Arc::new(config) }
    }

    fn kv(&self) -> Guard<KvServer<Self>> {
        service!(self, KvServer)
    }

    /// Everything, to be called in this process.
    fn router(&self) -> axum::Router {
        // The paths of gRPC first, so that nothing of HTTP's stands before them.
        let grpc = self.grpc().into_axum_router();
        grpc.clone().fallback_service(http::client_routes(self.clone(), grpc))
    }

    fn grpc(&self) -> Routes {
        let routes = Routes::new(self.kv())
            .add_service(guard(self, WatchServer::new(self.clone())))
            .add_service(service!(self, LeaseServer))
            .add_service(service!(self, ClusterServer))
            .add_service(service!(self, MaintenanceServer))
            .add_service(service!(self, AuthServer))
            .add_service(service!(self, LockServer))
            .add_service(service!(self, ElectionServer))
            .add_service(guard(self, health_service()));
        Routes::from(routes.into_axum_router().layer(self.counting()))
    }

    fn counting(&self) -> Counting {
        Counting {
            metrics: self.member.metrics().rpc.clone(),
            extensive: self.config.http.extensive_metrics,
            warn_unary: self.config.warn_unary,
        }
    }
}

/// `grpc.health.v1`: a member that answers is serving; what it can do is told by `/readyz`.
fn health_service() -> HealthServer<impl Health> {
    let reporter = HealthReporter::new();
    HealthServer::new(HealthService::from_health_reporter(reporter))
}

impl Edge {
    /// The header of an answer at `revision`.
    fn header(&self, revision: i64) -> pb::ResponseHeader {
        let (cluster, member, term) = self.member.place();
        pb::ResponseHeader { cluster_id: cluster.0, member_id: member.0, revision, raft_term: term.0 }
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

    /// Whoever has no whole service to offer: a learner, and a member in quarantine.
    fn refuse_limited(&self) -> Result<(), StoreError> {
        self.refuse_learner()?;
        self.refuse_quarantined()
    }

    /// What differs from the other members' contents is shown to nobody.
    fn refuse_quarantined(&self) -> Result<(), StoreError> {
        match self.member.is_quarantined() {
            true => Err(StoreError::Corrupt),
            false => Ok(()),
        }
    }

    /// Clients that ask for a leader are refused at once where none is known; a learner has its own refusal.
    fn lacks_leader(&self, headers: &HeaderMap) -> bool {
        wants_leader(headers) && self.member.leadership().borrow().leader.is_none() && !self.member.is_learner()
    }
}

fn wants_leader(headers: &HeaderMap) -> bool {
    headers.get("hasleader").is_some_and(|value| value == "true")
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
