//! What other members may ask of this one.

use std::fmt::Display;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::storage::Snapshot;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::barrier::encode_index;
use super::inner::Inner;
use crate::consensus::state_machine::SnapshotData;
use crate::consensus::types::AppendEntriesResponse;
use crate::consensus::{codec, wire};
use crate::ids::{LeaseId, MemberId};
use crate::io::peer::fetch::ONLY_LEADER;
use crate::io::peer::snapshot::Received;
use crate::io::peer::{Answer, Kind, LANES, Later, Service};
use crate::limits;
use crate::membership::join::Roster;
use crate::metrics::PeerTraffic;

/// What another member remembers of one that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Standing {
    Unknown,
    Joined,
    Removed,
}

/// The receiving end of peer calls; holds the member weakly, because the member's tasks hold this.
pub(super) struct PeerService(pub(super) Weak<Inner>);

impl Service for PeerService {
    fn call(&self, from: MemberId, kind: Kind, body: Bytes, later: Later) -> BoxFuture<'static, Option<Answer>> {
        let Some(inner) = self.0.upgrade() else {
            return futures::future::ready(Some(Err("stopped".to_owned()))).boxed();
        };
        // The frequent ones on their own: one future for all kinds is as large as the largest of them.
        match kind {
            Kind::Append => async move { Some(inner.append(body).await) }.boxed(),
            Kind::Heartbeat => async move { Some(inner.hear(body).await) }.boxed(),
            Kind::Propose => async move { inner.propose_for(body, later).await }.boxed(),
            _ => async move { Some(inner.call(from, kind, body).await) }.boxed(),
        }
    }

    fn connected(&self, member: MemberId) {
        let Some(inner) = self.0.upgrade() else { return };
        let back = inner.clone();
        inner.tasks.spawn(async move {
            // It is back: replication need not sit out its pause. Fails only when Raft has stopped.
            let _ = back.raft.trigger().reset_backoff([member]).await;
            back.connect_to(member).await;
        });
    }

    fn lost(&self, member: MemberId) {
        if let Some(inner) = self.0.upgrade() {
            // A full queue means that the loss is being looked into already.
            let _ = inner.lost.try_send(member);
        }
    }

    fn is_removed(&self, member: MemberId) -> bool {
        let Some(inner) = self.0.upgrade() else { return false };
        // One that still votes, or is still told of its removal, goes on for that long.
        inner.reader.members().is_removed(member) && !inner.is_in_raft(member)
    }

    fn page(&self, path: &str) -> Option<http::Response<String>> {
        self.0.upgrade()?.page(path)
    }

    fn traffic(&self, member: MemberId) -> PeerTraffic {
        self.0.upgrade().map_or_else(PeerTraffic::default, |inner| inner.metrics.peers.peer(member))
    }
}

fn text(error: impl Display) -> String {
    error.to_string()
}

fn encoded<T: serde::Serialize>(answer: &T) -> Bytes {
    codec::encode(answer).into()
}

impl Inner {
    /// Opens every connection that a leader needs, and its followers to it: when leadership moves on, writes wait for all
    /// that still has to be done then.
    pub(super) fn connect_to_all(self: &Arc<Self>) {
        let metrics = self.raft.server_metrics();
        let voters = metrics.borrow_watched().membership_config.clone();
        for member in voters.voter_ids().filter(|member| *member != self.config.id) {
            let inner = self.clone();
            self.tasks.spawn(async move { inner.connect_to(member).await });
        }
    }

    async fn connect_to(&self, member: MemberId) {
        for lane in LANES {
            let Some(client) = self.client(member, lane) else { return };
            tokio::select! {
                // One that cannot be reached connects to this one when it is back, or is tried again when it is needed.
                _ = client.open_ahead() => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    async fn call(self: Arc<Self>, from: MemberId, kind: Kind, body: Bytes) -> Answer {
        match kind {
            Kind::Append | Kind::Heartbeat | Kind::Propose => unreachable!("they are taken apart above"),
            Kind::Vote => {
                let request = codec::decode(&body).map_err(text)?;
                Ok(encoded(&self.raft.vote(request).await.map_err(text)?))
            }
            Kind::PreVote => {
                let request = codec::decode(&body).map_err(text)?;
                Ok(encoded(&self.raft.pre_vote(request).await.map_err(text)?))
            }
            Kind::TransferLeader => {
                let request = codec::decode(&body).map_err(text)?;
                Ok(encoded(&self.raft.handle_transfer_leader(request).await.map_err(text)?))
            }
            Kind::SnapshotBegin | Kind::SnapshotChunk | Kind::SnapshotEnd => self.take_snapshot(from, kind, body).await,
            Kind::ReadIndex => match self.read_index().await {
                Some(index) => Ok(encode_index(index)),
                None => Err("not the leader".to_owned()),
            },
            Kind::KeepAlive | Kind::TimeToLive => Ok(self.answer_for_leases(kind, lease(&body)?).await),
            Kind::IsKnown => Ok(encoded(&self.standing(from))),
            Kind::Roster => Ok(encoded(&self.roster().await)),
            Kind::MayChange => self.judge_change(&body),
            Kind::FetchBegin | Kind::FetchPart | Kind::FetchEnd => self.give_copy(from, kind, body).await,
            Kind::HashKv => self.answer_digest(body).await,
            Kind::Version => Ok(Bytes::from_static(crate::edge::ETCD_VERSION.as_bytes())),
        }
    }

    async fn append(&self, body: Bytes) -> Answer {
        let request = wire::decode_append(body).map_err(text)?;
        self.heard_from(&request.vote);
        let response = self.raft.append_entries(request).await.map_err(text)?;
        Ok(wire::encode_append_response(&response))
    }

    /// Takes in that the leader leads. Raft answers an append when everything accepted before it is on disk: a leader would
    /// lose its followers when their disks are slow, and linearizable reads would wait for writes. But all that this answer says
    /// is that no later leader is known here, and Raft tells that as soon as it has taken the heartbeat in. Nor does the
    /// vote have to be on disk: were it forgotten, nobody else could win its term, whose leader has been elected.
    async fn hear(&self, body: Bytes) -> Answer {
        let request = wire::decode_append(body).map_err(text)?;
        if !request.entries.is_empty() {
            return Err("a heartbeat with entries".to_owned());
        }
        self.heard_from(&request.vote);
        let vote = request.vote;
        let mut appended = std::pin::pin!(self.raft.append_entries(request));
        let (tell, told) = oneshot::channel();
        let is_followed = async {
            let look = self.raft.external_request(move |state| {
                // Nobody waits when it was answered already.
                let _ = tell.send(*state.vote_ref() == vote);
            });
            look.await.is_ok() && told.await.unwrap_or(false)
        };
        // The append is asked first.
        let response = tokio::select! {
            biased;
            response = &mut appended => response,
            is_followed = is_followed => match is_followed {
                true => Ok(AppendEntriesResponse::Success),
                false => appended.await,
            },
        };
        Ok(wire::encode_append_response(&response.map_err(text)?))
    }

    /// The members for one that wants to join: it was added a moment ago, so what is known here may be too old.
    async fn roster(self: &Arc<Self>) -> Roster {
        // Without a leader the old list is better than none.
        let _ = tokio::time::timeout(limits::IS_KNOWN_TIMEOUT, self.read_barrier()).await;
        self.known_roster()
    }

    fn standing(&self, member: MemberId) -> Standing {
        if self.reader.members().is_removed(member) {
            Standing::Removed
        } else if self.reader.member_attributes(member).is_some() {
            Standing::Joined
        } else {
            Standing::Unknown
        }
    }

    fn is_in_raft(&self, member: MemberId) -> bool {
        let membership = self.raft.server_metrics().borrow_watched().membership_config.clone();
        membership.membership().get_node(&member).is_some()
    }

    async fn give_copy(self: Arc<Self>, to: MemberId, kind: Kind, body: Bytes) -> Answer {
        if self.is_quarantined() {
            return Err("it differs from the others itself".to_owned());
        }
        if kind == Kind::FetchBegin && *body == *ONLY_LEADER && self.read_index().await.is_none() {
            return Err("it does not lead".to_owned());
        }
        let given = tokio::task::spawn_blocking(move || match kind {
            Kind::FetchBegin => self.maintained.fetches.begin(to, &self.storage),
            Kind::FetchPart => self.maintained.fetches.part(to, body),
            _ => {
                self.maintained.fetches.end(to);
                Ok(Bytes::new())
            }
        });
        given.await.map_err(text)?.map_err(text)
    }

    async fn take_snapshot(&self, from: MemberId, kind: Kind, body: Bytes) -> Answer {
        let snapshots = self.snapshots.clone();
        let received = tokio::task::spawn_blocking(move || match kind {
            Kind::SnapshotBegin => snapshots.begin(from, &body).map(|()| None),
            Kind::SnapshotChunk => snapshots.chunk(from, body).map(|()| None),
            _ => snapshots.end(from, &body).map(Some),
        });
        let Some(Received { vote, meta, dir }) = received.await.map_err(text)?.map_err(text)? else {
            return Ok(Bytes::new());
        };
        tracing::info!(%from, %meta, "installing a snapshot");
        let snapshot = Snapshot { meta, snapshot: SnapshotData::Copy(dir) };
        self.metrics.server.snapshots_applying.inc();
        let installed = self.raft.install_full_snapshot(vote, snapshot).await;
        self.metrics.server.snapshots_applying.dec();
        Ok(encoded(&installed.map_err(text)?))
    }
}

fn lease(body: &[u8]) -> Result<LeaseId, String> {
    let number = body.try_into().map_err(|_| "a lease of eight bytes")?;
    Ok(LeaseId(i64::from_le_bytes(number)))
}
