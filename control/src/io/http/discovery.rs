//! Discovery: which groups, versions and resources are served, in the old form and in the aggregated one.

use serde_json::{Map, Value, json};

use crate::engine::group_version;
use crate::registry::{Kind, Subresource, kinds};

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// A resource that is only asked, never stored.
struct Review {
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    singular: &'static str,
    kind: &'static str,
}

const fn review(
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    singular: &'static str,
    kind: &'static str,
) -> Review {
    Review { group, version, resource, singular, kind }
}

static REVIEWS: [Review; 4] = [
    review("authentication.k8s.io", "v1", "selfsubjectreviews", "selfsubjectreview", "SelfSubjectReview"),
    review("authentication.k8s.io", "v1beta1", "selfsubjectreviews", "selfsubjectreview", "SelfSubjectReview"),
    review(
        "authorization.k8s.io",
        "v1",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
        "SelfSubjectAccessReview",
    ),
    review("authorization.k8s.io", "v1", "selfsubjectrulesreviews", "selfsubjectrulesreview", "SelfSubjectRulesReview"),
];

/// All (group, version)s, the core group first, else in order of appearance.
fn group_versions() -> Vec<(&'static str, &'static str)> {
    let all = kinds().iter().map(|k| (k.group, k.version)).chain(REVIEWS.iter().map(|r| (r.group, r.version)));
    let mut seen = Vec::new();
    for pair in all {
        if !seen.contains(&pair) {
            seen.push(pair);
        }
    }
    seen.sort_by_key(|(group, _)| !group.is_empty());
    seen
}

fn groups() -> Vec<&'static str> {
    let mut groups: Vec<&'static str> = group_versions().into_iter().map(|(group, _)| group).collect();
    groups.dedup();
    let mut seen = Vec::new();
    groups.retain(|g| {
        !seen.contains(g) && {
            seen.push(*g);
            true
        }
    });
    groups
}

fn versions(group: &str) -> Vec<&'static str> {
    group_versions().into_iter().filter(|(g, _)| *g == group).map(|(_, version)| version).collect()
}

/// `/api`.
#[must_use]
pub fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": versions(""),
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `/apis`.
#[must_use]
pub fn group_list() -> Value {
    let groups: Vec<Value> = groups().into_iter().filter(|g| !g.is_empty()).filter_map(group).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`.
#[must_use]
pub fn group(name: &str) -> Option<Value> {
    let versions: Vec<Value> = versions(name)
        .into_iter()
        .map(|version| json!({"groupVersion": group_version(name, version), "version": version}))
        .collect();
    let preferred = versions.first()?.clone();
    Some(json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": versions, "preferredVersion": preferred,
    }))
}

/// `/api/v1`, `/apis/<group>/<version>`.
#[must_use]
pub fn resource_list(group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for kind in kinds().iter().filter(|k| k.group == group && k.version == version) {
        resources.push(legacy(kind));
        resources.extend(kind.subresources.iter().map(|sub| legacy_subresource(kind, sub)));
    }
    for review in REVIEWS.iter().filter(|r| r.group == group && r.version == version) {
        resources.push(json!({
            "name": review.resource, "singularName": review.singular, "namespaced": false, "kind": review.kind,
            "verbs": ["create"],
        }));
    }
    if resources.is_empty() {
        return None;
    }
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version(group, version),
        "resources": resources,
    }))
}

fn legacy(kind: &Kind) -> Value {
    let mut resource = json!({
        "name": kind.resource, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
        "verbs": VERBS,
    });
    names(&mut resource, kind);
    resource
}

fn names(resource: &mut Value, kind: &Kind) {
    if !kind.short_names.is_empty() {
        resource["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        resource["categories"] = json!(kind.categories);
    }
}

fn legacy_subresource(kind: &Kind, sub: &Subresource) -> Value {
    let mut resource = Map::new();
    resource.insert("name".into(), format!("{}/{}", kind.resource, sub.name).into());
    resource.insert("singularName".into(), "".into());
    resource.insert("namespaced".into(), kind.namespaced.into());
    if (sub.group, sub.version) != (kind.group, kind.version) {
        resource.insert("group".into(), sub.group.into());
        resource.insert("version".into(), sub.version.into());
    }
    resource.insert("kind".into(), sub.kind.into());
    resource.insert("verbs".into(), json!(sub.verbs));
    Value::Object(resource)
}

/// The aggregated form of `/api` (`core`) or `/apis`.
#[must_use]
pub fn aggregated(version: &str, core: bool) -> Value {
    let items: Vec<Value> = groups()
        .into_iter()
        .filter(|group| group.is_empty() == core)
        .map(|group| {
            let versions: Vec<Value> = versions(group)
                .into_iter()
                .map(|version| {
                    let resources = aggregated_resources(group, version);
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {},
        "items": items,
    })
}

fn aggregated_resources(group: &str, version: &str) -> Vec<Value> {
    let mut resources = Vec::new();
    for kind in kinds().iter().filter(|k| k.group == group && k.version == version) {
        let mut resource = json!({
            "resource": kind.resource,
            "responseKind": response_kind(kind.group, kind.version, kind.kind),
            "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": kind.singular,
            "verbs": VERBS,
        });
        names(&mut resource, kind);
        if !kind.subresources.is_empty() {
            let subresources: Vec<Value> = kind
                .subresources
                .iter()
                .map(|sub| {
                    json!({
                        "subresource": sub.name,
                        "responseKind": response_kind(sub.group, sub.version, sub.kind),
                        "verbs": sub.verbs,
                    })
                })
                .collect();
            resource["subresources"] = Value::Array(subresources);
        }
        resources.push(resource);
    }
    for review in REVIEWS.iter().filter(|r| r.group == group && r.version == version) {
        resources.push(json!({
            "resource": review.resource,
            "responseKind": response_kind(review.group, review.version, review.kind),
            "scope": "Cluster",
            "singularResource": review.singular,
            "verbs": ["create"],
        }));
    }
    resources
}

fn response_kind(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}
