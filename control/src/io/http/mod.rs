//! The Kubernetes API over HTTP.
//!
//! A request is authenticated, its path understood ([`mod@route`]), authorised, and answered: discovery and health here, objects in
//! [`objects`], their subresources in [`subresources`], watches in [`stream`]. TLS and connections are in [`listener`]. The
//! in-process client takes the same way from authorisation on, so that controllers see what every client sees.

mod body;
mod discovery;
mod listener;
mod log;
mod negotiate;
mod objects;
mod respond;
mod reviews;
mod route;
mod stream;
mod subresources;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, VARY,
};
use http::{Method, Request, Response, StatusCode, Uri};
use rustls_pki_types::CertificateDer;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::auth::{Attributes, Authenticator, MASTERS, authorize};
use crate::engine::list::{Query, flag};
use crate::io::api::Api;
use crate::io::clock;
use crate::io::pki::{ClusterPki, PkiError};
use crate::registry::{User, kinds};
use crate::schema::openapi::{Encoding, OpenApi, Which};
use crate::status::ApiError;
use route::{Route, route, verb};

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub enum Peer {
    /// A TLS client with the certificates it showed (verified against the cluster's CA), usually none or one chain.
    Tls(Arc<Vec<CertificateDer<'static>>>),
    /// A part of this process.
    InProcess(User),
}

/// The keys an API server works with.
pub struct Access {
    authenticator: Authenticator,
    signing_key: Arc<crate::auth::token::SigningKey>,
    /// To node agents.
    agent_tls: Arc<rustls::ClientConfig>,
}

impl Access {
    /// # Errors
    /// When the certificate for talking to agents cannot be signed.
    pub fn new(pki: &ClusterPki) -> Result<Self, PkiError> {
        let identity = pki.issue_agent_client()?;
        let agent_tls = Arc::new(pki.client_tls(&identity)?);
        Ok(Self { authenticator: pki.authenticator(), signing_key: pki.signing_key(), agent_tls })
    }
}

/// The API server. Cheap to clone.
#[derive(Clone)]
pub struct HttpServer {
    inner: Arc<Inner>,
}

struct Inner {
    api: Api,
    access: Access,
    openapi: OpenApi,
    /// Ends watches when the server stops.
    shutdown: CancellationToken,
}

type Answer = Result<Response<Body>, ApiError>;

/// A request, apart from its body, and who sent it.
struct Call {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    query: Vec<(String, String)>,
    user: User,
}

impl HttpServer {
    #[must_use]
    pub fn new(api: Api, access: Access, shutdown: CancellationToken) -> Self {
        Self { inner: Arc::new(Inner { api, access, openapi: OpenApi::new(kinds()), shutdown }) }
    }

    /// A client of this server that does not leave the process and may do everything.
    #[must_use]
    pub fn in_process_client(&self) -> kube::Client {
        let server = self.clone();
        let groups = vec![MASTERS.to_owned(), "system:authenticated".to_owned()];
        let user = User { name: "system:kontiki".to_owned(), groups };
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let (server, peer) = (server.clone(), Peer::InProcess(user.clone()));
            async move { Ok::<_, std::convert::Infallible>(server.handle(request.map(Body::new), peer).await) }
        });
        kube::Client::new(service, "default")
    }

    /// Answers one request. A bug in a handler is a 500, not the end of the server.
    pub async fn handle(self, request: Request<Body>, peer: Peer) -> Response<Body> {
        let what = format!("{} {}", request.method(), request.uri());
        let answer: BoxFuture<'static, Answer> = Box::pin(self.answer(request, peer));
        match AssertUnwindSafe(answer).catch_unwind().await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                tracing::debug!(what, code = error.code, %error, "refused");
                respond::failure(&error)
            }
            Err(_) => {
                tracing::error!(what, "a handler panicked");
                respond::failure(&ApiError::internal("the request's handler panicked"))
            }
        }
    }

    async fn answer(self, request: Request<Body>, peer: Peer) -> Answer {
        let (parts, body) = request.into_parts();
        let user = match peer {
            Peer::Tls(certificates) => {
                self.inner.access.authenticator.authenticate(&parts.headers, &certificates, clock::unix_s())?
            }
            Peer::InProcess(user) => user,
        };
        let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|error| ApiError::bad_request(format!("the query cannot be parsed: {error}")))?
            .0;
        let call = Call { method: parts.method, uri: parts.uri, headers: parts.headers, query, user };
        let found = route(call.uri.path());
        if let Route::Resource(path) = found {
            let watch = flag(&call.query, "watch") && call.query.param("watch").is_some();
            let verb = verb(&call.method, &path, watch)
                .ok_or_else(|| ApiError::method_not_allowed(call.method.as_str(), &path.resource))?;
            let attributes = Attributes::Resource {
                verb,
                group: &path.group,
                resource: &path.resource,
                subresource: path.subresource.as_deref().unwrap_or_default(),
                namespace: path.namespace.as_deref().unwrap_or_default(),
                name: path.name.as_deref().unwrap_or_default(),
            };
            authorize(&call.user, &attributes)?;
            return self.resource(call, &path, verb, body).await;
        }
        let method = call.method.as_str().to_lowercase();
        authorize(&call.user, &Attributes::Path { verb: &method, path: call.uri.path() })?;
        self.document(&call, found).await
    }

    /// Everything that is not a resource.
    async fn document(&self, call: &Call, found: Route) -> Answer {
        let missing = || ApiError::new(404, "NotFound", "the server could not find the requested resource");
        let plain = |value| Ok(respond::json(StatusCode::OK, &value));
        match found {
            Route::Health => Ok(self.health(call)),
            Route::Version => plain(version()),
            Route::Root => plain(json!({
                "paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"],
            })),
            Route::CoreVersions => Ok(match negotiate::aggregated(&call.headers) {
                Some(version) => aggregated(version, true),
                None => respond::json(
                    StatusCode::OK,
                    &discovery::core_versions(call.uri.authority().map_or("", |a| a.as_str())),
                ),
            }),
            Route::Groups => Ok(match negotiate::aggregated(&call.headers) {
                Some(version) => aggregated(version, false),
                None => respond::json(StatusCode::OK, &discovery::group_list()),
            }),
            Route::Group(group) => plain(discovery::group(&group).ok_or_else(missing)?),
            Route::Resources { group, version } => {
                plain(discovery::resource_list(&group, &version).ok_or_else(missing)?)
            }
            Route::OpenApiV2 => {
                let encoding = negotiate::openapi_v2(&call.headers)?;
                let content_type = match encoding {
                    Encoding::Json => "application/json",
                    // kubectl asks for `…v2@v1.0…`, which Go's parser refuses in an answer.
                    Encoding::Protobuf => "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
                };
                self.openapi(call, Which::V2(encoding), content_type).await
            }
            Route::OpenApiIndex => plain(self.inner.openapi.index()),
            Route::OpenApi(path) => self.openapi(call, Which::V3(path), "application/json").await,
            Route::Unknown | Route::Resource(_) => Ok(respond::text(StatusCode::NOT_FOUND, "404 page not found\n")),
        }
    }

    fn health(&self, call: &Call) -> Response<Body> {
        let ready = call.uri.path().starts_with("/readyz");
        match self.inner.api.not_ready() {
            Some(resource) if ready => {
                let why = format!("[-]watch cache of {resource} is not filled\nreadyz check failed\n");
                respond::text(StatusCode::INTERNAL_SERVER_ERROR, why)
            }
            _ => respond::text(StatusCode::OK, "ok"),
        }
    }

    async fn openapi(&self, call: &Call, which: Which, content_type: &'static str) -> Answer {
        let server = self.clone();
        // Building a document takes tens of milliseconds the first time.
        let document = tokio::task::spawn_blocking(move || server.inner.openapi.document(&which))
            .await
            .map_err(ApiError::internal)?;
        let document = document
            .ok_or_else(|| ApiError::new(404, "NotFound", "the server could not find the requested resource"))?;
        let header = |name| call.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let zipped = header(ACCEPT_ENCODING).contains("gzip");
        let known = header(IF_NONE_MATCH).contains(&document.etag);
        let (code, body) = match (known, zipped) {
            (true, _) => (StatusCode::NOT_MODIFIED, Bytes::new()),
            (false, true) => (StatusCode::OK, document.gzip.clone()),
            (false, false) => (StatusCode::OK, document.plain()),
        };
        let mut response = respond::bytes(code, HeaderValue::from_static(content_type), body);
        let headers = response.headers_mut();
        if zipped && !known {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        if let Ok(etag) = HeaderValue::from_str(&document.etag) {
            headers.insert(ETAG, etag);
        }
        if call.query.param("hash").is_some() {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        }
        Ok(response)
    }
}

fn aggregated(version: &str, core: bool) -> Response<Body> {
    let content_type = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    let content_type = HeaderValue::from_str(&content_type).expect("made of header characters");
    respond::bytes(StatusCode::OK, content_type, respond::encoded(&discovery::aggregated(version, core)))
}

/// The version of the API that is served; what follows `+` names the server.
fn version() -> serde_json::Value {
    json!({
        "major": "1",
        "minor": "33",
        "gitVersion": "v1.33.0+kontiki",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, architecture()),
    })
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
