use serde_json::{Value, json};

use super::*;
use crate::controllers::cluster::fixture::{at, now, stamp};

fn job(spec: Value) -> Value {
    let mut job = json!({
        "kind": "Job",
        "metadata": {"name": "sum", "namespace": "a"},
        "spec": {
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": 6,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}},
        },
        "status": {"startTime": stamp(-100)},
    });
    for (key, value) in spec.as_object().unwrap() {
        job["spec"][key] = value.clone();
    }
    job
}

fn pod(name: &str, phase: &str) -> Value {
    let owner = json!({"apiVersion": "batch/v1", "kind": "Job", "name": "sum", "uid": "uid-sum", "controller": true});
    let ended = json!({"state": {"terminated": {"exitCode": 1, "finishedAt": stamp(-5)}}, "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0});
    json!({
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "a", "ownerReferences": [owner], "finalizers": [FINALIZER]},
        "spec": {"nodeName": "n", "containers": []},
        "status": {"phase": phase, "containerStatuses": if matches!(phase, "Failed" | "Succeeded") { json!([ended]) } else { json!([]) }},
    })
}

fn counted(mut pod: Value) -> Value {
    pod["metadata"]["finalizers"] = Value::Null;
    pod
}

fn planned(objects: impl IntoIterator<Item = Value>) -> Plan {
    planned_at(objects, now())
}

fn planned_at(objects: impl IntoIterator<Item = Value>, now: Timestamp) -> Plan {
    let cluster = Cluster::default().with(objects);
    Jobs::new(&ControllersConfig::default()).reconcile(&cluster, &Key::new("a", "sum"), &Attempt::default(), now)
}

/// The plan in words.
fn told(plan: &Plan) -> Vec<String> {
    plan.actions().map(tell).collect()
}

fn tell(action: &Action) -> String {
    match action {
        Action::Create { object, .. } => {
            assert_eq!(object["metadata"]["finalizers"], json!([FINALIZER]));
            let index = &object["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"];
            format!("create {}", index.as_str().unwrap_or("a pod"))
        }
        Action::Delete { target, .. } => format!("delete {}", target.key.name),
        Action::Patch { target, subresource: None, .. } => format!("free {}", target.key.name),
        Action::Patch { patch, .. } => {
            let status = &patch["status"];
            let number = |field: &str| status[field].as_i64().unwrap_or(0);
            let listed = |field: &str| status["uncountedTerminatedPods"][field].as_array().map_or(0, Vec::len);
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            let kinds: Vec<String> = conditions
                .iter()
                .map(|c| format!(" {}={}", c["type"].as_str().unwrap(), c["reason"].as_str().unwrap_or_default()))
                .collect();
            format!(
                "status active {} succeeded {}+{} failed {}+{}{}",
                number("active"),
                number("succeeded"),
                listed("succeeded"),
                number("failed"),
                listed("failed"),
                kinds.concat()
            )
        }
        Action::Event(event) => format!("event {}", event.reason),
        Action::RequireAbsent { uid, .. } => format!("require no {uid}"),
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn a_new_job_starts_its_pods() {
    let mut new = job(json!({"parallelism": 3, "completions": 5}));
    new["status"] = json!({});
    let plan = planned([new]);
    assert_eq!(
        told(&plan),
        ["status active 0 succeeded 0+0 failed 0+0", "create a pod", "create a pod", "create a pod"]
    );
    let Some(Action::Patch { patch, .. }) = plan.actions().next() else { panic!("the status comes first") };
    assert_eq!(patch["status"]["startTime"], stamp(0));
}

#[test]
fn a_succeeded_pod_is_listed_freed_counted_and_ends_the_job() {
    let plan = planned([job(json!({})), pod("p", "Succeeded")]);
    let met = "SuccessCriteriaMet=CompletionsReached";
    assert_eq!(told(&plan), [format!("status active 0 succeeded 0+1 failed 0+0 {met}"), "free p".into()]);

    let Some(Action::Patch { patch, .. }) = plan.actions().next() else { panic!("the status comes first") };
    let mut listed = job(json!({}));
    listed["status"] = patch["status"].clone();
    // The finalizer could not be taken off: nothing is counted twice.
    assert_eq!(told(&planned([listed.clone(), pod("p", "Succeeded")])), ["free p"]);

    let plan = planned([listed, counted(pod("p", "Succeeded"))]);
    assert_eq!(
        told(&plan),
        [
            format!("status active 0 succeeded 1+0 failed 0+0 {met} Complete=CompletionsReached"),
            "event Completed".into()
        ]
    );
}

#[test]
fn a_failed_pod_is_replaced_after_a_delay_that_doubles() {
    let plan = planned([job(json!({})), pod("p", "Failed")]);
    assert_eq!(told(&plan), ["status active 0 succeeded 0+0 failed 0+1", "free p"]);
    assert_eq!(plan.wake_at, Some(at(5)), "ten seconds after its end");
    let two = [job(json!({})), pod("p", "Failed"), pod("q", "Failed")];
    assert_eq!(planned(two.clone()).wake_at, Some(at(15)));
    let plan = planned_at(two, at(15));
    assert_eq!(told(&plan).last().unwrap(), "create a pod");
}

#[test]
fn too_many_failures_stop_what_runs_and_then_fail_the_job() {
    let spec = json!({"parallelism": 2, "completions": 2, "backoffLimit": 0});
    let plan = planned([job(spec.clone()), pod("bad", "Failed"), pod("good", "Running")]);
    let target = "FailureTarget=BackoffLimitExceeded";
    assert_eq!(told(&plan), [&format!("status active 1 succeeded 0+0 failed 0+1 {target}"), "free bad", "delete good"]);

    let Some(Action::Patch { patch, .. }) = plan.actions().next() else { panic!("the status comes first") };
    let mut failing = job(spec);
    failing["status"] = patch["status"].clone();
    failing["status"]["failed"] = 2.into();
    failing["status"]["uncountedTerminatedPods"] = json!({});
    let plan = planned([failing, counted(pod("bad", "Failed")), counted(pod("good", "Failed"))]);
    let end = format!("status active 0 succeeded 0+0 failed 2+0 {target} Failed=BackoffLimitExceeded");
    assert_eq!(told(&plan), [end.as_str(), "event BackoffLimitExceeded"]);
}

#[test]
fn restarts_in_place_count_as_failures() {
    let template = json!({"spec": {"restartPolicy": "OnFailure", "containers": []}});
    let mut running = pod("p", "Running");
    running["status"]["containerStatuses"] =
        json!([{"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 2}]);
    let plan = planned([job(json!({"backoffLimit": 2, "template": template})), running]);
    assert!(told(&plan)[0].contains("FailureTarget=BackoffLimitExceeded"), "{:?}", told(&plan));
}

#[test]
fn a_job_that_runs_too_long_is_stopped_at_its_deadline() {
    let objects = [job(json!({"activeDeadlineSeconds": 120})), pod("p", "Running")];
    let plan = planned(objects.clone());
    assert_eq!((told(&plan), plan.wake_at), (vec!["status active 1 succeeded 0+0 failed 0+0".into()], Some(at(20))));
    let plan = planned_at(objects, at(20));
    assert_eq!(told(&plan), ["status active 1 succeeded 0+0 failed 0+0 FailureTarget=DeadlineExceeded", "delete p"]);
}

#[test]
fn a_suspended_job_withdraws_its_pods_uncounted() {
    let plan = planned([job(json!({"suspend": true})), pod("p", "Running")]);
    let status = "status active 1 succeeded 0+0 failed 0+0 Suspended=JobSuspended";
    assert_eq!(told(&plan), [status, "event Suspended", "free p", "delete p"]);

    let mut resumed = job(json!({"suspend": false}));
    resumed["status"] = json!({"conditions": [{"type": "Suspended", "status": "True"}]});
    let plan = planned([resumed]);
    assert!(told(&plan).contains(&"event Resumed".to_owned()) && told(&plan).contains(&"create a pod".to_owned()));
}

#[test]
fn only_as_many_run_as_are_still_needed() {
    let mut almost = job(json!({"parallelism": 3, "completions": 5}));
    almost["status"]["succeeded"] = 4.into();
    let plan = planned([almost.clone(), pod("p", "Running")]);
    assert!(!told(&plan).iter().any(|t| t.starts_with("create")));
    let plan = planned([almost, pod("p", "Running"), pod("q", "Running")]);
    assert_eq!(told(&plan).iter().filter(|t| t.starts_with("delete")).count(), 1);
}

#[test]
fn a_work_queue_ends_when_one_has_succeeded_and_none_runs() {
    let spec = json!({"parallelism": 2, "completions": null});
    let plan = planned([job(spec.clone()), pod("p", "Succeeded"), pod("q", "Running")]);
    assert_eq!(told(&plan), ["status active 1 succeeded 0+1 failed 0+0", "free p"]);
    let plan = planned([job(spec), pod("p", "Succeeded"), pod("q", "Succeeded")]);
    assert!(told(&plan)[0].ends_with("SuccessCriteriaMet=CompletionsReached"));
}

#[test]
fn an_indexed_job_runs_each_index_once() {
    let indexed = |name: &str, index: &str, phase: &str| {
        let mut pod = pod(name, phase);
        pod["metadata"]["annotations"] = json!({"batch.kubernetes.io/job-completion-index": index});
        pod
    };
    let spec = json!({"completionMode": "Indexed", "parallelism": 3, "completions": 4});
    let plan = planned([job(spec.clone()), indexed("p", "0", "Succeeded"), indexed("q", "2", "Running")]);
    assert_eq!(told(&plan), ["status active 1 succeeded 1+0 failed 0+0", "free p", "create 1", "create 3"]);
    let created: Vec<&Value> = plan
        .actions()
        .filter_map(|a| match a {
            Action::Create { object, .. } => Some(object),
            _ => None,
        })
        .collect();
    assert_eq!(created[0]["spec"]["hostname"], "sum-1");
    let env = &created[0]["spec"]["containers"][0]["env"][0];
    assert_eq!((&env["name"], &env["value"]), (&json!("JOB_COMPLETION_INDEX"), &json!("1")));
    assert!(created[0]["metadata"]["name"].as_str().unwrap().starts_with("sum-1-"));

    let plan =
        planned([job(spec), indexed("p", "1", "Running"), indexed("q", "1", "Running"), indexed("r", "9", "Running")]);
    let deleted: Vec<String> = told(&plan).into_iter().filter(|t| t.starts_with("delete")).collect();
    assert_eq!(deleted, ["delete q", "delete r"]);
}

#[test]
fn a_finished_job_is_left_alone_until_its_time_to_live_ends() {
    let mut done = job(json!({"ttlSecondsAfterFinished": 60}));
    done["status"] = json!({"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": stamp(-20)}]});
    let plan = planned([done.clone(), counted(pod("p", "Succeeded"))]);
    assert_eq!((told(&plan), plan.wake_at), (Vec::new(), Some(at(40))));
    assert_eq!(told(&planned_at([done], at(40))), ["delete sum"]);
}

#[test]
fn pods_of_a_job_that_is_gone_are_freed_once_the_api_confirms_it() {
    assert_eq!(told(&planned([pod("p", "Running"), pod("q", "Failed")])), ["require no uid-sum", "free p", "free q"]);
}

#[test]
fn a_job_of_the_same_name_does_not_take_over_the_pods_of_its_predecessor() {
    let mut heir = job(json!({}));
    heir["metadata"]["uid"] = "uid-heir".into();
    let plan = planned([heir, pod("p", "Succeeded")]);
    let told = told(&plan);
    assert!(told.contains(&"create a pod".to_owned()) && told.contains(&"require no uid-sum".to_owned()), "{told:?}");
    assert!(!told[0].contains("SuccessCriteriaMet"));
}
