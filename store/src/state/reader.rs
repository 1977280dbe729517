//! Reads of what has been committed. Cheap to share; never blocks the writer for longer than a short lock slice.

use bytes::Bytes;
use kontiki_api::etcdserverpb as pb;

use crate::error::StoreError;
use crate::ids::{LeaseId, LogIndex, MemberId, Revision};
use crate::watch::WatchHub;

/// Logical bytes of the stored records: `total` with, `in_use` without what compaction is about to remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    pub total: u64,
    pub in_use: u64,
}

/// What happened to a lease, in log order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    Granted { id: LeaseId, ttl_s: i64 },
    Revoked { id: LeaseId },
}

/// Lease changes since a version, or the whole table when they are no longer all known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseChanges {
    Changes(Vec<LeaseChange>),
    Table(Vec<(LeaseId, i64)>),
}

pub struct Reader {}

impl Reader {
    #[must_use]
    pub fn revision(&self) -> Revision {
        todo!()
    }

    /// The compaction floor; -1 before the first compaction.
    #[must_use]
    pub fn compact_revision(&self) -> Revision {
        todo!()
    }

    #[must_use]
    pub fn applied_index(&self) -> LogIndex {
        todo!()
    }

    /// # Errors
    /// `Compacted`, `FutureRevision`, `EmptyKey`, `InvalidSortOption`.
    pub fn range(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, StoreError> {
        let _ = request;
        todo!()
    }

    /// A transaction that holds only ranges (see [`super::check::is_read_only`]), at one revision.
    ///
    /// # Errors
    /// As [`Reader::range`].
    pub fn txn(&self, request: &pb::TxnRequest) -> Result<pb::TxnResponse, StoreError> {
        let _ = request;
        todo!()
    }

    /// A digest of the logical contents up to a revision (0 = current), equal on all members.
    ///
    /// # Errors
    /// `Compacted`, `FutureRevision`.
    pub fn hash_kv(&self, revision: Revision) -> Result<pb::HashKvResponse, StoreError> {
        let _ = revision;
        todo!()
    }

    #[must_use]
    pub fn size(&self) -> Size {
        todo!()
    }

    /// Every lease with its granted seconds to live, by id.
    #[must_use]
    pub fn leases(&self) -> Vec<(LeaseId, i64)> {
        todo!()
    }

    /// Granted seconds to live and the attached keys in key order.
    #[must_use]
    pub fn lease_keys(&self, lease: LeaseId) -> Option<(i64, Vec<Bytes>)> {
        let _ = lease;
        todo!()
    }

    /// Changes of the lease table after `version` (0 = from the beginning) and the version to ask from next.
    #[must_use]
    pub fn lease_changes(&self, version: u64) -> (LeaseChanges, u64) {
        let _ = version;
        todo!()
    }

    /// Wakes when the lease table has changed; carries the version.
    #[must_use]
    pub fn lease_version(&self) -> tokio::sync::watch::Receiver<u64> {
        todo!()
    }

    /// The name and client URLs that a member has published.
    #[must_use]
    pub fn member_attributes(&self, member: MemberId) -> Option<(String, Vec<String>)> {
        let _ = member;
        todo!()
    }

    #[must_use]
    pub fn watch(&self) -> WatchHub {
        todo!()
    }

    /// Waits until the data below `revision` is physically gone (a compaction with `physical = true`).
    pub async fn compacted_physically(&self, revision: Revision) {
        let _ = revision;
        todo!()
    }
}
