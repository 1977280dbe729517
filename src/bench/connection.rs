//! Calls of the load generator, straight onto HTTP/2.
//!
//! A request's head and its message leave in one write, as they do from etcd's own client. Through tonic's channel they
//! are two, and each wakes the server; the generator's own share of the processors is smaller, too.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::uri::{Authority, Scheme, Uri};
use http::{HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::net::TcpStream;
use tonic::body::Body;
use tower::Service;

use crate::etcd::{self, Access, CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};

type Failure = Box<dyn Error + Send + Sync>;

/// A connection, with the token of whoever uses it.
#[derive(Clone)]
pub enum Connection {
    Plain(Direct),
    /// What encryption costs is more than a second write.
    Secure(etcd::Connection),
}

/// Connects to one member, and logs in where there is a user; `endpoint` is a URL, or `host:port` for plain TCP.
///
/// # Errors
/// When a file or the endpoint cannot be used, or the user may not log in.
pub async fn connect(access: &Access, endpoint: &str) -> Result<Connection> {
    if endpoint.starts_with("https://") {
        return access.connect(endpoint).await.map(Connection::Secure);
    }
    let token = access.token(endpoint).await?;
    let direct = Direct::connect(endpoint.trim_start_matches("http://").trim_end_matches('/'), token).await;
    direct.map(Connection::Plain).with_context(|| format!("cannot reach {endpoint}"))
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Body>;
    type Error = Failure;
    type Future = BoxFuture<'static, Result<Response<Body>, Failure>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        match self {
            Self::Plain(direct) => direct.sender.poll_ready(context).map_err(Into::into),
            Self::Secure(channel) => channel.poll_ready(context).map_err(Into::into),
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self {
            Self::Plain(direct) => Box::pin(direct.send(request)),
            Self::Secure(channel) => {
                let answer = channel.call(request);
                Box::pin(async { Ok(answer.await?.map(Body::new)) })
            }
        }
    }
}

/// An HTTP/2 connection in plaintext.
#[derive(Clone)]
pub struct Direct {
    sender: SendRequest<Bytes>,
    authority: Authority,
    token: Option<HeaderValue>,
}

impl Direct {
    async fn connect(authority: &str, token: Option<String>) -> Result<Self> {
        let token = token.map(HeaderValue::try_from).transpose().context("the server's token is no text")?;
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(STREAM_WINDOW_BYTES).initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let (sender, connection) = builder.handshake(stream).await?;
        // Whoever waits for an answer hears why it ended.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, authority: authority.parse()?, token })
    }

    fn send(&mut self, request: Request<Body>) -> impl Future<Output = Result<Response<Body>, Failure>> + use<> {
        let answer = self.start(request);
        async move { Ok(answer?.await?.map(|received| Body::new(Received(received)))) }
    }

    fn start(&mut self, request: Request<Body>) -> Result<h2::client::ResponseFuture, Failure> {
        let (mut head, body) = request.into_parts();
        let mut uri = head.uri.into_parts();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(self.authority.clone());
        head.uri = Uri::from_parts(uri)?;
        if let Some(token) = &self.token {
            head.headers.insert("token", token.clone());
        }
        let (answer, stream) = self.sender.send_request(Request::from_parts(head, ()), false)?;
        send_body(body, stream)?;
        Ok(answer)
    }
}

/// Queues what there is of the body beside the head; a stream of requests goes on in a task of its own.
fn send_body(mut body: Body, mut stream: SendStream<Bytes>) -> Result<(), Failure> {
    let mut held = None;
    loop {
        match body.frame().now_or_never() {
            Some(Some(frame)) => {
                if let Some(before) = held.replace(data(frame?)) {
                    stream.send_data(before, false)?;
                }
            }
            Some(None) => return Ok(stream.send_data(held.unwrap_or_default(), true)?),
            None => {
                if let Some(before) = held {
                    stream.send_data(before, false)?;
                }
                tokio::spawn(send_rest(body, stream));
                return Ok(());
            }
        }
    }
}

async fn send_rest(mut body: Body, mut stream: SendStream<Bytes>) {
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            // The answer has ended, or was given up.
            _ = std::future::poll_fn(|context| stream.poll_reset(context)) => return,
        };
        let sent = match frame {
            Some(Ok(frame)) => stream.send_data(data(frame), false),
            Some(Err(_)) => return stream.send_reset(h2::Reason::CANCEL),
            // Where the stream has ended otherwise, there is nobody to tell.
            None => return drop(stream.send_data(Bytes::new(), true)),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// A request has no trailers.
fn data(frame: Frame<Bytes>) -> Bytes {
    frame.into_data().unwrap_or_default()
}

/// The body of an answer.
struct Received(RecvStream);

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let received = &mut self.0;
        match ready!(received.poll_data(context)) {
            Some(Ok(data)) => {
                received.flow_control().release_capacity(data.len())?;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => Poll::Ready(ready!(received.poll_trailers(context))?.map(|trailers| Ok(Frame::trailers(trailers)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}
