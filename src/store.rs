//! `kontiki store`: a store member alone, with etcd's command line, environment and configuration file.
//!
//! What etcd's scripts look at is kept: what `--version` prints, exit codes (2 for a command line that cannot be read, 1 for
//! what cannot be used), and the signal that ended the process. A link named `etcd` is this subcommand.

mod data_dir;
mod flags;
mod notify;
mod running;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use kontiki_store::config::notice::{Level, Notice};
use kontiki_store::config::values::Values;
use kontiki_store::config::{self, ConfigError, StoreSettings, help, words};
use kontiki_store::edge::ETCD_VERSION;

pub use flags::Flags;
pub use running::Running;

use crate::{logging, net, signals};

/// Read by [`words`], in Go's syntax.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Arguments {
    /// etcd's flags: see `kontiki store --help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    words: Vec<OsString>,
}

/// `program` is what to call it in the usage.
pub fn main(arguments: &Arguments, program: &str) -> ExitCode {
    let words: Vec<String> = arguments.words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let line = match words::parse(&words) {
        Ok(line) => line,
        Err(error) => {
            print(std::io::stderr(), &format!("{error}\n{}", help::usage(program)));
            return ExitCode::from(2);
        }
    };
    if line.help {
        print(std::io::stdout(), &format!("{}{}", help::usage(program), help::flags()));
        return ExitCode::SUCCESS;
    }
    if let Some(word) = line.positional {
        return refuse(&ConfigError(not_a_flag(&word)));
    }
    if line.values.bool("version") {
        print(std::io::stdout(), &version());
        return ExitCode::SUCCESS;
    }
    let mut notices = Vec::new();
    let settings = settle(line.values, &mut notices).and_then(|settings| {
        logging::etcd(&settings.logs).map_err(|error| ConfigError(format!("{error:#}")))?;
        Ok(settings)
    });
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => {
            logging::etcd_default();
            tell(&notices);
            tracing::warn!(%error, "failed to verify flags");
            return ExitCode::FAILURE;
        }
    };
    tracing::info!(json = serde_json::json!({ "args": words }).to_string(), "Running: ");
    tell(&notices);
    match run(&settings) {
        Ok(()) => signals::end_as_told(),
        Err(error) => {
            logging::fatal!(error = format!("{error:#}"), "cannot start the member");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: &StoreSettings) -> Result<()> {
    net::current_thread()?.block_on(async {
        let shutdown = signals::shutdown()?;
        let running = Running::start(settings).await?;
        running.until(shutdown).await;
        Ok(())
    })
}

/// The settings of a command line, with this process' environment and file system.
pub fn settle(values: Values, notices: &mut Vec<Notice>) -> Result<StoreSettings, ConfigError> {
    let text = |word: OsString| word.to_string_lossy().into_owned();
    let variables: Vec<(String, String)> = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
    config::settle(values, &variables, |path: &Path| std::fs::read_to_string(path), notices)
}

/// Says what reading the settings had to say.
pub fn tell(notices: &[Notice]) {
    for notice in notices {
        let fields: serde_json::Map<_, _> =
            notice.fields.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into())).collect();
        let fields = serde_json::Value::Object(fields).to_string();
        match notice.level {
            Level::Info => tracing::info!(json = fields, "{}", notice.message),
            Level::Warn => tracing::warn!(json = fields, "{}", notice.message),
        }
    }
}

fn refuse(error: &ConfigError) -> ExitCode {
    logging::etcd_default();
    tracing::warn!(%error, "failed to verify flags");
    ExitCode::FAILURE
}

fn not_a_flag(word: &str) -> String {
    match word {
        "gateway" | "grpc-proxy" => format!("{word:?} is not a valid flag: etcd's proxies are not a part of Kontiki"),
        _ => format!("{word:?} is not a valid flag"),
    }
}

/// etcd's four lines; tools read the first.
fn version() -> String {
    let system = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let sha = option_env!("KONTIKI_GIT_SHA").unwrap_or("Not provided");
    format!(
        "etcd Version: {ETCD_VERSION}\nGit SHA: {sha}\nGo Version: none (kontiki {}, Rust)\nGo OS/Arch: {}/{system}\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
    )
}

/// A reader that went away, as `head` does, is no failure.
fn print(mut to: impl Write, text: &str) {
    let _ = to.write_all(text.as_bytes());
}
