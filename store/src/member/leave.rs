//! Noticing that this member was removed from the cluster, and ending then.
//!
//! A member that runs learns it as any change: from its log. It goes on until Raft no longer counts it, so that the
//! removal itself never lacks its answer. One that was away meets it in the others' refusal to talk to it; a member that
//! knows no leader therefore asks them now and then, because nobody calls a learner that is not wanted.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::sleep;

use super::inner::Inner;
use crate::consensus::types::Address;
use crate::ids::MemberId;
use crate::io::peer::{Kind, Lane};
use crate::limits::{IS_KNOWN_TIMEOUT, LEAVE_PAUSE, STANDING_INTERVAL};

impl Inner {
    /// Ends this member once it is removed; keeps the addresses of the others fresh meanwhile.
    pub(super) async fn watch_standing(self: Arc<Self>) {
        let mut table = self.reader.members_version();
        let mut raft = self.raft.server_metrics();
        let refused = self.clients.removed().clone();
        while !self.has_left() && !refused.is_cancelled() {
            self.refresh_addresses();
            tokio::select! {
                changed = table.changed() => if changed.is_err() { return },
                changed = raft.changed() => if changed.is_err() { return },
                () = refused.cancelled() => {}
                () = sleep(STANDING_INTERVAL) => {
                    if self.leader().is_none() || self.is_removed() {
                        self.ask_standing().await;
                    }
                }
                () = self.stop.cancelled() => return,
            }
        }
        tracing::warn!("the member has been permanently removed from the cluster");
        tokio::select! {
            () = sleep(LEAVE_PAUSE) => {}
            () = self.stop.cancelled() => {}
        }
        self.left.cancel();
    }

    fn is_removed(&self) -> bool {
        self.reader.members().is_removed(self.config.id)
    }

    /// Whether the cluster goes on without this member, for certain.
    fn has_left(&self) -> bool {
        let committed = self.raft.server_metrics().borrow_watched().committed_membership_config.clone();
        self.is_removed() && committed.log_id().is_some() && !committed.voter_ids().any(|voter| voter == self.config.id)
    }

    fn refresh_addresses(&self) {
        let membership = self.raft.server_metrics().borrow_watched().membership_config.clone();
        membership.nodes().for_each(|(id, address)| self.clients.refresh(*id, address));
    }

    /// Calls everyone: whoever knows of a removal refuses, which the transport notes.
    async fn ask_standing(&self) {
        let mut others: BTreeMap<MemberId, Vec<String>> =
            self.config.peers.iter().map(|(id, peer)| (*id, peer.peer_urls.clone())).collect();
        others.extend(self.reader.members().iter().map(|(id, member)| (id, member.peer_ur_ls.clone())));
        others.remove(&self.config.id);
        let calls = others.into_iter().map(|(id, peer_urls)| {
            let client = self.clients.get(id, &Address { peer_urls }, Lane::Control);
            async move { client.call(Kind::IsKnown, Bytes::new(), IS_KNOWN_TIMEOUT).await }
        });
        // The answers do not matter: an answer at all is what a member gets.
        futures::future::join_all(calls).await;
    }
}
