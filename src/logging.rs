//! Log lines: etcd's JSON or console lines for the store (its tools read `level`, `ts`, `caller`, `msg`), plain text elsewhere.
//!
//! A field named `json` holds an object whose members become fields of the line: a line may have more of them, and other
//! types, than a tracing event can carry.

mod outputs;
mod queue;
mod rotation;

use std::fmt;

use anyhow::Result;
use kontiki_store::config::logs::{FATAL, LogFormat, LogLevel, LogOutput, LogSettings};
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use queue::Queue;
pub use queue::flush;

/// What a subcommand logs when `KONTIKI_LOG` does not say otherwise. openraft tells each of its steps at `info`.
const QUIET_LIBRARIES: &str = "openraft=error,h2=warn,hyper=warn,rustls=warn,tower=warn,kube=warn";

/// The last line of a process that cannot go on.
macro_rules! fatal {
    ($($arguments:tt)*) => { tracing::error!(target: kontiki_store::config::logs::FATAL, $($arguments)*) };
}
pub(crate) use fatal;

/// `level`: `debug`, `info`, `warn`, `error`; etcd's `panic` and `fatal` leave only what is fatal.
pub fn filter(level: &str) -> EnvFilter {
    let filter = match level {
        "dpanic" | "panic" | "fatal" => format!("off,{FATAL}=error"),
        level => format!("{level},{QUIET_LIBRARIES}"),
    };
    EnvFilter::try_from_env("KONTIKI_LOG").unwrap_or_else(|_| EnvFilter::new(filter))
}

/// As etcd's flags say.
pub fn etcd(settings: &LogSettings) -> Result<()> {
    let level = match settings.level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
        LogLevel::Fatal => "fatal",
    };
    let writer = Queue::of(outputs::Outputs::open(settings)?)?;
    let format = EtcdLine { format: settings.format };
    tracing_subscriber::fmt().with_env_filter(filter(level)).with_writer(writer).event_format(format).init();
    if settings.outputs.contains(&LogOutput::Journal) {
        tracing::info!("--log-outputs=systemd/journal is standard error here, which systemd collects");
    }
    Ok(())
}

/// For what must be said before the flags are known: JSON on standard error. Does nothing where there is a log already.
pub fn etcd_default() {
    let format = EtcdLine { format: LogFormat::Json };
    let log = tracing_subscriber::fmt().with_env_filter(filter("info")).with_writer(std::io::stderr);
    let _ = log.event_format(format).try_init();
}

/// Plain text on standard error.
pub fn text(level: &str) -> Result<()> {
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let writer = Queue::of(std::io::stderr())?;
    tracing_subscriber::fmt().with_env_filter(filter(level)).with_writer(writer).with_ansi(colour).init();
    Ok(())
}

struct EtcdLine {
    format: LogFormat,
}

impl<S, N> FormatEvent<S, N> for EtcdLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let mut line = Line::default();
        event.record(&mut line);
        writeln!(writer, "{}", line.text(self.format, &timestamp(), metadata))
    }
}

/// What an event says.
#[derive(Default)]
struct Line {
    message: String,
    fields: Map<String, Value>,
}

impl Line {
    fn text(self, format: LogFormat, timestamp: &str, metadata: &Metadata<'_>) -> String {
        let level = level_name(metadata);
        let file = metadata.file().map_or("?", |path| path.rsplit_once("src/").map_or(path, |(_, rest)| rest));
        let caller = format!("{file}:{}", metadata.line().unwrap_or(0));
        match format {
            LogFormat::Json => {
                let mut line = Map::new();
                for (name, value) in [("level", level), ("ts", timestamp), ("caller", &caller), ("msg", &self.message)]
                {
                    line.insert(name.to_owned(), value.into());
                }
                line.extend(self.fields);
                Value::Object(line).to_string()
            }
            LogFormat::Console => {
                let mut text = format!("{timestamp}\t{level}\t{caller}\t{}", self.message);
                if !self.fields.is_empty() {
                    text.push('\t');
                    text.push_str(&Value::Object(self.fields).to_string());
                }
                text
            }
        }
    }

    fn insert(&mut self, field: &Field, value: Value) {
        self.fields.insert(field.name().to_owned(), value);
    }

    fn text_field(&mut self, field: &Field, text: &str) {
        match field.name() {
            "message" => text.clone_into(&mut self.message),
            "json" => match serde_json::from_str(text) {
                Ok(Value::Object(members)) => self.fields.extend(members),
                _ => self.insert(field, text.into()),
            },
            _ => self.insert(field, text.into()),
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text_field(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text_field(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value.into());
    }
}

fn level_name(metadata: &Metadata<'_>) -> &'static str {
    match *metadata.level() {
        Level::ERROR if metadata.target() == FATAL => "fatal",
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

/// RFC 3339 in UTC with microseconds.
fn timestamp() -> String {
    k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, say: impl FnOnce()) -> String {
        let memory = Memory::default();
        let writer = memory.clone();
        let log = tracing_subscriber::fmt().with_writer(move || writer.clone()).event_format(EtcdLine { format });
        tracing::subscriber::with_default(log.finish(), say);
        String::from_utf8(memory.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_line_has_etcds_fields_first_and_then_its_own() {
        let line = logged(LogFormat::Json, || {
            let fields = r#"{"cors":["*"],"snapshot-catchup-entries":1000}"#;
            tracing::info!(json = fields, "local-member-id" = "8e9e05c52164694d", count = 3_u64, ok = true, "starting");
        });
        let value: Value = serde_json::from_str(&line).unwrap();
        let names: Vec<&String> = value.as_object().unwrap().keys().collect();
        assert_eq!(names[..4], ["level", "ts", "caller", "msg"]);
        assert_eq!((&value["level"], &value["msg"]), (&"info".into(), &"starting".into()));
        assert!(value["caller"].as_str().unwrap().starts_with("logging.rs:"), "{value}");
        assert!(value["ts"].as_str().unwrap().ends_with('Z') && value["cors"][0] == "*");
        assert!(line.contains(r#""snapshot-catchup-entries":1000"#), "{line}");
        assert_eq!((&value["count"], &value["ok"]), (&3.into(), &true.into()));
    }

    #[test]
    fn the_console_has_tabs() {
        let line = logged(LogFormat::Console, || tracing::warn!(a = 1, "beware"));
        let parts: Vec<&str> = line.trim_end().split('\t').collect();
        assert_eq!((parts.len(), parts[1], parts[3], parts[4]), (5, "warn", "beware", r#"{"a":1}"#));
    }

    #[test]
    fn only_the_end_of_the_process_is_fatal() {
        let lines = logged(LogFormat::Json, || {
            fatal!(error = "no disk", "cannot start");
            tracing::error!("a mistake");
        });
        let levels: Vec<&str> = lines.lines().map(|line| line.split('"').nth(3).unwrap()).collect();
        assert_eq!(levels, ["fatal", "error"]);
    }
}
