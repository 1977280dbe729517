//! From etcd's bbolt file to a state database: every record at its revision, every lease, and what was compacted.
//!
//! Members, alarms and the cluster's version are the old cluster's and stay behind, as with etcd's own restore. A lease
//! starts again with its full time.

use std::io;

use kontiki_api::etcdserverpb as pb;
use kontiki_api::mvccpb::KeyValue;
use prost::Message;
use rocksdb::WriteBatch;

use super::schema::{self, AuthContents, StoredLease};
use super::{BoltError, Db, Source, Value, auth};
use crate::io::engine::{Engine, Family, Step};
use crate::limits::IMPORT_BATCH_BYTES;
use crate::mvcc::record::{self, Kind, Stamp};
use crate::state::Applied;
use crate::state::core::Mark;

/// How the copy differs from the original.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// The members of the new cluster.
    pub members: Vec<pb::Member>,
    /// Where the new cluster's log begins.
    pub applied: Applied,
    /// Revisions to skip, so that no client meets a revision twice.
    pub bump_revision: i64,
    /// Whether everything before the newest revision counts as compacted, so that watchers start over.
    pub mark_compacted: bool,
}

/// What was taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    pub revision: i64,
    /// -1 when nothing was compacted.
    pub compact_revision: i64,
    pub records: u64,
    pub leases: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Bolt(#[from] BoltError),
    #[error("state database: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Refused(String),
}

/// Fills an empty database. It is complete when this returns and durable after the next flush.
///
/// # Errors
/// When the file is damaged or not etcd's, or the database refuses.
pub fn import<S: Source + ?Sized>(db: &Db<'_, S>, engine: &Engine, changes: &Changes) -> Result<Imported, ImportError> {
    let mut import = Import { db, engine, batch: WriteBatch::default(), imported: Imported::default() };
    import.imported.compact_revision = import.compact_revision()?;
    import.records()?;
    import.leases()?;
    import.auth()?;
    let Changes { members, applied, bump_revision, mark_compacted } = changes;
    for member in members {
        let bytes = member.encode_to_vec();
        engine.put(&mut import.batch, Family::Members, &member.id.to_be_bytes(), &bytes);
    }
    let mut imported = import.imported;
    // The newest changes may all be deletions that compaction has removed.
    let newest = imported.revision.max(imported.compact_revision).max(1);
    let bumped = newest.checked_add(*bump_revision);
    imported.revision = bumped.ok_or_else(|| ImportError::Refused("--bump-revision is too large".to_owned()))?;
    if *mark_compacted {
        imported.compact_revision = imported.revision;
    }
    let (revision, floor) = (imported.revision, imported.compact_revision);
    Mark { revision, floor, applied: applied.clone() }.put(engine, &mut import.batch);
    engine.write(import.batch)?;
    Ok(imported)
}

/// What is called with the import, a key and a value.
type VisitPair<'a, I> = dyn FnMut(&mut I, &[u8], &[u8]) -> Result<(), ImportError> + 'a;

struct Import<'a, S: ?Sized> {
    db: &'a Db<'a, S>,
    engine: &'a Engine,
    batch: WriteBatch,
    imported: Imported,
}

impl<S: Source + ?Sized> Import<'_, S> {
    /// Visits the pairs of a bucket; false when there is no such bucket.
    fn pairs(&mut self, bucket: &'static str, visit: &mut VisitPair<'_, Self>) -> Result<bool, ImportError> {
        let Some(found) = self.db.bucket(&self.db.root(), bucket.as_bytes())? else { return Ok(false) };
        self.db.walk(&found, &mut |key, value| {
            if let Value::Plain(value) = value {
                visit(self, key, value)?;
            }
            Ok::<_, ImportError>(Step::Next)
        })?;
        Ok(true)
    }

    fn compact_revision(&mut self) -> Result<i64, ImportError> {
        let mut floor = -1;
        self.pairs(schema::META, &mut |_, key, value| {
            if key == schema::SCHEDULED_COMPACTION || key == schema::FINISHED_COMPACTION {
                floor = floor.max(schema::parse_revision(schema::META, value)?.0.main);
            }
            Ok(())
        })?;
        Ok(floor)
    }

    fn records(&mut self) -> Result<(), ImportError> {
        let mut last = None;
        let found = self.pairs(schema::KEY, &mut |import, key, value| {
            let (stamp, kind) = schema::parse_revision(schema::KEY, key)?;
            if last >= Some(stamp) {
                return Err(wrong(stamp, "is there twice").into());
            }
            last = Some(stamp);
            import.imported.revision = stamp.main;
            import.record(stamp, kind, value)
        })?;
        match found {
            true => Ok(()),
            false => Err(BoltError::Schema { bucket: schema::KEY, what: "it is missing".to_owned() }.into()),
        }
    }

    fn record(&mut self, stamp: Stamp, kind: Kind, value: &[u8]) -> Result<(), ImportError> {
        let kv = KeyValue::decode(value).map_err(|error| wrong(stamp, &error.to_string()))?;
        if kv.key.is_empty() {
            // What a restore with a bumped revision leaves behind: it stands for the revision alone.
            return Ok(());
        }
        let kv = match kind {
            Kind::Delete => KeyValue { key: kv.key, mod_revision: stamp.main, ..KeyValue::default() },
            Kind::Put if kv.mod_revision != stamp.main => {
                return Err(wrong(stamp, &format!("says that it is of revision {}", kv.mod_revision)).into());
            }
            Kind::Put => kv,
        };
        self.engine.put(&mut self.batch, Family::Records, &stamp.to_bytes(), &record::encode(kind, &kv));
        self.imported.records += 1;
        self.write_if_full()
    }

    fn leases(&mut self) -> Result<(), ImportError> {
        self.pairs(schema::LEASE, &mut |import, _, value| {
            let lease = StoredLease::decode(value)
                .map_err(|error| BoltError::Schema { bucket: schema::LEASE, what: error.to_string() })?;
            let (id, ttl) = (lease.id.to_be_bytes(), lease.ttl.to_be_bytes());
            import.engine.put(&mut import.batch, Family::Leases, &id, &ttl);
            import.imported.leases += 1;
            import.write_if_full()
        })?;
        Ok(())
    }

    fn auth(&mut self) -> Result<(), ImportError> {
        let mut contents = AuthContents::default();
        for bucket in [schema::AUTH, schema::AUTH_ROLES, schema::AUTH_USERS] {
            self.pairs(bucket, &mut |_, key, value| Ok(contents.take(bucket, key, value)?))?;
        }
        auth::put(self.engine, &mut self.batch, &contents)
    }

    fn write_if_full(&mut self) -> Result<(), ImportError> {
        if self.batch.size_in_bytes() >= IMPORT_BATCH_BYTES {
            self.engine.write(std::mem::take(&mut self.batch))?;
        }
        Ok(())
    }
}

fn wrong(stamp: Stamp, what: &str) -> BoltError {
    BoltError::Schema { bucket: schema::KEY, what: format!("revision {}/{} {what}", stamp.main, stamp.sub) }
}
