use std::sync::Arc;

use serde_json::{Value, json};

use super::*;

fn node(name: &str, change: Value) -> Arc<Node> {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
    });
    merge(&mut node, change);
    Arc::new(serde_json::from_value(node).unwrap())
}

fn pod(name: &str, change: Value) -> Pod {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {"containers": [{"name": "c"}]},
    });
    merge(&mut pod, change);
    serde_json::from_value(pod).unwrap()
}

fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change,
    }
}

fn cpu(amount: &str) -> Value {
    json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]}})
}

fn view(nodes: impl IntoIterator<Item = Arc<Node>>) -> ClusterView {
    let mut view = ClusterView::default();
    nodes.into_iter().for_each(|n| view.set_node(n));
    view
}

fn decided(view: &ClusterView, pod: &Pod) -> String {
    match schedule(view, pod, &mut |_| 0) {
        Decision::Bind { node } => node,
        Decision::Unschedulable { message } => message,
    }
}

#[test]
fn without_nodes_it_says_so() {
    assert_eq!(decided(&view([]), &pod("p", json!({}))), "no nodes available to schedule pods");
}

#[test]
fn each_filter_says_its_reason() {
    let taint = |effect: &str| json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}});
    let port = json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}});
    let table = [
        (json!({"spec": {"unschedulable": true}}), json!({}), "node(s) were unschedulable"),
        (json!({}), json!({"spec": {"nodeName": "other"}}), "node(s) didn't match the requested node name"),
        (taint("NoSchedule"), json!({}), "node(s) had untolerated taint {k: v}"),
        (taint("NoExecute"), json!({}), "node(s) had untolerated taint {k: v}"),
        (json!({}), json!({"spec": {"nodeSelector": {"a": "b"}}}), "node(s) didn't match Pod's node affinity/selector"),
        (json!({}), port.clone(), "node(s) didn't have free ports for the requested pod ports"),
        (json!({"status": {"allocatable": {"pods": "1"}}}), json!({}), "Too many pods"),
        (json!({}), cpu("5"), "Insufficient cpu"),
    ];
    for (node_change, pod_change, reason) in table {
        let mut view = view([node("n", node_change)]);
        view.place(&pod("sitting", port.clone()), "n");
        assert_eq!(decided(&view, &pod("p", pod_change)), format!("0/1 nodes are available: 1 {reason}."));
    }
}

#[test]
fn reasons_are_counted_and_sorted_as_text() {
    let nodes = [
        node("a", json!({"status": {"allocatable": {"cpu": "1"}}})),
        node("b", json!({"status": {"allocatable": {"cpu": "1", "pods": "0"}}})),
        node("c", json!({"spec": {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]}})),
    ];
    let expected = "0/3 nodes are available: 1 Too many pods, 1 node(s) had untolerated taint \
        {node.kubernetes.io/not-ready: }, 2 Insufficient cpu.";
    assert_eq!(decided(&view(nodes), &pod("p", cpu("2"))), expected);
}

#[test]
fn a_tolerated_taint_is_no_hindrance() {
    let tainted = || node("n", json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}));
    let table = [
        (json!({"key": "k", "operator": "Exists"}), true),
        (json!({"operator": "Exists"}), true),
        (json!({"key": "k", "value": "v", "effect": "NoSchedule"}), true),
        (json!({"key": "k", "value": "x"}), false),
        (json!({"key": "k", "value": "v", "effect": "NoExecute"}), false),
    ];
    for (toleration, fits) in table {
        let pod = pod("p", json!({"spec": {"tolerations": [toleration.clone()]}}));
        assert_eq!(decided(&view([tainted()]), &pod) == "n", fits, "{toleration}");
    }
}

#[test]
fn what_assumed_pods_take_counts_and_comes_back() {
    let mut view = view([node("n", json!({}))]);
    let first = pod("first", cpu("3"));
    view.place(&first, "n");
    view.place(&first, "n");
    assert_eq!(decided(&view, &pod("p", cpu("2"))), "0/1 nodes are available: 1 Insufficient cpu.");
    assert_eq!(decided(&view, &pod("p", cpu("1"))), "n");
    assert!(view.displace(&first.key()) && !view.displace(&first.key()));
    assert_eq!(decided(&view, &pod("p", cpu("4"))), "n");
}

#[test]
fn pods_go_where_there_is_most_room() {
    let mut view = view([node("a", json!({})), node("b", json!({}))]);
    view.place(&pod("big", cpu("2")), "a");
    assert_eq!(decided(&view, &pod("p", cpu("1"))), "b");
}

#[test]
fn pods_that_ask_for_nothing_spread_too() {
    let mut view = view([node("a", json!({})), node("b", json!({}))]);
    let mut placed = Vec::new();
    for name in ["1", "2", "3", "4"] {
        let pod = pod(name, json!({}));
        let chosen = decided(&view, &pod);
        view.place(&pod, &chosen);
        placed.push(chosen);
    }
    assert_eq!(placed, ["a", "b", "a", "b"]);
}

#[test]
fn preferences_and_soft_taints_outweigh_room() {
    let soft = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    let mut both = view([node("a", soft), node("b", json!({}))]);
    both.place(&pod("big", cpu("2")), "b");
    assert_eq!(decided(&both, &pod("p", json!({}))), "b");

    let term = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["b"]}]});
    let preferred = json!([{"weight": 1, "preference": term}]);
    let affinity = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}});
    let mut plain = view([node("a", json!({})), node("b", json!({}))]);
    plain.place(&pod("big", cpu("2")), "b");
    assert_eq!(decided(&plain, &pod("p", json!({"spec": {"affinity": affinity}}))), "b");
}

#[test]
fn the_tie_is_broken_from_outside() {
    let view = view([node("a", json!({})), node("b", json!({})), node("c", json!({}))]);
    let chosen = |number: usize| schedule(&view, &pod("p", json!({})), &mut |_| number);
    assert_eq!(chosen(1), Decision::Bind { node: "b".into() });
    assert_eq!(chosen(2), Decision::Bind { node: "c".into() });
}

#[test]
fn a_finished_or_deleted_pod_makes_room() {
    let mut view = view([node("n", json!({}))]);
    let sitting = |phase: &str| {
        pod(
            "s",
            json!({"spec": {"nodeName": "n", "containers": cpu("4")["spec"]["containers"]}, "status": {"phase": phase}}),
        )
    };
    assert!(!view.follow(&sitting("Running"), false));
    assert_ne!(decided(&view, &pod("p", cpu("1"))), "n");
    assert!(view.follow(&sitting("Succeeded"), false));
    assert_eq!(decided(&view, &pod("p", cpu("1"))), "n");
}

#[test]
fn a_node_that_went_is_not_chosen_but_its_pods_count_when_it_comes_back() {
    let mut view = view([node("n", json!({}))]);
    view.place(&pod("s", cpu("4")), "n");
    view.remove_node("n");
    assert_eq!(decided(&view, &pod("p", json!({}))), "no nodes available to schedule pods");
    view.set_node(node("n", json!({})));
    assert_ne!(decided(&view, &pod("p", cpu("1"))), "n");
}
