//! Clients written in Python, over gRPC and over the JSON gateway: every command they have, against one of three members.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]

mod support;

use std::path::Path;
use std::process::Command;

use support::store::StoreCluster;
use support::{succeed, text};

async fn run(script: &str) {
    let python = std::env::var_os("KONTIKI_PYTHON")
        .expect("KONTIKI_PYTHON is not set; `cargo xtask test` installs the clients and sets it");
    let cluster = StoreCluster::start(3).await;
    for member in 0..cluster.len() {
        let url = cluster.client_url(member);
        let (host, port) = url.strip_prefix("http://").unwrap().split_once(':').unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(script);
        let output = succeed(Command::new(&python).arg("-B").arg(script).args([host, port]));
        assert_eq!(text(&output.stderr), "", "a client that works says nothing");
        assert!(text(&output.stdout).ends_with("maintenance\n"), "the script ran to its end");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_over_grpc() {
    run("every_command_grpc.py").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_over_the_json_gateway() {
    run("every_command_gateway.py").await;
}
