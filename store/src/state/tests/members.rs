//! The table of members is a part of the state: it survives restarts and travels with checkpoints.

use kontiki_api::etcdserverpb as pb;

use crate::command::{AddMember, ChangeMember, Command, Response};
use crate::error::StoreError;
use crate::ids::MemberId;
use crate::state::testing::Harness;

fn url(id: u64) -> String {
    format!("http://h:{id}")
}

fn add(id: u64, is_learner: bool) -> Command {
    let member = pb::Member { id, peer_ur_ls: vec![url(id)], is_learner, ..pb::Member::default() };
    Command::MemberAdd(AddMember { member, max_learners: 1 })
}

fn remove(id: u64) -> Command {
    Command::MemberRemove(pb::MemberRemoveRequest { id })
}

fn promote(id: u64) -> Command {
    Command::MemberChange(ChangeMember { id, peer_urls: Vec::new(), promote: true })
}

fn publish(id: u64, name: &str) -> Command {
    Command::PublishMember(pb::Member { id, name: name.to_owned(), ..pb::Member::default() })
}

/// `1=a 2=b?`: names in the order of the ids, `?` marks learners; then the removed ones.
fn table(harness: &Harness) -> String {
    let reader = harness.reader();
    let members = reader.members();
    let mark = |member: &pb::Member| if member.is_learner { "?" } else { "" };
    let mut words: Vec<String> =
        members.iter().map(|(id, member)| format!("{id}={}{}", member.name, mark(member))).collect();
    words.extend((1..10).filter(|id| members.is_removed(MemberId(*id))).map(|id| format!("-{id}")));
    words.join(" ")
}

fn changed(harness: &mut Harness) {
    harness.state.adopt_members([(MemberId(1), &[url(1)][..])].into_iter());
    for command in
        [publish(1, "a"), add(2, false), publish(2, "b"), add(3, true), publish(3, "c"), remove(2), add(4, false)]
    {
        harness.run(&command).unwrap();
    }
}

#[test]
fn members_and_removed_ids_survive_a_restart() {
    let mut harness = Harness::new();
    let mut version = harness.reader().members_version();
    version.mark_unchanged();
    changed(&mut harness);
    assert!(version.has_changed().unwrap());
    assert_eq!(harness.revision(), 1, "membership takes no revision");
    assert_eq!(table(&harness), "1=a 3=c? 4= -2");
    harness.state.flush().unwrap();
    let mut harness = harness.reopen();
    assert_eq!(table(&harness), "1=a 3=c? 4= -2");
    assert_eq!(harness.run(&remove(2)), Err(StoreError::MemberNotFound));
    assert_eq!(harness.run(&promote(3)), Ok(Response::MemberChanged));
    assert_eq!(harness.run(&promote(3)), Err(StoreError::MemberNotLearner));
    assert_eq!(table(&harness), "1=a 3=c 4= -2");
}

#[test]
fn members_travel_with_a_checkpoint() {
    let mut leader = Harness::new();
    changed(&mut leader);
    leader.state.checkpoint(&leader.path("copy")).unwrap();
    let mut follower = Harness::new();
    follower.run(&add(9, false)).unwrap();
    let version = follower.reader().members_version();
    follower.state.install(&leader.path("copy")).unwrap();
    assert_eq!(table(&follower), "1=a 3=c? 4= -2");
    assert!(version.has_changed().unwrap());
    assert_eq!(table(&follower.reopen()), "1=a 3=c? 4= -2");
}
