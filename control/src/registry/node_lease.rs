//! Lease (`coordination.k8s.io`): who holds something and since when; nodes renew one as their heartbeat.
//!
//! Not etcd's lease: nothing expires by itself.

use serde_json::{Value, json};

use super::{AGE_COLUMN, Column, Context, Kind, NAME_COLUMN, Strategy, age_cell, fields, name_cell};
use crate::status::FieldError;

pub static KIND: Kind = Kind {
    group: "coordination.k8s.io",
    version: "v1",
    kind: "Lease",
    resource: "leases",
    singular: "lease",
    short_names: &[],
    categories: &[],
    namespaced: true,
    storage_prefix: "leases",
    subresources: &[],
    strategy: &NodeLease,
};

static COLUMNS: [Column; 3] =
    [NAME_COLUMN, Column::text("Holder", "The identity of the holder of a current lease."), AGE_COLUMN];

#[derive(Debug)]
struct NodeLease;

impl Strategy for NodeLease {
    fn prepare_for_create(&self, _object: &mut Value, _ctx: &Context) {}

    fn prepare_for_update(&self, _new: &mut Value, _old: &Value, _ctx: &Context) {}

    fn has_generation(&self) -> bool {
        false
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let at_least = |field: &str, min: i64, detail: &str| {
            let number = fields::integer(object, &format!("/spec/{field}")).filter(|number| *number < min)?;
            Some(FieldError::invalid(format!("spec.{field}"), &json!(number), detail))
        };
        errors.extend(at_least("leaseDurationSeconds", 1, "must be greater than 0"));
        errors.extend(at_least("leaseTransitions", 0, "must be greater than or equal to 0"));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn cells(&self, object: &Value, now: &str) -> Vec<Value> {
        vec![name_cell(object), fields::text(object, "/spec/holderIdentity").into(), age_cell(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::registry::testing::{invalid, row};

    #[test]
    fn times_and_counts_are_checked() {
        expect![[r#"
            spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0
            spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0"#]]
        .assert_eq(&invalid(&KIND, "{spec: {leaseDurationSeconds: 0, leaseTransitions: -1}}"));
        assert_eq!(invalid(&KIND, "{spec: {leaseDurationSeconds: 40}}"), "");
    }

    #[test]
    fn the_row_shows_the_holder() {
        let lease = "{metadata: {name: n1, creationTimestamp: '2026-01-01T00:00:00Z'}, spec: {holderIdentity: n1}}";
        assert_eq!(row(&KIND, lease), "n1 | n1 | 5m");
    }
}
