//! etcd's flags for `kontiki server`, which has flags of its own beside them: the same table, read by clap.

use clap::{Arg, ArgAction, ArgMatches, Command, Error, FromArgMatches};
use kontiki_store::config::flags::{Class, Flag, Group, Kind, TABLE};
use kontiki_store::config::values::{self, Origin, Values};

/// What was given of etcd's flags.
#[derive(Clone, Debug, Default)]
pub struct Flags(pub Values);

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        command.args(accepted().map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        for flag in accepted() {
            if let Some(text) = matches.get_one::<String>(flag.name) {
                let set = self.0.set(flag, text, Origin::CommandLine);
                set.map_err(|error| Error::raw(clap::error::ErrorKind::InvalidValue, error))?;
            }
        }
        Ok(())
    }
}

/// clap has a version of its own.
fn accepted() -> impl Iterator<Item = &'static Flag> {
    TABLE.iter().filter(|flag| !matches!(flag.class, Class::Silent | Class::FileOnly) && flag.name != "version")
}

fn argument(flag: &'static Flag) -> Arg {
    let kind = flag.kind;
    let check = move |text: &str| values::check(kind, text).map(|()| text.to_owned());
    let default = if flag.default.is_empty() { String::new() } else { format!(" [default: {}]", flag.default) };
    let argument = Arg::new(flag.name)
        .long(flag.name)
        .help(format!("{}{default}", flag.help))
        .help_heading(flag.group.title())
        .hide(flag.group == Group::Hidden)
        .action(ArgAction::Set)
        .overrides_with(flag.name)
        .value_parser(check)
        .value_name("VALUE");
    match kind {
        Kind::Bool => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ => argument.allow_hyphen_values(true),
    }
}

#[cfg(test)]
mod tests {
    use clap::Args;

    use super::*;

    #[test]
    fn clap_reads_the_same_flags() {
        let command = Flags::augment_args(Command::new("server"));
        let words = ["server", "--name", "a", "--pre-vote=false", "--unsafe-no-fsync", "--quota-backend-bytes", "-1"];
        let matches = command.clone().try_get_matches_from(words).unwrap();
        let Flags(values) = Flags::from_arg_matches(&matches).unwrap();
        assert_eq!(values.text("name"), "a");
        assert!(!values.bool("pre-vote") && values.bool("unsafe-no-fsync"));
        assert_eq!(values.signed("quota-backend-bytes"), -1);
        assert!(!values.is_given("data-dir"));
        assert!(command.try_get_matches_from(["server", "--snapshot-count", "x"]).is_err());
    }
}
