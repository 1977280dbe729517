//! The replicated table of members, and the ids that were members once.
//!
//! A part of the state machine: every method is a function of the table and its arguments, so all members agree.

use std::collections::{BTreeMap, BTreeSet};

use kontiki_api::etcdserverpb as pb;

use crate::error::StoreError;
use crate::ids::MemberId;

/// All members by id. An empty name says that a member has not joined yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemberTable {
    members: BTreeMap<MemberId, pb::Member>,
    /// They never come back: their logs and votes must not count again.
    removed: BTreeSet<MemberId>,
}

impl MemberTable {
    #[must_use]
    pub fn get(&self, id: MemberId) -> Option<&pb::Member> {
        self.members.get(&id)
    }

    /// In the order of their ids, as etcd lists them.
    pub fn iter(&self) -> impl Iterator<Item = (MemberId, &pb::Member)> {
        self.members.iter().map(|(id, member)| (*id, member))
    }

    #[must_use]
    pub fn is_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id)
    }

    #[must_use]
    pub fn is_learner(&self, id: MemberId) -> bool {
        self.get(id).is_some_and(|member| member.is_learner)
    }

    /// Members that vote, or will as soon as they hold the log.
    pub fn voters(&self) -> impl Iterator<Item = (MemberId, &pb::Member)> {
        self.iter().filter(|(_, member)| !member.is_learner)
    }

    /// Puts a stored member back, as read from disk.
    pub fn restore(&mut self, member: pb::Member) {
        self.members.insert(MemberId(member.id), member);
    }

    /// Puts a stored removal back.
    pub fn restore_removed(&mut self, id: MemberId) {
        self.removed.insert(id);
    }

    /// Takes in a member of the initial cluster; false when it is known already, or removed.
    pub fn adopt(&mut self, id: MemberId, peer_urls: &[String]) -> bool {
        if self.members.contains_key(&id) || self.is_removed(id) {
            return false;
        }
        self.restore(pb::Member { id: id.0, peer_ur_ls: peer_urls.to_vec(), ..pb::Member::default() });
        true
    }

    /// # Errors
    /// etcd's, in etcd's order.
    pub fn add(&mut self, member: &pb::Member, max_learners: u32) -> Result<(), StoreError> {
        let id = MemberId(member.id);
        if self.is_removed(id) {
            return Err(StoreError::MemberNotFound);
        }
        if self.members.contains_key(&id) {
            return Err(StoreError::MemberExists);
        }
        self.check_urls(id, &member.peer_ur_ls)?;
        let learners = self.iter().filter(|(_, member)| member.is_learner).count();
        if member.is_learner && learners >= max_learners as usize {
            return Err(StoreError::TooManyLearners);
        }
        self.restore(member.clone());
        Ok(())
    }

    /// # Errors
    /// `MemberNotFound`, also for a member that was removed before; a cluster keeps its last voter.
    pub fn remove(&mut self, id: MemberId) -> Result<(), StoreError> {
        if !self.members.contains_key(&id) {
            return Err(StoreError::MemberNotFound);
        }
        if !self.voters().any(|(voter, _)| voter != id) {
            return Err(StoreError::NotEnoughStartedMembers);
        }
        self.members.remove(&id);
        self.removed.insert(id);
        Ok(())
    }

    /// Changes where a member is reached, and nothing else.
    ///
    /// # Errors
    /// `MemberNotFound`, or `PeerUrlExists` when another member has one of the URLs.
    pub fn update(&mut self, id: MemberId, peer_urls: &[String]) -> Result<(), StoreError> {
        if !self.members.contains_key(&id) {
            return Err(StoreError::MemberNotFound);
        }
        self.check_urls(id, peer_urls)?;
        if let Some(member) = self.members.get_mut(&id) {
            member.peer_ur_ls = peer_urls.to_vec();
        }
        Ok(())
    }

    /// # Errors
    /// `MemberNotFound`, or `MemberNotLearner` for a voter.
    pub fn promote(&mut self, id: MemberId) -> Result<(), StoreError> {
        let member = self.members.get_mut(&id).ok_or(StoreError::MemberNotFound)?;
        if !member.is_learner {
            return Err(StoreError::MemberNotLearner);
        }
        member.is_learner = false;
        Ok(())
    }

    /// A member announces its name and client URLs; false when it was removed meanwhile.
    pub fn publish(&mut self, announced: &pb::Member) -> bool {
        let id = MemberId(announced.id);
        if self.is_removed(id) {
            return false;
        }
        let member = self.members.entry(id).or_insert_with(|| announced.clone());
        member.name.clone_from(&announced.name);
        member.client_ur_ls.clone_from(&announced.client_ur_ls);
        true
    }

    fn check_urls(&self, id: MemberId, peer_urls: &[String]) -> Result<(), StoreError> {
        let taken = self
            .iter()
            .any(|(other, member)| other != id && member.peer_ur_ls.iter().any(|url| peer_urls.contains(url)));
        match taken {
            true => Err(StoreError::PeerUrlExists),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(port: u64) -> String {
        format!("http://h:{port}")
    }

    fn member(id: u64, is_learner: bool) -> pb::Member {
        pb::Member { id, peer_ur_ls: vec![url(id)], is_learner, ..pb::Member::default() }
    }

    fn three() -> MemberTable {
        let mut table = MemberTable::default();
        (1..=3).for_each(|id| assert!(table.adopt(MemberId(id), &[url(id)])));
        table
    }

    #[test]
    fn an_added_member_is_new_in_every_respect() {
        let mut table = three();
        assert_eq!(table.add(&member(3, false), 1), Err(StoreError::MemberExists));
        let same_url = pb::Member { peer_ur_ls: vec![url(9), url(2)], ..member(4, false) };
        assert_eq!(table.add(&same_url, 1), Err(StoreError::PeerUrlExists));
        table.add(&member(4, true), 1).unwrap();
        assert_eq!(table.add(&member(5, true), 1), Err(StoreError::TooManyLearners));
        table.add(&member(5, true), 2).unwrap();
        assert_eq!(table.get(MemberId(4)).unwrap().name, "");
    }

    #[test]
    fn a_removed_id_never_returns() {
        let mut table = three();
        table.remove(MemberId(2)).unwrap();
        assert_eq!(table.remove(MemberId(2)), Err(StoreError::MemberNotFound));
        assert_eq!(table.remove(MemberId(9)), Err(StoreError::MemberNotFound));
        assert_eq!(table.update(MemberId(2), &[url(2)]), Err(StoreError::MemberNotFound));
        assert_eq!(table.promote(MemberId(2)), Err(StoreError::MemberNotFound));
        assert_eq!(table.add(&member(2, false), 1), Err(StoreError::MemberNotFound));
        assert!(!table.adopt(MemberId(2), &[url(2)]));
        assert!(!table.publish(&pb::Member { name: "b".to_owned(), ..member(2, false) }));
        assert!(table.is_removed(MemberId(2)));
        assert_eq!(table.iter().count(), 2);
    }

    #[test]
    fn a_cluster_keeps_its_last_voter() {
        let mut table = three();
        table.remove(MemberId(1)).unwrap();
        table.remove(MemberId(2)).unwrap();
        table.add(&member(4, true), 1).unwrap();
        assert_eq!(table.remove(MemberId(3)), Err(StoreError::NotEnoughStartedMembers));
        table.remove(MemberId(4)).unwrap();
    }

    #[test]
    fn an_update_changes_the_urls_alone() {
        let mut table = three();
        table.add(&member(4, true), 1).unwrap();
        assert!(table.publish(&pb::Member { name: "d".to_owned(), client_ur_ls: vec![url(40)], ..member(4, false) }));
        assert_eq!(table.update(MemberId(4), &[url(1)]), Err(StoreError::PeerUrlExists));
        table.update(MemberId(4), &[url(4), url(41)]).unwrap();
        let expected = pb::Member {
            name: "d".to_owned(),
            client_ur_ls: vec![url(40)],
            peer_ur_ls: vec![url(4), url(41)],
            ..member(4, true)
        };
        assert_eq!(table.get(MemberId(4)), Some(&expected));
    }

    #[test]
    fn only_a_learner_is_promoted() {
        let mut table = three();
        table.add(&member(4, true), 1).unwrap();
        assert_eq!(table.promote(MemberId(1)), Err(StoreError::MemberNotLearner));
        table.promote(MemberId(4)).unwrap();
        assert_eq!(table.promote(MemberId(4)), Err(StoreError::MemberNotLearner));
    }
}
