//! What the API has been told of a pod, and what it is still to be told.
//!
//! One patch at a time; what changes meanwhile goes with the next one. An exit counts as told when a status that was computed
//! after it has been accepted.

use k8s_openapi::api::core::v1::PodStatus;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::ports::ApiFailure;
use crate::pod::backoff::Retry;
use crate::pod::machine::Machine;
use crate::pod::status;
use crate::runtime::plan::ContainerKey;

#[derive(Debug, Default)]
pub struct Report {
    computed: Option<PodStatus>,
    wanted: Option<Value>,
    accepted: Option<Value>,
    is_in_flight: bool,
    retry: Retry,
    until: Option<Timestamp>,
    /// Ends that were heard, then those that the machine knows, then those that are on their way to the API.
    heard: Vec<ContainerKey>,
    seen: Vec<ContainerKey>,
    told: Vec<ContainerKey>,
}

/// What came of a patch.
pub struct Saved {
    pub patch: Value,
    pub result: Result<(), ApiFailure>,
}

#[derive(Debug, Default)]
pub struct Outcome {
    /// The pod is not in the API any more.
    pub is_gone: bool,
    pub acknowledge: Vec<ContainerKey>,
}

impl Report {
    /// An end was heard; it is acknowledged when the API has it.
    pub fn hold(&mut self, key: ContainerKey) {
        self.heard.push(key);
    }

    /// The machine knows of the end of this container: the next patch shows it.
    pub fn observed(&mut self, container_id: &str) {
        let (known, heard) = std::mem::take(&mut self.heard).into_iter().partition(|key| key.id == container_id);
        self.seen.extend::<Vec<_>>(known);
        self.heard = heard;
    }

    pub fn compute(&mut self, machine: &Machine, host_ips: &[String], now: Timestamp) -> (PodStatus, Value) {
        let status = status::of(machine, self.computed.as_ref(), host_ips, now);
        let patch = status::patch(&status);
        self.computed = Some(status.clone());
        (status, patch)
    }

    /// The patch to send now, if there is one to send.
    pub fn begin(&mut self, patch: Value, now: Timestamp) -> Option<Value> {
        self.wanted = Some(patch);
        self.until = self.retry.until(now);
        let is_new = self.wanted != self.accepted;
        if self.is_in_flight || !is_new || self.until.is_some() {
            return None;
        }
        self.is_in_flight = true;
        self.told.append(&mut self.seen);
        self.wanted.clone()
    }

    pub fn settle(&mut self, saved: Saved, now: Timestamp) -> Outcome {
        self.is_in_flight = false;
        match saved.result {
            Ok(()) => {
                self.retry.succeeded();
                self.accepted = Some(saved.patch);
                Outcome { is_gone: false, acknowledge: std::mem::take(&mut self.told) }
            }
            Err(ApiFailure::Gone(_)) => Outcome { is_gone: true, acknowledge: self.give_up() },
            Err(ApiFailure::Refused(error)) => {
                // The same patch would be refused again; the next change is a new chance.
                tracing::warn!(error, "the API refused a pod's status");
                self.accepted = Some(saved.patch);
                Outcome { is_gone: false, acknowledge: std::mem::take(&mut self.told) }
            }
            Err(ApiFailure::Unavailable(error)) => {
                tracing::debug!(error, "a pod's status was not saved yet");
                self.retry.failed(now);
                Outcome::default()
            }
        }
    }

    /// Nobody is to be told any more.
    pub fn give_up(&mut self) -> Vec<ContainerKey> {
        self.heard.drain(..).chain(self.seen.drain(..)).chain(self.told.drain(..)).collect()
    }

    /// When to try again what could not be saved.
    pub fn retry_at(&self) -> Option<Timestamp> {
        self.until.filter(|_| !self.is_in_flight)
    }

    /// The API has everything that is known.
    pub fn is_settled(&self) -> bool {
        !self.is_in_flight
            && self.wanted == self.accepted
            && self.heard.is_empty()
            && self.seen.is_empty()
            && self.told.is_empty()
    }
}
