//! etcd's feature gates: `--feature-gates=Name=true,Other=false`, and the experimental flags that came before them.

use std::collections::BTreeMap;

use super::ConfigError;
use super::flags::Class;
use super::values::Values;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Off by default.
    Alpha,
    /// On by default.
    Beta,
}

/// All gates of etcd 3.6 to 3.8.
pub const KNOWN: &[(&str, Stage)] = &[
    ("CompactHashCheck", Stage::Alpha),
    ("FastLeaseKeepAlive", Stage::Beta),
    ("InitialCorruptCheck", Stage::Alpha),
    ("LeaseCheckpoint", Stage::Alpha),
    ("LeaseCheckpointPersist", Stage::Alpha),
    ("PriorityRequest", Stage::Alpha),
    ("SetMemberLocalAddr", Stage::Alpha),
    ("StopGRPCServiceOnDefrag", Stage::Alpha),
    ("TxnModeWriteWithSharedBuffer", Stage::Beta),
];

/// Those that stand for every gate of a stage; closed by default, whatever theirs are.
const ALL: [(&str, Stage); 2] = [("AllAlpha", Stage::Alpha), ("AllBeta", Stage::Beta)];

/// Which gates are open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureGates {
    open: BTreeMap<&'static str, bool>,
    /// Set by name.
    explicit: Vec<&'static str>,
}

impl Default for FeatureGates {
    fn default() -> Self {
        let known = KNOWN.iter().map(|(name, stage)| (*name, *stage == Stage::Beta));
        let open = known.chain(ALL.map(|(name, _)| (name, false))).collect();
        Self { open, explicit: Vec::new() }
    }
}

impl FeatureGates {
    /// # Errors
    /// An unknown gate, a value that is no truth value, or a gate that is set in two ways.
    pub fn from_values(values: &Values) -> Result<Self, ConfigError> {
        let mut gates = Self::default();
        for setting in values.list("feature-gates") {
            gates.set(&setting)?;
        }
        for (flag, given) in values.given() {
            let Class::GateAlias(gate) = flag.class else { continue };
            if gates.explicit.contains(&gate) {
                let (name, text) = (flag.name, &given.text);
                return Err(ConfigError(format!(
                    "cannot specify both flags: --{name}={text} and --feature-gates={gate}, please just use \
                     --feature-gates"
                )));
            }
            gates.open.insert(gate, values.bool(flag.name));
            gates.explicit.push(gate);
        }
        if gates.is_open("LeaseCheckpointPersist") && !gates.is_open("LeaseCheckpoint") {
            return Err(ConfigError(
                "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint".into(),
            ));
        }
        Ok(gates)
    }

    fn set(&mut self, setting: &str) -> Result<(), ConfigError> {
        let Some((name, value)) = setting.split_once('=') else {
            return Err(ConfigError(format!("missing bool value for {setting}")));
        };
        let (name, value) = (name.trim(), value.trim());
        let open = match value {
            "true" | "True" | "TRUE" | "t" | "T" | "1" => true,
            "false" | "False" | "FALSE" | "f" | "F" | "0" => false,
            _ => return Err(ConfigError(format!("invalid value of {name}={value}, err: not a truth value"))),
        };
        if let Some((name, all)) = ALL.into_iter().find(|(all, _)| *all == name) {
            for (name, _) in KNOWN.iter().filter(|(name, stage)| *stage == all && !self.explicit.contains(name)) {
                self.open.insert(name, open);
            }
            self.open.insert(name, open);
            return Ok(());
        }
        let Some((name, _)) = KNOWN.iter().find(|(known, _)| *known == name) else {
            return Err(ConfigError(format!("unrecognized feature gate: {name}")));
        };
        self.open.insert(name, open);
        self.explicit.push(name);
        Ok(())
    }

    /// # Panics
    /// When there is no such gate.
    #[must_use]
    pub fn is_open(&self, name: &str) -> bool {
        *self.open.get(name).unwrap_or_else(|| panic!("there is no feature gate {name:?}"))
    }

    /// # Panics
    /// When there is no such gate.
    #[must_use]
    pub fn is_closed_by_name(&self, name: &str) -> bool {
        !self.is_open(name) && self.explicit.contains(&name)
    }

    /// Every gate, its stage in etcd's letters, and whether it is open.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &'static str, bool)> {
        KNOWN.iter().chain(&ALL).map(|(name, stage)| {
            let stage = match stage {
                Stage::Alpha => "ALPHA",
                Stage::Beta => "BETA",
            };
            (*name, stage, self.is_open(name))
        })
    }

    /// Those that were set by name, as `Name=true`, for the log.
    #[must_use]
    pub fn explicit(&self) -> String {
        let mut names = self.explicit.clone();
        names.sort_unstable();
        names.dedup();
        names.iter().map(|name| format!("{name}={}", self.is_open(name))).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::flags;
    use crate::config::values::Origin;

    fn gates(given: &[(&str, &str)]) -> Result<FeatureGates, String> {
        let mut values = Values::default();
        for (name, text) in given {
            values.set(flags::find(name).unwrap(), text, Origin::CommandLine).unwrap();
        }
        FeatureGates::from_values(&values).map_err(|error| error.to_string())
    }

    #[test]
    fn alpha_is_off_and_beta_is_on() {
        let defaults = gates(&[]).unwrap();
        assert!(!defaults.is_open("CompactHashCheck") && defaults.is_open("FastLeaseKeepAlive"));
        let set = gates(&[("feature-gates", "AllAlpha=true,PriorityRequest=false,AllBeta=false")]).unwrap();
        assert!(
            set.is_open("CompactHashCheck") && !set.is_open("PriorityRequest") && !set.is_open("FastLeaseKeepAlive")
        );
        assert_eq!(set.explicit(), "PriorityRequest=false");
        assert!(set.is_open("AllAlpha") && !set.is_open("AllBeta") && !defaults.is_open("AllAlpha"));
        assert_eq!(set.all().count(), KNOWN.len() + 2);
        assert!(set.all().any(|gate| gate == ("CompactHashCheck", "ALPHA", true)));
    }

    #[test]
    fn an_experimental_flag_is_its_gate() {
        let set = gates(&[("experimental-initial-corrupt-check", "true")]).unwrap();
        assert!(set.is_open("InitialCorruptCheck"));
    }

    #[test]
    fn what_is_unknown_or_said_twice_is_refused() {
        let refused = |given: &[(&str, &str)]| gates(given).unwrap_err();
        assert_eq!(refused(&[("feature-gates", "Nonsense=true")]), "unrecognized feature gate: Nonsense");
        assert_eq!(refused(&[("feature-gates", "PriorityRequest")]), "missing bool value for PriorityRequest");
        assert!(refused(&[("feature-gates", "PriorityRequest=x")]).contains("PriorityRequest=x"));
        let both = [("feature-gates", "CompactHashCheck=true"), ("experimental-compact-hash-check-enabled", "true")];
        assert!(
            refused(&both).starts_with("cannot specify both flags: --experimental-compact-hash-check-enabled=true")
        );
        assert!(
            refused(&[("feature-gates", "LeaseCheckpointPersist=true")]).contains("requires enabling feature gate")
        );
    }
}
