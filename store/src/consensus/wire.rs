//! Hot messages as bytes: appends, their answers, and replies to forwarded proposals.
//!
//! Little endian, no padding. Payloads are slices of what was received. Both ends are the same program; the handshake
//! carries a version for the day they are not.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use super::log_store::{from_wal, to_wal};
use super::types::{AppendEntriesRequest, AppendEntriesResponse, LeaderId, LogId, Vote, entry_id, log_id};
use crate::auth::{AuthAnswer, AuthError};
use crate::command::{Reply, Response};
use crate::error::StoreError;
use crate::ids::MemberId;
use crate::wal;

/// A message that this program cannot read.
#[derive(Debug, thiserror::Error)]
#[error("a peer's message does not decode: {0}")]
pub struct WireError(&'static str);

const ID_LENGTH: usize = 24;

/// An append as sent to a follower.
#[must_use]
pub fn encode_append(request: AppendEntriesRequest) -> Bytes {
    let AppendEntriesRequest { vote, prev_log_id, entries, leader_commit } = request;
    let entries: Vec<wal::Entry> = entries.into_iter().map(to_wal).collect();
    let payloads: usize = entries.iter().map(|entry| entry.payload.len() + ID_LENGTH + 5).sum();
    let mut buffer = BytesMut::with_capacity(payloads + 80);
    put_vote(&mut buffer, &vote);
    put_log_id(&mut buffer, prev_log_id.as_ref());
    put_log_id(&mut buffer, leader_commit.as_ref());
    buffer.put_u32_le(entries.len() as u32);
    for wal::Entry { id, kind, payload } in entries {
        put_id(&mut buffer, id);
        buffer.put_u8(kind);
        buffer.put_u32_le(payload.len() as u32);
        buffer.extend_from_slice(&payload);
    }
    buffer.freeze()
}

/// # Errors
/// When the bytes are not an append.
pub fn decode_append(mut bytes: Bytes) -> Result<AppendEntriesRequest, WireError> {
    let vote = get_vote(&mut bytes)?;
    let prev_log_id = get_log_id(&mut bytes)?;
    let leader_commit = get_log_id(&mut bytes)?;
    need(&bytes, 4)?;
    let count = bytes.get_u32_le() as usize;
    let mut entries = Vec::with_capacity(count.min(bytes.len() / ID_LENGTH));
    for _ in 0..count {
        let id = get_id(&mut bytes)?;
        need(&bytes, 5)?;
        let kind = bytes.get_u8();
        let length = bytes.get_u32_le() as usize;
        need(&bytes, length)?;
        let entry = wal::Entry { id, kind, payload: bytes.split_to(length) };
        entries.push(from_wal(entry).map_err(|_| WireError("unknown kind of entry"))?);
    }
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

const SUCCESS: u8 = 0;
const PARTIAL: u8 = 1;
const CONFLICT: u8 = 2;
const HIGHER_VOTE: u8 = 3;

#[must_use]
pub fn encode_append_response(response: &AppendEntriesResponse) -> Bytes {
    let mut buffer = BytesMut::with_capacity(32);
    match response {
        AppendEntriesResponse::Success => buffer.put_u8(SUCCESS),
        AppendEntriesResponse::PartialSuccess(id) => {
            buffer.put_u8(PARTIAL);
            put_log_id(&mut buffer, id.as_ref());
        }
        AppendEntriesResponse::Conflict => buffer.put_u8(CONFLICT),
        AppendEntriesResponse::HigherVote(vote) => {
            buffer.put_u8(HIGHER_VOTE);
            put_vote(&mut buffer, vote);
        }
    }
    buffer.freeze()
}

/// # Errors
/// When the bytes are not an answer to an append.
pub fn decode_append_response(mut bytes: Bytes) -> Result<AppendEntriesResponse, WireError> {
    need(&bytes, 1)?;
    Ok(match bytes.get_u8() {
        SUCCESS => AppendEntriesResponse::Success,
        PARTIAL => AppendEntriesResponse::PartialSuccess(get_log_id(&mut bytes)?),
        CONFLICT => AppendEntriesResponse::Conflict,
        HIGHER_VOTE => AppendEntriesResponse::HigherVote(get_vote(&mut bytes)?),
        _ => return Err(WireError("unknown answer to an append")),
    })
}

const FAILED: u8 = 0;
const PUT: u8 = 1;
const DELETE_RANGE: u8 = 2;
const TXN: u8 = 3;
const COMPACT: u8 = 4;
const LEASE_GRANT: u8 = 5;
const LEASE_REVOKE: u8 = 6;
const PUBLISH_MEMBER: u8 = 7;
const MEMBER_CHANGED: u8 = 9;
const AUTH_DONE: u8 = 20;
const AUTH_TOKEN: u8 = 21;
/// Errors from here on are those of authentication, by their own numbers.
const FIRST_AUTH_ERROR: u8 = 128;
const ALARM: u8 = 8;
const AGREED: u8 = 12;

/// A reply as it travels from the leader to the member that a client asked.
#[must_use]
pub fn encode_reply(reply: &Reply) -> Bytes {
    let (kind, body) = match reply {
        Err(error) => (FAILED, vec![error_number(error)]),
        Ok(Response::Put(body)) => (PUT, body.encode_to_vec()),
        Ok(Response::DeleteRange(body)) => (DELETE_RANGE, body.encode_to_vec()),
        Ok(Response::Txn(body)) => (TXN, body.encode_to_vec()),
        Ok(Response::Compact(body)) => (COMPACT, body.encode_to_vec()),
        Ok(Response::LeaseGrant(body)) => (LEASE_GRANT, body.encode_to_vec()),
        Ok(Response::LeaseRevoke(body)) => (LEASE_REVOKE, body.encode_to_vec()),
        Ok(Response::PublishMember) => (PUBLISH_MEMBER, Vec::new()),
        Ok(Response::MemberChanged) => (MEMBER_CHANGED, Vec::new()),
        Ok(Response::Auth(AuthAnswer::Done)) => (AUTH_DONE, Vec::new()),
        Ok(Response::Auth(AuthAnswer::Token(token))) => (AUTH_TOKEN, token.clone().into_bytes()),
        Ok(Response::Alarm(body)) => (ALARM, body.encode_to_vec()),
        Ok(Response::Agreed) => (AGREED, Vec::new()),
    };
    let mut buffer = BytesMut::with_capacity(body.len() + 1);
    buffer.put_u8(kind);
    buffer.extend_from_slice(&body);
    buffer.freeze()
}

/// # Errors
/// When the bytes are not a reply.
pub fn decode_reply(mut bytes: Bytes) -> Result<Reply, WireError> {
    const BODY: WireError = WireError("the body of a reply");
    need(&bytes, 1)?;
    Ok(Ok(match bytes.get_u8() {
        FAILED => {
            need(&bytes, 1)?;
            let number = bytes.get_u8();
            if number >= FIRST_AUTH_ERROR {
                let error = AuthError::from_number(number - FIRST_AUTH_ERROR).ok_or(WireError("unknown error"))?;
                return Ok(Err(error.into()));
            }
            let number = usize::from(number);
            return Ok(Err(ERRORS.get(number).cloned().ok_or(WireError("unknown error"))?));
        }
        PUT => Response::Put(Message::decode(bytes).map_err(|_| BODY)?),
        DELETE_RANGE => Response::DeleteRange(Message::decode(bytes).map_err(|_| BODY)?),
        TXN => Response::Txn(Message::decode(bytes).map_err(|_| BODY)?),
        COMPACT => Response::Compact(Message::decode(bytes).map_err(|_| BODY)?),
        LEASE_GRANT => Response::LeaseGrant(Message::decode(bytes).map_err(|_| BODY)?),
        LEASE_REVOKE => Response::LeaseRevoke(Message::decode(bytes).map_err(|_| BODY)?),
        PUBLISH_MEMBER => Response::PublishMember,
        MEMBER_CHANGED => Response::MemberChanged,
        AUTH_DONE => Response::Auth(AuthAnswer::Done),
        AUTH_TOKEN => Response::Auth(AuthAnswer::Token(String::from_utf8(bytes.to_vec()).map_err(|_| BODY)?)),
        ALARM => Response::Alarm(Message::decode(bytes).map_err(|_| BODY)?),
        AGREED => Response::Agreed,
        _ => return Err(WireError("unknown kind of reply")),
    }))
}

/// Every error at its number. Only ever appended to.
const ERRORS: [StoreError; 34] = [
    StoreError::EmptyKey,
    StoreError::KeyNotFound,
    StoreError::ValueProvided,
    StoreError::LeaseProvided,
    StoreError::TooManyOps,
    StoreError::DuplicateKey,
    StoreError::InvalidSortOption,
    StoreError::RequestTooLarge,
    StoreError::Compacted,
    StoreError::FutureRevision,
    StoreError::NoSpace,
    StoreError::LeaseNotFound,
    StoreError::LeaseExists,
    StoreError::LeaseTtlTooLarge,
    StoreError::NoLeader,
    StoreError::LeaderChanged,
    StoreError::NotLeader,
    StoreError::Stopped,
    StoreError::Timeout,
    StoreError::TimeoutLeaderFailure,
    StoreError::TooManyRequests,
    StoreError::BadLeaderTransferee,
    StoreError::MemberNotFound,
    StoreError::Corrupt,
    StoreError::NotPrimaryLessor,
    StoreError::MemberUrlsInvalid,
    StoreError::PeerUrlExists,
    StoreError::MemberExists,
    StoreError::TooManyLearners,
    StoreError::NotEnoughStartedMembers,
    StoreError::UnhealthyCluster,
    StoreError::MemberNotLearner,
    StoreError::LearnerNotReady,
    StoreError::NotSupportedForLearner,
];

fn error_number(error: &StoreError) -> u8 {
    match error {
        StoreError::EmptyKey => 0,
        StoreError::KeyNotFound => 1,
        StoreError::ValueProvided => 2,
        StoreError::LeaseProvided => 3,
        StoreError::TooManyOps => 4,
        StoreError::DuplicateKey => 5,
        StoreError::InvalidSortOption => 6,
        StoreError::RequestTooLarge => 7,
        StoreError::Compacted => 8,
        StoreError::FutureRevision => 9,
        StoreError::NoSpace => 10,
        StoreError::LeaseNotFound => 11,
        StoreError::LeaseExists => 12,
        StoreError::LeaseTtlTooLarge => 13,
        StoreError::NoLeader => 14,
        StoreError::LeaderChanged => 15,
        StoreError::NotLeader => 16,
        StoreError::Stopped => 17,
        StoreError::Timeout => 18,
        StoreError::TimeoutLeaderFailure => 19,
        StoreError::TooManyRequests => 20,
        StoreError::BadLeaderTransferee => 21,
        StoreError::MemberNotFound => 22,
        StoreError::Corrupt => 23,
        StoreError::NotPrimaryLessor => 24,
        StoreError::MemberUrlsInvalid => 25,
        StoreError::PeerUrlExists => 26,
        StoreError::MemberExists => 27,
        StoreError::TooManyLearners => 28,
        StoreError::NotEnoughStartedMembers => 29,
        StoreError::UnhealthyCluster => 30,
        StoreError::MemberNotLearner => 31,
        StoreError::LearnerNotReady => 32,
        StoreError::NotSupportedForLearner => 33,
        StoreError::Auth(error) => FIRST_AUTH_ERROR + error.number(),
    }
}

fn need(bytes: &Bytes, length: usize) -> Result<(), WireError> {
    match bytes.len() >= length {
        true => Ok(()),
        false => Err(WireError("it ends early")),
    }
}

fn put_id(buffer: &mut BytesMut, id: wal::EntryId) {
    let wal::EntryId { term, node, index } = id;
    buffer.put_u64_le(term);
    buffer.put_u64_le(node);
    buffer.put_u64_le(index);
}

fn get_id(bytes: &mut Bytes) -> Result<wal::EntryId, WireError> {
    need(bytes, ID_LENGTH)?;
    Ok(wal::EntryId { term: bytes.get_u64_le(), node: bytes.get_u64_le(), index: bytes.get_u64_le() })
}

fn put_log_id(buffer: &mut BytesMut, id: Option<&LogId>) {
    buffer.put_u8(id.is_some().into());
    if let Some(id) = id {
        put_id(buffer, entry_id(id));
    }
}

fn get_log_id(bytes: &mut Bytes) -> Result<Option<LogId>, WireError> {
    need(bytes, 1)?;
    match bytes.get_u8() {
        0 => Ok(None),
        _ => Ok(Some(log_id(get_id(bytes)?))),
    }
}

fn put_vote(buffer: &mut BytesMut, vote: &Vote) {
    buffer.put_u64_le(vote.leader_id.term);
    buffer.put_u64_le(vote.leader_id.node_id.0);
    buffer.put_u8(vote.committed.into());
}

fn get_vote(bytes: &mut Bytes) -> Result<Vote, WireError> {
    need(bytes, 17)?;
    let leader_id = LeaderId { term: bytes.get_u64_le(), node_id: MemberId(bytes.get_u64_le()) };
    Ok(Vote { leader_id, committed: bytes.get_u8() != 0 })
}

#[cfg(test)]
mod tests {
    use kontiki_api::etcdserverpb as pb;

    use super::*;
    use crate::consensus::types::{CommandBytes, Entry, Payload};

    fn id(index: u64) -> LogId {
        log_id(wal::EntryId { term: 4, node: 7, index })
    }

    fn request() -> AppendEntriesRequest {
        AppendEntriesRequest {
            vote: Vote::new_committed(4, MemberId(7)),
            prev_log_id: Some(id(8)),
            entries: vec![
                Entry { log_id: id(9), payload: Payload::Blank },
                Entry { log_id: id(10), payload: Payload::Normal(CommandBytes(Bytes::from_static(b"put"))) },
            ],
            leader_commit: None,
        }
    }

    #[test]
    fn an_append_comes_back() {
        let back = decode_append(encode_append(request())).unwrap();
        assert_eq!(format!("{back:?}"), format!("{:?}", request()));
    }

    #[test]
    fn a_cut_message_is_an_error_and_never_a_panic() {
        let whole = encode_append(request());
        for length in 0..whole.len() {
            assert!(decode_append(whole.slice(..length)).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn every_answer_to_an_append_comes_back() {
        for response in [
            AppendEntriesResponse::Success,
            AppendEntriesResponse::PartialSuccess(Some(id(3))),
            AppendEntriesResponse::PartialSuccess(None),
            AppendEntriesResponse::Conflict,
            AppendEntriesResponse::HigherVote(Vote::new(5, MemberId(8))),
        ] {
            assert_eq!(decode_append_response(encode_append_response(&response)).unwrap(), response);
        }
    }

    #[test]
    fn replies_and_all_errors_come_back() {
        let put = Ok(Response::Put(pb::PutResponse::default()));
        assert_eq!(decode_reply(encode_reply(&put)).unwrap(), put);
        for answer in [AuthAnswer::Done, AuthAnswer::Token("letters.7".to_owned())] {
            let answered = Ok(Response::Auth(answer));
            assert_eq!(decode_reply(encode_reply(&answered)).unwrap(), answered);
        }
        for error in ERRORS.into_iter().chain(AuthError::all().iter().map(|error| StoreError::Auth(*error))) {
            assert_eq!(decode_reply(encode_reply(&Err(error.clone()))).unwrap(), Err(error));
        }
    }
}
