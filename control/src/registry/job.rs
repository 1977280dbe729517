//! Job: runs pods until enough of them have succeeded.

use serde_json::{Value, json};

use super::fields::{flag, integer, is_set, items, text};
use super::{AGE_COLUMN, Column, Context, Kind, NAME_COLUMN, STATUS_VERBS, Strategy, Subresource};
use super::{age, age_cell, fields, keep_field, name_cell, template};
use crate::status::FieldError;

pub static KIND: Kind = Kind {
    group: "batch",
    version: "v1",
    kind: "Job",
    resource: "jobs",
    singular: "job",
    short_names: &[],
    categories: &["all"],
    namespaced: true,
    storage_prefix: "jobs",
    subresources: &[Subresource { name: "status", kind: "Job", group: "batch", version: "v1", verbs: STATUS_VERBS }],
    strategy: &Job,
};

const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
/// What the two labels were called before 1.27; programs still select by them.
const OLD_UID_LABEL: &str = "controller-uid";
const OLD_NAME_LABEL: &str = "job-name";

static COLUMNS: [Column; 8] = [
    NAME_COLUMN,
    Column::text("Status", "Status of the job."),
    Column::text("Completions", "Successful pods of those that are wanted."),
    Column::text("Duration", "Time required to complete the job."),
    AGE_COLUMN,
    template::CONTAINERS_COLUMN,
    template::IMAGES_COLUMN,
    Column::wide("Selector", "The labels of the pods that are counted."),
];

#[derive(Debug)]
struct Job;

impl Strategy for Job {
    fn default(&self, object: &mut Value) {
        template::default_labels(object);
        template::default(object);
        let Some(spec) = fields::object_mut(object, "spec") else { return };
        let completions = spec.get("completions").is_some_and(|value| !value.is_null());
        let parallelism = spec.get("parallelism").is_some_and(|value| !value.is_null());
        if !completions && !parallelism {
            fields::set_default(spec, "completions", 1);
        }
        fields::set_default(spec, "parallelism", 1);
        let per_index = spec.get("backoffLimitPerIndex").is_some_and(|value| !value.is_null());
        fields::set_default(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
        fields::set_default(spec, "completionMode", "NonIndexed");
        fields::set_default(spec, "suspend", false);
        fields::set_default(spec, "manualSelector", false);
        let replacement = if is_set(spec, "/podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
        fields::set_default(spec, "podReplacementPolicy", replacement);
    }

    fn prepare_for_create(&self, object: &mut Value, ctx: &Context) {
        object["status"] = json!({});
        if !flag(object, "/spec/manualSelector") {
            generate_selector(object, &ctx.uid);
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for field in ["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"]
        {
            template::not_negative(object, field, &mut errors);
        }
        mode(object, &mut errors);
        selector(object, &mut errors);
        let template = &object["spec"]["template"];
        template::validate(template, &mut errors);
        if !matches!(text(template, "/spec/restartPolicy"), "OnFailure" | "Never") {
            let detail = "valid values: \"OnFailure\", \"Never\"";
            errors.push(FieldError::required("spec.template.spec.restartPolicy", detail));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let (mut new_spec, old_spec) = (new["spec"].clone(), &old["spec"]);
        if flag(old, "/spec/suspend") && !is_set(old, "/status/startTime") {
            keep_scheduling(&mut new_spec, old_spec);
        }
        let elastic = text(&new_spec, "/completionMode") == "Indexed"
            && new_spec["completions"] == new_spec["parallelism"]
            && old_spec["completions"] == old_spec["parallelism"];
        ["completions", "selector", "template", "completionMode"]
            .into_iter()
            .filter(|field| !(*field == "completions" && elastic))
            .filter(|field| new_spec.get(*field) != old_spec.get(*field))
            .map(|field| FieldError::invalid(format!("spec.{field}"), &new["spec"][field], "field is immutable"))
            .collect()
    }

    fn default_propagation(&self) -> &'static str {
        "Orphan"
    }

    fn delete_warning(&self) -> Option<&'static str> {
        Some(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them \
             or set propagationPolicy=Orphan to suppress this warning",
        )
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn cells(&self, object: &Value, now: &str) -> Vec<Value> {
        vec![
            name_cell(object),
            state(object).into(),
            completions(object).into(),
            duration(object, now).into(),
            age_cell(object, now),
            template::containers_cell(object),
            template::images_cell(object),
            template::selector_text(&object["spec"]["selector"]).into(),
        ]
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("status.successful", integer(object, "/status/succeeded").unwrap_or(0).to_string())]
    }
}

/// Labels the pods with the job's name and uid, and selects them by the uid.
fn generate_selector(job: &mut Value, uid: &str) {
    let name = text(job, "/metadata/name").to_owned();
    let Some(spec) = fields::object_mut(job, "spec") else { return };
    fields::set_default(spec, "selector", json!({"matchLabels": {UID_LABEL: uid}}));
    let labels = fields::object_mut(spec, "template")
        .and_then(|template| fields::object_mut(template, "metadata"))
        .and_then(|metadata| fields::object_mut(metadata, "labels"));
    if let Some(labels) = labels {
        for (label, value) in [(UID_LABEL, uid), (OLD_UID_LABEL, uid), (NAME_LABEL, &*name), (OLD_NAME_LABEL, &*name)] {
            fields::set_default(labels, label, value);
        }
    }
}

fn mode(job: &Value, errors: &mut Vec<FieldError>) {
    match text(job, "/spec/completionMode") {
        "NonIndexed" => {}
        "Indexed" => {
            if job["spec"].get("completions").is_none_or(Value::is_null) {
                errors.push(FieldError::required("spec.completions", "when completion mode is Indexed"));
            }
        }
        other => {
            errors.push(FieldError::not_supported("spec.completionMode", other, &["Indexed", "NonIndexed"]));
        }
    }
}

/// Pods of another owner must never be counted: unless the user insists, the selector is the generated one.
fn selector(job: &Value, errors: &mut Vec<FieldError>) {
    let selector = &job["spec"]["selector"];
    if !selector.is_object() {
        errors.push(FieldError::required("spec.selector", ""));
        return;
    }
    let labels = job.pointer("/spec/template/metadata/labels");
    let wanted = selector["matchLabels"].as_object().cloned().unwrap_or_default();
    if !template::labels_contain(labels, &wanted) {
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid("spec.template.metadata.labels", labels.unwrap_or(&Value::Null), detail));
    }
    if flag(job, "/spec/manualSelector") {
        return;
    }
    let uid = text(job, "/metadata/uid");
    let selected = wanted.get(UID_LABEL).or_else(|| wanted.get(OLD_UID_LABEL)).and_then(Value::as_str);
    if selected != Some(uid) {
        errors.push(FieldError::invalid("spec.selector", selector, "`selector` not auto-generated"));
    }
}

/// While a job has never run, where its pods may go is still open.
fn keep_scheduling(new_spec: &mut Value, old_spec: &Value) {
    let parts = [
        ("/template/metadata", &["labels", "annotations"][..]),
        ("/template/spec", &["affinity", "nodeSelector", "tolerations", "schedulingGates"][..]),
    ];
    for (pointer, fields) in parts {
        let Some(old) = old_spec.pointer(pointer) else { continue };
        if let Some(new) = new_spec.pointer_mut(pointer) {
            for field in fields {
                keep_field(new, old, field);
            }
        }
    }
}

fn state(job: &Value) -> &'static str {
    let has = |name: &str| items(job, "/status/conditions").iter().any(|c| c["type"] == name && c["status"] == "True");
    if has("Complete") {
        "Complete"
    } else if has("Failed") {
        "Failed"
    } else if is_set(job, "/metadata/deletionTimestamp") {
        "Terminating"
    } else if has("Suspended") {
        "Suspended"
    } else if has("FailureTarget") {
        "FailureTarget"
    } else {
        "Running"
    }
}

fn completions(job: &Value) -> String {
    let succeeded = integer(job, "/status/succeeded").unwrap_or(0);
    match (integer(job, "/spec/completions"), integer(job, "/spec/parallelism").unwrap_or(0)) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism @ 2..) => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn duration(job: &Value, now: &str) -> String {
    let start = text(job, "/status/startTime");
    if start.is_empty() {
        return String::new();
    }
    match text(job, "/status/completionTime") {
        "" => age::since(start, now),
        end => age::since(start, end),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::registry::testing::{created, created_value, invalid_update, row};

    const ONCE: &str = "{metadata: {name: pi}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: 'b:1'}]}}}}";

    /// What validation says about the job as a create stores it.
    fn created_errors(job: &str) -> String {
        let mut job = created_value(&KIND, job);
        job["metadata"]["uid"] = crate::registry::testing::context().uid.into();
        let errors = KIND.strategy.validate(&job);
        errors.iter().map(|e| format!("{}: {}", e.field, e.message)).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_job_selects_its_pods_by_uid() {
        expect![[r#"
            metadata:
              name: pi
            spec:
              template:
                spec:
                  restartPolicy: Never
                  containers:
                  - name: a
                    image: b:1
                    imagePullPolicy: IfNotPresent
                    terminationMessagePath: /dev/termination-log
                    terminationMessagePolicy: File
                    resources: {}
                  terminationGracePeriodSeconds: 30
                  dnsPolicy: ClusterFirst
                  securityContext: {}
                  schedulerName: default-scheduler
                metadata:
                  labels:
                    batch.kubernetes.io/controller-uid: 0f8fad5b-d9cb-469f-a165-70867728950e
                    controller-uid: 0f8fad5b-d9cb-469f-a165-70867728950e
                    batch.kubernetes.io/job-name: pi
                    job-name: pi
              completions: 1
              parallelism: 1
              backoffLimit: 6
              completionMode: NonIndexed
              suspend: false
              manualSelector: false
              podReplacementPolicy: TerminatingOrFailed
              selector:
                matchLabels:
                  batch.kubernetes.io/controller-uid: 0f8fad5b-d9cb-469f-a165-70867728950e
            status: {}
        "#]]
        .assert_eq(&created(&KIND, ONCE));
        assert_eq!(created_errors(ONCE), "");
    }

    #[test]
    fn counts_default_together() {
        for (spec, completions, parallelism) in [
            ("{}", json!(1), json!(1)),
            ("{completions: 4}", json!(4), json!(1)),
            ("{parallelism: 4}", Value::Null, json!(4)),
        ] {
            let job = created_value(&KIND, &format!("{{metadata: {{name: j}}, spec: {spec}}}"));
            assert_eq!(
                (&job["spec"]["completions"], &job["spec"]["parallelism"]),
                (&completions, &parallelism),
                "{spec}"
            );
        }
    }

    #[test]
    fn the_specification_is_checked() {
        expect![[r#"
            spec.parallelism: Invalid value: -1: must be greater than or equal to 0
            spec.completions: Required value: when completion mode is Indexed
            spec.template.metadata.labels: Invalid value: {"batch.kubernetes.io/controller-uid":"0f8fad5b-d9cb-469f-a165-70867728950e","controller-uid":"0f8fad5b-d9cb-469f-a165-70867728950e","batch.kubernetes.io/job-name":"j","job-name":"j"}: `selector` does not match template `labels`
            spec.selector: Invalid value: {"matchLabels":{"a":"b"}}: `selector` not auto-generated
            spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never""#]].assert_eq(&created_errors(
            "{metadata: {name: j}, spec: {parallelism: -1, completionMode: Indexed, selector: {matchLabels: {a: b}},
              template: {spec: {containers: [{name: a, image: b}]}}}}",
        ));
    }

    #[test]
    fn the_template_stays_but_a_job_that_never_ran_may_move() {
        let job = |suspend: bool, node: &str, image: &str| {
            format!(
                "{{spec: {{suspend: {suspend}, template: {{spec: {{nodeSelector: {{a: {node}}}, containers: [{{name: a, image: {image}}}]}}}}}}}}"
            )
        };
        assert_eq!(invalid_update(&KIND, &job(false, "y", "b"), &job(true, "x", "b")), "");
        let refused = invalid_update(&KIND, &job(false, "y", "b"), &job(false, "x", "b"));
        assert!(
            refused.starts_with("spec.template: Invalid value") && refused.ends_with("field is immutable"),
            "{refused}"
        );
        assert!(!invalid_update(&KIND, &job(true, "x", "c"), &job(true, "x", "b")).is_empty());
    }

    #[test]
    fn the_row_shows_progress() {
        let job = |spec: &str, status: &str| {
            let row = row(&KIND, &format!("{{metadata: {{name: j}}, spec: {{{spec}}}, status: {{{status}}}}}"));
            row.split(" | ").skip(1).take(3).collect::<Vec<_>>().join(" | ")
        };
        assert_eq!(job("completions: 3", "succeeded: 1, startTime: '2026-01-01T00:04:00Z'"), "Running | 1/3 | 60s");
        let done = "succeeded: 1, startTime: '2026-01-01T00:00:00Z', completionTime: '2026-01-01T00:00:07Z',
                    conditions: [{type: Complete, status: 'True'}]";
        assert_eq!(job("completions: 1", done), "Complete | 1/1 | 7s");
        assert_eq!(job("parallelism: 3", ""), "Running | 0/1 of 3 | ");
        assert_eq!(job("parallelism: 1", "conditions: [{type: Failed, status: 'True'}]"), "Failed | 0/1 | ");
    }
}
