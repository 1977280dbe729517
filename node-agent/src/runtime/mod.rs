//! The container runtime: Linux namespaces, cgroups, overlayfs and seccomp behind one asynchronous interface.
//!
//! [`Runtime`] lives in the agent and talks to one single-threaded shim process per pod ([`shim_main`]), which holds the
//! pod's namespaces, starts its containers and journals their exits, so that the agent may be killed and restarted while
//! pods run. What to run is a [`plan`]; nothing here knows Kubernetes. All `unsafe` of the project is in `sys`.

#![allow(clippy::disallowed_methods, reason = "the edge to Linux")]

mod capability;
mod error;
pub mod limits;
pub mod plan;
mod user;

// The agent's side.
mod client;
mod connection;
mod ipam;
mod lifecycle;
mod network;
mod spawn;

// Between the two.
mod cgroup;
mod journal;
mod netlink;
mod protocol;

// The shim's side.
mod child;
mod container;
mod filesystems;
mod log;
mod overlay;
mod prepare;
mod rootfs;
mod running;
mod sandbox;
mod seccomp;
mod session;
mod shim;
mod sys;
mod syscalls;

pub use client::{ContainerState, RecoveredContainer, RecoveredPod, Runtime, RuntimeConfig, RuntimeEvent};
pub use error::{RuntimeError, Stage, StartError};
pub use netlink::Netlink;
pub use shim::shim_main;
pub use sys::{freeze_filesystem, thaw_filesystem, unshare_mounts_of_thread, unshare_network_of_thread};
pub use user::{User, UserError, lookup_user};
