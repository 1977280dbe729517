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
use kontiki_api::etcdserverpb::maintenance_client::MaintenanceClient;
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
    await_sample(url, name, |found| found == expected).await;
}

async fn await_sample(url: &str, name: &str, expected: impl Fn(f64) -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let found = metric(url, name).await;
        if found.is_some_and(&expected) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{name} is {found:?}");
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

/// Everything that is claimed to be there: what etcd has and dashboards, alerts or tools read, but for what says something
/// about Go, bbolt, the v2 store or etcd's proxy.
const FAMILIES: &str = "
etcd_cluster_version etcd_server_has_leader etcd_server_is_leader etcd_server_is_learner etcd_server_id
etcd_server_leader_changes_seen_total etcd_server_version etcd_server_go_version etcd_server_feature_enabled
etcd_server_proposals_committed_total etcd_server_proposals_applied_total etcd_server_proposals_failed_total
etcd_server_proposals_pending etcd_server_slow_apply_total etcd_server_slow_read_indexes_total
etcd_server_read_indexes_failed_total etcd_server_heartbeat_send_failures_total etcd_server_quota_backend_bytes
etcd_server_health_success etcd_server_health_failures etcd_server_healthcheck etcd_server_healthchecks_total
etcd_server_client_requests_total etcd_server_apply_duration_seconds etcd_server_request_duration_seconds
etcd_server_range_duration_seconds etcd_server_snapshot_apply_in_progress_total etcd_server_learner_promote_successes
etcd_mvcc_db_total_size_in_bytes etcd_mvcc_db_total_size_in_use_in_bytes etcd_mvcc_db_open_read_transactions
etcd_mvcc_put_total etcd_mvcc_delete_total etcd_mvcc_range_total etcd_mvcc_txn_total etcd_mvcc_hash_duration_seconds
etcd_mvcc_hash_rev_duration_seconds
etcd_debugging_auth_revision etcd_debugging_mvcc_keys_total etcd_debugging_mvcc_current_revision
etcd_debugging_mvcc_compact_revision etcd_debugging_mvcc_events_total etcd_debugging_mvcc_pending_events_total
etcd_debugging_mvcc_slow_watcher_total etcd_debugging_mvcc_watcher_total etcd_debugging_mvcc_watch_stream_total
etcd_debugging_mvcc_total_put_size_in_bytes etcd_debugging_mvcc_db_compaction_keys_total
etcd_debugging_mvcc_db_compaction_last etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds
etcd_debugging_mvcc_db_compaction_total_duration_milliseconds
etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds
etcd_debugging_lease_granted_total etcd_debugging_lease_renewed_total etcd_debugging_lease_revoked_total
etcd_debugging_lease_ttl_total etcd_debugging_server_lease_expired_total
etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds
etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds
etcd_debugging_server_watch_send_loop_control_stream_duration_seconds
etcd_debugging_server_watch_send_loop_progress_duration_seconds
etcd_debugging_snap_save_marshalling_duration_seconds etcd_debugging_snap_save_total_duration_seconds
etcd_disk_wal_fsync_duration_seconds etcd_disk_wal_write_duration_seconds etcd_disk_wal_write_bytes_total
etcd_disk_backend_commit_duration_seconds etcd_disk_backend_defrag_duration_seconds
etcd_disk_backend_snapshot_duration_seconds etcd_disk_defrag_inflight etcd_snap_db_fsync_duration_seconds
etcd_snap_db_save_total_duration_seconds etcd_snap_fsync_duration_seconds
etcd_network_peer_sent_bytes_total etcd_network_peer_received_bytes_total etcd_network_peer_round_trip_time_seconds
etcd_network_peer_sent_failures_total etcd_network_peer_received_failures_total etcd_network_active_peers
etcd_network_known_peers etcd_network_client_grpc_sent_bytes_total etcd_network_client_grpc_received_bytes_total
grpc_server_started_total grpc_server_handled_total grpc_server_msg_received_total grpc_server_msg_sent_total
grpc_server_handling_seconds
process_resident_memory_bytes process_virtual_memory_bytes process_virtual_memory_max_bytes process_cpu_seconds_total
process_open_fds process_max_fds process_start_time_seconds process_network_receive_bytes_total
process_network_transmit_bytes_total os_fd_used os_fd_limit
promhttp_metric_handler_requests_in_flight promhttp_metric_handler_requests_total
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_have_etcds_families_and_say_what_happened() {
    let gates = ["--feature-gates", "CompactHashCheck=true,FastLeaseKeepAlive=false"];
    let often = ["--snapshot-count", "10", "--watch-progress-notify-interval", "100ms", "--metrics", "extensive"];
    let cluster = StoreCluster::start_with(3, &[&gates[..], &often[..]].concat()).await;
    let leader = cluster.leader().await;
    let url = &cluster.client_url(leader);
    let puts = 20;
    for n in 0..puts {
        let (status, text) = text(url, "/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#).await;
        assert_eq!(status, 200, "put {n}: {text}");
    }
    let unused = r#"{"key":"Zm9v","value":"YmFy","lease":"404"}"#;
    assert_eq!(text(url, "/v3/kv/put", unused).await.0, 404);
    for (path, body) in [
        ("/v3/kv/compaction", r#"{"revision":"10","physical":true}"#),
        ("/v3/auth/role/add", r#"{"name":"reader"}"#),
        ("/readyz", ""),
    ] {
        let (status, text) = text(url, path, body).await;
        assert_eq!(status, 200, "{path}: {text}");
    }
    requests_and_settings(url, f64::from(puts)).await;
    compaction_and_snapshots(url).await;
    watch_responses(url).await;
    reads_in_progress(&cluster, leader).await;
    let (_, metrics) = text(url, "/metrics", "").await;
    for family in FAMILIES.split_whitespace() {
        assert!(metrics.contains(&format!("# TYPE {family} ")), "{family} is missing");
    }
    assert!(metrics.contains("\netcd_server_quota_backend_bytes 2.147483648e+09\n"), "{metrics}");
}

async fn requests_and_settings(url: &str, puts: f64) {
    let check = async |name: &str, expected: f64| assert_eq!(metric(url, name).await, Some(expected), "{name}");
    check("etcd_server_feature_enabled{name=\"AllAlpha\",stage=\"ALPHA\"}", 0.0).await;
    check("etcd_server_feature_enabled{name=\"CompactHashCheck\",stage=\"ALPHA\"}", 1.0).await;
    check("etcd_server_feature_enabled{name=\"InitialCorruptCheck\",stage=\"ALPHA\"}", 0.0).await;
    check("etcd_server_feature_enabled{name=\"FastLeaseKeepAlive\",stage=\"BETA\"}", 0.0).await;
    check("etcd_server_request_duration_seconds_count{success=\"true\",type=\"Put\"}", puts).await;
    check("etcd_server_request_duration_seconds_count{success=\"false\",type=\"Put\"}", 1.0).await;
    check("etcd_server_request_duration_seconds_count{success=\"true\",type=\"Compaction\"}", 1.0).await;
    // 1 at first, and one more with every change.
    check("etcd_debugging_auth_revision", 2.0).await;
    check("promhttp_metric_handler_requests_in_flight", 1.0).await;
    let scrapes = "promhttp_metric_handler_requests_total{code=\"200\"}";
    let before = metric(url, scrapes).await.unwrap();
    check(scrapes, before + 1.0).await;
}

async fn compaction_and_snapshots(url: &str) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let last = metric(url, "etcd_debugging_mvcc_db_compaction_last").await.unwrap();
    assert!((now - 60.0..=now + 1.0).contains(&last), "compacted at {last}, and it is {now}");
    for name in [
        "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds_count",
        "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds_sum",
        "etcd_debugging_mvcc_db_compaction_keys_total",
        "etcd_snap_fsync_duration_seconds_sum",
        "etcd_debugging_snap_save_total_duration_seconds_count",
        "process_network_receive_bytes_total",
        "process_network_transmit_bytes_total",
        "process_virtual_memory_max_bytes",
        "etcd_server_healthchecks_total{name=\"linearizable_read\",status=\"success\",type=\"readyz\"}",
    ] {
        await_sample(url, name, |value| value > 0.0).await;
    }
}

/// One watcher is created and gets an event, then it is quiet and hears of progress.
async fn watch_responses(url: &str) {
    let create = r#"{"create_request":{"key":"d2F0Y2hlZA==","progress_notify":true}}"#;
    let mut response = request(url, "/v3/watch", create).await;
    let mut line = async || {
        let frame = tokio::time::timeout(DEADLINE, response.frame()).await.unwrap().unwrap().unwrap();
        String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
    };
    assert!(line().await.contains("\"created\":true"));
    text(url, "/v3/kv/put", r#"{"key":"d2F0Y2hlZA==","value":"MQ=="}"#).await;
    while !line().await.contains("\"events\":[{") {}
    let sent = |name: &str| format!("etcd_debugging_server_watch_send_loop_{name}_duration_seconds_count");
    await_metric(url, &sent("control_stream"), 1.0).await;
    let per_event = "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds_count";
    await_metric(url, per_event, 1.0).await;
    await_sample(url, &sent("progress"), |rounds| rounds >= 2.0).await;
    // The event, and what is told of progress.
    await_sample(url, &sent("watch_stream"), |responses| responses >= 2.0).await;
}

/// A snapshot that its client does not read any further is a read that goes on.
async fn reads_in_progress(cluster: &StoreCluster, i: usize) {
    let (url, open) = (cluster.client_url(i), "etcd_mvcc_db_open_read_transactions");
    let mut client = KvClient::new(cluster.channel(i));
    // More than waits in the windows and buffers of a connection.
    for n in 0..8 {
        let (key, value) = (format!("large {n}").into(), vec![b'x'; 1_000_000].into());
        client.put(pb::PutRequest { key, value, ..Default::default() }).await.unwrap();
    }
    let mut snapshot = MaintenanceClient::new(cluster.channel(i)).snapshot(pb::SnapshotRequest {}).await.unwrap();
    assert!(snapshot.get_mut().message().await.unwrap().is_some());
    await_metric(&url, open, 1.0).await;
    drop(snapshot);
    await_metric(&url, open, 0.0).await;
}
