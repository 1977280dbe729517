//! The pages that the peer port has for people and tools beside the members' own protocol: `/members` and `/version`.
//!
//! An HTTP client is told by its first bytes, which no member sends; whoever gets as far as sending them has passed the
//! same TLS as a member. What the pages say is the [`Service`]'s; a connection is served for a moment, never for long.

use std::convert::Infallible;
use std::io::Cursor;
use std::sync::Arc;

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::AsyncReadExt;

use super::Service;
use super::handshake::OPENING;
use crate::io::network::Stream;
use crate::limits::PEER_PAGES_TIME;

/// Whether a caller speaks HTTP/1 or, as TLS lets it choose, HTTP/2.
pub(super) fn are_wanted(opening: &[u8; OPENING]) -> bool {
    opening.starts_with(b"GET ") || opening == b"PRI * HT"
}

/// Answers the requests of one connection, whose first bytes were read already.
pub(super) async fn serve(opening: [u8; OPENING], stream: Box<dyn Stream>, from: &str, service: Arc<dyn Service>) {
    let (read, write) = tokio::io::split(stream);
    let stream = TokioIo::new(tokio::io::join(Cursor::new(opening).chain(read), write));
    let answer = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&request, &*service);
        async move { Ok::<_, Infallible>(answer) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    match tokio::time::timeout(PEER_PAGES_TIME, builder.serve_connection(stream, answer)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(from, error, "a reader of the peer port's pages went away"),
        Err(_) => tracing::debug!(from, "a reader of the peer port's pages stayed too long"),
    }
}

fn answer(request: &Request<Incoming>, service: &dyn Service) -> Response<String> {
    if *request.method() != Method::GET {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return refusal;
    }
    service.page(request.uri().path()).unwrap_or_else(|| text(StatusCode::NOT_FOUND, "404 page not found\n"))
}

fn text(status: StatusCode, body: &str) -> Response<String> {
    let mut response = Response::new(body.to_owned());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
