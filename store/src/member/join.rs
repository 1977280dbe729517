//! Who this member is: what its data says, else what the cluster it joins says, else what its settings say.

use std::sync::Arc;

use tokio::time::{Instant, sleep, timeout_at};

use super::roster::{peers, remembered};
use super::{MemberConfig, StartError};
use crate::consensus::codec;
use crate::ids::{ClusterId, MemberId};
use crate::io::disk::LocalDisk;
use crate::io::network::{Network, resolve};
use crate::io::peer::Kind;
use crate::io::peer::client::visit;
use crate::io::wal;
use crate::limits::{IS_KNOWN_TIMEOUT, JOIN_PAUSE, JOIN_RESOLVE_PAUSE, JOIN_RESOLVE_TIME, JOIN_TIMEOUT};
use crate::membership::join::{Addresses, JoinError, Roster, find, host_names};

/// How a member without a log comes to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// It makes a new cluster, with the others of the initial cluster.
    Initialise,
    /// The leader sends it everything.
    Join,
}

/// Settles `config.id`, `config.cluster_id` and `config.peers`.
pub(super) async fn identify(config: &mut MemberConfig, network: Arc<dyn Network>) -> Result<Beginning, StartError> {
    let dir = config.log_dir();
    let at = dir.clone();
    let owner = tokio::task::spawn_blocking(move || wal::owner(&LocalDisk, &at)).await.expect("reading does not panic");
    let owner = owner.map_err(|error| StartError::Data { dir, reason: error.to_string() })?;
    if let Some(owner) = owner {
        let (id, cluster) = (MemberId(owner.member), ClusterId(owner.cluster));
        let as_configured = (id, cluster) == (config.id, config.cluster_id) && !config.existing;
        // Settings of the first start, or of another time: the data knows better.
        (config.id, config.cluster_id) = (id, cluster);
        if let Some(peers) = remembered(config).await {
            config.peers = peers;
        }
        return Ok(if as_configured { Beginning::Initialise } else { Beginning::Join });
    }
    if !config.existing {
        return Ok(Beginning::Initialise);
    }
    let roster = roster(config, &*network).await?;
    let listed: Vec<Vec<String>> = config.peers.values().map(|peer| peer.peer_urls.clone()).collect();
    let own = config.peers.get(&config.id).map(|peer| peer.peer_urls.clone()).unwrap_or_default();
    config.id = find_resolving(&roster, &listed, &own)
        .await
        .map_err(|error| StartError::Config(format!("joining cluster {}: {error}", roster.cluster)))?;
    config.cluster_id = roster.cluster;
    config.peers = peers(roster);
    tracing::info!(member_id = %config.id, cluster_id = %config.cluster_id, "joining an existing cluster");
    Ok(Beginning::Join)
}

/// [`find`]; host names are resolved where the texts alone do not match.
async fn find_resolving(
    roster: &Roster,
    initial_cluster: &[Vec<String>],
    own: &[String],
) -> Result<MemberId, JoinError> {
    let deadline = Instant::now() + JOIN_RESOLVE_TIME;
    let (mut names, mut known) = (host_names(roster, initial_cluster), Addresses::new());
    loop {
        let mismatch = match find(roster, initial_cluster, own, &known) {
            Err(mismatch @ JoinError::Unmatched(..)) if !names.is_empty() => mismatch,
            found => return found,
        };
        let mut reasons = Vec::new();
        for name in std::mem::take(&mut names) {
            let reason = match timeout_at(deadline, resolve(&name)).await {
                Ok(Ok(addresses)) => {
                    known.insert(name, addresses);
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(elapsed) => elapsed.to_string(),
            };
            reasons.push(format!("{name} ({reason})"));
            names.insert(name);
        }
        if names.is_empty() {
            continue;
        }
        if Instant::now() >= deadline {
            return Err(JoinError::Unresolved(Box::new(mismatch), reasons));
        }
        tracing::warn!(names = reasons.join(", "), "host names of peer URLs are not resolved yet");
        sleep(JOIN_RESOLVE_PAUSE).await;
    }
}

/// Asks the others until one answers.
async fn roster(config: &MemberConfig, network: &dyn Network) -> Result<Roster, StartError> {
    let others = config.peers.iter().filter(|(id, _)| **id != config.id);
    let urls: Vec<&String> = others.flat_map(|(_, peer)| &peer.peer_urls).collect();
    let deadline = Instant::now() + JOIN_TIMEOUT;
    loop {
        let mut reason = "--initial-cluster names no other member".to_owned();
        for url in &urls {
            let answer =
                visit(network, url, Kind::Roster, 4 * IS_KNOWN_TIMEOUT).await.map_err(|error| error.to_string());
            match answer.and_then(|answer| codec::decode(&answer).map_err(|error| error.to_string())) {
                Ok(roster) => return Ok(roster),
                Err(error) => reason = format!("{url}: {error}"),
            }
        }
        if urls.is_empty() || Instant::now() >= deadline {
            return Err(StartError::Config(format!("cannot fetch cluster info from peer urls: {reason}")));
        }
        sleep(JOIN_PAUSE).await;
    }
}
