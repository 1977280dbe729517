//! What a log entry carries, and what applying it answers.
//!
//! A command holds everything its application needs: no clock, no randomness and no member-local state may decide
//! anything in apply, or members drift apart. Ids, times and defaults are therefore chosen before the proposal.

use bytes::{BufMut, Bytes, BytesMut};
use kontiki_api::etcdserverpb as pb;
use prost::Message;

use crate::auth::{AuthAnswer, AuthCommand, command as auth};
use crate::error::StoreError;
use crate::ids::{LeaseId, MemberId};
use crate::maintenance::{ClusterVersion, Quarantine};

/// A replicated change. Encoded as one kind byte and a protobuf body.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Put(pb::PutRequest),
    DeleteRange(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    /// `ID` is never 0 and `TTL` (seconds) is already clamped: the proposer chose both.
    LeaseGrant(pb::LeaseGrantRequest),
    LeaseRevoke(pb::LeaseRevokeRequest),
    /// A member announces its name and client URLs (`peerURLs` come from the membership itself).
    PublishMember(pb::Member),
    Auth(AuthCommand),
    MemberAdd(AddMember),
    MemberRemove(pb::MemberRemoveRequest),
    MemberChange(ChangeMember),
    /// `ACTIVATE` or `DEACTIVATE`.
    Alarm(pb::AlarmRequest),
    SetClusterVersion(ClusterVersion),
    SetDowngrade(pb::DowngradeInfo),
    /// The outcome of a comparison of the members.
    Quarantine(Quarantine),
}

/// A new member: its id and URLs are chosen before the proposal.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AddMember {
    #[prost(message, required, tag = "1")]
    pub member: pb::Member,
    /// The proposer's limit.
    #[prost(uint32, tag = "2")]
    pub max_learners: u32,
}

/// Other peer URLs for a member, or a vote for a learner.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ChangeMember {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, repeated, tag = "2")]
    pub peer_urls: Vec<String>,
    /// The URLs are left alone then.
    #[prost(bool, tag = "3")]
    pub promote: bool,
}

/// The answer of applying a [`Command`]; headers are filled by the edge, except `revision`, which is set here.
pub type Reply = Result<Response, StoreError>;

#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    Put(pb::PutResponse),
    DeleteRange(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    LeaseGrant(pb::LeaseGrantResponse),
    LeaseRevoke(pb::LeaseRevokeResponse),
    PublishMember,
    MemberChanged,
    Auth(AuthAnswer),
    Alarm(pb::AlarmResponse),
    /// A change of what is agreed on, which answers nothing.
    Agreed,
}

/// A log entry that this program cannot read: it was written by a newer one, or the log is damaged.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the command is empty")]
    Empty,
    #[error("the caller of a command does not decode")]
    Caller,
    #[error("unknown command kind {0}: written by a newer version?")]
    UnknownKind(u8),
    #[error("command body: {0}")]
    Body(#[from] prost::DecodeError),
}

// 0xf0 and above are no kinds: an entry's caller is marked there.
const PUT: u8 = 1;
const DELETE_RANGE: u8 = 2;
const TXN: u8 = 3;
const COMPACT: u8 = 4;
const LEASE_GRANT: u8 = 5;
const LEASE_REVOKE: u8 = 6;
const PUBLISH_MEMBER: u8 = 7;
const MEMBER_ADD: u8 = 9;
const MEMBER_REMOVE: u8 = 10;
const MEMBER_CHANGE: u8 = 11;
const ALARM: u8 = 8;
const SET_CLUSTER_VERSION: u8 = 12;
const SET_DOWNGRADE: u8 = 13;
const QUARANTINE: u8 = 14;

impl Command {
    /// Kind byte and protobuf body, in one buffer.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Put(body) => encode(PUT, body),
            Self::DeleteRange(body) => encode(DELETE_RANGE, body),
            Self::Txn(body) => encode(TXN, body),
            Self::Compact(body) => encode(COMPACT, body),
            Self::LeaseGrant(body) => encode(LEASE_GRANT, body),
            Self::LeaseRevoke(body) => encode(LEASE_REVOKE, body),
            Self::PublishMember(body) => encode(PUBLISH_MEMBER, body),
            Self::MemberAdd(body) => encode(MEMBER_ADD, body),
            Self::MemberRemove(body) => encode(MEMBER_REMOVE, body),
            Self::MemberChange(body) => encode(MEMBER_CHANGE, body),
            Self::Auth(command) => command.encode(),
            Self::Alarm(body) => encode(ALARM, body),
            Self::SetClusterVersion(body) => encode(SET_CLUSTER_VERSION, body),
            Self::SetDowngrade(body) => encode(SET_DOWNGRADE, body),
            Self::Quarantine(body) => encode(QUARANTINE, body),
        }
    }

    /// The inverse of [`Command::encode`]; keys and values are slices of `bytes`.
    ///
    /// # Errors
    /// When the kind is unknown or the body is not the protobuf message of that kind.
    pub fn decode(mut bytes: Bytes) -> Result<Self, DecodeError> {
        if bytes.is_empty() {
            return Err(DecodeError::Empty);
        }
        let kind = bytes.split_to(1)[0];
        Ok(match kind {
            PUT => Self::Put(pb::PutRequest::decode(bytes)?),
            DELETE_RANGE => Self::DeleteRange(pb::DeleteRangeRequest::decode(bytes)?),
            TXN => Self::Txn(pb::TxnRequest::decode(bytes)?),
            COMPACT => Self::Compact(pb::CompactionRequest::decode(bytes)?),
            LEASE_GRANT => Self::LeaseGrant(pb::LeaseGrantRequest::decode(bytes)?),
            LEASE_REVOKE => Self::LeaseRevoke(pb::LeaseRevokeRequest::decode(bytes)?),
            PUBLISH_MEMBER => Self::PublishMember(pb::Member::decode(bytes)?),
            MEMBER_ADD => Self::MemberAdd(AddMember::decode(bytes)?),
            MEMBER_REMOVE => Self::MemberRemove(pb::MemberRemoveRequest::decode(bytes)?),
            MEMBER_CHANGE => Self::MemberChange(ChangeMember::decode(bytes)?),
            kind @ auth::FIRST_KIND..=auth::LAST_KIND => Self::Auth(AuthCommand::decode(kind, bytes)?),
            ALARM => Self::Alarm(pb::AlarmRequest::decode(bytes)?),
            SET_CLUSTER_VERSION => Self::SetClusterVersion(ClusterVersion::decode(bytes)?),
            SET_DOWNGRADE => Self::SetDowngrade(pb::DowngradeInfo::decode(bytes)?),
            QUARANTINE => Self::Quarantine(Quarantine::decode(bytes)?),
            other => return Err(DecodeError::UnknownKind(other)),
        })
    }

    /// The lease this command renews the life of, if it grants one.
    #[must_use]
    pub fn granted_lease(&self) -> Option<LeaseId> {
        match self {
            Self::LeaseGrant(body) => Some(LeaseId(body.id)),
            _ => None,
        }
    }

    /// The member that announces itself, if any.
    #[must_use]
    pub fn published_member(&self) -> Option<MemberId> {
        match self {
            Self::PublishMember(body) => Some(MemberId(body.id)),
            _ => None,
        }
    }
}

fn encode(kind: u8, body: &impl Message) -> Bytes {
    let mut buffer = BytesMut::with_capacity(1 + body.encoded_len());
    buffer.put_u8(kind);
    body.encode(&mut buffer).expect("a BytesMut grows as needed");
    buffer.freeze()
}
