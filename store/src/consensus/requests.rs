//! Proposals that wait for their entry to be applied, wherever it was appended.
//!
//! Every command's entry starts with the member that proposed it and that member's number for it, and, while
//! authentication is on, who asked for it (see [`Caller`]). When it is applied
//! there, the proposer is answered from its own state machine: a proposal that was on its way to a leader that died is
//! answered if its entry survived, and once an entry of a later leader is applied without it, it is known to be lost and
//! may be proposed again. So a change of leader is a pause for a client and never an "unknown".

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::types::CommandBytes;
use crate::auth::Caller;
use crate::command::{Command, DecodeError, Reply};
use crate::ids::MemberId;

const HEADER: usize = 16;

/// Who asked, and under which number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub member: MemberId,
    pub number: u64,
}

/// The proposals of this member.
#[derive(Debug)]
pub struct Requests {
    member: MemberId,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: u64,
    waiting: HashMap<u64, oneshot::Sender<Reply>>,
}

impl Requests {
    /// `start` must differ from one life of the process to the next: entries of an earlier life are applied in this one.
    #[must_use]
    pub fn new(member: MemberId, start: u64) -> Arc<Self> {
        Arc::new(Self { member, state: Mutex::new(State { next: start, waiting: HashMap::new() }) })
    }

    /// A new proposal of `command` for `caller`.
    #[must_use]
    pub fn register(self: &Arc<Self>, caller: &Caller, command: &Command) -> Request {
        let (sender, reply) = oneshot::channel();
        let number = {
            let mut state = self.state.lock();
            state.next = state.next.wrapping_add(1);
            let number = state.next;
            state.waiting.insert(number, sender);
            number
        };
        let body = command.encode();
        let mut bytes = BytesMut::with_capacity(HEADER + caller.encoded_len() + body.len());
        bytes.put_u64_le(self.member.0);
        bytes.put_u64_le(number);
        caller.encode(&mut bytes);
        bytes.extend_from_slice(&body);
        Request { bytes: bytes.freeze(), number, reply, requests: self.clone() }
    }

    /// How many are under way.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// Whether `origin` waits here.
    #[must_use]
    pub fn is_mine(&self, origin: Origin) -> bool {
        origin.member == self.member
    }

    /// The entry of `origin` was applied.
    pub fn complete(&self, origin: Origin, reply: Reply) {
        let waiting = self.state.lock().waiting.remove(&origin.number);
        if let Some(waiting) = waiting {
            // Its deadline may just have passed.
            let _ = waiting.send(reply);
        }
    }

    /// Entries were skipped by installing a snapshot: nobody can say which.
    pub fn forget(&self) {
        self.state.lock().waiting.clear();
    }
}

/// Splits an entry's bytes.
///
/// # Errors
/// When the command does not decode.
pub fn decode(mut bytes: Bytes) -> Result<(Origin, Caller, Command), DecodeError> {
    if bytes.len() < HEADER {
        return Err(DecodeError::Empty);
    }
    let origin = Origin { member: MemberId(bytes.get_u64_le()), number: bytes.get_u64_le() };
    let caller = Caller::decode(&mut bytes).ok_or(DecodeError::Caller)?;
    Ok((origin, caller, Command::decode(bytes)?))
}

/// A proposal under way.
#[derive(Debug)]
pub struct Request {
    bytes: Bytes,
    number: u64,
    /// Answers when the entry is applied here; fails when that can no longer be known.
    pub reply: oneshot::Receiver<Reply>,
    requests: Arc<Requests>,
}

impl Request {
    /// What the entry carries.
    #[must_use]
    pub fn bytes(&self) -> CommandBytes {
        CommandBytes(self.bytes.clone())
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.requests.state.lock().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use kontiki_api::etcdserverpb as pb;

    use super::*;
    use crate::command::Response;

    #[test]
    fn a_request_is_answered_by_its_own_entry_only() {
        let requests = Requests::new(MemberId(7), 100);
        let command = Command::Put(pb::PutRequest { key: Bytes::from_static(b"k"), ..Default::default() });
        let alice = Caller::User { name: "alice".into(), revision: 3 };
        let mut first = requests.register(&Caller::Anonymous, &command);
        let mut second = requests.register(&alice, &command);
        let (origin, caller, decoded) = decode(second.bytes().0).unwrap();
        assert_eq!((caller, decoded), (alice, command));
        assert!(requests.is_mine(origin));
        requests.complete(origin, Ok(Response::PublishMember));
        assert_eq!(second.reply.try_recv(), Ok(Ok(Response::PublishMember)));
        assert!(first.reply.try_recv().is_err());
        requests.forget();
        assert_eq!(first.reply.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
