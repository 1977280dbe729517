use serde_json::json;

use super::*;
use crate::controllers::cluster::fixture::{NOW, now};

fn dying() -> Value {
    json!({
        "kind": "Namespace",
        "metadata": {"name": "a", "deletionTimestamp": NOW},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Terminating"},
    })
}

fn object(kind: &str, name: &str, is_leaving: bool) -> Value {
    let mut object =
        json!({"kind": kind, "metadata": {"name": name, "namespace": "a"}, "spec": {"containers": [], "template": {}}});
    if is_leaving {
        object["metadata"]["deletionTimestamp"] = NOW.into();
        object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    }
    object
}

fn decided(objects: impl IntoIterator<Item = Value>) -> Vec<String> {
    let controller = Namespaces::new(vec![Resource::POD, Resource::EVENT]);
    let cluster = Cluster::default().with(objects);
    let plan = controller.reconcile(&cluster, &Key::cluster("a"), &Attempt::default(), now());
    let words = plan.actions().map(|action| match action {
        Action::Delete { target, .. } => format!("delete {}", target.key.name),
        Action::RequireEmpty { resource, .. } => format!("require no {}", resource.plural),
        Action::Finalize { object, .. } => format!("finalize with {}", object["spec"]["finalizers"]),
        Action::Patch { patch, .. } => {
            let conditions = patch["status"]["conditions"].as_array().unwrap();
            conditions.iter().map(|c| c["message"].as_str().unwrap()).collect::<Vec<_>>().join("; ")
        }
        other => panic!("unexpected {other:?}"),
    });
    words.collect()
}

#[test]
fn a_living_namespace_is_left_alone() {
    let living = json!({"kind": "Namespace", "metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}});
    assert!(decided([living, object("Pod", "p", false)]).is_empty());
}

#[test]
fn pods_go_first_then_the_rest() {
    let job = object("Job", "j", false);
    assert_eq!(decided([dying(), object("Pod", "p", false), job.clone()]), ["delete p"]);
    assert_eq!(decided([dying(), job]), ["delete j"]);
}

#[test]
fn what_holds_it_up_is_told_and_not_deleted_twice() {
    let told = "Some resources are remaining: pods has 1 resource instances; Some content in the namespace has finalizers \
        remaining: example.com/hold in 1 resource instances";
    assert_eq!(decided([dying(), object("Pod", "p", true), object("Job", "j", false)]), [told]);
}

#[test]
fn an_empty_namespace_goes_once_the_api_confirms_that_it_is_empty() {
    let mut held_by_others = dying();
    held_by_others["spec"]["finalizers"] = json!(["kubernetes", "example.com/more"]);
    let expected = ["require no pods", "require no events", "finalize with [\"example.com/more\"]"];
    assert_eq!(decided([held_by_others]), expected);
}

#[test]
fn content_that_goes_wakes_its_dying_namespace() {
    let mut cluster = Cluster::default().with([dying(), object("Pod", "p", false)]);
    let changed = cluster.removed(&Resource::POD, &Key::new("a", "p"), "uid-p", now());
    let mut keys = Vec::new();
    changed.iter().for_each(|c| Namespaces::new(Vec::new()).touched(&cluster, c, &mut keys));
    assert_eq!(keys, [Key::cluster("a")]);
}
