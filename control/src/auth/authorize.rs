//! What a user may do.
//!
//! The rules are fixed until RBAC is served: `system:masters` may do everything, a node agent what its work needs, every
//! authenticated user discovery and reviews of themselves, everyone the health paths.

use super::authenticate::{ANONYMOUS, AUTHENTICATED, MASTERS, NODES};
use crate::registry::User;
use crate::status::ApiError;

/// What a request does, for authorisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attributes<'a> {
    Resource {
        /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
        verb: &'a str,
        group: &'a str,
        resource: &'a str,
        /// Empty for the object itself.
        subresource: &'a str,
        /// Empty for cluster scope or all namespaces.
        namespace: &'a str,
        /// Empty for a collection.
        name: &'a str,
    },
    Path {
        /// Lower-case HTTP method.
        verb: &'a str,
        path: &'a str,
    },
}

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "update", "patch"];

/// What a node agent may do: verbs, group, resource (with subresource).
const NODE_RULES: &[(&[&str], &str, &str)] = &[
    (READ, "", "nodes"),
    (READ, "", "pods"),
    (READ, "", "services"),
    (READ, "", "endpoints"),
    (READ, "", "configmaps"),
    (READ, "", "secrets"),
    (READ, "", "namespaces"),
    (READ, "discovery.k8s.io", "endpointslices"),
    (&["get"], "", "serviceaccounts"),
    (&["create"], "", "serviceaccounts/token"),
    (&["create", "delete"], "", "pods"),
    (&["get", "update", "patch"], "", "pods/status"),
    (&["create"], "", "pods/eviction"),
    (WRITE, "", "events"),
    (WRITE, "events.k8s.io", "events"),
];

/// What a node agent may do to the objects that carry its name.
const OWN_NODE_RULES: &[(&[&str], &str, &str)] = &[
    (WRITE, "", "nodes"),
    (&["get", "update", "patch"], "", "nodes/status"),
    (&["get", "create", "update", "patch", "delete"], "coordination.k8s.io", "leases"),
];

/// What every authenticated user may ask about themselves.
const SELF_REVIEWS: &[(&str, &str)] = &[
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authentication.k8s.io", "selfsubjectreviews"),
];

/// 401 for anonymous users where a login would help, 403 with Kubernetes' reason for others.
pub fn authorize(user: &User, attributes: &Attributes<'_>) -> Result<(), ApiError> {
    let is_in = |group: &str| user.groups.iter().any(|g| g == group);
    let is_allowed = is_in(MASTERS)
        || is_open_to_all(attributes)
        || (is_in(AUTHENTICATED) && is_open_to_authenticated(attributes))
        || (is_in(NODES) && node_may(&user.name, attributes));
    if is_allowed {
        return Ok(());
    }
    if user.name == ANONYMOUS { Err(ApiError::unauthorized()) } else { Err(refusal(user, attributes)) }
}

fn is_open_to_all(attributes: &Attributes<'_>) -> bool {
    let Attributes::Path { verb: "get" | "head", path } = attributes else { return false };
    ["/healthz", "/livez", "/readyz", "/version"].iter().any(|open| is_under(path, open))
}

fn is_open_to_authenticated(attributes: &Attributes<'_>) -> bool {
    match attributes {
        Attributes::Path { verb: "get" | "head", path } => {
            ["/api", "/apis", "/openapi"].iter().any(|open| is_under(path, open))
        }
        Attributes::Path { .. } => false,
        Attributes::Resource { verb, group, resource, .. } => {
            *verb == "create" && SELF_REVIEWS.contains(&(*group, *resource))
        }
    }
}

/// Whether `path` is `root` or below it.
fn is_under(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn node_may(user: &str, attributes: &Attributes<'_>) -> bool {
    let Attributes::Resource { verb, group, namespace, name, .. } = attributes else { return false };
    let Some(node) = user.strip_prefix("system:node:") else { return false };
    let resource = resource_with_subresource(attributes);
    let has = |rules: &[(&[&str], &str, &str)]| {
        rules.iter().any(|(verbs, g, r)| g == group && *r == resource && verbs.contains(verb))
    };
    // The name of an object that is created stands in its body only.
    let is_own = *name == node || (name.is_empty() && *verb == "create");
    let is_lease_elsewhere = resource == "leases" && *namespace != "kube-node-lease";
    has(NODE_RULES) || (is_own && !is_lease_elsewhere && has(OWN_NODE_RULES))
}

fn resource_with_subresource(attributes: &Attributes<'_>) -> String {
    match attributes {
        Attributes::Resource { resource, subresource: "", .. } => (*resource).to_owned(),
        Attributes::Resource { resource, subresource, .. } => format!("{resource}/{subresource}"),
        Attributes::Path { .. } => String::new(),
    }
}

fn refusal(user: &User, attributes: &Attributes<'_>) -> ApiError {
    let who = &user.name;
    match attributes {
        Attributes::Path { verb, path } => {
            ApiError::new(403, "Forbidden", format!("forbidden: User \"{who}\" cannot {verb} path \"{path}\""))
        }
        Attributes::Resource { verb, group, resource, namespace, name, .. } => {
            let what = resource_with_subresource(attributes);
            let place = if namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace \"{namespace}\"")
            };
            let why = format!("User \"{who}\" cannot {verb} resource \"{what}\" in API group \"{group}\" {place}");
            ApiError::forbidden(group, resource, name, &why)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, groups: &[&str]) -> User {
        User { name: name.to_owned(), groups: groups.iter().map(|g| (*g).to_owned()).collect() }
    }

    fn on(verb: &'static str, place: &'static str) -> Attributes<'static> {
        // group:namespace:resource/subresource:name
        let parts: Vec<&str> = place.split(':').collect();
        let (resource, subresource) = parts[2].split_once('/').unwrap_or((parts[2], ""));
        Attributes::Resource { verb, group: parts[0], namespace: parts[1], resource, subresource, name: parts[3] }
    }

    fn code(user: &User, attributes: &Attributes<'_>) -> u16 {
        authorize(user, attributes).map_or_else(|e| e.code, |()| 200)
    }

    #[test]
    fn masters_may_do_everything() {
        let admin = user("kubernetes-admin", &[MASTERS, AUTHENTICATED]);
        assert_eq!(code(&admin, &on("delete", "::nodes:a")), 200);
        assert_eq!(code(&admin, &Attributes::Path { verb: "post", path: "/anything" }), 200);
    }

    #[test]
    fn anonymous_users_see_health_and_version_only() {
        let anonymous = user(ANONYMOUS, &["system:unauthenticated"]);
        for (verb, path, expected) in [
            ("get", "/healthz", 200),
            ("get", "/readyz/ping", 200),
            ("get", "/version", 200),
            ("post", "/version", 401),
            ("get", "/healthzz", 401),
            ("get", "/api", 401),
            ("get", "/metrics", 401),
        ] {
            assert_eq!(code(&anonymous, &Attributes::Path { verb, path }), expected, "{verb} {path}");
        }
        assert_eq!(code(&anonymous, &on("get", ":default:pods:p")), 401);
    }

    #[test]
    fn authenticated_users_discover_and_review_themselves() {
        let bob = user("bob", &[AUTHENTICATED]);
        assert_eq!(code(&bob, &Attributes::Path { verb: "get", path: "/apis/batch/v1" }), 200);
        assert_eq!(code(&bob, &on("create", "authorization.k8s.io::selfsubjectaccessreviews:")), 200);
        let error = authorize(&bob, &on("create", ":default:pods:")).unwrap_err();
        let why = "pods is forbidden: User \"bob\" cannot create resource \"pods\" in API group \"\" in the namespace \"default\"";
        assert_eq!((error.code, error.message.as_str()), (403, why));
        let error = authorize(&bob, &on("get", ":default:pods/log:p")).unwrap_err();
        let why = "pods \"p\" is forbidden: User \"bob\" cannot get resource \"pods/log\" in API group \"\" in the namespace \"default\"";
        assert_eq!(error.message, why);
        let error = authorize(&bob, &on("list", "apps::deployments:")).unwrap_err();
        let why = "deployments.apps is forbidden: User \"bob\" cannot list resource \"deployments\" in API group \"apps\" at the cluster scope";
        assert_eq!(error.message, why);
        let error = authorize(&bob, &Attributes::Path { verb: "get", path: "/metrics" }).unwrap_err();
        assert_eq!(error.message, "forbidden: User \"bob\" cannot get path \"/metrics\"");
    }

    #[test]
    fn a_node_agent_does_its_work_and_no_more() {
        let node = user("system:node:a", &[NODES, AUTHENTICATED]);
        for (verb, place, expected) in [
            ("watch", "::pods:", 200),
            ("patch", ":default:pods/status:p", 200),
            ("delete", ":default:pods:p", 200),
            ("patch", "::nodes/status:a", 200),
            ("create", "::nodes:", 200),
            ("update", "coordination.k8s.io:kube-node-lease:leases:a", 200),
            ("create", ":default:events:", 200),
            ("get", ":default:secrets:s", 200),
            ("create", ":default:serviceaccounts/token:robot", 200),
            ("patch", "::nodes/status:b", 403),
            ("delete", "::nodes:a", 403),
            ("update", ":default:secrets:s", 403),
            ("update", "coordination.k8s.io:kube-node-lease:leases:b", 403),
            ("update", "coordination.k8s.io:kube-system:leases:a", 403),
            ("create", ":default:pods/binding:p", 403),
        ] {
            assert_eq!(code(&node, &on(verb, place)), expected, "{verb} {place}");
        }
    }
}
