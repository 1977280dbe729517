//! Deleting an object: preconditions, grace periods, finalizers and what happens to dependents.

use serde_json::{Value, json};

use super::update::is_finished;
use super::{meta, set_meta};
use crate::registry::{Context, Kind};
use crate::status::ApiError;

/// `DeleteOptions`, from the body or the query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    pub grace_period_s: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    /// `Orphan`, `Background`, `Foreground`.
    pub propagation: Option<String>,
    pub dry_run: bool,
}

/// What a delete must write.
#[derive(Debug, PartialEq)]
pub enum Deletion {
    /// It goes now. Carries its last state.
    Remove(Value),
    /// It stays until its finalizers or its grace period are done.
    Mark(Value),
    /// It is already on its way.
    Unchanged,
}

impl DeleteOptions {
    /// Reads a `DeleteOptions` body (also the one inside an Eviction).
    ///
    /// # Errors
    /// 422 for values outside the contract.
    pub fn from_body(body: &Value) -> Result<Self, ApiError> {
        let text = |value: &Value| value.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
        let mut options = Self {
            grace_period_s: body["gracePeriodSeconds"].as_i64(),
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
            propagation: text(&body["propagationPolicy"]),
            dry_run: body["dryRun"].as_array().is_some_and(|d| d.iter().any(|v| v == "All")),
        };
        if let Some(orphan) = body["orphanDependents"].as_bool() {
            if options.propagation.is_some() {
                let why = "orphanDependents and deletionPropagation cannot be both set";
                return Err(invalid_options("propagationPolicy", why));
            }
            options.propagation = Some(if orphan { "Orphan" } else { "Background" }.to_owned());
        }
        options.check()?;
        Ok(options)
    }

    /// # Errors
    /// 422 for an unknown propagation policy.
    pub fn check(&self) -> Result<(), ApiError> {
        match self.propagation.as_deref() {
            None | Some("Orphan" | "Background" | "Foreground") => Ok(()),
            Some(other) => {
                let why = format!(
                    "Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\""
                );
                Err(invalid_options("propagationPolicy", &why))
            }
        }
    }
}

fn invalid_options(field: &str, why: &str) -> ApiError {
    let mut error = ApiError::new(422, "Invalid", format!("DeleteOptions.meta.k8s.io \"\" is invalid: {field}: {why}"));
    error.details = Some(json!({
        "group": "meta.k8s.io", "kind": "DeleteOptions",
        "causes": [{"reason": "FieldValueInvalid", "message": why, "field": field}],
    }));
    error
}

/// Decides what deleting `old` does. `old` carries its `resourceVersion`.
///
/// # Errors
/// 409 when a precondition fails, 403 when the kind refuses.
pub fn delete(kind: &Kind, old: &Value, options: &DeleteOptions, ctx: &Context) -> Result<Deletion, ApiError> {
    check_preconditions(kind, old, options)?;
    kind.strategy.check_delete(old)?;
    let requested = options.grace_period_s.map(|s| if s < 0 { 1 } else { s });
    let mut grace_s = kind.strategy.grace_period_s(old, requested).max(0);
    let mut new = old.clone();
    apply_propagation(kind, &mut new, options);
    let marked = !meta(old, "deletionTimestamp").is_empty();
    if marked {
        // A second delete may only shorten the wait.
        let running_s = old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        grace_s = if options.grace_period_s.is_some() { grace_s.min(running_s) } else { running_s };
    }
    let started = if marked {
        let running_s = old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        crate::time::add_s(meta(old, "deletionTimestamp"), -running_s)
    } else {
        Some(ctx.now.clone())
    };
    let until = started.and_then(|t| crate::time::add_s(&t, grace_s)).unwrap_or_else(|| ctx.now.clone());
    set_meta(&mut new, "deletionTimestamp", Some(until.into()));
    set_meta(&mut new, "deletionGracePeriodSeconds", Some(grace_s.into()));
    if !marked && kind.strategy.has_generation() {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        set_meta(&mut new, "generation", Some(generation.into()));
    }
    kind.strategy.prepare_for_delete(&mut new, ctx);
    if is_finished(kind, &new) {
        return Ok(Deletion::Remove(old.clone()));
    }
    if let Some(Value::Object(metadata)) = new.get_mut("metadata") {
        metadata.sort_keys();
    }
    Ok(if super::same(&new, old) { Deletion::Unchanged } else { Deletion::Mark(new) })
}

fn check_preconditions(kind: &Kind, old: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
    let name = meta(old, "name");
    let conflict = |what: &str, wanted: &str, found: &str| {
        let why = format!(
            "the {what} in the precondition ({wanted}) does not match the {what} in record ({found}). The object might have \
             been deleted and then recreated"
        );
        Err(ApiError::conflict(kind.group, kind.resource, name, &why))
    };
    match (&options.uid, &options.resource_version) {
        (Some(uid), _) if uid != meta(old, "uid") => conflict("UID", uid, meta(old, "uid")),
        (_, Some(version)) if version != meta(old, "resourceVersion") => {
            conflict("ResourceVersion", version, meta(old, "resourceVersion"))
        }
        _ => Ok(()),
    }
}

/// The garbage collector reads the policy from finalizers, so that it survives the request.
fn apply_propagation(kind: &Kind, object: &mut Value, options: &DeleteOptions) {
    let mut finalizers: Vec<Value> = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let has_policy = finalizers.iter().any(|f| f == "orphan" || f == "foregroundDeletion");
    let policy = match options.propagation.as_deref() {
        Some(policy) => policy,
        // Without a word from the client an earlier choice stands.
        None if has_policy => return,
        None => kind.strategy.default_propagation(),
    };
    finalizers.retain(|f| f != "orphan" && f != "foregroundDeletion");
    match policy {
        "Orphan" => finalizers.push("orphan".into()),
        "Foreground" => finalizers.push("foregroundDeletion".into()),
        _ => {}
    }
    set_meta(object, "finalizers", (!finalizers.is_empty()).then_some(Value::Array(finalizers)));
}

#[cfg(test)]
mod tests {
    use super::super::testing::{WIDGET, context, widget};
    use super::*;
    use crate::registry::Strategy;

    #[derive(Debug)]
    struct Slow;
    impl Strategy for Slow {
        fn grace_period_s(&self, _object: &Value, requested: Option<i64>) -> i64 {
            requested.unwrap_or(30)
        }
    }

    fn slow() -> Kind {
        Kind { strategy: &Slow, ..copy(&WIDGET) }
    }

    fn copy(kind: &Kind) -> Kind {
        let Kind {
            group,
            version,
            kind,
            resource,
            singular,
            short_names,
            categories,
            namespaced,
            storage_prefix,
            subresources,
            strategy,
        } = *kind;
        Kind {
            group,
            version,
            kind,
            resource,
            singular,
            short_names,
            categories,
            namespaced,
            storage_prefix,
            subresources,
            strategy,
        }
    }

    fn options(propagation: &str) -> DeleteOptions {
        DeleteOptions { propagation: Some(propagation.into()), ..Default::default() }
    }

    #[test]
    fn nothing_holds_it_so_it_goes() {
        assert!(matches!(delete(&WIDGET, &widget("a"), &options("Background"), &context()), Ok(Deletion::Remove(_))));
    }

    #[test]
    fn finalizers_and_policies_hold_it() {
        for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
            let Ok(Deletion::Mark(marked)) = delete(&WIDGET, &widget("a"), &options(policy), &context()) else {
                panic!("must be marked")
            };
            assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
            assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-31T12:00:00Z");
            assert_eq!(marked["metadata"]["generation"], 1);
            assert_eq!(delete(&WIDGET, &marked, &DeleteOptions::default(), &context()), Ok(Deletion::Unchanged));
        }
    }

    #[test]
    fn a_grace_period_can_only_be_shortened() {
        let kind = slow();
        let with = |s| DeleteOptions { grace_period_s: s, ..Default::default() };
        let Ok(Deletion::Mark(marked)) = delete(&kind, &widget("a"), &with(None), &context()) else { panic!() };
        assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-31T12:00:30Z");
        assert_eq!(delete(&kind, &marked, &with(Some(60)), &context()), Ok(Deletion::Unchanged));
        let Ok(Deletion::Mark(shorter)) = delete(&kind, &marked, &with(Some(5)), &context()) else { panic!() };
        assert_eq!(shorter["metadata"]["deletionTimestamp"], "2026-01-31T12:00:05Z");
        assert!(matches!(delete(&kind, &shorter, &with(Some(0)), &context()), Ok(Deletion::Remove(_))));
    }

    #[test]
    fn a_wrong_uid_is_a_conflict() {
        let wrong = DeleteOptions { uid: Some("x".into()), ..Default::default() };
        assert_eq!(delete(&WIDGET, &widget("a"), &wrong, &context()).unwrap_err().reason, "Conflict");
    }
}
