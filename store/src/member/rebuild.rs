//! Getting a new state from another member: at the start, when the own one cannot be used, and beside a running Raft,
//! when a comparison found that it differs.
//!
//! Log and vote stay: what this member has promised, it keeps. Only the state, which is nothing but what the log says, is
//! thrown away and fetched.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::inner::Inner;
use super::maintain::pause;
use super::roster::look_up;
use super::start::{Opened, Recovered, open};
use super::{MemberConfig, Peer, StartError};
use crate::consensus::types::Address;
use crate::error::StoreError;
use crate::ids::MemberId;
use crate::io::checkpoint::Checkpoints;
use crate::io::engine;
use crate::io::network::Network;
use crate::io::peer::Lane;
use crate::io::peer::client::Clients;
use crate::io::peer::fetch::fetch;
use crate::limits::{REBUILD_PAUSE, SNAPSHOT_CALL_TIMEOUT};
use crate::metrics::Metrics;

/// Opens log and state; a state that cannot be used is replaced by another member's, however long that takes.
pub(super) async fn recover(
    config: &MemberConfig,
    others: &Others,
    metrics: &Metrics,
) -> Result<Recovered, StartError> {
    let mut said = None;
    loop {
        let (reason, checkpoints) = match open(config, metrics).await? {
            Opened::Whole(recovered) => return Ok(*recovered),
            Opened::Damaged { reason, checkpoints } => (reason, checkpoints),
        };
        if said.replace(reason.clone()).as_ref() != Some(&reason) {
            tracing::error!(reason, "the state is damaged; it is rebuilt from another member");
        }
        match fetch_from_any(config, others, &checkpoints, metrics).await {
            Ok(()) => tracing::info!("the state was fetched from another member"),
            Err(_) if others.clients.removed().is_cancelled() => return Err(StartError::Removed(config.id)),
            Err(error) => {
                tracing::warn!(error, "no other member can give a copy of the state yet");
                tokio::time::sleep(REBUILD_PAUSE).await;
            }
        }
    }
}

/// Whom a member may ask before it runs.
pub(super) struct Others {
    /// The addresses that the settings name.
    pub(super) seeds: Vec<String>,
    pub(super) network: Arc<dyn Network>,
    pub(super) clients: Arc<Clients>,
}

impl Others {
    /// As any of them describes the cluster now, else as this member remembers it.
    async fn members(&self, config: &MemberConfig) -> BTreeMap<MemberId, Peer> {
        let remembered = config.peers.iter().filter(|(id, _)| **id != config.id).flat_map(|(_, peer)| &peer.peer_urls);
        let urls = remembered.chain(&self.seeds).collect();
        let found = look_up(config, urls, &*self.network).await;
        found.unwrap_or_else(|| config.peers.clone())
    }
}

/// The leader's copy, or, where nobody says that it leads, anyone's: every state is a beginning of what is committed.
async fn fetch_from_any(
    config: &MemberConfig,
    others: &Others,
    checkpoints: &Checkpoints,
    metrics: &Metrics,
) -> Result<(), String> {
    let members = others.members(config).await;
    let mut failures = Vec::new();
    for only_leader in [true, false] {
        for (id, peer) in members.iter().filter(|(id, _)| **id != config.id) {
            let client = others.clients.get(*id, &Address { peer_urls: peer.peer_urls.clone() }, Lane::Bulk);
            match fetch(&client, checkpoints, &metrics.snapshots, only_leader).await {
                Ok((dir, applied)) => {
                    tracing::info!(member = %id, %applied, "a copy of the state has arrived");
                    let state_dir = config.data_dir.join("member").join("state");
                    return adopt(&state_dir, dir.path()).await.map_err(|error| error.to_string());
                }
                Err(error) => failures.push(format!("{}: {error}", peer.name)),
            }
        }
    }
    Err(failures.join("; "))
}

async fn adopt(state_dir: &Path, copy: &Path) -> std::io::Result<()> {
    let (state_dir, copy) = (state_dir.to_owned(), copy.to_owned());
    tokio::task::spawn_blocking(move || engine::adopt(&state_dir, &copy)).await.map_err(std::io::Error::other)?
}

impl Inner {
    /// Rebuilds this member whenever it is quarantined.
    pub(super) async fn run_rebuilds(self: Arc<Self>) {
        let mut version = self.reader.agreed_version();
        loop {
            version.mark_unchanged();
            if self.reader.agreed().alarms.quarantines(self.config.id) {
                tracing::error!("this member's contents differ from the others': it stops serving and is rebuilt");
                if !self.rebuild_until_done().await {
                    return;
                }
                continue;
            }
            tokio::select! {
                changed = version.changed() => if changed.is_err() { return },
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// False when the member stops.
    async fn rebuild_until_done(self: &Arc<Self>) -> bool {
        loop {
            match self.rebuild().await {
                Ok(()) => break,
                Err(error) => tracing::warn!(error, "this member is not rebuilt yet"),
            }
            if !pause(self, REBUILD_PAUSE).await {
                return false;
            }
        }
        while !self.quarantine(self.config.id, false).await {
            if !pause(self, REBUILD_PAUSE).await {
                return false;
            }
        }
        tracing::info!("this member was rebuilt and serves again");
        true
    }

    async fn rebuild(self: &Arc<Self>) -> Result<(), String> {
        let leader = self.leader().ok_or("nobody leads")?;
        if leader.is_self {
            // Whoever differs must not be the one whose copy the others get.
            self.transfer_leadership(None).await.map_err(|error: StoreError| error.to_string())?;
            return Err("leadership was handed over first".to_owned());
        }
        let client = self.client(leader.member, Lane::Bulk).ok_or("the leader is not known")?;
        let fetched = tokio::select! {
            fetched = fetch(&client, &self.maintained.checkpoints, &self.metrics.snapshots, true) => fetched,
            () = self.stop.cancelled() => return Err("stopping".to_owned()),
        };
        let (dir, upto) = fetched.map_err(|error| error.to_string())?;
        let mut progress = self.progress.clone();
        let reached = progress.wait_for(|progress| progress.next > upto.0);
        let deadline = Instant::now() + SNAPSHOT_CALL_TIMEOUT.max(Duration::from_secs(1));
        tokio::time::timeout_at(deadline, reached)
            .await
            .map_err(|_| format!("this member does not come to entry {upto}"))?
            .map_err(|_| "stopping".to_owned())?;
        let rebuilt = self.maintained.rebuilder.rebuild(self.log.clone(), dir, upto).await;
        let applied = rebuilt.map_err(|error| error.to_string())?;
        tracing::info!(member = %leader.member, copied = %upto, %applied, "the state was replaced by the leader's");
        Ok(())
    }
}
