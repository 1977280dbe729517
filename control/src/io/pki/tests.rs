//! Certificates are looked at through the TLS stack that will check them.

use std::collections::HashMap;
use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http_body_util::BodyExt as _;
use kontiki_api::etcdserverpb::{RangeResponse, ResponseOp, TxnRequest, TxnResponse, request_op, response_op};
use kontiki_api::mvccpb::KeyValue;
use prost::Message as _;
use rustls::{ClientConnection, ServerConnection};

use super::*;

/// A store that knows the one transaction that is sent to it: create or read three keys.
#[derive(Clone, Default)]
struct Store(Arc<Mutex<HashMap<Bytes, Bytes>>>);

impl Store {
    fn txn(&self, txn: TxnRequest) -> TxnResponse {
        let mut keys = self.0.lock().unwrap();
        let succeeded = !keys.contains_key(&txn.compare[0].key);
        let ops = if succeeded { txn.success } else { txn.failure };
        let mut responses = Vec::new();
        for op in ops {
            match op.request.unwrap() {
                request_op::Request::RequestPut(put) => drop(keys.insert(put.key, put.value)),
                request_op::Request::RequestRange(range) => {
                    let kv = KeyValue { value: keys[&range.key].clone(), ..KeyValue::default() };
                    let range = RangeResponse { kvs: vec![kv], ..RangeResponse::default() };
                    responses.push(ResponseOp { response: Some(response_op::Response::ResponseRange(range)) });
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        TxnResponse { succeeded, responses, ..TxnResponse::default() }
    }
}

impl tower::Service<http::Request<Body>> for Store {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let store = self.clone();
        Box::pin(async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let answer = store.txn(TxnRequest::decode(&body[5..]).unwrap()).encode_to_vec();
            let mut frame = vec![0];
            frame.extend(u32::try_from(answer.len()).unwrap().to_be_bytes());
            frame.extend(answer);
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let body = http_body_util::Full::new(Bytes::from(frame)).with_trailers(async { Some(Ok(trailers)) });
            let response = http::Response::builder().header("content-type", "application/grpc");
            Ok(response.body(Body::new(body)).unwrap())
        })
    }
}

async fn open(store: &Store, folder: &Path) -> ClusterPki {
    ClusterPki::open(KvClient::new(store.clone()), folder).await.unwrap()
}

/// Runs a handshake in memory; returns the server's side.
fn handshake(server: ServerConfig, client: ClientConfig, name: &str) -> Result<ServerConnection, rustls::Error> {
    let name = rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(server)
}

#[tokio::test]
async fn servers_of_one_store_share_one_authority() {
    let store = Store::default();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, second) = (open(&store, one.path()).await, open(&store, two.path()).await);
    assert_eq!(first.ca_pem(), second.ca_pem());
    let admin = first.issue_admin().unwrap();
    let serving = second.issue_server(&[], &[]).unwrap();
    let tls = second.server_tls(&serving).unwrap();
    let connection = handshake(tls, first.client_tls(&admin).unwrap(), "127.0.0.1").unwrap();
    let user = second
        .authenticator()
        .authenticate(&http::HeaderMap::new(), connection.peer_certificates().unwrap(), 0)
        .unwrap();
    assert_eq!(user.name, "kubernetes-admin");
    assert!(user.groups.iter().any(|group| group == MASTERS));
}

#[tokio::test]
async fn a_lost_store_is_seeded_from_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let before = open(&Store::default(), folder.path()).await;
    let after = open(&Store::default(), folder.path()).await;
    assert_eq!(before.ca_pem(), after.ca_pem());
    for name in ["ca.crt", "ca.key", "sa.key"] {
        let mode = std::fs::metadata(folder.path().join("pki").join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn the_serving_certificate_has_every_name_of_an_api_server() {
    let folder = tempfile::tempdir().unwrap();
    let pki = open(&Store::default(), folder.path()).await;
    let serving =
        pki.issue_server(&["host.example".to_owned(), "bad name".to_owned()], &["192.0.2.7".parse().unwrap()]);
    let (serving, admin) = (serving.unwrap(), pki.issue_admin().unwrap());
    let names = [
        "127.0.0.1",
        "::1",
        "localhost",
        "kubernetes.default.svc.cluster.local",
        "10.96.0.1",
        "192.0.2.7",
        "host.example",
    ];
    for name in names {
        let done = handshake(pki.server_tls(&serving).unwrap(), pki.client_tls(&admin).unwrap(), name);
        assert!(done.is_ok(), "{name}: {:?}", done.err());
    }
    let elsewhere = handshake(pki.server_tls(&serving).unwrap(), pki.client_tls(&admin).unwrap(), "192.0.2.8");
    assert!(elsewhere.is_err());
}

#[tokio::test]
async fn a_client_certificate_is_asked_for_but_not_needed() {
    let folder = tempfile::tempdir().unwrap();
    let pki = open(&Store::default(), folder.path()).await;
    let serving = pki.issue_server(&[], &[]).unwrap();
    let anonymous = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(pki.roots().unwrap())
        .with_no_client_auth();
    let connection = handshake(pki.server_tls(&serving).unwrap(), anonymous, "localhost").unwrap();
    assert!(connection.peer_certificates().is_none());

    let other = tempfile::tempdir().unwrap();
    let stranger = open(&Store::default(), other.path()).await.issue_admin().unwrap();
    let forged = handshake(pki.server_tls(&serving).unwrap(), pki.client_tls(&stranger).unwrap(), "localhost");
    assert!(forged.is_err(), "signed by another authority");
}

#[tokio::test]
async fn an_agent_serves_and_asks_with_one_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let pki = open(&Store::default(), folder.path()).await;
    let agent = pki.issue_agent("node-a", &["10.0.0.5".parse().unwrap()]).unwrap();
    let server = pki.issue_agent_client().unwrap();
    handshake(pki.server_tls(&agent).unwrap(), pki.client_tls(&server).unwrap(), "10.0.0.5").unwrap();
    let serving = pki.issue_server(&[], &[]).unwrap();
    let asked = handshake(pki.server_tls(&serving).unwrap(), pki.client_tls(&agent).unwrap(), "localhost").unwrap();
    let certificates = asked.peer_certificates().unwrap();
    let user = pki.authenticator().authenticate(&http::HeaderMap::new(), certificates, 0).unwrap();
    assert_eq!((user.name.as_str(), user.groups[0].as_str()), ("system:node:node-a", NODES));
}

#[tokio::test]
async fn a_kubeconfig_is_one_that_clients_read() {
    let folder = tempfile::tempdir().unwrap();
    let pki = open(&Store::default(), folder.path()).await;
    let servers = ["https://127.0.0.1:6443".to_owned(), "https://127.0.0.1:6444".to_owned()];
    let text = pki.admin_kubeconfig(&servers).unwrap();
    let path = folder.path().join("admin.conf");
    write_private(&path, "older").unwrap();
    write_private(&path, &text).unwrap();
    let config = kube::config::Kubeconfig::read_from(&path).unwrap();
    assert_eq!(config.current_context.as_deref(), Some("kontiki"));
    assert_eq!(config.contexts.len(), 2);
    assert_eq!(config.clusters[1].cluster.as_ref().unwrap().server.as_deref(), Some("https://127.0.0.1:6444"));
    let options = kube::config::KubeConfigOptions::default();
    let loaded = kube::Config::from_custom_kubeconfig(config, &options).await.unwrap();
    assert_eq!(loaded.cluster_url.to_string(), "https://127.0.0.1:6443/");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}
