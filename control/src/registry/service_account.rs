//! ServiceAccount: an identity for pods.

use serde_json::Value;

use super::{AGE_COLUMN, Column, Context, Kind, NAME_COLUMN, Strategy, Subresource, age_cell, fields, name_cell};

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ServiceAccount",
    resource: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    categories: &[],
    namespaced: true,
    storage_prefix: "serviceaccounts",
    subresources: &[Subresource {
        name: "token",
        kind: "TokenRequest",
        group: "authentication.k8s.io",
        version: "v1",
        verbs: &["create"],
    }],
    strategy: &ServiceAccount,
};

static COLUMNS: [Column; 3] = [
    NAME_COLUMN,
    Column::text("Secrets", "How many secrets pods running as this service account are permitted to use."),
    AGE_COLUMN,
];

#[derive(Debug)]
struct ServiceAccount;

impl Strategy for ServiceAccount {
    fn prepare_for_create(&self, _object: &mut Value, _ctx: &Context) {}

    fn prepare_for_update(&self, _new: &mut Value, _old: &Value, _ctx: &Context) {}

    fn has_generation(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn cells(&self, object: &Value, now: &str) -> Vec<Value> {
        vec![name_cell(object), fields::items(object, "/secrets").len().into(), age_cell(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::row;

    #[test]
    fn the_row_counts_secrets() {
        assert_eq!(row(&KIND, "{metadata: {name: default}}"), "default | 0 | <unknown>");
    }
}
