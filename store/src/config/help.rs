//! The usage and the list of flags, made of the table.

use std::fmt::Write;

use super::flags::{Class, Group, Kind, TABLE};
use super::gates;

/// What to type. `program` is `etcd` or `kontiki store`.
#[must_use]
pub fn usage(program: &str) -> String {
    format!(
        "Usage:

  {program} [flags]
    Start a member of an etcd cluster.

  {program} --version
    Show the version of etcd whose behaviour is served.

  {program} -h | --help
    Show all flags.

  {program} --config-file PATH
    Read the settings from a file instead; other flags and the environment are then ignored.
    Durations are integers of nanoseconds there (600000000000 for 10m).

A flag --initial-cluster is also the environment variable ETCD_INITIAL_CLUSTER.
"
    )
}

/// Every flag that is listed, by groups.
#[must_use]
pub fn flags() -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    for group in Group::LISTED {
        let _ = writeln!(text, "\n{}:", group.title());
        for flag in TABLE.iter().filter(|flag| flag.group == group) {
            let default = match (flag.kind, flag.name) {
                (_, "data-dir") => "${name}.etcd",
                _ => flag.default,
            };
            let _ = writeln!(text, "  --{} '{default}'", flag.name);
            let _ = write!(text, "    {}", flag.help);
            if let Kind::Choice(choices) = flag.kind {
                let _ = write!(text, " One of {}.", choices.join(", "));
            }
            let _ = writeln!(text, "{}", if flag.class == Class::Ignored { " Has no effect." } else { "" });
            if flag.name == "feature-gates" {
                let names: Vec<&str> = gates::KNOWN.iter().map(|(name, _)| *name).collect();
                let _ = writeln!(text, "    Known: {}.", names.join(", "));
            }
        }
    }
    text.push_str(
        "\nFlags of older releases (--experimental-…, --enable-v2, --proxy, …) are accepted with a warning.\n",
    );
    text
}
