//! What the parts of a running member share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::auth::Authority;
use super::barrier::Outcome;
use super::coalesce::Coalesced;
use super::leadership::Contact;
use super::leases::Leases;
use super::maintain::Maintained;
use super::reconfigure::Reconfiguration;
use super::{Leadership, MemberConfig};
use crate::consensus::requests::Requests;
use crate::consensus::state_machine::{Machine, Progress};
use crate::consensus::types::{Address, LeaderId, LogId, Types};
use crate::error::StoreError;
use crate::ids::MemberId;
use crate::io::checkpoint::Checkpoints;
use crate::io::peer::Lane;
use crate::io::peer::client::{Client, Clients};
use crate::io::peer::snapshot::Receiver;
use crate::io::wal::WalReader;
use crate::limits::LEADER_RETRY_PAUSE;
use crate::metrics::Metrics;
use crate::state::{Reader, State, Storage};

pub(super) type Raft = openraft::Raft<Types, Machine<State>>;

pub(super) struct Inner {
    pub(super) config: MemberConfig,
    pub(super) raft: Raft,
    pub(super) reader: Arc<Reader>,
    pub(super) storage: Storage,
    pub(super) log: WalReader,
    pub(super) clients: Arc<Clients>,
    pub(super) requests: Arc<Requests>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) leadership: watch::Receiver<Leadership>,
    pub(super) contact: Contact,
    pub(super) barrier: Arc<Coalesced<Outcome>>,
    pub(super) leads: Arc<Coalesced<Option<LogId>>>,
    pub(super) leases: Leases,
    pub(super) authority: Authority,
    pub(super) snapshots: Arc<Receiver>,
    pub(super) started: Instant,
    pub(super) reconfiguration: Mutex<Reconfiguration>,
    /// Cancelled when this member was removed from the cluster and nobody misses it.
    pub(super) left: CancellationToken,
    pub(super) checkpoints: Checkpoints,
    /// Members whose connection to this one ended.
    pub(super) lost: mpsc::Sender<MemberId>,
    /// Set first thing on the way down: what breaks from then on is expected.
    pub(super) stopping: AtomicBool,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) maintained: Maintained,
}

/// Who leads, with Raft's full name for that leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leader {
    pub(super) member: MemberId,
    pub(super) id: LeaderId,
    pub(super) is_self: bool,
}

impl Inner {
    pub(super) fn leader(&self) -> Option<Leader> {
        named(&self.leadership.borrow())
    }

    /// When a request that starts now gives up.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.config.timing.request
    }

    pub(super) fn is_learner(&self) -> bool {
        self.reader.members().is_learner(self.config.id)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// How to call `member`; `None` when it is not in the cluster.
    pub(super) fn client(&self, member: MemberId, lane: Lane) -> Option<Arc<Client>> {
        Some(self.clients.get(member, &self.address(member)?, lane))
    }

    pub(super) fn address(&self, member: MemberId) -> Option<Address> {
        use openraft::async_runtime::watch::WatchReceiver;
        let metrics = self.raft.server_metrics();
        let membership = metrics.borrow_watched().membership_config.clone();
        let known = membership.membership().get_node(&member).cloned();
        known.or_else(|| Some(Address { peer_urls: self.config.peers.get(&member)?.peer_urls.clone() }))
    }

    /// Waits for another leader than the one that was `tried`, or for a moment where the same one may have become able.
    ///
    /// # Errors
    /// `Timeout` after `deadline`, `Stopped` when this member stops.
    pub(super) async fn wait_for_leader(&self, tried: Option<Leader>, deadline: Instant) -> Result<(), StoreError> {
        if Instant::now() >= deadline {
            return Err(StoreError::Timeout);
        }
        let mut leadership = self.leadership.clone();
        tokio::select! {
            // It may be known already: a refusal and the news of another leader come by different ways.
            changed = leadership.wait_for(|now| named(now) != tried) => match changed {
                Ok(_) => Ok(()),
                Err(_) => Err(StoreError::Stopped),
            },
            () = tokio::time::sleep(LEADER_RETRY_PAUSE) => Ok(()),
            () = self.stop.cancelled() => Err(StoreError::Stopped),
        }
    }
}

impl Inner {
    /// Returns when another leader of a later term is known.
    pub(super) async fn succeeded(&self, leader: Leader) {
        let mut leadership = self.leadership.clone();
        let later = |now: &Leadership| now.leader.is_some() && now.term.0 > leader.id.term;
        if leadership.wait_for(later).await.is_err() {
            // The member stops; whoever waits notices that otherwise.
            std::future::pending::<()>().await;
        }
    }

    /// What a leader answers, or `None` once it is no longer known as the leader.
    pub(super) async fn while_it_leads<T>(&self, leader: Leader, answer: impl Future<Output = Option<T>>) -> Option<T> {
        let mut leadership = self.leadership.clone();
        tokio::select! {
            biased;
            answer = answer => answer,
            _ = leadership.wait_for(|now| now.leader != Some(leader.member)) => None,
        }
    }
}

fn named(leadership: &Leadership) -> Option<Leader> {
    let Leadership { leader, term, is_self } = *leadership;
    leader.map(|member| Leader { member, id: LeaderId { term: term.0, node_id: member }, is_self })
}

/// What is left until `deadline`.
pub(super) fn until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
