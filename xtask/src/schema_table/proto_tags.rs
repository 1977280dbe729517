//! What `k8s-pb` says: the protobuf tag of each field.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::plain;

/// Where a field is on the wire.
pub(super) struct ProtoField {
    pub(super) tag: u32,
    /// The name of the message it holds, when it holds one.
    pub(super) message: Option<String>,
    pub(super) is_map_of_messages: bool,
}

/// Fields by their plain names, of messages by their plain names.
pub(super) struct ProtoMessages(BTreeMap<String, BTreeMap<String, ProtoField>>);

impl ProtoMessages {
    /// `core.v1.PodSpec`.
    pub(super) fn message(&self, name: &str) -> Option<&BTreeMap<String, ProtoField>> {
        self.0.get(&plain(name))
    }
}

/// Reads every `mod.rs` under `api/` and `apimachinery/pkg/apis/`.
pub(super) fn read(folder: &Path) -> io::Result<ProtoMessages> {
    let mut messages = BTreeMap::new();
    for root in ["api", "apimachinery/pkg/apis"] {
        for group in fs::read_dir(folder.join(root))? {
            let group = group?.path();
            if !group.is_dir() {
                continue;
            }
            for version in fs::read_dir(&group)? {
                let version = version?.path();
                if version.is_dir() {
                    let text = fs::read_to_string(version.join("mod.rs"))?;
                    let package = format!("{}.{}", last(&group), last(&version));
                    parse(&text, &package, &mut messages);
                }
            }
        }
    }
    Ok(ProtoMessages(messages))
}

fn last(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn parse(text: &str, package: &str, messages: &mut BTreeMap<String, BTreeMap<String, ProtoField>>) {
    let mut fields: Option<&mut BTreeMap<String, ProtoField>> = None;
    // prost puts long attributes on several lines.
    let mut attribute = String::new();
    let mut is_open = false;
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with("///")) {
        if is_open || line.starts_with("#[prost(") {
            if !is_open {
                attribute.clear();
            }
            attribute.push_str(line);
            is_open = !line.ends_with(")]");
        } else if let Some(name) = line.strip_prefix("pub struct ").and_then(|l| l.split(' ').next()) {
            let name = plain(&format!("{package}.{name}"));
            fields = Some(messages.entry(name).or_default());
        } else if let (Some(fields), Some(field)) = (fields.as_mut(), line.strip_prefix("pub ")) {
            if let Some((name, field)) = parse_field(field, &attribute) {
                fields.insert(name, field);
            }
            attribute.clear();
        }
    }
}

fn parse_field(field: &str, attribute: &str) -> Option<(String, ProtoField)> {
    let (name, type_) = field.split_once(": ").unwrap_or((field.trim_end_matches(':'), ""));
    let tag = attribute.split_once("tag = \"")?.1.split_once('"')?.0.parse().ok()?;
    let is_map = attribute.contains("btree_map");
    let holds_message = attribute.contains("message");
    let message = type_.trim_end_matches([',', '>']).rsplit([':', '<', ' ']).next().unwrap_or_default();
    let message = (holds_message && !is_map).then(|| message.to_owned());
    Some((plain(name), ProtoField { tag, message, is_map_of_messages: is_map && holds_message }))
}
