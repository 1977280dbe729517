//! `paths`: the operations of each kind, with the parameters and extensions that clients look for.
//!
//! PATCH operations list their body types because kubectl looks there whether it may compute strategic merge patches from these
//! documents; where it may not, it asks for `/openapi/v2` at each apply and then falls back to the types it was built with.

use serde_json::{Map, Value, json};

use super::components::Components;
use crate::registry::Kind;

/// A body of a kind, as an operation takes and returns it.
struct Body<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    schema: Value,
}

/// Adds the paths of a kind and its subresources.
pub(super) fn add(paths: &mut Map<String, Value>, kind: &Kind, root: &str, components: &Components) {
    let schema = components.reference(kind.group, kind.version, kind.kind);
    let body = Body { group: kind.group, version: kind.version, kind: kind.kind, schema };
    let plural = kind.resource;
    let collection = if kind.namespaced {
        let everywhere = json!({"get": operation("list", &body)});
        paths.insert(format!("/{root}/{plural}"), everywhere);
        format!("/{root}/namespaces/{{namespace}}/{plural}")
    } else {
        format!("/{root}/{plural}")
    };
    let item = format!("{collection}/{{name}}");
    let parameters = path_parameters(kind.namespaced, false);
    paths.insert(
        collection,
        json!({
            "get": operation("list", &body),
            "post": operation("post", &body),
            "delete": operation("deletecollection", &body),
            "parameters": parameters,
        }),
    );
    let parameters = path_parameters(kind.namespaced, true);
    paths.insert(
        item.clone(),
        json!({
            "get": operation("get", &body),
            "put": operation("put", &body),
            "patch": operation("patch", &body),
            "delete": operation("delete", &body),
            "parameters": parameters,
        }),
    );
    for subresource in kind.subresources {
        let schema = components.reference(subresource.group, subresource.version, subresource.kind);
        let (group, version) = (subresource.group, subresource.version);
        let body = Body { group, version, kind: subresource.kind, schema };
        let mut operations = Map::new();
        for verb in subresource.verbs {
            let (method, action) = match *verb {
                "get" => ("get", "get"),
                "create" => ("post", "post"),
                "update" => ("put", "put"),
                "patch" => ("patch", "patch"),
                "delete" => ("delete", "delete"),
                _ => continue,
            };
            operations.insert(method.into(), operation(action, &body));
        }
        operations.insert("parameters".into(), parameters.clone());
        paths.insert(format!("{item}/{}", subresource.name), Value::Object(operations));
    }
}

fn operation(action: &str, body: &Body<'_>) -> Value {
    let Body { group, version, kind, schema } = body;
    let mut operation = json!({
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": group, "kind": kind, "version": version},
        "parameters": query_parameters(action),
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": schema}}}},
    });
    if let "post" | "put" = action {
        operation["requestBody"] = json!({"content": {"application/json": {"schema": schema}}, "required": true});
    }
    if action == "patch" {
        let types = ["json-patch+json", "merge-patch+json", "strategic-merge-patch+json"];
        let content: Map<String, Value> =
            types.map(|t| (format!("application/{t}"), json!({"schema": {"type": "object"}}))).into_iter().collect();
        operation["requestBody"] = json!({"content": content, "required": true});
    }
    operation
}

fn query_parameters(action: &str) -> Value {
    let names: &[(&str, &str)] = match action {
        "post" | "put" => &[
            ("dryRun", "When present, indicates that modifications should not be persisted."),
            ("fieldManager", "The name of the actor that makes these changes."),
            ("fieldValidation", FIELD_VALIDATION),
        ],
        "patch" => &[
            ("dryRun", "When present, indicates that modifications should not be persisted."),
            ("fieldManager", "The name of the actor that makes these changes."),
            ("fieldValidation", FIELD_VALIDATION),
            ("force", "Force re-acquires conflicting fields of other managers in a server-side apply."),
        ],
        "list" => &[
            ("allowWatchBookmarks", "Requests watch events of type BOOKMARK."),
            ("continue", "The continue token of the previous chunk."),
            ("fieldSelector", "Restricts the objects by their fields."),
            ("labelSelector", "Restricts the objects by their labels."),
            ("limit", "The most objects to return in a chunk."),
            ("resourceVersion", "Constrains which resource versions a request may be served from."),
            ("resourceVersionMatch", "Says how resourceVersion is applied."),
            ("sendInitialEvents", "Starts a watch with the present objects."),
            ("timeoutSeconds", "Limits the duration of the call."),
            ("watch", "Streams changes instead of returning a list."),
        ],
        "delete" | "deletecollection" => &[
            ("dryRun", "When present, indicates that modifications should not be persisted."),
            ("gracePeriodSeconds", "The seconds before the object is removed."),
            ("propagationPolicy", "Whether and how dependents are deleted: Orphan, Background or Foreground."),
        ],
        _ => &[],
    };
    names
        .iter()
        .map(|(name, description)| {
            let kind = match *name {
                "allowWatchBookmarks" | "force" | "sendInitialEvents" | "watch" => "boolean",
                "limit" | "timeoutSeconds" | "gracePeriodSeconds" => "integer",
                _ => "string",
            };
            json!({"name": name, "in": "query", "description": description, "schema": {"type": kind, "uniqueItems": true}})
        })
        .collect()
}

const FIELD_VALIDATION: &str = "What happens to unknown or duplicate fields: Ignore drops them, Warn (the default) drops them \
                                with a warning, Strict refuses the request.";

fn path_parameters(is_namespaced: bool, is_named: bool) -> Value {
    let parameter = |name: &str, description: &str| {
        json!({"name": name, "in": "path", "required": true, "description": description,
            "schema": {"type": "string", "uniqueItems": true}})
    };
    let mut parameters = Vec::new();
    if is_named {
        parameters.push(parameter("name", "name of the object"));
    }
    if is_namespaced {
        parameters.push(parameter("namespace", "object name and auth scope, such as for teams and projects"));
    }
    Value::Array(parameters)
}
