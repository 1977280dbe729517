use serde_json::{Value, json};

use super::*;
use crate::controllers::cluster::fixture::{at, now, stamp};

fn pod(name: &str, node: Option<&str>, status: Value) -> Value {
    json!({
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "a", "creationTimestamp": stamp(0)},
        "spec": {"nodeName": node, "containers": []},
        "status": status,
    })
}

fn told(plan: &Plan) -> Vec<String> {
    let words = plan.actions().map(|action| match action {
        Action::RequireAbsent { target, .. } => format!("require no {}", target.path()),
        Action::Patch { patch, .. } if patch["status"]["phase"] == "Failed" => "fail".into(),
        Action::Patch { .. } => "mark".into(),
        Action::Delete { target, grace_period_s: Some(0), .. } => format!("remove {}", target.key.name),
        other => panic!("unexpected {other:?}"),
    });
    words.collect()
}

fn planned(cluster: &Cluster, seconds: i64) -> Plan {
    PodGarbage::default().reconcile(cluster, &Key::new("a", "p"), &Attempt::default(), at(seconds))
}

#[test]
fn a_pod_of_a_node_that_does_not_exist_is_marked_and_removed_after_a_while() {
    let cluster = Cluster::default().with([pod("p", Some("gone"), json!({}))]);
    assert_eq!(told(&planned(&cluster, 0)), ["require no /api/v1/nodes/gone", "mark"]);
    let mark = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "lastTransitionTime": stamp(0)});
    let cluster = Cluster::default().with([pod("p", Some("gone"), json!({"conditions": [mark]}))]);
    assert_eq!(planned(&cluster, 39).wake_at, Some(at(40)));
    assert_eq!(told(&planned(&cluster, 40)), ["require no /api/v1/nodes/gone", "fail", "remove p"]);
}

#[test]
fn a_pod_of_an_existing_node_and_one_without_a_node_stay() {
    let node = json!({"kind": "Node", "metadata": {"name": "n"}});
    assert_eq!(planned(&Cluster::default().with([node, pod("p", Some("n"), json!({}))]), 999), Plan::nothing());
    assert_eq!(planned(&Cluster::default().with([pod("p", None, json!({}))]), 999), Plan::nothing());
}

#[test]
fn the_oldest_finished_pods_go_when_there_are_too_many() {
    let mut finished: Vec<Value> =
        ["x", "y", "z"].iter().map(|name| pod(name, Some("n"), json!({"phase": "Succeeded"}))).collect();
    finished[1]["metadata"]["creationTimestamp"] = stamp(-100).into();
    let cluster =
        Cluster::default().with(finished.into_iter().chain([pod("running", Some("n"), json!({"phase": "Running"}))]));
    let plan =
        PodGarbage { terminated_max: 2 }.reconcile(&cluster, &Key::cluster(FINISHED), &Attempt::default(), now());
    assert_eq!(told(&plan), ["remove y"]);
}
