//! The command line, in the syntax of Go's flag package: `-x v`, `--x v`, `-x=v`, `--x=v`, and booleans also bare.
//!
//! A separate word behind a boolean is not its value. The first word that is no flag ends the flags, and is an error later.

use super::flags::{self, Class, Flag, Kind};
use super::values::{Origin, Values};

/// What the command line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    pub values: Values,
    pub help: bool,
    /// The first word that belongs to no flag.
    pub positional: Option<String>,
}

/// A command line that cannot be understood: the usage is due, and exit code 2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// # Errors
/// In the words of Go's flag package.
pub fn parse(words: &[String]) -> Result<CommandLine, UsageError> {
    let mut line = CommandLine::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let dashes = if word.starts_with("--") { 2 } else { 1 };
        if word.len() < 2 || !word.starts_with('-') {
            line.positional = Some(word.clone());
            return Ok(line);
        }
        if word == "--" {
            line.positional = words.next().cloned();
            return Ok(line);
        }
        let text = &word[dashes..];
        if text.is_empty() || text.starts_with(['-', '=']) {
            return Err(UsageError(format!("bad flag syntax: {word}")));
        }
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        let Some(flag) = flags::find(name) else {
            if matches!(name, "help" | "h") {
                line.help = true;
                return Ok(line);
            }
            return Err(UsageError(format!("flag provided but not defined: -{name}")));
        };
        let value = match value {
            Some(value) => value.to_owned(),
            None if takes_no_word(flag) => "true".to_owned(),
            None => match words.next() {
                Some(word) => word.clone(),
                None => return Err(UsageError(format!("flag needs an argument: -{name}"))),
            },
        };
        line.values.set(flag, &value, Origin::CommandLine).map_err(|error| {
            let what = if flag.kind == Kind::Bool { "boolean value" } else { "value" };
            let preposition = if flag.kind == Kind::Bool { "for" } else { "for flag" };
            UsageError(format!("invalid {what} {value:?} {preposition} -{name}: {error}"))
        })?;
    }
    Ok(line)
}

fn takes_no_word(flag: &Flag) -> bool {
    flag.kind == Kind::Bool || flag.class == Class::Silent
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<CommandLine, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words).map_err(|error| error.to_string())
    }

    #[test]
    fn the_four_spellings_of_go_are_one() {
        for line in ["-name a", "--name a", "-name=a", "--name=a"] {
            assert_eq!(parsed(line).unwrap().values.text("name"), "a", "{line}");
        }
        assert_eq!(parsed("--name= --data-dir=a=b").unwrap().values.text("name"), "");
        assert_eq!(parsed("--data-dir=a=b").unwrap().values.text("data-dir"), "a=b");
        assert_eq!(parsed("--name -x").unwrap().values.text("name"), "-x");
    }

    #[test]
    fn the_last_one_wins() {
        assert_eq!(parsed("--name a --name=b -name c").unwrap().values.text("name"), "c");
    }

    #[test]
    fn a_boolean_takes_no_separate_word() {
        assert!(parsed("--force-new-cluster").unwrap().values.bool("force-new-cluster"));
        assert!(!parsed("--pre-vote=false").unwrap().values.bool("pre-vote"));
        assert!(parsed("--pre-vote=T").unwrap().values.bool("pre-vote"));
        let line = parsed("--pre-vote false --name a").unwrap();
        assert_eq!(line.positional.as_deref(), Some("false"));
        assert!(line.values.bool("pre-vote") && !line.values.is_given("name"));
    }

    #[test]
    fn help_and_positional_words_are_seen() {
        for line in ["--help", "-h", "--name a -help", "--name a -h --nonsense"] {
            assert!(parsed(line).unwrap().help, "{line}");
        }
        assert_eq!(parsed("start").unwrap().positional.as_deref(), Some("start"));
        assert_eq!(parsed("--name a -- b").unwrap().positional.as_deref(), Some("b"));
        assert_eq!(parsed("- a").unwrap().positional.as_deref(), Some("-"));
        assert_eq!(parsed("--name a --").unwrap().positional, None);
    }

    #[test]
    fn a_line_that_cannot_be_read_says_why() {
        for (line, reason) in [
            ("--nonsense", "flag provided but not defined: -nonsense"),
            ("-nonsense=1", "flag provided but not defined: -nonsense"),
            ("--name", "flag needs an argument: -name"),
            ("---name a", "bad flag syntax: ---name"),
            ("--=a", "bad flag syntax: --=a"),
            ("--snapshot-count x", "invalid value \"x\" for flag -snapshot-count: parse error"),
            ("--snapshot-count -1", "invalid value \"-1\" for flag -snapshot-count: parse error"),
            (
                "--max-concurrent-streams 4294967296",
                "invalid value \"4294967296\" for flag -max-concurrent-streams: parse error",
            ),
            ("--pre-vote=maybe", "invalid boolean value \"maybe\" for -pre-vote: parse error"),
            (
                "--corrupt-check-time 5",
                "invalid value \"5\" for flag -corrupt-check-time: missing unit in duration \"5\"",
            ),
            (
                "--initial-cluster-state old",
                "invalid value \"old\" for flag -initial-cluster-state: expected one of new, existing",
            ),
            ("--client-cert-allowed-cn a", "flag provided but not defined: -client-cert-allowed-cn"),
        ] {
            assert_eq!(parsed(line).unwrap_err(), reason, "{line}");
        }
    }

    #[test]
    fn what_etcd_swallows_is_swallowed() {
        let line = parsed("-v -test.coverprofile=x --snapshot --name a").unwrap();
        assert_eq!((line.values.text("name"), line.positional), ("a", None));
    }
}
