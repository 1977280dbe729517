//! Unmodified etcdctl against every member of a three-member cluster.

#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use support::store::StoreCluster;
use support::{client, succeed, text};

struct Etcdctl {
    endpoints: String,
}

impl Etcdctl {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(client("etcdctl"));
        command.env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", &self.endpoints).args(arguments);
        command
    }

    /// Standard output of a command that succeeds and says nothing on standard error.
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        let output = succeed(&mut self.command(arguments));
        text(&output.stdout)
    }

    #[track_caller]
    fn check(&self, arguments: &[&str], expected: &str) {
        assert_eq!(self.run(arguments), expected, "etcdctl {}", arguments.join(" "));
    }

    /// Standard error of a command that fails.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).stdin(Stdio::null()).output().unwrap();
        assert!(!output.status.success(), "etcdctl {} succeeded", arguments.join(" "));
        text(&output.stderr)
    }

    /// A command that reads from standard input.
    #[track_caller]
    fn with_input(&self, arguments: &[&str], input: &str) -> String {
        let mut child = self.command(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "etcdctl {}", arguments.join(" "));
        text(&output.stdout)
    }
}

fn each_member(cluster: &StoreCluster) -> impl Iterator<Item = Etcdctl> + '_ {
    (0..cluster.len()).map(|i| Etcdctl { endpoints: cluster.client_url(i) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_works_against_every_member() {
    let cluster = StoreCluster::start(3).await;
    for (n, etcdctl) in each_member(&cluster).enumerate() {
        keys(&etcdctl, &format!("{n}/"));
        transactions(&etcdctl, &format!("{n}/"));
        leases(&etcdctl, &format!("{n}/"));
        watching(&etcdctl, &format!("{n}/"));
        compaction(&etcdctl, &format!("{n}/"));
    }
    let all = Etcdctl { endpoints: cluster.endpoints() };
    members_and_endpoints(&all);
}

fn keys(etcdctl: &Etcdctl, p: &str) {
    etcdctl.check(&["put", &format!("{p}a"), "one"], "OK\n");
    etcdctl.check(&["put", &format!("{p}b"), "two"], "OK\n");
    etcdctl.check(&["put", &format!("{p}a"), "ONE", "--prev-kv"], &format!("OK\n{p}a\none\n"));
    etcdctl.check(&["get", &format!("{p}a")], &format!("{p}a\nONE\n"));
    etcdctl.check(&["get", &format!("{p}missing")], "");
    etcdctl.check(&["get", p, "--prefix", "--keys-only"], &format!("{p}a\n\n{p}b\n\n"));
    etcdctl.check(&["get", p, "--prefix", "--order=DESCEND", "--limit=1"], &format!("{p}b\ntwo\n"));
    etcdctl.check(&["get", p, "--prefix", "--print-value-only", "--consistency=s"], "ONE\ntwo\n");
    assert!(etcdctl.run(&["get", p, "--prefix", "--limit=1", "--write-out=fields"]).contains("\"Count\" : 2"));
    etcdctl.check(&["del", &format!("{p}b"), "--prev-kv"], &format!("1\n{p}b\ntwo\n"));
    etcdctl.check(&["del", &format!("{p}b")], "0\n");
    let error = etcdctl.refused(&["put", "", "x"]);
    assert!(error.contains("etcdserver: key is not provided"), "{error}");
}

fn transactions(etcdctl: &Etcdctl, p: &str) {
    let input = format!("value(\"{p}a\") = \"ONE\"\n\nput {p}t yes\nget {p}t\n\nput {p}t no\n\n");
    assert_eq!(etcdctl.with_input(&["txn"], &input), format!("SUCCESS\n\nOK\n\n{p}t\nyes\n"));
    let input = format!("version(\"{p}t\") > \"5\"\n\nput {p}t more\n\ndel {p}t\n\n");
    assert_eq!(etcdctl.with_input(&["txn"], &input), "FAILURE\n\n1\n");
}

fn leases(etcdctl: &Etcdctl, p: &str) {
    let granted = etcdctl.run(&["lease", "grant", "300"]);
    let id = granted.split_whitespace().nth(1).unwrap().to_owned();
    assert_eq!(granted, format!("lease {id} granted with TTL(300s)\n"));
    etcdctl.check(&["put", &format!("{p}leased"), "x", &format!("--lease={id}")], "OK\n");
    let left = etcdctl.run(&["lease", "timetolive", &id, "--keys"]);
    assert!(left.contains("granted with TTL(300s)") && left.contains(&format!("{p}leased")), "{left}");
    assert!(etcdctl.run(&["lease", "list"]).contains(&id));
    etcdctl.check(&["lease", "keep-alive", "--once", &id], &format!("lease {id} keepalived with TTL(300)\n"));
    etcdctl.check(&["lease", "revoke", &id], &format!("lease {id} revoked\n"));
    etcdctl.check(&["get", &format!("{p}leased")], "");
    let error = etcdctl.refused(&["lease", "revoke", &id]);
    assert!(error.contains("etcdserver: requested lease not found"), "{error}");
    // The shortest lease there is: its key goes by itself.
    let short = etcdctl.run(&["lease", "grant", "1"]).split_whitespace().nth(1).unwrap().to_owned();
    etcdctl.check(&["put", &format!("{p}short"), "x", &format!("--lease={short}")], "OK\n");
    support::wait_for("the lease to expire", Duration::from_secs(15), || {
        etcdctl.run(&["get", &format!("{p}short")]).is_empty().then_some(())
    });
}

fn watching(etcdctl: &Etcdctl, p: &str) {
    let key = format!("{p}watched");
    let revision = revision(&etcdctl.run(&["put", &key, "before", "--write-out=fields"]));
    let mut child = etcdctl
        .command(&["watch", &key, &format!("--rev={revision}"), "--prev-kv"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let next = |count: usize| -> Vec<String> {
        (0..count).map(|_| lines.recv_timeout(Duration::from_secs(10)).expect("a line of the watch")).collect()
    };
    assert_eq!(next(3), ["PUT", &key, "before"]);
    etcdctl.run(&["put", &key, "after"]);
    assert_eq!(next(5), ["PUT", &key, "before", &key, "after"]);
    etcdctl.run(&["del", &key]);
    assert_eq!(next(5), ["DELETE", &key, "after", &key, ""]);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The revision in the header of an answer printed with `--write-out=fields`.
fn revision(fields: &str) -> String {
    fields.lines().find_map(|line| line.strip_prefix("\"Revision\" : ")).unwrap().to_owned()
}

fn compaction(etcdctl: &Etcdctl, p: &str) {
    let revision = revision(&etcdctl.run(&["put", &format!("{p}c"), "1", "--write-out=fields"]));
    etcdctl.run(&["put", &format!("{p}c"), "2"]);
    etcdctl.check(&["compaction", &revision, "--physical"], &format!("compacted revision {revision}\n"));
    let error = etcdctl.refused(&["compaction", &revision]);
    assert!(error.contains("etcdserver: mvcc: required revision has been compacted"), "{error}");
    let error = etcdctl.refused(&["get", &format!("{p}c"), "--rev=1"]);
    assert!(error.contains("etcdserver: mvcc: required revision has been compacted"), "{error}");
    let error = etcdctl.refused(&["get", &format!("{p}c"), "--rev=999999999"]);
    assert!(error.contains("etcdserver: mvcc: required revision is a future revision"), "{error}");
}

fn members_and_endpoints(etcdctl: &Etcdctl) {
    let members = etcdctl.run(&["member", "list"]);
    assert_eq!(members.lines().filter(|line| line.contains(", started, m")).count(), 3, "{members}");
    let status = etcdctl.run(&["endpoint", "status"]);
    assert_eq!(status.lines().count(), 3, "{status}");
    assert_eq!(status.lines().filter(|line| line.contains(", true, ")).count(), 1, "one leads: {status}");
    // etcdctl 3.4 says this on standard error.
    let output = succeed(&mut etcdctl.command(&["endpoint", "health"]));
    let health = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(health.matches("is healthy").count(), 3, "{health}");
    let hashes = etcdctl.run(&["endpoint", "hashkv"]);
    let hashes: Vec<&str> = hashes.lines().filter_map(|line| line.split(", ").nth(1)).collect();
    assert!(hashes.len() == 3 && hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
}
