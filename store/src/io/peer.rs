//! The transport between members: framed messages over persistent connections, calls correlated by number.
//!
//! Between two members there are up to three connections each way, so that nothing urgent waits behind something large:
//! votes, heartbeats and read-index questions on one, appends on another, snapshots and forwarded proposals on a third.
//! A connection starts with a handshake that names the cluster and both members; a stranger is told why and let go. A
//! visitor, who is to become a member and knows no ids yet, may ask who the members are.
//! Beside them, an HTTP client may read a few pages (`pages`).
//! What a message means is not known here: `raft` binds openraft's calls to it, [`Service`] is the receiving side.

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::ids::{ClusterId, MemberId};
use crate::metrics::PeerTraffic;

pub mod client;
mod connection;
pub mod fetch;
mod frame;
mod granted;
mod handshake;
mod pages;
pub mod raft;
pub mod server;
pub mod snapshot;
#[cfg(test)]
mod tests;

pub use server::Later;

/// Which connection a message takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Small and urgent.
    Control,
    /// Replication.
    Append,
    /// Large or slow.
    Bulk,
}

pub const LANES: [Lane; 3] = [Lane::Control, Lane::Append, Lane::Bulk];

/// What a message asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Append,
    Vote,
    PreVote,
    TransferLeader,
    SnapshotBegin,
    SnapshotChunk,
    SnapshotEnd,
    Propose,
    ReadIndex,
    KeepAlive,
    TimeToLive,
    /// Whether the caller has been a member before, or was removed.
    IsKnown,
    /// Who the members are; the only question that a visitor may ask.
    Roster,
    /// Whether a membership change would leave a healthy cluster, as the leader sees it.
    MayChange,
    /// A copy of the state, for a member that has lost or must not trust its own.
    FetchBegin,
    FetchPart,
    FetchEnd,
    /// The digest of the contents at a revision.
    HashKv,
    /// The release that the member runs.
    Version,
    /// An append without entries, which tells that the leader leads.
    Heartbeat,
}

const KINDS: [Kind; 20] = [
    Kind::Append,
    Kind::Vote,
    Kind::PreVote,
    Kind::TransferLeader,
    Kind::SnapshotBegin,
    Kind::SnapshotChunk,
    Kind::SnapshotEnd,
    Kind::Propose,
    Kind::ReadIndex,
    Kind::KeepAlive,
    Kind::TimeToLive,
    Kind::IsKnown,
    Kind::Roster,
    Kind::MayChange,
    Kind::FetchBegin,
    Kind::FetchPart,
    Kind::FetchEnd,
    Kind::HashKv,
    Kind::Version,
    Kind::Heartbeat,
];

impl Kind {
    /// The byte on the wire.
    fn number(self) -> u8 {
        self as u8
    }

    fn from_number(number: u8) -> Option<Self> {
        KINDS.get(usize::from(number)).copied()
    }
}

/// This member, as it introduces itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: ClusterId,
    pub member: MemberId,
}

/// Who has no identity yet.
pub const VISITOR: Identity = Identity { cluster: ClusterId(0), member: MemberId(0) };

/// Why a call got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The message was never sent: the peer cannot have acted on it.
    #[error("unreachable: {0}")]
    NotSent(String),
    /// The message may have arrived.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// The peer could not do it, and says why.
    #[error("the peer refused: {0}")]
    Refused(String),
}

/// What a call is answered, or why it is refused.
pub type Answer = Result<Bytes, String>;

/// The receiving side of calls.
pub trait Service: Send + Sync + 'static {
    /// Starts a call. The returned future is polled once before the next message of the same connection is looked at, so
    /// what it does before its first wait happens in the order of the messages. It ends without an answer where `later`
    /// gives one, or where none is needed.
    fn call(&self, from: MemberId, kind: Kind, body: Bytes, later: Later) -> BoxFuture<'static, Option<Answer>>;

    /// `member` connected to this one.
    fn connected(&self, member: MemberId);

    /// A connection from `member` ended.
    fn lost(&self, member: MemberId);

    /// Whether `member` was removed from the cluster. Anyone else of the same cluster is welcome: a member that lags may
    /// not know its leader yet.
    fn is_removed(&self, member: MemberId) -> bool;

    /// What is said to an HTTP client that asks for `path`; none where there is no such page.
    fn page(&self, _path: &str) -> Option<http::Response<String>> {
        None
    }

    /// Where the traffic with `member` is counted; for nobody by default.
    fn traffic(&self, _member: MemberId) -> PeerTraffic {
        PeerTraffic::default()
    }
}
