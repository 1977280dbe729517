//! etcd's plain HTTP endpoints, and who may use them.
//!
//! On the client port they share the socket with gRPC; they can be moved to ports of their own. Health is in
//! [`super::health`], the JSON gateway in [`super::gateway`].

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CONTENT_TYPE, HOST,
    ORIGIN, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tonic::Status;

use super::{Edge, gateway, health, metrics, version_json};
use crate::io::tls::OverTls;
use crate::limits;

/// Who may use the HTTP endpoints, and which of them there are.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// The JSON gateway under `/v3/`.
    pub enable_grpc_gateway: bool,
    /// Origins that browsers may call from; `*` is any.
    pub cors: Vec<String>,
    /// Host names that clients without TLS may call this member by; `*`, or none, is any.
    pub host_whitelist: Vec<String>,
    /// A latency histogram for each RPC (`--metrics=extensive`).
    pub extensive_metrics: bool,
}

impl Default for HttpConfig {
    fn default() -> Self {
        let any = || vec!["*".to_owned()];
        Self { enable_grpc_gateway: true, cors: any(), host_whitelist: any(), extensive_metrics: false }
    }
}

/// What the client port serves beside gRPC.
pub(super) fn client_routes(edge: Edge, grpc: Router) -> Router {
    let has_gateway = edge.config.http.enable_grpc_gateway;
    let mut router =
        probes(edge.clone()).route("/version", get(version).fallback(method_not_allowed).with_state(edge.clone()));
    if has_gateway {
        let message_bytes_max = edge.config.max_request_bytes + limits::REQUEST_OVERHEAD_BYTES;
        router = router.merge(gateway::routes(grpc, message_bytes_max, edge.config.concurrent_streams_max));
    }
    router.fallback(not_found).layer(from_fn_with_state(edge, admit))
}

/// What the metrics port serves.
pub(super) fn metrics_routes(edge: Edge) -> Router {
    probes(edge).fallback(not_found)
}

fn probes(edge: Edge) -> Router {
    health::routes(edge.clone()).route("/metrics", get(metrics::text).with_state(edge))
}

async fn version(State(edge): State<Edge>) -> Response {
    let body = version_json(edge.member.cluster_version());
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

async fn not_found(request: Request) -> Response {
    let kind = request.headers().get(CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        let service = request.uri().path().trim_start_matches('/').rsplit_once('/').map_or("", |(service, _)| service);
        return Status::unimplemented(format!("unknown service {service}")).into_http();
    }
    plain(StatusCode::NOT_FOUND, "404 page not found\n".to_owned())
}

pub(super) async fn method_not_allowed() -> Response {
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n".to_owned());
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    response
}

/// A text that is not to be taken for anything else.
pub(super) fn plain(status: StatusCode, text: String) -> Response {
    let headers = [(CONTENT_TYPE, "text/plain; charset=utf-8"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (status, headers, text).into_response()
}

/// Keeps out strange hosts (DNS rebinding), lets browsers in from allowed origins, and answers their preflights.
async fn admit(State(edge): State<Edge>, request: Request, next: Next) -> Response {
    let config = &edge.config.http;
    if edge.ignores_the_name_of(&request) {
        return plain(StatusCode::BAD_REQUEST, NAME_IGNORED.to_owned());
    }
    if request.extensions().get::<OverTls>().is_none() {
        let host = host_name(&request);
        if !allows(&config.host_whitelist, &host) && !config.host_whitelist.is_empty() {
            tracing::warn!(host, "rejecting an HTTP request to prevent DNS rebinding attacks");
            return plain(StatusCode::MISDIRECTED_REQUEST, strange_host(&host));
        }
    }
    let origin = match allows(&config.cors, "*") {
        true => Some(HeaderValue::from_static("*")),
        false => {
            let origin = request.headers().get(ORIGIN).cloned();
            origin.filter(|origin| origin.to_str().is_ok_and(|origin| allows(&config.cors, origin)))
        }
    };
    let mut response = match *request.method() {
        Method::OPTIONS => StatusCode::OK.into_response(),
        _ => next.run(request).await,
    };
    if let Some(origin) = origin {
        let mut allow = |name: HeaderName, value: HeaderValue| response.headers_mut().insert(name, value);
        allow(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"));
        allow(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        allow(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("accept, content-type, authorization"));
    }
    response
}

const NAME_IGNORED: &str =
    "CommonName of client sending a request against gateway will be ignored and not used as expected\n";

impl Edge {
    /// Whether this is a call of the gateway whose client might think that its certificate says who it is.
    fn ignores_the_name_of(&self, request: &Request) -> bool {
        let path = request.uri().path();
        let is_gateways = path.starts_with("/v3/") || path.starts_with("/v3beta/");
        let name = request.extensions().get::<OverTls>().and_then(|tls| tls.common_name.as_deref());
        is_gateways
            && name.is_some_and(|name| !name.is_empty())
            && self.config.http.enable_grpc_gateway
            && self.member.reader().auth_enabled()
    }
}

fn allows(list: &[String], name: &str) -> bool {
    list.iter().any(|allowed| allowed == "*" || allowed == name)
}

/// The host that the client thinks it talks to, without a port.
fn host_name(request: &Request) -> String {
    let header = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = header.or_else(|| request.uri().authority().map(|authority| authority.as_str())).unwrap_or_default();
    let without_port = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    without_port.trim_start_matches('[').trim_end_matches(']').to_owned()
}

fn strange_host(host: &str) -> String {
    format!(
        "\netcd received your request, but the Host header was unrecognized.\n\n\
         To fix this, choose one of the following options:\n\
         - Enable TLS, then any HTTPS request will be allowed.\n\
         - Add the hostname you want to use to the whitelist in settings.\n  \
         - e.g. etcd --host-whitelist {host:?}\n\n\
         This requirement has been added to help prevent \"DNS Rebinding\" attacks (CVE-2018-5702).\n\n"
    )
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn check(host: &str, expected: &str) {
        let request = Request::builder().header(HOST, host).body(Body::empty()).unwrap();
        assert_eq!(host_name(&request), expected);
    }

    #[test]
    fn a_host_is_compared_without_its_port() {
        check("localhost:2379", "localhost");
        check("example.com", "example.com");
        check("[::1]:2379", "::1");
        check("10.0.0.1:1", "10.0.0.1");
    }
}
