//! Clusters that change while they are written to: members join, leave, move, die and are replaced.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::reconfigure::View;
use super::tests::{Cluster, free_ports, get, put, run, within};
use super::{Member, MemberConfig, Peer, StartError, Tuning};
use crate::error::StoreError;
use crate::ids::{ClusterId, MemberId};
use crate::io::{engine, roster};
use crate::membership::MembershipOptions;
use crate::membership::strict::Health;

/// Without the checks, which ask for members that have been there for five seconds.
const LAX: MembershipOptions = MembershipOptions { strict_reconfig_check: false, max_learners: 1 };

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("within a minute: {what}"));
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    until(what, || std::future::ready(holds())).await;
}

fn new_url() -> String {
    format!("http://127.0.0.1:{}", free_ports(1)[0])
}

impl Cluster {
    async fn lax(count: u64) -> Self {
        let mut cluster = Self::layout(count);
        cluster.membership = LAX;
        for id in 1..=count {
            cluster.start_member(MemberId(id)).await;
        }
        cluster
    }

    /// The settings of a member with `url` that joins, as an operator gives them: names and URLs, no ids.
    fn joining(&self, url: &str) -> MemberConfig {
        let members = self.any().members();
        let listed = members.into_iter().map(|member| member.peer_ur_ls).enumerate();
        let name = url.rsplit_once(':').unwrap().1;
        let peer = |(at, peer_urls)| (MemberId(1000 + at as u64), Peer { name: format!("p{at}"), peer_urls });
        let peers: BTreeMap<MemberId, Peer> = listed.map(peer).collect();
        let own = peers.iter().find(|(_, peer)| peer.peer_urls == [url]).map(|(id, _)| *id);
        MemberConfig {
            id: own.unwrap_or(MemberId(999)),
            cluster_id: ClusterId(0xbad),
            name: format!("joined-{name}"),
            data_dir: self.dir.path().join(name),
            peer_listen: vec![url.strip_prefix("http://").unwrap().parse().unwrap()],
            existing: true,
            peers,
            ..self.config(MemberId(1))
        }
    }

    async fn join(&mut self, url: &str) -> MemberId {
        let member = Member::start(self.joining(url)).await.unwrap();
        let id = member.status().id;
        self.members.insert(id, member);
        id
    }

    async fn add(&mut self, url: &str, is_learner: bool) -> MemberId {
        MemberId(within(self.any().add_member(&[url.to_owned()], is_learner)).await.unwrap().id)
    }

    /// Waits until Raft counts `id`, as every running member knows it.
    async fn await_voter(&self, id: MemberId) {
        for member in self.members.values() {
            eventually("a vote for the new member", || voters(member).contains(&id)).await;
        }
    }

    /// Waits until as many members have told their names.
    async fn await_names(&self, count: usize) {
        let named = || self.any().members().iter().filter(|member| !member.name.is_empty()).count();
        eventually("names", || named() == count).await;
    }

    async fn stop_all(&self) {
        for member in self.members.values() {
            member.shutdown().await;
        }
    }
}

fn voters(member: &Member) -> Vec<MemberId> {
    let committed = member.inner.raft.server_metrics().borrow_watched().committed_membership_config.clone();
    committed.voter_ids().collect()
}

/// Writes one key after another at one member until told to stop; every write must succeed.
struct Load {
    stop: CancellationToken,
    writer: JoinHandle<u64>,
}

impl Load {
    fn on(member: &Member) -> Self {
        let (stop, member) = (CancellationToken::new(), member.clone());
        let stopped = stop.clone();
        let writer = tokio::spawn(async move {
            let mut written = 0;
            while !stopped.is_cancelled() {
                within(member.propose(put(&format!("load-{written}"), "v"))).await.unwrap();
                written += 1;
            }
            written
        });
        Self { stop, writer }
    }

    /// Stops, and finds everything that was acknowledged on `members`.
    async fn verify<'a>(self, members: impl Iterator<Item = &'a Member>) {
        self.stop.cancel();
        let written = within(self.writer).await.unwrap();
        assert!(written > 0);
        for member in members {
            within(member.read_barrier()).await.unwrap();
            for number in 0..written {
                assert_eq!(get(member, &format!("load-{number}")).as_deref(), Some("v"), "{number} of {written}");
            }
        }
    }
}

#[test]
fn one_member_grows_to_three_and_shrinks_back_while_it_is_written_to() {
    run(async {
        let mut cluster = Cluster::lax(1).await;
        let first = MemberId(1);
        let load = Load::on(&cluster.members[&first]);
        let mut joined = Vec::new();
        for _ in 0..2 {
            let url = new_url();
            let id = cluster.add(&url, false).await;
            let listed = cluster.any().members().into_iter().find(|member| member.id == id.0).unwrap();
            assert_eq!((listed.name.as_str(), listed.is_learner, &listed.peer_ur_ls[0]), ("", false, &url));
            // It does not run yet, and is not missed.
            within(cluster.any().propose(put("while it is away", "v"))).await.unwrap();
            assert_eq!(cluster.join(&url).await, id);
            cluster.await_voter(id).await;
            assert!(!cluster.members[&id].status().is_learner);
            joined.push(id);
        }
        cluster.await_names(3).await;
        within(cluster.members[&joined[1]].propose(put("through the newest", "v"))).await.unwrap();
        for id in joined {
            within(cluster.members[&id].remove_member(id)).await.unwrap();
            within(cluster.members[&id].removed()).await;
            cluster.stop_member(id).await;
        }
        assert_eq!(voters(cluster.any()), [first]);
        load.verify(cluster.members.values()).await;
        assert_eq!(cluster.any().members().len(), 1);
        assert_eq!(cluster.any().remove_member(first).await, Err(StoreError::NotEnoughStartedMembers));
        cluster.stop_all().await;
    });
}

#[test]
fn a_removed_leader_hands_over_and_ends() {
    run(async {
        let mut cluster = Cluster::lax(3).await;
        let leader = cluster.leader().await;
        let other = *cluster.members.keys().find(|id| **id != leader).unwrap();
        let load = Load::on(&cluster.members[&other]);
        within(cluster.members[&other].propose(put("k", "v"))).await.unwrap();
        within(cluster.members[&leader].remove_member(leader)).await.unwrap();
        within(cluster.members[&leader].removed()).await;
        cluster.stop_member(leader).await;
        assert!(!voters(&cluster.members[&other]).contains(&leader));
        assert_eq!(cluster.any().remove_member(leader).await, Err(StoreError::MemberNotFound));
        load.verify(cluster.members.values()).await;
        // The data says that it was removed; so do the others.
        let back = Member::start(cluster.config(leader)).await.unwrap();
        within(back.removed()).await;
        back.shutdown().await;
        drop(back);
        std::fs::remove_dir_all(cluster.config(leader).data_dir).unwrap();
        match Member::start(cluster.config(leader)).await {
            Err(StartError::Removed(id)) => assert_eq!(id, leader),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("it started"),
        }
        cluster.stop_all().await;
    });
}

#[test]
fn a_member_that_was_away_when_it_was_removed_hears_of_it_later() {
    run(async {
        let mut cluster = Cluster::lax(3).await;
        let url = new_url();
        let learner = cluster.add(&url, true).await;
        cluster.join(&url).await;
        eventually("the learner joins", || cluster.members[&MemberId(1)].reader().member_attributes(learner).is_some())
            .await;
        let joining = cluster.joining(&url);
        let voter = MemberId(3);
        for id in [voter, learner] {
            cluster.stop_member(id).await;
            within(cluster.any().remove_member(id)).await.unwrap();
        }
        let gone = |id| {
            move |member: &Member| {
                let membership = member.inner.raft.server_metrics().borrow_watched().membership_config.clone();
                membership.membership().get_node(&id).is_none()
            }
        };
        for member in cluster.members.values() {
            eventually("both are dismissed", || gone(voter)(member) && gone(learner)(member)).await;
        }
        for config in [cluster.config(voter), joining] {
            let back = Member::start(config).await.unwrap();
            within(back.removed()).await;
            back.shutdown().await;
        }
        cluster.stop_all().await;
    });
}

#[test]
fn a_dead_member_is_replaced() {
    run(async {
        let mut cluster = Cluster::lax(3).await;
        let dead = cluster.leader().await;
        within(cluster.members[&dead].propose(put("before", "v"))).await.unwrap();
        let other = *cluster.members.keys().find(|id| **id != dead).unwrap();
        let load = Load::on(&cluster.members[&other]);
        cluster.stop_member(dead).await;
        within(cluster.any().remove_member(dead)).await.unwrap();
        let url = new_url();
        let id = cluster.add(&url, false).await;
        // The new member gets what is older than the log as a copy of the state.
        for member in cluster.members.values() {
            member.inner.raft.trigger().snapshot().await.unwrap();
            let flushed = || member.inner.raft.data_metrics().borrow_watched().snapshot.map_or(0, |at| at.index);
            eventually("a flush", || flushed() > 2).await;
            member.inner.raft.trigger().purge_log(flushed()).await.unwrap();
            eventually("a short log", || member.inner.log.bounds().0.is_some()).await;
        }
        assert_eq!(cluster.join(&url).await, id);
        cluster.await_voter(id).await;
        within(cluster.members[&id].propose(put("through it", "v"))).await.unwrap();
        load.verify(cluster.members.values()).await;
        assert_eq!(get(&cluster.members[&id], "before").as_deref(), Some("v"));
        // Its settings are those of its first start; its data is what counts.
        let again = cluster.joining(&url);
        cluster.stop_member(id).await;
        let member = Member::start(MemberConfig { existing: false, ..again.clone() }).await.unwrap();
        assert_eq!((member.status().id, member.status().cluster_id), (id, ClusterId(0xc)));
        within(member.read_barrier()).await.unwrap();
        member.shutdown().await;
        // Without its data it would vote twice.
        std::fs::remove_dir_all(&again.data_dir).unwrap();
        let Err(StartError::Config(reason)) = Member::start(again).await else { panic!("it started") };
        assert!(reason.contains("has already been bootstrapped"), "{reason}");
        cluster.stop_all().await;
    });
}

#[test]
fn a_learner_follows_and_votes_once_it_is_promoted() {
    run(async {
        let mut cluster = Cluster::lax(1).await;
        within(cluster.any().propose(put("k", "v"))).await.unwrap();
        let url = new_url();
        let id = cluster.add(&url, true).await;
        let leader = cluster.members[&MemberId(1)].clone();
        assert_eq!(leader.add_member(&[new_url()], true).await, Err(StoreError::TooManyLearners));
        assert_eq!(leader.add_member(&[new_url(), url.clone()], false).await, Err(StoreError::PeerUrlExists));
        assert_eq!(leader.promote_member(id).await, Err(StoreError::LearnerNotReady));
        assert_eq!(leader.promote_member(MemberId(1)).await, Err(StoreError::MemberNotLearner));
        assert_eq!(leader.promote_member(MemberId(77)).await, Err(StoreError::MemberNotFound));
        assert_eq!(cluster.join(&url).await, id);
        let learner = cluster.members[&id].clone();
        eventually("the learner has the data", || get(&learner, "k").is_some()).await;
        assert!(learner.status().is_learner);
        until("the learner is in sync", || async { leader.promote_member(id).await.is_ok() }).await;
        eventually("the learner votes", || voters(&leader).contains(&id)).await;
        eventually("the promotion is known", || !learner.status().is_learner).await;
        within(learner.read_barrier()).await.unwrap();
        cluster.stop_all().await;
    });
}

#[test]
fn a_member_moves_to_another_address() {
    run(async {
        let mut cluster = Cluster::lax(3).await;
        let mover = MemberId(2);
        let (others, url) = (MemberId(1), new_url());
        cluster.await_names(3).await;
        let before = cluster.any().members();
        let taken = cluster.members[&others].update_member(mover, &before[2].peer_ur_ls).await;
        assert_eq!(taken, Err(StoreError::PeerUrlExists));
        within(cluster.members[&others].update_member(mover, std::slice::from_ref(&url))).await.unwrap();
        cluster.stop_member(mover).await;
        let address = url.strip_prefix("http://").unwrap().parse().unwrap();
        let moved = MemberConfig { peer_listen: vec![address], ..cluster.config(mover) };
        cluster.members.insert(mover, Member::start(moved).await.unwrap());
        within(cluster.members[&others].propose(put("k", "v"))).await.unwrap();
        let member = &cluster.members[&mover];
        within(member.read_barrier()).await.unwrap();
        assert_eq!(get(member, "k").as_deref(), Some("v"));
        assert_eq!(member.status().id, mover);
        // Without the third, nothing commits unless the moved one is reached where it is now.
        cluster.stop_member(MemberId(3)).await;
        within(cluster.members[&others].propose(put("k", "w"))).await.unwrap();
        let after = cluster.members[&others].members();
        assert_eq!((&after[1].peer_ur_ls, &after[1].name), (&vec![url], &before[1].name));
        cluster.stop_all().await;
    });
}

#[test]
fn strict_checks_refuse_what_endangers_the_quorum() {
    run(async {
        let mut cluster = Cluster::start(3).await;
        cluster.await_names(3).await;
        for member in cluster.members.values() {
            // They have not been together for five seconds.
            let answer = within(member.add_member(&[new_url()], false)).await;
            assert_eq!(answer, Err(StoreError::UnhealthyCluster));
        }
        until("the cluster has proven itself", || async {
            let added = within(cluster.members[&MemberId(2)].add_member(&[new_url()], true)).await;
            assert!(matches!(added, Ok(_) | Err(StoreError::UnhealthyCluster)), "{added:?}");
            added.is_ok()
        })
        .await;
        let leader = cluster.leader().await;
        let (down, left) = {
            let mut others = cluster.members.keys().filter(|id| **id != leader);
            (*others.next().unwrap(), *others.next().unwrap())
        };
        cluster.stop_member(down).await;
        let leading = &cluster.members[&leader];
        eventually("the loss is noticed", || View::of(&leading.inner).is_some_and(|view| !view.is_active(down))).await;
        assert_eq!(leading.remove_member(left).await, Err(StoreError::UnhealthyCluster));
        within(cluster.members[&leader].remove_member(down)).await.unwrap();
        cluster.stop_all().await;
    });
}

#[test]
fn a_change_outlives_the_leader_that_began_it() {
    run(async {
        let mut cluster = Cluster::lax(3).await;
        let url = new_url();
        let id = cluster.add(&url, false).await;
        let leader = cluster.leader().await;
        let other = *cluster.members.keys().find(|id| **id != leader).unwrap();
        let load = Load::on(&cluster.members[&other]);
        cluster.stop_member(leader).await;
        assert_eq!(cluster.join(&url).await, id);
        cluster.await_voter(id).await;
        cluster.start_member(leader).await;
        within(cluster.members[&leader].read_barrier()).await.unwrap();
        load.verify(cluster.members.values()).await;
        cluster.stop_all().await;
    });
}

#[test]
fn one_of_three_becomes_a_cluster_of_its_own_when_forced() {
    run(async {
        let mut cluster = Cluster::lax(3).await;
        for number in 0..20 {
            within(cluster.any().propose(put(&format!("k{number}"), "v"))).await.unwrap();
        }
        let survivor = MemberId(2);
        within(cluster.members[&survivor].read_barrier()).await.unwrap();
        for id in [MemberId(1), MemberId(3), survivor] {
            cluster.stop_member(id).await;
        }
        let forced = MemberConfig { force_new_cluster: true, ..cluster.config(survivor) };
        cluster.members.insert(survivor, Member::start(forced).await.unwrap());
        let member = cluster.members[&survivor].clone();
        within(member.propose(put("after", "v"))).await.unwrap();
        assert_eq!(get(&member, "k19").as_deref(), Some("v"));
        eventually("the others are forgotten", || member.members().len() == 1).await;
        assert_eq!((voters(&member), member.members()[0].id), (vec![survivor], survivor.0));
        // It can grow again, and the others cannot come back.
        let url = new_url();
        let id = cluster.add(&url, false).await;
        assert_eq!(cluster.join(&url).await, id);
        cluster.await_voter(id).await;
        let back = Member::start(cluster.config(MemberId(1))).await.unwrap();
        within(back.removed()).await;
        back.shutdown().await;
        cluster.stop_all().await;
    });
}

/// Cuts a member's state off from it, as a disk that lies does, and starts the member again.
async fn start_damaged(config: MemberConfig) -> Member {
    engine::mark_damaged(&config.data_dir.join("member/state"), "a checksum was wrong").unwrap();
    within(Member::start(config)).await.unwrap()
}

#[test]
fn members_that_were_not_together_from_the_start_rebuild_each_other() {
    run(async {
        let mut cluster = Cluster::lax(1).await;
        let (first, url, moved) = (MemberId(1), new_url(), new_url());
        let id = cluster.add(&url, false).await;
        // What its settings call the members is not what they are called.
        let elsewhere = Tuning { log_dir: Some(cluster.dir.path().join("a-log")), ..Tuning::default() };
        let joining = MemberConfig { tuning: elsewhere, ..cluster.joining(&url) };
        cluster.members.insert(id, Member::start(joining.clone()).await.unwrap());
        cluster.await_voter(id).await;
        within(cluster.members[&first].update_member(first, std::slice::from_ref(&moved))).await.unwrap();
        let address = moved.strip_prefix("http://").unwrap().parse().unwrap();
        let at_first = MemberConfig { peer_listen: vec![address], ..cluster.config(first) };
        cluster.stop_member(first).await;
        cluster.members.insert(first, Member::start(at_first.clone()).await.unwrap());
        within(cluster.members[&first].propose(put("k", "v"))).await.unwrap();
        within(cluster.members[&id].read_barrier()).await.unwrap();
        for (which, config) in [(first, &at_first), (id, &joining)] {
            let known = || roster::load(&config.data_dir.join("member")).unwrap().unwrap();
            let there = || {
                let members = known().members;
                members.len() == 2 && members.iter().any(|member| member.peer_urls == [moved.clone()])
            };
            eventually("the members are written down", there).await;
            cluster.stop_member(which).await;
            // The first knows nobody but itself by its settings, the other only where the first was.
            cluster.members.insert(which, start_damaged(config.clone()).await);
            let member = &cluster.members[&which];
            within(member.read_barrier()).await.unwrap();
            assert_eq!((member.status().id, get(member, "k").as_deref()), (which, Some("v")));
        }
        // Without what it had written down, the settings lead to somebody who knows.
        cluster.stop_member(id).await;
        std::fs::remove_file(joining.data_dir.join("member/members")).unwrap();
        let seeded = MemberConfig { peers: cluster.joining(&url).peers, ..joining };
        cluster.members.insert(id, start_damaged(seeded).await);
        within(cluster.members[&id].read_barrier()).await.unwrap();
        assert_eq!(get(&cluster.members[&id], "k").as_deref(), Some("v"));
        cluster.stop_all().await;
    });
}

/// What the peer port of `member` answers to an HTTP request.
async fn ask_peer_port(cluster: &Cluster, member: MemberId, request: &str) -> String {
    let address = cluster.config(member).peer_listen[0];
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    match within(stream.read_to_string(&mut answer)).await {
        // Hung up without reading everything.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        read => assert!(read.is_ok(), "{read:?}"),
    }
    answer
}

#[test]
fn the_peer_port_says_who_the_members_are_to_whoever_speaks_http() {
    run(async {
        let mut cluster = Cluster::lax(1).await;
        let (member, url) = (MemberId(1), new_url());
        cluster.await_names(1).await;
        eventually("a version", || cluster.any().cluster_version().is_some()).await;
        let learner = cluster.add(&url, true).await;
        let (peer, client) = (&cluster.peers[&member].peer_urls[0], &cluster.config(member).client_urls[0]);
        let first = format!(r#"{{"id":1,"peerURLs":["{peer}"],"name":"m1","clientURLs":["{client}"]}}"#);
        let second = format!(r#"{{"id":{learner},"peerURLs":["{url}"],"isLearner":true}}"#, learner = learner.0);
        let answer =
            ask_peer_port(&cluster, member, "GET /members HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, format!("[{first},{second}]\n"));
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("x-etcd-cluster-id: c\r\n"), "{head}");
        assert!(head.contains("content-type: application/json"), "{head}");
        // Shorter than a member's introduction.
        let answer = ask_peer_port(&cluster, member, "GET /version HTTP/1.0\r\n\r\n").await;
        assert!(answer.ends_with(&crate::edge::version_json(cluster.any().cluster_version())), "{answer}");
        let answer = ask_peer_port(&cluster, member, "GET /raft HTTP/1.0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.0 404 Not Found\r\n"), "{answer}");
        assert_eq!(ask_peer_port(&cluster, member, "POST /members HTTP/1.0\r\n\r\n").await, "");
        cluster.stop_all().await;
    });
}

#[test]
fn a_joiner_that_is_listed_by_address_may_be_told_names() {
    run(async {
        let mut cluster = Cluster::lax(1).await;
        let url = new_url();
        let id = cluster.add(&url, false).await;
        let mut joining = cluster.joining(&url);
        for peer in joining.peers.values_mut() {
            peer.peer_urls = peer.peer_urls.iter().map(|url| url.replace("127.0.0.1", "localhost")).collect();
        }
        let member = within(Member::start(joining)).await.unwrap();
        assert_eq!(member.status().id, id);
        cluster.members.insert(id, member);
        cluster.await_voter(id).await;
        cluster.stop_all().await;
    });
}
