//! Namespace: the scope of most objects.
//!
//! It ends in two steps: a delete marks it Terminating and it stays as long as `spec.finalizers` names someone; the namespace
//! controller empties it and then drops `kubernetes` through the `finalize` subresource.

use serde_json::{Value, json};

use super::{AGE_COLUMN, Column, Context, Kind, NAME_COLUMN, STATUS_VERBS, Strategy, Subresource};
use super::{age_cell, fields, keep_field, name_cell, names};
use crate::status::{ApiError, FieldError};

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Namespace",
    resource: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    categories: &[],
    namespaced: false,
    storage_prefix: "namespaces",
    subresources: &[
        Subresource { name: "finalize", kind: "Namespace", group: "", version: "v1", verbs: &["update"] },
        Subresource { name: "status", kind: "Namespace", group: "", version: "v1", verbs: STATUS_VERBS },
    ],
    strategy: &Namespace,
};

/// The namespaces that every cluster has and nobody may delete.
pub const PROTECTED: [&str; 3] = ["default", "kube-system", "kube-public"];

/// The label that carries the namespace's own name, for selectors.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

static COLUMNS: [Column; 3] = [NAME_COLUMN, Column::text("Status", "The status of the namespace"), AGE_COLUMN];

#[derive(Debug)]
struct Namespace;

impl Strategy for Namespace {
    fn default(&self, object: &mut Value) {
        let name = object["metadata"]["name"].clone();
        if let Some(labels) = fields::object_mut(object, "metadata").and_then(|m| fields::object_mut(m, "labels"))
            && name.as_str().is_some_and(|n| !n.is_empty())
        {
            labels[NAME_LABEL] = name;
        }
        if let Some(status) = fields::object_mut(object, "status") {
            fields::set_default_zero(status, "phase", "Active");
        }
    }

    fn prepare_for_create(&self, object: &mut Value, _ctx: &Context) {
        object["status"] = json!({"phase": "Active"});
        if let Some(spec) = fields::object_mut(object, "spec") {
            let mut finalizers = fields::items(spec, "/finalizers").to_vec();
            if !finalizers.iter().any(|f| f == "kubernetes") {
                finalizers.push("kubernetes".into());
            }
            spec["finalizers"] = Value::Array(finalizers);
        }
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _ctx: &Context) {
        keep_field(new, old, "spec");
        keep_field(new, old, "status");
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        fields::items(object, "/spec/finalizers")
            .iter()
            .filter_map(|finalizer| finalizer_error("spec.finalizers", finalizer))
            .collect()
    }

    fn validate_name(&self, name: &str) -> Option<String> {
        names::dns1123_label(name)
    }

    fn prepare_for_delete(&self, object: &mut Value, _ctx: &Context) {
        if let Some(status) = fields::object_mut(object, "status") {
            status["phase"] = "Terminating".into();
        }
    }

    fn holds_deletion(&self, object: &Value) -> bool {
        !fields::items(object, "/spec/finalizers").is_empty()
    }

    fn check_delete(&self, object: &Value) -> Result<(), ApiError> {
        let name = fields::text(object, "/metadata/name");
        if PROTECTED.contains(&name) {
            return Err(ApiError::forbidden("", "namespaces", name, "this namespace may not be deleted"));
        }
        Ok(())
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn cells(&self, object: &Value, now: &str) -> Vec<Value> {
        vec![name_cell(object), fields::text(object, "/status/phase").into(), age_cell(object, now)]
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("status.phase", fields::text(object, "/status/phase").to_owned())]
    }
}

/// The `finalize` subresource: `spec.finalizers` of the body, everything else as stored.
#[must_use]
pub fn finalize(body: &Value, old: &Value) -> Value {
    let mut new = old.clone();
    if let Some(spec) = fields::object_mut(&mut new, "spec") {
        spec["finalizers"] = Value::Array(fields::items(body, "/spec/finalizers").to_vec());
    }
    if let Some(version) = body["metadata"].get("resourceVersion") {
        fields::set(&mut new, "/metadata", "resourceVersion", version.clone());
    }
    new
}

fn finalizer_error(field: &str, finalizer: &Value) -> Option<FieldError> {
    let name = finalizer.as_str().unwrap_or_default();
    if let Some(wrong) = names::qualified_name(name) {
        return Some(FieldError::invalid(field, finalizer, &wrong));
    }
    let standard = name == "kubernetes" || name.contains('/');
    (!standard).then(|| {
        FieldError::invalid(field, finalizer, "name is neither a standard finalizer name nor is it fully qualified")
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::registry::testing::{created, object, row};

    #[test]
    fn a_new_namespace_is_active_and_held_by_kubernetes() {
        expect![[r"
            metadata:
              name: team
              labels:
                kubernetes.io/metadata.name: team
            status:
              phase: Active
            spec:
              finalizers:
              - kubernetes
        "]]
        .assert_eq(&created(&KIND, "{metadata: {name: team}, status: {phase: Lost}}"));
    }

    #[test]
    fn it_stays_until_the_last_finalizer_is_dropped() {
        let old = object("{metadata: {name: team, resourceVersion: '3'}, spec: {finalizers: [kubernetes]}}");
        assert!(KIND.strategy.holds_deletion(&old));
        let new = finalize(&object("{metadata: {name: team, labels: {a: b}}, spec: {finalizers: []}}"), &old);
        assert!(!KIND.strategy.holds_deletion(&new));
        assert_eq!(new["metadata"], old["metadata"]);
    }

    #[test]
    fn the_namespaces_of_the_cluster_cannot_be_deleted() {
        let error = KIND.strategy.check_delete(&object("{metadata: {name: kube-system}}")).unwrap_err();
        expect![[r#"namespaces "kube-system" is forbidden: this namespace may not be deleted"#]]
            .assert_eq(&error.message);
        assert!(KIND.strategy.check_delete(&object("{metadata: {name: team}}")).is_ok());
    }

    #[test]
    fn the_row_shows_the_phase() {
        let namespace =
            "{metadata: {name: team, creationTimestamp: '2026-01-01T00:00:00Z'}, status: {phase: Terminating}}";
        expect!["team | Terminating | 5m"].assert_eq(&row(&KIND, namespace));
    }
}
