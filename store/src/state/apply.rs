//! What each command does: a function of the state and the command alone.
//!
//! Every check of a request comes before its first write, so that a failed one leaves nothing behind and needs no undo.
//! All changes of one command share a revision, which it takes only if it changes a key.

use std::sync::Arc;

use bytes::Bytes;
use kontiki_api::etcdserverpb as pb;
use kontiki_api::mvccpb::KeyValue;
use pb::request_op::Request;
use pb::response_op::Response as InnerResponse;
use rocksdb::WriteBatch;

use super::core::Core;
use super::{Context, auth};
use crate::auth::state::TokenChange;
use crate::auth::{AuthAnswer, AuthCommand, AuthError, AuthState};
use crate::command::{Command, Reply, Response};
use crate::error::StoreError;
use crate::ids::{LeaseId, LogIndex, MemberId};
use crate::io::engine::{Engine, Family};
use crate::lease::table::LeaseChange;
use crate::metrics::Counts;
use crate::mvcc::compare::{self, Path};
use crate::mvcc::index::At;
use crate::mvcc::interval::Interval;
use crate::mvcc::range::{self, Gone, Records, View};
use crate::mvcc::record::{self, Kind, Stamp};
use crate::watch::ring::{Block, Change};

mod agreed;

/// What has been applied and not committed yet.
#[derive(Default)]
pub(crate) struct Stage {
    pub(crate) batch: WriteBatch,
    pub(crate) revision: i64,
    pub(crate) floor: i64,
    /// The records in `batch`, in order, because the database does not show them yet.
    pub(crate) records: Vec<(Stamp, Bytes)>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) lease_changes: Vec<LeaseChange>,
    pub(crate) members_changed: bool,
    pub(crate) counts: Counts,
    /// As of the last applied entry: what decides about the next one.
    pub(crate) auth: Arc<AuthState>,
    pub(crate) token_changes: Vec<TokenChange>,
    /// Something that the cluster agrees on has changed.
    pub(crate) agreed: bool,
}

/// One command being applied.
pub(crate) struct Writer<'a> {
    pub(super) core: &'a Core,
    pub(super) engine: &'a Engine,
    pub(super) stage: &'a mut Stage,
    /// Whether previous values are worth a read because a watcher asks for them.
    previous_wanted: bool,
    /// Changes made so far; they will be the revision after the stage's.
    changes: Vec<Change>,
}

/// Records of the stage, then those of the database.
struct StagedRecords<'a> {
    engine: &'a Engine,
    staged: &'a [(Stamp, Bytes)],
}

impl Records for StagedRecords<'_> {
    fn load(&self, stamps: &[Stamp]) -> Option<Vec<Bytes>> {
        if self.staged.is_empty() {
            return self.engine.load(stamps);
        }
        let find = |stamp: &Stamp| {
            let staged = self.staged.binary_search_by_key(stamp, |(stamp, _)| *stamp);
            match staged {
                Ok(index) => Some(self.staged[index].1.clone()),
                Err(_) => self.engine.load(&[*stamp])?.pop(),
            }
        };
        stamps.iter().map(find).collect()
    }
}

const KEPT: &str = "invariant: what the writer can see is not compacted away under it";

impl<'a> Writer<'a> {
    pub(crate) fn new(core: &'a Core, engine: &'a Engine, stage: &'a mut Stage, previous_wanted: bool) -> Self {
        Self { core, engine, stage, previous_wanted, changes: Vec::new() }
    }

    /// Applies one command, if its caller may, and takes its revision.
    pub(crate) fn apply(mut self, context: &Context, command: &Command) -> Reply {
        if self.stage.auth.is_enabled() {
            self.stage.auth.permit(&context.caller, command, &self.core.leases.read())?;
        }
        if let Some(refusal) = self.core.alarm_flags.refusal(command) {
            return Err(refusal);
        }
        let before = self.stage.counts.operations();
        let reply = match command {
            Command::Put(request) => self.check_put(request).map(|()| Response::Put(self.put(request))),
            Command::DeleteRange(request) => Ok(Response::DeleteRange(self.delete_range(request))),
            Command::Txn(request) => self.txn(request).map(Response::Txn),
            Command::Compact(request) => self.compact(request).map(Response::Compact),
            Command::LeaseGrant(request) => self.lease_grant(request).map(Response::LeaseGrant),
            Command::LeaseRevoke(request) => self.lease_revoke(request).map(Response::LeaseRevoke),
            Command::PublishMember(member) => {
                self.publish_member(member);
                Ok(Response::PublishMember)
            }
            Command::MemberAdd(add) => self.add_member(add),
            Command::MemberRemove(request) => self.remove_member(MemberId(request.id)),
            Command::MemberChange(change) => self.change_member(change),
            Command::Auth(command) => Ok(Response::Auth(self.change_auth(context.index, command)?)),
            Command::Alarm(request) => Ok(Response::Alarm(self.alarm(request))),
            Command::SetClusterVersion(version) => Ok(self.set_cluster_version(version)),
            Command::SetDowngrade(info) => Ok(self.set_downgrade(info)),
            Command::Quarantine(quarantine) => Ok(self.quarantine(*quarantine)),
        };
        self.stage.counts.txns += u64::from(self.stage.counts.operations() > before + 1);
        if !self.changes.is_empty() {
            assert!(reply.is_ok(), "a failed command changes nothing");
            self.stage.revision += 1;
            self.stage.blocks.push(Block::new(self.stage.revision, self.changes));
        }
        reply
    }

    /// The revision as of the last operation.
    fn revision(&self) -> i64 {
        self.stage.revision + i64::from(!self.changes.is_empty())
    }

    fn header(&self) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader { revision: self.revision(), ..pb::ResponseHeader::default() })
    }

    fn with_view<T>(&self, read: impl FnOnce(View) -> Result<T, Gone>) -> T {
        let records = StagedRecords { engine: self.engine, staged: &self.stage.records };
        read(View { index: &self.core.index, records: &records }).expect(KEPT)
    }

    fn check_put(&self, request: &pb::PutRequest) -> Result<(), StoreError> {
        self.check_lease(request)?;
        self.check_key(request)
    }

    fn check_lease(&self, request: &pb::PutRequest) -> Result<(), StoreError> {
        match request.lease != 0 && !self.core.leases.read().contains(LeaseId(request.lease)) {
            true => Err(StoreError::LeaseNotFound),
            false => Ok(()),
        }
    }

    fn check_key(&self, request: &pb::PutRequest) -> Result<(), StoreError> {
        let needs_key = request.ignore_value || request.ignore_lease;
        match needs_key && !self.core.index.read().get(&request.key).is_some_and(|entry| entry.is_live()) {
            true => Err(StoreError::KeyNotFound),
            false => Ok(()),
        }
    }

    fn check_range(&self, request: &pb::RangeRequest) -> Result<(), StoreError> {
        match request.revision {
            0 => Ok(()),
            revision if revision > self.stage.revision => Err(StoreError::FutureRevision),
            revision if revision < self.stage.floor => Err(StoreError::Compacted),
            _ => Ok(()),
        }
    }

    fn put(&mut self, request: &pb::PutRequest) -> pb::PutResponse {
        let (current, cached) = {
            let index = self.core.index.read();
            let live = index.get(&request.key).filter(|entry| entry.is_live());
            live.map_or((None, None), |entry| (Some(entry.newest()), entry.cached().cloned()))
        };
        let load = request.prev_kv || request.ignore_value || self.previous_wanted || cached.is_some();
        let previous = current.filter(|_| load).map(|version| match cached {
            Some(record) => record::decode_own(record),
            None => self.record_at(version.stamp),
        });
        let value = match &previous {
            Some(previous) if request.ignore_value => previous.value.clone(),
            _ => request.value.clone(),
        };
        let lease = if request.ignore_lease { current.map_or(0, |version| version.lease) } else { request.lease };
        let main = self.stage.revision + 1;
        let kv = KeyValue {
            key: request.key.clone(),
            create_revision: current.map_or(main, |version| version.create_revision),
            mod_revision: main,
            version: current.map_or(1, |version| version.version + 1),
            value,
            lease,
        };
        self.stage.counts.puts += 1;
        self.stage.counts.put_bytes += (kv.key.len() + kv.value.len()) as u64;
        let before = current.map_or(0, |version| version.lease);
        self.move_lease(&kv.key, before, lease);
        self.record(Kind::Put, &kv, current.is_some(), previous.clone());
        pb::PutResponse { header: self.header(), prev_kv: previous.filter(|_| request.prev_kv) }
    }

    fn delete_range(&mut self, request: &pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
        self.stage.counts.deletes += 1;
        let interval = Interval::of(&request.key, &request.range_end);
        let bare = !(request.prev_kv || self.previous_wanted);
        let kvs = self.with_view(|view| range::all(view, At::Newest, &interval, bare));
        let deleted = i64::try_from(kvs.len()).expect("fewer than 2^63 keys");
        for kv in &kvs {
            self.delete(kv, bare);
        }
        let prev_kvs = if request.prev_kv { kvs } else { Vec::new() };
        pb::DeleteRangeResponse { header: self.header(), deleted, prev_kvs }
    }

    /// Deletes a live key; `bare` says that `current` is without its value.
    fn delete(&mut self, current: &KeyValue, bare: bool) {
        let tombstone =
            KeyValue { key: current.key.clone(), mod_revision: self.stage.revision + 1, ..KeyValue::default() };
        self.move_lease(&current.key, current.lease, 0);
        self.record(Kind::Delete, &tombstone, true, (!bare).then(|| current.clone()));
    }

    fn txn(&mut self, request: &pb::TxnRequest) -> Result<pb::TxnResponse, StoreError> {
        let path = self.with_view(|view| compare::path(view, At::Newest, request));
        // Of several things wrong, etcd tells those of puts first, and here the key's before the lease's.
        self.check_txn(request, &path, &|op| match op {
            Request::RequestPut(body) => self.check_key(body).and_then(|()| self.check_lease(body)),
            _ => Ok(()),
        })?;
        self.check_txn(request, &path, &|op| match op {
            Request::RequestRange(body) => self.check_range(body),
            _ => Ok(()),
        })?;
        let mut response = self.run_txn(request, &path);
        response.header = self.header();
        Ok(response)
    }

    /// Checks each operation on the path, those of nested transactions in their place.
    fn check_txn(
        &self,
        request: &pb::TxnRequest,
        path: &Path,
        check: &impl Fn(&Request) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut nested = path.nested.iter();
        for op in compare::branch(request, path.succeeded).iter().filter_map(|op| op.request.as_ref()) {
            match op {
                Request::RequestTxn(body) => {
                    self.check_txn(body, nested.next().expect("a path for every nested transaction"), check)?;
                }
                other => check(other)?,
            }
        }
        Ok(())
    }

    fn run_txn(&mut self, request: &pb::TxnRequest, path: &Path) -> pb::TxnResponse {
        let mut nested = path.nested.iter();
        let mut responses = Vec::new();
        for op in compare::branch(request, path.succeeded) {
            let response = op.request.as_ref().map(|request| match request {
                Request::RequestRange(body) => InnerResponse::ResponseRange(self.range(body)),
                Request::RequestPut(body) => InnerResponse::ResponsePut(self.put(body)),
                Request::RequestDeleteRange(body) => InnerResponse::ResponseDeleteRange(self.delete_range(body)),
                Request::RequestTxn(body) => {
                    let path = nested.next().expect("a path for every nested transaction");
                    InnerResponse::ResponseTxn(self.run_txn(body, path))
                }
            });
            responses.push(pb::ResponseOp { response });
        }
        // The header of a nested transaction is there and empty, as etcd's is.
        pb::TxnResponse { header: Some(pb::ResponseHeader::default()), succeeded: path.succeeded, responses }
    }

    fn range(&mut self, request: &pb::RangeRequest) -> pb::RangeResponse {
        self.stage.counts.ranges += 1;
        let at = if request.revision > 0 { At::Revision(request.revision) } else { At::Newest };
        let ranged = self.with_view(|view| range::range(view, at, request));
        pb::RangeResponse { header: self.header(), kvs: ranged.kvs, more: ranged.more, count: ranged.count }
    }

    fn compact(&mut self, request: &pb::CompactionRequest) -> Result<pb::CompactionResponse, StoreError> {
        if request.revision <= self.stage.floor {
            return Err(StoreError::Compacted);
        }
        if request.revision > self.stage.revision {
            return Err(StoreError::FutureRevision);
        }
        self.stage.floor = request.revision;
        Ok(pb::CompactionResponse { header: self.header() })
    }

    fn lease_grant(&mut self, request: &pb::LeaseGrantRequest) -> Result<pb::LeaseGrantResponse, StoreError> {
        let id = LeaseId(request.id);
        if self.core.leases.read().contains(id) {
            return Err(StoreError::LeaseExists);
        }
        self.core.leases.write().grant(id, request.ttl);
        let (key, value) = (request.id.to_be_bytes(), request.ttl.to_be_bytes());
        self.engine.put(&mut self.stage.batch, Family::Leases, &key, &value);
        self.stage.lease_changes.push(LeaseChange::Granted { id, ttl_s: request.ttl });
        Ok(pb::LeaseGrantResponse { header: self.header(), id: request.id, ttl: request.ttl, error: String::new() })
    }

    fn lease_revoke(&mut self, request: &pb::LeaseRevokeRequest) -> Result<pb::LeaseRevokeResponse, StoreError> {
        let id = LeaseId(request.id);
        let (_, keys) = self.core.leases.read().keys(id).ok_or(StoreError::LeaseNotFound)?;
        self.stage.counts.deletes += keys.len() as u64;
        for key in keys {
            let interval = Interval::single(key);
            let bare = !self.previous_wanted;
            let current = self.with_view(|view| range::all(view, At::Newest, &interval, bare)).pop();
            self.delete(&current.expect("an attached key is live"), bare);
        }
        self.core.leases.write().remove(id);
        self.engine.delete(&mut self.stage.batch, Family::Leases, &request.id.to_be_bytes());
        self.stage.lease_changes.push(LeaseChange::Revoked { id });
        Ok(pb::LeaseRevokeResponse { header: self.header() })
    }

    fn change_auth(&mut self, index: LogIndex, command: &AuthCommand) -> Result<AuthAnswer, AuthError> {
        let current = &self.stage.auth;
        // A log-in is common and changes nothing that is copied.
        if let AuthCommand::AssignToken(request) = command {
            let (answer, effects) = current.assign_token(index, request)?;
            self.stage.token_changes.extend(effects.token);
            return Ok(answer);
        }
        let mut next = AuthState::clone(current);
        let (answer, mut effects) = next.apply(index, command)?;
        self.stage.token_changes.extend(effects.token.take());
        if (next.revision(), next.is_enabled()) != (current.revision(), current.is_enabled()) {
            auth::put(self.engine, &mut self.stage.batch, &next, &effects);
            self.stage.auth = Arc::new(next);
        }
        Ok(answer)
    }

    fn record_at(&self, stamp: Stamp) -> KeyValue {
        let records = StagedRecords { engine: self.engine, staged: &self.stage.records };
        let record = records.load(&[stamp]).expect(KEPT).pop().expect("one record for one place");
        record::decode_own(record)
    }

    fn move_lease(&self, key: &[u8], before: i64, after: i64) {
        if before == after {
            return;
        }
        let mut leases = self.core.leases.write();
        if before != 0 {
            leases.detach(LeaseId(before), key);
        }
        if after != 0 {
            leases.attach(LeaseId(after), key);
        }
    }

    /// Stages one change: for the database, the index and the watchers.
    fn record(&mut self, kind: Kind, kv: &KeyValue, replaces: bool, previous: Option<KeyValue>) {
        let sub = u32::try_from(self.changes.len()).expect("fewer than 2^32 changes in a revision");
        let stamp = Stamp { main: self.stage.revision + 1, sub };
        let record = record::encode(kind, kv);
        self.engine.put(&mut self.stage.batch, Family::Records, &stamp.to_bytes(), &record);
        // From here on the record's own copy is used: the request's bytes belong to a larger buffer.
        let kv = record::decode_own(record.clone());
        self.core.index.write().record(stamp, kind, &kv, record.clone());
        self.stage.records.push((stamp, record));
        self.changes.push(Change::new(kind, kv, replaces, previous));
    }
}
