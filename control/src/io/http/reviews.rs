//! Questions about oneself: who am I, and what may I do.

use serde_json::{Value, json};

use super::route::ResourcePath;
use crate::auth::{Attributes, MASTERS, authorize};
use crate::registry::User;
use crate::status::ApiError;

/// The answer to a review, if the path names one.
pub(super) fn answer(path: &ResourcePath, user: &User, body: &Value) -> Option<Result<Value, ApiError>> {
    let api_version = crate::engine::group_version(&path.group, &path.version);
    let made = |kind: &str, spec: &Value, status: Value| {
        let mut review = json!({"kind": kind, "apiVersion": api_version, "metadata": {"creationTimestamp": null}});
        if !spec.is_null() {
            review["spec"] = spec.clone();
        }
        review["status"] = status;
        Some(Ok(review))
    };
    match (path.group.as_str(), path.resource.as_str()) {
        ("authentication.k8s.io", "selfsubjectreviews") => {
            let info = json!({"username": user.name, "groups": user.groups});
            made("SelfSubjectReview", &Value::Null, json!({"userInfo": info}))
        }
        ("authorization.k8s.io", "selfsubjectaccessreviews") => {
            let spec = &body["spec"];
            let allowed = access(user, spec);
            let mut status = json!({"allowed": allowed.is_ok()});
            if let Err(error) = allowed {
                status["reason"] = error.message.into();
            }
            made("SelfSubjectAccessReview", spec, status)
        }
        ("authorization.k8s.io", "selfsubjectrulesreviews") => {
            let everything = user.groups.iter().any(|g| g == MASTERS);
            let (resources, paths) = if everything {
                (
                    json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]),
                    json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]),
                )
            } else {
                (json!([]), json!([]))
            };
            let status = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": !everything});
            made("SelfSubjectRulesReview", &body["spec"], status)
        }
        _ => None,
    }
}

fn access(user: &User, spec: &Value) -> Result<(), ApiError> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let resource = &spec["resourceAttributes"];
    if resource.is_object() {
        let (verb, group) = (text(&resource["verb"]), text(&resource["group"]));
        let (name, subresource) = (text(&resource["resource"]), text(&resource["subresource"]));
        return authorize(
            user,
            &Attributes::Resource {
                verb: &verb,
                group: &group,
                resource: &name,
                subresource: &subresource,
                namespace: &text(&resource["namespace"]),
                name: &text(&resource["name"]),
            },
        );
    }
    let path = &spec["nonResourceAttributes"];
    authorize(user, &Attributes::Path { verb: &text(&path["verb"]), path: &text(&path["path"]) })
}
