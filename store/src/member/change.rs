//! Membership changes as clients ask for them: checked by the leader, replicated as commands, answered when in effect.

use std::sync::Arc;

use bytes::Bytes;
use kontiki_api::etcdserverpb as pb;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::{Instant, timeout_at};

use super::inner::{Inner, until};
use super::reconfigure::{View, configuration};
use crate::command::{AddMember, ChangeMember, Command, Response};
use crate::config::identity::member_id;
use crate::consensus::{codec, wire};
use crate::error::StoreError;
use crate::ids::MemberId;
use crate::io::clock::unix_seconds;
use crate::io::peer::{Kind, Lane};
use crate::limits::{MEMBER_SILENT, READ_INDEX_TIMEOUT};
use crate::membership::plan::Configuration;
use crate::membership::strict::{self, Wish};

impl Inner {
    /// `peer_urls` are checked and sorted.
    pub(super) async fn add_member(&self, peer_urls: Vec<String>, is_learner: bool) -> Result<pb::Member, StoreError> {
        self.may_change(if is_learner { Wish::AddLearner } else { Wish::Add }).await?;
        // etcd's rule: without the cluster's token, with the time, so that an id is never used twice. Within one second
        // it would be.
        let mut seconds = unix_seconds();
        let mut id = member_id(&peer_urls, &seconds.to_string());
        while self.reader.members().is_removed(id) {
            seconds += 1;
            id = member_id(&peer_urls, &seconds.to_string());
        }
        let member = pb::Member { id: id.0, peer_ur_ls: peer_urls, is_learner, ..pb::Member::default() };
        let max_learners = self.config.membership.max_learners;
        self.propose(&Command::MemberAdd(AddMember { member: member.clone(), max_learners })).await?;
        self.await_raft(|raft| raft.nodes.contains_key(&id)).await;
        Ok(member)
    }

    pub(super) async fn remove_member(&self, id: MemberId) -> Result<(), StoreError> {
        self.may_change(Wish::Remove(id)).await?;
        self.propose(&Command::MemberRemove(pb::MemberRemoveRequest { id: id.0 })).await?;
        // An operator stops the member next: it must not be missed in a quorum then.
        match self.await_raft(|raft| !raft.is_joint() && !raft.is_voter(id)).await {
            true => Ok(()),
            false => Err(StoreError::Timeout),
        }
    }

    pub(super) async fn update_member(&self, id: MemberId, peer_urls: Vec<String>) -> Result<(), StoreError> {
        let change = ChangeMember { id: id.0, peer_urls: peer_urls.clone(), promote: false };
        self.propose(&Command::MemberChange(change)).await?;
        self.await_raft(|raft| raft.nodes.get(&id) == Some(&peer_urls)).await;
        Ok(())
    }

    pub(super) async fn promote_member(&self, id: MemberId) -> Result<(), StoreError> {
        self.may_change(Wish::Promote(id)).await?;
        let change = ChangeMember { id: id.0, peer_urls: Vec::new(), promote: true };
        self.propose(&Command::MemberChange(change)).await?;
        self.await_raft(|raft| !raft.is_joint() && raft.is_voter(id)).await;
        Ok(())
    }

    /// Whether Raft's configuration came to be as `wanted` in time. The leader sees to it in any case.
    async fn await_raft(&self, wanted: impl Fn(&Configuration) -> bool) -> bool {
        let deadline = self.deadline();
        let mut metrics = self.raft.server_metrics();
        loop {
            let committed = metrics.borrow_watched().committed_membership_config.clone();
            if wanted(&configuration(committed.membership())) {
                return true;
            }
            tokio::select! {
                changed = timeout_at(deadline, metrics.changed()) => if !matches!(changed, Ok(Ok(()))) { return false },
                () = self.stop.cancelled() => return false,
            }
        }
    }

    /// The leader's opinion of `wish`; asked again until there is a leader.
    async fn may_change(&self, wish: Wish) -> Result<(), StoreError> {
        let strict = self.config.membership.strict_reconfig_check;
        let deadline = self.deadline();
        loop {
            let leader = self.leader();
            let verdict = match leader {
                None => None,
                Some(leader) if leader.is_self => self.check_change(wish, strict),
                Some(leader) => self.ask_leader(leader.member, wish, strict, deadline).await,
            };
            match verdict {
                Some(verdict) => return verdict,
                None => self.wait_for_leader(leader, deadline).await?,
            }
        }
    }

    async fn ask_leader(
        &self,
        leader: MemberId,
        wish: Wish,
        strict: bool,
        deadline: Instant,
    ) -> Option<Result<(), StoreError>> {
        let client = self.client(leader, Lane::Control)?;
        let body = codec::encode(&(wish, strict)).into();
        let answer = client.call(Kind::MayChange, body, until(deadline).min(READ_INDEX_TIMEOUT)).await.ok()?;
        wire::decode_reply(answer).ok().map(|reply| reply.map(|_| ()))
    }

    /// This leader's opinion; `None` when it does not lead, or has not led for long enough to have one.
    fn check_change(&self, wish: Wish, strict: bool) -> Option<Result<(), StoreError>> {
        let view = View::of(self)?;
        let verdict = strict::check(&self.reader.members(), wish, strict, &view);
        let is_new = view.led_for() < MEMBER_SILENT;
        match verdict {
            Err(StoreError::UnhealthyCluster | StoreError::LearnerNotReady) if is_new => None,
            verdict => Some(verdict),
        }
    }

    /// Another member asks for this leader's opinion.
    pub(super) fn judge_change(self: &Arc<Self>, body: &[u8]) -> Result<Bytes, String> {
        let (wish, strict) = codec::decode(body).map_err(|error| error.to_string())?;
        let verdict = self.check_change(wish, strict).ok_or("not the leader")?;
        Ok(wire::encode_reply(&verdict.map(|()| Response::MemberChanged)))
    }
}
