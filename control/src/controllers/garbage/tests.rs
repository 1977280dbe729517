use serde_json::{Value, json};

use super::*;
use crate::controllers::action::Resource;
use crate::controllers::cluster::fixture::{NOW, now};

fn owner(kind: &str, name: &str, blocks: bool) -> Value {
    let api_version = if kind == "Job" { "batch/v1" } else { "v1" };
    json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": format!("uid-{name}"), "blockOwnerDeletion": blocks})
}

fn object(kind: &str, name: &str, owners: &[Value]) -> Value {
    let mut object = json!({
        "kind": kind,
        "metadata": {"name": name, "ownerReferences": owners},
        "spec": {"containers": [], "template": {}},
    });
    if kind != "Node" {
        object["metadata"]["namespace"] = "a".into();
    }
    object
}

fn leaving(mut object: Value, finalizer: &str) -> Value {
    object["metadata"]["deletionTimestamp"] = NOW.into();
    object["metadata"]["finalizers"] = json!([finalizer]);
    object
}

fn decided(cluster: &Cluster, name: &str) -> Vec<String> {
    let plan = Garbage.reconcile(cluster, &Key::cluster(format!("uid-{name}")), &Attempt::default(), now());
    plan.actions()
        .map(|action| match action {
            Action::Delete { target, propagation, resource_version, .. } => {
                assert_eq!(resource_version.as_deref(), Some("1"));
                format!("delete {} {:?}", target.key.name, propagation.unwrap())
            }
            Action::Patch { target, patch, .. } => {
                let metadata = &patch["metadata"];
                assert_eq!(metadata["resourceVersion"], "1");
                let names = |field: &str| {
                    metadata.get(field).map(|list| {
                        list.as_array()
                            .into_iter()
                            .flatten()
                            .map(|v| v["name"].as_str().or(v.as_str()).unwrap())
                            .collect::<Vec<_>>()
                            .join(",")
                    })
                };
                match (names("ownerReferences"), names("finalizers")) {
                    (Some(owners), None) => format!("{} owned by [{owners}]", target.key.name),
                    (None, Some(finalizers)) => format!("{} finalized by [{finalizers}]", target.key.name),
                    other => panic!("unexpected {other:?}"),
                }
            }
            Action::RequireAbsent { target, uid } => format!("require no {} {uid}", target.path()),
            Action::Event(event) => format!("event {}", event.reason),
            other => panic!("unexpected {other:?}"),
        })
        .collect()
}

#[test]
fn an_object_with_a_living_owner_stays() {
    let rc = object("ReplicationController", "rc", &[]);
    let pod = object("Pod", "p", &[owner("ReplicationController", "rc", true)]);
    assert!(decided(&Cluster::default().with([rc, pod]), "p").is_empty());
}

#[test]
fn an_object_whose_owner_was_never_seen_is_deleted_when_the_api_does_not_have_the_owner() {
    let pod = object("Pod", "p", &[owner("Job", "j", true)]);
    let expected = ["require no /apis/batch/v1/namespaces/a/jobs/j uid-j", "delete p Background"];
    assert_eq!(decided(&Cluster::default().with([pod]), "p"), expected);
}

#[test]
fn an_object_whose_owner_was_seen_to_go_is_deleted_at_once() {
    let pod = object("Pod", "p", &[owner("Job", "j", true)]);
    let mut cluster = Cluster::default().with([object("Job", "j", &[]), pod]);
    assert!(decided(&cluster, "p").is_empty());
    let changed = cluster.removed(&Resource::JOB, &Key::new("a", "j"), "uid-j", now());
    let mut keys = Vec::new();
    changed.iter().for_each(|c| Garbage.touched(&cluster, c, &mut keys));
    assert_eq!(keys, [Key::cluster("uid-p")]);
    assert_eq!(decided(&cluster, "p"), ["delete p Background"]);
}

#[test]
fn a_new_object_of_the_owners_name_is_no_owner() {
    let mut heir = object("Job", "j", &[]);
    heir["metadata"]["uid"] = "uid-heir".into();
    let pod = object("Pod", "p", &[owner("Job", "j", true)]);
    assert_eq!(decided(&Cluster::default().with([heir, pod]), "p").last().unwrap(), "delete p Background");
}

#[test]
fn one_living_owner_is_enough_and_the_absent_ones_are_taken_off() {
    let rc = object("ReplicationController", "rc", &[]);
    let pod = object("Pod", "p", &[owner("ReplicationController", "rc", true), owner("Job", "j", false)]);
    let expected = ["require no /apis/batch/v1/namespaces/a/jobs/j uid-j", "p owned by [rc]"];
    assert_eq!(decided(&Cluster::default().with([rc, pod]), "p"), expected);
}

#[test]
fn an_owner_of_an_unknown_kind_is_believed_in() {
    let pod = object("Pod", "p", &[owner("Sprocket", "s", true), owner("Job", "j", true)]);
    assert!(decided(&Cluster::default().with([pod]), "p").is_empty());
}

#[test]
fn a_cluster_owner_may_own_what_is_in_a_namespace() {
    let lease = object("Lease", "n", &[owner("Node", "node", true)]);
    let cluster = Cluster::default().with([object("Node", "node", &[]), lease.clone()]);
    assert!(decided(&cluster, "n").is_empty());
    assert_eq!(decided(&Cluster::default().with([lease]), "n")[0], "require no /api/v1/nodes/node uid-node");
}

#[test]
fn an_owner_in_another_namespace_is_none() {
    let mut rc = object("ReplicationController", "rc", &[]);
    rc["metadata"]["namespace"] = "b".into();
    let pod = object("Pod", "p", &[owner("ReplicationController", "rc", true)]);
    assert_eq!(
        decided(&Cluster::default().with([rc, pod]), "p"),
        ["event OwnerRefInvalidNamespace", "delete p Background"]
    );
}

#[test]
fn a_foreground_deletion_waits_for_blocking_dependents() {
    let rc = leaving(object("ReplicationController", "rc", &[]), "foregroundDeletion");
    let blocking = object("Pod", "p", &[owner("ReplicationController", "rc", true)]);
    let not_blocking = object("Pod", "q", &[owner("ReplicationController", "rc", false)]);
    let cluster = Cluster::default().with([rc.clone(), blocking, not_blocking.clone()]);
    assert_eq!(decided(&cluster, "rc"), ["delete p Background"]);
    assert!(decided(&cluster, "p").is_empty(), "the owner's look deletes it");
    assert_eq!(decided(&Cluster::default().with([rc, not_blocking]), "rc"), ["rc finalized by []"]);
}

#[test]
fn a_dependent_with_another_owner_is_only_let_go() {
    let rc = leaving(object("ReplicationController", "rc", &[]), "foregroundDeletion");
    let shared = object("Pod", "p", &[owner("ReplicationController", "rc", true), owner("Job", "j", true)]);
    assert_eq!(decided(&Cluster::default().with([rc, object("Job", "j", &[]), shared]), "rc"), ["p owned by [j]"]);
}

#[test]
fn orphaning_takes_the_owner_off_and_then_lets_it_go() {
    let rc = leaving(object("ReplicationController", "rc", &[]), "orphan");
    let pod = object("Pod", "p", &[owner("ReplicationController", "rc", true)]);
    let cluster = Cluster::default().with([rc, pod]);
    assert_eq!(decided(&cluster, "rc"), ["p owned by []", "rc finalized by []"]);
    assert!(decided(&cluster, "p").is_empty());
}
