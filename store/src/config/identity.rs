//! The initial cluster and the identities that follow from it: all members of a new cluster compute the same ones
//! without talking.

use std::collections::BTreeMap;

use sha1::{Digest, Sha1};

use super::ConfigError;
use super::url::{Url, strings};
use crate::ids::{ClusterId, MemberId};
use crate::member::Peer;

/// A member's place in a new cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub id: MemberId,
    pub cluster_id: ClusterId,
    /// All members, this one included.
    pub peers: BTreeMap<MemberId, Peer>,
}

/// The identities that follow from the flags of a new cluster.
///
/// # Errors
/// As [`initial_peers`].
pub fn place(name: &str, advertised: &[Url], initial_cluster: &str, token: &str) -> Result<Place, ConfigError> {
    let peers = initial_peers(name, advertised, initial_cluster)?;
    let own = peers.iter().find(|peer| peer.name == name);
    let id = member_id(own.map_or(&[], |own| own.peer_urls.as_slice()), token);
    let peers: BTreeMap<MemberId, Peer> =
        peers.into_iter().map(|peer| (member_id(&peer.peer_urls, token), peer)).collect();
    Ok(Place { id, cluster_id: cluster_id(peers.keys().copied()), peers })
}

/// The members of `initial_cluster` (`a=http://h1:2380,b=http://h2:2380`; a name may occur more than once), or this one
/// alone where it is empty.
///
/// # Errors
/// In etcd's words: when this member is not in it, or is in it with other URLs than `advertised`.
pub fn initial_peers(name: &str, advertised: &[Url], initial_cluster: &str) -> Result<Vec<Peer>, ConfigError> {
    if initial_cluster.is_empty() {
        return Ok(vec![Peer { name: name.to_owned(), peer_urls: strings(advertised) }]);
    }
    let mut by_name: BTreeMap<&str, Vec<Url>> = BTreeMap::new();
    for entry in initial_cluster.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (name, url) = entry.split_once('=').unwrap_or((entry, ""));
        let url = Url::parse(url).map_err(|error| ConfigError(format!("--initial-cluster: {error}")))?;
        by_name.entry(name).or_default().push(url);
    }
    let Some(listed) = by_name.get(name) else {
        return Err(ConfigError(format!("couldn't find local name {name:?} in the initial cluster configuration")));
    };
    advertised_as_listed(name, advertised, listed)?;
    let mut all: Vec<&Url> = by_name.values().flatten().collect();
    all.sort();
    if all.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(ConfigError(format!("initial cluster {initial_cluster} has duplicate url")));
    }
    let peer = |(name, mut urls): (&str, Vec<Url>)| {
        urls.sort();
        Peer { name: name.to_owned(), peer_urls: strings(&urls) }
    };
    Ok(by_name.into_iter().map(peer).collect())
}

fn advertised_as_listed(name: &str, advertised: &[Url], listed: &[Url]) -> Result<(), ConfigError> {
    let missing = |from: &[Url], these: &[Url]| -> Vec<String> {
        let is_missing = |url: &&Url| !from.iter().any(|other| other.is_same_endpoint(url));
        these.iter().filter(is_missing).map(Url::to_string).collect()
    };
    let only_listed = missing(advertised, listed);
    if !only_listed.is_empty() {
        let named: Vec<String> = only_listed.iter().map(|url| format!("{name}={url}")).collect();
        return Err(ConfigError(format!(
            "--initial-cluster has {} but missing from --initial-advertise-peer-urls={}",
            named.join(","),
            strings(advertised).join(",")
        )));
    }
    let only_advertised = missing(listed, advertised);
    if !only_advertised.is_empty() {
        return Err(ConfigError(format!(
            "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
            only_advertised.join(","),
            strings(listed).join(",")
        )));
    }
    Ok(())
}

/// etcd's rule: the first eight bytes of SHA-1 over the sorted peer URLs and the cluster token.
#[must_use]
pub fn member_id(sorted_peer_urls: &[String], token: &str) -> MemberId {
    let mut hash = Sha1::new();
    sorted_peer_urls.iter().for_each(|url| hash.update(url));
    hash.update(token);
    MemberId(first_u64(&hash.finalize()))
}

/// The same over the members' ids in ascending order (the token is in each of them).
#[must_use]
pub fn cluster_id(members: impl Iterator<Item = MemberId>) -> ClusterId {
    let mut hash = Sha1::new();
    members.for_each(|id| hash.update(id.0.to_be_bytes()));
    ClusterId(first_u64(&hash.finalize()))
}

fn first_u64(digest: &[u8]) -> u64 {
    u64::from_be_bytes(digest[..8].try_into().expect("a SHA-1 digest has 20 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(name: &str, advertised: &str, cluster: &str) -> Result<Vec<Peer>, String> {
        initial_peers(name, &Url::parse_list(advertised).unwrap(), cluster).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_initial_cluster_is_this_member_alone() {
        let alone = peers("a", "http://h:1", "").unwrap();
        assert_eq!(alone, [Peer { name: "a".into(), peer_urls: vec!["http://h:1".into()] }]);
    }

    #[test]
    fn a_name_may_occur_more_than_once() {
        let two = peers("a", "http://h:1,http://h:2", "a=http://h:2,b=http://h:3,a=http://h:1").unwrap();
        assert_eq!(two.len(), 2);
        assert_eq!(two[0].peer_urls, ["http://h:1", "http://h:2"]);
    }

    #[test]
    fn localhost_is_the_loopback_address() {
        assert!(peers("a", "http://127.0.0.1:1", "a=http://localhost:1").is_ok());
    }

    #[test]
    fn a_cluster_that_does_not_fit_is_refused_in_etcds_words() {
        for (name, advertised, cluster, reason) in [
            ("z", "http://h:1", "a=http://h:1", "couldn't find local name \"z\" in the initial cluster configuration"),
            (
                "a",
                "http://h:9",
                "a=http://h:1",
                "--initial-cluster has a=http://h:1 but missing from --initial-advertise-peer-urls=http://h:9",
            ),
            (
                "a",
                "http://h:1,http://h:9",
                "a=http://h:1",
                "--initial-advertise-peer-urls has http://h:9 but missing from --initial-cluster=http://h:1",
            ),
            (
                "a",
                "http://h:1",
                "a=http://h:1,b=http://h:1",
                "initial cluster a=http://h:1,b=http://h:1 has duplicate url",
            ),
            ("a", "http://h:1", "a", "--initial-cluster: URL scheme must be http, https, unix, or unixs: "),
        ] {
            assert_eq!(peers(name, advertised, cluster).unwrap_err(), reason);
        }
    }

    /// As etcd 3.4 and later log them for the same flags.
    #[test]
    fn ids_are_etcds() {
        assert_eq!(member_id(&["http://localhost:2380".to_owned()], "etcd-cluster").to_string(), "8e9e05c52164694d");
        let alone = [MemberId(0x8e9e_05c5_2164_694d)];
        assert_eq!(cluster_id(alone.into_iter()).to_string(), "cdf818194e3a8c32");
    }
}
