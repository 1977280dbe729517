//! From etcd's flags, environment and configuration file to everything a member is started with.
//!
//! Pure: words, variables and file contents in; [`StoreSettings`], and from them [`StoreConfig`], out. One table
//! ([`flags`]) knows the flags; [`words`], [`environment`] and [`mod@file`] read them into [`values`]; [`settings`] makes
//! types of them and checks them; [`wiring`] hands them to the parts of a member. What there is to say on the way is
//! returned as notices, since the log's own settings are among the flags.

pub mod dump;
pub mod duration;
pub mod environment;
pub mod file;
pub mod flags;
pub mod gates;
pub mod help;
pub mod identity;
pub mod listen;
pub mod logs;
pub mod notice;
pub mod settings;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod url;
pub mod values;
pub mod wiring;
pub mod words;

use std::io;
use std::path::Path;

use notice::Notice;
pub use settings::StoreSettings;
use values::Values;
pub use wiring::StoreConfig;

/// A configuration that cannot be used, as a sentence that names the flag at fault: exit code 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// The settings that the command line, the environment or a configuration file make. A file, named by `--config-file` or
/// `ETCD_CONFIG_FILE`, is alone: other flags and variables are ignored beside it.
///
/// # Errors
/// The first thing that cannot be used; what was found before it is in `notices`.
pub fn settle(
    mut values: Values,
    variables: &[(String, String)],
    read: impl Fn(&Path) -> io::Result<String>,
    notices: &mut Vec<Notice>,
) -> Result<StoreSettings, ConfigError> {
    let variable = || variables.iter().find(|(name, _)| name == "ETCD_CONFIG_FILE").map_or("", |(_, value)| value);
    let path = match values.text("config-file") {
        "" => variable().to_owned(),
        path => path.to_owned(),
    };
    if path.is_empty() {
        notices.extend(environment::overlay(&mut values, variables)?);
        return StoreSettings::from_values(values, notices);
    }
    let text = read(Path::new(&path))
        .map_err(|error| ConfigError(format!("cannot read the configuration file {path}: {error}")))?;
    let (values, found) =
        file::parse(&text).map_err(|error| ConfigError(format!("the configuration file {path}: {error}")))?;
    notices.push(Notice::info(
        "loaded server configuration, other configuration command line flags and environment variables will be ignored \
         if provided",
        &[("path", &path)],
    ));
    notices.extend(found);
    StoreSettings::from_values(values, notices)
}
