//! Which membership changes are refused because they would endanger the quorum: etcd's `strict-reconfig-check`.
//!
//! The leader decides, because it alone hears from everyone. What needs no such knowledge (unknown ids, URLs in use) is
//! decided where the command is applied, in the same order as etcd: these checks first.

use serde::{Deserialize, Serialize};

use super::MemberTable;
use crate::error::StoreError;
use crate::ids::MemberId;

/// What an operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    Add,
    AddLearner,
    Remove(MemberId),
    Promote(MemberId),
}

/// What the leader knows of the members.
pub trait Health {
    /// Heard of just now.
    fn is_active(&self, member: MemberId) -> bool;
    /// Heard of for some seconds, without a break. The leader itself is.
    fn is_stable(&self, member: MemberId) -> bool;
    /// The index up to which a member's log is known to be the leader's; `None` when it is not replicated to.
    fn matched(&self, member: MemberId) -> Option<u64>;
    /// The end of the leader's own log.
    fn last_index(&self) -> u64;
}

/// Whether `wish` may be proposed. Without `strict` only a learner that lags is refused.
///
/// # Errors
/// etcd's error for the reason.
pub fn check(table: &MemberTable, wish: Wish, strict: bool, health: &impl Health) -> Result<(), StoreError> {
    match wish {
        Wish::Add if strict => {
            ready_to_add(table)?;
            all_stable(table, health)
        }
        Wish::AddLearner if strict => all_stable(table, health),
        Wish::Remove(id) if strict => remove(table, id, health),
        Wish::Add | Wish::AddLearner | Wish::Remove(_) => Ok(()),
        Wish::Promote(id) => {
            in_sync(table, id, health)?;
            match strict && !has_quorum(count(table, None, 1)) {
                true => Err(StoreError::NotEnoughStartedMembers),
                false => Ok(()),
            }
        }
    }
}

/// Voters in the table after the change, and how many of them have joined.
#[derive(Clone, Copy)]
struct Count {
    voters: usize,
    started: usize,
}

fn count(table: &MemberTable, without: Option<MemberId>, started_learners: usize) -> Count {
    let voters = table.voters().filter(|(id, _)| Some(*id) != without);
    let (mut all, mut started) = (started_learners, started_learners);
    for (_, member) in voters {
        all += 1;
        started += usize::from(!member.name.is_empty());
    }
    Count { voters: all, started }
}

fn has_quorum(count: Count) -> bool {
    count.started > count.voters / 2
}

fn ready_to_add(table: &MemberTable) -> Result<(), StoreError> {
    let before = count(table, None, 0);
    // A member alone may always be joined, or no cluster could grow.
    let alone = before.started == 1 && before.voters == 1;
    match alone || has_quorum(Count { voters: before.voters + 1, ..before }) {
        true => Ok(()),
        false => Err(StoreError::NotEnoughStartedMembers),
    }
}

fn all_stable(table: &MemberTable, health: &impl Health) -> Result<(), StoreError> {
    match table.voters().all(|(id, _)| health.is_stable(id)) {
        true => Ok(()),
        false => Err(StoreError::UnhealthyCluster),
    }
}

fn remove(table: &MemberTable, id: MemberId, health: &impl Health) -> Result<(), StoreError> {
    if table.is_learner(id) {
        return Ok(());
    }
    if !has_quorum(count(table, Some(id), 0)) {
        return Err(StoreError::NotEnoughStartedMembers);
    }
    // A dead voter is no part of the quorum that works.
    if !health.is_active(id) {
        return Ok(());
    }
    let voters = table.voters().count();
    let stable = table.voters().filter(|(id, _)| health.is_stable(*id)).count();
    match stable > (voters - 1) / 2 + 1 {
        true => Ok(()),
        false => Err(StoreError::UnhealthyCluster),
    }
}

/// A learner may vote when it holds nine tenths of the log; Raft counts it once it holds the rest.
fn in_sync(table: &MemberTable, id: MemberId, health: &impl Health) -> Result<(), StoreError> {
    match table.get(id) {
        None => Err(StoreError::MemberNotFound),
        Some(member) if !member.is_learner => Err(StoreError::MemberNotLearner),
        Some(_) => match health.matched(id).unwrap_or(0) * 10 < health.last_index() * 9 {
            true => Err(StoreError::LearnerNotReady),
            false => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kontiki_api::etcdserverpb as pb;

    use super::*;

    /// `1 2! 3- 4L`: a stable voter, one that is active but not stable, one not started (and silent), a learner.
    /// `5x`: started and silent.
    fn cluster(text: &str) -> (MemberTable, Known) {
        let (mut table, mut known) = (MemberTable::default(), Known::default());
        for word in text.split_whitespace() {
            let digits = word.trim_end_matches(|c: char| !c.is_ascii_digit());
            let (id, mark) = (MemberId(digits.parse().unwrap()), &word[digits.len()..]);
            let name = if mark.contains('-') { "" } else { "n" };
            let is_learner = mark.contains('L');
            table.restore(pb::Member { id: id.0, name: name.to_owned(), is_learner, ..pb::Member::default() });
            let activity = if mark.contains(['-', 'x']) { 0 } else { 2 - u8::from(mark.contains('!')) };
            known.activity.insert(id, activity);
        }
        (table, known)
    }

    #[derive(Default)]
    struct Known {
        activity: BTreeMap<MemberId, u8>,
        matched: BTreeMap<MemberId, u64>,
    }

    impl Health for Known {
        fn is_active(&self, member: MemberId) -> bool {
            self.activity.get(&member).is_some_and(|activity| *activity > 0)
        }

        fn is_stable(&self, member: MemberId) -> bool {
            self.activity.get(&member) == Some(&2)
        }

        fn matched(&self, member: MemberId) -> Option<u64> {
            self.matched.get(&member).copied()
        }

        fn last_index(&self) -> u64 {
            1000
        }
    }

    #[track_caller]
    fn check(members: &str, wish: Wish, expected: Result<(), StoreError>) {
        let (table, known) = cluster(members);
        assert_eq!(super::check(&table, wish, true, &known), expected, "{wish:?} of {members:?}");
        if !matches!(wish, Wish::Promote(_)) {
            assert_eq!(super::check(&table, wish, false, &known), Ok(()), "not strict: {wish:?} of {members:?}");
        }
    }

    const NOT_ENOUGH: Result<(), StoreError> = Err(StoreError::NotEnoughStartedMembers);
    const UNHEALTHY: Result<(), StoreError> = Err(StoreError::UnhealthyCluster);

    #[test]
    fn a_voter_is_added_to_healthy_clusters_only() {
        check("1", Wish::Add, Ok(()));
        check("1 2-", Wish::Add, NOT_ENOUGH);
        check("1 2", Wish::Add, Ok(()));
        check("1 2 3", Wish::Add, Ok(()));
        check("1 2 3x", Wish::Add, UNHEALTHY);
        check("1 2 3!", Wish::Add, UNHEALTHY);
        check("1 2 3-", Wish::Add, NOT_ENOUGH);
        check("1 2 3 4-", Wish::Add, UNHEALTHY);
        check("1 2 3 4L", Wish::Add, Ok(()));
    }

    #[test]
    fn a_learner_is_added_while_all_voters_are_there() {
        check("1", Wish::AddLearner, Ok(()));
        check("1 2-", Wish::AddLearner, UNHEALTHY);
        check("1 2 3", Wish::AddLearner, Ok(()));
        check("1 2 3x", Wish::AddLearner, UNHEALTHY);
    }

    #[test]
    fn a_removal_must_leave_a_quorum_that_works() {
        let remove = |id| Wish::Remove(MemberId(id));
        check("1", remove(1), NOT_ENOUGH);
        check("1", remove(9), Ok(()));
        check("1 2", remove(2), Ok(()));
        check("1 2 3", remove(1), Ok(()));
        check("1 2 3x", remove(3), Ok(()));
        check("1 2 3x", remove(2), UNHEALTHY);
        check("1 2! 3!", remove(2), UNHEALTHY);
        check("1 2-", remove(2), Ok(()));
        check("1 2-", remove(1), NOT_ENOUGH);
        check("1 2x 3x 4L", remove(4), Ok(()));
    }

    #[test]
    fn a_learner_is_promoted_when_it_holds_the_log() {
        let promote = |id| Wish::Promote(MemberId(id));
        check("1 2", promote(9), Err(StoreError::MemberNotFound));
        check("1 2", promote(2), Err(StoreError::MemberNotLearner));
        check("1 2L", promote(2), Err(StoreError::LearnerNotReady));
        let (table, mut known) = cluster("1 2L");
        known.matched.insert(MemberId(2), 899);
        assert_eq!(super::check(&table, promote(2), false, &known), Err(StoreError::LearnerNotReady));
        known.matched.insert(MemberId(2), 900);
        assert_eq!(super::check(&table, promote(2), true, &known), Ok(()));
        let (table, _) = cluster("1 2- 3- 4L");
        known.matched.insert(MemberId(4), 1000);
        assert_eq!(super::check(&table, promote(4), true, &known), NOT_ENOUGH);
        assert_eq!(super::check(&table, promote(4), false, &known), Ok(()));
    }
}
