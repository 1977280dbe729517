//! How Raft's configuration follows the table of members: the next step, or none when it has arrived.
//!
//! Pure: the leader shows what is, takes one step, and asks again. Each step is safe by itself, so a leader may die
//! between any two, and the next one goes on from what it finds. Voters that are gone leave first, because that can only
//! help the quorum; a leader that is to leave hands over; a voter-to-be gets its vote when it runs and holds the log.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kontiki_api::etcdserverpb as pb;

use super::MemberTable;
use crate::ids::MemberId;

/// Raft's configuration, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// One set of voters; two while a change of voters is under way.
    pub voters: Vec<BTreeSet<MemberId>>,
    /// Everyone who is replicated to, with the peer URLs.
    pub nodes: BTreeMap<MemberId, Vec<String>>,
}

impl Configuration {
    #[must_use]
    pub fn is_voter(&self, id: MemberId) -> bool {
        self.voters.iter().any(|voters| voters.contains(&id))
    }

    /// Whether a change of voters is under way.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        self.voters.len() > 1
    }
}

/// What the leader knows of those it replicates to.
pub trait Replication {
    /// Runs, and holds all of the log but what is on its way.
    fn is_caught_up(&self, member: MemberId) -> bool;
    /// Knows that it was removed, or is not there to be told.
    fn is_told(&self, member: MemberId) -> bool;
}

/// One change of Raft's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Leave the joint configuration that an earlier leader left behind.
    Settle,
    /// Replicate to it, without a vote.
    Admit(MemberId, Vec<String>),
    Move(MemberId, Vec<String>),
    /// Hand leadership to a voter that stays.
    HandOver(BTreeSet<MemberId>),
    /// Take their votes; they still hear of it.
    Retire(BTreeSet<MemberId>),
    Promote(BTreeSet<MemberId>),
    /// Stop replicating to them.
    Dismiss(BTreeSet<MemberId>),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = |ids: &BTreeSet<MemberId>| ids.iter().map(MemberId::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::Settle => write!(f, "finish the change that an earlier leader began"),
            Self::Admit(id, urls) => write!(f, "replicate to {id} at {}", urls.join(", ")),
            Self::Move(id, urls) => write!(f, "reach {id} at {}", urls.join(", ")),
            Self::HandOver(ids) => write!(f, "hand leadership over to one of {}", all(ids)),
            Self::Retire(ids) => write!(f, "take the votes of {}", all(ids)),
            Self::Promote(ids) => write!(f, "give votes to {}", all(ids)),
            Self::Dismiss(ids) => write!(f, "stop replicating to {}", all(ids)),
        }
    }
}

/// The next step of the leader `me`.
#[must_use]
pub fn next(table: &MemberTable, raft: &Configuration, me: MemberId, replication: &impl Replication) -> Option<Step> {
    if raft.is_joint() {
        return Some(Step::Settle);
    }
    for (id, member) in table.iter() {
        match raft.nodes.get(&id) {
            None => return Some(Step::Admit(id, member.peer_ur_ls.clone())),
            Some(urls) if *urls != member.peer_ur_ls => return Some(Step::Move(id, member.peer_ur_ls.clone())),
            Some(_) => {}
        }
    }
    let voters = raft.voters.first().cloned().unwrap_or_default();
    let (leaving, staying): (BTreeSet<MemberId>, BTreeSet<MemberId>) =
        voters.iter().copied().partition(|id| table.is_removed(*id));
    if !leaving.is_empty() && !staying.is_empty() {
        return Some(match leaving.contains(&me) {
            true => Step::HandOver(staying),
            false => Step::Retire(leaving),
        });
    }
    let ready = |(id, member): (MemberId, &pb::Member)| {
        let joins = !voters.contains(&id) && !member.name.is_empty() && replication.is_caught_up(id);
        joins.then_some(id)
    };
    let promoted: BTreeSet<MemberId> = table.voters().filter_map(ready).collect();
    if !promoted.is_empty() {
        return Some(Step::Promote(promoted));
    }
    let gone: BTreeSet<MemberId> = gone(table, raft).filter(|id| replication.is_told(*id)).collect();
    (!gone.is_empty()).then_some(Step::Dismiss(gone))
}

/// Removed members without a vote, which Raft still replicates to.
pub fn gone(table: &MemberTable, raft: &Configuration) -> impl Iterator<Item = MemberId> {
    raft.nodes.keys().copied().filter(|id| table.is_removed(*id) && !raft.is_voter(*id))
}

/// Whether a change is still to be made, now or later: then it is worth looking again soon.
#[must_use]
pub fn is_pending(table: &MemberTable, raft: &Configuration) -> bool {
    let follows = |(id, member): (MemberId, &pb::Member)| {
        raft.nodes.get(&id) == Some(&member.peer_ur_ls) && raft.is_voter(id) != member.is_learner
    };
    raft.is_joint() || raft.nodes.keys().any(|id| table.is_removed(*id)) || !table.iter().all(follows)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `table`: `1 2- 3L` (not joined, learner); whoever else is in `raft` was removed. `raft`: `1 2 | 3` (voters | the rest), `1 2 / 1 | 3` (joint).
    /// `ready`: caught up, or told that they are gone.
    #[track_caller]
    fn check(table: &str, raft: &str, ready: &[u64], expected: Option<Step>) {
        let raft = parse_raft(raft);
        let mut members = parse_table(table);
        let removed = raft.nodes.keys().filter(|id| members.get(**id).is_none());
        removed.copied().collect::<Vec<_>>().into_iter().for_each(|id| members.restore_removed(id));
        let ready = Ready(ready.iter().copied().map(MemberId).collect());
        let step = next(&members, &raft, MemberId(1), &ready);
        assert_eq!(step, expected, "{table} on {raft:?}");
        if expected.is_some() {
            assert!(is_pending(&members, &raft), "{table} on {raft:?}");
        }
    }

    struct Ready(BTreeSet<MemberId>);

    impl Replication for Ready {
        fn is_caught_up(&self, member: MemberId) -> bool {
            self.0.contains(&member)
        }

        fn is_told(&self, member: MemberId) -> bool {
            self.0.contains(&member)
        }
    }

    fn urls(id: u64) -> Vec<String> {
        vec![format!("http://h:{id}")]
    }

    fn parse_table(text: &str) -> MemberTable {
        let mut table = MemberTable::default();
        for word in text.split_whitespace() {
            let id = word.trim_end_matches(['-', 'L']).parse().unwrap();
            let name = if word.contains('-') { String::new() } else { format!("m{id}") };
            let is_learner = word.contains('L');
            table.restore(pb::Member { id, name, peer_ur_ls: urls(id), is_learner, ..pb::Member::default() });
        }
        table
    }

    fn ids(text: &str) -> BTreeSet<MemberId> {
        text.split_whitespace().map(|word| MemberId(word.parse().unwrap())).collect()
    }

    fn parse_raft(text: &str) -> Configuration {
        let (voters, others) = text.split_once('|').unwrap_or((text, ""));
        let voters: Vec<BTreeSet<MemberId>> = voters.split('/').map(ids).collect();
        let nodes = voters.iter().flatten().copied().chain(ids(others)).map(|id| (id, urls(id.0))).collect();
        Configuration { voters, nodes }
    }

    #[test]
    fn nothing_is_done_when_raft_has_arrived() {
        check("1 2 3", "1 2 3", &[], None);
        check("1 2L", "1 | 2", &[2], None);
        assert!(!is_pending(&parse_table("1 2L"), &parse_raft("1 | 2")));
    }

    #[test]
    fn an_added_voter_is_replicated_to_and_gets_its_vote_later() {
        check("1 2-", "1", &[], Some(Step::Admit(MemberId(2), urls(2))));
        check("1 2-", "1 | 2", &[2], None);
        check("1 2", "1 | 2", &[], None);
        assert!(is_pending(&parse_table("1 2"), &parse_raft("1 | 2")), "it is looked at again");
        check("1 2", "1 | 2", &[2], Some(Step::Promote(ids("2"))));
        check("1 2 3", "1 | 2 3", &[2, 3], Some(Step::Promote(ids("2 3"))));
    }

    #[test]
    fn a_moved_member_is_followed() {
        let mut raft = parse_raft("1 2");
        raft.nodes.insert(MemberId(2), urls(9));
        let step = next(&parse_table("1 2"), &raft, MemberId(1), &Ready(BTreeSet::new()));
        assert_eq!(step, Some(Step::Move(MemberId(2), urls(2))));
    }

    #[test]
    fn a_removed_voter_loses_its_vote_before_it_is_dismissed() {
        check("1 2", "1 2 3", &[], Some(Step::Retire(ids("3"))));
        check("1 2", "1 2 | 3", &[], None);
        check("1 2", "1 2 | 3", &[3], Some(Step::Dismiss(ids("3"))));
        check("1", "1 | 2", &[2], Some(Step::Dismiss(ids("2"))));
    }

    #[test]
    fn a_leader_that_is_removed_hands_over() {
        check("2 3", "1 2 3", &[], Some(Step::HandOver(ids("2 3"))));
        check("2", "1 2 3", &[], Some(Step::HandOver(ids("2"))));
        check("2-", "1 | 2", &[], None);
        check("2", "1 | 2", &[2], Some(Step::Promote(ids("2"))));
        check("2", "1 2", &[], Some(Step::HandOver(ids("2"))));
    }

    #[test]
    fn a_change_that_was_left_half_done_is_finished_first() {
        check("1 2", "1 2 3 / 1 2", &[], Some(Step::Settle));
        check("1 2 3", "1 / 1 2 | 3", &[3], Some(Step::Settle));
    }

    #[test]
    fn removing_comes_before_promoting() {
        check("1 2 4", "1 2 3 | 4", &[4], Some(Step::Retire(ids("3"))));
        check("1 2 4", "1 2 | 3 4", &[4], Some(Step::Promote(ids("4"))));
    }
}
