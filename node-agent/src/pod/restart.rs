//! Whether an ended container is started again.

/// What kind of container it is, for order and restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerKind {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: stays, and does not count for the pod's completion.
    Sidecar,
    Main,
}

/// `spec.restartPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    pub fn of(spec: &k8s_openapi::api::core::v1::PodSpec) -> Self {
        match spec.restart_policy.as_deref() {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    pub fn restarts(self, kind: ContainerKind, exit_code: i32) -> bool {
        match (kind, self) {
            (ContainerKind::Sidecar, _) => true,
            (ContainerKind::Init, Self::Never) => false,
            (ContainerKind::Init, Self::Always | Self::OnFailure) => exit_code != 0,
            (ContainerKind::Main, Self::Always) => true,
            (ContainerKind::Main, Self::OnFailure) => exit_code != 0,
            (ContainerKind::Main, Self::Never) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_restarts() {
        use ContainerKind::{Init, Main, Sidecar};
        use RestartPolicy::{Always, Never, OnFailure};
        let cases = [
            (Always, Main, true, true),
            (OnFailure, Main, false, true),
            (Never, Main, false, false),
            (Always, Init, false, true),
            (OnFailure, Init, false, true),
            (Never, Init, false, false),
            (Never, Sidecar, true, true),
        ];
        for (policy, kind, after_success, after_failure) in cases {
            assert_eq!(policy.restarts(kind, 0), after_success, "{policy:?} {kind:?} 0");
            assert_eq!(policy.restarts(kind, 1), after_failure, "{policy:?} {kind:?} 1");
        }
    }
}
