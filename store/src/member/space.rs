//! The member's own quota: what would exceed it is refused before it is proposed, and the cluster is told.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kontiki_api::etcdserverpb as pb;
use pb::AlarmType;
use pb::alarm_request::AlarmAction;

use super::inner::Inner;
use super::maintain::pause;
use crate::command::Command;
use crate::error::StoreError;
use crate::limits::QUOTA_CHECK_INTERVAL;
use crate::maintenance::alarms::Alarm;
use crate::maintenance::quota;

impl Inner {
    /// Whether there is room for `command` here. Where there is not, the alarm is raised before this returns, so that
    /// every member refuses from then on.
    ///
    /// # Errors
    /// `NoSpace`.
    pub(super) async fn admit(&self, command: &Command) -> Result<(), StoreError> {
        let cost = quota::cost(command);
        if cost == 0 || !self.maintained.quota.is_exceeded(self.reader.size().total, cost) {
            return Ok(());
        }
        self.raise_no_space().await;
        Err(StoreError::NoSpace)
    }

    async fn raise_no_space(&self) {
        let alarm = Alarm::new(AlarmType::Nospace, self.config.id);
        if self.reader.agreed().alarms.cause(alarm).is_some() || self.maintained.raising.swap(true, Ordering::AcqRel) {
            return;
        }
        let size = self.reader.size().total;
        tracing::warn!(size, quota = self.maintained.quota.bytes(), "the space quota is used up");
        let request = pb::AlarmRequest {
            action: AlarmAction::Activate.into(),
            member_id: self.config.id.0,
            alarm: AlarmType::Nospace.into(),
        };
        if let Err(error) = self.propose(&Command::Alarm(request)).await {
            // The next request tries again.
            tracing::warn!(%error, "the alarm NOSPACE is not raised yet");
        }
        self.maintained.raising.store(false, Ordering::Release);
    }

    /// Notices when what the others wrote has crossed this member's quota. Only the crossing counts: somebody who has
    /// just disarmed the alarm is given the time to make room.
    pub(super) async fn watch_space(self: Arc<Self>) {
        let mut was_exceeded = false;
        while pause(&self, QUOTA_CHECK_INTERVAL).await {
            let is_exceeded = self.maintained.quota.is_exceeded(self.reader.size().total, 0);
            if is_exceeded && !was_exceeded {
                self.raise_no_space().await;
            }
            was_exceeded = is_exceeded;
            self.maintained.fetches.expire();
        }
    }
}
