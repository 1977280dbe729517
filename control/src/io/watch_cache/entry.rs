//! One object as the cache holds it.

use bytes::Bytes;
use serde_json::Value;

use crate::engine::{meta, set_meta};
use crate::registry::Kind;

/// The encoded object and what selectors need of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    pub namespace: String,
    pub name: String,
    pub revision: i64,
    labels: Vec<(String, String)>,
    fields: Vec<(&'static str, String)>,
    /// The whole object with its `resourceVersion`.
    pub json: Bytes,
}

impl Entry {
    /// From the bytes in the store. An object that is not JSON was not written by an API server: it is left out and logged.
    #[must_use]
    pub fn from_stored(kind: &Kind, key: &str, value: &[u8], revision: i64) -> Option<Self> {
        match decode(value, revision) {
            Some(object) => Some(Self::new(kind, &object, revision)),
            None => {
                tracing::error!(key, "a stored object is not JSON and is ignored");
                None
            }
        }
    }

    /// `object` carries `revision` as its resourceVersion.
    #[must_use]
    pub fn new(kind: &Kind, object: &Value, revision: i64) -> Self {
        let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
        Self {
            namespace: meta(object, "namespace").to_owned(),
            name: meta(object, "name").to_owned(),
            revision,
            labels: labels.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect(),
            fields: kind.strategy.selectable_fields(object),
            json: serde_json::to_vec(object).expect("a JSON value encodes").into(),
        }
    }

    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    #[must_use]
    pub fn field(&self, field: &str) -> Option<&str> {
        match field {
            "metadata.name" => Some(&self.name),
            "metadata.namespace" => Some(&self.namespace),
            _ => self.fields.iter().find(|(f, _)| *f == field).map(|(_, v)| v.as_str()),
        }
    }

    /// The object itself.
    #[must_use]
    pub fn object(&self) -> Value {
        serde_json::from_slice(&self.json).expect("the cache holds what it encoded")
    }

    /// The same object at another revision: a deletion shows the last state at the revision of the deletion.
    #[must_use]
    pub fn json_at(&self, revision: i64) -> Bytes {
        if revision == self.revision {
            return self.json.clone();
        }
        let mut object = self.object();
        set_meta(&mut object, "resourceVersion", Some(revision.to_string().into()));
        serde_json::to_vec(&object).expect("a JSON value encodes").into()
    }
}

/// The object in stored bytes, with its resourceVersion; none when they are not a JSON object.
#[must_use]
pub fn decode(value: &[u8], revision: i64) -> Option<Value> {
    let mut object: Value = serde_json::from_slice(value).ok()?;
    object.as_object()?;
    set_meta(&mut object, "resourceVersion", Some(revision.to_string().into()));
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        metadata.sort_keys();
    }
    Some(object)
}

/// What is stored: the object without its resourceVersion, which the store knows.
#[must_use]
pub fn encode(object: &Value) -> Bytes {
    let mut object = object.clone();
    set_meta(&mut object, "resourceVersion", None);
    serde_json::to_vec(&object).expect("a JSON value encodes").into()
}
