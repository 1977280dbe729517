//! Replacing an object (PUT, and PATCH after the patch was applied), through the main endpoint or a subresource.

use serde_json::Value;

use super::create::refuse;
use super::{check_type, drop_nulls, meta, metadata, same, set_meta};
use crate::registry::{Context, Kind};
use crate::status::{ApiError, FieldError};

/// Which endpoint of the object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Main,
    Status,
    /// A subresource that has worked out the whole object itself (finalize, binding, scale).
    Exact,
}

/// What an update must write.
#[derive(Debug, PartialEq)]
pub enum Update {
    /// Nothing: the object stays as it is, with its resourceVersion.
    Unchanged,
    Write(Value),
    /// The last finalizer of an object being deleted went away: it goes too. Carries its last state.
    Remove(Value),
}

/// Decides what replacing `old` by `new` does. `old` carries its `resourceVersion`.
///
/// # Errors
/// A refusal (400, 409, 422), before anything is written.
pub fn update(
    kind: &Kind,
    namespace: Option<&str>,
    old: &Value,
    mut new: Value,
    target: Target,
    ctx: &Context,
) -> Result<Update, ApiError> {
    check_type(kind, &mut new)?;
    drop_nulls(&mut new);
    check_resource_version(kind, old, &new, target)?;
    metadata::for_update(kind, namespace, &mut new, old)?;
    match target {
        Target::Main => kind.strategy.prepare_for_update(&mut new, old, ctx),
        Target::Status => kind.strategy.prepare_for_status_update(&mut new, old, ctx),
        Target::Exact => {}
    }
    kind.strategy.default(&mut new);
    let mut errors = metadata::validate(kind, &new);
    errors.extend(added_finalizers(&new, old));
    if target != Target::Exact {
        errors.extend(kind.strategy.validate(&new));
    }
    if target == Target::Main {
        errors.extend(kind.strategy.validate_update(&new, old));
    }
    refuse(kind, &new, &errors)?;
    if target != Target::Status && kind.strategy.has_generation() && kind.strategy.bumps_generation(&new, old) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        set_meta(&mut new, "generation", Some(generation.into()));
    }
    set_meta(&mut new, "resourceVersion", Some(meta(old, "resourceVersion").into()));
    metadata::order(&mut new);
    if is_finished(kind, &new) {
        return Ok(Update::Remove(new));
    }
    Ok(if same(&new, old) { Update::Unchanged } else { Update::Write(new) })
}

fn check_resource_version(kind: &Kind, old: &Value, new: &Value, target: Target) -> Result<(), ApiError> {
    let name = meta(old, "name");
    match meta(new, "resourceVersion") {
        "" | "0" if kind.strategy.allows_unconditional_update() || target != Target::Main => Ok(()),
        "" | "0" => {
            let error = FieldError::invalid("metadata.resourceVersion", &0.into(), "must be specified for an update");
            Err(ApiError::invalid(kind.group, kind.kind, name, &[error]))
        }
        given if given == meta(old, "resourceVersion") => Ok(()),
        given if given.parse::<u64>().is_err() => {
            let error = FieldError::invalid("metadata.resourceVersion", &given.into(), "must be an integer");
            Err(ApiError::invalid(kind.group, kind.kind, name, &[error]))
        }
        _ => Err(ApiError::stale(kind.group, kind.resource, name)),
    }
}

/// An object on its way out takes no new finalizers.
fn added_finalizers(new: &Value, old: &Value) -> Option<FieldError> {
    if meta(old, "deletionTimestamp").is_empty() {
        return None;
    }
    let list = |object: &Value| object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let before = list(old);
    let added: Vec<Value> = list(new).into_iter().filter(|f| !before.contains(f)).collect();
    (!added.is_empty()).then(|| {
        let names = added.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
        let why = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{names:?}}}"
        );
        FieldError::forbidden("metadata.finalizers", &why)
    })
}

/// Marked for deletion, no finalizer left, no grace period running: nothing keeps it.
pub(super) fn is_finished(kind: &Kind, object: &Value) -> bool {
    let metadata = &object["metadata"];
    metadata.get("deletionTimestamp").is_some()
        && metadata["finalizers"].as_array().is_none_or(Vec::is_empty)
        && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && !kind.strategy.holds_deletion(object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{WIDGET, context, widget};
    use super::*;

    fn stored() -> Value {
        let mut object = super::super::create(&WIDGET, Some("default"), widget("a"), &context()).unwrap();
        object["spec"] = json!({"size": 1});
        object["status"] = json!({"ready": true});
        object["metadata"]["resourceVersion"] = "7".into();
        object
    }

    fn run(new: Value, target: Target) -> Result<Update, ApiError> {
        update(&WIDGET, Some("default"), &stored(), new, target, &context())
    }

    #[test]
    fn the_same_object_needs_no_write() {
        assert_eq!(run(stored(), Target::Main).unwrap(), Update::Unchanged);
        let mut without_version = widget("a");
        without_version["spec"] = json!({"size": 1});
        assert_eq!(run(without_version, Target::Main).unwrap(), Update::Unchanged);
    }

    #[test]
    fn a_new_spec_raises_the_generation_and_keeps_the_status() {
        let mut new = stored();
        new["spec"]["size"] = 2.into();
        new["status"] = json!({"ready": false});
        let Update::Write(written) = run(new, Target::Main).unwrap() else { panic!("must write") };
        assert_eq!(written["metadata"]["generation"], 2);
        assert_eq!(written["status"], json!({"ready": true}));
    }

    #[test]
    fn the_status_endpoint_changes_only_the_status() {
        let mut new = stored();
        new["spec"]["size"] = 2.into();
        new["status"] = json!({"ready": false});
        let Update::Write(written) = run(new, Target::Status).unwrap() else { panic!("must write") };
        assert_eq!(written["metadata"]["generation"], 1);
        assert_eq!(written["spec"], json!({"size": 1}));
        assert_eq!(written["status"], json!({"ready": false}));
    }

    #[test]
    fn another_revision_or_uid_is_a_conflict() {
        let mut stale = stored();
        stale["metadata"]["resourceVersion"] = "6".into();
        assert_eq!(run(stale, Target::Main).unwrap_err().reason, "Conflict");
        let mut other = stored();
        other["metadata"]["uid"] = "other".into();
        assert_eq!(run(other, Target::Main).unwrap_err().reason, "Conflict");
    }

    #[test]
    fn the_last_finalizer_takes_the_object_with_it() {
        let mut old = stored();
        old["metadata"]["deletionTimestamp"] = "2026-01-31T12:00:00Z".into();
        old["metadata"]["deletionGracePeriodSeconds"] = 0.into();
        old["metadata"]["finalizers"] = json!(["test.io/hold"]);
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!([]);
        let done = update(&WIDGET, Some("default"), &old, new, Target::Main, &context()).unwrap();
        assert!(matches!(done, Update::Remove(_)));
        let mut more = old.clone();
        more["metadata"]["finalizers"] = json!(["test.io/hold", "test.io/more"]);
        let refused = update(&WIDGET, Some("default"), &old, more, Target::Main, &context()).unwrap_err();
        assert_eq!(refused.code, 422);
    }
}
