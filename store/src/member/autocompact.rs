//! Automatic compaction, driven by the clock and done by the leader.

use std::sync::Arc;
use std::time::Duration;

use kontiki_api::etcdserverpb as pb;

use super::inner::Inner;
use super::maintain::pause;
use crate::command::Command;
use crate::error::StoreError;
use crate::io::clock::{Clock, SystemClock};
use crate::maintenance::autocompact::Schedule;

impl Inner {
    pub(super) async fn run_auto_compaction(self: Arc<Self>) {
        let clock = SystemClock::default();
        let setting = self.config.maintenance.auto_compaction;
        let Some(mut schedule) = Schedule::new(setting, clock.now(), self.reader.revision().0) else { return };
        while pause(&self, schedule.interval().max(Duration::from_millis(1))).await {
            let leads = self.leader().is_some_and(|leader| leader.is_self);
            let Some(revision) = schedule.tick(clock.now(), self.reader.revision().0, leads) else { continue };
            tracing::info!(revision, ?setting, "starting auto compaction");
            let command = Command::Compact(pb::CompactionRequest { revision, physical: false });
            match self.propose(&command).await {
                // Somebody may have been faster.
                Ok(_) | Err(StoreError::Compacted) => {
                    schedule.done(clock.now(), revision);
                    tracing::info!(revision, "completed auto compaction");
                }
                Err(error) => tracing::warn!(revision, %error, "failed auto compaction"),
            }
        }
    }
}
