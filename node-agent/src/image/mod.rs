//! Images: from a reference to layer directories and a configuration.
//!
//! [`Images`] is what the rest of the agent needs of a store; pods are tested with a fake of it. A store remembers where an
//! image came from ([`Origin`]), because of one rule: `imagePullPolicy: Always` means "ask the registry", and an image that was
//! *imported* by the machine's owner has no registry that could know better. Such an image satisfies `Always` when
//! its registry cannot be reached; one that was pulled does not, as with any kubelet.

pub mod import;
pub mod pull;
pub mod reference;
pub mod store;

mod config;
mod digest;
mod layer;
mod limits;
mod registry;

use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// An image that is on this machine, ready to run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// `sha256:…` of the configuration.
    pub id: String,
    /// `repository@sha256:…`, as pulled.
    pub repo_digests: Vec<String>,
    /// `repository:tag` names.
    pub repo_tags: Vec<String>,
    /// Unpacked layers with overlayfs whiteouts, lowest first.
    pub layers: Vec<PathBuf>,
    pub config: ImageConfig,
    pub size_bytes: u64,
    pub origin: Origin,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    #[default]
    Pulled,
    Imported,
}

/// What an image says about running it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `NAME=value`.
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub working_dir: String,
    /// `user`, `uid`, `user:group` or `uid:gid`; empty is root.
    pub user: String,
    pub stop_signal: Option<String>,
    /// Paths the image wants to be written outside its layers.
    pub volumes: Vec<String>,
}

/// A name and a password for one registry.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credential {
    /// Host, or host and path prefix, as in a Docker configuration.
    pub registry: String,
    pub username: String,
    pub password: String,
}

/// Without the password: it ends up in logs.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { registry, username, password: _ } = self;
        f.debug_struct("Credential").field("registry", registry).field("username", username).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// The text is no image reference: never tried again.
    #[error("couldn't parse image name \"{reference}\": {what}")]
    InvalidName { reference: String, what: String },
    /// Nobody answered, so nothing is known about the image.
    #[error("{0}")]
    Unreachable(String),
    /// The registry answered, and not with an image.
    #[error("{0}")]
    Refused(String),
    /// The image came and is damaged, too large or unknown in kind; or the disk failed.
    #[error("{0}")]
    Failed(String),
}

impl PullError {
    /// The same failure, told with the image it is about.
    fn of(self, reference: &reference::Reference) -> Self {
        match self {
            Self::InvalidName { reference, what } => Self::InvalidName { reference, what },
            Self::Unreachable(text) => Self::Unreachable(format!("{reference}: {text}")),
            Self::Refused(text) => Self::Refused(format!("{reference}: {text}")),
            Self::Failed(text) => Self::Failed(format!("{reference}: {text}")),
        }
    }
}

/// A store of images with a way to fill it.
#[async_trait]
pub trait Images: Send + Sync {
    /// Checks a reference without looking anything up.
    fn check(&self, reference: &str) -> Result<(), PullError>;
    /// The image that this machine has under a reference.
    async fn resolve(&self, reference: &str) -> Option<Image>;
    /// Asks the registry and gets what is missing; concurrent pulls of one reference share the work.
    async fn pull(&self, reference: &str, credentials: &[Credential]) -> Result<Image, PullError>;
    /// Every image of this machine, for the Node object.
    async fn list(&self) -> Vec<Image>;
}
