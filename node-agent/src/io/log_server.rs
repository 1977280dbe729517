//! The agent's own HTTPS service: logs for the API server, and its view of its pods.
//!
//! Only clients with a certificate of the cluster's authority get in, and only as `system:masters` or as an API server; what
//! it answers is the kubelet's: plain text, errors included, which the API server passes on to the user.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

use super::files::Files;
use super::log_file::{self, Subject, Wish};
use crate::agent::context::Board;
use crate::agent::{AgentError, ClusterAccess};
use crate::limits::{LOG_CHUNKS_IN_FLIGHT, TLS_HANDSHAKE_TIMEOUT};

pub struct LogServer {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    router: Router,
    address: SocketAddr,
}

#[derive(Clone)]
struct Served {
    board: Arc<Board>,
    files: Files,
}

impl LogServer {
    pub async fn bind(
        listen: SocketAddr,
        access: &ClusterAccess,
        board: Arc<Board>,
        files: Files,
    ) -> Result<Self, AgentError> {
        let io = |source| AgentError::Io { what: format!("cannot listen on {listen}"), source };
        let listener = TcpListener::bind(listen).await.map_err(io)?;
        let address = listener.local_addr().map_err(io)?;
        let tls = tls(access)
            .map_err(|what| AgentError::Config { what: format!("the certificates of the log server: {what}") })?;
        let router = Router::new()
            .route("/healthz", get(|| async { "ok" }))
            .route("/pods", get(pods))
            .route("/containerLogs/{namespace}/{pod}/{container}", get(logs))
            .with_state(Served { board, files });
        Ok(Self { listener, acceptor: TlsAcceptor::from(Arc::new(tls)), router, address })
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Serves for as long as it is polled; connections are tasks of their own.
    pub async fn serve(self) {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => drop(connections.spawn(serve_one(stream, self.acceptor.clone(), self.router.clone()))),
                    Err(error) => {
                        tracing::warn!(%error, "the log server cannot accept");
                        tokio::time::sleep(crate::limits::API_RETRY_FIRST).await;
                    }
                },
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
            }
        }
    }
}

async fn serve_one(stream: TcpStream, acceptor: TlsAcceptor, router: Router) {
    let Ok(Ok(stream)) = tokio::time::timeout(TLS_HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await else { return };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let is_allowed = certificate.is_some_and(is_allowed);
    let router =
        if is_allowed { router } else { Router::new().fallback(|| async { (StatusCode::FORBIDDEN, "Forbidden") }) };
    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    let serving = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = serving.await {
        tracing::debug!(%error, "a connection to the log server ended");
    }
}

/// The API servers and the cluster's administrators.
fn is_allowed(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    let subject = parsed.subject();
    let is_master = subject.iter_organization().any(|name| name.as_str().is_ok_and(|name| name == "system:masters"));
    let is_server =
        |name: &str| matches!(name, "kube-apiserver-kubelet-client" | "system:kube-apiserver" | "kube-apiserver");
    is_master || subject.iter_common_name().any(|name| name.as_str().is_ok_and(is_server))
}

fn tls(access: &ClusterAccess) -> Result<ServerConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&access.client_authority) {
        roots.add(certificate.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().map_err(|error| error.to_string())?;
    let chain = CertificateDer::pem_slice_iter(&access.certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(&access.key).map_err(|error| error.to_string())?;
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

async fn pods(State(served): State<Served>) -> Response {
    let list = serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": served.board.all()});
    axum::Json(list).into_response()
}

type LogPath = (String, String, String);

async fn logs(
    State(served): State<Served>,
    Path((namespace, name, container)): Path<LogPath>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let Some((pod, status)) = served.board.find(&namespace, &name) else {
        return (StatusCode::NOT_FOUND, format!("pod \"{name}\" not found")).into_response();
    };
    let (wish, previous) = match wish(&query, Timestamp::now()) {
        Ok(wish) => wish,
        Err(error) => return (StatusCode::BAD_REQUEST, error).into_response(),
    };
    let attempt = attempt(&status.borrow(), &name, &container, previous);
    match attempt {
        Ok(attempt) => stream(&served.files, &pod, Subject { container, attempt }, wish, status),
        Err(error) => (StatusCode::BAD_REQUEST, error).into_response(),
    }
}

fn stream(files: &Files, pod: &Pod, subject: Subject, wish: Wish, status: watch::Receiver<PodStatus>) -> Response {
    let path = files.log(pod, &subject.container, u32::try_from(subject.attempt).unwrap_or(0));
    let (sink, chunks) = mpsc::channel(LOG_CHUNKS_IN_FLIGHT);
    if !path.exists() {
        let text =
            format!("failed to try resolving symlinks in path \"{}\": no such file or directory", path.display());
        return (StatusCode::INTERNAL_SERVER_ERROR, text).into_response();
    }
    tokio::spawn(log_file::read(path, wish, subject, status, sink));
    ([("content-type", "text/plain")], Body::from_stream(ReceiverStream::new(chunks))).into_response()
}

/// The options of the request, and whether the previous instance is meant.
fn wish(query: &HashMap<String, String>, now: Timestamp) -> Result<(Wish, bool), String> {
    let flag = |name: &str| query.get(name).is_some_and(|value| matches!(value.as_str(), "true" | "1" | ""));
    let number = |name: &str| -> Result<Option<u64>, String> {
        let parse = |text: &String| text.parse::<u64>().map_err(|_| format!("invalid value for \"{name}\": {text:?}"));
        query.get(name).filter(|text| !text.is_empty()).map(parse).transpose()
    };
    let since_time = query
        .get("sinceTime")
        .map(|text| text.parse::<Timestamp>().map_err(|_| format!("invalid value for \"sinceTime\": {text:?}")));
    let since = match (number("sinceSeconds")?, since_time.transpose()?) {
        (Some(seconds), _) => {
            now.checked_sub(SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))).ok()
        }
        (None, time) => time,
    };
    let wish = Wish {
        follow: flag("follow"),
        tail_lines: number("tailLines")?,
        since,
        timestamps: flag("timestamps"),
        limit_bytes: number("limitBytes")?,
    };
    Ok((wish, flag("previous")))
}

/// Which start's log is meant; the error is the kubelet's sentence about why there is none.
fn attempt(status: &PodStatus, pod: &str, container: &str, previous: bool) -> Result<i32, String> {
    let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let own: Option<&ContainerStatus> = all.into_iter().find(|status| status.name == container);
    let Some(own) = own else { return Err(format!("container \"{container}\" in pod \"{pod}\" is not available")) };
    let has_last = own.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
    let waiting = own.state.as_ref().and_then(|state| state.waiting.as_ref());
    match (waiting, previous, has_last) {
        (_, true, false) => Err(format!("previous terminated container \"{container}\" in pod \"{pod}\" not found")),
        // The last instance is the newest one while its successor waits.
        (Some(_), _, true) => Ok(own.restart_count),
        (None, true, true) => Ok(own.restart_count - 1),
        (None, false, _) => Ok(own.restart_count),
        (Some(waiting), false, false) => {
            let reason = match waiting.reason.as_deref().unwrap_or_default() {
                "ErrImagePull" => "trying and failing to pull image",
                "ImagePullBackOff" => "image can't be pulled",
                reason => reason,
            };
            Err(format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {reason}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(container: serde_json::Value, previous: bool) -> Result<i32, String> {
        let status: PodStatus = serde_json::from_value(json!({"containerStatuses": [container]})).unwrap();
        attempt(&status, "p", "c", previous)
    }

    fn container(restarts: i32, state: serde_json::Value, last: serde_json::Value) -> serde_json::Value {
        json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": restarts, "state": state, "lastState": last})
    }

    #[test]
    fn which_log_is_meant() {
        let ended = json!({"terminated": {"exitCode": 1}});
        assert_eq!(check(container(0, json!({"running": {}}), json!({})), false), Ok(0));
        assert_eq!(check(container(2, json!({"running": {}}), ended.clone()), true), Ok(1));
        assert_eq!(
            check(container(2, json!({"waiting": {"reason": "CrashLoopBackOff"}}), ended.clone()), false),
            Ok(2)
        );
        assert_eq!(check(container(2, json!({"waiting": {"reason": "CrashLoopBackOff"}}), ended.clone()), true), Ok(2));
        assert_eq!(
            check(container(0, ended, json!({})), true),
            Err("previous terminated container \"c\" in pod \"p\" not found".into())
        );
        let creating = container(0, json!({"waiting": {"reason": "ContainerCreating"}}), json!({}));
        assert_eq!(
            check(creating, false),
            Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating".into())
        );
    }

    #[test]
    fn options_are_read() {
        let query = |text: &str| {
            text.split('&')
                .map(|pair| pair.split_once('=').unwrap())
                .map(|(key, value)| (key.into(), value.into()))
                .collect()
        };
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let (found, previous) =
            wish(&query("follow=true&tailLines=5&sinceSeconds=60&timestamps=true&previous=true"), now).unwrap();
        let since = Some("2026-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(found, Wish { follow: true, tail_lines: Some(5), since, timestamps: true, limit_bytes: None });
        assert!(previous);
        assert_eq!(wish(&query("tailLines=x"), now).unwrap_err(), "invalid value for \"tailLines\": \"x\"");
    }
}
