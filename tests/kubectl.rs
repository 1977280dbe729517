//! Every kubectl of this machine against the whole product: what users type, with nothing on standard error.
//!
//! The verbs in detail are tested against the API server alone (`control/tests/kubectl.rs`); here pods really run.

#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::dev::{Dev, Kubectl, PATIENCE};
use support::wait_for;

#[test]
fn every_kubectl_runs_work_and_reads_its_logs() {
    let mut dev = Dev::start(3, 2);
    for (n, kubectl) in dev.every_kubectl().into_iter().enumerate() {
        println!("{}", kubectl.program.display());
        workloads(&kubectl, n);
    }
    dev.stop();
}

fn workloads(kubectl: &Kubectl, n: usize) {
    let namespace = format!("n{n}");
    kubectl.run(&["create", "namespace", &namespace]);
    let ns = ["-n", &namespace];
    let with = |arguments: &[&str]| -> Vec<String> {
        arguments.iter().chain(ns.iter()).map(|argument| (*argument).to_owned()).collect()
    };
    let run = |arguments: &[&str]| {
        let arguments = with(arguments);
        kubectl.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };

    let manifest = kubectl.manifest(CONTROLLER);
    run(&["apply", "-f", manifest.path().to_str().unwrap()]);
    let until = |object: &str, path: &str, expected: &str| {
        let jsonpath = format!("jsonpath={{{path}}}");
        wait_for(&format!("{object} {path} to be {expected}"), PATIENCE, || {
            (run(&["get", object, "-o", &jsonpath]) == expected).then_some(())
        });
    };
    until("rc/echo", ".status.readyReplicas", "2");
    run(&["scale", "rc/echo", "--replicas=3"]);
    until("rc/echo", ".status.readyReplicas", "3");
    let pods = run(&["get", "pods", "-l", "app=echo", "-o", "name"]);
    let pod = pods.lines().next().unwrap().to_owned();
    run(&["wait", "--for=condition=Ready", &pod, "--timeout=60s"]);
    logs(&run, &pod);
    for arguments in [
        &["get", "all"][..],
        &["get", "pods", "-o", "wide"],
        &["get", &pod, "-o", "yaml"],
        &["describe", &pod],
        &["describe", "rc", "echo"],
        &["get", "events", "--field-selector", "type=Normal"],
        &["label", &pod, "seen=yes"],
        &["annotate", &pod, "seen=yes"],
        &["patch", "rc", "echo", "-p", "{\"spec\":{\"replicas\":1}}"],
        &["get", "nodes", "-o", "wide"],
        &["describe", "node", "node-1"],
        &["api-resources"],
        &["explain", "pod.spec.containers.command"],
    ] {
        assert!(!run(arguments).is_empty(), "kubectl {}", arguments.join(" "));
    }
    if kubectl.minor() >= 23 {
        // Older ones have neither the verb nor that condition.
        run(&["events"]);
        run(&["wait", "--for=jsonpath={.spec.replicas}=1", "rc/echo", "--timeout=60s"]);
    }

    let manifest = kubectl.manifest(JOB);
    run(&["create", "-f", manifest.path().to_str().unwrap()]);
    // On a busy machine it may have ended before it is seen to run.
    let phase = ["get", "pods", "-l", "job-name=sum", "-o", "jsonpath={.items[*].status.phase}"];
    wait_for("the job to start", PATIENCE, || ["Running", "Succeeded"].contains(&&*run(&phase)).then_some(()));
    // Ends by itself: the container does.
    assert_eq!(run(&["logs", "-f", "job/sum"]), "42\nlast\n");
    run(&["wait", "--for=condition=Complete", "job/sum", "--timeout=60s"]);
    run(&["delete", "job/sum", "rc/echo"]);
    wait_for("the pods to go", PATIENCE, || run(&["get", "pods", "-o", "name"]).is_empty().then_some(()));
    kubectl.run(&["delete", "namespace", &namespace]);
}

fn logs(run: &impl Fn(&[&str]) -> String, pod: &str) {
    wait_for("three lines of log", PATIENCE, || (run(&["logs", pod]).lines().count() >= 3).then_some(()));
    assert!(run(&["logs", pod]).starts_with("line 1\nline 2\n"));
    assert_eq!(run(&["logs", pod, "--tail=1"]).lines().count(), 1);
    let stamped = run(&["logs", pod, "--timestamps", "--limit-bytes=60"]);
    assert!(stamped.starts_with("20") && stamped.contains("Z line 1"), "{stamped}");
}

const CONTROLLER: &str = r#"apiVersion: v1
kind: ReplicationController
metadata:
  name: echo
spec:
  replicas: 2
  template:
    metadata:
      labels: {app: echo}
    spec:
      containers:
      - name: echo
        image: busybox
        command: ["sh", "-c", "for i in 1 2 3; do echo line $i; done; sleep 1000"]
      terminationGracePeriodSeconds: 0
"#;

const JOB: &str = r#"apiVersion: batch/v1
kind: Job
metadata:
  name: sum
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: sum
        image: busybox
        command: ["sh", "-c", "echo $((40 + 2)); sleep 1; echo last"]
"#;
