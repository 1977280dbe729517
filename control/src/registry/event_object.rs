//! Event: what happened to an object, for people to read. Forgotten after an hour.

use serde_json::{Value, json};

use super::fields::{integer, is_set, text};
use super::{Column, Context, Kind, Strategy, age, name_cell, names};
use crate::limits::EVENT_TTL_S;
use crate::status::FieldError;

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Event",
    resource: "events",
    singular: "event",
    short_names: &["ev"],
    categories: &[],
    namespaced: true,
    storage_prefix: "events",
    subresources: &[],
    strategy: &EventObject,
};

static COLUMNS: [Column; 10] = [
    Column::text("Last Seen", "Time when this event was last observed"),
    Column::text("Type", "Type of this event (Normal, Warning), new types could be added in the future"),
    Column::text("Reason", "Short, machine understandable string giving the reason for the transition."),
    Column::text("Object", "The object that this event is about."),
    Column::wide("Subobject", "The part of the object that this event is about."),
    Column::wide("Source", "The component reporting this event."),
    Column::text("Message", "A human-readable description of the status of this operation."),
    Column::wide("First Seen", "Time when this event was first observed"),
    Column::wide("Count", "The number of times this event has occurred."),
    Column { name: "Name", kind: "string", format: "name", description: "Name of the event.", priority: 1 },
];

#[derive(Debug)]
struct EventObject;

impl Strategy for EventObject {
    fn prepare_for_create(&self, _object: &mut Value, _ctx: &Context) {}

    fn prepare_for_update(&self, _new: &mut Value, _old: &Value, _ctx: &Context) {}

    fn has_generation(&self) -> bool {
        false
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn storage_ttl_s(&self) -> Option<i64> {
        Some(EVENT_TTL_S)
    }

    /// Events about objects without a namespace live in `default`.
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let about = text(object, "/involvedObject/namespace");
        let own = text(object, "/metadata/namespace");
        let agrees = if about.is_empty() { matches!(own, "" | "default") } else { about == own };
        if agrees {
            return Vec::new();
        }
        vec![FieldError::invalid("involvedObject.namespace", &json!(about), "does not match event.namespace")]
    }

    fn validate_name(&self, name: &str) -> Option<String> {
        names::dns1123_subdomain(name)
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn cells(&self, object: &Value, now: &str) -> Vec<Value> {
        let first_time = or(text(object, "/firstTimestamp"), text(object, "/eventTime"));
        let series = &object["series"];
        let (last_time, count) = if series.is_object() {
            (text(series, "/lastObservedTime"), integer(series, "/count").unwrap_or(0))
        } else {
            let count = integer(object, "/count").filter(|count| *count != 0);
            (or(text(object, "/lastTimestamp"), first_time), count.unwrap_or(1))
        };
        let kind = text(object, "/involvedObject/kind").to_lowercase();
        let target = match text(object, "/involvedObject/name") {
            "" => kind,
            name => format!("{kind}/{name}"),
        };
        vec![
            age::since(last_time, now).into(),
            text(object, "/type").into(),
            text(object, "/reason").into(),
            target.into(),
            text(object, "/involvedObject/fieldPath").into(),
            source(object).into(),
            text(object, "/message").trim().into(),
            age::since(first_time, now).into(),
            count.into(),
            name_cell(object),
        ]
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let field = |pointer: &str| text(object, pointer).to_owned();
        let component = or(text(object, "/source/component"), text(object, "/reportingComponent"));
        vec![
            ("involvedObject.kind", field("/involvedObject/kind")),
            ("involvedObject.namespace", field("/involvedObject/namespace")),
            ("involvedObject.name", field("/involvedObject/name")),
            ("involvedObject.uid", field("/involvedObject/uid")),
            ("involvedObject.apiVersion", field("/involvedObject/apiVersion")),
            ("involvedObject.resourceVersion", field("/involvedObject/resourceVersion")),
            ("involvedObject.fieldPath", field("/involvedObject/fieldPath")),
            ("reason", field("/reason")),
            ("reportingComponent", field("/reportingComponent")),
            ("source", component.to_owned()),
            ("type", field("/type")),
        ]
    }

    fn default(&self, object: &mut Value) {
        // Go clients list events by these; they are never absent in an answer of Kubernetes.
        for field in ["reportingComponent", "reportingInstance"] {
            super::fields::set_default(object, field, "");
        }
        if !is_set(object, "/source")
            && let Some(map) = object.as_object_mut()
        {
            map.insert("source".to_owned(), json!({}));
        }
    }
}

fn source(event: &Value) -> String {
    let component = or(text(event, "/source/component"), text(event, "/reportingComponent"));
    match or(text(event, "/source/host"), text(event, "/reportingInstance")) {
        "" => component.to_owned(),
        host => format!("{component}, {host}"),
    }
}

fn or<'a>(first: &'a str, second: &'a str) -> &'a str {
    if first.is_empty() { second } else { first }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::registry::testing::{invalid, row};

    #[test]
    fn the_row_tells_what_happened_when() {
        expect!["60s | Warning | BackOff | pod/p | spec.containers{a} | kubelet, n1 | Back-off restarting | 5m | 3 | p.1"].assert_eq(&row(
            &KIND,
            "{metadata: {name: p.1}, firstTimestamp: '2026-01-01T00:00:00Z', lastTimestamp: '2026-01-01T00:04:00Z', count: 3,
              type: Warning, reason: BackOff, message: 'Back-off restarting ', involvedObject: {kind: Pod, name: p,
              fieldPath: 'spec.containers{a}'}, source: {component: kubelet, host: n1}}",
        ));
        expect!["2m | Normal | Scheduled | pod/p |  | default-scheduler |  | 4m | 2 | p.2"].assert_eq(&row(
            &KIND,
            "{metadata: {name: p.2}, eventTime: '2026-01-01T00:01:00.000000Z', type: Normal, reason: Scheduled,
              reportingComponent: default-scheduler, involvedObject: {kind: Pod, name: p},
              series: {count: 2, lastObservedTime: '2026-01-01T00:03:00.000000Z'}}",
        ));
    }

    #[test]
    fn an_event_lives_with_its_object() {
        let wrong = "{metadata: {namespace: a}, involvedObject: {namespace: b}}";
        expect![[r#"involvedObject.namespace: Invalid value: "b": does not match event.namespace"#]]
            .assert_eq(&invalid(&KIND, wrong));
        assert_eq!(invalid(&KIND, "{metadata: {namespace: default}, involvedObject: {kind: Node}}"), "");
        assert_eq!(invalid(&KIND, "{metadata: {namespace: a}, involvedObject: {namespace: a}}"), "");
    }
}
