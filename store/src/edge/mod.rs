//! etcd's surface: gRPC services and HTTP endpoints over one [`Member`].
//!
//! The edge only translates: it checks what needs no state, asks the member, fills headers. Order, consistency and watch
//! rules live below. [`router`] is a tower service, so the same surface is served over TCP ([`crate::io::serve`]) and to
//! the control plane in the same process.

mod cluster;
mod http;
mod kv;
mod lease;
mod maintenance;
mod watch;

use std::time::Duration;

use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::cluster_server::ClusterServer;
use kontiki_api::etcdserverpb::kv_server::KvServer;
use kontiki_api::etcdserverpb::lease_server::LeaseServer;
use kontiki_api::etcdserverpb::maintenance_server::MaintenanceServer;
use kontiki_api::etcdserverpb::watch_server::WatchServer;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;

use crate::error::StoreError;
use crate::limits;
use crate::member::Member;

/// The etcd release whose behaviour is served; clients choose features by it (`Status.version`, `/version`).
pub const ETCD_VERSION: &str = "3.6.14";
/// The version of the stored data that goes with [`ETCD_VERSION`].
pub const STORAGE_VERSION: &str = "3.6.0";

/// What an operator may set about the edge.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// A larger command is refused: `etcdserver: request is too large`.
    pub max_request_bytes: usize,
    pub max_txn_ops: usize,
    pub progress_interval: Duration,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            max_request_bytes: limits::MAX_REQUEST_BYTES,
            max_txn_ops: limits::MAX_TXN_OPS,
            progress_interval: limits::WATCH_PROGRESS_INTERVAL,
        }
    }
}

/// What every service shares.
#[derive(Clone)]
pub(crate) struct Edge {
    member: Member,
    config: EdgeConfig,
}

/// All gRPC services and HTTP endpoints of a member.
pub fn router(member: Member, config: EdgeConfig) -> axum::Router {
    let edge = Edge { member: member.clone(), config: config.clone() };
    http::routes(edge).merge(grpc(member, config).into_axum_router())
}

/// The gRPC services alone: what a client in the same process talks to.
pub fn grpc(member: Member, config: EdgeConfig) -> Routes {
    let receive = config.max_request_bytes + limits::REQUEST_OVERHEAD_BYTES;
    let edge = Edge { member, config };
    Routes::new(KvServer::new(edge.clone()).max_decoding_message_size(receive))
        .add_service(WatchServer::new(edge.clone()).max_decoding_message_size(receive))
        .add_service(LeaseServer::new(edge.clone()))
        .add_service(ClusterServer::new(edge.clone()))
        .add_service(MaintenanceServer::new(edge))
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

    /// Clients that ask for it are refused at once where no leader is known, and everybody where this member's contents
    /// differ from the others'.
    fn require_leader(&self, metadata: &MetadataMap) -> Result<(), StoreError> {
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
