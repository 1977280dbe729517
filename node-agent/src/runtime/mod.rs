//! The container runtime: Linux namespaces, cgroups, overlayfs and seccomp behind one asynchronous interface.
//!
//! [`Runtime`] lives in the agent and talks to one single-threaded shim process per pod ([`shim_main`]), which holds the
//! pod's namespaces, starts its containers and journals their exits, so that the agent may be killed and restarted while
//! pods run. What to run is a [`plan`]; nothing here knows Kubernetes. All `unsafe` of the project is in `sys`.

mod capability;
mod client;
mod error;
pub mod limits;
mod overlay;
pub mod plan;
mod user;

pub use client::{shim_main, ContainerState, RecoveredContainer, RecoveredPod, Runtime, RuntimeConfig, RuntimeEvent};
pub use error::{RuntimeError, Stage, StartError};
pub use user::{User, UserError, lookup_user};
