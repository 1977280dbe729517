//! Which pods a Job runs: how many, with which index, and how long after a failure.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::JobStatus;
use k8s_openapi::api::core::v1::{EnvVar, Pod};
use k8s_openapi::jiff::Timestamp;

use super::indexes::{self, ANNOTATION, Indexes};
use super::tracking::{self, Tally};
use super::{FINALIZER, KIND, View, narration};
use crate::controllers::action::{Plan, Step};
use crate::controllers::meta::{self, Object};
use crate::controllers::names::Suffixes;
use crate::controllers::pods;

/// Stops what still runs of a Job that is over. These pods are counted as failed.
pub(super) fn stop(view: &View<'_>) -> Plan {
    let mut plan = Plan::nothing();
    plan.then(view.active().map(|pod| pods::delete(pod, narration(view.job))));
    plan
}

/// Stops what runs without counting it.
pub(super) fn suspend(view: &View<'_>) -> Plan {
    let running: Vec<Arc<Pod>> = view.active().cloned().collect();
    withdraw(view, &running)
}

/// Deletes pods that are not wanted any more: their finalizer goes first, so that they do not count as failed.
fn withdraw(view: &View<'_>, unwanted: &[Arc<Pod>]) -> Plan {
    let mut plan = Plan::nothing();
    let tracked = unwanted.iter().filter(|p| p.has_finalizer(FINALIZER));
    plan.then(tracked.map(|pod| pods::without_finalizer(pod, FINALIZER).into()));
    plan.then(unwanted.iter().map(|pod| pods::delete(pod, narration(view.job))));
    plan
}

/// Brings the number of running pods to what it should be.
pub(super) fn run(
    view: &View<'_>,
    status: &JobStatus,
    tally: &Tally,
    backoff: Duration,
    backoff_max: Duration,
) -> Plan {
    let mut active: Vec<Arc<Pod>> = view.active().cloned().collect();
    if view.is_indexed() {
        let (kept, surplus) = split_duplicates(view, active, tally);
        if !surplus.is_empty() {
            return withdraw(view, &surplus);
        }
        active = kept;
    }
    let running = i64::try_from(active.len()).unwrap_or(i64::MAX);
    let wanted = wanted(view, tally, running);
    if running > wanted {
        let crowding = pods::crowding(&active);
        pods::sort_for_deletion(&mut active, &crowding);
        active.truncate(pods::at_most(running - wanted));
        return withdraw(view, &active);
    }
    let waiting = if view.only_replaces_failed() { i64::try_from(view.terminating().count()).unwrap_or(0) } else { 0 };
    let missing = pods::at_most(wanted - running - waiting);
    if missing == 0 || !pods::may_create(view.cluster, view.job.namespace()) {
        return Plan::nothing();
    }
    let mut plan = Plan::nothing();
    if let Some(at) = retry_at(view, backoff, backoff_max).filter(|at| *at > view.now) {
        plan.wake(at);
        return plan;
    }
    let steps = if view.is_indexed() { create_indexed(view, &active, tally, missing) } else { create(view, missing) };
    debug_assert!(status.start_time.is_some(), "a running job has started");
    plan.batches.extend(pods::slow_start(steps));
    plan
}

fn wanted(view: &View<'_>, tally: &Tally, running: i64) -> i64 {
    match view.spec.completions {
        Some(completions) => (i64::from(completions) - tally.succeeded).clamp(0, view.parallelism().max(0)),
        // After the first success of a work queue no pod is added, but those that run may finish.
        None if tally.succeeded > 0 => running.min(view.parallelism()),
        None => view.parallelism(),
    }
}

/// Pods of an index that is done, out of range or taken twice are surplus.
fn split_duplicates(view: &View<'_>, active: Vec<Arc<Pod>>, tally: &Tally) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
    let completions = i64::from(view.spec.completions.unwrap_or(0));
    let mut seen = Indexes::default();
    active.into_iter().partition(|pod| match indexes::of(pod) {
        Some(index) if index < completions && !tally.indexes.contains(index) && !seen.contains(index) => {
            seen.insert(index);
            true
        }
        Some(_) | None => false,
    })
}

/// The delay doubles with each pod that failed since the last success.
fn retry_at(view: &View<'_>, first: Duration, max: Duration) -> Option<Timestamp> {
    let last_success = view.pods.iter().filter(|p| meta::phase(p) == "Succeeded").map(|p| ended_at(p, view.now)).max();
    let failures: Vec<Timestamp> = view
        .pods
        .iter()
        .filter(|p| tracking::has_failed(view, p))
        .map(|p| ended_at(p, view.now))
        .filter(|at| last_success.is_none_or(|success| *at > success))
        .collect();
    let last = failures.iter().max()?;
    let doublings = u32::try_from(failures.len() - 1).unwrap_or(u32::MAX).min(16);
    Some(*last + first.saturating_mul(1 << doublings).min(max))
}

fn ended_at(pod: &Pod, now: Timestamp) -> Timestamp {
    let status = pod.status.as_ref();
    let ends = status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let last = ends.filter_map(|c| Some(c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0)).max();
    let deleted = pod.metadata.deletion_timestamp.as_ref().map(|t| t.0);
    last.or(deleted)
        .or_else(|| meta::pod_condition(pod, "Ready")?.last_transition_time.as_ref().map(|t| t.0))
        .unwrap_or(now)
        .min(now)
}

fn worker(view: &View<'_>, name: &str) -> Pod {
    let job = view.job;
    let owner = meta::controller_reference(&KIND, job);
    let mut pod = pods::from_template(&view.spec.template, job.namespace(), name, owner);
    let labels = pod.metadata.labels.get_or_insert_default();
    for key in ["batch.kubernetes.io/controller-uid", "controller-uid"] {
        labels.entry(key.into()).or_insert_with(|| job.uid().to_owned());
    }
    for key in ["batch.kubernetes.io/job-name", "job-name"] {
        labels.entry(key.into()).or_insert_with(|| job.name().to_owned());
    }
    pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.into());
    pod
}

fn create(view: &View<'_>, count: usize) -> Vec<Step> {
    let namespace = view.job.namespace();
    let suffixes = Suffixes::new(view.job.name(), view.job.uid());
    let seen = view.cluster.pods.in_namespace(namespace).map(|p| p.name());
    let names = suffixes.fresh(seen, count, |name| pods::is_taken(view.cluster, namespace, name));
    names.iter().map(|name| pods::create(&worker(view, name), narration(view.job))).collect()
}

fn create_indexed(view: &View<'_>, active: &[Arc<Pod>], tally: &Tally, count: usize) -> Vec<Step> {
    let mut taken: Indexes = active.iter().filter_map(|p| indexes::of(p)).collect();
    if view.only_replaces_failed() {
        view.terminating().filter_map(|p| indexes::of(p)).for_each(|i| taken.insert(i));
    }
    let completions = i64::from(view.spec.completions.unwrap_or(0));
    let free = (0..completions).filter(|i| !tally.indexes.contains(*i) && !taken.contains(*i));
    free.take(count).map(|index| pods::create(&indexed_worker(view, index), narration(view.job))).collect()
}

fn indexed_worker(view: &View<'_>, index: i64) -> Pod {
    let job = view.job;
    let suffixes = Suffixes::new(&format!("{}-{index}", job.name()), job.uid());
    let namespace = job.namespace();
    let seen = view.cluster.pods.in_namespace(namespace).map(|p| p.name());
    let names = suffixes.fresh(seen, 1, |name| pods::is_taken(view.cluster, namespace, name));
    let mut pod = worker(view, names.first().expect("a name is free"));
    pod.metadata.annotations.get_or_insert_default().insert(ANNOTATION.into(), index.to_string());
    pod.metadata.labels.get_or_insert_default().insert(ANNOTATION.into(), index.to_string());
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(format!("{}-{index}", job.name()));
        let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
        for container in containers {
            let env = container.env.get_or_insert_default();
            if !env.iter().any(|e| e.name == "JOB_COMPLETION_INDEX") {
                let value = Some(index.to_string());
                env.push(EnvVar { name: "JOB_COMPLETION_INDEX".into(), value, value_from: None });
            }
        }
    }
    pod
}
