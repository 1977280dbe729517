//! `components.schemas`: the described types of a group-version, decorated with what Kubernetes adds to them.

use std::collections::HashMap;

use k8s_openapi::api::{
    authentication::v1::{SelfSubjectReview, TokenRequest, TokenReview},
    authorization::v1::{
        LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
    },
    autoscaling::v1::Scale,
    batch::v1::Job,
    coordination::v1::Lease,
    core::v1::{
        Binding, ConfigMap, Endpoints, Event, Namespace, Node, Pod, ReplicationController, Secret, Service,
        ServiceAccount,
    },
    discovery::v1::EndpointSlice,
    events::v1::Event as EventsEvent,
    policy::v1::Eviction,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, Status};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::registry::Kind;
use crate::schema::Gvk;
use crate::schema::table::{Patch, Strategy, Table};

const REFERENCE: &str = "#/components/schemas/";

/// The schemas of a document and which of them are kinds.
pub(super) struct Components {
    pub(super) schemas: Map<String, Value>,
    names: HashMap<Gvk, String>,
}

impl Components {
    /// A reference to a kind's schema; any JSON where it has none.
    pub(super) fn reference(&self, group: &str, version: &str, kind: &str) -> Value {
        match self.names.get(&Gvk::new(group, version, kind)) {
            Some(name) => json!({"$ref": format!("{REFERENCE}{name}")}),
            None => json!({"type": "object"}),
        }
    }
}

/// The kinds of a group-version, the bodies of their subresources, and everything they refer to.
pub(super) fn of(kinds: &[&Kind]) -> Components {
    let mut generator = SchemaSettings::openapi3().into_generator();
    let mut names = HashMap::new();
    let mut add = |group: &str, version: &str, kind: &str| {
        let gvk = Gvk::new(group, version, kind);
        if let Some(name) = describe(&gvk, &mut generator) {
            names.insert(gvk, name);
        }
    };
    for kind in kinds {
        add(kind.group, kind.version, kind.kind);
        for body in kind.subresources {
            add(body.group, body.version, body.kind);
        }
    }
    add("", "v1", "DeleteOptions");
    add("", "v1", "Status");
    let mut schemas = generator.take_definitions(true);
    for (name, schema) in &mut schemas {
        decorate_fields(name, schema);
        wrap_references(schema);
    }
    for (gvk, name) in &names {
        if let Some(schema) = schemas.get_mut(name) {
            let Gvk { group, version, kind } = gvk;
            schema["x-kubernetes-group-version-kind"] = json!([{"group": group, "kind": kind, "version": version}]);
            drop_required_metadata(schema);
        }
    }
    Components { schemas, names }
}

/// Adds a kind's type to the generator; returns the name of its schema, none for a kind without one here.
fn describe(gvk: &Gvk, generator: &mut SchemaGenerator) -> Option<String> {
    fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> String {
        generator.subschema_for::<T>();
        T::schema_name().into_owned()
    }
    let name = match (gvk.group.as_str(), gvk.version.as_str(), gvk.kind.as_str()) {
        ("", "v1", "Binding") => of::<Binding>(generator),
        ("", "v1", "ConfigMap") => of::<ConfigMap>(generator),
        ("", "v1", "DeleteOptions") => of::<DeleteOptions>(generator),
        ("", "v1", "Endpoints") => of::<Endpoints>(generator),
        ("", "v1", "Event") => of::<Event>(generator),
        ("", "v1", "Namespace") => of::<Namespace>(generator),
        ("", "v1", "Node") => of::<Node>(generator),
        ("", "v1", "Pod") => of::<Pod>(generator),
        ("", "v1", "ReplicationController") => of::<ReplicationController>(generator),
        ("", "v1", "Secret") => of::<Secret>(generator),
        ("", "v1", "Service") => of::<Service>(generator),
        ("", "v1", "ServiceAccount") => of::<ServiceAccount>(generator),
        ("", "v1", "Status") => of::<Status>(generator),
        ("authentication.k8s.io", "v1", "SelfSubjectReview") => of::<SelfSubjectReview>(generator),
        ("authentication.k8s.io", "v1", "TokenRequest") => of::<TokenRequest>(generator),
        ("authentication.k8s.io", "v1", "TokenReview") => of::<TokenReview>(generator),
        ("authorization.k8s.io", "v1", "LocalSubjectAccessReview") => of::<LocalSubjectAccessReview>(generator),
        ("authorization.k8s.io", "v1", "SelfSubjectAccessReview") => of::<SelfSubjectAccessReview>(generator),
        ("authorization.k8s.io", "v1", "SelfSubjectRulesReview") => of::<SelfSubjectRulesReview>(generator),
        ("authorization.k8s.io", "v1", "SubjectAccessReview") => of::<SubjectAccessReview>(generator),
        ("autoscaling", "v1", "Scale") => of::<Scale>(generator),
        ("batch", "v1", "Job") => of::<Job>(generator),
        ("coordination.k8s.io", "v1", "Lease") => of::<Lease>(generator),
        ("discovery.k8s.io", "v1", "EndpointSlice") => of::<EndpointSlice>(generator),
        ("events.k8s.io", "v1", "Event") => of::<EventsEvent>(generator),
        ("policy", "v1", "Eviction") => of::<Eviction>(generator),
        _ => return None,
    };
    Some(name)
}

/// `x-kubernetes-patch-strategy` and `-merge-key`, from the table.
fn decorate_fields(definition: &str, schema: &mut Value) {
    let short = definition
        .strip_prefix("io.k8s.api.")
        .or_else(|| definition.strip_prefix("io.k8s.apimachinery.pkg.apis."))
        .unwrap_or(definition);
    let Some(message) = Table::get().named(short) else { return };
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for field in message.fields() {
        if let Some(Value::Object(property)) = properties.get_mut(field.name) {
            decorate(property, field.patch);
        }
    }
}

fn decorate(property: &mut Map<String, Value>, patch: Patch) {
    let mut strategies = Vec::new();
    match patch.strategy {
        Strategy::Default => {}
        Strategy::Replace => strategies.push("replace"),
        Strategy::MergeSet => strategies.push("merge"),
        Strategy::MergeBy(key) => {
            strategies.push("merge");
            property.insert("x-kubernetes-patch-merge-key".into(), key.into());
        }
    }
    if patch.is_retain_keys {
        strategies.push("retainKeys");
    }
    if !strategies.is_empty() {
        property.insert("x-kubernetes-patch-strategy".into(), strategies.join(",").into());
    }
}

/// OpenAPI 3.0 ignores what stands beside a `$ref`: descriptions survive only next to an `allOf`.
fn wrap_references(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.len() > 1 && map.get("$ref").is_some_and(Value::is_string) {
                let reference = map.shift_remove("$ref");
                map.insert("allOf".into(), json!([{"$ref": reference}]));
            }
            map.values_mut().for_each(wrap_references);
        }
        Value::Array(items) => items.iter_mut().for_each(wrap_references),
        _ => {}
    }
}

/// The Rust types always have metadata; clients need not send it, and `explain` would say they must.
fn drop_required_metadata(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    if let Some(Value::Array(required)) = map.get_mut("required") {
        required.retain(|name| name != "metadata");
        if required.is_empty() {
            map.shift_remove("required");
        }
    }
}
