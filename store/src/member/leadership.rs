//! Who leads, as far as this member can tell.
//!
//! Raft names a leader by its vote until another one is elected. A member that is cut off would name it for ever, and a
//! leader that lost its majority would name itself. So a name is worth something only while there is word from the others:
//! a follower must have heard from the leader, and the leader from a majority, within two elections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::Leadership;
use super::inner::Inner;
use crate::consensus::types::{Types, Vote};
use crate::ids::Term;
use crate::limits::SILENT_ELECTIONS;

/// When the leader that this member follows was last heard.
#[derive(Default)]
pub(super) struct Contact {
    /// Milliseconds since the member started.
    heard: AtomicU64,
    again: Notify,
}

impl Inner {
    /// Takes in that the holder of `vote` has sent something.
    pub(super) fn heard_from(&self, vote: &Vote) {
        if self.raft.server_metrics().borrow_watched().vote != *vote {
            return;
        }
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.contact.heard.store(now, Ordering::Relaxed);
        if self.leadership.borrow().leader.is_none() {
            self.contact.again.notify_one();
        }
    }

    fn last_heard(&self) -> Instant {
        self.started + Duration::from_millis(self.contact.heard.load(Ordering::Relaxed))
    }

    /// When a majority last answered this leader; `None` when it needs nobody.
    fn last_acknowledged(&self, metrics: &RaftServerMetrics<Types>) -> Option<Instant> {
        if metrics.membership_config.voter_ids().eq([self.config.id]) {
            return None;
        }
        let acknowledged = self.raft.metrics().borrow_watched().last_quorum_acked;
        let ago = acknowledged.map(|at| openraft::Instant::elapsed(&*at));
        Some(ago.and_then(|ago| Instant::now().checked_sub(ago)).unwrap_or(self.started))
    }

    /// What Raft knows, if it holds at this moment; `since` is when it began.
    fn proven(&self, metrics: &RaftServerMetrics<Types>, since: Instant) -> Leadership {
        let term = Term(metrics.vote.leader_id.term);
        let is_self = metrics.current_leader == Some(self.config.id);
        let heard = match is_self {
            true => self.last_acknowledged(metrics).unwrap_or_else(Instant::now),
            false => self.last_heard(),
        };
        let is_silent = heard.max(since).elapsed() > SILENT_ELECTIONS * self.config.timing.election_max;
        match metrics.current_leader {
            Some(_) if is_silent => Leadership { leader: None, term, is_self: false },
            leader => Leadership { leader, term, is_self },
        }
    }
}

/// Turns Raft's metrics into [`Leadership`], and stops the process when Raft itself has failed.
pub(super) async fn follow(inner: Arc<Inner>, leading: watch::Sender<Leadership>) {
    // These metrics change with the leader or the vote only, not with every entry.
    let mut metrics = inner.raft.server_metrics();
    let mut look = tokio::time::interval(inner.config.timing.election_min);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut begun, mut since) = (None, Instant::now());
    loop {
        let now = {
            let metrics = metrics.borrow_watched();
            let named = Some((metrics.current_leader, metrics.vote));
            if begun != named {
                (begun, since) = (named, Instant::now());
            }
            inner.proven(&metrics, since)
        };
        leading.send_if_modified(|known| {
            let changed = *known != now;
            if changed && known.leader != now.leader {
                inner.note_leader(now);
                if now.leader.is_some() {
                    inner.connect_to_all();
                }
            }
            *known = now;
            changed
        });
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { break },
            _ = look.tick() => {}
            () = inner.contact.again.notified() => {}
            () = inner.stop.cancelled() => return,
        }
    }
    if !inner.is_stopping() {
        let failed = inner.raft.metrics().borrow_watched().running_state.clone().err();
        let reason = failed.map_or_else(|| "it ended".to_owned(), |error| error.to_string());
        crate::io::abort(&format!("raft stopped by itself: {reason}; stopping the process"));
    }
}

impl Inner {
    fn note_leader(&self, now: Leadership) {
        match now.leader {
            Some(leader) => {
                self.metrics.server.leader_changes.inc();
                tracing::info!(%leader, term = %now.term, is_self = now.is_self, "a leader is known")
            }
            None => tracing::info!(term = %now.term, "no leader is known"),
        }
    }
}
