//! What the machine remembers of one container.

use k8s_openapi::jiff::Timestamp;

use crate::pod::backoff::{Backoff, Retry};
use crate::pod::exit::Termination;
use crate::pod::restart::ContainerKind;

/// The image of a container as the status shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageRef {
    pub name: String,
    /// `repository@sha256:…`, or the image's id where it was never in a registry.
    pub id: String,
}

/// What a container is, as the status shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    Waiting { reason: &'static str, message: Option<String> },
    Running { container_id: String, started_at: Timestamp },
    Terminated(Termination),
}

/// What is under way for a container, unseen by the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    Idle,
    FindingImage,
    Starting,
}

#[derive(Debug, Clone)]
pub struct Record {
    pub kind: ContainerKind,
    pub name: String,
    pub run: Run,
    pub activity: Activity,
    /// The instance before the one that `run` shows.
    pub last: Option<Termination>,
    /// The number of the latest start; `None` before the first. It is the restart count.
    pub attempt: Option<u32>,
    pub image: Option<ImageRef>,
    /// Whether the image was found for the next start.
    pub is_image_ready: bool,
    pub image_failure: Option<ImageFailure>,
    pub image_backoff: Backoff,
    pub crash_backoff: Backoff,
    pub start_retry: Retry,
    pub is_ready: bool,
    /// Past its startup probe.
    pub is_started: bool,
    /// The grace of the stop that was given, so that only a shorter one is given again.
    pub stop_given_s: Option<i64>,
    /// A probe wants this container stopped, with this grace.
    pub stop_wanted_s: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFailure {
    pub at: Timestamp,
    pub reason: &'static str,
    pub message: String,
}

impl Record {
    pub fn new(kind: ContainerKind, name: &str) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            run: Run::Waiting { reason: "ContainerCreating", message: None },
            activity: Activity::Idle,
            last: None,
            attempt: None,
            image: None,
            is_image_ready: false,
            image_failure: None,
            image_backoff: Backoff::default(),
            crash_backoff: Backoff::default(),
            start_retry: Retry::default(),
            is_ready: false,
            is_started: false,
            stop_given_s: None,
            stop_wanted_s: None,
        }
    }

    pub fn is_running(&self) -> bool {
        matches!(self.run, Run::Running { .. })
    }

    /// A process exists or is being made.
    pub fn is_active(&self) -> bool {
        self.is_running() || self.activity == Activity::Starting
    }

    pub fn terminated(&self) -> Option<&Termination> {
        match &self.run {
            Run::Terminated(termination) => Some(termination),
            Run::Waiting { .. } | Run::Running { .. } => None,
        }
    }

    /// The instance that a restart would follow.
    pub fn ended(&self) -> Option<&Termination> {
        match &self.run {
            Run::Terminated(termination) => Some(termination),
            Run::Waiting { .. } => self.last.as_ref(),
            Run::Running { .. } => None,
        }
    }

    pub fn has_succeeded(&self) -> bool {
        self.terminated().is_some_and(|termination| termination.exit_code == 0)
    }

    /// The container waits; an instance that had ended becomes the last one.
    pub fn wait(&mut self, reason: &'static str, message: Option<String>) {
        let previous = std::mem::replace(&mut self.run, Run::Waiting { reason, message });
        if let Run::Terminated(termination) = previous {
            self.last = Some(termination);
        }
    }
}
