//! Membership with real processes and unmodified etcdctl: a cluster grows, loses its leader, replaces its dead and shrinks
//! while it is written to, and no acknowledged write is lost.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]

mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::cluster_client::ClusterClient;
use support::load::{Load, same_hash, verify};
use support::store::StoreCluster;
use support::{client, text, wait_for};

const WRITERS: usize = 4;
/// The checks of a change ask for members that have been together for five seconds.
const SETTLED: Duration = Duration::from_secs(40);

/// etcdctl against some members.
struct Etcdctl {
    endpoints: String,
}

impl Etcdctl {
    fn of(cluster: &StoreCluster, members: &[usize]) -> Self {
        let endpoints: Vec<String> = members.iter().map(|i| cluster.client_url(*i)).collect();
        Self { endpoints: endpoints.join(",") }
    }

    /// Standard output, or standard error of a command that fails.
    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(client("etcdctl"));
        command.env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", &self.endpoints).args(arguments);
        let output = command.stdin(Stdio::null()).output().unwrap();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }

    /// Tries until the cluster is healthy enough; any other refusal fails the test.
    #[track_caller]
    fn when_healthy(&self, arguments: &[&str]) -> String {
        wait_for(&format!("etcdctl {}", arguments.join(" ")), SETTLED, || match self.run(arguments) {
            Ok(output) => Some(output),
            Err(error) => {
                assert!(error.contains("etcdserver: unhealthy cluster"), "etcdctl {}: {error}", arguments.join(" "));
                None
            }
        })
    }

    #[track_caller]
    fn refused(&self, arguments: &[&str], expected: &str) {
        let error = self.run(arguments).expect_err("it is refused");
        assert!(error.contains(expected), "etcdctl {}: {error}", arguments.join(" "));
    }

    /// `id, status, name, peer URLs, client URLs, is learner` of the member with this peer URL.
    fn member(&self, peer_url: &str) -> Vec<String> {
        let list = self.run(&["member", "list"]).unwrap();
        let line = list.lines().find(|line| line.contains(peer_url));
        let line = line.unwrap_or_else(|| panic!("{peer_url} is not in\n{list}"));
        line.split(", ").map(str::to_owned).collect()
    }

    fn id(&self, peer_url: &str) -> String {
        self.member(peer_url).remove(0)
    }
}

/// What `etcdctl member add` prints for the new member's environment.
fn initial_cluster(added: &str) -> String {
    let line = added.lines().find_map(|line| line.strip_prefix("ETCD_INITIAL_CLUSTER="));
    line.unwrap_or_else(|| panic!("no initial cluster in\n{added}")).trim_matches('"').to_owned()
}

/// Adds a member through `etcdctl` and starts it; its number.
fn grow(cluster: &mut StoreCluster, etcdctl: &Etcdctl, options: &[&str]) -> usize {
    let new = cluster.prepare_member();
    let (name, url) = (cluster.name(new).to_owned(), format!("--peer-urls={}", cluster.peer_url(new)));
    let added = etcdctl.when_healthy(&[&["member", "add", &name, &url], options].concat());
    let listed = etcdctl.member(&cluster.peer_url(new));
    assert_eq!((listed[1].as_str(), listed[2].as_str()), ("unstarted", ""));
    assert_eq!(listed[5], if options.is_empty() { "false" } else { "true" });
    cluster.set_initial_cluster(new, &initial_cluster(&added));
    cluster.start_member(new);
    new
}

fn ended_by_removal(cluster: &mut StoreCluster, member: usize) {
    let status = cluster.process(member).exited(Duration::from_secs(20));
    assert!(status.success(), "it ended with {status}");
    cluster.forget(member);
    let log = std::fs::read_to_string(cluster.log(member)).unwrap();
    assert!(log.contains("the member has been permanently removed from the cluster"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_changes_under_load_and_loses_no_acknowledged_write() {
    let mut cluster = StoreCluster::start(1).await;
    let load = Load::start(WRITERS, vec![cluster.channel(0)]);
    load.await_progress(100).await;
    for _ in 0..2 {
        let etcdctl = Etcdctl::of(&cluster, &[0]);
        let new = grow(&mut cluster, &etcdctl, &[]);
        load.await_progress(100).await;
        cluster.await_ready(new).await;
        load.add(cluster.channel(new));
    }
    load.await_progress(200).await;
    println!("grown to three");

    // The leader dies in the middle of a change, and comes back.
    let leader = cluster.leader().await;
    let survivors: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
    let etcdctl = Etcdctl::of(&cluster, &survivors);
    let fourth = grow(&mut cluster, &etcdctl, &[]);
    cluster.kill(leader);
    load.await_progress(200).await;
    cluster.await_ready(fourth).await;
    load.add(cluster.channel(fourth));
    cluster.start_member(leader);
    cluster.await_ready(leader).await;
    println!("the leader died while a fourth joined");

    // A follower dies for good and is replaced.
    let leader = cluster.leader().await;
    let dead = (0..4).find(|i| *i != leader).unwrap();
    cluster.kill(dead);
    let rest: Vec<usize> = (0..4).filter(|i| *i != dead).collect();
    let etcdctl = Etcdctl::of(&cluster, &rest);
    let id = etcdctl.id(&cluster.peer_url(dead));
    let removed = etcdctl.when_healthy(&["member", "remove", &id]);
    assert!(removed.starts_with(&format!("Member {id:>16} removed from cluster")), "{removed}");
    etcdctl.refused(&["member", "remove", &id], "etcdserver: member not found");
    let replacement = grow(&mut cluster, &etcdctl, &[]);
    cluster.await_ready(replacement).await;
    load.add(cluster.channel(replacement));
    load.await_progress(200).await;
    // Back from the dead, it hears that it is not wanted.
    cluster.start_member(dead);
    ended_by_removal(&mut cluster, dead);
    println!("a dead member was replaced");

    // Down to one, the leader first each time.
    let mut left: Vec<usize> = (0..5).filter(|i| *i != dead).collect();
    while left.len() > 1 {
        let leader = cluster.leader().await;
        let id = Etcdctl::of(&cluster, &left).id(&cluster.peer_url(leader));
        let through = *left.iter().find(|i| **i != leader).unwrap();
        Etcdctl::of(&cluster, &[through]).when_healthy(&["member", "remove", &id]);
        ended_by_removal(&mut cluster, leader);
        left.retain(|i| *i != leader);
        load.await_progress(50).await;
        println!("{} left", left.len());
        if left.len() == 3 {
            same_hash(&cluster).await;
        }
    }
    let last = Etcdctl::of(&cluster, &left);
    let id = last.id(&cluster.peer_url(left[0]));
    last.refused(&["member", "remove", &id], "re-configuration failed due to not enough started members");
    let acknowledged = load.stop().await;
    verify(&cluster, left[0], &acknowledged).await;
    println!("{} acknowledged writes, all on the last member", acknowledged.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_serves_little_until_it_is_promoted() {
    let mut cluster = StoreCluster::start(1).await;
    let first = Etcdctl::of(&cluster, &[0]);
    first.run(&["put", "k", "v"]).unwrap();
    let learner = grow(&mut cluster, &first, &["--learner"]);
    let url = cluster.peer_url(learner);
    let id = first.id(&url);
    first.refused(&["member", "add", "x", "--learner", "--peer-urls=http://127.0.0.1:1"], "too many learner members");
    // Another URL as well: within a second, the same URLs would make the same id.
    let taken = format!("--peer-urls=http://127.0.0.1:1,{url}");
    first.refused(&["member", "add", "x", &taken], "etcdserver: Peer URLs already exists");
    let own = first.id(&cluster.peer_url(0));
    first.refused(&["member", "promote", &own], "etcdserver: can only promote a learner member");
    first.refused(&["member", "promote", "1234"], "etcdserver: member not found");

    let there = Etcdctl::of(&cluster, &[learner]);
    wait_for("the learner to have the data", SETTLED, || {
        there.run(&["get", "k", "--consistency=s", "--print-value-only"]).ok().filter(|value| value == "v\n")
    });
    for refused in [&["put", "k", "w"][..], &["get", "k"], &["member", "list"], &["lease", "list"], &["compact", "1"]] {
        there.refused(refused, "etcdserver: rpc not supported for learner");
    }
    let status = there.run(&["endpoint", "status"]).unwrap();
    assert_eq!(status.split(", ").nth(5), Some("true"), "{status}");

    let promoted = wait_for("the learner to be in sync", SETTLED, || match first.run(&["member", "promote", &id]) {
        Ok(output) => Some(output),
        Err(error) => {
            assert!(error.contains("can only promote a learner member which is in sync with leader"), "{error}");
            None
        }
    });
    assert!(promoted.starts_with(&format!("Member {id:>16} promoted in cluster")), "{promoted}");
    cluster.await_ready(learner).await;
    there.run(&["put", "k", "w"]).unwrap();
    assert_eq!(first.member(&url)[1..3], ["started".to_owned(), cluster.name(learner).to_owned()]);

    let mut members = ClusterClient::new(cluster.channel(learner));
    let list = members.member_list(pb::MemberListRequest { linearizable: true }).await.unwrap().into_inner();
    assert_eq!(list.header.as_ref().unwrap().revision, 0, "membership is not a part of the key space");
    assert!(list.members.iter().all(|member| !member.is_learner && !member.client_ur_ls.is_empty()));
    let bad = pb::MemberAddRequest { peer_ur_ls: vec!["127.0.0.1:1".to_owned()], is_learner: false };
    let bad = members.member_add(bad).await.unwrap_err();
    assert_eq!(
        (bad.code(), bad.message()),
        (tonic::Code::InvalidArgument, "etcdserver: given member URLs are invalid")
    );

    let elsewhere = "--peer-urls=http://127.0.0.1:1";
    first.run(&["member", "update", &id, elsewhere]).unwrap();
    assert_eq!(first.member("http://127.0.0.1:1")[0], id);
    first.run(&["member", "update", &id, &format!("--peer-urls={url}")]).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_answer_with_the_member_and_without_a_revision() {
    let cluster = StoreCluster::start(1).await;
    let mut members = ClusterClient::new(cluster.channel(0));
    let add = pb::MemberAddRequest { peer_ur_ls: vec!["http://127.0.0.1:1".to_owned()], is_learner: true };
    let added = members.member_add(add).await.unwrap().into_inner();
    let new = added.member.unwrap();
    assert!(new.id != 0 && new.name.is_empty() && new.client_ur_ls.is_empty() && new.is_learner, "{new:?}");
    assert!(added.members.contains(&new), "{:?}", added.members);
    let peer_ur_ls = vec!["http://127.0.0.1:2".to_owned()];
    let updated = members.member_update(pb::MemberUpdateRequest { id: new.id, peer_ur_ls }).await.unwrap().into_inner();
    let kept = updated.members.iter().find(|member| member.id == new.id).unwrap();
    assert!(kept.is_learner, "an update changes the URLs and nothing else: {kept:?}");
    let removed = members.member_remove(pb::MemberRemoveRequest { id: new.id }).await.unwrap().into_inner();
    for header in [added.header, updated.header, removed.header] {
        assert_eq!(header.unwrap().revision, 0, "membership is not a part of the key space");
    }
}
