//! How a new member finds itself in an existing cluster: by its peer URLs, in what the others say.
//!
//! A URL with a name and one with the name's address are the same, as far as addresses of names are known.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, MemberId};

/// A cluster as one of its members describes it to somebody who wants to join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    pub cluster: ClusterId,
    pub members: Vec<Listed>,
}

/// One member of a [`Roster`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub id: MemberId,
    /// Empty until the member has joined.
    pub name: String,
    pub peer_urls: Vec<String>,
}

/// Why a member cannot join; etcd's words where it has some.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    #[error("member count is unequal: the cluster has {cluster} members, --initial-cluster {flag}")]
    Count { cluster: usize, flag: usize },
    #[error("PeerURLs: no match found for existing member ({0}, {urls})", urls = .1.join(","))]
    Unmatched(MemberId, Vec<String>),
    /// The lists differ as texts, and what the names in them stand for is not known.
    #[error("{0}; host names that cannot be resolved: {reasons}", reasons = .1.join(", "))]
    Unresolved(Box<JoinError>, Vec<String>),
    /// It lost its data directory: it would vote again where it has voted.
    #[error(
        "member {0} has already been bootstrapped, but its data directory is empty: remove it from the cluster and add \
         it again as a new member"
    )]
    JoinedBefore(MemberId),
}

/// The addresses of host names.
pub type Addresses = BTreeMap<String, BTreeSet<IpAddr>>;

/// The host names in all URLs that [`find`] compares.
#[must_use]
pub fn host_names(roster: &Roster, initial_cluster: &[Vec<String>]) -> BTreeSet<String> {
    let listed = roster.members.iter().map(|member| &member.peer_urls);
    let urls = listed.chain(initial_cluster).flatten();
    urls.filter_map(|url| Some(Place::of(url)?.host)).filter(|host| host.parse::<IpAddr>().is_err()).collect()
}

/// Where a URL leads.
#[derive(PartialEq, Eq)]
struct Place {
    scheme: String,
    host: String,
    port: String,
}

impl Place {
    fn of(url: &str) -> Option<Self> {
        let (scheme, rest) = url.trim_end_matches('/').split_once("://")?;
        let (host, port) = rest.rsplit_once(':').filter(|_| matches!(scheme, "http" | "https"))?;
        let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
        Some(Self { scheme: scheme.to_owned(), host, port: port.to_owned() })
    }

    fn addresses(&self, known: &Addresses) -> BTreeSet<IpAddr> {
        match self.host.parse() {
            Ok(address) => BTreeSet::from([address]),
            Err(_) => known.get(&self.host).cloned().unwrap_or_default(),
        }
    }
}

fn is_same(one: &str, other: &str, known: &Addresses) -> bool {
    match (Place::of(one), Place::of(other)) {
        (Some(one), Some(other)) => {
            let together = || !one.addresses(known).is_disjoint(&other.addresses(known));
            (&one.scheme, &one.port) == (&other.scheme, &other.port) && (one.host == other.host || together())
        }
        _ => one == other,
    }
}

/// Whether both lists lead to the same places, in any order.
fn are_same(some: &[String], others: &[String], known: &Addresses) -> bool {
    let holds = |urls: &[String], wanted: &String| urls.iter().any(|url| is_same(url, wanted, known));
    some.iter().all(|url| holds(others, url)) && others.iter().all(|url| holds(some, url))
}

/// Which member of the cluster the one with `own` peer URLs is, given all URLs of its `initial-cluster`.
///
/// # Errors
/// When both lists are not about the same members.
pub fn find(
    roster: &Roster,
    initial_cluster: &[Vec<String>],
    own: &[String],
    known: &Addresses,
) -> Result<MemberId, JoinError> {
    if roster.members.len() != initial_cluster.len() {
        return Err(JoinError::Count { cluster: roster.members.len(), flag: initial_cluster.len() });
    }
    let unmatched = |member: &Listed| JoinError::Unmatched(member.id, member.peer_urls.clone());
    let mut found = None;
    for member in &roster.members {
        if !initial_cluster.iter().any(|listed| are_same(listed, &member.peer_urls, known)) {
            return Err(unmatched(member));
        }
        if are_same(own, &member.peer_urls, known) {
            found = Some(member);
        }
    }
    match found {
        Some(member) if !member.name.is_empty() => Err(JoinError::JoinedBefore(member.id)),
        Some(member) => Ok(member.id),
        // All of theirs are listed here and there are as many: one is listed twice.
        None => Err(roster.members.first().map_or(JoinError::Count { cluster: 0, flag: 0 }, unmatched)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(roster: &Roster, initial_cluster: &[Vec<String>], own: &[String]) -> Result<MemberId, JoinError> {
        super::find(roster, initial_cluster, own, &Addresses::new())
    }

    fn urls(ports: &[u16]) -> Vec<String> {
        ports.iter().map(|port| format!("http://h:{port}")).collect()
    }

    fn roster(members: &[(u64, &str, &[u16])]) -> Roster {
        let members = members.iter().map(|(id, name, ports)| Listed {
            id: MemberId(*id),
            name: (*name).to_owned(),
            peer_urls: urls(ports),
        });
        Roster { cluster: ClusterId(1), members: members.collect() }
    }

    #[test]
    fn a_new_member_finds_itself_by_its_urls() {
        let roster = roster(&[(1, "a", &[1]), (2, "", &[2, 3])]);
        assert_eq!(find(&roster, &[urls(&[1]), urls(&[3, 2])], &urls(&[3, 2])), Ok(MemberId(2)));
    }

    #[test]
    fn lists_that_differ_are_refused() {
        let roster = roster(&[(1, "a", &[1]), (2, "", &[2])]);
        assert_eq!(find(&roster, &[urls(&[2])], &urls(&[2])), Err(JoinError::Count { cluster: 2, flag: 1 }));
        let other = find(&roster, &[urls(&[9]), urls(&[2])], &urls(&[2]));
        assert_eq!(other, Err(JoinError::Unmatched(MemberId(1), urls(&[1]))));
        assert!(other.unwrap_err().to_string().starts_with("PeerURLs: no match found for existing member (1, http"));
    }

    #[test]
    fn a_member_that_has_joined_before_does_not_join_again() {
        let roster = roster(&[(1, "a", &[1]), (2, "b", &[2])]);
        let again = find(&roster, &[urls(&[1]), urls(&[2])], &urls(&[2]));
        assert_eq!(again, Err(JoinError::JoinedBefore(MemberId(2))));
    }

    #[test]
    fn a_name_and_its_address_are_the_same() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let listed = |id, urls| Listed { id: MemberId(id), name: String::new(), peer_urls: texts(urls) };
        let members = vec![listed(1, &["http://10.0.0.1:2380"]), listed(2, &["https://b:2380", "http://[fd00::2]:1"])];
        let roster = Roster { cluster: ClusterId(1), members };
        let own = texts(&["http://b.example:1", "https://10.0.0.2:2380/"]);
        let flag = [texts(&["http://A.example:2380"]), own.clone()];
        let names: Vec<String> = host_names(&roster, &flag).into_iter().collect();
        assert_eq!(names, ["a.example", "b", "b.example"]);
        let mut known = Addresses::new();
        let mut know = |name: &str, addresses: &[&str]| {
            known.insert(name.to_owned(), addresses.iter().map(|address| address.parse().unwrap()).collect());
            super::find(&roster, &flag, &own, &known)
        };
        let unmatched =
            |id: usize| Err(JoinError::Unmatched(MemberId(id as u64), roster.members[id - 1].peer_urls.clone()));
        assert_eq!(know("b", &["10.0.0.2"]), unmatched(1));
        assert_eq!(know("a.example", &["10.0.0.9", "10.0.0.1"]), unmatched(2));
        assert_eq!(know("b.example", &["fd00::3"]), unmatched(2));
        assert_eq!(know("b.example", &["fd00::2"]), Ok(MemberId(2)));
        let other_port = [flag[0].clone(), texts(&["http://b.example:2", "https://10.0.0.2:2380"])];
        assert_eq!(super::find(&roster, &other_port, &other_port[1], &known), unmatched(2));
    }

    #[test]
    fn names_that_cannot_be_resolved_are_told() {
        let unmatched = JoinError::Unmatched(MemberId(1), urls(&[1]));
        let told = JoinError::Unresolved(Box::new(unmatched), vec!["h (no such host)".to_owned()]).to_string();
        let expected = "PeerURLs: no match found for existing member (1, http://h:1); host names that cannot be resolved: \
                        h (no such host)";
        assert_eq!(told, expected);
    }
}
