//! The life of one pod as a machine: observations go in, steps come out, and nothing here acts or waits.
//!
//! The driver feeds [`Input`]s with the time, asks [`Machine::next`] what to do now and when to ask again, and does it; what
//! came of a step is the next input. Every step is given once: the machine remembers what is under way, so asking
//! twice is harmless, and the whole life of a pod can be replayed in a test. What the API is told is
//! [`super::status::of`], a function of this state.

mod down;
mod input;
mod record;
mod restore;
#[cfg(test)]
mod tests;
mod up;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::jiff::Timestamp;

use super::backoff::Retry;
use super::exit::Termination;
use super::restart::{ContainerKind, RestartPolicy};
use crate::limits::GRACE_DEFAULT_S;

pub use record::{Activity, ImageRef, Record, Run};
pub use restore::{Restored, RestoredContainer, RestoredState};

/// What happened. Containers are named by their place in [`Machine::containers`].
#[derive(Debug, Clone)]
pub enum Input {
    /// The object in the API changed.
    Pod(Arc<Pod>),
    /// The object is gone from the API: a forced deletion, or an orphan of an earlier agent.
    Gone,
    /// The node cannot take the pod.
    Rejected {
        reason: &'static str,
        message: String,
    },
    VolumesReady,
    VolumesFailed {
        message: String,
    },
    SandboxReady {
        ips: Vec<String>,
    },
    SandboxFailed {
        message: String,
    },
    SandboxRemoved,
    /// Everything in the pod was killed by the loss of its shim.
    SandboxLost,
    ImageReady {
        container: usize,
        image: ImageRef,
    },
    ImageFailed {
        container: usize,
        reason: &'static str,
        message: String,
    },
    Started {
        container: usize,
        attempt: u32,
        container_id: String,
        at: Timestamp,
    },
    StartFailed {
        container: usize,
        attempt: u32,
        failure: StartFailure,
    },
    Exited {
        container: usize,
        termination: Termination,
    },
    Probed {
        container: usize,
        attempt: u32,
        verdict: Verdict,
    },
    TornDown,
    Deleted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartFailure {
    /// Something that the pod refers to is missing or wrong; tried again.
    Config(String),
    /// The node could not make the container; tried again.
    Create(String),
    /// The command could not be run: counts as an exit with code 128.
    Command { container_id: String, message: String },
}

/// What the probes of a running container say, thresholds applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Started,
    Ready,
    NotReady,
    /// `which` probe failed often enough: the container is to be restarted.
    Dead {
        which: &'static str,
        grace_s: Option<i64>,
    },
}

/// What to do now. The driver answers each with the input that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// → `VolumesReady` | `VolumesFailed`
    PrepareVolumes,
    /// → `SandboxReady` | `SandboxFailed`
    CreateSandbox,
    /// → `ImageReady` | `ImageFailed`
    EnsureImage { container: usize },
    /// → `Started` | `StartFailed`, later `Exited`
    Start { container: usize, attempt: u32 },
    /// Stop signal now, SIGKILL after the grace → `Exited`
    Stop { container: usize, grace_s: i64 },
    /// → `SandboxRemoved`
    RemoveSandbox,
    /// Volumes, and with `logs` everything the pod has on disk → `TornDown`
    TearDown,
    /// When the last status is saved: remove the object from the API → `Deleted`
    Delete,
    /// Tell the user.
    Record(Note),
}

/// A Kubernetes Event about the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub is_warning: bool,
    pub reason: &'static str,
    pub message: String,
    /// `spec.containers{name}`
    pub field_path: Option<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Next {
    pub steps: Vec<Step>,
    /// Ask again then, even if nothing happens.
    pub wake: Option<Timestamp>,
}

impl Next {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sandbox {
    Absent,
    Creating,
    Ready {
        ips: Vec<String>,
    },
    /// Its shim died; what is left is to be cleaned up.
    Lost,
    Removing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volumes {
    Pending,
    Preparing,
    Ready,
    /// Removed with the pod.
    TearingDown,
    TornDown,
}

/// Why the pod must end although its containers would go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Deleted,
    Deadline,
    /// The API does not know the pod any more: there is nobody to tell.
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

/// A terminal phase; it never changes again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    pub phase: Phase,
    pub reason: Option<&'static str>,
    pub message: Option<String>,
}

#[derive(Debug)]
pub struct Machine {
    pub pod: Arc<Pod>,
    /// Init containers first, then the main ones, in the order of the spec.
    pub containers: Vec<Record>,
    pub sandbox: Sandbox,
    /// What the pod had when its sandbox was last up; stays in the status after the end.
    pub ips: Vec<String>,
    pub volumes: Volumes,
    pub start_time: Timestamp,
    pub ending: Option<Ending>,
    pub finished: Option<Finished>,
    policy: RestartPolicy,
    stop_grace_s: i64,
    sandbox_retry: Retry,
    volumes_retry: Retry,
    is_delete_given: bool,
    is_over: bool,
    notes: Vec<Note>,
}

impl Machine {
    /// A pod that was just bound to this node, or one that [`Machine::restore`] is about to recognise.
    pub fn new(pod: Arc<Pod>, now: Timestamp) -> Self {
        let spec = spec_of(&pod);
        let records = containers_of(spec).map(|(kind, container)| Record::new(kind, &container.name)).collect();
        let start_time = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map_or(now, |time| time.0);
        let mut machine = Self {
            policy: RestartPolicy::of(spec),
            containers: records,
            sandbox: Sandbox::Absent,
            ips: Vec::new(),
            volumes: Volumes::Pending,
            start_time,
            ending: None,
            finished: None,
            stop_grace_s: GRACE_DEFAULT_S,
            sandbox_retry: Retry::default(),
            volumes_retry: Retry::default(),
            is_delete_given: false,
            is_over: false,
            notes: Vec::new(),
            pod: pod.clone(),
        };
        machine.take_pod(pod, now);
        machine
    }

    /// What to do now.
    pub fn next(&mut self, now: Timestamp) -> Next {
        let mut next = Next::default();
        self.check_deadline(now, &mut next);
        self.check_finished();
        if self.ending.is_some() || self.finished.is_some() {
            self.wind_down(&mut next);
        } else {
            self.wind_up(now, &mut next);
        }
        // What is told comes first: a pod's story should not be behind its state.
        let mut steps: Vec<Step> = self.notes.drain(..).map(Step::Record).collect();
        steps.append(&mut next.steps);
        Next { steps, wake: next.wake }
    }

    /// Nothing is left of the pod, here and in the API: its worker can end.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    pub fn spec(&self) -> &PodSpec {
        spec_of(&self.pod)
    }

    pub fn container_spec(&self, container: usize) -> &Container {
        containers_of(self.spec())
            .nth(container)
            .expect("invariant: records are made from the spec, whose containers never change")
            .1
    }

    pub fn find(&self, name: &str) -> Option<usize> {
        self.containers.iter().position(|record| record.name == name)
    }

    /// `spec.containers{name}`, as Events name a container.
    pub fn field_path(&self, container: usize) -> String {
        let record = &self.containers[container];
        let list = if record.kind == ContainerKind::Main { "containers" } else { "initContainers" };
        format!("spec.{list}{{{}}}", record.name)
    }

    fn note(&mut self, container: Option<usize>, is_warning: bool, reason: &'static str, message: String) {
        let field_path = container.map(|container| self.field_path(container));
        self.notes.push(Note { is_warning, reason, message, field_path });
    }

    /// `name_namespace(uid)`, as messages call a pod.
    fn full_name(&self) -> String {
        let meta = &self.pod.metadata;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid))
    }
}

/// The containers of a pod with their kinds, in the order of [`Machine::containers`].
pub fn containers_of(spec: &PodSpec) -> impl Iterator<Item = (ContainerKind, &Container)> {
    let init = spec.init_containers.iter().flatten().map(|container| {
        let is_sidecar = container.restart_policy.as_deref() == Some("Always");
        (if is_sidecar { ContainerKind::Sidecar } else { ContainerKind::Init }, container)
    });
    init.chain(spec.containers.iter().map(|container| (ContainerKind::Main, container)))
}

fn spec_of(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().expect("invariant: a pod that is bound to a node has a spec")
}
