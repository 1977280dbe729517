//! Faster than the timer: when the leader's process is gone, this member campaigns as soon as its lease is over.
//!
//! Raft alone waits for the lease and then a random time, because silence may mean a slow leader. A connection that ends
//! and an address that refuses mean a dead process, and then only the lease has to run out. Campaigns start with a
//! pre-vote, which the others refuse while their own lease runs, so an early one disturbs nobody; members wait for each
//! other in the order of their ids, so that they do not split the vote.

use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::inner::Inner;
use crate::ids::MemberId;
use crate::limits::{CAMPAIGN_PAUSE, CAMPAIGNS_MAX};

impl Inner {
    pub(super) async fn watch_connections(self: Arc<Self>, mut lost: mpsc::Receiver<MemberId>) {
        loop {
            let member = tokio::select! {
                member = lost.recv() => member,
                () = self.stop.cancelled() => return,
            };
            let Some(member) = member else { return };
            let noticed = Instant::now();
            if self.leader().is_some_and(|leader| leader.member == member && !leader.is_self)
                && let Some(address) = self.address(member)
                && self.clients.is_gone(&address).await
            {
                tracing::info!(%member, "the leader's process is gone");
                self.campaign_after(member, noticed).await;
                while lost.try_recv().is_ok() {}
            }
        }
    }

    async fn campaign_after(&self, dead: MemberId, noticed: Instant) {
        let timing = self.config.timing;
        let lease_end = noticed + timing.election_max - timing.heartbeat;
        let first = lease_end + CAMPAIGN_PAUSE * self.rank_without(dead) / 2;
        for attempt in 0..CAMPAIGNS_MAX {
            tokio::select! {
                () = sleep_until(first + CAMPAIGN_PAUSE * attempt) => {}
                () = self.stop.cancelled() => return,
            }
            if self.leader().is_none_or(|leader| leader.member != dead) {
                return;
            }
            if self.raft.trigger().elect(true).await.is_err() {
                return;
            }
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
