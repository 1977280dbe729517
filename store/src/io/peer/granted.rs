//! Where a voter's log agrees with a new leader's, known from the vote that it gave.
//!
//! Openraft searches for that place by halving what is left, with a round trip each time: ten for a thousand entries, before
//! the first write of a new leader can be committed. But a vote tells where the voter's log ends. If that entry and the
//! candidate's last one come from the same leader, then the shorter log is the beginning of the longer one (Raft's log
//! matching), and it is on the voter's disk, because a granted vote is answered when it is, and the log's file is written in order.
//! So the first halves are answered here, in the way of a voter that holds the entry before an append and takes none of it: that
//! says nothing about when the voter was last heard, which leases and reads rely on.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::consensus::types::{AppendEntriesRequest, LeaderId, LogId, VoteRequest, VoteResponse};
use crate::ids::MemberId;

/// The votes that this member was given last.
#[derive(Default)]
pub struct Granted(Mutex<HashMap<MemberId, (LeaderId, LogId)>>);

impl Granted {
    pub fn note(&self, voter: MemberId, request: &VoteRequest, response: &VoteResponse) {
        let (Some(mine), Some(theirs)) = (request.last_log_id, response.last_log_id) else { return };
        let agree = theirs.leader_id == mine.leader_id && theirs.index <= mine.index;
        if response.vote_granted && agree {
            self.0.lock().insert(voter, (request.vote.leader_id, theirs));
        }
    }

    /// The last entry of the log of `voter` when it voted for `leader`, which has it too.
    fn upto(&self, voter: MemberId, leader: LeaderId) -> Option<LogId> {
        let granted = self.0.lock().get(&voter).copied();
        granted.filter(|(candidate, _)| *candidate == leader).map(|(_, upto)| upto)
    }

    fn forget(&self, voter: MemberId) {
        self.0.lock().remove(&voter);
    }
}

/// The search of one leader in the log of one voter.
pub struct Search {
    granted: Arc<Granted>,
    voter: MemberId,
    /// What was answered last.
    found: Option<LogId>,
    is_over: bool,
}

impl Search {
    pub fn new(granted: Arc<Granted>, voter: MemberId) -> Self {
        Self { granted, voter, found: None, is_over: false }
    }

    /// The entry before those of `request`, if the voter is known to hold it and more than was known before; else the
    /// search is over, and the voter has to be asked.
    pub fn answer(&mut self, request: &AppendEntriesRequest) -> Option<LogId> {
        if self.is_over {
            return None;
        }
        let upto = self.granted.upto(self.voter, request.vote.leader_id);
        let previous = request.prev_log_id.filter(|_| !request.entries.is_empty());
        let known = previous.filter(|previous| Some(*previous) <= upto && Some(*previous) > self.found);
        match known {
            Some(_) => self.found = known,
            None => {
                self.is_over = true;
                self.granted.forget(self.voter);
            }
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::types::{Entry, Payload, Vote};

    const VOTER: MemberId = MemberId(2);

    fn leader(term: u64) -> LeaderId {
        LeaderId { term, node_id: MemberId(1) }
    }

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(leader(term), index)
    }

    /// What a candidate of term 5 whose log ends with `mine` learns from a voter whose log ends with `theirs`.
    fn search(mine: LogId, theirs: LogId, vote_granted: bool) -> Search {
        let granted = Arc::<Granted>::default();
        let vote = Vote { leader_id: leader(5), committed: false };
        let request = VoteRequest::new(vote, Some(mine));
        granted.note(VOTER, &request, &VoteResponse { vote, vote_granted, last_log_id: Some(theirs) });
        Search::new(granted, VOTER)
    }

    fn append(term: u64, previous: Option<LogId>) -> AppendEntriesRequest {
        let next = id(4, previous.map_or(0, |id| id.index + 1));
        AppendEntriesRequest {
            vote: Vote { leader_id: leader(term), committed: true },
            prev_log_id: previous,
            entries: vec![Entry { log_id: next, payload: Payload::Blank }],
            leader_commit: None,
        }
    }

    #[test]
    fn halves_are_answered_until_they_move_no_more() {
        let mut search = search(id(4, 100), id(4, 90), true);
        for index in [49, 73, 85] {
            assert_eq!(search.answer(&append(5, Some(id(4, index)))), Some(id(4, index)));
        }
        assert_eq!(search.answer(&append(5, Some(id(4, 85)))), None, "few are left, and the voter has to take them");
        assert_eq!(search.answer(&append(5, Some(id(4, 89)))), None, "the search is over");
        let mut again = Search::new(search.granted.clone(), VOTER);
        assert_eq!(again.answer(&append(5, Some(id(4, 49)))), None, "nor does it begin again");
    }

    #[test]
    fn what_the_vote_does_not_tell_is_asked() {
        let at = |index| append(5, Some(id(4, index)));
        assert_eq!(search(id(4, 100), id(4, 90), true).answer(&at(91)), None, "after the end of its log");
        assert_eq!(
            search(id(4, 100), id(3, 90), true).answer(&at(50)),
            None,
            "its last entry may be another than ours"
        );
        assert_eq!(search(id(4, 100), id(4, 90), false).answer(&at(50)), None, "it need not be on its disk");
        assert_eq!(search(id(4, 100), id(4, 90), true).answer(&append(6, Some(id(4, 50)))), None, "another term");
        assert_eq!(search(id(4, 100), id(4, 90), true).answer(&append(5, None)), None, "from the beginning");
        let empty = AppendEntriesRequest { entries: Vec::new(), ..at(50) };
        assert_eq!(search(id(4, 100), id(4, 90), true).answer(&empty), None, "it tells of a commit");
    }
}
