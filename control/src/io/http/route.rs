//! What a request's path and method mean.

use http::Method;

/// The parts of a path under `/api/v1` or `/apis/<group>/<version>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourcePath {
    pub group: String,
    pub version: String,
    pub resource: String,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<String>,
    /// The old `/watch/` prefix.
    pub watch: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/healthz`, `/livez`, `/readyz` and checks below them.
    Health,
    Version,
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/<group>`.
    Group(String),
    /// `/api/v1`, `/apis/<group>/<version>`.
    Resources {
        group: String,
        version: String,
    },
    OpenApiV2,
    OpenApiIndex,
    /// `/openapi/v3/<path>`.
    OpenApi(String),
    Resource(ResourcePath),
    /// `/`.
    Root,
    Unknown,
}

/// Understands a path.
#[must_use]
pub fn route(path: &str) -> Route {
    let decoded: Option<Vec<String>> = path.split('/').filter(|s| !s.is_empty()).map(percent_decoded).collect();
    let Some(segments) = decoded else { return Route::Unknown };
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    match parts.as_slice() {
        [] => Route::Root,
        ["healthz" | "livez" | "readyz", ..] => Route::Health,
        ["version"] => Route::Version,
        ["api"] => Route::CoreVersions,
        ["apis"] => Route::Groups,
        ["apis", group] => Route::Group((*group).to_owned()),
        ["api", version] => Route::Resources { group: String::new(), version: (*version).to_owned() },
        ["apis", group, version] => Route::Resources { group: (*group).to_owned(), version: (*version).to_owned() },
        ["openapi", "v2"] => Route::OpenApiV2,
        ["openapi", "v3"] => Route::OpenApiIndex,
        ["openapi", "v3", rest @ ..] => Route::OpenApi(rest.join("/")),
        ["api", version, rest @ ..] => resource("", version, rest),
        ["apis", group, version, rest @ ..] => resource(group, version, rest),
        _ => Route::Unknown,
    }
}

fn resource(group: &str, version: &str, rest: &[&str]) -> Route {
    let (watch, rest) = match rest {
        ["watch", rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let owned = |s: &&str| Some((*s).to_owned());
    let (namespace, rest) = match rest {
        // `namespaces/x` and its own subresources are about the Namespace itself.
        ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => (None, rest),
        ["namespaces", namespace, rest @ ..] => (owned(namespace), rest),
        rest => (None, rest),
    };
    let (resource, name, subresource) = match rest {
        [resource] => (*resource, None, None),
        [resource, name] => (*resource, owned(name), None),
        [resource, name, subresource] => (*resource, owned(name), owned(subresource)),
        _ => return Route::Unknown,
    };
    Route::Resource(ResourcePath {
        group: group.to_owned(),
        version: version.to_owned(),
        resource: resource.to_owned(),
        namespace,
        name,
        subresource,
        watch,
    })
}

/// The verb of a request on a resource, as authorisation and audit name it.
#[must_use]
pub fn verb(method: &Method, path: &ResourcePath, watch: bool) -> Option<&'static str> {
    let collection = path.name.is_none();
    Some(match *method {
        Method::GET | Method::HEAD if watch || path.watch => "watch",
        Method::GET | Method::HEAD if collection => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        _ => return None,
    })
}

/// None when the text is not UTF-8, or smuggles a slash into a segment.
fn percent_decoded(segment: &str) -> Option<String> {
    let mut out = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let hex = [bytes.next()?, bytes.next()?];
        let code = u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?;
        if code == b'/' || code == 0 {
            return None;
        }
        out.push(code);
    }
    String::from_utf8(out).ok().filter(|s| s != "." && s != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ResourcePath {
        match route(text) {
            Route::Resource(path) => path,
            other => panic!("{text} is {other:?}"),
        }
    }

    #[test]
    fn resources_of_namespaces_and_of_the_cluster() {
        let pods = path("/api/v1/namespaces/default/pods/a/log");
        assert_eq!(pods.namespace.as_deref(), Some("default"));
        assert_eq!((pods.resource.as_str(), pods.name.as_deref()), ("pods", Some("a")));
        assert_eq!(pods.subresource.as_deref(), Some("log"));
        let all = path("/apis/batch/v1/jobs");
        assert_eq!((all.group.as_str(), all.namespace, all.name), ("batch", None, None));
        let namespace = path("/api/v1/namespaces/x/finalize");
        assert_eq!((namespace.resource.as_str(), namespace.name.as_deref()), ("namespaces", Some("x")));
        assert_eq!(namespace.subresource.as_deref(), Some("finalize"));
        assert!(path("/api/v1/watch/pods").watch);
    }

    #[test]
    fn escapes_cannot_leave_their_segment() {
        assert_eq!(path("/api/v1/nodes/a%2Db").name.as_deref(), Some("a-b"));
        assert_eq!(route("/api/v1/nodes/a%2Fb"), Route::Unknown);
        assert_eq!(route("/api/v1/nodes/%2e%2e"), Route::Unknown);
    }
}
