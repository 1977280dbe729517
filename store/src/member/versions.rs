//! The cluster's version: the leader asks its members, and proposes what they can all do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kontiki_api::etcdserverpb as pb;

use super::inner::Inner;
use super::maintain::pause;
use super::{Member, MemberId};
use crate::command::Command;
use crate::edge::ETCD_VERSION;
use crate::error::StoreError;
use crate::io::peer::{Kind, Lane};
use crate::limits::VERSION_CALL_TIMEOUT;
use crate::maintenance::ClusterVersion;
use crate::maintenance::version::{self, DowngradeError, Version};

/// Between two attempts while there is no version yet.
const UNDECIDED_PAUSE: Duration = Duration::from_millis(200);

impl Inner {
    pub(super) async fn run_versions(self: Arc<Self>) {
        loop {
            let undecided = self.reader.agreed().cluster_version.is_none();
            let length = if undecided { UNDECIDED_PAUSE } else { self.config.maintenance.version_check_time };
            if !pause(&self, length).await {
                return;
            }
            if self.leader().is_some_and(|leader| leader.is_self) {
                self.update_version().await;
            }
        }
    }

    async fn update_version(&self) {
        let members = self.member_versions().await;
        let agreed = self.reader.agreed();
        if let Some(target) = agreed.downgrade
            && members.iter().all(|member| *member == Some(target))
        {
            tracing::info!(cluster_version = %target, "the cluster has been downgraded");
            self.agree(Command::SetDowngrade(pb::DowngradeInfo::default())).await;
            return;
        }
        let decided = version::decide(&members, agreed.downgrade, agreed.cluster_version);
        if let Some(decided) = decided.filter(|_| decided != agreed.cluster_version) {
            self.agree(Command::SetClusterVersion(ClusterVersion { version: decided.to_string() })).await;
        }
    }

    async fn agree(&self, command: Command) {
        if let Err(error) = self.propose(&command).await {
            tracing::debug!(%error, "the cluster's version is not updated yet");
        }
    }

    async fn member_versions(&self) -> Vec<Option<Version>> {
        let ask = |member: MemberId| async move {
            if member == self.config.id {
                return Version::parse(ETCD_VERSION);
            }
            let client = self.client(member, Lane::Control)?;
            let answer = client.call(Kind::Version, Bytes::new(), VERSION_CALL_TIMEOUT).await.ok()?;
            Version::parse(std::str::from_utf8(&answer).ok()?)
        };
        futures::future::join_all(self.member_ids().into_iter().map(ask)).await
    }

    /// Everyone in the cluster, learners too.
    pub(super) fn member_ids(&self) -> Vec<MemberId> {
        use openraft::async_runtime::watch::WatchReceiver;
        let metrics = self.raft.server_metrics();
        let membership = metrics.borrow_watched().membership_config.clone();
        membership.membership().nodes().map(|(id, _)| *id).collect()
    }
}

/// Why a downgrade was not begun or cancelled.
#[derive(Debug)]
pub enum DowngradeRefusal {
    Rule(DowngradeError),
    Store(StoreError),
}

impl From<StoreError> for DowngradeRefusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Member {
    /// Whether the cluster may go down to `target`; the cluster's version.
    ///
    /// # Errors
    /// etcd's rules, or that no leader answered.
    pub async fn validate_downgrade(&self, target: &str) -> Result<(Version, Version), DowngradeRefusal> {
        self.inner.read_barrier().await?;
        let agreed = self.agreed();
        let target = version::validate(target, agreed.cluster_version, agreed.downgrade.is_some())
            .map_err(DowngradeRefusal::Rule)?;
        let now = agreed.cluster_version.ok_or(DowngradeRefusal::Rule(DowngradeError::VersionUnknown))?;
        Ok((target, now))
    }

    /// Begins a downgrade; the cluster's version before it.
    ///
    /// # Errors
    /// As [`Member::validate_downgrade`].
    pub async fn enable_downgrade(&self, target: &str) -> Result<Version, DowngradeRefusal> {
        let (target, now) = self.validate_downgrade(target).await?;
        let info = pb::DowngradeInfo { enabled: true, target_version: target.to_string() };
        self.inner.propose(&Command::SetDowngrade(info)).await?;
        tracing::info!(%target, "a downgrade is enabled");
        Ok(now)
    }

    /// Ends a downgrade that has not been finished; the cluster's version.
    ///
    /// # Errors
    /// When there is none, or no leader answered.
    pub async fn cancel_downgrade(&self) -> Result<Version, DowngradeRefusal> {
        self.inner.read_barrier().await?;
        let agreed = self.agreed();
        if agreed.downgrade.is_none() {
            return Err(DowngradeRefusal::Rule(DowngradeError::NoneInFlight));
        }
        self.inner.propose(&Command::SetDowngrade(pb::DowngradeInfo::default())).await?;
        tracing::info!("the downgrade is cancelled");
        agreed.cluster_version.ok_or(DowngradeRefusal::Rule(DowngradeError::VersionUnknown))
    }
}
