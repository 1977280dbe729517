//! The operator's round with unmodified etcdctl: a full store, compaction, defragmentation, disarming; then the rest of
//! etcd's Maintenance service.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]

mod support;

use std::process::{Command, Stdio};

use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::downgrade_request::DowngradeAction;
use kontiki_api::etcdserverpb::maintenance_client::MaintenanceClient;
use support::store::StoreCluster;
use support::{client, succeed, text};
use tonic::Code;
use tonic::transport::Channel;

fn etcdctl(endpoints: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(client("etcdctl"));
    command.env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", endpoints).args(arguments).stdin(Stdio::null());
    command
}

#[track_caller]
fn run(endpoints: &str, arguments: &[&str]) -> String {
    text(&succeed(&mut etcdctl(endpoints, arguments)).stdout)
}

#[track_caller]
fn refused(endpoints: &str, arguments: &[&str]) -> String {
    let output = etcdctl(endpoints, arguments).output().unwrap();
    assert!(!output.status.success(), "etcdctl {} succeeded", arguments.join(" "));
    text(&output.stderr)
}

const FULL: &str = "etcdserver: mvcc: database space exceeded";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_is_brought_back_with_etcdctl() {
    let quota = (13 * 4096).to_string();
    let mut cluster = StoreCluster::start_with(3, &["--quota-backend-bytes", &quota]).await;
    let all = cluster.endpoints();
    let one = cluster.client_url(0);
    let value = "x".repeat(4096);
    let mut puts = 0;
    let error = loop {
        let output = etcdctl(&one, &["put", &format!("k{puts}"), &value]).output().unwrap();
        if !output.status.success() {
            break text(&output.stderr);
        }
        puts += 1;
    };
    assert!(error.contains(FULL), "{error}");
    assert!((8..13).contains(&puts), "{puts} puts fitted");
    let alarms = run(&all, &["alarm", "list"]);
    assert!(alarms.starts_with("memberID:") && alarms.contains("alarm:NOSPACE"), "{alarms}");
    // The alarm outlives its members, and every member obeys it.
    cluster.kill(1);
    cluster.start_member(1);
    cluster.await_ready(1).await;
    assert_eq!(run(&cluster.client_url(1), &["alarm", "list"]), alarms);
    for i in 0..3 {
        let member = cluster.client_url(i);
        assert!(refused(&member, &["put", "small", "v"]).contains(FULL));
        assert!(refused(&member, &["lease", "grant", "60"]).contains(FULL));
        assert!(run(&member, &["get", "k0", "--print-value-only"]).starts_with("xxx"));
        let status = run(&member, &["endpoint", "status", "--write-out=json"]);
        assert!(status.contains("alarm:NOSPACE "), "{status}");
        assert!(status.contains(&format!("\"dbSizeQuota\":{quota}")) || !status.contains("dbSizeQuota"), "{status}");
    }
    assert_eq!(run(&one, &["del", "k", "--prefix"]), format!("{puts}\n"));
    let fields = run(&one, &["get", "k0", "--write-out=fields"]);
    let revision = fields.lines().find_map(|line| line.strip_prefix("\"Revision\" : ")).unwrap();
    run(&one, &["compaction", revision]);
    let defragmented = etcdctl(&all, &["defrag"]).output().unwrap();
    let said = text(&defragmented.stdout) + &text(&defragmented.stderr);
    assert_eq!(said.matches("Finished defragmenting etcd member").count(), 3, "{said}");
    assert!(refused(&one, &["put", "small", "v"]).contains(FULL), "only disarming ends it");
    assert!(run(&one, &["alarm", "disarm"]).contains("alarm:NOSPACE"));
    assert_eq!(run(&all, &["alarm", "list"]), "");
    run(&one, &["put", "small", "v"]);
    let hashes = run(&all, &["endpoint", "hashkv"]);
    let hashes: Vec<&str> = hashes.lines().filter_map(|line| line.split(", ").nth(1)).collect();
    assert!(hashes.len() == 3 && hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    for i in 0..3 {
        let mut maintenance = MaintenanceClient::new(cluster.channel(i));
        let status = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
        assert!(status.db_size < 4096 && status.errors.is_empty(), "{status:?}");
        assert_eq!(status.db_size_quota, 13 * 4096);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintenance_answers_as_etcd_does() {
    let cluster = StoreCluster::start(3).await;
    run(&cluster.client_url(0), &["put", "k", "v"]);
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let mut hashes = Vec::new();
    let mut ids = Vec::new();
    let mut leaders = Vec::new();
    for i in 0..3 {
        // One linearizable read, and every member says at once who leads, and who it is itself.
        cluster.await_ready(i).await;
        let mut maintenance = MaintenanceClient::new(cluster.channel(i));
        let status = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
        let hash = maintenance.hash(pb::HashRequest {}).await.unwrap().into_inner();
        let hash_kv = maintenance.hash_kv(pb::HashKvRequest::default()).await.unwrap().into_inner();
        let answered: Vec<u64> = [status.header, hash.header, hash_kv.header].map(|h| h.unwrap().member_id).into();
        assert!(answered.iter().all(|id| *id == answered[0] && !ids.contains(id)), "forwarded? {answered:?} {ids:?}");
        ids.push(answered[0]);
        leaders.push(status.leader);
        hashes.push(hash.hash);
        let defragmented = maintenance.defragment(pb::DefragmentRequest {}).await.unwrap().into_inner();
        assert_eq!(defragmented.header, None);
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    assert_eq!(leaders, [ids[leader]; 3]);
    let status = move_leader(cluster.channel(follower), ids[follower]).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "etcdserver: not leader"));
    let status = move_leader(cluster.channel(leader), 99).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "etcdserver: bad leader transferee"));
    assert_eq!(move_leader(cluster.channel(leader), ids[leader]).await.unwrap().header, None);
    assert_eq!(move_leader(cluster.channel(leader), ids[follower]).await.unwrap().header, None);
    assert_eq!(cluster.leader().await, follower);
    downgrade(MaintenanceClient::new(cluster.channel(0))).await;
}

async fn move_leader(channel: Channel, target_id: u64) -> Result<pb::MoveLeaderResponse, tonic::Status> {
    let answer = MaintenanceClient::new(channel).move_leader(pb::MoveLeaderRequest { target_id }).await?;
    Ok(answer.into_inner())
}

async fn downgrade(mut maintenance: MaintenanceClient<Channel>) {
    let mut ask = async |action: DowngradeAction, version: &str| {
        let request = pb::DowngradeRequest { action: action.into(), version: version.to_owned() };
        let answer = maintenance.downgrade(request).await;
        let info = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner().downgrade_info.unwrap();
        let answer = answer.map(|answer| answer.into_inner().version).map_err(|status| status.message().to_owned());
        (answer, info.enabled, info.target_version)
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    // The cluster's version is decided once everybody has been asked.
    while ask(DowngradeAction::Validate, "3.5").await.0.is_err() {
        assert!(std::time::Instant::now() < deadline, "{:?}", ask(DowngradeAction::Validate, "3.5").await);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let error = |text: &str| Err(format!("etcdserver: {text}"));
    assert_eq!(ask(DowngradeAction::Validate, "x").await.0, error("wrong downgrade target version format"));
    assert_eq!(ask(DowngradeAction::Enable, "3.4").await.0, error("invalid downgrade target version"));
    assert_eq!(ask(DowngradeAction::Cancel, "").await.0, error("no inflight downgrade job"));
    let enabled = ask(DowngradeAction::Enable, "3.5").await;
    assert_eq!(enabled, (Ok("3.6.0".to_owned()), true, "3.5.0".to_owned()));
    let cancelled = ask(DowngradeAction::Cancel, "").await;
    assert!(cancelled.0.is_ok() && !cancelled.1 && cancelled.2.is_empty(), "{cancelled:?}");
}
