//! How long requests take from the moment this member takes them to their answer.

use std::sync::OnceLock;
use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, HistogramVec, Registry};

use super::{WELL_FORMED, doubling, register};
use crate::auth::AuthCommand;
use crate::command::Command;

/// What a request asks for; the label is the name here. Reads wait for the barrier, everything else goes through the log.
/// The names are etcd's, up to the last four: changes of membership are not counted there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    Range,
    ReadonlyTxn,
    Put,
    DeleteRange,
    Txn,
    Compaction,
    LeaseGrant,
    LeaseRevoke,
    Alarm,
    Authenticate,
    AuthEnable,
    AuthDisable,
    AuthUserAdd,
    AuthUserDelete,
    AuthUserChangePassword,
    AuthUserGrantRole,
    AuthUserRevokeRole,
    AuthRoleAdd,
    AuthRoleDelete,
    AuthRoleGrantPermission,
    AuthRoleRevokePermission,
    ClusterVersionSet,
    ClusterMemberAttrSet,
    DowngradeInfoSet,
    MemberAdd,
    MemberRemove,
    MemberChange,
    Quarantine,
}

const KINDS: usize = RequestKind::Quarantine as usize + 1;

impl From<&Command> for RequestKind {
    fn from(command: &Command) -> Self {
        match command {
            Command::Put(_) => Self::Put,
            Command::DeleteRange(_) => Self::DeleteRange,
            Command::Txn(_) => Self::Txn,
            Command::Compact(_) => Self::Compaction,
            Command::LeaseGrant(_) => Self::LeaseGrant,
            Command::LeaseRevoke(_) => Self::LeaseRevoke,
            Command::PublishMember(_) => Self::ClusterMemberAttrSet,
            Command::Auth(command) => Self::from(command),
            Command::MemberAdd(_) => Self::MemberAdd,
            Command::MemberRemove(_) => Self::MemberRemove,
            Command::MemberChange(_) => Self::MemberChange,
            Command::Alarm(_) => Self::Alarm,
            Command::SetClusterVersion(_) => Self::ClusterVersionSet,
            Command::SetDowngrade(_) => Self::DowngradeInfoSet,
            Command::Quarantine(_) => Self::Quarantine,
        }
    }
}

impl From<&AuthCommand> for RequestKind {
    fn from(command: &AuthCommand) -> Self {
        match command {
            AuthCommand::Enable => Self::AuthEnable,
            AuthCommand::Disable => Self::AuthDisable,
            AuthCommand::UserAdd(_) => Self::AuthUserAdd,
            AuthCommand::UserDelete(_) => Self::AuthUserDelete,
            AuthCommand::UserChangePassword(_) => Self::AuthUserChangePassword,
            AuthCommand::UserGrantRole(_) => Self::AuthUserGrantRole,
            AuthCommand::UserRevokeRole(_) => Self::AuthUserRevokeRole,
            AuthCommand::RoleAdd(_) => Self::AuthRoleAdd,
            AuthCommand::RoleDelete(_) => Self::AuthRoleDelete,
            AuthCommand::RoleGrantPermission(_) => Self::AuthRoleGrantPermission,
            AuthCommand::RoleRevokePermission(_) => Self::AuthRoleRevokePermission,
            AuthCommand::AssignToken(_) => Self::Authenticate,
        }
    }
}

pub struct RequestMetrics {
    durations: HistogramVec,
    /// Looked up at the first request of a kind: of those that failed, and of the others. Most kinds are never asked for,
    /// and would fill pages with zeros.
    known: [[OnceLock<Histogram>; 2]; KINDS],
}

impl RequestMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let options = HistogramOpts::new(
            "etcd_server_request_duration_seconds",
            "Response latency distribution in seconds for each type.",
        );
        let durations = HistogramVec::new(options.buckets(doubling(0.001, 14)), &["type", "success"]);
        Self {
            durations: register(registry, durations.expect(WELL_FORMED)),
            known: [const { [const { OnceLock::new() }; 2] }; KINDS],
        }
    }

    pub(crate) fn note(&self, kind: RequestKind, succeeded: bool, took: Duration) {
        let histogram = self.known[kind as usize][usize::from(succeeded)].get_or_init(|| {
            self.durations.with_label_values(&[&*format!("{kind:?}"), if succeeded { "true" } else { "false" }])
        });
        histogram.observe(took.as_secs_f64());
    }
}
