//! Reads of what has been committed. Cheap to share; never blocks the writer for longer than a short lock slice.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kontiki_api::etcdserverpb as pb;
use pb::request_op::Request;
use pb::response_op::Response;
use prost::Message;

use super::agreed::{self, Agreed};
use super::check;
use super::compactor::Compactor;
use super::core::Core;
use crate::auth::{AuthError, AuthState, Caller};
use crate::error::StoreError;
use crate::ids::{LeaseId, LogIndex, MemberId, Revision};
use crate::lease::table::LeaseChange;
use crate::limits;
use crate::metrics::Counts;
use crate::mvcc::compare;
use crate::mvcc::hash;
use crate::mvcc::index::At;
use crate::mvcc::interval::Interval;
use crate::mvcc::range::{self, Gone};
use crate::watch::WatchHub;
use crate::watch::hub::Hub;

/// Logical bytes of the stored records. Nothing is ever free but unusable here, so the two are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    pub total: u64,
    pub in_use: u64,
}

/// Lease changes since a version, or the whole table when they are no longer all known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseChanges {
    Changes(Vec<LeaseChange>),
    Table(Vec<(LeaseId, i64)>),
}

pub struct Reader {
    pub(super) core: Arc<Core>,
    hub: Arc<Hub>,
    compactor: Arc<Compactor>,
}

/// The moment a read looks at.
#[derive(Clone, Copy)]
struct Moment {
    revision: i64,
    floor: i64,
}

impl Reader {
    pub(crate) fn new(core: Arc<Core>, hub: Arc<Hub>, compactor: Arc<Compactor>) -> Self {
        Self { core, hub, compactor }
    }

    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision(self.core.index.read().revision())
    }

    /// The compaction floor; -1 before the first compaction.
    #[must_use]
    pub fn compact_revision(&self) -> Revision {
        Revision(self.core.index.read().floor())
    }

    #[must_use]
    pub fn applied_index(&self) -> LogIndex {
        self.core.applied_index()
    }

    /// # Errors
    /// `EmptyKey`, `InvalidSortOption`, `Compacted`, `FutureRevision`.
    pub fn range(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, StoreError> {
        check::range(request)?;
        self.read(|moment| {
            let at = match request.revision {
                ..=0 => moment.revision,
                revision => checked(revision, moment)?,
            };
            self.range_at(request, at, moment)
        })
        .inspect(|_| self.count_ranges(1))
    }

    /// A transaction that holds only ranges (see [`check::is_read_only`]), at one revision.
    ///
    /// # Errors
    /// As [`Reader::range`].
    pub fn txn(&self, request: &pb::TxnRequest) -> Result<pb::TxnResponse, StoreError> {
        assert!(check::is_read_only(request), "a transaction that writes goes through the log");
        self.read(|moment| {
            let view = self.core.view(&*self.core);
            let path = compare::path(view, At::Revision(moment.revision), request)?;
            let mut responses = Vec::new();
            for op in compare::branch(request, path.succeeded) {
                let Some(Request::RequestRange(body)) = &op.request else {
                    unreachable!("only ranges, as asserted above");
                };
                // Here, unlike outside, a negative revision is one that was compacted long ago.
                let at = match body.revision {
                    0 => moment.revision,
                    revision => checked(revision, moment)?,
                };
                let at = if at <= 0 { moment.revision } else { at };
                let response = Some(Response::ResponseRange(self.range_at(body, at, moment)?));
                responses.push(pb::ResponseOp { response });
            }
            Ok(pb::TxnResponse { header: header(moment.revision), succeeded: path.succeeded, responses })
        })
        .inspect(|answer| self.count_ranges(answer.responses.len() as u64))
    }

    /// A digest of the logical contents up to a revision (0 = current), equal on all members.
    ///
    /// # Errors
    /// `Compacted`, `FutureRevision`.
    pub fn hash_kv(&self, revision: Revision) -> Result<pb::HashKvResponse, StoreError> {
        self.hash_kv_resting(revision, &mut || {})
    }

    /// The same, calling `rest` now and then: a digest reads everything there is.
    ///
    /// # Errors
    /// As [`Reader::hash_kv`].
    pub fn hash_kv_resting(
        &self,
        revision: Revision,
        rest: &mut dyn FnMut(),
    ) -> Result<pb::HashKvResponse, StoreError> {
        let rest = std::cell::RefCell::new(rest);
        self.read(|moment| {
            let at = if revision.0 == 0 { moment.revision } else { checked(revision.0, moment)? };
            let engine = self.core.engine();
            let hash = hash::digest(&self.core.index, &engine, at, moment.floor, &mut **rest.borrow_mut());
            let hash = hash.unwrap_or_else(|error| engine.unreadable(&error));
            // A floor that moved meanwhile has changed what belongs to the digest.
            if self.core.index.read().floor() != moment.floor {
                return Err(Failure::Overtaken);
            }
            Ok(pb::HashKvResponse {
                header: header(moment.revision),
                hash,
                compact_revision: moment.floor,
                hash_revision: at,
            })
        })
    }

    /// How many keys there are.
    #[must_use]
    pub fn keys(&self) -> usize {
        let index = self.core.index.read();
        let everything = Interval::of(&Bytes::from_static(&[0]), &Bytes::from_static(&[0]));
        index.count(&everything, At::Revision(index.revision())).unwrap_or(0)
    }

    fn count_ranges(&self, ranges: u64) {
        self.core.metrics.add(&Counts { ranges, txns: u64::from(ranges > 1), ..Counts::default() });
    }

    /// A digest of everything that is replicated: keys, leases, members, and what the cluster has agreed on.
    ///
    /// # Errors
    /// `Compacted` when compaction overtakes it again and again.
    pub fn hash(&self) -> Result<u32, StoreError> {
        let mut crc = self.hash_kv(Revision(0))?.hash;
        let mut add = |bytes: &[u8]| crc = crc32c::crc32c_append(crc, bytes);
        for (lease, ttl_s) in self.leases() {
            add(&lease.0.to_be_bytes());
            add(&ttl_s.to_be_bytes());
        }
        for (_, member) in self.core.members.read().iter() {
            add(&member.encode_to_vec());
        }
        add(&agreed::canonical(&self.core.agreed.read()));
        Ok(crc)
    }

    /// Alarms, versions: what the cluster has agreed on beside the keys.
    #[must_use]
    pub fn agreed(&self) -> Agreed {
        self.core.agreed.read().clone()
    }

    /// Wakes when that has changed.
    #[must_use]
    pub fn agreed_version(&self) -> tokio::sync::watch::Receiver<u64> {
        self.core.agreed_version.subscribe()
    }

    #[must_use]
    pub fn size(&self) -> Size {
        let total = self.core.index.read().record_bytes();
        Size { total, in_use: total }
    }

    /// Every lease with its granted seconds to live, by id.
    #[must_use]
    pub fn leases(&self) -> Vec<(LeaseId, i64)> {
        self.core.leases.read().list()
    }

    /// Granted seconds to live and the attached keys in key order.
    #[must_use]
    pub fn lease_keys(&self, lease: LeaseId) -> Option<(i64, Vec<Bytes>)> {
        self.core.leases.read().keys(lease)
    }

    /// Changes of the lease table after `version` and the version to ask from next. 0 asks for the whole table.
    #[must_use]
    pub fn lease_changes(&self, version: u64) -> (LeaseChanges, u64) {
        // The version first: a change between the two is then reported twice, never lost.
        let log = self.core.lease_changes.lock();
        let next = log.version();
        match log.since(version) {
            Some(changes) => (LeaseChanges::Changes(changes), next),
            None => {
                drop(log);
                (LeaseChanges::Table(self.leases()), next)
            }
        }
    }

    /// Wakes when the lease table has changed; carries the version.
    #[must_use]
    pub fn lease_version(&self) -> tokio::sync::watch::Receiver<u64> {
        self.core.lease_version.subscribe()
    }

    /// The name and client URLs that a member has published; `None` until it has.
    #[must_use]
    pub fn member_attributes(&self, member: MemberId) -> Option<(String, Vec<String>)> {
        let members = self.core.members.read();
        let joined = members.get(member).filter(|member| !member.name.is_empty());
        joined.map(|member| (member.name.clone(), member.client_ur_ls.clone()))
    }

    /// Whether callers' permissions matter.
    #[must_use]
    pub fn auth_enabled(&self) -> bool {
        self.core.auth_enabled()
    }

    #[must_use]
    pub fn auth(&self) -> Arc<AuthState> {
        self.core.auth()
    }

    /// The user of a simple token that is known here and was used within `ttl`; this use keeps it alive.
    #[must_use]
    pub fn token_user(&self, token: &str, ttl: Duration) -> Option<Arc<str>> {
        self.core.with_tokens(|tokens, now| tokens.user_of(token, now, ttl))
    }

    /// How many simple tokens were used within `ttl`; the others are forgotten.
    pub fn tokens_alive(&self, ttl: Duration) -> usize {
        self.core.with_tokens(|tokens, now| {
            tokens.expire(now, ttl);
            tokens.len()
        })
    }

    /// Drops the tokens that will have expired when `later` has passed.
    #[cfg(test)]
    pub(crate) fn expire_tokens_in(&self, later: Duration, ttl: Duration) {
        self.core.with_tokens(|tokens, now| tokens.expire(now + later, ttl));
    }

    /// Whether `caller` may renew or revoke a lease, or attach a key to it.
    ///
    /// # Errors
    /// As [`AuthState::may_use_lease`].
    pub fn may_use_lease(&self, caller: &Caller, lease: LeaseId) -> Result<(), AuthError> {
        self.auth().may_use_lease(caller, lease, &self.core.leases.read())
    }

    /// Whether `caller` may have a transaction that only reads answered.
    ///
    /// # Errors
    /// As [`AuthState::may_txn`].
    pub fn may_txn(&self, auth: &AuthState, caller: &Caller, request: &pb::TxnRequest) -> Result<(), AuthError> {
        auth.may_txn(caller, request, &self.core.leases.read())
    }

    #[must_use]
    pub fn watch(&self) -> WatchHub {
        WatchHub::new(self.hub.clone())
    }

    #[cfg(test)]
    pub(crate) fn nobody_watches(&self) -> bool {
        self.hub.is_idle()
    }

    /// Waits until what `revision` has compacted is physically gone (a compaction with `physical = true`).
    pub async fn compacted_physically(&self, revision: Revision) {
        // An error means that the state is gone, and with it whoever would answer.
        let _ = self.compactor.compacted().wait_for(|compacted| *compacted >= revision.0).await;
    }

    fn range_at(&self, request: &pb::RangeRequest, at: i64, moment: Moment) -> Result<pb::RangeResponse, Failure> {
        let ranged = range::range(self.core.view(&*self.core), At::Revision(at), request)?;
        if self.core.index.read().floor() > at {
            return Err(Failure::Overtaken);
        }
        let header = header(moment.revision);
        Ok(pb::RangeResponse { header, kvs: ranged.kvs, more: ranged.more, count: ranged.count })
    }

    /// Runs a read at the current moment, and again at a later one when compaction has overtaken it. A read that names a
    /// compacted revision then finds that out by itself.
    fn read<T>(&self, read: impl Fn(Moment) -> Result<T, Failure>) -> Result<T, StoreError> {
        let _reading = self.core.metrics.reading();
        for _ in 0..limits::READ_RETRIES {
            let moment = {
                let index = self.core.index.read();
                Moment { revision: index.revision(), floor: index.floor() }
            };
            match read(moment) {
                Ok(answer) => return Ok(answer),
                Err(Failure::Store(error)) => return Err(error),
                Err(Failure::Overtaken) => {}
            }
        }
        Err(StoreError::Compacted)
    }
}

enum Failure {
    Store(StoreError),
    /// Compaction has passed the revision while it was read.
    Overtaken,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Gone> for Failure {
    fn from(_: Gone) -> Self {
        Self::Overtaken
    }
}

fn checked(revision: i64, moment: Moment) -> Result<i64, StoreError> {
    if revision > moment.revision {
        Err(StoreError::FutureRevision)
    } else if revision < moment.floor {
        Err(StoreError::Compacted)
    } else {
        Ok(revision)
    }
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision, ..pb::ResponseHeader::default() })
}
