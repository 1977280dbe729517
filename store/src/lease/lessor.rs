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

#[cfg(test)]
mod tests {
    use super::*;

    const A: LeaseId = LeaseId(1);
    const B: LeaseId = LeaseId(2);

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn leading(leases: &[(LeaseId, i64)]) -> Lessor {
        let mut lessor = Lessor::default();
        lessor.promote(s(100), leases.iter().copied(), s(0));
        lessor
    }

    #[test]
    fn a_lease_ends_after_its_time_and_not_before() {
        let mut lessor = leading(&[(A, 10)]);
        assert_eq!(lessor.next_deadline(), Some(s(110)));
        assert!(lessor.expired(s(110) - Duration::from_millis(1)).is_empty());
        assert_eq!(lessor.expired(s(110)), [A]);
    }

    #[test]
    fn renewing_gives_the_full_time_again() {
        let mut lessor = leading(&[(A, 10)]);
        assert_eq!(lessor.renew(A, s(108)), Some(10));
        assert!(lessor.expired(s(117)).is_empty());
        assert_eq!(lessor.remaining(A, s(112)), Some((6, 10)));
        assert_eq!(lessor.renew(B, s(108)), None);
    }

    #[test]
    fn an_expired_lease_is_not_renewed_even_before_its_revoke() {
        let mut lessor = leading(&[(A, 10)]);
        assert_eq!(lessor.renew(A, s(110)), None, "its time is over, though nobody has asked yet");
        lessor.expired(s(110));
        assert_eq!(lessor.renew(A, s(111)), None);
        assert_eq!(lessor.remaining(A, s(111)), Some((0, 10)));
    }

    #[test]
    fn a_revoke_that_got_lost_is_asked_for_again() {
        let mut lessor = leading(&[(A, 10)]);
        assert_eq!(lessor.expired(s(110)), [A]);
        assert!(lessor.expired(s(110)).is_empty());
        assert_eq!(lessor.expired(s(110) + limits::LEASE_REVOKE_RETRY), [A]);
        lessor.revoked(A);
        assert_eq!(lessor.next_deadline(), None);
    }

    #[test]
    fn a_new_leader_gives_every_lease_its_full_time_and_the_gap() {
        let mut lessor = leading(&[(A, 10)]);
        lessor.promote(s(200), [(A, 10), (B, 20)], s(3));
        assert!(lessor.expired(s(212)).is_empty());
        assert_eq!(lessor.expired(s(213)), [A]);
        assert_eq!(lessor.expired(s(223)), [A, B], "the first one still waits for its revoke");
    }

    #[test]
    fn only_a_leader_knows_deadlines() {
        let mut lessor = leading(&[(A, 10)]);
        lessor.demote();
        assert_eq!((lessor.renew(A, s(101)), lessor.remaining(A, s(101))), (None, None));
        assert_eq!(lessor.next_deadline(), None);
    }

    #[test]
    fn a_crowd_expires_in_bounded_batches_oldest_first() {
        let many = i64::try_from(limits::LEASE_EXPIRE_BATCH).unwrap() + 10;
        let leases: Vec<_> = (0..many).map(|n| (LeaseId(many - n), 10 + n / 1000)).collect();
        let mut lessor = leading(&leases);
        assert_eq!(lessor.expired(s(111)).len(), limits::LEASE_EXPIRE_BATCH);
        assert_eq!(lessor.expired(s(111)).len(), 10);
        assert!(lessor.expired(s(111)).is_empty());
    }

    #[test]
    fn granting_and_revoking_follow_the_log() {
        let mut lessor = leading(&[]);
        lessor.granted(A, 5, s(100));
        lessor.granted(B, 50, s(100));
        lessor.revoked(A);
        assert_eq!(lessor.next_deadline(), Some(s(150)));
        lessor.revoked(LeaseId(77));
    }
}
