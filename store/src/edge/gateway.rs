//! The JSON gateway: every RPC as a POST under `/v3/`.
//!
//! It is a client of this member's own gRPC services, in process: a request is translated by the descriptors of the
//! `.proto` files and goes through the same checks, limits and counters as one that came over HTTP/2. Nothing here knows a
//! message; a new RPC needs a line in [`table`].

mod answer;
mod json;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod websocket;

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use axum::routing::any;
use http_body_util::BodyExt;
use prost_reflect::DynamicMessage;
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::client::Grpc;
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};

use self::json::{Dynamic, Splitter};
use self::table::Call;

/// Text of base64 is a third longer than its bytes; names and quotes come on top.
const JSON_OVERHEAD: usize = 2;

struct Gateway {
    calls: HashMap<&'static str, Call>,
    grpc: Router,
    /// One request's text.
    request_bytes_max: usize,
    /// One for each RPC under way.
    streams: Arc<Semaphore>,
}

/// The gateway over `grpc`, which takes messages of up to `message_bytes_max`. As etcd's, which is one HTTP/2 connection,
/// it has `streams_max` RPCs under way; further ones wait.
pub(super) fn routes(grpc: Router, message_bytes_max: usize, streams_max: u32) -> Router {
    let streams = usize::try_from(streams_max).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
    let gateway = Gateway {
        calls: table::calls(),
        grpc,
        request_bytes_max: JSON_OVERHEAD * message_bytes_max,
        streams: Arc::new(Semaphore::new(streams)),
    };
    let router = Router::new().route("/v3/{*path}", any(serve)).route("/v3beta/{*path}", any(serve));
    router.with_state(Arc::new(gateway))
}

async fn serve(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let path = request.uri().path();
    let old = path.strip_prefix("/v3beta/").map(|rest| format!("/v3/{rest}"));
    let Some(call) = gateway.calls.get(old.as_deref().unwrap_or(path)).cloned() else {
        return answer::failure(&Status::not_found("Not Found"));
    };
    if websocket::is_asked(request.headers()) && (call.streams_in || call.streams_out) {
        return websocket::upgrade(gateway, call, request).await;
    }
    if request.method() != Method::POST {
        return answer::failure(&Status::unimplemented("Method Not Allowed"));
    }
    let (parts, body) = request.into_parts();
    let served = if call.streams_in || call.streams_out {
        stream::over_http(&gateway, &call, &parts.headers, body).await
    } else {
        gateway.unary(&call, &parts.headers, body).await
    };
    served.unwrap_or_else(|status| answer::failure(&status))
}

impl Gateway {
    async fn unary(&self, call: &Call, headers: &HeaderMap, body: Body) -> Result<Response, Status> {
        let message = self.read_one(call, body).await?;
        let _stream = self.streams.acquire().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut client = self.client();
        client.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
        let request = self.request(headers, message);
        let reply = client.unary(request, call.path.clone(), Dynamic(call.output.clone())).await?;
        Ok(answer::unary(reply.get_ref()))
    }

    /// The first value of a body; what follows it is not looked at. An empty body is an empty request.
    async fn read_one(&self, call: &Call, mut body: Body) -> Result<DynamicMessage, Status> {
        let mut values = Splitter::new(self.request_bytes_max);
        loop {
            if let Some(value) = values.next()? {
                return json::parse(&call.input, &value);
            }
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(piece) = frame.data_ref() {
                        values.push(piece);
                    }
                }
                Some(Err(error)) => return Err(Status::invalid_argument(error.to_string())),
                None => {
                    values.end()?;
                    return Ok(DynamicMessage::new(call.input.clone()));
                }
            }
        }
    }

    fn client(&self) -> Grpc<Router> {
        // What this member sends was within its own limits.
        Grpc::new(self.grpc.clone()).max_decoding_message_size(usize::MAX)
    }

    fn request<T>(&self, headers: &HeaderMap, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = metadata(headers);
        request
    }
}

const METADATA_PREFIX: &str = "grpc-metadata-";

/// What travels on: the token, and headers that are marked as metadata.
fn metadata(headers: &HeaderMap) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    // Marks the request as the gateway's, whatever the client accepts.
    let accept = headers.get("accept").and_then(|accept| accept.to_str().ok()?.parse().ok());
    metadata.insert("grpcgateway-accept", accept.unwrap_or_else(|| MetadataValue::from_static("*/*")));
    for (name, value) in headers {
        let name = match name.as_str() {
            "authorization" => "authorization",
            name => match name.strip_prefix(METADATA_PREFIX) {
                // Not those that are the transport's.
                Some(rest) if !rest.starts_with("grpc") && rest != "content-type" && rest != "te" => rest,
                _ => continue,
            },
        };
        let key = MetadataKey::from_bytes(name.as_bytes());
        let value = value.to_str().ok().and_then(|value| value.parse().ok());
        if let (Ok(key), Some(value)) = (key, value) {
            metadata.append(key, value);
        }
    }
    metadata
}
