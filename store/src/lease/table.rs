//! The replicated lease table: what was granted, and which keys hang on it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::ids::LeaseId;
use crate::limits;

#[derive(Debug)]
struct Lease {
    ttl_s: i64,
    keys: BTreeSet<Bytes>,
}

/// Attachments are not stored: each `KeyValue` names its lease, and they are rebuilt with the index.
#[derive(Debug, Default)]
pub struct LeaseTable {
    leases: BTreeMap<LeaseId, Lease>,
}

impl LeaseTable {
    #[must_use]
    pub fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    pub fn grant(&mut self, id: LeaseId, ttl_s: i64) {
        let before = self.leases.insert(id, Lease { ttl_s, keys: BTreeSet::new() });
        assert!(before.is_none(), "a lease is granted once");
    }

    /// Removes a lease whose keys have been deleted.
    pub fn remove(&mut self, id: LeaseId) {
        let lease = self.leases.remove(&id).expect("only a granted lease is removed");
        assert!(lease.keys.is_empty(), "deleting the keys has detached them");
    }

    pub fn attach(&mut self, id: LeaseId, key: &[u8]) {
        let lease = self.leases.get_mut(&id).expect("a put was checked for its lease");
        lease.keys.insert(Bytes::copy_from_slice(key));
    }

    pub fn detach(&mut self, id: LeaseId, key: &[u8]) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.remove(key);
        }
    }

    /// Every lease with its granted seconds, by id.
    #[must_use]
    pub fn list(&self) -> Vec<(LeaseId, i64)> {
        self.leases.iter().map(|(id, lease)| (*id, lease.ttl_s)).collect()
    }

    /// Granted seconds and the attached keys in key order.
    #[must_use]
    pub fn keys(&self, id: LeaseId) -> Option<(i64, Vec<Bytes>)> {
        let lease = self.leases.get(&id)?;
        Some((lease.ttl_s, lease.keys.iter().cloned().collect()))
    }
}

/// What happened to a lease, in log order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    Granted { id: LeaseId, ttl_s: i64 },
    Revoked { id: LeaseId },
}

/// The newest changes of the table, numbered, for whoever keeps a copy of it.
#[derive(Debug)]
pub struct ChangeLog {
    /// The number of the newest change. What the state held when it was opened counts as the first one.
    version: u64,
    changes: VecDeque<LeaseChange>,
}

impl Default for ChangeLog {
    fn default() -> Self {
        Self { version: 1, changes: VecDeque::new() }
    }
}

impl ChangeLog {
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn push(&mut self, change: LeaseChange) {
        self.version += 1;
        self.changes.push_back(change);
        if self.changes.len() > limits::LEASE_CHANGES_KEPT {
            self.changes.pop_front();
        }
    }

    /// Forgets the changes, so that everyone takes the whole table next.
    pub fn reset(&mut self) {
        self.version += 1;
        self.changes.clear();
    }

    /// The changes after `version`, unless some are forgotten.
    #[must_use]
    pub fn since(&self, version: u64) -> Option<Vec<LeaseChange>> {
        let missed = usize::try_from(self.version.checked_sub(version)?).ok()?;
        let known = self.changes.len();
        (missed <= known).then(|| self.changes.range(known - missed..).copied().collect())
    }
}
