use kontiki_api::etcdserverpb as pb;

use crate::command::Command;
use crate::ids::{LogIndex, MemberId};
use crate::state::testing::{Harness, pairs, range};

fn everything(harness: &Harness) -> String {
    pairs(&harness.reader().range(&range("\0", "\0")).unwrap().kvs).join(" ")
}

#[test]
fn what_is_committed_survives_a_restart() {
    let mut harness = Harness::new();
    harness.put("a", "1");
    harness.put("b", "1");
    harness.delete("a", "");
    harness.compact(3).unwrap();
    let mark = harness.state.applied().clone();
    let harness = harness.reopen();
    assert_eq!(everything(&harness), "b=1");
    assert_eq!((harness.revision(), harness.reader().compact_revision().0), (4, 3));
    assert_eq!(*harness.state.applied(), mark);
    assert_eq!(harness.reader().applied_index(), mark.index);
}

#[test]
fn a_crash_leaves_an_older_cut_whose_mark_tells_its_age() {
    let mut harness = Harness::new();
    harness.put("a", "1");
    harness.put("b", "1");
    let durable = harness.state.flush().unwrap();
    assert_eq!(durable, *harness.state.applied());
    harness.put("a", "2");
    harness.delete("b", "");
    let crashed = harness.crashed();
    assert_eq!(*crashed.state.applied(), durable);
    assert_eq!((everything(&crashed).as_str(), crashed.revision()), ("a=1 b=1", 3));
}

#[test]
fn a_crash_at_any_moment_leaves_exactly_the_commands_up_to_the_mark() {
    // Values large enough that the database flushes by itself, at moments of its own.
    let mut harness = Harness::new();
    harness.grant(1, 60).unwrap();
    let filler = "x".repeat(40_000);
    let mut marks = Vec::new();
    for n in 0..150_u64 {
        harness.put(&format!("k{}", n % 10), &format!("{n} {filler}"));
        harness.put_leased(&format!("l{}", n % 3), 1).unwrap();
        if n % 37 == 0 {
            let crashed = harness.crashed();
            let mark = crashed.state.applied().index.0;
            marks.push(mark);
            if mark > 0 {
                // One command for the lease, then two for each n; revisions begin at 1.
                assert_eq!(crashed.revision(), 1 + i64::try_from(mark).unwrap() - 1);
                let newest = crashed.reader().range(&range("\0", "\0")).unwrap();
                let newest = newest.kvs.iter().map(|kv| kv.mod_revision).max();
                assert_eq!(newest.unwrap_or(1), crashed.revision());
            } else {
                assert_eq!(crashed.revision(), 1);
            }
        }
    }
    assert!(marks.is_sorted(), "{marks:?}");
    assert!(*marks.last().unwrap() > 0, "the database has flushed something by itself: {marks:?}");
}

#[test]
fn replaying_the_log_after_a_crash_gives_the_same_state() {
    let mut harness = Harness::new();
    let commands: Vec<Command> = (0..40)
        .map(|n| match n % 4 {
            3 => Command::DeleteRange(crate::state::testing::delete(&format!("k{}", n % 7), "")),
            _ => Command::Put(crate::state::testing::put(&format!("k{}", n % 7), &n.to_string())),
        })
        .collect();
    for (n, command) in commands.iter().enumerate() {
        harness.run(command).unwrap();
        if n == 25 {
            harness.state.flush().unwrap();
        }
    }
    let mut crashed = harness.crashed();
    assert_eq!(crashed.state.applied().index, LogIndex(26));
    for command in &commands[26..] {
        crashed.run(command).unwrap();
    }
    assert_eq!(everything(&crashed), everything(&harness));
    assert_eq!(crashed.state.applied(), harness.state.applied());
    let hash = |harness: &Harness| harness.reader().hash_kv(crate::ids::Revision(0)).unwrap();
    assert_eq!(hash(&crashed), hash(&harness));
}

#[test]
fn a_checkpoint_installed_elsewhere_is_the_same_state() {
    let mut leader = Harness::new();
    leader.grant(5, 60).unwrap();
    leader.put_leased("a", 5).unwrap();
    leader.put("b", "1");
    let member = pb::Member { id: 7, name: "m".to_owned(), ..pb::Member::default() };
    leader.run(&Command::PublishMember(member)).unwrap();
    let applied = leader.state.checkpoint(&leader.path("copy")).unwrap();
    assert_eq!(applied, *leader.state.applied());
    leader.put("b", "after the checkpoint");

    let mut follower = Harness::new();
    follower.put("stale", "1");
    let reader = follower.reader();
    follower.state.install(&leader.path("copy")).unwrap();
    assert_eq!(*follower.state.applied(), applied);
    assert_eq!(everything(&follower), "a=leased b=1");
    assert_eq!(reader.revision().0, 3);
    assert_eq!(reader.lease_keys(crate::ids::LeaseId(5)).unwrap().1, ["a"]);
    assert_eq!(reader.member_attributes(MemberId(7)), Some(("m".to_owned(), vec![])));

    assert_eq!(follower.put("b", "2"), 4);
    drop(reader);
    let follower = follower.reopen();
    assert_eq!(everything(&follower), "a=leased b=2");
    assert!(follower.path("state").join("db.2").exists());
    assert!(!follower.path("state").join("db.1").exists(), "the replaced database is gone");
}

#[test]
fn a_checkpoint_that_cannot_be_opened_changes_nothing() {
    let mut harness = Harness::new();
    harness.put("a", "1");
    let bad = harness.path("bad");
    std::fs::create_dir(&bad).unwrap();
    std::fs::write(bad.join("CURRENT"), "nonsense").unwrap();
    assert!(harness.state.install(&bad).is_err());
    assert_eq!(everything(&harness), "a=1");
    assert_eq!(harness.put("a", "2"), 3);
    assert_eq!(everything(&harness.reopen()), "a=2");
}
