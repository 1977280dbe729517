//! OpenAPI v3: the index and one document per group-version, from the types of the served kinds.
//!
//! kubectl reads them for three things: whether the server validates fields (a PATCH operation with a `fieldValidation`
//! parameter), `explain` (descriptions), and caching (a hash in each URL). A document is built when it is first asked for and kept
//! compressed: as a tree of values the core group would cost tens of megabytes, compressed it is some 100 KB.

mod components;
mod paths;

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;

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
    built: Mutex<HashMap<String, Document>>,
}

/// One document as it is served.
#[derive(Clone, Debug)]
pub struct Document {
    /// gzip of the JSON text: send it as it is to clients that accept gzip, else through [`Document::json`].
    pub gzip: Bytes,
    /// With its quotes.
    pub etag: String,
}

impl Document {
    fn new(document: &Value) -> Self {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        serde_json::to_writer(&mut gzip, document).expect("a document is plain JSON and memory takes all");
        let gzip = gzip.finish().expect("memory takes all");
        let etag = format!("\"{}\"", hex(&Sha256::digest(&gzip)));
        Self { gzip: gzip.into(), etag }
    }

    /// The JSON text.
    #[must_use]
    pub fn json(&self) -> Bytes {
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

    /// The answer to `/openapi/v3/<path>`, `path` being `api/v1` or `apis/batch/v1`; none for what is not served.
    /// Costs tens of milliseconds the first time: call it where blocking is allowed.
    #[must_use]
    pub fn document(&self, path: &str) -> Option<Document> {
        let kinds: Vec<&Kind> = self.kinds.iter().copied().filter(|kind| root(kind) == path).collect();
        if kinds.is_empty() {
            return None;
        }
        let mut built = self.built.lock();
        if let Some(document) = built.get(path) {
            return Some(document.clone());
        }
        let document = Document::new(&build(&kinds, path));
        built.insert(path.to_owned(), document.clone());
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

fn build(kinds: &[&Kind], root: &str) -> Value {
    let components = components::of(kinds);
    let mut all_paths = Map::new();
    for kind in kinds {
        paths::add(&mut all_paths, kind, root, &components);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": concat!("v", env!("CARGO_PKG_VERSION"))},
        "paths": all_paths,
        "components": {"schemas": components.schemas},
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

#[cfg(test)]
mod tests;
