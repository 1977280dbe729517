//! Bodies with mistakes, and what is said about them.

use serde_json::json;

use super::*;

fn pod() -> Gvk {
    Gvk::new("", "v1", "Pod")
}

fn complaints(raw: &str) -> Vec<String> {
    check(&pod(), raw.as_bytes()).unwrap().complaints
}

fn refused(raw: &str) -> String {
    let error = check(&pod(), raw.as_bytes()).unwrap_err();
    assert_eq!(error.code, 400);
    let prefix = "Pod in version \"v1\" cannot be handled as a Pod: ";
    error.message.strip_prefix(prefix).unwrap_or(&error.message).to_owned()
}

#[test]
fn unknown_fields_are_named_with_their_path_and_dropped() {
    let raw = r#"{"apiVersion": "v1", "kind": "Pod", "foo": 1, "metadata": {"name": "p", "labels": {"any": "thing"}},
        "spec": {"containers": [{"name": "a"}, {"name": "b", "imag": "x", "env": [{"name": "E", "val": [{"x": 1}]}]}]}}"#;
    let findings = check(&pod(), raw.as_bytes()).unwrap();
    let expected = [
        "unknown field \"foo\"",
        "unknown field \"spec.containers[1].imag\"",
        "unknown field \"spec.containers[1].env[0].val\"",
    ];
    assert_eq!(findings.complaints, expected);
    let pruned = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"any": "thing"}},
        "spec": {"containers": [{"name": "a"}, {"name": "b", "env": [{"name": "E"}]}]}});
    assert_eq!(findings.value, pruned);
    let mut whole: Value = serde_json::from_str(raw).unwrap();
    assert_eq!(prune(&pod(), &mut whole).unwrap(), expected);
    assert_eq!(whole, pruned);
}

#[test]
fn duplicate_fields_are_named_and_the_last_counts() {
    let raw = r#"{"spec": {"nodeName": "a", "nodeName": "b", "nodeName": "c"}, "metadata": {"labels": {"x": "1", "x": "2"}}}"#;
    let findings = check(&pod(), raw.as_bytes()).unwrap();
    let twice = "duplicate field \"spec.nodeName\"";
    assert_eq!(findings.complaints, [twice, twice, "duplicate field \"metadata.labels.x\""]);
    assert_eq!(findings.value, json!({"spec": {"nodeName": "c"}, "metadata": {"labels": {"x": "2"}}}));
    assert_eq!(
        duplicates(br#"{"a": {"b": 1, "b": 2}, "c": [{"d": 1, "d": 1}]}"#),
        ["duplicate field \"a.b\"", "duplicate field \"c[0].d\""]
    );
}

#[test]
fn a_strict_refusal_lists_everything() {
    let list = complaints(r#"{"spec": {"foo": 1, "hostname": "a", "hostname": "b"}}"#);
    assert_eq!(
        refusal(&pod(), &list).message,
        "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: \
         unknown field \"spec.foo\", duplicate field \"spec.hostname\""
    );
}

#[test]
fn wrong_types_are_told_like_go_tells_them() {
    for (raw, expected) in [
        (
            r#"{"spec": {"containers": [{"env": [{"name": "A", "value": 1}]}]}}"#,
            "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string",
        ),
        (
            r#"{"spec": {"containers": "nginx"}}"#,
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            r#"{"spec": {"terminationGracePeriodSeconds": "30"}}"#,
            "json: cannot unmarshal string into Go struct field PodSpec.spec.terminationGracePeriodSeconds of type int64",
        ),
        (
            r#"{"spec": {"priority": 1.5}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.priority of type int32",
        ),
        (
            r#"{"metadata": {"labels": {"a": true}}}"#,
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (r#"{"spec": []}"#, "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec"),
        ("[]", "json: cannot unmarshal array into Go value of type v1.Pod"),
        (
            r#"{"spec": {"containers": [{"resources": {"limits": {"cpu": "lots"}}}]}}"#,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
    ] {
        assert_eq!(refused(raw), expected);
    }
}

#[test]
fn null_is_absence() {
    let raw = r#"{"metadata": {"creationTimestamp": null, "labels": null, "annotations": {"a": null}},
        "spec": {"containers": [null], "hostname": null}}"#;
    let findings = check(&pod(), raw.as_bytes()).unwrap();
    assert_eq!(findings.value, json!({"metadata": {"annotations": {"a": ""}}, "spec": {"containers": [{}]}}));
    assert!(findings.complaints.is_empty());
}

#[test]
fn what_is_not_json_is_refused_and_what_has_no_schema_only_parsed() {
    assert!(refused("{\"spec\": ").contains("EOF"));
    assert!(refused("{} {}").contains("trailing"));
    let widget = Gvk::new("example.com", "v1", "Widget");
    let findings = check(&widget, br#"{"kind": "Widget", "spec": {"any": [1, null, "x"]}}"#).unwrap();
    assert_eq!(findings.value, json!({"kind": "Widget", "spec": {"any": [1, null, "x"]}}));
}

/// StatefulSet's volumeClaimTemplates are whole objects with apiVersion and kind; pod templates are not.
#[test]
fn embedded_kinds_may_say_what_they_are() {
    let set = Gvk::new("apps", "v1", "StatefulSet");
    let raw = br#"{"spec": {"template": {"kind": "Pod"},
        "volumeClaimTemplates": [{"apiVersion": "v1", "kind": "PersistentVolumeClaim"}]}}"#;
    assert_eq!(check(&set, raw).unwrap().complaints, ["unknown field \"spec.template.kind\""]);
}
