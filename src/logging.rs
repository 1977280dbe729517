//! Log lines: etcd's JSON for the store (its tools read `level`, `ts`, `caller`, `msg`), plain text elsewhere.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// What a subcommand logs when `KONTIKI_LOG` does not say otherwise. openraft tells each of its steps at `info`.
const QUIET_LIBRARIES: &str = "openraft=error,h2=warn,hyper=warn,rustls=warn,tower=warn,kube=warn";

/// `level`: `debug`, `info`, `warn`, `error`.
pub fn filter(level: &str) -> EnvFilter {
    EnvFilter::try_from_env("KONTIKI_LOG").unwrap_or_else(|_| EnvFilter::new(format!("{level},{QUIET_LIBRARIES}")))
}

/// One JSON object a line on standard error, in etcd's shape.
pub fn json(level: &str) {
    tracing_subscriber::fmt().with_env_filter(filter(level)).with_writer(std::io::stderr).event_format(EtcdLine).init();
}

/// Plain text on standard error.
pub fn text(level: &str) {
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter(level)).with_writer(std::io::stderr).with_ansi(colour).init();
}

struct EtcdLine;

impl<S, N> FormatEvent<S, N> for EtcdLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let mut line = Map::new();
        line.insert("level".into(), level_name(*metadata.level()).into());
        line.insert("ts".into(), timestamp().into());
        let file = metadata.file().map_or("?", |path| path.rsplit_once("src/").map_or(path, |(_, rest)| rest));
        line.insert("caller".into(), format!("{file}:{}", metadata.line().unwrap_or(0)).into());
        line.insert("msg".into(), Value::String(String::new()));
        event.record(&mut Fields(&mut line));
        writeln!(writer, "{}", Value::Object(line))
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
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

struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn insert(&mut self, field: &Field, value: Value) {
        let name = if field.name() == "message" { "msg" } else { field.name() };
        self.0.insert(name.to_owned(), value);
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value.into());
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
