//! etcdctl's commands that combine requests: locks, elections, mirrors, moving the leader, its own checks.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use support::store::StoreCluster;
use support::{client, succeed, text, wait_for};

const LIMIT: Duration = Duration::from_secs(20);

fn etcdctl(endpoint: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(client("etcdctl"));
    command.env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", endpoint).args(arguments).stdin(Stdio::null());
    command
}

fn run(endpoint: &str, arguments: &[&str]) -> String {
    text(&succeed(&mut etcdctl(endpoint, arguments)).stdout)
}

/// A command that goes on, and the lines that it says.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(endpoint: &str, arguments: &[&str]) -> Self {
        let mut child = etcdctl(endpoint, arguments).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(LIMIT).expect("a line in time")
    }

    fn says_nothing(&self) -> bool {
        self.lines.recv_timeout(Duration::from_millis(300)).is_err()
    }

    /// SIGINT: etcdctl gives back what it holds.
    fn interrupt(mut self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        wait_for("etcdctl to end", LIMIT, || self.child.try_wait().unwrap());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_exclude_each_other_across_members() {
    let cluster = StoreCluster::start(3).await;
    let holder = Running::start(&cluster.client_url(0), &["lock", "mutex"]);
    let key = holder.line();
    assert!(key.starts_with("mutex/"), "{key}");
    let waiter = Running::start(&cluster.client_url(1), &["lock", "mutex"]);
    assert!(waiter.says_nothing(), "two hold the lock");
    holder.interrupt();
    assert!(waiter.line().starts_with("mutex/"));
    waiter.interrupt();
    let command = run(&cluster.client_url(2), &["lock", "mutex", "echo", "held"]);
    assert_eq!(command, "held\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_has_one_leader_and_its_observers_hear_of_the_next() {
    let cluster = StoreCluster::start(3).await;
    let first = Running::start(&cluster.client_url(0), &["elect", "office", "first"]);
    assert!(first.line().starts_with("office/"));
    assert_eq!(first.line(), "first");
    let second = Running::start(&cluster.client_url(1), &["elect", "office", "second"]);
    let observer = Running::start(&cluster.client_url(2), &["elect", "--listen", "office"]);
    assert!(observer.line().starts_with("office/"));
    assert_eq!(observer.line(), "first");
    assert!(second.says_nothing(), "two are elected");
    first.interrupt();
    second.line();
    assert_eq!(second.line(), "second");
    observer.line();
    assert_eq!(observer.line(), "second");
    second.interrupt();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_follows() {
    let (source, target) = (StoreCluster::start(1).await, StoreCluster::start(1).await);
    let (from, to) = (source.client_url(0), target.client_url(0));
    run(&from, &["put", "m/before", "1"]);
    let mirror = Running::start(&from, &["make-mirror", to.strip_prefix("http://").unwrap(), "--prefix", "m/"]);
    let mirrored = |key: &str, value: &str| {
        wait_for(&format!("{key} to be mirrored"), LIMIT, || {
            (run(&to, &["get", key, "--print-value-only"]) == format!("{value}\n")).then_some(())
        });
    };
    mirrored("m/before", "1");
    run(&from, &["put", "m/after", "2"]);
    mirrored("m/after", "2");
    run(&from, &["del", "m/before"]);
    wait_for("the deletion to be mirrored", LIMIT, || run(&to, &["get", "m/before"]).is_empty().then_some(()));
    drop(mirror);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_where_it_is_told_to() {
    let cluster = StoreCluster::start(3).await;
    let leader = cluster.leader().await;
    let target = (leader + 1) % 3;
    let members = run(&cluster.client_url(0), &["member", "list"]);
    let name = format!(" m{target},");
    let id = members.lines().find(|line| line.contains(&name)).unwrap().split(',').next().unwrap();
    let moved = run(&cluster.client_url(leader), &["move-leader", id]);
    assert!(moved.starts_with("Leadership transferred from ") && moved.contains(id), "{moved}");
    assert_eq!(cluster.leader().await, target);
    let refused = etcdctl(&cluster.client_url(leader), &["move-leader", id]).output().unwrap();
    assert!(!refused.status.success());
    assert!(run(&cluster.client_url(0), &["version"]).contains("API version: 3."));
}
