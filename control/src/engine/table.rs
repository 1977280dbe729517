//! The server-side forms of an object other than itself: rows of a Table, and its metadata alone.

use serde_json::{Map, Value, json};

use crate::registry::Kind;

/// How much of the object a row carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

impl Include {
    /// The query parameter `includeObject`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "None" => Self::None,
            "Object" => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// A Table of these objects. `metadata` is that of the list (or of the one object).
#[must_use]
pub fn table(kind: &Kind, version: &str, metadata: Value, objects: &[Value], include: Include, now: &str) -> Value {
    let columns: Vec<Value> = kind
        .strategy
        .columns()
        .iter()
        .map(|c| {
            json!({
                "name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority,
            })
        })
        .collect();
    let rows: Vec<Value> = objects.iter().map(|object| row(kind, object, include, now)).collect();
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

fn row(kind: &Kind, object: &Value, include: Include, now: &str) -> Value {
    let mut row = Map::new();
    row.insert("cells".into(), Value::Array(kind.strategy.cells(object, now)));
    let conditions = kind.strategy.row_conditions(object);
    if !conditions.is_empty() {
        row.insert("conditions".into(), Value::Array(conditions));
    }
    let shown = match include {
        Include::None => Value::Null,
        Include::Metadata => partial(object, "v1"),
        Include::Object => object.clone(),
    };
    row.insert("object".into(), shown);
    Value::Object(row)
}

/// `PartialObjectMetadata` of an object.
#[must_use]
pub fn partial(object: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// `PartialObjectMetadataList` of objects.
#[must_use]
pub fn partial_list(metadata: Value, objects: &[Value], version: &str) -> Value {
    let items: Vec<Value> = objects.iter().map(|object| partial(object, version)).collect();
    json!({
        "kind": "PartialObjectMetadataList",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": metadata,
        "items": items,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{WIDGET, widget};
    use super::*;

    #[test]
    fn a_row_has_a_cell_per_column() {
        let now = "2026-01-31T12:00:00Z";
        let made = table(&WIDGET, "v1", json!({"resourceVersion": "5"}), &[widget("a")], Include::Metadata, now);
        assert_eq!(made["columnDefinitions"].as_array().unwrap().len(), 2);
        assert_eq!(made["rows"][0]["cells"], json!(["a", "<unknown>"]));
        assert_eq!(made["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    }
}
