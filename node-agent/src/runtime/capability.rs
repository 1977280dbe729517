//! Linux capabilities as a set, with the names that pods use.
//!
//! The default is the set that Docker, containerd and CRI-O agree on. Names come with or without `CAP_`; `ALL` is every
//! capability that this file knows, masked in the shim by what the running kernel knows.

use serde::{Deserialize, Serialize};

/// In the order of their numbers, from `linux/capability.h`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

const DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// A set of capabilities; bit n is the capability of number n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilitySet(u64);

impl Default for CapabilitySet {
    fn default() -> Self {
        let mut set = Self::empty();
        for name in DEFAULT {
            set = set.with(name).expect("invariant: the default names are known");
        }
        set
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown capability {0:?}")]
pub struct UnknownCapability(pub String);

impl CapabilitySet {
    #[must_use]
    pub const fn empty() -> Self {
        Self(0)
    }

    #[must_use]
    pub const fn all() -> Self {
        Self((1 << NAMES.len()) - 1)
    }

    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The set `securityContext.capabilities` describes: dropping `ALL` comes first, single drops last.
    pub fn adjusted<S: AsRef<str>>(self, add: &[S], drop: &[S]) -> Result<Self, UnknownCapability> {
        let drop_all = drop.iter().any(|name| name.as_ref().eq_ignore_ascii_case("ALL"));
        let mut set = if drop_all { Self::empty() } else { self };
        for name in add {
            set = set.with(name.as_ref())?;
        }
        for name in drop.iter().filter(|name| !name.as_ref().eq_ignore_ascii_case("ALL")) {
            set.0 &= !mask(name.as_ref())?;
        }
        Ok(set)
    }

    /// This set and the named capability (or `ALL`).
    pub fn with(self, name: &str) -> Result<Self, UnknownCapability> {
        Ok(Self(self.0 | mask(name)?))
    }

    #[must_use]
    pub fn contains(self, name: &str) -> bool {
        mask(name).is_ok_and(|mask| self.0 & mask == mask)
    }
}

fn mask(name: &str) -> Result<u64, UnknownCapability> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if bare == "ALL" {
        return Ok(CapabilitySet::all().bits());
    }
    NAMES
        .iter()
        .position(|known| *known == bare)
        .map(|number| 1 << number)
        .ok_or_else(|| UnknownCapability(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_set_is_dockers() {
        assert_eq!(CapabilitySet::default().bits(), 0xa804_25fb);
    }

    #[test]
    fn drop_all_then_add_one_leaves_one() {
        let set = CapabilitySet::default().adjusted(&["net_bind_service"], &["ALL"]).unwrap();
        assert_eq!(set.bits(), 1 << 10);
    }

    #[test]
    fn names_work_with_and_without_prefix() {
        assert!(CapabilitySet::empty().with("CAP_SYS_ADMIN").unwrap().contains("SYS_ADMIN"));
        assert_eq!(CapabilitySet::empty().with("FLY"), Err(UnknownCapability("FLY".into())));
    }
}
