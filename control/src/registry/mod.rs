//! What each kind is: names, scope, defaults, validation, update rules, Table columns, selectable fields.
//!
//! One file per kind; adding a kind is adding a file and a line in [`kinds`]. Nothing here touches the store or the clock: a
//! strategy sees objects and a [`Context`].

use serde_json::Value;

use crate::status::{ApiError, FieldError};

/// Who asks, and what the edge decided for the request (time, fresh uid): the verbs themselves never ask the world.
#[derive(Clone, Debug)]
pub struct Context {
    /// RFC 3339 UTC with seconds: `2026-01-31T12:00:00Z`.
    pub now: String,
    /// A fresh UUID for an object that is created by this request.
    pub uid: String,
    /// Five characters for `generateName`.
    pub name_suffix: String,
    pub user: User,
}

/// An authenticated identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
}

/// The constant facts of a kind, as discovery shows them.
#[derive(Debug)]
pub struct Kind {
    /// `""` for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    /// Plural: `pods`.
    pub resource: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    /// Under `/registry/`: `pods`, `services/specs`, `leases`, …
    pub storage_prefix: &'static str,
    /// `status`, `scale`, `binding`, `log`, `token`, `finalize`, …
    pub subresources: &'static [Subresource],
    /// Rules of this kind beyond the common ones.
    pub strategy: &'static dyn Strategy,
}

/// A subresource as discovery shows it.
#[derive(Debug)]
pub struct Subresource {
    pub name: &'static str,
    /// Kind, group and version of its body: (`Scale`, `autoscaling`, `v1`).
    pub kind: &'static str,
    pub group: &'static str,
    pub version: &'static str,
    pub verbs: &'static [&'static str],
}

/// A column of the server-side Table. `priority` 0 is always shown, 1 only with `-o wide`.
#[derive(Debug)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `date`.
    pub kind: &'static str,
    /// `name` for the name column, else empty.
    pub format: &'static str,
    pub description: &'static str,
    pub priority: i32,
}

impl Column {
    /// A column that is always shown.
    #[must_use]
    pub const fn text(name: &'static str, description: &'static str) -> Self {
        Self { name, kind: "string", format: "", description, priority: 0 }
    }

    /// A number that is always shown.
    #[must_use]
    pub const fn number(name: &'static str, description: &'static str) -> Self {
        Self { name, kind: "integer", format: "", description, priority: 0 }
    }

    /// A column of `-o wide`.
    #[must_use]
    pub const fn wide(name: &'static str, description: &'static str) -> Self {
        Self { name, kind: "string", format: "", description, priority: 1 }
    }
}

/// What the cluster hands out one by one.
#[derive(Clone, Debug)]
pub struct Ranges {
    /// Cluster IPs: base address and prefix length.
    pub service_cidr: (std::net::Ipv4Addr, u8),
    pub node_ports: std::ops::RangeInclusive<u16>,
}

impl Default for Ranges {
    fn default() -> Self {
        Self { service_cidr: (std::net::Ipv4Addr::new(10, 96, 0, 0), 16), node_ports: 30_000..=32_767 }
    }
}

/// The rules of one kind. Objects are JSON in the stored version; every method is pure.
pub trait Strategy: Sync + Send + std::fmt::Debug {
    /// Fills what clients rely on being filled (after decoding, on create and on update).
    fn default(&self, _object: &mut Value) {}

    /// What Kubernetes' built-in admission adds on create, or why it refuses. Runs after `default`, before `prepare_for_create`.
    fn admit(&self, _object: &mut Value, _ctx: &Context) -> Result<(), ApiError> {
        Ok(())
    }

    /// Resets what a client may not set on create (status, for most kinds). `metadata` is done by the engine.
    fn prepare_for_create(&self, object: &mut Value, _ctx: &Context) {
        drop_status(object);
    }

    /// Keeps what the main endpoint may not change (status, for most kinds).
    fn prepare_for_update(&self, new: &mut Value, old: &Value, _ctx: &Context) {
        keep_field(new, old, "status");
    }

    /// Keeps what the status endpoint may not change: everything but status and a part of metadata.
    fn prepare_for_status_update(&self, new: &mut Value, old: &Value, _ctx: &Context) {
        let status = new.get("status").cloned();
        let metadata = new.get("metadata").cloned();
        *new = old.clone();
        if let Some(status) = status {
            new["status"] = status;
        }
        if let Some(metadata) = metadata {
            new["metadata"] = metadata;
        }
    }

    /// Everything wrong with the object, each with its field. The common metadata is checked by the engine.
    fn validate(&self, _object: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Everything wrong with the change (immutable fields); `validate` has run on `new` too.
    fn validate_update(&self, _new: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Name rule: `None` when fine, else what is wrong with it. Default: DNS-1123 subdomain.
    fn validate_name(&self, name: &str) -> Option<String> {
        names::dns1123_subdomain(name)
    }

    /// Whether a change must raise `metadata.generation`. Default: `spec` differs.
    fn bumps_generation(&self, new: &Value, old: &Value) -> bool {
        new.get("spec") != old.get("spec")
    }

    /// Whether the kind has `metadata.generation` at all (kinds with a spec/status split).
    fn has_generation(&self) -> bool {
        true
    }

    /// Whether an update without resourceVersion overwrites (true for most core kinds).
    fn allows_unconditional_update(&self) -> bool {
        true
    }

    /// Whether a PUT of an absent object creates it.
    fn allows_create_on_update(&self) -> bool {
        false
    }

    /// After how many seconds the store forgets the object by itself (Event), counted from its last write.
    fn storage_ttl_s(&self) -> Option<i64> {
        None
    }

    /// The grace period of a delete, in seconds, before the object is really removed; 0 removes at once.
    /// `requested` is the client's `gracePeriodSeconds`.
    fn grace_period_s(&self, _object: &Value, _requested: Option<i64>) -> i64 {
        0
    }

    /// `Background` for most; `Orphan` for ReplicationController and Job.
    fn default_propagation(&self) -> &'static str {
        "Background"
    }

    /// Marks an object whose deletion begins and that stays for now (Namespace: phase Terminating). The engine sets
    /// `deletionTimestamp` itself.
    fn prepare_for_delete(&self, _object: &mut Value, _ctx: &Context) {}

    /// Whether something besides `metadata.finalizers` keeps an object that is being deleted (Namespace: `spec.finalizers`).
    fn holds_deletion(&self, _object: &Value) -> bool {
        false
    }

    /// Whether [`Strategy::allocate`] must be called on every create and update, with all objects of the kind.
    fn allocates(&self) -> bool {
        false
    }

    /// Takes what the cluster has only once (Service: cluster IP, node ports). Runs after validation; `existing` are all stored
    /// objects of the kind (the object itself, known by its uid, may be among them); the caller serialises allocations.
    fn allocate(
        &self,
        _object: &mut Value,
        _existing: &[&Value],
        _ranges: &Ranges,
        _ctx: &Context,
    ) -> Result<(), ApiError> {
        Ok(())
    }

    /// The `autoscaling/v1` Scale of an object, for kinds with the `scale` subresource.
    fn scale(&self, _object: &Value) -> Option<Value> {
        None
    }

    /// Writes a Scale's `spec.replicas` into the object. Preconditions (resourceVersion) are the engine's.
    fn apply_scale(&self, _object: &mut Value, _scale: &Value) -> Result<(), ApiError> {
        Ok(())
    }

    /// Warnings a client gets with a delete that names no propagation policy.
    fn delete_warning(&self) -> Option<&'static str> {
        None
    }

    /// A refusal before deletion (Namespace `default`, …).
    fn check_delete(&self, _object: &Value) -> Result<(), ApiError> {
        Ok(())
    }

    /// Table columns.
    fn columns(&self) -> &'static [Column] {
        &DEFAULT_COLUMNS
    }

    /// One cell per column. `now` is RFC 3339.
    fn cells(&self, object: &Value, now: &str) -> Vec<Value> {
        vec![name_cell(object), age_cell(object, now)]
    }

    /// `conditions` of the Table row (finished pods), usually empty.
    fn row_conditions(&self, _object: &Value) -> Vec<Value> {
        Vec::new()
    }

    /// Values of the selectable fields besides `metadata.name` and `metadata.namespace`. Must name all of them, also when empty.
    fn selectable_fields(&self, _object: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// The first column of every kind.
pub const NAME_COLUMN: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name must be unique within a namespace. Is required when creating resources.",
    priority: 0,
};

/// The age column of nearly every kind.
pub const AGE_COLUMN: Column = Column::text(
    "Age",
    "CreationTimestamp is a timestamp representing the server time when this object was created. \
     It is represented in RFC3339 form and is in UTC.",
);

/// Columns of a kind without its own.
pub static DEFAULT_COLUMNS: [Column; 2] = [NAME_COLUMN, AGE_COLUMN];

/// Verbs of a `status` subresource.
pub const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

/// `metadata.name`.
#[must_use]
pub fn name_cell(object: &Value) -> Value {
    object["metadata"]["name"].clone()
}

/// `5s`, `2m30s`, `3h`, `2d5h`, or `<unknown>`.
#[must_use]
pub fn age_cell(object: &Value, now: &str) -> Value {
    let created = object["metadata"]["creationTimestamp"].as_str().unwrap_or_default();
    age::since(created, now).into()
}

/// Removes `status`.
pub fn drop_status(object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        map.shift_remove("status");
    }
}

/// Makes `new[field]` what `old[field]` is.
pub fn keep_field(new: &mut Value, old: &Value, field: &str) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => {
            map.insert(field.to_owned(), value.clone());
        }
        None => {
            map.shift_remove(field);
        }
    }
}

/// Every kind that is served, in discovery order.
static KINDS: [&Kind; 13] = [
    &config_map::KIND,
    &endpoints::KIND,
    &event_object::KIND,
    &namespace::KIND,
    &node::KIND,
    &pod::KIND,
    &replication_controller::KIND,
    &secret::KIND,
    &service_account::KIND,
    &service::KIND,
    &job::KIND,
    &node_lease::KIND,
    &endpoint_slice::KIND,
];

#[must_use]
pub fn kinds() -> &'static [&'static Kind] {
    &KINDS
}

/// The kind served under this group, version and plural resource.
#[must_use]
pub fn find(group: &str, version: &str, resource: &str) -> Option<&'static Kind> {
    kinds().iter().copied().find(|k| k.group == group && k.version == version && k.resource == resource)
}

pub mod age;
pub mod config_map;
pub mod endpoint_slice;
pub mod endpoints;
pub mod event_object;
pub mod fields;
#[cfg(test)]
mod hostile_tests;
pub mod job;
#[cfg(test)]
mod life_tests;
pub mod limits;
pub mod names;
pub mod namespace;
pub mod node;
pub mod node_lease;
pub mod pod;
pub mod quantity;
pub mod replication_controller;
pub mod secret;
pub mod service;
pub mod service_account;
pub mod template;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod typed_tests;
