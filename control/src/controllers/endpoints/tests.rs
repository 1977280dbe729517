use serde_json::json;

use super::*;
use crate::controllers::cluster::fixture::{NOW, now};

fn service(spec: Value) -> Value {
    json!({"kind": "Service", "metadata": {"name": "web", "namespace": "a"}, "spec": spec})
}

fn pod(name: &str, ip: &str, ready: bool) -> Value {
    let ready = if ready { "True" } else { "False" };
    json!({
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "a", "labels": {"app": "web"}},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": ready}]},
    })
}

fn selecting() -> Value {
    json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http", "protocol": "TCP"}]})
}

fn planned(objects: impl IntoIterator<Item = Value>) -> Plan {
    let cluster = Cluster::default().with(objects);
    EndpointsOfServices.reconcile(&cluster, &Key::new("a", "web"), &Attempt::default(), now())
}

/// Ready, not ready, and ports of each subset.
fn created(objects: impl IntoIterator<Item = Value>) -> Vec<String> {
    let plan = planned(objects);
    let Some(Action::Create { object, .. }) = plan.actions().next() else { panic!("endpoints are created: {plan:?}") };
    let ips = |subset: &Value, field: &str| {
        let addresses = subset[field].as_array().into_iter().flatten();
        addresses.map(|a| a["ip"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(",")
    };
    let subsets = object["subsets"].as_array().unwrap();
    let words = subsets
        .iter()
        .map(|s| format!("{} | {} | {}", ips(s, "addresses"), ips(s, "notReadyAddresses"), s["ports"][0]["port"]));
    words.collect()
}

#[test]
fn ready_and_unready_pods_are_told_apart() {
    let mut leaving = pod("leaving", "10.0.0.9", true);
    leaving["metadata"]["deletionTimestamp"] = NOW.into();
    let objects = [
        service(selecting()),
        pod("p", "10.0.0.2", true),
        pod("q", "10.0.0.1", true),
        pod("r", "10.0.0.3", false),
        leaving,
    ];
    assert_eq!(created(objects), ["10.0.0.1,10.0.0.2 | 10.0.0.3 | 8080"]);
}

#[test]
fn a_service_without_a_selector_is_left_alone() {
    assert_eq!(planned([service(json!({"ports": [{"port": 443}]}))]), Plan::nothing());
}

#[test]
fn nothing_is_written_when_nothing_changed() {
    let objects = [service(selecting()), pod("p", "10.0.0.2", true)];
    let plan = planned(objects.clone());
    let Some(Action::Create { object, .. }) = plan.actions().next() else { panic!("endpoints are created") };
    assert_eq!(planned(objects.clone().into_iter().chain([object.clone()])), Plan::nothing());
    let moved = [service(selecting()), pod("p", "10.0.0.7", true), object.clone()];
    assert!(matches!(planned(moved).actions().next(), Some(Action::Patch { .. })));
}

#[test]
fn endpoints_of_a_service_that_is_gone_are_removed_and_those_of_others_kept() {
    let plan = planned([service(selecting()), pod("p", "10.0.0.2", true)]);
    let Some(Action::Create { object, .. }) = plan.actions().next() else { panic!("endpoints are created") };
    let left: Vec<Action> = planned([object.clone()]).actions().cloned().collect();
    assert!(matches!(left.as_slice(), [Action::RequireAbsent { .. }, Action::Delete { .. }]));
    let by_hand = json!({"kind": "Endpoints", "metadata": {"name": "web", "namespace": "a"}, "subsets": [{"addresses": [{"ip": "10.1.1.1"}]}]});
    assert_eq!(planned([by_hand]), Plan::nothing());
}
