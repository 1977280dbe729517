//! Streaming calls over a WebSocket: a message for each request, a message for each answer.

use std::sync::Arc;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Request};
use axum::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::table::Call;
use super::{Gateway, answer, stream};

pub(super) fn is_asked(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

pub(super) async fn upgrade(gateway: Arc<Gateway>, call: Call, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade.protocols(["Bearer"]).max_message_size(gateway.request_bytes_max),
        Err(rejection) => return rejection.into_response(),
    };
    let mut headers = parts.headers;
    // A browser cannot set headers on a WebSocket: it sends `Sec-WebSocket-Protocol: Bearer, <token>`.
    let token = headers.get(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer, "));
    if let Some(token) = token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok()) {
        headers.insert(AUTHORIZATION, token);
    }
    upgrade.on_upgrade(move |socket| run(gateway, call, headers, socket))
}

async fn run(gateway: Arc<Gateway>, call: Call, headers: HeaderMap, socket: WebSocket) {
    let (mut sink, source) = socket.split();
    let (requests, pieces) = mpsc::channel(1);
    let serving = async {
        let pieces = ReceiverStream::new(pieces).map(Ok).boxed();
        let mut answers = match stream::open(&gateway, &call, &headers, pieces).await {
            Ok(answers) => answers,
            Err(status) => return failed(&mut sink, &status).await,
        };
        while let Some(message) = answers.next().await {
            match message {
                Ok(message) => send(&mut sink, answer::line(&message)).await?,
                Err(status) => return failed(&mut sink, &status).await,
            }
        }
        sink.close().await
    };
    tokio::select! {
        served = serving => {
            if let Err(error) = served {
                tracing::debug!(%error, "a WebSocket ended");
            }
        }
        () = read(source, requests) => {}
    }
}

/// Passes requests on until the client leaves; the call then ends with it.
async fn read(mut source: SplitStream<WebSocket>, requests: mpsc::Sender<Bytes>) {
    while let Some(Ok(message)) = source.next().await {
        let piece = match message {
            Message::Text(text) => Bytes::from(text),
            Message::Binary(bytes) => bytes,
            // Answered by the library.
            Message::Ping(_) | Message::Pong(_) => continue,
            Message::Close(_) => return,
        };
        // A call that takes one request only has stopped listening.
        let _ = requests.send(piece).await;
    }
}

type Sink = SplitSink<WebSocket, Message>;

async fn send(sink: &mut Sink, line: Bytes) -> Result<(), axum::Error> {
    let text = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
    sink.send(Message::Text(text.into())).await
}

async fn failed(sink: &mut Sink, status: &Status) -> Result<(), axum::Error> {
    send(sink, answer::failure_line(status)).await?;
    sink.close().await
}
