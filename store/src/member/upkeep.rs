//! What a member does on the side: announce itself, and flush its state so that the log can be cut.

use std::sync::Arc;

use kontiki_api::etcdserverpb as pb;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::{Instant, MissedTickBehavior};

use super::inner::Inner;
use crate::command::Command;
use crate::consensus::Storage;
use crate::limits::{FLUSH_BYTES, FLUSH_INTERVAL, LOG_KEEP_BYTES, UPKEEP_INTERVAL};

/// Whether the state should be flushed now. `behind` counts entries applied since the last flush, `most` bounds it.
fn flush_is_due(behind: u64, most: u64, unflushed_bytes: u64, since_last: std::time::Duration) -> bool {
    behind > 0 && (behind >= most || unflushed_bytes >= FLUSH_BYTES || since_last >= FLUSH_INTERVAL)
}

impl Inner {
    /// Flushes when enough has gathered; Raft then cuts its log behind the flush.
    pub(super) async fn run_upkeep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Instant::now();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.stop.cancelled() => return,
            }
            let flushed = self.raft.data_metrics().borrow_watched().snapshot.map_or(0, |id| id.index + 1);
            let behind = self.progress.borrow().next.saturating_sub(flushed);
            let most = self.config.tuning.flush_entries;
            if flush_is_due(behind, most, Storage::unflushed_bytes(&self.storage), last.elapsed()) {
                last = Instant::now();
                // A snapshot is a flush here. Fails only when Raft has stopped.
                let _ = self.raft.trigger().snapshot().await;
            }
            self.cut_log(flushed).await;
        }
    }

    /// Drops old entries before their number does when the log's files have grown large.
    async fn cut_log(&self, flushed: u64) {
        match self.log.last_beyond(LOG_KEEP_BYTES) {
            Ok(Some(last)) if last < flushed && self.log.bounds().0.is_none_or(|purged| purged.index < last) => {
                // Fails only when Raft has stopped.
                let _ = self.raft.trigger().purge_log(last).await;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the size of the log is not known"),
        }
    }

    /// Tells the cluster this member's name and client addresses, once they differ from what it knows.
    pub(super) async fn publish(self: Arc<Self>) {
        let me = (self.config.name.clone(), self.config.client_urls.clone());
        loop {
            if self.read_barrier().await.is_ok() {
                if self.reader.member_attributes(self.config.id).as_ref() == Some(&me) {
                    return;
                }
                let peer_urls = self.address(self.config.id).map(|address| address.peer_urls).unwrap_or_default();
                let member = pb::Member {
                    id: self.config.id.0,
                    name: me.0.clone(),
                    peer_ur_ls: peer_urls,
                    client_ur_ls: me.1.clone(),
                    is_learner: false,
                };
                match self.propose(&Command::PublishMember(member)).await {
                    Ok(_) => return,
                    Err(error) => tracing::debug!(%error, "this member is not announced yet"),
                }
            }
            if self.stop.is_cancelled() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limits::FLUSH_ENTRIES;

    #[test]
    fn a_flush_is_due_by_entries_bytes_or_time_but_never_for_nothing() {
        let due = |behind, bytes, since| flush_is_due(behind, FLUSH_ENTRIES, bytes, since);
        assert!(!due(0, u64::MAX, Duration::MAX));
        assert!(!due(1, 0, Duration::ZERO));
        assert!(due(FLUSH_ENTRIES, 0, Duration::ZERO));
        assert!(due(1, FLUSH_BYTES, Duration::ZERO));
        assert!(due(1, 0, FLUSH_INTERVAL));
    }
}
