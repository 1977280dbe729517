//! The Watch service: one [`WatchStream`] for each gRPC stream.
//!
//! The response stream drives everything from the connection's own task: no task and no queue stand between the ring of
//! revisions and the socket, so that a slow client holds back only itself.

use std::pin::Pin;
use std::time::Duration;

use async_stream::stream;
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream};
use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::watch_request::RequestUnion;
use kontiki_api::etcdserverpb::watch_server::Watch;
use tonic::{Request, Response, Status, Streaming};

use super::access::{Sender, split};
use super::{Edge, wants_leader};
use crate::auth::AuthError;
use crate::error::StoreError;
use crate::limits;
use crate::watch::{WatchStream, WatchStreamOptions};

type Responses = Pin<Box<dyn Stream<Item = Result<pb::WatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Watch for Edge {
    type WatchStream = Responses;

    async fn watch(&self, request: Request<Streaming<pb::WatchRequest>>) -> Result<Response<Responses>, Status> {
        self.refuse_limited()?;
        let options = WatchStreamOptions {
            progress_interval: self.config.progress_interval,
            fragment_bytes: self.config.max_request_bytes + limits::REQUEST_OVERHEAD_BYTES,
        };
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
        Ok(Response::new(Box::pin(session.responses())))
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
    /// Until the client is gone, or must go elsewhere.
    fn responses(mut self) -> impl Stream<Item = Result<pb::WatchResponse, Status>> {
        stream! {
            loop {
                // What is ready goes out in a row, without a look at all else that might have happened.
                for _ in 0..limits::WATCH_SERVED_AT_ONCE {
                    let Some(response) = self.watch.ready() else { break };
                    yield Ok(self.complete(response));
                    // It is encoded, and as much of it with the connection as that takes.
                    self.watch.sent();
                }
                match self.next().await {
                    Ok(response) => {
                        yield Ok(self.complete(response));
                        self.watch.sent();
                    }
                    Err(status) => {
                        yield Err(status);
                        return;
                    }
                }
            }
        }
    }

    /// The next response, or with what the stream ends.
    async fn next(&mut self) -> Result<pb::WatchResponse, Status> {
        let mut quarantine = self.edge.member.quarantine();
        loop {
            let accepts = !self.half_closed && self.watch.replies_waiting() < limits::WATCH_REPLIES_WAITING;
            tokio::select! {
                request = self.requests.message(), if accepts => match request? {
                    Some(request) => self.handle(request).await,
                    None => self.half_closed = true,
                },
                response = self.watch.next() => return Ok(response),
                // A code on which clients go on elsewhere: what they have seen last they have to ask for again.
                () = quarantined(&mut quarantine) => return Err(Status::unavailable(StoreError::Corrupt.to_string())),
                () = &mut self.leaderless => return Err(StoreError::NoLeader.into()),
            }
        }
    }

    fn complete(&self, mut response: pb::WatchResponse) -> pb::WatchResponse {
        response.header = match response.compact_revision {
            0 => self.edge.complete(response.header),
            _ => Some(self.edge.header(0)),
        };
        response
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
