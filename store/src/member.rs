//! The running member: everything that a client's request needs, behind one cheap handle.
//!
//! A [`Member`] joins the Raft core, the log, the state machine and the peer transport. Its callers are the edges (gRPC,
//! JSON) and the program; neither knows whether this member leads: a proposal, a linearizable read or a keep-alive goes
//! to the leader from here, and what is safe to repeat is repeated until the request's deadline.

#![allow(clippy::disallowed_methods, reason = "the driver: feeds time to the rest")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kontiki_api::etcdserverpb as pb;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;

use crate::command::{Command, Reply};
use crate::error::StoreError;
use crate::ids::{ClusterId, LeaseId, LogIndex, MemberId, Term};
use crate::state::Reader;

mod barrier;
#[cfg(test)]
mod crash_tests;
mod failover;
mod inner;
mod leases;
mod propose;
mod service;
mod start;
mod stop;
#[cfg(test)]
mod tests;
mod upkeep;

use inner::Inner;

/// How a member of the cluster is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub name: String,
    /// `http://host:port`, as given in the initial cluster.
    pub peer_urls: Vec<String>,
}

/// Raft's clocks. The defaults detect a dead leader within 0.4 s on one small machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat: Duration,
    pub election_min: Duration,
    /// Also the leader lease: a leader that heard no quorum for this long takes no writes.
    pub election_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(40),
            election_min: Duration::from_millis(120),
            election_max: Duration::from_millis(200),
        }
    }
}

/// Everything a member must know to start.
#[derive(Clone, Debug)]
pub struct MemberConfig {
    pub id: MemberId,
    pub cluster_id: ClusterId,
    pub name: String,
    pub data_dir: PathBuf,
    /// All members of the initial cluster, this one included.
    pub peers: BTreeMap<MemberId, Peer>,
    pub peer_listen: Vec<SocketAddr>,
    /// Announced to the cluster for MemberList.
    pub client_urls: Vec<String>,
    pub timing: Timing,
    /// `false` trades durability for speed: only for tests and benchmarks.
    pub fsync: bool,
}

/// Why a member did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the peer address {address} cannot be listened on: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("{0}")]
    Config(String),
    #[error("the data directory {dir}: {reason}", dir = .dir.display())]
    Data { dir: PathBuf, reason: String },
    #[error("raft: {0}")]
    Raft(String),
}

/// Who leads, as this member knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    pub leader: Option<MemberId>,
    pub term: Term,
    pub is_self: bool,
}

/// What `Maintenance.Status` and the headers of every answer need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    pub id: MemberId,
    pub cluster_id: ClusterId,
    pub leader: Option<MemberId>,
    pub term: Term,
    pub committed: LogIndex,
    pub applied: LogIndex,
    pub is_learner: bool,
}

/// The remaining and the granted time to live of a lease, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeToLive {
    pub remaining_s: i64,
    pub granted_s: i64,
}

/// A handle to the running member; clones are cheap.
#[derive(Clone)]
pub struct Member {
    inner: Arc<Inner>,
}

impl Member {
    /// Returns when the log is recovered and the peer port listens; there may be no leader yet.
    ///
    /// # Errors
    /// When the data directory belongs to another member, is damaged, or an address cannot be listened on.
    pub async fn start(config: MemberConfig) -> Result<Self, StartError> {
        Ok(Self { inner: start::start(config).await? })
    }

    /// Replicates `command` and answers what applying it answered. Any member takes it.
    ///
    /// # Errors
    /// The command's own error, or `Timeout` when its outcome is unknown after about seven seconds.
    pub async fn propose(&self, command: Command) -> Reply {
        self.inner.propose(&command).await
    }

    /// Returns once everything that was committed when it was called is readable here (ReadIndex).
    ///
    /// # Errors
    /// `Timeout` when no leader confirmed it in time.
    pub async fn read_barrier(&self) -> Result<(), StoreError> {
        self.inner.read_barrier().await
    }

    /// Renews a lease; `Ok(0)` when it does not exist.
    ///
    /// # Errors
    /// When no leader answered in time.
    pub async fn keep_alive(&self, lease: LeaseId) -> Result<i64, StoreError> {
        self.inner.keep_alive(lease).await
    }

    /// A lease's times; `None` when it does not exist.
    ///
    /// # Errors
    /// When no leader answered in time.
    pub async fn time_to_live(&self, lease: LeaseId) -> Result<Option<TimeToLive>, StoreError> {
        self.inner.time_to_live(lease).await
    }

    /// Reads of what this member has applied.
    #[must_use]
    pub fn reader(&self) -> &Arc<Reader> {
        &self.inner.reader
    }

    #[must_use]
    pub fn status(&self) -> MemberStatus {
        let inner = &self.inner;
        let metrics = inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let index = |id: Option<u64>| LogIndex(id.unwrap_or(0));
        let membership = metrics.membership_config.membership();
        let is_learner = membership.learner_ids().any(|id| id == inner.config.id);
        MemberStatus {
            id: inner.config.id,
            cluster_id: inner.config.cluster_id,
            leader: metrics.current_leader,
            term: Term(metrics.current_term),
            committed: index(metrics.local_committed.map(|id| id.index)),
            applied: index(inner.progress.borrow().next.checked_sub(1)),
            is_learner,
        }
    }

    /// The cluster's members with what they published, in the order of their ids.
    #[must_use]
    pub fn members(&self) -> Vec<pb::Member> {
        let metrics = self.inner.raft.server_metrics();
        let membership = metrics.borrow_watched().membership_config.clone();
        let membership = membership.membership();
        let learners: Vec<MemberId> = membership.learner_ids().collect();
        let member = |(id, address): (&MemberId, &crate::consensus::types::Address)| {
            let (name, client_urls) = self.inner.reader.member_attributes(*id).unwrap_or_default();
            pb::Member {
                id: id.0,
                name,
                peer_ur_ls: address.peer_urls.clone(),
                client_ur_ls: client_urls,
                is_learner: learners.contains(id),
            }
        };
        membership.nodes().map(member).collect()
    }

    /// Changes whenever this member learns of another leader or term.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// Moves leadership to `to`, or to the most up-to-date member.
    ///
    /// # Errors
    /// `NotLeader` on a follower, `BadLeaderTransferee` for an unknown member, `Timeout` when it did not happen.
    pub async fn transfer_leadership(&self, to: Option<MemberId>) -> Result<(), StoreError> {
        self.inner.transfer_leadership(to).await
    }

    /// Hands leadership over, flushes and stops.
    pub async fn shutdown(&self) {
        self.inner.shutdown().await;
    }
}
