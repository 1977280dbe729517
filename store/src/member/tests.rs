//! Whole members over loopback, in one process: real log, real state, real sockets.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kontiki_api::etcdserverpb as pb;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::task::JoinSet;

use super::{Member, MemberConfig, Peer, StartError, Timing};
use crate::auth::AuthOptions;
use crate::command::{Command, Response};
use crate::error::StoreError;
use crate::ids::{ClusterId, LeaseId, MemberId};
use crate::io::peer::LANES;
use crate::maintenance::MaintenanceOptions;
use crate::membership::MembershipOptions;
use crate::wal::EntryId;

const LONG: Duration = Duration::from_secs(60);

/// Slower than in production: the machine may be busy with other tests.
const TIMING: Timing = Timing {
    heartbeat: Duration::from_millis(100),
    election_min: Duration::from_millis(400),
    election_max: Duration::from_millis(800),
    request: crate::limits::REQUEST_TIMEOUT,
};

pub(super) struct Cluster {
    pub(super) dir: tempfile::TempDir,
    pub(super) peers: BTreeMap<MemberId, Peer>,
    pub(super) members: BTreeMap<MemberId, Member>,
    pub(super) timing: Timing,
    pub(super) membership: MembershipOptions,
    pub(super) auth: AuthOptions,
    pub(super) maintenance: MaintenanceOptions,
}

/// Ports below those that the kernel gives to outgoing connections, which would be taken while a member is down.
pub(super) fn free_ports(count: u64) -> Vec<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut ports = Vec::new();
    while ports.len() < count as usize {
        let number = std::process::id().wrapping_mul(101).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + (number % 20_000) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            ports.push(port);
        }
    }
    ports
}

impl Cluster {
    pub(super) async fn start(count: u64) -> Self {
        let mut cluster = Self::layout(count);
        for id in 1..=count {
            cluster.start_member(MemberId(id)).await;
        }
        cluster
    }

    /// Directories and addresses; nothing runs.
    pub(super) fn layout(count: u64) -> Self {
        let ports = free_ports(count);
        let peers = (1..=count).zip(ports).map(|(id, port)| {
            let urls = vec![format!("http://127.0.0.1:{port}")];
            (MemberId(id), Peer { name: format!("m{id}"), peer_urls: urls })
        });
        let peers = peers.collect();
        Self {
            dir: tempfile::tempdir().unwrap(),
            peers,
            members: BTreeMap::new(),
            timing: TIMING,
            membership: MembershipOptions::default(),
            auth: AuthOptions::default(),
            maintenance: MaintenanceOptions::default(),
        }
    }

    pub(super) fn config(&self, id: MemberId) -> MemberConfig {
        let peer = &self.peers[&id];
        let address = peer.peer_urls[0].strip_prefix("http://").unwrap().parse().unwrap();
        MemberConfig {
            id,
            cluster_id: ClusterId(0xc),
            name: peer.name.clone(),
            data_dir: self.dir.path().join(&peer.name),
            peers: self.peers.clone(),
            peer_listen: vec![address],
            client_urls: vec![format!("http://127.0.0.1:{}", 10_000 + id.0)],
            timing: self.timing,
            fsync: true,
            tuning: Default::default(),
            peer_tls: None,
            existing: false,
            force_new_cluster: false,
            membership: self.membership,
            warn_apply: crate::limits::WARN_APPLY,
            auth: self.auth.clone(),
            maintenance: self.maintenance.clone(),
            gates: Default::default(),
        }
    }

    pub(super) async fn start_member(&mut self, id: MemberId) {
        let member = Member::start(self.config(id)).await.unwrap();
        self.members.insert(id, member);
    }

    pub(super) async fn stop_member(&mut self, id: MemberId) {
        self.members.remove(&id).unwrap().shutdown().await;
    }

    pub(super) fn any(&self) -> &Member {
        self.members.values().next().unwrap()
    }

    pub(super) async fn leader(&self) -> MemberId {
        let mut leadership = self.any().leadership();
        within(async { leadership.wait_for(|now| now.leader.is_some()).await.unwrap().leader.unwrap() }).await
    }
}

pub(super) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work).await.expect("within a minute")
}

pub(super) async fn until(mut condition: impl AsyncFnMut() -> bool) {
    within(async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub(super) fn put(key: &str, value: &str) -> Command {
    let (key, value) = (Bytes::from(key.to_owned()), Bytes::from(value.to_owned()));
    Command::Put(pb::PutRequest { key, value, ..Default::default() })
}

pub(super) fn get(member: &Member, key: &str) -> Option<String> {
    let request = pb::RangeRequest { key: Bytes::from(key.to_owned()), ..Default::default() };
    let found = member.reader().range(&request).unwrap().kvs;
    found.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
}

pub(super) fn run(test: impl Future<Output = ()>) {
    let _ = tracing_subscriber::fmt().with_env_filter("warn,openraft=error").with_test_writer().try_init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test);
}

#[test]
fn one_member_is_a_cluster_and_keeps_its_data() {
    run(async {
        let mut cluster = Cluster::start(1).await;
        within(cluster.any().propose(put("k", "v"))).await.unwrap();
        within(cluster.any().read_barrier()).await.unwrap();
        assert_eq!(get(cluster.any(), "k").as_deref(), Some("v"));
        let revision = cluster.any().reader().revision();
        cluster.stop_member(MemberId(1)).await;
        cluster.start_member(MemberId(1)).await;
        within(cluster.any().read_barrier()).await.unwrap();
        assert_eq!(get(cluster.any(), "k").as_deref(), Some("v"));
        assert_eq!(cluster.any().reader().revision(), revision);
        cluster.stop_member(MemberId(1)).await;
    });
}

#[test]
fn every_member_takes_writes_and_serves_linearizable_reads() {
    run(async {
        let cluster = Cluster::start(3).await;
        for (id, member) in &cluster.members {
            within(member.propose(put(&format!("from-{id}"), "v"))).await.unwrap();
            for reader in cluster.members.values() {
                within(reader.read_barrier()).await.unwrap();
                assert_eq!(get(reader, &format!("from-{id}")).as_deref(), Some("v"));
            }
        }
        let mut many = JoinSet::new();
        for number in 0..300 {
            let member = cluster.members[&MemberId(number % 3 + 1)].clone();
            many.spawn(async move { member.propose(put(&format!("many-{number}"), "v")).await });
        }
        while let Some(answer) = within(many.join_next()).await {
            assert!(matches!(answer.unwrap(), Ok(Response::Put(_))));
        }
        for member in cluster.members.values() {
            within(member.read_barrier()).await.unwrap();
            assert_eq!(member.reader().revision().0, 304, "three puts and three hundred after revision 1");
        }
        within(async {
            loop {
                let members = cluster.any().members();
                if members.iter().all(|member| !member.name.is_empty()) {
                    assert_eq!(members[1].client_ur_ls, ["http://127.0.0.1:10002"]);
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        for member in cluster.members.values() {
            member.shutdown().await;
        }
    });
}

#[test]
fn writes_go_on_after_the_leader_stops_and_it_catches_up_when_it_is_back() {
    run(async {
        let mut cluster = Cluster::start(3).await;
        within(cluster.any().propose(put("before", "v"))).await.unwrap();
        let leader = cluster.leader().await;
        let started = Instant::now();
        cluster.stop_member(leader).await;
        within(cluster.any().propose(put("after", "v"))).await.unwrap();
        eprintln!("stop and next write: {:?}", started.elapsed());
        assert_ne!(cluster.leader().await, leader);
        cluster.start_member(leader).await;
        let back = &cluster.members[&leader];
        within(back.read_barrier()).await.unwrap();
        assert_eq!((get(back, "before").as_deref(), get(back, "after").as_deref()), (Some("v"), Some("v")));
        for member in cluster.members.values() {
            member.shutdown().await;
        }
    });
}

#[test]
fn a_restart_of_all_keeps_every_write() {
    run(async {
        let mut cluster = Cluster::start(3).await;
        for number in 0..50 {
            within(cluster.any().propose(put(&format!("k{number}"), "v"))).await.unwrap();
        }
        let ids: Vec<MemberId> = cluster.members.keys().copied().collect();
        for id in &ids {
            cluster.stop_member(*id).await;
        }
        for id in &ids {
            cluster.start_member(*id).await;
        }
        for member in cluster.members.values() {
            within(member.read_barrier()).await.unwrap();
            assert_eq!(member.reader().revision().0, 51);
            for number in 0..50 {
                assert_eq!(get(member, &format!("k{number}")).as_deref(), Some("v"));
            }
        }
        for member in cluster.members.values() {
            member.shutdown().await;
        }
    });
}

#[test]
fn leases_are_renewed_through_any_member_and_expire_by_revoke() {
    run(async {
        let cluster = Cluster::start(3).await;
        let grant = |id, ttl| Command::LeaseGrant(pb::LeaseGrantRequest { id, ttl });
        within(cluster.any().propose(grant(7, 60))).await.unwrap();
        for member in cluster.members.values() {
            assert_eq!(within(member.keep_alive(LeaseId(7))).await, Ok(60));
            let times = within(member.time_to_live(LeaseId(7))).await.unwrap().unwrap();
            assert_eq!(times.granted_s, 60);
            assert_eq!(within(member.keep_alive(LeaseId(8))).await, Ok(0));
            assert_eq!(within(member.time_to_live(LeaseId(8))).await, Ok(None));
        }
        within(cluster.any().propose(grant(9, 1))).await.unwrap();
        let with_lease = Command::Put(pb::PutRequest { key: "short".into(), lease: 9, ..Default::default() });
        within(cluster.any().propose(with_lease)).await.unwrap();
        let mut changes = cluster.any().reader().lease_version();
        within(async {
            while cluster.any().reader().lease_keys(LeaseId(9)).is_some() {
                changes.changed().await.unwrap();
            }
        })
        .await;
        within(cluster.any().read_barrier()).await.unwrap();
        assert_eq!(get(cluster.any(), "short"), None);
        for member in cluster.members.values() {
            member.shutdown().await;
        }
    });
}

#[test]
fn leadership_moves_on_request() {
    run(async {
        let cluster = Cluster::start(3).await;
        let leader = cluster.leader().await;
        within(cluster.members[&leader].propose(put("k", "v"))).await.unwrap();
        let to = *cluster.members.keys().find(|id| **id != leader).unwrap();
        let unknown = cluster.members[&leader].transfer_leadership(Some(MemberId(99))).await;
        assert_eq!(unknown, Err(StoreError::BadLeaderTransferee));
        let from_follower = cluster.members[&to].transfer_leadership(Some(leader)).await;
        assert_eq!(from_follower, Err(StoreError::NotLeader));
        within(cluster.members[&leader].transfer_leadership(Some(to))).await.unwrap();
        within(cluster.any().propose(put("k", "w"))).await.unwrap();
        assert_eq!(cluster.members[&to].status().leader, Some(to));
        for member in cluster.members.values() {
            member.shutdown().await;
        }
    });
}

#[test]
fn a_leader_is_followed_while_the_disks_of_all_followers_stall() {
    run(async {
        let mut cluster = Cluster::layout(3);
        // Who campaigns, or is told of a new term, notes it on the disk before it answers anything: nobody may want to while
        // the disks stall. The write waits for them.
        let (election_min, election_max) = (Duration::from_millis(1500), Duration::from_millis(2000));
        cluster.timing = Timing { election_min, election_max, request: LONG, ..TIMING };
        for id in 1..=3 {
            cluster.start_member(MemberId(id)).await;
        }
        let leader = cluster.leader().await;
        let member = cluster.members[&leader].clone();
        within(member.propose(put("k", "v"))).await.unwrap();
        // All that the followers were told by then is on their disks.
        until(async || has_told_all(&member)).await;
        let followers = || cluster.members.iter().filter(|(id, _)| **id != leader).map(|(_, member)| member);
        let (term, last) = (member.status().term, last_accepted(&member));
        let stalled: Vec<_> = followers().map(|follower| follower.inner.log.stall()).collect();
        let written = tokio::spawn(async move { member.propose(put("k", "w")).await });
        until(async || followers().all(|follower| last_accepted(follower) > last)).await;
        let member = &cluster.members[&leader];
        let begin = Instant::now();
        while begin.elapsed() < 4 * election_max {
            within(member.read_barrier()).await.expect("followers answer without their disks");
            tokio::time::sleep(TIMING.heartbeat / 10).await;
        }
        assert_eq!((member.status().leader, member.status().term), (Some(leader), term));
        drop(stalled);
        within(written).await.unwrap().unwrap();
        for member in cluster.members.values() {
            member.shutdown().await;
        }
    });
}

/// Whether the other members are known to have this leader's whole log on their disks.
fn has_told_all(member: &Member) -> bool {
    let metrics = member.inner.raft.metrics();
    let metrics = metrics.borrow_watched();
    let told = metrics.replication.as_ref();
    told.is_some_and(|told| told.values().all(|upto| upto.map(|upto| upto.index) == metrics.last_log_index))
}

fn last_accepted(member: &Member) -> Option<EntryId> {
    member.inner.log.bounds().1
}

#[test]
fn members_are_connected_for_whoever_is_to_lead_next() {
    run(async {
        let cluster = Cluster::start(3).await;
        let all_connected = || {
            let ids = || cluster.members.keys().copied();
            cluster.members.iter().all(|(id, member)| {
                let reaches = |to, lane| member.inner.clients.reaches(to, lane);
                ids().filter(|to| to != id).all(|to| LANES.into_iter().all(|lane| reaches(to, lane)))
            })
        };
        until(async || all_connected()).await;
        for member in cluster.members.values() {
            member.shutdown().await;
        }
    });
}

#[test]
fn what_a_directory_says_about_its_owner_wins_over_the_settings() {
    run(async {
        let mut cluster = Cluster::start(1).await;
        cluster.stop_member(MemberId(1)).await;
        let other = MemberConfig { cluster_id: ClusterId(0xd), ..cluster.config(MemberId(1)) };
        let member = Member::start(other).await.unwrap();
        within(member.propose(put("k", "v"))).await.unwrap();
        assert_eq!(member.status().cluster_id, ClusterId(0xc));
        member.shutdown().await;
    });
}

#[test]
fn a_member_that_lost_its_directory_is_refused() {
    run(async {
        let mut cluster = Cluster::start(3).await;
        let lost = MemberId(2);
        within(async {
            while cluster.members[&MemberId(1)].reader().member_attributes(lost).is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        cluster.stop_member(lost).await;
        std::fs::remove_dir_all(cluster.config(lost).data_dir).unwrap();
        let Err(StartError::Config(reason)) = Member::start(cluster.config(lost)).await else { panic!("it started") };
        assert!(reason.starts_with("member 2 has already been bootstrapped"), "{reason}");
        for member in cluster.members.values() {
            member.shutdown().await;
        }
    });
}
