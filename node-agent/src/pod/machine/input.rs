//! Observations taken in. Deciding what follows from them is `up` and `down`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use super::record::ImageFailure;
use super::{Activity, Ending, Finished, Input, Machine, Phase, Run, Sandbox, StartFailure, Verdict, Volumes};
use crate::limits::{GRACE_DEFAULT_S, ORPHAN_GRACE_S};
use crate::pod::exit::{self, Termination};
use crate::pod::restart::ContainerKind;

impl Machine {
    pub fn handle(&mut self, input: Input, now: Timestamp) {
        match input {
            Input::Pod(pod) => self.take_pod(pod, now),
            Input::Gone => {
                self.ending = Some(Ending::Gone);
                self.stop_grace_s = self.stop_grace_s.min(ORPHAN_GRACE_S);
            }
            Input::Rejected { reason, message } => {
                self.note(None, true, reason, message.clone());
                self.finished = Some(Finished { phase: Phase::Failed, reason: Some(reason), message: Some(message) });
            }
            Input::VolumesReady => {
                self.volumes_retry.succeeded();
                self.volumes = Volumes::Ready;
            }
            Input::VolumesFailed { message } => {
                self.volumes = Volumes::Pending;
                self.volumes_retry.failed(now);
                self.note(None, true, "FailedMount", message);
            }
            Input::SandboxReady { ips } => {
                self.sandbox_retry.succeeded();
                self.ips.clone_from(&ips);
                self.sandbox = Sandbox::Ready { ips };
            }
            Input::SandboxFailed { message } => {
                self.sandbox = Sandbox::Absent;
                self.sandbox_retry.failed(now);
                self.note(None, true, "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {message}"));
            }
            Input::SandboxRemoved => self.sandbox = Sandbox::Absent,
            Input::SandboxLost => self.take_loss(now),
            Input::ImageReady { container, image } => {
                let record = &mut self.containers[container];
                (record.activity, record.is_image_ready, record.image_failure) = (Activity::Idle, true, None);
                record.image = Some(image);
            }
            Input::ImageFailed { container, reason, message } => {
                self.take_image_failure(container, reason, message, now)
            }
            Input::Started { container, attempt, container_id, at } => {
                self.take_start(container, attempt, container_id, at)
            }
            Input::StartFailed { container, attempt, failure } => {
                self.take_start_failure(container, attempt, failure, now)
            }
            Input::Exited { container, termination } => self.take_exit(container, termination),
            Input::Probed { container, attempt, verdict } => self.take_verdict(container, attempt, verdict),
            Input::TornDown => self.volumes = Volumes::TornDown,
            Input::Deleted => self.is_over = true,
        }
    }

    pub(super) fn take_pod(&mut self, pod: Arc<Pod>, now: Timestamp) {
        self.pod = pod;
        let meta = &self.pod.metadata;
        let Some(deadline) = &meta.deletion_timestamp else { return };
        let grace_s = meta.deletion_grace_period_seconds.unwrap_or(GRACE_DEFAULT_S);
        // An agent that was away has less time left; nobody has more than was granted.
        let left_s = deadline.0.duration_since(now).as_secs();
        let grace_s = if grace_s == 0 { 0 } else { left_s.clamp(1, grace_s.max(1)) };
        self.stop_grace_s = if self.ending == Some(Ending::Deleted) { self.stop_grace_s.min(grace_s) } else { grace_s };
        if self.ending != Some(Ending::Gone) {
            self.ending = Some(Ending::Deleted);
        }
    }

    fn take_image_failure(&mut self, container: usize, reason: &'static str, message: String, now: Timestamp) {
        let record = &mut self.containers[container];
        record.activity = Activity::Idle;
        record.image_backoff.step(now);
        record.image_failure = Some(ImageFailure { at: now, reason, message: message.clone() });
        record.wait(reason, Some(message));
        self.note(Some(container), true, "Failed", format!("Error: {reason}"));
    }

    fn take_start(&mut self, container: usize, attempt: u32, container_id: String, at: Timestamp) {
        let probes = self.container_spec(container);
        let (has_startup, has_readiness) = (probes.startup_probe.is_some(), probes.readiness_probe.is_some());
        let name = self.containers[container].name.clone();
        self.note(Some(container), false, "Created", format!("Created container: {name}"));
        self.note(Some(container), false, "Started", format!("Started container {name}"));
        let record = &mut self.containers[container];
        record.activity = Activity::Idle;
        record.start_retry.succeeded();
        if record.terminated().is_some_and(|termination| termination.attempt == attempt) {
            // It ended before its start was reported.
            return;
        }
        record.last = record.terminated().cloned().or(record.last.take());
        record.run = Run::Running { container_id, started_at: at };
        record.attempt = Some(attempt);
        record.is_started = !has_startup;
        record.is_ready = !has_startup && !has_readiness;
        (record.stop_given_s, record.stop_wanted_s) = (None, None);
    }

    fn take_start_failure(&mut self, container: usize, attempt: u32, failure: StartFailure, now: Timestamp) {
        let record = &mut self.containers[container];
        record.activity = Activity::Idle;
        let (reason, message) = match failure {
            StartFailure::Config(message) => ("CreateContainerConfigError", message),
            StartFailure::Create(message) => ("CreateContainerError", message),
            StartFailure::Command { container_id, message } => {
                record.attempt = Some(attempt);
                record.start_retry.succeeded();
                self.note(Some(container), true, "Failed", format!("Error: {message}"));
                let termination = Termination {
                    attempt,
                    container_id,
                    exit_code: exit::EXIT_CODE_START_ERROR,
                    signal: None,
                    reason: exit::START_ERROR,
                    message: Some(message),
                    started_at: None,
                    finished_at: now,
                };
                return self.take_exit(container, termination);
            }
        };
        record.start_retry.failed(now);
        record.wait(reason, Some(message.clone()));
        self.note(Some(container), true, "Failed", format!("Error: {message}"));
    }

    fn take_exit(&mut self, container: usize, termination: Termination) {
        let record = &mut self.containers[container];
        let is_known = record
            .terminated()
            .or(record.last.as_ref())
            .is_some_and(|known| known.container_id == termination.container_id);
        if is_known && !termination.container_id.is_empty() {
            return;
        }
        record.last = record.terminated().cloned().or(record.last.take());
        record.attempt = Some(record.attempt.unwrap_or(0).max(termination.attempt));
        record.run = Run::Terminated(termination);
        (record.is_ready, record.is_started, record.is_image_ready) = (false, false, false);
        (record.stop_given_s, record.stop_wanted_s) = (None, None);
    }

    fn take_verdict(&mut self, container: usize, attempt: u32, verdict: Verdict) {
        let has_readiness = self.container_spec(container).readiness_probe.is_some();
        let record = &mut self.containers[container];
        if !record.is_running() || record.attempt != Some(attempt) {
            return;
        }
        match verdict {
            Verdict::Started => (record.is_started, record.is_ready) = (true, !has_readiness),
            Verdict::Ready => record.is_ready = record.is_started,
            Verdict::NotReady => record.is_ready = false,
            Verdict::Dead { which, grace_s } => {
                record.is_ready = false;
                let name = record.name.clone();
                let default_s = self.spec().termination_grace_period_seconds.unwrap_or(GRACE_DEFAULT_S);
                self.containers[container].stop_wanted_s = Some(grace_s.unwrap_or(default_s));
                self.note(
                    Some(container),
                    false,
                    "Killing",
                    format!("Container {name} failed {which} probe, will be restarted"),
                );
            }
        }
    }

    fn take_loss(&mut self, now: Timestamp) {
        self.sandbox = Sandbox::Lost;
        for container in 0..self.containers.len() {
            let record = &self.containers[container];
            let Run::Running { container_id, started_at } = record.run.clone() else { continue };
            let attempt = record.attempt.unwrap_or(0);
            self.take_exit(container, exit::unknown(attempt, container_id, Some(started_at), now));
        }
        // The namespaces that init containers may have prepared are gone with the sandbox: they run again.
        let will_go_on = self.ending.is_none()
            && self.containers.iter().any(|record| {
                record.kind == ContainerKind::Main
                    && record.ended().is_none_or(|ended| self.policy.restarts(record.kind, ended.exit_code))
            });
        if will_go_on {
            self.note(
                None,
                false,
                "SandboxChanged",
                "Pod sandbox changed, it will be killed and re-created.".to_owned(),
            );
            for record in
                self.containers.iter_mut().filter(|record| record.kind == ContainerKind::Init && record.has_succeeded())
            {
                record.wait("PodInitializing", None);
            }
        }
    }
}
