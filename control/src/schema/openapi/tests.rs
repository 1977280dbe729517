//! What kubectl looks for in the documents.

use super::*;
use crate::registry;

fn documents() -> OpenApi {
    OpenApi::new(registry::kinds())
}

fn parsed(documents: &OpenApi, path: &str) -> Value {
    parsed_document(documents, &Which::V3(path.to_owned()))
}

fn parsed_document(documents: &OpenApi, which: &Which) -> Value {
    serde_json::from_slice(&documents.document(which).unwrap().plain()).unwrap()
}

#[test]
fn the_index_leads_to_every_group_version() {
    let documents = documents();
    let index = documents.index();
    for (path, entry) in index["paths"].as_object().unwrap() {
        let url = entry["serverRelativeURL"].as_str().unwrap();
        assert!(url.starts_with(&format!("/openapi/v3/{path}?hash=")), "{url}");
        assert!(documents.document(&Which::V3(path.clone())).is_some(), "{path}");
    }
    assert!(index["paths"]["api/v1"].is_object());
    assert!(documents.document(&Which::V3("apis/unknown/v1".into())).is_none());
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
    let core = Which::V3("api/v1".into());
    let (first, second) = (documents.document(&core).unwrap(), documents.document(&core).unwrap());
    assert_eq!(first.gzip.as_ptr(), second.gzip.as_ptr(), "the same bytes");
    assert_eq!(first.etag, second.etag);
    assert!(first.gzip.len() < 200_000, "{} bytes", first.gzip.len());
    let again = OpenApi::new(registry::kinds()).document(&core).unwrap();
    assert_eq!(again.etag, first.etag, "another server serves the same document");
    let everything = documents.document(&Which::V2(Encoding::Protobuf)).unwrap();
    assert!(everything.gzip.len() < 200_000, "{} bytes", everything.gzip.len());
}

fn v2() -> Value {
    parsed_document(&documents(), &Which::V2(Encoding::Json))
}

/// As kube-openapi's `ParseSchema` in kubectl before 1.27, which refuses the whole document for one schema it cannot read.
#[test]
fn kubectls_parser_takes_every_v2_schema() {
    fn check(at: &str, schema: &Value, definitions: &Value) {
        assert!(schema.get("allOf").is_none(), "{at}");
        if let Some(reference) = schema.get("$ref") {
            let name = reference.as_str().unwrap().strip_prefix("#/definitions/").unwrap();
            assert!(definitions[name].is_object(), "{at}: {name} is missing");
            assert!(schema.get("type").is_none() && schema.get("properties").is_none(), "{at}");
            return;
        }
        match (schema.get("type").map(|t| t.as_str().unwrap()), schema.get("properties")) {
            (Some("object") | None, Some(properties)) => {
                for (name, property) in properties.as_object().unwrap() {
                    check(&format!("{at}.{name}"), property, definitions);
                }
            }
            (Some("object"), None) => {
                if let Some(values) = schema.get("additionalProperties") {
                    check(at, values, definitions);
                }
            }
            (Some("array"), None) => check(at, &schema["items"], definitions),
            (Some("string" | "number" | "integer" | "boolean") | None, None) => {}
            (type_, _) => panic!("{at} is a {type_:?}"),
        }
    }
    let document = v2();
    for (name, schema) in document["definitions"].as_object().unwrap() {
        check(name, schema, &document["definitions"]);
    }
}

#[test]
fn v2_definitions_say_what_kubectl_merges_and_explains_by() {
    let document = v2();
    let definitions = &document["definitions"];
    for kind in registry::kinds() {
        let gvk = json!([{"group": kind.group, "kind": kind.kind, "version": kind.version}]);
        let mut all = definitions.as_object().unwrap().values();
        assert!(all.any(|d| d["x-kubernetes-group-version-kind"] == gvk), "{}", kind.kind);
    }
    let spec = &definitions["io.k8s.api.core.v1.Pod"]["properties"]["spec"];
    assert_eq!(spec["$ref"], "#/definitions/io.k8s.api.core.v1.PodSpec");
    assert!(spec["description"].as_str().unwrap().starts_with("Specification of the desired behavior"));
    let pod = &definitions["io.k8s.api.core.v1.PodSpec"]["properties"];
    assert_eq!(pod["containers"]["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(pod["containers"]["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(pod["volumes"]["x-kubernetes-patch-strategy"], "merge,retainKeys");
    let port = &definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"];
    assert_eq!((&port["type"], &port["format"]), (&json!("string"), &json!("int-or-string")));
    let quantity = &definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"];
    assert_eq!((&quantity["type"], quantity.get("format")), (&json!("string"), None));
}

/// What `kubectl --dry-run=server` looks for before 1.27.
#[test]
fn v2_paths_say_that_changes_can_be_rehearsed() {
    let document = v2();
    let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"], json!({"group": "", "kind": "Pod", "version": "v1"}));
    let parameters = patch["parameters"].as_array().unwrap();
    let dry_run = parameters.iter().find(|p| p["name"] == "dryRun").unwrap();
    assert_eq!((&dry_run["in"], &dry_run["type"]), (&json!("query"), &json!("string")));
    assert_eq!(parameters.last().unwrap()["in"], "body");
    assert!(patch["consumes"].as_array().unwrap().contains(&json!("application/strategic-merge-patch+json")));
}
