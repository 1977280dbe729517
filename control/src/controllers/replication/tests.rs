use serde_json::{Value, json};

use super::*;
use crate::controllers::cluster::fixture::{at, now, stamp};

fn controller(replicas: i64) -> Value {
    json!({
        "kind": "ReplicationController",
        "metadata": {"name": "web", "namespace": "a", "generation": 1},
        "spec": {
            "replicas": replicas,
            "selector": {"app": "web"},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    })
}

fn pod(name: &str, owner: Option<&str>, status: Value) -> Value {
    let owners = owner.map(|uid| {
        json!([{"apiVersion": "v1", "kind": "ReplicationController", "name": "web", "uid": uid, "controller": true}])
    });
    json!({
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "a", "labels": {"app": "web"}, "ownerReferences": owners},
        "spec": {"nodeName": "n", "containers": []},
        "status": status,
    })
}

fn ready_since(seconds: i64) -> Value {
    let condition = json!({"type": "Ready", "status": "True", "lastTransitionTime": stamp(seconds)});
    json!({"phase": "Running", "conditions": [condition]})
}

fn planned(cluster: &Cluster, attempt: &Attempt) -> Plan {
    Replication.reconcile(cluster, &Key::new("a", "web"), attempt, now())
}

/// The plan in words; names of new pods are left out.
fn told(plan: &Plan) -> Vec<String> {
    plan.actions()
        .map(|action| match action {
            Action::Create { object, .. } => {
                assert_eq!(object["metadata"]["ownerReferences"][0]["controller"], true);
                assert_eq!(object["metadata"]["ownerReferences"][0]["blockOwnerDeletion"], true);
                assert!(object["metadata"]["name"].as_str().unwrap().starts_with("web-"));
                "create".to_owned()
            }
            Action::Delete { target, uid, .. } => format!("delete {} {uid}", target.key.name),
            Action::Patch { target, subresource: None, patch } => {
                let owners = patch["metadata"]["ownerReferences"].as_array().unwrap().len();
                format!("patch {} to {owners} owners", target.key.name)
            }
            Action::Patch { patch, .. } => {
                let status = &patch["status"];
                let number = |field: &str| status[field].as_i64().unwrap_or(0);
                format!("status {}/{}/{}", number("replicas"), number("readyReplicas"), number("availableReplicas"))
            }
            other => panic!("unexpected {other:?}"),
        })
        .collect()
}

#[test]
fn missing_pods_are_created_in_growing_batches() {
    let cluster = Cluster::default().with([controller(6)]);
    let plan = planned(&cluster, &Attempt::default());
    let creations: Vec<usize> = plan
        .batches
        .iter()
        .map(|batch| batch.iter().filter(|s| matches!(s.action, Action::Create { .. })).count())
        .filter(|n| *n > 0)
        .collect();
    assert_eq!(creations, [1, 2, 3]);
}

#[test]
fn the_same_view_names_the_same_pods() {
    let cluster = Cluster::default().with([controller(2)]);
    assert_eq!(planned(&cluster, &Attempt::default()), planned(&cluster, &Attempt::default()));
}

#[test]
fn finished_and_terminating_pods_are_replaced() {
    let mut leaving = pod("leaving", Some("uid-web"), ready_since(-60));
    leaving["metadata"]["deletionTimestamp"] = stamp(30).into();
    let failed = pod("failed", Some("uid-web"), json!({"phase": "Failed"}));
    let cluster = Cluster::default().with([controller(2), leaving, failed]);
    assert_eq!(told(&planned(&cluster, &Attempt::default())), ["status 0/0/0", "create", "create"]);
}

#[test]
fn a_matching_orphan_is_adopted_and_one_that_no_longer_matches_is_released() {
    let mut stranger = pod("stranger", Some("uid-web"), ready_since(-60));
    stranger["metadata"]["labels"] = json!({"app": "other"});
    let orphan = pod("orphan", None, ready_since(-60));
    let foreign = pod("foreign", Some("uid-another"), ready_since(-60));
    let cluster = Cluster::default().with([controller(1), stranger, orphan, foreign]);
    let plan = told(&planned(&cluster, &Attempt::default()));
    assert_eq!(plan, ["patch orphan to 1 owners", "patch stranger to 0 owners", "status 1/1/1"]);
}

#[test]
fn surplus_pods_go_in_the_order_of_their_worth() {
    let mut unassigned = pod("unassigned", Some("uid-web"), json!({"phase": "Pending"}));
    unassigned["spec"]["nodeName"] = Value::Null;
    let mut cheap = pod("cheap", Some("uid-web"), ready_since(-60));
    cheap["metadata"]["annotations"] = json!({"controller.kubernetes.io/pod-deletion-cost": "-5"});
    let all = [
        pod("old", Some("uid-web"), ready_since(-600)),
        pod("young", Some("uid-web"), ready_since(-10)),
        cheap,
        pod("running", Some("uid-web"), json!({"phase": "Running"})),
        pod("pending", Some("uid-web"), json!({"phase": "Pending"})),
        unassigned,
    ];
    let order = ["unassigned", "pending", "running", "cheap", "young", "old"];
    for count in 0..=6 {
        let cluster = Cluster::default().with([controller(6 - count)].into_iter().chain(all.clone()));
        let plan = planned(&cluster, &Attempt::default());
        let deleted: Vec<String> =
            told(&plan).into_iter().filter_map(|t| Some(t.strip_prefix("delete ")?.to_owned())).collect();
        let expected: Vec<String> =
            order.iter().take(usize::try_from(count).unwrap()).map(|n| format!("{n} uid-{n}")).collect();
        assert_eq!(deleted, expected);
    }
}

#[test]
fn a_pod_is_available_after_being_ready_long_enough() {
    let mut patient = controller(1);
    patient["spec"]["minReadySeconds"] = 10.into();
    let cluster = Cluster::default().with([patient, pod("p", Some("uid-web"), ready_since(-4))]);
    let plan = planned(&cluster, &Attempt::default());
    assert_eq!(told(&plan), ["status 1/1/0"]);
    assert_eq!(plan.wake_at, Some(at(6)));
}

#[test]
fn a_refusal_shows_as_a_condition_and_goes_with_the_next_success() {
    let refused = Failure::Refused { code: 403, reason: "Forbidden".into(), message: "quota".into() };
    let attempt = Attempt { failures: 1, last: Some(refused) };
    let cluster = Cluster::default().with([controller(1)]);
    let plan = planned(&cluster, &attempt);
    let Some(Action::Patch { patch, .. }) = plan.actions().next() else { panic!("the status comes first") };
    assert_eq!(patch["status"]["conditions"][0]["type"], "ReplicaFailure");
    assert_eq!(patch["status"]["conditions"][0]["message"], "quota");

    let mut failing = controller(0);
    failing["status"] = json!({"replicas": 0, "observedGeneration": 1, "conditions": patch["status"]["conditions"]});
    let plan = planned(&Cluster::default().with([failing]), &Attempt::default());
    let Some(Action::Patch { patch, .. }) = plan.actions().next() else { panic!("the condition goes") };
    assert_eq!(patch["status"]["conditions"], Value::Null);
}

#[test]
fn a_settled_controller_plans_nothing() {
    let mut settled = controller(1);
    settled["status"] = json!({"replicas": 1, "fullyLabeledReplicas": 1, "readyReplicas": 1, "availableReplicas": 1, "observedGeneration": 1});
    let cluster = Cluster::default().with([settled, pod("p", Some("uid-web"), ready_since(-60))]);
    assert_eq!(planned(&cluster, &Attempt::default()), Plan::nothing());
}

#[test]
fn a_controller_that_is_being_deleted_changes_no_pods() {
    let mut leaving = controller(3);
    leaving["metadata"]["deletionTimestamp"] = stamp(0).into();
    let cluster = Cluster::default().with([leaving, pod("orphan", None, ready_since(-60))]);
    assert_eq!(told(&planned(&cluster, &Attempt::default())), ["status 0/0/0"]);
}

#[test]
fn nothing_is_created_in_a_namespace_that_is_going() {
    let going = json!({"kind": "Namespace", "metadata": {"name": "a", "deletionTimestamp": stamp(0)}});
    let cluster = Cluster::default().with([controller(3), going]);
    assert_eq!(told(&planned(&cluster, &Attempt::default())), ["status 0/0/0"]);
}
