//! The leader's view of time: which lease ends when. Pure; `now` is a duration since any fixed monotonic start.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ids::LeaseId;
use crate::limits;

/// Deadlines of all leases while this member leads; empty otherwise.
#[derive(Debug, Default)]
pub struct Lessor {
    leases: BTreeMap<LeaseId, Timed>,
    /// Ordered by deadline: the queue of what ends next.
    deadlines: BTreeSet<(Duration, LeaseId)>,
}

#[derive(Clone, Copy, Debug)]
struct Timed {
    ttl_s: i64,
    deadline: Duration,
    /// Expired and handed out for revoking: it can no longer be renewed, and is offered again after a pause.
    expiring: bool,
}

impl Lessor {
    /// Takes over at `now`: every lease gets its full time again, plus `extend` for the time nobody could renew.
    pub fn promote(&mut self, now: Duration, leases: impl IntoIterator<Item = (LeaseId, i64)>, extend: Duration) {
        self.demote();
        for (id, ttl_s) in leases {
            self.insert(id, ttl_s, now + ttl(ttl_s) + extend);
        }
    }

    /// Forgets everything: only the leader knows deadlines.
    pub fn demote(&mut self) {
        self.leases.clear();
        self.deadlines.clear();
    }

    /// A lease was granted.
    pub fn granted(&mut self, id: LeaseId, ttl_s: i64, now: Duration) {
        self.remove(id);
        self.insert(id, ttl_s, now + ttl(ttl_s));
    }

    /// A lease was revoked.
    pub fn revoked(&mut self, id: LeaseId) {
        self.remove(id);
    }

    /// Gives the lease its full time again. `None` when it is unknown or has expired, even if its revoke is still under
    /// way.
    pub fn renew(&mut self, id: LeaseId, now: Duration) -> Option<i64> {
        let lease = *self.leases.get(&id)?;
        if lease.expiring || lease.deadline <= now {
            return None;
        }
        self.remove(id);
        self.insert(id, lease.ttl_s, now + ttl(lease.ttl_s));
        Some(lease.ttl_s)
    }

    /// Whole seconds left and the granted seconds.
    #[must_use]
    pub fn remaining(&self, id: LeaseId, now: Duration) -> Option<(i64, i64)> {
        let lease = self.leases.get(&id)?;
        if lease.expiring {
            return Some((0, lease.ttl_s));
        }
        let left = lease.deadline.saturating_sub(now).as_secs();
        Some((i64::try_from(left).unwrap_or(i64::MAX), lease.ttl_s))
    }

    /// Leases whose time is over, oldest deadline first, at most [`limits::LEASE_EXPIRE_BATCH`]. Each is offered again
    /// after [`limits::LEASE_REVOKE_RETRY`], because a revoke may get lost with a leader.
    pub fn expired(&mut self, now: Duration) -> Vec<LeaseId> {
        let due: Vec<LeaseId> = self
            .deadlines
            .iter()
            .take_while(|(deadline, _)| *deadline <= now)
            .take(limits::LEASE_EXPIRE_BATCH)
            .map(|(_, id)| *id)
            .collect();
        for id in &due {
            let ttl_s = self.remove(*id).expect("a queued deadline belongs to a lease");
            self.insert(*id, ttl_s, now + limits::LEASE_REVOKE_RETRY);
            self.leases.get_mut(id).expect("just inserted").expiring = true;
        }
        due
    }

    /// When [`Lessor::expired`] is worth asking again.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    fn insert(&mut self, id: LeaseId, ttl_s: i64, deadline: Duration) {
        self.leases.insert(id, Timed { ttl_s, deadline, expiring: false });
        self.deadlines.insert((deadline, id));
    }

    fn remove(&mut self, id: LeaseId) -> Option<i64> {
        let lease = self.leases.remove(&id)?;
        let queued = self.deadlines.remove(&(lease.deadline, id));
        assert!(queued, "every lease has its deadline in the queue");
        Some(lease.ttl_s)
    }
}

fn ttl(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
