//! Who sent a request, as its log entry carries it.
//!
//! The caller stands between an entry's origin and its command, and only while authentication is on: an entry without one
//! begins with its command's kind, which never reaches the marks below. So the common entry costs nothing, and entries
//! written before there were callers still decode.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Whose permissions decide about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Nobody was named: everything while authentication is off, nothing while it is on.
    Anonymous,
    /// The member itself, or the control plane in its process: not subject to permissions.
    Internal,
    /// A user, and the auth revision as of which the name was checked.
    User { name: Arc<str>, revision: u64 },
}

const INTERNAL: u8 = 0xfe;
const USER: u8 = 0xff;

impl Caller {
    pub(crate) fn encoded_len(&self) -> usize {
        match self {
            Self::Anonymous => 0,
            Self::Internal => 1,
            Self::User { name, .. } => 13 + name.len(),
        }
    }

    pub(crate) fn encode(&self, buffer: &mut BytesMut) {
        match self {
            Self::Anonymous => {}
            Self::Internal => buffer.put_u8(INTERNAL),
            Self::User { name, revision } => {
                buffer.put_u8(USER);
                buffer.put_u64_le(*revision);
                buffer.put_u32_le(u32::try_from(name.len()).expect("a user's name fits a request"));
                buffer.put_slice(name.as_bytes());
            }
        }
    }

    /// Takes the caller off the front of an entry; nothing when the bytes are not one.
    pub(crate) fn decode(bytes: &mut Bytes) -> Option<Self> {
        match bytes.first() {
            Some(&INTERNAL) => {
                bytes.advance(1);
                Some(Self::Internal)
            }
            Some(&USER) => {
                bytes.advance(1);
                if bytes.len() < 12 {
                    return None;
                }
                let revision = bytes.get_u64_le();
                let length = bytes.get_u32_le() as usize;
                if bytes.len() < length {
                    return None;
                }
                let name = bytes.split_to(length);
                Some(Self::User { name: std::str::from_utf8(&name).ok()?.into(), revision })
            }
            _ => Some(Self::Anonymous),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_come_back_and_nobody_costs_nothing() {
        for caller in [Caller::Anonymous, Caller::Internal, Caller::User { name: "zoë".into(), revision: 7 }] {
            let mut buffer = BytesMut::new();
            caller.encode(&mut buffer);
            assert_eq!(buffer.len(), caller.encoded_len());
            buffer.put_slice(b"\x01body");
            let mut bytes = buffer.freeze();
            assert_eq!(Caller::decode(&mut bytes), Some(caller));
            assert_eq!(&bytes[..], b"\x01body");
        }
        assert_eq!(Caller::Anonymous.encoded_len(), 0);
    }

    #[test]
    fn a_cut_caller_is_an_error_and_never_a_panic() {
        let mut buffer = BytesMut::new();
        Caller::User { name: "alice".into(), revision: 7 }.encode(&mut buffer);
        for length in 1..buffer.len() {
            let mut cut = Bytes::copy_from_slice(&buffer[..length]);
            assert_eq!(Caller::decode(&mut cut), None, "{length} bytes");
        }
    }
}
