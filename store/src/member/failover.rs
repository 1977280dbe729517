//! Faster than the timer: when the leader's process is gone, another member takes over at once.
//!
//! Raft waits for the leader's lease and then a random time, because silence may mean a slow leader. A connection that
//! ends and an address that refuses mean a dead process. Then this member acts as if the leader had handed leadership to
//! it, which the others grant within the lease: the log decides as in any election, so nothing committed is lost. Only a
//! read that trusts the lease could be harmed by it, and there is none (`barrier` always asks a majority).
//!
//! Members take turns in the order of their ids, so that they do not split the vote. Should it fail, they campaign with
//! a pre-vote, which disturbs nobody, until the ordinary election timer takes over.

use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::inner::Inner;
use crate::consensus::types::{Address, TransferLeaderRequest};
use crate::ids::MemberId;
use crate::limits::{CAMPAIGN_PAUSE, CAMPAIGNS_MAX, GONE_CHECK_PAUSES};

impl Inner {
    pub(super) async fn watch_connections(self: Arc<Self>, mut lost: mpsc::Receiver<MemberId>) {
        loop {
            let member = tokio::select! {
                member = lost.recv() => member,
                () = self.stop.cancelled() => return,
            };
            let Some(member) = member else { return };
            if self.leader().is_some_and(|leader| leader.member == member && !leader.is_self)
                && let Some(address) = self.address(member)
                && self.has_died(member, &address).await
            {
                tracing::info!(%member, "the leader's process is gone");
                self.replace(member).await;
                while lost.try_recv().is_ok() {}
            }
        }
    }

    /// Whether nothing listens at the leader's address any more. The kernel ends a killed process' connections before its
    /// listening sockets, so that the first look may come too early: it is repeated for a moment.
    async fn has_died(&self, leader: MemberId, address: &Address) -> bool {
        for pause in GONE_CHECK_PAUSES {
            if self.clients.is_gone(address).await {
                return true;
            }
            if self.leader().is_none_or(|now| now.member != leader) {
                return false;
            }
            tokio::time::sleep(pause).await;
        }
        self.clients.is_gone(address).await
    }

    async fn replace(&self, dead: MemberId) {
        let first = Instant::now() + CAMPAIGN_PAUSE * self.rank_without(dead);
        for attempt in 0..CAMPAIGNS_MAX {
            tokio::select! {
                () = sleep_until(first + CAMPAIGN_PAUSE * attempt) => {}
                () = self.stop.cancelled() => return,
            }
            if !self.is_vacant(dead) {
                return;
            }
            let started = match attempt {
                0 => self.succeed(dead).await,
                _ => self.raft.trigger().elect(true).await.is_ok(),
            };
            if !started {
                return;
            }
        }
    }

    /// Whether nobody follows `dead` yet: this member has voted for no other, and was not elected itself.
    fn is_vacant(&self, dead: MemberId) -> bool {
        let vote = self.raft.server_metrics().borrow_watched().vote;
        let voted_for = vote.leader_id.node_id;
        voted_for == dead || (voted_for == self.config.id && !vote.committed)
    }

    /// Takes the leadership that `dead` can no longer hand over; false when Raft has stopped.
    async fn succeed(&self, dead: MemberId) -> bool {
        let vote = self.raft.server_metrics().borrow_watched().vote;
        if !vote.committed || vote.leader_id.node_id != dead {
            return true;
        }
        let request = TransferLeaderRequest::new(vote, self.config.id, None);
        match self.raft.handle_transfer_leader(request).await {
            Ok(Ok(())) => true,
            Ok(Err(reason)) => {
                tracing::debug!(%reason, "not succeeding the leader");
                true
            }
            Err(_) => false,
        }
    }

    /// This member's place among the voters that are left.
    fn rank_without(&self, dead: MemberId) -> u32 {
        let metrics = self.raft.server_metrics();
        let membership = metrics.borrow_watched().membership_config.clone();
        let before = membership.voter_ids().filter(|voter| *voter != dead && *voter < self.config.id).count();
        u32::try_from(before).unwrap_or(u32::MAX)
    }
}
