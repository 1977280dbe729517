//! From etcd's bootstrap settings to a member: URLs, identities, and the checks that name the flag at fault.
//!
//! Pure: strings in, [`MemberConfig`] and listen addresses out. The program reads flags and environment; host names are
//! resolved by the `resolve` function that the caller passes.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use sha1::{Digest, Sha1};

use crate::ids::{ClusterId, MemberId};
use crate::member::{MemberConfig, Peer, Timing};

/// etcd's flags as strings; the field names are the flag names.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    pub name: String,
    pub data_dir: PathBuf,
    pub listen_peer_urls: String,
    pub listen_client_urls: String,
    pub initial_advertise_peer_urls: String,
    pub advertise_client_urls: String,
    /// `a=http://h1:2380,b=http://h2:2380`; a name may occur more than once. Empty: this member alone.
    pub initial_cluster: String,
    pub initial_cluster_state: String,
    pub initial_cluster_token: String,
    pub fsync: bool,
}

/// A setting that cannot be used, with the flag that brought it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{flag}: {reason}")]
pub struct ConfigError {
    pub flag: &'static str,
    pub reason: String,
}

/// A member that can be started, and where its clients are served.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    pub member: MemberConfig,
    pub client_listen: Vec<SocketAddr>,
}

/// An `http://host:port` of a client or peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    host: String,
    port: u16,
}

impl Url {
    /// # Errors
    /// When the scheme is not `http`, or host or port is missing.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(format!("{text:?} is not a URL: expected http://host:port"));
        };
        match scheme {
            "http" => {}
            "https" => return Err(format!("{text:?}: TLS is not supported yet; use http://")),
            "unix" | "unixs" => return Err(format!("{text:?}: unix sockets are not supported yet; use http://")),
            other => return Err(format!("{text:?}: unknown scheme {other:?}; expected http://host:port")),
        }
        let rest = rest.trim_end_matches('/');
        if rest.contains('/') {
            return Err(format!("{text:?}: a path is not allowed here"));
        }
        let Some((host, port)) = rest.rsplit_once(':') else {
            return Err(format!("{text:?}: the port is missing"));
        };
        let port = port.parse().map_err(|_| format!("{text:?}: {port:?} is not a port"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(format!("{text:?}: the host is missing"));
        }
        Ok(Self { host: host.to_owned(), port })
    }

    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "http://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "http://{}:{}", self.host, self.port)
        }
    }
}

impl Bootstrap {
    /// Checks everything and computes the identities.
    ///
    /// # Errors
    /// Names the first flag that cannot be used.
    pub fn resolve(
        &self,
        resolve: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>>,
    ) -> Result<StoreConfig, ConfigError> {
        match self.initial_cluster_state.as_str() {
            "new" => {}
            "existing" => {
                let reason = "joining an existing cluster is not supported yet".to_owned();
                return Err(ConfigError { flag: "initial-cluster-state", reason });
            }
            other => {
                let reason = format!("{other:?} is neither \"new\" nor \"existing\"");
                return Err(ConfigError { flag: "initial-cluster-state", reason });
            }
        }
        let advertised = urls("initial-advertise-peer-urls", &self.initial_advertise_peer_urls)?;
        let peers = self.peers(&advertised)?;
        let client_urls = urls("advertise-client-urls", &self.advertise_client_urls)?;
        let token = &self.initial_cluster_token;
        let members: BTreeMap<MemberId, Peer> =
            peers.into_iter().map(|peer| (member_id(&peer.peer_urls, token), peer)).collect();
        let member = MemberConfig {
            id: member_id(&strings(&advertised), token),
            cluster_id: cluster_id(members.keys().copied(), token),
            name: self.name.clone(),
            data_dir: self.data_dir.clone(),
            peers: members,
            peer_listen: addresses("listen-peer-urls", &self.listen_peer_urls, &resolve)?,
            client_urls: strings(&client_urls),
            timing: Timing::default(),
            fsync: self.fsync,
            maintenance: crate::maintenance::MaintenanceOptions::default(),
        };
        let client_listen = addresses("listen-client-urls", &self.listen_client_urls, &resolve)?;
        Ok(StoreConfig { member, client_listen })
    }

    fn peers(&self, advertised: &[Url]) -> Result<Vec<Peer>, ConfigError> {
        let flag = "initial-cluster";
        let own = Peer { name: self.name.clone(), peer_urls: strings(advertised) };
        if self.initial_cluster.is_empty() {
            return Ok(vec![own]);
        }
        let mut by_name: BTreeMap<&str, Vec<Url>> = BTreeMap::new();
        for entry in self.initial_cluster.split(',') {
            let Some((name, url)) = entry.trim().split_once('=') else {
                return Err(ConfigError { flag, reason: format!("{entry:?} is not name=url") });
            };
            let url = Url::parse(url).map_err(|reason| ConfigError { flag, reason })?;
            by_name.entry(name).or_default().push(url);
        }
        let Some(listed) = by_name.get_mut(self.name.as_str()) else {
            let reason = format!("this member's name {:?} (--name) is not in it", self.name);
            return Err(ConfigError { flag, reason });
        };
        listed.sort();
        if *listed != advertised {
            let listed = strings(listed).join(",");
            let reason = format!("{:?} has {listed}, but --initial-advertise-peer-urls is different", self.name);
            return Err(ConfigError { flag, reason });
        }
        let mut seen = BTreeMap::new();
        for (name, url) in by_name.iter().flat_map(|(name, urls)| urls.iter().map(move |url| (name, url))) {
            if let Some(other) = seen.insert(url.clone(), name) {
                return Err(ConfigError { flag, reason: format!("{url} belongs to both {other:?} and {name:?}") });
            }
        }
        let peer = |(name, mut urls): (&str, Vec<Url>)| {
            urls.sort();
            Peer { name: name.to_owned(), peer_urls: strings(&urls) }
        };
        Ok(by_name.into_iter().map(peer).collect())
    }
}

fn strings(urls: &[Url]) -> Vec<String> {
    urls.iter().map(Url::to_string).collect()
}

/// A comma-separated list of URLs, sorted.
fn urls(flag: &'static str, list: &str) -> Result<Vec<Url>, ConfigError> {
    let parsed: Result<Vec<Url>, String> = list.split(',').map(|text| Url::parse(text.trim())).collect();
    let mut urls = parsed.map_err(|reason| ConfigError { flag, reason })?;
    urls.sort();
    Ok(urls)
}

fn addresses(
    flag: &'static str,
    list: &str,
    resolve: &impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>>,
) -> Result<Vec<SocketAddr>, ConfigError> {
    let mut all = Vec::new();
    for url in urls(flag, list)? {
        let found = resolve(url.host(), url.port())
            .map_err(|error| ConfigError { flag, reason: format!("cannot resolve {url}: {error}") })?;
        // `localhost` may name both loopback addresses; one listener is what the URL asks for.
        let first = found.first().ok_or_else(|| ConfigError { flag, reason: format!("{url} has no address") })?;
        all.push(*first);
    }
    Ok(all)
}

/// etcd's rule: the first eight bytes of SHA-1 over the sorted peer URLs and the cluster token. All members of a
/// bootstrapping cluster compute the same ids without talking.
#[must_use]
pub fn member_id(sorted_peer_urls: &[String], token: &str) -> MemberId {
    let mut hash = Sha1::new();
    sorted_peer_urls.iter().for_each(|url| hash.update(url));
    hash.update(token);
    MemberId(first_u64(&hash.finalize()))
}

/// The same over the members' ids in ascending order (the token is already in each of them).
fn cluster_id(members: impl Iterator<Item = MemberId>, _token: &str) -> ClusterId {
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

    fn three() -> Bootstrap {
        Bootstrap {
            name: "b".into(),
            data_dir: "b.etcd".into(),
            listen_peer_urls: "http://127.0.0.1:2381".into(),
            listen_client_urls: "http://127.0.0.1:2379".into(),
            initial_advertise_peer_urls: "http://127.0.0.1:2381".into(),
            advertise_client_urls: "http://127.0.0.1:2379".into(),
            initial_cluster: "a=http://127.0.0.1:2380,b=http://127.0.0.1:2381,c=http://127.0.0.1:2382".into(),
            initial_cluster_state: "new".into(),
            initial_cluster_token: "etcd-cluster".into(),
            fsync: true,
        }
    }

    fn literal(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let ip = host.parse().map_err(|_| io::Error::other("not an address"))?;
        Ok(vec![SocketAddr::new(ip, port)])
    }

    fn refused(change: impl Fn(&mut Bootstrap)) -> String {
        let mut bootstrap = three();
        change(&mut bootstrap);
        bootstrap.resolve(literal).unwrap_err().to_string()
    }

    #[test]
    fn all_members_compute_the_same_identities() {
        let one = three().resolve(literal).unwrap().member;
        let mut other = three();
        other.name = "c".into();
        other.initial_advertise_peer_urls = "http://127.0.0.1:2382".into();
        let other = other.resolve(literal).unwrap().member;
        assert_eq!(one.cluster_id, other.cluster_id);
        assert_eq!(one.peers, other.peers);
        assert_ne!(one.id, other.id);
        assert!(one.peers.contains_key(&one.id) && one.peers.contains_key(&other.id));
    }

    #[test]
    fn another_token_makes_another_cluster() {
        let mut other = three();
        other.initial_cluster_token = "other".into();
        let (one, other) = (three().resolve(literal).unwrap(), other.resolve(literal).unwrap());
        assert_ne!(one.member.cluster_id, other.member.cluster_id);
        assert_ne!(one.member.id, other.member.id);
    }

    #[test]
    fn an_empty_initial_cluster_is_this_member_alone() {
        let mut alone = three();
        alone.initial_cluster = String::new();
        let config = alone.resolve(literal).unwrap().member;
        assert_eq!(config.peers.keys().collect::<Vec<_>>(), [&config.id]);
    }

    #[test]
    fn a_bad_setting_is_refused_by_the_name_of_its_flag() {
        let check = |change: fn(&mut Bootstrap), text: &str| {
            let message = refused(change);
            assert!(message.contains(text), "{message:?} does not contain {text:?}");
        };
        check(|b| b.name = "z".into(), "--initial-cluster: this member's name \"z\"");
        check(
            |b| b.listen_client_urls = "127.0.0.1:2379".into(),
            "--listen-client-urls: \"127.0.0.1:2379\" is not a URL",
        );
        check(|b| b.listen_peer_urls = "https://127.0.0.1:1".into(), "--listen-peer-urls");
        check(|b| b.advertise_client_urls = "http://127.0.0.1".into(), "the port is missing");
        check(|b| b.initial_cluster_state = "old".into(), "--initial-cluster-state: \"old\"");
        check(
            |b| b.initial_advertise_peer_urls = "http://127.0.0.1:9".into(),
            "--initial-advertise-peer-urls is different",
        );
        check(|b| b.initial_cluster.push_str(",d=http://127.0.0.1:2380"), "belongs to both \"a\" and \"d\"");
    }
}
