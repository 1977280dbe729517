//! The published test suite of the `etcd-client` crate, unmodified, against one member and against three.
//!
//! The suite speaks to `localhost:2379` and adds a member called `node4`, so everything runs in a network of its own with a
//! hosts file of its own. Two of its cases do not fit a server as such, and are told where they are left out.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use support::{KONTIKI, Process, client, succeed, text, wait_for};

const ENDPOINT: &str = "http://localhost:2379";

/// Where `cargo xtask test` built one of the suite's programs.
fn suite(variable: &str) -> PathBuf {
    let program = std::env::var_os(variable);
    program.unwrap_or_else(|| panic!("{variable} is not set; `cargo xtask test` builds the suite and sets it")).into()
}

/// Runs `work` on a thread whose network has nothing but a loopback device, and where names resolve as `hosts` says.
fn isolated(hosts: &str, work: impl FnOnce() + Send) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hosts");
    std::fs::write(&file, format!("127.0.0.1 localhost\n{hosts}")).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
            use rustix::thread::UnshareFlags;
            // SAFETY: this thread shares no file descriptors or memory that the two namespaces would touch.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }.unwrap();
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            mount_bind(&file, "/etc/hosts").unwrap();
            succeed(Command::new("/bin/busybox").args(["ip", "link", "set", "lo", "up"]));
            work();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A member as the suite's own compose file starts it: `node1` on the default ports, the others beside it.
fn start(dir: &Path, node: u16, cluster: &[u16], state: &str, flags: &[&str]) -> Process {
    let name = format!("node{node}");
    let peer = |node: u16| {
        if node == 4 { "http://node4:2380".to_owned() } else { format!("http://127.0.0.1:{}", 2378 + 2 * node) }
    };
    let listen_peer = if node == 4 { "http://127.0.0.4:2380".to_owned() } else { peer(node) };
    let listen_client = format!("http://127.0.0.1:{}", 2377 + 2 * node);
    let members: Vec<String> = cluster.iter().map(|node| format!("node{node}={}", peer(*node))).collect();
    let mut command = Command::new(KONTIKI);
    command.arg("store").args(["--name", &name]).arg("--data-dir").arg(dir.join(&name));
    command.args(["--listen-client-urls", &listen_client, "--advertise-client-urls", &listen_client]);
    command.args(["--listen-peer-urls", &listen_peer, "--initial-advertise-peer-urls", &peer(node)]);
    command.args(["--initial-cluster", &members.join(","), "--initial-cluster-state", state]);
    command.args(["--auth-token-ttl", "2"]).args(flags);
    Process::spawn(&name, &mut command, &dir.join(format!("{name}.log")))
}

fn etcdctl(arguments: &[&str]) -> Command {
    let mut command = Command::new(client("etcdctl"));
    command.env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", ENDPOINT).args(arguments).stdin(Stdio::null());
    command
}

fn await_ready() {
    wait_for("the cluster", Duration::from_secs(20), || {
        etcdctl(&["endpoint", "health"]).output().unwrap().status.success().then_some(())
    });
}

/// The suite switches authentication on by itself, and expects this user.
fn add_root() {
    succeed(&mut etcdctl(&["user", "add", "root:rootpwd"]));
    succeed(&mut etcdctl(&["role", "add", "root"]));
    succeed(&mut etcdctl(&["user", "grant-role", "root", "root"]));
}

/// Runs one of the suite's programs to the end.
#[track_caller]
fn run(program: &Path, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}: {}\n{out}\n{err}", program.display(), output.status);
    let passed = out.lines().rev().find(|line| line.starts_with("test result: ok"));
    println!("{}: {}", program.display(), passed.expect("a summary"));
    assert!(!out.contains(" 0 passed"), "{out}");
}

#[test]
fn the_suite_passes_against_one_member() {
    let dir = tempfile::tempdir().unwrap();
    isolated("", || {
        // The suite asks for small requests, to see a streamed range come in parts.
        let _member = start(dir.path(), 1, &[1], "new", &["--max-request-bytes", "10240"]);
        await_ready();
        add_root();
        // Its case of a growing cluster is run against three members below.
        run(&suite("KONTIKI_ETCD_CLIENT_TESTS"), &["--include-ignored", "--skip", "test_cluster"]);
        run(&suite("KONTIKI_ETCD_CLIENT_NAMESPACE_TESTS"), &["--include-ignored"]);
    });
}

#[test]
fn the_suite_passes_against_three_members() {
    let dir = tempfile::tempdir().unwrap();
    isolated("127.0.0.4 node4\n", || {
        let _members =
            [1, 2, 3].map(|node| start(dir.path(), node, &[1, 2, 3], "new", &["--max-request-bytes", "10240"]));
        await_ready();
        add_root();
        // `test_move_leader` expects a header in the answer of a move that happened. etcd has none there (its server
        // answers an empty message), which the suite's authors could not see: against their one member nothing moves.
        let skipped = ["--include-ignored", "--skip", "test_cluster", "--skip", "test_move_leader"];
        run(&suite("KONTIKI_ETCD_CLIENT_TESTS"), &skipped);
        run(&suite("KONTIKI_ETCD_CLIENT_NAMESPACE_TESTS"), &["--include-ignored"]);
        grow(dir.path());
    });
}

/// The suite adds a fourth member as a learner, expects somebody to start it, promotes and removes it.
fn grow(dir: &Path) {
    std::thread::scope(|scope| {
        let suite = suite("KONTIKI_ETCD_CLIENT_TESTS");
        let test = scope.spawn(move || run(&suite, &["--include-ignored", "--exact", "test_cluster"]));
        wait_for("the suite to add its member", Duration::from_secs(20), || {
            let members = etcdctl(&["member", "list"]).output().unwrap();
            text(&members.stdout).contains("http://node4:2380").then_some(())
        });
        let mut node4 = start(dir, 4, &[1, 2, 3, 4], "existing", &["--max-request-bytes", "10240"]);
        if let Err(panic) = test.join() {
            std::panic::resume_unwind(panic);
        }
        wait_for("the removed member to stop by itself", Duration::from_secs(20), || {
            (!node4.is_running()).then_some(())
        });
    });
}
