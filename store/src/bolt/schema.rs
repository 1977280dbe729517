//! What etcd keeps in which bucket, and how: the names, keys and values of its schema of 3.6, without the state's side.
//!
//! Every version since 3.4 reads it: older ones pass over the fields they do not know. `cluster` is left empty on purpose,
//! so that whichever version starts on the file decides the cluster's version anew.

use kontiki_api::authpb;
use kontiki_api::etcdserverpb as pb;
use prost::Message;
use serde::Serialize;

use super::BoltError;
use crate::mvcc::record::{Kind, Stamp};

/// The buckets, in the order of their names.
pub const ALARM: &str = "alarm";
pub const AUTH: &str = "auth";
pub const AUTH_ROLES: &str = "authRoles";
pub const AUTH_USERS: &str = "authUsers";
pub const CLUSTER: &str = "cluster";
pub const KEY: &str = "key";
pub const LEASE: &str = "lease";
pub const MEMBERS: &str = "members";
pub const MEMBERS_REMOVED: &str = "members_removed";
pub const META: &str = "meta";

/// Keys of `meta`.
pub const CONF_STATE: &[u8] = b"confState";
pub const CONSISTENT_INDEX: &[u8] = b"consistent_index";
pub const FINISHED_COMPACTION: &[u8] = b"finishedCompactRev";
pub const SCHEDULED_COMPACTION: &[u8] = b"scheduledCompactRev";
pub const STORAGE_VERSION: &[u8] = b"storageVersion";
pub const TERM: &[u8] = b"term";

/// Keys of `auth`.
const AUTH_ENABLED: &[u8] = b"authEnabled";
const AUTH_REVISION: &[u8] = b"authRevision";

const REVISION_BYTES: usize = 17;
const TOMBSTONE: u8 = b't';

/// The key of a change in `key`: `main _ sub`, and a `t` for a deletion.
#[must_use]
pub fn revision_key(stamp: Stamp, kind: Kind) -> ([u8; REVISION_BYTES + 1], usize) {
    let mut bytes = [TOMBSTONE; REVISION_BYTES + 1];
    bytes[..8].copy_from_slice(&stamp.main.to_be_bytes());
    bytes[8] = b'_';
    bytes[9..17].copy_from_slice(&u64::from(stamp.sub).to_be_bytes());
    match kind {
        Kind::Put => (bytes, REVISION_BYTES),
        Kind::Delete => (bytes, REVISION_BYTES + 1),
    }
}

/// A revision as `meta` holds it.
#[must_use]
pub fn revision(main: i64) -> [u8; REVISION_BYTES] {
    let (key, _) = revision_key(Stamp::first(main), Kind::Put);
    key[..REVISION_BYTES].try_into().expect("the length is the array's")
}

/// The inverse of [`revision_key`]; also reads what `meta` holds.
///
/// # Errors
/// When it is none.
pub fn parse_revision(bucket: &'static str, key: &[u8]) -> Result<(Stamp, Kind), BoltError> {
    let wrong = || BoltError::Schema { bucket, what: format!("{} is not a revision", key.escape_ascii()) };
    let kind = match key {
        [.., TOMBSTONE] if key.len() == REVISION_BYTES + 1 => Kind::Delete,
        _ if key.len() == REVISION_BYTES => Kind::Put,
        _ => return Err(wrong()),
    };
    let number = |at: usize| i64::from_be_bytes(key[at..at + 8].try_into().expect("eight bytes"));
    let (main, sub) = (number(0), u32::try_from(number(9)).map_err(|_| wrong())?);
    match key[8] == b'_' && main >= 0 {
        true => Ok((Stamp { main, sub }, kind)),
        false => Err(wrong()),
    }
}

/// A lease as etcd stores it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct StoredLease {
    #[prost(int64, tag = "1")]
    pub id: i64,
    #[prost(int64, tag = "2")]
    pub ttl: i64,
    /// What was left at the last checkpoint; 0 when there was none.
    #[prost(int64, tag = "3")]
    pub remaining_ttl: i64,
}

/// The members that vote, and those that only listen.
///
/// # Panics
/// Never: numbers always encode.
#[must_use]
pub fn conf_state(members: &[pb::Member]) -> Vec<u8> {
    #[derive(Serialize)]
    struct ConfState {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        voters: Vec<u64>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        learners: Vec<u64>,
        auto_leave: bool,
    }
    let ids = |learner: bool| members.iter().filter(|m| m.is_learner == learner).map(|m| m.id).collect();
    json(&ConfState { voters: ids(false), learners: ids(true), auto_leave: false })
}

/// A member's key and value.
#[must_use]
pub fn member(member: &pb::Member) -> (String, Vec<u8>) {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Member<'a> {
        id: u64,
        #[serde(rename = "peerURLs")]
        peer_urls: &'a [String],
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_learner: bool,
        #[serde(skip_serializing_if = "str::is_empty")]
        name: &'a str,
        #[serde(rename = "clientURLs", skip_serializing_if = "<[String]>::is_empty")]
        client_urls: &'a [String],
    }
    let pb::Member { id, name, peer_ur_ls, client_ur_ls, is_learner } = member;
    let value = Member { id: *id, peer_urls: peer_ur_ls, is_learner: *is_learner, name, client_urls: client_ur_ls };
    (format!("{id:x}"), json(&value))
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data in memory always encodes")
}

/// Users, roles and whether they count.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuthContents {
    pub enabled: bool,
    pub revision: u64,
    pub roles: Vec<authpb::Role>,
    pub users: Vec<authpb::User>,
}

/// Key and value.
pub type Pair = (Vec<u8>, Vec<u8>);

impl AuthContents {
    /// The pairs of `auth`, `authRoles` and `authUsers`, each in the order of its keys.
    #[must_use]
    pub fn pairs(&self) -> [(&'static str, Vec<Pair>); 3] {
        let mut auth = Vec::new();
        if *self != Self::default() {
            auth.push((AUTH_ENABLED.to_vec(), vec![u8::from(self.enabled)]));
            auth.push((AUTH_REVISION.to_vec(), self.revision.to_be_bytes().to_vec()));
        }
        let mut roles: Vec<Pair> = self.roles.iter().map(|role| (role.name.to_vec(), role.encode_to_vec())).collect();
        let mut users: Vec<Pair> = self.users.iter().map(|user| (user.name.to_vec(), user.encode_to_vec())).collect();
        roles.sort();
        users.sort();
        [(AUTH, auth), (AUTH_ROLES, roles), (AUTH_USERS, users)]
    }

    /// Takes in one pair of the three buckets; others are none of its business.
    ///
    /// # Errors
    /// When the value is not what etcd stores.
    pub fn take(&mut self, bucket: &'static str, key: &[u8], value: &[u8]) -> Result<(), BoltError> {
        let wrong = |error: prost::DecodeError| BoltError::Schema { bucket, what: error.to_string() };
        match (bucket, key) {
            (AUTH, AUTH_ENABLED) => self.enabled = value == [1],
            (AUTH, AUTH_REVISION) => self.revision = number(bucket, value)?,
            (AUTH_ROLES, _) => self.roles.push(authpb::Role::decode(value).map_err(wrong)?),
            (AUTH_USERS, _) => self.users.push(authpb::User::decode(value).map_err(wrong)?),
            _ => {}
        }
        Ok(())
    }
}

/// Eight bytes, big-endian.
///
/// # Errors
/// When there are fewer or more.
pub fn number(bucket: &'static str, value: &[u8]) -> Result<u64, BoltError> {
    let what = || BoltError::Schema { bucket, what: format!("{} is not a number", value.escape_ascii()) };
    Ok(u64::from_be_bytes(value.try_into().map_err(|_| what())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_has_its_revision_as_key() {
        let stamp = Stamp { main: 258, sub: 3 };
        let (key, length) = revision_key(stamp, Kind::Delete);
        assert_eq!(&key[..length], b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03t");
        assert_eq!(parse_revision(KEY, &key[..length]).unwrap(), (stamp, Kind::Delete));
        assert_eq!(parse_revision(KEY, &key[..17]).unwrap(), (stamp, Kind::Put));
        for wrong in
            [&key[..16], b"\0\0\0\0\0\0\x01\x02-\0\0\0\0\0\0\0\x03", b"\xff\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03"]
        {
            assert!(parse_revision(KEY, wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn members_are_the_json_that_etcd_writes() {
        let one = pb::Member {
            id: 0x8e9e_05c5_2164_694d,
            name: "default".into(),
            peer_ur_ls: vec!["http://localhost:2380".into()],
            client_ur_ls: vec!["http://localhost:2379".into()],
            is_learner: false,
        };
        let (key, value) = member(&one);
        assert_eq!(key, "8e9e05c52164694d");
        assert_eq!(
            String::from_utf8(value).unwrap(),
            r#"{"id":10276657743932975437,"peerURLs":["http://localhost:2380"],"name":"default","clientURLs":["http://localhost:2379"]}"#
        );
        let state = conf_state(&[one]);
        assert_eq!(String::from_utf8(state).unwrap(), r#"{"voters":[10276657743932975437],"auto_leave":false}"#);
    }

    #[test]
    fn users_and_roles_come_back() {
        let role = authpb::Role { name: "reader".into(), key_permission: Vec::new() };
        let user = authpb::User { name: "root".into(), password: "hash".into(), ..Default::default() };
        let contents = AuthContents { enabled: true, revision: 7, roles: vec![role], users: vec![user] };
        let mut back = AuthContents::default();
        for (bucket, pairs) in contents.pairs() {
            for (key, value) in pairs {
                back.take(bucket, &key, &value).unwrap();
            }
        }
        assert_eq!(back, contents);
        assert!(AuthContents::default().pairs().iter().all(|(_, pairs)| pairs.is_empty()));
    }
}
