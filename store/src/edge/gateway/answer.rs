//! Answers and failures as HTTP: grpc-gateway's status codes and bodies.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use prost_reflect::DynamicMessage;
use serde::Serialize;
use tonic::{Code, Status};

use super::json;

/// Both forms of the error text: clients of etcd before 3.6 read `error`, later ones `message`.
#[derive(Serialize)]
struct Failure<'a> {
    error: &'a str,
    code: i32,
    message: &'a str,
    details: [(); 0],
}

/// A failure within a stream: it has one form only.
#[derive(Serialize)]
struct StreamFailure<'a> {
    error: StreamFailureBody<'a>,
}

#[derive(Serialize)]
struct StreamFailureBody<'a> {
    code: i32,
    message: &'a str,
    details: [(); 0],
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
    let error = StreamFailureBody { code: status.code().into(), message: status.message(), details: [] };
    let mut text = serde_json::to_vec(&StreamFailure { error }).expect("texts and numbers have a JSON form");
    text.push(b'\n');
    text.into()
}

pub(super) fn failure(status: &Status) -> Response {
    let message = status.message();
    let failure = Failure { error: message, code: status.code().into(), message, details: [] };
    let text = serde_json::to_vec(&failure).expect("texts and numbers have a JSON form");
    response(http_status(status.code()), Body::from(text))
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
