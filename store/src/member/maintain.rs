//! What looks after a running member, and the handle's questions about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kontiki_api::etcdserverpb as pb;

use tokio::sync::watch;

use super::Member;
use super::inner::Inner;
use crate::consensus::rebuild::Rebuilder;
use crate::error::StoreError;
use crate::ids::{MemberId, Revision};
use crate::io::checkpoint::Checkpoints;
use crate::io::peer::fetch::Outgoing;
use crate::limits::DEFRAGMENT_WAIT;
use crate::maintenance::alarms::Alarm;
use crate::maintenance::quota::Quota;
use crate::state::agreed::Agreed;
use crate::state::{Reader, State};

/// The parts of a member that maintenance needs.
pub(super) struct Maintained {
    pub(super) quota: Quota,
    /// An alarm of this member is on its way.
    pub(super) raising: AtomicBool,
    /// A comparison found that this member differs: it serves nothing until it is rebuilt.
    pub(super) quarantined: watch::Sender<bool>,
    /// The database is giving space back.
    pub(super) reclaiming: AtomicBool,
    pub(super) fetches: Outgoing,
    pub(super) checkpoints: Checkpoints,
    pub(super) rebuilder: Rebuilder<State>,
}

impl Maintained {
    pub(super) fn new(
        (member, quota_setting): (MemberId, i64),
        reader: &Reader,
        checkpoints: Checkpoints,
        rebuilder: Rebuilder<State>,
    ) -> Self {
        if quota_setting > crate::limits::QUOTA_BYTES_SUGGESTED {
            tracing::warn!(quota_bytes = quota_setting, "quota exceeds the maximum value that etcd suggests");
        }
        Self {
            quota: Quota::of(quota_setting),
            raising: AtomicBool::new(false),
            quarantined: watch::Sender::new(reader.agreed().alarms.quarantines(member)),
            reclaiming: AtomicBool::new(false),
            fetches: Outgoing::new(checkpoints.clone()),
            checkpoints,
            rebuilder,
        }
    }
}

/// Starts everything that runs beside a member for its maintenance.
pub(super) fn run(inner: &Arc<Inner>) {
    let tasks = &inner.tasks;
    tasks.spawn(inner.clone().follow_agreed());
    tasks.spawn(inner.clone().run_rebuilds());
    tasks.spawn(inner.clone().watch_space());
    tasks.spawn(inner.clone().run_checks());
    tasks.spawn(inner.clone().run_versions());
    tasks.spawn(inner.clone().run_auto_compaction());
}

impl Inner {
    /// Says what changed among the alarms and versions, and keeps what is asked without a lock.
    async fn follow_agreed(self: Arc<Self>) {
        let mut version = self.reader.agreed_version();
        let mut known = self.reader.agreed();
        loop {
            tokio::select! {
                changed = version.changed() => if changed.is_err() { return },
                () = self.stop.cancelled() => return,
            }
            let now = self.reader.agreed();
            self.maintained.quarantined.send_replace(now.alarms.quarantines(self.config.id));
            report(&known, &now);
            known = now;
        }
    }

    pub(super) fn is_quarantined(&self) -> bool {
        *self.maintained.quarantined.borrow()
    }

    /// Waits for the compaction under way and has the database give space back, beside everything else.
    async fn defragment(self: &Arc<Self>) {
        let floor = self.reader.compact_revision();
        let compacted = self.reader.compacted_physically(floor);
        if tokio::time::timeout(DEFRAGMENT_WAIT, compacted).await.is_err() {
            tracing::info!(compact_revision = %floor, "the compaction under way goes on after the defragmentation");
        }
        if self.maintained.reclaiming.swap(true, Ordering::AcqRel) {
            return;
        }
        let inner = self.clone();
        self.tasks.spawn(async move {
            let (storage, stop) = (inner.storage.clone(), inner.stop.clone());
            let reclaimed = tokio::task::spawn_blocking(move || storage.reclaim(&|| stop.is_cancelled()));
            match reclaimed.await.map_err(std::io::Error::other).flatten() {
                Ok(()) => tracing::info!("finished defragmenting"),
                Err(error) => tracing::warn!(%error, "the database did not give its space back"),
            }
            inner.maintained.reclaiming.store(false, Ordering::Release);
        });
    }
}

fn report(known: &Agreed, now: &Agreed) {
    let all = |agreed: &Agreed| agreed.alarms.matching(pb::AlarmType::None as i32, MemberId(0));
    let (before, after) = (all(known), all(now));
    let name = |alarm: &Alarm| alarm.to_message().alarm().as_str_name();
    for alarm in after.iter().filter(|alarm| !before.contains(alarm)) {
        tracing::warn!(alarm = name(alarm), member = %alarm.member, "alarm raised");
    }
    for alarm in before.iter().filter(|alarm| !after.contains(alarm)) {
        tracing::info!(alarm = name(alarm), member = %alarm.member, "alarm disarmed");
    }
    if let Some(to) = now.cluster_version.filter(|_| known.cluster_version != now.cluster_version) {
        let from = known.cluster_version.map_or_else(|| "not_decided".to_owned(), |from| from.to_string());
        tracing::info!(from, to = %to, "updated cluster version");
        if now.downgrade == Some(to) {
            tracing::info!(target_version = %to, "The server is ready to downgrade");
        }
    }
}

impl Member {
    /// What the cluster has agreed on beside its keys: alarms, its version, a downgrade.
    #[must_use]
    pub fn agreed(&self) -> Agreed {
        self.inner.reader.agreed()
    }

    /// All alarms that are raised, as this member knows them.
    #[must_use]
    pub fn alarms(&self) -> Vec<pb::AlarmMember> {
        let alarms = self.agreed().alarms.matching(pb::AlarmType::None as i32, MemberId(0));
        alarms.into_iter().map(Alarm::to_message).collect()
    }

    /// Whether this member must not serve because its contents differ from the others'.
    #[must_use]
    pub fn is_quarantined(&self) -> bool {
        self.inner.is_quarantined()
    }

    /// The same, to be followed.
    #[must_use]
    pub fn quarantine(&self) -> watch::Receiver<bool> {
        self.inner.maintained.quarantined.subscribe()
    }

    /// The cluster's version, as `3.6.0`; none until it is decided.
    #[must_use]
    pub fn cluster_version(&self) -> Option<String> {
        self.agreed().cluster_version.map(|version| version.to_string())
    }

    /// The quota as it was set; the default where it was not.
    #[must_use]
    pub fn quota_bytes(&self) -> i64 {
        match self.inner.config.maintenance.quota_backend_bytes {
            0 => i64::try_from(crate::limits::QUOTA_BYTES).unwrap_or(i64::MAX),
            set => set,
        }
    }

    /// Has the database give back what compaction has freed; nothing waits but the caller.
    pub async fn defragment(&self) {
        self.inner.defragment().await;
    }

    /// A digest of the contents at a revision (0: now), made beside everything else.
    ///
    /// # Errors
    /// `Compacted`, `FutureRevision`.
    pub async fn hash_kv(&self, revision: Revision) -> Result<pb::HashKvResponse, StoreError> {
        let reader = self.inner.reader.clone();
        blocking(move || reader.hash_kv(revision)).await
    }

    /// A digest of everything that is replicated.
    ///
    /// # Errors
    /// `Compacted` when compaction overtakes it again and again.
    pub async fn hash(&self) -> Result<u32, StoreError> {
        let reader = self.inner.reader.clone();
        blocking(move || reader.hash()).await
    }

    /// Moves leadership to `to` and waits for it as long as a request may take.
    ///
    /// # Errors
    /// `NotLeader`, `BadLeaderTransferee`, or `Timeout` when `to` does not lead in time.
    pub async fn move_leader(&self, to: MemberId) -> Result<(), StoreError> {
        let inner = &self.inner;
        let deadline = inner.deadline();
        // It may have been told and not be ready yet: what counts is whether it leads in the end.
        match inner.transfer_leadership(Some(to)).await {
            Ok(()) | Err(StoreError::Timeout) => {}
            Err(error) => return Err(error),
        }
        let mut leadership = inner.leadership.clone();
        let moved = leadership.wait_for(|now| now.leader == Some(to));
        match tokio::time::timeout_at(deadline, moved).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(StoreError::Stopped),
            Err(_) => Err(StoreError::Timeout),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    // Fails only when the runtime is on its way down.
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(StoreError::Stopped))
}

/// A pause that ends early, with false, when the member stops.
pub(super) async fn pause(inner: &Inner, length: Duration) -> bool {
    tokio::select! {
        () = tokio::time::sleep(length) => true,
        () = inner.stop.cancelled() => false,
    }
}
