//! Counting finished pods exactly once.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;

use super::indexes::{self, Indexes};
use super::{FINALIZER, View};
use crate::controllers::action::Step;
use crate::controllers::limits;
use crate::controllers::meta::{self, Object};
use crate::controllers::pods;

/// The result of counting, uncounted ones included.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub succeeded: i64,
    pub failed: i64,
    /// Succeeded indexes of an Indexed Job.
    pub indexes: Indexes,
}

/// Whether this pod will never succeed. A pod that is being deleted counts, unless its replacement waits for its end.
pub(super) fn has_failed(view: &View<'_>, pod: &Pod) -> bool {
    match meta::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => pod.is_terminating() && !view.only_replaces_failed(),
    }
}

/// Moves what is certain into the counters and takes up what has finished since.
pub(super) fn count(view: &View<'_>, status: &mut JobStatus) -> Tally {
    let mut uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
    let kept: BTreeSet<&str> = view.pods.iter().filter(|p| p.has_finalizer(FINALIZER)).map(|p| p.uid()).collect();
    let mut succeeded = status.succeeded.unwrap_or(0);
    let mut failed = status.failed.unwrap_or(0);
    for (uids, counter) in [(&mut uncounted.succeeded, &mut succeeded), (&mut uncounted.failed, &mut failed)] {
        let uids = uids.get_or_insert_with(Vec::new);
        let before = uids.len();
        uids.retain(|uid| kept.contains(uid.as_str()));
        *counter += i32::try_from(before - uids.len()).unwrap_or(0);
    }

    let mut known = Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default());
    take_up(view, &mut uncounted, &mut known);
    if view.is_indexed() {
        succeeded = i32::try_from(known.len()).unwrap_or(i32::MAX);
        status.completed_indexes = (known.len() > 0).then(|| known.to_string());
    }
    let waiting = |uids: &Option<Vec<String>>| uids.as_ref().map_or(0, |u| u.len() as i64);
    let tally = Tally {
        succeeded: i64::from(succeeded) + waiting(&uncounted.succeeded),
        failed: i64::from(failed) + waiting(&uncounted.failed),
        indexes: known,
    };
    status.succeeded = (succeeded != 0).then_some(succeeded);
    status.failed = (failed != 0).then_some(failed);
    uncounted.succeeded = uncounted.succeeded.filter(|u| !u.is_empty());
    uncounted.failed = uncounted.failed.filter(|u| !u.is_empty());
    status.uncounted_terminated_pods = Some(uncounted);
    tally
}

fn take_up(view: &View<'_>, uncounted: &mut UncountedTerminatedPods, known: &mut Indexes) {
    let succeeded = uncounted.succeeded.get_or_insert_with(Vec::new);
    let failed = uncounted.failed.get_or_insert_with(Vec::new);
    for pod in view.pods.iter().filter(|p| p.has_finalizer(FINALIZER)) {
        if succeeded.len() + failed.len() >= limits::PODS_PER_SYNC_MAX {
            break;
        }
        let uid = pod.uid();
        if succeeded.iter().chain(failed.iter()).any(|u| u == uid) {
            continue;
        }
        if meta::phase(pod) == "Succeeded" {
            match indexes::of(pod) {
                _ if !view.is_indexed() => succeeded.push(uid.to_owned()),
                Some(index) if index < i64::from(view.spec.completions.unwrap_or(0)) => known.insert(index),
                Some(_) | None => {}
            }
        } else if has_failed(view, pod) {
            failed.push(uid.to_owned());
        }
    }
}

/// Takes the finalizer off every pod that the status (as it will be written before) accounts for.
pub(super) fn release(view: &View<'_>, status: &JobStatus) -> Vec<Step> {
    let uncounted = status.uncounted_terminated_pods.as_ref();
    let is_uncounted = |uid: &str| {
        uncounted
            .is_some_and(|u| u.succeeded.iter().flatten().chain(u.failed.iter().flatten()).any(|listed| listed == uid))
    };
    let is_done = |pod: &Pod| is_uncounted(pod.uid()) || (view.is_indexed() && meta::phase(pod) == "Succeeded");
    view.pods
        .iter()
        .filter(|pod| pod.has_finalizer(FINALIZER) && is_done(pod))
        .map(|pod| pods::without_finalizer(pod, FINALIZER).into())
        .collect()
}

/// Takes the finalizer off all pods of a finished Job.
pub(super) fn release_all(view: &View<'_>) -> Vec<Step> {
    let kept = view.pods.iter().filter(|pod| pod.has_finalizer(FINALIZER));
    kept.map(|pod| pods::without_finalizer(pod, FINALIZER).into()).collect()
}
