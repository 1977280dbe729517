//! Who the members are and where they are reached, for when the state cannot be asked: kept on this disk, and looked up
//! among the others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::inner::Inner;
use super::{MemberConfig, Peer};
use crate::consensus::codec;
use crate::ids::MemberId;
use crate::io::network::Network;
use crate::io::peer::Kind;
use crate::io::peer::client::visit;
use crate::io::roster;
use crate::limits::IS_KNOWN_TIMEOUT;
use crate::membership::join::{Listed, Roster};

pub(super) fn peers(roster: Roster) -> BTreeMap<MemberId, Peer> {
    let peer = |Listed { id, name, peer_urls }| (id, Peer { name, peer_urls });
    roster.members.into_iter().map(peer).collect()
}

/// The members as this disk knows them; none where it does not know, or knows another cluster's.
pub(super) async fn remembered(config: &MemberConfig) -> Option<BTreeMap<MemberId, Peer>> {
    let dir = directory(config);
    let loaded = spawn_blocking(move || roster::load(&dir)).await.expect("reading does not panic");
    let roster = loaded.unwrap_or_else(|error| {
        tracing::warn!(%error, "the members are taken from the settings");
        None
    });
    roster.filter(|roster| roster.cluster == config.cluster_id).map(peers)
}

/// How whoever listens at one of `urls` describes this cluster: everybody is asked, because some may be long gone.
pub(super) async fn look_up(
    config: &MemberConfig,
    urls: BTreeSet<&String>,
    network: &dyn Network,
) -> Option<BTreeMap<MemberId, Peer>> {
    let visits = urls.into_iter().map(|url| visit(network, url, Kind::Roster, 4 * IS_KNOWN_TIMEOUT));
    let answers = futures::future::join_all(visits).await.into_iter().flatten();
    let mut rosters = answers.filter_map(|answer| codec::decode::<Roster>(&answer).ok());
    rosters.find(|roster| roster.cluster == config.cluster_id && !roster.members.is_empty()).map(peers)
}

fn directory(config: &MemberConfig) -> PathBuf {
    config.data_dir.join("member")
}

impl Inner {
    /// The table of members as it is here now.
    pub(super) fn known_roster(&self) -> Roster {
        let table = self.reader.members();
        let members = table.iter().map(|(id, member)| Listed {
            id,
            name: member.name.clone(),
            peer_urls: member.peer_ur_ls.clone(),
        });
        Roster { cluster: self.config.cluster_id, members: members.collect() }
    }

    /// Writes down who the members are, whenever that changes.
    pub(super) async fn keep_roster(self: Arc<Self>) {
        let mut table = self.reader.members_version();
        let mut kept = None;
        loop {
            table.borrow_and_update();
            let roster = self.known_roster();
            if !roster.members.is_empty() && kept.as_ref() != Some(&roster) {
                let (dir, saved) = (directory(&self.config), roster.clone());
                match spawn_blocking(move || roster::save(&dir, &saved)).await.map_err(std::io::Error::other).flatten()
                {
                    Ok(()) => kept = Some(roster),
                    // The next start writes it, or asks the others.
                    Err(error) => tracing::warn!(%error, "the members could not be written down"),
                }
            }
            tokio::select! {
                changed = table.changed() => if changed.is_err() { return },
                () = self.stop.cancelled() => return,
            }
        }
    }
}
