//! What `/metrics` says after known requests. Which families there are is told by `tests/gateway.rs` of the program.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use tower::ServiceExt;

use crate::edge::{Edge, EdgeConfig, HttpConfig};
use crate::member::testing::{Alone, run, within};

/// Samples by name and labels, and the names that have a type: each once.
#[derive(Debug, Default)]
struct Scrape {
    samples: BTreeMap<String, f64>,
    families: BTreeSet<String>,
}

impl Scrape {
    fn parse(text: &str) -> Self {
        let mut scrape = Self::default();
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').unwrap();
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert!(scrape.families.insert(name.to_owned()), "{name} is there twice");
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').unwrap();
                let value = value.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
                assert!(scrape.samples.insert(name.to_owned(), value).is_none(), "{name} is there twice");
            }
        }
        scrape
    }

    #[track_caller]
    fn check(&self, name: &str, expected: f64) {
        assert_eq!(self.samples.get(name), Some(&expected), "{name}");
    }

    #[track_caller]
    fn positive(&self, name: &str) {
        assert!(self.samples.get(name).is_some_and(|value| *value > 0.0), "{name}: {:?}", self.samples.get(name));
    }
}

async fn call(router: &axum::Router, path: &str, body: &str) -> String {
    let request = match body {
        "" => Request::get(path),
        _ => Request::post(path),
    };
    let response = within(router.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap())).await.unwrap();
    let body = within(response.into_body().collect()).await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[test]
fn requests_are_counted_under_etcds_names() {
    run(async {
        let alone = Alone::start().await;
        let http = HttpConfig { extensive_metrics: true, ..HttpConfig::default() };
        let router = Edge::new(alone.member.clone(), EdgeConfig { http, ..EdgeConfig::default() }).router();
        call(&router, "/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#).await;
        call(&router, "/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#).await;
        call(&router, "/v3/kv/put", r#"{"key":"b3RoZXI="}"#).await;
        call(&router, "/v3/kv/put", r#"{"value":"YmFy"}"#).await;
        call(&router, "/v3/kv/put", r#"{"key":"Zm9v","lease":"404"}"#).await;
        call(&router, "/v3/kv/range", r#"{"key":"Zm9v"}"#).await;
        let read = r#"{"success":[{"request_range":{"key":"Zm9v"}}]}"#;
        call(&router, "/v3/kv/txn", read).await;
        let txn = r#"{"success":[{"request_delete_range":{"key":"b3RoZXI="}},{"request_range":{"key":"Zm9v"}}]}"#;
        call(&router, "/v3/kv/txn", txn).await;
        call(&router, "/v3/kv/deleterange", r#"{"key":"bm9uZQ=="}"#).await;
        call(&router, "/v3/lease/grant", r#"{"TTL":"100","ID":"7"}"#).await;
        call(&router, "/v3/lease/keepalive", r#"{"ID":"7"}"#).await;
        call(&router, "/v3/lease/revoke", r#"{"ID":"7"}"#).await;
        call(&router, "/v3/maintenance/hashkv", "{}").await;
        let scrape = Scrape::parse(&call(&router, "/metrics", "").await);
        counted_operations(&scrape);
        counted_calls(&scrape);
        counted_requests(&scrape);
        alone.member.shutdown().await;
    });
}

fn counted_operations(scrape: &Scrape) {
    scrape.check("etcd_mvcc_put_total", 3.0);
    scrape.check("etcd_mvcc_delete_total", 2.0);
    scrape.check("etcd_mvcc_range_total", 3.0);
    scrape.check("etcd_mvcc_txn_total", 1.0);
    scrape.check("etcd_debugging_mvcc_keys_total", 1.0);
    scrape.check("etcd_debugging_mvcc_current_revision", 5.0);
    scrape.check("etcd_debugging_mvcc_compact_revision", -1.0);
    scrape.check("etcd_debugging_mvcc_total_put_size_in_bytes", 17.0);
    scrape.check("etcd_debugging_lease_granted_total", 1.0);
    scrape.check("etcd_debugging_lease_renewed_total", 1.0);
    scrape.check("etcd_debugging_lease_revoked_total", 1.0);
    scrape.check("etcd_debugging_lease_ttl_total_sum", 100.0);
    scrape.check("etcd_server_has_leader", 1.0);
    scrape.check("etcd_server_is_leader", 1.0);
    scrape.check("etcd_server_is_learner", 0.0);
    scrape.check("etcd_server_leader_changes_seen_total", 1.0);
    scrape.check("etcd_server_proposals_pending", 0.0);
    scrape.check("etcd_server_id{server_id=\"1\"}", 1.0);
    scrape.check("etcd_server_version{server_version=\"3.6.14\"}", 1.0);
    scrape.check("etcd_cluster_version{cluster_version=\"3.6\"}", 1.0);
    let applied = scrape.samples["etcd_server_proposals_applied_total"];
    assert!(applied >= 8.0 && scrape.samples["etcd_server_proposals_committed_total"] >= applied);
    for name in [
        "etcd_disk_wal_write_bytes_total",
        "etcd_disk_wal_write_duration_seconds_count",
        "etcd_disk_backend_commit_duration_seconds_count",
        "etcd_mvcc_db_total_size_in_bytes",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "os_fd_used",
    ] {
        scrape.positive(name);
    }
    scrape.check("etcd_server_apply_duration_seconds_count{op=\"Put\",success=\"true\",version=\"v3\"}", 3.0);
    scrape.check("etcd_mvcc_hash_rev_duration_seconds_count", 1.0);
    scrape.check("etcd_server_range_duration_seconds_count{success=\"true\"}", 1.0);
}

fn counted_calls(scrape: &Scrape) {
    let labels = |method: &str, service: &str, kind: &str| {
        format!("grpc_method=\"{method}\",grpc_service=\"etcdserverpb.{service}\",grpc_type=\"{kind}\"")
    };
    let put = labels("Put", "KV", "unary");
    scrape.check(&format!("grpc_server_started_total{{{put}}}"), 5.0);
    scrape.check(&format!("grpc_server_handled_total{{grpc_code=\"OK\",{put}}}"), 3.0);
    scrape.check(&format!("grpc_server_handled_total{{grpc_code=\"InvalidArgument\",{put}}}"), 1.0);
    scrape.check(&format!("grpc_server_msg_received_total{{{put}}}"), 5.0);
    scrape.check(&format!("grpc_server_msg_sent_total{{{put}}}"), 3.0);
    scrape.check(&format!("grpc_server_handling_seconds_count{{{put}}}"), 5.0);
    let alive = labels("LeaseKeepAlive", "Lease", "bidi_stream");
    scrape.check(&format!("grpc_server_handled_total{{grpc_code=\"OK\",{alive}}}"), 1.0);
    scrape.check(&format!("grpc_server_msg_sent_total{{{alive}}}"), 1.0);
    let watch = labels("Watch", "Watch", "bidi_stream");
    scrape.check(&format!("grpc_server_handled_total{{grpc_code=\"Canceled\",{watch}}}"), 0.0);
    scrape.check("etcd_server_client_requests_total{client_api_version=\"unknown\",type=\"unary\"}", 12.0);
    scrape.check("etcd_server_client_requests_total{client_api_version=\"unknown\",type=\"stream\"}", 1.0);
    scrape.positive("etcd_network_client_grpc_received_bytes_total");
    scrape.positive("etcd_network_client_grpc_sent_bytes_total");
}

fn counted_requests(scrape: &Scrape) {
    let check = |kind: &str, success: bool, count: f64| {
        let name = format!("etcd_server_request_duration_seconds_count{{success=\"{success}\",type=\"{kind}\"}}");
        scrape.check(&name, count);
    };
    check("Put", true, 3.0);
    // One without its lease; what is malformed is no request yet.
    check("Put", false, 1.0);
    check("Range", true, 1.0);
    check("ReadonlyTxn", true, 1.0);
    check("Txn", true, 1.0);
    check("DeleteRange", true, 1.0);
    check("LeaseGrant", true, 1.0);
    check("LeaseRevoke", true, 1.0);
    // The member's own.
    check("ClusterMemberAttrSet", true, 1.0);
    check("ClusterVersionSet", true, 1.0);
    assert!(!scrape.samples.keys().any(|name| name.contains("type=\"MemberAdd\"")));
    scrape.check("promhttp_metric_handler_requests_in_flight", 1.0);
    scrape.check("promhttp_metric_handler_requests_total{code=\"200\"}", 0.0);
    scrape.check("etcd_mvcc_db_open_read_transactions", 0.0);
}
