//! What kubectl looks for in the documents.

use super::*;
use crate::registry;

fn documents() -> OpenApi {
    OpenApi::new(registry::kinds())
}

fn parsed(documents: &OpenApi, path: &str) -> Value {
    serde_json::from_slice(&documents.document(path).unwrap().json()).unwrap()
}

#[test]
fn the_index_leads_to_every_group_version() {
    let documents = documents();
    let index = documents.index();
    for (path, entry) in index["paths"].as_object().unwrap() {
        let url = entry["serverRelativeURL"].as_str().unwrap();
        assert!(url.starts_with(&format!("/openapi/v3/{path}?hash=")), "{url}");
        assert!(documents.document(path).is_some(), "{path}");
    }
    assert!(index["paths"]["api/v1"].is_object());
    assert!(documents.document("apis/unknown/v1").is_none());
}

/// The check of `kubectl apply --validate=strict`.
#[test]
fn every_kind_says_that_its_fields_are_validated() {
    let documents = documents();
    for kind in registry::kinds() {
        let document = parsed(&documents, &root(kind));
        let gvk = json!({"group": kind.group, "kind": kind.kind, "version": kind.version});
        let says = document["paths"].as_object().unwrap().values().any(|path| {
            let patch = &path["patch"];
            patch["x-kubernetes-group-version-kind"] == gvk
                && patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation")
        });
        assert!(says, "{}", kind.kind);
    }
}

/// What `kubectl explain` walks: kind by group-version-kind, then references.
#[test]
fn every_kind_has_a_described_schema() {
    let documents = documents();
    for kind in registry::kinds() {
        let document = parsed(&documents, &root(kind));
        let gvk = json!([{"group": kind.group, "kind": kind.kind, "version": kind.version}]);
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let schema = schemas.values().find(|s| s["x-kubernetes-group-version-kind"] == gvk);
        let schema = schema.unwrap_or_else(|| panic!("{} has no schema", kind.kind));
        assert!(schema["description"].as_str().unwrap().contains(' '));
    }
    let document = parsed(&documents, "api/v1");
    let schemas = &document["components"]["schemas"];
    let spec = &schemas["io.k8s.api.core.v1.Pod"]["properties"]["spec"];
    assert_eq!(spec["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.PodSpec");
    assert!(spec["description"].as_str().unwrap().starts_with("Specification of the desired behavior"));
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["items"]["$ref"], "#/components/schemas/io.k8s.api.core.v1.Container");
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
}

#[test]
fn no_reference_leads_nowhere() {
    fn check(value: &Value, schemas: &Value) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    let name = reference.strip_prefix("#/components/schemas/").unwrap();
                    assert!(schemas[name].is_object(), "{reference}");
                }
                map.values().for_each(|v| check(v, schemas));
            }
            Value::Array(items) => items.iter().for_each(|v| check(v, schemas)),
            _ => {}
        }
    }
    let documents = documents();
    for path in documents.index()["paths"].as_object().unwrap().keys() {
        let document = parsed(&documents, path);
        check(&document, &document["components"]["schemas"]);
    }
}

#[test]
fn a_document_is_built_once_and_small() {
    let documents = documents();
    let (first, second) = (documents.document("api/v1").unwrap(), documents.document("api/v1").unwrap());
    assert_eq!(first.gzip.as_ptr(), second.gzip.as_ptr(), "the same bytes");
    assert_eq!(first.etag, second.etag);
    assert!(first.gzip.len() < 200_000, "{} bytes", first.gzip.len());
    let again = OpenApi::new(registry::kinds()).document("api/v1").unwrap();
    assert_eq!(again.etag, first.etag, "another server serves the same document");
}
