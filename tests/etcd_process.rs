//! The program under the name `etcd`: its command line, environment, files, log lines, exit codes and sockets, as etcd's own
//! tools and the people who run it see them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]

mod support;

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::{KONTIKI, Process, client, free_ports, succeed, text, wait_for};

/// How long a member may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory with a link named `etcd`.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(KONTIKI, dir.path().join("etcd")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `etcd` with these words, in this directory and without an environment of its own.
    fn etcd(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.path("etcd"));
        command.args(words).current_dir(self.dir.path()).env_clear().stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.etcd(words).output().unwrap()
    }

    /// A running member; its log is `NAME.log`.
    fn start(&self, name: &str, command: &mut Command) -> Member {
        let log = self.path(&format!("{name}.log"));
        Member { process: Process::spawn(name, command, &log), log }
    }
}

struct Member {
    process: Process,
    log: PathBuf,
}

impl Member {
    fn lines(&self) -> Vec<Value> {
        let log = fs::read_to_string(&self.log).unwrap();
        // The last line may be half written.
        let end = log.rfind('\n').map_or(0, |end| end + 1);
        log[..end]
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
            .collect()
    }

    fn messages(&self) -> Vec<String> {
        self.lines().iter().map(|line| line["msg"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until the log has a line that contains `text`, as etcd's tools do.
    #[track_caller]
    fn await_line(&mut self, text: &str) {
        let log = self.log.clone();
        wait_for(text, PATIENCE, || {
            let lines = fs::read_to_string(&log).unwrap();
            assert!(lines.contains(text) || self.process.is_running(), "it ended before {text:?}:\n{lines}");
            lines.contains(text).then_some(())
        });
    }

    #[track_caller]
    fn await_ready(&mut self) {
        self.await_line("ready to serve client requests");
    }
}

/// The flags of a member alone on these ports.
fn alone(name: &str, client: u16, peer: u16) -> Vec<String> {
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    [
        ("--name", name.to_owned()),
        ("--listen-client-urls", client.clone()),
        ("--advertise-client-urls", client),
        ("--listen-peer-urls", peer.clone()),
        ("--initial-advertise-peer-urls", peer),
    ]
    .into_iter()
    .flat_map(|(flag, value)| [flag.to_owned(), value])
    .collect()
}

fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// Status line and body of a GET; `None` while nobody listens.
fn get(stream: impl Read + Write, path: &str) -> Option<(String, String)> {
    let mut stream = stream;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.lines().next()?.to_owned(), body.to_owned()))
}

fn get_tcp(port: u16, path: &str) -> Option<(String, String)> {
    get(TcpStream::connect(("127.0.0.1", port)).ok()?, path)
}

fn etcdctl(endpoint: &str, words: &[&str]) -> Command {
    let mut command = Command::new(client("etcdctl"));
    command.env("ETCDCTL_API", "3").args(["--endpoints", endpoint]).args(words);
    command
}

#[test]
fn the_version_has_etcds_four_lines() {
    let place = Place::new();
    for words in [&["--version"][..], &["-version", "--name", "a"], &["--version=true"]] {
        let output = place.run(words);
        assert!(output.status.success());
        let lines = text(&output.stdout);
        let lines: Vec<&str> = lines.lines().collect();
        let version = lines[0].strip_prefix("etcd Version: ").unwrap();
        let numbers: Vec<u32> = version.split('.').map(|number| number.parse().unwrap()).collect();
        assert!(numbers.len() == 3 && numbers >= vec![3, 6, 0], "{version}");
        assert!(lines[1].starts_with("Git SHA: ") && lines[2].starts_with("Go Version: "), "{lines:?}");
        assert!(lines[3].starts_with("Go OS/Arch: linux/") && lines.len() == 4, "{lines:?}");
    }
}

#[test]
fn a_command_line_that_cannot_be_read_ends_with_two_and_the_usage() {
    let place = Place::new();
    for (words, reason) in [
        (&["--nonsense"][..], "flag provided but not defined: -nonsense"),
        (&["--name"], "flag needs an argument: -name"),
        (&["--snapshot-count", "many"], "invalid value \"many\" for flag -snapshot-count: parse error"),
    ] {
        let output = place.run(words);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(errors.starts_with(reason) && errors.contains("Usage:\n\n  etcd [flags]"), "{words:?}: {errors}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn help_is_no_failure() {
    let place = Place::new();
    for word in ["--help", "-h"] {
        let output = place.run(&[word]);
        assert!(output.status.success());
        let help = text(&output.stdout);
        assert!(help.contains("  etcd [flags]") && help.contains("--initial-cluster-token 'etcd-cluster'"), "{help}");
    }
    let output = Command::new(KONTIKI).args(["store", "--help"]).output().unwrap();
    assert!(output.status.success() && text(&output.stdout).contains("  kontiki store [flags]"));
}

#[test]
fn what_cannot_be_used_ends_with_one_and_says_why() {
    let place = Place::new();
    for (words, reason) in [
        (&["start"][..], "\"start\" is not a valid flag"),
        (&["gateway", "start"], "etcd's proxies are not a part of Kontiki"),
        (&["--pre-vote", "false"], "\"false\" is not a valid flag"),
        (&["--listen-client-urls", "http://127.0.0.1:1"], "--advertise-client-urls is required when"),
        (&["--heartbeat-interval", "500"], "should be at least as 5 times as"),
        (&["--name", "z", "--initial-cluster", "a=http://localhost:2380"], "couldn't find local name \"z\""),
        (&["--feature-gates", "Nonsense=true"], "unrecognized feature gate: Nonsense"),
        (&["--listen-metrics-urls", "https://127.0.0.1:1"], "must be provided for metrics secure url"),
        (&["--config-file", "/none"], "cannot read the configuration file /none"),
        (
            &["--listen-peer-urls", "http://127.0.0.1:1,https://127.0.0.1:2", "--peer-auto-tls"],
            "with http or with https",
        ),
    ] {
        let output = place.run(words);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {errors}");
        let told = errors.lines().last().unwrap();
        let line: Value = serde_json::from_str(told).unwrap_or_else(|_| panic!("{words:?}: {errors}"));
        assert!(line["error"].as_str().unwrap().contains(reason), "{words:?}: {told}");
    }
}

#[test]
fn a_variable_beside_its_flag_is_fatal() {
    let place = Place::new();
    let output = place.etcd(&["--name", "a"]).env("ETCD_NAME", "a").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    assert!(errors.contains("conflicting environment variable"), "{errors}");
    assert!(errors.contains("is shadowed by corresponding command-line flag"), "{errors}");
}

#[test]
fn a_directory_of_etcds_own_is_refused_with_the_way_out() {
    let place = Place::new();
    fs::create_dir_all(place.path("default.etcd/member/snap")).unwrap();
    fs::write(place.path("default.etcd/member/snap/db"), "x").unwrap();
    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("kontiki snapshot restore"), "{}", text(&output.stderr));
    assert!(!place.path("default.etcd/member/log").exists());
}

#[test]
fn a_member_starts_and_stops_as_etcds_tools_expect() {
    let place = Place::new();
    let ports = free_ports(3);
    let mut words = alone("m1", ports[0], ports[1]);
    words.extend(["--snapshot-catchup-entries=1000", "-snapshot-count", "100"].map(str::to_owned));
    words.extend(["--experimental-initial-corrupt-check=true", "--enable-v2=false"].map(str::to_owned));
    words.push(format!("--listen-metrics-urls=http://127.0.0.1:{}", ports[2]));
    // What systemd listens on.
    let notified = UnixDatagram::bind(place.path("notify")).unwrap();
    notified.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = place.etcd(&strs(&words));
    command.env("NOTIFY_SOCKET", place.path("notify")).env("ETCD_UNSUPPORTED_ARCH", "arm").env("ETCD_NONSENSE", "1");
    let mut member = place.start("m1", &mut command);
    member.await_ready();
    let mut notice = [0; 32];
    let length = notified.recv(&mut notice).unwrap();
    assert_eq!(&notice[..length], b"READY=1");
    let log = fs::read_to_string(&member.log).unwrap();
    for part in [
        r#""snapshot-catchup-entries":1000"#,
        "serving client traffic",
        "serving metrics",
        "published local member to cluster through raft",
        "--enable-v2 is accepted and has no effect",
        "--experimental-initial-corrupt-check is deprecated, use --feature-gates=InitialCorruptCheck=true instead",
        r#""environment-variable":"ETCD_NONSENSE=1""#,
    ] {
        assert!(log.contains(part), "{part}\n{log}");
    }
    assert!(!log.contains("UNSUPPORTED_ARCH"), "{log}");
    for dir in ["m1.etcd", "m1.etcd/member"] {
        assert_eq!(fs::metadata(place.path(dir)).unwrap().permissions().mode() & 0o777, 0o700, "{dir}");
    }
    let health = get_tcp(ports[2], "/health?serializable=true").unwrap();
    assert!(health.0.contains("200") && health.1.contains(r#""health":"true""#), "{health:?}");
    assert!(get_tcp(ports[2], "/version").unwrap().0.contains("404"));
    assert!(get_tcp(ports[0], "/version").unwrap().1.contains("etcdserver"));
    let status = member.process.terminate(PATIENCE);
    assert_eq!((status.signal(), status.code()), (Some(15), None), "a service that was stopped");
    for line in member.lines() {
        for field in ["level", "ts", "caller", "msg"] {
            assert!(line[field].is_string(), "{line}");
        }
        assert!(line["level"] != "error" && line["level"] != "fatal", "{line}");
    }
    assert_eq!(member.messages().last().unwrap(), "closed etcd server");
}

#[test]
fn a_member_runs_from_a_configuration_file() {
    let place = Place::new();
    let ports = free_ports(2);
    let (client, peer) = (format!("http://127.0.0.1:{}", ports[0]), format!("http://127.0.0.1:{}", ports[1]));
    let file = format!(
        "name: from-file\ndata-dir: data\nlisten-client-urls: {client}\nadvertise-client-urls: {client}\n\
         listen-peer-urls: {peer}\ninitial-advertise-peer-urls: {peer}\ninitial-cluster: from-file={peer}\n\
         heartbeat-interval: 50\nelection-timeout: 500\nwatch-progress-notify-interval: 5000000000\n\
         log-outputs: [stderr, etcd.log]\nenable-v2: false\nnonsense: 1\n"
    );
    fs::write(place.path("etcd.yaml"), file).unwrap();
    let mut member = place.start("m1", &mut place.etcd(&["--config-file", "etcd.yaml", "--name", "ignored"]));
    member.await_ready();
    let log = fs::read_to_string(&member.log).unwrap();
    for part in [
        r#""name":"from-file""#,
        r#""heartbeat-interval":"50ms""#,
        r#""key":"nonsense""#,
        "loaded server configuration",
    ] {
        assert!(log.contains(part), "{part}\n{log}");
    }
    succeed(&mut etcdctl(&client, &["put", "a", "b"]));
    drop(member);
    assert_eq!(fs::read_to_string(place.path("etcd.log")).unwrap(), fs::read_to_string(place.path("m1.log")).unwrap());
    assert!(place.path("data/member/log").is_dir());
}

#[test]
fn what_kubeadm_passes_is_accepted_but_for_tls() {
    let place = Place::new();
    let ports = free_ports(3);
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    // kubeadm's static pod, with http instead of https.
    let words = [
        format!("--advertise-client-urls={}", url(ports[0])),
        "--cert-file=/etc/kubernetes/pki/etcd/server.crt".into(),
        "--client-cert-auth=true".into(),
        format!("--data-dir={}", place.path("data").display()),
        "--experimental-initial-corrupt-check=true".into(),
        "--experimental-watch-progress-notify-interval=5s".into(),
        format!("--initial-advertise-peer-urls={}", url(ports[1])),
        format!("--initial-cluster=cp1={}", url(ports[1])),
        "--key-file=/etc/kubernetes/pki/etcd/server.key".into(),
        format!("--listen-client-urls={}", url(ports[0])),
        format!("--listen-metrics-urls={}", url(ports[2])),
        format!("--listen-peer-urls={}", url(ports[1])),
        "--name=cp1".into(),
        "--peer-cert-file=/etc/kubernetes/pki/etcd/peer.crt".into(),
        "--peer-client-cert-auth=true".into(),
        "--peer-key-file=/etc/kubernetes/pki/etcd/peer.key".into(),
        "--peer-trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt".into(),
        "--snapshot-count=10000".into(),
        "--trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt".into(),
    ];
    let mut member = place.start("cp1", &mut place.etcd(&strs(&words)));
    member.await_ready();
    // Liveness and startup probes.
    for path in ["/health?exclude=NOSPACE&serializable=true", "/health?serializable=false", "/livez", "/readyz"] {
        let (status, _) = get_tcp(ports[2], path).unwrap();
        assert!(status.contains("200"), "{path}: {status}");
    }
    let levels: Vec<Value> = member.lines().iter().map(|line| line["level"].clone()).collect();
    assert!(!levels.contains(&"error".into()), "{levels:?}");
}

#[test]
fn clients_are_served_on_unix_sockets() {
    let place = Place::new();
    let ports = free_ports(2);
    let mut words = alone("m1", ports[0], ports[1]);
    // etcd's form: a socket named localhost:PORT in the working directory.
    let endpoint = format!("unix://localhost:{}", ports[0]);
    words[3] = format!("{},{endpoint}", words[3]);
    let socket = place.path(&format!("localhost:{}", ports[0]));
    // One that a killed process left behind.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let mut member = place.start("m1", &mut place.etcd(&strs(&words)));
    member.await_ready();
    let (status, body) = get(UnixStream::connect(&socket).unwrap(), "/version").unwrap();
    assert!(status.contains("200") && body.contains("etcdserver"), "{status} {body}");
    let mut put = etcdctl(&endpoint, &["put", "a", "b"]);
    succeed(put.current_dir(place.dir.path()));
    let got = succeed(&mut etcdctl(&format!("http://127.0.0.1:{}", ports[0]), &["get", "a", "--print-value-only"]));
    assert_eq!(text(&got.stdout), "b\n");
    member.process.terminate(PATIENCE);
    assert!(!socket.exists());
}

#[test]
fn http_moves_to_its_own_port_where_it_has_one() {
    let place = Place::new();
    let ports = free_ports(3);
    let mut words = alone("m1", ports[0], ports[1]);
    words.push(format!("--listen-client-http-urls=http://127.0.0.1:{}", ports[2]));
    let mut member = place.start("m1", &mut place.etcd(&strs(&words)));
    member.await_ready();
    assert!(get_tcp(ports[2], "/health").unwrap().0.contains("200"));
    assert_eq!(get_tcp(ports[0], "/health"), None);
    succeed(&mut etcdctl(&format!("http://127.0.0.1:{}", ports[0]), &["put", "a", "b"]));
    let http = etcdctl(&format!("http://127.0.0.1:{}", ports[2]), &["--command-timeout=2s", "put", "a", "b"]).output();
    assert!(!http.unwrap().status.success());
}

#[test]
fn the_log_goes_where_it_is_sent() {
    let place = Place::new();
    let ports = free_ports(2);
    let mut words = alone("m1", ports[0], ports[1]);
    words.extend(["--log-outputs=log/etcd.log", "--log-format=console", "--log-level=warn"].map(str::to_owned));
    let refused = place.run(&strs(&words));
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("log/etcd.log"), "{}", text(&refused.stderr));
    fs::create_dir(place.path("log")).unwrap();
    words.push("--enable-pprof".into());
    let member = place.start("m1", &mut place.etcd(&strs(&words)));
    wait_for("a client to be served", PATIENCE, || {
        get_tcp(ports[0], "/readyz").filter(|(status, _)| status.contains("200"))
    });
    let log = wait_for("a line", PATIENCE, || {
        Some(fs::read_to_string(place.path("log/etcd.log")).unwrap()).filter(|log| log.ends_with('\n'))
    });
    let parts: Vec<&str> = log.lines().next().unwrap().split('\t').collect();
    assert_eq!((parts[1], parts[3]), ("warn", "--enable-pprof is accepted and has no effect"), "{log}");
    assert_eq!(fs::read_to_string(&member.log).unwrap(), "");
}

#[test]
fn nobody_waits_for_who_reads_the_log() {
    let place = Place::new();
    let ports = free_ports(2);
    let mut words = alone("m1", ports[0], ports[1]);
    words.extend(["--log-outputs=log", "--log-format=console"].map(str::to_owned));
    succeed(Command::new("mkfifo").arg(place.path("log")));
    // Both ends, so that a member can open it before anyone reads.
    let mut options = OpenOptions::new();
    let mut pipe = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(place.path("log")).unwrap();
    let full = loop {
        if let Err(error) = pipe.write(&[b'\n'; 4096]) {
            break error;
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    let mut member = place.start("m1", &mut place.etcd(&strs(&words)));
    wait_for("a client to be served", PATIENCE, || {
        get_tcp(ports[0], "/readyz").filter(|(status, _)| status.contains("200"))
    });
    succeed(&mut etcdctl(&format!("http://127.0.0.1:{}", ports[0]), &["put", "a", "b"]));
    let mut log = Vec::new();
    wait_for("the log to come when it is read", PATIENCE, || {
        // Nothing to read right now is an error, and what was read before it is kept.
        let _ = pipe.read_to_end(&mut log);
        text(&log).contains("ready to serve client requests").then_some(())
    });
    assert!(text(&log).contains("\tRunning: \t"), "{}", text(&log));
    while pipe.write(&[b'\n'; 4096]).is_ok() {}
    member.process.signal(rustix::process::Signal::TERM);
    wait_for("the member to stop", PATIENCE, || (!member.process.is_running()).then_some(()));
}

#[test]
fn three_members_say_nothing_of_errors_when_undisturbed() {
    let place = Place::new();
    let ports = free_ports(6);
    let cluster: Vec<String> = (0..3).map(|i| format!("m{i}=http://127.0.0.1:{}", ports[2 * i + 1])).collect();
    let start = |i: usize| {
        let mut words = alone(&format!("m{i}"), ports[2 * i], ports[2 * i + 1]);
        words.extend(["--initial-cluster".to_owned(), cluster.join(",")]);
        words.extend(
            ["--initial-cluster-token=new", "--heartbeat-interval=29", "--election-timeout=271"].map(str::to_owned),
        );
        place.start(&format!("m{i}"), &mut place.etcd(&strs(&words)))
    };
    let mut first = start(0);
    // It serves, but what it has to tell the cluster needs a majority; only then is it ready.
    first.await_line("serving client traffic");
    let health = format!("http://127.0.0.1:{}", ports[0]);
    let alone = get(TcpStream::connect(health.trim_start_matches("http://")).unwrap(), "/readyz/linearizable_read");
    assert!(alone.is_some_and(|(status, _)| status.contains("503")));
    assert!(!first.messages().iter().any(|message| message.contains("ready to serve client requests")));
    let mut members = vec![first, start(1), start(2)];
    members.iter_mut().for_each(Member::await_ready);
    for member in &members {
        let said = member.messages();
        let at = |text: &str| said.iter().position(|message| message.contains(text));
        assert!(
            at("published local member to cluster through raft") < at("ready to serve client requests"),
            "{said:?}"
        );
    }
    for i in 0..3 {
        succeed(&mut etcdctl(&format!("http://127.0.0.1:{}", ports[2 * i]), &["put", "a", "b"]));
    }
    for member in &members {
        member.process.signal(rustix::process::Signal::TERM);
    }
    for member in &mut members {
        wait_for("a member to stop", PATIENCE, || (!member.process.is_running()).then_some(()));
        let bad: Vec<Value> =
            member.lines().into_iter().filter(|line| line["level"] == "error" || line["level"] == "fatal").collect();
        assert!(bad.is_empty(), "{bad:?}");
    }
}

#[test]
fn a_log_on_a_device_of_its_own_is_found_again() {
    let place = Place::new();
    let ports = free_ports(2);
    let mut words = alone("m1", ports[0], ports[1]);
    words.extend(["--wal-dir=wal".to_owned(), "--unsafe-no-fsync".to_owned()]);
    let endpoint = format!("http://127.0.0.1:{}", ports[0]);
    let mut member = place.start("m1", &mut place.etcd(&strs(&words)));
    member.await_ready();
    succeed(&mut etcdctl(&endpoint, &["put", "a", "b"]));
    member.process.kill();
    assert!(is_used(&place.path("wal")) && !place.path("m1.etcd/member/log").exists());
    let mut member = place.start("m1-again", &mut place.etcd(&strs(&words)));
    member.await_ready();
    let got = succeed(&mut etcdctl(&endpoint, &["get", "a", "--print-value-only"]));
    assert_eq!(text(&got.stdout), "b\n");
}

fn is_used(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}
