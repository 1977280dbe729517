//! Makes a member's data directory from a snapshot: a new cluster that begins with old data.
//!
//! The state database gets the snapshot's contents; the log is empty and begins after an entry that nobody has, the same
//! on every member restored from the same file, at which the membership is the initial cluster. To Raft that is a member
//! which was sent a snapshot and has heard nothing since: any of them may be elected. The directory gets its final name
//! last, so a restore that breaks leaves nothing that could be started.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use kontiki_api::etcdserverpb as pb;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::disk::LocalDisk;
use super::engine::{self, Engine, EngineOptions};
use super::random::SystemRandom;
use super::wal::{Wal, WalOptions};
use crate::bolt::import::{self, Changes, ImportError, Imported};
use crate::bolt::trailer::{self, TrailerError};
use crate::bolt::{BoltError, Db};
use crate::consensus::codec;
use crate::consensus::state_machine::Mark;
use crate::consensus::types::{Address, Membership, StoredMembership, Vote, log_id};
use crate::ids::{ClusterId, MemberId};
use crate::limits;
use crate::member::Peer;
use crate::wal::EntryId;
use crate::wal::segment::Owner;

/// A restore of one member.
#[derive(Clone, Debug)]
pub struct Restore {
    pub snapshot: PathBuf,
    pub data_dir: PathBuf,
    /// Where the log goes; inside the data directory otherwise.
    pub wal_dir: Option<PathBuf>,
    pub id: MemberId,
    pub cluster_id: ClusterId,
    /// The members of the new cluster, this one included.
    pub peers: BTreeMap<MemberId, Peer>,
    /// Take a file without a sum, such as one from etcd's data directory, and believe it.
    pub skip_hash_check: bool,
    pub bump_revision: i64,
    pub mark_compacted: bool,
}

/// Why nothing was restored. The texts about files and directories are etcd's.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("data-dir {0:?} not empty or could not be read")]
    DataDir(PathBuf),
    #[error("wal-dir {0:?} exists")]
    WalDir(PathBuf),
    #[error("{path} is in use: stop etcd first, or save a snapshot from it", path = .0.display())]
    InUse(PathBuf),
    #[error("{path}: {source}", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Trailer(#[from] TrailerError),
    #[error(transparent)]
    Bolt(#[from] BoltError),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error("the log: {0}")]
    Log(String),
}

/// Restores one member. Blocks on the disk.
///
/// # Errors
/// When the snapshot cannot be used or the directories are not free; nothing is left behind then.
pub fn restore(restore: &Restore) -> Result<Imported, RestoreError> {
    let Restore { data_dir, wal_dir, snapshot, .. } = restore;
    if !is_free(data_dir) {
        return Err(RestoreError::DataDir(data_dir.clone()));
    }
    if let Some(dir) = wal_dir.as_ref().filter(|dir| dir.exists()) {
        return Err(RestoreError::WalDir(dir.clone()));
    }
    let file = File::open(snapshot).map_err(at(snapshot))?;
    // bbolt holds a lock on what it has open; a copy of that would be of no one moment.
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK) {
        return Err(RestoreError::InUse(snapshot.clone()));
    }
    if !restore.skip_hash_check {
        trailer::verify(&file)?;
    }
    let db = Db::open(&file)?;
    let existed = data_dir.exists();
    let building = data_dir.join("member.restoring");
    DirBuilder::new().recursive(true).mode(0o700).create(&building).map_err(at(&building))?;
    let built = build(restore, &db, &building);
    if built.is_err() {
        // The error that led here is the one to tell.
        let _ = fs::remove_dir_all(&building);
        let _ = wal_dir.as_ref().map(fs::remove_dir_all);
        if !existed {
            let _ = fs::remove_dir(data_dir);
        }
    }
    built
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.to_owned();
    move |source| RestoreError::Io { path, source }
}

fn is_free(dir: &Path) -> bool {
    match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn build(restore: &Restore, db: &Db<'_, File>, building: &Path) -> Result<Imported, RestoreError> {
    let first = first_entry(&restore.peers);
    let state_dir = building.join("state");
    let imported = build_state(restore, db, &state_dir, first)?;
    let log_dir = restore.wal_dir.clone().unwrap_or_else(|| building.join("log"));
    build_log(restore, &log_dir, first)?;
    let member = restore.data_dir.join("member");
    fs::rename(building, &member).map_err(at(&member))?;
    File::open(&restore.data_dir).and_then(|dir| dir.sync_all()).map_err(at(&restore.data_dir))?;
    Ok(imported)
}

/// The entry that every member of the new cluster has applied and none has: etcd's restore ends at the same one, as if
/// each member had been added by an entry of term 1.
fn first_entry(peers: &BTreeMap<MemberId, Peer>) -> EntryId {
    let first = peers.keys().next().expect("a cluster has a member");
    EntryId { term: 1, node: first.0, index: peers.len() as u64 }
}

fn build_state(restore: &Restore, db: &Db<'_, File>, dir: &Path, first: EntryId) -> Result<Imported, RestoreError> {
    fs::create_dir(dir).map_err(at(dir))?;
    const GENERATION: u64 = 1;
    let options = EngineOptions { block_cache_bytes: 8 << 20, write_buffer_bytes: limits::RESTORE_BUFFER_BYTES };
    let engine = Engine::open(&engine::generation_path(dir, GENERATION), options).map_err(at(dir))?;
    let Restore { peers, bump_revision, mark_compacted, .. } = restore;
    let voters: BTreeSet<MemberId> = peers.keys().copied().collect();
    let nodes: BTreeMap<MemberId, Address> =
        peers.iter().map(|(id, peer)| (*id, Address { peer_urls: peer.peer_urls.clone() })).collect();
    let membership = Membership::new(vec![voters], nodes).expect("every voter has an address");
    let last = log_id(first);
    let mark = Mark { last: Some(last), membership: StoredMembership::new(Some(last), membership) };
    // Known by name from the start: a member that comes without its restored directory is told so by the others.
    let member = |(id, peer): (&MemberId, &Peer)| pb::Member {
        id: id.0,
        name: peer.name.clone(),
        peer_ur_ls: peer.peer_urls.clone(),
        ..pb::Member::default()
    };
    let changes = Changes {
        members: peers.iter().map(member).collect(),
        applied: mark.applied(),
        bump_revision: *bump_revision,
        mark_compacted: *mark_compacted,
    };
    let imported = import::import(db, &engine, &changes)?;
    engine.flush().map_err(at(dir))?;
    drop(engine);
    engine::switch_generation(dir, GENERATION).map_err(at(dir))?;
    Ok(imported)
}

fn build_log(restore: &Restore, dir: &Path, first: EntryId) -> Result<(), RestoreError> {
    let options = WalOptions {
        dir: dir.to_owned(),
        owner: Owner { cluster: restore.cluster_id.0, member: restore.id.0 },
        segment_bytes: limits::LOG_SEGMENT_BYTES,
        cache_bytes: limits::LOG_CACHE_BYTES,
        fsync: true,
    };
    let wal =
        Wal::open(Arc::new(LocalDisk), &SystemRandom, options).map_err(|error| RestoreError::Log(error.to_string()))?;
    wal.purge(first);
    let (done, durable) = mpsc::channel();
    let vote = Vote::new(first.term, MemberId(first.node));
    // The receiver waits below.
    wal.save_vote(codec::encode(&vote).into(), Box::new(move || done.send(()).unwrap_or_default()));
    durable.recv().map_err(|error| RestoreError::Log(error.to_string()))
}
