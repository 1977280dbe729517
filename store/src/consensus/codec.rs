//! The one place that knows how cold data is laid out: votes, membership, snapshot metadata, election messages.
//!
//! bincode 2 with serde, variable-length integers. Hot data (entries, appends, replies) never comes here: `wal::frame`
//! and `wire` write it by hand, so that keys and values are slices and not copies.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that are not what they should be.
#[derive(Debug, thiserror::Error)]
#[error("cold data does not decode: {0}")]
pub struct CodecError(#[from] bincode::error::DecodeError);

#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, bincode::config::standard()).expect("plain data in memory always encodes")
}

/// # Errors
/// When `bytes` does not hold a `T`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, _) = bincode::serde::decode_from_slice(bytes, bincode::config::standard())?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::consensus::types::{Address, Membership, StoredMembership, Vote, log_id};
    use crate::ids::MemberId;
    use crate::wal::EntryId;

    #[test]
    fn votes_and_membership_come_back() {
        let vote = Vote::new_committed(7, MemberId(0x8e9e_05c5_2164_694d));
        assert_eq!(decode::<Vote>(&encode(&vote)).unwrap(), vote);
        let node = Address { peer_urls: vec!["http://127.0.0.1:2380".to_owned()] };
        let nodes = BTreeMap::from([(MemberId(1), node)]);
        let membership = Membership::new(vec![BTreeSet::from([MemberId(1)])], nodes).unwrap();
        let id = log_id(EntryId { term: 3, node: 1, index: 9 });
        let stored = StoredMembership::new(Some(id), membership);
        assert_eq!(decode::<StoredMembership>(&encode(&stored)).unwrap(), stored);
    }

    #[test]
    fn rubbish_is_an_error() {
        assert!(decode::<Vote>(&[0xff; 3]).is_err());
    }
}
