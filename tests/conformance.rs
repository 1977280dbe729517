//! The same requests to Debian's etcd and to Kontiki, and the answers compared field by field.
//!
//! Ids of clusters and members and Raft terms differ by nature and are left out; everything else (revisions, counts, order,
//! more, errors with code and text) must be the same, except where etcd 3.4 and 3.6 differ by contract: those cases are
//! listed where they are asked.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]

#[path = "conformance/ask.rs"]
mod ask;
#[path = "conformance/random.rs"]
mod random;
#[path = "conformance/script.rs"]
mod script;
mod support;
#[path = "conformance/watches.rs"]
mod watches;

use std::process::Command;
use std::time::Duration;

use ask::{Ask, Server};
use support::store::StoreCluster;
use support::{Process, client, free_ports};

/// Debian's etcd as one member, and Kontiki as one member.
struct Pair {
    etcd: Server,
    kontiki: Server,
    _process: Process,
    _cluster: StoreCluster,
    _dir: tempfile::TempDir,
}

impl Pair {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports = free_ports(2);
        let urls = ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect::<Vec<_>>();
        let mut command = Command::new(client("etcd"));
        command.arg("--data-dir").arg(dir.path().join("etcd")).args(["--name", "m0", "--log-level", "error"]);
        command.args(["--listen-client-urls", &urls[0], "--advertise-client-urls", &urls[0]]);
        command.args(["--listen-peer-urls", &urls[1], "--initial-advertise-peer-urls", &urls[1]]);
        command.args(["--initial-cluster", &format!("m0={}", urls[1])]);
        let process = Process::spawn("etcd", &mut command, &dir.path().join("etcd.log"));
        let cluster = StoreCluster::start(1).await;
        let etcd = Server::new("etcd", &urls[0]);
        etcd.await_ready().await;
        let kontiki = Server::new("kontiki", &cluster.client_url(0));
        Self { etcd, kontiki, _process: process, _cluster: cluster, _dir: dir }
    }

    /// Asks both and compares; `step` names the place in the script.
    #[track_caller]
    fn compare(&self, step: &str, asked: &str, etcd: &str, kontiki: &str) {
        assert_eq!(etcd, kontiki, "\n{step}: {asked}\n   etcd: {etcd}\nkontiki: {kontiki}\n");
    }

    async fn ask(&self, step: &str, request: &Ask) {
        let etcd = self.etcd.answer(request).await;
        let kontiki = self.kontiki.answer(request).await;
        self.compare(step, &format!("{request:?}"), &etcd, &kontiki);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_of_requests_is_answered_like_etcd() {
    let pair = Pair::start().await;
    for (number, request) in script::steps().iter().enumerate() {
        pair.ask(&format!("step {number}"), request).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_requests_are_answered_like_etcd() {
    let seed = std::env::var("KONTIKI_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("KONTIKI_SEED={seed}");
    let pair = Pair::start().await;
    let mut requests = random::Requests::new(seed);
    for number in 0..3000 {
        pair.ask(&format!("KONTIKI_SEED={seed}, request {number}"), &requests.next()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_are_answered_like_etcd() {
    let pair = Pair::start().await;
    for case in watches::cases() {
        let etcd = watches::run(&pair.etcd, &case).await;
        let kontiki = watches::run(&pair.kontiki, &case).await;
        pair.compare(case.name, &format!("{:?}", case.requests), &etcd.join("\n"), &kontiki.join("\n"));
    }
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
