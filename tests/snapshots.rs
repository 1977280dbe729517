//! Coming from etcd, leaving for it, and backups: snapshots between Debian's etcd, etcdctl and three members, as processes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::{KONTIKI, Process, client, free_ports, succeed, text, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);

/// `etcdctl` of one endpoint.
struct Etcdctl(String);

impl Etcdctl {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(client("etcdctl"));
        command.env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", &self.0);
        // Elections take their time on a machine that is busy with other tests.
        command.env("ETCDCTL_COMMAND_TIMEOUT", "60s").args(arguments);
        command
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        text(&succeed(&mut self.command(arguments)).stdout)
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[arguments, &["--write-out=json"]].concat())).unwrap()
    }

    /// Keys, values, versions and revisions of everything at `revision` (0: now).
    #[track_caller]
    fn contents(&self, revision: i64) -> Value {
        self.json(&["get", "", "--from-key", &format!("--rev={revision}")])["kvs"].clone()
    }

    /// The current revision.
    #[track_caller]
    fn revision(&self) -> i64 {
        self.json(&["get", "x"])["header"]["revision"].as_i64().unwrap()
    }

    /// Every event from `revision` up to the one of the key `end`, as etcdctl prints them.
    #[track_caller]
    fn history(&self, revision: i64, end: &str) -> Vec<String> {
        let watch = ["watch", "", "--prefix", &format!("--rev={revision}")];
        let mut child = self.command(&watch).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut history = Vec::new();
        while history.last().is_none_or(|line| line != end) {
            history.push(receiver.recv_timeout(PATIENCE).expect("a line of the watch"));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        history
    }

    /// Leases with their granted seconds and keys, by id.
    #[track_caller]
    fn leases(&self) -> Vec<(String, i64, Value)> {
        let listed = self.json(&["lease", "list"])["leases"].clone();
        let ids = listed.as_array().cloned().unwrap_or_default();
        let lease = |lease: &Value| {
            let id = format!("{:x}", lease["id"].as_i64().unwrap());
            let times = self.json(&["lease", "timetolive", &id, "--keys"]);
            (id, times["granted-ttl"].as_i64().unwrap(), times["keys"].clone())
        };
        let mut leases: Vec<_> = ids.iter().map(lease).collect();
        leases.sort_by(|a, b| a.0.cmp(&b.0));
        leases
    }

    #[track_caller]
    fn await_ready(&self) {
        wait_for(&format!("{} to answer", self.0), PATIENCE, || {
            self.command(&["get", "ready"]).output().unwrap().status.success().then_some(())
        });
    }
}

/// A cluster whose members' directories are made by somebody else.
struct Cluster {
    names: Vec<String>,
    clients: Vec<u16>,
    peers: Vec<u16>,
    processes: Vec<Process>,
    logs: Vec<PathBuf>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.processes.clear();
        if std::thread::panicking() {
            for log in &self.logs {
                let text = std::fs::read_to_string(log).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(15).collect();
                eprintln!("--- {}", log.display());
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

impl Cluster {
    fn of(size: usize) -> Self {
        let ports = free_ports(2 * size);
        let names = (0..size).map(|i| format!("m{i}")).collect();
        Self {
            names,
            clients: ports[..size].to_vec(),
            peers: ports[size..].to_vec(),
            processes: Vec::new(),
            logs: Vec::new(),
        }
    }

    fn peer(&self, i: usize) -> String {
        format!("http://127.0.0.1:{}", self.peers[i])
    }

    /// The flags that a restore and a start have in common.
    fn flags(&self, i: usize, dir: &Path) -> Vec<String> {
        let cluster: Vec<String> =
            (0..self.names.len()).map(|i| format!("{}={}", self.names[i], self.peer(i))).collect();
        let flags = [
            ("name", self.names[i].clone()),
            ("data-dir", dir.join(&self.names[i]).display().to_string()),
            ("initial-cluster", cluster.join(",")),
            ("initial-cluster-token", "restored".to_owned()),
            ("initial-advertise-peer-urls", self.peer(i)),
        ];
        flags.iter().map(|(flag, value)| format!("--{flag}={value}")).collect()
    }

    fn listen_flags(&self, i: usize) -> Vec<String> {
        let url = format!("http://127.0.0.1:{}", self.clients[i]);
        let flags =
            [("listen-client-urls", &url), ("advertise-client-urls", &url), ("listen-peer-urls", &self.peer(i))];
        flags.iter().map(|(flag, value)| format!("--{flag}={value}")).collect()
    }

    #[track_caller]
    fn restore(&self, snapshot: &Path, dir: &Path, more: &[&str]) {
        for i in 0..self.names.len() {
            let mut command = Command::new(KONTIKI);
            command.args(["snapshot", "restore"]).arg(snapshot).args(self.flags(i, dir)).args(more);
            let said = text(&succeed(&mut command).stdout);
            assert_eq!(said.lines().filter(|line| line.starts_with("added member")).count(), self.names.len());
        }
    }

    /// Starts every member of `program` and waits until each answers.
    fn start(&mut self, program: &[&str], dir: &Path) -> Vec<Etcdctl> {
        for i in 0..self.names.len() {
            let mut command = Command::new(program[0]);
            command.args(&program[1..]).args(self.flags(i, dir)).args(self.listen_flags(i));
            let log = dir.join(format!("{}.log", self.names[i]));
            self.processes.push(Process::spawn(&self.names[i], &mut command, &log));
            self.logs.push(log);
        }
        let members: Vec<Etcdctl> =
            self.clients.iter().map(|port| Etcdctl(format!("http://127.0.0.1:{port}"))).collect();
        members.iter().for_each(Etcdctl::await_ready);
        members
    }

    fn start_kontiki(&mut self, dir: &Path) -> Vec<Etcdctl> {
        self.start(&[KONTIKI, "store"], dir)
    }

    fn start_etcd(&mut self, dir: &Path) -> Vec<Etcdctl> {
        let etcd = client("etcd").display().to_string();
        self.start(&[&etcd], dir)
    }
}

/// Values of every kind: several versions, deletions, transactions with many changes, large values, leases, and a compacted
/// past. Answers the revision of the compaction.
fn write_history(etcdctl: &Etcdctl) -> i64 {
    for n in 0..20 {
        etcdctl.run(&["put", &format!("many/{}", n % 7), &format!("value {n}")]);
    }
    etcdctl.run(&["del", "many/3"]);
    let compacted = etcdctl.revision();
    etcdctl.run(&["put", "many/3", "again"]);
    let txn = "\nput txn/a 1\nput txn/b 2\nput txn/c 3\ndel many/4\n\n\n";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), txn).unwrap();
    let mut command = etcdctl.command(&["txn"]);
    let output = command.stdin(std::fs::File::open(file.path()).unwrap()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(etcdctl.run(&["get", "txn/c"]), "txn/c\n3\n");
    let large = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(large.path(), vec![b'x'; 1_000_000]).unwrap();
    let mut command = etcdctl.command(&["put", "large"]);
    assert!(command.stdin(std::fs::File::open(large.path()).unwrap()).output().unwrap().status.success());
    for (seconds, key) in [("600", "leased/a"), ("7000", "leased/b")] {
        let lease = etcdctl.run(&["lease", "grant", seconds]).split_whitespace().nth(1).unwrap().to_owned();
        etcdctl.run(&["put", key, "x", &format!("--lease={lease}")]);
    }
    etcdctl.run(&["del", "many/0"]);
    etcdctl.run(&["put", "last", "end"]);
    etcdctl.run(&["compaction", &compacted.to_string(), "--physical"]);
    compacted
}

/// The same history in the same revisions, as far as any client can see.
#[track_caller]
fn assert_same(a: &Etcdctl, b: &Etcdctl, compacted: i64) {
    let revision = a.revision();
    assert_eq!(revision, b.revision());
    for revision in [0, compacted, compacted + 1, compacted + 2, revision - 3, revision - 1, revision] {
        assert_eq!(a.contents(revision), b.contents(revision), "at revision {revision}");
    }
    for etcdctl in [a, b] {
        let output = etcdctl.command(&["get", "x", &format!("--rev={}", compacted - 1)]).output().unwrap();
        let error = text(&output.stderr);
        assert!(error.contains("required revision has been compacted"), "{error}");
    }
    // Not from the compaction itself: the etcd of today keeps a deletion there, Debian's drops it.
    assert_eq!(a.history(compacted + 1, "end"), b.history(compacted + 1, "end"));
    assert_eq!(a.leases(), b.leases());
}

#[track_caller]
fn assert_members_agree(members: &[Etcdctl]) {
    let hashes: Vec<Value> = members.iter().map(|m| m.json(&["endpoint", "hashkv"])[0]["HashKV"].clone()).collect();
    let of = |hash: &Value| (hash["hash"].clone(), hash["compact_revision"].clone());
    assert!(hashes.iter().all(|hash| of(hash) == of(&hashes[0])), "{hashes:?}");
    let answer = members[0].json(&["member", "list"]);
    assert_eq!(answer["members"].as_array().unwrap().len(), members.len(), "{answer}");
}

fn save(etcdctl: &Etcdctl, file: &Path) {
    let said = etcdctl.run(&["snapshot", "save", file.to_str().unwrap()]);
    assert!(said.contains(&format!("Snapshot saved at {}", file.display())), "{said}");
}

fn kontiki(arguments: &[&str]) -> Output {
    Command::new(KONTIKI).args(arguments).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn status(file: &Path) -> Value {
    let output = kontiki(&["snapshot", "status", file.to_str().unwrap(), "--output", "json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What etcd's own tool says.
#[track_caller]
fn etcd_status(file: &Path) -> Value {
    let offline = Etcdctl(String::new());
    serde_json::from_str(&offline.run(&["snapshot", "status", file.to_str().unwrap(), "-w", "json"])).unwrap()
}

#[test]
fn three_members_take_over_what_etcd_saved() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = Cluster::of(1);
    let etcd = old.start_etcd(dir.path()).pop().unwrap();
    let compacted = write_history(&etcd);
    let file = dir.path().join("snapshot.db");
    save(&etcd, &file);
    let (ours, theirs) = (status(&file), etcd_status(&file));
    for field in ["hash", "revision", "totalSize"] {
        assert_eq!(ours[field], theirs[field], "{field} of {ours} and {theirs}");
    }

    let new_dir = dir.path().join("new");
    std::fs::create_dir(&new_dir).unwrap();
    let mut new = Cluster::of(3);
    new.restore(&file, &new_dir, &[]);
    let members = new.start_kontiki(&new_dir);
    members.iter().for_each(|member| assert_same(&etcd, member, compacted));
    assert_members_agree(&members);

    // History goes on where it ended, on every member; a restart changes nothing.
    let revision = etcd.revision();
    members[1].run(&["put", "after", "restore"]);
    members.iter().for_each(|member| assert_eq!(member.revision(), revision + 1));
    new.processes.clear();
    let members = new.start_kontiki(&new_dir);
    members.iter().for_each(|member| assert_eq!(member.run(&["get", "after"]), "after\nrestore\n"));
    assert_members_agree(&members);
}

#[test]
fn a_member_takes_over_the_data_directory_of_a_stopped_etcd() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::of(1);
    let etcd = cluster.start_etcd(dir.path()).pop().unwrap();
    write_history(&etcd);
    let contents = etcd.contents(0);
    let file = dir.path().join("m0/member/snap/db");
    let new_dir = dir.path().join("new");
    let restore = ["snapshot", "restore", file.to_str().unwrap(), "--data-dir", new_dir.to_str().unwrap()];
    let output = kontiki(&[&restore[..], &["--skip-hash-check"]].concat());
    let error = text(&output.stderr);
    assert!(error.contains("is in use: stop etcd first"), "{error}");
    assert!(cluster.processes[0].terminate(PATIENCE).success() || !cluster.processes[0].is_running());
    cluster.processes.clear();

    // As it is, the directory is refused, and the message says what to do.
    let mut start = Command::new(KONTIKI);
    start.arg("store").args(cluster.flags(0, dir.path())).args(cluster.listen_flags(0));
    let output = start.stdin(Stdio::null()).output().unwrap();
    let error = text(&output.stderr);
    assert!(!output.status.success() && error.contains("kontiki snapshot restore"), "{error}");

    let output = kontiki(&restore);
    let error = text(&output.stderr);
    assert_eq!(error, "kontiki: snapshot missing hash but --skip-hash-check=false\n");
    assert!(!new_dir.exists() || std::fs::read_dir(&new_dir).unwrap().next().is_none());
    cluster.restore(&file, &new_dir, &["--skip-hash-check"]);
    let member = cluster.start_kontiki(&new_dir).pop().unwrap();
    assert_eq!(member.contents(0), contents);
}

#[test]
fn etcd_takes_over_what_three_members_saved() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = Cluster::of(3);
    let members = old.start_kontiki(dir.path());
    let compacted = write_history(&members[0]);
    members[1].await_ready();
    let file = dir.path().join("snapshot.db");
    save(&members[1], &file);
    assert_eq!(std::fs::metadata(&file).unwrap().len() % 512, 32);
    let (ours, theirs) = (status(&file), etcd_status(&file));
    assert_eq!(ours["version"], "3.6.0");
    for field in ["hash", "revision", "totalSize"] {
        assert_eq!(ours[field], theirs[field], "{field} of {ours} and {theirs}");
    }
    assert_eq!(ours["revision"], members[0].revision());

    let new_dir = dir.path().join("new");
    std::fs::create_dir(&new_dir).unwrap();
    let mut new = Cluster::of(1);
    let restore = ["snapshot", "restore", file.to_str().unwrap()];
    succeed(Etcdctl(String::new()).command(&restore).args(new.flags(0, &new_dir)));
    let etcd = new.start_etcd(&new_dir).pop().unwrap();
    assert_same(&members[0], &etcd, compacted);
    // And it works on: writes, compaction, a restart.
    etcd.run(&["put", "after", "restore"]);
    etcd.run(&["compaction", &etcd.revision().to_string(), "--physical"]);
    assert!(new.processes[0].is_running());
    new.processes.clear();
    let etcd = new.start_etcd(&new_dir).pop().unwrap();
    assert_eq!(etcd.run(&["get", "after"]), "after\nrestore\n");
}

#[test]
fn a_snapshot_under_writes_is_one_revision() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::of(1);
    let member = cluster.start_kontiki(dir.path()).pop().unwrap();
    // Each transaction sets both keys to the same value; so does every revision that a snapshot may show.
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (stop, endpoint, dir) = (stop.clone(), member.0.clone(), dir.path().to_owned());
        move || {
            let (etcdctl, input) = (Etcdctl(endpoint), dir.join("txn"));
            let mut written = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                written += 1;
                std::fs::write(&input, format!("\nput a {written}\nput b {written}\n\n\n")).unwrap();
                let mut txn = etcdctl.command(&["txn"]);
                assert!(txn.stdin(std::fs::File::open(&input).unwrap()).output().unwrap().status.success());
            }
            written
        }
    });
    let mut files: Vec<PathBuf> = Vec::new();
    let mut revisions = Vec::new();
    for n in 0..4 {
        let before = member.revision();
        wait_for("more writes", PATIENCE, || (member.revision() > before + 3).then_some(()));
        let file = dir.path().join(format!("snapshot.{n}"));
        let output = kontiki(&["snapshot", "save", "--endpoints", &member.0, file.to_str().unwrap()]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let revision = status(&file)["revision"].as_i64().unwrap();
        assert!(revision >= before + 3 && revision <= member.revision());
        revisions.push(revision);
        files.push(file);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(writer.join().unwrap() > 12);
    assert!(revisions.is_sorted_by(|a, b| a < b), "{revisions:?}");
    let new_dir = dir.path().join("new");
    std::fs::create_dir(&new_dir).unwrap();
    let mut new = Cluster::of(1);
    new.restore(&files[3], &new_dir, &[]);
    let restored = new.start_kontiki(&new_dir).pop().unwrap();
    assert_eq!(restored.revision(), revisions[3]);
    assert_eq!(restored.contents(0), member.contents(revisions[3]));
    assert_eq!(restored.run(&["get", "a", "--print-value-only"]), restored.run(&["get", "b", "--print-value-only"]));
}

#[test]
fn a_bumped_restore_turns_watchers_of_the_past_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::of(1);
    let member = cluster.start_kontiki(dir.path()).pop().unwrap();
    for n in 0..3 {
        member.run(&["put", &format!("foo{n}"), &format!("value {n}")]);
    }
    member.run(&["del", "foo0"]);
    let (contents, revision) = (member.contents(0), member.revision());
    let file = dir.path().join("snapshot.db");
    save(&member, &file);
    let refused = kontiki(&["snapshot", "restore", file.to_str().unwrap(), "--bump-revision", "1000"]);
    assert!(text(&refused.stderr).contains("--mark-compacted required"), "{}", text(&refused.stderr));

    let new_dir = dir.path().join("new");
    std::fs::create_dir(&new_dir).unwrap();
    let mut new = Cluster::of(3);
    new.restore(&file, &new_dir, &["--bump-revision", "1000", "--mark-compacted"]);
    let members = new.start_kontiki(&new_dir);
    let bumped = revision + 1000;
    for member in &members {
        assert_eq!(member.revision(), bumped);
        assert_eq!(member.contents(0), contents);
        for start in [1, revision + 1, bumped - 1] {
            let watch = member.command(&["watch", "foo", "--prefix", &format!("--rev={start}")]).output().unwrap();
            let error = text(&watch.stderr);
            assert!(error.contains("required revision has been compacted"), "from {start}: {error}");
        }
    }
    assert_members_agree(&members);
    members[0].run(&["put", "foo9", "end"]);
    assert_eq!(members[2].history(bumped + 1, "end"), ["PUT", "foo9", "end"]);
    // A snapshot of such a store keeps the revision, in etcd's hands too.
    let again = dir.path().join("again.db");
    save(&members[0], &again);
    assert_eq!(status(&again)["revision"], bumped + 1);
}

#[test]
fn a_damaged_file_and_a_used_directory_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::of(1);
    let member = cluster.start_kontiki(dir.path()).pop().unwrap();
    member.run(&["put", "a", "b"]);
    let file = dir.path().join("snapshot.db");
    save(&member, &file);
    let new_dir = dir.path().join("new");
    let restore = |file: &Path| {
        let output = kontiki(&["snapshot", "restore", file.to_str().unwrap(), "--data-dir", new_dir.to_str().unwrap()]);
        (output.status.success(), text(&output.stderr))
    };
    let damaged = dir.path().join("damaged.db");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&damaged, &bytes).unwrap();
    let (_, error) = restore(&damaged);
    let sum = bytes[bytes.len() - 32..].iter().map(u8::to_string).collect::<Vec<_>>().join(" ");
    assert!(error.starts_with(&format!("kontiki: expected sha256 [{sum}], got [")), "{error}");
    std::fs::write(&damaged, &bytes[..5000]).unwrap();
    assert_eq!(restore(&damaged), (false, "kontiki: snapshot missing hash but --skip-hash-check=false\n".to_owned()));
    let output = kontiki(&["snapshot", "status", damaged.to_str().unwrap()]);
    let error = text(&output.stderr);
    assert!(error.contains("not a bbolt file: it ends early: 5000 bytes"), "{error}");
    assert!(!new_dir.exists(), "nothing is left of a refused restore");

    assert!(restore(&file).0);
    let (done, error) = restore(&file);
    assert!(!done);
    assert_eq!(error, format!("kontiki: data-dir {new_dir:?} not empty or could not be read\n"));
    // And it starts.
    assert!(new_dir.join("member/state/current").exists());
}
