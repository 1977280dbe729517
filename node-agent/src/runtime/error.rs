//! What can go wrong in the runtime, as values.
//!
//! [`StartError`] is about one container and reaches the user in the pod's status; [`RuntimeError`] is about the node.

use std::io;

use serde::{Deserialize, Serialize};

/// Where a container's start stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// The plan itself is wrong (an empty argv, a NUL in a string, an unknown name).
    Plan,
    /// The pod has no sandbox, or its shim is gone.
    Sandbox,
    Cgroup,
    /// The log file or the standard streams.
    Stdio,
    /// Overlay, volumes, devices, `/proc`, masks, `pivot_root`.
    Mount,
    /// A new process could not be made.
    Clone,
    /// Limits, ids, capabilities, seccomp.
    Privileges,
    /// The working directory.
    Cwd,
    /// `execve` of the command: the user's command does not exist or may not run.
    Exec,
}

/// A container that did not start. `message` is what a user should read, in containerd's words where tools know them:
/// `exec: "x": executable file not found in $PATH`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct StartError {
    pub stage: Stage,
    /// 0 when no system call failed.
    pub errno: i32,
    pub message: String,
}

impl StartError {
    pub(crate) fn new(stage: Stage, message: impl Into<String>) -> Self {
        Self { stage, errno: 0, message: message.into() }
    }

    pub(crate) fn io(stage: Stage, what: impl std::fmt::Display, error: &io::Error) -> Self {
        Self { stage, errno: error.raw_os_error().unwrap_or(0), message: format!("{what}: {}", errno_text(error)) }
    }

    /// The command itself could not run: kubelets report `StartError` with exit code 128, and not a problem of the node.
    #[must_use]
    pub fn is_exec(&self) -> bool {
        matches!(self.stage, Stage::Exec | Stage::Cwd)
    }
}

/// `no such file or directory` rather than Rust's `No such file or directory (os error 2)`.
pub(crate) fn errno_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            text.replacen(first, &first.to_lowercase().to_string(), 1)
        }
        _ => text.to_owned(),
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("pod {0} has no sandbox here")]
    NoSandbox(String),
    #[error("pod {pod_uid} has no container {name:?}")]
    NoContainer { pod_uid: String, name: String },
    #[error("the network of this node is not set up yet: it has no podCIDR")]
    NetworkNotReady,
    #[error("no free address in {0}")]
    NoFreeAddress(String),
    #[error("the shim of pod {pod_uid} is lost: {what}")]
    ShimLost { pod_uid: String, what: String },
    #[error("the shim refused: {0}")]
    Refused(String),
    #[error("invalid plan: {0}")]
    InvalidPlan(String),
}

impl RuntimeError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_in_other_runtimes() {
        assert_eq!(errno_text(&io::Error::from_raw_os_error(libc::ENOENT)), "no such file or directory");
        assert_eq!(errno_text(&io::Error::from_raw_os_error(libc::EACCES)), "permission denied");
    }
}
