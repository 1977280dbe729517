//! Versions that the cluster agrees on, and which downgrade is allowed.
//!
//! The cluster's version is the lowest minor release among its members; while a downgrade is under way it is the target's,
//! so that nothing is used that the older release does not know. The program itself does not change by it.

use std::fmt;

use tonic::{Code, Status};

/// A minor release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    /// Reads `3.6` and `3.6.14`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let core = text.split(['-', '+']).next()?;
        let numbers: Vec<u32> = core.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
        match numbers[..] {
            [major, minor] | [major, minor, _] => Some(Self { major, minor }),
            _ => None,
        }
    }

    fn before(self) -> Option<Self> {
        Some(Self { minor: self.minor.checked_sub(1)?, ..self })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.0", self.major, self.minor)
    }
}

/// Why a downgrade is refused; the texts are etcd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DowngradeError {
    #[error("etcdserver: wrong downgrade target version format")]
    WrongFormat,
    #[error("etcdserver: invalid downgrade target version")]
    InvalidTarget,
    #[error("etcdserver: cluster version not found during downgrade")]
    VersionUnknown,
    #[error("etcdserver: cluster has a downgrade job in progress")]
    InProgress,
    #[error("etcdserver: no inflight downgrade job")]
    NoneInFlight,
}

impl From<DowngradeError> for Status {
    fn from(error: DowngradeError) -> Self {
        let code = match error {
            DowngradeError::WrongFormat | DowngradeError::InvalidTarget => Code::InvalidArgument,
            DowngradeError::VersionUnknown | DowngradeError::InProgress | DowngradeError::NoneInFlight => {
                Code::FailedPrecondition
            }
        };
        Status::new(code, error.to_string())
    }
}

/// Whether the cluster may go down to `target`: exactly one minor release.
///
/// # Errors
/// The first rule that is broken, in etcd's order.
pub fn validate(target: &str, cluster: Option<Version>, under_way: bool) -> Result<Version, DowngradeError> {
    let target = Version::parse(target).ok_or(DowngradeError::WrongFormat)?;
    let cluster = cluster.ok_or(DowngradeError::VersionUnknown)?;
    if cluster.before() != Some(target) {
        return Err(DowngradeError::InvalidTarget);
    }
    if under_way { Err(DowngradeError::InProgress) } else { Ok(target) }
}

/// What the cluster's version should be: the members' lowest, or the target of a downgrade. Unknown members keep it from
/// being raised; without any version yet, they leave it open.
#[must_use]
pub fn decide(members: &[Option<Version>], target: Option<Version>, now: Option<Version>) -> Option<Version> {
    if target.is_some() {
        return target;
    }
    let all: Option<Vec<Version>> = members.iter().copied().collect();
    match all.and_then(|all| all.into_iter().min()) {
        Some(lowest) => Some(lowest),
        None => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V35: Version = Version { major: 3, minor: 5 };
    const V36: Version = Version { major: 3, minor: 6 };

    #[test]
    fn versions_are_read_with_and_without_a_patch() {
        assert_eq!(Version::parse("3.5"), Some(V35));
        assert_eq!(Version::parse("3.6.14"), Some(V36));
        assert_eq!(Version::parse("3.6.0-rc.1"), Some(V36));
        for wrong in ["", "3", "v3.5", "3.x", "3.5.1.2", "three"] {
            assert_eq!(Version::parse(wrong), None, "{wrong:?}");
        }
        assert_eq!(V36.to_string(), "3.6.0");
    }

    #[test]
    fn exactly_one_minor_release_lower_is_allowed() {
        assert_eq!(validate("3.5", Some(V36), false), Ok(V35));
        assert_eq!(validate("3.5.2", Some(V36), false), Ok(V35));
        assert_eq!(validate("x", Some(V36), false), Err(DowngradeError::WrongFormat));
        assert_eq!(validate("3.5", None, false), Err(DowngradeError::VersionUnknown));
        for target in ["3.4", "3.6", "3.7", "2.5"] {
            assert_eq!(validate(target, Some(V36), false), Err(DowngradeError::InvalidTarget), "{target}");
        }
        assert_eq!(validate("3.5", Some(V36), true), Err(DowngradeError::InProgress));
    }

    #[test]
    fn the_lowest_member_or_the_target_decides() {
        assert_eq!(decide(&[Some(V36), Some(V36)], None, None), Some(V36));
        assert_eq!(decide(&[Some(V36), Some(V35)], None, None), Some(V35));
        assert_eq!(decide(&[Some(V36), None], None, None), None);
        assert_eq!(decide(&[Some(V36), None], None, Some(V35)), Some(V35));
        assert_eq!(decide(&[Some(V36)], Some(V35), Some(V36)), Some(V35));
        assert_eq!(decide(&[Some(V36)], None, Some(V35)), Some(V36), "a downgrade was cancelled");
    }
}
