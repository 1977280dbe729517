//! Stopping: hand leadership over, stop Raft, flush, and wait for everything that runs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::{Instant, timeout, timeout_at};

use super::inner::Inner;
use crate::consensus::Storage;
use crate::consensus::types::LeaderId;
use crate::error::StoreError;
use crate::ids::MemberId;
use crate::limits::TRANSFER_TIMEOUT;

impl Inner {
    pub(super) async fn transfer_leadership(&self, to: Option<MemberId>) -> Result<(), StoreError> {
        let leader = self.leader().filter(|leader| leader.is_self).ok_or(StoreError::NotLeader)?;
        let to = match to {
            Some(to) => to,
            None => self.most_recent_follower().ok_or(StoreError::BadLeaderTransferee)?,
        };
        if to == leader.member {
            return Ok(());
        }
        let metrics = self.raft.server_metrics();
        let is_voter = metrics.borrow_watched().membership_config.voter_ids().any(|voter| voter == to);
        if !is_voter {
            return Err(StoreError::BadLeaderTransferee);
        }
        self.raft.trigger().transfer_leader(to).await.map_err(|_| StoreError::Stopped)?;
        let mut leadership = self.leadership.clone();
        let moved = leadership.wait_for(|now| now.leader.is_some_and(|now| now != leader.member));
        match timeout_at(Instant::now() + TRANSFER_TIMEOUT, moved).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(StoreError::Stopped),
            Err(_) => Err(StoreError::Timeout),
        }
    }

    /// The voter, other than this one, whose log is longest.
    fn most_recent_follower(&self) -> Option<MemberId> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let members = self.reader.members();
        let stays = |voter: &MemberId| !members.is_removed(*voter);
        let voters: Vec<MemberId> = metrics.membership_config.voter_ids().filter(stays).collect();
        let replication = metrics.replication.as_ref()?;
        let followers = replication.iter().filter(|(id, _)| **id != self.config.id && voters.contains(id));
        followers.max_by_key(|(_, matched)| matched.map(|id| id.index)).map(|(id, _)| *id)
    }

    /// Gives leadership away for good: a member that stops must not campaign against who got it.
    pub(super) async fn hand_over(&self) {
        self.raft.runtime_config().elect(false);
        let Some(leader) = self.leader().filter(|leader| leader.is_self) else { return };
        if self.most_recent_follower().is_none() {
            return;
        }
        match self.transfer_leadership(None).await {
            Ok(()) => tracing::info!("leadership was handed over"),
            Err(error) => return tracing::warn!(%error, "leadership was not handed over; the others will elect"),
        }
        if !self.is_succeeded(leader.id).await {
            tracing::warn!("the next leader has not committed anything; the others go on without this member");
        }
    }

    /// Waits until an entry of a leader after `leader` is applied here. Until then this member may be half of the majority
    /// that the next one needs: it still has to find out where the log of each of the others ends.
    async fn is_succeeded(&self, leader: LeaderId) -> bool {
        let mut progress = self.progress.clone();
        let succeeded = progress.wait_for(|progress| progress.leader > Some(leader));
        timeout(TRANSFER_TIMEOUT, succeeded).await.is_ok_and(|progress| progress.is_ok())
    }

    pub(super) async fn shutdown(self: &Arc<Self>) {
        if self.stopping.swap(true, Ordering::SeqCst) {
            return self.tasks.wait().await;
        }
        self.hand_over().await;
        // First, so that nothing here asks a Raft that is gone.
        self.stop.cancel();
        if self.raft.shutdown().await.is_err() {
            tracing::warn!("raft did not stop cleanly");
        }
        self.tasks.close();
        self.tasks.wait().await;
        let storage = self.storage.clone();
        match tokio::task::spawn_blocking(move || Storage::flush(&storage)).await {
            Ok(Ok(applied)) => tracing::info!(applied = %applied.index, "the state is flushed"),
            // The log has it all.
            Ok(Err(error)) => {
                tracing::warn!(%error, "the state is not flushed; the next start replays more of the log")
            }
            Err(error) => tracing::warn!(%error, "the flush did not finish"),
        }
    }
}
