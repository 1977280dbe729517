//! How a change is stored: its place in history as the key, a kind byte and the wire bytes of the `KeyValue` as the value.
//!
//! Keys sort by time, so flushes do not overlap, and a replay or a digest is one forward scan. The `KeyValue` is encoded
//! once, when it is applied; disk, index, watch ring and answers share those bytes.

use std::borrow::Cow;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kontiki_api::mvccpb::KeyValue;
use prost::Message;

/// A place in history: the revision, and the order of the change within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    pub main: i64,
    pub sub: u32,
}

/// 8 bytes of revision and 4 of order, both big-endian.
pub const STAMP_BYTES: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Put,
    Delete,
}

/// A stored record that this program did not write.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("a record's key has {0} bytes instead of {STAMP_BYTES}")]
    KeyLength(usize),
    #[error("a record has no bytes")]
    Empty,
    #[error("a record has the unknown kind {0}")]
    UnknownKind(u8),
    #[error("a record's body: {0}")]
    Body(#[from] prost::DecodeError),
}

impl Stamp {
    /// The first place of a revision.
    #[must_use]
    pub fn first(main: i64) -> Self {
        Self { main, sub: 0 }
    }

    #[must_use]
    pub fn to_bytes(self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        bytes[..8].copy_from_slice(&self.main.to_be_bytes());
        bytes[8..].copy_from_slice(&self.sub.to_be_bytes());
        bytes
    }

    /// # Errors
    /// When the length is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        let bytes: [u8; STAMP_BYTES] = bytes.try_into().map_err(|_| RecordError::KeyLength(bytes.len()))?;
        let (main, sub) = bytes.split_at(8);
        Ok(Self {
            main: i64::from_be_bytes(main.try_into().expect("8 bytes")),
            sub: u32::from_be_bytes(sub.try_into().expect("4 bytes")),
        })
    }
}

/// A kind byte and the encoded `KeyValue`; a deletion carries key and `mod_revision` only.
#[must_use]
pub fn encode(kind: Kind, kv: &KeyValue) -> Bytes {
    let mut buffer = BytesMut::with_capacity(1 + kv.encoded_len());
    buffer.put_u8(match kind {
        Kind::Put => 0,
        Kind::Delete => 1,
    });
    kv.encode(&mut buffer).expect("a BytesMut grows as needed");
    buffer.freeze()
}

/// Whether a stored record is of a put or a deletion.
///
/// # Errors
/// When the bytes are not a record.
pub fn kind(record: &[u8]) -> Result<Kind, RecordError> {
    match record.first() {
        Some(0) => Ok(Kind::Put),
        Some(1) => Ok(Kind::Delete),
        Some(other) => Err(RecordError::UnknownKind(*other)),
        None => Err(RecordError::Empty),
    }
}

/// The inverse of [`encode`]; key and value are slices of `record`.
///
/// # Errors
/// When the bytes are not a record.
pub fn decode(mut record: Bytes) -> Result<(Kind, KeyValue), RecordError> {
    let kind = kind(&record)?;
    record.advance(1);
    Ok((kind, KeyValue::decode(record)?))
}

/// [`decode`] without the value, which is left empty and not copied.
///
/// # Errors
/// When the bytes are not a record.
pub fn decode_head(record: &[u8]) -> Result<(Kind, KeyValue), RecordError> {
    let kind = kind(record)?;
    let Head { key, create_revision, mod_revision, version, lease } = Head::decode(&record[1..])?;
    Ok((kind, KeyValue { key, create_revision, mod_revision, version, lease, value: Bytes::new() }))
}

/// A `KeyValue` as read by who does not know of its value.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Head {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(int64, tag = "2")]
    create_revision: i64,
    #[prost(int64, tag = "3")]
    mod_revision: i64,
    #[prost(int64, tag = "4")]
    version: i64,
    #[prost(int64, tag = "6")]
    lease: i64,
}

/// The kind and the key of a record, without a look at its value.
///
/// # Errors
/// When the bytes are not a record.
pub fn peek(record: &[u8]) -> Result<(Kind, Cow<'_, [u8]>), RecordError> {
    // The key is the first field: a tag, a length, and its bytes.
    let kind = match record {
        [0, ..] => Kind::Put,
        [1, ..] => Kind::Delete,
        [other, ..] => return Err(RecordError::UnknownKind(*other)),
        [] => return Err(RecordError::Empty),
    };
    if let [_, KEY_TAG, length, rest @ ..] = record
        && *length < 0x80
        && let Some(key) = rest.get(..usize::from(*length))
    {
        return Ok((kind, Cow::Borrowed(key)));
    }
    let (kind, kv) = decode(Bytes::copy_from_slice(record))?;
    Ok((kind, Cow::Owned(kv.key.into())))
}

/// Field 1 of a `KeyValue`, with a length before it.
const KEY_TAG: u8 = 0x0a;

/// Decodes a record that this process wrote or has already read once.
#[must_use]
pub fn decode_own(record: Bytes) -> KeyValue {
    decode(record).expect("invariant: a record in the state can be decoded").1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_everything_but_the_value() {
        let kv = KeyValue {
            key: Bytes::from_static(b"k"),
            create_revision: 2,
            mod_revision: 5,
            version: 3,
            value: Bytes::from_static(b"v"),
            lease: 7,
        };
        let record = encode(Kind::Put, &kv);
        let head = KeyValue { value: Bytes::new(), ..kv };
        assert_eq!(decode_head(&record).unwrap(), (Kind::Put, head));
        for damaged in [&record[..record.len() - 1], b"", b"\x02", b"\x00\x0a\x05a"] {
            assert!(decode_head(damaged).is_err(), "{damaged:?}");
        }
    }

    #[test]
    fn a_record_can_be_peeked_at_whatever_its_key_is_long() {
        for length in [1, 127, 128, 5000] {
            let key = Bytes::from(vec![7; length]);
            let kv =
                KeyValue { key: key.clone(), mod_revision: 9, value: Bytes::from_static(b"v"), ..Default::default() };
            for kind in [Kind::Put, Kind::Delete] {
                assert_eq!(peek(&encode(kind, &kv)).unwrap(), (kind, Cow::Borrowed(&key[..])));
            }
        }
        assert!(peek(b"").is_err() && peek(&[9, KEY_TAG]).is_err() && peek(&[0, KEY_TAG, 5, 1]).is_err());
    }
}
