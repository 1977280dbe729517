//! `kontiki control` against Debian's etcd: the control plane depends on nothing of Kontiki's own store.

#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::{KONTIKI, Process, client, free_ports, succeed, text, wait_for};

fn etcd(dir: &Path, client_port: u16, peer_port: u16) -> Process {
    let (clients, peers) = (format!("http://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{peer_port}"));
    let mut command = Command::new(client("etcd"));
    command.arg("--data-dir").arg(dir.join("etcd"));
    command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
    command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    command.args(["--initial-cluster", &format!("default={peers}")]);
    Process::spawn("etcd", &mut command, &dir.join("etcd.log"))
}

#[test]
fn the_control_plane_runs_on_a_real_etcd() {
    let dir = tempfile::tempdir().unwrap();
    let ports = free_ports(3);
    let _etcd = etcd(dir.path(), ports[0], ports[1]);
    let kubeconfig = dir.path().join("kubeconfig");
    let mut command = Command::new(KONTIKI);
    command.args(["control", "--etcd-servers", &format!("http://127.0.0.1:{}", ports[0])]);
    command.args(["--api-listen", &format!("127.0.0.1:{}", ports[2])]);
    command.arg("--data-dir").arg(dir.path().join("control")).arg("--kubeconfig").arg(&kubeconfig);
    let mut control = Process::spawn("kontiki control", &mut command, &dir.path().join("control.log"));

    let kubectl = |arguments: &[&str]| {
        let mut command = Command::new(client("kubectl"));
        command.env("HOME", dir.path()).arg("--kubeconfig").arg(&kubeconfig).args(arguments);
        command
    };
    wait_for("the control plane to be ready", Duration::from_secs(30), || {
        let ready = kubeconfig.exists() && kubectl(&["get", "--raw", "/readyz"]).output().unwrap().status.success();
        ready.then_some(())
    });
    wait_for("the controllers to make the default service account", Duration::from_secs(30), || {
        kubectl(&["get", "serviceaccount", "default"]).output().unwrap().status.success().then_some(())
    });
    succeed(&mut kubectl(&["create", "configmap", "settings", "--from-literal=colour=blue"]));
    let colour = succeed(&mut kubectl(&["get", "configmap", "settings", "-o", "jsonpath={.data.colour}"]));
    assert_eq!(text(&colour.stdout), "blue");
    // It lies in etcd, under the key that Kubernetes uses, readable as it is.
    let mut etcdctl = Command::new(client("etcdctl"));
    etcdctl.env("ETCDCTL_API", "3").args(["--endpoints", &format!("http://127.0.0.1:{}", ports[0])]);
    let stored = succeed(etcdctl.args(["get", "--print-value-only", "/registry/configmaps/default/settings"]));
    assert!(text(&stored.stdout).contains("\"colour\":\"blue\""), "{}", text(&stored.stdout));
    assert!(control.terminate(Duration::from_secs(20)).success());
}
