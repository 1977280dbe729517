//! What other members may ask of this one.

use std::fmt::Display;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use openraft::storage::Snapshot;

use super::barrier::encode_index;
use super::inner::Inner;
use super::leases::{encode_times, encode_ttl};
use super::propose::decode_forward;
use crate::consensus::state_machine::SnapshotData;
use crate::consensus::{codec, wire};
use crate::ids::{LeaseId, MemberId};
use crate::io::peer::fetch::ONLY_LEADER;
use crate::io::peer::snapshot::Received;
use crate::io::peer::{Kind, Service};

type Answer = Result<Bytes, String>;

/// The receiving end of peer calls; holds the member weakly, because the member's tasks hold this.
pub(super) struct PeerService(pub(super) Weak<Inner>);

impl Service for PeerService {
    fn call(&self, from: MemberId, kind: Kind, body: Bytes) -> BoxFuture<'static, Answer> {
        match self.0.upgrade() {
            Some(inner) => inner.call(from, kind, body).boxed(),
            None => futures::future::ready(Err("stopped".to_owned())).boxed(),
        }
    }

    fn connected(&self, member: MemberId) {
        let Some(inner) = self.0.upgrade() else { return };
        // It is back: replication need not sit out its pause.
        let reset = inner.clone();
        inner.tasks.spawn(async move {
            // Fails only when Raft has stopped.
            let _ = reset.raft.trigger().reset_backoff([member]).await;
        });
    }

    fn lost(&self, member: MemberId) {
        if let Some(inner) = self.0.upgrade() {
            // A full queue means that the loss is being looked into already.
            let _ = inner.lost.try_send(member);
        }
    }

    fn knows(&self, member: MemberId) -> bool {
        self.0.upgrade().is_some_and(|inner| inner.address(member).is_some())
    }
}

fn text(error: impl Display) -> String {
    error.to_string()
}

fn encoded<T: serde::Serialize>(answer: &T) -> Bytes {
    codec::encode(answer).into()
}

impl Inner {
    async fn call(self: Arc<Self>, from: MemberId, kind: Kind, body: Bytes) -> Answer {
        match kind {
            Kind::Append => {
                let request = wire::decode_append(body).map_err(text)?;
                let response = self.raft.append_entries(request).await.map_err(text)?;
                Ok(wire::encode_append_response(&response))
            }
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
            Kind::Propose => {
                let (leader, command) = decode_forward(body).ok_or("a forwarded proposal that ends early")?;
                Ok(self.propose_for(leader, command).await.encode())
            }
            Kind::ReadIndex => match self.read_index().await {
                Some(index) => Ok(encode_index(index)),
                None => Err("not the leader".to_owned()),
            },
            Kind::KeepAlive => Ok(encode_ttl(self.leases.renew(lease(&body)?))),
            Kind::TimeToLive => Ok(encode_times(self.leases.remaining(lease(&body)?))),
            Kind::IsKnown => Ok(encoded(&self.reader.member_attributes(from).is_some())),
            Kind::FetchBegin | Kind::FetchPart | Kind::FetchEnd => self.give_copy(from, kind, body).await,
            Kind::HashKv => self.answer_digest(body).await,
            Kind::Version => Ok(Bytes::from_static(crate::edge::ETCD_VERSION.as_bytes())),
        }
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
        Ok(encoded(&self.raft.install_full_snapshot(vote, snapshot).await.map_err(text)?))
    }
}

fn lease(body: &[u8]) -> Result<LeaseId, String> {
    let number = body.try_into().map_err(|_| "a lease of eight bytes")?;
    Ok(LeaseId(i64::from_le_bytes(number)))
}
