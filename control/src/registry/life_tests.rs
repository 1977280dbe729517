//! Each kind's life through the verbs: created from a manifest as users write it, replaced by itself, by its manifest, and deleted.

use serde_json::Value;

use super::testing::{context, object, yaml};
use super::{Kind, config_map, job, namespace, node, pod, replication_controller, secret, service};
use crate::engine::{self, DeleteOptions, Deletion, Target, Update};

/// Creates the manifest and gives it what storing adds.
fn stored(kind: &Kind, manifest: &str) -> Value {
    let namespace = kind.namespaced.then_some("default");
    let mut made = engine::create(kind, namespace, object(manifest), &context()).expect("a valid manifest");
    made["metadata"]["resourceVersion"] = "7".into();
    made
}

fn updated(kind: &Kind, old: &Value, new: Value, target: Target) -> Update {
    let namespace = kind.namespaced.then_some("default");
    engine::update(kind, namespace, old, new, target, &context()).expect("a valid update")
}

const TEMPLATE: &str =
    "{metadata: {labels: {app: a}}, spec: {restartPolicy: Never, containers: [{name: a, image: b}]}}";

fn manifests() -> Vec<(&'static Kind, String)> {
    vec![
        (&config_map::KIND, "{metadata: {name: a}, data: {k: v}}".to_owned()),
        (&secret::KIND, "{metadata: {name: a}, stringData: {k: v}}".to_owned()),
        (&namespace::KIND, "{metadata: {name: a}}".to_owned()),
        (&node::KIND, "{metadata: {name: a}, status: {capacity: {cpu: '2'}}}".to_owned()),
        (&pod::KIND, "{metadata: {name: a}, spec: {containers: [{name: a, image: b}]}}".to_owned()),
        (&service::KIND, "{metadata: {name: a}, spec: {ports: [{port: 80}]}}".to_owned()),
        (&job::KIND, format!("{{metadata: {{name: a}}, spec: {{template: {TEMPLATE}}}}}")),
        (
            &replication_controller::KIND,
            format!("{{metadata: {{name: a}}, spec: {{template: {}}}}}", TEMPLATE.replace("Never", "Always")),
        ),
    ]
}

#[test]
fn an_object_replaced_by_itself_is_not_written() {
    for (kind, manifest) in manifests() {
        let old = stored(kind, &manifest);
        for target in [Target::Main, Target::Status, Target::Exact] {
            assert_eq!(updated(kind, &old, old.clone(), target), Update::Unchanged, "{} {target:?}", kind.kind);
        }
    }
}

#[test]
fn a_manifest_applied_twice_is_not_written_where_nothing_was_admitted() {
    for (kind, manifest) in manifests() {
        // What admission or the uid put into a pod or job is missing in its manifest: Kubernetes refuses that PUT too.
        if matches!(kind.kind, "Pod" | "Job" | "Node") {
            continue;
        }
        let old = stored(kind, &manifest);
        assert_eq!(updated(kind, &old, object(&manifest), Target::Main), Update::Unchanged, "{}", kind.kind);
    }
}

#[test]
fn a_status_write_keeps_the_generation() {
    for (kind, manifest) in manifests() {
        let old = stored(kind, &manifest);
        let mut new = old.clone();
        new["status"]["phase"] = "Strange".into();
        let Update::Write(written) = updated(kind, &old, new, Target::Status) else { panic!("{}", kind.kind) };
        assert_eq!(written["status"]["phase"], "Strange", "{}", kind.kind);
        assert_eq!(written["metadata"]["generation"], old["metadata"]["generation"], "{}", kind.kind);
    }
}

#[test]
fn a_namespace_goes_when_it_is_finalized() {
    let old = stored(&namespace::KIND, "{metadata: {name: team}}");
    let Ok(Deletion::Mark(marked)) = engine::delete(&namespace::KIND, &old, &DeleteOptions::default(), &context())
    else {
        panic!("a namespace stays while kubernetes holds it");
    };
    assert_eq!(marked["status"]["phase"], "Terminating");
    let body = object("{metadata: {name: team}, spec: {finalizers: []}}");
    let empty = namespace::finalize(&body, &marked);
    assert!(matches!(updated(&namespace::KIND, &marked, empty, Target::Exact), Update::Remove(_)));
}

#[test]
fn a_pod_is_bound_runs_and_goes_gracefully() {
    let pending = stored(&pod::KIND, "{metadata: {name: a}, spec: {containers: [{name: a, image: b}]}}");
    let binding = object("{metadata: {name: a}, target: {kind: Node, name: n1}}");
    let bound = pod::binding::bind(&pending, &binding, &context()).expect("free");
    let Update::Write(bound) = updated(&pod::KIND, &pending, bound, Target::Exact) else { panic!("bound") };
    assert_eq!(bound["spec"]["nodeName"], "n1");
    let Ok(Deletion::Mark(going)) = engine::delete(&pod::KIND, &bound, &DeleteOptions::default(), &context()) else {
        panic!("the node must stop it first");
    };
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(pod::KIND.strategy.cells(&going, "2026-01-01T00:05:00Z")[2], "Terminating");
    let now = DeleteOptions { grace_period_s: Some(0), ..DeleteOptions::default() };
    assert!(matches!(engine::delete(&pod::KIND, &going, &now, &context()), Ok(Deletion::Remove(_))));
}

#[test]
fn a_job_is_stored_with_its_generated_selector() {
    let made = stored(&job::KIND, &format!("{{metadata: {{name: a}}, spec: {{template: {TEMPLATE}}}}}"));
    expect_test::expect![[r#"
        matchLabels:
          batch.kubernetes.io/controller-uid: 0f8fad5b-d9cb-469f-a165-70867728950e
    "#]]
    .assert_eq(&yaml(&made["spec"]["selector"]));
    assert_eq!(made["metadata"]["generation"], 1);
}

#[test]
fn errors_name_the_object_and_its_kind() {
    let wrong = object("{metadata: {name: A, labels: {a b: c}}, spec: {containers: []}}");
    let error = engine::create(&pod::KIND, Some("default"), wrong, &context()).expect_err("wrong");
    expect_test::expect![[r#"Pod "A" is invalid: [metadata.name: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*'), metadata.labels: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]'), spec.containers: Required value]"#]].assert_eq(&error.message);
}
