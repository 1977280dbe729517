//! One client for several API servers.
//!
//! A request goes to the server that answered last; when that one cannot be reached or does not answer in time, the next
//! takes over, and stays. A request that may have been heard is repeated elsewhere only if it reads: the caller of a write gets
//! the error and knows what is safe to repeat.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, request::Parts};
use kube::client::Body;

use crate::limits::{API_CONNECT_TIMEOUT, API_RESPONSE_TIMEOUT};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone)]
struct Failover {
    servers: Arc<[kube::Client]>,
    current: Arc<AtomicUsize>,
}

/// A client that fails over between `servers`, which must not be empty.
pub fn client(servers: Vec<kube::Config>) -> Result<kube::Client, kube::Error> {
    assert!(!servers.is_empty(), "an agent needs an API server");
    let single = |mut config: kube::Config| {
        config.connect_timeout = Some(API_CONNECT_TIMEOUT);
        // Trying the same server again is what failing over is instead of.
        config.default_retry = false;
        kube::Client::try_from(config)
    };
    let servers: Vec<kube::Client> = servers.into_iter().map(single).collect::<Result<_, _>>()?;
    let service = Failover { servers: servers.into(), current: Arc::new(AtomicUsize::new(0)) };
    Ok(kube::Client::new(service, "default"))
}

impl tower::Service<Request<Body>> for Failover {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await?;
            this.send(parts, body).await
        })
    }
}

impl Failover {
    async fn send(&self, parts: Parts, body: Bytes) -> Result<Response<Body>, BoxError> {
        let is_read = matches!(parts.method, Method::GET | Method::HEAD);
        let mut last = None;
        for _ in 0..self.servers.len() {
            let at = self.current.load(Ordering::Relaxed) % self.servers.len();
            let request = Request::from_parts(parts.clone(), Body::from(body.clone()));
            match tokio::time::timeout(API_RESPONSE_TIMEOUT, self.servers[at].send(request)).await {
                Ok(Ok(response)) if !is_unable(response.status()) => return Ok(response),
                Ok(Ok(response)) => {
                    self.leave(at);
                    if !is_read {
                        return Ok(response);
                    }
                    last = Some(Ok(response));
                }
                Ok(Err(error)) => {
                    self.leave(at);
                    let is_unheard = is_connect_failure(&error);
                    if !is_read && !is_unheard {
                        return Err(error.into());
                    }
                    last = Some(Err(error.into()));
                }
                Err(_) => {
                    self.leave(at);
                    let error: BoxError = format!("no answer within {API_RESPONSE_TIMEOUT:?}").into();
                    if !is_read {
                        return Err(error);
                    }
                    last = Some(Err(error));
                }
            }
        }
        last.expect("invariant: there is at least one server")
    }

    /// The next server is the current one, unless somebody has moved on already.
    fn leave(&self, at: usize) {
        let next = (at + 1) % self.servers.len();
        let _ = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The server is up and cannot serve, e.g. without a leader.
fn is_unable(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// Nobody can have heard the request.
fn is_connect_failure(error: &kube::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if error
            .downcast_ref::<hyper_util::client::legacy::Error>()
            .is_some_and(hyper_util::client::legacy::Error::is_connect)
        {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn config(port: u16) -> kube::Config {
        let _ = rustls::crypto::ring::default_provider().install_default();
        kube::Config::new(format!("http://127.0.0.1:{port}").parse().unwrap())
    }

    /// Answers every connection's first request with `answer`.
    async fn server(answer: &'static str) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut head = [0; 4096];
                let _ = socket.read(&mut head).await;
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    async fn closed_port() -> u16 {
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
    }

    const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
    const UNABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno";

    async fn send(client: &kube::Client, method: Method) -> Result<StatusCode, kube::Error> {
        let request = Request::builder().method(method).uri("/x").body(Body::from(b"body".to_vec())).unwrap();
        client.send(request).await.map(|response| response.status())
    }

    #[tokio::test]
    async fn a_refused_connection_moves_even_a_write_to_the_next_server() {
        let client = client(vec![config(closed_port().await), config(server(FINE).await)]).unwrap();
        assert_eq!(send(&client, Method::POST).await.unwrap(), StatusCode::OK);
        assert_eq!(send(&client, Method::POST).await.unwrap(), StatusCode::OK);
    }

    #[tokio::test]
    async fn a_read_is_repeated_where_a_write_is_not() {
        let servers = || async { vec![config(server(UNABLE).await), config(server(FINE).await)] };
        let reading = client(servers().await).unwrap();
        assert_eq!(send(&reading, Method::GET).await.unwrap(), StatusCode::OK);
        let writing = client(servers().await).unwrap();
        assert_eq!(send(&writing, Method::POST).await.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            send(&writing, Method::POST).await.unwrap(),
            StatusCode::OK,
            "the next request goes to the next server"
        );
    }

    #[tokio::test]
    async fn when_nobody_answers_the_last_error_is_returned() {
        let client = client(vec![config(closed_port().await), config(closed_port().await)]).unwrap();
        assert!(send(&client, Method::GET).await.is_err());
    }
}
