//! Job: runs pods until enough of them have succeeded, or too many have failed.
//!
//! A pod is counted exactly once although a status write and a pod's end are two objects: every pod carries a finalizer; a finished
//! pod's uid is first written into `status.uncountedTerminatedPods`, then its finalizer goes, and only a uid whose finalizer is gone
//! moves into the counters ([`tracking`]). Succeeded indexes of an Indexed Job are a set and need no such care ([`indexes`]).
//! What ends a Job is decided in [`verdict`], which pods it runs in [`workers`].

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use self::tracking::Tally;
use super::ControllersConfig;
use super::action::{Action, Attempt, EventRecord, Key, Narration, Plan, Propagation, Resource, Step, Target};
use super::cache::Index;
use super::cluster::{Changed, Cluster};
use super::controller::Controller;
use super::meta::{self, Object};
use super::pods;

mod indexes;
mod tracking;
mod verdict;
mod workers;

/// Keeps a pod until it is counted.
pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const COMPONENT: &str = "job-controller";
const KIND: Resource = Resource::JOB;

/// The controller of Jobs.
#[derive(Debug)]
pub struct Jobs {
    backoff: Duration,
    backoff_max: Duration,
}

impl Jobs {
    #[must_use]
    pub fn new(config: &ControllersConfig) -> Self {
        Self { backoff: config.job_backoff, backoff_max: config.job_backoff_max }
    }
}

impl Controller for Jobs {
    fn name(&self) -> &'static str {
        "job"
    }

    fn touched(&self, _cluster: &Cluster, changed: &Changed, keys: &mut Vec<Key>) {
        match changed {
            Changed::Job(change) => keys.push(change.object().key()),
            Changed::Pod(change) => {
                for pod in change.old.iter().chain(&change.new) {
                    let owner = pod.controller().filter(|o| o.kind == KIND.kind);
                    keys.extend(owner.map(|o| Key::new(pod.namespace(), &o.name)));
                }
            }
            _ => {}
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key, _attempt: &Attempt, now: Timestamp) -> Plan {
        let job = cluster.jobs.get(key);
        let mut plan = match job {
            // Somebody else's controller runs it.
            Some(job) if spec(job).managed_by.as_deref().is_some_and(|m| m != "kubernetes.io/job-controller") => {
                Plan::nothing()
            }
            Some(job) => self.sync(cluster, job, now),
            None => Plan::nothing(),
        };
        plan.batches.extend(free_orphans(cluster, key, job.map(|j| j.uid())).batches);
        plan
    }
}

/// What a look at a Job works from.
struct View<'a> {
    cluster: &'a Cluster,
    job: &'a Job,
    spec: &'a JobSpec,
    /// All that it controls, finished and terminating ones too.
    pods: Vec<Arc<Pod>>,
    now: Timestamp,
}

impl View<'_> {
    fn active(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.iter().filter(|p| meta::is_active(p))
    }

    fn terminating(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.iter().filter(|p| p.is_terminating() && !meta::is_finished(p))
    }

    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    fn parallelism(&self) -> i64 {
        i64::from(self.spec.parallelism.unwrap_or(1))
    }

    fn only_replaces_failed(&self) -> bool {
        self.spec.pod_replacement_policy.as_deref() == Some("Failed") || self.spec.pod_failure_policy.is_some()
    }
}

fn spec(job: &Job) -> &JobSpec {
    static NONE: std::sync::LazyLock<JobSpec> = std::sync::LazyLock::new(JobSpec::default);
    job.spec.as_ref().unwrap_or(&NONE)
}

fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == "True")
}

fn finished(status: &JobStatus) -> Option<&JobCondition> {
    condition(status, "Complete").or_else(|| condition(status, "Failed"))
}

fn narration(job: &Job) -> Narration {
    Narration { about: meta::reference(&KIND, job), component: COMPONENT, done: None, failed: None }
}

fn told(job: &Job, warning: bool, reason: &'static str, message: impl Into<String>) -> Step {
    let about = meta::reference(&KIND, job);
    EventRecord { about, component: COMPONENT, warning, reason, message: message.into() }.into()
}

fn count<T>(items: impl Iterator<Item = T>) -> i32 {
    i32::try_from(items.count()).unwrap_or(i32::MAX)
}

impl Jobs {
    fn sync(&self, cluster: &Cluster, job: &Arc<Job>, now: Timestamp) -> Plan {
        let pods: Vec<Arc<Pod>> = cluster.pods.by(&Index::Controller(job.uid().to_owned())).cloned().collect();
        let view = View { cluster, job, spec: spec(job), pods, now };
        let old = job.status.clone().unwrap_or_default();
        if finished(&old).is_some() {
            return finished_job(&view, &old);
        }
        let mut plan = Plan::nothing();
        let mut status = old.clone();
        let mut events = Vec::new();
        start_or_suspend(&view, &mut status, &mut events);
        let tally = tracking::count(&view, &mut status);
        let verdict = verdict::judge(&view, &mut status, &tally);
        let work = self.work(&view, &status, &tally, verdict.is_some());
        set_counts(&view, &mut status);
        verdict::conclude(&view, &mut status, &mut events);

        if status != old {
            plan.then([status_write(job, &status)]);
        }
        plan.then(events);
        plan.then(tracking::release(&view, &status));
        plan.batches.extend(work.batches);
        for at in [verdict::deadline(&view, &status), work.wake_at].into_iter().flatten() {
            plan.wake(at);
        }
        plan
    }

    fn work(&self, view: &View<'_>, status: &JobStatus, tally: &Tally, is_over: bool) -> Plan {
        if view.job.is_terminating() {
            Plan::nothing()
        } else if is_over {
            workers::stop(view)
        } else if view.is_suspended() {
            workers::suspend(view)
        } else {
            workers::run(view, status, tally, self.backoff, self.backoff_max)
        }
    }
}

/// Sets the start time and the Suspended condition.
fn start_or_suspend(view: &View<'_>, status: &mut JobStatus, events: &mut Vec<Step>) {
    let was_suspended = condition(status, "Suspended").is_some();
    if view.is_suspended() {
        if !was_suspended {
            set_condition(status, "Suspended", "True", "JobSuspended", "Job suspended", view.now);
            events.push(told(view.job, false, "Suspended", "Job suspended"));
        }
        status.start_time = None;
        return;
    }
    if was_suspended {
        set_condition(status, "Suspended", "False", "JobResumed", "Job resumed", view.now);
        events.push(told(view.job, false, "Resumed", "Job resumed"));
    }
    if status.start_time.is_none() {
        status.start_time = Some(meta::time(view.now));
    }
}

fn set_condition(status: &mut JobStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let conditions = status.conditions.get_or_insert_with(Vec::new);
    conditions.retain(|c| c.type_ != kind);
    conditions.push(JobCondition {
        type_: kind.into(),
        status: value.into(),
        reason: (!reason.is_empty()).then(|| reason.into()),
        message: (!message.is_empty()).then(|| message.into()),
        last_probe_time: Some(meta::time(now)),
        last_transition_time: Some(meta::time(now)),
    });
}

/// The numbers that are read off the pods.
fn set_counts(view: &View<'_>, status: &mut JobStatus) {
    let active = count(view.active());
    status.active = (active != 0).then_some(active);
    status.ready = Some(count(view.active().filter(|p| meta::is_ready(p))));
    status.terminating = Some(count(view.terminating()));
}

/// Frees what is left of its pods, and deletes the Job when its time is over.
fn finished_job(view: &View<'_>, status: &JobStatus) -> Plan {
    let mut plan = Plan::nothing();
    plan.then(tracking::release_all(view));
    plan.batches.extend(workers::stop(view).batches);
    let Some(ttl) = view.spec.ttl_seconds_after_finished.filter(|_| !view.job.is_terminating()) else { return plan };
    let finished_at = finished(status).and_then(|c| c.last_transition_time.as_ref()).map_or(view.now, |t| t.0);
    let due = finished_at + Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
    if due > view.now {
        plan.wake(due);
    } else {
        plan.then([Action::Delete {
            target: meta::target(&KIND, view.job),
            uid: view.job.uid().to_owned(),
            // The time to live may have been raised meanwhile.
            resource_version: Some(view.job.resource_version().to_owned()),
            grace_period_s: None,
            propagation: Some(Propagation::Background),
        }
        .into()]);
    }
    plan
}

fn status_write(job: &Job, status: &JobStatus) -> Step {
    let JobStatus {
        active,
        completed_indexes,
        completion_time,
        conditions,
        failed,
        failed_indexes,
        ready,
        start_time,
        succeeded,
        terminating,
        uncounted_terminated_pods,
    } = status;
    let uncounted = uncounted_terminated_pods.as_ref();
    // A merge patch says explicitly what is to go, also inside an object that stays.
    let uncounted = json!({
        "succeeded": uncounted.and_then(|u| u.succeeded.as_ref()),
        "failed": uncounted.and_then(|u| u.failed.as_ref()),
    });
    let patch = json!({"status": {
        "active": active,
        "completedIndexes": completed_indexes,
        "completionTime": completion_time,
        "conditions": conditions,
        "failed": failed,
        "failedIndexes": failed_indexes,
        "ready": ready,
        "startTime": start_time,
        "succeeded": succeeded,
        "terminating": terminating,
        "uncountedTerminatedPods": uncounted,
    }});
    let patch = meta::guarded(job, patch);
    Action::Patch { target: meta::target(&KIND, job), subresource: Some("status"), patch }.into()
}

/// Pods whose Job is gone keep nothing: their finalizer must not outlive the one who would take it off.
fn free_orphans(cluster: &Cluster, key: &Key, living: Option<&str>) -> Plan {
    let mut plan = Plan::nothing();
    let mut checks = Vec::new();
    let mut writes = Vec::new();
    for pod in cluster.pods.in_namespace(&key.namespace).filter(|p| p.has_finalizer(FINALIZER)) {
        let Some(owner) = pod.controller().filter(|o| o.kind == KIND.kind && o.name == key.name) else { continue };
        if Some(owner.uid.as_str()) == living {
            continue;
        }
        if !cluster.graph.is_gone(&owner.uid) {
            let target = Target { resource: KIND, key: key.clone() };
            checks.push(Action::RequireAbsent { target, uid: owner.uid.clone() });
        }
        writes.push(pods::without_finalizer(pod, FINALIZER).into());
    }
    checks.dedup();
    plan.then(checks.into_iter().map(Step::from));
    plan.then(writes);
    plan
}

#[cfg(test)]
mod tests;
