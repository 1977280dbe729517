//! `kontiki bench`: every load does what it says, on Kontiki and on a real etcd. What it measures is not looked at.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]

mod support;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use support::store::StoreCluster;
use support::{KONTIKI, Process, client, succeed, text, wait_for};

const SHORT: [&str; 6] =
    ["--keys=500", "--duration=300ms", "--warm-up=100ms", "--pairs=1", "--trials=1", "--output=json"];
const LOADS: [&str; 14] = [
    "put:3",
    "txn:3",
    "get:3",
    "get-serializable:3",
    "range-1k:3",
    "lease-grant:3",
    "lease-keep-alive:3",
    "watch-latency:3",
    "watch-fan-out:250",
    "mixed:3",
    "watch-slow:3",
    "watch-resume:3",
    "fill:3",
    "restart",
];

fn bench(words: &[&str]) -> Value {
    let output = succeed(Command::new(KONTIKI).arg("bench").args(words));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}:\n{}", text(&output.stdout)))
}

/// That every run of every server did something and met no error.
fn all_worked(results: &Value, servers: usize) {
    let runs = results["runs"].as_array().unwrap();
    assert!(runs.len() >= LOADS.len() * servers, "{} runs", runs.len());
    for run in runs {
        assert!(run["operations"].as_u64().unwrap() > 0 && run["errors"] == 0, "{run:#}");
        let latency = &run["latency_us"];
        assert!(latency["p50"].as_u64() > Some(0) && latency["p50"].as_u64() <= latency["max"].as_u64(), "{run:#}");
    }
}

#[test]
fn every_load_runs_on_kontiki_and_on_etcd_in_turn() {
    let etcd = client("etcd").display().to_string();
    let dir = tempfile::tempdir().unwrap();
    let (place, report) = (dir.path().display().to_string(), dir.path().join("report"));
    let mut words = vec!["--etcd-bin", &etcd, "--dir", &place, "--report", report.to_str().unwrap()];
    words.extend(SHORT);
    words.extend(LOADS);
    words.extend(["leader-kill", "leader-term", "leader-stop"]);
    let results = bench(&words);
    all_worked(&results, 2);
    for server in results["servers"].as_array().unwrap() {
        assert!(server["version"].as_str().unwrap().starts_with("3."), "{server}");
        assert!(server["command"].as_str().unwrap().contains("--initial-cluster"), "{server}");
    }
    let costs = results["runs"].as_array().unwrap().iter().filter(|run| run["load"] != "restart:1");
    costs.for_each(|run| assert!(run["cost"]["cpu_us_per_operation"].is_number(), "{run:#}"));
    for comparison in results["comparisons"].as_array().unwrap() {
        let verdicts = comparison["rows"].as_array().unwrap().iter().map(|row| row["verdict"].clone());
        assert!(verdicts.into_iter().all(|verdict| verdict == "not-shown"), "one pair shows nothing: {comparison:#}");
    }
    let failovers = results["failovers"].as_array().unwrap();
    assert_eq!(failovers.len(), 6);
    for trial in failovers {
        assert!(trial["acknowledged"].as_u64().unwrap() > 100, "{trial:#}");
        for nothing in ["lost_writes", "lost_events", "doubled_events"] {
            assert_eq!(trial[nothing], 0, "{trial:#}");
        }
    }
    let page = std::fs::read_to_string(report.join("index.html")).unwrap();
    assert!(page.matches("<svg").count() >= LOADS.len() + 6 && page.ends_with("</body></html>\n"));
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["report"], "the members' directories are gone");
}

/// Both at once, because most of their time is spent waiting.
#[test]
fn the_leader_is_cut_off_and_its_disk_stalls_on_kontiki_and_on_etcd() {
    let etcd = client("etcd").display().to_string();
    let fail = |load: &str| {
        let dir = tempfile::tempdir().unwrap();
        let words = [load, "--etcd-bin", &etcd, "--dir", dir.path().to_str().unwrap()];
        let results = bench(&[&words[..], &SHORT].concat());
        assert_nothing_left(dir.path());
        let servers = results["servers"].as_array().unwrap();
        assert!(servers.len() == 2 && servers.iter().all(|server| server["only_for"].is_string()), "{servers:?}");
        results["failovers"].as_array().unwrap().clone()
    };
    let [partitions, stalls] = std::thread::scope(|scope| {
        let both = ["leader-partition", "leader-disk"].map(|load| scope.spawn(move || fail(load)));
        both.map(|trials| trials.join().unwrap())
    });
    assert_eq!((partitions.len(), stalls.len()), (2, 2));
    for trial in partitions.iter().chain(&stalls) {
        assert!(trial["acknowledged"].as_u64().unwrap() > 100, "{trial:#}");
        for nothing in ["lost_writes", "lost_events", "doubled_events"] {
            assert_eq!(trial[nothing], 0, "{trial:#}");
        }
    }
    // Did the faults happen? A leader that is cut off cannot lead on, and no election of etcd is as short as this.
    assert!(partitions.iter().all(|trial| trial["new_leader"] == true), "{partitions:#?}");
    let etcds = stalls.iter().find(|trial| trial["server"] == "etcd").unwrap();
    assert!(etcds["gap_us"].as_u64() > Some(500_000), "{etcds:#}");
}

/// A filesystem that stays frozen would outlive its processes, and keep its device.
#[test]
fn a_benchmark_that_is_ended_while_a_disk_stalls_leaves_nothing_behind() {
    let (dir, log) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    let mut command = Command::new(KONTIKI);
    command.args(["bench", "leader-disk", "--start", "--dir"]).arg(dir.path());
    let mut bench = Process::spawn("bench", &mut command, log.path());
    wait_for("a thread to wait for its disk half a second long", Duration::from_secs(20), || {
        let looks = (0..10).map(|_| {
            std::thread::sleep(Duration::from_millis(50));
            processes(dir.path()).iter().flat_map(|process| waiting_for_disk(process)).collect::<HashSet<_>>()
        });
        looks.reduce(|before, now| &before & &now).filter(|always| !always.is_empty())
    });
    assert_eq!(devices(dir.path()), 3);
    assert!(!bench.terminate(Duration::from_secs(5)).success());
    assert_nothing_left(dir.path());
}

/// Neither processes nor loop devices nor files.
fn assert_nothing_left(dir: &Path) {
    wait_for("the members and their devices to be gone", Duration::from_secs(5), || {
        (processes(dir).is_empty() && devices(dir) == 0).then_some(())
    });
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0);
}

/// The members whose data is below `dir`, as folders of `/proc`.
fn processes(dir: &Path) -> Vec<PathBuf> {
    let data = dir.join("kontiki-bench-").display().to_string();
    let all = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    all.filter(|process| std::fs::read(process.join("cmdline")).is_ok_and(|argv| text(&argv).contains(&data))).collect()
}

/// Those of its threads that cannot be interrupted.
fn waiting_for_disk(process: &Path) -> Vec<PathBuf> {
    let tasks = std::fs::read_dir(process.join("task")).into_iter().flatten().flatten().map(|task| task.path());
    tasks
        .filter(|task| {
            // After the name, which is in brackets.
            let stat = std::fs::read_to_string(task.join("stat")).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('D'))
        })
        .collect()
}

/// Loop devices on files below `dir`.
fn devices(dir: &Path) -> usize {
    let all = std::fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap().path().join("loop/backing_file"));
    all.filter(|file| std::fs::read_to_string(file).is_ok_and(|file| Path::new(file.trim()).starts_with(dir))).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_run_already_are_measured_by_their_endpoints() {
    let cluster = StoreCluster::start(1).await;
    let results = bench(&["put:2", "--endpoints", &cluster.endpoints(), "--duration=200ms", "--rate=50", "-ojson"]);
    let run = &results["runs"][0];
    // What an open loop starts does not depend on the server.
    assert!((5..=10).contains(&run["operations"].as_u64().unwrap()), "{run:#}");
    assert!(run["cost"].is_null(), "whose processes they are is not known");
}

#[test]
fn what_cannot_be_measured_is_told() {
    let told = |words: &[&str]| {
        let output = Command::new(KONTIKI).arg("bench").args(words).output().unwrap();
        assert!(!output.status.success());
        text(&output.stderr)
    };
    assert!(told(&["nothing"]).contains("there is no load \"nothing\""));
    let refused = told(&["put:1", "--endpoints", "http://127.0.0.1:1"]);
    assert!(refused.starts_with("kontiki: cannot reach http://127.0.0.1:1: "), "{refused}");
    let unknown = told(&["put:1", "--etcd-bin", "/nothing/etcd"]);
    assert!(unknown.starts_with("kontiki: cannot start /nothing/etcd: No such file"), "{unknown}");
    let foreign = told(&["leader-kill", "--endpoints", "http://127.0.0.1:1"]);
    assert!(foreign.starts_with("kontiki: "), "{foreign}");
    let shared = told(&["leader-disk", "--endpoints", "http://127.0.0.1:1"]);
    assert!(shared.starts_with("kontiki: leader-disk needs members that are started here: "), "{shared}");
    let list = text(&succeed(Command::new(KONTIKI).args(["bench", "--list"])).stdout);
    assert!(list.lines().count() >= LOADS.len() && list.contains("leader-disk"), "{list}");
}
