//! A pod recognised after the agent was restarted.
//!
//! Two witnesses are heard: the API's status, which is what was last told, and the runtime, which knows what runs. A container that
//! was said to run and that the runtime does not know has ended unseen. Numbers of attempts also come from the log files,
//! the last trace when both have forgotten.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus};
use k8s_openapi::jiff::Timestamp;

use super::{Finished, Machine, Phase, Run, Sandbox};
use crate::pod::exit::{self, Termination};
use crate::pod::machine::ImageRef;

/// What the node itself remembers of a pod.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    /// The addresses of a sandbox that is up.
    pub sandbox_ips: Option<Vec<String>>,
    pub is_sandbox_lost: bool,
    pub containers: Vec<RestoredContainer>,
    /// The number of the newest log file of each container.
    pub log_attempts: std::collections::BTreeMap<String, u32>,
}

#[derive(Debug, Clone)]
pub struct RestoredContainer {
    pub name: String,
    pub attempt: u32,
    pub container_id: String,
    pub started_at: Option<Timestamp>,
    pub state: RestoredState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoredState {
    Running,
    /// Its exit will be told as an input, unless the API has it already.
    Exited,
    Unknown,
}

impl Machine {
    /// Takes over what an earlier agent left. Call before the first [`Machine::next`].
    pub fn restore(&mut self, restored: &Restored, now: Timestamp) {
        self.restore_status(now);
        if let Some(ips) = &restored.sandbox_ips {
            self.ips.clone_from(ips);
            self.sandbox = Sandbox::Ready { ips: ips.clone() };
        }
        for (name, attempt) in &restored.log_attempts {
            if let Some(container) = self.find(name) {
                let record = &mut self.containers[container];
                record.attempt = Some(record.attempt.unwrap_or(0).max(*attempt));
            }
        }
        for container in &restored.containers {
            self.restore_container(container, now);
        }
        self.end_the_unseen(restored, now);
        if restored.is_sandbox_lost {
            self.sandbox = Sandbox::Lost;
        }
    }

    fn restore_status(&mut self, now: Timestamp) {
        let pod = self.pod.clone();
        let Some(status) = &pod.status else { return };
        self.finished = match status.phase.as_deref() {
            Some("Succeeded") => Some(Phase::Succeeded),
            Some("Failed") => Some(Phase::Failed),
            _ => None,
        }
        .map(|phase| Finished {
            phase,
            reason: status.reason.as_deref().and_then(known_reason),
            message: status.message.clone(),
        });
        self.ips = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
        let told = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
        for told in told {
            let Some(container) = self.find(&told.name) else { continue };
            let record = &mut self.containers[container];
            let restart_count = u32::try_from(told.restart_count).unwrap_or(0);
            let state = told.state.as_ref();
            let last = told.last_state.as_ref().and_then(|state| state.terminated.as_ref());
            record.last = last.map(|last| termination(last, restart_count.saturating_sub(1), now));
            if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
                record.run = Run::Terminated(termination(ended, restart_count, now));
            } else if let Some(running) = state.and_then(|state| state.running.as_ref()) {
                let started_at = running.started_at.as_ref().map_or(now, |time| time.0);
                record.run = Run::Running { container_id: bare_id(told), started_at };
            }
            let was_started = told.container_id.is_some() || record.last.is_some();
            record.attempt = was_started.then_some(restart_count);
            record.image = Some(ImageRef { name: told.image.clone(), id: told.image_id.clone() })
                .filter(|image| !image.id.is_empty());
            record.is_started = told.started == Some(true);
            record.is_ready = told.ready;
        }
    }

    fn restore_container(&mut self, found: &RestoredContainer, now: Timestamp) {
        let Some(container) = self.find(&found.name) else { return };
        let spec = self.container_spec(container);
        let (has_startup, has_readiness) = (spec.startup_probe.is_some(), spec.readiness_probe.is_some());
        let record = &mut self.containers[container];
        let is_told =
            record.terminated().or(record.last.as_ref()).is_some_and(|ended| ended.container_id == found.container_id);
        if is_told || record.attempt.is_some_and(|attempt| attempt > found.attempt && record.is_running()) {
            return;
        }
        record.attempt = Some(record.attempt.unwrap_or(0).max(found.attempt));
        record.last = record.terminated().cloned().or(record.last.take());
        let started_at = found.started_at.unwrap_or(now);
        match found.state {
            RestoredState::Running | RestoredState::Exited => {
                record.run = Run::Running { container_id: found.container_id.clone(), started_at };
                record.is_started = !has_startup || record.is_started;
                record.is_ready = record.is_started && (!has_readiness || record.is_ready);
            }
            RestoredState::Unknown => {
                record.run =
                    Run::Terminated(exit::unknown(found.attempt, found.container_id.clone(), found.started_at, now));
            }
        }
    }

    /// Containers that were told to run and that nobody knows any more.
    fn end_the_unseen(&mut self, restored: &Restored, now: Timestamp) {
        for record in &mut self.containers {
            let Run::Running { container_id, started_at } = &record.run else { continue };
            let is_known = restored
                .containers
                .iter()
                .any(|found| found.container_id == *container_id && found.state != RestoredState::Unknown);
            if !is_known {
                let ended = exit::unknown(record.attempt.unwrap_or(0), container_id.clone(), Some(*started_at), now);
                record.run = Run::Terminated(ended);
                (record.is_ready, record.is_started) = (false, false);
            }
        }
    }
}

fn termination(told: &ContainerStateTerminated, attempt: u32, now: Timestamp) -> Termination {
    Termination {
        attempt,
        container_id: told.container_id.as_deref().map(strip_scheme).unwrap_or_default().to_owned(),
        exit_code: told.exit_code,
        signal: told.signal,
        reason: told.reason.as_deref().and_then(known_reason).unwrap_or(exit::ERROR),
        message: told.message.clone(),
        started_at: told.started_at.as_ref().map(|time| time.0),
        finished_at: told.finished_at.as_ref().map_or(now, |time| time.0),
    }
}

fn bare_id(status: &ContainerStatus) -> String {
    status.container_id.as_deref().map(strip_scheme).unwrap_or_default().to_owned()
}

fn strip_scheme(id: &str) -> &str {
    id.split_once("://").map_or(id, |(_, id)| id)
}

/// The reasons that this agent writes, as they come back from the API.
fn known_reason(reason: &str) -> Option<&'static str> {
    let known = [
        exit::COMPLETED,
        exit::ERROR,
        exit::OOM_KILLED,
        exit::START_ERROR,
        exit::STATUS_UNKNOWN,
        exit::DEADLINE_EXCEEDED,
        "OutOfcpu",
        "OutOfmemory",
        "OutOfpods",
        "NodeAffinity",
        "UnexpectedAdmissionError",
    ];
    known.into_iter().find(|known| *known == reason)
}
