//! A registry on loopback: the reading half of the OCI distribution protocol, with faults on demand.
//!
//! Every blob lies behind a redirect, as with the large public registries; the target must see no credentials.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, LOCATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::StreamExt as _;
use parking_lot::Mutex;
use serde_json::json;

use crate::artifacts::{Artifact, digest};

/// `user:secret`, as Basic authentication carries it.
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

/// Of the storage: long enough for concurrent pulls to meet.
const LATENCY: Duration = Duration::from_millis(20);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Status(u16),
    /// The announced length, and half of the bytes.
    Truncated,
    /// Half of the bytes, and then nothing more.
    Stalled,
    /// Other bytes than asked for.
    Replaced(Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Open,
    /// A token for everyone.
    Token,
    /// A token for `user` with `secret`.
    PrivateToken,
    /// `user` and `secret` themselves.
    Basic,
}

#[derive(Default)]
struct Content {
    /// `<repository>:<tag>` → manifest or index.
    tags: HashMap<String, Vec<u8>>,
    blobs: HashMap<String, Vec<u8>>,
    /// By digest, or `<repository>:<tag>`.
    faults: HashMap<String, Fault>,
    /// Answered requests, by digest or `<repository>:<tag>`.
    served: HashMap<String, usize>,
}

struct Shared {
    address: String,
    access: Access,
    content: Mutex<Content>,
}

#[derive(Clone)]
pub(crate) struct Registry(Arc<Shared>);

impl Registry {
    pub(crate) async fn start(access: Access) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let registry = Self(Arc::new(Shared { address, access, content: Mutex::default() }));
        let router = Router::new()
            .route("/v2/{owner}/{name}/manifests/{version}", get(manifest))
            .route("/v2/{owner}/{name}/blobs/{digest}", get(blob))
            .route("/storage/{digest}", get(storage))
            .route("/token", get(token))
            .with_state(registry.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        registry
    }

    pub(crate) fn address(&self) -> &str {
        &self.0.address
    }

    /// `127.0.0.1:<port>/team/<name>`.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}/team/{name}", self.0.address)
    }

    pub(crate) fn push(&self, name_and_tag: &str, image: &Artifact) {
        self.push_blobs(image);
        self.tag(name_and_tag, &image.manifest);
    }

    pub(crate) fn push_blobs(&self, image: &Artifact) {
        let mut content = self.0.content.lock();
        content.blobs.extend(image.blobs().into_iter().map(|blob| (digest(&blob), blob)));
    }

    pub(crate) fn tag(&self, name_and_tag: &str, document: &[u8]) {
        let mut content = self.0.content.lock();
        content.blobs.insert(digest(document), document.to_vec());
        content.tags.insert(format!("team/{name_and_tag}"), document.to_vec());
    }

    pub(crate) fn break_at(&self, key: &str, fault: Fault) {
        self.0.content.lock().faults.insert(key.to_owned(), fault);
    }

    pub(crate) fn mend(&self) {
        self.0.content.lock().faults.clear();
    }

    pub(crate) fn served(&self, key: &str) -> usize {
        self.0.content.lock().served.get(key).copied().unwrap_or_default()
    }

    fn answer(&self, key: &str, bytes: Option<Vec<u8>>) -> Response {
        let mut content = self.0.content.lock();
        *content.served.entry(key.to_owned()).or_default() += 1;
        match (content.faults.get(key).cloned(), bytes) {
            (Some(Fault::Status(status)), _) => StatusCode::from_u16(status).unwrap().into_response(),
            (Some(Fault::Replaced(other)), _) => other.into_response(),
            (Some(Fault::Truncated), Some(bytes)) => {
                let half = Bytes::from(bytes[..bytes.len() / 2].to_vec());
                let broken = futures::stream::iter([half]).map(Ok).chain(futures::stream::once(async {
                    // What is sent leaves before the connection breaks.
                    tokio::time::sleep(LATENCY).await;
                    Err(std::io::Error::other("broken off"))
                }));
                ([(CONTENT_LENGTH, bytes.len())], Body::from_stream(broken)).into_response()
            }
            (Some(Fault::Stalled), Some(bytes)) => {
                let half = Bytes::from(bytes[..bytes.len() / 2].to_vec());
                let silent = futures::stream::iter([Ok::<_, std::io::Error>(half)]).chain(futures::stream::pending());
                ([(CONTENT_LENGTH, bytes.len())], Body::from_stream(silent)).into_response()
            }
            (None, Some(bytes)) => bytes.into_response(),
            (_, None) => StatusCode::NOT_FOUND.into_response(),
        }
    }

    /// The challenge, unless the request brings what is wanted.
    fn refusal(&self, headers: &HeaderMap) -> Option<Response> {
        let address = &self.0.address;
        let (wanted, challenge) = match self.0.access {
            Access::Open => return None,
            Access::Basic => (BASIC, r#"Basic realm="test""#.to_owned()),
            Access::Token | Access::PrivateToken => {
                ("Bearer ticket", format!(r#"Bearer realm="http://{address}/token",service="test registry""#))
            }
        };
        let authorized = headers.get(AUTHORIZATION).is_some_and(|value| value == wanted);
        (!authorized).then(|| (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, challenge)]).into_response())
    }
}

async fn manifest(
    State(registry): State<Registry>,
    Path((owner, name, version)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    if let Some(refusal) = registry.refusal(&headers) {
        return refusal;
    }
    let is_digest = version.starts_with("sha256:");
    let key = if is_digest { version } else { format!("{owner}/{name}:{version}") };
    let found = {
        let content = registry.0.content.lock();
        content.tags.get(&key).or_else(|| content.blobs.get(&key)).cloned()
    };
    registry.answer(&key, found)
}

async fn blob(
    State(registry): State<Registry>,
    Path((_, _, digest)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let moved = || (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, registry.storage_url(&digest))]).into_response();
    registry.refusal(&headers).unwrap_or_else(moved)
}

impl Registry {
    /// Under another name than the registry's: another authority, as seen by a client.
    fn storage_url(&self, digest: &str) -> String {
        let port = self.0.address.rsplit_once(':').unwrap().1;
        format!("http://localhost:{port}/storage/{digest}")
    }
}

async fn storage(State(registry): State<Registry>, Path(digest): Path<String>, headers: HeaderMap) -> Response {
    if headers.contains_key(AUTHORIZATION) {
        return (StatusCode::BAD_REQUEST, "credentials went to another host").into_response();
    }
    tokio::time::sleep(LATENCY).await;
    let found = registry.0.content.lock().blobs.get(&digest).cloned();
    registry.answer(&digest, found)
}

async fn token(
    State(registry): State<Registry>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let service = query.get("service").is_some_and(|service| service == "test registry");
    let scope =
        query.get("scope").is_some_and(|scope| scope.starts_with("repository:team/") && scope.ends_with(":pull"));
    let known = headers.get(AUTHORIZATION).is_some_and(|value| value == BASIC);
    if !service || !scope {
        return StatusCode::BAD_REQUEST.into_response();
    }
    if registry.0.access == Access::PrivateToken && !known {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    axum::Json(json!({"token": "ticket"})).into_response()
}
