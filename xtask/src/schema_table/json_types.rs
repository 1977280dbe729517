//! What `k8s-openapi` says: the JSON fields of each message, their types, and which messages are kinds.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

/// A message as JSON sees it.
pub(super) struct JsonMessage {
    /// `batch/v1/Job`, `/v1/Pod`; none for what is only a part of others.
    pub(super) gvk: Option<String>,
    pub(super) fields: Vec<JsonField>,
}

pub(super) struct JsonField {
    pub(super) name: String,
    pub(super) type_: Type,
    /// A scalar that Go writes even when it is zero.
    pub(super) required: bool,
}

/// `string`, `core.v1.PodSpec`, `[]string`, `{}quantity`, `{}[]string`: prefixes, then the element.
pub(super) struct Type(String);

impl Type {
    /// The type without its list and map prefixes.
    pub(super) fn element(&self) -> &str {
        self.0.trim_start_matches(['[', ']', '{', '}'])
    }

    pub(super) fn is_map_of_lists(&self) -> bool {
        self.0.starts_with("{}[]")
    }

    fn is_scalar(&self) -> bool {
        matches!(self.0.as_str(), "string" | "int32" | "int64" | "bool" | "double")
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads every message under a version's folder, by its short name (`core.v1.PodSpec`).
pub(super) fn read(folder: &Path) -> io::Result<BTreeMap<String, JsonMessage>> {
    let mut messages = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        for entry in fs::read_dir(&path)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path)?;
                if let Some((name, message)) = parse(&text) {
                    messages.insert(name, message);
                }
            }
        }
    }
    Ok(messages)
}

/// `io.k8s.api.core.v1.Pod` and `io.k8s.apimachinery.pkg.apis.meta.v1.Time` → `core.v1.Pod`, `meta.v1.Time`.
fn short_name(definition: &str) -> Option<String> {
    let rest = definition.strip_prefix("io.k8s.")?;
    let short = rest.strip_prefix("api.").or_else(|| rest.strip_prefix("apimachinery.pkg.apis."))?;
    Some(short.to_owned())
}

fn parse(text: &str) -> Option<(String, JsonMessage)> {
    let definition = text.lines().next()?.strip_prefix("// Generated from definition ")?;
    let name = short_name(definition.trim())?;
    let body = text.split_once("\npub struct ")?.1.split_once("\n}")?.0;
    let json_names: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.trim().strip_suffix(',')?.split_once(" => Field::Key_"))
        .map(|(json, key)| (key, json.trim_matches('"')))
        .collect();
    let fields: Vec<JsonField> = body
        .lines()
        .filter_map(|line| line.strip_prefix("    pub ")?.strip_suffix(',')?.split_once(": "))
        .map(|(field, rust)| {
            let type_ = Type(type_of(rust));
            JsonField {
                name: json_names.get(field).copied().unwrap_or(field).to_owned(),
                required: type_.is_scalar() && !rust.starts_with("Option<"),
                type_,
            }
        })
        .collect();
    Some((name, JsonMessage { gvk: gvk(text), fields }))
}

fn gvk(text: &str) -> Option<String> {
    let constant = |name: &str| {
        let start = format!("    const {name}: &'static str = \"");
        text.lines().find_map(|line| line.strip_prefix(&start)?.strip_suffix("\";"))
    };
    Some(format!("{}/{}/{}", constant("GROUP")?, constant("VERSION")?, constant("KIND")?))
}

fn type_of(rust: &str) -> String {
    for (open, prefix) in [
        ("Option<", ""),
        ("std::boxed::Box<", ""),
        ("Box<", ""),
        ("std::vec::Vec<", "[]"),
        ("std::collections::BTreeMap<std::string::String, ", "{}"),
    ] {
        if let Some(inner) = rust.strip_prefix(open).and_then(|r| r.strip_suffix('>')) {
            return format!("{prefix}{}", type_of(inner));
        }
    }
    let scalar = match rust {
        "std::string::String" => "string",
        "i32" => "int32",
        "i64" => "int64",
        "f64" => "double",
        "bool" => "bool",
        "crate::ByteString" => "bytes",
        "crate::apimachinery::pkg::api::resource::Quantity" => "quantity",
        "crate::apimachinery::pkg::util::intstr::IntOrString" => "intorstring",
        "crate::apimachinery::pkg::apis::meta::v1::Time" => "time",
        "crate::apimachinery::pkg::apis::meta::v1::MicroTime" => "microtime",
        "crate::apimachinery::pkg::apis::meta::v1::FieldsV1" => "fields",
        "crate::apimachinery::pkg::runtime::RawExtension" | "crate::serde_json::Value" => "raw",
        message => {
            let definition = message.replacen("crate::", "io.k8s.", 1).replace("::", ".");
            return short_name(&definition).unwrap_or_else(|| "raw".to_owned());
        }
    };
    scalar.to_owned()
}
