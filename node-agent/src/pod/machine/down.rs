//! Towards the end: when a pod is finished, and what is taken apart in which order.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{Ending, Finished, Machine, Next, Phase, Sandbox, Step, Volumes};
use crate::pod::backoff::after;
use crate::pod::exit::DEADLINE_EXCEEDED;
use crate::pod::restart::ContainerKind;

impl Machine {
    /// `activeDeadlineSeconds`, counted from the pod's start.
    pub(super) fn check_deadline(&mut self, now: Timestamp, next: &mut Next) {
        let Some(limit_s) = self.spec().active_deadline_seconds else { return };
        if self.finished.is_some() || self.ending.is_some() {
            return;
        }
        let deadline = after(self.start_time, SignedDuration::from_secs(limit_s));
        if deadline > now {
            return next.wake_at(deadline);
        }
        let message = "Pod was active on the node longer than the specified deadline".to_owned();
        self.note(None, false, DEADLINE_EXCEEDED, message.clone());
        self.ending = Some(Ending::Deadline);
        self.stop_grace_s = self.spec().termination_grace_period_seconds.unwrap_or(self.stop_grace_s);
        self.finished =
            Some(Finished { phase: Phase::Failed, reason: Some(DEADLINE_EXCEEDED), message: Some(message) });
    }

    /// Whether nothing is left to run. A terminal phase is decided once.
    pub(super) fn check_finished(&mut self) {
        if self.finished.is_some()
            || self.containers.iter().any(|record| record.kind != ContainerKind::Sidecar && record.is_active())
        {
            return;
        }
        let is_ending = self.ending.is_some();
        let is_failed_init = self.containers.iter().any(|record| {
            let ended = record.terminated().filter(|_| record.kind == ContainerKind::Init);
            ended.is_some_and(|ended| ended.exit_code != 0 && !self.policy.restarts(record.kind, ended.exit_code))
        });
        let mut mains = self.containers.iter().filter(|record| record.kind == ContainerKind::Main);
        let is_done = is_ending
            || mains.clone().all(|record| {
                record.terminated().is_some_and(|ended| !self.policy.restarts(record.kind, ended.exit_code))
            });
        if !is_failed_init && !is_done {
            return;
        }
        let is_success = !is_failed_init && mains.all(super::Record::has_succeeded);
        let phase = if is_success { Phase::Succeeded } else { Phase::Failed };
        self.finished = Some(Finished { phase, reason: None, message: None });
    }

    /// Stops what runs, then takes the pod apart as far as its end allows: a finished pod keeps its volumes and logs until
    /// it is deleted.
    pub(super) fn wind_down(&mut self, next: &mut Next) {
        self.stop_containers(next);
        if self.containers.iter().any(super::Record::is_active) {
            return;
        }
        match self.sandbox {
            Sandbox::Absent => {}
            Sandbox::Ready { .. } | Sandbox::Lost => {
                self.sandbox = Sandbox::Removing;
                return next.steps.push(Step::RemoveSandbox);
            }
            Sandbox::Creating | Sandbox::Removing => return,
        }
        if !matches!(self.ending, Some(Ending::Deleted | Ending::Gone)) {
            return;
        }
        match self.volumes {
            Volumes::Pending | Volumes::Ready => {
                self.volumes = Volumes::TearingDown;
                return next.steps.push(Step::TearDown);
            }
            Volumes::Preparing | Volumes::TearingDown => return,
            Volumes::TornDown => {}
        }
        if self.ending == Some(Ending::Gone) {
            self.is_over = true;
        } else if !self.is_delete_given {
            self.is_delete_given = true;
            next.steps.push(Step::Delete);
        }
    }

    /// Main and init containers first; sidecars when those have ended, since they may serve them to the last.
    fn stop_containers(&mut self, next: &mut Next) {
        let is_main_active =
            self.containers.iter().any(|record| record.kind != ContainerKind::Sidecar && record.is_active());
        for container in (0..self.containers.len()).rev() {
            let record = &mut self.containers[container];
            let is_turn = record.kind != ContainerKind::Sidecar || !is_main_active;
            let is_shorter = record.stop_given_s.is_none_or(|given_s| self.stop_grace_s < given_s);
            if !record.is_running() || !is_turn || !is_shorter {
                continue;
            }
            let is_first = record.stop_given_s.is_none();
            record.stop_given_s = Some(self.stop_grace_s);
            record.is_ready = false;
            let name = record.name.clone();
            if is_first && self.ending != Some(Ending::Gone) {
                self.note(Some(container), false, "Killing", format!("Stopping container {name}"));
            }
            next.steps.push(Step::Stop { container, grace_s: self.stop_grace_s });
        }
        // Notes taken after `next` began are told with these steps.
        let notes: Vec<Step> = self.notes.drain(..).map(Step::Record).collect();
        next.steps.splice(0..0, notes);
    }

    /// The deletion of the API object is to be given again: the attempt before came to nothing.
    pub fn forget_delete(&mut self) {
        self.is_delete_given = false;
    }
}
