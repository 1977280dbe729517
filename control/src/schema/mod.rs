//! What the API server knows about the shape of objects.
//!
//! One generated table (`table.txt`) says for every message of the API: its fields, their types, protobuf tags, which are
//! pointers in Kubernetes' Go types, and how lists merge. Protobuf decoding, strict validation and strategic merge patch walk it;
//! OpenAPI documents come from the `schemars` descriptions of `k8s-openapi`, decorated with its merge keys.

pub mod openapi;
pub mod protobuf;
pub mod strict;
pub(crate) mod table;

/// Group, version and kind of an object. `group` is empty for the core group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Gvk {
    pub group: String,
    pub version: String,
    pub kind: String,
}

impl Gvk {
    #[must_use]
    pub fn new(group: &str, version: &str, kind: &str) -> Self {
        Self { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned() }
    }

    /// From the `apiVersion` and `kind` of an object: `batch/v1`, `Job`.
    #[must_use]
    pub fn from_api_version(api_version: &str, kind: &str) -> Self {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Self::new(group, version, kind)
    }

    /// `v1` or `batch/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}
