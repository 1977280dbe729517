//! From a state database to the bbolt file that etcd would have of it.
//!
//! The source is a checkpoint, so nothing moves while it is read, twice (see [`super::writer`]). Records that compaction
//! has not removed yet go along, as they do in etcd: the compaction is noted as scheduled and whoever opens the file
//! finishes it.

use std::io::{self, Write};
use std::path::Path;

use bytes::Bytes;
use kontiki_api::etcdserverpb as pb;
use kontiki_api::mvccpb::KeyValue;
use prost::Message;

use super::auth;
use super::schema::{self, AuthContents, Pair, StoredLease};
use super::writer::{Layout, Writer};
use crate::consensus::state_machine::Mark;
use crate::edge::STORAGE_VERSION;
use crate::io::engine::{Engine, Family, Step};
use crate::mvcc::record::{self, Kind, Stamp};
use crate::state::core;
use crate::state::{Applied, OpenError};

/// A checkpoint, open for export.
pub struct Export {
    engine: Engine,
    revision: i64,
    floor: i64,
    /// The floor down to which everything is physically gone.
    compacted: i64,
    applied: Applied,
    term: u64,
    members: Vec<pb::Member>,
    auth: AuthContents,
}

impl Export {
    /// # Errors
    /// When the checkpoint cannot be read.
    pub fn open(checkpoint_dir: &Path) -> Result<Self, OpenError> {
        let engine = Engine::open_read_only(checkpoint_dir)?;
        let core::Mark { revision, floor, applied } = core::Mark::read(&engine)?;
        let mark = Mark::decode(&applied)?;
        let compacted = core::read_compacted(&engine)?;
        let members = members(&engine, &mark)?;
        let auth = auth::read(&engine)?;
        let term = mark.last.map_or(0, |id| id.leader_id.term);
        Ok(Self { engine, revision, floor, compacted, applied, term, members, auth })
    }

    /// The revision that the file will be of.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// How large the file will be. The sink gets nothing of use; it may refuse, to end the work.
    ///
    /// # Errors
    /// When the checkpoint cannot be read or the sink refuses.
    pub fn measure<W: Write>(&self, sink: W) -> Result<Layout, OpenError> {
        let mut writer = Writer::measuring(sink);
        self.fill(&mut writer)?;
        Ok(writer.finish()?.0)
    }

    /// Writes the file of this layout and hands the sink back.
    ///
    /// # Errors
    /// When the checkpoint cannot be read or the sink refuses.
    pub fn write<W: Write>(&self, sink: W, layout: Layout) -> Result<W, OpenError> {
        let mut writer = Writer::writing(sink, layout)?;
        self.fill(&mut writer)?;
        Ok(writer.finish()?.1)
    }

    fn fill<W: Write>(&self, writer: &mut Writer<W>) -> Result<(), OpenError> {
        let [(auth, auth_pairs), (roles, role_pairs), (users, user_pairs)] = self.auth.pairs();
        bucket(writer, schema::ALARM, &[])?;
        bucket(writer, auth, &auth_pairs)?;
        bucket(writer, roles, &role_pairs)?;
        bucket(writer, users, &user_pairs)?;
        bucket(writer, schema::CLUSTER, &[])?;
        self.fill_keys(writer)?;
        self.fill_leases(writer)?;
        let mut members: Vec<Pair> =
            self.members.iter().map(schema::member).map(|(key, value)| (key.into_bytes(), value)).collect();
        members.sort();
        bucket(writer, schema::MEMBERS, &members)?;
        bucket(writer, schema::MEMBERS_REMOVED, &[])?;
        bucket(writer, schema::META, &self.meta())?;
        Ok(())
    }

    fn fill_keys<W: Write>(&self, writer: &mut Writer<W>) -> Result<(), OpenError> {
        writer.begin_bucket(schema::KEY.as_bytes());
        let mut last = 1;
        self.engine.scan(Family::Records, b"", &mut |key, value| {
            let stamp = Stamp::from_bytes(key).map_err(damaged)?;
            last = stamp.main;
            match record::kind(value).map_err(damaged)? {
                Kind::Put => {
                    let (key, length) = schema::revision_key(stamp, Kind::Put);
                    writer.put(&key[..length], &value[1..])?;
                }
                // etcd's holds the key alone.
                Kind::Delete => {
                    let (_, kv) = record::decode(Bytes::copy_from_slice(value)).map_err(damaged)?;
                    let tombstone = KeyValue { key: kv.key, ..KeyValue::default() };
                    let (key, length) = schema::revision_key(stamp, Kind::Delete);
                    writer.put(&key[..length], &tombstone.encode_to_vec())?;
                }
            }
            Ok::<_, OpenError>(Step::Next)
        })?;
        // A revision without a change, as a restore with a bump leaves it. etcd's own restore marks it the same way.
        if self.revision > last {
            writer.put(&schema::revision(self.revision), &[])?;
        }
        Ok(writer.end_bucket()?)
    }

    fn fill_leases<W: Write>(&self, writer: &mut Writer<W>) -> Result<(), OpenError> {
        writer.begin_bucket(schema::LEASE.as_bytes());
        self.engine.scan(Family::Leases, b"", &mut |key, value| {
            let lease = StoredLease { id: core::integer(key)?, ttl: core::integer(value)?, remaining_ttl: 0 };
            writer.put(key, &lease.encode_to_vec())?;
            Ok::<_, OpenError>(Step::Next)
        })?;
        Ok(writer.end_bucket()?)
    }

    fn meta(&self) -> Vec<Pair> {
        let mut pairs: Vec<Pair> = vec![(schema::CONF_STATE.to_vec(), schema::conf_state(&self.members))];
        // etcd never writes a 0 here: it would mean that nothing was applied at all.
        let mut number = |key: &[u8], value: u64| {
            if value > 0 {
                pairs.push((key.to_vec(), value.to_be_bytes().to_vec()));
            }
        };
        number(schema::CONSISTENT_INDEX, self.applied.index.0);
        number(schema::TERM, self.term);
        for (key, floor) in [(schema::FINISHED_COMPACTION, self.compacted), (schema::SCHEDULED_COMPACTION, self.floor)]
        {
            if floor >= 0 {
                pairs.push((key.to_vec(), schema::revision(floor).to_vec()));
            }
        }
        pairs.push((schema::STORAGE_VERSION.to_vec(), STORAGE_VERSION.as_bytes().to_vec()));
        pairs.sort();
        pairs
    }
}

fn bucket<W: Write>(writer: &mut Writer<W>, name: &str, pairs: &[Pair]) -> io::Result<()> {
    writer.begin_bucket(name.as_bytes());
    for (key, value) in pairs {
        writer.put(key, value)?;
    }
    writer.end_bucket()
}

fn members(engine: &Engine, mark: &Mark) -> Result<Vec<pb::Member>, OpenError> {
    let membership = mark.membership.membership();
    let learners: Vec<_> = membership.learner_ids().collect();
    let mut members = Vec::new();
    for (id, address) in membership.nodes() {
        let published = engine.get(Family::Members, &id.0.to_be_bytes())?;
        let published = published.map(pb::Member::decode).transpose().map_err(damaged)?.unwrap_or_default();
        members.push(pb::Member {
            id: id.0,
            peer_ur_ls: address.peer_urls.clone(),
            is_learner: learners.contains(id),
            ..published
        });
    }
    Ok(members)
}

fn damaged(error: impl std::fmt::Display) -> OpenError {
    OpenError::Damaged(error.to_string())
}
