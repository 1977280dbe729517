//! Maintenance of whole members: alarms, quotas, automatic compaction, comparisons and rebuilding.

use std::time::Duration;

use bytes::Bytes;
use kontiki_api::etcdserverpb as pb;
use pb::AlarmType;
use pb::alarm_request::AlarmAction;

use super::Member;
use super::tests::{Cluster, get, put, run, until, within};
use crate::command::{Command, Response};
use crate::error::StoreError;
use crate::ids::{MemberId, Revision};
use crate::io::engine::{self, Engine, EngineOptions, Family};
use crate::maintenance::{AutoCompaction, MaintenanceOptions, Quarantine};
use crate::mvcc::record::{self, Kind, Stamp};

/// The two come to hold the same. What members replicate by themselves (names, the cluster's version) may reach one before
/// the other, so that digests of two moments differ.
async fn hold_the_same(one: &Member, other: &Member) {
    until(async || {
        for member in [one, other] {
            within(member.read_barrier()).await.unwrap();
        }
        within(one.hash()).await.unwrap() == within(other.hash()).await.unwrap()
    })
    .await;
}

async fn stop_all(cluster: &Cluster) {
    for member in cluster.members.values() {
        member.shutdown().await;
    }
}

fn alarm(action: AlarmAction, member: u64, kind: AlarmType) -> Command {
    Command::Alarm(pb::AlarmRequest { action: action.into(), member_id: member, alarm: kind.into() })
}

async fn answered(member: &Member, command: Command) -> Vec<(u64, AlarmType)> {
    match within(member.propose(command)).await.unwrap() {
        Response::Alarm(answer) => answer.alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm())).collect(),
        other => panic!("{other:?}"),
    }
}

fn big(key: &str) -> Command {
    put(key, &"x".repeat(4096))
}

fn quota(bytes: i64) -> MaintenanceOptions {
    MaintenanceOptions { quota_backend_bytes: bytes, ..MaintenanceOptions::default() }
}

#[test]
fn a_full_store_takes_no_puts_until_room_is_made_and_the_alarm_is_disarmed() {
    run(async {
        let mut cluster = Cluster::layout(1);
        cluster.maintenance = quota(13 * 4096);
        cluster.start_member(MemberId(1)).await;
        let member = cluster.members[&MemberId(1)].clone();
        let mut puts = 0;
        let refused = loop {
            match within(member.propose(big("k"))).await {
                Ok(_) => puts += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(refused, StoreError::NoSpace);
        assert!((8..13).contains(&puts), "{puts}");
        assert_eq!(member.alarms().len(), 1);
        assert_eq!(member.alarms()[0].alarm(), AlarmType::Nospace);
        // Even what would fit is refused while the alarm stands, and what needs no space is not.
        assert_eq!(within(member.propose(put("small", "v"))).await, Err(StoreError::NoSpace));
        let grant = Command::LeaseGrant(pb::LeaseGrantRequest { id: 5, ttl: 60 });
        assert_eq!(within(member.propose(grant.clone())).await, Err(StoreError::NoSpace));
        let delete = Command::DeleteRange(pb::DeleteRangeRequest { key: "k".into(), ..Default::default() });
        within(member.propose(delete)).await.unwrap();
        assert!(member.reader().size().total > 40_000);
        let revision = member.reader().revision();
        let compact = Command::Compact(pb::CompactionRequest { revision: revision.0, physical: false });
        within(member.propose(compact)).await.unwrap();
        within(member.defragment()).await;
        assert!(member.reader().size().total < 4096, "{:?}", member.reader().size());
        assert_eq!(within(member.propose(put("small", "v"))).await, Err(StoreError::NoSpace));
        // It survives a restart.
        drop(member);
        cluster.stop_member(MemberId(1)).await;
        cluster.start_member(MemberId(1)).await;
        let member = cluster.members[&MemberId(1)].clone();
        within(member.read_barrier()).await.unwrap();
        assert_eq!(within(member.propose(put("small", "v"))).await, Err(StoreError::NoSpace));
        let lowered = answered(&member, alarm(AlarmAction::Deactivate, 0, AlarmType::None)).await;
        assert_eq!(lowered, [(1, AlarmType::Nospace)]);
        within(member.propose(put("small", "v"))).await.unwrap();
        within(member.propose(grant)).await.unwrap();
        drop(member);
        stop_all(&cluster).await;
    });
}

#[test]
fn one_member_that_is_full_stops_the_puts_of_all() {
    run(async {
        let mut cluster = Cluster::layout(3);
        for id in 1..=3 {
            cluster.maintenance = quota(if id == 2 { 13 * 4096 } else { -1 });
            cluster.start_member(MemberId(id)).await;
        }
        let other = cluster.members[&MemberId(1)].clone();
        // Only applied by the member with the quota, never proposed by it.
        for number in 0..13 {
            within(other.propose(big(&format!("k{number}")))).await.unwrap();
        }
        until(async || !other.alarms().is_empty()).await;
        assert_eq!(within(other.propose(put("small", "v"))).await, Err(StoreError::NoSpace));
        for member in cluster.members.values() {
            within(member.read_barrier()).await.unwrap();
            assert_eq!(member.alarms(), [pb::AlarmMember { member_id: 2, alarm: AlarmType::Nospace.into() }]);
            hold_the_same(member, &other).await;
        }
        drop(other);
        stop_all(&cluster).await;
    });
}

#[test]
fn alarms_are_raised_listed_and_lowered_and_corrupt_stops_every_change() {
    run(async {
        let cluster = Cluster::start(3).await;
        let member = &cluster.members[&MemberId(1)];
        within(member.propose(put("k", "v"))).await.unwrap();
        for _ in 0..2 {
            let raised = answered(member, alarm(AlarmAction::Activate, 7, AlarmType::Corrupt)).await;
            assert_eq!(raised, [(7, AlarmType::Corrupt)]);
        }
        assert_eq!(answered(member, alarm(AlarmAction::Activate, 7, AlarmType::None)).await, []);
        for other in cluster.members.values() {
            assert_eq!(within(other.propose(put("k", "w"))).await, Err(StoreError::Corrupt));
            let revoke = Command::LeaseRevoke(pb::LeaseRevokeRequest { id: 1 });
            assert_eq!(within(other.propose(revoke)).await, Err(StoreError::Corrupt));
            within(other.read_barrier()).await.unwrap();
            assert_eq!(get(other, "k").as_deref(), Some("v"));
        }
        assert_eq!(answered(member, alarm(AlarmAction::Deactivate, 8, AlarmType::Corrupt)).await, []);
        assert_eq!(answered(member, alarm(AlarmAction::Deactivate, 7, AlarmType::Corrupt)).await.len(), 1);
        within(member.propose(put("k", "w"))).await.unwrap();
        stop_all(&cluster).await;
    });
}

#[test]
fn the_leader_compacts_by_itself() {
    run(async {
        let mut cluster = Cluster::layout(3);
        let auto_compaction = AutoCompaction::Periodic(Duration::from_millis(200));
        cluster.maintenance = MaintenanceOptions { auto_compaction, ..MaintenanceOptions::default() };
        for id in 1..=3 {
            cluster.start_member(MemberId(id)).await;
        }
        let member = cluster.members[&MemberId(1)].clone();
        for number in 0..20 {
            within(member.propose(put("k", &number.to_string()))).await.unwrap();
        }
        for member in cluster.members.values() {
            until(async || member.reader().compact_revision() == Revision(21)).await;
            within(member.reader().compacted_physically(Revision(21))).await;
        }
        drop(member);
        stop_all(&cluster).await;
    });
}

#[test]
fn the_cluster_agrees_on_its_version_and_on_a_downgrade() {
    run(async {
        let mut cluster = Cluster::layout(3);
        cluster.maintenance.version_check_time = Duration::from_millis(50);
        for id in 1..=3 {
            cluster.start_member(MemberId(id)).await;
        }
        let member = cluster.members[&MemberId(1)].clone();
        until(async || member.cluster_version().as_deref() == Some("3.6.0")).await;
        assert!(within(member.enable_downgrade("3.4")).await.is_err());
        assert_eq!(within(member.enable_downgrade("3.5")).await.unwrap().to_string(), "3.6.0");
        assert!(within(member.enable_downgrade("3.5")).await.is_err(), "one is under way");
        let other = cluster.members[&MemberId(3)].clone();
        until(async || other.cluster_version().as_deref() == Some("3.5.0")).await;
        let info = other.agreed().downgrade_info();
        assert_eq!((info.enabled, info.target_version.as_str()), (true, "3.5.0"));
        within(other.cancel_downgrade()).await.unwrap();
        assert!(within(other.cancel_downgrade()).await.is_err(), "none is under way");
        until(async || member.cluster_version().as_deref() == Some("3.6.0")).await;
        drop((member, other));
        stop_all(&cluster).await;
    });
}

/// Opens the state of a stopped member, as somebody with a bad disk would.
fn tamper(cluster: &Cluster, id: MemberId, tamper: impl FnOnce(&Engine)) {
    let dir = cluster.config(id).data_dir.join("member/state");
    let generation = engine::current_generation(&dir).unwrap().unwrap();
    let options = EngineOptions { block_cache_bytes: 1 << 20, write_buffer_bytes: 1 << 20 };
    let engine = Engine::open(&engine::generation_path(&dir, generation), options).unwrap();
    tamper(&engine);
    engine.flush().unwrap();
}

fn overwrite(engine: &Engine, revision: i64, key: &str, value: &str) {
    let stamp = Stamp::first(revision).to_bytes();
    let before = engine.get(Family::Records, &stamp).unwrap().expect("a record of that revision");
    let mut kv = record::decode_own(before);
    assert_eq!(kv.key, key);
    kv.value = Bytes::from(value.to_owned());
    let mut batch = rocksdb::WriteBatch::default();
    engine.put(&mut batch, Family::Records, &stamp, &record::encode(Kind::Put, &kv));
    engine.write(batch).unwrap();
}

/// Three members with thirty keys, the last one stopped and changed behind its back.
async fn with_a_lie(check: MaintenanceOptions) -> (Cluster, MemberId) {
    let mut cluster = Cluster::layout(3);
    cluster.maintenance = check;
    for id in 1..=3 {
        cluster.start_member(MemberId(id)).await;
    }
    let member = cluster.members[&MemberId(1)].clone();
    for number in 0..30 {
        within(member.propose(put(&format!("k{number}"), "true"))).await.unwrap();
    }
    drop(member);
    let liar = MemberId(3);
    within(cluster.members[&liar].read_barrier()).await.unwrap();
    cluster.stop_member(liar).await;
    tamper(&cluster, liar, |engine| overwrite(engine, 9, "k7", "lie"));
    (cluster, liar)
}

fn unchecked() -> MaintenanceOptions {
    MaintenanceOptions { corrupt_check_time: Some(Duration::from_secs(3600)), ..MaintenanceOptions::default() }
}

#[test]
fn a_member_that_differs_is_quarantined_and_rebuilt() {
    run(async {
        let (mut cluster, liar) = with_a_lie(unchecked()).await;
        cluster.start_member(liar).await;
        let member = cluster.members[&liar].clone();
        within(member.read_barrier()).await.unwrap();
        assert_eq!(get(&member, "k7").as_deref(), Some("lie"), "nobody has noticed yet");
        let leader = cluster.members[&cluster.leader().await].clone();
        // One that has just started may not be reached at first.
        until(async || {
            within(leader.inner.check()).await;
            member.is_quarantined() || get(&member, "k7").as_deref() == Some("true")
        })
        .await;
        assert!(!leader.is_quarantined());
        // Writes go on at the others meanwhile.
        let honest = cluster.members[&MemberId(1)].clone();
        for number in 0..50 {
            within(honest.propose(put(&format!("after{number}"), "v"))).await.unwrap();
        }
        until(async || !member.is_quarantined() && get(&member, "k7").as_deref() == Some("true")).await;
        within(member.read_barrier()).await.unwrap();
        until(async || member.alarms().is_empty()).await;
        within(member.propose(put("last", "v"))).await.unwrap();
        for other in cluster.members.values() {
            within(other.read_barrier()).await.unwrap();
            assert_eq!(other.reader().revision().0, 82);
        }
        hold_the_same(&member, &honest).await;
        // What was rebuilt lasts.
        drop((member, leader));
        cluster.stop_member(liar).await;
        cluster.start_member(liar).await;
        let member = cluster.members[&liar].clone();
        within(member.read_barrier()).await.unwrap();
        assert_eq!(get(&member, "k7").as_deref(), Some("true"));
        hold_the_same(&member, &honest).await;
        drop((member, honest));
        stop_all(&cluster).await;
    });
}

#[test]
fn a_leader_that_differs_hands_over_and_is_rebuilt() {
    run(async {
        let (mut cluster, liar) = with_a_lie(unchecked()).await;
        cluster.start_member(liar).await;
        let member = cluster.members[&liar].clone();
        within(member.read_barrier()).await.unwrap();
        // An election of the others in between may take the leadership elsewhere.
        until(async || {
            let leader = cluster.leader().await;
            leader == liar || cluster.members[&leader].move_leader(liar).await.is_ok()
        })
        .await;
        until(async || {
            within(member.inner.check()).await;
            member.alarms().is_empty() && get(&member, "k7").as_deref() == Some("true")
        })
        .await;
        assert_ne!(member.status().leader, Some(liar));
        within(member.propose(put("last", "v"))).await.unwrap();
        let honest = &cluster.members[&MemberId(1)];
        hold_the_same(&member, honest).await;
        drop(member);
        stop_all(&cluster).await;
    });
}

#[test]
fn differences_are_found_by_the_clock_and_at_the_start() {
    run(async {
        let often = MaintenanceOptions { corrupt_check_time: Some(Duration::from_millis(1)), ..unchecked() };
        let at_start = MaintenanceOptions { initial_corrupt_check: true, ..unchecked() };
        for check in [often, at_start] {
            let (mut cluster, liar) = with_a_lie(check).await;
            cluster.start_member(liar).await;
            let member = cluster.members[&liar].clone();
            until(async || get(&member, "k7").as_deref() == Some("true")).await;
            until(async || member.alarms().is_empty()).await;
            drop(member);
            stop_all(&cluster).await;
        }
    });
}

#[test]
fn two_members_that_differ_stop_until_an_operator_decides() {
    run(async {
        let mut cluster = Cluster::layout(2);
        cluster.maintenance = unchecked();
        for id in 1..=2 {
            cluster.start_member(MemberId(id)).await;
        }
        within(cluster.members[&MemberId(1)].propose(put("k", "true"))).await.unwrap();
        within(cluster.members[&MemberId(2)].read_barrier()).await.unwrap();
        cluster.stop_member(MemberId(2)).await;
        tamper(&cluster, MemberId(2), |engine| overwrite(engine, 2, "k", "lie"));
        cluster.start_member(MemberId(2)).await;
        let member = cluster.members[&MemberId(1)].clone();
        within(member.read_barrier()).await.unwrap();
        until(async || {
            within(member.inner.check()).await;
            !member.alarms().is_empty()
        })
        .await;
        assert_eq!(member.alarms(), [pb::AlarmMember { member_id: 0, alarm: AlarmType::Corrupt.into() }]);
        assert_eq!(within(member.propose(put("k", "w"))).await, Err(StoreError::Corrupt));
        // The operator names the one that lies.
        assert_eq!(answered(&member, alarm(AlarmAction::Deactivate, 0, AlarmType::Corrupt)).await.len(), 1);
        within(member.propose(Command::Quarantine(Quarantine { member: 2, raised: true }))).await.unwrap();
        let other = cluster.members[&MemberId(2)].clone();
        until(async || other.alarms().is_empty() && get(&other, "k").as_deref() == Some("true")).await;
        drop((member, other));
        stop_all(&cluster).await;
    });
}

/// Flips bytes in every table file of a stopped member.
fn scratch(cluster: &Cluster, id: MemberId) {
    let dir = cluster.config(id).data_dir.join("member/state");
    let generation = engine::current_generation(&dir).unwrap().unwrap();
    let mut scratched = 0;
    for entry in std::fs::read_dir(engine::generation_path(&dir, generation)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sst") {
            let mut bytes = std::fs::read(&path).unwrap();
            let quarter = bytes.len() / 4;
            bytes[..quarter].iter_mut().for_each(|byte| *byte ^= 0x55);
            std::fs::write(&path, bytes).unwrap();
            scratched += 1;
        }
    }
    assert!(scratched > 0);
}

#[test]
fn a_member_whose_disk_lies_is_rebuilt_when_it_starts() {
    run(async {
        let (mut cluster, victim) = with_a_lie(unchecked()).await;
        scratch(&cluster, victim);
        within(cluster.members[&MemberId(1)].propose(put("meanwhile", "v"))).await.unwrap();
        cluster.start_member(victim).await;
        let member = cluster.members[&victim].clone();
        within(member.read_barrier()).await.unwrap();
        assert_eq!(get(&member, "k7").as_deref(), Some("true"));
        assert_eq!(get(&member, "meanwhile").as_deref(), Some("v"));
        drop(member);
        // A note of an earlier life has the same effect.
        cluster.stop_member(victim).await;
        let dir = cluster.config(victim).data_dir.join("member/state");
        let before = engine::current_generation(&dir).unwrap().unwrap();
        engine::mark_damaged(&dir, "a checksum was wrong").unwrap();
        cluster.start_member(victim).await;
        assert_eq!(engine::current_generation(&dir).unwrap(), Some(before + 1));
        assert_eq!(engine::damage(&dir), None);
        let member = cluster.members[&victim].clone();
        hold_the_same(&member, &cluster.members[&MemberId(1)]).await;
        drop(member);
        stop_all(&cluster).await;
    });
}

#[test]
fn a_member_alone_whose_disk_lies_does_not_start() {
    run(async {
        let mut cluster = Cluster::start(1).await;
        within(cluster.members[&MemberId(1)].propose(put("k", "v"))).await.unwrap();
        cluster.stop_member(MemberId(1)).await;
        scratch(&cluster, MemberId(1));
        let Err(error) = Member::start(cluster.config(MemberId(1))).await else { panic!("it started") };
        assert!(error.to_string().contains("member/state"), "{error}");
    });
}
