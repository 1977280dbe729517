//! `cargo xtask schema-table`: writes `control/src/schema/table.txt`, what the control plane knows about the shape of objects.
//!
//! Three sources are joined. `k8s-openapi` says which fields a message has in JSON and of what type; `k8s-pb` says their
//! protobuf tags; `go_facts.txt` says which scalars are pointers in Go (so that an explicit zero means something) and how lists
//! merge. Both crates are read as text, because generated code is regular and a dependency would compile 400,000 lines.

mod json_types;
mod proto_tags;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::process::{Failure, cargo, run, step, workspace};
use json_types::{JsonField, JsonMessage};
use proto_tags::{ProtoField, ProtoMessages};

const OPENAPI: (&str, &str) = ("k8s-openapi", "0.29.0");
const PROTOBUF: (&str, &str) = ("k8s-pb", "0.9.0");
const KUBERNETES: &str = "v1_33";

/// The group-versions whose messages are written, with what they refer to.
const PACKAGES: &[&str] = &[
    "apps.v1",
    "authentication.v1",
    "authorization.v1",
    "autoscaling.v1",
    "autoscaling.v2",
    "batch.v1",
    "certificates.v1",
    "coordination.v1",
    "core.v1",
    "discovery.v1",
    "events.v1",
    "networking.v1",
    "node.v1",
    "policy.v1",
    "rbac.v1",
    "scheduling.v1",
    "storage.v1",
];

/// Messages of `meta.v1` that are request bodies of their own.
const BODIES: &[&str] = &["meta.v1.DeleteOptions", "meta.v1.Status"];

/// Reads the sources and writes the table.
pub fn generate() -> Result<(), Failure> {
    let openapi = source(OPENAPI)?.join("src").join(KUBERNETES);
    let protobuf = source(PROTOBUF)?.join("src");
    step("reading the sources");
    let messages = json_types::read(&openapi).map_err(|e| told(&openapi, &e))?;
    let tags = proto_tags::read(&protobuf).map_err(|e| told(&protobuf, &e))?;
    let facts = Facts::parse(include_str!("go_facts.txt"));
    let text = table(&messages, &tags, &facts);
    let path = workspace().join("control/src/schema/table.txt");
    fs::write(&path, &text).map_err(|e| told(&path, &e))?;
    step(&format!("{}: {} lines", path.display(), text.lines().count()));
    Ok(())
}

fn told(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("{}: {error}", path.display()))
}

/// Where cargo unpacked a crate; downloads it when it is not there.
fn source(wanted: (&str, &str)) -> Result<PathBuf, Failure> {
    if let Some(path) = unpacked(wanted) {
        return Ok(path);
    }
    let package = workspace().join("target/schema-table");
    let (name, version) = wanted;
    // An empty [workspace] keeps cargo from looking at the real one.
    let manifest = format!(
        "[package]\nname = \"sources\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[lib]\npath = \"lib.rs\"\n\
         [dependencies]\n{name} = \"={version}\"\n[workspace]\n"
    );
    fs::create_dir_all(&package).map_err(|e| told(&package, &e))?;
    fs::write(package.join("Cargo.toml"), manifest).map_err(|e| told(&package, &e))?;
    fs::write(package.join("lib.rs"), "").map_err(|e| told(&package, &e))?;
    run(cargo("fetch").current_dir(&package))?;
    unpacked(wanted)
        .ok_or_else(|| Failure::new(format!("cargo fetched {name} {version}, but it is not in the registry")))
}

fn unpacked((name, version): (&str, &str)) -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))?;
    let registries = fs::read_dir(home.join("registry/src")).ok()?;
    registries.flatten().map(|r| r.path().join(format!("{name}-{version}"))).find(|path| path.is_dir())
}

/// What `go_facts.txt` says, by (message, field).
struct Facts {
    pointers: BTreeSet<(String, String)>,
    lists: BTreeMap<(String, String), String>,
}

impl Facts {
    fn parse(text: &str) -> Self {
        let mut facts = Self { pointers: BTreeSet::new(), lists: BTreeMap::new() };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split(' ');
            let (Some(message), Some(what)) = (words.next(), words.next()) else { continue };
            for word in words {
                if what == "pointers" {
                    facts.pointers.insert((message.to_owned(), word.to_owned()));
                } else if let Some((field, strategy)) = word.split_once('=') {
                    facts.lists.insert((message.to_owned(), field.to_owned()), strategy.to_owned());
                }
            }
        }
        facts
    }
}

/// Whether a message is the root of what is written.
fn wanted(name: &str) -> bool {
    BODIES.contains(&name)
        || PACKAGES.iter().any(|package| name.strip_prefix(package).is_some_and(|n| n.starts_with('.')))
}

fn table(messages: &BTreeMap<String, JsonMessage>, tags: &ProtoMessages, facts: &Facts) -> String {
    let mut reached: BTreeSet<&str> = BTreeSet::new();
    let mut open: Vec<&str> = messages.keys().map(String::as_str).filter(|name| wanted(name)).collect();
    while let Some(name) = open.pop() {
        let Some(message) = messages.get(name) else { continue };
        if reached.insert(name) {
            open.extend(message.fields.iter().map(|field| field.type_.element()));
        }
    }
    let mut text = format!(
        "# Generated by `cargo xtask schema-table` from {} {} ({KUBERNETES}) and {} {}. Do not edit.\n\
         # <message> [group/version/kind]\n\
         #  <json name> <protobuf tag, or inlined message's tag.tag, or 0> <type> [pointer] [required] [wrapped] [patch=…]\n",
        OPENAPI.0, OPENAPI.1, PROTOBUF.0, PROTOBUF.1
    );
    for name in reached {
        write_message(&mut text, name, &messages[name], tags, facts);
    }
    text
}

fn write_message(text: &mut String, name: &str, message: &JsonMessage, tags: &ProtoMessages, facts: &Facts) {
    let kind = message.gvk.as_deref().map(|gvk| format!(" {gvk}")).unwrap_or_default();
    writeln!(text, "{name}{kind}").expect("a String takes all");
    let proto = tags.message(name);
    if proto.is_none() {
        eprintln!("    no protobuf message: {name}");
    }
    for field in &message.fields {
        let found = proto.and_then(|proto| find_tag(name, &field.name, proto, message, tags));
        if found.is_none() && proto.is_some() && !(field.name == "apiVersion" || field.name == "kind") {
            eprintln!("    no protobuf field: {name}.{}", field.name);
        }
        let (tag, wrapped) = found.unwrap_or_else(|| ("0".to_owned(), false));
        write!(text, " {} {tag} {}", field.name, field.type_).expect("a String takes all");
        let key = (name.to_owned(), field.name.clone());
        for (flag, is_set) in [
            (" pointer", facts.pointers.contains(&key)),
            (" required", field.required),
            (" wrapped", wrapped && field.type_.is_map_of_lists()),
        ] {
            text.push_str(if is_set { flag } else { "" });
        }
        if let Some(strategy) = facts.lists.get(&key) {
            write!(text, " patch={strategy}").expect("a String takes all");
        }
        text.push('\n');
    }
}

/// The tag of a JSON field: `3`, or `2.3` when Go inlines message 2 into this one. With it, whether the values of a map are
/// messages in protobuf.
fn find_tag(
    name: &str,
    field: &str,
    proto: &BTreeMap<String, ProtoField>,
    message: &JsonMessage,
    tags: &ProtoMessages,
) -> Option<(String, bool)> {
    if let Some(found) = proto.get(&plain(field)) {
        return Some((found.tag.to_string(), found.is_map_of_messages));
    }
    let is_json = |key: &str| message.fields.iter().any(|f: &JsonField| plain(&f.name) == key);
    let (package, _) = name.rsplit_once('.')?;
    proto.iter().filter(|(key, _)| !is_json(key)).find_map(|(_, outer)| {
        let inner = tags.message(&format!("{package}.{}", outer.message.as_deref()?))?.get(&plain(field))?;
        Some((format!("{}.{}", outer.tag, inner.tag), inner.is_map_of_messages))
    })
}

/// Names as both sources spell them once case and separators are gone: `hostIPs`, `host_i_ps` → `hostips`.
fn plain(name: &str) -> String {
    name.trim_start_matches("r#").chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect()
}
