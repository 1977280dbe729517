//! How a new member finds itself in an existing cluster: by its peer URLs, in what the others say.

use std::collections::BTreeSet;

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
    /// It lost its data directory: it would vote again where it has voted.
    #[error(
        "member {0} has already been bootstrapped, but its data directory is empty: remove it from the cluster and add \
         it again as a new member"
    )]
    JoinedBefore(MemberId),
}

/// Which member of the cluster the one with `own` peer URLs is, given all URLs of its `initial-cluster`.
///
/// # Errors
/// When both lists are not about the same members.
pub fn find(roster: &Roster, initial_cluster: &[Vec<String>], own: &[String]) -> Result<MemberId, JoinError> {
    if roster.members.len() != initial_cluster.len() {
        return Err(JoinError::Count { cluster: roster.members.len(), flag: initial_cluster.len() });
    }
    let set = |urls: &[String]| urls.iter().map(|url| url.trim_end_matches('/').to_owned()).collect::<BTreeSet<_>>();
    let unmatched = |member: &Listed| JoinError::Unmatched(member.id, member.peer_urls.clone());
    let mut found = None;
    for member in &roster.members {
        let urls = set(&member.peer_urls);
        if !initial_cluster.iter().any(|listed| set(listed) == urls) {
            return Err(unmatched(member));
        }
        if urls == set(own) {
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
}
