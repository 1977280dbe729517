//! The flags of etcd 3.5 to 3.8, as one table: the command line, the environment, the configuration file, the help and the
//! warnings about what has no effect are all read from it.
//!
//! A flag that Kontiki has no use for stays in the table, so that a manifest that carries it still starts. What each flag
//! does is decided in [`super::settings`]; here it is only a name with a kind of value.

mod table;

pub use table::TABLE;

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without dashes.
    pub name: &'static str,
    pub kind: Kind,
    /// As text, in the syntax of the command line.
    pub default: &'static str,
    pub class: Class,
    pub group: Group,
    pub help: &'static str,
}

/// What values a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Also without a value, which is `true`.
    Bool,
    /// 0 to 2⁶⁴−1.
    Unsigned,
    /// 0 to 2³²−1.
    Unsigned32,
    Signed,
    /// As Go writes it: `1h2m`, `250ms`.
    Duration,
    Text,
    /// Separated by commas.
    List,
    /// The same, each a URL.
    Urls,
    Choice(&'static [&'static str]),
}

/// What becomes of a flag that is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Served,
    /// Accepted, with a warning that it has no effect.
    Ignored,
    /// Accepted without a word, as etcd does.
    Silent,
    /// An older name.
    Alias(&'static str),
    /// An older way to switch a feature gate.
    GateAlias(&'static str),
    /// Refused unless it has its default: to ignore it would start another cluster than was asked for.
    Refused(&'static str),
    /// A key of the configuration file that has no flag.
    FileOnly,
}

/// Where the help lists a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Member,
    Clustering,
    Security,
    Auth,
    Monitoring,
    Logging,
    Tracing,
    Features,
    Unsafe,
    /// Not listed.
    Hidden,
}

impl Group {
    pub const LISTED: [Self; 9] = [
        Self::Member,
        Self::Clustering,
        Self::Security,
        Self::Auth,
        Self::Monitoring,
        Self::Logging,
        Self::Tracing,
        Self::Features,
        Self::Unsafe,
    ];

    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Member => "Member",
            Self::Clustering => "Clustering",
            Self::Security => "Security",
            Self::Auth => "Auth",
            Self::Monitoring => "Profiling and monitoring",
            Self::Logging => "Logging",
            Self::Tracing => "Distributed tracing",
            Self::Features => "Features",
            Self::Unsafe => "Unsafe features",
            Self::Hidden => "",
        }
    }
}

impl Flag {
    /// `ETCD_INITIAL_CLUSTER` of `initial-cluster`.
    #[must_use]
    pub fn environment(&self) -> String {
        format!("ETCD_{}", self.name.to_uppercase().replace('-', "_"))
    }

    /// Where the configuration file has it: a section (empty at the top) and a key. `None` where it cannot be set there.
    #[must_use]
    pub fn file_key(&self) -> Option<(&'static str, &'static str)> {
        match NESTED.iter().find(|(flag, ..)| *flag == self.name) {
            Some((_, section, key)) => Some((section, key)),
            None if ONLY_ON_THE_COMMAND_LINE.contains(&self.name) || self.class == Class::Silent => None,
            None => Some(("", self.name)),
        }
    }
}

/// The flag of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Flag> {
    TABLE.iter().find(|flag| flag.name == name && flag.class != Class::FileOnly)
}

/// The flag that a key of the configuration file sets.
#[must_use]
pub fn find_file_key(section: &str, key: &str) -> Option<&'static Flag> {
    if (section, key) == ("", "experimental-snapshot-catch-up-entries") {
        return find("experimental-snapshot-catchup-entries");
    }
    TABLE.iter().find(|flag| flag.file_key() == Some((section, key)))
}

/// The sections of the configuration file.
pub const SECTIONS: [&str; 3] = [CLIENT, PEER, SOCKET];

const CLIENT: &str = "client-transport-security";
const PEER: &str = "peer-transport-security";
const SOCKET: &str = "socket-options";

const NESTED: &[(&str, &str, &str)] = &[
    ("cert-file", CLIENT, "cert-file"),
    ("key-file", CLIENT, "key-file"),
    ("client-cert-file", CLIENT, "client-cert-file"),
    ("client-key-file", CLIENT, "client-key-file"),
    ("client-cert-auth", CLIENT, "client-cert-auth"),
    ("trusted-ca-file", CLIENT, "trusted-ca-file"),
    ("client-crl-file", CLIENT, "crl-file"),
    ("auto-tls", CLIENT, "auto-tls"),
    ("client-cert-allowed-cn", CLIENT, "allowed-cn"),
    ("client-cert-allowed-hostname", CLIENT, "allowed-hostname"),
    ("client-skip-client-san-verification", CLIENT, "skip-client-san-verification"),
    ("peer-cert-file", PEER, "cert-file"),
    ("peer-key-file", PEER, "key-file"),
    ("peer-client-cert-file", PEER, "client-cert-file"),
    ("peer-client-key-file", PEER, "client-key-file"),
    ("peer-client-cert-auth", PEER, "client-cert-auth"),
    ("peer-trusted-ca-file", PEER, "trusted-ca-file"),
    ("peer-crl-file", PEER, "crl-file"),
    ("peer-auto-tls", PEER, "auto-tls"),
    ("peer-cert-allowed-cn", PEER, "allowed-cn"),
    ("peer-cert-allowed-hostname", PEER, "allowed-hostname"),
    ("peer-skip-client-san-verification", PEER, "skip-client-san-verification"),
    ("socket-reuse-port", SOCKET, "reuse-port"),
    ("socket-reuse-address", SOCKET, "reuse-address"),
];

const ONLY_ON_THE_COMMAND_LINE: &[&str] = &["config-file", "version", "raft-read-timeout", "raft-write-timeout"];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::values;

    #[test]
    fn every_name_is_there_once_and_every_default_is_of_its_kind() {
        let mut seen = BTreeSet::new();
        for flag in TABLE {
            assert!(seen.insert(flag.name), "{} is there twice", flag.name);
            let empty = flag.default.is_empty() && flag.kind != Kind::Bool;
            assert!(empty || values::check(flag.kind, flag.default).is_ok(), "{}: {:?}", flag.name, flag.default);
            assert!(flag.group == Group::Hidden || !flag.help.is_empty(), "{} has no help", flag.name);
        }
    }

    #[test]
    fn every_alias_names_a_flag_of_its_kind() {
        for flag in TABLE {
            if let Class::Alias(target) = flag.class {
                let target = find(target).unwrap_or_else(|| panic!("{}", flag.name));
                assert_eq!((flag.kind, target.class), (target.kind, target.class), "{}", flag.name);
                assert!(!matches!(target.class, Class::Alias(_)), "{}", flag.name);
            }
        }
    }

    #[test]
    fn names_follow_from_the_flag() {
        let flag = find("initial-cluster").unwrap();
        assert_eq!(flag.environment(), "ETCD_INITIAL_CLUSTER");
        assert_eq!(flag.file_key(), Some(("", "initial-cluster")));
        assert_eq!(find("peer-cert-file").unwrap().file_key(), Some(("peer-transport-security", "cert-file")));
        assert_eq!(find_file_key("client-transport-security", "allowed-cn").unwrap().name, "client-cert-allowed-cn");
        assert!(find("client-cert-allowed-cn").is_none());
        assert!(find_file_key("", "cert-file").is_none());
    }
}
