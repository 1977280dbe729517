//! openraft's type parameters, bound to ours, and short names for what comes out.

use std::fmt;

use bytes::Bytes;
use openraft::vote::RaftLeaderId;
use openraft::{OptionalSend, RaftTypeConfig, alias};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::responder::Replier;
use super::wire;
use crate::command::Reply;
use crate::ids::MemberId;
use crate::wal::EntryId;

/// The parameters of this store's Raft.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Types;

impl RaftTypeConfig for Types {
    type D = CommandBytes;
    type R = Answer;
    type NodeId = MemberId;
    type Node = Address;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, MemberId>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<CommandBytes, MemberId, Address>;
    type Entry = openraft::Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = openraft_rt_tokio::TokioRuntime;
    type Responder<T: OptionalSend + 'static> = Replier<T>;
    type Batch<T: OptionalSend + 'static> = openraft::impls::InlineBatch<T>;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub type LogId = alias::LogIdOf<Types>;
pub type Vote = alias::VoteOf<Types>;
pub type LeaderId = alias::LeaderIdOf<Types>;
pub type Entry = alias::EntryOf<Types>;
pub type Payload = alias::PayloadOf<Types>;
pub type Membership = openraft::Membership<MemberId, Address>;
pub type StoredMembership = alias::StoredMembershipOf<Types>;
pub type SnapshotMeta = alias::SnapshotMetaOf<Types>;
pub type AppendEntriesRequest = openraft::raft::AppendEntriesRequest<Types>;
pub type AppendEntriesResponse = openraft::raft::AppendEntriesResponse<Types>;
pub type VoteRequest = openraft::raft::VoteRequest<Types>;
pub type VoteResponse = openraft::raft::VoteResponse<Types>;
pub type SnapshotResponse = openraft::raft::SnapshotResponse<Types>;
pub type TransferLeaderRequest = openraft::raft::TransferLeaderRequest<Types>;
pub type TransferLeaderResponse = openraft::raft::TransferLeaderResponse<Types>;

/// An encoded command: the log never looks inside.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommandBytes(pub Bytes);

impl fmt::Debug for CommandBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for CommandBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How the peers of a member reach it; part of the replicated membership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    pub peer_urls: Vec<String>,
}

/// What applying an entry answered; `None` for entries that carry no command.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer(pub Option<Reply>);

// openraft asks every answer to be serialisable. It travels only as `wire` writes it.
impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_ref().map(wire::encode_reply).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Option::<Bytes>::deserialize(deserializer)?;
        let reply = bytes.map(wire::decode_reply).transpose().map_err(D::Error::custom)?;
        Ok(Self(reply))
    }
}

/// The log's plain id of Raft's.
#[must_use]
pub fn entry_id(id: &LogId) -> EntryId {
    EntryId { term: id.leader_id.term, node: id.leader_id.node_id.0, index: id.index }
}

/// Raft's id of the log's.
#[must_use]
pub fn log_id(id: EntryId) -> LogId {
    LogId::new(LeaderId { term: id.term, node_id: MemberId(id.node) }, id.index)
}
