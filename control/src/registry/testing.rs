//! What the kinds' tests share: objects in YAML in, readable lines out.

use serde_json::Value;

use super::{Context, Kind, User};

/// Five minutes after the time the tests' objects are created.
pub(super) const NOW: &str = "2026-01-01T00:05:00Z";

pub(super) fn object(yaml: &str) -> Value {
    serde_norway::from_str(yaml).expect("the test's YAML")
}

pub(super) fn yaml(object: &Value) -> String {
    serde_norway::to_string(object).expect("JSON is YAML")
}

pub(super) fn context() -> Context {
    Context {
        now: NOW.to_owned(),
        uid: "0f8fad5b-d9cb-469f-a165-70867728950e".to_owned(),
        name_suffix: "x7k2p".to_owned(),
        user: User { name: "admin".to_owned(), groups: Vec::new() },
    }
}

/// The object as a create stores it, before allocation.
pub(super) fn created_value(kind: &Kind, yaml: &str) -> Value {
    let mut value = object(yaml);
    value["metadata"]["uid"] = context().uid.into();
    kind.strategy.default(&mut value);
    kind.strategy.admit(&mut value, &context()).expect("admitted");
    kind.strategy.prepare_for_create(&mut value, &context());
    super::fields::remove(&mut value["metadata"], "uid");
    value
}

/// The same as YAML.
pub(super) fn created(kind: &Kind, source: &str) -> String {
    yaml(&created_value(kind, source))
}

/// `field: message` for each error, on the object after defaulting.
pub(super) fn invalid(kind: &Kind, yaml: &str) -> String {
    let mut value = object(yaml);
    kind.strategy.default(&mut value);
    lines(&kind.strategy.validate(&value))
}

/// `field: message` for each error of the change, on the objects after defaulting.
pub(super) fn invalid_update(kind: &Kind, new: &str, old: &str) -> String {
    let (mut new, mut old) = (object(new), object(old));
    kind.strategy.default(&mut new);
    kind.strategy.default(&mut old);
    lines(&kind.strategy.validate_update(&new, &old))
}

fn lines(errors: &[crate::status::FieldError]) -> String {
    errors.iter().map(|e| format!("{}: {}", e.field, e.message)).collect::<Vec<_>>().join("\n")
}

/// The cells of the Table row, joined by ` | `. As many as there are columns.
pub(super) fn row(kind: &Kind, yaml: &str) -> String {
    let cells = kind.strategy.cells(&object(yaml), NOW);
    assert_eq!(cells.len(), kind.strategy.columns().len(), "a cell for each column");
    let shown = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
    cells.iter().map(shown).collect::<Vec<_>>().join(" | ")
}
