//! Answers: bodies in the form the client asked for, Status objects, warnings.

use axum::body::Body;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::negotiate::Form;
use crate::engine::table;
use crate::io::api::List;
use crate::io::clock;
use crate::registry::Kind;
use crate::status::ApiError;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An answer with these bytes.
#[must_use]
pub fn bytes(code: StatusCode, content_type: HeaderValue, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// An answer with this JSON document.
#[must_use]
pub fn json(code: StatusCode, value: &Value) -> Response<Body> {
    bytes(code, JSON, encoded(value))
}

/// Plain text.
#[must_use]
pub fn text(code: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    bytes(code, HeaderValue::from_static("text/plain; charset=utf-8"), body.into())
}

#[must_use]
pub fn encoded(value: &Value) -> Bytes {
    serde_json::to_vec(value).expect("a JSON value encodes").into()
}

/// A failure.
#[must_use]
pub fn failure(error: &ApiError) -> Response<Body> {
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, &error.to_status());
    let after = error.details.as_ref().and_then(|d| d["retryAfterSeconds"].as_u64());
    let after = after.or((error.code == 429 || error.code == 503).then_some(1));
    if let Some(seconds) = after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The success of a delete that left nothing.
#[must_use]
pub fn deleted(kind: &Kind, object: &Value) -> Value {
    let mut details = json!({"name": object["metadata"]["name"]});
    if !kind.group.is_empty() {
        details["group"] = kind.group.into();
    }
    details["kind"] = kind.resource.into();
    details["uid"] = object["metadata"]["uid"].clone();
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// A success without more to say.
#[must_use]
pub fn success(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code})
}

/// One object in the form asked for.
#[must_use]
pub fn object(code: StatusCode, kind: &Kind, object: &Value, form: Form) -> Response<Body> {
    // A Status or a Scale is itself in every form.
    let foreign = object["kind"] != kind.kind;
    match form {
        Form::Yaml => yaml(code, object),
        Form::Table(version, include) if !foreign => {
            let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
            let list = std::slice::from_ref(object);
            json(code, &table::table(kind, version, metadata, list, include, &clock::now()))
        }
        Form::Partial(version) if !foreign => json(code, &table::partial(object, version)),
        Form::Json | Form::Table(..) | Form::Partial(_) => json(code, object),
    }
}

fn yaml(code: StatusCode, value: &Value) -> Response<Body> {
    match serde_norway::to_string(value) {
        Ok(text) => bytes(code, HeaderValue::from_static("application/yaml"), text.into()),
        Err(error) => failure(&ApiError::internal(error)),
    }
}

/// A list in the form asked for.
#[must_use]
pub fn list(kind: &Kind, list: &List, form: Form) -> Response<Body> {
    let mut metadata = json!({"resourceVersion": list.revision.to_string()});
    if let Some(resume) = &list.resume {
        metadata["continue"] = resume.as_str().into();
        if let Some(remaining) = list.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    let objects = || -> Vec<Value> { list.items.iter().map(|entry| entry.object()).collect() };
    match form {
        Form::Json => bytes(StatusCode::OK, JSON, joined(kind, list, &metadata)),
        Form::Yaml => match serde_json::from_slice(&joined(kind, list, &metadata)) {
            Ok(value) => yaml(StatusCode::OK, &value),
            Err(error) => failure(&ApiError::internal(error)),
        },
        Form::Table(version, include) => {
            json(StatusCode::OK, &table::table(kind, version, metadata, &objects(), include, &clock::now()))
        }
        Form::Partial(version) => json(StatusCode::OK, &table::partial_list(metadata, &objects(), version)),
    }
}

/// The list as text, from the encoded objects as they are.
fn joined(kind: &Kind, list: &List, metadata: &Value) -> Bytes {
    let size: usize = list.items.iter().map(|entry| entry.json.len() + 1).sum();
    let mut out = Vec::with_capacity(size + 256);
    let head = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
        kind.kind,
        crate::engine::api_version(kind)
    );
    out.extend_from_slice(head.as_bytes());
    for (index, entry) in list.items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&entry.json);
    }
    out.extend_from_slice(b"]}\n");
    out.into()
}

/// Adds `Warning` headers: kubectl shows each to its user.
pub fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(HeaderName::from_static("warning"), value);
        }
    }
}
