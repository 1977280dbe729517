//! Limits as the kernel has them, and what happens at them, with cgroups of either version.

use std::path::Path;
use std::time::Duration;

use kontiki_node_agent::runtime::plan::CgroupLimits;

use crate::support::{Node, is_unified, on_a_node, sandbox};

/// Whether this machine can limit `what`. A developer's may lack controllers; one that says it is complete must not.
fn can_limit(node: &Node, what: &str) -> bool {
    let warnings = node.runtime.warnings();
    let is_missing = warnings.iter().any(|warning| warning.contains(&format!("{what} controller")));
    if is_missing {
        assert!(std::env::var_os("KONTIKI_TEST_COMPLETE").is_none(), "{warnings:?}");
        eprintln!("no {what} controller here: its part is not tested");
    }
    !is_missing
}

#[test]
fn a_complete_machine_gives_no_reason_for_warnings() {
    on_a_node(|node| async move {
        if std::env::var_os("KONTIKI_TEST_COMPLETE").is_none() {
            return;
        }
        node.runtime.create_sandbox(sandbox("complete")).await.unwrap();
        let about_cgroups = |warning: &String| warning.contains("cgroup");
        assert_eq!(node.runtime.warnings().into_iter().find(about_cgroups), None);
    });
}

/// What the kernel says about a container: a file of v2, or the controller and file of v1.
fn control(node: &Node, pod_uid: &str, id: &str, v2: &str, v1: (&str, &str)) -> String {
    let root = Path::new("/sys/fs/cgroup");
    let (root, file) = if is_unified() { (root.to_owned(), v2) } else { (root.join(v1.0), v1.1) };
    let pod = root.join(&node.config.cgroup_parent).join(format!("kubepods/besteffort/pod{pod_uid}"));
    let path = pod.join(id).join(file);
    let content = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    content.trim_end().to_owned()
}

#[test]
fn limits_reach_the_kernel() {
    on_a_node(|node| async move {
        let mut plan = node.container("limited", &["sleep", "1000"]);
        plan.limits = CgroupLimits {
            memory_bytes: Some(64 << 20),
            cpu_shares: Some(512),
            cpu_quota_us: Some(50_000),
            pids: Some(50),
        };
        let id = plan.id.clone();
        node.runtime.create_sandbox(sandbox("limited")).await.unwrap();
        let started = node.runtime.start_container("limited", plan).await.unwrap();
        let control = |v2, v1| control(&node, "limited", &id, v2, v1);
        if can_limit(&node, "memory") {
            assert_eq!(control("memory.max", ("memory", "memory.limit_in_bytes")), "67108864");
            assert_eq!(control("cgroup.procs", ("memory", "cgroup.procs")), started.pid.to_string());
        }
        if can_limit(&node, "cpu") && is_unified() {
            assert_eq!(
                (control("cpu.weight", ("", "")), control("cpu.max", ("", ""))),
                ("20".into(), "50000 100000".into())
            );
        } else if can_limit(&node, "cpu") {
            assert_eq!(control("", ("cpu", "cpu.shares")), "512");
            assert_eq!(control("", ("cpu", "cpu.cfs_quota_us")), "50000");
        }
        if can_limit(&node, "pids") {
            assert_eq!(control("pids.max", ("pids", "pids.max")), "50");
        }
        if is_unified() {
            assert_eq!(control("memory.oom.group", ("", "")), "1");
            // Empty where the kernel does not account swap.
            let swap = format!("/sys/fs/cgroup/{}/memory.swap.max", node.config.cgroup_parent.display());
            assert!(!Path::new(&swap).exists() || control("memory.swap.max", ("", "")) == "0");
        }
    });
}

#[test]
fn too_many_processes_are_refused() {
    on_a_node(|mut node| async move {
        if !can_limit(&node, "pids") {
            return;
        }
        let mut plan = node.shell("forks", "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; echo all");
        plan.limits = CgroupLimits { pids: Some(5), ..CgroupLimits::default() };
        let (exit, log) = node.run("forks", plan).await;
        assert!(exit.code != 0 && log.contains("can't fork") && !log.contains("all"), "{exit:?} {log}");
    });
}

#[test]
fn a_container_sees_its_own_cgroup_as_the_root() {
    on_a_node(|mut node| async move {
        let script =
            "cut -d: -f3- /proc/self/cgroup | sort -u; cat /sys/fs/cgroup/pids.max; (mkdir /sys/fs/cgroup/x) 2>&1";
        let mut plan = node.shell("view", script);
        plan.limits = CgroupLimits { pids: Some(77), ..CgroupLimits::default() };
        let (_, log) = node.run("view", plan).await;
        assert_eq!(log.lines().next(), Some("/"), "{log}");
        if is_unified() {
            assert!(log.contains("\n77\n") && log.contains("Read-only file system"), "{log}");
        }
    });
}

#[test]
fn want_of_memory_is_told() {
    on_a_node(|mut node| async move {
        if !can_limit(&node, "memory") {
            return;
        }
        let mut plan = node.container("p7", GREEDY);
        plan.limits = CgroupLimits { memory_bytes: Some(16 << 20), ..CgroupLimits::default() };
        let (exit, _) = node.run("p7", plan).await;
        assert!(exit.oom && exit.code == 137, "{exit:?}");
    });
}

/// Wants a hundred megabytes at once.
const GREEDY: &[&str] = &["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"];

#[test]
fn a_container_dies_as_a_whole_for_want_of_memory() {
    on_a_node(|mut node| async move {
        if !is_unified() || !can_limit(&node, "memory") {
            eprintln!("v1 kills single processes: nothing to test");
            return;
        }
        let mut plan = node.shell("whole", &format!("{}; echo survived; sleep 1000", GREEDY.join(" ")));
        plan.limits = CgroupLimits { memory_bytes: Some(16 << 20), ..CgroupLimits::default() };
        let (exit, log) = node.run("whole", plan).await;
        assert!(exit.oom && exit.code == 137 && !log.contains("survived"), "{exit:?} {log}");
    });
}

#[test]
fn a_greedy_container_does_not_end_its_neighbours() {
    on_a_node(|mut node| async move {
        if !can_limit(&node, "memory") {
            return;
        }
        let mut pod = sandbox("shared");
        pod.limits = CgroupLimits { memory_bytes: Some(32 << 20), ..CgroupLimits::default() };
        node.runtime.create_sandbox(pod).await.unwrap();
        let neighbour =
            node.runtime.start_container("shared", node.container("shared", &["sleep", "1000"])).await.unwrap();
        let mut greedy = node.container("shared", GREEDY);
        greedy.name = "greedy".to_owned();
        node.runtime.start_container("shared", greedy).await.unwrap();
        let (key, exit) = node.exit().await;
        assert!(key.name == "greedy" && exit.oom && exit.code == 137, "{key:?} {exit:?}");
        let status = std::fs::read_to_string(format!("/proc/{}/status", neighbour.pid)).unwrap();
        assert!(status.contains("State:\tS"), "{status}");
        node.runtime.stop("shared", "c", Duration::ZERO).await.unwrap();
        assert!(!node.exit().await.1.oom);
    });
}
