//! TLS towards clients and between members, with etcdctl and certificates made by the test.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use support::pki::{Authority, Certificate};
use support::{KONTIKI, Process, client, free_ports, text, wait_for};

/// Members with the same flags but for names and addresses.
struct Members {
    dir: tempfile::TempDir,
    clients: Vec<String>,
    peers: Vec<String>,
    processes: Vec<Process>,
}

impl Members {
    fn new(count: usize, client_scheme: &str, peer_scheme: &str) -> Self {
        let ports = free_ports(2 * count);
        let url = |scheme: &str, port: &u16| format!("{scheme}://127.0.0.1:{port}");
        Self {
            dir: tempfile::tempdir().unwrap(),
            clients: ports[..count].iter().map(|port| url(client_scheme, port)).collect(),
            peers: ports[count..].iter().map(|port| url(peer_scheme, port)).collect(),
            processes: Vec::new(),
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Starts the next member; `listen` is added to its client URLs.
    fn start(&mut self, flags: &[String]) {
        let number = self.processes.len();
        let name = format!("m{number}");
        let cluster: Vec<String> = self.peers.iter().enumerate().map(|(n, url)| format!("m{n}={url}")).collect();
        let (client, peer) = (&self.clients[number], &self.peers[number]);
        let mut command = Command::new(KONTIKI);
        command.arg("store").args(["--name", &name]).arg("--data-dir").arg(self.path().join(&name));
        command.args(["--listen-client-urls", client, "--advertise-client-urls", client]);
        command.args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]);
        command.args(["--initial-cluster", &cluster.join(",")]).args(flags);
        let log = self.log(number);
        self.processes.push(Process::spawn(&name, &mut command, &log));
    }

    fn log(&self, number: usize) -> std::path::PathBuf {
        self.path().join(format!("m{number}.log"))
    }

    fn logged(&self, number: usize) -> String {
        std::fs::read_to_string(self.log(number)).unwrap_or_default()
    }

    fn await_ready(&self) {
        for number in 0..self.processes.len() {
            wait_for(&format!("m{number} to serve"), Duration::from_secs(20), || {
                self.logged(number).contains("ready to serve client requests").then_some(())
            });
        }
    }
}

fn flag(name: &str, value: &Path) -> Vec<String> {
    vec![format!("--{name}"), value.to_str().unwrap().to_owned()]
}

/// What serves with a certificate and asks callers for one of the same authority.
fn mutual(prefix: &str, authority: &Authority, own: &Certificate) -> Vec<String> {
    let files = [("cert-file", &own.cert), ("key-file", &own.key), ("trusted-ca-file", &authority.ca)];
    let mut flags: Vec<String> = files.iter().flat_map(|(name, path)| flag(&format!("{prefix}{name}"), path)).collect();
    flags.push(format!("--{prefix}client-cert-auth"));
    flags
}

fn etcdctl(endpoints: &str, ca: &Path, own: Option<&Certificate>, arguments: &[&str]) -> Output {
    let mut command = Command::new(client("etcdctl"));
    command.env("ETCDCTL_API", "3").args(["--endpoints", endpoints, "--dial-timeout=3s", "--command-timeout=5s"]);
    command.arg("--cacert").arg(ca);
    if let Some(own) = own {
        command.arg("--cert").arg(&own.cert).arg("--key").arg(&own.key);
    }
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn works(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[track_caller]
fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "it worked: {}", text(&output.stdout));
    text(&output.stderr)
}

#[test]
fn clients_show_a_certificate_that_is_trusted_and_not_revoked() {
    let mut members = Members::new(1, "https", "http");
    let (ours, theirs) = (Authority::new(members.path(), "ours"), Authority::new(members.path(), "theirs"));
    let server = ours.issue("server", 1);
    let (good, stolen) = (ours.issue("good", 2), ours.issue("stolen", 3));
    let stranger = theirs.issue("stranger", 4);
    let mut flags = mutual("", &ours, &server);
    flags.extend(flag("client-crl-file", &ours.revoke("revoked", &[&stolen])));
    members.start(&flags);
    members.await_ready();
    let url = members.clients[0].clone();
    assert_eq!(works(&etcdctl(&url, &ours.ca, Some(&good), &["put", "k", "v"])), "OK\n");
    refused(&etcdctl(&url, &ours.ca, None, &["get", "k"]));
    refused(&etcdctl(&url, &ours.ca, Some(&stranger), &["get", "k"]));
    refused(&etcdctl(&url, &ours.ca, Some(&stolen), &["get", "k"]));
    let plain = url.replace("https", "http");
    refused(&etcdctl(&plain, &ours.ca, None, &["get", "k"]));
    // The client, too, finds out who answers.
    refused(&etcdctl(&url, &theirs.ca, Some(&good), &["get", "k"]));
    assert!(members.logged(0).contains("rejected connection on client endpoint"), "{}", members.logged(0));
    assert_eq!(works(&etcdctl(&url, &ours.ca, Some(&good), &["get", "k", "--print-value-only"])), "v\n");
}

#[test]
fn a_renewed_certificate_is_used_without_a_restart() {
    let mut members = Members::new(1, "https", "http");
    let (old, new) = (Authority::new(members.path(), "old"), Authority::new(members.path(), "new"));
    let own = old.issue("server", 1);
    let mut flags = flag("cert-file", &own.cert);
    flags.extend(flag("key-file", &own.key));
    members.start(&flags);
    members.await_ready();
    let url = members.clients[0].clone();
    works(&etcdctl(&url, &old.ca, None, &["put", "k", "v"]));
    // Half a change is no change: the certificate does not fit the key.
    let renewed = new.issue("renewed", 2);
    std::fs::copy(&renewed.cert, &own.cert).unwrap();
    works(&etcdctl(&url, &old.ca, None, &["get", "k"]));
    std::fs::copy(&renewed.key, &own.key).unwrap();
    works(&etcdctl(&url, &new.ca, None, &["get", "k"]));
    refused(&etcdctl(&url, &old.ca, None, &["get", "k"]));
}

#[test]
fn one_port_serves_plaintext_and_tls() {
    let mut members = Members::new(1, "https", "http");
    let authority = Authority::new(members.path(), "ca");
    let own = authority.issue("server", 1);
    let (secure, plain) = (members.clients[0].clone(), members.clients[0].replace("https", "http"));
    members.clients[0] = format!("{secure},{plain}");
    let mut flags = flag("cert-file", &own.cert);
    flags.extend(flag("key-file", &own.key));
    members.start(&flags);
    members.await_ready();
    works(&etcdctl(&secure, &authority.ca, None, &["put", "k", "v"]));
    let output =
        Command::new(client("etcdctl")).env("ETCDCTL_API", "3").args(["--endpoints", &plain, "get", "k"]).output();
    assert_eq!(works(&output.unwrap()), "k\nv\n");
    let range = r#"{"key":"aw=="}"#;
    let over_tls = https(connect(&secure), &authority.ca, None, "/v3/kv/range", range);
    assert!(over_tls.starts_with("HTTP/1.1 200 OK\r\n") && over_tls.contains(r#""count":"1""#), "{over_tls}");
    let over_tcp = http(connect(&plain), "/v3/kv/range", range);
    assert!(over_tcp.starts_with("HTTP/1.1 200 OK\r\n") && over_tcp.contains(r#""count":"1""#), "{over_tcp}");
}

#[test]
fn a_unix_socket_speaks_tls_too() {
    let mut members = Members::new(1, "https", "http");
    let authority = Authority::new(members.path(), "ca");
    let own = authority.issue("server", 1);
    let socket = members.path().join("client.sock");
    let secure = members.clients[0].clone();
    members.clients[0] = format!("{secure},unixs://{}", socket.display());
    let mut flags = flag("cert-file", &own.cert);
    flags.extend(flag("key-file", &own.key));
    members.start(&flags);
    members.await_ready();
    works(&etcdctl(&secure, &authority.ca, None, &["put", "k", "v"]));
    let stream = UnixStream::connect(&socket).unwrap();
    let got = https(stream, &authority.ca, None, "/v3/kv/range", r#"{"key":"aw=="}"#);
    assert!(got.starts_with("HTTP/1.1 200 OK\r\n") && got.contains(r#""count":"1""#), "{got}");
    let plain = UnixStream::connect(&socket).unwrap();
    assert!(!http(plain, "/v3/kv/range", "{}").starts_with("HTTP/1.1 200"), "a unixs socket is for TLS alone");
}

fn connect(url: &str) -> TcpStream {
    TcpStream::connect(url.rsplit_once('/').unwrap().1).unwrap()
}

/// The whole answer to a POST; nothing where the connection was closed instead.
fn http(mut stream: impl Read + Write, path: &str, body: &str) -> String {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}");
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
    let mut answer = Vec::new();
    // A peer that closes without the farewell of TLS has still said what it had to say.
    let _ = stream.read_to_end(&mut answer);
    text(&answer)
}

fn https(stream: impl Read + Write, ca: &Path, own: Option<&Certificate>, path: &str, body: &str) -> String {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        None => config.with_no_client_auth(),
        Some(own) => {
            let certificate = CertificateDer::from_pem_file(&own.cert).unwrap();
            let key = PrivateKeyDer::from_pem_file(&own.key).unwrap();
            config.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    };
    let connection = rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    http(rustls::StreamOwned::new(connection, stream), path, body)
}

#[test]
fn members_trust_each_other_by_certificate_and_nobody_else() {
    let mut members = Members::new(3, "http", "https");
    let (ours, theirs) = (Authority::new(members.path(), "ours"), Authority::new(members.path(), "theirs"));
    for number in 0..2 {
        let own = ours.issue(&format!("peer{number}"), number);
        members.start(&mutual("peer-", &ours, &own));
    }
    let stranger = theirs.issue("stranger", 9);
    members.start(&mutual("peer-", &theirs, &stranger));
    let put = |n: usize| {
        let mut command = Command::new(client("etcdctl"));
        command.env("ETCDCTL_API", "3").args([
            "--endpoints",
            &members.clients[n],
            "--command-timeout=2s",
            "put",
            "k",
            "v",
        ]);
        command.output().unwrap()
    };
    wait_for("the two to elect", Duration::from_secs(20), || put(0).status.success().then_some(()));
    works(&put(1));
    refused(&put(2));
    wait_for("the stranger to be told of", Duration::from_secs(10), || {
        (0..2).any(|n| members.logged(n).contains("rejected connection on peer endpoint")).then_some(())
    });
}

#[test]
fn certificates_are_made_where_asked_for() {
    let mut members = Members::new(3, "https", "https");
    for _ in 0..3 {
        members.start(&["--auto-tls".to_owned(), "--peer-auto-tls".to_owned()]);
    }
    members.await_ready();
    for number in 0..3 {
        let url = &members.clients[number];
        let mut command = Command::new(client("etcdctl"));
        command.env("ETCDCTL_API", "3").args([
            "--endpoints",
            url,
            "--insecure-skip-tls-verify",
            "--insecure-transport=false",
        ]);
        assert_eq!(works(&command.args(["put", "k", "v"]).output().unwrap()), "OK\n");
        assert!(members.path().join(format!("m{number}/fixtures/client/cert.pem")).is_file());
    }
}

/// The common name of a certificate is the user, where certificates are asked for and authentication is on.
#[test]
fn the_common_name_is_the_user() {
    let mut members = Members::new(1, "https", "http");
    let authority = Authority::new(members.path(), "ca");
    let (server, root, alice) = (authority.issue("server", 1), authority.issue("root", 2), authority.issue("alice", 3));
    members.start(&mutual("", &authority, &server));
    members.await_ready();
    let url = members.clients[0].clone();
    let as_root = |arguments: &[&str]| works(&etcdctl(&url, &authority.ca, Some(&root), arguments));
    as_root(&["user", "add", "root:pw"]);
    as_root(&["user", "add", "alice:pw"]);
    as_root(&["role", "add", "root"]);
    as_root(&["role", "add", "hers"]);
    as_root(&["role", "grant-permission", "hers", "readwrite", "hers/", "--prefix"]);
    as_root(&["user", "grant-role", "root", "root"]);
    as_root(&["user", "grant-role", "alice", "hers"]);
    as_root(&["auth", "enable"]);
    let as_alice = |arguments: &[&str]| etcdctl(&url, &authority.ca, Some(&alice), arguments);
    assert_eq!(works(&as_alice(&["put", "hers/k", "v"])), "OK\n");
    let denied = refused(&as_alice(&["put", "others/k", "v"]));
    assert!(denied.contains("etcdserver: permission denied"), "{denied}");
    as_root(&["put", "others/k", "v"]);
    // The gateway calls in its own name: whoever shows a certificate there might think otherwise.
    let range = r#"{"key":"aw=="}"#;
    let said = https(connect(&url), &authority.ca, Some(&alice), "/v3/kv/range", range);
    assert!(said.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{said}");
    let ignored = "CommonName of client sending a request against gateway will be ignored and not used as expected\n";
    assert!(said.ends_with(ignored), "{said}");
    let health = https(connect(&url), &authority.ca, Some(&alice), "/health", "");
    assert!(health.starts_with("HTTP/1.1 405"), "only the gateway's paths are concerned: {health}");
    let file = members.path().join("snapshot.db");
    let save = |own: &Certificate, user: &[&str]| {
        let mut command = Command::new(KONTIKI);
        command.args(["snapshot", "save", "--endpoints", &url]).arg(&file).arg("--cacert").arg(&authority.ca);
        command.arg("--cert").arg(&own.cert).arg("--key").arg(&own.key).args(user).output().unwrap()
    };
    assert!(refused(&save(&alice, &[])).contains("etcdserver: permission denied"));
    assert!(works(&save(&root, &[])).starts_with("Snapshot saved at "));
    assert!(works(&save(&alice, &["--user", "root:pw"])).starts_with("Snapshot saved at "));
    let wrong = refused(&save(&alice, &["--user", "root", "--password", "no"]));
    assert_eq!(
        wrong,
        "kontiki: cannot log in as root: etcdserver: authentication failed, invalid user ID or password\n"
    );
    as_root(&["auth", "disable"]);
    let said = https(connect(&url), &authority.ca, Some(&alice), "/v3/kv/range", range);
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");
}
