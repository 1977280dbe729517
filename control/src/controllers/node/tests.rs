use std::time::Duration;

use k8s_openapi::api::core::v1::{Taint, Toleration};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::eviction::tolerates;
use super::*;
use crate::controllers::ControllersConfig;
use crate::controllers::action::{Action, Attempt, Key, Plan};
use crate::controllers::cluster::Cluster;
use crate::controllers::cluster::fixture::{at, now, stamp};
use crate::controllers::controller::Controller;

fn config() -> ControllersConfig {
    ControllersConfig {
        unreachable_toleration_s: Some(3),
        force_remove_after: Some(Duration::from_secs(5)),
        ..Default::default()
    }
}

fn node(name: &str, ready: &str, taints: Value) -> Value {
    json!({
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"taints": taints},
        "status": {"conditions": [{"type": "Ready", "status": ready, "reason": "KubeletReady", "lastHeartbeatTime": stamp(0)}]},
    })
}

fn lease(name: &str, version: u64, renewed: i64) -> Value {
    json!({
        "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease", "resourceVersion": version.to_string(), "uid": "lease"},
        "spec": {"renewTime": stamp(renewed).replace('Z', ".000000Z")},
    })
}

fn unreachable(seconds: i64) -> Value {
    json!([
        {"key": UNREACHABLE, "effect": "NoSchedule", "timeAdded": stamp(seconds)},
        {"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": stamp(seconds)},
    ])
}

fn pod(change: Value) -> Value {
    let toleration =
        |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
    let mut pod = json!({
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "a"},
        "spec": {"nodeName": "dead", "containers": [], "tolerations": [toleration(NOT_READY), toleration(UNREACHABLE)]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]},
    });
    for part in ["metadata", "spec", "status"] {
        for (key, value) in change[part].as_object().into_iter().flatten() {
            pod[part][key] = value.clone();
        }
    }
    pod
}

fn health(cluster: &Cluster, name: &str, now: Timestamp) -> Plan {
    NodeHealth::new(&config()).reconcile(cluster, &Key::cluster(name), &Attempt::default(), now)
}

fn eviction(cluster: &Cluster, now: Timestamp) -> Plan {
    Evictions::new(&config()).reconcile(cluster, &Key::new("a", "p"), &Attempt::default(), now)
}

fn told(plan: &Plan) -> Vec<String> {
    let words = plan.actions().map(|action| match action {
        Action::Event(event) => format!("event {}", event.reason),
        Action::Delete { grace_period_s, .. } => format!("delete {grace_period_s:?}"),
        Action::Patch { patch, subresource: Some("status"), .. } => {
            let conditions = patch["status"]["conditions"].as_array().unwrap().iter();
            let text = |c: &Value, field: &str| c[field].as_str().unwrap_or_default().to_owned();
            conditions
                .map(|c| format!("{}={}({})", text(c, "type"), text(c, "status"), text(c, "reason")))
                .collect::<Vec<_>>()
                .join(" ")
        }
        Action::Patch { patch, .. } => {
            let taints = patch["spec"]["taints"].as_array().into_iter().flatten();
            let words = taints.map(|t| {
                format!("{}:{}", t["key"].as_str().unwrap().rsplit('/').next().unwrap(), t["effect"].as_str().unwrap())
            });
            format!("taints [{}]", words.collect::<Vec<_>>().join(" "))
        }
        other => panic!("unexpected {other:?}"),
    });
    words.collect()
}

#[test]
fn a_silent_node_is_marked_when_the_grace_period_ends() {
    let cluster = Cluster::default().with([node("dead", "True", Value::Null)]);
    assert_eq!(health(&cluster, "dead", at(39)).wake_at, Some(at(40)));
    let unknown = "Ready=Unknown(NodeStatusUnknown) MemoryPressure=Unknown(NodeStatusNeverUpdated) \
        DiskPressure=Unknown(NodeStatusNeverUpdated) PIDPressure=Unknown(NodeStatusNeverUpdated)";
    assert_eq!(told(&health(&cluster, "dead", at(40))), [unknown, "event NodeNotReady"]);
}

#[test]
fn a_renewed_lease_is_a_heartbeat_by_our_clock_not_by_the_agents() {
    let mut cluster = Cluster::default().with([node("dead", "True", Value::Null), lease("dead", 1, -9000)]);
    cluster.put(lease("dead", 2, -8990), at(30));
    assert_eq!(health(&cluster, "dead", at(40)).wake_at, Some(at(70)));
    // The same renewal seen again is none.
    cluster.put(lease("dead", 3, -8990), at(60));
    assert_eq!(health(&cluster, "dead", at(60)).wake_at, Some(at(70)));
}

#[test]
fn taints_follow_the_conditions_and_go_with_them() {
    let other = json!({"key": "gpu", "effect": "NoSchedule"});
    let alive = node("alive", "True", Value::Null);
    let table = [
        ("Unknown", json!([other]), vec!["taints [gpu:NoSchedule unreachable:NoSchedule unreachable:NoExecute]"]),
        ("False", Value::Null, vec!["taints [not-ready:NoSchedule not-ready:NoExecute]"]),
        ("True", unreachable(0), vec!["taints []"]),
        ("Unknown", unreachable(0), vec![]),
    ];
    for (ready, taints, expected) in table {
        let cluster = Cluster::default().with([alive.clone(), node("dead", ready, taints.clone())]);
        assert_eq!(told(&health(&cluster, "dead", at(1))), expected, "{ready} {taints}");
    }
}

#[test]
fn when_no_node_is_alive_nothing_is_evicted() {
    let cluster = Cluster::default().with([node("dead", "Unknown", Value::Null)]);
    assert_eq!(told(&health(&cluster, "dead", at(1))), ["taints [unreachable:NoSchedule]"]);
}

#[test]
fn a_cordoned_node_is_tainted() {
    let mut cordoned = node("n", "True", Value::Null);
    cordoned["spec"]["unschedulable"] = true.into();
    let cluster = Cluster::default().with([cordoned]);
    assert_eq!(told(&health(&cluster, "n", at(1))), ["taints [unschedulable:NoSchedule]"]);
}

#[test]
fn a_pod_of_a_dead_node_is_first_marked_not_ready() {
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let cluster = Cluster::default().with([node("dead", "Unknown", unreachable(0)), pod(ready)]);
    assert_eq!(told(&eviction(&cluster, at(0))), ["Ready=False(NodeNotReady)", "event NodeNotReady"]);
}

#[test]
fn a_pod_leaves_when_its_toleration_ends() {
    let cluster = Cluster::default().with([node("dead", "Unknown", unreachable(0)), pod(json!({}))]);
    assert_eq!(eviction(&cluster, at(2)).wake_at, Some(at(3)), "the default of 300 s is overridden");
    let expected =
        ["event TaintManagerEviction", "Ready=False() DisruptionTarget=True(DeletionByTaintManager)", "delete None"];
    assert_eq!(told(&eviction(&cluster, at(3))), expected);

    let own = |seconds: Value| json!({"spec": {"tolerations": [{"operator": "Exists", "tolerationSeconds": seconds}]}});
    let cluster = Cluster::default().with([node("dead", "Unknown", unreachable(0)), pod(own(json!(60)))]);
    assert_eq!(eviction(&cluster, at(59)).wake_at, Some(at(60)), "what the pod asked for itself is kept");
    let cluster = Cluster::default().with([node("dead", "Unknown", unreachable(0)), pod(own(Value::Null))]);
    assert_eq!(eviction(&cluster, at(9999)), Plan::nothing(), "for ever");
    let cluster =
        Cluster::default().with([node("dead", "Unknown", unreachable(0)), pod(json!({"spec": {"tolerations": []}}))]);
    assert_eq!(told(&eviction(&cluster, at(0))).last().unwrap(), "delete None");
}

#[test]
fn a_deleted_pod_of_a_dead_node_is_removed_without_its_agent() {
    let deleted = json!({"metadata": {"deletionTimestamp": stamp(30)}});
    let cluster = Cluster::default().with([node("dead", "Unknown", unreachable(0)), pod(deleted.clone())]);
    assert_eq!(eviction(&cluster, at(34)).wake_at, Some(at(35)));
    assert_eq!(told(&eviction(&cluster, at(35))), ["delete Some(0)"]);
    let cluster = Cluster::default().with([node("dead", "True", Value::Null), pod(deleted.clone())]);
    assert_eq!(eviction(&cluster, at(9999)), Plan::nothing(), "a living agent confirms it");
    let mut ordered = deleted;
    ordered["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": "s"}]);
    let cluster = Cluster::default().with([node("dead", "Unknown", unreachable(0)), pod(ordered.clone())]);
    assert_eq!(eviction(&cluster, at(9999)), Plan::nothing(), "a person decides");
    let out = json!([{"key": OUT_OF_SERVICE, "effect": "NoExecute", "timeAdded": stamp(0)}]);
    let cluster = Cluster::default().with([node("dead", "Unknown", out), pod(ordered)]);
    assert_eq!(told(&eviction(&cluster, now())), ["delete Some(0)"], "a person has decided");
}

#[test]
fn tolerations_match_by_key_operator_value_and_effect() {
    let taint =
        |effect: &str| Taint { key: "k".into(), value: Some("v".into()), effect: effect.into(), time_added: None };
    let table = [
        (json!({"key": "k", "operator": "Exists"}), true),
        (json!({"operator": "Exists"}), true),
        (json!({"key": "k", "operator": "Equal", "value": "v"}), true),
        (json!({"key": "k", "value": "v", "effect": "NoExecute"}), true),
        (json!({"key": "k", "value": "w"}), false),
        (json!({"key": "k", "value": "v", "effect": "NoSchedule"}), false),
        (json!({"key": "other", "operator": "Exists"}), false),
        (json!({}), false),
    ];
    for (toleration, expected) in table {
        let parsed: Toleration = serde_json::from_value(toleration.clone()).unwrap();
        assert_eq!(tolerates(&parsed, &taint("NoExecute")), expected, "{toleration}");
    }
}
