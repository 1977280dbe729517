//! When a Job is over, and how.
//!
//! The verdict is written first (`SuccessCriteriaMet` or `FailureTarget`), the running pods are stopped, and only when none is left and
//! all are counted does the Job become `Complete` or `Failed`: nothing changes after that.

use std::time::Duration;

use k8s_openapi::api::batch::v1::JobStatus;
use k8s_openapi::jiff::Timestamp;

use super::tracking::{self, Tally};
use super::{View, condition, set_condition, told};
use crate::controllers::action::Step;
use crate::controllers::meta;

/// Decides whether the Job has met its end, and notes it in the status. Returns the verdict's condition, new or old.
pub(super) fn judge(view: &View<'_>, status: &mut JobStatus, tally: &Tally) -> Option<&'static str> {
    if condition(status, "FailureTarget").is_some() {
        return Some("FailureTarget");
    }
    if condition(status, "SuccessCriteriaMet").is_some() {
        return Some("SuccessCriteriaMet");
    }
    if let Some((reason, message)) = failure(view, status, tally) {
        set_condition(status, "FailureTarget", "True", reason, message, view.now);
        return Some("FailureTarget");
    }
    if !view.is_suspended() && is_success(view, tally) {
        let message = "Reached expected number of succeeded pods";
        set_condition(status, "SuccessCriteriaMet", "True", "CompletionsReached", message, view.now);
        return Some("SuccessCriteriaMet");
    }
    None
}

fn failure(view: &View<'_>, status: &JobStatus, tally: &Tally) -> Option<(&'static str, &'static str)> {
    let limit = i64::from(view.spec.backoff_limit.unwrap_or(6));
    if tally.failed > limit || too_many_restarts(view, limit) {
        return Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
    }
    if deadline(view, status).is_some_and(|at| at <= view.now) {
        return Some(("DeadlineExceeded", "Job was active longer than specified deadline"));
    }
    None
}

/// With restartPolicy OnFailure the agent restarts containers in place: its restarts count like failed pods.
fn too_many_restarts(view: &View<'_>, limit: i64) -> bool {
    let template = view.spec.template.spec.as_ref();
    if template.and_then(|s| s.restart_policy.as_deref()) != Some("OnFailure") {
        return false;
    }
    let restarts: i64 = view
        .active()
        .filter_map(|pod| pod.status.as_ref())
        .flat_map(|s| s.init_container_statuses.iter().flatten().chain(s.container_statuses.iter().flatten()))
        .map(|c| i64::from(c.restart_count))
        .sum();
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

fn is_success(view: &View<'_>, tally: &Tally) -> bool {
    match view.spec.completions {
        Some(completions) => tally.succeeded >= i64::from(completions),
        // A work queue: one success says that there is no more work; the rest may finish what they have.
        None => tally.succeeded > 0 && view.active().next().is_none(),
    }
}

/// When the Job will have been active for too long.
pub(super) fn deadline(view: &View<'_>, status: &JobStatus) -> Option<Timestamp> {
    let seconds = u64::try_from(view.spec.active_deadline_seconds?).ok()?;
    let started = status.start_time.as_ref()?.0;
    (!view.is_suspended()).then(|| started + Duration::from_secs(seconds))
}

/// Ends the Job when its verdict is known, no pod is left running and all are counted.
pub(super) fn conclude(view: &View<'_>, status: &mut JobStatus, events: &mut Vec<Step>) {
    let is_idle = view.active().next().is_none() && view.terminating().next().is_none();
    let uncounted = status.uncounted_terminated_pods.as_ref();
    let is_counted = uncounted.is_none_or(|u| u.succeeded.is_none() && u.failed.is_none())
        && view.pods.iter().all(|p| !is_waiting(view, p));
    if !is_idle || !is_counted {
        return;
    }
    if let Some(target) = condition(status, "FailureTarget").cloned() {
        let reason = target.reason.unwrap_or_default();
        let message = target.message.unwrap_or_default();
        set_condition(status, "Failed", "True", &reason, &message, view.now);
        let reason = if reason == "DeadlineExceeded" { "DeadlineExceeded" } else { "BackoffLimitExceeded" };
        events.push(told(view.job, true, reason, message));
    } else if let Some(target) = condition(status, "SuccessCriteriaMet").cloned() {
        let reason = target.reason.unwrap_or_default();
        let message = target.message.unwrap_or_default();
        set_condition(status, "Complete", "True", &reason, &message, view.now);
        status.completion_time = Some(meta::time(view.now));
        events.push(told(view.job, false, "Completed", "Job completed"));
    }
}

/// Finished, but the page of uncounted pods was full.
fn is_waiting(view: &View<'_>, pod: &k8s_openapi::api::core::v1::Pod) -> bool {
    use crate::controllers::meta::Object;
    let finished = meta::is_finished(pod) || tracking::has_failed(view, pod);
    finished && pod.has_finalizer(super::FINALIZER) && !(view.is_indexed() && meta::phase(pod) == "Succeeded")
}
