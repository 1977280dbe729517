//! Streaming calls: requests as they arrive, a line for each answer.
//!
//! Nothing is queued: requests are read when the RPC asks for the next one, an answer is made when the client's connection
//! takes it. When the client leaves, the body is dropped, and with it the RPC.

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures::stream::{BoxStream, unfold};
use futures::{Stream, StreamExt, TryStreamExt};
use prost_reflect::DynamicMessage;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tonic::{Status, Streaming};

use super::json::{Dynamic, Splitter};
use super::table::Call;
use super::{Gateway, answer, json};

/// The pieces that a request arrives in.
pub(super) type Pieces = BoxStream<'static, Result<Bytes, Status>>;

pub(super) async fn over_http(
    gateway: &Gateway,
    call: &Call,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Status> {
    let pieces = body.into_data_stream().map_err(|error| Status::invalid_argument(error.to_string())).boxed();
    let mut answers = match open(gateway, call, headers, pieces).await {
        Ok(answers) => answers,
        Err(status) => return Ok(failed(&status)),
    };
    // The status of the response is known with the first answer only.
    let first = match answers.next().await {
        None => return Ok(answer::response(StatusCode::OK, Body::empty())),
        Some(Err(status)) => return Ok(failed(&status)),
        Some(Ok(first)) => answer::line(&first),
    };
    let lines = unfold(Some((Some(first), answers)), |state| async move {
        let (first, mut answers) = state?;
        if let Some(first) = first {
            return Some((Ok::<_, std::convert::Infallible>(first), Some((None, answers))));
        }
        match answers.next().await? {
            Ok(message) => Some((Ok(answer::line(&message)), Some((None, answers)))),
            Err(status) => Some((Ok(answer::failure_line(&status)), None)),
        }
    });
    Ok(answer::response(StatusCode::OK, Body::from_stream(lines)))
}

fn failed(status: &Status) -> Response {
    let body = Body::from(answer::failure_line(status));
    answer::response(answer::http_status(status.code()), body)
}

/// Starts the RPC once the first request is there and well-formed, and returns its answers.
pub(super) async fn open(
    gateway: &Gateway,
    call: &Call,
    headers: &HeaderMap,
    pieces: Pieces,
) -> Result<Answers, Status> {
    let mut requests = Requests { pieces, values: Splitter::new(gateway.request_bytes_max), call: call.clone() };
    let first = requests.next().await?;
    let permit = gateway.streams.clone().acquire_owned().await;
    let permit = permit.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut client = gateway.client();
    client.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let (broken, failure) = oneshot::channel();
    let (path, codec) = (call.path.clone(), Dynamic(call.output.clone()));
    let stream = if call.streams_in {
        let request = gateway.request(headers, requests.stream(first, broken));
        client.streaming(request, path, codec).await?.into_inner()
    } else {
        let message = first.unwrap_or_else(|| DynamicMessage::new(call.input.clone()));
        client.server_streaming(gateway.request(headers, message), path, codec).await?.into_inner()
    };
    Ok(Answers { stream, failure: Some(failure), _permit: permit })
}

/// The requests of a body.
struct Requests {
    pieces: Pieces,
    values: Splitter,
    call: Call,
}

impl Requests {
    /// The next request, or nothing after the last one.
    async fn next(&mut self) -> Result<Option<DynamicMessage>, Status> {
        loop {
            if let Some(value) = self.values.next()? {
                return json::parse(&self.call.input, &value).map(Some);
            }
            match self.pieces.next().await {
                Some(piece) => self.values.push(&piece?),
                None => {
                    self.values.end()?;
                    return Ok(None);
                }
            }
        }
    }

    /// `first` and the rest. After a malformed request there is none; what is wrong with it is told through `broken`.
    fn stream(
        self,
        first: Option<DynamicMessage>,
        broken: oneshot::Sender<Status>,
    ) -> impl Stream<Item = DynamicMessage> + Send + 'static {
        unfold((self, first, broken), |(mut requests, first, broken)| async move {
            if let Some(first) = first {
                return Some((first, (requests, None, broken)));
            }
            match requests.next().await {
                Ok(Some(request)) => return Some((request, (requests, None, broken))),
                Ok(None) if requests.call.outlives_requests => {}
                Ok(None) => return None,
                Err(status) => {
                    // Nobody listens when the RPC has ended already.
                    let _ = broken.send(status);
                }
            }
            // Not the end, which the RPC could take for a reason to end well.
            std::future::pending().await
        })
    }
}

/// The answers of an RPC, up to its end or the first thing that went wrong.
pub(super) struct Answers {
    stream: Streaming<DynamicMessage>,
    failure: Option<oneshot::Receiver<Status>>,
    _permit: OwnedSemaphorePermit,
}

impl Answers {
    pub(super) async fn next(&mut self) -> Option<Result<DynamicMessage, Status>> {
        loop {
            let Some(failure) = &mut self.failure else { return self.stream.message().await.transpose() };
            tokio::select! {
                biased;
                broken = failure => match broken {
                    Ok(status) => return Some(Err(status)),
                    // The requests came to their end as they should.
                    Err(_) => self.failure = None,
                },
                answer = self.stream.message() => return answer.transpose(),
            }
        }
    }
}
