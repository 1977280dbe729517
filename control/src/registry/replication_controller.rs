//! ReplicationController: keeps a number of equal pods running.

use serde_json::{Value, json};

use super::fields::{entries, integer, is_set, text};
use super::{AGE_COLUMN, Column, Context, Kind, NAME_COLUMN, STATUS_VERBS, Strategy, Subresource};
use super::{age_cell, fields, name_cell, template};
use crate::status::{ApiError, FieldError};

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ReplicationController",
    resource: "replicationcontrollers",
    singular: "replicationcontroller",
    short_names: &["rc"],
    categories: &["all"],
    namespaced: true,
    storage_prefix: "controllers",
    subresources: &[
        Subresource { name: "scale", kind: "Scale", group: "autoscaling", version: "v1", verbs: STATUS_VERBS },
        Subresource { name: "status", kind: "ReplicationController", group: "", version: "v1", verbs: STATUS_VERBS },
    ],
    strategy: &ReplicationController,
};

static COLUMNS: [Column; 8] = [
    NAME_COLUMN,
    Column::number("Desired", "The number of pods that are wanted."),
    Column::number("Current", "The number of pods that exist."),
    Column::number("Ready", "The number of pods that are ready."),
    AGE_COLUMN,
    template::CONTAINERS_COLUMN,
    template::IMAGES_COLUMN,
    Column::wide("Selector", "The labels of the pods that are counted."),
];

#[derive(Debug)]
struct ReplicationController;

impl Strategy for ReplicationController {
    fn default(&self, object: &mut Value) {
        let labels = object.pointer("/spec/template/metadata/labels").cloned();
        template::default_labels(object);
        template::default(object);
        let Some(spec) = fields::object_mut(object, "spec") else { return };
        fields::set_default(spec, "replicas", 1);
        if !is_set(spec, "/selector")
            && let Some(labels) = labels
        {
            spec["selector"] = labels;
        }
    }

    fn prepare_for_create(&self, object: &mut Value, _ctx: &Context) {
        object["status"] = json!({"replicas": 0});
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        template::not_negative(object, "minReadySeconds", &mut errors);
        template::not_negative(object, "replicas", &mut errors);
        if !is_set(object, "/spec/selector") {
            errors.push(FieldError::required("spec.selector", ""));
        }
        let template = &object["spec"]["template"];
        if !template.is_object() {
            errors.push(FieldError::required("spec.template", ""));
            return errors;
        }
        let labels = template.pointer("/metadata/labels");
        if let Some(selector) = object["spec"]["selector"].as_object()
            && !selector.is_empty()
            && !template::labels_contain(labels, selector)
        {
            let detail = "`selector` does not match template `labels`";
            errors.push(FieldError::invalid("spec.template.metadata.labels", labels.unwrap_or(&Value::Null), detail));
        }
        template::validate(template, &mut errors);
        let policy = text(template, "/spec/restartPolicy");
        if matches!(policy, "OnFailure" | "Never") {
            errors.push(FieldError::not_supported("spec.template.spec.restartPolicy", policy, &["Always"]));
        }
        if is_set(template, "/spec/activeDeadlineSeconds") {
            let detail = "activeDeadlineSeconds in ReplicationController is not Supported";
            errors.push(FieldError::forbidden("spec.template.spec.activeDeadlineSeconds", detail));
        }
        errors
    }

    fn default_propagation(&self) -> &'static str {
        "Orphan"
    }

    fn scale(&self, object: &Value) -> Option<Value> {
        let mut metadata = json!({});
        for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            if let Some(value) = object["metadata"].get(field) {
                metadata[field] = value.clone();
            }
        }
        let mut selector: Vec<String> = entries(object, "/spec/selector")
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        selector.sort();
        Some(json!({
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": metadata,
            "spec": {"replicas": integer(object, "/spec/replicas").unwrap_or(0)},
            "status": {
                "replicas": integer(object, "/status/replicas").unwrap_or(0),
                "selector": selector.join(","),
            },
        }))
    }

    fn apply_scale(&self, object: &mut Value, scale: &Value) -> Result<(), ApiError> {
        let replicas = integer(scale, "/spec/replicas").unwrap_or(0);
        if replicas < 0 {
            let detail = "must be greater than or equal to 0";
            let error = FieldError::invalid("spec.replicas", &json!(replicas), detail);
            let name = text(object, "/metadata/name");
            return Err(ApiError::invalid("autoscaling", "Scale", name, &[error]));
        }
        fields::set(object, "/spec", "replicas", replicas);
        Ok(())
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn cells(&self, object: &Value, now: &str) -> Vec<Value> {
        let count = |pointer: &str| Value::from(integer(object, pointer).unwrap_or(0));
        vec![
            name_cell(object),
            count("/spec/replicas"),
            count("/status/replicas"),
            count("/status/readyReplicas"),
            age_cell(object, now),
            template::containers_cell(object),
            template::images_cell(object),
            fields::labels_text(object.pointer("/spec/selector")).into(),
        ]
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("status.replicas", integer(object, "/status/replicas").unwrap_or(0).to_string())]
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::registry::testing::{created, created_value, invalid, row, yaml};

    const THREE: &str = "{metadata: {name: web, namespace: d, resourceVersion: '7'}, spec: {replicas: 3, template: {
        metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: 'b:1'}]}}}}";

    #[test]
    fn selector_and_labels_come_from_the_template() {
        expect![[r#"
            metadata:
              name: web
              namespace: d
              resourceVersion: '7'
              labels:
                app: web
            spec:
              replicas: 3
              template:
                metadata:
                  labels:
                    app: web
                spec:
                  containers:
                  - name: a
                    image: b:1
                    imagePullPolicy: IfNotPresent
                    terminationMessagePath: /dev/termination-log
                    terminationMessagePolicy: File
                    resources: {}
                  restartPolicy: Always
                  terminationGracePeriodSeconds: 30
                  dnsPolicy: ClusterFirst
                  securityContext: {}
                  schedulerName: default-scheduler
              selector:
                app: web
            status:
              replicas: 0
        "#]]
        .assert_eq(&created(&KIND, THREE));
    }

    #[test]
    fn selector_and_template_must_agree() {
        assert_eq!(invalid(&KIND, THREE), "");
        assert_eq!(invalid(&KIND, "{spec: {}}"), "spec.selector: Required value\nspec.template: Required value");
        expect![[r#"
            spec.replicas: Invalid value: -1: must be greater than or equal to 0
            spec.template.metadata.labels: Invalid value: {"app":"web"}: `selector` does not match template `labels`
            spec.template.spec.containers[0].image: Required value
            spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always""#]]
        .assert_eq(&invalid(
            &KIND,
            "{spec: {replicas: -1, selector: {app: api}, template: {metadata: {labels: {app: web}}, spec: {
              restartPolicy: Never, containers: [{name: a}]}}}}",
        ));
    }

    #[test]
    fn the_scale_is_read_and_written() {
        let mut controller = created_value(&KIND, THREE);
        expect![[r#"
            kind: Scale
            apiVersion: autoscaling/v1
            metadata:
              name: web
              namespace: d
              resourceVersion: '7'
            spec:
              replicas: 3
            status:
              replicas: 0
              selector: app=web
        "#]]
        .assert_eq(&yaml(&KIND.strategy.scale(&controller).unwrap()));
        KIND.strategy.apply_scale(&mut controller, &json!({"spec": {"replicas": 5}})).unwrap();
        assert_eq!(controller["spec"]["replicas"], 5);
        let error = KIND.strategy.apply_scale(&mut controller, &json!({"spec": {"replicas": -5}})).unwrap_err();
        expect![[r#"Scale.autoscaling "web" is invalid: spec.replicas: Invalid value: -5: must be greater than or equal to 0"#]].assert_eq(&error.message);
    }

    #[test]
    fn the_row_counts_pods() {
        let controller = "{metadata: {name: web}, spec: {replicas: 3, selector: {app: web}, template: {spec: {
            containers: [{name: a, image: b}, {name: c, image: d}]}}}, status: {replicas: 2, readyReplicas: 1}}";
        assert_eq!(row(&KIND, controller), "web | 3 | 2 | 1 | <unknown> | a,c | b,d | app=web");
    }
}
