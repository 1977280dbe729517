//! OpenAPI documents of the served kinds: v3, an index and one document per group-version, and v2, one for everything.
//!
//! kubectl reads v3 for three things: whether the server validates fields (a PATCH operation with a `fieldValidation`
//! parameter), `explain` (descriptions), and caching (a hash in each URL). Before 1.27 it knows only v2, validates fields itself
//! with it and merges with its patch strategies; it asks for protobuf, curl and code generators for JSON. A document is built
//! when it is first asked for and kept compressed: as a tree of values the core group would cost tens of megabytes, compressed it
//! is some 100 KB.

mod components;
mod gnostic;
mod paths;
mod v2;

use std::collections::{BTreeMap, HashMap};
use std::io::{Read as _, Write as _};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::registry::Kind;

/// Raised when the form of the documents changes while version and kinds stay, so that clients drop what they cached.
const FORM: u32 = 1;

/// The documents of a set of kinds, built on first use and kept compressed.
#[derive(Debug)]
pub struct OpenApi {
    kinds: &'static [&'static Kind],
    /// Says in URLs which documents these are: program version and kinds, so that the index needs no document.
    hash: String,
    built: Mutex<HashMap<Which, Document>>,
}

/// One of the documents.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    /// Of a group-version: `api/v1` or `apis/batch/v1`.
    V3(String),
    V2(Encoding),
}

/// The forms of the v2 document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    Json,
    /// gnostic's `openapi.v2.Document`.
    Protobuf,
}

/// One document as it is served.
#[derive(Clone, Debug)]
pub struct Document {
    /// gzip of the document: send it as it is to clients that accept gzip, else through [`Document::plain`].
    pub gzip: Bytes,
    /// With its quotes.
    pub etag: String,
}

impl Document {
    fn json(document: &Value) -> Self {
        Self::zipped(|gzip| {
            serde_json::to_writer(gzip, document).expect("a document is plain JSON and memory takes all")
        })
    }

    fn zipped(write: impl FnOnce(&mut GzEncoder<Vec<u8>>)) -> Self {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        write(&mut gzip);
        let gzip = gzip.finish().expect("memory takes all");
        let etag = format!("\"{}\"", hex(&Sha256::digest(&gzip)));
        Self { gzip: gzip.into(), etag }
    }

    /// The JSON text or the protobuf message.
    #[must_use]
    pub fn plain(&self) -> Bytes {
        let mut text = Vec::new();
        GzDecoder::new(self.gzip.as_ref()).read_to_end(&mut text).expect("was compressed here");
        text.into()
    }
}

impl OpenApi {
    #[must_use]
    pub fn new(kinds: &'static [&'static Kind]) -> Self {
        let mut hash = Sha256::new();
        for part in [env!("CARGO_PKG_VERSION"), include_str!("table.txt"), &FORM.to_string()] {
            hash.update(part);
        }
        for kind in kinds {
            hash.update(format!("{}/{}/{}\n", kind.group, kind.version, kind.kind));
            for subresource in kind.subresources {
                hash.update(format!(" {} {:?}\n", subresource.name, subresource.verbs));
            }
        }
        Self { kinds, hash: hex(&hash.finalize()), built: Mutex::default() }
    }

    /// The answer to `/openapi/v3`.
    #[must_use]
    pub fn index(&self) -> Value {
        let hash = &self.hash;
        let documents: BTreeMap<String, Value> = self
            .kinds
            .iter()
            .map(|kind| root(kind))
            .map(|root| {
                let url = format!("/openapi/v3/{root}?hash={hash}");
                (root, json!({"serverRelativeURL": url}))
            })
            .collect();
        json!({"paths": documents})
    }

    /// The answer to `/openapi/v3/<path>` or `/openapi/v2`; none for a group-version that is not served.
    /// Costs tens of milliseconds the first time: call it where blocking is allowed.
    #[must_use]
    pub fn document(&self, which: &Which) -> Option<Document> {
        let mut built = self.built.lock();
        if let Some(document) = built.get(which) {
            return Some(document.clone());
        }
        let document = match which {
            Which::V3(path) => {
                let kinds: Vec<&Kind> = self.kinds.iter().copied().filter(|kind| root(kind) == *path).collect();
                if kinds.is_empty() {
                    return None;
                }
                Document::json(&build_v3(&kinds))
            }
            Which::V2(Encoding::Json) => Document::json(&build_v2(self.kinds)),
            Which::V2(Encoding::Protobuf) => {
                let message = gnostic::encode(&build_v2(self.kinds));
                Document::zipped(|gzip| gzip.write_all(&message).expect("memory takes all"))
            }
        };
        built.insert(which.clone(), document.clone());
        Some(document)
    }
}

/// `api/v1` or `apis/batch/v1`.
fn root(kind: &Kind) -> String {
    if kind.group.is_empty() {
        format!("api/{}", kind.version)
    } else {
        format!("apis/{}/{}", kind.group, kind.version)
    }
}

fn build_v3(kinds: &[&Kind]) -> Value {
    let (paths, schemas) = paths_and_schemas(kinds);
    json!({"openapi": "3.0.0", "info": info(), "paths": paths, "components": {"schemas": schemas}})
}

fn build_v2(kinds: &[&Kind]) -> Value {
    let (mut paths, mut schemas) = paths_and_schemas(kinds);
    v2::convert(&mut paths, &mut schemas);
    json!({"swagger": "2.0", "info": info(), "paths": paths, "definitions": schemas})
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": concat!("v", env!("CARGO_PKG_VERSION"))})
}

fn paths_and_schemas(kinds: &[&Kind]) -> (Map<String, Value>, Map<String, Value>) {
    let components = components::of(kinds);
    let mut paths = Map::new();
    for kind in kinds {
        paths::add(&mut paths, kind, &root(kind), &components);
    }
    (paths, components.schemas)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

#[cfg(test)]
mod tests;
