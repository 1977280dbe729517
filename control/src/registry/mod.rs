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

/// The rules of one kind. Objects are JSON in the stored version; every method is pure.
pub trait Strategy: Sync + Send + std::fmt::Debug {
    /// Fills what clients rely on being filled (after decoding, on create and on update).
    fn default(&self, _object: &mut Value) {}

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

    /// The grace period of a delete, in seconds, before the object is really removed; 0 removes at once.
    /// `requested` is the client's `gracePeriodSeconds`.
    fn grace_period_s(&self, _object: &Value, _requested: Option<i64>) -> i64 {
        0
    }

    /// `Background` for most; `Orphan` for ReplicationController and Job.
    fn default_propagation(&self) -> &'static str {
        "Background"
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

/// Columns of a kind without its own.
pub static DEFAULT_COLUMNS: [Column; 2] = [
    Column {
        name: "Name",
        kind: "string",
        format: "name",
        description: "Name must be unique within a namespace.",
        priority: 0,
    },
    Column { name: "Age", kind: "string", format: "", description: "CreationTimestamp of the object.", priority: 0 },
];

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

pub mod age;
pub mod names;

/// Every kind that is served, in discovery order.
#[must_use]
pub fn kinds() -> &'static [&'static Kind] {
    &[]
}

/// The kind served under this group, version and plural resource.
#[must_use]
pub fn find(group: &str, version: &str, resource: &str) -> Option<&'static Kind> {
    kinds().iter().copied().find(|k| k.group == group && k.version == version && k.resource == resource)
}
