use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::*;

fn pod(name: &str, uid: &str, resource_version: u64) -> Arc<Pod> {
    let pod = json!({
        "metadata": {"namespace": "default", "name": name, "uid": uid, "resourceVersion": resource_version.to_string()},
        "spec": {"containers": [], "nodeName": format!("node-of-{resource_version}")},
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn store() -> Store<Pod> {
    Store::new(|pod| pod.spec.iter().flat_map(|s| s.node_name.clone()).map(Index::Node).collect())
}

fn names(store: &Store<Pod>) -> Vec<String> {
    store.iter().map(|p| format!("{}@{}", p.uid(), p.resource_version_number())).collect()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn a_list_replaces_what_was_known() {
    let mut store = store();
    store.feed(Feed::Apply(pod("a", "1", 1)));
    store.feed(Feed::Apply(pod("b", "2", 2)));
    store.feed(Feed::Init);
    store.feed(Feed::InitApply(pod("b", "2", 2)));
    store.feed(Feed::InitApply(pod("c", "3", 3)));
    assert!(!store.is_listed());
    let changes = store.feed(Feed::InitDone);
    assert!(store.is_listed());
    assert_eq!(names(&store), ["2@2", "3@3"]);
    assert_eq!(changes.len(), 2, "a is gone, c is new, b did not change");
}

#[test]
fn an_answer_counts_before_the_watch_has_it_and_the_watch_does_not_go_back() {
    let mut store = store();
    assert!(!store.written(pod("a", "1", 5), at(0)).is_empty());
    assert!(store.feed(Feed::Apply(pod("a", "1", 4))).is_empty());
    assert_eq!(names(&store), ["1@5"]);
    assert_eq!(store.feed(Feed::Apply(pod("a", "1", 6))).len(), 1);
    assert_eq!(names(&store), ["1@6"]);
}

#[test]
fn a_late_update_does_not_revive_what_we_removed() {
    let mut store = store();
    store.feed(Feed::Apply(pod("a", "1", 1)));
    assert!(store.removed(&Key::new("default", "a"), "1").is_some());
    assert!(store.feed(Feed::Apply(pod("a", "1", 2))).is_empty());
    assert!(store.is_empty());
    store.feed(Feed::Delete(pod("a", "1", 3)));
    store.feed(Feed::Apply(pod("a", "2", 4)));
    assert_eq!(names(&store), ["2@4"], "another object of that name is another object");
}

#[test]
fn a_late_answer_does_not_revive_what_the_watch_removed() {
    let mut store = store();
    store.feed(Feed::Apply(pod("a", "1", 1)));
    store.feed(Feed::Delete(pod("a", "1", 2)));
    assert!(store.written(pod("a", "1", 1), at(0)).is_empty());
    assert!(store.is_empty());
}

#[test]
fn an_unconfirmed_write_survives_a_list_and_ends_at_its_deadline() {
    let mut store = store();
    store.written(pod("a", "1", 5), at(0));
    store.feed(Feed::Init);
    store.feed(Feed::InitDone);
    assert_eq!(names(&store), ["1@5"]);
    assert!(store.expire_unconfirmed(at(1)).is_empty());
    let kept_s = i64::try_from(limits::UNCONFIRMED_WRITE_KEPT.as_secs()).unwrap();
    assert_eq!(store.expire_unconfirmed(at(kept_s)).len(), 1);
    assert!(store.is_empty());
}

#[test]
fn a_confirmed_write_does_not_end() {
    let mut store = store();
    store.written(pod("a", "1", 5), at(0));
    store.feed(Feed::Apply(pod("a", "1", 5)));
    assert!(store.expire_unconfirmed(at(1_000_000)).is_empty());
    assert_eq!(names(&store), ["1@5"]);
}

#[test]
fn the_index_follows_the_objects() {
    let mut store = store();
    store.feed(Feed::Apply(pod("a", "1", 1)));
    store.feed(Feed::Apply(pod("a", "1", 2)));
    assert_eq!(store.by(&Index::Node("node-of-1".into())).count(), 0);
    assert_eq!(store.by(&Index::Node("node-of-2".into())).count(), 1);
    store.feed(Feed::Delete(pod("a", "1", 3)));
    assert_eq!(store.by(&Index::Node("node-of-2".into())).count(), 0);
}

#[test]
fn another_object_of_the_name_is_an_end_and_a_beginning() {
    let mut store = store();
    store.feed(Feed::Apply(pod("a", "1", 1)));
    let changes = store.feed(Feed::Apply(pod("a", "2", 5)));
    let ends: Vec<(bool, bool)> = changes.iter().map(|c| (c.old.is_some(), c.new.is_some())).collect();
    assert_eq!(ends, [(true, false), (false, true)]);
    assert_eq!(store.by(&Index::Node("node-of-1".into())).count(), 0);
}
