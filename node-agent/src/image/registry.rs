//! The client side of the OCI distribution protocol: manifests, blobs, token authentication.
//!
//! Answers are values: an unreachable registry, a refusal and a damaged answer are told apart, because a user must be told
//! which it was and because only the first lets an imported image stand in (see [`super`]).

use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HeaderMap, LOCATION, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;

use super::limits::{ANSWER_LIMIT, DOCUMENT_BYTES_MAX, REDIRECTS_MAX};
use super::reference::Reference;
use super::{Credential, PullError, digest};

const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// A manifest or an index, as the registry sent it.
pub struct Manifest {
    pub digest: String,
    pub bytes: Bytes,
}

#[derive(Clone, Debug)]
pub struct Registry {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

/// One image's conversation with its registry; keeps the token that the registry gave.
pub struct Session<'a> {
    registry: &'a Registry,
    reference: &'a Reference,
    credential: Option<&'a Credential>,
    authorization: tokio::sync::Mutex<Option<String>>,
}

impl Registry {
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new() -> std::io::Result<Self> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(ANSWER_LIMIT));
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls()?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(https) })
    }

    pub fn session<'a>(&'a self, reference: &'a Reference, credential: Option<&'a Credential>) -> Session<'a> {
        Session { registry: self, reference, credential, authorization: tokio::sync::Mutex::new(None) }
    }
}

/// A machine without certificate authorities still runs what is imported, and pulls from itself.
fn tls() -> std::io::Result<rustls::ClientConfig> {
    let builder = || {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider);
        builder.with_safe_default_protocol_versions().map_err(std::io::Error::other)
    };
    let verified = match builder()?.with_native_roots() {
        Ok(verified) => verified,
        Err(error) => {
            tracing::warn!(%error, "no registry with TLS can be trusted");
            builder()?.with_root_certificates(rustls::RootCertStore::empty())
        }
    };
    Ok(verified.with_no_client_auth())
}

impl Session<'_> {
    /// The manifest or index of a tag or digest; a digest is verified.
    pub async fn manifest(&self, version: &str) -> Result<Manifest, PullError> {
        let answer = self.get(&format!("manifests/{version}"), MANIFEST_TYPES).await?;
        let bytes = document(answer).await?;
        let got = digest::of(&bytes);
        if version.starts_with("sha256:") && version != got {
            return Err(PullError::Failed(format!("manifest {version} has digest {got}")));
        }
        Ok(Manifest { digest: got, bytes })
    }

    /// A small blob, verified.
    pub async fn document(&self, blob_digest: &str) -> Result<Bytes, PullError> {
        let bytes = document(self.blob(blob_digest).await?).await?;
        let got = digest::of(&bytes);
        if got == blob_digest {
            Ok(bytes)
        } else {
            Err(PullError::Failed(format!("blob {blob_digest} has digest {got}")))
        }
    }

    /// A blob's stream; the caller verifies it while reading.
    pub async fn blob(&self, blob_digest: &str) -> Result<Response<Incoming>, PullError> {
        self.get(&format!("blobs/{blob_digest}"), "*/*").await
    }

    async fn get(&self, path: &str, accept: &str) -> Result<Response<Incoming>, PullError> {
        let scheme = if self.reference.is_loopback() { "http" } else { "https" };
        let url = format!("{scheme}://{}/v2/{}/{path}", self.reference.host(), self.reference.repository);
        let mut answer = self.send(&url, accept).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            self.authorize(&url, answer.headers()).await?;
            answer = self.send(&url, accept).await?;
        }
        match answer.status() {
            status if status.is_success() => Ok(answer),
            StatusCode::NOT_FOUND => Err(PullError::Refused(format!("{path}: not found"))),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(PullError::Refused(
                "pull access denied: the repository may not exist or may need credentials".to_owned(),
            )),
            status => Err(unsuccessful(&url, status)),
        }
    }

    /// Follows redirects; credentials go to the registry itself only.
    async fn send(&self, url: &str, accept: &str) -> Result<Response<Incoming>, PullError> {
        let mut target: Uri = url.parse().map_err(|error| PullError::Failed(format!("{url}: {error}")))?;
        let home = target.authority().cloned();
        for _ in 0..=REDIRECTS_MAX {
            let mut request = Request::builder().method(Method::GET).uri(target.clone()).header(ACCEPT, accept);
            if target.authority() == home.as_ref()
                && let Some(authorization) = self.authorization.lock().await.as_deref()
            {
                request = request.header(AUTHORIZATION, authorization);
            }
            let answer = self.registry.request(request).await?;
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            target = redirect(&target, answer.headers())
                .ok_or_else(|| PullError::Failed(format!("{target}: a redirect without a target")))?;
        }
        Err(PullError::Failed(format!("{url}: more than {REDIRECTS_MAX} redirects")))
    }

    /// Answers the registry's challenge: a token from its token service, or the password itself.
    async fn authorize(&self, url: &str, headers: &HeaderMap) -> Result<(), PullError> {
        let challenges = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let basic = self.credential.map(|credential| {
            let pair = format!("{}:{}", credential.username, credential.password);
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
        });
        let authorization = match challenges.filter_map(Challenge::parse).next() {
            Some(Challenge::Basic) => basic,
            Some(Challenge::Bearer { realm, service, scope }) => {
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.reference.repository));
                Some(self.registry.token(&realm, service.as_deref(), &scope, basic.as_deref()).await?)
            }
            None => None,
        };
        match authorization {
            Some(authorization) => {
                *self.authorization.lock().await = Some(authorization);
                Ok(())
            }
            None => Err(PullError::Refused(format!("{url}: the registry wants credentials"))),
        }
    }
}

/// A small body as a whole.
async fn document(answer: Response<Incoming>) -> Result<Bytes, PullError> {
    let limited = Limited::new(answer.into_body(), DOCUMENT_BYTES_MAX);
    match tokio::time::timeout(ANSWER_LIMIT, limited.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(PullError::Failed(format!("a document of more than {DOCUMENT_BYTES_MAX} bytes")))
        }
        Ok(Err(error)) => Err(PullError::Unreachable(format!("the answer broke off: {}", chain(&*error)))),
        Err(_) => Err(PullError::Unreachable(format!("no whole answer within {} s", ANSWER_LIMIT.as_secs()))),
    }
}

/// A registry that is overloaded or broken has said nothing about the image.
fn unsuccessful(url: &str, status: StatusCode) -> PullError {
    let text = format!("{url}: answered {status}");
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        PullError::Unreachable(text)
    } else {
        PullError::Refused(text)
    }
}

/// A value within a query.
fn escaped(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b',' => {
                text.push(char::from(byte));
            }
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

impl Registry {
    async fn request(&self, request: http::request::Builder) -> Result<Response<Incoming>, PullError> {
        let request = request
            .header(http::header::USER_AGENT, concat!("kontiki/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|error| PullError::Failed(error.to_string()))?;
        let uri = request.uri().clone();
        match tokio::time::timeout(ANSWER_LIMIT, self.client.request(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(PullError::Unreachable(format!("{uri}: {}", chain(&error)))),
            Err(_) => Err(PullError::Unreachable(format!("{uri}: no answer within {} s", ANSWER_LIMIT.as_secs()))),
        }
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        basic: Option<&str>,
    ) -> Result<String, PullError> {
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let separator = if realm.contains('?') { '&' } else { '?' };
        let service = service.map(|service| format!("service={}&", escaped(service))).unwrap_or_default();
        let mut request = Request::builder().uri(format!("{realm}{separator}{service}scope={}", escaped(scope)));
        if let Some(basic) = basic {
            request = request.header(AUTHORIZATION, basic);
        }
        let answer = self.request(request).await?;
        if !answer.status().is_success() {
            return Err(unsuccessful(realm, answer.status()));
        }
        let body = document(answer).await?;
        let token: Token =
            serde_json::from_slice(&body).map_err(|error| PullError::Failed(format!("{realm}: {error}")))?;
        let token = token.token.or(token.access_token);
        token
            .map(|token| format!("Bearer {token}"))
            .ok_or_else(|| PullError::Failed(format!("{realm}: the token service sent no token")))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// `Bearer realm="…",service="…",scope="…"` or `Basic …` (RFC 9110, section 11.6.1).
    fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.split_once(' ').unwrap_or((header, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        let mut rest = rest.trim();
        while let Some((name, after)) = rest.split_once('=') {
            let after = after.strip_prefix('"')?;
            let (value, after) = after.split_once('"')?;
            match name.trim_start_matches([',', ' ']).to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value.to_owned()),
                "service" => service = Some(value.to_owned()),
                "scope" => scope = Some(value.to_owned()),
                _ => {}
            }
            rest = after;
        }
        Some(Self::Bearer { realm: realm?, service, scope })
    }
}

/// The credentials for a registry, the most specific first.
pub fn matching<'a>(reference: &Reference, credentials: &'a [Credential]) -> Vec<&'a Credential> {
    let name = reference.name();
    let covers = |credential: &&Credential| {
        let registry = credential.registry.trim_start_matches("https://").trim_start_matches("http://");
        let registry = registry.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        name == registry || name.strip_prefix(registry).is_some_and(|rest| rest.starts_with('/'))
    };
    let mut found: Vec<&Credential> = credentials.iter().filter(covers).collect();
    found.sort_by_key(|credential| std::cmp::Reverse(credential.registry.len()));
    found
}

fn redirect(from: &Uri, headers: &HeaderMap) -> Option<Uri> {
    let location = headers.get(LOCATION)?.to_str().ok()?;
    if location.starts_with('/') {
        format!("{}://{}{location}", from.scheme_str()?, from.authority()?).parse().ok()
    } else {
        location.parse().ok()
    }
}

/// An error with its causes: hyper's own text says only that connecting failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer =
            r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull""#;
        assert_eq!(
            Challenge::parse(bearer),
            Some(Challenge::Bearer {
                realm: "https://auth.example/token".into(),
                service: Some("registry.example".into()),
                scope: Some("repository:a/b:pull".into()),
            })
        );
        assert_eq!(Challenge::parse("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("Negotiate"), None);
        assert_eq!(Challenge::parse("Bearer service=\"x\""), None);
    }

    #[test]
    fn the_most_specific_credential_comes_first() {
        let credential = |registry: &str| Credential {
            registry: registry.into(),
            username: registry.into(),
            password: String::new(),
        };
        let all = [credential("r.example"), credential("r.example/team"), credential("https://index.docker.io/v1/")];
        let names = |text: &str| -> Vec<String> {
            let reference = Reference::parse(text).unwrap();
            matching(&reference, &all).into_iter().map(|c| c.username.clone()).collect()
        };
        assert_eq!(names("r.example/team/app"), ["r.example/team", "r.example"]);
        assert_eq!(names("r.example/teams/app"), ["r.example"]);
        assert_eq!(names("debian"), ["https://index.docker.io/v1/"]);
        assert!(names("other.example/app").is_empty());
    }
}
