//! Who belongs to the cluster, as pure decisions: the replicated table, what an operator may change, and how Raft follows.
//!
//! A membership change is an ordinary command. Applying it changes the [`MemberTable`], the truth that clients see. The
//! leader, whoever it is, then moves Raft's own configuration towards the table, one safe step after another ([`plan`]).
//! So a voter that was just added counts in Raft's quorum only once it runs and holds the log (the Raft thesis, 4.2.1):
//! growing a cluster never costs its availability, and a change that a dying leader left half done is finished by the next.

pub mod activity;
pub mod join;
pub mod plan;
pub mod strict;
pub mod table;

pub use table::MemberTable;

use crate::error::StoreError;
use crate::limits::MAX_LEARNERS;

/// What an operator may set about membership changes; the names are etcd's flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MembershipOptions {
    /// Refuse changes that would endanger the quorum.
    pub strict_reconfig_check: bool,
    pub max_learners: u32,
}

impl Default for MembershipOptions {
    fn default() -> Self {
        Self { strict_reconfig_check: true, max_learners: MAX_LEARNERS }
    }
}

/// The peer URLs of a request, sorted, as etcd accepts them.
///
/// # Errors
/// `MemberUrlsInvalid` when there is none, or one that is not a URL of a member.
pub fn peer_urls(given: &[String]) -> Result<Vec<String>, StoreError> {
    let is_valid = |url: &str| match url.split_once("://") {
        Some(("http" | "https", host)) => match host.rsplit_once(':') {
            Some((host, port)) => !host.contains(['/', '?', '#']) && port.bytes().all(|digit| digit.is_ascii_digit()),
            None => false,
        },
        Some(("unix" | "unixs", path)) => !path.is_empty(),
        _ => false,
    };
    let mut urls: Vec<String> = given.iter().map(|url| url.trim().to_owned()).collect();
    urls.sort();
    match !urls.is_empty() && urls.iter().all(|url| is_valid(url)) {
        true => Ok(urls),
        false => Err(StoreError::MemberUrlsInvalid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_urls_are_checked_and_sorted() {
        let check = |given: &[&str]| peer_urls(&given.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>());
        assert_eq!(check(&["http://b:1 ", "https://a:2"]).unwrap(), ["http://b:1", "https://a:2"]);
        assert_eq!(check(&["http://[::1]:2380"]).unwrap(), ["http://[::1]:2380"]);
        for bad in [&[][..], &[""], &["h:1"], &["ftp://h:1"], &["http://h"], &["http://h:1/x"], &["http://h:p"]] {
            assert_eq!(check(bad), Err(StoreError::MemberUrlsInvalid), "{bad:?}");
        }
    }
}
