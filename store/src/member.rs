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

use crate::auth::{AuthOptions, Caller};
use crate::command::{Command, Reply};
use crate::config::gates::FeatureGates;
use crate::config::tls::TlsSettings;
use crate::error::StoreError;
use crate::ids::{ClusterId, LeaseId, LogIndex, MemberId, Term};
use crate::io::checkpoint::CheckpointDir;
use crate::io::tls::TlsError;
use crate::limits;
use crate::maintenance::MaintenanceOptions;
use crate::membership::{self, MembershipOptions};
use crate::metrics::Metrics;
use crate::state::Reader;

mod auth;
#[cfg(test)]
mod auth_tests;
mod autocompact;
mod barrier;
mod change;
mod checks;
mod coalesce;
#[cfg(test)]
mod crash_tests;
mod failover;
mod force;
mod inner;
mod join;
mod leadership;
mod leases;
mod leave;
mod maintain;
#[cfg(test)]
mod maintenance_tests;
#[cfg(test)]
mod membership_tests;
mod pages;
mod propose;
mod rebuild;
mod reconfigure;
mod roster;
mod service;
mod space;
mod start;
mod stop;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod upkeep;
mod versions;

use inner::Inner;
pub use versions::DowngradeRefusal;

/// How a member of the cluster is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub name: String,
    /// `http://host:port`, as given in the initial cluster.
    pub peer_urls: Vec<String>,
}

/// Raft's clocks, and what depends on them. The defaults detect a silent leader within 0.35 s on one small machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat: Duration,
    pub election_min: Duration,
    /// Also the leader lease: a leader that heard no quorum for this long takes no writes.
    pub election_max: Duration,
    /// How long a request waits for a leader and a majority: etcd's five seconds and two of etcd's election timeouts,
    /// which are longer than the elections here unless an operator sets them.
    pub request: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(30),
            election_min: Duration::from_millis(50),
            election_max: Duration::from_millis(160),
            request: limits::REQUEST_TIMEOUT,
        }
    }
}

/// How a member keeps its log, where an operator may have a say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// The log's directory, if not within the data directory.
    pub log_dir: Option<PathBuf>,
    /// Whether a member asks before an election if it could win.
    pub pre_vote: bool,
    /// Applied entries after which the state is flushed.
    pub flush_entries: u64,
    /// Entries kept in the log after a flush.
    pub keep_entries: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            log_dir: None,
            pre_vote: true,
            flush_entries: limits::FLUSH_ENTRIES,
            keep_entries: limits::LOG_KEEP_ENTRIES,
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
    /// All members of the initial cluster, this one included; once this member knows the table of members, those of it.
    pub peers: BTreeMap<MemberId, Peer>,
    pub peer_listen: Vec<SocketAddr>,
    /// Announced to the cluster for MemberList.
    pub client_urls: Vec<String>,
    pub timing: Timing,
    /// `false` trades durability for speed: only for tests and benchmarks.
    pub fsync: bool,
    pub tuning: Tuning,
    /// TLS between members, for `https` peer URLs; none where members speak plain TCP.
    pub peer_tls: Option<TlsSettings>,
    /// Join a cluster that runs, instead of making one with `peers`: etcd's `initial-cluster-state`.
    pub existing: bool,
    /// Make the data of this member a cluster of it alone: for when the majority is lost for good.
    pub force_new_cluster: bool,
    pub membership: MembershipOptions,
    /// A command whose application takes longer is logged.
    pub warn_apply: Duration,
    pub auth: AuthOptions,
    pub maintenance: MaintenanceOptions,
    /// Told in the metrics; those that a part of the member obeys are among that part's options.
    pub gates: FeatureGates,
}

impl MemberConfig {
    fn log_dir(&self) -> PathBuf {
        self.tuning.log_dir.clone().unwrap_or_else(|| self.data_dir.join("member").join("log"))
    }

    /// A member of a new cluster with everything else at its default.
    #[must_use]
    pub fn new(id: MemberId, cluster_id: ClusterId, data_dir: PathBuf, peers: BTreeMap<MemberId, Peer>) -> Self {
        Self {
            id,
            cluster_id,
            name: peers.get(&id).map_or_else(String::new, |peer| peer.name.clone()),
            data_dir,
            peers,
            peer_listen: Vec::new(),
            client_urls: Vec::new(),
            timing: Timing::default(),
            fsync: true,
            tuning: Tuning::default(),
            peer_tls: None,
            existing: false,
            force_new_cluster: false,
            membership: MembershipOptions::default(),
            warn_apply: limits::WARN_APPLY,
            auth: AuthOptions::default(),
            maintenance: MaintenanceOptions::default(),
            gates: FeatureGates::default(),
        }
    }
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
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("member {0}: the member has been permanently removed from the cluster")]
    Removed(MemberId),
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

    /// Replicates `command` for nobody in particular: refused while authentication is on. See [`Member::propose_as`].
    ///
    /// # Errors
    /// As [`Member::propose_as`].
    pub async fn propose(&self, command: Command) -> Reply {
        self.propose_as(&Caller::Anonymous, command).await
    }

    /// Replicates `command` for `caller` and answers what applying it answered. Any member takes it.
    ///
    /// # Errors
    /// The command's own error, also that the caller may not, `NoSpace` when the quota is used up, or `Timeout` when its outcome is unknown after about seven
    /// seconds.
    pub async fn propose_as(&self, caller: &Caller, command: Command) -> Reply {
        self.inner.admit(&command).await?;
        let reply = self.inner.propose_as(caller, &command).await;
        if let Err(StoreError::Timeout | StoreError::TimeoutLeaderFailure | StoreError::Stopped) = reply {
            self.inner.metrics.server.failed.inc();
        }
        reply
    }

    /// The user of a token that is known and not expired, as a caller.
    ///
    /// # Errors
    /// `InvalidToken`.
    pub async fn identify(&self, token: &str) -> Result<Caller, StoreError> {
        self.inner.identify(token).await
    }

    /// A token for a user with this password.
    ///
    /// # Errors
    /// `NotEnabled`, `Failed`, `NoPasswordUser`, and those of a proposal.
    pub async fn authenticate(&self, user: &str, password: &str) -> Result<String, StoreError> {
        self.inner.authenticate(user, password).await
    }

    /// What is stored of a password, beside the runtime's threads.
    ///
    /// # Errors
    /// `PasswordTooLong`, `TooManyRequests`.
    pub async fn hash_password(&self, password: String) -> Result<String, StoreError> {
        self.inner.authority.passwords.hash(password).await
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

    /// What this member counts about itself.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.metrics
    }

    /// Proposals of this member's clients that are under way.
    #[must_use]
    pub fn proposals_pending(&self) -> usize {
        self.inner.requests.waiting()
    }

    /// Brings the gauges of its connections to other members up to date.
    pub fn look_at_peers(&self) {
        let (inner, peers) = (&self.inner, &self.inner.metrics.peers);
        let me = inner.config.id.to_string();
        let known = self.members().len().saturating_sub(1);
        peers.known.with_label_values(&[&me]).set(i64::try_from(known).unwrap_or(i64::MAX));
        peers.active.reset();
        for member in inner.clients.connected() {
            peers.active.with_label_values(&[&me, &member.to_string()]).inc();
        }
    }

    #[must_use]
    pub fn status(&self) -> MemberStatus {
        let inner = &self.inner;
        let metrics = inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let index = |id: Option<u64>| LogIndex(id.unwrap_or(0));
        MemberStatus {
            id: inner.config.id,
            cluster_id: inner.config.cluster_id,
            leader: inner.leadership.borrow().leader,
            term: Term(metrics.current_term),
            committed: index(metrics.local_committed.map(|id| id.index)),
            applied: index(inner.progress.borrow().next.checked_sub(1)),
            is_learner: self.is_learner(),
        }
    }

    /// The cluster, this member and the term: what every answer begins with.
    #[must_use]
    pub fn place(&self) -> (ClusterId, MemberId, Term) {
        let config = &self.inner.config;
        let term = self.inner.raft.server_metrics().borrow_watched().vote.leader_id.term;
        (config.cluster_id, config.id, Term(term))
    }

    /// The cluster's members with what they published, in the order of their ids.
    #[must_use]
    pub fn members(&self) -> Vec<pb::Member> {
        self.inner.reader.members().iter().map(|(_, member)| member.clone()).collect()
    }

    /// Whether this member is a learner, which serves next to nothing.
    #[must_use]
    pub fn is_learner(&self) -> bool {
        self.inner.is_learner()
    }

    /// Adds a member that is not started yet; its id is chosen here. A voter gets its vote once it holds the log.
    ///
    /// # Errors
    /// etcd's, for URLs that are invalid or in use, too many learners, or a cluster that is not healthy enough.
    pub async fn add_member(&self, peer_urls: &[String], is_learner: bool) -> Result<pb::Member, StoreError> {
        self.inner.add_member(membership::peer_urls(peer_urls)?, is_learner).await
    }

    /// Removes a member for good; returns when no quorum counts it any more.
    ///
    /// # Errors
    /// `MemberNotFound`, also when it was removed before, or when the rest would not be healthy.
    pub async fn remove_member(&self, id: MemberId) -> Result<(), StoreError> {
        self.inner.remove_member(id).await
    }

    /// Changes a member's peer URLs and nothing else.
    ///
    /// # Errors
    /// `MemberNotFound`, `PeerUrlExists`, `MemberUrlsInvalid`.
    pub async fn update_member(&self, id: MemberId, peer_urls: &[String]) -> Result<(), StoreError> {
        self.inner.update_member(id, membership::peer_urls(peer_urls)?).await
    }

    /// Makes a learner a voter.
    ///
    /// # Errors
    /// `MemberNotFound`, `MemberNotLearner`, or `LearnerNotReady` when it lags.
    pub async fn promote_member(&self, id: MemberId) -> Result<(), StoreError> {
        self.inner.promote_member(id).await
    }

    /// Returns when this member was removed from the cluster and nobody misses it: it is to be shut down then.
    pub async fn removed(&self) {
        self.inner.left.cancelled().await;
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

    /// The first step of stopping: gives leadership away, if this member has it, and campaigns no more.
    pub async fn hand_over(&self) {
        self.inner.hand_over().await;
    }

    /// A consistent copy of what this member has applied, made of hard links; it goes away with its handle.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn checkpoint(&self) -> std::io::Result<CheckpointDir> {
        let (storage, dir) = (self.inner.storage.clone(), self.inner.checkpoints.outgoing());
        let copy = move || storage.checkpoint(dir.path()).map(|_| dir);
        tokio::task::spawn_blocking(copy).await.map_err(std::io::Error::other)?
    }

    /// Returns when this member stops.
    pub async fn stopped(&self) {
        self.inner.stop.cancelled().await;
    }

    /// Hands leadership over, flushes and stops.
    pub async fn shutdown(&self) {
        self.inner.shutdown().await;
    }
}
