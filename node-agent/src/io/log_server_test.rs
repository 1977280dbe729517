//! The log server over real TLS, with identities as a cluster issues them: who gets in and what they read.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use k8s_openapi::api::core::v1::Pod;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use serde_json::json;

use super::files::Files;
use super::log_server::LogServer;
use crate::agent::ClusterAccess;
use crate::agent::context::Board;

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A kubeconfig for this identity and these servers, as a file.
    fn kubeconfig(&self, path: &Path, name: &str, organization: &str, servers: &[String]) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        let embed = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let cluster = |(at, server): (usize, &String)| json!({"name": format!("c{at}"), "cluster": {"server": server, "certificate-authority-data": embed(&self.pem)}});
        let clusters: Vec<_> = servers.iter().enumerate().map(cluster).collect();
        let user =
            json!({"client-certificate-data": embed(&certificate), "client-key-data": embed(&key.serialize_pem())});
        let file = json!({"apiVersion": "v1", "kind": "Config", "clusters": clusters, "users": [{"name": "u", "user": user}],
                          "contexts": [{"name": "x", "context": {"cluster": "c1", "user": "u"}}], "current-context": "x"});
        std::fs::write(path, file.to_string()).unwrap();
    }
}

/// The status code and the text that a client with this identity gets.
async fn get(
    authority: &Authority,
    dir: &Path,
    name: &str,
    organization: &str,
    port: u16,
    path: &str,
) -> (u16, String) {
    let file = dir.join(name);
    authority.kubeconfig(
        &file,
        name,
        organization,
        &["https://unused.invalid".to_owned(), format!("https://127.0.0.1:{port}")],
    );
    let access = ClusterAccess::from_kubeconfig(&file).await.unwrap();
    let client = kube::Client::try_from(access.servers[0].clone()).unwrap();
    let request = http::Request::get(path).body(kube::client::Body::empty()).unwrap();
    let response = client.send(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect_bytes().await.unwrap();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn api_servers_read_logs_and_nobody_else_does() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.kubeconfig(
        &dir.path().join("agent"),
        "system:node:n",
        "system:nodes",
        &["https://a.invalid".into(), "https://b.invalid".into()],
    );
    let access = ClusterAccess::from_kubeconfig(&dir.path().join("agent")).await.unwrap();
    let urls: Vec<String> = access.servers.iter().map(|server| server.cluster_url.to_string()).collect();
    assert_eq!(urls, ["https://b.invalid/", "https://a.invalid/"], "the current context's server comes first");

    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"containers": [{"name": "c"}]},
        "status": {"containerStatuses": [
            {"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 0}}},
            {"name": "d", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}]}
    }))
    .unwrap();
    let files = Files::new(dir.path().join("data"), dir.path().join("run"));
    let log = files.log(&pod, "c", 0);
    std::fs::create_dir_all(log.parent().unwrap()).unwrap();
    std::fs::write(&log, "2026-01-01T00:00:00Z stdout F p\n2026-01-01T00:00:00Z stdout F tcp://10.96.0.1:443\n")
        .unwrap();
    let board = Arc::new(Board::default());
    let _shown = board.show(Arc::new(pod));
    let server = LogServer::bind(([127, 0, 0, 1], 0).into(), &access, board, files).await.unwrap();
    let port = server.port();
    let serving = tokio::spawn(server.serve());

    let as_server =
        async |path: &str| get(&authority, dir.path(), "kube-apiserver-kubelet-client", "x", port, path).await;
    assert_eq!(as_server("/healthz").await, (200, "ok".to_owned()));
    assert_eq!(as_server("/containerLogs/ns/p/c").await, (200, "p\ntcp://10.96.0.1:443\n".to_owned()));
    assert_eq!(as_server("/containerLogs/ns/p/c?tailLines=1&follow=true").await.1, "tcp://10.96.0.1:443\n");
    let waiting = "container \"d\" in pod \"p\" is waiting to start: ContainerCreating".to_owned();
    assert_eq!(as_server("/containerLogs/ns/p/d").await, (400, waiting));
    assert_eq!(as_server("/containerLogs/ns/none/c").await.0, 404);
    assert_eq!(get(&authority, dir.path(), "admin", "system:masters", port, "/healthz").await.0, 200);
    assert_eq!(
        get(&authority, dir.path(), "system:node:m", "system:nodes", port, "/containerLogs/ns/p/c").await.0,
        403
    );
    serving.abort();
}
