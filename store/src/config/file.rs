//! The configuration file: YAML (so JSON too), whose keys are flag names, with sections for TLS and sockets.
//!
//! Durations are integers of nanoseconds, as in etcd. What is read becomes flag values, so that a file and a command line
//! that say the same are the same from here on.

use serde_json::Value;

use super::ConfigError;
use super::flags::{self, Flag, Kind, SECTIONS};
use super::notice::Notice;
use super::values::{Origin, Values};

/// # Errors
/// When it is not YAML, or a key's value is of the wrong type: names the key.
pub fn parse(text: &str) -> Result<(Values, Vec<Notice>), ConfigError> {
    let root: Value = serde_norway::from_str(text).map_err(|error| ConfigError(format!("not YAML: {error}")))?;
    let mut reading = Reading { values: Values::default(), notices: Vec::new() };
    match root {
        // A file of comments.
        Value::Null => {}
        Value::Object(keys) => {
            for (key, value) in keys {
                reading.key(&key, value)?;
            }
        }
        other => return Err(ConfigError(format!("expected keys and values, found {}", kind_name(&other)))),
    }
    Ok((reading.values, reading.notices))
}

struct Reading {
    values: Values,
    notices: Vec<Notice>,
}

impl Reading {
    fn key(&mut self, key: &str, value: Value) -> Result<(), ConfigError> {
        if !SECTIONS.contains(&key) {
            return self.set("", key, &value);
        }
        match value {
            Value::Null => Ok(()),
            Value::Object(entries) => entries.iter().try_for_each(|(inner, value)| self.set(key, inner, value)),
            other => Err(ConfigError(format!("invalid {key}: expected keys and values, found {}", kind_name(&other)))),
        }
    }

    fn set(&mut self, section: &str, key: &str, value: &Value) -> Result<(), ConfigError> {
        let path = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
        let Some(flag) = flags::find_file_key(section, key) else {
            self.notices.push(Notice::warn("unknown key of the configuration file is ignored", &[("key", &path)]));
            return Ok(());
        };
        let Some(text) = text(flag, value).map_err(|expected| {
            ConfigError(format!("invalid value for {path:?}: expected {expected}, found {}", kind_name(value)))
        })?
        else {
            return Ok(());
        };
        self.values
            .set(flag, &text, Origin::File)
            .map_err(|error| ConfigError(format!("invalid value {text:?} for {path:?}: {error}")))
    }
}

/// The value as the command line would have it; `None` when the key is there without a value.
///
/// # Errors
/// The type that was expected.
fn text(flag: &Flag, value: &Value) -> Result<Option<String>, &'static str> {
    let text = match (flag.kind, value) {
        (_, Value::Null) => return Ok(None),
        (Kind::Bool, Value::Bool(value)) => value.to_string(),
        (Kind::Bool, _) => return Err("true or false"),
        (Kind::Unsigned | Kind::Unsigned32, Value::Number(number)) if number.is_u64() => number.to_string(),
        (Kind::Unsigned | Kind::Unsigned32, _) => return Err("an integer that is not negative"),
        (Kind::Signed, Value::Number(number)) if number.is_i64() => number.to_string(),
        (Kind::Signed, _) => return Err("an integer"),
        (Kind::Duration, Value::Number(number)) if number.is_u64() => format!("{number}ns"),
        (Kind::Duration, _) => return Err("an integer of nanoseconds"),
        (Kind::List, Value::Array(parts)) => {
            let parts: Option<Vec<&str>> = parts.iter().map(Value::as_str).collect();
            parts.ok_or("a list of strings")?.join(",")
        }
        // What YAML takes for a number or a truth value is text where text is expected.
        (_, Value::String(text)) => text.clone(),
        (_, Value::Number(number)) => number.to_string(),
        (_, Value::Bool(value)) => value.to_string(),
        (Kind::List, _) => return Err("a string or a list of strings"),
        (Kind::Text | Kind::Urls | Kind::Choice(_), _) => return Err("a string"),
    };
    Ok(Some(text))
}

fn kind_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "keys and values",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SAMPLE: &str = r#"
# A comment.
name: m1
data-dir: /var/lib/etcd
snapshot-count: 5000
heartbeat-interval: 29
watch-progress-notify-interval: 5000000000
pre-vote: false
quota-backend-bytes: -1
auto-compaction-retention: 8
listen-client-urls: https://127.0.0.1:2379,http://127.0.0.1:2379
log-outputs: [stderr, etcd.log]
host-whitelist: "*"
feature-gates: "CompactHashCheck=true,FastLeaseKeepAlive=false"
experimental-snapshot-catch-up-entries: 7
wal-dir:
client-transport-security:
  cert-file: server.crt
  client-cert-auth: true
  allowed-hostname: [a.example, b.example]
peer-transport-security:
  cert-file: peer.crt
  auto-tls: true
  allowed-cn: [one]
  skip-client-san-verification: true
socket-options:
  reuse-port: true
"#;

    #[test]
    fn keys_are_flags_and_sections_are_their_prefixes() {
        let (mut values, notices) = parse(SAMPLE).unwrap();
        values.resolve_aliases();
        assert_eq!(notices, []);
        assert_eq!(values.text("name"), "m1");
        assert_eq!(values.unsigned("snapshot-count"), 5000);
        assert_eq!(values.duration("watch-progress-notify-interval"), Duration::from_secs(5));
        assert!(!values.bool("pre-vote") && values.bool("socket-reuse-port"));
        assert_eq!(values.signed("quota-backend-bytes"), -1);
        assert_eq!(values.text("auto-compaction-retention"), "8");
        assert_eq!(values.urls("listen-client-urls").len(), 2);
        assert_eq!(values.list("log-outputs"), ["stderr", "etcd.log"]);
        assert_eq!(values.list("feature-gates").len(), 2);
        assert_eq!(values.unsigned("snapshot-catchup-entries"), 7);
        assert!(!values.is_given("wal-dir"));
        assert_eq!((values.text("cert-file"), values.text("peer-cert-file")), ("server.crt", "peer.crt"));
        assert!(values.bool("client-cert-auth") && values.bool("peer-auto-tls") && !values.bool("auto-tls"));
        assert_eq!(values.list("client-cert-allowed-hostname"), ["a.example", "b.example"]);
        assert!(values.bool("peer-skip-client-san-verification"));
        assert!(values.given().all(|(_, given)| given.origin == Origin::File));
    }

    #[test]
    fn json_is_yaml_and_an_empty_file_is_all_defaults() {
        let (values, _) = parse(r#"{"name": "m1", "peer-transport-security": {"auto-tls": true}}"#).unwrap();
        assert!(values.text("name") == "m1" && values.bool("peer-auto-tls"));
        assert_eq!(parse("# nothing\n").unwrap(), (Values::default(), Vec::new()));
    }

    #[test]
    fn unknown_keys_are_told_by_name() {
        let (_, notices) = parse("nmae: m1\ncert-file: x\npeer-transport-security:\n  certfile: x\n").unwrap();
        let keys: Vec<&str> = notices.iter().map(|notice| notice.fields[0].1.as_str()).collect();
        assert_eq!(keys, ["nmae", "cert-file", "peer-transport-security.certfile"]);
    }

    #[test]
    fn wrong_types_are_refused_by_the_name_of_the_key() {
        for (text, reason) in [
            (
                "snapshot-count: many",
                "invalid value for \"snapshot-count\": expected an integer that is not negative, found a string",
            ),
            (
                "snapshot-count: -1",
                "invalid value for \"snapshot-count\": expected an integer that is not negative, found a number",
            ),
            ("pre-vote: \"yes\"", "invalid value for \"pre-vote\": expected true or false, found a string"),
            (
                "corrupt-check-time: 5m",
                "invalid value for \"corrupt-check-time\": expected an integer of nanoseconds, found a string",
            ),
            ("name: [a]", "invalid value for \"name\": expected a string, found a list"),
            ("log-outputs: [1]", "invalid value for \"log-outputs\": expected a list of strings, found a list"),
            ("peer-transport-security: x", "invalid peer-transport-security: expected keys and values, found a string"),
            (
                "client-transport-security:\n  client-cert-auth: 1",
                "invalid value for \"client-transport-security.client-cert-auth\": expected true or false, found a number",
            ),
            (
                "max-concurrent-streams: 4294967296",
                "invalid value \"4294967296\" for \"max-concurrent-streams\": parse error",
            ),
            (
                "listen-peer-urls: a",
                "invalid value \"a\" for \"listen-peer-urls\": URL scheme must be http, https, unix, or unixs: a",
            ),
            ("- a", "expected keys and values, found a list"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), reason, "{text}");
        }
        assert!(parse("a: [").unwrap_err().to_string().starts_with("not YAML: "));
    }
}
