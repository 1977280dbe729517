//! Users, roles and permissions through unmodified etcdctl, on three members.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]

mod support;

use std::process::{Command, Stdio};

use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::auth_client::AuthClient;
use kontiki_api::etcdserverpb::kv_client::KvClient;
use support::store::StoreCluster;
use support::{client, succeed, text};
use tonic::{Code, Request, Status};

/// etcdctl against one member, as a user if one is given.
struct Etcdctl {
    endpoint: String,
    user: Option<&'static str>,
}

impl Etcdctl {
    fn of(cluster: &StoreCluster, member: usize, user: impl Into<Option<&'static str>>) -> Self {
        Self { endpoint: cluster.client_url(member), user: user.into() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(client("etcdctl"));
        command.env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", &self.endpoint).args(arguments);
        // Its five seconds are short while other tests hold the machine.
        command.args(["--command-timeout=60s", "--dial-timeout=60s"]);
        if let Some(user) = self.user {
            command.args(["--user", user]);
        }
        command
    }

    #[track_caller]
    fn check(&self, arguments: &[&str], expected: &str) {
        let output = succeed(&mut self.command(arguments));
        assert_eq!(text(&output.stdout), expected, "etcdctl {}", arguments.join(" "));
    }

    /// A command that fails with this text among what it says.
    #[track_caller]
    fn refused(&self, arguments: &[&str], expected: &str) {
        let output = self.command(arguments).stdin(Stdio::null()).output().unwrap();
        assert!(!output.status.success(), "etcdctl {} succeeded", arguments.join(" "));
        let error = text(&output.stderr);
        assert!(error.contains(expected), "etcdctl {}: {error}", arguments.join(" "));
    }
}

const ROOT: &str = "root:root's";
const ALICE: &str = "alice:alice's";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_manages_users_and_each_member_obeys() {
    let cluster = StoreCluster::start(3).await;
    set_up(&cluster);
    obeyed(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signed_tokens_serve_etcdctl_on_each_member() {
    let dir = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let (private, public) = (dir.path().join("key.pem"), dir.path().join("pub.pem"));
    std::fs::write(&private, key.serialize_pem()).unwrap();
    std::fs::write(&public, key.public_key_pem()).unwrap();
    let (private, public) = (private.display(), public.display());
    let option = format!("jwt,pub-key={public},priv-key={private},sign-method=ES256,ttl=10m");
    let cluster = StoreCluster::start_with(3, &["--auth-token", &option]).await;
    set_up(&cluster);
    a_signed_token_holds_until_auth_changes(&cluster).await;
    obeyed(&cluster).await;
}

/// Every user's rights as `set_up` granted them, on each member; authentication is off at the end.
async fn obeyed(cluster: &StoreCluster) {
    for member in 0..cluster.len() {
        as_root(&Etcdctl::of(cluster, member, ROOT), member);
        as_alice(&Etcdctl::of(cluster, member, ALICE), member);
        as_others(cluster, member);
    }
    tokens_work_everywhere(cluster).await;
    changes_count_at_once(cluster);
    Etcdctl::of(cluster, 2, ROOT).check(&["auth", "disable"], "Authentication Disabled\n");
    for member in 0..cluster.len() {
        let anybody = Etcdctl::of(cluster, member, None);
        anybody.check(&["put", "anything", "v"], "OK\n");
        anybody.check(&["user", "list"], "alice\nroot\n");
    }
}

fn set_up(cluster: &StoreCluster) {
    let etcdctl = Etcdctl::of(cluster, 0, None);
    etcdctl.refused(&["auth", "enable"], "root user does not exist");
    etcdctl.check(&["user", "add", ROOT], "User root created\n");
    etcdctl.check(&["user", "add", ALICE], "User alice created\n");
    etcdctl.refused(&["user", "add", ALICE], "etcdserver: user name already exists");
    let etcdctl = Etcdctl::of(cluster, 1, None);
    etcdctl.check(&["role", "add", "r"], "Role r created\n");
    etcdctl.check(&["role", "grant-permission", "r", "readwrite", "app/", "--prefix"], "Role r updated\n");
    etcdctl.check(&["role", "grant-permission", "r", "read", "shared"], "Role r updated\n");
    etcdctl.check(&["user", "grant-role", "alice", "r"], "Role r is granted to user alice\n");
    etcdctl.check(&["put", "shared", "before"], "OK\n");
    // etcdctl gives root its role.
    etcdctl.check(&["auth", "enable"], "Authentication Enabled\n");
}

fn as_root(etcdctl: &Etcdctl, member: usize) {
    etcdctl.check(&["put", "secret", &format!("{member}")], "OK\n");
    etcdctl.check(&["get", "secret"], &format!("secret\n{member}\n"));
    etcdctl.check(&["user", "list"], "alice\nroot\n");
    etcdctl.check(&["role", "list"], "r\nroot\n");
    let shown = "Role r\nKV Read:\n\t[app/, app0) (prefix app/)\n\tshared\nKV Write:\n\t[app/, app0) (prefix app/)\n";
    etcdctl.check(&["role", "get", "r"], shown);
    etcdctl.check(&["user", "get", "alice"], "User: alice\nRoles: r\n");
    etcdctl.check(
        &["role", "get", "root"],
        "Role root\nKV Read:\n\t[, <open ended> (prefix )\nKV Write:\n\t[, <open ended> (prefix )\n",
    );
    etcdctl.refused(&["user", "delete", "root"], "etcdserver: invalid auth management");
}

fn as_alice(etcdctl: &Etcdctl, member: usize) {
    let key = format!("app/{member}");
    etcdctl.check(&["put", &key, "v"], "OK\n");
    etcdctl.check(&["get", &key], &format!("{key}\nv\n"));
    etcdctl.check(&["get", "shared"], "shared\nbefore\n");
    etcdctl.check(&["user", "get", "alice"], "User: alice\nRoles: r\n");
    let denied = "etcdserver: permission denied";
    etcdctl.refused(&["put", "shared", "mine"], denied);
    etcdctl.refused(&["get", "secret"], denied);
    etcdctl.refused(&["get", "app/", "app1"], denied);
    etcdctl.refused(&["del", "", "--prefix"], denied);
    etcdctl.refused(&["watch", "secret"], denied);
    etcdctl.refused(&["user", "list"], denied);
    etcdctl.refused(&["user", "get", "root"], denied);
    etcdctl.refused(&["role", "add", "x"], denied);
    etcdctl.refused(&["compaction", "1"], denied);
    etcdctl.refused(&["auth", "disable"], denied);
}

fn as_others(cluster: &StoreCluster, member: usize) {
    let nobody = Etcdctl::of(cluster, member, None);
    nobody.refused(&["get", "shared"], "etcdserver: user name is empty");
    nobody.refused(&["put", "shared", "x"], "etcdserver: user name is empty");
    let wrong = Etcdctl::of(cluster, member, "alice:wrong");
    wrong.refused(&["get", "shared"], "etcdserver: authentication failed, invalid user ID or password");
    let unknown = Etcdctl::of(cluster, member, "bob:bob's");
    unknown.refused(&["get", "shared"], "etcdserver: authentication failed, invalid user ID or password");
}

async fn tokens_work_everywhere(cluster: &StoreCluster) {
    for asked in 0..cluster.len() {
        let token = log_in(cluster, asked, "alice", "alice's").await;
        for member in 0..cluster.len() {
            put_with(cluster, member, &token).await.unwrap();
        }
    }
    let status = put_with(cluster, 0, "lettersletters.1").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "etcdserver: invalid auth token"));
}

async fn log_in(cluster: &StoreCluster, member: usize, name: &str, password: &str) -> String {
    let login = pb::AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
    AuthClient::new(cluster.channel(member)).authenticate(login).await.unwrap().into_inner().token
}

async fn put_with(cluster: &StoreCluster, member: usize, token: &str) -> Result<(), Status> {
    let mut put = Request::new(pb::PutRequest { key: "app/token".into(), ..Default::default() });
    put.metadata_mut().insert("token", token.parse().unwrap());
    KvClient::new(cluster.channel(member)).put(put).await.map(drop)
}

/// A signed token says under which revision of users and roles it was given; a client asks for a new one after a change.
async fn a_signed_token_holds_until_auth_changes(cluster: &StoreCluster) {
    let token = log_in(cluster, 0, "alice", "alice's").await;
    assert_eq!(token.split('.').count(), 3, "{token} is no JWT");
    for member in 0..cluster.len() {
        put_with(cluster, member, &token).await.unwrap();
    }
    let forged = token.split_at(token.len() - 8).0.to_owned() + "AAAAAAAA";
    let status = put_with(cluster, 0, &forged).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "etcdserver: invalid auth token"));
    Etcdctl::of(cluster, 1, ROOT).check(&["role", "add", "new"], "Role new created\n");
    Etcdctl::of(cluster, 2, ROOT).check(&["role", "delete", "new"], "Role new deleted\n");
    let status = put_with(cluster, 2, &token).await.unwrap_err();
    let old = "etcdserver: revision of auth store is old";
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, old));
    let renewed = log_in(cluster, 1, "alice", "alice's").await;
    put_with(cluster, 2, &renewed).await.unwrap();
}

fn changes_count_at_once(cluster: &StoreCluster) {
    let (root, alice) = (Etcdctl::of(cluster, 0, ROOT), Etcdctl::of(cluster, 1, ALICE));
    root.check(&["role", "grant-permission", "r", "write", "shared"], "Role r updated\n");
    alice.refused(&["get", "shared"], "etcdserver: permission denied");
    alice.check(&["put", "shared", "after"], "OK\n");
    root.check(&["role", "revoke-permission", "r", "shared"], "Permission of key shared is revoked from role r\n");
    alice.refused(&["put", "shared", "again"], "etcdserver: permission denied");
    root.check(&["user", "revoke-role", "alice", "r"], "Role r is revoked from user alice\n");
    alice.refused(&["put", "app/x", "again"], "etcdserver: permission denied");
    root.check(&["user", "grant-role", "alice", "r"], "Role r is granted to user alice\n");
    alice.check(&["put", "app/x", "again"], "OK\n");
}
