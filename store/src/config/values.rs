//! The flags that were given, whatever brought them, and the value of any flag by its name.
//!
//! Values stay text, checked against their flag's kind when they are set; so reading one of a kind cannot fail, and a
//! wrong kind at the reader is a bug.

use std::collections::BTreeMap;
use std::time::Duration;

use super::duration;
use super::flags::{self, Class, Flag, Kind};
use super::url::Url;

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    CommandLine,
    Environment,
    File,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    pub text: String,
    pub origin: Origin,
}

/// What was given; everything else has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values {
    given: BTreeMap<&'static str, Given>,
}

impl Values {
    /// The last value of a flag counts.
    ///
    /// # Errors
    /// A sentence about what is wrong with the value.
    pub fn set(&mut self, flag: &'static Flag, text: &str, origin: Origin) -> Result<(), String> {
        if flag.class != Class::Silent {
            check(flag.kind, text)?;
        }
        self.given.insert(flag.name, Given { text: text.to_owned(), origin });
        Ok(())
    }

    #[must_use]
    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The flags that were given, by name.
    pub fn given(&self) -> impl Iterator<Item = (&'static Flag, &Given)> {
        self.given.iter().filter_map(|(name, given)| Some((lookup(name)?, given)))
    }

    /// The values of deprecated names move to the flags they stand for, which win where both are given. Gates are left.
    pub fn resolve_aliases(&mut self) {
        let aliases: Vec<(&'static str, &'static str)> = self
            .given()
            .filter_map(|(flag, _)| match flag.class {
                Class::Alias(target) => Some((flag.name, target)),
                _ => None,
            })
            .collect();
        for (alias, target) in aliases {
            if let Some(given) = self.given.remove(alias) {
                self.given.entry(target).or_insert(given);
            }
        }
    }

    /// # Panics
    /// When there is no such flag.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        match self.given.get(name) {
            Some(given) => &given.text,
            None => lookup(name).unwrap_or_else(|| panic!("there is no flag {name:?}")).default,
        }
    }

    #[must_use]
    pub fn bool(&self, name: &str) -> bool {
        read(name, parse_bool(self.text(name)))
    }

    #[must_use]
    pub fn unsigned(&self, name: &str) -> u64 {
        read(name, self.text(name).parse().map_err(|_| "parse error".to_owned()))
    }

    #[must_use]
    pub fn signed(&self, name: &str) -> i64 {
        read(name, self.text(name).parse().map_err(|_| "parse error".to_owned()))
    }

    #[must_use]
    pub fn duration(&self, name: &str) -> Duration {
        read(name, duration::parse(self.text(name)))
    }

    /// The parts of a list, in order, without empty ones.
    #[must_use]
    pub fn list(&self, name: &str) -> Vec<String> {
        let mut parts: Vec<String> = Vec::new();
        for part in self.text(name).split(',').map(str::trim).filter(|part| !part.is_empty()) {
            if !parts.iter().any(|known| known == part) {
                parts.push(part.to_owned());
            }
        }
        parts
    }

    /// The URLs of a list, sorted, each once.
    #[must_use]
    pub fn urls(&self, name: &str) -> Vec<Url> {
        read(name, Url::parse_list(self.text(name)))
    }
}

fn lookup(name: &str) -> Option<&'static Flag> {
    flags::TABLE.iter().find(|flag| flag.name == name)
}

fn read<T>(name: &str, value: Result<T, String>) -> T {
    value.unwrap_or_else(|error| panic!("--{name} was checked when it was set, and now: {error}"))
}

/// Whether `text` is a value of that kind.
///
/// # Errors
/// What is wrong with it, in the words of Go's flag package.
pub fn check(kind: Kind, text: &str) -> Result<(), String> {
    let number = |ok: bool| if ok { Ok(()) } else { Err("parse error".to_owned()) };
    match kind {
        Kind::Bool => parse_bool(text).map(drop),
        Kind::Unsigned => number(text.parse::<u64>().is_ok()),
        Kind::Unsigned32 => number(text.parse::<u32>().is_ok()),
        Kind::Signed => number(text.parse::<i64>().is_ok()),
        Kind::Duration => duration::parse(text).map(drop),
        Kind::Text | Kind::List => Ok(()),
        Kind::Urls => Url::parse_list(text).map(drop),
        Kind::Choice(choices) if choices.contains(&text) => Ok(()),
        Kind::Choice(choices) => Err(format!("expected one of {}", choices.join(", "))),
    }
}

/// The words that Go takes for truth.
fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("parse error".to_owned()),
    }
}
