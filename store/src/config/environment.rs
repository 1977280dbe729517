//! The environment: `ETCD_NAME` is `--name`, and so for every flag.
//!
//! A variable beside its flag is refused, as etcd does: whoever set the variable would look for its effect in vain.

use super::ConfigError;
use super::flags::{Class, TABLE};
use super::notice::Notice;
use super::values::{Origin, Values};

/// Set by etcd's tools, and meant for no flag.
const TOLERATED: &[&str] = &["ETCD_UNSUPPORTED_ARCH"];

/// Adds what the environment says to what the command line said.
///
/// # Errors
/// When a variable has a value that its flag does not take, or is set beside its flag.
pub fn overlay(values: &mut Values, variables: &[(String, String)]) -> Result<Vec<Notice>, ConfigError> {
    let mut notices = Vec::new();
    for (variable, value) in variables.iter().filter(|(name, _)| name.starts_with("ETCD_")) {
        let flag = TABLE.iter().find(|flag| flag.environment() == *variable && flag.class != Class::FileOnly);
        match flag {
            Some(flag) if values.is_given(flag.name) => {
                return Err(ConfigError(format!(
                    "conflicting environment variable {variable:?} is shadowed by corresponding command-line flag \
                     (either unset environment variable or disable flag)"
                )));
            }
            // Go cannot tell an empty variable from none.
            Some(_) if value.is_empty() => {}
            Some(flag) => {
                values
                    .set(flag, value, Origin::Environment)
                    .map_err(|error| ConfigError(format!("invalid value {value:?} for {variable}: {error}")))?;
                let fields = [("variable-name", variable.as_str()), ("variable-value", value.as_str())];
                notices.push(Notice::info("recognized and used environment variable", &fields));
            }
            None if variable == "ETCD_VERSION" => {
                let fields = [("key", variable.as_str()), ("value", value.as_str())];
                notices.push(Notice::warn("cannot set special environment variable", &fields));
            }
            None if TOLERATED.contains(&variable.as_str()) => {}
            None => {
                let given = format!("{variable}={value}");
                let fields = [("environment-variable", given.as_str())];
                notices.push(Notice::warn("unrecognized environment variable", &fields));
            }
        }
    }
    Ok(notices)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::flags;

    fn overlaid(given: &[&str], variables: &[(&str, &str)]) -> Result<(Values, Vec<String>), String> {
        let mut values = Values::default();
        for name in given {
            values.set(flags::find(name).unwrap(), "x", Origin::CommandLine).unwrap();
        }
        let variables: Vec<_> = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let notices = overlay(&mut values, &variables).map_err(|error| error.to_string())?;
        Ok((values, notices.into_iter().map(|notice| notice.message).collect()))
    }

    #[test]
    fn a_variable_is_its_flag() {
        let (values, notices) =
            overlaid(&[], &[("ETCD_NAME", "a"), ("ETCD_PRE_VOTE", "false"), ("PATH", "/")]).unwrap();
        assert_eq!((values.text("name"), values.bool("pre-vote")), ("a", false));
        assert_eq!(notices, ["recognized and used environment variable"; 2]);
    }

    #[test]
    fn a_variable_beside_its_flag_is_refused() {
        let refused = overlaid(&["name"], &[("ETCD_NAME", "x")]).unwrap_err();
        assert!(refused.contains("conflicting environment variable \"ETCD_NAME\" is shadowed by"), "{refused}");
        assert!(refused.contains("corresponding command-line flag"), "{refused}");
    }

    #[test]
    fn unknown_variables_are_told_and_tolerated_ones_are_not() {
        let (_, notices) = overlaid(&[], &[("ETCD_NAMES", "a")]).unwrap();
        assert_eq!(notices, ["unrecognized environment variable"]);
        let (values, notices) = overlaid(&[], &[("ETCD_UNSUPPORTED_ARCH", "arm"), ("ETCD_DATA_DIR", "")]).unwrap();
        assert_eq!((notices.len(), values), (0, Values::default()));
    }

    #[test]
    fn a_value_of_the_wrong_kind_names_the_variable() {
        let refused = overlaid(&[], &[("ETCD_SNAPSHOT_COUNT", "many")]).unwrap_err();
        assert_eq!(refused, "invalid value \"many\" for ETCD_SNAPSHOT_COUNT: parse error");
    }
}
