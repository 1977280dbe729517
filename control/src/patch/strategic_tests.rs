//! Patches as kubectl sends them, and each directive alone.

use serde_json::{Value, json};

use super::strategic::apply;
use crate::schema::Gvk;

fn check(kind: (&str, &str), doc: &Value, patch: &Value, expected: &Value) {
    let gvk = Gvk::from_api_version(kind.0, kind.1);
    let merged = apply(doc, patch, &gvk).unwrap_or_else(|e| panic!("{patch}: {e}"));
    assert_eq!(&merged, expected, "{doc} + {patch}");
    // `==` of objects ignores the order of keys, not of items: what lists are about is checked.
}

fn refused(kind: (&str, &str), doc: &Value, patch: &Value) -> u16 {
    apply(doc, patch, &Gvk::from_api_version(kind.0, kind.1)).unwrap_err().code
}

const POD: (&str, &str) = ("v1", "Pod");
const DEPLOYMENT: (&str, &str) = ("apps/v1", "Deployment");

#[test]
fn apply_changes_the_image_of_one_container() {
    let doc = json!({"metadata": {"name": "p", "annotations": {"a": "1"}}, "spec": {"nodeName": "n", "containers": [
        {"name": "one", "image": "x:1", "terminationMessagePath": "/dev/termination-log"},
        {"name": "injected", "image": "sidecar"},
        {"name": "two", "image": "y:1"}]}});
    let patch = json!({
        "metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}},
        "spec": {"$setElementOrder/containers": [{"name": "one"}, {"name": "two"}],
                 "containers": [{"name": "two", "image": "y:2"}]}});
    let expected = json!({"metadata": {"name": "p",
        "annotations": {"a": "1", "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
        "spec": {"nodeName": "n", "containers": [
            {"name": "one", "image": "x:1", "terminationMessagePath": "/dev/termination-log"},
            {"name": "injected", "image": "sidecar"},
            {"name": "two", "image": "y:2"}]}});
    check(POD, &doc, &patch, &expected);
}

#[test]
fn apply_deletes_a_variable_and_reorders_the_rest() {
    let env = |items: Value| json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "env": items}]}}}});
    let doc = env(json!([{"name": "A", "value": "1"}, {"name": "B", "value": "2"}, {"name": "C", "value": "3"}]));
    let patch = json!({"spec": {"template": {"spec": {
        "$setElementOrder/containers": [{"name": "c"}],
        "containers": [{"name": "c",
            "$setElementOrder/env": [{"name": "C"}, {"name": "A"}],
            "env": [{"$patch": "delete", "name": "B"}]}]}}}});
    check(DEPLOYMENT, &doc, &patch, &env(json!([{"name": "C", "value": "3"}, {"name": "A", "value": "1"}])));
}

#[test]
fn templates_of_every_workload_merge_like_pods() {
    for kind in [("v1", "ReplicationController"), ("batch/v1", "Job"), ("apps/v1", "DaemonSet")] {
        let doc = json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b"}]}}}});
        let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "2"}]}}}});
        let expected =
            json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "2"}, {"name": "b"}]}}}});
        check(kind, &doc, &patch, &expected);
    }
}

#[test]
fn a_variable_changes_from_value_to_source_with_a_null() {
    let doc = json!({"spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": "1"}]}]}});
    let source = json!({"fieldRef": {"fieldPath": "metadata.name"}});
    let patch =
        json!({"spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": null, "valueFrom": source}]}]}});
    let expected = json!({"spec": {"containers": [{"name": "c", "env": [{"name": "A", "valueFrom": source}]}]}});
    check(POD, &doc, &patch, &expected);
}

#[test]
fn tolerations_and_arguments_are_replaced_as_wholes() {
    let doc = json!({"spec": {"tolerations": [{"key": "a"}, {"key": "b"}], "containers": [{"name": "c", "args": ["1", "2"]}]}});
    let patch = json!({"spec": {"tolerations": [{"key": "z"}], "containers": [{"name": "c", "args": ["3"]}]}});
    let expected = json!({"spec": {"tolerations": [{"key": "z"}], "containers": [{"name": "c", "args": ["3"]}]}});
    check(POD, &doc, &patch, &expected);
}

#[test]
fn null_deletes_fields_labels_and_lists_and_never_stays_behind() {
    let doc = json!({"metadata": {"labels": {"a": "1", "b": "2"}, "finalizers": ["x"]}, "spec": {"hostname": "h"}});
    let patch = json!({"metadata": {"labels": {"a": null, "z": null}, "finalizers": null},
        "spec": {"hostname": null, "securityContext": {"runAsUser": null, "runAsGroup": 1}}});
    let expected = json!({"metadata": {"labels": {"b": "2"}}, "spec": {"securityContext": {"runAsGroup": 1}}});
    check(POD, &doc, &patch, &expected);
}

#[test]
fn finalizers_are_a_set_with_its_own_deletions() {
    let doc = json!({"metadata": {"finalizers": ["a", "b", "c"]}});
    let merged = json!({"metadata": {"finalizers": ["c", "d"]}});
    check(POD, &doc, &merged, &json!({"metadata": {"finalizers": ["a", "b", "c", "d"]}}));
    let deleted = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"]}});
    check(POD, &doc, &deleted, &json!({"metadata": {"finalizers": ["a", "c"]}}));
    let both = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"],
        "$setElementOrder/finalizers": ["d", "c", "b"], "finalizers": ["d"]}});
    check(POD, &doc, &both, &json!({"metadata": {"finalizers": ["d", "c", "b"]}}));
}

#[test]
fn owner_references_merge_by_uid_and_conditions_by_type() {
    let doc = json!({"metadata": {"ownerReferences": [{"uid": "1", "name": "a"}]},
        "status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "X", "status": "True"}]}});
    let patch = json!({"metadata": {"ownerReferences": [{"uid": "1", "controller": true}, {"uid": "2"}]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let expected = json!({"metadata": {"ownerReferences": [{"uid": "1", "name": "a", "controller": true}, {"uid": "2"}]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "X", "status": "True"}]}});
    check(POD, &doc, &patch, &expected);
    check(
        ("v1", "Node"),
        &json!({"status": doc["status"]}),
        &json!({"status": patch["status"]}),
        &json!({"status": expected["status"]}),
    );
}

#[test]
fn service_ports_merge_by_port_and_account_secrets_by_name() {
    check(
        ("v1", "Service"),
        &json!({"spec": {"ports": [{"port": 80, "nodePort": 30000}, {"port": 443}]}}),
        &json!({"spec": {"$setElementOrder/ports": [{"port": 443}, {"port": 80}], "ports": [{"port": 80, "name": "web"}]}}),
        &json!({"spec": {"ports": [{"port": 443}, {"port": 80, "nodePort": 30000, "name": "web"}]}}),
    );
    check(
        ("v1", "ServiceAccount"),
        &json!({"secrets": [{"name": "a"}]}),
        &json!({"secrets": [{"name": "b"}]}),
        &json!({"secrets": [{"name": "b"}, {"name": "a"}]}),
    );
}

#[test]
fn retained_keys_drop_the_other_members_of_a_union() {
    check(
        DEPLOYMENT,
        &json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
        &json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        &json!({"spec": {"strategy": {"type": "Recreate"}}}),
    );
    check(
        POD,
        &json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
        &json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}}),
        &json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}}),
    );
    let uncovered = json!({"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}});
    assert_eq!(refused(DEPLOYMENT, &json!({"spec": {"strategy": {}}}), &uncovered), 400);
}

#[test]
fn patch_replace_and_delete_act_on_objects_and_lists() {
    let doc = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"nodeSelector": {"x": "y"},
        "containers": [{"name": "a"}, {"name": "b"}]}});
    let patch = json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}},
        "spec": {"nodeSelector": {"$patch": "delete"}, "containers": [{"$patch": "replace"}, {"name": "z"}]}});
    let expected =
        json!({"metadata": {"labels": {"b": "2"}}, "spec": {"nodeSelector": {}, "containers": [{"name": "z"}]}});
    check(POD, &doc, &patch, &expected);
    let unknown = json!({"spec": {"containers": [{"$patch": "twist", "name": "a"}]}});
    assert_eq!(refused(POD, &doc, &unknown), 400);
}

#[test]
fn a_selector_with_the_replace_strategy_is_not_merged() {
    check(
        ("policy/v1", "PodDisruptionBudget"),
        &json!({"spec": {"selector": {"matchLabels": {"a": "1"}}}}),
        &json!({"spec": {"selector": {"matchLabels": {"b": "2"}}}}),
        &json!({"spec": {"selector": {"matchLabels": {"b": "2"}}}}),
    );
}

#[test]
fn directives_never_become_part_of_a_new_item() {
    let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "n"}],
        "containers": [{"name": "n", "$setElementOrder/env": [{"name": "A"}], "env": [{"name": "A", "value": null}]}]}});
    let expected = json!({"spec": {"containers": [{"name": "n", "env": [{"name": "A"}]}]}});
    check(POD, &json!({"spec": {}}), &patch, &expected);
    check(POD, &json!({"spec": {"containers": []}}), &patch, &expected);
}

#[test]
fn malformed_patches_are_refused() {
    let doc = json!({"spec": {"containers": [{"name": "a"}]}});
    assert_eq!(refused(POD, &doc, &json!({"spec": {"containers": [{"image": "x"}]}})), 422);
    assert_eq!(refused(POD, &doc, &json!([1])), 400);
    let disordered = json!({"spec": {"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}],
        "containers": [{"name": "b"}, {"name": "a"}]}});
    assert_eq!(refused(POD, &doc, &disordered), 400);
    assert_eq!(refused(("example.com/v1", "Widget"), &doc, &json!({"spec": {}})), 415);
}

#[test]
fn unknown_fields_merge_like_a_plain_merge_patch() {
    check(
        POD,
        &json!({"spec": {"odd": {"a": [1], "b": 1}}}),
        &json!({"spec": {"odd": {"a": [2], "b": null}}}),
        &json!({"spec": {"odd": {"a": [2]}}}),
    );
}
