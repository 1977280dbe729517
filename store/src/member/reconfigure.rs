//! The leader moves Raft's configuration towards the table of members; `membership::plan` says how.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::Precondition;
use openraft_rt::Instant as _;
use tokio::time::{sleep, timeout};

use super::Leadership;
use super::inner::Inner;
use crate::consensus::types::{Address, LogId, Membership};
use crate::ids::MemberId;
use crate::limits::{ACTIVITY_INTERVAL, DISMISS_GRACE, PROMOTE_LAG_ENTRIES, RECONFIGURE_INTERVAL, RECONFIGURE_TIMEOUT};
use crate::membership::activity::{Activity, Sign};
use crate::membership::plan::{self, Configuration, Replication, Step};
use crate::membership::strict::Health;

/// What this leader knows of the others at one moment.
pub(super) struct View {
    me: MemberId,
    now: Duration,
    last_index: u64,
    matched: BTreeMap<MemberId, u64>,
    activity: Activity,
    raft: Configuration,
    /// The log id of `raft`, so that a step is taken only from what it was planned on.
    configured: Option<LogId>,
    /// An earlier change waits for its majority.
    is_changing: bool,
    retired: BTreeMap<MemberId, Duration>,
}

impl View {
    /// `None` when this member does not lead.
    pub(super) fn of(inner: &Inner) -> Option<Self> {
        let metrics = inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let replication = metrics.replication.as_ref()?;
        let now = inner.started.elapsed();
        let linked = inner.clients.connected();
        let heard = metrics.heartbeat.iter().flatten().map(|(id, last)| {
            let last = last.as_ref().map(|last| now.saturating_sub(last.elapsed()));
            (*id, Sign { last, is_linked: linked.contains(id) })
        });
        let mut state = inner.reconfiguration.lock();
        state.activity.observe(now, heard);
        Some(Self {
            me: inner.config.id,
            now,
            last_index: metrics.last_log_index.unwrap_or(0),
            matched: replication.iter().filter_map(|(id, matched)| Some((*id, matched.as_ref()?.index))).collect(),
            activity: state.activity.clone(),
            raft: configuration(metrics.membership_config.membership()),
            configured: *metrics.membership_config.log_id(),
            is_changing: metrics.membership_config.log_id() != metrics.committed_membership_config.log_id(),
            retired: state.retired.clone(),
        })
    }

    pub(super) fn led_for(&self) -> Duration {
        self.activity.led_for(self.now)
    }
}

impl Health for View {
    fn is_active(&self, member: MemberId) -> bool {
        member == self.me || self.activity.is_active(member)
    }

    fn is_stable(&self, member: MemberId) -> bool {
        member == self.me || self.activity.is_stable(member, self.now)
    }

    fn matched(&self, member: MemberId) -> Option<u64> {
        self.matched.get(&member).copied()
    }

    fn last_index(&self) -> u64 {
        self.last_index
    }
}

impl Replication for View {
    fn is_caught_up(&self, member: MemberId) -> bool {
        let matched = self.matched.get(&member);
        self.activity.is_active(member) && matched.is_some_and(|at| at + PROMOTE_LAG_ENTRIES >= self.last_index)
    }

    fn is_told(&self, member: MemberId) -> bool {
        let since = self.retired.get(&member).copied().unwrap_or(self.now);
        !self.activity.is_active(member) || self.now.saturating_sub(since) >= DISMISS_GRACE
    }
}

/// Raft's configuration in plain words.
pub(super) fn configuration(membership: &Membership) -> Configuration {
    Configuration {
        voters: membership.get_joint_config().clone(),
        nodes: membership.nodes().map(|(id, address)| (*id, address.peer_urls.clone())).collect(),
    }
}

/// What is remembered between two looks.
#[derive(Default)]
pub(super) struct Reconfiguration {
    activity: Activity,
    /// Since when members that were removed have been without a vote.
    retired: BTreeMap<MemberId, Duration>,
    /// The last step, so that one that is tried again is told of once.
    tried: Option<Step>,
}

impl Inner {
    pub(super) async fn run_reconfiguration(self: Arc<Self>) {
        let mut leadership = self.leadership.clone();
        let mut table = self.reader.members_version();
        let mut caught_up: Option<Leadership> = None;
        let mut forced = self.config.force_new_cluster;
        loop {
            let now = *leadership.borrow_and_update();
            table.borrow_and_update();
            let mut pause = ACTIVITY_INTERVAL;
            if !now.is_self {
                *self.reconfiguration.lock() = Reconfiguration::default();
                tokio::select! {
                    changed = leadership.changed() => if changed.is_err() { return },
                    () = self.stop.cancelled() => return,
                }
                continue;
            }
            // Everything that earlier leaders committed must be in the table before Raft follows it.
            if caught_up != Some(now) && self.read_barrier().await.is_ok() {
                caught_up = Some(now);
            }
            if caught_up == Some(now) && forced {
                forced = self.forget_others().await.is_err();
            } else if caught_up == Some(now) && self.reconfigure().await {
                pause = RECONFIGURE_INTERVAL;
            }
            tokio::select! {
                () = sleep(pause) => {}
                changed = table.changed() => if changed.is_err() { return },
                changed = leadership.changed() => if changed.is_err() { return },
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Takes the next step, if there is one; whether more is to come.
    async fn reconfigure(&self) -> bool {
        let Some(view) = View::of(self) else { return false };
        if view.is_changing {
            return true;
        }
        let (step, is_pending) = {
            let table = self.reader.members();
            let gone: BTreeSet<MemberId> = plan::gone(&table, &view.raft).collect();
            let mut state = self.reconfiguration.lock();
            state.retired.retain(|id, _| gone.contains(id));
            gone.iter().for_each(|id| {
                state.retired.entry(*id).or_insert(view.now);
            });
            let step = plan::next(&table, &view.raft, view.me, &view);
            if let Some(step) = &step
                && state.tried.as_ref() != Some(step)
            {
                tracing::info!(%step, "changing raft's configuration");
            }
            state.tried.clone_from(&step);
            (step, plan::is_pending(&table, &view.raft))
        };
        if let Some(step) = step {
            match timeout(RECONFIGURE_TIMEOUT, self.take(step, &view)).await {
                Ok(Ok(())) => {}
                // It is tried again for as long as it is wanted.
                Ok(Err(reason)) => tracing::debug!(reason, "raft's configuration is not changed yet"),
                Err(_) => tracing::warn!("raft's configuration waits for a majority"),
            }
        }
        is_pending
    }

    async fn take(&self, step: Step, view: &View) -> Result<(), String> {
        let address = |peer_urls| Address { peer_urls };
        let changes = match step {
            Step::Settle => ChangeMembers::AddVoterIds(BTreeSet::new()),
            Step::Admit(id, urls) => ChangeMembers::AddNodes(BTreeMap::from([(id, address(urls))])),
            Step::Move(id, urls) => ChangeMembers::SetNodes(BTreeMap::from([(id, address(urls))])),
            Step::Retire(ids) => ChangeMembers::RemoveVoters(ids),
            Step::Promote(ids) => ChangeMembers::AddVoterIds(ids),
            Step::Dismiss(ids) => ChangeMembers::RemoveNodes(ids),
            Step::HandOver(staying) => {
                let active = staying.into_iter().filter(|id| view.activity.is_active(*id));
                let to = active.max_by_key(|id| view.matched.get(id)).ok_or("no voter that stays is there")?;
                return self.transfer_leadership(Some(to)).await.map_err(|error| error.to_string());
            }
        };
        let unchanged = Precondition::LastMembershipLogId { last_membership_log_id: view.configured };
        // Retired voters stay as learners for a while: so they hear of it.
        let changed = self.raft.change_membership_if(changes, true, [unchanged]).await;
        changed.map(|_| ()).map_err(|error| error.to_string())
    }
}
