//! Answers and failures as HTTP: grpc-gateway's status codes and bodies.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use prost_reflect::DynamicMessage;
use serde::Serialize;
use tonic::{Code, Status};

use super::json;

/// `google.rpc.Status` as etcd's gateway prints it: in proto's order, and without the fields that are empty, of which
/// `details` always is one. Releases before 3.6 said the text a second time, as `error`.
#[derive(Serialize)]
struct Failure<'a> {
    code: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
}

impl<'a> Failure<'a> {
    fn of(status: &'a Status) -> Self {
        Self { code: status.code().into(), message: status.message() }
    }
}

/// A failure within a stream.
#[derive(Serialize)]
struct StreamFailure<'a> {
    error: Failure<'a>,
}

pub(super) fn unary(message: &DynamicMessage) -> Response {
    let mut text = Vec::new();
    json::print(message, &mut text);
    response(StatusCode::OK, Body::from(text))
}

/// One line of a stream.
pub(super) fn line(message: &DynamicMessage) -> Bytes {
    let mut text = b"{\"result\":".to_vec();
    json::print(message, &mut text);
    text.extend_from_slice(b"}\n");
    text.into()
}

/// The line that ends a stream which failed.
pub(super) fn failure_line(status: &Status) -> Bytes {
    let failure = StreamFailure { error: Failure::of(status) };
    let mut text = serde_json::to_vec(&failure).expect("texts and numbers have a JSON form");
    text.push(b'\n');
    text.into()
}

pub(super) fn failure(status: &Status) -> Response {
    let text = serde_json::to_vec(&Failure::of(status)).expect("texts and numbers have a JSON form");
    let mut response = response(http_status(status.code()), Body::from(text));
    if status.code() == Code::Unauthenticated
        && let Ok(message) = HeaderValue::from_str(status.message())
    {
        response.headers_mut().insert(WWW_AUTHENTICATE, message);
    }
    response
}

pub(super) fn response(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::OK {
        response.headers_mut().insert("grpc-metadata-content-type", HeaderValue::from_static("application/grpc"));
    }
    response
}

/// grpc-gateway's table.
pub(super) fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::from_u16(499).expect("a number of three digits"),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_without_a_valid_token_is_told_so_in_a_header_too() {
        let response = failure(&Status::unauthenticated("etcdserver: invalid auth token"));
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()[WWW_AUTHENTICATE], "etcdserver: invalid auth token");
        assert!(!failure(&Status::not_found("")).headers().contains_key(WWW_AUTHENTICATE));
    }
}
