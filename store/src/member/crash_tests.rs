//! Members that die without a word: each runs on a runtime of its own, which is dropped as a kill would.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::tests::{Cluster, get, put, within};
use super::{Member, Timing};
use crate::ids::MemberId;

struct Process {
    /// None while it is being dropped.
    runtime: Option<Runtime>,
    member: Member,
}

impl Process {
    fn start(cluster: &Cluster, id: MemberId) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let config = cluster.config(id);
        let member = runtime.block_on(async { tokio::spawn(Member::start(config)).await.unwrap().unwrap() });
        Self { runtime: Some(runtime), member }
    }

    /// Stops everything where it stands: sockets close, nothing is said, nothing is flushed.
    fn kill(self) {
        drop(self);
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("the process runs until it is dropped")
    }

    fn put(&self, key: String) {
        let member = self.member.clone();
        let write = async move { within(member.propose(put(&key, "v"))).await.unwrap() };
        self.runtime().block_on(async { tokio::spawn(write).await.unwrap() });
    }

    fn leader(&self) -> MemberId {
        let mut leadership = self.member.leadership();
        let leader = async move { leadership.wait_for(|now| now.leader.is_some()).await.unwrap().leader.unwrap() };
        self.runtime().block_on(within(leader))
    }

    fn read_barrier(&self) {
        let member = self.member.clone();
        let barrier = async move { within(member.read_barrier()).await.unwrap() };
        self.runtime().block_on(async { tokio::spawn(barrier).await.unwrap() });
    }
}

/// Also when an assertion failed: the reason must not be lost to an abort of the whole test program.
impl Drop for Process {
    fn drop(&mut self) {
        // A runtime on its way down refuses blocking work, which Raft takes for a broken disk: a real kill does not wait
        // for that, and this process must not be stopped by it.
        self.member.inner.stopping.store(true, std::sync::atomic::Ordering::SeqCst);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }
}

/// Kills the leader three times under a writer that goes on at a survivor, and brings the dead back.
#[test]
fn a_killed_leader_costs_a_pause_and_no_acknowledged_write() {
    let mut cluster = Cluster::layout(3);
    cluster.timing = Timing::default();
    let ids: Vec<MemberId> = cluster.peers.keys().copied().collect();
    let mut processes: BTreeMap<MemberId, Process> =
        ids.iter().map(|id| (*id, Process::start(&cluster, *id))).collect();
    let mut acknowledged = 0;
    for _round in 0..3 {
        let leader = processes.values().next().unwrap().leader();
        for _ in 0..20 {
            processes[&leader].put(format!("k{acknowledged}"));
            acknowledged += 1;
        }
        let killed = Instant::now();
        processes.remove(&leader).unwrap().kill();
        let survivor = processes.values().next().unwrap();
        survivor.put(format!("k{acknowledged}"));
        acknowledged += 1;
        eprintln!("killed and next acknowledged write: {:?}", killed.elapsed());
        for _ in 0..20 {
            survivor.put(format!("k{acknowledged}"));
            acknowledged += 1;
        }
        processes.insert(leader, Process::start(&cluster, leader));
    }
    for process in processes.values() {
        process.read_barrier();
        for number in 0..acknowledged {
            assert_eq!(get(&process.member, &format!("k{number}")).as_deref(), Some("v"), "write {number}");
        }
        assert_eq!(process.member.reader().revision().0, acknowledged + 1, "each write happened once");
    }
    for (_, process) in processes {
        process.kill();
    }
}

/// Writes of many clients are in flight at a follower when the leader is killed: each is applied exactly once.
#[test]
fn forwarded_writes_in_flight_are_applied_exactly_once() {
    const CLIENTS: usize = 64;
    let mut cluster = Cluster::layout(3);
    cluster.timing = Timing::default();
    let ids: Vec<MemberId> = cluster.peers.keys().copied().collect();
    let mut processes: BTreeMap<MemberId, Process> =
        ids.iter().map(|id| (*id, Process::start(&cluster, *id))).collect();
    processes[&ids[0]].put("first".to_owned());
    let leader = processes[&ids[0]].leader();
    let follower = *ids.iter().find(|id| **id != leader).unwrap();
    let process = &processes[&follower];
    let writers: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let member = process.member.clone();
            process.runtime().spawn(async move {
                for number in 0..20 {
                    within(member.propose(put(&format!("c{client}-{number}"), "v"))).await.unwrap();
                }
            })
        })
        .collect();
    // Somewhere in the middle of it.
    let mut progress = process.member.inner.progress.clone();
    process.runtime().block_on(async { within(progress.wait_for(|now| now.next > 300)).await.unwrap() });
    processes.remove(&leader).unwrap().kill();
    let process = &processes[&follower];
    for writer in writers {
        process.runtime().block_on(async { within(writer).await.unwrap() });
    }
    process.read_barrier();
    assert_eq!(process.member.reader().revision().0 as usize, 1 + 1 + CLIENTS * 20, "each write happened once");
    for (_, process) in processes {
        process.kill();
    }
}

#[test]
fn a_member_far_behind_is_brought_back_by_a_snapshot() {
    use openraft::async_runtime::watch::WatchReceiver;
    super::tests::run(async {
        let mut cluster = Cluster::start(3).await;
        let leader = cluster.leader().await;
        let away = *cluster.members.keys().find(|id| **id != leader).unwrap();
        cluster.stop_member(away).await;
        let ahead = cluster.members[&leader].clone();
        for number in 0..100 {
            within(ahead.propose(put(&format!("k{number}"), "v"))).await.unwrap();
        }
        let raft = &ahead.inner.raft;
        raft.trigger().snapshot().await.unwrap();
        let mut metrics = raft.metrics();
        within(async {
            while metrics.borrow_watched().snapshot.is_none_or(|id| id.index < 90) {
                metrics.changed().await.unwrap();
            }
        })
        .await;
        raft.trigger().purge_log(90).await.unwrap();
        within(async {
            while metrics.borrow_watched().purged.is_none_or(|id| id.index < 90) {
                metrics.changed().await.unwrap();
            }
        })
        .await;
        // Its log ended long before entry 90.
        for round in 0..2 {
            cluster.start_member(away).await;
            let back = cluster.members[&away].clone();
            within(back.read_barrier()).await.unwrap();
            for number in 0..100 {
                assert_eq!(get(&back, &format!("k{number}")).as_deref(), Some("v"));
            }
            within(back.propose(put(&format!("after-{round}"), "v"))).await.unwrap();
            assert_eq!(back.reader().revision().0, 102 + round);
            let arrived = &back.metrics().snapshots.received_s;
            assert_eq!(arrived.get_sample_count() > 0, round == 0, "its own log is enough for the second start");
            drop(back);
            cluster.stop_member(away).await;
        }
        drop(metrics);
        drop(ahead);
        for member in cluster.members.values() {
            member.shutdown().await;
        }
    });
}
