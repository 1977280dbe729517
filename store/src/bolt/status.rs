//! What `snapshot status` says about a file: the figures of `etcdutl snapshot status`, so that the two can be compared.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use kontiki_api::mvccpb::KeyValue;
use prost::Message;
use serde::Serialize;

use super::schema::{self, KEY, META, STORAGE_VERSION};
use super::{BoltError, Bucket, Db, Source, Value};
use crate::io::engine::Step;
use crate::mvcc::record::Kind;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// CRC-32C over every bucket's name, keys and values.
    pub hash: u32,
    /// Of the newest change.
    pub revision: i64,
    /// Keys that exist at that revision.
    pub total_key: u64,
    /// Bytes of the database.
    pub total_size: u64,
    /// The version of the schema; empty before 3.6.
    pub version: String,
}

/// Reads the whole file. Of each key only a hash is kept in memory.
///
/// # Errors
/// When the file is damaged or not etcd's.
pub fn status<S: Source + ?Sized>(db: &Db<'_, S>) -> Result<Status, BoltError> {
    let mut status = Status { total_size: db.size(), ..Status::default() };
    let mut buckets: Vec<(Vec<u8>, Bucket)> = Vec::new();
    db.walk(&db.root(), &mut |name, value| {
        if let Value::Bucket(bucket) = value {
            buckets.push((name.to_vec(), bucket));
        }
        Ok::<_, BoltError>(Step::Next)
    })?;
    let hasher = RandomState::new();
    let mut live = HashSet::new();
    for (name, bucket) in buckets {
        status.hash = crc32c::crc32c_append(status.hash, &name);
        db.walk(&bucket, &mut |key, value| {
            status.hash = crc32c::crc32c_append(status.hash, key);
            let Value::Plain(value) = value else { return Ok(Step::Next) };
            status.hash = crc32c::crc32c_append(status.hash, value);
            if name == KEY.as_bytes() {
                let (stamp, kind) = schema::parse_revision(KEY, key)?;
                status.revision = stamp.main;
                let kv = KeyValue::decode(value)
                    .map_err(|error| BoltError::Schema { bucket: KEY, what: error.to_string() })?;
                match kind {
                    Kind::Put => live.insert(hasher.hash_one(&kv.key)),
                    Kind::Delete => live.remove(&hasher.hash_one(&kv.key)),
                };
            } else if name == META.as_bytes() && key == STORAGE_VERSION {
                status.version = String::from_utf8_lossy(value).into_owned();
            }
            Ok::<_, BoltError>(Step::Next)
        })?;
    }
    status.total_key = live.len() as u64;
    Ok(status)
}
