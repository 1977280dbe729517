//! Proposals: here or at the leader, repeated only when they are known not to be in the log.
//!
//! An attempt ends in one of three ways. *Answered*: the entry was applied. *Rejected*: it was never appended, and may be
//! proposed again. *Unknown*: the leader died or was deposed with it. Then the log itself tells: either the entry is
//! applied here after all, or an entry of a later leader is, and it is not in the log and never will be, because each
//! attempt is bound to one leadership.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::time::{Instant, timeout_at};

use super::inner::{Inner, Leader, until};
use crate::auth::Caller;
use crate::command::{Command, Reply};
use crate::consensus::requests::Request;
use crate::consensus::responder::Replier;
use crate::consensus::types::{CommandBytes, LeaderId, Types};
use crate::error::StoreError;
use crate::ids::MemberId;
use crate::io::clock::Stopwatch;
use crate::io::peer::{Answer, Kind, Lane, Later, PeerError};
use crate::limits::PROPOSALS_MAX;

enum Attempt {
    Answered(Reply),
    Rejected,
    Unknown,
}

/// What became of a forwarded proposal that was not applied. Of one that was, its proposer learns from its own state, and
/// nothing is sent back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forwarded {
    Rejected,
    Unknown,
}

impl Forwarded {
    fn of(result: Option<ClientWriteResult<Types>>) -> Option<Self> {
        match result {
            Some(Ok(_)) => None,
            Some(Err(ClientWriteError::ForwardToLeader(_))) => Some(Self::Rejected),
            // Raft stops, or another leader's entry took its place.
            None | Some(Err(ClientWriteError::LogEntryDiscarded(_))) => Some(Self::Unknown),
            Some(Err(error)) => unreachable!("a command is not a membership change: {error}"),
        }
    }

    fn encode(self) -> Bytes {
        Bytes::from_static(match self {
            Self::Rejected => &[1],
            Self::Unknown => &[2],
        })
    }

    fn decode(bytes: &[u8]) -> Self {
        match bytes {
            [1] => Self::Rejected,
            _ => Self::Unknown,
        }
    }
}

/// A proposal on its way to the leader: bound to its leadership.
pub(super) fn encode_forward(leader: LeaderId, command: &CommandBytes) -> Bytes {
    let mut body = BytesMut::with_capacity(16 + command.0.len());
    body.put_u64_le(leader.term);
    body.put_u64_le(leader.node_id.0);
    body.extend_from_slice(&command.0);
    body.freeze()
}

fn decode_forward(mut body: Bytes) -> Option<(LeaderId, CommandBytes)> {
    if body.len() < 16 {
        return None;
    }
    let leader = LeaderId { term: body.get_u64_le(), node_id: MemberId(body.get_u64_le()) };
    Some((leader, CommandBytes(body)))
}

impl Inner {
    /// For this member itself.
    pub(super) async fn propose(&self, command: &Command) -> Reply {
        self.propose_as(&Caller::Internal, command).await
    }

    pub(super) async fn propose_as(&self, caller: &Caller, command: &Command) -> Reply {
        let since = Stopwatch::start();
        let reply = self.propose_until_known(caller, command).await;
        self.metrics.requests.note(command.into(), reply.is_ok(), since.elapsed());
        reply
    }

    async fn propose_until_known(&self, caller: &Caller, command: &Command) -> Reply {
        if self.requests.waiting() >= PROPOSALS_MAX {
            return Err(StoreError::TooManyRequests);
        }
        let deadline = self.deadline();
        let mut request = self.requests.register(caller, command);
        loop {
            let Some(leader) = self.leader() else {
                self.wait_for_leader(None, deadline).await?;
                continue;
            };
            let attempt = match leader.is_self {
                true => self.propose_here(leader.id, request.bytes(), deadline).await,
                false => self.forward(leader, &mut request, deadline).await,
            };
            match attempt {
                Attempt::Answered(reply) => return reply,
                Attempt::Rejected => self.wait_for_leader(Some(leader), deadline).await?,
                Attempt::Unknown => {
                    if let Some(reply) = self.resolve(&mut request, leader.id, deadline).await {
                        return reply;
                    }
                }
            }
        }
    }

    /// Appends to this leader's log and waits until it is applied.
    async fn propose_here(&self, leader: LeaderId, command: CommandBytes, deadline: Instant) -> Attempt {
        let (waiting, answer) = oneshot::channel();
        if self.raft.write(command).responder(Replier::Waiting(waiting)).with_leader(leader).await.is_err() {
            return Attempt::Answered(Err(StoreError::Stopped));
        }
        match timeout_at(deadline, answer).await {
            Ok(Ok(Ok(written))) => {
                Attempt::Answered(written.data.0.expect("the entry of a command is answered with its reply"))
            }
            Ok(Ok(Err(ClientWriteError::ForwardToLeader(_)))) => Attempt::Rejected,
            Ok(Ok(Err(ClientWriteError::LogEntryDiscarded(_)))) => Attempt::Unknown,
            Ok(Ok(Err(error))) => unreachable!("a command is not a membership change: {error}"),
            Ok(Err(_)) => Attempt::Answered(Err(StoreError::Stopped)),
            Err(_) => Attempt::Answered(Err(StoreError::Timeout)),
        }
    }

    /// Takes over a proposal that another member forwarded. No task waits for it here: `later` tells when it failed.
    pub(super) async fn propose_for(&self, body: Bytes, later: Later) -> Option<Answer> {
        let Some((leader, command)) = decode_forward(body) else {
            return Some(Err("a forwarded proposal that ends early".to_owned()));
        };
        let replier = Replier::callback(move |result| {
            if let Some(failed) = Forwarded::of(result) {
                later.answer(Ok(failed.encode()));
            }
        });
        // Where Raft has stopped, it lets go of the replier, which answers.
        let _ = self.raft.write(command).responder(replier).with_leader(leader).await;
        None
    }

    /// Sends the proposal to the leader; answered as soon as its entry is applied here.
    async fn forward(&self, leader: Leader, request: &mut Request, deadline: Instant) -> Attempt {
        let Some(client) = self.client(leader.member, Lane::Bulk) else { return Attempt::Rejected };
        let body = encode_forward(leader.id, &request.bytes());
        tokio::select! {
            biased;
            reply = &mut request.reply => match reply {
                Ok(reply) => Attempt::Answered(reply),
                Err(_) => Attempt::Answered(Err(StoreError::TimeoutLeaderFailure)),
            },
            called = client.call(Kind::Propose, body, until(deadline)) => match called {
                Ok(outcome) => match Forwarded::decode(&outcome) {
                    Forwarded::Rejected => Attempt::Rejected,
                    Forwarded::Unknown => Attempt::Unknown,
                },
                Err(PeerError::NotSent(_)) => Attempt::Rejected,
                Err(PeerError::Lost(_) | PeerError::Refused(_)) => Attempt::Unknown,
            },
            // A leader that hangs, and whose connection does, never answers; its successor's log tells.
            () = self.succeeded(leader) => Attempt::Unknown,
        }
    }

    /// Waits until the log says what became of a proposal to `leader`: its reply, or `None` when it is not in the log.
    async fn resolve(&self, request: &mut Request, leader: LeaderId, deadline: Instant) -> Option<Reply> {
        let mut progress = self.progress.clone();
        tokio::select! {
            biased;
            reply = &mut request.reply => Some(reply.unwrap_or(Err(StoreError::TimeoutLeaderFailure))),
            passed = progress.wait_for(|progress| progress.leader > Some(leader)) => match passed {
                // Requests are completed before progress shows their entries.
                Ok(_) => match request.reply.try_recv() {
                    Ok(reply) => Some(reply),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Closed) => Some(Err(StoreError::TimeoutLeaderFailure)),
                },
                Err(_) => Some(Err(StoreError::Stopped)),
            },
            () = tokio::time::sleep_until(deadline) => Some(Err(StoreError::TimeoutLeaderFailure)),
            () = self.stop.cancelled() => Some(Err(StoreError::Stopped)),
        }
    }
}
