//! The client port of real members: JSON, health and metrics over HTTP/1.1, beside gRPC on the same port.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]

mod support;

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::kv_client::KvClient;
use kontiki_api::etcdserverpb::watch_client::WatchClient;
use support::store::StoreCluster;
use tokio::net::TcpStream;

const DEADLINE: Duration = Duration::from_secs(30);

/// One request over HTTP/1.1, as curl makes it; a body makes it a POST.
async fn request(url: &str, path: &str, body: &str) -> hyper::Response<Incoming> {
    let address = url.strip_prefix("http://").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let method = if body.is_empty() { "GET" } else { "POST" };
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header("host", address)
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap();
    tokio::time::timeout(DEADLINE, sender.send_request(request)).await.unwrap().unwrap()
}

async fn text(url: &str, path: &str, body: &str) -> (u16, String) {
    let response = request(url, path, body).await;
    let status = response.status().as_u16();
    let body = tokio::time::timeout(DEADLINE, response.into_body().collect()).await.unwrap().unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// One sample of a member's metrics; labels as they are printed.
async fn metric(url: &str, name: &str) -> Option<f64> {
    let (_, metrics) = text(url, "/metrics", "").await;
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// Waits for a sample, which may take a moment after what it counts.
async fn await_metric(url: &str, name: &str, expected: f64) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let found = metric(url, name).await;
        if found == Some(expected) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{name} is {found:?}, not {expected}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_serves_json_health_and_metrics_beside_grpc() {
    let cluster = StoreCluster::start(3).await;
    let urls: Vec<String> = (0..3).map(|i| cluster.client_url(i)).collect();
    for (i, url) in urls.iter().enumerate() {
        let (status, put) = text(url, "/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#).await;
        let revision = format!("\"revision\":\"{}\"", i + 2);
        assert!(status == 200 && put.starts_with("{\"header\":{\"cluster_id\":\"") && put.contains(&revision), "{put}");
        let mut client = KvClient::new(cluster.channel(i));
        let read = client.range(pb::RangeRequest { key: "foo".into(), ..Default::default() }).await.unwrap();
        assert_eq!(read.into_inner().kvs[0].value, "bar");
        let (_, read) = text(url, "/v3/kv/range", r#"{"key":"Zm9v"}"#).await;
        assert!(read.ends_with("\"value\":\"YmFy\"}],\"count\":\"1\"}"), "{read}");
        assert_eq!(text(url, "/health", "").await, (200, r#"{"health":"true","reason":""}"#.to_owned()));
        assert_eq!(text(url, "/readyz", "").await, (200, "ok\n".to_owned()));
        assert_eq!(text(url, "/nothing", "").await, (404, "404 page not found\n".to_owned()));
        let missing = text(url, "/v3/lease/revoke", r#"{"ID":"77"}"#).await;
        let reason = "etcdserver: requested lease not found";
        let expected = format!(r#"{{"code":5,"message":"{reason}"}}"#);
        assert_eq!(missing, (404, expected));
    }
    leadership(&urls).await;
    watches(&urls[1]).await;
}

async fn leadership(urls: &[String]) {
    let mut leaders = 0.0;
    for url in urls {
        assert_eq!(metric(url, "etcd_server_has_leader").await, Some(1.0));
        assert_eq!(metric(url, "etcd_server_quota_backend_bytes").await, Some(2_147_483_648.0));
        // Every member applies every put.
        await_metric(url, "etcd_mvcc_put_total", 3.0).await;
        assert_eq!(metric(url, "etcd_debugging_mvcc_keys_total").await, Some(1.0));
        assert!(metric(url, "etcd_disk_wal_fsync_duration_seconds_count").await.unwrap() > 0.0);
        assert!(metric(url, "process_resident_memory_bytes").await.unwrap() > 1e6);
        leaders += metric(url, "etcd_server_is_leader").await.unwrap();
        let (_, metrics) = text(url, "/metrics", "").await;
        for family in ["etcd_network_peer_sent_bytes_total{To=\"", "etcd_network_peer_received_bytes_total{From=\""] {
            assert!(metrics.contains(family), "{family}\n{metrics}");
        }
    }
    assert_eq!(leaders, 1.0);
}

/// Watches through the gateway and through gRPC; both count as cancelled when their clients leave.
async fn watches(url: &str) {
    let watching = "etcd_debugging_mvcc_watcher_total";
    let cancelled = "grpc_server_handled_total{grpc_code=\"Canceled\",grpc_method=\"Watch\",\
                     grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"}";
    let mut response = request(url, "/v3/watch", r#"{"create_request":{"key":"d2F0Y2hlZA=="}}"#).await;
    let mut line = async || {
        let frame = tokio::time::timeout(DEADLINE, response.frame()).await.unwrap().unwrap().unwrap();
        String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
    };
    let created = line().await;
    assert!(created.starts_with("{\"result\":{\"header\":{") && created.ends_with("\"created\":true}}\n"), "{created}");
    text(url, "/v3/kv/put", r#"{"key":"d2F0Y2hlZA==","value":"MQ=="}"#).await;
    let event = line().await;
    assert!(event.contains(r#""events":[{"kv":{"key":"d2F0Y2hlZA==","#), "{event}");
    await_metric(url, watching, 1.0).await;
    drop(response);
    await_metric(url, watching, 0.0).await;
    await_metric(url, cancelled, 1.0).await;

    // A client that dies: its connection goes with its runtime.
    let member = url.to_owned();
    let watching_once = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(watch_once(member));
    };
    tokio::task::spawn_blocking(watching_once).await.unwrap();
    await_metric(url, cancelled, 2.0).await;
    await_metric(url, watching, 0.0).await;
}

/// Creates a watcher over gRPC and leaves the stream open.
async fn watch_once(url: String) {
    let create = pb::WatchCreateRequest { key: "watched".into(), ..Default::default() };
    let create = pb::watch_request::RequestUnion::CreateRequest(create);
    let requests = futures::stream::iter([pb::WatchRequest { request_union: Some(create) }]);
    let requests = futures::StreamExt::chain(requests, futures::stream::pending());
    let channel = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let mut responses = WatchClient::new(channel).watch(requests).await.unwrap().into_inner();
    assert!(responses.message().await.unwrap().unwrap().created);
}
