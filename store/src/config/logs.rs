//! What the flags say about the log.

use std::path::PathBuf;

use serde::Deserialize;

use super::ConfigError;
use super::values::Values;

/// The target of events after which the process ends; in the log their level is etcd's `fatal`.
pub const FATAL: &str = "fatal";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    pub level: LogLevel,
    pub format: LogFormat,
    pub outputs: Vec<LogOutput>,
    /// Of the one file among the outputs.
    pub rotation: Option<LogRotation>,
}

/// The least severe lines that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
    /// Only why the process could not start, or ends by itself: [`FATAL`] events.
    Fatal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Console,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    Stderr,
    Stdout,
    /// systemd's journal: it collects the standard error of its services.
    Journal,
    File(PathBuf),
}

/// In the names of etcd's JSON.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LogRotation {
    /// Megabytes after which another file is begun.
    #[serde(rename = "maxsize")]
    pub size_max_mb: u64,
    /// Days after which an old file is removed; 0 is never.
    #[serde(rename = "maxage")]
    pub age_max_days: u64,
    /// Old files to keep; 0 is all.
    #[serde(rename = "maxbackups")]
    pub backups_max: usize,
    #[serde(rename = "localtime")]
    pub local_time: bool,
    pub compress: bool,
}

impl Default for LogRotation {
    fn default() -> Self {
        Self { size_max_mb: 100, age_max_days: 0, backups_max: 0, local_time: false, compress: false }
    }
}

impl LogSettings {
    /// # Errors
    /// In etcd's words.
    pub fn from_values(values: &Values) -> Result<Self, ConfigError> {
        let outputs = outputs(values)?;
        let rotation = match values.bool("enable-log-rotation") {
            true => Some(rotation(values, &outputs)?),
            false => None,
        };
        let level = match values.text("log-level") {
            "debug" => LogLevel::Debug,
            "info" | "" => LogLevel::Info,
            "warn" => LogLevel::Warn,
            "error" => LogLevel::Error,
            "dpanic" | "panic" | "fatal" => LogLevel::Fatal,
            other => return Err(ConfigError(format!("unrecognized level: {other:?}"))),
        };
        let format = match values.text("log-format") {
            "json" | "" => LogFormat::Json,
            "console" => LogFormat::Console,
            other => return Err(ConfigError(format!("unknown log format: {other}, supported values json, console"))),
        };
        Ok(Self { level, format, outputs, rotation })
    }
}

fn outputs(values: &Values) -> Result<Vec<LogOutput>, ConfigError> {
    let mut names = values.list("log-outputs");
    if names.is_empty() {
        names.push("default".into());
    }
    if names.len() > 1 && names.iter().any(|name| name == "default") {
        return Err(ConfigError("multi logoutput for \"default\" is not supported yet".into()));
    }
    if names.len() > 1 && names.iter().any(|name| name == "systemd/journal") {
        return Err(ConfigError(format!(
            "running with systemd/journal but other '--log-outputs' values ({names:?}) are configured with 'default'; \
             override 'default' value with something else"
        )));
    }
    let output = |name: &String| match name.as_str() {
        "default" | "stderr" => LogOutput::Stderr,
        "stdout" => LogOutput::Stdout,
        "systemd/journal" => LogOutput::Journal,
        path => LogOutput::File(PathBuf::from(path)),
    };
    Ok(names.iter().map(output).collect())
}

fn rotation(values: &Values, outputs: &[LogOutput]) -> Result<LogRotation, ConfigError> {
    let files = outputs.iter().filter(|output| matches!(output, LogOutput::File(_))).count();
    if files != 1 {
        let reason = "--log-outputs requires a single file path when --log-rotate-config-json is defined";
        return Err(ConfigError(reason.into()));
    }
    let mut rotation: LogRotation =
        serde_json::from_str(values.text("log-rotation-config-json")).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => ConfigError(format!("invalid log rotation config: {error}")),
            _ => ConfigError(format!("improperly formatted log rotation config: {error}")),
        })?;
    if rotation.size_max_mb == 0 {
        rotation.size_max_mb = LogRotation::default().size_max_mb;
    }
    Ok(rotation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::flags;
    use crate::config::values::Origin;

    fn settings(given: &[(&str, &str)]) -> Result<LogSettings, String> {
        let mut values = Values::default();
        for (name, text) in given {
            values.set(flags::find(name).unwrap(), text, Origin::CommandLine).unwrap();
        }
        LogSettings::from_values(&values).map_err(|error| error.to_string())
    }

    #[test]
    fn outputs_are_streams_or_files() {
        let logs = settings(&[("log-outputs", "stdout,a.log,stdout,stderr")]).unwrap();
        assert_eq!(logs.outputs, [LogOutput::Stdout, LogOutput::File("a.log".into()), LogOutput::Stderr]);
        assert_eq!(settings(&[]).unwrap().outputs, [LogOutput::Stderr]);
        assert!(settings(&[("log-outputs", "default,a.log")]).unwrap_err().contains("multi logoutput"));
    }

    #[test]
    fn rotation_needs_one_file_and_its_json() {
        let on = ("enable-log-rotation", "true");
        let file = ("log-outputs", "stderr,a.log");
        assert_eq!(settings(&[on, file]).unwrap().rotation, Some(LogRotation::default()));
        let json = ("log-rotation-config-json", r#"{"maxsize": 1, "maxbackups": 3, "filename": "x"}"#);
        let rotation = settings(&[on, file, json]).unwrap().rotation.unwrap();
        assert_eq!((rotation.size_max_mb, rotation.backups_max, rotation.age_max_days), (1, 3, 0));
        assert!(settings(&[on]).unwrap_err().contains("requires a single file path"));
        assert!(settings(&[on, ("log-outputs", "a,b")]).unwrap_err().contains("requires a single file path"));
        let text = settings(&[on, file, ("log-rotation-config-json", r#"{"maxsize": "1"}"#)]).unwrap_err();
        assert!(text.starts_with("invalid log rotation config"), "{text}");
        let text = settings(&[on, file, ("log-rotation-config-json", "{")]).unwrap_err();
        assert!(text.starts_with("improperly formatted log rotation config"), "{text}");
    }

    #[test]
    fn levels_and_formats_are_zaps() {
        assert_eq!(settings(&[("log-level", "panic")]).unwrap().level, LogLevel::Fatal);
        assert_eq!(settings(&[("log-level", "loud")]).unwrap_err(), "unrecognized level: \"loud\"");
        assert!(settings(&[("log-format", "xml")]).unwrap_err().contains("unknown log format: xml"));
    }
}
