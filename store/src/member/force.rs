//! `force-new-cluster`: the last resort of an operator whose majority is gone for good.
//!
//! The data of one member becomes a cluster of that member alone. Before Raft starts, its log gets one more entry, which
//! leaves only this member in the configuration; everything before it is then committed by the majority of one. What the
//! old leader had not committed may so come to be: it was never answered. The others are removed from the table of members
//! as soon as there is a leader, so that they cannot come back with another past.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use kontiki_api::etcdserverpb as pb;
use tokio::sync::oneshot;

use super::MemberConfig;
use super::inner::Inner;
use crate::command::{ChangeMember, Command};
use crate::consensus::codec;
use crate::consensus::log_store::to_wal;
use crate::consensus::state_machine::Mark;
use crate::consensus::types::{Address, Entry, LeaderId, LogId, Membership, Payload, Vote, log_id};
use crate::error::StoreError;
use crate::ids::MemberId;
use crate::io::wal::Wal;
use crate::state::Applied;

/// Writes the configuration of one member to the end of the log, durably.
pub(super) async fn take_over(wal: &Wal, applied: &Applied, config: &MemberConfig) -> io::Result<()> {
    let mark = Mark::decode(applied)?;
    let (purged, last) = wal.reader().bounds();
    let end = last.or(purged).map(log_id);
    if end < mark.last {
        return Err(io::Error::other("the log ends before the state: nothing can be added to it"));
    }
    let vote = wal.reader().vote();
    let vote = match vote.is_empty() {
        true => None,
        false => Some(codec::decode::<Vote>(&vote).map_err(io::Error::other)?),
    };
    let term = vote.map_or(0, |vote| vote.leader_id.term).max(end.map_or(0, |end| end.leader_id.term)) + 1;
    let leader = LeaderId { term, node_id: config.id };
    let nodes = BTreeMap::from([(config.id, own_address(&mark, config))]);
    let membership = Membership::new(vec![BTreeSet::from([config.id])], nodes).map_err(io::Error::other)?;
    let entry = Entry {
        log_id: LogId::new(leader, end.map_or(0, |end| end.index + 1)),
        payload: Payload::Membership(membership),
    };
    let (voted, appended) = (oneshot::channel(), oneshot::channel());
    // Nobody waits any more only when this start is given up.
    let vote = codec::encode(&Vote::new(term, config.id)).into();
    wal.save_vote(vote, Box::new(move || voted.0.send(()).unwrap_or_default()));
    wal.append(vec![to_wal(entry)], Box::new(move || appended.0.send(()).unwrap_or_default()));
    voted.1.await.map_err(io::Error::other)?;
    appended.1.await.map_err(io::Error::other)?;
    tracing::warn!(term, "forced a new cluster of this member alone");
    Ok(())
}

fn own_address(mark: &Mark, config: &MemberConfig) -> Address {
    let known = mark.membership.membership().get_node(&config.id).cloned();
    let configured = || config.peers.get(&config.id).map(|peer| peer.peer_urls.clone()).unwrap_or_default();
    known.unwrap_or_else(|| Address { peer_urls: configured() })
}

impl Inner {
    /// Removes everyone else from the table of members; they are in Raft's configuration no more.
    pub(super) async fn forget_others(&self) -> Result<(), StoreError> {
        let me = self.config.id;
        if self.is_learner() {
            let promotion = ChangeMember { id: me.0, peer_urls: Vec::new(), promote: true };
            self.propose(&Command::MemberChange(promotion)).await?;
        }
        let others: Vec<MemberId> = self.reader.members().iter().map(|(id, _)| id).filter(|id| *id != me).collect();
        for id in others {
            self.propose(&Command::MemberRemove(pb::MemberRemoveRequest { id: id.0 })).await?;
        }
        Ok(())
    }
}
