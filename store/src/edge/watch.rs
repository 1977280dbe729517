//! The Watch service: one [`WatchStream`] for each gRPC stream.
//!
//! The response stream drives everything from the connection's own task: no task and no queue stand between the ring of
//! revisions and the socket, so that a slow client holds back only itself. Responses are put together as the bytes of many
//! at once: a change that thousands of watchers are told of passes no layer a thousand times.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_stream::stream;
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream};
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::watch_request::RequestUnion;
use tonic::body::Body;
use tonic::codec::{Codec as _, CompressionEncoding};
use tonic::server::NamedService;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::Service;

use super::access::{Sender, split};
use super::{Edge, wants_leader};
use crate::auth::AuthError;
use crate::error::StoreError;
use crate::limits;
use crate::watch::{Answer, Head, WatchStream, WatchStreamOptions};

/// The service as a client port offers it. Generated code would take one message after the other.
#[derive(Clone)]
pub(super) struct WatchServer(Edge);

impl WatchServer {
    pub(super) fn new(edge: Edge) -> Self {
        Self(edge)
    }
}

impl NamedService for WatchServer {
    const NAME: &'static str = "etcdserverpb.Watch";
}

impl<B> Service<http::Request<B>> for WatchServer
where
    B: http_body::Body + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let answer = match request.uri().path() {
            "/etcdserverpb.Watch/Watch" => self.0.watch(request),
            _ => Err(Status::unimplemented("")),
        };
        ready(Ok(answer.unwrap_or_else(Status::into_http)))
    }
}

impl Edge {
    fn watch<B>(&self, request: http::Request<B>) -> Result<http::Response<Body>, Status>
    where
        B: http_body::Body + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let encoding = request_encoding(request.headers())?;
        let size_max = self.config.max_request_bytes + limits::REQUEST_OVERHEAD_BYTES;
        let decoder = ProstCodec::<pb::WatchResponse, pb::WatchRequest>::default().decoder();
        let request =
            Request::from_http(request.map(|body| Streaming::new_request(decoder, body, encoding, Some(size_max))));
        self.refuse_limited()?;
        let options = WatchStreamOptions { progress_interval: self.config.progress_interval, fragment_bytes: size_max };
        let leaderless = match wants_leader(request.metadata().as_ref()) {
            true => leaderless(self.member.leadership()).boxed(),
            false => std::future::pending().boxed(),
        };
        let (sender, requests) = split(request);
        let session = Session {
            edge: self.clone(),
            sender,
            watch: self.member.reader().watch().stream_with(options),
            requests,
            half_closed: false,
            leaderless,
        };
        let mut response = http::Response::new(Body::new(Frames { chunks: Some(Box::pin(session.responses())) }));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Ok(response)
    }
}

/// How the messages of a request are compressed.
fn request_encoding(headers: &HeaderMap) -> Result<Option<CompressionEncoding>, Status> {
    match headers.get("grpc-encoding").map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(None),
        Some(b"gzip") => Ok(Some(CompressionEncoding::Gzip)),
        Some(other) => {
            let other = String::from_utf8_lossy(other);
            let reason = format!("Content is compressed with `{other}` which isn't supported");
            let mut status = Status::unimplemented(reason);
            status.metadata_mut().insert("grpc-accept-encoding", "gzip,identity".parse().expect("it is ASCII"));
            Err(status)
        }
    }
}

/// A body of gRPC: what the stream yields, then how it ended.
struct Frames<S> {
    /// None after the end.
    chunks: Option<Pin<Box<S>>>,
}

impl<S: Stream<Item = Result<Bytes, Status>>> http_body::Body for Frames<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(chunks) = &mut self.chunks else { return Poll::Ready(None) };
        let ended = match ready!(chunks.as_mut().poll_next(context)) {
            Some(Ok(chunk)) => return Poll::Ready(Some(Ok(Frame::data(chunk)))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.chunks = None;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(ended.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.is_none()
    }
}

impl Edge {
    /// Whether a watcher's whole range may be read, or the reason that its client is told: anything but a matter of the
    /// token is a matter of permission.
    async fn may_watch(&self, sender: &Sender, create: &pb::WatchCreateRequest) -> Result<(), String> {
        let key: &[u8] = if create.key.is_empty() { &[0] } else { &create.key };
        let may = match self.caller(sender).await {
            Ok(caller) => self.member.reader().auth().may_read(&caller, key, &create.range_end),
            Err(StoreError::Auth(error)) => Err(error),
            Err(error) => return Err(error.to_string()),
        };
        may.map_err(AuthError::as_cancel_reason)
    }
}

struct Session {
    edge: Edge,
    sender: Sender,
    watch: WatchStream,
    requests: Streaming<pb::WatchRequest>,
    /// The client sends no further request; its watchers go on.
    half_closed: bool,
    /// Ends when there has been no leader for too long, for a client that wants one.
    leaderless: BoxFuture<'static, ()>,
}

impl Session {
    /// Until the client is gone, or must go elsewhere: as many responses at a time as are ready.
    fn responses(mut self) -> impl Stream<Item = Result<Bytes, Status>> {
        stream! {
            loop {
                let first = match self.next().await {
                    Ok(answer) => answer,
                    Err(status) => {
                        yield Err(status);
                        return;
                    }
                };
                yield Ok(self.chunk(first));
            }
        }
    }

    /// A response, and what else is ready, without a look at all else that might have happened.
    fn chunk(&mut self, first: Answer) -> Bytes {
        let mut head = Head::new(self.edge.header(0));
        // Whoever waits is mostly told the same, and a chunk that grows is copied each time.
        let alike = first.shared_bytes();
        let room = (alike * (1 + self.watch.waiting())).min(limits::WATCH_CHUNK_BYTES + alike);
        let mut chunk = BytesMut::with_capacity(room);
        let mut ready = Some(first);
        while let Some(answer) = ready {
            answer.put_frame(&mut head, &mut chunk);
            ready = if chunk.len() < limits::WATCH_CHUNK_BYTES { self.watch.ready() } else { None };
        }
        self.watch.sent();
        chunk.freeze()
    }

    /// The next response, or with what the stream ends.
    async fn next(&mut self) -> Result<Answer, Status> {
        let mut quarantine = self.edge.member.quarantine();
        loop {
            let accepts = !self.half_closed && self.watch.replies_waiting() < limits::WATCH_REPLIES_WAITING;
            tokio::select! {
                request = self.requests.message(), if accepts => match request? {
                    Some(request) => self.handle(request).await,
                    None => self.half_closed = true,
                },
                answer = self.watch.next() => return Ok(answer),
                // A code on which clients go on elsewhere: what they have seen last they have to ask for again.
                () = quarantined(&mut quarantine) => return Err(Status::unavailable(StoreError::Corrupt.to_string())),
                () = &mut self.leaderless => return Err(StoreError::NoLeader.into()),
            }
        }
    }

    async fn handle(&mut self, request: pb::WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => match self.edge.may_watch(&self.sender, &create).await {
                Ok(()) => self.watch.create(create),
                Err(reason) => self.watch.refuse(&reason),
            },
            Some(RequestUnion::CancelRequest(cancel)) => self.watch.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.watch.progress(),
            None => {}
        }
    }
}

/// Returns when this member must not serve any more.
async fn quarantined(quarantine: &mut tokio::sync::watch::Receiver<bool>) {
    if quarantine.wait_for(|quarantined| *quarantined).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Returns when no leader has been known for [`limits::LEADERLESS_WATCH_GRACE`].
async fn leaderless(mut leadership: tokio::sync::watch::Receiver<crate::member::Leadership>) {
    loop {
        let known = leadership.borrow_and_update().leader.is_some();
        let changed = leadership.changed();
        if known {
            if changed.await.is_err() {
                return;
            }
        } else {
            match tokio::time::timeout(LEADERLESS_GRACE, changed).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }
}

const LEADERLESS_GRACE: Duration = limits::LEADERLESS_WATCH_GRACE;
