//! The first bytes of a connection: who calls whom, in which cluster, for what.
//!
//! ```text
//! caller:   magic 8 | version u16 | cluster u64 | from u64 | to u64 | lane u8
//! receiver: verdict u8 | cluster u64 | member u64
//! ```
//!
//! A visitor is nobody in no cluster and calls whoever answers: all three ids are 0.

use std::io;

use bytes::{Buf, BufMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Identity, Lane, VISITOR};
use crate::ids::{ClusterId, MemberId};

/// Bytes by which a caller is told from others than members.
pub(super) const OPENING: usize = 8;
const MAGIC: &[u8; OPENING] = b"kontikiP";
const VERSION: u16 = 1;
const HELLO: usize = 35;
const ANSWER: usize = 17;

const WELCOME: u8 = 0;
const OTHER_CLUSTER: u8 = 1;
const OTHER_MEMBER: u8 = 2;
const REMOVED: u8 = 3;
const OTHER_VERSION: u8 = 4;

/// Introduces `me` to `to`.
///
/// # Errors
/// With the receiver's reason when it refuses.
pub(super) async fn call<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    me: Identity,
    to: MemberId,
    lane: Lane,
) -> io::Result<()> {
    let mut hello = Vec::with_capacity(HELLO);
    hello.extend_from_slice(MAGIC);
    hello.put_u16_le(VERSION);
    hello.put_u64_le(me.cluster.0);
    hello.put_u64_le(me.member.0);
    hello.put_u64_le(to.0);
    hello.put_u8(lane as u8);
    stream.write_all(&hello).await?;
    let mut answer = [0; ANSWER];
    stream.read_exact(&mut answer).await?;
    let mut answer = &answer[..];
    let verdict = answer.get_u8();
    let (cluster, member) = (ClusterId(answer.get_u64_le()), MemberId(answer.get_u64_le()));
    let reason = match verdict {
        WELCOME => return Ok(()),
        OTHER_CLUSTER => format!("it belongs to cluster {cluster}, this member to cluster {}", me.cluster),
        OTHER_MEMBER => format!("it is member {member}, not {to}: is the initial cluster the same everywhere?"),
        REMOVED => return Err(io::Error::new(io::ErrorKind::PermissionDenied, Removed)),
        OTHER_VERSION => format!("it does not speak version {VERSION} of the protocol"),
        other => format!("it answered {other}: not a member of this kind of cluster"),
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
}

/// The caller was removed from the cluster for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this member has been removed from the cluster")]
pub(super) struct Removed;

impl Removed {
    /// Whether this is why a connection was refused.
    pub(super) fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}

/// Who called.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) member: MemberId,
    pub(super) lane: Lane,
}

/// The first bytes of a connection.
///
/// # Errors
/// `UnexpectedEof` when the caller says less.
pub(super) async fn opening<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<[u8; OPENING]> {
    let mut opening = [0; OPENING];
    stream.read_exact(&mut opening).await?;
    Ok(opening)
}

/// Answers the introduction of a caller that began with `opening`; the error says why it was refused, for this member's log.
///
/// # Errors
/// When the caller is refused or no caller at all.
pub(super) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    opening: [u8; OPENING],
    me: Identity,
    is_removed: impl Fn(MemberId) -> bool,
) -> io::Result<Caller> {
    if opening != *MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a member: is this meant for the client port?"));
    }
    let mut hello = [0; HELLO - OPENING];
    stream.read_exact(&mut hello).await?;
    let mut rest = &hello[..];
    let version = rest.get_u16_le();
    let (cluster, from, to) = (ClusterId(rest.get_u64_le()), MemberId(rest.get_u64_le()), MemberId(rest.get_u64_le()));
    let lane = match rest.get_u8() {
        0 => Lane::Control,
        1 => Lane::Append,
        _ => Lane::Bulk,
    };
    let visits = (Identity { cluster, member: from }, to) == (VISITOR, VISITOR.member);
    let (verdict, reason) = if version != VERSION {
        (OTHER_VERSION, format!("it speaks version {version} of the protocol, this member version {VERSION}"))
    } else if visits {
        (WELCOME, String::new())
    } else if cluster != me.cluster {
        (OTHER_CLUSTER, format!("it belongs to cluster {cluster}, this member to cluster {}", me.cluster))
    } else if to != me.member {
        (OTHER_MEMBER, format!("it wants member {to}, this is member {}", me.member))
    } else if is_removed(from) {
        (REMOVED, format!("member {from} was removed from the cluster"))
    } else {
        (WELCOME, String::new())
    };
    let mut answer = Vec::with_capacity(ANSWER);
    answer.put_u8(verdict);
    answer.put_u64_le(me.cluster.0);
    answer.put_u64_le(me.member.0);
    stream.write_all(&answer).await?;
    match verdict {
        WELCOME => Ok(Caller { member: from, lane }),
        _ => Err(io::Error::new(io::ErrorKind::PermissionDenied, reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Identity = Identity { cluster: ClusterId(1), member: MemberId(0xa) };
    const B: Identity = Identity { cluster: ClusterId(1), member: MemberId(0xb) };

    const GONE: MemberId = MemberId(0xd);

    async fn meet(caller: Identity, to: MemberId) -> (io::Result<()>, io::Result<Caller>) {
        let (mut near, mut far) = tokio::io::duplex(100);
        let answering = async {
            let opening = opening(&mut far).await?;
            answer(&mut far, opening, B, |member| member == GONE).await
        };
        tokio::join!(call(&mut near, caller, to, Lane::Append), answering)
    }

    #[tokio::test]
    async fn members_of_one_cluster_meet() {
        let (called, answered) = meet(A, B.member).await;
        called.unwrap();
        assert_eq!(answered.unwrap(), Caller { member: A.member, lane: Lane::Append });
    }

    #[tokio::test]
    async fn strangers_are_told_why() {
        let other = Identity { cluster: ClusterId(2), ..A };
        let (called, answered) = meet(other, B.member).await;
        assert_eq!(called.unwrap_err().to_string(), "it belongs to cluster 1, this member to cluster 2");
        assert_eq!(answered.unwrap_err().to_string(), "it belongs to cluster 2, this member to cluster 1");
        let (called, _) = meet(A, MemberId(0xc)).await;
        assert_eq!(
            called.unwrap_err().to_string(),
            "it is member b, not c: is the initial cluster the same everywhere?"
        );
        let (called, answered) = meet(Identity { member: GONE, ..A }, B.member).await;
        assert!(Removed::is(&called.unwrap_err()));
        assert_eq!(answered.unwrap_err().to_string(), "member d was removed from the cluster");
    }

    #[tokio::test]
    async fn a_visitor_needs_no_identity() {
        let (called, answered) = meet(VISITOR, VISITOR.member).await;
        called.unwrap();
        assert_eq!(answered.unwrap(), Caller { member: VISITOR.member, lane: Lane::Append });
        let (called, _) = meet(VISITOR, B.member).await;
        assert_eq!(called.unwrap_err().to_string(), "it belongs to cluster 1, this member to cluster 0");
    }
}
