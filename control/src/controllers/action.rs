//! What a reconcile may ask of the world: a plan of guarded API writes, as data.
//!
//! A plan is a list of batches: the steps of a batch run at once, a batch starts when the one before it has succeeded whole, and the
//! first failure ends the plan (slow-start creation and "status first, finalizer after" both are just that). Every write carries the
//! uid or resourceVersion it was decided on, so a plan made from a stale view fails instead of doing harm.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

/// A served kind: enough to build its URLs and its objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    /// `""` for the core group.
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    pub kind: Cow<'static, str>,
    pub plural: Cow<'static, str>,
    pub namespaced: bool,
}

impl Resource {
    const fn built_in(group: &'static str, kind: &'static str, plural: &'static str, namespaced: bool) -> Self {
        Self {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed("v1"),
            kind: Cow::Borrowed(kind),
            plural: Cow::Borrowed(plural),
            namespaced,
        }
    }

    pub const POD: Self = Self::built_in("", "Pod", "pods", true);
    pub const NODE: Self = Self::built_in("", "Node", "nodes", false);
    pub const NAMESPACE: Self = Self::built_in("", "Namespace", "namespaces", false);
    pub const REPLICATION_CONTROLLER: Self =
        Self::built_in("", "ReplicationController", "replicationcontrollers", true);
    pub const SERVICE: Self = Self::built_in("", "Service", "services", true);
    pub const ENDPOINTS: Self = Self::built_in("", "Endpoints", "endpoints", true);
    pub const CONFIG_MAP: Self = Self::built_in("", "ConfigMap", "configmaps", true);
    pub const SERVICE_ACCOUNT: Self = Self::built_in("", "ServiceAccount", "serviceaccounts", true);
    pub const EVENT: Self = Self::built_in("", "Event", "events", true);
    pub const JOB: Self = Self::built_in("batch", "Job", "jobs", true);
    pub const LEASE: Self = Self::built_in("coordination.k8s.io", "Lease", "leases", true);

    /// `v1`, `batch/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The path of the collection; `namespace` is ignored for cluster-scoped kinds and empty for all namespaces.
    #[must_use]
    pub fn path(&self, namespace: &str) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let api_version = self.api_version();
        let plural = &self.plural;
        if self.namespaced && !namespace.is_empty() {
            format!("{root}/{api_version}/namespaces/{namespace}/{plural}")
        } else {
            format!("{root}/{api_version}/{plural}")
        }
    }
}

/// Namespace (empty for cluster scope) and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub fn cluster(name: impl Into<String>) -> Self {
        Self::new("", name)
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// One object of the API.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    pub resource: Resource,
    pub key: Key,
}

impl Target {
    pub fn new(resource: Resource, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { resource, key: Key::new(namespace, name) }
    }

    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}", self.resource.path(&self.key.namespace), self.key.name)
    }
}

/// What happens to the dependents of a deleted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// `object` carries its own apiVersion, kind and metadata.
    Create {
        resource: Resource,
        namespace: String,
        object: Value,
    },
    /// A JSON merge patch; `metadata.resourceVersion` in it makes it conditional.
    Patch {
        target: Target,
        subresource: Option<&'static str>,
        patch: Value,
    },
    Delete {
        target: Target,
        uid: String,
        resource_version: Option<String>,
        grace_period_s: Option<u32>,
        propagation: Option<Propagation>,
    },
    /// `PUT /api/v1/namespaces/<name>/finalize`.
    Finalize {
        name: String,
        object: Value,
    },
    /// Fails with [`Failure::StillThere`] while an object of this uid answers under this name: asked of the API, not of a cache.
    RequireAbsent {
        target: Target,
        uid: String,
    },
    /// Deletes what a namespace still has of a kind, by listing; fails with [`Failure::StillThere`] unless there was nothing.
    RequireEmpty {
        resource: Resource,
        namespace: String,
    },
    Event(EventRecord),
}

/// What is told about an action's outcome, as Kubernetes events on the object that asked for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Narration {
    pub about: ObjectReference,
    pub component: &'static str,
    /// Reason, and what stands before the name of the written object.
    pub done: Option<(&'static str, &'static str)>,
    /// Reason, and what stands before the error.
    pub failed: Option<(&'static str, &'static str)>,
}

/// An action and what to say about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub action: Action,
    pub narration: Option<Narration>,
}

impl From<Action> for Step {
    fn from(action: Action) -> Self {
        Self { action, narration: None }
    }
}

/// A Kubernetes Event to be.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRecord {
    pub about: ObjectReference,
    pub component: &'static str,
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

impl From<EventRecord> for Step {
    fn from(event: EventRecord) -> Self {
        Action::Event(event).into()
    }
}

/// What a reconcile decided.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub batches: Vec<Vec<Step>>,
    /// When to look again although nothing changed.
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    #[must_use]
    pub fn nothing() -> Self {
        Self::default()
    }

    /// A plan of one step.
    pub fn one(step: impl Into<Step>) -> Self {
        let mut plan = Self::default();
        plan.then([step.into()]);
        plan
    }

    /// Adds a batch that runs after all so far; an empty one is left out.
    pub fn then(&mut self, steps: impl IntoIterator<Item = Step>) {
        let batch: Vec<Step> = steps.into_iter().collect();
        if !batch.is_empty() {
            self.batches.push(batch);
        }
    }

    /// Looks again at `at`, or earlier if that was planned already.
    pub fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |old| old.min(at)));
    }

    /// All actions in order, for tests and logs.
    pub fn actions(&self) -> impl Iterator<Item = &Action> {
        self.batches.iter().flatten().map(|step| &step.action)
    }
}

/// Why a step did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The view was stale: resourceVersion or uid did not match.
    #[error("conflict: {0}")]
    Conflict(String),
    #[error("not found: {0}")]
    NotFound(String),
    #[error("already exists: {0}")]
    AlreadyExists(String),
    /// Something that had to be gone is there.
    #[error("still there: {0}")]
    StillThere(String),
    /// The API refused, and will refuse again.
    #[error("{message}")]
    Refused { code: u16, reason: String, message: String },
    /// No answer: the write may or may not have happened.
    #[error("no answer: {0}")]
    NoAnswer(String),
}

impl Failure {
    /// A failure that only says that the view was old: looked at again at once when the view is newer, and no fault to report.
    #[must_use]
    pub fn is_stale_view(&self) -> bool {
        match self {
            Self::Conflict(_) | Self::NotFound(_) | Self::AlreadyExists(_) | Self::StillThere(_) => true,
            Self::Refused { .. } | Self::NoAnswer(_) => false,
        }
    }
}

/// What earlier tries of the same key came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// Failures in a row before this one.
    pub failures: u32,
    pub last: Option<Failure>,
}
